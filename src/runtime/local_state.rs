//! What an instance keeps of its stores: the database in its folder, opened a task's tenure, and the keeper that does
//! what is slow.

mod opening;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use self::opening::needs_disk;
use super::app::AppShared;
use crate::error::{Error, ErrorClass, ErrorKind, Result};
use crate::store::StoreBlueprint;
use crate::store::database::{Database, NamedStore};
use crate::store::engine::{Engine, MemoryEngine, SortedRun};
use crate::store::keeper::{Keeper, KeeperThread};
use crate::task_id::TaskId;

/// The mark of a store that goes on without a changelog: no checkpoint of ours.
const NO_CHANGELOG: &[u8] = b"no changelog";
/// Why state is deleted whose task has moved away.
const MOVED: &str = "moved away";

/// A store as it was found.
pub(super) struct Opened {
    pub(super) store: Arc<dyn StoreBlueprint>,
    pub(super) engine: Box<dyn Engine>,
    /// Up to where the changelog is in it, encoded.
    pub(super) mark: Option<Bytes>,
}

/// A hand on the state of an instance.
#[derive(Clone)]
pub(super) struct LocalState {
    /// `None` where no store is kept on disk.
    database: Option<Arc<Database>>,
    keeper: Keeper,
    shared: Arc<AppShared>,
}

impl LocalState {
    /// Opens the database of a topology that needs one in the instance's folder. Stores that are damaged are made anew, or the
    /// whole database; what nothing else has is moved aside.
    ///
    /// # Errors
    /// [`ErrorKind::Store`], which names the folder and what to do about it.
    pub(super) fn open(shared: &Arc<AppShared>, slot: Option<&Path>) -> Result<(Self, KeeperThread)> {
        let config = &shared.config;
        let database = match slot {
            Some(slot) if needs_disk(config, &shared.topology) => Some(opening::open(shared, slot)?),
            _ => None,
        };
        let (keeper, thread) = Keeper::start()?;
        let state = Self { database: database.map(Arc::new), keeper, shared: shared.clone() };
        state.clean_outdated(config.state_max_age());
        Ok((state, thread))
    }

    pub(super) fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    /// Opens the stores of a task. Whoever has opened them in an earlier tenure writes no more.
    ///
    /// # Errors
    /// As [`Database::open_store`].
    pub(super) async fn stores(
        &self,
        task: TaskId,
        tenure: u64,
        stores: &[Arc<dyn StoreBlueprint>],
    ) -> Result<Vec<Opened>> {
        let (own, stores) = (self.clone(), stores.to_vec());
        // ORDER: after everything that the task's owner before has given the keeper, so that it is in the mark.
        let open = move || {
            let opened = stores.into_iter().map(|store| own.store(task, tenure, store)).collect();
            // A process that is killed before the next look has used them as well.
            own.note_used();
            opened
        };
        self.ask(open).await
    }

    /// Deletes what a store has, and opens it again.
    ///
    /// # Errors
    /// As [`Database::open_store`].
    pub(super) async fn wiped(
        &self,
        task: TaskId,
        tenure: u64,
        store: Arc<dyn StoreBlueprint>,
    ) -> Result<Opened> {
        let own = self.clone();
        self.ask(move || {
            if let Some(database) = own.database_of(&*store) {
                // ORDER: a handle of this tenure first: only the task's owner may delete.
                drop(database.open_store(task, store.name(), tenure)?);
                database.drop_store(task, store.name())?;
            }
            own.store(task, tenure, store)
        })
        .await
    }

    /// Notes that its stores were in use until now, and deletes what was found damaged, so that the next start restores it
    /// instead of failing over it again.
    pub(super) fn close(&self) {
        let Some(database) = self.database.clone() else { return };
        let shared = self.shared.clone();
        // ORDER: behind the last hand-overs. The job holds no hand on the keeper, which would wait for itself.
        let job = move || {
            note_used(&database, &shared);
            if let Err(error) = drop_damaged(&database, &shared, |_, _| true) {
                tracing::warn!(?error, "a damaged store could not be deleted");
            }
        };
        let _ = self.keeper.run(job);
    }

    fn note_used(&self) {
        if let Some(database) = &self.database {
            note_used(database, &self.shared);
        }
    }

    /// Notes which tasks are this instance's, and deletes the stores of others that nobody has used for longer than this
    /// (`StateDirectory.cleanRemovedTasks`). Only what the topology names: what it does not may be wanted by the next one.
    pub(super) fn look_after(&self, in_use: HashSet<TaskId>, unused_for: Option<Duration>) {
        let Some(database) = self.database.clone() else { return };
        let own = self.clone();
        // ORDER: a task that comes back from now on opens its stores behind this, so that they are whole or new.
        let job = move || {
            let looked = database
                .sweep()
                .and_then(|()| own.clean(&database, &|task| in_use.contains(&task), unused_for, MOVED));
            if let Err(error) = looked {
                tracing::warn!(?error, "the local state could not be cleaned up: it is tried again");
            }
        };
        // Nothing is cleaned up when the application ends.
        let _ = self.keeper.run(job);
    }

