//! Tokens of OAUTHBEARER (RFC 7628, KIP-255), and who brings them.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use super::Secret;
use crate::error::BoxError;

/// What a client shows to a broker under OAUTHBEARER.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct OAuthToken {
    /// The token, as the broker reads it: a JWT mostly.
    pub value: Secret,
    /// What is sent beside it (KIP-342): names of letters, and values without control characters.
    pub extensions: Vec<(String, String)>,
}

impl OAuthToken {
    /// A token without extensions.
    pub fn new(value: impl Into<Secret>) -> Self {
        Self { value: value.into(), extensions: Vec::new() }
    }

    /// Adds an extension.
    #[must_use]
    pub fn extension(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.extensions.push((name.into(), value.into()));
        self
    }
}

/// A token to come.
pub type OAuthTokenFuture<'a> = Pin<Box<dyn Future<Output = Result<OAuthToken, BoxError>> + Send + 'a>>;

/// Brings tokens: Java's login callback handler for OAUTHBEARER. An async closure is one.
///
/// It is asked for each connection, and again before a session ends (KIP-368), so it should keep a token for as long as
/// that is good. It must not block. An error is not the end: the connection is tried again.
///
/// ```
/// use mainstem::config::{Config, OAuthToken, SecurityProtocol};
///
/// let config = Config::builder("page-views", "kafka:9093")
///     .security_protocol(SecurityProtocol::SaslSsl)
///     .oauth_token_provider(async || Ok(OAuthToken::new("eyJhbGciOi...")));
/// ```
pub trait OAuthTokenProvider: Send + Sync + 'static {
    /// A token that is good now.
    fn token(&self) -> OAuthTokenFuture<'_>;
}

impl<F, Fut> OAuthTokenProvider for F
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<OAuthToken, BoxError>> + Send + 'static,
{
    fn token(&self) -> OAuthTokenFuture<'_> {
        Box::pin(self())
    }
}

/// Where tokens come from.
#[derive(Clone)]
#[non_exhaustive]
pub enum OAuthTokens {
    /// Code of the application.
    Provider(Arc<dyn OAuthTokenProvider>),
    /// A file that is read each time, with what is sent beside the token (Java's `FileJwtRetriever`).
    File(PathBuf, Vec<(String, String)>),
    /// Tokens that nobody signed, for brokers in development (Java's `OAuthBearerUnsecuredLoginCallbackHandler`).
    Unsecured(UnsecuredTokens),
}

/// What an unsigned token says.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct UnsecuredTokens {
    /// The claims that are texts, `sub` among them.
    pub texts: Vec<(String, String)>,
    /// How long a token is good, in seconds.
    pub lifetime_seconds: u32,
    /// What is sent beside it.
    pub extensions: Vec<(String, String)>,
}

impl fmt::Debug for OAuthTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Provider(_) => f.write_str("Provider(..)"),
            Self::File(path, _) => f.debug_tuple("File").field(path).finish(),
            Self::Unsecured(claims) => f.debug_tuple("Unsecured").field(claims).finish(),
        }
    }
}
