//! Tables: the last value of each key, and its changes.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use super::graph::{Graph, GraphIx, GraphKind, ProcessorSpec};
use super::ops::{self, Change, to_stream};
use super::stream::KStream;
use crate::serde::erased::SerdeRef;

/// A table (`org.apache.kafka.streams.kstream.KTable`).
pub struct KTable<K, V> {
    graph: Rc<RefCell<Graph>>,
    node: GraphIx,
    key_serde: SerdeRef<K>,
    value_serde: SerdeRef<V>,
}

impl<K, V> Clone for KTable<K, V> {
    fn clone(&self) -> Self {
        Self {
            graph: self.graph.clone(),
            node: self.node,
            key_serde: self.key_serde.clone(),
            value_serde: self.value_serde.clone(),
        }
    }
}

impl<K, V> fmt::Debug for KTable<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KTable({})", self.graph.borrow().name(self.node))
    }
}

impl<K: Clone + 'static, V: Clone + 'static> KTable<K, V> {
    pub(crate) fn new(
        graph: Rc<RefCell<Graph>>,
        node: GraphIx,
        key_serde: SerdeRef<K>,
        value_serde: SerdeRef<V>,
    ) -> Self {
        Self { graph, node, key_serde, value_serde }
    }

    /// The table's changes as a stream (change data capture): a deletion is a null value.
    #[track_caller]
    pub fn to_stream(&self) -> KStream<K, V> {
        let mut graph = self.graph.borrow_mut();
        let name = graph.draw("KTABLE-TOSTREAM-");
        let factory = ops::node::<K, Change<V>, K, V, _>(|_, outputs| to_stream::ToStream { outputs });
        let kind = GraphKind::Processor(ProcessorSpec { factory, stores: Vec::new() });
        let node = graph.add(&[self.node], name, kind);
        drop(graph);
        let (keys, values) = (self.key_serde.clone(), self.value_serde.clone());
        KStream::new(self.graph.clone(), node, Some(keys), Some(values), false)
    }
}
