//! One connection to a broker: requests out, answers in, healthy or poisoned.
//!
//! Frames are written by a task of the connection, whole or not at all, so a caller that gives up never leaves half a
//! frame behind. A broker answers the requests of a connection in their order, so waiters stand in a queue. The first
//! fault that makes the stream unknowable poisons the connection: every waiter and every later caller gets that cause.

mod api;
#[cfg(feature = "sasl")]
mod authenticate;
mod frame;
mod guard;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};
use kafka_protocol::protocol::{StrBytes, VersionRange};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

#[cfg(test)]
pub(crate) use api::OLDEST;
#[cfg(feature = "testing")]
pub(crate) use api::decode_answer;
pub(crate) use api::{Api, choose};
use frame::FrameReader;
#[cfg(feature = "embedded")]
pub(crate) use guard::read;

#[cfg(feature = "sasl")]
use crate::client::retry::random;
use crate::config::Sasl;
use crate::{Error, ErrorClass, ErrorKind, Result, clock};

const UNSUPPORTED_VERSION: i16 = 35;

/// An error that several callers got.
#[derive(Debug, Clone)]
pub(crate) struct SharedError(Arc<Error>);

impl SharedError {
    pub(crate) fn new(error: Error) -> Self {
        Self(Arc::new(error))
    }

    pub(crate) fn kind(&self) -> ErrorKind {
        self.0.kind()
    }

    pub(crate) fn class(&self) -> ErrorClass {
        self.0.class()
    }
}

impl fmt::Display for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for SharedError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&*self.0)
    }
}

/// How to treat a connection.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionOptions {
    /// Who it leads to, for errors: `node 1 at kafka-1:9092`.
    pub(crate) peer: String,
    /// The name that brokers log.
    pub(crate) client_id: String,
    /// The largest frame that is read, in bytes.
    pub(crate) max_frame: usize,
    /// How long each answer of the version negotiation and of SASL may take.
    pub(crate) timeout: Duration,
    /// Who the client is, if it says so.
    pub(crate) sasl: Option<Sasl>,
}

/// One connection to a broker. Clones share it; the last one closes it.
#[derive(Debug, Clone)]
pub(crate) struct Connection(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    client_id: StrBytes,
    next_id: AtomicI32,
    task: AbortHandle,
    versions: HashMap<i16, VersionRange>,
    features: HashMap<String, i16>,
    sasl: Option<Sasl>,
    /// When to authenticate again, before the broker ends the session (KIP-368).
    renew_at: Mutex<Option<Instant>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug)]
struct Shared {
    peer: String,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// The waiters in the order of their requests, the way to the writer, and when it was used last.
    Healthy(VecDeque<Waiter>, mpsc::UnboundedSender<Bytes>, Instant),
    Poisoned(SharedError),
}

#[derive(Debug)]
struct Waiter {
    correlation_id: i32,
    reply: oneshot::Sender<Result<Bytes, SharedError>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the connection for everybody, unless it has ended already: the first cause stays.
    fn poison(&self, cause: Error) {
        let mut state = self.lock();
        if let State::Healthy(waiters, ..) = &mut *state {
            let cause = SharedError::new(cause);
            let waiters = std::mem::take(waiters);
            *state = State::Poisoned(cause.clone());
            drop(state);
            for waiter in waiters {
                // A waiter that has gone away does not mind.
                let _ = waiter.reply.send(Err(cause.clone()));
            }
        }
    }

    /// Gives a frame to the first waiter, whose it must be.
    fn answer(&self, frame: Bytes) -> Result<()> {
        let id = frame.first_chunk().map_or(-1, |id| i32::from_be_bytes(*id));
        let mut state = self.lock();
        let State::Healthy(waiters, _, used) = &mut *state else { return Ok(()) };
        *used = clock::monotonic();
        let due = waiters.front().map(|waiter| waiter.correlation_id);
        if due != Some(id) {
            let due = due.map_or("none".to_owned(), |due| due.to_string());
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("an answer has correlation id {id}, {due} is due"),
            )
            .with_class(ErrorClass::Retriable));
        }
        if let Some(waiter) = waiters.pop_front() {
            drop(state);
            let _ = waiter.reply.send(Ok(frame));
        }
        Ok(())
    }
}

