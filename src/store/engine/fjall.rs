//! The engine on fjall, a log-structured merge tree: one keyspace a store.
//!
//! A run becomes sorted tables that the keyspace gets in one step (`start_ingestion`): no journal, no memtable, and the
//! mark is in the same step as the data. What is read is therefore always whole runs.

pub(in crate::store) mod look;

use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fjall::config::{PartitioningPolicy, PinningPolicy};
use fjall::{Keyspace, KeyspaceCreateOptions, LsmError, PersistMode, Readable, Snapshot};

use super::disk::{Backend, OpenStore, Store, Tree, suspect};
use super::fault::{Fault, failed, io_failed, noted};
use super::raw::{MARK, RawRead, write_rows};
use super::{Rows, SortedRun};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};

/// Files that are kept open; a process has a limit of 1024 where nobody raised it, and sockets count too.
const OPEN_FILES: usize = 256;
/// Tables that have not been merged yet, beyond which a run waits for the merging.
const UNMERGED: usize = 24;
/// How long it waits: a merge that failed must not stop everything.
const PATIENCE: Duration = Duration::from_secs(10);

pub(in crate::store) struct FjallDatabase {
    database: fjall::Database,
    folder: Arc<Path>,
}

impl FjallDatabase {
    /// Opens the database in a folder, and makes it if there is none. `cache` bounds the blocks in memory, in bytes.
    pub(in crate::store) fn open(folder: &Path, cache: u64) -> Result<Self> {
        let missing = look::missing(folder).map_err(|error| io_failed(folder, "open the database", error))?;
        if let Some(missing) = missing {
            return Err(failed(folder, "open the database", Fault::Damaged, missing));
        }
        let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2).min(2));
        let builder = fjall::Database::builder(folder);
        let builder = builder.cache_size(cache).worker_threads(threads).max_cached_files(Some(OPEN_FILES));
        let opened = builder.open();
        let database = opened.map_err(|error| fault(folder, "open the database", error))?;
        Ok(Self { database, folder: folder.into() })
    }
}

fn fault(folder: &Path, doing: &str, error: fjall::Error) -> Error {
    let kind = match &error {
        fjall::Error::Io(io) | fjall::Error::Storage(LsmError::Io(io)) => Fault::of_io(io),
        fjall::Error::Locked => Fault::Locked,
        // fjall writes the marker before what is in it.
        fjall::Error::InvalidVersion(None) => Fault::Damaged,
        fjall::Error::InvalidVersion(Some(_)) | fjall::Error::Storage(LsmError::InvalidVersion(_)) => {
            Fault::Version
        }
        fjall::Error::Poisoned => Fault::Stopped,
        fjall::Error::KeyspaceDeleted => Fault::Other,
        _ => Fault::Damaged,
    };
    if kind == Fault::Stopped {
        suspect(folder);
    }
    failed(folder, doing, kind, error)
}

impl Backend for FjallDatabase {
    fn open(&self, id: u32, title: String) -> Result<Arc<dyn OpenStore>> {
        // Nothing is pinned: filters and indexes live in the cache, whose size is what was said. They are cut into blocks, or
        // a cache that is smaller than a filter would read it anew for every row.
        let options = || {
            let (pinned, cut) = (PinningPolicy::all(false), PartitioningPolicy::all(true));
            KeyspaceCreateOptions::default()
                .index_block_pinning_policy(pinned.clone())
                .filter_block_pinning_policy(pinned)
                .index_block_partitioning_policy(cut.clone())
                .filter_block_partitioning_policy(cut)
        };
        let opened = self.database.keyspace(&id.to_string(), options);
        let keyspace = opened.map_err(|error| fault(&self.folder, &format!("open {title}"), error))?;
        let folder = self.folder.clone();
        let tree = FjallTree {
            database: self.database.clone(),
            keyspace,
            folder,
            generation: Mutex::default(),
            damaged: AtomicBool::default(),
        };
        Ok(Store::new(tree, title))
    }

    fn ids(&self) -> Vec<u32> {
        self.database.list_keyspace_names().iter().filter_map(|name| name.parse().ok()).collect()
    }

    fn delete(&self, id: u32) -> Result<()> {
        let delete = || {
            let keyspace = self.database.keyspace(&id.to_string(), KeyspaceCreateOptions::default)?;
            self.database.delete_keyspace(keyspace)
        };
        delete().map_err(|error| fault(&self.folder, "drop a store", error))
    }
}

/// What a store was between two runs. A reader of the newest one reads what is there; when a run is applied, what was there
/// is held on to for those who still read it. (A snapshot that is held all the time would keep what is old in the tables
/// of all stores, for as long as one of them does not change.)
#[derive(Default)]
pub(super) struct Generation {
    held: OnceLock<Snapshot>,
}

