//! Authentication: SaslHandshake and SaslAuthenticate.

use std::time::{Duration, Instant};

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages as m;
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use crate::clock;
use crate::embedded::broker::{Broker, Caller};
use crate::embedded::refuse::Refuse;
use crate::embedded::sasl::{Exchange, MECHANISMS, Refusal};

/// What a connection remembers between its requests.
#[derive(Debug, Default)]
pub(crate) struct Session {
    /// Who it is, once that is proved.
    pub(crate) principal: Option<String>,
    /// Set by a handler: the connection is closed after the answer.
    pub(crate) hang_up: bool,
    /// When it has to be proved again (KIP-368), in real time.
    ends: Option<Instant>,
    exchange: Exchange,
}

impl Session {
    /// Whether it was proved, and not too long ago.
    pub(crate) fn is_open(&self) -> bool {
        self.principal.is_some() && self.ends.is_none_or(|ends| clock::monotonic() < ends)
    }

    /// What a refusal is called; the connection ends with it.
    fn refused(&mut self, refusal: Refusal) -> (i16, String) {
        self.hang_up = true;
        let (code, text) = match refusal {
            Refusal::Mechanism => {
                (ResponseError::UnsupportedSaslMechanism, "Unsupported SASL mechanism".to_owned())
            }
            Refusal::State(text) => (ResponseError::IllegalSaslState, text.to_owned()),
            Refusal::Authentication(text) => (ResponseError::SaslAuthenticationFailed, text),
        };
        (code.code(), text)
    }
}

pub(crate) async fn sasl_handshake(
    broker: &Broker,
    caller: &Caller,
    request: m::SaslHandshakeRequest,
) -> m::SaslHandshakeResponse {
    if broker.users.is_empty() {
        return request.refuse(ResponseError::IllegalSaslState.code());
    }
    let mechanisms = MECHANISMS.map(StrBytes::from_static_str).to_vec();
    let answer = m::SaslHandshakeResponse::default().with_mechanisms(mechanisms);
    let mut session = caller.session();
    match session.exchange.handshake(&request.mechanism) {
        Ok(()) => answer,
        Err(refusal) => answer.with_error_code(session.refused(refusal).0),
    }
}

pub(crate) async fn sasl_authenticate(
    broker: &Broker,
    caller: &Caller,
    request: m::SaslAuthenticateRequest,
) -> m::SaslAuthenticateResponse {
    let answer = m::SaslAuthenticateResponse::default();
    let refused = |(code, text): (i16, String)| {
        let answer = m::SaslAuthenticateResponse::default().with_error_code(code);
        answer.with_error_message(Some(StrBytes::from_string(text)))
    };
    if broker.users.is_empty() {
        let text = "SaslAuthenticate request received after successful authentication".to_owned();
        return refused((ResponseError::IllegalSaslState.code(), text));
    }
    let mut session = caller.session();
    let random = || {
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(Uuid::new_v4().as_bytes());
        bytes[16..].copy_from_slice(Uuid::new_v4().as_bytes());
        bytes
    };
    match session.exchange.authenticate(&broker.users, &request.auth_bytes, random) {
        Ok(token) => {
            session.principal = session.exchange.user().map(str::to_owned);
            let answer = answer.with_auth_bytes(token.into());
            let lifetime = broker.config.number("connections.max.reauth.ms");
            let Some(ms) = u64::try_from(lifetime).ok().filter(|ms| *ms > 0 && session.principal.is_some())
            else {
                return answer;
            };
            session.ends = Some(clock::monotonic() + Duration::from_millis(ms));
            if caller.version >= 1 { answer.with_session_lifetime_ms(lifetime) } else { answer }
        }
        Err(refusal) => refused(session.refused(refusal)),
    }
}
