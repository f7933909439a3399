//! Certificates that are renewed while a client is connected: new connections use the files of today.

use bytes::Bytes;
use mainstem::client::{Admin, Cluster, NewTopic, Producer, ProducerOptions, ReadOptions, Reader};
use mainstem::{ErrorKind, Record};

use crate::cluster::{is, no_way_in, secured, soon};
use crate::common::unique;

/// Each step opens a connection of its own, because brokers are spoken to on one for each kind of request.
#[tokio::test]
async fn new_connections_use_the_files_of_today() {
    let Some(kafka) = secured("new_connections_use_the_files_of_today") else { return };
    let name = unique("renewed");
    let principal = format!("User:CN={name}");
    kafka
        .acl(&[
            "--add",
            "--allow-principal",
            &principal,
            "--operation",
            "All",
            "--resource-pattern-type",
            "prefixed",
            "--topic",
            &name,
        ])
        .await;
    let renewed = kafka.issue(&name);
    let folder = tempfile::tempdir().unwrap();
    let (own, authorities) = (folder.path().join("own.pem"), folder.path().join("ca.pem"));
    // As whoever renews them does: beside, and renamed.
    let replace = |path: &std::path::Path, text: &str| {
        let new = path.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, path).unwrap();
    };
    replace(&own, &kafka.text("client.pem"));
    replace(&authorities, &kafka.text("ca.pem"));
    let config = || {
        let more = format!(
            "ssl.keystore.location={}\nssl.truststore.location={}",
            own.display(),
            authorities.display()
        );
        kafka.client("MTLS", &more)
    };
    let cluster = soon(Cluster::connect(config())).await.unwrap();
    let before = soon(Cluster::connect(config())).await.unwrap();
    let topic = |name: &str| NewTopic::new(name, 1).config("retention.ms", "-1");
    let refused = soon(Admin::new(&before).create_topic(topic(&name))).await.unwrap_err();
    is(&refused, ErrorKind::Authorization, &["grant"]);

    replace(&own, &renewed);
    // Brokers hear of rights a moment after they were granted.
    let made = async {
        while let Err(error) = Admin::new(&cluster).create_topic(topic(&name)).await {
            is(&error, ErrorKind::Authorization, &["grant"]);
        }
    };
    soon(made).await;
    // One that is open goes on as who it was.
    let refused = soon(Admin::new(&before).create_topic(topic(&format!("{name}-2")))).await.unwrap_err();
    is(&refused, ErrorKind::Authorization, &["grant"]);

    // Half of a file is no harm to those who have read a whole one before.
    replace(&own, &renewed[..renewed.len() / 2]);
    let producer = Producer::new(&cluster, ProducerOptions::default()).unwrap();
    soon(producer.send(&name, Some(0), Record::new(None, Some(Bytes::from_static(b"v")), 0))).await.unwrap();
    soon(producer.flush()).await.unwrap();
    no_way_in(config(), ErrorKind::Config, &["ssl.keystore"]).await;

    replace(&own, &renewed);
    replace(&authorities, &kafka.text("foreign-ca.pem"));
    let error = async {
        let mut reader = Reader::new(&cluster, ReadOptions::new(&name).until_end()).await?;
        reader.next().await
    };
    is(&soon(error).await.expect_err("a new connection"), ErrorKind::Authentication, &["does not trust"]);
    replace(&authorities, &kafka.text("ca.pem"));
    assert_eq!(crate::cluster::count(&cluster, &name).await, 1);
}

#[tokio::test]
async fn a_certificate_of_the_client_that_has_expired_is_refused() {
    let Some(kafka) = secured("a_certificate_of_the_client_that_has_expired_is_refused") else { return };
    for version in ["TLSv1.2", "TLSv1.3"] {
        let more = format!(
            "ssl.enabled.protocols={version}\nssl.keystore.location={}",
            kafka.file("expired.pem").display()
        );
        let words = ["ssl.keystore.location", "has not expired"];
        no_way_in(kafka.client("MTLS", &more), ErrorKind::Authentication, &words).await;
    }
}
