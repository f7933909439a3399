//! SyncGroup, Heartbeat and LeaveGroup (`classicGroupSync`, `classicGroupHeartbeat`, `classicGroupLeave`).

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;
use kafka_protocol::ResponseError as Code;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::{
    HeartbeatRequest, HeartbeatResponse, LeaveGroupRequest, LeaveGroupResponse, SyncGroupRequest,
    SyncGroupResponse,
};
use kafka_protocol::protocol::StrBytes;
use tokio::sync::oneshot;

use super::group::{Group, State};
use super::{Groups, Origin, answer, check, code_of, is_unknown};

impl Groups {
    /// SyncGroup. The answer comes through `reply`, at once or when the leader has assigned.
    pub(crate) fn sync(
        &mut self,
        now: Instant,
        from: Origin<'_>,
        request: SyncGroupRequest,
        reply: oneshot::Sender<SyncGroupResponse>,
    ) {
        let refuse = |reply, code: Code| {
            answer(reply, SyncGroupResponse::default().with_error_code(code.code()).with_protocol_name(None));
        };
        if let Err(code) = check(from, &request.group_id.0) {
            return refuse(reply, code);
        }
        let Some(group) = self.group(&request.group_id.0, false) else {
            return refuse(reply, Code::UnknownMemberId);
        };
        if let Err(code) = group.validate_sync(&request) {
            return refuse(reply, code);
        }
        let id = request.member_id;
        group.unsynced.remove(&id);
        let member = group.members.get_mut(&id).expect("validate has found it");
        if group.state == State::Stable {
            member.alive(now);
            let assignment = member.recorded.assignment.clone();
            return answer(reply, group.synced(assignment));
        }
        if let Some(earlier) = member.syncing.replace(reply) {
            refuse(earlier, Code::RebalanceInProgress);
        }
        if group.leads(&id) {
            let assigned = request.assignments.into_iter().map(|one| (one.member_id, one.assignment));
            group.assign(now, assigned.collect());
        }
        if group.unsynced.is_empty() {
            group.sync_timer = None;
        }
    }

    /// Heartbeat.
    pub(crate) fn heartbeat(
        &mut self,
        now: Instant,
        from: Origin<'_>,
        request: &HeartbeatRequest,
    ) -> HeartbeatResponse {
        let outcome = check(from, &request.group_id.0).and_then(|()| {
            let group = self.group(&request.group_id.0, false).ok_or(Code::UnknownMemberId)?;
            group.validate(&request.member_id, request.group_instance_id.as_ref())?;
            if request.generation_id != group.generation {
                return Err(Code::IllegalGeneration);
            }
            let member = group.members.get_mut(&request.member_id).ok_or(Code::UnknownMemberId)?;
            member.alive(now);
            match group.state {
                State::Empty => Err(Code::UnknownMemberId),
                State::PreparingRebalance => Err(Code::RebalanceInProgress),
                State::CompletingRebalance | State::Stable => Ok(()),
            }
        });
        HeartbeatResponse::default().with_error_code(code_of(outcome))
    }

    /// LeaveGroup; up to version 2 of one member, from 3 on of several, also by instance id alone (KIP-345).
    pub(crate) fn leave(
        &mut self,
        now: Instant,
        from: Origin<'_>,
        request: LeaveGroupRequest,
    ) -> LeaveGroupResponse {
        let response = LeaveGroupResponse::default();
        if let Err(code) = check(from, &request.group_id.0) {
            return response.with_error_code(code.code());
        }
        let leaving = match from.version {
            0..3 => vec![MemberIdentity::default().with_member_id(request.member_id)],
            _ => request.members,
        };
        let config = self.config.clone();
        let mut group = self.group(&request.group_id.0, false);
        let mut outcomes = Vec::new();
        for member in leaving {
            let outcome = match &mut group {
                None => Err(Code::UnknownMemberId),
                Some(group) => group.leave(&member.member_id, member.group_instance_id.as_ref()),
            };
            outcomes.push((member, outcome));
        }
        if let Some(group) = group.filter(|_| outcomes.iter().any(|(_, outcome)| outcome.is_ok())) {
            match group.state {
                State::PreparingRebalance => group.maybe_complete(now),
                _ => group.after_removal(now, &config),
            }
        }
        if from.version < 3 {
            let outcome = outcomes.first().map_or(Ok(()), |(_, outcome)| *outcome);
            return response.with_error_code(code_of(outcome));
        }
        let answered = |(member, outcome): (MemberIdentity, Result<(), Code>)| {
            MemberResponse::default()
                .with_member_id(member.member_id)
                .with_group_instance_id(member.group_instance_id)
                .with_error_code(code_of(outcome))
        };
        response.with_members(outcomes.into_iter().map(answered).collect())
    }
}

impl Group {
    fn validate_sync(&self, request: &SyncGroupRequest) -> Result<(), Code> {
        self.validate(&request.member_id, request.group_instance_id.as_ref())?;
        if request.generation_id != self.generation {
            return Err(Code::IllegalGeneration);
        }
        let differ = |theirs: &Option<StrBytes>, ours: &Option<StrBytes>| {
            theirs.is_some() && ours.is_some() && theirs != ours
        };
        if differ(&request.protocol_type, &self.protocol_type)
            || differ(&request.protocol_name, &self.protocol)
        {
            return Err(Code::InconsistentGroupProtocol);
        }
        match self.state {
            State::Empty => Err(Code::UnknownMemberId),
            State::PreparingRebalance => Err(Code::RebalanceInProgress),
            State::CompletingRebalance | State::Stable => Ok(()),
        }
    }

    /// The leader has spoken: everybody who asked gets its share; who was left out gets nothing.
    fn assign(&mut self, now: Instant, mut assigned: BTreeMap<StrBytes, Bytes>) {
        for (id, member) in &mut self.members {
            member.recorded.assignment = assigned.remove(id).unwrap_or_default();
        }
        self.state = State::Stable;
        // ORDER: written before anyone hears of it; a coordinator that takes over knows what members act on.
        self.store();
        let template = self.synced(Bytes::new());
        for member in self.members.values_mut().filter(|member| member.syncing.is_some()) {
            let response = template.clone().with_assignment(member.recorded.assignment.clone());
            member.answer_sync(response);
            member.alive(now);
        }
    }

    fn leave(&mut self, id: &StrBytes, instance_id: Option<&StrBytes>) -> Result<(), Code> {
        let id = match instance_id {
            // An administrator names the instance alone.
            Some(instance_id) if is_unknown(id) => {
                self.static_member(instance_id).cloned().ok_or(Code::UnknownMemberId)?
            }
            _ if self.pending.contains_key(id) => id.clone(),
            _ => self.validate(id, instance_id).map(|()| id.clone())?,
        };
        self.remove(&id);
        Ok(())
    }
}
