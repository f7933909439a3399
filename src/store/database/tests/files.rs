//! Folders that are not as they should be: an error that names the folder and the remedy, and nothing deleted.

use super::*;

fn refused(place: &Place, says: &[&str]) -> Error {
    let before = names(&place.folder());
    let Err(error) = place.try_open() else { panic!("opened, and should say {says:?}") };
    let text = error.to_string();
    for part in says.iter().chain([&*place.folder().to_string_lossy(), "state.dir"].iter()) {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    assert_eq!(error.kind(), ErrorKind::Store);
    assert_eq!(names(&place.folder()), before, "nothing is deleted");
    error
}

pub(super) fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A database with one store in it, closed.
fn filled(kind: EngineKind) -> Place {
    let place = Place::new(kind);
    let database = place.open();
    let mut engine = database.open_store(TASK, "words", 1).unwrap();
    engine.apply(&run((0..2_000u32).map(|n| (n.to_be_bytes(), Some([7; 100])))), Some(b"mark")).unwrap();
    drop((engine, database));
    place
}

pub(super) const DISKS: [EngineKind; 2] = [EngineKind::Fjall, EngineKind::Sled];

#[test]
fn foreign_files_are_left_alone() {
    for kind in DISKS {
        let place = Place::new(kind);
        fs::create_dir_all(place.folder()).unwrap();
        fs::write(place.folder().join("holiday.jpg"), "").unwrap();
        refused(&place, &["holiday.jpg", "set another state.dir"]);
    }
}

#[test]
fn what_is_foreign_in_a_database_is_named_and_left_alone() {
    for kind in DISKS {
        for (name, is_folder) in
            [("notes", true), ("notes.txt", false), ("data/mybackup", true), ("data/letter", false)]
        {
            let place = filled(kind);
            let path = place.folder().join(name);
            if is_folder {
                fs::create_dir(&path).unwrap();
                fs::write(path.join("mine"), "").unwrap();
            } else {
                fs::write(&path, "").unwrap();
            }
            let place_named = path.to_string_lossy().into_owned();
            let error = refused(&place, &["not of this library", &place_named, "set another state.dir"]);
            assert_eq!(error.class(), ErrorClass::Fatal);
            // Whatever else is wrong.
            fs::write(place.folder().join("engine.json"), "").unwrap();
            refused(&place, &[&place_named]);
            assert!(path.exists() && (!is_folder || path.join("mine").exists()));
        }
    }
}

#[test]
fn a_folder_that_is_a_file_is_named() {
    let place = Place::new(EngineKind::Fjall);
    fs::write(place.folder(), "").unwrap();
    refused(&place, &["cannot make the folder"]);
}

#[test]
fn what_a_newer_release_wrote_is_left_alone() {
    let place = filled(EngineKind::Fjall);
    let file = place.folder().join("engine.json");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("\"version\": 2", "\"version\": 3")).unwrap();
    let error = refused(&place, &["a newer release"]);
    assert_eq!(error.class(), ErrorClass::Fatal);
}

#[test]
fn a_catalog_that_cannot_be_read_may_be_deleted() {
    let texts = [
        "",
        "{}",
        "[]",
        "{\"version\":1}",
        r#"{"version":1,"engine":"redb","next_id":2,"stores":[]}"#,
        r#"{"version":1,"engine":"fjall","next_id":2,"stores":[{"id":1,"task":"one","store":"a"}]}"#,
        r#"{"version":1,"engine":"fjall","next_id":2,"stores":[{"id":2,"task":"0_0","store":"a"}]}"#,
        r#"{"version":1,"engine":"fjall","next_id":3,"stores":[{"id":1,"task":"0_0","store":"a"},{"id":1,"task":"0_0","store":"b"}]}"#,
    ];
    let place = filled(EngineKind::Fjall);
    for text in texts {
        fs::write(place.folder().join("engine.json"), text).unwrap();
        let error = refused(&place, &["delete the folder", "rebuilt from the changelogs"]);
        assert_eq!(error.class(), ErrorClass::CorruptTask);
    }
}

#[test]
fn the_first_version_of_the_catalog_is_still_read() {
    let place = filled(EngineKind::Fjall);
    let text =
        r#"{"version":1,"engine":"fjall","next_id":2,"stores":[{"id":1,"task":"0_3","store":"words"}]}"#;
    fs::write(place.folder().join("engine.json"), text).unwrap();
    let database = place.open();
    assert_eq!(database.stores().unwrap()[0].store, "words");
    assert_eq!(rows(&*database.open_store(TASK, "words", 1).unwrap(), &all()).len(), 2_000);
}

#[test]
fn a_database_that_is_open_is_not_opened_again() {
    for kind in DISKS {
        let place = filled(kind);
        let database = place.open();
        let error = refused(&place, &["has it open"]);
        assert_eq!(error.class(), ErrorClass::Fatal);
        drop(database);
        place.open();
    }
}

