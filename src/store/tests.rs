//! A key-value store against a `BTreeMap`: every call, with commits, restores and new lives in between.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::engine::{Engine, EngineRead, KeyRange, MemoryEngine, Rows, SortedRun};
use super::keeper::Keeper;
use super::options::sealed::Sealed;
use super::{AnyStore, HandOverWhen, KeyValue, KeyValueStore, KvStore, StoreMemory, memory};
use crate::clock::ManualClock;
use crate::config::IsolationLevel;
use crate::error::Result;
use crate::record::{Headers, Timestamp};
use crate::task::context::StoreRef;
use crate::task::errors::{ErrorPolicies, ErrorResponse, Fixed};
use crate::task::{Collector, Partition, TaskCx, TopicIx};
use crate::task_id::TaskId;

/// Records, `None` in place of those that were aborted: they have offsets too.
type Log = Rc<RefCell<Vec<Option<(Bytes, Option<Bytes>)>>>>;

/// Keeps the changelog.
struct Changelog(Log);

impl Collector for Changelog {
    fn register(&mut self, _: &str) -> Result<TopicIx> {
        Ok(TopicIx(0))
    }

    fn partitions(&self, _: TopicIx) -> i32 {
        1
    }

    fn send(
        &mut self,
        _: TopicIx,
        _: Partition,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        _: Option<Timestamp>,
        _: &Headers,
    ) -> Result<()> {
        let row = (Bytes::copy_from_slice(key.expect("rows have keys")), value.map(Bytes::copy_from_slice));
        self.0.borrow_mut().push(Some(row));
        Ok(())
    }
}

/// An engine that outlives its store, and is written by the keeper.
#[derive(Default, Clone)]
struct Disk(Arc<Mutex<MemoryEngine>>);

impl EngineRead for Disk {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.0.lock().unwrap().get(key)
    }

    fn range<'a>(&'a self, range: &KeyRange) -> Rows<'a> {
        Box::new(self.0.lock().unwrap().range(range).collect::<Vec<_>>().into_iter())
    }

    fn approximate_len(&self) -> u64 {
        self.0.lock().unwrap().approximate_len()
    }
}

impl Engine for Disk {
    fn apply(&mut self, run: &SortedRun, mark: Option<&[u8]>) -> Result<()> {
        self.0.lock().unwrap().apply(run, mark)
    }

    fn mark(&self) -> Result<Option<Bytes>> {
        self.0.lock().unwrap().mark()
    }

    fn writer(&self) -> Option<Box<dyn Engine>> {
        Some(Box::new(self.clone()))
    }

    fn snapshot(&self) -> Arc<dyn EngineRead + Send + Sync> {
        self.0.lock().unwrap().snapshot()
    }
}

/// Where a store of a test lives.
#[derive(Clone, Default)]
struct Home {
    disk: Option<(Disk, Keeper)>,
}

impl Home {
    fn of(on_disk: bool) -> Self {
        Self { disk: on_disk.then(|| (Disk::default(), Keeper::start().unwrap().0)) }
    }

    /// Brings a new store to where the changelog is, from what is on the disk.
    fn restore(&self, store: &dyn AnyStore, log: &Log) {
        let log = log.borrow();
        let Some((disk, keeper)) = &self.disk else {
            store.restore(log.iter().flatten().map(|(key, value)| (key.clone(), value.clone(), 0)));
            return;
        };
        let mark = disk.mark().unwrap().map_or(0, |mark| i64::from_be_bytes(mark[..].try_into().unwrap()));
        let tail: BTreeMap<_, _> = log[usize::try_from(mark).unwrap()..].iter().flatten().cloned().collect();
        disk.clone().apply(&tail.into_iter().collect(), Some(&log.len().to_be_bytes())).unwrap();
        store.attach(Box::new(disk.clone()), log.len() as i64, Some(keeper.clone())).unwrap();
    }

