//! `count`, `reduce` and `aggregate` of a stream, without windows (`KStreamAggregate`, `KStreamReduce`).

use std::rc::Rc;
use std::sync::Arc;

use super::table_store::TableOut;
use crate::dsl::table_node::TableSettings;
use crate::error::BoxError;
use crate::record::Record;
use crate::task::blueprint::NodeFactory;
use crate::task::errors::DropReason;
use crate::task::{Flow, Node, TaskCx};

/// The next aggregate from a key, a value and the present aggregate; `None` deletes it.
pub(crate) type Step<K, V, A> = Arc<dyn Fn(&K, V, Option<A>) -> Result<Option<A>, BoxError> + Send + Sync>;

/// What an aggregate starts from; nothing where that is the first value.
pub(crate) type Start<A> = Arc<dyn Fn() -> Option<A> + Send + Sync>;

struct Aggregate<K, V, A> {
    out: Rc<TableOut<K, A>>,
    start: Start<A>,
    step: Step<K, V, A>,
}

impl<K: Clone + 'static, V: 'static, A: Clone + 'static> Node<K, V> for Aggregate<K, V, A> {
    fn process(&mut self, record: Record<K, V>, cx: &mut TaskCx) -> Flow {
        let node = self.out.node;
        cx.current = Some(node);
        let Record { key, value, timestamp, headers } = record;
        let Some(key) = key else {
            cx.dropped(node, DropReason::NullKey);
            return Ok(());
        };
        let Some(value) = value else {
            cx.dropped(node, DropReason::NullValue);
            return Ok(());
        };
        self.out.update_from(
            key,
            timestamp,
            headers,
            cx,
            || (self.start)(),
            |key, old| {
                let (old, at) = match old {
                    Some((aggregate, at)) => (Some(aggregate.clone()), timestamp.max(*at)),
                    None => (None, timestamp),
                };
                Ok(((self.step)(key, value, old)?, at))
            },
        )
    }
}

pub(crate) fn factory<K: Clone + 'static, V: 'static, A: Clone + 'static>(
    settings: Arc<TableSettings>,
    start: Start<A>,
    step: Step<K, V, A>,
) -> NodeFactory {
    Arc::new(move |cx, children| {
        let out = TableOut::build(cx, children, &settings)?;
        Ok(cx.plain::<K, V>(Aggregate { out, start: start.clone(), step: step.clone() }))
    })
}
