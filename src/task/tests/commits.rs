//! Positions, commits, restores.

use super::*;

fn pipe() -> Rig {
    let builder = StreamsBuilder::new();
    builder.stream::<String, i64>("in").to("out");
    Rig::new(&builder, Options { handler: Arc::new(CONTINUE), ..Options::default() })
}

const LONG: Option<&str> = Some("\0\0\0\0\0\0\0\u{1}");

#[test]
fn an_empty_batch_moves_the_position() {
    let mut rig = pipe();
    assert_eq!(rig.positions(), []);
    assert!(!rig.task.commit_needed());
    rig.push("in", 2, &[], 7);
    assert_eq!(rig.process().unwrap(), 0);
    assert_eq!(rig.positions(), [(7, -1)]);
    assert!(rig.task.commit_needed(), "offsets that move on over control records are committed too");
    rig.commit().unwrap();
    assert!(!rig.task.commit_needed());
}

#[test]
fn the_position_follows_records_one_by_one_and_then_the_batch() {
    let mut rig = pipe();
    rig.push("in", 2, &[(3, Some("a"), LONG, 50), (6, Some("a"), LONG, 40)], 9);
    assert_eq!(rig.task.process(1, |_| true, || true).unwrap(), 1);
    assert_eq!(rig.positions(), [(6, 50)], "the next record is known, but not taken");
    assert_eq!(rig.task.process(1, |_| true, || true).unwrap(), 1);
    assert_eq!(rig.positions(), [(9, 50)], "what was compacted away at the end of the batch is behind us");
}

#[test]
fn records_before_the_offset_asked_for_are_passed_over() {
    let mut rig = pipe();
    rig.task.start_at(0, 5);
    rig.push("in", 2, &[(3, Some("a"), LONG, 1), (4, Some("b"), LONG, 2), (5, Some("c"), LONG, 3)], 6);
    assert_eq!(rig.process().unwrap(), 1);
    assert_eq!(rig.counts(), ["out: c=1@3"]);
    rig.push("in", 2, &[(5, Some("c"), LONG, 3), (6, Some("d"), LONG, 4)], 7);
    assert_eq!(rig.process().unwrap(), 1, "a batch that is delivered again does no harm");
    assert_eq!(rig.positions(), [(7, 4)]);
}

#[test]
fn records_that_cannot_be_read_move_the_position() {
    let mut rig = pipe();
    rig.push("in", 2, &[(3, Some("a"), Some("no long"), 1), (4, Some("b"), Some(""), 2)], 5);
    assert_eq!(rig.process().unwrap(), 0);
    assert_eq!(rig.positions(), [(5, -1)]);
    assert!(rig.task.commit_needed(), "or they would be read again after a restart");
    let drops: Vec<_> = rig.task.drops().collect();
    assert_eq!(drops, [("KSTREAM-SOURCE-0000000000", crate::DropReason::Deserialization, 2)]);
}

#[test]
fn a_queue_that_must_not_be_empty_holds_the_others_back() {
    let builder = StreamsBuilder::new();
    let a = builder.stream::<String, String>("in");
    a.merge(&builder.stream("other")).to("out");
    let mut rig = Rig::build(&builder, &[("in", 2), ("other", 2)], Options::default()).unwrap();
    rig.push("in", 2, &[(0, Some("a"), Some("late"), 20)], 1);
    let other = rig.source("other", 2);
    assert_eq!(rig.task.process(9, |source| source != other, || true).unwrap(), 0);
    rig.push("other", 2, &[(0, Some("b"), Some("early"), 10)], 1);
    assert_eq!(rig.task.process(9, |source| source != other, || true).unwrap(), 1, "then it is empty again");
    assert_eq!(rig.task.process(9, |_| true, || true).unwrap(), 1);
    assert_eq!(rig.texts(), ["out: b=early@10", "out: a=late@20"]);
}

#[test]
fn records_stop_between_two_when_asked_to() {
    let mut rig = pipe();
    rig.push("in", 2, &[(0, Some("a"), LONG, 1), (1, Some("b"), LONG, 2), (2, Some("c"), LONG, 3)], 3);
    let mut left = 2;
    let go_on = || {
        left -= 1;
        left >= 0
    };
    assert_eq!(rig.task.process(9, |_| true, go_on).unwrap(), 2);
    assert_eq!(rig.task.queued(0), 1);
}

#[test]
fn a_store_goes_on_from_what_was_restored() {
    let builder = StreamsBuilder::new();
    builder.stream::<String, String>("in").group_by_key(()).count("c").to_stream().to("out");
    let mut rig = Rig::new(&builder, Options::default());
    let store = rig.task.stores()[0].clone();
    let long = |n: i64| Some(Bytes::copy_from_slice(&n.to_be_bytes()));
    let key = |key: &str| Bytes::copy_from_slice(key.as_bytes());
    let log = [("a", long(41), 90), ("b", long(7), 5), ("b", None, 6), ("c", long(1), 7)];
    store.restore(log.map(|(k, value, at)| (key(k), value, at)));
    rig.run(&[(Some("a"), Some("x"), 10), (Some("b"), Some("x"), 11)]).unwrap();
    assert_eq!(
        rig.counts(),
        ["app-c-changelog: a=42@90", "out: a=42@90", "app-c-changelog: b=1@11", "out: b=1@11"]
    );
    let rows = rig.task.rows("c").unwrap().unwrap();
    let rows: Vec<_> = rows.iter().map(|r| (r.key[0] as char, r.value[7], r.timestamp)).collect();
    assert_eq!(rows, [('a', 42, Some(90)), ('b', 1, Some(11)), ('c', 1, Some(7))]);
    rig.commit().unwrap();
    // An engine that is attached later (a standby that takes over) is not hidden by a row read before.
    store.restore([(key("a"), long(50), 91)]);
    rig.push("in", 2, &[(2, Some("a"), Some("x"), 1)], 3);
    rig.process().unwrap();
    assert_eq!(rig.counts()[1], "out: a=51@91");
}

#[test]
fn partition_time_is_restored_and_never_goes_back() {
    let mut rig = pipe();
    rig.task.restore_partition_time(0, 100);
    rig.push("in", 2, &[(0, Some("a"), LONG, 50)], 1);
    rig.process().unwrap();
    assert_eq!(rig.positions(), [(1, 100)]);
    assert_eq!(rig.task.stream_time(), 50, "stream time begins with the records of this life");
}

#[test]
fn a_log_that_begins_anew_is_taken_from_there() {
    let mut rig = pipe();
    rig.push("in", 2, &[(7, Some("a"), LONG, 1), (8, Some("b"), LONG, 2)], 9);
    // An empty batch says where the log goes on; what waits before it goes first.
    rig.push("in", 2, &[], 0);
    rig.push("in", 2, &[(0, Some("c"), LONG, 3), (1, Some("d"), LONG, 4)], 2);
    assert_eq!(rig.process().unwrap(), 4);
    assert_eq!(rig.positions(), [(2, 4)]);
}
