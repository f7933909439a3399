//! The workers of an application: started, told things, fenced, left behind.
//!
//! A worker has a number that no other of the application ever had or will have: messages, fetch tokens and tasks name
//! it, so that a worker that is gone cannot be taken for the one that came after it. Its index is its place among the
//! workers; whoever replaces it has the same.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::mpsc as std_mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::mpsc::UnboundedSender;
use uuid::Uuid;

use super::app::AppShared;
use super::fetches::SharedFetcher;
use super::message::{ToCoordinator, ToWorker};
use super::pulse::{Pulse, Watch};
use super::settings;
use super::worker::{Worker, WorkerParts};
use crate::changelog::restore::{RestoreEvent, RestorePool};
use crate::client::Cluster;
use crate::client::fetch::{FetchEvent, Fetcher};
use crate::client::produce::{Fence, GroupMetadata, Producer, Sender};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::store::keeper::Keeper;

/// The place of the worker's number in a fetch token.
const TOKEN_SHIFT: u32 = 40;

/// The number of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct WorkerId(u32);

impl WorkerId {
    /// The number itself, which no other worker of the application has or had.
    pub(super) fn number(self) -> u64 {
        u64::from(self.0)
    }

    /// The worker's `count`th fetch token: events that carry it go to this worker and to no other.
    pub(super) fn token(self, count: u64) -> u64 {
        u64::from(self.0) << TOKEN_SHIFT | count
    }

    #[cfg(test)]
    pub(super) fn of(number: u32) -> Self {
        Self(number)
    }

    pub(super) fn of_token(token: u64) -> Option<Self> {
        u32::try_from(token >> TOKEN_SHIFT).ok().map(Self)
    }
}

/// One worker, as the coordinator holds it.
pub(super) struct WorkerHandle {
    index: usize,
    since: Instant,
    inbox: std_mpsc::Sender<ToWorker>,
    thread: Option<std::thread::JoinHandle<()>>,
    fence: Fence,
    pulse: Arc<Pulse>,
    /// It may have tasks: its producer has fenced those that had its transactional id before.
    ready: bool,
    stopped: bool,
}

impl WorkerHandle {
    pub(super) fn is_ready(&self) -> bool {
        self.ready
    }

    pub(super) fn send(&self, message: ToWorker) {
        // A worker that has ended takes no more messages, and needs none.
        let _ = self.inbox.send(message);
    }

    /// A way to the worker for answers that come later.
    pub(super) fn inbox(&self) -> std_mpsc::Sender<ToWorker> {
        self.inbox.clone()
    }

    /// Nothing that the worker holds or makes is written any more, until it has given up its tasks.
    pub(super) fn fence(&self) {
        self.fence.fence();
    }
}

impl Drop for WorkerHandle {
    /// A worker outlives its handle only when the I/O thread panics or cannot start all workers, or when the worker was
    /// left behind. It would wait for ever: its fetchers and its producer keep its inbox open.
    fn drop(&mut self) {
        if !self.stopped {
            self.pulse.dismiss();
            // ORDER: nobody writes its records or answers its commits any more, so that it must not begin a last one.
            self.fence.fence();
            self.send(ToWorker::Gate(None));
            self.send(ToWorker::Stop);
        }
    }
}

/// What a worker says to the coordinator, with its name: nobody listens to one that was left behind.
#[derive(Clone)]
pub(super) struct Mouth {
    worker: WorkerId,
    out: UnboundedSender<ToCoordinator>,
}

impl Mouth {
    pub(super) fn say(&self, message: ToCoordinator) {
        // The coordinator ends last; if it is gone there is nobody left to tell.
        let _ = self.out.send(ToCoordinator::Says { worker: self.worker, message: Box::new(message) });
    }
}

type Routes = Arc<Mutex<HashMap<WorkerId, std_mpsc::Sender<ToWorker>>>>;

/// All workers, and what new ones are made from.
pub(super) struct Workers {
    shared: Arc<AppShared>,
    cluster: Cluster,
    /// In the names of producers.
    process_id: Uuid,
    out: UnboundedSender<ToCoordinator>,
    live: Arc<SharedFetcher>,
    restores: Arc<RestorePool<SharedFetcher>>,
    keeper: Keeper,
    /// Where fetched records go. Looked at a batch of a partition, not a record.
    routes: Routes,
    running: BTreeMap<WorkerId, WorkerHandle>,
    /// Left behind, and not ended as far as is known.
    left: HashSet<WorkerId>,
    watch: Watch,
    last: u32,
    /// When the right to write ends, if the group has said so.
    permit: Option<Instant>,
}

