//! The configuration of an application: one builder, checked as a whole, which also reads Kafka Streams' property names.
//!
//! ```
//! use std::time::Duration;
//! use mainstem::config::{Config, Role};
//!
//! let config = Config::builder("page-views", "kafka-1:9092,kafka-2:9092")
//!     .workers(4)
//!     .commit_interval(Duration::from_millis(500))
//!     .set("restore.consumer.fetch.max.bytes", "16777216")
//!     .set("topic.min.insync.replicas", "2")
//!     .build()?;
//! assert_eq!(config.workers(), 4);
//! assert_eq!(config.consumer(Role::Restore).fetch_max_bytes(), 16 << 20);
//! # Ok::<_, mainstem::Error>(())
//! ```
//!
//! docs/CONFIG.md lists every property, with the defaults of Kafka Streams and ours.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::Result;

mod builder;
mod check;
mod idle;
mod jaas;
pub(crate) mod nearest;
mod properties;
mod secret;
mod section;
pub(crate) mod security;
mod text;
mod token;
mod unused;
mod value;

#[cfg(test)]
mod tests;

pub use builder::ConfigBuilder;
pub use secret::Secret;
pub use security::{KeyStore, Pem, Sasl, Security, Tls, TlsVersion};
pub use token::{OAuthToken, OAuthTokenFuture, OAuthTokenProvider, OAuthTokens, UnsecuredTokens};
pub use value::{
    Compression, ErrorPolicy, IsolationLevel, OffsetReset, Optimizations, ProcessingGuarantee,
    RecordingLevel, SaslMechanism, SecurityProtocol, StateEngine, StoreKind, TimestampPolicy,
};

/// The configuration of an application. Every value is there: what was not set has its default.
#[derive(Debug, Clone)]
pub struct Config {
    application: properties::ApplicationValues,
    main: ConsumerConfig,
    restore: ConsumerConfig,
    global: ConsumerConfig,
    producer: ProducerConfig,
    admin: ConnectionConfig,
    topic_settings: BTreeMap<String, String>,
    client_tags: BTreeMap<String, String>,
    warnings: Vec<String>,
    /// The interval between commits may be anything from this up to `commit.interval.ms`.
    least_commit_interval: Option<Duration>,
}

/// Which of an application's consumers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The one that reads source topics (prefix `main.consumer.`).
    Main,
    /// The one that reads changelogs back (prefix `restore.consumer.`).
    Restore,
    /// The one that reads the topics of global tables (prefix `global.consumer.`).
    Global,
}

impl Config {
    /// Begins a configuration: the application's id, and brokers as `host:port`, separated by commas.
    ///
    /// ```
    /// let config = mainstem::Config::builder("page-views", "localhost:9092").build()?;
    /// assert_eq!(config.application_id(), "page-views");
    /// # Ok::<_, mainstem::Error>(())
    /// ```
    pub fn builder(application_id: &str, bootstrap_servers: &str) -> ConfigBuilder {
        ConfigBuilder::default()
            .set("application.id", application_id)
            .set("bootstrap.servers", bootstrap_servers)
    }

    /// A configuration from properties as a Kafka Streams application has them, of which `application.id` and
    /// `bootstrap.servers` must be there. [`ConfigBuilder::properties`] adds properties to others.
    ///
    /// # Errors
    /// As [`ConfigBuilder::build`].
    ///
    /// ```
    /// use mainstem::config::{Config, ProcessingGuarantee};
    ///
    /// let config = Config::from_properties([
    ///     ("application.id", "page-views"),
    ///     ("bootstrap.servers", "localhost:9092"),
    ///     ("processing.guarantee", "exactly_once_v2"),
    /// ])?;
    /// assert_eq!(config.processing_guarantee(), ProcessingGuarantee::ExactlyOnceV2);
    /// # Ok::<_, mainstem::Error>(())
    /// ```
    pub fn from_properties<K, V>(properties: impl IntoIterator<Item = (K, V)>) -> Result<Self>
    where
        K: Into<String>,
        V: Into<String>,
    {
        ConfigBuilder::default().properties(properties).build()
    }

