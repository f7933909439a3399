//! The cluster against scripted brokers: dead addresses, moved leaders, brokers that vanish, throttling, parked requests.

use std::collections::BTreeSet;
use std::sync::Arc;

use kafka_protocol::messages::{
    ApiKey, HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, ListGroupsRequest,
    ListGroupsResponse, ProduceRequest, ProduceResponse,
};
use tokio::sync::{Notify, Semaphore};

use super::*;
use crate::TopicPartition;
use crate::client::fake::{Answer, FakeCluster};

async fn plain(nodes: i32) -> FakeCluster {
    FakeCluster::start(nodes, |call| async move {
        match call.key {
            ApiKey::Heartbeat => call.reply(&HeartbeatResponse::default()),
            _ => Answer::Default,
        }
    })
    .await
}

/// A port where nobody listens: it was free a moment ago.
async fn dead_port() -> u16 {
    tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

async fn beat(cluster: &Cluster, node: i32) -> Result<HeartbeatResponse> {
    cluster.request(node, ConnectionClass::Normal, &HeartbeatRequest::default()).await
}

#[tokio::test]
async fn one_living_bootstrap_address_is_enough() {
    let fake = plain(2).await;
    let mut config = fake.config();
    config.bootstrap =
        vec![format!("127.0.0.1:{}", dead_port().await), format!("127.0.0.1:{}", fake.port(2))];
    let cluster = Cluster::connect(config).await.unwrap();
    assert_eq!(cluster.brokers().iter().map(|b| b.node).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(cluster.cluster_id().as_deref(), Some("fake"));
    beat(&cluster, 1).await.unwrap();
}

#[tokio::test]
async fn when_no_address_answers_each_is_named_with_its_cause() {
    let (a, b) = (dead_port().await, dead_port().await);
    let error = Cluster::connect(ClientConfig::new(format!("127.0.0.1:{a},127.0.0.1:{b},[::1]:{a}")))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection);
    let text = format!("{error:?}");
    for part in [
        &format!("127.0.0.1:{a}: "),
        &format!("127.0.0.1:{b}: "),
        &format!("[::1]:{a}: "),
        "refused",
        "bootstrap.servers",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[tokio::test]
async fn an_address_that_is_no_kafka_broker_says_so() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        std::future::pending::<()>().await;
    });
    let error = Cluster::connect(ClientConfig::new(format!("127.0.0.1:{port}"))).await.unwrap_err();
    assert!(format!("{error:?}").contains("a frame of 1213486160 bytes"), "{error:?}");
}

#[tokio::test]
async fn an_advertised_address_that_cannot_be_reached_is_named() {
    let fake = plain(1).await;
    let dead = dead_port().await;
    fake.script.brokers.lock().unwrap().insert(7, dead);
    let cluster = Cluster::connect(fake.config()).await.unwrap();
    let error = beat(&cluster, 7).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("advertised.listeners") && text.contains(&format!("node 7 at 127.0.0.1:{dead}")),
        "{text}"
    );
    assert!(error.is_retriable());
    let error = beat(&cluster, 99).await.unwrap_err();
    assert!(error.to_string().contains("node 99 is not among the brokers"), "{error}");
}

#[tokio::test]
async fn a_topic_that_is_unknown_is_named_with_the_way_to_make_it() {
    let fake = plain(1).await;
    let cluster = Cluster::connect(fake.config()).await.unwrap();
    let error = cluster.partitions("nowhere").await.unwrap_err();
    assert_eq!((error.kind(), error.topic()), (ErrorKind::Topic, Some("nowhere")));
    assert!(error.to_string().contains("mainstem topics create"), "{error}");
    fake.topic("late", &[(1, 0)]);
    assert_eq!(cluster.partitions("late").await.unwrap(), 1);
    let error = cluster.leader(&TopicPartition::new("late", 5)).await.unwrap_err();
    assert!(error.to_string().contains("no such partition: the topic has 1"), "{error}");
}

