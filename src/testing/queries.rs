//! The stores of a task without its surroundings, for reading.

use std::sync::Arc;

use crate::config::IsolationLevel;
use crate::error::Result;
use crate::query::{Asked, LocalStores, Phase, ReadOnlyKeyValueStore, Registered};
use crate::record::Timestamp;
use crate::store::StoreBlueprint;
use crate::task::Task;
use crate::task::blueprint::Plan;
use crate::task_id::TaskId;

pub(super) struct Queries {
    local: Arc<LocalStores>,
    application_id: Arc<str>,
    stores: Vec<(i32, Arc<dyn StoreBlueprint>)>,
    _registered: Registered,
}

impl Queries {
    pub(super) fn of(task: &Task, id: TaskId, plan: &Plan, application_id: &Arc<str>) -> Self {
        let local = Arc::new(LocalStores::new(|| ()));
        local.set_phase(Phase::Started);
        local.set_placed(true, std::iter::once((id, Some(0))));
        Self {
            _registered: local.enter(id, 0, task.stores()),
            local,
            application_id: application_id.clone(),
            stores: plan.stores.iter().map(|store| (id.subtopology, store.clone())).collect(),
        }
    }

    pub(super) fn key_value_store<K: 'static, V: 'static, T>(
        &self,
        name: &str,
        needs_timestamps: bool,
        row: fn((V, Timestamp)) -> T,
    ) -> Result<ReadOnlyKeyValueStore<K, V, T>> {
        let level = IsolationLevel::ReadUncommitted;
        let asked = Asked { stores: &self.local, application_id: &self.application_id, name, level };
        let known = self.stores.iter().map(|(subtopology, store)| (*subtopology, store));
        asked.key_value_store(known, needs_timestamps, row)
    }
}
