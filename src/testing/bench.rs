//! A task without its surroundings, for counting allocations and nanoseconds.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use super::queries::Queries;
use crate::clock::ManualClock;
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::query::ReadOnlyKeyValueStore;
use crate::record::{Headers, RawRecord, Record, Timestamp, TopicPartition};
use crate::task::errors::ErrorPolicies;
use crate::task::queue::RawBatch;
use crate::task::{Collector, Partition, Task, TaskConfig, TopicIx};
use crate::task_id::TaskId;
use crate::topology::Topology;

/// Counts what it is sent, and keeps none of it.
struct Counter(Rc<Cell<(u64, u64)>>);

impl Collector for Counter {
    fn register(&mut self, _: &str) -> Result<TopicIx> {
        Ok(TopicIx(0))
    }

    fn partitions(&self, _: TopicIx) -> i32 {
        1
    }

    fn send(
        &mut self,
        _: TopicIx,
        _: Partition,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        _: Option<Timestamp>,
        _: &Headers,
    ) -> Result<()> {
        let (records, bytes) = self.0.get();
        let length = key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len);
        self.0.set((records + 1, bytes + length as u64));
        Ok(())
    }
}

/// A task that reads partition 0 of each of its topics and whose output is only counted.
pub struct BenchTask {
    task: Task,
    sent: Rc<Cell<(u64, u64)>>,
    queries: Queries,
}

impl std::fmt::Debug for BenchTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BenchTask").field("sent", &self.sent).finish_non_exhaustive()
    }
}

impl BenchTask {
    /// The first sub-topology's task.
    pub fn new(topology: &Topology, config: &Config) -> Result<Self> {
        let subtopology = &topology.inner.subtopologies[0];
        let application_id: Arc<str> = config.application_id().into();
        let topics =
            subtopology.sources.iter().map(|s| subtopology.plan.topic_name(&application_id, &s.topic));
        let id = TaskId { subtopology: 0, partition: 0 };
        let task_config = TaskConfig {
            task: id,
            partitions: topics.map(|topic| TopicPartition::new(topic, 0)).collect(),
            application_id: application_id.clone(),
            policies: ErrorPolicies::of(config),
            cache_bytes: config.cache_bytes(),
            window_emit_interval: 1000,
            globals: Default::default(),
        };
        let sent = Rc::new(Cell::new((0, 0)));
        let collector = Box::new(Counter(sent.clone()));
        let mut task = Task::build(&subtopology.plan, task_config, collector, Arc::new(ManualClock::at(0)))?;
        task.init()?;
        let queries = Queries::of(&task, id, &subtopology.plan, &application_id);
        Ok(Self { task, sent, queries })
    }

    /// Hands the task records, the first of which has the offset `offset`.
    pub fn push(
        &mut self,
        topic: &str,
        offset: i64,
        records: impl ExactSizeIterator<Item = Record<Bytes, Bytes>> + 'static,
    ) -> Result<()> {
        let Some(source) = self.task.sources().iter().position(|s| &*s.topic == topic) else {
            return Err(Error::new(ErrorKind::Topic, "the task does not read the topic").at_topic(topic));
        };
        let count = records.len();
        let raw = |(offset, record): (i64, Record<Bytes, Bytes>)| {
            let Record { key, value, timestamp, headers } = record;
            Ok(RawRecord { offset, timestamp, key, value, headers })
        };
        let records = Box::new((offset..).zip(records).map(raw));
        self.task.push(source, RawBatch { records, next_offset: offset + count as i64, count });
        Ok(())
    }

    /// Processes everything that was pushed. Returns how many records that were.
    pub fn process(&mut self) -> Result<usize> {
        self.task.process(usize::MAX, |_| true, || true)
    }

    /// A handle that reads a key-value store.
    pub fn key_value_store<K: 'static, V: 'static>(&self, name: &str) -> Result<ReadOnlyKeyValueStore<K, V>> {
        let handle = self.queries.key_value_store(name, false, |(value, _)| value)?;
        self.publish()?;
        Ok(handle)
    }

    /// Shows readers what was processed since the last time.
    pub fn publish(&self) -> Result<()> {
        self.task.publish()
    }

    /// Commits.
    pub fn commit(&mut self) -> Result<()> {
        self.task.flush_caches()?;
        self.task.post_commit(|_| None)
    }

    /// How many records were sent so far, and how many bytes of keys and values.
    pub fn sent(&self) -> (u64, u64) {
        self.sent.get()
    }
}
