//! A worker: a thread that owns tasks and a producer.
//!
//! One pass of its loop: take what is in the mailbox, carry out what the coordinator asks, process some records of each
//! task, punctuate, let the producer's batches go, commit if it is time ([`commit`]). It sleeps in its mailbox only. While
//! it waits for a commit it goes on emptying the mailbox, and puts aside what would begin another.
//!
//! Three things can go wrong with it. A task fails: it is dropped uncommitted, the others go on until the application ends.
//! The worker fails (its records cannot be written): nothing is processed or committed any more. The worker is fenced,
//! because it did not give a task up in time: it drops all its tasks uncommitted, and the coordinator starts those anew
//! that are still this instance's. Under exactly-once ([`transaction`]) a task that is dropped takes the open transaction
//! with it: the others go back to the last commit.

mod commit;
mod hand_over;
mod observe;
mod picture;
mod records;
mod restores;
mod slice;
mod transaction;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use self::hand_over::Changelog;
use self::picture::Picture;
use self::restores::Restore;
use self::slice::Slice;
use self::transaction::Transactions;
use super::app::AppShared;
use super::fetches::SharedFetcher;
use super::figures::{Activity, Reach, TaskFigures, WorkerFigures};
use super::idle::Idle;
use super::memory::{Action, Page};
use super::message::{ChangelogStart, Epochs, InputStart, TaskStart, ToCoordinator, ToWorker, UnloggedStart};
use super::metadata::WorkerState;
use super::output::{Output, TaskOutput};
use super::pulse::Pulse;
use super::task_timeout::TaskTimeout;
use super::workers::{Mouth, WorkerId};
use crate::changelog::restore::{RestoreJob, RestorePool};
use crate::client::Cluster;
use crate::client::admin::Isolation;
use crate::client::produce::Producer;
use crate::clock::{self, Clock};
use crate::config::Config;
use crate::error::{Error, ErrorClass, ErrorKind, Result};
use crate::group::Lease;
use crate::query::Registered;
use crate::record::TopicPartition;
use crate::store::keeper::Keeper;
use crate::task::Task;
use crate::task::errors::{DropReason, ErrorPolicies};
use crate::task_id::TaskId;
use crate::topology::{AutoOffsetReset, Subtopology, Topology};

