//! Streams: unbounded sequences of records.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use super::branch::BranchedKStream;
use super::graph::{Graph, GraphIx, GraphKind, ProcessorSpec, RepartitionSpec};
use super::grouped::KGroupedStream;
use super::ops::{
    self, filter, flat_map, map, map_values, null_key_filter, pass_through, peek, sink, source, table_source,
};
use super::options::{Grouped, Materialized, Produced, Repartitioned, SinkTopic};
use super::printed::Printed;
use super::table::{KTable, source_table};
use super::table_node::TableSettings;
use crate::error::{BoxError, Result};
use crate::serde::erased::SerdeRef;
use crate::store::StoreBuilder;
use crate::task::blueprint::NodeFactory;
use crate::task::errors::DropReason;
use crate::task::queue::Extract;
use crate::topology::processor::{self, FixedKey};
use crate::topology::{FixedKeyProcessor, Processor, Stores};

/// A stream of records (`org.apache.kafka.streams.kstream.KStream`).
///
/// Operators that take user code have two forms. The plain one is for the common case: its closures see `Option<&K>` and
/// a value that is there; for a null value they are not called (`filter` drops it, `filter_not` keeps it, `map_values`
/// passes it on, `peek` skips it, operators that change the key drop it and count it as `null value`). The `try_` form
/// sees everything and may fail; its error goes to the processing error policy.
#[must_use = "a stream that nothing is done with does nothing"]
pub struct KStream<K, V> {
    pub(crate) graph: Rc<RefCell<Graph>>,
    pub(crate) node: GraphIx,
    pub(crate) key_serde: Option<SerdeRef<K>>,
    pub(crate) value_serde: Option<SerdeRef<V>>,
    pub(crate) repartition_required: bool,
    /// The repartition topic that its joins without a name share.
    for_joins: Rc<Cell<Option<GraphIx>>>,
    /// `process` with a name draws no number.
    drawn_if_unnamed: bool,
}

impl<K, V> Clone for KStream<K, V> {
    fn clone(&self) -> Self {
        Self {
            graph: self.graph.clone(),
            node: self.node,
            key_serde: self.key_serde.clone(),
            value_serde: self.value_serde.clone(),
            repartition_required: self.repartition_required,
            for_joins: self.for_joins.clone(),
            drawn_if_unnamed: false,
        }
    }
}

impl<K, V> fmt::Debug for KStream<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KStream({})", self.graph.borrow().name(self.node))
    }
}

/// What becomes of the serdes and of the partitioning behind an operator.
struct Next<K, V> {
    keys: Option<SerdeRef<K>>,
    values: Option<SerdeRef<V>>,
    repartition_required: bool,
}

fn boxed<T, E: Into<BoxError>>(result: Result<T, E>) -> Result<T, BoxError> {
    result.map_err(Into::into)
}

impl<K: Clone + 'static, V: Clone + 'static> KStream<K, V> {
    pub(crate) fn new(
        graph: Rc<RefCell<Graph>>,
        node: GraphIx,
        key_serde: Option<SerdeRef<K>>,
        value_serde: Option<SerdeRef<V>>,
        repartition_required: bool,
    ) -> Self {
        Self {
            graph,
            node,
            key_serde,
            value_serde,
            repartition_required,
            for_joins: Rc::default(),
            drawn_if_unnamed: false,
        }
    }

    /// Names the operator just called. Its number stays used, so other generated names do not move.
    #[track_caller]
    pub fn named(self, name: &str) -> Self {
        self.graph.borrow_mut().rename(self.node, name, self.drawn_if_unnamed);
        self
    }

    #[track_caller]
    fn then<K2: Clone + 'static, V2: Clone + 'static>(
        &self,
        prefix: &str,
        factory: NodeFactory,
        next: Next<K2, V2>,
    ) -> KStream<K2, V2> {
        let mut graph = self.graph.borrow_mut();
        let name = graph.draw(prefix);
        let kind = GraphKind::Processor(ProcessorSpec { factory, stores: Vec::new() });
        let node = graph.add(&[self.node], name, kind);
        drop(graph);
        KStream::new(self.graph.clone(), node, next.keys, next.values, next.repartition_required)
    }

