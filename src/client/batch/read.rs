//! Batches and their records, as slices of what came from the network.

use std::borrow::Cow;

use bytes::Bytes;

use super::corrupt;
use super::header::{
    ATTRIBUTES_AT, CONTROL, Header, LOG_APPEND_TIME, RECORDS_AT, TRANSACTIONAL, TimestampType,
};
use crate::client::compression::Compression;
use crate::error::{Error, Result};
use crate::record::{Headers, RawRecord, Timestamp, get_varint};

/// The most bytes that the records of one batch may take once they are decompressed. Brokers limit the compressed size
/// only (`message.max.bytes`, 1 MiB by default).
pub(crate) const MAX_DECOMPRESSED: usize = 256 << 20;

/// Walks the `records` of one partition in a fetch response.
///
/// A batch that is cut off at the end finishes the walk; anything else that is malformed is an error once, and then the
/// end.
#[derive(Debug)]
pub(crate) struct Batches {
    rest: Bytes,
}

impl Batches {
    /// Begins at the first batch.
    pub(crate) fn new(records: Bytes) -> Self {
        Self { rest: records }
    }
}

impl Iterator for Batches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        let parsed = Header::parse(&self.rest);
        match parsed {
            Ok(Some(header)) => Some(Ok(Batch { header, frame: self.rest.split_to(header.size) })),
            Ok(None) => {
                self.rest = Bytes::new();
                None
            }
            Err(error) => {
                self.rest = Bytes::new();
                Some(Err(error))
            }
        }
    }
}

/// What a control batch says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ControlType {
    /// The producer's transaction is aborted.
    Abort,
    /// The producer's transaction is committed.
    Commit,
    /// Something for brokers.
    Other(i16),
}

/// One batch; its records are not looked at before [`records`](Self::records).
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    header: Header,
    frame: Bytes,
}

impl Batch {
    /// Its header.
    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// The whole of it, header included.
    pub(crate) fn bytes(&self) -> &Bytes {
        &self.frame
    }

    /// The offset of the first record when the batch was written.
    pub(crate) fn base_offset(&self) -> i64 {
        self.header.base_offset
    }

    /// The offset that follows the batch, whatever it holds.
    pub(crate) fn next_offset(&self) -> i64 {
        self.header.next_offset()
    }

    /// The leader epoch it was appended in.
    pub(crate) fn partition_leader_epoch(&self) -> i32 {
        self.header.partition_leader_epoch
    }

    /// Whether it holds a transaction's end or the like instead of records.
    pub(crate) fn is_control(&self) -> bool {
        self.header.has(CONTROL)
    }

    /// Whether it is part of a transaction.
    pub(crate) fn is_transactional(&self) -> bool {
        self.header.has(TRANSACTIONAL)
    }

    /// The producer, or -1.
    pub(crate) fn producer_id(&self) -> i64 {
        self.header.producer_id
    }

    /// The producer's epoch, or -1.
    pub(crate) fn producer_epoch(&self) -> i16 {
        self.header.producer_epoch
    }

    /// The sequence number of the first record, or -1.
    pub(crate) fn base_sequence(&self) -> i32 {
        self.header.base_sequence
    }

    /// How many records it says it holds.
    pub(crate) fn record_count(&self) -> usize {
        self.header.record_count as usize
    }

    /// The largest timestamp, or the append time.
    pub(crate) fn max_timestamp(&self) -> Timestamp {
        self.header.max_timestamp
    }

    /// Who chose the timestamps.
    pub(crate) fn timestamp_type(&self) -> TimestampType {
        if self.header.has(LOG_APPEND_TIME) {
            TimestampType::LogAppendTime
        } else {
            TimestampType::CreateTime
        }
    }

    /// How its records are compressed.
    pub(crate) fn compression(&self) -> Result<Compression> {
        self.header.compression()
    }

    /// How many bytes of the frame it takes.
    pub(crate) fn size(&self) -> usize {
        self.frame.len()
    }

