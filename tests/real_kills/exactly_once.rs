//! Exactly-once through kills: a process with three stages is killed at any time and between any two steps of a transaction
//! and of a hand-over; in the end the committed output, the stores and the changelogs are what the input says: nothing lost,
//! nothing twice.
//!
//! `MAINSTEM_KILLS` says how many kills, `MAINSTEM_SEED` how they and the input fall (`scripts/soak/exactly-once`).

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use mainstem::Record;
use mainstem::client::{LogRecord, Producer, ProducerOptions};

use crate::changelog::{changelog, fold, on_disk};
use crate::life::{Plan, Restores};
use crate::loops::{Dice, PARTITIONS, TURN, asked, committed, end};
use crate::support::{Rig, clock, eventually, rig, start, text};

/// Every step of a transaction, and of the hand-over after it.
const PLACES: [&str; 8] =
    ["flushed", "asked", "committed", "published", "begin", "before-apply", "after-apply", "after-drop-runs"];

const VALUES: u64 = 60;

/// Sends records until it is told that it is over. One in ten is skipped by the application.
async fn feed(producer: Producer, input: String, seed: u64, over: Arc<AtomicBool>) {
    let (mut dice, mut at) = (Dice(seed), 0);
    while !over.load(Ordering::SeqCst) {
        for _ in 0..20 {
            let value =
                if dice.below(10) == 0 { "skip".to_owned() } else { format!("v{}", dice.below(VALUES)) };
            let record = Record::new(Some(Bytes::from(format!("{at}"))), Some(Bytes::from(value)), at);
            producer.send(&input, Some((at % 2) as i32), record).await.unwrap();
            at += 1;
        }
        producer.flush().await.unwrap();
        clock::sleep(Duration::from_millis(15)).await;
    }
}

fn number(record: &LogRecord) -> i64 {
    i64::from_be_bytes(record.value.as_deref().unwrap().try_into().unwrap())
}

/// Each key counts from one on, without a gap and without a repetition. The last count of each.
fn steps(records: &[LogRecord], who: &str) -> BTreeMap<String, i64> {
    let mut seen = BTreeMap::<String, i64>::new();
    for record in records {
        let before = seen.insert(text(&record.key), number(record)).unwrap_or(0);
        assert_eq!(
            number(record),
            before + 1,
            "{who}: {} at {}-{}",
            text(&record.key),
            record.partition,
            record.offset
        );
    }
    seen
}

/// What the input counts up to.
async fn truth(rig: &Rig, input: &str) -> BTreeMap<String, i64> {
    let mut truth = BTreeMap::new();
    for record in rig.read(input).await {
        let value = text(&record.value);
        if value != "skip" {
            *truth.entry(value).or_default() += 1;
        }
    }
    truth
}

/// Engines have what the changelogs had committed up to the checkpoints, and nothing else.
async fn is_sound(rig: &Rig, plan: &Plan) {
    for found in on_disk(plan.engine, &plan.slot(rig)) {
        let log = changelog(rig, &found.store).await;
        let next = found.mark.as_ref().map_or(0, |(_, next)| *next);
        let before = log.iter().filter(|r| r.partition == found.task.partition && r.offset < next);
        let rows: BTreeMap<Bytes, Bytes> = found.rows.into_iter().collect();
        assert!(rows == fold(&found.store, before), "{} of {} up to {next}", found.store, found.task);
    }
}

/// The last life does the rest, and everything is compared with the input.
async fn it_comes_out_right(rig: &Rig, plan: &Plan, output: &str) {
    let app = plan.here(rig, &Restores::default());
    let handle = app.handle();
    let stores =
        ["cached", "counts"].map(|name| (name, handle.key_value_store::<String, i64>(name).unwrap()));
    let app = start(app).running().await;
    let truth = truth(rig, &plan.input).await;
    let all: i64 = truth.values().sum();
    eventually(&format!("{all} records come out"), async || {
        rig.read_committed(output).await.len() as i64 >= all
    })
    .await;
    for (name, store) in &stores {
        eventually(&format!("{name} answers what the input says"), async || {
            let rows: BTreeMap<String, i64> = store.all().and_then(Iterator::collect).unwrap_or_default();
            assert!(rows.iter().all(|(key, n)| *n <= truth[key]), "{name} counts too much");
            rows == truth
        })
        .await;
    }
    app.stop().await;
    let seen = steps(&rig.read_settled(output).await, "the output");
    let keyed: BTreeMap<String, i64> = truth.iter().map(|(value, n)| (format!("k{value}"), *n)).collect();
    assert_eq!(seen, keyed);
    for store in ["cached", "counts"] {
        // Compacted: markers are of today, and roll segments whose records are not.
        let mut last = BTreeMap::<String, i64>::new();
        for record in changelog(rig, store).await {
            let before = last.insert(text(&record.key), number(&record)).unwrap_or(0);
            assert!(number(&record) > before, "{store}-{} at {}", record.partition, record.offset);
        }
        assert_eq!(last, truth, "{store}");
    }
    is_sound(rig, plan).await;
}

