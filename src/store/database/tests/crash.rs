//! The end of the process at any step: a copy of the folder is what it would have left.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::SystemTime;

use proptest::prelude::*;

use super::*;
use crate::store::engine::disk::steps;

/// What would be on the disk if the process ended now.
pub(super) fn image(place: &Place) -> Place {
    let image = Place::new(place.kind);
    picture(&place.folder(), &image.folder());
    image
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), &to)?;
        }
    }
    Ok(())
}

/// What is in a folder, and since when.
fn listing(folder: &Path, into: &mut BTreeMap<PathBuf, (u64, SystemTime)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let (path, about) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
        if about.is_dir() {
            listing(&path, into)?;
        }
        into.insert(path, (about.len(), about.modified()?));
    }
    Ok(())
}

/// The folder as it is at one moment. Engines write and delete files on threads of their own: a copy during which anything
/// has changed is none.
fn picture(from: &Path, to: &Path) {
    for _ in 0..1000 {
        let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
        let copied =
            listing(from, &mut before).and_then(|()| copy(from, to)).and_then(|()| listing(from, &mut after));
        match copied {
            Ok(()) if before == after => return,
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}"),
            Ok(()) => {}
        }
        fs::remove_dir_all(to).unwrap();
    }
    panic!("{} never stands still", from.display());
}

#[derive(Debug, Clone)]
enum Op {
    Change(u8, Option<u8>),
    HandOver,
    /// The process ends at the given step of a hand-over.
    Crash(usize),
    Reopen,
    Look,
    DropStore,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => (any::<u8>(), proptest::option::weighted(0.7, any::<u8>())).prop_map(|(k, v)| Op::Change(k % 40, v)),
        3 => Just(Op::HandOver),
        2 => (0usize..12).prop_map(Op::Crash),
        1 => Just(Op::Reopen),
        1 => Just(Op::Look),
        1 => Just(Op::DropStore),
    ]
}

/// Short ones, and some that share a row.
fn key(n: u8) -> Bytes {
    if n < 36 { bytes([n]) } else { bytes([vec![n % 2; 65_533], vec![n]].concat()) }
}

fn fold(runs: &[SortedRun]) -> Vec<(Bytes, Bytes)> {
    let mut rows = BTreeMap::new();
    for (key, value) in runs.iter().flat_map(SortedRun::iter) {
        match value {
            Some(value) => rows.insert(bytes(key), bytes(value)),
            None => rows.remove(key),
        };
    }
    rows.into_iter().collect()
}

fn marked(engine: &dyn Engine) -> usize {
    engine.mark().unwrap().map_or(0, |mark| usize::from(mark[0]))
}

/// The store after a crash is that of its mark, or a part of the next run is in it, which then comes again.
fn check(kind: EngineKind, engine: &mut dyn Engine, runs: &[SortedRun]) {
    let mark = marked(engine);
    assert!(mark == runs.len() || mark + 1 == runs.len(), "mark {mark} of {}", runs.len());
    let found = rows(engine, &all());
    let (before, after) = (fold(&runs[..mark]), fold(runs));
    if mark == runs.len() || kind == EngineKind::Fjall {
        assert!(found == before, "{kind}: the rows are those of the mark");
    } else {
        assert!(
            found.iter().all(|row| before.contains(row) || after.contains(row)),
            "{kind}: rows of no run"
        );
    }
    for (at, run) in runs.iter().enumerate().skip(mark) {
        engine.apply(run, Some(&[at as u8 + 1])).unwrap();
    }
    assert!(rows(engine, &all()) == after, "{kind}: what comes again makes it whole");
}

