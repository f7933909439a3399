//! How to reach a cluster.

use std::time::Duration;

use crate::config::{Config, ConfigBuilder, Role, Security};
use crate::{Error, ErrorKind, Result};

/// How to reach a cluster, and how patient to be with it. The names and defaults are Kafka's.
///
/// ```
/// use mainstem::client::ClientConfig;
///
/// let mut config = ClientConfig::new("kafka-1:9092,kafka-2:9092");
/// config.client_id = "orders".into();
/// assert_eq!(config.bootstrap.len(), 2);
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientConfig {
    /// `bootstrap.servers`: addresses (`host:port`) to ask for the brokers of the cluster. One that answers is enough.
    pub bootstrap: Vec<String>,
    /// `client.id`: the name that brokers put into their logs and quotas.
    pub client_id: String,
    /// `client.rack`: where this process stands. With it, data is read from a replica in the same rack (KIP-392).
    pub rack: Option<String>,
    /// `request.timeout.ms`: how long to wait for one answer. 30 s.
    pub request_timeout: Duration,
    /// `default.api.timeout.ms`: how long a call may take with all its retries. 60 s.
    pub api_timeout: Duration,
    /// `socket.connection.setup.timeout.ms`: how long to wait for a connection. 10 s.
    pub connect_timeout: Duration,
    /// `connections.max.idle.ms`: a connection that was not used for so long is not used again, but opened anew. 9 min.
    pub connection_max_idle: Duration,
    /// `metadata.max.age.ms`: after this, what is known of a topic is asked again. 5 min.
    pub metadata_max_age: Duration,
    /// How long a topic may be unknown before that is an error: a topic just made takes a moment to be known
    /// everywhere. 5 s.
    pub topic_grace: Duration,
    /// `retry.backoff.ms`: the pause before the first retry; it doubles with each. 100 ms.
    pub retry_backoff: Duration,
    /// `retry.backoff.max.ms`: the longest pause between retries. 1 s.
    pub retry_backoff_max: Duration,
    /// `reconnect.backoff.ms`: the pause before the first new attempt to reach a broker; it doubles with each. 50 ms.
    pub reconnect_backoff: Duration,
    /// `reconnect.backoff.max.ms`: the longest pause between attempts to reach a broker. 1 s.
    pub reconnect_backoff_max: Duration,
    /// `metadata.recovery.rebootstrap.trigger.ms`: when brokers can be reached and still none has answered with metadata
    /// for this long, the bootstrap addresses are asked again (KIP-1102). 5 min. When no known broker can be reached
    /// they are asked at once (KIP-899).
    pub rebootstrap_trigger: Duration,
    /// The largest answer that is read, in bytes. 128 MiB.
    pub max_frame: usize,
    /// `security.protocol`, `ssl.*` and `sasl.*`: whom to trust, and who this client is. Plaintext, and nobody.
    pub security: Security,
}

impl ClientConfig {
    /// The defaults, for bootstrap addresses separated by commas.
    pub fn new(bootstrap: impl AsRef<str>) -> Self {
        let bootstrap = bootstrap.as_ref().split(',').map(str::trim).filter(|a| !a.is_empty());
        Self {
            bootstrap: bootstrap.map(str::to_owned).collect(),
            client_id: "mainstem".to_owned(),
            rack: None,
            request_timeout: Duration::from_secs(30),
            api_timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(10),
            connection_max_idle: Duration::from_secs(540),
            metadata_max_age: Duration::from_secs(300),
            topic_grace: Duration::from_secs(5),
            retry_backoff: Duration::from_millis(100),
            retry_backoff_max: Duration::from_secs(1),
            reconnect_backoff: Duration::from_millis(50),
            reconnect_backoff_max: Duration::from_secs(1),
            rebootstrap_trigger: Duration::from_secs(300),
            max_frame: 128 << 20,
            security: Security::default(),
        }
    }

