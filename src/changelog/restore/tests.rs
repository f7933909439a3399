//! The pool against scripted deliveries: what is in the engines, what the marks say, who hears what.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::client::batch::{BatchBuilder, ProducerStamp};
use crate::client::compression::Compression;
use crate::client::fetch::{Credit, Fetched, LogState};
use crate::record::Headers;
use crate::store::RowFormat;
use crate::store::engine::{EngineRead, KeyRange, MemoryEngine, Rows, SortedRun};

/// What all tests wait at most.
const LONG: Duration = Duration::from_secs(20);

/// Key and value; a record's offset is its place.
type Log = Vec<(Option<String>, Option<String>)>;
type Table = BTreeMap<Vec<u8>, Vec<u8>>;

fn log(count: i64, keys: i64) -> Log {
    let value = |n: i64| (n % 7 != 3).then(|| format!("{n}-{}", "v".repeat(n as usize % 40)));
    (0..count).map(|n| (Some(format!("key-{}", n * 7919 % keys)), value(n))).collect()
}

fn fold(log: &Log, to: i64) -> Table {
    let mut table = Table::new();
    for (n, (key, value)) in log.iter().enumerate().take(to as usize) {
        let Some(key) = key else { continue };
        match value {
            Some(value) => {
                let row = [&(n as i64).to_be_bytes(), value.as_bytes()].concat();
                table.insert(key.clone().into_bytes(), row)
            }
            None => table.remove(key.as_bytes()),
        };
    }
    table
}

const PLAIN: ProducerStamp =
    ProducerStamp { producer_id: -1, producer_epoch: -1, base_sequence: -1, transactional: false };

/// A batch; timestamps are the offsets.
fn batch(log: &Log, range: Range<i64>, stamp: ProducerStamp) -> Vec<u8> {
    let mut builder = BatchBuilder::new(Compression::None);
    for n in range.clone() {
        let (key, value) = &log[n as usize];
        let value = value.as_ref().map(String::as_bytes);
        builder.append(n, key.as_ref().map(String::as_bytes), value, &Headers::new());
    }
    let mut bytes = builder.close().unwrap().seal(stamp).to_vec();
    bytes[..8].copy_from_slice(&range.start.to_be_bytes());
    bytes
}

/// What an engine was given, and how it behaves.
#[derive(Default)]
struct Probe {
    engine: Mutex<MemoryEngine>,
    /// After each run: what the mark says, and the rows.
    states: Mutex<Vec<(i64, Table)>>,
    behaviour: Mutex<Behaviour>,
    /// The rows of the largest run.
    largest: AtomicUsize,
}

#[derive(Default)]
enum Behaviour {
    #[default]
    Works,
    Fails,
    Panics,
    /// Waits for a word before each run.
    Waits(Receiver<()>),
}

fn table(engine: &dyn EngineRead) -> Table {
    let all = KeyRange { from: std::ops::Bound::Unbounded, to: std::ops::Bound::Unbounded, reverse: false };
    engine.range(&all).map(|row| row.map(|(k, v)| (k.to_vec(), v.to_vec())).unwrap()).collect()
}

impl Probe {
    fn states(&self) -> Vec<(i64, Table)> {
        self.states.lock().unwrap().clone()
    }

    fn behaves(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap() = behaviour;
    }
}

struct Probed(Arc<Probe>);

impl EngineRead for Probed {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.0.engine.lock().unwrap().get(key)
    }

    fn range<'a>(&'a self, range: &KeyRange) -> Rows<'a> {
        let rows: Vec<_> = self.0.engine.lock().unwrap().range(range).collect();
        Box::new(rows.into_iter())
    }

    fn approximate_len(&self) -> u64 {
        self.0.engine.lock().unwrap().approximate_len()
    }
}

impl Engine for Probed {
    fn apply(&mut self, run: &SortedRun, mark: Option<&[u8]>) -> Result<()> {
        match &*self.0.behaviour.lock().unwrap() {
            Behaviour::Works => {}
            Behaviour::Fails => return Err(Error::new(ErrorKind::Store, "no space left in /state")),
            Behaviour::Panics => panic!("on purpose"),
            Behaviour::Waits(word) => word.recv_timeout(LONG).unwrap(),
        }
        assert!(run.iter().is_sorted_by(|a, b| a.0 < b.0), "a run is strictly ascending");
        self.0.largest.fetch_max(run.len(), Ordering::Relaxed);
        let engine = &mut *self.0.engine.lock().unwrap();
        engine.apply(run, mark)?;
        // Rows of the middle of a batch: the mark follows.
        let Some(mark) = mark else { return Ok(()) };
        let mark = i64::from_be_bytes(mark.try_into().unwrap());
        self.0.states.lock().unwrap().push((mark, table(engine)));
        Ok(())
    }

