//! Connections: one listener a logical node, requests of a connection one after another, answers in their order.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::ResponseHeader;
use kafka_protocol::protocol::Encodable;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::api::{self, Api};
use super::broker::{Broker, Caller};
use super::decode;
use super::faults::{Call, Fault};
use super::frames::Frame;
use super::handle::cluster::versions;
use super::handle::sasl::Session;
use crate::clock;
use crate::{Error, ErrorKind, Result};

/// How much is read from a connection at once; a frame reserves no more before it has come.
const READ_SIZE: usize = 256 << 10;
/// UNSUPPORTED_VERSION.
const UNSUPPORTED_VERSION: i16 = 35;

/// How long to wait before a port is bound again that somebody still has.
const BIND_PAUSE: Duration = Duration::from_millis(5);

/// What a logical node does. The number is that of its life: a node that was stopped and started at once has another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It serves.
    Running(u32),
    /// It takes connections and requests, and does nothing.
    Frozen(u32),
    /// It refuses connections.
    Stopped(u32),
}

impl Mode {
    fn life(self) -> Option<u32> {
        match self {
            Self::Running(life) | Self::Frozen(life) => Some(life),
            Self::Stopped(_) => None,
        }
    }

    pub(crate) fn stopped(self) -> Self {
        let (Self::Running(life) | Self::Frozen(life) | Self::Stopped(life)) = self;
        Self::Stopped(life)
    }

    pub(crate) fn started(self) -> Self {
        match self {
            Self::Stopped(life) => Self::Running(life.wrapping_add(1)),
            Self::Running(life) | Self::Frozen(life) => Self::Running(life),
        }
    }

    pub(crate) fn frozen(self) -> Self {
        match self {
            Self::Running(life) | Self::Frozen(life) => Self::Frozen(life),
            stopped @ Self::Stopped(_) => stopped,
        }
    }

    pub(crate) fn thawed(self) -> Self {
        match self {
            Self::Frozen(life) => Self::Running(life),
            other => other,
        }
    }
}

/// Serves a node until the task is dropped.
pub(crate) async fn serve(
    broker: Arc<Broker>,
    id: i32,
    mode: watch::Sender<Mode>,
    listener: std::net::TcpListener,
) -> std::io::Result<()> {
    let address = listener.local_addr()?;
    let mut listener = TcpListener::from_std(listener)?;
    let mut changes = mode.subscribe();
    let mut life = changes.borrow().life();
    loop {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                // The sender is this function's own.
                _ = changes.wait_for(|mode| mode.life() != life) => break,
                accepted = listener.accept() => {
                    let Ok((stream, peer)) = accepted else { continue };
                    connections.spawn(connection(Arc::clone(&broker), id, mode.subscribe(), stream, peer));
                }
                Some(_) = connections.join_next() => {}
            }
        }
        drop(connections);
        drop(listener);
        // Bound but not listening: connections are refused, and nobody else gets the port.
        let socket = loop {
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            match socket.bind(address) {
                // A process that is just being started has all our sockets until it becomes another program.
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => clock::sleep(BIND_PAUSE).await,
                bound => {
                    bound?;
                    break socket;
                }
            }
        };
        life = changes.wait_for(|mode| mode.life().is_some()).await.map_or(life, |mode| mode.life());
        listener = socket.listen(1024)?;
    }
}

/// Keeps the broker's deadlines.
pub(crate) async fn keep_time(broker: Arc<Broker>) {
    loop {
        let next = {
            let mut state = broker.lock();
            state.tick(broker.clock.now(), broker.clock.wall_ms());
            state.next_deadline()
        };
        broker.changed.notify_waiters();
        tokio::select! {
            () = broker.timers.notified() => {}
            () = broker.clock.sleep_until(next.unwrap_or_else(|| broker.clock.now())), if next.is_some() => {}
        }
    }
}

async fn connection(
    broker: Arc<Broker>,
    node: i32,
    mode: watch::Receiver<Mode>,
    stream: TcpStream,
    peer: SocketAddr,
) {
    let _ = stream.set_nodelay(true);
    let mut connection = Connection {
        left: broker.cuts.life(),
        limit: usize::try_from(broker.config.number("socket.request.max.bytes")).unwrap_or(usize::MAX),
        mode,
        stream,
        read: BytesMut::new(),
        requests: Requests::new(broker, node, format!("/{}", peer.ip())),
    };
    match connection.run().await {
        Ok(()) => {}
        // Our own mistake, which a client would only see as a connection that ends again and again.
        Err(error) if error.kind() == ErrorKind::Broker => {
            tracing::error!(%error, node, %peer, "the embedded broker cannot answer");
        }
        Err(error) => tracing::debug!(%error, node, %peer, "the embedded broker ends a connection"),
    }
}

