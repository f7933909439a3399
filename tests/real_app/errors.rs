//! What happens to records that cannot be read, processed or written.

use std::collections::BTreeMap;

use mainstem::client::LogRecord;
use mainstem::prelude::*;
use mainstem::{App, DropReason, ErrorContext, ErrorResponse, ErrorStage};

use crate::support::{Rig, eventually, failure, header, rig, start, text};

/// Copies numbers; 13 is refused by user code, 666 panics.
fn copy(input: &str, output: &str) -> Topology {
    let builder = StreamsBuilder::new();
    builder
        .stream::<String, i64>(input)
        .named("numbers")
        .try_map_values(|_, value| match value {
            Some(13) => Err("thirteen".to_owned()),
            Some(666) => panic!("the beast"),
            value => Ok(value),
        })
        .named("check")
        .to(output);
    builder.build().unwrap()
}

async fn send_numbers(rig: &Rig, topic: &str, numbers: &[i64]) {
    for number in numbers {
        // A negative one stands for bytes that are no number.
        let value = if *number < 0 { b"junk".to_vec() } else { number.to_be_bytes().to_vec() };
        let record = Record::new(Some("k".into()), Some(value.into()), 1_000);
        rig.producer.send(topic, Some(0), record).await.unwrap();
    }
    rig.flush().await;
}

fn numbers(records: &[LogRecord]) -> Vec<i64> {
    records.iter().map(|r| i64::from_be_bytes(r.value.as_deref().unwrap().try_into().unwrap())).collect()
}

/// Runs over 1, 2, `bad`, 3 under the default policy, and checks that nothing past the bad record is committed.
async fn fails_at(rig: &Rig, bad: i64) -> (Error, String) {
    let (input, output) = (rig.topic("in", 1).await, rig.topic("out", 1).await);
    send_numbers(rig, &input, &[1, 2, bad, 3]).await;
    let (error, text) =
        failure(App::new(copy(&input, &output), rig.config().build().unwrap()).unwrap()).await;
    assert_eq!(
        (error.topic(), error.partition(), error.offset()),
        (Some(&*input), Some(0), Some(2)),
        "{text}"
    );
    let committed = rig.committed(&input, 0).await.map_or(0, |(offset, _)| offset);
    assert!(committed <= 2, "{committed} is committed, past the failing record");
    (error, text)
}

#[tokio::test]
async fn a_record_that_cannot_be_read_ends_the_application_with_its_place() {
    let rig = rig("unreadable").await;
    let (error, text) = fails_at(&rig, -1).await;
    assert_eq!(error.kind(), ErrorKind::Serde, "{text}");
    assert!(text.contains("deserialization.exception.handler"), "{text}");
}

#[tokio::test]
async fn a_record_that_user_code_refuses_ends_the_application_with_its_node() {
    let rig = rig("refused").await;
    let (error, text) = fails_at(&rig, 13).await;
    assert_eq!((error.kind(), error.node()), (ErrorKind::Processing, Some("check")), "{text}");
    assert!(text.contains("thirteen"), "{text}");
}

#[tokio::test]
async fn a_panic_of_user_code_is_an_error_with_its_node() {
    let rig = rig("panic").await;
    let (error, text) = fails_at(&rig, 666).await;
    assert_eq!((error.kind(), error.node()), (ErrorKind::Panic, Some("check")), "{text}");
    assert!(text.contains("the beast"), "{text}");
}

#[tokio::test]
async fn bad_records_are_passed_over_counted_and_become_dead_letters() {
    let rig = rig("passed-over").await;
    let (input, output) = (rig.topic("in", 1).await, rig.topic("out", 1).await);
    let dead = rig.topic("dead", 1).await;
    send_numbers(&rig, &input, &[1, -1, 2, 13, 3, -1]).await;
    let config = rig
        .config()
        .set("deserialization.exception.handler", "continue")
        .set("processing.exception.handler", "continue")
        .set("errors.dead.letter.queue.topic.name", &dead);
    let app = start(App::new(copy(&input, &output), config.build().unwrap()).unwrap()).running().await;
    // The last record is a bad one: it is committed past all the same, or it would die again at every start.
    rig.wait_committed(&input, 0, 6).await;
    let dropped = app.handle.records_dropped();
    app.stop().await;
    assert_eq!(numbers(&rig.read(&output).await), [1, 2, 3]);
    let of = |node: &str, reason, count| (node.to_owned(), reason, count);
    assert_eq!(
        dropped,
        [of("check", DropReason::Processing, 1), of("numbers", DropReason::Deserialization, 2)]
    );

    let dead = rig.read(&dead).await;
    let place = |r: &LogRecord| {
        let header = |name: &str| header(&r.headers, &format!("__streams.errors.{name}"));
        (header("topic"), header("partition"), header("offset"))
    };
    let expected = |offset: &str| (input.clone(), "0".to_owned(), offset.to_owned());
    assert_eq!(dead.iter().map(place).collect::<Vec<_>>(), [expected("1"), expected("3"), expected("5")]);
    assert_eq!(
        (text(&dead[0].key), text(&dead[0].value), dead[0].timestamp),
        ("k".into(), "junk".into(), 1_000)
    );
    assert_eq!(header(&dead[1].headers, "__streams.errors.message"), "thirteen");
    let exceptions: Vec<_> = dead.iter().map(|r| header(&r.headers, "__streams.errors.exception")).collect();
    assert!(exceptions.iter().all(|name| !name.is_empty()), "{exceptions:?}");
}

