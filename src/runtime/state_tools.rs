//! What `mainstem state` does with the folders of instances: list, verify and delete what is in them. An instance that runs
//! has its slot to itself; a slot that nobody holds is held here for as long as something is read or deleted.

use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::state_dir::{is_slot, lock};
use crate::changelog::checkpoint::Checkpoint;
use crate::changelog::facts::{Judge, Wanted};
use crate::changelog::verdict::{Reason, Verdict};
use crate::client::Cluster;
use crate::clock::SystemClock;
use crate::error::{Error, ErrorKind, Result};
use crate::record::{Timestamp, TopicPartition};
use crate::store::database::{Database, EngineKind, NamedStore};
use crate::store::engine::{Engine, KeyRange};
use crate::task_id::TaskId;

/// Nothing is read twice.
const CACHE_BYTES: u64 = 8 << 20;
const ENGINES: [EngineKind; 2] = [EngineKind::Fjall, EngineKind::Sled];

/// The folder of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Whose it is.
    pub application_id: String,
    /// `0`, `1` and so on, or `instance-` and a `group.instance.id`.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    home: PathBuf,
}

/// A slot that no instance takes as long as this lives.
#[derive(Debug)]
pub struct HeldSlot {
    slot: Slot,
    /// Unlocked when it is closed.
    _lock: File,
}

/// A store in a slot.
#[derive(Debug)]
pub struct StoreState {
    /// The task.
    pub task: TaskId,
    /// The store's name.
    pub store: String,
    /// What it takes on disk, where the engine knows.
    pub bytes: Option<u64>,
    /// When an instance was last known to use it, in ms since the Unix epoch.
    pub used_ms: Option<Timestamp>,
    /// Whether it has a changelog, if an instance has said so.
    pub changelog: Option<bool>,
    mark: Option<Bytes>,
}

/// Up to where a store holds its changelog, as far as its checkpoint says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreCheckpoint {
    /// There is none.
    Missing,
    /// The store has no changelog, so that nothing else has its rows.
    NoChangelog,
    /// Why it is not believed.
    Unreadable(String),
    /// A later release wrote it.
    Newer(String),
    /// It says this.
    Sound {
        /// The changelog.
        changelog: TopicPartition,
        /// Where reading it goes on.
        next_offset: i64,
        /// The leader epoch; -1 if none is known.
        leader_epoch: i32,
        /// When it was made, in ms since the Unix epoch.
        wall_ms: Timestamp,
    },
}

/// The slots below a `state.dir`, of one application or of all.
///
/// # Errors
/// [`ErrorKind::Config`] if there is no such folder, it cannot be read, or no slot is in it.
pub fn slots(state_dir: &Path, application_id: Option<&str>) -> Result<Vec<Slot>> {
    let slots = slots_if_any(state_dir, application_id)?;
    if slots.is_empty() {
        let text = format!(
            "{} holds no state of an instance: state.dir is the folder in which there is one folder an application.id",
            state_dir.display()
        );
        return Err(Error::new(ErrorKind::Config, text));
    }
    Ok(slots)
}

/// The same, where it is no mistake if there are none.
pub(super) fn slots_if_any(state_dir: &Path, application_id: Option<&str>) -> Result<Vec<Slot>> {
    let applications = match application_id {
        Some(id) if id.contains(['/', '\\']) || matches!(id, "" | "." | "..") => {
            let text =
                format!("{id:?} is no application.id: it would leave the folder {}", state_dir.display());
            return Err(Error::new(ErrorKind::Config, text));
        }
        Some(id) => vec![id.to_owned()],
        None => folders(state_dir)?,
    };
    let mut slots = Vec::new();
    for application_id in applications {
        let home = state_dir.join(&application_id);
        // Lock files make a folder one of ours.
        for name in folders(&home)?.into_iter().filter(|name| is_slot(name)) {
            if home.join(format!("{name}.lock")).is_file() {
                let (path, home) = (home.join(&name), home.clone());
                slots.push(Slot { application_id: application_id.clone(), name, path, home });
            }
        }
    }
    Ok(slots)
}

