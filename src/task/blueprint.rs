//! The erased plan of a topology: what a task is built from, on its worker, as often as needed.

use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use super::counts::NodeCount;
use super::node::Edge;
use super::queue::InputQueue;
use super::{Lifecycle, Node, NodeIx, Outputs, Port, TaskCx};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{AnyStore, GlobalKeyValueStore, GlobalStores, StoreBlueprint};

/// A port whose record type is known to the two nodes of its edge alone.
pub(crate) struct ErasedPort(Box<dyn Any>);

impl ErasedPort {
    pub(crate) fn new<K: 'static, V: 'static>(port: Port<K, V>) -> Self {
        Self(Box::new(port))
    }

    fn port<K: 'static, V: 'static>(&self) -> Option<Port<K, V>> {
        self.0.downcast_ref::<Port<K, V>>().cloned()
    }
}

/// The children of a node that is about to be built, in order.
pub(crate) struct Children(pub(crate) Vec<(Rc<str>, Rc<ErasedPort>, NodeCount)>);

impl Children {
    /// The typed edges to the children.
    pub(crate) fn outputs<K: 'static, V: 'static>(self) -> Result<Outputs<K, V>> {
        let typed = self.0.into_iter().map(|(name, erased, count)| match erased.port() {
            Some(port) => Ok(Edge { name, port, count }),
            None => {
                let what = std::any::type_name::<(K, V)>();
                Err(Error::new(
                    ErrorKind::Topology,
                    format!("{name} does not take records of {what} from its parent"),
                ))
            }
        });
        Ok(Outputs::new(typed.collect::<Result<_>>()?))
    }
}

/// What a factory has at hand while its node is built.
pub(crate) struct BuildCx<'a> {
    pub(crate) task: &'a mut TaskCx,
    pub(crate) node: NodeIx,
    pub(crate) stores: &'a HashMap<Arc<str>, Rc<dyn AnyStore>>,
    /// The node's stores, for checks.
    pub(crate) connected: &'a [Arc<str>],
    pub(crate) lifecycles: &'a mut Vec<(NodeIx, Rc<RefCell<dyn Lifecycle>>)>,
    /// Which node flushes which store's cache.
    pub(crate) flushers: &'a mut HashMap<Arc<str>, Rc<RefCell<dyn Lifecycle>>>,
    pub(crate) globals: &'a GlobalStores,
    pub(crate) topic_name: &'a dyn Fn(&str) -> String,
}

impl BuildCx<'_> {
    /// Finishes a node without a life of its own.
    pub(crate) fn plain<K: 'static, V: 'static>(&mut self, node: impl Node<K, V> + 'static) -> ErasedPort {
        ErasedPort::new::<K, V>(Rc::new(RefCell::new(node)))
    }

    #[allow(dead_code, reason = "until operators schedule punctuations")]
    /// Finishes a node that wants to be initialised, punctuated and closed.
    pub(crate) fn alive<K: 'static, V: 'static, N: Node<K, V> + Lifecycle + 'static>(
        &mut self,
        node: N,
    ) -> (ErasedPort, Rc<RefCell<N>>) {
        let node = Rc::new(RefCell::new(node));
        self.lifecycles.push((self.node, node.clone()));
        (ErasedPort::new::<K, V>(node.clone()), node)
    }

    /// A global store, which no node need be connected to.
    pub(crate) fn global<K: 'static, V: 'static>(&self, name: &str) -> Result<GlobalKeyValueStore<K, V>> {
        self.globals.reader(name).map_err(|error| error.at_node(self.task.node_name(self.node)))
    }

    /// A store of the task, as its own type.
    pub(crate) fn store<S: 'static>(&self, name: &str) -> Result<Rc<S>> {
        let missing = |why: &str| {
            Error::new(ErrorKind::Topology, format!("the store {name} {why}"))
                .at_node(self.task.node_name(self.node))
        };
        if self.globals.has(name) {
            return Err(missing("is a global one, which tasks only read: ask Stores::global for it"));
        }
        if !self.connected.iter().any(|c| &**c == name) {
            return Err(missing("is not connected to this node; pass it to process()"));
        }
        let store = self.stores.get(name).ok_or_else(|| missing("has not been added to the topology"))?;
        store
            .clone()
            .into_any()
            .downcast::<S>()
            .map_err(|_| missing("was added with other types or another kind"))
    }
}

/// Builds a processor or a sink.
pub(crate) type NodeFactory = Arc<dyn Fn(&mut BuildCx<'_>, Children) -> Result<ErasedPort> + Send + Sync>;

/// Builds the input queue of one partition of a source: its position among the task's partitions, and its topic.
pub(crate) type SourceFactory =
    Arc<dyn Fn(&mut BuildCx<'_>, Children, usize, Arc<str>) -> Result<Box<dyn InputQueue>> + Send + Sync>;

/// A node of the plan.
#[derive(Clone)]
pub(crate) struct NodePlan {
    pub(crate) name: Arc<str>,
    /// Positions of the children in [`Plan::nodes`].
    pub(crate) children: Vec<usize>,
    pub(crate) stores: Vec<Arc<str>>,
    pub(crate) kind: NodeKind,
}

#[derive(Clone)]
pub(crate) enum NodeKind {
    /// Reads topics, named as the topology names them (internal ones without the application id).
    Source { topics: Vec<Arc<str>>, factory: SourceFactory },
    /// Takes records from its parents.
    Processor { factory: NodeFactory },
}

/// The plan of the tasks of a sub-topology (or, in the test driver, of the whole topology).
#[derive(Clone, Default)]
pub(crate) struct Plan {
    /// Parents before children.
    pub(crate) nodes: Vec<NodePlan>,
    /// In the order in which they were added.
    pub(crate) stores: Vec<Arc<dyn StoreBlueprint>>,
    /// Topics made by the topology, without the application id.
    pub(crate) internal_topics: Vec<Arc<str>>,
}

impl Plan {
    /// The name that a topic of the plan has in the cluster.
    pub(crate) fn topic_name(&self, application_id: &str, topic: &str) -> String {
        if self.internal_topics.iter().any(|t| &**t == topic) {
            format!("{application_id}-{topic}")
        } else {
            topic.to_owned()
        }
    }
}
