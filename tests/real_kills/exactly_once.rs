//! Exactly-once through kills: a process with three stages is killed at any time and between any two steps of a transaction
//! and of a hand-over; in the end the committed output, the stores and the changelogs are what the input says: nothing lost,
//! nothing twice.
//!
//! `MAINSTEM_KILLS` says how many kills, `MAINSTEM_SEED` how they and the input fall (`scripts/soak/exactly-once`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use mainstem::Record;
use mainstem::client::{LogRecord, Producer, ProducerOptions};

use crate::changelog::{changelog, fold, on_disk};
use crate::follow::Follow;
use crate::life::{Life, Plan, Restores};
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

/// Each key counts from one on, without a gap and without a repetition.
pub fn steps(seen: &mut BTreeMap<String, i64>, records: &[LogRecord]) {
    for record in records {
        let before = seen.insert(text(&record.key), number(record)).unwrap_or(0);
        let (key, at) = (text(&record.key), (record.partition, record.offset));
        assert_eq!(number(record), before + 1, "the output: {key} at {at:?}");
    }
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

/// The application of three stages, who feeds it, and what has been seen of it.
pub struct Stages {
    pub rig: Rig,
    pub plan: Plan,
    pub output: String,
    seen: (Follow, BTreeMap<String, i64>),
    changelogs: BTreeMap<String, Follow>,
    feeder: tokio::task::JoinHandle<()>,
    over: Arc<AtomicBool>,
}

impl Stages {
    /// Its topics are made, and records are on their way. `instance` is who it is.
    pub async fn new(rig: Rig, engine: &'static str, instance: &'static str, seed: u64) -> Self {
        let (input, output) = (rig.topic("in", PARTITIONS).await, rig.topic("out", PARTITIONS).await);
        let (instance, out) = (Some(instance), Some(output.clone()));
        let plan = Plan { topology: "stages", input, engine, instance, output: out };
        let over = Arc::<AtomicBool>::default();
        let producer = Producer::new(&rig.cluster, ProducerOptions::default()).unwrap();
        let feeder = tokio::spawn(feed(producer, plan.input.clone(), seed, over.clone()));
        let seen = (Follow::new(&output, PARTITIONS), BTreeMap::new());
        Self { rig, plan, output, seen, changelogs: BTreeMap::new(), feeder, over }
    }

    /// Looks at what has come out. How much that is by now.
    pub async fn look(&mut self) -> usize {
        let (follow, seen) = &mut self.seen;
        steps(seen, follow.read(&self.rig).await);
        follow.records.clear();
        seen.values().sum::<i64>() as usize
    }

    /// Waits until so many more have come out.
    pub async fn go_on(&mut self, more: usize) {
        let before = self.look().await;
        eventually(&format!("{more} more than {before} come out"), async || {
            self.look().await >= before + more
        })
        .await;
    }

    /// Engines have what the changelogs had committed up to the checkpoints, and nothing else.
    pub async fn is_sound(&mut self, plan: &Plan) {
        for found in on_disk(plan.engine, &plan.slot(&self.rig)) {
            let topic = format!("{}-{}-changelog", self.rig.app_id, found.store);
            let store = found.store.clone();
            let follow = self.changelogs.entry(store).or_insert_with(|| Follow::new(&topic, PARTITIONS));
            let next = found.mark.as_ref().map_or(0, |(_, next)| *next);
            // The markers of a transaction may come after the answer to its commit.
            eventually(&format!("all of {topic} up to {next} is seen to be committed"), async || {
                follow.read(&self.rig).await;
                follow.position(found.task.partition) >= next
            })
            .await;
            let log = follow.records.iter();
            let before = log.filter(|r| r.partition == found.task.partition && r.offset < next);
            let rows: BTreeMap<Bytes, Bytes> = found.rows.into_iter().collect();
            assert!(rows == fold(&found.store, before), "{} of {} up to {next}", found.store, found.task);
        }
    }

    /// What a process left, and what it had brought out, is right so far.
    pub async fn is_right_so_far(&mut self) -> usize {
        let plan = self.plan.clone();
        self.is_sound(&plan).await;
        self.look().await
    }

    /// Kills a process at any time: when something has come out, in the middle of what is not committed.
    pub async fn kill_at_any_time(&mut self, life: &mut Life, dice: &mut Dice) {
        let (before, more) = (end(&self.rig, &self.output).await, 1 + dice.below(600) as i64);
        eventually("some of it is done", async || end(&self.rig, &self.output).await >= before + more).await;
        clock::sleep(Duration::from_millis(dice.below(80))).await;
        life.kill();
    }

    /// Nothing more is sent. The last life does the rest, and everything is compared with the input.
    pub async fn comes_out_right(mut self) {
        self.over.store(true, Ordering::SeqCst);
        (&mut self.feeder).await.unwrap();
        let app = self.plan.here(&self.rig, &Restores::default());
        let handle = app.handle();
        let stores =
            ["cached", "counts"].map(|name| (name, handle.key_value_store::<String, i64>(name).unwrap()));
        let app = start(app).running().await;
        let truth = truth(&self.rig, &self.plan.input).await;
        let all = truth.values().sum::<i64>() as usize;
        eventually(&format!("{all} records come out"), async || self.look().await >= all).await;
        for (name, store) in &stores {
            eventually(&format!("{name} answers what the input says"), async || {
                let rows: BTreeMap<String, i64> = store.all().and_then(Iterator::collect).unwrap_or_default();
                assert!(rows.iter().all(|(key, n)| *n <= truth[key]), "{name} counts too much");
                rows == truth
            })
            .await;
        }
        app.stop().await;
        // All of it once more, by somebody who has seen nothing yet.
        let mut seen = BTreeMap::new();
        steps(&mut seen, &self.rig.read_settled(&self.output).await);
        let keyed: BTreeMap<String, i64> = truth.iter().map(|(value, n)| (format!("k{value}"), *n)).collect();
        assert_eq!(seen, keyed);
        for store in ["cached", "counts"] {
            // Compacted: markers are of today, and roll segments whose records are not.
            let mut last = BTreeMap::<String, i64>::new();
            for record in changelog(&self.rig, store).await {
                let before = last.insert(text(&record.key), number(&record)).unwrap_or(0);
                assert!(number(&record) > before, "{store}-{} at {}", record.partition, record.offset);
            }
            assert_eq!(last, truth, "{store}");
        }
        self.is_right_so_far().await;
        println!("{all} records: none lost, none twice");
    }
}

impl Drop for Stages {
    fn drop(&mut self) {
        self.feeder.abort();
    }
}

/// Where a process ends itself in a round of a loop, or `None`: every third kill comes at any time, the others at a place,
/// which it has come to up to `late` times.
pub fn fault_of(kill: u64, late: u64, dice: &mut Dice) -> Option<String> {
    let place = (kill % 3 != 2).then(|| PLACES[(kill - kill / 3) as usize % PLACES.len()])?;
    // So late that the later stages have begun, mostly.
    let time = if kill % 12 < 6 { 1 + dice.below(late) } else { 1 + dice.below(6) };
    Some(format!("{place}:{time}"))
}

/// Starts a process, and lets it end at `fault` or at any time.
pub async fn one_kill(stages: &mut Stages, fault: Option<&str>, dice: &mut Dice) {
    let mut environment = vec![("MAINSTEM_HAND_OVER_RECORDS", "60")];
    environment.extend(fault.map(|fault| ("MAINSTEM_ABORT_AT", fault)));
    let mut life = stages.plan.start(&stages.rig, &environment);
    match fault {
        Some(_) => life.aborts().await,
        None => stages.kill_at_any_time(&mut life, dice).await,
    }
}

async fn kill_loop(engine: &'static str, kills: u64) {
    let _turn = TURN.lock().await;
    let kills = asked("MAINSTEM_KILLS").unwrap_or(kills);
    let seed = asked("MAINSTEM_SEED").unwrap_or(23);
    let mut stages = Stages::new(rig(&format!("once-{engine}")).await, engine, "one", seed).await;
    let mut dice = Dice(seed ^ 0x9E37_79B9);
    for kill in 0..kills {
        let fault = fault_of(kill, 80, &mut dice);
        one_kill(&mut stages, fault.as_deref(), &mut dice).await;
        let records = stages.is_right_so_far().await;
        println!("{engine} kill {kill} at {fault:?}: {records} records");
    }
    stages.comes_out_right().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_once_through_kills_on_fjall() {
    kill_loop("fjall", 15).await;
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
    let mut stages = Stages::new(rig("stopped").await, "fjall", "first", 5).await;
    let input = stages.plan.input.clone();
    let mut first = stages.plan.start(&stages.rig, &[]);
    eventually("the first works", async || committed(&stages.rig, &input).await > 200).await;
    first.signal("-STOP");
    let stopped_at = committed(&stages.rig, &input).await;
    let second_plan = Plan { instance: Some("second"), ..stages.plan.clone() };
    let second = second_plan.start(&stages.rig, &[]);
    // What the stopped one had open is no longer in the way of readers, long before its transaction's timeout.
    eventually("the second has taken over", async || committed(&stages.rig, &input).await > stopped_at + 500)
        .await;
    stages.look().await;
    first.signal("-CONT");
    stages.go_on(500).await;
    assert!(first.is_alive(), "{}", first.said());
    first.stop().await;
    second.stop().await;
    stages.comes_out_right().await;
}
