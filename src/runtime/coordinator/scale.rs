//! Workers that come and go while the application runs (KIP-663), and what is asked about it.
//!
//! A task changes its worker at a commit boundary: the worker that has it commits, closes it and says so; then it is
//! prepared and built for another. The group sees none of that, but learns of the new number of workers, which is the
//! weight of the instance, when it joins again.

use std::collections::BTreeSet;

use tokio::sync::oneshot;

use super::{Coordinator, Event, Lease, TopicPartition, WorkerId};
use crate::client::admin::{Admin, Isolation, OffsetSpec};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::message::ToWorker;
use crate::runtime::metadata::StoreLag;
use crate::runtime::settings;
use crate::task_id::TaskId;

/// A worker that is being removed.
pub(super) struct Leaving {
    worker: WorkerId,
    index: usize,
    /// It has given up all its tasks, and was told to end.
    told: bool,
    answer: oneshot::Sender<Result<Option<usize>>>,
}

impl Coordinator {
    /// The workers that tasks may be given to.
    pub(super) fn staying(&self) -> impl Iterator<Item = WorkerId> + '_ {
        self.workers.alive().filter(|worker| !self.is_leaving(*worker))
    }

    pub(super) fn is_leaving(&self, worker: WorkerId) -> bool {
        self.leaving.iter().any(|leaving| leaving.worker == worker)
    }

    pub(super) fn add_worker(&mut self, answer: oneshot::Sender<Result<usize>>) {
        let outcome = if self.ending.is_some() { Err(ends()) } else { self.try_add_worker() };
        // Who asked may have gone; the worker is there all the same.
        let _ = answer.send(outcome);
    }

    fn try_add_worker(&mut self) -> Result<usize> {
        let alive = self.workers.alive().filter_map(|worker| self.workers.index(worker));
        let taken: Vec<usize> = alive.chain(self.replacements.vacant()).collect();
        let index = (0..).find(|index| !taken.contains(index)).unwrap_or_default();
        self.workers.add(index, self.gate.clone())?;
        tracing::info!(worker = index, "a worker was added");
        self.level();
        self.resized();
        Ok(index)
    }

    /// The worker with the highest number goes. It gives up its tasks first.
    pub(super) fn remove_worker(&mut self, answer: oneshot::Sender<Result<Option<usize>>>) {
        if self.ending.is_some() {
            let _ = answer.send(Err(ends()));
            return;
        }
        let staying = self.staying().filter_map(|worker| Some((self.workers.index(worker)?, worker)));
        let Some((index, worker)) = staying.max() else {
            let replaced = Error::new(
                ErrorKind::IllegalState,
                "the last worker has failed and is being replaced: ask again when its successor runs",
            );
            let vacant = self.replacements.vacant().next().is_some();
            let _ = answer.send(if vacant { Err(replaced) } else { Ok(None) });
            return;
        };
        tracing::info!(worker = index, "a worker is removed");
        self.leaving.push(Leaving { worker, index, told: false, answer });
        let its = |p: &super::Placed| p.worker == worker;
        let its: BTreeSet<TaskId> =
            self.placed.iter().filter(|(_, p)| its(p)).map(|(task, _)| *task).collect();
        self.build_anew(&its);
        self.let_go();
        self.resized();
    }

    /// Moves tasks from the workers with the most to those with the fewest.
    fn level(&mut self) {
        let mut loads: Vec<(WorkerId, Vec<TaskId>)> =
            self.staying().map(|worker| (worker, Vec::new())).collect();
        for (task, placed) in &self.placed {
            if let Some((_, tasks)) = loads.iter_mut().find(|(worker, _)| *worker == placed.worker) {
                tasks.push(*task);
            }
        }
        let Some(target) = self.placed.len().checked_div(loads.len()) else { return };
        let mut over = self.placed.len() % loads.len();
        // Those with the most keep one more, so that as few as possible move.
        loads.sort_by_key(|(_, tasks)| std::cmp::Reverse(tasks.len()));
        let mut moves = Vec::new();
        for (_, mut tasks) in loads {
            let keeps = target + usize::from(over > 0);
            over = over.saturating_sub(1);
            tasks.sort_unstable();
            moves.extend(tasks.into_iter().skip(keeps));
        }
        self.move_tasks(|task, _| moves.contains(task));
    }

    /// Has tasks closed after a commit and placed anew; those that have not begun yet are placed anew at once.
    pub(super) fn build_anew(&mut self, tasks: &BTreeSet<TaskId>) {
        if tasks.is_empty() {
            return;
        }
        self.move_tasks(|task, _| tasks.contains(task));
        let unstarted =
            |(task, p): &(&TaskId, &super::Placed)| tasks.contains(task) && !p.started && !p.revoked;
        let unstarted: Vec<Lease> = self.placed.iter().filter(unstarted).map(|(_, p)| p.lease).collect();
        self.place_anew(&unstarted);
    }

    pub(super) fn place_anew(&mut self, leases: &[Lease]) {
        for lease in leases {
            if let Some(placed) = self.placed.remove(&lease.task) {
                self.place(placed.lease, placed.active);
            }
        }
    }

    /// A worker that was to be removed is left behind, because it does not answer. Says whether it was.
    pub(super) fn left(&mut self, worker: WorkerId) -> bool {
        let Some(at) = self.leaving.iter().position(|leaving| leaving.worker == worker) else { return false };
        let Leaving { index, answer, .. } = self.leaving.swap_remove(at);
        let its = |p: &&super::Placed| p.worker == worker && !p.revoked;
        let its: Vec<Lease> = self.placed.values().filter(its).map(|p| p.lease).collect();
        self.place_anew(&its);
        let _ = answer.send(Ok(Some(index)));
        true
    }

    /// Has tasks committed and closed by their workers.
    fn move_tasks(&mut self, which: impl Fn(&TaskId, &super::Placed) -> bool) {
        let mut moves: Vec<(WorkerId, Vec<Lease>)> = Vec::new();
        for (task, placed) in &mut self.placed {
            if !placed.started || placed.revoked || placed.moving || !which(task, placed) {
                continue;
            }
            placed.moving = true;
            match moves.iter_mut().find(|(worker, _)| *worker == placed.worker) {
                Some((_, leases)) => leases.push(placed.lease),
                None => moves.push((placed.worker, vec![placed.lease])),
            }
        }
        for (worker, leases) in moves {
            tracing::info!(count = leases.len(), "tasks are closed here and built anew");
            self.workers.send(worker, ToWorker::Move(leases));
        }
    }

    /// A worker has closed these tasks: those that move are placed anew. Returns the others.
    pub(super) fn moved(&mut self, leases: Vec<Lease>) -> Vec<Lease> {
        let mut others = Vec::new();
        for lease in leases {
            match self.placed.get(&lease.task) {
                Some(placed) if placed.revoked => others.push(lease),
                None => others.push(lease),
                Some(placed) if placed.moving => self.place_anew(&[lease]),
                // Word of a move that was overtaken: the task has been placed anew since.
                Some(_) => {}
            }
        }
        others
    }

    /// Tells workers to end that are to be removed and have no tasks any more.
    pub(super) fn let_go(&mut self) {
        for leaving in &mut self.leaving {
            let has_tasks = self.placed.values().any(|p| p.worker == leaving.worker && p.started);
            if !has_tasks && !leaving.told {
                leaving.told = true;
                self.workers.send(leaving.worker, ToWorker::Stop);
            }
        }
    }

    /// A worker has ended. One that was to be removed is no more.
    pub(super) fn removed(&mut self, worker: WorkerId) {
        // What it was to flush it has: its last commit was the end of it.
        if self.flushing.remove(&worker) && self.flushing.is_empty() && self.ending.is_none() {
            self.step(Event::Committed);
        }
        if let Some(at) = self.leaving.iter().position(|leaving| leaving.worker == worker) {
            let Leaving { index, answer, .. } = self.leaving.swap_remove(at);
            self.workers.remove(worker);
            tracing::info!(worker = index, "the worker has ended");
            let _ = answer.send(Ok(Some(index)));
        }
    }

    /// The number of workers has changed: the cache is shared anew, and the group balances by it.
    fn resized(&mut self) {
        let workers = self.staying().count() + self.replacements.vacant().count();
        self.shared.control.set_workers(workers);
        self.workers.broadcast(|| ToWorker::LookAgain);
        let (topics, data) = &mut self.subscription;
        // An instance without workers stays in the group, and nothing is given to it.
        data.workers = u16::try_from(workers).unwrap_or(u16::MAX);
        data.transactional_ids = settings::transactional_ids(&self.shared.config, data.instance, workers);
        let (topics, data) = (topics.clone(), Box::new(data.clone()));
        self.step(Event::Subscribe { topics, data });
        self.step(Event::Rejoin);
        self.update_state();
    }

    /// Asks how far the changelogs reach, beside the coordinator.
    pub(super) fn lags(&self, answer: oneshot::Sender<Result<Vec<StoreLag>>>) {
        let (cluster, shared) = (self.cluster.clone(), self.shared.clone());
        let mut tasks: Vec<(TaskId, bool)> = self.placed.iter().map(|(task, p)| (*task, p.running)).collect();
        tasks.sort_unstable();
        self.cluster.runtime().spawn(async move {
            let asking = async {
                let admin = Admin::new(&cluster);
                let restores = shared.control.metadata.restores();
                let mut lags = Vec::new();
                for (task, running) in tasks {
                    let mut parts = shared.topology.inner.subtopologies.iter();
                    let Some(part) = parts.find(|part| part.id == task.subtopology) else { continue };
                    for store in part.stores().iter().filter(|store| store.changelog().is_some()) {
                        let topic = store.changelog_topic(shared.config.application_id());
                        let at = TopicPartition::new(topic, task.partition);
                        let listed = admin.list_offset(&at, OffsetSpec::Latest, Isolation::ReadUncommitted);
                        let end = listed.await?.offset.unwrap_or_default();
                        // A store whose restore has not begun holds nothing.
                        let position =
                            if running { end } else { restores.get(&at).copied().unwrap_or_default() };
                        lags.push(StoreLag {
                            task,
                            store: store.name().to_string(),
                            changelog: at,
                            position,
                            end,
                        });
                    }
                }
                Ok(lags)
            };
            let outcome = asking.await;
            let _ = answer.send(outcome);
        });
    }
}

fn ends() -> Error {
    Error::new(ErrorKind::IllegalState, "the application ends: its workers do not change any more")
}
