//! Which requests are spoken, and in which versions.
//!
//! The ranges are narrow on purpose: every version is one more thing to test. The lower ends are what brokers 2.5 have,
//! the embedded broker included; the upper ends are the last versions that name topics (later ones use ids), or the last
//! that ask for nothing new.

use kafka_protocol::messages as m;
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, VersionRange};

/// A request and its answer, with what the client speaks of it.
pub(crate) trait Api: Encodable + HeaderVersion + Send + Sync {
    /// The name in Kafka's documentation.
    const NAME: &'static str;
    /// The key in the request header.
    const KEY: i16;
    /// The versions this client speaks.
    const VERSIONS: VersionRange;
    /// The answer.
    type Response: Decodable + HeaderVersion + Send + 'static;

    /// How long the broker asks this connection to be quiet, in ms (KIP-219).
    fn throttle_ms(response: &Self::Response) -> i32;
}

/// The answers of authentication have no throttle time.
macro_rules! throttle_ms {
    ($response:ident) => {
        $response.throttle_time_ms
    };
    ($response:ident never) => {{
        let _ = $response;
        0
    }};
}

macro_rules! apis {
    ($($name:ident $request:ident -> $response:ident: $min:literal..=$max:literal $(, $throttled:ident throttled)?;)*) => {
        $(impl Api for m::$request {
            const NAME: &'static str = stringify!($name);
            const KEY: i16 = m::ApiKey::$name as i16;
            const VERSIONS: VersionRange = VersionRange { min: $min, max: $max };
            type Response = m::$response;

            fn throttle_ms(response: &Self::Response) -> i32 {
                throttle_ms!(response $($throttled)?)
            }
        })*

        /// Reads an answer to the request with this key as one that came from a broker; `None` if it is not one of
        /// ours, or not in this version.
        #[cfg(feature = "testing")]
        pub(crate) fn decode_answer(key: i16, version: i16, frame: bytes::Bytes) -> Option<crate::Result<()>> {
            $(if key == m::ApiKey::$name as i16 {
                return ($min..=$max).contains(&version).then(|| {
                    super::guard::decode::<m::$response>(stringify!($name), version, frame).map(drop)
                });
            })*
            None
        }

        /// Key and lowest version of each.
        #[cfg(test)]
        pub(crate) const OLDEST: &[(i16, i16)] = &[$((m::ApiKey::$name as i16, $min)),*];

        #[cfg(test)]
        mod tests {
            use super::*;
            use crate::client::connection::guard::decode;
            use bytes::{Bytes, BytesMut};
            use kafka_protocol::messages::ResponseHeader;
            use kafka_protocol::protocol::Message;

            fn hostile<R: Encodable + Decodable + Default + HeaderVersion>(name: &str, version: i16) {
                let mut good = BytesMut::new();
                ResponseHeader::default().encode(&mut good, R::header_version(version)).unwrap();
                R::default().encode(&mut good, version).unwrap();
                // Something to be taken for elements.
                let mut long = good.clone();
                long.extend_from_slice(&[1; 300]);
                let (good, long) = (good.freeze(), long.freeze());
                assert!(decode::<R>(name, version, good.clone()).is_ok(), "{name} {version}");
                for cut in 0..good.len() {
                    assert!(decode::<R>(name, version, good.slice(..cut)).is_err(), "{name} {version} cut at {cut}");
                }
                // As fixed numbers and as varints: the largest, the smallest, and just more than there is.
                let lengths: [&[u8]; 6] = [
                    &[0x7f, 0xff, 0xff, 0xff],
                    &[0x80, 0, 0, 0],
                    &[0x00, 0x0f, 0xff, 0xff],
                    &[0xff, 0xff, 0xff, 0xff, 0x0f],
                    &[0xff, 0xff, 0xff, 0xff, 0xff],
                    &[0xff, 0x7f],
                ];
                for frame in [&good, &long] {
                    for at in 4..good.len() {
                        for length in lengths {
                            let mut bad = frame.to_vec();
                            let end = frame.len().min(at + length.len());
                            bad[at..end].copy_from_slice(&length[..end - at]);
                            // Whether it can be read is all the same; that this comes back is the point.
                            drop(decode::<R>(name, version, Bytes::from(bad)));
                        }
                    }
                }
            }

            proptest::proptest! {
                #![proptest_config(proptest::prelude::ProptestConfig::with_cases(512))]

                #[test]
                fn any_bytes_are_refused_or_harmless(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
                    let bytes = Bytes::from(bytes);
                    $(for version in [$min, $max] {
                        drop(decode::<m::$response>(<m::$request>::NAME, version, bytes.clone()));
                    })*
                }
            }

            /// Every answer in every version, cut, lengthened, and with hostile lengths at every place: an error or a
            /// harmless answer, never a panic, nor memory by the word of the frame.
            #[test]
            fn hostile_answers_are_refused_or_harmless() {
                $(for version in $min..=$max {
                    hostile::<m::$response>(<m::$request>::NAME, version);
                })*
            }

            #[test]
            fn the_codec_has_every_version() {
                $(
                    let codec = <m::$request as Message>::VERSIONS;
                    let answer = <m::$response as Message>::VERSIONS;
                    assert!(codec.min <= $min && $max <= codec.max, stringify!($request));
                    assert!(answer.min <= $min && $max <= answer.max, stringify!($response));
                )*
            }
        }
    };
}

