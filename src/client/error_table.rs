//! The one table that says what a broker's error code means, and what to do about it, by the call that got it.

use kafka_protocol::error::ResponseError as E;

use crate::{Error, ErrorClass, ErrorKind};

/// The call that a broker answered with an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum CallSite {
    /// Metadata.
    Metadata,
    /// FindCoordinator.
    FindCoordinator,
    /// Fetch.
    Fetch,
    /// ListOffsets and OffsetForLeaderEpoch.
    ListOffsets,
    /// Produce.
    Produce,
    /// InitProducerId.
    InitProducerId,
    /// AddPartitionsToTxn and AddOffsetsToTxn.
    Transaction,
    /// EndTxn.
    EndTxn,
    /// TxnOffsetCommit: a transaction and a group at once.
    TxnOffsetCommit,
    /// JoinGroup and SyncGroup.
    JoinGroup,
    /// Heartbeat.
    Heartbeat,
    /// LeaveGroup.
    LeaveGroup,
    /// OffsetCommit.
    OffsetCommit,
    /// OffsetFetch.
    OffsetFetch,
    /// DescribeGroups, ListGroups and DeleteGroups.
    Groups,
    /// ListTransactions and DescribeTransactions.
    Transactions,
    /// CreateTopics, CreatePartitions, DeleteTopics and the configs of topics.
    Topics,
    /// DeleteRecords.
    DeleteRecords,
}

impl CallSite {
    fn doing(self) -> &'static str {
        match self {
            Self::Metadata => "asking for metadata",
            Self::FindCoordinator => "looking for a coordinator",
            Self::Fetch => "fetching",
            Self::ListOffsets => "listing offsets",
            Self::Produce => "producing",
            Self::InitProducerId => "asking for a producer id",
            Self::Transaction => "adding to a transaction",
            Self::EndTxn => "ending a transaction",
            Self::TxnOffsetCommit => "committing offsets in a transaction",
            Self::JoinGroup => "joining the group",
            Self::Heartbeat => "sending a heartbeat",
            Self::LeaveGroup => "leaving the group",
            Self::OffsetCommit => "committing offsets",
            Self::OffsetFetch => "fetching committed offsets",
            Self::Groups => "asking about groups",
            Self::Transactions => "asking about transactions",
            Self::Topics => "administering topics",
            Self::DeleteRecords => "deleting records",
        }
    }

    fn in_transaction(self) -> bool {
        matches!(self, Self::Produce | Self::Transaction | Self::EndTxn | Self::TxnOffsetCommit)
    }
}

/// The error that a code stands for; `None` for 0.
pub(crate) fn broker_error(code: i16, site: CallSite) -> Option<Error> {
    let error = E::try_from_code(code)?;
    let (kind, class) = (kind(error, site), class(error, site));
    let mut message = format!("{error} while {}", site.doing());
    if let Some(remedy) = remedy(error, site) {
        message.push_str(": ");
        message.push_str(remedy);
    }
    Some(Error::new(kind, message).with_class(class).with_code(code))
}

/// [`broker_error`] with what the broker said beside the code.
pub(crate) fn broker_error_saying(code: i16, site: CallSite, said: Option<&str>) -> Option<Error> {
    let error = broker_error(code, site)?;
    Some(match said.filter(|said| !said.is_empty()) {
        Some(said) => error.because(format!("the broker says: {said}")),
        None => error,
    })
}

/// Whether an error says that somebody else leads the partition (or the cluster) now, or that nobody is known to: look
/// again.
pub(crate) fn is_stale_metadata(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Connection | ErrorKind::Timeout)
        || error.code().and_then(E::try_from_code).is_some_and(|error| {
            matches!(
                error,
                E::UnknownTopicOrPartition
                    | E::LeaderNotAvailable
                    | E::NotLeaderOrFollower
                    | E::NotController
                    | E::ReplicaNotAvailable
                    | E::ListenerNotFound
                    | E::KafkaStorageError
                    | E::FencedLeaderEpoch
                    | E::UnknownLeaderEpoch
                    | E::UnknownTopicId
                    | E::InconsistentTopicId
            )
        })
}

/// Whether an error says that the coordinator is elsewhere: look for it again.
pub(crate) fn is_stale_coordinator(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Connection | ErrorKind::Timeout)
        || error
            .code()
            .and_then(E::try_from_code)
            .is_some_and(|error| matches!(error, E::NotCoordinator | E::CoordinatorNotAvailable))
}

/// Whether an error says that a topic of that name exists already.
pub(crate) fn is_topic_exists(error: &Error) -> bool {
    error.code() == Some(E::TopicAlreadyExists.code())
}

