//! SASL against the embedded broker: who is let in, what is said to the others, faults in the middle, and sessions that end.
#![cfg(feature = "sasl")]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]
#![allow(clippy::disallowed_methods, reason = "a test ends by its deadline")]

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use mainstem::client::{
    Admin, ClientConfig, Cluster, NewTopic, Producer, ProducerOptions, ReadOptions, Reader,
};
use mainstem::config::{OAuthToken, Sasl, SaslMechanism};
use mainstem::embedded::{Api, EmbeddedKafka, Fault};
use mainstem::{Config, Error, ErrorKind, Record, Result};

const PASSWORD: &str = "p\"a,s=s\\w ö-secret";

fn broker() -> EmbeddedKafka {
    EmbeddedKafka::builder().user("alice", PASSWORD).user("b,c=d", PASSWORD).start().unwrap()
}

fn config(kafka: &EmbeddedKafka, sasl: Sasl) -> ClientConfig {
    let mut config = ClientConfig::new(kafka.bootstrap());
    config.security.sasl = Some(sasl);
    config
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future)
        .await
        .unwrap_or_else(|_| panic!("not in time: {what}"))
}

async fn refused(config: ClientConfig) -> Error {
    let shown = format!("{config:?}");
    let error = soon("a refusal", Cluster::connect(config)).await.unwrap_err();
    let text = format!("{shown} {error} {error:?}");
    assert!(!text.contains("secret") && !text.contains("wrong-one"), "{text}");
    error
}

fn says(error: &Error, words: &[&str]) {
    let text = format!("{error:?}");
    for word in words {
        assert!(text.contains(word), "{word:?} is missing: {text}");
    }
}

async fn write(cluster: &Cluster, topic: &str, numbers: std::ops::Range<i64>) -> Result<()> {
    let producer = Producer::new(cluster, ProducerOptions::default())?;
    for at in numbers {
        producer.send(topic, Some(0), Record::new(None, Some(Bytes::from(at.to_string())), at)).await?;
    }
    producer.flush().await
}

async fn timestamps(cluster: &Cluster, topic: &str) -> Vec<i64> {
    let mut reader = Reader::new(cluster, ReadOptions::new(topic).until_end()).await.unwrap();
    let mut found = Vec::new();
    while let Some(record) = reader.next().await.unwrap() {
        found.push(record.timestamp);
    }
    found
}

#[tokio::test]
async fn users_are_let_in_by_every_mechanism() {
    let kafka = broker();
    for user in ["alice", "b,c=d"] {
        for sasl in [
            Sasl::plain(user, PASSWORD),
            Sasl::scram_sha_256(user, PASSWORD),
            Sasl::scram_sha_512(user, PASSWORD),
        ] {
            let topic = format!("t-{}-{}", &user[..1], sasl.mechanism());
            let cluster = Cluster::connect(config(&kafka, sasl)).await.unwrap();
            Admin::new(&cluster).create_topic(NewTopic::new(&topic, 1)).await.unwrap();
            soon("records", write(&cluster, &topic, 0..10)).await.unwrap();
            assert_eq!(timestamps(&cluster, &topic).await, (0..10).collect::<Vec<_>>());
        }
    }
}

#[tokio::test]
async fn the_properties_of_java_do_the_same() {
    let kafka = broker();
    for mechanism in [SaslMechanism::Plain, SaslMechanism::ScramSha512] {
        let built = Config::builder("app", kafka.bootstrap())
            .set("security.protocol", "SASL_PLAINTEXT")
            .sasl_credentials(mechanism, "alice", PASSWORD);
        let shown = format!("{built:?}");
        let built = built.build().unwrap();
        let shown = format!("{shown} {built:?} {:?}", built.warnings());
        assert!(!shown.contains("secret"), "{shown}");
        Cluster::connect(ClientConfig::from(&built)).await.unwrap();
    }
}

