//! Several instances in one group, against a real Kafka: processes of the word count that join, leave, are killed, frozen
//! and replaced; what the group looks like from outside; and members that do not fit.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    unreachable_pub,
    reason = "helpers of tests"
)]

mod changes;
#[path = "../common/mod.rs"]
mod common;
#[allow(dead_code, reason = "the generator has parts that only the example uses")]
#[path = "../../examples/word_count/data.rs"]
mod data;
mod frozen;
#[allow(dead_code, reason = "shared with the tests of figures")]
mod group;
mod leaving;
#[path = "../common/nodes.rs"]
mod nodes;
mod rolling;
mod strangers;
#[allow(dead_code, reason = "shared with tests of one instance")]
#[path = "../real_app/support.rs"]
mod support;
#[path = "../common/tokens.rs"]
mod tokens;
#[allow(dead_code, reason = "the truth has parts that only the example uses")]
#[path = "../../examples/word_count/truth.rs"]
mod truth;
mod word_count;
