//! Error codes, lost requests, lost answers and late ones, of each request that changes something.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mainstem::TopicPartition;
use mainstem::client::{Admin, AlterConfig, ConfigResource, Isolation, NewTopic, OffsetSpec};
use mainstem::embedded::{Api, EmbeddedKafka, Fault};
use mainstem::prelude::*;

use crate::numbers::{
    assert_exact, connect, copy, count, every_other, one_after_another, producer, quick, read, run, send,
    side_by_side, soon, topic, wait_exact,
};
use crate::support::{eventually, holds_within};

const COORDINATOR_LOAD_IN_PROGRESS: i16 = 14;
const COORDINATOR_NOT_AVAILABLE: i16 = 15;
const NOT_COORDINATOR: i16 = 16;
const ILLEGAL_GENERATION: i16 = 22;
const REBALANCE_IN_PROGRESS: i16 = 27;
const NOT_CONTROLLER: i16 = 41;

/// Longer than the two seconds after which these clients give a request up.
const LATE: Duration = Duration::from_millis(2_500);

fn fail(codes: &[i16]) -> Vec<Fault> {
    codes.iter().map(|code| Fault::Fail(*code)).collect()
}

/// The connection dies before and after the effect, and the answer comes when nobody waits for it any more.
fn lost() -> Vec<Fault> {
    vec![
        Fault::DropAfter,
        Fault::DropBefore,
        Fault::DropAfter,
        Fault::DelayAfter(LATE),
        Fault::DelayBefore(LATE),
    ]
}

#[tokio::test]
async fn a_producer_and_a_reader_survive_what_leaders_say_and_what_gets_lost() {
    let kafka = EmbeddedKafka::builder().nodes(3).start().unwrap();
    topic(&kafka, "numbers", 3, 3).await;
    // CORRUPT_MESSAGE, UNKNOWN_TOPIC_OR_PARTITION, LEADER_NOT_AVAILABLE, NOT_LEADER, REQUEST_TIMED_OUT,
    // NETWORK_EXCEPTION, NOT_ENOUGH_REPLICAS, the same after the append, KAFKA_STORAGE_ERROR.
    let mut of_produce = fail(&[2, 3, 5, 6, 7, 13, 19, 20, 56]);
    of_produce.extend(lost());
    // UNKNOWN_TOPIC_OR_PARTITION, NOT_LEADER, REPLICA_NOT_AVAILABLE, KAFKA_STORAGE_ERROR, FENCED_LEADER_EPOCH,
    // UNKNOWN_LEADER_EPOCH.
    let mut of_fetch = fail(&[3, 6, 9, 56, 74, 75]);
    of_fetch.extend(lost());
    let all = (of_produce.len(), of_fetch.len());
    let used = (every_other(&kafka, Api::Produce, of_produce), every_other(&kafka, Api::Fetch, of_fetch));
    let listed = every_other(&kafka, Api::ListOffsets, fail(&[5, 6, 75, 74]));
    let from_init = one_after_another(
        &kafka,
        Api::InitProducerId,
        [
            fail(&[COORDINATOR_LOAD_IN_PROGRESS, COORDINATOR_NOT_AVAILABLE]),
            vec![Fault::DropAfter, Fault::DropBefore],
        ]
        .concat(),
    );
    let cluster = connect(&kafka).await;
    let producer = producer(&cluster);
    let mut last = 0;
    while used.0.load(Ordering::SeqCst) < all.0 {
        assert!(last < 1_000, "{} of {} faults met", used.0.load(Ordering::SeqCst), all.0);
        last += 1;
        send(&producer, "numbers", last..=last).await;
        soon("the write", producer.flush()).await.unwrap();
    }
    assert_eq!(from_init.load(Ordering::SeqCst), 4);
    let mut reads = 0;
    while used.1.load(Ordering::SeqCst) < all.1 || reads == 0 {
        assert!(reads < 100, "{} of {} faults met", used.1.load(Ordering::SeqCst), all.1);
        reads += 1;
        assert_exact(&soon("the read", read(&cluster, "numbers")).await, last);
    }
    assert_eq!(listed.load(Ordering::SeqCst), 4);
    kafka.clear_hooks();
    assert_exact(&read(&cluster, "numbers").await, last);
}

