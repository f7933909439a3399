//! Fetching: one task that serves many partitions, and hands their batches over as they came.
//!
//! Fetches are sessionless, one in flight a broker, each with the partitions that are due in the order of who waited
//! longest. The task only looks at batch headers, to know where to go on; checking CRCs, decompressing and decoding are
//! for whoever owns the partition.
//!
//! Back-pressure is by bytes: every delivery carries a [`Credit`], and what is not given back counts against the budget.
//! A partition with nothing outstanding is fetched all the same, whatever the budget: who waits for exactly that
//! partition before giving anything back would wait for ever otherwise.

mod credit;
mod opened;
mod partition;
mod task;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

pub(crate) use credit::Credit;
pub(crate) use opened::{Opened, OpenedBatch};

use super::{Cluster, ConnectionClass, Isolation};
use crate::{Error, TopicPartition};

/// How to fetch.
#[derive(Debug, Clone)]
pub(crate) struct FetchOptions {
    /// The connection to use: live or bulk.
    pub(crate) class: ConnectionClass,
    /// Which records the broker lets through.
    pub(crate) isolation: Isolation,
    /// The size of an answer, in bytes. A single batch may be larger (KIP-74).
    pub(crate) max_bytes: i32,
    /// The part of a partition in it, in bytes.
    pub(crate) partition_max_bytes: i32,
    /// How many bytes a broker waits for before it answers, up to the time below.
    pub(crate) min_bytes: i32,
    /// How long a broker may wait for records when every partition is asked for.
    pub(crate) max_wait: Duration,
    /// How long it may wait while a partition is left out: that is the delay until it is asked for again.
    pub(crate) short_wait: Duration,
    /// How many bytes may be delivered and not given back, all partitions together.
    pub(crate) budget: usize,
    /// The part of one partition in that.
    pub(crate) partition_budget: usize,
    /// How long a partition may fail before that is reported, and reported again.
    pub(crate) report_after: Duration,
}

impl FetchOptions {
    /// For source topics: small answers, so that nothing waits long.
    pub(crate) fn live() -> Self {
        Self {
            class: ConnectionClass::LiveFetch,
            isolation: Isolation::ReadUncommitted,
            max_bytes: 8 << 20,
            partition_max_bytes: 1 << 20,
            min_bytes: 1,
            max_wait: Duration::from_millis(500),
            short_wait: Duration::from_millis(50),
            budget: 32 << 20,
            partition_budget: 8 << 20,
            report_after: Duration::from_secs(30),
        }
    }

    /// For restores, standbys and global tables: large answers.
    pub(crate) fn bulk() -> Self {
        Self {
            class: ConnectionClass::BulkFetch,
            max_bytes: 32 << 20,
            partition_max_bytes: 8 << 20,
            budget: 64 << 20,
            partition_budget: 32 << 20,
            short_wait: Duration::from_millis(100),
            ..Self::live()
        }
    }

    /// The same with so many bytes for what is delivered and not given back. An answer is at most half of it, and there is
    /// room for the one under way.
    #[must_use]
    pub(crate) fn within(self, budget: usize) -> Self {
        let least = |bytes: i32| bytes.min(i32::try_from(budget / 2).unwrap_or(i32::MAX)).max(1);
        let part = if self.class == ConnectionClass::BulkFetch { 2 } else { 4 };
        let max_bytes = least(self.max_bytes);
        Self {
            budget: budget - usize::try_from(max_bytes).unwrap_or_default().min(budget / 2),
            partition_budget: (budget / part).max(1 << 20),
            max_bytes,
            partition_max_bytes: least(self.partition_max_bytes),
            ..self
        }
    }

    /// The same with another isolation.
    #[must_use]
    pub(crate) fn isolation(self, isolation: Isolation) -> Self {
        Self { isolation, ..self }
    }
}

/// Batches of one partition, as the broker sent them.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// Where they are from.
    pub(crate) at: TopicPartition,
    /// The token of the assignment they belong to.
    pub(crate) token: u64,
    /// What was asked for: records before it, in the first batch, are not for the receiver.
    pub(crate) fetch_offset: i64,
    /// Complete batches, at least one; neither CRC nor records were looked at.
    pub(crate) records: Bytes,
    /// Where the next fetch begins.
    pub(crate) next_offset: i64,
    /// `(producer id, first offset)` of the aborted transactions among them (`read_committed`).
    pub(crate) aborted: Vec<(i64, i64)>,
    /// The leader epoch of the last batch.
    pub(crate) leader_epoch: i32,
    /// How far the partition reaches.
    pub(crate) log: LogState,
    /// To be dropped when the batches are worked off.
    pub(crate) credit: Credit,
}

