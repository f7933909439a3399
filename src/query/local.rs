//! Which stores are here: entered by the worker that runs a task, left when it gives the task up, looked up by every read.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::rc::Rc;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use crate::config::IsolationLevel;
use crate::error::{Error, ErrorClass, ErrorKind, Result};
use crate::store::visible::{Unseen, Visible};
use crate::store::{AnyStore, View};
use crate::task_id::TaskId;

/// How long a read waits for a worker that has never been asked for the store before.
const PATIENCE: Duration = Duration::from_secs(5);

/// How far an application is, as far as queries care.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Phase {
    #[default]
    Created,
    Started,
    Ended,
}

/// The stores of a task, by name.
type OfTask = Arc<Vec<(Arc<str>, Arc<Visible>)>>;

#[derive(Default)]
struct Inner {
    phase: Phase,
    /// The stores that there is a handle on, and what of them it reads.
    wanted: HashSet<(Arc<str>, IsolationLevel)>,
    /// Whether the group has said whose the tasks are.
    assigned: bool,
    /// The tasks that are this instance's, and the worker of each that runs.
    placed: BTreeMap<TaskId, Option<u64>>,
    /// Where the tasks of the whole group are, as far as their instances say where they answer.
    owners: HashMap<TaskId, Arc<str>>,
    /// By task and worker: one that was left behind may still hold a task that another worker runs by now.
    running: HashMap<(TaskId, u64), OfTask>,
}

/// The stores of this instance's tasks.
pub(crate) struct LocalStores {
    inner: RwLock<Inner>,
    /// Makes idle workers look whether there is a store to publish.
    wake: Box<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for LocalStores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalStores").field("placed", &self.read().placed).finish_non_exhaustive()
    }
}

/// A store that a handle reads.
pub(super) struct Wanted<'a> {
    pub(super) name: &'a str,
    pub(super) subtopology: i32,
    /// One of its partitions, or all that are here.
    pub(super) partition: Option<i32>,
    /// Do without the tasks that do not run yet.
    pub(super) stale: bool,
    /// What is committed, or all that was published.
    pub(super) level: IsolationLevel,
}

impl LocalStores {
    pub(crate) fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self { inner: RwLock::default(), wake: Box::new(wake) }
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.write().phase = phase;
    }

    /// What is this instance's, with the number of the worker of each task that runs, and whether the group has said so.
    pub(crate) fn set_placed(&self, assigned: bool, tasks: impl Iterator<Item = (TaskId, Option<u64>)>) {
        let placed = tasks.collect();
        let inner = &mut *self.write();
        (inner.assigned, inner.placed) = (assigned, placed);
    }

    /// Where the tasks of the whole group are; an instance that does not say where it answers has an empty name.
    pub(crate) fn set_owners(&self, owners: impl Iterator<Item = (TaskId, Arc<str>)>) {
        let owners = owners.collect();
        self.write().owners = owners;
    }

    /// A task's stores are complete and can be read from now on, until what this returns is dropped. `worker` is whoever
    /// runs the task, by a number that no other has.
    pub(crate) fn enter(
        self: &Arc<Self>,
        id: TaskId,
        worker: u64,
        stores: &[Rc<dyn AnyStore>],
    ) -> Registered {
        let stores = stores.iter().map(|store| (store.name().clone(), store.visible().clone()));
        let stores: OfTask = Arc::new(stores.collect());
        let mut inner = self.write();
        for (name, level) in &inner.wanted {
            stores
                .iter()
                .filter(|(store, _)| store == name)
                .for_each(|(_, visible)| visible.face(*level).want());
        }
        inner.running.insert((id, worker), stores.clone());
        drop(inner);
        Registered { local: self.clone(), at: (id, worker), stores }
    }

    /// There is a handle on a store: it is published from now on.
    pub(super) fn want(&self, store: &Arc<str>, level: IsolationLevel) {
        let mut inner = self.write();
        if !inner.wanted.insert((store.clone(), level)) {
            return;
        }
        for (_, visible) in
            inner.running.values().flat_map(|stores| &**stores).filter(|(name, _)| name == store)
        {
            visible.face(level).want();
        }
        drop(inner);
        (self.wake)();
    }

    /// The store as the tasks that are here published it last, in the order of their ids.
    pub(super) fn views(&self, wanted: &Wanted<'_>) -> Result<Vec<Arc<View>>> {
        let found = self.read().find(wanted)?;
        found
            .into_iter()
            .map(|(task, visible)| {
                visible.face(wanted.level).view(PATIENCE).map_err(|e| unseen(wanted, task, e))
            })
            .collect()
    }
}

