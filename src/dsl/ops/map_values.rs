//! `map_values`: the key and the partitioning stay.

use std::sync::Arc;

use crate::error::BoxError;
use crate::record::Record;
use crate::task::{Flow, Node, NodeIx, Outputs, TaskCx};

pub(crate) struct MapValues<K, VO, F> {
    pub(crate) node: NodeIx,
    pub(crate) outputs: Outputs<K, VO>,
    pub(crate) mapper: Arc<F>,
}

impl<K, V, VO, F> Node<K, V> for MapValues<K, VO, F>
where
    K: Clone,
    VO: Clone,
    F: Fn(Option<&K>, Option<V>) -> Result<Option<VO>, BoxError>,
{
    fn process(&mut self, record: Record<K, V>, cx: &mut TaskCx) -> Flow {
        cx.current = Some(self.node);
        let Record { key, value, timestamp, headers } = record;
        match (self.mapper)(key.as_ref(), value) {
            Ok(value) => self.outputs.forward(Record { key, value, timestamp, headers }, cx),
            Err(error) => cx.processing_error(self.node, error),
        }
    }
}
