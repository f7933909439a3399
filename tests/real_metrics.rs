//! What an application says of itself against a real Kafka: figures that equal known numbers, spans, summaries.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    unreachable_pub,
    reason = "helpers of tests"
)]

mod common;
#[allow(dead_code, reason = "this binary uses a part of it")]
#[path = "real_group/group.rs"]
mod group;
#[allow(dead_code, reason = "this binary uses a part of it")]
#[path = "real_app/support.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use mainstem::prelude::*;
use mainstem::store::KeyValueIterator;
use mainstem::{App, AppHandle, Metric, MetricValue, TopicPartition};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use support::{Rig, eventually, rig, start};
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context as LayerContext, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, filter::LevelFilter};

/// What the process has one of, put in place by whichever test comes first: the recorder, which is empty after it was
/// looked at, so that one test looks, once; and the subscriber of spans and events.
fn observers() -> &'static (Snapshotter, Watch) {
    static OBSERVERS: OnceLock<(Snapshotter, Watch)> = OnceLock::new();
    OBSERVERS.get_or_init(|| {
        let recorder = DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        recorder.install().unwrap();
        let watch = Watch::default();
        tracing_subscriber::registry().with(watch.clone().with_filter(LevelFilter::INFO)).init();
        (snapshotter, watch)
    })
}

fn number(value: MetricValue) -> f64 {
    match value {
        MetricValue::Counter(count) => count as f64,
        MetricValue::Gauge(value) => value,
        MetricValue::Histogram { count, .. } => count as f64,
        _ => panic!("{value:?}"),
    }
}

/// All figures of a name whose labels are these, added up.
fn sum(figures: &[Metric], name: &str, labels: &[(&str, &str)]) -> f64 {
    let wanted = |m: &&Metric| m.name == name && labels.iter().all(|(l, v)| m.label(l) == Some(*v));
    figures.iter().filter(wanted).map(|m| number(m.value)).sum()
}

/// Waits until a figure is what it must become.
async fn becomes(handle: &AppHandle, name: &str, labels: &[(&str, &str)], expected: f64) {
    let mut last = 0.0;
    let reached = support::holds_within(support::DEADLINE, async || {
        last = sum(&handle.metrics(), name, labels);
        last == expected
    })
    .await;
    assert!(reached, "{name} {labels:?} is {last} and should be {expected}");
}

fn words(input: &str, output: &str) -> Topology {
    let builder = StreamsBuilder::new();
    builder
        .stream::<String, String>(input)
        .try_flat_map_values(|_, line| match line.as_deref() {
            Some("bad") => Err::<Vec<_>, BoxError>("a bad line".into()),
            line => Ok(line.unwrap_or("").split(' ').map(|w| Some(w.to_owned())).collect()),
        })
        .named("split")
        .group_by("words", |_, word| word.clone())
        .count("counts")
        .to_stream()
        .to(output);
    builder.build().unwrap()
}

const LINES: usize = 20;
const BAD: usize = 3;
const UNREADABLE: usize = 2;
/// Each line has three of five words.
const DISTINCT: usize = 5;

async fn send_lines(rig: &Rig, input: &str) {
    let word = |n: usize| format!("w{}", n % DISTINCT);
    for n in 0..LINES {
        let line = format!("{} {} {}", word(n), word(n + 1), word(n + 2));
        rig.send(input, (n % 2) as i32, "k", &line, 1_000 + n as i64).await;
    }
}

/// The figures that docs/METRICS.md promises.
fn documented() -> BTreeSet<String> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/METRICS.md")).unwrap();
    let (_, table) = text.split_once("<!-- generated below -->").unwrap();
    let names = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    names.map(str::to_owned).collect()
}

