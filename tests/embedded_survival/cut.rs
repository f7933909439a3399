//! Connections that die at each byte of a frame, and at random from a seed.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mainstem::client::{Admin, Cluster, NewTopic, Producer, ProducerOptions};
use mainstem::embedded::{Api, EmbeddedKafka, Fault, Frame};

use crate::numbers::{
    assert_exact, connect, copy, count, producer, quick, read, run, send, side_by_side, soon, topic,
    wait_exact,
};
use crate::support::eventually;

/// Cuts every other frame of a kind, each one byte later than the one before, up to the end of the longest.
struct EachByte {
    /// Where the next is cut, whether the last one passed, and how long the longest was.
    next: Mutex<(usize, bool, usize)>,
    done: AtomicBool,
}

impl EachByte {
    fn of(kafka: &EmbeddedKafka, api: Api, answer: bool) -> Arc<Self> {
        let this = Arc::new(Self { next: Mutex::new((0, false, 0)), done: AtomicBool::new(false) });
        let cutting = this.clone();
        kafka.cut(move |frame: &Frame| match frame.api == api && frame.answer == answer {
            true => cutting.next_for(frame.length),
            false => None,
        });
        this
    }

    fn next_for(&self, length: usize) -> Option<usize> {
        let (next, passes, longest) = &mut *self.next.lock().unwrap();
        *longest = length.max(*longest);
        if *next > length || self.done() {
            self.done.fetch_or(*next > *longest, Ordering::SeqCst);
            return None;
        }
        *passes = !*passes;
        if *passes {
            return None;
        }
        *next += 1;
        Some(*next - 1)
    }

    fn done(&self) -> bool {
        self.done.load(Ordering::SeqCst)
    }

    /// How many bytes were reached.
    fn reached(&self) -> usize {
        self.next.lock().unwrap().0
    }
}

/// How many do the same at once, because each waits most of the time.
const SIDE_BY_SIDE: usize = 8;

async fn produce_through_each_byte(answer: bool) {
    let kafka = Arc::new(EmbeddedKafka::start().unwrap());
    let cut = EachByte::of(&kafka, Api::Produce, answer);
    let writers = (0..SIDE_BY_SIDE).map(|writer| {
        let (kafka, cut, name) = (kafka.clone(), cut.clone(), format!("numbers-{writer}"));
        async move {
            topic(&kafka, &name, 1, 1).await;
            let cluster = connect(&kafka).await;
            let producer = producer(&cluster);
            let mut last = 0;
            while !cut.done() {
                last += 1;
                send(&producer, &name, last..=last).await;
                soon("the write", producer.flush()).await.unwrap();
            }
            assert_exact(&read(&cluster, &name).await, last);
        }
    });
    side_by_side(writers).await;
    assert!(cut.reached() > if answer { 40 } else { 150 }, "a frame of {} bytes", cut.reached());
}

#[tokio::test]
async fn a_connection_may_die_at_each_byte_of_a_produce_request() {
    produce_through_each_byte(false).await;
}

#[tokio::test]
async fn a_connection_may_die_at_each_byte_of_an_answer_to_produce() {
    produce_through_each_byte(true).await;
}

async fn fetch_through_each_byte(answer: bool) {
    let kafka = Arc::new(EmbeddedKafka::start().unwrap());
    topic(&kafka, "numbers", 1, 1).await;
    let cluster = connect(&kafka).await;
    // Together in one small batch.
    let together = ProducerOptions::default().linger(Duration::from_secs(1));
    let producer = Producer::new(&cluster, together).unwrap();
    send(&producer, "numbers", 1..=1).await;
    producer.flush().await.unwrap();
    let cut = EachByte::of(&kafka, Api::Fetch, answer);
    let readers = (0..SIDE_BY_SIDE).map(|_| {
        let (kafka, cut) = (kafka.clone(), cut.clone());
        async move {
            let cluster = connect(&kafka).await;
            while !cut.done() {
                assert_exact(&soon("the read", read(&cluster, "numbers")).await, 1);
            }
        }
    });
    side_by_side(readers).await;
    assert!(cut.reached() > if answer { 150 } else { 60 }, "a frame of {} bytes", cut.reached());
}

