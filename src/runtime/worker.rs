//! A worker: a thread that owns tasks and a producer.
//!
//! One pass of its loop: take what is in the mailbox, carry out what the coordinator asks, process some records of each
//! task, punctuate, let the producer's batches go, commit if it is time. It sleeps in its mailbox only. While it waits for
//! a commit it goes on emptying the mailbox, and puts aside what would begin another.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::mpsc::UnboundedSender;

use super::app::AppShared;
use super::input::raw_batch;
use super::message::{ChangelogStart, InputStart, TaskStart, ToCoordinator, ToWorker};
use super::output::{Output, TaskOutput};
use crate::client::Cluster;
use crate::client::admin::Isolation;
use crate::client::batch::Batches;
use crate::client::fetch::{FetchEvent, Fetched, Fetcher, LogState};
use crate::client::group::CommittedOffset;
use crate::client::produce::{Failed, Producer};
use crate::clock::{self, Clock};
use crate::config::Config;
use crate::error::{BoxError, Error, ErrorClass, ErrorKind, Result};
use crate::group::{Lease, OffsetMetadata};
use crate::record::TopicPartition;
use crate::store::AnyStore;
use crate::task::errors::{ErrorContext, ErrorPolicies, ErrorResponse, ErrorStage};
use crate::task::{Task, TaskConfig};
use crate::task_id::TaskId;
use crate::topology::{AutoOffsetReset, Topology};

/// Records of a task between two looks at the mailbox.
const SLICE: usize = 1000;

/// The worker's number in a fetch token.
pub(super) const WORKER_SHIFT: u32 = 48;

/// What a worker is made from.
pub(super) struct WorkerParts {
    pub(super) index: usize,
    pub(super) inbox: Receiver<ToWorker>,
    pub(super) out: UnboundedSender<ToCoordinator>,
    pub(super) producer: Producer,
    pub(super) live: Arc<Fetcher>,
    pub(super) bulk: Arc<Fetcher>,
    pub(super) cluster: Cluster,
    pub(super) io: Handle,
    pub(super) topology: Topology,
    pub(super) config: Arc<Config>,
    pub(super) policies: ErrorPolicies,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) shared: Arc<AppShared>,
}

/// A partition that a task reads, as far as the worker knows it.
struct Input {
    at: TopicPartition,
    token: u64,
    reset: Option<AutoOffsetReset>,
    /// Whether everything that the broker has is here; `None` before its first word.
    caught_up: Option<bool>,
    /// Since when the queue is empty while the broker has nothing either.
    idle_since: Option<Instant>,
    /// What was committed last.
    committed: Option<i64>,
}

struct Restore {
    store: Rc<dyn AnyStore>,
    at: TopicPartition,
    token: u64,
    position: i64,
    to: i64,
}

struct Owned {
    task: Task,
    lease: Lease,
    inputs: Vec<Input>,
    /// Not empty while stores are being restored.
    restores: Vec<Restore>,
    running: bool,
    starts: Vec<InputStart>,
    isolation: Isolation,
}

/// What begins a commit, or the end.
enum Control {
    Revoke(Vec<TaskId>),
    FlushAndCommit,
    Stop,
}

pub(super) struct Worker {
    index: usize,
    inbox: Receiver<ToWorker>,
    out: UnboundedSender<ToCoordinator>,
    output: Rc<RefCell<Output>>,
    live: Arc<Fetcher>,
    bulk: Arc<Fetcher>,
    topology: Topology,
    config: Arc<Config>,
    policies: ErrorPolicies,
    clock: Arc<dyn Clock>,
    owned: Vec<Owned>,
    /// Which task and which of its partitions a token stands for.
    tokens: HashMap<u64, (TaskId, usize)>,
    last_token: u64,
    gate: Option<i32>,
    control: VecDeque<Control>,
    /// The commit whose answer is awaited.
    awaited: Option<(u64, Option<Result<()>>)>,
    last_commit: u64,
    next_commit: Instant,
    failed: bool,
    shared: Arc<AppShared>,
}

