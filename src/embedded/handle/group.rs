//! Groups: JoinGroup, SyncGroup, Heartbeat, LeaveGroup, offsets, and what tools ask.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages as m;
use kafka_protocol::protocol::StrBytes;
use tokio::sync::oneshot;

use crate::embedded::broker::{Broker, Caller};
use crate::embedded::coordinators::CoordinatorKind::Group;
use crate::embedded::groups::Origin;
use crate::embedded::refuse::Refuse;
use crate::embedded::state::State;

/// Who asks, and whether of the right node.
pub(crate) fn origin<'a>(state: &State, caller: &'a Caller, group: &str) -> Origin<'a> {
    Origin {
        home: state.must_coordinate(caller.node, Group, group),
        version: caller.version,
        client_id: &caller.client_id,
        host: &caller.host,
    }
}

/// Whether there is such a partition.
pub(crate) fn exists<'a>(
    topics: &'a std::collections::BTreeMap<String, crate::embedded::state::Topic>,
) -> impl Fn(&str, i32) -> bool + 'a {
    |topic, partition| {
        let count = topics.get(topic).map_or(0, |topic| topic.partitions.len());
        usize::try_from(partition).is_ok_and(|partition| partition < count)
    }
}

pub(crate) async fn join_group(
    broker: &Broker,
    caller: &Caller,
    request: m::JoinGroupRequest,
) -> m::JoinGroupResponse {
    // A group that is dropped while somebody is parked says so to nobody; whoever asked asks again.
    let lost = request.refuse(ResponseError::NotCoordinator.code());
    let (reply, answer) = oneshot::channel();
    {
        let mut state = broker.lock();
        let from = origin(&state, caller, &request.group_id);
        state.groups.join(broker.clock.now(), from, request, reply);
    }
    // ORDER: before waiting, because the deadline of a rebalance may be the nearest.
    broker.timers.notify_one();
    let mut answer = answer.await.unwrap_or(lost);
    if caller.version < 7 {
        answer.protocol_name.get_or_insert_with(StrBytes::default);
    }
    answer
}

pub(crate) async fn sync_group(
    broker: &Broker,
    caller: &Caller,
    request: m::SyncGroupRequest,
) -> m::SyncGroupResponse {
    // KIP-559.
    if caller.version >= 5 && (request.protocol_type.is_none() || request.protocol_name.is_none()) {
        return request.refuse(ResponseError::InconsistentGroupProtocol.code());
    }
    let lost = request.refuse(ResponseError::NotCoordinator.code());
    let (reply, answer) = oneshot::channel();
    {
        let mut state = broker.lock();
        let from = origin(&state, caller, &request.group_id);
        state.groups.sync(broker.clock.now(), from, request, reply);
    }
    broker.timers.notify_one();
    answer.await.unwrap_or(lost)
}

pub(crate) async fn heartbeat(
    broker: &Broker,
    caller: &Caller,
    request: m::HeartbeatRequest,
) -> m::HeartbeatResponse {
    let mut state = broker.lock();
    let from = origin(&state, caller, &request.group_id);
    state.groups.heartbeat(broker.clock.now(), from, &request)
}

pub(crate) async fn leave_group(
    broker: &Broker,
    caller: &Caller,
    request: m::LeaveGroupRequest,
) -> m::LeaveGroupResponse {
    let mut state = broker.lock();
    let from = origin(&state, caller, &request.group_id);
    state.groups.leave(broker.clock.now(), from, request)
}

pub(crate) async fn offset_commit(
    broker: &Broker,
    caller: &Caller,
    request: m::OffsetCommitRequest,
) -> m::OffsetCommitResponse {
    let mut state = broker.lock();
    let from = origin(&state, caller, &request.group_id);
    let State { groups, topics, .. } = &mut *state;
    groups.commit(broker.clock.now(), from, request, exists(topics))
}

pub(crate) async fn offset_fetch(
    broker: &Broker,
    caller: &Caller,
    request: m::OffsetFetchRequest,
) -> m::OffsetFetchResponse {
    let state = broker.lock();
    let from = origin(&state, caller, &request.group_id);
    state.groups.fetch(from, request, |group| state.must_coordinate(caller.node, Group, group))
}

pub(crate) async fn offset_delete(
    broker: &Broker,
    caller: &Caller,
    request: m::OffsetDeleteRequest,
) -> m::OffsetDeleteResponse {
    let mut state = broker.lock();
    let from = origin(&state, caller, &request.group_id);
    let State { groups, topics, .. } = &mut *state;
    groups.delete_offsets(from, request, exists(topics))
}

pub(crate) async fn describe_groups(
    broker: &Broker,
    caller: &Caller,
    request: m::DescribeGroupsRequest,
) -> m::DescribeGroupsResponse {
    let state = broker.lock();
    let home = |group: &str| state.must_coordinate(caller.node, Group, group);
    state.groups.describe(caller.version, request, home)
}

pub(crate) async fn list_groups(
    broker: &Broker,
    caller: &Caller,
    request: m::ListGroupsRequest,
) -> m::ListGroupsResponse {
    let state = broker.lock();
    state.groups.list(&request, |group| state.must_coordinate(caller.node, Group, group))
}

pub(crate) async fn delete_groups(
    broker: &Broker,
    caller: &Caller,
    request: m::DeleteGroupsRequest,
) -> m::DeleteGroupsResponse {
    let mut state = broker.lock();
    let State { groups, coordinators, .. } = &mut *state;
    groups.delete(request, |group| coordinators.check(caller.node, Group, group))
}
