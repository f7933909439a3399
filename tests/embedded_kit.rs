//! The test kit: typed topics of an embedded Kafka, and what they say when a test is wrong.
#![allow(clippy::unwrap_used, reason = "that is how a test fails")]
#![allow(clippy::disallowed_methods, reason = "a test ends by its deadline")]

use std::collections::BTreeMap;
use std::time::Duration;

use mainstem::ErrorKind;
use mainstem::embedded::EmbeddedKafka;
use mainstem::prelude::*;
use mainstem::serde::LongSerde;
use mainstem::serde::StringSerde;

const LONG: Duration = Duration::from_secs(60);

fn pair(key: &str, value: impl Into<Option<i64>>) -> Record<String, i64> {
    Record::new(key.to_owned(), value, 7)
}

#[tokio::test]
async fn what_is_sent_is_read_in_order_and_adds_up_to_a_table() {
    let kafka = EmbeddedKafka::start().unwrap();
    let topic = kafka.topic_with("t", 1, StringSerde, LongSerde).await.unwrap();
    let mut with_header = pair("b", 2);
    with_header.headers.add("h", Some(b"x"));
    topic.send(pair("a", 1)).await.unwrap();
    topic.send_all([with_header.clone(), pair("a", None), Record::new(None, 9, 8)]).await.unwrap();
    let expected = vec![pair("a", 1), with_header, pair("a", None), Record::new(None, 9, 8)];
    assert_eq!(topic.read().await.unwrap(), expected);
    assert_eq!(topic.wait_for(LONG, |records| records.len() == 4).await.unwrap(), expected);
    let table = topic.wait_for_table(LONG, |table| table.contains_key("b") && !table.contains_key("a"));
    assert_eq!(table.await.unwrap(), BTreeMap::from([("b".to_owned(), 2)]));
    // What is enough already is not waited for.
    assert_eq!(topic.wait_for(Duration::ZERO, |_| true).await.unwrap(), []);
}

#[tokio::test]
async fn what_comes_later_is_waited_for() {
    let kafka = EmbeddedKafka::start().unwrap();
    let topic = kafka.topic::<String, i64>("t", 3).await.unwrap();
    let (waited, sent) = tokio::join!(
        topic.wait_for(LONG, |records| records.len() == 20),
        topic.send_all((0..20).map(|n| pair(&format!("k{}", n % 5), n))),
    );
    sent.unwrap();
    let waited = waited.unwrap();
    for key in 0..5 {
        let its = waited.iter().filter(|r| r.key.as_deref() == Some(&format!("k{key}")));
        let its: Vec<i64> = its.map(|r| r.value.unwrap()).collect();
        assert_eq!(its, [key, key + 5, key + 10, key + 15], "in order");
    }
}

#[tokio::test]
async fn a_deadline_says_what_was_there() {
    let kafka = EmbeddedKafka::start().unwrap();
    let topic = kafka.topic::<String, i64>("t", 1).await.unwrap();
    topic.send_all([pair("a", 1), pair("a", 2)]).await.unwrap();
    let soon = Duration::from_millis(300);
    let error = topic.wait_for(soon, |records| records.len() == 3).await.unwrap_err();
    assert_eq!((error.kind(), error.topic()), (ErrorKind::Timeout, Some("t")));
    let text = error.to_string();
    assert!(text.contains("of 2 records the last is") && text.contains("Some(2)"), "{text}");
    let error = topic.wait_for_table(soon, |table| table.len() == 2).await.unwrap_err();
    assert!(error.to_string().contains(r#"of 2 records the table is {"a": 2}"#), "{error}");
}

#[tokio::test]
async fn a_test_that_says_something_else_than_the_topic_is_told_so() {
    let kafka = EmbeddedKafka::start().unwrap();
    let words = kafka.topic::<String, String>("t", 2).await.unwrap();
    words.send(Record::new("k".to_owned(), "no number".to_owned(), 0)).await.unwrap();
    let error = kafka.topic::<String, i64>("t", 3).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("with 2 partitions, not 3"), "{error}");
    let numbers = kafka.topic::<String, i64>("t", 2).await.unwrap();
    let error = numbers.read().await.unwrap_err();
    assert_eq!((error.kind(), error.topic(), error.offset()), (ErrorKind::Serde, Some("t"), Some(0)));
}

#[tokio::test]
async fn nothing_takes_longer_than_its_deadline_whatever_becomes_of_the_brokers() {
    let short = Duration::from_millis(300);
    let kafka = EmbeddedKafka::builder().nodes(2).start().unwrap();
    let topic = kafka.topic::<String, i64>("t", 1).await.unwrap().patience(LONG);
    topic.send(pair("a", 1)).await.unwrap();
    let topic = topic.patience(short);
    // Without the deadlines these would take a minute each.
    let all_are_late = async |what: &str| {
        let (waited, read) = (topic.wait_for(short, |_| false), topic.read());
        let late = tokio::time::timeout(Duration::from_secs(20), async {
            [waited.await.unwrap_err(), read.await.unwrap_err(), topic.send(pair("b", 2)).await.unwrap_err()]
        });
        for error in late.await.unwrap_or_else(|_| panic!("{what}: it takes too long")) {
            assert_eq!((error.kind(), error.topic()), (ErrorKind::Timeout, Some("t")), "{what}: {error:?}");
        }
    };
    let leader = kafka.leader("t", 0).unwrap();
    kafka.stop_node(leader).unwrap();
    all_are_late("the leader is stopped").await;
    kafka.start_node(leader).unwrap();
    kafka.freeze_node(1).unwrap();
    kafka.freeze_node(2).unwrap();
    all_are_late("all are frozen").await;
    kafka.thaw_node(1).unwrap();
    kafka.thaw_node(2).unwrap();
    // What was late is written in the end.
    topic.wait_for(LONG, |records| records.len() == 3).await.unwrap();
    drop(kafka);
    all_are_late("all are gone").await;
}

#[tokio::test]
async fn a_cluster_with_users_says_why_it_has_no_test_topics() {
    let kafka = EmbeddedKafka::builder().user("u", "p").start().unwrap();
    let error = kafka.topic::<String, i64>("t", 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("does not authenticate"), "{error}");
}
