//! Which requests are understood, in which versions, and who answers them: one table.
//!
//! What is not in it is not announced by ApiVersions, and a connection that says it all the same is closed, as Kafka does
//! (`RequestHeader.parse`). Versions end where they would begin to name topics by id (Produce 13, Fetch 13,
//! OffsetCommit and OffsetFetch 10), or to speak of the groups of KIP-848 and KIP-932.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages as m;
use kafka_protocol::protocol::{Decodable, Encodable};

use super::broker::{Broker, Caller};
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
                    let request: m::$request = decode(stringify!($name), caller.version, body)?;
                    let response: Option<<m::$request as Refuse>::Response> = match refusal {
                        Some(code) => Some(request.refuse(code)),
                        None => $handler(broker, caller, request).await.into(),
                    };
                    response.map(|response| encode(stringify!($name), caller.version, &response)).transpose()
                })*
            }
        }
    };
}

apis! {
    Produce ProduceRequest 3..=11 produce::produce;
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
    SaslHandshake SaslHandshakeRequest 0..=1 sasl::sasl_handshake;
    ApiVersions ApiVersionsRequest 0..=4 cluster::api_versions;
    CreateTopics CreateTopicsRequest 2..=7 topics::create_topics;
    DeleteTopics DeleteTopicsRequest 1..=6 topics::delete_topics;
    DeleteRecords DeleteRecordsRequest 0..=2 offsets::delete_records;
    InitProducerId InitProducerIdRequest 0..=5 txn::init_producer_id;
    OffsetForLeaderEpoch OffsetForLeaderEpochRequest 2..=4 offsets::offset_for_leader_epoch;
    AddPartitionsToTxn AddPartitionsToTxnRequest 0..=3 txn::add_partitions_to_txn;
    AddOffsetsToTxn AddOffsetsToTxnRequest 0..=4 txn::add_offsets_to_txn;
    EndTxn EndTxnRequest 0..=4 txn::end_txn;
    TxnOffsetCommit TxnOffsetCommitRequest 0..=4 txn::txn_offset_commit;
    DescribeConfigs DescribeConfigsRequest 1..=4 configs::describe_configs;
    AlterConfigs AlterConfigsRequest 0..=2 configs::alter_configs;
    SaslAuthenticate SaslAuthenticateRequest 0..=2 sasl::sasl_authenticate;
    CreatePartitions CreatePartitionsRequest 0..=3 topics::create_partitions;
    DeleteGroups DeleteGroupsRequest 0..=2 group::delete_groups;
    IncrementalAlterConfigs IncrementalAlterConfigsRequest 0..=1 configs::incremental_alter_configs;
    OffsetDelete OffsetDeleteRequest 0..=0 group::offset_delete;
    DescribeCluster DescribeClusterRequest 0..=1 cluster::describe_cluster;
}

impl Api {
    /// The request with this key, if it is understood.
    pub(crate) fn of(key: i16) -> Option<(Self, i16, i16)> {
        Self::ALL.iter().copied().find(|(api, ..)| *api as i16 == key)
    }
}

fn decode<R: Decodable>(name: &str, version: i16, mut body: Bytes) -> Result<R> {
    R::decode(&mut body, version).map_err(|e| {
        Error::new(ErrorKind::Corrupt, format!("cannot read a {name} request of version {version}"))
            .because(e.to_string())
    })
}

pub(crate) fn encode<A: Encodable>(name: &str, version: i16, answer: &A) -> Result<Bytes> {
    let mut body = BytesMut::with_capacity(answer.compute_size(version).unwrap_or(0));
    answer.encode(&mut body, version).map_err(|e| {
        Error::new(ErrorKind::Broker, format!("an answer to {name} cannot be said in version {version}"))
            .because(e.to_string())
    })?;
    Ok(body.freeze())
}
