//! The Java client of Kafka, through scripts/java-client.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::log::{Logs, Rec};

/// Runs a command of scripts/java-client to its end and gives its lines. A failure is one of the test.
fn run(arguments: &[&str], input: String) -> Vec<String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/java-client");
    let mut child = Command::new(script)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("scripts/java-client starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let writing = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().expect("scripts/java-client ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it writes UTF-8");
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "java-client {arguments:?}: {err}");
    writing.join().expect("the writer lives").expect("it reads all input");
    out.lines().map(str::to_owned).collect()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
    (0..text.len()).step_by(2).map(digits).collect()
}

/// Writes records in their order, in one process.
pub(crate) async fn produce(broker: &str, arguments: &[&str], records: &[(String, i32, Rec)]) -> Vec<i64> {
    let field = |bytes: &Option<Vec<u8>>| bytes.as_deref().map(hex);
    let lines = records.iter().map(|(topic, partition, rec)| {
        let headers: Vec<_> = rec.headers.iter().map(|(name, value)| json!([name, field(value)])).collect();
        let line = json!({
            "topic": topic, "partition": partition, "key": field(&rec.key), "value": field(&rec.value),
            "ts": rec.timestamp, "headers": headers,
        });
        format!("{line}\n")
    });
    let input: String = lines.collect();
    let all: Vec<String> =
        ["produce", "--bootstrap", broker].iter().chain(arguments).map(|s| (*s).to_owned()).collect();
    let out =
        tokio::task::spawn_blocking(move || run(&all.iter().map(String::as_str).collect::<Vec<_>>(), input));
    let offset = |line: &String| {
        serde_json::from_str::<Value>(line).expect("JSON")["offset"].as_i64().expect("an offset")
    };
    out.await.expect("it does not panic").iter().map(offset).collect()
}

/// Reads topics from their beginning to their end, in one process.
pub(crate) async fn consume(broker: &str, isolation: &str, topics: &[String]) -> Logs {
    let mut all: Vec<String> =
        ["consume", "--bootstrap", broker, "--isolation", isolation].map(str::to_owned).to_vec();
    all.extend(topics.iter().flat_map(|topic| ["--topic".to_owned(), topic.clone()]));
    let out = tokio::task::spawn_blocking(move || {
        run(&all.iter().map(String::as_str).collect::<Vec<_>>(), String::new())
    });
    let mut logs = Logs::new();
    let field = |value: &Value| value.as_str().map(unhex);
    for line in out.await.expect("it does not panic") {
        let json: Value = serde_json::from_str(&line).expect("JSON");
        let headers = json["headers"].as_array().expect("an array").iter();
        let number = |name: &str| json[name].as_i64().expect("a number");
        let rec = Rec {
            key: field(&json["key"]),
            value: field(&json["value"]),
            timestamp: number("ts"),
            headers: headers
                .map(|header| (header[0].as_str().expect("a name").to_owned(), field(&header[1])))
                .collect(),
        };
        let topic = json["topic"].as_str().expect("a name").to_owned();
        let at = (topic, i32::try_from(number("partition")).expect("a partition"));
        logs.entry(at).or_default().push((number("offset"), rec));
    }
    logs
}

/// The partitions of keys by Java's default partitioner.
pub(crate) fn partitions(keys: &[Vec<u8>], count: i32) -> Vec<i32> {
    let input = keys.iter().map(|key| format!("{}\n", hex(key))).collect();
    let lines = run(&["partition", &count.to_string()], input);
    lines.iter().map(|line| line.parse().expect("a partition")).collect()
}
