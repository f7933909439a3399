//! The oracle's scripts and results, as its JSON lines have them. Bytes are hex.

use std::collections::BTreeMap;
use std::fmt::Write;

use bytes::Bytes;
use mainstem::Headers;
use mainstem::testing::ProducedRecord;
use serde::Deserialize;

#[derive(Deserialize)]
pub(crate) struct Case {
    pub(crate) script: Script,
    pub(crate) expected: Expected,
}

#[derive(Deserialize)]
pub(crate) struct Script {
    pub(crate) id: String,
    pub(crate) topology: String,
    #[serde(default)]
    pub(crate) props: BTreeMap<String, String>,
    pub(crate) steps: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum Step {
    Advance { advance_wall_ms: u64 },
    Pipe(Input),
}

#[derive(Deserialize)]
pub(crate) struct Input {
    pub(crate) topic: String,
    pub(crate) key: Option<String>,
    pub(crate) value: Option<String>,
    pub(crate) ts: i64,
    #[serde(default)]
    pub(crate) headers: Vec<(String, Option<String>)>,
}

#[derive(Deserialize)]
pub(crate) struct Expected {
    pub(crate) describe: String,
    pub(crate) outputs: Vec<Vec<Output>>,
    pub(crate) stores: BTreeMap<String, Vec<Row>>,
    #[serde(default)]
    pub(crate) store_kinds: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) unordered_topics: Vec<String>,
    pub(crate) error: Option<String>,
    pub(crate) error_step: Option<usize>,
}

#[derive(Deserialize, Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Output {
    pub(crate) topic: String,
    pub(crate) partition: Option<i32>,
    pub(crate) key: Option<String>,
    pub(crate) value: Option<String>,
    pub(crate) ts: Option<i64>,
    pub(crate) headers: Vec<(String, Option<String>)>,
}

/// A row of a store: its cells are hex texts or numbers, by the kind of the store.
pub(crate) type Row = Vec<serde_json::Value>;

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

pub(crate) fn unhex(text: &str) -> Bytes {
    assert!(text.len().is_multiple_of(2), "odd hex: {text}");
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("scripts hold hex"))
        .collect()
}

pub(crate) fn headers(pairs: &[(String, Option<String>)]) -> Headers {
    let mut headers = Headers::new();
    for (name, value) in pairs {
        headers.add(name, value.as_deref().map(unhex).as_deref());
    }
    headers
}

impl From<ProducedRecord> for Output {
    fn from(record: ProducedRecord) -> Self {
        Self {
            topic: record.topic,
            partition: record.partition,
            key: record.key.as_deref().map(hex),
            value: record.value.as_deref().map(hex),
            ts: record.timestamp,
            headers: record
                .headers
                .iter()
                .map(|header| (header.key().into_owned(), header.value().map(hex)))
                .collect(),
        }
    }
}

/// A hex text as text where it is one, for messages.
pub(crate) fn readable(hex: Option<&String>) -> String {
    let Some(hex) = hex else { return "null".to_owned() };
    match String::from_utf8(unhex(hex).to_vec()) {
        Ok(text) if !text.chars().any(char::is_control) => format!("{text:?}"),
        _ => format!("0x{hex}"),
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (key, value) = (readable(self.key.as_ref()), readable(self.value.as_ref()));
        write!(f, "{}: {key} -> {value} @ {:?}", self.topic, self.ts)?;
        if let Some(partition) = self.partition {
            write!(f, " in partition {partition}")?;
        }
        for (name, value) in &self.headers {
            write!(f, " {name}={}", readable(value.as_ref()))?;
        }
        Ok(())
    }
}