    fn same(&self) -> Next<K, V> {
        Next {
            keys: self.key_serde.clone(),
            values: self.value_serde.clone(),
            repartition_required: self.repartition_required,
        }
    }

    fn new_values<V2>(&self) -> Next<K, V2> {
        Next { keys: self.key_serde.clone(), values: None, repartition_required: self.repartition_required }
    }

    // ---- filter ----

    /// Keeps the records that the predicate holds for; drops null values.
    #[track_caller]
    pub fn filter(&self, keep: impl Fn(Option<&K>, &V) -> bool + Send + Sync + 'static) -> Self {
        self.try_filter(move |k, v| Ok::<_, Infallible>(v.is_some_and(|v| keep(k, v))))
    }

    /// As [`filter`](Self::filter), for nulls too, and it may fail.
    #[track_caller]
    pub fn try_filter<E: Into<BoxError>>(
        &self,
        keep: impl Fn(Option<&K>, Option<&V>) -> Result<bool, E> + Send + Sync + 'static,
    ) -> Self {
        let keep = Arc::new(move |k: Option<&K>, v: Option<&V>| boxed(keep(k, v)));
        let factory = ops::node::<K, V, K, V, _>(move |node, outputs| filter::Filter {
            node,
            outputs,
            keep: keep.clone(),
        });
        self.then("KSTREAM-FILTER-", factory, self.same())
    }

    /// Drops the records that the predicate holds for; keeps null values.
    #[track_caller]
    pub fn filter_not(&self, drop: impl Fn(Option<&K>, &V) -> bool + Send + Sync + 'static) -> Self {
        self.try_filter_not(move |k, v| Ok::<_, Infallible>(v.is_some_and(|v| drop(k, v))))
    }

    /// As [`filter_not`](Self::filter_not), for nulls too, and it may fail.
    #[track_caller]
    pub fn try_filter_not<E: Into<BoxError>>(
        &self,
        drop: impl Fn(Option<&K>, Option<&V>) -> Result<bool, E> + Send + Sync + 'static,
    ) -> Self {
        self.try_filter(move |k, v| drop(k, v).map(|drop| !drop))
    }

    // ---- map ----

    #[track_caller]
    fn map_nodes<K2: Clone + 'static, V2: Clone + 'static>(
        &self,
        prefix: &str,
        values: Option<SerdeRef<V2>>,
        mapper: impl Fn(Option<K>, Option<V>) -> map::Mapped<K2, V2> + Send + Sync + 'static,
    ) -> KStream<K2, V2> {
        let mapper = Arc::new(mapper);
        let factory = ops::node::<K, V, K2, V2, _>(move |node, outputs| map::Map {
            node,
            outputs,
            mapper: mapper.clone(),
        });
        self.then(prefix, factory, Next { keys: None, values, repartition_required: true })
    }

    /// A new key and value for each record. What follows may repartition, because the key may have changed.
    #[track_caller]
    pub fn map<K2: Clone + 'static, V2: Clone + 'static>(
        &self,
        mapper: impl Fn(Option<&K>, V) -> (K2, V2) + Send + Sync + 'static,
    ) -> KStream<K2, V2> {
        self.map_nodes("KSTREAM-MAP-", None, move |k, v| {
            Ok(match v {
                Some(v) => {
                    let (key, value) = mapper(k.as_ref(), v);
                    Ok((Some(key), Some(value)))
                }
                None => Err(DropReason::NullValue),
            })
        })
    }

