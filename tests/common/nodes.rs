//! A cluster of its own, for a test that ends brokers.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::process::Command;

use mainstem::client::{Admin, Cluster};
use mainstem::embedded::EmbeddedKafka;

use super::common::is_real;

/// A cluster that ends with its test: a real one where tests run on a real Kafka, else an embedded one.
pub(crate) struct Nodes {
    kind: Kind,
    pub(crate) bootstrap: String,
}

enum Kind {
    /// Of scripts/kafka.
    Real(tempfile::TempDir),
    Embedded(EmbeddedKafka),
}

fn script(arguments: &[&str]) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/kafka");
    let output = Command::new(script).args(arguments).output().expect("scripts/kafka starts");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
}

impl Nodes {
    /// One node or three; with three, every record is on all of them, and two must be in sync.
    pub(crate) async fn start(count: usize) -> Self {
        Self::start_with(count, &[]).await
    }

    /// With more options of scripts/kafka. An embedded one knows the transaction version, and does without the others.
    pub(crate) async fn start_with(count: usize, options: &'static [&'static str]) -> Self {
        if !is_real() {
            let kafka = EmbeddedKafka::builder()
                .nodes(count)
                .auto_create_topics(false)
                .config("default.replication.factor", count.to_string())
                .transaction_version(1 + u8::from(options.contains(&"transaction.version=2")))
                .start();
            let kafka = kafka.expect("an embedded cluster");
            return Self { bootstrap: kafka.bootstrap().to_owned(), kind: Kind::Embedded(kafka) };
        }
        Self::start_real(count, options.iter().map(|option| (*option).to_owned()).collect()).await
    }

    async fn start_real(count: usize, options: Vec<String>) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let count = count.to_string();
        let path = dir.path().join("kafka");
        let bootstrap = tokio::task::spawn_blocking(move || {
            let up = ["up", "--dir", path.to_str().expect("a path"), "--nodes", &count];
            script(&up.into_iter().chain(options.iter().map(String::as_str)).collect::<Vec<_>>())
        });
        Self { bootstrap: bootstrap.await.expect("no panic"), kind: Kind::Real(dir) }
    }

    /// Clients are told to connect to `host:port` for the first node, and to the ports after it for the others: what listens
    /// there passes on to what is returned, a node each. `version` is that of transactions. An embedded one tells its own addresses, and nothing is returned.
    pub(crate) async fn start_behind(count: usize, advertise: &str, version: u64) -> (Self, Vec<String>) {
        if !is_real() {
            let options: &[&str] = if version == 1 { &[] } else { &["transaction.version=2"] };
            return (Self::start_with(count, options).await, Vec::new());
        }
        let feature = format!("transaction.version={version}");
        let options = ["--advertise", advertise, "--feature", &feature].map(str::to_owned);
        let nodes = Self::start_real(count, options.to_vec()).await;
        let Kind::Real(dir) = &nodes.kind else { unreachable!("it is a real one") };
        let path = dir.path().join("kafka");
        let said = script(&["status", "--dir", path.to_str().expect("a path")]);
        let ports = said.lines().filter_map(|line| line.split_once("listening on ")?.1.split(',').next());
        let addresses: Vec<String> = ports.map(|port| format!("127.0.0.1:{port}")).collect();
        assert_eq!(addresses.len(), count, "{said}");
        (nodes, addresses)
    }

    /// The embedded cluster, if it is one.
    pub(crate) fn embedded(&self) -> Option<&EmbeddedKafka> {
        match &self.kind {
            Kind::Real(_) => None,
            Kind::Embedded(kafka) => Some(kafka),
        }
    }

    /// Compacts what can be compacted of a topic; a real one does so by itself (`--fast-cleaner`).
    pub(crate) fn compact(&self, topic: &str) {
        if let Kind::Embedded(kafka) = &self.kind {
            kafka.compact(topic).expect("it is compacted");
        }
    }

    async fn tell(&self, command: &'static str, node: i32) {
        let path = match &self.kind {
            Kind::Real(dir) => dir.path().join("kafka"),
            Kind::Embedded(kafka) => {
                if command != "start" {
                    kafka.stop_node(node).expect("it is a node");
                }
                if command != "kill" {
                    kafka.start_node(node).expect("it is a node");
                }
                return;
            }
        };
        let told = tokio::task::spawn_blocking(move || {
            script(&[command, "--dir", path.to_str().expect("a path"), "--node", &node.to_string()])
        });
        told.await.expect("no panic");
    }

    /// Ends a node with SIGKILL.
    pub(crate) async fn kill(&self, node: i32) {
        self.tell("kill", node).await;
    }

    /// Ends a node in good order and starts it again.
    pub(crate) async fn restart(&self, node: i32) {
        self.tell("restart", node).await;
    }

    /// Starts a node that was ended, at its old ports, and waits until it serves.
    pub(crate) async fn revive(&self, node: i32) {
        self.tell("start", node).await;
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        let Kind::Real(dir) = &self.kind else { return };
        // A failure to clean up is not one of the test.
        let path = dir.path().join("kafka");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/kafka");
        let _ = Command::new(script).args(["down", "--dir"]).arg(path).output();
    }
}

/// Who leads a partition now.
pub(crate) async fn leader(cluster: &Cluster, topic: &str, partition: usize) -> i32 {
    let described = Admin::new(cluster).describe_topics(&[topic]).await.expect("an answer").pop();
    let info = described.expect("a topic").expect("it is there");
    info.partitions[partition].leader.expect("somebody leads it")
}
