//! What the coordinator's answers mean to a member.

use std::time::Duration;

use kafka_protocol::ResponseError;

use super::super::event::{Action, Joined, Member, Reply, RequestId, RpcError};
use super::super::protocol::{PROTOCOL_NAME, read_assignment, read_subscription};
use super::super::recovery::{Call, Recovery, recovery};
use super::super::user_data::{AssignmentData, AssignmentError};
use super::{Coordinator, Membership, Phase};
use crate::{Error, ErrorKind, Result};

/// How often in a row the coordinator may turn this member away before that is an error: five minutes of the longest pause.
pub(super) const MOST_REFUSALS: u32 = 300;

impl Membership {
    /// Takes an answer in, unless nobody waits for it any more.
    pub(super) fn answer(&mut self, id: RequestId, outcome: Result<Reply, RpcError>, now: Duration) {
        if self.coordinator == Coordinator::Finding(id) {
            return self.found(outcome, now);
        }
        if let Some((beat, sent)) = self.beating
            && beat == id
        {
            self.beating = None;
            return self.beaten(outcome, sent, now);
        }
        match self.phase {
            Phase::Joining(request) if request == id => self.joined(outcome, now),
            Phase::Syncing(request) if request == id => self.synced(outcome, now),
            Phase::Leaving { request: Some(request), until } if request == id => {
                self.left(outcome, until, now)
            }
            _ => {}
        }
    }

    fn found(&mut self, outcome: Result<Reply, RpcError>, now: Duration) {
        self.coordinator = Coordinator::Unknown;
        match self.recovery(Call::FindCoordinator, outcome) {
            Ok(_) => {
                self.coordinator = Coordinator::Known;
                self.id_in_doubt = !self.id_stored && !self.member_id.is_empty();
                if matches!(self.phase, Phase::Rejoining | Phase::Joining(_)) && !self.owned.is_empty() {
                    // Nor does it know of a generation that was joined but not assigned.
                    self.generation = self.assigned_in;
                }
                // The group may be waiting for a sign of life.
                self.beat_at = self.beat_at.min(now);
            }
            Err(Recovery::Fatal(error)) => self.fail(error),
            Err(_) => self.back_off(now),
        }
    }

    /// A coordinator stores the new id of a static member only when the rebalance is complete. If it moves before that,
    /// the next one knows an earlier id and takes the member for its own impostor (KIP-345 has no answer to this): join
    /// as after a restart, once. Another process with the same `group.instance.id` then learns that it is fenced.
    fn forgotten_by_new_coordinator(&self, outcome: &Result<Reply, RpcError>) -> bool {
        let fenced = ResponseError::FencedInstanceId.code();
        self.id_in_doubt && matches!(outcome, Err(RpcError::Code(code)) if *code == fenced)
    }

    fn joined(&mut self, outcome: Result<Reply, RpcError>, now: Duration) {
        if self.forgotten_by_new_coordinator(&outcome) {
            return self.recover(Recovery::LostMember, now);
        }
        match self.recovery(Call::Join, outcome) {
            Ok(Reply::Joined(joined)) => self.enter(joined, now),
            Ok(Reply::MemberId(member_id)) => {
                let again = !std::mem::replace(&mut self.member_id, member_id).is_empty();
                self.rejoin = Some("the coordinator asked to join with its member id");
                self.phase = Phase::Rejoining;
                if again {
                    self.refused("it asks again for a member id that it has given", false, now);
                }
            }
            Ok(other) => self.fail(nonsense(&other)),
            Err(recovery) => self.recover(recovery, now),
        }
    }

    /// Enters the generation of a complete group.
    fn enter(&mut self, joined: Joined, now: Duration) {
        if let Some(other) = joined.protocol.filter(|name| name != PROTOCOL_NAME) {
            let message = format!(
                "group {} chose the assignor {other}: stop its other clients or choose another application id",
                self.config.group_id
            );
            return self.fail(Error::new(ErrorKind::Config, message));
        }
        let missed = !self.owned.is_empty() && joined.generation != self.generation.wrapping_add(1);
        self.generation = joined.generation;
        self.in_group(self.stepped);
        self.beat_at = now + self.config.heartbeat_interval;
        let leads = joined.leader == joined.member_id;
        if self.member_id != joined.member_id {
            self.member_id = joined.member_id;
            self.id_stored = false;
        }
        if missed {
            // A static member that was cut off stays in the group, with what it said when it joined last: what it got since
            // then may have been given away. A last commit of it would pass with the new generation, and rewind the
            // new owner. So nothing is kept, and the group is told.
            self.lose("generations of the group passed without this member");
            self.rejoin = Some("the member lost its tasks while it was out of reach");
            self.phase = Phase::Rejoining;
            return;
        }
        if !leads || joined.skip_assignment {
            return self.send_sync(Vec::new());
        }
        let members = joined.members.into_iter().map(|(id, instance_id, metadata)| {
            let subscription = read_subscription(&metadata)
                .map_err(|cause| Error::new(ErrorKind::Corrupt, format!("member {id}")).because(cause));
            Member { id, instance_id, subscription }
        });
        self.phase = Phase::Assigning;
        self.out.push(Action::Assign { generation: self.generation, members: members.collect() });
    }

