//! Tests of topologies without a broker: [`TopologyTestDriver`].

mod bench;
mod bench_store;
mod driver;
mod java_queue;
mod local_state;
mod queries;

#[doc(hidden)]
pub use bench::BenchTask;
#[doc(hidden)]
pub use bench_store::{BenchFigures, BenchStore};
pub use driver::{ProducedRecord, TestInputTopic, TestOutputTopic, TopologyTestDriver};
#[doc(hidden)]
pub use local_state::{StoreOnDisk, stores_on_disk};
