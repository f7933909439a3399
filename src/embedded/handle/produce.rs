//! Produce.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages as m;

use crate::embedded::broker::{Broker, Caller};
use crate::embedded::refuse::Refuse;

/// `None` where no acknowledgement is wanted.
pub(crate) async fn produce(
    _broker: &Broker,
    _caller: &Caller,
    request: m::ProduceRequest,
) -> Option<m::ProduceResponse> {
    Some(request.refuse(ResponseError::UnsupportedVersion.code()))
}
