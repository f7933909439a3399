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
