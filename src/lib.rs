//! Mainstem: a Kafka-native stream library.
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod client;
pub mod clock;
pub mod config;
pub mod dsl;
mod error;
mod group;
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
pub use runtime::{App, AppBuilder, AppHandle, AppState, Run};
pub use task::errors::{DropReason, ErrorContext, ErrorHandler, ErrorResponse, ErrorStage};
pub use task_id::TaskId;

/// What most applications import.
pub mod prelude {
    pub use crate::dsl::{
        Branched, BranchedKStream, Consumed, Extract, Grouped, KGroupedStream, KStream, KTable, Materialized,
        Produced, Repartitioned, StreamsBuilder,
    };
    pub use crate::error::{BoxError, Error, ErrorKind, Result};
    pub use crate::record::{Header, Headers, Record, Timestamp, TopicPartition};
    pub use crate::serde::{DefaultSerde, Serde};
    pub use crate::store::{
        KeyValue, KeyValueStore, StoreBuilder, TimestampedKeyValue, TimestampedKeyValueStore,
        ValueAndTimestamp,
    };
    pub use crate::task_id::TaskId;
    pub use crate::topology::{
        AutoOffsetReset, Child, Context, FixedKeyContext, FixedKeyProcessor, FixedKeyRecord, Outcome,
        Processor, PunctuationType, RecordMetadata, Stores, Token, Topology,
    };
}
