//! Whole applications against a real Kafka: what they count, what they survive, and what they refuse.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    unreachable_pub,
    reason = "helpers of tests"
)]

mod aborts;
mod closing;
#[path = "../common/mod.rs"]
mod common;
mod control;
#[allow(dead_code, reason = "the generator has parts that only the example uses")]
#[path = "../../examples/word_count/data.rs"]
mod data;
mod errors;
mod exactly_once;
mod faults;
#[allow(dead_code, reason = "shared with tests of several instances")]
#[path = "../real_group/group.rs"]
mod group;
mod handover;
mod input;
mod instances_on_one_host;
mod joins;
mod lifecycle;
mod local_state;
mod memory;
#[path = "../common/proxy.rs"]
mod proxy;
mod queries;
mod refusals;
mod reset;
mod state;
mod support;
mod table;
mod timeouts;
#[path = "../common/tokens.rs"]
mod tokens;
mod topics;
#[allow(dead_code, reason = "the truth has parts that only the example uses")]
#[path = "../../examples/word_count/truth.rs"]
mod truth;
