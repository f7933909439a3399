//! What a group's coordinator is asked, one attempt a call. Who asks when is for the membership machine.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    GroupId, HeartbeatRequest, InitProducerIdRequest, JoinGroupRequest, LeaveGroupRequest,
    OffsetCommitRequest, OffsetFetchRequest, ProducerId, SyncGroupRequest, TopicName, TransactionalId,
};
use kafka_protocol::protocol::StrBytes;

use super::connection::Api;
use super::error_table::{CallSite, broker_error, is_stale_coordinator};
use super::{Cluster, ConnectionClass, CoordinatorType, RequestOptions};
use crate::{Error, ErrorClass, ErrorKind, Result, TopicPartition};

const MEMBER_ID_REQUIRED: i16 = 79;
/// From which version OffsetFetch can wait for pending transactions (KIP-447).
const REQUIRE_STABLE: i16 = 7;

/// A group, as its members and tools speak to its coordinator.
///
/// Every error of a broker keeps its code ([`Error::code`]); a coordinator that has moved is looked for anew by the next
/// call.
#[derive(Debug, Clone)]
pub(crate) struct GroupClient {
    cluster: Cluster,
    group: String,
}

/// Who speaks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct MemberId {
    /// As the coordinator gave it; empty before the first JoinGroup.
    pub(crate) member_id: String,
    /// `group.instance.id`, of a static member.
    pub(crate) instance_id: Option<String>,
    /// The generation; -1 outside of one, as tools commit.
    pub(crate) generation: i32,
}

/// What a member brings along when it joins.
#[derive(Debug, Clone)]
pub(crate) struct Join {
    /// `session.timeout.ms`.
    pub(crate) session_timeout: Duration,
    /// How long the others are waited for.
    pub(crate) rebalance_timeout: Duration,
    /// `consumer`, so that Kafka's tools can read the group.
    pub(crate) protocol_type: String,
    /// Names and metadata of protocols, the favourite first. Under the type `consumer` the metadata must begin as a
    /// ConsumerProtocolSubscription does: Kafka 4 parses it, and where it cannot, it never answers the JoinGroup.
    pub(crate) protocols: Vec<(String, Bytes)>,
}

/// The answer to a JoinGroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Joined {
    /// A member of this generation.
    Member {
        generation: i32,
        member_id: String,
        /// The leader's member id.
        leader: String,
        /// The protocol that was agreed on.
        protocol: Option<String>,
        /// A static leader came back to an unchanged group and need not assign (KIP-814).
        skip_assignment: bool,
        /// For the leader: `(member id, instance id, metadata)` of everybody.
        members: Vec<(String, Option<String>, Bytes)>,
    },
    /// To be called again under this member id (KIP-394).
    MemberIdRequired(String),
}

/// A committed offset, or one to be committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The next offset to read.
    pub offset: i64,
    /// The leader epoch of the record before it, if known.
    pub leader_epoch: Option<i32>,
    /// Whatever the committer wrote beside it.
    pub metadata: String,
}

impl CommittedOffset {
    /// An offset with nothing beside it.
    pub fn new(offset: i64) -> Self {
        Self { offset, leader_epoch: None, metadata: String::new() }
    }
}

/// A producer's id and epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProducerIdentity {
    pub(crate) producer_id: i64,
    pub(crate) epoch: i16,
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// The partitions that were asked for and are not in the answer, each with the error that says so.
fn left_out<'a>(
    asked: impl Iterator<Item = &'a TopicPartition>,
    answered: impl Iterator<Item = &'a TopicPartition>,
) -> Vec<(TopicPartition, Error)> {
    let answered: HashSet<&TopicPartition> = answered.collect();
    let error = |at: &TopicPartition| {
        Error::new(ErrorKind::Corrupt, "the coordinator's answer leaves the partition out")
            .with_class(ErrorClass::Retriable)
            .at_topic(&*at.topic)
            .at_partition(at.partition)
    };
    asked.filter(|at| !answered.contains(at)).map(|at| (at.clone(), error(at))).collect()
}

fn within(timeout: Duration) -> RequestOptions {
    RequestOptions { timeout: Some(timeout), ..RequestOptions::default() }
}