    fn synced(&mut self, outcome: Result<Reply, RpcError>, now: Duration) {
        let assignment = match self.recovery(Call::Sync, outcome) {
            Ok(Reply::Synced(assignment)) => assignment,
            Ok(other) => return self.fail(nonsense(&other)),
            Err(recovery) => return self.recover(recovery, now),
        };
        (self.failures, self.refusals) = (0, 0);
        self.id_stored = true;
        self.id_in_doubt = false;
        self.in_group(self.stepped);
        self.beat_at = now + self.config.heartbeat_interval;
        match read_assignment(&assignment) {
            Ok(data) if self.is_for_another_process(&data) => {
                self.doubted = true;
                self.rejoin =
                    Some("the assignment was made for an earlier process with this group.instance.id");
                self.phase = Phase::Rejoining;
            }
            Ok(data) => match data.error {
                None | Some(AssignmentError::OtherTopology) => self.deliver(data, now),
                // Everything can be committed before that end, in this generation and in good order.
                Some(error @ AssignmentError::ShutdownRequested) => {
                    self.farewell = Some(refusal(error, &self.config.group_id, &data.reason));
                    self.deliver(AssignmentData { next_rebalance_ms: -1, ..AssignmentData::default() }, now);
                }
                Some(error) => self.fail(refusal(error, &self.config.group_id, &data.reason)),
            },
            Err(error) => {
                let text = format!(
                    "what the leader of group {} assigns cannot be read: it runs another release, or other software under \
                     the same application id; stop it",
                    self.config.group_id
                );
                self.fail(Error::new(ErrorKind::Corrupt, text).because(error));
            }
        }
    }

    /// A static member that is back within its session gets the stored assignment and no rebalance (KIP-345), whatever it
    /// is now. An error in it speaks of the process before; so do tasks of another topology. The leader is asked to think
    /// again, once.
    fn is_for_another_process(&self, data: &AssignmentData) -> bool {
        let first = self.config.instance_id.is_some() && self.assigned_in == -1 && !self.doubted;
        first && (data.error.is_some() || (data.shape != 0 && data.shape != self.data.shape()))
    }

    fn beaten(&mut self, outcome: Result<Reply, RpcError>, sent: Duration, now: Duration) {
        match self.recovery(Call::Heartbeat, outcome) {
            Ok(_) => {
                self.failures = 0;
                // From when it was sent: the coordinator may have had it right then.
                self.in_group(sent);
            }
            Err(Recovery::Rejoin) => {
                self.heard(sent);
                match self.phase {
                    Phase::Stable => self.begin_rejoin("the group rebalances", now),
                    // Somebody joined while the assignment was computed: it will be computed anew.
                    Phase::Assigning => self.phase = Phase::Rejoining,
                    // On the way to JoinGroup already.
                    _ => {}
                }
            }
            Err(Recovery::Retry) => {
                self.failures = self.failures.saturating_add(1);
                self.beat_at = now + self.config.backoff(self.failures);
            }
            Err(Recovery::FindCoordinator) => {
                self.coordinator = Coordinator::Unknown;
                self.back_off(now);
                self.beat_at = now;
            }
            Err(recovery) => self.recover(recovery, now),
        }
    }

    fn left(&mut self, outcome: Result<Reply, RpcError>, until: Duration, now: Duration) {
        match self.recovery(Call::Leave, outcome) {
            Err(recovery @ (Recovery::Retry | Recovery::FindCoordinator)) => {
                if matches!(recovery, Recovery::FindCoordinator) {
                    self.coordinator = Coordinator::Unknown;
                }
                self.pause(Phase::Leaving { request: None, until }, now);
            }
            // Gone, or forgotten, or nothing to be done about it: the session timeout will.
            _ => self.stop(),
        }
    }

