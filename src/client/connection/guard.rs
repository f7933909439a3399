//! Decoding of answers that may be hostile.
//!
//! The generated codec reserves room for an array by the length that the frame claims, so a broken frame of ten bytes
//! could ask for hundreds of gigabytes, which ends the process. [`Guarded`] stands between the two: a length of more
//! elements than the frame has bytes left is the end of the frame. Bytes are still sliced, never copied.

use bytes::{Buf, Bytes, TryGetError};
use kafka_protocol::protocol::buf::ByteBuf;
use kafka_protocol::protocol::{Decodable, HeaderVersion};

use crate::{BoxError, Error, ErrorClass, ErrorKind, Result};

/// Numbers up to this are let through unseen: most four-byte numbers are no lengths (a throttle time, an epoch).
const HARMLESS: i32 = 1 << 20;

/// Decodes an answer, header and all; bytes that are left over are an error.
pub(super) fn decode<R: Decodable + HeaderVersion>(name: &str, version: i16, frame: Bytes) -> Result<R> {
    let wrong = |cause: BoxError| {
        Error::new(ErrorKind::Corrupt, format!("cannot read the answer to {name} version {version}"))
            .with_class(ErrorClass::Retriable)
            .because(cause)
    };
    let mut frame = Guarded::new(frame, R::header_version(version) >= 1);
    kafka_protocol::messages::ResponseHeader::decode(&mut frame, R::header_version(version))
        .map_err(|e| wrong(e.into()))?;
    let response = R::decode(&mut frame, version).map_err(|e| wrong(e.into()))?;
    match frame.remaining() {
        0 => Ok(response),
        left => Err(wrong(format!("{left} bytes are left over").into())),
    }
}

/// Bytes whose lengths are checked as they are read.
#[derive(Debug)]
pub(crate) struct Guarded {
    bytes: Bytes,
    /// In flexible versions lengths are varints, and a plain four-byte number is never one.
    flexible: bool,
    varint: u64,
    shift: u32,
}

impl Guarded {
    /// `flexible` says whether the version counts in varints.
    pub(crate) fn new(bytes: Bytes, flexible: bool) -> Self {
        Self { bytes, flexible, varint: 0, shift: 0 }
    }

    fn too_long(&self, claimed: u64) -> TryGetError {
        TryGetError { requested: usize::try_from(claimed).unwrap_or(usize::MAX), available: self.bytes.len() }
    }
}

impl Buf for Guarded {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }

    fn try_get_u8(&mut self) -> std::result::Result<u8, TryGetError> {
        let byte = self.bytes.try_get_u8()?;
        self.varint |= u64::from(byte & 0x7f) << self.shift;
        self.shift += 7;
        // A varint of 32 bits ends after five bytes at the latest.
        if byte & 0x80 == 0 || self.shift == 35 {
            let value = std::mem::take(&mut self.varint);
            self.shift = 0;
            // One byte alone may be a tag number or a flag; lengths are stored plus one.
            if value > 0x7f && value > self.bytes.len() as u64 + 1 {
                return Err(self.too_long(value));
            }
        }
        Ok(byte)
    }

    fn try_get_i32(&mut self) -> std::result::Result<i32, TryGetError> {
        let value = self.bytes.try_get_i32()?;
        if !self.flexible && value > HARMLESS && value as usize > self.bytes.len() {
            return Err(self.too_long(value as u64));
        }
        Ok(value)
    }
}

impl ByteBuf for Guarded {
    fn peek_bytes(&mut self, range: std::ops::Range<usize>) -> Bytes {
        self.bytes.slice(range)
    }

    fn get_bytes(&mut self, size: usize) -> Bytes {
        self.bytes.split_to(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::{BufMut, BytesMut};
    use kafka_protocol::messages::{FetchResponse, MetadataResponse};
    use kafka_protocol::protocol::Encodable;

    fn header(version: i16, flexible_from: i16) -> BytesMut {
        let mut frame = BytesMut::new();
        frame.put_i32(7);
        if version >= flexible_from {
            frame.put_u8(0);
        }
        frame
    }

    #[test]
    fn lengths_beyond_the_frame_are_refused_before_memory_is_reserved() {
        let mut old = header(4, 12);
        old.put_i32(0); // throttle time
        old.put_i32(i32::MAX); // topics
        let error = decode::<FetchResponse>("Fetch", 4, old.freeze()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);

        let mut new = header(9, 9);
        new.put_i32(0);
        new.put_slice(&[0xff, 0xff, 0xff, 0xff, 0x0f]); // brokers: 4 294 967 294 of them
        let error = decode::<MetadataResponse>("Metadata", 9, new.freeze()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn every_cut_and_every_leftover_is_an_error() {
        for version in [4, 9, 12] {
            let response = MetadataResponse::default().with_brokers(vec![
                kafka_protocol::messages::metadata_response::MetadataResponseBroker::default()
                    .with_port(9092),
            ]);
            let mut frame = header(version, 9);
            response.encode(&mut frame, version).unwrap();
            let frame = frame.freeze();
            assert_eq!(decode::<MetadataResponse>("Metadata", version, frame.clone()).unwrap(), response);
            for cut in 0..frame.len() {
                assert!(
                    decode::<MetadataResponse>("Metadata", version, frame.slice(..cut)).is_err(),
                    "cut at {cut}"
                );
            }
            let mut longer = BytesMut::from(&frame[..]);
            longer.put_u8(0);
            let error = decode::<MetadataResponse>("Metadata", version, longer.freeze()).unwrap_err();
            assert!(format!("{error:?}").contains("1 bytes are left over"), "{error:?}");
        }
    }
}
