//! Whose: the consumer group decides which instance works on which task.
//!
//! Everything here is pure: events and the time go in, actions come out. The runtime's coordinator carries the requests of
//! a [`Membership`] to the broker and its actions to the workers:
//!
//! ```text
//!  broker <--requests-- runtime's coordinator <--step--> Membership      the leader: lead() on Action::Assign
//!                               ^ |
//!                         Event | | Action: leases, revocations, commit gate
//!                               | v
//!                             workers
//! ```
//!
//! A task is worked on with a [`Lease`], delivered by message; it is the only source of the generation to commit with.
//! `simulation` runs whole groups through crashes and lost messages.
#![allow(dead_code, reason = "standbys, warm-ups and endpoints are carried and wait for their users")]

mod assignor;
mod config;
mod event;
#[cfg(feature = "testing")]
pub(crate) mod fuzz;
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
pub(crate) use event::{
    Action, Assignment, Event, Joined, Lease, Member, Reply, Request, RequestId, RpcError,
};
pub(crate) use leader::{Terms, lead};
pub(crate) use membership::Membership;
pub(crate) use offset_metadata::OffsetMetadata;
pub(crate) use user_data::{ActiveTask, AssignmentData, Instance, SubscriptionData};
