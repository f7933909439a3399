//! Internal topics under several instances, and under hands that meddle with them: purged, never reset, never the wrong size.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mainstem::client::{AlterConfig, ConfigResource, NewTopic, OffsetSpec};
use mainstem::prelude::*;
use mainstem::{App, DropReason, ErrorKind, TopicPartition};

use crate::support::{Rig, eventually, failure, rig, start};

/// Counts by value, through a repartition topic.
fn counted(input: &str, output: &str) -> Topology {
    let builder = StreamsBuilder::new();
    builder
        .stream::<String, String>(input)
        .group_by("by-value", |_, value| value.clone())
        .count("counts")
        .to_stream()
        .to(output);
    builder.build().unwrap()
}

fn says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is missing: {text}");
    }
}

async fn delete_before(rig: &Rig, topic: &str, offset: i64) {
    let at = TopicPartition::new(topic, 0);
    rig.admin().delete_records(&[(at, offset)]).await.unwrap().remove(0).unwrap();
}

#[tokio::test]
async fn repartition_records_deleted_before_they_were_processed_end_the_application() {
    let rig = rig("gap").await;
    let (input, output) = (rig.topic("in", 1).await, rig.topic("out", 1).await);
    let app = |purge: &str| {
        let config = rig.config().set("repartition.purge.interval.ms", purge).build().unwrap();
        App::new(counted(&input, &output), config).unwrap()
    };
    let first = start(app("600000")).running().await;
    for _ in 0..10 {
        rig.send(&input, 0, "k", "v", 1_000).await;
    }
    rig.flush().await;
    rig.texts(&output, 10).await;
    first.stop().await;
    let topic = format!("{}-by-value-repartition", rig.app_id);
    assert_eq!(rig.committed(&topic, 0).await.unwrap().0, 10);
    for _ in 0..5 {
        rig.send(&topic, 0, "v", "v", 1_000).await;
    }
    rig.flush().await;
    delete_before(&rig, &topic, 12).await;

    let (error, text) = failure(app("600000")).await;
    assert_eq!(error.kind(), ErrorKind::OffsetOutOfRange, "{text}");
    assert_eq!((error.topic(), error.partition(), error.offset()), (Some(&*topic), Some(0), Some(10)));
    says(&error.to_string(), &["offset 10", "begins at 12", "end is 15", "--to-offset 12", "task 1_0"]);
    assert_eq!(rig.committed(&topic, 0).await.unwrap().0, 10, "it is never reset");
    assert_eq!(rig.counts(&output).await["v"], 10, "and nothing of what follows the gap is counted");
}

#[tokio::test]
async fn several_instances_purge_what_each_has_committed_and_never_more() {
    let rig = rig("purge-two").await;
    let (input, output) = (rig.topic("in", 4).await, rig.topic("out", 1).await);
    let app = || {
        let config = rig.config().set("repartition.purge.interval.ms", "100").build().unwrap();
        App::new(counted(&input, &output), config).unwrap()
    };
    let (a, b) = (start(app()).running().await, start(app()).running().await);
    let both = async || a.handle.records_processed() > 0 && b.handle.records_processed() > 0;
    let topic = format!("{}-by-value-repartition", rig.app_id);
    let never_past = async || {
        for partition in 0..4 {
            // ORDER: the purge is looked at first, so that a commit in between does not matter.
            let start = rig.offset(&topic, partition, OffsetSpec::Earliest).await;
            let committed = rig.committed(&topic, partition).await.map_or(0, |(offset, _)| offset);
            assert!(start <= committed, "{topic}-{partition}: purged to {start}, committed {committed}");
        }
    };
    for round in 0..10 {
        for i in 0..40 {
            rig.send(&input, i % 4, "k", &format!("v{}", (round + i) % 13), 1_000).await;
        }
        rig.flush().await;
        never_past().await;
    }
    rig.texts(&output, 400).await;
    eventually("both have worked", both).await;
    eventually("all four are purged to their ends", async || {
        never_past().await;
        let mut all = true;
        for partition in 0..4 {
            let start = rig.offset(&topic, partition, OffsetSpec::Earliest).await;
            all &= start == rig.offset(&topic, partition, OffsetSpec::Latest).await;
        }
        all
    })
    .await;
    a.stop().await;
    b.stop().await;
    assert_eq!(rig.counts(&output).await.values().sum::<i64>(), 400);
}

