//! What is committed goes into the engines of stores: when enough has gathered, and when a task is closed.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::{Owned, Worker};
use crate::changelog::checkpoint::{Checkpoint, Origin};
use crate::clock;
use crate::error::{Error, ErrorClass, ErrorKind, Result};
use crate::record::{Timestamp, TopicPartition};
use crate::runtime::memory::Action;
use crate::store::{AnyStore, HandOverWhen, memory};
use crate::task_id::TaskId;

/// How often a worker that waits for a disk looks into its mailbox.
const LOOK: Duration = Duration::from_millis(10);

/// The changelog of a store, as its next checkpoint names it.
pub(in crate::runtime) struct Changelog {
    pub(super) origin: Origin,
    /// No record in it is of a later leader epoch, as far as is known.
    pub(super) leader_epoch: i32,
    /// How old a checkpoint may be to be believed, in ms.
    pub(super) horizon_ms: Option<i64>,
    /// When the last checkpoint was made, in ms since the Unix epoch.
    pub(super) marked_ms: Cell<Timestamp>,
    /// When it was handed over last, or came to this worker.
    pub(super) handed: Cell<Instant>,
}

/// How soon a store is handed over again because of the distance. A count of few keys at a million records a second would
/// write all its rows every second; this way a restart reads a million changelog records again at most, or those of so much
/// time if that is more.
const REST: Duration = Duration::from_secs(5);

impl Worker {
    /// The changelogs of stores that will be handed over after the commit under way: their leaders are asked for their
    /// epochs once everything is written.
    pub(super) fn handed_over_next(&self) -> Vec<TopicPartition> {
        let due = self.due();
        let tasks = self.owned.iter().filter(|o| o.running);
        let due = tasks.flat_map(|o| o.due(self.is_closing(o.lease.task), due));
        due.filter_map(|(_, changelog)| changelog).map(|changelog| changelog.origin.at.clone()).collect()
    }

    /// Begins to hand over what has just been committed, where it is time. `epochs` are of leaders that have acknowledged all
    /// of it.
    pub(super) fn hand_stores_over(&mut self, epochs: &[(TopicPartition, i32)]) -> Result<()> {
        let epochs: HashMap<&TopicPartition, i32> = epochs.iter().map(|(at, epoch)| (at, *epoch)).collect();
        let due = self.due();
        let wall_ms = due.wall_ms;
        let closing: HashSet<TaskId> =
            self.owned.iter().map(|o| o.lease.task).filter(|task| self.is_closing(*task)).collect();
        for owned in self.owned.iter_mut().filter(|o| o.running) {
            for changelog in owned.changelogs.values_mut() {
                if let Some(epoch) = epochs.get(&changelog.origin.at) {
                    changelog.leader_epoch = changelog.leader_epoch.max(*epoch);
                }
            }
            let position: Vec<_> =
                owned.inputs.iter().filter_map(|i| Some((i.at.clone(), i.committed?))).collect();
            let closing = closing.contains(&owned.lease.task);
            for (store, changelog) in owned.due(closing, due) {
                if !closing && store.memory().runs >= due.bytes {
                    self.shared.memory.acted(Action::HandOver, 1);
                }
                match changelog {
                    // Nothing that cannot be checked: it is due again at the next commit.
                    Some(changelog) if changelog.leader_epoch < 0 => {}
                    Some(changelog) => {
                        changelog.marked_ms.set(wall_ms);
                        changelog.handed.set(due.now);
                        store.hand_over(Some(&|next| changelog.mark(next, wall_ms, &position)))?;
                    }
                    None => store.hand_over(None)?,
                }
            }
        }
        Ok(())
    }

    /// When stores are handed over now.
    fn due(&self) -> Due {
        let bytes = memory::hand_over_from(
            self.stores(),
            self.page.for_stores(self.restoring_bytes(), &self.shared.control),
        );
        Due { bytes, wall_ms: self.clock.wall_ms(), now: clock::monotonic() }
    }

    /// Puts what has changed in stores on disk without a changelog into their engines, and waits until it is on the disk. If
    /// the commit then fails, their records are processed again: at least once.
    pub(super) fn save_unlogged(&mut self) -> Result<()> {
        let mut saving = Vec::new();
        for owned in self.owned.iter().filter(|o| o.running) {
            for store in owned.task.stores() {
                if !owned.changelogs.contains_key(store.name()) {
                    saving.extend(store.save()?);
                }
            }
        }
        for save in saving {
            loop {
                self.pulse.rest();
                let saved = save.wait_for(LOOK);
                self.pulse.beat();
                match saved {
                    Some(outcome) => break outcome?,
                    None => self.look_into_mailbox(),
                }
            }
        }
        Ok(())
    }

    fn is_closing(&self, task: TaskId) -> bool {
        self.closing.contains(&task) || self.moving.iter().any(|lease| lease.task == task)
    }
}

impl Changelog {
    /// Whether the last checkpoint is half as old as it may be: a process that is killed now may take a while to come back.
    fn is_old(&self, wall_ms: Timestamp) -> bool {
        self.horizon_ms.is_some_and(|horizon| wall_ms - self.marked_ms.get() > horizon / 2)
    }

    /// Whether a restore that ends now has seen every deletion: what was deleted in its first minutes may be gone from the
    /// log, tombstone and all, before it got there.
    pub(super) fn is_whole(&self, wall_ms: Timestamp, at: &TopicPartition) -> Result<()> {
        let Some(horizon) = self.horizon_ms.filter(|horizon| wall_ms - self.marked_ms.get() > 2 * horizon)
        else {
            return Ok(());
        };
        let text = format!(
            "restoring has taken longer than the {} ms for which deletions can be read (delete.retention.ms): rows may have \
             come back that were deleted; raise delete.retention.ms of the changelog and start again",
            2 * horizon
        );
        let error = Error::new(ErrorKind::Store, text).with_class(ErrorClass::CorruptTask);
        Err(error.at_topic(&*at.topic).at_partition(at.partition))
    }

    fn mark(&self, next_offset: i64, wall_ms: Timestamp, position: &[(TopicPartition, i64)]) -> bytes::Bytes {
        let Self { origin, leader_epoch, .. } = self;
        let (origin, leader_epoch, position) = (origin.clone(), *leader_epoch, position.to_vec());
        Checkpoint { origin, next_offset, leader_epoch, wall_ms, position }.encode()
    }
}

/// What a store is held against.
#[derive(Debug, Clone, Copy)]
struct Due {
    bytes: usize,
    wall_ms: Timestamp,
    now: Instant,
}

impl Owned {
    /// The stores whose engines are to get what is committed, each with its changelog if it has one.
    fn due(&self, closing: bool, due: Due) -> impl Iterator<Item = (&dyn AnyStore, Option<&Changelog>)> {
        let stores = self.task.stores().iter().map(|store| (&**store, self.changelogs.get(store.name())));
        stores.filter(move |(store, changelog)| {
            let old = changelog.is_some_and(|changelog| changelog.is_old(due.wall_ms));
            let rested =
                |changelog: &Changelog| due.now.saturating_duration_since(changelog.handed.get()) >= REST;
            let far = changelog.is_some_and(rested);
            store.is_hand_over_due(HandOverWhen { last: closing || old, bytes: due.bytes, far })
        })
    }
}
