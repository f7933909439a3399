//! What a user without ACLs is told.

use bytes::Bytes;
use mainstem::client::{Admin, Cluster, NewTopic, Producer, ProducerOptions, ReadOptions, Reader};
use mainstem::{ErrorKind, Record};

use crate::cluster::{is, secured, soon};
use crate::common::unique;
use crate::sasl::user;

#[tokio::test]
async fn what_is_missing_is_named() {
    let Some(kafka) = secured("what_is_missing_is_named") else { return };
    let topic = kafka.topic("allowed").await;
    let bob = kafka.client("SASL_SSL", &user("SCRAM-SHA-256", "bob", "bob-secret"));
    let cluster = soon(Cluster::connect(bob)).await.unwrap();
    let refused = ErrorKind::Authorization;

    let producer = Producer::new(&cluster, ProducerOptions::default()).unwrap();
    let send = async {
        producer.send(&topic, Some(0), Record::new(None, Some(Bytes::from_static(b"v")), 0)).await?;
        producer.flush().await
    };
    is(&soon(send).await.unwrap_err(), refused, &["grant", &topic]);
    let error = soon(Reader::new(&cluster, ReadOptions::new(&topic).until_end())).await.unwrap_err();
    is(&error, refused, &["grant", &topic]);
    let admin = Admin::new(&cluster);
    let error = soon(admin.create_topic(NewTopic::new(unique("bobs"), 1))).await.unwrap_err();
    is(&error, refused, &["grant"]);
}
