//! The engine: ordered bytes at the bottom of a store.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::tree::Tree;
use crate::error::Result;

/// Keys in ascending order, each with its new value or `None` for a deletion.
pub(crate) type SortedRun = Vec<(Bytes, Option<Bytes>)>;

/// The part of a key space that a scan covers.
#[derive(Debug, Clone)]
pub(crate) struct KeyRange {
    pub(crate) from: Bound<Bytes>,
    pub(crate) to: Bound<Bytes>,
    pub(crate) reverse: bool,
}

impl KeyRange {
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
}

/// Ordered bytes. It is written in sorted runs, rarely, and is off the path of a record.
pub(crate) trait Engine: EngineRead {
    /// Applies a run as one.
    fn apply(&mut self, run: &SortedRun) -> Result<()>;

    /// How many bytes of open changes are worth handing over at a commit; 0 for every commit.
    fn hand_over_bytes(&self) -> usize;

    /// The rows as they are now, for other threads. It costs nothing that grows with them.
    fn snapshot(&self) -> Arc<dyn EngineRead + Send + Sync>;
}

/// An engine in memory. Its content comes back from the changelog.
#[derive(Debug, Default, Clone)]
pub(crate) struct MemoryEngine {
    rows: Tree,
}

impl EngineRead for MemoryEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.rows.get(key).cloned())
    }

    fn range<'a>(&'a self, range: &KeyRange) -> Rows<'a> {
        Box::new(self.rows.range(range).map(|(k, v)| Ok((k.clone(), v.clone()))))
    }

    fn approximate_len(&self) -> u64 {
        self.rows.len() as u64
    }
}

impl Engine for MemoryEngine {
    fn apply(&mut self, run: &SortedRun) -> Result<()> {
        for (key, value) in run {
            match value {
                // A copy: the values of a run share one buffer, and a row that stays would keep all of it in memory.
                Some(value) => self.rows.insert(key.clone(), Bytes::copy_from_slice(value)),
                None => self.rows.remove(key),
            }
        }
        Ok(())
    }

    fn hand_over_bytes(&self) -> usize {
        0
    }

    fn snapshot(&self) -> Arc<dyn EngineRead + Send + Sync> {
        Arc::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_stays_does_not_keep_its_run_in_memory() {
        let shared = Bytes::from(vec![7; 1_000]);
        let mut engine = MemoryEngine::default();
        let key = |n: usize| Bytes::copy_from_slice(&n.to_be_bytes());
        let run = (0..10).map(|n| (key(n), Some(shared.slice(n * 8..n * 8 + 8)))).collect();
        engine.apply(&run).unwrap();
        drop(run);
        assert!(shared.is_unique(), "no row refers to the buffer of the run");
        assert_eq!(engine.approximate_len(), 10);
        assert_eq!(engine.get(&key(3)).unwrap().as_deref(), Some(&[7; 8][..]));
    }

    #[test]
    fn ranges_that_hold_nothing_are_empty_whatever_their_ends() {
        let (b, c) = (Bytes::from_static(b"b"), Bytes::from_static(b"c"));
        let mut engine = MemoryEngine::default();
        engine.apply(&vec![(b.clone(), Some(Bytes::new()))]).unwrap();
        for (from, to, rows) in [
            (Bound::Included(c.clone()), Bound::Included(b.clone()), 0),
            (Bound::Excluded(b.clone()), Bound::Excluded(b.clone()), 0),
            (Bound::Included(b.clone()), Bound::Excluded(b.clone()), 0),
            (Bound::Excluded(b.clone()), Bound::Included(b.clone()), 0),
            (Bound::Included(b.clone()), Bound::Included(b.clone()), 1),
            (Bound::Unbounded, Bound::Excluded(b), 0),
            (Bound::Unbounded, Bound::Included(c), 1),
        ] {
            for reverse in [false, true] {
                let range = KeyRange { from: from.clone(), to: to.clone(), reverse };
                assert_eq!(engine.range(&range).count(), rows, "{range:?}");
            }
        }
    }
}
