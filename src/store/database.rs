//! The database of an instance: one for all its stores, in the folder `<slot>/state/<engine>`.
//!
//! | In the folder | What it is |
//! |---|---|
//! | `engine.json` | which stores there are, and the version of the format |
//! | `data/` | the engine's own files |
//! | `data.new/` | the same while they are being made, the first time |
//! | `suspect` | says that the engine has stopped, so that the next start reads every row |
//!
//! Beside it are `<engine>.damaged-<ms>`, moved aside because nothing else has it, and `<engine>.wiped` for as long as it is
//! being deleted.
//!
//! Opening and dropping stores takes as long as the disk does: it is for threads on which nobody waits.

mod catalog;
pub(crate) mod mend;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::engine::disk::{Backend, OpenStore, SUSPECT};
use super::engine::fault::{Fault, failed, io_failed};
use super::engine::{Engine, MemoryEngine};
use crate::config::StateEngine;
use crate::error::{Error, ErrorClass, ErrorKind, Result};
use crate::record::Timestamp;
use crate::task_id::TaskId;
use catalog::{Catalog, Entry, sync_folder};

/// What keeps the rows of the stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EngineKind {
    Fjall,
    Sled,
    Memory,
}

impl EngineKind {
    /// The name in the configuration, and of the folder.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fjall => "fjall",
            Self::Sled => "sled",
            Self::Memory => "memory",
        }
    }

    /// Where its database is in an instance's folder.
    pub(crate) fn folder(self, slot: &Path) -> PathBuf {
        slot.join("state").join(self.name())
    }
}

impl From<StateEngine> for EngineKind {
    fn from(engine: StateEngine) -> Self {
        match engine {
            StateEngine::Fjall => Self::Fjall,
            StateEngine::Sled => Self::Sled,
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A store in a database.
#[cfg_attr(not(any(feature = "cli", feature = "testing")), allow(dead_code, reason = "for tools and tests"))]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredStore {
    pub(crate) task: TaskId,
    pub(crate) store: String,
    /// What it takes on disk; `None` where the stores of an engine share files.
    pub(crate) bytes: Option<u64>,
    /// Up to where the changelog is in it, encoded.
    pub(crate) mark: Option<Bytes>,
    /// When somebody was last known to use it, in ms since the Unix epoch.
    pub(crate) used_ms: Option<Timestamp>,
    /// Whether it has a changelog, if that is known.
    pub(crate) changelog: Option<bool>,
}

/// A store as the catalog has it, for whoever does not open the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedStore {
    pub(crate) task: TaskId,
    pub(crate) store: String,
    /// When somebody was last known to use it, in ms since the Unix epoch.
    pub(crate) used_ms: Option<Timestamp>,
    /// Whether it has a changelog, if that is known.
    pub(crate) changelog: Option<bool>,
}

impl From<Entry> for NamedStore {
    fn from(Entry { task, store, used_ms, changelog, .. }: Entry) -> Self {
        Self { task, store, used_ms, changelog }
    }
}

/// Reads a catalog that anybody may have written; what was read may be written again, and stores added.
#[cfg(feature = "testing")]
pub(super) fn fuzz_catalog(kind: EngineKind, text: &[u8]) {
    if let Ok(catalog) = Catalog::parse(kind, Path::new("fuzz"), text) {
        let (with, id) = catalog.with(TaskId::new(0, 0), "new");
        assert!(catalog.entries.iter().all(|entry| entry.id != id), "a number is given twice");
        assert_eq!(with.without(id).entries, catalog.entries);
    }
}

/// All stores of an instance. It is closed when it and all that came from it is dropped.
pub(crate) struct Database {
    /// `None` for stores in memory.
    disk: Option<Disk>,
}

struct Disk {
    kind: EngineKind,
    folder: PathBuf,
    backend: Box<dyn Backend>,
    stores: Mutex<Stores>,
}

struct Stores {
    catalog: Catalog,
    open: HashMap<u32, Arc<dyn OpenStore>>,
    /// Dropped, and perhaps still read by somebody.
    dropped: Vec<(u32, Arc<dyn OpenStore>)>,
    /// Opened, or in use, since the last [look](Database::unused).
    used: HashSet<u32>,
}

impl Database {
    /// Opens the database in a folder, and makes both if they are not there. `cache` bounds what the engine keeps in memory
    /// of what is on the disk, in bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Store`], with the folder and the remedy. Its class is
    /// [`CorruptTask`](crate::error::ErrorClass::CorruptTask) where the remedy is to delete the folder.
    pub(crate) fn open(kind: EngineKind, folder: &Path, cache: u64) -> Result<Self> {
        if kind == EngineKind::Memory {
            return Ok(Self { disk: None });
        }
        fs::create_dir_all(folder)
            .map_err(|error| io_failed(folder, "make the folder of the state", error))?;
        mend::delete_wiped(folder)?;
        let data = folder.join("data");
        // ORDER: before anything is found damaged: what is wiped then is ours.
        refuse_foreign_files(kind, folder)?;
        let catalog = match Catalog::read(kind, folder)? {
            Some(catalog) => catalog,
            None => {
                refuse_data_without_catalog(folder)?;
                let catalog = Catalog::new(kind);
                catalog.write(folder)?;
                catalog
            }
        };
        let found = data.try_exists().map_err(|error| io_failed(folder, "open the database", error))?;
        if !found {
            if let Some(entry) = catalog.entries.first() {
                let cause = format!(
                    "engine.json names the store {}, and there is no {}",
                    entry.store,
                    data.display()
                );
                return Err(failed(folder, "open the database", Fault::Damaged, cause));
            }
            make_data(kind, folder, &data)?;
        }
        let backend = open_backend(kind, &data, cache)?;
        // What is left of stores that were dropped shortly before the process ended.
        for id in backend.ids() {
            if !catalog.entries.iter().any(|entry| entry.id == id) {
                tracing::info!(folder = %folder.display(), id, "deleting what is left of a dropped store");
                backend.delete(id)?;
            }
        }
        let stores =
            Mutex::new(Stores { catalog, open: HashMap::new(), dropped: Vec::new(), used: HashSet::new() });
        Ok(Self { disk: Some(Disk { kind, folder: folder.to_owned(), backend, stores }) })
    }

