//! A whole application over SASL_SSL, and the command line.
#![allow(clippy::disallowed_methods, reason = "a test ends by its deadline")]

use std::collections::BTreeMap;
use std::future::IntoFuture;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use mainstem::client::{Cluster, Producer, ProducerOptions, ReadOptions, Reader};
use mainstem::config::ConfigBuilder;
use mainstem::prelude::*;
use mainstem::{App, AppState, Config, ErrorKind};

use crate::cluster::{Secured, is, secured, soon};
use crate::common::unique;
use crate::sasl::user;

fn config(kafka: &Secured, state: &tempfile::TempDir, more: &str) -> ConfigBuilder {
    Config::builder(&unique("secured"), "")
        .properties_str(&kafka.properties("SASL_SSL", more))
        .workers(1)
        .state_dir(state.path())
        .set("commit.interval.ms", "100")
}

fn counting(input: &str, output: &str) -> Topology {
    let builder = StreamsBuilder::new();
    builder.stream::<String, String>(input).group_by_key("by-key").count("counts").to_stream().to(output);
    builder.build().unwrap()
}

#[tokio::test]
async fn an_application_counts_over_sasl_ssl() {
    let Some(kafka) = secured("an_application_counts_over_sasl_ssl") else { return };
    let (input, output) = (kafka.topic("in").await, kafka.topic("out").await);
    let state = tempfile::tempdir().unwrap();
    let app = App::new(counting(&input, &output), config(kafka, &state, "").build().unwrap()).unwrap();
    let handle = app.handle();
    let running = tokio::spawn(app.run().into_future());
    assert!(soon(handle.wait_for(AppState::Running)).await, "{:?}", handle.state());

    let cluster = soon(Cluster::connect(kafka.client("SASL_SSL", ""))).await.unwrap();
    let producer = Producer::new(&cluster, ProducerOptions::default()).unwrap();
    for at in 0..30_i64 {
        let key = Bytes::from(format!("k{}", at % 3));
        producer
            .send(&input, Some(0), Record::new(Some(key), Some(Bytes::from_static(b"v")), at))
            .await
            .unwrap();
    }
    producer.flush().await.unwrap();
    let truth: BTreeMap<_, _> = (0..3).map(|key| (Bytes::from(format!("k{key}")), 10_i64)).collect();
    let counted = async {
        loop {
            let mut reader = Reader::new(&cluster, ReadOptions::new(&output).until_end()).await.unwrap();
            let mut table = BTreeMap::new();
            while let Some(record) = reader.next().await.unwrap() {
                let count = record.value.map(|value| i64::from_be_bytes(value[..].try_into().unwrap()));
                table.insert(record.key.unwrap(), count.unwrap());
            }
            if table == truth {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    soon(counted).await;
    handle.stop();
    soon(running).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_application_without_rights_or_password_ends_with_the_reason() {
    let Some(kafka) = secured("an_application_without_rights_or_password_ends_with_the_reason") else {
        return;
    };
    let (input, output) = (kafka.topic("in").await, kafka.topic("out").await);
    let state = tempfile::tempdir().unwrap();
    for (name, password, kind, word) in [
        ("bob", "bob-secret", ErrorKind::Authorization, "grant"),
        ("alice", "wrong-secret", ErrorKind::Authentication, "sasl.jaas.config"),
    ] {
        let config = config(kafka, &state, &user("SCRAM-SHA-512", name, password)).build().unwrap();
        let app = App::new(counting(&input, &output), config).unwrap();
        let error = soon(app.run().into_future()).await.unwrap_err();
        is(&error, kind, &[word]);
    }
}

#[tokio::test]
async fn the_command_line_takes_a_file_of_properties() {
    let Some(kafka) = secured("the_command_line_takes_a_file_of_properties") else { return };
    let topic = kafka.topic("cli").await;
    let run = |file: &std::path::Path| {
        Command::new(env!("CARGO_BIN_EXE_mainstem"))
            .args(["topics", "list", "--command-config"])
            .arg(file)
            .env_remove("MAINSTEM_KAFKA")
            .output()
            .unwrap()
    };
    let listed = run(&kafka.file("SASL_SSL.properties"));
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    assert!(String::from_utf8_lossy(&listed.stdout).lines().any(|line| line == topic));
    let wrong = kafka.file("wrong.properties");
    std::fs::write(&wrong, kafka.properties("SASL_SSL", &user("PLAIN", "alice", "wrong-secret"))).unwrap();
    let refused = run(&wrong);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && text.contains("sasl.jaas.config"), "{text}");
    assert!(!text.contains("-secret"), "{text}");
}
