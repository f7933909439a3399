//! Requests as bytes, without a client that would make anything good again.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use kafka_protocol::records::{Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType};

/// A connection that asks one request at a time.
pub(crate) struct Raw(TcpStream);

impl Raw {
    pub(crate) fn connect(bootstrap: &str) -> Self {
        let stream = TcpStream::connect(bootstrap.split(',').next().unwrap()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self(stream)
    }

    /// The answer, or that the connection was closed.
    pub(crate) fn try_ask<R: Request>(&mut self, version: i16, request: &R) -> Option<R::Response> {
        let mut body = BytesMut::new();
        body.put_i32(0);
        RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(7)
            .with_client_id(Some(StrBytes::from_static_str("raw")))
            .encode(&mut body, R::header_version(version))
            .unwrap();
        request.encode(&mut body, version).unwrap();
        let length = i32::try_from(body.len() - 4).unwrap();
        body[..4].copy_from_slice(&length.to_be_bytes());
        self.0.write_all(&body).ok()?;
        let mut length = [0; 4];
        self.0.read_exact(&mut length).ok()?;
        let mut frame = vec![0; usize::try_from(i32::from_be_bytes(length)).unwrap()];
        self.0.read_exact(&mut frame).ok()?;
        let mut frame = Bytes::from(frame);
        let header = ResponseHeader::decode(&mut frame, R::Response::header_version(version)).unwrap();
        assert_eq!(header.correlation_id, 7);
        let response = R::Response::decode(&mut frame, version).unwrap();
        assert!(frame.is_empty(), "{} bytes behind the answer", frame.len());
        Some(response)
    }

    pub(crate) fn ask<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        self.try_ask(version, request).expect("the broker answers")
    }
}

/// A batch of one record of a producer.
pub(crate) fn batch(producer: (i64, i16), sequence: i32, transactional: bool, value: &str) -> Bytes {
    encoded(&[record(producer, sequence, transactional, now(), None, value)])
}

/// A batch of records of a producer, all with the same key and time.
pub(crate) fn records(
    count: usize,
    producer: (i64, i16),
    sequence: i32,
    transactional: bool,
    key: Option<&str>,
    timestamp: i64,
) -> Bytes {
    let at = |offset: i32| {
        let record = record(producer, sequence + offset, transactional, timestamp, key, "value");
        Record { offset: offset.into(), ..record }
    };
    encoded(&(0..i32::try_from(count).unwrap()).map(at).collect::<Vec<_>>())
}

fn record(
    producer: (i64, i16),
    sequence: i32,
    transactional: bool,
    timestamp: i64,
    key: Option<&str>,
    value: &str,
) -> Record {
    Record {
        transactional,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: -1,
        producer_id: producer.0,
        producer_epoch: producer.1,
        timestamp_type: TimestampType::Creation,
        offset: 0,
        sequence,
        timestamp,
        key: key.map(|key| Bytes::copy_from_slice(key.as_bytes())),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        headers: Default::default(),
    }
}

fn encoded(records: &[Record]) -> Bytes {
    let mut out = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    RecordBatchEncoder::encode(&mut out, records, &options).unwrap();
    out.freeze()
}

/// The present, in ms.
pub(crate) fn now() -> i64 {
    use mainstem::clock::{Clock, SystemClock};
    SystemClock.wall_ms()
}
