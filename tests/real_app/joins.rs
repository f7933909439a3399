//! Joins of tables and streams on two partitions and two instances, against nested loops; and global tables.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use mainstem::prelude::*;
use mainstem::{App, partition_for_key};

use crate::support::{Rig, Running, eventually, rig, start, text};

type Rows = BTreeMap<String, String>;

/// Sends a record to the partition of its key; an empty value deletes.
async fn send(rig: &Rig, topic: &str, key: &str, value: &str, timestamp: i64) {
    rig.send(topic, partition_for_key(key.as_bytes(), 2), key, value, timestamp).await;
}

/// Two instances with folders of their own, both running.
async fn two(rig: &Rig, topology: impl Fn() -> Topology) -> (Vec<Running>, tempfile::TempDir) {
    let other_folder = tempfile::tempdir().unwrap();
    let mut instances = Vec::new();
    for folder in [rig.state_dir.path(), other_folder.path()] {
        let config = rig.config().state_dir(folder).build().unwrap();
        instances.push(start(App::new(topology(), config).unwrap()));
    }
    let mut running = Vec::new();
    for instance in instances {
        running.push(instance.running().await);
    }
    (running, other_folder)
}

/// The last value of every key of a topic of changes.
async fn rows(rig: &Rig, topic: &str) -> Rows {
    let mut rows = Rows::new();
    for record in rig.read(topic).await {
        match record.value {
            Some(_) => _ = rows.insert(text(&record.key), text(&record.value)),
            None => _ = rows.remove(&text(&record.key)),
        }
    }
    rows
}

async fn become_rows(rig: &Rig, topic: &str, expected: &Rows) {
    let mut last = Rows::new();
    let arrived = crate::support::holds_within(crate::support::DEADLINE, async || {
        last = rows(rig, topic).await;
        last == *expected
    });
    let arrived = arrived.await;
    assert!(arrived, "{topic} has {last:?} and not {expected:?}");
}

/// A small generator of its own, the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

#[tokio::test]
async fn tables_are_joined_by_key_and_by_foreign_key_on_two_instances() {
    let rig = rig("joined-tables").await;
    let (left, right) = (rig.topic("left", 2).await, rig.topic("right", 2).await);
    let outputs = [rig.topic("inner", 2).await, rig.topic("outer", 2).await];
    let by_foreign_key = [rig.topic("fk", 2).await, rig.topic("fk-left", 2).await];
    let topology = || {
        let builder = StreamsBuilder::new();
        let left = builder.table::<String, String>(&left, "left");
        let right = builder.table::<String, String>(&right, "right");
        left.join(&right, |a, b| format!("{a}&{b}")).to_stream().to(&outputs[0]);
        left.outer_join(&right, |a, b| format!("{a:?}&{b:?}"))
            .materialized("outer")
            .to_stream()
            .to(&outputs[1]);
        let refers_to = |_: &String, value: &String| value.split(':').next().unwrap_or_default().to_owned();
        left.join_on(&right, "fk", (), refers_to, |a, b| format!("{a}&{b}"))
            .to_stream()
            .to(&by_foreign_key[0]);
        left.left_join_on(&right, "fk-left", "fk-rows", refers_to, |a, b| format!("{a}&{b:?}"))
            .to_stream()
            .to(&by_foreign_key[1]);
        builder.build().unwrap()
    };
    let (instances, _folder) = two(&rig, topology).await;

    let (mut lefts, mut rights, mut dice) = (Rows::new(), Rows::new(), Dice(7));
    for step in 0..400 {
        let key = format!("k{}", dice.roll(12));
        let (topic, table) = if dice.roll(2) == 0 { (&left, &mut lefts) } else { (&right, &mut rights) };
        let value = match dice.roll(5) {
            0 => String::new(),
            _ => format!("k{}:{step}", dice.roll(14)),
        };
        send(&rig, topic, &key, &value, 1_000 + step).await;
        if value.is_empty() {
            table.remove(&key)
        } else {
            table.insert(key, value)
        };
    }
    rig.flush().await;

    let keys: BTreeSet<&String> = lefts.keys().chain(rights.keys()).collect();
    let mut expected = [Rows::new(), Rows::new()];
    for key in keys {
        let (a, b) = (lefts.get(key), rights.get(key));
        if let (Some(a), Some(b)) = (a, b) {
            expected[0].insert(key.clone(), format!("{a}&{b}"));
        }
        expected[1].insert(key.clone(), format!("{a:?}&{b:?}"));
    }
    let mut expected_by_foreign_key = [Rows::new(), Rows::new()];
    for (key, value) in &lefts {
        let referred = rights.get(value.split(':').next().unwrap());
        if let Some(row) = referred {
            expected_by_foreign_key[0].insert(key.clone(), format!("{value}&{row}"));
        }
        expected_by_foreign_key[1].insert(key.clone(), format!("{value}&{referred:?}"));
    }
    for (topic, expected) in
        outputs.iter().zip(&expected).chain(by_foreign_key.iter().zip(&expected_by_foreign_key))
    {
        assert!(!expected.is_empty());
        become_rows(&rig, topic, expected).await;
    }
    for instance in instances {
        instance.stop().await;
    }
}

