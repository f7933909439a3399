//! The log, rule by rule.

use bytes::Bytes;
use kafka_protocol::error::ResponseError as E;

use super::lookup::Spec;
use super::{Appended, Log, Refused, only_batch};
use crate::Headers;
use crate::client::batch::{BatchBuilder, Batches, ProducerStamp, patch};
use crate::client::compression::Compression;
use crate::embedded::config::TopicConfig;

const NOW: i64 = 1_000_000;

fn config(changes: &[(&str, &str)]) -> TopicConfig {
    let changes = changes.iter().map(|(name, value)| (*name, Some((*value).to_owned())));
    TopicConfig::default().with(changes).unwrap()
}

fn stamp(producer_id: i64, producer_epoch: i16, base_sequence: i32, transactional: bool) -> ProducerStamp {
    ProducerStamp { producer_id, producer_epoch, base_sequence, transactional }
}

/// A batch of `(timestamp, key, value)`.
fn batch(stamp: ProducerStamp, records: &[(i64, Option<&str>, Option<&str>)]) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    for (timestamp, key, value) in records {
        builder.append(*timestamp, key.map(str::as_bytes), value.map(str::as_bytes), &Headers::new());
    }
    builder.close().unwrap().seal(stamp)
}

fn keyed(stamp: ProducerStamp, keys: &[&str]) -> Bytes {
    let records: Vec<_> = keys.iter().map(|key| (NOW, Some(*key), Some("v"))).collect();
    batch(stamp, &records)
}

/// A log under some settings.
struct Rig {
    log: Log,
    config: TopicConfig,
}

impl Rig {
    fn new(changes: &[(&str, &str)]) -> Self {
        Self { log: Log::default(), config: config(changes) }
    }

    fn put(&mut self, batch: Bytes) -> Result<Appended, Refused> {
        self.log.append(only_batch(batch)?, &self.config, 0, NOW)
    }

    /// Appends a batch of a producer and says where, or why not.
    fn send(&mut self, stamp: ProducerStamp, records: usize) -> Result<i64, E> {
        let sent = self.put(keyed(stamp, &vec!["k"; records]));
        sent.map(|appended| appended.base_offset).map_err(|refused| refused.error)
    }

    fn end(&mut self, producer: (i64, i16), commit: bool) -> Result<i64, E> {
        self.log.append_marker(producer, 0, commit, &self.config, 0, NOW)
    }

    fn offsets(&self, committed: bool) -> Vec<i64> {
        let read = self.log.read(self.log.start(), committed, usize::MAX, true).unwrap();
        Batches::new(read.records)
            .flat_map(|b| b.unwrap().records().unwrap())
            .map(|r| r.unwrap().offset)
            .collect()
    }
}

#[test]
fn sequences_must_follow_and_repeats_are_known() {
    let mut rig = Rig::new(&[]);
    for at in 0..6 {
        assert_eq!(rig.send(stamp(1, 0, at * 2, false), 2), Ok(i64::from(at) * 2));
    }
    assert_eq!(rig.send(stamp(1, 0, 10, false), 2), Ok(10), "the last again");
    assert_eq!(rig.send(stamp(1, 0, 2, false), 2), Ok(2), "the fifth from the end");
    assert_eq!(rig.send(stamp(1, 0, 0, false), 2), Err(E::OutOfOrderSequenceNumber), "long forgotten");
    assert_eq!(rig.send(stamp(1, 0, 10, false), 1), Err(E::OutOfOrderSequenceNumber), "a part of one");
    assert_eq!(rig.send(stamp(1, 0, 13, false), 1), Err(E::OutOfOrderSequenceNumber), "a gap");
    assert_eq!(rig.send(stamp(1, 1, 12, false), 1), Err(E::OutOfOrderSequenceNumber), "an epoch begins at 0");
    assert_eq!(rig.send(stamp(1, 1, 0, false), 1), Ok(12));
    assert_eq!(rig.send(stamp(1, 0, 12, false), 1), Err(E::InvalidProducerEpoch));
    assert_eq!(rig.send(stamp(2, 0, 77, false), 1), Ok(13), "nobody knows where producer 2 was");
    assert_eq!(rig.log.end(), 14);
}

