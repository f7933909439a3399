//! The coordinator's behaviour, and what the tests of it share: clients without a network, and time moved by hand.

mod members;
mod moves;
mod offsets;
mod simulation;
mod statics;

use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::ResponseError as Code;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{self as m, GroupId};
use kafka_protocol::protocol::StrBytes;
use tokio::sync::oneshot;

use super::super::config::BrokerConfig;
use super::{GroupConfig, Groups, Origin};

const SESSION: Duration = Duration::from_secs(10);
const REBALANCE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

type Parked<T> = oneshot::Receiver<T>;

/// A coordinator with one group, `g`.
struct Kit {
    groups: Groups,
    now: Instant,
    /// The version of the requests.
    version: i16,
}

/// Who sends: a member id (empty: none yet), and its instance id.
#[derive(Debug, Clone, Default)]
struct Id {
    member: StrBytes,
    instance: Option<StrBytes>,
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn group() -> GroupId {
    GroupId(text("g"))
}

fn instance(name: &str) -> Id {
    Id { member: StrBytes::default(), instance: Some(text(name)) }
}

impl Id {
    fn member(&self, id: &StrBytes) -> Self {
        Self { member: id.clone(), instance: self.instance.clone() }
    }
}

impl Kit {
    fn new() -> Self {
        Self::with(&[])
    }

    /// With settings of the broker.
    fn with(settings: &[(&str, &str)]) -> Self {
        let mut config = BrokerConfig::default();
        for (name, value) in settings {
            config.set(name, value).expect("it is known");
        }
        let config = GroupConfig::of(&config);
        Self { groups: Groups::new(config, 1), now: crate::clock::monotonic(), version: 9 }
    }

    fn from(&self) -> Origin<'static> {
        Origin { home: Ok(()), version: self.version, client_id: "c", host: "/127.0.0.1" }
    }

    /// Another node takes over, and is ready after `loading`.
    fn takeover(&mut self, loading: Duration) {
        self.groups.coordinator_moved(self.now + loading, &|group| group == "g");
    }

    fn advance(&mut self, by: Duration) {
        // In steps, as a broker does: no timer is late by more than one.
        for _ in 0..by.as_millis().div_ceil(500) {
            self.now += Duration::from_millis(500);
            self.groups.tick(self.now);
        }
    }

    fn request(&self, id: &Id, protocols: &[(&str, &str)]) -> m::JoinGroupRequest {
        let protocol = |(name, metadata): &(&str, &str)| {
            JoinGroupRequestProtocol::default()
                .with_name(text(name))
                .with_metadata(Bytes::copy_from_slice(metadata.as_bytes()))
        };
        m::JoinGroupRequest::default()
            .with_group_id(group())
            .with_session_timeout_ms(10_000)
            .with_rebalance_timeout_ms(60_000)
            .with_member_id(id.member.clone())
            .with_group_instance_id(id.instance.clone())
            .with_protocol_type(text("consumer"))
            .with_protocols(protocols.iter().map(protocol).collect())
    }

    fn join_as(&mut self, request: m::JoinGroupRequest) -> Parked<m::JoinGroupResponse> {
        let (reply, parked) = oneshot::channel();
        let from = self.from();
        self.groups.join(self.now, from, request, reply);
        parked
    }

    fn join(&mut self, id: &Id, metadata: &str) -> Parked<m::JoinGroupResponse> {
        let request = self.request(id, &[("range", metadata)]);
        self.join_as(request)
    }

    /// Joins without an id, and again with the one it is given.
    fn enter(&mut self, metadata: &str) -> (Id, Parked<m::JoinGroupResponse>) {
        let mut first = self.join(&Id::default(), metadata);
        let given = got(&mut first);
        assert_eq!(code(given.error_code), Some(Code::MemberIdRequired));
        let id = Id::default().member(&given.member_id);
        let parked = self.join(&id, metadata);
        (id, parked)
    }

