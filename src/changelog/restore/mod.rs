//! Restoring stores: a few threads that turn what is fetched of changelogs into sorted runs, many partitions at once.
//!
//! A job has its store's engine for itself until it is done. Its deliveries go to one thread, in order. There the newest
//! value of each key is gathered in a window; when the windows of a thread have filled its memory the largest is sorted
//! and applied, with a mark that says up to where the changelog is in the engine. A restore that is cut off goes on there.
//!
//! Back-pressure is the fetcher's: a frame's credit is given back when its records are gathered, so that an engine that is
//! slow holds back what is fetched for the jobs of its thread, and for no others.

mod job;
#[cfg(test)]
mod tests;
mod thread;
mod window;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::thread::{Thread, ToThread};
use crate::client::fetch::{FetchEvent, OnFetch};
use crate::error::{Error, ErrorKind, Result};
use crate::record::TopicPartition;
use crate::store::engine::Engine;
pub(crate) use job::RestoreJob;

/// What the windows of a thread may hold at most: places in a window are 32 bits, and a batch comes on top.
pub(crate) const LARGEST_WINDOW: usize = 1 << 30;

/// Who fetches for a pool. It is called under the pool's lock and must not wait.
pub(crate) trait Source: Send + Sync {
    /// Fetches a partition for the holder of a lease; `false` if it is somebody's with a newer one.
    fn assign(&self, at: TopicPartition, offset: i64, token: u64, epoch: u64) -> bool;
    /// Stops, if the partition is the token's.
    fn revoke(&self, at: TopicPartition, token: u64);
    /// Leaves the partition out for a while, or takes it in again, if it is the token's.
    fn pause(&self, at: TopicPartition, token: u64, paused: bool);
}

/// What a job has to say. After `Done` and `Failed`, and after it was cancelled, it says nothing more.
pub(crate) enum RestoreEvent {
    /// So many more records have been read.
    Progress {
        token: u64,
        /// Everything before it is in the engine, or waits to be applied.
        position: i64,
        /// Rows since the last event, deletions included.
        records: u64,
        /// Records without a key since the last event: they are no rows.
        keyless: u64,
    },
    /// Fetching has failed for a while, and goes on.
    Trouble { token: u64, error: Error },
    /// The job has ended; the engine is sound up to its last mark.
    Failed {
        token: u64,
        error: Error,
        /// The offsets `(log start, end)` that there are, when the next one is not among them.
        range: Option<(i64, i64)>,
    },
    /// The engine holds everything before `position`.
    Done {
        token: u64,
        position: i64,
        /// That of the last batch that was read; -1 if there was none.
        leader_epoch: i32,
        engine: Box<dyn Engine>,
    },
}

impl RestoreEvent {
    /// Whose it is.
    pub(crate) fn token(&self) -> u64 {
        match self {
            Self::Progress { token, .. }
            | Self::Trouble { token, .. }
            | Self::Failed { token, .. }
            | Self::Done { token, .. } => *token,
        }
    }
}

/// Where events go. It is called on threads of the pool, under its lock, and must neither wait nor panic.
pub(crate) type OnRestore = Arc<dyn Fn(RestoreEvent) + Send + Sync>;

/// How large a pool is.
#[derive(Debug, Clone)]
pub(crate) struct PoolOptions {
    /// The threads' names begin with it.
    pub(crate) name: String,
    /// How many threads there may be. They are started when there is work for them.
    pub(crate) threads: usize,
    /// The memory for what is gathered, in bytes, for all threads together.
    pub(crate) window_bytes: usize,
}

/// Where a job is.
struct Place {
    at: TopicPartition,
    thread: usize,
}

#[derive(Default)]
struct Registry {
    jobs: HashMap<u64, Place>,
    /// Those that have been started, with how many jobs they have.
    threads: Vec<(Sender<ToThread>, usize)>,
    closed: bool,
}

/// What a pool and its threads share. The lock is taken a delivery, not a record.
struct Shared {
    registry: Mutex<Registry>,
    on_event: OnRestore,
    /// The memory of all windows.
    held: AtomicUsize,
    applied_early: AtomicU64,
}

impl Registry {
    fn remove(&mut self, token: u64) -> Option<Place> {
        let place = self.jobs.remove(&token)?;
        self.threads[place.thread].1 -= 1;
        Some(place)
    }
}

impl Shared {
    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_running(&self, token: u64) -> bool {
        let registry = self.registry();
        !registry.closed && registry.jobs.contains_key(&token)
    }

    /// ORDER: under the lock, so that a job that was cancelled says nothing more.
    fn say(&self, token: u64, event: RestoreEvent) {
        let registry = self.registry();
        if registry.jobs.contains_key(&token) {
            (self.on_event)(event);
        }
    }

    /// The last word of a job. Nothing more is fetched for it.
    fn finish(&self, token: u64, source: &dyn Source, event: RestoreEvent) {
        let mut registry = self.registry();
        if let Some(place) = registry.remove(token) {
            source.revoke(place.at, token);
            (self.on_event)(event);
        }
    }
}

