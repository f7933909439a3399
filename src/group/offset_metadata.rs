//! The metadata string of a committed offset, in Java's form (`TopicPartitionMetadata`), so that an application can be
//! taken over from Kafka Streams and back.
//!
//! Base64 of `02 | partition time, 8 bytes | [n, 4 bytes | (length, name, value, 8 bytes)*]`; version 1 was
//! `01 | partition time`. The map at the end (`ProcessorMetadata`) carries the emit-final progress of windowed
//! aggregations and is left out when it is empty.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::BufMut;

use super::reader::Reader;
use crate::Timestamp;

const VERSION: u8 = 2;

/// What a commit remembers about a partition beside its offset.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct OffsetMetadata {
    /// The partition's time, in milliseconds since the Unix epoch; -1 when no record has been seen.
    pub(crate) partition_time: Timestamp,
    /// Numbers that processors keep with the commit, by name.
    pub(crate) processors: BTreeMap<String, i64>,
}

impl OffsetMetadata {
    /// The text to commit. Brokers refuse more than `offset.metadata.max.bytes` of it, 4096 unless configured.
    pub(crate) fn encode(&self) -> String {
        let mut bytes = Vec::with_capacity(9 + self.processors.len() * 32);
        bytes.put_u8(VERSION);
        bytes.put_i64(self.partition_time);
        if !self.processors.is_empty() {
            bytes.put_i32(self.processors.len() as i32);
            for (name, value) in &self.processors {
                bytes.put_i32(name.len() as i32);
                bytes.put_slice(name.as_bytes());
                bytes.put_i64(*value);
            }
        }
        STANDARD.encode(bytes)
    }

    /// Reads what was committed; `None` for empty, foreign or broken text, which any client may have written and which
    /// therefore is no error: the partition time then starts as unknown, as in Java.
    pub(crate) fn decode(text: &str) -> Option<Self> {
        let bytes = STANDARD.decode(text).ok()?;
        let mut reader = Reader::new("offset metadata", &bytes);
        let version = reader.u8("version").ok()?;
        let partition_time = reader.i64("partition time").ok()?;
        let mut processors = BTreeMap::new();
        match version {
            1 => {}
            VERSION if reader.is_empty() => {}
            VERSION => {
                for _ in 0..reader.count("processors", 12).ok()? {
                    let length = reader.count("name length", 1).ok()?;
                    let name = std::str::from_utf8(reader.take("name", length).ok()?).ok()?;
                    processors.insert(name.to_owned(), reader.i64("value").ok()?);
                }
            }
            _ => return None,
        }
        Some(Self { partition_time, processors })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(partition_time: Timestamp, processors: &[(&str, i64)]) -> OffsetMetadata {
        let processors = processors.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        OffsetMetadata { partition_time, processors }
    }

    #[test]
    fn bytes_are_javas() {
        // Written by org.apache.kafka.streams.processor.internals.TopicPartitionMetadata 4.3.1.
        for (text, value) in [
            ("AgAAAAAAAAPo", metadata(1000, &[])),
            ("AgAAAAAAAAPoAAAAAQAAAAVzdG9yZQAAAAAAAAB7", metadata(1000, &[("store", 123)])),
        ] {
            assert_eq!(value.encode(), text);
            assert_eq!(OffsetMetadata::decode(text), Some(value));
        }
        let several = metadata(-1, &[("a", i64::MIN), ("", 0), ("größe", i64::MAX)]);
        assert_eq!(OffsetMetadata::decode(&several.encode()), Some(several));
    }

    #[test]
    fn version_1_is_still_read() {
        assert_eq!(OffsetMetadata::decode("AQAAAAAAAAPo"), Some(metadata(1000, &[])));
    }

    #[test]
    fn foreign_text_is_nothing() {
        let good = metadata(1000, &[("store", 123)]).encode();
        for cut in (0..good.len()).filter(|cut| *cut != 12) {
            assert_eq!(OffsetMetadata::decode(&good[..cut]), None, "cut at {cut}");
        }
        for text in ["", " ", "hello world", "AwAAAAAAAAPo", "AgAAAAAAAAPof////w==", "AgAAAAAAAAPo/////w=="] {
            assert_eq!(OffsetMetadata::decode(text), None, "{text:?}");
        }
    }
}
