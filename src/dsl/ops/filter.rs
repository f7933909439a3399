//! `filter` and `filter_not` of a stream, and the null-key filter before a repartition topic.

use std::sync::Arc;

use crate::error::BoxError;
use crate::record::Record;
use crate::task::{Flow, Node, NodeIx, Outputs, TaskCx};

pub(crate) struct Filter<K, V, F> {
    pub(crate) node: NodeIx,
    pub(crate) outputs: Outputs<K, V>,
    pub(crate) keep: Arc<F>,
}

impl<K, V, F> Node<K, V> for Filter<K, V, F>
where
    K: Clone,
    V: Clone,
    F: Fn(Option<&K>, Option<&V>) -> Result<bool, BoxError>,
{
    fn process(&mut self, record: Record<K, V>, cx: &mut TaskCx) -> Flow {
        cx.current = Some(self.node);
        match (self.keep)(record.key.as_ref(), record.value.as_ref()) {
            Ok(true) => self.outputs.forward(record, cx),
            Ok(false) => Ok(()),
            Err(error) => cx.processing_error(self.node, error),
        }
    }
}