/// Poisons the connection when its task ends without having done so, as at the end of a runtime.
struct TaskEnd(Arc<Shared>);

impl Drop for TaskEnd {
    fn drop(&mut self) {
        self.0.poison(
            Error::new(ErrorKind::Closed, "the connection was closed").with_class(ErrorClass::Retriable),
        );
    }
}

async fn run<RW: AsyncRead + AsyncWrite + Send>(
    stream: RW,
    frames: mpsc::UnboundedReceiver<Bytes>,
    shared: Arc<Shared>,
    max_frame: usize,
) {
    let end = TaskEnd(shared);
    let (read, write) = tokio::io::split(stream);
    let cause = tokio::select! {
        cause = read_all(FrameReader::new(read, max_frame), &end.0) => cause,
        cause = write_all(write, frames) => cause,
    };
    end.0.poison(cause);
}

async fn read_all<R: AsyncRead + Unpin>(mut frames: FrameReader<R>, shared: &Shared) -> Error {
    let mut answers = 0;
    loop {
        match frames.next().await.and_then(|frame| shared.answer(frame)) {
            Ok(()) => answers += 1,
            // A listener that asks for SASL answers ApiVersions, and ends the connection at anything else.
            Err(cause) if cause.kind() == ErrorKind::Connection && answers <= 1 => {
                return Error::new(
                    ErrorKind::Connection,
                    "the broker ended a new connection: if this listener asks for SASL or TLS, set security.protocol",
                )
                .with_class(cause.class())
                .because(cause);
            }
            Err(cause) => return cause,
        }
    }
}

async fn write_all<W: AsyncWrite>(
    mut stream: WriteHalf<W>,
    mut frames: mpsc::UnboundedReceiver<Bytes>,
) -> Error {
    while let Some(frame) = frames.recv().await {
        let written = async {
            stream.write_all(&frame).await?;
            if frames.is_empty() { stream.flush().await } else { Ok(()) }
        };
        if let Err(cause) = written.await {
            return Error::new(ErrorKind::Connection, "cannot write to the broker")
                .with_class(ErrorClass::Retriable)
                .because(cause);
        }
    }
    Error::new(ErrorKind::Closed, "the connection was closed").with_class(ErrorClass::Retriable)
}

