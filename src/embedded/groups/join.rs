//! JoinGroup: who may come in, and whether it makes the others come again (`classicGroupJoinToClassicGroup`).

use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::ResponseError as Code;
use kafka_protocol::messages::{JoinGroupRequest, JoinGroupResponse};
use kafka_protocol::protocol::StrBytes;
use tokio::sync::oneshot;

use super::group::{Group, Member, Recorded, State, refused_join};
use super::{GroupConfig, Groups, Origin, answer, is_unknown, millis};

/// A parked JoinGroup of a new member is given up after this long (`NewMemberJoinTimeoutMs`): its sender does not know
/// its id, so that no heartbeat can show that it is there.
const NEW_MEMBER_PATIENCE: Duration = Duration::from_secs(5 * 60);

type Reply = oneshot::Sender<JoinGroupResponse>;

impl Groups {
    /// JoinGroup. The answer comes through `reply`, at once or when the group has its next generation.
    pub(crate) fn join(&mut self, now: Instant, from: Origin<'_>, request: JoinGroupRequest, reply: Reply) {
        let member_id = request.member_id.clone();
        if let Err(code) = self.check_join(from, &request) {
            return answer(reply, refused_join(code, member_id));
        }
        let wanted = Wanted {
            recorded: recorded(from, &request),
            protocol_type: request.protocol_type.clone(),
            version: from.version,
        };
        let prefix = request.group_instance_id.as_deref().unwrap_or(from.client_id);
        let new_id = is_unknown(&member_id).then(|| self.new_member_id(prefix));
        let config = self.config.clone();
        // A group is made for a member that is new; one that has an id must have got it somewhere.
        let Some(group) = self.group(&request.group_id.0, new_id.is_some()) else {
            return answer(reply, refused_join(Code::UnknownMemberId, member_id));
        };
        if !group.accepts(&member_id, config.max_size) {
            group.remove(&member_id);
            return answer(reply, refused_join(Code::GroupMaxSizeReached, StrBytes::default()));
        }
        if !group.supports(&wanted.protocol_type, &wanted.recorded.protocols) {
            return answer(reply, refused_join(Code::InconsistentGroupProtocol, member_id));
        }
        match new_id {
            Some(new_id) => group.join_new(now, wanted, new_id, reply, &config),
            None => group.join_known(now, wanted, member_id, reply, &config),
        }
        self.tick(now);
    }

    fn check_join(&self, from: Origin<'_>, request: &JoinGroupRequest) -> Result<(), Code> {
        if request.group_id.is_empty() {
            return Err(Code::InvalidGroupId);
        }
        let session = millis(request.session_timeout_ms);
        if session < self.config.min_session_timeout || session > self.config.max_session_timeout {
            return Err(Code::InvalidSessionTimeout);
        }
        from.home
    }
}

/// What a JoinGroup asks for.
struct Wanted {
    recorded: Recorded,
    protocol_type: StrBytes,
    version: i16,
}

fn recorded(from: Origin<'_>, request: &JoinGroupRequest) -> Recorded {
    let session_timeout = millis(request.session_timeout_ms);
    Recorded {
        instance_id: request.group_instance_id.clone(),
        client_id: StrBytes::from_string(from.client_id.to_owned()),
        client_host: StrBytes::from_string(from.host.to_owned()),
        rebalance_timeout: match from.version {
            0 => session_timeout,
            _ => millis(request.rebalance_timeout_ms),
        },
        session_timeout,
        protocols: request.protocols.iter().map(|p| (p.name.clone(), p.metadata.clone())).collect(),
        assignment: Bytes::new(),
    }
}

impl Group {
    /// Whether there is room. In a rebalance those count who have come back: the last to come do not get in.
    fn accepts(&self, id: &StrBytes, max_size: usize) -> bool {
        match self.state {
            State::Empty => true,
            State::PreparingRebalance => {
                self.members.get(id).is_some_and(|member| member.joining.is_some())
                    || self.members.values().filter(|member| member.joining.is_some()).count() < max_size
            }
            _ => self.members.contains_key(id) || self.members.len() < max_size,
        }
    }

