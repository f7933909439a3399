//! The node that turns a stream's records into a table's updates (`KTableSource`).

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::Change;
use crate::record::Record;
use crate::store::{Flushed, KvStore};
use crate::task::blueprint::{ErasedPort, NodeFactory};
use crate::task::errors::DropReason;
use crate::task::{Flow, Lifecycle, Node, NodeIx, Outputs, TaskCx};

struct TableSource<K, V> {
    node: NodeIx,
    outputs: Outputs<K, Change<V>>,
    store: Option<Rc<KvStore<K, V>>>,
}

impl<K: Clone + 'static, V: Clone + 'static> Node<K, V> for TableSource<K, V> {
    fn process(&mut self, record: Record<K, V>, cx: &mut TaskCx) -> Flow {
        cx.current = Some(self.node);
        let Some(key) = &record.key else {
            cx.dropped(self.node, DropReason::NullKey);
            return Ok(());
        };
        if let Some(store) = &self.store {
            let row = record.value.clone().map(|value| (value, record.timestamp));
            let updated = store
                .key_bytes(key, cx)
                .and_then(|bytes| store.update(&bytes, record.timestamp, &record.headers, cx, |_| Ok(row)));
            match updated {
                Ok(updated) if updated.withheld => return Ok(()),
                Ok(_) => {}
                Err(error) => return cx.processing_error(self.node, error),
            }
        }
        let Record { key, value, timestamp, headers } = record;
        self.outputs.forward(Record { key, value: Some(Change::new(value, None)), timestamp, headers }, cx)
    }
}

impl<K: Clone + 'static, V: Clone + 'static> Lifecycle for TableSource<K, V> {
    fn flush_cache(&mut self, cx: &mut TaskCx) -> Flow {
        match &self.store {
            Some(store) => flush_cache(self.node, store, &self.outputs, cx),
            None => Ok(()),
        }
    }
}

/// Logs and forwards what a store's record cache holds back (`CachingKeyValueStore.putAndMaybeForward`).
pub(crate) fn flush_cache<K: Clone + 'static, V: Clone + 'static>(
    node: NodeIx,
    store: &KvStore<K, V>,
    outputs: &Outputs<K, Change<V>>,
    cx: &mut TaskCx,
) -> Flow {
    for key in store.withheld() {
        let Some(change) = store.take_withheld(key, true, cx) else { continue };
        let Flushed { key, new, timestamp, headers, source, offset, .. } = change;
        cx.current = Some(node);
        cx.begin_flush(source, offset, timestamp, headers.clone());
        let logged = store.log(&key, new.as_ref(), timestamp, cx);
        let read = logged.and_then(|()| store.read_key(&key));
        match read {
            Ok(key) => {
                let timestamp = new.as_ref().map_or(timestamp, |(_, timestamp)| *timestamp);
                let change = Change::new(new.map(|(value, _)| value), None);
                outputs.forward(Record { key: Some(key), value: Some(change), timestamp, headers }, cx)?;
            }
            Err(error) => cx.processing_error(node, error)?,
        }
    }
    Ok(())
}

/// The factory; without a store the table is not materialized.
pub(crate) fn factory<K: Clone + 'static, V: Clone + 'static>(store: Option<Arc<str>>) -> NodeFactory {
    Arc::new(move |cx, children| {
        let outputs = children.outputs()?;
        let kept = store.as_ref().map(|name| cx.store::<KvStore<K, V>>(name)).transpose()?;
        let node = Rc::new(RefCell::new(TableSource { node: cx.node, outputs, store: kept }));
        if let Some(name) = &store {
            cx.flushers.insert(name.clone(), node.clone());
        }
        Ok(ErasedPort::new::<K, V>(node))
    })
}
