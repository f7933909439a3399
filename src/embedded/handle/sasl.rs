//! Authentication: PLAIN and SCRAM.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages as m;

use crate::embedded::broker::{Broker, Caller};
use crate::embedded::refuse::Refuse;

/// What a connection remembers between its requests.
#[derive(Debug, Default)]
pub(crate) struct Session {
    /// Who it is, once that is proved; `ANONYMOUS` where the broker has no users.
    pub(crate) principal: Option<String>,
    /// Set by a handler: the connection is closed after the answer.
    pub(crate) hang_up: bool,
}

pub(crate) async fn sasl_handshake(
    _broker: &Broker,
    _caller: &Caller,
    request: m::SaslHandshakeRequest,
) -> m::SaslHandshakeResponse {
    request.refuse(ResponseError::UnsupportedVersion.code())
}

pub(crate) async fn sasl_authenticate(
    _broker: &Broker,
    _caller: &Caller,
    request: m::SaslAuthenticateRequest,
) -> m::SaslAuthenticateResponse {
    request.refuse(ResponseError::UnsupportedVersion.code())
}
