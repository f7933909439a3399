//! Records, their headers, and the places they live at. No I/O.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

/// Milliseconds since 1970-01-01T00:00:00Z; negative means "none", as in Kafka.
pub type Timestamp = i64;

/// A record on its way through a topology.
///
/// Nulls belong to the record, not to the types: a key or a value may be absent, and an absent value of a table is a
/// deletion. As Kafka Streams' `org.apache.kafka.streams.processor.api.Record`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<K, V> {
    /// The key, or `None` for Kafka's null.
    pub key: Option<K>,
    /// The value, or `None` for Kafka's null.
    pub value: Option<V>,
    /// Event time, in milliseconds since the Unix epoch.
    pub timestamp: Timestamp,
    /// The headers, in order, names may repeat.
    pub headers: Headers,
}

impl<K, V> Record<K, V> {
    /// A record without headers.
    pub fn new(key: impl Into<Option<K>>, value: impl Into<Option<V>>, timestamp: Timestamp) -> Self {
        Self { key: key.into(), value: value.into(), timestamp, headers: Headers::new() }
    }

    /// The same record with another key.
    pub fn with_key<K2>(self, key: impl Into<Option<K2>>) -> Record<K2, V> {
        Record { key: key.into(), value: self.value, timestamp: self.timestamp, headers: self.headers }
    }

    /// The same record with another value.
    pub fn with_value<V2>(self, value: impl Into<Option<V2>>) -> Record<K, V2> {
        Record { key: self.key, value: value.into(), timestamp: self.timestamp, headers: self.headers }
    }

    /// The same record with another timestamp.
    #[must_use]
    pub fn with_timestamp(self, timestamp: Timestamp) -> Self {
        Self { timestamp, ..self }
    }

    /// The same record with other headers.
    #[must_use]
    pub fn with_headers(self, headers: Headers) -> Self {
        Self { headers, ..self }
    }
}

/// The headers of a record: an ordered list, names may repeat, values may be null.
///
/// They are kept in Kafka's own encoding (record format v2) and only looked into when asked, so that passing them on is
/// one reference count and writing them is one copy.
///
/// ```
/// use mainstem::Headers;
///
/// let mut headers = Headers::new();
/// headers.add("trace", Some(b"a1"));
/// headers.add("trace", None);
/// assert_eq!(headers.len(), 2);
/// assert_eq!(headers.last("trace").unwrap().value(), None);
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers {
    count: u32,
    /// `(varint key length, key, varint value length or -1, value)*`, checked when it was made.
    raw: Bytes,
}

/// One header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    key: &'a [u8],
    value: Option<&'a [u8]>,
}

impl<'a> Header<'a> {
    /// The name; bytes that are not UTF-8 show as the replacement character.
    pub fn key(&self) -> Cow<'a, str> {
        String::from_utf8_lossy(self.key)
    }

    /// The name as it was sent.
    pub fn key_bytes(&self) -> &'a [u8] {
        self.key
    }

    /// The value, or `None` for null.
    pub fn value(&self) -> Option<&'a [u8]> {
        self.value
    }
}

impl Headers {
    /// No headers.
    pub const fn new() -> Self {
        Self { count: 0, raw: Bytes::new() }
    }

    /// Headers in the encoding of record format v2, without the leading count. `None` if the bytes are not exactly
    /// `count` headers.
    pub(crate) fn from_wire(count: u32, raw: Bytes) -> Option<Self> {
        if count == 0 {
            return raw.is_empty().then(Self::new);
        }
        let mut rest = &raw[..];
        for _ in 0..count {
            next_header(&mut rest)?;
        }
        rest.is_empty().then_some(Self { count, raw })
    }

    /// The encoding of record format v2, without the leading count.
    pub(crate) fn wire(&self) -> &Bytes {
        &self.raw
    }

    /// Lets go of the network buffer that these headers may be a slice of.
    pub(crate) fn detach(&mut self) {
        if !self.raw.is_empty() {
            self.raw = Bytes::copy_from_slice(&self.raw);
        }
    }

    /// How many headers there are.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a header at the end.
    pub fn add(&mut self, key: &str, value: Option<&[u8]>) {
        self.push(key.as_bytes(), value);
    }

    fn push(&mut self, key: &[u8], value: Option<&[u8]>) {
        let mut raw = BytesMut::with_capacity(self.raw.len() + key.len() + value.map_or(0, <[u8]>::len) + 10);
        raw.put_slice(&self.raw);
        put_varint(&mut raw, key.len() as i64);
        raw.put_slice(key);
        match value {
            Some(value) => {
                put_varint(&mut raw, value.len() as i64);
                raw.put_slice(value);
            }
            None => put_varint(&mut raw, -1),
        }
        self.raw = raw.freeze();
        self.count += 1;
    }

    /// Removes every header of that name.
    pub fn remove(&mut self, key: &str) {
        if self.iter().any(|h| h.key == key.as_bytes()) {
            let mut kept = Self::new();
            for header in self.iter().filter(|h| h.key != key.as_bytes()) {
                kept.push(header.key, header.value);
            }
            *self = kept;
        }
    }

