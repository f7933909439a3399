//! The 61 bytes before the records of a batch, and the scan that reads nothing else.

use super::corrupt;
use crate::client::compression::Compression;
use crate::error::Result;
use crate::record::Timestamp;

pub(super) const LENGTH_AT: usize = 8;
pub(super) const LEADER_EPOCH_AT: usize = 12;
pub(super) const MAGIC_AT: usize = 16;
pub(super) const CRC_AT: usize = 17;
/// The CRC covers everything from here on.
pub(super) const ATTRIBUTES_AT: usize = 21;
pub(super) const LAST_OFFSET_DELTA_AT: usize = 23;
pub(super) const BASE_TIMESTAMP_AT: usize = 27;
pub(super) const MAX_TIMESTAMP_AT: usize = 35;
pub(super) const PRODUCER_ID_AT: usize = 43;
pub(super) const PRODUCER_EPOCH_AT: usize = 51;
pub(super) const BASE_SEQUENCE_AT: usize = 53;
pub(super) const COUNT_AT: usize = 57;
/// Where the records begin: the length of a header.
pub(super) const RECORDS_AT: usize = 61;
/// What the length field does not count: the base offset and itself.
pub(super) const BEFORE_LENGTH: usize = 12;
/// The shortest message of formats 0 and 1, and so the least that the length field can say.
const SHORTEST_OLD_MESSAGE: i32 = 14;

pub(super) const LOG_APPEND_TIME: i16 = 0x08;
pub(super) const TRANSACTIONAL: i16 = 0x10;
pub(super) const CONTROL: i16 = 0x20;

/// Who chose the timestamps of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TimestampType {
    /// The producer.
    CreateTime,
    /// The broker; it is the same for every record of the batch.
    LogAppendTime,
}

/// The fields of a batch's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// The offset of the first record when the batch was written.
    pub(crate) base_offset: i64,
    /// The bytes of the whole batch, header included.
    pub(crate) size: usize,
    /// The leader epoch it was appended in; -1 in a batch that no broker has seen.
    pub(crate) partition_leader_epoch: i32,
    /// The CRC-32C of everything from the attributes on.
    pub(crate) crc: u32,
    /// Compression, timestamp type and flags.
    pub(crate) attributes: i16,
    /// The last offset of the batch, from the base offset; compaction keeps it.
    pub(crate) last_offset_delta: i32,
    /// What the records' timestamps are relative to.
    pub(crate) base_timestamp: Timestamp,
    /// The largest timestamp, or the append time.
    pub(crate) max_timestamp: Timestamp,
    /// The idempotent or transactional producer; -1 for none.
    pub(crate) producer_id: i64,
    /// Its epoch; -1 for none.
    pub(crate) producer_epoch: i16,
    /// The sequence number of the first record; -1 for none.
    pub(crate) base_sequence: i32,
    /// How many records there are.
    pub(crate) record_count: i32,
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

