//! A worker: a thread that owns tasks and a producer.
//!
//! One pass of its loop: take what is in the mailbox, carry out what the coordinator asks, process some records of each
//! task, punctuate, let the producer's batches go, commit if it is time ([`commit`]). It sleeps in its mailbox only. While
//! it waits for a commit it goes on emptying the mailbox, and puts aside what would begin another.
//!
//! Three things can go wrong with it. A task fails: it is dropped uncommitted, the others go on until the application ends.
//! The worker fails (its records cannot be written): nothing is processed or committed any more. The worker is fenced,
//! because it did not give a task up in time: it drops all its tasks uncommitted, and the coordinator starts those anew
//! that are still this instance's.

mod commit;
mod observe;
mod picture;
mod slice;

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use self::picture::Picture;
use self::slice::Slice;
use super::app::AppShared;
use super::fetches::SharedFetcher;
use super::figures::{Activity, Reach, TaskFigures, WorkerFigures};
use super::gaps::Gap;
use super::idle::Idle;
use super::input::raw_batch;
use super::listener::News;
use super::message::{ChangelogStart, InputStart, TaskStart, ToCoordinator, ToWorker};
use super::metadata::WorkerState;
use super::output::{Output, TaskOutput};
use super::pulse::Pulse;
use super::task_timeout::TaskTimeout;
use super::workers::{Mouth, WorkerId};
use crate::client::Cluster;
use crate::client::admin::Isolation;
use crate::client::fetch::{FetchEvent, Fetched, LogState};
use crate::client::produce::Producer;
use crate::clock::{self, Clock};
use crate::config::Config;
use crate::error::{Error, ErrorClass, ErrorKind, Result};
use crate::group::Lease;
use crate::query::Registered;
use crate::record::TopicPartition;
use crate::store::AnyStore;
use crate::task::errors::{DropReason, ErrorPolicies};
use crate::task::queue::RawBatch;
use crate::task::{Task, TaskConfig};
use crate::task_id::TaskId;
use crate::topology::{AutoOffsetReset, Topology};

/// What a worker is made from.
pub(super) struct WorkerParts {
    pub(super) id: WorkerId,
    pub(super) index: usize,
    pub(super) inbox: Receiver<ToWorker>,
    pub(super) out: Mouth,
    pub(super) pulse: Arc<Pulse>,
    pub(super) producer: Producer,
    pub(super) live: Arc<SharedFetcher>,
    pub(super) bulk: Arc<SharedFetcher>,
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
    idle: Idle,
    /// What was committed last.
    committed: Option<i64>,
    reach: Reach,
}

struct Restore {
    store: Rc<dyn AnyStore>,
    at: TopicPartition,
    token: u64,
    position: i64,
    to: i64,
    /// Records without a key: no rows.
    keyless: u64,
    trouble: TaskTimeout,
    progress: observe::Progress,
}

struct Owned {
    task: Task,
    lease: Lease,
    inputs: Vec<Input>,
    /// Not empty while stores are being restored.
    restores: Vec<Restore>,
    running: bool,
    /// Since it runs.
    registered: Option<Registered>,
    starts: Vec<InputStart>,
    isolation: Isolation,
    /// The drops that the application knows of, in the order of the task's own list.
    reported: HashMap<(String, DropReason), u64>,
    /// The last slices went on without an input that had nothing for too long.
    forced: bool,
    figures: TaskFigures,
    /// Entered while the task works.
    span: tracing::Span,
    /// Since when there was nothing to process.
    idle_since: Option<Instant>,
}

/// What begins a commit, or the end.
enum Control {
    Revoke(Vec<Lease>),
    FlushAndCommit,
    Stop,
}

