//! Which requests are understood, in which versions, and who answers them: one table.
//!
//! What is not in it is not announced by ApiVersions, and a connection that says it all the same is closed, as Kafka does
//! (`RequestHeader.parse`). Versions end where they would begin to name topics by id (Produce 13, Fetch 13,
//! OffsetCommit and OffsetFetch 10), or to speak of the groups of KIP-848 and KIP-932. All that is missing or otherwise
//! than in Kafka is listed in docs/DESIGN.md, *embedded*.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages as m;
use kafka_protocol::protocol::Encodable;

use super::broker::{Broker, Caller};
use super::decode;
use super::handle::{cluster, configs, fetch, group, offsets, produce, sasl, topics, txn};
use super::refuse::Refuse;
use crate::{Error, ErrorKind, Result};

macro_rules! apis {
    ($($name:ident $request:ident $min:literal..=$max:literal $handler:path;)*) => {
        /// The requests that the embedded broker understands.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Api {
            $(
                #[doc = concat!("The request ", stringify!($name), ".")]
                $name = m::ApiKey::$name as isize,
            )*
        }

        impl Api {
            /// Each with its lowest and highest version.
            pub(crate) const ALL: &[(Self, i16, i16)] = &[$((Self::$name, $min, $max)),*];

            /// The codec's name of it.
            pub(crate) fn key(self) -> m::ApiKey {
                match self {
                    $(Self::$name => m::ApiKey::$name,)*
                }
            }
        }

        /// Has a request answered: the body of the answer, or `None` if it has none. With `refusal` nothing is done,
        /// and that is the answer.
        pub(crate) async fn dispatch(
            broker: &Broker,
            caller: &Caller,
            api: Api,
            body: Bytes,
            refusal: Option<i16>,
        ) -> Result<Option<Bytes>> {
            match api {
                $(Api::$name => {
                    let request: m::$request = decode::request(stringify!($name), caller.version, body)?;
                    let response: Option<<m::$request as Refuse>::Response> = match refusal {
                        Some(code) if request.wants_answer() => Some(request.refuse(code)),
                        // As in Kafka, the only way to say that something is wrong.
                        Some(_) => {
                            caller.session().hang_up = true;
                            None
                        }
                        None => $handler(broker, caller, request).await.into(),
                    };
                    response.map(|response| encode(stringify!($name), caller.version, &response)).transpose()
                })*
            }
        }
    };
}

apis! {
    Produce ProduceRequest 3..=12 produce::produce;
    Fetch FetchRequest 4..=12 fetch::fetch;
    ListOffsets ListOffsetsRequest 1..=8 offsets::list_offsets;
    Metadata MetadataRequest 0..=13 cluster::metadata;
    OffsetCommit OffsetCommitRequest 2..=8 group::offset_commit;
    OffsetFetch OffsetFetchRequest 1..=8 group::offset_fetch;
    FindCoordinator FindCoordinatorRequest 0..=5 cluster::find_coordinator;
    JoinGroup JoinGroupRequest 0..=9 group::join_group;
    Heartbeat HeartbeatRequest 0..=4 group::heartbeat;
    LeaveGroup LeaveGroupRequest 0..=5 group::leave_group;
    SyncGroup SyncGroupRequest 0..=5 group::sync_group;
    DescribeGroups DescribeGroupsRequest 0..=5 group::describe_groups;
    ListGroups ListGroupsRequest 0..=4 group::list_groups;
    SaslHandshake SaslHandshakeRequest 1..=1 sasl::sasl_handshake;
    ApiVersions ApiVersionsRequest 0..=4 cluster::api_versions;
    CreateTopics CreateTopicsRequest 2..=7 topics::create_topics;
    DeleteTopics DeleteTopicsRequest 1..=6 topics::delete_topics;
    DeleteRecords DeleteRecordsRequest 0..=2 offsets::delete_records;
    InitProducerId InitProducerIdRequest 0..=5 txn::init_producer_id;
    OffsetForLeaderEpoch OffsetForLeaderEpochRequest 2..=4 offsets::offset_for_leader_epoch;
    AddPartitionsToTxn AddPartitionsToTxnRequest 0..=3 txn::add_partitions_to_txn;
    AddOffsetsToTxn AddOffsetsToTxnRequest 0..=4 txn::add_offsets_to_txn;
    EndTxn EndTxnRequest 0..=5 txn::end_txn;
    TxnOffsetCommit TxnOffsetCommitRequest 0..=5 txn::txn_offset_commit;
    DescribeConfigs DescribeConfigsRequest 1..=4 configs::describe_configs;
    AlterConfigs AlterConfigsRequest 0..=2 configs::alter_configs;
    SaslAuthenticate SaslAuthenticateRequest 0..=2 sasl::sasl_authenticate;
    CreatePartitions CreatePartitionsRequest 0..=3 topics::create_partitions;
    DeleteGroups DeleteGroupsRequest 0..=2 group::delete_groups;
    IncrementalAlterConfigs IncrementalAlterConfigsRequest 0..=1 configs::incremental_alter_configs;
    OffsetDelete OffsetDeleteRequest 0..=0 group::offset_delete;
    DescribeCluster DescribeClusterRequest 0..=1 cluster::describe_cluster;
    DescribeTransactions DescribeTransactionsRequest 0..=0 txn::describe_transactions;
    ListTransactions ListTransactionsRequest 0..=1 txn::list_transactions;
}