#[tokio::test]
async fn every_instance_has_all_of_a_global_table_before_its_first_record() {
    let rig = rig("global").await;
    let (countries, input, output) =
        (rig.topic("countries", 2).await, rig.topic("in", 2).await, rig.topic("out", 2).await);
    for n in 0..50 {
        send(&rig, &countries, &format!("c{n}"), &format!("country {n}"), n).await;
    }
    send(&rig, &countries, "c7", "", 100).await;
    rig.flush().await;
    let topology = || {
        let builder = StreamsBuilder::new();
        let countries = builder.global_table::<String, String>(&countries, "countries");
        builder
            .stream::<String, String>(&input)
            .left_join_global(
                &countries,
                |_, country| country.clone(),
                |country, row| format!("{country}={}", row.as_deref().unwrap_or("none")),
            )
            .to(&output);
        builder.build().unwrap()
    };
    let mut expected = BTreeSet::new();
    for n in 0..50 {
        // Orders lie anywhere: a global table need not be partitioned like the stream.
        rig.send(&input, n % 2, &format!("order {n}"), &format!("c{n}"), 5).await;
        let row = if n == 7 { "none".to_owned() } else { format!("country {n}") };
        expected.insert((format!("order {n}"), format!("c{n}={row}")));
    }
    rig.flush().await;
    let (instances, _folder) = two(&rig, topology).await;
    let found: BTreeSet<_> = rig.texts(&output, 50).await.into_iter().collect();
    assert_eq!(found, expected, "tasks began before the global table was complete");

    // What changes later is seen by and by, on both instances.
    send(&rig, &countries, "c7", "another country", 200).await;
    rig.flush().await;
    for partition in 0..2 {
        let key = format!("late {partition}");
        eventually("the row that came later is joined", async || {
            rig.send(&input, partition, &key, "c7", 300).await;
            rig.flush().await;
            rows(&rig, &output).await.get(&key).is_some_and(|value| value == "c7=another country")
        })
        .await;
    }
    for instance in instances {
        instance.stop().await;
    }
}

#[tokio::test]
async fn a_record_that_a_global_table_cannot_read_ends_the_application_with_its_place() {
    let rig = rig("global-broken").await;
    let (numbers, input) = (rig.topic("numbers", 1).await, rig.topic("in", 1).await);
    rig.send(&numbers, 0, "n", "not eight bytes", 1).await;
    rig.flush().await;
    let builder = StreamsBuilder::new();
    let numbers_table = builder.global_table::<String, i64>(&numbers, "numbers");
    builder
        .stream::<String, String>(&input)
        .join_global(&numbers_table, |_, value| value.clone(), |value, n| format!("{value}{n}"))
        .to(&input);
    let app = App::new(builder.build().unwrap(), rig.config().build().unwrap()).unwrap();
    let (_, text) = crate::support::failure(app).await;
    assert!(text.contains(&numbers), "{text}");
}

