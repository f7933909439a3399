//! Puts nodes together: checks names, unites what is connected, numbers the sub-topologies
//! (`org.apache.kafka.streams.processor.internals.InternalTopologyBuilder`).

use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::description::{Described, DescribedKind, describe};
use super::{AutoOffsetReset, SourceTopic, Subtopology, Topology, TopologyInner};
use crate::error::{Error, ErrorKind, Result};
use crate::store::StoreBlueprint;
use crate::task::blueprint::{NodeFactory, NodeKind, NodePlan, Plan, SourceFactory};

/// A node as the DSL adds it.
pub(crate) struct NodeSpec {
    pub(crate) name: Arc<str>,
    pub(crate) parents: Vec<Arc<str>>,
    pub(crate) kind: SpecKind,
}

pub(crate) enum SpecKind {
    Source {
        topics: Vec<Arc<str>>,
        reset: Option<AutoOffsetReset>,
        factory: SourceFactory,
    },
    Processor {
        factory: NodeFactory,
    },
    /// `topic` is `None` where a function of the record chooses; `label` is what the description prints then.
    Sink {
        topic: Option<Arc<str>>,
        label: Arc<str>,
        factory: NodeFactory,
    },
}

struct Entry {
    spec: NodeSpec,
    stores: Vec<Arc<str>>,
    /// Position in the union-find forest.
    group: usize,
}

/// Gathers nodes, stores and internal topics.
#[derive(Default)]
pub(crate) struct TopologyBuilder {
    nodes: Vec<Entry>,
    by_name: HashMap<Arc<str>, usize>,
    stores: Vec<(Arc<dyn StoreBlueprint>, Vec<usize>)>,
    /// With the partition count that the user has fixed, if any.
    internal_topics: BTreeMap<Arc<str>, Option<i32>>,
    source_topics: HashMap<Arc<str>, Arc<str>>,
    copartitioned: Vec<Vec<Arc<str>>>,
    /// The nodes that fill global stores, and the stores.
    globals: (Vec<usize>, Vec<Arc<dyn StoreBlueprint>>),
    /// A forest by parent positions.
    forest: Vec<usize>,
}

fn refused(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Topology, message)
}

impl TopologyBuilder {
    /// Adds a node; its parents have been added before.
    pub(crate) fn add_node(&mut self, spec: NodeSpec) -> Result<()> {
        if self.by_name.contains_key(&spec.name) {
            return Err(refused(format!("two nodes are named {}; give one of them another name", spec.name)));
        }
        let at = self.nodes.len();
        self.forest.push(at);
        for parent in &spec.parents {
            let &parent_at = self
                .by_name
                .get(parent)
                .ok_or_else(|| refused(format!("the parent {parent} of {} is unknown", spec.name)))?;
            if matches!(self.nodes[parent_at].spec.kind, SpecKind::Sink { .. }) {
                return Err(refused(format!("the sink {parent} cannot be the parent of {}", spec.name)));
            }
            self.unite(parent_at, at);
        }
        if let SpecKind::Source { topics, .. } = &spec.kind {
            for topic in topics {
                if let Some(other) = self.source_topics.insert(topic.clone(), spec.name.clone()) {
                    return Err(refused(format!(
                        "the topic {topic} is read by two sources, {other} and {}; read it once and use the stream or \
                         table twice",
                        spec.name
                    )));
                }
            }
        }
        self.by_name.insert(spec.name.clone(), at);
        self.nodes.push(Entry { spec, stores: Vec::new(), group: at });
        Ok(())
    }

    /// Adds a global store, with the source of its topic and the processor that fills it
    /// (`InternalTopologyBuilder.addGlobalStore`).
    pub(crate) fn add_global(
        &mut self,
        source: NodeSpec,
        processor: NodeSpec,
        store: Arc<dyn StoreBlueprint>,
    ) -> Result<()> {
        let taken = self.stores.iter().any(|(known, _)| known.name() == store.name());
        if taken || self.globals.1.iter().any(|known| known.name() == store.name()) {
            let text =
                format!("two different stores are named {}; give one of them another name", store.name());
            return Err(refused(text));
        }
        let at = self.nodes.len();
        self.add_node(source)?;
        self.add_node(processor)?;
        self.nodes[at + 1].stores.push(store.name().clone());
        self.globals.0.extend([at, at + 1]);
        self.globals.1.push(store);
        Ok(())
    }

