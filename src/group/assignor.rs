//! Gives every task to one instance. Runs on the group's leader; pure and deterministic.
//!
//! What it promises, in this order:
//! 1. A task is given to at most one instance, and never to one that runs another shape of its sub-topology: in a rolling
//!    deploy the tasks of a changed sub-topology go to the instances whose fingerprint is the leader's.
//! 2. A task that moves is given to nobody until its owner has given it up (cooperative, KIP-429): the owner joins again
//!    without it, and the next run places it.
//! 3. Loads are even, counted in tasks per worker: no instance could pass a task on and both be better off. Stateful
//!    tasks are evened out among themselves first, stateless ones fill up. (With mixed fingerprints this is the best that
//!    single moves reach.)
//! 4. Whatever need not move stays. A stateful task without an owner goes where most of its state is, a task that has to
//!    move goes where it has most to find.
//!
//! State goes before balance where it is large (KIP-441, `HighAvailabilityTaskAssignor`): as long as an instance has all
//! of a task's state but `acceptable.recovery.lag` records, and is so *caught up*, the task is given to no other. Whoever
//! runs a task is caught up with it; else the most that anybody has stands for all there is. Without warm-ups an instance
//! that is not caught up does not become so, so that checkpoints are not to be sent before there are warm-ups.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use uuid::Uuid;

use crate::TaskId;

/// A member of the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// The instance behind the member id; breaks ties, so that a restart changes nothing.
    pub(crate) instance: Uuid,
    /// The number of its workers: its weight. Without any it gets nothing.
    pub(crate) workers: u16,
    /// The active tasks it holds.
    pub(crate) owned: BTreeSet<TaskId>,
    /// The generation it got them in; of two claims to a task, the later is true.
    pub(crate) generation: i32,
    /// How much of each stateful task is on its disk: the sum of its stores' checkpoints.
    pub(crate) offset_sums: BTreeMap<TaskId, i64>,
    /// The sub-topologies it can run.
    pub(crate) fingerprints: BTreeMap<i32, u64>,
}

/// A sub-topology, as the leader knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SubTopology {
    /// Its number.
    pub(crate) id: i32,
    /// Its shape.
    pub(crate) fingerprint: u64,
    /// The topics it reads.
    pub(crate) topics: Vec<Arc<str>>,
    /// The number of its tasks: the most partitions that one of its source topics has.
    pub(crate) tasks: i32,
    /// Whether it has stores.
    pub(crate) stateful: bool,
}

/// The outcome.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Placement {
    /// The tasks of each member id; every member is there.
    pub(crate) active: BTreeMap<String, BTreeSet<TaskId>>,
    /// The tasks that nobody gets before their owner has given them up, and the member that is to have them next. Not
    /// empty means that another rebalance follows.
    pub(crate) moving: BTreeMap<TaskId, String>,
    /// The tasks that no instance can run.
    pub(crate) unassigned: BTreeSet<TaskId>,
}

/// Gives every task of `subtopologies` to one of `members`, which go by member id. `acceptable_lag` is how many records
/// of a task's changelogs an instance may lack and count as caught up.
pub(crate) fn assign(
    members: &BTreeMap<String, Candidate>,
    subtopologies: &[SubTopology],
    acceptable_lag: i64,
) -> Placement {
    let mut plan = Plan::new(members, acceptable_lag);
    for stateful in [true, false] {
        plan.place(subtopologies.iter().filter(|s| s.stateful == stateful));
    }
    plan.finish()
}

/// What one member has during the planning.
struct Slot<'a> {
    id: &'a String,
    member: &'a Candidate,
    /// All its tasks.
    tasks: BTreeSet<TaskId>,
    /// The number of its tasks of each sub-topology.
    of_subtopology: BTreeMap<i32, usize>,
}

