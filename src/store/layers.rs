//! The layer stack below a store's open changes: sorted runs frozen at commits, newest first, then the engine.
//!
//! It is a list, so that a commit may be in flight while the next one's changes gather above it.

use std::iter::Peekable;
use std::sync::Arc;

use bytes::Bytes;

use super::engine::{Engine, EngineRead, KeyRange, Rows, SortedRun};
use crate::error::Result;

/// The bytes of committed changes that are worth handing over to an engine on disk.
const HAND_OVER_BYTES: usize = 32 << 20;

/// Committed runs over an engine.
pub(crate) struct Layers {
    /// Newest last.
    runs: Vec<Arc<SortedRun>>,
    run_bytes: usize,
    engine: Box<dyn Engine>,
}

impl Layers {
    pub(crate) fn new(engine: impl Engine + 'static) -> Self {
        Self { runs: Vec::new(), run_bytes: 0, engine: Box::new(engine) }
    }

    /// Begins anew over another engine.
    pub(crate) fn attach(&mut self, engine: Box<dyn Engine>) {
        *self = Self { runs: Vec::new(), run_bytes: 0, engine };
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        match changed(&self.runs, key) {
            Some(value) => Ok(value.clone()),
            None => self.engine.get(key),
        }
    }

    /// What other threads see: the layers as they are now, with the runs of `open` changes (newest last) on top.
    pub(crate) fn view(&self, open: &[Arc<SortedRun>]) -> View {
        let runs = self.runs.iter().chain(open).cloned().collect();
        View { runs, engine: self.engine.snapshot() }
    }

    /// Puts a frozen run on top, and hands the runs to the engine when enough has gathered.
    pub(crate) fn push(&mut self, run: SortedRun) -> Result<()> {
        debug_assert!(run.is_sorted_by(|a, b| a.0 < b.0), "a run is strictly ascending");
        if run.is_empty() {
            return Ok(());
        }
        self.run_bytes += run.iter().map(|(k, v)| k.len() + v.as_ref().map_or(0, Bytes::len)).sum::<usize>();
        self.runs.push(Arc::new(run));
        if self.engine.writer().is_none() || self.run_bytes >= HAND_OVER_BYTES {
            // ORDER: oldest first, so that the newest value of a key wins.
            for run in self.runs.drain(..) {
                self.engine.apply(&run, None)?;
            }
            self.run_bytes = 0;
        }
        Ok(())
    }

    /// The rows inside a range, with `open` (in the range's order) lying over them.
    pub(crate) fn range<'a>(
        &'a self,
        range: &KeyRange,
        open: impl Iterator<Item = (Bytes, Option<Bytes>)> + 'a,
    ) -> Rows<'a> {
        let rows = overlaid(&self.runs, self.engine.range(range), range);
        Box::new(Overlay::new(rows, Box::new(open), range.reverse))
    }

    pub(crate) fn approximate_len(&self) -> u64 {
        self.engine.approximate_len() + self.runs.iter().map(|run| run.len() as u64).sum::<u64>()
    }
}

/// What the runs (newest last) say of a key; `None` if they say nothing.
fn changed<'a>(runs: &'a [Arc<SortedRun>], key: &[u8]) -> Option<&'a Option<Bytes>> {
    runs.iter().rev().find_map(|run| {
        let at = run.binary_search_by(|(k, _)| k[..].cmp(key)).ok()?;
        Some(&run[at].1)
    })
}

/// Rows with runs (newest last) lying over them.
fn overlaid<'a>(runs: &'a [Arc<SortedRun>], mut rows: Rows<'a>, range: &KeyRange) -> Rows<'a> {
    for run in runs {
        rows = Box::new(Overlay::new(rows, run_range(run, range), range.reverse));
    }
    rows
}

/// A store as it was at one moment, for any thread.
pub(crate) struct View {
    /// Newest last.
    runs: Vec<Arc<SortedRun>>,
    engine: Arc<dyn EngineRead + Send + Sync>,
}

impl View {
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        match changed(&self.runs, key) {
            Some(value) => Ok(value.clone()),
            None => self.engine.get(key),
        }
    }

    /// The rows inside a range, in its direction.
    pub(crate) fn range<'a>(&'a self, range: &KeyRange) -> Rows<'a> {
        overlaid(&self.runs, self.engine.range(range), range)
    }

    /// How many rows there are, as far as the engine knows its own.
    pub(crate) fn approximate_len(&self) -> Result<u64> {
        let mut len = self.engine.approximate_len();
        for (at, run) in self.runs.iter().enumerate() {
            for (key, value) in &**run {
                let before = match changed(&self.runs[..at], key) {
                    Some(value) => value.is_some(),
                    None => self.engine.get(key)?.is_some(),
                };
                match (before, value.is_some()) {
                    (false, true) => len += 1,
                    (true, false) => len = len.saturating_sub(1),
                    _ => {}
                }
            }
        }
        Ok(len)
    }
}

