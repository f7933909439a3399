//! The row of a timestamped store: the timestamp (8 bytes, big-endian), then the value
//! (`org.apache.kafka.streams.state.internals.ValueAndTimestampSerializer`).

use bytes::{BufMut, Bytes, BytesMut};

use super::SerdeError;
use crate::Timestamp;

/// How many bytes precede the value.
pub(crate) const PREFIX: usize = size_of::<Timestamp>();

/// Appends the timestamp; the caller appends the value.
pub(crate) fn put_timestamp(out: &mut BytesMut, timestamp: Timestamp) {
    out.put_i64(timestamp);
}

/// The timestamp and the bytes of the value, which share the row's buffer.
pub(crate) fn split(row: &Bytes) -> Result<(Timestamp, Bytes), SerdeError> {
    Ok((timestamp(row)?, row.slice(PREFIX..)))
}

/// The timestamp alone.
pub(crate) fn timestamp(row: &[u8]) -> Result<Timestamp, SerdeError> {
    match row.first_chunk() {
        Some(first) => Ok(Timestamp::from_be_bytes(*first)),
        None => Err(SerdeError::new(format!("{} bytes, too short for a timestamp of 8", row.len()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_is_javas() {
        let mut out = BytesMut::new();
        put_timestamp(&mut out, 1_000);
        out.put_slice(b"v");
        let row = out.freeze();
        assert_eq!(row[..], [0, 0, 0, 0, 0, 0, 3, 0xe8, 0x76]);
        assert_eq!(split(&row).unwrap(), (1_000, Bytes::from_static(b"v")));
        assert_eq!(split(&row.slice(..8)).unwrap(), (1_000, Bytes::new()), "an empty value is a value");
        assert_eq!(timestamp(&row[..7]).unwrap_err().to_string(), "7 bytes, too short for a timestamp of 8");
    }
}
