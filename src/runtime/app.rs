//! The application: a topology, a configuration, and a future that runs them.

use std::collections::HashMap;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};
use tracing::Instrument;

use super::close::CloseOptions;
use super::control::Control;
use super::coordinator::Coordinator;
use super::figures::{ClientFigures, Metric, Registry};
use super::listener::{Listeners, News, RestoreListener};
use super::memory::Account;
use super::message::ToCoordinator;
use super::uncaught::{Uncaught, UncaughtErrorResponse};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, IsolationLevel};
use crate::error::{Error, ErrorKind, Result};
use crate::query::{
    Asked, LocalStores, Phase, ReadOnlyKeyValueStore, ReadOnlySessionStore, ReadOnlyWindowStore,
};
use crate::store::{GlobalStores, StoreBlueprint, ValueAndTimestamp};
use crate::task::errors::{DropReason, ErrorHandler, ErrorPolicies};
use crate::topology::{Topology, refuse_optimizations};

/// Where an application is in its life (`org.apache.kafka.streams.KafkaStreams.State`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AppState {
    /// Made, not running yet.
    Created,
    /// Some of its tasks are being found, moved or restored.
    Rebalancing,
    /// All its tasks run.
    Running,
    /// It commits, closes and leaves.
    PendingShutdown,
    /// It has ended well.
    NotRunning,
    /// It has ended with an error.
    Error,
}

/// What the application's threads share.
pub(super) struct AppShared {
    pub(super) topology: Topology,
    pub(super) config: Arc<Config>,
    pub(super) policies: ErrorPolicies,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) uncaught: Uncaught,
    /// Input records that have gone all the way through, added up slice by slice.
    pub(super) processed: AtomicU64,
    /// Records that went no further than a node, by node and reason.
    pub(super) drops: Mutex<HashMap<(String, DropReason), u64>>,
    /// See [`AppHandle::has_other_topology`].
    other_topology: AtomicBool,
    /// The stores of this instance's tasks, for queries.
    pub(super) queries: Arc<LocalStores>,
    /// The global stores, once they are filled.
    pub(super) globals: OnceLock<GlobalStores>,
    pub(super) registry: Arc<Registry>,
    pub(super) memory: Arc<Account>,
    client: OnceLock<ClientFigures>,
    state: watch::Sender<AppState>,
    pub(super) control: Control,
}

impl AppShared {
    pub(super) fn state(&self) -> AppState {
        *self.state.borrow()
    }

    pub(super) fn set_other_topology(&self, other: bool) {
        let before = self.other_topology.swap(other, Ordering::Relaxed);
        if other {
            tracing::error!(
                application = self.config.application_id(),
                "no tasks for this instance: the group's leader runs another topology under the same application.id, and \
                 nothing of this one is in it. In a rolling deploy that ends with the old instances; if there is none, two \
                 applications share an application.id: stop one of them or give it its own"
            );
        } else if before {
            tracing::info!("the group's leader runs this instance's topology");
        }
    }

    /// The figures of the application as a whole. The recorder that they go to is the one that the process has by now.
    pub(super) fn figures(&self) -> &ClientFigures {
        self.client.get_or_init(|| ClientFigures::new(&self.registry))
    }

    pub(super) fn dropped(&self, node: &str, reason: DropReason, count: u64) {
        let mut drops = self.drops.lock().unwrap_or_else(PoisonError::into_inner);
        *drops.entry((node.to_owned(), reason)).or_default() += count;
        self.figures().dropped(node, reason, count);
    }

    pub(super) fn set_state(&self, to: AppState) {
        self.state.send_if_modified(|state| {
            let changed = *state != to;
            if changed {
                tracing::info!(from = ?*state, ?to, application = self.config.application_id(), "state");
                self.control.listeners.tell(News::State(*state, to));
                *state = to;
                self.queries.set_phase(match to {
                    AppState::Created => Phase::Created,
                    AppState::PendingShutdown | AppState::NotRunning | AppState::Error => Phase::Ended,
                    _ => Phase::Started,
                });
                self.figures().state(to as u8);
            }
            changed
        });
    }
}

/// The last state, set when nobody runs the application any more, or ever will: whoever waits for its end waits through
/// a handle, which keeps the state itself alive.
struct LastState {
    shared: Arc<AppShared>,
    state: AppState,
}

