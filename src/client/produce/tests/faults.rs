//! What goes wrong on the way, and that the log does not show it.

use super::*;

/// Ten batches of five records, with the first requests meeting these fates.
async fn run(fates: impl IntoIterator<Item = Fate>) -> (Arc<FakeCluster>, Vec<Failed>) {
    let cluster = FakeCluster::new(&[("t", 1)]);
    cluster.fates(fates);
    let mut rig = Rig::new(&cluster, config());
    let topic = rig.topic("t", 1);
    for round in 0..10 {
        rig.batch(topic, 0, round * 5, round * 5 + 5);
    }
    let failures = rig.drained().await;
    (cluster, failures)
}

async fn exactly_once(fates: impl IntoIterator<Item = Fate>) -> Arc<FakeCluster> {
    let (cluster, failures) = run(fates).await;
    assert!(failures.is_empty(), "{failures:?}");
    assert_eq!(cluster.log("t", 0), numbers(0..50));
    cluster
}

#[tokio::test(start_paused = true)]
async fn any_one_of_five_in_flight_may_fail_and_order_is_kept() {
    // The first one goes alone, the next five together.
    for at in 0..6 {
        for fate in [
            Fate::Lost,
            Fate::AnswerLost,
            Fate::Refused(E::NotEnoughReplicas),
            Fate::Refused(E::CorruptMessage),
            Fate::Refused(E::NotLeaderOrFollower),
            Fate::WrittenBut(E::NotEnoughReplicasAfterAppend),
            Fate::WrittenBut(E::RequestTimedOut),
            Fate::WrittenBut(E::DuplicateSequenceNumber),
            Fate::Late(Duration::from_secs(2)),
        ] {
            let mut fates = vec![Fate::Carried; at];
            fates.push(fate);
            let cluster = exactly_once(fates).await;
            assert_eq!(cluster.with(|state| state.most_in_flight), 5);
            cluster.with(|state| {
                assert!(state.written.iter().all(|&(epoch, ..)| epoch == 0), "no new epoch is needed");
            });
        }
    }
}

