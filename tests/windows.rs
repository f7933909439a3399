//! Windows against models that know nothing of stores: every record is held against every other.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstem::prelude::*;
use mainstem::testing::TopologyTestDriver;
use proptest::prelude::*;

type Counts = Vec<(String, i64, i64, Option<i64>)>;

fn ms(millis: i64) -> Duration {
    Duration::from_millis(millis.unsigned_abs())
}

fn key(key: u8) -> String {
    format!("k{key}")
}

/// Counts the records in the windows, and shows what went out: key, start, end, count.
fn counted(
    table: impl Fn(KGroupedStream<String, String>) -> KTable<Windowed<String>, i64>,
    records: &[(u8, i64)],
    serde: impl Serde<Windowed<String>>,
) -> Counts {
    let builder = StreamsBuilder::new();
    table(builder.stream("in").group_by_key("g")).to_stream().to("out");
    let mut driver = TopologyTestDriver::new(&builder.build().expect("the topology is sound"))
        .expect("the record is processed");
    let input = driver.input_topic::<String, String>("in");
    let output = driver.output_topic_with::<Windowed<String>, i64>("out", serde, LongSerde);
    for (k, at) in records {
        input.pipe(&mut driver, Record::new(key(*k), "x".to_owned(), *at)).expect("the record is processed");
    }
    let all = output.read_all(&mut driver).expect("the driver works");
    let row = |r: Record<Windowed<String>, i64>| {
        let Windowed { key, window } = r.key.expect("results have keys");
        (key, window.start, window.end, r.value)
    };
    all.into_iter().map(row).collect()
}

/// Times that go on by and large, with records that are late.
fn records() -> impl Strategy<Value = Vec<(u8, i64)>> {
    proptest::collection::vec((0u8..3, 0i64..12, -80i64..1), 1..60).prop_map(|steps| {
        let mut now = 200;
        steps
            .into_iter()
            .map(|(key, on, late)| {
                now += on;
                (key, now + late)
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn hopping_windows_count_what_is_in_them(records in records(), size in 1i64..60, parts in 1i64..5, grace in 0i64..50) {
        let advance = (size / parts).max(1);
        let windows = Hopping::of(ms(size), ms(advance)).grace(ms(grace));
        let serde = TimeWindowedSerde::of_size(StringSerde, ms(size));
        let got = counted(move |g| g.windowed_by(windows).count("s"), &records, serde);
        let (mut now, mut counts, mut want) = (-1, BTreeMap::new(), Vec::new());
        for (k, at) in &records {
            now = now.max(*at);
            for start in (0..=*at).filter(|start| start % advance == 0 && start + size > *at) {
                if start + size > now - grace {
                    let count = counts.entry((*k, start)).or_insert(0);
                    *count += 1;
                    want.push((key(*k), start, start + size, Some(*count)));
                }
            }
        }
        prop_assert_eq!(got, want);
    }

    #[test]
    fn final_results_are_the_last_of_every_window_that_has_closed(records in records(), size in 1i64..60, grace in 0i64..50) {
        let windows = Tumbling::of(ms(size)).grace(ms(grace));
        let serde = TimeWindowedSerde::of_size(StringSerde, ms(size));
        let updates = counted(move |g| g.windowed_by(windows).count("s"), &records, serde);
        // Longer than all times: a window is lost only to a store that has forgotten it.
        let kept = Materialized::named("s").retention(ms(100_000));
        let kept = std::sync::Mutex::new(Some(kept));
        let on_close = move |g: KGroupedStream<String, String>| {
            let kept = kept.lock().unwrap().take().unwrap();
            g.windowed_by(windows).emit_strategy(EmitStrategy::OnWindowClose).count(kept)
        };
        let serde = TimeWindowedSerde::of_size(StringSerde, ms(size));
        let mut got = counted(on_close, &records, serde);
        let serde = TimeWindowedSerde::of_size(StringSerde, ms(size));
        let suppressed = |g: KGroupedStream<String, String>| {
            let close = Suppressed::until_window_closes(BufferConfig::unbounded()).named("f");
            g.windowed_by(windows).count("s").suppress(close)
        };
        let mut suppressed = counted(suppressed, &records, serde);
        let now = records.iter().map(|(_, at)| *at).max().unwrap();
        let last: BTreeMap<_, _> = updates.into_iter().map(|(k, start, end, n)| ((k, start, end), n)).collect();
        let want: Counts = last.into_iter().filter(|((_, _, end), _)| *end <= now - grace)
            .map(|((k, start, end), n)| (k, start, end, n)).collect();
        got.sort();
        suppressed.sort();
        prop_assert_eq!(&got, &want);
        prop_assert_eq!(&suppressed, &want);
    }

    #[test]
    fn sliding_windows_count_records_that_are_close(records in records(), difference in 1i64..50) {
        // Nothing is too late, so that only the records' times matter.
        let windows = Sliding::of(ms(difference)).grace(ms(10_000));
        let serde = TimeWindowedSerde::of_size(StringSerde, ms(difference));
        let got = counted(move |g| g.windowed_by(windows).count("s"), &records, serde);
        let got: BTreeMap<_, _> = got.into_iter().map(|(k, start, _, n)| ((k, start), n.unwrap())).collect();
        let mut want = BTreeMap::new();
        for (k, at) in &records {
            for start in [at - difference, at + 1] {
                let inside = records.iter().filter(|(other, t)| other == k && (start..=start + difference).contains(t));
                let count = inside.count() as i64;
                if count > 0 {
                    want.insert((key(*k), start), count);
                }
            }
        }
        prop_assert_eq!(got, want);
    }

    #[test]
    fn sessions_are_records_with_no_gap_between(records in records(), gap in 1i64..40, grace in 0i64..50) {
        let windows = Session::with_gap(ms(gap)).grace(ms(grace));
        // Kept for longer than they have to be, or a session at the very edge would not be found (as in Java).
        let kept = std::sync::Mutex::new(Some(Materialized::named("s").retention(ms(100_000))));
        let table = move |g: KGroupedStream<String, String>| {
            let kept = kept.lock().unwrap().take().unwrap();
            g.windowed_by(windows).count(kept)
        };
        let got = counted(table, &records, SessionWindowedSerde::new(StringSerde));
        let mut now = -1;
        let mut sessions: BTreeMap<u8, Vec<(i64, i64, i64)>> = BTreeMap::new();
        let mut want = Vec::new();
        for (k, at) in &records {
            now = now.max(*at);
            let of_key = sessions.entry(*k).or_default();
            let near = |(start, end, _): &(i64, i64, i64)| *end >= at - gap && *start <= at + gap;
            let (merged, rest): (Vec<_>, Vec<_>) = of_key.drain(..).partition(near);
            let start = merged.iter().map(|s| s.0).min().unwrap_or(*at).min(*at);
            let end = merged.iter().map(|s| s.1).max().unwrap_or(*at).max(*at);
            if end < now - grace - gap {
                *of_key = merged.into_iter().chain(rest).collect();
                of_key.sort_by_key(|s| s.1);
                continue;
            }
            let count: i64 = merged.iter().map(|s| s.2).sum::<i64>() + 1;
            if (start, end) != (*at, *at) {
                want.extend(merged.iter().map(|s| (key(*k), s.0, s.1, None)));
            }
            want.push((key(*k), start, end, Some(count)));
            *of_key = rest;
            of_key.push((start, end, count));
            of_key.sort_by_key(|s| s.1);
        }
        prop_assert_eq!(got, want);
    }
}
