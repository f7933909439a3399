//! The driver: one task, every topic with one partition, a clock that is moved by hand
//! (`org.apache.kafka.streams.TopologyTestDriver`).

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::java_queue::JavaQueue;
use super::queries::Queries;
use crate::clock::{Clock, ManualClock};
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::query::{ReadOnlyKeyValueStore, ReadOnlySessionStore, ReadOnlyWindowStore};
use crate::record::{Headers, RawRecord, Record, Timestamp, TopicPartition};
use crate::serde::erased::SerdeRef;
use crate::serde::{DefaultSerde, Serde, SerdeCx};
use crate::store::{GlobalStores, StoreRow, ValueAndTimestamp};
use crate::task::blueprint::{NodeKind, Plan};
use crate::task::errors::{DropReason, ErrorHandler, ErrorPolicies};
use crate::task::queue::RawBatch;
use crate::task::{Collector, Partition, Task, TaskConfig, TopicIx};
use crate::task_id::TaskId;
use crate::topology::Topology;

/// A record that a topology has produced, as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducedRecord {
    /// The topic; internal ones with the application id before them.
    pub topic: String,
    /// The partition where the library chooses it (changelogs), `None` where a producer would.
    pub partition: Option<i32>,
    /// The key.
    pub key: Option<Bytes>,
    /// The value.
    pub value: Option<Bytes>,
    /// Event time, in milliseconds since the Unix epoch; `None` where the record takes the time of sending.
    pub timestamp: Option<Timestamp>,
    /// The headers.
    pub headers: Headers,
}

/// All sub-topologies are one task.
const THE_TASK: TaskId = TaskId { subtopology: 0, partition: 0 };

#[derive(Default)]
struct Captured {
    topics: Vec<String>,
    records: Vec<ProducedRecord>,
}

#[derive(Clone, Default)]
struct Capture(Rc<RefCell<Captured>>);

impl Collector for Capture {
    fn register(&mut self, topic: &str) -> Result<TopicIx> {
        let mut captured = self.0.borrow_mut();
        let at = match captured.topics.iter().position(|t| t == topic) {
            Some(at) => at,
            None => {
                captured.topics.push(topic.to_owned());
                captured.topics.len() - 1
            }
        };
        Ok(TopicIx(u32::try_from(at).expect("a test writes to fewer than 2^32 topics")))
    }

    fn partitions(&self, _: TopicIx) -> i32 {
        1
    }

    fn send(
        &mut self,
        topic: TopicIx,
        partition: Partition,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp: Option<Timestamp>,
        headers: &Headers,
    ) -> Result<()> {
        let mut captured = self.0.borrow_mut();
        let topic = captured.topics[topic.0 as usize].clone();
        captured.records.push(ProducedRecord {
            topic,
            partition: match partition {
                Partition::Default => None,
                Partition::Exactly(partition) => Some(partition),
            },
            key: key.map(Bytes::copy_from_slice),
            value: value.map(Bytes::copy_from_slice),
            timestamp,
            headers: headers.clone(),
        });
        Ok(())
    }
}

/// Runs a topology without a broker, one record at a time.
///
/// All sub-topologies are one task, every topic has one partition, and after every record the driver runs the stream-time
/// punctuations that are due, commits, and takes records of internal topics back in. The wall clock stands at 0 until
/// [`advance_wall_clock`](Self::advance_wall_clock) moves it.
///
/// ```
/// use mainstem::prelude::*;
/// use mainstem::testing::TopologyTestDriver;
///
/// let builder = StreamsBuilder::new();
/// builder.stream::<String, String>("in").group_by_key("by-key").count("counts").to_stream().to("out");
/// let mut driver = TopologyTestDriver::new(&builder.build()?)?;
/// let input = driver.input_topic::<String, String>("in");
/// let output = driver.output_topic::<String, i64>("out");
///
/// input.pipe(&mut driver, Record::new("a".to_owned(), "x".to_owned(), 10))?;
/// input.pipe(&mut driver, Record::new("a".to_owned(), "y".to_owned(), 5))?;
/// let counts = output.read_all(&mut driver)?;
/// assert_eq!(counts[1], Record::new("a".to_owned(), 2, 10));
/// # Ok::<(), mainstem::Error>(())
/// ```
pub struct TopologyTestDriver {
    task: Task,
    /// Fills the global stores.
    global: Option<Task>,
    clock: ManualClock,
    captured: Capture,
    /// What was produced and not yet read.
    produced: Vec<ProducedRecord>,
    offsets: HashMap<String, i64>,
    /// The queues that hold records, and those that have got some since they were last looked at.
    waiting: JavaQueue,
    arrived: Vec<usize>,
    queries: Queries,
}