/// How far a partition reaches, as its broker said last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogState {
    /// One past the last record that every replica in sync has.
    pub(crate) high_watermark: i64,
    /// The first offset of a transaction that is still open, or the high watermark.
    pub(crate) last_stable_offset: i64,
    /// The first offset that is still there, or -1 where the broker does not say.
    pub(crate) log_start_offset: i64,
}

/// What a [`Fetcher`] has to say.
#[derive(Debug)]
pub(crate) enum FetchEvent {
    /// Batches.
    Data(Fetched),
    /// There is nothing to read yet at `next_offset`. Said again only when something in it has changed.
    Progress { at: TopicPartition, token: u64, next_offset: i64, log: LogState },
    /// Something is wrong. A retriable error says that attempts have failed for a while and go on; after any other the
    /// partition rests until it is assigned again.
    Error {
        at: TopicPartition,
        token: u64,
        error: Error,
        /// The offsets `(log start, end)` that there are, when the offset is out of range.
        range: Option<(i64, i64)>,
    },
}

impl FetchEvent {
    /// The token of the assignment that it belongs to.
    pub(crate) fn token(&self) -> u64 {
        match self {
            Self::Data(fetched) => fetched.token,
            Self::Progress { token, .. } | Self::Error { token, .. } => *token,
        }
    }
}

/// What is told to the task.
#[derive(Debug)]
enum Command {
    Assign { at: TopicPartition, offset: i64, token: u64 },
    Revoke(TopicPartition),
    Pause(TopicPartition, bool),
}

/// Fetches partitions until it is dropped. All calls return at once, from any thread.
#[derive(Debug)]
pub(crate) struct Fetcher {
    commands: mpsc::UnboundedSender<Command>,
    budget: Arc<credit::Budget>,
    task: AbortHandle,
}

/// Where events go. It is called on the client's runtime and must neither block nor panic.
pub(crate) type OnFetch = Arc<dyn Fn(FetchEvent) + Send + Sync>;

impl Fetcher {
    /// Starts without partitions.
    pub(crate) fn new(cluster: &Cluster, options: FetchOptions, on_event: OnFetch) -> Self {
        let (commands, inbox) = mpsc::unbounded_channel();
        let budget = Arc::new(credit::Budget::default());
        let task = task::Task::new(cluster.clone(), options, on_event, Arc::clone(&budget));
        let task = cluster.runtime().spawn(task.run(inbox)).abort_handle();
        Self { commands, budget, task }
    }

    fn tell(&self, command: Command) {
        // The task ends with the runtime; then nothing is fetched any more, whatever is told.
        let _ = self.commands.send(command);
    }

    /// Fetches a partition from an offset on. Every event of it carries the token, so a partition that is assigned again
    /// (to seek, or after a revocation) gets a new one; events of an older one may still be on their way and are known
    /// by theirs.
    pub(crate) fn assign(&self, at: TopicPartition, offset: i64, token: u64) {
        self.tell(Command::Assign { at, offset, token });
    }

    /// Goes on at another offset: as [`assign`](Self::assign).
    pub(crate) fn seek(&self, at: TopicPartition, offset: i64, token: u64) {
        self.assign(at, offset, token);
    }

    /// Stops fetching a partition.
    pub(crate) fn revoke(&self, at: TopicPartition) {
        self.tell(Command::Revoke(at));
    }

    /// Leaves a partition out until [`resume`](Self::resume). What is on its way still comes.
    pub(crate) fn pause(&self, at: TopicPartition) {
        self.tell(Command::Pause(at, true));
    }

    /// Fetches a paused partition again.
    pub(crate) fn resume(&self, at: TopicPartition) {
        self.tell(Command::Pause(at, false));
    }

    /// How often partitions began to be left out because too much was delivered and not given back.
    pub(crate) fn pauses(&self) -> u64 {
        self.budget.pauses()
    }

    /// How many bytes are delivered and not given back.
    pub(crate) fn outstanding(&self) -> usize {
        self.budget.outstanding()
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}
