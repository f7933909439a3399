//! What lies in the folder of an instance that does not run: for tests that end processes. No part of the API.

use std::path::Path;

use bytes::Bytes;

use crate::changelog::checkpoint::Checkpoint;
use crate::config::StateEngine;
use crate::error::{Error, ErrorKind, Result};
use crate::record::TopicPartition;
use crate::store::database::{Database, EngineKind};
use crate::store::engine::KeyRange;
use crate::task_id::TaskId;

/// A store on disk.
#[derive(Debug, Clone)]
pub struct StoreOnDisk {
    /// The task that it belongs to.
    pub task: TaskId,
    /// Its name.
    pub store: String,
    /// The rows in key order, as bytes: timestamped stores have eight bytes of timestamp, big-endian, before the value.
    pub rows: Vec<(Bytes, Bytes)>,
    /// The changelog, and the offset up to which it is in the rows; `None` if nothing was ever handed over.
    pub mark: Option<(TopicPartition, i64)>,
}

/// Reads all stores in an instance's folder (`<state.dir>/<application.id>/<slot>`). Opening writes, as engines do: give it a
/// copy.
///
/// # Errors
/// [`ErrorKind::Store`] if the folder, a store or a mark cannot be read.
pub fn stores_on_disk(engine: StateEngine, slot: &Path) -> Result<Vec<StoreOnDisk>> {
    let kind = EngineKind::from(engine);
    let database = Database::open(kind, &kind.folder(slot), 8 << 20)?;
    let mut found = Vec::new();
    for stored in database.stores()? {
        let opened = database.open_store(stored.task, &stored.store, 1)?;
        let rows = opened.range(&KeyRange::ALL).collect::<Result<Vec<_>>>()?;
        let mark = stored.mark.map(|mark| Checkpoint::decode(&mark)).transpose().map_err(|reason| {
            let text = format!("the mark of store {}: {}", stored.store, reason.label());
            Error::new(ErrorKind::Store, text)
        })?;
        let mark = mark.map(|mark| (mark.origin.at, mark.next_offset));
        found.push(StoreOnDisk { task: stored.task, store: stored.store, rows, mark });
    }
    Ok(found)
}
