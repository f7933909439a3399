//! What integration tests share.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use mainstem::client::{Admin, ClientConfig, Cluster, NewTopic};
use mainstem::embedded::EmbeddedKafka;

/// The broker to test against, or `None` with a loud line; without one under `MAINSTEM_REQUIRE_KAFKA=1` the test fails.
pub(crate) fn kafka(test: &str) -> Option<String> {
    let broker = std::env::var("MAINSTEM_KAFKA").ok().filter(|broker| !broker.is_empty());
    if broker.is_none() {
        assert_ne!(
            std::env::var("MAINSTEM_REQUIRE_KAFKA").as_deref(),
            Ok("1"),
            "{test} needs a Kafka: set MAINSTEM_KAFKA=host:port"
        );
        // Not `eprintln!`, which the test harness swallows.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED {test}: it needs a real Kafka; set MAINSTEM_KAFKA=host:port (scripts/kafka up)"
        );
    }
    broker
}

/// Whether tests run on a real Kafka.
pub(crate) fn is_real() -> bool {
    let told = std::env::var("MAINSTEM_KAFKA").is_ok_and(|broker| !broker.is_empty());
    told || std::env::var("MAINSTEM_REQUIRE_KAFKA").as_deref() == Ok("1")
}

/// The broker to test against: a real Kafka where one is told, else an embedded one that this process starts once.
pub(crate) fn broker(test: &str) -> String {
    static EMBEDDED: OnceLock<EmbeddedKafka> = OnceLock::new();
    if is_real()
        && let Some(broker) = kafka(test)
    {
        return broker;
    }
    // Topics that nobody makes are refused, as scripts/kafka has it.
    let start = || EmbeddedKafka::builder().auto_create_topics(false).start().expect("an embedded broker");
    EMBEDDED.get_or_init(start).bootstrap().to_owned()
}

/// The broker for a test that also needs Java (the client, the tools): [`broker`], where a real Kafka is told or Java is
/// said to be there by `MAINSTEM_JAVA=1`; `None` with a loud line otherwise.
pub(crate) fn with_java(test: &str) -> Option<String> {
    if is_real() || std::env::var("MAINSTEM_JAVA").as_deref() == Ok("1") {
        return Some(broker(test));
    }
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED {test}: it needs Java; set MAINSTEM_JAVA=1 (Java 17 and Maven), or MAINSTEM_KAFKA=host:port"
    );
    None
}

/// A name that no other test, run or process uses.
pub(crate) fn unique(name: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{name}-{}-{count}", uuid::Uuid::new_v4().simple())
}

/// A cluster behind a list of addresses whose first is dead.
pub(crate) async fn connect(broker: &str) -> Cluster {
    Cluster::connect(ClientConfig::new(format!("127.0.0.1:1,{broker}"))).await.expect("the broker answers")
}

/// A new topic that keeps records of any age.
pub(crate) async fn topic(cluster: &Cluster, name: &str, partitions: i32) -> String {
    let name = unique(name);
    let topic = NewTopic::new(&name, partitions).config("retention.ms", "-1");
    Admin::new(cluster).create_topic(topic).await.expect("the topic can be made");
    name
}
