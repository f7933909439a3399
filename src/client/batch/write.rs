//! Batches to be sent.

use bytes::{BufMut, Bytes, BytesMut};

use super::corrupt;
use super::header::{
    ATTRIBUTES_AT, BASE_SEQUENCE_AT, BASE_TIMESTAMP_AT, BEFORE_LENGTH, COUNT_AT, CRC_AT,
    LAST_OFFSET_DELTA_AT, LEADER_EPOCH_AT, LENGTH_AT, MAGIC_AT, MAX_TIMESTAMP_AT, PRODUCER_EPOCH_AT,
    PRODUCER_ID_AT, RECORDS_AT, TRANSACTIONAL,
};
use super::read::Batches;
use crate::client::compression::Compression;
use crate::error::{Error, ErrorKind, Result};
use crate::record::{Headers, Timestamp, put_varint, varint_len};

/// The bytes of a length and what follows it, or of null.
fn field_len(field: Option<&[u8]>) -> usize {
    field.map_or(1, |bytes| varint_len(bytes.len() as i64) + bytes.len())
}

/// The length of a record without the varint that says it.
fn body_len(
    timestamp_delta: i64,
    offset_delta: i64,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: &Headers,
) -> usize {
    1 + varint_len(timestamp_delta)
        + varint_len(offset_delta)
        + field_len(key)
        + field_len(value)
        + varint_len(headers.len() as i64)
        + headers.wire().len()
}

/// The bytes of a batch with just this record, uncompressed: what `max.request.size` and `max.message.bytes` are
/// compared with.
pub(crate) fn record_len(key: Option<&[u8]>, value: Option<&[u8]>, headers: &Headers) -> usize {
    let body = body_len(0, 0, key, value, headers);
    RECORDS_AT + varint_len(body as i64) + body
}

/// The sequence number that is `records` after `sequence`; they wrap from `i32::MAX` to 0.
pub(crate) fn next_sequence(sequence: i32, records: i32) -> i32 {
    sequence.wrapping_add(records) & i32::MAX
}

/// What only the sender knows of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProducerStamp {
    /// The producer, or -1.
    pub(crate) producer_id: i64,
    /// Its epoch, or -1.
    pub(crate) producer_epoch: i16,
    /// The sequence number of the first record, or -1.
    pub(crate) base_sequence: i32,
    /// Whether the batch is part of a transaction.
    pub(crate) transactional: bool,
}

impl ProducerStamp {
    /// Of a producer that is not idempotent.
    pub(crate) const NONE: Self =
        Self { producer_id: -1, producer_epoch: -1, base_sequence: -1, transactional: false };
}

/// A batch that records are added to. It owns one buffer, which becomes the batch.
#[derive(Debug)]
pub(crate) struct BatchBuilder {
    buffer: BytesMut,
    compression: Compression,
    level: Option<i32>,
    count: i32,
    base_timestamp: Timestamp,
    max_timestamp: Timestamp,
}

impl BatchBuilder {
    /// An empty batch; its buffer grows with it.
    pub(crate) fn new(compression: Compression) -> Self {
        Self::with_capacity(compression, 0)
    }

    /// An empty batch with room for `capacity` bytes, its header included.
    pub(crate) fn with_capacity(compression: Compression, capacity: usize) -> Self {
        let mut buffer = BytesMut::with_capacity(capacity.max(RECORDS_AT));
        buffer.put_bytes(0, RECORDS_AT);
        Self { buffer, compression, level: None, count: 0, base_timestamp: 0, max_timestamp: -1 }
    }

    /// Sets how hard to compress; `None` is the codec's default.
    #[must_use]
    pub(crate) fn level(self, level: Option<i32>) -> Self {
        Self { level, ..self }
    }

    /// The bytes of the batch so far, header included, before compression.
    pub(crate) fn len(&self) -> usize {
        self.buffer.len()
    }

    /// How many records it holds.
    pub(crate) fn count(&self) -> usize {
        self.count as usize
    }

    /// Whether it holds none.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// What [`len`](Self::len) would be after this record.
    pub(crate) fn len_with(
        &self,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &Headers,
    ) -> usize {
        let body = body_len(self.delta(timestamp), i64::from(self.count), key, value, headers);
        self.len() + varint_len(body as i64) + body
    }

    fn delta(&self, timestamp: Timestamp) -> i64 {
        if self.count == 0 { 0 } else { timestamp.wrapping_sub(self.base_timestamp) }
    }

    /// Adds a record.
    pub(crate) fn append(
        &mut self,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &Headers,
    ) {
        self.append_within(usize::MAX, timestamp, key, value, headers);
    }

    /// Adds a record, unless that makes the batch longer than `limit` bytes; an empty batch takes any record. Says
    /// whether it did.
    pub(crate) fn append_within(
        &mut self,
        limit: usize,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &Headers,
    ) -> bool {
        let delta = self.delta(timestamp);
        let offset_delta = i64::from(self.count);
        let body = body_len(delta, offset_delta, key, value, headers);
        let whole = varint_len(body as i64) + body;
        if self.count == 0 {
            self.base_timestamp = timestamp;
            self.max_timestamp = timestamp;
        } else if self.buffer.len() + whole > limit {
            return false;
        }
        self.max_timestamp = self.max_timestamp.max(timestamp);
        let out = &mut self.buffer;
        out.reserve(whole);
        put_varint(out, body as i64);
        out.put_u8(0);
        put_varint(out, delta);
        put_varint(out, offset_delta);
        put_field(out, key);
        put_field(out, value);
        put_varint(out, headers.len() as i64);
        out.put_slice(headers.wire());
        self.count += 1;
        true
    }

