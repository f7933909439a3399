//! The fetcher against scripted brokers: entitlement, order, moves, tokens, sizes.

use std::collections::BTreeMap;
use std::sync::Mutex;

use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::{
    ApiKey, BrokerId, FetchRequest, FetchResponse, ListOffsetsRequest, ListOffsetsResponse,
};
use tokio::sync::mpsc::UnboundedReceiver;

use super::*;
use crate::client::batch::{BatchBuilder, ProducerStamp};
use crate::client::compression::Compression;
use crate::client::fake::{Answer, Call, FakeCluster};
use crate::{ErrorKind, Headers, clock};

/// What all tests wait at most.
const LONG: Duration = Duration::from_secs(20);

/// Base offset, next offset, bytes.
type Stored = (i64, i64, Bytes);
/// Partition, offset, max bytes.
type AskedFor = (i32, i64, i32);

/// A log of batches for each partition of topic `t`, and what is special about it.
#[derive(Default)]
struct Logs {
    batches: Mutex<BTreeMap<i32, Vec<Stored>>>,
    /// Requests in their order: node, max wait, and `(partition, offset, max bytes)`.
    requests: Mutex<Vec<(i32, i32, Vec<AskedFor>)>>,
    /// At most so many partitions with records in an answer.
    full_after: Mutex<Option<usize>>,
    /// Error codes to answer with, by node and partition.
    errors: Mutex<BTreeMap<(i32, i32), i16>>,
    preferred: Mutex<Option<i32>>,
    hang_up: Mutex<usize>,
    cut: Mutex<bool>,
}

impl Logs {
    fn append(&self, partition: i32, records: i64, size: usize) -> usize {
        let mut builder = BatchBuilder::new(Compression::None);
        for at in 0..records {
            builder.append(at, None, Some(&vec![b'x'; size]), &Headers::new());
        }
        let stamp =
            ProducerStamp { producer_id: -1, producer_epoch: -1, base_sequence: -1, transactional: false };
        let mut bytes = builder.close().unwrap().seal(stamp).to_vec();
        let mut logs = self.batches.lock().unwrap();
        let log = logs.entry(partition).or_default();
        let base = log.last().map_or(0, |(_, end, _)| *end);
        bytes[..8].copy_from_slice(&base.to_be_bytes());
        let length = bytes.len();
        log.push((base, base + records, bytes.into()));
        length
    }

    async fn answer(&self, call: Call) -> Answer {
        match call.key {
            ApiKey::Fetch => self.fetch(call).await,
            ApiKey::ListOffsets => {
                let asked: ListOffsetsRequest = call.decode();
                let topics = asked.topics.iter().map(|topic| {
                    let partitions = topic.partitions.iter().map(|p| {
                        let offset = if p.timestamp == -2 { 3 } else { 8 };
                        ListOffsetsPartitionResponse::default()
                            .with_partition_index(p.partition_index)
                            .with_offset(offset)
                    });
                    ListOffsetsTopicResponse::default()
                        .with_name(topic.name.clone())
                        .with_partitions(partitions.collect())
                });
                call.reply(&ListOffsetsResponse::default().with_topics(topics.collect()))
            }
            _ => Answer::Default,
        }
    }

