//! Transactions, request by request: what the embedded broker says, and that a real Kafka says the same.

use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages as m;
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::protocol::StrBytes;
use mainstem::embedded::EmbeddedKafka;

use super::common::{connect, is_real, kafka, topic, unique};
use super::raw::{Raw, batch};

const NOT_LEADER: i16 = 6;
const CONCURRENT_TRANSACTIONS: i16 = 51;
const UNSTABLE: i16 = 88;
const INVALID_PRODUCER_EPOCH: i16 = 47;
const PRODUCER_FENCED: i16 = 90;
const UNSUPPORTED_SASL_MECHANISM: i16 = 33;
const SASL_AUTHENTICATION_FAILED: i16 = 58;

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// One producer's numbers.
type Numbers = (i64, i16);

/// Who asks, and the names that it uses.
struct Client {
    raw: Raw,
    id: String,
    topic: String,
    group: String,
    acks: i16,
}

impl Client {
    fn new(bootstrap: &str, topic: &str) -> Self {
        let (id, group) = (unique("id"), unique("group"));
        let mut this = Self { raw: Raw::connect(bootstrap), id, topic: topic.to_owned(), group, acks: -1 };
        // A cluster that nobody has used yet makes its internal topics now.
        for (kind, key) in [(1, this.id.clone()), (0, this.group.clone())] {
            let request = m::FindCoordinatorRequest::default().with_key_type(kind).with_key(text(&key));
            while this.raw.ask(2, &request).error_code != 0 {
                std::thread::yield_now();
            }
        }
        // The coordinator may still be loading.
        while this.try_init(4, 60_000, (-1, -1)).0 == 14 || this.try_init(4, 60_000, (-1, -1)).0 == 16 {}
        this
    }

    fn try_init(&mut self, version: i16, timeout: i32, has: Numbers) -> (i16, Numbers) {
        let request = m::InitProducerIdRequest::default()
            .with_transactional_id(Some(m::TransactionalId(text(&self.id))))
            .with_transaction_timeout_ms(timeout)
            .with_producer_id(m::ProducerId(has.0))
            .with_producer_epoch(has.1);
        let answer = self.raw.ask(version, &request);
        (answer.error_code, (answer.producer_id.0, answer.producer_epoch))
    }

    /// Asks again as long as a transaction is being ended; says whether one was.
    fn init(&mut self, version: i16, has: Numbers) -> (bool, i16, Numbers) {
        let mut waited = false;
        loop {
            let (code, numbers) = self.try_init(version, 60_000, has);
            if code != CONCURRENT_TRANSACTIONS {
                return (waited, code, numbers);
            }
            waited = true;
        }
    }

    fn add(&mut self, version: i16, by: Numbers, topics: &[(&str, &[i32])]) -> Vec<i16> {
        let topics = topics.iter().map(|(topic, partitions)| {
            AddPartitionsToTxnTopic::default()
                .with_name(m::TopicName(text(topic)))
                .with_partitions(partitions.to_vec())
        });
        let request = m::AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(m::TransactionalId(text(&self.id)))
            .with_v3_and_below_producer_id(m::ProducerId(by.0))
            .with_v3_and_below_producer_epoch(by.1)
            .with_v3_and_below_topics(topics.collect());
        loop {
            let answer = self.raw.ask(version, &request);
            let topics = answer.results_by_topic_v3_and_below.iter();
            let mut codes: Vec<(String, i32, i16)> = topics
                .flat_map(|t| {
                    let of = |p: &m::add_partitions_to_txn_response::AddPartitionsToTxnPartitionResult| {
                        (t.name.to_string(), p.partition_index, p.partition_error_code)
                    };
                    t.results_by_partition.iter().map(of).collect::<Vec<_>>()
                })
                .collect();
            codes.sort();
            if codes.iter().all(|(_, _, code)| *code != CONCURRENT_TRANSACTIONS) {
                return codes.into_iter().map(|(_, _, code)| code).collect();
            }
        }
    }

