//! Killed over and over, at any time and between any two steps of a hand-over: what is on disk is what the changelogs say up
//! to the checkpoints, the next life begins there, and in the end every store is its changelog.
//!
//! `MAINSTEM_KILLS` says how many kills, `MAINSTEM_SEED` how they and the input fall (`scripts/soak/state`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use mainstem::Record;
use mainstem::client::{OffsetSpec, Producer, ProducerOptions};

use crate::changelog::{Marks, changelog, fold, is_sound};
use crate::life::{Life, Plan, Restores};
use crate::support::{Rig, clock, eventually, rig, start, text};

pub const PARTITIONS: i32 = 2;
const KEYS: u64 = 400;

/// Every step of a hand-over.
const PLACES: [&str; 8] =
    ["begin", "before-apply", "row", "mark", "finish", "after-apply", "before-drop-runs", "after-drop-runs"];

/// One after another: who shares the machine with many processes may be late for its heartbeats.
pub static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// xorshift64*.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % most
    }
}

pub fn asked(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// Sends records until it is told that it is over. One in eight deletes.
async fn feed(producer: Producer, input: String, seed: u64, over: Arc<AtomicBool>) {
    let (mut dice, mut at) = (Dice(seed), 0);
    while !over.load(Ordering::SeqCst) {
        for _ in 0..25 {
            let key = dice.below(KEYS);
            let value = if dice.below(8) == 0 { "-".to_owned() } else { format!("v{at}") };
            let record = Record::new(Some(Bytes::from(format!("k{key}"))), Some(Bytes::from(value)), at);
            producer.send(&input, Some((key % 2) as i32), record).await.unwrap();
            at += 1;
        }
        producer.flush().await.unwrap();
        clock::sleep(Duration::from_millis(10)).await;
    }
}

pub async fn end(rig: &Rig, topic: &str) -> i64 {
    let mut sum = 0;
    for partition in 0..PARTITIONS {
        sum += rig.offset(topic, partition, OffsetSpec::Latest).await;
    }
    sum
}

pub async fn committed(rig: &Rig, topic: &str) -> i64 {
    let mut sum = 0;
    for partition in 0..PARTITIONS {
        sum += rig.committed(topic, partition).await.map_or(0, |(offset, _)| offset);
    }
    sum
}

/// What a process had sent when it ended may still be on its way.
async fn quiet(rig: &Rig, topic: &str) {
    let (mut same, mut last) = (0, -1);
    eventually("the broker has all that it sent", async || {
        let now = end(rig, topic).await;
        same = if now == last { same + 1 } else { 0 };
        last = now;
        same == 4
    })
    .await;
}

/// A life began where the checkpoints were that the one before left, and read no more than what came after.
fn began_at(marks: &Marks, life: &Life) -> usize {
    let restored = life.restored();
    for (store, partition, from, to, records) in &restored {
        if let Some(mark) = marks.get(&(store.clone(), *partition)) {
            assert_eq!(
                *from,
                mark.unwrap_or(0),
                "{store}-{partition} begins at its checkpoint: {}",
                life.said()
            );
        }
        assert!(*records <= (to - from) as u64, "{store}-{partition}: {records} of {from} to {to}");
    }
    let tails = restored.iter().filter(|(.., from, to, _)| *from > 0 && from < to);
    tails.count()
}

async fn kill_loop(engine: &'static str, named: bool, kills: u64) {
    let _turn = TURN.lock().await;
    let kills = asked("MAINSTEM_KILLS").unwrap_or(kills);
    let seed = asked("MAINSTEM_SEED").unwrap_or(17);
    let rig = rig(&format!("kills-{engine}")).await;
    let input = rig.topic("in", PARTITIONS).await;
    let uncached = format!("{}-uncached-changelog", rig.app_id);
    let plan = Plan { topology: "four", input: input.clone(), engine, instance: Some("one"), output: None };
    let over = Arc::<AtomicBool>::default();
    let feeder = tokio::spawn(feed(
        Producer::new(&rig.cluster, ProducerOptions::default()).unwrap(),
        input.clone(),
        seed,
        over.clone(),
    ));
    let mut dice = Dice(seed ^ 0x9E37_79B9);
    let (mut marks, mut tails, mut open, mut twice) = (Marks::new(), 0, 0, 0);
    for kill in 0..kills {
        // Every third kill comes at any time, the others at a place.
        let place = (named && kill % 3 != 2).then(|| PLACES[(kill - kill / 3) as usize % PLACES.len()]);
        let time = if place == Some("row") { 1 + dice.below(150) } else { 1 + dice.below(6) };
        let fault = place.map(|place| format!("{place}:{time}"));
        // From one commit a hand-over to many.
        let records = ["60", "1500", "300"][kill as usize % 3];
        let mut environment = vec![("MAINSTEM_HAND_OVER_RECORDS", records)];
        environment.extend(fault.as_deref().map(|fault| ("MAINSTEM_ABORT_AT", fault)));
        let mut life = plan.start(&rig, &environment);
        match place {
            Some(_) => life.aborts().await,
            None => {
                let done = async || match kill {
                    0 => committed(&rig, &input).await,
                    _ => end(&rig, &uncached).await,
                };
                let (before, more) = (done().await, 1 + dice.below(3_000) as i64);
                eventually("some of it is done", async || done().await >= before + more).await;
                clock::sleep(Duration::from_millis(dice.below(60))).await;
                life.kill();
            }
        }
        tails += began_at(&marks, &life);
        quiet(&rig, &uncached).await;
        open += end(&rig, &input).await - committed(&rig, &input).await;
        // ORDER of the product: what is committed is in the changelogs.
        let now = end(&rig, &uncached).await - committed(&rig, &input).await;
        assert!(now >= twice, "{} records are committed that were not counted", twice - now);
        twice = now;
        marks = is_sound(&rig, engine, &plan.slot(&rig)).await;
        println!("{engine} kill {kill} at {fault:?}: {} of {marks:?}", marks.values().flatten().count());
    }
    over.store(true, Ordering::SeqCst);
    feeder.await.unwrap();

    // The last life does the rest, is asked, and stops in good order.
    let restores = Restores::default();
    let app = plan.here(&rig, &restores);
    let handle = app.handle();
    let counts = |name| handle.timestamped_key_value_store::<String, i64>(name).unwrap();
    let stores = ["cached", "uncached", "memory"].map(|name| (name, counts(name)));
    let app = start(app).running().await;
    let all = end(&rig, &input).await;
    eventually("everything is done", async || committed(&rig, &input).await == all).await;
    let mut answers = BTreeMap::new();
    for (name, store) in &stores {
        let rows = store.all().unwrap().map(Result::unwrap);
        answers.insert(*name, rows.map(|(k, v)| (k, v.value)).collect::<BTreeMap<String, i64>>());
    }
    app.stop().await;

    let (mut truth, mut last) = (BTreeMap::<String, i64>::new(), BTreeMap::new());
    for record in rig.read(&input).await {
        *truth.entry(text(&record.key)).or_default() += 1;
        match text(&record.value) {
            deleted if deleted == "-" => _ = last.remove(&text(&record.key)),
            value => _ = last.insert(text(&record.key), value),
        }
    }
    let sum = |counts: &BTreeMap<String, i64>| counts.values().sum::<i64>();
    for (name, answers) in &answers {
        let log = changelog(&rig, name).await;
        let fold: BTreeMap<String, i64> = fold(name, &log)
            .into_iter()
            .map(|(k, row)| (text(&Some(k)), i64::from_be_bytes(row[8..].try_into().unwrap())))
            .collect();
        assert!(*answers == fold, "{name} answers what its changelog says");
        assert!(truth.iter().all(|(key, count)| answers[key] >= *count), "{name} has lost something");
        let above = sum(answers) - sum(&truth);
        assert!(above <= open, "{name} is {above} above the truth, {open} were open");
        assert!(
            *name != "uncached" || above == twice,
            "{above} counted twice, and {twice} were not committed"
        );
        println!("{engine}, {name}: {} records, {above} counted twice, {open} were open", sum(&truth));
        if *name != "cached" {
            // Each record is one more than the one before it of its key: also over a kill.
            let mut steps = BTreeMap::<Bytes, i64>::new();
            for record in &log {
                let count = i64::from_be_bytes(record.value.as_deref().unwrap().try_into().unwrap());
                let before = steps.insert(record.key.clone().unwrap(), count).unwrap_or(0);
                assert_eq!(count, before + 1, "{name}-{} at {}", record.partition, record.offset);
            }
        }
    }
    let found = fold("last", &changelog(&rig, "last").await);
    let found: BTreeMap<String, String> =
        found.into_iter().map(|(k, v)| (text(&Some(k)), text(&Some(v)))).collect();
    assert!(found == last, "the last values are those of the input");
    if !named {
        return;
    }
    assert!(tails > 0, "no life has begun at a checkpoint with something after it");
    let marks = is_sound(&rig, engine, &plan.slot(&rig)).await;
    assert_eq!(marks.len(), 6, "three stores of two tasks: {marks:?}");
    for ((store, partition), mark) in marks {
        let topic = format!("{}-{store}-changelog", rig.app_id);
        let end = rig.offset(&topic, partition, OffsetSpec::Latest).await;
        assert_eq!(mark, Some(end), "{store}-{partition}: all of it is handed over at the end");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_over_and_over_on_fjall() {
    kill_loop("fjall", true, 12).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_over_and_over_on_sled() {
    kill_loop("sled", true, 12).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_over_and_over_in_memory() {
    kill_loop("memory", false, 8).await;
}