fn kind(error: E, site: CallSite) -> ErrorKind {
    match error {
        E::OffsetOutOfRange => ErrorKind::OffsetOutOfRange,
        E::CorruptMessage | E::InvalidRecord if site != CallSite::Produce => ErrorKind::Corrupt,
        E::UnknownTopicOrPartition
        | E::InvalidTopicException
        | E::TopicAlreadyExists
        | E::UnknownTopicId
        | E::InvalidPartitions
        | E::InvalidReplicationFactor
        | E::TopicDeletionDisabled => ErrorKind::Topic,
        E::InvalidConfig | E::PolicyViolation => ErrorKind::Config,
        // No policy for records that cannot be written is asked about these (`RecordCollectorImpl.isFatalException`).
        E::TopicAuthorizationFailed
        | E::GroupAuthorizationFailed
        | E::ClusterAuthorizationFailed
        | E::TransactionalIdAuthorizationFailed
        | E::DelegationTokenAuthorizationFailed => ErrorKind::Authorization,
        E::SaslAuthenticationFailed
        | E::UnsupportedSaslMechanism
        | E::IllegalSaslState
        | E::SecurityDisabled => ErrorKind::Authentication,
        E::RequestTimedOut => ErrorKind::Timeout,
        E::IllegalGeneration
        | E::UnknownMemberId
        | E::RebalanceInProgress
        | E::FencedInstanceId
        | E::FencedMemberEpoch
        | E::ProducerFenced
        | E::InvalidProducerEpoch
        | E::TransactionCoordinatorFenced => ErrorKind::Fenced,
        _ if site == CallSite::Produce => ErrorKind::Production,
        _ => ErrorKind::Broker,
    }
}

fn class(error: E, site: CallSite) -> ErrorClass {
    use ErrorClass::{AbortTransaction, Fatal, FencedLease, Retriable};
    match error {
        // Asking again for what is out of the log, or too large, changes nothing: the caller has a policy for it.
        E::OffsetOutOfRange | E::MessageTooLarge | E::RecordListTooLarge => Fatal,

        // The same in a transaction: that ends with the generation, or is committed in the next one.
        E::IllegalGeneration
        | E::UnknownMemberId
        | E::FencedMemberEpoch
        | E::StaleMemberEpoch
        | E::FencedInstanceId
        | E::RebalanceInProgress
            if site == CallSite::TxnOffsetCommit =>
        {
            AbortTransaction
        }
        // A member whose generation is over has to take what the group decided since (KIP-447).
        E::IllegalGeneration | E::UnknownMemberId | E::FencedMemberEpoch => FencedLease,
        // The group was deleted or has expired: its members are to join it anew.
        E::GroupIdNotFound if matches!(site, CallSite::OffsetCommit | CallSite::Heartbeat) => FencedLease,
        // The commit comes too early or too late for this generation, the next one can do it.
        E::RebalanceInProgress | E::MemberIdRequired => Retriable,
        // Another process runs under the same group.instance.id: coming back would fence that one in turn.
        E::FencedInstanceId => Fatal,

        // Another producer has the transactional id. On Produce an old epoch only says that the transaction was
        // aborted (KIP-588), everywhere else that somebody has taken over.
        E::InvalidProducerEpoch if site == CallSite::Produce => AbortTransaction,
        E::InvalidProducerEpoch | E::ProducerFenced | E::TransactionCoordinatorFenced => FencedLease,
        // What there was to write to or to commit is no open transaction any more: its time was over.
        E::InvalidTxnState
            if matches!(site, CallSite::Produce | CallSite::TxnOffsetCommit | CallSite::EndTxn) =>
        {
            AbortTransaction
        }
        // The broker asks for an abort in as many words (KIP-890).
        E::TransactionAbortable => AbortTransaction,
        // Sequence numbers have a gap, or their producer is forgotten: a new epoch starts them anew (KIP-360).
        E::OutOfOrderSequenceNumber | E::UnknownProducerId | E::InvalidProducerIdMapping
            if site.in_transaction() =>
        {
            AbortTransaction
        }
        // Not in Kafka's own list, but the producer may send again while the last transaction is being completed.
        E::ConcurrentTransactions => Retriable,
        // A log directory that is full or gone moves the leader elsewhere.
        E::BrokerNotAvailable | E::OperationNotAttempted => Retriable,
        E::UnknownServerError => Fatal,
        error if error.is_retriable() => Retriable,
        _ => Fatal,
    }
}

