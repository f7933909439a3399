//! A whole group in one thread and virtual time: membership machines, assignor and a coordinator, with crashes, restarts,
//! stuck workers, lost messages and coordinators that move.
//!
//! What must hold at every moment: no two instances could commit for the same task, and, as long as no message is lost,
//! no two work on it. What must hold in the end, whatever happened: every task is worked on once, evenly, and nothing
//! moves any more.

mod coordinator;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use self::coordinator::{Address, Coordinator};
use super::assignor::SubTopology;
use super::config::GroupConfig;
use super::event::{Action, Event, Lease, Reply, Request, RequestId, RpcError};
use super::leader::{Terms, lead};
use super::membership::Membership;
use super::user_data::SubscriptionData;
use crate::{Error, ErrorKind, TaskId};

/// A small generator, so that a seed is a whole story.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}

/// One instance: the machine, and a runtime that obeys it more or less quickly.
struct Node {
    machine: Membership,
    /// Counts the starts: what is meant for an earlier life is lost.
    life: u64,
    alive: bool,
    member_id: String,
    instance_id: Option<String>,
    workers: u16,
    /// Which release of the topology it runs: the first sub-topology changes from one to the next.
    shape: u64,
    gate: Option<i32>,
    held: BTreeMap<TaskId, Lease>,
    /// Tasks whose worker hangs in user code.
    stuck: BTreeSet<TaskId>,
    on_disk: BTreeMap<(TaskId, String), i64>,
    cut_off_until: Duration,
    fatal: Option<Error>,
}

enum What {
    /// To a node, in one of its lives.
    Tell {
        node: usize,
        life: u64,
        event: Event,
    },
    /// From the coordinator: lost if the node is cut off.
    Answer {
        node: usize,
        life: u64,
        id: RequestId,
        outcome: Result<Reply, RpcError>,
    },
    /// A task is closed.
    Release {
        node: usize,
        life: u64,
        tasks: Vec<TaskId>,
    },
    /// A request arrives at the coordinator.
    Arrive {
        node: usize,
        life: u64,
        id: RequestId,
        request: Request,
    },
    /// The coordinator's timers.
    Sweep,
    Chaos,
}

/// A sub-topology as a release has it.
fn shaped(subtopology: &SubTopology, shape: u64) -> SubTopology {
    let fingerprint = if subtopology.id == 0 { shape } else { 1 };
    SubTopology { fingerprint, ..subtopology.clone() }
}

struct Simulation {
    seed: u64,
    random: Random,
    now: Duration,
    queue: BinaryHeap<Reverse<(Duration, u64)>>,
    events: BTreeMap<u64, What>,
    sequence: u64,
    coordinator: Coordinator,
    nodes: Vec<Node>,
    topology: Vec<SubTopology>,
    partitions: BTreeMap<Arc<str>, i32>,
    /// Messages are lost: two may work on a task, but only one can commit.
    lossy: bool,
    /// Whoever starts in the second half has another topology, and the deploy is complete when peace begins.
    deploys: bool,
    chaos_until: Duration,
    deliveries: usize,
    moves: usize,
}

impl Simulation {
    fn new(seed: u64, lossy: bool, deploys: bool) -> Self {
        let mut random = Random(seed);
        let mut topology = Vec::new();
        let mut partitions = BTreeMap::new();
        for id in 0..=random.below(3) as i32 {
            let topic: Arc<str> = format!("topic-{id}").into();
            let tasks = 1 + random.below(12) as i32;
            partitions.insert(Arc::clone(&topic), tasks);
            topology.push(SubTopology {
                id,
                fingerprint: 1,
                topics: vec![topic],
                tasks,
                stateful: id % 2 == 0,
            });
        }
        let mut simulation = Self {
            seed,
            random,
            now: Duration::from_secs(1),
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            sequence: 0,
            coordinator: Coordinator::default(),
            nodes: Vec::new(),
            topology,
            partitions,
            lossy,
            deploys,
            chaos_until: Duration::from_secs(400),
            deliveries: 0,
            moves: 0,
        };
        for index in 0..2 + simulation.random.below(4) as usize {
            simulation.add_node(index);
        }
        simulation.at(Duration::from_secs(1), What::Sweep);
        simulation.at(Duration::from_secs(5), What::Chaos);
        simulation
    }

    fn at(&mut self, time: Duration, what: What) {
        self.sequence += 1;
        self.events.insert(self.sequence, what);
        self.queue.push(Reverse((time, self.sequence)));
    }

    fn subscription(
        index: usize,
        shape: u64,
        workers: u16,
        on_disk: &BTreeMap<(TaskId, String), i64>,
    ) -> SubscriptionData {
        let mut data = SubscriptionData::new(Uuid::from_u128(index as u128), workers);
        data.fingerprints = (0..5).map(|id| (id, if id == 0 { shape } else { 1 })).collect();
        data.transactional_ids = (0..workers).map(|worker| format!("app-{index}-{worker}")).collect();
        data.checkpoints.clone_from(on_disk);
        data
    }

