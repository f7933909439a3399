//! `mainstem copy` while the broker dies: the copy has the checksums of the original. scripts/soak/copy does it at length.
#![allow(clippy::unwrap_used, reason = "that is how a test fails")]
#![allow(clippy::disallowed_methods, reason = "deadlines, and pauses between looks at a real cluster")]

mod common;
#[path = "common/nodes.rs"]
mod nodes;

use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use common::unique;
use mainstem::client::{
    Admin, ClientConfig, Cluster, Isolation, NewTopic, OffsetSpec, Producer, ProducerOptions,
};
use mainstem::clock::{Clock, SystemClock};
use mainstem::{Headers, Record, TopicPartition};
use nodes::Nodes;
use tokio::process::Command;
use tokio::time::timeout;

const RECORDS: i64 = 200_000;
const PARTITIONS: i32 = 4;

fn mainstem(bootstrap: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mainstem"));
    command.args(["--bootstrap", bootstrap]).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

fn sums(out: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(out);
    text.lines().filter(|line| line.starts_with("partition")).map(str::to_owned).collect()
}

async fn fill(cluster: &Cluster, topic: &str) {
    let producer = Producer::new(cluster, ProducerOptions::default()).unwrap();
    // A broker takes the age of a producer from the timestamps of its records, and one that was killed forgets those older
    // than producer.id.expiration.ms, a day: what it had written but not acknowledged is then written twice, whatever the
    // client. So the records are of today.
    let now = SystemClock.wall_ms();
    let header: Headers = [("h", Some(&b"1"[..])), ("h", None)].into_iter().collect();
    for at in 0..RECORDS {
        let key = (at % 11 != 0).then(|| Bytes::from(format!("key {}", at % 1_009)));
        let value = (at % 13 != 0).then(|| Bytes::from(format!("{at:0>100}")));
        let headers = if at % 17 == 0 { header.clone() } else { Headers::new() };
        let record = Record::new(key, value, now + at % 1_000).with_headers(headers);
        producer.send(topic, Some((at % i64::from(PARTITIONS)) as i32), record).await.unwrap();
    }
    producer.flush().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_through_the_death_of_the_broker_has_the_originals_checksums() {
    let nodes = Nodes::start(1).await;
    let cluster = Cluster::connect(ClientConfig::new(&nodes.bootstrap)).await.unwrap();
    let (admin, from, to) = (Admin::new(&cluster), unique("from"), unique("to"));
    for name in [&from, &to] {
        let topic = NewTopic::new(name, PARTITIONS).config("retention.ms", "-1");
        admin.create_topic(topic).await.unwrap();
    }
    fill(&cluster, &from).await;

    let mut copy = mainstem(&nodes.bootstrap, &["copy", "--from", &from, "--to", &to]).spawn().unwrap();
    let ends: Vec<_> = (0..PARTITIONS)
        .map(|partition| (TopicPartition::new(to.as_str(), partition), OffsetSpec::Latest))
        .collect();
    let copied = async || {
        let listed = admin.list_offsets(&ends, Isolation::ReadUncommitted).await.unwrap();
        listed.into_iter().map(|listed| listed.unwrap().offset.unwrap()).sum::<i64>()
    };
    while copied().await == 0 {
        assert!(copy.try_wait().unwrap().is_none(), "the copy is under way");
    }
    // Held still, so that the broker dies in the middle of the copy however fast that is.
    let pid = copy.id().expect("the copy is under way").to_string();
    let signal = async |name: &str| {
        let sent = Command::new("kill").args([name, &pid]).status().await.unwrap();
        assert!(sent.success(), "kill {name} {pid}");
    };
    signal("-STOP").await;
    assert!(copied().await < RECORDS, "the copy is in its middle");
    nodes.kill(1).await;
    signal("-CONT").await;
    nodes.revive(1).await;
    let done = timeout(Duration::from_secs(120), copy.wait_with_output());
    let done = done.await.expect("the copy ends in time").unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));

    let mut all = vec![sums(&done.stdout)];
    for name in [&from, &to] {
        let read = mainstem(&nodes.bootstrap, &["consume", name, "--checksum"]).output().await.unwrap();
        assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
        all.push(sums(&read.stdout));
    }
    assert_eq!(all[0].len(), PARTITIONS as usize, "{all:?}");
    assert!(all[0] == all[1] && all[1] == all[2], "{all:#?}");
    let count = format!("records {}", RECORDS / i64::from(PARTITIONS));
    assert!(all[0].iter().all(|line| line.contains(&count)), "{all:?}");
}
