//! What a batch from a client must be: `ProduceRequest.validateRecords`, `UnifiedLog.analyzeAndValidateRecords` and
//! `LogValidator`, in this order.

use bytes::Bytes;
use kafka_protocol::error::ResponseError;

use crate::client::batch::{Batch, Batches, MAX_DECOMPRESSED};
use crate::embedded::config::TopicConfig;

/// Why a batch is not taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) error: ResponseError,
    pub(crate) message: String,
    /// Which records are at fault, by their place in the batch, and why.
    pub(crate) records: Vec<(i32, String)>,
}

impl Refused {
    pub(crate) fn new(error: ResponseError, message: impl Into<String>) -> Self {
        Self { error, message: message.into(), records: Vec::new() }
    }
}

impl From<ResponseError> for Refused {
    fn from(error: ResponseError) -> Self {
        Self::new(error, error.to_string())
    }
}

fn invalid(message: impl Into<String>) -> Refused {
    Refused::new(ResponseError::InvalidRecord, message)
}

fn corrupt(why: impl std::fmt::Display) -> Refused {
    Refused::new(ResponseError::CorruptMessage, format!("Record is corrupt: {why}"))
}

/// The one batch of `records`. What is cut off behind it is ignored (`ByteBufferLogInputStream`).
pub(crate) fn only_batch(records: Bytes) -> Result<Batch, Refused> {
    let refused = |header: &[u8], error: crate::Error| match is_older_format(header) {
        Some(false) => corrupt(error),
        // Our own words for what the header alone gives away.
        _ => invalid(error.to_string()),
    };
    let none = || invalid("Produce requests must contain exactly one record batch, and this one has none");
    let mut batches = Batches::new(records.clone());
    let batch = batches.next().ok_or_else(none)?.map_err(|error| refused(&records, error))?;
    match batches.next() {
        None => Ok(batch),
        Some(Ok(_)) => Err(invalid("Produce requests are only allowed to contain exactly one record batch")),
        Some(Err(error)) => Err(refused(&records[batch.size()..], error)),
    }
}

/// Of a header that cannot be read: whether it is of an older format, or none of any; `None` if neither is so.
fn is_older_format(header: &[u8]) -> Option<bool> {
    let length = header.get(8..12)?.first_chunk().copied().map(i32::from_be_bytes)?;
    let magic = *header.get(16)?;
    match magic {
        _ if length < 14 => Some(false),
        0 | 1 => Some(true),
        2 if length >= 49 => None,
        _ => Some(false),
    }
}

/// The largest timestamp in a batch that may be taken.
pub(crate) fn validate(batch: &Batch, config: &TopicConfig, now: i64) -> Result<i64, Refused> {
    let size = batch.size();
    if batch.base_offset() != 0 {
        return Err(invalid(format!("The baseOffset of the record batch is {}, not 0", batch.base_offset())));
    }
    if size > config.max_message_bytes {
        return Err(Refused::new(
            ResponseError::MessageTooLarge,
            format!("The record batch size is {size} bytes, which exceeds {}", config.max_message_bytes),
        ));
    }
    if size > config.segment_bytes {
        return Err(ResponseError::RecordListTooLarge.into());
    }
    batch.verify_crc().map_err(corrupt)?;
    let offsets = i64::from(batch.header().last_offset_delta) + 1;
    if batch.header().record_count <= 0 || i64::from(batch.header().record_count) != offsets {
        return Err(invalid(format!(
            "Inconsistent batch offset range: {} records at {offsets} offsets",
            batch.header().record_count
        )));
    }
    if batch.is_control() {
        return Err(invalid("Clients are not allowed to write control records"));
    }
    if batch.producer_id() >= 0 && (batch.base_sequence() < 0 || batch.producer_epoch() < 0) {
        return Err(invalid(format!("Invalid sequence number {}", batch.base_sequence())));
    }
    check_records(batch, config, now)
}

fn check_records(batch: &Batch, config: &TopicConfig, now: i64) -> Result<i64, Refused> {
    let earliest = now.saturating_sub(config.timestamp_before_max);
    let latest = now.saturating_add(config.timestamp_after_max);
    let (mut max_timestamp, mut expected) = (-1, 0);
    let (mut keyless, mut untimely) = (Vec::new(), Vec::new());
    let records = batch.records_within(MAX_DECOMPRESSED).map_err(|error| invalid(error.to_string()))?;
    for record in records {
        let record = record.map_err(|error| invalid(error.to_string()))?;
        if record.offset != expected {
            return Err(invalid("The records of a batch do not have consecutive offsets"));
        }
        if config.compacted && record.key.is_none() {
            keyless.push((expected, "Compacted topic cannot accept message without key.".to_owned()));
        }
        let timely = record.timestamp == -1 || (earliest..=latest).contains(&record.timestamp);
        if !config.append_time && !timely {
            let why = format!("Timestamp {} is out of range [{earliest}, {latest}]", record.timestamp);
            untimely.push((expected, why));
        }
        max_timestamp = max_timestamp.max(record.timestamp);
        expected += 1;
    }
    let (error, at_fault) = match keyless.is_empty() {
        false => (ResponseError::InvalidRecord, keyless),
        true if !untimely.is_empty() => (ResponseError::InvalidTimestamp, untimely),
        true => return Ok(max_timestamp),
    };
    Err(Refused {
        error,
        message: format!(
            "One or more records have been rejected due to {} record errors in total",
            at_fault.len()
        ),
        records: at_fault.into_iter().map(|(at, why)| (i32::try_from(at).unwrap_or(i32::MAX), why)).collect(),
    })
}
