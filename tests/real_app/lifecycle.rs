//! Starting, stopping, committing, rebalancing.

use std::future::IntoFuture;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use mainstem::config::{ConfigBuilder, ProcessingGuarantee};
use mainstem::prelude::*;
use mainstem::{App, AppState, Config, ErrorKind};

use crate::group::describe;
use crate::support::{DEADLINE, Rig, clock, eventually, failure, rig, start};

/// What the tasks of an application have gone through.
#[derive(Default)]
struct Log {
    inits: AtomicU64,
    closes: AtomicU64,
    records: AtomicU64,
    stuck: Mutex<bool>,
    free: Condvar,
}

impl Log {
    fn inits(&self) -> u64 {
        self.inits.load(Ordering::SeqCst)
    }

    fn records(&self) -> u64 {
        self.records.load(Ordering::SeqCst)
    }
}

/// Forwards everything. `commit` asks for a commit, `stick` waits until it is freed.
struct Watched(Arc<Log>);

impl Processor<String, String, String, String> for Watched {
    fn init(&mut self, _: &mut Context<'_, String, String>) -> mainstem::topology::Outcome {
        self.0.inits.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn process(
        &mut self,
        record: Record<String, String>,
        cx: &mut Context<'_, String, String>,
    ) -> mainstem::topology::Outcome {
        self.0.records.fetch_add(1, Ordering::SeqCst);
        match record.value.as_deref() {
            Some("commit") => cx.commit(),
            Some("stick") => {
                let stuck = self.0.stuck.lock().unwrap();
                drop(self.0.free.wait_while(stuck, |stuck| *stuck).unwrap());
            }
            _ => {}
        }
        cx.forward(record)?;
        Ok(())
    }

    fn close(&mut self, _: &mut Context<'_, String, String>) -> mainstem::topology::Outcome {
        self.0.closes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

fn watched(input: &str, output: &str) -> (Topology, Arc<Log>) {
    let (builder, log) = (StreamsBuilder::new(), Arc::<Log>::default());
    let of_task = log.clone();
    let supplier = move |_: &Stores<'_, '_>| Ok(Watched(of_task.clone()));
    builder.stream::<String, String>(input).process(supplier, &[]).to(output);
    (builder.build().unwrap(), log)
}

async fn pair(rig: &Rig, partitions: i32) -> (String, String) {
    (rig.topic("in", partitions).await, rig.topic("out", 1).await)
}

async fn send(rig: &Rig, topic: &str, partition: i32, value: &str) {
    rig.send(topic, partition, "k", value, 1_000).await;
    rig.flush().await;
}

/// The session timeout stays at 45 s: a member that does not leave would make the next one wait for that long.
#[tokio::test]
async fn stopping_commits_closes_and_leaves_so_that_the_next_start_has_its_tasks_at_once() {
    let rig = rig("leaves").await;
    let (input, output) = pair(&rig, 4).await;
    let config = || rig.config().workers(2).set("commit.interval.ms", "3600000").build().unwrap();
    let (topology, log) = watched(&input, &output);
    let app = App::new(topology, config()).unwrap();
    assert_eq!(app.handle().state(), AppState::Created);
    let app = start(app).running().await;
    assert_eq!(log.inits(), 4);
    send(&rig, &input, 3, "v").await;
    eventually("the record", async || log.records() == 1).await;
    assert_eq!(rig.committed(&input, 3).await, None, "an hour has not passed");
    let handle = app.handle.clone();
    app.stop().await;
    assert_eq!(handle.state(), AppState::NotRunning);
    assert_eq!(log.closes.load(Ordering::SeqCst), 4);
    assert_eq!(rig.committed(&input, 3).await.map(|(offset, _)| offset), Some(1), "committed on close");
    assert_eq!(rig.read(&output).await.len(), 1, "written on close");

    let (topology, log) = watched(&input, &output);
    let again = start(App::new(topology, config()).unwrap());
    let at_once = clock::timeout(Duration::from_secs(30), again.handle.wait_for(AppState::Running)).await;
    assert_eq!(at_once, Some(true), "it waits for its own ghost");
    again.stop().await;
    assert_eq!((log.inits(), log.records()), (4, 0), "nothing is processed twice");
}

#[tokio::test]
async fn a_processor_that_asks_for_a_commit_gets_it_long_before_the_interval() {
    let rig = rig("asks").await;
    let (input, output) = pair(&rig, 1).await;
    let (topology, log) = watched(&input, &output);
    let config = rig.config().set("commit.interval.ms", "3600000").build().unwrap();
    let app = start(App::new(topology, config).unwrap()).running().await;
    send(&rig, &input, 0, "v").await;
    eventually("the record", async || log.records() == 1).await;
    assert_eq!(rig.committed(&input, 0).await, None);
    send(&rig, &input, 0, "commit").await;
    rig.wait_committed(&input, 0, 2).await;
    app.stop().await;
}

#[tokio::test]
async fn a_shutdown_signal_or_dropping_the_future_stops_it_in_good_order() {
    let rig = rig("stops").await;
    let (input, output) = pair(&rig, 1).await;
    let config = || rig.config().set("commit.interval.ms", "3600000").build().unwrap();
    let (topology, log) = watched(&input, &output);
    let app = App::new(topology, config()).unwrap();
    let handle = app.handle();
    let (tell, told) = tokio::sync::oneshot::channel::<()>();
    let signal = async move { _ = told.await };
    let run = tokio::spawn(app.run().with_graceful_shutdown(signal).into_future());
    assert!(handle.wait_for(AppState::Running).await);
    send(&rig, &input, 0, "v").await;
    eventually("the record", async || log.records() == 1).await;
    tell.send(()).unwrap();
    clock::timeout(DEADLINE, run).await.unwrap().unwrap().unwrap();
    assert_eq!(rig.committed(&input, 0).await.unwrap().0, 1);

    let (topology, log) = watched(&input, &output);
    let app = start(App::new(topology, config()).unwrap()).running().await;
    send(&rig, &input, 0, "v").await;
    eventually("the record", async || log.records() == 1).await;
    app.task.abort();
    clock::timeout(DEADLINE, app.handle.stopped()).await.expect("dropping the future stops it");
    assert_eq!(app.handle.state(), AppState::NotRunning);
    assert_eq!(rig.committed(&input, 0).await.unwrap().0, 2, "and it has committed");
}

/// Red test 8: the future is dropped while the worker is inside a record in the middle of a batch. It ends that slice,
/// commits what it has done, and the member leaves; whoever comes next does the rest, and nothing twice.
async fn the_future_is_dropped_in_the_middle_of_a_batch(guarantee: fn(ConfigBuilder) -> ConfigBuilder) {
    const ALL: u64 = 5_000;
    let rig = rig("dropped").await;
    let (input, output) = pair(&rig, 1).await;
    for i in 0..ALL {
        rig.send(&input, 0, "k", if i == 1 { "stick" } else { "v" }, 1_000).await;
    }
    rig.flush().await;
    let config = || guarantee(rig.config().set("commit.interval.ms", "600000")).build().unwrap();
    let members = async || describe(&rig.broker, &rig.app_id).await.unwrap().members.len();
    let (topology, log) = watched(&input, &output);
    *log.stuck.lock().unwrap() = true;
    let app = start(App::new(topology, config()).unwrap()).running().await;
    eventually("it is in the second record", async || log.records() == 2).await;
    app.task.abort();
    eventually("it is told", async || app.handle.state() == AppState::PendingShutdown).await;
    assert_eq!((rig.committed(&input, 0).await, members().await), (None, 1), "it has not ended yet");
    *log.stuck.lock().unwrap() = false;
    log.free.notify_all();
    clock::timeout(DEADLINE, app.handle.stopped()).await.expect("it ends");
    assert_eq!((app.handle.state(), log.closes.load(Ordering::SeqCst)), (AppState::NotRunning, 1));
    assert_eq!(members().await, 0, "nobody has to wait for its session to be over");
    let done = log.records();
    assert!((2..ALL).contains(&done), "{done} records");
    assert_eq!(rig.committed(&input, 0).await.unwrap().0, done as i64);
    assert_eq!(rig.read_committed(&output).await.len(), done as usize);

    let (topology, next) = watched(&input, &output);
    let app = start(App::new(topology, config()).unwrap()).running().await;
    eventually("the rest", async || next.records() == ALL - done).await;
    app.stop().await;
    assert_eq!(rig.read_committed(&output).await.len(), ALL as usize, "nothing twice");
}

#[tokio::test]
async fn dropping_the_future_in_the_middle_of_a_batch_commits_what_is_done_and_leaves() {
    the_future_is_dropped_in_the_middle_of_a_batch(|config| config).await;
}

/// A transaction that nobody ends stays for longer than the test.
fn once(config: ConfigBuilder) -> ConfigBuilder {
    config.processing_guarantee(ProcessingGuarantee::ExactlyOnceV2).set("transaction.timeout.ms", "900000")
}

#[tokio::test]
async fn dropping_the_future_in_the_middle_of_a_transaction_commits_what_is_done_and_leaves() {
    the_future_is_dropped_in_the_middle_of_a_batch(once).await;
}

/// Red test 8, its transaction half: the future is dropped in the middle of a transaction, and the worker does not come
/// back from user code. When the time of the end is over the transaction is aborted, and the member gone: nobody waits for
/// `transaction.timeout.ms`. What the worker does when it wakes is seen by nobody.
#[tokio::test]
async fn a_transaction_that_cannot_be_ended_with_the_application_is_aborted() {
    let rig = rig("left-open").await;
    let (input, output) = pair(&rig, 1).await;
    let config = || once(rig.config().set("commit.interval.ms", "600000").set("linger.ms", "0"));
    let (topology, log) = watched(&input, &output);
    *log.stuck.lock().unwrap() = true;
    let app = start(App::new(topology, config().build().unwrap()).unwrap()).running().await;
    for value in ["a", "b", "stick"] {
        send(&rig, &input, 0, value).await;
    }
    eventually("it is in the third record", async || log.records() == 3).await;
    eventually("two are written", async || rig.read(&output).await.len() == 2).await;
    assert_eq!(rig.read_committed(&output).await.len(), 0);
    app.task.abort();
    eventually("it is told", async || app.handle.state() == AppState::PendingShutdown).await;
    app.handle.stop_within(Duration::ZERO);
    clock::timeout(DEADLINE, app.handle.stopped()).await.expect("it ends");
    assert_eq!(log.closes.load(Ordering::SeqCst), 0, "it still sleeps");
    let members = async || describe(&rig.broker, &rig.app_id).await.unwrap().members.len();
    assert_eq!(members().await, 0, "nobody has to wait for its session to be over");
    // Behind what was aborted anything can be read.
    rig.send(&output, 0, "k", "behind", 1_000).await;
    rig.flush().await;
    eventually("nothing is open", async || rig.read_committed(&output).await.len() == 1).await;

    *log.stuck.lock().unwrap() = false;
    log.free.notify_all();
    eventually("it wakes and ends", async || log.closes.load(Ordering::SeqCst) == 1).await;
    assert_eq!(rig.committed(&input, 0).await, None);
    let (topology, next) = watched(&input, &output);
    let app = start(App::new(topology, config().build().unwrap()).unwrap()).running().await;
    eventually("all of it again", async || next.records() == 3).await;
    app.stop().await;
    assert_eq!(rig.read_committed(&output).await.len(), 4, "each once, and what was sent behind");
}

/// The broker is a listener that takes connections and never says a word.
#[tokio::test]
async fn a_stop_before_it_has_started_is_heard() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (topology, _) = watched("in", "out");
    let app = start(App::new(topology, Config::builder("mute", &address).build().unwrap()).unwrap());
    let socket = listener.accept().await.unwrap();
    app.handle.stop();
    app.ended().await.unwrap();
    drop(socket);
}

#[tokio::test]
async fn an_instance_without_tasks_runs_and_takes_over_when_the_other_stops() {
    let rig = rig("idle").await;
    let (input, output) = pair(&rig, 1).await;
    let (topology, first_log) = watched(&input, &output);
    let first = start(App::new(topology, rig.config().build().unwrap()).unwrap()).running().await;
    let (topology, second_log) = watched(&input, &output);
    let second = start(App::new(topology, rig.config().build().unwrap()).unwrap()).running().await;
    assert_eq!(first_log.inits() + second_log.inits(), 1);
    first.stop().await;
    eventually("the task has moved", async || second_log.inits() == 1).await;
    send(&rig, &input, 0, "v").await;
    eventually("the record", async || second_log.records() == 1).await;
    second.stop().await;
}

/// Static members are expected back: their tasks wait for them.
#[tokio::test]
async fn a_static_member_keeps_its_place_through_a_restart() {
    let rig = rig("static").await;
    let (input, output) = pair(&rig, 2).await;
    let make = |id: &str| {
        let (topology, log) = watched(&input, &output);
        let config = rig.config().set("group.instance.id", id).build().unwrap();
        (App::new(topology, config).unwrap(), log)
    };
    let ((a, _), (b, b_log)) = (make("a"), make("b"));
    let a = start(a).running().await;
    let b = start(b).running().await;
    eventually("a task each", async || b_log.inits() == 1).await;
    a.stop().await;
    let (a, a_log) = make("a");
    let a = start(a).running().await;
    for partition in 0..2 {
        send(&rig, &input, partition, "v").await;
    }
    eventually("a record each", async || a_log.records() == 1 && b_log.records() == 1).await;
    assert_eq!((a_log.inits(), b_log.inits(), b_log.closes.load(Ordering::SeqCst)), (1, 1, 0));
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn new_partitions_of_a_source_are_read_and_refused_where_there_is_state() {
    let rig = rig("grows").await;
    let (input, output) = pair(&rig, 1).await;
    let (topology, log) = watched(&input, &output);
    let config = || rig.config().set("metadata.max.age.ms", "300").build().unwrap();
    let app = start(App::new(topology, config()).unwrap()).running().await;
    rig.admin().add_partitions(&[(&input, 2)]).await.unwrap().remove(0).unwrap();
    eventually("a task for the new partition", async || log.inits() == 2).await;
    send(&rig, &input, 1, "v").await;
    eventually("its record", async || log.records() == 1).await;
    app.stop().await;

    let input = rig.topic("counted", 1).await;
    let builder = StreamsBuilder::new();
    builder
        .stream::<String, String>(input.as_str())
        .group_by_key("all")
        .count("counts")
        .to_stream()
        .to(&output);
    let rig = Rig { app_id: format!("{}-counted", rig.app_id), ..rig };
    let config = rig.config().set("metadata.max.age.ms", "300").build().unwrap();
    let app = start(App::new(builder.build().unwrap(), config).unwrap()).running().await;
    rig.admin().add_partitions(&[(&input, 2)]).await.unwrap().remove(0).unwrap();
    let error = app.ended().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Topic);
    assert!(error.to_string().contains(&format!("{}-counts-changelog", rig.app_id)), "{error}");
}

/// Two topics of unequal width in one sub-topology: the narrow one grows, and its new partition belongs to a task that is
/// there already.
#[tokio::test]
async fn a_task_that_stays_reads_the_partition_that_one_of_its_topics_gains() {
    let rig = rig("gains").await;
    let (wide, narrow) = (rig.topic("wide", 3).await, rig.topic("narrow", 2).await);
    let output = rig.topic("out", 1).await;
    let builder = StreamsBuilder::new();
    let (a, b) = (builder.stream::<String, String>(&*wide), builder.stream::<String, String>(&*narrow));
    a.merge(&b).to(&output);
    let config = rig.config().set("metadata.max.age.ms", "300").build().unwrap();
    let app = start(App::new(builder.build().unwrap(), config).unwrap()).running().await;
    for partition in 0..3 {
        send(&rig, &wide, partition, "before").await;
        rig.wait_committed(&wide, partition, 1).await;
    }
    rig.admin().add_partitions(&[(&narrow, 3)]).await.unwrap().remove(0).unwrap();
    send(&rig, &narrow, 2, "gained").await;
    rig.wait_committed(&narrow, 2, 1).await;
    for partition in 0..3 {
        send(&rig, &wide, partition, "after").await;
        rig.wait_committed(&wide, partition, 2).await;
    }
    app.stop().await;
    let mut texts: Vec<String> = rig.texts(&output, 7).await.into_iter().map(|(_, value)| value).collect();
    texts.sort();
    assert_eq!(texts, ["after", "after", "after", "before", "before", "before", "gained"], "each once");
}

/// A worker sits in user code past the time that a revocation may take: it is fenced, the others go on without it, and
/// when it comes back it commits nothing of what it held, and goes on.
#[tokio::test]
async fn a_stuck_worker_is_fenced_and_comes_back() {
    let rig = rig("stuck").await;
    let (input, output) = pair(&rig, 2).await;
    let make = || {
        let (topology, log) = watched(&input, &output);
        let config = rig.config().set("rebalance.timeout.ms", "6000").set("heartbeat.interval.ms", "300");
        (App::new(topology, config.build().unwrap()).unwrap(), log)
    };
    let (a, a_log) = make();
    let a = start(a).running().await;
    *a_log.stuck.lock().unwrap() = true;
    for partition in 0..2 {
        send(&rig, &input, partition, "before").await;
        rig.wait_committed(&input, partition, 1).await;
    }
    for partition in 0..2 {
        send(&rig, &input, partition, "stick").await;
    }
    eventually("it sticks", async || a_log.records() == 3).await;
    let (b, b_log) = make();
    let b = start(b);
    eventually("the other has a task in spite of it", async || b_log.inits() == 1).await;
    *a_log.stuck.lock().unwrap() = false;
    a_log.free.notify_all();
    for partition in 0..2 {
        send(&rig, &input, partition, "after").await;
        rig.wait_committed(&input, partition, 3).await;
    }
    assert!(a_log.inits() >= 3, "the kept task was started anew: {}", a_log.inits());
    let found = rig.texts(&output, 6).await;
    let of = |value: &str| found.iter().filter(|(_, v)| v == value).count();
    assert_eq!((of("before"), of("after")), (2, 2), "{found:?}");
    assert_eq!(
        of("stick"),
        2,
        "what the fenced worker held is written by whoever processed it again: {found:?}"
    );
    a.stop().await;
    b.stop().await;
}

/// Decision 12: the application's heartbeats and workers do not depend on the runtime that awaits it.
#[tokio::test]
async fn a_blocked_host_runtime_starves_nothing() {
    let rig = rig("blocked-host").await;
    let (input, output) = pair(&rig, 1).await;
    let (topology, log) = watched(&input, &output);
    let config = rig.config().set("session.timeout.ms", "6000").set("heartbeat.interval.ms", "500");
    let app = App::new(topology, config.build().unwrap()).unwrap();
    let handle = app.handle();
    let (free, wait) = std::sync::mpsc::channel::<()>();
    let host = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let local = app.handle();
        runtime.block_on(async move {
            let run = tokio::spawn(app.run().into_future());
            assert!(local.wait_for(AppState::Running).await);
            // From here on nothing on this runtime moves.
            wait.recv().unwrap();
            run.await.unwrap()
        })
    });
    assert!(handle.wait_for(AppState::Running).await);
    send(&rig, &input, 0, "1").await;
    rig.wait_committed(&input, 0, 1).await;
    let began = clock::monotonic();
    eventually("more than a session timeout", async || began.elapsed() > Duration::from_secs(8)).await;
    send(&rig, &input, 0, "2").await;
    rig.wait_committed(&input, 0, 2).await;
    assert_eq!((log.inits(), log.records()), (1, 2), "the task has never been away");
    handle.stop();
    handle.stopped().await;
    free.send(()).unwrap();
    host.join().unwrap().unwrap();
}

#[tokio::test]
async fn a_failing_task_leaves_the_group_like_a_healthy_one() {
    let rig = rig("fails-and-leaves").await;
    let (input, output) = pair(&rig, 1).await;
    let builder = StreamsBuilder::new();
    let fails = |_: Option<&String>, _: Option<String>| Err::<Option<String>, _>("no");
    builder.stream::<String, String>(input.as_str()).try_map_values(fails).to(&output);
    send(&rig, &input, 0, "v").await;
    failure(App::new(builder.build().unwrap(), rig.config().build().unwrap()).unwrap()).await;
    let (topology, log) = watched(&input, &output);
    let next = start(App::new(topology, rig.config().build().unwrap()).unwrap());
    let at_once = clock::timeout(Duration::from_secs(30), async {
        eventually("it", async || log.records() == 1).await
    });
    at_once.await.expect("it waits for the failed one's session");
    next.stop().await;
}
