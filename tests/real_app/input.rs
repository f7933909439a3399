//! Which record is next when a task has several inputs.

use std::sync::{Arc, Mutex};

use mainstem::App;
use mainstem::prelude::*;

use crate::support::{eventually, rig, start};

type Seen = Arc<Mutex<Vec<(i64, char)>>>;

fn merged(topics: [&str; 2]) -> (Topology, Seen) {
    let builder = StreamsBuilder::new();
    let seen: Seen = Arc::default();
    let sink = seen.clone();
    builder.stream(Consumed::<String, String>::topics(topics)).map_values(|value| value).for_each(
        move |key, value| {
            let timestamp = key.expect("a key").parse().expect("the key is the timestamp");
            sink.lock().unwrap().push((timestamp, value.chars().next().expect("not empty")));
        },
    );
    (builder.build().unwrap(), seen)
}

/// Red test 4 of the design review: input A alone would fill the budget many times, and every record of it has to wait for
/// one of B, which comes in several fetches.
#[tokio::test]
async fn an_input_far_ahead_neither_blocks_nor_overtakes_the_other() {
    let rig = rig("far-ahead").await;
    let (a, b) = (rig.topic("a", 1).await, rig.topic("b", 1).await);
    let filler = "x".repeat(1_000);
    for i in 0..16_000_i64 {
        rig.send(&a, 0, &i.to_string(), &format!("A{filler}"), i).await;
        if i % 4 == 0 {
            rig.send(&b, 0, &(i + 1).to_string(), &format!("B{filler}"), i + 1).await;
        }
    }
    rig.flush().await;
    let (topology, seen) = merged([&a, &b]);
    let config =
        rig.config().set("input.buffer.max.bytes", "1048576").set("max.partition.fetch.bytes", "262144");
    let app = start(App::new(topology, config.build().unwrap()).unwrap());
    eventually("all 20 000 records", async || seen.lock().unwrap().len() == 20_000).await;
    app.stop().await;
    let seen = seen.lock().unwrap();
    let overtaken = seen.windows(2).position(|pair| pair[0].0 > pair[1].0);
    assert_eq!(overtaken.map(|at| &seen[at..at + 2]), None, "in the order of their timestamps");
    assert_eq!(seen.iter().filter(|(_, of)| *of == 'B').count(), 4_000);
}

#[tokio::test]
async fn a_partition_without_data_does_not_block() {
    let rig = rig("empty-partition").await;
    let (a, b) = (rig.topic("a", 1).await, rig.topic("b", 1).await);
    let (topology, seen) = merged([&a, &b]);
    let app = start(App::new(topology, rig.config().build().unwrap()).unwrap()).running().await;
    for i in 0..10 {
        rig.send(&a, 0, &i.to_string(), "A", i).await;
    }
    rig.flush().await;
    eventually("A alone", async || seen.lock().unwrap().len() == 10).await;
    rig.send(&b, 0, "3", "B", 3).await;
    rig.flush().await;
    eventually("B, late as it is", async || seen.lock().unwrap().len() == 11).await;
    app.stop().await;
}

/// A topic that is deleted and made again is another log: its records are processed from the beginning, although their
/// offsets are those of records that were.
#[tokio::test]
async fn a_topic_made_again_is_read_from_its_beginning() {
    let rig = rig("made-again").await;
    let (a, b) = (rig.topic("a", 1).await, rig.topic("b", 1).await);
    let (topology, seen) = merged([&a, &b]);
    let config = rig.config().max_task_idle(None).build().unwrap();
    let app = start(App::new(topology, config).unwrap()).running().await;
    for i in 0..50 {
        rig.send(&a, 0, &i.to_string(), "A", i).await;
    }
    rig.flush().await;
    eventually("the first log", async || seen.lock().unwrap().len() == 50).await;
    rig.wait_committed(&a, 0, 50).await;

    let gone = rig.admin().delete_topics(&[&a]).await.unwrap();
    assert!(gone.iter().all(Result::is_ok), "{gone:?}");
    eventually("the topic is made again", async || {
        let again = mainstem::client::NewTopic::new(a.as_str(), 1).config("retention.ms", "-1");
        rig.admin().create_topic(again).await.is_ok()
    })
    .await;
    let producer = mainstem::client::Producer::new(&rig.cluster, Default::default()).unwrap();
    for i in 1_000..1_020_i64 {
        let record = Record::new(bytes::Bytes::from(i.to_string()), bytes::Bytes::from_static(b"C"), i);
        producer.send(&a, Some(0), record).await.unwrap();
    }
    producer.flush().await.unwrap();
    eventually("the second log", async || seen.lock().unwrap().len() >= 70).await;
    let seen = seen.lock().unwrap().clone();
    let second: Vec<i64> = seen.iter().filter(|(_, of)| *of == 'C').map(|(at, _)| *at).collect();
    assert_eq!(second, (1_000..1_020).collect::<Vec<_>>());
    rig.wait_committed(&a, 0, 20).await;
    app.stop().await;
}
