//! Carries out what the membership machine says: requests to the group's coordinator, tasks to workers, leases, the gate.
//! One async task on the I/O thread; everything that takes time runs beside it and comes back as a message.

mod ask;
mod commit;
mod fencing;
mod replace;
mod scale;

pub(super) use commit::is_unheard;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::ask::ask;
use self::replace::Replacements;
use super::app::{AppShared, AppState};
use super::close::CloseOptions;
use super::global::{self, Global};
use super::housekeeping::Housekeeping;
use super::local_state::LocalState;
use super::message::{TaskStart, ToCoordinator, ToWorker};
use super::prepare::Preparer;
use super::settings;
use super::state_dir::Identity;
use super::topics::{self, TopicPlan};
use super::uncaught::UncaughtErrorResponse;
use super::workers::{WorkerHandle, WorkerId, Workers};
use crate::changelog::facts::Judge;
use crate::client::Admin;
use crate::client::Cluster;
use crate::client::group::{GroupClient, Join, MemberId};
use crate::client::produce::GroupMetadata;
use crate::clock;
use crate::error::{Error, ErrorClass, ErrorKind, Result};
use crate::group::{
    Action, ActiveTask, Assignment, Event, Lease, Membership, Reply, Request, RequestId, RpcError,
    SubTopology, SubscriptionData, Terms, lead,
};
use crate::record::TopicPartition;
use crate::store::keeper::KeeperThread;
use crate::task_id::TaskId;
use crate::topology::Topology;

/// How long the end of an application waits for what its stores have not on disk yet. A process that is killed has done
/// without it too: the next start reads more of the changelogs.
const LAST_HAND_OVER: Duration = Duration::from_secs(10);

/// How long a worker may take to notice that it has been fenced during a shutdown.
const LAST_WORD: Duration = Duration::from_secs(5);

const PROTOCOL: (&str, &str) = ("consumer", "mainstem");

/// A task on its worker, being prepared or running.
struct Placed {
    worker: WorkerId,
    /// No two have the same: what was made ready for an earlier one is of no use to a later.
    placement: u64,
    lease: Lease,
    active: ActiveTask,
    running: bool,
    /// The worker was told to give it up.
    revoked: bool,
    /// The worker has been sent all it needs.
    started: bool,
    /// The worker was told to close it after a commit, so that another gets it.
    moving: bool,
}

pub(super) struct Coordinator {
    shared: Arc<AppShared>,
    cluster: Cluster,
    group: GroupClient,
    member: MemberId,
    membership: Membership,
    preparer: Preparer,
    preparing: JoinSet<()>,
    keeper: KeeperThread,
    plan: TopicPlan,
    inbox: UnboundedReceiver<ToCoordinator>,
    own: UnboundedSender<ToCoordinator>,
    workers: Workers,
    replacements: Replacements,
    /// The generation in which commits are accepted.
    gate: Option<Box<GroupMetadata>>,
    /// Whether the producers are fenced whose tasks are placed here.
    fenced: watch::Receiver<bool>,
    /// What the instance says of itself.
    subscription: (Vec<String>, SubscriptionData),
    last_placement: u64,
    placed: HashMap<TaskId, Placed>,
    /// Whether the group has said what this instance has.
    assigned: bool,
    flushing: BTreeSet<WorkerId>,
    /// Workers that are being removed.
    leaving: Vec<scale::Leaving>,
    housekeeping: Housekeeping,
    origin: Instant,
    timer: Option<Duration>,
    join: Join,
    /// A rebalance under way: since when, and its span.
    rebalance: Option<(Instant, tracing::Span)>,
    failure: Option<Error>,
    ending: Option<Ending>,
    /// The places whose workers have not ended what they had in a transaction when the application ends.
    stragglers: BTreeSet<usize>,
    close: CloseOptions,
    /// Read-locked by every commit on its way to the broker.
    commits: Arc<tokio::sync::RwLock<()>>,
    /// Fills the global stores.
    _global: Option<Global>,
    /// The folder is this instance's until its tasks are closed.
    _identity: Identity,
}

