//! Serdes: how keys and values become bytes and come back.
//!
//! A serde is chosen by type ([`DefaultSerde`]) or passed by hand through `Consumed`, `Grouped`, `Materialized` and
//! `Produced`; never by a class name. The built-in ones write what Kafka's own serializers write
//! (`org.apache.kafka.common.serialization`), byte for byte. No serde is ever asked about null: an absent key or value
//! belongs to the record.
//!
//! | Type | Serde | Bytes |
//! |---|---|---|
//! | `String`, `Arc<str>` | [`StringSerde`] ([`LossyStringSerde`] reads as Java does) | UTF-8 |
//! | `i16`, `i32`, `i64` | [`ShortSerde`], [`IntegerSerde`], [`LongSerde`] | 2, 4, 8 bytes, big-endian |
//! | `f32`, `f64` | [`FloatSerde`], [`DoubleSerde`] | IEEE 754 bits, 4 or 8 bytes, big-endian |
//! | `bool` | [`BooleanSerde`] | one byte, 0 or 1 |
//! | `Bytes`, `Vec<u8>` | [`BytesSerde`] | as they are |
//! | `Uuid` | [`UuidSerde`] ([`LenientUuidSerde`] reads any spelling) | the 36 characters in lower case |
//! | `Vec<T>` | [`ListSerde`], [`NullableListSerde`] | Java's list format |
//! | `Json<T>` | [`JsonSerde`] | JSON text |
//! | `Windowed<K>` | [`TimeWindowedSerde`], [`SessionWindowedSerde`] | the key, then the window's times |
//! | `()` | [`VoidSerde`] | none: there are only nulls |
//!
//! Unsigned integers have no serde of their own because Java has none: a JVM reader of the topic could not tell.

use std::error::Error as StdError;
use std::fmt;

use bytes::{Bytes, BytesMut};

use crate::{BoxError, Error, ErrorKind, Headers};

pub(crate) mod buffered;
pub(crate) mod change;
pub(crate) mod erased;
mod json;
mod list;
mod primitive;
pub(crate) mod subscription;
mod text;
#[allow(dead_code, reason = "until timestamped stores are there")]
pub(crate) mod timestamped;
pub(crate) mod windowed;

pub use json::{Json, JsonSerde};
pub use list::{ListSerde, NullableListSerde};
pub use primitive::{
    BooleanSerde, BytesSerde, DoubleSerde, FloatSerde, IntegerSerde, LongSerde, ShortSerde, VoidSerde,
};
pub use text::{LenientUuidSerde, LossyStringSerde, StringSerde, UuidSerde};
pub use windowed::{SessionWindowedSerde, TimeWindowedSerde, Window, Windowed};

static NO_HEADERS: Headers = Headers::new();

/// What a serde may know about the bytes it writes or reads.
///
/// ```
/// use mainstem::Headers;
/// use mainstem::serde::SerdeCx;
///
/// let mut headers = Headers::new();
/// headers.add("schema", Some(b"7"));
/// let cx = SerdeCx::value("orders").headers(&headers);
/// assert_eq!((cx.topic, cx.is_key, cx.headers.len()), ("orders", false, 1));
/// ```
#[derive(Debug, Clone, Copy)]
pub struct SerdeCx<'a> {
    /// The topic the bytes are read from or written to; for a state store, its changelog topic.
    pub topic: &'a str,
    /// Whether they are a key (`true`) or a value (`false`).
    pub is_key: bool,
    /// The headers of the record they belong to.
    pub headers: &'a Headers,
}

impl<'a> SerdeCx<'a> {
    /// The key of a record without headers.
    pub const fn key(topic: &'a str) -> Self {
        Self { topic, is_key: true, headers: &NO_HEADERS }
    }

    /// The value of a record without headers.
    pub const fn value(topic: &'a str) -> Self {
        Self { topic, is_key: false, headers: &NO_HEADERS }
    }

    /// Sets the headers.
    #[must_use]
    pub const fn headers(self, headers: &'a Headers) -> Self {
        Self { headers, ..self }
    }
}

