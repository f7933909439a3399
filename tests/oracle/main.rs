//! The golden scripts of the oracle, byte for byte: what Kafka Streams 4.3.1 produced (sinks, repartition topics,
//! changelogs), kept and described, step by step.

mod catalogue;
mod compare;
mod functions;
mod run;
mod script;

use run::Entry;

pub(crate) fn all() -> impl Iterator<Item = &'static Entry> {
    catalogue::GROUPS.iter().copied().flatten()
}

pub(crate) fn entry(name: &str) -> Option<&'static Entry> {
    all().find(|entry| entry.name == name)
}

/// Whoever asks for a topology gets it run, or an error.
#[test]
fn everything_asked_for_is_known() {
    for pattern in run::filter() {
        assert!(
            all().any(|entry| run::matches(&pattern, entry.name)),
            "MAINSTEM_ORACLE_FILTER asks for {pattern}, which is no topology of the catalogue"
        );
    }
    let folder = run::folder();
    let files = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let names: Vec<String> = files
        .filter_map(|file| file.expect("the folder can be listed").file_name().into_string().ok())
        .filter_map(|file| {
            let name = file.strip_suffix(".jsonl.gz").or(file.strip_suffix(".jsonl"));
            name.map(str::to_owned)
        })
        .collect();
    let unknown: Vec<&String> =
        names.iter().filter(|name| run::asked_for(name) && entry(name).is_none()).collect();
    assert!(
        unknown.is_empty(),
        "{} holds topologies that the catalogue lacks: {unknown:?}",
        folder.display()
    );
    let missing: Vec<&str> = all()
        .map(|entry| entry.name)
        .filter(|name| run::asked_for(name) && !names.iter().any(|file| file == name))
        .collect();
    if std::env::var_os("MAINSTEM_ORACLE_DIR").is_none() {
        assert!(missing.is_empty(), "the fixtures lack {missing:?}");
    }
    assert!(missing.len() < all().count(), "{} holds no script for what is asked for", folder.display());
}
