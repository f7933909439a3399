//! A member that loses its place in the group while its worker sleeps.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use mainstem::App;
use mainstem::client::OffsetSpec;
use mainstem::embedded::{Api, EmbeddedKafka, Fault};
use mainstem::prelude::*;

use crate::support::{Rig, Running, eventually, rig_at, start};

/// What an instance has processed, and the hold on its user code.
#[derive(Default)]
struct Hold {
    records: AtomicUsize,
    held: AtomicUsize,
    closed: Mutex<bool>,
    free: Condvar,
}

impl Hold {
    fn close(&self, closed: bool) {
        *self.closed.lock().unwrap() = closed;
        self.free.notify_all();
    }
}

/// Hands records on; sleeps at the value `hold`, commits after `commit`.
struct Held(Arc<Hold>);

impl Processor<String, String, String, String> for Held {
    fn process(
        &mut self,
        record: Record<String, String>,
        cx: &mut Context<'_, String, String>,
    ) -> mainstem::topology::Outcome {
        let value = record.value.clone().unwrap_or_default();
        cx.forward(record)?;
        if value == "commit" {
            cx.commit();
        }
        let mut closed = self.0.closed.lock().unwrap();
        if value == "hold" && *closed {
            self.0.held.fetch_add(1, Ordering::SeqCst);
            while *closed {
                closed = self.0.free.wait(closed).unwrap();
            }
        }
        self.0.records.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

fn app(rig: &Rig, input: &str, output: &str, settings: &[(&str, &str)]) -> (Running, Arc<Hold>) {
    let (builder, hold) = (StreamsBuilder::new(), Arc::<Hold>::default());
    let of_task = hold.clone();
    let supplier = move |_: &Stores<'_, '_>| Ok(Held(of_task.clone()));
    builder.stream::<String, String>(input).process(supplier, &[]).to(output);
    let config = rig.config().set("session.timeout.ms", "6000").set("heartbeat.interval.ms", "200");
    let config = config.set("rebalance.timeout.ms", "3000").properties(settings.iter().copied());
    (start(App::new(builder.build().unwrap(), config.build().unwrap()).unwrap()), hold)
}

async fn send(rig: &Rig, topic: &str, partition: i32, value: &str) {
    rig.send(topic, partition, &format!("k{partition}"), value, 1_000).await;
    rig.flush().await;
}

/// A worker sleeps in a record of one task while another of its tasks is revoked, fenced and given to somebody else; then
/// the member is lost and joins anew. The worker wakes with a task that nobody knows of any more, and must not commit for it
/// in the new generation.
#[tokio::test]
async fn a_task_that_was_fenced_before_its_member_was_lost_is_not_committed_for() {
    let kafka = EmbeddedKafka::start().unwrap();
    let rig = rig_at(kafka.bootstrap(), "lost").await;
    let (input, output) = (rig.topic("in", 2).await, rig.topic("out", 2).await);
    // Nothing is written or committed unless somebody asks.
    let slow = [("commit.interval.ms", "3600000"), ("client.id", "sleeper")];
    let (a, of_a) = app(&rig, &input, &output, &slow);
    let a = a.running().await;
    // Which of the two tasks goes to B is the leader's choice: both could be it.
    for partition in 0..2 {
        for _ in 0..3 {
            send(&rig, &input, partition, "v").await;
        }
    }
    eventually("A has both", async || of_a.records.load(Ordering::SeqCst) == 6).await;
    of_a.close(true);
    send(&rig, &input, 0, "hold").await;
    eventually("A sleeps", async || of_a.held.load(Ordering::SeqCst) == 1).await;

    let (b, _) = app(&rig, &input, &output, &[]);
    let mut moved = None;
    eventually("B commits for the task it got", async || {
        for partition in 0..2 {
            if rig.committed(&input, partition).await.is_some() {
                moved = Some(partition);
            }
        }
        moved.is_some()
    })
    .await;
    let moved = moved.unwrap();
    let kept = 1 - moved;
    for _ in 0..5 {
        send(&rig, &input, moved, "v").await;
    }
    let end = rig.offset(&input, moved, OffsetSpec::Latest).await;
    rig.wait_committed(&input, moved, end).await;

    // The group forgets A, and A joins anew.
    let (losses, joins) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let lost = losses.clone();
    kafka.on(Api::Heartbeat, move |call| {
        // UNKNOWN_MEMBER_ID, once.
        match call.client_id == "sleeper" && lost.fetch_add(1, Ordering::SeqCst) == 0 {
            true => Fault::Fail(25),
            false => Fault::Pass,
        }
    });
    let (lost, joined) = (losses.clone(), joins.clone());
    kafka.on(Api::SyncGroup, move |call| {
        if call.client_id == "sleeper" && lost.load(Ordering::SeqCst) > 0 {
            joined.fetch_add(1, Ordering::SeqCst);
        }
        Fault::Pass
    });
    eventually("A is in the group again", async || joins.load(Ordering::SeqCst) > 0).await;
    // A heartbeat later it has its assignment.
    let beats = losses.load(Ordering::SeqCst);
    eventually("A is at rest", async || losses.load(Ordering::SeqCst) > beats + 2).await;

    let commits = Arc::new(Mutex::new(Vec::new()));
    let seen = commits.clone();
    let name = input.clone();
    kafka.on(Api::OffsetCommit, move |call| {
        if call.client_id == "sleeper" {
            seen.lock().unwrap().push(committed_partitions(call, &name));
        }
        Fault::Pass
    });
    of_a.close(false);
    send(&rig, &input, kept, "commit").await;
    let kept_end = rig.offset(&input, kept, OffsetSpec::Latest).await;
    rig.wait_committed(&input, kept, kept_end).await;
    send(&rig, &input, moved, "commit").await;
    rig.wait_committed(&input, moved, end + 1).await;
    a.stop().await;
    b.stop().await;
    assert_eq!(rig.committed(&input, moved).await.unwrap().0, end + 1, "the offset of its owner is rewound");
    assert_eq!(rig.committed(&input, kept).await.unwrap().0, kept_end);
    // Who has which of the two after A came back is again the leader's choice, but nobody goes back.
    for (partition, offset) in commits.lock().unwrap().iter().flatten() {
        let from = if *partition == moved { end } else { 0 };
        assert!(*offset >= from, "A commits {offset} for {partition}, where {from} was");
    }
}

/// The partitions of a topic in an OffsetCommit, with their offsets.
fn committed_partitions(call: &mainstem::embedded::Call, topic: &str) -> Vec<(i32, i64)> {
    use kafka_protocol::messages::OffsetCommitRequest;
    use kafka_protocol::protocol::Decodable;
    let request = OffsetCommitRequest::decode(&mut call.body.clone(), call.version).unwrap();
    let topics = request.topics.iter().filter(|t| t.name.to_string() == topic);
    topics.flat_map(|t| &t.partitions).map(|p| (p.partition_index, p.committed_offset)).collect()
}
