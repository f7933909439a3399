//! A store on disk without a changelog: nothing else has its rows, so they are on the disk before the offsets of their
//! records are committed.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::changelog::on_disk;
use crate::life::{Plan, Restores};
use crate::support::{Rig, eventually, rig, start, text};

const KEYS: i64 = 60;

/// Sends records from one number to another; one in nine deletes.
async fn send(rig: &Rig, input: &str, from: i64, to: i64) {
    for at in from..to {
        let value = if at % 9 == 4 { "-".to_owned() } else { format!("v{at}") };
        rig.send(input, 0, &format!("k{}", at * 7 % KEYS), &value, at).await;
    }
    rig.flush().await;
}

/// What is on the disk is what the input says up to the committed offset, or to a later one.
async fn has_what_is_committed(rig: &Rig, plan: &Plan) {
    let committed = rig.committed(&plan.input, 0).await.map_or(0, |(offset, _)| offset);
    let mut rows: BTreeMap<Bytes, Vec<Option<Bytes>>> = BTreeMap::new();
    for (at, record) in rig.read(&plan.input).await.into_iter().enumerate() {
        let value = record.value.filter(|value| value[..] != *b"-");
        let row = rows.entry(record.key.unwrap()).or_insert_with(|| vec![None]);
        if (at as i64) < committed {
            row.clear();
        }
        row.push(value);
    }
    let found = on_disk(plan.engine, &plan.slot(rig));
    let found: BTreeMap<Bytes, Bytes> = found.into_iter().flat_map(|store| store.rows).collect();
    for (key, may_be) in rows {
        let there = found.get(&key).cloned();
        assert!(may_be.contains(&there), "{key:?} is {there:?} and should be one of {may_be:?}, {committed}");
    }
}

async fn nothing_is_lost(engine: &'static str) {
    let rig = rig(&format!("unlogged-{engine}")).await;
    let input = rig.topic("in", 1).await;
    let plan =
        Plan { topology: "unlogged", input: input.clone(), engine, instance: Some("one"), output: None };
    let mut sent = 0;
    // At any time, and between any two steps of what a commit does.
    for place in [None, Some("before-apply"), Some("row"), Some("finish"), Some("after-apply"), None] {
        let fault = place.map(|place| format!("{place}:{}", if place == "row" { 30 } else { 2 }));
        let environment: Vec<_> =
            fault.as_deref().map(|fault| ("MAINSTEM_ABORT_AT", fault)).into_iter().collect();
        let mut life = plan.start(&rig, &environment);
        send(&rig, &input, sent, sent + 40).await;
        sent += 40;
        if place.is_some() {
            // The next commit, if this was all in one.
            eventually("the process comes to its place", async || {
                let over = !life.is_alive();
                if !over {
                    send(&rig, &input, sent, sent + 20).await;
                    sent += 20;
                }
                over
            })
            .await;
            life.aborts().await;
        } else {
            rig.wait_committed(&input, 0, sent).await;
            life.kill();
        }
        has_what_is_committed(&rig, &plan).await;
    }
    let app = plan.here(&rig, &Restores::default());
    let store = app.handle().key_value_store::<String, String>("last").unwrap();
    let app = start(app).running().await;
    rig.wait_committed(&input, 0, sent).await;
    let answers: BTreeMap<String, String> = store.all().unwrap().map(Result::unwrap).collect();
    app.stop().await;
    let mut truth = BTreeMap::new();
    for record in rig.read(&input).await {
        match text(&record.value) {
            deleted if deleted == "-" => _ = truth.remove(&text(&record.key)),
            value => _ = truth.insert(text(&record.key), value),
        }
    }
    assert_eq!(answers, truth);
    has_what_is_committed(&rig, &plan).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_a_changelog_loses_nothing_that_is_committed_on_fjall() {
    nothing_is_lost("fjall").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_a_changelog_loses_nothing_that_is_committed_on_sled() {
    nothing_is_lost("sled").await;
}
