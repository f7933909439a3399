//! The tables agree with themselves and with docs/CONFIG.md.

use std::collections::HashSet;
use std::fmt::Write;
use std::path::PathBuf;

use super::check::default_state_dir;
use super::idle::{IDLE, idle};
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

/// What has no effect, as a sentence of the tables.
fn sentence(text: &str) -> String {
    let (first, rest) = text.split_once(':').expect("it says why");
    format!(" **N{first}:**{rest}.", first = &first[1..])
}

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
            let yet = idle(p.name, p.name).map_or_else(String::new, |idle| sentence(&idle.says()));
            writeln!(out, "| `{}` | {} | {} | {}{yet} |", p.name, code(p.java), ours(p), p.meaning.trim())
                .unwrap();
        }
    }
    out.push_str(
        "\n## Without effect under a prefix: accepted with a warning\n\n| Settings | Why |\n|---|---|\n",
    );
    for idle in IDLE.iter().filter(|idle| !idle.prefix.is_empty()) {
        let names = if idle.names.is_empty() { &["*"] } else { idle.names };
        let names: Vec<_> = names.iter().map(|name| format!("`{}{name}`", idle.prefix)).collect();
        writeln!(out, "| {} |{} |", names.join(", "), sentence(&idle.says())).unwrap();
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

/// Every setting, for every client that takes it, is read where it may have an effect, or the list of those without one has
/// it; and nothing is on the list that is read.
#[test]
fn every_setting_is_read_or_said_to_be_without_effect() {
    let code = code_that_reads();
    // Read through another getter.
    let getter = |name: &'static str| match name {
        "explicit_naming" => "allow_generated_names",
        "processing_guarantee" => "is_exactly_once",
        _ if ["security_", "ssl_", "sasl_"].iter().any(|start| name.starts_with(start)) => "security",
        _ => name,
    };
    let mut wrong = Vec::new();
    for property in known() {
        let getter = getter(property.getter);
        let clients: &[(&str, &str)] = match property.scope {
            Scope::Application => &[("", "config.")],
            Scope::Connection => &[
                ("main.consumer.", "consumer(Role::Main).connection()."),
                ("restore.consumer.", "consumer(Role::Restore).connection()."),
                ("global.consumer.", "consumer(Role::Global).connection()."),
                ("producer.", "producer().connection()."),
                ("admin.", "admin()."),
            ],
            Scope::Consumer => &[
                ("main.consumer.", "consumer(Role::Main)."),
                ("restore.consumer.", "consumer(Role::Restore)."),
                ("global.consumer.", "consumer(Role::Global)."),
            ],
            Scope::Producer => &[("producer.", "producer().")],
        };
        for (prefix, path) in clients {
            let is_read = code.contains(&format!("{path}{getter}()"));
            let written = format!("{prefix}{}", property.name);
            match (is_read, idle(&written, property.name)) {
                (false, None) => wrong.push(format!("{written} is read by nothing and says nothing of it")),
                // The leader has it, and compares it with checkpoints that no member sends yet.
                (true, Some(_)) if property.name == "acceptable.recovery.lag" => {}
                (true, Some(idle)) => wrong.push(format!("{written} is read, and has {}", idle.says())),
                _ => {}
            }
        }
    }
    for getter in ["topic_settings", "client_tags"] {
        assert!(code.contains(&format!("config.{getter}()")), "{getter} is read by nothing");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The code outside of the configuration, without comments, tests and line breaks, in which names of parts of the
/// configuration stand as what they are names of: `let c = config.consumer(Role::Main); c.x()` as
/// `config.consumer(Role::Main).x()`.
fn code_that_reads() -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut folders, mut code) = (vec![root.clone()], String::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let below = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
            let elsewhere = ["config", "testing", "bin"].iter().any(|room| below.starts_with(room));
            if elsewhere || below.ends_with("tests") || below.ends_with("tests.rs") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else {
                code.push_str(&plain(&std::fs::read_to_string(path).unwrap()));
            }
        }
    }
    code
}

