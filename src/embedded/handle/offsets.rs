//! What is in a log: ListOffsets, OffsetForLeaderEpoch, DeleteRecords.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages as m;

use crate::embedded::broker::{Broker, Caller};
use crate::embedded::refuse::Refuse;

pub(crate) async fn list_offsets(
    _broker: &Broker,
    _caller: &Caller,
    request: m::ListOffsetsRequest,
) -> m::ListOffsetsResponse {
    request.refuse(ResponseError::UnsupportedVersion.code())
}

pub(crate) async fn offset_for_leader_epoch(
    _broker: &Broker,
    _caller: &Caller,
    request: m::OffsetForLeaderEpochRequest,
) -> m::OffsetForLeaderEpochResponse {
    request.refuse(ResponseError::UnsupportedVersion.code())
}

pub(crate) async fn delete_records(
    _broker: &Broker,
    _caller: &Caller,
    request: m::DeleteRecordsRequest,
) -> m::DeleteRecordsResponse {
    request.refuse(ResponseError::UnsupportedVersion.code())
}
