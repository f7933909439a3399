//! What others see of the group, and members that do not fit: Kafka's own tool, a plain consumer, another topology.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use mainstem::prelude::*;
use mainstem::{App, AppState, ErrorKind};

use crate::common::with_java;
use crate::group::{Group, describe, join_as_a_consumer};
use crate::support::{Rig, Running, eventually, failure, rig, rig_at, start};

const INCONSISTENT_GROUP_PROTOCOL: i16 = 23;

fn app(rig: &Rig, topology: Topology) -> App {
    App::new(topology, rig.config().set("heartbeat.interval.ms", "300").build().unwrap()).unwrap()
}

/// Writes what it reads behind a prefix. Each prefix is a node of its own name, and so another topology.
fn prefixing(prefix: &'static str, input: &str, output: &str) -> Topology {
    let builder = StreamsBuilder::new();
    let stream = builder.stream::<String, String>(input);
    stream.map_values(move |value| format!("{prefix}{value}")).named(prefix).to(output);
    builder.build().unwrap()
}

async fn members(rig: &Rig) -> Group {
    describe(&rig.broker, &rig.app_id).await.unwrap_or_default()
}

async fn tool(arguments: &[&str]) -> Vec<Vec<String>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kafka");
    let class = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
    let mut command = tokio::process::Command::new(script);
    let output = command.args(["tool", class]).args(arguments).output().await.unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    out.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

#[tokio::test]
async fn kafka_consumer_groups_shows_who_has_what() {
    let Some(broker) = with_java("kafka_consumer_groups_shows_who_has_what") else { return };
    let rig = rig_at(&broker, "described").await;
    let (input, output) = (rig.topic("in", 4).await, rig.topic("out", 4).await);
    let topology = || prefixing("p", &input, &output);
    let (first, second) = (start(app(&rig, topology())), start(app(&rig, topology())));
    for partition in 0..4 {
        rig.send(&input, partition, "k", "v", 1).await;
    }
    rig.flush().await;
    for partition in 0..4 {
        rig.wait_committed(&input, partition, 1).await;
    }
    let mut group = Group::default();
    eventually("both have two partitions", async || {
        group = members(&rig).await;
        group.is_stable() && group.members.len() == 2 && group.members.iter().all(|m| m.partitions.len() == 2)
    })
    .await;
    let base = ["--bootstrap-server", &rig.broker, "--describe", "--group", &rig.app_id];

    let offsets = tool(&base).await;
    // GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG CONSUMER-ID HOST CLIENT-ID, perhaps more columns.
    let header = offsets.iter().find(|line| line.contains(&"CONSUMER-ID".to_owned())).expect("a header");
    let column = |name: &str| header.iter().position(|field| field == name).expect("a column");
    let rows = offsets.iter().filter(|line| line.get(1) == Some(&input));
    let owners: BTreeMap<i32, String> = rows
        .map(|row| {
            assert_eq!((&*row[column("CURRENT-OFFSET")], &*row[column("LAG")]), ("1", "0"), "{row:?}");
            (row[column("PARTITION")].parse().unwrap(), row[column("CONSUMER-ID")].clone())
        })
        .collect();
    assert_eq!(owners, group.owners(&input));

    let verbose = tool(&[&base[..], &["--members", "--verbose"]].concat()).await;
    for member in &group.members {
        let row = verbose.iter().find(|line| line.contains(&member.id)).expect("the member is listed");
        let partitions: BTreeSet<String> =
            member.partitions.iter().map(|at| at.partition.to_string()).collect();
        let listed = format!("{input}({})", partitions.into_iter().collect::<Vec<_>>().join(","));
        let listed_colon = format!("{input}:{}", listed[input.len() + 1..listed.len() - 1].to_owned());
        assert!(row.contains(&listed) || row.contains(&listed_colon), "{listed} in {verbose:?}");
    }
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn a_group_of_plain_consumers_is_left_alone() {
    let rig = rig("foreign-group").await;
    let (input, output) = (rig.topic("in", 1).await, rig.topic("out", 1).await);
    join_as_a_consumer(&rig.broker, &rig.app_id, &input).await.unwrap();
    let (error, text) = failure(app(&rig, prefixing("p", &input, &output))).await;
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::Config, Some(INCONSISTENT_GROUP_PROTOCOL)),
        "{text}"
    );
    assert!(text.contains(&rig.app_id) && text.contains("another application id"), "{text}");
    assert_eq!(members(&rig).await.members.len(), 1, "the consumer is still there");
}

