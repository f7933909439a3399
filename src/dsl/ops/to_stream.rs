//! `to_stream`: a table's updates as records; a deletion is a null value.

use crate::record::Record;
use crate::task::{Flow, Node, Outputs, TaskCx};

use super::Change;

pub(crate) struct ToStream<K, V> {
    pub(crate) outputs: Outputs<K, V>,
}

impl<K: Clone, V: Clone> Node<K, Change<V>> for ToStream<K, V> {
    fn process(&mut self, record: Record<K, Change<V>>, cx: &mut TaskCx) -> Flow {
        let Record { key, value, timestamp, headers } = record;
        let value = value.and_then(|change| change.new);
        self.outputs.forward(Record { key, value, timestamp, headers }, cx)
    }
}
