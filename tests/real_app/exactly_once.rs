//! Exactly-once: offsets, outputs, repartitioned records, changelogs and what queries see move together or not at all,
//! whatever happens to a request. What claims Kafka is in `real_kills`; here every step is made to fail.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use mainstem::client::{LogRecord, Producer, ProducerOptions};
use mainstem::config::{ConfigBuilder, IsolationLevel, ProcessingGuarantee};
use mainstem::embedded::{Api, EmbeddedKafka, Fault};
use mainstem::prelude::*;
use mainstem::{App, AppHandle, MetricValue};

use crate::support::{Rig, eventually, rig_at, start, text};

const PARTITIONS: i32 = 2;
const KEYS: i64 = 11;

/// Stateless, repartitioned, counted, repartitioned again: what is counted goes out as `key` -> count.
fn pipeline(input: &str, output: &str, cached: bool) -> Topology {
    let builder = StreamsBuilder::new();
    let counts = Materialized::named("counts");
    let counts = if cached { counts } else { counts.caching_disabled() };
    builder
        .stream::<String, String>(input)
        .filter(|_, value| value != "skip")
        .group_by("by-value", |_, value: &String| value.clone())
        .count(counts)
        .to_stream()
        .select_key(|key, _| format!("k{}", key.cloned().unwrap_or_default()))
        .repartition("again")
        .to(output);
    builder.build().unwrap()
}

fn config(rig: &Rig) -> ConfigBuilder {
    rig.config()
        .processing_guarantee(ProcessingGuarantee::ExactlyOnceV2)
        .set("commit.interval.ms", "30")
        .set("retry.backoff.ms", "20")
        .set("retry.backoff.max.ms", "100")
}

/// Counted in the order of the input: every value as often as it was sent.
async fn send(rig: &Rig, input: &str, from: i64, to: i64) -> BTreeMap<String, i64> {
    let mut truth = BTreeMap::new();
    for n in 0..to {
        let value = if n % 13 == 12 { "skip".to_owned() } else { format!("v{}", n % KEYS) };
        if n >= from {
            rig.send(input, (n % 2) as i32, &format!("{n}"), &value, n).await;
        }
        if value != "skip" {
            *truth.entry(value).or_default() += 1;
        }
    }
    rig.flush().await;
    truth
}

fn count(record: &LogRecord) -> i64 {
    i64::from_be_bytes(record.value.as_deref().unwrap().try_into().unwrap())
}

/// Waits until all of it has come out, and checks that it came once, in order.
async fn comes_out_once(rig: &Rig, output: &str, truth: &BTreeMap<String, i64>) {
    let all: i64 = truth.values().sum();
    let mut records = Vec::new();
    eventually(&format!("{all} records come out"), async || {
        records = rig.read_committed(output).await;
        records.len() as i64 >= all
    })
    .await;
    let mut seen = BTreeMap::<String, i64>::new();
    for record in &records {
        let before = seen.insert(text(&record.key), count(record)).unwrap_or(0);
        assert_eq!(count(record), before + 1, "{} at {}", text(&record.key), record.offset);
    }
    let truth: BTreeMap<String, i64> = truth.iter().map(|(value, n)| (format!("k{value}"), *n)).collect();
    assert_eq!(seen, truth);
}

fn figure(handle: &AppHandle, name: &str) -> u64 {
    let of = handle.metrics().into_iter().filter(|m| m.name == name);
    of.map(|m| if let MetricValue::Counter(n) = m.value { n } else { 0 }).sum()
}

fn broker() -> EmbeddedKafka {
    EmbeddedKafka::builder().auto_create_topics(false).start().unwrap()
}

/// Fails every so many requests of one kind in another way, until so many have failed.
fn fail(kafka: &EmbeddedKafka, api: Api, every: u64, times: u64, faults: Vec<Fault>) -> Arc<AtomicU64> {
    let (asked, failed) = (AtomicU64::new(0), Arc::<AtomicU64>::default());
    let count = failed.clone();
    kafka.on(api, move |call| {
        // Not those of the test's own producer.
        if !call.client_id.starts_with("once") || (asked.fetch_add(1, Ordering::SeqCst) + 1) % every != 0 {
            return Fault::Pass;
        }
        let n = count.load(Ordering::SeqCst);
        if n >= times {
            return Fault::Pass;
        }
        count.store(n + 1, Ordering::SeqCst);
        faults[n as usize % faults.len()].clone()
    });
    failed
}