#[tokio::test]
async fn a_handler_of_the_user_decides_record_by_record() {
    let rig = rig("own-handler").await;
    let (input, output) = (rig.topic("in", 1).await, rig.topic("out", 1).await);
    send_numbers(&rig, &input, &[1, 13, 2, -1, 3]).await;
    let handler = |stage: ErrorStage, _: &BoxError, context: &ErrorContext<'_>| match (stage, context.offset)
    {
        (ErrorStage::Processing, 1) => ErrorResponse::Continue,
        _ => ErrorResponse::Fail,
    };
    let app = App::builder(copy(&input, &output), rig.config().build().unwrap()).error_handler(handler);
    let (error, text) = failure(app.build().unwrap()).await;
    assert_eq!((error.kind(), error.offset()), (ErrorKind::Serde, Some(3)), "{text}");
    assert!(rig.committed(&input, 0).await.is_none_or(|(offset, _)| offset <= 3));
}

fn copy_texts(input: &str, output: &str) -> Topology {
    let builder = StreamsBuilder::new();
    builder.stream::<String, String>(input).to(Produced::topic(output).named("copies"));
    builder.build().unwrap()
}

/// Values of these lengths in one partition.
async fn send_lengths(rig: &Rig, topic: &str, lengths: &[usize]) {
    for length in lengths {
        rig.send(topic, 0, "k", &"x".repeat(*length), 1_000).await;
    }
    rig.flush().await;
}

#[tokio::test]
async fn a_record_larger_than_its_topic_takes_ends_the_application_and_nothing_is_committed_past_it() {
    let rig = rig("too-large").await;
    let input = rig.topic("in", 1).await;
    let output = rig.topic_with("out", 1, &[("max.message.bytes", "10000")]).await;
    send_lengths(&rig, &input, &[10, 20, 50_000, 30]).await;
    let (error, text) =
        failure(App::new(copy_texts(&input, &output), rig.config().build().unwrap()).unwrap()).await;
    assert_eq!((error.kind(), error.topic()), (ErrorKind::Production, Some(&*output)), "{text}");
    assert!(text.contains("max.message.bytes") && text.contains("production.exception.handler"), "{text}");
    assert!(text.contains("50"), "the size: {text}");
    let committed = rig.committed(&input, 0).await.map_or(0, |(offset, _)| offset);
    assert!(committed <= 2, "{committed} is committed, past the record that was not written");
}

#[tokio::test]
async fn records_too_large_for_the_topic_or_a_request_are_dropped_alone_and_counted_under_continue() {
    let rig = rig("too-large-continue").await;
    let input = rig.topic_with("in", 1, &[("max.message.bytes", "4000000")]).await;
    let output = rig.topic_with("out", 1, &[("max.message.bytes", "10000")]).await;
    send_lengths(&rig, &input, &[10, 20, 50_000, 30, 200_000, 40]).await;
    let config = rig
        .config()
        .set("production.exception.handler", "continue")
        .set("producer.max.request.size", "100000");
    let app = start(App::new(copy_texts(&input, &output), config.build().unwrap()).unwrap()).running().await;
    rig.wait_committed(&input, 0, 6).await;
    let dropped: BTreeMap<String, u64> =
        app.handle.records_dropped().into_iter().map(|(node, _, count)| (node, count)).collect();
    app.stop().await;
    let mut lengths: Vec<usize> =
        rig.read(&output).await.iter().map(|r| r.value.as_ref().unwrap().len()).collect();
    lengths.sort_unstable();
    assert_eq!(lengths, [10, 20, 30, 40]);
    assert_eq!(dropped, BTreeMap::from([("copies".to_owned(), 1), ("producer".to_owned(), 1)]));
}

/// Where the record came from is not known any more when the broker refuses it: it is a dead letter itself, and its
/// headers name the topic that would not have it.
#[tokio::test]
async fn a_record_that_the_broker_refuses_becomes_a_dead_letter() {
    let rig = rig("refused-letter").await;
    let (input, dead) = (rig.topic("in", 1).await, rig.topic("dead", 1).await);
    let output = rig.topic_with("out", 1, &[("max.message.bytes", "10000")]).await;
    send_lengths(&rig, &input, &[10, 50_000, 30]).await;
    let config = rig
        .config()
        .set("production.exception.handler", "continue")
        .set("errors.dead.letter.queue.topic.name", &dead);
    let app = start(App::new(copy_texts(&input, &output), config.build().unwrap()).unwrap()).running().await;
    rig.wait_committed(&input, 0, 3).await;
    app.stop().await;
    let letters = rig.read(&dead).await;
    let lengths: Vec<usize> = letters.iter().map(|r| r.value.as_ref().unwrap().len()).collect();
    assert_eq!(lengths, [50_000]);
    assert_eq!(header(&letters[0].headers, "__streams.errors.topic"), output);
    assert_eq!(rig.read(&output).await.len(), 2);
}