/// The names of the folders in a folder, in order.
fn folders(path: &Path) -> Result<Vec<String>> {
    let failed = |error| {
        let text = format!("state.dir: cannot read the folder {}", path.display());
        Error::new(ErrorKind::Config, text).because(error)
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir()
            && let Ok(name) = entry.file_name().into_string()
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

impl Slot {
    /// Keeps instances out of the slot; `None` if one that runs holds it.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] if its lock cannot be opened.
    pub fn hold(&self) -> Result<Option<HeldSlot>> {
        let held = lock(&self.home, &self.home, &self.name)?;
        Ok(held.map(|lock| HeldSlot { slot: self.clone(), _lock: lock }))
    }

    /// The error of whoever needs the slot while an instance holds it.
    pub fn is_held(&self) -> Error {
        let text = format!(
            "a running instance of {} holds the slot {} ({}): stop that instance first",
            self.application_id,
            self.name,
            self.path.display()
        );
        Error::new(ErrorKind::IllegalState, text)
    }

    /// The databases in it: the name of the engine, and the folder.
    pub fn databases(&self) -> Vec<(&'static str, PathBuf)> {
        let all = ENGINES.iter().map(|kind| (kind.name(), kind.folder(&self.path)));
        all.filter(|(_, folder)| folder.exists()).collect()
    }

    /// What was moved aside in it because it was damaged, and nothing else has it.
    pub fn moved_aside(&self) -> Vec<PathBuf> {
        let names = folders(&self.path.join("state")).unwrap_or_default();
        let aside = names.into_iter().filter(|name| name.contains(".damaged-"));
        aside.map(|name| self.path.join("state").join(name)).collect()
    }

    /// The stores that a database of it names, each with its task, by a file that may be read while an instance runs.
    ///
    /// # Errors
    /// [`ErrorKind::Store`] if the file is damaged or of a newer release.
    pub fn named(&self, engine: &str) -> Result<Vec<(TaskId, String, Option<Timestamp>)>> {
        let kind = kind(engine)?;
        let named = Database::named(kind, &kind.folder(&self.path))?.unwrap_or_default();
        Ok(named.into_iter().map(|NamedStore { task, store, used_ms, .. }| (task, store, used_ms)).collect())
    }
}

fn kind(engine: &str) -> Result<EngineKind> {
    let known = ENGINES.into_iter().find(|kind| kind.name() == engine);
    known.ok_or_else(|| Error::new(ErrorKind::Config, format!("there is no engine {engine:?}")))
}

/// A database of a slot that is held.
pub struct OpenDatabase<'a> {
    database: Arc<Database>,
    folder: PathBuf,
    _held: &'a HeldSlot,
}

impl std::fmt::Debug for OpenDatabase<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenDatabase").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl HeldSlot {
    /// Opens the database of an engine.
    ///
    /// # Errors
    /// [`ErrorKind::Store`], with the folder and the remedy.
    pub fn open(&self, engine: &str) -> Result<OpenDatabase<'_>> {
        let kind = kind(engine)?;
        let folder = kind.folder(&self.slot.path);
        let database = Arc::new(Database::open(kind, &folder, CACHE_BYTES)?);
        Ok(OpenDatabase { database, folder, _held: self })
    }

    /// Deletes the slot: all its stores, and the process id in it.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] if that fails; what is left may be deleted again.
    pub fn delete(self) -> Result<()> {
        let path = &self.slot.path;
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let text = format!("state.dir: {} cannot be deleted", path.display());
                Err(Error::new(ErrorKind::Config, text).because(error))
            }
            _ => Ok(()),
        }
    }
}