    fn join_new(
        &mut self,
        now: Instant,
        wanted: Wanted,
        new_id: StrBytes,
        reply: Reply,
        config: &GroupConfig,
    ) {
        if let Some(instance_id) = wanted.recorded.instance_id.clone() {
            return match self.static_member(&instance_id).cloned() {
                Some(old_id) => self.replace(now, wanted, &old_id, new_id, reply, config),
                None => self.add(now, wanted, new_id, reply, config),
            };
        }
        if wanted.version < 4 {
            return self.add(now, wanted, new_id, reply, config);
        }
        // KIP-394: it gets its id before it joins, so that a lost answer leaves no member behind.
        self.pending.insert(new_id.clone(), now + wanted.recorded.session_timeout);
        answer(reply, refused_join(Code::MemberIdRequired, new_id));
    }

    fn join_known(&mut self, now: Instant, wanted: Wanted, id: StrBytes, reply: Reply, config: &GroupConfig) {
        if self.pending.contains_key(&id) {
            return self.add(now, wanted, id, reply, config);
        }
        if let Err(code) = self.validate(&id, wanted.recorded.instance_id.as_ref()) {
            return answer(reply, refused_join(code, id));
        }
        let leads = self.leads(&id);
        let member = self.members.get_mut(&id).expect("validate has found it");
        let same = member.recorded.protocols == wanted.recorded.protocols;
        match self.state {
            State::Empty => answer(reply, refused_join(Code::UnknownMemberId, id)),
            // The first answer may have been lost.
            State::CompletingRebalance if same => answer(reply, self.joined(&id)),
            // A leader that joins wants a rebalance: something changed that its metadata does not show.
            State::Stable if same && !leads => answer(reply, self.joined(&id)),
            _ => {
                member.update(wanted, reply);
                self.rebalance_or_complete(now, config);
            }
        }
    }

    fn add(&mut self, now: Instant, wanted: Wanted, id: StrBytes, reply: Reply, config: &GroupConfig) {
        if self.state == State::PreparingRebalance && self.from_empty {
            self.newcomer = true;
        }
        if self.members.is_empty() {
            self.protocol_type = Some(wanted.protocol_type);
        }
        self.leader.get_or_insert_with(|| id.clone());
        self.pending.remove(&id);
        let expires = Some(now + NEW_MEMBER_PATIENCE);
        let recorded = wanted.recorded;
        let member = Member { recorded, is_new: true, expires, joining: Some(reply), syncing: None };
        self.members.insert(id, member);
        self.rebalance_or_complete(now, config);
    }

    /// A static member is back under a new id (KIP-345): in a stable group nobody else hears of it.
    fn replace(
        &mut self,
        now: Instant,
        wanted: Wanted,
        old_id: &StrBytes,
        id: StrBytes,
        reply: Reply,
        config: &GroupConfig,
    ) {
        let mut member = self.members.remove(old_id).expect("found by its instance");
        // ORDER: the old one is told before the new one is answered, so that two of one name never run at once.
        member.refuse_all(old_id, Code::FencedInstanceId);
        let old_leader = self.leader.clone();
        if self.leads(old_id) {
            self.leader = Some(id.clone());
        }
        if self.unsynced.remove(old_id) {
            self.unsynced.insert(id.clone());
        }
        let skips = wanted.version >= 9;
        member.update(wanted, reply);
        member.alive(now);
        self.members.insert(id.clone(), member);
        if self.state != State::Stable || self.select_protocol() != self.protocol {
            return self.rebalance_or_complete(now, config);
        }
        self.store();
        let mut response = self.joined(&id);
        if skips {
            // KIP-814: the leader is told who it is, and not to assign.
            response.skip_assignment = self.leads(&id);
        } else {
            // An older client must not take itself for the leader: it would wait for no one and assign anew.
            response.members.clear();
            response.leader = old_leader.unwrap_or_default();
        }
        let member = self.members.get_mut(&id).expect("inserted above");
        member.answer_join(response);
    }
}

impl Member {
    /// Takes over what the member now says of itself; its assignment stays.
    fn update(&mut self, wanted: Wanted, reply: Reply) {
        let assignment = std::mem::take(&mut self.recorded.assignment);
        self.recorded = Recorded { assignment, ..wanted.recorded };
        if let Some(earlier) = self.joining.replace(reply) {
            // Nobody reads it: a client sends another JoinGroup when it has given up the connection of the first.
            answer(earlier, refused_join(Code::RebalanceInProgress, StrBytes::default()));
        }
    }
}