    async fn fetch(&self, call: Call) -> Answer {
        let request: FetchRequest = call.decode();
        let asked: Vec<_> = request.topics.iter().flat_map(|topic| &topic.partitions).collect();
        let list = asked.iter().map(|p| (p.partition, p.fetch_offset, p.partition_max_bytes)).collect();
        self.requests.lock().unwrap().push((call.node, request.max_wait_ms, list));
        {
            let mut hang_up = self.hang_up.lock().unwrap();
            if *hang_up > 0 {
                *hang_up -= 1;
                return Answer::HangUp;
            }
        }
        let mut room = self.full_after.lock().unwrap().unwrap_or(usize::MAX);
        let mut anything = false;
        let topics = request
            .topics
            .iter()
            .map(|topic| {
                let partitions = topic.partitions.iter().map(|p| {
                    let mut data = PartitionData::default()
                        .with_partition_index(p.partition)
                        .with_preferred_read_replica(BrokerId(-1));
                    let code =
                        self.errors.lock().unwrap().get(&(call.node, p.partition)).copied().unwrap_or(0);
                    if code != 0 {
                        anything = true;
                        return data.with_error_code(code).with_high_watermark(-1);
                    }
                    if let Some(preferred) = self.preferred.lock().unwrap().filter(|node| *node != call.node)
                    {
                        anything = true;
                        return data.with_preferred_read_replica(BrokerId(preferred));
                    }
                    let logs = self.batches.lock().unwrap();
                    let log = logs.get(&p.partition).map_or(&[][..], Vec::as_slice);
                    data = data.with_high_watermark(log.last().map_or(0, |(_, end, _)| *end));
                    if let Some((_, _, bytes)) = log.iter().find(|(_, end, _)| *end > p.fetch_offset)
                        && room > 0
                    {
                        room -= 1;
                        anything = true;
                        let cut = *self.cut.lock().unwrap() && bytes.len() > p.partition_max_bytes as usize;
                        let length = if cut { p.partition_max_bytes as usize } else { bytes.len() };
                        data = data.with_records(Some(bytes.slice(..length)));
                    }
                    data
                });
                FetchableTopicResponse::default()
                    .with_topic(topic.topic.clone())
                    .with_partitions(partitions.collect())
            })
            .collect();
        if !anything {
            clock::sleep(Duration::from_millis(2)).await;
        }
        call.reply(&FetchResponse::default().with_responses(topics))
    }
}

struct Rig {
    fake: FakeCluster,
    logs: Arc<Logs>,
    fetcher: Fetcher,
    events: UnboundedReceiver<FetchEvent>,
}

fn t(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

async fn rig(nodes: i32, leaders: &[(i32, i32)], options: FetchOptions) -> Rig {
    let logs = Arc::new(Logs::default());
    let shared = Arc::clone(&logs);
    let fake = FakeCluster::start(nodes, move |call| {
        let logs = Arc::clone(&shared);
        async move { logs.answer(call).await }
    })
    .await;
    fake.topic("t", leaders);
    let cluster = Cluster::connect(fake.config()).await.unwrap();
    let (send, events) = mpsc::unbounded_channel();
    let fetcher = Fetcher::new(&cluster, options, Arc::new(move |event| drop(send.send(event))));
    Rig { fake, logs, fetcher, events }
}

impl Rig {
    async fn event(&mut self) -> FetchEvent {
        clock::timeout(LONG, self.events.recv()).await.expect("an event in time").unwrap()
    }

    async fn data(&mut self) -> Fetched {
        loop {
            match self.event().await {
                FetchEvent::Data(data) => return data,
                FetchEvent::Progress { .. } => {}
                error => panic!("{error:?}"),
            }
        }
    }

    async fn until(&self, met: impl Fn(&Logs) -> bool) {
        let waiting = async {
            while !met(&self.logs) {
                clock::sleep(Duration::from_millis(1)).await;
            }
        };
        clock::timeout(LONG, waiting).await.expect("the condition in time");
    }

    fn asked_for(&self, partition: i32) -> usize {
        let requests = self.logs.requests.lock().unwrap();
        requests.iter().filter(|(_, _, asked)| asked.iter().any(|(p, ..)| *p == partition)).count()
    }
}

#[tokio::test]
async fn batches_come_in_order_and_positions_follow_their_headers() {
    let mut rig = rig(1, &[(1, 0)], FetchOptions::live()).await;
    for records in [3, 1, 5] {
        rig.logs.append(0, records, 10);
    }
    rig.fetcher.assign(t(0), 1, 77);
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let data = rig.data().await;
        assert_eq!((data.token, data.at.partition, data.log.high_watermark), (77, 0, 9));
        assert_eq!(data.credit.bytes(), data.records.len());
        seen.push((data.fetch_offset, data.next_offset));
    }
    assert_eq!(seen, [(1, 3), (3, 4), (4, 9)]);
    assert!(matches!(rig.event().await, FetchEvent::Progress { next_offset: 9, token: 77, .. }));
    rig.until(|_| rig.fetcher.outstanding() == 0).await;
}

