//! What the I/O thread and the workers say to each other.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio::sync::oneshot;

use super::close::CloseOptions;
use super::metadata::StoreLag;
use super::topics::TopicPlan;
use super::uncaught::UncaughtErrorResponse;
use super::workers::WorkerId;
use crate::changelog::facts::Judged;
use crate::changelog::restore::RestoreEvent;
use crate::client::admin::Isolation;
use crate::client::fetch::FetchEvent;
use crate::client::group::CommittedOffset;
use crate::client::produce::GroupMetadata;
use crate::error::{Error, Result};
use crate::group::{Lease, Reply, RequestId, RpcError};
use crate::record::{Timestamp, TopicPartition};
use crate::store::engine::Engine;
use crate::task_id::TaskId;
use crate::topology::AutoOffsetReset;

/// Partitions, each with the epoch of its leader.
pub(super) type Epochs = Vec<(TopicPartition, i32)>;

/// To a worker.
pub(super) enum ToWorker {
    /// Build a task, restore its stores, run it.
    Start(Box<TaskStart>),
    /// The leases of kept tasks in a new generation.
    Leases(Vec<Lease>),
    /// Commit and close these tasks, and say so.
    Revoke(Vec<Lease>),
    /// Close these tasks after the next commit, and say so: another worker gets them.
    Move(Vec<Lease>),
    /// All tasks are somebody else's by now: drop them without a commit.
    Lost,
    /// Commits are accepted from this member in this generation only, or not at all.
    Gate(Option<Box<GroupMetadata>>),
    /// A rebalance comes: commit everything now, and say so.
    FlushAndCommit,
    /// Records, or news of a partition.
    Fetched(FetchEvent),
    /// News of a restore.
    Restore(RestoreEvent),
    /// The answer to [`ToCoordinator::Commit`], with the epochs of the leaders that it asks for, as far as they could be had.
    Committed { commit: u64, outcome: Result<Epochs> },
    /// Topics have other partition counts than before, by the topics' names in the cluster.
    Counts(HashMap<String, i32>),
    /// Look again: the application is paused no more, or the cache is shared by another number of workers.
    LookAgain,
    /// The producer has credit again, has written everything, or has failed at something.
    ProducerProgress,
    /// Somebody has asked for a store: publish it without waiting for the next record.
    StoreWanted,
    /// Commit, close everything, end.
    Stop,
}

/// A task for a worker, with all it must know before its first record.
pub(super) struct TaskStart {
    pub(super) lease: Lease,
    pub(super) inputs: Vec<InputStart>,
    pub(super) changelogs: Vec<ChangelogStart>,
    pub(super) unlogged: Vec<UnloggedStart>,
    /// The partition counts of every topic that the task may write to, by the topics' names in the cluster.
    pub(super) partitions: HashMap<String, i32>,
    pub(super) isolation: Isolation,
}

/// A partition that a task reads.
pub(super) struct InputStart {
    pub(super) at: TopicPartition,
    pub(super) offset: i64,
    /// -1 if none was committed.
    pub(super) partition_time: Timestamp,
    /// What the task's nodes had committed with the offset.
    pub(super) processors: BTreeMap<String, i64>,
    /// What to do when the offset is out of range; `None` makes that an error.
    pub(super) reset: Option<AutoOffsetReset>,
}

/// A changelog to restore a store from.
pub(super) struct ChangelogStart {
    pub(super) store: Arc<str>,
    pub(super) at: TopicPartition,
    /// Where restoring begins: at the checkpoint, or at the first offset that is still there.
    pub(super) from: i64,
    /// The high watermark: restoring ends when the position is there.
    pub(super) to: i64,
    /// Whether what the store has on disk stays, and what goes into its next checkpoints.
    pub(super) judged: Judged,
    pub(super) engine: Box<dyn Engine>,
}

/// A store without a changelog: what is on disk is all there is of it.
pub(super) struct UnloggedStart {
    pub(super) store: Arc<str>,
    pub(super) engine: Box<dyn Engine>,
}

/// To the coordinator.
pub(super) enum ToCoordinator {
    /// A worker says something.
    Says { worker: WorkerId, message: Box<ToCoordinator> },
    /// The answer to a request of the membership machine.
    Answered { id: RequestId, outcome: Result<Reply, RpcError> },
    /// What the leader decided, or why it could not.
    Assigned { generation: i32, outcome: Result<Vec<(String, crate::group::AssignmentData)>> },
    /// A task is ready to be started, or cannot be.
    Prepared { task: TaskId, placement: u64, outcome: Result<Box<TaskStart>> },
    /// The worker's producer has fenced those before it, and may write: the worker may have tasks.
    Ready { worker: WorkerId },
    /// The worker did not give up what it was told to: it is left behind, so that its successor's producer fences it.
    LeaveBehind { worker: WorkerId },
    /// A task has restored its stores and runs.
    Running(Lease),
    /// The tasks are closed.
    Revoked(Vec<Lease>),
    /// The worker was fenced: it has dropped these tasks uncommitted, and is good for new ones.
    GivenUp(Vec<Lease>),
    /// Everything is committed that could be.
    FlushedAndCommitted { worker: WorkerId },
    /// There is no worker that could commit anything.
    NothingToFlush,
    /// Commit these offsets, and say after that which leader epochs these changelogs are in.
    Commit {
        worker: WorkerId,
        commit: u64,
        generation: i32,
        offsets: Vec<(TopicPartition, CommittedOffset)>,
        changelogs: Vec<TopicPartition>,
    },
    /// These offsets are committed: in repartition topics what is before them is of no more use.
    Purgeable(Vec<(TopicPartition, i64)>),
    /// A commit of these offsets was not answered.
    Unheard(Vec<(TopicPartition, i64)>),
    /// A purge has ended.
    Purged,
    /// The topics as they are now, where that is news.
    Topics(Option<Box<TopicPlan>>),
    /// A commit was refused for the member's sake.
    CommitRefused { generation: i32 },
    /// A task, or a whole worker, cannot go on; and what the application answers to that.
    Failed { error: Error, response: UncaughtErrorResponse },
    /// Somebody has asked for a store: workers look which.
    StoreWanted,
    /// A worker has ended.
    Stopped { worker: WorkerId },
    /// Paused no more.
    Resumed,
    /// One worker more. The answer is its number.
    AddWorker { answer: oneshot::Sender<Result<usize>> },
    /// One worker fewer. The answer comes when it has ended.
    RemoveWorker { answer: oneshot::Sender<Result<Option<usize>>> },
    /// How far the stores are behind their changelogs.
    Lags { answer: oneshot::Sender<Result<Vec<StoreLag>>> },
    /// Shut down, and give up what has not ended in this time.
    Stop(CloseOptions),
}
