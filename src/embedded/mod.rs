//! An embedded Kafka broker.
#![allow(dead_code, reason = "the parts are joined later")]

mod sasl;
mod txn;