impl Drop for LastState {
    fn drop(&mut self) {
        self.shared.set_state(self.state);
    }
}

/// An application that can be run. Making one does no I/O.
///
/// ```no_run
/// use mainstem::prelude::*;
/// use mainstem::{App, Config};
///
/// # #[tokio::main]
/// # async fn main() -> mainstem::Result<()> {
/// let config = Config::builder("word-count", "localhost:9092").workers(2).build()?;
/// let builder = StreamsBuilder::new();
/// builder
///     .stream::<String, String>("lines")
///     .flat_map_values(|line| line.split(' ').map(str::to_owned).collect::<Vec<_>>())
///     .group_by("words", |_, word| word.clone())
///     .count("counts")
///     .to_stream()
///     .to("word-counts");
/// let app = App::new(builder.build()?, config)?;
/// app.run().with_graceful_shutdown(async { _ = tokio::signal::ctrl_c().await }).await
/// # }
/// ```
pub struct App {
    pub(super) shared: Arc<AppShared>,
    mailbox: UnboundedSender<ToCoordinator>,
    inbox: tokio::sync::mpsc::UnboundedReceiver<ToCoordinator>,
    last: LastState,
}

/// Makes an [`App`] with more than a topology and a configuration.
pub struct AppBuilder {
    topology: Topology,
    config: Config,
    handler: Option<Arc<dyn ErrorHandler>>,
    listeners: Listeners,
    uncaught: Uncaught,
}

impl fmt::Debug for AppBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppBuilder").field("config", &self.config).finish_non_exhaustive()
    }
}

impl AppBuilder {
    /// Lets user code decide about records that cannot be read, processed or written, instead of the configuration.
    #[must_use]
    pub fn error_handler(mut self, handler: impl ErrorHandler) -> Self {
        self.handler = Some(Arc::new(handler));
        self
    }

    /// Hears every change of the application's state, the one before and the one after
    /// (`KafkaStreams.StateListener`). The calls come from a thread of their own, in order; [`App::run`]'s future waits
    /// for the last, within reason.
    ///
    /// ```no_run
    /// # fn f(topology: mainstem::topology::Topology, config: mainstem::Config) -> mainstem::Result<mainstem::App> {
    /// use mainstem::{App, AppState};
    ///
    /// let app = App::builder(topology, config)
    ///     .state_listener(|from, to| {
    ///         if to == AppState::Error {
    ///             eprintln!("the stream has ended ({from:?})");
    ///         }
    ///     })
    ///     .build()?;
    /// # Ok(app)
    /// # }
    /// ```
    #[must_use]
    pub fn state_listener(mut self, listener: impl Fn(AppState, AppState) + Send + Sync + 'static) -> Self {
        self.listeners.state = Some(Arc::new(listener));
        self
    }

    /// Hears how stores are filled from their changelogs (`KafkaStreams.setGlobalStateRestoreListener`).
    ///
    /// ```no_run
    /// # fn f(topology: mainstem::topology::Topology, config: mainstem::Config) -> mainstem::Result<mainstem::App> {
    /// use mainstem::{App, RestoreListener, RestoringStore};
    ///
    /// struct Restores;
    ///
    /// impl RestoreListener for Restores {
    ///     fn on_restore_end(&self, store: &RestoringStore, records: u64) {
    ///         println!("{} of task {} is back, with {records} records", store.store, store.task);
    ///     }
    /// }
    ///
    /// let app = App::builder(topology, config).restore_listener(Restores).build()?;
    /// # Ok(app)
    /// # }
    /// ```
    #[must_use]
    pub fn restore_listener(mut self, listener: impl RestoreListener) -> Self {
        self.listeners.restore = Some(Arc::new(listener));
        self
    }