/// Each step of a transaction fails in each way that a broker or a network knows, while records go through three stages; in
/// both versions of transactions.
async fn every_way(api: Api, every: u64, faults: Vec<Fault>) {
    for version in [1, 2] {
        if version == 2 && api == Api::AddPartitionsToTxn {
            // The broker adds them itself (KIP-890).
            continue;
        }
        let kafka = EmbeddedKafka::builder().auto_create_topics(false).transaction_version(version).start();
        every_way_on(&kafka.unwrap(), api, every, faults.clone()).await;
    }
}

async fn every_way_on(kafka: &EmbeddedKafka, api: Api, every: u64, faults: Vec<Fault>) {
    let rig = rig_at(kafka.bootstrap(), "once").await;
    let (input, output) = (rig.topic("in", PARTITIONS).await, rig.topic("out", PARTITIONS).await);
    let times = faults.len() as u64;
    let failed = fail(kafka, api, every, times, faults);
    let app = App::new(pipeline(&input, &output, false), config(&rig).build().unwrap()).unwrap();
    let store = app.handle().key_value_store::<String, i64>("counts").unwrap();
    let app = start(app).running().await;
    let mut sent = 0;
    let mut truth = BTreeMap::new();
    eventually("all faults have come", async || {
        truth = send(&rig, &input, sent, sent + 40).await;
        sent += 40;
        failed.load(Ordering::SeqCst) >= times
    })
    .await;
    truth = send(&rig, &input, sent, sent + 40).await;
    comes_out_once(&rig, &output, &truth).await;
    let mut rows = BTreeMap::new();
    eventually("the store has what came out", async || {
        rows = store.all().and_then(Iterator::collect).unwrap_or_default();
        rows == truth
    })
    .await;
    let changelog = rig.read_settled(&format!("{}-counts-changelog", rig.app_id)).await;
    let fold: BTreeMap<String, i64> = changelog.iter().map(|r| (text(&r.key), count(r))).collect();
    assert_eq!(fold, truth, "the changelog");
    app.stop().await;
}