fn plain(text: &str) -> String {
    const PARTS: [&str; 6] = [
        "consumer(Role::Main)",
        "consumer(Role::Restore)",
        "consumer(Role::Global)",
        "producer()",
        "connection()",
        "admin()",
    ];
    let tests = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let lines: Vec<&str> =
        text[..tests].lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let mut plain = String::new();
    for function in lines.join("\n").split("fn ") {
        let mut names: Vec<(String, String)> = Vec::new();
        for statement in function.split(';') {
            let words: Vec<&str> = statement.split_whitespace().collect();
            let mut statement = words.join(" ").replace(" .", ".");
            for (name, part) in &names {
                statement = in_full(&statement, name, part);
            }
            let named = statement.match_indices("let ").find_map(|(at, _)| {
                let (name, part) = statement[at + 4..].split_once(" = ")?;
                let is_name = name.chars().all(|c| c.is_alphanumeric() || c == '_');
                let is_part = PARTS.iter().any(|end| part.ends_with(end));
                (is_name && is_part).then(|| (name.to_owned(), part.to_owned()))
            });
            names.splice(0..0, named);
            plain.push_str(&statement);
            plain.push(';');
        }
    }
    plain
}

/// The text with `part.` wherever it says `name.`.
fn in_full(text: &str, name: &str, part: &str) -> String {
    let (mut out, mut from) = (String::new(), 0);
    for (at, found) in text.match_indices(&format!("{name}.")) {
        let joined = text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '.');
        if !joined {
            out.push_str(&text[from..at]);
            out.push_str(part);
            from = at + found.len() - 1;
        }
    }
    out.push_str(&text[from..]);
    out
}

#[test]
fn a_planted_reader_is_found() {
    let code = plain(
        "fn f(config: &Config) {\n    let a = config.consumer(Role::Main);\n    let b = a\n        .connection();\n    g(b.x(), \
         my.a.y(), a.z());\n}\nfn h() { a.w(); } // c.v()\n#[cfg(test)]\nmod tests {\n    fn t() { config.u(); }\n}",
    );
    for read in ["config.consumer(Role::Main).connection().x()", "config.consumer(Role::Main).z()"] {
        assert!(code.contains(read), "{read} in {code}");
    }
    for other in ["consumer(Role::Main).y()", "consumer(Role::Main).w()", "config.u()"] {
        assert!(!code.contains(other), "{other} in {code}");
    }
}

#[test]
fn one_number_for_the_memory_is_shared_out() {
    let parts = |config: &Config| {
        let buffer = config.producer().buffer_memory();
        (config.state_memory(), config.buffered_bytes(), config.cache_bytes(), buffer)
    };
    let all = |settings: &[(&str, &str)]| parts(&built(settings).unwrap());
    // What is not set keeps its proportions.
    let (state, input, caches, buffer) = all(&[("memory.max.bytes", "1073741824")]);
    let sum = state + input + caches + buffer;
    assert!(sum <= 1 << 30 && sum > (1 << 30) - 4, "{sum}");
    assert_eq!((state / input, input / buffer), (4, 2));
    let (state, input, caches, buffer) = all(&[
        ("memory.max.bytes", "268435456"),
        ("state.memory.max.bytes", "67108864"),
        ("cache.max.bytes.buffering", "0"),
        ("num.stream.threads", "4"),
    ]);
    assert_eq!((state, caches), (64 << 20, 0), "what is set stays");
    assert!(input + 4 * buffer <= 192 << 20 && input / buffer == 2, "{input}, {buffer} each");
    assert_eq!(all(&[]), (256 << 20, 64 << 20, 10_485_760, 32 << 20), "without it they are their own");

    let refused = |settings: &[(&str, &str)]| built(settings).unwrap_err().to_string();
    let text = refused(&[("memory.max.bytes", "100000000"), ("input.buffer.max.bytes", "200000000")]);
    assert!(text.contains("is less than input.buffer.max.bytes"), "{text}");
    let text = refused(&[("memory.max.bytes", "1000000")]);
    assert!(text.contains("for state.memory.max.bytes") && text.contains("give it more"), "{text}");
}

#[cfg(all(feature = "sasl", feature = "tls"))]
mod security {
    use super::*;

    const JAAS: &str = "org.apache.kafka.common.security.scram.ScramLoginModule required username=\"u\" password=\"hunter2\";";

