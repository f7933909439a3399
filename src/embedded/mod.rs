//! A Kafka cluster inside the process: in memory, on loopback ports, speaking Kafka's wire protocol.
//!
//! It is for tests and first steps: the production client runs against it with nothing installed, and a test can script
//! what goes wrong. It grows by what tests need; what it understands is the table in `api.rs`. Nothing is kept when it
//! stops, and it makes no claim to Kafka's durability or speed.
//!
//! ```
//! use mainstem::embedded::EmbeddedKafka;
//!
//! # fn main() -> mainstem::Result<()> {
//! let kafka = EmbeddedKafka::builder().nodes(3).start()?;
//! println!("a cluster of three at {}", kafka.bootstrap());
//! # Ok(())
//! # }
//! ```
//!
//! A test of a service writes to typed topics and waits for what comes out: [`EmbeddedKafka::topic`] and [`TestTopic`],
//! which has such a test as its example.

mod api;
mod broker;
mod clock;
mod config;
mod coordinators;
mod cuts;
mod decode;
mod faults;
mod frames;
#[cfg(feature = "testing")]
pub(crate) mod fuzz;
mod groups;
mod handle;
mod kit;
mod log;
mod refuse;
mod sasl;
mod server;
mod state;
mod txn;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{oneshot, watch};

pub use api::Api;
pub use faults::{Call, Fault, HookId};
pub use frames::Frame;
pub use kit::TestTopic;

use crate::{Error, ErrorKind, Result};
use broker::Broker;
use clock::BrokerClock;
use config::BrokerConfig;
use coordinators::CoordinatorKind;
use server::Mode;
use state::State;

/// What an [`EmbeddedKafka`] shall be.
#[derive(Debug, Clone)]
#[must_use]
pub struct EmbeddedKafkaBuilder {
    nodes: usize,
    config: Vec<(String, String)>,
    manual_clock: bool,
    users: Vec<(String, String)>,
}

