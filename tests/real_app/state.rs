//! State that survives a restart, and the internal topics and commits that make it so.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use mainstem::App;
use mainstem::client::{ConfigResource, OffsetSpec};
use mainstem::prelude::*;

use crate::support::{eventually, rig, start, text};

/// The last value of each key, kept; `-` deletes the row, so that the next value begins anew.
fn joined(input: &str, output: &str) -> Topology {
    let builder = StreamsBuilder::new();
    builder
        .stream::<String, String>(input)
        .select_key(|_, value| value.chars().take(1).collect::<String>())
        .group_by_key("by-first")
        .try_reduce(
            Materialized::named("joined").changelog_config("segment.ms", "123456"),
            |before, value| Ok::<_, BoxError>((!value.ends_with('-')).then(|| format!("{before},{value}"))),
        )
        .to_stream()
        .to(output);
    builder.build().unwrap()
}

#[tokio::test]
async fn state_goes_on_after_a_restart_and_deleted_rows_stay_deleted() {
    let rig = rig("restored").await;
    let (input, output) = (rig.topic("in", 1).await, rig.topic("out", 1).await);
    let config = || {
        let config = rig.config().set("topic.segment.ms", "100000").set("topic.min.compaction.lag.ms", "7");
        config.build().unwrap()
    };
    let app = start(App::new(joined(&input, &output), config()).unwrap()).running().await;
    for (i, value) in ["a1", "b1", "a2", "b-", "c1"].into_iter().enumerate() {
        rig.send(&input, 0, "k", value, 1_000 + i as i64).await;
    }
    rig.flush().await;
    rig.texts(&output, 5).await;
    app.stop().await;

    let app = start(App::new(joined(&input, &output), config()).unwrap()).running().await;
    for value in ["a3", "b2"] {
        rig.send(&input, 0, "k", value, 2_000).await;
    }
    rig.flush().await;
    rig.texts(&output, 7).await;
    app.stop().await;
    let last: BTreeMap<String, String> = rig.texts(&output, 7).await.into_iter().collect();
    let expected = [("a", "a1,a2,a3"), ("b", "b2"), ("c", "c1")];
    assert_eq!(last, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    assert_eq!(rig.read(&output).await.len(), 7, "nothing was processed twice");

    // The changelog has a tombstone, and the topics have Java's settings; the store's own win over the application's.
    let changelog = format!("{}-joined-changelog", rig.app_id);
    let records = rig.read(&changelog).await;
    assert_eq!(records.iter().filter(|r| r.value.is_none()).map(|r| text(&r.key)).collect::<Vec<_>>(), ["b"]);
    let settings = async |topic: &str| -> BTreeMap<String, String> {
        let configs = rig.admin().describe_configs(&ConfigResource::Topic(topic.to_owned())).await.unwrap();
        configs.into_iter().map(|c| (c.name, c.value.unwrap_or_default())).collect()
    };
    let of_changelog = settings(&changelog).await;
    for (name, value) in [
        ("cleanup.policy", "compact"),
        ("message.timestamp.type", "CreateTime"),
        ("segment.ms", "123456"),
        ("min.compaction.lag.ms", "7"),
    ] {
        assert_eq!(of_changelog[name], value, "{name}");
    }
    let of_repartition = settings(&format!("{}-by-first-repartition", rig.app_id)).await;
    for (name, value) in [
        ("cleanup.policy", "delete"),
        ("segment.bytes", "52428800"),
        ("retention.ms", "-1"),
        ("message.timestamp.type", "CreateTime"),
        ("segment.ms", "100000"),
    ] {
        assert_eq!(of_repartition[name], value, "{name}");
    }
}

#[tokio::test]
async fn partition_time_is_committed_in_javas_form_and_restored() {
    let rig = rig("partition-time").await;
    let input = rig.topic("in", 1).await;
    let seen: Arc<Mutex<Vec<(i64, i64)>>> = Arc::default();
    let app = || {
        let (builder, seen) = (StreamsBuilder::new(), seen.clone());
        let consumed = Consumed::<String, String>::topic(input.as_str()).timestamps(move |record| {
            seen.lock().unwrap().push((record.offset, record.partition_time));
            Ok(record.record_timestamp)
        });
        builder.stream(consumed).for_each(|_, _| ());
        start(App::new(builder.build().unwrap(), rig.config().build().unwrap()).unwrap())
    };
    let first = app().running().await;
    rig.send(&input, 0, "k", "v", 5_000).await;
    rig.send(&input, 0, "k", "v", 4_000).await;
    rig.flush().await;
    rig.wait_committed(&input, 0, 2).await;
    first.stop().await;
    // 02, then 5000 in 8 bytes (`TopicPartitionMetadata.encode`).
    assert_eq!(rig.committed(&input, 0).await.unwrap(), (2, "AgAAAAAAABOI".to_owned()));
    let second = app().running().await;
    rig.send(&input, 0, "k", "v", 1_000).await;
    rig.flush().await;
    rig.wait_committed(&input, 0, 3).await;
    second.stop().await;
    assert_eq!(*seen.lock().unwrap(), [(0, -1), (1, 5_000), (2, 5_000)]);
    assert_eq!(rig.committed(&input, 0).await.unwrap().1, "AgAAAAAAABOI", "time does not go back");
}

#[tokio::test]
async fn repartition_topics_are_purged_up_to_the_committed_offset() {
    let rig = rig("purged").await;
    let (input, output) = (rig.topic("in", 1).await, rig.topic("out", 1).await);
    let config = rig.config().set("repartition.purge.interval.ms", "100").build().unwrap();
    let app = start(App::new(joined(&input, &output), config).unwrap()).running().await;
    for i in 0..20 {
        rig.send(&input, 0, "k", &format!("a{i}"), 1_000).await;
    }
    rig.flush().await;
    rig.texts(&output, 20).await;
    let topic = format!("{}-by-first-repartition", rig.app_id);
    eventually("the purge", async || rig.offset(&topic, 0, OffsetSpec::Earliest).await == 20).await;
    app.stop().await;
    assert_eq!(rig.committed(&topic, 0).await.unwrap().0, 20);
}

/// Keys of a topic that has grown go where Java's producer would send them.
#[tokio::test]
async fn a_sink_that_grows_gets_its_new_partitions() {
    let rig = rig("growing-sink").await;
    let (input, output) = (rig.topic("in", 1).await, rig.topic("out", 1).await);
    let builder = StreamsBuilder::new();
    builder.stream::<String, String>(&input).to(&output);
    let config = rig.config().set("metadata.max.age.ms", "500").build().unwrap();
    let app = start(App::new(builder.build().unwrap(), config).unwrap()).running().await;
    rig.send(&input, 0, "before", "v", 1).await;
    rig.flush().await;
    eventually("the first record", async || rig.read(&output).await.len() == 1).await;
    let added = rig.admin().add_partitions(&[(&output, 4)]).await.unwrap();
    assert!(added.iter().all(Result::is_ok), "{added:?}");
    let mut sent = 0;
    eventually("a key in a new partition", async || {
        rig.send(&input, 0, &format!("key-{sent}"), "v", 2).await;
        rig.flush().await;
        sent += 1;
        rig.read(&output).await.iter().any(|record| record.partition > 0)
    })
    .await;
    for i in 0..20 {
        rig.send(&input, 0, &format!("after-{i}"), "v", 3).await;
    }
    rig.flush().await;
    let after = |record: &mainstem::client::LogRecord| record.timestamp == 3;
    eventually("the last records", async || rig.read(&output).await.into_iter().filter(after).count() == 20)
        .await;
    for record in rig.read(&output).await.iter().filter(|record| after(record)) {
        let key = record.key.as_deref().unwrap();
        assert_eq!(record.partition, mainstem::partition_for_key(key, 4), "{key:?}");
    }
    app.stop().await;
}