impl Slot<'_> {
    fn weight(&self) -> usize {
        usize::from(self.member.workers).max(1)
    }

    fn state(&self, task: TaskId) -> i64 {
        self.member.offset_sums.get(&task).copied().unwrap_or(0)
    }

    fn add(&mut self, task: TaskId) {
        self.tasks.insert(task);
        *self.of_subtopology.entry(task.subtopology).or_default() += 1;
    }

    fn remove(&mut self, task: TaskId) {
        self.tasks.remove(&task);
        if let Some(count) = self.of_subtopology.get_mut(&task.subtopology) {
            *count -= 1;
        }
    }

    fn has_of(&self, subtopology: i32) -> usize {
        self.of_subtopology.get(&subtopology).copied().unwrap_or(0)
    }
}

/// The tasks that one member could give to another, by sub-topology, the best last: those that nobody owns first, then
/// those of which the other has more state.
#[derive(Default)]
struct Offer {
    by_subtopology: BTreeMap<i32, Vec<(bool, i64, TaskId)>>,
}

impl Offer {
    /// The best of those that are still there.
    fn best(&mut self, from: &Slot<'_>, to: &Slot<'_>) -> Option<TaskId> {
        for tasks in self.by_subtopology.values_mut() {
            while tasks.pop_if(|(_, _, task)| !from.tasks.contains(task)).is_some() {}
        }
        let heads = self.by_subtopology.iter().filter_map(|(id, tasks)| {
            let &(owned, loss, task) = tasks.last()?;
            Some((owned, loss, to.has_of(*id) as i64 - from.has_of(*id) as i64, task))
        });
        heads.min().map(|(.., task)| task)
    }
}

struct Plan<'a> {
    slots: Vec<Slot<'a>>,
    /// The slots whose members claim a task in the latest generation that anybody claims it in.
    owners: BTreeMap<TaskId, Vec<usize>>,
    unassigned: BTreeSet<TaskId>,
    acceptable_lag: i64,
    /// The most state that an instance has of a task which it can run, where any has some.
    most_state: BTreeMap<TaskId, i64>,
}

/// Which slots can run the tasks of a sub-topology.
type Eligible = BTreeMap<i32, Vec<bool>>;

impl<'a> Plan<'a> {
    fn new(members: &'a BTreeMap<String, Candidate>, acceptable_lag: i64) -> Self {
        let mut slots: Vec<Slot<'a>> = members
            .iter()
            .map(|(id, member)| Slot { id, member, tasks: BTreeSet::new(), of_subtopology: BTreeMap::new() })
            .collect();
        slots.sort_by_key(|slot| (slot.member.instance, slot.id));
        let mut owners: BTreeMap<TaskId, Vec<usize>> = BTreeMap::new();
        for (index, slot) in slots.iter().enumerate() {
            for task in &slot.member.owned {
                let claims = owners.entry(*task).or_default();
                let latest = claims.first().map_or(i32::MIN, |&other| slots[other].member.generation);
                if slot.member.generation > latest {
                    claims.clear();
                }
                if slot.member.generation >= latest {
                    claims.push(index);
                }
            }
        }
        let (unassigned, most_state) = (BTreeSet::new(), BTreeMap::new());
        Self { slots, owners, unassigned, acceptable_lag, most_state }
    }

