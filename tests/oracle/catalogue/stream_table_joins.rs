//! Joins of streams with tables.

use mainstem::prelude::*;

use crate::functions::{Sure, first, is_x, join, str};

topologies! {
    st_inner_auto;
    st_left_named;
    st_inner_repartition_auto;
    st_left_repartition_named;
    st_inner_count_auto;
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
