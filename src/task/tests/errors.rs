//! Records that cannot be read, processed or written, and user code that panics.

use std::sync::Mutex;
use std::time::Duration;

use super::*;
use crate::Record;
use crate::error::BoxError;
use crate::task::errors::{DropReason, ErrorContext, ErrorStage};
use crate::topology::{Context, Outcome, Processor, PunctuationType, Token};

/// Fails, or panics, where its value says so.
#[derive(Clone, Copy, Default)]
struct Moody {
    swallow: bool,
    init_fails: bool,
    punctuates: bool,
}

impl Processor<String, String, String, String> for Moody {
    fn init(&mut self, cx: &mut Context<'_, String, String>) -> Outcome {
        if self.punctuates {
            cx.schedule(Duration::from_millis(10), PunctuationType::WallClockTime)?;
        }
        if self.init_fails { Err("no start".into()) } else { Ok(()) }
    }

    fn process(&mut self, record: Record<String, String>, cx: &mut Context<'_, String, String>) -> Outcome {
        match record.value.as_deref() {
            Some("fail") => return Err("as told".into()),
            Some("panic") => panic!("as told"),
            _ => {}
        }
        let forwarded = cx.forward(record);
        if self.swallow { Ok(()) } else { Ok(forwarded?) }
    }

    fn punctuate(&mut self, _: Token, _: Timestamp, _: &mut Context<'_, String, String>) -> Outcome {
        Err("bad moment".into())
    }
}

fn moody(moody: Moody, options: Options) -> Result<Rig> {
    let builder = StreamsBuilder::new();
    let processed = builder.stream::<String, String>("in").process(move |_| Ok(moody), &[]).named("moody");
    processed.try_map_values(|_, v| match v.as_deref() {
        Some("below") => Err("too deep"),
        _ => Ok(v),
    });
    processed.to("out");
    Rig::build(&builder, &[("in", 2)], options)
}

fn going_on(dead_letters: bool) -> Options {
    Options { handler: Arc::new(CONTINUE), dead_letters, ..Options::default() }
}

const BAD: [(Option<&str>, Option<&str>, Timestamp); 3] =
    [(Some("a"), Some("1"), 1), (Some("b"), Some("fail"), 2), (Some("c"), Some("3"), 3)];

fn cause(error: &Error) -> String {
    std::error::Error::source(error).map(ToString::to_string).unwrap_or_default()
}

#[test]
fn an_error_of_user_code_stops_the_task_at_its_record() {
    let mut rig = moody(Moody::default(), Options::default()).unwrap();
    let error = rig.run(&BAD).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Processing);
    assert_eq!((error.topic(), error.partition(), error.offset()), (Some("in"), Some(2), Some(1)));
    assert_eq!((error.node(), cause(&error).as_str()), (Some("moody"), "as told"));
    assert_eq!(rig.positions(), [(1, 2)], "the record counts as not processed");
}

#[test]
fn going_on_drops_and_counts() {
    let mut rig = moody(Moody::default(), going_on(false)).unwrap();
    assert_eq!(rig.run(&BAD).unwrap(), 3);
    assert_eq!(rig.texts(), ["out: a=1@1", "out: c=3@3"]);
    assert_eq!(rig.task.drops().collect::<Vec<_>>(), [("moody", DropReason::Processing, 1)]);
}

#[test]
fn an_error_below_is_the_nodes_own_and_its_siblings_go_on() {
    let mut rig = moody(Moody::default(), going_on(false)).unwrap();
    rig.run(&[(Some("a"), Some("below"), 1)]).unwrap();
    assert_eq!(rig.texts(), ["out: a=below@1"]);
    let drops: Vec<_> = rig.task.drops().collect();
    assert_eq!(drops, [("KSTREAM-MAPVALUES-0000000001", DropReason::Processing, 1)]);
}

#[test]
fn a_swallowed_failure_of_forward_fails_all_the_same() {
    let mut rig = moody(Moody { swallow: true, ..Moody::default() }, Options::default()).unwrap();
    let error = rig.run(&[(Some("a"), Some("below"), 1)]).unwrap_err();
    assert_eq!((error.node(), cause(&error).as_str()), (Some("KSTREAM-MAPVALUES-0000000001"), "too deep"));
}

#[test]
fn a_panic_becomes_an_error_with_its_place() {
    let mut rig = moody(Moody::default(), going_on(false)).unwrap();
    let error = rig.run(&[(Some("a"), Some("1"), 1), (Some("b"), Some("panic"), 2)]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Panic, "no policy covers a panic: {error:?}");
    assert_eq!((error.topic(), error.partition(), error.offset()), (Some("in"), Some(2), Some(1)));
    assert_eq!((error.node(), cause(&error).as_str()), (Some("moody"), "as told"));
}