#[tokio::test]
async fn a_connection_may_die_at_each_byte_of_a_fetch_request() {
    fetch_through_each_byte(false).await;
}

#[tokio::test]
async fn a_connection_may_die_at_each_byte_of_an_answer_to_fetch() {
    fetch_through_each_byte(true).await;
}

/// Several applications of one member each, whose group finds reasons to rebalance.
async fn run_through_each_byte(api: Api, answer: bool) {
    let kafka = Arc::new(EmbeddedKafka::start().unwrap());
    let cut = EachByte::of(&kafka, api, answer);
    if matches!(api, Api::JoinGroup | Api::SyncGroup) {
        let (beats, cut) = (AtomicUsize::new(0), cut.clone());
        // REBALANCE_IN_PROGRESS
        kafka.on(Api::Heartbeat, move |_| {
            match !cut.done() && beats.fetch_add(1, Ordering::SeqCst) % 2 == 1 {
                true => Fault::Fail(27),
                false => Fault::Pass,
            }
        });
    }
    let applications = (0..SIDE_BY_SIDE).map(|at| {
        let (kafka, cut) = (kafka.clone(), cut.clone());
        let (input, output) = (format!("in-{at}"), format!("out-{at}"));
        async move {
            topic(&kafka, &input, 1, 1).await;
            topic(&kafka, &output, 1, 1).await;
            let state = tempfile::tempdir().unwrap();
            let config = quick(&kafka, &format!("app-{at}"), &state).set("heartbeat.interval.ms", "20");
            let config = config.set("commit.interval.ms", "10").set("linger.ms", "0");
            let app = run(copy(&input, &output), config).running().await;
            let cluster = connect(&kafka).await;
            let producer = producer(&cluster);
            let mut last = 0;
            eventually("all bytes of the frame", async || {
                last += 1;
                send(&producer, &input, last..=last).await;
                producer.flush().await.unwrap();
                cut.done()
            })
            .await;
            wait_exact(&cluster, &output, last).await;
            app.stop().await;
            assert_exact(&read(&cluster, &output).await, last);
        }
    });
    side_by_side(applications).await;
    assert!(cut.reached() > 10, "a frame of {} bytes", cut.reached());
}

#[tokio::test]
async fn a_connection_may_die_at_each_byte_of_a_join() {
    run_through_each_byte(Api::JoinGroup, false).await;
}

#[tokio::test]
async fn a_connection_may_die_at_each_byte_of_an_answer_to_a_join() {
    run_through_each_byte(Api::JoinGroup, true).await;
}

#[tokio::test]
async fn a_connection_may_die_at_each_byte_of_a_sync() {
    run_through_each_byte(Api::SyncGroup, false).await;
}

#[tokio::test]
async fn a_connection_may_die_at_each_byte_of_an_answer_to_a_sync() {
    run_through_each_byte(Api::SyncGroup, true).await;
}

#[tokio::test]
async fn a_connection_may_die_at_each_byte_of_a_heartbeat() {
    run_through_each_byte(Api::Heartbeat, false).await;
}

#[tokio::test]
async fn a_connection_may_die_at_each_byte_of_an_answer_to_a_heartbeat() {
    run_through_each_byte(Api::Heartbeat, true).await;
}

/// Does the same again and again under new names, until all bytes were reached.
async fn again_through_each_byte(
    api: Api,
    answer: bool,
    each: impl AsyncFn(&EmbeddedKafka, &Cluster, &str) + Clone + 'static,
) {
    let kafka = Arc::new(EmbeddedKafka::start().unwrap());
    let cut = EachByte::of(&kafka, api, answer);
    let all = (0..SIDE_BY_SIDE).map(|at| {
        let (kafka, cut, each) = (kafka.clone(), cut.clone(), each.clone());
        async move {
            let cluster = connect(&kafka).await;
            let mut done = 0;
            while !cut.done() {
                done += 1;
                each(&kafka, &cluster, &format!("{at}-{done}")).await;
            }
        }
    });
    side_by_side(all).await;
    assert!(cut.reached() > 10, "a frame of {} bytes", cut.reached());
}