    /// Opens the store of a task, and makes it if there is none. From then on every handle of an older tenure is refused
    /// when it writes.
    ///
    /// # Errors
    /// [`ErrorKind::Store`]; its class is [`FencedLease`](crate::error::ErrorClass::FencedLease) where a later tenure has
    /// opened the store.
    pub(crate) fn open_store(&self, task: TaskId, store: &str, tenure: u64) -> Result<Box<dyn Engine>> {
        let Some(disk) = &self.disk else { return Ok(Box::new(MemoryEngine::default())) };
        super::faults::at("open-store");
        let opened = disk.opened(task, store, true)?;
        // Not under the lock of the database: this waits for a run that is being applied.
        opened.engine(tenure)
    }

    /// Deletes a store. Whoever still reads it may go on; its files go with the last of them, at the latest when the
    /// database is opened the next time.
    pub(crate) fn drop_store(&self, task: TaskId, store: &str) -> Result<()> {
        let Some(disk) = &self.disk else { return Ok(()) };
        let mut stores = disk.stores();
        let Some(id) = stores.catalog.id(task, store) else { return Ok(()) };
        let catalog = stores.catalog.without(id);
        // ORDER: first it is no longer in the catalog, then it goes: a tree that is in no catalog is deleted later.
        catalog.write(&disk.folder)?;
        stores.catalog = catalog;
        let open = match stores.open.remove(&id) {
            Some(open) => open,
            None => disk.backend.open(id, title(task, store))?,
        };
        stores.used.remove(&id);
        stores.dropped.push((id, open.clone()));
        drop(stores);
        // Waits for a run that is being applied.
        open.end();
        drop(open);
        self.sweep()
    }

    /// Says whether a store has a changelog, before it is opened.
    pub(crate) fn declare(&self, task: TaskId, store: &str, changelog: bool) -> Result<()> {
        let Some(disk) = &self.disk else { return Ok(()) };
        let mut stores = disk.stores();
        let (mut catalog, id) = match stores.catalog.id(task, store) {
            Some(id) => (stores.catalog.clone(), id),
            None => stores.catalog.with(task, store),
        };
        for entry in catalog.entries.iter_mut().filter(|entry| entry.id == id) {
            entry.changelog = Some(changelog);
        }
        stores.renew(catalog, &disk.folder)
    }

    /// Whether a store was there and is not any more, as far as the engine can tell.
    pub(crate) fn is_lost(&self, task: TaskId, store: &str) -> bool {
        // sled may forget a tree that it has made just now, with nothing in it.
        let Some(disk) = self.disk.as_ref().filter(|disk| disk.kind == EngineKind::Fjall) else {
            return false;
        };
        let stores = disk.stores();
        let entry = stores.catalog.entries.iter().find(|entry| entry.task == task && entry.store == store);
        // The time is noted when it is open.
        entry.is_some_and(|entry| entry.used_ms.is_some() && !disk.backend.ids().contains(&entry.id))
    }

