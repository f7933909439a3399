//! The store of a table, and the way out of its node: what the store takes is forwarded, unless its record cache holds it
//! back (`KeyValueStoreWrapper`, `TimestampedTupleForwarder`, `TimestampedCacheFlushListener`).

use std::cell::RefCell;
use std::rc::Rc;

use super::Change;
use crate::dsl::table_node::{TableGetter, TableSettings};
use crate::error::{BoxError, Result};
use crate::record::{Headers, Record, Timestamp};
use crate::store::versioned::{VersionedStore, Versions};
use crate::store::{Flushed, GlobalKeyValueStore, KvStore, PutOutcome};
use crate::task::blueprint::{BuildCx, Children};
use crate::task::{Flow, Lifecycle, NodeIx, Outputs, TaskCx};

/// The store that keeps a table.
pub(crate) enum TableStore<K, V> {
    /// The latest row of each key.
    Latest(Rc<KvStore<K, V>>),
    /// Its versions.
    Versioned(VersionedStore<K, V>),
}

/// What a store has taken.
pub(crate) struct Taken<V> {
    pub(crate) change: Change<V>,
    pub(crate) timestamp: Timestamp,
}

impl<K: Clone + 'static, V: Clone + 'static> TableStore<K, V> {
    /// The store of that name, which the node is connected to.
    pub(crate) fn open(cx: &BuildCx<'_>, name: &str) -> Result<Self> {
        match cx.store::<KvStore<K, V>>(name) {
            Ok(store) => Ok(Self::Latest(store)),
            Err(error) => match cx.store::<KvStore<K, Versions<V>>>(name) {
                Ok(store) => Ok(Self::Versioned(VersionedStore(store))),
                Err(_) => Err(error),
            },
        }
    }

    /// The row of a key.
    pub(crate) fn get(&self, key: &K) -> Result<Option<(V, Timestamp)>, BoxError> {
        match self {
            Self::Latest(store) => store.get(key),
            Self::Versioned(store) => Ok(store.get(key)?.map(|record| (record.value, record.timestamp))),
        }
    }

    /// Replaces the row of a key by what `change` makes of it, a value and its time. `now` and `headers` are those of the
    /// record in hand. `None` if nothing goes downstream: the record cache holds it back.
    pub(crate) fn update(
        &self,
        key: &K,
        now: Timestamp,
        headers: &Headers,
        cx: &mut TaskCx,
        change: impl FnOnce(Option<&(V, Timestamp)>) -> Result<(Option<V>, Timestamp), BoxError>,
    ) -> Result<Option<Taken<V>>, BoxError> {
        match self {
            Self::Latest(store) => {
                let bytes = store.key_bytes(key, cx)?;
                let mut timestamp = now;
                let updated = store.update(&bytes, now, headers, cx, |old| {
                    let (new, at) = change(old)?;
                    timestamp = at;
                    Ok(new.map(|new| (new, at)))
                })?;
                let value = |row: Option<(V, Timestamp)>| row.map(|(value, _)| value);
                let change = Change::new(value(updated.new), value(updated.old));
                Ok((!updated.withheld).then_some(Taken { change, timestamp }))
            }
            Self::Versioned(store) => {
                let old = store.get(key)?.map(|record| (record.value, record.timestamp));
                let (new, timestamp) = change(old.as_ref())?;
                let bytes = store.0.key_bytes(key, cx)?;
                let latest = match store.put_bytes(&bytes, new.clone(), timestamp, cx)? {
                    // What is too old to be kept goes no further either.
                    PutOutcome::NotPut => return Ok(None),
                    outcome => outcome == PutOutcome::Latest,
                };
                let change = Change { new, old: old.map(|(value, _)| value), latest };
                Ok(Some(Taken { change, timestamp }))
            }
        }
    }
}

impl<K: Clone + 'static, V: Clone + 'static> TableGetter<K, V> for TableStore<K, V> {
    fn get(&mut self, key: &K, _: &mut TaskCx) -> Result<Option<(V, Timestamp)>, BoxError> {
        TableStore::get(self, key)
    }

    fn get_as_of(
        &mut self,
        key: &K,
        at: Timestamp,
        _: &mut TaskCx,
    ) -> Result<Option<(V, Timestamp)>, BoxError> {
        match self {
            Self::Latest(store) => store.get(key),
            Self::Versioned(store) => {
                Ok(store.get_as_of(key, at)?.map(|record| (record.value, record.timestamp)))
            }
        }
    }

    fn is_versioned(&self) -> bool {
        matches!(self, Self::Versioned(_))
    }
}

impl<K: 'static, V: 'static> TableGetter<K, V> for GlobalKeyValueStore<K, V> {
    fn get(&mut self, key: &K, _: &mut TaskCx) -> Result<Option<(V, Timestamp)>, BoxError> {
        self.row(key)
    }
}

/// The way out of a table's node: through its store, if it has one.
pub(crate) struct TableOut<K, V> {
    pub(crate) node: NodeIx,
    outputs: Outputs<K, Change<V>>,
    pub(crate) store: Option<TableStore<K, V>>,
    pub(crate) send_old: bool,
}

