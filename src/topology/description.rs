//! `Topology.describe()` as Kafka Streams prints it, byte for byte
//! (`InternalTopologyBuilder.describeSubtopology` and the `toString` methods of its description classes).

use std::cmp::Ordering;
use std::fmt::Write;
use std::sync::Arc;

use super::java_order::{TreeSet, hash_map_order, hash_set_copy_order};

/// The nodes of a sub-topology: name, parents, kind; in the order in which they were added.
pub(crate) struct Described {
    pub(crate) nodes: Vec<(Arc<str>, Vec<Arc<str>>, DescribedKind)>,
    /// Whether it fills a global store.
    pub(crate) is_global: bool,
}

pub(crate) enum DescribedKind {
    Source { topics: Vec<Arc<str>> },
    Processor { stores: Vec<Arc<str>> },
    Sink { text: String },
}

struct Node<'a> {
    name: &'a str,
    kind: &'a DescribedKind,
    size: usize,
    predecessors: TreeSet<usize>,
    successors: TreeSet<usize>,
}

/// Larger sub-trees first, then names.
fn compare(nodes: &[Node<'_>], a: usize, b: usize) -> Ordering {
    if a == b {
        return Ordering::Equal;
    }
    nodes[b].size.cmp(&nodes[a].size).then_with(|| nodes[a].name.cmp(nodes[b].name))
}

fn grow(nodes: &mut [Node<'_>], node: usize, delta: usize) {
    nodes[node].size += delta;
    let predecessors: Vec<usize> = nodes[node].predecessors.iter().copied().collect();
    for predecessor in predecessors {
        grow(nodes, predecessor, delta);
    }
}

/// Puts `child` among the successors of `parent`, and the other way round. The comparators of both sets look at the sizes
/// that all nodes have at this moment.
fn connect(nodes: &mut [Node<'_>], parent: usize, child: usize) {
    let mut predecessors = std::mem::take(&mut nodes[child].predecessors);
    predecessors.insert(parent, |a, b| compare(nodes, *a, *b));
    nodes[child].predecessors = predecessors;
    let mut successors = std::mem::take(&mut nodes[parent].successors);
    successors.insert(child, |a, b| compare(nodes, *a, *b));
    nodes[parent].successors = successors;
}

fn names(nodes: &[Node<'_>], set: &TreeSet<usize>) -> String {
    let names: Vec<&str> = set.iter().map(|&n| nodes[n].name).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn java_set(names: &[Arc<str>]) -> String {
    let names: Vec<&str> = names.iter().map(|n| &**n).collect();
    let ordered: Vec<&str> = hash_set_copy_order(&names).into_iter().map(|i| names[i]).collect();
    format!("[{}]", ordered.join(", "))
}

/// The text for all sub-topologies.
pub(crate) fn describe(subtopologies: &[Described]) -> String {
    let mut text = "Topologies:\n ".to_owned();
    for (id, subtopology) in subtopologies.iter().enumerate() {
        let nodes = describe_one(subtopology);
        let _ = match subtopology.is_global {
            true => write!(text, "  Sub-topology: {id} for global store (will not generate tasks)\n{nodes}"),
            false => write!(text, "  Sub-topology: {id}\n{nodes}\n"),
        };
    }
    text
}

fn describe_one(subtopology: &Described) -> String {
    let all: Vec<&str> = subtopology.nodes.iter().map(|(name, ..)| &**name).collect();
    let mut nodes: Vec<Node<'_>> = subtopology
        .nodes
        .iter()
        .map(|(name, _, kind)| Node {
            name,
            kind,
            size: 1,
            predecessors: TreeSet::new(),
            successors: TreeSet::new(),
        })
        .collect();
    for at in hash_map_order(&all) {
        for parent in &subtopology.nodes[at].1 {
            let Some(parent) = all.iter().position(|name| *name == &**parent) else { continue };
            connect(&mut nodes, parent, at);
            let size = nodes[at].size;
            grow(&mut nodes, parent, size);
        }
    }
    let mut order: Vec<usize> = (0..nodes.len()).collect();
    order.sort_by(|a, b| compare(&nodes, *a, *b));
    let mut text = String::new();
    for at in order {
        let node = &nodes[at];
        let (to, from) = (names(&nodes, &node.successors), names(&nodes, &node.predecessors));
        let _ = match node.kind {
            DescribedKind::Source { topics } => {
                writeln!(text, "    Source: {} (topics: {})\n      --> {to}", node.name, java_set(topics))
            }
            DescribedKind::Processor { stores } => writeln!(
                text,
                "    Processor: {} (stores: {})\n      --> {to}\n      <-- {from}",
                node.name,
                java_set(stores)
            ),
            DescribedKind::Sink { text: topic } => {
                writeln!(text, "    Sink: {} ({topic})\n      <-- {from}", node.name)
            }
        };
    }
    text
}
