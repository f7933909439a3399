//! The cluster: which brokers there are, who leads what, and a connection to each for every class of requests.

mod lookup;
mod metadata;
mod node;
#[cfg(test)]
mod tests;
mod transport;

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kafka_protocol::messages::MetadataResponse;
use tokio::runtime::Handle;
use tokio::sync::Mutex as AsyncMutex;

pub(crate) use lookup::CoordinatorType;
pub(crate) use metadata::Leader;
pub use metadata::{PartitionInfo, TopicInfo};
pub(crate) use node::ConnectionClass;
use node::{Node, Reach};

use crate::client::config::{Address, ClientConfig};
use crate::client::connection::{Api, Connection};
use crate::client::retry::{Backoff, Retry};
use crate::client::security::Access;
use crate::{Error, ErrorClass, ErrorKind, Result, clock};

/// For how long a bootstrap address is tried again at the start. A connection that breaks, or a broker that is just restarting,
/// does not make an address wrong; one that is wrong shall be said soon.
const BOOTSTRAP_GRACE: Duration = Duration::from_secs(1);

/// A broker of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Broker {
    /// Its node id.
    pub node: i32,
    /// The host that it advertises.
    pub host: String,
    /// The port that it advertises.
    pub port: u16,
    /// Where it stands, if it says so.
    pub rack: Option<String>,
}

/// A cluster of brokers. Clones share connections and what is known.
///
/// Its sockets live on the tokio runtime that [`connect`](Self::connect) was called on; calls may come from any runtime.
///
/// ```no_run
/// # async fn example() -> mainstem::Result<()> {
/// use mainstem::client::{ClientConfig, Cluster};
///
/// let cluster = Cluster::connect(ClientConfig::new("localhost:9092")).await?;
/// for broker in cluster.brokers() {
///     println!("{} is at {}:{}", broker.node, broker.host, broker.port);
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Cluster(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: ClientConfig,
    access: Arc<Access>,
    addresses: Vec<Address>,
    runtime: Handle,
    closed: AtomicBool,
    known: Mutex<Known>,
    topics: Mutex<metadata::Cache>,
    coordinators: Mutex<HashMap<(CoordinatorType, String), i32>>,
    /// Held by the one who asks for metadata, so that many callers share one look.
    asking: AsyncMutex<()>,
}

#[derive(Debug)]
struct Known {
    nodes: HashMap<i32, Arc<Node>>,
    cluster_id: Option<String>,
    controller: Option<i32>,
    /// When a broker last told metadata.
    answered: Instant,
}