struct Connection {
    mode: watch::Receiver<Mode>,
    stream: TcpStream,
    read: BytesMut,
    limit: usize,
    /// How many bytes it lives for yet, if a test wants it to die.
    left: Option<u64>,
    requests: Requests,
}

/// What is asked on one connection.
pub(super) struct Requests {
    broker: Arc<Broker>,
    node: i32,
    host: Arc<str>,
    session: Arc<Mutex<Session>>,
}

fn io(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Io, "the connection is gone").because(error)
}

fn corrupt(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, what)
}

impl Connection {
    /// Until the other side hangs up, or says something that cannot be understood.
    async fn run(&mut self) -> Result<()> {
        while let Some(frame) = self.frame().await? {
            self.thawed().await;
            let key = key_of(&frame);
            let answer = self.requests.handle(frame).await?;
            self.thawed().await;
            if let Some(answer) = answer {
                self.write(key, &answer).await?;
            }
            if self.requests.hang_up() {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn write(&mut self, key: Option<i16>, answer: &[u8]) -> Result<()> {
        let left = self.left.map(|left| usize::try_from(left).unwrap_or(usize::MAX));
        let cut = self.requests.frame_end(key, true, answer.len());
        let end = cut.into_iter().chain(left.filter(|left| *left < answer.len())).min();
        self.stream.write_all(&answer[..end.unwrap_or(answer.len())]).await.map_err(io)?;
        match end {
            Some(_) => Err(corrupt("the connection was to die within this answer")),
            None => self.spend(answer.len()),
        }
    }

    fn spend(&mut self, bytes: usize) -> Result<()> {
        let Some(left) = &mut self.left else { return Ok(()) };
        *left = left.checked_sub(bytes as u64).ok_or_else(|| corrupt("the connection was to die here"))?;
        Ok(())
    }

    async fn thawed(&mut self) {
        // If the node is gone, so is this task.
        let _ = self.mode.wait_for(|mode| !matches!(mode, Mode::Frozen(_))).await;
    }

    async fn frame(&mut self) -> Result<Option<Bytes>> {
        // Once it is known what is asked: whether it is cut off, and where.
        let mut cut = None;
        loop {
            if let Some(length) = self.read.first_chunk().copied().map(i32::from_be_bytes) {
                let length = usize::try_from(length).ok().filter(|length| *length <= self.limit);
                let length = length.ok_or_else(|| corrupt("the length of a request is out of bounds"))?;
                let key = self.read.get(4..).filter(|_| length >= 2).and_then(key_of);
                if key.is_some() {
                    let end = *cut.get_or_insert_with(|| self.requests.frame_end(key, false, 4 + length));
                    if end.is_some_and(|end| self.read.len() >= end) {
                        return Err(corrupt("a request is cut off"));
                    }
                }
                if self.read.len() >= 4 + length {
                    self.read.advance(4);
                    return Ok(Some(self.read.split_to(length).freeze()));
                }
            }
            self.read.reserve(READ_SIZE);
            let read = self.stream.read_buf(&mut self.read).await.map_err(io)?;
            if read == 0 {
                return Ok(None);
            }
            self.spend(read)?;
        }
    }
}

/// The key of the request in a frame.
fn key_of(frame: &[u8]) -> Option<i16> {
    frame.first_chunk().map(|key| i16::from_be_bytes(*key))
}

impl Requests {
    /// After how many bytes a request or an answer shall end, and its connection.
    fn frame_end(&self, key: Option<i16>, answer: bool, length: usize) -> Option<usize> {
        let (api, ..) = Api::of(key?)?;
        let ask = || self.broker.frames.ask(|| Frame { api, node: self.node, answer, length });
        // A cut that panics cuts nothing.
        self.broker.faults.watch(format_args!("the cut, at {api:?},"), ask).flatten()
    }

    pub(super) fn new(broker: Arc<Broker>, node: i32, host: String) -> Self {
        Self { broker, node, host: host.into(), session: Arc::default() }
    }

    /// Whether the connection ends with the last answer.
    pub(super) fn hang_up(&self) -> bool {
        self.session.lock().unwrap_or_else(PoisonError::into_inner).hang_up
    }

    /// The whole frame of the answer, if there is one.
    pub(super) async fn handle(&self, mut frame: Bytes) -> Result<Option<Bytes>> {
        let Some(&[k0, k1, v0, v1]) = frame.first_chunk() else {
            return Err(corrupt("a request is shorter than its header"));
        };
        let (key, version) = (i16::from_be_bytes([k0, k1]), i16::from_be_bytes([v0, v1]));
        let Some((api, min, max)) = Api::of(key) else {
            return Err(corrupt(format!("the embedded broker does not understand requests of key {key}")));
        };
        if version < min || version > max {
            if api != Api::ApiVersions {
                return Err(corrupt(format!(
                    "{api:?} is understood in versions {min} to {max}, not {version}"
                )));
            }
            // Said in version 0, so that any client can read which versions there are (KIP-511).
            let correlation = frame.get(4..).and_then(|rest| rest.first_chunk().copied());
            let correlation = i32::from_be_bytes(correlation.unwrap_or_default());
            let refusal = versions().with_error_code(UNSUPPORTED_VERSION);
            return reply(api, 0, correlation, &api::encode("ApiVersions", 0, &refusal)?).map(Some);
        }
        let header = decode::header(&mut frame, api.key().request_header_version(version))?;
        let caller = Caller {
            node: self.node,
            version,
            client_id: header.client_id.map(|id| id.to_string()).unwrap_or_default(),
            host: Arc::clone(&self.host),
            session: Arc::clone(&self.session),
        };
        self.may_ask(api, &caller)?;
        let body = self.faulty(api, &caller, frame).await?;
        body.map(|body| reply(api, version, header.correlation_id, &body)).transpose()
    }

    /// Where the broker has users, everything but the handshake is for those who have proved who they are.
    fn may_ask(&self, api: Api, caller: &Caller) -> Result<()> {
        let open = matches!(api, Api::ApiVersions | Api::SaslHandshake | Api::SaslAuthenticate);
        if self.broker.users.is_empty() || open || caller.session().is_open() {
            return Ok(());
        }
        Err(corrupt(format!("{api:?} was asked while the connection was not authenticated")))
    }

    /// Has the request answered, in the way that the hooks say.
    async fn faulty(&self, api: Api, caller: &Caller, body: Bytes) -> Result<Option<Bytes>> {
        let call = || Call {
            api,
            version: caller.version,
            node: caller.node,
            client_id: caller.client_id.clone(),
            body: body.clone(),
        };
        let fault = self.broker.faults.ask(api, call);
        let hang_up = || corrupt(format!("a hook ends the connection at {api:?}"));
        let refusal = match fault {
            Fault::DropBefore => return Err(hang_up()),
            Fault::Answer(body) => return Ok(Some(body)),
            Fault::DelayBefore(delay) => {
                clock::sleep(delay).await;
                None
            }
            Fault::Fail(code) => Some(code),
            Fault::Pass | Fault::DelayAfter(_) | Fault::DropAfter => None,
        };
        let answer = api::dispatch(&self.broker, caller, api, body, refusal).await?;
        if !matches!(api, Api::Produce | Api::Fetch) {
            self.broker.timers.notify_one();
        }
        match fault {
            Fault::DropAfter => return Err(hang_up()),
            Fault::DelayAfter(delay) => clock::sleep(delay).await,
            _ => {}
        }
        Ok(answer)
    }
}

fn reply(api: Api, version: i16, correlation: i32, body: &Bytes) -> Result<Bytes> {
    let mut frame = BytesMut::with_capacity(16 + body.len());
    frame.put_i32(0);
    ResponseHeader::default()
        .with_correlation_id(correlation)
        .encode(&mut frame, api.key().response_header_version(version))
        .map_err(|e| corrupt("the header of an answer cannot be said").because(e.to_string()))?;
    frame.put_slice(body);
    let length = i32::try_from(frame.len() - 4).map_err(|_| corrupt("an answer is too long"))?;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    Ok(frame.freeze())
}
