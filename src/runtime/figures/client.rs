//! The figures of the application as a whole.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Counter, Gauge, Histogram, Registry, Scope, describe, table};
use crate::task::errors::DropReason;

/// The figures of the application as a whole. They are touched at rebalances, commits and changes of state, so that a lock
/// is no matter.
#[derive(Debug)]
pub(in crate::runtime) struct ClientFigures(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    scope: Scope,
    state: Gauge,
    workers: Gauge,
    failures: Counter,
    rebalances: Counter,
    rebalance: Histogram,
    tasks_lost: Counter,
    dropped: HashMap<(String, DropReason), Counter>,
    state_wiped: HashMap<&'static str, Counter>,
    memory: HashMap<&'static str, (Gauge, Gauge)>,
    memory_most: Gauge,
    memory_budget: Gauge,
    memory_actions: HashMap<&'static str, Counter>,
}

impl ClientFigures {
    pub(in crate::runtime) fn new(registry: &Arc<Registry>) -> Self {
        describe();
        let mut scope = Scope::new(registry, Vec::new());
        // An application that has ended has ended, also when nobody holds it any more.
        scope.zeroed = false;
        scope.gauge(&table::CLIENT_INFO, &[("version", env!("CARGO_PKG_VERSION"))]).set(1.0);
        Self(Mutex::new(Inner {
            state: scope.gauge(&table::CLIENT_STATE, &[]),
            workers: scope.gauge(&table::CLIENT_WORKERS, &[]),
            failures: scope.counter(&table::CLIENT_FAILURES, &[]),
            rebalances: scope.counter(&table::CLIENT_REBALANCES, &[]),
            rebalance: scope.histogram(&table::CLIENT_REBALANCE, &[]),
            tasks_lost: scope.counter(&table::CLIENT_TASKS_LOST, &[]),
            dropped: HashMap::new(),
            state_wiped: HashMap::new(),
            memory: HashMap::new(),
            memory_most: scope.gauge(&table::MEMORY_MOST, &[]),
            memory_budget: scope.gauge(&table::MEMORY_BUDGET, &[]),
            memory_actions: HashMap::new(),
            scope,
        }))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::runtime) fn state(&self, ordinal: u8) {
        self.inner().state.set(f64::from(ordinal));
    }

    pub(in crate::runtime) fn workers(&self, alive: usize) {
        self.inner().workers.count(alive as u64);
    }

    pub(in crate::runtime) fn failed(&self) {
        self.inner().failures.add(1);
    }

    pub(in crate::runtime) fn rebalanced(&self, took: Duration) {
        let inner = &mut *self.inner();
        inner.rebalances.add(1);
        inner.rebalance.took(took);
    }

    pub(in crate::runtime) fn tasks_lost(&self, count: usize) {
        self.inner().tasks_lost.add(count as u64);
    }

    pub(in crate::runtime) fn state_wiped(&self, reason: &'static str) {
        let Inner { state_wiped, scope, .. } = &mut *self.inner();
        let counter = state_wiped
            .entry(reason)
            .or_insert_with(|| scope.counter(&table::STATE_WIPED, &[("reason", reason)]));
        counter.add(1);
    }

    /// What the shares of the memory take, and may take; the most that all have taken, and the budget; how often something
    /// was done for it.
    pub(in crate::runtime) fn memory(
        &self,
        held: impl IntoIterator<Item = (&'static str, usize)>,
        limits: impl IntoIterator<Item = (&'static str, usize)>,
        (most, budget): (usize, usize),
        actions: impl IntoIterator<Item = (&'static str, u64)>,
    ) {
        let Inner { scope, memory, memory_most, memory_budget, memory_actions, .. } = &mut *self.inner();
        for ((share, held), (_, limit)) in held.into_iter().zip(limits) {
            let label = [("share", share)];
            let (now, most) = memory.entry(share).or_insert_with(|| {
                (scope.gauge(&table::MEMORY_HELD, &label), scope.gauge(&table::MEMORY_LIMIT, &label))
            });
            now.count(held as u64);
            most.count(limit as u64);
        }
        memory_most.count(most as u64);
        memory_budget.count(budget as u64);
        for (action, times) in actions {
            let make = || scope.counter(&table::MEMORY_ACTIONS, &[("action", action)]);
            memory_actions.entry(action).or_insert_with(make).follow(times);
        }
    }

    pub(in crate::runtime) fn dropped(&self, node: &str, reason: DropReason, count: u64) {
        let Inner { dropped, scope, .. } = &mut *self.inner();
        let counter = dropped.entry((node.to_owned(), reason)).or_insert_with(|| {
            scope.counter(&table::DROPPED, &[("node", node), ("reason", &reason.to_string())])
        });
        counter.add(count);
    }
}