    fn mark(&self) -> Result<Option<Bytes>> {
        self.0.engine.lock().unwrap().mark()
    }

    fn writer(&self) -> Option<Box<dyn Engine>> {
        None
    }

    fn snapshot(&self) -> Arc<dyn EngineRead + Send + Sync> {
        self.0.engine.lock().unwrap().snapshot()
    }
}

/// Fetches nothing, and keeps what it was told.
#[derive(Default)]
struct Told {
    calls: Mutex<Vec<String>>,
    refuses: bool,
}

impl Source for Told {
    fn assign(&self, at: TopicPartition, offset: i64, token: u64, epoch: u64) -> bool {
        self.calls.lock().unwrap().push(format!("assign {at} {offset} {token} {epoch}"));
        !self.refuses
    }

    fn revoke(&self, at: TopicPartition, token: u64) {
        self.calls.lock().unwrap().push(format!("revoke {at} {token}"));
    }

    fn pause(&self, at: TopicPartition, token: u64, paused: bool) {
        self.calls.lock().unwrap().push(format!("pause {at} {token} {paused}"));
    }
}

struct Rig {
    pool: RestorePool<Told>,
    deliver: OnFetch,
    events: Receiver<RestoreEvent>,
    outstanding: Arc<AtomicUsize>,
}

/// How a job ended, with what it said before.
#[derive(Debug, Default)]
struct Outcome {
    positions: Vec<i64>,
    records: u64,
    keyless: u64,
    troubles: usize,
    done: Option<i64>,
    failed: Option<(Error, Option<(i64, i64)>)>,
}

impl Rig {
    fn new(threads: usize, window_bytes: usize) -> Self {
        Self::with(threads, window_bytes, Told::default())
    }

    fn with(threads: usize, window_bytes: usize, source: Told) -> Self {
        let (out, events) = channel();
        let mut deliver = None;
        let options = PoolOptions { name: "test".to_owned(), threads, window_bytes };
        let source = |on_fetch| {
            deliver = Some(on_fetch);
            source
        };
        let pool = RestorePool::new(options, source, Arc::new(move |event| drop(out.send(event))));
        Self { pool, deliver: deliver.unwrap(), events, outstanding: Arc::default() }
    }

    fn submit(&self, token: u64, probe: &Arc<Probe>, from: i64, to: i64) {
        let job = RestoreJob {
            token,
            epoch: 1,
            at: at(token),
            from,
            to,
            format: RowFormat::Timestamped,
            segments: None,
            engine: Box::new(Probed(probe.clone())),
            mark: Box::new(|next, _| Some(Bytes::copy_from_slice(&next.to_be_bytes()))),
        };
        self.pool.submit(job).unwrap();
    }

    fn frame(
        &self,
        token: u64,
        fetch_offset: i64,
        next_offset: i64,
        records: Vec<u8>,
        aborted: Vec<(i64, i64)>,
    ) {
        let credit = Credit::of(records.len(), &self.outstanding);
        let log =
            LogState { high_watermark: next_offset, last_stable_offset: next_offset, log_start_offset: 0 };
        let at = at(token);
        let records = records.into();
        let leader_epoch = 0;
        let fetched =
            Fetched { at, token, fetch_offset, records, next_offset, aborted, leader_epoch, log, credit };
        (self.deliver)(FetchEvent::Data(fetched));
    }

    /// Delivers records in frames of several batches.
    fn deliver(&self, token: u64, log: &Log, range: Range<i64>) {
        let mut from = range.start;
        while from < range.end {
            let to = (from + 300).min(range.end);
            let starts = (from..to).step_by(100);
            let records = starts.flat_map(|start| batch(log, start..(start + 100).min(to), PLAIN)).collect();
            self.frame(token, from, to, records, Vec::new());
            from = to;
        }
    }

    fn error(&self, token: u64, error: Error, range: Option<(i64, i64)>) {
        (self.deliver)(FetchEvent::Error { at: at(token), token, error, range });
    }