fn remedy(error: E, site: CallSite) -> Option<&'static str> {
    Some(match error {
        E::UnknownTopicOrPartition | E::UnknownTopicId => {
            "the topic or partition does not exist; create it (mainstem topics create NAME --partitions N), or check the name"
        }
        E::InvalidTopicException => {
            "a topic's name has 1 to 249 of the characters a-z, A-Z, 0-9, dot, underscore and dash"
        }
        E::OffsetOutOfRange if site == CallSite::DeleteRecords => {
            "the first offset to keep is none of the log's; mainstem topics describe NAME shows where it begins and ends"
        }
        E::OffsetOutOfRange => {
            "retention, compaction's purge or a new topic under the same name has taken the offset away"
        }
        E::TopicAlreadyExists => "a topic of that name exists already",
        E::InvalidPartitions => "a topic has at least one partition, and never fewer than before",
        E::InvalidReplicationFactor => {
            "there are fewer brokers than replicas asked for; use -1 for the broker's default, or add brokers"
        }
        E::InvalidConfig => "a topic config has a value the broker does not take",
        E::TopicDeletionDisabled => "set delete.topic.enable=true on the brokers",
        E::MessageTooLarge | E::RecordListTooLarge => {
            "the batch is larger than the topic takes; raise max.message.bytes of the topic, or lower batch.size or the record"
        }
        E::NotEnoughReplicas | E::NotEnoughReplicasAfterAppend => {
            "fewer replicas are in sync than min.insync.replicas asks for; bring the brokers back"
        }
        E::TopicAuthorizationFailed => match site {
            CallSite::Produce => "grant WRITE on the topic to this client's principal",
            CallSite::Fetch | CallSite::ListOffsets => "grant READ on the topic to this client's principal",
            _ => "grant the operation on the topic to this client's principal",
        },
        E::GroupAuthorizationFailed => "grant READ on the group to this client's principal",
        E::ClusterAuthorizationFailed => match site {
            CallSite::InitProducerId | CallSite::Produce => {
                "grant IDEMPOTENT_WRITE on the cluster (or WRITE on the topics) to this client's principal"
            }
            _ => "grant the operation on the cluster to this client's principal",
        },
        E::TransactionalIdAuthorizationFailed => {
            "grant WRITE on the transactional id to this client's principal"
        }
        E::InvalidTransactionTimeout => {
            "transaction.timeout.ms is above the broker's transaction.max.timeout.ms; lower the first or raise the second"
        }
        E::InvalidSessionTimeout => {
            "session.timeout.ms is outside the broker's group.min.session.timeout.ms to group.max.session.timeout.ms"
        }
        E::InconsistentGroupProtocol => {
            "the group's other members speak another protocol; give this application an application.id of its own"
        }
        E::InvalidGroupId => "application.id must not be empty",
        E::GroupMaxSizeReached => "raise group.max.size on the brokers, or run fewer instances",
        E::FencedInstanceId => {
            "another process runs with the same group.instance.id; give each instance its own"
        }
        E::TransactionalIdNotFound => "the coordinator knows no transactional id of that name",
        E::ProducerFenced | E::InvalidProducerEpoch => "a newer producer has taken over its transactional id",
        E::InvalidCommitOffsetSize => "the metadata of the offset is larger than offset.metadata.max.bytes",
        E::NonEmptyGroup => "stop the members of the group first",
        E::UnsupportedVersion => "the broker is too old for this request; brokers from 2.5 are supported",
        E::UnsupportedForMessageFormat => "the topic is kept in a message format before 0.11; rewrite it",
        E::PolicyViolation => "a policy of the cluster forbids it",
        E::InvalidTimestamp => {
            "a record's timestamp is further from now than message.timestamp.before.max.ms and \
             message.timestamp.after.max.ms of the topic allow; correct it, or raise them"
        }
        E::KafkaStorageError => "a disk of the broker failed",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class_of(error: E, site: CallSite) -> ErrorClass {
        broker_error(error.code(), site).map(|e| e.class()).unwrap()
    }

    #[test]
    fn zero_is_no_error_and_unknown_codes_are_fatal_and_named() {
        assert!(broker_error(0, CallSite::Fetch).is_none());
        let error = broker_error(9999, CallSite::Fetch).unwrap();
        assert_eq!((error.class(), error.code()), (ErrorClass::Fatal, Some(9999)));
        assert!(error.to_string().contains("9999"), "{error}");
    }

    #[test]
    fn an_old_epoch_aborts_on_produce_and_fences_elsewhere() {
        assert_eq!(class_of(E::InvalidProducerEpoch, CallSite::Produce), ErrorClass::AbortTransaction);
        assert_eq!(class_of(E::InvalidProducerEpoch, CallSite::InitProducerId), ErrorClass::FencedLease);
        assert_eq!(class_of(E::ProducerFenced, CallSite::Transaction), ErrorClass::FencedLease);
        assert_eq!(
            class_of(E::TransactionAbortable, CallSite::TxnOffsetCommit),
            ErrorClass::AbortTransaction
        );
        assert_eq!(class_of(E::ConcurrentTransactions, CallSite::Transaction), ErrorClass::Retriable);
    }

    #[test]
    fn a_generation_that_is_over_fences_and_a_rebalance_does_not() {
        for site in [CallSite::Heartbeat, CallSite::OffsetCommit, CallSite::JoinGroup] {
            assert_eq!(class_of(E::IllegalGeneration, site), ErrorClass::FencedLease);
            assert_eq!(class_of(E::UnknownMemberId, site), ErrorClass::FencedLease);
            assert_eq!(class_of(E::RebalanceInProgress, site), ErrorClass::Retriable);
            assert_eq!(class_of(E::FencedInstanceId, site), ErrorClass::Fatal);
        }
        assert_eq!(class_of(E::GroupIdNotFound, CallSite::OffsetCommit), ErrorClass::FencedLease);
    }

    #[test]
    fn not_yet_is_never_out_of_range() {
        // After a leader change: a sound store must not be wiped for this (OFFSET_NOT_AVAILABLE, below v5 of
        // ListOffsets LEADER_NOT_AVAILABLE).
        for error in [E::OffsetNotAvailable, E::LeaderNotAvailable] {
            let error = broker_error(error.code(), CallSite::ListOffsets).unwrap();
            assert_eq!((error.kind(), error.class()), (ErrorKind::Broker, ErrorClass::Retriable));
        }
        let gone = broker_error(E::OffsetOutOfRange.code(), CallSite::Fetch).unwrap();
        assert_eq!((gone.kind(), gone.class()), (ErrorKind::OffsetOutOfRange, ErrorClass::Fatal));
    }

    #[test]
    fn stale_metadata_and_stale_coordinators_are_told_apart() {
        let of = |error: E, site| broker_error(error.code(), site).unwrap();
        for error in
            [E::NotLeaderOrFollower, E::FencedLeaderEpoch, E::UnknownTopicOrPartition, E::KafkaStorageError]
        {
            assert!(is_stale_metadata(&of(error, CallSite::Fetch)), "{error}");
            assert_eq!(class_of(error, CallSite::Fetch), ErrorClass::Retriable, "{error}");
        }
        assert!(!is_stale_metadata(&of(E::OffsetNotAvailable, CallSite::Fetch)));
        assert!(is_stale_coordinator(&of(E::NotCoordinator, CallSite::Heartbeat)));
        assert!(!is_stale_coordinator(&of(E::CoordinatorLoadInProgress, CallSite::Heartbeat)));
    }

    #[test]
    fn a_missing_right_is_fatal_and_says_which() {
        for (error, site, words) in [
            (E::TopicAuthorizationFailed, CallSite::Produce, "WRITE on the topic"),
            (E::TopicAuthorizationFailed, CallSite::Fetch, "READ on the topic"),
            (E::GroupAuthorizationFailed, CallSite::JoinGroup, "READ on the group"),
            (
                E::TransactionalIdAuthorizationFailed,
                CallSite::InitProducerId,
                "WRITE on the transactional id",
            ),
            (E::ClusterAuthorizationFailed, CallSite::InitProducerId, "IDEMPOTENT_WRITE"),
            (E::ClusterAuthorizationFailed, CallSite::Topics, "on the cluster"),
        ] {
            let error = broker_error(error.code(), site).unwrap();
            assert_eq!(
                (error.kind(), error.class()),
                (ErrorKind::Authorization, ErrorClass::Fatal),
                "{error}"
            );
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn every_error_a_person_can_mend_says_how() {
        for (error, site, words) in [
            (E::UnknownTopicOrPartition, CallSite::Metadata, "mainstem topics create"),
            (E::MessageTooLarge, CallSite::Produce, "max.message.bytes"),
            (E::TopicAuthorizationFailed, CallSite::Fetch, "READ"),
            (E::TopicAuthorizationFailed, CallSite::Produce, "WRITE"),
            (E::InvalidReplicationFactor, CallSite::Topics, "-1"),
            (E::InvalidTransactionTimeout, CallSite::InitProducerId, "transaction.max.timeout.ms"),
        ] {
            let text = broker_error(error.code(), site).unwrap().to_string();
            assert!(text.contains(words), "{text}");
        }
        let said = broker_error_saying(44, CallSite::Topics, Some("no such names")).unwrap();
        assert!(format!("{said:?}").contains("the broker says: no such names"));
    }
}
