//! Cogrouped streams: several streams of one key, folded into one aggregate (KIP-150).

use std::cell::RefCell;
use std::convert::Infallible;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use super::graph::{Graph, GraphIx, GraphKind, ProcessorSpec};
use super::grouped::KGroupedStream;
use super::ops::{self, Change, aggregate, pass_through};
use super::options::Materialized;
use super::stream::RepartitionParts;
use super::table::KTable;
use super::table_node::{TableNode, TableSettings};
use crate::error::{BoxError, Result};
use crate::serde::erased::SerdeRef;
use crate::task::blueprint::NodeFactory;

type Initializer<A> = Arc<dyn Fn() -> A + Send + Sync>;

/// The node that an aggregation reads, for a store of that name, which was given or not.
type ParentOf = dyn Fn(&mut Graph, &Arc<str>, bool) -> GraphIx;

/// One of the streams, without the type of its values.
struct Input<A> {
    /// Behind a repartition topic if need be.
    parent: Box<ParentOf>,
    factory: Box<dyn Fn(Arc<TableSettings>, Initializer<A>) -> NodeFactory>,
}

impl<A: Clone + 'static> Input<A> {
    fn new<K, V, E>(
        grouped: &KGroupedStream<K, V>,
        aggregator: impl Fn(&K, V, A) -> Result<Option<A>, E> + Send + Sync + 'static,
    ) -> Self
    where
        K: Clone + 'static,
        V: Clone + 'static,
        E: Into<BoxError>,
    {
        let stream = grouped.stream.clone();
        let (serdes, name) = (grouped.grouped.serdes.clone(), grouped.grouped.name.clone());
        let parent = move |graph: &mut Graph, store: &Arc<str>, store_is_named: bool| {
            if !stream.repartition_required {
                return stream.node;
            }
            let parts = RepartitionParts {
                prefix: name.clone().unwrap_or_else(|| store.clone()),
                named: name.is_some() || store_is_named,
                keys: serdes.key(stream.key_serde.as_ref()),
                values: serdes.value(stream.value_serde.as_ref()),
                partitions: None,
                partitioner: None,
            };
            let (source_name, (spec, ..)) = parts.spec(graph);
            graph.add(&[stream.node], source_name, GraphKind::Repartition(Box::new(spec)))
        };
        let aggregator = Arc::new(aggregator);
        let factory = move |settings, initializer: Initializer<A>| {
            let aggregator = aggregator.clone();
            let first = initializer.clone();
            let start: aggregate::Start<A> = Arc::new(move || Some(first()));
            let step: aggregate::Step<K, V, A> = Arc::new(move |key, value, aggregate| {
                aggregator(key, value, aggregate.unwrap_or_else(|| initializer())).map_err(Into::into)
            });
            aggregate::factory(settings, start, step)
        };
        Self { parent: Box::new(parent), factory: Box::new(factory) }
    }
}

/// Streams that are grouped by the same key, each with what its values do to a common aggregate
/// (`org.apache.kafka.streams.kstream.CogroupedKStream`).
///
/// ```
/// use mainstem::prelude::*;
///
/// let builder = StreamsBuilder::new();
/// let paid = builder.stream::<String, i64>("payments").group_by_key(());
/// let bought = builder.stream::<String, i64>("purchases").group_by_key(());
/// paid.cogroup(|_, amount, balance: i64| balance + amount)
///     .cogroup(&bought, |_, amount, balance| balance - amount)
///     .aggregate("balances", || 0)
///     .to_stream()
///     .to("out");
/// builder.build()?;
/// # Ok::<(), mainstem::Error>(())
/// ```
#[must_use = "a cogrouping does nothing until it is aggregated"]
pub struct CogroupedKStream<K, A> {
    graph: Rc<RefCell<Graph>>,
    keys: SerdeRef<K>,
    inputs: Vec<Input<A>>,
}

impl<K, A> fmt::Debug for CogroupedKStream<K, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CogroupedKStream(of {})", self.inputs.len())
    }
}

