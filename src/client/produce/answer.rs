//! What a broker's answer for one partition asks for.

use std::sync::Arc;

use kafka_protocol::error::ResponseError as E;
use kafka_protocol::messages::produce_response::PartitionProduceResponse;

use crate::client::error_table::{self, CallSite};
use crate::error::{Error, ErrorClass, ErrorKind};

/// What to do with a batch now that its request has ended.
#[derive(Debug)]
pub(super) enum Answer {
    /// It is in the log, now or from an earlier attempt: from this offset on, if the broker still knows.
    Written { base_offset: Option<i64> },
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
    pub(super) fn of(response: &PartitionProduceResponse, transactional: bool) -> Self {
        let Some(code) = E::try_from_code(response.error_code) else {
            return Self::Written { base_offset: Some(response.base_offset).filter(|offset| *offset >= 0) };
        };
        match code {
            // The broker has forgotten the place of an old batch, but knows that it came by.
            E::DuplicateSequenceNumber => Self::Written { base_offset: None },
            E::OutOfOrderSequenceNumber | E::UnknownProducerId => {
                Self::OutOfSequence(broker_error(code, response))
            }
            E::MessageTooLarge => Self::TooLarge(broker_error(code, response)),
            // The leader, or the coordinator behind it, is busy with the transaction before (KIP-890).
            _ if code.is_retriable() || code == E::ConcurrentTransactions => Self::Retry {
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
                error: match error_table::broker_error(response.error_code, CallSite::Produce) {
                    Some(said) if transactional => broker_error(code, response).with_class(said.class()),
                    _ => broker_error(code, response),
                },
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

/// How many of the refused records' messages an error repeats: a batch may have thousands.
const SAID_AT_MOST: usize = 3;

fn broker_error(code: E, response: &PartitionProduceResponse) -> Error {
    let error = error_table::broker_error(response.error_code, CallSite::Produce)
        .unwrap_or_else(|| Error::new(ErrorKind::Production, format!("{code} while producing")))
        // Only `Answer` says what is tried again.
        .with_class(ErrorClass::Fatal);
    let records =
        response.record_errors.iter().filter_map(|record| record.batch_index_error_message.as_ref());
    let mut said: Vec<&str> =
        response.error_message.iter().chain(records).map(|said| said.as_str()).collect();
    let left_out = match said.len().saturating_sub(1 + SAID_AT_MOST) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    said.truncate(1 + SAID_AT_MOST);
    if said.is_empty() {
        error
    } else {
        error.because(format!("the broker says: {}{left_out}", said.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::produce_response::BatchIndexAndErrorMessage;
    use kafka_protocol::protocol::StrBytes;

    use super::*;

    #[test]
    fn a_refusal_names_the_remedy_and_a_few_of_the_records() {
        let record = |at: i32| {
            BatchIndexAndErrorMessage::default()
                .with_batch_index(at)
                .with_batch_index_error_message(Some(StrBytes::from_string(format!("record {at} is late"))))
        };
        let response = PartitionProduceResponse::default()
            .with_error_code(E::InvalidTimestamp.code())
            .with_error_message(Some(StrBytes::from_static_str("some are late")))
            .with_record_errors((0..10_000).map(record).collect());
        let Answer::Refused { error, guilty } = Answer::of(&response, false) else { panic!("refused") };
        assert_eq!(
            (guilty.len(), error.kind(), error.class()),
            (10_000, ErrorKind::Production, ErrorClass::Fatal)
        );
        let text = format!("{error:?}");
        assert!(text.contains("message.timestamp.after.max.ms"), "{text}");
        assert!(text.contains("some are late; record 0 is late") && text.contains("and 9997 more"), "{text}");
        assert!(text.len() < 1_000, "{text}");
    }
}
