//! Applications without all the rights that they need, and applications whose rights are taken away while they run.
#![allow(clippy::disallowed_methods, reason = "a test ends by its deadline")]

use std::future::IntoFuture;

use bytes::Bytes;
use mainstem::client::{Admin, Cluster, NewTopic, Producer, ProducerOptions};
use mainstem::prelude::*;
use mainstem::{App, AppState, Config, ErrorKind};

use crate::cluster::{Secured, is, secured, soon};
use crate::common::unique;
use crate::sasl::user;

/// An application of bob's, whose topics begin with its id.
struct Bobs {
    kafka: &'static Secured,
    id: String,
    state: tempfile::TempDir,
}

impl Bobs {
    async fn new(kafka: &'static Secured, name: &str) -> Self {
        let id = unique(name);
        let admin = kafka.admin().await;
        for topic in ["in", "out"] {
            let topic = NewTopic::new(format!("{id}-{topic}"), 1).config("retention.ms", "-1");
            admin.create_topic(topic).await.unwrap();
        }
        Self { kafka, id, state: tempfile::tempdir().unwrap() }
    }

    /// `--add` or `--remove`, of all that begins with its id.
    async fn rights(&self, change: &[&str], kinds: &[&str]) {
        let mut arguments = change.to_vec();
        arguments.extend(["--allow-principal", "User:bob", "--operation", "All"]);
        arguments.extend(["--resource-pattern-type", "prefixed"]);
        arguments.extend(kinds.iter().flat_map(|kind| [*kind, &self.id]));
        self.kafka.acl(&arguments).await;
    }

    fn app(&self) -> App {
        let builder = StreamsBuilder::new();
        let words = builder
            .stream::<String, String>(format!("{}-in", self.id))
            .group_by("by-word", |_, word| word.clone());
        words.count("counts").to_stream().to(format!("{}-out", self.id));
        let bob = user("SCRAM-SHA-256", "bob", "bob-secret");
        let config = Config::builder(&self.id, "")
            .properties_str(&self.kafka.properties("SASL_SSL", &bob))
            .workers(1)
            .state_dir(self.state.path())
            .set("processing.guarantee", "exactly_once_v2");
        App::new(builder.build().unwrap(), config.build().unwrap()).unwrap()
    }

    async fn send(&self, cluster: &Cluster) {
        let producer = Producer::new(cluster, ProducerOptions::default()).unwrap();
        let record = || Record::new(None, Some(Bytes::from_static(b"word")), 0);
        for _ in 0..20 {
            producer.send(&format!("{}-in", self.id), Some(0), record()).await.unwrap();
        }
        producer.flush().await.unwrap();
    }
}

const TOPIC: &str = "--topic";
const GROUP: &str = "--group";
const TRANSACTIONAL_ID: &str = "--transactional-id";

#[tokio::test]
async fn a_right_that_is_missing_at_the_start_is_named() {
    let Some(kafka) = secured("a_right_that_is_missing_at_the_start_is_named") else { return };
    for (kinds, words) in [
        ([TOPIC, TRANSACTIONAL_ID], ["READ on the group"]),
        ([TOPIC, GROUP], ["WRITE on the transactional id"]),
        ([GROUP, TRANSACTIONAL_ID], ["on the topic"]),
    ] {
        let bobs = Bobs::new(kafka, "missing").await;
        bobs.rights(&["--add"], &kinds).await;
        let error = soon(bobs.app().run().into_future()).await.unwrap_err();
        is(&error, ErrorKind::Authorization, &[&words[..], &[&bobs.id]].concat());
    }
}

/// Nobody waits for ever, and nothing is tried for ever: the application ends, and says what was taken.
#[tokio::test]
async fn a_right_that_is_taken_away_ends_the_application_with_its_name() {
    let Some(kafka) = secured("a_right_that_is_taken_away_ends_the_application_with_its_name") else {
        return;
    };
    let cluster = Admin::cluster(&kafka.admin().await).clone();
    for (kind, words) in [
        (TOPIC, "on the topic"),
        (GROUP, "READ on the group"),
        (TRANSACTIONAL_ID, "WRITE on the transactional id"),
    ] {
        let bobs = Bobs::new(kafka, "taken").await;
        bobs.rights(&["--add"], &[TOPIC, GROUP, TRANSACTIONAL_ID]).await;
        let app = bobs.app();
        let handle = app.handle();
        let running = tokio::spawn(app.run().into_future());
        assert!(soon(handle.wait_for(AppState::Running)).await, "{kind}: {:?}", handle.state());
        bobs.send(&cluster).await;
        let counted = async {
            while crate::cluster::count(&cluster, &format!("{}-out", bobs.id)).await == 0 {
                tokio::task::yield_now().await;
            }
        };
        soon(counted).await;
        bobs.rights(&["--remove", "--force"], &[kind]).await;
        // Something to do, so that every right is asked for.
        bobs.send(&cluster).await;
        let error = soon(running).await.unwrap().unwrap_err();
        is(&error, ErrorKind::Authorization, &[words, &bobs.id]);
    }
}