    /// As [`map`](Self::map), for nulls too, and it may fail.
    #[track_caller]
    pub fn try_map<K2: Clone + 'static, V2: Clone + 'static, E: Into<BoxError>>(
        &self,
        mapper: impl Fn(Option<K>, Option<V>) -> Result<(Option<K2>, Option<V2>), E> + Send + Sync + 'static,
    ) -> KStream<K2, V2> {
        self.map_nodes("KSTREAM-MAP-", None, move |k, v| boxed(mapper(k, v)).map(Ok))
    }

    /// A new key for each record. What follows may repartition, even if the key is the same.
    #[track_caller]
    pub fn select_key<K2: Clone + 'static>(
        &self,
        mapper: impl Fn(Option<&K>, &V) -> K2 + Send + Sync + 'static,
    ) -> KStream<K2, V> {
        self.map_nodes("KSTREAM-KEY-SELECT-", self.value_serde.clone(), move |k, v| {
            Ok(match v {
                Some(v) => Ok((Some(mapper(k.as_ref(), &v)), Some(v))),
                None => Err(DropReason::NullValue),
            })
        })
    }

    /// As [`select_key`](Self::select_key), for nulls too, and it may fail.
    #[track_caller]
    pub fn try_select_key<K2: Clone + 'static, E: Into<BoxError>>(
        &self,
        mapper: impl Fn(Option<&K>, Option<&V>) -> Result<Option<K2>, E> + Send + Sync + 'static,
    ) -> KStream<K2, V> {
        self.map_nodes("KSTREAM-KEY-SELECT-", self.value_serde.clone(), move |k, v| {
            let key = boxed(mapper(k.as_ref(), v.as_ref()))?;
            Ok(Ok((key, v)))
        })
    }

    // ---- map_values ----

    /// A new value for each record. The key stays, and with it the partitioning; null values pass.
    #[track_caller]
    pub fn map_values<V2: Clone + 'static>(
        &self,
        mapper: impl Fn(V) -> V2 + Send + Sync + 'static,
    ) -> KStream<K, V2> {
        self.try_map_values(move |_, v| Ok::<_, Infallible>(v.map(&mapper)))
    }

    /// As [`map_values`](Self::map_values); the mapper sees the key.
    #[track_caller]
    pub fn map_values_with_key<V2: Clone + 'static>(
        &self,
        mapper: impl Fn(Option<&K>, V) -> V2 + Send + Sync + 'static,
    ) -> KStream<K, V2> {
        self.try_map_values(move |k, v| Ok::<_, Infallible>(v.map(|v| mapper(k, v))))
    }

    /// As [`map_values_with_key`](Self::map_values_with_key), for nulls too, and it may fail.
    #[track_caller]
    pub fn try_map_values<V2: Clone + 'static, E: Into<BoxError>>(
        &self,
        mapper: impl Fn(Option<&K>, Option<V>) -> Result<Option<V2>, E> + Send + Sync + 'static,
    ) -> KStream<K, V2> {
        let mapper = Arc::new(move |k: Option<&K>, v: Option<V>| boxed(mapper(k, v)));
        let factory = ops::node::<K, V, K, V2, _>(move |node, outputs| map_values::MapValues {
            node,
            outputs,
            mapper: mapper.clone(),
        });
        self.then("KSTREAM-MAPVALUES-", factory, self.new_values())
    }

    // ---- flat_map ----

    #[track_caller]
    fn flat_map_nodes<K2, V2, I>(
        &self,
        mapper: impl Fn(Option<K>, Option<V>) -> Result<Result<I, DropReason>, BoxError> + Send + Sync + 'static,
    ) -> KStream<K2, V2>
    where
        K2: Clone + 'static,
        V2: Clone + 'static,
        I: IntoIterator<Item = (Option<K2>, Option<V2>)> + 'static,
    {
        let mapper = Arc::new(mapper);
        let factory = ops::node::<K, V, K2, V2, _>(move |node, outputs| flat_map::FlatMap {
            node,
            outputs,
            mapper: mapper.clone(),
        });
        self.then("KSTREAM-FLATMAP-", factory, Next { keys: None, values: None, repartition_required: true })
    }

    /// Any number of records from each.
    #[track_caller]
    pub fn flat_map<K2, V2, I>(
        &self,
        mapper: impl Fn(Option<&K>, V) -> I + Send + Sync + 'static,
    ) -> KStream<K2, V2>
    where
        K2: Clone + 'static,
        V2: Clone + 'static,
        I: IntoIterator<Item = (K2, V2)> + 'static,
    {
        self.flat_map_nodes(move |k, v| {
            Ok(match v {
                Some(v) => Ok(mapper(k.as_ref(), v).into_iter().map(|(k, v)| (Some(k), Some(v)))),
                None => Err(DropReason::NullValue),
            })
        })
    }

    /// As [`flat_map`](Self::flat_map), for nulls too, and it may fail.
    #[track_caller]
    pub fn try_flat_map<K2, V2, I, E>(
        &self,
        mapper: impl Fn(Option<K>, Option<V>) -> Result<I, E> + Send + Sync + 'static,
    ) -> KStream<K2, V2>
    where
        K2: Clone + 'static,
        V2: Clone + 'static,
        I: IntoIterator<Item = (Option<K2>, Option<V2>)> + 'static,
        E: Into<BoxError>,
    {
        self.flat_map_nodes(move |k, v| boxed(mapper(k, v)).map(Ok))
    }

    #[track_caller]
    fn flat_map_value_nodes<V2, I>(
        &self,
        mapper: impl Fn(Option<&K>, Option<V>) -> Result<Result<I, DropReason>, BoxError> + Send + Sync + 'static,
    ) -> KStream<K, V2>
    where
        V2: Clone + 'static,
        I: IntoIterator<Item = Option<V2>> + 'static,
    {
        let mapper = Arc::new(mapper);
        let factory = ops::node::<K, V, K, V2, _>(move |node, outputs| flat_map::FlatMapValues {
            node,
            outputs,
            mapper: mapper.clone(),
        });
        self.then("KSTREAM-FLATMAPVALUES-", factory, self.new_values())
    }

    /// Any number of values from each; the key and the partitioning stay. Null values are dropped and counted.
    #[track_caller]
    pub fn flat_map_values<V2, I>(&self, mapper: impl Fn(V) -> I + Send + Sync + 'static) -> KStream<K, V2>
    where
        V2: Clone + 'static,
        I: IntoIterator<Item = V2> + 'static,
    {
        self.flat_map_value_nodes(move |_, v| {
            Ok(match v {
                Some(v) => Ok(mapper(v).into_iter().map(Some)),
                None => Err(DropReason::NullValue),
            })
        })
    }

    /// As [`flat_map_values`](Self::flat_map_values) with the key, for nulls too, and it may fail.
    #[track_caller]
    pub fn try_flat_map_values<V2, I, E>(
        &self,
        mapper: impl Fn(Option<&K>, Option<V>) -> Result<I, E> + Send + Sync + 'static,
    ) -> KStream<K, V2>
    where
        V2: Clone + 'static,
        I: IntoIterator<Item = Option<V2>> + 'static,
        E: Into<BoxError>,
    {
        self.flat_map_value_nodes(move |k, v| boxed(mapper(k, v)).map(Ok))
    }

    // ---- looking ----

    #[track_caller]
    fn look<E: Into<BoxError>>(
        &self,
        prefix: &str,
        action: impl Fn(Option<&K>, Option<&V>) -> Result<(), E> + Send + Sync + 'static,
    ) -> Self {
        let action = Arc::new(move |k: Option<&K>, v: Option<&V>| boxed(action(k, v)));
        let factory = ops::node::<K, V, K, V, _>(move |node, outputs| peek::Peek {
            node,
            outputs,
            action: action.clone(),
        });
        self.then(prefix, factory, self.same())
    }

    /// Looks at each record that has a value, and passes it on.
    #[track_caller]
    pub fn peek(&self, action: impl Fn(Option<&K>, &V) + Send + Sync + 'static) -> Self {
        self.try_peek(move |k, v| {
            if let Some(v) = v {
                action(k, v);
            }
            Ok::<_, Infallible>(())
        })
    }

    /// As [`peek`](Self::peek), for nulls too, and it may fail.
    #[track_caller]
    pub fn try_peek<E: Into<BoxError>>(
        &self,
        action: impl Fn(Option<&K>, Option<&V>) -> Result<(), E> + Send + Sync + 'static,
    ) -> Self {
        self.look("KSTREAM-PEEK-", action)
    }

    /// Does something with each record that has a value. The end of the stream: what is returned only takes a name.
    #[track_caller]
    pub fn for_each(&self, action: impl Fn(Option<&K>, &V) + Send + Sync + 'static) -> Terminal {
        self.try_for_each(move |k, v| {
            if let Some(v) = v {
                action(k, v);
            }
            Ok::<_, Infallible>(())
        })
    }

    /// As [`for_each`](Self::for_each), for nulls too, and it may fail.
    #[track_caller]
    pub fn try_for_each<E: Into<BoxError>>(
        &self,
        action: impl Fn(Option<&K>, Option<&V>) -> Result<(), E> + Send + Sync + 'static,
    ) -> Terminal {
        let end = self.look("KSTREAM-FOREACH-", action);
        Terminal { graph: end.graph, node: end.node }
    }

    /// Prints each record, nulls too: `[label]: key, value`.
    #[track_caller]
    pub fn print(&self, printed: impl Into<Printed<K, V>>) {
        let printed = printed.into();
        let name = printed.name.clone();
        let from = self.graph.borrow().name(self.node);
        let action = printed.action(&from);
        let end = self.look("KSTREAM-PRINTER-", action);
        if let Some(name) = name {
            self.graph.borrow_mut().rename(end.node, &name, false);
        }
    }

    // ---- branches and merges ----

    /// Splits the stream: each record goes to the first branch whose predicate holds.
    #[track_caller]
    pub fn split(&self) -> BranchedKStream<K, V> {
        BranchedKStream::new(self)
    }

    /// Both streams as one. There is no order between their records.
    #[track_caller]
    pub fn merge(&self, other: &Self) -> Self {
        let mut graph = self.graph.borrow_mut();
        if !Rc::ptr_eq(&self.graph, &other.graph) {
            graph.refuse("streams of two builders cannot be merged; make both with one StreamsBuilder");
            return self.clone();
        }
        let name = graph.draw("KSTREAM-MERGE-");
        let factory = ops::node::<K, V, K, V, _>(|_, outputs| pass_through::PassThrough { outputs });
        let kind = GraphKind::Processor(ProcessorSpec { factory, stores: Vec::new() });
        let node = graph.add(&[self.node, other.node], name, kind);
        drop(graph);
        let repartition_required = self.repartition_required || other.repartition_required;
        KStream::new(self.graph.clone(), node, None, None, repartition_required)
    }

    // ---- topics ----

    /// Writes the stream to a topic, which must exist.
    #[track_caller]
    pub fn to(&self, to: impl Into<Produced<K, V>>) {
        let Produced { topic, serdes, name, partitioner } = to.into();
        let mut graph = self.graph.borrow_mut();
        let name = graph.name_or_draw(name.as_ref(), "KSTREAM-SINK-");
        let (fixed, label, target) = match topic {
            SinkTopic::Fixed(topic) => (Some(topic.clone()), topic.clone(), sink::SinkTo::Fixed(topic)),
            SinkTopic::Chosen(label, choose) => (None, label, sink::SinkTo::Chosen(choose)),
        };
        let key_serde = serdes.key(self.key_serde.as_ref());
        let window_bytes = key_serde.window_bytes();
        let value_serde = serdes.value(self.value_serde.as_ref());
        let factory = sink::factory(sink::SinkOptions {
            topic: target,
            key_serde,
            value_serde,
            partitioner,
            window_bytes,
        });
        graph.add(&[self.node], name, GraphKind::Sink { topic: fixed, label, factory });
    }

    /// Sends the stream through a topic of its own, so that records with equal keys meet in one partition.
    #[track_caller]
    pub fn repartition(&self, options: impl Into<Repartitioned<K, V>>) -> Self {
        let Repartitioned { name, serdes, partitions, partitioner } = options.into();
        let mut graph = self.graph.borrow_mut();
        if partitions.is_some_and(|n| n < 1) {
            graph.refuse("a repartition topic has at least one partition");
        }
        let named = name.is_some();
        let prefix = name.unwrap_or_else(|| graph.draw("KSTREAM-REPARTITION-"));
        let keys = serdes.key(self.key_serde.as_ref());
        let values = serdes.value(self.value_serde.as_ref());
        let spec = RepartitionParts { prefix, named, keys, values, partitions, partitioner };
        drop(graph);
        self.through(spec)
    }

    /// Adds the nodes around a repartition topic (`KStreamImpl.createRepartitionedSource`).
    #[track_caller]
    pub(crate) fn through(&self, parts: RepartitionParts<K, V>) -> Self {
        let (name, spec) = parts.spec(&mut self.graph.borrow_mut());
        let node = self.graph.borrow_mut().add(&[self.node], name, GraphKind::Repartition(Box::new(spec.0)));
        KStream::new(self.graph.clone(), node, Some(spec.1), Some(spec.2), false)
    }

    /// The stream as a join needs it: records of one key in one partition (`KStreamImpl.repartitionForJoin`).
    #[track_caller]
    pub(crate) fn repartitioned_for_join(
        &self,
        name: Option<&Arc<str>>,
        keys: &SerdeRef<K>,
        values: &SerdeRef<V>,
    ) -> Self {
        let own_name = self.graph.borrow().name(self.node);
        let parts = RepartitionParts {
            prefix: name.cloned().unwrap_or(own_name),
            named: name.is_some(),
            keys: keys.clone(),
            values: values.clone(),
            partitions: None,
            partitioner: None,
        };
        let mut graph = self.graph.borrow_mut();
        // The numbers are drawn even if the topic is there.
        let (source_name, (spec, keys, values)) = parts.spec(&mut graph);
        let node = match self.for_joins.get().filter(|_| name.is_none()) {
            Some(node) => node,
            None => graph.add(&[self.node], source_name, GraphKind::Repartition(Box::new(spec))),
        };
        self.for_joins.set(Some(node));
        drop(graph);
        KStream::new(self.graph.clone(), node, Some(keys), Some(values), false)
    }

    // ---- grouping and tables ----

    /// Groups the records by their keys.
    #[track_caller]
    pub fn group_by_key(&self, grouped: impl Into<Grouped<K, V>>) -> KGroupedStream<K, V> {
        KGroupedStream::new(self.clone(), grouped.into())
    }

    /// Groups the records by a new key; a repartition follows. Null values are dropped and counted.
    #[track_caller]
    pub fn group_by<K2: Clone + 'static>(
        &self,
        grouped: impl Into<Grouped<K2, V>>,
        mapper: impl Fn(Option<&K>, &V) -> K2 + Send + Sync + 'static,
    ) -> KGroupedStream<K2, V> {
        self.grouped_by(grouped.into(), self.select_key(mapper))
    }

    /// As [`group_by`](Self::group_by), for nulls too, and it may fail.
    #[track_caller]
    pub fn try_group_by<K2: Clone + 'static, E: Into<BoxError>>(
        &self,
        grouped: impl Into<Grouped<K2, V>>,
        mapper: impl Fn(Option<&K>, Option<&V>) -> Result<Option<K2>, E> + Send + Sync + 'static,
    ) -> KGroupedStream<K2, V> {
        self.grouped_by(grouped.into(), self.try_select_key(mapper))
    }

    #[track_caller]
    fn grouped_by<K2: Clone + 'static>(
        &self,
        grouped: Grouped<K2, V>,
        rekeyed: KStream<K2, V>,
    ) -> KGroupedStream<K2, V> {
        let rekeyed = match &grouped.name {
            Some(name) => rekeyed.named(name),
            None => rekeyed,
        };
        KGroupedStream::new(rekeyed, grouped)
    }

    /// The table of the last value of each key; a null value deletes. Null keys are dropped and counted.
    #[track_caller]
    pub fn to_table(&self, materialized: impl Into<Materialized<K, V>>) -> KTable<K, V> {
        let materialized = materialized.into();
        let mut graph = self.graph.borrow_mut();
        let name = graph.name_or_draw(materialized.processor.as_ref(), "KSTREAM-TOTABLE-");
        let store = graph.store_name(materialized.store.as_ref(), "KSTREAM-TOTABLE-");
        drop(graph);
        let keys = materialized.serdes.key(self.key_serde.as_ref());
        let values = materialized.serdes.value(self.value_serde.as_ref());
        let parent = if self.repartition_required {
            self.through(RepartitionParts {
                prefix: name.clone(),
                named: materialized.processor.is_some(),
                keys: keys.clone(),
                values: values.clone(),
                partitions: None,
                partitioner: None,
            })
        } else {
            self.clone()
        };
        let settings = TableSettings::new(None);
        let factory = table_source::factory::<K, V>(settings.clone());
        let mut graph = self.graph.borrow_mut();
        let kind = GraphKind::Processor(ProcessorSpec { factory, stores: Vec::new() });
        let node = graph.add(&[parent.node], name, kind);
        drop(graph);
        let table = source_table(&self.graph, node, settings, &materialized, store, (&keys, &values));
        KTable::new(self.graph.clone(), node, keys, values, table)
    }

    // ---- processors ----

    /// Hands the records to a processor. `supplier` makes one for each task, from the handles of the stores it is
    /// connected to. What follows may repartition, because a processor may change keys.
    #[track_caller]
    pub fn process<P, KO, VO>(
        &self,
        supplier: impl Fn(&Stores<'_, '_>) -> Result<P> + Send + Sync + 'static,
        stores: &[&dyn StoreBuilder],
    ) -> KStream<KO, VO>
    where
        P: Processor<K, V, KO, VO>,
        KO: Clone + 'static,
        VO: Clone + 'static,
    {
        let factory = processor::factory::<P, K, V, KO, VO>(supplier);
        self.processed(
            "KSTREAM-PROCESSOR-",
            factory,
            stores,
            Next { keys: None, values: None, repartition_required: true },
        )
    }

    /// Hands the records to a processor that cannot change their keys, so that no repartition follows. `supplier` makes
    /// one for each task, from the handles of the stores it is connected to.
    #[track_caller]
    pub fn process_values<P, VO>(
        &self,
        supplier: impl Fn(&Stores<'_, '_>) -> Result<P> + Send + Sync + 'static,
        stores: &[&dyn StoreBuilder],
    ) -> KStream<K, VO>
    where
        P: FixedKeyProcessor<K, V, VO>,
        VO: Clone + 'static,
    {
        let supplier = move |stores: &Stores<'_, '_>| supplier(stores).map(FixedKey);
        let factory = processor::factory::<FixedKey<P>, K, V, K, VO>(supplier);
        self.processed("KSTREAM-PROCESSVALUES-", factory, stores, self.new_values())
    }

    #[track_caller]
    fn processed<K2: Clone + 'static, V2: Clone + 'static>(
        &self,
        prefix: &str,
        factory: NodeFactory,
        stores: &[&dyn StoreBuilder],
        next: Next<K2, V2>,
    ) -> KStream<K2, V2> {
        let mut graph = self.graph.borrow_mut();
        let name = graph.draw(prefix);
        let stores = stores.iter().map(|store| store.blueprint()).collect();
        let node = graph.add(&[self.node], name, GraphKind::Processor(ProcessorSpec { factory, stores }));
        drop(graph);
        let mut stream =
            KStream::new(self.graph.clone(), node, next.keys, next.values, next.repartition_required);
        stream.drawn_if_unnamed = true;
        stream
    }
}