fn store_is_a_map(kind: EngineKind, ops: Vec<Op>) {
    let mut place = Place::new(kind);
    let mut database = place.open();
    let mut engine = database.open_store(TASK, "words", 1).unwrap();
    let mut runs: Vec<SortedRun> = Vec::new();
    let mut open = BTreeMap::new();
    let mut views = Vec::new();
    for op in ops {
        match op {
            Op::Change(k, value) => _ = open.insert(key(k), value.map(|v| bytes([v]))),
            Op::Look => views.push((runs.len(), engine.snapshot())),
            Op::HandOver => {
                runs.push(std::mem::take(&mut open).into_iter().collect());
                engine.apply(&runs[runs.len() - 1], Some(&[runs.len() as u8])).unwrap();
                assert!(rows(&*engine, &all()) == fold(&runs));
            }
            Op::Crash(at) => {
                runs.push(std::mem::take(&mut open).into_iter().collect());
                let left = Rc::new(RefCell::new(None));
                {
                    let (mut step, folder, left) = (0, place.folder(), left.clone());
                    let watching = steps::watch(move |_| {
                        if step == at {
                            let image = Place::new(kind);
                            picture(&folder, &image.folder());
                            *left.borrow_mut() = Some(image);
                        }
                        step += 1;
                    });
                    engine.apply(&runs[runs.len() - 1], Some(&[runs.len() as u8])).unwrap();
                    drop(watching);
                }
                views.clear();
                drop((engine, database));
                // With fewer steps than that it ends right after the last.
                place = left.take().unwrap_or(place);
                database = place.open();
                engine = database.open_store(TASK, "words", 1).unwrap();
                check(kind, &mut *engine, &runs);
            }
            Op::Reopen => {
                views.clear();
                drop((engine, database));
                database = place.open();
                engine = database.open_store(TASK, "words", 1).unwrap();
                assert_eq!(marked(&*engine), runs.len());
                assert!(rows(&*engine, &all()) == fold(&runs));
            }
            Op::DropStore => {
                database.drop_store(TASK, "words").unwrap();
                engine = database.open_store(TASK, "words", 1).unwrap();
                views.clear();
                runs.clear();
                assert_eq!((marked(&*engine), rows(&*engine, &all())), (0, vec![]));
            }
        }
        for (until, view) in &views {
            assert!(rows(&**view, &all()) == fold(&runs[..*until]), "{kind}: a snapshot stays as it is");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn a_store_on_fjall_is_a_map_whatever_happens(ops in proptest::collection::vec(op(), 1..60)) {
        store_is_a_map(EngineKind::Fjall, ops);
    }

    #[test]
    fn a_store_on_sled_is_a_map_whatever_happens(ops in proptest::collection::vec(op(), 1..60)) {
        store_is_a_map(EngineKind::Sled, ops);
    }
}

fn every_step_of_a_run_may_be_the_last(kind: EngineKind) {
    let place = Place::new(kind);
    let database = place.open();
    let mut engine = database.open_store(TASK, "words", 1).unwrap();
    let first = run((0..20u8).map(|n| ([n], Some([1]))));
    let second = run((10..30u8).map(|n| ([n], (n % 3 > 0).then_some([2]))));
    engine.apply(&first, Some(&[1])).unwrap();
    let images = Rc::new(RefCell::new(Vec::new()));
    {
        let (folder, images) = (place.folder(), images.clone());
        let _watching = steps::watch(move |step| {
            let image = Place::new(kind);
            picture(&folder, &image.folder());
            images.borrow_mut().push((step, image));
        });
        engine.apply(&second, Some(&[2])).unwrap();
    }
    let images = images.take();
    assert_eq!(images.len(), second.len() + 2, "each row, the mark, the end");
    for (at, (step, image)) in images.into_iter().enumerate() {
        let database = image.open();
        let mut engine = database.open_store(TASK, "words", 1).unwrap();
        assert!(step == "finish" || marked(&*engine) == 1, "{kind}: the mark is there at step {at}, {step}");
        check(kind, &mut *engine, &[first.clone(), second.clone()]);
    }
}

#[test]
fn every_step_of_a_run_may_be_the_last_on_fjall() {
    every_step_of_a_run_may_be_the_last(EngineKind::Fjall);
}

#[test]
fn every_step_of_a_run_may_be_the_last_on_sled() {
    every_step_of_a_run_may_be_the_last(EngineKind::Sled);
}
