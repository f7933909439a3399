//! A scripted cluster for tests: real sockets, the real rule that a connection is served one request at a time, and a
//! hook that may answer, delay or break anything.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsResponse, BrokerId, FindCoordinatorResponse, MetadataRequest, MetadataResponse,
    RequestHeader, ResponseHeader, TopicName, api_versions_response::ApiVersion,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::ClientConfig;

/// A request as a fake broker sees it.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) node: i32,
    pub(crate) connection: u64,
    pub(crate) key: ApiKey,
    pub(crate) version: i16,
    body: Bytes,
}

impl Call {
    pub(crate) fn decode<R: Decodable>(&self) -> R {
        R::decode(&mut self.body.clone(), self.version).unwrap()
    }

    pub(crate) fn reply(&self, response: &impl Encodable) -> Answer {
        let mut body = BytesMut::new();
        response.encode(&mut body, self.version).unwrap();
        Answer::Body(body.freeze())
    }
}

/// What a fake broker does about a request.
#[derive(Debug)]
pub(crate) enum Answer {
    /// What it does by itself: ApiVersions, Metadata and FindCoordinator are answered, anything else hangs up.
    Default,
    Body(Bytes),
    /// The whole frame behind the length, as it is.
    Raw(Bytes),
    HangUp,
    Never,
}

pub(crate) type Hook = dyn Fn(Call) -> Pin<Box<dyn Future<Output = Answer> + Send>> + Send + Sync;

/// What all brokers of a fake cluster share.
#[derive(Default)]
pub(crate) struct Script {
    /// Leaders of the partitions of each topic, and their epochs.
    pub(crate) topics: Mutex<BTreeMap<String, Vec<(i32, i32)>>>,
    /// Who is told to be where.
    pub(crate) brokers: Mutex<BTreeMap<i32, u16>>,
    pub(crate) cluster_id: Mutex<String>,
    pub(crate) coordinator: Mutex<i32>,
    /// Requests in the order in which brokers took them up, but ApiVersions.
    pub(crate) log: Mutex<Vec<(i32, ApiKey)>>,
    /// The highest version of an API, where it is lower than the codec's.
    pub(crate) max_versions: Mutex<BTreeMap<i16, i16>>,
    connections: AtomicU64,
}

pub(crate) struct FakeCluster {
    pub(crate) script: Arc<Script>,
    hook: Arc<Hook>,
    nodes: Mutex<BTreeMap<i32, (u16, JoinHandle<()>)>>,
}

impl Drop for FakeCluster {
    fn drop(&mut self) {
        self.nodes.lock().unwrap().values().for_each(|(_, task)| task.abort());
    }
}

/// Every version that the codec has, unless the script says otherwise.
fn versions(script: &Script) -> ApiVersionsResponse {
    let lowered = script.max_versions.lock().unwrap().clone();
    let apis = ApiKey::iter().map(|key| {
        let range = key.valid_versions();
        let max = lowered.get(&(key as i16)).copied().unwrap_or(range.max);
        ApiVersion::default().with_api_key(key as i16).with_min_version(range.min).with_max_version(max)
    });
    ApiVersionsResponse::default().with_api_keys(apis.collect())
}

impl FakeCluster {
    /// Brokers with ids from 1, with a hook for everything but ApiVersions.
    pub(crate) async fn start<F>(nodes: i32, hook: impl Fn(Call) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let script = Script { coordinator: Mutex::new(1), ..Script::default() };
        *script.cluster_id.lock().unwrap() = "fake".into();
        let cluster = Self {
            script: Arc::new(script),
            hook: Arc::new(move |call| Box::pin(hook(call))),
            nodes: Mutex::default(),
        };
        for id in 1..=nodes {
            cluster.start_node(id).await;
        }
        cluster
    }

    /// Starts a broker at a port of its own.
    pub(crate) async fn start_node(&self, id: i32) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (script, hook) = (Arc::clone(&self.script), Arc::clone(&self.hook));
        let task = tokio::spawn(async move {
            let mut serving = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let connection = script.connections.fetch_add(1, Ordering::SeqCst);
                serving.spawn(serve(id, connection, stream, Arc::clone(&script), Arc::clone(&hook)));
            }
        });
        self.script.brokers.lock().unwrap().insert(id, port);
        self.nodes.lock().unwrap().insert(id, (port, task));
        port
    }

    /// Ends a broker with its connections. What the others tell of it stays.
    pub(crate) async fn stop_node(&self, id: i32) {
        let (_, task) = self.nodes.lock().unwrap().remove(&id).unwrap();
        task.abort();
        let _ = task.await;
    }

    pub(crate) fn port(&self, id: i32) -> u16 {
        self.nodes.lock().unwrap()[&id].0
    }

    pub(crate) fn topic(&self, name: &str, leaders: &[(i32, i32)]) {
        self.script.topics.lock().unwrap().insert(name.into(), leaders.to_vec());
    }

    /// Fast backoffs, so that tests of failures end soon.
    pub(crate) fn config(&self) -> ClientConfig {
        let ports: Vec<_> =
            self.nodes.lock().unwrap().values().map(|(port, _)| format!("127.0.0.1:{port}")).collect();
        let mut config = ClientConfig::new(ports.join(","));
        config.retry_backoff = std::time::Duration::from_millis(5);
        config.reconnect_backoff = std::time::Duration::from_millis(5);
        config.topic_grace = std::time::Duration::from_millis(50);
        config
    }

    pub(crate) fn calls(&self, key: ApiKey) -> usize {
        self.script.log.lock().unwrap().iter().filter(|(_, logged)| *logged == key).count()
    }
}

