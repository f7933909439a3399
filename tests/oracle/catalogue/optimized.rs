//! Repartition topics with and without the optimizer.

use mainstem::prelude::*;

use crate::functions::{Sure, cat, first, is_x};

topologies! {
    opt_merge_off_auto;
}

fn opt_merge_off_auto(b: &StreamsBuilder) {
    let stream = b.stream::<String, String>("in").try_select_key(|_, v| Sure::Ok(first(v)));
    stream.group_by_key(()).count(()).to_stream().to("counts");
    stream
        .try_filter(|_, v| Sure::Ok(!is_x(v)))
        .group_by_key(())
        .reduce((), |a, v| cat(&a, &v))
        .to_stream()
        .to("texts");
}
