//! The layer stack below a store's open changes: sorted runs frozen at commits, newest first, then the engine.
//!
//! Nothing gets here before it is committed: what is open, and what a transaction under way is about to commit (nothing is
//! processed meanwhile, so that it is the same), is in rows of the store's table alone. An abort drops those rows and has
//! nothing to do here, an engine holds no change that Kafka does not have, and a view of the layers is what is committed.

use std::iter::Peekable;
use std::sync::Arc;

use bytes::Bytes;

use super::engine::{Engine, EngineRead, KeyRange, Rows, SortedRun};
use super::keeper::{HandOver, Keeper};
use super::{HandOverWhen, faults};
use crate::error::Result;
use crate::record::Timestamp;

/// The bytes of committed changes after which they are handed over to an engine on disk, however much memory there is.
const HAND_OVER_BYTES: usize = 32 << 20;

/// The changelog records after which changes are handed over, if the last time is long enough ago.
const HAND_OVER_RECORDS: i64 = 1_000_000;

/// Committed runs over an engine.
pub(crate) struct Layers {
    /// Newest last. Those of a hand-over under way come first, and stay until the engine has them.
    runs: Vec<Arc<SortedRun>>,
    /// What the runs that are not being handed over take.
    bytes: usize,
    /// What those of the hand-over take.
    leaving: usize,
    hand_over: Option<Underway>,
    engine: Box<dyn Engine>,
    keeper: Option<Keeper>,
    /// Up to where the changelog is in the engine, the hand-over under way included.
    handed: i64,
    /// Up to where it is in all layers.
    next: i64,
}

/// A hand-over of the oldest runs.
struct Underway {
    runs: usize,
    ends: HandOver,
}

impl Layers {
    pub(crate) fn new(engine: impl Engine + 'static) -> Self {
        Self {
            runs: Vec::new(),
            bytes: 0,
            leaving: 0,
            hand_over: None,
            engine: Box::new(engine),
            keeper: None,
            handed: 0,
            next: 0,
        }
    }

    /// Puts other layers in place of these: an engine that has the changelog up to an offset.
    pub(crate) fn attach(&mut self, engine: Box<dyn Engine>, next: i64, keeper: Option<Keeper>) {
        (self.runs, self.bytes, self.leaving, self.hand_over) = (Vec::new(), 0, 0, None);
        // An engine that takes a run at once needs no keeper.
        self.keeper = keeper.filter(|_| engine.writer().is_some());
        (self.engine, self.handed, self.next) = (engine, next, next);
    }

