//! The engine: ordered bytes at the bottom of a store.

#[cfg_attr(not(any(feature = "fjall", feature = "sled")), allow(dead_code, reason = "for engines on disk"))]
pub(in crate::store) mod disk;
pub(in crate::store) mod fault;
#[cfg(feature = "fjall")]
pub(in crate::store) mod fjall;
mod memory;
#[cfg_attr(not(any(feature = "fjall", feature = "sled")), allow(dead_code, reason = "for engines on disk"))]
mod raw;
#[cfg(feature = "sled")]
pub(in crate::store) mod sled;

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

pub(crate) use super::run::SortedRun;
use crate::error::Result;
pub(crate) use memory::MemoryEngine;

/// The part of a key space that a scan covers.
#[derive(Debug, Clone)]
pub(crate) struct KeyRange {
    pub(crate) from: Bound<Bytes>,
    pub(crate) to: Bound<Bytes>,
    pub(crate) reverse: bool,
}

impl KeyRange {
    /// Every key, from the first to the last.
    pub(crate) const ALL: Self = Self { from: Bound::Unbounded, to: Bound::Unbounded, reverse: false };

    /// Whether no key can be inside. (`BTreeMap::range` panics on some such ranges.)
    pub(crate) fn is_empty(&self) -> bool {
        match (&self.from, &self.to) {
            (Bound::Included(from), Bound::Included(to)) => from > to,
            (Bound::Included(from) | Bound::Excluded(from), Bound::Excluded(to) | Bound::Included(to)) => {
                from >= to
            }
            (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        }
    }

    pub(crate) fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        fn by_ref(bound: &Bound<Bytes>) -> Bound<&[u8]> {
            match bound {
                Bound::Included(key) => Bound::Included(key),
                Bound::Excluded(key) => Bound::Excluded(key),
                Bound::Unbounded => Bound::Unbounded,
            }
        }
        (by_ref(&self.from), by_ref(&self.to))
    }
}

/// Rows of a scan.
pub(crate) type Rows<'a> = Box<dyn Iterator<Item = Result<(Bytes, Bytes)>> + 'a>;

/// What can be read: an engine, or a snapshot of one.
pub(crate) trait EngineRead {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>>;

    /// The rows inside a range, in its direction.
    fn range<'a>(&'a self, range: &KeyRange) -> Rows<'a>;

    /// How many rows there are, roughly.
    fn approximate_len(&self) -> u64;

    /// Whether there is no row at all.
    fn is_empty(&self) -> Result<bool> {
        Ok(self.range(&KeyRange::ALL).next().transpose()?.is_none())
    }
}

/// Ordered bytes, and beside them one row that says up to where the changelog is in them ([`Engine::mark`]). It is written
/// in sorted runs, rarely, and is off the path of a record. What is here is one handle; an engine on disk may have several.
pub(crate) trait Engine: EngineRead + Send {
    /// Applies a run, and then the mark. Readers see the run as a whole; after a crash there is all of it, a part of it
    /// under the mark from before, or nothing of it, but never the mark without the run.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::error::ErrorKind::Store), naming the folder or file, and what to do about it.
    fn apply(&mut self, run: &SortedRun, mark: Option<&[u8]>) -> Result<()>;

    /// The row that was written last with a run.
    fn mark(&self) -> Result<Option<Bytes>>;

    /// A second handle, through which another thread applies runs; `None` where that costs so little that whoever has the
    /// engine does it at once.
    fn writer(&self) -> Option<Box<dyn Engine>>;

    /// The rows as they are now, for other threads. It costs nothing that grows with them.
    fn snapshot(&self) -> Arc<dyn EngineRead + Send + Sync>;
}