/// Whoever leads finds it; everybody ends with both counts and all the topics' names, and so does a later start.
#[tokio::test]
async fn a_source_that_grows_under_state_ends_every_instance_with_both_counts() {
    let rig = rig("grows-two").await;
    let (input, output) = (rig.topic("in", 2).await, rig.topic("out", 1).await);
    let app = || {
        let builder = StreamsBuilder::new();
        builder.stream::<String, String>(&input).group_by_key("all").count("counts").to_stream().to(&output);
        let config = rig.config().set("metadata.max.age.ms", "300").build().unwrap();
        App::new(builder.build().unwrap(), config).unwrap()
    };
    let (a, b) = (start(app()).running().await, start(app()).running().await);
    rig.admin().add_partitions(&[(&input, 3)]).await.unwrap().remove(0).unwrap();
    let changelog = format!("{}-counts-changelog", rig.app_id);
    let words = [&*changelog, "has 2 partitions where 3", &*format!("{input} has 3"), "application.id"];
    for app in [a, b] {
        let error = app.ended().await.unwrap_err();
        assert_eq!((error.kind(), error.topic()), (ErrorKind::Topic, Some(&*changelog)));
        says(&error.to_string(), &words);
    }
    let (_, text) = failure(app()).await;
    says(&text, &words);
}

/// A changelog that was once not compacted may hold records without a key: no rows, and not passed over in silence.
#[tokio::test]
async fn changelog_records_without_a_key_are_counted() {
    let rig = rig("keyless").await;
    let (input, output) = (rig.topic("in", 1).await, rig.topic("out", 1).await);
    let changelog = format!("{}-counts-changelog", rig.app_id);
    let topic = NewTopic::new(&changelog, 1).config("cleanup.policy", "delete").config("retention.ms", "-1");
    rig.admin().create_topic(topic).await.unwrap();
    for _ in 0..3 {
        rig.send(&changelog, 0, "", "of nobody", 1_000).await;
    }
    rig.flush().await;
    let compact = AlterConfig::Set("cleanup.policy".into(), "compact".into());
    rig.admin().alter_configs(&ConfigResource::Topic(changelog.clone()), &[compact]).await.unwrap();

    let app =
        start(App::new(counted(&input, &output), rig.config().build().unwrap()).unwrap()).running().await;
    assert!(
        app.handle.records_dropped().contains(&(changelog, DropReason::NullKey, 3)),
        "{:?}",
        app.handle.records_dropped()
    );
    rig.send(&input, 0, "k", "v", 1_000).await;
    rig.flush().await;
    rig.texts(&output, 1).await;
    app.stop().await;
}

/// The group's topology is its leader's. The other waits, says so, and takes over when it leads.
#[tokio::test]
async fn an_instance_of_another_topology_waits_until_it_leads() {
    let rig = rig("two-topologies").await;
    let (input, output) = (rig.topic("in", 2).await, rig.topic("out", 1).await);
    let app = |name: &str| {
        let seen = Arc::new(AtomicU64::new(0));
        let (builder, count) = (StreamsBuilder::new(), seen.clone());
        let counted = builder.stream::<String, String>(&input).peek(move |_, _| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        counted.named(name).to(&output);
        (App::new(builder.build().unwrap(), rig.config().build().unwrap()).unwrap(), seen)
    };
    let ((one, of_one), (two, of_two)) = (app("one"), app("two"));
    let one = start(one).running().await;
    let two = start(two).running().await;
    assert!(two.handle.has_other_topology() && !one.handle.has_other_topology());
    for partition in 0..2 {
        rig.send(&input, partition, "k", "v", 1_000).await;
        rig.wait_committed(&input, partition, 1).await;
    }
    assert_eq!((of_one.load(Ordering::Relaxed), of_two.load(Ordering::Relaxed)), (2, 0));
    one.stop().await;
    eventually("the other leads", async || !two.handle.has_other_topology()).await;
    for partition in 0..2 {
        rig.send(&input, partition, "k", "v", 1_000).await;
        rig.wait_committed(&input, partition, 2).await;
    }
    assert_eq!((of_one.load(Ordering::Relaxed), of_two.load(Ordering::Relaxed)), (2, 2));
    two.stop().await;
}
