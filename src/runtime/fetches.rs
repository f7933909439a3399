//! Who fetches what. Workers share a fetcher, and a worker that was fenced or left behind may wake up at any time and go
//! on where it was: it must neither stop nor take over what is fetched for the task's owner after it.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::workers::WorkerId;
use crate::changelog::restore::Source;
use crate::client::fetch::Fetcher;
use crate::record::TopicPartition;

/// A fetcher that all workers share. Its lock is taken an assignment, not a record.
pub(super) struct SharedFetcher {
    fetcher: Fetcher,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    by: HashMap<TopicPartition, Holder>,
    workers: HashSet<WorkerId>,
}

#[derive(Debug)]
struct Holder {
    token: u64,
    /// The epoch of the lease.
    epoch: u64,
}

impl Held {
    /// Whether the partition is this worker's from now on.
    fn assign(&mut self, at: &TopicPartition, token: u64, epoch: u64) -> bool {
        let welcome = WorkerId::of_token(token).is_some_and(|worker| self.workers.contains(&worker));
        if !welcome || self.by.get(at).is_some_and(|holder| holder.epoch > epoch) {
            return false;
        }
        self.by.insert(at.clone(), Holder { token, epoch });
        true
    }

    /// Whether it was this token's.
    fn revoke(&mut self, at: &TopicPartition, token: u64) -> bool {
        let its = self.by.get(at).is_some_and(|holder| holder.token == token);
        if its {
            self.by.remove(at);
        }
        its
    }

    /// What the worker held.
    fn dismiss(&mut self, worker: WorkerId) -> Vec<TopicPartition> {
        self.workers.remove(&worker);
        let its = |holder: &mut Holder| WorkerId::of_token(holder.token) == Some(worker);
        self.by.extract_if(|_, holder| its(holder)).map(|(at, _)| at).collect()
    }
}

impl SharedFetcher {
    pub(super) fn new(fetcher: Fetcher) -> Self {
        Self { fetcher, held: Mutex::default() }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the worker may ask for partitions.
    pub(super) fn welcome(&self, worker: WorkerId) {
        self.held().workers.insert(worker);
    }

    /// The worker is left behind: nothing is fetched for it any more, whatever it asks for.
    pub(super) fn dismiss(&self, worker: WorkerId) {
        // ORDER: under the lock, as all that is told to the fetcher: the last word is of who holds the partition last.
        let mut held = self.held();
        for at in held.dismiss(worker) {
            self.fetcher.revoke(at);
        }
    }

    /// Fetches a partition for the holder of a lease, unless somebody has it by a newer one. Says whether it does.
    pub(super) fn assign(&self, at: TopicPartition, offset: i64, token: u64, epoch: u64) -> bool {
        let mut held = self.held();
        let assigned = held.assign(&at, token, epoch);
        if assigned {
            self.fetcher.assign(at, offset, token);
        }
        assigned
    }

    /// Stops fetching, if it is this token's partition.
    pub(super) fn revoke(&self, at: TopicPartition, token: u64) {
        let mut held = self.held();
        if held.revoke(&at, token) {
            self.fetcher.revoke(at);
        }
    }

    /// Leaves it out, or takes it in again, if it is this token's partition.
    pub(super) fn pause(&self, at: TopicPartition, token: u64, paused: bool) {
        let held = self.held();
        if held.by.get(&at).is_some_and(|holder| holder.token == token) {
            if paused { self.fetcher.pause(at) } else { self.fetcher.resume(at) }
        }
    }

    /// The bytes that were delivered and are not worked off.
    pub(super) fn outstanding(&self) -> usize {
        self.fetcher.outstanding()
    }

    /// How often partitions were left out for want of memory.
    pub(super) fn pauses(&self) -> u64 {
        self.fetcher.pauses()
    }
}

/// Restores are fetched under the same rule.
impl Source for SharedFetcher {
    fn assign(&self, at: TopicPartition, offset: i64, token: u64, epoch: u64) -> bool {
        self.assign(at, offset, token, epoch)
    }

    fn revoke(&self, at: TopicPartition, token: u64) {
        self.revoke(at, token);
    }

    fn pause(&self, at: TopicPartition, token: u64, paused: bool) {
        self.pause(at, token, paused);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held() -> (Held, [WorkerId; 2], TopicPartition) {
        let workers = [WorkerId::of(1), WorkerId::of(2)];
        let held = Held { workers: workers.into(), ..Held::default() };
        (held, workers, TopicPartition::new("t", 0))
    }

    #[test]
    fn who_wakes_up_with_an_old_lease_takes_nothing_from_the_new_owner() {
        let (mut held, [old, new], at) = held();
        assert!(held.assign(&at, old.token(1), 1));
        assert!(held.assign(&at, new.token(1), 2));
        assert!(!held.revoke(&at, old.token(1)));
        assert!(!held.assign(&at, old.token(2), 1));
        assert!(held.assign(&at, new.token(2), 2), "its owner may go on elsewhere");
        assert!(held.revoke(&at, new.token(2)));
        assert!(held.assign(&at, old.token(3), 3), "and it may come back");
    }

    #[test]
    fn who_is_left_behind_gets_nothing_any_more() {
        let (mut held, [old, new], at) = held();
        let other = TopicPartition::new("t", 1);
        assert!(held.assign(&at, old.token(1), 1));
        assert!(held.assign(&other, new.token(1), 1));
        assert_eq!(held.dismiss(old), std::slice::from_ref(&at));
        assert!(!held.assign(&at, old.token(2), 9));
        assert!(!held.revoke(&at, old.token(1)));
        assert!(held.assign(&at, new.token(2), 1), "the same tenure on another worker");
    }
}