    /// Adds a store; adding the very same one again is no error.
    pub(crate) fn add_store(&mut self, store: Arc<dyn StoreBlueprint>) -> Result<()> {
        if self.globals.1.iter().any(|known| known.name() == store.name()) {
            return Err(refused(format!(
                "the store {} is a global one: processors read it without being connected to it",
                store.name()
            )));
        }
        match self.stores.iter().find(|(known, _)| known.name() == store.name()) {
            Some((known, _)) if known.identity() == store.identity() => Ok(()),
            Some((known, _)) => Err(refused(format!(
                "two different stores are named {}; give one of them another name",
                known.name()
            ))),
            None => {
                self.stores.push((store, Vec::new()));
                Ok(())
            }
        }
    }

    /// Lets a processor use a store. Processors that share one end in the same sub-topology.
    pub(crate) fn connect(&mut self, node: &str, store: &str) -> Result<()> {
        let &node_at =
            self.by_name.get(node).ok_or_else(|| refused(format!("the processor {node} is unknown")))?;
        let Some((blueprint, users)) = self.stores.iter_mut().find(|(known, _)| &**known.name() == store)
        else {
            return Err(refused(format!("the store {store} that {node} uses has not been added")));
        };
        let name = blueprint.name().clone();
        let first = users.first().copied();
        users.push(node_at);
        if let Some(first) = first {
            self.unite(first, node_at);
        }
        let stores = &mut self.nodes[node_at].stores;
        if !stores.contains(&name) {
            stores.push(name);
        }
        Ok(())
    }

    /// Makes a topic an internal one: the application id goes before its name, and it is created when it is missing.
    pub(crate) fn add_internal_topic(&mut self, topic: Arc<str>, partitions: Option<i32>) {
        self.internal_topics.insert(topic, partitions);
    }

    /// Says that the topics of these source nodes must have equal partition counts.
    #[allow(dead_code, reason = "until there are joins")]
    pub(crate) fn copartition(&mut self, topics: Vec<Arc<str>>) {
        if topics.len() > 1 {
            self.copartitioned.push(topics);
        }
    }

    fn root(&self, mut at: usize) -> usize {
        while self.forest[at] != at {
            at = self.forest[at];
        }
        at
    }

    fn unite(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.forest[b] = a;
    }

    pub(crate) fn build(self) -> Result<Topology> {
        if self.source_topics.is_empty() {
            return Err(refused("the topology reads no topic; add a stream or a table"));
        }
        // Sub-topologies are numbered in the order of their first nodes.
        let mut roots: Vec<usize> = Vec::new();
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for entry in &self.nodes {
            let root = self.root(entry.group);
            match roots.iter().position(|r| *r == root) {
                Some(at) => groups[at].push(entry.group),
                None => {
                    roots.push(root);
                    groups.push(vec![entry.group]);
                }
            }
        }
        let described: Vec<Described> = groups.iter().map(|members| self.describe_group(members)).collect();
        let of_tasks = groups.iter().enumerate().filter(|(_, members)| !self.is_global(members));
        let subtopologies: Vec<Subtopology> =
            of_tasks.map(|(id, members)| self.subtopology(id as i32, members)).collect();
        if subtopologies.is_empty() {
            return Err(refused("the topology has nothing but global stores; add a stream or a table"));
        }
        if let Some(headless) = subtopologies.iter().find(|s| s.sources.is_empty()) {
            let names: Vec<&str> = headless.plan.nodes.iter().map(|n| &*n.name).collect();
            return Err(refused(format!("no source leads to {}", names.join(", "))));
        }
        let all: Vec<usize> = (0..self.nodes.len()).filter(|at| !self.globals.0.contains(at)).collect();
        let whole = self.plan(&all);
        let global = (!self.globals.0.is_empty())
            .then(|| Plan { stores: self.globals.1.clone(), ..self.plan(&self.globals.0) });
        let description = describe(&described);
        let copartitioned = self.copartitioned;
        let inner = TopologyInner { subtopologies, whole, global, description, copartitioned };
        Ok(Topology { inner: Arc::new(inner) })
    }

