//! Topics: CreateTopics, DeleteTopics, CreatePartitions.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages as m;

use crate::embedded::broker::{Broker, Caller};
use crate::embedded::refuse::Refuse;

pub(crate) async fn create_topics(
    _broker: &Broker,
    _caller: &Caller,
    request: m::CreateTopicsRequest,
) -> m::CreateTopicsResponse {
    request.refuse(ResponseError::UnsupportedVersion.code())
}

pub(crate) async fn delete_topics(
    _broker: &Broker,
    _caller: &Caller,
    request: m::DeleteTopicsRequest,
) -> m::DeleteTopicsResponse {
    request.refuse(ResponseError::UnsupportedVersion.code())
}

pub(crate) async fn create_partitions(
    _broker: &Broker,
    _caller: &Caller,
    request: m::CreatePartitionsRequest,
) -> m::CreatePartitionsResponse {
    request.refuse(ResponseError::UnsupportedVersion.code())
}
