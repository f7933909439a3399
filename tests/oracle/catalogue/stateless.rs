//! Streams without state.

use mainstem::prelude::*;

use crate::functions::{Sure, first, is_x, num, str, up};

topologies! {
    stateless_auto;
    stateless_named;
    nulls_auto;
    branch_named;
    branch_auto;
    merge_auto;
    merge_named;
    multi_source_auto;
    same_source_twice_auto;
    dynamic_sink_auto;
    timestamp_extractor_auto;
    processing_continue_named["processing.exception.handler" =
        "org.apache.kafka.streams.errors.LogAndContinueProcessingExceptionHandler"];
    processing_fail_auto;
    deserialization_continue_auto["deserialization.exception.handler" =
        "org.apache.kafka.streams.errors.LogAndContinueExceptionHandler"];
}

type Stream = KStream<String, String>;

fn input(b: &StreamsBuilder) -> Stream {
    b.stream("in")
}

fn key_and_first(k: Option<&String>, v: String) -> (String, String) {
    let v = Some(v);
    (format!("{}-{}", str(k), str(first(v.as_ref()).as_ref())), format!("{}!", str(v.as_ref())))
}

fn once_or_turned(k: Option<&String>, v: String) -> Vec<(String, String)> {
    let k = str(k);
    if num(Some(&v)) % 2 == 0 { vec![(k, v)] } else { vec![(k.clone(), v.clone()), (v, k)] }
}

fn stateless_auto(b: &StreamsBuilder) {
    input(b)
        .filter(|_, _| true)
        .filter_not(|_, v| is_x(Some(v)))
        .map(key_and_first)
        .map_values(|v| up(&v))
        .flat_map_values(|v| if num(Some(&v)) >= 8 { vec![] } else { vec![v.clone(), format!("{v}'")] })
        .flat_map(once_or_turned)
        .select_key(|k, _| format!("{}#", str(k)))
        .peek(|_, _| ())
        .to("out");
}

fn stateless_named(b: &StreamsBuilder) {
    let filtered = b
        .stream(Consumed::<String, String>::topic("in").named("source-in"))
        .filter(|_, _| true)
        .named("not-null");
    filtered.for_each(|_, _| ()).named("look");
    filtered
        .filter_not(|_, v| is_x(Some(v)))
        .named("not-x")
        .map(key_and_first)
        .named("map-it")
        .map_values_with_key(|k, v| format!("{}/{}", up(&v), str(k)))
        .named("map-values")
        .try_flat_map_values(|k, v: Option<String>| Sure::Ok([v, Some(str(k))]))
        .named("flat-values")
        .flat_map(once_or_turned)
        .named("flat-it")
        .select_key(|k, _| format!("{}#", str(k)))
        .named("new-key")
        .peek(|_, _| ())
        .named("peek-it")
        .to(Produced::topic("out").named("sink-out"));
}

fn nulls_auto(b: &StreamsBuilder) {
    input(b)
        .try_map_values(|_, v| Sure::Ok(v.filter(|v| !is_x(Some(v)))))
        .try_select_key(|k, v| {
            let starts_with_a = first(v).is_some_and(|f| f == "a");
            Sure::Ok(k.filter(|_| !starts_with_a).cloned())
        })
        .try_filter(|_, _| Sure::Ok(true))
        .to("out");
}

fn branch_named(b: &StreamsBuilder) {
    let branches = input(b)
        .split()
        .named("br-")
        .try_branch(|_, v| Sure::Ok(first(v).is_some_and(|f| f == "a")), "a")
        .try_branch(|_, v| Sure::Ok(num(v) > 4), "big")
        .default_branch("rest");
    branches["br-a"].to("out-a");
    branches["br-big"].to("out-big");
    branches["br-rest"].to("out-rest");
}

fn branch_auto(b: &StreamsBuilder) {
    input(b)
        .split()
        .try_branch(
            |_, v| Sure::Ok(first(v).is_some_and(|f| f == "a")),
            Branched::with_consumer(|s: Stream| s.to("out-1")),
        )
        .try_branch(
            |_, v| Sure::Ok(num(v) > 4),
            Branched::with_function(|s: Stream| {
                s.try_map_values(|_, v| Sure::Ok(Some(format!("{}^", str(v.as_ref())))))
            }),
        )
        .try_branch(
            |k, _| Sure::Ok(k.is_none()),
            Branched::with_consumer(|s: Stream| {
                s.try_map_values(|_, v| Sure::Ok(Some(format!("{}~", str(v.as_ref()))))).to("out-3");
            }),
        )
        .no_default_branch();
}

/// `mapValues v: str(v) + suffix`
fn suffixed(stream: &Stream, suffix: &'static str) -> Stream {
    stream.try_map_values(move |_, v| Sure::Ok(Some(str(v.as_ref()) + suffix)))
}

fn merge_auto(b: &StreamsBuilder) {
    let one = b.stream::<String, String>("in1");
    one.merge(&suffixed(&b.stream("in2"), "2")).to("out");
}

fn merge_named(b: &StreamsBuilder) {
    let source = |topic: &str, name: &str| b.stream(Consumed::<String, String>::topic(topic).named(name));
    let (a, c) = (source("in1", "s1"), source("in2", "s2"));
    let two = a.merge(&c).named("m12");
    let d = source("in3", "s3");
    two.merge(&d).named("m123").group_by_key(()).count(()).to_stream().to("out");
}

fn multi_source_auto(b: &StreamsBuilder) {
    suffixed(&b.stream(Consumed::topics(["in1", "in2"])), ".").to("out");
}

fn same_source_twice_auto(b: &StreamsBuilder) {
    suffixed(&input(b), "1").to("out1");
    suffixed(&input(b), "2").to("out2");
}

fn dynamic_sink_auto(b: &StreamsBuilder) {
    input(b).to(Produced::chosen_by("by-number", |_, v| format!("out-{}", num(v) % 3)));
}

fn timestamp_extractor_auto(b: &StreamsBuilder) {
    let from = Consumed::<String, String>::topic("in").timestamps(|record| {
        Ok(match record.value {
            v if is_x(v) => -1,
            Some(v) if v.starts_with('b') => record.record_timestamp + 1000,
            _ => record.record_timestamp,
        })
    });
    let stream = b.stream(from);
    stream.to("out");
    stream.group_by_key(()).count(()).to_stream().to("counts");
}

fn fails_on_x(v: Option<&String>) -> Result<Option<String>, String> {
    if is_x(v) { Err("x".to_owned()) } else { Ok(Some(format!("{}ok", str(v)))) }
}

fn processing_continue_named(b: &StreamsBuilder) {
    input(b).try_map_values(|_, v| fails_on_x(v.as_ref())).named("may-fail").to("out");
}

fn processing_fail_auto(b: &StreamsBuilder) {
    input(b).try_map_values(|_, v| fails_on_x(v.as_ref())).to("out");
}

fn deserialization_continue_auto(b: &StreamsBuilder) {
    b.stream::<String, i64>("in").map_values(|v| v.wrapping_add(1)).to("out");
}
