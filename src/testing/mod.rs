//! Tests of topologies without a broker: [`TopologyTestDriver`].

mod driver;

pub use driver::{ProducedRecord, TestInputTopic, TestOutputTopic, TopologyTestDriver};