    fn add_own(&mut self, by: Numbers, partitions: &[i32]) -> Vec<i16> {
        let topic = self.topic.clone();
        self.add(3, by, &[(&topic, partitions)])
    }

    fn produce(&mut self, version: i16, partition: i32, by: Numbers, sequence: i32) -> (i16, i64) {
        self.write(version, partition, batch(by, sequence, true, "value"))
    }

    fn write(&mut self, version: i16, partition: i32, records: Bytes) -> (i16, i64) {
        let data = PartitionProduceData::default().with_index(partition).with_records(Some(records));
        let topic = TopicProduceData::default()
            .with_name(m::TopicName(text(&self.topic)))
            .with_partition_data(vec![data]);
        let request = m::ProduceRequest::default()
            .with_transactional_id(Some(m::TransactionalId(text(&self.id))))
            .with_acks(self.acks)
            .with_timeout_ms(10_000)
            .with_topic_data(vec![topic]);
        loop {
            let answer = self.raw.ask(version, &request);
            let answer = &answer.responses[0].partition_responses[0];
            // The leader of a new topic may not know yet that it is.
            if answer.error_code != NOT_LEADER {
                return (answer.error_code, answer.base_offset);
            }
        }
    }

    fn try_end(&mut self, version: i16, by: Numbers, commit: bool) -> i16 {
        let request = m::EndTxnRequest::default()
            .with_transactional_id(m::TransactionalId(text(&self.id)))
            .with_producer_id(m::ProducerId(by.0))
            .with_producer_epoch(by.1)
            .with_committed(commit);
        self.raw.ask(version, &request).error_code
    }

    fn end(&mut self, version: i16, by: Numbers, commit: bool) -> i16 {
        loop {
            let code = self.try_end(version, by, commit);
            if code != CONCURRENT_TRANSACTIONS {
                return code;
            }
        }
    }

    /// EndTxn of version 2, and who goes on. Asked again as long as markers are on their way.
    fn end_and_bump(&mut self, by: Numbers, commit: bool) -> (i16, Numbers) {
        let request = m::EndTxnRequest::default()
            .with_transactional_id(m::TransactionalId(text(&self.id)))
            .with_producer_id(m::ProducerId(by.0))
            .with_producer_epoch(by.1)
            .with_committed(commit);
        loop {
            let answer = self.raw.ask(5, &request);
            if answer.error_code != CONCURRENT_TRANSACTIONS {
                return (answer.error_code, (answer.producer_id.0, answer.producer_epoch));
            }
        }
    }

    /// Produce of version 2, asked again as long as the transaction before is being ended.
    fn produce_and_add(&mut self, partition: i32, by: Numbers, sequence: i32) -> (i16, i64) {
        loop {
            let said = self.produce(12, partition, by, sequence);
            if said.0 != CONCURRENT_TRANSACTIONS {
                return said;
            }
        }
    }

    /// TxnOffsetCommit of version 2, the same.
    fn commit_offset_and_add(&mut self, by: Numbers, offset: i64) -> i16 {
        loop {
            let code = self.commit_offset(5, by, offset);
            if code != CONCURRENT_TRANSACTIONS {
                return code;
            }
        }
    }

    fn add_offsets(&mut self, by: Numbers) -> i16 {
        let request = m::AddOffsetsToTxnRequest::default()
            .with_transactional_id(m::TransactionalId(text(&self.id)))
            .with_producer_id(m::ProducerId(by.0))
            .with_producer_epoch(by.1)
            .with_group_id(m::GroupId(text(&self.group)));
        loop {
            let code = self.raw.ask(3, &request).error_code;
            if code != CONCURRENT_TRANSACTIONS {
                return code;
            }
        }
    }