pub(super) struct Worker {
    id: WorkerId,
    index: usize,
    inbox: Receiver<ToWorker>,
    out: Mouth,
    pulse: Arc<Pulse>,
    output: Rc<RefCell<Output>>,
    live: Arc<SharedFetcher>,
    bulk: Arc<SharedFetcher>,
    topology: Topology,
    config: Arc<Config>,
    policies: ErrorPolicies,
    clock: Arc<dyn Clock>,
    owned: Vec<Owned>,
    /// Which task and which of its partitions a token stands for.
    tokens: HashMap<u64, (TaskId, usize)>,
    /// Where tasks stood in `owned` when they were last looked for.
    places: HashMap<TaskId, usize>,
    last_token: u64,
    gate: Option<i32>,
    control: VecDeque<Control>,
    /// The commit whose answer is awaited.
    awaited: Option<(u64, Option<Result<()>>)>,
    last_commit: u64,
    next_commit: Instant,
    /// A commit was refused, or not possible: it follows as soon as the gate opens.
    owes_commit: bool,
    /// Commits that are not refused for good and do not pass either.
    postponed: TaskTimeout,
    /// Counts what takes tasks away in the middle of a commit.
    losses: u64,
    failed: bool,
    /// To be closed after the next commit, because another worker gets them.
    moving: Vec<Lease>,
    picture: Picture,
    slice: Slice,
    /// Whose turn it is.
    turn: usize,
    figures: WorkerFigures,
    shared: Arc<AppShared>,
}

impl Worker {
    /// Runs a worker to its end, on its own thread.
    pub(super) fn run(parts: WorkerParts) {
        let WorkerParts {
            id,
            index,
            inbox,
            out,
            pulse,
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
        let postponed = TaskTimeout::new(config.task_timeout());
        let span = tracing::info_span!("worker", application = config.application_id(), worker = index);
        let _worker = span.entered();
        let now = clock::monotonic();
        let next_commit = now + config.commit_interval();
        let figures = WorkerFigures::new(&shared.registry, index, &config, clock.wall_ms(), now);
        let mut worker = Self {
            id,
            index,
            inbox,
            out: out.clone(),
            pulse,
            output,
            live,
            bulk,
            topology,
            config,
            policies,
            clock,
            owned: Vec::new(),
            tokens: HashMap::new(),
            places: HashMap::new(),
            last_token: 0,
            gate: None,
            control: VecDeque::new(),
            awaited: None,
            last_commit: 0,
            next_commit,
            owes_commit: false,
            postponed,
            losses: 0,
            failed: false,
            moving: Vec::new(),
            picture: Picture::new(clock::monotonic()),
            slice: Slice::new(),
            turn: 0,
            figures,
            shared,
        };
        // Code of a topology is guarded task by task; this is for suppliers, extractors of names, and our own mistakes.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| worker.work())) {
            let error = Error::new(ErrorKind::Panic, "a worker panicked").because(panic_text(&*panic));
            let response = worker.shared.uncaught.answer(&error);
            out.say(ToCoordinator::Failed { error, response });
        }
        out.say(ToCoordinator::Stopped { worker: id });
    }

    fn tell(&self, message: ToCoordinator) {
        self.out.say(message);
    }

