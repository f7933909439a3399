//! Everything the cluster knows, behind one lock: nodes, topics with their logs, who leads and who coordinates what.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kafka_protocol::error::ResponseError;
use uuid::Uuid;

use super::config::{BrokerConfig, TopicConfig};
use super::coordinators::{CoordinatorKind, Coordinators, slot};
use super::groups::{GroupConfig, Groups};
use super::log::Log;
use super::txn::Transactions;

/// A logical node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) port: u16,
    /// Whether it takes part; a frozen node does, for the others.
    pub(crate) alive: bool,
}

/// A partition: all replicas share one log, so that a follower has what the leader has.
#[derive(Debug)]
pub(crate) struct Partition {
    pub(crate) replicas: Vec<i32>,
    /// `None` while no replica is alive.
    pub(crate) leader: Option<i32>,
    pub(crate) leader_epoch: i32,
    pub(crate) log: Log,
}

impl Partition {
    /// A new one, led by the first replica that is alive.
    fn of(replicas: Vec<i32>, alive: &[i32]) -> Self {
        let leader = replicas.iter().copied().find(|id| alive.contains(id));
        // A leader notes its epoch before anything is written in it (`Partition.makeLeader`).
        let mut log = Log::default();
        log.lead(0);
        Self { replicas, leader, leader_epoch: 0, log }
    }

    /// Another leader, or none.
    fn lead(&mut self, leader: Option<i32>) {
        self.leader = leader;
        self.leader_epoch += 1;
        self.log.lead(self.leader_epoch);
    }
}

/// A topic.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) id: Uuid,
    pub(crate) config: TopicConfig,
    pub(crate) partitions: Vec<Partition>,
}

/// The cluster.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) cluster_id: String,
    pub(crate) nodes: BTreeMap<i32, Node>,
    pub(crate) topics: BTreeMap<String, Topic>,
    pub(crate) groups: Groups,
    pub(crate) txn: Transactions,
    pub(crate) coordinators: Coordinators,
    /// Where the next topic's first leader is.
    next_leader: usize,
    intervals: Intervals,
    next_retention: Instant,
    next_compaction: Instant,
}

/// How often logs are looked after.
#[derive(Debug, Clone, Copy)]
struct Intervals {
    retention: Duration,
    compaction: Duration,
    /// How long an idle producer is remembered, in ms.
    producers: i64,
}

impl State {
    /// A cluster of nodes with these ports; ids count from 1.
    pub(crate) fn new(ports: &[u16], config: &BrokerConfig, now: Instant) -> Self {
        let interval = |name| Duration::from_millis(config.number(name).max(1).unsigned_abs());
        let intervals = Intervals {
            retention: interval("log.retention.check.interval.ms"),
            compaction: interval("log.cleaner.backoff.ms"),
            producers: config.number("producer.id.expiration.ms"),
        };
        let nodes: BTreeMap<i32, Node> =
            (1..).zip(ports).map(|(id, port)| (id, Node { port: *port, alive: true })).collect();
        let ids: Vec<i32> = nodes.keys().copied().collect();
        Self {
            cluster_id: format!("embedded-{}", &Uuid::new_v4().simple().to_string()[..13]),
            nodes,
            topics: BTreeMap::new(),
            groups: Groups::new(GroupConfig::of(config), Uuid::new_v4().as_u128()),
            txn: Transactions::default(),
            coordinators: Coordinators::new(&ids),
            next_leader: 0,
            intervals,
            next_retention: now + intervals.retention,
            next_compaction: now + intervals.compaction,
        }
    }

    /// Does what is due by now.
    pub(crate) fn tick(&mut self, now: Instant, wall_ms: i64) {
        self.coordinators.tick(now);
        self.groups.tick(now);
        self.txn.tick(now);
        self.write_markers(wall_ms);
        self.clean(now, wall_ms);
    }

    /// Retention and compaction, each at its own interval.
    fn clean(&mut self, now: Instant, wall_ms: i64) {
        if now >= self.next_retention {
            self.next_retention = now + self.intervals.retention;
            for topic in self.topics.values_mut() {
                for partition in &mut topic.partitions {
                    partition.log.expire_producers(wall_ms.saturating_sub(self.intervals.producers));
                    partition.log.retain(&topic.config, wall_ms);
                }
            }
        }
        if now >= self.next_compaction {
            self.next_compaction = now + self.intervals.compaction;
            for topic in self.topics.values_mut() {
                for partition in &mut topic.partitions {
                    partition.log.compact_if_dirty(&topic.config, wall_ms);
                }
            }
        }
    }

