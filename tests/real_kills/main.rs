//! Processes that are killed over and over while they keep state on disk: what they leave is what their changelogs say.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    unreachable_pub,
    reason = "helpers of tests"
)]

mod changelog;
#[path = "../common/mod.rs"]
mod common;
mod distrust;
mod exactly_once;
mod follow;
#[allow(dead_code, reason = "shared with tests of groups")]
#[path = "../real_group/group.rs"]
mod group;
mod life;
mod loops;
mod members;
#[path = "../common/nodes.rs"]
mod nodes;
mod opening;
#[path = "../common/proxy.rs"]
mod proxy;
#[allow(dead_code, reason = "shared with tests of whole applications")]
#[path = "../real_app/support.rs"]
mod support;
mod tail;
mod topologies;
mod troubles;
mod unlogged;
