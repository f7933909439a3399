//! What a topology refuses, and where it says the mistake is; small things that the golden scripts do not show.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mainstem::prelude::*;
use mainstem::testing::TopologyTestDriver;
use mainstem::{DropReason, ErrorKind};

/// The line after the call, for comparison with what an error says.
macro_rules! here {
    () => {
        format!("{}:{}:", file!(), line!())
    };
}

fn refused(builder: &StreamsBuilder) -> String {
    let error = builder.build().expect_err("the topology is wrong");
    assert_eq!(error.kind(), ErrorKind::Topology);
    error.to_string()
}

fn line_of(error: &str, what: &str) -> String {
    let found = error.lines().find(|line| line.contains(what));
    found.unwrap_or_else(|| panic!("nothing about {what:?} in: {error}")).to_owned()
}

#[test]
fn all_errors_come_at_once_each_with_its_line() {
    let builder = StreamsBuilder::new();
    let a = builder.stream::<String, String>("a");
    let (unnamed, at_unnamed) = (a.group_by_key(()), here!());
    let _ = unnamed;
    let (_, at_count) = (a.group_by_key(()).count(()), here!());
    let (_, at_group) = (a.group_by((), |_, v| v.clone()).count("by-value"), here!());
    let (_, at_repartition) = (a.repartition(()), here!());
    let ((), at_topic) = (a.to("no spaces"), here!());
    let (_, at_node) = (a.map_values(|v| v).named("not/legal"), here!());
    let (_, at_twice) = (builder.stream::<String, i64>("a"), here!());
    let (_, at_table) = (builder.table::<String, String>(Consumed::topics(["b", "c"]), "t"), here!());
    let (_, at_store) = (builder.table::<String, String>("d", "t").to_stream(), here!());
    let error = refused(&builder);
    for (what, at) in [
        ("KSTREAM-AGGREGATE-STATE-STORE-", &at_count),
        ("KSTREAM-REPARTITION-", &at_repartition),
        ("\"no spaces\"", &at_topic),
        ("\"not/legal\"", &at_node),
        ("different types", &at_twice),
        ("exactly one topic", &at_table),
        ("two different stores are named t", &at_store),
    ] {
        let line = line_of(&error, what);
        assert!(line.contains(at), "{what}: {line} is not at {at}");
    }
    assert!(!error.contains(&at_unnamed), "a grouping alone makes nothing: {error}");
    assert!(!error.contains(&at_group), "the store's name serves the repartition topic: {error}");
}

#[test]
fn generated_names_are_refused_with_the_remedy_unless_allowed() {
    let build = |allow: bool| {
        let builder = StreamsBuilder::new();
        if allow {
            builder.allow_generated_names();
        }
        builder.stream::<String, String>("in").select_key(|_, v| v.clone()).to_table(());
        builder.stream::<String, String>("other").group_by_key(()).reduce((), |a, _| a);
        builder.build()
    };
    let error = build(false).unwrap_err().to_string();
    assert_eq!(error.matches("allow_generated_names").count(), 2, "{error}");
    assert_eq!(error.matches(file!()).count(), 2, "{error}");
    build(true).unwrap();
}

#[test]
fn a_topology_that_reads_nothing_is_refused() {
    assert!(refused(&StreamsBuilder::new()).contains("reads no topic"));
}

#[test]
fn streams_of_two_builders_do_not_merge() {
    let (one, two) = (StreamsBuilder::new(), StreamsBuilder::new());
    let (_, at) = (one.stream::<String, String>("a").merge(&two.stream("b")), here!());
    let error = refused(&one);
    assert!(error.contains("two builders") && error.contains(&at), "{error}");
}

#[test]
fn overlapping_sources_are_refused() {
    let builder = StreamsBuilder::new();
    builder.stream::<String, String>(Consumed::topics(["a", "b"])).to("x");
    let (stream, at) = (builder.stream::<String, String>("a"), here!());
    stream.to("y");
    let error = refused(&builder);
    assert!(error.contains("[a, b] and [a]") && error.contains(&at), "{error}");
}