    /// Waits until so many jobs have ended.
    #[track_caller]
    fn ends(&self, jobs: usize) -> HashMap<u64, Outcome> {
        let mut outcomes: HashMap<u64, Outcome> = HashMap::new();
        let mut left = jobs;
        while left > 0 {
            let event = self.events.recv_timeout(LONG).expect("the jobs end");
            let outcome = outcomes.entry(event.token()).or_default();
            assert!(outcome.done.is_none() && outcome.failed.is_none(), "nothing follows the end");
            match event {
                RestoreEvent::Progress { position, records, keyless, .. } => {
                    outcome.positions.push(position);
                    outcome.records += records;
                    outcome.keyless += keyless;
                }
                RestoreEvent::Trouble { .. } => outcome.troubles += 1,
                RestoreEvent::Done { position, .. } => (outcome.done, left) = (Some(position), left - 1),
                RestoreEvent::Failed { error, range, .. } => {
                    (outcome.failed, left) = (Some((error, range)), left - 1);
                }
            }
        }
        outcomes
    }

    fn calls(&self) -> Vec<String> {
        self.pool.source().calls.lock().unwrap().clone()
    }
}

fn at(token: u64) -> TopicPartition {
    TopicPartition::new("app-store-changelog", token as i32)
}

/// Waits until the pool has let go of an engine.
#[track_caller]
fn let_go(probe: &Arc<Probe>) {
    let start = crate::clock::monotonic();
    while Arc::strong_count(probe) > 1 {
        assert!(crate::clock::monotonic() - start < LONG, "the engine is let go");
        std::thread::yield_now();
    }
}

#[track_caller]
fn check_states(probe: &Probe, log: &Log) -> Vec<i64> {
    let states = probe.states();
    for (mark, rows) in &states {
        assert_eq!(rows, &fold(log, *mark), "the rows under mark {mark} are those of the log");
    }
    let marks: Vec<_> = states.into_iter().map(|(mark, _)| mark).collect();
    assert!(marks.is_sorted_by(|a, b| a < b), "{marks:?}");
    marks
}

#[test]
fn many_partitions_at_once_in_windows_smaller_than_their_data() {
    let rig = Rig::new(3, 3 << 15);
    let logs: Vec<Log> = (0..8).map(|n| log(2_000 + n * 500, 900 + n * 100)).collect();
    let probes: Vec<Arc<Probe>> = (0..8).map(|_| Arc::default()).collect();
    for (token, (log, probe)) in logs.iter().zip(&probes).enumerate() {
        rig.submit(token as u64, probe, 0, log.len() as i64);
    }
    for from in (0..6_000).step_by(300) {
        for (token, log) in logs.iter().enumerate() {
            let range = from.min(log.len() as i64)..(from + 300).min(log.len() as i64);
            rig.deliver(token as u64, log, range);
        }
    }
    let outcomes = rig.ends(8);
    for (token, (log, probe)) in logs.iter().zip(&probes).enumerate() {
        let (outcome, end) = (&outcomes[&(token as u64)], log.len() as i64);
        assert_eq!((outcome.done, outcome.records, outcome.keyless), (Some(end), end as u64, 0));
        assert!(outcome.positions.is_sorted() && outcome.positions.last() == Some(&end));
        let marks = check_states(probe, log);
        assert!(marks.len() > 1 && marks.last() == Some(&end), "{marks:?}");
        assert!(rig.calls().contains(&format!("revoke {} {token}", at(token as u64))));
    }
    assert_eq!(rig.outstanding.load(Ordering::Acquire), 0, "all credit is given back");
}

#[test]
fn deletions_reach_what_an_earlier_window_and_an_earlier_life_have_written() {
    let some = |key: &str| (Some(key.to_owned()), Some("v".to_owned()));
    let none = |key: &str| (Some(key.to_owned()), None);
    let mut log: Log = vec![some("a"), some("b"), some("c"), none("x")];
    let probe = Arc::<Probe>::default();
    // One row fills the memory: a run a batch.
    let rig = Rig::new(1, 1);
    rig.submit(1, &probe, 0, 4);
    rig.deliver(1, &log, 0..4);
    assert_eq!(rig.ends(1)[&1].done, Some(4));
    log.extend([none("a"), some("d"), none("d")]);
    let rig = Rig::new(1, 1 << 20);
    rig.submit(1, &probe, 4, 7);
    rig.deliver(1, &log, 4..5);
    rig.deliver(1, &log, 5..7);
    assert_eq!(rig.ends(1)[&1].done, Some(7));
    check_states(&probe, &log);
    assert_eq!(probe.states().last().unwrap().1.len(), 2);
    // And in windows of one life.
    let rig = Rig::new(1, 1);
    let probe = Arc::<Probe>::default();
    rig.submit(1, &probe, 0, 7);
    rig.deliver(1, &log, 0..2);
    rig.deliver(1, &log, 2..5);
    rig.deliver(1, &log, 5..7);
    rig.ends(1);
    assert_eq!(check_states(&probe, &log), [2, 5, 7]);
}