fn check(code: i16, site: CallSite) -> Result<()> {
    broker_error(code, site).map_or(Ok(()), Err)
}

impl GroupClient {
    pub(crate) fn new(cluster: &Cluster, group: &str) -> Self {
        Self { cluster: cluster.clone(), group: group.to_owned() }
    }

    fn id(&self) -> GroupId {
        GroupId(text(&self.group))
    }

    /// Finds the coordinator, unless it is known.
    pub(crate) async fn find_coordinator(&self) -> Result<i32> {
        self.cluster.coordinator(CoordinatorType::Group, &self.group).await
    }

    /// Asks who the coordinator is, whatever is known.
    pub(crate) async fn find_coordinator_anew(&self) -> Result<i32> {
        self.cluster.forget_coordinator(CoordinatorType::Group, &self.group);
        self.find_coordinator().await
    }

    /// Forgets the coordinator: the next call looks for it.
    pub(crate) fn coordinator_lost(&self, node: i32) {
        self.cluster.invalidate_coordinator(CoordinatorType::Group, &self.group, node);
    }

    async fn ask<A: Api, R>(
        &self,
        class: ConnectionClass,
        request: &A,
        options: RequestOptions,
        read: impl FnOnce(A::Response) -> Result<R>,
    ) -> Result<R> {
        let node = self.find_coordinator().await?;
        let answer = self.cluster.request_with(node, class, request, options).await.and_then(read);
        if answer.as_ref().is_err_and(is_stale_coordinator) {
            self.coordinator_lost(node);
        }
        answer
    }

    /// Joins the group, which waits for the other members. Whatever is not answered within `timeout` costs the connection
    /// and the coordinator: both are looked for anew.
    pub(crate) async fn join(&self, member: &MemberId, join: &Join, timeout: Duration) -> Result<Joined> {
        let protocol = |(name, metadata): &(String, Bytes)| {
            JoinGroupRequestProtocol::default().with_name(text(name)).with_metadata(metadata.clone())
        };
        let request = JoinGroupRequest::default()
            .with_group_id(self.id())
            .with_session_timeout_ms(ms(join.session_timeout))
            .with_rebalance_timeout_ms(ms(join.rebalance_timeout))
            .with_member_id(text(&member.member_id))
            .with_group_instance_id(member.instance_id.as_deref().map(text))
            .with_protocol_type(text(&join.protocol_type))
            .with_protocols(join.protocols.iter().map(protocol).collect());
        self.ask(ConnectionClass::Group, &request, within(timeout), |answer| {
            if answer.error_code == MEMBER_ID_REQUIRED {
                return Ok(Joined::MemberIdRequired(answer.member_id.to_string()));
            }
            check(answer.error_code, CallSite::JoinGroup)?;
            let member = |m: kafka_protocol::messages::join_group_response::JoinGroupResponseMember| {
                (m.member_id.to_string(), m.group_instance_id.map(|id| id.to_string()), m.metadata)
            };
            Ok(Joined::Member {
                generation: answer.generation_id,
                member_id: answer.member_id.to_string(),
                leader: answer.leader.to_string(),
                protocol: answer.protocol_name.map(|name| name.to_string()).filter(|name| !name.is_empty()),
                skip_assignment: answer.skip_assignment,
                members: answer.members.into_iter().map(member).collect(),
            })
        })
        .await
    }

    /// Hands assignments over (the leader) and waits for one's own.
    pub(crate) async fn sync(
        &self,
        member: &MemberId,
        protocol: (&str, &str),
        assignments: &[(String, Bytes)],
        timeout: Duration,
    ) -> Result<Bytes> {
        let assignment = |(id, assignment): &(String, Bytes)| {
            SyncGroupRequestAssignment::default().with_member_id(text(id)).with_assignment(assignment.clone())
        };
        let request = SyncGroupRequest::default()
            .with_group_id(self.id())
            .with_generation_id(member.generation)
            .with_member_id(text(&member.member_id))
            .with_group_instance_id(member.instance_id.as_deref().map(text))
            .with_protocol_type(Some(text(protocol.0)))
            .with_protocol_name(Some(text(protocol.1)))
            .with_assignments(assignments.iter().map(assignment).collect());
        self.ask(ConnectionClass::Group, &request, within(timeout), |answer| {
            check(answer.error_code, CallSite::JoinGroup)?;
            Ok(answer.assignment)
        })
        .await
    }