pub(super) struct FjallTree {
    database: fjall::Database,
    keyspace: Keyspace,
    folder: Arc<Path>,
    generation: Mutex<Arc<Generation>>,
    damaged: AtomicBool,
}

impl FjallTree {
    fn generation(&self) -> Arc<Generation> {
        self.generation.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn fault(&self, doing: &str, error: fjall::Error) -> Error {
        noted(&self.damaged, fault(&self.folder, doing, error))
    }

    fn rows<'a>(&'a self, rows: fjall::Iter, reverse: bool) -> Rows<'a> {
        let row = |guard: fjall::Guard| match guard.into_inner() {
            // Copies: a slice would keep the whole block that it is in.
            Ok((key, value)) => Ok((Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value))),
            Err(error) => Err(self.fault("read a store", error)),
        };
        if reverse { Box::new(rows.rev().map(row)) } else { Box::new(rows.map(row)) }
    }

    fn value(&self, read: fjall::Result<Option<fjall::UserValue>>) -> Result<Option<Bytes>> {
        let value = read.map_err(|error| self.fault("read a store", error))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }
}

impl RawRead for FjallTree {
    fn get_row(&self, row: &[u8]) -> Result<Option<Bytes>> {
        self.value(self.keyspace.get(row))
    }

    fn scan<'a>(&'a self, from: Bound<&[u8]>, to: Bound<&[u8]>, reverse: bool) -> Rows<'a> {
        self.rows(self.keyspace.range::<&[u8], _>((from, to)), reverse)
    }

    fn approximate_rows(&self) -> u64 {
        // Each table may have a mark.
        self.keyspace.approximate_len().saturating_sub(self.keyspace.table_count()) as u64
    }
}

impl Tree for FjallTree {
    type Snapshot = FjallSnapshot;

    fn apply(&self, run: &SortedRun, mark: Option<&[u8]>, _watched: bool) -> Result<()> {
        let fault = |error| self.fault("write a store", error);
        // An ingestion does not look whether an earlier write or merge failed; this does, and writes nothing.
        self.database.persist(PersistMode::Buffer).map_err(fault)?;
        let mut tables = self.keyspace.start_ingestion().map_err(fault)?;
        write_rows(run, self, |row, value| {
            if u32::try_from(value.map_or(0, <[u8]>::len)).is_err() {
                return Err(Error::new(
                    ErrorKind::Store,
                    "a value of 4 GB and more is more than a store takes",
                ));
            }
            super::disk::step("row");
            match value {
                Some(value) => tables.write(row, value).map_err(fault),
                None => tables.write_tombstone(row).map_err(fault),
            }
        })?;
        super::disk::step("mark");
        if let Some(mark) = mark {
            tables.write(MARK, mark).map_err(fault)?;
        }
        // ORDER: whoever looks whether it is held has taken a snapshot of its own before.
        _ = self.generation().held.set(self.database.snapshot());
        super::disk::step("finish");
        tables.finish().map_err(fault)?;
        *self.generation.lock().unwrap_or_else(PoisonError::into_inner) = Arc::default();
        Ok(())
    }

    fn snapshot(store: &Arc<Store<Self>>) -> FjallSnapshot {
        FjallSnapshot { generation: store.tree.generation(), store: store.clone() }
    }

    fn bytes(&self) -> Option<u64> {
        Some(self.keyspace.disk_space())
    }

    fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    fn catch_up(&self) {
        let since = clock::monotonic();
        while self.keyspace.l0_table_count() >= UNMERGED && since.elapsed() < PATIENCE {
            clock::block(Duration::from_millis(5));
        }
    }
}

/// A store as it was between two runs.
pub(super) struct FjallSnapshot {
    generation: Arc<Generation>,
    store: Arc<Store<FjallTree>>,
}

impl FjallSnapshot {
    fn with<T>(&self, read: impl FnOnce(&Snapshot) -> T) -> T {
        // ORDER: first a snapshot of what is there; if nothing is held then, it is from before the next run.
        let now = self.store.tree.database.snapshot();
        read(self.generation.held.get().unwrap_or(&now))
    }
}

impl RawRead for FjallSnapshot {
    fn get_row(&self, row: &[u8]) -> Result<Option<Bytes>> {
        let tree = &self.store.tree;
        tree.value(self.with(|snapshot| snapshot.get(&tree.keyspace, row)))
    }

    fn scan<'a>(&'a self, from: Bound<&[u8]>, to: Bound<&[u8]>, reverse: bool) -> Rows<'a> {
        let tree = &self.store.tree;
        tree.rows(self.with(|snapshot| snapshot.range::<&[u8], _>(&tree.keyspace, (from, to))), reverse)
    }

    fn approximate_rows(&self) -> u64 {
        self.store.tree.approximate_rows()
    }
}
