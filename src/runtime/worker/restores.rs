//! How the stores of a worker's tasks come back: handed to the pool, and attached when they are complete.

use std::rc::Rc;

use bytes::Bytes;

use super::observe::Progress;
use super::{Owned, Worker};
use crate::changelog::checkpoint::Checkpoint;
use crate::changelog::facts::Judged;
use crate::changelog::restore::{RestoreEvent, RestoreJob};
use crate::clock;
use crate::error::{Error, ErrorClass, ErrorKind, Result};
use crate::group::Lease;
use crate::record::TopicPartition;
use crate::runtime::gaps::Gap;
use crate::runtime::listener::{News, RestoringStore};
use crate::runtime::message::ChangelogStart;
use crate::runtime::task_timeout::TaskTimeout;
use crate::store::AnyStore;
use crate::store::engine::Engine;
use crate::task::Task;
use crate::task::errors::DropReason;
use crate::task_id::TaskId;

/// A store that is being restored.
pub(super) struct Restore {
    pub(super) store: Rc<dyn AnyStore>,
    pub(super) at: TopicPartition,
    pub(super) token: u64,
    pub(super) position: i64,
    pub(super) to: i64,
    /// Records without a key: no rows.
    keyless: u64,
    trouble: TaskTimeout,
    pub(super) progress: Progress,
}

impl Restore {
    fn what(&self, task: TaskId) -> RestoringStore {
        RestoringStore { task, store: self.store.name().to_string(), changelog: self.at.clone() }
    }
}

impl Worker {
    /// Begins the restores of a task that is to start, and returns them. Stores whose engines hold all of their changelogs
    /// need none.
    pub(super) fn restore_stores(
        &mut self,
        task: &Task,
        lease: Lease,
        changelogs: Vec<ChangelogStart>,
    ) -> Result<Vec<Restore>> {
        let id = lease.task;
        let mut restores = Vec::new();
        for ChangelogStart { store, at, from, to, judged, engine } in changelogs {
            let Some(store) = task.stores().iter().find(|s| *s.name() == store).cloned() else { continue };
            let token = self.token();
            let trouble = TaskTimeout::new(self.config.task_timeout());
            let progress = Progress::new(id, &store, &at, (from, to), &self.config);
            let restore = Restore { store, at, token, position: from, to, keyless: 0, trouble, progress };
            self.restoring(|| News::RestoreStart { store: restore.what(id), from, to });
            if from >= to {
                restore.store.attach(engine, from, Some(self.keeper.clone()))?;
                self.restoring(|| News::RestoreEnd { store: restore.what(id), records: 0 });
                continue;
            }
            let (at, format, segments) =
                (restore.at.clone(), restore.store.row_format(), restore.store.segments());
            let mark = Box::new(while_restoring(judged));
            // ORDER: the token is known before there is an event of it.
            self.tokens.insert(token, (id, restores.len()));
            restores.push(restore);
            let job = RestoreJob { token, epoch: lease.epoch, at, from, to, format, segments, engine, mark };
            if self.paused {
                self.parked.push(job);
                continue;
            }
            if let Err(error) = self.restores.submit(job) {
                for restore in &restores {
                    self.tokens.remove(&restore.token);
                    self.restores.cancel(restore.token);
                }
                return Err(error);
            }
        }
        Ok(restores)
    }

    /// A task goes, and its stores are not complete.
    pub(super) fn suspend_restores(&mut self, owned: &Owned) {
        for restore in &owned.restores {
            let records = restore.progress.records;
            self.restoring(|| News::RestoreSuspended { store: restore.what(owned.lease.task), records });
            self.restores.cancel(restore.token);
            self.parked.retain(|job| job.token != restore.token);
            self.tokens.remove(&restore.token);
        }
    }

    /// While the application is paused its restores stand still as well (`DefaultStateUpdater.pauseTasks`): those that have
    /// begun fetch nothing more, and none begins.
    pub(super) fn pause_restores(&mut self) {
        let paused = self.shared.control.is_paused();
        if self.paused == paused {
            return;
        }
        self.paused = paused;
        for restore in self.owned.iter().flat_map(|owned| &owned.restores) {
            self.restores.pause(restore.token, paused);
        }
        for job in std::mem::take(&mut self.parked) {
            let token = job.token;
            if let Err(error) = self.restores.submit(job) {
                let task = self.tokens.get(&token).map(|(task, _)| *task);
                self.fail(task, error);
            }
        }
    }

