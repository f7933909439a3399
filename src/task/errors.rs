//! What happens to records that cannot be read, processed or written: the three handlers of Kafka Streams
//! (`DeserializationExceptionHandler`, `ProcessingExceptionHandler` of KIP-1033, `ProductionExceptionHandler`) and its
//! dead-letter queue (KIP-1034).

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::config::{Config, ErrorPolicy, TimestampPolicy};
use crate::error::{BoxError, Error};
use crate::record::{Headers, Timestamp};
use crate::serde::SerdeError;
use crate::task_id::TaskId;

/// Where an error happened, and the bytes of the input record it happened with.
#[derive(Debug)]
#[non_exhaustive]
pub struct ErrorContext<'a> {
    /// The topic of the input record; `None` in a punctuation.
    pub topic: Option<&'a str>,
    /// The partition of the input record, -1 in a punctuation.
    pub partition: i32,
    /// The offset of the input record, -1 in a punctuation.
    pub offset: i64,
    /// The node of the topology.
    pub node: &'a str,
    /// The task.
    pub task: TaskId,
    /// The timestamp of the input record.
    pub timestamp: Timestamp,
    /// The headers of the input record.
    pub headers: &'a Headers,
    /// The key of the input record as it was read.
    pub source_key: Option<&'a Bytes>,
    /// The value of the input record as it was read.
    pub source_value: Option<&'a Bytes>,
}

/// Which step failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorStage {
    /// A serde could not read a source record.
    Deserialization,
    /// User code, or a serde of a store, failed in a node.
    Processing,
    /// A record could not be written: its serde failed, or the topic refuses it.
    Production,
}

/// What a handler decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorResponse {
    /// Stop: the error becomes the application's.
    Fail,
    /// Drop the record at this node, count it, go on.
    Continue,
}

/// Decides about errors of records. By default the configuration's words (`fail`, `continue`) decide.
///
/// With `errors.dead.letter.queue.topic.name` set, the input record goes to that topic first, whatever the decision, with
/// Kafka Streams' headers (KIP-1034).
pub trait ErrorHandler: Send + Sync + 'static {
    /// Called once an error, on the worker's thread.
    fn handle(&self, stage: ErrorStage, error: &BoxError, context: &ErrorContext<'_>) -> ErrorResponse;
}

impl<F> ErrorHandler for F
where
    F: Fn(ErrorStage, &BoxError, &ErrorContext<'_>) -> ErrorResponse + Send + Sync + 'static,
{
    fn handle(&self, stage: ErrorStage, error: &BoxError, context: &ErrorContext<'_>) -> ErrorResponse {
        self(stage, error, context)
    }
}

/// The policies of an application.
#[derive(Clone)]
pub(crate) struct ErrorPolicies {
    pub(crate) handler: Arc<dyn ErrorHandler>,
    pub(crate) dead_letter_topic: Option<Arc<str>>,
    /// For sources without an extractor of their own.
    pub(crate) timestamps: TimestampPolicy,
}

impl fmt::Debug for ErrorPolicies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ErrorPolicies")
            .field("dead_letter_topic", &self.dead_letter_topic)
            .finish_non_exhaustive()
    }
}

/// The handler that the configuration's words make.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fixed {
    pub(crate) deserialization: ErrorResponse,
    pub(crate) processing: ErrorResponse,
    pub(crate) production: ErrorResponse,
}

impl ErrorHandler for Fixed {
    fn handle(&self, stage: ErrorStage, _: &BoxError, _: &ErrorContext<'_>) -> ErrorResponse {
        match stage {
            ErrorStage::Deserialization => self.deserialization,
            ErrorStage::Processing => self.processing,
            ErrorStage::Production => self.production,
        }
    }
}

/// The headers of a dead letter: those of the input record, then Kafka Streams' own (KIP-1034,
/// `ExceptionHandlerUtils.buildDeadLetterQueueRecord`). The stack trace is the chain of causes.
pub(crate) fn dead_letter_headers(error: &BoxError, kind: &str, context: &ErrorContext<'_>) -> Headers {
    let mut trace = format!("{kind}: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        trace.push_str("\nCaused by: ");
        trace.push_str(&cause.to_string());
        source = cause.source();
    }
    let mut headers = context.headers.clone();
    let mut add = |name: &str, value: Option<&str>| headers.add(name, value.map(str::as_bytes));
    add("__streams.errors.exception", Some(kind));
    add("__streams.errors.message", Some(&error.to_string()));
    add("__streams.errors.stacktrace", Some(&trace));
    add("__streams.errors.topic", context.topic);
    add("__streams.errors.partition", Some(&context.partition.to_string()));
    add("__streams.errors.offset", Some(&context.offset.to_string()));
    headers
}

/// Why a record went no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DropReason {
    /// The node needs a key.
    NullKey,
    /// The node needs a value.
    NullValue,
    /// The timestamp extractor returned a negative time.
    NegativeTimestamp,
    /// A serde could not read it and the policy is to go on.
    Deserialization,
    /// Its window is closed: it came later than the grace period allows.
    ExpiredWindow,
    /// A node failed and the policy is to go on.
    Processing,
    /// It could not be written and the policy is to go on.
    Production,
    /// A change of a versioned table that is not the latest of its key, where only the latest counts.
    OutOfOrder,
    /// The row names no row of the other table (foreign-key joins).
    NullForeignKey,
    /// An answer to a row that is another by now (foreign-key joins).
    Stale,
}

impl DropReason {
    pub(crate) const ALL: [Self; 10] = [
        Self::NullKey,
        Self::NullValue,
        Self::NegativeTimestamp,
        Self::Deserialization,
        Self::ExpiredWindow,
        Self::Processing,
        Self::Production,
        Self::OutOfOrder,
        Self::NullForeignKey,
        Self::Stale,
    ];
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NullKey => "null key",
            Self::NullValue => "null value",
            Self::NegativeTimestamp => "negative timestamp",
            Self::Deserialization => "deserialization error",
            Self::ExpiredWindow => "expired window",
            Self::Processing => "processing error",
            Self::Production => "production error",
            Self::OutOfOrder => "out of order",
            Self::NullForeignKey => "null foreign key",
            Self::Stale => "stale answer",
        })
    }
}

/// The class name that a dead letter gives for a kind of error, after the Java exceptions that tools know.
pub(crate) fn java_exception(stage: ErrorStage, error: &BoxError) -> String {
    if let Some(error) = error.downcast_ref::<Error>() {
        return format!("mainstem::{:?}", error.kind());
    }
    let class = match stage {
        _ if error.is::<SerdeError>() => "org.apache.kafka.common.errors.SerializationException",
        ErrorStage::Deserialization => "org.apache.kafka.common.errors.SerializationException",
        ErrorStage::Processing => "org.apache.kafka.streams.errors.StreamsException",
        ErrorStage::Production => "org.apache.kafka.common.KafkaException",
    };
    class.to_owned()
}

impl ErrorPolicies {
    /// What the configuration's words say.
    pub(crate) fn of(config: &Config) -> Self {
        let response = |policy| match policy {
            ErrorPolicy::Continue => ErrorResponse::Continue,
            _ => ErrorResponse::Fail,
        };
        let handler = Fixed {
            deserialization: response(config.deserialization_errors()),
            processing: response(config.processing_errors()),
            production: response(config.production_errors()),
        };
        Self {
            handler: Arc::new(handler),
            dead_letter_topic: config.dead_letter_topic().map(Into::into),
            timestamps: config.timestamp_policy(),
        }
    }
}
