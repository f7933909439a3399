//! Mainstem: a Kafka-native stream library.
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod client;
pub mod clock;
mod config;
mod error;
mod group;
mod record;
pub mod serde;
mod task_id;

pub use config::Config;
pub use error::{BoxError, Error, ErrorClass, ErrorKind, Result};
pub use record::{Header, Headers, Record, Timestamp, TopicPartition, murmur2, partition_for_key};
pub use task_id::TaskId;