    /// Lets user code decide what becomes of the application after an error that ends a worker, a panic of user code
    /// included (`StreamsUncaughtExceptionHandler`, KIP-671). Without it the instance shuts down. The handler is called
    /// on the thread of the worker, or on one of its own.
    ///
    /// ```no_run
    /// # fn f(topology: mainstem::topology::Topology, config: mainstem::Config) -> mainstem::Result<mainstem::App> {
    /// use mainstem::{App, UncaughtErrorResponse};
    ///
    /// let app = App::builder(topology, config)
    ///     .uncaught_error_handler(|error| match error.is_retriable() {
    ///         true => UncaughtErrorResponse::ReplaceWorker,
    ///         false => UncaughtErrorResponse::ShutdownApplication,
    ///     })
    ///     .build()?;
    /// # Ok(app)
    /// # }
    /// ```
    #[must_use]
    pub fn uncaught_error_handler(
        mut self,
        handler: impl Fn(&Error) -> UncaughtErrorResponse + Send + Sync + 'static,
    ) -> Self {
        self.uncaught = Uncaught::new(handler);
        self
    }

    /// Makes the application.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for what cannot be done yet.
    pub fn build(self) -> Result<App> {
        let Self { topology, config, handler, listeners, uncaught } = self;
        refuse_optimizations(&config)?;
        super::topics::check_names(&topology, config.application_id())?;
        let mut policies = ErrorPolicies::of(&config);
        if let Some(handler) = handler {
            policies.handler = handler;
        }
        let (mailbox, inbox) = unbounded_channel();
        let control = Control::new(config.workers(), listeners);
        let shared = AppShared {
            topology,
            registry: Arc::new(Registry::new(&config)),
            memory: Arc::new(Account::new(&config)),
            client: OnceLock::new(),
            globals: OnceLock::new(),
            config: Arc::new(config),
            policies,
            clock: Arc::new(SystemClock),
            uncaught,
            processed: AtomicU64::new(0),
            drops: Mutex::default(),
            other_topology: AtomicBool::new(false),
            queries: Arc::new(LocalStores::new({
                // An application that does not run has no workers to tell.
                let mailbox = mailbox.clone();
                move || _ = mailbox.send(ToCoordinator::StoreWanted)
            })),
            state: watch::Sender::new(AppState::Created),
            control,
        };
        let shared = Arc::new(shared);
        let last = LastState { shared: shared.clone(), state: AppState::NotRunning };
        Ok(App { shared, mailbox, inbox, last })
    }
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "App({})", self.shared.config.application_id())
    }
}

impl App {
    /// An application. Nothing is connected to yet.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for what cannot be done yet.
    pub fn new(topology: Topology, config: Config) -> Result<Self> {
        Self::builder(topology, config).build()
    }

    /// An application with more settings.
    pub fn builder(topology: Topology, config: Config) -> AppBuilder {
        let (listeners, uncaught) = (Listeners::default(), Uncaught::default());
        AppBuilder { topology, config, handler: None, listeners, uncaught }
    }

    /// A handle, for any thread: the state, and the way to stop.
    pub fn handle(&self) -> AppHandle {
        AppHandle {
            state: self.shared.state.subscribe(),
            mailbox: self.mailbox.clone(),
            shared: self.shared.clone(),
        }
    }

    /// Runs the application when it is awaited, on threads of its own.
    pub fn run(self) -> Run {
        Run { app: self, shutdown: None }
    }
}

/// A handle on an application.
#[derive(Clone)]
pub struct AppHandle {
    state: watch::Receiver<AppState>,
    pub(super) mailbox: UnboundedSender<ToCoordinator>,
    pub(super) shared: Arc<AppShared>,
}

impl fmt::Debug for AppHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppHandle").field("state", &self.state()).finish_non_exhaustive()
    }
}

impl AppHandle {
    /// The present state.
    pub fn state(&self) -> AppState {
        *self.state.borrow()
    }

    /// How many input records this instance has processed since it started; it may run a little behind.
    pub fn records_processed(&self) -> u64 {
        self.shared.processed.load(Ordering::Relaxed)
    }

    /// How many records went no further than a node since the application started: node, reason, count. Added up at every
    /// commit. Records that a broker refused are counted for the node `producer`.
    pub fn records_dropped(&self) -> Vec<(String, DropReason, u64)> {
        let drops = self.shared.drops.lock().unwrap_or_else(PoisonError::into_inner);
        let mut list: Vec<_> =
            drops.iter().map(|((node, reason), count)| (node.clone(), *reason, *count)).collect();
        list.sort_by(|a, b| (&a.0, a.1 as u8).cmp(&(&b.0, b.1 as u8)));
        list
    }

