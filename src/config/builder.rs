//! From settings to a checked configuration.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use super::properties::{
    ApplicationValues, ConnectionValues, ConsumerValues, ProducerValues, SecurityValues, known,
};
use super::secret::is_secret;
use super::section::{Property, Scope};
use super::unused::{Rule, TOPIC, UNUSED};
use super::{
    Config, ConnectionConfig, ConsumerConfig, OAuthTokenProvider, ProducerConfig, SaslMechanism, Secret,
    check, jaas, nearest::nearest, security, text,
};
use crate::{Error, ErrorKind, Result};

/// A configuration under way. Setters may come in any order, the last one wins; [`build`](Self::build) checks all of it.
///
/// ```
/// use mainstem::Config;
///
/// let error = Config::builder("", "localhost").set("comit.interval.ms", "1").workers(0).build().unwrap_err();
/// let text = error.to_string();
/// assert!(text.contains("application.id") && text.contains("host:port") && text.contains("num.stream.threads=0"));
/// assert!(text.contains("commit.interval.ms"), "the nearest name: {text}");
/// ```
#[derive(Clone, Default)]
#[must_use = "nothing is checked before build()"]
pub struct ConfigBuilder {
    settings: Vec<(String, String)>,
    errors: Vec<String>,
    tokens: Option<Arc<dyn OAuthTokenProvider>>,
}

/// The names of what was set, without the values: there may be passwords among them.
impl fmt::Debug for ConfigBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.settings.iter().map(|(name, _)| name);
        f.write_str("ConfigBuilder ")?;
        f.debug_set().entries(names).finish()
    }
}

impl ConfigBuilder {
    /// For what is no application: it need not have a name of its own.
    pub(crate) fn for_a_client() -> Self {
        Self::default().set("application.id", "mainstem")
    }

