//! What goes wrong between a client and its brokers, scripted on the embedded broker: every record arrives once, and in
//! order a key, as long as nobody dies; and where somebody dies nothing is lost.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "helpers of tests")]

mod answers;
mod chain;
#[path = "../common/mod.rs"]
mod common;
mod cut;
mod lost;
mod numbers;
#[allow(dead_code, reason = "shared with tests of one instance")]
#[path = "../real_app/support.rs"]
mod support;
