//! What the membership machine asks, as requests to the group's coordinator.

use std::time::Duration;

use super::PROTOCOL;
use crate::client::group::{GroupClient, Join, Joined as ClientJoined, MemberId};
use crate::group::{Joined, Reply, Request, RpcError};

/// Asks the group's coordinator.
pub(super) async fn ask(
    group: &GroupClient,
    mut member: MemberId,
    mut join: Join,
    request: Request,
    timeout: Duration,
) -> Result<Reply, RpcError> {
    let reply = match request {
        Request::FindCoordinator => group.find_coordinator_anew().await.map(|_| Reply::Coordinator),
        Request::Join { member_id, metadata, reason } => {
            tracing::debug!(reason, "joining the group");
            member.member_id = member_id;
            join.protocols = vec![(PROTOCOL.1.to_owned(), metadata)];
            group.join(&member, &join, timeout).await.map(|joined| match joined {
                ClientJoined::MemberIdRequired(id) => Reply::MemberId(id),
                ClientJoined::Member {
                    generation,
                    member_id,
                    leader,
                    protocol,
                    skip_assignment,
                    members,
                } => Reply::Joined(Joined {
                    generation,
                    member_id,
                    leader,
                    skip_assignment,
                    protocol,
                    members,
                }),
            })
        }
        Request::Sync { generation, member_id, assignments } => {
            member.member_id = member_id;
            member.generation = generation;
            let synced = group.sync(&member, PROTOCOL, &assignments, timeout).await;
            synced.map(Reply::Synced)
        }
        Request::Heartbeat { generation, member_id } => {
            member.member_id = member_id;
            member.generation = generation;
            group.heartbeat(&member, timeout).await.map(|()| Reply::Alive)
        }
        Request::Leave { member_id } => {
            member.member_id = member_id;
            group.leave(&member, timeout).await.map(|()| Reply::Left)
        }
    };
    reply.map_err(|error| match error.code() {
        Some(code) => RpcError::Code(code),
        None => RpcError::Failed(error),
    })
}