#[test]
fn sequences_wrap() {
    let mut rig = Rig::new(&[]);
    assert_eq!(rig.send(stamp(1, 0, i32::MAX - 1, false), 2), Ok(0));
    assert_eq!(rig.send(stamp(1, 0, 0, false), 1), Ok(2));
    let mut rig = Rig::new(&[]);
    assert_eq!(rig.send(stamp(1, 0, i32::MAX, false), 3), Ok(0));
    assert_eq!(rig.send(stamp(1, 0, i32::MAX, false), 3), Ok(0), "the same again");
    assert_eq!(rig.send(stamp(1, 0, 2, false), 1), Ok(3));
}

#[test]
fn transactions_hold_readers_back_until_they_end() {
    let mut rig = Rig::new(&[]);
    rig.send(stamp(-1, -1, -1, false), 1).unwrap();
    rig.send(stamp(1, 0, 0, true), 2).unwrap();
    rig.send(stamp(2, 0, 0, true), 1).unwrap();
    assert_eq!((rig.log.high_watermark(), rig.log.last_stable_offset()), (4, 1));
    assert_eq!((rig.offsets(false), rig.offsets(true)), (vec![0, 1, 2, 3], vec![0]));
    assert_eq!(rig.send(stamp(1, 0, 2, false), 1), Err(E::InvalidTxnState), "its transaction is open");
    assert!(rig.log.has_transaction(1, 0) && !rig.log.has_transaction(1, 1));
    assert_eq!(rig.end((1, 0), false), Ok(4));
    assert_eq!(rig.log.last_stable_offset(), 3, "producer 2 is not done");
    assert_eq!(rig.end((2, 0), true), Ok(5));
    assert_eq!(rig.log.last_stable_offset(), 6);
    let aborted = rig.log.read(0, true, usize::MAX, true).unwrap().aborted;
    let aborted: Vec<_> = aborted.iter().map(|a| (a.producer_id, a.first_offset, a.last_offset)).collect();
    assert_eq!(aborted, [(1, 1, 4)]);
    assert!(rig.log.read(5, true, usize::MAX, true).unwrap().aborted.is_empty(), "it is over before");
    assert!(rig.log.read(0, false, usize::MAX, true).unwrap().aborted.is_empty(), "nobody asks");
}

#[test]
fn a_marker_fences_and_the_next_epoch_begins_at_zero() {
    let mut rig = Rig::new(&[]);
    rig.send(stamp(1, 3, 0, true), 1).unwrap();
    assert_eq!(rig.end((1, 2), true), Err(E::InvalidProducerEpoch));
    // As after a transaction timeout: the coordinator aborts with the next epoch.
    assert_eq!(rig.end((1, 4), false), Ok(1));
    assert_eq!(rig.send(stamp(1, 3, 1, true), 1), Err(E::InvalidProducerEpoch));
    assert_eq!(rig.send(stamp(1, 4, 1, true), 1), Err(E::OutOfOrderSequenceNumber));
    assert_eq!(rig.send(stamp(1, 4, 0, true), 1), Ok(2));
    let stale = rig.log.append_marker((1, 4), -1, true, &rig.config, 0, NOW);
    assert_eq!(stale, Err(E::TransactionCoordinatorFenced));
}

#[test]
fn a_held_high_watermark_holds_everything_back_and_a_new_leader_cuts() {
    let mut rig = Rig::new(&[]);
    rig.send(stamp(1, 0, 0, true), 1).unwrap();
    rig.log.hold(true);
    rig.end((1, 0), false).unwrap();
    rig.send(stamp(1, 0, 1, true), 1).unwrap();
    assert_eq!((rig.log.end(), rig.log.high_watermark(), rig.log.last_stable_offset()), (3, 1, 0));
    rig.log.lead(7);
    assert_eq!((rig.log.end(), rig.log.last_stable_offset()), (1, 0));
    assert!(rig.log.has_transaction(1, 0), "its end is gone");
    rig.log.hold(false);
    assert_eq!(rig.send(stamp(1, 0, 1, true), 1), Ok(1));
    assert_eq!((rig.log.end_of_epoch(0), rig.log.end_of_epoch(5)), ((0, 1), (0, 1)));
    assert_eq!((rig.log.end_of_epoch(7), rig.log.end_of_epoch(8)), ((7, 2), (-1, -1)));
}