    /// News of a restore.
    pub(super) fn heard(&mut self, event: RestoreEvent) {
        let token = event.token();
        // A token that is not known belongs to a restore that has ended.
        let Some(&(id, _)) = self.tokens.get(&token) else { return };
        let Some(at) = self.place_of(id) else { return };
        let Some(at_restore) = self.owned[at].restores.iter().position(|r| r.token == token) else { return };
        self.picture.stale = true;
        let restore = &mut self.owned[at].restores[at_restore];
        let outcome = match event {
            RestoreEvent::Progress { position, records, keyless, .. } => {
                restore.position = position;
                restore.keyless += keyless;
                restore.progress.records += records;
                restore.trouble.progress();
                let restored = &restore.store.counts().restored;
                restored.set(restored.get() + records);
                let listeners = &self.shared.control.listeners;
                if records > 0 && listeners.hear_restores() {
                    let store = restore.what(id);
                    listeners.tell(News::BatchRestored { store, next_offset: position, records });
                }
                Ok(())
            }
            RestoreEvent::Trouble { error, .. } => {
                tracing::warn!(task = %id, ?error, "cannot fetch yet");
                match restore.trouble.failed(clock::monotonic()) {
                    false => Ok(()),
                    true => {
                        let who = format_args!("task {id}");
                        Err(restore.trouble.error(who, "its changelog cannot be read", error))
                    }
                }
            }
            RestoreEvent::Failed { error, range: Some(range), .. } => {
                let wanted = error.offset().unwrap_or(restore.position);
                Err(Gap { task: id, at: &restore.at, wanted, range, cause: error }.in_changelog())
            }
            RestoreEvent::Failed { error, range: None, .. } => {
                let text = format!("the state of store {} cannot be restored", restore.store.name());
                // An engine says itself what is to be done; the changelog cannot be trusted.
                let of_engine = error.kind() == ErrorKind::Store;
                let class = if of_engine { error.class() } else { ErrorClass::CorruptTask };
                Err(Error::new(ErrorKind::Store, text).with_class(class).because(error))
            }
            RestoreEvent::Done { position, leader_epoch, engine, .. } => {
                let restore = self.owned[at].restores.swap_remove(at_restore);
                let sound = match self.owned[at].changelogs.get_mut(restore.store.name()) {
                    Some(changelog) => {
                        changelog.leader_epoch = changelog.leader_epoch.max(leader_epoch);
                        changelog.is_whole(self.clock.wall_ms(), &restore.at)
                    }
                    None => Ok(()),
                };
                let attached = self.restored(id, restore, position, engine);
                sound.and(attached).and_then(|()| self.begin_if_restored(id))
            }
        };
        if let Err(error) = outcome {
            self.fail(Some(id), error);
        }
    }

    /// The engine of a store is complete.
    fn restored(
        &mut self,
        id: TaskId,
        restore: Restore,
        position: i64,
        engine: Box<dyn Engine>,
    ) -> Result<()> {
        if restore.keyless > 0 {
            tracing::warn!(changelog = %restore.at, count = restore.keyless, "records without a key are no rows: passed over");
            self.shared.dropped(&restore.at.topic, DropReason::NullKey, restore.keyless);
        }
        restore.progress.done(position);
        let attached = restore.store.attach(engine, position, Some(self.keeper.clone()));
        self.tokens.remove(&restore.token);
        let records = restore.progress.records;
        self.restoring(|| News::RestoreEnd { store: restore.what(id), records });
        attached
    }
}

/// The marks of a store while it is restored. Rows that were deleted before the restore began may be deleted further on in
/// the changelog, so that the time of all of them is that of where it began.
fn while_restoring(judged: Judged) -> impl Fn(i64, i32) -> Option<Bytes> + Send {
    let start = judged.verdict.start();
    move |next_offset, leader_epoch| {
        let (origin, leader_epoch) = (judged.origin.clone(), leader_epoch.max(start.leader_epoch));
        let (wall_ms, position) = (start.wall_ms, Vec::new());
        Some(Checkpoint { origin, next_offset, leader_epoch, wall_ms, position }.encode())
    }
}