impl OpenDatabase<'_> {
    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// All its stores, those too that no topology names any more.
    ///
    /// # Errors
    /// [`ErrorKind::Store`], with the folder and the remedy.
    pub fn stores(&self) -> Result<Vec<StoreState>> {
        let stores = guarded(&self.folder, || self.database.stores())?;
        let mut stores: Vec<_> = stores
            .into_iter()
            .map(|s| StoreState {
                task: s.task,
                store: s.store,
                bytes: s.bytes,
                used_ms: s.used_ms,
                changelog: s.changelog,
                mark: s.mark,
            })
            .collect();
        stores.sort_by(|a, b| (a.task, &a.store).cmp(&(b.task, &b.store)));
        Ok(stores)
    }

    /// Reads every row of a store, and says how many there are.
    ///
    /// # Errors
    /// [`ErrorKind::Store`], with what is damaged, and the remedy.
    pub fn verify(&self, store: &StoreState) -> Result<u64> {
        guarded(&self.folder, || {
            let engine = self.database.open_store(store.task, &store.store, 1)?;
            let rows = count_rows(&*engine).map_err(|error| self.damaged(store, error))?;
            match store.checkpoint() {
                StoreCheckpoint::Unreadable(why) => {
                    Err(self.damaged(store, Error::new(ErrorKind::Store, why)))
                }
                _ => Ok(rows),
            }
        })
    }

    fn damaged(&self, store_state: &StoreState, cause: Error) -> Error {
        let StoreState { task, store, .. } = store_state;
        let then = match store_state.changelog {
            Some(false) => "it begins empty, because nothing else has its rows",
            _ => "it is restored from its changelog",
        };
        let text = format!(
            "the store {store} of task {task} in {} is damaged: delete it (`mainstem state rm`), and {then}",
            self.folder.display()
        );
        Error::new(ErrorKind::Store, text).with_class(cause.class()).because(cause)
    }

    /// Deletes a store.
    ///
    /// # Errors
    /// [`ErrorKind::Store`], with the folder and the remedy.
    pub fn delete(&self, store: &StoreState) -> Result<()> {
        guarded(&self.folder, || self.database.drop_store(store.task, &store.store))
    }
}

/// Engines panic over files that are not as they left them.
fn guarded<T>(folder: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        let text = format!(
            "state.dir: the engine panicked over what is in {}: delete the folder, and the state is rebuilt from the \
             changelogs (all but that of stores without one)",
            folder.display()
        );
        Err(Error::new(ErrorKind::Store, text))
    })
}

fn count_rows(engine: &dyn Engine) -> Result<u64> {
    let mut before: Option<Bytes> = None;
    let mut count = 0;
    for row in engine.range(&KeyRange::ALL) {
        let (key, _) = row?;
        if before.is_some_and(|before| before >= key) {
            return Err(Error::new(ErrorKind::Store, format!("row {count} is not behind the one before it")));
        }
        before = Some(key);
        count += 1;
    }
    Ok(count)
}

impl StoreState {
    /// What its checkpoint says.
    pub fn checkpoint(&self) -> StoreCheckpoint {
        if self.changelog == Some(false) {
            return StoreCheckpoint::NoChangelog;
        }
        let Some(mark) = &self.mark else { return StoreCheckpoint::Missing };
        match Checkpoint::decode(mark) {
            Ok(Checkpoint { origin, next_offset, leader_epoch, wall_ms, .. }) => {
                StoreCheckpoint::Sound { changelog: origin.at, next_offset, leader_epoch, wall_ms }
            }
            Err(reason @ Reason::NewerFormat { .. }) => StoreCheckpoint::Newer(reason.to_string()),
            Err(reason) => StoreCheckpoint::Unreadable(reason.to_string()),
        }
    }

    /// What an instance would make of the store today, in words: `resume`, `wipe` with the reason, or `keep` if it has no
    /// changelog. What the rows mean is
    /// taken on trust: only the topology knows.
    ///
    /// # Errors
    /// When the brokers do not say what their log has.
    pub async fn judge(&self, cluster: &Cluster, application_id: &str) -> Result<String> {
        if self.changelog == Some(false) {
            return Ok("keep: it has no changelog, and nothing else has its rows".to_owned());
        }
        let checkpoint = self.mark.as_deref().and_then(|mark| Checkpoint::decode(mark).ok());
        let Some(Checkpoint { origin, .. }) = checkpoint else {
            return Ok(match self.checkpoint() {
                StoreCheckpoint::Missing => "wipe: it has no checkpoint".to_owned(),
                StoreCheckpoint::Unreadable(why) | StoreCheckpoint::Newer(why) => format!("wipe: {why}"),
                StoreCheckpoint::Sound { .. } | StoreCheckpoint::NoChangelog => "wipe".to_owned(),
            });
        };
        let judge = Judge::new(cluster, application_id, Arc::new(SystemClock));
        let wanted = Wanted { at: origin.at, fingerprint: origin.fingerprint, mark: self.mark.clone() };
        let judged = judge.judge(&[wanted]).await?;
        Ok(judged.into_iter().next().map_or_else(String::new, |judged| match judged.verdict {
            Verdict::Resume(start) => {
                let left = judged.facts.end.saturating_sub(start.offset);
                format!("resume at offset {}, {left} offsets before the end", start.offset)
            }
            Verdict::Distrust(reason, _) => format!("wipe: {reason}"),
        }))
    }
}