    /// Whether this instance has no tasks because the group's leader runs another topology under the same
    /// `application.id`, one that has no sub-topology in common with this one.
    ///
    /// In a rolling deploy of a topology that changes altogether, the instances of one kind wait until one of them leads,
    /// at the latest when the last of the other kind has gone. Outside of a deploy two applications share an
    /// `application.id`: stop one of them, or give it an id of its own.
    pub fn has_other_topology(&self) -> bool {
        self.shared.other_topology.load(Ordering::Relaxed)
    }

    /// A handle that reads a key-value store of this instance's tasks, from any thread; timestamps are left out. It may
    /// be made before the application runs. `K` and `V` are the types of the store.
    ///
    /// ```no_run
    /// # use mainstem::prelude::*;
    /// # async fn f(app: mainstem::App) -> mainstem::Result<()> {
    /// let counts = app.handle().key_value_store::<String, i64>("counts")?;
    /// tokio::spawn(app.run().into_future());
    /// match counts.get(&"kafka".to_owned()) {
    ///     Ok(count) => println!("{count:?}"),
    ///     Err(error) if error.is_retriable() => println!("in a moment: {error}"),
    ///     Err(error) if error.kind() == ErrorKind::Moved => println!("elsewhere: {error}"),
    ///     Err(error) => return Err(error),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::UnknownStore`] if the topology has no such store, [`ErrorKind::StoreType`] if it has other types.
    pub fn key_value_store<K: 'static, V: 'static>(&self, name: &str) -> Result<ReadOnlyKeyValueStore<K, V>> {
        self.asked(name).key_value_store(self.stores(), false, |(value, _)| value)
    }

    /// A handle that reads a key-value store with its timestamps: those of tables and aggregations have them.
    ///
    /// # Errors
    /// As [`key_value_store`](Self::key_value_store).
    pub fn timestamped_key_value_store<K: 'static, V: 'static>(
        &self,
        name: &str,
    ) -> Result<ReadOnlyKeyValueStore<K, V, ValueAndTimestamp<V>>> {
        let row = |(value, timestamp)| ValueAndTimestamp { value, timestamp };
        self.asked(name).key_value_store(self.stores(), true, row)
    }

    /// A handle that reads a window store: that of an aggregation over windows.
    ///
    /// # Errors
    /// As [`key_value_store`](Self::key_value_store).
    pub fn window_store<K: Clone + 'static, V: 'static>(
        &self,
        name: &str,
    ) -> Result<ReadOnlyWindowStore<K, V>> {
        self.asked(name).window_store(self.stores(), false, |(value, _)| value)
    }

    /// A handle that reads a window store with its timestamps.
    ///
    /// # Errors
    /// As [`key_value_store`](Self::key_value_store).
    pub fn timestamped_window_store<K: Clone + 'static, V: 'static>(
        &self,
        name: &str,
    ) -> Result<ReadOnlyWindowStore<K, V, ValueAndTimestamp<V>>> {
        let row = |(value, timestamp)| ValueAndTimestamp { value, timestamp };
        self.asked(name).window_store(self.stores(), true, row)
    }

    /// A handle that reads a session store: that of an aggregation over sessions.
    ///
    /// # Errors
    /// As [`key_value_store`](Self::key_value_store).
    pub fn session_store<K: Clone + 'static, V: 'static>(
        &self,
        name: &str,
    ) -> Result<ReadOnlySessionStore<K, V>> {
        self.asked(name).session_store(self.stores())
    }

    fn asked<'a>(&'a self, name: &'a str) -> Asked<'a> {
        let config = &self.shared.config;
        let level = match config.is_exactly_once() {
            true => IsolationLevel::ReadCommitted,
            false => IsolationLevel::ReadUncommitted,
        };
        Asked { stores: &self.shared.queries, application_id: config.application_id(), name, level }
    }

    fn stores(&self) -> impl Iterator<Item = (i32, &Arc<dyn StoreBlueprint>)> + Clone {
        let subtopologies = self.shared.topology.inner.subtopologies.iter();
        subtopologies.flat_map(|s| s.stores().iter().map(move |store| (s.id, store)))
    }

