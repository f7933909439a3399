//! A coordinator of one classic group, after the rules of the broker's `ClassicGroup` and `GroupMetadataManager`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::ResponseError as Code;

use super::super::event::{Joined, Reply, Request, RequestId, RpcError};
use crate::{Error, ErrorKind};

const SESSION: Duration = Duration::from_secs(45);
const REBALANCE: Duration = Duration::from_secs(15);

/// Where an answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) node: usize,
    pub(super) life: u64,
    pub(super) id: RequestId,
}

#[derive(Debug, Clone, Default)]
struct GroupMember {
    instance_id: Option<String>,
    metadata: Bytes,
    assignment: Bytes,
    session_until: Duration,
    joining: Option<Address>,
    syncing: Option<Address>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Empty,
    Preparing(Duration),
    Completing(Duration),
    Stable,
}

/// What the coordinator writes to its log, and a new one reads.
#[derive(Debug, Clone, Default)]
struct Stored {
    members: BTreeMap<String, GroupMember>,
    generation: i32,
    leader: String,
}

#[derive(Debug, Default)]
pub(super) struct Coordinator {
    state: State,
    pub(super) generation: i32,
    leader: String,
    members: BTreeMap<String, GroupMember>,
    pending: BTreeSet<String>,
    last_member: usize,
    down_until: Duration,
    stored: Stored,
    pub(super) answers: Vec<(Address, Result<Reply, RpcError>)>,
}

impl Coordinator {
    /// Whether an OffsetCommit would pass.
    pub(super) fn accepts(&self, member_id: &str, generation: i32) -> bool {
        self.members.contains_key(member_id)
            && generation == self.generation
            && matches!(self.state, State::Stable | State::Preparing(_))
    }

    pub(super) fn receive(
        &mut self,
        from: Address,
        instance: Option<String>,
        request: Request,
        now: Duration,
    ) {
        if now < self.down_until {
            let code = match request {
                Request::FindCoordinator => Code::CoordinatorNotAvailable,
                _ => Code::NotCoordinator,
            };
            return self.refuse(from, code);
        }
        match request {
            Request::FindCoordinator => self.answer(from, Reply::Coordinator),
            Request::Join { member_id, metadata, .. } => self.join(from, member_id, instance, metadata, now),
            Request::Sync { generation, member_id, assignments } => {
                self.sync(from, &member_id, generation, assignments, now);
            }
            Request::Heartbeat { generation, member_id } => {
                let preparing = matches!(self.state, State::Preparing(_));
                match self.members.get_mut(&member_id) {
                    None => self.refuse(from, Code::UnknownMemberId),
                    Some(_) if generation != self.generation => self.refuse(from, Code::IllegalGeneration),
                    Some(member) => {
                        member.session_until = now + SESSION;
                        match preparing {
                            true => self.refuse(from, Code::RebalanceInProgress),
                            false => self.answer(from, Reply::Alive),
                        }
                    }
                }
            }
            Request::Leave { member_id } => {
                self.pending.remove(&member_id);
                match self.members.contains_key(&member_id) {
                    false => self.refuse(from, Code::UnknownMemberId),
                    true => {
                        self.answer(from, Reply::Left);
                        self.remove(&member_id, now);
                    }
                }
            }
        }
    }

