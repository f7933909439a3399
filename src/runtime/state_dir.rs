//! The folder of an instance: `<state.dir>/<application.id>/<slot>`, taken under a lock, with the process id in it.
//!
//! Kafka Streams lets one process have `<state.dir>/<application.id>` and refuses the second (`StateDirectory`). Here an
//! instance takes the first slot that nobody holds, so that several of one application live side by side on a host, and
//! one that comes back after a restart, or after SIGKILL, finds the slot and is the same process to the group again. The
//! lock is the operating system's: it ends with the process, however that ends. A static member has the slot of its
//! `group.instance.id`, because that is who it is.
//!
//! Lock files stand beside the slots and are never deleted: whoever opened one before it was unlinked would hold a lock
//! that nobody else sees.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::config::{Config, Role};
use crate::error::{Error, ErrorKind, Result};
use crate::topology::Topology;

/// The version of the process file that this build writes, and the newest it reads.
const VERSION: u8 = 1;
const PROCESS_FILE: &str = "process.json";
/// More instances of one application than a host has.
const MAX_SLOTS: usize = 1024;

/// What is known of an instance across restarts (`kafka-streams-process-metadata` in Kafka Streams).
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProcessFile {
    version: u8,
    application_id: String,
    process_id: String,
}

/// Who an instance is to its group, and the folder that remembers it for as long as this value lives.
#[derive(Debug)]
pub(super) struct Identity {
    /// The same after a restart.
    pub(super) process_id: Uuid,
    /// The folder itself, if anything is kept.
    pub(super) slot: Option<PathBuf>,
    /// Unlocked when it is closed.
    _lock: Option<File>,
}

impl Identity {
    /// An application without state has nothing to come back to: nothing is written, and it is new at every start.
    ///
    /// # Errors
    /// As [`Identity::kept`].
    pub(super) fn of(config: &Config, topology: &Topology) -> Result<Self> {
        let stateful = topology.inner.subtopologies.iter().any(|part| !part.stores().is_empty());
        if stateful || config.is_exactly_once() {
            return Self::kept(config);
        }
        Ok(Self { process_id: static_process(config).unwrap_or_else(Uuid::new_v4), slot: None, _lock: None })
    }

    /// Takes a slot, and makes what is missing.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] if `state.dir` cannot be written, if its process file is broken or another application's, or
    /// if another instance holds the slot of the same `group.instance.id`.
    fn kept(config: &Config) -> Result<Self> {
        let (base, application_id) = (config.state_dir(), config.application_id());
        let home = base.join(application_id);
        make_dir(base, &home)?;
        let (name, lock) = match config.consumer(Role::Main).group_instance_id() {
            Some(id) => {
                let name = static_slot(id);
                let lock = lock(base, &home, &name)?.ok_or_else(|| {
                    let slot = home.join(&name);
                    let text = format!(
                        "a running instance holds {}: give each instance a group.instance.id of its own",
                        slot.display()
                    );
                    Error::new(ErrorKind::Config, text)
                })?;
                (name, lock)
            }
            None => first_free(base, &home)?,
        };
        let path = home.join(name);
        make_dir(base, &path)?;
        let known = read_process(&path.join(PROCESS_FILE), application_id)?;
        let process_id = static_process(config).or(known).unwrap_or_else(Uuid::new_v4);
        if known != Some(process_id) {
            write_process(&path, application_id, process_id).map_err(|error| unusable(base, &path, error))?;
        }
        tracing::info!(slot = %path.display(), process = %process_id, "state directory");
        Ok(Self { process_id, slot: Some(path), _lock: Some(lock) })
    }
}

/// A static member is who its `group.instance.id` says, on whatever host it comes back.
fn static_process(config: &Config) -> Option<Uuid> {
    let id = config.consumer(Role::Main).group_instance_id()?.as_bytes();
    Some(Uuid::from_u64_pair(fnv(id, 1), fnv(id, 2)))
}

/// FNV-1a.
fn fnv(bytes: &[u8], seed: u64) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325 ^ seed, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Deletes every slot of the application that no running instance holds, process ids included
/// (`KafkaStreams.cleanUp`). What belongs to an instance that runs is left alone.
pub(super) fn clean_up(config: &Config) -> Result<()> {
    let (base, home) = (config.state_dir(), config.state_dir().join(config.application_id()));
    let entries = match fs::read_dir(&home) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unusable(base, &home, error)),
    };
    for entry in entries {
        let entry = entry.map_err(|error| unusable(base, &home, error))?;
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let Some(name) = entry.file_name().to_str().filter(|name| is_dir && is_slot(name)).map(str::to_owned)
        else {
            continue;
        };
        // Held until the slot is gone, so that nobody takes it half deleted.
        let Some(_held) = lock(base, &home, &name)? else {
            tracing::info!(slot = %entry.path().display(), "not cleaned up: a running instance holds it");
            continue;
        };
        fs::remove_dir_all(entry.path()).map_err(|error| unusable(base, &entry.path(), error))?;
        tracing::info!(slot = %entry.path().display(), "cleaned up");
    }
    Ok(())
}