/// A leader that moves takes what was not replicated with it; the producer writes that again, and nothing else.
#[tokio::test]
async fn leaders_that_move_with_truncation_lose_and_double_nothing() {
    let kafka = EmbeddedKafka::builder().nodes(3).start().unwrap();
    topic(&kafka, "numbers", 1, 3).await;
    topic(&kafka, "copied", 1, 3).await;
    let state = tempfile::tempdir().unwrap();
    let app = run(copy("numbers", "copied"), quick(&kafka, "truncation", &state)).running().await;
    let cluster = connect(&kafka).await;
    let producer = producer(&cluster);
    let mut last = 0;
    for round in 0..10 {
        for topic in ["numbers", "copied"] {
            last += 1;
            send(&producer, "numbers", last..=last).await;
            soon("the write", producer.flush()).await.unwrap();
            kafka.hold_replication(topic, 0, true).unwrap();
            last += 1;
            let before = kafka.size();
            send(&producer, "numbers", last..=last).await;
            // Something is there that the next leader does not have.
            eventually("a record is in the log of the old leader", async || kafka.size() > before).await;
            let next = kafka.leader(topic, 0).unwrap() % 3 + 1;
            kafka.move_leader(topic, 0, next).unwrap();
            kafka.hold_replication(topic, 0, false).unwrap();
            soon("the write", producer.flush()).await.unwrap_or_else(|e| panic!("round {round}: {e:?}"));
        }
    }
    wait_exact(&cluster, "numbers", last).await;
    wait_exact(&cluster, "copied", last).await;
    app.stop().await;
    assert_exact(&read(&cluster, "copied").await, last);
}

/// Runs a count through a repartition topic until all faults of a request have happened, and looks at every count.
async fn counts_exactly(api: Api, name: &str, faults: Vec<Fault>, in_a_row: bool) {
    let kafka = EmbeddedKafka::start().unwrap();
    topic(&kafka, "in", 2, 1).await;
    topic(&kafka, "out", 2, 1).await;
    let all = faults.len();
    let used = match in_a_row {
        true => one_after_another(&kafka, api, faults),
        false => every_other(&kafka, api, faults),
    };
    // Joins happen when there is a reason to: some heartbeats tell of one.
    let (joins, wanted) = (matches!(api, Api::JoinGroup | Api::SyncGroup), used.clone());
    let beats = AtomicUsize::new(0);
    kafka.on(Api::Heartbeat, move |_| {
        let due = joins && wanted.load(Ordering::SeqCst) < all;
        match due && beats.fetch_add(1, Ordering::SeqCst) % 3 == 2 {
            true => Fault::Fail(REBALANCE_IN_PROGRESS),
            false => Fault::Pass,
        }
    });
    let state = tempfile::tempdir().unwrap();
    let config = quick(&kafka, name, &state).set("repartition.purge.interval.ms", "50");
    let app = run(count("in", "out"), config).running().await;
    let cluster = connect(&kafka).await;
    let producer = producer(&cluster);
    let mut last = 0;
    let while_running = !matches!(api, Api::LeaveGroup);
    let met = holds_within(crate::support::DEADLINE, async || {
        last += 1;
        send(&producer, "in", last..=last).await;
        producer.flush().await.unwrap();
        !while_running || used.load(Ordering::SeqCst) >= all
    })
    .await;
    assert!(met, "{api:?}: {} of {all} faults met", used.load(Ordering::SeqCst));
    wait_exact(&cluster, "out", last).await;
    app.stop().await;
    assert!(used.load(Ordering::SeqCst) >= all.min(1), "{api:?}: no fault met");
    // What is repeated after a restart was not committed.
    kafka.clear_hooks();
    let app = run(count("in", "out"), quick(&kafka, name, &state)).running().await;
    last += 1;
    send(&producer, "in", last..=last).await;
    wait_exact(&cluster, "out", last).await;
    app.stop().await;
    assert_exact(&read(&cluster, "out").await, last);
}

const COORDINATOR: [i16; 3] = [NOT_COORDINATOR, COORDINATOR_LOAD_IN_PROGRESS, COORDINATOR_NOT_AVAILABLE];

#[tokio::test]
async fn an_application_survives_whatever_happens_to_its_commits() {
    let mut faults = fail(&COORDINATOR);
    faults.push(Fault::Fail(REBALANCE_IN_PROGRESS));
    faults.extend(lost());
    counts_exactly(Api::OffsetCommit, "commits", faults, false).await;
}

#[tokio::test]
async fn an_application_survives_whatever_happens_to_its_joins() {
    let faults = [fail(&COORDINATOR), lost()].concat();
    counts_exactly(Api::JoinGroup, "joins", faults, false).await;
}