/// The way out: workers stop, then the member leaves.
enum Ending {
    Workers { until: Instant, fenced: bool },
    Leaving,
}

impl Coordinator {
    /// Runs the application until it is told to stop or cannot go on.
    pub(super) async fn run(
        shared: Arc<AppShared>,
        own: UnboundedSender<ToCoordinator>,
        mut inbox: UnboundedReceiver<ToCoordinator>,
    ) -> Result<()> {
        shared.set_state(AppState::Rebalancing);
        let (mut early, starting) = (Vec::new(), Self::start(&shared, own));
        let started = tokio::select! {
            started = starting => started?,
            // Told to stop before it has begun.
            () = stop_told(&mut inbox, &mut early) => return Ok(()),
        };
        started.with_inbox(inbox).work(early).await
    }

    async fn start(shared: &Arc<AppShared>, own: UnboundedSender<ToCoordinator>) -> Result<Self> {
        let config = &shared.config;
        // ORDER: first, so that a state directory that cannot be used is said before anything is waited for.
        let identity = Identity::of(config, &shared.topology)?;
        let (state, keeper) = LocalState::open(shared, identity.slot.as_deref())?;
        let cluster = Cluster::connect(settings::client(config)).await?;
        let plan = topics::plan(&cluster, &shared.topology, config.application_id()).await?;
        if let Some(topic) = config.dead_letter_topic() {
            cluster.partitions(topic).await.map_err(|error| {
                let text =
                    "the dead-letter topic errors.dead.letter.queue.topic.name does not exist; create it";
                if error.kind() == ErrorKind::Topic {
                    Error::new(ErrorKind::Topic, text).at_topic(topic)
                } else {
                    error
                }
            })?;
        }
        let group_config = settings::group(config);
        let join = Join {
            session_timeout: group_config.session_timeout,
            rebalance_timeout: group_config.rebalance_timeout,
            protocol_type: PROTOCOL.0.to_owned(),
            protocols: Vec::new(),
        };
        let instance_id = group_config.instance_id.clone();
        let mut data = settings::subscription(config, identity.process_id);
        data.fingerprints = fingerprints(&shared.topology);
        let source_topics = topics::source_topics(&shared.topology, config.application_id());
        let subscription = (source_topics.clone(), data.clone());
        let membership = Membership::new(group_config, source_topics, data)?;
        let group = GroupClient::new(&cluster, config.application_id());
        let preparer = Preparer {
            shared: shared.clone(),
            state,
            judge: Judge::new(&cluster, config.application_id(), shared.clock.clone()),
            cluster: cluster.clone(),
            group: group.clone(),
            topology: shared.topology.clone(),
            config: config.clone(),
            clock: shared.clock.clone(),
            isolation: settings::live_fetch(config).isolation,
        };
        let repartition_topics = topics::repartition_topics(&shared.topology, config.application_id());
        // ORDER: tasks find their global stores filled.
        let global = global::start(shared, &cluster, &own).await?;
        let workers = Workers::start(shared, &cluster, (preparer.state.keeper(), identity.process_id), &own)?;
        Ok(Self {
            shared: shared.clone(),
            cluster,
            group,
            member: MemberId { instance_id, generation: -1, ..MemberId::default() },
            membership,
            preparer,
            preparing: JoinSet::new(),
            keeper,
            plan,
            inbox: unbounded_channel().1,
            own,
            workers,
            replacements: Replacements::default(),
            gate: None,
            fenced: watch::channel(true).1,
            subscription,
            last_placement: 0,
            placed: HashMap::new(),
            assigned: false,
            flushing: BTreeSet::new(),
            leaving: Vec::new(),
            housekeeping: Housekeeping::new(config, repartition_topics, clock::monotonic()),
            origin: clock::monotonic(),
            timer: None,
            join,
            rebalance: None,
            failure: None,
            stragglers: BTreeSet::new(),
            ending: None,
            close: CloseOptions::default(),
            commits: Arc::default(),
            _global: global,
            _identity: identity,
        })
    }

    fn with_inbox(mut self, inbox: UnboundedReceiver<ToCoordinator>) -> Self {
        self.inbox = inbox;
        self
    }