/// What a worker is made from.
pub(super) struct WorkerParts {
    pub(super) id: WorkerId,
    pub(super) index: usize,
    pub(super) inbox: Receiver<ToWorker>,
    pub(super) out: Mouth,
    pub(super) pulse: Arc<Pulse>,
    pub(super) producer: Producer,
    pub(super) live: Arc<SharedFetcher>,
    pub(super) restores: Arc<RestorePool<SharedFetcher>>,
    pub(super) cluster: Cluster,
    pub(super) io: Handle,
    pub(super) keeper: Keeper,
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

struct Owned {
    task: Task,
    lease: Lease,
    inputs: Vec<Input>,
    /// By the names of their stores.
    changelogs: HashMap<Arc<str>, Changelog>,
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
    restores: Arc<RestorePool<SharedFetcher>>,
    /// The application was paused when that was last looked at.
    paused: bool,
    /// Restores that begin when it no longer is.
    parked: Vec<RestoreJob>,
    keeper: Keeper,
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
    awaited: Option<(u64, Option<Result<Epochs>>)>,
    last_commit: u64,
    /// Until then a commit that was not answered may be carried out after later ones, and set offsets back: each commit
    /// has all of them, the last one too.
    unheard_until: Option<Instant>,
    next_commit: Instant,
    /// A commit was refused, or not possible: it follows as soon as the gate opens.
    owes_commit: bool,
    /// Commits that are not refused for good and do not pass either.
    postponed: TaskTimeout,
    /// Counts what takes tasks away in the middle of a commit.
    losses: u64,
    failed: bool,
    /// It was told to stop.
    stopping: bool,
    /// Under exactly-once.
    transactions: Option<Transactions>,
    /// The open changes of the stores take more memory than they should.
    full: bool,
    /// How many records of each task may be processed before the memory is looked at again.
    room: usize,
    /// What is held here of the instance's memory.
    page: Page,
    /// Whose stores were damaged, since their last commit.
    rebuilt: HashSet<TaskId>,
    /// Dropped because of that; to be placed anew when the others are committed.
    damaged: Vec<Lease>,
    /// The producer had no room when it was looked for last.
    held_back: bool,
    /// To be closed after the next commit, because another worker gets them.
    moving: Vec<Lease>,
    /// Tasks that are closed when the commit under way is done.
    closing: HashSet<TaskId>,
    /// A commit is under way, and waits in the mailbox.
    committing: bool,
    /// Tasks that begin when it is over.
    beginning: Vec<TaskId>,
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
            restores,
            cluster,
            io,
            keeper,
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
        let timeout = config.producer().transaction_timeout();
        let transactions = config.is_exactly_once().then(|| Transactions::new(timeout, now));
        let figures = WorkerFigures::new(&shared.registry, index, &config, clock.wall_ms(), now);
        let mut worker = Self {
            id,
            index,
            inbox,
            out: out.clone(),
            pulse,
            output,
            live,
            restores,
            paused: false,
            parked: Vec::new(),
            keeper,
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
            unheard_until: None,
            next_commit,
            owes_commit: false,
            postponed,
            losses: 0,
            failed: false,
            stopping: false,
            transactions,
            full: false,
            room: usize::MAX,
            page: Page::new(&shared.memory),
            rebuilt: HashSet::new(),
            damaged: Vec::new(),
            held_back: false,
            moving: Vec::new(),
            closing: HashSet::new(),
            committing: false,
            beginning: Vec::new(),
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
            self.look_into_mailbox();
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
            self.pause_restores();
            let began = clock::monotonic();
            // What cannot be committed now is not added to without end.
            let waits = self.failed
                || (self.full && self.gate.is_none())
                || self.transactions.as_ref().is_some_and(|transactions| transactions.waits(began));
            let processed = if waits { 0 } else { self.process(began) };
            self.shared.processed.fetch_add(processed as u64, Ordering::Relaxed);
            let slice_end = clock::monotonic();
            self.figures.processed(processed, slice_end.saturating_duration_since(began));
            let called = if self.failed { 0 } else { self.punctuate() };
            if !self.failed {
                self.publish();
            }
            if processed > 0 || self.shared.memory.is_tight() {
                self.relieve(processed);
            }
            let now = clock::monotonic();
            if let Some(transactions) = self.transactions.as_mut().filter(|_| processed > 0 || called > 0) {
                transactions.open_since.get_or_insert(began);
            }
            self.figures.punctuated(called, now.saturating_duration_since(slice_end));
            self.look_after_producer(now);
            self.look_after_transactions(now);
            let requested = self.owned.iter().any(|o| o.running && o.task.commit_requested());
            let early = self.full && !self.owes_commit && self.gate.is_some();
            if early || (requested && self.gate.is_some()) || now >= self.next_commit {
                self.shared.memory.acted(Action::Commit, u64::from(early));
                self.commit_all();
            }
            self.begin_waiting();
            if !self.damaged.is_empty() && !self.owes_commit {
                let damaged = std::mem::take(&mut self.damaged);
                self.tell(ToCoordinator::GivenUp(damaged));
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
        if self.failed {
            // Until it is replaced or told to stop.
            return self.config.poll();
        }
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
            ToWorker::Leases(leases) => self.take_leases(&leases),
            ToWorker::Move(leases) => {
                self.moving.extend(leases);
                self.next_commit = clock::monotonic();
            }
            ToWorker::Revoke(leases) => {
                // What they owe is committed in the generation that takes them away.
                self.take_leases(&leases);
                self.control.push_back(Control::Revoke(leases));
            }
            ToWorker::Lost => {
                // ORDER: all tasks, also one that was to be given up and that the coordinator has fenced by now: the renewed
                // producer would commit for it.
                for task in self.owned.iter().map(|o| o.lease.task).collect::<Vec<_>>() {
                    self.close_task(task);
                }
                self.moving.clear();
                self.damaged.clear();
                self.losses += 1;
                // ORDER: nothing that was made for lost tasks is sent any more; the producer starts afresh after that.
                self.output.borrow().producer.fence();
                self.renew();
            }
            ToWorker::Gate(gate) => {
                self.gate = gate.as_ref().map(|group| group.generation);
                if let Some(transactions) = &mut self.transactions {
                    transactions.gate(gate.is_some());
                    if let Some(group) = gate {
                        transactions.group = *group;
                    }
                }
                if self.gate.is_some() && std::mem::take(&mut self.owes_commit) {
                    self.next_commit = clock::monotonic();
                }
            }
            ToWorker::FlushAndCommit => self.control.push_back(Control::FlushAndCommit),
            ToWorker::Fetched(event) => self.fetched(event),
            ToWorker::Restore(event) => self.heard(event),
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
            ToWorker::LookAgain => {
                self.share_cache(self.owned.len());
            }
            ToWorker::Stop => self.control.push_back(Control::Stop),
        }
    }

    fn take_leases(&mut self, leases: &[Lease]) {
        for lease in leases {
            let its = |o: &&mut Owned| o.lease.task == lease.task && o.lease.epoch == lease.epoch;
            if let Some(owned) = self.owned.iter_mut().find(its) {
                owned.lease = *lease;
            }
        }
    }

