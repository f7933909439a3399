//! Several instances and several applications on one host, with one state directory and in one process.

use std::collections::{BTreeMap, BTreeSet};

use mainstem::prelude::*;
use mainstem::{App, AppHandle, ErrorKind};

use crate::support::{Rig, eventually, failure, rig, start};

fn counting(input: &str, output: &str) -> Topology {
    let builder = StreamsBuilder::new();
    builder.stream::<String, String>(input).group_by_key("by-key").count("counts").to_stream().to(output);
    builder.build().unwrap()
}

async fn send(rig: &Rig, topic: &str, partition: i32, count: usize) {
    for _ in 0..count {
        rig.send(topic, partition, &format!("k{partition}"), "v", 1_000).await;
    }
    rig.flush().await;
}

/// The processes of the group, as an instance knows them.
fn processes(handle: &AppHandle) -> BTreeSet<String> {
    handle.instances().iter().map(|instance| instance.process_id.to_string()).collect()
}

#[tokio::test]
async fn two_instances_with_one_state_dir_live_side_by_side_and_come_back_as_they_were() {
    let rig = rig("one-host").await;
    let (input, output) = (rig.topic("in", 2).await, rig.topic("out", 1).await);
    let make = || App::new(counting(&input, &output), rig.config().build().unwrap()).unwrap();
    let a = start(make()).running().await;
    let b = start(make()).running().await;
    eventually("both know both", async || {
        processes(&a.handle).len() == 2 && processes(&a.handle) == processes(&b.handle)
    })
    .await;
    let both = processes(&a.handle);
    eventually("a task each", async || (a.handle.tasks().len(), b.handle.tasks().len()) == (1, 1)).await;
    for partition in 0..2 {
        send(&rig, &input, partition, 3).await;
        rig.wait_committed(&input, partition, 3).await;
    }
    a.stop().await;
    eventually("one is left", async || processes(&b.handle).len() == 1).await;
    let a = start(make()).running().await;
    eventually("the same two", async || processes(&b.handle) == both).await;
    for partition in 0..2 {
        send(&rig, &input, partition, 2).await;
        rig.wait_committed(&input, partition, 5).await;
    }
    a.stop().await;
    b.stop().await;
    let expected = BTreeMap::from([("k0".to_owned(), 5), ("k1".to_owned(), 5)]);
    assert_eq!(rig.counts(&output).await, expected);
}

#[tokio::test]
async fn two_applications_in_one_process_do_not_know_of_each_other() {
    let mut rig = rig("two-apps").await;
    let input = rig.topic("in", 2).await;
    let (first, second) = (rig.topic("first", 1).await, rig.topic("second", 1).await);
    let a = start(App::new(counting(&input, &first), rig.config().build().unwrap()).unwrap()).running().await;
    let name = rig.app_id.clone();
    rig.app_id = format!("{name}-other");
    let b =
        start(App::new(counting(&input, &second), rig.config().build().unwrap()).unwrap()).running().await;
    send(&rig, &input, 0, 3).await;
    send(&rig, &input, 1, 4).await;
    let table = |k0, k1| BTreeMap::from([("k0".to_owned(), k0), ("k1".to_owned(), k1)]);
    eventually("both have counted", async || {
        rig.counts(&first).await == table(3, 4) && rig.counts(&second).await == table(3, 4)
    })
    .await;
    assert_eq!((a.handle.instances().len(), b.handle.instances().len()), (1, 1));
    a.stop().await;
    send(&rig, &input, 0, 1).await;
    rig.wait_committed(&input, 0, 4).await;
    b.stop().await;
    assert_eq!(rig.counts(&first).await, table(3, 4));
    assert_eq!(rig.counts(&second).await, table(4, 4));
    for app_id in [&name, &rig.app_id] {
        assert!(rig.state_dir.path().join(app_id).join("0/process.json").is_file());
    }
}

#[tokio::test]
async fn a_state_dir_that_cannot_be_used_is_named_before_anything_is_joined() {
    let rig = rig("no-dir").await;
    let file = rig.state_dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let config = rig.config().state_dir(&file).build().unwrap();
    let (error, text) = failure(App::new(counting("in", "out"), config).unwrap()).await;
    assert_eq!(error.kind(), ErrorKind::Config, "{text}");
    assert!(text.contains("state.dir=") && text.contains("set state.dir to a folder"), "{text}");
}
