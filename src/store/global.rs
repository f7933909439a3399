//! Stores that every task of an instance reads and none of them writes: one reader of the instance fills them, on a thread of
//! its own (`GlobalStateManagerImpl`, `GlobalStateUpdateTask`).

use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;

use super::layers::View;
use super::visible::Visible;
use super::{AnyStore, KvOptions, StoreBlueprint, decode_row};
use crate::config::{IsolationLevel, StoreKind};
use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::record::Timestamp;
use crate::serde::SerdeCx;
use crate::task::TopicIx;

/// A store whose topic is its changelog: it logs nothing itself.
#[derive(Debug)]
struct GlobalBlueprint(Arc<dyn StoreBlueprint>);

/// The plan of a global store.
pub(crate) fn blueprint(store: Arc<dyn StoreBlueprint>) -> Arc<dyn StoreBlueprint> {
    Arc::new(GlobalBlueprint(store))
}

impl StoreBlueprint for GlobalBlueprint {
    fn name(&self) -> &Arc<str> {
        self.0.name()
    }

    fn changelog(&self) -> Option<&[(String, String)]> {
        None
    }

    fn store_kind(&self) -> Option<StoreKind> {
        Some(StoreKind::InMemory)
    }

    fn fingerprint(&self) -> u64 {
        self.0.fingerprint()
    }

    fn identity(&self) -> usize {
        self.0.identity()
    }

    fn is_named(&self) -> bool {
        self.0.is_named()
    }

    fn kind(&self) -> String {
        self.0.kind()
    }

    fn options(&self) -> Arc<dyn Any + Send + Sync> {
        self.0.options()
    }

    fn build(&self, topic: &str, _: Option<TopicIx>, _: bool) -> Rc<dyn AnyStore> {
        self.0.build(topic, None, false)
    }
}

struct GlobalStore {
    options: Arc<dyn Any + Send + Sync>,
    /// What its serdes are told.
    topic: String,
    visible: Arc<Visible>,
}

/// The global stores of an instance, as its tasks find them.
#[derive(Clone, Default)]
pub(crate) struct GlobalStores(Arc<HashMap<Arc<str>, GlobalStore>>);

impl fmt::Debug for GlobalStores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl GlobalStores {
    /// The stores of the task that fills them, which must publish them from now on.
    pub(crate) fn of(
        plans: &[Arc<dyn StoreBlueprint>],
        stores: &[Rc<dyn AnyStore>],
        application_id: &str,
    ) -> Self {
        let of = |store: &Rc<dyn AnyStore>| {
            let plan = plans.iter().find(|plan| plan.name() == store.name())?;
            store.visible().uncommitted.want();
            let topic = plan.changelog_topic(application_id);
            let visible = store.visible().clone();
            Some((store.name().clone(), GlobalStore { options: plan.options(), topic, visible }))
        };
        Self(Arc::new(stores.iter().filter_map(of).collect()))
    }

    /// Whether there is one of that name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// A store, for the task that asks.
    pub(crate) fn reader<K: 'static, V: 'static>(&self, name: &str) -> Result<GlobalKeyValueStore<K, V>> {
        let missing = |why: &str| Error::new(ErrorKind::Topology, format!("the global store {name} {why}"));
        let store = self.0.get(name).ok_or_else(|| missing("has not been added to the topology"))?;
        let options = store.options.clone().downcast::<KvOptions<K, V>>();
        let options = options.map_err(|_| missing("was added with other types or another kind"))?;
        let seen = RefCell::new(Seen { version: u64::MAX, view: None, key: BytesMut::new() });
        Ok(GlobalKeyValueStore { options, topic: store.topic.clone(), visible: store.visible.clone(), seen })
    }
}

struct Seen {
    version: u64,
    view: Option<Arc<View>>,
    key: BytesMut,
}

/// A typed handle of one task on a global store, for reading.
pub struct GlobalKeyValueStore<K, V> {
    options: Arc<KvOptions<K, V>>,
    topic: String,
    visible: Arc<Visible>,
    seen: RefCell<Seen>,
}

impl<K, V> fmt::Debug for GlobalKeyValueStore<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GlobalKeyValueStore({})", self.options.name)
    }
}

impl<K: 'static, V: 'static> GlobalKeyValueStore<K, V> {
    /// The value of a key, as far as this instance has read the store's topic.
    ///
    /// # Errors
    /// If the key cannot be written, or the row not read, by the store's serdes; if the application has closed the store.
    pub fn get(&self, key: &K) -> Result<Option<V>, BoxError> {
        Ok(self.row(key)?.map(|(value, _)| value))
    }

    /// The row of a key, with its time where the store keeps one.
    pub(crate) fn row(&self, key: &K) -> Result<Option<(V, Timestamp)>, BoxError> {
        let seen = &mut *self.seen.borrow_mut();
        let face = self.visible.face(IsolationLevel::ReadUncommitted);
        // The lock is taken when the store has changed, not for each record.
        if seen.version != face.version() || seen.view.is_none() {
            (seen.view, seen.version) = match face.now() {
                Some((view, version)) => (Some(view), version),
                None => return Err(format!("the global store {} is closed", self.options.name).into()),
            };
        }
        let Some(view) = &seen.view else { return Ok(None) };
        seen.key.clear();
        self.options.key_serde.write(key, &SerdeCx::key(&self.topic), &mut seen.key)?;
        let Some(row) = view.get(&seen.key)? else { return Ok(None) };
        decode_row(&row, self.options.timestamped, &self.options.value_serde, &self.topic).map(Some)
    }
}
