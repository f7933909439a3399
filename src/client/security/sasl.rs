//! SASL, the client's side: which tokens are sent, and whether the broker's are right.

use uuid::Uuid;

use super::{scram, token};
use crate::client::security::scram::{Hash, Proof};
use crate::clock::SystemClock;
use crate::config::security::check_extension;
use crate::config::{OAuthToken, Sasl, SaslMechanism};
use crate::{Error, ErrorKind, Result};

/// One exchange with a broker.
pub(crate) struct Exchange(State);

enum State {
    /// The one message there is has gone out; an empty answer ends it.
    Said,
    /// A token has gone out.
    Shown,
    Nonce {
        hash: Hash,
        password: String,
        nonce: String,
        first: String,
    },
    Proved(Proof),
    Done,
}

/// What to do about a message of the broker.
pub(crate) enum Step {
    /// Send this.
    Say(Vec<u8>),
    /// Nothing: the broker is whom it says, and knows who we are.
    Done,
}

impl Exchange {
    /// Begins, with the first message.
    pub(crate) async fn begin(sasl: &Sasl) -> Result<(Self, Vec<u8>)> {
        let (state, message) = match sasl {
            Sasl::Plain { username, password } => {
                (State::Said, format!("\0{username}\0{}", password.expose()))
            }
            Sasl::Scram { mechanism, username, password } => {
                let hash = match mechanism {
                    SaslMechanism::ScramSha256 => Hash::Sha256,
                    SaslMechanism::ScramSha512 => Hash::Sha512,
                    other => {
                        return Err(Error::new(
                            ErrorKind::Config,
                            format!("{other} is no mechanism of SCRAM"),
                        ));
                    }
                };
                // Two of them have 244 random bits of the operating system.
                let nonce = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
                let first = scram::first(username, &nonce);
                let message = format!("n,,{first}");
                (State::Nonce { hash, password: password.expose().to_owned(), nonce, first }, message)
            }
            Sasl::OAuthBearer(tokens) => {
                let token = token::token(tokens, &SystemClock).await?;
                (State::Shown, bearer(&token)?)
            }
        };
        Ok((Self(state), message.into_bytes()))
    }

    /// Takes a message of the broker.
    pub(crate) async fn next(&mut self, message: &[u8]) -> Result<Step> {
        match std::mem::replace(&mut self.0, State::Done) {
            State::Said | State::Shown if message.is_empty() => Ok(Step::Done),
            // The broker says in JSON what is wrong with the token, and wants to hear that we have read it.
            State::Shown => Ok(Step::Say(vec![1])),
            State::Nonce { hash, password, nonce, first } => {
                let message = message.to_vec();
                // The hashing takes long enough to hold up what else is on this thread.
                let proof = tokio::task::spawn_blocking(move || {
                    scram::prove(hash, &password, &nonce, &first, &message)
                });
                let proof = proof.await.map_err(|ended| {
                    Error::new(ErrorKind::Closed, "the runtime of the client has ended").because(ended)
                })?;
                let proof = proof.map_err(untrusted)?;
                let message = proof.message.clone().into_bytes();
                self.0 = State::Proved(proof);
                Ok(Step::Say(message))
            }
            State::Proved(proof) => {
                proof.verify(message).map_err(untrusted)?;
                Ok(Step::Done)
            }
            State::Said | State::Done => Err(untrusted("it says more than the mechanism has")),
        }
    }
}

fn untrusted(why: &'static str) -> Error {
    Error::new(
        ErrorKind::Authentication,
        "what answers is not trusted: it does not keep to the SASL mechanism",
    )
    .because(why)
}

/// The client's message of RFC 7628.
fn bearer(token: &OAuthToken) -> Result<String> {
    let wrong = |why: &str| Err(Error::new(ErrorKind::Authentication, format!("the OAuthToken {why}")));
    let value = token.value.expose();
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_graphic()) {
        return wrong("is empty, or has characters that no token has");
    }
    let mut message = format!("n,,\u{1}auth=Bearer {value}\u{1}");
    for (name, value) in &token.extensions {
        if let Err(why) = check_extension(name, value) {
            return wrong(&format!("has an extension that {why}"));
        }
        message.push_str(&format!("{name}={value}\u{1}"));
    }
    message.push('\u{1}');
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OAuthTokens;
    use std::sync::Arc;

    fn bearer_of(token: OAuthToken) -> Sasl {
        Sasl::oauth_bearer(move || {
            let token = token.clone();
            async { Ok(token) }
        })
    }

    #[tokio::test]
    async fn the_messages_are_those_of_the_standards() {
        let (mut plain, message) = Exchange::begin(&Sasl::plain("user", "pencil")).await.unwrap();
        assert_eq!(message, b"\0user\0pencil");
        assert!(matches!(plain.next(b"").await, Ok(Step::Done)));
        let token = OAuthToken::new("a.b.c").extension("logicalCluster", "lkc-1");
        let (mut shown, message) = Exchange::begin(&bearer_of(token)).await.unwrap();
        assert_eq!(message, b"n,,\x01auth=Bearer a.b.c\x01logicalCluster=lkc-1\x01\x01");
        let Ok(Step::Say(read)) = shown.next(b"{\"status\":\"invalid_token\"}").await else { panic!() };
        assert_eq!(read, [1]);
    }

    #[tokio::test]
    async fn what_is_no_answer_is_not_trusted() {
        let (mut plain, _) = Exchange::begin(&Sasl::plain("user", "pencil")).await.unwrap();
        assert_eq!(plain.next(b"x").await.err().unwrap().kind(), ErrorKind::Authentication);
        let (mut scram, _) = Exchange::begin(&Sasl::scram_sha_256("user", "pencil")).await.unwrap();
        // The end without the server's own proof.
        let error = scram.next(b"").await.err().unwrap();
        assert!(format!("{error:?}").contains("first message") && !error.is_retriable(), "{error:?}");
    }

    #[tokio::test]
    async fn strange_tokens_are_refused_and_not_shown() {
        for token in [
            OAuthToken::new(""),
            OAuthToken::new("se cret"),
            OAuthToken::new("se\u{1}cret"),
            OAuthToken::new("t").extension("auth", "x"),
            OAuthToken::new("t").extension("a1", "x"),
            OAuthToken::new("t").extension("a", "se\u{1}cret"),
        ] {
            let error = Exchange::begin(&bearer_of(token)).await.err().unwrap();
            assert!(!format!("{error:?}").contains("cret"), "{error:?}");
        }
        let missing = Sasl::OAuthBearer(OAuthTokens::File("/nowhere/token".into(), Vec::new()));
        let error = Exchange::begin(&missing).await.err().unwrap();
        assert!(error.is_retriable() && error.to_string().contains("/nowhere/token"), "{error:?}");
        let failing: Arc<dyn crate::config::OAuthTokenProvider> =
            Arc::new(async || Err("the issuer is down".into()));
        let error = Exchange::begin(&Sasl::OAuthBearer(OAuthTokens::Provider(failing))).await.err().unwrap();
        assert!(error.is_retriable() && format!("{error:?}").contains("the issuer is down"), "{error:?}");
    }
}