    /// Says that the member lives.
    pub(crate) async fn heartbeat(&self, member: &MemberId, timeout: Duration) -> Result<()> {
        let request = HeartbeatRequest::default()
            .with_group_id(self.id())
            .with_generation_id(member.generation)
            .with_member_id(text(&member.member_id))
            .with_group_instance_id(member.instance_id.as_deref().map(text));
        self.ask(ConnectionClass::Normal, &request, within(timeout), |answer| {
            check(answer.error_code, CallSite::Heartbeat)
        })
        .await
    }

    /// Leaves the group.
    pub(crate) async fn leave(&self, member: &MemberId, timeout: Duration) -> Result<()> {
        let identity = MemberIdentity::default()
            .with_member_id(text(&member.member_id))
            .with_group_instance_id(member.instance_id.as_deref().map(text));
        let node = self.find_coordinator().await?;
        // Versions 0 to 2 have one member, later ones a list, and the codec refuses the wrong form.
        let version = self.cluster.version::<LeaveGroupRequest>(node, ConnectionClass::Normal).await?;
        let request = LeaveGroupRequest::default().with_group_id(self.id());
        let request = match version {
            ..=2 => request.with_member_id(text(&member.member_id)),
            _ => request.with_members(vec![identity]),
        };
        self.ask(ConnectionClass::Normal, &request, within(timeout), |answer| {
            check(answer.error_code, CallSite::LeaveGroup)?;
            answer.members.iter().try_for_each(|member| check(member.error_code, CallSite::LeaveGroup))
        })
        .await
    }

    /// Commits offsets as this member of this generation. Gives a result for each partition, also for one that the answer
    /// leaves out, in no order; the outer
    /// error means that nothing is known of any.
    pub(crate) async fn commit(
        &self,
        member: &MemberId,
        offsets: &[(TopicPartition, CommittedOffset)],
    ) -> Result<Vec<(TopicPartition, Result<()>)>> {
        let mut topics: BTreeMap<&str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
        for (at, offset) in offsets {
            topics.entry(&at.topic).or_default().push(
                OffsetCommitRequestPartition::default()
                    .with_partition_index(at.partition)
                    .with_committed_offset(offset.offset)
                    .with_committed_leader_epoch(offset.leader_epoch.unwrap_or(-1))
                    .with_committed_metadata(Some(text(&offset.metadata))),
            );
        }
        let topics = topics.into_iter().map(|(name, partitions)| {
            OffsetCommitRequestTopic::default().with_name(TopicName(text(name))).with_partitions(partitions)
        });
        let request = OffsetCommitRequest::default()
            .with_group_id(self.id())
            .with_generation_id_or_member_epoch(member.generation)
            .with_member_id(text(&member.member_id))
            .with_group_instance_id(member.instance_id.as_deref().map(text))
            .with_retention_time_ms(-1)
            .with_topics(topics.collect());
        let node = self.find_coordinator().await?;
        let answer = self.ask(ConnectionClass::Normal, &request, RequestOptions::default(), Ok).await?;
        let mut results = Vec::with_capacity(offsets.len());
        for topic in answer.topics {
            for p in topic.partitions {
                let at = TopicPartition::new(topic.name.as_str(), p.partition_index);
                let result = check(p.error_code, CallSite::OffsetCommit)
                    .map_err(|error| error.at_topic(&*at.topic).at_partition(at.partition));
                if result.as_ref().is_err_and(is_stale_coordinator) {
                    self.coordinator_lost(node);
                }
                results.push((at, result));
            }
        }
        let missing = left_out(offsets.iter().map(|(at, _)| at), results.iter().map(|(at, _)| at));
        results.extend(missing.into_iter().map(|(at, error)| (at, Err(error))));
        Ok(results)
    }