/// How a commit ended.
#[derive(Debug, PartialEq, Eq)]
enum Committed {
    Yes,
    /// Not in this generation: to be tried again with the next lease.
    Later,
}

impl Worker {
    /// Runs a worker to its end, on its own thread.
    pub(super) fn run(parts: WorkerParts) {
        let WorkerParts {
            index,
            inbox,
            out,
            producer,
            live,
            bulk,
            cluster,
            io,
            topology,
            config,
            policies,
            clock,
            shared,
        } = parts;
        let output = Rc::new(RefCell::new(Output::new(producer, cluster, io)));
        let next_commit = clock::monotonic() + config.commit_interval();
        let mut worker = Self {
            index,
            inbox,
            out: out.clone(),
            output,
            live,
            bulk,
            topology,
            config,
            policies,
            clock,
            owned: Vec::new(),
            tokens: HashMap::new(),
            last_token: 0,
            gate: None,
            control: VecDeque::new(),
            awaited: None,
            last_commit: 0,
            next_commit,
            failed: false,
            shared,
        };
        worker.work();
        let _ = out.send(ToCoordinator::Stopped { worker: index });
    }

    fn tell(&self, message: ToCoordinator) {
        // The coordinator ends last; if it is gone there is nobody left to tell.
        let _ = self.out.send(message);
    }