    /// A configuration from the text of a `.properties` file.
    ///
    /// # Errors
    /// As [`ConfigBuilder::build`], and if the text is not in that format.
    ///
    /// ```
    /// let config = mainstem::Config::from_properties_str("
    ///     ! comments and continued lines are as in Java
    ///     application.id = page-views
    ///     bootstrap.servers = kafka-1:9092,\\
    ///                         kafka-2:9092
    /// ")?;
    /// assert_eq!(config.bootstrap_servers().len(), 2);
    /// # Ok::<_, mainstem::Error>(())
    /// ```
    pub fn from_properties_str(text: &str) -> Result<Self> {
        ConfigBuilder::default().properties_str(text).build()
    }

    /// The settings of a consumer.
    pub fn consumer(&self, role: Role) -> &ConsumerConfig {
        match role {
            Role::Main => &self.main,
            Role::Restore => &self.restore,
            Role::Global => &self.global,
        }
    }

    /// The settings of the producer.
    pub fn producer(&self) -> &ProducerConfig {
        &self.producer
    }

    /// The settings of the admin client.
    pub fn admin(&self) -> &ConnectionConfig {
        &self.admin
    }

    /// The settings of internal topics: what was set with the prefix `topic.`, without it.
    ///
    /// ```
    /// let config = mainstem::Config::builder("a", "localhost:9092").set("topic.retention.ms", "-1").build()?;
    /// assert_eq!(config.topic_settings()["retention.ms"], "-1");
    /// # Ok::<_, mainstem::Error>(())
    /// ```
    pub fn topic_settings(&self) -> &BTreeMap<String, String> {
        &self.topic_settings
    }

    /// The tags of this instance: what was set with the prefix `client.tag.`, without it.
    pub fn client_tags(&self) -> &BTreeMap<String, String> {
        &self.client_tags
    }

    /// Whether stateful operators may go without a name. See [`explicit_naming`](Self::explicit_naming).
    pub fn allow_generated_names(&self) -> bool {
        !self.application.explicit_naming
    }

    /// Whether effects are seen exactly once.
    pub fn is_exactly_once(&self) -> bool {
        self.application.processing_guarantee == ProcessingGuarantee::ExactlyOnceV2
    }

    /// The shortest and the longest time between commits: a worker finds out what pays. They are the same if
    /// `commit.interval.ms` was set, and at least once.
    pub(crate) fn commit_intervals(&self) -> (Duration, Duration) {
        let most = self.application.commit_interval;
        (self.least_commit_interval.unwrap_or(most), most)
    }

    /// What was set and does nothing, or is better not done. They are logged when the application starts.
    ///
    /// ```
    /// let config = mainstem::Config::builder("a", "localhost:9092").set("metrics.num.samples", "3").build()?;
    /// assert!(config.warnings()[0].contains("metrics.num.samples"));
    /// # Ok::<_, mainstem::Error>(())
    /// ```
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Logs the warnings.
    pub(crate) fn log_warnings(&self) {
        for warning in &self.warnings {
            tracing::warn!(application_id = self.application_id(), "configuration: {warning}");
        }
    }
}

/// The settings that every client has.
#[derive(Debug, Clone)]
pub struct ConnectionConfig {
    values: properties::ConnectionValues,
    secured: properties::SecurityValues,
    security: Security,
}

impl ConnectionConfig {
    /// What `security.protocol`, `ssl.*` and `sasl.*` come to.
    ///
    /// ```
    /// let config = mainstem::Config::builder("a", "localhost:9092").build()?;
    /// assert!(config.admin().security().tls.is_none());
    /// # Ok::<_, mainstem::Error>(())
    /// ```
    pub fn security(&self) -> &Security {
        &self.security
    }
}

/// The settings of a consumer.
#[derive(Debug, Clone)]
pub struct ConsumerConfig {
    values: properties::ConsumerValues,
    connection: ConnectionConfig,
}

impl ConsumerConfig {
    /// The settings that every client has.
    pub fn connection(&self) -> &ConnectionConfig {
        &self.connection
    }
}

/// The settings of the producer.
#[derive(Debug, Clone)]
pub struct ProducerConfig {
    values: properties::ProducerValues,
    connection: ConnectionConfig,
}

impl ProducerConfig {
    /// The settings that every client has.
    pub fn connection(&self) -> &ConnectionConfig {
        &self.connection
    }
}
