//! What processors give when they begin and when they are closed: it belongs to the commit it was made for, or to none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use mainstem::config::{ConfigBuilder, ProcessingGuarantee};
use mainstem::embedded::{Api, EmbeddedKafka, Fault};
use mainstem::prelude::*;
use mainstem::{App, AppHandle, RestoreListener, RestoringStore};

use crate::support::{Rig, eventually, rig_at, start, text};

const NOT_LEADER_OR_FOLLOWER: i16 = 6;
const CONCURRENT_TRANSACTIONS: i16 = 51;
const TRANSACTION_ABORTABLE: i16 = 120;

/// Keeps records until it is closed, and says in its store that it was.
struct Kept {
    records: Vec<Record<String, String>>,
    store: KeyValueStore<String, String>,
    closed: Arc<AtomicU64>,
}

impl Processor<String, String, String, String> for Kept {
    fn process(&mut self, record: Record<String, String>, _: &mut Context<'_, String, String>) -> Outcome {
        self.records.push(record);
        Ok(())
    }

    fn close(&mut self, cx: &mut Context<'_, String, String>) -> Outcome {
        self.closed.fetch_add(1, Ordering::SeqCst);
        let key = format!("closed-{}", cx.task_id().partition);
        cx.store(&self.store).put(&key, "yes".to_owned())?;
        for record in std::mem::take(&mut self.records) {
            cx.forward(record)?;
        }
        Ok(())
    }
}

fn keeping(input: &str, output: &str, closed: &Arc<AtomicU64>) -> Topology {
    let builder = StreamsBuilder::new();
    let store = KeyValue::<String, String>::named("kept");
    let (get, closed) = (store.clone(), closed.clone());
    let supplier = move |stores: &Stores<'_, '_>| {
        Ok(Kept { records: Vec::new(), store: stores.get(&get)?, closed: closed.clone() })
    };
    builder.stream::<String, String>(input).process(supplier, &[&store]).to(output);
    builder.build().unwrap()
}

fn once(rig: &Rig) -> ConfigBuilder {
    rig.config()
        .processing_guarantee(ProcessingGuarantee::ExactlyOnceV2)
        .set("commit.interval.ms", "30")
        .set("retry.backoff.ms", "20")
        .set("retry.backoff.max.ms", "40")
}

fn broker() -> EmbeddedKafka {
    EmbeddedKafka::builder().auto_create_topics(false).start().unwrap()
}

async fn send(rig: &Rig, input: &str, partition: i32, from: i64, to: i64) {
    for n in from..to {
        rig.send(input, partition, &format!("k{n}"), "v", n).await;
    }
    rig.flush().await;
}

fn rows(handle: &AppHandle) -> Vec<(String, String)> {
    let store = handle.key_value_store::<String, String>("kept").unwrap();
    store.all().and_then(Iterator::collect).unwrap_or_default()
}

/// A roll-back closes the processors of what is aborted; a task that moves is closed when it is committed. What they give
/// then is in no transaction, and their stores have none of it.
#[tokio::test(flavor = "multi_thread")]
async fn exactly_once_commits_nothing_that_a_closing_processor_gives() {
    let kafka = broker();
    let rig = rig_at(kafka.bootstrap(), "closing").await;
    let (input, output) = (rig.topic("in", 2).await, rig.topic("out", 2).await);
    let (closed, failed) = (Arc::<AtomicU64>::default(), AtomicBool::new(false));
    kafka.on(Api::TxnOffsetCommit, move |_| match failed.swap(true, Ordering::SeqCst) {
        false => Fault::Fail(TRANSACTION_ABORTABLE),
        true => Fault::Pass,
    });
    let app = App::new(keeping(&input, &output, &closed), once(&rig).build().unwrap()).unwrap();
    let app = start(app).running().await;
    for partition in 0..2 {
        send(&rig, &input, partition, 0, 10).await;
    }
    for partition in 0..2 {
        rig.wait_committed(&input, partition, 10).await;
    }
    assert_eq!(closed.load(Ordering::SeqCst), 2, "both were rolled back");
    assert_eq!(rows(&app.handle), []);

    app.handle.add_worker().await.unwrap();
    eventually("a task has moved", async || closed.load(Ordering::SeqCst) == 3).await;
    for partition in 0..2 {
        send(&rig, &input, partition, 10, 20).await;
    }
    for partition in 0..2 {
        rig.wait_committed(&input, partition, 20).await;
    }
    assert_eq!(rows(&app.handle), []);
    app.stop().await;
    assert_eq!(closed.load(Ordering::SeqCst), 5);
    assert_eq!(rig.read_settled(&output).await.len(), 0);
    assert_eq!(rig.read_settled(&format!("{}-kept-changelog", rig.app_id)).await.len(), 0);
}

