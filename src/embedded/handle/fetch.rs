//! Fetch.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages as m;

use crate::embedded::broker::{Broker, Caller};
use crate::embedded::refuse::Refuse;

pub(crate) async fn fetch(_broker: &Broker, _caller: &Caller, request: m::FetchRequest) -> m::FetchResponse {
    request.refuse(ResponseError::UnsupportedVersion.code())
}