#[tokio::test]
async fn an_application_survives_whatever_happens_to_its_syncs() {
    let faults = [fail(&COORDINATOR), fail(&[REBALANCE_IN_PROGRESS]), lost()].concat();
    counts_exactly(Api::SyncGroup, "syncs", faults, false).await;
}

#[tokio::test]
async fn an_application_survives_whatever_happens_to_its_heartbeats() {
    let faults = [fail(&COORDINATOR), fail(&[REBALANCE_IN_PROGRESS]), lost()].concat();
    counts_exactly(Api::Heartbeat, "heartbeats", faults, false).await;
}

#[tokio::test]
async fn an_application_survives_whatever_happens_to_its_departure() {
    for (at, fault) in [fail(&COORDINATOR), lost()].concat().into_iter().enumerate() {
        counts_exactly(Api::LeaveGroup, &format!("leaves-{at}"), vec![fault], true).await;
    }
}

#[tokio::test]
async fn an_application_survives_whatever_happens_while_it_starts() {
    let coordinator = || [fail(&COORDINATOR), lost()].concat();
    let controller = || [fail(&[NOT_CONTROLLER]), lost()].concat();
    let runs = [
        (Api::FindCoordinator, [fail(&COORDINATOR[1..]), lost()].concat()),
        (Api::OffsetFetch, coordinator()),
        (Api::InitProducerId, [fail(&COORDINATOR[1..]), lost()].concat()),
        (Api::CreateTopics, controller()),
        // An address that does not answer in time is soon said to be wrong; one that hangs up is asked again.
        (Api::Metadata, lost()[..3].to_vec()),
        (Api::ListOffsets, [fail(&[5, 6, 74, 75]), lost()].concat()),
    ];
    let runs = runs.into_iter().map(|(api, faults)| async move {
        counts_exactly(api, &format!("starts-{api:?}").to_lowercase(), faults, true).await
    });
    side_by_side(runs).await;
}

#[tokio::test]
async fn an_application_survives_whatever_happens_to_its_writes_reads_and_purges() {
    let runs = [
        (Api::Produce, [fail(&[3, 5, 6, 7, 19, 20, 56]), lost()].concat()),
        (Api::Fetch, [fail(&[3, 6, 9, 56, 74, 75]), lost()].concat()),
        (Api::DeleteRecords, [fail(&[3, 6, 7]), lost()].concat()),
    ];
    let runs = runs.into_iter().map(|(api, faults)| async move {
        counts_exactly(api, &format!("data-{api:?}").to_lowercase(), faults, false).await
    });
    side_by_side(runs).await;
}

/// The coordinator of the group moves, and loads for a while each time.
#[tokio::test]
async fn an_application_follows_its_coordinator() {
    let kafka = EmbeddedKafka::builder().nodes(3).start().unwrap();
    topic(&kafka, "in", 2, 3).await;
    topic(&kafka, "out", 2, 3).await;
    let state = tempfile::tempdir().unwrap();
    let app = run(count("in", "out"), quick(&kafka, "follows", &state)).running().await;
    let cluster = connect(&kafka).await;
    let producer = producer(&cluster);
    for last in 1..=12 {
        send(&producer, "in", last..=last).await;
        producer.flush().await.unwrap();
        let node = (last % 3 + 1) as i32;
        kafka.move_group_coordinator_slowly("follows", node, Duration::from_millis(300)).unwrap();
        wait_exact(&cluster, "out", last).await;
    }
    app.stop().await;
    assert_exact(&read(&cluster, "out").await, 12);
}

/// A commit of an old generation is refused; the tasks are kept and nothing is doubled, or lost and some is: never a gap.
#[tokio::test]
async fn a_member_that_is_told_of_another_generation_comes_back_without_a_gap() {
    let kafka = EmbeddedKafka::start().unwrap();
    topic(&kafka, "in", 2, 1).await;
    topic(&kafka, "out", 2, 1).await;
    let beats = Arc::new(AtomicUsize::new(0));
    let at = beats.clone();
    kafka.on(Api::Heartbeat, move |_| match at.fetch_add(1, Ordering::SeqCst) % 10 {
        4 => Fault::Fail(ILLEGAL_GENERATION),
        // UNKNOWN_MEMBER_ID.
        9 => Fault::Fail(25),
        _ => Fault::Pass,
    });
    let state = tempfile::tempdir().unwrap();
    let app = run(copy("in", "out"), quick(&kafka, "generations", &state)).running().await;
    let cluster = connect(&kafka).await;
    let producer = producer(&cluster);
    let mut last = 0;
    eventually("the member was lost some times", async || {
        last += 1;
        send(&producer, "in", last..=last).await;
        producer.flush().await.unwrap();
        beats.load(Ordering::SeqCst) > 20
    })
    .await;
    let mut found = Default::default();
    eventually("all is copied", async || {
        found = read(&cluster, "out").await;
        found.len() as i64 == crate::numbers::KEYS && found.values().all(|values| values.contains(&last))
    })
    .await;
    app.stop().await;
    crate::chain::assert_no_gaps("out", &read(&cluster, "out").await, last);
}

