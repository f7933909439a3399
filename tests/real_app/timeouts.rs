//! `task.timeout.ms` and `max.task.idle.ms` on a real broker.

use std::sync::atomic::{AtomicI16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, OffsetCommitResponse, OffsetFetchResponse, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable};
use mainstem::prelude::*;
use mainstem::{App, AppHandle, Error, ErrorKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use crate::common::kafka;
use crate::faults::OwnKafka;
use crate::support::{Rig, eventually, failure, rig, rig_at, start};

/// What a proxy refuses: requests of this kind, and how many there were.
struct Refused {
    kind: AtomicI16,
    count: AtomicU64,
}

const NOTHING: i16 = -1;

impl Refused {
    fn refuse(&self, kind: i16) {
        self.kind.store(kind, Ordering::SeqCst);
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }
}

/// What a coordinator says that is still reading its log: try again.
const LOAD_IN_PROGRESS: i16 = 14;

async fn frame(from: &mut OwnedReadHalf) -> Option<BytesMut> {
    let mut frame = BytesMut::zeroed(from.read_u32().await.ok()? as usize);
    from.read_exact(&mut frame).await.ok()?;
    Some(frame)
}

async fn pass_on(to: &mut OwnedWriteHalf, frame: &[u8]) -> Option<()> {
    to.write_all(&(frame.len() as u32).to_be_bytes()).await.ok()?;
    to.write_all(frame).await.ok()
}

/// The same answer with this error in every place.
fn with_error(key: ApiKey, version: i16, answer: Bytes) -> BytesMut {
    let (mut answer, mut changed) = (answer, BytesMut::new());
    let header_version = key.response_header_version(version);
    let header = ResponseHeader::decode(&mut answer, header_version).unwrap();
    header.encode(&mut changed, header_version).unwrap();
    match key {
        ApiKey::OffsetFetch => {
            let answer = OffsetFetchResponse::decode(&mut answer, version).unwrap();
            answer.with_error_code(LOAD_IN_PROGRESS).encode(&mut changed, version).unwrap();
        }
        ApiKey::OffsetCommit => {
            let mut answer = OffsetCommitResponse::decode(&mut answer, version).unwrap();
            let partitions = answer.topics.iter_mut().flat_map(|topic| &mut topic.partitions);
            partitions.for_each(|partition| partition.error_code = LOAD_IN_PROGRESS);
            answer.encode(&mut changed, version).unwrap();
        }
        other => panic!("{other:?}"),
    }
    changed
}

/// Passes one client's requests on until one of the two ends is gone.
async fn relay(client: TcpStream, to: String, refused: Arc<Refused>) -> Option<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_broker, mut to_broker) = TcpStream::connect(to).await.ok()?.into_split();
    // One request at a time, as brokers work on them; every one has an answer.
    loop {
        let request = frame(&mut from_client).await?;
        let (key, version) = (i16::from_be_bytes([request[0], request[1]]), [request[2], request[3]]);
        pass_on(&mut to_broker, &request).await?;
        let mut answer = frame(&mut from_broker).await?;
        if key == refused.kind.load(Ordering::SeqCst) {
            refused.count.fetch_add(1, Ordering::SeqCst);
            let key = ApiKey::try_from(key).unwrap();
            answer = with_error(key, i16::from_be_bytes(version), answer.freeze());
        }
        pass_on(&mut to_client, &answer).await?;
    }
}

/// A proxy before a broker that says to every request of one kind that it should be tried again.
async fn proxy(listener: TcpListener, to: String, refused: Arc<Refused>) {
    while let Ok((client, _)) = listener.accept().await {
        tokio::spawn(relay(client, to.clone(), refused.clone()));
    }
}