    /// Sets a property by its name, with or without a client's prefix.
    ///
    /// ```
    /// use mainstem::{Config, config::Role};
    ///
    /// let config = Config::builder("a", "localhost:9092")
    ///     .set("fetch.max.bytes", "1000")
    ///     .set("consumer.fetch.max.bytes", "2000")
    ///     .set("main.consumer.fetch.max.bytes", "3000")
    ///     .build()?;
    /// assert_eq!(config.consumer(Role::Main).fetch_max_bytes(), 3000);
    /// assert_eq!(config.consumer(Role::Global).fetch_max_bytes(), 2000);
    /// # Ok::<_, mainstem::Error>(())
    /// ```
    pub fn set(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// Sets several properties.
    pub fn properties<K, V>(mut self, properties: impl IntoIterator<Item = (K, V)>) -> Self
    where
        K: Into<String>,
        V: Into<String>,
    {
        self.settings.extend(properties.into_iter().map(|(name, value)| (name.into(), value.into())));
        self
    }

    /// Sets the properties of a `.properties` file's text.
    pub fn properties_str(mut self, properties: &str) -> Self {
        match text::parse(properties) {
            Ok(pairs) => self.settings.extend(pairs),
            Err(why) => self.errors.push(format!("the properties' {why}")),
        }
        self
    }

    /// Allows stateful operators without a name. See [`explicit_naming`](Self::explicit_naming).
    pub fn allow_generated_names(self) -> Self {
        self.explicit_naming(false)
    }

    /// Sets a property of internal topics, such as `min.insync.replicas`.
    pub fn topic_setting(self, name: &str, value: impl Into<String>) -> Self {
        self.set(format!("topic.{name}"), value)
    }

    /// Tags this instance, such as `zone` with `eu-1a`.
    pub fn client_tag(self, name: &str, value: impl Into<String>) -> Self {
        self.set(format!("client.tag.{name}"), value)
    }

    /// Says who the application is, by a user and its password: sets `sasl.mechanism` (PLAIN or one of SCRAM) and
    /// `sasl.jaas.config`. `security.protocol` says whether TLS is used.
    ///
    /// ```
    /// use mainstem::config::{Config, SaslMechanism, SecurityProtocol};
    ///
    /// # #[cfg(all(feature = "sasl", feature = "tls"))] {
    /// let config = Config::builder("a", "localhost:9092")
    ///     .security_protocol(SecurityProtocol::SaslSsl)
    ///     .sasl_credentials(SaslMechanism::ScramSha512, "alice", "alice-secret")
    ///     .build()?;
    /// assert!(!format!("{config:?}").contains("alice-secret"));
    /// # }
    /// # Ok::<_, mainstem::Error>(())
    /// ```
    pub fn sasl_credentials(
        self,
        mechanism: SaslMechanism,
        username: &str,
        password: impl Into<Secret>,
    ) -> Self {
        let module = security::login_module(mechanism);
        let password = password.into();
        let config = jaas::write(module, &[("username", username), ("password", password.expose())]);
        self.sasl_mechanism(mechanism).sasl_jaas_config(config)
    }

    /// Who brings the tokens of OAUTHBEARER, for all clients.
    pub fn oauth_token_provider(mut self, provider: impl OAuthTokenProvider) -> Self {
        self.tokens = Some(Arc::new(provider));
        self
    }

    /// Checks everything and makes the configuration.
    ///
    /// # Errors
    /// One error of kind [`ErrorKind::Config`] that lists everything that is wrong: unknown names with the nearest known
    /// one, values out of range, values that contradict each other, and properties that cannot be set.
    pub fn build(self) -> Result<Config> {
        let mut sorted = Sorted { errors: self.errors, tokens: self.tokens, ..Sorted::default() };
        for (name, value) in self.settings {
            sorted.sort(name, value);
        }
        for (name, setting) in std::mem::take(&mut sorted.renamed) {
            sorted.settings.entry(name.to_owned()).or_insert(setting);
        }
        let config = sorted.resolve();
        match &config.1[..] {
            [] => Ok(config.0),
            [one] => Err(Error::new(ErrorKind::Config, format!("the configuration is wrong: {one}"))),
            several => {
                let count = several.len();
                let text = format!("the configuration has {count} errors:\n- {}", several.join("\n- "));
                Err(Error::new(ErrorKind::Config, text))
            }
        }
    }
}

const CONSUMER: &str = "consumer.";
const MAIN: &str = "main.consumer.";
const RESTORE: &str = "restore.consumer.";
const GLOBAL: &str = "global.consumer.";
const PRODUCER: &str = "producer.";
const ADMIN: &str = "admin.";

/// The prefixes of clients; the empty one, for all of them, is last.
const PREFIXES: [&str; 7] = [MAIN, RESTORE, GLOBAL, CONSUMER, PRODUCER, ADMIN, ""];

fn takes(prefix: &str, scope: Scope) -> bool {
    match (prefix, scope) {
        ("", _) => true,
        (_, Scope::Application) => false,
        (_, Scope::Connection) => true,
        (_, Scope::Consumer) => prefix.ends_with(CONSUMER),
        (_, Scope::Producer) => prefix == PRODUCER,
    }
}

/// The settings by their canonical name: the name as it was written, and the value.
#[derive(Default)]
pub(super) struct Sorted {
    settings: HashMap<String, (String, String)>,
    renamed: Vec<(&'static str, (String, String))>,
    topic_settings: BTreeMap<String, String>,
    client_tags: BTreeMap<String, String>,
    warnings: Vec<String>,
    errors: Vec<String>,
    tokens: Option<Arc<dyn OAuthTokenProvider>>,
}

impl Sorted {
    fn sort(&mut self, name: String, value: String) {
        if let Some(setting) = name.strip_prefix("topic.") {
            if !TOPIC.contains(&setting) {
                let hint = nearest(setting, TOPIC.iter().map(|known| (*known).to_owned()));
                let hint = hint.map_or_else(String::new, |hint| format!(" Did you mean topic.{hint}?"));
                self.warnings.push(format!("{name}: Kafka 4.3 has no such setting of topics.{hint}"));
            }
            self.topic_settings.insert(setting.to_owned(), value);
            return;
        }
        if let Some(tag) = name.strip_prefix("client.tag.") {
            self.client_tags.insert(tag.to_owned(), value);
            return;
        }
        let prefix = PREFIXES.into_iter().find(|prefix| name.starts_with(prefix)).unwrap_or_default();
        let bare = &name[prefix.len()..];
        if let Some(property) = known().find(|property| property.name == bare) {
            if takes(prefix, property.scope) {
                self.settings.insert(name.clone(), (name, value));
            } else {
                self.errors.push(wrong_prefix(&name, property));
            }
        } else if let Some(unused) = UNUSED.iter().find(|unused| unused.matches(bare)) {
            match unused.rule {
                Rule::Ignored => self.warnings.push(format!("{name} has no effect. {}", unused.why)),
                Rule::Fixed(values) if values.contains(&&*value.trim().to_ascii_lowercase()) => {}
                Rule::Fixed(_) if is_secret(bare) => {
                    self.errors.push(format!("{name} cannot be set. {}", unused.why))
                }
                Rule::Fixed(_) => {
                    self.errors.push(format!("{name} cannot be set to {value:?}. {}", unused.why))
                }
                Rule::Renamed(to) => {
                    self.warnings.push(format!("{name} is read as {to}. {}", unused.why));
                    // ORDER: the last one wins here too, and only what is not set under its own name is taken.
                    self.renamed.insert(0, (to, (name, value)));
                }
            }
        } else {
            self.errors.push(unknown(&name));
        }
    }