#[tokio::test]
async fn a_topic_that_is_unknown_is_asked_for_again_and_found_when_it_is_made() {
    let fake = plain(1).await;
    let mut config = fake.config();
    // The test ends it, not the clock.
    config.topic_grace = std::time::Duration::from_secs(600);
    let cluster = Cluster::connect(config).await.unwrap();
    let asked = fake.calls(ApiKey::Metadata);
    let waiting = tokio::spawn(async move { cluster.partitions("soon").await });
    while fake.calls(ApiKey::Metadata) < asked + 3 {
        assert!(!waiting.is_finished(), "given up within the grace period");
        tokio::task::yield_now().await;
    }
    fake.topic("soon", &[(1, 0), (1, 0)]);
    assert_eq!(waiting.await.unwrap().unwrap(), 2);
}

#[tokio::test]
async fn a_moved_leader_is_found_after_an_invalidation_and_many_callers_share_one_look() {
    let fake = plain(2).await;
    fake.topic("t", &[(1, 0)]);
    let cluster = Cluster::connect(fake.config()).await.unwrap();
    let at = TopicPartition::new("t", 0);
    let before = cluster.leader(&at).await.unwrap();
    assert_eq!(before.node, 1);
    fake.topic("t", &[(2, 1)]);
    assert_eq!(cluster.leader(&at).await.unwrap().node, 1, "known, so not asked");
    cluster.invalidate("t", before.generation);
    assert_eq!(cluster.known_leader(&at), None);
    let asked = fake.calls(ApiKey::Metadata);
    let (a, b, c) = tokio::join!(cluster.leader(&at), cluster.leader(&at), cluster.leader(&at));
    assert_eq!([a.unwrap().node, b.unwrap().node, c.unwrap().node], [2, 2, 2]);
    assert_eq!(fake.calls(ApiKey::Metadata), asked + 1);
    cluster.invalidate("t", before.generation);
    assert_eq!(cluster.known_leader(&at).map(|l| l.node), Some(2), "a stale caller changes nothing");
}

#[tokio::test]
async fn a_partition_without_a_leader_is_waited_for() {
    let fake = plain(1).await;
    fake.topic("t", &[(1, 0), (-1, 3)]);
    let cluster = Cluster::connect(fake.config()).await.unwrap();
    let (good, electing) = (TopicPartition::new("t", 0), TopicPartition::new("t", 1));
    let waiting = tokio::spawn({
        let cluster = cluster.clone();
        async move { cluster.leader(&electing).await }
    });
    while fake.calls(ApiKey::Metadata) < 4 {
        tokio::task::yield_now().await;
    }
    assert_eq!(cluster.known_leader(&good).map(|l| l.node), Some(1), "the others go on");
    fake.topic("t", &[(1, 0), (1, 4)]);
    assert_eq!(waiting.await.unwrap().unwrap().epoch, 4);
}

#[tokio::test]
async fn a_broker_that_comes_back_elsewhere_is_found_there() {
    let fake = plain(2).await;
    fake.topic("t", &[(2, 0)]);
    let cluster = Cluster::connect(fake.config()).await.unwrap();
    beat(&cluster, 2).await.unwrap();
    let old = fake.port(2);
    fake.stop_node(2).await;
    assert!(beat(&cluster, 2).await.unwrap_err().is_retriable());
    assert_ne!(fake.start_node(2).await, old);
    cluster.topic("t").await.unwrap();
    beat(&cluster, 2).await.unwrap();
}

#[tokio::test]
async fn when_every_known_broker_is_gone_the_bootstrap_addresses_are_asked_again() {
    let fake = plain(1).await;
    let (old, door) = (fake.port(1), tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap());
    // The bootstrap address is a door that leads to whoever is there now, as a load balancer's.
    let behind = Arc::new(std::sync::atomic::AtomicU16::new(old));
    let mut config = fake.config();
    config.bootstrap = vec![door.local_addr().unwrap().to_string()];
    let route = Arc::clone(&behind);
    tokio::spawn(async move {
        loop {
            let (mut outside, _) = door.accept().await.unwrap();
            let port = route.load(Ordering::SeqCst);
            tokio::spawn(async move {
                if let Ok(mut inside) = tokio::net::TcpStream::connect(("127.0.0.1", port)).await {
                    let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
                }
            });
        }
    });
    fake.topic("t", &[(1, 0)]);
    let cluster = Cluster::connect(config).await.unwrap();
    beat(&cluster, 1).await.unwrap();
    fake.stop_node(1).await;
    fake.script.brokers.lock().unwrap().clear();
    behind.store(fake.start_node(5).await, Ordering::SeqCst);
    fake.topic("t", &[(5, 1)]);
    assert_eq!(cluster.leader(&TopicPartition::new("t", 0)).await.unwrap().node, 5);
    beat(&cluster, 5).await.unwrap();
    assert_eq!(cluster.brokers().len(), 1);
}