    fn work(&mut self) {
        loop {
            while let Ok(message) = self.inbox.try_recv() {
                self.take(message);
            }
            while let Some(control) = self.control.pop_front() {
                match control {
                    Control::Revoke(tasks) => self.revoke(tasks),
                    Control::FlushAndCommit => {
                        self.commit_all();
                        self.tell(ToCoordinator::FlushedAndCommitted { worker: self.index });
                    }
                    Control::Stop => return self.stop(),
                }
            }
            let processed = self.process();
            self.shared.processed.fetch_add(processed as u64, Ordering::Relaxed);
            self.punctuate();
            let now = clock::monotonic();
            self.look_after_producer(now);
            let requested = self.owned.iter().any(|o| o.running && o.task.commit_requested());
            if requested || now >= self.next_commit {
                self.commit_all();
            }
            if processed == 0 {
                let wait = self.wait(now);
                match self.inbox.recv_timeout(wait) {
                    Ok(message) => self.take(message),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        }
    }

    /// How long nothing is to be done if nothing comes.
    fn wait(&self, now: Instant) -> Duration {
        let mut wait = self.config.poll().min(self.next_commit.saturating_duration_since(now));
        if let Some(at) = self.output.borrow().producer.next_poll() {
            wait = wait.min(at.saturating_duration_since(now));
        }
        let wall = self.clock.wall_ms();
        for owned in self.owned.iter().filter(|o| o.running) {
            if let Some(due) = owned.task.next_wall_clock_punctuation() {
                wait = wait.min(Duration::from_millis(u64::try_from(due - wall).unwrap_or(0)));
            }
        }
        wait
    }

    // ---- the mailbox ----

    fn take(&mut self, message: ToWorker) {
        match message {
            ToWorker::Start(start) => {
                let task = start.lease.task;
                if let Err(error) = self.start(*start) {
                    self.fail(Some(task), error);
                }
            }
            ToWorker::Leases(leases) => {
                for lease in leases {
                    if let Some(owned) = self.owned.iter_mut().find(|o| o.lease.task == lease.task) {
                        owned.lease = lease;
                    }
                }
            }
            ToWorker::Revoke(tasks) => self.control.push_back(Control::Revoke(tasks)),
            ToWorker::Lost(tasks) => {
                for task in tasks {
                    self.drop_task(task);
                }
                // ORDER: nothing that was made for lost tasks is sent any more; the producer starts afresh after that.
                let output = &mut *self.output.borrow_mut();
                output.producer.fence();
                output.producer.renew();
                drop(output.producer.take_failures());
            }
            ToWorker::Gate(gate) => self.gate = gate,
            ToWorker::FlushAndCommit => self.control.push_back(Control::FlushAndCommit),
            ToWorker::Fetched(event) => self.fetched(event),
            ToWorker::Committed { commit, outcome } => {
                if let Some((awaited, answer)) = &mut self.awaited
                    && *awaited == commit
                {
                    *answer = Some(outcome);
                }
            }
            ToWorker::ProducerProgress => {}
            ToWorker::Stop => self.control.push_back(Control::Stop),
        }
    }

    /// Waits for a message and takes it in.
    fn pump(&mut self) {
        match self.inbox.recv_timeout(self.config.poll().max(Duration::from_millis(1))) {
            Ok(message) => self.take(message),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => self.control.push_back(Control::Stop),
        }
    }

    // ---- tasks ----

    fn token(&mut self) -> u64 {
        self.last_token += 1;
        (self.index as u64) << WORKER_SHIFT | self.last_token
    }

    fn start(&mut self, start: TaskStart) -> Result<()> {
        let TaskStart { lease, inputs, changelogs, partitions, isolation } = start;
        let id = lease.task;
        let subtopologies = self.topology.inner.subtopologies.iter();
        let subtopology = subtopologies.filter(|s| s.id == id.subtopology).next_back().ok_or_else(|| {
            Error::new(ErrorKind::Topology, format!("the topology has no part for task {id}"))
        })?;
        self.output.borrow_mut().know(partitions);
        let collector = TaskOutput { shared: self.output.clone(), clock: self.clock.clone() };
        let config = TaskConfig {
            task: id,
            application_id: self.config.application_id().into(),
            partitions: inputs.iter().map(|input| input.at.clone()).collect(),
            policies: self.policies.clone(),
            // A worker's share; its tasks rarely fill theirs at once.
            cache_bytes: self.config.cache_bytes() / self.config.workers().max(1),
        };
        let task = Task::build(&subtopology.plan, config, Box::new(collector), self.clock.clone())?;
        let mut restores = Vec::new();
        for ChangelogStart { store, at, from, to } in changelogs {
            let kept = task.stores().iter().find(|s| *s.name() == store).cloned();
            let (Some(store), true) = (kept, from < to) else { continue };
            let token = self.token();
            self.tokens.insert(token, (id, restores.len()));
            restores.push(Restore { store, at: at.clone(), token, position: from, to });
            self.bulk.assign(at, from, token);
        }
        tracing::info!(task = %id, changelogs = restores.len(), "restoring");
        let owned =
            Owned { task, lease, inputs: Vec::new(), restores, running: false, starts: inputs, isolation };
        self.owned.push(owned);
        self.begin_if_restored(id)
    }

    /// Initialises a task whose stores are complete and lets its records come.
    fn begin_if_restored(&mut self, id: TaskId) -> Result<()> {
        let Some(at) = self.owned.iter().position(|o| o.lease.task == id) else { return Ok(()) };
        if self.owned[at].running || !self.owned[at].restores.is_empty() {
            return Ok(());
        }
        let sources: Vec<TopicPartition> = self.owned[at]
            .task
            .sources()
            .iter()
            .map(|source| TopicPartition::new(source.topic.clone(), source.partition))
            .collect();
        // ORDER: the inputs stand in the order of the task's queues.
        for (source, partition) in sources.into_iter().enumerate() {
            let starts = &mut self.owned[at].starts;
            let Some(start) = starts.iter().position(|s| s.at == partition).map(|s| starts.swap_remove(s))
            else {
                return Err(Error::new(
                    ErrorKind::Topology,
                    format!("task {id} has no offset for {partition}"),
                ));
            };
            let token = self.token();
            self.tokens.insert(token, (id, source));
            let owned = &mut self.owned[at];
            owned.task.restore_partition_time(source, start.partition_time);
            owned.inputs.push(Input {
                at: start.at.clone(),
                token,
                reset: start.reset,
                caught_up: None,
                idle_since: None,
                committed: Some(start.offset),
            });
            self.live.assign(start.at, start.offset, token);
        }
        let owned = &mut self.owned[at];
        owned.task.init()?;
        owned.running = true;
        tracing::info!(task = %id, "running");
        self.tell(ToCoordinator::Running(id));
        Ok(())
    }

    /// Takes a task away from the worker, without a commit.
    fn drop_task(&mut self, id: TaskId) -> Option<Owned> {
        let at = self.owned.iter().position(|o| o.lease.task == id)?;
        let owned = self.owned.remove(at);
        for input in &owned.inputs {
            self.live.revoke(input.at.clone());
            self.tokens.remove(&input.token);
        }
        for restore in &owned.restores {
            self.bulk.revoke(restore.at.clone());
            self.tokens.remove(&restore.token);
        }
        Some(owned)
    }

    fn close_task(&mut self, id: TaskId) {
        if let Some(mut owned) = self.drop_task(id)
            && owned.running
            && let Err(error) = owned.task.close()
        {
            tracing::warn!(task = %id, ?error, "a processor failed while it was closed");
        }
    }

    fn revoke(&mut self, tasks: Vec<TaskId>) {
        self.commit_all();
        for task in &tasks {
            self.close_task(*task);
        }
        self.tell(ToCoordinator::Revoked(tasks));
    }

    /// ORDER: commit, then close the tasks; the producer is drained by the commit.
    fn stop(&mut self) {
        if !self.failed {
            self.commit_all();
        }
        for task in self.owned.iter().map(|o| o.lease.task).collect::<Vec<_>>() {
            self.close_task(task);
        }
    }

    /// A task cannot go on: it is dropped uncommitted, and the coordinator decides what becomes of the rest.
    fn fail(&mut self, task: Option<TaskId>, error: Error) {
        tracing::error!(task = task.map(tracing::field::display), ?error, "a task failed");
        match task {
            Some(task) => _ = self.drop_task(task),
            None => self.failed = true,
        }
        self.tell(ToCoordinator::Failed { error });
    }

    // ---- records ----

    fn fetched(&mut self, event: FetchEvent) {
        let token = match &event {
            FetchEvent::Data(fetched) => fetched.token,
            FetchEvent::Progress { token, .. } | FetchEvent::Error { token, .. } => *token,
        };
        // A token that is not known belongs to an assignment that has ended.
        let Some(&(id, place)) = self.tokens.get(&token) else { return };
        let Some(owned) = self.owned.iter_mut().find(|o| o.lease.task == id) else { return };
        let restoring = owned.restores.iter().position(|r| r.token == token);
        let outcome = match (event, restoring) {
            (FetchEvent::Data(fetched), Some(at)) => restore(&mut owned.restores[at], fetched),
            (FetchEvent::Progress { next_offset, .. }, Some(at)) => {
                owned.restores[at].position = next_offset;
                Ok(())
            }
            (FetchEvent::Data(fetched), None) => {
                owned.inputs[place].heard(fetched.next_offset, fetched.log, owned.isolation);
                owned.task.push(place, raw_batch(fetched));
                Ok(())
            }
            (FetchEvent::Progress { next_offset, log, .. }, None) => {
                owned.inputs[place].heard(next_offset, log, owned.isolation);
                Ok(())
            }
            (FetchEvent::Error { error, .. }, _) if error.is_retriable() => {
                tracing::warn!(task = %id, ?error, "cannot fetch yet");
                Ok(())
            }
            (FetchEvent::Error { error, range, .. }, None) => self.out_of_range(id, place, error, range),
            (FetchEvent::Error { error, .. }, Some(_)) => {
                Err(Error::new(ErrorKind::Store, "a changelog cannot be read: the state cannot be restored")
                    .with_class(ErrorClass::CorruptTask)
                    .because(error))
            }
        };
        let outcome = outcome.and_then(|()| self.restored(id));
        if let Err(error) = outcome {
            self.fail(Some(id), error);
        }
    }

    /// Ends the restores of a task that are complete.
    fn restored(&mut self, id: TaskId) -> Result<()> {
        let Some(owned) = self.owned.iter_mut().find(|o| o.lease.task == id) else { return Ok(()) };
        if owned.running {
            return Ok(());
        }
        let (done, open): (Vec<_>, Vec<_>) = owned.restores.drain(..).partition(|r| r.position >= r.to);
        owned.restores = open;
        for restore in done {
            tracing::info!(task = %id, changelog = %restore.at, offset = restore.position, "restored");
            self.tokens.remove(&restore.token);
            self.bulk.revoke(restore.at);
        }
        self.begin_if_restored(id)
    }

    /// The broker does not have the offset: only a source topic may start elsewhere, and only as its policy says.
    fn out_of_range(
        &mut self,
        id: TaskId,
        place: usize,
        error: Error,
        range: Option<(i64, i64)>,
    ) -> Result<()> {
        let token = self.token();
        let Some(owned) = self.owned.iter_mut().find(|o| o.lease.task == id) else { return Ok(()) };
        let input = &mut owned.inputs[place];
        let (Some((start, end)), Some(reset)) = (range, input.reset) else { return Err(error) };
        let offset = match reset {
            AutoOffsetReset::Earliest | AutoOffsetReset::ByDuration(_) => start,
            AutoOffsetReset::Latest => end,
            AutoOffsetReset::None => return Err(error),
        };
        tracing::error!(partition = %input.at, ?error, offset, "records are gone: going on elsewhere, as auto.offset.reset says");
        self.tokens.remove(&input.token);
        input.token = token;
        self.tokens.insert(token, (id, place));
        self.live.assign(input.at.clone(), offset, token);
        Ok(())
    }

    /// Processes some records of each task. Returns how many.
    fn process(&mut self) -> usize {
        let mut total = 0;
        let max_idle = self.config.max_task_idle();
        for at in 0..self.owned.len() {
            let Some(owned) = self.owned.get_mut(at).filter(|o| o.running) else { continue };
            if !self.output.borrow().producer.has_credit() {
                return total;
            }
            let ready = match owned.ready_inputs(max_idle) {
                Ok(ready) => ready,
                Err(error) => {
                    let id = owned.lease.task;
                    self.fail(Some(id), error);
                    return total;
                }
            };
            let output = &self.output;
            let go_on = || output.borrow().producer.has_credit();
            match owned.task.process(SLICE, |source| ready[source], go_on) {
                Ok(processed) => total += processed,
                Err(error) => {
                    let id = owned.lease.task;
                    self.fail(Some(id), error);
                    return total;
                }
            }
        }
        total
    }

    fn punctuate(&mut self) {
        let mut failures = Vec::new();
        for owned in self.owned.iter_mut().filter(|o| o.running) {
            let punctuated =
                owned.task.punctuate_stream_time().and_then(|_| owned.task.punctuate_wall_clock());
            if let Err(error) = punctuated {
                failures.push((owned.lease.task, error));
            }
        }
        for (task, error) in failures {
            self.fail(Some(task), error);
        }
    }

    // ---- the producer ----

    fn look_after_producer(&mut self, now: Instant) {
        let polled = self.output.borrow_mut().producer.poll(now);
        let outcome = polled.and_then(|()| self.handle_failures());
        if let Err(error) = outcome {
            self.fail(None, error);
        }
    }

    /// Records that could not be written go to the production policy, one by one.
    fn handle_failures(&mut self) -> Result<()> {
        let failures = self.output.borrow().producer.take_failures();
        for failed in failures {
            self.handle_failure(failed)?;
        }
        Ok(())
    }

    fn handle_failure(&mut self, failed: Failed) -> Result<()> {
        let Failed { topic, partition, batch, guilty, error } = failed;
        if error.class() == ErrorClass::FencedLease {
            return Err(error);
        }
        let place = |error: Error| error.at_topic(&*topic).at_partition(partition);
        let error: BoxError = error.into();
        let mut again = Vec::new();
        for batch in Batches::new(batch) {
            for (at, record) in batch.and_then(|b| b.records()).map_err(place)?.enumerate() {
                let record = record.map_err(place)?;
                if !guilty.is_empty() && !guilty.contains(&at) {
                    again.push(record);
                    continue;
                }
                let context = ErrorContext {
                    topic: Some(&topic),
                    partition,
                    offset: -1,
                    node: "producer",
                    task: self
                        .owned
                        .first()
                        .map_or(TaskId { subtopology: -1, partition: -1 }, |o| o.lease.task),
                    timestamp: record.timestamp,
                    headers: &record.headers,
                    source_key: record.key.as_ref(),
                    source_value: record.value.as_ref(),
                };
                match self.policies.handler.handle(ErrorStage::Production, &error, &context) {
                    ErrorResponse::Continue => {
                        tracing::warn!(topic = &*topic, partition, %error, "dropped a record that cannot be written");
                    }
                    ErrorResponse::Fail => {
                        let text = "records cannot be written; set production.exception.handler to continue past them";
                        return Err(place(Error::new(ErrorKind::Production, text)).because(error));
                    }
                }
            }
        }
        let output = &mut *self.output.borrow_mut();
        let ix = output.producer.register(&topic, partition + 1)?;
        for record in again {
            let (key, value) = (record.key.as_deref(), record.value.as_deref());
            output.producer.send(ix, partition, record.timestamp, key, value, &record.headers)?;
        }
        Ok(())
    }

    // ---- commits ----

    fn commit_all(&mut self) {
        let outcome = self.commit();
        self.next_commit = clock::monotonic() + self.config.commit_interval();
        match outcome {
            Ok(Committed::Yes) => {}
            Ok(Committed::Later) => tracing::debug!(worker = self.index, "commit postponed"),
            Err(error) => self.fail(None, error),
        }
    }

    /// Caches are flushed, the producer is drained, the offsets are committed, the layers are published.
    fn commit(&mut self) -> Result<Committed> {
        let mut any = false;
        let mut failed = Vec::new();
        for owned in self.owned.iter_mut().filter(|o| o.running && o.task.commit_needed()) {
            any = true;
            if let Err(error) = owned.task.flush_caches() {
                failed.push((owned.lease.task, error));
            }
        }
        for (task, error) in failed {
            self.fail(Some(task), error);
        }
        if !any {
            return Ok(Committed::Yes);
        }
        // ORDER: the offsets are those of records whose effects the flush below has written.
        self.output.borrow_mut().producer.flush()?;
        loop {
            let drained = self.output.borrow().producer.is_drained();
            self.handle_failures()?;
            if drained && self.output.borrow().producer.is_drained() {
                break;
            }
            self.output.borrow_mut().producer.flush()?;
            self.pump();
        }
        let Some(generation) = self.gate else { return Ok(Committed::Later) };
        let offsets = self.offsets();
        let outcome = self.commit_offsets(generation, &offsets)?;
        if outcome == Committed::Yes {
            self.published(&offsets)?;
        }
        Ok(outcome)
    }

    fn offsets(&self) -> Vec<(TopicPartition, CommittedOffset)> {
        let mut offsets = Vec::new();
        for owned in self.owned.iter().filter(|o| o.running) {
            for (committable, input) in owned.task.committable().into_iter().filter_map(|c| {
                let input = owned.inputs.iter().find(|i| i.at == c.partition)?;
                Some((c, input))
            }) {
                if input.committed == Some(committable.offset) {
                    continue;
                }
                let metadata = OffsetMetadata {
                    partition_time: committable.partition_time,
                    ..OffsetMetadata::default()
                };
                let offset = CommittedOffset {
                    offset: committable.offset,
                    leader_epoch: None,
                    metadata: metadata.encode(),
                };
                offsets.push((committable.partition, offset));
            }
        }
        offsets
    }

    /// Commits until there is an answer that says yes or no.
    fn commit_offsets(
        &mut self,
        generation: i32,
        offsets: &[(TopicPartition, CommittedOffset)],
    ) -> Result<Committed> {
        if offsets.is_empty() {
            return Ok(Committed::Yes);
        }
        let deadline = clock::monotonic() + self.config.task_timeout();
        loop {
            self.last_commit += 1;
            let commit = self.last_commit;
            self.awaited = Some((commit, None));
            self.tell(ToCoordinator::Commit {
                worker: self.index,
                commit,
                generation,
                offsets: offsets.to_vec(),
            });
            let answer = loop {
                if let Some((_, answer @ Some(_))) = &mut self.awaited {
                    break answer.take();
                }
                if self.gate != Some(generation)
                    || matches!(self.control.back(), Some(Control::Stop)) && self.failed
                {
                    self.awaited = None;
                    return Ok(Committed::Later);
                }
                self.pump();
            };
            self.awaited = None;
            match answer {
                Some(Ok(())) => return Ok(Committed::Yes),
                Some(Err(error)) if error.class() == ErrorClass::FencedLease => {
                    tracing::info!(
                        ?error,
                        "the generation has gone on: the commit follows with the next lease"
                    );
                    self.tell(ToCoordinator::CommitRefused { generation });
                    return Ok(Committed::Later);
                }
                Some(Err(error)) if error.is_retriable() && clock::monotonic() < deadline => {
                    tracing::warn!(?error, "the commit is tried again");
                    self.pump();
                }
                Some(Err(error)) => return Err(error),
                None => return Ok(Committed::Later),
            }
        }
    }

    fn published(&mut self, offsets: &[(TopicPartition, CommittedOffset)]) -> Result<()> {
        for owned in self.owned.iter_mut().filter(|o| o.running) {
            for input in &mut owned.inputs {
                if let Some((_, offset)) = offsets.iter().find(|(at, _)| *at == input.at) {
                    input.committed = Some(offset.offset);
                }
            }
            owned.task.post_commit()?;
        }
        Ok(())
    }
}

impl Input {
    fn heard(&mut self, next_offset: i64, log: LogState, isolation: Isolation) {
        let end = match isolation {
            Isolation::ReadCommitted => log.last_stable_offset,
            Isolation::ReadUncommitted => log.high_watermark,
        };
        self.caught_up = Some(next_offset >= end);
    }
}

impl Owned {
    /// Which inputs may be passed over when their queues are empty (`PartitionGroup.readyToProcess`, KIP-695): those
    /// that are known to have nothing at the broker either, for long enough; all of them if `max.task.idle.ms` is -1.
    fn ready_inputs(&mut self, max_idle: Option<Duration>) -> Result<Vec<bool>> {
        let Some(max_idle) = max_idle else { return Ok(vec![true; self.inputs.len()]) };
        let heads: Vec<bool> = self.task.heads()?.iter().map(Option::is_some).collect();
        let now = clock::monotonic();
        let ready = self.inputs.iter_mut().zip(heads).map(|(input, has_head)| {
            if has_head {
                input.idle_since = None;
                return true;
            }
            if input.caught_up != Some(true) {
                return false;
            }
            now.duration_since(*input.idle_since.get_or_insert(now)) >= max_idle
        });
        Ok(ready.collect())
    }
}

fn restore(restore: &mut Restore, fetched: Fetched) -> Result<()> {
    let next = fetched.next_offset;
    for record in raw_batch(fetched).records {
        let record = record?;
        // Kafka compacts by key; a record without one cannot be a row.
        if let Some(key) = record.key {
            restore.store.restore(key, record.value, record.timestamp)?;
        }
    }
    restore.position = next;
    Ok(())
}