#[test]
fn a_beginning_that_was_cut_off_is_begun_again() {
    for kind in DISKS {
        let place = Place::new(kind);
        fs::create_dir_all(place.folder().join("data.new").join("keyspaces")).unwrap();
        fs::write(place.folder().join("data.new").join("version"), "").unwrap();
        fs::write(place.folder().join("engine.json.new"), "{").unwrap();
        let database = place.open();
        database
            .open_store(TASK, "words", 1)
            .unwrap()
            .apply(&run([("a", Some("1"))]), Some(b"mark"))
            .unwrap();
    }
}

#[test]
fn a_catalog_without_its_data_is_not_taken_for_empty_stores() {
    for kind in DISKS {
        let place = filled(kind);
        fs::remove_dir_all(place.folder().join("data")).unwrap();
        let error = refused(&place, &["damaged or missing"]);
        assert_eq!(error.class(), ErrorClass::CorruptTask);
    }
}

/// All files below a folder.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
    found.sort();
}

/// Every file of a database is cut off, emptied, filled with other bytes, deleted, or a folder is made of it. Whatever comes
/// of it is an error, or the rows of the mark; never a panic, and never other rows under the mark.
#[test]
fn damaged_files_are_an_error_or_do_not_matter() {
    for kind in DISKS {
        let whole = filled(kind);
        let mut found = Vec::new();
        files(&whole.folder().join("data"), &mut found);
        assert!(found.len() > 2, "{found:?}");
        let mut errors = 0;
        for file in &found {
            let file = file.strip_prefix(whole.folder()).unwrap();
            let bytes = fs::read(whole.folder().join(file)).unwrap();
            for damage in 0..5 {
                let place = crash::image(&whole);
                let path = place.folder().join(file);
                let mut bytes = bytes.clone();
                match damage {
                    0 => fs::write(&path, &bytes[..bytes.len() / 2]).unwrap(),
                    1 => fs::write(&path, "").unwrap(),
                    2 => {
                        let third = bytes.len() / 3;
                        bytes[third..2 * third].iter_mut().for_each(|byte| *byte ^= 0x55);
                        fs::write(&path, bytes).unwrap();
                    }
                    3 => fs::remove_file(&path).unwrap(),
                    _ => {
                        fs::remove_file(&path).unwrap();
                        fs::create_dir(&path).unwrap();
                    }
                }
                let read = || -> Result<Option<Vec<(Bytes, Bytes)>>> {
                    let database = place.try_open()?;
                    let mut engine = database.open_store(TASK, "words", 1)?;
                    let rows = engine.range(&all()).collect::<Result<Vec<_>>>()?;
                    let mark = engine.mark()?;
                    assert!(engine.snapshot().range(&all()).map(Result::unwrap).eq(rows.iter().cloned()));
                    // What is written from now on wins over what is there.
                    let (first, last) = (0u32.to_be_bytes(), 1_999u32.to_be_bytes());
                    engine.apply(&run([(first, Some([8])), (last, Some([8]))]), Some(b"next"))?;
                    assert_eq!(engine.get(&first)?, Some(super::bytes([8])));
                    assert_eq!(engine.snapshot().get(&last)?, Some(super::bytes([8])));
                    assert_eq!(engine.mark()?, Some(super::bytes("next")));
                    Ok(mark.map(|_| rows))
                };
                match read() {
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Store, "{error:?}");
                        errors += 1;
                    }
                    // Its changelog is read from the beginning.
                    Ok(None) => {}
                    Ok(Some(rows)) => {
                        let whole =
                            rows.len() == 2_000 && rows.iter().all(|(_, value)| value[..] == [7; 100]);
                        assert!(whole, "{kind}: {} damage {damage}: {} rows", file.display(), rows.len());
                    }
                }
            }
        }
        assert!(errors >= found.len(), "{kind}: {errors} errors in {} files", found.len());
    }
}

#[test]
fn what_went_wrong_on_the_disk_comes_with_a_remedy() {
    use crate::store::engine::fault::io_failed;
    for (kind, says, class) in [
        (io::ErrorKind::StorageFull, "free space", ErrorClass::Fatal),
        (io::ErrorKind::QuotaExceeded, "free space", ErrorClass::Fatal),
        (io::ErrorKind::ReadOnlyFilesystem, "read-only", ErrorClass::Fatal),
        (io::ErrorKind::PermissionDenied, "may not write", ErrorClass::Fatal),
        (io::ErrorKind::UnexpectedEof, "delete the folder", ErrorClass::CorruptTask),
        (io::ErrorKind::Other, "see the cause", ErrorClass::Fatal),
    ] {
        let error = io_failed(Path::new("/state"), "write a store", kind.into());
        assert!(error.to_string().contains(says) && error.to_string().contains("/state"), "{error}");
        assert_eq!((error.kind(), error.class()), (ErrorKind::Store, class));
    }
}