/// Ids may be any text; what is no plain file name is written byte by byte.
fn static_slot(id: &str) -> String {
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-');
    let mut name = "instance-".to_owned();
    for byte in id.bytes() {
        if plain(byte) {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("%{byte:02x}"));
        }
    }
    name
}

/// Whether a folder is one of ours: nothing else is ever deleted.
pub(super) fn is_slot(name: &str) -> bool {
    name.starts_with("instance-") || (!name.is_empty() && name.bytes().all(|c| c.is_ascii_digit()))
}

/// Makes a folder and those above it, closed to strangers.
fn make_dir(base: &Path, path: &Path) -> Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o750);
    builder.create(path).map_err(|error| unusable(base, path, error))
}

fn first_free(base: &Path, home: &Path) -> Result<(String, File)> {
    for slot in 0..MAX_SLOTS {
        let name = slot.to_string();
        if let Some(lock) = lock(base, home, &name)? {
            return Ok((name, lock));
        }
    }
    Err(Error::new(
        ErrorKind::Config,
        format!("all {MAX_SLOTS} slots of {} are held by running instances", home.display()),
    ))
}

/// The lock of a slot; `None` if somebody holds it.
pub(super) fn lock(base: &Path, home: &Path, slot: &str) -> Result<Option<File>> {
    let path = home.join(format!("{slot}.lock"));
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| unusable(base, &path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(unusable(base, &path, error)),
    }
}

fn read_process(path: &Path, application_id: &str) -> Result<Option<Uuid>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            let text = format!("state.dir: cannot read {}", path.display());
            return Err(Error::new(ErrorKind::Config, text).because(error));
        }
    };
    parse_process(path, application_id, &text).map(Some)
}

/// Reads the text of a process file; `path` is for errors.
pub(super) fn parse_process(path: &Path, application_id: &str, text: &[u8]) -> Result<Uuid> {
    let wrong = |what: String| {
        let text = format!(
            "state.dir: {} {what}; set another state.dir, or delete the folder that it is in if nobody uses it",
            path.display()
        );
        Error::new(ErrorKind::Config, text)
    };
    let cut = |error| {
        let text = format!(
            "state.dir: {} is cut off or damaged: delete this file alone, and the instance gets a new process id; its state stays",
            path.display()
        );
        Error::new(ErrorKind::Config, text).because(error)
    };
    // The version first: another one may have other fields.
    let value: serde_json::Value = serde_json::from_slice(text).map_err(cut)?;
    match value.get("version").and_then(serde_json::Value::as_u64) {
        Some(version) if version > u64::from(VERSION) => {
            return Err(wrong(format!(
                "has version {version}, of which nothing is known: a newer release wrote it"
            )));
        }
        _ => {}
    }
    let file: ProcessFile = serde_json::from_value(value)
        .map_err(|error| wrong("is not the process file of an instance".to_owned()).because(error))?;
    if file.application_id != application_id {
        return Err(wrong(format!(
            "belongs to the application {}, and not to {application_id}",
            file.application_id
        )));
    }
    Uuid::parse_str(&file.process_id)
        .map_err(|error| wrong(format!("names the process {:?}", file.process_id)).because(error))
}

/// Written beside and renamed, so that there is a whole file or none.
fn write_process(dir: &Path, application_id: &str, process_id: Uuid) -> io::Result<()> {
    let file = ProcessFile {
        version: VERSION,
        application_id: application_id.to_owned(),
        process_id: process_id.to_string(),
    };
    let new = dir.join(format!("{PROCESS_FILE}.new"));
    let mut out = File::create(&new)?;
    out.write_all(&serde_json::to_vec(&file)?)?;
    // ORDER: on the disk before it has its name.
    out.sync_all()?;
    fs::rename(new, dir.join(PROCESS_FILE))
}

fn unusable(base: &Path, path: &Path, error: io::Error) -> Error {
    Error::new(
        ErrorKind::Config,
        format!(
            "state.dir={} cannot be used: {} cannot be made or written; set state.dir to a folder that this process may \
             write",
            base.display(),
            path.display()
        ),
    )
    .because(error)
}

#[cfg(test)]
mod tests;
