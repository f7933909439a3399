//! The work: a task runs its part of a topology, one record after the other.
//!
//! No I/O happens here. A task gets raw records from outside, hands bytes to a [`Collector`], reads time from a
//! [`Clock`](crate::clock::Clock), and keeps state in [`store`](crate::store). The runtime puts it on a worker; the test
//! driver drives it by hand. Nothing in a task is `Send`: it is built on its worker and dies there.

pub(crate) mod blueprint;
pub(crate) mod clocks;
pub(crate) mod collector;
pub(crate) mod context;
pub(crate) mod counts;
pub(crate) mod errors;
pub(crate) mod node;
pub(crate) mod punctuation;
pub(crate) mod queue;
mod run;
#[cfg(test)]
mod tests;

pub(crate) use collector::{Collector, Partition, TopicIx};
pub(crate) use context::TaskCx;
pub(crate) use node::{Flow, Lifecycle, Node, NodeIx, Outputs, Port, Stop};
pub(crate) use run::{Task, TaskConfig};
