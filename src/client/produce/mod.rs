//! The idempotent producer: a synchronous front on each worker, an asynchronous back on the I/O runtime.
//!
//! A worker's [`Producer`] appends records to one accumulator a partition and hands full batches over; its [`Sender`]
//! groups them by leader, keeps up to five requests in flight a broker, and keeps the order of each partition through
//! retries, leader moves and new producer epochs. Nothing is shared a record: no lock, no channel, no future. What could
//! not be written ends in a slot that the worker empties ([`Producer::take_failures`]).
//!
//! `send` never blocks. The worker asks [`Producer::has_credit`] between records, and is told through a callback when it
//! is worth asking again.
#![allow(dead_code, reason = "the parts that use it are joined later")]

mod answer;
mod config;
mod partition;
mod producer;
mod sender;
mod shared;
mod transaction;
mod transport;

#[cfg(test)]
mod tests;

#[allow(unused_imports, reason = "the parts that use it are joined later")]
pub(crate) use {
    config::ProducerConfig,
    producer::{Producer, TopicIx},
    sender::Sender,
    shared::{Failed, Fence, Progress},
    transaction::{End, EndTicket, Ended, Transactional, TxnCall, TxnSaid, call},
    transport::ProduceTransport,
};

pub use transaction::GroupMetadata;