#[test]
fn what_is_aborted_or_only_a_marker_at_the_end_moves_the_position_to_the_target() {
    let log = log(300, 50);
    let mut kept = log.clone();
    let rig = Rig::new(1, 1 << 20);
    let probe = Arc::<Probe>::default();
    rig.submit(1, &probe, 0, 301);
    rig.frame(1, 0, 100, batch(&log, 0..100, PLAIN), Vec::new());
    let stamp = ProducerStamp { producer_id: 9, producer_epoch: 0, base_sequence: 0, transactional: true };
    rig.frame(1, 100, 300, batch(&log, 100..300, stamp), vec![(9, 100)]);
    assert!(matches!(
        rig.events.recv_timeout(LONG),
        Ok(RestoreEvent::Progress { position: 100, records: 100, .. })
    ));
    assert!(matches!(
        rig.events.recv_timeout(LONG),
        Ok(RestoreEvent::Progress { position: 300, records: 0, .. })
    ));
    assert!(matches!(rig.events.recv_timeout(Duration::ZERO), Err(RecvTimeoutError::Timeout)));
    #[cfg(feature = "embedded")]
    {
        // The marker, alone.
        let mut marker = crate::client::batch::patch::end_of_transaction(9, 0, 0, false, 0).unwrap();
        crate::client::batch::patch::place(&mut marker, 300, 0);
        rig.frame(1, 300, 301, marker.to_vec(), vec![(9, 100)]);
    }
    #[cfg(not(feature = "embedded"))]
    rig.frame(1, 300, 301, batch(&log, 299..300, stamp), vec![(9, 100)]);
    assert_eq!(rig.ends(1)[&1].done, Some(301));
    kept.truncate(100);
    assert_eq!(probe.states(), [(301, fold(&kept, 100))]);
    // Where compaction has left nothing at all, the fetcher says how far it is.
    let probe = Arc::<Probe>::default();
    rig.submit(2, &probe, 5, 9);
    let log_state = LogState { high_watermark: 9, last_stable_offset: 9, log_start_offset: 0 };
    (rig.deliver)(FetchEvent::Progress { at: at(2), token: 2, next_offset: 9, log: log_state });
    assert_eq!(rig.ends(1)[&2].done, Some(9));
    assert_eq!(probe.states(), [(9, Table::new())]);
}

#[test]
fn records_without_a_key_are_no_rows_and_are_counted() {
    let mut log = log(250, 40);
    for n in [0, 17, 249] {
        log[n].0 = None;
    }
    let rig = Rig::new(1, 1 << 20);
    let probe = Arc::<Probe>::default();
    rig.submit(1, &probe, 0, 250);
    rig.deliver(1, &log, 0..250);
    let outcome = &rig.ends(1)[&1];
    assert_eq!((outcome.done, outcome.records, outcome.keyless), (Some(250), 247, 3));
    assert_eq!(probe.states(), [(250, fold(&log, 250))]);
}

#[test]
fn records_before_the_offset_that_was_asked_for_are_not_taken() {
    let log = log(100, 1_000);
    let rig = Rig::new(1, 1 << 20);
    let probe = Arc::<Probe>::default();
    rig.submit(1, &probe, 60, 100);
    rig.frame(1, 60, 100, batch(&log, 0..100, PLAIN), Vec::new());
    let outcome = &rig.ends(1)[&1];
    assert_eq!((outcome.done, outcome.records), (Some(100), 40));
    let rows = fold(&log, 100).into_iter().filter(|(_, row)| row[7] >= 60);
    assert_eq!(probe.states(), [(100, rows.collect())]);
}

