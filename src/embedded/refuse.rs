//! The answer to a request that says an error code in every place that can say one.
//!
//! It serves faults, and everything that is refused as a whole.

use kafka_protocol::messages as m;

/// A request that can be refused as a whole.
pub(crate) trait Refuse {
    /// Its answer.
    type Response;

    /// The answer with `code` in all places.
    fn refuse(&self, code: i16) -> Self::Response;

    /// Whether it wants an answer at all.
    fn wants_answer(&self) -> bool {
        true
    }
}

macro_rules! at_top {
    ($($request:ident $response:ident;)*) => {
        $(impl Refuse for m::$request {
            type Response = m::$response;

            fn refuse(&self, code: i16) -> Self::Response {
                m::$response::default().with_error_code(code)
            }
        })*
    };
}

at_top! {
    JoinGroupRequest JoinGroupResponse;
    SyncGroupRequest SyncGroupResponse;
    HeartbeatRequest HeartbeatResponse;
    LeaveGroupRequest LeaveGroupResponse;
    ListGroupsRequest ListGroupsResponse;
    OffsetDeleteRequest OffsetDeleteResponse;
    SaslHandshakeRequest SaslHandshakeResponse;
    SaslAuthenticateRequest SaslAuthenticateResponse;
    ApiVersionsRequest ApiVersionsResponse;
    AddOffsetsToTxnRequest AddOffsetsToTxnResponse;
    EndTxnRequest EndTxnResponse;
    DescribeClusterRequest DescribeClusterResponse;
    ListTransactionsRequest ListTransactionsResponse;
}

/// `list(request) -> list(response)`, element by element.
macro_rules! each {
    ($($request:ident . $items:ident -> $response:ident . $set:ident, |$item:ident, $code:ident| $answer:expr;)*) => {
        $(impl Refuse for m::$request {
            type Response = m::$response;

            fn refuse(&self, $code: i16) -> Self::Response {
                m::$response::default().$set(self.$items.iter().map(|$item| $answer).collect())
            }
        })*
    };
}

use m::create_partitions_response::CreatePartitionsTopicResult;
use m::create_topics_response::CreatableTopicResult;
use m::delete_groups_response::DeletableGroupResult;
use m::delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult};
use m::describe_configs_response::DescribeConfigsResult;
use m::describe_groups_response::DescribedGroup;
use m::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use m::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use m::offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult};
use m::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use m::txn_offset_commit_response::{TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic};

impl Refuse for m::ProduceRequest {
    type Response = m::ProduceResponse;

    fn refuse(&self, code: i16) -> Self::Response {
        let partition = |p: &m::produce_request::PartitionProduceData| {
            PartitionProduceResponse::default()
                .with_index(p.index)
                .with_error_code(code)
                .with_base_offset(-1)
                .with_log_append_time_ms(-1)
                .with_log_start_offset(-1)
        };
        let topic = |topic: &m::produce_request::TopicProduceData| {
            TopicProduceResponse::default()
                .with_name(topic.name.clone())
                .with_partition_responses(topic.partition_data.iter().map(partition).collect())
        };
        m::ProduceResponse::default().with_responses(self.topic_data.iter().map(topic).collect())
    }

    fn wants_answer(&self) -> bool {
        self.acks != 0
    }
}

