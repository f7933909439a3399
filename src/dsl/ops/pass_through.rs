//! A node that only stands for a point of the graph: a merge, a branch.

use crate::record::Record;
use crate::task::{Flow, Node, Outputs, TaskCx};

pub(crate) struct PassThrough<K, V> {
    pub(crate) outputs: Outputs<K, V>,
}

impl<K: Clone, V: Clone> Node<K, V> for PassThrough<K, V> {
    fn process(&mut self, record: Record<K, V>, cx: &mut TaskCx) -> Flow {
        self.outputs.forward(record, cx)
    }
}
