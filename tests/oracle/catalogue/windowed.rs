//! Windowed aggregations of grouped streams.

use std::time::Duration;

use mainstem::config::StoreKind;
use mainstem::prelude::*;

use crate::functions::{Sure, cat, first, is_x, num, str, wk};

topologies! {
    tumbling_count_auto;
    tumbling_count_named;
    tumbling_reduce_auto;
    tumbling_aggregate_named;
    tumbling_minutes_auto;
    tumbling_inmemory_named;
    tumbling_chain_auto;
    hopping_count_auto;
    hopping_reduce_named;
    hopping_aggregate_auto;
    sliding_count_auto;
    sliding_aggregate_named;
    sliding_reduce_auto;
    session_count_auto;
    session_reduce_named;
    session_aggregate_auto;
    session_minutes_named;
    session_inmemory_named;
    unlimited_count_auto;
    final_tumbling_count_auto;
    final_tumbling_aggregate_named;
    final_hopping_reduce_named;
    final_sliding_count_auto;
    final_session_count_named;
    final_session_aggregate_auto;
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn tumbling(size: u64, grace: u64) -> Tumbling {
    Tumbling::of(ms(size)).grace(ms(grace))
}

fn hopping(size: u64, advance: u64, grace: u64) -> Hopping {
    Hopping::of(ms(size), ms(advance)).grace(ms(grace))
}

fn sliding(difference: u64, grace: u64) -> Sliding {
    Sliding::of(ms(difference)).grace(ms(grace))
}

fn session(gap: u64, grace: u64) -> Session {
    Session::with_gap(ms(gap)).grace(ms(grace))
}

fn grouped(b: &StreamsBuilder) -> KGroupedStream<String, String> {
    b.stream("in").group_by_key(())
}

/// `cat(a, v)`.
fn add(a: String, v: Option<String>) -> Sure<Option<String>> {
    Sure::Ok(Some(cat(&a, &str(v.as_ref()))))
}

/// Null if `isX(v)`, else `cat(a, v)`.
fn add_unless_x(a: String, v: Option<String>) -> Sure<Option<String>> {
    if is_x(v.as_ref()) { Sure::Ok(None) } else { add(a, v) }
}

/// A table's changes under its keys as text.
fn as_text<V: Clone + mainstem::serde::DefaultSerde + 'static>(
    table: &KTable<Windowed<String>, V>,
) -> KStream<String, V> {
    table.to_stream().try_map(|w: Option<Windowed<String>>, v| Sure::Ok((w.map(|w| wk(&w)), v)))
}

fn tumbling_count_auto(b: &StreamsBuilder) {
    grouped(b).windowed_by(tumbling(100, 0)).count(()).to_stream().to("out");
}

fn tumbling_count_named(b: &StreamsBuilder) {
    b.stream::<String, String>("in")
        .group_by_key("grp")
        .windowed_by(tumbling(100, 50))
        .count(Materialized::named("win-store").processor("win-count"))
        .to_stream()
        .named("win-stream")
        .try_map(|w: Option<Windowed<String>>, n: Option<i64>| Sure::Ok((w.map(|w| wk(&w)), n)))
        .named("win-map")
        .to("out");
}

fn tumbling_reduce_auto(b: &StreamsBuilder) {
    grouped(b).windowed_by(tumbling(100, 50)).try_reduce((), add_unless_x).to_stream().to("out");
}

fn tumbling_aggregate_named(b: &StreamsBuilder) {
    b.stream::<String, String>("in")
        .try_group_by("by-letter", |_, v| Sure::Ok(first(v)))
        .windowed_by(tumbling(100, 30))
        .try_aggregate(
            Materialized::named("agg-store").processor("agg").retention(ms(500)),
            String::new,
            |_, v, a| add_unless_x(a, v),
        )
        .to_stream()
        .to("out");
}

fn tumbling_minutes_auto(b: &StreamsBuilder) {
    grouped(b).windowed_by(tumbling(60_000, 30_000)).count(()).to_stream().to("out");
}

fn tumbling_inmemory_named(b: &StreamsBuilder) {
    let store = Materialized::named("mem-win").store_kind(StoreKind::InMemory).retention(ms(150));
    grouped(b).windowed_by(tumbling(100, 50)).count(store).to_stream().to("out");
}

fn tumbling_chain_auto(b: &StreamsBuilder) {
    grouped(b)
        .windowed_by(tumbling(100, 50))
        .count(())
        .filter(|_, n| *n > 1)
        .map_values(|n| n * 10)
        .to_stream_with_key(|w, _| wk(w))
        .group_by_key(())
        .reduce((), |a, n| a + n)
        .to_stream()
        .to("out");
}

fn hopping_count_auto(b: &StreamsBuilder) {
    grouped(b).windowed_by(hopping(100, 30, 0)).count(()).to_stream().to("out");
}

