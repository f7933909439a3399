//! What the worker sees: batching, credit, limits, fencing.

use super::*;
use crate::client::compression::Compression;

#[tokio::test(start_paused = true)]
async fn a_full_batch_is_handed_over_and_an_open_one_lingers() {
    let cluster = FakeCluster::new(&[("t", 1)]);
    let mut rig = Rig::new(&cluster, config());
    let topic = rig.topic("t", 1);
    let begin = now();
    rig.producer.poll(begin).unwrap();
    for i in 0..30 {
        rig.send(topic, 0, &format!("{i:04}"));
    }
    let open = rig.producer.open_bytes();
    assert!(rig.producer.in_flight_bytes() > 0 && open > 0);
    assert_eq!(rig.producer.next_poll(), Some(begin + Duration::from_millis(5)));
    rig.producer.poll(begin + Duration::from_millis(4)).unwrap();
    assert_eq!(rig.producer.open_bytes(), open, "not yet");
    rig.producer.poll(begin + Duration::from_millis(5)).unwrap();
    assert_eq!((rig.producer.open_bytes(), rig.producer.next_poll()), (0, None));
    assert!(!rig.producer.is_drained());
    assert!(rig.drained().await.is_empty());
    assert_eq!(cluster.log("t", 0), numbers(0..30));
    assert!(cluster.with(|state| state.written.len()) > 1);
}