#[tokio::test]
async fn a_word_count_counts_itself() {
    let (facade, _) = observers();
    let rig = rig("counted").await;
    let (input, output) = (rig.topic("in", 2).await, rig.topic("out", 1).await);
    let config = || {
        let config = rig.config().set("metrics.recording.level", "trace").workers(2);
        let config = config.set("deserialization.exception.handler", "continue");
        config.set("processing.exception.handler", "continue")
    };
    send_lines(&rig, &input).await;
    for _ in 0..BAD {
        rig.send(&input, 0, "k", "bad", 2_000).await;
    }
    for _ in 0..UNREADABLE {
        let record = Record::new(Bytes::from_static(b"k"), Bytes::from_static(&[0xff, 0xfe]), 2_000);
        rig.producer.send(&input, Some(1), record).await.unwrap();
    }
    rig.flush().await;
    let app = App::new(words(&input, &output), config().build().unwrap()).unwrap();
    assert_eq!(app.handle().metrics(), [], "nothing is counted before it runs");
    let app = start(app).running().await;
    let handle = &app.handle;
    let repartition = format!("{}-words-repartition", rig.app_id);
    let changelog = format!("{}-counts-changelog", rig.app_id);
    let (words_sent, read) = ((LINES * 3) as f64, (LINES + BAD) as f64);

    becomes(handle, "mainstem_topic_records_produced_total", &[("topic", &output)], words_sent).await;
    for (name, labels, expected) in [
        ("mainstem_topic_records_consumed_total", vec![("topic", &*input)], read),
        ("mainstem_topic_records_consumed_total", vec![("topic", &*repartition)], words_sent),
        ("mainstem_topic_records_produced_total", vec![("topic", &*repartition)], words_sent),
        ("mainstem_topic_records_produced_total", vec![("topic", &*changelog)], words_sent),
        ("mainstem_worker_processed_records_total", vec![], read + words_sent),
        ("mainstem_task_processed_records_total", vec![], read + words_sent),
        ("mainstem_node_processed_records_total", vec![("node", "KSTREAM-SOURCE-0000000000")], read),
        ("mainstem_node_processed_records_total", vec![("node", "split")], read),
        ("mainstem_store_gets_total", vec![("store", "counts")], words_sent),
        ("mainstem_store_puts_total", vec![("store", "counts")], words_sent),
        ("mainstem_store_deletes_total", vec![], 0.0),
        ("mainstem_store_entries", vec![("store", "counts")], DISTINCT as f64),
        (
            "mainstem_dropped_records_total",
            vec![("node", "split"), ("reason", "processing error")],
            BAD as f64,
        ),
        ("mainstem_dropped_records_total", vec![("reason", "deserialization error")], UNREADABLE as f64),
        ("mainstem_dropped_records_total", vec![], (BAD + UNREADABLE) as f64),
        ("mainstem_partition_lag_records", vec![], 0.0),
        ("mainstem_task_buffered_records", vec![], 0.0),
        ("mainstem_task_restored_records_total", vec![], 0.0),
        ("mainstem_worker_tasks", vec![], 4.0),
        ("mainstem_worker_restoring_tasks", vec![], 0.0),
        ("mainstem_client_workers", vec![], 2.0),
        ("mainstem_client_failures_total", vec![], 0.0),
        ("mainstem_producer_errors_total", vec![], 0.0),
        ("mainstem_producer_buffered_bytes", vec![], 0.0),
        // Lines of a key of one byte and a value of eight, or three; words as key and value.
        ("mainstem_topic_bytes_consumed_total", vec![("topic", &*input)], (LINES * 9 + BAD * 4) as f64),
        ("mainstem_topic_bytes_consumed_total", vec![("topic", &*repartition)], words_sent * 4.0),
        ("mainstem_worker_tasks_created_total", vec![], 4.0),
        ("mainstem_worker_tasks_closed_total", vec![], 0.0),
        ("mainstem_client_tasks_lost_total", vec![], 0.0),
        ("mainstem_task_enforced_slices_total", vec![], 0.0),
        ("mainstem_worker_punctuations_total", vec![], 0.0),
        ("mainstem_worker_punctuate_seconds", vec![], 0.0),
        ("mainstem_store_scans_total", vec![], 0.0),
        ("mainstem_store_open_iterators", vec![], 0.0),
    ] {
        becomes(handle, name, &labels, expected).await;
    }
    // Every key of a count is a word of two letters, every value 8 bytes.
    let bytes = words_sent * 10.0;
    becomes(handle, "mainstem_topic_bytes_produced_total", &[("topic", &output)], bytes).await;
    let figures = handle.metrics();
    for name in [
        "mainstem_client_rebalances_total",
        "mainstem_client_rebalance_seconds",
        "mainstem_worker_commits_total",
        "mainstem_worker_commit_seconds",
        "mainstem_task_commits_total",
        "mainstem_task_process_seconds",
        "mainstem_task_record_latency_seconds",
        "mainstem_partition_fetched_bytes_total",
        "mainstem_producer_batches_total",
        "mainstem_worker_start_time_seconds",
    ] {
        assert!(sum(&figures, name, &[]) > 0.0, "{name}");
    }
    for activity in ["process", "commit", "idle"] {
        let time = sum(&figures, "mainstem_worker_time_microseconds_total", &[("activity", activity)]);
        assert!(time > 0.0, "{activity}");
    }
    assert_eq!(sum(&figures, "mainstem_client_state", &[]), 2.0, "running");
    // Every record is in one slice.
    let slices =
        figures.iter().filter(|m| m.name == "mainstem_worker_slice_records").map(|m| match m.value {
            MetricValue::Histogram { count, sum, max } => {
                assert!(count as f64 <= sum && max <= sum, "{m:?}");
                sum
            }
            _ => panic!("{m:?}"),
        });
    assert_eq!(slices.sum::<f64>(), read + words_sent);
    // Batches hold what was sent, and more.
    let payload = sum(&figures, "mainstem_topic_bytes_produced_total", &[]);
    assert!(sum(&figures, "mainstem_producer_bytes_total", &[]) > payload, "{payload}");
    let mut seen: BTreeSet<String> = figures.iter().map(|m| m.name.to_owned()).collect();
    app.stop().await;

    // Once more, with a record cache and on another disk: the state comes back, and most reads find their row in the cache.
    std::fs::remove_dir_all(rig.state_dir.path().join(&rig.app_id)).unwrap();
    let config = config().cache_bytes(1 << 20).build().unwrap();
    let app = start(App::new(words(&input, &output), config).unwrap()).running().await;
    let handle = &app.handle;
    becomes(handle, "mainstem_task_restored_records_total", &[], words_sent).await;
    becomes(handle, "mainstem_store_restored_records_total", &[("store", "counts")], words_sent).await;
    becomes(handle, "mainstem_task_restore_remaining_records", &[], 0.0).await;
    send_lines(&rig, &input).await;
    rig.flush().await;
    becomes(handle, "mainstem_topic_records_consumed_total", &[("topic", &repartition)], words_sent).await;
    becomes(handle, "mainstem_cache_misses_total", &[("store", "counts")], DISTINCT as f64).await;
    becomes(handle, "mainstem_cache_hits_total", &[("store", "counts")], words_sent - DISTINCT as f64).await;
    becomes(handle, "mainstem_task_cache_bytes", &[], 0.0).await;
    becomes(handle, "mainstem_partition_lag_records", &[], 0.0).await;
    seen.extend(handle.metrics().iter().map(|m| m.name.to_owned()));
    // There is one for each reason, once it was one.
    seen.insert("mainstem_state_wiped_total".to_owned());
    assert_eq!(seen, documented(), "docs/METRICS.md lists what there is");

    let left = app.handle.clone();
    app.stop().await;
    let left: BTreeSet<&str> = left.metrics().iter().map(|m| m.name).collect();
    let of_all = ["mainstem_client", "mainstem_memory", "mainstem_dropped_records_total"];
    assert!(left.iter().all(|m| of_all.iter().any(|all| m.starts_with(all))), "{left:?}");

    // The facade has what both runs came to, and nothing is left of what was open.
    let mut facade_sums: BTreeMap<String, f64> = BTreeMap::new();
    for (key, _, meaning, value) in facade.snapshot().into_vec() {
        let labels: BTreeMap<&str, &str> = key.key().labels().map(|l| (l.key(), l.value())).collect();
        if labels["application"] != rig.app_id {
            continue;
        }
        assert!(meaning.is_some(), "{key:?} is described");
        let value = match value {
            DebugValue::Counter(count) => count as f64,
            DebugValue::Gauge(value) => value.into_inner(),
            DebugValue::Histogram(samples) => samples.len() as f64,
        };
        *facade_sums.entry(key.key().name().to_owned()).or_default() += value;
    }
    assert_eq!(
        facade_sums["mainstem_worker_processed_records_total"],
        read + LINES as f64 + 2.0 * words_sent
    );
    assert_eq!(facade_sums["mainstem_task_restored_records_total"], words_sent);
    assert_eq!(facade_sums["mainstem_dropped_records_total"], (BAD + UNREADABLE) as f64);
    assert_eq!(facade_sums["mainstem_store_puts_total"], 2.0 * words_sent);
    assert_eq!(facade_sums["mainstem_worker_tasks_created_total"], 8.0);
    assert_eq!(facade_sums["mainstem_worker_tasks_closed_total"], 8.0);
    assert!(facade_sums["mainstem_worker_commit_seconds"] > 0.0);
    for gauge in ["mainstem_store_entries", "mainstem_worker_tasks", "mainstem_client_workers"] {
        assert_eq!(facade_sums[gauge], 0.0, "{gauge} of what is closed");
    }
}