#[test]
fn a_cancelled_restore_leaves_a_sound_mark_and_the_next_goes_on_there() {
    let log = log(5_000, 700);
    let probe = Arc::<Probe>::default();
    let rig = Rig::new(1, 40_000);
    rig.submit(1, &probe, 0, 5_000);
    rig.deliver(1, &log, 0..2_950);
    while !matches!(
        rig.events.recv_timeout(LONG).expect("it goes on"),
        RestoreEvent::Progress { position: 2_950, .. }
    ) {}
    rig.pool.cancel(1);
    rig.deliver(1, &log, 2_950..5_000);
    let_go(&probe);
    assert!(rig.events.recv_timeout(Duration::ZERO).is_err(), "nothing is heard of it any more");
    assert_eq!(rig.calls().last().unwrap(), &format!("revoke {} 1", at(1)));
    let marks = check_states(&probe, &log);
    let mark = *marks.last().expect("several windows were applied");
    assert!(mark > 0 && mark < 2_950, "{mark}");

    rig.submit(2, &probe, mark, 5_000);
    rig.deliver(2, &log, mark..5_000);
    assert_eq!(rig.ends(1)[&2].done, Some(5_000));
    assert_eq!(check_states(&probe, &log).last(), Some(&5_000));
    assert_eq!(rig.outstanding.load(Ordering::Acquire), 0);
}

#[test]
fn an_engine_that_fails_fails_its_job_alone() {
    let log = log(600, 500);
    let (bad, good) = (Arc::<Probe>::default(), Arc::<Probe>::default());
    bad.behaves(Behaviour::Fails);
    let rig = Rig::new(1, 10_000);
    rig.submit(1, &bad, 0, 600);
    rig.submit(2, &good, 0, 600);
    for from in [0, 300] {
        rig.deliver(1, &log, from..from + 300);
        rig.deliver(2, &log, from..from + 300);
    }
    let outcomes = rig.ends(2);
    let (error, range) = outcomes[&1].failed.as_ref().expect("it failed");
    assert!(error.to_string().contains("/state") && range.is_none());
    assert_eq!(
        (error.kind(), error.topic(), error.partition()),
        (ErrorKind::Store, Some("app-store-changelog"), Some(1))
    );
    assert_eq!(outcomes[&2].done, Some(600));
    assert_eq!(check_states(&good, &log).last(), Some(&600));
    let_go(&bad);
}

#[test]
fn a_panic_fails_the_jobs_of_its_thread_and_the_pool_goes_on() {
    let log = log(300, 500);
    let (bad, other) = (Arc::<Probe>::default(), Arc::<Probe>::default());
    bad.behaves(Behaviour::Panics);
    let rig = Rig::new(1, 1 << 20);
    rig.submit(1, &bad, 0, 300);
    rig.submit(2, &other, 0, 300);
    rig.deliver(1, &log, 0..300);
    let outcomes = rig.ends(2);
    for token in [1, 2] {
        let (error, _) = outcomes[&token].failed.as_ref().expect("it failed");
        assert_eq!(error.kind(), ErrorKind::Panic);
        assert!(error.to_string().contains("on purpose"), "{error}");
    }
    rig.submit(3, &other, 0, 300);
    rig.deliver(3, &log, 0..300);
    assert_eq!(rig.ends(1)[&3].done, Some(300));
    check_states(&other, &log);
}

#[test]
fn a_corrupt_batch_is_an_error_that_says_where() {
    let log = log(300, 500);
    let probe = Arc::<Probe>::default();
    let rig = Rig::new(1, 1 << 20);
    rig.submit(1, &probe, 0, 300);
    rig.deliver(1, &log, 0..100);
    let mut bytes = batch(&log, 100..200, PLAIN);
    *bytes.last_mut().unwrap() ^= 1;
    rig.frame(1, 100, 200, bytes, Vec::new());
    let outcomes = rig.ends(1);
    let (error, _) = outcomes[&1].failed.as_ref().expect("it failed");
    assert_eq!((error.kind(), error.partition(), error.offset()), (ErrorKind::Corrupt, Some(1), Some(100)));
    assert!(error.to_string().contains("CRC"), "{error}");
    assert_eq!(probe.states(), [], "nothing of it is applied");
}