    fn work(&mut self) {
        loop {
            self.pulse.beat();
            if self.pulse.is_dismissed() {
                return self.close_all();
            }
            while let Ok(message) = self.inbox.try_recv() {
                self.take(message);
            }
            while let Some(control) = self.control.pop_front() {
                match control {
                    Control::Revoke(leases) => self.revoke(leases),
                    Control::FlushAndCommit => {
                        self.commit_all();
                        self.tell(ToCoordinator::FlushedAndCommitted { worker: self.id });
                    }
                    Control::Stop => return self.stop(),
                }
            }
            if self.is_fenced() {
                self.give_up();
            }
            let began = clock::monotonic();
            let processed = if self.failed { 0 } else { self.process(began) };
            self.shared.processed.fetch_add(processed as u64, Ordering::Relaxed);
            let slice_end = clock::monotonic();
            self.figures.processed(processed, slice_end.saturating_duration_since(began));
            let called = if self.failed { 0 } else { self.punctuate() };
            if !self.failed {
                self.publish();
            }
            let now = clock::monotonic();
            self.figures.punctuated(called, now.saturating_duration_since(slice_end));
            self.look_after_producer(now);
            let requested = self.owned.iter().any(|o| o.running && o.task.commit_requested());
            if (requested && self.gate.is_some()) || now >= self.next_commit {
                self.commit_all();
            }
            if now >= self.figures.next_fold() {
                self.observe(now);
            }
            self.show(now);
            if processed == 0 {
                let wait = self.wait(now);
                self.pulse.rest();
                let idle = clock::monotonic();
                let message = self.inbox.recv_timeout(wait);
                self.pulse.beat();
                self.figures.spent(Activity::Idle, clock::monotonic().saturating_duration_since(idle));
                match message {
                    Ok(message) => self.take(message),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        }
    }

    /// How long nothing is to be done if nothing comes.
    fn wait(&self, now: Instant) -> Duration {
        let next = self.next_commit.min(self.figures.next_fold());
        let mut wait = self.config.poll().min(next.saturating_duration_since(now));
        if let Some(at) = self.output.borrow().producer.next_poll() {
            wait = wait.min(at.saturating_duration_since(now));
        }
        if let Some(at) = self.picture.due() {
            wait = wait.min(at.saturating_duration_since(now));
        }
        let wall = self.clock.wall_ms();
        let paused = self.shared.control.is_paused();
        for owned in self.owned.iter().filter(|o| o.running && !paused) {
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
            ToWorker::Move(leases) => {
                self.moving.extend(leases);
                self.next_commit = clock::monotonic();
            }
            ToWorker::Revoke(tasks) => self.control.push_back(Control::Revoke(tasks)),
            ToWorker::Lost(tasks) => {
                for task in tasks {
                    self.drop_task(task);
                }
                self.losses += 1;
                // ORDER: nothing that was made for lost tasks is sent any more; the producer starts afresh after that.
                self.output.borrow().producer.fence();
                self.renew();
            }
            ToWorker::Gate(gate) => {
                self.gate = gate;
                if gate.is_some() && std::mem::take(&mut self.owes_commit) {
                    self.next_commit = clock::monotonic();
                }
            }
            ToWorker::FlushAndCommit => self.control.push_back(Control::FlushAndCommit),
            ToWorker::Fetched(event) => self.fetched(event),
            ToWorker::Committed { commit, outcome } => {
                if let Some((awaited, answer)) = &mut self.awaited
                    && *awaited == commit
                {
                    *answer = Some(outcome);
                }
            }
            ToWorker::Counts(counts) => {
                let known = self.output.borrow_mut().know(counts);
                if let Err(error) = known {
                    self.fail(None, error);
                }
            }
            ToWorker::ProducerProgress | ToWorker::StoreWanted => {}
            ToWorker::LookAgain => self.share_cache(self.owned.len()),
            ToWorker::Stop => self.control.push_back(Control::Stop),
        }
    }

    /// Waits for a message and takes it in.
    fn pump(&mut self) {
        self.pulse.rest();
        let message = self.inbox.recv_timeout(self.config.poll().max(Duration::from_millis(1)));
        self.pulse.beat();
        match message {
            Ok(message) => self.take(message),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => self.control.push_back(Control::Stop),
        }
    }

    // ---- tasks ----

    fn token(&mut self) -> u64 {
        self.last_token += 1;
        self.id.token(self.last_token)
    }

    /// A task's part of the record cache: workers share it evenly, and so do the tasks of each.
    fn cache_share(&self, tasks: usize) -> usize {
        let worker = self.config.cache_bytes() / self.shared.control.workers().max(1);
        // A share of nothing would turn the cache off.
        if worker == 0 { 0 } else { (worker / tasks.max(1)).max(1) }
    }

    /// Gives each task that is here its share, as if there were so many tasks.
    fn share_cache(&mut self, tasks: usize) {
        let share = self.cache_share(tasks);
        self.owned.iter_mut().for_each(|owned| owned.task.share_cache(share));
    }

    fn start(&mut self, start: TaskStart) -> Result<()> {
        let TaskStart { lease, inputs, changelogs, partitions, isolation } = start;
        let id = lease.task;
        // A tenure before this one, of which the worker has not heard the end because it was fenced.
        self.drop_task(id);
        let mut subtopologies = self.topology.inner.subtopologies.iter();
        let subtopology = subtopologies.find(|s| s.id == id.subtopology).ok_or_else(|| {
            Error::new(ErrorKind::Topology, format!("the topology has no part for task {id}"))
        })?;
        self.output.borrow_mut().know(partitions)?;
        let collector = TaskOutput { shared: self.output.clone(), clock: self.clock.clone() };
        let config = TaskConfig {
            task: id,
            application_id: self.config.application_id().into(),
            partitions: inputs.iter().map(|input| input.at.clone()).collect(),
            policies: self.policies.clone(),
            cache_bytes: self.cache_share(self.owned.len() + 1),
        };
        let task = Task::build(&subtopology.plan, config, Box::new(collector), self.clock.clone())?;
        let mut restores = Vec::new();
        for ChangelogStart { store, at, from, to } in changelogs {
            let kept = task.stores().iter().find(|s| *s.name() == store).cloned();
            let Some(store) = kept else { continue };
            let token = self.token();
            let trouble = TaskTimeout::new(self.config.task_timeout());
            let progress = observe::Progress::new(id, &store, &at, (from, to), &self.config);
            let restore =
                Restore { store, at: at.clone(), token, position: from, to, keyless: 0, trouble, progress };
            self.restoring(|| News::RestoreStart { store: restore.what(id), from, to });
            if from >= to {
                self.restoring(|| News::RestoreEnd { store: restore.what(id), records: 0 });
                continue;
            }
            self.tokens.insert(token, (id, restores.len()));
            restores.push(restore);
            self.bulk.assign(at, from, token, lease.epoch);
        }
        tracing::info!(task = %id, changelogs = restores.len(), "restoring");
        self.share_cache(self.owned.len() + 1);
        self.picture.stale = true;
        let figures = self.figures.task(id, &task);
        let owned = Owned {
            task,
            lease,
            inputs: Vec::new(),
            restores,
            running: false,
            registered: None,
            starts: inputs,
            isolation,
            reported: HashMap::new(),
            forced: false,
            figures,
            span: tracing::info_span!("task", task = %id),
            idle_since: None,
        };
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
            let epoch = owned.lease.epoch;
            owned.task.start_at(source, start.offset);
            owned.task.restore_partition_time(source, start.partition_time);
            owned.inputs.push(Input {
                at: start.at.clone(),
                token,
                reset: start.reset,
                idle: Idle::default(),
                committed: Some(start.offset),
                reach: Reach::default(),
            });
            self.live.assign(start.at, start.offset, token, epoch);
        }
        let owned = &mut self.owned[at];
        let Owned { task, span, .. } = owned;
        span.in_scope(|| task.init())?;
        owned.running = true;
        owned.registered = Some(self.shared.queries.enter(id, self.id.number(), owned.task.stores()));
        self.picture.stale = true;
        owned.task.publish()?;
        tracing::info!(task = %id, "running");
        let lease = owned.lease;
        self.tell(ToCoordinator::Running(lease));
        Ok(())
    }

    /// Takes a task away from the worker, without a commit.
    fn drop_task(&mut self, id: TaskId) -> Option<Owned> {
        let at = self.owned.iter().position(|o| o.lease.task == id)?;
        let mut owned = self.owned.remove(at);
        owned.report_drops(&self.shared);
        owned.observe(clock::monotonic());
        self.figures.closed();
        for input in &owned.inputs {
            self.live.revoke(input.at.clone(), input.token);
            self.tokens.remove(&input.token);
        }
        self.share_cache(self.owned.len());
        self.picture.stale = true;
        for restore in &owned.restores {
            let records = restore.progress.records;
            self.restoring(|| News::RestoreSuspended { store: restore.what(id), records });
            self.bulk.revoke(restore.at.clone(), restore.token);
            self.tokens.remove(&restore.token);
        }
        Some(owned)
    }

    fn close_task(&mut self, id: TaskId) {
        if let Some(mut owned) = self.drop_task(id)
            && owned.running
            && let Err(error) = owned.span.in_scope(|| owned.task.close())
        {
            tracing::warn!(task = %id, ?error, "a processor failed while it was closed");
        }
    }

    fn revoke(&mut self, leases: Vec<Lease>) {
        self.commit_all();
        for lease in &leases {
            if self.owned.iter().any(|o| o.lease.task == lease.task && o.lease.epoch == lease.epoch) {
                self.close_task(lease.task);
            }
        }
        self.tell(ToCoordinator::Revoked(leases));
    }

    /// ORDER: commit, then close the tasks; the producer is drained by the commit.
    fn stop(&mut self) {
        self.show_as(WorkerState::Stopping);
        self.last_commit_of_all();
        self.close_all();
    }

    fn close_all(&mut self) {
        for task in self.owned.iter().map(|o| o.lease.task).collect::<Vec<_>>() {
            self.close_task(task);
        }
        self.observe(clock::monotonic());
    }

    fn is_fenced(&self) -> bool {
        self.output.borrow().producer.is_fenced()
    }

    /// What the producer held of any task is gone, so that none of them may be committed for as it is.
    fn give_up(&mut self) {
        tracing::warn!(
            worker = self.index,
            tasks = self.owned.len(),
            "fenced: the tasks are given up uncommitted"
        );
        let leases: Vec<Lease> = self.owned.iter().map(|o| o.lease).collect();
        for lease in &leases {
            self.drop_task(lease.task);
        }
        self.losses += 1;
        // They are given up already, and placed anew.
        self.moving.clear();
        self.renew();
        self.tell(ToCoordinator::GivenUp(leases));
    }

    /// Takes the producer into use again, with nothing in it.
    fn renew(&self) {
        let output = &mut *self.output.borrow_mut();
        output.producer.renew();
        drop(output.producer.take_failures());
        // ORDER: after that: who dismisses a worker says so first, and fences it then.
        if self.pulse.is_dismissed() {
            output.producer.fence();
        }
    }

    /// A task cannot go on: it is dropped uncommitted, and the coordinator decides what becomes of the rest. Without a
    /// task the whole worker cannot go on.
    fn fail(&mut self, task: Option<TaskId>, error: Error) {
        if self.is_fenced() {
            // Not its own fault: the main loop gives all tasks up.
            tracing::info!(?error, "a fenced worker fails");
            return;
        }
        tracing::error!(task = task.map(tracing::field::display), ?error, "a task failed");
        match task {
            Some(task) => _ = self.drop_task(task),
            None => self.failed = true,
        }
        let response = self.shared.uncaught.answer(&error);
        self.tell(ToCoordinator::Failed { error, response });
    }

    // ---- records ----

    fn fetched(&mut self, event: FetchEvent) {
        let token = match &event {
            FetchEvent::Data(fetched) => fetched.token,
            FetchEvent::Progress { token, .. } | FetchEvent::Error { token, .. } => *token,
        };
        // A token that is not known belongs to an assignment that has ended.
        let Some(&(id, place)) = self.tokens.get(&token) else { return };
        let Some(at) = self.place_of(id) else { return };
        let owned = &mut self.owned[at];
        let restoring = owned.restores.iter().position(|r| r.token == token);
        let before = owned.inputs.get(place).and_then(|input| input.reach.end);
        self.picture.stale |= restoring.is_some();
        let outcome = match (event, restoring) {
            (FetchEvent::Data(fetched), Some(at)) => {
                let restored = restore(&mut owned.restores[at], fetched);
                let (restore, listeners) = (&owned.restores[at], &self.shared.control.listeners);
                if let (Ok(records @ 1..), true) = (&restored, listeners.hear_restores()) {
                    let (store, next_offset, records) = (restore.what(id), restore.position, *records);
                    listeners.tell(News::BatchRestored { store, next_offset, records });
                }
                restored.map(drop)
            }
            (FetchEvent::Progress { next_offset, .. }, Some(at)) => {
                owned.restores[at].position = next_offset;
                owned.restores[at].trouble.progress();
                Ok(())
            }
            (FetchEvent::Data(fetched), None) => {
                let input = &mut owned.inputs[place];
                input.reach.fetched_bytes += fetched.records.len() as u64;
                input.heard(fetched.next_offset, fetched.log, owned.isolation);
                owned.task.push(place, raw_batch(fetched));
                Ok(())
            }
            (FetchEvent::Progress { next_offset, log, .. }, None) => {
                owned.inputs[place].heard(next_offset, log, owned.isolation);
                Ok(())
            }
            (FetchEvent::Error { error, .. }, restoring) if error.is_retriable() => {
                tracing::warn!(task = %id, ?error, "cannot fetch yet");
                let trouble = restoring.map(|at| &mut owned.restores[at].trouble);
                match trouble.map(|trouble| (trouble.failed(clock::monotonic()), trouble)) {
                    Some((true, trouble)) => {
                        Err(trouble.error(format_args!("task {id}"), "its changelog cannot be read", error))
                    }
                    _ => Ok(()),
                }
            }
            (FetchEvent::Error { error, range, .. }, None) => self.out_of_range(id, place, error, range),
            (FetchEvent::Error { error, range: Some(range), .. }, Some(at)) => {
                let Restore { at, position: wanted, .. } = &owned.restores[at];
                Err(Gap { task: id, at, wanted: *wanted, range, cause: error }.in_changelog())
            }
            (FetchEvent::Error { error, .. }, Some(_)) => {
                Err(Error::new(ErrorKind::Store, "a changelog cannot be read: the state cannot be restored")
                    .with_class(ErrorClass::CorruptTask)
                    .because(error))
            }
        };
        self.picture.stale |= self.end_of(id, place) != before;
        let outcome = match restoring {
            Some(_) => outcome.and_then(|()| self.restored(id)),
            None => outcome,
        };
        if let Err(error) = outcome {
            self.fail(Some(id), error);
        }
    }

    /// Where a task stands in `owned`, without going through a thousand others for every delivery.
    fn place_of(&mut self, id: TaskId) -> Option<usize> {
        let is_it = |owned: &&Owned| owned.lease.task == id;
        if let Some(at) = self.places.get(&id)
            && self.owned.get(*at).as_ref().is_some_and(is_it)
        {
            return Some(*at);
        }
        let at = self.owned.iter().position(|owned| is_it(&owned))?;
        self.places.insert(id, at);
        Some(at)
    }

    fn end_of(&mut self, id: TaskId, place: usize) -> Option<i64> {
        let at = self.place_of(id)?;
        self.owned[at].inputs.get(place)?.reach.end
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
            if restore.keyless > 0 {
                tracing::warn!(changelog = %restore.at, count = restore.keyless, "records without a key are no rows: passed over");
                self.shared.dropped(&restore.at.topic, DropReason::NullKey, restore.keyless);
            }
            restore.progress.done(restore.position);
            self.tokens.remove(&restore.token);
            self.restoring(|| News::RestoreEnd {
                store: restore.what(id),
                records: restore.progress.records,
            });
            self.bulk.revoke(restore.at, restore.token);
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
        let Some((start, end)) = range else { return Err(error) };
        let wanted = error.offset().unwrap_or(-1);
        let gap = |cause| Gap { task: id, at: &input.at, wanted, range: (start, end), cause };
        let Some(reset) = input.reset else { return Err(gap(error).in_repartition_topic()) };
        let offset = match reset {
            AutoOffsetReset::Earliest | AutoOffsetReset::ByDuration(_) => start,
            AutoOffsetReset::Latest => end,
            AutoOffsetReset::None => return Err(gap(error).in_source_topic()),
        };
        tracing::error!(partition = %input.at, ?error, offset, "records are gone: going on elsewhere, as auto.offset.reset says");
        self.tokens.remove(&input.token);
        input.token = token;
        input.idle = Idle::default();
        // The log is another one than that of the offset committed last, even if the numbers agree.
        input.committed = None;
        // ORDER: what waits in the queue goes first; then the position is the new one, which may lie before the old, and
        // the records from there on are not taken for ones that were processed already.
        let restart = RawBatch { records: Box::new(std::iter::empty()), next_offset: offset, count: 0 };
        owned.task.push(place, restart);
        self.tokens.insert(token, (id, place));
        self.live.assign(input.at.clone(), offset, token, owned.lease.epoch);
        Ok(())
    }

    /// Processes some records of each task. Returns how many.
    fn process(&mut self, began: Instant) -> usize {
        let mut total = 0;
        if self.shared.control.is_paused() {
            return total;
        }
        let max_idle = self.config.max_task_idle();
        let mut before = began;
        for _ in 0..self.owned.len() {
            self.pulse.beat();
            let at = self.turn % self.owned.len();
            self.turn = at + 1;
            let Some(owned) = self.owned.get_mut(at).filter(|o| o.running) else { continue };
            if owned.task.is_at_rest() {
                continue;
            }
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
            let control = &self.shared.control;
            let go_on = || {
                let producer = &output.borrow().producer;
                producer.has_credit() && !producer.is_fenced() && !control.is_paused()
            };
            let Owned { task, span, .. } = owned;
            match span.in_scope(|| task.process(self.slice.records(), |source| ready[source], go_on)) {
                Ok(0) => self.picture.stale |= owned.idles(true),
                Ok(processed) => {
                    total += processed;
                    self.picture.stale |= owned.idles(false);
                    let now = clock::monotonic();
                    let took = now.saturating_duration_since(before);
                    self.slice.took(processed, took);
                    owned.sliced(took, self.clock.wall_ms());
                    if Slice::is_long(now.saturating_duration_since(began)) {
                        return total;
                    }
                    before = now;
                }
                Err(error) => {
                    let id = owned.lease.task;
                    self.fail(Some(id), error);
                    return total;
                }
            }
        }
        total
    }

    /// ORDER: between slices, so that readers never see half of one.
    fn publish(&mut self) {
        for at in (0..self.owned.len()).rev() {
            let owned = &self.owned[at];
            if owned.running
                && let Err(error) = owned.task.publish()
            {
                let task = owned.lease.task;
                self.fail(Some(task), error);
            }
        }
    }

    /// Calls the punctuations that are due. Returns how many.
    fn punctuate(&mut self) -> u64 {
        let (mut failures, mut called) = (Vec::new(), 0);
        if self.shared.control.is_paused() {
            return called;
        }
        for owned in self.owned.iter_mut().filter(|o| o.running) {
            let Owned { task, span, .. } = owned;
            let before = task.counts().punctuations;
            let punctuated =
                span.in_scope(|| task.punctuate_stream_time().and_then(|_| task.punctuate_wall_clock()));
            called += task.counts().punctuations - before;
            if let Err(error) = punctuated {
                failures.push((owned.lease.task, error));
            }
        }
        for (task, error) in failures {
            self.fail(Some(task), error);
        }
        called
    }
}

impl Input {
    fn heard(&mut self, next_offset: i64, log: LogState, isolation: Isolation) {
        let end = match isolation {
            Isolation::ReadCommitted => log.last_stable_offset,
            Isolation::ReadUncommitted => log.high_watermark,
        };
        self.idle.caught_up = Some(next_offset >= end);
        self.reach.end = Some(end);
    }
}

impl Owned {
    /// Adds the drops since the last time to the application's.
    fn report_drops(&mut self, shared: &AppShared) {
        for (node, reason, count) in self.task.drops() {
            let known = self.reported.entry((node.to_owned(), reason)).or_default();
            if count > *known {
                shared.dropped(node, reason, count - *known);
                *known = count;
            }
        }
    }

