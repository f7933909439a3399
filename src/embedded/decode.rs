//! Decoding of requests that may be hostile.
//!
//! As with answers (`client/connection/guard.rs`), a length must not reserve more than the frame could hold. In flexible
//! versions lengths are told apart from numbers by their form. In older ones they are not; there, no number of a request
//! is as large as a length that hurts, but for the byte limits of a Fetch, whose lengths are therefore checked first.

use bytes::{Buf, Bytes, TryGetError};
use kafka_protocol::messages as m;
use kafka_protocol::protocol::{Decodable, HeaderVersion};

use crate::client::connection::Guarded;
use crate::{BoxError, Error, ErrorKind, Result};

/// The first version of Fetch that counts in varints.
const FLEXIBLE_FETCH: i16 = 12;

/// Reads the body of a request.
pub(crate) fn request<R: Decodable + HeaderVersion>(name: &str, version: i16, body: Bytes) -> Result<R> {
    let wrong = |cause: BoxError| {
        Error::new(ErrorKind::Corrupt, format!("cannot read a {name} request of version {version}"))
            .because(cause)
    };
    let flexible = R::header_version(version) >= 2;
    if name == "Fetch" && version < FLEXIBLE_FETCH {
        let mut lengths = body.clone();
        check_fetch(&mut lengths, version).map_err(|e| wrong(e.into()))?;
        // Every length is below that of the frame.
        let mut body = body;
        return R::decode(&mut body, version).map_err(|e| wrong(e.into()));
    }
    let mut body = Guarded::new(body, flexible);
    R::decode(&mut body, version).map_err(|e| wrong(e.into()))
}

/// Reads the header of a request.
pub(crate) fn header(frame: &mut Bytes, version: i16) -> Result<m::RequestHeader> {
    // No length of it has four bytes, and its number may be any: Java's authentication counts down from the largest.
    let mut guarded = Guarded::new(frame.clone(), true);
    let header = m::RequestHeader::decode(&mut guarded, version).map_err(|cause| {
        Error::new(ErrorKind::Corrupt, "the header of a request is malformed").because(cause.to_string())
    })?;
    frame.advance(frame.len() - guarded.remaining());
    Ok(header)
}

/// Walks a Fetch of before the flexible versions by its lengths.
fn check_fetch(body: &mut Bytes, version: i16) -> std::result::Result<(), TryGetError> {
    // Replica, longest wait, least and most bytes, isolation level; then the session.
    skip(body, 17 + if version >= 7 { 8 } else { 0 })?;
    let partition = 4 + if version >= 9 { 4 } else { 0 } + 8 + if version >= 5 { 8 } else { 0 } + 4;
    for _ in 0..count(body)? {
        let name = usize::try_from(body.try_get_i16()?).unwrap_or(0);
        skip(body, name)?;
        let partitions = count(body)?;
        skip(body, partitions.saturating_mul(partition))?;
    }
    if version >= 7 {
        for _ in 0..count(body)? {
            let name = usize::try_from(body.try_get_i16()?).unwrap_or(0);
            skip(body, name)?;
            let partitions = count(body)?;
            skip(body, partitions.saturating_mul(4))?;
        }
    }
    Ok(())
}

/// The elements of an array, none if it is null. There are not more of them than bytes.
fn count(body: &mut Bytes) -> std::result::Result<usize, TryGetError> {
    let count = usize::try_from(body.try_get_i32()?).unwrap_or(0);
    match count <= body.len() {
        true => Ok(count),
        false => Err(TryGetError { requested: count, available: body.len() }),
    }
}

fn skip(body: &mut Bytes, count: usize) -> std::result::Result<(), TryGetError> {
    if count > body.len() {
        return Err(TryGetError { requested: count, available: body.len() });
    }
    body.advance(count);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::{BufMut, BytesMut};
    use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
    use kafka_protocol::protocol::{Encodable, StrBytes};

    fn fetch() -> m::FetchRequest {
        let name = m::TopicName(StrBytes::from_static_str("topic"));
        let partition = FetchPartition::default().with_partition_max_bytes(i32::MAX);
        m::FetchRequest::default().with_max_bytes(i32::MAX).with_max_wait_ms(i32::MAX).with_topics(vec![
            FetchTopic::default().with_topic(name.clone()).with_partitions(vec![partition; 3]),
            FetchTopic::default().with_topic(name),
        ])
    }

    #[test]
    fn a_fetch_is_read_in_every_version_with_limits_as_large_as_they_get() {
        for version in 4..=12 {
            let mut wanted = fetch();
            if version >= 7 {
                let name = m::TopicName(StrBytes::from_static_str("gone"));
                let gone = ForgottenTopic::default().with_topic(name).with_partitions(vec![1, 2]);
                wanted = wanted.with_forgotten_topics_data(vec![gone]);
            }
            let mut body = BytesMut::new();
            wanted.encode(&mut body, version).unwrap();
            let body = body.freeze();
            let read: m::FetchRequest = request("Fetch", version, body.clone()).unwrap();
            assert_eq!(read.max_bytes, i32::MAX);
            assert_eq!(read.topics, wanted.topics);
            assert_eq!(read.forgotten_topics_data, wanted.forgotten_topics_data);
            for cut in 0..body.len() {
                assert!(request::<m::FetchRequest>("Fetch", version, body.slice(..cut)).is_err());
            }
        }
    }

    #[test]
    fn a_header_may_have_any_correlation_id() {
        for version in [1, 2] {
            let mut frame = BytesMut::new();
            let header = m::RequestHeader::default().with_correlation_id(i32::MAX);
            header.encode(&mut frame, version).unwrap();
            frame.put_u8(7);
            let mut frame = frame.freeze();
            assert_eq!(super::header(&mut frame, version).unwrap().correlation_id, i32::MAX);
            assert_eq!(&frame[..], [7]);
        }
    }

    #[test]
    fn a_length_beyond_the_frame_is_refused_before_memory_is_reserved() {
        for version in [4, 5, 7, 9, 11] {
            let mut body = BytesMut::new();
            body.put_bytes(0, 17 + if version >= 7 { 8 } else { 0 });
            body.put_i32(i32::MAX);
            body.put_bytes(0, 100);
            assert!(request::<m::FetchRequest>("Fetch", version, body.freeze()).is_err());
        }
        let mut body = BytesMut::new();
        body.put_i32(i32::MAX);
        assert!(request::<m::MetadataRequest>("Metadata", 4, body.freeze()).is_err());
        let body = Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 0x0f]);
        assert!(request::<m::MetadataRequest>("Metadata", 9, body).is_err());
    }
}
