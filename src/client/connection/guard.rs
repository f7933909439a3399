//! Decoding of messages that may be hostile.
//!
//! The generated codec reserves room for an array by the length that the frame claims, so a broken frame of ten bytes
//! could ask for hundreds of gigabytes, which ends the process. [`Guarded`] stands between the two: no length is more
//! than the frame has bytes left. Bytes are still sliced, never copied.

use bytes::{Buf, Bytes, TryGetError};
use kafka_protocol::messages::ResponseHeader;
use kafka_protocol::protocol::buf::ByteBuf;
use kafka_protocol::protocol::{Decodable, HeaderVersion};

use crate::{BoxError, Error, ErrorClass, ErrorKind, Result};

/// Decodes an answer, header and all; bytes that are left over are an error.
pub(super) fn decode<R: Decodable + HeaderVersion>(name: &str, version: i16, mut frame: Bytes) -> Result<R> {
    let wrong = |cause: BoxError| {
        Error::new(ErrorKind::Corrupt, format!("cannot read the answer to {name} version {version}"))
            .with_class(ErrorClass::Retriable)
            .because(cause)
    };
    let header = R::header_version(version);
    // No length of a header has four bytes.
    read::<ResponseHeader>(&mut frame, header, true).map_err(wrong)?;
    let response = read(&mut frame, version, header >= 1).map_err(wrong)?;
    match frame.len() {
        0 => Ok(response),
        left => Err(wrong(format!("{left} bytes are left over").into())),
    }
}

/// Takes a message from the front of a frame. `flexible` says whether the version counts in varints; a four-byte number
/// is then never a length.
///
/// In other versions a number does not say whether it is a length. So the message is read twice if any number is larger
/// than what is left of the frame. At first each of them counts as one more than that: were it a length, the frame would
/// end too soon. If it does not, they are no lengths, and are what they say.
pub(crate) fn read<R: Decodable>(
    frame: &mut Bytes,
    version: i16,
    flexible: bool,
) -> std::result::Result<R, BoxError> {
    let mut guarded = Guarded { bytes: frame.clone(), flexible, large: false, varint: 0, shift: 0 };
    let message = R::decode(&mut guarded, version)?;
    if guarded.large {
        return Ok(R::decode(frame, version)?);
    }
    *frame = guarded.bytes;
    Ok(message)
}

/// Bytes whose lengths are checked as they are read.
#[derive(Debug)]
struct Guarded {
    bytes: Bytes,
    flexible: bool,
    /// Whether a number was taken for less than it is.
    large: bool,
    varint: u64,
    shift: u32,
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
                let requested = usize::try_from(value).unwrap_or(usize::MAX);
                return Err(TryGetError { requested, available: self.bytes.len() });
            }
        }
        Ok(byte)
    }

    fn try_get_i32(&mut self) -> std::result::Result<i32, TryGetError> {
        let value = self.bytes.try_get_i32()?;
        // More than that is no length either, even if it fits into four bytes.
        let most = i32::try_from(self.bytes.len() + 1).unwrap_or(i32::MAX);
        if self.flexible || value <= most {
            return Ok(value);
        }
        self.large = true;
        Ok(most)
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