#[tokio::test]
async fn a_plain_consumer_cannot_join_an_application() {
    let rig = rig("foreign-member").await;
    let (input, output) = (rig.topic("in", 1).await, rig.topic("out", 1).await);
    let app = start(app(&rig, prefixing("p", &input, &output))).running().await;
    let refused = join_as_a_consumer(&rig.broker, &rig.app_id, &input).await;
    assert_eq!(refused, Err(INCONSISTENT_GROUP_PROTOCOL));
    rig.send(&input, 0, "k", "v", 1).await;
    rig.flush().await;
    assert_eq!(rig.texts(&output, 1).await, [("k".to_owned(), "pv".to_owned())]);
    assert_eq!(app.handle.state(), AppState::Running);
    app.stop().await;
}

/// A rolling deploy of a changed topology: as long as an instance of the old one leads, the tasks stay with the old, and
/// with the last of them gone they go to the new. No record is lost, none is done twice.
#[tokio::test]
async fn a_changed_topology_can_be_rolled_out() {
    let rig = rig("rolled-out").await;
    let (input, output) = (rig.topic("in", 4).await, rig.topic("out", 4).await);
    let mut sent = 0;
    let mut send = async || {
        for partition in 0..4 {
            rig.send(&input, partition, "k", &sent.to_string(), 1).await;
            sent += 1;
        }
        rig.flush().await;
        let mut values: Vec<String> =
            rig.texts(&output, sent).await.into_iter().map(|(_, value)| value).collect();
        assert_eq!(values.len(), sent);
        let last = values.split_off(sent - 4);
        last.iter().map(|value| value.split('-').next().unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    let instance = |prefix| start(app(&rig, prefixing(prefix, &input, &output)));
    let there = async |count: usize, working: usize| {
        eventually(&format!("{working} of {count} members have tasks"), async || {
            let group = members(&rig).await;
            let some = group.members.iter().filter(|member| !member.partitions.is_empty()).count();
            group.is_stable()
                && (group.members.len(), some) == (count, working)
                && group.owners(&input).len() == 4
        })
        .await;
    };
    let (old, new) = (BTreeSet::from(["old".to_owned()]), BTreeSet::from(["new".to_owned()]));
    let alive = |running: &Running| assert!(!running.task.is_finished(), "it has ended");

    let (a, b) = (instance("old-").running().await, instance("old-"));
    there(2, 2).await;
    assert_eq!(send().await, old);
    a.stop().await;
    let a = instance("new-");
    there(2, 1).await;
    assert_eq!(send().await, old, "the tasks stay with whoever can run them");
    alive(&a);
    b.stop().await;
    there(1, 1).await;
    assert_eq!(send().await, new, "nobody has the old topology any more");
    let b = instance("new-");
    there(2, 2).await;
    assert_eq!(send().await, new);
    // Somebody comes back with the old one by mistake.
    let late = instance("old-");
    there(3, 2).await;
    assert_eq!(send().await, new);
    alive(&late);
    for app in [late, a, b] {
        app.stop().await;
    }
}

/// A hundred partitions on one instance, each with a store.
#[tokio::test]
async fn a_hundred_partitions_on_one_instance() {
    let rig = rig("hundred").await;
    let (input, output) = (rig.topic("in", 100).await, rig.topic("out", 4).await);
    let builder = StreamsBuilder::new();
    let stream = builder.stream::<String, String>(input.as_str());
    stream.group_by_key("grouped").count("counts").to_stream().to(&output);
    let config = rig.config().workers(2).build().unwrap();
    let app = start(App::new(builder.build().unwrap(), config).unwrap()).running().await;
    for round in 0..3 {
        for partition in 0..100 {
            rig.send(&input, partition, &format!("{partition}"), "v", round).await;
        }
    }
    rig.flush().await;
    eventually("everything is counted", async || {
        let counts = rig.counts(&output).await;
        counts.len() == 100 && counts.values().all(|count| *count == 3)
    })
    .await;
    assert_eq!(app.handle.records_processed(), 300);
    for partition in [0, 50, 99] {
        rig.wait_committed(&input, partition, 3).await;
    }
    app.stop().await;
}
