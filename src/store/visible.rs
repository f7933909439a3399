//! What other threads see of a store: its layers as they were when the worker last published.
//!
//! A store has two faces (`isolation.level`, as for consumers). The uncommitted one is published at the end of a slice of
//! records, never in the middle of one; the committed one when a commit is through, so that it never shows what may still
//! be aborted. Both are exchanged as a whole: readers hold either what was before or what is after. A face costs what has
//! changed since the last time, and nothing before anybody asks for it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::engine::SortedRun;
use super::layers::View;
use super::row_key::RowKey;
use crate::config::IsolationLevel;

/// The places where the worker that owns a store and its readers meet.
#[derive(Default)]
pub(crate) struct Visible {
    pub(crate) uncommitted: Face,
    pub(crate) committed: Face,
}

impl Visible {
    /// What readers of this level look at.
    pub(crate) fn face(&self, level: IsolationLevel) -> &Face {
        match level {
            IsolationLevel::ReadCommitted => &self.committed,
            _ => &self.uncommitted,
        }
    }

    /// There is nothing more to see.
    pub(crate) fn close(&self) {
        self.uncommitted.close();
        self.committed.close();
    }
}

/// One of these places.
#[derive(Default)]
pub(crate) struct Face {
    wanted: AtomicBool,
    /// How often it was shown.
    version: AtomicU64,
    shown: Mutex<Shown>,
    first: Condvar,
}

#[derive(Default)]
enum Shown {
    #[default]
    Nothing,
    View(Arc<View>),
    /// The task is no longer this worker's.
    Closed,
}

/// Why there is nothing to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unseen {
    Closed,
    /// The worker has not come round to it in time.
    NotYet,
}

impl Face {
    fn lock(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the worker publishes the store.
    pub(crate) fn want(&self) {
        self.wanted.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    /// The lock is held for the exchange of one reference.
    pub(super) fn show(&self, view: View) {
        let mut shown = self.lock();
        let before = match *shown {
            Shown::Closed => return,
            _ => std::mem::replace(&mut *shown, Shown::View(Arc::new(view))),
        };
        self.version.fetch_add(1, Ordering::Release);
        drop(shown);
        if let Shown::Nothing = before {
            self.first.notify_all();
        }
        // ORDER: what was before may be large, and is freed when nobody waits for the lock.
        drop(before);
    }

    fn close(&self) {
        let before = std::mem::replace(&mut *self.lock(), Shown::Closed);
        self.first.notify_all();
        drop(before);
    }

    /// How often the store was published: what was seen of it holds as long as this is the same.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The store as it was published last, and how often it was; `None` before the first time, and once it is closed.
    pub(crate) fn now(&self) -> Option<(Arc<View>, u64)> {
        match &*self.lock() {
            Shown::View(view) => Some((view.clone(), self.version())),
            Shown::Nothing | Shown::Closed => None,
        }
    }

    /// The store as it was published last. Only before the very first time is there anything to wait for.
    pub(crate) fn view(&self, patience: Duration) -> Result<Arc<View>, Unseen> {
        let nothing = |shown: &mut Shown| matches!(shown, Shown::Nothing);
        let waited = self.first.wait_timeout_while(self.lock(), patience, nothing);
        let (shown, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match &*shown {
            Shown::View(view) => Ok(view.clone()),
            Shown::Closed => Err(Unseen::Closed),
            Shown::Nothing => Err(Unseen::NotYet),
        }
    }
}

/// The worker's side: what has been published since the last commit, and what is to be next.
pub(super) struct Publisher {
    /// The keys of rows that have changed since.
    pub(super) fresh: Vec<RowKey>,
    /// The layers below have changed.
    pub(super) rebased: bool,
    /// Newest last, each at least twice as long as the next: a row is merged as often as the logarithm of their number.
    runs: Vec<Arc<SortedRun>>,
}

impl Publisher {
    /// The first time everything that is open is news, and so are the layers below.
    pub(super) fn new(open: &[RowKey]) -> Self {
        Self { fresh: open.to_vec(), rebased: true, runs: Vec::new() }
    }

    pub(super) fn runs(&self) -> &[Arc<SortedRun>] {
        &self.runs
    }

    pub(super) fn push(&mut self, run: SortedRun) {
        self.runs.push(Arc::new(run));
        while let [.., below, top] = &self.runs[..]
            && below.len() < 2 * top.len()
        {
            let merged = SortedRun::merged(below, top);
            self.runs.truncate(self.runs.len() - 2);
            self.runs.push(Arc::new(merged));
        }
    }

    /// Everything that was published since the last commit, which now is committed.
    pub(super) fn take(&mut self) -> SortedRun {
        let newest_first = self.runs.drain(..).rev();
        let merged = newest_first.reduce(|newer, older| Arc::new(SortedRun::merged(&older, &newer)));
        merged.map(Arc::unwrap_or_clone).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_stay_few_and_the_newest_row_wins(
            runs in proptest::collection::vec(proptest::collection::btree_map(0u8..200, any::<Option<u8>>(), 1..20), 0..60)
        ) {
            let bytes = |n: u8| Bytes::copy_from_slice(&[n]);
            let mut publisher = Publisher::new(&[]);
            let mut model = BTreeMap::new();
            for run in runs {
                publisher.push(run.iter().map(|(k, v)| (bytes(*k), v.map(bytes))).collect());
                model.extend(run);
                prop_assert!(publisher.runs().is_sorted_by(|below, top| below.len() >= 2 * top.len()));
            }
            prop_assert!(publisher.runs().len() <= 8);
            let want: SortedRun = model.into_iter().map(|(k, v)| (bytes(k), v.map(bytes))).collect();
            prop_assert_eq!(publisher.take(), want);
            prop_assert!(publisher.runs().is_empty());
        }
    }
}