each! {
    ListOffsetsRequest.topics -> ListOffsetsResponse.with_topics, |topic, code| {
        let partition = |p: &m::list_offsets_request::ListOffsetsPartition| {
            ListOffsetsPartitionResponse::default().with_partition_index(p.partition_index).with_error_code(code)
        };
        ListOffsetsTopicResponse::default()
            .with_name(topic.name.clone())
            .with_partitions(topic.partitions.iter().map(partition).collect())
    };
    OffsetForLeaderEpochRequest.topics -> OffsetForLeaderEpochResponse.with_topics, |topic, code| {
        let partition = |p: &m::offset_for_leader_epoch_request::OffsetForLeaderPartition| {
            EpochEndOffset::default().with_partition(p.partition).with_error_code(code)
        };
        OffsetForLeaderTopicResult::default()
            .with_topic(topic.topic.clone())
            .with_partitions(topic.partitions.iter().map(partition).collect())
    };
    OffsetCommitRequest.topics -> OffsetCommitResponse.with_topics, |topic, code| {
        let partition = |p: &m::offset_commit_request::OffsetCommitRequestPartition| {
            OffsetCommitResponsePartition::default().with_partition_index(p.partition_index).with_error_code(code)
        };
        OffsetCommitResponseTopic::default()
            .with_name(topic.name.clone())
            .with_partitions(topic.partitions.iter().map(partition).collect())
    };
    TxnOffsetCommitRequest.topics -> TxnOffsetCommitResponse.with_topics, |topic, code| {
        let partition = |p: &m::txn_offset_commit_request::TxnOffsetCommitRequestPartition| {
            TxnOffsetCommitResponsePartition::default()
                .with_partition_index(p.partition_index)
                .with_error_code(code)
        };
        TxnOffsetCommitResponseTopic::default()
            .with_name(topic.name.clone())
            .with_partitions(topic.partitions.iter().map(partition).collect())
    };
    DescribeTransactionsRequest.transactional_ids -> DescribeTransactionsResponse.with_transaction_states, |id, code| {
        m::describe_transactions_response::TransactionState::default()
            .with_transactional_id(id.clone())
            .with_error_code(code)
    };
    DescribeGroupsRequest.groups -> DescribeGroupsResponse.with_groups, |group, code| {
        DescribedGroup::default().with_group_id(group.clone()).with_error_code(code)
    };
    DeleteGroupsRequest.groups_names -> DeleteGroupsResponse.with_results, |group, code| {
        DeletableGroupResult::default().with_group_id(group.clone()).with_error_code(code)
    };
    CreateTopicsRequest.topics -> CreateTopicsResponse.with_topics, |topic, code| {
        CreatableTopicResult::default().with_name(topic.name.clone()).with_error_code(code)
    };
    CreatePartitionsRequest.topics -> CreatePartitionsResponse.with_results, |topic, code| {
        CreatePartitionsTopicResult::default().with_name(topic.name.clone()).with_error_code(code)
    };
    DeleteRecordsRequest.topics -> DeleteRecordsResponse.with_topics, |topic, code| {
        let partition = |p: &m::delete_records_request::DeleteRecordsPartition| {
            DeleteRecordsPartitionResult::default()
                .with_partition_index(p.partition_index)
                .with_low_watermark(-1)
                .with_error_code(code)
        };
        DeleteRecordsTopicResult::default()
            .with_name(topic.name.clone())
            .with_partitions(topic.partitions.iter().map(partition).collect())
    };
    DescribeConfigsRequest.resources -> DescribeConfigsResponse.with_results, |resource, code| {
        DescribeConfigsResult::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone())
            .with_error_code(code)
    };
    AlterConfigsRequest.resources -> AlterConfigsResponse.with_responses, |resource, code| {
        m::alter_configs_response::AlterConfigsResourceResponse::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone())
            .with_error_code(code)
    };
    IncrementalAlterConfigsRequest.resources -> IncrementalAlterConfigsResponse.with_responses, |resource, code| {
        m::incremental_alter_configs_response::AlterConfigsResourceResponse::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone())
            .with_error_code(code)
    };
}

impl Refuse for m::FetchRequest {
    type Response = m::FetchResponse;

    fn refuse(&self, code: i16) -> Self::Response {
        use m::fetch_response::{FetchableTopicResponse, PartitionData};
        let partition = |p: &m::fetch_request::FetchPartition| {
            PartitionData::default()
                .with_partition_index(p.partition)
                .with_error_code(code)
                .with_high_watermark(-1)
                .with_records(Some(bytes::Bytes::new()))
        };
        let topics = self.topics.iter().map(|topic| {
            FetchableTopicResponse::default()
                .with_topic(topic.topic.clone())
                .with_partitions(topic.partitions.iter().map(partition).collect())
        });
        m::FetchResponse::default().with_responses(topics.collect())
    }
}

impl Refuse for m::MetadataRequest {
    type Response = m::MetadataResponse;