#[test]
fn what_a_client_may_not_write_is_refused() {
    let none = ProducerStamp::NONE;
    let mut rig = Rig::new(&[("cleanup.policy", "compact"), ("max.message.bytes", "200")]);
    let good = keyed(none, &["a"]);
    let mut refused = |batch: Bytes| rig.put(batch).unwrap_err().error;
    assert_eq!(refused(Bytes::new()), E::InvalidRecord);
    assert_eq!(refused(good.slice(..good.len() - 1)), E::InvalidRecord);
    assert_eq!(refused(Bytes::from([&good[..], &good[..]].concat())), E::InvalidRecord, "two batches");
    let mut bad = good.to_vec();
    *bad.last_mut().unwrap() ^= 1;
    assert_eq!(refused(bad.into()), E::CorruptMessage);
    assert_eq!(refused(keyed(none, &["a"; 100])), E::MessageTooLarge);
    let marker = patch::end_of_transaction(1, 0, 0, true, NOW).unwrap();
    assert_eq!(refused(marker.freeze()), E::InvalidRecord, "markers are the broker's");
    assert_eq!(refused(keyed(stamp(1, 0, -1, false), &["a"])), E::InvalidRecord);
    let in_two_hours = NOW + 7_200_000;
    assert_eq!(refused(batch(none, &[(in_two_hours, Some("a"), None)])), E::InvalidTimestamp);
    let keyless = rig.put(batch(none, &[(NOW, Some("a"), None), (NOW, None, Some("v"))])).unwrap_err();
    assert_eq!((keyless.error, keyless.records.len(), keyless.records[0].0), (E::InvalidRecord, 1, 1));
    assert_eq!((rig.log.end(), rig.log.size()), (0, 0), "nothing was taken");
}

#[test]
fn offsets_are_found_by_time_and_by_end() {
    let mut rig = Rig::new(&[]);
    rig.put(batch(ProducerStamp::NONE, &[(100, None, None), (300, None, None)])).unwrap();
    rig.put(batch(stamp(1, 0, 0, true), &[(300, None, None), (200, None, None)])).unwrap();
    let find = |rig: &Rig, spec, committed| {
        let found = rig.log.find(spec, committed);
        (found.offset, found.timestamp)
    };
    assert_eq!(find(&rig, Spec::Time(0), false), (0, 100));
    assert_eq!(find(&rig, Spec::Time(101), false), (1, 300));
    assert_eq!(find(&rig, Spec::Time(301), false), (-1, -1));
    assert_eq!(find(&rig, Spec::MaxTimestamp, false), (1, 300));
    assert_eq!((find(&rig, Spec::Latest, false), find(&rig, Spec::Latest, true)), ((4, -1), (2, -1)));
    rig.log.start_at(2);
    assert_eq!(find(&rig, Spec::Earliest, false), (2, -1));
    assert_eq!(find(&rig, Spec::Time(0), false), (2, 300));
    assert_eq!(find(&rig, Spec::Time(0), true), (-1, -1), "not decided yet");
    assert_eq!(rig.log.read(1, false, 1, true).unwrap_err(), E::OffsetOutOfRange);
    assert_eq!(rig.log.read(5, false, 1, true).unwrap_err(), E::OffsetOutOfRange);
    assert!(rig.log.read(4, false, 1, true).unwrap().records.is_empty());
}

#[test]
fn a_read_is_cut_at_its_limit_but_the_first_batch_is_whole() {
    let mut rig = Rig::new(&[]);
    for _ in 0..3 {
        rig.send(ProducerStamp::NONE, 1).unwrap();
    }
    let one = rig.log.size() / 3;
    let len = |limit, at_least_one| rig.log.read(1, false, limit, at_least_one).unwrap().records.len();
    assert_eq!((len(1, true), len(1, false), len(one, false)), (one, 0, one));
    assert_eq!((len(one + 5, false), len(usize::MAX, false)), (one + 5, 2 * one));
    assert_eq!(rig.log.available(1, false, usize::MAX), Ok(2 * one));
    assert_eq!(rig.log.available(1, false, 7), Ok(7));
}

