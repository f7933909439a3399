//! The log: Kafka's wire protocol.

mod batch;
mod compression;
mod produce;