#[test]
fn two_nodes_of_one_name_are_refused() {
    let builder = StreamsBuilder::new();
    let a = builder.stream::<String, String>("a");
    a.map_values(|v| v).named("twin").to("x");
    let (twin, at) = (a.map_values(|v| v), here!());
    twin.named("twin").to("y");
    let error = refused(&builder);
    assert!(error.contains("two nodes are named twin") && error.contains(&at), "{error}");
}

#[test]
fn illegal_names_are_refused_wherever_they_stand() {
    let long = "n".repeat(250);
    for name in ["", ".", "..", "a b", "a/b", "ä", long.as_str()] {
        let builder = StreamsBuilder::new();
        let a = builder.stream::<String, String>("a");
        a.group_by_key(()).count(name);
        a.repartition(name).to("x");
        let _ = a.process::<_, String, String>(|_| Ok(Nothing), &[&KeyValue::<String, String>::named(name)]);
        a.to(Produced::topic("out").named(name));
        builder.table::<String, String>(Consumed::<String, String>::topic("t").named(name), ());
        let error = refused(&builder);
        // The names "." and "..", and the empty one, are legal as parts of a longer one.
        let least = if long == name || name.len() > 2 || name == "ä" { 5 } else { 4 };
        let found = error.matches("is not legal").count();
        assert!(found >= least, "{name:?}: {found} of {least} in {error}");
    }
}

struct Nothing;

impl Processor<String, String, String, String> for Nothing {
    fn process(&mut self, _: Record<String, String>, _: &mut Context<'_, String, String>) -> Outcome {
        Ok(())
    }
}

#[test]
fn two_stores_of_one_name_are_refused_and_one_may_be_shared() {
    let st = KeyValue::<String, String>::named("st");
    let build = |second: &KeyValue<String, String>| {
        let builder = StreamsBuilder::new();
        let a = builder.stream::<String, String>("a");
        a.process(|_| Ok(Nothing), &[&st]).to("x");
        a.process(|_| Ok(Nothing), &[second]).to("y");
        builder.build()
    };
    build(&st.clone()).unwrap();
    let error = build(&KeyValue::named("st")).unwrap_err().to_string();
    assert!(error.contains("two different stores are named st") && error.contains(file!()), "{error}");
}

/// Counts its punctuations; ends with the second.
struct Twice {
    st: Option<KeyValueStore<String, i64>>,
    fired: i64,
}

impl Processor<String, String, String, i64> for Twice {
    fn init(&mut self, cx: &mut Context<'_, String, i64>) -> Outcome {
        cx.schedule(Duration::from_secs(1), PunctuationType::WallClockTime)?;
        cx.schedule(Duration::from_secs(10), PunctuationType::WallClockTime)?;
        Ok(())
    }

    fn process(&mut self, record: Record<String, String>, cx: &mut Context<'_, String, i64>) -> Outcome {
        let (Some(st), Some(key)) = (&self.st, &record.key) else { return Ok(()) };
        cx.store(st).put(key, record.timestamp)
    }

    fn punctuate(&mut self, token: Token, at: Timestamp, cx: &mut Context<'_, String, i64>) -> Outcome {
        self.fired += 1;
        cx.forward(Record::new("fired".to_owned(), self.fired, at))?;
        if self.fired == 2 {
            cx.cancel(token);
        }
        Ok(())
    }
}

#[test]
fn a_store_that_is_not_connected_is_named() {
    let st = KeyValue::<String, i64>::named("st");
    let builder = StreamsBuilder::new();
    builder.add_state_store(&st);
    let supplier = move |stores: &Stores<'_, '_>| Ok(Twice { st: Some(stores.get(&st)?), fired: 0 });
    builder.stream::<String, String>("in").process(supplier, &[]).named("twice").to("out");
    let error = TopologyTestDriver::new(&builder.build().unwrap()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("store st is not connected") && text.contains("pass it to process()"), "{text}");
    assert_eq!(error.node(), Some("twice"));
}

#[test]
fn a_schedule_can_be_cancelled_from_within() {
    let builder = StreamsBuilder::new();
    builder.stream::<String, String>("in").process(|_| Ok(Twice { st: None, fired: 0 }), &[]).to("out");
    let mut driver = TopologyTestDriver::new(&builder.build().unwrap()).unwrap();
    let out = driver.output_topic::<String, i64>("out");
    let mut times = Vec::new();
    for _ in 0..12 {
        driver.advance_wall_clock(Duration::from_secs(1)).unwrap();
        times.extend(out.read_all(&mut driver).unwrap().into_iter().map(|r| (r.timestamp, r.value)));
    }
    assert_eq!(times, [(1_000, Some(1)), (2_000, Some(2)), (10_000, Some(3))], "the other schedule goes on");
}