#[tokio::test]
async fn strangers_are_told_what_to_change_and_not_tried_again() {
    let kafka = broker();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    kafka.on(Api::SaslHandshake, move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        Fault::Pass
    });
    let mut expected = 0;
    for sasl in [
        Sasl::plain("alice", "wrong-one"),
        Sasl::plain("nobody", PASSWORD),
        Sasl::scram_sha_256("alice", "wrong-one"),
        Sasl::scram_sha_512("nobody", PASSWORD),
    ] {
        let mechanism = sasl.mechanism().to_string();
        let error = refused(config(&kafka, sasl)).await;
        assert_eq!((error.kind(), error.is_retriable()), (ErrorKind::Authentication, false), "{error:?}");
        says(&error, &[&mechanism, "sasl.jaas.config", "the broker says", kafka.bootstrap()]);
        expected += 1;
        assert_eq!(asked.load(Ordering::SeqCst), expected, "a wrong password is not tried again");
    }
    let token = Sasl::oauth_bearer(async || Ok(OAuthToken::new("a.secret.token")));
    let error = refused(config(&kafka, token)).await;
    assert_eq!(error.kind(), ErrorKind::Authentication);
    says(&error, &["OAUTHBEARER", "sasl.mechanism", "PLAIN, SCRAM-SHA-256, SCRAM-SHA-512"]);
}

#[tokio::test]
async fn a_listener_of_the_other_kind_is_named() {
    let plain = EmbeddedKafka::start().unwrap();
    let error = refused(config(&plain, Sasl::plain("alice", PASSWORD))).await;
    assert_eq!(error.kind(), ErrorKind::Authentication);
    says(&error, &["without SASL", "security.protocol"]);
    let with_sasl = broker();
    let error = refused(ClientConfig::new(with_sasl.bootstrap())).await;
    assert_eq!(error.kind(), ErrorKind::Connection, "it may also have been restarted just now");
    says(&error, &["security.protocol"]);
}

/// The connection ends once at each step; the next attempt gets in.
#[tokio::test]
async fn what_breaks_in_the_middle_is_tried_again() {
    for sasl in [Sasl::plain("alice", PASSWORD), Sasl::scram_sha_256("alice", PASSWORD)] {
        for (api, step) in [
            (Api::ApiVersions, 0),
            (Api::SaslHandshake, 0),
            (Api::SaslAuthenticate, 0),
            (Api::SaslAuthenticate, 1),
        ] {
            for fault in [Fault::DropBefore, Fault::DropAfter] {
                let kafka = broker();
                let seen = AtomicUsize::new(0);
                let cut = Arc::new(AtomicUsize::new(0));
                let cuts = Arc::clone(&cut);
                let scripted = fault.clone();
                kafka.on(api, move |_| {
                    if seen.fetch_add(1, Ordering::SeqCst) != step {
                        return Fault::Pass;
                    }
                    cuts.fetch_add(1, Ordering::SeqCst);
                    scripted.clone()
                });
                // PLAIN has one step, and the second attempt at it comes with the next connection.
                let cluster = soon("a way in", Cluster::connect(config(&kafka, sasl.clone()))).await.unwrap();
                Admin::new(&cluster).create_topic(NewTopic::new("t", 1)).await.unwrap();
                soon("records", write(&cluster, "t", 0..3)).await.unwrap();
                assert_eq!(timestamps(&cluster, "t").await, [0, 1, 2], "{api:?} {step} {fault:?}");
                assert_eq!(cut.load(Ordering::SeqCst), 1, "{api:?} {step} {fault:?}: nothing was cut");
            }
        }
    }
}

/// A broker that lets in without its own proof, or says something else, is not trusted.
#[tokio::test]
async fn a_broker_that_proves_nothing_is_not_trusted() {
    use kafka_protocol::messages::SaslAuthenticateResponse;
    use kafka_protocol::protocol::Encodable;
    for said in [&b""[..], b"v=AAAA", b"r=x,s=AA==,i=4096", b"\xff\xfe"] {
        let kafka = broker();
        let said = Bytes::copy_from_slice(said);
        kafka.on(Api::SaslAuthenticate, move |call| {
            let mut body = bytes::BytesMut::new();
            let answer = SaslAuthenticateResponse::default().with_auth_bytes(said.clone());
            answer.encode(&mut body, call.version).unwrap();
            Fault::Answer(body.freeze())
        });
        let error = refused(config(&kafka, Sasl::scram_sha_512("alice", PASSWORD))).await;
        assert_eq!((error.kind(), error.is_retriable()), (ErrorKind::Authentication, false), "{error:?}");
        says(&error, &["not trusted"]);
    }
}