impl EmbeddedKafkaBuilder {
    /// How many logical nodes there are, with ids from 1; 1 by default. Each has a port of its own.
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes;
        self
    }

    /// How many partitions a topic has whose maker does not say; 1 by default.
    pub fn default_partitions(self, partitions: u32) -> Self {
        self.config("num.partitions", partitions.to_string())
    }

    /// Whether a topic is made because a client asks for it; it is by default, as in Kafka.
    pub fn auto_create_topics(self, create: bool) -> Self {
        self.config("auto.create.topics.enable", create.to_string())
    }

    /// Sets a broker setting by Kafka's name. [`start`](Self::start) refuses names that the embedded broker does not
    /// know.
    pub fn config(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.config.push((name.into(), value.into()));
        self
    }

    /// The level of the feature `transaction.version`: 1 (the default), in which clients add partitions to transactions, or
    /// 2 (KIP-890), in which leaders do, and every transaction has an epoch of its own. Kafka has 2 from 4.0 on.
    pub fn transaction_version(self, level: u8) -> Self {
        self.config("transaction.version", level.to_string())
    }

    /// Coordinators, timestamps, retention and compaction live by a clock that stands still until
    /// [`EmbeddedKafka::advance`]. What belongs to the network (how long a fetch waits) stays real.
    pub fn manual_clock(mut self) -> Self {
        self.manual_clock = true;
        self
    }

    /// Adds a user; with one, every connection must authenticate by SASL.
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.users.push((name.into(), password.into()));
        self
    }

    /// Starts the cluster; it serves when this returns.
    ///
    /// # Errors
    ///
    /// `Config` if a setting is unknown or no node is wanted; `Io` if no port or thread is to be had.
    pub fn start(self) -> Result<EmbeddedKafka> {
        let io = |what: &'static str| move |e: std::io::Error| Error::new(ErrorKind::Io, what).because(e);
        if self.nodes == 0 {
            return Err(Error::new(ErrorKind::Config, "an embedded cluster needs at least one node"));
        }
        let mut config = BrokerConfig::default();
        for (name, value) in &self.config {
            config.set(name, value)?;
        }
        let (mut listeners, mut ports) = (Vec::new(), Vec::new());
        for _ in 0..self.nodes {
            let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(io("no port for a node"))?;
            listener.set_nonblocking(true).map_err(io("a port cannot be used without blocking"))?;
            ports.push(listener.local_addr().map_err(io("a port has no number"))?.port());
            listeners.push(listener);
        }
        let clock = BrokerClock::new(self.manual_clock);
        let broker =
            Arc::new(Broker::new(State::new(&ports, &config, clock.now()), clock, config, self.users));
        let modes: BTreeMap<i32, watch::Sender<Mode>> =
            (1..).zip(&ports).map(|(id, _)| (id, watch::Sender::new(Mode::Running(0)))).collect();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(io("no runtime for the embedded broker"))?;
        let (stop, stopped) = oneshot::channel();
        let (serving, nodes) = (Arc::clone(&broker), modes.clone());
        let thread = std::thread::Builder::new()
            .name("embedded-kafka".to_owned())
            .spawn(move || {
                runtime.block_on(async move {
                    for ((id, mode), listener) in nodes.into_iter().zip(listeners) {
                        let serving = Arc::clone(&serving);
                        tokio::spawn(async move {
                            if let Err(error) = server::serve(serving, id, mode, listener).await {
                                tracing::error!(%error, node = id, "a node of the embedded broker is gone");
                            }
                        });
                    }
                    tokio::spawn(server::keep_time(serving));
                    // Dropping the sender is the other way to say it.
                    let _ = stopped.await;
                });
            })
            .map_err(io("no thread for the embedded broker"))?;
        let bootstrap: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        Ok(EmbeddedKafka {
            bootstrap: bootstrap.join(","),
            broker,
            modes,
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

/// A running cluster; it stops when this is dropped, which panics if a [hook](EmbeddedKafka::on) has.
#[derive(Debug)]
pub struct EmbeddedKafka {
    bootstrap: String,
    broker: Arc<Broker>,
    modes: BTreeMap<i32, watch::Sender<Mode>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl EmbeddedKafka {
    /// A cluster of one node with Kafka's defaults.
    ///
    /// # Errors
    ///
    /// See [`EmbeddedKafkaBuilder::start`].
    pub fn start() -> Result<Self> {
        Self::builder().start()
    }

    /// To say what the cluster shall be.
    pub fn builder() -> EmbeddedKafkaBuilder {
        EmbeddedKafkaBuilder { nodes: 1, config: Vec::new(), manual_clock: false, users: Vec::new() }
    }

    /// The addresses of all nodes: what clients take as `bootstrap.servers`.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Has `hook` asked about each request of this kind, before the broker takes it up. The hooks of a kind are asked
    /// in the order in which they came, until one does not pass. A hook runs on the broker's thread and must not wait.
    ///
    /// A hook may assert: what it says when it panics is what this cluster panics with when it is dropped, unless
    /// [`take_hook_panic`](Self::take_hook_panic) has taken it. The request is answered with UNKNOWN_SERVER_ERROR.
    pub fn on(&self, api: Api, hook: impl Fn(&Call) -> Fault + Send + Sync + 'static) -> HookId {
        self.broker.faults.on(api, hook)
    }

    /// Removes one hook, if it is there; a request that has met it already is not called back.
    pub fn remove_hook(&self, hook: HookId) {
        self.broker.faults.remove(hook);
    }

    /// What was said by the first hook, or cut, that has panicked since the last time that this was asked. Who asks
    /// decides what comes of it: dropping the cluster does not panic with it any more.
    pub fn take_hook_panic(&self) -> Option<String> {
        self.broker.faults.take_panic()
    }

    /// Has `cut` asked about each request and answer: after how many of its bytes its connection ends, if it does. A
    /// request that is cut has no effect, also if all its bytes came; what an answer tells of has happened. There is
    /// one cut at a time: this replaces the one before.
    ///
    /// ```
    /// use mainstem::embedded::{Api, EmbeddedKafka};
    ///
    /// # fn main() -> mainstem::Result<()> {
    /// let kafka = EmbeddedKafka::start()?;
    /// // Nobody sees more than the first ten bytes of an answer to a Produce.
    /// kafka.cut(|frame| (frame.api == Api::Produce && frame.answer).then_some(10));
    /// # Ok(())
    /// # }
    /// ```
    pub fn cut(&self, cut: impl Fn(&Frame) -> Option<usize> + Send + Sync + 'static) {
        self.broker.frames.set(Some(Arc::new(cut)));
    }

    /// Removes all hooks, and the cut.
    pub fn clear_hooks(&self) {
        self.broker.faults.clear();
        self.broker.frames.set(None);
    }

    /// From now on, each new connection dies after some random number of bytes, `mean_bytes` on average, wherever in a
    /// frame that is. How many is drawn from `seed`, in the order in which connections come. Keep the mean above a few
    /// kilobytes, or clients do not get beyond their first questions.
    pub fn cut_connections(&self, seed: u64, mean_bytes: u64) {
        self.broker.cuts.plan(Some((seed, mean_bytes)));
    }

    /// New connections live on.
    pub fn keep_connections(&self) {
        self.broker.cuts.plan(None);
    }

    /// Moves the clock of a cluster with a [manual clock](EmbeddedKafkaBuilder::manual_clock). What is due by then has
    /// been done when this returns: members are expired, transactions aborted, old records deleted.
    ///
    /// # Errors
    ///
    /// `IllegalState` if the cluster goes by the machine's clock; `Config` if the clock would be moved by more than a
    /// hundred years in all. Nothing is moved then.
    pub fn advance(&self, by: Duration) -> Result<()> {
        let mut state = self.broker.lock();
        // ORDER: under the lock, so that no request sees the new time before what it has made due.
        self.broker.clock.advance(by)?;
        state.tick(self.broker.clock.now(), self.broker.clock.wall_ms());
        drop(state);
        self.changed();
        Ok(())
    }

    /// Makes `node` the coordinator of a consumer group, and of those that share its slot.
    ///
    /// # Errors
    ///
    /// `Broker` if there is no such node, or if it is stopped.
    pub fn move_group_coordinator(&self, group: &str, node: i32) -> Result<()> {
        self.move_coordinator(CoordinatorKind::Group, group, node, Duration::ZERO)
    }

    /// The same, and the new coordinator answers COORDINATOR_LOAD_IN_PROGRESS for that long by the cluster's clock.
    ///
    /// # Errors
    ///
    /// `Broker` if there is no such node, or if it is stopped.
    pub fn move_group_coordinator_slowly(&self, group: &str, node: i32, loading: Duration) -> Result<()> {
        self.move_coordinator(CoordinatorKind::Group, group, node, loading)
    }

    /// Makes `node` the coordinator of a transactional id, and of those that share its slot.
    ///
    /// # Errors
    ///
    /// `Broker` if there is no such node, or if it is stopped.
    pub fn move_transaction_coordinator(&self, transactional_id: &str, node: i32) -> Result<()> {
        self.move_coordinator(CoordinatorKind::Transaction, transactional_id, node, Duration::ZERO)
    }

    fn move_coordinator(&self, kind: CoordinatorKind, key: &str, node: i32, loading: Duration) -> Result<()> {
        let now = self.broker.clock.now();
        let mut state = self.broker.lock();
        if !state.alive().any(|alive| alive == node) {
            return Err(Error::new(ErrorKind::Broker, format!("there is no living node {node}")));
        }
        state.move_coordinator(kind, key, node, now, loading);
        self.broker.timers.notify_one();
        Ok(())
    }

    /// Makes `node` the leader of a partition, in the next leader epoch. Records above a high watermark that is
    /// [held](Self::hold_replication) are lost, as with an unclean election.
    ///
    /// # Errors
    ///
    /// `Broker` if there is no such partition or no such living node.
    pub fn move_leader(&self, topic: &str, partition: i32, node: i32) -> Result<()> {
        let moved = self.broker.lock().move_leader(topic, partition, node);
        self.changed();
        moved.map_err(|error| {
            let what = format!("the leader cannot be moved to node {node}: {error}");
            Error::new(ErrorKind::Broker, what).at_topic(topic).at_partition(partition)
        })
    }

    /// The node that leads a partition now; `None` if there is no such partition or no replica of it is alive.
    pub fn leader(&self, topic: &str, partition: i32) -> Option<i32> {
        let state = self.broker.lock();
        state.topics.get(topic)?.partitions.get(usize::try_from(partition).ok()?)?.leader
    }

    /// Stops the replication of a partition, or lets it go on: while it is held, the high watermark stays where it is,
    /// readers see nothing new, and `acks=all` is not answered.
    ///
    /// # Errors
    ///
    /// `Topic` if there is no such partition.
    pub fn hold_replication(&self, topic: &str, partition: i32, held: bool) -> Result<()> {
        let mut state = self.broker.lock();
        let missing = || Error::new(ErrorKind::Topic, "there is no such partition").at_topic(topic);
        let partitions =
            state.topics.get_mut(topic).map(|topic| &mut topic.partitions).ok_or_else(missing)?;
        let at = usize::try_from(partition).map_err(|_| missing())?;
        partitions.get_mut(at).ok_or_else(missing)?.log.hold(held);
        drop(state);
        self.changed();
        Ok(())
    }

    /// Whoever waits for a log, or has something to write that could not be written, looks again.
    fn changed(&self) {
        self.broker.changed.notify_waiters();
        self.broker.timers.notify_one();
    }

    /// Compacts what is decided of a topic at once, the active segment included, whatever its dirty ratio. Tombstones
    /// go when `delete.retention.ms` has passed since the compaction that first met them.
    ///
    /// # Errors
    ///
    /// `Topic` if there is no such topic, or if its `cleanup.policy` has no `compact`.
    pub fn compact(&self, topic: &str) -> Result<()> {
        let now = self.broker.clock.wall_ms();
        let mut state = self.broker.lock();
        match state.topics.get_mut(topic) {
            None => Err(Error::new(ErrorKind::Topic, "there is no such topic").at_topic(topic)),
            Some(topic) if topic.config.compacted => {
                topic.partitions.iter_mut().for_each(|partition| partition.log.compact(&topic.config, now));
                Ok(())
            }
            Some(_) => Err(Error::new(ErrorKind::Topic, "the topic is not compacted").at_topic(topic)),
        }
    }

    /// Deletes what a topic's retention lets go of by now, without waiting for the next check.
    ///
    /// # Errors
    ///
    /// `Topic` if there is no such topic.
    pub fn expire(&self, topic: &str) -> Result<()> {
        let now = self.broker.clock.wall_ms();
        let mut state = self.broker.lock();
        let missing = || Error::new(ErrorKind::Topic, "there is no such topic").at_topic(topic);
        let topic = state.topics.get_mut(topic).ok_or_else(missing)?;
        topic.partitions.iter_mut().for_each(|partition| partition.log.retain(&topic.config, now));
        Ok(())
    }

    /// The bytes of all records that the cluster holds.
    pub fn size(&self) -> usize {
        let state = self.broker.lock();
        state.topics.values().flat_map(|topic| &topic.partitions).map(|partition| partition.log.size()).sum()
    }

    /// Ends a node: its connections break, new ones are refused, and its partitions and coordinators go to other
    /// nodes, as far as there are living replicas.
    ///
    /// # Errors
    ///
    /// `Broker` if there is no such node.
    pub fn stop_node(&self, node: i32) -> Result<()> {
        self.mode(node)?.send_modify(|mode| *mode = mode.stopped());
        self.broker.lock().node_stopped(node, self.broker.clock.now());
        self.changed();
        Ok(())
    }

    /// Starts a node that was stopped, at its old port, with all that it had. Clients may have to try more than once
    /// until it listens.
    ///
    /// # Errors
    ///
    /// `Broker` if there is no such node.
    pub fn start_node(&self, node: i32) -> Result<()> {
        self.mode(node)?.send_modify(|mode| *mode = mode.started());
        self.broker.lock().node_started(node, self.broker.clock.now());
        self.changed();
        Ok(())
    }

    fn mode(&self, node: i32) -> Result<&watch::Sender<Mode>> {
        let unknown = || Error::new(ErrorKind::Broker, format!("there is no node {node}"));
        self.modes.get(&node).ok_or_else(unknown)
    }

    /// A node takes connections and requests and does nothing more, as if its process were stopped by a signal, until
    /// [`thaw_node`](Self::thaw_node).
    ///
    /// # Errors
    ///
    /// `Broker` if there is no such node.
    pub fn freeze_node(&self, node: i32) -> Result<()> {
        self.mode(node)?.send_modify(|mode| *mode = mode.frozen());
        Ok(())
    }

    /// A frozen node goes on with what it was asked meanwhile.
    ///
    /// # Errors
    ///
    /// `Broker` if there is no such node.
    pub fn thaw_node(&self, node: i32) -> Result<()> {
        // A node that is stopped stays so.
        self.mode(node)?.send_modify(|mode| *mode = mode.thawed());
        Ok(())
    }
}

impl Drop for EmbeddedKafka {
    fn drop(&mut self) {
        self.stop.take();
        let Some(thread) = self.thread.take() else { return };
        // A hook may have the last handle. Its thread ends behind it.
        if thread.thread().id() == std::thread::current().id() {
            return;
        }
        // A panic over there has been said already.
        let _ = thread.join();
        if let Some(said) = self.take_hook_panic()
            && !std::thread::panicking()
        {
            panic!("{said}");
        }
    }
}
