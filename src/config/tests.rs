//! The tables agree with themselves and with docs/CONFIG.md.

use std::collections::HashSet;
use std::fmt::Write;
use std::path::PathBuf;

use super::check::default_state_dir;
use super::properties::known;
use super::section::{Property, Scope};
use super::unused::{Rule, TOPIC, UNUSED};
use super::*;

fn built(settings: &[(&str, &str)]) -> Result<Config> {
    Config::builder("app", "localhost:9092").properties(settings.iter().copied()).build()
}

#[test]
fn every_default_can_be_set() {
    for property in known().filter(|p| !["application.id", "bootstrap.servers"].contains(&p.name)) {
        if let Err(error) = built(&[(property.name, property.default)]) {
            panic!("{}: {error}", property.name);
        }
    }
}

#[test]
fn names_are_unique_and_in_one_table() {
    let mut seen = HashSet::new();
    for name in known().map(|p| p.name).chain(UNUSED.iter().map(|u| u.name)) {
        assert!(seen.insert(name), "{name} is there twice");
        assert!(!name.starts_with("topic.") && !name.starts_with("client.tag."), "{name} reads as a prefix");
    }
    for property in known() {
        assert!(!UNUSED.iter().any(|u| u.matches(property.name)), "{} is used and unused", property.name);
    }
    for unused in UNUSED {
        if let Rule::Renamed(to) = unused.rule {
            let target = known().find(|p| p.name == to).expect(to);
            assert_eq!(target.scope, Scope::Application, "{to}: renaming drops the prefix");
        }
    }
    assert!(TOPIC.is_sorted());
}

#[test]
fn every_property_of_kafka_streams_is_known() {
    // The 74 of StreamsConfig 4.3.1, and those of the consumer, producer and admin client.
    const STREAMS: &str = include_str!("kafka-4.3.1-properties.txt");
    for name in STREAMS.lines().filter(|line| !line.starts_with('#')) {
        let is_known = known().any(|p| p.name == name) || UNUSED.iter().any(|u| u.matches(name));
        assert!(is_known, "{name} is not known");
    }
}

#[test]
fn the_state_folder_is_never_a_temporary_one() {
    let env = |wanted: &'static str| move |name: &str| (name == wanted).then(|| PathBuf::from("/home/me"));
    assert_eq!(default_state_dir(&|_| None), None);
    assert_eq!(default_state_dir(&|_| Some(PathBuf::from("relative"))), None);
    if cfg!(target_os = "linux") {
        assert_eq!(default_state_dir(&env("HOME")).unwrap(), PathBuf::from("/home/me/.local/state/mainstem"));
        assert_eq!(default_state_dir(&env("XDG_STATE_HOME")).unwrap(), PathBuf::from("/home/me/mainstem"));
    }
}

#[test]
fn docs_list_exactly_what_the_code_knows() {
    const MARK: &str = "<!-- generated below -->\n";
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/CONFIG.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (head, tables) = text.split_once(MARK).expect("docs/CONFIG.md has its mark");
    if std::env::var_os("MAINSTEM_BLESS").is_some() {
        std::fs::write(&path, format!("{head}{MARK}{}", rendered())).unwrap();
    } else {
        assert!(
            tables == rendered(),
            "docs/CONFIG.md is out of date: run with MAINSTEM_BLESS=1 to write it again"
        );
    }
}

type Belongs = fn(Rule) -> bool;

fn rendered() -> String {
    let mut out = String::new();
    let code = |text: &str| match text {
        "" => "(not set)".to_owned(),
        _ if text.starts_with('(') => text.to_owned(),
        _ => match text.split_once(" (") {
            Some((value, note)) => format!("`{value}` ({note}"),
            None => format!("`{text}`"),
        },
    };
    let ours = |p: &Property| if p.java == "(required)" { p.java.to_owned() } else { code(p.default) };
    for (scope, title) in [
        (Scope::Application, "The application (no prefix)"),
        (Scope::Connection, "Every client (any client's prefix)"),
        (Scope::Consumer, "Consumers (`consumer.` and its particular forms)"),
        (Scope::Producer, "The producer (`producer.`)"),
    ] {
        writeln!(out, "\n## {title}\n\n| Property | Kafka Streams | Mainstem | Meaning |\n|---|---|---|---|")
            .unwrap();
        for p in known().filter(|p| p.scope == scope) {
            writeln!(out, "| `{}` | {} | {} | {} |", p.name, code(p.java), ours(p), p.meaning.trim())
                .unwrap();
        }
    }
    let groups: [(&str, Belongs); 3] = [
        ("Read as another property, with a warning", |rule| matches!(rule, Rule::Renamed(_))),
        ("Decided by the library: another value is an error", |rule| matches!(rule, Rule::Fixed(_))),
        ("Without effect: accepted with a warning", |rule| matches!(rule, Rule::Ignored)),
    ];
    for (title, belongs) in groups {
        writeln!(out, "\n## {title}\n\n| Property | Kafka Streams | Mainstem | Why |\n|---|---|---|---|")
            .unwrap();
        for u in UNUSED.iter().filter(|u| belongs(u.rule)) {
            let ours = match u.rule {
                Rule::Ignored => "ignored".to_owned(),
                Rule::Fixed([]) => "refused".to_owned(),
                Rule::Fixed(values) => {
                    format!("only {}", values.iter().map(|v| code(v)).collect::<Vec<_>>().join(", "))
                }
                Rule::Renamed(to) => format!("`{to}`"),
            };
            writeln!(out, "| `{}` | {} | {ours} | {} |", u.name, code(u.java), u.why).unwrap();
        }
    }
    out
}
