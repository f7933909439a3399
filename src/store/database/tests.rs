//! What every engine must do, and what the database does around them.

mod crash;
mod files;
mod mend;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::mpsc;

use super::*;
use crate::error::ErrorClass;
use crate::store::engine::{EngineRead, KeyRange, SortedRun};

const TASK: TaskId = TaskId::new(0, 3);

/// A database in a folder of its own.
struct Place {
    kind: EngineKind,
    dir: tempfile::TempDir,
}

impl Place {
    fn new(kind: EngineKind) -> Self {
        Self { kind, dir: tempfile::tempdir().unwrap() }
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join(self.kind.name())
    }

    fn open(&self) -> Database {
        self.try_open().unwrap()
    }

    fn try_open(&self) -> Result<Database> {
        Database::open(self.kind, &self.folder(), 4 << 20)
    }
}

fn bytes(text: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(text.as_ref())
}

fn run<K: AsRef<[u8]>, V: AsRef<[u8]>>(rows: impl IntoIterator<Item = (K, Option<V>)>) -> SortedRun {
    let rows: BTreeMap<_, _> = rows.into_iter().map(|(k, v)| (bytes(k), v)).collect();
    rows.into_iter().collect()
}

fn all() -> KeyRange {
    KeyRange { from: Bound::Unbounded, to: Bound::Unbounded, reverse: false }
}

fn rows(engine: &(impl EngineRead + ?Sized), range: &KeyRange) -> Vec<(Bytes, Bytes)> {
    engine.range(range).map(Result::unwrap).collect()
}

fn rows_are_read_as_they_were_written_last(kind: EngineKind) {
    let place = Place::new(kind);
    let database = place.open();
    let mut engine = database.open_store(TASK, "words", 1).unwrap();
    assert_eq!(engine.get(b"a").unwrap(), None);
    engine.apply(&run([("a", Some("1")), ("b", Some("2")), ("c", Some("3"))]), None).unwrap();
    engine.apply(&run([("a", None), ("b", Some("4")), ("d", None)]), None).unwrap();
    assert_eq!(engine.get(b"a").unwrap(), None);
    assert_eq!(engine.get(b"b").unwrap(), Some(bytes("4")));
    assert_eq!(rows(&*engine, &all()), [(bytes("b"), bytes("4")), (bytes("c"), bytes("3"))]);
    engine.apply(&run([("", Some("no key")), ("e", Some("")), ("c", None)]), None).unwrap();
    assert_eq!(engine.get(b"").unwrap(), Some(bytes("no key")));
    assert_eq!(engine.get(b"e").unwrap(), Some(Bytes::new()));
    let want = [("", "no key"), ("b", "4"), ("e", "")].map(|(k, v)| (bytes(k), bytes(v)));
    assert_eq!(rows(&*engine, &all()), want);
    engine.apply(&run([("a", Some("5"))]), None).unwrap();
    assert_eq!(engine.get(b"a").unwrap(), Some(bytes("5")), "a deleted key comes back");
}

/// Keys around the longest that has a row of its own, in order.
fn long_keys() -> Vec<Vec<u8>> {
    let a = |len: usize| vec![b'a'; len];
    let with = |len: usize, last: u8| [a(len), vec![last]].concat();
    let lengths = [1, 65_532, 65_533, 65_534, 65_535, 65_536];
    let mut keys: Vec<_> = lengths.into_iter().map(a).collect();
    keys.extend([
        with(65_532, 0),
        with(65_532, b'b'),
        with(65_533, 0),
        with(65_533, b'b'),
        with(65_600, b'b'),
    ]);
    keys.extend([b"a\0".to_vec(), b"b".to_vec(), vec![0xff; 65_536], vec![0xff; 2], Vec::new()]);
    keys.sort();
    keys
}