    /// What the application counts, as of the last second or commit: the figures of docs/METRICS.md that
    /// `metrics.recording.level` keeps. Those of a task or a worker are there as long as it is on this instance.
    ///
    /// The same figures go to the recorder of the [`metrics`](https://docs.rs/metrics) facade, if the process has installed
    /// one before the application runs.
    ///
    /// ```
    /// # use mainstem::prelude::*;
    /// # let builder = StreamsBuilder::new();
    /// # builder.stream::<String, String>("in").to("out");
    /// # let config = mainstem::Config::builder("app", "localhost:9092").build()?;
    /// # let app = mainstem::App::new(builder.build()?, config)?;
    /// use mainstem::MetricValue;
    ///
    /// let handle = app.handle();
    /// let dropped = || {
    ///     let figures = handle.metrics().into_iter().filter(|m| m.name == "mainstem_dropped_records_total");
    ///     figures.map(|m| if let MetricValue::Counter(count) = m.value { count } else { 0 }).sum::<u64>()
    /// };
    /// assert_eq!(dropped(), 0);
    /// # Ok::<_, mainstem::Error>(())
    /// ```
    pub fn metrics(&self) -> Vec<Metric> {
        self.shared.registry.snapshot()
    }

    /// Waits until the application is in a state, or has ended. Says whether it got there.
    pub async fn wait_for(&self, state: AppState) -> bool {
        let ended = |s: &AppState| matches!(s, AppState::NotRunning | AppState::Error);
        let mut states = self.state.clone();
        match states.wait_for(|s| *s == state || ended(s)).await {
            Ok(found) => *found == state,
            Err(_) => false,
        }
    }

    /// Waits until the application has ended: committed, closed, left.
    pub async fn stopped(&self) {
        let _ = self.wait_for(AppState::NotRunning).await;
    }

    /// Asks the application to commit, close and end, and allows it 30 s. [`App::run`]'s future then resolves.
    pub fn stop(&self) {
        self.stop_with(CloseOptions::default());
    }

    /// Asks the application to commit, close and end. What has not ended in time is given up: [`App::run`]'s future then
    /// resolves with an error, and what was not committed is processed again at the next start.
    pub fn stop_within(&self, timeout: Duration) {
        self.stop_with(CloseOptions::default().within(timeout));
    }

    /// Asks the application to commit, close and end, and says how: how long that may take, and whether its member leaves
    /// the group or stays until its session is over. Whoever asks again may allow less time, but not more; the first that
    /// says whether to leave is heard.
    ///
    /// ```no_run
    /// # async fn f(handle: mainstem::AppHandle) {
    /// use mainstem::CloseOptions;
    ///
    /// // This instance with its `group.instance.id` does not come back: the others get its tasks at once.
    /// handle.stop_with(CloseOptions::default().leave_group(true));
    /// handle.stopped().await;
    /// # }
    /// ```
    pub fn stop_with(&self, options: CloseOptions) {
        // An application that has ended needs no telling.
        let _ = self.mailbox.send(ToCoordinator::Stop(options));
    }
}

/// A running application: resolves when it has ended.
///
/// Dropping the future stops the application as [`AppHandle::stop`] does, without waiting for the end;
/// [`AppHandle::stopped`] waits.
#[must_use = "an application runs when its future is awaited"]
pub struct Run {
    app: App,
    shutdown: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Run({:?})", self.app)
    }
}

impl Run {
    /// Stops the application when `signal` resolves.
    pub fn with_graceful_shutdown(mut self, signal: impl Future<Output = ()> + Send + 'static) -> Self {
        self.shutdown = Some(Box::pin(signal));
        self
    }
}

/// Tells the application to stop when the future that runs it is dropped.
struct StopOnDrop(UnboundedSender<ToCoordinator>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        let _ = self.0.send(ToCoordinator::Stop(CloseOptions::default()));
    }
}

