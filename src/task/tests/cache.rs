//! The record cache: what `CachingKeyValueStore` and `NamedCache` do between two commits.

use super::*;
use crate::dsl::Materialized;
use crate::store::KeyValue;
use crate::topology::{Context, Outcome, Processor, Stores};
use crate::{Record, store::KeyValueStore};

const BIG: usize = 10 << 20;

fn counting(cache_bytes: usize) -> Rig {
    let builder = StreamsBuilder::new();
    builder.stream::<String, String>("in").group_by_key(()).count("c").to_stream().to("out");
    Rig::new(&builder, Options { cache_bytes, ..Options::default() })
}

fn table(cache_bytes: usize) -> Rig {
    let builder = StreamsBuilder::new();
    builder.table::<String, String>("in", "t").to_stream().to("out");
    Rig::new(&builder, Options { cache_bytes, ..Options::default() })
}

#[test]
fn a_key_leaves_once_a_commit_in_the_order_of_its_last_update() {
    let mut rig = counting(BIG);
    let a = (Some("a"), Some("x"), 10);
    let b = (Some("b"), Some("x"), 11);
    rig.run(&[a, b, (Some("c"), Some("x"), 12), b, a]).unwrap();
    assert_eq!(rig.counts(), [""; 0], "nothing leaves before the commit");
    assert!(rig.task.commit_needed());
    rig.commit().unwrap();
    assert_eq!(
        rig.counts(),
        [
            "app-c-changelog: c=1@12",
            "out: c=1@12",
            "app-c-changelog: b=2@11",
            "out: b=2@11",
            "app-c-changelog: a=2@10",
            "out: a=2@10",
        ]
    );
    rig.commit().unwrap();
    assert_eq!(rig.counts(), [""; 0], "what has left does not leave again");
}

#[test]
fn a_row_that_came_and_went_is_forgotten() {
    let mut rig = table(BIG);
    rig.run(&[(Some("a"), Some("1"), 10), (Some("a"), None, 11), (Some("b"), None, 12)]).unwrap();
    rig.commit().unwrap();
    assert_eq!(rig.texts(), [""; 0], "neither was ever there for anybody else");
    rig.push("in", 2, &[(3, Some("a"), Some("2"), 13)], 4);
    rig.process().unwrap();
    rig.commit().unwrap();
    assert_eq!(rig.texts(), ["app-t-changelog: a=2@13", "out: a=2@13"]);
    rig.push("in", 2, &[(4, Some("a"), Some("3"), 14), (5, Some("a"), None, 15)], 6);
    rig.process().unwrap();
    rig.commit().unwrap();
    assert_eq!(rig.texts(), ["app-t-changelog: a=null@15", "out: a=null@15"]);
}

#[test]
fn without_a_cache_a_deletion_of_an_absent_row_passes() {
    let mut rig = table(0);
    rig.run(&[(Some("b"), None, 12)]).unwrap();
    assert_eq!(rig.texts(), ["app-t-changelog: b=null@12", "out: b=null@12"]);
}

#[test]
fn a_full_cache_is_flushed_between_records() {
    let mut rig = counting(1);
    rig.run(&[(Some("a"), Some("x"), 1), (Some("b"), Some("x"), 2), (Some("a"), Some("x"), 3)]).unwrap();
    let out: Vec<_> = rig.counts().into_iter().filter(|line| line.starts_with("out")).collect();
    assert_eq!(out, ["out: a=1@1", "out: b=1@2", "out: a=2@3"]);
}

#[test]
fn the_size_of_values_counts() {
    let mut rig = table(4_000);
    let big = "x".repeat(3_900);
    rig.run(&[(Some("a"), Some("1"), 1), (Some("b"), Some("1"), 2)]).unwrap();
    assert_eq!(rig.texts(), [""; 0]);
    rig.push("in", 2, &[(2, Some("c"), Some(&big), 3), (3, Some("d"), Some("1"), 4)], 4);
    rig.process().unwrap();
    let keys: Vec<_> = rig.taken().into_iter().filter(|s| s.topic == "out").map(|s| s.key).collect();
    assert_eq!(
        keys,
        ["a", "b", "c"].map(|k| Some(k.to_owned())),
        "all that was held back, then it fills again"
    );
    rig.commit().unwrap();
    assert_eq!(rig.texts().len(), 2);
}

#[test]
fn a_flushed_record_has_the_context_of_its_last_update() {
    let mut rig = counting(BIG);
    rig.run(&[(Some("a"), Some("x"), 10), (Some("b"), Some("x"), 9), (Some("a"), Some("x"), 5)]).unwrap();
    rig.commit().unwrap();
    let sent = rig.taken();
    let headers: Vec<_> = sent
        .iter()
        .map(|s| {
            s.headers.last("at").and_then(|h| h.value().map(|v| String::from_utf8_lossy(v).into_owned()))
        })
        .collect();
    assert_eq!(headers, [None, Some("1".to_owned()), None, Some("2".to_owned())], "changelogs carry none");
    assert_eq!(sent[3].timestamp, Some(10), "the row's own timestamp is the greatest of its records");
}