#[tokio::test(start_paused = true)]
async fn every_codec_arrives() {
    for compression in Compression::ALL.into_iter().filter(|kind| kind.is_available()) {
        let cluster = FakeCluster::new(&[("t", 1)]);
        let mut rig = Rig::new(&cluster, ProducerConfig { compression, ..config() });
        let topic = rig.topic("t", 1);
        rig.batch(topic, 0, 0, 50);
        assert!(rig.drained().await.is_empty());
        assert_eq!(cluster.log("t", 0), numbers(0..50), "{compression:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_request_takes_a_batch_of_each_partition_of_its_leader() {
    let cluster = FakeCluster::new(&[("t", 6), ("u", 3)]);
    let mut rig = Rig::new(&cluster, config());
    let (t, u) = (rig.topic("t", 6), rig.topic("u", 3));
    assert_eq!(rig.topic("t", 6), t);
    for partition in 0..6 {
        rig.batch(t, partition, 0, 5);
    }
    for partition in 0..3 {
        rig.batch(u, partition, 0, 5);
    }
    assert!(rig.drained().await.is_empty());
    let mut requests = cluster.with(|state| state.requests.clone());
    requests.sort_unstable();
    assert_eq!(requests.iter().map(|r| (r.0, r.1)).collect::<Vec<_>>(), [(0, 3), (1, 3), (2, 3)]);
}

#[tokio::test(start_paused = true)]
async fn requests_keep_to_their_size_and_to_five_a_node() {
    let cluster = FakeCluster::new(&[("t", 30)]);
    cluster.with(|state| state.logs.values_mut().for_each(|log| log.leader = 0));
    let mut rig = Rig::new(&cluster, ProducerConfig { max_request_size: 600, ..config() });
    let topic = rig.topic("t", 30);
    for partition in 0..30 {
        for round in 0..4 {
            rig.batch(topic, partition, round * 9, round * 9 + 9);
        }
    }
    assert!(rig.drained().await.is_empty());
    for partition in 0..30 {
        assert_eq!(cluster.log("t", partition), numbers(0..36));
    }
    cluster.with(|state| {
        assert_eq!(state.most_in_flight, 5);
        assert!(state.requests.iter().all(|request| request.2 <= 600), "{:?}", state.requests);
        assert!(state.requests.iter().all(|request| request.1 >= 1));
    });
}

#[tokio::test(start_paused = true)]
async fn requests_keep_to_the_number_that_is_configured() {
    for max_in_flight in [1, 3] {
        let cluster = FakeCluster::new(&[("t", 30)]);
        cluster.with(|state| state.logs.values_mut().for_each(|log| log.leader = 0));
        let mut rig = Rig::new(&cluster, ProducerConfig { max_request_size: 600, max_in_flight, ..config() });
        let topic = rig.topic("t", 30);
        for partition in 0..30 {
            for round in 0..4 {
                rig.batch(topic, partition, round * 9, round * 9 + 9);
            }
        }
        assert!(rig.drained().await.is_empty());
        assert!((0..30).all(|partition| cluster.log("t", partition) == numbers(0..36)));
        assert_eq!(cluster.with(|state| state.most_in_flight), max_in_flight);
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_too_large_is_refused_at_once() {
    let cluster = FakeCluster::new(&[("t", 1)]);
    let mut rig = Rig::new(&cluster, ProducerConfig { max_request_size: 1000, ..config() });
    let topic = rig.topic("t", 1);
    let large = vec![b'x'; 1000];
    let error = rig.producer.send(topic, 0, 0, None, Some(&large), &Headers::new()).unwrap_err();
    assert_eq!((error.kind(), error.topic()), (ErrorKind::Production, Some("t")));
    let text = error.to_string();
    assert!(text.contains("1070 bytes") && text.contains("max.request.size, 1000 bytes"), "{text}");
    // As large as just fits, and larger than a batch: a batch of its own.
    let most = vec![b'x'; 1000 - 70];
    rig.send(topic, 0, "before");
    rig.producer.send(topic, 0, 0, None, Some(&most), &Headers::new()).unwrap();
    rig.send(topic, 0, "after");
    assert!(rig.drained().await.is_empty());
    let log = cluster.log("t", 0);
    assert_eq!((&*log[0], log[1].len(), &*log[2]), ("before", 930, "after"));
    for partition in [-1, 1] {
        let error = rig.producer.send(topic, partition, 0, None, Some(b"x"), &Headers::new()).unwrap_err();
        assert_eq!((error.kind(), error.partition()), (ErrorKind::Topic, Some(partition)));
    }
    rig.topic("t", 2);
    cluster.create("t", 1);
    rig.send(topic, 1, "grown");
    assert!(rig.drained().await.is_empty());
    assert_eq!(cluster.log("t", 1), ["grown"]);
}

#[tokio::test(start_paused = true)]
async fn records_without_a_key_stick_to_a_partition_until_its_batch_is_full() {
    let cluster = FakeCluster::new(&[("t", 3)]);
    let mut rig = Rig::new(&cluster, config());
    let topic = rig.topic("t", 3);
    let mut runs = Vec::new();
    for i in 0..100 {
        let value = format!("{i:04}");
        let partition = rig.producer.send_keyless(topic, 0, Some(value.as_bytes()), &Headers::new()).unwrap();
        match runs.last_mut() {
            Some((last, count)) if *last == partition => *count += 1,
            _ => runs.push((partition, 1)),
        }
    }
    assert!(runs.len() >= 6, "{runs:?}");
    assert!(runs[..runs.len() - 1].iter().all(|&(_, count)| count >= 9), "{runs:?}");
    assert!(runs.windows(2).all(|pair| pair[1].0 == (pair[0].0 + 1) % 3), "{runs:?}");
    assert!(rig.drained().await.is_empty());
    let mut all: Vec<_> = (0..3).flat_map(|partition| cluster.log("t", partition)).collect();
    all.sort_unstable();
    assert_eq!(all, numbers(0..100));
}

#[tokio::test(start_paused = true)]
async fn credit_goes_and_comes_back_and_the_callback_says_so() {
    let cluster = FakeCluster::new(&[("t", 8)]);
    let mut rig = Rig::new(&cluster, ProducerConfig { buffer_memory: 4000, batch_size: 1000, ..config() });
    let topic = rig.topic("t", 8);
    let gate = cluster.gate.acquire_many(fake::GATE).await.unwrap();
    let mut sent = 0;
    while rig.producer.has_credit() {
        // To eight partitions, so that no batch fills up: open ones count, and are handed over at half of the memory.
        rig.send(topic, sent % 8, &format!("{sent:04}"));
        sent += 1;
        assert!(rig.producer.open_bytes() <= 2000);
    }
    assert!(sent > 100);
    rig.send(topic, 0, "overdrawn");
    assert!(rig.producer.in_flight_bytes() + rig.producer.open_bytes() > 4000, "a soft limit");
    rig.requests(3).await;
    assert_eq!(rig.progress.load(Ordering::SeqCst), 0, "nothing has moved yet");
    drop(gate);
    rig.notify.notified().await;
    assert!(rig.producer.has_credit(), "the callback means it");
    assert!(rig.drained().await.is_empty());
    assert!(rig.progress.load(Ordering::SeqCst) <= 4, "it is not called for every batch");
}

#[tokio::test(start_paused = true)]
async fn a_fenced_producer_sends_nothing_more_until_it_is_renewed() {
    let cluster = FakeCluster::new(&[("t", 2)]);
    let mut rig = Rig::new(&cluster, config());
    let topic = rig.topic("t", 2);
    rig.batch(topic, 0, 0, 5);
    assert!(rig.drained().await.is_empty());
    let gate = cluster.gate.acquire_many(fake::GATE).await.unwrap();
    for round in 1..9 {
        rig.batch(topic, 0, round * 5, round * 5 + 5);
    }
    rig.requests(6).await;
    rig.send(topic, 1, "open when fenced");
    let fence = rig.producer.fence_handle();
    std::thread::spawn(move || fence.fence()).join().unwrap();
    let error = rig.producer.send(topic, 1, 0, None, Some(b"late"), &Headers::new()).unwrap_err();
    assert_eq!((error.kind(), error.class()), (ErrorKind::Fenced, crate::ErrorClass::FencedLease));
    // A worker that does not know yet may still hand over.
    rig.producer.flush().unwrap();
    drop(gate);
    let failures = rig.drained().await;
    assert!(failures.iter().all(|failed| failed.error.kind() == ErrorKind::Fenced));
    let lost: Vec<_> = failures.iter().flat_map(values_of).collect();
    assert_eq!(lost.len(), 16, "three batches that waited and the open one: {lost:?}");
    assert_eq!(cluster.log("t", 0), numbers(0..30), "what was under way arrives");
    assert!(cluster.log("t", 1).is_empty());

    rig.producer.renew();
    rig.batch(topic, 0, 30, 35);
    assert!(rig.drained().await.is_empty());
    assert_eq!(cluster.log("t", 0), numbers(0..35));
}

#[tokio::test(start_paused = true)]
async fn renewing_gives_up_open_batches_of_the_old_lease() {
    let cluster = FakeCluster::new(&[("t", 1)]);
    let mut rig = Rig::new(&cluster, config());
    let topic = rig.topic("t", 1);
    rig.send(topic, 0, "old");
    rig.producer.fence();
    rig.producer.renew();
    rig.send(topic, 0, "new");
    assert!(rig.drained().await.is_empty());
    assert_eq!(cluster.log("t", 0), ["new"]);
}

#[tokio::test(start_paused = true)]
async fn the_back_ends_with_the_producer_but_delivers_first() {
    let cluster = FakeCluster::new(&[("t", 1)]);
    let mut rig = Rig::new(&cluster, config());
    let topic = rig.topic("t", 1);
    for round in 0..8 {
        rig.batch(topic, 0, round * 5, round * 5 + 5);
    }
    drop(rig.producer);
    rig.back.await.unwrap();
    assert_eq!(cluster.log("t", 0), numbers(0..40));
}

#[tokio::test(start_paused = true)]
async fn when_the_back_is_gone_everything_fails_and_nothing_hangs() {
    let cluster = FakeCluster::new(&[("t", 1)]);
    let mut rig = Rig::new(&cluster, config());
    let topic = rig.topic("t", 1);
    let _gate = cluster.gate.acquire_many(fake::GATE).await.unwrap();
    rig.batch(topic, 0, 0, 5);
    rig.requests(1).await;
    rig.batch(topic, 0, 5, 10);
    rig.back.abort();
    let failures = rig.drained().await;
    assert!(failures.iter().all(|failed| failed.error.kind() == ErrorKind::Closed));
    assert_eq!(failures.iter().flat_map(values_of).collect::<Vec<_>>(), numbers(0..10));
    rig.send(topic, 0, "more");
    assert_eq!(rig.producer.flush().unwrap_err().kind(), ErrorKind::Closed);
    assert!(rig.producer.is_drained());
}

#[test]
fn transactions_are_refused_not_ignored() {
    let config = ProducerConfig {
        transactional: Some(Transactional { id: String::new(), timeout: Duration::from_secs(1) }),
        ..config()
    };
    assert_eq!(Producer::new(config, Arc::new(|| ())).unwrap_err().kind(), ErrorKind::Config);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_past_the_permit_until_there_is_a_later_one() {
    let cluster = FakeCluster::new(&[("t", 1)]);
    let mut rig = Rig::new(&cluster, config());
    let topic = rig.topic("t", 1);
    let fence = rig.producer.fence_handle();
    fence.permit_until(now() + Duration::from_secs(3));
    rig.batch(topic, 0, 0, 5);
    assert!(rig.drained().await.is_empty());
    // As if the process had been frozen: what it had in hand waits.
    tokio::time::advance(Duration::from_secs(3)).await;
    rig.batch(topic, 0, 5, 9);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!((cluster.log("t", 0), rig.producer.is_drained()), (numbers(0..5), false));
    fence.permit_until(now() + Duration::from_secs(3));
    assert!(rig.drained().await.is_empty());
    assert_eq!(cluster.log("t", 0), numbers(0..9));
}