impl Workers {
    /// Starts as many as are configured.
    pub(super) fn start(
        shared: &Arc<AppShared>,
        cluster: &Cluster,
        (keeper, process_id): (&Keeper, Uuid),
        out: &UnboundedSender<ToCoordinator>,
    ) -> Result<Self> {
        let config = &shared.config;
        let routes = Routes::default();
        let to = routes.clone();
        let route = move |token: u64, message: ToWorker| {
            let routes = to.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(route) = WorkerId::of_token(token).and_then(|worker| routes.get(&worker)) {
                // A worker that has ended wants nothing more.
                let _ = route.send(message);
            }
        };
        let to = route.clone();
        let on_fetch = Arc::new(move |event: FetchEvent| to(event.token(), ToWorker::Fetched(event)));
        let live = Fetcher::new(cluster, settings::live_fetch(config), on_fetch);
        let on_restore = Arc::new(move |event: RestoreEvent| route(event.token(), ToWorker::Restore(event)));
        let bulk =
            |on_fetch| SharedFetcher::new(Fetcher::new(cluster, settings::bulk_fetch(config), on_fetch));
        let restores = RestorePool::new(settings::restore_pool(config), bulk, on_restore);
        let mut workers = Self {
            shared: shared.clone(),
            cluster: cluster.clone(),
            process_id,
            out: out.clone(),
            live: Arc::new(SharedFetcher::new(live)),
            restores: Arc::new(restores),
            keeper: keeper.clone(),
            routes,
            running: BTreeMap::new(),
            left: HashSet::new(),
            watch: Watch::new(config.max_processing_time(), clock::monotonic()),
            last: 0,
            permit: None,
        };
        for index in 0..config.workers() {
            workers.add(index, None)?;
        }
        Ok(workers)
    }

    /// Starts one more worker, which may commit in the generation `gate`.
    pub(super) fn add(&mut self, index: usize, gate: Option<Box<GroupMetadata>>) -> Result<WorkerId> {
        let (shared, cluster) = (&self.shared, &self.cluster);
        let config = &shared.config;
        self.last += 1;
        let id = WorkerId(self.last);
        let (inbox, receiver) = std_mpsc::channel();
        let wake = inbox.clone();
        let progress = Arc::new(move || {
            let _ = wake.send(ToWorker::ProducerProgress);
        });
        let transactional_id =
            config.is_exactly_once().then(|| settings::transactional_id(config, self.process_id, index));
        let (producer, outbox) = Producer::new(settings::producer(config, transactional_id), progress)?;
        let fence = producer.fence_handle();
        if let Some(until) = self.permit {
            fence.permit_until(until);
        }
        let sender = Sender::new(outbox, Arc::new(cluster.clone()));
        cluster.runtime().spawn(sender.run());
        let pulse = Arc::new(Pulse::default());
        let parts = WorkerParts {
            id,
            index,
            inbox: receiver,
            out: Mouth { worker: id, out: self.out.clone() },
            pulse: pulse.clone(),
            producer,
            live: self.live.clone(),
            restores: self.restores.clone(),
            cluster: cluster.clone(),
            io: cluster.runtime().clone(),
            keeper: self.keeper.clone(),
            topology: shared.topology.clone(),
            config: config.clone(),
            policies: shared.policies.clone(),
            clock: shared.clock.clone(),
            shared: shared.clone(),
        };
        self.live.welcome(id);
        self.restores.source().welcome(id);
        self.routes.lock().unwrap_or_else(PoisonError::into_inner).insert(id, inbox.clone());
        let thread = std::thread::Builder::new()
            .name(format!("{}-worker-{index}", config.application_id()))
            .spawn(move || Worker::run(parts))
            .map_err(|error| {
                Error::new(ErrorKind::Io, "a worker's thread cannot be started").because(error)
            })?;
        let handle = WorkerHandle {
            index,
            since: clock::monotonic(),
            inbox,
            thread: Some(thread),
            fence,
            pulse,
            ready: !config.is_exactly_once(),
            stopped: false,
        };
        handle.send(ToWorker::Gate(gate));
        self.running.insert(id, handle);
        self.shared.figures().workers(self.alive().count());
        Ok(id)
    }

    /// The place of a worker that has not been left behind, and since when it has had it.
    pub(super) fn place_of(&self, worker: WorkerId) -> Option<(usize, Instant)> {
        self.running.get(&worker).map(|worker| (worker.index, worker.since))
    }

    /// Leaves a worker behind: nothing that it says, writes or asks for has any effect from now on, whenever it wakes up.
    /// Says which place is free.
    pub(super) fn leave_behind(&mut self, worker: WorkerId) -> Option<usize> {
        let handle = self.running.remove(&worker)?;
        if !handle.stopped {
            self.left.insert(worker);
        }
        let place = handle.index;
        self.shared.figures().workers(self.alive().count());
        // ORDER: fenced before anybody else gets its tasks.
        drop(handle);
        self.routes.lock().unwrap_or_else(PoisonError::into_inner).remove(&worker);
        self.stop_fetching(worker);
        self.shared.control.metadata.gone(worker);
        Some(place)
    }

    /// Nothing is fetched or restored for the worker any more.
    fn stop_fetching(&self, worker: WorkerId) {
        self.live.dismiss(worker);
        // ORDER: what it asks for from now on is refused; then what it had is cancelled.
        self.restores.source().dismiss(worker);
        self.restores.cancel_all(|token| WorkerId::of_token(token) == Some(worker));
    }

