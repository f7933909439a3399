//! Grouped streams, their aggregations, and repartition topics.

use mainstem::prelude::*;

use crate::functions::{Sure, cat, first, is_x, num, str};

topologies! {
    count_auto;
    count_named;
    groupby_count_auto;
    groupby_count_named;
    reduce_auto;
    groupby_reduce_named;
    aggregate_auto;
    aggregate_named;
    count_inmemory_nolog_named;
    groupby_two_aggs_auto;
    groupby_two_aggs_named;
    repartition_auto;
    repartition_count_named;
    to_table_auto;
    rekey_to_table_auto;
    count_of_counts_auto;
}

type Stream = KStream<String, String>;

fn input(b: &StreamsBuilder) -> Stream {
    b.stream("in")
}

fn by_first(stream: &Stream, grouped: impl Into<Grouped<String, String>>) -> KGroupedStream<String, String> {
    stream.try_group_by(grouped, |_, v| Sure::Ok(first(v)))
}

fn count_auto(b: &StreamsBuilder) {
    input(b).group_by_key(()).count(()).to_stream().to("out");
}

fn count_named(b: &StreamsBuilder) {
    input(b)
        .group_by_key("grp")
        .count(Materialized::named("cnt-store").processor("cnt"))
        .to_stream()
        .named("cnt-stream")
        .to(Produced::topic("out").named("snk"));
}

fn groupby_count_auto(b: &StreamsBuilder) {
    by_first(&input(b), ()).count(()).to_stream().to("out");
}

fn groupby_count_named(b: &StreamsBuilder) {
    by_first(&input(b), "by-letter").count("letters").to_stream().to("out");
}

fn reduce_auto(b: &StreamsBuilder) {
    input(b)
        .group_by_key(())
        .try_reduce((), |a, v| Sure::Ok((!is_x(Some(&v))).then(|| cat(&a, &v))))
        .to_stream()
        .to("out");
}

fn groupby_reduce_named(b: &StreamsBuilder) {
    by_first(&input(b), "by-letter")
        .reduce(Materialized::named("red-store").processor("red"), |a, v| cat(&a, &v))
        .to_stream()
        .named("red-stream")
        .to("out");
}

fn aggregate_auto(b: &StreamsBuilder) {
    input(b)
        .group_by_key(())
        .try_aggregate((), String::new, |_, v, a: String| Sure::Ok((!is_x(Some(&v))).then(|| cat(&a, &v))))
        .to_stream()
        .to("out");
}

fn aggregate_named(b: &StreamsBuilder) {
    input(b)
        .group_by_key(())
        .try_aggregate(
            Materialized::named("sums").processor("sum"),
            || 0i64,
            |_, v, a| Sure::Ok((!is_x(Some(&v))).then(|| a.wrapping_add(num(Some(&v))))),
        )
        .to_stream()
        .to("out");
}

fn count_inmemory_nolog_named(b: &StreamsBuilder) {
    input(b).group_by_key(()).count(Materialized::named("mem").logging_disabled()).to_stream().to("out");
}

fn groupby_two_aggs_auto(b: &StreamsBuilder) {
    let grouped = by_first(&input(b), ());
    grouped.count(()).to_stream().to("counts");
    grouped.aggregate((), String::new, |_, v, a| cat(&a, &v)).to_stream().to("texts");
}

fn groupby_two_aggs_named(b: &StreamsBuilder) {
    let grouped = by_first(&input(b), "shared");
    grouped.count("c-store").to_stream().to("counts");
    grouped.aggregate("t-store", String::new, |_, v, a| cat(&a, &v)).to_stream().to("texts");
}

fn repartition_auto(b: &StreamsBuilder) {
    input(b).repartition(()).try_map_values(|_, v| Sure::Ok(Some(str(v.as_ref()) + "r"))).to("out");
}

fn repartition_count_named(b: &StreamsBuilder) {
    input(b)
        .try_select_key(|_, v| Sure::Ok(first(v)))
        .named("rekey")
        .repartition("rp")
        .group_by_key(())
        .count("rp-count")
        .to_stream()
        .to("out");
}

fn to_table_auto(b: &StreamsBuilder) {
    input(b).to_table(()).to_stream().to("out");
}

fn rekey_to_table_auto(b: &StreamsBuilder) {
    input(b).try_select_key(|_, v| Sure::Ok(first(v))).to_table(()).to_stream().to("out");
}

fn count_of_counts_auto(b: &StreamsBuilder) {
    input(b)
        .group_by_key(())
        .count(())
        .to_stream()
        .try_map(|k: Option<String>, n: Option<i64>| Sure::Ok((Some(str(n.as_ref())), k)))
        .group_by_key(())
        .aggregate((), String::new, |_, v, a| cat(&a, &v))
        .to_stream()
        .to("out");
}
