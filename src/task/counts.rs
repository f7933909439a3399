//! What a task counts while it works: plain cells, which whoever runs the task reads out now and then.

use std::cell::Cell;
use std::rc::Rc;

use crate::record::{RawRecord, Timestamp};

/// How many records have reached a node. Every edge to the node holds it.
pub(crate) type NodeCount = Rc<Cell<u64>>;

/// Counts one more.
pub(crate) fn one_more(count: &Cell<u64>) {
    count.set(count.get() + 1);
}

/// What was taken from one partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SourceCount {
    pub(crate) records: u64,
    /// Of keys, values and headers, without what a batch needs around them.
    pub(crate) bytes: u64,
}

/// The counts of a task beside those of its nodes and stores. What is not said to be since somebody looked grows for ever.
#[derive(Debug, Clone)]
pub(crate) struct TaskCounts {
    /// The least timestamp of a record since somebody looked last; `i64::MAX` if there was none.
    pub(crate) oldest: Timestamp,
    /// How far a record was behind stream time at most since somebody looked last, in milliseconds.
    pub(crate) lateness_max: i64,
    /// How far all records were behind stream time, added up, in milliseconds.
    pub(crate) lateness: u64,
    pub(crate) punctuations: u64,
    /// How often record caches were flushed because they were full, since somebody looked last.
    pub(crate) cache_overflows: u64,
    /// In the order of the task's queues.
    pub(crate) sources: Vec<SourceCount>,
}

impl Default for TaskCounts {
    fn default() -> Self {
        Self {
            oldest: i64::MAX,
            lateness_max: 0,
            lateness: 0,
            punctuations: 0,
            cache_overflows: 0,
            sources: Vec::new(),
        }
    }
}

impl TaskCounts {
    /// A record is taken; `stream_time` has taken it in.
    pub(crate) fn taken(
        &mut self,
        source: usize,
        raw: &RawRecord,
        timestamp: Timestamp,
        stream_time: Timestamp,
    ) {
        let length = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map_or(0, |b| b.len());
        let count = &mut self.sources[source];
        count.records += 1;
        count.bytes += (length(&raw.key) + length(&raw.value) + raw.headers.wire().len()) as u64;
        let late = stream_time.saturating_sub(timestamp);
        self.lateness = self.lateness.saturating_add_signed(late);
        self.lateness_max = self.lateness_max.max(late);
        self.oldest = self.oldest.min(timestamp);
    }
}
