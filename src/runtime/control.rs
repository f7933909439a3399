//! What a handle can do to a running application, and ask of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::oneshot;

use super::app::{App, AppHandle, AppShared, AppState};
use super::listener::Listeners;
use super::message::ToCoordinator;
use super::metadata::{InstanceMetadata, Metadata, StoreLag, TaskMetadata, WorkerMetadata};
use super::state_dir;
use crate::error::{Error, ErrorKind, Result};

/// What the handle, the coordinator and the workers share for this.
#[derive(Default)]
pub(super) struct Control {
    paused: AtomicBool,
    /// How many workers share the record cache.
    workers: AtomicUsize,
    pub(super) metadata: Metadata,
    pub(super) listeners: Listeners,
}

impl Control {
    pub(super) fn new(workers: usize, listeners: Listeners) -> Self {
        Self { workers: AtomicUsize::new(workers), listeners, ..Self::default() }
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    pub(super) fn workers(&self) -> usize {
        self.workers.load(Ordering::Relaxed)
    }

    pub(super) fn set_workers(&self, workers: usize) {
        self.workers.store(workers, Ordering::Relaxed);
    }
}

impl AppShared {
    fn clean_up(&self) -> Result<()> {
        match self.state() {
            AppState::Created | AppState::NotRunning | AppState::Error => state_dir::clean_up(&self.config),
            state => Err(Error::new(
                ErrorKind::IllegalState,
                format!(
                    "the application is {state:?}: its local state can be deleted when it has ended, or before it is run"
                ),
            )),
        }
    }
}

impl App {
    /// Deletes the local state of this application on this host, process ids included: the application starts as a new
    /// instance, and reads its state back from the changelogs (`KafkaStreams.cleanUp`). What other running instances
    /// hold is left alone.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] if `state.dir` cannot be written.
    ///
    /// ```no_run
    /// # async fn f(app: mainstem::App, afresh: bool) -> mainstem::Result<()> {
    /// if afresh {
    ///     app.clean_up()?;
    /// }
    /// app.run().await
    /// # }
    /// ```
    pub fn clean_up(&self) -> Result<()> {
        self.shared.clean_up()
    }
}

impl AppHandle {
    /// As [`App::clean_up`].
    ///
    /// # Errors
    /// [`ErrorKind::IllegalState`] while the application runs; stop it first. [`ErrorKind::Config`] if `state.dir` cannot
    /// be written.
    ///
    /// ```no_run
    /// # async fn f(handle: mainstem::AppHandle) -> mainstem::Result<()> {
    /// handle.stop();
    /// handle.stopped().await;
    /// handle.clean_up()
    /// # }
    /// ```
    pub fn clean_up(&self) -> Result<()> {
        self.shared.clean_up()
    }

    /// Stops processing: no record is taken any more and no punctuation runs, until [`resume`](Self::resume)
    /// (`KafkaStreams.pause`, KIP-834). A record in hand is finished. The application stays in its group and in its
    /// state; it commits what was done, and takes part in rebalances; restores stand still as well. Records are fetched until
    /// `input.buffer.max.bytes` is full. Pausing before the application is run is allowed; pausing twice is pausing once.
    ///
    /// ```
    /// # use mainstem::prelude::*;
    /// # let builder = StreamsBuilder::new();
    /// # builder.stream::<String, String>("in").to("out");
    /// # let config = mainstem::Config::builder("app", "localhost:9092").build()?;
    /// # let app = mainstem::App::new(builder.build()?, config)?;
    /// let handle = app.handle();
    /// handle.pause();
    /// assert!(handle.is_paused());
    /// // ... `app.run()` takes part in the group and processes nothing, until:
    /// handle.resume();
    /// assert!(!handle.is_paused());
    /// # Ok::<_, mainstem::Error>(())
    /// ```
    pub fn pause(&self) {
        self.shared.control.paused.store(true, Ordering::Relaxed);
    }

    /// Goes on where [`pause`](Self::pause) stopped.
    ///
    /// ```no_run
    /// # async fn f(handle: mainstem::AppHandle, maintenance: impl Future<Output = ()>) {
    /// handle.pause();
    /// maintenance.await;
    /// handle.resume();
    /// # }
    /// ```
    pub fn resume(&self) {
        self.shared.control.paused.store(false, Ordering::Relaxed);
        // ORDER: after that; a worker that sleeps looks again. An application that has ended needs no telling.
        let _ = self.mailbox.send(ToCoordinator::Resumed);
    }

    /// Whether the application is paused.
    pub fn is_paused(&self) -> bool {
        self.shared.control.is_paused()
    }

