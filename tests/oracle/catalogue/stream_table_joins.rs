//! Joins of streams with tables.

use std::time::Duration;

use mainstem::Result;
use mainstem::prelude::*;

use crate::functions::{Sure, first, is_x, join, key, str};

topologies! {
    st_inner_auto;
    st_left_named;
    st_inner_repartition_auto;
    st_left_repartition_named;
    st_inner_count_auto;
    gt_inner_auto;
    gt_left_named;
    papi_global_store_auto;
    st_left_versioned_named;
    papi_versioned_named;
}

type Stream = KStream<String, String>;
type Table = KTable<String, String>;

fn input(b: &StreamsBuilder) -> Stream {
    b.stream("in")
}

fn join_k(k: Option<&String>, a: &String, c: Option<&String>) -> Sure<Option<String>> {
    Sure::Ok(Some(format!("{}:{}", str(k), join(Some(a), c))))
}

fn st_inner_auto(b: &StreamsBuilder) {
    let stream = input(b);
    let table: Table = b.table("table", ());
    stream.join_table(&table, (), |a, c| join(Some(&a), Some(&c))).to("out");
}

fn st_left_named(b: &StreamsBuilder) {
    let stream = input(b);
    let table: Table = b.table("table", "t");
    stream.try_left_join_table(&table, "st", |k, a, c| join_k(k, &a, c.as_ref())).to("out");
}

fn st_inner_repartition_auto(b: &StreamsBuilder) {
    let stream = input(b).try_select_key(|_, v| Sure::Ok(first(v)));
    let table: Table = b.table("table", ());
    stream.join_table(&table, (), |a, c| join(Some(&a), Some(&c))).to("out");
}

fn st_left_repartition_named(b: &StreamsBuilder) {
    let stream = input(b).try_select_key(|_, v| Sure::Ok(first(v).filter(|_| !is_x(v))));
    let table: Table = b.table("table", "t");
    stream.left_join_table(&table, "strp", |a, c| join(Some(&a), c.as_ref())).to("out");
}

fn st_inner_count_auto(b: &StreamsBuilder) {
    let stream = input(b);
    let counts = b.stream::<String, String>("other").group_by_key(()).count(());
    stream.join_table(&counts, (), |a, n| join(Some(&a), Some(&n))).to("out");
}

fn gt_inner_auto(b: &StreamsBuilder) {
    let table = b.global_table::<String, String>("table", ());
    input(b)
        .try_join_global(
            &table,
            |_, v| Sure::Ok(first(Some(v))),
            |_, a, c| Sure::Ok(Some(join(Some(&a), Some(&c)))),
        )
        .to("out");
}

fn gt_left_named(b: &StreamsBuilder) {
    let table = b.global_table::<String, String>("table", "g-store");
    input(b)
        .try_left_join_global(
            &table,
            |k, v| Sure::Ok(k.cloned().filter(|_| !is_x(Some(v)))),
            |k, a, c| join_k(k, &a, c.as_ref()),
        )
        .named("gj")
        .to("out");
}

struct Put {
    store: KeyValueStore<String, String>,
}

impl Processor<String, String, (), ()> for Put {
    fn process(&mut self, record: Record<String, String>, cx: &mut Context<'_, (), ()>) -> Outcome {
        if let Some(key) = &record.key {
            cx.store(&self.store).put(key, record.value)?;
        }
        Ok(())
    }
}

struct Look {
    store: GlobalKeyValueStore<String, String>,
}

impl Processor<String, String, String, String> for Look {
    fn process(&mut self, record: Record<String, String>, cx: &mut Context<'_, String, String>) -> Outcome {
        let found = self.store.get(&key(record.key.as_ref()))?;
        let value = format!("{}/{}", str(record.value.as_ref()), str(found.as_ref()));
        Ok(cx.forward(record.with_value(value))?)
    }
}

fn papi_global_store_auto(b: &StreamsBuilder) {
    let store = KeyValue::<String, String>::named("gs");
    let filled = store.clone();
    b.add_global_store(&store, "global", move |stores| -> Result<Put> {
        Ok(Put { store: stores.get(&filled)? })
    });
    input(b).process(move |stores| Ok(Look { store: stores.global(&store)? }), &[]).to("out");
}

fn st_left_versioned_named(b: &StreamsBuilder) {
    let stream = input(b);
    let table: Table = b.table("table", Materialized::named("vt").versioned(Duration::from_millis(200)));
    stream.left_join_table(&table, (), |a, c| join(Some(&a), c.as_ref())).to("out");
}

struct Versions {
    store: VersionedKeyValueStore<String, String>,
}

/// Kafka Streams does not say until when a version is good.
fn shown(record: Option<VersionedRecord<String>>) -> String {
    record.map_or_else(|| "null".to_owned(), |record| format!("{}@{}/-", record.value, record.timestamp))
}

impl Processor<String, String, String, String> for Versions {
    fn process(&mut self, record: Record<String, String>, cx: &mut Context<'_, String, String>) -> Outcome {
        let (k, t) = (key(record.key.as_ref()), record.timestamp);
        let say = |what: &str, value: String, cx: &mut Context<'_, String, String>| {
            cx.forward(Record::new(what.to_owned(), value, t))
        };
        if is_x(record.value.as_ref()) {
            let had = cx.store(&self.store).delete(&k, t)?;
            say("del", shown(had), cx)?;
        } else {
            let outcome = match cx.store(&self.store).put(&k, record.value, t)? {
                PutOutcome::Latest => -1,
                PutOutcome::Until(at) => at,
                PutOutcome::NotPut => i64::MIN,
            };
            say("put", outcome.to_string(), cx)?;
        }
        let now = cx.store(&self.store).get(&k)?;
        say("now", shown(now), cx)?;
        let then = cx.store(&self.store).get_as_of(&k, (t - 20).max(0))?;
        say("then", shown(then), cx)?;
        Ok(())
    }
}

fn papi_versioned_named(b: &StreamsBuilder) {
    let store = VersionedKeyValue::<String, String>::named("vs", Duration::from_millis(200));
    b.add_state_store(&store);
    let handle = store.clone();
    input(b)
        .process(move |stores| Ok(Versions { store: stores.get(&handle)? }), &[&store])
        .named("versions")
        .to("out");
}
