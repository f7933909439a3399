//! The settings of topics and brokers.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages as m;

use crate::embedded::broker::{Broker, Caller};
use crate::embedded::refuse::Refuse;

pub(crate) async fn describe_configs(
    _broker: &Broker,
    _caller: &Caller,
    request: m::DescribeConfigsRequest,
) -> m::DescribeConfigsResponse {
    request.refuse(ResponseError::UnsupportedVersion.code())
}

pub(crate) async fn alter_configs(
    _broker: &Broker,
    _caller: &Caller,
    request: m::AlterConfigsRequest,
) -> m::AlterConfigsResponse {
    request.refuse(ResponseError::UnsupportedVersion.code())
}

pub(crate) async fn incremental_alter_configs(
    _broker: &Broker,
    _caller: &Caller,
    request: m::IncrementalAlterConfigsRequest,
) -> m::IncrementalAlterConfigsResponse {
    request.refuse(ResponseError::UnsupportedVersion.code())
}