#[test]
fn drops_are_counted_by_node_and_reason() {
    let builder = StreamsBuilder::new();
    let input = builder.stream::<String, String>("in");
    input.select_key(|_, v| v.clone()).named("rekey").to("out");
    input.group_by_key(()).count(Materialized::named("c").processor("count"));
    input.repartition("again").to("repartitioned");
    let mut driver = TopologyTestDriver::new(&builder.build().unwrap()).unwrap();
    let pipe = driver.input_topic::<String, String>("in");
    for (key, value) in [(None, Some("v")), (Some("k"), None), (None, None), (Some("k"), Some("v"))] {
        let record = Record::new(key.map(str::to_owned), value.map(str::to_owned), 1);
        pipe.pipe(&mut driver, record).unwrap();
    }
    let mut drops = driver.drops();
    drops.sort_by(|a, b| (&a.0, a.1.to_string()).cmp(&(&b.0, b.1.to_string())));
    let drops: Vec<_> = drops.iter().map(|(node, reason, n)| (node.as_str(), *reason, *n)).collect();
    assert_eq!(
        drops,
        [
            ("again-repartition-filter", DropReason::NullKey, 2),
            ("count", DropReason::NullKey, 2),
            ("count", DropReason::NullValue, 1),
            ("rekey", DropReason::NullValue, 2),
        ]
    );
}

#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no test panics while it writes").write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn print_writes_javas_lines_and_draws_javas_number() {
    let page = Page::default();
    let builder = StreamsBuilder::new();
    let input = builder.stream::<String, String>("in");
    input.print(Printed::from(()).writer(page.clone()));
    input.print(Printed::from("words").named("printer").writer(page.clone()));
    let topology = builder.build().unwrap();
    assert!(topology.describe().contains("KSTREAM-PRINTER-0000000001"), "{}", topology.describe());
    assert!(topology.describe().contains("Processor: printer "));
    let mut driver = TopologyTestDriver::new(&topology).unwrap();
    let pipe = driver.input_topic::<String, String>("in");
    pipe.pipe(&mut driver, Record::new(None, "é".to_owned(), 1)).unwrap();
    let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
    assert_eq!(text, "[KSTREAM-SOURCE-0000000000]: null, é\n[words]: null, é\n");
}

#[test]
fn an_unknown_topic_or_store_is_answered_with_the_known_ones() {
    let builder = StreamsBuilder::new();
    builder.table::<String, String>("in", "t").to_stream().to("out");
    let mut driver = TopologyTestDriver::new(&builder.build().unwrap()).unwrap();
    let error = driver.pipe("inn", Record::new(None, None, 1)).unwrap_err();
    assert!(error.to_string().contains("it reads: in"), "{error}");
    assert!(driver.store_rows("x").unwrap_err().to_string().contains("there are: t"));
}

fn config(properties: &[(&str, &str)]) -> mainstem::Config {
    let base = mainstem::Config::builder("test", "unused:9092").state_dir("unused");
    properties.iter().fold(base, |config, (name, value)| config.set(*name, *value)).build().expect("known")
}

#[test]
fn the_configuration_decides_about_records_without_a_timestamp() {
    let run = |policy: &str, wall: u64| {
        let builder = StreamsBuilder::new();
        builder.stream::<String, String>("in").repartition("again").to("out");
        let config = config(&[("default.timestamp.extractor", policy)]);
        let mut driver = TopologyTestDriver::with_config(&builder.build().unwrap(), &config).unwrap();
        driver.advance_wall_clock(Duration::from_millis(wall)).unwrap();
        let input = driver.input_topic::<String, String>("in");
        let output = driver.output_topic::<String, String>("out");
        let record = |timestamp| Record::new("k".to_owned(), "v".to_owned(), timestamp);
        input.pipe(&mut driver, record(70)).unwrap();
        let piped = input.pipe(&mut driver, record(-1));
        let times: Vec<_> = output.read_all(&mut driver).unwrap().iter().map(|r| r.timestamp).collect();
        let drops: u64 = driver.drops().iter().map(|(.., count)| count).sum();
        (piped.map_err(|error| error.kind()), times, drops)
    };
    assert_eq!(run("fail", 0), (Err(ErrorKind::Timestamp), vec![70], 0));
    let skip = "org.apache.kafka.streams.processor.LogAndSkipOnInvalidTimestamp";
    assert_eq!(run(skip, 0), (Ok(()), vec![70], 1));
    assert_eq!(run("partition_time", 0), (Ok(()), vec![70, 70], 0));
    assert_eq!(run("wall_clock", 500), (Ok(()), vec![500, 500], 0));
}

