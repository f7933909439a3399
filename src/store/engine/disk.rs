//! What the engines on disk have in common: who may write into a store, and that a handle is one of several.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::raw::{self, MARK, RawRead};
use super::{Engine, EngineRead, KeyRange, Rows, SortedRun};
use crate::error::{Error, ErrorClass, ErrorKind, Result};

/// The file beside a database that says that its engine has stopped, perhaps over damage that it did not name.
pub(in crate::store) const SUSPECT: &str = "suspect";

/// Notes it for the next start, which reads every row.
#[cfg_attr(not(feature = "fjall"), allow(dead_code, reason = "sled names what is damaged"))]
pub(super) fn suspect(data: &Path) {
    if let Some(folder) = data.parent() {
        // The disk may be full: then it is no damage.
        let _ = fs::write(folder.join(SUSPECT), "");
    }
}

/// A database of an engine.
pub(in crate::store) trait Backend: Send + Sync {
    /// Opens the tree of a store, and makes it if there is none.
    fn open(&self, id: u32, title: String) -> Result<Arc<dyn OpenStore>>;

    /// The trees that there are.
    fn ids(&self) -> Vec<u32>;

    /// Deletes a tree that nobody has open.
    fn delete(&self, id: u32) -> Result<()>;
}

/// A store that is open, for the database.
pub(in crate::store) trait OpenStore: Send + Sync {
    /// A handle that may write until there is one of a later tenure.
    fn engine(self: Arc<Self>, tenure: u64) -> Result<Box<dyn Engine>>;

    /// Ends all handles.
    fn end(&self);

    fn mark(&self) -> Result<Option<Bytes>>;

    /// What it takes on disk, in bytes; `None` if it shares its files with others.
    #[cfg_attr(
        not(any(feature = "cli", feature = "testing")),
        allow(dead_code, reason = "for tools and tests")
    )]
    fn bytes(&self) -> Option<u64>;

    /// Whether somebody found its files damaged since it was opened.
    fn is_damaged(&self) -> bool;
}

/// One tree of an engine on disk.
pub(super) trait Tree: RawRead + Sized + 'static {
    type Snapshot: RawRead + 'static;

    /// See [`Engine::apply`]. `watched`: somebody else may read meanwhile, or has a snapshot.
    fn apply(&self, run: &SortedRun, mark: Option<&[u8]>, watched: bool) -> Result<()>;

    fn snapshot(store: &Arc<Store<Self>>) -> Self::Snapshot;

    #[cfg_attr(
        not(any(feature = "cli", feature = "testing")),
        allow(dead_code, reason = "for tools and tests")
    )]
    fn bytes(&self) -> Option<u64>;

    /// See [`OpenStore::is_damaged`].
    fn is_damaged(&self) -> bool;

    /// Waits until what was written is in order again, within limits.
    fn catch_up(&self) {}
}

/// A tree, and who may write into it.
pub(super) struct Store<T> {
    pub(super) tree: T,
    /// Whose it is, for errors.
    title: String,
    /// Locked for as long as a run is applied, and so that nobody who opens the store can overtake one.
    tenure: Mutex<u64>,
}

impl<T: Tree> Store<T> {
    pub(super) fn new(tree: T, title: String) -> Arc<Self> {
        Arc::new(Self { tree, title, tenure: Mutex::new(0) })
    }

    fn tenure(&self) -> MutexGuard<'_, u64> {
        self.tenure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fenced(&self, tenure: u64, now: u64) -> Error {
        let text = format!("{} has another owner by now (tenure {now}, not {tenure})", self.title);
        Error::new(ErrorKind::Store, text).with_class(ErrorClass::FencedLease)
    }
}

impl<T: Tree> OpenStore for Store<T> {
    fn engine(self: Arc<Self>, tenure: u64) -> Result<Box<dyn Engine>> {
        let mut now = self.tenure();
        if tenure < *now {
            return Err(self.fenced(tenure, *now));
        }
        *now = tenure;
        drop(now);
        Ok(Box::new(Handle { store: self, tenure }))
    }

    fn end(&self) {
        *self.tenure() = u64::MAX;
    }

    fn mark(&self) -> Result<Option<Bytes>> {
        self.tree.get_row(MARK)
    }

    fn bytes(&self) -> Option<u64> {
        self.tree.bytes()
    }

    fn is_damaged(&self) -> bool {
        self.tree.is_damaged()
    }
}

/// A handle on a store.
struct Handle<T> {
    store: Arc<Store<T>>,
    tenure: u64,
}

impl<T: Tree> EngineRead for Handle<T> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        raw::get(&self.store.tree, key)
    }

    fn range<'a>(&'a self, range: &KeyRange) -> Rows<'a> {
        raw::range(&self.store.tree, range)
    }

    fn approximate_len(&self) -> u64 {
        self.store.tree.approximate_rows()
    }
}

impl<T: Tree> Engine for Handle<T> {
    fn apply(&mut self, run: &SortedRun, mark: Option<&[u8]>) -> Result<()> {
        if run.is_empty() && mark.is_none() {
            return Ok(());
        }
        // ORDER: nobody waits for the lock while this waits for the disk.
        self.store.tree.catch_up();
        let tenure = self.store.tenure();
        if *tenure != self.tenure {
            return Err(self.store.fenced(self.tenure, *tenure));
        }
        // The database has one reference, and this handle. Whoever has none can get none without the lock.
        let watched = Arc::strong_count(&self.store) > 2;
        self.store.tree.apply(run, mark, watched)
    }

    fn mark(&self) -> Result<Option<Bytes>> {
        OpenStore::mark(&*self.store)
    }

    fn writer(&self) -> Option<Box<dyn Engine>> {
        Some(Box::new(Self { store: self.store.clone(), tenure: self.tenure }))
    }

    fn snapshot(&self) -> Arc<dyn EngineRead + Send + Sync> {
        Arc::new(Snapshot(T::snapshot(&self.store)))
    }
}

/// A store as it was.
struct Snapshot<S>(S);

impl<S: RawRead> EngineRead for Snapshot<S> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        raw::get(&self.0, key)
    }

    fn range<'a>(&'a self, range: &KeyRange) -> Rows<'a> {
        raw::range(&self.0, range)
    }

    fn approximate_len(&self) -> u64 {
        self.0.approximate_rows()
    }
}

/// A step of an apply is about to be done: tests end the process here, or take an image of what it would leave.
#[cfg(not(test))]
pub(super) fn step(name: &'static str) {
    crate::store::faults::at(name);
}

#[cfg(test)]
pub(super) use steps::step;

#[cfg(test)]
pub(in crate::store) mod steps {
    use std::cell::RefCell;

    type Hook = Box<dyn FnMut(&'static str)>;

    thread_local! {
        static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
    }

    pub(in crate::store) fn step(name: &'static str) {
        HOOK.with_borrow_mut(|hook| {
            if let Some(hook) = hook {
                hook(name);
            }
        });
    }

    /// Calls `hook` at every step of this thread until the guard is dropped.
    pub(in crate::store) fn watch(hook: impl FnMut(&'static str) + 'static) -> Watching {
        HOOK.set(Some(Box::new(hook)));
        Watching
    }

    pub(in crate::store) struct Watching;

    impl Drop for Watching {
        fn drop(&mut self) {
            HOOK.set(None);
        }
    }
}
