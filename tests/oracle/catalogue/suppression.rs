//! Suppressed tables.

use std::time::Duration;

use mainstem::prelude::*;

use crate::functions::{Sure, cat, first, minus, plus, str, wk};

topologies! {
    suppress_tumbling_auto;
    suppress_hopping_named;
    suppress_session_auto;
    suppress_sliding_auto;
    suppress_filtered_named;
    suppress_shutdown_named;
    suppress_limit_auto;
    suppress_limit_records_named;
    suppress_limit_bytes_auto;
    suppress_zero_nolog_named;
    suppress_limit_then_aggregate_auto;
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn grouped(b: &StreamsBuilder) -> KGroupedStream<String, String> {
    b.stream("in").group_by_key(())
}

fn tumbling(grace: u64) -> Tumbling {
    Tumbling::of(ms(100)).grace(ms(grace))
}

fn until_close() -> Suppressed<Windowed<String>, i64> {
    Suppressed::until_window_closes(BufferConfig::unbounded())
}

fn suppress_tumbling_auto(b: &StreamsBuilder) {
    grouped(b).windowed_by(tumbling(50)).count(()).suppress(until_close()).to_stream().to("out");
}

fn suppress_hopping_named(b: &StreamsBuilder) {
    grouped(b)
        .windowed_by(Hopping::of(ms(100), ms(50)))
        .try_reduce("hop", |a, v: Option<String>| Sure::Ok(Some(cat(&a, &str(v.as_ref())))))
        .suppress(Suppressed::until_window_closes(BufferConfig::unbounded()).named("until-close"))
        .to_stream()
        .try_map(|w: Option<Windowed<String>>, v: Option<String>| Sure::Ok((w.map(|w| wk(&w)), v)))
        .to("out");
}

fn suppress_session_auto(b: &StreamsBuilder) {
    let sessions = grouped(b).windowed_by(Session::with_gap(ms(50)).grace(ms(20)));
    sessions.count(()).suppress(until_close()).to_stream().to("out");
}

fn suppress_sliding_auto(b: &StreamsBuilder) {
    let windows = grouped(b).windowed_by(Sliding::of(ms(50)).grace(ms(20)));
    windows.count(()).suppress(until_close()).to_stream().to("out");
}

fn suppress_filtered_named(b: &StreamsBuilder) {
    grouped(b)
        .windowed_by(tumbling(20))
        .count("tc")
        .filter(|_, n| *n > 1)
        .suppress(until_close().named("close-filtered"))
        .to_stream()
        .to("out");
}

fn suppress_shutdown_named(b: &StreamsBuilder) {
    let bounded = BufferConfig::max_records(7).shut_down_when_full();
    grouped(b)
        .windowed_by(tumbling(50))
        .count("tc")
        .suppress(Suppressed::until_window_closes(bounded).named("bounded"))
        .to_stream()
        .to("out");
}

fn suppress_limit_auto(b: &StreamsBuilder) {
    b.table::<String, String>("in", ())
        .suppress(Suppressed::until_time_limit(ms(100), BufferConfig::unbounded()))
        .to_stream()
        .to("out");
}

fn suppress_limit_records_named(b: &StreamsBuilder) {
    grouped(b)
        .count("c")
        .suppress(Suppressed::until_time_limit(ms(200), BufferConfig::max_records(2)).named("early"))
        .to_stream()
        .to("out");
}

fn suppress_limit_bytes_auto(b: &StreamsBuilder) {
    b.table::<String, String>("in", ())
        .suppress(Suppressed::until_time_limit(ms(500), BufferConfig::max_bytes(120)))
        .to_stream()
        .to("out");
}

fn suppress_zero_nolog_named(b: &StreamsBuilder) {
    let buffer = BufferConfig::max_records(10).logging_disabled();
    b.table::<String, String>("in", "t")
        .suppress(Suppressed::until_time_limit(ms(0), buffer).named("now"))
        .to_stream()
        .to("out");
}

fn suppress_limit_then_aggregate_auto(b: &StreamsBuilder) {
    b.table::<String, String>("in", ())
        .suppress(Suppressed::until_time_limit(ms(100), BufferConfig::unbounded()))
        .try_group_by((), |_, v: String| Sure::Ok((first(Some(&v)), Some(v))))
        .aggregate((), String::new, |_, v, a| plus(&a, &v), |_, v, a| minus(&a, &v))
        .to_stream()
        .to("out");
}