    /// Takes in what is there.
    fn look_into_mailbox(&mut self) {
        while let Ok(message) = self.inbox.try_recv() {
            self.take(message);
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
        // A broker that does not answer is when somebody looks.
        let now = clock::monotonic();
        if now >= self.figures.next_fold() {
            self.observe(now);
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
        let TaskStart { lease, inputs, changelogs, unlogged, partitions, isolation } = start;
        let id = lease.task;
        // A tenure before this one, of which the worker has not heard the end because it was fenced.
        self.drop_task(id);
        let topology = self.topology.clone();
        let subtopology = Self::subtopology(&topology, id)?;
        self.output.borrow_mut().know(partitions)?;
        let collector = TaskOutput { shared: self.output.clone(), clock: self.clock.clone() };
        let config = self.task_config(id, inputs.iter().map(|input| input.at.clone()).collect());
        let task = Task::build(&subtopology.plan, config, Box::new(collector), self.clock.clone())?;
        let changelogs_of = |c: &ChangelogStart| {
            let (start, policy) = (c.judged.verdict.start(), &c.judged.facts.policy);
            let changelog = Changelog {
                origin: c.judged.origin.clone(),
                leader_epoch: start.leader_epoch,
                horizon_ms: policy.tombstone_horizon_ms(),
                marked_ms: Cell::new(start.wall_ms),
                handed: Cell::new(clock::monotonic()),
            };
            (c.store.clone(), changelog)
        };
        let stores = changelogs.iter().map(changelogs_of).collect();
        for UnloggedStart { store, engine } in unlogged {
            if let Some(store) = task.stores().iter().find(|s| *s.name() == store) {
                store.attach(engine, 0, Some(self.keeper.clone()))?;
            }
        }
        let restores = self.restore_stores(&task, lease, changelogs)?;
        tracing::info!(task = %id, changelogs = restores.len(), "restoring");
        self.share_cache(self.owned.len() + 1);
        self.picture.stale = true;
        let figures = self.figures.task(id, &task);
        let owned = Owned {
            task,
            lease,
            inputs: Vec::new(),
            changelogs: stores,
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

    fn subtopology(topology: &Topology, id: TaskId) -> Result<&Subtopology> {
        let mut subtopologies = topology.inner.subtopologies.iter();
        subtopologies
            .find(|s| s.id == id.subtopology)
            .ok_or_else(|| Error::new(ErrorKind::Topology, format!("the topology has no part for task {id}")))
    }

    /// Initialises a task whose stores are complete and lets its records come.
    fn begin_if_restored(&mut self, id: TaskId) -> Result<()> {
        let Some(at) = self.owned.iter().position(|o| o.lease.task == id) else { return Ok(()) };
        if self.owned[at].running || !self.owned[at].restores.is_empty() {
            return Ok(());
        }
        // ORDER: not in the middle of a commit: what processors put and send when they are initialised is not in it, and
        // would be taken for committed with the rest.
        if self.committing {
            self.beginning.push(id);
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
            for (name, time) in &start.processors {
                owned.task.restore_clock(name, *time);
            }
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
        self.init(at)?;
        let owned = &mut self.owned[at];
        owned.running = true;
        owned.registered = Some(self.shared.queries.enter(id, self.id.number(), owned.task.stores()));
        self.picture.stale = true;
        owned.task.publish()?;
        tracing::info!(task = %id, "running");
        let lease = owned.lease;
        self.tell(ToCoordinator::Running(lease));
        Ok(())
    }

    /// Begins what became ready while a commit was under way.
    fn begin_waiting(&mut self) {
        for task in std::mem::take(&mut self.beginning) {
            if let Err(error) = self.begin_if_restored(task) {
                self.fail(Some(task), error);
            }
        }
    }

    /// Initialises the processors of a task. What they send is to be committed.
    fn init(&mut self, at: usize) -> Result<()> {
        let sent = |worker: &Self| worker.output.borrow().sent().map(|(_, records, _)| records).sum::<u64>();
        let before = sent(self);
        let Owned { task, span, .. } = &mut self.owned[at];
        let outcome = span.in_scope(|| task.init());
        if sent(self) > before {
            self.owned[at].task.needs_commit();
            if let Some(transactions) = &mut self.transactions {
                transactions.open_since.get_or_insert_with(clock::monotonic);
                // It is given up before it runs.
                transactions.spoiled |= outcome.is_err();
            }
        }
        outcome
    }

    /// Takes a task away from the worker, without a commit.
    fn drop_task(&mut self, id: TaskId) -> Option<Owned> {
        let at = self.owned.iter().position(|o| o.lease.task == id)?;
        let mut owned = self.owned.remove(at);
        if let Some(transactions) =
            self.transactions.as_mut().filter(|_| owned.running && owned.task.is_dirty())
        {
            transactions.spoiled = true;
        }
        owned.report_drops(&self.shared);
        owned.observe(clock::monotonic());
        self.figures.closed();
        for input in &owned.inputs {
            self.live.revoke(input.at.clone(), input.token);
            self.tokens.remove(&input.token);
        }
        self.share_cache(self.owned.len());
        self.picture.stale = true;
        self.suspend_restores(&owned);
        Some(owned)
    }

    fn close_task(&mut self, id: TaskId) {
        if let Some(mut owned) = self.drop_task(id).filter(|owned| owned.running) {
            owned.close(&self.output, self.transactions.is_some());
        }
    }

    fn revoke(&mut self, leases: Vec<Lease>) {
        self.closing.extend(leases.iter().map(|lease| lease.task));
        self.commit_all();
        self.closing.clear();
        for lease in &leases {
            if self.owned.iter().any(|o| o.lease.task == lease.task && o.lease.epoch == lease.epoch) {
                self.close_task(lease.task);
            }
        }
        // What could not be committed goes, and with it what the other tasks have in the same transaction.
        if self.transactions.as_ref().is_some_and(|transactions| transactions.spoiled) && !self.is_fenced() {
            self.roll_back("a task was revoked and could not be committed");
        }
        // ORDER: before anybody else has the tasks, and reads their changelogs.
        self.write_last_words();
        self.tell(ToCoordinator::Revoked(leases));
    }

    /// ORDER: commit, then close the tasks; the producer is drained by the commit.
    fn stop(&mut self) {
        self.show_as(WorkerState::Stopping);
        self.stopping = true;
        self.closing.extend(self.owned.iter().map(|o| o.lease.task));
        self.last_commit_of_all();
        self.close_all();
    }

    fn close_all(&mut self) {
        for task in self.owned.iter().map(|o| o.lease.task).collect::<Vec<_>>() {
            self.close_task(task);
        }
        self.write_last_words();
        self.last_abort();
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
            self.close_task(lease.task);
        }
        self.losses += 1;
        // They are given up already, and placed anew.
        self.moving.clear();
        self.renew();
        self.tell(ToCoordinator::GivenUp(leases));
    }

    /// Takes the producer into use again, with nothing in it.
    fn renew(&mut self) {
        let mut output = self.output.borrow_mut();
        output.producer.renew();
        drop(output.producer.take_failures());
        drop(output);
        self.forget_transaction();
        let output = self.output.borrow_mut();
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
        if let Some(task) = task
            && error.class() == ErrorClass::CorruptTask
            && self.rebuild(task, &error)
        {
            return;
        }
        tracing::error!(task = task.map(tracing::field::display), ?error, "a task failed");
        match task {
            Some(task) => self.close_task(task),
            None => self.failed = true,
        }
        let response = self.shared.uncaught.answer(&error);
        self.tell(ToCoordinator::Failed { error, response });
    }
}

impl Owned {
    /// Closes the processors. Under exactly-once a task is closed when its last commit was made, or when what it has done is
    /// aborted: what it sends now, rows of changelogs too, would be committed with the next transaction of others, or with
    /// its own next one, after its stores have gone back. It comes to nothing, and so do its stores' changes.
    fn close(&mut self, output: &RefCell<Output>, discards: bool) {
        output.borrow_mut().discards = discards;
        let closed = self.span.in_scope(|| self.task.close());
        output.borrow_mut().discards = false;
        if let Err(error) = closed {
            tracing::warn!(task = %self.task.id(), ?error, "a processor failed while it was closed");
        }
    }
}

impl Worker {
    /// A store of a task is damaged: the task is dropped uncommitted, and built anew over what its changelogs say
    /// (`TaskCorruptedException`). Not if that has just been done: then it is no use.
    fn rebuild(&mut self, task: TaskId, error: &Error) -> bool {
        let Some(owned) = self.owned.iter().find(|o| o.lease.task == task && o.running) else { return false };
        let lease = owned.lease;
        // What no changelog has cannot be read again: the task would come to the same row over and over, with commits between.
        let irreplaceable = owned.task.stores().iter().any(|store| store.changelog().is_none());
        if irreplaceable || !self.rebuilt.insert(task) {
            return false;
        }
        tracing::warn!(%task, ?error, "the state of a task is damaged: it is read from its changelogs again");
        self.close_task(task);
        self.damaged.push(lease);
        // ORDER: first what the others, and it before, have written.
        self.next_commit = clock::monotonic();
        true
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a text".to_owned())
}
