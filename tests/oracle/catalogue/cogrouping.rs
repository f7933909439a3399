//! Several streams in one aggregate.

use mainstem::prelude::*;

use crate::functions::{Sure, cat, first, is_x, num, str};

topologies! {
    cogroup_auto;
    cogroup_named;
    cogroup_repartition_auto;
}

type Grouped = KGroupedStream<String, String>;

fn input(b: &StreamsBuilder, topic: &str) -> Grouped {
    b.stream::<String, String>(topic).group_by_key(())
}

fn cogroup_auto(b: &StreamsBuilder) {
    let (one, two) = (input(b, "in1"), input(b, "in2"));
    one.try_cogroup(|_, v: String, a: String| Sure::Ok((!is_x(Some(&v))).then(|| cat(&a, &v))))
        .cogroup(&two, |_, v, a| cat(&a, &format!("R{}", str(Some(&v)))))
        .aggregate((), String::new)
        .to_stream()
        .to("out");
}

fn cogroup_named(b: &StreamsBuilder) {
    let one = input(b, "in1");
    let two = b.stream::<String, String>("in2").try_group_by("by-letter", |_, v| Sure::Ok(first(v)));
    let three = input(b, "in3");
    one.cogroup(|_, v, a: i64| a.wrapping_add(num(Some(&v))))
        .cogroup(&two, |_, _, a| a + 100)
        .try_cogroup(&three, |_, v, a| Sure::Ok((!is_x(Some(&v))).then(|| a + 10000)))
        .aggregate(Materialized::named("co-store").processor("co"), || 0)
        .to_stream()
        .to("out");
}

fn cogroup_repartition_auto(b: &StreamsBuilder) {
    let one = b.stream::<String, String>("in1").try_group_by((), |_, v| Sure::Ok(first(v)));
    let two = b.stream::<String, String>("in2").try_group_by("second", |_, v| Sure::Ok(first(v)));
    one.cogroup(|_, v, a: String| cat(&a, &v))
        .cogroup(&two, |_, v, a| cat(&a, &format!("R{}", str(Some(&v)))))
        .aggregate((), String::new)
        .to_stream()
        .to("out");
}
