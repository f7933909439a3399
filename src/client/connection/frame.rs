//! Frames: a length of four bytes, then that many bytes.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::RequestHeader;
use kafka_protocol::protocol::{Encodable, StrBytes};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::Api;
use crate::{BoxError, Error, ErrorClass, ErrorKind, Result};

/// What is reserved for a frame before any of it has been seen, in bytes.
const FIRST_STEP: usize = 64 << 10;

/// Reads frames off a stream.
///
/// A length is a claim, not a reason to reserve memory: room grows with what has really arrived, and at once only up to
/// the largest frame that came before.
#[derive(Debug)]
pub(super) struct FrameReader<R> {
    stream: R,
    limit: usize,
    proven: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(super) fn new(stream: R, limit: usize) -> Self {
        Self { stream, limit, proven: FIRST_STEP }
    }

    /// The next frame, without its length. Any error leaves the stream unknowable.
    pub(super) async fn next(&mut self) -> Result<Bytes> {
        let length = self.stream.read_i32().await.map_err(broken)?;
        let length = usize::try_from(length).ok().filter(|length| *length >= 4).ok_or_else(|| {
            corrupt(format!("a frame claims a length of {length} bytes: is this a Kafka broker's port?"))
        })?;
        // A TLS alert of any version: type 21, then 3 and the minor version, then a length of two.
        if length & 0xffff_fc00 == 0x1503_0000 {
            return Err(corrupt(
                "what answers speaks TLS: set security.protocol to SSL or SASL_SSL, or correct the port"
                    .to_owned(),
            ));
        }
        if length > self.limit {
            return Err(corrupt(format!(
                "a frame of {length} bytes is larger than the limit of {} bytes: fetch less at once, or raise max_frame \
                 (a length like this also comes from a port that speaks HTTP)",
                self.limit
            )));
        }
        let mut frame = BytesMut::with_capacity(length.min(self.proven));
        while frame.len() < length {
            let left = length - frame.len();
            if frame.len() == frame.capacity() {
                frame.reserve(left.min(frame.len()));
            }
            let room = left.min(frame.capacity() - frame.len());
            if self.stream.read_buf(&mut (&mut frame).limit(room)).await.map_err(broken)? == 0 {
                return Err(broken(std::io::ErrorKind::UnexpectedEof.into()));
            }
        }
        self.proven = self.proven.max(length);
        Ok(frame.freeze())
    }
}

/// The frame of a request.
pub(super) fn encode<A: Api>(
    request: &A,
    version: i16,
    correlation_id: i32,
    client_id: &StrBytes,
) -> Result<Bytes> {
    let header = RequestHeader::default()
        .with_request_api_key(A::KEY)
        .with_request_api_version(version)
        .with_correlation_id(correlation_id)
        .with_client_id(Some(client_id.clone()));
    let write = || -> std::result::Result<Bytes, BoxError> {
        let header_version = A::header_version(version);
        let size = header.compute_size(header_version)? + request.compute_size(version)?;
        let mut out = BytesMut::with_capacity(4 + size);
        out.put_i32(i32::try_from(size)?);
        header.encode(&mut out, header_version)?;
        request.encode(&mut out, version)?;
        // ORDER: a frame whose length is wrong would make the stream unreadable for the broker.
        match out.len() == 4 + size {
            true => Ok(out.freeze()),
            false => Err(format!("{} bytes written, {size} announced", out.len() - 4).into()),
        }
    };
    write().map_err(|cause| {
        Error::new(ErrorKind::Broker, format!("{} cannot be said in version {version} of it", A::NAME))
            .because(cause)
    })
}

fn corrupt(message: String) -> Error {
    Error::new(ErrorKind::Corrupt, message).with_class(ErrorClass::Retriable)
}

fn broken(cause: std::io::Error) -> Error {
    if let Some(error) = crate::client::security::explain(&cause) {
        return error;
    }
    let message = match cause.kind() {
        std::io::ErrorKind::UnexpectedEof => "the broker closed the connection",
        _ => "the connection broke",
    };
    Error::new(ErrorKind::Connection, message).with_class(ErrorClass::Retriable).because(cause)
}
