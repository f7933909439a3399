//! The words between the membership machine and its driver: events in, actions out.

use std::time::Duration;

use bytes::Bytes;

use super::protocol::Subscription;
use super::user_data::{ActiveTask, AssignmentData, Instance, SubscriptionData};
use crate::{Error, TaskId};

/// The right to work on a task and to commit for it. A worker takes the generation it commits with from here and nowhere
/// else: the broker checks member and generation, but not who owns a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Lease {
    /// The task.
    pub(crate) task: TaskId,
    /// The generation to commit with.
    pub(crate) generation: i32,
    /// The number of this tenure: it stays while the task is kept through rebalances, and no two tenures of an instance
    /// have the same. What is sent for a task carries it, and an older one than the task's present is refused.
    pub(crate) epoch: u64,
}

/// What an instance has from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Assignment {
    /// The generation of the group.
    pub(crate) generation: i32,
    /// The number of this assignment within the process.
    pub(crate) epoch: u64,
    /// The active tasks that it had and keeps, with their new leases. They go on all the time.
    pub(crate) kept: Vec<(Lease, ActiveTask)>,
    /// The active tasks that are new. Nobody else has them.
    pub(crate) added: Vec<(Lease, ActiveTask)>,
    /// The tasks to keep as standbys.
    pub(crate) standby: Vec<TaskId>,
    /// The tasks to restore ahead of their move.
    pub(crate) warm_up: Vec<TaskId>,
    /// All instances, with their endpoints and tasks.
    pub(crate) instances: Vec<Instance>,
    /// The transactional ids of instances that were there in the assignment before and are no more: whoever has `added`
    /// tasks initialises these ids, which aborts what those instances left open.
    pub(crate) departed: Vec<String>,
    /// Nothing of this instance's topology is in the leader's: it waits without tasks.
    pub(crate) other_topology: bool,
}

/// A member as the leader sees it.
#[derive(Debug)]
pub(crate) struct Member {
    /// The id the coordinator gave it.
    pub(crate) id: String,
    /// Its `group.instance.id`, if it is a static member.
    pub(crate) instance_id: Option<String>,
    /// Its subscription, or why it cannot be read.
    pub(crate) subscription: Result<Subscription, Error>,
}

/// Names a request, so that a late answer is known as such.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RequestId(pub(crate) u64);

/// A request to the group's coordinator, or for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    /// Who the coordinator is; the driver remembers the answer.
    FindCoordinator,
    /// JoinGroup, at least version 4 (KIP-394); 5 for static members, 9 for `skip_assignment` (KIP-814).
    Join {
        /// Empty the first time.
        member_id: String,
        /// The metadata of the protocol `mainstem`.
        metadata: Bytes,
        /// Why, for the broker's log (KIP-800).
        reason: &'static str,
    },
    /// SyncGroup.
    Sync {
        /// The generation joined.
        generation: i32,
        /// This member.
        member_id: String,
        /// What each member gets, by member id; empty unless this is the leader.
        assignments: Vec<(String, Bytes)>,
    },
    /// Heartbeat.
    Heartbeat {
        /// The present generation.
        generation: i32,
        /// This member.
        member_id: String,
    },
    /// LeaveGroup.
    Leave {
        /// This member.
        member_id: String,
    },
}

/// The answer to a [`Request`] that was not refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    /// The coordinator is known and can be asked.
    Coordinator,
    /// The group is complete.
    Joined(Joined),
    /// The member has to join again under this id (KIP-394).
    MemberId(String),
    /// The member's assignment.
    Synced(Bytes),
    /// The member is alive, and the group stable.
    Alive,
    /// The member is gone.
    Left,
}

/// A JoinGroup response without an error.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Joined {
    /// The new generation.
    pub(crate) generation: i32,
    /// This member.
    pub(crate) member_id: String,
    /// The leader.
    pub(crate) leader: String,
    /// The leader is not to assign anything: it is back before anybody missed it (KIP-814).
    pub(crate) skip_assignment: bool,
    /// The protocol that all members have in common, where the broker says it.
    pub(crate) protocol: Option<String>,
    /// On the leader, all members: id, `group.instance.id`, metadata.
    pub(crate) members: Vec<(String, Option<String>, Bytes)>,
}

