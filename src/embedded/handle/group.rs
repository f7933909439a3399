//! Groups: JoinGroup, SyncGroup, Heartbeat, LeaveGroup, offsets, and what tools ask.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages as m;

use crate::embedded::broker::{Broker, Caller};
use crate::embedded::refuse::Refuse;

pub(crate) async fn join_group(
    _broker: &Broker,
    _caller: &Caller,
    request: m::JoinGroupRequest,
) -> m::JoinGroupResponse {
    request.refuse(ResponseError::UnsupportedVersion.code())
}

pub(crate) async fn sync_group(
    _broker: &Broker,
    _caller: &Caller,
    request: m::SyncGroupRequest,
) -> m::SyncGroupResponse {
    request.refuse(ResponseError::UnsupportedVersion.code())
}

pub(crate) async fn heartbeat(
    _broker: &Broker,
    _caller: &Caller,
    request: m::HeartbeatRequest,
) -> m::HeartbeatResponse {
    request.refuse(ResponseError::UnsupportedVersion.code())
}

pub(crate) async fn leave_group(
    _broker: &Broker,
    _caller: &Caller,
    request: m::LeaveGroupRequest,
) -> m::LeaveGroupResponse {
    request.refuse(ResponseError::UnsupportedVersion.code())
}

pub(crate) async fn offset_commit(
    _broker: &Broker,
    _caller: &Caller,
    request: m::OffsetCommitRequest,
) -> m::OffsetCommitResponse {
    request.refuse(ResponseError::UnsupportedVersion.code())
}

pub(crate) async fn offset_fetch(
    _broker: &Broker,
    _caller: &Caller,
    request: m::OffsetFetchRequest,
) -> m::OffsetFetchResponse {
    request.refuse(ResponseError::UnsupportedVersion.code())
}

pub(crate) async fn offset_delete(
    _broker: &Broker,
    _caller: &Caller,
    request: m::OffsetDeleteRequest,
) -> m::OffsetDeleteResponse {
    request.refuse(ResponseError::UnsupportedVersion.code())
}

pub(crate) async fn describe_groups(
    _broker: &Broker,
    _caller: &Caller,
    request: m::DescribeGroupsRequest,
) -> m::DescribeGroupsResponse {
    request.refuse(ResponseError::UnsupportedVersion.code())
}

pub(crate) async fn list_groups(
    _broker: &Broker,
    _caller: &Caller,
    request: m::ListGroupsRequest,
) -> m::ListGroupsResponse {
    request.refuse(ResponseError::UnsupportedVersion.code())
}

pub(crate) async fn delete_groups(
    _broker: &Broker,
    _caller: &Caller,
    request: m::DeleteGroupsRequest,
) -> m::DeleteGroupsResponse {
    request.refuse(ResponseError::UnsupportedVersion.code())
}