#[tokio::test]
async fn a_versioned_table_comes_back_with_its_past() {
    let rig = rig("versioned").await;
    let (prices, input, output) =
        (rig.topic("prices", 1).await, rig.topic("in", 1).await, rig.topic("out", 1).await);
    let topology = || {
        let builder = StreamsBuilder::new();
        let history = Materialized::named("prices").versioned(std::time::Duration::from_millis(1_000));
        let prices = builder.table::<String, String>(&prices, history);
        builder
            .stream::<String, String>(&input)
            .left_join_table(&prices, (), |order, price| {
                format!("{order}:{}", price.as_deref().unwrap_or("-"))
            })
            .to(&output);
        builder.build().unwrap()
    };
    let run = async |folder: &std::path::Path| {
        start(App::new(topology(), rig.config().state_dir(folder).build().unwrap()).unwrap()).running().await
    };
    let app = run(rig.state_dir.path()).await;
    for (key, value, at) in
        [("a", "1", 1_000), ("a", "2", 1_200), ("a", "", 1_400), ("a", "3", 1_500), ("a", "1.5", 1_100)]
    {
        rig.send(&prices, 0, key, value, at).await;
    }
    rig.flush().await;
    rig.wait_committed(&prices, 0, 5).await;
    rig.send(&input, 0, "a", "first", 1_600).await;
    rig.flush().await;
    assert_eq!(rig.texts(&output, 1).await, [("a".to_owned(), "first:3".to_owned())]);
    app.stop().await;

    // Nothing is left of the local state: every version comes from the changelog.
    let folder = tempfile::tempdir().unwrap();
    let app = run(folder.path()).await;
    let questions = [(1_050, "1"), (1_150, "1.5"), (1_250, "2"), (1_450, "-"), (1_550, "3"), (900, "-")];
    for (at, _) in questions {
        rig.send(&input, 0, "a", &format!("at {at}"), at).await;
    }
    rig.flush().await;
    let found = rig.texts(&output, 1 + questions.len()).await;
    let found: Vec<String> = found.into_iter().skip(1).map(|(_, value)| value).collect();
    assert_eq!(found, questions.map(|(at, price)| format!("at {at}:{price}")));
    app.stop().await;
}

/// Fills a store, but not before it may.
struct Gated {
    store: KeyValueStore<String, String>,
    gate: Arc<Mutex<Receiver<()>>>,
}

impl Processor<String, String, (), ()> for Gated {
    fn process(&mut self, record: Record<String, String>, cx: &mut Context<'_, (), ()>) -> Outcome {
        self.gate.lock().unwrap().recv()?;
        let Some(key) = &record.key else { return Ok(()) };
        cx.store(&self.store).put(key, record.value)
    }
}

struct Look {
    store: GlobalKeyValueStore<String, String>,
}

impl Processor<String, String, String, String> for Look {
    fn process(&mut self, record: Record<String, String>, cx: &mut Context<'_, String, String>) -> Outcome {
        let found = self.store.get(&"k".to_owned())?;
        Ok(cx.forward(record.with_value(found))?)
    }
}

#[tokio::test]
async fn tasks_wait_for_the_processors_that_fill_global_stores() {
    let rig = rig("global-gate").await;
    let (texts, input, output) =
        (rig.topic("texts", 1).await, rig.topic("in", 1).await, rig.topic("out", 1).await);
    rig.send(&texts, 0, "k", "found", 1).await;
    rig.send(&input, 0, "a", "b", 1).await;
    rig.flush().await;
    let (open, gate) = channel();
    let gate = Arc::new(Mutex::new(gate));
    let store = KeyValue::<String, String>::named("texts");
    let builder = StreamsBuilder::new();
    let filled = store.clone();
    builder.add_global_store(&store, &texts, move |stores| {
        Ok(Gated { store: stores.get(&filled)?, gate: gate.clone() })
    });
    builder
        .stream::<String, String>(&input)
        .process(move |stores| Ok(Look { store: stores.global(&store)? }), &[])
        .to(&output);
    let app = start(App::new(builder.build().unwrap(), rig.config().build().unwrap()).unwrap());
    let runs = async || app.handle.state() == mainstem::AppState::Running;
    let soon = std::time::Duration::from_secs(3);
    assert!(!crate::support::holds_within(soon, runs).await, "tasks began before the store was filled");
    open.send(()).unwrap();
    let app = app.running().await;
    assert_eq!(rig.texts(&output, 1).await, [("a".to_owned(), "found".to_owned())]);
    app.stop().await;
}