/// How values of a type become bytes and come back.
///
/// ```
/// use bytes::{BufMut, Bytes, BytesMut};
/// use mainstem::serde::{Serde, SerdeCx, SerdeError};
///
/// #[derive(Clone, Copy)]
/// struct Celsius;
///
/// impl Serde<i16> for Celsius {
///     const CANONICAL: bool = true;
///     fn write(&self, value: &i16, _: &SerdeCx<'_>, out: &mut BytesMut) -> Result<(), SerdeError> {
///         out.put_i16_le(*value);
///         Ok(())
///     }
///     fn read(&self, bytes: &Bytes, _: &SerdeCx<'_>) -> Result<i16, SerdeError> {
///         let two = bytes[..].try_into().map_err(|_| SerdeError::length(2, bytes.len()))?;
///         Ok(i16::from_le_bytes(two))
///     }
/// }
///
/// let cx = SerdeCx::value("weather");
/// let mut out = BytesMut::new();
/// Celsius.write(&-3, &cx, &mut out)?;
/// assert_eq!(Celsius.read(&out.freeze(), &cx)?, -3);
/// # Ok::<_, SerdeError>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not write and read `{T}`",
    note = "implement `Serde<{T}>` for `{Self}`, or choose a serde of `mainstem::serde` that does"
)]
pub trait Serde<T>: Clone + Send + Sync + 'static {
    /// Whether equal values always have equal bytes, and bytes that could be read are the bytes that would be written.
    ///
    /// The bytes of such a key are written once and reused for hashing, stores, changelogs and sinks. When in doubt
    /// say `false`: it costs time; a wrong `true` splits one key into two.
    const CANONICAL: bool;

    /// The length in bytes of every value, for the types that Java's `ListSerializer` writes without a length before
    /// each entry (short, integer, long, float, double, UUID). `None`, the default, for everything else.
    const LIST_ENTRY_LEN: Option<usize> = None;

    /// How many bytes at the end of a key say in which window it is. A sink chooses the partition by the bytes before
    /// them, so that all windows of a key are in one (`WindowedStreamPartitioner`). 0 for keys without a window.
    const WINDOW_BYTES: usize = 0;

    /// Appends the value's bytes to `out`. After an error, what was appended means nothing and the caller cuts it off.
    ///
    /// # Errors
    /// If the value cannot be written.
    fn write(&self, value: &T, cx: &SerdeCx<'_>, out: &mut BytesMut) -> Result<(), SerdeError>;

    /// The value of exactly these bytes.
    ///
    /// # Errors
    /// If they are no value of the type, or more than one.
    fn read(&self, bytes: &Bytes, cx: &SerdeCx<'_>) -> Result<T, SerdeError>;
}

/// Names a type's own serde, which is used wherever none is passed.
///
/// ```
/// use mainstem::serde::{DefaultSerde, Json, JsonSerde};
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Order { id: u64 }
///
/// impl DefaultSerde for Order {
///     type Serde = JsonSerde;
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no serde of its own",
    label = "how are its bytes written and read?",
    note = "implement `mainstem::serde::DefaultSerde` for `{Self}`, wrap it as `Json<{Self}>`, or pass serdes through `Consumed`, `Grouped`, `Materialized` or `Produced`"
)]
pub trait DefaultSerde: Sized {
    /// The serde of this type.
    type Serde: Serde<Self> + Default;
}

/// A key or value could not be written or read.
///
/// ```
/// use mainstem::serde::SerdeError;
/// use mainstem::{Error, ErrorKind};
///
/// let error: Error = SerdeError::new("an order needs an id").because("missing field `id`").into();
/// assert_eq!(error.kind(), ErrorKind::Serde);
/// assert_eq!(error.to_string(), "an order needs an id");
/// ```
pub struct SerdeError(Box<Inner>);

struct Inner {
    message: String,
    source: Option<BoxError>,
}

impl SerdeError {
    /// An error with a message that says what was expected and what was there.
    pub fn new(message: impl Into<String>) -> Self {
        Self(Box::new(Inner { message: message.into(), source: None }))
    }

    /// Bytes of the wrong length.
    ///
    /// ```
    /// let error = mainstem::serde::SerdeError::length(8, 7);
    /// assert_eq!(error.to_string(), "7 bytes instead of 8");
    /// ```
    pub fn length(expected: usize, actual: usize) -> Self {
        let s = if actual == 1 { "" } else { "s" };
        Self::new(format!("{actual} byte{s} instead of {expected}"))
    }

    /// Says why.
    #[must_use]
    pub fn because(mut self, source: impl Into<BoxError>) -> Self {
        self.0.source = Some(source.into());
        self
    }
}

impl fmt::Display for SerdeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for SerdeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SerdeError")
            .field("message", &self.0.message)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for SerdeError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|s| s as &(dyn StdError + 'static))
    }
}

impl From<SerdeError> for Error {
    fn from(error: SerdeError) -> Self {
        let Inner { message, source } = *error.0;
        let converted = Error::new(ErrorKind::Serde, message);
        match source {
            Some(source) => converted.because(source),
            None => converted,
        }
    }
}

#[cfg(test)]
mod tests;