    fn is_global(&self, members: &[usize]) -> bool {
        members.iter().any(|member| self.globals.0.contains(member))
    }

    fn plan(&self, members: &[usize]) -> Plan {
        let position: HashMap<usize, usize> = members.iter().enumerate().map(|(i, m)| (*m, i)).collect();
        let mut nodes: Vec<NodePlan> = members
            .iter()
            .map(|&m| {
                let entry = &self.nodes[m];
                let kind = match &entry.spec.kind {
                    SpecKind::Source { topics, factory, .. } => {
                        NodeKind::Source { topics: topics.clone(), factory: factory.clone() }
                    }
                    SpecKind::Processor { factory } | SpecKind::Sink { factory, .. } => {
                        NodeKind::Processor { factory: factory.clone() }
                    }
                };
                NodePlan {
                    name: entry.spec.name.clone(),
                    children: Vec::new(),
                    stores: entry.stores.clone(),
                    kind,
                }
            })
            .collect();
        for (child, &member) in members.iter().enumerate() {
            for parent in &self.nodes[member].spec.parents {
                let parent = position[&self.by_name[parent]];
                nodes[parent].children.push(child);
            }
        }
        let stores = self
            .stores
            .iter()
            .filter(|(_, users)| users.iter().any(|user| position.contains_key(user)))
            .map(|(store, _)| store.clone())
            .collect();
        Plan { nodes, stores, internal_topics: self.internal_topics.keys().cloned().collect() }
    }

    fn subtopology(&self, id: i32, members: &[usize]) -> Subtopology {
        let plan = self.plan(members);
        let mut sources = Vec::new();
        let mut repartition_sinks = Vec::new();
        let mut sinks = Vec::new();
        for &member in members {
            match &self.nodes[member].spec.kind {
                SpecKind::Source { topics, reset, .. } => {
                    sources.extend(topics.iter().map(|topic| SourceTopic {
                        topic: topic.clone(),
                        reset: *reset,
                        repartition: self.internal_topics.get(topic).copied(),
                    }));
                }
                SpecKind::Sink { topic: Some(topic), .. } if self.internal_topics.contains_key(topic) => {
                    repartition_sinks.push(topic.clone());
                }
                SpecKind::Sink { topic: Some(topic), .. } => sinks.push(topic.clone()),
                SpecKind::Sink { topic: None, .. } | SpecKind::Processor { .. } => {}
            }
        }
        let fingerprint = self.fingerprint(members);
        Subtopology { id, plan, sources, repartition_sinks, sinks, fingerprint }
    }

    /// FNV-1a over everything that two instances must agree on before they may swap tasks.
    fn fingerprint(&self, members: &[usize]) -> u64 {
        struct Fnv(u64);
        impl Hasher for Fnv {
            fn finish(&self) -> u64 {
                self.0
            }
            fn write(&mut self, bytes: &[u8]) {
                for byte in bytes {
                    self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
                }
            }
        }
        let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
        for &member in members {
            let entry = &self.nodes[member];
            entry.spec.name.hash(&mut hasher);
            entry.spec.parents.hash(&mut hasher);
            entry.stores.hash(&mut hasher);
            match &entry.spec.kind {
                SpecKind::Source { topics, .. } => topics.hash(&mut hasher),
                SpecKind::Sink { topic, label, .. } => (topic, label).hash(&mut hasher),
                SpecKind::Processor { .. } => {}
            }
        }
        hasher.finish()
    }

    fn describe_group(&self, members: &[usize]) -> Described {
        let nodes = members.iter().map(|&m| {
            let entry = &self.nodes[m];
            let kind = match &entry.spec.kind {
                SpecKind::Source { topics, .. } => DescribedKind::Source { topics: topics.clone() },
                SpecKind::Processor { .. } => DescribedKind::Processor { stores: entry.stores.clone() },
                SpecKind::Sink { topic: Some(topic), .. } => {
                    DescribedKind::Sink { text: format!("topic: {topic}") }
                }
                SpecKind::Sink { topic: None, label, .. } => {
                    DescribedKind::Sink { text: format!("extractor class: {label}") }
                }
            };
            (entry.spec.name.clone(), entry.spec.parents.clone(), kind)
        });
        Described { nodes: nodes.collect(), is_global: self.is_global(members) }
    }
}