    fn machine(&self, index: usize, shape: u64, instance_id: Option<String>, workers: u16) -> Membership {
        let config = GroupConfig { instance_id, ..GroupConfig::new("app") };
        let on_disk = self.nodes.get(index).map(|node| node.on_disk.clone()).unwrap_or_default();
        let topics = self.partitions.keys().map(ToString::to_string).collect();
        Membership::new(config, topics, Self::subscription(index, shape, workers, &on_disk)).unwrap()
    }

    fn add_node(&mut self, index: usize) {
        let workers = 1 + self.random.below(3) as u16;
        let instance_id = self.random.one_in(3).then(|| format!("static-{index}"));
        let node = Node {
            machine: self.machine(index, 1, instance_id.clone(), workers),
            life: 0,
            alive: false,
            member_id: String::new(),
            instance_id,
            workers,
            shape: 1,
            gate: None,
            held: BTreeMap::new(),
            stuck: BTreeSet::new(),
            on_disk: BTreeMap::new(),
            cut_off_until: Duration::ZERO,
            fatal: None,
        };
        self.nodes.push(node);
        self.start(index);
    }

    fn start(&mut self, index: usize) {
        if self.deploys && self.now >= self.chaos_until / 2 {
            self.nodes[index].shape = 2;
        }
        let Node { shape, workers, .. } = self.nodes[index];
        let machine = self.machine(index, shape, self.nodes[index].instance_id.clone(), workers);
        let node = &mut self.nodes[index];
        node.machine = machine;
        node.life += 1;
        node.alive = true;
        let life = node.life;
        let soon = self.now + self.random.millis(1, 3_000);
        self.at(soon, What::Tell { node: index, life, event: Event::Start });
    }

    fn crash(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        (node.alive, node.gate, node.member_id) = (false, None, String::new());
        node.held.clear();
        node.stuck.clear();
    }

    fn run(&mut self, until: Duration) {
        while let Some(Reverse((time, sequence))) = self.queue.peek().copied() {
            if time > until {
                break;
            }
            self.queue.pop();
            self.now = time;
            match self.events.remove(&sequence).expect("queued with it") {
                What::Tell { node, life, event } => self.tell(node, life, event),
                What::Answer { node, life, id, outcome } => {
                    if self.now >= self.nodes[node].cut_off_until {
                        if let Ok(Reply::MemberId(id)) = &outcome {
                            self.nodes[node].member_id.clone_from(id);
                        }
                        if let Ok(Reply::Joined(joined)) = &outcome {
                            self.nodes[node].member_id.clone_from(&joined.member_id);
                        }
                        self.tell(node, life, Event::Answer { id, outcome });
                    }
                }
                What::Release { node, life, tasks } => {
                    if self.nodes[node].life == life && self.nodes[node].alive {
                        self.nodes[node].held.retain(|task, _| !tasks.contains(task));
                        self.tell(node, life, Event::Revoked(tasks));
                    }
                }
                What::Arrive { node, life, id, request } => {
                    if self.nodes[node].life == life && self.now >= self.nodes[node].cut_off_until {
                        let address = Address { node, life, id };
                        let instance_id = self.nodes[node].instance_id.clone();
                        self.coordinator.receive(address, instance_id, request, self.now);
                        self.send_answers();
                    }
                }
                What::Sweep => {
                    self.coordinator.sweep(self.now);
                    self.send_answers();
                    self.at(self.now + Duration::from_millis(100), What::Sweep);
                }
                What::Chaos => self.chaos(),
            }
            self.check();
        }
    }

    fn send_answers(&mut self) {
        for (Address { node, life, id }, outcome) in std::mem::take(&mut self.coordinator.answers) {
            let later = self.now + self.random.millis(1, 50);
            self.at(later, What::Answer { node, life, id, outcome });
        }
    }

    fn tell(&mut self, index: usize, life: u64, event: Event) {
        if self.nodes[index].life != life || !self.nodes[index].alive {
            return;
        }
        let actions = self.nodes[index].machine.step(event, self.now);
        for action in actions {
            self.act(index, life, action);
        }
    }