#[test]
fn build_with_follows_the_configuration_and_refuses_what_it_cannot_do() {
    let builder = StreamsBuilder::new();
    builder.stream::<String, String>("in").group_by_key(()).count(()).to_stream().to("out");
    assert!(builder.build().is_err(), "the store has a generated name");
    let relaxed = config(&[("ensure.explicit.internal.resource.naming", "false")]);
    assert!(builder.build_with(&relaxed).is_ok());
    let error = builder.build_with(&config(&[("topology.optimization", "all")])).unwrap_err();
    assert!(error.to_string().contains("topology.optimization=all is not implemented yet"), "{error}");
}

type Table = KTable<String, String>;

fn two_tables(builder: &StreamsBuilder) -> (Table, Table) {
    builder.allow_generated_names();
    (builder.table("left", ()), builder.table("right", ()))
}

#[test]
fn a_join_reads_an_unmaterialized_table_through_the_one_above_it() {
    let builder = StreamsBuilder::new();
    let (left, right) = two_tables(&builder);
    left.map_values(|v| v + "!")
        .filter(|_, v| v.len() > 2)
        .join(&right, |a, b| format!("{a}{b}"))
        .to_stream()
        .to("out");
    let topology = builder.build().unwrap();
    let mut driver = TopologyTestDriver::new(&topology).unwrap();
    // Kafka Streams keeps the two sources, and nothing else.
    let stores: Vec<&str> = driver.stores().collect();
    assert_eq!(stores, ["left-STATE-STORE-0000000000", "right-STATE-STORE-0000000003"]);
    let (left, right) = (driver.input_topic("left"), driver.input_topic("right"));
    let output = driver.output_topic::<String, String>("out");
    let record = |v: &str| Record::new("k".to_owned(), v.to_owned(), 5);
    for (topic, value) in [(&left, "a"), (&right, "x"), (&left, "bb"), (&right, "y"), (&left, "c")] {
        topic.pipe(&mut driver, record(value)).unwrap();
    }
    let values = output.read_all(&mut driver).unwrap().into_iter().map(|r| r.value);
    let expected = [Some("bb!x"), Some("bb!y"), None];
    assert_eq!(values.collect::<Vec<_>>(), expected.map(|v| v.map(str::to_owned)));
    let mut topics: Vec<String> = driver.take_produced().into_iter().map(|r| r.topic).collect();
    topics.dedup();
    assert!(topics.iter().all(|topic| topic.ends_with("-changelog")), "{topics:?}");
}

#[test]
fn a_table_is_kept_once_and_where_it_is_made() {
    let builder = StreamsBuilder::new();
    let (left, right) = two_tables(&builder);
    let (_, at_source) = (left.clone().materialized("again"), here!());
    let (_, at_twice) = (left.filter(|_, _| true).materialized("a").materialized("b"), here!());
    let mapped = left.map_values(|v| v);
    let _ = right.map_values(|v| v);
    let (_, at_late) = (mapped.materialized(()), here!());
    let other = StreamsBuilder::new();
    let (_, at_join) = (left.join(&two_tables(&other).0, |a, _| a), here!());
    let error = refused(&builder);
    for (what, at) in [
        ("where it is made", at_source),
        ("kept already", at_twice),
        ("right behind the operator", at_late),
        ("two builders", at_join),
    ] {
        assert!(line_of(&error, what).contains(&at), "{error}");
    }
}

