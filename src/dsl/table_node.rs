//! What the operators of tables know of each other while a topology is drawn: who must send old values, who keeps rows, and
//! how the rows of a table are read where they are not kept
//! (`org.apache.kafka.streams.kstream.internals.KTableProcessorSupplier`, `KTableValueGetterSupplier`).

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use super::ops::table_store::TableStore;
use crate::error::{BoxError, Result};
use crate::record::Timestamp;
use crate::task::TaskCx;
use crate::task::blueprint::BuildCx;

/// What is decided about a table after its operator was drawn, by those drawn behind it. Its node reads it when it is built.
#[derive(Debug, Default)]
pub(crate) struct TableSettings {
    store: OnceLock<Arc<str>>,
    send_old: AtomicBool,
    versioned_semantics: AtomicBool,
}

impl TableSettings {
    /// Those of a table that is kept from the start, or not kept.
    pub(crate) fn new(store: Option<Arc<str>>) -> Arc<Self> {
        let settings = Self::default();
        if let Some(store) = store {
            settings.keep(store);
        }
        Arc::new(settings)
    }

    /// The store that keeps the table, if it is kept.
    pub(crate) fn store(&self) -> Option<&Arc<str>> {
        self.store.get()
    }

    /// Keeps the table in a store of that name; the first name holds.
    pub(crate) fn keep(&self, store: Arc<str>) {
        let _ = self.store.set(store);
    }

    /// Whether a change says what the row was before.
    pub(crate) fn sends_old(&self) -> bool {
        self.send_old.load(Relaxed)
    }

    /// Makes every change say what the row was before.
    pub(crate) fn send_old(&self) {
        self.send_old.store(true, Relaxed);
    }

    /// Whether changes that are not the latest of their key are passed over, and repeated deletions are not (KIP-914).
    pub(crate) fn has_versioned_semantics(&self) -> bool {
        self.versioned_semantics.load(Relaxed)
    }

    /// The table upstream is versioned (`VersionedSemanticsGraphNode.enableVersionedSemantics`).
    pub(crate) fn use_versioned_semantics(&self) {
        self.versioned_semantics.store(true, Relaxed);
    }
}

/// Reads rows of a table (`KTableValueGetter`).
pub(crate) trait TableGetter<K, V> {
    /// The row of a key.
    fn get(&mut self, key: &K, cx: &mut TaskCx) -> Result<Option<(V, Timestamp)>, BoxError>;

    /// The row that a key had at a time; of a table without versions the row that it has.
    fn get_as_of(
        &mut self,
        key: &K,
        _at: Timestamp,
        cx: &mut TaskCx,
    ) -> Result<Option<(V, Timestamp)>, BoxError> {
        self.get(key, cx)
    }

    /// Whether it knows rows of the past.
    fn is_versioned(&self) -> bool {
        false
    }
}

/// Makes the getter of a task's table.
pub(crate) type MakeGetter<K, V> =
    Arc<dyn Fn(&mut BuildCx<'_>) -> Result<Box<dyn TableGetter<K, V>>> + Send + Sync>;

/// How a table is read: through which stores, and how (`KTableValueGetterSupplier`).
pub(crate) struct View<K, V> {
    /// Who reads the table must be connected to these.
    pub(crate) stores: Vec<Arc<str>>,
    pub(crate) make: MakeGetter<K, V>,
}

impl<K: Clone + 'static, V: Clone + 'static> View<K, V> {
    /// Reads the rows of a store.
    pub(crate) fn of_store(name: Arc<str>) -> Self {
        let store = name.clone();
        Self {
            stores: vec![name],
            make: Arc::new(move |cx| Ok(Box::new(TableStore::<K, V>::open(cx, &store)?))),
        }
    }
}

/// Who can be asked for old values.
pub(crate) trait SendsOldValues {
    /// Asks a table to say in each change what the row was before. Unless `force` is given a table that keeps nothing, and is
    /// made from nothing kept, need not begin to keep its rows for that. Says whether it will
    /// (`KTableImpl.enableSendingOldValues`).
    fn send_old_values(&self, force: bool) -> bool;
}

/// A table, as the operators behind it see it.
pub(crate) struct TableNode<K, V> {
    pub(crate) settings: Arc<TableSettings>,
    pub(crate) kind: TableKind<K, V>,
}

pub(crate) enum TableKind<K, V> {
    /// Made from a topic or a stream: it keeps its rows when it must; the function says so to the graph and the settings.
    Source(Box<dyn Fn()>),
    /// An aggregation, which always keeps its rows, and the way to read them.
    Kept(Box<dyn Fn() -> View<K, V>>),
    /// Made from another table row by row.
    Derived(Rc<dyn SendsOldValues>, Box<dyn Fn() -> View<K, V>>),
    /// Made from two tables.
    Joined([Rc<dyn SendsOldValues>; 2], Box<dyn Fn() -> View<K, V>>),
}

impl<K: Clone + 'static, V: Clone + 'static> TableNode<K, V> {
    /// A table that is kept in a key-value store of that name.
    pub(crate) fn kept(settings: &Arc<TableSettings>, store: Arc<str>) -> Rc<Self> {
        let view = move || View::of_store(store.clone());
        Rc::new(Self { settings: settings.clone(), kind: TableKind::Kept(Box::new(view)) })
    }

    /// How the table is read. A source begins to keep its rows for this.
    pub(crate) fn view(&self) -> View<K, V> {
        if let TableKind::Source(keep) = &self.kind {
            keep();
        }
        match (&self.kind, self.settings.store()) {
            (TableKind::Kept(view), _) => view(),
            (_, Some(store)) => View::of_store(store.clone()),
            (TableKind::Derived(_, view) | TableKind::Joined(_, view), None) => view(),
            (TableKind::Source(_), None) => {
                unreachable!("a source that was told to keep its rows has a store")
            }
        }
    }
}

impl<K, V> SendsOldValues for TableNode<K, V> {
    fn send_old_values(&self, force: bool) -> bool {
        let kept = self.settings.store().is_some();
        let sends = match &self.kind {
            TableKind::Source(_) if !force && !kept => false,
            TableKind::Source(keep) => {
                keep();
                true
            }
            TableKind::Kept(_) => true,
            TableKind::Derived(parent, _) => {
                kept || parent.send_old_values(force) || self.settings.sends_old()
            }
            TableKind::Joined(parents, _) => {
                // A join reads both tables, so they are kept, or made from what is.
                parents.iter().for_each(|parent| _ = parent.send_old_values(true));
                true
            }
        };
        if sends {
            self.settings.send_old();
        }
        sends
    }
}
