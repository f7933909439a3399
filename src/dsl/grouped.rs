//! Grouped streams: what aggregations start from.

use std::cell::RefCell;
use std::convert::Infallible;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use super::graph::{Graph, GraphIx, GraphKind, ProcessorSpec};
use super::ops::aggregate;
use super::options::{Grouped, Materialized};
use super::stream::{KStream, RepartitionParts};
use super::table::KTable;
use super::table_node::{TableNode, TableSettings};
use super::windows::WindowDefinition;
use crate::error::{BoxError, Result};
use crate::serde::erased::SerdeRef;

/// A stream whose records are grouped by key (`org.apache.kafka.streams.kstream.KGroupedStream`).
///
/// Records with a null key or a null value are dropped and counted. The timestamp of a result is the greatest of those
/// that it was made from.
#[must_use = "a grouping does nothing until it is counted, reduced or aggregated"]
pub struct KGroupedStream<K, V> {
    pub(super) stream: KStream<K, V>,
    pub(super) grouped: Grouped<K, V>,
    /// The repartition topic of a named grouping, shared by its aggregations.
    shared: Rc<RefCell<Option<GraphIx>>>,
}

impl<K, V> fmt::Debug for KGroupedStream<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KGroupedStream({:?})", self.stream)
    }
}

/// The node of an aggregation, and its store.
pub(super) struct Aggregation<K, A> {
    pub(super) node: GraphIx,
    pub(super) keys: SerdeRef<K>,
    pub(super) values: SerdeRef<A>,
    pub(super) store: Arc<str>,
    pub(super) settings: Arc<TableSettings>,
}

impl<K, V> Clone for KGroupedStream<K, V> {
    fn clone(&self) -> Self {
        Self { stream: self.stream.clone(), grouped: self.grouped.clone(), shared: self.shared.clone() }
    }
}

impl<K: Clone + 'static, V: Clone + 'static> KGroupedStream<K, V> {
    pub(crate) fn new(stream: KStream<K, V>, grouped: Grouped<K, V>) -> Self {
        Self { stream, grouped, shared: Rc::default() }
    }

    /// How many records of each key there are.
    #[track_caller]
    pub fn count(&self, materialized: impl Into<Materialized<K, i64>>) -> KTable<K, i64> {
        let materialized = materialized.into();
        if materialized.given && materialized.store.is_none() {
            // `KGroupedStreamImpl.count(Named, Materialized)` draws a number that it does not use.
            self.stream.graph.borrow_mut().draw("KSTREAM-AGGREGATE-STATE-STORE-");
        }
        self.build(
            "KSTREAM-AGGREGATE-",
            materialized,
            Arc::new(|| Some(0)),
            Arc::new(|_, _, count| Ok(Some(count.unwrap_or(0) + 1))),
        )
    }

    /// Combines the values of each key, from the first one on.
    #[track_caller]
    pub fn reduce(
        &self,
        materialized: impl Into<Materialized<K, V>>,
        reducer: impl Fn(V, V) -> V + Send + Sync + 'static,
    ) -> KTable<K, V> {
        self.try_reduce(materialized, move |a, v| Ok::<_, Infallible>(Some(reducer(a, v))))
    }

    /// As [`reduce`](Self::reduce); it may fail, and `None` deletes the row: the next value starts afresh.
    #[track_caller]
    pub fn try_reduce<E: Into<BoxError>>(
        &self,
        materialized: impl Into<Materialized<K, V>>,
        reducer: impl Fn(V, V) -> Result<Option<V>, E> + Send + Sync + 'static,
    ) -> KTable<K, V> {
        let step: aggregate::Step<K, V, V> = Arc::new(move |_, value, reduced| match reduced {
            Some(reduced) => reducer(reduced, value).map_err(Into::into),
            None => Ok(Some(value)),
        });
        self.build("KSTREAM-REDUCE-", materialized.into(), Arc::new(|| None), step)
    }