    /// Those of some stores that were found damaged since they were opened.
    pub(crate) fn damaged(&self, which: impl Fn(TaskId, &str) -> bool) -> Vec<NamedStore> {
        let Some(disk) = &self.disk else { return Vec::new() };
        let stores = disk.stores();
        let is_damaged = |id: u32| stores.open.get(&id).is_some_and(|open| open.is_damaged());
        let entries = stores.catalog.entries.iter();
        let damaged = entries.filter(|entry| is_damaged(entry.id) && which(entry.task, &entry.store));
        damaged.cloned().map(NamedStore::from).collect()
    }

    /// Deletes the files of dropped stores that nobody reads any more.
    pub(crate) fn sweep(&self) -> Result<()> {
        let Some(disk) = &self.disk else { return Ok(()) };
        let mut stores = disk.stores();
        let mut kept = Vec::new();
        let mut result = Ok(());
        for (id, store) in std::mem::take(&mut stores.dropped) {
            if Arc::strong_count(&store) > 1 {
                kept.push((id, store));
                continue;
            }
            drop(store);
            result = result.and(disk.backend.delete(id));
        }
        stores.dropped = kept;
        result
    }

    /// Notes the time for stores that have been opened, or were in use, since the last [look](Self::unused).
    pub(crate) fn note_used(&self, now: Timestamp) -> Result<()> {
        let Some(disk) = &self.disk else { return Ok(()) };
        let mut stores = disk.stores();
        let mut noted = stores.catalog.clone();
        for entry in noted.entries.iter_mut().filter(|entry| stores.used.contains(&entry.id)) {
            entry.used_ms = Some(now);
        }
        stores.renew(noted, &disk.folder)
    }

    /// Notes which stores are in use at a time, and gives the others. The time of the last use is in the catalog, and after a
    /// kill as old as the look before it.
    pub(crate) fn unused(&self, now: Timestamp, in_use: impl Fn(TaskId) -> bool) -> Result<Vec<NamedStore>> {
        let Some(disk) = &self.disk else { return Ok(Vec::new()) };
        let mut stores = disk.stores();
        let Stores { catalog, used, .. } = &mut *stores;
        let mut noted = catalog.clone();
        let mut unused = Vec::new();
        for entry in &mut noted.entries {
            let is = in_use(entry.task);
            // Whoever has opened it since, or had it then, may have let go of it only now.
            let was = used.remove(&entry.id);
            if is {
                used.insert(entry.id);
            }
            if is || was || entry.used_ms.is_none() {
                entry.used_ms = Some(now);
            }
            if !is {
                unused.push(NamedStore::from(entry.clone()));
            }
        }
        if noted != *catalog {
            noted.write(&disk.folder)?;
            *catalog = noted;
        }
        Ok(unused)
    }

    /// What the catalog in a folder names; `None` if there is none. The database need not be open, and may be somebody
    /// else's.
    #[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "for the command line"))]
    pub(crate) fn named(kind: EngineKind, folder: &Path) -> Result<Option<Vec<NamedStore>>> {
        Ok(Catalog::read(kind, folder)?
            .map(|catalog| catalog.entries.into_iter().map(NamedStore::from).collect()))
    }

    /// All stores, also those that no topology knows any more.
    #[cfg_attr(
        not(any(feature = "cli", feature = "testing")),
        allow(dead_code, reason = "for tools and tests")
    )]
    pub(crate) fn stores(&self) -> Result<Vec<StoredStore>> {
        let Some(disk) = &self.disk else { return Ok(Vec::new()) };
        let entries = disk.stores().catalog.entries.clone();
        let mut found = Vec::with_capacity(entries.len());
        for entry in entries {
            let open = disk.opened(entry.task, &entry.store, false)?;
            let Entry { task, store, used_ms, changelog, .. } = entry;
            let (bytes, mark) = (open.bytes(), open.mark()?);
            found.push(StoredStore { task, store, bytes, mark, used_ms, changelog });
        }
        Ok(found)
    }
}

impl Stores {
    /// Another catalog takes the place of this one, on the disk first.
    fn renew(&mut self, catalog: Catalog, folder: &Path) -> Result<()> {
        if catalog != self.catalog {
            catalog.write(folder)?;
            self.catalog = catalog;
        }
        Ok(())
    }
}

