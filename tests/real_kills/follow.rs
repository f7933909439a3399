//! What is committed of a topic, read once: each look reads on from where the last one ended.

use std::collections::BTreeMap;

use mainstem::client::{Isolation, LogRecord, OffsetSpec, ReadFrom, ReadOptions, Reader};
use mainstem::{Result, TopicPartition};

use crate::support::{Rig, eventually};

#[derive(Default)]
pub struct Follow {
    topic: String,
    partitions: i32,
    next: BTreeMap<i32, i64>,
    /// By partition, in their order.
    pub records: Vec<LogRecord>,
}

impl Follow {
    pub fn new(topic: &str, partitions: i32) -> Self {
        Self { topic: topic.to_owned(), partitions, ..Self::default() }
    }

    /// Reads what has come, up to the last stable offset. Gives only that.
    pub async fn read(&mut self, rig: &Rig) -> &[LogRecord] {
        let from = self.records.len();
        for partition in 0..self.partitions {
            // A broker that has just come back may not lead yet.
            eventually(&format!("{}-{partition} can be read", self.topic), async || {
                self.read_partition(rig, partition).await.is_ok()
            })
            .await;
        }
        &self.records[from..]
    }

    /// Where the next look begins.
    pub fn position(&self, partition: i32) -> i64 {
        self.next.get(&partition).copied().unwrap_or(0)
    }

    async fn read_partition(&mut self, rig: &Rig, partition: i32) -> Result<()> {
        let next = self.next.entry(partition).or_default();
        let at = TopicPartition::new(&*self.topic, partition);
        let isolation = Isolation::ReadCommitted;
        let end = rig.admin().list_offset(&at, OffsetSpec::Latest, isolation).await?.offset.unwrap_or(0);
        // A new leader may not know yet how far the last one was.
        if end <= *next {
            return Ok(());
        }
        let options = ReadOptions::new(&self.topic).partitions([partition]).from(ReadFrom::Offset(*next));
        let mut reader = Reader::new(&rig.cluster, options.isolation(isolation).until_end()).await?;
        while let Some(record) = reader.next().await? {
            *next = record.offset + 1;
            self.records.push(record.detached());
        }
        *next = reader.positions()[0].1;
        Ok(())
    }
}
