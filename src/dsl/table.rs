//! Tables: the last value of each key, and its changes.

use std::cell::RefCell;
use std::convert::Infallible;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use super::graph::{Graph, GraphIx, GraphKind, ProcessorSpec};
use super::grouped_table::KGroupedTable;
use super::ops::table_values::Mapper;
use super::ops::{
    self, Change, ValueTransformerWithKey, suppress, table_group, table_transform_values, table_values,
    to_stream,
};
use super::options::{Grouped, Materialized};
use super::stream::KStream;
use super::suppressed::{Suppressed, Until};
use super::table_node::{SendsOldValues, TableKind, TableNode, TableSettings, View};
use bytes::Bytes;

use crate::error::{BoxError, Result};
use crate::serde::BytesSerde;
use crate::serde::buffered::BufferedSerde;
use crate::serde::erased::SerdeRef;
use crate::store::{KvOptions, StoreBuilder};
use crate::task::blueprint::NodeFactory;
use crate::topology::Stores;

/// A table: the last value of each key (`org.apache.kafka.streams.kstream.KTable`).
///
/// Operators that take user code have two forms. The closures of both see keys and values that are there; for a deletion
/// they are not called. The `try_` form may fail, and may say that there is no row; its error goes to the processing error
/// policy.
///
/// A table is kept in a store where it must be (aggregations), where somebody reads it (joins), and where
/// [`materialized`](Self::materialized) says so; else its changes just pass.
pub struct KTable<K, V> {
    pub(crate) graph: Rc<RefCell<Graph>>,
    pub(crate) node: GraphIx,
    pub(crate) key_serde: SerdeRef<K>,
    pub(crate) value_serde: Option<SerdeRef<V>>,
    pub(crate) table: Rc<TableNode<K, V>>,
}

impl<K, V> Clone for KTable<K, V> {
    fn clone(&self) -> Self {
        Self {
            graph: self.graph.clone(),
            node: self.node,
            key_serde: self.key_serde.clone(),
            value_serde: self.value_serde.clone(),
            table: self.table.clone(),
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
        value_serde: impl Into<Option<SerdeRef<V>>>,
        table: Rc<TableNode<K, V>>,
    ) -> Self {
        Self { graph, node, key_serde, value_serde: value_serde.into(), table }
    }

    /// How the table is read; it begins to be kept for this, if it is a source.
    pub(crate) fn view(&self) -> View<K, V> {
        self.table.view()
    }

    /// Names the operator just called. Its number stays used, so other generated names do not move.
    #[track_caller]
    pub fn named(self, name: &str) -> Self {
        self.graph.borrow_mut().rename(self.node, name, false);
        self
    }

    /// Keeps the table that the operator just called has made, so that it can be queried. What a topic, an aggregation or
    /// a foreign-key join has made takes its store's options there.
    ///
    /// ```
    /// use mainstem::prelude::*;
    ///
    /// let builder = StreamsBuilder::new();
    /// builder
    ///     .table::<String, i64>("stock", "stock")
    ///     .filter(|_, left| *left < 10)
    ///     .named("nearly-out-of-stock")
    ///     .materialized("to-be-ordered")
    ///     .to_stream()
    ///     .to("orders");
    /// builder.build()?;
    /// # Ok::<(), mainstem::Error>(())
    /// ```
    #[track_caller]
    pub fn materialized(mut self, materialized: impl Into<Materialized<K, V>>) -> Self {
        let materialized = materialized.into();
        let mut graph = self.graph.borrow_mut();
        let is_join = matches!(self.table.kind, TableKind::Joined(..));
        if matches!(self.table.kind, TableKind::Source(_) | TableKind::Kept(_)) {
            graph.refuse("this table takes the options of its store where it is made");
            drop(graph);
            return self;
        }
        if self.table.settings.store().is_some() {
            graph.refuse("the table is kept already");
            drop(graph);
            return self;
        }
        let keys = materialized.serdes.key(Some(&self.key_serde));
        let values = materialized.serdes.value(self.value_serde.as_ref());
        let store = match &materialized.store {
            Some(store) => Some(store.clone()),
            // Java draws a store's number before the operator's; only a join uses it.
            None => graph.draw_store_before(self.node).filter(|_| is_join),
        };
        if let Some(store) = store {
            graph.give_store(self.node, materialized.blueprint(&store, &keys, &values));
            graph.set_versioned(self.node, materialized.history.is_some());
            self.table.settings.keep(store);
        }
        drop(graph);
        (self.key_serde, self.value_serde) = (keys, Some(values));
        self
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
        KStream::new(self.graph.clone(), node, Some(keys), values, false)
    }

    /// The table's changes as a stream under other keys; the mapper sees deletions too.
    #[track_caller]
    pub fn to_stream_with_key<K2: Clone + 'static>(
        &self,
        mapper: impl Fn(&K, Option<&V>) -> K2 + Send + Sync + 'static,
    ) -> KStream<K2, V> {
        self.to_stream()
            .try_select_key(move |key, value| Ok::<_, Infallible>(key.map(|key| mapper(key, value))))
    }

