//! The connection over an in-memory pipe: cancelled, late, hostile and broken.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{
    ApiVersionsResponse, HeartbeatRequest, HeartbeatResponse, MetadataRequest, RequestHeader, ResponseHeader,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;

const LONG: Duration = Duration::from_secs(60);

/// The broker's end of the pipe.
struct Peer(DuplexStream);

impl Peer {
    async fn request(&mut self) -> (RequestHeader, Bytes) {
        let length = self.0.read_i32().await.unwrap();
        let mut frame = vec![0; length as usize];
        self.0.read_exact(&mut frame).await.unwrap();
        let mut frame = Bytes::from(frame);
        let header = kafka_protocol::protocol::decode_request_header_from_buffer(&mut frame).unwrap();
        (header, frame)
    }

    async fn answer<R: Encodable + HeaderVersion>(&mut self, header: &RequestHeader, response: &R) {
        let version = header.request_api_version;
        let mut body = BytesMut::new();
        ResponseHeader::default()
            .with_correlation_id(header.correlation_id)
            .encode(&mut body, R::header_version(version))
            .unwrap();
        response.encode(&mut body, version).unwrap();
        self.0.write_i32(body.len() as i32).await.unwrap();
        self.0.write_all(&body).await.unwrap();
    }

    /// Answers ApiVersions with Heartbeat 0..=4 and Metadata 13..=20.
    async fn negotiate(&mut self) {
        let (header, _) = self.request().await;
        self.answer(&header, &versions()).await;
    }
}

fn versions() -> ApiVersionsResponse {
    let api =
        |key, min, max| ApiVersion::default().with_api_key(key).with_min_version(min).with_max_version(max);
    ApiVersionsResponse::default().with_api_keys(vec![api(12, 0, 4), api(3, 13, 20), api(18, 0, 3)])
}

fn options() -> ConnectionOptions {
    ConnectionOptions {
        peer: "node 1 at pipe:1".into(),
        client_id: "test".into(),
        max_frame: 1 << 20,
        timeout: LONG,
        sasl: None,
    }
}

async fn connected(pipe: usize) -> (Connection, Peer) {
    let (ours, theirs) = tokio::io::duplex(pipe);
    let mut peer = Peer(theirs);
    let (connection, ()) = tokio::join!(Connection::open(ours, options()), peer.negotiate());
    (connection.unwrap(), peer)
}

fn heartbeat(generation: i32) -> HeartbeatRequest {
    HeartbeatRequest::default().with_generation_id(generation)
}

#[tokio::test]
async fn requests_are_pipelined_and_answers_find_their_callers() {
    let (connection, mut peer) = connected(64 << 10).await;
    let pending: Vec<_> = (0..3).map(|at| connection.send(&heartbeat(at), None).unwrap()).collect();
    for at in 0..3 {
        let (header, body) = peer.request().await;
        let request = HeartbeatRequest::decode(&mut body.clone(), header.request_api_version).unwrap();
        assert_eq!(request.generation_id, at, "in the order of the calls");
        peer.answer(&header, &HeartbeatResponse::default().with_error_code(at as i16)).await;
    }
    for (at, pending) in pending.into_iter().enumerate() {
        assert_eq!(pending.answer(LONG).await.unwrap().error_code, at as i16);
    }
}

#[tokio::test]
async fn a_cancelled_request_never_leaves_half_a_frame() {
    // A pipe of four bytes: the frame is stuck after its length when the caller goes away.
    let (connection, mut peer) = connected(4).await;
    let asking = {
        let connection = connection.clone();
        tokio::spawn(async move { connection.request(&heartbeat(1), LONG).await.map(|r| r.error_code) })
    };
    let length = peer.0.read_i32().await.unwrap();
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    let mut rest = vec![0; length as usize];
    peer.0.read_exact(&mut rest).await.unwrap();
    let mut rest = Bytes::from(rest);
    let first = kafka_protocol::protocol::decode_request_header_from_buffer(&mut rest).unwrap();

    let second = heartbeat(2);
    let (second, ()) = tokio::join!(connection.request(&second, LONG), async {
        let (header, _) = peer.request().await;
        peer.answer(&first, &HeartbeatResponse::default().with_error_code(1)).await;
        peer.answer(&header, &HeartbeatResponse::default().with_error_code(2)).await;
    });
    assert_eq!(second.unwrap().error_code, 2, "the answer nobody waits for goes to nobody");
}

#[tokio::test]
async fn the_first_fault_reaches_every_waiter_and_every_later_caller() {
    let (connection, mut peer) = connected(64 << 10).await;
    let waiting: Vec<_> = (0..3).map(|at| connection.send(&heartbeat(at), None).unwrap()).collect();
    peer.request().await;
    // An answer to a question that nobody asked.
    peer.answer(&RequestHeader::default().with_correlation_id(4711), &HeartbeatResponse::default()).await;
    for pending in waiting {
        let error = pending.answer(LONG).await.unwrap_err();
        assert!(error.is_retriable());
        assert!(format!("{error:?}").contains("4711"), "{error:?}");
    }
    assert!(connection.is_poisoned());
    let later = connection.request(&heartbeat(9), LONG).await.unwrap_err();
    assert!(format!("{later:?}").contains("4711"), "{later:?}");
    assert_eq!(peer.0.read(&mut [0; 64 << 10]).await.map(|n| n > 0).ok(), Some(true), "what was sent before");
}

