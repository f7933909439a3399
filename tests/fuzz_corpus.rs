//! The corpora of the fuzz targets, and random changes of them, with the stable compiler: no panic, and no memory by the
//! word of an input.
//!
//! `MAINSTEM_FUZZ_INPUTS=n` tries so many inputs a target (20 000 by default, fewer where each is much work) and
//! `MAINSTEM_FUZZ_SEED=n` others; `MAINSTEM_BLESS=1` writes the seeds.
#![allow(clippy::unwrap_used, reason = "that is how a test fails")]

use std::fs;
use std::path::PathBuf;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages as m;
use kafka_protocol::protocol::{Encodable, HeaderVersion, Request, StrBytes};
use kafka_protocol::records::{Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType};

/// The most bytes that a target may hold at once. What a frame of a kilobyte may claim in a version whose lengths look
/// like numbers is about half of it.
const MOST_MEMORY: u64 = 320 << 20;

fn folder(target: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus")).join(target)
}

/// A generator of numbers that is the same in every run (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 16) as usize % limit.max(1)
    }
}

/// Changes a few places, as a fuzzer does.
fn mutate(numbers: &mut Numbers, input: &[u8]) -> Vec<u8> {
    const INTERESTING: [&[u8]; 15] = [
        b"\n",
        b"\\u0",
        b"\\\n",
        b"=\"",
        b": ,",
        "\u{e9}\u{2603}".as_bytes(),
        &[0xff],
        &[0x7f],
        &[0x80, 0x00],
        &[0x7f, 0xff],
        &[0xff, 0xff, 0xff, 0xff],
        &[0x7f, 0xff, 0xff, 0xff],
        &[0x00, 0x0f, 0xff, 0xff],
        &[0xff, 0xff, 0xff, 0xff, 0x0f],
        &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    ];
    let mut bytes = input.to_vec();
    for _ in 0..=numbers.below(4) {
        if bytes.is_empty() {
            break;
        }
        let at = numbers.below(bytes.len());
        match numbers.below(6) {
            0 => bytes[at] ^= 1 << numbers.below(8),
            1 => bytes[at] = numbers.next() as u8,
            2 | 3 => {
                let value = INTERESTING[numbers.below(INTERESTING.len())];
                let end = bytes.len().min(at + value.len());
                bytes[at..end].copy_from_slice(&value[..end - at]);
            }
            4 => bytes.truncate(at),
            _ => {
                let end = bytes.len().min(at + numbers.below(40));
                let part = bytes[at..end].to_vec();
                let to = numbers.below(bytes.len());
                bytes.splice(to..to, part);
            }
        }
    }
    bytes
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

fn replay(target: &str, inputs: u64, run: fn(&[u8])) {
    let inputs = number("MAINSTEM_FUZZ_INPUTS", inputs);
    let mut files: Vec<_> = fs::read_dir(folder(target)).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let corpus: Vec<(String, Vec<u8>)> = files
        .iter()
        .map(|file| (file.file_name().unwrap().to_string_lossy().into_owned(), fs::read(file).unwrap()))
        .collect();
    assert!(!corpus.is_empty());
    let mut numbers = Numbers(number("MAINSTEM_FUZZ_SEED", 0x5eed).max(1));
    for round in 0..inputs.max(corpus.len() as u64) {
        let (name, seed) = &corpus[round as usize % corpus.len()];
        let input = match round < corpus.len() as u64 {
            true => seed.clone(),
            // Now and then the beginning of one and the end of another.
            false if numbers.below(8) == 0 => {
                let other = &corpus[numbers.below(corpus.len())].1;
                let (end, from) = (numbers.below(seed.len() + 1), numbers.below(other.len() + 1));
                mutate(&mut numbers, &[&seed[..end], &other[from..]].concat())
            }
            false => mutate(&mut numbers, seed),
        };
        let counted = std::panic::catch_unwind(|| allocation_counter::measure(|| run(&input)));
        let Ok(counted) = counted else {
            let found = std::env::temp_dir().join(format!("mainstem-{target}-{name}-{round}"));
            fs::write(&found, &input).unwrap();
            panic!("{target} panics (above) on {name} in round {round}: the input is in {}", found.display());
        };
        assert!(
            counted.bytes_max < MOST_MEMORY,
            "{target}: {} bytes at once for {} bytes of {name} in round {round}: {input:02x?}",
            counted.bytes_max,
            input.len()
        );
    }
}

#[test]
fn what_clients_send_to_the_embedded_broker() {
    bless();
    replay("connection", 4_000, mainstem::fuzz::connection);
}

#[test]
fn what_brokers_answer() {
    bless();
    replay("answer", 20_000, mainstem::fuzz::answer);
}

#[test]
fn record_batches() {
    bless();
    replay("batch", 20_000, mainstem::fuzz::batch);
}

#[test]
fn properties() {
    bless();
    replay("config", 600, mainstem::fuzz::config);
}

#[test]
fn files_of_a_state_directory() {
    bless();
    replay("state", 20_000, mainstem::fuzz::state);
}

#[test]
fn what_coordinators_and_fellow_members_say() {
    bless();
    replay("group", 20_000, mainstem::fuzz::group);
}

// ---- seeds --------------------------------------------------------------------------------------------------------

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn topic() -> m::TopicName {
    m::TopicName(text("t"))
}

/// The frame of a request, behind its length.
fn frame<R: Request>(out: &mut BytesMut, version: i16, request: &R) {
    let mut body = BytesMut::new();
    m::RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_client_id(Some(text("fuzz")))
        .encode(&mut body, R::header_version(version))
        .unwrap();
    request.encode(&mut body, version).unwrap();
    out.put_u32(u32::try_from(body.len()).unwrap());
    out.put_slice(&body);
}

fn batch(producer: i64, transactional: bool, control: bool, compression: Compression) -> Bytes {
    let record = |at: i32| Record {
        transactional,
        control,
        delete_horizon: false,
        partition_leader_epoch: 0,
        producer_id: producer,
        producer_epoch: if producer < 0 { -1 } else { 0 },
        timestamp_type: TimestampType::Creation,
        offset: i64::from(at),
        sequence: if producer < 0 || control { -1 } else { at },
        timestamp: 1_700_000_000_000 + i64::from(at),
        key: Some(Bytes::from_static(if control { &[0, 0, 0, 1] } else { b"key" })),
        value: Some(Bytes::from(vec![at as u8; 30])),
        headers: [(text("h"), Some(Bytes::from_static(b"v"))), (text("n"), None)].into_iter().collect(),
    };
    let records: Vec<Record> = (0..if control { 1 } else { 5 }).map(record).collect();
    let mut out = BytesMut::new();
    RecordBatchEncoder::encode(&mut out, &records, &RecordEncodeOptions { version: 2, compression }).unwrap();
    out.freeze()
}

fn produce(version: i16, records: Bytes) -> m::ProduceRequest {
    use m::produce_request::{PartitionProduceData, TopicProduceData};
    let data = PartitionProduceData::default().with_records(Some(records));
    let topics = vec![TopicProduceData::default().with_name(topic()).with_partition_data(vec![data; 2])];
    assert!(version < 13);
    m::ProduceRequest::default()
        .with_transactional_id(Some(m::TransactionalId(text("id"))))
        .with_acks(-1)
        .with_timeout_ms(1_000)
        .with_topic_data(topics)
}

fn logs(out: &mut BytesMut, old: bool) {
    use m::fetch_request::{FetchPartition, FetchTopic};
    use m::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
    let version = |low, high| if old { low } else { high };
    frame(out, version(0, 3), &m::ApiVersionsRequest::default());
    frame(out, version(1, 12), &m::MetadataRequest::default().with_topics(None));
    let create = m::create_topics_request::CreatableTopic::default()
        .with_name(m::TopicName(text("new")))
        .with_num_partitions(3)
        .with_replication_factor(1);
    frame(out, version(2, 7), &m::CreateTopicsRequest::default().with_topics(vec![create]));
    frame(out, version(3, 11), &produce(version(3, 11), batch(-1, false, false, Compression::None)));
    let at = FetchPartition::default().with_partition_max_bytes(1 << 20);
    let of = FetchTopic::default().with_topic(topic()).with_partitions(vec![at; 2]);
    let fetch = m::FetchRequest::default().with_max_bytes(1 << 20).with_topics(vec![of]);
    frame(out, version(4, 12), &fetch.with_isolation_level(1));
    let at = ListOffsetsPartition::default().with_timestamp(-1);
    let of = ListOffsetsTopic::default().with_name(topic()).with_partitions(vec![at]);
    frame(out, version(1, 8), &m::ListOffsetsRequest::default().with_topics(vec![of]));
    use m::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
    let at = DeleteRecordsPartition::default().with_offset(-1);
    let of = DeleteRecordsTopic::default().with_name(topic()).with_partitions(vec![at]);
    frame(out, version(0, 2), &m::DeleteRecordsRequest::default().with_topics(vec![of]));
    use m::describe_configs_request::DescribeConfigsResource;
    let of = DescribeConfigsResource::default().with_resource_type(2).with_resource_name(text("t"));
    frame(out, version(1, 4), &m::DescribeConfigsRequest::default().with_resources(vec![of]));
    use m::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
    let change = AlterableConfig::default().with_name(text("retention.ms")).with_value(Some(text("5")));
    let of = AlterConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(text("t"))
        .with_configs(vec![change]);
    frame(out, version(0, 1), &m::IncrementalAlterConfigsRequest::default().with_resources(vec![of]));
    use m::create_partitions_request::CreatePartitionsTopic;
    let more = CreatePartitionsTopic::default().with_name(topic()).with_count(4).with_assignments(None);
    frame(out, version(0, 3), &m::CreatePartitionsRequest::default().with_topics(vec![more]));
    let deletion = m::DeleteTopicsRequest::default();
    frame(out, version(1, 5), &deletion.with_topic_names(vec![m::TopicName(text("new"))]));
    frame(out, version(0, 1), &m::DescribeClusterRequest::default());
}

fn groups(out: &mut BytesMut, old: bool) {
    let version = |low, high| if old { low } else { high };
    let group = || m::GroupId(text("g"));
    // Both nodes are asked in turn: one of them coordinates.
    for _ in 0..2 {
        frame(out, version(0, 3), &m::FindCoordinatorRequest::default().with_key(text("g")));
        let protocol = m::join_group_request::JoinGroupRequestProtocol::default()
            .with_name(text("range"))
            .with_metadata(Bytes::from_static(&[0, 1, 0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 0]));
        let join = m::JoinGroupRequest::default()
            .with_group_id(group())
            .with_session_timeout_ms(10_000)
            .with_rebalance_timeout_ms(if old { -1 } else { 10_000 })
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol]);
        frame(out, version(0, 9), &join);
        let sync = m::SyncGroupRequest::default().with_group_id(group()).with_generation_id(1);
        frame(out, version(0, 5), &sync);
        frame(out, version(0, 4), &m::HeartbeatRequest::default().with_group_id(group()));
        use m::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
        let at = OffsetCommitRequestPartition::default().with_committed_offset(5);
        let of = OffsetCommitRequestTopic::default().with_name(topic()).with_partitions(vec![at]);
        let commit = m::OffsetCommitRequest::default().with_group_id(group()).with_topics(vec![of]);
        frame(out, version(2, 8), &commit);
        use m::offset_fetch_request::OffsetFetchRequestTopic;
        let of = OffsetFetchRequestTopic::default().with_name(topic()).with_partition_indexes(vec![0, 1]);
        let fetch = m::OffsetFetchRequest::default().with_group_id(group()).with_topics(Some(vec![of]));
        frame(out, version(1, 7), &fetch);
        frame(out, version(0, 5), &m::DescribeGroupsRequest::default().with_groups(vec![group()]));
        frame(out, version(0, 4), &m::ListGroupsRequest::default());
        frame(out, version(0, 2), &m::LeaveGroupRequest::default().with_group_id(group()));
        frame(out, version(0, 2), &m::DeleteGroupsRequest::default().with_groups_names(vec![group()]));
    }
}