    fn join(&mut self, from: Address, id: String, instance: Option<String>, metadata: Bytes, now: Duration) {
        let of_instance = self
            .members
            .iter()
            .find(|(_, member)| instance.is_some() && member.instance_id == instance)
            .map(|(id, _)| id.clone());
        if id.is_empty() {
            self.last_member += 1;
            let new_id = format!("m{}", self.last_member);
            let Some(old_id) = of_instance else {
                if instance.is_none() {
                    self.pending.insert(new_id.clone());
                    return self.answer(from, Reply::MemberId(new_id));
                }
                return self.add(from, new_id, instance, metadata, now);
            };
            return self.replace(from, &old_id, new_id, metadata, now);
        }
        if self.pending.remove(&id) {
            return self.add(from, id, instance, metadata, now);
        }
        if of_instance.is_some_and(|other| other != id) {
            return self.refuse(from, Code::FencedInstanceId);
        }
        let leads = id == self.leader;
        let Some(member) = self.members.get_mut(&id) else { return self.refuse(from, Code::UnknownMemberId) };
        let same = member.metadata == metadata;
        if same && matches!(self.state, State::Completing(_)) || same && !leads && self.state == State::Stable
        {
            return self.answer_join(from, &id, false);
        }
        member.metadata = metadata;
        member.joining = Some(from);
        self.prepare(now);
    }

    fn add(
        &mut self,
        from: Address,
        id: String,
        instance_id: Option<String>,
        metadata: Bytes,
        now: Duration,
    ) {
        let member = GroupMember {
            instance_id,
            metadata,
            session_until: now + SESSION,
            joining: Some(from),
            ..GroupMember::default()
        };
        self.members.insert(id, member);
        self.prepare(now);
    }

    /// A static member is back (KIP-345): in a stable group nobody else hears of it.
    fn replace(&mut self, from: Address, old_id: &str, id: String, metadata: Bytes, now: Duration) {
        let mut member = self.members.remove(old_id).expect("found by its instance");
        for waiting in [member.joining.take(), member.syncing.take()].into_iter().flatten() {
            self.refuse(waiting, Code::FencedInstanceId);
        }
        member.metadata = metadata;
        member.session_until = now + SESSION;
        let led = self.leader == old_id;
        if led {
            self.leader.clone_from(&id);
        }
        if self.state == State::Stable {
            self.members.insert(id.clone(), member);
            self.store();
            return self.answer_join(from, &id, led);
        }
        member.joining = Some(from);
        self.members.insert(id, member);
        self.prepare(now);
    }

    fn prepare(&mut self, now: Duration) {
        let waiting: Vec<Address> = self.members.values_mut().filter_map(|m| m.syncing.take()).collect();
        for address in waiting {
            self.refuse(address, Code::RebalanceInProgress);
        }
        if !matches!(self.state, State::Preparing(_)) {
            self.state = State::Preparing(now + REBALANCE);
        }
        self.complete_join(now);
    }

    fn complete_join(&mut self, now: Duration) {
        let State::Preparing(until) = self.state else { return };
        if now >= until {
            self.pending.clear();
            self.members.retain(|_, member| member.joining.is_some() || member.instance_id.is_some());
            if self.members.is_empty() {
                self.state = State::Empty;
                self.generation += 1;
                return;
            }
            if self.members.values().all(|member| member.joining.is_none()) {
                self.state = State::Preparing(now + REBALANCE);
                return;
            }
        } else if !self.pending.is_empty() || self.members.values().any(|member| member.joining.is_none()) {
            return;
        }
        if self.members.is_empty() {
            self.state = State::Empty;
            self.generation += 1;
            return;
        }
        self.generation += 1;
        self.state = State::Completing(now + REBALANCE);
        if self.members.get(&self.leader).is_none_or(|leader| leader.joining.is_none()) {
            let first = self.members.iter().find(|(_, member)| member.joining.is_some());
            self.leader.clone_from(first.expect("somebody joins").0);
        }
        let mut joined = Vec::new();
        for (id, member) in &mut self.members {
            if let Some(address) = member.joining.take() {
                member.session_until = now + SESSION;
                joined.push((id.clone(), address));
            }
        }
        for (id, address) in joined {
            self.answer_join(address, &id, false);
        }
    }

    fn answer_join(&mut self, to: Address, id: &str, skip_assignment: bool) {
        let members =
            self.members.iter().map(|(id, m)| (id.clone(), m.instance_id.clone(), m.metadata.clone()));
        let members = if id == self.leader { members.collect() } else { Vec::new() };
        let joined = Joined {
            generation: self.generation,
            member_id: id.to_owned(),
            leader: self.leader.clone(),
            skip_assignment,
            protocol: Some("mainstem".to_owned()),
            members,
        };
        self.answer(to, Reply::Joined(joined));
    }

