//! Whose: the consumer group.
#![allow(dead_code, reason = "the parts are joined later")]

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
pub(crate) use event::{
    Action, Assignment, Event, Joined, Lease, Member, Reply, Request, RequestId, RpcError,
};
pub(crate) use leader::lead;
pub(crate) use membership::Membership;
pub(crate) use offset_metadata::OffsetMetadata;
pub(crate) use user_data::{ActiveTask, AssignmentData, SubscriptionData};
