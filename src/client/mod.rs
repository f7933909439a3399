//! The log: Kafka's wire protocol.
#![allow(dead_code, reason = "other rooms of the crate use it as they are joined")]

pub(crate) mod admin;
pub(crate) mod batch;
mod cluster;
pub(crate) mod compression;
mod config;
pub(crate) mod connection;
pub(crate) mod error_table;
pub(crate) mod fetch;
pub(crate) mod group;
pub(crate) mod produce;
mod producer;
mod reader;
mod retry;
mod security;

#[cfg(test)]
pub(crate) mod fake;

pub use admin::{
    Admin, AlterConfig, ConfigEntry, ConfigResource, Isolation, ListedOffset, NewTopic, OffsetSpec,
    TransactionDescription, TransactionListing,
};
pub use cluster::{Broker, Cluster, PartitionInfo, TopicInfo};
pub(crate) use cluster::{ConnectionClass, CoordinatorType, Leader, RequestOptions};
pub use config::ClientConfig;
pub use group::CommittedOffset;
pub use produce::GroupMetadata;
pub use producer::{Producer, ProducerOptions};
pub use reader::{LogRecord, ReadFrom, ReadOptions, Reader};