fn hopping_reduce_named(b: &StreamsBuilder) {
    let store = Materialized::named("hop-store").processor("hop");
    as_text(&grouped(b).windowed_by(hopping(100, 50, 20)).try_reduce(store, add)).to("out");
}

fn hopping_aggregate_auto(b: &StreamsBuilder) {
    grouped(b)
        .windowed_by(hopping(120, 40, 60))
        .try_aggregate(
            (),
            || 0i64,
            |_, v, a| Sure::Ok((!is_x(v.as_ref())).then(|| a.wrapping_add(num(v.as_ref())))),
        )
        .to_stream()
        .to("out");
}

fn sliding_count_auto(b: &StreamsBuilder) {
    grouped(b).windowed_by(sliding(50, 0)).count(()).to_stream().to("out");
}

fn sliding_aggregate_named(b: &StreamsBuilder) {
    let store = Materialized::named("slide-store").processor("slide");
    let windows = grouped(b).windowed_by(sliding(50, 30));
    as_text(&windows.try_aggregate(store, String::new, |_, v, a| add_unless_x(a, v))).to("out");
}

fn sliding_reduce_auto(b: &StreamsBuilder) {
    as_text(&grouped(b).windowed_by(sliding(50, 100)).try_reduce((), add)).to("out");
}

fn session_count_auto(b: &StreamsBuilder) {
    grouped(b).windowed_by(session(50, 0)).count(()).to_stream().to("out");
}

fn session_reduce_named(b: &StreamsBuilder) {
    let store = Materialized::named("sess-store").processor("sess");
    as_text(&grouped(b).windowed_by(session(50, 30)).try_reduce(store, add)).to("out");
}

/// `str(a) + "|" + str(c)`.
fn merged(a: Option<String>, c: Option<String>) -> Sure<Option<String>> {
    Sure::Ok(Some(str(a.as_ref()) + "|" + &str(c.as_ref())))
}

fn session_aggregate_auto(b: &StreamsBuilder) {
    grouped(b)
        .windowed_by(session(50, 100))
        .try_aggregate(
            (),
            String::new,
            |_, v, a| add_unless_x(a.unwrap_or_default(), v),
            |_, a, c| merged(a, c),
        )
        .to_stream()
        .to("out");
}

fn session_minutes_named(b: &StreamsBuilder) {
    grouped(b).windowed_by(session(30_000, 60_000)).count("sm").to_stream().to("out");
}

fn session_inmemory_named(b: &StreamsBuilder) {
    let store = Materialized::named("mem-sess").store_kind(StoreKind::InMemory).retention(ms(100));
    grouped(b).windowed_by(session(50, 30)).count(store).to_stream().to("out");
}

fn unlimited_count_auto(b: &StreamsBuilder) {
    as_text(&grouped(b).windowed_by(Unlimited::from(100)).count(())).to("out");
}

const ON_CLOSE: EmitStrategy = EmitStrategy::OnWindowClose;

fn final_tumbling_count_auto(b: &StreamsBuilder) {
    let windows = grouped(b).windowed_by(tumbling(100, 50)).emit_strategy(ON_CLOSE);
    windows.count(()).to_stream().to("out");
}

fn final_tumbling_aggregate_named(b: &StreamsBuilder) {
    let store = Materialized::named("fin-store").processor("fin");
    let windows = grouped(b).windowed_by(tumbling(100, 0)).emit_strategy(ON_CLOSE);
    windows.try_aggregate(store, String::new, |_, v, a| add_unless_x(a, v)).to_stream().to("out");
}

fn final_hopping_reduce_named(b: &StreamsBuilder) {
    let store = Materialized::named("fin-hop-store").processor("fin-hop");
    let windows = grouped(b).windowed_by(hopping(100, 40, 20)).emit_strategy(ON_CLOSE);
    as_text(&windows.try_reduce(store, add)).to("out");
}

fn final_sliding_count_auto(b: &StreamsBuilder) {
    let windows = grouped(b).windowed_by(sliding(50, 20)).emit_strategy(ON_CLOSE);
    windows.count(()).to_stream().to("out");
}

fn final_session_count_named(b: &StreamsBuilder) {
    let store = Materialized::named("fin-sess-store").processor("fin-sess");
    let windows = grouped(b).windowed_by(session(50, 20)).emit_strategy(ON_CLOSE);
    windows.count(store).to_stream().to("out");
}

fn final_session_aggregate_auto(b: &StreamsBuilder) {
    let windows = grouped(b).windowed_by(session(50, 0)).emit_strategy(ON_CLOSE);
    windows
        .try_aggregate((), String::new, |_, v, a| add(a.unwrap_or_default(), v), |_, a, c| merged(a, c))
        .to_stream()
        .to("out");
}
