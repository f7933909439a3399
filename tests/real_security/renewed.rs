//! Sessions that end after some seconds (KIP-368).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use mainstem::Record;
use mainstem::client::{Cluster, Producer, ProducerOptions};
use mainstem::config::{OAuthToken, Sasl};

use crate::cluster::{count, secured, soon};
use crate::sasl::{token, user};

/// What is sent over the ends of several sessions is there, once each.
#[tokio::test]
async fn nothing_is_lost_when_sessions_end() {
    let Some(kafka) = secured("nothing_is_lost_when_sessions_end") else { return };
    let asked = Arc::new(AtomicUsize::new(0));
    let mut tokens = kafka.client("REAUTH", "");
    let counting = Arc::clone(&asked);
    tokens.security.sasl = Some(Sasl::oauth_bearer(move || {
        counting.fetch_add(1, Ordering::SeqCst);
        async { Ok(OAuthToken::new(token("alice"))) }
    }));
    let scram = kafka.client("REAUTH", &user("SCRAM-SHA-512", "alice", "alice-secret"));
    let mut sent = Vec::new();
    for config in [tokens, scram] {
        let topic = kafka.topic("renewed").await;
        let cluster = soon(Cluster::connect(config)).await.unwrap();
        let producer = Producer::new(&cluster, ProducerOptions::default()).unwrap();
        sent.push((topic, cluster, producer, 0));
    }
    let writing = async {
        let mut until = None;
        while asked.load(Ordering::SeqCst) < until.unwrap_or(usize::MAX) {
            for (topic, _, producer, sent) in &mut sent {
                let record = Record::new(None, Some(Bytes::from_static(b"v")), *sent);
                producer.send(topic, Some(0), record).await.unwrap();
                producer.flush().await.unwrap();
                *sent += 1;
            }
            // From now on nothing new is asked of the brokers but to produce: what is proved is proved again.
            until.get_or_insert(asked.load(Ordering::SeqCst) + 3);
        }
    };
    soon(writing).await;
    for (topic, cluster, _, sent) in &sent {
        assert!(*sent > 3, "{sent}");
        assert_eq!(count(cluster, topic).await as i64, *sent);
    }
}