/// Red test 4 of the design review, the client's half.
#[tokio::test]
async fn an_empty_queue_is_fetched_although_the_budget_is_used_up() {
    let options = FetchOptions { budget: 1, ..FetchOptions::live() };
    let mut rig = rig(1, &[(1, 0), (1, 0)], options).await;
    rig.logs.append(0, 1, 100);
    rig.logs.append(0, 1, 100);
    rig.fetcher.assign(t(0), 0, 1);
    rig.fetcher.assign(t(1), 0, 2);
    let held = rig.data().await;
    assert_eq!((held.at.partition, held.next_offset), (0, 1));
    assert!(rig.fetcher.outstanding() > 1, "the budget is used up");
    let asked = rig.asked_for(0);
    rig.logs.append(1, 1, 100);
    let other = rig.data().await;
    assert_eq!(other.at.partition, 1, "whoever holds the first may be waiting for the second");
    let more = rig.asked_for(1) + 1;
    drop(other);
    rig.until(|_| rig.asked_for(1) > more).await;
    assert_eq!(rig.asked_for(0), asked, "the first is left out as long as it holds bytes");
    {
        let requests = rig.logs.requests.lock().unwrap();
        assert_eq!(requests.last().unwrap().1, 50, "and the broker waits only shortly meanwhile");
    }
    drop(held);
    let next = rig.data().await;
    assert_eq!((next.at.partition, next.next_offset), (0, 2));
}

#[tokio::test]
async fn a_partition_has_its_own_share_of_the_budget() {
    let options = FetchOptions { partition_budget: 1, ..FetchOptions::live() };
    let mut rig = rig(1, &[(1, 0), (1, 0)], options).await;
    for _ in 0..3 {
        rig.logs.append(0, 1, 10);
        rig.logs.append(1, 1, 10);
    }
    rig.fetcher.assign(t(0), 0, 1);
    rig.fetcher.assign(t(1), 0, 2);
    let mut held = Vec::new();
    let mut free = 0;
    while free < 3 {
        let data = rig.data().await;
        match data.at.partition {
            0 => held.push(data),
            _ => free += 1,
        }
    }
    assert_eq!(held.len(), 1);
}

#[tokio::test]
async fn who_got_records_is_asked_for_last() {
    let mut rig = rig(1, &[(1, 0), (1, 0), (1, 0)], FetchOptions::live()).await;
    *rig.logs.full_after.lock().unwrap() = Some(1);
    for _ in 0..3 {
        (0..3).for_each(|partition| {
            rig.logs.append(partition, 1, 10);
        });
    }
    (0..3).for_each(|partition| rig.fetcher.assign(t(partition), 0, 1));
    let mut order = Vec::new();
    while order.len() < 9 {
        order.push(rig.data().await.at.partition);
    }
    assert_eq!(order, [0, 1, 2, 0, 1, 2, 0, 1, 2]);
}

#[tokio::test]
async fn nothing_stale_comes_under_a_new_token() {
    let mut rig = rig(1, &[(1, 0)], FetchOptions::live()).await;
    for _ in 0..200 {
        rig.logs.append(0, 1, 10);
    }
    // Each assignment begins elsewhere; whatever is on its way for the last one must not pass for this one.
    for token in 0..50 {
        let from = (token as i64 * 37) % 190;
        rig.fetcher.assign(t(0), from, token);
        loop {
            let data = rig.data().await;
            if data.token == token {
                assert_eq!(data.fetch_offset, from, "token {token}");
                break;
            }
        }
    }
    rig.fetcher.revoke(t(0));
    rig.fetcher.assign(t(0), 199, 99);
    loop {
        let data = rig.data().await;
        if data.token == 99 {
            assert_eq!((data.fetch_offset, data.next_offset), (199, 200));
            break;
        }
    }
}

