//! Other people's clients, and bare requests, against the embedded broker.
//!
//! What is compared with a real Kafka is so where `MAINSTEM_KAFKA` names one; the rest needs nothing but Java.
#![allow(clippy::unwrap_used, reason = "that is how a test fails")]

mod clients;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/java.rs"]
mod java;
mod librdkafka;
#[path = "../common/log.rs"]
mod log;
mod raw;
mod streams;
mod transactions;
