//! The collector of the tasks of one worker: records go straight into the batches of the worker's producer.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use tokio::runtime::Handle;

use super::refused::Refused;
use crate::client::Cluster;
use crate::client::produce::{Producer, TopicIx as ProducerTopic};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::record::{Headers, Timestamp, partition_for_key};
use crate::task::{Collector, Partition, TopicIx};

/// A topic that the tasks of a worker write to.
struct Topic {
    name: String,
    producer: ProducerTopic,
    partitions: i32,
    /// What was sent to it.
    records: u64,
    bytes: u64,
}

/// What the tasks of a worker share.
pub(super) struct Output {
    pub(super) producer: Producer,
    topics: Vec<Topic>,
    by_name: HashMap<String, TopicIx>,
    /// Partition counts that are known without asking.
    counts: HashMap<String, i32>,
    /// What the next transaction goes without.
    pub(super) refused: Refused,
    /// What is sent is of no transaction: it comes to nothing.
    pub(super) discards: bool,
    cluster: Cluster,
    io: Handle,
}

impl Output {
    pub(super) fn new(producer: Producer, cluster: Cluster, io: Handle) -> Self {
        Self {
            producer,
            topics: Vec::new(),
            by_name: HashMap::new(),
            counts: HashMap::new(),
            refused: Refused::default(),
            discards: false,
            cluster,
            io,
        }
    }

    /// Takes in partition counts. A topic that has grown gets its new partitions at once, as from any producer.
    pub(super) fn know(&mut self, counts: HashMap<String, i32>) -> Result<()> {
        for (topic, count) in &counts {
            if let Some(ix) = self.by_name.get(topic) {
                let known = &mut self.topics[ix.0 as usize];
                if *count > known.partitions {
                    self.producer.register(topic, *count)?;
                    known.partitions = *count;
                }
            }
        }
        self.counts.extend(counts);
        Ok(())
    }

    /// Sends a record to a registered topic.
    pub(super) fn send(
        &mut self,
        topic: TopicIx,
        partition: Partition,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &Headers,
    ) -> Result<()> {
        if self.discards {
            return Ok(());
        }
        if !self.refused.is_empty() && self.leave_out(topic, timestamp, key, value, headers)? {
            return Ok(());
        }
        let to = &mut self.topics[topic.0 as usize];
        let (producer, count) = (to.producer, to.partitions);
        to.records += 1;
        to.bytes += (key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len) + headers.wire().len()) as u64;
        let partition = match (partition, key) {
            (Partition::Exactly(partition), _) => partition,
            (Partition::Default, Some(key)) => partition_for_key(key, count),
            (Partition::Default, None) => {
                return self.producer.send_keyless(producer, timestamp, value, headers).map(drop);
            }
        };
        self.producer.send(producer, partition, timestamp, key, value, headers)
    }

    /// A record that was refused before is not sent again; its dead letter is.
    fn leave_out(
        &mut self,
        topic: TopicIx,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &Headers,
    ) -> Result<bool> {
        let name = &self.topics[topic.0 as usize].name;
        let Some(letter) = self.refused.leave_out(name, timestamp, key, value, headers) else {
            return Ok(false);
        };
        if let Some((dead, headers)) = letter {
            let letters = self.register(&dead)?;
            self.send(letters, Partition::Default, timestamp, key, value, &headers)?;
        }
        Ok(true)
    }

    pub(super) fn register(&mut self, topic: &str) -> Result<TopicIx> {
        if let Some(known) = self.by_name.get(topic) {
            return Ok(*known);
        }
        let count = match self.counts.get(topic) {
            Some(count) => *count,
            None => self.ask(topic)?,
        };
        let producer = self.producer.register(topic, count)?;
        let ix =
            TopicIx(u32::try_from(self.topics.len()).expect("a worker writes to fewer than 2^32 topics"));
        let name = topic.to_owned();
        self.topics.push(Topic { name, producer, partitions: count, records: 0, bytes: 0 });
        self.by_name.insert(topic.to_owned(), ix);
        Ok(ix)
    }

    /// What was sent to each topic: its name, records, bytes. New ones come last.
    pub(super) fn sent(&self) -> impl Iterator<Item = (&str, u64, u64)> {
        self.topics.iter().map(|topic| (&*topic.name, topic.records, topic.bytes))
    }

    /// A topic that a record has named: the worker waits for the brokers' answer, once a topic.
    fn ask(&self, topic: &str) -> Result<i32> {
        let (answer, wait) = std::sync::mpsc::channel();
        let (cluster, name) = (self.cluster.clone(), topic.to_owned());
        self.io.spawn(async move {
            let _ = answer.send(cluster.partitions(&name).await);
        });
        wait.recv().unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Closed, "the application ends before the topic could be looked up")
                .at_topic(topic))
        })
    }
}

/// One task's hand on the output.
pub(super) struct TaskOutput {
    pub(super) shared: Rc<RefCell<Output>>,
    pub(super) clock: std::sync::Arc<dyn Clock>,
}

impl Collector for TaskOutput {
    fn register(&mut self, topic: &str) -> Result<TopicIx> {
        self.shared.borrow_mut().register(topic)
    }

    fn partitions(&self, topic: TopicIx) -> i32 {
        self.shared.borrow().topics[topic.0 as usize].partitions
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
        let timestamp = timestamp.unwrap_or_else(|| self.clock.wall_ms());
        self.shared.borrow_mut().send(topic, partition, timestamp, key, value, headers)
    }
}