    /// Compresses the records and writes the header, all but the stamp.
    pub(crate) fn close(self) -> Result<ClosedBatch> {
        let mut bytes = self.buffer;
        if self.compression != Compression::None {
            let plain = bytes;
            bytes = BytesMut::with_capacity(RECORDS_AT + plain.len() / 2);
            bytes.put_bytes(0, RECORDS_AT);
            self.compression.compress(self.level, &plain[RECORDS_AT..], &mut bytes)?;
        }
        let length = i32::try_from(bytes.len() - BEFORE_LENGTH).map_err(|_| {
            Error::new(
                ErrorKind::Production,
                format!("a batch of {} bytes is too long for Kafka", bytes.len()),
            )
        })?;
        put(&mut bytes, LENGTH_AT, length.to_be_bytes());
        put(&mut bytes, LEADER_EPOCH_AT, (-1i32).to_be_bytes());
        put(&mut bytes, MAGIC_AT, [2]);
        put(&mut bytes, ATTRIBUTES_AT, (self.compression as i16).to_be_bytes());
        put(&mut bytes, LAST_OFFSET_DELTA_AT, (self.count - 1).max(0).to_be_bytes());
        put(&mut bytes, BASE_TIMESTAMP_AT, self.base_timestamp.to_be_bytes());
        put(&mut bytes, MAX_TIMESTAMP_AT, self.max_timestamp.to_be_bytes());
        put(&mut bytes, COUNT_AT, self.count.to_be_bytes());
        Ok(ClosedBatch {
            bytes: bytes.freeze(),
            count: self.count,
            compression: self.compression,
            stamp: None,
        })
    }
}

pub(super) fn put_field(out: &mut BytesMut, field: Option<&[u8]>) {
    match field {
        Some(bytes) => {
            put_varint(out, bytes.len() as i64);
            out.put_slice(bytes);
        }
        None => out.put_u8(1),
    }
}

pub(super) fn put<const N: usize>(bytes: &mut BytesMut, at: usize, field: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&field);
}

/// A batch whose records are final. [`seal`](Self::seal) makes it fit to be sent, as often as the producer's numbers
/// change.
#[derive(Debug, Clone)]
pub(crate) struct ClosedBatch {
    bytes: Bytes,
    count: i32,
    compression: Compression,
    stamp: Option<ProducerStamp>,
}

impl ClosedBatch {
    /// The bytes it takes on the wire.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The batch as it is now.
    #[cfg(feature = "embedded")]
    pub(super) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// How many records it holds.
    pub(crate) fn count(&self) -> i32 {
        self.count
    }

    /// What it was sealed with last.
    pub(crate) fn stamp(&self) -> Option<ProducerStamp> {
        self.stamp
    }

    /// The batch with these numbers and its CRC. Sealing again with the same numbers costs nothing, with others a copy
    /// if somebody still holds the former bytes.
    pub(crate) fn seal(&mut self, stamp: ProducerStamp) -> Bytes {
        if self.stamp != Some(stamp) {
            let mut bytes = match std::mem::take(&mut self.bytes).try_into_mut() {
                Ok(own) => own,
                Err(shared) => BytesMut::from(&shared[..]),
            };
            let transactional = if stamp.transactional { TRANSACTIONAL } else { 0 };
            put(&mut bytes, ATTRIBUTES_AT, (self.compression as i16 | transactional).to_be_bytes());
            put(&mut bytes, PRODUCER_ID_AT, stamp.producer_id.to_be_bytes());
            put(&mut bytes, PRODUCER_EPOCH_AT, stamp.producer_epoch.to_be_bytes());
            put(&mut bytes, BASE_SEQUENCE_AT, stamp.base_sequence.to_be_bytes());
            // ORDER: the CRC covers the numbers above.
            let crc = crc32c::crc32c(&bytes[ATTRIBUTES_AT..]);
            put(&mut bytes, CRC_AT, crc.to_be_bytes());
            self.bytes = bytes.freeze();
            self.stamp = Some(stamp);
        }
        self.bytes.clone()
    }

    /// The first and the second half of the records (the first has one more if they are odd), in batches of their own;
    /// `None` if there is only one.
    pub(crate) fn split(&self) -> Result<Option<(Self, Self)>> {
        if self.count < 2 {
            return Ok(None);
        }
        let whole =
            Batches::new(self.bytes.clone()).next().ok_or_else(|| corrupt("a closed batch is cut off"))??;
        let half = self.count.cast_unsigned().div_ceil(2) as usize;
        let mut first = BatchBuilder::new(self.compression);
        let mut second = BatchBuilder::new(self.compression);
        // Our own records: however much they took, they were in memory before.
        for record in whole.records_within(usize::MAX)? {
            let record = record?;
            let into = if first.count() < half { &mut first } else { &mut second };
            into.append(record.timestamp, record.key.as_deref(), record.value.as_deref(), &record.headers);
        }
        Ok(Some((first.close()?, second.close()?)))
    }
}
