//! Which stores a database has, in a file beside it that people and tools can read: `engine.json`.
//!
//! Engines know a store by a short number, because a topology's names are longer than what some of them take. A number is
//! never used twice, so that what is left of a dropped store is not taken for another one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::EngineKind;
use crate::error::{Error, Result};
use crate::record::Timestamp;
use crate::store::engine::fault::{Fault, failed, io_failed};
use crate::task_id::TaskId;

/// The version of the file, and of how rows lie in the engines, that this build writes, and the newest it reads.
///
/// Version 2 says which stores have a changelog.
const VERSION: u8 = 2;
const FILE: &str = "engine.json";

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Stored {
    version: u8,
    engine: String,
    next_id: u32,
    stores: Vec<StoredEntry>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct StoredEntry {
    id: u32,
    task: String,
    store: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    used_ms: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    changelog: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: u32,
    pub(super) task: TaskId,
    pub(super) store: String,
    /// When somebody was last known to use it, in ms since the Unix epoch.
    pub(super) used_ms: Option<Timestamp>,
    /// Whether it has a changelog, from which it can be restored; `None` if nobody has said so.
    pub(super) changelog: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Catalog {
    kind: EngineKind,
    next_id: u32,
    pub(super) entries: Vec<Entry>,
}

impl Catalog {
    pub(super) fn new(kind: EngineKind) -> Self {
        Self { kind, next_id: 1, entries: Vec::new() }
    }

    pub(super) fn id(&self, task: TaskId, store: &str) -> Option<u32> {
        self.entries.iter().find(|entry| entry.task == task && entry.store == store).map(|entry| entry.id)
    }

    /// The same catalog with one more store, and its number.
    pub(super) fn with(&self, task: TaskId, store: &str) -> (Self, u32) {
        let mut with = self.clone();
        let id = self.next_id;
        with.next_id += 1;
        with.entries.push(Entry { id, task, store: store.to_owned(), used_ms: None, changelog: None });
        (with, id)
    }

    /// The same catalog without a store.
    pub(super) fn without(&self, id: u32) -> Self {
        let mut without = self.clone();
        without.entries.retain(|entry| entry.id != id);
        without
    }

    /// Reads the catalog of a folder. Where there is none, `None`.
    pub(super) fn read(kind: EngineKind, folder: &Path) -> Result<Option<Self>> {
        let text = match fs::read(folder.join(FILE)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_failed(folder, "read engine.json", error)),
        };
        Self::parse(kind, folder, &text).map(Some)
    }

    /// Reads the text of a catalog; `folder` is for errors.
    pub(super) fn parse(kind: EngineKind, folder: &Path, text: &[u8]) -> Result<Self> {
        let damaged = |cause: String| failed(folder, "read engine.json", Fault::Damaged, cause);
        // The version first: another one may have other fields.
        let value: serde_json::Value =
            serde_json::from_slice(text).map_err(|error| damaged(error.to_string()))?;
        match value.get("version").and_then(serde_json::Value::as_u64) {
            Some(version) if version > u64::from(VERSION) => {
                return Err(failed(
                    folder,
                    "read engine.json",
                    Fault::Version,
                    format!("it has version {version}"),
                ));
            }
            _ => {}
        }
        let stored: Stored = serde_json::from_value(value).map_err(|error| damaged(error.to_string()))?;
        if stored.engine != kind.name() {
            return Err(damaged(format!("it is of the engine {:?}, not {:?}", stored.engine, kind.name())));
        }
        let mut catalog = Self { kind, next_id: stored.next_id, entries: Vec::new() };
        for StoredEntry { id, task, store, used_ms, changelog } in stored.stores {
            let task = task.parse().map_err(|error: Error| damaged(error.to_string()))?;
            if id >= catalog.next_id
                || catalog.id(task, &store).is_some()
                || catalog.entries.iter().any(|e| e.id == id)
            {
                return Err(damaged(format!(
                    "store {id} is there twice, or has a number that was never given"
                )));
            }
            catalog.entries.push(Entry { id, task, store, used_ms, changelog });
        }
        Ok(catalog)
    }

    /// Writes the catalog beside and renames it, so that there is a whole file or the one before.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let stores = self.entries.iter();
        let stored = Stored {
            version: VERSION,
            engine: self.kind.name().to_owned(),
            next_id: self.next_id,
            stores: stores
                .map(|Entry { id, task, store, used_ms, changelog }| StoredEntry {
                    id: *id,
                    task: task.to_string(),
                    store: store.clone(),
                    used_ms: *used_ms,
                    changelog: *changelog,
                })
                .collect(),
        };
        let write = || {
            let new = folder.join("engine.json.new");
            let mut out = File::create(&new)?;
            out.write_all(&serde_json::to_vec_pretty(&stored)?)?;
            // ORDER: on the disk before it has its name.
            out.sync_all()?;
            fs::rename(new, folder.join(FILE))?;
            sync_folder(folder)
        };
        write().map_err(|error| io_failed(folder, "write engine.json", error))
    }
}

/// Brings the names in a folder to the disk.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    // Only Unix opens folders as files.
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}
