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
    /// The number of its workers: its weight. Zero counts as one.
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

/// Gives every task of `subtopologies` to one of `members`, which go by member id.
pub(crate) fn assign(members: &BTreeMap<String, Candidate>, subtopologies: &[SubTopology]) -> Placement {
    let mut plan = Plan::new(members);
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

struct Plan<'a> {
    slots: Vec<Slot<'a>>,
    /// The slots whose members claim a task in the latest generation that anybody claims it in.
    owners: BTreeMap<TaskId, Vec<usize>>,
    unassigned: BTreeSet<TaskId>,
}

impl<'a> Plan<'a> {
    fn new(members: &'a BTreeMap<String, Candidate>) -> Self {
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
        Self { slots, owners, unassigned: BTreeSet::new() }
    }

    fn place<'s>(&mut self, subtopologies: impl Iterator<Item = &'s SubTopology>) {
        let mut free = Vec::new();
        let mut movable = BTreeMap::new();
        for subtopology in subtopologies {
            let eligible: Vec<bool> = self
                .slots
                .iter()
                .map(|slot| slot.member.fingerprints.get(&subtopology.id) == Some(&subtopology.fingerprint))
                .collect();
            for partition in 0..subtopology.tasks {
                let task = TaskId::new(subtopology.id, partition);
                match self.owners.get(&task).map(Vec::as_slice) {
                    _ if !eligible.contains(&true) => {
                        self.unassigned.insert(task);
                    }
                    Some(&[owner]) if eligible[owner] => self.slots[owner].add(task),
                    _ => free.push(task),
                }
            }
            movable.insert(subtopology.id, eligible);
        }
        self.fill(free, &movable);
        self.even_out(&movable);
    }

    /// Gives the tasks without an owner away, each to a member that is least loaded at that point: only so the members
    /// that were to get them when their old owner had to give them up get them now, and nothing wanders for ever.
    fn fill(&mut self, free: Vec<TaskId>, eligible: &BTreeMap<i32, Vec<bool>>) {
        let can = |slot: usize, task: TaskId| eligible[&task.subtopology][slot];
        let mut left: BTreeSet<TaskId> = free.iter().copied().collect();
        let mut left_of: BTreeMap<i32, usize> = BTreeMap::new();
        for task in &free {
            *left_of.entry(task.subtopology).or_default() += 1;
        }
        // For each member the free tasks that it has state of, most state last.
        let mut known: Vec<Vec<TaskId>> = Vec::with_capacity(self.slots.len());
        for (index, slot) in self.slots.iter().enumerate() {
            let mut tasks: Vec<TaskId> =
                free.iter().copied().filter(|&task| slot.state(task) > 0 && can(index, task)).collect();
            tasks.sort_by_key(|&task| (slot.state(task), Reverse(task)));
            known.push(tasks);
        }
        let mut by_loss: Vec<(i64, TaskId)> = free
            .iter()
            .map(|&task| (self.slots.iter().map(|s| s.state(task)).max().unwrap_or(0), task))
            .collect();
        by_loss.sort_unstable();

        while !left.is_empty() {
            // Among the members that one of the tasks can go to, those that would have the least load with it.
            let is_open = |slot: &usize| left_of.iter().any(|(id, count)| *count > 0 && eligible[id][*slot]);
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
                by_loss.iter().filter(|(_, task)| left.contains(task)).find_map(|&(_, task)| {
                    let able = least.iter().copied().filter(|&slot| can(slot, task));
                    able.min_by_key(|&slot| (self.slots[slot].has_of(task.subtopology), slot))
                        .map(|s| (s, task))
                })
            };
            let Some((slot, task)) = most_state.or_else(least_loss) else { break };
            left.remove(&task);
            if let Some(count) = left_of.get_mut(&task.subtopology) {
                *count -= 1;
            }
            self.slots[slot].add(task);
        }
        self.unassigned.extend(left);
    }

    /// Moves tasks one by one from the more to the less loaded, as long as that makes a pair of members more even.
    fn even_out(&mut self, eligible: &BTreeMap<i32, Vec<bool>>) {
        let mut order: Vec<usize> = (0..self.slots.len()).collect();
        'again: loop {
            order.sort_by(|&a, &b| self.compare_load(b, a).then(a.cmp(&b)));
            for &from in &order {
                for &to in order.iter().rev() {
                    if !self.is_better(from, to) {
                        continue;
                    }
                    let moves = self.slots[from].tasks.iter().copied();
                    let best = moves
                        .filter(|task| eligible.get(&task.subtopology).is_some_and(|slots| slots[to]))
                        .min_by_key(|&task| {
                            let gain = self.slots[to].state(task) - self.slots[from].state(task);
                            let (of_from, of_to) = (
                                self.slots[from].has_of(task.subtopology),
                                self.slots[to].has_of(task.subtopology),
                            );
                            (self.owns(from, task), -gain, of_to as i64 - of_from as i64, task)
                        });
                    if let Some(task) = best {
                        self.slots[from].remove(task);
                        self.slots[to].add(task);
                        continue 'again;
                    }
                }
            }
            return;
        }
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
