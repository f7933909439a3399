//! The membership of one instance in its group, as a pure state machine: what happened and the time go in, what to do
//! comes out. No sockets, no threads, no clock.
//!
//! The classic protocol with cooperative rebalancing:
//!
//! ```text
//!  Idle --Start--> Rejoining --JoinGroup--> Joining --leader--> Assigning --> Syncing --+
//!                   ^  ^  ^                    \----follower------------------^         |
//!                   |  |  |                                                     tasks to give up?
//!                   |  |  +---- error, lost member ----                         |           |
//!                   |  +-- Committing <-- rebalance, Rejoin --  Stable  <--no---+          yes
//!                   +----------------------- (also first Committing) ------ Revoking <------+
//!  any --Close--> Leaving (dynamic members) --> Stopped;   any --fatal error--> Failed --Close--> ...
//! ```
//!
//! Kept tasks go on all the time. Commits pass in a generation only: the gate opens with the assignment and closes when
//! JoinGroup is sent, just before which everything is committed. The second JoinGroup of a cooperative rebalance is sent
//! when every revoked task has been released or fenced, because from then on somebody else may get it: the coordinator
//! does not check who commits for a partition.

mod answer;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::config::GroupConfig;
use super::event::{Action, Assignment, Event, Lease, Request, RequestId};
use super::protocol::{write_assignment, write_subscription};
use super::user_data::{ActiveTask, AssignmentData, AssignmentError, Instance, SubscriptionData};
use crate::{Error, ErrorKind, Result, TaskId};

/// The membership of one instance. See the module.
#[derive(Debug)]
pub(crate) struct Membership {
    config: GroupConfig,
    topics: Vec<String>,
    data: SubscriptionData,
    phase: Phase,
    coordinator: Coordinator,
    /// Empty until the coordinator has given one.
    member_id: String,
    /// The coordinator has changed since it gave the member id, and may not have stored it before. See
    /// [`Membership::forgotten_by_new_coordinator`].
    id_in_doubt: bool,
    /// A SyncGroup has succeeded under the member id, so that it is stored.
    id_stored: bool,
    /// The generation joined last; -1 outside of one.
    generation: i32,
    /// The generation of the last assignment.
    assigned_in: i32,
    /// The tasks that nobody else can have, those being revoked included.
    owned: BTreeMap<TaskId, Tenure>,
    gate_open: bool,
    /// The heartbeat that is under way, and when it was sent.
    beating: Option<(RequestId, Duration)>,
    beat_at: Duration,
    /// When the coordinator takes the member for dead if it hears nothing.
    session_until: Duration,
    /// The same by the coordinator's last good word, without what a wait for JoinGroup or SyncGroup has added to it.
    heard_until: Duration,
    /// Until when the coordinator cannot have completed a rebalance without this member. See [`Membership::permit_until`].
    in_group_until: Duration,
    /// When the machine was stepped last: what is there now was not there then.
    stepped: Duration,
    /// When the next request may be sent that is no heartbeat.
    retry_at: Duration,
    failures: u32,
    /// What the last of them was.
    trouble: String,
    /// How often the coordinator has turned the member away since the last assignment. See `Membership::refused`.
    refusals: u32,
    /// Why to join again as soon as the group is stable.
    rejoin: Option<&'static str>,
    /// When to join again even if nothing happens.
    rejoin_at: Option<Duration>,
    /// All instances of the last assignment.
    instances: Vec<Instance>,
    last_request: u64,
    last_join: u8,
    /// Numbers tenures and assignments.
    last_epoch: u64,
    timer: Option<Duration>,
    /// What a coordinator had stored for this static member was not for this process: it has joined once more.
    doubted: bool,
    /// The application is to end everywhere, as soon as this member has released its tasks.
    farewell: Option<Error>,
    out: Vec<Action>,
}

#[derive(Debug, Clone)]
struct Tenure {
    epoch: u64,
    active: ActiveTask,
}

