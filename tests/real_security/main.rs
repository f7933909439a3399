//! Security on a real Kafka with a listener of each kind: who is let in, and what is said to the others.
//!
//! The cluster is this binary's own (`scripts/kafka up --listeners all --authorizer`): it starts where tests run on a real
//! Kafka (`MAINSTEM_KAFKA`, `MAINSTEM_REQUIRE_KAFKA=1`), and ends with the process, however that ends.
#![cfg(all(feature = "sasl", feature = "tls"))]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]
#![allow(unreachable_pub, reason = "the modules of a test are its own")]

mod allowed;
mod app;
mod cluster;
#[path = "../common/mod.rs"]
mod common;
mod files;
mod refused;
mod renewed;
mod revoked;
mod sasl;
mod tls;