    /// Waits until the keeper has done what it was given.
    fn settle(&self) {
        if let Some((_, keeper)) = &self.disk {
            let (done, wait) = std::sync::mpsc::channel();
            keeper.run(move || done.send(()).unwrap()).unwrap();
            wait.recv().unwrap();
        }
    }
}

struct Life {
    store: KeyValueStore<String, i64>,
    cx: TaskCx,
    log: Log,
    /// How much of it is committed.
    committed: usize,
}

impl Life {
    /// The store as all that a worker has.
    fn alone(&self) -> impl Iterator<Item = &dyn AnyStore> + Clone {
        std::iter::once(&*self.store.0 as &dyn AnyStore)
    }

    fn begin(cached: bool, home: &Home, log: Log) -> Self {
        let options = KeyValue::<String, i64>::named("m");
        let options = if cached { options.caching() } else { options };
        let any = options.blueprint().build("app-m-changelog", Some(TopicIx(0)), true);
        home.restore(&*any, &log);
        let store = any.into_any().downcast::<KvStore<String, i64>>().expect("it was built as this");
        let fail = ErrorResponse::Fail;
        let handler = Fixed { deserialization: fail, processing: fail, production: fail };
        let policies = ErrorPolicies {
            handler: Arc::new(handler),
            dead_letter_topic: None,
            timestamps: crate::config::TimestampPolicy::Fail,
        };
        let cx = TaskCx::new(
            TaskId { subtopology: 0, partition: 0 },
            "app".into(),
            Box::new(Changelog(log.clone())),
            Arc::new(ManualClock::at(0)),
            policies,
        );
        let committed = log.borrow().len();
        Self { store: KeyValueStore(store), cx, log, committed }
    }

    fn with(&mut self) -> StoreRef<'_, KeyValueStore<String, i64>> {
        StoreRef { store: &self.store, cx: &mut self.cx }
    }

    fn commit(&mut self) {
        AnyStore::flush(&*self.store.0, &mut self.cx).unwrap();
        let end = self.log.borrow().len() as i64;
        AnyStore::commit(&*self.store.0, Some(end)).unwrap();
        assert_eq!(self.cx.cached_bytes, 0, "what the cache lets go no longer counts");
        self.committed = self.log.borrow().len();
    }

    /// What the changelog has of a transaction that was not committed does not count.
    fn abort(&mut self) {
        self.log.borrow_mut()[self.committed..].fill(None);
        self.committed = self.log.borrow().len();
    }
}

#[derive(Debug, Clone)]
enum Op {
    Put(u16, i64),
    Delete(u16),
    DeleteRange(u16, u16),
    PutIfAbsent(u16, i64),
    Get(u16),
    Scan {
        from: Option<u16>,
        to: Option<u16>,
        reverse: bool,
    },
    Prefix(u16),
    Commit,
    /// The transaction is aborted: flushed or not, everything is as it was at the last commit.
    Abort {
        flushed: bool,
    },
    /// Readers on other threads see everything up to here, and nothing further until the next time.
    Publish,
    /// The same for readers of what is committed: they see what the last commit, or the next ones, made.
    PublishCommitted,
    /// A record of the changelog that somebody else has written arrives.
    Restore(u16, Option<i64>),
    /// What is committed begins its way to the engine.
    HandOver,
    /// And is there.
    Settle,
    /// There is less memory: rows go, as far as they can be read again.
    Relieve(u16),
    /// The task moves: a new store from its engine and the changelog.
    Move,
    /// The process dies, the keeper in whatever it is doing: what was logged is there again, committed or not.
    Crash,
    /// The same, and what it had not committed is aborted by whoever comes next.
    CrashAborted,
}

/// Enough keys for three pages of a scan.
const KEYS: u16 = 700;