/// Does what the records say, and counts its own punctuations.
struct Busy {
    rows: KeyValueStore<String, String>,
    held: Vec<KeyValueIterator<String, String>>,
    called: Arc<AtomicU64>,
}

impl Processor<String, String, String, String> for Busy {
    fn init(&mut self, cx: &mut Context<'_, String, String>) -> Outcome {
        cx.schedule(Duration::from_millis(10), PunctuationType::StreamTime)?;
        Ok(())
    }

    fn process(&mut self, record: Record<String, String>, cx: &mut Context<'_, String, String>) -> Outcome {
        let rows = cx.store(&self.rows);
        match record.value.as_deref() {
            Some("scan") => drop(rows.all()?.count()),
            Some("hold") => self.held.push(rows.reverse_all()?),
            Some("let go") => self.held.clear(),
            _ => {}
        }
        Ok(())
    }

    fn punctuate(&mut self, _: Token, _: Timestamp, _: &mut Context<'_, String, String>) -> Outcome {
        self.called.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// Scans, iterators, punctuations, and records behind stream time.
#[tokio::test]
async fn what_a_processor_does_is_counted() {
    let _ = observers();
    let rig = rig("busy").await;
    let input = rig.topic("in", 1).await;
    let (rows, called) = (KeyValue::<String, String>::named("rows"), Arc::<AtomicU64>::default());
    let builder = StreamsBuilder::new();
    let (of_task, rows_of_task) = (called.clone(), rows.clone());
    let supplier = move |stores: &Stores<'_, '_>| {
        Ok(Busy { rows: stores.get(&rows_of_task)?, held: Vec::new(), called: of_task.clone() })
    };
    builder
        .stream::<String, String>(&*input)
        .process(supplier, &[&rows])
        .for_each(|_: Option<&String>, _: &String| {});
    let config = rig.config().set("metrics.recording.level", "debug").build().unwrap();
    let app = start(App::new(builder.build().unwrap(), config).unwrap()).running().await;
    let handle = &app.handle;
    for (timestamp, value) in [(1_000, "scan"), (5_000, "scan"), (2_000, "hold"), (4_500, "hold")] {
        rig.send(&input, 0, "k", value, timestamp).await;
    }
    rig.flush().await;
    rig.wait_committed(&input, 0, 4).await;
    becomes(handle, "mainstem_store_scans_total", &[("store", "rows")], 4.0).await;
    becomes(handle, "mainstem_store_open_iterators", &[("store", "rows")], 2.0).await;
    becomes(handle, "mainstem_task_stream_time_seconds", &[], 5.0).await;
    becomes(handle, "mainstem_task_record_lateness_milliseconds_total", &[], 3_500.0).await;
    let punctuations = called.load(Ordering::SeqCst) as f64;
    assert!(punctuations >= 2.0, "stream time has moved twice: {punctuations}");
    becomes(handle, "mainstem_task_punctuations_total", &[], punctuations).await;
    becomes(handle, "mainstem_worker_punctuations_total", &[], punctuations).await;
    let rounds = sum(&handle.metrics(), "mainstem_worker_punctuate_seconds", &[]);
    assert!((1.0..=punctuations).contains(&rounds), "{rounds} rounds of {punctuations} calls");
    let spent =
        sum(&handle.metrics(), "mainstem_worker_time_microseconds_total", &[("activity", "punctuate")]);
    assert!(spent > 0.0);
    // The furthest is that of the last second: records 3 s behind come until it is seen.
    eventually("the furthest behind", async || {
        rig.send(&input, 0, "k", "let go", 2_000).await;
        rig.flush().await;
        sum(&handle.metrics(), "mainstem_task_record_lateness_max_milliseconds", &[]) == 3_000.0
    })
    .await;
    becomes(handle, "mainstem_store_open_iterators", &[("store", "rows")], 0.0).await;
    becomes(handle, "mainstem_task_record_lateness_max_milliseconds", &[], 0.0).await;
    app.stop().await;
}

/// An input without records is waited for, and then passed over.
#[tokio::test]
async fn slices_that_waited_in_vain_are_counted() {
    let _ = observers();
    let rig = rig("enforced").await;
    let (a, b) = (rig.topic("a", 1).await, rig.topic("b", 1).await);
    let builder = StreamsBuilder::new();
    builder.stream(Consumed::<String, String>::topics([&*a, &*b])).for_each(|_, _| {});
    let config = rig.config().set("max.task.idle.ms", "50").build().unwrap();
    let app = start(App::new(builder.build().unwrap(), config).unwrap()).running().await;
    rig.send(&a, 0, "k", "v", 1_000).await;
    rig.flush().await;
    becomes(&app.handle, "mainstem_worker_processed_records_total", &[], 1.0).await;
    becomes(&app.handle, "mainstem_task_enforced_slices_total", &[], 1.0).await;
    app.stop().await;
}

/// Somebody removes the member from its group: the next commit is refused, the tasks are lost, and come back.
#[tokio::test]
async fn lost_tasks_and_postponed_commits_are_counted() {
    let _ = observers();
    let rig = rig("evicted").await;
    let (input, output) = (rig.topic("in", 2).await, rig.topic("out", 1).await);
    let builder = StreamsBuilder::new();
    builder.stream::<String, String>(&*input).to(&*output);
    // Heartbeats are rare, so that mostly a commit is the first to find out.
    let config = rig.config().set("heartbeat.interval.ms", "5000").build().unwrap();
    let app = start(App::new(builder.build().unwrap(), config).unwrap()).running().await;
    let (mut evicted, figure) =
        (0, |name: &str| sum(&app.handle.metrics(), &format!("mainstem_{name}_total"), &[]));
    while figure("worker_commits_postponed") == 0.0 {
        assert!(evicted < 5, "no commit is ever refused");
        let mut member = String::new();
        eventually("it is a member", async || {
            let group = group::describe(&rig.broker, &rig.app_id).await.unwrap_or_default();
            member = group.members.first().map(|member| member.id.clone()).unwrap_or_default();
            group.is_stable() && group.owners(&input).len() == 2
        })
        .await;
        group::evict(&rig.broker, &rig.app_id, &member).await;
        evicted += 1;
        rig.send(&input, 0, "k", "v", 1_000).await;
        rig.flush().await;
        rig.wait_committed(&input, 0, evicted).await;
    }
    becomes(&app.handle, "mainstem_client_tasks_lost_total", &[], 2.0 * evicted as f64).await;
    assert_eq!(figure("client_failures"), 0.0);
    app.stop().await;
}

/// A topic that is missing is looked for some seconds, and the log says so meanwhile, once for each.
#[tokio::test]
async fn missing_topics_are_said_before_they_are_an_error() {
    let (_, watch) = observers();
    let rig = rig("missing").await;
    let (input, output) = (common::unique("no-such-in"), common::unique("no-such-out"));
    let app = start(App::new(words(&input, &output), rig.config().build().unwrap()).unwrap());
    let said = || {
        let seen = watch.0.lock().unwrap();
        let about = |topic: &str| {
            let text = format!("topic=\"{topic}\"");
            seen.iter()
                .filter(|seen| seen.event.contains("is not found") && seen.event.contains(&text))
                .count()
        };
        (about(&input), about(&output))
    };
    eventually("both are said", async || said() == (1, 1)).await;
    assert!(!app.task.is_finished(), "before the error");
    let error = app.ended().await.unwrap_err();
    assert!(error.to_string().contains(&input) && error.to_string().contains(&output), "{error}");
    assert_eq!(said(), (1, 1));
}

/// An event, and the spans around it: name and fields.
#[derive(Debug, Clone)]
struct Seen {
    event: String,
    spans: Vec<String>,
}

#[derive(Clone, Default)]
struct Watch(Arc<Mutex<Vec<Seen>>>);

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.push_str(&format!(" {field}={value:?}"));
    }
}

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Watch {
    fn on_new_span(
        &self,
        attributes: &tracing::span::Attributes<'_>,
        id: &tracing::Id,
        cx: LayerContext<'_, S>,
    ) {
        let mut text = Text(attributes.metadata().name().to_owned());
        attributes.record(&mut text);
        cx.span(id).unwrap().extensions_mut().insert(text);
    }

    fn on_record(&self, id: &tracing::Id, values: &tracing::span::Record<'_>, cx: LayerContext<'_, S>) {
        if let Some(text) = cx.span(id).unwrap().extensions_mut().get_mut::<Text>() {
            values.record(text);
        }
    }

    /// A span that ends is an event too.
    fn on_close(&self, id: tracing::Id, cx: LayerContext<'_, S>) {
        let spans = cx.span_scope(&id).map(texts).unwrap_or_default();
        self.0.lock().unwrap().push(Seen { event: "closed".to_owned(), spans });
    }

    fn on_event(&self, event: &tracing::Event<'_>, cx: LayerContext<'_, S>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        let spans = cx.event_scope(event).map(texts).unwrap_or_default();
        self.0.lock().unwrap().push(Seen { event: text.0, spans });
    }
}

