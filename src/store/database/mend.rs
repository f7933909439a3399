//! What is done about a database that is damaged: as little of it goes as can be told apart, and what nothing else has is
//! moved aside, never deleted.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::catalog::{Catalog, Entry, sync_folder};
use super::{EngineKind, NamedStore};
use crate::error::Result;
use crate::record::Timestamp;
use crate::store::engine::disk::SUSPECT;
use crate::store::engine::fault::io_failed;

/// What a mending has cost.
#[derive(Debug, Default)]
pub(crate) struct Mended {
    /// The stores that are gone from the database; those without a changelog are in `kept`.
    pub(crate) stores: Vec<NamedStore>,
    /// The stores cannot be told apart, so that all of them are gone.
    pub(crate) whole: bool,
    /// Where what nothing else has is now.
    pub(crate) kept: Option<PathBuf>,
}

/// Who is to be mended.
pub(crate) struct Mend<'a> {
    pub(crate) kind: EngineKind,
    pub(crate) folder: &'a Path,
    /// Whether a store of the topology has a changelog, where the database does not know.
    pub(crate) is_logged: &'a dyn Fn(&NamedStore) -> bool,
    /// Whether there may be stores without one although nothing names them.
    pub(crate) may_hold_unlogged: bool,
    /// Names what is moved aside, in ms since the Unix epoch.
    pub(crate) now: Timestamp,
}

/// Whether an engine has stopped over something that only a look at all rows finds.
pub(crate) fn is_suspect(folder: &Path) -> bool {
    folder.join(SUSPECT).exists()
}

impl Mend<'_> {
    /// Takes the stores out of a closed database that are damaged; every row of all is read if the database is
    /// [suspect](is_suspect). Nothing is damaged if the answer is empty.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::error::ErrorKind::Store), with the folder and the remedy.
    pub(crate) fn stores(&self) -> Result<Mended> {
        let Ok(Some(catalog)) = Catalog::read(self.kind, self.folder) else { return Ok(Mended::default()) };
        let damaged = self.find(&catalog)?;
        let mut mended = Mended::default();
        let mut left = catalog.clone();
        for (path, entry) in damaged {
            let Some(entry) = entry else {
                // Of a store that was dropped.
                fs::remove_dir_all(&path)
                    .map_err(|error| io_failed(&path, "delete what is damaged", error))?;
                continue;
            };
            let named = NamedStore::from(entry.clone());
            if self.is_logged_store(&named) {
                fs::remove_dir_all(&path)
                    .map_err(|error| io_failed(&path, "delete what is damaged", error))?;
            } else {
                let aside = self.aside();
                let to = aside.join(format!("{}-{}", entry.task, entry.id));
                let moved = fs::create_dir_all(&aside)
                    // It says which store is which.
                    .and_then(|()| fs::copy(self.folder.join("engine.json"), aside.join("engine.json")))
                    .and_then(|_| fs::rename(&path, to));
                moved.map_err(|error| io_failed(&path, "move what is damaged aside", error))?;
                mended.kept = Some(aside);
            }
            left = left.without(entry.id);
            mended.stores.push(named);
        }
        if left != catalog {
            left.write(self.folder)?;
        }
        // ORDER: when everything is done.
        match fs::remove_file(self.folder.join(SUSPECT)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_failed(self.folder, "delete the file \"suspect\"", error))
            }
            _ => Ok(mended),
        }
    }

    /// Takes the whole database away.
    ///
    /// # Errors
    /// As [`Mend::stores`].
    pub(crate) fn whole(&self) -> Result<Mended> {
        let catalog = Catalog::read(self.kind, self.folder).ok().flatten();
        let stores: Vec<_> = catalog
            .iter()
            .flat_map(|catalog| catalog.entries.iter().cloned().map(NamedStore::from))
            .collect();
        let unknown = catalog.is_none() && self.may_hold_unlogged;
        let keep = unknown || stores.iter().any(|named| !self.is_logged_store(named));
        let to = if keep { self.aside() } else { wiped(self.folder) };
        delete(&wiped(self.folder))?;
        // ORDER: away in one step: half a database would be taken for somebody else's.
        fs::rename(self.folder, &to)
            .and_then(|()| self.folder.parent().map_or(Ok(()), sync_folder))
            .map_err(|error| io_failed(self.folder, "move what is damaged aside", error))?;
        if !keep {
            delete(&to)?;
        }
        Ok(Mended { stores, whole: true, kept: keep.then_some(to) })
    }

    fn aside(&self) -> PathBuf {
        self.folder.with_file_name(format!("{}.damaged-{}", self.kind, self.now))
    }

    fn is_logged_store(&self, named: &NamedStore) -> bool {
        named.changelog.unwrap_or_else(|| (self.is_logged)(named))
    }

    #[cfg(feature = "fjall")]
    fn find(&self, catalog: &Catalog) -> Result<Vec<(PathBuf, Option<Entry>)>> {
        if self.kind != EngineKind::Fjall {
            return Ok(Vec::new());
        }
        let data = self.folder.join("data");
        let found = crate::store::engine::fjall::look::damaged(&data, is_suspect(self.folder))?;
        let entry = |name: Option<String>| {
            let id: u32 = name?.parse().ok()?;
            catalog.entries.iter().find(|entry| entry.id == id).cloned()
        };
        Ok(found.into_iter().flatten().map(|(path, name)| (path, entry(name))).collect())
    }

    #[cfg(not(feature = "fjall"))]
    fn find(&self, _: &Catalog) -> Result<Vec<(PathBuf, Option<Entry>)>> {
        Ok(Vec::new())
    }
}

/// Where a database goes before it is deleted.
fn wiped(folder: &Path) -> PathBuf {
    let mut name = folder.file_name().unwrap_or_default().to_owned();
    name.push(".wiped");
    folder.with_file_name(name)
}

/// Deletes what is left of a database whose deletion was cut off.
pub(super) fn delete_wiped(folder: &Path) -> Result<()> {
    delete(&wiped(folder))
}

fn delete(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_failed(folder, "delete what is damaged", error))
        }
        _ => Ok(()),
    }
}