    /// When something is due next.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let coordinators =
            [self.coordinators.next_deadline(), self.groups.next_deadline(), self.txn.next_deadline()];
        let logs = [self.next_retention, self.next_compaction];
        coordinators.into_iter().flatten().chain(logs).min()
    }

    /// The node that coordinates `key`, if any is alive.
    pub(crate) fn coordinator(&self, kind: CoordinatorKind, key: &str) -> Option<i32> {
        self.coordinators.node(kind, key)
    }

    /// Refuses with NOT_COORDINATOR unless `node` coordinates `key`, and while it is not ready to.
    pub(crate) fn must_coordinate(
        &self,
        node: i32,
        kind: CoordinatorKind,
        key: &str,
    ) -> Result<(), ResponseError> {
        self.coordinators.check(node, kind, key)
    }

    /// Makes a living node the coordinator of `key`, and of what shares its slot. It is ready after `loading`.
    pub(crate) fn move_coordinator(
        &mut self,
        kind: CoordinatorKind,
        key: &str,
        node: i32,
        now: Instant,
        loading: Duration,
    ) {
        self.move_slot(kind, slot(key), Some(node), now, loading);
    }

    fn move_slot(
        &mut self,
        kind: CoordinatorKind,
        moved: usize,
        node: Option<i32>,
        now: Instant,
        loading: Duration,
    ) {
        let ready = now + loading;
        self.coordinators.assign(kind, moved, node, (!loading.is_zero()).then_some(ready));
        match kind {
            CoordinatorKind::Group => self.groups.coordinator_moved(ready, &|group| slot(group) == moved),
            CoordinatorKind::Transaction => self.txn.moved(),
        }
    }

    /// The ids of the living nodes, in order.
    pub(crate) fn alive(&self) -> impl Iterator<Item = i32> {
        self.nodes.iter().filter(|(_, node)| node.alive).map(|(id, _)| *id)
    }

    /// The partition, if `node` leads it in the epoch that the caller believes in; -1 is no belief.
    pub(crate) fn led(
        &mut self,
        node: i32,
        topic: &str,
        partition: i32,
        epoch: i32,
    ) -> Result<(&mut Partition, &TopicConfig), ResponseError> {
        let unknown = ResponseError::UnknownTopicOrPartition;
        let topic = self.topics.get_mut(topic).ok_or(unknown)?;
        let at = usize::try_from(partition).map_err(|_| unknown)?;
        let partition = topic.partitions.get_mut(at).ok_or(unknown)?;
        // ORDER: the epoch before the leader, as in `Partition.checkCurrentLeaderEpoch`: a client that is behind
        // learns that it is, whomever it asks.
        match epoch {
            -1 => {}
            _ if epoch < partition.leader_epoch => return Err(ResponseError::FencedLeaderEpoch),
            _ if epoch > partition.leader_epoch => return Err(ResponseError::UnknownLeaderEpoch),
            _ => {}
        }
        match partition.leader == Some(node) {
            true => Ok((partition, &topic.config)),
            false => Err(ResponseError::NotLeaderOrFollower),
        }
    }

    /// Moves the leadership of a partition to a living node, which becomes a replica if it is none. What is above the
    /// high watermark is lost.
    pub(crate) fn move_leader(&mut self, topic: &str, index: i32, node: i32) -> Result<(), ResponseError> {
        let unknown = ResponseError::UnknownTopicOrPartition;
        if !self.alive().any(|alive| alive == node) {
            return Err(ResponseError::BrokerNotAvailable);
        }
        let topic = self.topics.get_mut(topic).ok_or(unknown)?;
        let at = usize::try_from(index).map_err(|_| unknown)?;
        let partition = topic.partitions.get_mut(at).ok_or(unknown)?;
        if !partition.replicas.contains(&node) {
            partition.replicas.push(node);
        }
        partition.lead(Some(node));
        Ok(())
    }

    /// A node is gone: the next living replica of each partition takes over, and so do coordinators.
    pub(crate) fn node_stopped(&mut self, id: i32, now: Instant) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.alive = false;
        }
        self.elect(Some(id), now);
    }

    /// A node is back: it takes what has nobody.
    pub(crate) fn node_started(&mut self, id: i32, now: Instant) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.alive = true;
        }
        self.elect(None, now);
    }

    fn elect(&mut self, gone: Option<i32>, now: Instant) {
        let alive: Vec<i32> = self.alive().collect();
        for partition in self.topics.values_mut().flat_map(|topic| &mut topic.partitions) {
            if partition.leader != gone {
                continue;
            }
            let next = partition.replicas.iter().copied().find(|id| alive.contains(id));
            // Who had no leader and gets none is not led anew.
            if next != partition.leader {
                partition.lead(next);
            }
        }
        for kind in [CoordinatorKind::Group, CoordinatorKind::Transaction] {
            for slot in self.coordinators.slots_of(kind, gone) {
                let node = alive.get(slot % alive.len().max(1)).copied();
                self.move_slot(kind, slot, node, now, Duration::ZERO);
            }
        }
    }

    /// Makes a topic that is not there. Replicas are dealt out in turn.
    pub(crate) fn create_topic(
        &mut self,
        name: &str,
        partitions: usize,
        replication: usize,
        config: TopicConfig,
    ) -> Uuid {
        let id = Uuid::new_v4();
        self.topics.insert(name.to_owned(), Topic { id, config, partitions: Vec::new() });
        self.add_partitions(name, partitions, replication);
        id
    }

    /// Forgets a topic; says whether it was there.
    pub(crate) fn delete_topic(&mut self, name: &str) -> bool {
        self.groups.topic_deleted(name);
        self.topics.remove(name).is_some()
    }

    /// Adds partitions to a topic until it has `count`; whether there are nodes enough the caller has checked.
    pub(crate) fn add_partitions(&mut self, name: &str, count: usize, replication: usize) {
        let alive: Vec<i32> = self.alive().collect();
        let away: Vec<i32> = self.nodes.keys().copied().filter(|id| !alive.contains(id)).collect();
        let Some(topic) = self.topics.get_mut(name) else { return };
        while topic.partitions.len() < count {
            let first = self.next_leader;
            self.next_leader += 1;
            // Each node once, those that are away last (`StripedReplicaPlacer`).
            let in_turn = alive.iter().cycle().skip(first % alive.len().max(1)).take(alive.len());
            let replicas: Vec<i32> = in_turn.chain(&away).take(replication).copied().collect();
            topic.partitions.push(Partition::of(replicas, &alive));
        }
    }

    /// Adds a partition with these replicas to a topic.
    pub(crate) fn add_assigned(&mut self, name: &str, replicas: Vec<i32>) {
        let alive: Vec<i32> = self.alive().collect();
        if let Some(topic) = self.topics.get_mut(name) {
            topic.partitions.push(Partition::of(replicas, &alive));
        }
    }
}