    /// Folds the values of each key into an aggregate.
    #[track_caller]
    pub fn aggregate<A: Clone + 'static>(
        &self,
        materialized: impl Into<Materialized<K, A>>,
        initializer: impl Fn() -> A + Send + Sync + 'static,
        aggregator: impl Fn(&K, V, A) -> A + Send + Sync + 'static,
    ) -> KTable<K, A> {
        self.try_aggregate(materialized, initializer, move |k, v, a| {
            Ok::<_, Infallible>(Some(aggregator(k, v, a)))
        })
    }

    /// As [`aggregate`](Self::aggregate); it may fail, and `None` deletes the row: the next value starts afresh.
    #[track_caller]
    pub fn try_aggregate<A: Clone + 'static, E: Into<BoxError>>(
        &self,
        materialized: impl Into<Materialized<K, A>>,
        initializer: impl Fn() -> A + Send + Sync + 'static,
        aggregator: impl Fn(&K, V, A) -> Result<Option<A>, E> + Send + Sync + 'static,
    ) -> KTable<K, A> {
        let start: aggregate::Start<A> = Arc::new(move || Some(initializer()));
        let first = start.clone();
        let step: aggregate::Step<K, V, A> = Arc::new(move |key, value, aggregate| {
            let aggregate = aggregate.or_else(|| first());
            let aggregate = aggregate.ok_or("an aggregation starts from nothing")?;
            aggregator(key, value, aggregate).map_err(Into::into)
        });
        self.build("KSTREAM-AGGREGATE-", materialized.into(), start, step)
    }

    /// Cuts time into windows, and aggregates the records of each apart.
    #[track_caller]
    pub fn windowed_by<W: WindowDefinition>(&self, windows: W) -> W::Stream<K, V> {
        windows.windowed(self)
    }

    /// The graph that it is part of.
    pub(super) fn graph(&self) -> &Rc<RefCell<Graph>> {
        &self.stream.graph
    }

    #[track_caller]
    fn build<A: Clone + 'static>(
        &self,
        prefix: &str,
        materialized: Materialized<K, A>,
        start: aggregate::Start<A>,
        step: aggregate::Step<K, V, A>,
    ) -> KTable<K, A> {
        let built = self.aggregation(prefix, &materialized, |store, keys, values, settings| {
            let factory = aggregate::factory(settings, start, step);
            ProcessorSpec { factory, stores: vec![materialized.blueprint(store, keys, values)] }
        });
        let Aggregation { node, keys, values, store, settings } = built;
        let table = TableNode::kept(&settings, store);
        KTable::new(self.stream.graph.clone(), node, keys, values, table)
    }

    /// `GroupedStreamAggregateBuilder.build`: draws the names, sends the stream through a topic if need be, and adds the
    /// node that `spec` makes of the store's name and its serdes.
    #[track_caller]
    pub(super) fn aggregation<A: Clone + 'static>(
        &self,
        prefix: &str,
        materialized: &Materialized<K, A>,
        spec: impl FnOnce(&Arc<str>, &SerdeRef<K>, &SerdeRef<A>, Arc<TableSettings>) -> ProcessorSpec,
    ) -> Aggregation<K, A> {
        let stream = &self.stream;
        let mut graph = stream.graph.borrow_mut();
        let store = graph.store_name(materialized.store.as_ref(), prefix);
        let name = graph.name_or_draw(materialized.processor.as_ref(), prefix);
        let stream_keys = self.grouped.serdes.key(stream.key_serde.as_ref());
        let keys = materialized.serdes.key(Some(&stream_keys));
        let values = materialized.serdes.value(None);
        let mut parent = stream.node;
        if stream.repartition_required {
            let named = self.grouped.name.is_some() || materialized.store.is_some();
            let parts = RepartitionParts {
                prefix: self.grouped.name.clone().unwrap_or_else(|| store.clone()),
                named,
                keys: stream_keys,
                values: self.grouped.serdes.value(stream.value_serde.as_ref()),
                partitions: None,
                partitioner: None,
            };
            let (source_name, (spec, ..)) = parts.spec(&mut graph);
            let mut shared = self.shared.borrow_mut();
            parent = match *shared {
                Some(shared) if self.grouped.name.is_some() => {
                    graph.link(stream.node, shared);
                    shared
                }
                _ => graph.add(&[stream.node], source_name, GraphKind::Repartition(Box::new(spec))),
            };
            *shared = Some(parent);
        }
        let settings = TableSettings::new(Some(store.clone()));
        let spec = spec(&store, &keys, &values, settings.clone());
        let node = graph.add(&[parent], name, GraphKind::Processor(spec));
        graph.meets_by_key(node);
        graph.set_versioned(node, materialized.history.is_some());
        Aggregation { node, keys, values, store, settings }
    }
}