    fn commit_offset(&mut self, version: i16, by: Numbers, offset: i64) -> i16 {
        let partition = TxnOffsetCommitRequestPartition::default().with_committed_offset(offset);
        let topic = TxnOffsetCommitRequestTopic::default()
            .with_name(m::TopicName(text(&self.topic)))
            .with_partitions(vec![partition]);
        let request = m::TxnOffsetCommitRequest::default()
            .with_transactional_id(m::TransactionalId(text(&self.id)))
            .with_group_id(m::GroupId(text(&self.group)))
            .with_producer_id(m::ProducerId(by.0))
            .with_producer_epoch(by.1)
            .with_generation_id(-1)
            .with_topics(vec![topic]);
        self.raw.ask(version, &request).topics[0].partitions[0].error_code
    }

    /// The group's offset of partition 0, only if it is stable.
    fn offset(&mut self) -> (i16, i64) {
        let topic = OffsetFetchRequestTopic::default()
            .with_name(m::TopicName(text(&self.topic)))
            .with_partition_indexes(vec![0]);
        let request = m::OffsetFetchRequest::default()
            .with_group_id(m::GroupId(text(&self.group)))
            .with_require_stable(true)
            .with_topics(Some(vec![topic]));
        let answer = &self.raw.ask(7, &request).topics[0].partitions[0];
        (answer.error_code, answer.committed_offset)
    }

    /// The offset once no transaction is in the way any more.
    fn stable_offset(&mut self) -> i64 {
        loop {
            let (code, offset) = self.offset();
            if code != UNSTABLE {
                assert_eq!(code, 0);
                return offset;
            }
        }
    }

    /// High watermark, last stable offset, and the aborted transactions from the beginning on.
    fn fetch(&mut self, partition: i32) -> (i64, i64, Vec<Numbers>) {
        let at = FetchPartition::default().with_partition(partition).with_partition_max_bytes(1 << 20);
        let topic =
            FetchTopic::default().with_topic(m::TopicName(text(&self.topic))).with_partitions(vec![at]);
        let request = m::FetchRequest::default()
            .with_max_bytes(1 << 20)
            .with_isolation_level(1)
            .with_topics(vec![topic]);
        let answer = &self.raw.ask(4, &request).responses[0].partitions[0];
        assert_eq!(answer.error_code, 0);
        let aborted = answer.aborted_transactions.iter().flatten();
        let aborted = aborted.map(|a| (a.producer_id.0, a.first_offset as i16));
        (answer.high_watermark, answer.last_stable_offset, aborted.collect())
    }

    /// As soon as everything is decided.
    fn stable(&mut self, partition: i32) -> (i64, Vec<Numbers>) {
        loop {
            let (high_watermark, stable, aborted) = self.fetch(partition);
            if high_watermark == stable {
                return (stable, aborted);
            }
        }
    }
}

