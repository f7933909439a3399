//! Damage: as little goes as can be told apart, and what nothing else has is moved aside.

use super::files::{DISKS, names};
use super::*;
use crate::store::database::mend::{Mend, Mended, is_suspect};

/// A store with so many rows, and a mark if it has a changelog.
fn fill(database: &Database, store: &str, logged: bool) {
    database.declare(TASK, store, logged).unwrap();
    let mut engine = database.open_store(TASK, store, 1).unwrap();
    let rows = run((0..2_000u32).map(|n| (n.to_be_bytes(), Some([7; 100]))));
    engine.apply(&rows, logged.then_some(&b"mark"[..])).unwrap();
}

fn mended(place: &Place, how: impl FnOnce(&Mend<'_>) -> Result<Mended>) -> (Mended, Vec<String>) {
    let folder = place.folder();
    let mend =
        Mend { kind: place.kind, folder: &folder, is_logged: &|_| true, may_hold_unlogged: false, now: 77 };
    let mended = how(&mend).unwrap();
    let mut stores: Vec<_> = mended.stores.iter().map(|named| named.store.clone()).collect();
    stores.sort();
    (mended, stores)
}

/// The folder of a keyspace, by what is damaged in it.
fn keyspace(place: &Place, store: &str) -> PathBuf {
    let database = place.open();
    let disk = database.disk.as_ref().unwrap();
    let id = disk.stores().catalog.id(TASK, store).unwrap();
    let found = crate::store::engine::fjall::look::named(&place.folder().join("data")).unwrap();
    found.into_iter().find(|(_, name)| *name == id.to_string()).unwrap().0
}

fn largest_table(keyspace: &Path) -> PathBuf {
    let tables = fs::read_dir(keyspace.join("tables")).unwrap().map(|entry| entry.unwrap().path());
    tables.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let third = bytes.len() / 3;
    bytes[third..third + 200].iter_mut().for_each(|byte| *byte ^= 0x55);
    fs::write(path, bytes).unwrap();
}

#[test]
fn one_damaged_store_costs_that_store() {
    for (damage, logged) in [("current", true), ("no current", true), ("table", true), ("current", false)] {
        let place = Place::new(EngineKind::Fjall);
        let database = place.open();
        ["one", "two", "three"]
            .into_iter()
            .for_each(|store| fill(&database, store, store != "two" || logged));
        drop(database);
        let folder = keyspace(&place, "two");
        match damage {
            "current" => fs::write(folder.join("current"), [0xff; 40]).unwrap(),
            "no current" => fs::remove_file(folder.join("current")).unwrap(),
            _ => fs::remove_file(largest_table(&folder)).unwrap(),
        }
        let Err(error) = place.try_open() else { panic!("{damage}: opened") };
        assert_eq!(error.class(), ErrorClass::CorruptTask, "{damage}: {error}");
        let (mended, stores) = mended(&place, |mend| mend.stores());
        assert_eq!((stores, mended.whole), (vec!["two".to_owned()], false), "{damage}");
        assert_eq!(mended.kept.is_some(), !logged);
        if let Some(kept) = mended.kept {
            assert_eq!(kept, place.dir.path().join("fjall.damaged-77"));
            let moved = fs::read_dir(&kept).unwrap().count();
            assert_eq!(moved, 2, "the store, and what says which it is");
        }
        let database = place.open();
        for store in ["one", "three"] {
            let engine = database.open_store(TASK, store, 1).unwrap();
            assert_eq!(rows(&*engine, &all()).len(), 2_000, "{damage}");
            assert_eq!(engine.mark().unwrap(), Some(bytes("mark")));
        }
        let engine = database.open_store(TASK, "two", 1).unwrap();
        assert_eq!((rows(&*engine, &all()), engine.mark().unwrap()), (vec![], None));
    }
}

/// fjall's merging stops everything over a damaged row that nobody has asked for, and does not say where it is.
#[test]
fn what_stopped_the_engine_is_found_at_the_next_start() {
    let place = Place::new(EngineKind::Fjall);
    let database = place.open();
    ["one", "two"].into_iter().for_each(|store| fill(&database, store, true));
    drop(database);
    flip(&largest_table(&keyspace(&place, "two")));
    let database = place.open();
    let mut engine = database.open_store(TASK, "two", 1).unwrap();
    // Tables gather until they are merged with what is damaged.
    let first = 0u32.to_be_bytes();
    let mut stopped = None;
    for n in 0..100_000u32 {
        let last = (1_999 + n).to_be_bytes();
        if let Err(error) = engine.apply(&run([(first, Some([8])), (last, Some([8]))]), Some(b"mark")) {
            stopped = Some(error);
            break;
        }
    }
    let error = stopped.expect("the merging meets it");
    assert!(error.to_string().contains("the next start"), "{error}");
    drop((engine, database));
    assert!(is_suspect(&place.folder()));
    let (mended, stores) = mended(&place, |mend| mend.stores());
    assert_eq!((stores, mended.kept), (vec!["two".to_owned()], None));
    assert!(!is_suspect(&place.folder()));
    let database = place.open();
    assert_eq!(rows(&*database.open_store(TASK, "one", 1).unwrap(), &all()).len(), 2_000);
    assert_eq!(rows(&*database.open_store(TASK, "two", 1).unwrap(), &all()).len(), 0);
}

#[test]
fn a_sound_database_that_stopped_loses_nothing() {
    let place = Place::new(EngineKind::Fjall);
    fill(&place.open(), "one", true);
    fs::write(place.folder().join("suspect"), "").unwrap();
    let (mended, stores) = mended(&place, |mend| mend.stores());
    assert_eq!((stores.len(), mended.whole), (0, false));
    assert!(!is_suspect(&place.folder()));
    assert_eq!(rows(&*place.open().open_store(TASK, "one", 1).unwrap(), &all()).len(), 2_000);
}

#[test]
fn a_whole_database_goes_only_if_all_of_it_can_be_restored() {
    for kind in DISKS {
        for logged in [true, false] {
            let place = Place::new(kind);
            let database = place.open();
            fill(&database, "one", true);
            fill(&database, "two", logged);
            drop(database);
            let (mended, stores) = mended(&place, |mend| mend.whole());
            assert_eq!((stores.len(), mended.whole), (2, true));
            let left = names(place.dir.path());
            if logged {
                assert_eq!((left.len(), mended.kept), (0, None), "{left:?}");
            } else {
                assert_eq!(left, [format!("{kind}.damaged-77")]);
                assert_eq!(names(&mended.kept.unwrap()), ["data", "engine.json"]);
            }
            place.open();
        }
        // Nobody knows what was in it.
        let place = Place::new(kind);
        fill(&place.open(), "one", false);
        fs::write(place.folder().join("engine.json"), "").unwrap();
        let folder = place.folder();
        let mend = Mend { kind, folder: &folder, is_logged: &|_| true, may_hold_unlogged: true, now: 78 };
        assert!(mend.stores().unwrap().stores.is_empty());
        assert!(mend.whole().unwrap().kept.is_some());
        assert_eq!(names(place.dir.path()), [format!("{kind}.damaged-78")]);
    }
}

#[test]
fn a_store_whose_files_are_gone_is_missed() {
    let place = Place::new(EngineKind::Fjall);
    let database = place.open();
    fill(&database, "one", true);
    assert!(!database.is_lost(TASK, "one") && !database.is_lost(TASK, "two"));
    database.note_used(100).unwrap();
    drop(database);
    fs::remove_dir_all(keyspace(&place, "one")).unwrap();
    let database = place.open();
    assert!(database.is_lost(TASK, "one"));
    database.open_store(TASK, "one", 1).unwrap();
    assert!(!database.is_lost(TASK, "one"));
}