#[tokio::test]
async fn a_record_larger_than_a_request_ends_the_application_with_size_and_remedy() {
    let rig = rig("too-large-request").await;
    let (input, output) = (rig.topic("in", 1).await, rig.topic("out", 1).await);
    send_lengths(&rig, &input, &[10, 200_000]).await;
    let config = rig.config().set("producer.max.request.size", "100000").build().unwrap();
    let (error, text) = failure(App::new(copy_texts(&input, &output), config).unwrap()).await;
    assert_eq!((error.kind(), error.offset()), (ErrorKind::Production, Some(1)), "{text}");
    assert!(text.contains(&output) && text.contains("2000") && text.contains("max.request.size"), "{text}");
    assert!(rig.committed(&input, 0).await.is_none_or(|(offset, _)| offset <= 1));
}

#[tokio::test]
async fn a_panic_outside_of_records_ends_the_application_too() {
    let rig = rig("supplier-panics").await;
    let input = rig.topic("in", 1).await;
    struct Never;
    impl Processor<String, String, String, String> for Never {
        fn process(
            &mut self,
            _: Record<String, String>,
            _: &mut Context<'_, String, String>,
        ) -> mainstem::topology::Outcome {
            Ok(())
        }
    }
    let builder = StreamsBuilder::new();
    let supplier = |_: &Stores<'_, '_>| -> Result<Never> { panic!("no supply") };
    drop(builder.stream::<String, String>(input.as_str()).process(supplier, &[]));
    let app = App::new(builder.build().unwrap(), rig.config().build().unwrap()).unwrap();
    let (error, text) = failure(app).await;
    assert_eq!(error.kind(), ErrorKind::Panic, "{text}");
    assert!(text.contains("no supply"), "{text}");
    eventually("the end", async || true).await;
}

/// Exactly once: the transaction of a refused record is aborted, and its input is processed again without the record. The
/// others stand once each, in their order, and so does the dead letter.
#[tokio::test]
async fn exactly_once_a_refused_record_is_left_out_and_everything_else_stands_once() {
    let rig = rig("refused-once").await;
    let (input, dead) = (rig.topic("in", 1).await, rig.topic("dead", 1).await);
    let output = rig.topic_with("out", 1, &[("max.message.bytes", "10000")]).await;
    // Several refused ones in one transaction, two of them alike; and batches of their own in the next one.
    let lengths = |from: usize| {
        let length = move |at: usize| if at % 40 == 7 { 20_000 + at } else { from + at };
        let mut lengths: Vec<usize> = (0..200).map(length).collect();
        lengths.extend([20_007, 30]);
        lengths
    };
    send_lengths(&rig, &input, &lengths(100)).await;
    let config = rig
        .config()
        .set("processing.guarantee", "exactly_once_v2")
        .set("production.exception.handler", "continue")
        .set("errors.dead.letter.queue.topic.name", &dead);
    let app = start(App::new(copy_texts(&input, &output), config.build().unwrap()).unwrap()).running().await;
    rig.wait_committed(&input, 0, 202).await;
    send_lengths(&rig, &input, &lengths(1_000)).await;
    rig.wait_committed(&input, 0, 404).await;
    eventually("drops are counted", async || {
        let producers = app.handle.records_dropped().into_iter().filter(|(node, ..)| node == "producer");
        producers.map(|(_, _, count)| count).collect::<Vec<_>>() == [12]
    })
    .await;
    app.stop().await;
    let found = async |topic: &str| -> Vec<usize> {
        rig.read_committed(topic).await.iter().map(|r| r.value.as_ref().unwrap().len()).collect()
    };
    let all: Vec<usize> = lengths(100).into_iter().chain(lengths(1_000)).collect();
    let (refused, good): (Vec<usize>, Vec<usize>) = all.into_iter().partition(|length| *length > 10_000);
    assert_eq!(found(&output).await, good, "each once, in order");
    assert_eq!(found(&dead).await, refused, "each letter once, in order");
    for letter in rig.read_committed(&dead).await {
        assert_eq!(header(&letter.headers, "__streams.errors.topic"), output);
    }
}

#[tokio::test]
async fn exactly_once_a_refused_record_ends_the_application_unless_the_policy_says_otherwise() {
    let rig = rig("refused-once-fail").await;
    let input = rig.topic("in", 1).await;
    let output = rig.topic_with("out", 1, &[("max.message.bytes", "10000")]).await;
    send_lengths(&rig, &input, &[10, 20, 50_000, 30]).await;
    let config = rig.config().set("processing.guarantee", "exactly_once_v2").build().unwrap();
    let (error, text) = failure(App::new(copy_texts(&input, &output), config).unwrap()).await;
    assert_eq!((error.kind(), error.topic()), (ErrorKind::Production, Some(&*output)), "{text}");
    assert_eq!(rig.read_committed(&output).await.len(), 0);
    assert!(rig.committed(&input, 0).await.is_none_or(|(offset, _)| offset <= 2));
}