    /// The coordinator had the member in its generation at this time, and no rebalance that it had not joined.
    fn in_group(&mut self, at: Duration) {
        self.in_group_until = at + self.config.rebalance_timeout;
        self.heard(at);
    }

    /// The coordinator has known the member at this time.
    fn heard(&mut self, at: Duration) {
        self.heard_until = at + self.config.session_timeout;
        self.session_until = self.heard_until;
    }

    /// What to do after a JoinGroup or SyncGroup that failed, or a heartbeat that ends the generation.
    fn recover(&mut self, recovery: Recovery, now: Duration) {
        // The wait has come to nothing: it has kept nobody alive, or a coordinator that refuses every JoinGroup would let
        // the tasks run for ever without a commit.
        self.session_until = self.heard_until;
        match recovery {
            Recovery::Retry => self.pause(Phase::Rejoining, now),
            // At once, because the others wait. But not for ever, should the coordinator know no other answer.
            Recovery::Rejoin => {
                self.phase = Phase::Rejoining;
                self.refused("it says that the group rebalances", true, now);
            }
            Recovery::FindCoordinator => {
                self.coordinator = Coordinator::Unknown;
                self.pause(Phase::Rejoining, now);
            }
            Recovery::LostGeneration => {
                self.lose("the group went on to another generation without this member");
                self.phase = Phase::Rejoining;
                self.refused("it speaks of another generation", false, now);
            }
            Recovery::LostMember => {
                self.lose("the coordinator has removed this member from the group");
                self.member_id.clear();
                (self.id_in_doubt, self.id_stored) = (false, false);
                self.phase = Phase::Rejoining;
                self.refused("it forgets this member", false, now);
            }
            Recovery::Fatal(error) => self.fail(error),
        }
    }

    /// A round of joining has come to nothing because of what the coordinator says of the group. Counted, not timed: a
    /// clock that jumps changes nothing.
    fn refused(&mut self, why: &str, at_once: bool, now: Duration) {
        self.refusals += 1;
        if self.refusals > 1 || !at_once {
            self.back_off(now);
        }
        if self.refusals > MOST_REFUSALS {
            let text = format!(
                "the coordinator has not let this instance into group {} in {MOST_REFUSALS} attempts: {why}; look for a member \
                 that joins again and again (kafka-consumer-groups --describe --members), or for trouble in the broker's log, \
                 and start again",
                self.config.group_id
            );
            self.fail(Error::new(ErrorKind::Broker, text));
        }
    }

    fn recovery(&mut self, call: Call, outcome: Result<Reply, RpcError>) -> Result<Reply, Recovery> {
        outcome.map_err(|error| match error {
            RpcError::Code(code) => {
                let said = ResponseError::try_from_code(code);
                self.trouble =
                    format!("{call:?}: {}", said.map_or(format!("code {code}"), |e| e.to_string()));
                recovery(call, code, &self.config.group_id)
            }
            RpcError::Failed(error) => {
                self.trouble = format!("{call:?}: {error}");
                match error.kind() {
                    ErrorKind::Connection | ErrorKind::Timeout | ErrorKind::Io => Recovery::FindCoordinator,
                    _ if error.is_retriable() => Recovery::FindCoordinator,
                    _ => Recovery::Fatal(error),
                }
            }
        })
    }
}

fn nonsense(reply: &Reply) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the answer belongs to another request: {reply:?}"))
}

fn refusal(error: AssignmentError, group: &str, reason: &str) -> Error {
    let (kind, message) = match error {
        AssignmentError::MissingSourceTopics => (
            ErrorKind::Topic,
            "a source topic does not exist: create it; the leader's log names it".to_owned(),
        ),
        AssignmentError::InternalTopics => (
            ErrorKind::Topic,
            "the internal topics could not be prepared: the leader's log says why".to_owned(),
        ),
        AssignmentError::IncompatibleVersions => (
            ErrorKind::Config,
            format!(
                "the leader of group {group} cannot read what this instance says of itself: they run releases that are too far \
                 apart; upgrade in smaller steps"
            ),
        ),
        AssignmentError::OtherTopology => {
            (ErrorKind::Topology, format!("the leader of group {group} runs another topology"))
        }
        AssignmentError::ShutdownRequested => (
            ErrorKind::Closed,
            format!("an instance asked for the whole application {group} to stop: {reason}"),
        ),
        AssignmentError::Other(code) => {
            (ErrorKind::Broker, format!("the leader of group {group} assigns nothing, for reason {code}"))
        }
    };
    Error::new(kind, message)
}
