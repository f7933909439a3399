//! `split`: a record goes to the first branch whose predicate holds.

use std::sync::{Arc, Mutex, PoisonError};

use crate::error::BoxError;
use crate::record::Record;
use crate::task::blueprint::NodeFactory;
use crate::task::{Flow, Node, NodeIx, Outputs, TaskCx};

pub(crate) type Predicate<K, V> = Arc<dyn Fn(Option<&K>, Option<&V>) -> Result<bool, BoxError> + Send + Sync>;

/// The predicates of a split, which grow while its branches are declared; `None` is the default branch. The children of
/// the node stand in the same order.
pub(crate) type Predicates<K, V> = Arc<Mutex<Vec<Option<Predicate<K, V>>>>>;

struct Branch<K, V> {
    node: NodeIx,
    outputs: Outputs<K, V>,
    predicates: Vec<Option<Predicate<K, V>>>,
}

impl<K, V> Node<K, V> for Branch<K, V> {
    fn process(&mut self, record: Record<K, V>, cx: &mut TaskCx) -> Flow {
        let mut default = None;
        for (child, predicate) in self.predicates.iter().enumerate() {
            let Some(predicate) = predicate else {
                default = Some(child);
                continue;
            };
            cx.current = Some(self.node);
            match predicate(record.key.as_ref(), record.value.as_ref()) {
                Ok(true) => return self.outputs.forward_to(child, record, cx),
                Ok(false) => {}
                Err(error) => return cx.processing_error(self.node, error),
            }
        }
        match default {
            Some(child) => self.outputs.forward_to(child, record, cx),
            None => Ok(()),
        }
    }
}

pub(crate) fn factory<K: 'static, V: 'static>(predicates: Predicates<K, V>) -> NodeFactory {
    Arc::new(move |cx, children| {
        let outputs = children.outputs()?;
        let predicates = predicates.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let node = Branch { node: cx.node, outputs, predicates };
        Ok(cx.plain::<K, V>(node))
    })
}
