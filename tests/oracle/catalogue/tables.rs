//! Tables of topics and what is made of them.

use std::time::Duration;

use mainstem::prelude::*;
use mainstem::{BoxError, Result};

use crate::functions::{Sure, first, is_x, minus, num, plus, str};

topologies! {
    table_source_auto;
    table_source_named;
    table_filter_auto;
    table_filter_named;
    table_filternot_named;
    table_mapvalues_auto;
    table_mapvalues_named;
    table_chain_auto;
    table_chain_named;
    table_aggregate_auto;
    table_aggregate_named;
    table_count_auto;
    table_reduce_named;
    table_transform_named;
    versioned_source_named;
    versioned_chain_named;
    versioned_mapvalues_named;
    count_versioned_named;
    count_filter_named;
}

type Table = KTable<String, String>;

fn input(b: &StreamsBuilder) -> Table {
    b.table("in", ())
}

fn suffixed(v: String) -> String {
    v + "m"
}

fn by_first(k: &String, v: String) -> Sure<(Option<String>, Option<String>)> {
    let _ = k;
    Sure::Ok((first(Some(&v)), Some(v)))
}

fn table_source_auto(b: &StreamsBuilder) {
    input(b).to_stream().to("out");
}

fn table_source_named(b: &StreamsBuilder) {
    b.table(Consumed::<String, String>::topic("in").named("src"), "src-store")
        .to_stream()
        .named("ts")
        .to("out");
}

fn table_filter_auto(b: &StreamsBuilder) {
    input(b).filter(|_, v| num(Some(v)) > 4).to_stream().to("out");
}

fn table_filter_named(b: &StreamsBuilder) {
    b.table::<String, String>("in", "t")
        .filter(|_, v| num(Some(v)) > 4)
        .named("big")
        .materialized("big-store")
        .to_stream()
        .to("out");
}

fn table_filternot_named(b: &StreamsBuilder) {
    input(b).filter_not(|_, v| is_x(Some(v))).materialized("not-x").to_stream().to("out");
}

fn table_mapvalues_auto(b: &StreamsBuilder) {
    input(b).try_map_values(|_, v| Sure::Ok((!is_x(Some(&v))).then(|| suffixed(v)))).to_stream().to("out");
}

fn table_mapvalues_named(b: &StreamsBuilder) {
    input(b).map_values(|v| num(Some(&v))).named("nums").materialized("num-store").to_stream().to("out");
}

fn table_chain_auto(b: &StreamsBuilder) {
    input(b)
        .filter(|_, v| !is_x(Some(v)))
        .map_values(suffixed)
        .filter(|_, v| num(Some(v)) < 7)
        .to_stream()
        .to("out");
}

fn table_chain_named(b: &StreamsBuilder) {
    b.table::<String, String>("in", "t")
        .map_values(suffixed)
        .filter(|_, v| num(Some(v)) < 7)
        .materialized("last")
        .to_stream_with_key(|k, v| match v {
            Some(v) => k.clone() + &first(Some(v)).unwrap_or_default(),
            None => k.clone(),
        })
        .group_by_key(())
        .count(())
        .to_stream()
        .to("out");
}

fn table_aggregate_auto(b: &StreamsBuilder) {
    input(b)
        .try_group_by((), |_, v: String| Sure::Ok((first(Some(&v)).filter(|_| !v.is_empty()), Some(v))))
        .aggregate((), String::new, |_, v, a| plus(&a, &v), |_, v, a| minus(&a, &v))
        .to_stream()
        .to("out");
}

fn table_aggregate_named(b: &StreamsBuilder) {
    let unless_zero = |n: i64| Sure::Ok((n != 0).then_some(n));
    b.table::<String, String>("in", "t")
        .try_group_by("by-letter", |_, v: String| Sure::Ok((first(Some(&v)), Some(num(Some(&v))))))
        .try_aggregate(
            Materialized::named("sums").processor("sum"),
            || 0i64,
            move |_, v, a| unless_zero(a.wrapping_add(v)),
            move |_, v, a| unless_zero(a.wrapping_sub(v)),
        )
        .to_stream()
        .to("out");
}

fn table_count_auto(b: &StreamsBuilder) {
    input(b).try_group_by((), by_first).count(()).to_stream().to("out");
}

fn table_reduce_named(b: &StreamsBuilder) {
    input(b)
        .try_group_by("g", by_first)
        .try_reduce(
            Materialized::named("red-store").processor("red"),
            |a, v| Sure::Ok(Some(plus(&a, &v))),
            |a, v| Sure::Ok((a != v).then(|| minus(&a, &v))),
        )
        .to_stream()
        .to("out");
}

struct Numbered {
    seen: KeyValueStore<String, i64>,
}

impl ValueTransformerWithKey<String, String, String> for Numbered {
    fn transform(
        &mut self,
        key: &String,
        value: Option<String>,
        cx: &mut TransformContext<'_>,
    ) -> Result<Option<String>, BoxError> {
        let n = cx.store(&self.seen).get(key)?.unwrap_or(0) + 1;
        cx.store(&self.seen).put(key, n)?;
        Ok(Some(format!("{}#{n}", str(value.as_ref()))))
    }
}

fn table_transform_named(b: &StreamsBuilder) {
    let seen = KeyValue::<String, i64>::named("seen");
    b.add_state_store(&seen);
    let handle = seen.clone();
    input(b)
        .transform_values(move |stores| Ok(Numbered { seen: stores.get(&handle)? }), &[&seen])
        .named("tv")
        .materialized("tv-store")
        .to_stream()
        .to("out");
}

fn history(store: &str, ms: u64) -> Materialized<String, String> {
    Materialized::named(store).versioned(Duration::from_millis(ms))
}

fn versioned(b: &StreamsBuilder) -> Table {
    b.table("in", history("vt", 300))
}

fn versioned_source_named(b: &StreamsBuilder) {
    versioned(b).to_stream().to("out");
}

fn versioned_chain_named(b: &StreamsBuilder) {
    let table = versioned(b);
    table.filter(|_, v| num(Some(v)) > 4).to_stream().to("filtered");
    table.map_values(suffixed).to_stream().to("mapped");
    table.try_group_by((), by_first).count(()).to_stream().to("counts");
}

fn versioned_mapvalues_named(b: &StreamsBuilder) {
    versioned(b)
        .try_map_values(|_, v| Sure::Ok((!is_x(Some(&v))).then(|| suffixed(v))))
        .materialized(history("vm", 150))
        .to_stream()
        .to("out");
}

fn count_versioned_named(b: &StreamsBuilder) {
    b.stream::<String, String>("in")
        .group_by_key(())
        .count(Materialized::named("vc").versioned(Duration::from_millis(300)))
        .to_stream()
        .to("out");
}

fn count_filter_named(b: &StreamsBuilder) {
    b.stream::<String, String>("in")
        .group_by_key(())
        .count("c")
        .filter(|_, n| n % 2 == 0)
        .named("even")
        .materialized("even-store")
        .to_stream()
        .to("out");
}