impl Header {
    /// The header of the batch that `bytes` begin with; `None` if `bytes` end before the batch does.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Self>> {
        let Some(length) = field(bytes, LENGTH_AT).map(i32::from_be_bytes) else { return Ok(None) };
        if length < SHORTEST_OLD_MESSAGE {
            return Err(corrupt(format!("a batch says that it is {length} bytes long")));
        }
        let Some([magic]) = field(bytes, MAGIC_AT) else { return Ok(None) };
        let size = BEFORE_LENGTH + length as usize;
        match magic {
            2 if size < RECORDS_AT => {
                return Err(corrupt(format!("a batch of {size} bytes is shorter than its header")));
            }
            2 => {}
            0 | 1 => {
                return Err(corrupt(format!(
                    "the log holds messages of format {magic}, which Kafka 4 no longer serves: \
                     rewrite the topic with a newer producer"
                )));
            }
            _ => return Err(corrupt(format!("record format {} is not known", magic as i8))),
        }
        if bytes.len() < size {
            return Ok(None);
        }
        let header = Self::fields(bytes, size).ok_or_else(|| corrupt("a batch header is cut off"))?;
        header.check()?;
        Ok(Some(header))
    }

    fn fields(bytes: &[u8], size: usize) -> Option<Self> {
        Some(Self {
            base_offset: i64::from_be_bytes(field(bytes, 0)?),
            size,
            partition_leader_epoch: i32::from_be_bytes(field(bytes, LEADER_EPOCH_AT)?),
            crc: u32::from_be_bytes(field(bytes, CRC_AT)?),
            attributes: i16::from_be_bytes(field(bytes, ATTRIBUTES_AT)?),
            last_offset_delta: i32::from_be_bytes(field(bytes, LAST_OFFSET_DELTA_AT)?),
            base_timestamp: i64::from_be_bytes(field(bytes, BASE_TIMESTAMP_AT)?),
            max_timestamp: i64::from_be_bytes(field(bytes, MAX_TIMESTAMP_AT)?),
            producer_id: i64::from_be_bytes(field(bytes, PRODUCER_ID_AT)?),
            producer_epoch: i16::from_be_bytes(field(bytes, PRODUCER_EPOCH_AT)?),
            base_sequence: i32::from_be_bytes(field(bytes, BASE_SEQUENCE_AT)?),
            record_count: i32::from_be_bytes(field(bytes, COUNT_AT)?),
        })
    }

    fn check(&self) -> Result<()> {
        if self.base_offset < 0 || self.last_offset_delta < 0 {
            return Err(corrupt(format!(
                "a batch says that it holds offsets {} to {} more",
                self.base_offset, self.last_offset_delta
            )));
        }
        if self.base_offset.checked_add(i64::from(self.last_offset_delta) + 1).is_none() {
            return Err(corrupt("a batch ends beyond the largest offset").at_offset(self.base_offset));
        }
        if i64::from(self.record_count) > i64::from(self.last_offset_delta) + 1 || self.record_count < 0 {
            return Err(corrupt(format!(
                "a batch says that it holds {} records in {} offsets",
                self.record_count,
                i64::from(self.last_offset_delta) + 1
            ))
            .at_offset(self.base_offset));
        }
        Ok(())
    }

    /// The offset that follows the batch: right for every batch, also one without records or without any that may be
    /// delivered.
    pub(crate) fn next_offset(&self) -> i64 {
        self.base_offset + i64::from(self.last_offset_delta) + 1
    }

    pub(super) fn compression(&self) -> Result<Compression> {
        Compression::from_attributes(self.attributes).ok_or_else(|| {
            corrupt(format!("compression {} is not known", self.attributes & 0x07))
                .at_offset(self.base_offset)
        })
    }

    pub(super) fn has(&self, flag: i16) -> bool {
        self.attributes & flag != 0
    }
}

/// What [`scan`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Scan {
    /// How many bytes the complete batches take; the rest is cut off.
    pub(crate) complete_len: usize,
    /// Where to fetch next; `None` if there is no complete batch.
    pub(crate) next_offset: Option<i64>,
    /// How many complete batches there are.
    pub(crate) batches: usize,
    /// How many records they hold, control records and aborted ones included.
    pub(crate) records: usize,
}

/// Finds the complete batches of a partition's `records` by their headers, without looking at CRCs or records.
///
/// A malformed batch behind good ones ends the prefix, so that what came before is delivered; at the beginning it is the
/// error. `records` that are not empty but hold no complete batch are either corrupt or cut by a fetch limit that the
/// broker should not have kept to (KIP-74): a caller must not simply fetch the same again.
pub(crate) fn scan(records: &[u8]) -> Result<Scan> {
    let mut found = Scan::default();
    loop {
        match Header::parse(&records[found.complete_len..]) {
            Ok(Some(header)) => {
                found.complete_len += header.size;
                found.next_offset = Some(header.next_offset());
                found.batches += 1;
                found.records += header.record_count as usize;
            }
            Err(error) if found.batches == 0 => return Err(error),
            Ok(None) | Err(_) => return Ok(found),
        }
    }
}
