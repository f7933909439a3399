//! Damage that an engine meets behind everybody's back, as fjall does when it merges tables: it takes no more writes then, and
//! does not say which store it is about. A note in the folder has the next one who opens the database read all rows.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Database, Disk};
use crate::error::{ErrorClass, Result};
use crate::store::engine::KeyRange;
use crate::store::engine::fault::io_failed;
use crate::task_id::TaskId;

const NOTE: &str = "suspect";

fn note(folder: &Path) -> PathBuf {
    folder.join(NOTE)
}

/// Leaves the note, given the folder of the engine's files.
#[cfg_attr(not(feature = "fjall"), allow(dead_code, reason = "other engines say what is damaged"))]
pub(in crate::store) fn suspect(data: &Path) {
    let Some(folder) = data.parent() else { return };
    let text = "The engine stopped taking writes; its log says why. The next start reads every row, and deletes the stores \
                that are damaged.\n";
    // On a full disk it stopped for that, and there is nothing to look for.
    if let Err(error) = fs::write(note(folder), text) {
        tracing::warn!(folder = %folder.display(), %error, "cannot note that the state has to be looked through");
    }
}

impl Database {
    /// If the engine stopped the last time: reads every row, and deletes the stores that are damaged. Names them.
    ///
    /// # Errors
    /// What reading and deleting say, but for damage.
    pub(crate) fn look_through(&self) -> Result<Vec<(TaskId, String)>> {
        let Some(disk) = &self.disk else { return Ok(Vec::new()) };
        let note = note(&disk.folder);
        if !note.exists() {
            return Ok(Vec::new());
        }
        tracing::warn!(folder = %disk.folder.display(), "the engine has stopped before: all rows are read");
        let entries = disk.stores().catalog.entries.clone();
        let mut damaged = Vec::new();
        for entry in entries {
            match read_all(disk, entry.task, &entry.store) {
                Err(error) if error.class() == ErrorClass::CorruptTask => {
                    self.drop_store(entry.task, &entry.store)?;
                    damaged.push((entry.task, entry.store));
                }
                read => read?,
            }
        }
        // ORDER: the note goes when everything that is damaged is gone.
        fs::remove_file(&note).map_err(|error| io_failed(&disk.folder, "delete a note", error))?;
        Ok(damaged)
    }
}

fn read_all(disk: &Disk, task: TaskId, store: &str) -> Result<()> {
    let engine = disk.opened(task, store, false)?.engine(0)?;
    engine.range(&KeyRange::ALL).try_for_each(|row| row.map(drop))
}
