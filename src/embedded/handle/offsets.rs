//! What is in a log: ListOffsets, OffsetForLeaderEpoch, DeleteRecords.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages as m;
use kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};

use crate::embedded::broker::{Broker, Caller};
use crate::embedded::log::{Found, Spec};
use crate::embedded::refuse::Refuse;
use crate::embedded::state::State;

pub(crate) async fn list_offsets(
    broker: &Broker,
    caller: &Caller,
    request: m::ListOffsetsRequest,
) -> m::ListOffsetsResponse {
    if !matches!(request.isolation_level, 0 | 1) {
        return request.refuse(ResponseError::UnknownServerError.code());
    }
    let committed = request.isolation_level == 1;
    let mut state = broker.lock();
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|asked| {
            let answer = ListOffsetsPartitionResponse::default().with_partition_index(asked.partition_index);
            let found = spec(asked.timestamp, caller.version).and_then(|spec| {
                let epoch = asked.current_leader_epoch;
                let (led, _) = state.led(caller.node, &topic.name, asked.partition_index, epoch)?;
                let found = led.log.find(spec, committed);
                // Behind the last record there is none: it is the leader's own epoch (`Partition.fetchOffsetForTimestamp`).
                let leader_epoch = if spec == Spec::Latest { led.leader_epoch } else { found.leader_epoch };
                Ok(Found { leader_epoch, ..found })
            });
            match found {
                Ok(found) => answer
                    .with_offset(found.offset)
                    .with_timestamp(found.timestamp)
                    .with_leader_epoch(if caller.version >= 4 { found.leader_epoch } else { -1 }),
                Err(error) => answer.with_error_code(error.code()),
            }
        });
        let partitions = partitions.collect();
        ListOffsetsTopicResponse::default().with_name(topic.name).with_partitions(partitions)
    });
    m::ListOffsetsResponse::default().with_topics(topics.collect())
}

fn spec(timestamp: i64, version: i16) -> Result<Spec, ResponseError> {
    match timestamp {
        -1 => Ok(Spec::Latest),
        // Without tiers, all of a log is local.
        -2 => Ok(Spec::Earliest),
        -4 if version >= 8 => Ok(Spec::Earliest),
        -3 if version >= 7 => Ok(Spec::MaxTimestamp),
        0.. => Ok(Spec::Time(timestamp)),
        _ => Err(ResponseError::UnsupportedVersion),
    }
}

pub(crate) async fn offset_for_leader_epoch(
    broker: &Broker,
    caller: &Caller,
    request: m::OffsetForLeaderEpochRequest,
) -> m::OffsetForLeaderEpochResponse {
    let mut state = broker.lock();
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|asked| {
            let answer = EpochEndOffset::default().with_partition(asked.partition);
            match state.led(caller.node, &topic.topic, asked.partition, asked.current_leader_epoch) {
                Ok((led, _)) => {
                    let (epoch, end) = led.log.end_of_epoch(asked.leader_epoch);
                    answer.with_leader_epoch(epoch).with_end_offset(end)
                }
                Err(error) => answer.with_error_code(error.code()),
            }
        });
        let partitions = partitions.collect();
        OffsetForLeaderTopicResult::default().with_topic(topic.topic).with_partitions(partitions)
    });
    m::OffsetForLeaderEpochResponse::default().with_topics(topics.collect())
}

pub(crate) async fn delete_records(
    broker: &Broker,
    caller: &Caller,
    request: m::DeleteRecordsRequest,
) -> m::DeleteRecordsResponse {
    let mut state = broker.lock();
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|asked| {
            let answer = DeleteRecordsPartitionResult::default().with_partition_index(asked.partition_index);
            match delete(caller, &mut state, (&topic.name, asked.partition_index), asked.offset) {
                Ok(start) => answer.with_low_watermark(start),
                Err(error) => answer.with_low_watermark(-1).with_error_code(error.code()),
            }
        });
        let partitions = partitions.collect();
        DeleteRecordsTopicResult::default().with_name(topic.name).with_partitions(partitions)
    });
    m::DeleteRecordsResponse::default().with_topics(topics.collect())
}

/// `Partition.deleteRecordsOnLeader`: where the log begins now.
fn delete(
    caller: &Caller,
    state: &mut State,
    (topic, partition): (&str, i32),
    before: i64,
) -> Result<i64, ResponseError> {
    let (led, config) = state.led(caller.node, topic, partition, -1)?;
    if config.compacted && !config.deleted {
        return Err(ResponseError::PolicyViolation);
    }
    let high_watermark = led.log.high_watermark();
    let before = if before == -1 { high_watermark } else { before };
    if before < 0 || before > high_watermark {
        return Err(ResponseError::OffsetOutOfRange);
    }
    led.log.start_at(before);
    Ok(led.log.start())
}