    /// Whether the worker was left behind and has not ended.
    pub(super) fn is_left_behind(&self, worker: WorkerId) -> bool {
        self.left.contains(&worker)
    }

    /// How many workers were left behind and have not ended.
    pub(super) fn left_behind(&self) -> usize {
        self.left.len()
    }

    /// The workers that have been in user code for longer than they may.
    pub(super) fn stuck(&mut self, now: Instant) -> Vec<WorkerId> {
        let running = self.running.iter().filter(|(_, worker)| !worker.stopped);
        self.watch.stuck(now, running.map(|(id, worker)| (*id, worker.pulse.beats())))
    }

    /// When to look for stuck workers next.
    pub(super) fn next_look(&self) -> Instant {
        self.watch.next()
    }

    /// A worker that has not been left behind.
    pub(super) fn get(&self, worker: WorkerId) -> Option<&WorkerHandle> {
        self.running.get(&worker)
    }

    /// The producer of a worker may write. Says whether that is news.
    pub(super) fn ready(&mut self, worker: WorkerId) -> bool {
        self.running.get_mut(&worker).is_some_and(|worker| !std::mem::replace(&mut worker.ready, true))
    }

    /// The places of those that have not ended.
    pub(super) fn places(&self) -> impl Iterator<Item = usize> + '_ {
        self.running.values().filter(|worker| !worker.stopped).map(|worker| worker.index)
    }

    /// The place of a worker.
    pub(super) fn index(&self, worker: WorkerId) -> Option<usize> {
        self.get(worker).map(|worker| worker.index)
    }

    /// Forgets a worker that has ended.
    pub(super) fn remove(&mut self, worker: WorkerId) {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner).remove(&worker);
        // Its thread has nothing left to do but to end.
        self.running.remove(&worker);
        self.stop_fetching(worker);
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = WorkerId> + '_ {
        self.running.keys().copied()
    }

    /// Those that have not ended.
    pub(super) fn alive(&self) -> impl Iterator<Item = WorkerId> + '_ {
        self.running.iter().filter(|(_, worker)| !worker.stopped).map(|(id, _)| *id)
    }

    pub(super) fn send(&self, worker: WorkerId, message: ToWorker) {
        if let Some(worker) = self.get(worker) {
            worker.send(message);
        }
    }

    pub(super) fn broadcast(&self, message: impl Fn() -> ToWorker) {
        self.running.values().for_each(|worker| worker.send(message()));
    }

    /// Nothing is written from this time on, until a later one is given.
    pub(super) fn permit_until(&mut self, until: Instant) {
        self.permit = Some(until);
        self.running.values().for_each(|worker| worker.fence.permit_until(until));
    }

    pub(super) fn fence_all(&self) {
        self.running.values().for_each(WorkerHandle::fence);
    }

    /// A worker has ended.
    pub(super) fn stopped(&mut self, worker: WorkerId) {
        self.left.remove(&worker);
        self.shared.control.metadata.gone(worker);
        if let Some(worker) = self.running.get_mut(&worker) {
            worker.stopped = true;
        }
        self.shared.figures().workers(self.alive().count());
    }

    /// Waits for the threads of workers that have ended. One that was given up is not waited for: it may be stuck in user
    /// code for ever.
    pub(super) fn join(&mut self) {
        for worker in self.running.values_mut() {
            if let Some(thread) = worker.thread.take_if(|thread| worker.stopped || thread.is_finished()) {
                let _ = thread.join();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_panic_of_the_io_thread_ends_its_workers() {
        let config = Config::builder("panics", "localhost:1").build().unwrap();
        let (producer, _outbox) = Producer::new(settings::producer(&config, None), Arc::new(|| {})).unwrap();
        let (inbox, messages) = std_mpsc::channel();
        // As the fetchers and the producer do.
        let _open = inbox.clone();
        let pulse = Arc::new(Pulse::default());
        let handle = WorkerHandle {
            index: 0,
            since: clock::monotonic(),
            inbox,
            thread: None,
            fence: producer.fence_handle(),
            pulse: pulse.clone(),
            ready: true,
            stopped: false,
        };
        let io = std::thread::spawn(move || {
            let _workers = [handle];
            panic!("on purpose");
        });
        assert!(io.join().is_err());
        assert!(producer.is_fenced() && pulse.is_dismissed());
        let told: Vec<ToWorker> = messages.try_iter().collect();
        assert!(matches!(told[..], [ToWorker::Gate(None), ToWorker::Stop]));
    }

    #[test]
    fn a_token_names_its_worker() {
        for worker in [WorkerId(1), WorkerId(70_000)] {
            assert_eq!(WorkerId::of_token(worker.token(1)), Some(worker));
            assert_eq!(WorkerId::of_token(worker.token((1 << TOKEN_SHIFT) - 1)), Some(worker));
        }
    }
}
