//! What all connections share, and who is at the other end of one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::clock::BrokerClock;
use super::config::BrokerConfig;
use super::cuts::Cuts;
use super::faults::Faults;
use super::frames::Frames;
use super::handle::sasl::Session;
use super::state::State;

/// The broker: every handler gets it.
#[derive(Debug)]
pub(crate) struct Broker {
    state: Mutex<State>,
    /// Wakes whoever waits for logs to change: fetches and acknowledgements.
    pub(crate) changed: Notify,
    /// Wakes the task that keeps deadlines, because there may be a nearer one. The server does so after each request
    /// but produce and fetch.
    pub(crate) timers: Notify,
    pub(crate) clock: BrokerClock,
    pub(crate) config: BrokerConfig,
    pub(crate) faults: Faults,
    pub(crate) cuts: Cuts,
    pub(crate) frames: Frames,
    /// Names and passwords; if there are any, every connection must authenticate.
    pub(crate) users: Vec<(String, String)>,
}

impl Broker {
    pub(crate) fn new(
        state: State,
        clock: BrokerClock,
        config: BrokerConfig,
        users: Vec<(String, String)>,
    ) -> Self {
        Self {
            state: Mutex::new(state),
            changed: Notify::new(),
            timers: Notify::new(),
            clock,
            config,
            faults: Faults::default(),
            cuts: Cuts::default(),
            frames: Frames::default(),
            users,
        }
    }

    /// The state; never held over an await, which the compiler sees to.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who asks.
#[derive(Debug)]
pub(crate) struct Caller {
    /// The node that was asked.
    pub(crate) node: i32,
    /// The version of the request.
    pub(crate) version: i16,
    /// The `client.id`, empty if there is none.
    pub(crate) client_id: String,
    /// The other side's address as Kafka prints it: `/127.0.0.1`.
    pub(crate) host: Arc<str>,
    /// What the connection remembers between requests.
    pub(crate) session: Arc<Mutex<Session>>,
}

impl Caller {
    /// What the connection remembers.
    pub(crate) fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
