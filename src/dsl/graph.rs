//! The graph that DSL calls draw, before it becomes a topology: the place where the optimizer rewrites
//! (`org.apache.kafka.streams.kstream.internals.InternalStreamsBuilder`).
//!
//! Names come from one counter, drawn when a DSL call is made and in the order in which Java's calls draw them, so that
//! nodes, stores and topics have Java's names. A name that the user gives still uses its number up.

use std::any::TypeId;
use std::panic::Location;
use std::sync::Arc;

use super::table_node::TableSettings;
use crate::error::{Error, ErrorKind, Result};
use crate::store::StoreBlueprint;
use crate::task::blueprint::{NodeFactory, SourceFactory};
use crate::topology::{AutoOffsetReset, NodeSpec, SpecKind, Topology, TopologyBuilder};

/// The position of a node in the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GraphIx(usize);

pub(crate) const ROOT: GraphIx = GraphIx(0);

/// What a graph node writes into the topology.
pub(crate) enum GraphKind {
    Root,
    Source(SourceSpec),
    /// A table's source: a source node and the processor that keeps the table.
    TableSource {
        source_name: Arc<str>,
        source: SourceSpec,
        table: ProcessorSpec,
    },
    Processor(ProcessorSpec),
    Repartition(Box<RepartitionSpec>),
    TableJoin(Box<TableJoinSpec>),
    /// A global store: a source, and the processor that fills the store.
    Global {
        source_name: Arc<str>,
        source: SourceSpec,
        factory: NodeFactory,
        store: Arc<dyn StoreBlueprint>,
    },
    Sink {
        topic: Option<Arc<str>>,
        label: Arc<str>,
        factory: NodeFactory,
    },
    Store(Arc<dyn StoreBlueprint>),
}

pub(crate) struct SourceSpec {
    pub(crate) topics: Vec<Arc<str>>,
    pub(crate) reset: Option<AutoOffsetReset>,
    pub(crate) types: TypeId,
    pub(crate) type_names: &'static str,
    pub(crate) factory: SourceFactory,
}

pub(crate) struct ProcessorSpec {
    pub(crate) factory: NodeFactory,
    /// Stores that come with the processor.
    pub(crate) stores: Vec<Arc<dyn StoreBlueprint>>,
}

/// Makes the filter before a repartition topic, which lets records without a key pass or not.
pub(crate) type NullKeyFilterFactory = Box<dyn Fn(bool) -> NodeFactory>;

/// A join of two tables: a node for the changes of each, and one behind both (`KTableKTableJoinNode`).
pub(crate) struct TableJoinSpec {
    pub(crate) this: JoinSide,
    pub(crate) other: JoinSide,
    pub(crate) merge: ProcessorSpec,
}

/// The node for the changes of one side.
pub(crate) struct JoinSide {
    pub(crate) name: Arc<str>,
    pub(crate) parent: GraphIx,
    pub(crate) factory: NodeFactory,
    /// What the other side is read from.
    pub(crate) stores: Vec<Arc<str>>,
}

/// A topic between two sub-topologies: a filter and a sink before it, a source behind it.
pub(crate) struct RepartitionSpec {
    pub(crate) topic: Arc<str>,
    pub(crate) named: bool,
    pub(crate) partitions: Option<i32>,
    /// The filter's name, and the filter: whether records without a key pass is known when the topology is built. None where
    /// every record has a key.
    pub(crate) filter: Option<(Arc<str>, NullKeyFilterFactory)>,
    pub(crate) sink_name: Arc<str>,
    pub(crate) sink: NodeFactory,
    pub(crate) source: SourceFactory,
}

struct GraphNode {
    /// The name under which children find it.
    name: Arc<str>,
    kind: GraphKind,
    parents: Vec<usize>,
    children: Vec<usize>,
    priority: usize,
    written: bool,
    /// An outer join, which has a use for records without a key (KIP-962).
    null_keys_welcome: bool,
    /// How long after its end a window still changes, where windows are made (`GracePeriodGraphNode`).
    grace: Option<i64>,
    /// Stores of other nodes that it reads.
    connected: Vec<Arc<str>>,
    /// Whether its changes come from a versioned store; `None` if that is as upstream (`GraphNode.isOutputVersioned`).
    versioned: Option<bool>,
    made_at: &'static Location<'static>,
}