impl fmt::Debug for TopologyTestDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopologyTestDriver").field("unread", &self.produced.len()).finish_non_exhaustive()
    }
}

impl TopologyTestDriver {
    /// A driver with the application id `test`, the record cache off, and defaults for everything else.
    pub fn new(topology: &Topology) -> Result<Self> {
        let config = Config::builder("test", "unused:9092").state_dir("unused").cache_bytes(0).build()?;
        Self::with_config(topology, &config)
    }

    /// A driver with this configuration; nothing in it makes the driver connect anywhere.
    pub fn with_config(topology: &Topology, config: &Config) -> Result<Self> {
        Self::with_policies(topology, config, ErrorPolicies::of(config))
    }

    /// A driver whose error policies are the handler's.
    ///
    /// ```
    /// use mainstem::prelude::*;
    /// use mainstem::testing::TopologyTestDriver;
    /// use mainstem::{BoxError, Config, ErrorContext, ErrorResponse, ErrorStage};
    ///
    /// let builder = StreamsBuilder::new();
    /// builder.stream::<String, String>("in").try_map_values(|_, v| v.ok_or("no value").map(Some)).to("out");
    /// let config = Config::builder("app", "unused:9092").state_dir("unused").build()?;
    /// let go_on = |_: ErrorStage, error: &BoxError, at: &ErrorContext<'_>| {
    ///     assert_eq!((error.to_string().as_str(), at.offset), ("no value", 0));
    ///     ErrorResponse::Continue
    /// };
    /// let mut driver = TopologyTestDriver::with_handler(&builder.build()?, &config, go_on)?;
    /// let input = driver.input_topic::<String, String>("in");
    /// input.pipe(&mut driver, Record::new("a".to_owned(), None, 1))?;
    /// assert_eq!(driver.drops()[0].2, 1);
    /// # Ok::<(), mainstem::Error>(())
    /// ```
    pub fn with_handler(topology: &Topology, config: &Config, handler: impl ErrorHandler) -> Result<Self> {
        let policies = ErrorPolicies { handler: Arc::new(handler), ..ErrorPolicies::of(config) };
        Self::with_policies(topology, config, policies)
    }

    fn with_policies(topology: &Topology, config: &Config, policies: ErrorPolicies) -> Result<Self> {
        let plan = &topology.inner.whole;
        let application_id: Arc<str> = config.application_id().into();
        let clock = ManualClock::at(0);
        let captured = Capture::default();
        let mut globals = GlobalStores::default();
        let global = match &topology.inner.global {
            None => None,
            Some(plan) => {
                let global_config = TaskConfig {
                    task: THE_TASK,
                    application_id: application_id.clone(),
                    partitions: source_partitions(plan, &application_id),
                    policies: policies.clone(),
                    cache_bytes: 0,
                    window_emit_interval: 0,
                    globals: GlobalStores::default(),
                };
                let collector = Box::new(captured.clone());
                let mut task = Task::build(plan, global_config, collector, Arc::new(clock.clone()))?;
                globals = GlobalStores::of(&plan.stores, task.stores(), &application_id);
                task.init()?;
                task.publish()?;
                Some(task)
            }
        };
        let task_config = TaskConfig {
            task: THE_TASK,
            application_id: application_id.clone(),
            partitions: source_partitions(plan, &application_id),
            policies,
            cache_bytes: config.cache_bytes(),
            // As `org.apache.kafka.streams.TopologyTestDriver` has it.
            window_emit_interval: 0,
            globals,
        };
        let collector = Box::new(captured.clone());
        let mut task = Task::build(plan, task_config, collector, Arc::new(clock.clone()))?;
        task.init()?;
        Ok(Self {
            queries: Queries::of(&task, THE_TASK, plan, &application_id),
            task,
            global,
            clock,
            captured,
            produced: Vec::new(),
            offsets: HashMap::new(),
            waiting: JavaQueue::default(),
            arrived: Vec::new(),
        })
    }

