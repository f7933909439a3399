//! What readers on other threads see while a store changes, and what they are told when there is nothing to see.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;

use super::{Asked, LocalStores, Phase, ReadOnlyKeyValueStore, Registered};
use crate::config::Config;
use crate::config::IsolationLevel;
use crate::dsl::StreamsBuilder;
use crate::error::{Error, ErrorKind, Result};
use crate::record::Record;
use crate::serde::erased::SerdeRef;
use crate::store::visible::Unseen;
use crate::store::{KvOptions, StoreBlueprint};
use crate::task_id::TaskId;
use crate::testing::BenchTask;

const LEVEL: IsolationLevel = IsolationLevel::ReadUncommitted;

const KEYS: u64 = 600;

/// A task that counts, and whose record cache is on if it has bytes.
fn counting(cache_bytes: usize) -> BenchTask {
    let builder = StreamsBuilder::new();
    builder.stream::<Bytes, Bytes>("in").group_by_key("by").count("counts");
    let config = Config::builder("test", "unused:9092").state_dir("unused").cache_bytes(cache_bytes);
    BenchTask::new(&builder.build().unwrap(), &config.build().unwrap()).unwrap()
}

/// Each key once.
fn push_all_keys(task: &mut BenchTask, batch: u64, half: Option<bool>) {
    let all = 0..KEYS;
    let keys: Vec<u64> = match half {
        None => all.collect(),
        Some(first) => all.filter(|n| (n % 2 == 0) == first).collect(),
    };
    let record = move |n: u64| {
        let key = Bytes::copy_from_slice(&n.to_be_bytes());
        Record::new(key, Bytes::from_static(b"v"), batch as i64)
    };
    let offset = (batch * KEYS) as i64 + if half == Some(false) { KEYS as i64 / 2 } else { 0 };
    task.push("in", offset, keys.into_iter().map(record).collect::<Vec<_>>().into_iter()).unwrap();
    task.process().unwrap();
}

/// The counts of a scan of everything; all the same if it saw whole batches.
fn counts(store: &ReadOnlyKeyValueStore<Bytes, i64>, reverse: bool) -> BTreeSet<i64> {
    let rows = if reverse { store.reverse_all() } else { store.all() };
    let rows: Vec<(Bytes, i64)> = rows.unwrap().collect::<Result<_>>().unwrap();
    assert_eq!(rows.len() as u64, KEYS, "every batch has all keys");
    rows.into_iter().map(|(_, count)| count).collect()
}

/// Counts batches while two threads scan. Says whether any scan saw part of a batch. `torn` publishes in the middle of
/// batches too, and then waits for a scan.
fn scans_during_publishes(cache_bytes: usize, torn: bool) -> bool {
    let mut task = counting(cache_bytes);
    push_all_keys(&mut task, 0, None);
    let store = task.key_value_store::<Bytes, i64>("counts").unwrap();
    let (done, scans, halves) = (AtomicBool::new(false), AtomicU64::new(0), AtomicBool::new(false));
    let batches = if torn { 5 } else { 60 };
    thread::scope(|scope| {
        for reverse in [false, true] {
            let (store, done, scans, halves) = (store.clone(), &done, &scans, &halves);
            scope.spawn(move || {
                let mut last = 0;
                while !done.load(Ordering::Acquire) {
                    let seen = counts(&store, reverse);
                    halves.fetch_or(seen.len() != 1, Ordering::Relaxed);
                    let least = seen.first().copied().unwrap_or_default();
                    assert!(least >= last, "a later scan sees no less");
                    last = least;
                    scans.fetch_add(1, Ordering::Release);
                }
            });
        }
        let one_more = || {
            // Two of each thread: the first may have begun before.
            let enough = scans.load(Ordering::Acquire) + 4;
            while scans.load(Ordering::Acquire) < enough {
                thread::yield_now();
            }
        };
        for batch in 1..=batches {
            push_all_keys(&mut task, batch, Some(true));
            if torn {
                task.publish().unwrap();
                one_more();
            }
            push_all_keys(&mut task, batch, Some(false));
            task.publish().unwrap();
            if batch % 7 == 0 {
                task.commit().unwrap();
            }
            if batch % 20 == 0 {
                one_more();
            }
        }
        done.store(true, Ordering::Release);
    });
    assert_eq!(counts(&store, false), BTreeSet::from([batches as i64 + 1]));
    halves.into_inner()
}

