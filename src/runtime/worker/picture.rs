//! What a worker shows of itself to whoever asks a handle.

use std::time::Instant;

use super::{Owned, Worker};
use crate::group::Lease;
use crate::runtime::listener::News;
use crate::runtime::message::ToCoordinator;
use crate::runtime::metadata::{
    InputMetadata, PICTURE_EVERY, RestoreMetadata, TaskMetadata, WorkerMetadata, WorkerState,
};

/// Whether there is news, and when it may be told.
pub(super) struct Picture {
    pub(super) stale: bool,
    next: Instant,
}

impl Picture {
    pub(super) fn new(now: Instant) -> Self {
        Self { stale: true, next: now }
    }

    /// When to take the next one, if anything has changed.
    pub(super) fn due(&self) -> Option<Instant> {
        self.stale.then_some(self.next)
    }
}

impl Worker {
    /// Takes a new picture if there is news and the last is old enough.
    pub(super) fn show(&mut self, now: Instant) {
        if self.picture.stale && now >= self.picture.next {
            self.picture.next = now + PICTURE_EVERY;
            let restoring = self.owned.iter().any(|owned| !owned.running);
            self.show_as(if restoring { WorkerState::Restoring } else { WorkerState::Running });
        }
    }

    pub(super) fn show_as(&mut self, state: WorkerState) {
        self.picture.stale = false;
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        let mut tasks: Vec<_> = self.owned.iter().map(|owned| owned.metadata(self.index)).collect();
        tasks.sort_by_key(|task| task.task);
        let picture = WorkerMetadata { worker: self.index, name, state, tasks };
        self.shared.control.metadata.publish(self.id, picture);
    }

    /// Tells how a restore goes.
    pub(super) fn restoring(&self, news: impl FnOnce() -> News) {
        if self.shared.control.listeners.hear_restores() {
            self.shared.control.listeners.tell(news());
        }
    }

    /// After a commit: what is to go to another worker is closed now, when nothing of it is open.
    pub(super) fn hand_over(&mut self) {
        let leases: Vec<Lease> = std::mem::take(&mut self.moving);
        if leases.is_empty() {
            return;
        }
        for lease in &leases {
            if self.owned.iter().any(|o| o.lease.task == lease.task && o.lease.epoch == lease.epoch) {
                self.close_task(lease.task);
            }
        }
        // ORDER: before anybody else has the tasks, and reads their changelogs.
        self.write_last_words();
        self.tell(ToCoordinator::Revoked(leases));
    }
}

impl Owned {
    fn metadata(&self, worker: usize) -> TaskMetadata {
        let inputs = self.inputs.iter().map(|input| InputMetadata {
            partition: input.at.clone(),
            committed: input.committed,
            end: input.reach.end,
        });
        let restores = self.restores.iter().map(|restore| RestoreMetadata {
            store: restore.store.name().to_string(),
            changelog: restore.at.clone(),
            position: restore.position,
            end: restore.to,
        });
        TaskMetadata {
            task: self.lease.task,
            worker,
            running: self.running,
            inputs: inputs.collect(),
            restores: restores.collect(),
            idle_since: self.idle_since,
        }
    }
}
