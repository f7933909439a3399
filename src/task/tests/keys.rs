//! The bytes of a key are reused where they are known, and only there.

use super::*;
use crate::Record;
use crate::dsl::{Consumed, Produced};
use crate::serde::{Serde, SerdeCx, SerdeError, StringSerde};
use crate::topology::{Context, Outcome, Processor};
use bytes::BytesMut;

/// Texts in capitals, in bytes: canonical too, with other bytes than [`StringSerde`].
#[derive(Clone)]
struct Capitals;

impl Serde<String> for Capitals {
    const CANONICAL: bool = true;
    fn write(&self, value: &String, _: &SerdeCx<'_>, out: &mut BytesMut) -> Result<(), SerdeError> {
        out.extend_from_slice(value.to_uppercase().as_bytes());
        Ok(())
    }
    fn read(&self, bytes: &Bytes, _: &SerdeCx<'_>) -> Result<String, SerdeError> {
        Ok(String::from_utf8_lossy(bytes).to_lowercase())
    }
}

/// As [`StringSerde`], but what it reads is not what it would write.
#[derive(Clone)]
struct Trimming;

impl Serde<String> for Trimming {
    const CANONICAL: bool = false;
    fn write(&self, value: &String, _: &SerdeCx<'_>, out: &mut BytesMut) -> Result<(), SerdeError> {
        out.extend_from_slice(value.as_bytes());
        Ok(())
    }
    fn read(&self, bytes: &Bytes, _: &SerdeCx<'_>) -> Result<String, SerdeError> {
        Ok(String::from_utf8_lossy(bytes).trim().to_owned())
    }
}

struct Rename;

impl Processor<String, String, String, String> for Rename {
    fn process(&mut self, record: Record<String, String>, cx: &mut Context<'_, String, String>) -> Outcome {
        let key = record.key.clone().unwrap_or_default();
        cx.forward(record.clone())?;
        cx.forward(record.clone().with_key(format!("{key}!")))?;
        Ok(cx.forward(record)?)
    }
}

#[test]
fn a_new_key_has_new_bytes() {
    let builder = StreamsBuilder::new();
    let input = builder.stream::<String, String>("in");
    // Before the key changes, the bytes are in use: the change must not leave them behind, nor take them from the rest.
    input.to("before");
    input.select_key(|k, _| format!("{}+", k.map_or("", |k| k))).to("selected");
    input.map(|k, v| (format!("{}-", k.map_or("", |k| k)), v)).to("mapped");
    input
        .flat_map(|k, v| [(k.cloned().unwrap_or_default() + "1", v.clone()), ("2".to_owned(), v)])
        .to("flat");
    input.process(|_| Ok(Rename), &[]).to("processed");
    input.map_values(|v| v).to("after");
    let mut rig = Rig::new(&builder, Options::default());
    rig.run(&[(Some("k"), Some("v"), 1)]).unwrap();
    let keys: Vec<_> = rig.taken().into_iter().map(|s| (s.topic, s.key.unwrap_or_default())).collect();
    let expected = [
        ("before", "k"),
        ("selected", "k+"),
        ("mapped", "k-"),
        ("flat", "k1"),
        ("flat", "2"),
        ("processed", "k"),
        ("processed", "k!"),
        ("processed", "k"),
        ("after", "k"),
    ];
    assert_eq!(keys, expected.map(|(t, k)| (t.to_owned(), k.to_owned())));
}

#[test]
fn a_store_behind_a_new_key_counts_the_new_key() {
    // Straight into the store of a task: the way of a processor that answers for its own partitioning.
    let builder = StreamsBuilder::new();
    let table = builder.stream::<String, String>("in").to_table("t");
    table.to_stream().select_key(|_, v| v.clone()).to("out");
    let mut rig = Rig::new(&builder, Options::default());
    rig.run(&[(Some("k"), Some("v"), 1)]).unwrap();
    assert_eq!(rig.texts(), ["app-t-changelog: k=v@1", "out: v=v@1"]);
}

#[test]
fn sources_of_two_serdes_meet_in_one_store() {
    let builder = StreamsBuilder::new();
    let capitals = builder.stream(Consumed::with_serdes(["loud"], Capitals, StringSerde));
    let plain = builder.stream(Consumed::<String, String>::topic("plain"));
    plain.merge(&capitals).group_by_key(()).count("c").to_stream().to(Produced::topic("out"));
    let mut rig = Rig::build(&builder, &[("loud", 0), ("plain", 0)], Options::default()).unwrap();
    rig.push("loud", 0, &[(0, Some("ABC"), Some("x"), 1), (1, Some("ABC"), Some("x"), 3)], 2);
    rig.push("plain", 0, &[(0, Some("abc"), Some("x"), 2)], 1);
    rig.process().unwrap();
    let counts: Vec<_> = rig.counts().into_iter().filter(|l| l.starts_with("out")).collect();
    assert_eq!(counts, ["out: abc=1@1", "out: abc=2@2", "out: abc=3@3"]);
}

#[test]
fn bytes_of_a_serde_that_is_not_canonical_are_not_reused() {
    let builder = StreamsBuilder::new();
    let trimmed = builder.stream(Consumed::<String, String>::with_serdes(["in"], Trimming, StringSerde));
    trimmed.to(Produced::with_serdes("raw", Trimming, StringSerde));
    trimmed.group_by_key(crate::dsl::Grouped::with_serdes(Trimming, StringSerde)).count("c");
    let mut rig = Rig::new(&builder, Options::default());
    rig.run(&[(Some(" k "), Some("v"), 1), (Some("k"), Some("v"), 2)]).unwrap();
    let keys: Vec<_> = rig.taken().into_iter().map(|s| s.key.unwrap_or_default()).collect();
    assert_eq!(keys, ["k", "k", "k", "k"]);
}
