//! What the fuzz target `state` does with files of a state directory; see `crate::fuzz`.

use super::database::{EngineKind, fuzz_catalog};
use super::engine::fuzz_bucket;

/// The catalog of a database (0), or a row of long keys (else).
pub(crate) fn run(what: u8, bytes: &[u8]) {
    match what {
        0 => [EngineKind::Fjall, EngineKind::Sled].into_iter().for_each(|kind| fuzz_catalog(kind, bytes)),
        _ => fuzz_bucket(bytes),
    }
}