#[tokio::test]
async fn an_offset_out_of_range_is_told_with_the_range_and_never_reset() {
    let mut rig = rig(1, &[(1, 0)], FetchOptions::live()).await;
    rig.logs.errors.lock().unwrap().insert((1, 0), 1);
    rig.fetcher.assign(t(0), 100, 5);
    let FetchEvent::Error { error, token, range, .. } = rig.event().await else { panic!() };
    assert_eq!(
        (error.kind(), error.offset(), token, range),
        (ErrorKind::OffsetOutOfRange, Some(100), 5, Some((3, 8)))
    );
    let asked = rig.asked_for(0);
    rig.logs.errors.lock().unwrap().clear();
    rig.logs.append(0, 9, 1);
    rig.fetcher.seek(t(0), 8, 6);
    let data = rig.data().await;
    assert_eq!((data.token, data.fetch_offset), (6, 8));
    assert_eq!(rig.logs.requests.lock().unwrap()[asked - 1].2, [(0, 100, 1 << 20)], "it rested until then");
}

#[tokio::test]
async fn a_moved_leader_is_followed() {
    let mut rig = rig(2, &[(1, 0)], FetchOptions::live()).await;
    rig.logs.append(0, 1, 10);
    rig.fetcher.assign(t(0), 0, 1);
    assert_eq!(rig.data().await.next_offset, 1);
    rig.fake.topic("t", &[(2, 1)]);
    rig.logs.errors.lock().unwrap().insert((1, 0), 6);
    rig.until(|logs| logs.requests.lock().unwrap().last().unwrap().0 == 2).await;
    rig.logs.append(0, 1, 10);
    let data = rig.data().await;
    assert_eq!((data.fetch_offset, data.next_offset), (1, 2));
}

#[tokio::test]
async fn a_lost_connection_neither_loses_nor_repeats_anything() {
    let mut rig = rig(1, &[(1, 0)], FetchOptions::live()).await;
    for _ in 0..20 {
        rig.logs.append(0, 1, 10);
    }
    rig.fetcher.assign(t(0), 0, 1);
    for at in 0..20 {
        if at % 5 == 2 {
            *rig.logs.hang_up.lock().unwrap() = 2;
        }
        let data = rig.data().await;
        assert_eq!((data.fetch_offset, data.next_offset), (at, at + 1));
    }
}

#[tokio::test]
async fn what_fails_for_long_is_reported_and_goes_on() {
    let options = FetchOptions { report_after: Duration::ZERO, ..FetchOptions::live() };
    let mut rig = rig(1, &[(1, 0)], options).await;
    // OFFSET_NOT_AVAILABLE: the leader is new and does not know its high watermark yet.
    rig.logs.errors.lock().unwrap().insert((1, 0), 78);
    rig.logs.append(0, 1, 10);
    rig.fetcher.assign(t(0), 0, 1);
    for _ in 0..3 {
        // And again, while it goes on.
        let FetchEvent::Error { error, range: None, .. } = rig.event().await else { panic!() };
        assert!(error.is_retriable() && error.code() == Some(78), "{error}");
    }
    rig.logs.errors.lock().unwrap().clear();
    loop {
        match rig.event().await {
            FetchEvent::Error { error, .. } => assert_eq!(error.code(), Some(78), "on its way before"),
            FetchEvent::Data(data) => return assert_eq!(data.next_offset, 1),
            FetchEvent::Progress { .. } => panic!("there is a record"),
        }
    }
}