fn key(n: u16) -> String {
    format!("k{n:03}")
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let n = || 0..KEYS;
    let op = prop_oneof![
        4 => (n(), any::<i64>()).prop_map(|(k, v)| Op::Put(k, v)),
        2 => n().prop_map(Op::Delete),
        2 => (n(), 0..400u16).prop_map(|(k, len)| Op::DeleteRange(k, (k + len).min(KEYS))),
        1 => (n(), any::<i64>()).prop_map(|(k, v)| Op::PutIfAbsent(k, v)),
        1 => n().prop_map(Op::Get),
        4 => (proptest::option::of(n()), proptest::option::of(n()), any::<bool>())
            .prop_map(|(from, to, reverse)| Op::Scan { from, to, reverse }),
        1 => n().prop_map(Op::Prefix),
        2 => Just(Op::Commit),
        2 => any::<bool>().prop_map(|flushed| Op::Abort { flushed }),
        3 => Just(Op::Publish),
        1 => Just(Op::PublishCommitted),
        1 => (n(), proptest::option::of(any::<i64>())).prop_map(|(k, v)| Op::Restore(k, v)),
        2 => Just(Op::HandOver),
        1 => Just(Op::Settle),
        2 => (0..20_000u16).prop_map(Op::Relieve),
        1 => Just(Op::Move),
        1 => Just(Op::Crash),
        1 => Just(Op::CrashAborted),
    ];
    proptest::collection::vec(op, 1..40)
}

fn scanned(scan: impl Iterator<Item = Result<(String, i64)>>) -> Vec<(String, i64)> {
    scan.map(|row| row.unwrap()).collect()
}

/// What another thread reads.
fn check_view(life: &Life, level: IsolationLevel, want: &BTreeMap<String, i64>) {
    let view = life.store.0.visible().face(level).view(Duration::ZERO);
    let view = view.unwrap_or_else(|why| panic!("{why:?}"));
    let number = |row: &Bytes| i64::from_be_bytes(row[..].try_into().expect("a long"));
    for reverse in [false, true] {
        let range = KeyRange { from: Bound::Unbounded, to: Bound::Unbounded, reverse };
        let rows = view.range(&range).map(|row| row.unwrap());
        let mut got: Vec<_> =
            rows.map(|(k, v)| (String::from_utf8_lossy(&k).into_owned(), number(&v))).collect();
        if reverse {
            got.reverse();
        }
        assert!(got.iter().map(|(k, v)| (k, v)).eq(want), "{got:?} instead of {want:?}");
    }
    assert_eq!(view.approximate_len().unwrap(), want.len() as u64);
    for n in (0..KEYS).step_by(31) {
        let got = view.get(key(n).as_bytes()).unwrap();
        assert_eq!(got.as_ref().map(number), want.get(&key(n)).copied());
    }
}

