//! A restart after a kill reads the tail of the changelog, and not the state.
//!
//! `MAINSTEM_TAIL_KEYS` says how many keys (`scripts/soak/state`).

use std::collections::BTreeMap;

use bytes::Bytes;
use mainstem::Record;
use mainstem::client::OffsetSpec;

use crate::changelog::is_sound;
use crate::life::{Plan, Restores};
use crate::support::{clock, eventually, rig, start};

const PARTITIONS: i32 = 2;

async fn only_the_tail_is_read(engine: &'static str, keys: i64) {
    let keys: i64 = std::env::var("MAINSTEM_TAIL_KEYS").map_or(keys, |text| text.parse().unwrap());
    let rig = rig(&format!("tail-{engine}")).await;
    let input = rig.topic("in", PARTITIONS).await;
    let plan = Plan { topology: "last", input: input.clone(), engine, instance: Some("one"), output: None };
    let send = async |from: i64, to: i64| {
        for n in from..to {
            let record = Record::new(Some(Bytes::from(format!("key-{n:09}"))), Some(Bytes::from("v")), n);
            rig.producer.send(&input, Some((n % 2) as i32), record).await.unwrap();
        }
        rig.flush().await;
        for partition in 0..PARTITIONS {
            rig.wait_committed(&input, partition, to / 2).await;
        }
    };
    // A life that stops in good order hands over what it can in a few seconds, and the next restores the rest into the
    // engine itself. Then one is killed a little further on.
    let environment = [("MAINSTEM_HAND_OVER_RECORDS", "10000")];
    let (life, stopped) = (plan.start(&rig, &environment), keys / 10 * 9);
    send(0, stopped).await;
    life.stop().await;
    let life = plan.start(&rig, &environment);
    eventually("both stores are there", async || life.restored().len() == 2).await;
    life.stop().await;
    for ((store, partition), mark) in is_sound(&rig, engine, &plan.slot(&rig)).await {
        assert_eq!(mark, Some(stopped / 2), "{store}-{partition}: all of it is in the engine");
    }
    let mut life = plan.start(&rig, &environment);
    send(stopped, keys).await;
    life.kill();
    let marks = is_sound(&rig, engine, &plan.slot(&rig)).await;
    let topic = format!("{}-last-changelog", rig.app_id);

    let (restores, began) = (Restores::default(), clock::monotonic());
    let app = plan.here(&rig, &restores);
    let store = app.handle().key_value_store::<String, String>("last").unwrap();
    let app = start(app).running().await;
    let took = began.elapsed();
    eventually("both stores are there", async || restores.ended().len() == 2).await;
    let mut ends = BTreeMap::new();
    for partition in 0..PARTITIONS {
        ends.insert(partition, rig.offset(&topic, partition, OffsetSpec::Latest).await);
    }
    let mut read = 0;
    for (store, partition, from, to, records) in restores.ended() {
        let (mark, end) = (marks[&(store.clone(), partition)].unwrap_or(0), ends[&partition]);
        assert_eq!((from, to), (mark, end), "{store}-{partition} is read from its checkpoint to its end");
        assert!(mark >= stopped / 2, "{store}-{partition}: the checkpoint went back to {mark}");
        assert!(records as i64 <= end - mark, "{store}-{partition}: {records} of {mark} to {end}");
        read += records;
    }
    let all = store.all().unwrap().map(Result::unwrap).count() as i64;
    assert_eq!(all, keys, "every key is there");
    println!("{engine}: {keys} keys, {read} records read again; running after {took:?}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_reads_only_the_tail_on_fjall() {
    only_the_tail_is_read("fjall", 200_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_reads_only_the_tail_on_sled() {
    only_the_tail_is_read("sled", 40_000).await;
}
