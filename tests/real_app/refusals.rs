//! What an application refuses to start with: each error names the thing and the remedy, in bounded time.
//!
//! Unknown properties are in `tests/config.rs`, stores of one name beside the DSL.

use mainstem::App;
use mainstem::client::NewTopic;
use mainstem::prelude::*;
use mainstem::{AppState, Config, ErrorKind};

use crate::common::unique;
use crate::support::{failure, rig, start};

fn copy(input: &str, output: &str) -> Topology {
    let builder = StreamsBuilder::new();
    builder.stream::<String, String>(input).to(output);
    builder.build().unwrap()
}

fn counted<const N: usize>(topics: [&str; N], output: &str) -> Topology {
    let builder = StreamsBuilder::new();
    builder
        .stream(Consumed::<String, String>::topics(topics))
        .filter(|_, value| !value.is_empty())
        .group_by_key("all")
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

#[tokio::test]
async fn topics_that_do_not_exist_are_all_named() {
    let rig = rig("missing-topics").await;
    let (input, output) = (unique("no-such-in"), unique("no-such-out"));
    let (error, text) =
        failure(App::new(copy(&input, &output), rig.config().build().unwrap()).unwrap()).await;
    assert_eq!(error.kind(), ErrorKind::Topic);
    says(&text, &[&input, &output, "mainstem topics create"]);
}

#[tokio::test]
async fn unequal_partition_counts_where_keys_meet_are_refused() {
    let rig = rig("unequal").await;
    let (a, b, out) = (rig.topic("a", 2).await, rig.topic("b", 3).await, rig.topic("out", 1).await);
    let (error, text) =
        failure(App::new(counted([&a, &b], &out), rig.config().build().unwrap()).unwrap()).await;
    assert_eq!(error.kind(), ErrorKind::Topic);
    says(&text, &[&format!("{a} has 2"), &format!("{b} has 3"), "repartition()"]);
    // Without keys that meet the same topics are fine.
    let builder = StreamsBuilder::new();
    builder.stream(Consumed::<String, String>::topics([&*a, &*b])).to(&out);
    let app = App::new(builder.build().unwrap(), rig.config().build().unwrap()).unwrap();
    start(app).running().await.stop().await;
}

#[tokio::test]
async fn addresses_where_nobody_answers_are_all_named_in_bounded_time() {
    let config = Config::builder("wrong-address", "127.0.0.1:1,no-such-host.invalid:9092")
        .set("default.api.timeout.ms", "3000")
        .set("request.timeout.ms", "1000")
        .build()
        .unwrap();
    let (error, text) = failure(App::new(copy("in", "out"), config).unwrap()).await;
    assert!(matches!(error.kind(), ErrorKind::Connection | ErrorKind::Timeout), "{text}");
    says(&text, &["127.0.0.1:1", "no-such-host.invalid:9092"]);
}

#[tokio::test]
async fn an_internal_topic_with_other_partitions_is_refused() {
    let rig = rig("other-partitions").await;
    let (input, output) = (rig.topic("in", 2).await, rig.topic("out", 1).await);
    let changelog = format!("{}-counts-changelog", rig.app_id);
    let topic = NewTopic::new(&changelog, 5).config("cleanup.policy", "compact");
    rig.admin().create_topic(topic).await.unwrap();
    let (error, text) =
        failure(App::new(counted([&input], &output), rig.config().build().unwrap()).unwrap()).await;
    assert_eq!((error.kind(), error.topic()), (ErrorKind::Topic, Some(&*changelog)));
    says(&text, &["has 5 partitions where 2", "application.id"]);
}

#[tokio::test]
async fn an_internal_topic_that_deletes_state_is_refused() {
    let rig = rig("other-policy").await;
    let (input, output) = (rig.topic("in", 2).await, rig.topic("out", 1).await);
    let changelog = format!("{}-counts-changelog", rig.app_id);
    rig.admin().create_topic(NewTopic::new(&changelog, 2).config("cleanup.policy", "delete")).await.unwrap();
    let (error, text) =
        failure(App::new(counted([&input], &output), rig.config().build().unwrap()).unwrap()).await;
    assert_eq!((error.kind(), error.topic()), (ErrorKind::Topic, Some(&*changelog)));
    says(&text, &["cleanup.policy=delete", "cleanup.policy=compact"]);
}

#[tokio::test]
async fn a_dead_letter_topic_that_does_not_exist_is_refused() {
    let rig = rig("no-dead-letters").await;
    let (input, output) = (rig.topic("in", 1).await, rig.topic("out", 1).await);
    let dead = unique("no-such-dead");
    let config = rig.config().set("errors.dead.letter.queue.topic.name", &dead).build().unwrap();
    let (error, text) = failure(App::new(copy(&input, &output), config).unwrap()).await;
    assert_eq!(error.kind(), ErrorKind::Topic);
    says(&text, &[&dead, "errors.dead.letter.queue.topic.name", "create it"]);
}

#[tokio::test]
async fn no_committed_offset_and_no_reset_is_refused() {
    let rig = rig("no-reset").await;
    let (input, output) = (rig.topic("in", 1).await, rig.topic("out", 1).await);
    let config = rig.config().set("auto.offset.reset", "none").build().unwrap();
    let (error, text) = failure(App::new(copy(&input, &output), config).unwrap()).await;
    assert_eq!((error.kind(), error.topic()), (ErrorKind::OffsetOutOfRange, Some(&*input)), "{text}");
    says(&text, &["auto.offset.reset"]);
}

#[tokio::test]
async fn a_source_topic_that_is_deleted_ends_the_application() {
    let rig = rig("deleted-source").await;
    let (input, other) = (rig.topic("in", 2).await, rig.topic("other", 1).await);
    let output = rig.topic("out", 1).await;
    let builder = StreamsBuilder::new();
    builder.stream(Consumed::<String, String>::topics([&*input, &*other])).to(&output);
    let config = rig.config().set("metadata.max.age.ms", "500").build().unwrap();
    let app = start(App::new(builder.build().unwrap(), config).unwrap()).running().await;
    rig.send(&other, 0, "k", "v", 1_000).await;
    rig.wait_committed(&other, 0, 1).await;

    rig.admin().delete_topics(&[&input]).await.unwrap().remove(0).unwrap();
    let handle = app.handle.clone();
    let error = app.ended().await.expect_err("it should not go on");
    assert_eq!((error.kind(), handle.state()), (ErrorKind::Topic, AppState::Error));
    says(&error.to_string(), &[&input, "deleted", "mainstem topics create", "start it again"]);
    assert!(!error.to_string().contains(&other), "{error}");
}