    /// Checks that the batch is what was written. The base offset, the length, the leader epoch and the format are not
    /// covered: brokers write them.
    pub(crate) fn verify_crc(&self) -> Result<()> {
        let crc = crc32c::crc32c(&self.frame[ATTRIBUTES_AT..]);
        if crc == self.header.crc {
            return Ok(());
        }
        Err(corrupt(format!("a batch has the CRC {crc:08x} but says {:08x}", self.header.crc))
            .at_offset(self.base_offset()))
    }

    /// Its records, decompressed. A control batch has records too; they are not for applications.
    pub(crate) fn records(&self) -> Result<Records> {
        self.records_within(MAX_DECOMPRESSED)
    }

    /// Its records, if they take at most `limit` bytes once decompressed.
    pub(crate) fn records_within(&self, limit: usize) -> Result<Records> {
        let packed = self.frame.slice(RECORDS_AT..);
        let data = self
            .header
            .compression()?
            .decompress(&packed, limit)
            .map_err(|error| error.at_offset(self.base_offset()))?;
        Ok(Records {
            data,
            at: 0,
            left: self.header.record_count,
            base_offset: self.header.base_offset,
            last_offset_delta: self.header.last_offset_delta,
            base_timestamp: self.header.base_timestamp,
            append_time: self.header.has(LOG_APPEND_TIME).then_some(self.header.max_timestamp),
        })
    }

    /// What a control batch says; `None` for other batches and for a control batch that compaction has emptied.
    pub(crate) fn control_type(&self) -> Result<Option<ControlType>> {
        if !self.is_control() {
            return Ok(None);
        }
        let Some(record) = self.records()?.next().transpose()? else { return Ok(None) };
        // The key is a version and a type, two bytes each; later versions may add fields.
        let Some(&[v0, v1, t0, t1]) = record.key.as_deref().and_then(<[u8]>::first_chunk) else {
            return Err(corrupt("a control record's key is shorter than 4 bytes").at_offset(record.offset));
        };
        let version = i16::from_be_bytes([v0, v1]);
        if version < 0 {
            return Err(corrupt(format!("a control record has version {version}")).at_offset(record.offset));
        }
        Ok(Some(match i16::from_be_bytes([t0, t1]) {
            0 => ControlType::Abort,
            1 => ControlType::Commit,
            other => ControlType::Other(other),
        }))
    }
}

/// A record as a row of a table: no headers, and bytes that belong to the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row<'a> {
    /// Where it is.
    pub(crate) offset: i64,
    /// Its time, as the batch has it.
    pub(crate) timestamp: Timestamp,
    /// The key, or `None` for Kafka's null.
    pub(crate) key: Option<&'a [u8]>,
    /// The value, or `None` for Kafka's null: a deletion.
    pub(crate) value: Option<&'a [u8]>,
}

/// Where the parts of a record are in its batch.
struct Parts {
    offset: i64,
    timestamp: Timestamp,
    key: Option<(usize, usize)>,
    value: Option<(usize, usize)>,
    /// Count and headers.
    headers: (usize, usize),
}

/// The records of one batch. After an error it ends.
#[derive(Debug)]
pub(crate) struct Records {
    data: Bytes,
    at: usize,
    left: i32,
    base_offset: i64,
    last_offset_delta: i32,
    base_timestamp: Timestamp,
    append_time: Option<Timestamp>,
}

impl Iterator for Records {
    type Item = Result<RawRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            let rest = self.data.len() - self.at;
            if rest == 0 {
                return None;
            }
            self.at = self.data.len();
            return Some(Err(
                self.malformed(format!("{rest} bytes follow the last record of a batch").into())
            ));
        }
        let record = self.parse().and_then(|parts| {
            let of = |part: Option<(usize, usize)>| part.map(|(from, to)| self.data.slice(from..to));
            Ok(RawRecord {
                offset: parts.offset,
                timestamp: parts.timestamp,
                key: of(parts.key),
                value: of(parts.value),
                headers: self.headers(parts.headers)?,
            })
        });
        match record {
            Ok(record) => {
                self.left -= 1;
                Some(Ok(record))
            }
            Err(what) => Some(Err(self.end_malformed(what))),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // The count is the sender's word: only an upper bound, so that nobody reserves by it.
        (0, Some(self.left as usize + 1))
    }
}