/// One word after the other: what was asked, and what the broker said.
fn story(bootstrap: &str, topic: &str) -> Vec<(&'static str, Vec<i64>)> {
    let c = &mut Client::new(bootstrap, topic);
    let mut said: Vec<(&'static str, Vec<i64>)> = Vec::new();
    macro_rules! tell {
        ($what:literal, $($value:expr),*) => { said.push(($what, vec![$(i64::from($value)),*])) };
    }
    let (_, code, a) = c.init(4, (-1, -1));
    let first_epoch = a.1;
    let epoch = |numbers: Numbers| i64::from(numbers.1 - first_epoch);
    tell!("init", code, epoch(a));
    tell!("timeout of nothing", c.try_init(4, 0, (-1, -1)).0);
    tell!("timeout beyond the limit", c.try_init(4, 900_001, (-1, -1)).0);
    tell!("half of the numbers", c.try_init(4, 60_000, (5, -1)).0);
    tell!("write before adding, 9", c.produce(9, 0, a, 0).0);
    tell!("write before adding, 11", c.produce(11, 0, a, 0).0);
    let own = c.topic.clone();
    let unknown = c.add(3, a, &[("no-such-topic", &[0]), (&own, &[1])]);
    tell!("add an unknown topic", unknown[1], unknown[0]);
    tell!("end what has not begun", c.end(3, a, true));
    tell!("add", c.add_own(a, &[0])[0]);
    tell!("add again", c.add_own(a, &[0])[0]);
    let (code, offset) = c.produce(9, 0, a, 0);
    tell!("write", code, offset);
    let (code, offset) = c.produce(9, 0, a, 0);
    tell!("write it again", code, offset);
    tell!("leave a gap", c.produce(9, 0, a, 5).0);
    tell!("write elsewhere", c.produce(9, 1, a, 0).0);
    tell!("write out of the transaction", c.write(9, 0, batch(a, 1, false, "x")).0);
    let wrong = (a.0, a.1 + 1);
    tell!("end with an epoch ahead, 1", c.end(1, wrong, true));
    tell!("end with an epoch ahead, 3", c.end(3, wrong, true));
    tell!("end with another id", c.end(3, (a.0 + 1_000_000, a.1), true));
    tell!("watermark, stable offset", c.fetch(0).0, c.fetch(0).1);
    tell!("commit", c.end(3, a, true));
    tell!("commit again", c.end(3, a, true));
    tell!("abort after it", c.end(3, a, false));
    tell!("stable offset", c.stable(0).0);

    let (_, code, b) = c.init(4, (-1, -1));
    tell!("another instance", code, epoch(b), i64::from(a.0 == b.0));
    tell!("the old one adds, 1", c.add(1, a, &[(&own, &[0])])[0]);
    tell!("the old one adds, 3", c.add_own(a, &[0])[0]);
    tell!("the old one ends", c.end(3, a, true));
    tell!("the new one adds", c.add_own(b, &[0, 2])[0]);
    tell!("and writes", c.produce(9, 0, b, 0).0);
    tell!("the old one writes", c.produce(9, 0, a, 1).0);
    let (waited, code, d) = c.init(4, (-1, -1));
    tell!("an instance during a transaction", waited, code, epoch(d));
    let (stable, aborted) = c.stable(0);
    tell!("stable offset, aborted", stable, aborted.len() as i64, aborted[0].1);
    tell!("a partition without records", c.stable(2).0);
    tell!("the fenced one writes", c.produce(9, 0, b, 1).0);

    let (_, code, e) = c.init(4, d);
    tell!("it goes on", code, epoch(e));
    let (_, code, again) = c.init(4, d);
    tell!("it asks again", code, epoch(again));
    let (_, code, _) = c.init(4, a);
    tell!("somebody older goes on, 4", code);
    let (_, code, _) = c.init(3, a);
    tell!("somebody older goes on, 3", code);

    tell!("offsets before adding, 3", c.commit_offset(3, e, 5));
    tell!("offsets before adding, 4", c.commit_offset(4, e, 5));
    tell!("add offsets", c.add_offsets(e));
    tell!("offsets", c.commit_offset(3, e, 5));
    tell!("offsets of the fenced one", c.commit_offset(3, b, 6));
    tell!("while it is open", c.offset().0);
    tell!("abort", c.end(3, e, false));
    tell!("an aborted offset", c.stable_offset());
    tell!("add offsets", c.add_offsets(e));
    tell!("offsets", c.commit_offset(3, e, 7));
    tell!("commit", c.end(3, e, true));
    tell!("a committed offset", c.stable_offset());
    said
}

/// The same of version 2 (KIP-890): leaders add partitions, and every end begins the next epoch.
fn story_of_version_2(bootstrap: &str, topic: &str) -> Vec<(&'static str, Vec<i64>)> {
    let c = &mut Client::new(bootstrap, topic);
    let mut said: Vec<(&'static str, Vec<i64>)> = Vec::new();
    macro_rules! tell {
        ($what:literal, $($value:expr),*) => { said.push(($what, vec![$(i64::from($value)),*])) };
    }
    let (_, _, a) = c.init(5, (-1, -1));
    let first_epoch = a.1;
    let epoch = |numbers: Numbers| i64::from(numbers.1 - first_epoch);
    tell!("commit nothing", c.end_and_bump(a, true).0);
    let (code, a) = c.end_and_bump(a, false);
    tell!("abort nothing", code, epoch(a));
    tell!("write", c.produce_and_add(0, a, 0).0);
    tell!("write it again", c.produce_and_add(0, a, 0).0);
    tell!("leave a gap", c.produce_and_add(0, a, 5).0);
    tell!("write elsewhere", c.produce_and_add(1, a, 0).0);
    let (code, b) = c.end_and_bump(a, true);
    tell!("commit", code, epoch(b));
    let (code, again) = c.end_and_bump(a, true);
    tell!("commit again", code, epoch(again));
    tell!("abort what is committed", c.end_and_bump(a, false).0);
    tell!("commit nothing in the new epoch", c.end_and_bump(b, true).0);
    tell!("write in the old epoch", c.produce_and_add(0, a, 1).0);
    tell!("go on in the middle", c.produce_and_add(0, b, 1).0);
    tell!("begin at 0", c.produce_and_add(0, b, 0).0);
    tell!("offsets", c.commit_offset_and_add(b, 5));
    tell!("while it is open", c.offset().0);
    tell!("offsets in the old epoch", c.commit_offset_and_add(a, 6));
    let (code, d) = c.end_and_bump(b, false);
    tell!("abort", code, epoch(d));
    let (code, again) = c.end_and_bump(b, false);
    tell!("abort again", code, epoch(again));
    tell!("commit what is aborted", c.end_and_bump(b, true).0);
    tell!("an aborted offset", c.stable_offset());
    tell!("offsets alone", c.commit_offset_and_add(d, 7));
    let (code, e) = c.end_and_bump(d, true);
    tell!("commit", code, epoch(e));
    tell!("a committed offset", c.stable_offset());
    tell!("an epoch ahead", c.end_and_bump((e.0, e.1 + 1), true).0);
    tell!("another id", c.end_and_bump((e.0 + 1_000_000, e.1), true).0);
    tell!("write", c.produce_and_add(0, e, 0).0);
    let (waited, code, f) = c.init(5, (-1, -1));
    tell!("an instance during a transaction", waited, code, epoch(f));
    tell!("the fenced one commits", c.end_and_bump(e, true).0);
    tell!("the fenced one writes", c.produce_and_add(0, e, 1).0);
    let (stable, aborted) = c.stable(0);
    tell!("stable offset, aborted", stable, aborted.len() as i64);
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_broker_says_of_version_2_what_kafka_says() {
    let started = EmbeddedKafka::builder().transaction_version(2).start().unwrap();
    let ask = |bootstrap: String| async move {
        let topic = topic(&connect(&bootstrap).await, "told", 2).await;
        tokio::task::spawn_blocking(move || story_of_version_2(&bootstrap, &topic)).await.unwrap()
    };
    let embedded = ask(started.bootstrap().to_owned()).await;
    let wanted: &[(&str, &[i64])] = &[
        ("commit nothing", &[48]),
        ("abort nothing", &[0, 1]),
        ("write", &[0]),
        ("write it again", &[0]),
        ("leave a gap", &[45]),
        ("write elsewhere", &[0]),
        ("commit", &[0, 2]),
        ("commit again", &[0, 2]),
        ("abort what is committed", &[48]),
        ("commit nothing in the new epoch", &[48]),
        ("write in the old epoch", &[47]),
        ("go on in the middle", &[45]),
        ("begin at 0", &[0]),
        ("offsets", &[0]),
        ("while it is open", &[88]),
        ("offsets in the old epoch", &[47]),
        ("abort", &[0, 3]),
        ("abort again", &[0, 3]),
        ("commit what is aborted", &[48]),
        ("an aborted offset", &[-1]),
        ("offsets alone", &[0]),
        ("commit", &[0, 4]),
        ("a committed offset", &[7]),
        ("an epoch ahead", &[90]),
        ("another id", &[49]),
        ("write", &[0]),
        ("an instance during a transaction", &[1, 0, 6]),
        ("the fenced one commits", &[90]),
        ("the fenced one writes", &[47]),
        ("stable offset, aborted", &[6, 2]),
    ];
    let wanted: Vec<_> = wanted.iter().map(|(what, said)| (*what, said.to_vec())).collect();
    assert_eq!(embedded, wanted);
    if is_real()
        && let Some(bootstrap) = kafka("the_embedded_broker_says_of_version_2_what_kafka_says")
    {
        assert_eq!(ask(bootstrap).await, wanted, "a real Kafka");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_broker_says_of_transactions_what_kafka_says() {
    let started = EmbeddedKafka::start().unwrap();
    let embedded = tell(started.bootstrap()).await;
    // What a Kafka 4.3.1 said.
    let wanted: &[(&str, &[i64])] = &[
        ("init", &[0, 0]),
        ("timeout of nothing", &[50]),
        ("timeout beyond the limit", &[50]),
        ("half of the numbers", &[42]),
        ("write before adding, 9", &[48]),
        ("write before adding, 11", &[120]),
        ("add an unknown topic", &[55, 3]),
        ("end what has not begun", &[48]),
        ("add", &[0]),
        ("add again", &[0]),
        ("write", &[0, 0]),
        ("write it again", &[0, 0]),
        ("leave a gap", &[45]),
        ("write elsewhere", &[48]),
        ("write out of the transaction", &[48]),
        ("end with an epoch ahead, 1", &[47]),
        ("end with an epoch ahead, 3", &[90]),
        ("end with another id", &[49]),
        ("watermark, stable offset", &[1, 0]),
        ("commit", &[0]),
        ("commit again", &[0]),
        ("abort after it", &[48]),
        ("stable offset", &[2]),
        ("another instance", &[0, 1, 1]),
        ("the old one adds, 1", &[47]),
        ("the old one adds, 3", &[90]),
        ("the old one ends", &[90]),
        ("the new one adds", &[0]),
        ("and writes", &[0]),
        ("the old one writes", &[47]),
        ("an instance during a transaction", &[1, 0, 3]),
        ("stable offset, aborted", &[4, 1, 2]),
        ("a partition without records", &[1]),
        ("the fenced one writes", &[47]),
        ("it goes on", &[0, 4]),
        ("it asks again", &[0, 4]),
        ("somebody older goes on, 4", &[90]),
        ("somebody older goes on, 3", &[47]),
        ("offsets before adding, 3", &[48]),
        ("offsets before adding, 4", &[120]),
        ("add offsets", &[0]),
        ("offsets", &[0]),
        ("offsets of the fenced one", &[47]),
        ("while it is open", &[88]),
        ("abort", &[0]),
        ("an aborted offset", &[-1]),
        ("add offsets", &[0]),
        ("offsets", &[0]),
        ("commit", &[0]),
        ("a committed offset", &[7]),
    ];
    assert_eq!(embedded.len(), wanted.len());
    for ((what, said), (also, wanted)) in embedded.iter().zip(wanted) {
        assert_eq!((what, &said[..]), (also, *wanted));
    }
    if is_real()
        && let Some(real) = kafka("the_embedded_broker_says_of_transactions_what_kafka_says")
    {
        let real = tell(&real).await;
        assert_eq!(embedded, real);
    }
}

async fn tell(bootstrap: &str) -> Vec<(&'static str, Vec<i64>)> {
    let cluster = connect(bootstrap).await;
    let topic = topic(&cluster, "story", 3).await;
    let bootstrap = bootstrap.to_owned();
    tokio::task::spawn_blocking(move || story(&bootstrap, &topic)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn time_aborts_a_transaction_and_fences_its_producer() {
    let kafka = EmbeddedKafka::builder().manual_clock().start().unwrap();
    let cluster = connect(kafka.bootstrap()).await;
    let topic = topic(&cluster, "old", 1).await;
    let test = move || {
        let c = &mut Client::new(kafka.bootstrap(), &topic);
        let (_, _, old) = c.init(4, (-1, -1));
        assert_eq!(c.add_own(old, &[0]), [0]);
        assert_eq!(c.produce(9, 0, old, 0), (0, 0));
        assert_eq!(c.add_offsets(old), 0);
        assert_eq!(c.commit_offset(3, old, 5), 0);
        kafka.advance(Duration::from_secs(59)).unwrap();
        assert_eq!((c.fetch(0), c.offset().0), ((1, 0, vec![]), UNSTABLE));
        kafka.advance(Duration::from_secs(2)).unwrap();
        assert_eq!(c.stable(0), (2, vec![(old.0, 0)]));
        assert_eq!(c.stable_offset(), -1);
        assert_eq!(c.produce(9, 0, old, 1).0, INVALID_PRODUCER_EPOCH);
        assert_eq!(c.end(3, old, true), PRODUCER_FENCED);
        let (waited, code, new) = c.init(4, (-1, -1));
        assert_eq!((waited, code, new), (false, 0, (old.0, old.1 + 2)));
    };
    tokio::task::spawn_blocking(test).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marker_waits_until_it_cannot_be_lost_with_the_leader() {
    let kafka = EmbeddedKafka::start().unwrap();
    let cluster = connect(kafka.bootstrap()).await;
    let topic = topic(&cluster, "held", 1).await;
    let test = move || {
        let c = &mut Client::new(kafka.bootstrap(), &topic);
        let (_, _, producer) = c.init(4, (-1, -1));
        assert_eq!(c.add_own(producer, &[0]), [0]);
        kafka.hold_replication(&topic, 0, true).unwrap();
        c.acks = 1;
        assert_eq!(c.produce(9, 0, producer, 0), (0, 0));
        assert_eq!(c.try_end(3, producer, true), 0);
        assert_eq!(c.try_end(3, producer, true), CONCURRENT_TRANSACTIONS);
        assert_eq!(c.try_init(4, 60_000, (-1, -1)).0, CONCURRENT_TRANSACTIONS);
        assert_eq!(c.fetch(0), (0, 0, vec![]));
        kafka.hold_replication(&topic, 0, false).unwrap();
        assert_eq!(c.end(3, producer, true), 0);
        assert_eq!(c.stable(0), (2, vec![]));
    };
    tokio::task::spawn_blocking(test).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_not_authenticated_is_asked_to_and_then_hung_up_on() {
    let kafka = EmbeddedKafka::builder().user("alice", "secret").start().unwrap();
    let test = move || {
        let versions = m::ApiVersionsRequest::default();
        let metadata = m::MetadataRequest::default();
        let handshake = |mechanism| m::SaslHandshakeRequest::default().with_mechanism(text(mechanism));
        let token = |token| m::SaslAuthenticateRequest::default().with_auth_bytes(Bytes::from_static(token));

        let mut raw = Raw::connect(kafka.bootstrap());
        assert_eq!(raw.ask(0, &versions).error_code, 0);
        assert!(raw.try_ask(4, &metadata).is_none(), "nothing else is answered");

        let mut raw = Raw::connect(kafka.bootstrap());
        let refused = raw.ask(1, &handshake("GSSAPI"));
        assert_eq!(refused.error_code, UNSUPPORTED_SASL_MECHANISM);
        assert_eq!(refused.mechanisms, ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"].map(text));
        assert!(raw.try_ask(1, &handshake("PLAIN")).is_none());

        let mut raw = Raw::connect(kafka.bootstrap());
        assert_eq!(raw.ask(1, &handshake("PLAIN")).error_code, 0);
        let refused = raw.ask(2, &token(b"\0alice\0wrong"));
        assert_eq!(refused.error_code, SASL_AUTHENTICATION_FAILED);
        assert_eq!(refused.error_message, Some(text("Authentication failed: Invalid username or password")));
        assert!(raw.try_ask(4, &metadata).is_none());

        let mut raw = Raw::connect(kafka.bootstrap());
        assert_eq!(raw.ask(1, &handshake("PLAIN")).error_code, 0);
        assert_eq!(raw.ask(2, &token(b"\0alice\0secret")).error_code, 0);
        assert_eq!(raw.ask(4, &metadata).brokers.len(), 1);
    };
    tokio::task::spawn_blocking(test).await.unwrap();
}