impl Connection {
    /// Takes a stream over and agrees on versions with the broker behind it. Its task runs on the current runtime.
    pub(crate) async fn open<RW>(stream: RW, options: ConnectionOptions) -> Result<Self>
    where
        RW: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (out, frames) = mpsc::unbounded_channel();
        let state = State::Healthy(VecDeque::new(), out, clock::monotonic());
        let sasl = options.sasl;
        let shared = Arc::new(Shared { peer: options.peer, state: Mutex::new(state) });
        let task = tokio::spawn(run(stream, frames, Arc::clone(&shared), options.max_frame)).abort_handle();
        let mut handle = Handle {
            shared,
            client_id: StrBytes::from_string(options.client_id),
            next_id: AtomicI32::new(0),
            task,
            versions: HashMap::new(),
            features: HashMap::new(),
            sasl,
            renew_at: Mutex::new(None),
        };
        let theirs = handle.negotiate(options.timeout).await?;
        handle.versions = theirs
            .api_keys
            .iter()
            .map(|api| (api.api_key, VersionRange { min: api.min_version, max: api.max_version }))
            .collect();
        handle.features =
            theirs.finalized_features.iter().map(|f| (f.name.to_string(), f.max_version_level)).collect();
        // As in Java (`SaslClientAuthenticator`) the versions are asked for before, and hold after.
        handle.renew(options.timeout).await?;
        Ok(Self(Arc::new(handle)))
    }

    /// Authenticates again if the session is about to end; requests under way are answered all the same. No request may be
    /// sent meanwhile. After an error the connection is of no use.
    pub(crate) async fn renew_session(&self, timeout: Duration) -> Result<()> {
        let due = *self.0.renew_at.lock().unwrap_or_else(PoisonError::into_inner);
        if due.is_some_and(|due| clock::monotonic() >= due) {
            tracing::debug!(peer = self.0.shared.peer, "authenticating again before the session ends");
            // ORDER: it stays due until it has succeeded. If the caller gives up on the way, the next one begins anew, which
            // the broker refuses, and the connection ends.
            self.0.renew(timeout).await?;
        }
        Ok(())
    }

    /// Sends a request; what comes back is awaited separately, so that the order of calls is the order on the wire.
    ///
    /// `max_version` lowers the upper end of [`Api::VERSIONS`] for this request.
    pub(crate) fn send<A: Api>(&self, request: &A, max_version: Option<i16>) -> Result<Pending<A>> {
        let version = self.version::<A>(max_version)?;
        let reply = self.0.enqueue(request, version)?;
        Ok(Pending { connection: self.clone(), version, reply, api: std::marker::PhantomData })
    }

    /// Sends a request and waits for its answer.
    pub(crate) async fn request<A: Api>(&self, request: &A, timeout: Duration) -> Result<A::Response> {
        self.send(request, None)?.answer(timeout).await
    }

    /// The version in which a request is said on this connection.
    pub(crate) fn version<A: Api>(&self, max_version: Option<i16>) -> Result<i16> {
        self.0.version::<A>(max_version)
    }

    /// The level of a feature that the cluster has finalized, such as `transaction.version`; 0 if it has not.
    pub(crate) fn feature(&self, name: &str) -> i16 {
        self.0.features.get(name).copied().unwrap_or(0)
    }

    /// Whether nothing can be asked any more.
    pub(crate) fn is_poisoned(&self) -> bool {
        matches!(*self.0.shared.lock(), State::Poisoned(_))
    }

    /// Whether it has not been used for so long. Somebody between here and the broker may have forgotten it by then, and
    /// say nothing.
    pub(crate) fn is_idle_for(&self, max_idle: Duration) -> bool {
        match &*self.0.shared.lock() {
            State::Healthy(waiters, _, used) => {
                waiters.is_empty() && clock::monotonic().saturating_duration_since(*used) > max_idle
            }
            State::Poisoned(_) => false,
        }
    }

    /// Ends the connection: whoever waits gets this cause.
    pub(crate) fn close(&self, cause: Error) {
        self.0.close(cause);
    }
}

impl Handle {
    fn version<A: Api>(&self, max_version: Option<i16>) -> Result<i16> {
        let mut ours = A::VERSIONS;
        ours.max = ours.max.min(max_version.unwrap_or(i16::MAX));
        let peer = &self.shared.peer;
        let refuse = |theirs: String| {
            Error::new(
                ErrorKind::Broker,
                format!(
                    "{} is said here in versions {} to {}, {peer} understands {theirs}: brokers from 2.5 to 4.x are supported",
                    A::NAME, ours.min, ours.max
                ),
            )
            .with_code(UNSUPPORTED_VERSION)
        };
        let theirs = *self.versions.get(&A::KEY).ok_or_else(|| refuse("none".to_owned()))?;
        choose(ours, theirs).ok_or_else(|| refuse(format!("{} to {}", theirs.min, theirs.max)))
    }

    /// Says who the client is, if it does, and notes when to say it again.
    async fn renew(&self, timeout: Duration) -> Result<()> {
        #[cfg(feature = "sasl")]
        if let Some(sasl) = &self.sasl {
            let lifetime = self.authenticate(sasl, timeout).await?;
            // As in Java, somewhere between 85 and 95 % of it, so that not all connections do it at once.
            let renew_at =
                lifetime.map(|lifetime| clock::monotonic() + lifetime.mul_f64(0.85 + 0.1 * random()));
            *self.renew_at.lock().unwrap_or_else(PoisonError::into_inner) = renew_at;
        }
        let _ = (&self.sasl, timeout);
        Ok(())
    }