/// At least once it is written: before the task is another worker's, and before the application ends.
#[tokio::test(flavor = "multi_thread")]
async fn at_least_once_writes_all_that_a_closing_processor_gives() {
    let kafka = broker();
    let rig = rig_at(kafka.bootstrap(), "closing").await;
    let (input, output) = (rig.topic("in", 2).await, rig.topic("out", 2).await);
    let closed = Arc::<AtomicU64>::default();
    let (seen, changelog) = (closed.clone(), format!("{}-kept-changelog", rig.app_id));
    // Nothing goes of itself.
    let config = || rig.config().set("commit.interval.ms", "3600000").set("linger.ms", "3600000");
    let app = App::new(keeping(&input, &output, &closed), config().build().unwrap()).unwrap();
    let app = start(app).running().await;
    for partition in 0..2 {
        send(&rig, &input, partition, 0, 10).await;
    }
    eventually("all is processed", async || {
        app.handle.tasks().iter().filter(|task| task.idle_since.is_some()).count() == 2
    })
    .await;
    let before = rig.committed(&input, 0).await.is_some();
    assert!(!before, "nothing is committed yet");
    app.handle.add_worker().await.unwrap();
    eventually("a task has moved", async || seen.load(Ordering::SeqCst) == 1).await;
    eventually("both run", async || app.handle.tasks().iter().filter(|task| task.running).count() == 2).await;
    eventually("its processor's last words are there", async || rig.read(&output).await.len() == 10).await;
    eventually("the store has them", async || rows(&app.handle).len() == 1).await;
    app.stop().await;
    assert_eq!(closed.load(Ordering::SeqCst), 3);
    let records = rig.read(&output).await;
    assert_eq!(records.len(), 20, "those of the other as well");
    let mut keys: Vec<String> = rig.read(&changelog).await.iter().map(|record| text(&record.key)).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys, ["closed-0", "closed-1"]);
    let app = start(App::new(keeping(&input, &output, &closed), config().build().unwrap()).unwrap());
    let app = app.running().await;
    eventually("the stores have all of it", async || rows(&app.handle).len() == 2).await;
    app.stop().await;
}

/// The task of partition 1 counts how often it begins.
struct Begins(KeyValueStore<String, i64>);

impl Processor<String, String, String, i64> for Begins {
    fn init(&mut self, cx: &mut Context<'_, String, i64>) -> Outcome {
        if cx.task_id().partition == 1 {
            let key = "begins".to_owned();
            let begins = cx.store(&self.0).get(&key)?.unwrap_or(0) + 1;
            cx.store(&self.0).put(&key, begins)?;
        }
        Ok(())
    }

    fn process(&mut self, _: Record<String, String>, _: &mut Context<'_, String, i64>) -> Outcome {
        Ok(())
    }
}

#[derive(Clone, Default)]
struct Ends(Arc<AtomicU64>);

impl RestoreListener for Ends {
    fn on_restore_end(&self, _: &RestoringStore, records: u64) {
        self.0.fetch_add(records, Ordering::SeqCst);
    }
}

fn begins(input: &str) -> Topology {
    let builder = StreamsBuilder::new();
    let store = KeyValue::<String, i64>::named("begins");
    let get = store.clone();
    let supplier = move |stores: &Stores<'_, '_>| Ok(Begins(stores.get(&get)?));
    drop(builder.stream::<String, String>(input).process(supplier, &[&store]));
    builder.build().unwrap()
}