    fn now(&self) -> Duration {
        clock::monotonic().saturating_duration_since(self.origin)
    }

    async fn work(mut self, early: Vec<ToCoordinator>) -> Result<()> {
        self.step(Event::Start);
        early.into_iter().for_each(|message| self.take(message));
        loop {
            let wait = self.wait();
            match clock::timeout(wait, self.inbox.recv()).await {
                Some(Some(message)) => self.take(message),
                Some(None) => break,
                None => {}
            }
            if self.timer.is_some_and(|at| self.now() >= at) {
                self.timer = None;
                self.step(Event::Tick);
            }
            if self.ending.is_none() {
                self.keep_house();
                self.look_after_workers();
            }
            self.let_go();
            if self.end_if_done() {
                break;
            }
        }
        self.fence_stragglers().await;
        self.cluster.close();
        match self.close_state().await {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Closes the stores on disk. What workers have given up to the last moment is put into them first.
    async fn close_state(mut self) -> Option<Error> {
        self.preparing.shutdown().await;
        let Self { preparer, workers, mut keeper, failure, _identity: identity, .. } = self;
        preparer.state.close();
        drop((preparer, workers));
        if !keeper.wait(LAST_HAND_OVER) {
            tracing::warn!(
                "not all of the local state could be closed: the next start reads more of the changelogs"
            );
        }
        // ORDER: the folder is free when nothing in it is open any more. A worker that is stuck in user code has its stores
        // open: whoever starts meanwhile in this process takes another slot.
        if keeper.has_ended() {
            drop(identity);
        } else {
            let later = move || {
                keeper.wait(Duration::MAX);
                drop(identity);
            };
            let _ = std::thread::Builder::new().name("mainstem-slot".to_owned()).spawn(later);
        }
        failure
    }

    fn wait(&self) -> Duration {
        let timer = self.timer.map(|at| at.saturating_sub(self.now()));
        let deadline = match &self.ending {
            Some(Ending::Workers { until, .. }) => Some(until.saturating_duration_since(clock::monotonic())),
            Some(Ending::Leaving) => None,
            None => {
                let next = self.housekeeping.next().min(self.next_look_after_workers());
                Some(next.saturating_duration_since(clock::monotonic()))
            }
        };
        timer.into_iter().chain(deadline).min().unwrap_or(Duration::from_secs(60))
    }

    // ---- messages ----

    fn take(&mut self, message: ToCoordinator) {
        match message {
            ToCoordinator::Says { worker, message } => self.said(worker, *message),
            ToCoordinator::Answered { id, outcome } => self.answered(id, outcome),
            ToCoordinator::Assigned { generation, outcome } => {
                self.step(Event::Assigned { generation, outcome })
            }
            ToCoordinator::Prepared { task, placement, outcome } => self.prepared(task, placement, outcome),
            ToCoordinator::Ready { worker } => self.worker_is_ready(worker),
            ToCoordinator::LeaveBehind { worker } => {
                let now = clock::monotonic();
                if self.ending.is_none() {
                    self.replace(worker, now, now + replace::PATIENCE);
                }
            }
            ToCoordinator::Running(lease) => {
                if let Some(placed) =
                    self.placed.get_mut(&lease.task).filter(|p| p.lease.epoch == lease.epoch)
                {
                    placed.running = true;
                }
                self.update_state();
            }
            ToCoordinator::Revoked(mut leases) => {
                // What was said of an earlier tenure means nothing to the present one.
                leases
                    .retain(|l| self.placed.get(&l.task).is_none_or(|placed| placed.lease.epoch == l.epoch));
                let leases = self.moved(leases);
                self.forget(&leases);
                self.step(Event::Revoked(leases.into_iter().map(|lease| lease.task).collect()));
                self.update_state();
            }
            ToCoordinator::GivenUp(leases) => self.given_up(&leases),
            ToCoordinator::Purgeable(mut offsets) => {
                offsets.retain(|(at, _)| self.housekeeping.repartition_topics.contains(&*at.topic));
                self.housekeeping.committed(offsets);
            }
            ToCoordinator::Unheard(mut offsets) => {
                offsets.retain(|(at, _)| self.housekeeping.repartition_topics.contains(&*at.topic));
                self.housekeeping.unheard(offsets, clock::monotonic());
            }
            ToCoordinator::Purged => self.housekeeping.purged(),
            ToCoordinator::Topics(plan) => self.topics_looked_at(plan),
            ToCoordinator::NothingToFlush => self.step(Event::Committed),
            ToCoordinator::FlushedAndCommitted { worker } => {
                if self.flushing.remove(&worker) && self.flushing.is_empty() {
                    self.step(Event::Committed);
                }
            }
            ToCoordinator::Commit { worker, commit, generation, offsets, changelogs } => {
                self.commit(worker, commit, generation, offsets, changelogs);
            }
            ToCoordinator::CommitRefused { generation } => self.step(Event::CommitRefused { generation }),
            ToCoordinator::Failed { error, .. } => self.fail(error),
            ToCoordinator::Stopped { worker } => {
                self.workers.stopped(worker);
                self.removed(worker);
            }
            ToCoordinator::AddWorker { answer } => self.add_worker(answer),
            ToCoordinator::RemoveWorker { answer } => self.remove_worker(answer),
            ToCoordinator::Resumed => self.workers.broadcast(|| ToWorker::LookAgain),
            ToCoordinator::Lags { answer } => self.lags(answer),
            ToCoordinator::StoreWanted => self.workers.broadcast(|| ToWorker::StoreWanted),
            ToCoordinator::Stop(options) => self.end(options),
        }
    }

    fn forget(&mut self, leases: &[Lease]) {
        for lease in leases {
            self.placed.remove(&lease.task);
        }
    }

    /// A worker has dropped tasks: all of them because it was fenced, or one whose state is damaged. Those that are still
    /// this instance's are started anew, from what was committed last.
    fn given_up(&mut self, leases: &[Lease]) {
        let mut revoked = Vec::new();
        for lease in leases {
            let current = |placed: &Placed| placed.lease.epoch == lease.epoch;
            let Some(placed) = self.placed.get(&lease.task).filter(|p| current(p)) else { continue };
            if placed.revoked {
                revoked.push(*lease);
                continue;
            }
            tracing::warn!(task = %lease.task, "started anew, from what was committed last");
            let (lease, active) = (placed.lease, placed.active.clone());
            self.placed.remove(&lease.task);
            self.place(lease, active);
        }
        if !revoked.is_empty() {
            self.take(ToCoordinator::Revoked(revoked));
        }
        self.update_state();
    }

    fn update_state(&self) {
        let placed = |(task, p): (&TaskId, &Placed)| (*task, p.running.then(|| p.worker.number()));
        self.shared.queries.set_placed(self.assigned, self.placed.iter().map(placed));
        let all = self.assigned && self.placed.values().all(|placed| placed.running);
        let state = if all { AppState::Running } else { AppState::Rebalancing };
        if self.ending.is_none() {
            self.shared.set_state(state);
        }
    }

    // ---- housekeeping ----

    /// What comes back every now and then: repartition topics are purged, source topics are looked at.
    fn keep_house(&mut self) {
        let now = clock::monotonic();
        if let Some(before) = self.housekeeping.purge_due(now) {
            let (admin, own) = (Admin::new(&self.cluster), self.own.clone());
            self.cluster.runtime().spawn(async move {
                match admin.delete_records(&before).await {
                    Ok(results) => {
                        let failed =
                            before.iter().zip(results).filter_map(|((at, _), r)| r.err().map(|e| (at, e)));
                        for (at, error) in failed {
                            tracing::debug!(partition = %at, ?error, "cannot purge a repartition topic yet");
                        }
                    }
                    Err(error) => tracing::debug!(?error, "cannot purge the repartition topics yet"),
                }
                let _ = own.send(ToCoordinator::Purged);
            });
        }
        if let Some(unused_for) = self.housekeeping.cleanup_due(now) {
            // While the group decides nobody knows what comes back in a moment.
            let settled = self.assigned && self.rebalance.is_none();
            let in_use = self.placed.keys().copied().collect();
            self.preparer.state.look_after(in_use, unused_for.filter(|_| settled));
        }
        if self.housekeeping.look_due(now) {
            let (cluster, shared, own) = (self.cluster.clone(), self.shared.clone(), self.own.clone());
            let (known, trouble) = (self.plan.counts.clone(), self.housekeeping.trouble.clone());
            self.cluster.runtime().spawn(async move {
                let application_id = shared.config.application_id();
                let news = match topics::plan(&cluster, &shared.topology, application_id).await {
                    Ok(plan) => {
                        trouble.none();
                        Some(Box::new(plan)).filter(|plan| plan.counts != known)
                    }
                    Err(error) => {
                        if let Some(error) = trouble.found(error) {
                            let response = UncaughtErrorResponse::ShutdownClient;
                            let _ = own.send(ToCoordinator::Failed { error, response });
                        }
                        None
                    }
                };
                let _ = own.send(ToCoordinator::Topics(news));
            });
        }
    }

    /// More partitions need more tasks, which only a rebalance gives; the leader checks the internal topics before
    /// (`StreamsPartitionAssignor`, which Java's leader runs when its metadata change).
    fn topics_looked_at(&mut self, plan: Option<Box<TopicPlan>>) {
        self.housekeeping.looked(clock::monotonic());
        if let Some(plan) = plan {
            tracing::warn!("partition counts have changed: the group rebalances");
            self.plan = *plan;
            let counts =
                || self.plan.counts.iter().map(|(topic, count)| (topic.to_string(), *count)).collect();
            self.workers.broadcast(|| ToWorker::Counts(counts()));
            self.step(Event::Rejoin);
        }
    }

    // ---- the membership machine ----

    fn step(&mut self, event: Event) {
        let now = self.now();
        for action in self.membership.step(event, now) {
            self.carry_out(action);
        }
        let until = self.origin + self.membership.permit_until();
        self.workers.permit_until(until);
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Send { id, request, timeout } => self.send_request(id, request, timeout),
            Action::Assign { generation, members } => self.assign(generation, members),
            Action::Deliver(assignment) => self.deliver(assignment),
            Action::Revoke(leases) => self.revoke(leases),
            Action::Fence(tasks) => {
                let mut leases = Vec::new();
                for task in tasks {
                    let placed = self.placed.get(&task);
                    if let Some(placed) = placed
                        && let Some(worker) = self.workers.get(placed.worker)
                    {
                        worker.fence();
                        if self.shared.config.is_exactly_once() {
                            // Its transaction may be open for long, and its offsets pending.
                            let _ = self.own.send(ToCoordinator::LeaveBehind { worker: placed.worker });
                        }
                    }
                    // What nobody has is released, too: the group waits for the answer.
                    let nobody = Lease { task, generation: -1, epoch: 0 };
                    leases.push(placed.map_or(nobody, |placed| placed.lease));
                }
                let _ = self.own.send(ToCoordinator::Revoked(leases));
            }
            Action::Lost { tasks, reason } => {
                tracing::warn!(reason, count = tasks.len(), "the tasks are lost");
                self.shared.figures().tasks_lost(tasks.len());
                self.workers.broadcast(|| ToWorker::Lost);
                self.placed.clear();
                self.assigned = false;
                self.update_state();
            }
            Action::GateOpen(generation) => self.set_gate(Some(generation)),
            Action::GateClosed => self.set_gate(None),
            Action::FlushAndCommit => {
                self.flushing = self.workers.alive().collect();
                self.workers.broadcast(|| ToWorker::FlushAndCommit);
                // Every worker may be about to be replaced.
                if self.flushing.is_empty() {
                    let _ = self.own.send(ToCoordinator::NothingToFlush);
                }
            }
            Action::SetTimer(at) => self.timer = Some(at),
            Action::Fatal(error) => self.fail(error),
            Action::Stopped => self.ending = Some(Ending::Leaving),
        }
    }

    fn set_gate(&mut self, generation: Option<i32>) {
        self.gate = generation.map(|generation| {
            Box::new(GroupMetadata {
                group_id: self.shared.config.application_id().to_owned(),
                generation,
                member_id: self.member.member_id.clone(),
                instance_id: self.member.instance_id.clone(),
            })
        });
        // A commit of an earlier generation has arrived by now, or is refused: nobody need wait for it.
        self.commits = Arc::default();
        self.workers.broadcast(|| ToWorker::Gate(self.gate.clone()));
    }

    fn revoke(&mut self, leases: Vec<Lease>) {
        // A task that waits for the next worker in its place is nobody's.
        let on_worker = |lease: &Lease| {
            self.placed.get(&lease.task).is_some_and(|placed| self.workers.get(placed.worker).is_some())
        };
        let (placed, gone): (Vec<Lease>, Vec<Lease>) = leases.into_iter().partition(on_worker);
        for worker in self.workers.ids() {
            let its = |lease: &&Lease| self.placed.get(&lease.task).is_some_and(|p| p.worker == worker);
            let its: Vec<Lease> = placed.iter().filter(its).copied().collect();
            if !its.is_empty() {
                self.workers.send(worker, ToWorker::Revoke(its));
            }
        }
        for lease in &placed {
            if let Some(placed) = self.placed.get_mut(&lease.task) {
                placed.revoked = true;
            }
        }
        if !gone.is_empty() {
            let _ = self.own.send(ToCoordinator::Revoked(gone));
        }
    }

    fn send_request(&mut self, id: RequestId, request: Request, timeout: Duration) {
        if matches!(request, Request::Join { .. }) {
            let span = || tracing::info_span!("rebalance", generation = tracing::field::Empty);
            self.rebalance.get_or_insert_with(|| (clock::monotonic(), span()));
        }
        let (group, own, join) = (self.group.clone(), self.own.clone(), self.join.clone());
        let member = MemberId { instance_id: self.member.instance_id.clone(), ..MemberId::default() };
        self.cluster.runtime().spawn(async move {
            let late = || {
                Error::new(
                    ErrorKind::Timeout,
                    format!("the group's coordinator did not answer in {timeout:?}"),
                )
            };
            // What is sent has the timeout to itself, so that its connection ends with it; this is for the way there.
            let asking = ask(&group, member, join, request, timeout);
            let outcome = match clock::timeout(timeout.saturating_mul(2), asking).await {
                Some(outcome) => outcome,
                None => Err(RpcError::Failed(late())),
            };
            let _ = own.send(ToCoordinator::Answered { id, outcome });
        });
    }

    fn answered(&mut self, id: RequestId, outcome: Result<Reply, RpcError>) {
        match &outcome {
            Ok(Reply::Joined(joined)) => self.member.member_id.clone_from(&joined.member_id),
            Ok(Reply::MemberId(member_id)) => self.member.member_id.clone_from(member_id),
            _ => {}
        }
        self.step(Event::Answer { id, outcome });
    }

    /// The leader's turn: look at the topics again, make what is missing, assign.
    fn assign(&mut self, generation: i32, members: Vec<crate::group::Member>) {
        let (cluster, shared, own) = (self.cluster.clone(), self.shared.clone(), self.own.clone());
        self.cluster.runtime().spawn(async move {
            let config = &shared.config;
            let decide = async {
                let plan = topics::plan(&cluster, &shared.topology, config.application_id()).await?;
                topics::make_internal(&cluster, &shared.topology, config, &plan).await?;
                let parts: Vec<SubTopology> =
                    topics::subtopologies(&shared.topology, config.application_id(), &plan);
                let terms = Terms {
                    retry_moves: config.rebalance_timeout(),
                    acceptable_lag: config.acceptable_recovery_lag(),
                };
                let decision = lead(&members, &parts, &plan.counts, &terms);
                if !decision.unassigned.is_empty() {
                    tracing::warn!(tasks = ?decision.unassigned, "no instance with workers has the shape of these tasks");
                }
                for member in &decision.unreadable {
                    tracing::error!(
                        member,
                        "cannot read what this member says of itself: does it run the same software?"
                    );
                }
                for (member, subtopologies) in &decision.others {
                    tracing::warn!(
                        member,
                        ?subtopologies,
                        "this member has another topology under the same application id: it gets no tasks of these sub-topologies"
                    );
                }
                Ok(decision.assignments)
            };
            // The coordinator waits for the leader as long as for anybody, and removes it then.
            let limit = config.rebalance_timeout() * 4 / 5;
            let outcome = clock::timeout(limit, decide).await.unwrap_or_else(|| {
                let text = format!(
                    "looking at the topics and making the internal ones took longer than {limit:?}; if this comes again and \
                     again, raise rebalance.timeout.ms"
                );
                tracing::warn!("{text}");
                Err(Error::new(ErrorKind::Timeout, text).with_class(ErrorClass::Retriable))
            });
            let _ = own.send(ToCoordinator::Assigned { generation, outcome });
        });
    }

    fn deliver(&mut self, assignment: Assignment) {
        let rebalance = self.rebalance.take();
        let span = rebalance.as_ref().map_or_else(tracing::Span::none, |(_, span)| span.clone());
        span.record("generation", assignment.generation);
        let _rebalance = span.entered();
        if let Some((since, _)) = rebalance {
            self.shared.figures().rebalanced(clock::monotonic().saturating_duration_since(since));
        }
        tracing::info!(
            generation = assignment.generation,
            kept = assignment.kept.len(),
            added = assignment.added.len(),
            "assigned"
        );
        self.member.generation = assignment.generation;
        self.assigned = true;
        self.shared.control.metadata.assigned(&assignment.instances);
        let mut leases: HashMap<WorkerId, Vec<Lease>> = HashMap::new();
        self.shared.set_other_topology(assignment.other_topology);
        let owners = assignment.instances.iter().flat_map(|instance| {
            let endpoint: Arc<str> = instance.endpoint.as_str().into();
            instance.active.iter().map(move |task| (*task, endpoint.clone()))
        });
        self.shared.queries.set_owners(owners);
        let mut changed = BTreeSet::new();
        for (lease, active) in assignment.kept {
            match self.placed.get_mut(&lease.task) {
                Some(placed) => {
                    placed.lease = lease;
                    leases.entry(placed.worker).or_default().push(lease);
                    if placed.active != active {
                        // A topic has more partitions than before. The task is built anew with them.
                        placed.active = active;
                        changed.insert(lease.task);
                    }
                }
                // Nobody works on it, whatever the reason.
                None => self.place(lease, active),
            }
        }
        for (worker, leases) in leases {
            self.workers.send(worker, ToWorker::Leases(leases));
        }
        self.build_anew(&changed);
        if !assignment.added.is_empty() {
            self.fence_departed(assignment.departed, &assignment.instances);
        }
        for (lease, active) in assignment.added {
            self.place(lease, active);
        }
        self.update_state();
    }

    /// Gives a new task to the worker with the fewest, and finds out where it starts.
    fn place(&mut self, lease: Lease, active: ActiveTask) {
        if self.ending.is_some() {
            return;
        }
        let Some(worker) = self.worker_for_task() else { return };
        let (preparer, own, plan) = (self.preparer.clone(), self.own.clone(), self.plan.clone());
        let partitions = active.clone();
        self.last_placement += 1;
        let placement = self.last_placement;
        let placed = Placed {
            worker,
            placement,
            lease,
            active,
            running: false,
            revoked: false,
            started: false,
            moving: false,
        };
        self.placed.insert(lease.task, placed);
        if !self.workers.get(worker).is_some_and(WorkerHandle::is_ready) {
            // It is placed again when the place is filled, and the worker ready.
            return;
        }
        let commits = self.commits.clone();
        let mut fenced = self.fenced.clone();
        // Those that have ended make room.
        while self.preparing.try_join_next().is_some() {}
        let prepare = async move {
            // ORDER: a worker that had the task before may have a commit on its way. It must not arrive after the offset was
            // read, or it would be set back to where that worker was.
            drop(commits.write().await);
            // ORDER: nor may it have a transaction open, in which its offsets could still be committed. An error: nobody
            // fences any more, because the application ends.
            let _ = fenced.wait_for(|fenced| *fenced).await;
            let outcome = preparer.prepare(lease, &partitions, &plan, placement).await.map(Box::new);
            let _ = own.send(ToCoordinator::Prepared { task: lease.task, placement, outcome });
        };
        self.preparing.spawn_on(prepare, self.cluster.runtime());
    }

    fn prepared(&mut self, task: TaskId, placement: u64, outcome: Result<Box<TaskStart>>) {
        // The task may have been lost, have come back or have gone to another worker in the meantime.
        let current = |placed: &&mut Placed| placed.placement == placement && !placed.revoked;
        let Some(placed) = self.placed.get_mut(&task).filter(current) else { return };
        match outcome {
            Ok(mut start) => {
                start.lease = placed.lease;
                placed.started = true;
                self.workers.send(placed.worker, ToWorker::Start(start));
            }
            Err(error) => {
                let worker = placed.worker;
                self.ask_about(worker, error);
            }
        }
    }

    // ---- the end ----

    /// An error that nobody handles shuts the client down (Kafka Streams' default, `SHUTDOWN_CLIENT`).
    fn fail(&mut self, error: Error) {
        self.shared.figures().failed();
        if self.failure.is_none() {
            tracing::error!(?error, "the application shuts down");
            self.failure = Some(error);
        }
        self.end(CloseOptions::default());
    }

    fn end(&mut self, options: CloseOptions) {
        self.close.leaves(&options);
        let latest = clock::monotonic() + options.time();
        match &mut self.ending {
            None => {}
            // Whoever asks again may be less patient.
            Some(Ending::Workers { until, fenced: false }) => return *until = latest.min(*until),
            Some(_) => return,
        }
        self.shared.set_state(AppState::PendingShutdown);
        self.ending = Some(Ending::Workers { until: latest, fenced: false });
        // Who was left behind has no successor any more that would fence it.
        self.stragglers.extend(self.replacements.vacant());
        self.workers.broadcast(|| ToWorker::Stop);
    }

    /// Goes on with the shutdown; `true` when it is over.
    fn end_if_done(&mut self) -> bool {
        match &mut self.ending {
            None => false,
            Some(Ending::Leaving) => {
                self.workers.join();
                true
            }
            Some(Ending::Workers { until, fenced }) => {
                let (until, fenced) = (*until, *fenced);
                if self.workers.alive().next().is_none() {
                    // ORDER: the member leaves when every task is committed and closed, and not before.
                    return self.leave();
                }
                if clock::monotonic() < until {
                    return false;
                }
                if fenced {
                    tracing::error!("a worker does not answer: it is left behind");
                    return self.leave();
                }
                self.failure.get_or_insert_with(|| {
                    Error::new(
                        ErrorKind::Timeout,
                        "not everything could be written and committed in the time that the shutdown was given; what is \
                         not committed is processed again at the next start",
                    )
                });
                self.ending = Some(Ending::Workers { until: until + LAST_WORD, fenced: true });
                self.stragglers.extend(self.workers.places());
                // Whoever waits for its records to be written waits no longer.
                self.workers.fence_all();
                self.workers.broadcast(|| ToWorker::Gate(None));
                false
            }
        }
    }

    fn leave(&mut self) -> bool {
        let leave = self.close.is_leaving(self.member.instance_id.is_some());
        self.step(Event::Close { leave });
        matches!(self.ending, Some(Ending::Leaving)) && self.end_if_done()
    }
}

/// What else is said is kept for later.
async fn stop_told(inbox: &mut UnboundedReceiver<ToCoordinator>, early: &mut Vec<ToCoordinator>) {
    while let Some(message) = inbox.recv().await {
        if matches!(message, ToCoordinator::Stop(_)) {
            return;
        }
        early.push(message);
    }
}

/// The shape of each part of the topology.
fn fingerprints(topology: &Topology) -> BTreeMap<i32, u64> {
    topology.inner.subtopologies.iter().map(|part| (part.id, part.fingerprint)).collect()
}
