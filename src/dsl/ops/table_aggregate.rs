//! `count`, `reduce` and `aggregate` of a grouped table: what a row was is subtracted, what it is is added
//! (`KTableAggregate`, `KTableReduce`).

use std::rc::Rc;
use std::sync::Arc;

use super::Change;
use super::table_store::TableOut;
use crate::dsl::table_node::TableSettings;
use crate::error::BoxError;
use crate::record::Record;
use crate::task::blueprint::NodeFactory;
use crate::task::{Flow, Node, TaskCx};

/// Takes a value out of an aggregate.
pub(crate) type Subtract<K, V, A> = Arc<dyn Fn(&K, V, A) -> Result<Option<A>, BoxError> + Send + Sync>;

/// Puts a value into an aggregate, or makes the first of it.
pub(crate) type Add<K, V, A> = super::aggregate::Step<K, V, A>;

struct TableAggregate<K, V, A> {
    out: Rc<TableOut<K, A>>,
    add: Add<K, V, A>,
    subtract: Subtract<K, V, A>,
    /// A reduction whose group was empty keeps the time of the value it begins with.
    is_reduce: bool,
}

impl<K: Clone + 'static, V: 'static, A: Clone + 'static> Node<K, Change<V>> for TableAggregate<K, V, A> {
    fn process(&mut self, record: Record<K, Change<V>>, cx: &mut TaskCx) -> Flow {
        cx.current = Some(self.out.node);
        let Record { key, value, timestamp, headers } = record;
        let (Some(key), Some(Change { new, old, .. })) = (key, value) else {
            return cx.processing_error(self.out.node, "a change of a group has no key or no value".into());
        };
        self.out.update(key, timestamp, headers, cx, |key, row| {
            let (aggregate, at) = match row {
                Some((aggregate, at)) => (Some(aggregate.clone()), timestamp.max(*at)),
                None => (None, timestamp),
            };
            let mut result_at = timestamp;
            // ORDER: subtracted before added; a subtractor that gives nothing makes the adder begin anew.
            let rest = match (old, aggregate) {
                (Some(old), Some(aggregate)) => {
                    result_at = at;
                    (self.subtract)(key, old, aggregate)?
                }
                (_, aggregate) => aggregate,
            };
            let aggregate = match new {
                Some(new) => {
                    if !self.is_reduce || rest.is_some() {
                        result_at = at;
                    }
                    (self.add)(key, new, rest)?
                }
                None => rest,
            };
            Ok((aggregate, result_at))
        })
    }
}

pub(crate) fn factory<K: Clone + 'static, V: 'static, A: Clone + 'static>(
    settings: Arc<TableSettings>,
    add: Add<K, V, A>,
    subtract: Subtract<K, V, A>,
    is_reduce: bool,
) -> NodeFactory {
    Arc::new(move |cx, children| {
        let out = TableOut::build(cx, children, &settings)?;
        let node = TableAggregate { out, add: add.clone(), subtract: subtract.clone(), is_reduce };
        Ok(cx.plain::<K, Change<V>>(node))
    })
}