#[tokio::test(start_paused = true)]
async fn batches_and_what_befell_them_are_counted() {
    let cluster = FakeCluster::new(&[("t", 1)]);
    let refused = || Fate::Refused(E::NotEnoughReplicas);
    cluster.fates([refused(), refused(), Fate::Carried, Fate::Refused(E::TopicAuthorizationFailed)]);
    let mut rig = Rig::new(&cluster, config());
    let topic = rig.topic("t", 1);
    rig.batch(topic, 0, 0, 5);
    assert!(rig.drained().await.is_empty());
    rig.batch(topic, 0, 5, 10);
    assert_eq!(rig.drained().await.len(), 1);
    let counts = rig.producer.counts();
    assert_eq!((counts.batches, counts.retries, counts.failures), (2, 2, 1));
    // Two batches of the same size: five keyless records of four bytes each, behind a header of 61 bytes.
    assert!(counts.bytes > 2 * (61 + 5 * 4) && counts.bytes.is_multiple_of(2), "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_takes_all_five_with_it() {
    for written in 0..=5 {
        // The first ones are carried out, and no answer comes back.
        let mut fates = vec![Fate::Carried];
        fates.resize(1 + written, Fate::AnswerLost);
        fates.resize(6, Fate::Lost);
        exactly_once(fates).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_goes_alone_where_the_broker_may_not_know_the_producer() {
    for pause in [None, Some(Duration::from_secs(3600))] {
        let cluster = FakeCluster::new(&[("t", 1)]);
        let mut rig = Rig::new(&cluster, config());
        let topic = rig.topic("t", 1);
        let mut sent = 0;
        if let Some(pause) = pause {
            rig.batch(topic, 0, 0, 5);
            assert!(rig.drained().await.is_empty());
            sent = 5;
            tokio::time::sleep(pause).await;
            cluster.forget_producers();
        }
        // Were the next batches under way as well, the broker would take them first.
        cluster.fates([Fate::Lost]);
        let before = cluster.with(|state| state.requests.len());
        for _ in 0..5 {
            rig.batch(topic, 0, sent, sent + 5);
            sent += 5;
        }
        rig.requests(before + 1).await;
        assert_eq!(cluster.with(|state| state.in_flight), 1);
        assert!(rig.drained().await.is_empty());
        assert_eq!(cluster.log("t", 0), numbers(0..sent));
    }
}

#[tokio::test(start_paused = true)]
async fn no_batch_of_open_outcome_leaves_the_five_that_a_broker_remembers() {
    // The third is written, but its answer is lost twice, while others behind it come through.
    let mut fates = vec![Fate::Carried, Fate::AnswerLost, Fate::AnswerLost];
    fates.extend([Fate::Carried, Fate::Carried, Fate::Carried, Fate::Carried, Fate::Lost]);
    let cluster = exactly_once(fates).await;
    cluster.with(|state| assert!(state.written.iter().all(|&(epoch, ..)| epoch == 0)));
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_remembers_only_the_last_batch_after_a_crash_gets_none_twice() {
    for written in 0..=5 {
        for carried in [0, 1] {
            let cluster = FakeCluster::new(&[("t", 1)]);
            let mut fates = vec![Fate::Carried; 1 + carried];
            fates.resize(1 + carried + written, Fate::AnswerLost);
            fates.resize(6 + carried, Fate::Lost);
            cluster.fates(fates);
            let mut rig = Rig::new(&cluster, config());
            let topic = rig.topic("t", 1);
            for round in 0..10 {
                rig.batch(topic, 0, round * 5, round * 5 + 5);
            }
            rig.requests(6 + carried).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            cluster.crash();
            assert!(rig.drained().await.is_empty());
            assert_eq!(cluster.log("t", 0), numbers(0..50), "{written} written without an answer");
            cluster.with(|state| assert!(state.written.iter().all(|&(epoch, ..)| epoch == 0)));
        }
    }
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    fn fates(&mut self, most: u64, kinds: u64) -> Vec<Fate> {
        (0..self.below(most))
            .map(|_| match self.below(kinds + 4) {
                0 => Fate::Lost,
                1 => Fate::AnswerLost,
                2 => Fate::Refused(E::NotEnoughReplicas),
                3 => Fate::Refused(E::NotLeaderOrFollower),
                4 => Fate::WrittenBut(E::RequestTimedOut),
                5 => Fate::WrittenBut(E::NotEnoughReplicasAfterAppend),
                6 => Fate::Late(Duration::from_millis(self.below(500))),
                // Two requests that wander on after the first was given up may be taken behind our back: see partition.rs.
                7 if kinds <= 8 => Fate::Ghost(Duration::from_millis(self.below(3000))),
                8 if kinds > 8 => Fate::Refused(E::InvalidRecord),
                9 if kinds > 8 => Fate::Refused(E::TopicAuthorizationFailed),
                _ => Fate::Carried,
            })
            .collect()
    }
}

#[tokio::test(start_paused = true)]
async fn scripts_and_crashes_at_random_keep_order_and_lose_nothing() {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for _ in 0..400 {
        let cluster = FakeCluster::new(&[("t", 1)]);
        cluster.fates(dice.fates(30, 8));
        let mut rig = Rig::new(&cluster, config());
        let topic = rig.topic("t", 1);
        for i in 0..10 {
            rig.batch(topic, 0, i * 5, i * 5 + 5);
        }
        let crashes = dice.below(4);
        for _ in 0..crashes {
            tokio::time::sleep(Duration::from_millis(dice.below(300))).await;
            cluster.crash();
        }
        let failures = rig.drained().await;
        assert!(failures.is_empty(), "{failures:?}");
        assert_eq!(cluster.log("t", 0), numbers(0..50));
        // A broker that has crashed may know that a batch is written, and not where.
        let end = rig.producer.end_offset("t", 0);
        assert!(end == Some(50) || (crashes > 0 && end < Some(50)), "{end:?} after {crashes} crashes");
    }
}

#[tokio::test(start_paused = true)]
async fn with_refusals_and_timeouts_at_random_every_record_is_in_the_log_or_reported() {
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    let mut reported = 0;
    for round in 0..400 {
        let cluster = FakeCluster::new(&[("t", 3)]);
        cluster.fates(dice.fates(60, 10));
        if dice.below(4) == 0 {
            cluster.with(|state| state.logs.values_mut().for_each(|log| log.max_batch = 100));
        }
        let delivery_timeout = Duration::from_millis(500 + dice.below(4000));
        let mut rig = Rig::new(&cluster, ProducerConfig { delivery_timeout, ..config() });
        let topic = rig.topic("t", 3);
        for i in 0..20 {
            for partition in 0..3 {
                rig.batch(topic, partition, i * 5, i * 5 + 5);
            }
            tokio::time::sleep(Duration::from_millis(dice.below(30))).await;
            if dice.below(8) == 0 {
                cluster.move_leader("t", dice.below(3) as i32, dice.below(3) as i32);
            }
        }
        let failures = rig.drained().await;
        reported += failures.len();
        for partition in 0..3 {
            let log = cluster.log("t", partition);
            assert!(log.is_sorted_by(|a, b| a < b), "round {round}: order, and nothing twice: {log:?}");
            let end = rig.producer.end_offset("t", partition);
            assert!(end <= Some(log.len() as i64), "round {round}: {end:?}");
            let failed: Vec<_> =
                failures.iter().filter(|failed| failed.partition == partition).flat_map(values_of).collect();
            let distinct: std::collections::HashSet<_> = failed.iter().collect();
            assert_eq!(distinct.len(), failed.len(), "round {round}: nothing is reported twice: {failed:?}");
            for value in numbers(0..100) {
                assert!(log.contains(&value) || failed.contains(&value), "round {round}: {value} is lost");
            }
        }
    }
    assert!(reported > 100, "the scripts do make batches fail: {reported}");
}

#[tokio::test(start_paused = true)]
async fn the_leader_moves_under_load_and_the_order_of_each_partition_stays() {
    let cluster = FakeCluster::new(&[("t", 4)]);
    let mut rig = Rig::new(&cluster, config());
    let topic = rig.topic("t", 4);
    for round in 0..40 {
        for partition in 0..4 {
            rig.batch(topic, partition, round * 5, round * 5 + 5);
        }
        if round % 4 == 0 {
            rig.requests(round).await;
            for partition in 0..4 {
                cluster.move_leader("t", partition, (round as i32 + partition) % 3);
            }
        }
    }
    assert!(rig.drained().await.is_empty());
    for partition in 0..4 {
        assert_eq!(cluster.log("t", partition), numbers(0..200));
    }
    assert!(cluster.with(|state| state.invalidated) > 0);
}

#[tokio::test(start_paused = true)]
async fn a_refused_batch_fails_alone_and_the_rest_follows_in_order_in_a_new_epoch() {
    for code in [E::InvalidRecord, E::RecordListTooLarge, E::PolicyViolation, E::TopicAuthorizationFailed] {
        let (cluster, failures) = run([Fate::Carried, Fate::Refused(code)]).await;
        assert_eq!(failures.len(), 1);
        let failed = &failures[0];
        assert_eq!(values_of(failed), numbers(5..10));
        assert_eq!((&*failed.topic, failed.partition), ("t", 0));
        assert_eq!((failed.error.topic(), failed.error.partition()), (Some("t"), Some(0)));
        assert_eq!(failed.error.code(), Some(code.code()));
        assert!(!failed.error.is_retriable());
        assert_eq!(cluster.log("t", 0), [numbers(0..5), numbers(10..50)].concat(), "{code:?}");
        cluster.with(|state| {
            assert_eq!(state.written[0], (0, 0, 5));
            assert_eq!(state.written[1], (1, 0, 5), "numbers start again");
        });
    }
}

#[tokio::test(start_paused = true)]
async fn the_guilty_records_are_named() {
    let (cluster, failures) = run([Fate::BadRecord("0003")]).await;
    assert_eq!(failures.len(), 1);
    assert_eq!(failures[0].guilty, [3]);
    assert_eq!(values_of(&failures[0]), numbers(0..5));
    assert_eq!(cluster.log("t", 0), numbers(5..50));
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_forgot_the_producer_gets_a_new_epoch() {
    for strict in [true, false] {
        let cluster = FakeCluster::new(&[("t", 1)]);
        cluster.with(|state| state.strict_about_unknown = strict);
        let mut rig = Rig::new(&cluster, config());
        let topic = rig.topic("t", 1);
        for round in 0..10 {
            rig.batch(topic, 0, round * 5, round * 5 + 5);
            assert!(rig.drained().await.is_empty());
            if round % 3 == 0 {
                cluster.forget_producers();
            }
        }
        // And with several in flight.
        cluster.forget_producers();
        for round in 10..20 {
            rig.batch(topic, 0, round * 5, round * 5 + 5);
        }
        assert!(rig.drained().await.is_empty());
        assert_eq!(cluster.log("t", 0), numbers(0..100));
        let epochs = cluster.with(|state| state.written.last().unwrap().0);
        assert_eq!(epochs, if strict { 4 } else { 0 });
    }
}

#[tokio::test(start_paused = true)]
async fn when_the_epochs_are_used_up_there_is_a_new_producer_id() {
    let cluster = FakeCluster::new(&[("t", 2)]);
    cluster.with(|state| {
        state.strict_about_unknown = true;
        state.first_epoch = i16::MAX;
    });
    let mut rig = Rig::new(&cluster, config());
    let topic = rig.topic("t", 2);
    rig.batch(topic, 0, 0, 5);
    rig.batch(topic, 1, 0, 5);
    assert!(rig.drained().await.is_empty());
    cluster.forget_producers();
    for partition in [0, 1] {
        rig.batch(topic, partition, 5, 10);
        rig.batch(topic, partition, 10, 15);
    }
    assert!(rig.drained().await.is_empty());
    for partition in [0, 1] {
        assert_eq!(cluster.log("t", partition), numbers(0..15));
    }
    assert_eq!(cluster.with(|state| state.written.last().unwrap().0), 0, "the new id's first epoch");
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_too_large_for_the_topic_is_split_as_often_as_needed() {
    let cluster = FakeCluster::new(&[("t", 1)]);
    cluster.with(|state| state.log("t", 0).max_batch = 110);
    let mut rig = Rig::new(&cluster, ProducerConfig { batch_size: 1000, ..config() });
    let topic = rig.topic("t", 1);
    for round in 0..6 {
        rig.batch(topic, 0, round * 25, round * 25 + 25);
    }
    assert!(rig.drained().await.is_empty());
    assert_eq!(cluster.log("t", 0), numbers(0..150));
    cluster.with(|state| assert!(state.written.iter().all(|&(epoch, ..)| epoch == 0)));
    assert_eq!(rig.producer.in_flight_bytes(), 0, "the halves give back what the whole took");
}

#[tokio::test(start_paused = true)]
async fn a_single_record_that_is_too_large_for_the_topic_fails_alone() {
    let cluster = FakeCluster::new(&[("t", 1)]);
    cluster.with(|state| state.log("t", 0).max_batch = 150);
    let mut rig = Rig::new(&cluster, ProducerConfig { batch_size: 1000, ..config() });
    let topic = rig.topic("t", 1);
    let large = "x".repeat(200);
    for value in ["a", "b", &large, "c", "d"] {
        rig.send(topic, 0, value);
    }
    let failures = rig.drained().await;
    assert_eq!(failures.iter().flat_map(values_of).collect::<Vec<_>>(), [large]);
    assert_eq!(failures[0].error.code(), Some(E::MessageTooLarge.code()));
    assert!(failures[0].error.to_string().contains("max.message.bytes"));
    assert_eq!(cluster.log("t", 0), ["a", "b", "c", "d"]);
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_never_comes_fails_at_the_delivery_timeout_and_one_that_comes_late_does_not() {
    let cluster = FakeCluster::new(&[("t", 1)]);
    let mut rig = Rig::new(&cluster, config());
    let (none, late, t) = (rig.topic("none", 1), rig.topic("late", 1), rig.topic("t", 1));
    let begin = now();
    rig.batch(none, 0, 0, 5);
    rig.batch(late, 0, 0, 5);
    rig.batch(t, 0, 0, 5);
    until(|| cluster.log("t", 0).len() == 5).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(rig.producer.take_failures().is_empty());
    cluster.create("late", 0);
    let failures = rig.drained().await;
    assert_eq!(now() - begin, Duration::from_secs(120), "not before delivery.timeout.ms, and no later");
    assert_eq!(failures.len(), 1);
    let error = &failures[0].error;
    assert_eq!((error.kind(), error.topic()), (ErrorKind::Timeout, Some("none")));
    let text = format!("{error:?}");
    assert!(text.contains("delivery.timeout.ms, 120000 ms") && text.contains("does not exist"), "{text}");
    assert_eq!(cluster.log("late", 0), numbers(0..5));
}

#[tokio::test(start_paused = true)]
async fn after_a_delivery_timeout_the_partition_goes_on() {
    // Whether or not the batch that timed out was written: it is there at most once, and what follows exactly once.
    for (fate, first) in [(Fate::Lost, numbers(0..0)), (Fate::AnswerLost, numbers(0..5))] {
        let cluster = FakeCluster::new(&[("t", 1)]);
        let mut fates = vec![fate];
        fates.resize(400, Fate::Lost);
        cluster.fates(fates);
        let mut rig = Rig::new(&cluster, config());
        let topic = rig.topic("t", 1);
        rig.batch(topic, 0, 0, 5);
        tokio::time::sleep(Duration::from_secs(100)).await;
        // These are in time, but behind the first one.
        rig.batch(topic, 0, 5, 10);
        rig.batch(topic, 0, 10, 15);
        rig.notify.notified().await;
        let failures = rig.producer.take_failures();
        assert_eq!(failures.iter().flat_map(values_of).collect::<Vec<_>>(), numbers(0..5));
        assert_eq!(failures[0].error.kind(), ErrorKind::Timeout);
        assert!(format!("{:?}", failures[0].error).contains("the connection broke"));
        cluster.with(|state| state.fates.clear());
        assert!(rig.drained().await.is_empty());
        assert_eq!(cluster.log("t", 0), [first, numbers(5..15)].concat());
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_unknown_outcome_is_not_written_twice_when_one_before_it_is_given_up() {
    // Both are written and both answers are lost; then the first is refused for good when it comes again.
    let fates = [Fate::AnswerLost, Fate::AnswerLost, Fate::Refused(E::TopicAuthorizationFailed)];
    let cluster = FakeCluster::new(&[("t", 1)]);
    cluster.fates(fates);
    let mut rig = Rig::new(&cluster, config());
    let topic = rig.topic("t", 1);
    rig.batch(topic, 0, 0, 5);
    rig.batch(topic, 0, 5, 10);
    let failures = rig.drained().await;
    assert_eq!(failures.len(), 1);
    rig.batch(topic, 0, 10, 15);
    assert!(rig.drained().await.is_empty());
    assert_eq!(cluster.log("t", 0), numbers(0..15));
}

#[tokio::test(start_paused = true)]
async fn a_producer_id_is_asked_for_until_there_is_one() {
    let cluster = FakeCluster::new(&[("t", 1)]);
    cluster.with(|state| state.id_errors = [E::CoordinatorLoadInProgress, E::RequestTimedOut].into());
    let mut rig = Rig::new(&cluster, config());
    let topic = rig.topic("t", 1);
    rig.batch(topic, 0, 0, 5);
    assert!(rig.drained().await.is_empty());
    assert_eq!(cluster.log("t", 0), numbers(0..5));
}

#[tokio::test(start_paused = true)]
async fn without_the_right_to_a_producer_id_batches_fail_and_later_ones_ask_again() {
    let cluster = FakeCluster::new(&[("t", 2)]);
    cluster.with(|state| state.id_errors = [E::ClusterAuthorizationFailed].into());
    let mut rig = Rig::new(&cluster, config());
    let topic = rig.topic("t", 2);
    rig.batch(topic, 0, 0, 5);
    rig.batch(topic, 1, 0, 5);
    let failures = rig.drained().await;
    assert_eq!(failures.len(), 2);
    let text = format!("{:?}", failures[0].error);
    assert!(text.contains("no producer id") && text.contains("because"), "{text}");
    rig.batch(topic, 0, 5, 10);
    assert!(rig.drained().await.is_empty());
    assert_eq!(cluster.log("t", 0), numbers(5..10));
}

#[tokio::test(start_paused = true)]
async fn a_transport_that_gives_up_fails_what_it_was_given() {
    let (_, failures) = run(vec![Fate::Broken; 10]).await;
    assert_eq!(failures.iter().flat_map(values_of).collect::<Vec<_>>(), numbers(0..50));
    assert!(failures.iter().all(|failed| failed.error.kind() == ErrorKind::Closed));
}