/// Why a request got no [`Reply`].
#[derive(Debug)]
pub(crate) enum RpcError {
    /// The coordinator refused it with this error code.
    Code(i16),
    /// No answer came: the connection broke, the time was up, or the client cannot go on. The last is the case if the
    /// error is neither retriable nor of the kinds `Connection`, `Timeout` or `Io`.
    Failed(Error),
}

/// What happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// Join the group. Once, first.
    Start,
    /// What the instance says of itself has changed. It is used in the next JoinGroup; [`Event::Rejoin`] makes one.
    Subscribe {
        /// The source topics of the topology, repartition topics included.
        topics: Vec<String>,
        /// All but `owned` and `join_number`, which the machine knows itself.
        data: Box<SubscriptionData>,
    },
    /// The answer to [`Action::Send`].
    Answer {
        /// Which request.
        id: RequestId,
        /// What came back.
        outcome: Result<Reply, RpcError>,
    },
    /// The time of [`Action::SetTimer`] has come.
    Tick,
    /// The answer to [`Action::Assign`].
    Assigned {
        /// Of the action.
        generation: i32,
        /// What each member gets, or why there is nothing to give. A retriable error joins again after a pause.
        outcome: Result<Vec<(String, AssignmentData)>, Error>,
    },
    /// The answer to [`Action::FlushAndCommit`].
    Committed,
    /// The tasks of [`Action::Revoke`], or some of them, are closed and released; or fenced, after [`Action::Fence`].
    Revoked(Vec<TaskId>),
    /// A commit with the lease of this generation was refused for the member's sake: ask the coordinator at once.
    CommitRefused {
        /// Of the lease.
        generation: i32,
    },
    /// Somebody else found that the coordinator has moved.
    CoordinatorLost,
    /// The partitions of a topic or the subscription have changed: a new assignment is wanted.
    Rejoin,
    /// Stop. The tasks have been closed by now.
    Close {
        /// Whether the member leaves the group; else it is missed when its session is over.
        leave: bool,
    },
}

/// What to do, in this order.
#[derive(Debug)]
pub(crate) enum Action {
    /// Send a request, and answer with [`Event::Answer`].
    Send {
        /// To name the answer.
        id: RequestId,
        /// The request.
        request: Request,
        /// How long to wait for the answer.
        timeout: Duration,
    },
    /// This member leads: make and check the internal topics, assign, answer with [`Event::Assigned`].
    Assign {
        /// The new generation.
        generation: i32,
        /// All members.
        members: Vec<Member>,
    },
    /// Hand out the leases.
    Deliver(Assignment),
    /// Commit and close these tasks, then answer with [`Event::Revoked`]. The leases are fit for that last commit.
    Revoke(Vec<Lease>),
    /// These tasks were not released in time: make it impossible for their workers to write or commit (initialise the
    /// worker's transactional id again; flip the task's send epoch), then answer with [`Event::Revoked`].
    /// Repeated while no answer comes.
    Fence(Vec<TaskId>),
    /// All tasks are somebody else's by now: no commit, no write. To be carried out before the actions that follow.
    Lost {
        /// The tasks.
        tasks: Vec<TaskId>,
        /// Why.
        reason: String,
    },
    /// Commits with leases of this generation are accepted.
    GateOpen(i32),
    /// No commit is accepted until the gate opens again. Kept tasks go on.
    GateClosed,
    /// A rebalance comes: flush and commit everything now, then answer with [`Event::Committed`]. The gate closes after
    /// that, or when the time is up.
    FlushAndCommit,
    /// Send [`Event::Tick`] at this time. Replaces the timer before.
    SetTimer(Duration),
    /// The instance cannot be a member. All tasks are lost; only [`Event::Close`] is heard from now on.
    Fatal(Error),
    /// The membership is over.
    Stopped,
}
