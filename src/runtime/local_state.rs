//! What an instance keeps of its stores: the database in its folder, opened a task's tenure, and the keeper that does
//! what is slow.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::app::AppShared;
use super::settings;
use crate::config::{Config, StateEngine, StoreKind};
use crate::error::{Error, ErrorClass, ErrorKind, Result};
use crate::store::StoreBlueprint;
use crate::store::database::{Database, EngineKind};
use crate::store::engine::{Engine, KeyRange, MemoryEngine};
use crate::store::keeper::{Keeper, KeeperThread};
use crate::task_id::TaskId;
use crate::topology::Topology;

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
    default_kind: StoreKind,
}

impl LocalState {
    /// Opens the database of a topology that needs one in the instance's folder. A database that is damaged is made anew:
    /// everything in it is in changelogs too.
    ///
    /// # Errors
    /// [`ErrorKind::Store`], which names the folder and what to do about it.
    pub(super) fn open(shared: &AppShared, slot: Option<&Path>) -> Result<(Self, KeeperThread)> {
        let config = &shared.config;
        let database = match slot {
            Some(slot) if needs_disk(config, &shared.topology) => Some(open(shared, slot)?),
            _ => None,
        };
        let (keeper, thread) = Keeper::start()?;
        let default_kind = config.default_store();
        Ok((Self { database: database.map(Arc::new), keeper, default_kind }, thread))
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
        self.ask(move || stores.into_iter().map(|store| own.store(task, tenure, store)).collect()).await
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
        let open = || {
            let engine = database.open_store(task, store.name(), tenure)?;
            let mark = engine.mark()?;
            Ok((engine, mark))
        };
        let (engine, mark) = match open() {
            Err(error) if is_damaged(&error) => {
                tracing::warn!(%task, store = %store.name(), ?error, "the store on disk is damaged: it is restored from its changelog");
                database.drop_store(task, store.name())?;
                open()?
            }
            opened => opened?,
        };
        Ok(Opened { store, engine, mark })
    }

    /// Where a store is kept, if that is not memory.
    fn database_of(&self, store: &dyn StoreBlueprint) -> Option<&Database> {
        let kind = store.store_kind().unwrap_or(self.default_kind);
        self.database.as_deref().filter(|_| kind == StoreKind::Persistent)
    }
}

/// Whether rows are in an engine.
pub(super) fn has_rows(engine: &dyn Engine) -> Result<bool> {
    use std::ops::Bound::Unbounded;
    let all = KeyRange { from: Unbounded, to: Unbounded, reverse: false };
    let first = engine.range(&all).next();
    Ok(first.transpose()?.is_some())
}

fn needs_disk(config: &Config, topology: &Topology) -> bool {
    let mut stores = topology.inner.subtopologies.iter().flat_map(|part| part.stores());
    stores.any(|store| store.store_kind().unwrap_or(config.default_store()) == StoreKind::Persistent)
}

fn is_damaged(error: &Error) -> bool {
    error.class() == ErrorClass::CorruptTask
}

fn open(shared: &AppShared, slot: &Path) -> Result<Database> {
    let kind = match shared.config.state_engine() {
        StateEngine::Fjall => EngineKind::Fjall,
        StateEngine::Sled => EngineKind::Sled,
    };
    let folder = folder(slot, kind);
    let cache = u64::try_from(settings::state_memory(&shared.config).engines).unwrap_or(u64::MAX);
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

/// Where a database of an engine is in an instance's folder.
fn folder(slot: &Path, kind: EngineKind) -> PathBuf {
    slot.join("state").join(kind.name())
}
