//! The keeper: a thread of an instance that does what is slow at the bottom of stores, so that no task waits for it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;

use super::engine::{Engine, SortedRun};
use super::faults;
use crate::error::{Error, ErrorKind, Result};

type Job = Box<dyn FnOnce() + Send>;

/// A hand on the keeper. Jobs are done one after another, in the order in which they were given.
#[derive(Debug, Clone)]
pub(crate) struct Keeper {
    jobs: Sender<Job>,
}

/// The thread itself; dropped, it ends when everything that it was given is done.
#[derive(Debug)]
pub(crate) struct KeeperThread {
    thread: Option<JoinHandle<()>>,
    done: mpsc::Receiver<()>,
}

impl Keeper {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`ErrorKind::Store`] if the system gives no thread.
    pub(crate) fn start() -> Result<(Self, KeeperThread)> {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (end, done) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("mainstem-keeper".to_owned())
            .spawn(move || {
                for job in inbox {
                    // An engine that panics must not take the stores of the whole instance with it: who waits is told.
                    if catch_unwind(AssertUnwindSafe(job)).is_err() {
                        tracing::error!("an engine panicked");
                    }
                }
                drop(end);
            })
            .map_err(|error| {
                Error::new(ErrorKind::Store, "the thread that keeps stores cannot be started").because(error)
            })?;
        Ok((Self { jobs }, KeeperThread { thread: Some(thread), done }))
    }

    /// Does something after everything that was given before.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] if the keeper has ended.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) -> Result<()> {
        self.jobs
            .send(Box::new(job))
            .map_err(|_| Error::new(ErrorKind::Closed, "the application ends: its stores are closed"))
    }

    /// Puts runs (oldest first) into an engine, as one, with a mark.
    pub(crate) fn hand_over(
        &self,
        mut engine: Box<dyn Engine>,
        runs: Vec<Arc<SortedRun>>,
        mark: Option<Bytes>,
    ) -> Result<HandOver> {
        let hand_over = HandOver::default();
        let unfinished = Unfinished(hand_over.clone());
        self.run(move || {
            let run = merged(&runs);
            faults::at("before-apply");
            let outcome = engine.apply(&run, mark.as_deref());
            // A store that is closed does not ask what became of it.
            match &outcome {
                Err(error) if mark.is_some() => tracing::warn!(
                    ?error,
                    "what was committed is not in the store's engine: it is read from the changelog again"
                ),
                Err(error) => tracing::warn!(?error, "a store without a changelog could not be saved"),
                Ok(()) => {}
            }
            faults::at("after-apply");
            unfinished.0.end(outcome);
        })?;
        Ok(hand_over)
    }
}

impl KeeperThread {
    /// Whether a wait has seen the end.
    pub(crate) fn has_ended(&self) -> bool {
        self.thread.is_none()
    }

    /// Waits until everything that was given is done and all hands are gone, but not longer than this. Whether it is.
    pub(crate) fn wait(&mut self, patience: Duration) -> bool {
        if let Err(mpsc::RecvTimeoutError::Timeout) = self.done.recv_timeout(patience) {
            return false;
        }
        if let Some(thread) = self.thread.take() {
            // It panics nowhere but in jobs, and these are caught.
            let _ = thread.join();
        }
        true
    }
}

/// All runs, oldest first, in one.
fn merged(runs: &[Arc<SortedRun>]) -> Arc<SortedRun> {
    let newest_first = runs.iter().rev().cloned();
    newest_first.reduce(|newer, older| Arc::new(SortedRun::merged(&older, &newer))).unwrap_or_default()
}

/// The keeper's side of a hand-over: if it goes without a word, that is an error.
struct Unfinished(HandOver);

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.0.end(Err(Error::new(
            ErrorKind::Store,
            "rows were not handed over to their engine: it panicked, or ends",
        )));
    }
}

/// A hand-over under way.
#[derive(Debug, Clone, Default)]
pub(crate) struct HandOver(Arc<Ending>);

#[derive(Debug, Default)]
struct Ending {
    outcome: OnceLock<Result<(), Arc<Error>>>,
    lock: Mutex<()>,
    ended: Condvar,
}

impl HandOver {
    /// The first word counts.
    fn end(&self, outcome: Result<()>) {
        let _ = self.0.outcome.set(outcome.map_err(Arc::new));
        drop(self.0.lock.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.ended.notify_all();
    }

    /// The outcome, if there is one yet.
    pub(crate) fn poll(&self) -> Option<Result<()>> {
        let outcome = self.0.outcome.get()?;
        Some(outcome.as_ref().copied().map_err(|error| {
            Error::new(error.kind(), "what a commit changed could not be handed over to the store's engine")
                .with_class(error.class())
                .because(error.clone())
        }))
    }

    /// Waits for the outcome, but not longer than this.
    pub(crate) fn wait_for(&self, patience: Duration) -> Option<Result<()>> {
        let guard = self.0.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if self.0.outcome.get().is_none() {
            // Whether it has ended or not is looked at next.
            drop(self.0.ended.wait_timeout(guard, patience).unwrap_or_else(PoisonError::into_inner));
        }
        self.poll()
    }

    /// Waits for the outcome.
    pub(crate) fn wait(&self) -> Result<()> {
        let mut guard = self.0.lock.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(outcome) = self.poll() {
                return outcome;
            }
            guard = self.0.ended.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