    /// The workers of this instance with their tasks, as they were a moment ago (`KafkaStreams.metadataForLocalThreads`).
    /// Empty when the application does not run.
    ///
    /// ```no_run
    /// # fn f(handle: mainstem::AppHandle) {
    /// for worker in handle.workers() {
    ///     println!("{} is {:?} with {} tasks", worker.name, worker.state, worker.tasks.len());
    /// }
    /// # }
    /// ```
    pub fn workers(&self) -> Vec<WorkerMetadata> {
        self.shared.control.metadata.workers()
    }

    /// The active tasks of this instance, as they were a moment ago, by number.
    ///
    /// ```no_run
    /// # fn f(handle: mainstem::AppHandle) {
    /// for task in handle.tasks() {
    ///     for input in &task.inputs {
    ///         println!("{} has committed {:?} of {}", task.task, input.committed, input.partition);
    ///     }
    /// }
    /// # }
    /// ```
    pub fn tasks(&self) -> Vec<TaskMetadata> {
        let mut tasks: Vec<_> = self.workers().into_iter().flat_map(|worker| worker.tasks).collect();
        tasks.sort_by_key(|task| task.task);
        tasks
    }

    /// All instances of the application, this one included, as of the last assignment
    /// (`KafkaStreams.metadataForAllStreamsClients`). Empty before the first.
    ///
    /// ```no_run
    /// # fn f(handle: mainstem::AppHandle) {
    /// for instance in handle.instances().iter() {
    ///     println!("{} at {:?}: {:?}", instance.process_id, instance.endpoint, instance.active);
    /// }
    /// # }
    /// ```
    pub fn instances(&self) -> Arc<[InstanceMetadata]> {
        self.shared.control.metadata.instances()
    }

    /// Starts one more worker while the application runs, and gives its number (KIP-663, `KafkaStreams.addStreamThread`).
    /// Tasks move to it from the others at their next commit; the record cache is shared anew, and the group gives this
    /// instance a larger part of the work.
    ///
    /// # Errors
    /// [`ErrorKind::IllegalState`] when the application does not run; [`ErrorKind::Io`] if no thread can be started.
    ///
    /// ```no_run
    /// # async fn f(handle: mainstem::AppHandle) -> mainstem::Result<()> {
    /// while handle.workers().len() < 4 {
    ///     println!("worker {} has begun", handle.add_worker().await?);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn add_worker(&self) -> Result<usize> {
        self.ask(|answer| ToCoordinator::AddWorker { answer }).await
    }

    /// Ends the worker with the highest number, and gives that number when it has ended; `None` if there is no worker
    /// left (`KafkaStreams.removeStreamThread`). Its tasks are committed and go to the other workers. An instance without
    /// workers stays in the group and gets no tasks.
    ///
    /// # Errors
    /// [`ErrorKind::IllegalState`] when the application does not run, or ends meanwhile.
    ///
    /// ```no_run
    /// # async fn f(handle: mainstem::AppHandle) -> mainstem::Result<()> {
    /// if let Some(worker) = handle.remove_worker().await? {
    ///     println!("worker {worker} has ended");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn remove_worker(&self) -> Result<Option<usize>> {
        self.ask(|answer| ToCoordinator::RemoveWorker { answer }).await
    }

    /// How far the stores of this instance are behind their changelogs (KIP-535). The ends are asked from the brokers.
    ///
    /// # Errors
    /// [`ErrorKind::IllegalState`] when the application does not run, and what the brokers say.
    ///
    /// ```no_run
    /// # async fn f(handle: mainstem::AppHandle) -> mainstem::Result<()> {
    /// for store in handle.lags().await? {
    ///     println!("{} of {} is {} records behind", store.store, store.task, store.lag());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn lags(&self) -> Result<Vec<StoreLag>> {
        self.ask(|answer| ToCoordinator::Lags { answer }).await
    }

    /// Asks the coordinator of a running application.
    pub(super) async fn ask<T>(
        &self,
        question: impl FnOnce(oneshot::Sender<Result<T>>) -> ToCoordinator,
    ) -> Result<T> {
        let not_running = || {
            Error::new(
                ErrorKind::IllegalState,
                format!("the application is {:?}: run it first", self.state()),
            )
        };
        if !matches!(self.state(), AppState::Rebalancing | AppState::Running) {
            return Err(not_running());
        }
        let (answer, wait) = oneshot::channel();
        self.mailbox.send(question(answer)).map_err(|_| not_running())?;
        // It may have ended with the question in its mailbox.
        wait.await.unwrap_or_else(|_| Err(not_running()))
    }
}
