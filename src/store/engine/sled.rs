//! The engine on sled 0.34, a tree of pages over a log: one tree a store.
//!
//! sled knows neither snapshots nor a run as a whole. A run is written row by row (a batch would lock every reader of the
//! process out), then the log is brought to the disk, then the mark is written. Snapshots are made by keeping what the
//! rows of a run were before, for as long as somebody has a snapshot from before it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::disk::{Backend, OpenStore, Store, Tree, step};
use super::fault::{Fault, failed, noted};
use super::raw::{COUNT, MARK, RawRead, write_rows};
use super::{Rows, SortedRun};
use crate::clock;
use crate::error::{Error, Result};

/// How many rows a snapshot reads at once.
const PAGE: usize = 256;
/// How long opening waits for a lock, and between two tries.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(10);

pub(in crate::store) struct SledDatabase {
    database: sled::Db,
    folder: Arc<Path>,
}

impl SledDatabase {
    /// Opens the database in a folder, and makes it if there is none. `cache` bounds the pages in memory, in bytes; sled
    /// takes it as advice.
    pub(in crate::store) fn open(folder: &Path, cache: u64) -> Result<Self> {
        let since = clock::monotonic();
        let opened = loop {
            match sled::Config::new().path(folder).cache_capacity(cache).open() {
                // A database that was closed in this process lets go of its lock a little later, on a thread of its own.
                Err(error) if is_locked(&error) && since.elapsed() < PATIENCE => clock::block(PAUSE),
                opened => break opened,
            }
        };
        let database = opened.map_err(|error| fault(folder, "open the database", error))?;
        Ok(Self { database, folder: folder.into() })
    }
}

/// What is no file or folder of sled's.
pub(in crate::store) fn foreign(data: &Path) -> io::Result<Option<PathBuf>> {
    let entries = match fs::read_dir(data) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let (name, is_folder) = (entry.file_name(), entry.file_type()?.is_dir());
        let own = name.to_str().is_some_and(|name| match is_folder {
            true => name == "blobs",
            false => matches!(name, "conf" | "db") || name.starts_with("snap.") || name.starts_with('.'),
        });
        if !own {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

/// sled says no more of a lock that it did not get.
fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(io) if io.to_string().contains("could not acquire lock"))
}

fn fault(folder: &Path, doing: &str, error: sled::Error) -> Error {
    let kind = match &error {
        error if is_locked(error) => Fault::Locked,
        sled::Error::Io(io) => Fault::of_io(io),
        sled::Error::Unsupported(_) => Fault::Version,
        sled::Error::Corruption { .. }
        | sled::Error::ReportableBug(_)
        | sled::Error::CollectionNotFound(_) => Fault::Damaged,
    };
    failed(folder, doing, kind, error)
}

impl Backend for SledDatabase {
    fn open(&self, id: u32, title: String) -> Result<Arc<dyn OpenStore>> {
        let opened = self.database.open_tree(id.to_string());
        let tree = opened.map_err(|error| fault(&self.folder, &format!("open {title}"), error))?;
        let folder = self.folder.clone();
        let (rows, damaged) = (AtomicU64::new(0), AtomicBool::default());
        let tree = SledTree { tree, folder, generation: Mutex::default(), rows, damaged };
        let count =
            tree.get_row(COUNT)?.and_then(|count| Some(u64::from_be_bytes(count[..].try_into().ok()?)));
        tree.rows.store(count.unwrap_or(0), Ordering::Relaxed);
        Ok(Store::new(tree, title))
    }

    fn ids(&self) -> Vec<u32> {
        let names = self.database.tree_names();
        names.iter().filter_map(|name| std::str::from_utf8(name).ok()?.parse().ok()).collect()
    }

    fn delete(&self, id: u32) -> Result<()> {
        let delete = || {
            self.database.drop_tree(id.to_string())?;
            self.database.flush()
        };
        delete().map_err(|error| fault(&self.folder, "drop a store", error))?;
        Ok(())
    }
}

/// What a store was between two runs.
#[derive(Default)]
pub(super) struct Generation {
    /// The run that followed, if somebody might have looked.
    after: OnceLock<After>,
}

struct After {
    /// What its rows were before it, in order.
    before: Vec<(Bytes, Option<Bytes>)>,
    next: Arc<Generation>,
}

pub(super) struct SledTree {
    tree: sled::Tree,
    folder: Arc<Path>,
    generation: Mutex<Arc<Generation>>,
    /// How many rows there are. It is stored with the mark, so that a crash may make it wrong by what was written since.
    rows: AtomicU64,
    damaged: AtomicBool,
}

impl SledTree {
    fn fault(&self, doing: &str, error: sled::Error) -> Error {
        noted(&self.damaged, fault(&self.folder, doing, error))
    }

    fn generation(&self) -> Arc<Generation> {
        self.generation.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn write(&self, run: &SortedRun, mark: Option<&[u8]>) -> Result<()> {
        let fault = |error| self.fault("write a store", error);
        let mut rows = self.rows.load(Ordering::Relaxed);
        let written = write_rows(run, self, |row, value| {
            step("row");
            let before = match value {
                Some(value) => self.tree.insert(row, value),
                None => self.tree.remove(row),
            };
            match (before.map_err(fault)?, value) {
                (None, Some(_)) => rows += 1,
                (Some(_), None) => rows = rows.saturating_sub(1),
                _ => {}
            }
            Ok(())
        });
        self.rows.store(rows, Ordering::Relaxed);
        written?;
        if mark.is_some() {
            // ORDER: the rows are on the disk before the mark says so.
            self.tree.flush().map_err(fault)?;
        }
        step("mark");
        self.tree.insert(COUNT, &rows.to_be_bytes()).map_err(fault)?;
        if let Some(mark) = mark {
            self.tree.insert(MARK, mark).map_err(fault)?;
        }
        step("finish");
        self.tree.flush().map_err(fault)?;
        Ok(())
    }
}

impl RawRead for SledTree {
    fn get_row(&self, row: &[u8]) -> Result<Option<Bytes>> {
        let value = self.tree.get(row).map_err(|error| self.fault("read a store", error))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan<'a>(&'a self, from: Bound<&[u8]>, to: Bound<&[u8]>, reverse: bool) -> Rows<'a> {
        let rows = self.tree.range::<&[u8], _>((from, to));
        let row = |row: sled::Result<(sled::IVec, sled::IVec)>| match row {
            Ok((key, value)) => Ok((Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value))),
            Err(error) => Err(self.fault("read a store", error)),
        };
        if reverse { Box::new(rows.rev().map(row)) } else { Box::new(rows.map(row)) }
    }

    fn approximate_rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }
}