/// A task whose restore ends while the worker waits for a commit has no part in that commit: what it puts when it begins is
/// of the next transaction, and goes when that is aborted.
#[tokio::test(flavor = "multi_thread")]
async fn what_begins_while_a_commit_waits_is_not_committed_with_it() {
    let kafka = broker();
    let rig = rig_at(kafka.bootstrap(), "begins").await;
    let input = rig.topic("in", 2).await;
    let first = start(App::new(begins(&input), once(&rig).build().unwrap()).unwrap()).running().await;
    let changelog = format!("{}-begins-changelog", rig.app_id);
    eventually("the first run is committed", async || rig.read_committed(&changelog).await.len() == 1).await;
    first.stop().await;

    let (restores, asked) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
    let (restore, ends) = (restores.clone(), Ends::default());
    // Only the task of partition 1 has something to restore. The other begins at once and is committed.
    let topic = rig.admin().describe_topics(&[&*changelog]).await.unwrap().remove(0).unwrap();
    let names = [topic.name.as_bytes().to_vec(), topic.id.unwrap().into_bytes().to_vec()];
    kafka.on(Api::Fetch, move |call| {
        let says = |name: &Vec<u8>| call.body.windows(name.len()).any(|bytes| bytes == name);
        let of_changelog = names.iter().any(says);
        match of_changelog && !restore.load(Ordering::SeqCst) {
            true => Fault::Fail(NOT_LEADER_OR_FOLLOWER),
            false => Fault::Pass,
        }
    });
    // 0: no commit passes; 1: one does; 2: it has; 3: the next one is aborted; 4: it was.
    let stage = Arc::<AtomicU64>::default();
    let (at, count) = (stage.clone(), asked.clone());
    let group = rig.app_id.clone();
    kafka.on(Api::EndTxn, move |call| {
        if !call.client_id.starts_with(&group) {
            return Fault::Pass;
        }
        count.fetch_add(1, Ordering::SeqCst);
        match at.load(Ordering::SeqCst) {
            1 => at.store(2, Ordering::SeqCst),
            3 => {
                at.store(4, Ordering::SeqCst);
                return Fault::Fail(TRANSACTION_ABORTABLE);
            }
            4 => {}
            _ => return Fault::Fail(CONCURRENT_TRANSACTIONS),
        }
        Fault::Pass
    });
    send(&rig, &input, 0, 0, 1).await;
    let empty = tempfile::tempdir().unwrap();
    let config = once(&rig).state_dir(empty.path()).build().unwrap();
    let app = App::builder(begins(&input), config).restore_listener(ends.clone()).build().unwrap();
    let store = app.handle().key_value_store::<String, i64>("begins").unwrap();
    let app = start(app);
    eventually("a commit waits", async || asked.load(Ordering::SeqCst) > 0).await;
    assert_eq!(ends.0.load(Ordering::SeqCst), 0, "the restore waits");
    restores.store(true, Ordering::SeqCst);
    eventually("the store is complete", async || ends.0.load(Ordering::SeqCst) == 1).await;
    let before = asked.load(Ordering::SeqCst);
    eventually("it still waits", async || asked.load(Ordering::SeqCst) >= before + 2).await;
    stage.store(1, Ordering::SeqCst);
    let app = app.running().await;
    let before = asked.load(Ordering::SeqCst);
    eventually("the next one waits", async || asked.load(Ordering::SeqCst) >= before + 2).await;
    let begins = || store.get(&"begins".to_owned()).ok().flatten();
    eventually("the row can be read", async || begins().is_some()).await;
    assert_eq!(begins(), Some(1), "the second is not committed");
    stage.store(3, Ordering::SeqCst);
    eventually("it is committed", async || rig.read_committed(&changelog).await.len() == 2).await;
    eventually("the row is", async || begins() == Some(2)).await;
    app.stop().await;
    let records = rig.read_settled(&changelog).await;
    let begins: Vec<i64> =
        records.iter().map(|r| i64::from_be_bytes(r.value.as_deref().unwrap().try_into().unwrap())).collect();
    assert_eq!(begins, [1, 2], "the one that was aborted counts for nothing");
}
