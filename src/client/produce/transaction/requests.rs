//! What a transactional producer asks its coordinator, and its group's, as requests.

use std::collections::BTreeMap;

use kafka_protocol::error::ResponseError as E;
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, EndTxnRequest, GroupId, ProducerId, TopicName,
    TransactionalId, TxnOffsetCommitRequest,
};
use kafka_protocol::protocol::StrBytes;

use super::{GroupMetadata, TxnAsk, TxnCall, TxnSaid};
use crate::client::connection::Api;
use crate::client::error_table::{CallSite, broker_error, is_stale_coordinator};
use crate::client::group::{CommittedOffset, init_producer_id};
use crate::client::produce::partition::Identity;
use crate::client::{Cluster, ConnectionClass, CoordinatorType, RequestOptions};
use crate::error::{Error, ErrorClass, ErrorKind, Result};
use crate::record::TopicPartition;

/// The feature whose level says which transactions the cluster has (KIP-890): 2 from Kafka 4.0 on, unless it was
/// upgraded without.
const FEATURE: &str = "transaction.version";
/// The last versions of transaction version 1. In later ones brokers add partitions and groups themselves, and EndTxn
/// begins the next epoch.
const END_TXN_V1: i16 = 4;
const TXN_OFFSET_COMMIT_V1: i16 = 4;
/// From which version TxnOffsetCommit names the member (KIP-447).
const WITH_MEMBER: i16 = 3;

/// Whether the cluster has transactions of version 2, as the coordinator tells it.
pub(crate) async fn has_version_2(cluster: &Cluster, node: i32) -> Result<bool> {
    Ok(cluster.feature_at(node, FEATURE).await? >= 2)
}

/// Asks once. An error says by its class what the producer has to do; a coordinator that has moved is forgotten.
pub(crate) async fn call(cluster: &Cluster, call: TxnCall) -> Result<TxnSaid> {
    let TxnCall { of, identity, v2, ask } = call;
    let id = of.id.as_str();
    if let TxnAsk::Init = ask {
        let identity = init_producer_id(cluster, Some(id), of.timeout, identity).await?;
        let node = cluster.coordinator(CoordinatorType::Transaction, id).await?;
        return Ok(TxnSaid { identity: Some(identity), v2: has_version_2(cluster, node).await? });
    }
    let identity = identity.ok_or_else(|| {
        Error::new(ErrorKind::IllegalState, "a producer without an identity cannot have a transaction")
    })?;
    let coordinated = (CoordinatorType::Transaction, id);
    match ask {
        TxnAsk::Init => Ok(TxnSaid::default()),
        TxnAsk::AddPartitions(partitions) => {
            let request = add_partitions(id, identity, &partitions);
            let any = RequestOptions::default();
            ask_coordinator(cluster, coordinated, &request, any, |_, answer| {
                let results = answer.results_by_topic_v3_and_below.iter();
                let codes = results
                    .flat_map(|topic| {
                        topic
                            .results_by_partition
                            .iter()
                            .map(|p| (topic.name.as_str(), p.partition_index, p.partition_error_code))
                    })
                    .collect::<Vec<_>>();
                worst(&partitions, &codes, CallSite::Transaction)
            })
            .await?;
            Ok(TxnSaid::default())
        }
        TxnAsk::AddOffsets(group) => {
            let request = AddOffsetsToTxnRequest::default()
                .with_transactional_id(TransactionalId(text(id)))
                .with_producer_id(ProducerId(identity.producer_id))
                .with_producer_epoch(identity.epoch)
                .with_group_id(GroupId(text(&group)));
            let any = RequestOptions::default();
            ask_coordinator(cluster, coordinated, &request, any, |_, answer| {
                check(answer.error_code, CallSite::Transaction)
            })
            .await?;
            Ok(TxnSaid::default())
        }
        TxnAsk::CommitOffsets(group, offsets) => {
            let coordinated = (CoordinatorType::Group, group.group_id.as_str());
            check_members_count(cluster, &group).await?;
            let request = commit_offsets(id, identity, &group, &offsets);
            let places: Vec<_> = offsets.iter().map(|(at, _)| at.clone()).collect();
            ask_coordinator(cluster, coordinated, &request, up_to(v2, TXN_OFFSET_COMMIT_V1), |_, answer| {
                let codes = answer.topics.iter().flat_map(|topic| {
                    topic.partitions.iter().map(|p| (topic.name.as_str(), p.partition_index, p.error_code))
                });
                worst(&places, &codes.collect::<Vec<_>>(), CallSite::TxnOffsetCommit)
            })
            .await?;
            Ok(TxnSaid::default())
        }
        TxnAsk::End { commit } => {
            let request = EndTxnRequest::default()
                .with_transactional_id(TransactionalId(text(id)))
                .with_producer_id(ProducerId(identity.producer_id))
                .with_producer_epoch(identity.epoch)
                .with_committed(commit);
            let (node, identity) =
                ask_coordinator(cluster, coordinated, &request, up_to(v2, END_TXN_V1), |node, answer| {
                    check(answer.error_code, CallSite::EndTxn)?;
                    let next = Identity { producer_id: answer.producer_id.0, epoch: answer.producer_epoch };
                    Ok((node, (answer.producer_id.0 >= 0).then_some(next)))
                })
                .await?;
            // ORDER: what is done is said. Whether the next transaction is of another version can be found out by it.
            Ok(TxnSaid { identity, v2: has_version_2(cluster, node).await.unwrap_or(v2) })
        }
    }
}

