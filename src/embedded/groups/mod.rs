//! The group coordinator: classic consumer groups and their offsets, a pure state machine over injected time.
//!
//! After Apache Kafka's `GroupMetadataManager`, `ClassicGroup` and `OffsetMetadataManager`. Nothing here reads a clock or
//! waits: a request comes with the time it arrived at; a JoinGroup or SyncGroup that has to wait leaves its
//! [`oneshot::Sender`] with the member; [`Groups::next_deadline`] says when [`Groups::tick`] must be called next.
//! Times are those of the broker's clock, from any origin.
//!
//! | File | What is in it |
//! |---|---|
//! | `group` | one group: its members, what it votes for, what a new coordinator reads of it |
//! | `join` | JoinGroup |
//! | `rebalance` | from the first join to the new generation, and its timers |
//! | `session` | SyncGroup, Heartbeat, LeaveGroup, members that fall silent |
//! | `offsets` | OffsetCommit, OffsetFetch, OffsetDelete, offsets of transactions |
//! | `admin` | ListGroups, DescribeGroups, DeleteGroups |

mod admin;
mod group;
mod join;
mod offsets;
mod rebalance;
mod session;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kafka_protocol::ResponseError as Code;
use kafka_protocol::protocol::StrBytes;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::config::BrokerConfig;
use group::Group;

/// What a broker's configuration says about groups.
#[derive(Debug, Clone)]
pub(crate) struct GroupConfig {
    /// `group.min.session.timeout.ms`
    pub(crate) min_session_timeout: Duration,
    /// `group.max.session.timeout.ms`
    pub(crate) max_session_timeout: Duration,
    /// `group.initial.rebalance.delay.ms`; Kafka waits three seconds for more members, a test does not want to.
    pub(crate) initial_rebalance_delay: Duration,
    /// `group.max.size`
    pub(crate) max_size: usize,
    /// `offset.metadata.max.bytes`
    pub(crate) offset_metadata_max: usize,
}

impl GroupConfig {
    pub(crate) fn of(config: &BrokerConfig) -> Self {
        let number = |name| u64::try_from(config.number(name)).unwrap_or(0);
        let time = |name| Duration::from_millis(number(name));
        let size = |name| usize::try_from(config.number(name)).unwrap_or(0);
        Self {
            min_session_timeout: time("group.min.session.timeout.ms"),
            max_session_timeout: time("group.max.session.timeout.ms"),
            initial_rebalance_delay: time("group.initial.rebalance.delay.ms"),
            max_size: size("group.max.size"),
            offset_metadata_max: size("offset.metadata.max.bytes"),
        }
    }
}

/// Who sent a request, and in which version of its API.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin<'a> {
    /// Whether the node that was asked coordinates the group; of a request about several it says nothing.
    pub(crate) home: Result<(), Code>,
    pub(crate) version: i16,
    pub(crate) client_id: &'a str,
    pub(crate) host: &'a str,
}

/// All groups of the cluster, whichever node coordinates them.
#[derive(Debug)]
pub(crate) struct Groups {
    config: GroupConfig,
    groups: BTreeMap<StrBytes, Group>,
    /// Where member ids begin, and how many have been given out.
    ids: (u128, u128),
    /// Counts writes of offsets: of two for one partition the later holds.
    writes: u64,
}

impl Groups {
    /// No group yet. Two that are made with one `seed` give out the same member ids.
    pub(crate) fn new(config: GroupConfig, seed: u128) -> Self {
        Self { config, groups: BTreeMap::new(), ids: (seed, 0), writes: 0 }
    }

    /// When something happens without a request: a member falls silent, a rebalance has lasted long enough.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.groups.values().filter_map(Group::next_deadline).min()
    }

    /// Does what was due by `now`, in the order in which it was due.
    pub(crate) fn tick(&mut self, now: Instant) {
        loop {
            let due =
                self.groups.values_mut().filter_map(|group| group.next_deadline().map(|at| (at, group)));
            match due.min_by_key(|(at, _)| *at) {
                Some((at, group)) if at <= now => group.run_due(at, now, &self.config),
                _ => return,
            }
        }
    }

    /// Other nodes coordinate these groups now, and are ready at that time. Whoever is parked is answered
    /// NOT_COORDINATOR. Members, generation and assignments are those of the last generation that was assigned, offsets
    /// are all there; ids that were given out and not joined with are forgotten.
    pub(crate) fn coordinator_moved(&mut self, ready: Instant, moved: &dyn Fn(&str) -> bool) {
        for (_, group) in self.groups.iter_mut().filter(|(id, _)| moved(id)) {
            group.reload(ready);
        }
    }

    /// What broker and client count as one: the prefix and a number that looks like Kafka's.
    fn new_member_id(&mut self, prefix: &str) -> StrBytes {
        const STEP: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
        self.ids.1 += 1;
        let id = Uuid::from_u128(self.ids.0.wrapping_add(self.ids.1.wrapping_mul(STEP)));
        StrBytes::from_string(format!("{prefix}-{id}"))
    }

    /// The group, made if it is not there and `create` says so.
    fn group(&mut self, id: &StrBytes, create: bool) -> Option<&mut Group> {
        if create {
            return Some(self.groups.entry(id.clone()).or_default());
        }
        self.groups.get_mut(id)
    }
}

/// Whether the request is one that a group must have a name for, and is asked of the right node.
fn check(from: Origin<'_>, group: &StrBytes) -> Result<(), Code> {
    match group.is_empty() {
        true => Err(Code::InvalidGroupId),
        false => from.home,
    }
}

/// Answers; whoever asked may have gone.
fn answer<T>(reply: oneshot::Sender<T>, response: T) {
    _ = reply.send(response);
}

/// The id of a new member before it has one.
fn is_unknown(member_id: &StrBytes) -> bool {
    member_id.is_empty()
}

/// A timeout as the protocol has it.
fn millis(ms: i32) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

/// The code as a field of a response.
fn code_of(outcome: Result<(), Code>) -> i16 {
    outcome.err().map_or(0, |code| code.code())
}