#[test]
fn a_scan_sees_all_or_nothing_of_a_batch() {
    for cache_bytes in [0, 10 << 20] {
        assert!(!scans_during_publishes(cache_bytes, false), "cache of {cache_bytes} bytes");
    }
}

/// The test above can fail: this is what it would see.
#[test]
fn what_is_published_in_the_middle_of_a_batch_is_seen_in_halves() {
    assert!(scans_during_publishes(0, true));
}

#[test]
fn with_the_cache_and_without_it_readers_see_the_same_after_every_batch() {
    let mut tasks = [counting(0), counting(10 << 20)];
    let stores = tasks.each_ref().map(|task| task.key_value_store::<Bytes, i64>("counts").unwrap());
    for batch in 0..40u64 {
        for task in &mut tasks {
            let keys = (0..50).map(|n| Bytes::copy_from_slice(&[((n * batch) % 23) as u8]));
            let records: Vec<_> = keys.map(|key| Record::new(key, Bytes::new(), batch as i64)).collect();
            task.push("in", (batch * 50) as i64, records.into_iter()).unwrap();
            task.process().unwrap();
            task.publish().unwrap();
            if batch % 9 == 8 {
                task.commit().unwrap();
            }
        }
        let [plain, cached] =
            stores.each_ref().map(|s| s.all().unwrap().collect::<Result<Vec<_>>>().unwrap());
        assert_eq!(plain, cached);
        assert_eq!(plain.iter().map(|(_, count)| count).sum::<i64>(), (batch as i64 + 1) * 50);
    }
    // The cache does hold them back from the changelog.
    assert!(tasks[1].sent().0 < tasks[0].sent().0 / 4);
}

#[test]
fn what_was_processed_after_the_last_publish_is_not_seen() {
    let mut task = counting(0);
    push_all_keys(&mut task, 0, None);
    let store = task.key_value_store::<Bytes, i64>("counts").unwrap();
    let scan = store.all().unwrap();
    push_all_keys(&mut task, 1, None);
    assert_eq!(counts(&store, false), BTreeSet::from([1]));
    task.publish().unwrap();
    assert_eq!(counts(&store, false), BTreeSet::from([2]));
    let of_scan: BTreeSet<i64> = scan.map(|row| row.unwrap().1).collect();
    assert_eq!(of_scan, BTreeSet::from([1]), "a scan stays with what it began with");
    assert_eq!(store.approximate_num_entries().unwrap(), KEYS);
}

// ---- several tasks, and what readers are told ----

fn id(partition: i32) -> TaskId {
    TaskId { subtopology: 1, partition }
}

fn blueprint(name: &str, named: bool) -> Arc<dyn StoreBlueprint> {
    let options = KvOptions::<String, i64> {
        name: name.into(),
        named,
        key_serde: SerdeRef::of(),
        value_serde: SerdeRef::of(),
        segments: None,
        timestamped: false,
        cached: false,
        buffers: false,
        logs_headers: false,
        history: None,
        kind: None,
        changelog: None,
    };
    options.blueprint()
}

/// The stores of an instance, whose tasks come and go by hand.
struct Rig {
    local: Arc<LocalStores>,
    stores: Vec<(i32, Arc<dyn StoreBlueprint>)>,
}

impl Rig {
    fn new() -> Self {
        let stores = vec![
            (0, blueprint("others", true)),
            (1, blueprint("rows", true)),
            (1, blueprint("gen-3", false)),
        ];
        Self { local: Arc::new(LocalStores::new(|| ())), stores }
    }

    fn asked<V: 'static>(&self, name: &str) -> Result<ReadOnlyKeyValueStore<String, V>> {
        let asked = Asked { stores: &self.local, application_id: "app", name, level: LEVEL };
        asked.key_value_store(self.stores.iter().map(|(id, store)| (*id, store)), false, |(value, _)| value)
    }

    fn rows(&self) -> ReadOnlyKeyValueStore<String, i64> {
        self.asked("rows").unwrap()
    }

    /// A task of the store begins to run.
    fn run(&self, partition: i32, worker: u64, rows: &[(&str, i64)]) -> Registered {
        let store = self.stores[1].1.build("app-rows-changelog", None, false);
        store.restore(rows.iter().map(|(key, value)| {
            let value = Bytes::copy_from_slice(&value.to_be_bytes());
            (Bytes::copy_from_slice(key.as_bytes()), Some(value), 0)
        }));
        let registered = self.local.enter(id(partition), worker, std::slice::from_ref(&store));
        store.publish().unwrap();
        registered
    }
}

