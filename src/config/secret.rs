//! Text that nobody shall read in a log.

use std::fmt;
use std::sync::Arc;

/// A password, key or token. It can be asked for with [`expose`](Self::expose) and shows up nowhere else: not in `Debug`,
/// not in errors, not in logs.
///
/// ```
/// use mainstem::config::Secret;
///
/// let secret = Secret::new("hunter2");
/// assert_eq!(format!("{secret:?}"), "[redacted]");
/// assert_eq!(secret.expose(), "hunter2");
/// ```
#[derive(Clone)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Keeps a text to itself.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into().into())
    }

    /// The text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Whether the value of a property may not be shown, by its name.
pub(super) fn is_secret(property: &str) -> bool {
    ["password", "passphrase", "secret", "jaas.config", "keystore.key"]
        .iter()
        .any(|end| property.ends_with(end))
}