    fn place<'s>(&mut self, subtopologies: impl Iterator<Item = &'s SubTopology>) {
        let mut free = Vec::new();
        let mut eligible: Eligible = BTreeMap::new();
        for subtopology in subtopologies {
            let able: Vec<bool> = self
                .slots
                .iter()
                .map(|slot| slot.member)
                .map(|m| {
                    m.workers > 0 && m.fingerprints.get(&subtopology.id) == Some(&subtopology.fingerprint)
                })
                .collect();
            let tasks = (0..subtopology.tasks).map(|partition| TaskId::new(subtopology.id, partition));
            if able.contains(&true) {
                for task in tasks {
                    match self.owners.get(&task).map(Vec::as_slice) {
                        Some(&[owner]) if able[owner] => self.slots[owner].add(task),
                        _ => free.push(task),
                    }
                }
            } else {
                self.unassigned.extend(tasks);
            }
            eligible.insert(subtopology.id, able);
        }
        for (index, slot) in self.slots.iter().enumerate() {
            for (task, state) in slot.member.offset_sums.iter().filter(|(_, state)| **state > 0) {
                if eligible.get(&task.subtopology).is_some_and(|able| able[index]) {
                    let most = self.most_state.entry(*task).or_default();
                    *most = (*most).max(*state);
                }
            }
        }
        let free = self.fill_caught_up(free, &eligible);
        self.fill(free, &eligible);
        self.even_out(&eligible);
    }

    /// Whether the slot, which can run the task, has all of its state that there is, but what it may lack.
    fn is_caught_up(&self, slot: usize, task: TaskId) -> bool {
        let Some(most) = self.most_state.get(&task) else { return true };
        most - self.slots[slot].state(task) <= self.acceptable_lag || self.owns(slot, task)
    }

    /// Gives those tasks away that only some members are caught up with, each to the least loaded of these. Returns the
    /// other tasks.
    fn fill_caught_up(&mut self, free: Vec<TaskId>, eligible: &Eligible) -> Vec<TaskId> {
        let mut anybodys = Vec::with_capacity(free.len());
        for task in free {
            if !self.most_state.contains_key(&task) {
                anybodys.push(task);
                continue;
            }
            let able = (0..self.slots.len()).filter(|&slot| eligible[&task.subtopology][slot]);
            let (caught_up, behind): (Vec<usize>, Vec<usize>) =
                able.partition(|&slot| self.is_caught_up(slot, task));
            let least = caught_up.into_iter().min_by(|&a, &b| {
                let more_state = self.slots[b].state(task).cmp(&self.slots[a].state(task));
                self.compare_next(a, b).then(more_state).then(a.cmp(&b))
            });
            match least {
                Some(slot) if !behind.is_empty() => self.slots[slot].add(task),
                _ => anybodys.push(task),
            }
        }
        anybodys
    }

    /// Gives the tasks without an owner away, each to a member that is least loaded at that point: only so the members
    /// that were to get them when their old owner had to give them up get them now, and nothing wanders for ever.
    fn fill(&mut self, free: Vec<TaskId>, eligible: &Eligible) {
        let can = |slot: usize, task: TaskId| eligible[&task.subtopology][slot];
        let mut left: BTreeSet<TaskId> = free.iter().copied().collect();
        // For each member the free tasks that it has state of, most state last.
        let mut known: Vec<Vec<TaskId>> = Vec::with_capacity(self.slots.len());
        for (index, slot) in self.slots.iter().enumerate() {
            let with_state = slot.member.offset_sums.iter().filter(|(_, state)| **state > 0);
            let mut tasks: Vec<TaskId> = with_state
                .map(|(&task, _)| task)
                .filter(|task| left.contains(task) && can(index, *task))
                .collect();
            tasks.sort_by_key(|&task| (slot.state(task), Reverse(task)));
            known.push(tasks);
        }
        // For each sub-topology its free tasks, the one that leaves least behind last.
        let mut by_loss: BTreeMap<i32, Vec<(i64, TaskId)>> = BTreeMap::new();
        for task in free {
            let loss = self.most_state.get(&task).copied().unwrap_or(0);
            by_loss.entry(task.subtopology).or_default().push((loss, task));
        }
        by_loss.values_mut().for_each(|tasks| tasks.sort_unstable_by_key(|&loss| Reverse(loss)));

        while !left.is_empty() {
            for tasks in by_loss.values_mut() {
                while tasks.pop_if(|(_, task)| !left.contains(task)).is_some() {}
            }
            by_loss.retain(|_, tasks| !tasks.is_empty());
            // Among the members that one of the tasks can go to, those that would have the least load with it.
            let is_open = |slot: &usize| by_loss.keys().any(|id| eligible[id][*slot]);
            let open: Vec<usize> = (0..self.slots.len()).filter(is_open).collect();
            let Some(&first) = open.iter().min_by(|&&a, &&b| self.compare_next(a, b)) else { break };
            let least: Vec<usize> =
                open.into_iter().filter(|&slot| self.compare_next(slot, first).is_eq()).collect();
            for &slot in &least {
                while known[slot].pop_if(|task| !left.contains(task)).is_some() {}
            }
            let most_state = least
                .iter()
                .filter_map(|&slot| known[slot].last().map(|&task| (slot, task)))
                .min_by_key(|&(slot, task)| (-self.slots[slot].state(task), task, slot));
            // Without any state: the task that leaves least behind elsewhere, to the member with fewest of its kind.
            let least_loss = || {
                let heads = by_loss.iter().filter_map(|(id, tasks)| Some((*tasks.last()?, id)));
                let fits = heads.filter(|(_, id)| least.iter().any(|&slot| eligible[id][slot]));
                let ((_, task), id) = fits.min()?;
                let able = least.iter().copied().filter(|&slot| eligible[id][slot]);
                able.min_by_key(|&slot| (self.slots[slot].has_of(*id), slot)).map(|slot| (slot, task))
            };
            let Some((slot, task)) = most_state.or_else(least_loss) else { break };
            left.remove(&task);
            self.slots[slot].add(task);
        }
        self.unassigned.extend(left);
    }

    /// Moves tasks one by one from the more to the less loaded, as long as that makes a pair of members more even.
    fn even_out(&mut self, eligible: &Eligible) {
        let mut order: Vec<usize> = (0..self.slots.len()).collect();
        // What one could give to the other, as long as it gets nothing itself.
        let mut offers: BTreeMap<(usize, usize), Offer> = BTreeMap::new();
        'again: loop {
            order.sort_by(|&a, &b| self.compare_load(b, a).then(a.cmp(&b)));
            for &from in &order {
                for &to in order.iter().rev() {
                    if !self.is_better(from, to) {
                        continue;
                    }
                    let offer = offers.entry((from, to)).or_insert_with(|| self.offer(from, to, eligible));
                    if let Some(task) = offer.best(&self.slots[from], &self.slots[to]) {
                        self.slots[from].remove(task);
                        self.slots[to].add(task);
                        offers.retain(|(from, _), _| *from != to);
                        continue 'again;
                    }
                }
            }
            return;
        }
    }

    fn offer(&self, from: usize, to: usize, eligible: &Eligible) -> Offer {
        let mut offer = Offer::default();
        for &task in &self.slots[from].tasks {
            let able = eligible.get(&task.subtopology).is_some_and(|able| able[to]);
            if able && self.is_caught_up(to, task) {
                let gain = self.slots[to].state(task) - self.slots[from].state(task);
                let rank = (self.owns(from, task), -gain, task);
                offer.by_subtopology.entry(task.subtopology).or_default().push(rank);
            }
        }
        offer.by_subtopology.values_mut().for_each(|tasks| tasks.sort_unstable_by_key(|&rank| Reverse(rank)));
        offer
    }

    fn finish(self) -> Placement {
        let mut placement = Placement { unassigned: self.unassigned, ..Placement::default() };
        for (index, slot) in self.slots.iter().enumerate() {
            let mut active = BTreeSet::new();
            for &task in &slot.tasks {
                match self.owners.get(&task).map(Vec::as_slice) {
                    None => _ = active.insert(task),
                    Some(&[owner]) if owner == index => _ = active.insert(task),
                    // Two that claim it in one generation cannot both be right: both give it up.
                    Some(_) => _ = placement.moving.insert(task, slot.id.clone()),
                }
            }
            placement.active.insert(slot.id.clone(), active);
        }
        placement
    }

    fn owns(&self, slot: usize, task: TaskId) -> bool {
        self.owners.get(&task).is_some_and(|owners| owners.contains(&slot))
    }

    fn compare_load(&self, a: usize, b: usize) -> Ordering {
        let (a, b) = (&self.slots[a], &self.slots[b]);
        (a.tasks.len() * b.weight()).cmp(&(b.tasks.len() * a.weight()))
    }

    /// Compares the loads that two members would have with one more task.
    fn compare_next(&self, a: usize, b: usize) -> Ordering {
        let (a, b) = (&self.slots[a], &self.slots[b]);
        ((a.tasks.len() + 1) * b.weight()).cmp(&((b.tasks.len() + 1) * a.weight()))
    }

    /// Whether `to` with one more task is still less loaded than `from` is now.
    fn is_better(&self, from: usize, to: usize) -> bool {
        let (from, to) = (&self.slots[from], &self.slots[to]);
        (to.tasks.len() + 1) * from.weight() < from.tasks.len() * to.weight()
    }
}

#[cfg(test)]
mod tests;