    /// A typed handle on an input topic, with the types' own serdes.
    pub fn input_topic<K: DefaultSerde + 'static, V: DefaultSerde + 'static>(
        &self,
        topic: &str,
    ) -> TestInputTopic<K, V> {
        TestInputTopic { topic: topic.to_owned(), keys: SerdeRef::of(), values: SerdeRef::of() }
    }

    /// A typed handle on an input topic, with these serdes.
    pub fn input_topic_with<K: 'static, V: 'static>(
        &self,
        topic: &str,
        keys: impl Serde<K>,
        values: impl Serde<V>,
    ) -> TestInputTopic<K, V> {
        TestInputTopic { topic: topic.to_owned(), keys: SerdeRef::new(keys), values: SerdeRef::new(values) }
    }

    /// A typed handle on an output topic, with the types' own serdes.
    pub fn output_topic<K: DefaultSerde + 'static, V: DefaultSerde + 'static>(
        &self,
        topic: &str,
    ) -> TestOutputTopic<K, V> {
        let (keys, values) = (SerdeRef::of(), SerdeRef::of());
        TestOutputTopic { topic: topic.to_owned(), keys, values, types: PhantomData }
    }

    /// A typed handle on an output topic, with these serdes.
    pub fn output_topic_with<K: 'static, V: 'static>(
        &self,
        topic: &str,
        keys: impl Serde<K>,
        values: impl Serde<V>,
    ) -> TestOutputTopic<K, V> {
        let (keys, values) = (SerdeRef::new(keys), SerdeRef::new(values));
        TestOutputTopic { topic: topic.to_owned(), keys, values, types: PhantomData }
    }

    /// Processes a record to the end, with everything that follows from it. After an error the driver is of no more use
    /// but for what it has produced.
    pub fn pipe(&mut self, topic: &str, record: Record<Bytes, Bytes>) -> Result<()> {
        if self.global.as_ref().is_some_and(|global| global.sources().iter().any(|s| &*s.topic == topic)) {
            return self.pipe_global(topic, record);
        }
        self.enqueue(topic, record)?;
        self.complete()
    }

    /// Moves the wall clock, runs the punctuations that are due, and processes what follows from them.
    pub fn advance_wall_clock(&mut self, by: Duration) -> Result<()> {
        self.clock.advance(by);
        let punctuated = self.task.punctuate_wall_clock();
        self.capture(punctuated)?;
        let committed = self.commit();
        self.capture(committed)?;
        self.complete()
    }

    /// The wall clock's time.
    pub fn wall_ms(&self) -> Timestamp {
        self.clock.wall_ms()
    }

    /// Everything produced and not yet read, of all topics (changelogs and repartition topics too), in order.
    pub fn take_produced(&mut self) -> Vec<ProducedRecord> {
        std::mem::take(&mut self.produced)
    }

    /// All rows of a store in key order.
    pub fn store_rows(&self, store: &str) -> Result<Vec<StoreRow>> {
        let rows = self.task.rows(store).or_else(|| self.global.as_ref()?.rows(store));
        rows.unwrap_or_else(|| {
            let known: Vec<&str> = self.stores().collect();
            let text = format!("there is no store named {store}; there are: {}", known.join(", "));
            Err(Error::new(ErrorKind::Store, text))
        })
    }

    /// A handle that reads a key-value store, as [`AppHandle::key_value_store`](crate::AppHandle::key_value_store) gives
    /// one; what it reads is what there was after the last record.
    ///
    /// # Errors
    /// If the topology has no such store, or it has other types.
    pub fn key_value_store<K: 'static, V: 'static>(&self, name: &str) -> Result<ReadOnlyKeyValueStore<K, V>> {
        self.asked(name, false, |(value, _)| value)
    }

    /// A handle that reads a key-value store with its timestamps.
    ///
    /// # Errors
    /// As [`key_value_store`](Self::key_value_store).
    pub fn timestamped_key_value_store<K: 'static, V: 'static>(
        &self,
        name: &str,
    ) -> Result<ReadOnlyKeyValueStore<K, V, ValueAndTimestamp<V>>> {
        self.asked(name, true, |(value, timestamp)| ValueAndTimestamp { value, timestamp })
    }

