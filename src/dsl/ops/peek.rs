//! `peek` and `for_each`: a look at each record.

use std::sync::Arc;

use crate::error::BoxError;
use crate::record::Record;
use crate::task::{Flow, Node, NodeIx, Outputs, TaskCx};

pub(crate) struct Peek<K, V, F> {
    pub(crate) node: NodeIx,
    pub(crate) outputs: Outputs<K, V>,
    pub(crate) action: Arc<F>,
}

impl<K, V, F> Node<K, V> for Peek<K, V, F>
where
    K: Clone,
    V: Clone,
    F: Fn(Option<&K>, Option<&V>) -> Result<(), BoxError>,
{
    fn process(&mut self, record: Record<K, V>, cx: &mut TaskCx) -> Flow {
        cx.current = Some(self.node);
        match (self.action)(record.key.as_ref(), record.value.as_ref()) {
            Ok(()) => self.outputs.forward(record, cx),
            Err(error) => cx.processing_error(self.node, error),
        }
    }
}