type Parsed<T> = Result<T, Cow<'static, str>>;

impl Records {
    fn malformed(&self, what: Cow<'static, str>) -> Error {
        corrupt(what.into_owned()).at_offset(self.base_offset)
    }

    /// The next record as a row: what a table is made of. It costs less than the record itself, which shares the batch.
    /// After an error it ends.
    pub(crate) fn next_row(&mut self) -> Option<Result<Row<'_>>> {
        if self.left == 0 {
            // Ends, or fails.
            return self
                .next()
                .map(|ended| Err(ended.err().unwrap_or_else(|| corrupt("a batch has no end"))));
        }
        match self.parse() {
            Ok(parts) => {
                self.left -= 1;
                let of = |part: Option<(usize, usize)>| part.map(|(from, to)| &self.data[from..to]);
                let (key, value) = (of(parts.key), of(parts.value));
                Some(Ok(Row { offset: parts.offset, timestamp: parts.timestamp, key, value }))
            }
            Err(what) => Some(Err(self.end_malformed(what))),
        }
    }

    fn end_malformed(&mut self, what: Cow<'static, str>) -> Error {
        self.left = 0;
        self.at = self.data.len();
        self.malformed(what)
    }

    /// Finds the parts of the next record and moves past it.
    fn parse(&mut self) -> Parsed<Parts> {
        let data = &self.data[..];
        let mut rest = &data[self.at..];
        let length = varint(&mut rest)?;
        let body = data.len() - rest.len();
        let length = usize::try_from(length).map_err(|_| format!("a record is {length} bytes long"))?;
        if length > rest.len() {
            return Err(
                format!("a record of {length} bytes has only {} left in its batch", rest.len()).into()
            );
        }
        let end = body + length;
        // The first byte is the record's attributes, none of which is in use.
        let mut rest = rest[..length].get(1..).ok_or("a record is empty")?;
        let timestamp_delta = varint(&mut rest)?;
        let offset_delta = varint(&mut rest)?;
        if offset_delta < 0 || offset_delta > i64::from(self.last_offset_delta) {
            return Err(format!("a record is {offset_delta} offsets away from the base of its batch").into());
        }
        let key = nullable(&mut rest, end)?;
        let value = nullable(&mut rest, end)?;
        let parts = Parts {
            offset: self.base_offset + offset_delta,
            timestamp: self.append_time.unwrap_or(self.base_timestamp.wrapping_add(timestamp_delta)),
            key,
            value,
            headers: (end - rest.len(), end),
        };
        self.at = end;
        Ok(parts)
    }

    fn headers(&self, (from, to): (usize, usize)) -> Parsed<Headers> {
        let mut rest = &self.data[from..to];
        let count = varint(&mut rest)?;
        if count == 0 && rest.is_empty() {
            return Ok(Headers::new());
        }
        let raw = self.data.slice(to - rest.len()..to);
        let count = u32::try_from(count).map_err(|_| format!("a record has {count} headers"))?;
        Headers::from_wire(count, raw).ok_or(Cow::Borrowed("the headers of a record are malformed"))
    }
}

fn varint(rest: &mut &[u8]) -> Parsed<i64> {
    // Most numbers of a record take one byte.
    if let Some((&byte, tail)) = rest.split_first()
        && byte < 0x80
    {
        *rest = tail;
        return Ok(i64::from(byte >> 1) ^ -i64::from(byte & 1));
    }
    get_varint(rest).ok_or(Cow::Borrowed("a number of a record is malformed"))
}

/// The range in the batch of the bytes that come next, given where the record ends.
fn nullable(rest: &mut &[u8], end: usize) -> Parsed<Option<(usize, usize)>> {
    let length = varint(rest)?;
    if length == -1 {
        return Ok(None);
    }
    let from = end - rest.len();
    let length = usize::try_from(length).map_err(|_| format!("a key or value is {length} bytes long"))?;
    *rest =
        rest.get(length..).ok_or_else(|| format!("a key or value of {length} bytes leaves its record"))?;
    Ok(Some((from, from + length)))
}