    /// Notes whether there was nothing to process; says whether that is news.
    fn idles(&mut self, idle: bool) -> bool {
        let news = idle != self.idle_since.is_some();
        if news {
            self.idle_since = idle.then(clock::monotonic);
        }
        news
    }

    /// Which inputs may be passed over when their queues are empty.
    fn ready_inputs(&mut self, max_idle: Option<Duration>) -> Result<Vec<bool>> {
        let heads: Vec<bool> = self.task.heads()?.iter().map(Option::is_some).collect();
        let now = clock::monotonic();
        self.forced = false;
        let forced = &mut self.forced;
        let ready = self.inputs.iter_mut().zip(heads).map(|(input, has_head)| {
            let over = input.idle.may_be_passed_over(has_head, max_idle, now);
            *forced |= over && !has_head && max_idle.is_some_and(|idle| !idle.is_zero());
            over
        });
        Ok(ready.collect())
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a text".to_owned())
}

/// Returns how many records were restored.
fn restore(restore: &mut Restore, fetched: Fetched) -> Result<u64> {
    let (next, mut records) = (fetched.next_offset, 0);
    for record in raw_batch(fetched).records {
        let record = record?;
        // Kafka compacts by key; a record without one cannot be a row.
        if let Some(key) = record.key {
            restore.store.restore(key, record.value, record.timestamp)?;
            records += 1;
        } else {
            restore.keyless += 1;
        }
    }
    restore.progress.records += records;
    restore.position = next;
    restore.trouble.progress();
    Ok(records)
}
