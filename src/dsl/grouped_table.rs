//! Grouped tables: aggregations that follow the rows as they change.

use std::cell::RefCell;
use std::convert::Infallible;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use super::graph::{Graph, GraphIx, GraphKind, ProcessorSpec, RepartitionSpec};
use super::ops::{Change, sink, source, table_aggregate};
use super::options::{Grouped, Materialized};
use super::table::KTable;
use super::table_node::{TableNode, TableSettings};
use crate::error::{BoxError, Result};
use crate::serde::change::ChangeSerde;
use crate::serde::erased::SerdeRef;
use crate::task::queue::Extract;

/// A table whose rows are grouped by a new key (`org.apache.kafka.streams.kstream.KGroupedTable`).
///
/// An aggregation subtracts what a row was and adds what it is. The timestamp of a result is the greatest of those that it
/// was made from.
#[must_use = "a grouping does nothing until it is counted, reduced or aggregated"]
pub struct KGroupedTable<K, V> {
    graph: Rc<RefCell<Graph>>,
    node: GraphIx,
    grouped: Grouped<K, V>,
    /// The repartition topic of a named grouping, shared by its aggregations.
    shared: RefCell<Option<GraphIx>>,
}

impl<K, V> fmt::Debug for KGroupedTable<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KGroupedTable({})", self.graph.borrow().name(self.node))
    }
}

impl<K: Clone + 'static, V: Clone + 'static> KGroupedTable<K, V> {
    pub(super) fn new(graph: Rc<RefCell<Graph>>, node: GraphIx, grouped: Grouped<K, V>) -> Self {
        Self { graph, node, grouped, shared: RefCell::default() }
    }

    /// How many rows each group has.
    #[track_caller]
    pub fn count(&self, materialized: impl Into<Materialized<K, i64>>) -> KTable<K, i64> {
        self.build(
            "KTABLE-AGGREGATE-",
            materialized.into(),
            None,
            Arc::new(|_, _, count| Ok(Some(count.unwrap_or(0) + 1))),
            Arc::new(|_, _, count| Ok(Some(count - 1))),
            false,
        )
    }

    /// Combines the values of each group, from the first one on. `adder` gets the reduction and a value that enters,
    /// `subtractor` the reduction and a value that leaves.
    #[track_caller]
    pub fn reduce(
        &self,
        materialized: impl Into<Materialized<K, V>>,
        adder: impl Fn(V, V) -> V + Send + Sync + 'static,
        subtractor: impl Fn(V, V) -> V + Send + Sync + 'static,
    ) -> KTable<K, V> {
        self.try_reduce(
            materialized,
            move |a, v| Ok::<_, Infallible>(Some(adder(a, v))),
            move |a, v| Ok::<_, Infallible>(Some(subtractor(a, v))),
        )
    }

    /// As [`reduce`](Self::reduce); both may fail, and `None` deletes the group: the next value starts afresh.
    #[track_caller]
    pub fn try_reduce<E: Into<BoxError>, F: Into<BoxError>>(
        &self,
        materialized: impl Into<Materialized<K, V>>,
        adder: impl Fn(V, V) -> Result<Option<V>, E> + Send + Sync + 'static,
        subtractor: impl Fn(V, V) -> Result<Option<V>, F> + Send + Sync + 'static,
    ) -> KTable<K, V> {
        let inherited = self.grouped.serdes.value(None);
        self.build(
            "KTABLE-REDUCE-",
            materialized.into(),
            Some(&inherited),
            Arc::new(move |_, value, reduced| match reduced {
                Some(reduced) => adder(reduced, value).map_err(Into::into),
                None => Ok(Some(value)),
            }),
            Arc::new(move |_, value, reduced| subtractor(reduced, value).map_err(Into::into)),
            true,
        )
    }