fn check(cached: bool, on_disk: bool, filled: u16, ops: &[Op]) {
    let home = Home::of(on_disk);
    let mut life = Life::begin(cached, &home, Log::default());
    let mut model = BTreeMap::new();
    // What readers see; nobody reads before the first `Publish`.
    let mut shown: Option<BTreeMap<String, i64>> = None;
    // What is committed, and whether anybody reads that.
    let (mut committed, mut reads_committed) = (BTreeMap::new(), false);
    for n in 0..filled {
        life.with().put(&key(n), i64::from(n)).unwrap();
        model.insert(key(n), i64::from(n));
    }
    for op in ops {
        if let Some(shown) = &shown {
            check_view(&life, IsolationLevel::ReadUncommitted, shown);
        }
        if reads_committed {
            check_view(&life, IsolationLevel::ReadCommitted, &committed);
        }
        match op {
            Op::Put(k, v) => {
                life.with().put(&key(*k), *v).unwrap();
                model.insert(key(*k), *v);
            }
            Op::Delete(k) => assert_eq!(life.with().delete(&key(*k)).unwrap(), model.remove(&key(*k))),
            Op::DeleteRange(from, to) => {
                for k in *from..*to {
                    assert_eq!(life.with().delete(&key(k)).unwrap(), model.remove(&key(k)));
                }
            }
            Op::PutIfAbsent(k, v) => {
                let found = life.with().put_if_absent(&key(*k), *v).unwrap();
                assert_eq!(found, model.get(&key(*k)).copied());
                model.entry(key(*k)).or_insert(*v);
            }
            Op::Get(k) => assert_eq!(life.with().get(&key(*k)).unwrap(), model.get(&key(*k)).copied()),
            Op::Scan { from, to, reverse } => {
                let (from, to) = (from.map(key), to.map(key));
                let bounds = (
                    from.clone().map_or(Bound::Unbounded, Bound::Included),
                    to.clone().map_or(Bound::Unbounded, Bound::Included),
                );
                let empty = matches!((&from, &to), (Some(from), Some(to)) if from > to);
                let mut want: Vec<(String, i64)> = if empty {
                    Vec::new()
                } else {
                    model.range(bounds).map(|(k, v)| (k.clone(), *v)).collect()
                };
                let got = if *reverse {
                    want.reverse();
                    life.with().reverse_range(from.as_ref(), to.as_ref()).map(scanned).unwrap()
                } else {
                    life.with().range(from.as_ref(), to.as_ref()).map(scanned).unwrap()
                };
                assert_eq!(got, want);
            }
            Op::Prefix(k) => {
                let prefix = &key(*k)[..3];
                let got = life.with().prefix_scan(prefix.as_bytes()).map(scanned).unwrap();
                let want: Vec<_> = model
                    .iter()
                    .filter(|(k, _)| k.starts_with(prefix))
                    .map(|(k, v)| (k.clone(), *v))
                    .collect();
                assert_eq!(got, want);
            }
            Op::Commit => {
                life.commit();
                committed = model.clone();
                shown = shown.map(|_| model.clone());
            }
            Op::Abort { flushed } => {
                if *flushed {
                    AnyStore::flush(&*life.store.0, &mut life.cx).unwrap();
                }
                life.abort();
                AnyStore::roll_back(&*life.store.0);
                // A task that is aborted is built anew, over the same stores.
                life.cx.cached_bytes = 0;
                model.clone_from(&committed);
                shown = shown.map(|_| model.clone());
            }
            Op::PublishCommitted => {
                life.store.0.visible().committed.want();
                AnyStore::publish(&*life.store.0).unwrap();
                shown = shown.map(|_| model.clone());
                reads_committed = true;
            }
            Op::Publish => {
                life.store.0.visible().uncommitted.want();
                AnyStore::publish(&*life.store.0).unwrap();
                shown = Some(model.clone());
            }
            Op::Restore(..) if on_disk => {}
            Op::Restore(k, v) => {
                life.commit();
                let (bytes, value) =
                    (Bytes::from(key(*k)), v.map(|v| Bytes::copy_from_slice(&v.to_be_bytes())));
                life.log.borrow_mut().push(Some((bytes, value)));
                life.committed = life.log.borrow().len();
                let log: Vec<_> =
                    life.log.borrow().iter().flatten().map(|(k, v)| (k.clone(), v.clone(), 0)).collect();
                shown = shown.map(|_| model.clone());
                <dyn AnyStore>::restore(&*life.store.0, log);
                match v {
                    Some(v) => model.insert(key(*k), *v),
                    None => model.remove(&key(*k)),
                };
                committed.clone_from(&model);
                // Whoever reads what is committed is shown the other engine with the task's start.
                reads_committed = false;
            }
            Op::HandOver => {
                let mark = |next: i64| Bytes::copy_from_slice(&next.to_be_bytes());
                AnyStore::hand_over(&*life.store.0, Some(&mark)).unwrap();
            }
            Op::Settle => home.settle(),
            Op::Relieve(share) => {
                let wants_commit = memory::relieve(life.alone(), usize::from(*share)).commit;
                let memory = AnyStore::memory(&*life.store.0);
                let too_much = memory.rows > usize::from(*share);
                assert!(
                    !too_much || (wants_commit && memory.open > 0),
                    "only what is open may be too much: {memory:?}"
                );
            }
            Op::Move => {
                life.commit();
                home.settle();
                life = Life::begin(cached, &home, life.log.clone());
                committed = model.clone();
                (shown, reads_committed) = (None, false);
            }
            Op::Crash | Op::CrashAborted => {
                home.settle();
                if let Op::CrashAborted = op {
                    life.abort();
                }
                life = Life::begin(cached, &home, life.log.clone());
                (shown, reads_committed) = (None, false);
                model.clear();
                for (key, value) in life.log.borrow().iter().flatten() {
                    let key = String::from_utf8_lossy(key).into_owned();
                    match value {
                        Some(v) => model.insert(key, i64::from_be_bytes(v[..].try_into().unwrap())),
                        None => model.remove(&key),
                    };
                }
                if let Op::CrashAborted = op {
                    assert_eq!(model, committed, "what was committed is there, and nothing else");
                }
                committed.clone_from(&model);
            }
        }
    }
    if let Some(shown) = &shown {
        check_view(&life, IsolationLevel::ReadUncommitted, shown);
        AnyStore::publish(&*life.store.0).unwrap();
        check_view(&life, IsolationLevel::ReadUncommitted, &model);
    }
    if reads_committed {
        check_view(&life, IsolationLevel::ReadCommitted, &committed);
    }
    let want: Vec<_> = model.into_iter().collect();
    assert_eq!(scanned(life.with().all().unwrap()), want);
    life.commit();
    let reversed: Vec<_> = want.iter().rev().cloned().collect();
    assert_eq!(scanned(life.with().reverse_all().unwrap()), reversed);
    let rows = AnyStore::rows(&*life.store.0).unwrap();
    let rows: Vec<_> = rows
        .into_iter()
        .map(|row| {
            let value: [u8; 8] = row.value[..].try_into().expect("a long");
            (String::from_utf8(row.key.to_vec()).expect("a text"), i64::from_be_bytes(value))
        })
        .collect();
    assert_eq!(rows, want);
    home.settle();
    let next = Life::begin(cached, &home, life.log.clone());
    assert_eq!(AnyStore::rows(&*next.store.0).unwrap().len(), want.len(), "the changelog holds the same");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn a_store_is_a_sorted_map(
        cached: bool, on_disk: bool, filled in prop_oneof![Just(0), Just(300), Just(KEYS)], ops in ops()
    ) {
        check(cached, on_disk, filled, &ops);
    }
}