    fn sync(
        &mut self,
        from: Address,
        id: &str,
        generation: i32,
        assignments: Vec<(String, Bytes)>,
        now: Duration,
    ) {
        let Some(member) = self.members.get_mut(id) else { return self.refuse(from, Code::UnknownMemberId) };
        if generation != self.generation {
            return self.refuse(from, Code::IllegalGeneration);
        }
        match self.state {
            State::Empty => self.refuse(from, Code::UnknownMemberId),
            State::Preparing(_) => self.refuse(from, Code::RebalanceInProgress),
            State::Stable => {
                let assignment = member.assignment.clone();
                self.answer(from, Reply::Synced(assignment));
            }
            State::Completing(_) => {
                member.syncing = Some(from);
                member.session_until = now + SESSION;
                if id != self.leader {
                    return;
                }
                let mut assignments: BTreeMap<String, Bytes> = assignments.into_iter().collect();
                let mut synced = Vec::new();
                for (id, member) in &mut self.members {
                    member.assignment = assignments.remove(id).unwrap_or_default();
                    synced.extend(member.syncing.take().map(|to| (to, member.assignment.clone())));
                }
                self.state = State::Stable;
                self.store();
                for (to, assignment) in synced {
                    self.answer(to, Reply::Synced(assignment));
                }
            }
        }
    }

    fn remove(&mut self, id: &str, now: Duration) {
        if let Some(member) = self.members.remove(id) {
            for waiting in [member.joining, member.syncing].into_iter().flatten() {
                self.refuse(waiting, Code::UnknownMemberId);
            }
            self.prepare(now);
        }
    }

    pub(super) fn sweep(&mut self, now: Duration) {
        if now < self.down_until {
            return;
        }
        let dead = |m: &GroupMember| m.joining.is_none() && m.syncing.is_none() && now >= m.session_until;
        let dead: Vec<String> =
            self.members.iter().filter(|(_, m)| dead(m)).map(|(id, _)| id.clone()).collect();
        for id in dead {
            self.remove(&id, now);
        }
        match self.state {
            State::Preparing(_) => self.complete_join(now),
            // Who does not ask for the assignment in time is removed, the leader included.
            State::Completing(until) if now >= until => {
                let silent = self.members.iter().filter(|(_, member)| member.syncing.is_none());
                for id in silent.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
                    self.remove(&id, now);
                }
            }
            _ => {}
        }
    }

    fn store(&mut self) {
        self.stored = Stored {
            members: self.members.clone(),
            generation: self.generation,
            leader: self.leader.clone(),
        };
    }

    /// Another broker takes over with what has been stored, after a while.
    pub(super) fn fail_over(&mut self, now: Duration, down: Duration) {
        let waiting: Vec<Address> =
            self.members.values_mut().flat_map(|m| [m.joining.take(), m.syncing.take()]).flatten().collect();
        for address in waiting {
            let error = Error::new(ErrorKind::Connection, "the broker is gone");
            self.answers.push((address, Err(RpcError::Failed(error))));
        }
        self.down_until = now + down;
        let Stored { members, generation, leader } = self.stored.clone();
        (self.members, self.generation, self.leader) = (members, generation, leader);
        self.pending.clear();
        self.state = if self.members.is_empty() { State::Empty } else { State::Stable };
        for member in self.members.values_mut() {
            (member.joining, member.syncing) = (None, None);
            member.session_until = self.down_until + SESSION;
        }
    }

    fn answer(&mut self, to: Address, reply: Reply) {
        self.answers.push((to, Ok(reply)));
    }

    fn refuse(&mut self, to: Address, code: Code) {
        self.answers.push((to, Err(RpcError::Code(code.code()))));
    }
}