fn transactions(out: &mut BytesMut, old: bool) {
    let version = |low, high| if old { low } else { high };
    let id = || m::TransactionalId(text("id"));
    for _ in 0..2 {
        let find = m::FindCoordinatorRequest::default().with_key_type(1).with_key(text("id"));
        frame(out, version(1, 3), &find);
        let init = m::InitProducerIdRequest::default()
            .with_transactional_id(Some(id()))
            .with_transaction_timeout_ms(10_000);
        for _ in 0..2 {
            frame(out, version(0, 5), &init);
        }
        use m::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
        let of = AddPartitionsToTxnTopic::default().with_name(topic()).with_partitions(vec![0, 1]);
        let add = m::AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(id())
            .with_v3_and_below_topics(vec![of]);
        for _ in 0..2 {
            frame(out, version(0, 3), &add);
        }
        let records = batch(0, true, false, Compression::None);
        frame(out, version(3, 12), &produce(version(3, 12), records));
        let offsets = m::AddOffsetsToTxnRequest::default()
            .with_transactional_id(id())
            .with_group_id(m::GroupId(text("g")));
        frame(out, version(0, 4), &offsets);
        use m::txn_offset_commit_request::{TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic};
        let at = TxnOffsetCommitRequestPartition::default().with_committed_offset(5);
        let of = TxnOffsetCommitRequestTopic::default().with_name(topic()).with_partitions(vec![at]);
        let commit = m::TxnOffsetCommitRequest::default()
            .with_transactional_id(id())
            .with_group_id(m::GroupId(text("g")))
            .with_topics(vec![of]);
        for _ in 0..2 {
            frame(out, version(0, 5), &commit);
        }
        let end = m::EndTxnRequest::default().with_transactional_id(id()).with_committed(true);
        for _ in 0..2 {
            frame(out, version(0, 5), &end);
        }
        frame(out, version(0, 1), &m::ListTransactionsRequest::default());
        frame(out, 0, &m::DescribeTransactionsRequest::default().with_transactional_ids(vec![id()]));
    }
}

