//! `count`, `reduce` and `aggregate` without windows (`KStreamAggregate`, `KStreamReduce`).

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::Change;
use super::table_source::flush_cache;
use crate::error::BoxError;
use crate::record::Record;
use crate::store::KvStore;
use crate::task::blueprint::{ErasedPort, NodeFactory};
use crate::task::errors::DropReason;
use crate::task::{Flow, Lifecycle, Node, NodeIx, Outputs, TaskCx};

/// The next aggregate from a key, a value and the present aggregate; `None` deletes it.
pub(crate) type Step<K, V, A> = Arc<dyn Fn(&K, V, Option<A>) -> Result<Option<A>, BoxError> + Send + Sync>;

struct Aggregate<K, V, A> {
    node: NodeIx,
    outputs: Outputs<K, Change<A>>,
    store: Rc<KvStore<K, A>>,
    step: Step<K, V, A>,
}

impl<K: Clone + 'static, V: 'static, A: Clone + 'static> Node<K, V> for Aggregate<K, V, A> {
    fn process(&mut self, record: Record<K, V>, cx: &mut TaskCx) -> Flow {
        cx.current = Some(self.node);
        let Record { key, value, timestamp: arrived, headers } = record;
        let Some(key) = key else {
            cx.dropped(self.node, DropReason::NullKey);
            return Ok(());
        };
        let Some(value) = value else {
            cx.dropped(self.node, DropReason::NullValue);
            return Ok(());
        };
        let mut timestamp = arrived;
        let updated = self.store.key_bytes(&key, cx).and_then(|bytes| {
            self.store.update(&bytes, arrived, &headers, cx, |old| {
                let old = old.map(|(aggregate, at)| {
                    timestamp = timestamp.max(*at);
                    aggregate.clone()
                });
                Ok((self.step)(&key, value, old)?.map(|aggregate| (aggregate, timestamp)))
            })
        });
        match updated {
            Ok(updated) if updated.withheld => Ok(()),
            Ok(updated) => {
                let change = Change::new(updated.new.map(|(aggregate, _)| aggregate), None);
                self.outputs.forward(Record { key: Some(key), value: Some(change), timestamp, headers }, cx)
            }
            Err(error) => cx.processing_error(self.node, error),
        }
    }
}

impl<K: Clone + 'static, V: 'static, A: Clone + 'static> Lifecycle for Aggregate<K, V, A> {
    fn flush_cache(&mut self, cx: &mut TaskCx) -> Flow {
        flush_cache(self.node, &self.store, &self.outputs, cx)
    }
}

pub(crate) fn factory<K: Clone + 'static, V: 'static, A: Clone + 'static>(
    store: Arc<str>,
    step: Step<K, V, A>,
) -> NodeFactory {
    Arc::new(move |cx, children| {
        let outputs = children.outputs()?;
        let kept = cx.store::<KvStore<K, A>>(&store)?;
        let node = Aggregate { node: cx.node, outputs, store: kept, step: step.clone() };
        let node = Rc::new(RefCell::new(node));
        cx.flushers.insert(store.clone(), node.clone());
        Ok(ErasedPort::new::<K, V>(node))
    })
}