    /// What the runs take.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes + self.leaving
    }

    /// Of this, what is on its way to the engine.
    pub(crate) fn leaving(&self) -> usize {
        self.leaving
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        match changed(&self.runs, key) {
            Some(value) => Ok(value.map(Bytes::copy_from_slice)),
            None => self.engine.get(key),
        }
    }

    /// What other threads see: the layers as they are now, with the runs of `open` changes (newest last) on top.
    pub(crate) fn view(&self, open: &[Arc<SortedRun>]) -> View {
        let runs = self.runs.iter().chain(open).cloned().collect();
        View { runs, engine: self.engine.snapshot(), visible_from: Timestamp::MIN }
    }

    /// Puts the run of a commit on top. `next` is the offset behind the last record that the store has in its changelog, if
    /// that is known. Says whether what lies below the runs has changed.
    pub(crate) fn commit(&mut self, run: SortedRun, next: Option<i64>) -> Result<bool> {
        self.next = self.next.max(next.unwrap_or(self.next));
        let settled = self.settle()?;
        if self.keeper.is_none() {
            if !run.is_empty() {
                self.engine.apply(&run, None)?;
            }
            return Ok(settled);
        }
        self.push(run);
        Ok(settled)
    }

    /// Waits for the hand-over under way. Says whether there was one.
    pub(crate) fn await_hand_over(&mut self) -> Result<bool> {
        if let Some(Underway { ends, .. }) = &self.hand_over {
            // How it ended is looked at next.
            let _ = ends.wait();
        }
        self.settle()
    }

    /// Whether the engine is on disk.
    pub(crate) fn is_on_disk(&self) -> bool {
        self.keeper.is_some()
    }

    /// Whether enough has gathered for a hand-over, and none is under way; or anything at all, for the last one.
    pub(crate) fn is_hand_over_due(&self, when: HandOverWhen) -> bool {
        let distance = self.next - self.handed;
        let far = match faults::hand_over_records() {
            Some(records) => distance >= records,
            None => when.far && distance >= HAND_OVER_RECORDS,
        };
        let enough = far || self.bytes >= when.bytes.min(HAND_OVER_BYTES);
        let due = (enough && self.hand_over.is_none())
            || (when.last && (self.bytes > 0 || self.next > self.handed));
        due && self.is_on_disk()
    }

    /// Lets the keeper put all runs into the engine. `mark` makes the mark for the offset up to which the changelog is in
    /// them; a store without a changelog has none.
    pub(crate) fn hand_over(&mut self, mark: Option<&dyn Fn(i64) -> Bytes>) -> Result<()> {
        self.settle()?;
        let (Some(keeper), Some(writer)) = (&self.keeper, self.engine.writer()) else { return Ok(()) };
        if self.runs.is_empty() && self.next == self.handed {
            return Ok(());
        }
        faults::at("begin");
        // ORDER: those of a hand-over under way are among them, so that the mark holds even if that one fails.
        let ends = keeper.hand_over(writer, self.runs.clone(), mark.map(|mark| mark(self.next)))?;
        self.hand_over = Some(Underway { runs: self.runs.len(), ends });
        (self.leaving, self.bytes, self.handed) = (self.leaving + self.bytes, 0, self.next);
        Ok(())
    }

    /// The hand-over under way.
    pub(crate) fn handing_over(&self) -> Option<HandOver> {
        self.hand_over.as_ref().map(|under_way| under_way.ends.clone())
    }

    fn push(&mut self, run: SortedRun) {
        if run.is_empty() {
            return;
        }
        self.runs.push(Arc::new(run));
        // Each is at least twice as long as the next: a look-up goes through few, and a row is merged seldom.
        let first = self.hand_over.as_ref().map_or(0, |under_way| under_way.runs);
        while let [.., below, top] = &self.runs[first..]
            && below.len() < 2 * top.len()
        {
            let merged = SortedRun::merged(below, top);
            self.runs.truncate(self.runs.len() - 2);
            self.runs.push(Arc::new(merged));
        }
        self.bytes = self.runs[first..].iter().map(|run| run.bytes()).sum();
    }

    /// Lets go of what is in the engine by now. Says whether there was anything.
    fn settle(&mut self) -> Result<bool> {
        let Some(outcome) = self.hand_over.as_ref().and_then(|under_way| under_way.ends.poll()) else {
            return Ok(false);
        };
        outcome?;
        faults::at("before-drop-runs");
        // ORDER: the engine has the rows before the runs go, so that a reader finds them in one or the other.
        if let Some(under_way) = self.hand_over.take() {
            self.runs.drain(..under_way.runs);
            self.leaving = 0;
        }
        faults::at("after-drop-runs");
        Ok(true)
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
fn changed<'a>(runs: &'a [Arc<SortedRun>], key: &[u8]) -> Option<Option<&'a [u8]>> {
    runs.iter().rev().find_map(|run| run.get(key))
}

/// Rows with runs (newest last) lying over them.
fn overlaid<'a>(runs: &'a [Arc<SortedRun>], mut rows: Rows<'a>, range: &KeyRange) -> Rows<'a> {
    for run in runs {
        rows = Box::new(Overlay::new(rows, run.range(range), range.reverse));
    }
    rows
}

/// A store as it was at one moment, for any thread.
pub(crate) struct View {
    /// Newest last.
    runs: Vec<Arc<SortedRun>>,
    engine: Arc<dyn EngineRead + Send + Sync>,
    /// Rows with a time before it are too old to be read.
    pub(super) visible_from: Timestamp,
}

impl View {
    /// The least time of a row that is not too old to be read.
    pub(crate) fn visible_from(&self) -> Timestamp {
        self.visible_from
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        match changed(&self.runs, key) {
            Some(value) => Ok(value.map(Bytes::copy_from_slice)),
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
            for (key, value) in run.iter() {
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
                layers.commit(run.iter().map(|(k, v)| (key(*k), v.map(key))).collect(), None).unwrap();
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
