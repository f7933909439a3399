//! Decoding of requests that may be hostile: no length reserves more than the frame could hold
//! (`client/connection/guard.rs`).

use bytes::Bytes;
use kafka_protocol::messages as m;
use kafka_protocol::protocol::{Decodable, HeaderVersion};

use crate::client::connection::read;
use crate::{BoxError, Error, ErrorKind, Result};

/// Reads the body of a request.
pub(crate) fn request<R: Decodable + HeaderVersion>(name: &str, version: i16, mut body: Bytes) -> Result<R> {
    read(&mut body, version, R::header_version(version) >= 2).map_err(|cause: BoxError| {
        Error::new(ErrorKind::Corrupt, format!("cannot read a {name} request of version {version}"))
            .because(cause)
    })
}

/// Reads the header of a request.
pub(crate) fn header(frame: &mut Bytes, version: i16) -> Result<m::RequestHeader> {
    // No length of it has four bytes.
    read(frame, version, true).map_err(|cause| {
        Error::new(ErrorKind::Corrupt, "the header of a request is malformed").because(cause)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::api::Api;
    use bytes::{BufMut, BytesMut};
    use kafka_protocol::protocol::{Encodable, Request};

    /// Sets the numbers of a request in every version, as far as the version has them, and reads it.
    fn check<R>(sizes: &[&dyn Fn(R) -> R])
    where
        R: Request + Decodable + HeaderVersion + Encodable + Default + Clone + PartialEq + std::fmt::Debug,
    {
        let (api, min, max) = Api::of(R::KEY).unwrap();
        let mut used = vec![false; sizes.len()];
        for version in min..=max {
            let mut wanted = R::default();
            for (at, size) in sizes.iter().enumerate() {
                let larger = size(wanted.clone());
                if larger.encode(&mut BytesMut::new(), version).is_ok() {
                    (wanted, used[at]) = (larger, true);
                }
            }
            let mut body = BytesMut::new();
            wanted.encode(&mut body, version).unwrap();
            let body = body.freeze();
            let plain = R::decode(&mut body.clone(), version).unwrap();
            let read: R = request("large", version, body.clone())
                .unwrap_or_else(|e| panic!("{api:?} {version}: {e:?}"));
            assert_eq!(read, plain, "{api:?} {version}");
            for cut in 0..body.len() {
                assert!(
                    request::<R>("large", version, body.slice(..cut)).is_err(),
                    "{api:?} {version} cut at {cut}"
                );
            }
        }
        assert!(used.iter().all(|used| *used), "{api:?}: a number that no version has: {used:?}");
    }

    #[test]
    fn every_number_of_a_request_may_be_as_large_as_it_gets() {
        use m::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
        use m::create_partitions_request::{CreatePartitionsAssignment, CreatePartitionsTopic};
        use m::create_topics_request::{CreatableReplicaAssignment, CreatableTopic};
        use m::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
        use m::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
        use m::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
        use m::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
        use m::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
        use m::offset_fetch_request::{
            OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
        };
        use m::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
        use m::produce_request::{PartitionProduceData, TopicProduceData};
        use m::txn_offset_commit_request::{TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic};
        const MAX: i32 = i32::MAX;
        let broker = m::BrokerId(MAX);
        let producer = m::ProducerId(i64::MAX);

        let data =
            PartitionProduceData::default().with_index(MAX).with_records(Some(Bytes::from_static(b"x")));
        let topic = TopicProduceData::default().with_partition_data(vec![data; 2]);
        check::<m::ProduceRequest>(&[&|r| r.with_acks(i16::MAX).with_timeout_ms(MAX), &|r| {
            r.with_topic_data(vec![topic.clone(); 2])
        }]);
        let old = FetchPartition::default().with_partition(MAX).with_partition_max_bytes(MAX);
        let old = old.with_fetch_offset(i64::MAX);
        let with_start = old.clone().with_log_start_offset(i64::MAX);
        let with_epoch = with_start.clone().with_current_leader_epoch(MAX);
        let with_last = with_epoch.clone().with_last_fetched_epoch(MAX);
        let of = |partition: &FetchPartition| {
            vec![FetchTopic::default().with_partitions(vec![partition.clone(); 2])]
        };
        let gone = ForgottenTopic::default().with_partitions(vec![MAX; 3]);
        check::<m::FetchRequest>(&[
            &|r| r.with_max_wait_ms(MAX).with_min_bytes(MAX).with_max_bytes(MAX).with_replica_id(broker),
            &|r| r.with_topics(of(&old)),
            &|r| r.with_topics(of(&with_start)),
            &|r| r.with_topics(of(&with_epoch)),
            &|r| r.with_topics(of(&with_last)),
            &|r| r.with_session_id(MAX).with_session_epoch(MAX),
            &|r| r.with_forgotten_topics_data(vec![gone.clone()]),
        ]);
        let old = ListOffsetsPartition::default().with_partition_index(MAX).with_timestamp(i64::MAX);
        let with_epoch = old.clone().with_current_leader_epoch(MAX);
        let of = |partition: &ListOffsetsPartition| {
            vec![ListOffsetsTopic::default().with_partitions(vec![partition.clone(); 2])]
        };
        check::<m::ListOffsetsRequest>(&[&|r| r.with_replica_id(broker).with_topics(of(&old)), &|r| {
            r.with_topics(of(&with_epoch))
        }]);
        let old =
            OffsetCommitRequestPartition::default().with_partition_index(MAX).with_committed_offset(i64::MAX);
        let with_epoch = old.clone().with_committed_leader_epoch(MAX);
        let of = |partition: &OffsetCommitRequestPartition| {
            vec![OffsetCommitRequestTopic::default().with_partitions(vec![partition.clone(); 2])]
        };
        check::<m::OffsetCommitRequest>(&[
            &|r| r.with_generation_id_or_member_epoch(MAX).with_topics(of(&old)),
            &|r| r.with_retention_time_ms(i64::MAX),
            &|r| r.with_topics(of(&with_epoch)),
        ]);
        let topic = OffsetFetchRequestTopic::default().with_partition_indexes(vec![MAX; 2]);
        let topics = OffsetFetchRequestTopics::default().with_partition_indexes(vec![MAX; 2]);
        let group = OffsetFetchRequestGroup::default().with_topics(Some(vec![topics]));
        check::<m::OffsetFetchRequest>(&[&|r| r.with_topics(Some(vec![topic.clone(); 2])), &|r| {
            r.with_groups(vec![group.clone()])
        }]);
        check::<m::JoinGroupRequest>(&[&|r| r.with_session_timeout_ms(MAX), &|r| {
            r.with_rebalance_timeout_ms(MAX)
        }]);
        check::<m::SyncGroupRequest>(&[&|r| r.with_generation_id(MAX)]);
        check::<m::HeartbeatRequest>(&[&|r| r.with_generation_id(MAX)]);
        let assigned =
            CreatableReplicaAssignment::default().with_partition_index(MAX).with_broker_ids(vec![broker; 2]);
        let topic = CreatableTopic::default().with_num_partitions(MAX).with_replication_factor(i16::MAX);
        let topic = topic.with_assignments(vec![assigned; 2]);
        check::<m::CreateTopicsRequest>(&[&|r| r.with_timeout_ms(MAX), &|r| {
            r.with_topics(vec![topic.clone(); 2])
        }]);
        check::<m::DeleteTopicsRequest>(&[&|r| r.with_timeout_ms(MAX)]);
        let partition = DeleteRecordsPartition::default().with_partition_index(MAX).with_offset(i64::MAX);
        let topic = DeleteRecordsTopic::default().with_partitions(vec![partition; 2]);
        check::<m::DeleteRecordsRequest>(&[&|r| r.with_timeout_ms(MAX).with_topics(vec![topic.clone()])]);
        check::<m::InitProducerIdRequest>(&[&|r| r.with_transaction_timeout_ms(MAX), &|r| {
            r.with_producer_id(producer).with_producer_epoch(i16::MAX)
        }]);
        let partition = OffsetForLeaderPartition::default().with_partition(MAX).with_leader_epoch(MAX);
        let partition = partition.with_current_leader_epoch(MAX);
        let topic = OffsetForLeaderTopic::default().with_partitions(vec![partition; 2]);
        check::<m::OffsetForLeaderEpochRequest>(&[&|r| r.with_topics(vec![topic.clone()]), &|r| {
            r.with_replica_id(broker)
        }]);
        let topic = AddPartitionsToTxnTopic::default().with_partitions(vec![MAX; 2]);
        check::<m::AddPartitionsToTxnRequest>(&[&|r| {
            r.with_v3_and_below_producer_id(producer).with_v3_and_below_topics(vec![topic.clone()])
        }]);
        check::<m::AddOffsetsToTxnRequest>(&[&|r| r.with_producer_id(producer)]);
        check::<m::EndTxnRequest>(&[&|r| r.with_producer_id(producer)]);
        let old = TxnOffsetCommitRequestPartition::default()
            .with_partition_index(MAX)
            .with_committed_offset(i64::MAX);
        let with_epoch = old.clone().with_committed_leader_epoch(MAX);
        let of = |partition: &TxnOffsetCommitRequestPartition| {
            vec![TxnOffsetCommitRequestTopic::default().with_partitions(vec![partition.clone(); 2])]
        };
        check::<m::TxnOffsetCommitRequest>(&[
            &|r| r.with_producer_id(producer).with_topics(of(&old)),
            &|r| r.with_topics(of(&with_epoch)),
            &|r| r.with_generation_id(MAX),
        ]);
        let assigned = CreatePartitionsAssignment::default().with_broker_ids(vec![broker; 2]);
        let topic =
            CreatePartitionsTopic::default().with_count(MAX).with_assignments(Some(vec![assigned; 2]));
        check::<m::CreatePartitionsRequest>(&[&|r| r.with_timeout_ms(MAX).with_topics(vec![topic.clone()])]);
        let partition = OffsetDeleteRequestPartition::default().with_partition_index(MAX);
        let topic = OffsetDeleteRequestTopic::default().with_partitions(vec![partition; 2]);
        check::<m::OffsetDeleteRequest>(&[&|r| r.with_topics(vec![topic.clone()])]);
    }

    #[test]
    fn a_header_may_have_any_correlation_id() {
        for version in [1, 2] {
            let mut frame = BytesMut::new();
            let header = m::RequestHeader::default().with_correlation_id(i32::MAX);
            header.encode(&mut frame, version).unwrap();
            frame.put_u8(7);
            let mut frame = frame.freeze();
            assert_eq!(super::header(&mut frame, version).unwrap().correlation_id, i32::MAX);
            assert_eq!(&frame[..], [7]);
        }
    }

    #[test]
    fn a_length_beyond_the_frame_is_refused_before_memory_is_reserved() {
        for version in [4, 5, 7, 9, 11] {
            let mut body = BytesMut::new();
            body.put_bytes(0, 17 + if version >= 7 { 8 } else { 0 });
            body.put_i32(i32::MAX);
            body.put_bytes(0, 100);
            assert!(request::<m::FetchRequest>("Fetch", version, body.freeze()).is_err());
        }
        let mut body = BytesMut::new();
        body.put_i32(i32::MAX);
        assert!(request::<m::MetadataRequest>("Metadata", 4, body.freeze()).is_err());
        let body = Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 0x0f]);
        assert!(request::<m::MetadataRequest>("Metadata", 9, body).is_err());
    }
}