/// Sessions end every second; connections stay, because the client authenticates again on them in time (KIP-368).
#[tokio::test]
async fn sessions_are_renewed_on_their_connections() {
    let kafka = EmbeddedKafka::builder()
        .user("alice", PASSWORD)
        .config("connections.max.reauth.ms", "1000")
        .start()
        .unwrap();
    let (opened, proved) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    for (api, count) in [(Api::ApiVersions, &opened), (Api::SaslHandshake, &proved)] {
        let count = Arc::clone(count);
        kafka.on(api, move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            Fault::Pass
        });
    }
    let cluster = Cluster::connect(config(&kafka, Sasl::plain("alice", PASSWORD))).await.unwrap();
    Admin::new(&cluster).create_topic(NewTopic::new("t", 1)).await.unwrap();
    let producer = Producer::new(&cluster, ProducerOptions::default()).unwrap();
    let send = async |at: i64| {
        let record = Record::new(None, Some(Bytes::from(at.to_string())), at);
        producer.send("t", Some(0), record).await.unwrap();
        producer.flush().await.unwrap();
    };
    send(0).await;
    let (connections, mut sent) = (opened.load(Ordering::SeqCst), 1);
    let until = proved.load(Ordering::SeqCst) + 4;
    let renewed = async {
        while proved.load(Ordering::SeqCst) < until {
            send(sent).await;
            sent += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("four sessions", renewed).await;
    assert_eq!(opened.load(Ordering::SeqCst), connections, "no connection was opened anew");
    drop(producer);
    assert_eq!(timestamps(&cluster, "t").await, (0..sent).collect::<Vec<_>>());
}

/// A connection that slept through the end of its session is renewed before it is used.
#[tokio::test]
async fn a_session_that_ended_unused_is_no_error() {
    let kafka = EmbeddedKafka::builder()
        .user("alice", PASSWORD)
        .config("connections.max.reauth.ms", "100")
        .start()
        .unwrap();
    let cluster = Cluster::connect(config(&kafka, Sasl::plain("alice", PASSWORD))).await.unwrap();
    let admin = Admin::new(&cluster);
    admin.create_topic(NewTopic::new("t", 1)).await.unwrap();
    let opened = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&opened);
    kafka.on(Api::ApiVersions, move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        Fault::Pass
    });
    for _ in 0..3 {
        // What is waited for is that time passes: the session's end has no other sign.
        tokio::time::sleep(Duration::from_millis(150)).await;
        admin.describe_topics(&["t"]).await.unwrap();
    }
    // The connection of descriptions may be a new one, the first time.
    assert!(opened.load(Ordering::SeqCst) <= 1, "{opened:?}");
}

/// Collects what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn nothing_that_is_logged_or_shown_has_a_password() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    // One thread, so that the subscriber hears everything.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tracing::subscriber::with_default(subscriber, || {
        tracing::info!("the log is heard");
        runtime.block_on(async {
            let kafka = broker();
            let mut config = config(&kafka, Sasl::scram_sha_256("alice", PASSWORD));
            let cluster = Cluster::connect(config.clone()).await.unwrap();
            let shown = format!("{config:?} {cluster:?}");
            assert!(!shown.contains("secret"), "{shown}");
            refused({
                config.security.sasl = Some(Sasl::plain("alice", "wrong-one"));
                config
            })
            .await;
        });
    });
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains("the log is heard"), "{text}");
    assert!(!text.contains("secret") && !text.contains("wrong-one"), "{text}");
}
