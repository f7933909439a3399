//! A broker and the connections to it, one for each class of requests.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::Mutex as AsyncMutex;

use crate::client::config::{Address, ClientConfig};
use crate::client::connection::{Api, Connection, ConnectionOptions, Pending, SharedError};
use crate::client::retry::Backoff;
use crate::client::security::Access;
use crate::{Error, ErrorClass, ErrorKind, Result, clock};

/// What a request is for. Each class has its own connection to a broker, because a broker answers one request a
/// connection at a time: whatever shares a connection with a parked JoinGroup stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ConnectionClass {
    /// Fetches of source topics.
    LiveFetch,
    /// Fetches of restores, standbys and global tables.
    BulkFetch,
    /// Produce.
    Produce,
    /// JoinGroup and SyncGroup, which park, and nothing else.
    Group,
    /// What may take long: topics made, deleted and configured, records deleted.
    Slow,
    /// Everything else: heartbeats, commits, transactions, metadata, offsets.
    Normal,
}

const CLASSES: usize = 6;

/// A broker at an address. At another address it is another node, with fresh connections.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: i32,
    pub(super) address: Address,
    pub(super) rack: Option<String>,
    slots: [Slot; CLASSES],
}

#[derive(Debug, Default)]
struct Slot {
    /// Held while connecting and sending: callers share one attempt and keep their order.
    current: AsyncMutex<Current>,
    status: Mutex<Status>,
}

#[derive(Debug, Default)]
struct Current {
    failed: Option<SharedError>,
    retry_at: Option<Instant>,
}

/// What can be read without waiting for a connection attempt.
#[derive(Debug, Default, Clone)]
struct Status {
    connection: Option<Connection>,
    attempts: u64,
    failures: u32,
    /// Until when the broker wants to hear nothing (KIP-219).
    quiet_until: Option<Instant>,
}

impl Slot {
    fn status(&self) -> std::sync::MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node {
    pub(super) fn new(id: i32, address: Address, rack: Option<String>) -> Self {
        Self { id, address, rack, slots: std::array::from_fn(|_| Slot::default()) }
    }

    fn slot(&self, class: ConnectionClass) -> &Slot {
        &self.slots[class as usize]
    }

    /// Sends a request. Those of one class are sent in the order in which their futures are first polled, whatever each
    /// waits for: the lock of the class is fair and held until the request is on its way.
    pub(super) async fn send<A: Api>(
        &self,
        class: ConnectionClass,
        request: &A,
        max_version: Option<i16>,
        reach: &Reach<'_>,
    ) -> Result<Pending<A>> {
        let slot = self.slot(class);
        let seen = slot.status().attempts;
        let mut current = slot.current.lock().await;
        let connection = self.connect(slot, &mut current, seen, reach).await?;
        // The broker asked for silence (KIP-219).
        let quiet_until = slot.status().quiet_until;
        if let Some(left) = quiet_until.and_then(|until| until.checked_duration_since(clock::monotonic())) {
            clock::sleep(left).await;
        }
        connection.send(request, max_version)
    }

    /// The connection of a class.
    pub(super) async fn connection(&self, class: ConnectionClass, reach: &Reach<'_>) -> Result<Connection> {
        let slot = self.slot(class);
        let seen = slot.status().attempts;
        let mut current = slot.current.lock().await;
        self.connect(slot, &mut current, seen, reach).await
    }

    /// The connection that there is, or a new one if there is none or it is poisoned. `seen` is the count of attempts
    /// when the caller began to wait.
    async fn connect(
        &self,
        slot: &Slot,
        current: &mut Current,
        seen: u64,
        reach: &Reach<'_>,
    ) -> Result<Connection> {
        let known = slot.status().connection.clone();
        let fresh = |connection: &Connection| !connection.is_idle_for(reach.config.connection_max_idle);
        if let Some(connection) = known.filter(|connection| !connection.is_poisoned() && fresh(connection)) {
            match connection.renew_session(reach.config.request_timeout).await {
                Ok(()) => return Ok(connection),
                // A new connection shows whether that was the broker's last word.
                Err(error) => {
                    tracing::warn!(%error, node = self.id, "cannot authenticate again: the connection is opened anew");
                    connection.close(error.with_class(ErrorClass::Retriable));
                }
            }
        }
        if slot.status().attempts != seen
            && let Some(failed) = &current.failed
        {
            // Somebody tried while this caller waited: their failure is this caller's too.
            return Err(self.unreachable(failed.clone()));
        }
        if let Some(at) = current.retry_at.take() {
            clock::sleep(at.saturating_duration_since(clock::monotonic())).await;
        }
        let opened = open(&self.address, self.to_string(), reach).await;
        let mut status = slot.status();
        status.attempts += 1;
        match opened {
            Ok(connection) => {
                status.failures = 0;
                status.connection = Some(connection.clone());
                current.failed = None;
                Ok(connection)
            }
            Err(error) => {
                status.failures += 1;
                status.connection = None;
                let backoff = Backoff {
                    first: reach.config.reconnect_backoff,
                    max: reach.config.reconnect_backoff_max,
                };
                current.retry_at = Some(clock::monotonic() + backoff.pause(status.failures));
                let failed = SharedError::new(error);
                current.failed = Some(failed.clone());
                Err(self.unreachable(failed))
            }
        }
    }

    fn unreachable(&self, cause: SharedError) -> Error {
        let class = cause.class();
        if cause.kind() == ErrorKind::Authentication {
            return Error::new(cause.kind(), format!("{self} and this client do not trust each other"))
                .with_class(class)
                .because(cause);
        }
        Error::new(
            cause.kind(),
            format!(
                "cannot reach {self}, the address that the cluster advertises for it: check that it resolves and is open \
                 from here, or correct advertised.listeners of that broker"
            ),
        )
        .with_class(class)
        .because(cause)
    }

    /// How trustworthy the node looks: 0 with a healthy connection, more with each failure in a row.
    pub(super) fn badness(&self) -> u32 {
        let worst = self.slots.iter().map(|slot| slot.status().failures).max().unwrap_or(0);
        let status = self.slot(ConnectionClass::Normal).status();
        let connected = status.connection.as_ref().is_some_and(|c| !c.is_poisoned());
        worst.saturating_mul(2) + u32::from(!connected)
    }

    /// Notes that the broker asked for silence, in ms.
    pub(super) fn throttle(&self, class: ConnectionClass, ms: i32) {
        if let Some(ms) = u64::try_from(ms).ok().filter(|ms| *ms > 0) {
            tracing::debug!(node = self.id, ?class, ms, "throttled by the broker");
            self.slot(class).status().quiet_until = Some(clock::monotonic() + Duration::from_millis(ms));
        }
    }

    /// Ends every connection.
    pub(super) fn close(&self, cause: impl Fn() -> Error) {
        for slot in &self.slots {
            if let Some(connection) = slot.status().connection.take() {
                connection.close(cause());
            }
        }
    }
}

impl std::fmt::Display for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "node {} at {}", self.id, self.address)
    }
}