    fn sync(&mut self, id: &Id, generation: i32, shares: &[(&Id, &str)]) -> Parked<m::SyncGroupResponse> {
        let share = |(id, share): &(&Id, &str)| {
            SyncGroupRequestAssignment::default()
                .with_member_id(id.member.clone())
                .with_assignment(Bytes::copy_from_slice(share.as_bytes()))
        };
        let request = m::SyncGroupRequest::default()
            .with_group_id(group())
            .with_generation_id(generation)
            .with_member_id(id.member.clone())
            .with_group_instance_id(id.instance.clone())
            .with_assignments(shares.iter().map(share).collect());
        let (reply, parked) = oneshot::channel();
        let from = self.from();
        self.groups.sync(self.now, from, request, reply);
        parked
    }

    fn heartbeat(&mut self, id: &Id, generation: i32) -> Option<Code> {
        let request = m::HeartbeatRequest::default()
            .with_group_id(group())
            .with_generation_id(generation)
            .with_member_id(id.member.clone())
            .with_group_instance_id(id.instance.clone());
        let from = self.from();
        code(self.groups.heartbeat(self.now, from, &request).error_code)
    }

    fn leave(&mut self, leaving: &[&Id]) -> Vec<Option<Code>> {
        let member = |id: &&Id| {
            MemberIdentity::default()
                .with_member_id(id.member.clone())
                .with_group_instance_id(id.instance.clone())
        };
        let request = m::LeaveGroupRequest::default()
            .with_group_id(group())
            .with_members(leaving.iter().map(member).collect());
        let from = self.from();
        let response = self.groups.leave(self.now, from, request);
        assert_eq!(response.error_code, 0);
        response.members.iter().map(|member| code(member.error_code)).collect()
    }

    fn describe(&self) -> m::describe_groups_response::DescribedGroup {
        let request = m::DescribeGroupsRequest::default().with_groups(vec![group()]);
        self.groups.describe(5, request, |_| Ok(())).groups.remove(0)
    }

    fn state(&self) -> String {
        self.describe().group_state.to_string()
    }

    /// A stable group of `n` dynamic members that all said `m`; the first leads. With the generation.
    fn stable(&mut self, n: usize) -> (Vec<Id>, i32) {
        let mut ids: Vec<Id> = Vec::new();
        for _ in 0..n {
            let (id, mut parked) = self.enter("m");
            let mut waiting: Vec<_> = ids.iter().map(|id| self.join(id, "m")).collect();
            let joined = got(&mut parked);
            assert_eq!(code(joined.error_code), None);
            for parked in &mut waiting {
                assert_eq!(got(parked).generation_id, joined.generation_id);
            }
            ids.push(id);
            let leader =
                ids.iter().position(|id| id.member == joined.leader).expect("the leader is one of them");
            let shares: Vec<(&Id, &str)> = ids.iter().map(|id| (id, "share")).collect();
            let others: Vec<_> = ids.iter().filter(|id| id.member != joined.leader).collect();
            let mut parked: Vec<_> =
                others.iter().map(|id| self.sync(id, joined.generation_id, &[])).collect();
            parked.push(self.sync(&ids[leader], joined.generation_id, &shares));
            for parked in &mut parked {
                assert_eq!(got(parked).assignment, "share");
            }
            ids.swap(0, leader);
        }
        let generation = i32::try_from(n).expect("few");
        (ids, generation)
    }
}

fn code(code: i16) -> Option<Code> {
    Code::try_from_code(code)
}

/// The answer, which is there.
fn got<T>(parked: &mut Parked<T>) -> T {
    parked.try_recv().expect("it has been answered")
}

#[track_caller]
fn waits<T: std::fmt::Debug>(parked: &mut Parked<T>) {
    assert!(matches!(parked.try_recv(), Err(oneshot::error::TryRecvError::Empty)), "it is parked");
}