/// Found: each asked for the memory of two thousand million partitions.
fn many_partitions(out: &mut BytesMut) {
    let create = m::create_topics_request::CreatableTopic::default()
        .with_name(m::TopicName(text("new")))
        .with_num_partitions(i32::MAX)
        .with_replication_factor(1);
    frame(out, 2, &m::CreateTopicsRequest::default().with_topics(vec![create]));
    use m::create_partitions_request::CreatePartitionsTopic;
    let more =
        CreatePartitionsTopic::default().with_name(topic()).with_count(i32::MAX).with_assignments(None);
    frame(out, 0, &m::CreatePartitionsRequest::default().with_topics(vec![more]));
}

fn authentication(out: &mut BytesMut) {
    frame(out, 1, &m::SaslHandshakeRequest::default().with_mechanism(text("PLAIN")));
    let token = Bytes::from_static(b"\0user\0password");
    frame(out, 2, &m::SaslAuthenticateRequest::default().with_auth_bytes(token));
}

/// An answer behind the key of its request and its version.
fn answer<R: Encodable + HeaderVersion>(key: m::ApiKey, version: i16, response: &R) -> Vec<u8> {
    let mut out = BytesMut::new();
    out.put_u8(key as u8);
    out.put_u8(version as u8);
    m::ResponseHeader::default().encode(&mut out, R::header_version(version)).unwrap();
    response.encode(&mut out, version).unwrap();
    out.to_vec()
}