const NOT_COORDINATOR: i16 = 16;
const LOADING: i16 = 14;
const ILLEGAL_GENERATION: i16 = 22;
const UNKNOWN_MEMBER: i16 = 25;
const REBALANCE_IN_PROGRESS: i16 = 27;
const INVALID_PRODUCER_EPOCH: i16 = 47;
const CONCURRENT_TRANSACTIONS: i16 = 51;
const PRODUCER_FENCED: i16 = 90;

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_to_a_produce_everything_comes_out_once() {
    let faults = vec![
        Fault::DropBefore,
        Fault::DropAfter,
        Fault::Fail(6),
        Fault::Fail(INVALID_PRODUCER_EPOCH),
        Fault::DropAfter,
    ];
    every_way(Api::Produce, 7, faults).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_to_added_partitions_everything_comes_out_once() {
    let faults = [Fault::DropBefore, Fault::DropAfter].into_iter();
    let codes = [NOT_COORDINATOR, LOADING, CONCURRENT_TRANSACTIONS, PRODUCER_FENCED, INVALID_PRODUCER_EPOCH];
    every_way(Api::AddPartitionsToTxn, 5, faults.chain(codes.map(Fault::Fail)).collect()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_to_committed_offsets_everything_comes_out_once() {
    let faults = [Fault::DropBefore, Fault::DropAfter].into_iter();
    let codes = [
        NOT_COORDINATOR,
        LOADING,
        ILLEGAL_GENERATION,
        UNKNOWN_MEMBER,
        REBALANCE_IN_PROGRESS,
        PRODUCER_FENCED,
    ];
    every_way(Api::TxnOffsetCommit, 5, faults.chain(codes.map(Fault::Fail)).collect()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_to_the_end_of_a_transaction_everything_comes_out_once() {
    let faults = [Fault::DropBefore, Fault::DropAfter].into_iter();
    let codes = [NOT_COORDINATOR, CONCURRENT_TRANSACTIONS, INVALID_PRODUCER_EPOCH, LOADING, PRODUCER_FENCED];
    every_way(Api::EndTxn, 5, faults.chain(codes.map(Fault::Fail)).collect()).await;
}

/// Queries see what is committed, and who asks for it sees the rest; what is aborted is as if it had never been, and what a
/// record cache withheld of it too.
async fn aborted_values_are_not_seen(cached: bool) {
    let kafka = broker();
    let rig = rig_at(kafka.bootstrap(), "once").await;
    let (input, output) = (rig.topic("in", PARTITIONS).await, rig.topic("out", PARTITIONS).await);
    let builder = StreamsBuilder::new();
    let counts = Materialized::named("counts");
    let counts = if cached { counts } else { counts.caching_disabled() };
    let stream = builder.stream::<String, String>(&input);
    stream.group_by_key("by-key").count(counts).to_stream().to(&output);
    let config = config(&rig).cache_bytes(1 << 20).build().unwrap();
    let app = App::new(builder.build().unwrap(), config).unwrap();
    let store = app.handle().key_value_store::<String, i64>("counts").unwrap();
    let open = store.clone().isolation_level(IsolationLevel::ReadUncommitted);
    let rows = |store: &ReadOnlyKeyValueStore<String, i64>| -> BTreeMap<String, i64> {
        store.all().and_then(Iterator::collect).unwrap_or_default()
    };
    let send = async |from: i64, to: i64| {
        for n in from..to {
            rig.send(&input, (n % 2) as i32, &format!("k{}", n % (2 * KEYS)), "x", n).await;
        }
        rig.flush().await;
        let keys = (0..to).map(|n| format!("k{}", n % (2 * KEYS)));
        keys.fold(BTreeMap::new(), |mut truth, key| {
            *truth.entry(key).or_insert(0) += 1;
            truth
        })
    };
    let app = start(app).running().await;
    let first = send(0, 50).await;
    eventually("the first records are committed", async || rows(&store) == first).await;

    // From now on no transaction ends; after a while they are aborted instead.
    let (held, fails) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let (hold, abort) = (held.clone(), fails.clone());
    kafka.on(Api::EndTxn, move |_| match hold.load(Ordering::SeqCst) {
        true if abort.load(Ordering::SeqCst) => Fault::Fail(PRODUCER_FENCED),
        true => Fault::Fail(CONCURRENT_TRANSACTIONS),
        false => Fault::Pass,
    });
    let second = send(50, 100).await;
    eventually("who asks for it sees what is not committed", async || {
        assert_eq!(rows(&store), first);
        let seen = rows(&open);
        seen != first && seen.iter().all(|(key, n)| first.get(key).is_none_or(|before| n >= before))
    })
    .await;
    fails.store(true, Ordering::SeqCst);
    eventually("the transaction is given up", async || {
        let seen = rows(&store);
        assert!(seen.is_empty() || seen == first, "{seen:?}");
        seen.is_empty()
    })
    .await;
    held.store(false, Ordering::SeqCst);
    eventually("all records are committed", async || {
        let seen = rows(&store);
        assert!(seen.iter().all(|(key, n)| *n <= second[key]), "{seen:?}");
        seen == second
    })
    .await;
    eventually("both see the same then", async || rows(&open) == second).await;
    let mut last = BTreeMap::new();
    for record in rig.read_settled(&output).await {
        let before = last.insert(text(&record.key), count(&record)).unwrap_or(0);
        assert!(if cached { count(&record) > before } else { count(&record) == before + 1 });
    }
    assert_eq!(last, second);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_never_show_what_is_aborted() {
    aborted_values_are_not_seen(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_never_show_what_is_aborted_out_of_a_record_cache() {
    aborted_values_are_not_seen(true).await;
}

/// Counts what it has seen without a store: what a roll-back must take from it.
struct Own(u64);

impl Processor<String, String, String, u64> for Own {
    fn process(&mut self, record: Record<String, String>, cx: &mut Context<'_, String, u64>) -> Outcome {
        self.0 += 1;
        let seen = self.0;
        cx.forward(record.with_value(seen))?;
        Ok(())
    }
}

/// An abort is made good in place: the tasks go back to the last commit, with their positions and partition times, and
/// processors are built anew; no worker is replaced, nothing is restored, the group hears nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn an_abort_is_made_good_in_place() {
    let kafka = broker();
    let rig = rig_at(kafka.bootstrap(), "once").await;
    let (input, output) = (rig.topic("in", 1).await, rig.topic("out", 1).await);
    let builder = StreamsBuilder::new();
    let stream = builder.stream::<String, String>(&input);
    stream.group_by_key("by-key").count(Materialized::named("counts")).to_stream().to(&output);
    let built = Arc::new(AtomicU64::new(0));
    let count_built = built.clone();
    drop(stream.process(
        move |_: &Stores<'_, '_>| {
            count_built.fetch_add(1, Ordering::SeqCst);
            Ok(Own(0))
        },
        &[],
    ));
    let config = config(&rig).cache_bytes(1 << 20).build().unwrap();
    let app = App::new(builder.build().unwrap(), config).unwrap();
    let store = app.handle().timestamped_key_value_store::<String, i64>("counts").unwrap();
    let app = start(app).running().await;
    for n in 0..10 {
        rig.send(&input, 0, "a", "x", 1_000 + n).await;
    }
    rig.flush().await;
    rig.wait_committed(&input, 0, 10).await;
    let before = rig.committed(&input, 0).await;
    assert_eq!(built.load(Ordering::SeqCst), 1);

    // The broker asks for an abort of whatever is written next.
    let failed = fail(&kafka, Api::Produce, 1, 3, vec![Fault::Fail(INVALID_PRODUCER_EPOCH)]);
    for n in 0..10 {
        rig.send(&input, 0, "a", "x", 900 + n).await;
    }
    rig.flush().await;
    rig.wait_committed(&input, 0, 20).await;
    assert_eq!(failed.load(Ordering::SeqCst), 3);
    let aborted = figure(&app.handle, "mainstem_worker_transactions_aborted_total");
    assert_eq!(aborted, 3, "each aborted transaction once");
    assert_eq!(
        built.load(Ordering::SeqCst),
        1 + aborted,
        "the processors are built anew, and by nobody else"
    );
    let after = rig.committed(&input, 0).await;
    assert_eq!(
        after.map(|(_, metadata)| metadata),
        before.map(|(_, metadata)| metadata),
        "the partition time stays"
    );
    let seen: Vec<i64> = rig.read_settled(&output).await.iter().map(count).collect();
    assert_eq!(seen.last(), Some(&20));
    assert!(seen.is_sorted_by(|a, b| a < b), "{seen:?}");
    eventually("readers see the last count", async || {
        store.get(&"a".to_owned()).ok().flatten().is_some_and(|row| (row.value, row.timestamp) == (20, 1_009))
    })
    .await;
    app.stop().await;
}

/// A task that fails takes the transaction with it: what its worker's other tasks had in it comes again, once.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_fails_takes_nothing_of_the_others_with_it() {
    let kafka = broker();
    let rig = rig_at(kafka.bootstrap(), "once").await;
    let (input, output) = (rig.topic("in", PARTITIONS).await, rig.topic("out", PARTITIONS).await);
    let panics = Arc::new(AtomicU64::new(2));
    let left = panics.clone();
    let builder = StreamsBuilder::new();
    builder
        .stream::<String, String>(&input)
        .peek(move |_, value| {
            if value == "v5"
                && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
            {
                panic!("on purpose");
            }
        })
        .to(&output);
    let app = App::builder(builder.build().unwrap(), config(&rig).build().unwrap())
        .uncaught_error_handler(|_| mainstem::UncaughtErrorResponse::ReplaceWorker)
        .build()
        .unwrap();
    let app = start(app).running().await;
    send(&rig, &input, 0, 300).await;
    let mut keys = Vec::new();
    eventually("everything comes out", async || {
        keys =
            rig.read_committed(&output).await.iter().map(|r| text(&r.key).parse::<i64>().unwrap()).collect();
        keys.len() >= 300
    })
    .await;
    keys.sort_unstable();
    assert!(keys.iter().copied().eq(0..300), "each record once: {keys:?}");
    assert_eq!(panics.load(Ordering::SeqCst), 0);
    app.stop().await;
}

/// The same when the application ends over it: the last commit is not made for what the failed task has written.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_commit_leaves_out_what_a_failed_task_has_written() {
    let kafka = broker();
    let rig = rig_at(kafka.bootstrap(), "once").await;
    let (input, output) = (rig.topic("in", PARTITIONS).await, rig.topic("out", PARTITIONS).await);
    let (panics, seen) = (Arc::new(AtomicBool::new(true)), Arc::<AtomicU64>::default());
    let app = || {
        let (panics, seen) = (panics.clone(), seen.clone());
        let builder = StreamsBuilder::new();
        let peek = move |_: Option<&String>, value: &String| {
            seen.fetch_add(1, Ordering::SeqCst);
            assert!(value != "boom" || !panics.swap(false, Ordering::SeqCst), "on purpose");
        };
        builder.stream::<String, String>(&input).peek(peek).to(&output);
        // Nothing is committed before the end.
        let config = config(&rig).set("commit.interval.ms", "600000").set("transaction.timeout.ms", "900000");
        App::new(builder.build().unwrap(), config.build().unwrap()).unwrap()
    };
    let first = start(app()).running().await;
    send(&rig, &input, 0, 100).await;
    eventually("all are processed", async || seen.load(Ordering::SeqCst) == 100).await;
    rig.send(&input, 0, "100", "boom", 100).await;
    rig.flush().await;
    assert_eq!(first.ended().await.unwrap_err().kind(), mainstem::ErrorKind::Panic);
    let second = start(app()).running().await;
    eventually("all are processed again", async || seen.load(Ordering::SeqCst) >= 102 + 50).await;
    second.stop().await;
    let mut keys: Vec<i64> =
        rig.read_settled(&output).await.iter().map(|r| text(&r.key).parse().unwrap()).collect();
    keys.sort_unstable();
    assert!(keys.iter().copied().eq(0..101), "each record once: {keys:?}");
}

/// An application that ends in the middle leaves nothing open, and the next one goes on where it was.
#[tokio::test(flavor = "multi_thread")]
async fn restarts_in_the_middle_repeat_and_lose_nothing() {
    let kafka = broker();
    let rig = rig_at(kafka.bootstrap(), "once").await;
    let (input, output) = (rig.topic("in", PARTITIONS).await, rig.topic("out", PARTITIONS).await);
    let mut truth = BTreeMap::new();
    for round in 0..4 {
        let app =
            App::new(pipeline(&input, &output, false), config(&rig).workers(2).build().unwrap()).unwrap();
        let app = start(app).running().await;
        truth = send(&rig, &input, round * 200, (round + 1) * 200).await;
        match round {
            // In good order, or as a dropped future.
            0 | 2 => app.stop().await,
            1 => {
                app.task.abort();
                app.handle.stopped().await;
            }
            _ => {
                comes_out_once(&rig, &output, &truth).await;
                app.stop().await;
            }
        }
    }
    comes_out_once(&rig, &output, &truth).await;
}

/// Somebody who had this application's tasks is gone, with a transaction open: whoever takes them ends it, and does not wait
/// for its timeout. Those of other applications are left alone.
#[tokio::test(flavor = "multi_thread")]
async fn transactions_of_nobody_are_ended_by_whoever_takes_the_tasks() {
    let kafka = broker();
    let rig = rig_at(kafka.bootstrap(), "once").await;
    let (input, output) = (rig.topic("in", PARTITIONS).await, rig.topic("out", PARTITIONS).await);
    let other = rig.topic("other", 1).await;
    let open = async |id: String, topic: &str| {
        let options =
            ProducerOptions::default().transactional_id(id).transaction_timeout(Duration::from_secs(600));
        let producer = Producer::new(&rig.cluster, options).unwrap();
        producer.init_transactions().await.unwrap();
        producer.begin_transaction().unwrap();
        let record = Record::new(Some(Bytes::from("gone")), Some(Bytes::from("gone")), 1);
        producer.send(topic, Some(0), record).await.unwrap();
        producer.flush().await.unwrap();
        producer
    };
    let process = uuid::Uuid::new_v4();
    let _gone = open(format!("{}-{process}-3", rig.app_id), &output).await;
    let _other = open(format!("{}-eu-{process}-3", rig.app_id), &other).await;
    let app = App::new(pipeline(&input, &output, false), config(&rig).build().unwrap()).unwrap();
    let app = start(app).running().await;
    let truth = send(&rig, &input, 0, 60).await;
    // Nothing behind the open record could be read.
    comes_out_once(&rig, &output, &truth).await;
    let listed = rig.admin().list_transactions(&format!("{}-eu-", rig.app_id)).await.unwrap();
    assert_eq!(listed.iter().map(|t| &*t.state).collect::<Vec<_>>(), ["Ongoing"]);
    app.stop().await;
}
