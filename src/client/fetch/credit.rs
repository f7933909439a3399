//! Who holds how many bytes of fetched frames.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::Notify;

/// The bytes that all partitions of a fetcher hold together.
#[derive(Debug, Default)]
pub(super) struct Budget {
    outstanding: AtomicUsize,
    pauses: AtomicU64,
    pub(super) given_back: Notify,
}

impl Budget {
    pub(super) fn outstanding(&self) -> usize {
        self.outstanding.load(Ordering::Acquire)
    }

    /// Partitions are left out from now on, because it is used up.
    pub(super) fn paused(&self) {
        self.pauses.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn pauses(&self) -> u64 {
        self.pauses.load(Ordering::Relaxed)
    }
}

/// A frame lives until its last slice is gone, and counts as long.
#[derive(Debug)]
pub(super) struct Frame {
    bytes: usize,
    budget: Arc<Budget>,
}

impl Frame {
    pub(super) fn new(bytes: usize, budget: &Arc<Budget>) -> Arc<Self> {
        budget.outstanding.fetch_add(bytes, Ordering::AcqRel);
        Arc::new(Self { bytes, budget: Arc::clone(budget) })
    }

    /// The credit of a partition for its part of the frame.
    pub(super) fn credit(self: &Arc<Self>, bytes: usize, partition: &Arc<AtomicUsize>) -> Credit {
        partition.fetch_add(bytes, Ordering::AcqRel);
        Credit { bytes, partition: Arc::clone(partition), frame: Some(Arc::clone(self)) }
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        self.budget.outstanding.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// Bytes that were delivered and are not worked off yet; dropping it gives them back.
#[derive(Debug)]
pub(crate) struct Credit {
    bytes: usize,
    partition: Arc<AtomicUsize>,
    frame: Option<Arc<Frame>>,
}

impl Credit {
    /// The credit of a partition, for a delivery that no fetcher has made.
    #[cfg(test)]
    pub(crate) fn of(bytes: usize, partition: &Arc<AtomicUsize>) -> Self {
        partition.fetch_add(bytes, Ordering::AcqRel);
        Self { bytes, partition: Arc::clone(partition), frame: None }
    }

    /// How many bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Credit {
    fn drop(&mut self) {
        self.partition.fetch_sub(self.bytes, Ordering::AcqRel);
        if let Some(frame) = self.frame.take() {
            let budget = Arc::clone(&frame.budget);
            // ORDER: the frame is given back before the task is woken to look at the budget.
            drop(frame);
            budget.given_back.notify_one();
        }
    }
}
