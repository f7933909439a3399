//! What is on disk, held against the changelogs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use bytes::Bytes;
use mainstem::client::LogRecord;
use mainstem::config::StateEngine;
use mainstem::testing::{StoreOnDisk, stores_on_disk};

use crate::support::Rig;

/// Where the checkpoints of stores are, by name and partition; `None` before the first.
pub type Marks = BTreeMap<(String, i32), Option<i64>>;

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), &to).unwrap();
        }
    }
}

/// All stores in an instance's folder, which is left as it is.
pub fn on_disk(engine: &str, slot: &Path) -> Vec<StoreOnDisk> {
    if !slot.join("state").join(engine).join("engine.json").exists() {
        return Vec::new();
    }
    let image = tempfile::tempdir().unwrap();
    copy(slot, image.path());
    let engine = if engine == "sled" { StateEngine::Sled } else { StateEngine::Fjall };
    stores_on_disk(engine, image.path()).unwrap()
}

/// Everything committed of a changelog.
pub async fn changelog(rig: &Rig, store: &str) -> Vec<LogRecord> {
    let topic = format!("{}-{store}-changelog", rig.app_id);
    rig.read_committed(&topic).await
}

/// The row that a record of a changelog makes; those of `last` have no timestamps.
fn row(store: &str, record: &LogRecord) -> Option<Bytes> {
    let value = record.value.as_ref()?;
    let plain = store.starts_with("last");
    Some(if plain { value.clone() } else { [&record.timestamp.to_be_bytes(), &value[..]].concat().into() })
}

/// What records add up to.
pub fn fold<'a>(store: &str, records: impl IntoIterator<Item = &'a LogRecord>) -> BTreeMap<Bytes, Bytes> {
    let mut rows = BTreeMap::new();
    for record in records {
        let key = record.key.clone().unwrap();
        match row(store, record) {
            Some(value) => rows.insert(key, value),
            None => rows.remove(&key),
        };
    }
    rows
}

/// Whether what a process left is what its changelogs say up to the checkpoints, which are returned. On sled a part of the
/// next run may be there besides: rows that the changelog has further on.
pub async fn is_sound(rig: &Rig, engine: &str, slot: &Path) -> Marks {
    let mut marks = Marks::new();
    let mut logs = BTreeMap::new();
    for found in on_disk(engine, slot) {
        let StoreOnDisk { task, store, rows, mark } = found;
        if !logs.contains_key(&store) {
            logs.insert(store.clone(), changelog(rig, &store).await);
        }
        let of_task = || logs[&store].iter().filter(|record| record.partition == task.partition);
        let next = mark.as_ref().map_or(0, |(_, next)| *next);
        let end = of_task().last().map_or(0, |record| record.offset + 1);
        let who = format!("{store} of {task} on {engine}, up to {next} of {end}");
        assert!(next <= end, "{who}: it claims more than there is");
        let expected = fold(&store, of_task().filter(|record| record.offset < next));
        let rows: BTreeMap<Bytes, Bytes> = rows.into_iter().collect();
        if engine == "sled" {
            let later: BTreeSet<(Bytes, Option<Bytes>)> = of_task()
                .filter(|record| record.offset >= next)
                .map(|record| (record.key.clone().unwrap(), row(&store, record)))
                .collect();
            for key in rows.keys().chain(expected.keys()) {
                let (there, before) = (rows.get(key), expected.get(key));
                let sound = there == before || later.contains(&(key.clone(), there.cloned()));
                assert!(sound, "{who}: {key:?} is {there:?} and should be {before:?}");
            }
        } else {
            assert!(
                rows == expected,
                "{who}: {} rows, not {}: {:?}",
                rows.len(),
                expected.len(),
                rows.iter().find(|(key, value)| expected.get(*key) != Some(value))
            );
        }
        marks.insert((store, task.partition), mark.map(|(_, next)| next));
    }
    marks
}