#[test]
fn a_panic_of_a_timestamp_extractor_names_its_record() {
    let builder = StreamsBuilder::new();
    let from = crate::dsl::Consumed::<String, String>::topic("in")
        .timestamps(|r| if r.offset == 1 { panic!("no time") } else { Ok(r.record_timestamp) });
    builder.stream(from).to("out");
    let mut rig = Rig::new(&builder, Options::default());
    let error = rig.run(&BAD).unwrap_err();
    assert_eq!((error.kind(), error.offset()), (ErrorKind::Panic, Some(1)));
    assert_eq!((error.node(), error.topic()), (Some("KSTREAM-SOURCE-0000000000"), Some("in")));
}

#[test]
fn a_processor_that_cannot_start_is_not_gone_past() {
    let error = moody(Moody { init_fails: true, ..Moody::default() }, going_on(false)).err().unwrap();
    assert_eq!((error.kind(), error.node()), (ErrorKind::Processing, Some("moody")));
}

#[test]
fn a_punctuation_follows_the_processing_policy() {
    let punctuates = Moody { punctuates: true, ..Moody::default() };
    let mut rig = moody(punctuates, going_on(true)).unwrap();
    rig.clock.advance(Duration::from_millis(10));
    assert!(rig.task.punctuate_wall_clock().unwrap());
    assert_eq!(rig.task.drops().collect::<Vec<_>>(), [("moody", DropReason::Processing, 1)]);
    let dead = rig.taken().remove(0);
    assert_eq!((dead.key.as_ref(), dead.value.as_ref(), dead.timestamp), (None, None, Some(1_010)));
    assert_eq!(dead.headers.last("__streams.errors.topic").unwrap().value(), None);
    assert_eq!(dead.headers.last("__streams.errors.partition").unwrap().value(), Some(&b"-1"[..]));

    let mut rig = moody(punctuates, Options::default()).unwrap();
    rig.clock.advance(Duration::from_millis(10));
    let error = rig.task.punctuate_wall_clock().unwrap_err();
    assert_eq!((error.node(), error.topic(), error.offset()), (Some("moody"), None, None));
}

/// Names and values, in order; the stack trace is only looked at for its first line.
fn headers(sent: &Sent) -> Vec<(String, String)> {
    let text =
        |v: Option<&[u8]>| v.map_or_else(|| "null".to_owned(), |v| String::from_utf8_lossy(v).into_owned());
    sent.headers.iter().map(|h| (h.key().into_owned(), text(h.value()))).collect()
}