impl Tree for SledTree {
    type Snapshot = SledSnapshot;

    fn apply(&self, run: &SortedRun, mark: Option<&[u8]>, watched: bool) -> Result<()> {
        if !watched {
            return self.write(run, mark);
        }
        let next = Arc::<Generation>::default();
        let mut before = Vec::with_capacity(run.len());
        write_rows(run, self, |row, _| {
            before.push((Bytes::copy_from_slice(row), self.get_row(row)?));
            Ok(())
        })?;
        // ORDER: whoever sees a row of the run finds what it was before.
        _ = self.generation().after.set(After { before, next: next.clone() });
        let written = self.write(run, mark);
        // Also after a failure: a part of the run is there.
        *self.generation.lock().unwrap_or_else(PoisonError::into_inner) = next;
        written
    }

    fn snapshot(store: &Arc<Store<Self>>) -> SledSnapshot {
        SledSnapshot { generation: store.tree.generation(), store: store.clone() }
    }

    fn bytes(&self) -> Option<u64> {
        None
    }

    fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }
}

/// A store as it was between two runs: what is there, with what the runs since then have changed lying over it as it was.
pub(super) struct SledSnapshot {
    generation: Arc<Generation>,
    store: Arc<Store<SledTree>>,
}

impl SledSnapshot {
    /// The runs since, oldest first.
    fn since(&self) -> impl Iterator<Item = &After> {
        std::iter::successors(self.generation.after.get(), |after| after.next.after.get())
    }
}

impl RawRead for SledSnapshot {
    fn get_row(&self, row: &[u8]) -> Result<Option<Bytes>> {
        // ORDER: first what is there, then what was there before it.
        let now = self.store.tree.get_row(row)?;
        for after in self.since() {
            if let Ok(at) = after.before.binary_search_by(|(key, _)| key[..].cmp(row)) {
                return Ok(after.before[at].1.clone());
            }
        }
        Ok(now)
    }

    fn scan<'a>(&'a self, from: Bound<&[u8]>, to: Bound<&[u8]>, reverse: bool) -> Rows<'a> {
        let (from, to) = (from.map(Bytes::copy_from_slice), to.map(Bytes::copy_from_slice));
        let page = BTreeMap::new();
        Box::new(Scan { snapshot: self, from, to, reverse, page, done: false })
    }

    fn approximate_rows(&self) -> u64 {
        self.store.tree.approximate_rows()
    }
}

/// A scan of a snapshot, page by page.
struct Scan<'a> {
    snapshot: &'a SledSnapshot,
    from: Bound<Bytes>,
    to: Bound<Bytes>,
    reverse: bool,
    page: BTreeMap<Bytes, Bytes>,
    done: bool,
}

impl Scan<'_> {
    fn read_page(&mut self) -> Result<()> {
        let by_ref = |bound: &Bound<Bytes>| bound.as_ref().map(|key| key.clone());
        let (mut from, mut to) = (by_ref(&self.from), by_ref(&self.to));
        let rows = {
            let (from, to) = (from.as_ref().map(|key| &key[..]), to.as_ref().map(|key| &key[..]));
            self.snapshot.store.tree.scan(from, to, self.reverse).take(PAGE).collect::<Result<Vec<_>>>()?
        };
        match rows.last() {
            Some((last, _)) if rows.len() == PAGE && self.reverse => {
                from = Bound::Included(last.clone());
                self.to = Bound::Excluded(last.clone());
            }
            Some((last, _)) if rows.len() == PAGE => {
                to = Bound::Included(last.clone());
                self.from = Bound::Excluded(last.clone());
            }
            _ => self.done = true,
        }
        self.page.extend(rows);
        // ORDER: first what is there, then what was there before it; the oldest is what counts.
        for after in self.snapshot.since().collect::<Vec<_>>().into_iter().rev() {
            let start = after.before.partition_point(|(key, _)| match &from {
                Bound::Included(from) => key < from,
                Bound::Excluded(from) => key <= from,
                Bound::Unbounded => false,
            });
            for (key, before) in &after.before[start..] {
                let past = match &to {
                    Bound::Included(to) => key > to,
                    Bound::Excluded(to) => key >= to,
                    Bound::Unbounded => false,
                };
                if past {
                    break;
                }
                match before {
                    Some(value) => _ = self.page.insert(key.clone(), value.clone()),
                    None => _ = self.page.remove(key),
                }
            }
        }
        Ok(())
    }
}

impl Iterator for Scan<'_> {
    type Item = Result<(Bytes, Bytes)>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.page.is_empty() && !self.done {
            if let Err(error) = self.read_page() {
                self.done = true;
                return Some(Err(error));
            }
        }
        let row = if self.reverse { self.page.pop_last() } else { self.page.pop_first() };
        row.map(Ok)
    }
}