fn ranges_have_both_kinds_of_ends_and_both_directions(kind: EngineKind) {
    let place = Place::new(kind);
    let database = place.open();
    let mut engine = database.open_store(TASK, "words", 1).unwrap();
    let mut keys: Vec<Vec<u8>> = (0..600u32).map(|n| format!("k{n:04}").into_bytes()).collect();
    keys.extend(long_keys());
    keys.sort();
    let model: BTreeMap<_, _> = keys.iter().map(|key| (bytes(key), bytes(key.len().to_be_bytes()))).collect();
    let (odd, even): (Vec<_>, Vec<_>) =
        model.clone().into_iter().enumerate().partition(|(at, _)| at % 2 == 1);
    for half in [odd, even] {
        engine.apply(&half.into_iter().map(|(_, (k, v))| (k, Some(v))).collect(), None).unwrap();
    }
    let snapshot = engine.snapshot();
    let longest = vec![b'a'; 65_533];
    let mut ends = vec![longest.clone(), longest[1..].to_vec(), vec![b'a'; 65_535]];
    ends.extend([[longest.clone(), vec![0]].concat(), [longest, vec![b'b']].concat()]);
    ends.extend(["", "a", "a\0", "k0100x", "k0300"].map(Vec::from));
    let ends = ends.into_iter().map(Bytes::from);
    let ends: Vec<Bound<Bytes>> = ends
        .flat_map(|key| [Bound::Included(key.clone()), Bound::Excluded(key)])
        .chain([Bound::Unbounded])
        .collect();
    for from in &ends {
        for to in &ends {
            for reverse in [false, true] {
                let range = KeyRange { from: from.clone(), to: to.clone(), reverse };
                let mut want: Vec<&Bytes> = Vec::new();
                if !range.is_empty() {
                    want.extend(model.range((from.clone(), to.clone())).map(|(key, _)| key));
                }
                if reverse {
                    want.reverse();
                }
                // Long texts say nothing.
                let short = || format!("{:?}", range).chars().filter(|c| *c != 'a').collect::<String>();
                let got = rows(&*engine, &range);
                assert!(got.iter().map(|(key, _)| key).eq(want.iter().copied()), "{}", short());
                assert!(got.iter().all(|(key, value)| value[..] == key.len().to_be_bytes()), "{}", short());
                assert!(rows(&*snapshot, &range) == got, "a snapshot: {}", short());
            }
        }
    }
}

fn keys_of_every_length_are_kept_apart(kind: EngineKind) {
    let place = Place::new(kind);
    let database = place.open();
    let mut engine = database.open_store(TASK, "words", 1).unwrap();
    let mut keys = long_keys();
    keys.push(vec![0xff; 1 << 20]);
    for (at, key) in keys.iter().enumerate() {
        engine.apply(&run([(key, Some(at.to_be_bytes()))]), None).unwrap();
    }
    for (at, key) in keys.iter().enumerate() {
        assert_eq!(engine.get(key).unwrap(), Some(bytes(at.to_be_bytes())), "key of {} bytes", key.len());
    }
    assert_eq!(engine.get(&vec![b'a'; 65_537]).unwrap(), None);
    assert_eq!(engine.get(&vec![b'z'; 65_537]).unwrap(), None);
    for (at, key) in keys.iter().enumerate() {
        engine.apply(&run([(key, None::<&str>), (&b"other".to_vec(), Some("x"))]), None).unwrap();
        let left: Vec<_> = rows(&*engine, &all()).into_iter().map(|(key, _)| key).collect();
        let mut want: Vec<_> = keys[at + 1..].iter().map(bytes).chain([bytes("other")]).collect();
        want.sort();
        assert!(left == want, "after the deletion of a key of {} bytes", key.len());
    }
    let value = vec![7; 20 << 20];
    engine.apply(&run([("large", Some(&value))]), None).unwrap();
    assert!(engine.get(b"large").unwrap().unwrap() == value);
}