impl<K: Clone + 'static, V: Clone + 'static> TableOut<K, V> {
    /// The way out of the node that is being built.
    pub(crate) fn build(
        cx: &mut BuildCx<'_>,
        children: Children,
        settings: &TableSettings,
    ) -> Result<Rc<Self>> {
        let outputs = children.outputs()?;
        let store = settings.store().map(|name| TableStore::open(cx, name)).transpose()?;
        let out = Rc::new(Self { node: cx.node, outputs, store, send_old: settings.sends_old() });
        if let Some(name) = settings.store() {
            cx.flushers.insert(name.clone(), Rc::new(RefCell::new(Flusher(out.clone()))));
        }
        Ok(out)
    }

    /// Takes a change that was made elsewhere: keeps the row if there is a store, whose old row then counts, and forwards.
    pub(crate) fn pass(&self, record: Record<K, Change<V>>, cx: &mut TaskCx) -> Flow {
        let Record { key: Some(key), value: Some(mut change), timestamp, headers } = record else {
            return Ok(());
        };
        if self.store.is_some() {
            let new = change.new;
            return self.update(key, timestamp, headers, cx, |_, _| Ok((new, timestamp)));
        }
        if !self.send_old {
            change.old = None;
        }
        self.outputs.forward(Record { key: Some(key), value: Some(change), timestamp, headers }, cx)
    }

    /// As [`pass`](Self::pass), but the old row is the one that came, though the store may have another: a join makes it of what
    /// both sides have now (`KTableKTableJoinMerger`).
    pub(crate) fn pass_with_its_old(&self, mut record: Record<K, Change<V>>, cx: &mut TaskCx) -> Flow {
        let old = record.value.as_mut().and_then(|change| change.old.take());
        let (Some(store), Some(key)) = (&self.store, &record.key) else {
            if let Some(change) = &mut record.value {
                change.old = old;
            }
            return self.pass(record, cx);
        };
        let (timestamp, new) = (record.timestamp, record.value.and_then(|change| change.new));
        match store.update(key, timestamp, &record.headers, cx, |_| Ok((new, timestamp))) {
            Ok(None) => Ok(()),
            Ok(Some(Taken { mut change, timestamp })) => {
                change.old = old.filter(|_| self.send_old);
                let Record { key, headers, .. } = record;
                self.outputs.forward(Record { key, value: Some(change), timestamp, headers }, cx)
            }
            Err(error) => cx.processing_error(self.node, error),
        }
    }

    /// Replaces the row of a key in the store, which there must be, and forwards the change.
    pub(crate) fn update(
        &self,
        key: K,
        now: Timestamp,
        headers: Headers,
        cx: &mut TaskCx,
        change: impl FnOnce(&K, Option<&(V, Timestamp)>) -> Result<(Option<V>, Timestamp), BoxError>,
    ) -> Flow {
        self.update_from(key, now, headers, cx, || None, change)
    }

    /// The same; what a row starts from counts as the old value where there was none, as in Java's aggregations.
    pub(crate) fn update_from(
        &self,
        key: K,
        now: Timestamp,
        headers: Headers,
        cx: &mut TaskCx,
        start: impl FnOnce() -> Option<V>,
        change: impl FnOnce(&K, Option<&(V, Timestamp)>) -> Result<(Option<V>, Timestamp), BoxError>,
    ) -> Flow {
        let Some(store) = &self.store else { return Ok(()) };
        match store.update(&key, now, &headers, cx, |old| change(&key, old)) {
            Ok(None) => Ok(()),
            Ok(Some(Taken { mut change, timestamp })) => {
                change.old = if self.send_old { change.old.or_else(start) } else { None };
                self.outputs.forward(Record { key: Some(key), value: Some(change), timestamp, headers }, cx)
            }
            Err(error) => cx.processing_error(self.node, error),
        }
    }
}

/// Lets go of what the record cache of a table's store holds back.
struct Flusher<K, V>(Rc<TableOut<K, V>>);

impl<K: Clone + 'static, V: Clone + 'static> Lifecycle for Flusher<K, V> {
    /// `CachingKeyValueStore.putAndMaybeForward`.
    fn flush_cache(&mut self, cx: &mut TaskCx) -> Flow {
        let TableOut { node, outputs, store, send_old } = &*self.0;
        let Some(TableStore::Latest(store)) = store else { return Ok(()) };
        for key in store.withheld() {
            let Some(change) = store.take_withheld(key, true, cx) else { continue };
            let Flushed { key, old, new, timestamp, headers, source, offset } = change;
            cx.current = Some(*node);
            cx.begin_flush(source, offset, timestamp, headers.clone());
            let logged = store.log(&key, new.as_ref(), timestamp, cx);
            match logged.and_then(|()| store.read_key(&key)) {
                Ok(key) => {
                    let timestamp = new.as_ref().map_or(timestamp, |(_, timestamp)| *timestamp);
                    let value = |row: Option<(V, Timestamp)>| row.map(|(value, _)| value);
                    let change = Change::new(value(new), value(old.filter(|_| *send_old)));
                    outputs
                        .forward(Record { key: Some(key), value: Some(change), timestamp, headers }, cx)?;
                }
                Err(error) => cx.processing_error(*node, error)?,
            }
        }
        Ok(())
    }
}