    /// Folds the values of each group into an aggregate; `subtractor` takes a value out of it again.
    #[track_caller]
    pub fn aggregate<A: Clone + 'static>(
        &self,
        materialized: impl Into<Materialized<K, A>>,
        initializer: impl Fn() -> A + Send + Sync + 'static,
        adder: impl Fn(&K, V, A) -> A + Send + Sync + 'static,
        subtractor: impl Fn(&K, V, A) -> A + Send + Sync + 'static,
    ) -> KTable<K, A> {
        self.try_aggregate(
            materialized,
            initializer,
            move |k, v, a| Ok::<_, Infallible>(Some(adder(k, v, a))),
            move |k, v, a| Ok::<_, Infallible>(Some(subtractor(k, v, a))),
        )
    }

    /// As [`aggregate`](Self::aggregate); both may fail, and `None` deletes the group: the next value starts afresh.
    #[track_caller]
    pub fn try_aggregate<A: Clone + 'static, E: Into<BoxError>, F: Into<BoxError>>(
        &self,
        materialized: impl Into<Materialized<K, A>>,
        initializer: impl Fn() -> A + Send + Sync + 'static,
        adder: impl Fn(&K, V, A) -> Result<Option<A>, E> + Send + Sync + 'static,
        subtractor: impl Fn(&K, V, A) -> Result<Option<A>, F> + Send + Sync + 'static,
    ) -> KTable<K, A> {
        self.build(
            "KTABLE-AGGREGATE-",
            materialized.into(),
            None,
            Arc::new(move |key, value, aggregate| {
                adder(key, value, aggregate.unwrap_or_else(&initializer)).map_err(Into::into)
            }),
            Arc::new(move |key, value, aggregate| subtractor(key, value, aggregate).map_err(Into::into)),
            false,
        )
    }

    /// `KGroupedTableImpl.doAggregate`.
    #[track_caller]
    fn build<A: Clone + 'static>(
        &self,
        prefix: &str,
        materialized: Materialized<K, A>,
        inherited: Option<&SerdeRef<A>>,
        add: table_aggregate::Add<K, V, A>,
        subtract: table_aggregate::Subtract<K, V, A>,
        is_reduce: bool,
    ) -> KTable<K, A> {
        let mut graph = self.graph.borrow_mut();
        // A reduction's store is named like an aggregation's.
        let store = graph.store_name(materialized.store.as_ref(), "KTABLE-AGGREGATE-");
        let given = materialized.processor.as_ref();
        let suffixed = |drawn, suffix| given.map_or(drawn, |name| format!("{name}{suffix}").into());
        let sink_name = suffixed(graph.draw("KSTREAM-SINK-"), "-sink");
        let source_name = suffixed(graph.draw("KSTREAM-SOURCE-"), "-source");
        let name = graph.name_or_draw(given, prefix);
        let group_keys = self.grouped.serdes.key(None);
        let keys = materialized.serdes.key(Some(&group_keys));
        let values = materialized.serdes.value(inherited);

        let known = self.shared.borrow().filter(|_| self.grouped.name.is_some());
        let parent = match known {
            Some(parent) => {
                graph.link(self.node, parent);
                parent
            }
            None => {
                let named = self.grouped.name.is_some() || materialized.store.is_some();
                let topic = self.grouped.name.as_ref().unwrap_or(&store);
                let spec =
                    self.repartition(format!("{topic}-repartition").into(), named, sink_name, group_keys);
                graph.add(&[self.node], source_name, GraphKind::Repartition(Box::new(spec)))
            }
        };
        *self.shared.borrow_mut() = Some(parent);

        let settings = TableSettings::new(Some(store.clone()));
        let factory = table_aggregate::factory(settings.clone(), add, subtract, is_reduce);
        let stores = vec![materialized.blueprint(&store, &keys, &values)];
        let spec = ProcessorSpec { factory, stores };
        let node = graph.add(&[parent], name, GraphKind::Processor(spec));
        graph.meets_by_key(node);
        graph.set_versioned(node, materialized.history.is_some());
        drop(graph);
        KTable::new(self.graph.clone(), node, keys, values, TableNode::kept(&settings, store))
    }

    /// A topic of changes; no record without a key gets there (`GroupedTableOperationRepartitionNode`).
    fn repartition(
        &self,
        topic: Arc<str>,
        named: bool,
        sink_name: Arc<str>,
        keys: SerdeRef<K>,
    ) -> RepartitionSpec {
        let values = SerdeRef::new(ChangeSerde(self.grouped.serdes.value(None)));
        let sink = sink::factory(sink::SinkOptions::<K, Change<V>> {
            topic: sink::SinkTo::Fixed(topic.clone()),
            key_serde: keys.clone(),
            value_serde: values.clone(),
            partitioner: None,
            window_bytes: 0,
        });
        let source = source::factory(
            keys,
            values,
            Some(Arc::new(|record: &Extract<'_, K, Change<V>>| Ok(record.record_timestamp))),
        );
        RepartitionSpec { topic, named, partitions: None, filter: None, sink_name, sink, source }
    }
}