#[test]
fn deletions_that_hide_whole_pages_do_not_end_a_scan() {
    for reverse in [false, true] {
        for committed in [false, true] {
            let commit = if committed { vec![Op::Commit] } else { vec![] };
            let all = Op::Scan { from: None, to: None, reverse };
            // Open deletions over committed rows: two pages of nothing before the rest, and two pages at the end.
            let mut ops = vec![Op::Commit, Op::DeleteRange(0, 600)];
            ops.extend(commit.clone());
            ops.extend([all.clone(), Op::Put(650, 1), Op::DeleteRange(651, KEYS)]);
            ops.extend(commit);
            ops.push(all);
            for on_disk in [false, true] {
                check(false, on_disk, KEYS, &ops);
                check(true, on_disk, KEYS, &ops);
            }
        }
    }
}

#[test]
fn a_scan_shows_changes_to_the_rows_not_yet_read() {
    let mut life = Life::begin(false, &Home::default(), Log::default());
    for n in 0..KEYS {
        life.with().put(&key(n), 0).unwrap();
    }
    let mut scan = life.with().all().unwrap();
    assert_eq!(scan.next().unwrap().unwrap(), (key(0), 0));
    life.with().put(&key(600), 1).unwrap();
    life.with().delete(&key(601)).unwrap();
    let rest = scanned(scan);
    assert_eq!(rest.len(), usize::from(KEYS) - 2);
    assert_eq!(rest.iter().find(|(k, _)| *k == key(600)), Some(&(key(600), 1)));
}

