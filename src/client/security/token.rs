//! Tokens of OAUTHBEARER: from a provider, from a file, or unsigned.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::clock::Clock;
use crate::config::{OAuthToken, OAuthTokens, UnsecuredTokens};
use crate::{Error, ErrorClass, ErrorKind, Result};

/// The largest file that is taken for a token, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// A token that is good now. No token is no answer of a broker: it may be there a little later.
pub(super) async fn token(tokens: &OAuthTokens, clock: &dyn Clock) -> Result<OAuthToken> {
    let none =
        |message: String| Error::new(ErrorKind::Authentication, message).with_class(ErrorClass::Retriable);
    match tokens {
        OAuthTokens::Provider(provider) => provider
            .token()
            .await
            .map_err(|cause| none("the OAuthTokenProvider has no token".to_owned()).because(cause)),
        OAuthTokens::File(path, extensions) => {
            let read = || {
                if std::fs::metadata(path)?.len() > MAX_FILE {
                    return Err(std::io::Error::other("it is larger than 1 MiB"));
                }
                std::fs::read_to_string(path)
            };
            let text = read().map_err(|cause| {
                let text = format!(
                    "sasl.oauthbearer.token.endpoint.url: no token can be read from {}",
                    path.display()
                );
                none(text).because(cause)
            })?;
            match text.trim() {
                "" => Err(none(format!(
                    "sasl.oauthbearer.token.endpoint.url: the token file {} is empty",
                    path.display()
                ))),
                token => Ok(OAuthToken { extensions: extensions.clone(), ..OAuthToken::new(token) }),
            }
        }
        OAuthTokens::Unsecured(claims) => Ok(unsecured(claims, clock.wall_ms())),
    }
}

/// A JWT (RFC 7519) with the algorithm `none`.
fn unsecured(claims: &UnsecuredTokens, now_ms: i64) -> OAuthToken {
    let mut body = serde_json::Map::new();
    let seconds = now_ms / 1_000;
    body.insert("iat".to_owned(), seconds.into());
    body.insert("exp".to_owned(), (seconds + i64::from(claims.lifetime_seconds)).into());
    for (name, value) in &claims.texts {
        body.insert(name.clone(), value.as_str().into());
    }
    let part = |text: String| BASE64_URL_SAFE_NO_PAD.encode(text);
    let body = serde_json::Value::Object(body).to_string();
    let token = format!("{}.{}.", part(r#"{"alg":"none"}"#.to_owned()), part(body));
    OAuthToken { extensions: claims.extensions.clone(), ..OAuthToken::new(token) }
}