fn a_snapshot_is_whole_whenever_it_is_taken_and_stays_as_it_is(kind: EngineKind) {
    const KEYS: u32 = 700;
    let place = Place::new(kind);
    let database = place.open();
    let mut engine = database.open_store(TASK, "words", 1).unwrap();
    // Each run has every other key, and says which run it is; odd ones delete a third of theirs.
    let nth = |n: u32| -> SortedRun {
        let keys = (0..KEYS).filter(|key| key % 2 == n % 2);
        run(keys.map(|key| (key.to_be_bytes(), (n % 4 != 3 || key % 3 != 0).then_some(n.to_be_bytes()))))
    };
    let mut models = vec![BTreeMap::new()];
    for n in 1..=12 {
        let mut model = models.last().unwrap().clone();
        for (key, value) in nth(n).iter() {
            match value {
                Some(value) => model.insert(bytes(key), bytes(value)),
                None => model.remove(key),
            };
        }
        models.push(model);
    }
    let seen = |snapshot: &dyn EngineRead| {
        let forward = rows(snapshot, &all());
        let mut backward = rows(snapshot, &KeyRange { reverse: true, ..all() });
        backward.reverse();
        let one_by_one: Vec<_> = (0..KEYS)
            .filter_map(|key| Some((bytes(key.to_be_bytes()), snapshot.get(&key.to_be_bytes()).unwrap()?)))
            .collect();
        let whole = models
            .iter()
            .position(|model| model.iter().map(|(k, v)| (k.clone(), v.clone())).eq(forward.clone()));
        let whole = whole.unwrap_or_else(|| panic!("{kind}: torn: {forward:?}"));
        assert_eq!(backward, forward);
        assert_eq!(one_by_one, forward);
        whole
    };
    engine.apply(&nth(1), None).unwrap();
    let mut kept = vec![(1, engine.snapshot())];
    let (done, applied) = mpsc::channel();
    let writer = engine.writer();
    std::thread::scope(|scope| {
        if let Some(mut writer) = writer {
            scope.spawn(move || {
                for n in 2..=12 {
                    writer.apply(&nth(n), Some(b"mark")).unwrap();
                    done.send(n).unwrap();
                }
            });
        } else {
            for n in 2..=12 {
                engine.apply(&nth(n), Some(b"mark")).unwrap();
                kept.push((n as usize, engine.snapshot()));
                done.send(n).unwrap();
            }
        }
        let mut last = 1;
        while last < 12 {
            let at_least = last as usize;
            let snapshot = engine.snapshot();
            let whole = seen(&*snapshot);
            assert!(whole >= at_least, "what was applied is seen: {whole}, {at_least}");
            kept.push((whole, snapshot));
            last = applied.try_iter().last().unwrap_or(last);
        }
    });
    for (whole, snapshot) in kept {
        assert_eq!(seen(&*snapshot), whole, "a snapshot changed");
    }
    assert_eq!(seen(&*engine), 12);
}

fn the_mark_is_that_of_the_last_run_that_had_one(kind: EngineKind) {
    let place = Place::new(kind);
    let database = place.open();
    let mut engine = database.open_store(TASK, "words", 1).unwrap();
    assert_eq!(engine.mark().unwrap(), None);
    engine.apply(&run([("a", Some("1"))]), None).unwrap();
    assert_eq!(engine.mark().unwrap(), None);
    engine.apply(&run([("b", Some("1"))]), Some(b"first")).unwrap();
    assert_eq!(engine.mark().unwrap(), Some(bytes("first")));
    engine.apply(&SortedRun::default(), Some(b"second")).unwrap();
    engine.apply(&run([("c", Some("1"))]), None).unwrap();
    engine.apply(&SortedRun::default(), None).unwrap();
    assert_eq!(engine.mark().unwrap(), Some(bytes("second")));
    assert_eq!(rows(&*engine, &all()).len(), 3, "a mark is no row");
}

fn stores_do_not_see_each_other(kind: EngineKind) {
    let place = Place::new(kind);
    let database = place.open();
    let names = ["", "words", "wörter/../x", &"n".repeat(300)];
    let mut engines = Vec::new();
    for partition in 0..10 {
        for name in names {
            let mut engine = database.open_store(TaskId::new(1, partition), name, 1).unwrap();
            let text = format!("{partition} {name}");
            engine.apply(&run([("key", Some(&text)), (&text, Some(&text))]), Some(text.as_bytes())).unwrap();
            engines.push((text, engine));
        }
    }
    for (text, engine) in &engines {
        assert_eq!(rows(&**engine, &all()).len(), 2);
        assert_eq!(engine.get(b"key").unwrap(), Some(bytes(text)));
        assert_eq!(engine.mark().unwrap(), Some(bytes(text)));
    }
}

