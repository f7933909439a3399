//! Global tables and stores: every instance has all of them, whatever its tasks are.

use std::cell::RefCell;
use std::convert::Infallible;
use std::fmt;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;

use super::builder::StreamsBuilder;
use super::graph::{Graph, GraphKind, ProcessorSpec, ROOT};
use super::ops::stream_table_join::{self, Joiner, KeyMapper, StreamTable};
use super::ops::{source, table_source};
use super::options::{Consumed, Materialized};
use super::stream::KStream;
use super::table_node::{MakeGetter, TableSettings};
use crate::error::{BoxError, Result};
use crate::store::{StoreBuilder, global};
use crate::topology::{Processor, Stores, processor};

/// A table that every instance has all of (`org.apache.kafka.streams.kstream.GlobalKTable`).
///
/// An instance reads the topic to its end before it processes anything, and follows it from then on. Records of streams and of
/// the table are not aligned by time.
pub struct GlobalKTable<K, V> {
    graph: Rc<RefCell<Graph>>,
    store: Arc<str>,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K, V> Clone for GlobalKTable<K, V> {
    fn clone(&self) -> Self {
        Self { graph: self.graph.clone(), store: self.store.clone(), types: PhantomData }
    }
}

impl<K, V> fmt::Debug for GlobalKTable<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GlobalKTable({})", self.store)
    }
}

impl StreamsBuilder {
    /// A table of one topic that every instance has all of. Null keys are dropped and counted.
    ///
    /// ```
    /// use mainstem::prelude::*;
    ///
    /// let builder = StreamsBuilder::new();
    /// let countries = builder.global_table::<String, String>("countries", "countries");
    /// builder
    ///     .stream::<String, String>("orders")
    ///     .join_global(&countries, |_, order| order[..2].to_owned(), |order, country| format!("{order} to {country}"))
    ///     .to("shipments");
    /// builder.build()?;
    /// # Ok::<(), mainstem::Error>(())
    /// ```
    #[track_caller]
    pub fn global_table<K: Clone + 'static, V: Clone + 'static>(
        &self,
        from: impl Into<Consumed<K, V>>,
        materialized: impl Into<Materialized<K, V>>,
    ) -> GlobalKTable<K, V> {
        let Consumed { topics, serdes, name, extractor, .. } = from.into();
        let materialized = materialized.into();
        let (keys, values) = (serdes.key(None), serdes.value(None));
        let mut graph = self.graph.borrow_mut();
        if materialized.history.is_some() {
            graph.refuse("a global table cannot be versioned");
        }
        if topics.len() != 1 {
            graph.refuse("a global table reads exactly one topic");
        }
        let prefix = format!("{}-", topics.first().map_or("", |t| t));
        let store = graph.store_name(materialized.store.as_ref(), &prefix);
        let drawn = graph.draw("KSTREAM-SOURCE-");
        let source_name = name.as_ref().map_or(drawn, |name| format!("{name}-source").into());
        let table_name = graph.name_or_draw(name.as_ref(), "KTABLE-SOURCE-");
        let source = source::factory(keys.clone(), values.clone(), extractor);
        let keys = materialized.serdes.key(Some(&keys));
        let values = materialized.serdes.value(Some(&values));
        let blueprint = materialized.store_options(&store, &keys, &values).blueprint();
        let kind = GraphKind::Global {
            source_name,
            source: source::spec::<K, V>(topics, None, source),
            factory: table_source::factory::<K, V>(TableSettings::new(Some(store.clone()))),
            store: global::blueprint(blueprint),
        };
        graph.add(&[ROOT], table_name, kind);
        drop(graph);
        GlobalKTable { graph: self.graph.clone(), store, types: PhantomData }
    }

    /// Adds a store that every instance has all of, and the processor that fills it from a topic. Nothing else writes it; every
    /// processor reads it through [`Stores::global`] without being connected to it. It is not logged: the topic is its
    /// changelog, and every record of it goes through the processor at each start (KAFKA-7663).
    ///
    /// ```
    /// use mainstem::prelude::*;
    ///
    /// /// Keeps the length of the last text of each key.
    /// struct Lengths {
    ///     store: KeyValueStore<String, i64>,
    /// }
    ///
    /// impl Processor<String, String, (), ()> for Lengths {
    ///     fn process(&mut self, record: Record<String, String>, cx: &mut Context<'_, (), ()>) -> Outcome {
    ///         let Some(key) = &record.key else { return Ok(()) };
    ///         let length = record.value.as_ref().map(|text| text.len() as i64);
    ///         cx.store(&self.store).put(key, length)
    ///     }
    /// }
    ///
    /// let lengths = KeyValue::<String, i64>::named("lengths");
    /// let builder = StreamsBuilder::new();
    /// let filled = lengths.clone();
    /// builder.add_global_store(&lengths, "texts", move |stores| Ok(Lengths { store: stores.get(&filled)? }));
    /// builder.stream::<String, String>("in").to("out");
    /// builder.build()?;
    /// # Ok::<(), mainstem::Error>(())
    /// ```
    #[track_caller]
    pub fn add_global_store<K: Clone + 'static, V: Clone + 'static, P: Processor<K, V, (), ()>>(
        &self,
        store: &dyn StoreBuilder,
        from: impl Into<Consumed<K, V>>,
        supplier: impl Fn(&Stores<'_, '_>) -> Result<P> + Send + Sync + 'static,
    ) -> &Self {
        let Consumed { topics, serdes, name, extractor, .. } = from.into();
        let mut graph = self.graph.borrow_mut();
        if topics.len() != 1 {
            graph.refuse("a global store reads exactly one topic");
        }
        let drawn = graph.draw("KSTREAM-SOURCE-");
        let source_name = name.as_ref().map_or(drawn, |name| format!("{name}-source").into());
        let processor_name = graph.name_or_draw(name.as_ref(), "KTABLE-SOURCE-");
        let source = source::factory(serdes.key(None), serdes.value(None), extractor);
        let kind = GraphKind::Global {
            source_name,
            source: source::spec::<K, V>(topics, None, source),
            factory: processor::factory::<P, K, V, (), ()>(supplier),
            store: global::blueprint(store.blueprint()),
        };
        graph.add(&[ROOT], processor_name, kind);
        drop(graph);
        self
    }
}

