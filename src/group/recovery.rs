//! What a coordinator's error code asks for, call by call: the one place where this is decided.

use kafka_protocol::ResponseError as Code;

use crate::{Error, ErrorClass, ErrorKind};

/// The calls of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    FindCoordinator,
    Join,
    Sync,
    Heartbeat,
    Leave,
}

/// What to do about a refused request.
#[derive(Debug)]
pub(super) enum Recovery {
    /// The same again after a pause.
    Retry,
    /// Look for the coordinator, then go on as before: a heartbeat beats again, a join joins again.
    FindCoordinator,
    /// Join again with what one has.
    Rejoin,
    /// The generation went on without this member: all tasks are lost; join again under the same id.
    LostGeneration,
    /// The coordinator has forgotten the member: all tasks are lost; join again as a new one.
    LostMember,
    /// Over.
    Fatal(Error),
}

/// Decides by code and call.
pub(super) fn recovery(call: Call, code: i16, group: &str) -> Recovery {
    let fatal = |kind, message: String| {
        let error = Error::new(kind, message).with_code(code).with_class(ErrorClass::Fatal);
        Recovery::Fatal(error)
    };
    match Code::try_from_code(code).unwrap_or(Code::Unknown(code)) {
        // The coordinator's partition is being read, or the broker is busy: it will answer soon.
        Code::CoordinatorLoadInProgress | Code::ThrottlingQuotaExceeded => Recovery::Retry,
        // It has moved, or the broker lost its disk or its peers.
        Code::CoordinatorNotAvailable
        | Code::NotCoordinator
        | Code::RequestTimedOut
        | Code::NetworkException
        | Code::UnknownServerError
        | Code::KafkaStorageError => Recovery::FindCoordinator,
        // JoinGroup gets it when the coordinator could not store the group in time.
        Code::RebalanceInProgress => Recovery::Rejoin,
        // Another member of this generation has not joined it with us, or we missed one: what we have may be given away.
        Code::IllegalGeneration => Recovery::LostGeneration,
        // A group that was deleted, or expired, has forgotten its members. JoinGroup would make it anew, so that there is
        // another kind of group under the name (KIP-848, KIP-932, KIP-1071).
        Code::GroupIdNotFound if call == Call::Join => fatal(
            ErrorKind::Config,
            format!("group {group} exists and is not of the classic kind: delete it (kafka-groups) or choose another application id"),
        ),
        Code::UnknownMemberId | Code::MemberIdRequired | Code::GroupIdNotFound => Recovery::LostMember,
        Code::FencedInstanceId => fatal(
            ErrorKind::Fenced,
            format!("another process has joined group {group} with the same group.instance.id: give each its own"),
        ),
        Code::UnreleasedInstanceId => fatal(
            ErrorKind::Fenced,
            format!("a member of group {group} still has this group.instance.id: stop it, wait for its session.timeout.ms, or give each process its own"),
        ),
        Code::InconsistentGroupProtocol => fatal(
            ErrorKind::Config,
            format!("group {group} is used by other clients (Kafka Streams, plain consumers): stop them or choose another application id"),
        ),
        Code::InvalidSessionTimeout => fatal(
            ErrorKind::Config,
            "the broker refuses session.timeout.ms: set it between the broker's group.min.session.timeout.ms and \
             group.max.session.timeout.ms (6 s and 30 min unless changed)"
                .into(),
        ),
        Code::GroupMaxSizeReached => {
            fatal(ErrorKind::Broker, format!("group {group} has as many members as the broker's group.max.size allows: run fewer instances, each with more workers, or raise it"))
        }
        Code::GroupAuthorizationFailed => fatal(
            ErrorKind::Authorization,
            format!("no permission for the group {group}: grant READ on the group to this client's principal"),
        ),
        Code::InvalidGroupId => fatal(ErrorKind::Config, format!("{group:?} is no valid group id")),
        Code::UnsupportedVersion => {
            fatal(ErrorKind::Broker, format!("the broker is too old for group {group}: 2.5 is the oldest that works"))
        }
        // What other calls use, and no broker sends here today.
        other if other.is_retriable() => Recovery::Retry,
        other => fatal(ErrorKind::Broker, format!("the coordinator of group {group} refused {call:?}: {other}")),
    }
}