/// The innermost first.
fn texts<'a, S: LookupSpan<'a>>(scope: tracing_subscriber::registry::Scope<'a, S>) -> Vec<String> {
    scope.filter_map(|span| span.extensions().get::<Text>().map(|text| text.0.clone())).collect()
}

#[tokio::test]
async fn spans_say_where_and_summaries_say_how_much() {
    let (_, watch) = observers();
    let rig = rig("spans").await;
    let (input, output) = (rig.topic("in", 1).await, rig.topic("out", 1).await);
    let app = || {
        let config = rig.config().set("log.summary.interval.ms", "200");
        let config = config.set("processing.exception.handler", "continue");
        start(App::new(words(&input, &output), config.build().unwrap()).unwrap())
    };
    let first = app().running().await;
    for line in ["a b", "bad", "a"] {
        rig.send(&input, 0, "k", line, 1_000).await;
    }
    rig.flush().await;
    rig.texts(&output, 3).await;
    rig.wait_committed(&input, 0, 3).await;
    let application = format!("application=\"{}\"", rig.app_id);
    // Every span of ours stands in one that names the application.
    let find = |event: &str, spans: &[&str]| {
        watch.0.lock().unwrap().iter().any(|seen| {
            seen.event.contains(event)
                && spans.len() < seen.spans.len()
                && spans.iter().zip(&seen.spans).all(|(wanted, span)| span.starts_with(wanted))
                && seen.spans.last().unwrap().contains(&application)
        })
    };
    eventually("the summary of the three records and the words", async || {
        // The summaries of the run add up.
        let seen = watch.0.lock().unwrap();
        let summaries = seen.iter().filter(|seen| {
            seen.event.contains("since the last summary")
                && seen.spans.last().is_some_and(|span| span.contains(&application))
        });
        let processed = summaries.filter_map(|seen| {
            let (_, rest) = seen.event.split_once("processed=")?;
            rest.split(' ').next()?.parse::<u64>().ok()
        });
        processed.sum::<u64>() == 6
    })
    .await;
    assert!(find("a record failed", &["task task=0_0"]), "a failure is in its task's span");
    assert!(find("closed", &["rebalance generation="]), "a rebalance has its generation");
    eventually("the end of a commit", async || find("closed", &["commit worker=0 offsets="])).await;
    first.stop().await;

    // On another disk: there is something to restore.
    std::fs::remove_dir_all(rig.state_dir.path().join(&rig.app_id)).unwrap();
    app().running().await.stop().await;
    let changelog = TopicPartition::new(format!("{}-counts-changelog", rig.app_id), 0);
    let restore = format!("restore task=1_0 store=\"counts\" changelog={changelog} from=0 to=3");
    assert!(find("restored", &[&restore]), "{:?}", watch.0.lock().unwrap());
    assert!(find("records=3", &[&restore]));
}