impl Disk {
    fn stores(&self) -> MutexGuard<'_, Stores> {
        self.stores.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened(&self, task: TaskId, store: &str, used: bool) -> Result<Arc<dyn OpenStore>> {
        let mut stores = self.stores();
        let id = match stores.catalog.id(task, store) {
            Some(id) => id,
            None => {
                // ORDER: it is in the catalog before it is there; a store that is not there is an empty one.
                let (catalog, id) = stores.catalog.with(task, store);
                catalog.write(&self.folder)?;
                stores.catalog = catalog;
                id
            }
        };
        if used {
            stores.used.insert(id);
        }
        if let Some(open) = stores.open.get(&id) {
            return Ok(open.clone());
        }
        let open = self.backend.open(id, title(task, store))?;
        stores.open.insert(id, open.clone());
        Ok(open)
    }
}

fn title(task: TaskId, store: &str) -> String {
    format!("the store {store} of task {task}")
}

/// Nothing of somebody else is ever in the way of a deletion.
fn refuse_foreign_files(kind: EngineKind, folder: &Path) -> Result<()> {
    let read = |error| io_failed(folder, "read the folder of the state", error);
    let refused = |path: &Path| {
        let text = format!(
            "state.dir: {} is in the folder of a database and not of this library: move it away, or set another state.dir; \
             nothing was deleted",
            path.display()
        );
        Err(Error::new(ErrorKind::Store, text).with_class(ErrorClass::Fatal))
    };
    for entry in fs::read_dir(folder).map_err(read)? {
        let entry = entry.map_err(read)?;
        let own = ["engine.json", "engine.json.new", "data", "data.new", SUSPECT];
        if !own.iter().any(|own| entry.file_name() == *own) {
            return refused(&entry.path());
        }
    }
    let foreign: Option<PathBuf> = match kind {
        #[cfg(feature = "fjall")]
        EngineKind::Fjall => super::engine::fjall::look::foreign(&folder.join("data")).map_err(read)?,
        #[cfg(feature = "sled")]
        EngineKind::Sled => super::engine::sled::foreign(&folder.join("data")).map_err(read)?,
        _ => None,
    };
    foreign.map_or(Ok(()), |path| refused(&path))
}

/// A database without a catalog is not one of ours.
fn refuse_data_without_catalog(folder: &Path) -> Result<()> {
    let data = folder.join("data");
    if !data.try_exists().map_err(|error| io_failed(folder, "read the folder of the state", error))? {
        return Ok(());
    }
    let text = format!(
        "state.dir: {} holds \"data\" and no engine.json, so that nobody knows what is in it: move it away, or set another \
         state.dir",
        folder.display()
    );
    Err(Error::new(ErrorKind::Store, text))
}

/// Makes the engine's files beside and renames them: no engine says how it comes back from a beginning that was cut off.
fn make_data(kind: EngineKind, folder: &Path, data: &Path) -> Result<()> {
    let new = folder.join("data.new");
    let make = |error| io_failed(folder, "make the database", error);
    match fs::remove_dir_all(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(make(error)),
        _ => {}
    }
    // ORDER: closed before it is moved.
    drop(open_backend(kind, &new, 1 << 20)?);
    fs::rename(&new, data).and_then(|()| sync_folder(folder)).map_err(make)
}

/// Engines panic over files that are not as they left them: that ends a thread of its own.
fn open_backend(kind: EngineKind, data: &Path, cache: u64) -> Result<Box<dyn Backend>> {
    let opened = std::thread::scope(|scope| {
        let name = format!("mainstem-open-{kind}");
        let opening =
            std::thread::Builder::new().name(name).spawn_scoped(scope, || open_engine(kind, data, cache));
        opening
            .map(|opening| opening.join())
            .map_err(|error| io_failed(data, "start a thread to open the database", error))
    })?;
    opened.unwrap_or_else(|panic| {
        let text =
            panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        let cause = format!("the engine panicked: {}", text.unwrap_or("it does not say why"));
        Err(failed(data, "open the database", Fault::Damaged, cause))
    })
}

#[cfg_attr(not(all(feature = "fjall", feature = "sled")), allow(unused_variables))]
fn open_engine(kind: EngineKind, data: &Path, cache: u64) -> Result<Box<dyn Backend>> {
    match kind {
        #[cfg(feature = "fjall")]
        EngineKind::Fjall => Ok(Box::new(super::engine::fjall::FjallDatabase::open(data, cache)?)),
        #[cfg(feature = "sled")]
        EngineKind::Sled => Ok(Box::new(super::engine::sled::SledDatabase::open(data, cache)?)),
        kind => {
            let text = format!(
                "the engine {kind} is not in this build: switch on the feature \"{kind}\" of mainstem"
            );
            Err(Error::new(ErrorKind::Config, text))
        }
    }
}

#[cfg(test)]
mod tests;