fn what_was_written_is_there_after_a_reopen(kind: EngineKind) {
    let place = Place::new(kind);
    for round in 0..4u32 {
        let database = place.open();
        let mut engine = database.open_store(TASK, "words", 1).unwrap();
        let want: Vec<_> = (0..round).map(|n| (bytes(n.to_be_bytes()), bytes(round.to_be_bytes()))).collect();
        assert_eq!(rows(&*engine, &all()), want);
        assert_eq!(rows(&*engine.snapshot(), &all()), want, "a snapshot, before anything is written");
        assert_eq!(engine.mark().unwrap(), (round > 0).then(|| bytes(round.to_be_bytes())));
        let next = (round + 1).to_be_bytes();
        engine.apply(&run((0..=round).map(|n| (n.to_be_bytes(), Some(next)))), Some(&next)).unwrap();
        if kind == EngineKind::Sled {
            assert_eq!(engine.approximate_len(), u64::from(round) + 1);
        }
    }
    let listed = place.open().stores().unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].task, &*listed[0].store), (TASK, "words"));
    assert_eq!(listed[0].mark, Some(bytes(4u32.to_be_bytes())));
    assert_eq!(listed[0].bytes.is_some_and(|bytes| bytes > 0), kind == EngineKind::Fjall);
}

fn a_dropped_store_is_gone_and_comes_back_empty(kind: EngineKind) {
    let place = Place::new(kind);
    let database = place.open();
    let mut dropped = database.open_store(TASK, "words", 1).unwrap();
    let mut other = database.open_store(TASK, "others", 1).unwrap();
    for engine in [&mut dropped, &mut other] {
        engine.apply(&run([("a", Some("1"))]), Some(b"mark")).unwrap();
    }
    let view = dropped.snapshot();
    let files = || {
        let disk = database.disk.as_ref().unwrap();
        disk.backend.ids().len()
    };
    let before = files();
    database.drop_store(TASK, "words").unwrap();
    database.drop_store(TASK, "never there").unwrap();
    let error = dropped.apply(&run([("b", Some("1"))]), None).unwrap_err();
    assert_eq!((error.kind(), error.class()), (ErrorKind::Store, ErrorClass::FencedLease));
    let mut again = database.open_store(TASK, "words", 1).unwrap();
    assert_eq!((rows(&*again, &all()), again.mark().unwrap()), (vec![], None));
    again.apply(&run([("c", Some("1"))]), None).unwrap();
    drop(dropped);
    database.sweep().unwrap();
    assert_eq!(rows(&*view, &all()), [(bytes("a"), bytes("1"))], "who reads it may go on");
    assert_eq!(files(), before + 1);
    drop(view);
    database.sweep().unwrap();
    assert_eq!(files(), before);
    assert_eq!(rows(&*other, &all()).len(), 1);

    // Dropped with somebody reading, and then the end of the process.
    let view = again.snapshot();
    database.drop_store(TASK, "words").unwrap();
    let image = crash::image(&place);
    drop((view, again, other, database));
    for place in [image, place] {
        let database = place.open();
        assert_eq!(database.stores().unwrap().len(), 1);
        assert_eq!(
            database.disk.as_ref().unwrap().backend.ids().iter().filter(|id| **id > 0).count(),
            before - 1
        );
        let engine = database.open_store(TASK, "words", 1).unwrap();
        assert_eq!((rows(&*engine, &all()), engine.mark().unwrap()), (vec![], None));
    }
}