#[tokio::test]
async fn another_cluster_behind_the_same_address_is_refused() {
    let fake = plain(1).await;
    fake.topic("t", &[(1, 0)]);
    let cluster = Cluster::connect(fake.config()).await.unwrap();
    *fake.script.cluster_id.lock().unwrap() = "other".into();
    let error = cluster.topic("t").await.unwrap_err();
    assert!(error.to_string().contains("another cluster: other instead of fake"), "{error}");
    assert!(!error.is_retriable());
}

/// Red test 3 of the design review: whatever shares a connection with a parked JoinGroup stops.
#[tokio::test]
async fn produce_is_answered_while_join_group_is_parked() {
    let parked = Arc::new(Semaphore::new(0));
    let gate = Arc::clone(&parked);
    let fake = FakeCluster::start(1, move |call| {
        let gate = Arc::clone(&gate);
        async move {
            match call.key {
                ApiKey::JoinGroup => {
                    gate.acquire().await.unwrap().forget();
                    call.reply(&JoinGroupResponse::default())
                }
                ApiKey::Produce => call.reply(&ProduceResponse::default()),
                ApiKey::Heartbeat => call.reply(&HeartbeatResponse::default()),
                _ => Answer::Default,
            }
        }
    })
    .await;
    let cluster = Cluster::connect(fake.config()).await.unwrap();
    let joining = tokio::spawn({
        let cluster = cluster.clone();
        async move { cluster.request(1, ConnectionClass::Group, &JoinGroupRequest::default()).await }
    });
    while fake.calls(ApiKey::JoinGroup) == 0 {
        tokio::task::yield_now().await;
    }
    cluster.request(1, ConnectionClass::Produce, &ProduceRequest::default()).await.unwrap();
    beat(&cluster, 1).await.unwrap();
    assert!(!joining.is_finished(), "the JoinGroup is still parked");
    parked.add_permits(1);
    joining.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_throttled_connection_is_quiet_and_the_others_are_not() {
    let fake = FakeCluster::start(1, |call| async move {
        match call.key {
            ApiKey::ListGroups => call.reply(&ListGroupsResponse::default().with_throttle_time_ms(300)),
            ApiKey::Heartbeat => call.reply(&HeartbeatResponse::default()),
            _ => Answer::Default,
        }
    })
    .await;
    let cluster = Cluster::connect(fake.config()).await.unwrap();
    let list = ListGroupsRequest::default();
    beat(&cluster, 1).await.unwrap();
    cluster.request(1, ConnectionClass::Slow, &list).await.unwrap();
    let (throttled, beaten) =
        tokio::join!(cluster.request(1, ConnectionClass::Slow, &list), beat(&cluster, 1));
    throttled.unwrap();
    beaten.unwrap();
    let log: Vec<_> = fake.script.log.lock().unwrap().iter().map(|(_, key)| *key).collect();
    assert_eq!(log[log.len() - 3..], [ApiKey::ListGroups, ApiKey::Heartbeat, ApiKey::ListGroups]);
}

#[tokio::test]
async fn a_poisoned_connection_is_made_anew() {
    let hang_up = Arc::new(AtomicBool::new(true));
    let first = Arc::clone(&hang_up);
    let fake = FakeCluster::start(1, move |call| {
        let hang_up = call.key == ApiKey::Heartbeat && first.swap(false, Ordering::SeqCst);
        async move {
            match call.key {
                ApiKey::Heartbeat if !hang_up => call.reply(&HeartbeatResponse::default()),
                ApiKey::Heartbeat => Answer::HangUp,
                _ => Answer::Default,
            }
        }
    })
    .await;
    let cluster = Cluster::connect(fake.config()).await.unwrap();
    let error = beat(&cluster, 1).await.unwrap_err();
    assert!(error.is_retriable(), "{error:?}");
    beat(&cluster, 1).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_was_idle_for_too_long_is_not_trusted() {
    for (max_idle, expected) in [(Duration::ZERO, 2), (Duration::from_secs(540), 1)] {
        let seen = Arc::new(Mutex::new(BTreeSet::new()));
        let connections = Arc::clone(&seen);
        let fake = FakeCluster::start(1, move |call| {
            let connections = Arc::clone(&connections);
            async move {
                match call.key {
                    ApiKey::Heartbeat => {
                        connections.lock().unwrap().insert(call.connection);
                        call.reply(&HeartbeatResponse::default())
                    }
                    _ => Answer::Default,
                }
            }
        })
        .await;
        let config = ClientConfig { connection_max_idle: max_idle, ..fake.config() };
        let cluster = Cluster::connect(config).await.unwrap();
        beat(&cluster, 1).await.unwrap();
        beat(&cluster, 1).await.unwrap();
        assert_eq!(seen.lock().unwrap().len(), expected, "{max_idle:?}");
    }
}

#[tokio::test]
async fn coordinators_are_remembered_until_they_are_found_wrong() {
    let fake = plain(2).await;
    let cluster = Cluster::connect(fake.config()).await.unwrap();
    let find = || cluster.coordinator(CoordinatorType::Group, "g");
    assert_eq!((find().await.unwrap(), find().await.unwrap()), (1, 1));
    assert_eq!(fake.calls(ApiKey::FindCoordinator), 1);
    *fake.script.coordinator.lock().unwrap() = 2;
    cluster.invalidate_coordinator(CoordinatorType::Group, "g", 1);
    assert_eq!(find().await.unwrap(), 2);
    cluster.invalidate_coordinator(CoordinatorType::Group, "g", 1);
    assert_eq!(find().await.unwrap(), 2);
    assert_eq!(fake.calls(ApiKey::FindCoordinator), 2, "a stale caller changes nothing");
}

#[tokio::test]
async fn a_coordinator_that_came_back_elsewhere_is_asked_there() {
    let fake = plain(2).await;
    *fake.script.coordinator.lock().unwrap() = 2;
    let cluster = Cluster::connect(fake.config()).await.unwrap();
    let find = || cluster.coordinator(CoordinatorType::Group, "g");
    assert_eq!(find().await.unwrap(), 2);
    beat(&cluster, 2).await.unwrap();
    let old = fake.port(2);
    fake.stop_node(2).await;
    assert!(beat(&cluster, 2).await.unwrap_err().is_retriable());
    assert_ne!(fake.start_node(2).await, old);
    // Nobody looks at the brokers again: what FindCoordinator says is enough.
    let asked = fake.calls(ApiKey::Metadata);
    cluster.invalidate_coordinator(CoordinatorType::Group, "g", 2);
    assert_eq!(find().await.unwrap(), 2);
    beat(&cluster, 2).await.unwrap();
    assert_eq!(fake.calls(ApiKey::Metadata), asked);
}

#[tokio::test]
async fn closing_ends_calls_under_way() {
    let asked = Arc::new(Notify::new());
    let seen = Arc::clone(&asked);
    let fake = FakeCluster::start(1, move |call| {
        let asked = Arc::clone(&seen);
        async move {
            if call.key == ApiKey::Heartbeat {
                asked.notify_one();
                return Answer::Never;
            }
            Answer::Default
        }
    })
    .await;
    let cluster = Cluster::connect(fake.config()).await.unwrap();
    let (answer, ()) = tokio::join!(beat(&cluster, 1), async {
        asked.notified().await;
        cluster.close();
    });
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(beat(&cluster, 1).await.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(cluster.partitions("t").await.unwrap_err().kind(), ErrorKind::Closed);
}