async fn stages(test: &str, engine: &'static str, instance: &'static str) -> (Rig, Plan, String) {
    let rig = rig(test).await;
    let (input, output) = (rig.topic("in", PARTITIONS).await, rig.topic("out", PARTITIONS).await);
    let plan =
        Plan { topology: "stages", input, engine, instance: Some(instance), output: Some(output.clone()) };
    (rig, plan, output)
}

fn feeder(rig: &Rig, plan: &Plan, seed: u64) -> (tokio::task::JoinHandle<()>, Arc<AtomicBool>) {
    let over = Arc::<AtomicBool>::default();
    let producer = Producer::new(&rig.cluster, ProducerOptions::default()).unwrap();
    (tokio::spawn(feed(producer, plan.input.clone(), seed, over.clone())), over)
}

async fn kill_loop(engine: &'static str, kills: u64) {
    let _turn = TURN.lock().await;
    let kills = asked("MAINSTEM_KILLS").unwrap_or(kills);
    let seed = asked("MAINSTEM_SEED").unwrap_or(23);
    let (rig, plan, output) = stages(&format!("once-{engine}"), engine, "one").await;
    let (feeder, over) = feeder(&rig, &plan, seed);
    let mut dice = Dice(seed ^ 0x9E37_79B9);
    for kill in 0..kills {
        // Every third kill comes at any time, the others at a place.
        let place = (kill % 3 != 2).then(|| PLACES[(kill - kill / 3) as usize % PLACES.len()]);
        // So late that the later stages have begun, mostly.
        let time = if kill % 12 < 6 { 1 + dice.below(80) } else { 1 + dice.below(6) };
        let fault = place.map(|place| format!("{place}:{time}"));
        let mut environment = vec![("MAINSTEM_HAND_OVER_RECORDS", "60")];
        environment.extend(fault.as_deref().map(|fault| ("MAINSTEM_ABORT_AT", fault)));
        let mut life = plan.start(&rig, &environment);
        match place {
            Some(_) => life.aborts().await,
            None => {
                let (before, more) = (end(&rig, &output).await, 1 + dice.below(600) as i64);
                eventually("some of it is done", async || end(&rig, &output).await >= before + more).await;
                clock::sleep(Duration::from_millis(dice.below(80))).await;
                life.kill();
            }
        }
        is_sound(&rig, &plan).await;
        steps(&rig.read_committed(&output).await, "the output so far");
        println!("{engine} kill {kill} at {fault:?}: {} records", end(&rig, &output).await);
    }
    over.store(true, Ordering::SeqCst);
    feeder.await.unwrap();
    it_comes_out_right(&rig, &plan, &output).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_once_through_kills_on_fjall() {
    kill_loop("fjall", 12).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_once_through_kills_in_memory() {
    kill_loop("memory", 4).await;
}

/// X7: a process is stopped for longer than its session, in the middle of a transaction; another takes its tasks and fences
/// it, and what it does when it goes on is seen by nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_stopped_past_its_session_writes_nothing_that_counts() {
    let _turn = TURN.lock().await;
    let (rig, plan, output) = stages("stopped", "fjall", "first").await;
    let (feeder, over) = feeder(&rig, &plan, 5);
    let mut first = plan.start(&rig, &[]);
    eventually("the first works", async || committed(&rig, &plan.input).await > 200).await;
    let signal = |life: &crate::life::Life, name: &str| {
        let told = Command::new("kill").args([name, &life.id().to_string()]).status().unwrap();
        assert!(told.success());
    };
    signal(&first, "-STOP");
    let stopped_at = committed(&rig, &plan.input).await;
    let second_plan = Plan { instance: Some("second"), ..plan.clone() };
    let second = second_plan.start(&rig, &[]);
    // What the stopped one had open is no longer in the way of readers, long before its transaction's timeout.
    eventually("the second has taken over", async || committed(&rig, &plan.input).await > stopped_at + 500)
        .await;
    let before = rig.read_committed(&output).await.len();
    signal(&first, "-CONT");
    eventually("the second goes on", async || rig.read_committed(&output).await.len() > before + 500).await;
    assert!(first.is_alive(), "{}", first.said());
    steps(&rig.read_committed(&output).await, "the output");
    over.store(true, Ordering::SeqCst);
    feeder.await.unwrap();
    first.stop().await;
    second.stop().await;
    it_comes_out_right(&rig, &plan, &output).await;
}

/// The folder of an instance is deleted, and then an older copy of it is put back.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_gone_or_old_costs_time_and_nothing_else() {
    let _turn = TURN.lock().await;
    let (rig, plan, output) = stages("folder", "fjall", "one").await;
    let (feeder, over) = feeder(&rig, &plan, 7);
    let copy = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let mut life = plan.start(&rig, &[("MAINSTEM_HAND_OVER_RECORDS", "60")]);
        let before = end(&rig, &output).await;
        eventually("some of it is done", async || end(&rig, &output).await >= before + 400).await;
        life.kill();
        let slot = plan.slot(&rig);
        match round {
            0 => crate::changelog::copy(&slot, copy.path()),
            1 => std::fs::remove_dir_all(&slot).unwrap(),
            _ => {
                std::fs::remove_dir_all(&slot).unwrap();
                crate::changelog::copy(copy.path(), &slot);
            }
        }
    }
    over.store(true, Ordering::SeqCst);
    feeder.await.unwrap();
    it_comes_out_right(&rig, &plan, &output).await;
}
