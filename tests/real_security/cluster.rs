//! The cluster of these tests, and what every test of them does.
#![allow(clippy::disallowed_methods, reason = "a test ends by its deadline")]

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use mainstem::client::{
    Admin, ClientConfig, Cluster, NewTopic, Producer, ProducerOptions, ReadOptions, Reader,
};
use mainstem::{Error, ErrorKind, Record};

use crate::common::{is_real, unique};

pub struct Secured {
    dir: PathBuf,
    /// Of the listener without security.
    pub plain: String,
    /// Ends the cluster when its input closes, which is when this process ends.
    _watch: Child,
}

/// The cluster, or `None` with a loud line where no real Kafka is wanted.
pub fn secured(test: &str) -> Option<&'static Secured> {
    static CLUSTER: OnceLock<Secured> = OnceLock::new();
    if !is_real() {
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED {test}: it starts a real Kafka (Java 17, openssl); set MAINSTEM_KAFKA=host:port or MAINSTEM_REQUIRE_KAFKA=1"
        );
        return None;
    }
    Some(CLUSTER.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap().keep();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/kafka");
        let watch = Command::new("sh")
            .args(["-c", "cat >/dev/null; \"$0\" down --dir \"$1/kafka\"; rm -rf \"$1\"", script])
            .arg(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let kafka = dir.join("kafka");
        let up = Command::new(script)
            .args(["up", "--listeners", "all", "--authorizer", "--heap", "512m", "--dir"])
            .arg(&kafka)
            .output()
            .unwrap();
        assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
        let plain = String::from_utf8(up.stdout).unwrap().trim().to_owned();
        Secured { dir: kafka, plain, _watch: watch }
    }))
}

impl Secured {
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join("security").join(name)
    }

    pub fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.file(name)).unwrap()
    }

    /// What a client of a listener is told, with more after it: the last of a name wins.
    pub fn properties(&self, listener: &str, more: &str) -> String {
        format!("{}\n{more}", self.text(&format!("{listener}.properties")))
    }

    /// The configuration of a client of a listener.
    pub fn client(&self, listener: &str, more: &str) -> ClientConfig {
        ClientConfig::from_properties_str(&self.properties(listener, more)).unwrap()
    }

    pub fn address(&self, listener: &str) -> String {
        self.client(listener, "").bootstrap.join(",")
    }

    /// Grants or takes rights: arguments of AclCommand.
    pub async fn acl(&self, arguments: &[&str]) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/kafka");
        let mut command = Command::new(script);
        command
            .args(["tool", "--dir"])
            .arg(&self.dir)
            .arg("org.apache.kafka.tools.AclCommand")
            .args(arguments);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Has the authority of the tests sign a client's certificate: its key and it, as PEM.
    pub fn issue(&self, name: &str) -> String {
        let openssl = |arguments: &[&str]| {
            let output = Command::new("openssl")
                .args(arguments)
                .current_dir(self.dir.join("security"))
                .output()
                .unwrap();
            assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        };
        let file = |end: &str| format!("{name}.{end}");
        let (key, csr, crt) = (file("key"), file("csr"), file("crt"));
        let subject = format!("/CN={name}");
        // Without extensions it would be of version 1, which TLS does not take.
        let extensions = file("ext");
        std::fs::write(self.file(&extensions), "extendedKeyUsage=clientAuth\n").unwrap();
        openssl(&[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            &subject,
            "-keyout",
            &key,
            "-out",
            &csr,
        ]);
        openssl(&[
            "x509",
            "-req",
            "-in",
            &csr,
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-days",
            "30",
            "-extfile",
            &extensions,
            "-out",
            &crt,
        ]);
        self.text(&key) + &self.text(&crt)
    }

    /// A client that may do everything.
    pub async fn admin(&self) -> Admin {
        Admin::new(&soon(Cluster::connect(ClientConfig::new(&self.plain))).await.unwrap())
    }

    pub async fn topic(&self, name: &str) -> String {
        let name = unique(name);
        let topic = NewTopic::new(&name, 1).config("retention.ms", "-1");
        self.admin().await.create_topic(topic).await.unwrap();
        name
    }
}

pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(90), future).await.expect("it ends in time")
}

/// Connects, writes ten records and reads them back.
pub async fn works(config: ClientConfig, topic: &str) {
    let what = format!("{config:?}");
    let cluster = soon(Cluster::connect(config)).await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
    let before = count(&cluster, topic).await;
    let producer = Producer::new(&cluster, ProducerOptions::default()).unwrap();
    for at in 0..10 {
        let record = Record::new(None, Some(Bytes::from_static(b"v")), at);
        soon(producer.send(topic, Some(0), record)).await.unwrap();
    }
    soon(producer.flush()).await.unwrap();
    assert_eq!(count(&cluster, topic).await, before + 10, "{what}");
}

pub async fn count(cluster: &Cluster, topic: &str) -> usize {
    let mut reader = soon(Reader::new(cluster, ReadOptions::new(topic).until_end())).await.unwrap();
    let mut count = 0;
    while soon(reader.next()).await.unwrap().is_some() {
        count += 1;
    }
    count
}

/// No way in: the error is of this kind, says these words and no secret.
pub async fn no_way_in(config: ClientConfig, kind: ErrorKind, words: &[&str]) -> Error {
    let shown = format!("{config:?}");
    let error = soon(Cluster::connect(config)).await.expect_err(&shown);
    is(&error, kind, words);
    assert!(!shown.contains("-secret"), "{shown}");
    error
}

#[track_caller]
pub fn is(error: &Error, kind: ErrorKind, words: &[&str]) {
    let text = format!("{error:?} {error}");
    assert_eq!(error.kind(), kind, "{text}");
    let fatal = matches!(kind, ErrorKind::Authentication | ErrorKind::Authorization | ErrorKind::Config);
    assert_eq!(error.is_retriable(), !fatal, "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is missing: {text}");
    }
    assert!(!text.contains("-secret"), "{text}");
}