impl Api {
    /// The request with this key, if it is understood.
    pub(crate) fn of(key: i16) -> Option<(Self, i16, i16)> {
        Self::ALL.iter().copied().find(|(api, ..)| *api as i16 == key)
    }
}

pub(crate) fn encode<A: Encodable>(name: &str, version: i16, answer: &A) -> Result<Bytes> {
    let mut body = BytesMut::with_capacity(answer.compute_size(version).unwrap_or(0));
    answer.encode(&mut body, version).map_err(|e| {
        Error::new(ErrorKind::Broker, format!("an answer to {name} cannot be said in version {version}"))
            .because(e.to_string())
    })?;
    Ok(body.freeze())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use kafka_protocol::messages as m;
    use kafka_protocol::protocol::{Encodable, StrBytes};

    use super::{Api, dispatch, encode};
    use crate::embedded::broker::{Broker, Caller};
    use crate::embedded::clock::BrokerClock;
    use crate::embedded::config::{BrokerConfig, TopicConfig};
    use crate::embedded::state::State;

    fn broker() -> Broker {
        let (clock, config) = (BrokerClock::new(true), BrokerConfig::default());
        let mut state = State::new(&[1, 2], &config, clock.now());
        state.create_topic("there", 1, 1, TopicConfig::default());
        Broker::new(state, clock, config, Vec::new())
    }

    fn caller(version: i16) -> Caller {
        Caller {
            node: 1,
            version,
            client_id: String::new(),
            host: "/127.0.0.1".into(),
            session: Arc::default(),
        }
    }

    fn topic(name: &str) -> m::TopicName {
        m::TopicName(StrBytes::from_string(name.to_owned()))
    }

    fn records() -> Bytes {
        use crate::client::batch::{BatchBuilder, ProducerStamp};
        let mut builder = BatchBuilder::new(crate::client::compression::Compression::None);
        builder.append(0, None, Some(b"v"), &crate::Headers::new());
        builder.close().unwrap().seal(ProducerStamp::NONE)
    }

    /// A request about a topic that is there and one that is not.
    fn about_topics(api: Api, version: i16) -> Option<Bytes> {
        fn said<R: Encodable>(version: i16, request: &R) -> Option<Bytes> {
            Some(encode("a request", version, request).unwrap())
        }
        let both = [topic("there"), topic("nowhere")].into_iter();
        match api {
            Api::Produce => {
                let data = m::produce_request::PartitionProduceData::default().with_records(Some(records()));
                let of = |name| {
                    m::produce_request::TopicProduceData::default()
                        .with_name(name)
                        .with_partition_data(vec![data.clone()])
                };
                said(
                    version,
                    &m::ProduceRequest::default().with_acks(1).with_topic_data(both.map(of).collect()),
                )
            }
            Api::Fetch => {
                let from = |offset| {
                    m::fetch_request::FetchPartition::default()
                        .with_fetch_offset(offset)
                        .with_partition_max_bytes(1000)
                };
                let of = |name| {
                    m::fetch_request::FetchTopic::default()
                        .with_topic(name)
                        .with_partitions(vec![from(0), from(99)])
                };
                let request = m::FetchRequest::default().with_max_bytes(1000).with_isolation_level(1);
                said(version, &request.with_topics(both.map(of).collect()))
            }
            Api::ListOffsets => {
                let at = |time| m::list_offsets_request::ListOffsetsPartition::default().with_timestamp(time);
                let of = |name| {
                    m::list_offsets_request::ListOffsetsTopic::default()
                        .with_name(name)
                        .with_partitions(vec![at(-1), at(-2), at(-3), at(0), at(-9)])
                };
                said(version, &m::ListOffsetsRequest::default().with_topics(both.map(of).collect()))
            }
            Api::OffsetForLeaderEpoch => {
                let asked = m::offset_for_leader_epoch_request::OffsetForLeaderPartition::default();
                let of = |name| {
                    m::offset_for_leader_epoch_request::OffsetForLeaderTopic::default()
                        .with_topic(name)
                        .with_partitions(vec![asked.clone()])
                };
                said(version, &m::OffsetForLeaderEpochRequest::default().with_topics(both.map(of).collect()))
            }
            Api::Metadata => {
                let of = |name| m::metadata_request::MetadataRequestTopic::default().with_name(Some(name));
                said(version, &m::MetadataRequest::default().with_topics(Some(both.map(of).collect())))
            }
            Api::CreateTopics => {
                let of = |name| {
                    m::create_topics_request::CreatableTopic::default()
                        .with_name(name)
                        .with_num_partitions(1)
                        .with_replication_factor(1)
                };
                said(version, &m::CreateTopicsRequest::default().with_topics(both.map(of).collect()))
            }
            Api::DeleteTopics if version < 6 => {
                said(version, &m::DeleteTopicsRequest::default().with_topic_names(both.collect()))
            }
            Api::DeleteTopics => {
                let of = |name| m::delete_topics_request::DeleteTopicState::default().with_name(Some(name));
                said(version, &m::DeleteTopicsRequest::default().with_topics(both.map(of).collect()))
            }
            Api::DescribeConfigs => {
                let of = |name: m::TopicName| {
                    m::describe_configs_request::DescribeConfigsResource::default()
                        .with_resource_type(2)
                        .with_resource_name(name.0)
                        .with_configuration_keys(None)
                };
                said(version, &m::DescribeConfigsRequest::default().with_resources(both.map(of).collect()))
            }
            Api::FindCoordinator if version >= 4 => said(
                version,
                &m::FindCoordinatorRequest::default().with_coordinator_keys(vec!["a".into(), "b".into()]),
            ),
            _ => None,
        }
    }

    /// Fields that a version does not have must not be set: the client would see nothing but a lost connection.
    #[tokio::test]
    async fn every_request_is_answered_in_every_version() {
        for (api, min, max) in Api::ALL.iter().copied() {
            for version in min..=max {
                let Some(body) = about_topics(api, version) else { continue };
                let broker = broker();
                for refusal in [Some(3), None, None] {
                    let answer = dispatch(&broker, &caller(version), api, body.clone(), refusal).await;
                    assert!(answer.is_ok_and(|answer| answer.is_some()), "{api:?} {version} {refusal:?}");
                }
            }
        }
    }

    #[test]
    fn the_codec_has_every_version() {
        for (api, min, max) in Api::ALL.iter().copied() {
            let range = api.key().valid_versions();
            assert!(range.min <= min && max <= range.max, "{api:?}");
        }
    }

    /// Design: whoever speaks to brokers from 2.5 on must find a version here.
    #[test]
    fn our_own_client_is_served() {
        for (key, oldest) in crate::client::connection::OLDEST {
            let (api, min, _) = Api::of(*key).expect("it is understood");
            assert!(min <= *oldest, "{api:?}");
        }
    }
}
