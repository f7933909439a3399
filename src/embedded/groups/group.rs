//! One group: its members, what they vote for, and what a new coordinator reads of it (`ClassicGroup`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use kafka_protocol::ResponseError as Code;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::{JoinGroupResponse, SyncGroupResponse};
use kafka_protocol::protocol::StrBytes;
use tokio::sync::oneshot;

use super::answer;
use super::offsets::Committed;
use super::rebalance::JoinTimer;

/// Where a group is (`ClassicGroupState`); one that is dead is not in the map.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum State {
    #[default]
    Empty,
    PreparingRebalance,
    CompletingRebalance,
    Stable,
}

impl State {
    /// As Kafka's tools print it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
        }
    }
}

/// What Kafka writes of a member to its log (`GroupMetadataValue.MemberMetadata`).
#[derive(Debug, Clone)]
pub(super) struct Recorded {
    pub(super) instance_id: Option<StrBytes>,
    pub(super) client_id: StrBytes,
    pub(super) client_host: StrBytes,
    pub(super) rebalance_timeout: Duration,
    pub(super) session_timeout: Duration,
    /// Assignors and what the member tells each of them, the best liked first.
    pub(super) protocols: Vec<(StrBytes, Bytes)>,
    pub(super) assignment: Bytes,
}

impl Recorded {
    pub(super) fn metadata(&self, protocol: &str) -> Bytes {
        let of = self.protocols.iter().find(|(name, _)| name == protocol);
        of.map(|(_, metadata)| metadata.clone()).unwrap_or_default()
    }
}

/// A member, and what it waits for.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) recorded: Recorded,
    /// It has never been answered, so that it may be removed while it waits: it could not know that it is a member.
    pub(super) is_new: bool,
    /// When its session is over.
    pub(super) expires: Option<Instant>,
    pub(super) joining: Option<oneshot::Sender<JoinGroupResponse>>,
    pub(super) syncing: Option<oneshot::Sender<SyncGroupResponse>>,
}

impl Member {
    pub(super) fn answer_join(&mut self, response: JoinGroupResponse) {
        if let Some(reply) = self.joining.take() {
            answer(reply, response);
        }
    }

    pub(super) fn answer_sync(&mut self, response: SyncGroupResponse) {
        if let Some(reply) = self.syncing.take() {
            answer(reply, response);
        }
    }

    /// Tells whoever waits here that there is nothing more to wait for.
    pub(super) fn refuse_all(&mut self, id: &StrBytes, code: Code) {
        self.answer_join(refused_join(code, id.clone()));
        self.answer_sync(SyncGroupResponse::default().with_error_code(code.code()));
    }

    /// The session begins anew.
    pub(super) fn alive(&mut self, now: Instant) {
        self.expires = Some(now + self.recorded.session_timeout);
    }
}

/// A group as the log has it: what the next coordinator begins with.
#[derive(Debug, Clone, Default)]
pub(super) struct Stored {
    generation: i32,
    protocol_type: Option<StrBytes>,
    protocol: Option<StrBytes>,
    leader: Option<StrBytes>,
    members: BTreeMap<StrBytes, Recorded>,
}

#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) state: State,
    pub(super) generation: i32,
    /// `consumer` for consumers; the first member decides.
    pub(super) protocol_type: Option<StrBytes>,
    /// The assignor of this generation.
    pub(super) protocol: Option<StrBytes>,
    pub(super) leader: Option<StrBytes>,
    pub(super) members: BTreeMap<StrBytes, Member>,
    /// Members that have an id and have not joined with it, and when they are given up.
    pub(super) pending: BTreeMap<StrBytes, Instant>,
    /// Since when nobody was there: the rebalance is the first (`previousState() == EMPTY`).
    pub(super) from_empty: bool,
    /// A member came during the initial delay, which is therefore prolonged.
    pub(super) newcomer: bool,
    pub(super) join_timer: Option<(Instant, JoinTimer)>,
    /// Members that have not asked for their assignment, and when they are removed.
    pub(super) unsynced: BTreeSet<StrBytes>,
    pub(super) sync_timer: Option<Instant>,
    pub(super) offsets: BTreeMap<(StrBytes, i32), Committed>,
    /// Offsets of open transactions, by producer id.
    pub(super) pending_offsets: BTreeMap<i64, BTreeMap<(StrBytes, i32), Committed>>,
    stored: Stored,
}

impl Group {
    pub(super) fn leads(&self, member_id: &StrBytes) -> bool {
        self.leader.as_ref() == Some(member_id)
    }

    /// The member that has this instance id.
    pub(super) fn static_member(&self, instance_id: &StrBytes) -> Option<&StrBytes> {
        let mut all = self.members.iter();
        all.find(|(_, member)| member.recorded.instance_id.as_ref() == Some(instance_id)).map(|(id, _)| id)
    }

    /// Whether the sender is the member it says it is; instance ids are fenced (KIP-345).
    pub(super) fn validate(&self, id: &StrBytes, instance_id: Option<&StrBytes>) -> Result<(), Code> {
        if let Some(instance_id) = instance_id {
            match self.static_member(instance_id) {
                None => return Err(Code::UnknownMemberId),
                Some(of_instance) if of_instance != id => return Err(Code::FencedInstanceId),
                Some(_) => {}
            }
        }
        self.members.contains_key(id).then_some(()).ok_or(Code::UnknownMemberId)
    }

