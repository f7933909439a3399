//! Where a task's records leave it.

use crate::error::Result;
use crate::record::{Headers, Timestamp};

/// A topic that a task writes to, registered once when the task is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TopicIx(pub(crate) u32);

/// Who chooses the partition of a record that leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Partition {
    /// Kafka's default: by the hash of the key, sticky for records without one.
    Default,
    /// This one.
    Exactly(i32),
}

/// Takes the records that a task sends: sinks, repartition topics, changelogs, dead letters.
///
/// The runtime's collector encodes them straight into batches; the test driver's notes them down.
pub(crate) trait Collector {
    /// Makes a topic known. Topics are named in full (application id included).
    fn register(&mut self, topic: &str) -> Result<TopicIx>;

    /// How many partitions a registered topic has.
    fn partitions(&self, topic: TopicIx) -> i32;

    /// Sends a record. `timestamp` `None` means that the record has none of its own and takes the time of sending.
    fn send(
        &mut self,
        topic: TopicIx,
        partition: Partition,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp: Option<Timestamp>,
        headers: &Headers,
    ) -> Result<()>;
}