    /// A handle that reads a window store, as [`AppHandle::window_store`](crate::AppHandle::window_store) gives one.
    ///
    /// # Errors
    /// As [`key_value_store`](Self::key_value_store).
    pub fn window_store<K: Clone + 'static, V: 'static>(
        &self,
        name: &str,
    ) -> Result<ReadOnlyWindowStore<K, V>> {
        let handle = self.queries.window_store(name)?;
        self.task.publish()?;
        Ok(handle)
    }

    /// A handle that reads a session store, as [`AppHandle::session_store`](crate::AppHandle::session_store) gives one.
    ///
    /// # Errors
    /// As [`key_value_store`](Self::key_value_store).
    pub fn session_store<K: Clone + 'static, V: 'static>(
        &self,
        name: &str,
    ) -> Result<ReadOnlySessionStore<K, V>> {
        let handle = self.queries.session_store(name)?;
        self.task.publish()?;
        Ok(handle)
    }

    fn asked<K: 'static, V: 'static, T>(
        &self,
        name: &str,
        needs_timestamps: bool,
        row: fn((V, Timestamp)) -> T,
    ) -> Result<ReadOnlyKeyValueStore<K, V, T>> {
        let handle = self.queries.key_value_store(name, needs_timestamps, row)?;
        self.task.publish()?;
        Ok(handle)
    }

    /// The names of the stores, in the order in which they were added.
    pub fn stores(&self) -> impl Iterator<Item = &str> {
        let global = self.global.iter().flat_map(Task::stores);
        self.task.stores().iter().chain(global).map(|store| &**store.name())
    }

    /// Records that went no further than a node: node, reason, count.
    pub fn drops(&self) -> Vec<(String, DropReason, u64)> {
        self.task.drops().map(|(node, reason, count)| (node.to_owned(), reason, count)).collect()
    }

    /// Closes the processors.
    pub fn close(mut self) -> Result<()> {
        self.task.close()
    }

    /// A record of a global store's topic: no task sees it, but the next record finds it in the store.
    fn pipe_global(&mut self, topic: &str, record: Record<Bytes, Bytes>) -> Result<()> {
        let (offset, batch) = self.batch(topic, record);
        let Some(global) = &mut self.global else { return Ok(()) };
        let source = global.sources().iter().position(|s| &*s.topic == topic);
        if let Some(source) = source {
            global.start_at(source, offset);
            global.push(source, batch);
        }
        while global.process(1, |_| true, || true)? > 0 {}
        global.post_commit(|_| None)?;
        global.publish()
    }

    fn enqueue(&mut self, topic: &str, record: Record<Bytes, Bytes>) -> Result<()> {
        let Some(source) = self.task.sources().iter().position(|s| &*s.topic == topic) else {
            let known: Vec<&str> = self.task.sources().iter().map(|s| &*s.topic).collect();
            let text = format!("the topology reads no topic named {topic}; it reads: {}", known.join(", "));
            return Err(Error::new(ErrorKind::Topic, text));
        };
        let (_, batch) = self.batch(topic, record);
        self.task.push(source, batch);
        self.arrived.push(source);
        Ok(())
    }

    /// A batch of one record, the next of its topic, and its offset.
    fn batch(&mut self, topic: &str, record: Record<Bytes, Bytes>) -> (i64, RawBatch) {
        let next = self.offsets.entry(topic.to_owned()).or_default();
        let offset = *next;
        *next += 1;
        let raw = RawRecord {
            offset,
            timestamp: record.timestamp,
            key: record.key,
            value: record.value,
            headers: record.headers,
        };
        let records = Box::new(std::iter::once(Ok(raw)));
        (offset, RawBatch { records, next_offset: offset + 1, count: 1 })
    }

    /// `TopologyTestDriver.completeAllProcessableWork`.
    fn complete(&mut self) -> Result<()> {
        loop {
            let heads = self.task.heads().map(<[_]>::to_vec);
            let heads = self.capture(heads)?;
            for source in std::mem::take(&mut self.arrived) {
                if let Some(head) = heads[source].filter(|_| !self.waiting.contains(source)) {
                    self.waiting.offer(head, source);
                }
            }
            let Some(source) = self.waiting.poll() else { return Ok(()) };
            let processed = self.task.process_head_of(source);
            // ORDER: a queue that holds more is back in line before those that the record has filled.
            if processed.is_ok()
                && let Some(head) = self.task.heads()?[source]
            {
                self.waiting.offer(head, source);
            }
            self.capture(processed)?;
            let punctuated = self.task.punctuate_stream_time();
            self.capture(punctuated)?;
            let committed = self.commit();
            self.capture(committed)?;
        }
    }

