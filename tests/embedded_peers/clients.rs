//! rskafka and the Java client against the embedded broker.

use mainstem::embedded::EmbeddedKafka;
use rskafka::client::ClientBuilder;

use super::common::{connect, is_real, kafka, topic, unique, with_java};
use super::java;
use super::log::{self, CODECS, Rec};

fn records(what: &str, count: usize) -> Vec<Rec> {
    let rec = |at: usize| Rec {
        key: (!at.is_multiple_of(3)).then(|| format!("key {}", at % 7).into_bytes()),
        value: (!at.is_multiple_of(5)).then(|| format!("{what} {at}").into_bytes()),
        timestamp: 1_700_000_000_000 + at as i64,
        headers: (0..at % 3).map(|n| (format!("header {n}"), Some(vec![n as u8; n]))).collect(),
    };
    (0..count).map(rec).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn rskafka_and_this_client_read_what_the_other_writes_in_every_codec() {
    let kafka = EmbeddedKafka::builder().nodes(3).start().unwrap();
    let cluster = connect(kafka.bootstrap()).await;
    let nodes = kafka.bootstrap().split(',').map(str::to_owned).collect();
    let other = ClientBuilder::new(nodes).build().await.unwrap();
    for codec in CODECS {
        let wanted = records(codec, 500);
        let (native, foreign) = (topic(&cluster, "native", 2).await, topic(&cluster, "rskafka", 2).await);
        let all: Vec<_> = wanted.iter().map(|rec| (native.clone(), 1, rec.clone())).collect();
        log::produce(&cluster, codec, &all).await;
        for part in wanted.chunks(70) {
            log::rskafka_produce(&other, codec, &foreign, 1, part).await;
        }
        for topic in [&native, &foreign] {
            let got = log::rskafka_consume(&other, topic, 1).await;
            assert_eq!(got.len(), wanted.len(), "{codec}");
            for ((at, wanted), (offset, got)) in (0..).zip(&wanted).zip(&got) {
                assert_eq!(*offset, at);
                assert_eq!((&got.key, &got.value), (&wanted.key, &wanted.value), "{codec}");
                assert_eq!(got.headers, log::rskafka_headers(wanted));
                assert_eq!(got.timestamp.timestamp_millis(), wanted.timestamp);
            }
            let got = log::consume_all(&cluster, std::slice::from_ref(topic)).await;
            let got = &got[&(topic.clone(), 1)];
            assert!(got.iter().map(|(_, rec)| rec).eq(&wanted), "{codec}");
        }
    }
}

/// What a Java producer does in transactions, and what Java's consumers then read.
async fn java_story(bootstrap: &str) -> Vec<(String, Vec<(i64, Rec)>)> {
    let cluster = connect(bootstrap).await;
    let topic = topic(&cluster, "java", 2).await;
    let id = unique("id");
    let of = |what, count| {
        let records: Vec<Rec> = records(what, count);
        let both = records.into_iter().enumerate();
        both.map(|(at, rec)| (topic.clone(), (at % 2) as i32, rec)).collect::<Vec<_>>()
    };
    let mut story = Vec::new();
    // The last one is aborted by the next initialisation, or by its age.
    for (what, how) in [
        ("a", &[][..]),
        ("b", &["--abort"]),
        ("c", &[]),
        ("d", &["--leave-open"]),
        ("e", &[]),
        ("f", &["--abort"]),
    ] {
        let arguments = [&["--transactional-id", &*id, "--compression", "zstd"], how].concat();
        let offsets = java::produce(bootstrap, &arguments, &of(what, 40)).await;
        story.push((format!("{what} {offsets:?}"), Vec::new()));
    }
    for isolation in ["read_committed", "read_uncommitted"] {
        let logs = java::consume(bootstrap, isolation, std::slice::from_ref(&topic)).await;
        for ((_, partition), records) in logs {
            story.push((format!("{isolation} {partition}"), records));
        }
    }
    story
}

#[tokio::test(flavor = "multi_thread")]
async fn java_transactions_leave_the_same_log_as_in_kafka() {
    let test = "java_transactions_leave_the_same_log_as_in_kafka";
    let Some(_) = with_java(test) else { return };
    let embedded = EmbeddedKafka::builder().nodes(3).start().unwrap();
    let got = java_story(embedded.bootstrap()).await;
    let committed: Vec<Rec> =
        ["a", "c", "e"].iter().flat_map(|what| records(what, 40).into_iter().step_by(2)).collect();
    let (_, read) = got.iter().find(|(what, _)| what == "read_committed 0").unwrap();
    assert!(read.iter().map(|(_, rec)| rec).eq(&committed));
    if is_real()
        && let Some(real) = kafka(test)
    {
        assert_eq!(got, java_story(&real).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_java_client_logs_in_by_every_mechanism() {
    let Some(_) = with_java("the_java_client_logs_in_by_every_mechanism") else { return };
    let kafka = EmbeddedKafka::builder().user("alice", "se,cr=et").start().unwrap();
    for (mechanism, module) in [
        ("PLAIN", "plain.PlainLoginModule"),
        ("SCRAM-SHA-256", "scram.ScramLoginModule"),
        ("SCRAM-SHA-512", "scram.ScramLoginModule"),
    ] {
        let mechanism = format!("sasl.mechanism={mechanism}");
        let login = format!(
            "sasl.jaas.config=org.apache.kafka.common.security.{module} required username=\"alice\" \
             password=\"se,cr=et\";"
        );
        let settings = ["--set", "security.protocol=SASL_PLAINTEXT", "--set", &mechanism, "--set", &login];
        let one = [(unique("sasl"), 0, records("one", 1).remove(0))];
        assert_eq!(java::produce(kafka.bootstrap(), &settings, &one).await, [0]);
    }
}