/// In version 1 as every broker knows it, in version 2 with what that adds.
fn up_to(v2: bool, last_of_v1: i16) -> RequestOptions {
    RequestOptions { max_version: (!v2).then_some(last_of_v1), ..RequestOptions::default() }
}

async fn ask_coordinator<A: Api, R>(
    cluster: &Cluster,
    (of, key): (CoordinatorType, &str),
    request: &A,
    options: RequestOptions,
    read: impl FnOnce(i32, A::Response) -> Result<R>,
) -> Result<R> {
    let node = cluster.coordinator(of, key).await?;
    let answer = cluster.request_with(node, ConnectionClass::Normal, request, options).await;
    let answer = answer.and_then(|answer| read(node, answer));
    if answer.as_ref().is_err_and(is_stale_coordinator) {
        cluster.invalidate_coordinator(of, key, node);
    }
    answer
}

/// Before 2.5 a group's coordinator takes offsets of any member, also of one that is long gone.
async fn check_members_count(cluster: &Cluster, group: &GroupMetadata) -> Result<()> {
    if group.member_id.is_empty() {
        return Ok(());
    }
    let node = cluster.coordinator(CoordinatorType::Group, &group.group_id).await?;
    let version = cluster.version::<TxnOffsetCommitRequest>(node, ConnectionClass::Normal).await?;
    if version < WITH_MEMBER {
        return Err(Error::new(
            ErrorKind::Broker,
            "the broker cannot tell whether the member of the offsets is the current one: exactly-once needs brokers \
             from 2.5",
        ));
    }
    Ok(())
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn check(code: i16, site: CallSite) -> Result<()> {
    broker_error(code, site).map_or(Ok(()), Err)
}

fn add_partitions(id: &str, identity: Identity, partitions: &[TopicPartition]) -> AddPartitionsToTxnRequest {
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    partitions.iter().for_each(|at| topics.entry(&at.topic).or_default().push(at.partition));
    let topic = |(name, partitions): (&str, Vec<i32>)| {
        AddPartitionsToTxnTopic::default().with_name(TopicName(text(name))).with_partitions(partitions)
    };
    AddPartitionsToTxnRequest::default()
        .with_v3_and_below_transactional_id(TransactionalId(text(id)))
        .with_v3_and_below_producer_id(ProducerId(identity.producer_id))
        .with_v3_and_below_producer_epoch(identity.epoch)
        .with_v3_and_below_topics(topics.into_iter().map(topic).collect())
}

fn commit_offsets(
    id: &str,
    identity: Identity,
    group: &GroupMetadata,
    offsets: &[(TopicPartition, CommittedOffset)],
) -> TxnOffsetCommitRequest {
    let mut topics: BTreeMap<&str, Vec<TxnOffsetCommitRequestPartition>> = BTreeMap::new();
    for (at, offset) in offsets {
        topics.entry(&at.topic).or_default().push(
            TxnOffsetCommitRequestPartition::default()
                .with_partition_index(at.partition)
                .with_committed_offset(offset.offset)
                .with_committed_leader_epoch(offset.leader_epoch.unwrap_or(-1))
                .with_committed_metadata(Some(text(&offset.metadata))),
        );
    }
    let topic = |(name, partitions): (&str, Vec<_>)| {
        TxnOffsetCommitRequestTopic::default().with_name(TopicName(text(name))).with_partitions(partitions)
    };
    let request = TxnOffsetCommitRequest::default()
        .with_transactional_id(TransactionalId(text(id)))
        .with_group_id(GroupId(text(&group.group_id)))
        .with_producer_id(ProducerId(identity.producer_id))
        .with_producer_epoch(identity.epoch)
        .with_topics(topics.into_iter().map(topic).collect());
    if group.member_id.is_empty() {
        return request;
    }
    request
        .with_generation_id(group.generation)
        .with_member_id(text(&group.member_id))
        .with_group_instance_id(group.instance_id.as_deref().map(text))
}

/// The error of an answer that has a code for each partition: the one that weighs most, because it decides for all.
fn worst(asked: &[TopicPartition], codes: &[(&str, i32, i16)], site: CallSite) -> Result<()> {
    let mut worst: Option<Error> = None;
    for at in asked {
        let said =
            codes.iter().find(|(topic, partition, _)| **topic == *at.topic && *partition == at.partition);
        let error = match said {
            Some((.., code)) => broker_error(*code, site),
            None => Some(
                Error::new(ErrorKind::Corrupt, "the coordinator's answer leaves the partition out")
                    .with_class(ErrorClass::Retriable),
            ),
        };
        let Some(error) = error else { continue };
        if worst.as_ref().is_none_or(|worst| weight(&error) > weight(worst)) {
            worst = Some(error.at_topic(&*at.topic).at_partition(at.partition));
        }
    }
    worst.map_or(Ok(()), Err)
}

fn weight(error: &Error) -> u8 {
    // Said of those that are not to blame.
    if error.code() == Some(E::OperationNotAttempted.code()) {
        return 0;
    }
    match error.class() {
        ErrorClass::Retriable => 1,
        ErrorClass::AbortTransaction => 2,
        ErrorClass::Fatal | ErrorClass::CorruptTask => 3,
        ErrorClass::FencedLease => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(codes: &[(&str, i32, i16)]) -> Result<()> {
        let asked = [TopicPartition::new("t", 0), TopicPartition::new("t", 1)];
        worst(&asked, codes, CallSite::Transaction)
    }

    #[test]
    fn the_partition_that_is_to_blame_speaks_for_all() {
        assert!(of(&[("t", 0, 0), ("t", 1, 0)]).is_ok());
        let left_out = of(&[("t", 0, 0), ("u", 1, 0)]).unwrap_err();
        assert_eq!((left_out.kind(), left_out.class()), (ErrorKind::Corrupt, ErrorClass::Retriable));
        for codes in [[55, 29], [29, 55], [51, 29], [29, 120]] {
            let error = of(&[("t", 0, codes[0]), ("t", 1, codes[1])]).unwrap_err();
            assert_eq!(error.code(), Some(E::TopicAuthorizationFailed.code()), "{codes:?}");
        }
        let fenced = of(&[("t", 0, 29), ("t", 1, 90)]).unwrap_err();
        assert_eq!((fenced.class(), fenced.partition()), (ErrorClass::FencedLease, Some(1)));
        // Some partitions of a group were not known for a moment: all is asked again.
        assert!(of(&[("t", 0, 0), ("t", 1, 51)]).unwrap_err().is_retriable());
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_answered_is_an_answer(
            codes in proptest::collection::vec(("[tu]", -1..3i32, proptest::prelude::any::<i16>()), 0..6),
        ) {
            let codes: Vec<_> = codes.iter().map(|(topic, partition, code)| (topic.as_str(), *partition, *code)).collect();
            let both = [0, 1].map(|p| codes.iter().find(|c| c.0 == "t" && c.1 == p).map(|c| c.2));
            proptest::prop_assert_eq!(of(&codes).is_ok(), both == [Some(0), Some(0)]);
        }
    }
}
