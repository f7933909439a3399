//! What a broker's answer for one partition asks for.

use std::sync::Arc;

use kafka_protocol::error::ResponseError as E;
use kafka_protocol::messages::produce_response::PartitionProduceResponse;

use crate::error::{Error, ErrorClass, ErrorKind};

/// What to do with a batch now that its request has ended.
#[derive(Debug)]
pub(super) enum Answer {
    /// It is in the log, now or from an earlier attempt.
    Written,
    /// Send it again later. If it is `open`, it may have been written; its sequence number tells the broker.
    Retry { error: Error, stale_leader: bool, open: bool },
    /// Its number is not the next one for the broker, or the broker does not know the producer (any more).
    OutOfSequence(Error),
    /// Send it in two halves.
    TooLarge(Error),
    /// It will never be written; the records named are the reason.
    Refused { error: Error, guilty: Vec<usize> },
}

impl Answer {
    /// From the answer for the batch's partition.
    pub(super) fn of(response: &PartitionProduceResponse) -> Self {
        let Some(code) = E::try_from_code(response.error_code) else { return Self::Written };
        match code {
            // The broker has forgotten the place of an old batch, but knows that it came by.
            E::DuplicateSequenceNumber => Self::Written,
            E::OutOfOrderSequenceNumber | E::UnknownProducerId => {
                Self::OutOfSequence(broker_error(code, response))
            }
            E::MessageTooLarge => Self::TooLarge(broker_error(code, response)),
            _ if code.is_retriable() => Self::Retry {
                stale_leader: matches!(
                    code,
                    E::UnknownTopicOrPartition
                        | E::LeaderNotAvailable
                        | E::NotLeaderOrFollower
                        | E::FencedLeaderEpoch
                        | E::UnknownLeaderEpoch
                        | E::UnknownTopicId
                        | E::KafkaStorageError
                        | E::NetworkException
                ),
                open: matches!(
                    code,
                    E::RequestTimedOut
                        | E::NotEnoughReplicasAfterAppend
                        | E::KafkaStorageError
                        | E::NetworkException
                ),
                error: broker_error(code, response).with_class(ErrorClass::Retriable),
            },
            _ => Self::Refused {
                error: broker_error(code, response),
                guilty: response
                    .record_errors
                    .iter()
                    .filter_map(|record| usize::try_from(record.batch_index).ok())
                    .collect(),
            },
        }
    }

    /// From a request that has failed as a whole.
    pub(super) fn of_failed_request(error: &Arc<Error>) -> Self {
        let own = Error::new(error.kind(), "no answer to a Produce request")
            .with_class(error.class())
            .because(error.clone());
        if error.is_retriable() || matches!(error.kind(), ErrorKind::Connection | ErrorKind::Timeout) {
            Self::Retry { error: own, stale_leader: true, open: true }
        } else {
            Self::Refused { error: own, guilty: Vec::new() }
        }
    }

    /// From an answer that does not mention the partition.
    pub(super) fn missing() -> Self {
        let error =
            Error::new(ErrorKind::Corrupt, "the answer to a Produce request leaves the partition out")
                .with_class(ErrorClass::Retriable);
        Self::Retry { error, stale_leader: true, open: true }
    }
}

fn broker_error(code: E, response: &PartitionProduceResponse) -> Error {
    let kind = match code {
        E::UnknownTopicOrPartition | E::UnknownTopicId | E::InvalidTopicException => ErrorKind::Topic,
        E::InvalidProducerEpoch | E::ProducerFenced => ErrorKind::Fenced,
        _ => ErrorKind::Production,
    };
    let remedy = match code {
        E::UnknownTopicOrPartition => ": create the topic",
        E::MessageTooLarge | E::RecordListTooLarge => {
            ": raise max.message.bytes of the topic, or lower batch.size or the record"
        }
        E::TopicAuthorizationFailed => ": grant WRITE on the topic to this client's principal",
        E::ClusterAuthorizationFailed => ": grant IDEMPOTENT_WRITE on the cluster to this client's principal",
        _ => "",
    };
    let error = Error::new(kind, format!("{code} while producing{remedy}")).with_code(response.error_code);
    let said: Vec<&str> = response
        .error_message
        .iter()
        .chain(response.record_errors.iter().filter_map(|record| record.batch_index_error_message.as_ref()))
        .map(|said| said.as_str())
        .collect();
    if said.is_empty() { error } else { error.because(format!("the broker says: {}", said.join("; "))) }
}