/// How to treat one request.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RequestOptions {
    /// How long to wait for the answer; `None` means the configuration's `request_timeout`.
    pub(crate) timeout: Option<Duration>,
    /// The highest version to say it in; `None` means the highest there is.
    pub(crate) max_version: Option<i16>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cluster {
    /// Finds the brokers through any of the bootstrap addresses.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when an address, a certificate or a key cannot be read; [`ErrorKind::Authentication`] when a
    /// broker and this client do not trust each other; [`ErrorKind::Connection`] when none answers: its causes name every
    /// address.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn connect(config: ClientConfig) -> Result<Self> {
        let addresses = config.addresses()?;
        let age = config.metadata_max_age;
        let access = Arc::new(Access::prepare(&config.security)?);
        let cluster = Self(Arc::new(Inner {
            config,
            access,
            addresses,
            runtime: Handle::current(),
            closed: AtomicBool::new(false),
            known: Mutex::new(Known {
                nodes: HashMap::new(),
                cluster_id: None,
                controller: None,
                answered: clock::monotonic(),
            }),
            topics: Mutex::default(),
            coordinators: Mutex::default(),
            asking: AsyncMutex::new(()),
        }));
        let response = cluster.ask_bootstrap(&[], BOOTSTRAP_GRACE).await?;
        cluster.apply(&response)?;
        let weak = Arc::downgrade(&cluster.0);
        cluster.0.runtime.spawn(async move {
            loop {
                clock::sleep(age).await;
                let Some(inner) = weak.upgrade().filter(|inner| !inner.closed.load(Ordering::Acquire)) else {
                    return;
                };
                Self(inner).refresh_used().await;
            }
        });
        Ok(cluster)
    }

    /// The configuration.
    pub(crate) fn config(&self) -> &ClientConfig {
        &self.0.config
    }

    /// The runtime that the sockets live on.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.0.runtime
    }

    /// The brokers that are known, by node id.
    pub fn brokers(&self) -> Vec<Broker> {
        let mut brokers: Vec<_> = lock(&self.0.known)
            .nodes
            .values()
            .map(|node| Broker {
                node: node.id,
                host: node.address.host.clone(),
                port: node.address.port,
                rack: node.rack.clone(),
            })
            .collect();
        brokers.sort_by_key(|broker| broker.node);
        brokers
    }

    /// The cluster's id, if the brokers tell one.
    pub fn cluster_id(&self) -> Option<String> {
        lock(&self.0.known).cluster_id.clone()
    }

    /// Closes every connection; calls under way and later ones fail with [`ErrorKind::Closed`].
    pub fn close(&self) {
        self.0.closed.store(true, Ordering::Release);
        let nodes: Vec<_> = lock(&self.0.known).nodes.drain().map(|(_, node)| node).collect();
        for node in nodes {
            node.close(closed);
        }
    }

    /// Whether [`close`](Self::close) was called.
    pub fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Acquire)
    }

    /// Asks one broker once.
    pub(crate) async fn request<A: Api>(
        &self,
        node: i32,
        class: ConnectionClass,
        request: &A,
    ) -> Result<A::Response> {
        self.request_with(node, class, request, RequestOptions::default()).await
    }

    /// Asks one broker once, with options.
    pub(crate) async fn request_with<A: Api>(
        &self,
        node: i32,
        class: ConnectionClass,
        request: &A,
        options: RequestOptions,
    ) -> Result<A::Response> {
        let node = self.node(node)?;
        let reach = self.reach();
        let sending = node.send(class, request, options.max_version, &reach);
        let pending = self.within_limit(&node, sending).await?;
        let timeout = options.timeout.unwrap_or(self.0.config.request_timeout);
        let response = pending.answer(timeout).await.map_err(|error| self.unless_closed(error))?;
        node.throttle(class, A::throttle_ms(&response));
        Ok(response)
    }

    /// The version in which a broker would be asked.
    pub(crate) async fn version<A: Api>(&self, node: i32, class: ConnectionClass) -> Result<i16> {
        self.connection(node, class).await?.version::<A>(None)
    }

    /// The level of a feature that the cluster has finalized, as a broker tells it; 0 if it has not.
    pub(crate) async fn feature(&self, name: &str) -> Result<i16> {
        self.feature_at(self.any_node()?, name).await
    }

    /// The same, as this broker tells it.
    pub(crate) async fn feature_at(&self, node: i32, name: &str) -> Result<i16> {
        Ok(self.connection(node, ConnectionClass::Normal).await?.feature(name))
    }

    /// Asks brokers one after the other until one answers.
    pub(crate) async fn request_any<A: Api>(
        &self,
        class: ConnectionClass,
        request: &A,
    ) -> Result<A::Response> {
        let mut last = None;
        for node in self.nodes_by_badness() {
            match self.request(node.id, class, request).await {
                Ok(response) => return Ok(response),
                Err(error) if error.is_retriable() => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        // None answered: the next call finds the brokers of today.
        self.refresh(&[], None).await?;
        Err(last.unwrap_or_else(no_brokers))
    }

    async fn connection(&self, id: i32, class: ConnectionClass) -> Result<Connection> {
        let node = self.node(id)?;
        self.within_limit(&node, node.connection(class, &self.reach())).await
    }

    fn reach(&self) -> Reach<'_> {
        Reach { config: &self.0.config, access: &self.0.access, runtime: &self.0.runtime }
    }

    /// What needs a connection has it within the request timeout, and never from a client that was closed meanwhile.
    async fn within_limit<R>(&self, node: &Node, connecting: impl Future<Output = Result<R>>) -> Result<R> {
        let limit = self.0.config.request_timeout;
        let connected = clock::timeout(limit, connecting).await.unwrap_or_else(|| {
            Err(Error::new(ErrorKind::Timeout, format!("no connection to {node} within {limit:?}"))
                .with_class(ErrorClass::Retriable))
        });
        if self.is_closed() {
            node.close(closed);
        }
        connected.map_err(|error| self.unless_closed(error))
    }

    fn node(&self, id: i32) -> Result<Arc<Node>> {
        if self.is_closed() {
            return Err(closed());
        }
        lock(&self.0.known).nodes.get(&id).cloned().ok_or_else(|| {
            Error::new(
                ErrorKind::Connection,
                format!("node {id} is not among the brokers of the cluster now"),
            )
            .with_class(ErrorClass::Retriable)
        })
    }

    fn unless_closed(&self, error: Error) -> Error {
        if self.is_closed() { closed().because(error) } else { error }
    }

    fn nodes_by_badness(&self) -> Vec<Arc<Node>> {
        let mut nodes: Vec<_> = lock(&self.0.known).nodes.values().cloned().collect();
        // A hash map's order differs from process to process, which spreads the load.
        nodes.sort_by_cached_key(|node| node.badness());
        nodes
    }

    /// The broker that looks most likely to answer.
    pub(crate) fn any_node(&self) -> Result<i32> {
        if self.is_closed() {
            return Err(closed());
        }
        self.nodes_by_badness().first().map(|node| node.id).ok_or_else(no_brokers)
    }

    /// The broker to send administration to. With KRaft any broker passes it on.
    pub(crate) fn controller(&self) -> Result<i32> {
        let controller = {
            let known = lock(&self.0.known);
            known.controller.filter(|id| known.nodes.contains_key(id))
        };
        controller.map_or_else(|| self.any_node(), Ok)
    }

    /// A call's retries, by the configuration.
    pub(crate) fn retry(&self) -> Retry {
        self.retry_within(self.0.config.api_timeout)
    }

    pub(crate) fn retry_within(&self, within: Duration) -> Retry {
        Retry::new(self.backoff(), within)
    }

    pub(crate) fn backoff(&self) -> Backoff {
        Backoff { first: self.0.config.retry_backoff, max: self.0.config.retry_backoff_max }
    }

    /// Takes in what a broker said: the brokers of today, and the topics it was asked for.
    fn apply(&self, response: &MetadataResponse) -> Result<()> {
        let cluster_id = response.cluster_id.as_ref().map(ToString::to_string);
        let mut known = lock(&self.0.known);
        if let (Some(before), Some(now)) = (&known.cluster_id, &cluster_id)
            && before != now
        {
            // Offsets and state of one cluster mean nothing in another.
            return Err(Error::new(
                ErrorKind::Broker,
                format!(
                    "this is another cluster: {now} instead of {before}; correct bootstrap.servers and restart"
                ),
            ));
        }
        if response.brokers.is_empty() {
            return Err(Error::new(ErrorKind::Broker, "the broker knows of no brokers yet")
                .with_class(ErrorClass::Retriable));
        }
        let mut nodes = HashMap::with_capacity(response.brokers.len());
        for broker in &response.brokers {
            let address = Address {
                host: broker.host.to_string(),
                port: u16::try_from(broker.port).unwrap_or_default(),
            };
            let id = broker.node_id.0;
            let node = match known.nodes.remove(&id).filter(|node| node.address == address) {
                Some(node) => node,
                None => Arc::new(Node::new(id, address, broker.rack.as_ref().map(ToString::to_string))),
            };
            nodes.insert(id, node);
        }
        known.nodes = nodes;
        known.cluster_id = cluster_id.or_else(|| known.cluster_id.take());
        known.controller = Some(response.controller_id.0).filter(|id| *id >= 0);
        known.answered = clock::monotonic();
        drop(known);
        lock(&self.0.topics).apply(&response.topics);
        Ok(())
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the client was closed")
}

fn no_brokers() -> Error {
    Error::new(ErrorKind::Connection, "no broker is known").with_class(ErrorClass::Retriable)
}
