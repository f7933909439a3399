//! librdkafka as a client of the embedded broker: it produces and consumes, commits and aborts.
#![allow(clippy::unwrap_used, reason = "that is how a test fails")]

#[path = "../common/mod.rs"]
mod common;

use std::time::Duration;

use mainstem::embedded::EmbeddedKafka;
use rdkafka::ClientConfig;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use common::{connect, topic, unique};

const LIMIT: Duration = Duration::from_secs(30);

fn config(kafka: &EmbeddedKafka, settings: &[(&str, &str)]) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka.bootstrap());
    for (name, value) in settings {
        config.set(*name, *value);
    }
    config
}

fn send(producer: &BaseProducer, topic: &str, values: impl IntoIterator<Item = String>) {
    for value in values {
        let record = BaseRecord::<str, str>::to(topic).key("key").payload(&value);
        producer.send(record).map_err(|(error, _)| error).unwrap();
        producer.poll(Duration::ZERO);
    }
}

/// Reads values until there are so many.
fn read(consumer: &BaseConsumer, count: usize) -> Vec<String> {
    let mut values = Vec::new();
    // A look may also end because of something that is no record.
    let mut looks = 0..300 + count;
    while values.len() < count {
        looks.next().expect("the records come in time");
        let Some(message) = consumer.poll(LIMIT / 300) else { continue };
        let message = message.unwrap();
        values.push(String::from_utf8(message.payload().unwrap().to_vec()).unwrap());
    }
    values
}

fn values(what: &str, count: usize) -> Vec<String> {
    (0..count).map(|at| format!("{what} {at}")).collect()
}

async fn blocking(test: impl FnOnce() + Send + 'static) {
    tokio::task::spawn_blocking(test).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn librdkafka_produces_and_a_group_of_it_consumes_and_goes_on_where_it_committed() {
    let kafka = EmbeddedKafka::builder().nodes(3).start().unwrap();
    let cluster = connect(kafka.bootstrap()).await;
    let topic = topic(&cluster, "plain", 1).await;
    blocking(move || {
        let group = unique("group");
        for (settings, round, longest_poll) in [
            (&[("acks", "1")][..], "acks 1", "300000"),
            // As long as it may be: it is the rebalance timeout of a version in which a number looks like a length.
            (&[("enable.idempotence", "true"), ("compression.type", "lz4")], "idempotent", "86400000"),
        ] {
            let producer: BaseProducer = config(&kafka, settings).create().unwrap();
            send(&producer, &topic, values(round, 1_000));
            producer.flush(LIMIT).unwrap();
            let settings = [
                ("group.id", &*group),
                ("auto.offset.reset", "earliest"),
                ("enable.auto.commit", "false"),
                ("max.poll.interval.ms", longest_poll),
            ];
            let consumer: BaseConsumer = config(&kafka, &settings).create().unwrap();
            consumer.subscribe(&[&topic]).unwrap();
            assert_eq!(read(&consumer, 1_000), values(round, 1_000));
            consumer.commit_consumer_state(rdkafka::consumer::CommitMode::Sync).unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn librdkafka_commits_and_aborts_transactions_with_offsets() {
    let kafka = EmbeddedKafka::builder().nodes(3).start().unwrap();
    let cluster = connect(kafka.bootstrap()).await;
    let (input, output) = (topic(&cluster, "input", 1).await, topic(&cluster, "output", 2).await);
    blocking(move || {
        let (id, group) = (unique("id"), unique("group"));
        let source: BaseProducer = config(&kafka, &[]).create().unwrap();
        send(&source, &input, values("in", 4));
        source.flush(LIMIT).unwrap();
        let reader = || -> BaseConsumer {
            let settings =
                [("group.id", &*group), ("auto.offset.reset", "earliest"), ("enable.auto.commit", "false")];
            let consumer: BaseConsumer = config(&kafka, &settings).create().unwrap();
            consumer.subscribe(&[&input]).unwrap();
            consumer
        };
        let transactional = || -> BaseProducer {
            let producer: BaseProducer = config(&kafka, &[("transactional.id", &*id)]).create().unwrap();
            producer.init_transactions(LIMIT).unwrap();
            producer
        };
        let producer = transactional();
        let consumer = reader();
        let offsets = |offset| {
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(&input, 0, rdkafka::Offset::Offset(offset)).unwrap();
            list
        };
        assert_eq!(read(&consumer, 2), values("in", 2));
        producer.begin_transaction().unwrap();
        send(&producer, &output, values("committed", 500));
        producer
            .send_offsets_to_transaction(&offsets(2), &consumer.group_metadata().unwrap(), LIMIT)
            .unwrap();
        producer.commit_transaction(LIMIT).unwrap();

        producer.begin_transaction().unwrap();
        send(&producer, &output, values("aborted", 500));
        producer.flush(LIMIT).unwrap();
        producer
            .send_offsets_to_transaction(&offsets(4), &consumer.group_metadata().unwrap(), LIMIT)
            .unwrap();
        producer.abort_transaction(LIMIT).unwrap();

        // A new instance aborts what the old one left open, and fences it.
        producer.begin_transaction().unwrap();
        send(&producer, &output, values("left open", 5));
        producer.flush(LIMIT).unwrap();
        let newer = transactional();
        let fenced = producer.commit_transaction(LIMIT).unwrap_err();
        assert!(format!("{fenced:?}").contains("fenced by a newer instance"), "{fenced:?}");
        newer.begin_transaction().unwrap();
        send(&newer, &output, values("newer", 500));
        newer.commit_transaction(LIMIT).unwrap();

        drop(consumer);
        assert_eq!(read(&reader(), 1), ["in 2"], "the group goes on behind what was committed");
        let settings = [("group.id", "any"), ("isolation.level", "read_committed")];
        let committed: BaseConsumer = config(&kafka, &settings).create().unwrap();
        let mut all = TopicPartitionList::new();
        for partition in 0..2 {
            all.add_partition_offset(&output, partition, rdkafka::Offset::Beginning).unwrap();
        }
        committed.assign(&all).unwrap();
        assert_eq!(read(&committed, 1_000), [values("committed", 500), values("newer", 500)].concat());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn librdkafka_logs_in_with_plain_and_is_refused_with_a_wrong_password() {
    let kafka = EmbeddedKafka::builder().user("alice", "secret").start().unwrap();
    blocking(move || {
        let login = |password| {
            let settings = [
                ("security.protocol", "sasl_plaintext"),
                ("sasl.mechanism", "PLAIN"),
                ("sasl.username", "alice"),
                ("sasl.password", password),
            ];
            let consumer: BaseConsumer = config(&kafka, &settings).create().unwrap();
            consumer.fetch_metadata(None, Duration::from_secs(5)).map(|metadata| metadata.brokers().len())
        };
        assert_eq!(login("secret").unwrap(), 1);
        assert!(login("wrong").is_err());
        let anonymous: BaseConsumer = config(&kafka, &[]).create().unwrap();
        assert!(anonymous.fetch_metadata(None, Duration::from_secs(2)).is_err());
    })
    .await;
}
