//! Tables of topics.

use mainstem::prelude::*;

topologies! {
    table_source_auto;
    table_source_named;
}

fn table_source_auto(b: &StreamsBuilder) {
    b.table::<String, String>("in", ()).to_stream().to("out");
}

fn table_source_named(b: &StreamsBuilder) {
    b.table(Consumed::<String, String>::topic("in").named("src"), "src-store")
        .to_stream()
        .named("ts")
        .to("out");
}