#[tokio::test]
async fn an_error_that_only_a_person_can_mend_stops_the_partition() {
    let mut rig = rig(1, &[(1, 0), (1, 0)], FetchOptions::live()).await;
    rig.logs.errors.lock().unwrap().insert((1, 0), 29);
    rig.fetcher.assign(t(0), 0, 1);
    let FetchEvent::Error { error, .. } = rig.event().await else { panic!() };
    assert!(!error.is_retriable() && error.to_string().contains("READ"), "{error}");
    rig.fetcher.assign(t(1), 0, 2);
    rig.until(|_| rig.asked_for(1) > 3).await;
    assert_eq!(rig.asked_for(0), 1);
}

#[tokio::test]
async fn a_batch_that_is_cut_off_is_asked_for_with_more_room() {
    let options = FetchOptions { partition_max_bytes: 100, ..FetchOptions::live() };
    let mut rig = rig(1, &[(1, 0)], options).await;
    *rig.logs.cut.lock().unwrap() = true;
    let length = rig.logs.append(0, 1, 1000);
    rig.fetcher.assign(t(0), 0, 1);
    assert_eq!(rig.data().await.records.len(), length);
    let requests = rig.logs.requests.lock().unwrap();
    assert_eq!(requests[0].2, [(0, 0, 100)]);
    assert_eq!(requests[1].2, [(0, 0, length as i32)]);
}

#[tokio::test]
async fn a_batch_larger_than_any_frame_is_an_error_that_names_its_size() {
    let options = FetchOptions { partition_max_bytes: 100, ..FetchOptions::live() };
    let mut rig = rig(1, &[(1, 0)], options).await;
    *rig.logs.cut.lock().unwrap() = true;
    let mut huge = vec![0; 100];
    huge[8..12].copy_from_slice(&(512i32 << 20).to_be_bytes());
    huge[16] = 2;
    rig.logs.batches.lock().unwrap().insert(0, vec![(0, 1, huge.into())]);
    rig.fetcher.assign(t(0), 0, 1);
    let FetchEvent::Error { error, .. } = rig.event().await else { panic!() };
    assert!(error.to_string().contains("536870924 bytes"), "{error}");
}

#[tokio::test]
async fn a_replica_in_the_same_rack_is_read_and_the_leader_again_when_it_fails() {
    let mut rig = rig(2, &[(1, 0)], FetchOptions::live()).await;
    *rig.logs.preferred.lock().unwrap() = Some(2);
    rig.logs.append(0, 1, 10);
    rig.fetcher.assign(t(0), 0, 1);
    assert_eq!(rig.data().await.next_offset, 1);
    let nodes = || rig.logs.requests.lock().unwrap().iter().map(|r| r.0).collect::<Vec<_>>();
    assert_eq!(nodes()[..2], [1, 2]);
    // The follower does not have the offset: only the leader can say that it is gone.
    *rig.logs.preferred.lock().unwrap() = None;
    rig.logs.errors.lock().unwrap().insert((2, 0), 1);
    rig.until(|logs| logs.requests.lock().unwrap().last().unwrap().0 == 1).await;
    rig.logs.append(0, 1, 10);
    assert_eq!(rig.data().await.next_offset, 2);
}

#[tokio::test]
async fn paused_partitions_are_left_out_until_they_are_resumed() {
    let mut rig = rig(1, &[(1, 0), (1, 0)], FetchOptions::live()).await;
    rig.fetcher.assign(t(0), 0, 1);
    rig.fetcher.pause(t(0));
    rig.fetcher.assign(t(1), 0, 1);
    rig.logs.append(0, 1, 10);
    rig.until(|_| rig.asked_for(1) > 3).await;
    assert_eq!(rig.asked_for(0), 0);
    rig.fetcher.resume(t(0));
    assert_eq!(rig.data().await.at, t(0));
    rig.fetcher.revoke(t(0));
    rig.fetcher.revoke(t(1));
    let waiting = rig.logs.requests.lock().unwrap().len();
    assert!(waiting > 0);
}
