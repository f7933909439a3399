//! Who may use whom: the rooms of the house, and the arrows between them (docs/DESIGN.md, section 3).
//!
//! Every `crate::room` in `src/` is an arrow, tests beside the code excepted. A new arrow is a decision: draw it here.

use std::fs;
use std::path::{Path, PathBuf};

/// For all.
const LEAVES: &[&str] = &["clock", "config", "error", "record", "serde", "task_id"];

/// What each room may use beside the leaves and itself.
const ARROWS: &[(&str, &[&str])] = &[
    ("clock", &[]),
    ("config", &[]),
    ("error", &[]),
    ("record", &[]),
    ("serde", &[]),
    ("task_id", &[]),
    // The log, and whose it is.
    ("client", &[]),
    ("group", &["client"]),
    // What runs, how it is said, the work, and its state: no I/O, no group.
    ("topology", &["store", "task"]),
    ("dsl", &["store", "task", "topology"]),
    ("task", &["store"]),
    ("store", &["task"]),
    ("query", &["store"]),
    ("testing", &["changelog", "dsl", "query", "store", "task", "topology"]),
    // What joins the two sides.
    ("schema", &["client"]),
    ("changelog", &["client", "store", "task", "topology"]),
    ("runtime", &["changelog", "client", "group", "query", "schema", "store", "task", "topology"]),
    ("embedded", &["client"]),
    ("collect", &["client"]),
    ("fuzz", &["changelog", "client", "embedded", "group", "runtime", "store"]),
];

/// The files that see everything: the map and the binaries.
const ROOTS: &[&str] = &["lib", "bin"];

/// The room of a file below `src/`.
fn room(path: &Path) -> String {
    let first = path.iter().next().expect("a file has a name").to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// Whether the file is a test beside the code.
fn is_test(path: &Path) -> bool {
    path.iter().skip(1).any(|part| part == "tests" || part == "tests.rs")
}

/// The code of a text: no comments, and nothing from the tests at its end.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let tests = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    text[..tests].lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// The rooms that a text names after `crate::`, alone or in braces, with the lines where.
fn arrows(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    // Depth of the braces after `use crate::{`, which may go over several lines; rooms stand at depth 1.
    let mut depth = 0usize;
    for (at, line) in code(text) {
        let mut rest = line;
        loop {
            if depth == 0 {
                let Some(start) = rest.find("crate::") else { break };
                // `mainstem_crate::x` and the like are no paths of this crate.
                let joined = rest[..start].ends_with(|c: char| c.is_alphanumeric() || c == '_');
                rest = &rest[start + "crate::".len()..];
                if joined {
                    continue;
                }
                match rest.strip_prefix('{') {
                    Some(inner) => (depth, rest) = (1, inner),
                    None => {
                        found.push((at + 1, name(rest)));
                        continue;
                    }
                }
            }
            if depth == 1 {
                let word = name(rest.trim_start());
                if !word.is_empty() {
                    found.push((at + 1, word));
                }
            }
            // To the end of this item of the list.
            let end = rest.find(['{', '}', ',']);
            let Some(end) = end else { break };
            match rest.as_bytes()[end] {
                b'{' => depth += 1,
                b'}' => depth -= 1,
                _ => {}
            }
            rest = &rest[end + 1..];
            // Behind a closed inner list comes a comma, not a name.
            if depth == 1 && rest.trim_start().is_empty() {
                break;
            }
        }
    }
    found
}

/// The identifier that a text starts with.
fn name(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Arrows that nobody has drawn. `files` are paths below `src/` and their texts.
fn offences(files: &[(PathBuf, String)]) -> Vec<String> {
    let rooms: Vec<String> = files.iter().map(|(path, _)| room(path)).collect();
    let mut offences = Vec::new();
    for ((path, text), from) in files.iter().zip(&rooms) {
        if ROOTS.contains(&from.as_str()) || is_test(path) {
            continue;
        }
        let Some((_, allowed)) = ARROWS.iter().find(|(room, _)| room == from) else {
            offences.push(format!(
                "src/{}: the room {from} is not on the map of tests/arrows.rs",
                path.display()
            ));
            continue;
        };
        for (line, to) in arrows(text) {
            let known = rooms.contains(&to);
            let free = to == *from || LEAVES.contains(&to.as_str()) || allowed.contains(&to.as_str());
            if known && !free {
                offences.push(format!("src/{}:{line}: {from} must not use {to}", path.display()));
            }
        }
    }
    offences
}

fn files_below(root: &Path, folder: &Path, files: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(folder).expect("src/ can be listed") {
        let path = entry.expect("src/ can be listed").path();
        if path.is_dir() {
            files_below(root, &path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let below = path.strip_prefix(root).expect("it was found there").to_owned();
            files.push((below, fs::read_to_string(&path).expect("sources are texts")));
        }
    }
}

#[test]
fn no_arrow_is_new() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    files_below(&root, &root, &mut files);
    assert!(files.len() > 40, "only {} files were found", files.len());
    let offences = offences(&files);
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}

#[test]
fn planted_arrows_are_found() {
    let plant = |path: &str, text: &str| (PathBuf::from(path), text.to_owned());
    let house = |path: &str, text: &str| {
        let rest =
            ["client/mod.rs", "group/mod.rs", "runtime/app.rs", "store/mod.rs", "dsl/mod.rs", "error.rs"];
        let mut files: Vec<_> = rest.iter().map(|path| plant(path, "")).collect();
        files.push(plant(path, text));
        offences(&files)
    };
    assert_eq!(
        house("task/run.rs", "//! A task.\n\nuse crate::client::Cluster;\n"),
        ["src/task/run.rs:3: task must not use client"]
    );
    assert_eq!(
        house("task/run.rs", "use crate::{\n    error::{Error, Result},\n    runtime::App,\n};\n"),
        ["src/task/run.rs:3: task must not use runtime"]
    );
    assert_eq!(
        house("store/x.rs", "use crate::{error::Error, group::{self, Lease}, record::Record};"),
        ["src/store/x.rs:1: store must not use group"]
    );
    assert_eq!(
        house("client/x.rs", "fn f() { let s = crate::store::Layers::new(); }"),
        ["src/client/x.rs:1: client must not use store"]
    );
    assert_eq!(
        house("group/x.rs", "pub(crate) use crate::dsl;"),
        ["src/group/x.rs:1: group must not use dsl"]
    );
    let unknown = "src/attic/mod.rs: the room attic is not on the map of tests/arrows.rs";
    assert_eq!(house("attic/mod.rs", ""), [unknown]);
    // What is no arrow.
    assert_eq!(house("task/run.rs", "// use crate::client::Cluster;\nuse crate::store::Row;"), [""; 0]);
    assert_eq!(house("task/tests/mod.rs", "use crate::dsl::StreamsBuilder;"), [""; 0]);
    assert_eq!(
        house("task/run.rs", "fn f() {}\n#[cfg(test)]\nmod tests {\n    use crate::dsl::X;\n}\n"),
        [""; 0]
    );
    assert_eq!(house("lib.rs", "pub use crate::runtime::App;"), [""; 0]);
    assert_eq!(house("runtime/x.rs", "use crate::client::Cluster;"), [""; 0]);
}