    #[track_caller]
    fn refused(settings: &[(&str, &str)], words: &[&str]) {
        let error = built(settings).unwrap_err();
        let text = format!("{error:?}");
        for word in words {
            assert!(text.contains(word), "{word:?} is missing: {text}");
        }
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn properties_of_java_become_what_a_connection_needs() {
        let config = built(&[
            ("security.protocol", "sasl_ssl"),
            ("ssl.truststore.location", "/ca.pem"),
            ("ssl.enabled.protocols", "TLSv1.3"),
            ("sasl.mechanism", "SCRAM-SHA-512"),
            ("sasl.jaas.config", JAAS),
        ]);
        let config = config.unwrap();
        let security = config.consumer(Role::Main).connection().security();
        let tls = security.tls.as_ref().unwrap();
        assert_eq!((tls.verify_hostname, &tls.versions[..]), (true, &[TlsVersion::Tls13][..]));
        assert!(matches!(&tls.truststore, Some(Pem::File(path)) if path.as_os_str() == "/ca.pem"));
        let Some(Sasl::Scram { mechanism, username, password }) = &security.sasl else { panic!() };
        assert_eq!(
            (*mechanism, &**username, password.expose()),
            (SaslMechanism::ScramSha512, "u", "hunter2")
        );
        assert!(!format!("{config:?}").contains("hunter2"));
        assert_eq!(config.warnings(), [""; 0]);
    }

    #[test]
    fn what_cannot_be_used_is_refused_by_name_and_without_secrets() {
        let ssl = ("security.protocol", "SSL");
        let sasl = ("security.protocol", "SASL_SSL");
        let scram = ("sasl.mechanism", "SCRAM-SHA-256");
        refused(&[ssl, ("ssl.truststore.type", "JKS")], &["ssl.truststore.type=JKS", "keytool"]);
        refused(&[ssl, ("ssl.keystore.type", "PKCS12")], &["ssl.keystore.type=PKCS12", "openssl pkcs12"]);
        refused(&[ssl, ("ssl.keystore.password", "hunter2")], &["ssl.keystore.password", "ssl.key.password"]);
        refused(&[ssl, ("ssl.truststore.password", "hunter2")], &["ssl.truststore.password"]);
        refused(&[ssl, ("ssl.keystore.key", "hunter2")], &["ssl.keystore.certificate.chain", "set both"]);
        refused(&[ssl, ("ssl.endpoint.identification.algorithm", "LDAPS")], &["https, or empty"]);
        refused(&[ssl, ("ssl.enabled.protocols", "TLSv1.1")], &["TLSv1.2 and TLSv1.3"]);
        refused(&[sasl], &["sasl.mechanism is not set", "GSSAPI"]);
        refused(&[sasl, ("sasl.mechanism", "GSSAPI")], &["sasl.mechanism=GSSAPI", "SCRAM-SHA-256"]);
        refused(&[sasl, scram], &["sasl.jaas.config is not set", "ScramLoginModule"]);
        refused(&[sasl, ("sasl.mechanism", "PLAIN"), ("sasl.jaas.config", JAAS)], &["PlainLoginModule"]);
        refused(&[sasl, scram, ("sasl.jaas.config", &JAAS.replace(';', ""))], &["semicolon"]);
        refused(&[sasl, scram, ("sasl.jaas.config", &JAAS.replace("username", "user"))], &["no username"]);
        let token = JAAS.replace(" username", " tokenauth=true username");
        refused(&[sasl, scram, ("sasl.jaas.config", &token)], &["delegation tokens"]);
        let bearer = ("sasl.mechanism", "OAUTHBEARER");
        refused(&[sasl, bearer], &["OAuthTokenProvider", "file:///"]);
        let over_http = ("sasl.oauthbearer.token.endpoint.url", "https://issuer/token");
        refused(&[sasl, bearer, over_http], &["not fetched over HTTP"]);
        let secret = ("sasl.oauthbearer.client.credentials.client.secret", "hunter2");
        refused(&[sasl, bearer, secret], &["client.secret", "OAuthTokenProvider"]);
        refused(&[("sasl.jass.config", JAAS)], &["Did you mean sasl.jaas.config?"]);
        let misspelt = Config::builder("a", "localhost:9092").set("sasl.jass.config", JAAS);
        assert!(!format!("{misspelt:?}").contains("hunter2"));
    }

    #[test]
    fn what_has_no_effect_or_is_dangerous_is_said() {
        let warned = |settings: &[(&str, &str)], words: &str| {
            let config = built(settings).unwrap();
            assert!(config.warnings().iter().any(|w| w.contains(words)), "{:?}", config.warnings());
        };
        warned(&[("ssl.truststore.location", "/ca.pem")], "sends everything unencrypted");
        warned(&[("sasl.jaas.config", JAAS)], "proves nothing by SASL");
        let off = ("ssl.endpoint.identification.algorithm", "");
        warned(&[("security.protocol", "SSL"), off], "pose as a broker");
        let plain = JAAS.replace("scram.Scram", "plain.Plain");
        let open = ("security.protocol", "SASL_PLAINTEXT");
        warned(&[open, ("sasl.mechanism", "PLAIN"), ("sasl.jaas.config", &plain)], "password unencrypted");
    }
}