    // ---- filter ----

    /// The rows that the predicate holds for. A row that it no longer holds for is deleted.
    #[track_caller]
    pub fn filter(&self, keep: impl Fn(&K, &V) -> bool + Send + Sync + 'static) -> Self {
        self.try_filter(move |k, v| Ok::<_, Infallible>(keep(k, v)))
    }

    /// As [`filter`](Self::filter), and it may fail.
    #[track_caller]
    pub fn try_filter<E: Into<BoxError>>(
        &self,
        keep: impl Fn(&K, &V) -> Result<bool, E> + Send + Sync + 'static,
    ) -> Self {
        // Where the rows above are kept, a filter knows which deletions nobody needs.
        let sends_old = self.table.send_old_values(false);
        let mapper: Mapper<K, V, V> =
            Arc::new(move |k, v| keep(k, &v).map(|keep| keep.then_some(v)).map_err(Into::into));
        let filtered = self.rows("KTABLE-FILTER-", mapper, self.value_serde.clone(), true);
        if sends_old {
            filtered.table.settings.send_old();
        }
        filtered
    }

    /// The rows that the predicate does not hold for.
    #[track_caller]
    pub fn filter_not(&self, drop: impl Fn(&K, &V) -> bool + Send + Sync + 'static) -> Self {
        self.filter(move |k, v| !drop(k, v))
    }

    /// As [`filter_not`](Self::filter_not), and it may fail.
    #[track_caller]
    pub fn try_filter_not<E: Into<BoxError>>(
        &self,
        drop: impl Fn(&K, &V) -> Result<bool, E> + Send + Sync + 'static,
    ) -> Self {
        self.try_filter(move |k, v| drop(k, v).map(|drop| !drop))
    }

    // ---- map_values ----

