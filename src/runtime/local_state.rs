//! What an instance keeps of its stores: the database in its folder, opened a task's tenure, and the keeper that does
//! what is slow.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::app::AppShared;
use super::memory::StateMemory;
use crate::config::{Config, StoreKind};
use crate::error::{Error, ErrorClass, ErrorKind, Result};
use crate::store::StoreBlueprint;
use crate::store::database::{Database, EngineKind, NamedStore};
use crate::store::engine::{Engine, MemoryEngine};
use crate::store::keeper::{Keeper, KeeperThread};
use crate::task_id::TaskId;
use crate::topology::{Subtopology, Topology};

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
    /// Opens the database of a topology that needs one in the instance's folder. A database that is damaged is made anew:
    /// everything in it is in changelogs too.
    ///
    /// # Errors
    /// [`ErrorKind::Store`], which names the folder and what to do about it.
    pub(super) fn open(shared: &Arc<AppShared>, slot: Option<&Path>) -> Result<(Self, KeeperThread)> {
        let config = &shared.config;
        let database = match slot {
            Some(slot) if needs_disk(config, &shared.topology) => Some(open(shared, slot)?),
            _ => None,
        };
        let (keeper, thread) = Keeper::start()?;
        let state = Self { database: database.map(Arc::new), keeper, shared: shared.clone() };
        if let Some(database) = &state.database {
            for (task, store) in database.look_through()? {
                state.shared.figures().state_wiped("damaged");
                tracing::warn!(%task, %store, "the store on disk is damaged: it is deleted, and restored from its changelog");
            }
        }
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
        self.ask(move || {
            let opened =
                stores.into_iter().map(|store| own.store(task, tenure, store)).collect::<Result<_>>()?;
            // A process that does not live to the first look has used it too.
            if let (Some(database), Some(_)) = (&own.database, own.shared.config.state_max_age()) {
                database.unused(own.shared.clock.wall_ms(), |_| false)?;
            }
            Ok(opened)
        })
        .await
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

    /// Deletes what was found damaged, so that the next start restores it instead of failing over it again.
    pub(super) fn close(&self) {
        let Some(database) = self.database.clone() else { return };
        let shared = self.shared.clone();
        // ORDER: behind the last hand-overs. The job holds no hand on the keeper, which would wait for itself.
        let job = move || {
            if let Err(error) = drop_damaged(&database, &shared, |_, _| true) {
                tracing::warn!(?error, "a damaged store could not be deleted");
            }
            // What was in use is so until now.
            if let Err(error) = database.unused(shared.clock.wall_ms(), |_| false) {
                tracing::warn!(?error, "when the state was last used could not be noted");
            }
        };
        let _ = self.keeper.run(job);
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
                .and_then(|()| own.clean(&database, &|task| in_use.contains(&task), unused_for));
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
                for unknown in stores.into_iter().filter(|named| !self.is_named(named)) {
                    let (task, store) = (unknown.task, unknown.store);
                    tracing::info!(%task, %store, "the topology names no such store: it is kept; `mainstem state rm` deletes it");
                }
            }
            Err(error) => tracing::warn!(?error, "the stores on disk cannot be listed"),
        }
        if let Err(error) = self.clean(database, &nobody, unused_for) {
            tracing::warn!(?error, "outdated local state could not be deleted");
        }
    }

    fn clean(
        &self,
        database: &Database,
        in_use: &dyn Fn(TaskId) -> bool,
        unused_for: Option<Duration>,
    ) -> Result<()> {
        let now = self.shared.clock.wall_ms();
        let unused = database.unused(now, in_use)?;
        let Some(unused_for) = unused_for else { return Ok(()) };
        for named in unused.into_iter().filter(|named| self.is_named(named)) {
            let age_ms = named.used_ms.map_or(0, |used| now.saturating_sub(used));
            if u128::try_from(age_ms).is_ok_and(|age| age > unused_for.as_millis()) {
                tracing::info!(task = %named.task, store = %named.store, age_ms, "deleting state that nobody has used for long");
                database.drop_store(named.task, &named.store)?;
            }
        }
        Ok(())
    }

    /// Whether the topology has such a store, and keeps it on disk.
    fn is_named(&self, named: &NamedStore) -> bool {
        let of_task = |part: &&Subtopology| part.id == named.task.subtopology;
        let mut parts = self.shared.topology.inner.subtopologies.iter().filter(of_task);
        parts.any(|part| {
            part.stores().iter().any(|store| **store.name() == *named.store && self.is_on_disk(&**store))
        })
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
        // Whoever had it before has failed over it.
        drop_damaged(database, &self.shared, |of, name| of == task && **store.name() == *name)?;
        let open = || {
            let engine = database.open_store(task, store.name(), tenure)?;
            let mark = engine.mark()?;
            Ok((engine, mark))
        };
        let (engine, mark) = match open() {
            Err(error) if is_damaged(&error) => {
                tracing::warn!(%task, store = %store.name(), ?error, "the store on disk is damaged: it is restored from its changelog");
                self.shared.figures().state_wiped("damaged");
                database.drop_store(task, store.name())?;
                open()?
            }
            opened => opened?,
        };
        Ok(Opened { store, engine, mark })
    }

    /// Where a store is kept, if that is not memory.
    fn database_of(&self, store: &dyn StoreBlueprint) -> Option<&Database> {
        self.database.as_deref().filter(|_| self.is_on_disk(store))
    }

    fn is_on_disk(&self, store: &dyn StoreBlueprint) -> bool {
        store.store_kind().unwrap_or(self.shared.config.default_store()) == StoreKind::Persistent
    }
}

/// Deletes what was found damaged since it was opened.
fn drop_damaged(database: &Database, shared: &AppShared, which: impl Fn(TaskId, &str) -> bool) -> Result<()> {
    for (task, store) in database.drop_damaged(which)? {
        shared.figures().state_wiped("damaged");
        tracing::warn!(%task, %store, "the store on disk is damaged: it is deleted, and restored from its changelog");
    }
    Ok(())
}

fn needs_disk(config: &Config, topology: &Topology) -> bool {
    let mut stores = topology.inner.subtopologies.iter().flat_map(|part| part.stores());
    stores.any(|store| store.store_kind().unwrap_or(config.default_store()) == StoreKind::Persistent)
}

fn is_damaged(error: &Error) -> bool {
    error.class() == ErrorClass::CorruptTask
}

fn open(shared: &AppShared, slot: &Path) -> Result<Database> {
    let kind = EngineKind::from(shared.config.state_engine());
    let folder = kind.folder(slot);
    let cache = u64::try_from(StateMemory::of(&shared.config).engines).unwrap_or(u64::MAX);
    match Database::open(kind, &folder, cache) {
        Err(error) if is_damaged(&error) => {
            tracing::warn!(folder = %folder.display(), ?error, "the local state is damaged: it is deleted, and restored from the changelogs");
            shared.figures().state_wiped("damaged");
            fs::remove_dir_all(&folder).map_err(|io| {
                let text = format!("state.dir: {} is damaged and cannot be deleted", folder.display());
                Error::new(ErrorKind::Store, text).because(io)
            })?;
            Database::open(kind, &folder, cache)
        }
        opened => opened,
    }
}
