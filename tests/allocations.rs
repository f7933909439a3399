//! The path of a record allocates nothing: what is counted here is a whole run, so that one allocation a record would
//! show a thousandfold.

#![allow(clippy::unwrap_used, reason = "a test's helper")]

use bytes::Bytes;
use mainstem::Config;
use mainstem::prelude::*;
use mainstem::testing::BenchTask;

const RECORDS: usize = 10_000;
const KEYS: usize = 100;

/// Growing vectors, the box of a batch: per run, not per record.
const PER_RUN: u64 = 40;

fn records() -> Vec<Record<Bytes, Bytes>> {
    let keys: Vec<Bytes> = (0..KEYS).map(|n| Bytes::from(format!("key-{n:04}"))).collect();
    let value = Bytes::from(vec![b'v'; 100]);
    (0..RECORDS).map(|n| Record::new(keys[n % KEYS].clone(), value.clone(), n as i64)).collect()
}

/// Allocations of the second of two equal runs, without those of making its input.
fn allocations(build: impl Fn(&StreamsBuilder), output_per_record: u64) -> u64 {
    let builder = StreamsBuilder::new();
    build(&builder);
    let topology = builder.build().unwrap();
    let config = Config::builder("test", "unused:9092").state_dir("unused").cache_bytes(0).build().unwrap();
    let mut task = BenchTask::new(&topology, &config).unwrap();
    task.push("in", 0, records().into_iter()).unwrap();
    task.process().unwrap();
    task.commit().unwrap();
    let before = task.sent().0;
    task.push("in", RECORDS as i64, records().into_iter()).unwrap();
    let counted = allocation_counter::measure(|| {
        assert_eq!(task.process().unwrap(), RECORDS);
    });
    assert_eq!(task.sent().0 - before, RECORDS as u64 * output_per_record);
    counted.count_total
}

#[test]
fn the_counter_counts() {
    let each = |builder: &StreamsBuilder| {
        builder.stream::<Bytes, Bytes>("in").map_values(|v| Bytes::from(v.to_vec())).to("out");
    };
    assert!(allocations(each, 1) >= RECORDS as u64);
}

#[test]
fn filter_and_map_allocate_nothing() {
    let counted = allocations(
        |builder| {
            builder
                .stream::<Bytes, Bytes>("in")
                .filter(|_, v| v.len() > 10)
                .map_values(|v| v.slice(1..))
                .peek(|_, _| ())
                .to("out");
        },
        1,
    );
    assert!(counted <= PER_RUN, "{counted} allocations for {RECORDS} records");
}

#[test]
fn a_new_key_allocates_nothing() {
    let counted = allocations(
        |builder| {
            let input = builder.stream::<Bytes, Bytes>("in");
            input.map(|k, v| (k.map_or_else(Bytes::new, |k| k.slice(2..)), v)).to("out");
        },
        1,
    );
    assert!(counted <= PER_RUN, "{counted} allocations for {RECORDS} records");
}

#[test]
fn counting_known_keys_allocates_nothing() {
    let counted = allocations(
        |builder| builder.stream::<Bytes, Bytes>("in").group_by_key("by").count("c").to_stream().to("out"),
        2,
    );
    assert!(counted <= PER_RUN, "{counted} allocations for {RECORDS} records");
}

/// Reading costs what has changed since the last publish, however many records that took, and nothing before anybody asks.
#[test]
fn publishing_allocates_by_changed_row_and_only_when_somebody_reads() {
    let builder = StreamsBuilder::new();
    builder.stream::<Bytes, Bytes>("in").group_by_key("by").count("c");
    let config = Config::builder("test", "unused:9092").state_dir("unused").cache_bytes(0).build().unwrap();
    let mut task = BenchTask::new(&builder.build().unwrap(), &config).unwrap();
    let mut offset = 0;
    let mut run = |task: &mut BenchTask| {
        task.push("in", offset, records().into_iter()).unwrap();
        offset += RECORDS as i64;
        let processed =
            allocation_counter::measure(|| assert_eq!(task.process().unwrap(), RECORDS)).count_total;
        (processed, allocation_counter::measure(|| task.publish().unwrap()).count_total)
    };
    run(&mut task);
    let (processed, published) = run(&mut task);
    assert!(processed <= PER_RUN, "{processed} allocations for {RECORDS} records");
    assert_eq!(published, 0, "nobody has asked");
    let store = task.key_value_store::<Bytes, i64>("c").unwrap();
    run(&mut task);
    let (processed, published) = run(&mut task);
    assert!(processed <= PER_RUN, "{processed} allocations for {RECORDS} records that somebody reads");
    assert!(published <= 3 * KEYS as u64 + PER_RUN, "{published} allocations for {KEYS} rows");
    assert_eq!(allocation_counter::measure(|| task.publish().unwrap()).count_total, 0, "nothing has changed");
    assert_eq!(store.approximate_num_entries().unwrap(), KEYS as u64);
}

struct Last(KeyValueStore<Bytes, i64>);

impl Processor<Bytes, Bytes, Bytes, i64> for Last {
    fn process(&mut self, record: Record<Bytes, Bytes>, cx: &mut Context<'_, Bytes, i64>) -> Outcome {
        let Some(key) = &record.key else { return Ok(()) };
        let before = cx.store(&self.0).get(key)?;
        cx.store(&self.0).put(key, record.timestamp)?;
        Ok(cx.forward(record.with_value(before.unwrap_or(-1)))?)
    }
}

#[test]
fn a_processor_with_a_store_allocates_nothing() {
    let last = KeyValue::<Bytes, i64>::named("last");
    let counted = allocations(
        |builder| {
            let supplier = {
                let last = last.clone();
                move |stores: &Stores<'_, '_>| Ok(Last(stores.get(&last)?))
            };
            builder.stream::<Bytes, Bytes>("in").process(supplier, &[&last]).to("out");
        },
        2,
    );
    assert!(counted <= PER_RUN, "{counted} allocations for {RECORDS} records");
}
