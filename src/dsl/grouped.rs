//! Grouped streams: what aggregations start from.

use std::cell::RefCell;
use std::convert::Infallible;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use super::graph::{GraphIx, GraphKind, ProcessorSpec};
use super::ops::aggregate;
use super::options::{Grouped, Materialized};
use super::stream::{KStream, RepartitionParts};
use super::table::KTable;
use super::table_node::{TableNode, TableSettings};
use crate::error::{BoxError, Result};

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
        self.build("KSTREAM-REDUCE-", materialized.into(), step)
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
        let step: aggregate::Step<K, V, A> = Arc::new(move |key, value, aggregate| {
            aggregator(key, value, aggregate.unwrap_or_else(&initializer)).map_err(Into::into)
        });
        self.build("KSTREAM-AGGREGATE-", materialized.into(), step)
    }

    /// `GroupedStreamAggregateBuilder.build`.
    #[track_caller]
    fn build<A: Clone + 'static>(
        &self,
        prefix: &str,
        materialized: Materialized<K, A>,
        step: aggregate::Step<K, V, A>,
    ) -> KTable<K, A> {
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
        let blueprint = materialized.blueprint(&store, &keys, &values);
        let settings = TableSettings::new(Some(store.clone()));
        let spec =
            ProcessorSpec { factory: aggregate::factory(settings.clone(), step), stores: vec![blueprint] };
        let node = graph.add(&[parent], name, GraphKind::Processor(spec));
        graph.meets_by_key(node);
        graph.set_versioned(node, materialized.history.is_some());
        drop(graph);
        KTable::new(stream.graph.clone(), node, keys, values, TableNode::kept(&settings, store))
    }
}