#[test]
fn with_the_record_cache_on_old_values_are_those_that_went_downstream() {
    let builder = StreamsBuilder::new();
    builder
        .table::<String, String>("in", "rows")
        .group_by("by-value", |_, v| (v.clone(), v.clone()))
        .count("counts")
        .to_stream()
        .to("out");
    let config = mainstem::Config::builder("app", "unused:9092").state_dir("unused").cache_bytes(1 << 20);
    let mut driver =
        TopologyTestDriver::with_config(&builder.build().unwrap(), &config.build().unwrap()).unwrap();
    let input = driver.input_topic::<String, String>("in");
    let output = driver.output_topic::<String, i64>("out");
    for (key, value) in [("1", Some("a")), ("2", Some("a")), ("1", Some("b")), ("2", None), ("1", Some("b"))]
    {
        let record = Record::new(key.to_owned(), value.map(str::to_owned), 7);
        input.pipe(&mut driver, record).unwrap();
    }
    let counts: std::collections::BTreeMap<_, _> = output
        .read_all(&mut driver)
        .unwrap()
        .into_iter()
        .map(|r| (r.key.unwrap(), r.value.unwrap()))
        .collect();
    assert_eq!(counts, [("a".to_owned(), 0), ("b".to_owned(), 1)].into());
}

proptest::proptest! {
    /// What the outputs of all joins say last is what nested loops over the last rows say.
    #[test]
    fn joins_of_tables_are_nested_loops(
        steps in proptest::collection::vec((proptest::bool::ANY, 0u8..4, proptest::option::of(0u8..6)), 1..40),
        kept in proptest::bool::ANY,
    ) {
        let builder = StreamsBuilder::new();
        let (left, right) = two_tables(&builder);
        let left = left.map_values(|v| v + "!");
        let joins = [
            left.join(&right, |a, b| format!("{a}{b}")),
            left.left_join(&right, |a, b| format!("{a}{b:?}")),
            left.outer_join(&right, |a, b| format!("{a:?}{b:?}")),
            left.join(&right, |a, b| format!("{a}{b}")).left_join(&right, |a, b| format!("{a}{b:?}")),
        ];
        for (at, join) in joins.into_iter().enumerate() {
            let join = if kept { join.materialized(&*format!("join-{at}")) } else { join };
            join.to_stream().to(format!("out-{at}"));
        }
        let mut driver = TopologyTestDriver::new(&builder.build().unwrap()).unwrap();
        let inputs = [driver.input_topic::<String, String>("left"), driver.input_topic("right")];
        let mut tables = [const { std::collections::BTreeMap::<String, String>::new() }; 2];
        for (at, (is_left, key, value)) in steps.into_iter().enumerate() {
            let (side, key) = (usize::from(!is_left), format!("k{key}"));
            let value = value.map(|v| format!("v{v}"));
            match &value {
                Some(value) => _ = tables[side].insert(key.clone(), value.clone()),
                None => _ = tables[side].remove(&key),
            }
            inputs[side].pipe(&mut driver, Record::new(key, value, at as i64)).unwrap();
        }
        let mut found = [const { std::collections::BTreeMap::<String, String>::new() }; 4];
        for (at, found) in found.iter_mut().enumerate() {
            let output = driver.output_topic::<String, String>(&format!("out-{at}"));
            for Record { key, value, .. } in output.read_all(&mut driver).unwrap() {
                match value {
                    Some(value) => _ = found.insert(key.unwrap(), value),
                    None => _ = found.remove(&key.unwrap()),
                }
            }
        }
        let mut expected = [const { std::collections::BTreeMap::<String, String>::new() }; 4];
        for key in (0..4).map(|n| format!("k{n}")) {
            let (a, b) = (tables[0].get(&key).map(|a| format!("{a}!")), tables[1].get(&key));
            let mut expect = |at: usize, value: String| expected[at].insert(key.clone(), value);
            if let (Some(a), Some(b)) = (&a, b) {
                expect(0, format!("{a}{b}"));
                expect(3, format!("{a}{b}{:?}", Some(b)));
            }
            if let Some(a) = &a {
                expect(1, format!("{a}{b:?}"));
            }
            if a.is_some() || b.is_some() {
                expect(2, format!("{a:?}{b:?}"));
            }
        }
        proptest::prop_assert_eq!(found, expected);
    }
}