    /// The committed offsets of partitions (`None`: of all that have one); `None` for a partition without one.
    ///
    /// With `require_stable` an offset that an open transaction is about to move is an error, `UNSTABLE_OFFSET_COMMIT`,
    /// retriable (KIP-447); brokers before 2.5 cannot say.
    pub(crate) async fn committed(
        &self,
        partitions: Option<&[TopicPartition]>,
        require_stable: bool,
    ) -> Result<Vec<(TopicPartition, Option<CommittedOffset>)>> {
        let topics = partitions.map(|partitions| {
            let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
            partitions.iter().for_each(|at| topics.entry(&at.topic).or_default().push(at.partition));
            let topic = |(name, partitions): (&str, Vec<i32>)| {
                OffsetFetchRequestTopic::default()
                    .with_name(TopicName(text(name)))
                    .with_partition_indexes(partitions)
            };
            topics.into_iter().map(topic).collect()
        });
        let node = self.find_coordinator().await?;
        if require_stable {
            let version = self.cluster.version::<OffsetFetchRequest>(node, ConnectionClass::Normal).await?;
            if version < REQUIRE_STABLE {
                return Err(Error::new(
                    ErrorKind::Broker,
                    "the broker cannot tell stable offsets from pending ones: exactly-once needs brokers from 2.5",
                ));
            }
        }
        let request = OffsetFetchRequest::default()
            .with_group_id(self.id())
            .with_topics(topics)
            .with_require_stable(require_stable);
        self.ask(ConnectionClass::Normal, &request, RequestOptions::default(), |answer| {
            check(answer.error_code, CallSite::OffsetFetch)?;
            let mut offsets = Vec::new();
            for topic in answer.topics {
                for p in topic.partitions {
                    let at = TopicPartition::new(topic.name.as_str(), p.partition_index);
                    check(p.error_code, CallSite::OffsetFetch)
                        .map_err(|error| error.at_topic(&*at.topic).at_partition(at.partition))?;
                    let committed = (p.committed_offset >= 0).then(|| CommittedOffset {
                        offset: p.committed_offset,
                        leader_epoch: Some(p.committed_leader_epoch).filter(|epoch| *epoch >= 0),
                        metadata: p.metadata.map(|metadata| metadata.to_string()).unwrap_or_default(),
                    });
                    offsets.push((at, committed));
                }
            }
            // Nothing said is not "none committed": that would send the reader back to the beginning.
            let asked = partitions.unwrap_or_default().iter();
            match left_out(asked, offsets.iter().map(|(at, _)| at)).pop() {
                Some((_, error)) => Err(error),
                None => Ok(offsets),
            }
        })
        .await
    }
}

/// Asks for a producer id: of a transactional id (whose former producers are fenced and whose open transaction is
/// aborted), or of nobody in particular.
pub(crate) async fn init_producer_id(
    cluster: &Cluster,
    transactional_id: Option<&str>,
    transaction_timeout: Duration,
    before: Option<ProducerIdentity>,
) -> Result<ProducerIdentity> {
    let before = before.unwrap_or(ProducerIdentity { producer_id: -1, epoch: -1 });
    let request = InitProducerIdRequest::default()
        .with_transactional_id(transactional_id.map(|id| TransactionalId(text(id))))
        .with_transaction_timeout_ms(ms(transaction_timeout))
        .with_producer_id(ProducerId(before.producer_id))
        .with_producer_epoch(before.epoch);
    let read = |answer: kafka_protocol::messages::InitProducerIdResponse| {
        check(answer.error_code, CallSite::InitProducerId)?;
        Ok(ProducerIdentity { producer_id: answer.producer_id.0, epoch: answer.producer_epoch })
    };
    let Some(id) = transactional_id else {
        return cluster.request_any(ConnectionClass::Normal, &request).await.and_then(read);
    };
    if id.is_empty() {
        return Err(
            Error::new(ErrorKind::Config, "transactional.id must not be empty").with_class(ErrorClass::Fatal)
        );
    }
    let node = cluster.coordinator(CoordinatorType::Transaction, id).await?;
    let answer = cluster.request(node, ConnectionClass::Normal, &request).await.and_then(read);
    if answer.as_ref().is_err_and(is_stale_coordinator) {
        cluster.invalidate_coordinator(CoordinatorType::Transaction, id, node);
    }
    answer
}

fn ms(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}