impl Inner {
    fn find(&self, wanted: &Wanted<'_>) -> Result<Vec<(TaskId, Arc<Visible>)>> {
        let &Wanted { name, subtopology, partition, stale, .. } = wanted;
        match self.phase {
            Phase::Started => {}
            Phase::Created => {
                let text =
                    format!("the store {name} cannot be read yet: run the application, then ask again");
                return Err(Error::new(ErrorKind::NotStarted, text).with_class(ErrorClass::Retriable));
            }
            Phase::Ended => {
                let text = format!(
                    "the store {name} cannot be read any more: the application has ended, or is about to"
                );
                return Err(Error::new(ErrorKind::Closed, text));
            }
        }
        let all = TaskId { subtopology, partition: 0 }..=TaskId { subtopology, partition: i32::MAX };
        let of_store =
            self.placed.range(all).filter(|(task, _)| partition.is_none_or(|p| p == task.partition));
        let (mut here, mut waiting, mut any) = (Vec::new(), Vec::new(), false);
        // What runs here and is not placed so is somebody else's by now, and is not looked at.
        for (task, worker) in of_store {
            any = true;
            let stores = worker.and_then(|worker| self.running.get(&(*task, worker)));
            match stores.and_then(|stores| stores.iter().find(|(store, _)| **store == *name)) {
                Some((_, visible)) => here.push((*task, visible.clone())),
                None => waiting.push(task.to_string()),
            }
        }
        if waiting.is_empty() && any || stale && !here.is_empty() {
            return Ok(here);
        }
        if any || !self.assigned {
            return Err(rebalancing(name, &waiting));
        }
        Err(self.elsewhere(wanted))
    }

    /// None of what is asked for is this instance's.
    fn elsewhere(&self, wanted: &Wanted<'_>) -> Error {
        let &Wanted { name, subtopology, partition, .. } = wanted;
        let mut known: Vec<_> =
            self.owners.iter().filter(|(task, _)| task.subtopology == subtopology).collect();
        known.sort();
        if let Some(asked) = partition
            && !known.is_empty()
            && !known.iter().any(|(task, _)| task.partition == asked)
        {
            let known: Vec<String> = known.iter().map(|(task, _)| task.partition.to_string()).collect();
            let text =
                format!("the store {name} has no partition {asked}; the group has: {}", known.join(", "));
            return Error::new(ErrorKind::UnknownStore, text).at_partition(asked);
        }
        let has_it = |task: &TaskId| partition.is_none_or(|p| p == task.partition);
        let owners: BTreeSet<&str> =
            known.iter().filter(|(task, _)| has_it(task)).map(|(_, owner)| &***owner).collect();
        let named: Vec<&str> = owners.iter().copied().filter(|owner| !owner.is_empty()).collect();
        let ask = match (owners.is_empty(), named.is_empty()) {
            (true, _) => "no instance has it; start one, or add a worker".to_owned(),
            (_, true) => {
                "ask the instance that has it (set application.server on all instances to have it named)"
                    .to_owned()
            }
            _ => format!("ask {}", named.join(", ")),
        };
        let text = match partition {
            Some(_) => format!("the partition of the store {name} is on another instance: {ask}"),
            None => format!("no partition of the store {name} is on this instance: {ask}"),
        };
        let error = Error::new(ErrorKind::Moved, text);
        if let Some(partition) = partition { error.at_partition(partition) } else { error }
    }
}

fn rebalancing(name: &str, waiting: &[String]) -> Error {
    let what = match waiting {
        [] => "the group has not said yet whose its tasks are".to_owned(),
        tasks => format!("restoring the tasks {}", tasks.join(", ")),
    };
    let text = format!(
        "the store {name} is not complete yet ({what}): ask again in a moment, or do without with enable_stale_stores()"
    );
    Error::new(ErrorKind::Rebalancing, text).with_class(ErrorClass::Retriable)
}

fn unseen(wanted: &Wanted<'_>, task: TaskId, why: Unseen) -> Error {
    match why {
        Unseen::Closed => rebalancing(wanted.name, &[task.to_string()]),
        Unseen::NotYet => {
            let text = format!(
                "the worker of task {task} has not come round to showing the store {} for {PATIENCE:?}: it is busy with one \
                 record; ask again",
                wanted.name
            );
            Error::new(ErrorKind::Timeout, text).with_class(ErrorClass::Retriable)
        }
    }
}

/// A task whose stores can be read, until this is dropped.
pub(crate) struct Registered {
    local: Arc<LocalStores>,
    at: (TaskId, u64),
    stores: OfTask,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut inner = self.local.write();
        inner.running.remove(&self.at);
        drop(inner);
        self.stores.iter().for_each(|(_, visible)| visible.close());
    }
}
