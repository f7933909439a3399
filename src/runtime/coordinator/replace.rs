//! Workers that cannot go on: one that is stuck in user code (`max.processing.time.ms`), and one whose error the
//! application answers with [`UncaughtErrorResponse::ReplaceWorker`]. Both are left behind, and another takes the place;
//! the instance stays a member and keeps its tasks, which are built anew and go on from what was committed last.

use std::time::{Duration, Instant};

use super::{Coordinator, Placed};
use crate::clock;
use crate::error::{Error, ErrorKind};
use crate::group::{Event, Lease};
use crate::runtime::close::{CLOSE_TIMEOUT, CloseOptions};
use crate::runtime::message::ToCoordinator;
use crate::runtime::settings;
use crate::runtime::uncaught::UncaughtErrorResponse;
use crate::runtime::workers::WorkerId;

/// The first pause before a worker that failed is replaced; it doubles while its successors fail as well.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Who worked for so long has not failed at once.
const LASTED: Duration = Duration::from_secs(60);
/// How long the successor of a failed worker waits for the old one to have closed its tasks.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// So many workers a place may sit in user code and be left behind. Their threads cannot be ended.
const STUCK_AT_MOST: usize = 3;

/// A place that waits for its next worker.
pub(super) struct Vacancy {
    index: usize,
    /// Who had the place; its tasks wait under this name.
    worker: WorkerId,
    from: Instant,
    /// It begins no later than that, even if the one before it has not ended.
    latest: Instant,
}

/// What is known of the workers' failures and of the end that they may bring to all.
#[derive(Default)]
pub(super) struct Replacements {
    vacancies: Vec<Vacancy>,
    /// How many workers in a row have failed at a place.
    failures: Vec<u32>,
    /// The group was asked to stop, and has until then to answer.
    pub(super) asked_until: Option<Instant>,
}

impl Replacements {
    /// The places that wait for their next workers.
    pub(super) fn vacant(&self) -> impl Iterator<Item = usize> + '_ {
        self.vacancies.iter().map(|vacancy| vacancy.index)
    }
}

impl Coordinator {
    /// A worker says something. One that was left behind is not heard: what it holds is somebody else's by now.
    pub(super) fn said(&mut self, worker: WorkerId, message: ToCoordinator) {
        if self.workers.get(worker).is_none() {
            if matches!(message, ToCoordinator::Stopped { .. }) {
                tracing::info!(?worker, "a worker that was left behind has ended");
                self.workers.stopped(worker);
            }
            return;
        }
        match message {
            ToCoordinator::Failed { error, response: UncaughtErrorResponse::ReplaceWorker }
                if self.ending.is_none() =>
            {
                self.replace_failed(worker, &error);
            }
            ToCoordinator::Failed { error, response: UncaughtErrorResponse::ShutdownApplication }
                if self.ending.is_none() =>
            {
                self.shut_down_application(error);
            }
            other => self.take(other),
        }
    }

    /// Looks for stuck workers, fills places, and goes on with the end of all.
    pub(super) fn look_after_workers(&mut self) {
        let now = clock::monotonic();
        for worker in self.workers.stuck(now) {
            let limit = self.shared.config.max_processing_time();
            tracing::error!(
                ?worker,
                "a worker has not come back from user code within max.processing.time.ms ({limit:?}): it is left behind, \
                 and its tasks go to another"
            );
            self.replace(worker, now, now);
            let most = STUCK_AT_MOST * self.shared.config.workers();
            if self.workers.left_behind() > most {
                let text = format!(
                    "{most} workers are stuck in user code: find out what it waits for, and give it a time limit, or raise \
                     max.processing.time.ms ({limit:?}) if it only is slow"
                );
                return self.fail(Error::new(ErrorKind::Timeout, text));
            }
        }
        let (workers, vacancies) = (&self.workers, &mut self.replacements.vacancies);
        let due = |v: &mut Vacancy| now >= v.latest || now >= v.from && !workers.is_left_behind(v.worker);
        let due: Vec<Vacancy> = vacancies.extract_if(.., due).collect();
        for vacancy in due {
            self.fill(&vacancy);
        }
        if self.replacements.asked_until.is_some_and(|until| now >= until) {
            tracing::error!("the group has not answered: this instance ends alone");
            self.end(CloseOptions::default());
        }
    }

    /// When there is something to do here next.
    pub(super) fn next_look_after_workers(&self) -> Instant {
        let next = self.workers.next_look();
        let until = self.replacements.asked_until;
        // A place whose time has come waits for the one before it: looks are frequent enough for that.
        let now = clock::monotonic();
        let vacancies = self.replacements.vacancies.iter();
        vacancies.map(|v| if v.from > now { v.from } else { v.latest }).chain(until).fold(next, Instant::min)
    }

