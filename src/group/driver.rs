//! Drives a membership: carries its requests to the coordinator and the answers back, keeps its timer, and passes all
//! else between it and the runtime. Thin on purpose: what to do is the machine's matter.

use std::collections::HashMap;
use std::future::{Future, pending};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::task::{Id, JoinSet};

use super::event::{Action, Event, Joined, Reply, Request, RequestId, RpcError};
use super::membership::Membership;
use crate::{Error, ErrorClass, ErrorKind, clock};

/// The answer to a JoinGroup request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum JoinOutcome {
    /// The group is complete.
    Joined(Joined),
    /// `MEMBER_ID_REQUIRED`, with the id to join again under.
    MemberId(String),
}

/// The requests of a member. The client knows the group, its `group.instance.id` and the times
/// ([`GroupConfig`](super::config::GroupConfig)), the protocol type and name ([`super::protocol`]), and remembers which
/// broker coordinates.
///
/// A response with an error code is [`RpcError::Code`]; everything else that goes wrong is [`RpcError::Failed`]. JoinGroup
/// and SyncGroup are held back by the coordinator: they need a connection of their own, or heartbeats wait behind them.
/// The futures may be dropped before they are done.
pub(crate) trait GroupRpc: Send + Sync + 'static {
    /// Finds the broker that coordinates the group, and remembers it.
    fn find_coordinator(&self) -> impl Future<Output = Result<(), RpcError>> + Send;

    /// JoinGroup with the one protocol `mainstem` and this metadata.
    fn join(
        &self,
        member_id: String,
        metadata: Bytes,
        reason: &'static str,
    ) -> impl Future<Output = Result<JoinOutcome, RpcError>> + Send;

    /// SyncGroup; the answer is this member's assignment.
    fn sync(
        &self,
        generation: i32,
        member_id: String,
        assignments: Vec<(String, Bytes)>,
    ) -> impl Future<Output = Result<Bytes, RpcError>> + Send;

    /// Heartbeat.
    fn heartbeat(
        &self,
        generation: i32,
        member_id: String,
    ) -> impl Future<Output = Result<(), RpcError>> + Send;

    /// LeaveGroup of this one member; its own error code counts as well as that of the response.
    fn leave(&self, member_id: String) -> impl Future<Output = Result<(), RpcError>> + Send;
}

/// Runs a membership until it is over; to be started with [`Event::Start`]. Events come in through `mailbox`; actions go
/// out through `outbox` in order, but for requests and timers, which are done here.
///
/// It ends after [`Action::Stopped`]. When either channel is closed by the other side, the member leaves the group.
pub(crate) async fn run<R: GroupRpc>(
    mut machine: Membership,
    rpc: Arc<R>,
    mut mailbox: UnboundedReceiver<Event>,
    outbox: UnboundedSender<Action>,
) {
    let origin = clock::monotonic();
    let now = || clock::monotonic().duration_since(origin);
    // Dropped with this future, and then the requests are, too.
    let mut calls = JoinSet::new();
    let mut requests: HashMap<Id, RequestId> = HashMap::new();
    let mut timer = None;
    let mut listens = true;
    loop {
        let event = tokio::select! {
            event = mailbox.recv(), if listens => event.unwrap_or_else(|| {
                listens = false;
                Event::Close { leave: true }
            }),
            Some(call) = calls.join_next_with_id() => {
                let (task, outcome) = match call {
                    Ok((task, outcome)) => (task, outcome),
                    Err(panic) => {
                        let error = Error::new(ErrorKind::Panic, "a request to the coordinator panicked");
                        (panic.id(), Err(RpcError::Failed(error.because(panic))))
                    }
                };
                let Some(id) = requests.remove(&task) else { continue };
                Event::Answer { id, outcome }
            }
            () = sleep_until(timer, now()) => Event::Tick,
        };
        if matches!(event, Event::Tick) {
            timer = None;
        }
        for action in machine.step(event, now()) {
            match action {
                Action::SetTimer(at) => timer = Some(at),
                Action::Send { id, request, timeout } => {
                    let call = calls.spawn(call(Arc::clone(&rpc), request, timeout));
                    requests.insert(call.id(), id);
                }
                action => {
                    let stopped = matches!(action, Action::Stopped);
                    if outbox.send(action).is_err() && listens && !stopped {
                        // Nobody is there to work: the next turn of the loop closes the membership.
                        mailbox.close();
                        while mailbox.try_recv().is_ok() {}
                    }
                    if stopped {
                        return;
                    }
                }
            }
        }
    }
}

async fn sleep_until(timer: Option<Duration>, now: Duration) {
    match timer {
        Some(at) => clock::sleep(at.saturating_sub(now)).await,
        None => pending().await,
    }
}

async fn call<R: GroupRpc>(rpc: Arc<R>, request: Request, timeout: Duration) -> Result<Reply, RpcError> {
    let answer = async {
        Ok(match request {
            Request::FindCoordinator => {
                rpc.find_coordinator().await?;
                Reply::Coordinator
            }
            Request::Join { member_id, metadata, reason } => {
                match rpc.join(member_id, metadata, reason).await? {
                    JoinOutcome::Joined(joined) => Reply::Joined(joined),
                    JoinOutcome::MemberId(member_id) => Reply::MemberId(member_id),
                }
            }
            Request::Sync { generation, member_id, assignments } => {
                Reply::Synced(rpc.sync(generation, member_id, assignments).await?)
            }
            Request::Heartbeat { generation, member_id } => {
                rpc.heartbeat(generation, member_id).await?;
                Reply::Alive
            }
            Request::Leave { member_id } => {
                rpc.leave(member_id).await?;
                Reply::Left
            }
        })
    };
    clock::timeout(timeout, answer).await.unwrap_or_else(|| {
        let message = format!("the group's coordinator did not answer within {timeout:?}");
        Err(RpcError::Failed(Error::new(ErrorKind::Timeout, message).with_class(ErrorClass::Retriable)))
    })
}

#[cfg(test)]
mod tests;
