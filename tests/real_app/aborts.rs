//! Red test 5, its half on the record cache: a worker that fails between two commits takes what its cache holds back with
//! it, and whoever goes on leaves the state, the output and the changelog as if that had never been.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mainstem::client::LogRecord;
use mainstem::prelude::*;
use mainstem::{App, UncaughtErrorResponse};

use crate::support::{Rig, eventually, rig, start, text};

const PARTITIONS: i32 = 2;

/// Behind the count: commits at the value `commit`, and panics at `panic` as often as it is told to.
struct Told(Arc<AtomicU64>);

impl Processor<String, String, String, String> for Told {
    fn process(&mut self, record: Record<String, String>, cx: &mut Context<'_, String, String>) -> Outcome {
        let left = |n: u64| n.checked_sub(1);
        match record.value.as_deref() {
            Some("commit") => cx.commit(),
            Some("panic") if self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left).is_ok() => {
                panic!("on purpose")
            }
            _ => {}
        }
        Ok(())
    }
}

fn counted(input: &str, output: &str, panics: &Arc<AtomicU64>) -> Topology {
    let (builder, of_task) = (StreamsBuilder::new(), panics.clone());
    let stream = builder.stream::<String, String>(input);
    stream.group_by_key("by-key").count("counts").to_stream().to(output);
    drop(stream.process(move |_: &Stores<'_, '_>| Ok(Told(of_task.clone())), &[]));
    builder.build().unwrap()
}

type Plain = Vec<(i32, String, i64, i64)>;

/// Partition, key, count and timestamp of each record, key by key in the order of the log.
fn plain(mut records: Vec<LogRecord>) -> Plain {
    records.sort_by_key(|record| (record.key.clone(), record.offset));
    let count = |r: &LogRecord| i64::from_be_bytes(r.value.as_deref().unwrap().try_into().unwrap());
    records.iter().map(|r| (r.partition, text(&r.key), count(r), r.timestamp)).collect()
}

/// Some records of a few keys in each partition, the last of them with this value.
async fn send(rig: &Rig, input: &str, from: i64, last: &str) {
    for i in from..from + 30 {
        for partition in 0..PARTITIONS {
            rig.send(input, partition, &format!("{partition}-{}", i % 7), "v", 1_000 + i).await;
        }
    }
    rig.send(input, 0, "0-0", last, 1_000 + from + 30).await;
    rig.flush().await;
}

/// Counts with everything withheld by the cache until a record asks for a commit: after the first records and at the end.
/// In between the worker fails, or does not. Gives the table, and what the output and the changelog hold.
async fn run(panics: u64) -> (BTreeMap<String, i64>, Plain, Plain) {
    let rig = rig("aborted").await;
    let (input, output) = (rig.topic("in", PARTITIONS).await, rig.topic("out", PARTITIONS).await);
    let changelog = format!("{}-counts-changelog", rig.app_id);
    let panics = Arc::new(AtomicU64::new(panics));
    let config = rig.config().cache_bytes(10 << 20).set("commit.interval.ms", "3600000").build().unwrap();
    let app = App::builder(counted(&input, &output, &panics), config)
        .uncaught_error_handler(|_| UncaughtErrorResponse::ReplaceWorker)
        .build()
        .unwrap();
    let store = app.handle().key_value_store::<String, i64>("counts").unwrap();
    let app = start(app).running().await;
    let mut table = BTreeMap::new();
    // Readers see whole slices, and never one in which a worker has failed.
    let mut counted = async |records: i64| {
        eventually(&format!("{records} records are counted"), async || {
            let rows = store.all().and_then(Iterator::collect);
            table = rows.unwrap_or_default();
            table.values().sum::<i64>() == records
        })
        .await;
    };
    let mut commit = async |records: i64| {
        counted(records).await;
        rig.send(&input, 0, "0-0", "commit", 9_000).await;
        rig.flush().await;
        counted(records + 1).await;
        eventually("it is committed", async || {
            let mut sum = 0;
            for partition in 0..PARTITIONS {
                sum += rig.committed(&input, partition).await.map_or(0, |(offset, _)| offset);
            }
            sum == records + 1
        })
        .await;
    };
    send(&rig, &input, 0, "v").await;
    commit(61).await;
    let written = (rig.read(&output).await.len(), rig.read(&changelog).await.len());
    assert_eq!(written, (14, 14), "each key once");

    send(&rig, &input, 30, "panic").await;
    eventually("it fails", async || panics.load(Ordering::SeqCst) == 0).await;
    send(&rig, &input, 60, "v").await;
    commit(184).await;
    app.stop().await;
    (table, plain(rig.read(&output).await), plain(rig.read(&changelog).await))
}

#[tokio::test]
async fn what_a_cache_withheld_when_its_worker_failed_is_as_if_it_had_never_been() {
    let (calm, aborted) = (run(0).await, run(1).await);
    assert_eq!(aborted, calm);
    assert_eq!(calm.1.len(), 28, "each key once a commit");
}