#[test]
fn one_cache_fills_the_next() {
    let builder = StreamsBuilder::new();
    builder
        .stream::<String, String>("in")
        .group_by_key(())
        .count("first")
        .to_stream()
        .group_by_key(())
        .reduce("second", |_, n| n)
        .to_stream()
        .to("out");
    let mut rig = Rig::new(&builder, Options { cache_bytes: BIG, ..Options::default() });
    rig.run(&[(Some("a"), Some("x"), 10), (Some("a"), Some("x"), 11)]).unwrap();
    rig.commit().unwrap();
    assert_eq!(rig.counts(), ["app-first-changelog: a=2@11", "app-second-changelog: a=2@11", "out: a=2@11"]);
}

#[test]
fn caching_can_be_turned_off_for_one_store() {
    let builder = StreamsBuilder::new();
    let counts = Materialized::named("c").caching_disabled();
    builder.stream::<String, String>("in").group_by_key(()).count(counts).to_stream().to("out");
    let mut rig = Rig::new(&builder, Options { cache_bytes: BIG, ..Options::default() });
    rig.run(&[(Some("a"), Some("x"), 10)]).unwrap();
    assert_eq!(rig.counts(), ["app-c-changelog: a=1@10", "out: a=1@10"]);
}

struct Keep(KeyValueStore<String, String>);

impl Processor<String, String, String, String> for Keep {
    fn process(&mut self, record: Record<String, String>, cx: &mut Context<'_, String, String>) -> Outcome {
        let key = record.key.unwrap_or_default();
        cx.store(&self.0).put(&key, record.value)
    }
}

#[test]
fn a_processors_cached_store_logs_at_commits_deletions_included() {
    let builder = StreamsBuilder::new();
    let kept = KeyValue::<String, String>::named("kept").caching();
    let supplier = {
        let kept = kept.clone();
        move |stores: &Stores<'_, '_>| Ok(Keep(stores.get(&kept)?))
    };
    builder.stream::<String, String>("in").process::<_, String, String>(supplier, &[&kept]).to("out");
    let mut rig = Rig::new(&builder, Options { cache_bytes: BIG, ..Options::default() });
    rig.run(&[(Some("a"), Some("1"), 10), (Some("b"), None, 11), (Some("a"), Some("2"), 12)]).unwrap();
    assert_eq!(rig.texts(), [""; 0]);
    rig.commit().unwrap();
    // Nothing is downstream, so nothing is looked up before the put (`CachingKeyValueStore.putAndMaybeForward`).
    assert_eq!(rig.texts(), ["app-kept-changelog: b=null@11", "app-kept-changelog: a=2@12"]);
}

/// A task that is given up in the middle of an interval: what its cache withholds goes nowhere, whatever becomes of it, and
/// the task that follows, built from what was committed, does what one would that was never interrupted.
#[test]
fn what_is_withheld_when_a_task_is_given_up_goes_nowhere() {
    let first: [(Option<&str>, Option<&str>, Timestamp); 3] =
        [(Some("a"), Some("x"), 10), (Some("b"), Some("x"), 11), (Some("a"), Some("x"), 12)];
    let second =
        [(3, Some("b"), Some("x"), 13), (4, Some("c"), Some("x"), 14), (5, Some("b"), Some("x"), 15)];
    let mut calm = counting(BIG);
    calm.run(&first).unwrap();
    calm.commit().unwrap();
    let committed = calm.taken();
    calm.push("in", 2, &second, 6);
    calm.process().unwrap();
    calm.commit().unwrap();
    let (expected, rows) = (calm.counts(), calm.task.rows("c").unwrap().unwrap());

    let mut given_up = counting(BIG);
    given_up.run(&first).unwrap();
    given_up.commit().unwrap();
    given_up.taken();
    given_up.push("in", 2, &second, 6);
    given_up.process().unwrap();
    assert!(given_up.task.cached_bytes() > 0);
    given_up.task.close().unwrap();
    let out = given_up.out.clone();
    drop(given_up);
    assert_eq!(out.0.borrow().sent, [], "neither the changelog nor the output knows of it");

    let mut next = counting(BIG);
    let log = committed.iter().filter(|sent| sent.topic == "app-c-changelog").map(|sent| {
        let key = Bytes::from(sent.key.clone().unwrap());
        (key, sent.value.clone(), sent.timestamp.unwrap())
    });
    next.task.stores()[0].restore(log);
    next.task.start_at(0, 3);
    next.push("in", 2, &second, 6);
    next.process().unwrap();
    next.commit().unwrap();
    assert_eq!(next.counts(), expected);
    assert_eq!(next.task.rows("c").unwrap().unwrap(), rows);
}
