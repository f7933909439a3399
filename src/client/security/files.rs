//! TLS whose certificates and keys are read again when their files have changed: whoever renews them need not restart
//! anything (Java reloads those of brokers alone, KIP-226 and KIP-651). Connections that are open go on with what they have.

use std::fmt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use super::tls::Connector;
use crate::Result;
use crate::config::{Pem, Tls};

/// A connector made of the files as they are now, or as they were when they could last be used.
pub(super) struct Files {
    tls: Tls,
    current: Mutex<(Vec<Option<Stamp>>, Connector)>,
}

/// What changes when somebody writes a file, or puts another in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    file: u64,
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        // Links are followed: secrets that are mounted are changed by another link.
        let found = std::fs::metadata(path).ok()?;
        #[cfg(unix)]
        let file = std::os::unix::fs::MetadataExt::ino(&found);
        #[cfg(not(unix))]
        let file = 0;
        Some(Self { modified: found.modified().ok(), length: found.len(), file })
    }
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Files(..)")
    }
}

impl Files {
    pub(super) fn new(tls: &Tls) -> Result<Self> {
        // ORDER: before they are read: what is written meanwhile is read again.
        let stamps = stamps(tls);
        let connector = Connector::new(tls)?;
        Ok(Self { tls: tls.clone(), current: Mutex::new((stamps, connector)) })
    }

    /// What a new connection is made with.
    pub(super) fn connector(&self) -> Connector {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = stamps(&self.tls);
        if stamps != current.0 {
            match Connector::new(&self.tls) {
                Ok(connector) => {
                    tracing::info!(
                        "the files of ssl.truststore or ssl.keystore have changed: new connections use them"
                    );
                    *current = (stamps, connector);
                }
                // Half written, or a key that is not this certificate's yet: the next connection looks again.
                Err(error) => tracing::warn!(
                    ?error,
                    "the files of ssl.truststore or ssl.keystore have changed and cannot be used: new connections use what was \
                     read before"
                ),
            }
        }
        current.1.clone()
    }
}

fn stamps(tls: &Tls) -> Vec<Option<Stamp>> {
    let keystore = tls.keystore.iter().flat_map(|store| [&store.certificates, &store.key]);
    let sources = tls.truststore.iter().chain(keystore);
    let stamp = |source: &Pem| match source {
        Pem::File(path) => Some(Stamp::of(path)),
        Pem::Text(_) => None,
    };
    sources.filter_map(stamp).collect()
}