impl<K: Clone + 'static, V: Clone + 'static> KStream<K, V> {
    /// Joins each record with the row of a global table that `mapper` names; without one it is dropped. Records with a null
    /// value are dropped and counted.
    #[track_caller]
    pub fn join_global<KT: Clone + 'static, VT: Clone + 'static, VO: Clone + 'static>(
        &self,
        table: &GlobalKTable<KT, VT>,
        mapper: impl Fn(Option<&K>, &V) -> KT + Send + Sync + 'static,
        joiner: impl Fn(V, VT) -> VO + Send + Sync + 'static,
    ) -> KStream<K, VO> {
        self.try_join_global(
            table,
            move |k, v| Ok::<_, Infallible>(Some(mapper(k, v))),
            move |_, v, row| Ok::<_, Infallible>(Some(joiner(v, row))),
        )
    }

    /// As [`join_global`](Self::join_global); both functions may fail. Where `mapper` gives `None` the record is dropped and
    /// counted; where `joiner` does, the value is null.
    #[track_caller]
    pub fn try_join_global<KT, VT, VO, E, F>(
        &self,
        table: &GlobalKTable<KT, VT>,
        mapper: impl Fn(Option<&K>, &V) -> Result<Option<KT>, E> + Send + Sync + 'static,
        joiner: impl Fn(Option<&K>, V, VT) -> Result<Option<VO>, F> + Send + Sync + 'static,
    ) -> KStream<K, VO>
    where
        KT: Clone + 'static,
        VT: Clone + 'static,
        VO: Clone + 'static,
        E: Into<BoxError>,
        F: Into<BoxError>,
    {
        let joiner: Joiner<K, V, VT, VO> = Arc::new(move |key, value, row| match row {
            Some(row) => joiner(key, value, row).map_err(Into::into),
            None => Ok(None),
        });
        self.joined_globally(table, Arc::new(move |k, v| mapper(k, v).map_err(Into::into)), joiner, false)
    }

    /// As [`join_global`](Self::join_global), and records without a row pass as well.
    #[track_caller]
    pub fn left_join_global<KT: Clone + 'static, VT: Clone + 'static, VO: Clone + 'static>(
        &self,
        table: &GlobalKTable<KT, VT>,
        mapper: impl Fn(Option<&K>, &V) -> KT + Send + Sync + 'static,
        joiner: impl Fn(V, Option<VT>) -> VO + Send + Sync + 'static,
    ) -> KStream<K, VO> {
        self.try_left_join_global(
            table,
            move |k, v| Ok::<_, Infallible>(Some(mapper(k, v))),
            move |_, v, row| Ok::<_, Infallible>(Some(joiner(v, row))),
        )
    }

    /// As [`left_join_global`](Self::left_join_global); both functions may fail. Where `mapper` gives `None` there is no row;
    /// where `joiner` does, the value is null.
    #[track_caller]
    pub fn try_left_join_global<KT, VT, VO, E, F>(
        &self,
        table: &GlobalKTable<KT, VT>,
        mapper: impl Fn(Option<&K>, &V) -> Result<Option<KT>, E> + Send + Sync + 'static,
        joiner: impl Fn(Option<&K>, V, Option<VT>) -> Result<Option<VO>, F> + Send + Sync + 'static,
    ) -> KStream<K, VO>
    where
        KT: Clone + 'static,
        VT: Clone + 'static,
        VO: Clone + 'static,
        E: Into<BoxError>,
        F: Into<BoxError>,
    {
        let joiner: Joiner<K, V, VT, VO> =
            Arc::new(move |key, value, row| joiner(key, value, row).map_err(Into::into));
        self.joined_globally(table, Arc::new(move |k, v| mapper(k, v).map_err(Into::into)), joiner, true)
    }

    /// `KStreamImpl.globalTableJoin`; both kinds of joins are named as left ones there.
    #[track_caller]
    fn joined_globally<KT: Clone + 'static, VT: Clone + 'static, VO: Clone + 'static>(
        &self,
        table: &GlobalKTable<KT, VT>,
        mapper: KeyMapper<K, V, KT>,
        joiner: Joiner<K, V, VT, VO>,
        is_left: bool,
    ) -> KStream<K, VO> {
        let store = table.store.clone();
        let getter: MakeGetter<KT, VT> = Arc::new(move |cx| Ok(Box::new(cx.global::<KT, VT>(&store)?)));
        let factory = stream_table_join::factory(StreamTable { mapper, joiner, is_left }, getter);
        let mut graph = self.graph.borrow_mut();
        if !Rc::ptr_eq(&self.graph, &table.graph) {
            graph.refuse(
                "a stream and a table of two builders cannot be joined; make both with one StreamsBuilder",
            );
        }
        let name = graph.draw("KSTREAM-LEFTJOIN-");
        let kind = GraphKind::Processor(ProcessorSpec { factory, stores: Vec::new() });
        let node = graph.add(&[self.node], name, kind);
        if is_left {
            graph.welcome_null_keys(node);
        }
        drop(graph);
        KStream::new(self.graph.clone(), node, self.key_serde.clone(), None, self.repartition_required)
    }
}