#[test]
fn dead_letters_have_kafka_streams_headers() {
    let mut rig = moody(Moody::default(), going_on(true)).unwrap();
    rig.run(&BAD).unwrap();
    let dead: Vec<_> = rig.taken().into_iter().filter(|s| s.topic == "dead").collect();
    assert_eq!(dead.len(), 1);
    assert_eq!(
        (dead[0].key.as_deref(), dead[0].text(), dead[0].timestamp),
        (Some("b"), "fail".into(), Some(2))
    );
    assert_eq!(dead[0].partition, None);
    let expected = [
        ("at", "1"),
        ("__streams.errors.exception", "org.apache.kafka.streams.errors.StreamsException"),
        ("__streams.errors.message", "as told"),
        ("__streams.errors.stacktrace", "org.apache.kafka.streams.errors.StreamsException: as told"),
        ("__streams.errors.topic", "in"),
        ("__streams.errors.partition", "2"),
        ("__streams.errors.offset", "1"),
    ];
    assert_eq!(headers(&dead[0]), expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
}

#[test]
fn a_failing_task_sends_its_dead_letter_first() {
    let mut rig = moody(Moody::default(), Options { dead_letters: true, ..Options::default() }).unwrap();
    rig.run(&BAD).unwrap_err();
    assert_eq!(rig.texts(), ["out: a=1@1", "dead: b=fail@2"]);
}

#[test]
fn unreadable_records_go_to_the_dead_letters_as_they_are() {
    let builder = StreamsBuilder::new();
    builder.stream::<String, i64>("in").to("out");
    let mut rig = Rig::new(&builder, going_on(true));
    rig.run(&[(Some("a"), Some("seven"), -1), (Some("b"), Some("12345678"), 2)]).unwrap();
    let sent = rig.taken();
    assert_eq!((sent[0].topic.as_str(), sent[0].text(), sent[0].timestamp), ("dead", "seven".into(), None));
    assert_eq!(headers(&sent[0])[1].1, "org.apache.kafka.common.errors.SerializationException");
    assert_eq!(headers(&sent[0])[2].1, "5 bytes instead of 8");
    assert_eq!(sent[1].topic, "out");
}

#[test]
fn a_record_that_a_topic_refuses_follows_the_production_policy() {
    let mut rig = moody(Moody::default(), going_on(true)).unwrap();
    rig.out.0.borrow_mut().broken.insert("out".into(), ErrorKind::Production);
    assert_eq!(rig.run(&[(Some("a"), Some("1"), 1)]).unwrap(), 1);
    let drops: Vec<_> = rig.task.drops().collect();
    assert_eq!(drops, [("KSTREAM-SINK-0000000002", DropReason::Production, 1)]);
    assert_eq!(rig.texts(), ["dead: a=1@1"]);

    let mut rig = moody(Moody::default(), Options::default()).unwrap();
    rig.out.0.borrow_mut().broken.insert("out".into(), ErrorKind::Production);
    let error = rig.run(&[(Some("a"), Some("1"), 1)]).unwrap_err();
    assert_eq!((error.kind(), error.node()), (ErrorKind::Production, Some("KSTREAM-SINK-0000000002")));
}

#[test]
fn a_lost_output_is_no_matter_of_policy() {
    for topic in ["out", "app-c-changelog"] {
        let builder = StreamsBuilder::new();
        builder.stream::<String, String>("in").group_by_key(()).count("c").to_stream().to("out");
        let mut rig = Rig::new(&builder, going_on(false));
        rig.out.0.borrow_mut().broken.insert(topic.into(), ErrorKind::Fenced);
        let error = rig.run(&[(Some("a"), Some("1"), 1)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Fenced, "{topic}");
        assert_eq!(rig.task.drops().count(), 0);
    }
}

#[test]
fn an_error_leaves_the_row_and_its_changelog_as_they_were() {
    let builder = StreamsBuilder::new();
    builder.stream::<String, String>("in").group_by_key(()).count("c").to_stream().to("out");
    let mut rig = Rig::new(&builder, going_on(false));
    rig.run(&[(Some("a"), Some("1"), 1)]).unwrap();
    rig.out.0.borrow_mut().broken.insert("app-c-changelog".into(), ErrorKind::Production);
    rig.push("in", 2, &[(1, Some("a"), Some("2"), 2)], 2);
    rig.process().unwrap();
    rig.out.0.borrow_mut().broken.clear();
    rig.push("in", 2, &[(2, Some("a"), Some("3"), 3)], 3);
    rig.process().unwrap();
    let out: Vec<_> = rig.counts().into_iter().filter(|l| l.starts_with("out")).collect();
    assert_eq!(out, ["out: a=1@1", "out: a=2@3"]);
}

#[test]
fn a_users_handler_decides_from_what_it_sees() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let handler = {
        let seen = seen.clone();
        move |stage: ErrorStage, error: &BoxError, at: &ErrorContext<'_>| {
            let key = at.source_key.map(|k| String::from_utf8_lossy(k).into_owned());
            let line = format!("{stage:?} {} {:?} {} {key:?} {error}", at.node, at.topic, at.offset);
            seen.lock().unwrap().push(line);
            if at.offset == 1 { ErrorResponse::Continue } else { ErrorResponse::Fail }
        }
    };
    let mut rig =
        moody(Moody::default(), Options { handler: Arc::new(handler), ..Options::default() }).unwrap();
    let fails = (Some("b"), Some("fail"), 2);
    let error = rig.run(&[(Some("a"), Some("1"), 1), fails, fails]).unwrap_err();
    assert_eq!(error.offset(), Some(2));
    assert_eq!(
        *seen.lock().unwrap(),
        [
            r#"Processing moody Some("in") 1 Some("b") as told"#,
            r#"Processing moody Some("in") 2 Some("b") as told"#
        ]
    );
}

#[test]
fn a_record_without_a_timestamp_is_refused_with_the_remedy() {
    let mut rig = moody(Moody::default(), Options::default()).unwrap();
    let error = rig.run(&[(Some("a"), Some("1"), -1)]).unwrap_err();
    assert_eq!((error.kind(), error.offset(), error.partition()), (ErrorKind::Timestamp, Some(0), Some(2)));
    assert!(error.to_string().contains("Consumed::timestamps"), "{error}");
}