    /// What was set for a client, with its prefixes from the most particular to the most general.
    fn lookup(&self, prefixes: &[&str], name: &str) -> Option<(String, String)> {
        prefixes.iter().find_map(|prefix| self.settings.get(&format!("{prefix}{name}"))).cloned()
    }

    fn connection(&mut self, prefixes: &[&str], errors: &mut Vec<String>) -> ConnectionConfig {
        let lookup = |name: &'static str| self.lookup(prefixes, name);
        let values = ConnectionValues::resolve(&lookup, errors);
        let secured = SecurityValues::resolve(&lookup, errors);
        let security = security::resolve(&secured, self.tokens.as_ref(), errors, &mut self.warnings);
        ConnectionConfig { values, secured, security }
    }

    fn consumer(&mut self, prefix: &str, errors: &mut Vec<String>) -> ConsumerConfig {
        let prefixes = [prefix, CONSUMER, ""];
        let lookup = |name: &'static str| {
            self.lookup(&prefixes, name).or_else(|| {
                // Changelogs and global topics are read in bulk, before any processing.
                let bulk = match name {
                    _ if prefix == MAIN => None,
                    "fetch.max.bytes" => Some(32 << 20),
                    "max.partition.fetch.bytes" => Some(8 << 20),
                    _ => None,
                };
                bulk.map(|bytes: i32| (name.to_owned(), bytes.to_string()))
            })
        };
        let values = ConsumerValues::resolve(&lookup, errors);
        ConsumerConfig { values, connection: self.connection(&prefixes, errors) }
    }

    fn resolve(mut self) -> (Config, Vec<String>) {
        let mut errors = std::mem::take(&mut self.errors);
        let application = ApplicationValues::resolve(&|name| self.lookup(&[""], name), &mut errors);
        let producer = ProducerConfig {
            values: ProducerValues::resolve(&|name| self.lookup(&[PRODUCER, ""], name), &mut errors),
            connection: self.connection(&[PRODUCER, ""], &mut errors),
        };
        let mut config = Config {
            application,
            main: self.consumer(MAIN, &mut errors),
            restore: self.consumer(RESTORE, &mut errors),
            global: self.consumer(GLOBAL, &mut errors),
            producer,
            admin: self.connection(&[ADMIN, ""], &mut errors),
            topic_settings: std::mem::take(&mut self.topic_settings),
            client_tags: std::mem::take(&mut self.client_tags),
            warnings: std::mem::take(&mut self.warnings),
            least_commit_interval: None,
        };
        let given = |name: &str| {
            let settings = PREFIXES.iter().filter_map(|prefix| self.settings.get(&format!("{prefix}{name}")));
            settings.cloned().collect()
        };
        check::complete(&mut config, &given, &mut errors);
        let mut seen = std::collections::HashSet::new();
        errors.retain(|error| seen.insert(error.clone())); // one bad setting is read once for each client
        (config, errors)
    }
}

fn wrong_prefix(name: &str, property: &Property) -> String {
    let bare = property.name;
    match property.scope {
        Scope::Consumer => format!("{name}: {bare} is a property of consumers, set it as consumer.{bare}"),
        Scope::Producer => format!("{name}: {bare} is a property of the producer, set it as producer.{bare}"),
        Scope::Application | Scope::Connection => {
            format!("{name}: {bare} is a property of the application, set it without a prefix")
        }
    }
}

fn unknown(name: &str) -> String {
    let spelled = |bare: &'static str, scope| {
        let prefixes = PREFIXES.into_iter().filter(move |prefix| takes(prefix, scope));
        prefixes.map(move |prefix| format!("{prefix}{bare}"))
    };
    let used = known().flat_map(|property| spelled(property.name, property.scope));
    let unused = UNUSED.iter().map(|unused| unused.name.to_owned());
    match nearest(name, used.chain(unused)) {
        Some(hint) => format!("{name} is unknown. Did you mean {hint}?"),
        None => format!("{name} is unknown. docs/CONFIG.md lists what is known."),
    }
}
