//! From the first JoinGroup to the new generation, and the timers of a group (`prepareRebalance`, `completeClassicGroupJoin`).

use std::time::{Duration, Instant};

use kafka_protocol::ResponseError as Code;
use kafka_protocol::messages::SyncGroupResponse;
use kafka_protocol::protocol::StrBytes;

use super::GroupConfig;
use super::group::{Group, State};

/// What happens when the time for joining is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JoinTimer {
    /// The initial delay: prolonged by newcomers, by no more than what remains.
    Initial { delay: Duration, remaining: Duration },
    /// Who has not come back is out.
    Rebalance,
}

/// What is due in a group.
enum Due {
    Join(JoinTimer),
    Sync,
    Pending(StrBytes),
    Session(StrBytes),
}

impl Group {
    /// A rebalance begins, or, if there is one, it may be that all are there now.
    pub(super) fn rebalance_or_complete(&mut self, now: Instant, config: &GroupConfig) {
        match self.state {
            State::PreparingRebalance => self.maybe_complete(now),
            _ => self.prepare(now, config),
        }
    }

    /// Completes a rebalance that waits for nobody; the first one of a group lasts as long as its delay says.
    pub(super) fn maybe_complete(&mut self, now: Instant) {
        if self.state == State::PreparingRebalance && self.all_joined() && !self.from_empty {
            self.complete(now);
        }
    }

    fn prepare(&mut self, now: Instant, config: &GroupConfig) {
        if self.state == State::CompletingRebalance {
            for member in self.members.values_mut() {
                member.recorded.assignment.clear();
                if member.syncing.is_some() {
                    member.alive(now);
                }
                let code = Code::RebalanceInProgress.code();
                member.answer_sync(SyncGroupResponse::default().with_error_code(code));
            }
        }
        self.sync_timer = None;
        self.from_empty = self.state == State::Empty;
        self.state = State::PreparingRebalance;
        if self.from_empty {
            let delay = config.initial_rebalance_delay;
            let remaining = self.rebalance_timeout().saturating_sub(delay);
            self.newcomer = false;
            self.join_timer = Some((now + delay, JoinTimer::Initial { delay, remaining }));
        } else if self.all_joined() {
            self.complete(now);
        } else {
            self.join_timer = Some((now + self.rebalance_timeout(), JoinTimer::Rebalance));
        }
    }

    pub(super) fn all_joined(&self) -> bool {
        self.pending.is_empty() && self.members.values().all(|member| member.joining.is_some())
    }

    /// The longest that a member asks for; never nothing, or a timer would fire for ever.
    fn rebalance_timeout(&self) -> Duration {
        let all = self.members.values().map(|member| member.recorded.rebalance_timeout);
        all.max().unwrap_or_default().max(Duration::from_millis(1))
    }

    /// The time for joining is over: those who came are the next generation.
    pub(super) fn complete(&mut self, now: Instant) {
        // A static member stays until its session is over.
        let gone = self.members.iter().filter(|(_, member)| {
            let is_static = member.recorded.instance_id.is_some();
            member.joining.is_none() && !is_static
        });
        for id in gone.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.remove(&id);
        }
        if !self.members.is_empty() && !self.elect_leader() {
            // Nobody came: wait for the sessions of those that are left to end.
            self.join_timer = Some((now + self.rebalance_timeout(), JoinTimer::Rebalance));
            return;
        }
        self.join_timer = None;
        self.from_empty = false;
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.unsynced.clear();
        self.protocol = self.select_protocol();
        if self.members.is_empty() {
            self.state = State::Empty;
            self.leader = None;
            return self.store();
        }
        self.state = State::CompletingRebalance;
        self.unsynced = self.members.keys().cloned().collect();
        self.sync_timer = Some(now + self.rebalance_timeout());
        for id in self.unsynced.clone() {
            let response = self.joined(&id);
            if let Some(member) = self.members.get_mut(&id) {
                member.answer_join(response);
                member.is_new = false;
                member.alive(now);
            }
        }
    }

    /// Whether there is a leader that has joined; one that has not come back loses its place.
    fn elect_leader(&mut self) -> bool {
        let joined = |id: &StrBytes| self.members.get(id).is_some_and(|member| member.joining.is_some());
        if self.leader.as_ref().is_some_and(joined) {
            return true;
        }
        match self.members.iter().find(|(_, member)| member.joining.is_some()) {
            Some((id, _)) => self.leader = Some(id.clone()),
            None => return false,
        }
        true
    }

    /// Members were taken out: the others must share their work.
    pub(super) fn after_removal(&mut self, now: Instant, config: &GroupConfig) {
        match self.state {
            State::Stable | State::CompletingRebalance => self.prepare(now, config),
            State::PreparingRebalance if self.all_joined() => self.complete(now),
            _ => {}
        }
    }

    /// When this group has something to do next.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let sessions = self.members.values().filter_map(|member| member.expires);
        let timers = [self.join_timer.map(|(at, _)| at), self.sync_timer];
        timers.into_iter().flatten().chain(self.pending.values().copied()).chain(sessions).min()
    }

    /// Does one thing that is due `at` that time.
    pub(super) fn run_due(&mut self, at: Instant, now: Instant, config: &GroupConfig) {
        match self.due(at) {
            None => {}
            Some(Due::Join(JoinTimer::Initial { delay, remaining })) => {
                self.join_timer = None;
                if !self.newcomer || remaining.is_zero() {
                    return self.complete(now);
                }
                self.newcomer = false;
                let next = config.initial_rebalance_delay.min(remaining).max(Duration::from_millis(1));
                let remaining = remaining.saturating_sub(delay);
                self.join_timer = Some((now + next, JoinTimer::Initial { delay: next, remaining }));
            }
            Some(Due::Join(JoinTimer::Rebalance)) => {
                self.join_timer = None;
                self.complete(now);
            }
            Some(Due::Sync) => {
                self.sync_timer = None;
                // Who has not asked for the assignment is out, the leader included.
                for id in std::mem::take(&mut self.unsynced) {
                    self.remove(&id);
                }
                self.after_removal(now, config);
            }
            Some(Due::Pending(id)) => {
                self.pending.remove(&id);
                self.maybe_complete(now);
            }
            Some(Due::Session(id)) => self.expire(now, &id, config),
        }
    }

    fn due(&self, at: Instant) -> Option<Due> {
        if let Some((until, timer)) = self.join_timer
            && until <= at
        {
            return Some(Due::Join(timer));
        }
        if self.sync_timer.is_some_and(|until| until <= at) {
            return Some(Due::Sync);
        }
        if let Some((id, _)) = self.pending.iter().find(|(_, until)| **until <= at) {
            return Some(Due::Pending(id.clone()));
        }
        let mut sessions = self.members.iter();
        let over = sessions.find(|(_, member)| member.expires.is_some_and(|until| until <= at));
        over.map(|(id, _)| Due::Session(id.clone()))
    }

    fn expire(&mut self, now: Instant, id: &StrBytes, config: &GroupConfig) {
        let Some(member) = self.members.get_mut(id) else { return };
        member.expires = None;
        // Who waits for an answer cannot send heartbeats; its session begins anew with the answer.
        let waits = member.joining.is_some() || member.syncing.is_some();
        if member.is_new || !waits {
            self.remove(id);
            self.after_removal(now, config);
        }
    }
}