/// What a task starts from cannot be read; and then, with another instance, what it has done cannot be committed.
#[tokio::test]
async fn a_task_that_makes_no_progress_ends_the_application_when_its_time_is_over() {
    if kafka("task-timeout").is_none() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let advertised = listener.local_addr().unwrap().to_string();
    let broker = OwnKafka::up(&["--advertise", &advertised]).await;
    let refused = Arc::new(Refused { kind: AtomicI16::new(NOTHING), count: AtomicU64::new(0) });
    tokio::spawn(proxy(listener, broker.address.clone(), refused.clone()));
    let rig = rig_at(&advertised, "task-timeout").await;
    let (input, output) = (rig.topic("in", 1).await, rig.topic("out", 1).await);
    let app = || {
        let builder = StreamsBuilder::new();
        builder.stream::<String, String>(&input).to(&output);
        let config = rig.config().set("task.timeout.ms", "1000").build().unwrap();
        App::new(builder.build().unwrap(), config).unwrap()
    };
    let over = |what: &str, (error, text): (Error, String)| {
        assert_eq!(error.kind(), ErrorKind::Timeout, "{text}");
        for part in ["0_0", "1000 ms (task.timeout.ms)", what] {
            assert!(text.contains(part), "{part}: {text}");
        }
    };
    refused.refuse(ApiKey::OffsetFetch as i16);
    over("what it starts from cannot be read", failure(app()).await);

    // Refused for a shorter time than that, it goes on.
    let (running, before) = (start(app()), refused.count());
    eventually("it is refused once more", async || refused.count() > before).await;
    refused.refuse(NOTHING);
    let running = running.running().await;
    rig.send(&input, 0, "k", "v", 1).await;
    rig.flush().await;
    rig.wait_committed(&input, 0, 1).await;
    refused.refuse(ApiKey::OffsetCommit as i16);
    rig.send(&input, 0, "k", "v", 2).await;
    rig.flush().await;
    let error = running.ended().await.unwrap_err();
    let said = format!("{error:?}");
    over("their offsets cannot be committed", (error, said));
}

/// Where reading a partition ends, once the application knows it.
fn end_of(handle: &AppHandle, topic: &str) -> Option<i64> {
    let tasks = handle.tasks();
    let mut inputs = tasks.iter().flat_map(|task| &task.inputs);
    inputs.find(|input| &*input.partition.topic == topic)?.end
}

/// Two inputs, merged; the values in the order in which they were processed.
fn merged(rig: &Rig, inputs: [&str; 2], idle: &str) -> (App, Arc<Mutex<Vec<String>>>) {
    let (builder, seen) = (StreamsBuilder::new(), Arc::<Mutex<Vec<String>>>::default());
    let of_task = seen.clone();
    let first = builder.stream::<String, String>(inputs[0]);
    let both = first.merge(&builder.stream::<String, String>(inputs[1]));
    both.for_each(move |_, value| of_task.lock().unwrap().push(value.clone()));
    let config = rig.config().set("max.task.idle.ms", idle).build().unwrap();
    (App::new(builder.build().unwrap(), config).unwrap(), seen)
}

/// `max.task.idle.ms` above 0 (KIP-353): a task waits so long for an input that has nothing, and no longer.
#[tokio::test]
async fn a_task_waits_for_an_empty_input_as_long_as_it_may() {
    let rig = rig("task-idle").await;
    let (a, b) = (rig.topic("a", 1).await, rig.topic("b", 1).await);
    let send = async |topic: &str, value: &str, timestamp: i64| {
        rig.send(topic, 0, "k", value, timestamp).await;
        rig.flush().await;
    };
    let (app, seen) = merged(&rig, [&a, &b], "3600000");
    let app = start(app).running().await;
    send(&a, "second", 2_000).await;
    eventually("it is fetched", async || end_of(&app.handle, &a) == Some(1)).await;
    send(&b, "first", 1_000).await;
    send(&b, "third", 3_000).await;
    eventually("two of them", async || seen.lock().unwrap().len() == 2).await;
    rig.wait_committed(&a, 0, 1).await;
    eventually("the third is fetched", async || end_of(&app.handle, &b) == Some(2)).await;
    app.stop().await;
    let in_order = ["first", "second"];
    assert_eq!(*seen.lock().unwrap(), in_order, "there may be something before the third in the other input");
    assert_eq!(rig.committed(&b, 0).await.unwrap().0, 1);

    let (app, seen) = merged(&rig, [&a, &b], "300");
    let app = start(app).running().await;
    rig.wait_committed(&b, 0, 2).await;
    assert_eq!(*seen.lock().unwrap(), ["third"]);
    app.stop().await;
}