/// Writes the seeds where `MAINSTEM_BLESS` is set.
const PROPERTIES: [(&str, &str); 4] = [
    (
        "application",
        "application.id=a\nbootstrap.servers=b:9092,[::1]:9093\nprocessing.guarantee=exactly_once_v2\nnum.stream.threads = 4\n\
         state.dir: /tmp/s\ncommit.interval.ms 100\nmain.consumer.session.timeout.ms=45000\nproducer.linger.ms=5\n\
         topic.retention.ms=-1\nclient.tag.zone=eu\\u0020west\ndeserialization.exception.handler=continue\n\
         statestore.cache.max.bytes=0\nmemory.max.bytes=1000000000\n",
    ),
    (
        "tls",
        "bootstrap.servers=b:9092\nsecurity.protocol=SSL\nssl.truststore.type=PEM\nssl.truststore.location=/nowhere/ca.pem\n\
         ssl.keystore.type=PEM\nssl.keystore.certificate.chain=-----BEGIN CERTIFICATE----- \\\n  AAAA \\\n  -----END \
         CERTIFICATE-----\nssl.key.password=p\nssl.enabled.protocols=TLSv1.2,TLSv1.3\nssl.endpoint.identification.algorithm=\n",
    ),
    (
        "scram",
        "bootstrap.servers=b:9092\nsecurity.protocol=SASL_SSL\nsasl.mechanism=SCRAM-SHA-512\nsasl.jaas.config=\
         org.apache.kafka.common.security.scram.ScramLoginModule required username=\"al\\\\\"ice\" password='p w';\n",
    ),
    (
        "token",
        "! a comment\n# another\nbootstrap.servers=b:9092\nsecurity.protocol=SASL_PLAINTEXT\nsasl.mechanism=OAUTHBEARER\n\
         sasl.oauthbearer.token.endpoint.url=file:///nowhere/token\nsasl.jaas.config=\
         org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required \
         unsecuredLoginStringClaim_sub=\"a\" unsecuredLoginLifetimeSeconds=\"60\";\n",
    ),
];