impl IntoFuture for Run {
    type Output = Result<()>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Self { app: App { shared, mailbox, inbox, mut last }, shutdown } = self;
            let stop = StopOnDrop(mailbox.clone());
            shared.config.log_warnings();
            let (done, mut outcome) = oneshot::channel();
            let own = mailbox.clone();
            let io_shared = shared.clone();
            // From here on whatever does not end well is an error, a thread that cannot be started included.
            last.state = AppState::Error;
            std::thread::Builder::new()
                .name(format!("{}-io", shared.config.application_id()))
                .spawn(move || {
                    let io = || match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                        Ok(runtime) => {
                            let application = io_shared.config.application_id().to_owned();
                            let span = tracing::info_span!("coordinator", application);
                            runtime.block_on(Coordinator::run(io_shared.clone(), own, inbox).instrument(span))
                        }
                        Err(error) => {
                            Err(Error::new(ErrorKind::Io, "the I/O thread cannot be started").because(error))
                        }
                    };
                    let result = catch_unwind(AssertUnwindSafe(io))
                        .unwrap_or_else(|_| Err(Error::new(ErrorKind::Panic, "the I/O thread panicked")));
                    if result.is_ok() {
                        last.state = AppState::NotRunning;
                    }
                    // ORDER: whoever has the outcome sees the last state.
                    drop(last);
                    io_shared.control.listeners.finish();
                    let _ = done.send(result);
                })
                .map_err(|error| {
                    Error::new(ErrorKind::Io, "the I/O thread cannot be started").because(error)
                })?;
            if let Some(signal) = shutdown {
                tokio::select! {
                    result = &mut outcome => return ended(result),
                    () = signal => { let _ = stop.0.send(ToCoordinator::Stop(CloseOptions::default())); }
                }
            }
            ended(outcome.await)
        })
    }
}

fn ended(outcome: Result<Result<()>, oneshot::error::RecvError>) -> Result<()> {
    outcome.unwrap_or_else(|_| Err(Error::new(ErrorKind::Panic, "the I/O thread panicked")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dsl::StreamsBuilder;

    fn app() -> App {
        let builder = StreamsBuilder::new();
        builder.stream::<String, String>("in").to("out");
        let config = Config::builder("never-started", "localhost:1").build().unwrap();
        App::new(builder.build().unwrap(), config).unwrap()
    }

    #[test]
    fn a_name_that_is_too_long_for_a_topic_is_refused_before_anything_is_asked() {
        for (id, long) in [(150, 100), (200, 30)] {
            let builder = StreamsBuilder::new();
            builder.stream::<String, String>("in").group_by("g", |_, v| v.clone()).count(&*"s".repeat(long));
            let config = Config::builder(&"a".repeat(id), "localhost:1").build().unwrap();
            let length = id + 1 + long + "-changelog".len();
            let app = App::new(builder.build().unwrap(), config);
            if length > 249 {
                let text = app.unwrap_err().to_string();
                assert!(
                    text.contains(&format!("{length} characters")) && text.contains("-changelog"),
                    "{text}"
                );
                assert!(text.contains("application.id"), "{text}");
            } else {
                app.unwrap();
            }
        }
    }

    async fn has_ended(handle: &AppHandle) {
        let deadline = Duration::from_secs(30);
        assert_eq!(crate::clock::timeout(deadline, handle.stopped()).await, Some(()), "it hangs");
        assert_eq!(handle.state(), AppState::NotRunning);
        assert!(!handle.wait_for(AppState::Running).await);
    }

    #[tokio::test]
    async fn an_application_that_nobody_will_run_has_ended() {
        let app = app();
        let handle = app.handle();
        assert_eq!(handle.state(), AppState::Created);
        drop(app);
        has_ended(&handle).await;
    }

    #[tokio::test]
    async fn so_has_one_whose_run_is_dropped() {
        let app = app();
        let handle = app.handle();
        let run = app.run().with_graceful_shutdown(async {});
        assert_eq!(handle.state(), AppState::Created);
        drop(run);
        has_ended(&handle).await;
    }

    #[tokio::test]
    async fn so_has_one_whose_future_was_never_polled() {
        let app = app();
        let handle = app.handle();
        let waiting = tokio::spawn({
            let handle = handle.clone();
            async move { handle.stopped().await }
        });
        tokio::task::yield_now().await;
        let future = app.run().into_future();
        assert_eq!(handle.state(), AppState::Created);
        drop(future);
        has_ended(&handle).await;
        waiting.await.unwrap();
    }

    /// The future is dropped while the I/O thread starts: the thread has the last word, not the future.
    #[tokio::test]
    async fn a_future_dropped_after_its_first_poll_ends_well_too() {
        let app = app();
        let handle = app.handle();
        let mut future = app.run().into_future();
        std::future::poll_fn(|cx| {
            assert!(future.as_mut().poll(cx).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
        drop(future);
        has_ended(&handle).await;
    }
}
