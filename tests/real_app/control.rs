//! What a handle can do to a running application: pause and resume, workers more and fewer, metadata, listeners.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mainstem::prelude::*;
use mainstem::topology::{Outcome, PunctuationType, Token};
use mainstem::{
    App, AppHandle, AppState, CloseOptions, ErrorKind, RestoreListener, RestoringStore, WorkerState,
};

use crate::support::{DEADLINE, Rig, Running, clock, eventually, rig, start};

/// Counts records and wall-clock punctuations.
#[derive(Clone, Default)]
struct Beats {
    records: Arc<AtomicU64>,
    punctuations: Arc<AtomicU64>,
}

impl Processor<String, String, String, String> for Beats {
    fn init(&mut self, cx: &mut Context<'_, String, String>) -> Outcome {
        cx.schedule(Duration::from_millis(5), PunctuationType::WallClockTime)?;
        Ok(())
    }

    fn process(&mut self, record: Record<String, String>, cx: &mut Context<'_, String, String>) -> Outcome {
        self.records.fetch_add(1, Ordering::SeqCst);
        cx.forward(record)?;
        Ok(())
    }

    fn punctuate(&mut self, _: Token, _: Timestamp, _: &mut Context<'_, String, String>) -> Outcome {
        self.punctuations.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

fn beating(input: &str, output: &str) -> (Topology, Beats) {
    let (builder, beats) = (StreamsBuilder::new(), Beats::default());
    let of_task = beats.clone();
    builder
        .stream::<String, String>(input)
        .process(move |_: &Stores<'_, '_>| Ok(of_task.clone()), &[])
        .to(output);
    (builder.build().unwrap(), beats)
}

async fn send(rig: &Rig, topic: &str, partition: i32, value: &str) {
    rig.send(topic, partition, "k", value, 1_000).await;
    rig.flush().await;
}

/// Paused from before the start: it joins, gets its task, and does nothing. Then it goes on at once, though both brokers'
/// long polls and all other inputs are idle: the first record is there before anything new is sent.
#[tokio::test]
async fn a_paused_application_keeps_its_place_and_does_nothing() {
    let rig = rig("pause").await;
    let (input, output) = (rig.topic("in", 8).await, rig.topic("out", 1).await);
    let (topology, beats) = beating(&input, &output);
    let config = || rig.config().set("session.timeout.ms", "6000").set("heartbeat.interval.ms", "500");
    let app = App::new(topology, config().build().unwrap()).unwrap();
    app.handle().pause();
    let app = start(app).running().await;
    assert!(app.handle.is_paused());
    send(&rig, &input, 0, "a").await;
    // Its end is known, so it was fetched.
    eventually("the record is fetched", async || end_of(&app.handle, &input, 0) == Some(1)).await;

    // Another joins, and stops without leaving: its tasks come back when its session is over, which is as long as that of
    // the first, which is still a member. None of the tasks begins.
    let (topology, other) = beating(&input, &output);
    let second = start(App::new(topology, config().build().unwrap()).unwrap()).running().await;
    eventually("half of the tasks each", async || app.handle.tasks().len() == 4).await;
    second.handle.stop_with(CloseOptions::default().leave_group(false));
    second.ended().await.unwrap();
    assert_eq!(app.handle.tasks().len(), 4, "it is still a member");
    eventually("all tasks are back", async || app.handle.tasks().iter().filter(|t| t.running).count() == 8)
        .await;
    assert_eq!(app.handle.state(), AppState::Running);
    assert_eq!(beats.records.load(Ordering::SeqCst), 0);
    assert_eq!(beats.punctuations.load(Ordering::SeqCst), 0);

    app.handle.resume();
    app.handle.resume();
    assert!(!app.handle.is_paused());
    eventually("it goes on", async || {
        beats.records.load(Ordering::SeqCst) + other.records.load(Ordering::SeqCst) == 1
            && beats.punctuations.load(Ordering::SeqCst) > 0
    })
    .await;
    // What was done is committed while it is paused; and a paused application can be stopped.
    app.handle.pause();
    rig.wait_committed(&input, 0, 1).await;
    app.stop().await;
    assert_eq!(rig.read(&output).await.len(), 1);
}

/// The restores of a listener: that they began, and the records of each batch.
#[derive(Clone, Default)]
struct Restored {
    begun: Arc<AtomicU64>,
    records: Arc<AtomicU64>,
}

impl RestoreListener for Restored {
    fn on_restore_start(&self, _: &RestoringStore, _: i64, _: i64) {
        self.begun.fetch_add(1, Ordering::SeqCst);
    }

    fn on_batch_restored(&self, _: &RestoringStore, _: i64, records: u64) {
        self.records.fetch_add(records, Ordering::SeqCst);
    }
}

/// Nothing is restored while the application is paused, though another reads the same changelog from end to end meanwhile.
#[tokio::test]
async fn restores_of_a_paused_application_stand_still() {
    let rig = rig("pause-restore").await;
    let (input, output) = (rig.topic("in", 2).await, rig.topic("out", 1).await);
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let app = |folder: usize| {
        let config = rig.config().state_dir(folders[folder].path()).build().unwrap();
        let restored = Restored::default();
        let app = App::builder(counting(&input, &output), config).restore_listener(restored.clone());
        (app.build().unwrap(), restored)
    };
    let (first, _) = app(0);
    let first = start(first).running().await;
    for n in 0..100 {
        rig.send(&input, n % 2, &format!("k{n}"), "v", 1_000).await;
    }
    rig.flush().await;
    for partition in 0..2 {
        rig.wait_committed(&input, partition, 50).await;
    }
    first.stop().await;

    let (paused, restored) = app(1);
    paused.handle().pause();
    let paused = start(paused);
    eventually("both restores have begun", async || restored.begun.load(Ordering::SeqCst) == 2).await;
    // It takes one of the two tasks over, and restores that one to its end.
    let (other, others) = app(2);
    let other = start(other);
    eventually("the other's is at its end", async || others.records.load(Ordering::SeqCst) == 50).await;
    assert_eq!(restored.records.load(Ordering::SeqCst), 0, "paused");
    assert_ne!(paused.handle.state(), AppState::Running);

    paused.handle.resume();
    let paused = paused.running().await;
    assert_eq!(restored.records.load(Ordering::SeqCst), 50);
    let other = other.running().await;
    other.stop().await;
    paused.stop().await;
}

fn end_of(handle: &AppHandle, topic: &str, partition: i32) -> Option<i64> {
    let tasks = handle.tasks();
    let mut inputs = tasks.iter().flat_map(|task| &task.inputs);
    inputs.find(|i| &*i.partition.topic == topic && i.partition.partition == partition)?.end
}

fn counting(input: &str, output: &str) -> Topology {
    let builder = StreamsBuilder::new();
    builder.stream::<String, String>(input).group_by_key("by-key").count("counts").to_stream().to(output);
    builder.build().unwrap()
}

/// How many tasks each worker has, by its number, when all of them run.
fn loads(handle: &AppHandle) -> BTreeMap<usize, usize> {
    let workers = handle.workers();
    if workers.iter().any(|w| w.state != WorkerState::Running) {
        return BTreeMap::new();
    }
    workers.iter().map(|w| (w.worker, w.tasks.len())).collect()
}

/// Records come all the time, while workers come and go, down to none. Every record counts once: nothing was killed.
#[tokio::test]
async fn workers_come_and_go_and_every_record_counts_once() {
    let rig = rig("scale").await;
    let (input, output) = (rig.topic("in", 6).await, rig.topic("out", 1).await);
    let config = rig.config().cache_bytes(1 << 20).set("heartbeat.interval.ms", "300").build().unwrap();
    let app = start(App::new(counting(&input, &output), config).unwrap()).running().await;
    let handle = app.handle.clone();
    let mut sent = 0;
    let mut wave = async || {
        for _ in 0..20 {
            for partition in 0..6 {
                rig.send(&input, partition, &format!("k{partition}"), "v", 1_000).await;
            }
        }
        rig.flush().await;
        sent += 20;
    };
    let loaded = async |expected: &[(usize, usize)]| {
        let expected: BTreeMap<usize, usize> = expected.iter().copied().collect();
        eventually(&format!("{expected:?}"), async || loads(&handle) == expected).await;
    };
    loaded(&[(0, 6)]).await;
    wave().await;
    assert_eq!(handle.add_worker().await.unwrap(), 1);
    wave().await;
    loaded(&[(0, 3), (1, 3)]).await;
    assert_eq!(handle.add_worker().await.unwrap(), 2);
    assert_eq!(handle.remove_worker().await.unwrap(), Some(2), "in the middle of the moves");
    wave().await;
    loaded(&[(0, 3), (1, 3)]).await;
    assert_eq!(handle.remove_worker().await.unwrap(), Some(1));
    loaded(&[(0, 6)]).await;
    assert_eq!(handle.remove_worker().await.unwrap(), Some(0));
    assert_eq!(handle.remove_worker().await.unwrap(), None, "none is left");
    assert!(handle.workers().is_empty());
    wave().await;
    assert_eq!(handle.add_worker().await.unwrap(), 0);
    loaded(&[(0, 6)]).await;
    wave().await;
    for partition in 0..6 {
        rig.wait_committed(&input, partition, sent).await;
    }
    app.stop().await;
    let expected: BTreeMap<String, i64> = (0..6).map(|p| (format!("k{p}"), sent)).collect();
    assert_eq!(rig.counts(&output).await, expected);
    let error = handle.add_worker().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::IllegalState, "{error:?}");
    assert!(handle.remove_worker().await.is_err());
}

/// The group gives by the number of workers: 1 and 3 of 8 tasks make 2 and 6.
#[tokio::test]
async fn the_group_balances_by_the_workers_that_there_are() {
    let rig = rig("weights").await;
    let (input, output) = (rig.topic("in", 8).await, rig.topic("out", 1).await);
    let begin = async || {
        let config = rig.config().set("heartbeat.interval.ms", "300").build().unwrap();
        start(App::new(counting(&input, &output), config).unwrap()).running().await
    };
    let (a, b): (Running, Running) = (begin().await, begin().await);
    let shares = || (a.handle.tasks().len(), b.handle.tasks().len());
    eventually("half each", async || shares() == (4, 4)).await;
    b.handle.add_worker().await.unwrap();
    b.handle.add_worker().await.unwrap();
    eventually("by workers", async || shares() == (2, 6)).await;
    eventually("even", async || loads(&b.handle) == BTreeMap::from([(0, 2), (1, 2), (2, 2)])).await;
    while b.handle.remove_worker().await.unwrap().is_some() {}
    eventually("all of it", async || shares() == (8, 0)).await;
    b.stop().await;
    a.stop().await;
}

#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl Heard {
    fn note(&self, text: String) {
        self.0.lock().unwrap().push(text);
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl RestoreListener for Heard {
    fn on_restore_start(&self, store: &RestoringStore, from: i64, to: i64) {
        self.note(format!("start {} {} {from}..{to}", store.task, store.store));
        panic!("a listener that panics");
    }

    fn on_batch_restored(&self, _: &RestoringStore, next_offset: i64, records: u64) {
        self.note(format!("batch {next_offset} {records}"));
    }

    fn on_restore_end(&self, store: &RestoringStore, records: u64) {
        self.note(format!("end {} {records}", store.store));
    }
}

#[tokio::test]
async fn listeners_and_metadata_tell_what_goes_on() {
    let rig = rig("tells").await;
    let (input, output) = (rig.topic("in", 1).await, rig.topic("out", 1).await);
    let make = || {
        let (states, restores) = (Heard::default(), Heard::default());
        let config = rig.config().set("application.server", "stream-1:8080").build().unwrap();
        let log = states.clone();
        let app = App::builder(counting(&input, &output), config)
            .state_listener(move |from, to| {
                log.note(format!("{from:?} {to:?}"));
                assert_ne!(to, AppState::Rebalancing, "a listener that panics");
            })
            .restore_listener(restores.clone())
            .build()
            .unwrap();
        (start(app), states, restores)
    };
    let (app, states, restores) = make();
    let app = app.running().await;
    for _ in 0..5 {
        send(&rig, &input, 0, "v").await;
    }
    rig.wait_committed(&input, 0, 5).await;
    let handle = app.handle.clone();
    eventually("the picture is new", async || {
        let tasks = handle.tasks();
        tasks.len() == 1 && tasks[0].inputs[0].committed == Some(5) && tasks[0].idle_since.is_some()
    })
    .await;
    let task = &handle.tasks()[0];
    assert!(task.running && task.restores.is_empty() && task.worker == 0);
    assert_eq!((&*task.inputs[0].partition.topic, task.inputs[0].end), (&*input, Some(5)));
    let workers = handle.workers();
    assert_eq!(workers.len(), 1);
    assert_eq!((workers[0].state, &workers[0].tasks), (WorkerState::Running, &handle.tasks()));
    assert!(workers[0].name.ends_with("-worker-0"), "{}", workers[0].name);
    let lags = handle.lags().await.unwrap();
    assert_eq!(lags.len(), 1);
    assert_eq!((lags[0].store.as_str(), lags[0].end, lags[0].lag()), ("counts", 5, 0));
    let instances = handle.instances();
    assert_eq!(instances.len(), 1);
    assert_eq!(instances[0].endpoint.as_deref(), Some("stream-1:8080"));
    assert_eq!(instances[0].active, [task.task]);
    app.stop().await;
    assert!(handle.workers().is_empty() && handle.tasks().is_empty());
    assert_eq!(handle.lags().await.unwrap_err().kind(), ErrorKind::IllegalState);
    let first = [
        "Created Rebalancing",
        "Rebalancing Running",
        "Running PendingShutdown",
        "PendingShutdown NotRunning",
    ];
    assert_eq!(states.all(), first);
    assert_eq!(restores.all(), ["start 0_0 counts 0..0", "end counts 0"]);

    // Again: the state is there, as it was committed.
    let (app, _, restores) = make();
    app.running().await.stop().await;
    assert_eq!(restores.all(), ["start 0_0 counts 5..5", "end counts 0"]);

    // Without it there is something to restore.
    std::fs::remove_dir_all(rig.state_dir.path().join(&rig.app_id)).unwrap();
    let (app, _, restores) = make();
    app.running().await.stop().await;
    let heard = restores.all();
    assert_eq!(heard[0], "start 0_0 counts 0..5");
    assert_eq!(heard.last().unwrap(), "end counts 5");
    let batches = heard.iter().filter_map(|line| line.strip_prefix("batch 5 ")).count();
    assert_eq!(batches, 1, "the last batch ends at the end: {heard:?}");
}

#[tokio::test]
async fn local_state_is_deleted_when_the_application_does_not_run() {
    let rig = rig("clean").await;
    let (input, output) = (rig.topic("in", 1).await, rig.topic("out", 1).await);
    let slot = rig.state_dir.path().join(&rig.app_id).join("0");
    let make = || App::new(counting(&input, &output), rig.config().build().unwrap()).unwrap();
    make().clean_up().unwrap();
    let app = start(make()).running().await;
    assert!(slot.join("process.json").is_file());
    let error = app.handle.clean_up().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::IllegalState, "{error:?}");
    assert!(error.to_string().contains("Running"), "{error}");
    // A second handle on the same folder, of an application that does not run: it leaves alone what the first holds.
    make().clean_up().unwrap();
    assert!(slot.join("process.json").is_file());
    let handle = app.handle.clone();
    send(&rig, &input, 0, "v").await;
    rig.wait_committed(&input, 0, 1).await;
    app.stop().await;
    handle.clean_up().unwrap();
    assert!(!slot.exists());
    // The state comes back from the changelog.
    let app = start(make()).running().await;
    send(&rig, &input, 0, "v").await;
    rig.wait_committed(&input, 0, 2).await;
    assert!(clock::timeout(DEADLINE, app.stop()).await.is_some());
    assert_eq!(rig.counts(&output).await, BTreeMap::from([("k".to_owned(), 2)]));
}