fn bless() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    if std::env::var_os("MAINSTEM_BLESS").is_some() {
        ONCE.call_once(write_seeds);
    }
}

fn write_seeds() {
    let save = |target: &str, name: &str, bytes: &[u8]| {
        fs::create_dir_all(folder(target)).unwrap();
        fs::write(folder(target).join(name), bytes).unwrap();
    };
    for (target, name, bytes) in mainstem::fuzz::seeds() {
        save(target, name, &bytes);
    }
    for (name, text) in PROPERTIES {
        save("config", name, text.as_bytes());
    }
    type Story = fn(&mut BytesMut, bool);
    let stories: [(&str, Story); 3] = [("logs", logs), ("groups", groups), ("transactions", transactions)];
    for (name, story) in stories {
        for (age, old) in [("old", true), ("new", false)] {
            let mut out = BytesMut::new();
            story(&mut out, old);
            save("connection", &format!("{name}-{age}"), &out);
        }
    }
    let mut out = BytesMut::new();
    authentication(&mut out);
    save("connection", "authentication", &out);
    let mut out = BytesMut::new();
    many_partitions(&mut out);
    save("connection", "found-many-partitions", &out);

    save("batch", "plain", &batch(-1, false, false, Compression::None));
    save("batch", "idempotent", &batch(7, false, false, Compression::None));
    save("batch", "transactional", &batch(1, true, false, Compression::None));
    save("batch", "control", &batch(1, true, true, Compression::None));
    let two = [batch(1, true, false, Compression::None), batch(1, true, true, Compression::None)].concat();
    save("batch", "two", &two);
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/batches");
    for file in fs::read_dir(fixtures).unwrap().map(|file| file.unwrap().path()) {
        let text = fs::read_to_string(&file).unwrap();
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        if file.extension().is_some_and(|extension| extension == "hex") && digits.len() < 8_000 {
            let digit = |digit: u8| char::from(digit).to_digit(16).unwrap() as u8;
            let bytes: Vec<u8> = digits.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect();
            save("batch", &file.file_stem().unwrap().to_string_lossy(), &bytes);
        }
    }

    let metadata = m::MetadataResponse::default()
        .with_brokers(vec![m::metadata_response::MetadataResponseBroker::default().with_host(text("h"))])
        .with_topics(vec![
            m::metadata_response::MetadataResponseTopic::default()
                .with_name(Some(topic()))
                .with_partitions(vec![Default::default(); 2]),
        ]);
    let fetched = m::fetch_response::PartitionData::default()
        .with_records(Some(batch(1, true, false, Compression::None)))
        .with_aborted_transactions(Some(vec![Default::default()]));
    let fetch = m::FetchResponse::default().with_responses(vec![
        m::fetch_response::FetchableTopicResponse::default()
            .with_topic(topic())
            .with_partitions(vec![fetched]),
    ]);
    let produced = m::ProduceResponse::default().with_responses(vec![
        m::produce_response::TopicProduceResponse::default()
            .with_name(topic())
            .with_partition_responses(vec![Default::default(); 2]),
    ]);
    let joined = m::JoinGroupResponse::default()
        .with_protocol_name(Some(text("range")))
        .with_members(vec![Default::default(); 3]);
    let versions = m::ApiVersionsResponse::default().with_api_keys(vec![Default::default(); 5]);
    let configs = m::DescribeConfigsResponse::default().with_results(vec![
        m::describe_configs_response::DescribeConfigsResult::default()
            .with_configs(vec![Default::default(); 3]),
    ]);
    let groups = m::DescribeGroupsResponse::default()
        .with_groups(vec![m::describe_groups_response::DescribedGroup::default()]);
    let offsets = m::OffsetFetchResponse::default().with_topics(vec![
        m::offset_fetch_response::OffsetFetchResponseTopic::default()
            .with_partitions(vec![Default::default(); 2]),
    ]);
    use m::add_partitions_to_txn_response::{
        AddPartitionsToTxnPartitionResult, AddPartitionsToTxnTopicResult,
    };
    let added = AddPartitionsToTxnTopicResult::default()
        .with_name(topic())
        .with_results_by_partition(vec![AddPartitionsToTxnPartitionResult::default(); 2]);
    let added = m::AddPartitionsToTxnResponse::default().with_results_by_topic_v3_and_below(vec![added]);
    let initialised = m::InitProducerIdResponse::default().with_producer_epoch(3);
    let txn_offsets = m::TxnOffsetCommitResponse::default().with_topics(vec![
        m::txn_offset_commit_response::TxnOffsetCommitResponseTopic::default()
            .with_name(topic())
            .with_partitions(vec![Default::default(); 2]),
    ]);
    let listed = m::ListTransactionsResponse::default().with_transaction_states(vec![Default::default(); 2]);
    let described = m::DescribeTransactionsResponse::default().with_transaction_states(vec![
        m::describe_transactions_response::TransactionState::default().with_topics(vec![Default::default()]),
    ]);
    save("answer", "describe-transactions", &answer(m::ApiKey::DescribeTransactions, 0, &described));
    for (age, old) in [("old", true), ("new", false)] {
        let version = |low, high| if old { low } else { high };
        let all = [
            ("init-producer-id", answer(m::ApiKey::InitProducerId, version(0, 5), &initialised)),
            ("add-partitions-to-txn", answer(m::ApiKey::AddPartitionsToTxn, version(0, 3), &added)),
            (
                "add-offsets-to-txn",
                answer(m::ApiKey::AddOffsetsToTxn, version(0, 4), &m::AddOffsetsToTxnResponse::default()),
            ),
            ("txn-offset-commit", answer(m::ApiKey::TxnOffsetCommit, version(0, 5), &txn_offsets)),
            ("end-txn", answer(m::ApiKey::EndTxn, version(0, 5), &m::EndTxnResponse::default())),
            ("list-transactions", answer(m::ApiKey::ListTransactions, version(0, 1), &listed)),
            ("metadata", answer(m::ApiKey::Metadata, version(4, 12), &metadata)),
            ("fetch", answer(m::ApiKey::Fetch, version(4, 12), &fetch)),
            ("produce", answer(m::ApiKey::Produce, version(3, 11), &produced)),
            ("join-group", answer(m::ApiKey::JoinGroup, version(2, 7), &joined)),
            (
                "sync-group",
                answer(
                    m::ApiKey::SyncGroup,
                    version(0, 5),
                    &m::SyncGroupResponse::default().with_assignment(Bytes::from_static(&[0, 1, 0, 0])),
                ),
            ),
            ("heartbeat", answer(m::ApiKey::Heartbeat, version(0, 4), &m::HeartbeatResponse::default())),
            ("leave-group", answer(m::ApiKey::LeaveGroup, version(0, 4), &m::LeaveGroupResponse::default())),
            ("api-versions", answer(m::ApiKey::ApiVersions, version(0, 3), &versions)),
            ("describe-configs", answer(m::ApiKey::DescribeConfigs, version(1, 4), &configs)),
            ("describe-groups", answer(m::ApiKey::DescribeGroups, version(0, 5), &groups)),
            ("offset-fetch", answer(m::ApiKey::OffsetFetch, version(1, 7), &offsets)),
        ];
        for (name, bytes) in all {
            save("answer", &format!("{name}-{age}"), &bytes);
        }
    }
}