    fn act(&mut self, node: usize, life: u64, action: Action) {
        let soon = self.now + self.random.millis(1, 50);
        match action {
            Action::Send { id, request, timeout } => {
                let error = Err(RpcError::Failed(Error::new(ErrorKind::Timeout, "no answer")));
                let event = Event::Answer { id, outcome: error };
                self.at(self.now + timeout, What::Tell { node, life, event });
                self.at(soon, What::Arrive { node, life, id, request });
            }
            Action::Assign { generation, members } => {
                let terms = Terms { retry_moves: Duration::from_secs(40), acceptable_lag: 10_000 };
                // The leader knows its own topology and no other.
                let shape = self.nodes[node].shape;
                let topology: Vec<SubTopology> = self.topology.iter().map(|s| shaped(s, shape)).collect();
                let decision = lead(&members, &topology, &self.partitions, &terms);
                assert!(decision.unassigned.is_empty() && decision.unreadable.is_empty());
                for (id, data) in &decision.assignments {
                    let member = members.iter().find(|member| member.id == *id).expect("of the group");
                    let has = &member.subscription.as_ref().expect("readable").data.fingerprints;
                    for active in &data.active {
                        let fingerprint = topology.iter().find(|s| s.id == active.task.subtopology);
                        assert_eq!(
                            has.get(&active.task.subtopology),
                            fingerprint.map(|s| &s.fingerprint),
                            "seed {}: {id} cannot run {}",
                            self.seed,
                            active.task
                        );
                    }
                }
                self.moves += decision.moving;
                // Making internal topics may take its time.
                let later = self.now + self.random.millis(1, 5_000);
                let event = Event::Assigned { generation, outcome: Ok(decision.assignments) };
                self.at(later, What::Tell { node, life, event });
            }
            Action::Deliver(assignment) => {
                self.deliveries += 1;
                let Node { held, on_disk, .. } = &mut self.nodes[node];
                let epochs: BTreeMap<TaskId, u64> =
                    held.iter().map(|(task, lease)| (*task, lease.epoch)).collect();
                for (lease, _) in &assignment.kept {
                    assert_eq!(
                        epochs.get(&lease.task),
                        Some(&lease.epoch),
                        "seed {}: a kept tenure",
                        self.seed
                    );
                }
                for (lease, _) in &assignment.added {
                    assert!(
                        !epochs.contains_key(&lease.task),
                        "seed {}: {} is here already",
                        self.seed,
                        lease.task
                    );
                }
                for (lease, _) in assignment.kept.into_iter().chain(assignment.added) {
                    held.insert(lease.task, lease);
                    *on_disk.entry((lease.task, "store".into())).or_default() += 100;
                }
            }
            Action::Revoke(leases) => {
                for lease in leases {
                    self.nodes[node].held.insert(lease.task, lease);
                    if self.now < self.chaos_until && self.random.one_in(20) {
                        self.nodes[node].stuck.insert(lease.task);
                        continue;
                    }
                    let later = self.now + self.random.millis(1, 3_000);
                    self.at(later, What::Release { node, life, tasks: vec![lease.task] });
                }
            }
            Action::Fence(tasks) => {
                for task in &tasks {
                    self.nodes[node].stuck.remove(task);
                }
                let later = self.now + self.random.millis(1, 500);
                self.at(later, What::Release { node, life, tasks });
            }
            Action::Lost { tasks, .. } => {
                self.nodes[node].held.retain(|task, _| !tasks.contains(task));
                assert!(self.nodes[node].held.is_empty(), "seed {}: all are lost", self.seed);
            }
            Action::GateOpen(generation) => self.nodes[node].gate = Some(generation),
            Action::GateClosed => self.nodes[node].gate = None,
            Action::FlushAndCommit => {
                let node_data = &self.nodes[node];
                let data = Box::new(Self::subscription(
                    node,
                    node_data.shape,
                    node_data.workers,
                    &node_data.on_disk,
                ));
                let topics = self.partitions.keys().map(ToString::to_string).collect();
                self.at(soon, What::Tell { node, life, event: Event::Subscribe { topics, data } });
                let later = soon + self.random.millis(1, 6_000);
                self.at(later, What::Tell { node, life, event: Event::Committed });
            }
            Action::SetTimer(at) => {
                assert!(at > self.now, "seed {}: a timer in the past", self.seed);
                self.at(at, What::Tell { node, life, event: Event::Tick });
            }
            Action::Fatal(error) => self.nodes[node].fatal = Some(error),
            Action::Stopped => self.crash(node),
        }
    }

    fn chaos(&mut self) {
        if self.now >= self.chaos_until {
            // What follows is the peace in which everything must settle.
            for index in 0..self.nodes.len() {
                if self.deploys && self.nodes[index].alive && self.nodes[index].shape == 1 {
                    self.crash(index);
                    self.start(index);
                } else if !self.nodes[index].alive && index % 3 != 2 {
                    self.start(index);
                }
            }
            return;
        }
        let later = self.now + self.random.millis(100, 25_000);
        self.at(later, What::Chaos);
        let index = self.random.below(self.nodes.len() as u64) as usize;
        let life = self.nodes[index].life;
        match self.random.below(if self.lossy { 9 } else { 6 }) {
            _ if !self.nodes[index].alive => self.start(index),
            0 | 1 => self.crash(index),
            2 => {
                // A clean stop: the tasks are closed first.
                self.nodes[index].held.clear();
                self.nodes[index].gate = None;
                self.tell(index, life, Event::Close { leave: self.nodes[index].instance_id.is_none() });
            }
            3 if self.nodes.len() < 7 => self.add_node(self.nodes.len()),
            3 | 4 => self.tell(index, life, Event::Rejoin),
            5 => {
                if let Some(lease) = self.nodes[index].held.values().next() {
                    let generation = lease.generation;
                    self.tell(index, life, Event::CommitRefused { generation });
                }
            }
            6 => self.nodes[index].cut_off_until = self.now + self.random.millis(100, 70_000),
            _ => {
                let down = self.random.millis(1, 20_000);
                self.coordinator.fail_over(self.now, down);
                self.send_answers();
            }
        }
    }