#[test]
fn compaction_drops_what_is_aborted_or_overwritten_and_nothing_undecided() {
    let mut rig = Rig::new(&[("cleanup.policy", "compact"), ("delete.retention.ms", "10")]);
    rig.put(keyed(ProducerStamp::NONE, &["a", "b", "c"])).unwrap();
    rig.put(keyed(stamp(1, 0, 0, true), &["a", "d"])).unwrap();
    rig.end((1, 0), false).unwrap();
    rig.put(keyed(stamp(2, 0, 0, true), &["b"])).unwrap();
    rig.end((2, 0), true).unwrap();
    rig.put(keyed(stamp(3, 0, 0, true), &["c"])).unwrap();
    rig.put(keyed(ProducerStamp::NONE, &["b"])).unwrap();
    rig.log.compact(&rig.config, NOW);
    // 0 a, 2 c, then the abort at 5, b's last decided at 6 with its commit at 7, and what is open from 8 on. Producer
    // 1's last batch stays, empty, for its sequence number.
    assert_eq!(rig.offsets(false), [0, 2, 5, 6, 7, 8, 9]);
    assert_eq!(rig.send(stamp(1, 0, 2, true), 1), Ok(10), "the sequence goes on");
    rig.end((1, 0), true).unwrap();
    rig.end((3, 0), true).unwrap();
    rig.log.compact(&rig.config, NOW + 20);
    rig.log.compact(&rig.config, NOW + 40);
    let left = rig.offsets(true);
    assert!(!left.contains(&5), "the abort has nothing left to abort: {left:?}");
    assert_eq!(rig.log.end(), 13);
    assert_eq!(rig.log.size(), rig.log.batches.iter().map(|batch| batch.bytes.len()).sum::<usize>());
}

#[test]
fn old_segments_go_by_time_and_by_size() {
    let mut rig = Rig::new(&[("retention.ms", "100")]);
    // Less than anybody may set.
    rig.config.segment_bytes = 150;
    let at = |time| batch(ProducerStamp::NONE, &[(time, None, Some("v"))]);
    for time in [0, 50, 10, 200] {
        rig.put(at(time)).unwrap();
    }
    assert_eq!(rig.log.segments.len(), 2);
    rig.log.retain(&rig.config, 150);
    assert_eq!(rig.log.start(), 0, "one of the first segment is young enough");
    rig.log.retain(&rig.config, 151);
    assert_eq!((rig.log.start(), rig.log.segments.len()), (2, 1));
    rig.log.retain(&rig.config, 1_000);
    assert_eq!((rig.log.start(), rig.log.end(), rig.log.size()), (4, 4, 0), "the active one goes too");
    rig.put(at(1_000)).unwrap();
    assert_eq!(rig.offsets(false), [4]);

    let mut rig = Rig::new(&[("retention.ms", "-1"), ("retention.bytes", "200")]);
    rig.config.segment_bytes = 150;
    for time in 0..6 {
        rig.put(at(time)).unwrap();
    }
    rig.log.retain(&rig.config, NOW);
    assert_eq!(rig.log.start(), 2, "200 bytes are left without the first segment, not without the second");
}

fn assert_counted(log: &Log) {
    let bytes = |from, to| -> usize {
        let within = log.batches.iter().filter(|batch| (from..to).contains(&batch.base));
        within.map(|batch| batch.bytes.len()).sum()
    };
    assert_eq!(log.size(), bytes(0, i64::MAX));
    for (at, segment) in log.segments.iter().enumerate() {
        let next = log.segments.get(at + 1).map_or(i64::MAX, |next| next.base);
        assert_eq!(segment.size, bytes(segment.base, next), "segment {at}");
    }
}