    /// A new value for each row.
    #[track_caller]
    pub fn map_values<V2: Clone + 'static>(
        &self,
        mapper: impl Fn(V) -> V2 + Send + Sync + 'static,
    ) -> KTable<K, V2> {
        self.try_map_values(move |_, v| Ok::<_, Infallible>(Some(mapper(v))))
    }

    /// As [`map_values`](Self::map_values); the mapper sees the key.
    #[track_caller]
    pub fn map_values_with_key<V2: Clone + 'static>(
        &self,
        mapper: impl Fn(&K, V) -> V2 + Send + Sync + 'static,
    ) -> KTable<K, V2> {
        self.try_map_values(move |k, v| Ok::<_, Infallible>(Some(mapper(k, v))))
    }

    /// As [`map_values_with_key`](Self::map_values_with_key); it may fail, and `None` is no row.
    #[track_caller]
    pub fn try_map_values<V2: Clone + 'static, E: Into<BoxError>>(
        &self,
        mapper: impl Fn(&K, V) -> Result<Option<V2>, E> + Send + Sync + 'static,
    ) -> KTable<K, V2> {
        let mapper: Mapper<K, V, V2> = Arc::new(move |k, v| mapper(k, v).map_err(Into::into));
        self.rows("KTABLE-MAPVALUES-", mapper, None, false)
    }

    /// The table of what `mapper` makes of each row.
    #[track_caller]
    fn rows<V2: Clone + 'static>(
        &self,
        prefix: &str,
        mapper: Mapper<K, V, V2>,
        values: Option<SerdeRef<V2>>,
        is_filter: bool,
    ) -> KTable<K, V2> {
        let settings = TableSettings::new(None);
        let factory = table_values::factory(settings.clone(), mapper.clone(), is_filter);
        let view = move |parent| table_values::view(parent, mapper.clone());
        let derived = self.derived(prefix, settings, factory, Vec::new(), values, view);
        if is_filter {
            self.graph.borrow_mut().follows_versions(derived.node, self.node, &derived.table.settings);
        }
        derived
    }

    // ---- transform_values ----

    /// A new value for each row, made by user code with state. `supplier` makes a transformer for each task, from the
    /// handles of the stores that it is connected to.
    ///
    /// ```
    /// use mainstem::prelude::*;
    /// use mainstem::BoxError;
    ///
    /// /// Numbers the versions of each row.
    /// struct Numbered {
    ///     seen: KeyValueStore<String, i64>,
    /// }
    ///
    /// impl ValueTransformerWithKey<String, String, String> for Numbered {
    ///     fn transform(
    ///         &mut self,
    ///         key: &String,
    ///         value: Option<String>,
    ///         cx: &mut TransformContext<'_>,
    ///     ) -> Result<Option<String>, BoxError> {
    ///         let Some(value) = value else { return Ok(None) };
    ///         let n = cx.store(&self.seen).get(key)?.unwrap_or(0) + 1;
    ///         cx.store(&self.seen).put(key, n)?;
    ///         Ok(Some(format!("{value} #{n}")))
    ///     }
    /// }
    ///
    /// let seen = KeyValue::<String, i64>::named("seen");
    /// let builder = StreamsBuilder::new();
    /// builder
    ///     .table::<String, String>("in", ())
    ///     .transform_values({ let seen = seen.clone(); move |stores| Ok(Numbered { seen: stores.get(&seen)? }) }, &[&seen])
    ///     .materialized("numbered")
    ///     .to_stream()
    ///     .to("out");
    /// builder.build()?;
    /// # Ok::<(), mainstem::Error>(())
    /// ```
    #[track_caller]
    pub fn transform_values<T, V2>(
        &self,
        supplier: impl Fn(&Stores<'_, '_>) -> Result<T> + Send + Sync + 'static,
        stores: &[&dyn StoreBuilder],
    ) -> KTable<K, V2>
    where
        T: ValueTransformerWithKey<K, V, V2>,
        V2: Clone + 'static,
    {
        let settings = TableSettings::new(None);
        let supplier: table_transform_values::Supplier<T> = Arc::new(supplier);
        let factory = table_transform_values::factory::<K, V, V2, T>(settings.clone(), supplier.clone());
        let stores: Vec<_> = stores.iter().map(|store| store.blueprint()).collect();
        let names: Vec<Arc<str>> = stores.iter().map(|store| store.name().clone()).collect();
        let view = move |parent| table_transform_values::view(parent, &names, supplier.clone());
        self.derived("KTABLE-TRANSFORMVALUES-", settings, factory, stores, None, view)
    }

    /// A table made of this one row by row.
    #[track_caller]
    fn derived<V2: Clone + 'static>(
        &self,
        prefix: &str,
        settings: Arc<TableSettings>,
        factory: NodeFactory,
        stores: Vec<Arc<dyn crate::store::StoreBlueprint>>,
        values: Option<SerdeRef<V2>>,
        view: impl Fn(View<K, V>) -> View<K, V2> + 'static,
    ) -> KTable<K, V2> {
        let mut graph = self.graph.borrow_mut();
        let name = graph.draw(prefix);
        let node = graph.add(&[self.node], name, GraphKind::Processor(ProcessorSpec { factory, stores }));
        drop(graph);
        let parent = self.table.clone();
        let view = Box::new(move || view(parent.view()));
        let table = TableNode { settings, kind: TableKind::Derived(self.table.clone(), view) };
        KTable::new(self.graph.clone(), node, self.key_serde.clone(), values, Rc::new(table))
    }

    // ---- suppress ----

    /// Holds changes back, and sends on the latest of each key when its time has come. See [`Suppressed`].
    #[track_caller]
    pub fn suppress(&self, suppressed: Suppressed<K, V>) -> Self {
        let Suppressed { until, buffer, name, values } = suppressed;
        let mut graph = self.graph.borrow_mut();
        let (node_name, store) = match &name {
            // A given name uses no number up here.
            Some(name) => (name.clone(), format!("{name}-store").into()),
            None => {
                let node = graph.draw("KTABLE-SUPPRESS-");
                (node, graph.store_name(None, "KTABLE-SUPPRESS-"))
            }
        };
        let until = until.unwrap_or_else(|error| {
            graph.refuse(error);
            Until::Limit(0)
        });
        let wait = match &until {
            Until::Limit(limit) => Some(*limit),
            Until::WindowCloses(_) => graph.grace(self.node),
        };
        let wait = wait.unwrap_or_else(|| {
            graph.refuse(
                "suppress() until windows close needs a windowed aggregation above it, on every way up",
            );
            0
        });
        let serdes = suppress::Serdes {
            keys: self.key_serde.clone(),
            values: self.value_serde.clone().unwrap_or(values),
        };
        let options = KvOptions {
            name: Arc::clone(&store),
            named: name.is_some(),
            key_serde: SerdeRef::<Bytes>::new(BytesSerde),
            value_serde: SerdeRef::new(BufferedSerde),
            timestamped: false,
            segments: None,
            cached: true,
            buffers: true,
            logs_headers: false,
            history: None,
            kind: None,
            changelog: buffer.changelog.clone(),
        };
        let spec =
            suppress::SuppressSpec { store: Arc::clone(&store), serdes: serdes.clone(), buffer, until, wait };
        let spec = ProcessorSpec { factory: suppress::factory(spec), stores: vec![options.blueprint()] };
        let node = graph.add(&[self.node], node_name, GraphKind::Processor(spec));
        graph.refuse_versions(node);
        graph.set_versioned(node, false);
        drop(graph);
        self.table.send_old_values(true);
        let (parent, values) = (self.table.clone(), serdes.values.clone());
        let view = Box::new(move || suppress::view(&store, &serdes, parent.view()));
        let settings = TableSettings::new(None);
        let table = TableNode { settings, kind: TableKind::Derived(self.table.clone(), view) };
        Self::new(self.graph.clone(), node, self.key_serde.clone(), values, Rc::new(table))
    }

    // ---- group_by ----

    /// Groups the rows by a new key. A repartition follows: what a row was leaves its group, what it is enters its own.
    ///
    /// ```
    /// use mainstem::prelude::*;
    ///
    /// let builder = StreamsBuilder::new();
    /// builder
    ///     .table::<String, String>("user-to-town", "user-to-town")
    ///     .group_by("by-town", |user, town| (town.clone(), user.clone()))
    ///     .count("users-of-a-town")
    ///     .to_stream()
    ///     .to("towns");
    /// builder.build()?;
    /// # Ok::<(), mainstem::Error>(())
    /// ```
    #[track_caller]
    pub fn group_by<K2, V2>(
        &self,
        grouped: impl Into<Grouped<K2, V2>>,
        selector: impl Fn(&K, &V) -> (K2, V2) + Send + Sync + 'static,
    ) -> KGroupedTable<K2, V2>
    where
        K2: Clone + PartialEq + 'static,
        V2: Clone + 'static,
    {
        self.try_group_by(grouped, move |k, v| {
            let (key, value) = selector(k, &v);
            Ok::<_, Infallible>((Some(key), Some(value)))
        })
    }

    /// As [`group_by`](Self::group_by); it may fail, and a row with a `None` for its key or its value is in no group.
    #[track_caller]
    pub fn try_group_by<K2, V2, E: Into<BoxError>>(
        &self,
        grouped: impl Into<Grouped<K2, V2>>,
        selector: impl Fn(&K, V) -> Result<(Option<K2>, Option<V2>), E> + Send + Sync + 'static,
    ) -> KGroupedTable<K2, V2>
    where
        K2: Clone + PartialEq + 'static,
        V2: Clone + 'static,
    {
        let grouped = grouped.into();
        let settings = TableSettings::new(None);
        let selector: table_group::Selector<K, V, K2, V2> =
            Arc::new(move |k, v| selector(k, v).map_err(Into::into));
        let factory = table_group::factory(settings.clone(), selector);
        let mut graph = self.graph.borrow_mut();
        let name = graph.name_or_draw(grouped.name.as_ref(), "KTABLE-SELECT-");
        let kind = GraphKind::Processor(ProcessorSpec { factory, stores: Vec::new() });
        let node = graph.add(&[self.node], name, kind);
        graph.follows_versions(node, self.node, &settings);
        drop(graph);
        self.table.send_old_values(true);
        KGroupedTable::new(self.graph.clone(), node, grouped)
    }
}

/// A table that is made from a topic or a stream: it is kept if its store has a name, or once it must be
/// (`KTableSource.materialize`).
pub(crate) fn source_table<K: Clone + 'static, V: Clone + 'static>(
    graph: &Rc<RefCell<Graph>>,
    node: GraphIx,
    settings: Arc<TableSettings>,
    materialized: &Materialized<K, V>,
    store: Arc<str>,
    (keys, values): (&SerdeRef<K>, &SerdeRef<V>),
) -> Rc<TableNode<K, V>> {
    let blueprint = materialized.blueprint(&store, keys, values);
    graph.borrow_mut().set_versioned(node, materialized.history.is_some());
    let keep = {
        let (graph, settings) = (graph.clone(), settings.clone());
        move || {
            if settings.store().is_none() {
                settings.keep(store.clone());
                let mut graph = graph.borrow_mut();
                graph.give_store(node, blueprint.clone());
                graph.meets_by_key(node);
            }
        }
    };
    if materialized.store.is_some() {
        keep();
    }
    Rc::new(TableNode { settings, kind: TableKind::Source(Box::new(keep)) })
}