    /// Deletes what nobody has used for so long, before anything is opened (`StateDirectory.cleanOutdatedDirsOnStartup`).
    /// Says which stores the topology does not name.
    fn clean_outdated(&self, unused_for: Option<Duration>) {
        let Some(database) = &self.database else { return };
        let nobody = |_| false;
        match database.unused(self.shared.clock.wall_ms(), nobody) {
            Ok(stores) => {
                for unknown in stores.into_iter().filter(|named| self.named(named).is_none()) {
                    let (task, store) = (unknown.task, unknown.store);
                    tracing::info!(%task, %store, "the topology names no such store: it is kept; `mainstem state rm` deletes it");
                }
            }
            Err(error) => tracing::warn!(?error, "the stores on disk cannot be listed"),
        }
        if let Err(error) = self.clean(database, &nobody, unused_for, "outdated") {
            tracing::warn!(?error, "outdated local state could not be deleted");
        }
    }

    fn clean(
        &self,
        database: &Database,
        in_use: &dyn Fn(TaskId) -> bool,
        unused_for: Option<Duration>,
        what: &'static str,
    ) -> Result<()> {
        let now = self.shared.clock.wall_ms();
        let unused = database.unused(now, in_use)?;
        let Some(unused_for) = unused_for else { return Ok(()) };
        for named in unused {
            let Some(store) = self.named(&named) else { continue };
            // Nothing else has its rows: it goes only where somebody has said how old state may get.
            if store.changelog().is_none() && what == MOVED {
                continue;
            }
            let age_ms = named.used_ms.map_or(0, |used| now.saturating_sub(used));
            if u128::try_from(age_ms).is_ok_and(|age| age > unused_for.as_millis()) {
                tracing::info!(task = %named.task, store = %named.store, age_ms, what, "deleting state that has not been used for so long");
                database.drop_store(named.task, &named.store)?;
            }
        }
        Ok(())
    }

    /// The store of the topology, if it has one of the name and keeps it on disk.
    fn named(&self, named: &NamedStore) -> Option<&Arc<dyn StoreBlueprint>> {
        opening::named(&self.shared, named)
    }

    async fn ask<T: Send + 'static>(&self, job: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let (answer, wait) = oneshot::channel();
        self.keeper.run(move || {
            let _ = answer.send(job());
        })?;
        wait.await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Store, "an engine panicked while stores were opened"))
        })
    }

    fn store(&self, task: TaskId, tenure: u64, store: Arc<dyn StoreBlueprint>) -> Result<Opened> {
        let Some(database) = self.database_of(&*store) else {
            return Ok(Opened { store, engine: Box::new(MemoryEngine::default()), mark: None });
        };
        let name = store.name();
        if database.is_lost(task, name) {
            self.shared.figures().state_wiped("damaged");
            match store.changelog() {
                Some(_) => {
                    tracing::warn!(%task, store = %name, "the store's files are gone: it is restored from its changelog")
                }
                None => {
                    tracing::error!(%task, store = %name, "the store's files are gone, and nothing else had its rows: it is empty now")
                }
            }
        }
        database.declare(task, name, store.changelog().is_some())?;
        // Whoever had it before has failed over it.
        drop_damaged(database, &self.shared, |of, name| of == task && **store.name() == *name)?;
        let open = || {
            let engine = database.open_store(task, store.name(), tenure)?;
            let mark = engine.mark()?;
            Ok((engine, mark))
        };
        let (mut engine, mark) = match open() {
            Err(error) if is_damaged(&error) && store.changelog().is_none() => {
                let text = format!(
                    "the store {name} of task {task} is damaged, and nothing else has its rows, because it has no changelog: save \
                     what can be saved; `mainstem state rm --task {task} --store {name}` deletes it, so that it begins empty"
                );
                return Err(Error::new(ErrorKind::Store, text).because(error));
            }
            Err(error) if is_damaged(&error) => {
                tracing::warn!(%task, store = %store.name(), ?error, "the store on disk is damaged: it is restored from its changelog");
                self.shared.figures().state_wiped("damaged");
                database.drop_store(task, store.name())?;
                open()?
            }
            opened => opened?,
        };
        if store.changelog().is_none() && mark.as_deref().is_some_and(|mark| mark != NO_CHANGELOG) {
            // ORDER: before its rows go on without the changelog, which the mark would then be wrong about.
            engine.apply(&SortedRun::default(), Some(NO_CHANGELOG))?;
        }
        Ok(Opened { store, engine, mark })
    }

    /// Where a store is kept, if that is not memory.
    fn database_of(&self, store: &dyn StoreBlueprint) -> Option<&Database> {
        self.database.as_deref().filter(|_| self.is_on_disk(store))
    }

    fn is_on_disk(&self, store: &dyn StoreBlueprint) -> bool {
        opening::is_on_disk(&self.shared.config, store)
    }
}

fn note_used(database: &Database, shared: &AppShared) {
    if let Err(error) = database.note_used(shared.clock.wall_ms()) {
        tracing::warn!(?error, "when the local state was used could not be noted");
    }
}

/// Deletes what was found damaged since it was opened, and can be restored.
fn drop_damaged(database: &Database, shared: &AppShared, which: impl Fn(TaskId, &str) -> bool) -> Result<()> {
    for NamedStore { task, store, changelog, .. } in database.damaged(which) {
        if changelog != Some(true) {
            tracing::error!(
                %task, %store,
                "the store on disk is damaged, and nothing else has its rows, because it has no changelog: it is left as it is; \
                 `mainstem state rm` deletes it"
            );
            continue;
        }
        database.drop_store(task, &store)?;
        shared.figures().state_wiped("damaged");
        tracing::warn!(%task, %store, "the store on disk is damaged: it is deleted, and restored from its changelog");
    }
    Ok(())
}

fn is_damaged(error: &Error) -> bool {
    error.class() == ErrorClass::CorruptTask
}