/// Restores stores from their changelogs until it is dropped. All calls return at once, from any thread.
pub(crate) struct RestorePool<S> {
    shared: Arc<Shared>,
    source: Arc<S>,
    options: PoolOptions,
}

impl<S> fmt::Debug for RestorePool<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RestorePool").field("options", &self.options).finish_non_exhaustive()
    }
}

impl<S: Source + 'static> RestorePool<S> {
    /// A pool without jobs. `source` makes who fetches for it, given where its events go.
    pub(crate) fn new(options: PoolOptions, source: impl FnOnce(OnFetch) -> S, on_event: OnRestore) -> Self {
        let shared = Arc::new(Shared {
            registry: Mutex::default(),
            on_event,
            held: AtomicUsize::new(0),
            applied_early: AtomicU64::new(0),
        });
        let to = shared.clone();
        let source = source(Arc::new(move |event: FetchEvent| {
            let registry = to.registry();
            // A token that is not known belongs to a job that has ended.
            if let Some(place) = registry.jobs.get(&event.token()) {
                let _ = registry.threads[place.thread].0.send(ToThread::Fetched(event));
            }
        }));
        Self { shared, source: Arc::new(source), options }
    }

    /// Who fetches for it.
    pub(crate) fn source(&self) -> &S {
        &self.source
    }

    /// Begins a job: its changelog is fetched from now on.
    ///
    /// # Errors
    /// A thread cannot be started, or the pool is closed.
    pub(crate) fn submit(&self, job: RestoreJob) -> Result<()> {
        let (token, at, from, epoch) = (job.token, job.at.clone(), job.from, job.epoch);
        let registry = &mut *self.shared.registry();
        if registry.closed {
            return Err(Error::new(
                ErrorKind::Closed,
                "the application is closing: nothing is restored any more",
            ));
        }
        let thread = self.thread(registry)?;
        // ORDER: known before it is fetched for, so that no delivery comes too early.
        registry.jobs.insert(token, Place { at: at.clone(), thread });
        let (inbox, jobs) = &mut registry.threads[thread];
        *jobs += 1;
        let _ = inbox.send(ToThread::Begin(Box::new(job)));
        if !self.source.assign(at, from, token, epoch) {
            // Whoever has it now has a newer lease; that this one has ended is on its way to who holds it.
            self.give_up(registry, token);
        }
        Ok(())
    }

    /// The thread with the fewest jobs, or a new one.
    fn thread(&self, registry: &mut Registry) -> Result<usize> {
        let least = registry.threads.iter().enumerate().min_by_key(|(_, (_, jobs))| *jobs);
        match least {
            Some((at, (_, jobs))) if *jobs == 0 || registry.threads.len() >= self.options.threads => Ok(at),
            _ => {
                let (inbox, messages) = channel();
                let limit = self.options.window_bytes / self.options.threads.max(1);
                let thread = Thread::new(self.shared.clone(), self.source.clone(), limit);
                let at = registry.threads.len();
                std::thread::Builder::new()
                    .name(format!("{}-restore-{at}", self.options.name))
                    .spawn(move || thread.run(&messages))
                    .map_err(|error| {
                        Error::new(ErrorKind::Io, "a thread for restoring stores cannot be started")
                            .because(error)
                    })?;
                registry.threads.push((inbox, 0));
                Ok(at)
            }
        }
    }

    /// Ends a job, unless it has ended: nothing is heard of it any more, and its thread lets go of the engine, which is left
    /// as its last mark says.
    pub(crate) fn cancel(&self, token: u64) {
        self.give_up(&mut self.shared.registry(), token);
    }

    /// As [`cancel`](Self::cancel), for all jobs whose tokens are meant.
    pub(crate) fn cancel_all(&self, is_meant: impl Fn(u64) -> bool) {
        let registry = &mut *self.shared.registry();
        let meant: Vec<u64> = registry.jobs.keys().copied().filter(|token| is_meant(*token)).collect();
        meant.into_iter().for_each(|token| self.give_up(registry, token));
    }

    fn give_up(&self, registry: &mut Registry, token: u64) {
        if let Some(place) = registry.remove(token) {
            self.source.revoke(place.at, token);
            let _ = registry.threads[place.thread].0.send(ToThread::Cancel(token));
        }
    }

    /// Fetches nothing more for a job, or fetches for it again. What is on its way is still worked off.
    pub(crate) fn pause(&self, token: u64, paused: bool) {
        let registry = self.shared.registry();
        if let Some(place) = registry.jobs.get(&token) {
            self.source.pause(place.at.clone(), token, paused);
        }
    }

    /// The bytes that are gathered and not applied.
    pub(crate) fn held(&self) -> usize {
        self.shared.held.load(Ordering::Relaxed)
    }

    /// How often something was applied before its restore was at the end, for want of memory.
    pub(crate) fn applied_early(&self) -> u64 {
        self.shared.applied_early.load(Ordering::Relaxed)
    }
}

impl<S> Drop for RestorePool<S> {
    /// The threads end by themselves, after the run that they apply just now; they let go of all engines.
    fn drop(&mut self) {
        let mut registry = self.shared.registry();
        registry.closed = true;
        for (thread, _) in &registry.threads {
            let _ = thread.send(ToThread::Stop);
        }
    }
}