    /// Whether a member with these assignors can work with those that are there: one of its own is known to all.
    pub(super) fn supports(&self, protocol_type: &StrBytes, protocols: &[(StrBytes, Bytes)]) -> bool {
        if self.state == State::Empty {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        self.protocol_type.as_ref() == Some(protocol_type)
            && protocols.iter().any(|(name, _)| self.all_know(name))
    }

    fn all_know(&self, protocol: &StrBytes) -> bool {
        self.members.values().all(|member| member.recorded.protocols.iter().any(|(name, _)| name == protocol))
    }

    /// The assignor that most members like best among those that all know.
    pub(super) fn select_protocol(&self) -> Option<StrBytes> {
        let mut votes: BTreeMap<&StrBytes, usize> = BTreeMap::new();
        for member in self.members.values() {
            let mut known = member.recorded.protocols.iter().map(|(name, _)| name);
            if let Some(vote) = known.find(|name| self.all_know(name)) {
                *votes.entry(vote).or_default() += 1;
            }
        }
        votes.into_iter().max_by_key(|(_, count)| *count).map(|(name, _)| name.clone())
    }

    /// What the leader is told about everybody.
    pub(super) fn described(&self) -> Vec<JoinGroupResponseMember> {
        let protocol = self.protocol.clone().unwrap_or_default();
        let of = |(id, member): (&StrBytes, &Member)| {
            JoinGroupResponseMember::default()
                .with_member_id(id.clone())
                .with_group_instance_id(member.recorded.instance_id.clone())
                .with_metadata(member.recorded.metadata(&protocol))
        };
        self.members.iter().map(of).collect()
    }

    /// The answer to a JoinGroup of this generation.
    pub(super) fn joined(&self, id: &StrBytes) -> JoinGroupResponse {
        JoinGroupResponse::default()
            .with_generation_id(self.generation)
            .with_protocol_type(self.protocol_type.clone())
            .with_protocol_name(self.protocol.clone())
            .with_leader(self.leader.clone().unwrap_or_default())
            .with_member_id(id.clone())
            .with_members(if self.leads(id) { self.described() } else { Vec::new() })
    }

    /// The answer to a SyncGroup of this generation.
    pub(super) fn synced(&self, assignment: Bytes) -> SyncGroupResponse {
        SyncGroupResponse::default()
            .with_protocol_type(self.protocol_type.clone())
            .with_protocol_name(self.protocol.clone())
            .with_assignment(assignment)
    }

    /// Takes a member out, whatever it is, and tells it if it waits.
    pub(super) fn remove(&mut self, id: &StrBytes) {
        self.pending.remove(id);
        self.unsynced.remove(id);
        if let Some(mut member) = self.members.remove(id) {
            let reply = refused_join(Code::UnknownMemberId, StrBytes::default());
            member.answer_join(reply);
            member.answer_sync(SyncGroupResponse::default().with_error_code(Code::UnknownMemberId.code()));
        }
        if self.leads(id) {
            self.leader = self.members.keys().next().cloned();
        }
    }

    /// Whether a member says that it reads the topic; a group of another kind is taken to use none.
    pub(super) fn subscribes(&self, topic: &StrBytes) -> bool {
        let Some(protocol) = self.protocol.as_ref().filter(|_| self.is_consumer()) else { return false };
        let mut all = self.members.values().map(|member| member.recorded.metadata(protocol));
        all.any(|metadata| {
            subscription(metadata).is_some_and(|topics| topics.iter().any(|one| one == topic.as_bytes()))
        })
    }

    pub(super) fn is_consumer(&self) -> bool {
        self.protocol_type.as_deref() == Some("consumer")
    }

    /// Writes the group to what a new coordinator will read.
    pub(super) fn store(&mut self) {
        let members = self.members.iter().map(|(id, member)| (id.clone(), member.recorded.clone()));
        self.stored = Stored {
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            members: members.collect(),
        };
    }

    /// Whoever waits must ask the next coordinator; that one begins at `from` with what was written.
    pub(super) fn reload(&mut self, from: Instant) {
        for (id, member) in &mut self.members {
            member.refuse_all(id, Code::NotCoordinator);
        }
        let Stored { generation, protocol_type, protocol, leader, members } = self.stored.clone();
        let of = |(id, mut recorded): (StrBytes, Recorded)| {
            // Kafka writes of each member what it said to the assignor in use, no more.
            let chosen = protocol.clone().unwrap_or_default();
            recorded.protocols = vec![(chosen.clone(), recorded.metadata(&chosen))];
            let expires = Some(from + recorded.session_timeout);
            (id, Member { recorded, is_new: false, expires, joining: None, syncing: None })
        };
        let members: BTreeMap<StrBytes, Member> = members.into_iter().map(of).collect();
        *self = Self {
            state: if members.is_empty() { State::Empty } else { State::Stable },
            generation,
            protocol_type,
            protocol,
            leader,
            members,
            offsets: std::mem::take(&mut self.offsets),
            pending_offsets: std::mem::take(&mut self.pending_offsets),
            stored: std::mem::take(&mut self.stored),
            ..Self::default()
        };
    }
}

/// A JoinGroup that is refused.
pub(super) fn refused_join(code: Code, member_id: StrBytes) -> JoinGroupResponse {
    JoinGroupResponse::default()
        .with_error_code(code.code())
        .with_member_id(member_id)
        .with_protocol_name(None)
}

/// The topics of a consumer's subscription (`ConsumerProtocolSubscription`), if it can be read.
fn subscription(mut metadata: Bytes) -> Option<Vec<Bytes>> {
    metadata.try_get_i16().ok()?;
    let count = metadata.try_get_i32().ok()?;
    let mut topics = Vec::new();
    for _ in 0..count {
        let length = usize::try_from(metadata.try_get_i16().ok()?).ok()?;
        if metadata.len() < length {
            return None;
        }
        topics.push(metadata.split_to(length));
    }
    Some(topics)
}
