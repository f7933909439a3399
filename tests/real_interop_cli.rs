//! The command line as somebody meets it who gets everything wrong: each message names the thing and what to do, the exit
//! code is 2 for a wrong argument and 1 for a failure, and nothing is done half.
#![allow(clippy::unwrap_used, reason = "that is how a test fails")]

mod common;

use std::io::Write;
use std::process::{Command, Stdio};

use common::{broker, connect, topic, unique};

fn run(broker: &str, arguments: &[&str], input: &str) -> (i32, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_mainstem"))
        .args(["--bootstrap", broker])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that refuses its arguments does not read its input.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().expect("it ends by itself"), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn whatever_is_wrong_is_named_with_its_remedy() {
    let broker = broker("whatever_is_wrong_is_named_with_its_remedy");
    let cluster = connect(&broker).await;
    let (three, one) = (topic(&cluster, "three", 3).await, topic(&cluster, "one", 1).await);
    let (three, one, nowhere) = (three.as_str(), one.as_str(), &*unique("nowhere"));
    let missing: &[&str] = &[nowhere, "does not exist", "mainstem topics create"];
    let cases: &[(i32, &[&str], &str, &[&str])] = &[
        (2, &["topics", "create"], "", &["<TOPIC>"]),
        (2, &["topics", "create", nowhere, "--config", "foo"], "", &["\"foo\" is not NAME=VALUE"]),
        (1, &["topics", "create", "a/b"], "", &["a/b", "a-z, A-Z, 0-9"]),
        (1, &["topics", "create", nowhere, "--partitions", "0"], "", &[nowhere, "at least one partition"]),
        (
            1,
            &["topics", "create", nowhere, "--replication", "99"],
            "",
            &[nowhere, "-1 for the broker's default"],
        ),
        (1, &["topics", "create", nowhere, "--config", "foo=1"], "", &["Unknown topic config name: foo"]),
        (1, &["topics", "create", three], "", &[three, "exists already"]),
        (0, &["topics", "create", three, "--if-not-exists"], "", &[]),
        (1, &["topics", "describe", nowhere], "", missing),
        (1, &["topics", "delete", nowhere], "", missing),
        (1, &["topics", "configs", nowhere], "", missing),
        (1, &["topics", "configs", one, "--set", "retention.ms=soon"], "", &["Not a number of type LONG"]),
        (1, &["topics", "configs", one, "--reset", "retention"], "", &["no config \"retention\"", "--all"]),
        (1, &["topics", "add-partitions", three, "--to", "2"], "", &[three, "never fewer than before"]),
        (
            1,
            &["topics", "delete-records", one, "--before", "99"],
            "",
            &[one, "none of the log's", "topics describe"],
        ),
        (
            1,
            &["topics", "delete-records", one, "--partition", "7"],
            "",
            &[one, "partition 7", "the topic has 1"],
        ),
        (1, &["produce", nowhere], "", missing),
        (1, &["produce", nowhere], "a\n", missing),
        (1, &["produce", three, "--partition", "9"], "a\n", &["partitions 0 to 2", "partition 9"]),
        (1, &["produce", one, "--key-separator", "="], "a\n", &["no key separator \"=\": a"]),
        (2, &["produce", one, "--key-separator", ""], "a\n", &["--key-separator"]),
        (1, &["produce", one, "--compression", "brotli"], "a\n", &["brotli", "gzip, snappy, lz4 and zstd"]),
        (1, &["produce", one, "--timestamp", "99999999999999"], "a\n", &["message.timestamp.after.max.ms"]),
        (
            1,
            &["produce", one, "--file", "/nowhere/at/all"],
            "",
            &["cannot open /nowhere/at/all", "No such file"],
        ),
        (1, &["consume", nowhere, "--from-beginning"], "", missing),
        (1, &["consume", three, "--partition", "9", "--until-end"], "", &["partition 9", "the topic has 3"]),
        (1, &["consume", one, "--offset", "1000", "--until-end"], "", &["beyond the end", "offset 1000"]),
        (1, &["consume", one, "--offset=-5", "--until-end"], "", &["not in the log, which has 0 to 0"]),
        (2, &["consume", one, "--print", "colour"], "", &["colour", "timestamp"]),
        (2, &["consume", one, "--offset", "1", "--from-beginning"], "", &["cannot be used with"]),
        (1, &["copy", "--from", nowhere, "--to", one], "", missing),
        (1, &["copy", "--from", one, "--to", nowhere], "", missing),
        (1, &["copy", "--from", one, "--to", one], "", &["onto itself", "--to"]),
        (1, &["copy", "--from", three, "--to", one], "", &["has 1 partitions", "add-partitions"]),
    ];
    for (code, arguments, input, words) in cases {
        let (got, out, err) = run(&broker, arguments, input);
        assert_eq!(got, *code, "{arguments:?}: {out} {err}");
        for word in *words {
            assert!(err.contains(word), "{arguments:?}: no {word:?} in {err}");
        }
        assert!(*code == 0 || out.is_empty(), "{arguments:?}: {out}");
        // The first line says what is wrong with what: no dump of Rust's.
        assert!(*code == 0 || err.starts_with("error: "), "{arguments:?}: {err}");
    }
    // What was refused has left nothing behind.
    let (_, out, _) = run(&broker, &["consume", one, "--from-beginning", "--until-end"], "");
    assert_eq!(out, "");
}

#[test]
fn a_wrong_address_is_named_with_its_cause() {
    for (address, words) in [
        ("localhost", &["\"localhost\"", "host:port"][..]),
        ("", &["bootstrap.servers is empty"]),
        ("http://localhost:9092", &["http://localhost:9092", "host:port"]),
        ("127.0.0.1:1,[::1]:2", &["127.0.0.1:1: no connection", "[::1]:2: no connection"]),
        ("no-such-host.invalid:9092", &["no-such-host.invalid:9092"]),
    ] {
        let (code, out, err) = run(address, &["topics", "list"], "");
        assert_eq!((code, out.as_str()), (1, ""), "{address}: {err}");
        for word in words {
            assert!(err.contains(word), "{address}: no {word:?} in {err}");
        }
    }
}