apis! {
    Produce ProduceRequest -> ProduceResponse: 3..=12;
    Fetch FetchRequest -> FetchResponse: 4..=12;
    ListOffsets ListOffsetsRequest -> ListOffsetsResponse: 1..=7;
    Metadata MetadataRequest -> MetadataResponse: 4..=12;
    OffsetCommit OffsetCommitRequest -> OffsetCommitResponse: 2..=8;
    OffsetFetch OffsetFetchRequest -> OffsetFetchResponse: 1..=7;
    FindCoordinator FindCoordinatorRequest -> FindCoordinatorResponse: 1..=3;
    JoinGroup JoinGroupRequest -> JoinGroupResponse: 2..=7;
    Heartbeat HeartbeatRequest -> HeartbeatResponse: 0..=4;
    LeaveGroup LeaveGroupRequest -> LeaveGroupResponse: 0..=4;
    SyncGroup SyncGroupRequest -> SyncGroupResponse: 0..=5;
    DescribeGroups DescribeGroupsRequest -> DescribeGroupsResponse: 0..=5;
    ListGroups ListGroupsRequest -> ListGroupsResponse: 0..=4;
    DeleteGroups DeleteGroupsRequest -> DeleteGroupsResponse: 0..=2;
    ApiVersions ApiVersionsRequest -> ApiVersionsResponse: 0..=3;
    SaslHandshake SaslHandshakeRequest -> SaslHandshakeResponse: 1..=1, never throttled;
    SaslAuthenticate SaslAuthenticateRequest -> SaslAuthenticateResponse: 0..=2, never throttled;
    CreateTopics CreateTopicsRequest -> CreateTopicsResponse: 2..=7;
    DeleteTopics DeleteTopicsRequest -> DeleteTopicsResponse: 1..=5;
    DeleteRecords DeleteRecordsRequest -> DeleteRecordsResponse: 0..=2;
    InitProducerId InitProducerIdRequest -> InitProducerIdResponse: 0..=5;
    OffsetForLeaderEpoch OffsetForLeaderEpochRequest -> OffsetForLeaderEpochResponse: 2..=4;
    AddPartitionsToTxn AddPartitionsToTxnRequest -> AddPartitionsToTxnResponse: 0..=3;
    AddOffsetsToTxn AddOffsetsToTxnRequest -> AddOffsetsToTxnResponse: 0..=4;
    EndTxn EndTxnRequest -> EndTxnResponse: 0..=5;
    TxnOffsetCommit TxnOffsetCommitRequest -> TxnOffsetCommitResponse: 0..=5;
    DescribeConfigs DescribeConfigsRequest -> DescribeConfigsResponse: 1..=4;
    IncrementalAlterConfigs IncrementalAlterConfigsRequest -> IncrementalAlterConfigsResponse: 0..=1;
    CreatePartitions CreatePartitionsRequest -> CreatePartitionsResponse: 0..=3;
    OffsetDelete OffsetDeleteRequest -> OffsetDeleteResponse: 0..=0;
    DescribeCluster DescribeClusterRequest -> DescribeClusterResponse: 0..=1;
    DescribeTransactions DescribeTransactionsRequest -> DescribeTransactionsResponse: 0..=0;
    ListTransactions ListTransactionsRequest -> ListTransactionsResponse: 0..=1;
}

/// The version to speak: the highest that both sides have.
pub(crate) fn choose(ours: VersionRange, theirs: VersionRange) -> Option<i16> {
    let both = ours.intersect(&theirs);
    (!both.is_empty()).then_some(both.max)
}
