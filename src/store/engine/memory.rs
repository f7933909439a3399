//! The engine in memory.

use std::sync::Arc;

use bytes::Bytes;

use super::super::tree::Tree;
use super::{Engine, EngineRead, KeyRange, Rows, SortedRun};
use crate::error::Result;

/// An engine in memory. Its content comes back from the changelog.
#[derive(Debug, Default, Clone)]
pub(crate) struct MemoryEngine {
    rows: Tree,
    mark: Option<Bytes>,
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
    fn apply(&mut self, run: &SortedRun, mark: Option<&[u8]>) -> Result<()> {
        for (key, value) in run.iter() {
            match value {
                Some(value) => self.rows.insert(key, Bytes::copy_from_slice(value)),
                None => self.rows.remove(key),
            }
        }
        if let Some(mark) = mark {
            self.mark = Some(Bytes::copy_from_slice(mark));
        }
        Ok(())
    }

    fn mark(&self) -> Result<Option<Bytes>> {
        Ok(self.mark.clone())
    }

    fn writer(&self) -> Option<Box<dyn Engine>> {
        None
    }

    fn snapshot(&self) -> Arc<dyn EngineRead + Send + Sync> {
        Arc::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Bound;

    use super::*;

    #[test]
    fn ranges_that_hold_nothing_are_empty_whatever_their_ends() {
        let (b, c) = (Bytes::from_static(b"b"), Bytes::from_static(b"c"));
        let mut engine = MemoryEngine::default();
        engine.apply(&[("b", Some(""))].into_iter().collect(), None).unwrap();
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