fn all(store: &ReadOnlyKeyValueStore<String, i64>) -> Result<Vec<(String, i64)>> {
    store.all()?.collect()
}

#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: Result<T>, kind: ErrorKind, text: &str) -> Error {
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(text), "{error}");
    error
}

#[test]
fn a_read_goes_through_all_tasks_that_are_here_or_one_partition() {
    let rig = Rig::new();
    let store = rig.rows();
    rig.local.set_phase(Phase::Started);
    rig.local.set_placed(true, [(id(0), Some(0)), (id(3), Some(1))].into_iter());
    let _three = rig.run(3, 1, &[("a", 30), ("d", 31)]);
    let _zero = rig.run(0, 0, &[("b", 1), ("c", 2), ("e", 3)]);
    let rows = |rows: &[(&str, i64)]| rows.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect::<Vec<_>>();
    assert_eq!(all(&store).unwrap(), rows(&[("b", 1), ("c", 2), ("e", 3), ("a", 30), ("d", 31)]));
    let reversed: Vec<_> = store.reverse_all().unwrap().collect::<Result<_>>().unwrap();
    assert_eq!(reversed, rows(&[("e", 3), ("c", 2), ("b", 1), ("d", 31), ("a", 30)]));
    let key = |key: &str| key.to_owned();
    let range: Vec<_> = store.range(key("b")..key("d")).unwrap().collect::<Result<_>>().unwrap();
    assert_eq!(range, rows(&[("b", 1), ("c", 2)]));
    let range: Vec<_> = store.reverse_range(key("c")..=key("d")).unwrap().collect::<Result<_>>().unwrap();
    assert_eq!(range, rows(&[("c", 2), ("d", 31)]));
    assert_eq!(store.range(key("d")..key("b")).unwrap().count(), 0);
    let prefix: Vec<_> = store.prefix_scan(b"d").unwrap().collect::<Result<_>>().unwrap();
    assert_eq!(prefix, rows(&[("d", 31)]));
    assert_eq!(store.get(&key("d")).unwrap(), Some(31));
    assert_eq!(store.get(&key("x")).unwrap(), None);
    assert_eq!(store.approximate_num_entries().unwrap(), 5);

    let three = store.clone().partition(3);
    assert_eq!(all(&three).unwrap(), rows(&[("a", 30), ("d", 31)]));
    assert_eq!(three.get(&key("b")).unwrap(), None);
}

#[test]
fn whoever_asks_for_what_is_not_there_is_told_what_there_is() {
    let rig = Rig::new();
    refused(rig.asked::<i64>("row"), ErrorKind::UnknownStore, "did you mean rows?; it has: others, rows");
    refused(rig.asked::<i64>("gen-3"), ErrorKind::UnknownStore, "name it with Materialized");
    let wrong = refused(rig.asked::<String>("rows"), ErrorKind::StoreType, "a key-value store of ");
    assert!(
        wrong.to_string().contains("String and i64; it was asked for as a key-value store of"),
        "{wrong}"
    );
    let asked = Asked { stores: &rig.local, application_id: "app", name: "rows", level: LEVEL };
    let known = rig.stores.iter().map(|(id, store)| (*id, store));
    let with_timestamps = asked.key_value_store::<String, i64, _>(known, true, |row| row);
    refused(with_timestamps, ErrorKind::StoreType, "asked for as a timestamped key-value store");
}

