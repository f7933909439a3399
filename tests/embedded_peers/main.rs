//! Other people's clients, and bare requests, against the embedded broker.
//!
//! rskafka needs nothing (librdkafka has a crate of its own, `tests/librdkafka`); Java's clients are asked where Java is said to be there; and what is compared
//! with a real Kafka is so where `MAINSTEM_KAFKA` names one.
#![allow(clippy::unwrap_used, reason = "that is how a test fails")]

mod clients;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/java.rs"]
mod java;
#[path = "../common/log.rs"]
mod log;
mod raw;
mod requests;
mod streams;
mod transactions;
