//! Which node coordinates what: groups and transactional ids fall into slots, and each slot has a node.

use std::time::Instant;

use kafka_protocol::error::ResponseError;

/// How many slots the keys of coordinators fall into: the partitions of `__consumer_offsets` and `__transaction_state`.
const SLOTS: usize = 50;

/// What a coordinator looks after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CoordinatorKind {
    Group,
    Transaction,
}

/// Who coordinates the keys of a slot.
#[derive(Debug, Clone, Copy, Default)]
struct Home {
    /// None while no node is up.
    node: Option<i32>,
    /// Until then it reads its log and answers COORDINATOR_LOAD_IN_PROGRESS.
    loading: Option<Instant>,
}

/// The coordinators of all groups and transactional ids.
#[derive(Debug)]
pub(crate) struct Coordinators([Vec<Home>; 2]);

/// Where a key is looked after: Java's `String.hashCode`, and `Utils.abs(hash) % partitions`.
pub(crate) fn slot(key: &str) -> usize {
    let hash =
        key.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    usize::try_from(hash.checked_abs().unwrap_or(0)).unwrap_or(0) % SLOTS
}

impl Coordinators {
    /// The slots are dealt out to these nodes.
    pub(crate) fn new(nodes: &[i32]) -> Self {
        let of = |node: &i32| Home { node: Some(*node), loading: None };
        let slots: Vec<Home> = nodes.iter().cycle().take(SLOTS).map(of).collect();
        Self([slots.clone(), slots])
    }

    fn home(&self, kind: CoordinatorKind, key: &str) -> Home {
        self.0[kind as usize].get(slot(key)).copied().unwrap_or_default()
    }

    /// The node that coordinates `key`, if there is one.
    pub(crate) fn node(&self, kind: CoordinatorKind, key: &str) -> Option<i32> {
        self.home(kind, key).node
    }

    /// Refuses with NOT_COORDINATOR unless `node` coordinates `key`, and while it is not ready to.
    pub(crate) fn check(&self, node: i32, kind: CoordinatorKind, key: &str) -> Result<(), ResponseError> {
        let home = self.home(kind, key);
        match home.loading {
            _ if home.node != Some(node) => Err(ResponseError::NotCoordinator),
            Some(_) => Err(ResponseError::CoordinatorLoadInProgress),
            None => Ok(()),
        }
    }

    /// Gives a slot to a node, which is ready at that time; `None` is at once.
    pub(crate) fn assign(
        &mut self,
        kind: CoordinatorKind,
        slot: usize,
        node: Option<i32>,
        loading: Option<Instant>,
    ) {
        self.0[kind as usize][slot] = Home { node, loading };
    }

    /// The slots of a node, or those that have none.
    pub(crate) fn slots_of(&self, kind: CoordinatorKind, node: Option<i32>) -> Vec<usize> {
        let slots = self.0[kind as usize].iter().enumerate();
        slots.filter(|(_, home)| home.node == node).map(|(slot, _)| slot).collect()
    }

    /// Lets those serve that have been loading long enough.
    pub(crate) fn tick(&mut self, now: Instant) {
        for home in self.0.iter_mut().flatten() {
            home.loading = home.loading.filter(|until| *until > now);
        }
    }

    /// When the next is ready.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.0.iter().flatten().filter_map(|home| home.loading).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_the_slot_that_kafka_gives_it() {
        // `Utils.abs("...".hashCode()) % 50`
        assert_eq!((slot(""), slot("a"), slot("mainstem"), slot("word-count")), (0, 47, 22, 0));
    }
}
