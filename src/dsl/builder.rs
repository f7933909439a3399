//! Where a topology begins.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use super::graph::{Graph, GraphKind, ProcessorSpec, ROOT};
use super::ops::{source, table_source};
use super::options::{Consumed, Materialized};
use super::stream::KStream;
use super::table::{KTable, source_table};
use super::table_node::TableSettings;
use crate::config::Config;
use crate::error::Result;
use crate::store::StoreBuilder;
use crate::topology::{Topology, refuse_optimizations};

/// Gathers streams and tables, and builds the topology
/// (`org.apache.kafka.streams.StreamsBuilder`).
///
/// ```
/// use mainstem::prelude::*;
///
/// let builder = StreamsBuilder::new();
/// builder
///     .stream::<String, String>("lines")
///     .flat_map_values(|line| line.split(' ').map(str::to_owned).collect::<Vec<_>>())
///     .group_by("words", |_, word| word.clone())
///     .count("counts")
///     .to_stream()
///     .to("word-counts");
/// let topology = builder.build()?;
/// # Ok::<(), mainstem::Error>(())
/// ```
pub struct StreamsBuilder {
    pub(super) graph: Rc<RefCell<Graph>>,
    allow_generated_names: std::cell::Cell<bool>,
}

impl fmt::Debug for StreamsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamsBuilder").finish_non_exhaustive()
    }
}

impl Default for StreamsBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl StreamsBuilder {
    /// An empty builder.
    pub fn new() -> Self {
        Self {
            graph: Rc::new(RefCell::new(Graph::new())),
            allow_generated_names: std::cell::Cell::new(false),
        }
    }

    /// Lets stores and repartition topics go by generated names, as Kafka Streams does. A generated name moves when an
    /// operator is inserted before it; its state stays behind under the old name.
    pub fn allow_generated_names(&self) -> &Self {
        self.allow_generated_names.set(true);
        self
    }

    /// A stream of one or several topics.
    #[track_caller]
    pub fn stream<K: Clone + 'static, V: Clone + 'static>(
        &self,
        from: impl Into<Consumed<K, V>>,
    ) -> KStream<K, V> {
        let Consumed { topics, serdes, name, reset, extractor } = from.into();
        let (keys, values) = (serdes.key(None), serdes.value(None));
        let mut graph = self.graph.borrow_mut();
        if topics.is_empty() {
            graph.refuse("a stream reads at least one topic");
        }
        let name = graph.name_or_draw(name.as_ref(), "KSTREAM-SOURCE-");
        let factory = source::factory(keys.clone(), values.clone(), extractor);
        let spec = source::spec::<K, V>(topics, reset, factory);
        let node = graph.add(&[ROOT], name, GraphKind::Source(spec));
        drop(graph);
        KStream::new(self.graph.clone(), node, Some(keys), Some(values), false)
    }

    /// A table of one topic: the last value of each key. It is kept in a store if `materialized` names one, or if somebody
    /// reads the table (a join) or asks what its rows were before (a grouping).
    #[track_caller]
    pub fn table<K: Clone + 'static, V: Clone + 'static>(
        &self,
        from: impl Into<Consumed<K, V>>,
        materialized: impl Into<Materialized<K, V>>,
    ) -> KTable<K, V> {
        let Consumed { topics, serdes, name, reset, extractor } = from.into();
        let materialized = materialized.into();
        let (keys, values) = (serdes.key(None), serdes.value(None));
        let mut graph = self.graph.borrow_mut();
        if topics.len() != 1 {
            graph.refuse("a table reads exactly one topic");
        }
        // The order of draws is Java's: the store's name first, then the source, then the table.
        let prefix = format!("{}-", topics.first().map_or("", |t| t));
        let store_name = graph.store_name(materialized.store.as_ref(), &prefix);
        let drawn = graph.draw("KSTREAM-SOURCE-");
        let source_name = name.as_ref().map_or(drawn, |name| format!("{name}-source").into());
        let table_name = graph.name_or_draw(name.as_ref(), "KTABLE-SOURCE-");
        let settings = TableSettings::new(None);
        let table =
            ProcessorSpec { factory: table_source::factory::<K, V>(settings.clone()), stores: Vec::new() };
        let factory = source::factory(keys.clone(), values.clone(), extractor);
        let spec = source::spec::<K, V>(topics, reset, factory);
        let kind = GraphKind::TableSource { source_name, source: spec, table };
        let node = graph.add(&[ROOT], table_name, kind);
        drop(graph);
        let keys = materialized.serdes.key(Some(&keys));
        let values = materialized.serdes.value(Some(&values));
        let table = source_table(&self.graph, node, settings, &materialized, store_name, (&keys, &values));
        KTable::new(self.graph.clone(), node, keys, values, table)
    }

    /// Adds a store that no `process` call brings with it. Stores passed to `process` need not be added.
    #[track_caller]
    pub fn add_state_store(&self, store: &dyn StoreBuilder) -> &Self {
        let mut graph = self.graph.borrow_mut();
        let name = store.name().into();
        graph.add(&[ROOT], name, GraphKind::Store(store.blueprint()));
        drop(graph);
        self
    }

    /// As [`build`](Self::build), and as the configuration says: whether generated names are allowed
    /// (`ensure.explicit.internal.resource.naming`).
    ///
    /// # Errors
    /// As `build`; also when `topology.optimization` asks for a rewrite, none of which there is yet.
    pub fn build_with(&self, config: &Config) -> Result<Topology> {
        refuse_optimizations(config)?;
        let allow = self.allow_generated_names.get() || config.allow_generated_names();
        self.graph.borrow_mut().build(allow)
    }

    /// Checks everything and builds the topology. The error lists all that is wrong, each with the line that made it.
    pub fn build(&self) -> Result<Topology> {
        self.graph.borrow_mut().build(self.allow_generated_names.get())
    }
}
