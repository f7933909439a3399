//! A thread of the pool: gathers what comes for its jobs, and applies the largest window when its memory is full.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;

use super::job::{Gathered, RestoreJob, Running};
use super::{RestoreEvent, Shared, Source};
use crate::client::fetch::{FetchEvent, Fetched, Opened};
use crate::error::{Error, ErrorKind, Result};

/// What a thread is told.
pub(super) enum ToThread {
    Begin(Box<RestoreJob>),
    Fetched(FetchEvent),
    /// The job is nobody's any more.
    Cancel(u64),
    /// The pool has ended.
    Stop,
}

pub(super) struct Thread<S> {
    shared: Arc<Shared>,
    source: Arc<S>,
    jobs: HashMap<u64, Running>,
    /// The memory of all its windows.
    held: usize,
    /// What of it the pool knows.
    known: usize,
    limit: usize,
}

impl<S: Source> Thread<S> {
    pub(super) fn new(shared: Arc<Shared>, source: Arc<S>, limit: usize) -> Self {
        Self { shared, source, jobs: HashMap::new(), held: 0, known: 0, limit }
    }

    pub(super) fn run(mut self, inbox: &Receiver<ToThread>) {
        while let Ok(message) = inbox.recv() {
            self.tell_held();
            let token = match &message {
                ToThread::Begin(job) => job.token,
                ToThread::Fetched(event) => event.token(),
                ToThread::Cancel(token) => {
                    self.forget(*token);
                    continue;
                }
                ToThread::Stop => return,
            };
            // What is left of a job that was cancelled is not worked off before its engine is let go.
            if !self.shared.is_running(token) {
                self.forget(token);
                continue;
            }
            let outcome = catch_unwind(AssertUnwindSafe(|| self.take(token, message)));
            if let Err(panic) = outcome {
                let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
                let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
                // What any of its jobs had in hand may be lost: a later mark would claim to hold it.
                let others = self.jobs.keys().copied().filter(|other| *other != token);
                for token in others.chain([token]).collect::<Vec<_>>() {
                    let text = format!(
                        "restoring stores panicked: {text}; start again to restore from the last run"
                    );
                    self.fail(token, Error::new(ErrorKind::Panic, text));
                }
                self.held = 0;
            }
        }
    }

    fn tell_held(&mut self) {
        // Wraps round where it becomes less, which is what is wanted.
        self.shared.held.fetch_add(self.held.wrapping_sub(self.known), Ordering::Relaxed);
        self.known = self.held;
    }

    fn take(&mut self, token: u64, message: ToThread) {
        let outcome = match message {
            ToThread::Begin(job) => Running::new(*job).map(|job| drop(self.jobs.insert(token, job))),
            ToThread::Fetched(FetchEvent::Data(fetched)) => self.gather(token, fetched),
            ToThread::Fetched(FetchEvent::Progress { next_offset, .. }) => {
                self.progress(token, next_offset, Gathered::default())
            }
            ToThread::Fetched(FetchEvent::Error { error, .. }) if error.is_retriable() => {
                self.shared.say(token, RestoreEvent::Trouble { token, error });
                Ok(())
            }
            ToThread::Fetched(FetchEvent::Error { error, range, .. }) => {
                self.end(token, |_| RestoreEvent::Failed { token, error, range });
                Ok(())
            }
            ToThread::Cancel(_) | ToThread::Stop => Ok(()),
        };
        if let Err(error) = outcome {
            self.fail(token, error);
        }
    }

    fn gather(&mut self, token: u64, mut fetched: Fetched) -> Result<()> {
        let next_offset = fetched.next_offset;
        let mut opened = Opened::new(&mut fetched);
        let mut gathered = Gathered::default();
        while let Some(batch) = opened.next() {
            let Some(job) = self.jobs.get_mut(&token) else { return Ok(()) };
            let before = job.bytes();
            // What one batch becomes may be far more than a thread's memory.
            let room = self.limit.saturating_sub(self.held - before) + self.limit / 2;
            let of_batch =
                job.gather(batch?, opened.fetch_offset(), room).map_err(|error| opened.locate(error))?;
            self.shared.applied_early.fetch_add(of_batch.spilt, Ordering::Relaxed);
            if of_batch.spilt > 0 {
                // ORDER: at the end of the batch, so that the mark gets there.
                job.apply()?;
            }
            self.held = self.held + job.bytes() - before;
            self.tell_held();
            gathered.records += of_batch.records;
            gathered.keyless += of_batch.keyless;
            while self.held > self.limit {
                self.apply_largest();
            }
        }
        // ORDER: when nothing refers to the frame any more, and before the last window is applied and the job done.
        drop((opened, fetched));
        self.progress(token, next_offset, gathered)
    }

    /// Applies the largest window of the thread: the fewer and larger the runs the better for the engine.
    fn apply_largest(&mut self) {
        let Some((&token, job)) = self.jobs.iter_mut().max_by_key(|(_, job)| job.bytes()) else {
            self.held = 0;
            return;
        };
        self.held -= job.bytes();
        self.shared.applied_early.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = job.apply() {
            self.fail(token, error);
        }
        self.tell_held();
    }

    fn progress(&mut self, token: u64, next_offset: i64, gathered: Gathered) -> Result<()> {
        let Some(job) = self.jobs.get_mut(&token) else { return Ok(()) };
        // Batches of a transaction that was aborted, control batches and what compaction has emptied count as well.
        job.position = job.position.max(next_offset);
        let position = job.position;
        let Gathered { records, keyless, .. } = gathered;
        self.shared.say(token, RestoreEvent::Progress { token, position, records, keyless });
        if !job.is_complete() {
            return Ok(());
        }
        self.held -= job.bytes();
        job.apply()?;
        self.end(token, |job| RestoreEvent::Done {
            token,
            position,
            leader_epoch: job.leader_epoch,
            engine: job.engine,
        });
        Ok(())
    }

    fn fail(&mut self, token: u64, error: Error) {
        let failed = RestoreEvent::Failed { token, error, range: None };
        self.forget(token);
        self.shared.finish(token, &*self.source, failed);
    }

    fn end(&mut self, token: u64, event: impl FnOnce(Running) -> RestoreEvent) {
        if let Some(job) = self.jobs.remove(&token) {
            self.held = self.held.saturating_sub(job.bytes());
            self.shared.finish(token, &*self.source, event(job));
        }
    }

    fn forget(&mut self, token: u64) {
        if let Some(job) = self.jobs.remove(&token) {
            self.held = self.held.saturating_sub(job.bytes());
        }
    }
}