/// An answer that got lost: the change is made once, and the caller learns of it, or that it was there already.
#[tokio::test]
async fn an_administrator_whose_answers_get_lost_has_each_change_made() {
    for fault in [Fault::DropAfter, Fault::DropBefore, Fault::DelayAfter(LATE)] {
        let kafka = EmbeddedKafka::builder().auto_create_topics(false).start().unwrap();
        let apis = [
            Api::CreateTopics,
            Api::CreatePartitions,
            Api::DeleteTopics,
            Api::DeleteRecords,
            Api::IncrementalAlterConfigs,
        ];
        let used: Vec<_> =
            apis.into_iter().map(|api| one_after_another(&kafka, api, vec![fault.clone()])).collect();
        let cluster = connect(&kafka).await;
        let admin = Admin::new(&cluster);
        let made = soon("the topic", admin.create_topic(NewTopic::new("t", 1))).await;
        assert!(made.as_ref().err().is_none_or(Admin::already_exists), "{made:?}");
        let grown = soon("more partitions", admin.add_partitions(&[("t", 3)])).await.unwrap().remove(0);
        if let Err(error) = grown {
            assert_eq!(error.code(), Some(37), "INVALID_PARTITIONS, because it has them: {error:?}");
        }
        let producer = producer(&cluster);
        send(&producer, "t", 1..=10).await;
        producer.flush().await.unwrap();
        let at = TopicPartition::new("t", 0);
        let end =
            admin.list_offset(&at, OffsetSpec::Latest, Isolation::ReadUncommitted).await.unwrap().offset;
        let end = end.unwrap();
        let deleted = soon("deleted records", admin.delete_records(&[(at.clone(), end)])).await.unwrap();
        assert_eq!(*deleted[0].as_ref().unwrap(), end);
        let of = ConfigResource::Topic("t".to_owned());
        let change = AlterConfig::Set("retention.ms".to_owned(), "77".to_owned());
        soon("a config", admin.alter_configs(&of, &[change])).await.unwrap();
        let entries = admin.describe_configs(&of).await.unwrap();
        assert!(entries.iter().any(|e| e.name == "retention.ms" && e.value.as_deref() == Some("77")));
        let described = admin.describe_topics(&["t"]).await.unwrap().remove(0).unwrap();
        assert_eq!(described.partitions.len(), 3);
        let gone = soon("no topic", admin.delete_topics(&["t"])).await.unwrap().remove(0);
        if let Err(error) = gone {
            assert_eq!(error.kind(), ErrorKind::Topic, "it is gone already: {error:?}");
        }
        assert!(admin.list_topics().await.unwrap().iter().all(|topic| &*topic.name != "t"));
        for (api, used) in apis.iter().zip(used) {
            assert_eq!(used.load(Ordering::SeqCst), 1, "{api:?}");
        }
    }
}

/// A member that leaves in good order repeats nothing, however often the group rebalances.
#[tokio::test]
async fn members_that_come_and_go_in_good_order_repeat_nothing() {
    let kafka = EmbeddedKafka::start().unwrap();
    topic(&kafka, "in", 4, 1).await;
    topic(&kafka, "out", 4, 1).await;
    let dirs: Vec<_> = (0..4).map(|_| tempfile::tempdir().unwrap()).collect();
    let cluster = connect(&kafka).await;
    let producer = producer(&cluster);
    let (mut last, mut running) = (0, Vec::new());
    for dir in &dirs {
        running.push(run(count("in", "out"), quick(&kafka, "good-order", dir)).running().await);
        last += 5;
        send(&producer, "in", last - 4..=last).await;
        producer.flush().await.unwrap();
    }
    for member in running.drain(..).rev() {
        last += 5;
        send(&producer, "in", last - 4..=last).await;
        producer.flush().await.unwrap();
        member.stop().await;
    }
    let app = run(count("in", "out"), quick(&kafka, "good-order", &dirs[0])).running().await;
    wait_exact(&cluster, "out", last).await;
    app.stop().await;
    assert_exact(&read(&cluster, "out").await, last);
}