#[tokio::test]
async fn no_answer_in_time_gives_the_connection_up() {
    let (connection, _peer) = connected(64 << 10).await;
    let other = connection.send(&heartbeat(2), None).unwrap();
    let error = connection.request(&heartbeat(1), Duration::from_millis(10)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("Heartbeat") && error.to_string().contains("node 1"), "{error}");
    let error = other.answer(LONG).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "the cause is everybody's");
    assert!(connection.is_poisoned());
}

#[tokio::test]
async fn the_brokers_end_is_noticed_without_a_request() {
    let (connection, mut peer) = connected(64 << 10).await;
    let pending = connection.send(&heartbeat(1), None).unwrap();
    peer.request().await;
    drop(peer);
    let error = pending.answer(LONG).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection);
    assert!(format!("{error:?}").contains("closed the connection"), "{error:?}");
}

#[tokio::test]
async fn frames_beyond_the_limit_and_lengths_that_are_none_poison() {
    for length in [-1, 0, 3, (1 << 20) + 1, i32::MAX, i32::from_be_bytes(*b"HTTP")] {
        let (connection, mut peer) = connected(64 << 10).await;
        let pending = connection.send(&heartbeat(1), None).unwrap();
        peer.0.write_i32(length).await.unwrap();
        let error = pending.answer(LONG).await.unwrap_err();
        assert!(format!("{error:?}").contains("a frame"), "{length}: {error:?}");
        assert!(connection.is_poisoned());
    }
}

#[tokio::test]
async fn a_frame_larger_than_any_before_arrives_whole() {
    let (connection, mut peer) = connected(1 << 10).await;
    let pending = connection.send(&heartbeat(1), None).unwrap();
    let (header, _) = peer.request().await;
    // A million bytes that are no heartbeat: read to the end, then refused, and the stream stays good.
    let mut frame = BytesMut::new();
    frame.put_i32(header.correlation_id);
    frame.put_bytes(0, 1_000_000);
    peer.0.write_i32(frame.len() as i32).await.unwrap();
    peer.0.write_all(&frame).await.unwrap();
    let error = pending.answer(LONG).await.unwrap_err();
    assert!(format!("{error:?}").contains("left over"), "{error:?}");
    assert!(!connection.is_poisoned(), "the frame was whole");
    let pending = connection.send(&heartbeat(2), None).unwrap();
    let (header, _) = peer.request().await;
    peer.answer(&header, &HeartbeatResponse::default()).await;
    pending.answer(LONG).await.unwrap();
}

#[tokio::test]
async fn a_fault_mid_frame_is_no_answer() {
    let (connection, mut peer) = connected(64 << 10).await;
    let pending = connection.send(&heartbeat(1), None).unwrap();
    let (header, _) = peer.request().await;
    peer.0.write_i32(100).await.unwrap();
    peer.0.write_i32(header.correlation_id).await.unwrap();
    drop(peer);
    assert!(pending.answer(LONG).await.is_err());
    assert!(connection.is_poisoned());
}

#[tokio::test]
async fn versions_without_overlap_are_named() {
    let (connection, _peer) = connected(64 << 10).await;
    let error = connection.send(&MetadataRequest::default(), None).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("Metadata") && text.contains("4 to 12") && text.contains("13 to 20"), "{text}");
    assert_eq!(connection.version::<HeartbeatRequest>(None).unwrap(), 4);
    assert_eq!(connection.version::<HeartbeatRequest>(Some(2)).unwrap(), 2);
    assert!(!connection.is_poisoned());
}

#[test]
fn the_highest_common_version_is_chosen() {
    let range = |min, max| VersionRange { min, max };
    for (ours, theirs, chosen) in [
        (range(4, 12), range(0, 18), Some(12)),
        (range(4, 12), range(0, 7), Some(7)),
        (range(4, 12), range(12, 18), Some(12)),
        (range(4, 12), range(13, 18), None),
        (range(4, 12), range(0, 3), None),
    ] {
        assert_eq!(choose(ours, theirs), chosen, "{ours} {theirs}");
    }
}

#[tokio::test]
async fn an_old_broker_is_asked_again_in_its_own_version() {
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let mut peer = Peer(theirs);
    let (connection, ()) = tokio::join!(Connection::open(ours, options()), async {
        let (first, _) = peer.request().await;
        assert_eq!(first.request_api_version, 3);
        // The answer is in version 0, whatever was asked (KIP-511).
        let mut body = BytesMut::new();
        body.put_i32(first.correlation_id);
        let old = ApiVersion::default().with_api_key(18).with_max_version(2);
        ApiVersionsResponse::default()
            .with_error_code(35)
            .with_api_keys(vec![old])
            .encode(&mut body, 0)
            .unwrap();
        peer.0.write_i32(body.len() as i32).await.unwrap();
        peer.0.write_all(&body).await.unwrap();
        let (second, body) = peer.request().await;
        assert_eq!((second.request_api_version, body.remaining()), (2, 0));
        peer.answer(&second, &versions()).await;
    });
    assert_eq!(connection.unwrap().version::<HeartbeatRequest>(None).unwrap(), 4);
}

#[tokio::test]
async fn the_last_handle_closes_the_stream() {
    let (connection, mut peer) = connected(64 << 10).await;
    let clone = connection.clone();
    drop(connection);
    let pending = clone.send(&heartbeat(1), None).unwrap();
    let (header, _) = peer.request().await;
    peer.answer(&header, &HeartbeatResponse::default()).await;
    pending.answer(LONG).await.unwrap();
    drop(clone);
    assert_eq!(peer.0.read(&mut [0; 1]).await.unwrap(), 0);
}