/// The end of a stream, which only takes a name.
pub struct Terminal {
    graph: Rc<RefCell<Graph>>,
    node: GraphIx,
}

impl fmt::Debug for Terminal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Terminal({})", self.graph.borrow().name(self.node))
    }
}

impl Terminal {
    /// Names the operator.
    #[track_caller]
    pub fn named(self, name: &str) {
        self.graph.borrow_mut().rename(self.node, name, false);
    }
}

/// What a repartition topic is made from.
pub(crate) struct RepartitionParts<K, V> {
    pub(crate) prefix: Arc<str>,
    pub(crate) named: bool,
    pub(crate) keys: SerdeRef<K>,
    pub(crate) values: SerdeRef<V>,
    pub(crate) partitions: Option<i32>,
    pub(crate) partitioner: Option<super::options::Partitioner<K, V>>,
}

const REPARTITION_SUFFIX: &str = "-repartition";

impl<K: Clone + 'static, V: Clone + 'static> RepartitionParts<K, V> {
    /// The name of the source behind the topic, and the nodes; draws three numbers.
    pub(crate) fn spec(self, graph: &mut Graph) -> (Arc<str>, (RepartitionSpec, SerdeRef<K>, SerdeRef<V>)) {
        let topic: Arc<str> = if self.prefix.ends_with(REPARTITION_SUFFIX) {
            self.prefix.clone()
        } else {
            format!("{}{REPARTITION_SUFFIX}", self.prefix).into()
        };
        let drawn_sink = graph.draw("KSTREAM-SINK-");
        let drawn_filter = graph.draw("KSTREAM-FILTER-");
        let drawn_source = graph.draw("KSTREAM-SOURCE-");
        let (sink_name, filter_name, source_name) = if is_generated(&self.prefix) {
            (drawn_sink, drawn_filter, drawn_source)
        } else {
            (
                format!("{topic}-sink").into(),
                format!("{topic}-filter").into(),
                format!("{topic}-source").into(),
            )
        };
        let filter = |keep| {
            ops::node::<K, V, K, V, _>(move |node, outputs| null_key_filter::NullKeyFilter {
                node,
                outputs,
                keep,
            })
        };
        let sink = sink::factory(sink::SinkOptions {
            topic: sink::SinkTo::Fixed(topic.clone()),
            key_serde: self.keys.clone(),
            value_serde: self.values.clone(),
            partitioner: self.partitioner,
            // As in Java, whose repartition topics are partitioned by all of the key.
            window_bytes: 0,
        });
        // The time of a record is the sender's, whatever default.timestamp.extractor says of outside topics.
        let source = source::factory(
            self.keys.clone(),
            self.values.clone(),
            Some(Arc::new(|record: &Extract<'_, K, V>| Ok(record.record_timestamp))),
        );
        let spec = RepartitionSpec {
            topic,
            named: self.named,
            partitions: self.partitions,
            filter: Some((filter_name, Box::new(filter))),
            sink_name,
            sink,
            source,
        };
        (source_name, (spec, self.keys, self.values))
    }
}

/// Java's test for a generated prefix: `KSTREAM.*-[0-9]{10}`.
fn is_generated(prefix: &str) -> bool {
    prefix.starts_with("KSTREAM")
        && prefix.len() >= 18
        && prefix.as_bytes()[prefix.len() - 11] == b'-'
        && prefix.bytes().rev().take(10).all(|b| b.is_ascii_digit())
}