    fn refuse(&self, code: i16) -> Self::Response {
        let topics = self.topics.iter().flatten().map(|topic| {
            m::metadata_response::MetadataResponseTopic::default()
                .with_name(topic.name.clone())
                .with_topic_id(topic.topic_id)
                .with_error_code(code)
        });
        m::MetadataResponse::default().with_topics(topics.collect())
    }
}

impl Refuse for m::FindCoordinatorRequest {
    type Response = m::FindCoordinatorResponse;

    fn refuse(&self, code: i16) -> Self::Response {
        let each = self.coordinator_keys.iter().map(|key| {
            m::find_coordinator_response::Coordinator::default()
                .with_key(key.clone())
                .with_node_id(m::BrokerId(-1))
                .with_port(-1)
                .with_error_code(code)
        });
        // Version 4 says an error at each key, earlier ones at the top, and neither has the other's place.
        let answer = m::FindCoordinatorResponse::default();
        match self.coordinator_keys.is_empty() {
            true => answer.with_error_code(code).with_node_id(m::BrokerId(-1)).with_port(-1),
            false => answer.with_coordinators(each.collect()),
        }
    }
}

impl Refuse for m::OffsetFetchRequest {
    type Response = m::OffsetFetchResponse;

    fn refuse(&self, code: i16) -> Self::Response {
        let each = self.groups.iter().map(|group| {
            m::offset_fetch_response::OffsetFetchResponseGroup::default()
                .with_group_id(group.group_id.clone())
                .with_error_code(code)
        });
        match self.groups.is_empty() {
            true => {
                use m::offset_fetch_response::{OffsetFetchResponsePartition, OffsetFetchResponseTopic};
                // Version 1 has no place but the partitions.
                let partition = |index: &i32| {
                    OffsetFetchResponsePartition::default()
                        .with_partition_index(*index)
                        .with_committed_offset(-1)
                        .with_error_code(code)
                };
                let topics = self.topics.iter().flatten().map(|topic| {
                    OffsetFetchResponseTopic::default()
                        .with_name(topic.name.clone())
                        .with_partitions(topic.partition_indexes.iter().map(partition).collect())
                });
                m::OffsetFetchResponse::default().with_error_code(code).with_topics(topics.collect())
            }
            false => m::OffsetFetchResponse::default().with_groups(each.collect()),
        }
    }
}

impl Refuse for m::DeleteTopicsRequest {
    type Response = m::DeleteTopicsResponse;

    fn refuse(&self, code: i16) -> Self::Response {
        let result = |name, id| {
            m::delete_topics_response::DeletableTopicResult::default()
                .with_name(name)
                .with_topic_id(id)
                .with_error_code(code)
        };
        let by_name = self.topic_names.iter().map(|name| result(Some(name.clone()), uuid::Uuid::nil()));
        let each = self.topics.iter().map(|topic| result(topic.name.clone(), topic.topic_id));
        m::DeleteTopicsResponse::default().with_responses(by_name.chain(each).collect())
    }
}

impl Refuse for m::InitProducerIdRequest {
    type Response = m::InitProducerIdResponse;

    fn refuse(&self, code: i16) -> Self::Response {
        m::InitProducerIdResponse::default()
            .with_error_code(code)
            .with_producer_id(m::ProducerId(-1))
            .with_producer_epoch(-1)
    }
}

impl Refuse for m::AddPartitionsToTxnRequest {
    type Response = m::AddPartitionsToTxnResponse;

    fn refuse(&self, code: i16) -> Self::Response {
        use m::add_partitions_to_txn_response::{
            AddPartitionsToTxnPartitionResult, AddPartitionsToTxnTopicResult,
        };
        let partition = |index: &i32| {
            AddPartitionsToTxnPartitionResult::default()
                .with_partition_index(*index)
                .with_partition_error_code(code)
        };
        let topics = self.v3_and_below_topics.iter().map(|topic| {
            AddPartitionsToTxnTopicResult::default()
                .with_name(topic.name.clone())
                .with_results_by_partition(topic.partitions.iter().map(partition).collect())
        });
        m::AddPartitionsToTxnResponse::default().with_results_by_topic_v3_and_below(topics.collect())
    }
}