async fn serve(node: i32, connection: u64, mut stream: TcpStream, script: Arc<Script>, hook: Arc<Hook>) {
    while let Ok(length) = stream.read_i32().await {
        let mut frame = vec![0; length as usize];
        if stream.read_exact(&mut frame).await.is_err() {
            return;
        }
        let mut frame = Bytes::from(frame);
        let key = ApiKey::try_from((&frame[0..2]).get_i16()).unwrap();
        let version = (&frame[2..4]).get_i16();
        let header = RequestHeader::decode(&mut frame, key.request_header_version(version)).unwrap();
        let call = Call { node, connection, key, version, body: frame };
        let answer = match key {
            ApiKey::ApiVersions => call.reply(&versions(&script)),
            _ => {
                script.log.lock().unwrap().push((node, key));
                hook(call.clone()).await
            }
        };
        let answer = match answer {
            Answer::Default => by_itself(&script, &call),
            answer => answer,
        };
        let mut out = BytesMut::new();
        match answer {
            Answer::Body(body) => {
                let head = ResponseHeader::default().with_correlation_id(header.correlation_id);
                head.encode(&mut out, key.response_header_version(version)).unwrap();
                out.put_slice(&body);
            }
            Answer::Raw(frame) => out.put_slice(&frame),
            Answer::HangUp | Answer::Default => return,
            Answer::Never => std::future::pending().await,
        }
        if stream.write_i32(out.len() as i32).await.is_err() || stream.write_all(&out).await.is_err() {
            return;
        }
    }
}

fn by_itself(script: &Script, call: &Call) -> Answer {
    let brokers = script.brokers.lock().unwrap().clone();
    match call.key {
        ApiKey::Metadata => {
            let asked: MetadataRequest = call.decode();
            let topics = script.topics.lock().unwrap().clone();
            let names: Vec<String> = match asked.topics {
                None => topics.keys().cloned().collect(),
                Some(names) => names.into_iter().map(|t| t.name.unwrap().to_string()).collect(),
            };
            let topic = |name: String| {
                let told = MetadataResponseTopic::default()
                    .with_name(Some(TopicName(StrBytes::from_string(name.clone()))));
                match topics.get(&name) {
                    None => told.with_error_code(3),
                    Some(leaders) => told.with_partitions(
                        leaders
                            .iter()
                            .enumerate()
                            .map(|(partition, (leader, epoch))| {
                                MetadataResponsePartition::default()
                                    .with_partition_index(partition as i32)
                                    .with_leader_id(BrokerId(*leader))
                                    .with_leader_epoch(*epoch)
                                    .with_replica_nodes(vec![BrokerId(*leader)])
                                    .with_isr_nodes(vec![BrokerId(*leader)])
                            })
                            .collect(),
                    ),
                }
            };
            let told = brokers.iter().map(|(id, port)| {
                MetadataResponseBroker::default()
                    .with_node_id(BrokerId(*id))
                    .with_host(StrBytes::from_static_str("127.0.0.1"))
                    .with_port(i32::from(*port))
            });
            call.reply(
                &MetadataResponse::default()
                    .with_brokers(told.collect())
                    .with_cluster_id(Some(StrBytes::from_string(script.cluster_id.lock().unwrap().clone())))
                    .with_controller_id(BrokerId(*brokers.keys().next().unwrap_or(&-1)))
                    .with_topics(names.into_iter().map(topic).collect()),
            )
        }
        ApiKey::FindCoordinator => {
            let id = *script.coordinator.lock().unwrap();
            call.reply(
                &FindCoordinatorResponse::default()
                    .with_node_id(BrokerId(id))
                    .with_host(StrBytes::from_static_str("127.0.0.1"))
                    .with_port(i32::from(brokers[&id])),
            )
        }
        _ => Answer::HangUp,
    }
}