/// A member that could not say that it goes is missed later; the application ends well, and all that it did is there.
async fn leave_through_each_byte(answer: bool) {
    again_through_each_byte(
        Api::LeaveGroup,
        answer,
        async |kafka: &EmbeddedKafka, cluster: &Cluster, name: &str| {
            let (input, output) = (format!("in-{name}"), format!("out-{name}"));
            topic(kafka, &input, 1, 1).await;
            topic(kafka, &output, 1, 1).await;
            let producer = producer(cluster);
            send(&producer, &input, 1..=2).await;
            producer.flush().await.unwrap();
            let state = tempfile::tempdir().unwrap();
            let app = run(copy(&input, &output), quick(kafka, name, &state)).running().await;
            wait_exact(cluster, &output, 2).await;
            app.stop().await;
            assert_exact(&read(cluster, &output).await, 2);
        },
    )
    .await;
}

#[tokio::test]
async fn a_connection_may_die_at_each_byte_of_a_leave() {
    leave_through_each_byte(false).await;
}

#[tokio::test]
async fn a_connection_may_die_at_each_byte_of_an_answer_to_a_leave() {
    leave_through_each_byte(true).await;
}

/// Every producer is a new one.
async fn init_through_each_byte(answer: bool) {
    again_through_each_byte(
        Api::InitProducerId,
        answer,
        async |kafka: &EmbeddedKafka, cluster: &Cluster, name: &str| {
            topic(kafka, name, 1, 1).await;
            let producer = producer(cluster);
            send(&producer, name, 1..=1).await;
            soon("the write", producer.flush()).await.unwrap();
            assert_exact(&read(cluster, name).await, 1);
        },
    )
    .await;
}

#[tokio::test]
async fn a_connection_may_die_at_each_byte_of_an_init() {
    init_through_each_byte(false).await;
}

#[tokio::test]
async fn a_connection_may_die_at_each_byte_of_an_answer_to_an_init() {
    init_through_each_byte(true).await;
}

/// Who lost the answer is told that the topic is there.
async fn create_through_each_byte(answer: bool) {
    again_through_each_byte(
        Api::CreateTopics,
        answer,
        async move |_: &EmbeddedKafka, cluster: &Cluster, name: &str| {
            let admin = Admin::new(cluster);
            let made = soon("the topic", admin.create_topic(NewTopic::new(name, 3))).await;
            assert!(
                made.as_ref().err().is_none_or(|error| answer && Admin::already_exists(error)),
                "{made:?}"
            );
            let described = soon("the topic", admin.describe_topics(&[name])).await.unwrap().remove(0);
            assert_eq!(described.unwrap().partitions.len(), 3);
        },
    )
    .await;
}

#[tokio::test]
async fn a_connection_may_die_at_each_byte_of_a_creation() {
    create_through_each_byte(false).await;
}

#[tokio::test]
async fn a_connection_may_die_at_each_byte_of_an_answer_to_a_creation() {
    create_through_each_byte(true).await;
}

#[tokio::test]
async fn a_connection_may_die_at_each_byte_of_a_commit() {
    run_through_each_byte(Api::OffsetCommit, false).await;
}

#[tokio::test]
async fn a_connection_may_die_at_each_byte_of_an_answer_to_a_commit() {
    run_through_each_byte(Api::OffsetCommit, true).await;
}

/// Some thousand records through a repartition topic and a changelog, while connections die all the time.
#[tokio::test]
async fn a_count_is_exact_while_connections_die_at_random() {
    for seed in [1, 2, 3] {
        let kafka = EmbeddedKafka::builder().nodes(3).start().unwrap();
        topic(&kafka, "in", 4, 3).await;
        topic(&kafka, "out", 4, 3).await;
        kafka.cut_connections(seed, 20_000);
        let cluster = connect(&kafka).await;
        let producer = producer(&cluster);
        let state = tempfile::tempdir().unwrap();
        let app = run(count("in", "out"), quick(&kafka, "dying", &state)).running().await;
        for value in 1..=300 {
            send(&producer, "in", value..=value).await;
            if value % 10 == 0 {
                soon("the write", producer.flush()).await.unwrap();
            }
        }
        wait_exact(&cluster, "out", 300).await;
        app.stop().await;
        kafka.keep_connections();
        assert_exact(&read(&cluster, "in").await, 300);
        assert_exact(&read(&cluster, "out").await, 300);
    }
}