fn whoever_uses_a_store_is_noted(kind: EngineKind) {
    let place = Place::new(kind);
    let database = place.open();
    let used = |database: &Database, now, in_use: bool| -> Vec<Option<i64>> {
        database.unused(now, |_| in_use).unwrap().into_iter().map(|named| named.used_ms).collect()
    };
    database.open_store(TASK, "words", 1).unwrap();
    assert_eq!(used(&database, 100, false), [Some(100)], "opened since the look before");
    assert_eq!(used(&database, 200, false), [Some(100)]);
    assert_eq!(used(&database, 300, true), [], "in use");
    assert_eq!(used(&database, 400, true), []);
    assert_eq!(used(&database, 500, false), [Some(500)], "let go of since");
    assert_eq!(used(&database, 600, false), [Some(500)]);
    assert_eq!(used(&database, 700, true), []);
    // Killed.
    drop(database);
    let database = place.open();
    assert_eq!(used(&database, 900, false), [Some(700)]);
    database.note_used(950).unwrap();
    assert_eq!(used(&database, 960, false), [Some(700)], "nobody has opened it");
    database.open_store(TASK, "words", 1).unwrap();
    database.note_used(970).unwrap();
    // Killed again, before a look.
    drop(database);
    assert_eq!(used(&place.open(), 999, false), [Some(970)]);
}

fn a_later_tenure_ends_the_handles_of_earlier_ones(kind: EngineKind) {
    let place = Place::new(kind);
    let database = place.open();
    let mut old = database.open_store(TASK, "words", 4).unwrap();
    old.apply(&run([("a", Some("1"))]), Some(b"old")).unwrap();
    let mut old_writer = old.writer().unwrap();
    let mut new = database.open_store(TASK, "words", 7).unwrap();
    for stale in [&mut old, &mut old_writer] {
        let error = stale.apply(&run([("a", Some("stale"))]), Some(b"stale")).unwrap_err();
        assert_eq!((error.kind(), error.class()), (ErrorKind::Store, ErrorClass::FencedLease));
        assert!(error.to_string().contains("the store words of task 0_3"), "{error}");
    }
    let Err(error) = database.open_store(TASK, "words", 6) else { panic!("an earlier tenure opened it") };
    assert_eq!(error.class(), ErrorClass::FencedLease);
    assert_eq!(new.get(b"a").unwrap(), Some(bytes("1")));
    assert_eq!(new.mark().unwrap(), Some(bytes("old")));
    new.apply(&run([("a", Some("2"))]), None).unwrap();
    new.writer().unwrap().apply(&run([("b", Some("2"))]), None).unwrap();
    database.open_store(TASK, "others", 1).unwrap().apply(&run([("a", Some("1"))]), None).unwrap();
    assert_eq!(old.get(b"a").unwrap(), Some(bytes("2")), "it may read");
}

macro_rules! for_engines {
    ($($engine:ident $kind:ident: $($test:ident)*;)*) => {
        $(mod $engine {
            $(#[test] fn $test() { super::$test(super::EngineKind::$kind) })*
        })*
    };
}

for_engines! {
    memory Memory:
        rows_are_read_as_they_were_written_last
        ranges_have_both_kinds_of_ends_and_both_directions
        keys_of_every_length_are_kept_apart
        a_snapshot_is_whole_whenever_it_is_taken_and_stays_as_it_is
        the_mark_is_that_of_the_last_run_that_had_one
        stores_do_not_see_each_other;
    fjall Fjall:
        rows_are_read_as_they_were_written_last
        ranges_have_both_kinds_of_ends_and_both_directions
        keys_of_every_length_are_kept_apart
        a_snapshot_is_whole_whenever_it_is_taken_and_stays_as_it_is
        the_mark_is_that_of_the_last_run_that_had_one
        stores_do_not_see_each_other
        what_was_written_is_there_after_a_reopen
        a_dropped_store_is_gone_and_comes_back_empty
        a_later_tenure_ends_the_handles_of_earlier_ones
        whoever_uses_a_store_is_noted;
    sled Sled:
        rows_are_read_as_they_were_written_last
        ranges_have_both_kinds_of_ends_and_both_directions
        keys_of_every_length_are_kept_apart
        a_snapshot_is_whole_whenever_it_is_taken_and_stays_as_it_is
        the_mark_is_that_of_the_last_run_that_had_one
        stores_do_not_see_each_other
        what_was_written_is_there_after_a_reopen
        a_dropped_store_is_gone_and_comes_back_empty
        a_later_tenure_ends_the_handles_of_earlier_ones
        whoever_uses_a_store_is_noted;
}