/// The graph of a builder.
pub(crate) struct Graph {
    nodes: Vec<GraphNode>,
    counter: u32,
    priorities: usize,
    /// Nodes at which records of one key meet, whatever topic they came from.
    keyed: Vec<Vec<usize>>,
    /// Nodes that go another way if a parent's changes are versioned: the node, the parent, what to tell it.
    follow_versions: Vec<(usize, usize, Arc<TableSettings>)>,
    /// Nodes that take no changes of versioned tables.
    without_versions: Vec<usize>,
    /// Topics of the topology's own that sinks and sources of the graph name, and whether their names were given.
    internal_topics: Vec<(Arc<str>, bool, &'static Location<'static>)>,
    errors: Vec<Error>,
}

impl Graph {
    pub(crate) fn new() -> Self {
        let root = GraphNode {
            name: "root".into(),
            kind: GraphKind::Root,
            parents: Vec::new(),
            children: Vec::new(),
            priority: 0,
            written: false,
            null_keys_welcome: false,
            grace: None,
            connected: Vec::new(),
            versioned: None,
            made_at: Location::caller(),
        };
        Self {
            nodes: vec![root],
            counter: 0,
            priorities: 0,
            keyed: Vec::new(),
            follow_versions: Vec::new(),
            without_versions: Vec::new(),
            internal_topics: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// Draws the next number and makes a name of it.
    pub(crate) fn draw(&mut self, prefix: &str) -> Arc<str> {
        let name = format!("{prefix}{:010}", self.counter);
        self.counter += 1;
        name.into()
    }

    /// Draws a number, and uses the given name instead if there is one.
    pub(crate) fn name_or_draw(&mut self, given: Option<&Arc<str>>, prefix: &str) -> Arc<str> {
        let drawn = self.draw(prefix);
        given.cloned().unwrap_or(drawn)
    }

    /// Draws a number for a store; a given name draws none (`MaterializedInternal`).
    pub(crate) fn store_name(&mut self, given: Option<&Arc<str>>, prefix: &str) -> Arc<str> {
        match given {
            Some(name) => name.clone(),
            None => self.draw(&format!("{prefix}STATE-STORE-")),
        }
    }

    /// Gives the number of the last drawn name back, if nothing has been drawn since
    /// (`KStream.process` with a name draws none).
    fn undraw(&mut self, name: &str) {
        if self.counter > 0 && name.ends_with(&format!("{:010}", self.counter - 1)) {
            self.counter -= 1;
        }
    }

    #[track_caller]
    pub(crate) fn add(&mut self, parents: &[GraphIx], name: Arc<str>, kind: GraphKind) -> GraphIx {
        let at = self.nodes.len();
        self.nodes.push(GraphNode {
            name,
            kind,
            parents: Vec::new(),
            children: Vec::new(),
            priority: 0,
            written: false,
            null_keys_welcome: false,
            grace: None,
            connected: Vec::new(),
            versioned: None,
            made_at: Location::caller(),
        });
        for parent in parents {
            self.link(*parent, GraphIx(at));
        }
        GraphIx(at)
    }

    /// Makes one node the parent of another, and puts the child at the end of the build order.
    pub(crate) fn link(&mut self, parent: GraphIx, child: GraphIx) {
        if !self.nodes[parent.0].children.contains(&child.0) {
            self.nodes[parent.0].children.push(child.0);
        }
        if !self.nodes[child.0].parents.contains(&parent.0) {
            self.nodes[child.0].parents.push(parent.0);
        }
        self.nodes[child.0].priority = self.priorities;
        self.priorities += 1;
    }

    /// Says that records of one key meet at a node: the topics that lead there must have equal partition counts.
    pub(crate) fn meets_by_key(&mut self, node: GraphIx) {
        self.keyed.push(vec![node.0]);
    }

    /// Says that records of these nodes meet by key.
    pub(crate) fn meet_by_key(&mut self, nodes: &[GraphIx]) {
        self.keyed.push(nodes.iter().map(|node| node.0).collect());
    }

    /// Draws a store's number as if that had been done before a node was drawn, which must be the last one: its generated
    /// names move on by one. `None`, with an error noted, if something else was drawn since.
    #[track_caller]
    pub(crate) fn draw_store_before(&mut self, node: GraphIx) -> Option<Arc<str>> {
        if node.0 + 1 != self.nodes.len() {
            self.refuse("call materialized() without a name right behind the operator, or name the store");
            return None;
        }
        let drawn = match &self.nodes[node.0].kind {
            GraphKind::TableJoin(_) => 3,
            _ => 1,
        };
        let first = self.counter - drawn;
        self.counter += 1;
        let moved = |name: &mut Arc<str>| {
            if let Some((prefix, number)) = generated(name)
                && number >= first
            {
                *name = format!("{prefix}{:010}", number + 1).into();
            }
        };
        let node = &mut self.nodes[node.0];
        let prefix = generated(&node.name).map_or("KTABLE-MERGE-", |(prefix, _)| prefix).to_owned();
        moved(&mut node.name);
        if let GraphKind::TableJoin(join) = &mut node.kind {
            moved(&mut join.this.name);
            moved(&mut join.other.name);
        }
        Some(format!("{prefix}STATE-STORE-{first:010}").into())
    }

    /// Adds a store to a node that was drawn before.
    pub(crate) fn give_store(&mut self, node: GraphIx, store: Arc<dyn StoreBlueprint>) {
        match &mut self.nodes[node.0].kind {
            GraphKind::Processor(spec) | GraphKind::TableSource { table: spec, .. } => {
                spec.stores.push(store)
            }
            GraphKind::TableJoin(join) => join.merge.stores.push(store),
            _ => {}
        }
    }

    /// Makes a topic one of the topology's own, which its sink and its source name.
    #[track_caller]
    pub(crate) fn add_internal_topic(&mut self, topic: Arc<str>, named: bool) {
        self.internal_topics.push((topic, named, Location::caller()));
    }

    /// Lets a node read stores of other nodes.
    pub(crate) fn connect(&mut self, node: GraphIx, stores: &[Arc<str>]) {
        self.nodes[node.0].connected.extend_from_slice(stores);
    }

    /// Says whether a node's changes come from a versioned store.
    pub(crate) fn set_versioned(&mut self, node: GraphIx, versioned: bool) {
        self.nodes[node.0].versioned = Some(versioned);
    }

    /// Tells a node, when the topology is built, if the changes of a parent are versioned.
    pub(crate) fn follows_versions(&mut self, node: GraphIx, parent: GraphIx, settings: &Arc<TableSettings>) {
        self.follow_versions.push((node.0, parent.0, settings.clone()));
    }

    /// Refuses a topology in which the changes of a node's parents are versioned.
    pub(crate) fn refuse_versions(&mut self, node: GraphIx) {
        self.without_versions.push(node.0);
    }

    /// `InternalStreamsBuilder.isVersionedOrVersionedUpstream`.
    fn is_versioned(&self, at: usize) -> bool {
        match self.nodes[at].versioned {
            Some(versioned) => versioned,
            None => self.nodes[at].parents.iter().any(|parent| self.is_versioned(*parent)),
        }
    }

    /// The topics whose records reach one of these nodes without another topic in between.
    fn topics_above(&self, nodes: &[usize]) -> Vec<Arc<str>> {
        let (mut topics, mut seen, mut open) = (Vec::new(), vec![false; self.nodes.len()], nodes.to_vec());
        while let Some(at) = open.pop() {
            if std::mem::replace(&mut seen[at], true) {
                continue;
            }
            match &self.nodes[at].kind {
                GraphKind::Source(source) | GraphKind::TableSource { source, .. } => {
                    topics.extend(source.topics.iter().cloned());
                }
                GraphKind::Repartition(spec) => topics.push(spec.topic.clone()),
                _ => open.extend(&self.nodes[at].parents),
            }
        }
        topics.sort();
        topics.dedup();
        topics
    }

    /// Replaces a node's name by one that the user gives.
    pub(crate) fn rename(&mut self, node: GraphIx, name: &str, gives_number_back: bool) {
        if gives_number_back {
            let drawn = self.nodes[node.0].name.clone();
            self.undraw(&drawn);
        }
        let node = &mut self.nodes[node.0];
        node.name = name.into();
        if let GraphKind::TableJoin(join) = &mut node.kind {
            join.this.name = format!("{name}-join-this").into();
            join.other.name = format!("{name}-join-other").into();
        }
    }

    pub(crate) fn name(&self, node: GraphIx) -> Arc<str> {
        self.nodes[node.0].name.clone()
    }

    /// Lets records without a key come through the repartition topics above a node (`NULL_KEY_RELAXED_JOIN`).
    pub(crate) fn welcome_null_keys(&mut self, node: GraphIx) {
        self.nodes[node.0].null_keys_welcome = true;
    }

    /// Whether a node below, at any distance, wants records without a key (`NodesWithRelaxedNullKeyJoinDownstream`).
    fn wants_null_keys(&self, at: usize) -> bool {
        let below = |child: &usize| self.nodes[*child].null_keys_welcome || self.wants_null_keys(*child);
        self.nodes[at].children.iter().any(below)
    }

    /// Notes how long after its end a window of this node still changes, in milliseconds.
    pub(crate) fn set_grace(&mut self, node: GraphIx, grace: i64) {
        self.nodes[node.0].grace = Some(grace);
    }

    /// That of the nearest nodes above that make windows, the greatest (`GraphGraceSearchUtil`); `None` if there is a way up
    /// without any.
    pub(crate) fn grace(&self, node: GraphIx) -> Option<i64> {
        let node = &self.nodes[node.0];
        let above = || {
            let parents = node.parents.iter().map(|parent| self.grace(GraphIx(*parent)));
            parents.collect::<Option<Vec<i64>>>()?.into_iter().max()
        };
        node.grace.or_else(above)
    }

    /// Notes an error of a DSL call; `build` returns them all.
    #[track_caller]
    pub(crate) fn refuse(&mut self, message: impl std::fmt::Display) {
        let at = Location::caller();
        self.errors.push(Error::new(ErrorKind::Topology, format!("{message} (at {at})")));
    }

    /// Writes the graph into a topology.
    pub(crate) fn build(&mut self, allow_generated_names: bool) -> Result<Topology> {
        for node in &mut self.nodes {
            node.written = false;
        }
        self.merge_duplicate_sources();
        if !allow_generated_names {
            self.refuse_generated_names();
        }
        self.refuse_illegal_names();
        for (_, parent, settings) in &self.follow_versions {
            if self.is_versioned(*parent) {
                settings.use_versioned_semantics();
            }
        }
        for at in &self.without_versions {
            let node = &self.nodes[*at];
            if node.parents.iter().any(|parent| self.is_versioned(*parent)) {
                let text = format!("suppress() is for tables without versions (at {})", node.made_at);
                self.errors.push(Error::new(ErrorKind::Topology, text));
            }
        }
        let mut builder = TopologyBuilder::default();
        for (topic, ..) in &self.internal_topics {
            builder.add_internal_topic(topic.clone(), None);
        }
        // In the order of priorities, parents first (`InternalStreamsBuilder.buildAndOptimizeTopology`).
        let mut waiting = std::collections::BinaryHeap::new();
        waiting.push(std::cmp::Reverse((0, 0)));
        while let Some(std::cmp::Reverse((_, at))) = waiting.pop() {
            let ready = self.nodes[at].parents.iter().all(|parent| self.nodes[*parent].written);
            if !self.nodes[at].written && ready {
                self.nodes[at].written = true;
                if let Err(error) = self.write(at, &mut builder) {
                    let made_at = self.nodes[at].made_at;
                    self.errors.push(Error::new(error.kind(), format!("{error} (at {made_at})")));
                }
                for child in &self.nodes[at].children {
                    waiting.push(std::cmp::Reverse((self.nodes[*child].priority, *child)));
                }
            }
        }
        for at in &self.keyed {
            builder.copartition(self.topics_above(at));
        }
        let topology = builder.build();
        let mut errors = std::mem::take(&mut self.errors);
        match (errors.len(), topology) {
            (0, topology) => topology,
            (1, _) => Err(errors.remove(0)),
            (n, _) => {
                let list: Vec<String> = errors.iter().map(|e| format!("- {e}")).collect();
                Err(Error::new(
                    ErrorKind::Topology,
                    format!("the topology has {n} errors:\n{}", list.join("\n")),
                ))
            }
        }
    }

    /// Two sources of the same topics become one (`InternalStreamsBuilder.mergeDuplicateSourceNodes`).
    fn merge_duplicate_sources(&mut self) {
        let sources: Vec<usize> = self.nodes[0]
            .children
            .iter()
            .copied()
            .filter(|at| matches!(self.nodes[*at].kind, GraphKind::Source(_)))
            .collect();
        for (i, &later) in sources.iter().enumerate() {
            let Some(&first) = sources[..i]
                .iter()
                .find(|&&first| self.nodes[0].children.contains(&first) && self.share_a_topic(first, later))
            else {
                continue;
            };
            if let Err(message) = self.can_merge(first, later) {
                let at = self.nodes[later].made_at;
                self.errors.push(Error::new(ErrorKind::Topology, format!("{message} (at {at})")));
                continue;
            }
            self.nodes[0].children.retain(|child| *child != later);
            for child in std::mem::take(&mut self.nodes[later].children) {
                self.nodes[first].children.push(child);
                for parent in &mut self.nodes[child].parents {
                    if *parent == later {
                        *parent = first;
                    }
                }
            }
        }
    }

    fn source(&self, at: usize) -> Option<&SourceSpec> {
        match &self.nodes[at].kind {
            GraphKind::Source(source) => Some(source),
            _ => None,
        }
    }

    fn share_a_topic(&self, a: usize, b: usize) -> bool {
        let (Some(a), Some(b)) = (self.source(a), self.source(b)) else { return false };
        a.topics.iter().any(|topic| b.topics.contains(topic))
    }

    fn can_merge(&self, first: usize, later: usize) -> Result<(), String> {
        let (Some(a), Some(b)) = (self.source(first), self.source(later)) else { return Ok(()) };
        let sorted = |topics: &[Arc<str>]| {
            let mut topics = topics.to_vec();
            topics.sort();
            topics
        };
        if sorted(&a.topics) != sorted(&b.topics) {
            return Err(format!(
                "two sources read overlapping but not equal topics: [{}] and [{}]; read each topic in one source",
                a.topics.join(", "),
                b.topics.join(", ")
            ));
        }
        if a.reset != b.reset {
            return Err(format!(
                "the topic {} is read twice with different offset resets",
                a.topics.join(", ")
            ));
        }
        if a.types != b.types {
            return Err(format!(
                "the topic {} is read twice with different types, {} and {}; read it once and convert",
                a.topics.join(", "),
                a.type_names,
                b.type_names
            ));
        }
        Ok(())
    }

    /// All names become parts of topic names, metrics and file names.
    fn refuse_illegal_names(&mut self) {
        for at in 0..self.nodes.len() {
            let node = &self.nodes[at];
            let mut names: Vec<&str> = vec![&node.name];
            match &node.kind {
                GraphKind::Root => {}
                GraphKind::Source(spec) => names.extend(spec.topics.iter().map(|t| &**t)),
                GraphKind::TableSource { source, table, .. } => {
                    names.extend(source.topics.iter().map(|t| &**t));
                    names.extend(table.stores.iter().map(|store| &**store.name()));
                }
                GraphKind::Processor(spec) => names.extend(spec.stores.iter().map(|store| &**store.name())),
                GraphKind::Repartition(spec) => names.push(&spec.topic),
                GraphKind::Global { source, store, .. } => {
                    names.extend(source.topics.iter().map(|t| &**t));
                    names.push(store.name());
                }
                GraphKind::TableJoin(join) => {
                    names.extend(join.merge.stores.iter().map(|store| &**store.name()));
                }
                GraphKind::Sink { topic, .. } => names.extend(topic.as_deref()),
                GraphKind::Store(_) => {}
            }
            let at = node.made_at;
            let errors: Vec<String> =
                names.into_iter().filter_map(|name| validate_name(name).err()).collect();
            for error in errors {
                self.errors.push(Error::new(ErrorKind::Topology, format!("{error} (at {at})")));
            }
        }
    }

    /// Generated names of stores and topics move when somebody inserts an operator (KIP-1111).
    fn refuse_generated_names(&mut self) {
        let advice = "give it a name, or allow generated names (StreamsBuilder::allow_generated_names): a generated name \
                      moves, and its state with it, when an operator is inserted before it";
        let mut errors = Vec::new();
        for (topic, _, at) in self.internal_topics.iter().filter(|(_, named, _)| !named) {
            let text = format!("the topic {topic} has a generated name; {advice} (at {at})");
            errors.push(Error::new(ErrorKind::Topology, text));
        }
        for node in &self.nodes {
            let mut refuse = |what: String| {
                errors
                    .push(Error::new(ErrorKind::Topology, format!("{what}; {advice} (at {})", node.made_at)));
            };
            match &node.kind {
                GraphKind::Processor(spec) | GraphKind::TableSource { table: spec, .. } => {
                    for store in spec.stores.iter().filter(|store| !store.is_named()) {
                        refuse(format!("the store {} has a generated name", store.name()));
                    }
                }
                GraphKind::Global { store, .. } if !store.is_named() => {
                    refuse(format!("the store {} has a generated name", store.name()));
                }
                GraphKind::TableJoin(join) => {
                    for store in join.merge.stores.iter().filter(|store| !store.is_named()) {
                        refuse(format!("the store {} has a generated name", store.name()));
                    }
                }
                GraphKind::Repartition(spec) if !spec.named => {
                    refuse(format!("the repartition topic {} has a generated name", spec.topic));
                }
                _ => {}
            }
        }
        self.errors.append(&mut errors);
    }

    fn write(&self, at: usize, builder: &mut TopologyBuilder) -> Result<()> {
        let node = &self.nodes[at];
        let parents: Vec<Arc<str>> = node.parents.iter().map(|p| self.nodes[*p].name.clone()).collect();
        let source = |name: &Arc<str>, spec: &SourceSpec| NodeSpec {
            name: name.clone(),
            parents: Vec::new(),
            kind: SpecKind::Source {
                topics: spec.topics.clone(),
                reset: spec.reset,
                factory: spec.factory.clone(),
            },
        };
        let processor = |name: &Arc<str>, parents: Vec<Arc<str>>, factory: &NodeFactory| NodeSpec {
            name: name.clone(),
            parents,
            kind: SpecKind::Processor { factory: factory.clone() },
        };
        let stores = |builder: &mut TopologyBuilder, spec: &ProcessorSpec| -> Result<()> {
            for store in &spec.stores {
                builder.add_store(store.clone())?;
                builder.connect(&node.name, store.name())?;
            }
            node.connected.iter().try_for_each(|store| builder.connect(&node.name, store))
        };
        match &node.kind {
            GraphKind::Root => Ok(()),
            GraphKind::Source(spec) => builder.add_node(source(&node.name, spec)),
            GraphKind::TableSource { source_name, source: spec, table } => {
                builder.add_node(source(source_name, spec))?;
                builder.add_node(processor(&node.name, vec![source_name.clone()], &table.factory))?;
                stores(builder, table)
            }
            GraphKind::Global { source_name, source: spec, factory, store } => builder.add_global(
                source(source_name, spec),
                processor(&node.name, vec![source_name.clone()], factory),
                store.clone(),
            ),
            GraphKind::Processor(spec) => {
                builder.add_node(processor(&node.name, parents, &spec.factory))?;
                stores(builder, spec)
            }
            GraphKind::Repartition(spec) => {
                builder.add_internal_topic(spec.topic.clone(), spec.partitions);
                let mut sink_parents = parents;
                if let Some((name, filter)) = &spec.filter {
                    let filter = filter(self.wants_null_keys(at));
                    let parents = std::mem::replace(&mut sink_parents, vec![name.clone()]);
                    builder.add_node(processor(name, parents, &filter))?;
                }
                builder.add_node(NodeSpec {
                    name: spec.sink_name.clone(),
                    parents: sink_parents,
                    kind: SpecKind::Sink {
                        topic: Some(spec.topic.clone()),
                        label: spec.topic.clone(),
                        factory: spec.sink.clone(),
                    },
                })?;
                builder.add_node(NodeSpec {
                    name: node.name.clone(),
                    parents: Vec::new(),
                    kind: SpecKind::Source {
                        topics: vec![spec.topic.clone()],
                        reset: Some(AutoOffsetReset::Earliest),
                        factory: spec.source.clone(),
                    },
                })
            }
            GraphKind::TableJoin(join) => {
                for side in [&join.this, &join.other] {
                    let parent = self.nodes[side.parent.0].name.clone();
                    builder.add_node(processor(&side.name, vec![parent], &side.factory))?;
                }
                let sides = vec![join.this.name.clone(), join.other.name.clone()];
                builder.add_node(processor(&node.name, sides, &join.merge.factory))?;
                stores(builder, &join.merge)?;
                for side in [&join.this, &join.other] {
                    side.stores.iter().try_for_each(|store| builder.connect(&side.name, store))?;
                }
                Ok(())
            }
            GraphKind::Sink { topic, label, factory } => builder.add_node(NodeSpec {
                name: node.name.clone(),
                parents,
                kind: SpecKind::Sink { topic: topic.clone(), label: label.clone(), factory: factory.clone() },
            }),
            GraphKind::Store(store) => builder.add_store(store.clone()),
        }
    }
}

/// The prefix and the number of a generated name.
fn generated(name: &str) -> Option<(&str, u32)> {
    let (prefix, digits) = name.split_at_checked(name.len().checked_sub(10)?)?;
    let number = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())??;
    prefix.ends_with('-').then_some((prefix, number))
}

/// Java's rule for names of nodes, stores and topics (`Named.validate`).
pub(crate) fn validate_name(name: &str) -> Result<(), String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name == "." || name == ".." || name.len() > 249 || !name.chars().all(legal) {
        return Err(format!(
            "the name {name:?} is not legal: use 1 to 249 ASCII letters, digits, '.', '_' and '-', but not \".\" or \"..\""
        ));
    }
    Ok(())
}