    /// The promise to the log: one writer a task.
    fn check(&self) {
        let mut workers: BTreeMap<TaskId, usize> = BTreeMap::new();
        let mut committers: BTreeMap<TaskId, usize> = BTreeMap::new();
        for (index, node) in self.nodes.iter().enumerate() {
            for (task, lease) in &node.held {
                if let Some(other) = workers.insert(*task, index) {
                    assert!(
                        self.lossy,
                        "seed {}: {other} and {index} both work on {task} at {:?}",
                        self.seed, self.now
                    );
                }
                if node.gate.is_some() && self.coordinator.accepts(&node.member_id, lease.generation) {
                    let other = committers.insert(*task, index);
                    assert!(
                        other.is_none(),
                        "seed {}: {other:?} and {index} commit for {task} at {:?}",
                        self.seed,
                        self.now
                    );
                }
            }
        }
    }

    fn settled(&self) -> Result<(), String> {
        let all: BTreeSet<TaskId> =
            self.topology.iter().flat_map(|s| (0..s.tasks).map(|p| TaskId::new(s.id, p))).collect();
        let mut held: Vec<TaskId> = Vec::new();
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.alive) {
            if let Some(error) = &node.fatal {
                return Err(format!("{index} failed: {error}"));
            }
            for (task, lease) in &node.held {
                if node.gate != Some(lease.generation) || lease.generation != self.coordinator.generation {
                    return Err(format!("{index} cannot commit for {task}"));
                }
            }
            held.extend(node.held.keys());
            for (other, less) in self.nodes.iter().enumerate().filter(|(_, node)| node.alive) {
                let (n, m) = (node.held.len(), less.held.len());
                if n * usize::from(less.workers) > (m + 1) * usize::from(node.workers) {
                    return Err(format!(
                        "{index} has {n} on {}, {other} has {m} on {}",
                        node.workers, less.workers
                    ));
                }
            }
        }
        held.sort_unstable();
        if held.iter().copied().ne(all.iter().copied()) {
            return Err(format!("held {held:?}"));
        }
        Ok(())
    }
}

fn simulate(seed: u64, lossy: bool, deploys: bool) -> Simulation {
    let mut simulation = Simulation::new(seed, lossy, deploys);
    // Peace begins at 400 s at the latest plus one pause of chaos; stuck sessions and cut-off nodes need 100 s more.
    simulation.run(Duration::from_secs(800));
    if let Err(problem) = simulation.settled() {
        panic!("seed {seed}, lossy {lossy}: {problem}\n{:#?}", simulation.coordinator);
    }
    let (generation, deliveries) = (simulation.coordinator.generation, simulation.deliveries);
    simulation.run(Duration::from_secs(1_000));
    assert_eq!(simulation.coordinator.generation, generation, "seed {seed}: it goes on rebalancing");
    assert_eq!(simulation.deliveries, deliveries, "seed {seed}");
    simulation
}

/// `MAINSTEM_SEEDS=1000` for a long night.
fn seeds() -> std::ops::Range<u64> {
    0..std::env::var("MAINSTEM_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(30)
}

#[test]
fn groups_settle_after_crashes_leaves_and_stuck_workers() {
    let (mut moves, mut deliveries) = (0, 0);
    for seed in seeds() {
        let simulation = simulate(seed, false, false);
        moves += simulation.moves;
        deliveries += simulation.deliveries;
    }
    assert!(moves > 200 && deliveries > 1_000, "the simulation is too quiet: {moves}, {deliveries}");
}

#[test]
fn groups_settle_after_lost_messages_and_moving_coordinators() {
    for seed in seeds() {
        simulate(seed, true, false);
    }
}

#[test]
fn a_rolling_deploy_of_a_changed_topology_settles_and_no_task_lands_where_it_is_lacking() {
    let mut mixed = 0;
    for seed in seeds().step_by(3) {
        simulate(seed, false, true);
        mixed += usize::from(simulate(seed, true, true).nodes.iter().any(|node| node.life > 1));
    }
    assert!(mixed > 0);
}
