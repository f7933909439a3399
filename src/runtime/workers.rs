//! The workers of an application: started, told things, fenced, left behind.
//!
//! A worker has a number that no other of the application ever had or will have: messages, fetch tokens and tasks name
//! it, so that a worker that is gone cannot be taken for the one that came after it. Its index is its place among the
//! workers; whoever replaces it has the same.

use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc as std_mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::mpsc::UnboundedSender;

use super::app::AppShared;
use super::message::{ToCoordinator, ToWorker};
use super::settings;
use super::worker::{Worker, WorkerParts};
use crate::client::Cluster;
use crate::client::fetch::{FetchEvent, Fetcher};
use crate::client::produce::{Fence, Producer, Sender};
use crate::error::{Error, ErrorKind, Result};

/// The place of the worker's number in a fetch token.
const TOKEN_SHIFT: u32 = 40;

/// The number of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct WorkerId(u32);

impl WorkerId {
    /// The worker's `count`th fetch token: events that carry it go to this worker and to no other.
    pub(super) fn token(self, count: u64) -> u64 {
        u64::from(self.0) << TOKEN_SHIFT | count
    }

    fn of_token(token: u64) -> Option<Self> {
        u32::try_from(token >> TOKEN_SHIFT).ok().map(Self)
    }
}

/// One worker, as the coordinator holds it.
pub(super) struct WorkerHandle {
    inbox: std_mpsc::Sender<ToWorker>,
    thread: Option<std::thread::JoinHandle<()>>,
    fence: Fence,
    stopped: bool,
}

impl WorkerHandle {
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
            // ORDER: nobody writes its records or answers its commits any more, so that it must not begin a last one.
            self.fence.fence();
            self.send(ToWorker::Gate(None));
            self.send(ToWorker::Stop);
        }
    }
}

type Routes = Arc<Mutex<HashMap<WorkerId, std_mpsc::Sender<ToWorker>>>>;

/// All workers, and what new ones are made from.
pub(super) struct Workers {
    shared: Arc<AppShared>,
    cluster: Cluster,
    out: UnboundedSender<ToCoordinator>,
    live: Arc<Fetcher>,
    bulk: Arc<Fetcher>,
    /// Where fetched records go. Looked at a batch of a partition, not a record.
    routes: Routes,
    running: BTreeMap<WorkerId, WorkerHandle>,
    last: u32,
    /// When the right to write ends, if the group has said so.
    permit: Option<Instant>,
}

impl Workers {
    /// Starts as many as are configured.
    pub(super) fn start(
        shared: &Arc<AppShared>,
        cluster: &Cluster,
        out: &UnboundedSender<ToCoordinator>,
    ) -> Result<Self> {
        let config = &shared.config;
        let routes = Routes::default();
        let to = routes.clone();
        let on_event = Arc::new(move |event: FetchEvent| {
            let token = match &event {
                FetchEvent::Data(fetched) => fetched.token,
                FetchEvent::Progress { token, .. } | FetchEvent::Error { token, .. } => *token,
            };
            let routes = to.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(route) = WorkerId::of_token(token).and_then(|worker| routes.get(&worker)) {
                // A worker that has ended wants nothing more.
                let _ = route.send(ToWorker::Fetched(event));
            }
        });
        let live = Arc::new(Fetcher::new(cluster, settings::live_fetch(config), on_event.clone()));
        let bulk = Arc::new(Fetcher::new(cluster, settings::bulk_fetch(config), on_event));
        let mut workers = Self {
            shared: shared.clone(),
            cluster: cluster.clone(),
            out: out.clone(),
            live,
            bulk,
            routes,
            running: BTreeMap::new(),
            last: 0,
            permit: None,
        };
        for index in 0..config.workers() {
            workers.add(index)?;
        }
        Ok(workers)
    }

    /// Starts one more worker.
    pub(super) fn add(&mut self, index: usize) -> Result<WorkerId> {
        let (shared, cluster) = (&self.shared, &self.cluster);
        let config = &shared.config;
        self.last += 1;
        let id = WorkerId(self.last);
        let (inbox, receiver) = std_mpsc::channel();
        let wake = inbox.clone();
        let progress = Arc::new(move || {
            let _ = wake.send(ToWorker::ProducerProgress);
        });
        let (producer, outbox) = Producer::new(settings::producer(config), progress)?;
        let fence = producer.fence_handle();
        if let Some(until) = self.permit {
            fence.permit_until(until);
        }
        let sender = Sender::new(outbox, Arc::new(cluster.clone()));
        cluster.runtime().spawn(sender.run());
        let parts = WorkerParts {
            id,
            index,
            inbox: receiver,
            out: self.out.clone(),
            producer,
            live: self.live.clone(),
            bulk: self.bulk.clone(),
            cluster: cluster.clone(),
            io: cluster.runtime().clone(),
            topology: shared.topology.clone(),
            config: config.clone(),
            policies: shared.policies.clone(),
            clock: shared.clock.clone(),
            shared: shared.clone(),
        };
        let thread = std::thread::Builder::new()
            .name(format!("{}-worker-{index}", config.application_id()))
            .spawn(move || Worker::run(parts))
            .map_err(|error| {
                Error::new(ErrorKind::Io, "a worker's thread cannot be started").because(error)
            })?;
        self.routes.lock().unwrap_or_else(PoisonError::into_inner).insert(id, inbox.clone());
        self.running.insert(id, WorkerHandle { inbox, thread: Some(thread), fence, stopped: false });
        Ok(id)
    }

    /// A worker that has not been left behind.
    pub(super) fn get(&self, worker: WorkerId) -> Option<&WorkerHandle> {
        self.running.get(&worker)
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
        if let Some(worker) = self.running.get_mut(&worker) {
            worker.stopped = true;
        }
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
        let (producer, _outbox) = Producer::new(settings::producer(&config), Arc::new(|| {})).unwrap();
        let (inbox, messages) = std_mpsc::channel();
        // As the fetchers and the producer do.
        let _open = inbox.clone();
        let handle = WorkerHandle { inbox, thread: None, fence: producer.fence_handle(), stopped: false };
        let io = std::thread::spawn(move || {
            let _workers = [handle];
            panic!("on purpose");
        });
        assert!(io.join().is_err());
        assert!(producer.is_fenced());
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