#[test]
fn errors_of_the_fetch_are_told_in_their_turn() {
    let log = log(300, 500);
    let probe = Arc::<Probe>::default();
    let rig = Rig::new(1, 1 << 20);
    rig.submit(1, &probe, 0, 300);
    let gone = || Error::new(ErrorKind::OffsetOutOfRange, "the offset is not in the log").at_offset(300);
    rig.error(
        1,
        Error::new(ErrorKind::Timeout, "no answer").with_class(crate::error::ErrorClass::Retriable),
        None,
    );
    rig.deliver(1, &log, 0..300);
    // Nobody asked for more: the job was complete.
    rig.error(1, gone(), Some((400, 500)));
    let outcome = &rig.ends(1)[&1];
    assert_eq!((outcome.done, outcome.troubles), (Some(300), 1));
    rig.submit(2, &probe, 300, 600);
    rig.error(2, gone(), Some((400, 500)));
    let outcomes = rig.ends(1);
    let (error, range) = outcomes[&2].failed.as_ref().expect("it failed");
    assert_eq!((error.offset(), *range), (Some(300), Some((400, 500))));
    assert_eq!(rig.calls().last().unwrap(), &format!("revoke {} 2", at(2)));
}

#[test]
fn a_slow_engine_holds_back_its_own_jobs_credit_and_nobody_elses() {
    let log = log(600, 500);
    let (slow, quick) = (Arc::<Probe>::default(), Arc::<Probe>::default());
    let (go_on, word) = channel();
    slow.behaves(Behaviour::Waits(word));
    let rig = Rig::new(2, 2);
    rig.submit(1, &slow, 0, 600);
    rig.submit(2, &quick, 0, 600);
    rig.deliver(1, &log, 0..600);
    let held = rig.outstanding.load(Ordering::Acquire);
    assert!(held > 0);
    rig.deliver(2, &log, 0..600);
    let outcomes = rig.ends(1);
    assert_eq!(outcomes[&2].done, Some(600));
    assert!(rig.outstanding.load(Ordering::Acquire) > 0, "what waits for the slow engine is not given back");
    assert!(!outcomes.contains_key(&1));
    // One for each run; a row is one here.
    for _ in 0..1_000 {
        go_on.send(()).unwrap();
    }
    assert_eq!(rig.ends(1)[&1].done, Some(600));
    assert_eq!(check_states(&slow, &log), [100, 200, 300, 400, 500, 600]);
    assert_eq!(rig.outstanding.load(Ordering::Acquire), 0);
}

#[test]
fn who_has_an_old_lease_gets_nothing_and_lets_the_engine_go() {
    let rig = Rig::with(1, 1 << 20, Told { refuses: true, ..Told::default() });
    let probe = Arc::<Probe>::default();
    rig.submit(1, &probe, 0, 300);
    let_go(&probe);
    rig.deliver(1, &log(300, 10), 0..300);
    assert!(rig.events.recv_timeout(Duration::ZERO).is_err());
    assert_eq!(rig.outstanding.load(Ordering::Acquire), 0);
}

#[test]
fn pausing_is_told_to_who_fetches_and_a_pool_that_ends_lets_all_engines_go() {
    let rig = Rig::new(2, 1 << 20);
    let probes: [Arc<Probe>; 3] = Default::default();
    for (token, probe) in probes.iter().enumerate() {
        rig.submit(token as u64, probe, 0, 300);
    }
    rig.pool.pause(1, true);
    rig.pool.pause(1, false);
    rig.pool.pause(77, true);
    rig.pool.cancel_all(|token| token == 2);
    let calls = rig.calls();
    let expected = [
        format!("pause {} 1 true", at(1)),
        format!("pause {} 1 false", at(1)),
        format!("revoke {} 2", at(2)),
    ];
    assert_eq!(calls[3..], expected);
    let_go(&probes[2]);
    drop(rig);
    probes.iter().for_each(let_go);
}

/// One batch becomes far more than the memory of its thread: it goes into the engine piece by piece, and the mark stays
/// where it was until all of it is there.
#[test]
fn a_batch_larger_than_the_memory_goes_in_pieces() {
    let log = log(2_000, 2_000);
    let probe = Arc::<Probe>::default();
    let rig = Rig::new(1, 4 << 10);
    rig.submit(1, &probe, 0, 2_000);
    rig.deliver(1, &log, 0..1_000);
    rig.deliver(1, &log, 1_000..2_000);
    let outcome = &rig.ends(1)[&1];
    assert_eq!((outcome.done, outcome.records), (Some(2_000), 2_000));
    assert!(check_states(&probe, &log).contains(&2_000));
    assert!(rig.pool.applied_early() > 10, "{} pieces", rig.pool.applied_early());
    assert!(probe.largest.load(Ordering::Relaxed) < 60, "the largest has {:?} rows", probe.largest);
}
