//! Mainstem: a Kafka-native stream library. A service embeds it, describes a topology of streams and tables, and runs.
//!
//! ```no_run
//! use mainstem::prelude::*;
//! use mainstem::{App, Config};
//!
//! # #[tokio::main]
//! # async fn main() -> mainstem::Result<()> {
//! let builder = StreamsBuilder::new();
//! builder
//!     .stream::<String, String>("lines")
//!     .flat_map_values(|line| line.split(' ').map(str::to_owned).collect::<Vec<_>>())
//!     .group_by("by-word", |_, word| word.clone())
//!     .count("counts")
//!     .to_stream()
//!     .to("word-counts");
//! let config = Config::builder("word-count", "localhost:9092").workers(4).build()?;
//! let app = App::new(builder.build()?, config)?;
//! app.run().with_graceful_shutdown(async { _ = tokio::signal::ctrl_c().await }).await
//! # }
//! ```
//!
//! # The way of a record
//!
//! ```text
//!  client::fetch ──► runtime: worker ──► task: queue by timestamp ──► nodes of dsl::ops and topology::processor
//!                                                                        │                   │
//!                                             store (table, layers) ◄────┘                   ▼
//!                                                  │ changelog                            sinks
//!                                                  └────────────► client::produce ◄──────────┘
//!                                                                        │
//!                        group (leases, the commit gate) ◄── runtime: commit of offsets
//! ```
//!
//! # Map
//!
//! | Module | What is in it |
//! |---|---|
//! | [`dsl`] | streams, tables and the operators on them |
//! | [`topology`] | the finished topology, and the Processor API |
//! | [`store`] | state stores of processors |
//! | [`query`] | reading an application's stores from outside |
//! | [`serde`] | how keys and values become bytes |
//! | [`config`] | the configuration, also by Kafka Streams' property names |
//! | [`client`] | the cluster without a topology: administration, a producer, a reader |
//! | `testing` | `TopologyTestDriver`: a topology without a broker |
//! | `embedded` | `EmbeddedKafka`: a Kafka cluster inside the process, for tests and first steps |
//! | [`clock`] | time, and a clock for tests |
//!
//! # Features
//!
//! | Feature | Default | What it adds |
//! |---|---|---|
//! | `gzip`, `snappy`, `lz4`, `zstd` | yes | reading and writing batches compressed so; a reader cannot choose what it meets |
//! | `fjall`, `sled` | yes | engines that keep state on disk |
//! | `tls` | yes | TLS, by rustls and ring |
//! | `sasl` | yes | SASL: PLAIN, SCRAM and OAUTHBEARER |
//! | `testing` | no | `testing::TopologyTestDriver` |
//! | `embedded` | no | `embedded::EmbeddedKafka` |
//! | `cli` | no | the `mainstem` command |
//!
//! Panics in user code are caught and end the application with an error; that needs unwinding, so `panic = "abort"` is not
//! supported.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod changelog;
pub mod client;
pub mod clock;
pub mod config;
pub mod dsl;
#[cfg(feature = "embedded")]
pub mod embedded;
mod error;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod fuzz;
mod group;
pub mod query;
mod record;
mod runtime;
pub mod serde;
pub mod store;
mod task;
mod task_id;
#[cfg(any(feature = "testing", test))]
pub mod testing;
pub mod topology;

pub use config::Config;
pub use error::{BoxError, Error, ErrorClass, ErrorKind, Result};
pub use record::{Header, Headers, Record, Timestamp, TopicPartition, murmur2, partition_for_key};
pub use runtime::{
    App, AppBuilder, AppHandle, AppState, CloseOptions, Metric, MetricValue, Run, UncaughtErrorResponse,
};
pub use runtime::{
    InputMetadata, InstanceMetadata, RestoreListener, RestoreMetadata, RestoringStore, StoreLag,
    TaskMetadata, WorkerMetadata, WorkerState,
};
#[cfg(feature = "cli")]
#[doc(hidden)]
pub use runtime::{reset, state_tools};
pub use task::errors::{DropReason, ErrorContext, ErrorHandler, ErrorResponse, ErrorStage};
pub use task_id::TaskId;

/// The README's examples are tests.
#[cfg(all(doctest, feature = "testing"))]
#[doc = include_str!("../README.md")]
struct Readme;

/// What most applications import.
pub mod prelude {
    pub use crate::dsl::{
        Branched, BranchedKStream, BufferConfig, CogroupedKStream, Consumed, CustomWindows, EmitStrategy,
        Extract, GlobalKTable, Grouped, Hopping, Joined, KGroupedStream, KGroupedTable, KStream, KTable,
        Materialized, Printed, Produced, Repartitioned, Session, SessionWindowedKStream, Sliding,
        StreamsBuilder, StrictBufferConfig, Suppressed, TableJoined, TimeWindowedKStream, Tumbling,
        Unlimited, ValueTransformerWithKey,
    };
    pub use crate::error::{BoxError, Error, ErrorKind, Result};
    pub use crate::query::{ReadOnlyKeyValueStore, ReadOnlySessionStore, ReadOnlyWindowStore};
    pub use crate::record::{Header, Headers, Record, Timestamp, TopicPartition};
    pub use crate::serde::{
        DefaultSerde, LongSerde, Serde, SessionWindowedSerde, StringSerde, TimeWindowedSerde, Window,
        Windowed,
    };
    pub use crate::store::{
        GlobalKeyValueStore, KeyValue, KeyValueStore, PutOutcome, StoreBuilder, TimestampedKeyValue,
        TimestampedKeyValueStore, ValueAndTimestamp, VersionedKeyValue, VersionedKeyValueStore,
        VersionedRecord,
    };
    pub use crate::task_id::TaskId;
    pub use crate::topology::{
        AutoOffsetReset, Child, Context, FixedKeyContext, FixedKeyProcessor, FixedKeyRecord, Outcome,
        Processor, PunctuationType, RecordMetadata, Stores, Token, Topology, TransformContext,
    };
}