    /// A configuration from a client's properties as Kafka's tools take them (`--command-config`); an application's are
    /// taken as well. `bootstrap.servers` must be there.
    ///
    /// # Errors
    /// As [`ConfigBuilder::build`](crate::config::ConfigBuilder::build).
    ///
    /// ```
    /// use mainstem::client::ClientConfig;
    ///
    /// let config = ClientConfig::from_properties_str("
    ///     bootstrap.servers = kafka-1:9093
    ///     request.timeout.ms = 5000
    /// ")?;
    /// assert_eq!(config.request_timeout.as_secs(), 5);
    /// # Ok::<_, mainstem::Error>(())
    /// ```
    pub fn from_properties_str(text: &str) -> Result<Self> {
        Ok(Self::from(&ConfigBuilder::for_a_client().properties_str(text).build()?))
    }

    /// The same from pairs of names and values; the last one of a name wins.
    ///
    /// # Errors
    /// As [`ConfigBuilder::build`](crate::config::ConfigBuilder::build).
    pub fn from_properties<K, V>(properties: impl IntoIterator<Item = (K, V)>) -> Result<Self>
    where
        K: Into<String>,
        V: Into<String>,
    {
        Ok(Self::from(&ConfigBuilder::for_a_client().properties(properties).build()?))
    }

    /// The bootstrap addresses as host and port.
    pub(crate) fn addresses(&self) -> Result<Vec<Address>> {
        if self.bootstrap.is_empty() {
            return Err(Error::new(
                ErrorKind::Config,
                "bootstrap.servers is empty: name at least one broker as host:port",
            ));
        }
        self.bootstrap.iter().map(|text| Address::parse(text)).collect()
    }
}

/// What an application's configuration says of its one set of connections.
impl From<&Config> for ClientConfig {
    fn from(config: &Config) -> Self {
        let connection = config.consumer(Role::Main).connection();
        Self {
            client_id: config.client_id().to_owned(),
            rack: config.consumer(Role::Main).client_rack().map(str::to_owned),
            request_timeout: connection.request_timeout(),
            api_timeout: connection.api_timeout(),
            connect_timeout: connection.connect_timeout(),
            connection_max_idle: connection.connection_max_idle(),
            metadata_max_age: connection.metadata_max_age(),
            retry_backoff: connection.retry_backoff(),
            retry_backoff_max: connection.retry_backoff_max(),
            reconnect_backoff: connection.reconnect_backoff(),
            reconnect_backoff_max: connection.reconnect_backoff_max(),
            rebootstrap_trigger: connection.rebootstrap_trigger(),
            security: connection.security().clone(),
            ..Self::new(config.bootstrap_servers().join(","))
        }
    }
}

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Address {
    fn parse(text: &str) -> Result<Self> {
        let refuse = || {
            Error::new(
                ErrorKind::Config,
                format!(
                    "bootstrap.servers has {text:?}, which is not host:port (an IPv6 address goes in brackets, [::1]:9092)"
                ),
            )
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(refuse)?;
        let host = match host.strip_prefix('[').map(|h| h.strip_suffix(']')) {
            Some(inside) => inside.ok_or_else(refuse)?,
            None if host.contains(':') => return Err(refuse()),
            None => host,
        };
        let port = port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(refuse)?;
        if host.is_empty() || host.contains(char::is_whitespace) || host.contains('/') {
            return Err(refuse());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_or_named_in_the_error() {
        let good = ClientConfig::new("a:1, 10.0.0.1:9092 ,[::1]:9093,").addresses().unwrap();
        assert_eq!(
            good.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["a:1", "10.0.0.1:9092", "[::1]:9093"]
        );
        assert_eq!(good[2].host, "::1");
        for bad in ["a", "a:", ":9092", "a:0", "a:65536", "::1:9092", "[::1:9092", "http://a:9092", "a b:1"] {
            let error = ClientConfig::new(bad).addresses().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{bad}");
            assert!(error.to_string().contains(bad), "{error}");
        }
        assert!(
            ClientConfig::new("").addresses().unwrap_err().to_string().contains("bootstrap.servers is empty")
        );
    }
}
