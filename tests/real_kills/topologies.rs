//! What the processes run.

use mainstem::config::StoreKind;
use mainstem::prelude::*;
use mainstem::topology::Outcome;

/// Keeps the last value of each key; `-` deletes it.
struct Last(KeyValueStore<String, String>);

impl Processor<String, String, String, String> for Last {
    fn process(&mut self, record: Record<String, String>, cx: &mut Context<'_, String, String>) -> Outcome {
        let (Some(key), Some(value)) = (&record.key, record.value.clone()) else { return Ok(()) };
        let mut store = cx.store(&self.0);
        if value == "-" {
            store.delete(key)?;
        } else {
            store.put(key, value)?;
        }
        Ok(())
    }
}

fn last_into(stream: &KStream<String, String>, name: &str) {
    keep_last(stream, KeyValue::named(name));
}

fn keep_last(stream: &KStream<String, String>, store: KeyValue<String, String>) {
    let of_task = store.clone();
    let supplier = move |stores: &Stores<'_, '_>| Ok(Last(stores.get(&of_task)?));
    let _: KStream<String, String> = stream.process(supplier, &[&store]);
}

/// Four stores: a plain one of a processor, with deletions; a count with the record cache, and one without; and one that is
/// in memory whatever the others are.
pub fn four(input: &str) -> Topology {
    let builder = StreamsBuilder::new();
    let stream = builder.stream::<String, String>(input);
    last_into(&stream, "last");
    let keyed = || stream.group_by_key(Grouped::<String, String>::named("keyed"));
    keyed().count(Materialized::named("cached"));
    keyed().count(Materialized::named("uncached").caching_disabled());
    keyed().count(Materialized::named("memory").caching_disabled().store_kind(StoreKind::InMemory));
    builder.build().unwrap()
}

/// The last value of each key, in a store that nothing else has the rows of.
pub fn unlogged(input: &str) -> Topology {
    let builder = StreamsBuilder::new();
    let store = KeyValue::<String, String>::named("last").logging_disabled();
    keep_last(&builder.stream::<String, String>(input), store);
    builder.build().unwrap()
}

/// The last value of each key, in one store.
pub fn last(input: &str) -> Topology {
    let builder = StreamsBuilder::new();
    last_into(&builder.stream::<String, String>(input), "last");
    builder.build().unwrap()
}

/// The same in many stores, all of one task a partition.
pub fn many(input: &str) -> Topology {
    let builder = StreamsBuilder::new();
    let stream = builder.stream::<String, String>(input);
    for n in 0..10 {
        last_into(&stream, &format!("last-{n}"));
    }
    builder.build().unwrap()
}

/// Counts by key, and writes each count.
pub fn counted(input: &str, output: &str) -> Topology {
    let builder = StreamsBuilder::new();
    let grouped = builder.stream::<String, String>(input).group_by_key("by-key");
    grouped.count(Materialized::named("counts").caching_disabled()).to_stream().to(output);
    builder.build().unwrap()
}

/// Three stages with two repartition topics between them: what is not skipped is counted by its value in two stores, one of
/// them with the record cache, and each count goes on to the output under another key.
pub fn stages(input: &str, output: &str) -> Topology {
    let builder = StreamsBuilder::new();
    let values = builder
        .stream::<String, String>(input)
        .filter(|_, value| value != "skip")
        .group_by("by-value", |_, value: &String| value.clone());
    values.count(Materialized::named("cached"));
    values
        .count(Materialized::named("counts").caching_disabled())
        .to_stream()
        .select_key(|key, _| format!("k{}", key.cloned().unwrap_or_default()))
        .repartition("again")
        .to(output);
    builder.build().unwrap()
}
