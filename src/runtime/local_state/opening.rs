//! Opens an instance's database, and mends it where it is damaged.

use std::path::Path;

use crate::config::{Config, StoreKind};
use crate::error::Result;
use crate::runtime::app::AppShared;
use crate::runtime::memory::StateMemory;
use crate::store::StoreBlueprint;
use crate::store::database::mend::{Mend, Mended, is_suspect};
use crate::store::database::{Database, EngineKind, NamedStore};
use crate::topology::{Subtopology, Topology};
use std::sync::Arc;

use super::is_damaged;

pub(super) fn needs_disk(config: &Config, topology: &Topology) -> bool {
    stores(topology).any(|store| is_on_disk(config, &**store))
}

pub(super) fn is_on_disk(config: &Config, store: &dyn StoreBlueprint) -> bool {
    store.store_kind().unwrap_or(config.default_store()) == StoreKind::Persistent
}

fn stores(topology: &Topology) -> impl Iterator<Item = &Arc<dyn StoreBlueprint>> {
    topology.inner.subtopologies.iter().flat_map(|part| part.stores())
}

/// The store of the topology, if it has one of the name and keeps it on disk.
pub(super) fn named<'a>(shared: &'a AppShared, named: &NamedStore) -> Option<&'a Arc<dyn StoreBlueprint>> {
    let of_task = |part: &&Subtopology| part.id == named.task.subtopology;
    let parts = shared.topology.inner.subtopologies.iter().filter(of_task);
    let mut stores = parts.flat_map(|part| part.stores());
    stores.find(|store| **store.name() == *named.store && is_on_disk(&shared.config, &***store))
}

pub(super) fn open(shared: &AppShared, slot: &Path) -> Result<Database> {
    let kind = EngineKind::from(shared.config.state_engine());
    let folder = kind.folder(slot);
    let cache = u64::try_from(StateMemory::of(&shared.config).engines).unwrap_or(u64::MAX);
    let is_unlogged =
        |store: &Arc<dyn StoreBlueprint>| store.changelog().is_none() && is_on_disk(&shared.config, &**store);
    let mend = Mend {
        kind,
        folder: &folder,
        is_logged: &|store| named(shared, store).is_some_and(|store| store.changelog().is_some()),
        may_hold_unlogged: stores(&shared.topology).any(is_unlogged),
        now: shared.clock.wall_ms(),
    };
    if is_suspect(&folder) {
        tracing::warn!(folder = %folder.display(), "the engine has stopped the last time: every row is read, which may take a while");
        told(shared, &folder, &mend.stores()?);
    }
    let error = match Database::open(kind, &folder, cache) {
        Err(error) if is_damaged(&error) => error,
        opened => return opened,
    };
    tracing::warn!(folder = %folder.display(), ?error, "the local state is damaged");
    let mended = mend.stores()?;
    told(shared, &folder, &mended);
    if !mended.stores.is_empty() {
        match Database::open(kind, &folder, cache) {
            Err(error) if is_damaged(&error) => {}
            opened => return opened,
        }
    }
    told(shared, &folder, &mend.whole()?);
    Database::open(kind, &folder, cache)
}

/// Says what a mending has cost.
fn told(shared: &AppShared, folder: &Path, mended: &Mended) {
    let Mended { stores, whole, kept } = mended;
    if *whole {
        shared.figures().state_wiped("damaged");
    }
    for NamedStore { task, store, changelog, .. } in stores {
        if !whole {
            shared.figures().state_wiped("damaged");
        }
        match changelog {
            Some(false) => {
                tracing::error!(%task, %store, "damaged, and nothing else has its rows, because it has no changelog: it begins empty")
            }
            _ => tracing::warn!(%task, %store, "damaged: it is deleted, and restored from its changelog"),
        }
    }
    if let Some(kept) = kept {
        tracing::error!(
            folder = %folder.display(), kept = %kept.display(),
            "what is damaged was moved aside, because stores without a changelog are in it; delete it when nobody needs it any more"
        );
    }
}