    fn replace_failed(&mut self, worker: WorkerId, error: &Error) {
        let now = clock::monotonic();
        let Some((index, since)) = self.workers.place_of(worker) else { return };
        let failures = &mut self.replacements.failures;
        failures.resize(failures.len().max(index + 1), 0);
        failures[index] = if now.duration_since(since) > LASTED { 0 } else { failures[index] + 1 };
        let pause = (PAUSE * 2u32.saturating_pow(failures[index].min(16))).min(LONGEST_PAUSE);
        tracing::error!(?error, worker = index, ?pause, "a worker has failed and is replaced");
        self.replace(worker, now + pause, now + pause + PATIENCE);
    }

    /// Leaves a worker behind. Its tasks wait for the next worker in its place; what it was asked for is as good as done.
    pub(super) fn replace(&mut self, worker: WorkerId, from: Instant, latest: Instant) {
        let Some(index) = self.workers.leave_behind(worker) else { return };
        // A commit of its transaction may be on its way: nothing of what it had begins before its producer is fenced. A
        // successor's does that.
        if self.is_leaving(worker) {
            self.fence(vec![settings::transactional_id(&self.shared.config, self.process_id(), index)]);
        }
        // One that was to go has no successor.
        if !self.left(worker) {
            self.replacements.vacancies.push(Vacancy { index, worker, from, latest });
        }
        let mut given_up = Vec::new();
        for placed in self.placed.values_mut().filter(|placed| placed.worker == worker) {
            placed.running = false;
            if placed.revoked {
                given_up.push(placed.lease);
            }
        }
        if !given_up.is_empty() {
            self.take(ToCoordinator::Revoked(given_up));
        }
        if self.flushing.remove(&worker) && self.flushing.is_empty() {
            self.step(Event::Committed);
        }
        self.update_state();
    }

    fn fill(&mut self, vacancy: &Vacancy) {
        let successor = match self.workers.add(vacancy.index, self.gate.clone()) {
            Ok(successor) => successor,
            Err(error) => return self.fail(error),
        };
        if self.shared.config.is_exactly_once() {
            // ORDER: they wait until its producer has fenced the one before, wherever they are placed then.
            for placed in self.placed.values_mut().filter(|placed| placed.worker == vacancy.worker) {
                self.last_placement += 1;
                (placed.worker, placed.placement, placed.started) = (successor, self.last_placement, false);
            }
            return;
        }
        let waits = |placed: &&Placed| placed.worker == vacancy.worker;
        let waiting: Vec<Lease> = self.placed.values().filter(waits).map(|placed| placed.lease).collect();
        for lease in waiting {
            if let Some(placed) = self.placed.remove(&lease.task) {
                self.place(lease, placed.active);
            }
        }
    }

    /// The producer of a worker may write: what waited for it is placed.
    pub(super) fn worker_is_ready(&mut self, worker: WorkerId) {
        if !self.workers.ready(worker) {
            return;
        }
        let waits = |placed: &&Placed| placed.worker == worker && !placed.started && !placed.revoked;
        let waiting: Vec<Lease> = self.placed.values().filter(waits).map(|placed| placed.lease).collect();
        self.place_anew(&waiting);
    }

    /// Who gets a new task: the worker with the fewest, or whoever will take a place that is free.
    pub(super) fn worker_for_task(&self) -> Option<WorkerId> {
        let tasks_of = |worker: &WorkerId| self.placed.values().filter(|p| p.worker == *worker).count();
        let waiting = || self.replacements.vacancies.first().map(|vacancy| vacancy.worker);
        self.staying().min_by_key(tasks_of).or_else(waiting)
    }

    /// A task could not be started. The worker that was to have it answers for it, as any of its errors.
    pub(super) fn ask_about(&mut self, worker: WorkerId, error: Error) {
        let (uncaught, own) = (self.shared.uncaught.clone(), self.own.clone());
        // User code has no place on the I/O thread.
        let asking = std::thread::Builder::new().spawn(move || {
            let response = uncaught.answer(&error);
            let message = Box::new(ToCoordinator::Failed { error, response });
            let _ = own.send(ToCoordinator::Says { worker, message });
        });
        if let Err(error) = asking {
            self.fail(Error::new(ErrorKind::Io, "a thread cannot be started").because(error));
        }
    }

    /// `SHUTDOWN_APPLICATION`: the group is told with the next JoinGroup, and its leader tells all.
    fn shut_down_application(&mut self, error: Error) {
        if self.replacements.asked_until.is_some() {
            return;
        }
        tracing::error!(?error, "all instances of the application are asked to shut down");
        let (topics, data) = &mut self.subscription;
        data.shutdown = true;
        data.shutdown_reason = error.to_string().chars().take(1000).collect();
        let (topics, data) = (topics.clone(), Box::new(data.clone()));
        self.failure.get_or_insert(error);
        self.replacements.asked_until = Some(clock::monotonic() + CLOSE_TIMEOUT);
        self.step(Event::Subscribe { topics, data });
        self.step(Event::Rejoin);
    }
}
