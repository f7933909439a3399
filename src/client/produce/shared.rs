//! What the front and the back of a producer both see.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::clock;
use crate::error::Error;

/// Called by the back, on the I/O thread, when it is worth looking again: the credit is back, everything is done, or
/// something failed. It must not block.
pub(crate) type Progress = Arc<dyn Fn() + Send + Sync>;

/// A batch that was not written, or of which nobody can know.
#[derive(Debug)]
pub(crate) struct Failed {
    /// Its topic.
    pub(crate) topic: Arc<str>,
    /// Its partition.
    pub(crate) partition: i32,
    /// The whole batch, to be read with [`Batches`](crate::client::batch::Batches).
    pub(crate) batch: Bytes,
    /// The records (counted from 0) that the broker named as the reason; empty if it named none. The other records of
    /// the batch were not written either (KIP-467).
    pub(crate) guilty: Vec<usize>,
    /// Why.
    pub(crate) error: Error,
}

pub(super) struct Shared {
    /// Bytes handed over and not done.
    in_flight: AtomicUsize,
    /// Where falling in-flight bytes are worth a word to the worker.
    low_water: usize,
    send_epoch: AtomicU64,
    /// What `permit_until` counts from.
    origin: Instant,
    /// Milliseconds since `origin` from which on nothing is sent.
    permit_until: AtomicU64,
    failures: Mutex<Vec<Failed>>,
    any_failure: AtomicBool,
    /// The offsets behind what was written, by topic and partition.
    ends: Mutex<HashMap<Arc<str>, HashMap<i32, i64>>>,
    /// Whether a transactional producer may write, and why not.
    transactions: Mutex<(bool, Option<Arc<Error>>)>,
    retries: AtomicU64,
    given_up: AtomicU64,
    /// Wakes the back for a new send epoch.
    pub(super) wake: Notify,
    progress: Progress,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("in_flight", &self.in_flight()).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(low_water: usize, progress: Progress) -> Self {
        Self {
            in_flight: AtomicUsize::new(0),
            low_water,
            send_epoch: AtomicU64::new(0),
            origin: clock::monotonic(),
            permit_until: AtomicU64::new(u64::MAX),
            failures: Mutex::new(Vec::new()),
            any_failure: AtomicBool::new(false),
            ends: Mutex::default(),
            transactions: Mutex::default(),
            retries: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
            wake: Notify::new(),
            progress,
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    pub(super) fn send_epoch(&self) -> u64 {
        self.send_epoch.load(Ordering::SeqCst)
    }

    /// Whether anything may be sent at `now`.
    pub(super) fn permits(&self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.origin);
        elapsed < Duration::from_millis(self.permit_until.load(Ordering::SeqCst))
    }

    pub(super) fn handed_over(&self, bytes: usize) {
        self.in_flight.fetch_add(bytes, Ordering::SeqCst);
    }

    /// Gives the credit of a batch back.
    pub(super) fn done(&self, bytes: usize) {
        let before = self.in_flight.fetch_sub(bytes, Ordering::SeqCst);
        let after = before - bytes;
        if after == 0 || (before >= self.low_water && after < self.low_water) {
            (self.progress)();
        }
    }

    /// Puts a failure into the slot and gives the credit of its batch back.
    pub(super) fn failed(&self, failed: Failed, bytes: usize) {
        tracing::warn!(
            topic = &*failed.topic,
            partition = failed.partition,
            error = ?failed.error,
            "a batch was not written"
        );
        self.given_up.fetch_add(1, Ordering::Relaxed);
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).push(failed);
        self.any_failure.store(true, Ordering::SeqCst);
        // ORDER: after the slot, so that whoever sees the producer drained sees every failure.
        self.in_flight.fetch_sub(bytes, Ordering::SeqCst);
        (self.progress)();
    }

    /// Notes where a partition ends by the last answer.
    pub(super) fn wrote(&self, topic: &Arc<str>, partition: i32, end: i64) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        match ends.get_mut(&**topic) {
            Some(partitions) => partitions.insert(partition, end),
            None => ends.entry(topic.clone()).or_default().insert(partition, end),
        };
    }

    pub(super) fn end_offset(&self, topic: &str, partition: i32) -> Option<i64> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).get(topic)?.get(&partition).copied()
    }

    /// A batch has to be sent again.
    pub(super) fn tried_again(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// How many answers asked for a retry, and how many batches were given up.
    pub(super) fn troubles(&self) -> (u64, u64) {
        (self.retries.load(Ordering::Relaxed), self.given_up.load(Ordering::Relaxed))
    }

    /// How it stands with the transactions.
    pub(super) fn tell_transactions(&self, ready: bool, trouble: Option<&Arc<Error>>) {
        let mut told = self.transactions.lock().unwrap_or_else(PoisonError::into_inner);
        let same = match (&told.1, trouble) {
            (Some(told), Some(now)) => Arc::ptr_eq(told, now),
            (None, None) => true,
            _ => false,
        };
        if same && told.0 == ready {
            return;
        }
        *told = (ready, trouble.cloned());
        drop(told);
        (self.progress)();
    }

    pub(super) fn transactions(&self) -> (bool, Option<Arc<Error>>) {
        self.transactions.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// It is worth looking again.
    pub(super) fn progressed(&self) {
        (self.progress)();
    }

    pub(super) fn take_failures(&self) -> Vec<Failed> {
        if !self.any_failure.swap(false, Ordering::SeqCst) {
            return Vec::new();
        }
        std::mem::take(&mut *self.failures.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Stops a producer from another thread, for when its worker has lost its lease and may be stuck.
#[derive(Debug, Clone)]
pub(crate) struct Fence(pub(super) Arc<Shared>);

impl Fence {
    /// From now on nothing that the producer holds, or is given before [`Producer::renew`](super::Producer::renew), is
    /// sent; it is reported as failed with [`ErrorKind::Fenced`](crate::ErrorKind::Fenced). Requests already on their
    /// way cannot be called back.
    pub(crate) fn fence(&self) {
        self.0.send_epoch.fetch_add(1, Ordering::SeqCst);
        self.0.wake.notify_one();
    }
    /// Nothing is sent from this time on, until a later one is given: a process that was frozen, and whose tasks are
    /// somebody else's by now, writes nothing before it has noticed.
    pub(crate) fn permit_until(&self, until: Instant) {
        let until = until.saturating_duration_since(self.0.origin).as_millis();
        let until = u64::try_from(until).unwrap_or(u64::MAX);
        if self.0.permit_until.swap(until, Ordering::SeqCst) != until {
            self.0.wake.notify_one();
        }
    }
}
