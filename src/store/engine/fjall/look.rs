//! What is in the folder of a fjall database, found out without opening it: things that are somebody else's, what is
//! missing, and which keyspaces are damaged. fjall itself opens all of them or none, and does not say which one it was.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use fjall::{AbstractTree, AnyTree};
use lsm_tree::{Guard, SeqNo, SequenceNumberCounter};

use super::fault;
use crate::error::{ErrorClass, Result};
use crate::store::engine::fault::io_failed;

/// fjall's own keyspace: which names the others have.
const NAMES: &str = "0";

/// What is no file or folder of fjall's. It ends the process over some of these: it panics with a lock in hand, and panics
/// over that lock while it cleans up.
pub(in crate::store) fn foreign(data: &Path) -> io::Result<Option<PathBuf>> {
    let keyspaces = data.join("keyspaces");
    let own = |name: &str, folder: bool| match folder {
        true => name == "keyspaces",
        false => matches!(name, "version" | "lock") || name.ends_with(".jnl") || name.starts_with('.'),
    };
    if let Some(other) = other_than(data, own)? {
        return Ok(Some(other));
    }
    // A stray file there is passed over.
    if let Some(other) = other_than(&keyspaces, |name, folder| !folder || name.parse::<u64>().is_ok())? {
        return Ok(Some(other));
    }
    for keyspace in folders(&keyspaces)? {
        let own = |name: &str, folder: bool| !folder || matches!(name, "tables" | "blobs");
        let none = |_: &str, folder: bool| !folder;
        let found = match other_than(&keyspace, own)? {
            None => other_than(&keyspace.join("tables"), none)?,
            found => found,
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The first thing in a folder that a rule, asked with its name and whether it is a folder, does not know.
fn other_than(folder: &Path, own: impl Fn(&str, bool) -> bool) -> io::Result<Option<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        // It was being made, or deleted.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let is_folder = entry.file_type()?.is_dir();
        if !entry.file_name().to_str().is_some_and(|name| own(name, is_folder)) {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

fn folders(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// What fjall takes for a database without it, or for an empty keyspace. (The journal is empty, but without one fjall
/// numbers writes from the beginning, and old rows win.)
pub(super) fn missing(data: &Path) -> io::Result<Option<String>> {
    if !data.try_exists()? {
        return Ok(None);
    }
    if !data.join("version").try_exists()? {
        return Ok(Some("there is no version file".to_owned()));
    }
    if !data.join("keyspaces").join(NAMES).try_exists()? {
        return Ok(Some("nothing says which keyspaces there are".to_owned()));
    }
    let is_journal = |entry: &fs::DirEntry| entry.path().extension().is_some_and(|end| end == "jnl");
    if !fs::read_dir(data)?.collect::<io::Result<Vec<_>>>()?.iter().any(is_journal) {
        return Ok(Some("there is no journal".to_owned()));
    }
    for keyspace in folders(&data.join("keyspaces"))? {
        if is_cut(&keyspace)? {
            return Ok(Some(format!("{} has tables and does not say which", keyspace.display())));
        }
    }
    Ok(None)
}

/// fjall deletes a keyspace whose beginning was cut off; one that has tables was more than begun.
fn is_cut(keyspace: &Path) -> io::Result<bool> {
    let tables = keyspace.join("tables");
    if keyspace.join("current").try_exists()? || !tables.try_exists()? {
        return Ok(false);
    }
    Ok(fs::read_dir(&tables)?.next().is_some())
}

/// A keyspace that is damaged: its folder, and its name where there is one.
pub(in crate::store) type Damaged = (PathBuf, Option<String>);

/// The keyspaces that are damaged, as far as opening them shows it, or `deep` reading every row. `None` if it cannot be
/// known whose they are.
///
/// # Errors
/// Whatever is not damage: a disk that is full, files that may not be read.
pub(in crate::store) fn damaged(data: &Path, deep: bool) -> Result<Option<Vec<Damaged>>> {
    let read = |error| io_failed(data, "look for what is damaged", error);
    let names = data.join("keyspaces").join(NAMES);
    if !names.join("current").try_exists().map_err(read)? {
        return Ok(None);
    }
    let Some(names) = opened(&names, true)? else { return Ok(None) };
    let mut damaged = Vec::new();
    for keyspace in folders(&data.join("keyspaces")).map_err(read)? {
        let begun = keyspace.join("current").try_exists().map_err(read)?;
        let cut = is_cut(&keyspace).map_err(read)?;
        if !keyspace.ends_with(NAMES) && (cut || (begun && opened(&keyspace, deep)?.is_none())) {
            let name = name_of(&names, &keyspace)?;
            damaged.push((keyspace, name));
        }
    }
    Ok(Some(damaged))
}

fn name_of(names: &AnyTree, keyspace: &Path) -> Result<Option<String>> {
    let Some(number) = keyspace.file_name().and_then(|name| name.to_str()?.parse::<u64>().ok()) else {
        return Ok(None);
    };
    let key = [b"n", &number.to_be_bytes()[..]].concat();
    let name = names.get(key, SeqNo::MAX).map_err(|error| fault(keyspace, "read its name", error.into()))?;
    Ok(name.map(|name| String::from_utf8_lossy(&name).into_owned()))
}

/// All keyspaces with their names.
#[cfg(test)]
pub(in crate::store) fn named(data: &Path) -> Result<Vec<(PathBuf, String)>> {
    let keyspaces = data.join("keyspaces");
    let names = opened(&keyspaces.join(NAMES), true)?.expect("the names are sound");
    let folders = folders(&keyspaces).map_err(|error| io_failed(data, "look", error))?;
    let mut named = Vec::new();
    for keyspace in folders {
        if let Some(name) = name_of(&names, &keyspace)? {
            named.push((keyspace, name));
        }
    }
    Ok(named)
}

/// Opens a keyspace by itself, and reads all of it if it is to; `None` if it is damaged.
fn opened(keyspace: &Path, deep: bool) -> Result<Option<AnyTree>> {
    let open = || -> lsm_tree::Result<AnyTree> {
        let number = SequenceNumberCounter::default;
        let tree = lsm_tree::Config::new(keyspace, number(), number()).open()?;
        if deep {
            for row in tree.iter(SeqNo::MAX, None) {
                row.into_inner()?;
            }
        }
        Ok(tree)
    };
    // It panics over files that are not as it left them.
    match catch_unwind(AssertUnwindSafe(open)) {
        Ok(Ok(tree)) => Ok(Some(tree)),
        Ok(Err(error)) => {
            let error = fault(keyspace, "look for what is damaged", error.into());
            if error.class() == ErrorClass::CorruptTask { Ok(None) } else { Err(error) }
        }
        Err(_) => Ok(None),
    }
}