#[test]
fn errors_say_what_to_do_until_the_store_is_there() {
    let rig = Rig::new();
    let store = rig.rows();
    let (zero, one) = (store.clone().partition(0), store.clone().partition(1));
    assert!(refused(all(&store), ErrorKind::NotStarted, "run the application").is_retriable());

    // The group has not met yet.
    rig.local.set_phase(Phase::Started);
    assert!(refused(all(&store), ErrorKind::Rebalancing, "whose its tasks are").is_retriable());
    refused(all(&zero), ErrorKind::Rebalancing, "whose its tasks are");

    // Two tasks are ours, one on another instance; none runs.
    let owners = [(id(0), "here:1"), (id(1), "here:1"), (id(2), "there:2")];
    rig.local.set_owners(owners.into_iter().map(|(task, owner)| (task, owner.into())));
    rig.local.set_placed(true, [(id(0), None), (id(1), None)].into_iter());
    refused(all(&store), ErrorKind::Rebalancing, "restoring the tasks 1_0, 1_1");
    refused(
        all(&store.clone().enable_stale_stores()),
        ErrorKind::Rebalancing,
        "restoring the tasks 1_0, 1_1",
    );
    let first = rig.run(0, 0, &[("a", 1)]);
    rig.local.set_placed(true, [(id(0), Some(0)), (id(1), None)].into_iter());
    refused(all(&store), ErrorKind::Rebalancing, "restoring the tasks 1_1");
    assert_eq!(all(&store.clone().enable_stale_stores()).unwrap().len(), 1);
    assert_eq!(all(&zero).unwrap().len(), 1);
    refused(all(&one), ErrorKind::Rebalancing, "restoring the tasks 1_1");
    let _second = rig.run(1, 1, &[("b", 2)]);
    rig.local.set_placed(true, [(id(0), Some(0)), (id(1), Some(1))].into_iter());
    assert_eq!(all(&store).unwrap().len(), 2);

    // What is elsewhere, and what is nowhere.
    let moved = refused(all(&store.clone().partition(2)), ErrorKind::Moved, "ask there:2");
    assert_eq!((moved.partition(), moved.is_retriable()), (Some(2), false));
    refused(
        all(&store.clone().partition(9)),
        ErrorKind::UnknownStore,
        "no partition 9; the group has: 0, 1, 2",
    );

    // One moves away; it comes back to another worker before the first has noticed.
    rig.local.set_placed(true, [(id(1), Some(1))].into_iter());
    refused(all(&zero), ErrorKind::Moved, "ask here:1");
    assert_eq!(all(&store).unwrap().len(), 1, "a task that is no longer ours is not read");
    rig.local.set_placed(true, [(id(0), None), (id(1), Some(1))].into_iter());
    refused(all(&zero), ErrorKind::Rebalancing, "restoring the tasks 1_0");
    let again = rig.run(0, 2, &[("a", 1), ("c", 3)]);
    rig.local.set_placed(true, [(id(0), Some(2)), (id(1), Some(1))].into_iter());
    assert_eq!(all(&store).unwrap().len(), 3);
    let late = rig.run(0, 0, &[]);
    assert_eq!(all(&store).unwrap().len(), 3, "what a worker that was left behind begins late is not read");
    drop((first, late));
    assert_eq!(all(&store).unwrap().len(), 3);
    drop(again);
    refused(all(&store), ErrorKind::Rebalancing, "restoring the tasks 1_0");

    rig.local.set_placed(true, std::iter::empty());
    refused(
        all(&store),
        ErrorKind::Moved,
        "no partition of the store rows is on this instance: ask here:1, there:2",
    );
    rig.local.set_phase(Phase::Ended);
    assert!(!refused(all(&store), ErrorKind::Closed, "has ended").is_retriable());
}

#[test]
fn the_first_read_waits_for_the_worker_and_ends_with_the_task() {
    let rig = Rig::new();
    rig.local.set_phase(Phase::Started);
    rig.local.set_placed(true, std::iter::once((id(0), Some(0))));
    let store = rig.stores[1].1.build("app-rows-changelog", None, false);
    let registered = rig.local.enter(id(0), 0, std::slice::from_ref(&store));
    store.publish().unwrap();
    assert_eq!(
        store.visible().uncommitted.view(Duration::ZERO).err(),
        Some(Unseen::NotYet),
        "nobody has asked yet"
    );
    let handle = rig.rows();
    assert!(store.visible().uncommitted.is_wanted());
    thread::scope(|scope| {
        let waiting = scope.spawn(|| all(&handle));
        store.publish().unwrap();
        assert_eq!(waiting.join().unwrap().unwrap(), []);
    });
    let second = rig.stores[1].1.build("app-rows-changelog", None, false);
    drop(registered);
    let registered = rig.local.enter(id(0), 0, std::slice::from_ref(&second));
    thread::scope(|scope| {
        let waiting = scope.spawn(|| all(&handle));
        drop(registered);
        refused(waiting.join().unwrap(), ErrorKind::Rebalancing, "1_0");
    });
}
