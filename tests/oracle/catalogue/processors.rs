//! The Processor API.

use std::time::Duration;

use mainstem::prelude::*;

use crate::functions::{cat, first, is_x, key, str};

topologies! {
    papi_kv_named;
    papi_headers_auto;
    papi_tick_stream_named;
    papi_tick_wall_auto;
    papi_tick_anchored_named;
    papi_metadata_auto;
    papi_rekey_count_auto;
    papi_values_named;
    papi_ranges_auto;
    papi_timestamped_named;
}

type Cx<'a> = Context<'a, String, String>;
type Text = Record<String, String>;

fn store() -> KeyValue<String, String> {
    KeyValue::named("st")
}

fn input(b: &StreamsBuilder) -> KStream<String, String> {
    b.stream("in")
}

/// A processor that is a function of the record.
struct Function(fn(Text, &mut Cx<'_>) -> Outcome);

impl Processor<String, String, String, String> for Function {
    fn process(&mut self, record: Text, cx: &mut Cx<'_>) -> Outcome {
        (self.0)(record, cx)
    }
}

struct Kv(KeyValueStore<String, String>);

impl Processor<String, String, String, String> for Kv {
    fn process(&mut self, record: Text, cx: &mut Cx<'_>) -> Outcome {
        let k = key(record.key.as_ref());
        match record.value.clone() {
            v if is_x(v.as_ref()) => {
                let old = cx.store(&self.0).delete(&k)?;
                cx.forward(record.with_value(format!("deleted {}", str(old.as_ref()))))?;
            }
            None => {
                let old = cx.store(&self.0).put_if_absent(&k, "init".to_owned())?;
                cx.forward(record.with_value(format!("absent {}", str(old.as_ref()))))?;
            }
            Some(v) => {
                let new = cx.store(&self.0).get(&k)?.map_or_else(|| v.clone(), |old| cat(&old, &v));
                cx.store(&self.0).put(&k, new)?;
                let value = cx.store(&self.0).get(&k)?;
                let timestamp = record.timestamp + 1;
                cx.forward(record.with_key(format!("{k}'")).with_value(value).with_timestamp(timestamp))?;
            }
        }
        Ok(())
    }
}

fn papi_kv_named(b: &StreamsBuilder) {
    let st = store();
    b.add_state_store(&st);
    let supplier = {
        let st = st.clone();
        move |stores: &Stores<'_, '_>| Ok(Kv(stores.get(&st)?))
    };
    input(b).process(supplier, &[&st]).named("proc").to("out");
}

fn papi_headers_auto(b: &StreamsBuilder) {
    input(b)
        .process(
            |_| {
                Ok(Function(|record, cx| {
                    let mut more = record.headers.clone();
                    more.add("n", Some(record.headers.len().to_string().as_bytes()));
                    let mut fewer = record.headers.clone();
                    fewer.remove("h1");
                    cx.forward(record.clone().with_headers(more))?;
                    Ok(cx.forward(record.with_headers(fewer))?)
                }))
            },
            &[],
        )
        .to("out");
}

struct Ticker {
    store: KeyValueStore<String, String>,
    kind: PunctuationType,
    start: Option<Timestamp>,
    every: Duration,
    cancel_at_third: bool,
    fired: u32,
}

impl Processor<String, String, String, String> for Ticker {
    fn init(&mut self, cx: &mut Cx<'_>) -> Outcome {
        match self.start {
            None => cx.schedule(self.every, self.kind)?,
            Some(start) => cx.schedule_from(start, self.every, self.kind)?,
        };
        Ok(())
    }

    fn process(&mut self, record: Text, cx: &mut Cx<'_>) -> Outcome {
        Ok(cx.store(&self.store).put(&key(record.key.as_ref()), record.value)?)
    }

    fn punctuate(&mut self, token: Token, at: Timestamp, cx: &mut Cx<'_>) -> Outcome {
        self.fired += 1;
        let place = cx.record_metadata();
        let value = format!(
            "{at}/{}/{}/{}/{},{},{}",
            self.fired,
            cx.current_stream_time_ms(),
            cx.current_system_time_ms(),
            str(place.topic.map(str::to_owned).as_ref()),
            place.partition,
            place.offset,
        );
        cx.forward(Record::new("tick".to_owned(), value, at))?;
        let rows = cx.store(&self.store).all()?;
        for row in rows {
            let (k, v) = row?;
            cx.forward(Record::new(k, v, at))?;
        }
        if self.cancel_at_third && self.fired == 3 {
            cx.cancel(token);
        }
        Ok(())
    }
}

fn tick(
    b: &StreamsBuilder,
    kind: PunctuationType,
    start: Option<Timestamp>,
    every: u64,
    cancel_at_third: bool,
) -> KStream<String, String> {
    let st = store();
    b.add_state_store(&st);
    let supplier = {
        let st = st.clone();
        move |stores: &Stores<'_, '_>| {
            let every = Duration::from_millis(every);
            Ok(Ticker { store: stores.get(&st)?, kind, start, every, cancel_at_third, fired: 0 })
        }
    };
    input(b).process(supplier, &[&st])
}

fn papi_tick_stream_named(b: &StreamsBuilder) {
    tick(b, PunctuationType::StreamTime, None, 100, false).named("ticker").to("out");
}

fn papi_tick_wall_auto(b: &StreamsBuilder) {
    tick(b, PunctuationType::WallClockTime, None, 1000, true).to("out");
}

fn papi_tick_anchored_named(b: &StreamsBuilder) {
    tick(b, PunctuationType::StreamTime, Some(25), 100, false).named("anchored").to("out");
}

fn papi_metadata_auto(b: &StreamsBuilder) {
    input(b)
        .process(
            |_| {
                Ok(Function(|record, cx| {
                    let place = cx.record_metadata();
                    let value = format!(
                        "{}/{}/{}/{}/{}/{}/{}",
                        str(place.topic.map(str::to_owned).as_ref()),
                        place.partition,
                        place.offset,
                        cx.current_stream_time_ms(),
                        cx.current_system_time_ms(),
                        cx.task_id(),
                        cx.application_id(),
                    );
                    Ok(cx.forward(record.with_value(value))?)
                }))
            },
            &[],
        )
        .to("out");
}

fn papi_rekey_count_auto(b: &StreamsBuilder) {
    input(b)
        .process(
            |_| {
                Ok(Function(|record, cx| {
                    let first = first(record.value.as_ref());
                    Ok(cx.forward(record.with_key(first))?)
                }))
            },
            &[],
        )
        .group_by_key(())
        .count(())
        .to_stream()
        .to("out");
}

struct Previous(KeyValueStore<String, String>);

impl FixedKeyProcessor<String, String, String> for Previous {
    fn process(
        &mut self,
        record: FixedKeyRecord<String, String>,
        cx: &mut FixedKeyContext<'_, String, String>,
    ) -> Outcome {
        if is_x(record.value()) {
            return Ok(());
        }
        let (k, v) = (key(record.key()), record.value().cloned());
        let old = cx.store(&self.0).get(&k)?;
        let timestamp = record.timestamp() + 5;
        let value = format!("{}>{}", str(old.as_ref()), str(v.as_ref()));
        cx.forward(record.with_value(value).with_timestamp(timestamp))?;
        Ok(cx.store(&self.0).put(&k, v)?)
    }
}

fn papi_values_named(b: &StreamsBuilder) {
    let st = store();
    b.add_state_store(&st);
    let supplier = {
        let st = st.clone();
        move |stores: &Stores<'_, '_>| Ok(Previous(stores.get(&st)?))
    };
    input(b).process_values(supplier, &[&st]).named("pv").group_by_key(()).count(()).to_stream().to("out");
}

struct Ranges(KeyValueStore<String, String>);

impl Processor<String, String, String, String> for Ranges {
    fn process(&mut self, record: Text, cx: &mut Cx<'_>) -> Outcome {
        cx.store(&self.0).put(&key(record.key.as_ref()), record.value)?;
        let (a, aa, b) = ("a".to_owned(), "aa".to_owned(), "b".to_owned());
        let st = cx.store(&self.0);
        let scans = [
            ("all", st.all()?),
            ("rall", st.reverse_all()?),
            ("range", st.range(Some(&a), Some(&b))?),
            ("rrange", st.reverse_range(Some(&aa), None)?),
            ("open", st.range(None, Some(&aa))?),
            ("prefix", st.prefix_scan(b"a")?),
        ];
        for (name, scan) in scans {
            let keys: Vec<String> = scan.map(|row| Ok(row?.0)).collect::<Result<_>>()?;
            cx.forward(Record::new(name.to_owned(), keys.join(","), record.timestamp))?;
        }
        Ok(())
    }
}

fn papi_ranges_auto(b: &StreamsBuilder) {
    let st = store();
    b.add_state_store(&st);
    let supplier = {
        let st = st.clone();
        move |stores: &Stores<'_, '_>| Ok(Ranges(stores.get(&st)?))
    };
    input(b).process(supplier, &[&st]).to("out");
}

struct Newest(TimestampedKeyValueStore<String, String>);

impl Processor<String, String, String, String> for Newest {
    fn process(&mut self, record: Text, cx: &mut Cx<'_>) -> Outcome {
        let k = key(record.key.as_ref());
        let old = cx.store(&self.0).get(&k)?;
        let was = old.as_ref().map(|old| format!("{}@{}", old.value, old.timestamp));
        let (now, was) = (str(record.value.as_ref()), str(was.as_ref()));
        if old.is_none_or(|old| old.timestamp <= record.timestamp) {
            let timestamp = record.timestamp;
            let row = record.value.clone().map(|value| ValueAndTimestamp { value, timestamp });
            cx.store(&self.0).put(&k, row)?;
            cx.forward(record.with_value(format!("{now}<-{was}")))?;
        } else {
            cx.forward(record.with_value(format!("stale {now}<{was}")))?;
        }
        Ok(())
    }
}

fn papi_timestamped_named(b: &StreamsBuilder) {
    let st = TimestampedKeyValue::<String, String>::named("st");
    b.add_state_store(&st);
    let supplier = {
        let st = st.clone();
        move |stores: &Stores<'_, '_>| Ok(Newest(stores.get(&st)?))
    };
    input(b).process(supplier, &[&st]).named("tkv").to("out");
}
