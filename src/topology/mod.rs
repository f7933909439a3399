//! What runs: the nodes of a topology, the sub-topologies they fall into, the topics they need, and their description.

mod builder;
mod context;
mod description;
mod java_order;
pub(crate) mod processor;

use std::fmt;
use std::sync::Arc;

pub(crate) use builder::{NodeSpec, SpecKind, TopologyBuilder};
pub use context::{Child, Context, FixedKeyContext, RecordMetadata, TransformContext};
pub use processor::{FixedKeyProcessor, FixedKeyRecord, Outcome, Processor, StoreKey, Stores};

use crate::config::{Config, Optimizations};
use crate::error::{Error, ErrorKind, Result};
use crate::store::StoreBlueprint;
use crate::task::blueprint::Plan;
pub use crate::task::punctuation::{PunctuationType, Token};

/// Where a source starts when the group has no committed offset
/// (`org.apache.kafka.streams.AutoOffsetReset`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AutoOffsetReset {
    /// At the beginning of the log.
    Earliest,
    /// Behind its end: only records that arrive from now on.
    Latest,
    /// At the first record whose timestamp is at most this much older than now.
    ByDuration(std::time::Duration),
    /// Nowhere: a missing offset is an error.
    None,
}

/// A finished topology: checked, immutable, cheap to clone.
///
/// It is made by [`StreamsBuilder::build`](crate::dsl::StreamsBuilder::build). [`describe`](Self::describe) prints it as
/// Kafka Streams prints its own, so that the same tools draw it.
#[derive(Clone)]
pub struct Topology {
    pub(crate) inner: Arc<TopologyInner>,
}

pub(crate) struct TopologyInner {
    pub(crate) subtopologies: Vec<Subtopology>,
    /// The whole topology as one plan, for the test driver.
    #[cfg_attr(not(feature = "testing"), allow(dead_code, reason = "for the test driver"))]
    pub(crate) whole: Plan,
    /// What fills the global stores; it has no tasks.
    pub(crate) global: Option<Plan>,
    pub(crate) description: String,
    /// Source topics whose partition counts must agree, by the names in the topology.
    pub(crate) copartitioned: Vec<Vec<Arc<str>>>,
}

/// A connected part of a topology: one task for each of its partitions.
pub(crate) struct Subtopology {
    pub(crate) id: i32,
    pub(crate) plan: Plan,
    /// What it reads, internal topics without the application id.
    pub(crate) sources: Vec<SourceTopic>,
    /// Repartition topics that it writes.
    pub(crate) repartition_sinks: Vec<Arc<str>>,
    /// Topics that it writes and did not make.
    pub(crate) sinks: Vec<Arc<str>>,
    /// A hash of names, topics and stores: the same on every instance that runs the same code.
    pub(crate) fingerprint: u64,
}

impl Subtopology {
    pub(crate) fn stores(&self) -> &[Arc<dyn StoreBlueprint>] {
        &self.plan.stores
    }
}

/// A topic that a source node reads.
#[derive(Debug, Clone)]
pub(crate) struct SourceTopic {
    pub(crate) topic: Arc<str>,
    pub(crate) reset: Option<AutoOffsetReset>,
    /// A repartition topic, with the partition count that the user has fixed, if any.
    pub(crate) repartition: Option<Option<i32>>,
}

impl Topology {
    /// The description in Kafka Streams' form (`Topology.describe().toString()`).
    ///
    /// ```
    /// use mainstem::prelude::*;
    ///
    /// let builder = StreamsBuilder::new();
    /// builder.stream::<String, String>("in").filter(|_, value| !value.is_empty()).to("out");
    /// let topology = builder.build()?;
    /// assert!(topology.describe().starts_with("Topologies:\n   Sub-topology: 0\n    Source: KSTREAM-SOURCE-0000000000"));
    /// # Ok::<(), mainstem::Error>(())
    /// ```
    pub fn describe(&self) -> &str {
        &self.inner.description
    }
}

impl fmt::Debug for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.description)
    }
}

/// A topology that was asked to be optimized and is not would have other topics than expected.
pub(crate) fn refuse_optimizations(config: &Config) -> Result<()> {
    let asked = config.topology_optimization();
    if asked == Optimizations::NONE {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Config,
        format!("topology.optimization={asked} is not implemented yet; use none"),
    ))
}
