//! `split`: the branches of a stream.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use super::graph::{Graph, GraphIx, GraphKind, ProcessorSpec};
use super::ops::{self, branch, pass_through};
use super::stream::KStream;
use crate::error::{BoxError, Result};

/// A stream that is being split (`org.apache.kafka.streams.kstream.BranchedKStream`).
///
/// ```
/// use mainstem::prelude::*;
///
/// let builder = StreamsBuilder::new();
/// let branches = builder
///     .stream::<String, String>("orders")
///     .split()
///     .named("orders-")
///     .branch(|_, order| order.starts_with("big"), "big")
///     .branch(|_, order| order.is_empty(), Branched::with_consumer(|empty| empty.to("empty-orders")))
///     .default_branch("rest");
/// branches["orders-big"].to("big-orders");
/// branches["orders-rest"].to("other-orders");
/// builder.build()?;
/// # Ok::<(), mainstem::Error>(())
/// ```
#[must_use = "end a split with default_branch() or no_default_branch()"]
pub struct BranchedKStream<K, V> {
    graph: Rc<RefCell<Graph>>,
    node: GraphIx,
    parent: KStream<K, V>,
    predicates: branch::Predicates<K, V>,
    branches: usize,
    outputs: BTreeMap<String, KStream<K, V>>,
}

impl<K, V> fmt::Debug for BranchedKStream<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BranchedKStream({})", self.graph.borrow().name(self.node))
    }
}

type Chain<K, V> = Box<dyn FnOnce(KStream<K, V>) -> Option<KStream<K, V>>>;

/// The name of a branch, and what to do with it.
pub struct Branched<K, V> {
    name: Option<Arc<str>>,
    chain: Option<Chain<K, V>>,
}

impl<K, V> fmt::Debug for Branched<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Branched").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<K, V> Branched<K, V> {
    /// Names the branch; the stream comes back under the splitter's name followed by this one.
    pub fn named(name: impl Into<Arc<str>>) -> Self {
        Self { name: Some(name.into()), chain: None }
    }

    /// Hands the branch to a function, and gives back the stream that it returns.
    pub fn with_function(function: impl FnOnce(KStream<K, V>) -> KStream<K, V> + 'static) -> Self {
        Self { name: None, chain: Some(Box::new(|stream| Some(function(stream)))) }
    }

    /// Hands the branch to a function; it does not come back.
    pub fn with_consumer(consumer: impl FnOnce(KStream<K, V>) + 'static) -> Self {
        let chain = |stream| {
            consumer(stream);
            None
        };
        Self { name: None, chain: Some(Box::new(chain)) }
    }

    /// Sets the name.
    #[must_use]
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = Some(name.into());
        self
    }
}

impl<K, V> From<&str> for Branched<K, V> {
    fn from(name: &str) -> Self {
        Self::named(name)
    }
}

impl<K, V> From<()> for Branched<K, V> {
    fn from((): ()) -> Self {
        Self { name: None, chain: None }
    }
}

impl<K: Clone + 'static, V: Clone + 'static> BranchedKStream<K, V> {
    #[track_caller]
    pub(crate) fn new(parent: &KStream<K, V>) -> Self {
        let predicates: branch::Predicates<K, V> = Arc::new(Mutex::new(Vec::new()));
        let factory = branch::factory(predicates.clone());
        let mut graph = parent.graph.borrow_mut();
        let name = graph.draw("KSTREAM-BRANCH-");
        let kind = GraphKind::Processor(ProcessorSpec { factory, stores: Vec::new() });
        let node = graph.add(&[parent.node], name, kind);
        drop(graph);
        let graph = parent.graph.clone();
        Self { graph, node, parent: parent.clone(), predicates, branches: 0, outputs: BTreeMap::new() }
    }

    /// Names the splitter, and with it all branches declared from now on.
    #[track_caller]
    pub fn named(self, name: &str) -> Self {
        self.graph.borrow_mut().rename(self.node, name, false);
        self
    }

    /// A branch for the records that have a value, that the predicate holds for, and that no branch before has taken.
    #[track_caller]
    pub fn branch(
        self,
        predicate: impl Fn(Option<&K>, &V) -> bool + Send + Sync + 'static,
        branched: impl Into<Branched<K, V>>,
    ) -> Self {
        self.try_branch(move |k, v| Ok::<_, Infallible>(v.is_some_and(|v| predicate(k, v))), branched)
    }

    /// As [`branch`](Self::branch), for nulls too, and it may fail.
    #[track_caller]
    pub fn try_branch<E: Into<BoxError>>(
        mut self,
        predicate: impl Fn(Option<&K>, Option<&V>) -> Result<bool, E> + Send + Sync + 'static,
        branched: impl Into<Branched<K, V>>,
    ) -> Self {
        self.branches += 1;
        let predicate: branch::Predicate<K, V> = Arc::new(move |k, v| predicate(k, v).map_err(Into::into));
        self.declare(Some(predicate), self.branches, branched.into());
        self
    }

    /// A branch for all that is left; ends the split and returns the branches by name.
    #[track_caller]
    pub fn default_branch(mut self, branched: impl Into<Branched<K, V>>) -> BTreeMap<String, KStream<K, V>> {
        self.declare(None, 0, branched.into());
        self.outputs
    }

    /// Drops all that is left; ends the split and returns the branches by name.
    pub fn no_default_branch(self) -> BTreeMap<String, KStream<K, V>> {
        self.outputs
    }

    #[track_caller]
    fn declare(
        &mut self,
        predicate: Option<branch::Predicate<K, V>>,
        index: usize,
        branched: Branched<K, V>,
    ) {
        let mut graph = self.graph.borrow_mut();
        let splitter = graph.name(self.node);
        let name = match &branched.name {
            Some(name) => format!("{splitter}{name}"),
            None => format!("{splitter}{index}"),
        };
        graph.draw(&name);
        let factory = ops::node::<K, V, K, V, _>(|_, outputs| pass_through::PassThrough { outputs });
        let kind = GraphKind::Processor(ProcessorSpec { factory, stores: Vec::new() });
        let node = graph.add(&[self.node], name.as_str().into(), kind);
        drop(graph);
        self.predicates.lock().unwrap_or_else(PoisonError::into_inner).push(predicate);
        let parent = &self.parent;
        let stream = KStream::new(
            self.graph.clone(),
            node,
            parent.key_serde.clone(),
            parent.value_serde.clone(),
            parent.repartition_required,
        );
        let kept = match branched.chain {
            Some(chain) => chain(stream),
            None => Some(stream),
        };
        if let Some(stream) = kept {
            self.outputs.insert(name, stream);
        }
    }
}