/// How to reach nodes.
pub(super) struct Reach<'a> {
    pub(super) config: &'a ClientConfig,
    pub(super) access: &'a Arc<Access>,
    pub(super) runtime: &'a tokio::runtime::Handle,
}

/// Connects to an address, agrees on versions, and says who the client is. The socket lives on the given runtime, whoever asks for it.
pub(super) async fn open(address: &Address, peer: String, reach: &Reach<'_>) -> Result<Connection> {
    let Reach { config, access, runtime } = reach;
    let (address, access) = (address.clone(), Arc::clone(access));
    let options = ConnectionOptions {
        peer,
        client_id: config.client_id.clone(),
        max_frame: config.max_frame,
        timeout: config.request_timeout,
        sasl: access.sasl().cloned(),
    };
    let limit = config.connect_timeout;
    let opening = runtime.spawn(async move {
        let stream =
            match clock::timeout(limit, TcpStream::connect((address.host.as_str(), address.port))).await {
                Some(Ok(stream)) => stream,
                Some(Err(cause)) => {
                    return Err(Error::new(ErrorKind::Connection, "no connection")
                        .with_class(ErrorClass::Retriable)
                        .because(cause));
                }
                None => {
                    return Err(Error::new(ErrorKind::Connection, format!("no connection within {limit:?}"))
                        .with_class(ErrorClass::Retriable));
                }
            };
        // Requests are small and wait for their answers: Nagle's algorithm only delays them.
        let _ = stream.set_nodelay(true);
        // A connection that is given up is reset. Closed in good order it would go on delivering what waits in it, and a
        // broker carry it out whenever it gets there: a commit behind a slow request would set offsets back that a later
        // connection has committed.
        let _ = stream.set_zero_linger();
        let stream = match clock::timeout(limit, access.secure(stream, &address)).await {
            Some(secured) => secured?,
            None => {
                return Err(Error::new(
                    ErrorKind::Connection,
                    format!("no end of the TLS handshake within {limit:?}"),
                )
                .with_class(ErrorClass::Retriable));
            }
        };
        Connection::open(stream, options).await
    });
    // A caller that gives up leaves the attempt to end by itself, within its timeouts.
    opening.await.unwrap_or_else(|ended| {
        Err(Error::new(ErrorKind::Closed, "the runtime of the client has ended").because(ended))
    })
}
