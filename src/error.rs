//! One error type for the whole crate: what went wrong ([`ErrorKind`]), what to do about it ([`ErrorClass`]), where
//! (topic, partition, offset, node) and why (the chain of sources).

use std::error::Error as StdError;
use std::fmt;

/// An error of any cause, as user code and libraries make them.
pub type BoxError = Box<dyn StdError + Send + Sync + 'static>;

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A property is unknown, missing, out of range or contradicts another one.
    Config,
    /// The topology cannot be built: clashing names, unequal partition counts, a store that nobody added.
    Topology,
    /// A key or value could not be written or read by its serde.
    Serde,
    /// The record's timestamp is missing or negative.
    Timestamp,
    /// User code returned an error.
    Processing,
    /// User code panicked.
    Panic,
    /// A record could not be written to a topic.
    Production,
    /// A state store failed.
    Store,
    /// A topic does not exist, or has other partitions or settings than it must have.
    Topic,
    /// Nothing answered at an address, or a connection broke.
    Connection,
    /// A broker and this client do not trust each other: a certificate, a password or a token
    /// (`SaslAuthenticationException`, `SslAuthenticationException`).
    Authentication,
    /// The brokers know who this client is, and do not allow it what it asks for (`AuthorizationException`).
    Authorization,
    /// No answer in time.
    Timeout,
    /// A broker answered with an error code.
    Broker,
    /// Bytes from the network or the disk are not what the protocol says.
    Corrupt,
    /// This member, generation or producer epoch is no longer the current one.
    Fenced,
    /// An offset is outside the log.
    OffsetOutOfRange,
    /// The application, a client or a channel has been closed.
    Closed,
    /// The file system failed.
    Io,
    /// The application is in a state in which the call means nothing: it runs where it must not, or the other way round.
    IllegalState,
    /// A query came before the application was started (`StreamsNotStartedException`).
    NotStarted,
    /// A query came while tasks are being found, moved or restored (`StreamsRebalancingException`): the same one is
    /// answered a little later.
    Rebalancing,
    /// What a query asks for is on another instance (`StateStoreMigratedException`); the text names it where it is known.
    Moved,
    /// The topology has no store, or the store no partition, of that name (`UnknownStateStoreException`,
    /// `InvalidStateStorePartitionException`).
    UnknownStore,
    /// A store was asked for with other types, or as another kind, than it has.
    StoreType,
}

/// What the caller has to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// The same call may succeed later, after fresh metadata or a pause.
    Retriable,
    /// The current transaction must be aborted; its input is processed again.
    AbortTransaction,
    /// The task's state can no longer be trusted: it is rebuilt from its changelog.
    CorruptTask,
    /// The tasks belong to somebody else by now: give them up and join the group again.
    FencedLease,
    /// Only a person or a restart can help.
    Fatal,
}

/// The error of every fallible call of the crate.
///
/// Its text says what happened and where; [`source`](StdError::source) says why and never repeats that text.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    class: ErrorClass,
    message: String,
    code: Option<i16>,
    topic: Option<String>,
    partition: Option<i32>,
    offset: Option<i64>,
    node: Option<String>,
    source: Option<BoxError>,
}

impl Error {
    /// An error of a kind, with a message that names the thing and the remedy. Its class is [`ErrorClass::Fatal`] until
    /// [`with_class`](Self::with_class) says otherwise.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            class: ErrorClass::Fatal,
            message: message.into(),
            code: None,
            topic: None,
            partition: None,
            offset: None,
            node: None,
            source: None,
        }))
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What to do about it.
    pub fn class(&self) -> ErrorClass {
        self.0.class
    }

    /// Whether the same call may succeed later.
    pub fn is_retriable(&self) -> bool {
        self.0.class == ErrorClass::Retriable
    }

    /// The broker's error code, if the error came from one.
    pub fn code(&self) -> Option<i16> {
        self.0.code
    }

    /// The topic it happened at.
    pub fn topic(&self) -> Option<&str> {
        self.0.topic.as_deref()
    }

    /// The partition it happened at.
    pub fn partition(&self) -> Option<i32> {
        self.0.partition
    }

    /// The offset it happened at.
    pub fn offset(&self) -> Option<i64> {
        self.0.offset
    }

    /// The node of the topology it happened in.
    pub fn node(&self) -> Option<&str> {
        self.0.node.as_deref()
    }

    /// Sets what to do about it.
    #[must_use]
    pub fn with_class(mut self, class: ErrorClass) -> Self {
        self.0.class = class;
        self
    }

    /// Sets the broker's error code.
    #[must_use]
    pub fn with_code(mut self, code: i16) -> Self {
        self.0.code = Some(code);
        self
    }

    /// Says at which topic, unless that is known already.
    #[must_use]
    pub fn at_topic(mut self, topic: impl Into<String>) -> Self {
        self.0.topic.get_or_insert_with(|| topic.into());
        self
    }

    /// Says at which partition, unless that is known already.
    #[must_use]
    pub fn at_partition(mut self, partition: i32) -> Self {
        self.0.partition.get_or_insert(partition);
        self
    }

    /// Says at which offset, unless that is known already.
    #[must_use]
    pub fn at_offset(mut self, offset: i64) -> Self {
        self.0.offset.get_or_insert(offset);
        self
    }

    /// Says in which node of the topology, unless that is known already.
    #[must_use]
    pub fn at_node(mut self, node: impl Into<String>) -> Self {
        self.0.node.get_or_insert_with(|| node.into());
        self
    }

    /// Says why.
    #[must_use]
    pub fn because(mut self, source: impl Into<BoxError>) -> Self {
        self.0.source = Some(source.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        let mut sep = " (";
        let mut part = |f: &mut fmt::Formatter<'_>, name: &str, value: &dyn fmt::Display| {
            let done = write!(f, "{sep}{name} {value}");
            sep = ", ";
            done
        };
        if let Some(topic) = &self.0.topic {
            part(f, "topic", topic)?;
        }
        if let Some(partition) = &self.0.partition {
            part(f, "partition", partition)?;
        }
        if let Some(offset) = &self.0.offset {
            part(f, "offset", offset)?;
        }
        if let Some(node) = &self.0.node {
            part(f, "node", node)?;
        }
        if let Some(code) = &self.0.code {
            part(f, "broker code", code)?;
        }
        if sep == ", " {
            f.write_str(")")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)?;
        let mut source = self.source();
        while let Some(cause) = source {
            write!(f, "\n  because: {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|s| s as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_names_the_place_and_leaves_the_cause_to_source() {
        let error = Error::new(ErrorKind::Serde, "cannot read the value")
            .at_topic("words")
            .at_partition(3)
            .at_offset(17)
            .at_node("KSTREAM-SOURCE-0000000000")
            .because("7 bytes instead of 8");
        assert_eq!(
            error.to_string(),
            "cannot read the value (topic words, partition 3, offset 17, node KSTREAM-SOURCE-0000000000)"
        );
        assert_eq!(error.source().map(ToString::to_string), Some("7 bytes instead of 8".to_owned()));
        assert!(format!("{error:?}").contains("because: 7 bytes"));
        assert_eq!(error.at_offset(18).offset(), Some(17), "the innermost place wins");
    }
}