    fn commit(&mut self) -> Result<()> {
        self.task.flush_caches()?;
        self.task.post_commit(|_| None)
    }

    /// Notes what a step has produced, also when it failed, and takes records of the topology's own topics back in.
    fn capture<T>(&mut self, step: Result<T>) -> Result<T> {
        let records = std::mem::take(&mut self.captured.0.borrow_mut().records);
        for record in &records {
            let own = self.task.sources().iter().any(|s| *s.topic == record.topic);
            if own && step.is_ok() {
                let timestamp = record.timestamp.unwrap_or_else(|| self.clock.wall_ms());
                let again = Record {
                    key: record.key.clone(),
                    value: record.value.clone(),
                    timestamp,
                    headers: record.headers.clone(),
                };
                self.enqueue(&record.topic, again)?;
            }
        }
        self.produced.extend(records);
        step
    }
}

/// The partition of each topic that the nodes of a plan read.
fn source_partitions(plan: &Plan, application_id: &str) -> Vec<TopicPartition> {
    let topics = plan.nodes.iter().filter_map(|node| match &node.kind {
        NodeKind::Source { topics, .. } => Some(topics),
        NodeKind::Processor { .. } => None,
    });
    topics.flatten().map(|topic| TopicPartition::new(plan.topic_name(application_id, topic), 0)).collect()
}

/// Pipes typed records into a topic.
#[derive(Debug)]
pub struct TestInputTopic<K, V> {
    topic: String,
    keys: SerdeRef<K>,
    values: SerdeRef<V>,
}

impl<K: 'static, V: 'static> TestInputTopic<K, V> {
    /// Processes a record to the end, with everything that follows from it.
    pub fn pipe(&self, driver: &mut TopologyTestDriver, record: Record<K, V>) -> Result<()> {
        let Record { key, value, timestamp, headers } = record;
        let at = |error: Error| error.at_topic(&self.topic);
        let write_key = |key| write(&self.keys, &key, &SerdeCx::key(&self.topic).headers(&headers));
        let write_value = |value| write(&self.values, &value, &SerdeCx::value(&self.topic).headers(&headers));
        let key = key.map(write_key).transpose().map_err(at)?;
        let value = value.map(write_value).transpose().map_err(at)?;
        driver.pipe(&self.topic, Record { key, value, timestamp, headers })
    }
}

fn write<T: 'static>(serde: &SerdeRef<T>, value: &T, cx: &SerdeCx<'_>) -> Result<Bytes> {
    let mut out = BytesMut::new();
    serde.write(value, cx, &mut out)?;
    Ok(out.freeze())
}

/// Reads typed records from a topic.
#[derive(Debug)]
pub struct TestOutputTopic<K, V> {
    topic: String,
    keys: SerdeRef<K>,
    values: SerdeRef<V>,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K: 'static, V: 'static> TestOutputTopic<K, V> {
    /// The records of the topic that were produced and not yet read, in order.
    pub fn read_all(&self, driver: &mut TopologyTestDriver) -> Result<Vec<Record<K, V>>> {
        let all = driver.take_produced();
        let (mine, others) = all.into_iter().partition::<Vec<_>, _>(|record| record.topic == self.topic);
        driver.produced = others;
        mine.into_iter().map(|record| self.read(record)).collect()
    }

    fn read(&self, record: ProducedRecord) -> Result<Record<K, V>> {
        let at = |error: crate::serde::SerdeError| Error::from(error).at_topic(&self.topic);
        let read_key =
            |bytes: &Bytes| self.keys.read(bytes, &SerdeCx::key(&self.topic).headers(&record.headers));
        let read_value =
            |bytes: &Bytes| self.values.read(bytes, &SerdeCx::value(&self.topic).headers(&record.headers));
        let key = record.key.as_ref().map(read_key).transpose().map_err(at)?;
        let value = record.value.as_ref().map(read_value).transpose().map_err(at)?;
        Ok(Record { key, value, timestamp: record.timestamp.unwrap_or(-1), headers: record.headers })
    }
}