#[derive(Debug)]
enum Phase {
    Idle,
    /// JoinGroup is to be sent.
    Rejoining,
    /// The workers flush and commit before JoinGroup.
    Committing {
        until: Duration,
    },
    Joining(RequestId),
    /// The runtime computes the assignment.
    Assigning,
    Syncing(RequestId),
    Stable,
    /// The workers release these tasks, or they are fenced.
    Revoking {
        pending: BTreeSet<TaskId>,
        until: Duration,
    },
    Leaving {
        request: Option<RequestId>,
        until: Duration,
    },
    Failed,
    Stopped,
}

impl Phase {
    /// Whether the coordinator expects heartbeats. While a JoinGroup or SyncGroup waits it does not.
    fn beats(&self) -> bool {
        matches!(self, Self::Committing { .. } | Self::Assigning | Self::Stable | Self::Revoking { .. })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coordinator {
    Unknown,
    Finding(RequestId),
    Known,
}

impl Membership {
    /// A member that has not joined yet. `topics` are the source topics, repartition topics included; `data` says all
    /// about the instance but the tasks it owns.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Config`] if the times contradict each other.
    pub(crate) fn new(config: GroupConfig, topics: Vec<String>, data: SubscriptionData) -> Result<Self> {
        config.check()?;
        Ok(Self {
            config,
            topics,
            data,
            phase: Phase::Idle,
            coordinator: Coordinator::Unknown,
            member_id: String::new(),
            id_in_doubt: false,
            id_stored: false,
            generation: -1,
            assigned_in: -1,
            owned: BTreeMap::new(),
            gate_open: false,
            beating: None,
            beat_at: Duration::ZERO,
            session_until: Duration::ZERO,
            heard_until: Duration::ZERO,
            in_group_until: Duration::ZERO,
            stepped: Duration::ZERO,
            retry_at: Duration::ZERO,
            failures: 0,
            trouble: String::new(),
            refusals: 0,
            rejoin: None,
            rejoin_at: None,
            instances: Vec::new(),
            last_request: 0,
            last_join: 0,
            last_epoch: 0,
            timer: None,
            doubted: false,
            farewell: None,
            out: Vec::new(),
        })
    }

    /// Takes in what happened at `now`, a time since any fixed origin, and says what to do, in this order.
    #[must_use]
    pub(crate) fn step(&mut self, event: Event, now: Duration) -> Vec<Action> {
        self.notice_freeze(now);
        self.handle(event, now);
        self.advance(now);
        self.stepped = now;
        std::mem::take(&mut self.out)
    }

    /// Until when something may be written for the tasks if the coordinator says nothing more: after that they may be
    /// somebody else's.
    ///
    /// A coordinator removes a member that is silent for the session timeout, and also one that does not join a rebalance
    /// within the rebalance timeout, which may have begun right after the last heartbeat that was answered without a word
    /// of it. A JoinGroup that waits may not have arrived. So a rebalance that takes all its time stops the writing for a
    /// moment, and the tasks stay.
    pub(crate) fn permit_until(&self) -> Duration {
        self.session_until.min(self.in_group_until)
    }

    /// While JoinGroup or SyncGroup waits there are no heartbeats, and the machine hears of the time often instead. If it
    /// does not, the process was frozen, and the answer that is there by now may be as old as that: the group may have
    /// gone on without this member.
    fn notice_freeze(&mut self, now: Duration) {
        if !self.waits_for_group() || self.owned.is_empty() || now < self.session_until {
            return;
        }
        self.lose("this process stood still for the session timeout");
        if matches!(self.phase, Phase::Syncing(_)) {
            self.phase = Phase::Rejoining;
        }
    }

    fn waits_for_group(&self) -> bool {
        matches!(self.phase, Phase::Joining(_) | Phase::Syncing(_))
    }

    fn handle(&mut self, event: Event, now: Duration) {
        match (event, &mut self.phase) {
            (_, Phase::Stopped) => {}
            (Event::Close { leave }, _) => self.close(leave, now),
            (_, Phase::Failed) => {}
            (Event::Tick, _) => self.timer = None,
            (Event::Start, Phase::Idle) => self.phase = Phase::Rejoining,
            (Event::Subscribe { topics, data }, _) => {
                self.topics = topics;
                self.data = *data;
            }
            (Event::Answer { id, outcome }, _) => self.answer(id, outcome, now),
            (Event::Assigned { generation, outcome }, Phase::Assigning) if generation == self.generation => {
                self.assigned(outcome, now);
            }
            (Event::Committed, Phase::Committing { .. }) => self.phase = Phase::Rejoining,
            (Event::Revoked(tasks), Phase::Revoking { pending, .. }) => {
                for task in tasks {
                    // What was not asked for stays owned: a late answer from an earlier tenure changes nothing.
                    if pending.remove(&task) {
                        self.owned.remove(&task);
                    }
                }
                if pending.is_empty() {
                    self.begin_rejoin("tasks were given up", now);
                }
            }
            (Event::CommitRefused { generation }, _) if generation == self.generation => self.beat_at = now,
            (Event::CoordinatorLost, _) if self.coordinator == Coordinator::Known => {
                self.coordinator = Coordinator::Unknown;
                self.beat_at = now;
            }
            (Event::Rejoin, _) => self.rejoin = Some("topics or subscription changed"),
            _ => {}
        }
    }

    /// Does all that is due at `now`, and sets the timer for what is due later.
    fn advance(&mut self, now: Duration) {
        if matches!(self.phase, Phase::Idle | Phase::Failed | Phase::Stopped) {
            return;
        }
        if !self.owned.is_empty() && self.watches_session() && now >= self.session_until {
            self.lose("the coordinator was out of reach for the session timeout");
            self.phase = Phase::Rejoining;
        }
        if !matches!(self.phase, Phase::Revoking { .. } | Phase::Leaving { .. })
            && let Some(error) = self.farewell.take()
        {
            return self.fail(error);
        }
        match &mut self.phase {
            Phase::Committing { until } if now >= *until => self.phase = Phase::Rejoining,
            Phase::Revoking { pending, until } if now >= *until => {
                // ORDER: fenced before JoinGroup: what is given up in it may be somebody else's right after.
                self.out.push(Action::Fence(pending.iter().copied().collect()));
                *until = now + self.config.revoke_timeout;
            }
            Phase::Leaving { until, .. } if now >= *until => return self.stop(),
            Phase::Stable if self.rejoin_at.is_some_and(|at| now >= at) => {
                self.begin_rejoin("the leader asked for another rebalance", now);
            }
            Phase::Stable => {
                if let Some(reason) = self.rejoin {
                    self.begin_rejoin(reason, now);
                }
            }
            _ => {}
        }
        if self.coordinator == Coordinator::Unknown && now >= self.retry_at {
            let id = self.send(Request::FindCoordinator, self.config.request_timeout);
            self.coordinator = Coordinator::Finding(id);
        }
        if self.coordinator == Coordinator::Known {
            match self.phase {
                Phase::Rejoining if now >= self.retry_at => self.send_join(),
                Phase::Leaving { request: None, until } if now >= self.retry_at => {
                    let leave = Request::Leave { member_id: self.member_id.clone() };
                    let request = Some(self.send(leave, until - now));
                    self.phase = Phase::Leaving { request, until };
                }
                _ if self.phase.beats() && self.beating.is_none() && now >= self.beat_at => {
                    self.send_heartbeat(now)
                }
                _ => {}
            }
        }
        if self.waits_for_group() && !self.owned.is_empty() {
            self.session_until = self.session_until.max(now + self.config.session_timeout);
        }
        self.set_timer(now);
    }

    /// Whether a silent coordinator means that the member is dead. It keeps members alive that wait for their JoinGroup or
    /// SyncGroup, and what those requests take is limited.
    fn watches_session(&self) -> bool {
        self.phase.beats() || matches!(self.phase, Phase::Rejoining)
    }

    fn set_timer(&mut self, now: Duration) {
        let phase = match self.phase {
            Phase::Committing { until } | Phase::Revoking { until, .. } | Phase::Leaving { until, .. } => {
                Some(until)
            }
            Phase::Stable => self.rejoin_at,
            _ => None,
        };
        let session = (!self.owned.is_empty() && self.watches_session()).then_some(self.session_until);
        // Often enough to know that the process runs; see `notice_freeze`.
        let pulse = self.waits_for_group().then(|| match self.timer {
            Some(at) if at > now => at,
            _ => now + self.config.session_timeout.min(self.config.rebalance_timeout) / 3,
        });
        let known = self.coordinator == Coordinator::Known;
        let beat = (known && self.phase.beats() && self.beating.is_none()).then_some(self.beat_at);
        let waits = matches!(self.phase, Phase::Rejoining | Phase::Leaving { request: None, .. });
        let retry = (self.coordinator == Coordinator::Unknown || (known && waits)).then_some(self.retry_at);
        let next = [phase, session, pulse, beat, retry].into_iter().flatten().min();
        if next != self.timer {
            self.timer = next;
            self.out.extend(next.map(Action::SetTimer));
        }
    }

    fn send(&mut self, request: Request, timeout: Duration) -> RequestId {
        self.last_request += 1;
        let id = RequestId(self.last_request);
        self.out.push(Action::Send { id, request, timeout });
        id
    }

    /// Prepares to join again from inside a generation.
    fn begin_rejoin(&mut self, reason: &'static str, now: Duration) {
        self.rejoin = Some(reason);
        if self.gate_open && !self.owned.is_empty() {
            // ORDER: committed before JoinGroup: a rebalance may last long, and nobody can commit while it does.
            self.out.push(Action::FlushAndCommit);
            self.phase = Phase::Committing { until: now + self.config.commit_timeout };
        } else {
            self.phase = Phase::Rejoining;
        }
    }

    fn send_join(&mut self) {
        // ORDER: closed before JoinGroup is sent: it may be answered, and the generation be over, at once.
        self.close_gate();
        self.data.owned = self.owned.keys().copied().collect();
        self.last_join = self.last_join.wrapping_add(1);
        self.data.join_number = self.last_join;
        let owned = self.owned.values().flat_map(|tenure| &tenure.active.partitions);
        let generation = if self.owned.is_empty() { -1 } else { self.assigned_in };
        let metadata = match write_subscription(&self.topics, owned, generation, &self.data) {
            Ok(metadata) => metadata,
            Err(error) => return self.fail(error),
        };
        // A heartbeat that is under way speaks of the generation that ends here.
        self.beating = None;
        self.rejoin_at = None;
        let reason = self.rejoin.take().unwrap_or("the member starts");
        let request = Request::Join { member_id: self.member_id.clone(), metadata, reason };
        // The answer waits for the other members.
        let timeout = self.config.rebalance_timeout + self.config.request_timeout;
        self.phase = Phase::Joining(self.send(request, timeout));
    }

    fn send_heartbeat(&mut self, now: Duration) {
        let request = Request::Heartbeat { generation: self.generation, member_id: self.member_id.clone() };
        let timeout = self.config.request_timeout.min(self.config.session_timeout / 3);
        self.beating = Some((self.send(request, timeout), now));
        self.beat_at = now + self.config.heartbeat_interval;
    }

    fn assigned(&mut self, outcome: Result<Vec<(String, AssignmentData)>>, now: Duration) {
        let written = outcome.and_then(|assignments| {
            assignments.into_iter().map(|(id, data)| Ok((id, write_assignment(&data)?))).collect()
        });
        match written {
            Ok(assignments) => self.send_sync(assignments),
            // The members that wait for the assignment are told to join again when this one does.
            Err(error) if error.is_retriable() => self.pause(Phase::Rejoining, now),
            Err(error) => self.fail(error),
        }
    }

    fn send_sync(&mut self, assignments: Vec<(String, bytes::Bytes)>) {
        let request =
            Request::Sync { generation: self.generation, member_id: self.member_id.clone(), assignments };
        self.beating = None;
        // The answer waits for the leader.
        let timeout = self.config.rebalance_timeout + self.config.request_timeout;
        self.phase = Phase::Syncing(self.send(request, timeout));
    }

    /// Takes the tasks that the leader gave, keeps those that were there, and starts to give up the others.
    fn deliver(&mut self, data: AssignmentData, now: Duration) {
        self.last_epoch += 1;
        self.assigned_in = self.generation;
        let (generation, epoch) = (self.generation, self.last_epoch);
        let mut revoked = std::mem::take(&mut self.owned);
        let (mut kept, mut added) = (Vec::new(), Vec::new());
        for active in data.active {
            let task = active.task;
            if self.owned.contains_key(&task) {
                continue;
            }
            let before = revoked.remove(&task);
            let tenure = Tenure {
                epoch: before.as_ref().map_or(epoch, |tenure| tenure.epoch),
                active: active.clone(),
            };
            let lease = Lease { task, generation, epoch: tenure.epoch };
            self.owned.insert(task, tenure);
            if before.is_some() { &mut kept } else { &mut added }.push((lease, active));
        }
        let here = |id: &String| data.instances.iter().any(|i| i.transactional_ids.contains(id));
        let before = self.instances.iter().flat_map(|i| &i.transactional_ids);
        let departed = before.filter(|id| !here(id)).cloned().collect();
        self.instances.clone_from(&data.instances);
        // ORDER: new leases, then the gate, then the revocation: the last commit of a revoked task needs this generation.
        self.out.push(Action::Deliver(Assignment {
            generation,
            epoch,
            kept,
            added,
            standby: data.standby,
            warm_up: data.warm_up,
            instances: data.instances,
            departed,
            other_topology: data.error == Some(AssignmentError::OtherTopology),
        }));
        self.gate_open = true;
        self.out.push(Action::GateOpen(generation));
        self.rejoin_at = u64::try_from(data.next_rebalance_ms).ok().map(|ms| now + Duration::from_millis(ms));
        if revoked.is_empty() {
            self.phase = Phase::Stable;
            return;
        }
        let leases = revoked.iter().map(|(&task, tenure)| Lease { task, generation, epoch: tenure.epoch });
        self.out.push(Action::Revoke(leases.collect()));
        let until = now + self.config.revoke_timeout;
        self.phase = Phase::Revoking { pending: revoked.keys().copied().collect(), until };
        // Still ours as far as the group is concerned, until they are released.
        self.owned.append(&mut revoked);
    }

    /// Waits a little longer after every failure before the next request.
    fn pause(&mut self, phase: Phase, now: Duration) {
        self.phase = phase;
        self.back_off(now);
    }

    fn back_off(&mut self, now: Duration) {
        self.failures = self.failures.saturating_add(1);
        self.retry_at = now + self.config.backoff(self.failures);
        if self.failures.is_multiple_of(20) {
            let (group, failures, last) = (&self.config.group_id, self.failures, &self.trouble);
            tracing::warn!(
                group,
                failures,
                last,
                "still no success with the group's coordinator: look at the broker's log and at kafka-consumer-groups \
                 --describe --state"
            );
        }
    }

    fn close_gate(&mut self) {
        if std::mem::take(&mut self.gate_open) {
            self.out.push(Action::GateClosed);
        }
    }

    fn lose(&mut self, reason: impl Into<String>) {
        self.close_gate();
        if !self.owned.is_empty() {
            let tasks = std::mem::take(&mut self.owned).into_keys().collect();
            self.out.push(Action::Lost { tasks, reason: reason.into() });
        }
        self.generation = -1;
        self.beating = None;
        self.rejoin_at = None;
    }

    fn fail(&mut self, error: Error) {
        self.lose(error.to_string());
        // Another process is the static member by now: there is nothing to leave.
        if error.kind() == ErrorKind::Fenced {
            self.member_id.clear();
        }
        self.phase = Phase::Failed;
        self.out.push(Action::Fatal(error));
    }

    fn close(&mut self, leave: bool, now: Duration) {
        if matches!(self.phase, Phase::Leaving { .. }) {
            return;
        }
        self.close_gate();
        self.owned.clear();
        if leave && !self.member_id.is_empty() {
            self.retry_at = now;
            self.phase = Phase::Leaving { request: None, until: now + self.config.leave_timeout };
        } else {
            self.stop();
        }
    }

    fn stop(&mut self) {
        self.phase = Phase::Stopped;
        self.out.push(Action::Stopped);
    }
}

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod tests;
