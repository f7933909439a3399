//! Whose: the consumer group decides which instance works on which task.
//!
//! [`driver::run`] carries the requests of a [`Membership`] to the coordinator (through a [`GroupRpc`], which the client
//! implements) and passes [`Event`]s and [`Action`]s between it and the runtime:
//!
//! ```text
//!  coordinator <--GroupRpc--> driver <--step--> Membership        the leader's runtime: lead() on Action::Assign
//!                               ^ |
//!                         Event | | Action: leases, revocations, commit gate
//!                               | v
//!                             runtime
//! ```
//!
//! Everything but the driver is pure: time is an argument. A task is worked on with a [`Lease`], delivered by message; it
//! is the only source of the generation to commit with. `simulation` runs whole groups through crashes and lost messages.
#![allow(dead_code, unused_imports, reason = "the parts are joined later")]

mod assignor;
mod config;
mod driver;
mod event;
mod leader;
mod membership;
mod offset_metadata;
mod protocol;
mod reader;
mod recovery;
#[cfg(test)]
mod simulation;
mod user_data;

pub(crate) use assignor::SubTopology;
pub(crate) use config::GroupConfig;
pub(crate) use driver::{GroupRpc, JoinOutcome, run};
pub(crate) use event::{Action, Assignment, Event, Joined, Lease, Member, RpcError};
pub(crate) use leader::{Decision, lead};
pub(crate) use membership::Membership;
pub(crate) use offset_metadata::OffsetMetadata;
pub(crate) use protocol::{PROTOCOL_NAME, PROTOCOL_TYPE};
pub(crate) use user_data::{ActiveTask, AssignmentData, AssignmentError, Instance, SubscriptionData};