/// State of twenty times the memory: rows go, and commits come early.
#[test]
fn a_store_much_larger_than_its_share_of_memory_keeps_to_it() {
    const SHARE: usize = 256 << 10;
    const LONG: usize = 20 * SHARE / 160;
    let home = Home::of(true);
    let mut life = Life::begin(false, &home, Log::default());
    let store = life.store.0.clone();
    let (mut commits, mut most) = (0, 0);
    for n in 0..LONG {
        // Half of the updates are of keys that were there long before.
        let key = if n % 2 == 0 { n } else { n.wrapping_mul(2_654_435_761) % (n + 1) };
        life.with().put(&format!("{key:08}"), n as i64).unwrap();
        if n % 100 == 0 {
            if memory::relieve(life.alone(), SHARE).commit {
                life.commit();
                commits += 1;
                memory::await_hand_overs(life.alone(), SHARE).unwrap();
                let bytes = memory::hand_over_from(life.alone(), SHARE);
                if AnyStore::is_hand_over_due(&*store, HandOverWhen { last: false, bytes, far: true }) {
                    AnyStore::hand_over(&*store, None).unwrap();
                }
                memory::relieve(life.alone(), SHARE);
            }
            let memory = AnyStore::memory(&*store);
            most = most.max(memory.rows + memory.runs);
        }
    }
    assert!(most <= SHARE, "{most} bytes instead of {SHARE}");
    assert!(commits > 20, "{commits} early commits");
    life.commit();
    home.settle();
    let mut model = BTreeMap::new();
    for (key, value) in life.log.borrow().iter().flatten() {
        model.insert(key.clone(), value.clone().unwrap());
    }
    let rows = AnyStore::rows(&*store).unwrap();
    assert!(rows.into_iter().map(|row| (row.key, row.value)).eq(model));
}

/// One store takes all updates, and thirty have a few rows each: what they do not need is the hot one's.
#[test]
fn a_hot_store_among_cold_ones_has_the_memory_of_all() {
    const ALL: usize = 1 << 20;
    const COLD: usize = 30;
    let home = || Home::of(true);
    let homes: Vec<Home> = (0..=COLD).map(|_| home()).collect();
    let mut lives: Vec<Life> = homes.iter().map(|home| Life::begin(false, home, Log::default())).collect();
    for life in &mut lives[1..] {
        for n in 0..10 {
            life.with().put(&format!("{n:08}"), n).unwrap();
        }
        life.commit();
    }
    let stores = |lives: &[Life]| -> Vec<StoreMemory> { lives.iter().map(|l| l.store.0.memory()).collect() };
    let (mut hand_overs, mut most, mut most_gathered) = (0, 0, 0);
    for n in 0..20_000i64 {
        lives[0].with().put(&format!("{:08}", n % 7_000), n).unwrap();
        if n % 100 > 0 {
            continue;
        }
        let all = || lives.iter().map(|life| &*life.store.0 as &dyn AnyStore);
        memory::relieve(all(), ALL);
        lives[0].commit();
        let all = || lives.iter().map(|life| &*life.store.0 as &dyn AnyStore);
        memory::await_hand_overs(all(), ALL).unwrap();
        let bytes = memory::hand_over_from(all(), ALL);
        let when = HandOverWhen { last: false, bytes, far: false };
        for (at, store) in all().enumerate().filter(|(_, store)| store.is_hand_over_due(when)) {
            assert_eq!(at, 0, "the others have next to nothing");
            most_gathered = most_gathered.max(store.memory().runs);
            store.hand_over(None).unwrap();
            hand_overs += 1;
        }
        let held = memory::held(all());
        most = most.max(held.rows + held.runs);
    }
    assert!(most <= ALL, "{most} bytes instead of {ALL}");
    assert!(
        hand_overs > 0 && most_gathered > ALL / 8,
        "{hand_overs} hand-overs, the largest of {most_gathered}"
    );
    let memory = stores(&lives);
    assert!(memory[1..].iter().all(|cold| cold.rows > 0), "the small ones keep their rows: {memory:?}");
}