#[test]
fn sizes_are_right_whatever_goes() {
    let mut rig = Rig::new(&[("cleanup.policy", "compact,delete"), ("retention.ms", "-1")]);
    rig.config.segment_bytes = 300;
    for at in 0..40 {
        rig.put(keyed(ProducerStamp::NONE, &["a", "b", &format!("k{}", at % 9)])).unwrap();
    }
    assert!(rig.log.segments.len() > 9);
    assert_counted(&rig.log);
    for start in [1, 2, 3, 4, 16, 17, 40, 61] {
        rig.log.start_at(start);
        assert_counted(&rig.log);
    }
    rig.log.compact(&rig.config, NOW);
    assert_counted(&rig.log);
    for start in [62, 90, 113, 120] {
        rig.log.start_at(start);
        assert_counted(&rig.log);
    }
    assert_eq!((rig.log.size(), rig.log.end()), (0, 120));
}

/// With work that grows by the cube of the segments, as it once did, this would take most of an hour.
#[test]
fn many_segments_go_at_once() {
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut rig = Rig::new(&[("retention.ms", "100")]);
        rig.config.segment_bytes = 1 << 10;
        rig.config.segment_ms = 0;
        for time in 0..5_000 {
            rig.put(batch(ProducerStamp::NONE, &[(time, None, Some("v"))])).unwrap();
        }
        assert_eq!(rig.log.segments.len(), 5_000);
        rig.log.retain(&rig.config, 4_600);
        done.send((rig.log.start(), rig.log.segments.len())).unwrap();
    });
    assert_eq!(ended.recv_timeout(std::time::Duration::from_secs(60)), Ok((4_500, 500)));
}

#[test]
fn retention_by_size_bounds_the_memory_between_two_checks() {
    let mut rig = Rig::new(&[("retention.bytes", "8388608")]);
    let value = "v".repeat(100_000);
    for at in 0..200 {
        rig.put(batch(ProducerStamp::NONE, &[(NOW, None, Some(&value))])).unwrap();
        // Two segments of an eighth are on their way, and a batch.
        assert!(rig.log.size() < (10 << 20) + 100_500, "{} bytes after {at}", rig.log.size());
        assert!(rig.log.size() >= (8 << 20).min(at * 100_000), "{} bytes after {at}", rig.log.size());
    }
    assert!(rig.log.start() > 90);
    // What is not replicated stays.
    rig.log.hold(true);
    let start = rig.log.end();
    for _ in 0..150 {
        rig.put(batch(ProducerStamp::NONE, &[(NOW, None, Some(&value))])).unwrap();
    }
    assert!(rig.log.start() <= start);
}

#[test]
fn a_log_is_compacted_by_the_clock_once_enough_of_it_is_new() {
    let mut rig = Rig::new(&[("cleanup.policy", "compact")]);
    rig.config.segment_bytes = 200;
    for _ in 0..8 {
        rig.put(keyed(ProducerStamp::NONE, &["a"])).unwrap();
    }
    rig.log.compact_if_dirty(&rig.config, NOW);
    let left = rig.offsets(false);
    assert!(left.len() < 8 && left.last() == Some(&7), "{left:?}");
    let before = rig.log.size();
    rig.log.compact_if_dirty(&rig.config, NOW);
    assert_eq!(rig.log.size(), before, "nothing is new");
}

#[test]
fn what_compaction_left_is_as_young_as_its_records() {
    let mut rig = Rig::new(&[("cleanup.policy", "compact,delete"), ("retention.ms", "10")]);
    let of = |records: &[(i64, &str)]| {
        let records: Vec<_> = records.iter().map(|(time, key)| (*time, Some(*key), Some("v"))).collect();
        batch(ProducerStamp::NONE, &records)
    };
    rig.put(of(&[(100, "a"), (300, "b"), (200, "c")])).unwrap();
    rig.put(of(&[(50, "b")])).unwrap();
    let youngest = |log: &Log| {
        let found = log.find(Spec::MaxTimestamp, false);
        (found.offset, found.timestamp)
    };
    assert_eq!(youngest(&rig.log), (1, 300));
    rig.log.compact(&rig.config, NOW);
    assert_eq!(youngest(&rig.log), (2, 200));
    rig.log.retain(&rig.config, 210);
    assert_eq!(rig.log.start(), 0);
    rig.log.retain(&rig.config, 211);
    assert_eq!(rig.log.start(), 4, "retention goes by what is left, too");
}
