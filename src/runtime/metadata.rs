//! What the application says of its workers, tasks and stores, and of the other instances.
//!
//! Workers leave a picture of themselves here when something has changed, at most every [`PICTURE_EVERY`] and never for a
//! record; who asks reads the last one and waits for nobody, least of all for a worker that is stuck.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::workers::WorkerId;
use crate::group::Instance;
use crate::record::TopicPartition;
use crate::task_id::TaskId;

/// How old the picture of a worker may be while things change.
pub(super) const PICTURE_EVERY: Duration = Duration::from_millis(100);

/// What a worker does (`org.apache.kafka.streams.ThreadMetadata#threadState`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WorkerState {
    /// Some of its tasks are restored.
    Restoring,
    /// All its tasks run, if it has any.
    Running,
    /// It gives its tasks up and ends.
    Stopping,
}

/// A worker of this instance (`org.apache.kafka.streams.ThreadMetadata`).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerMetadata {
    /// The number of the worker within the instance.
    pub worker: usize,
    /// The name of its thread.
    pub name: String,
    /// What it does.
    pub state: WorkerState,
    /// Its tasks, by number.
    pub tasks: Vec<TaskMetadata>,
}

/// An active task of this instance (`org.apache.kafka.streams.TaskMetadata`).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TaskMetadata {
    /// The task.
    pub task: TaskId,
    /// The worker that has it.
    pub worker: usize,
    /// Whether it runs; its stores are restored before.
    pub running: bool,
    /// The partitions it reads; none before it runs.
    pub inputs: Vec<InputMetadata>,
    /// The restores under way.
    pub restores: Vec<RestoreMetadata>,
    /// Since when it has had nothing to process, or has waited for an input that is behind.
    pub idle_since: Option<Instant>,
}

/// A partition that a task reads.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InputMetadata {
    /// The partition.
    pub partition: TopicPartition,
    /// The offset committed last, or started from.
    pub committed: Option<i64>,
    /// One past the last record that may be read, as the broker said last; `None` before its first answer.
    pub end: Option<i64>,
}

/// A store that is being restored.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RestoreMetadata {
    /// The name of the store.
    pub store: String,
    /// Its changelog.
    pub changelog: TopicPartition,
    /// The next offset to restore.
    pub position: i64,
    /// Where the restore ends.
    pub end: i64,
}

/// How far a store of this instance is behind its changelog (KIP-535, `KafkaStreams.allLocalStorePartitionLags`).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreLag {
    /// The task that the store belongs to.
    pub task: TaskId,
    /// The name of the store.
    pub store: String,
    /// The changelog partition.
    pub changelog: TopicPartition,
    /// The next offset that the store does not hold. The store of a running task is never behind.
    pub position: i64,
    /// One past the last record of the changelog, as the broker says now.
    pub end: i64,
}

impl StoreLag {
    /// How many offsets the store is behind.
    pub fn lag(&self) -> i64 {
        (self.end - self.position).max(0)
    }
}

/// An instance of the application, as of the last assignment (`org.apache.kafka.streams.StreamsMetadata`).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InstanceMetadata {
    /// Who it is; the same after a restart on the same state directory.
    pub process_id: Uuid,
    /// Where it answers queries (`application.server`), `host:port`, if it does.
    pub endpoint: Option<String>,
    /// Its active tasks.
    pub active: Vec<TaskId>,
    /// The tasks that it keeps copies of. Always empty for now: there are no standby copies yet.
    pub standby: Vec<TaskId>,
}

/// The pictures.
#[derive(Default)]
pub(super) struct Metadata {
    workers: Mutex<BTreeMap<WorkerId, WorkerMetadata>>,
    instances: Mutex<Arc<[InstanceMetadata]>>,
}

impl Metadata {
    pub(super) fn publish(&self, worker: WorkerId, picture: WorkerMetadata) {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).insert(worker, picture);
    }

    /// The worker has ended.
    pub(super) fn gone(&self, worker: WorkerId) {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).remove(&worker);
    }

    pub(super) fn workers(&self) -> Vec<WorkerMetadata> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// How far the restores under way have come, by changelog.
    pub(super) fn restores(&self) -> HashMap<TopicPartition, i64> {
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        let tasks = workers.values().flat_map(|worker| &worker.tasks);
        tasks.flat_map(|task| &task.restores).map(|r| (r.changelog.clone(), r.position)).collect()
    }

    pub(super) fn assigned(&self, instances: &[Instance]) {
        let list = instances.iter().map(|instance| InstanceMetadata {
            process_id: instance.id,
            endpoint: Some(instance.endpoint.clone()).filter(|endpoint| !endpoint.is_empty()),
            active: instance.active.clone(),
            standby: instance.standby.clone(),
        });
        *self.instances.lock().unwrap_or_else(PoisonError::into_inner) = list.collect();
    }

    pub(super) fn instances(&self) -> Arc<[InstanceMetadata]> {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