type Changes<'a> = Box<dyn Iterator<Item = (Bytes, Option<Bytes>)> + 'a>;

fn run_range<'a>(run: &'a SortedRun, range: &KeyRange) -> Changes<'a> {
    use std::ops::Bound::{Excluded, Included, Unbounded};
    let (from, to) = range.bounds();
    let start = match from {
        Unbounded => 0,
        Included(from) => run.partition_point(|(k, _)| k[..] < *from),
        Excluded(from) => run.partition_point(|(k, _)| k[..] <= *from),
    };
    let end = match to {
        Unbounded => run.len(),
        Included(to) => run.partition_point(|(k, _)| k[..] <= *to),
        Excluded(to) => run.partition_point(|(k, _)| k[..] < *to),
    };
    let rows = run[start..end.max(start)].iter().cloned();
    if range.reverse { Box::new(rows.rev()) } else { Box::new(rows) }
}

/// Rows with newer changes lying over them.
struct Overlay<'a> {
    rows: Peekable<Rows<'a>>,
    changes: Peekable<Changes<'a>>,
    reverse: bool,
}

impl<'a> Overlay<'a> {
    fn new(rows: Rows<'a>, changes: Changes<'a>, reverse: bool) -> Self {
        Self { rows: rows.peekable(), changes: changes.peekable(), reverse }
    }
}

impl Iterator for Overlay<'_> {
    type Item = Result<(Bytes, Bytes)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some((changed, _)) = self.changes.peek() else { return self.rows.next() };
            let order = match self.rows.peek() {
                None => std::cmp::Ordering::Greater,
                Some(Err(_)) => return self.rows.next(),
                Some(Ok((row, _))) if self.reverse => changed.cmp(row),
                Some(Ok((row, _))) => row.cmp(changed),
            };
            match order {
                std::cmp::Ordering::Less => return self.rows.next(),
                std::cmp::Ordering::Equal => {
                    self.rows.next();
                }
                std::cmp::Ordering::Greater => {}
            }
            if let Some((key, Some(value))) = self.changes.next() {
                return Some(Ok((key, value)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ops::Bound;

    use proptest::prelude::*;

    use super::super::engine::MemoryEngine;
    use super::*;

    fn key(n: u8) -> Bytes {
        Bytes::copy_from_slice(&[n])
    }

    proptest! {
        #[test]
        fn layers_read_like_one_map(
            runs in proptest::collection::vec(proptest::collection::btree_map(0u8..20, proptest::option::of(0u8..9), 0..8), 1..9),
            from in 0u8..20, to in 0u8..20, reverse: bool,
        ) {
            let mut layers = Layers::new(MemoryEngine::default());
            let mut model = BTreeMap::new();
            let (open, frozen) = runs.split_last().expect("at least one");
            for run in frozen {
                for (k, v) in run {
                    match v { Some(v) => model.insert(*k, *v), None => model.remove(k) };
                }
                layers.push(run.iter().map(|(k, v)| (key(*k), v.map(key))).collect()).unwrap();
            }
            for (k, v) in &model {
                prop_assert_eq!(layers.get(&[*k]).unwrap(), Some(key(*v)));
            }
            for (k, v) in open {
                match v { Some(v) => model.insert(*k, *v), None => model.remove(k) };
            }
            let range = KeyRange { from: Bound::Included(key(from)), to: Bound::Included(key(to)), reverse };
            let mut changes: Vec<_> = open.iter().filter(|(k, _)| (from..=to).contains(k))
                .map(|(k, v)| (key(*k), v.map(key))).collect();
            if reverse { changes.reverse(); }
            let got: Vec<_> = layers.range(&range, changes.into_iter()).map(|r| r.map(|(k, v)| (k[0], v[0])).unwrap()).collect();
            let mut want: Vec<_> = if from <= to { model.range(from..=to).map(|(k, v)| (*k, *v)).collect() } else { vec![] };
            if reverse { want.reverse(); }
            prop_assert_eq!(&got, &want);
            let view = layers.view(&[Arc::new(open.iter().map(|(k, v)| (key(*k), v.map(key))).collect())]);
            let seen: Vec<_> = view.range(&range).map(|r| r.map(|(k, v)| (k[0], v[0])).unwrap()).collect();
            prop_assert_eq!(seen, want, "other threads see the same");
            prop_assert_eq!(view.approximate_len().unwrap(), model.len() as u64);
            for k in 0..20 {
                prop_assert_eq!(view.get(&[k]).unwrap(), model.get(&k).map(|v| key(*v)));
            }
        }
    }
}
