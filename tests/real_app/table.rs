//! The exact table of the word count.

use std::collections::BTreeMap;

use mainstem::App;
use mainstem::prelude::*;

use crate::support::{Rig, counts, eventually, rig, start, text};
use crate::{data, truth};

fn topology(lines: &str, counts: &str) -> Topology {
    let builder = StreamsBuilder::new();
    builder
        .stream::<String, String>(lines)
        .flat_map_values(|line| truth::words(&line).map(str::to_owned).collect::<Vec<_>>())
        .group_by("by-word", |_, word| word.clone())
        .count("counts")
        .to_stream()
        .to(counts);
    builder.build().unwrap()
}

async fn generate(rig: &Rig, lines: &str) {
    for (i, (timestamp, line)) in data::Words::default().iter().enumerate() {
        rig.send(lines, (i % 4) as i32, "", line.as_deref().unwrap_or_default(), timestamp).await;
    }
    rig.flush().await;
}

fn the_truth() -> BTreeMap<String, i64> {
    truth::counts(data::Words::default().iter().map(|(_, line)| line))
}

/// Runs the word count over all lines, written while it runs, and gives the records of its table.
async fn run(rig: &Rig, cache: usize, commit_ms: &str) -> Vec<mainstem::client::LogRecord> {
    let (lines, output) = (rig.topic("lines", 4).await, rig.topic("counts", 4).await);
    let config =
        rig.config().workers(2).cache_bytes(cache).set("commit.interval.ms", commit_ms).build().unwrap();
    let app = start(App::new(topology(&lines, &output), config).unwrap()).running().await;
    generate(rig, &lines).await;
    let truth = the_truth();
    eventually("the whole table", async || rig.counts(&output).await == truth).await;
    app.stop().await;
    rig.read(&output).await
}

#[tokio::test]
async fn without_a_cache_every_token_is_an_update_and_the_table_is_exact() {
    let rig = rig("exact-table").await;
    let records = run(&rig, 0, "1000").await;
    assert_eq!(records.len(), 54_760, "one update a token");
    assert_eq!(counts(&records), the_truth());
    let mut last: BTreeMap<String, i64> = BTreeMap::new();
    for record in &records {
        let count = i64::from_be_bytes(record.value.as_deref().unwrap().try_into().unwrap());
        let before = last.insert(text(&record.key), count).unwrap_or(0);
        assert_eq!(count, before + 1, "{} at {}", text(&record.key), record.offset);
    }
}

#[tokio::test]
async fn with_a_cache_there_are_fewer_updates_and_the_same_table() {
    let rig = rig("cached-table").await;
    let records = run(&rig, 10 << 20, "500").await;
    assert_eq!(counts(&records), the_truth());
    assert!(records.len() < 54_760 / 2, "{} updates", records.len());
    let mut last: BTreeMap<String, i64> = BTreeMap::new();
    for record in &records {
        let count = i64::from_be_bytes(record.value.as_deref().unwrap().try_into().unwrap());
        assert!(last.insert(text(&record.key), count).is_none_or(|before| before < count), "a count fell");
    }
}
