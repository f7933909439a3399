//! What a broker writes into batches: their place in the log, its own clock's time, markers, and what compaction leaves.

use bytes::{BufMut, Bytes, BytesMut};

use super::header::{
    ATTRIBUTES_AT, BASE_SEQUENCE_AT, BASE_TIMESTAMP_AT, BEFORE_LENGTH, CONTROL, COUNT_AT, CRC_AT,
    LAST_OFFSET_DELTA_AT, LEADER_EPOCH_AT, LENGTH_AT, LOG_APPEND_TIME, MAGIC_AT, MAX_TIMESTAMP_AT,
    PRODUCER_EPOCH_AT, PRODUCER_ID_AT, RECORDS_AT, TRANSACTIONAL,
};
use super::read::Batch;
use super::write::{BatchBuilder, put, put_field};
use crate::client::compression::Compression;
use crate::error::Result;
use crate::record::{Headers, RawRecord, Timestamp, put_varint};

/// Says where a batch stands. The CRC does not cover it.
pub(crate) fn place(batch: &mut BytesMut, base_offset: i64, leader_epoch: i32) {
    put(batch, 0, base_offset.to_be_bytes());
    put(batch, LEADER_EPOCH_AT, leader_epoch.to_be_bytes());
}

/// Makes `now` the time of all records.
pub(crate) fn set_append_time(batch: &mut BytesMut, now: Timestamp) {
    let attributes = i16::from_be_bytes([batch[ATTRIBUTES_AT], batch[ATTRIBUTES_AT + 1]]) | LOG_APPEND_TIME;
    put(batch, ATTRIBUTES_AT, attributes.to_be_bytes());
    put(batch, MAX_TIMESTAMP_AT, now.to_be_bytes());
    sum(batch);
}

/// Corrects the largest timestamp.
pub(crate) fn set_max_timestamp(batch: &mut BytesMut, max: Timestamp) {
    put(batch, MAX_TIMESTAMP_AT, max.to_be_bytes());
    sum(batch);
}

/// Makes the CRC of the first batch right, if there is one.
#[cfg(feature = "testing")]
pub(crate) fn mend_crc(records: &mut BytesMut) {
    let Ok(Some(header)) = super::Header::parse(records) else { return };
    let crc = crc32c::crc32c(&records[ATTRIBUTES_AT..header.size]);
    put(records, CRC_AT, crc.to_be_bytes());
}

fn sum(batch: &mut BytesMut) {
    let crc = crc32c::crc32c(&batch[ATTRIBUTES_AT..]);
    put(batch, CRC_AT, crc.to_be_bytes());
}

/// The marker that ends a transaction (`EndTransactionMarker`), not placed yet.
pub(crate) fn end_of_transaction(
    producer_id: i64,
    producer_epoch: i16,
    coordinator_epoch: i32,
    commit: bool,
    now: Timestamp,
) -> Result<BytesMut> {
    let mut key = [0; 4];
    key[3] = u8::from(commit);
    let mut value = [0; 6];
    value[2..].copy_from_slice(&coordinator_epoch.to_be_bytes());
    let mut builder = BatchBuilder::new(Compression::None);
    builder.append(now, Some(&key), Some(&value), &Headers::new());
    let mut batch = BytesMut::from(&builder.close()?.bytes()[..]);
    put(&mut batch, ATTRIBUTES_AT, (TRANSACTIONAL | CONTROL).to_be_bytes());
    put(&mut batch, PRODUCER_ID_AT, producer_id.to_be_bytes());
    put(&mut batch, PRODUCER_EPOCH_AT, producer_epoch.to_be_bytes());
    put(&mut batch, BASE_SEQUENCE_AT, (-1i32).to_be_bytes());
    sum(&mut batch);
    Ok(batch)
}

/// The batch with only these of its records, at their offsets; its own range of offsets, producer and sequence stay.
pub(crate) fn retain(batch: &Batch, records: &[RawRecord]) -> Result<Bytes> {
    let header = batch.header();
    let mut plain = BytesMut::new();
    for record in records {
        let mut body = BytesMut::with_capacity(64);
        body.put_u8(0);
        let timestamp = if header.has(LOG_APPEND_TIME) { header.base_timestamp } else { record.timestamp };
        put_varint(&mut body, timestamp.wrapping_sub(header.base_timestamp));
        put_varint(&mut body, record.offset - header.base_offset);
        put_field(&mut body, record.key.as_deref());
        put_field(&mut body, record.value.as_deref());
        put_varint(&mut body, record.headers.len() as i64);
        body.put_slice(record.headers.wire());
        put_varint(&mut plain, body.len() as i64);
        plain.put_slice(&body);
    }
    let mut out = BytesMut::with_capacity(RECORDS_AT + plain.len());
    out.put_slice(&batch.bytes()[..RECORDS_AT]);
    match header.compression()? {
        Compression::None => out.put_slice(&plain),
        codec => codec.compress(None, &plain, &mut out)?,
    }
    debug_assert_eq!(out[MAGIC_AT], 2, "it was parsed");
    let length = i32::try_from(out.len() - BEFORE_LENGTH).unwrap_or(i32::MAX);
    put(&mut out, LENGTH_AT, length.to_be_bytes());
    put(&mut out, LAST_OFFSET_DELTA_AT, header.last_offset_delta.to_be_bytes());
    put(&mut out, BASE_TIMESTAMP_AT, header.base_timestamp.to_be_bytes());
    put(&mut out, COUNT_AT, i32::try_from(records.len()).unwrap_or(i32::MAX).to_be_bytes());
    if !header.has(LOG_APPEND_TIME) {
        let max = records.iter().map(|record| record.timestamp).max().unwrap_or(-1);
        put(&mut out, MAX_TIMESTAMP_AT, max.to_be_bytes());
    }
    sum(&mut out);
    Ok(out.freeze())
}