impl<K: Clone + 'static, V: Clone + 'static> KGroupedStream<K, V> {
    /// Begins an aggregation of several streams with this one.
    #[track_caller]
    pub fn cogroup<A: Clone + 'static>(
        &self,
        aggregator: impl Fn(&K, V, A) -> A + Send + Sync + 'static,
    ) -> CogroupedKStream<K, A> {
        self.try_cogroup(move |k, v, a| Ok::<_, Infallible>(Some(aggregator(k, v, a))))
    }

    /// As [`cogroup`](Self::cogroup); it may fail, and `None` deletes the row: the next value starts afresh.
    #[track_caller]
    pub fn try_cogroup<A: Clone + 'static, E: Into<BoxError>>(
        &self,
        aggregator: impl Fn(&K, V, A) -> Result<Option<A>, E> + Send + Sync + 'static,
    ) -> CogroupedKStream<K, A> {
        CogroupedKStream {
            graph: self.stream.graph.clone(),
            keys: self.grouped.serdes.key(self.stream.key_serde.as_ref()),
            inputs: vec![Input::new(self, aggregator)],
        }
    }
}

impl<K: Clone + 'static, A: Clone + 'static> CogroupedKStream<K, A> {
    /// Adds a stream.
    #[track_caller]
    pub fn cogroup<V: Clone + 'static>(
        self,
        grouped: &KGroupedStream<K, V>,
        aggregator: impl Fn(&K, V, A) -> A + Send + Sync + 'static,
    ) -> Self {
        self.try_cogroup(grouped, move |k, v, a| Ok::<_, Infallible>(Some(aggregator(k, v, a))))
    }

    /// As [`cogroup`](Self::cogroup); it may fail, and `None` deletes the row: the next value starts afresh.
    #[track_caller]
    pub fn try_cogroup<V: Clone + 'static, E: Into<BoxError>>(
        mut self,
        grouped: &KGroupedStream<K, V>,
        aggregator: impl Fn(&K, V, A) -> Result<Option<A>, E> + Send + Sync + 'static,
    ) -> Self {
        if !Rc::ptr_eq(&self.graph, &grouped.stream.graph) {
            self.graph
                .borrow_mut()
                .refuse("streams of two builders cannot be cogrouped; make both with one StreamsBuilder");
        }
        self.inputs.push(Input::new(grouped, aggregator));
        self
    }

    /// Folds the values of all streams into one aggregate a key. Records with a null key or a null value are dropped and
    /// counted. The timestamp of a result is the greatest of those that it was made from.
    #[track_caller]
    pub fn aggregate(
        &self,
        materialized: impl Into<Materialized<K, A>>,
        initializer: impl Fn() -> A + Send + Sync + 'static,
    ) -> KTable<K, A> {
        const AGGREGATE: &str = "COGROUPKSTREAM-AGGREGATE-";
        let materialized = materialized.into();
        let initializer: Initializer<A> = Arc::new(initializer);
        let mut graph = self.graph.borrow_mut();
        let store = graph.store_name(materialized.store.as_ref(), AGGREGATE);
        let keys = materialized.serdes.key(Some(&self.keys));
        let values = materialized.serdes.value(None);
        let parent = |input: &Input<A>| (input.parent)(&mut graph, &store, materialized.store.is_some());
        let parents: Vec<GraphIx> = self.inputs.iter().map(parent).collect();
        graph.meet_by_key(&parents);
        let given = materialized.processor.as_ref();
        let settings = TableSettings::new(Some(store.clone()));
        let blueprint = materialized.blueprint(&store, &keys, &values);
        let mut nodes = Vec::new();
        for (at, (input, parent)) in self.inputs.iter().zip(parents).enumerate() {
            let drawn = graph.draw(AGGREGATE);
            let name = given.map_or(drawn, |name| format!("{name}-cogroup-agg-{at}").into());
            let factory = (input.factory)(settings.clone(), initializer.clone());
            let spec = ProcessorSpec { factory, stores: vec![blueprint.clone()] };
            let node = graph.add(&[parent], name, GraphKind::Processor(spec));
            graph.set_versioned(node, materialized.history.is_some());
            nodes.push(node);
        }
        let drawn = graph.draw("COGROUPKSTREAM-MERGE-");
        let name = given.map_or(drawn, |name| format!("{name}-cogroup-merge").into());
        let factory =
            ops::node::<K, Change<A>, K, Change<A>, _>(|_, outputs| pass_through::PassThrough { outputs });
        let kind = GraphKind::Processor(ProcessorSpec { factory, stores: Vec::new() });
        let node = graph.add(&nodes, name, kind);
        drop(graph);
        KTable::new(self.graph.clone(), node, keys, values, TableNode::kept(&settings, store))
    }
}
