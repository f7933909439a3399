//! The stores of a task without its surroundings, for reading.

use std::sync::Arc;

use crate::config::IsolationLevel;
use crate::error::Result;
use crate::query::{
    Asked, LocalStores, Phase, ReadOnlyKeyValueStore, ReadOnlySessionStore, ReadOnlyWindowStore, Registered,
};
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
        self.asked(name).key_value_store(self.known(), needs_timestamps, row)
    }

    pub(super) fn window_store<K: Clone + 'static, V: 'static>(
        &self,
        name: &str,
    ) -> Result<ReadOnlyWindowStore<K, V>> {
        self.asked(name).window_store(self.known(), false, |(value, _)| value)
    }

    pub(super) fn session_store<K: Clone + 'static, V: 'static>(
        &self,
        name: &str,
    ) -> Result<ReadOnlySessionStore<K, V>> {
        self.asked(name).session_store(self.known())
    }

    fn asked<'a>(&'a self, name: &'a str) -> Asked<'a> {
        let level = IsolationLevel::ReadUncommitted;
        Asked { stores: &self.local, application_id: &self.application_id, name, level }
    }

    fn known(&self) -> impl Iterator<Item = (i32, &Arc<dyn StoreBlueprint>)> + Clone {
        self.stores.iter().map(|(subtopology, store)| (*subtopology, store))
    }
}