    /// The last header of that name.
    pub fn last(&self, key: &str) -> Option<Header<'_>> {
        self.iter().filter(|h| h.key == key.as_bytes()).last()
    }

    /// The headers in order.
    pub fn iter(&self) -> impl Iterator<Item = Header<'_>> {
        let mut rest = &self.raw[..];
        std::iter::from_fn(move || next_header(&mut rest))
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.iter().map(|h| (h.key(), h.value.map(|v| v.escape_ascii().to_string()))))
            .finish()
    }
}

impl<'a> FromIterator<(&'a str, Option<&'a [u8]>)> for Headers {
    fn from_iter<I: IntoIterator<Item = (&'a str, Option<&'a [u8]>)>>(iter: I) -> Self {
        let mut headers = Self::new();
        for (key, value) in iter {
            headers.add(key, value);
        }
        headers
    }
}

fn next_header<'a>(rest: &mut &'a [u8]) -> Option<Header<'a>> {
    let length = usize::try_from(get_varint(rest)?).ok()?;
    let key = take(rest, length)?;
    let value = match get_varint(rest)? {
        -1 => None,
        length => Some(take(rest, usize::try_from(length).ok()?)?),
    };
    Some(Header { key, value })
}

fn take<'a>(rest: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(n)?;
    *rest = tail;
    Some(head)
}

/// Reads a zig-zag varint of up to 64 bits and moves past it; `None` at the end of the bytes or past ten of them.
pub(crate) fn get_varint(rest: &mut &[u8]) -> Option<i64> {
    let mut value = 0u64;
    for shift in (0..70).step_by(7) {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    None
}

/// Writes a zig-zag varint, as record format v2 uses.
pub(crate) fn put_varint(out: &mut impl BufMut, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

/// The length of [`put_varint`]'s output, in bytes.
pub(crate) fn varint_len(value: i64) -> usize {
    let bits = 64 - (((value << 1) ^ (value >> 63)) as u64 | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

/// A record as it stands in a log: bytes that share the memory of the frame they came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawRecord {
    pub(crate) offset: i64,
    pub(crate) timestamp: Timestamp,
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Option<Bytes>,
    pub(crate) headers: Headers,
}

/// A partition of a topic. Cloning counts a reference.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition, from 0.
    pub partition: i32,
}

impl TopicPartition {
    /// Names a partition.
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// Kafka's hash of key bytes (`org.apache.kafka.common.utils.Utils.murmur2`), signed as in Java.
pub fn murmur2(data: &[u8]) -> i32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c_u32 ^ data.len() as u32;
    let mut chunks = data.chunks_exact(4);
    for chunk in &mut chunks {
        let mut k = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
        k = k.wrapping_mul(M);
        k ^= k >> 24;
        k = k.wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        for (i, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * i);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    (hash ^ (hash >> 15)) as i32
}

/// The partition that Kafka's default partitioner gives a key (`BuiltInPartitioner.partitionForKey`).
///
/// ```
/// assert_eq!(mainstem::partition_for_key(b"foobar", 8), 6);
/// ```
///
/// # Panics
/// If `partitions` is not positive.
pub fn partition_for_key(key: &[u8], partitions: i32) -> i32 {
    assert!(partitions > 0, "a topic has at least one partition");
    (murmur2(key) & 0x7fff_ffff) % partitions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur2_is_kafkas() {
        for (text, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a", -1_563_381_124),
            ("", 275_646_681),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(text.as_bytes()), hash, "{text}");
        }
        assert_eq!(partition_for_key(&42i64.to_be_bytes(), 10), 2);
        assert_eq!(partition_for_key(b"a-little-bit-long-string", 8), 0);
    }

    #[test]
    fn headers_keep_order_repeats_and_nulls() {
        let mut headers: Headers =
            [("h1", Some(&b"x"[..])), ("h2", None), ("h1", Some(b""))].into_iter().collect();
        let seen: Vec<_> =
            headers.iter().map(|h| (h.key().into_owned(), h.value().map(<[u8]>::to_vec))).collect();
        assert_eq!(
            seen,
            [("h1".into(), Some(b"x".to_vec())), ("h2".into(), None), ("h1".into(), Some(vec![]))]
        );
        headers.remove("h1");
        assert_eq!(headers.iter().map(|h| h.key()).collect::<Vec<_>>(), ["h2"]);
    }

    #[test]
    fn broken_headers_are_refused() {
        let good: Headers = [("key", Some(&b"value"[..]))].into_iter().collect();
        for cut in 0..good.wire().len() {
            assert!(Headers::from_wire(1, good.wire().slice(..cut)).is_none(), "cut at {cut}");
        }
        assert!(Headers::from_wire(0, good.wire().clone()).is_none());
        assert!(Headers::from_wire(2, good.wire().clone()).is_none());
        assert!(Headers::from_wire(1, Bytes::from_static(&[0xff; 12])).is_none());
        assert_eq!(Headers::from_wire(1, good.wire().clone()), Some(good));
    }

    #[test]
    fn varints_round_trip() {
        for value in [0, 1, -1, 63, 64, -64, -65, 300, i64::from(i32::MAX), i64::MAX, i64::MIN] {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            assert_eq!(bytes.len(), varint_len(value), "{value}");
            let mut rest = &bytes[..];
            assert_eq!(get_varint(&mut rest), Some(value));
            assert!(rest.is_empty());
        }
    }
}