    /// ApiVersions is the one request whose version cannot be negotiated: a broker that does not know ours answers in
    /// version 0, with the versions it knows (KIP-511).
    async fn negotiate(&self, timeout: Duration) -> Result<ApiVersionsResponse> {
        let mut version = ApiVersionsRequest::VERSIONS.max;
        loop {
            let request = ApiVersionsRequest::default()
                .with_client_software_name(StrBytes::from_static_str("mainstem"))
                .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
            let reply = self.enqueue(&request, version)?;
            let frame = self.wait::<ApiVersionsRequest>(reply, timeout).await?;
            let code = frame.get(4..6).map_or(0, |code| i16::from_be_bytes([code[0], code[1]]));
            let answered = if code == UNSUPPORTED_VERSION { 0 } else { version };
            let theirs: ApiVersionsResponse = guard::decode("ApiVersions", answered, frame)?;
            match code {
                0 => return Ok(theirs),
                UNSUPPORTED_VERSION if version > 0 => {
                    let range = theirs.api_keys.iter().find(|api| api.api_key == ApiVersionsRequest::KEY);
                    version = range.map_or(0, |api| api.max_version.min(version - 1)).max(0);
                }
                code => {
                    return Err(Error::new(
                        ErrorKind::Broker,
                        format!("{} does not tell its versions", self.shared.peer),
                    )
                    .with_code(code));
                }
            }
        }
    }

    fn enqueue<A: Api>(
        &self,
        request: &A,
        version: i16,
    ) -> Result<oneshot::Receiver<Result<Bytes, SharedError>>> {
        let correlation_id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let frame = frame::encode(request, version, correlation_id, &self.client_id)?;
        let (reply, answer) = oneshot::channel();
        match &mut *self.shared.lock() {
            State::Healthy(waiters, out, used) => {
                *used = clock::monotonic();
                // ORDER: under one lock, so that waiters stand in the order of the frames.
                waiters.push_back(Waiter { correlation_id, reply });
                // A writer that has ended is about to poison the connection, and this waiter with it.
                let _ = out.send(frame);
                Ok(answer)
            }
            State::Poisoned(cause) => Err(self.refused::<A>(cause.clone())),
        }
    }

    async fn wait<A: Api>(
        &self,
        reply: oneshot::Receiver<Result<Bytes, SharedError>>,
        timeout: Duration,
    ) -> Result<Bytes> {
        match clock::timeout(timeout, reply).await {
            Some(Ok(Ok(frame))) => Ok(frame),
            Some(Ok(Err(cause))) => Err(self.refused::<A>(cause)),
            Some(Err(_)) => {
                Err(Error::new(ErrorKind::Closed, "the connection was closed")
                    .with_class(ErrorClass::Retriable))
            }
            None => {
                // The answers behind this one are late as well; as Java's NetworkClient, start over on a new connection.
                let late = || {
                    Error::new(
                        ErrorKind::Timeout,
                        format!("no answer to {} from {} within {timeout:?}", A::NAME, self.shared.peer),
                    )
                    .with_class(ErrorClass::Retriable)
                };
                self.close(late());
                Err(late())
            }
        }
    }

    fn refused<A: Api>(&self, cause: SharedError) -> Error {
        let kind = match cause.kind() {
            ErrorKind::Timeout | ErrorKind::Closed | ErrorKind::Authentication => cause.kind(),
            _ => ErrorKind::Connection,
        };
        Error::new(kind, format!("no answer to {}: the connection to {} is lost", A::NAME, self.shared.peer))
            .with_class(cause.class())
            .because(cause)
    }

    fn close(&self, cause: Error) {
        self.shared.poison(cause);
        self.task.abort();
    }
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct Pending<A> {
    connection: Connection,
    version: i16,
    reply: oneshot::Receiver<Result<Bytes, SharedError>>,
    api: std::marker::PhantomData<fn() -> A>,
}

impl<A: Api> Pending<A> {
    /// The version it was said in.
    pub(crate) fn version(&self) -> i16 {
        self.version
    }

    /// Waits for the answer; without one in time the connection is given up.
    pub(crate) async fn answer(self, timeout: Duration) -> Result<A::Response> {
        let frame = self.connection.0.wait::<A>(self.reply, timeout).await?;
        guard::decode(A::NAME, self.version, frame)
    }
}
