//! Tests of topologies without a broker: [`TopologyTestDriver`].

mod bench;
mod driver;
mod queries;

#[doc(hidden)]
pub use bench::BenchTask;
pub use driver::{ProducedRecord, TestInputTopic, TestOutputTopic, TopologyTestDriver};
