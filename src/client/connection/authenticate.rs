//! SASL on a connection: SaslHandshake, SaslAuthenticate, and again before the session ends (KIP-368).

use std::time::Duration;

use kafka_protocol::messages::{SaslAuthenticateRequest, SaslHandshakeRequest};
use kafka_protocol::protocol::StrBytes;

use super::{Api, Handle};
use crate::client::security::sasl::{Exchange, Step};
use crate::config::{OAuthTokens, Sasl, SaslMechanism};
use crate::{Error, ErrorClass, ErrorKind, Result, clock};

const UNSUPPORTED_SASL_MECHANISM: i16 = 33;
const ILLEGAL_SASL_STATE: i16 = 34;
const SASL_AUTHENTICATION_FAILED: i16 = 58;
/// A mechanism has two or three messages: a broker that goes on and on is none.
const MAX_STEPS: usize = 4;

impl Handle {
    /// Proves who the client is. Gives back for how long that holds, if not for ever.
    pub(super) async fn authenticate(&self, sasl: &Sasl, timeout: Duration) -> Result<Option<Duration>> {
        let mechanism = sasl.mechanism();
        let peer = &self.shared.peer;
        // Version 1: the tokens come in SaslAuthenticate, where a broker can say what is wrong.
        let name = StrBytes::from_string(mechanism.to_string());
        let said = self.ask(&SaslHandshakeRequest::default().with_mechanism(name), timeout).await?;
        if said.error_code != 0 {
            let offered = said.mechanisms.iter().map(|m| m.as_str()).collect::<Vec<_>>().join(", ");
            let text = match said.error_code {
                UNSUPPORTED_SASL_MECHANISM => format!(
                    "{peer} has no SASL mechanism {mechanism}: set sasl.mechanism to one that the listener has ({offered})"
                ),
                ILLEGAL_SASL_STATE => format!(
                    "{peer} is a listener without SASL: set security.protocol to PLAINTEXT or SSL, or correct the port"
                ),
                _ => format!("{peer} refuses the SASL handshake"),
            };
            return Err(Error::new(ErrorKind::Authentication, text).with_code(said.error_code));
        }
        let begun = clock::timeout(timeout, Exchange::begin(sasl)).await;
        let (mut exchange, mut message) = begun.unwrap_or_else(|| {
            let text = format!("the OAuthTokenProvider brought no token within {timeout:?}");
            Err(Error::new(ErrorKind::Timeout, text).with_class(ErrorClass::Retriable))
        })?;
        for _ in 0..MAX_STEPS {
            let request = SaslAuthenticateRequest::default().with_auth_bytes(message.into());
            let asked = clock::monotonic();
            let answer = self.ask(&request, timeout).await?;
            if answer.error_code != 0 {
                let said = answer.error_message.as_deref();
                return Err(refused(peer, sasl, answer.error_code, said));
            }
            match exchange.next(&answer.auth_bytes).await? {
                Step::Say(next) => message = next,
                Step::Done => {
                    let lifetime = u64::try_from(answer.session_lifetime_ms).ok().filter(|ms| *ms > 0);
                    // Counted from before the answer: the broker's session began no earlier.
                    let gone = clock::monotonic().saturating_duration_since(asked);
                    return Ok(lifetime.map(|ms| Duration::from_millis(ms).saturating_sub(gone)));
                }
            }
        }
        Err(Error::new(
            ErrorKind::Authentication,
            format!("{peer} does not come to an end with SASL {mechanism}"),
        ))
    }

    async fn ask<A: Api>(&self, request: &A, timeout: Duration) -> Result<A::Response> {
        let version = self.version::<A>(None)?;
        let reply = self.enqueue(request, version)?;
        let frame = self.wait::<A>(reply, timeout).await?;
        super::guard::decode(A::NAME, version, frame)
    }
}

/// As in Java (`SaslAuthenticationException`) a refusal is final.
fn refused(peer: &str, sasl: &Sasl, code: i16, said: Option<&str>) -> Error {
    let mechanism = sasl.mechanism();
    let remedy = match (code, mechanism) {
        (ILLEGAL_SASL_STATE, _) => {
            "the listener expects something else: check security.protocol and the port"
        }
        (_, SaslMechanism::OAuthBearer) => {
            "check that the token is for this cluster and has not expired, and the broker's clock"
        }
        _ => {
            "check username and password in sasl.jaas.config, and that the user exists with credentials of this mechanism"
        }
    };
    let error = Error::new(ErrorKind::Authentication, format!("{peer} refuses SASL {mechanism}: {remedy}"))
        .with_code(code);
    match said.filter(|said| !said.is_empty()) {
        Some(said) => error.because(format!("the broker says: {}", without_secrets(said, sasl))),
        None if code == SASL_AUTHENTICATION_FAILED => error,
        None => error.because(format!("the broker's code is {code}")),
    }
}

/// What a broker says, should it repeat what it was told.
fn without_secrets(said: &str, sasl: &Sasl) -> String {
    match sasl {
        Sasl::Plain { password, .. } | Sasl::Scram { password, .. } if !password.expose().is_empty() => {
            said.replace(password.expose(), "[redacted]")
        }
        Sasl::OAuthBearer(OAuthTokens::File(..) | OAuthTokens::Provider(_)) if said.contains("eyJ") => {
            // A JWT begins with this.
            "[redacted, because it repeats a token]".to_owned()
        }
        _ => said.to_owned(),
    }
}
