//! Joins of tables.

use std::time::Duration;

use mainstem::prelude::*;

use crate::functions::{Sure, first, fk, is_x, join};

topologies! {
    tt_inner_auto;
    tt_inner_named;
    tt_left_auto;
    tt_left_named;
    tt_outer_auto;
    tt_outer_named;
    tt_chain_auto;
    tt_counts_auto;
    tt_self_auto;
    fk_inner_auto;
    fk_left_named;
    fk_inner_keyvalue_named;
    fk_left_count_auto;
    fk_left_versioned_named;
    tt_versioned_named;
}

type Table = KTable<String, String>;

fn left(b: &StreamsBuilder) -> Table {
    b.table("left", ())
}

fn right(b: &StreamsBuilder) -> Table {
    b.table("right", ())
}

fn both(a: String, c: String) -> String {
    join(Some(&a), Some(&c))
}

fn tt_inner_auto(b: &StreamsBuilder) {
    left(b).join(&right(b), both).to_stream().to("out");
}

fn tt_inner_named(b: &StreamsBuilder) {
    let (left, right): (Table, Table) = (b.table("left", "lt"), b.table("right", "rt"));
    left.join(&right, both).named("ttj").materialized("ttj-store").to_stream().to("out");
}

fn tt_left_auto(b: &StreamsBuilder) {
    left(b).left_join(&right(b), |a, c| join(Some(&a), c.as_ref())).to_stream().to("out");
}

fn tt_left_named(b: &StreamsBuilder) {
    left(b)
        .try_left_join(&right(b), |_, a, c| Sure::Ok((!is_x(Some(&a))).then(|| join(Some(&a), c.as_ref()))))
        .named("ttl")
        .materialized("ttl-store")
        .to_stream()
        .to("out");
}

fn tt_outer_auto(b: &StreamsBuilder) {
    left(b).outer_join(&right(b), |a, c| join(a.as_ref(), c.as_ref())).to_stream().to("out");
}

fn tt_outer_named(b: &StreamsBuilder) {
    left(b)
        .outer_join(&right(b), |a, c| join(a.as_ref(), c.as_ref()))
        .named("tto")
        .materialized("tto-store")
        .to_stream()
        .to("out");
}

fn tt_chain_auto(b: &StreamsBuilder) {
    let joined = left(b).join(&right(b), both);
    let third = b.table::<String, String>("third", ()).filter(|_, v| !is_x(Some(v)));
    joined
        .left_join(&third, |a, c| join(Some(&a), c.as_ref()))
        .group_by((), |_, v| ("all".to_owned(), v.clone()))
        .count(())
        .to_stream()
        .to("out");
}

fn tt_counts_auto(b: &StreamsBuilder) {
    let left = b.stream::<String, String>("left").group_by_key(()).count(());
    let right = b.stream::<String, String>("right").try_group_by((), |_, v| Sure::Ok(first(v))).count(());
    left.outer_join(&right, |n, m| join(n.as_ref(), m.as_ref())).to_stream().to("out");
}

fn tt_self_auto(b: &StreamsBuilder) {
    let table = left(b);
    table.join(&table, both).to_stream().to("out");
}

fn fk_inner_auto(b: &StreamsBuilder) {
    let (left, right) = (left(b), right(b));
    left.try_join_on(&right, (), (), |_, v| Sure::Ok(fk(v)), |_, a, c| Sure::Ok(Some(both(a, c))))
        .to_stream()
        .to("out");
}

fn fk_left_named(b: &StreamsBuilder) {
    let (left, right) = (left(b), right(b));
    left.try_left_join_on(
        &right,
        "fkl",
        "fkl-store",
        |_, v| Sure::Ok(fk(v)),
        |_, a, c| Sure::Ok(Some(join(Some(&a), c.as_ref()))),
    )
    .to_stream()
    .to("out");
}

fn fk_inner_keyvalue_named(b: &StreamsBuilder) {
    let (left, right): (Table, Table) = (b.table("left", "lt"), b.table("right", "rt"));
    left.try_join_on(
        &right,
        "fkk",
        (),
        |k, v| Sure::Ok(fk(v).filter(|_| k != "aa")),
        |_, a, c| Sure::Ok(Some(both(a, c))),
    )
    .to_stream()
    .to("out");
}

fn fk_left_count_auto(b: &StreamsBuilder) {
    let (left, right) = (left(b), right(b));
    left.try_left_join_on(
        &right,
        (),
        (),
        |_, v| Sure::Ok(fk(v)),
        |_, a, c| Sure::Ok(Some(join(Some(&a), c.as_ref()))),
    )
    .group_by((), |_, v: &String| {
        let from = v.rfind('&').map_or(0, |at| at + 1);
        (v[from..v.len() - 1].to_owned(), v.clone())
    })
    .count(())
    .to_stream()
    .to("out");
}

fn versioned(b: &StreamsBuilder, topic: &str, store: &str) -> Table {
    b.table(topic, Materialized::named(store).versioned(Duration::from_millis(300)))
}

fn fk_left_versioned_named(b: &StreamsBuilder) {
    let (left, right) = (versioned(b, "left", "lv"), versioned(b, "right", "rv"));
    left.try_left_join_on(
        &right,
        (),
        (),
        |_, v| Sure::Ok(fk(v)),
        |_, a, c| Sure::Ok(Some(join(Some(&a), c.as_ref()))),
    )
    .to_stream()
    .to("out");
}

fn tt_versioned_named(b: &StreamsBuilder) {
    let (left, right) = (versioned(b, "left", "lv"), versioned(b, "right", "rv"));
    left.join(&right, both).to_stream().to("out");
}
