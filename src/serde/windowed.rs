//! Keys with a window, and their bytes in topics: the key, then the window's times (`TimeWindowedSerializer`,
//! `SessionWindowedSerializer`).

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use super::erased::SerdeRef;
use super::{DefaultSerde, Serde, SerdeCx, SerdeError};
use crate::Timestamp;

/// A span of event time, in milliseconds since the Unix epoch.
///
/// A window of fixed size includes its start and not its end; a sliding window and a session include both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Window {
    /// Where it begins.
    pub start: Timestamp,
    /// Where it ends.
    pub end: Timestamp,
}

/// A key in a window (`org.apache.kafka.streams.kstream.Windowed`): what windowed aggregations are tables of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Windowed<K> {
    /// The key of the records.
    pub key: K,
    /// The window.
    pub window: Window,
}

impl<K: fmt::Display> fmt::Display for Windowed<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}@{}/{}]", self.key, self.window.start, self.window.end)
    }
}

impl Window {
    /// The window of a size that begins at a time; its end is at most the largest there is
    /// (`WindowKeySchema.timeWindowForSize`).
    pub(crate) fn of_size(start: Timestamp, size: i64) -> Self {
        Self { start, end: start.saturating_add(size) }
    }
}

/// The bytes of one time.
pub(crate) const TIME: usize = size_of::<Timestamp>();

/// The inner key's bytes, and what follows them in `N` bytes.
pub(crate) fn split_key<const N: usize>(bytes: &[u8]) -> Result<(&[u8], &[u8; N]), SerdeError> {
    bytes.split_last_chunk::<N>().ok_or_else(|| {
        SerdeError::new(format!("{} bytes, too short for a windowed key of at least {N}", bytes.len()))
    })
}

/// A big-endian time at a place that is known to be inside.
pub(crate) fn time_at(bytes: &[u8], at: usize) -> Timestamp {
    bytes[at..].first_chunk::<TIME>().map_or(-1, |time| Timestamp::from_be_bytes(*time))
}

/// Keys in windows of one size: the key, then the window's start (`org.apache.kafka.streams.kstream.TimeWindowedSerializer`).
///
/// The size is not in the bytes: whoever reads must know it.
///
/// ```
/// use std::time::Duration;
/// use bytes::BytesMut;
/// use mainstem::serde::{Serde, SerdeCx, StringSerde, TimeWindowedSerde, Window, Windowed};
///
/// let serde = TimeWindowedSerde::of_size(StringSerde, Duration::from_secs(1));
/// let key = Windowed { key: "k".to_owned(), window: Window { start: 1_000, end: 2_000 } };
/// let mut out = BytesMut::new();
/// serde.write(&key, &SerdeCx::key("out"), &mut out)?;
/// assert_eq!(out[..], [0x6b, 0, 0, 0, 0, 0, 0, 0x03, 0xe8]);
/// assert_eq!(serde.read(&out.freeze(), &SerdeCx::key("out"))?, key);
/// # Ok::<_, mainstem::serde::SerdeError>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct TimeWindowedSerde<S> {
    inner: S,
    size: i64,
}

impl<S> TimeWindowedSerde<S> {
    /// Keys of the serde `inner` in windows of this size; for sliding windows it is the time difference.
    pub fn of_size(inner: S, size: std::time::Duration) -> Self {
        Self::of_millis(inner, i64::try_from(size.as_millis()).unwrap_or(i64::MAX))
    }

    pub(crate) fn of_millis(inner: S, size: i64) -> Self {
        Self { inner, size }
    }
}

impl<S: Default> Default for TimeWindowedSerde<S> {
    /// Windows without an end: what is read ends at the largest time.
    fn default() -> Self {
        Self { inner: S::default(), size: i64::MAX }
    }
}

impl<K, S: Serde<K>> Serde<Windowed<K>> for TimeWindowedSerde<S> {
    /// Two serdes of this type may differ in the size.
    const CANONICAL: bool = false;

    const WINDOW_BYTES: usize = TIME;

    fn write(&self, key: &Windowed<K>, cx: &SerdeCx<'_>, out: &mut BytesMut) -> Result<(), SerdeError> {
        self.inner.write(&key.key, cx, out)?;
        out.put_i64(key.window.start);
        Ok(())
    }

    fn read(&self, bytes: &Bytes, cx: &SerdeCx<'_>) -> Result<Windowed<K>, SerdeError> {
        let (inner, window) = split_key::<TIME>(bytes)?;
        let key = self.inner.read(&bytes.slice_ref(inner), cx)?;
        Ok(Windowed { key, window: Window::of_size(time_at(window, 0), self.size) })
    }
}

/// Keys in sessions: the key, then the session's end, then its start
/// (`org.apache.kafka.streams.kstream.SessionWindowedSerializer`).
///
/// ```
/// use bytes::BytesMut;
/// use mainstem::serde::{Serde, SerdeCx, SessionWindowedSerde, StringSerde, Window, Windowed};
///
/// let serde = SessionWindowedSerde::new(StringSerde);
/// let key = Windowed { key: "k".to_owned(), window: Window { start: 1, end: 2 } };
/// let mut out = BytesMut::new();
/// serde.write(&key, &SerdeCx::key("out"), &mut out)?;
/// assert_eq!(out[..], [0x6b, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1]);
/// assert_eq!(serde.read(&out.freeze(), &SerdeCx::key("out"))?, key);
/// # Ok::<_, mainstem::serde::SerdeError>(())
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct SessionWindowedSerde<S> {
    inner: S,
}

impl<S> SessionWindowedSerde<S> {
    /// Keys of the serde `inner`.
    pub fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<K, S: Serde<K>> Serde<Windowed<K>> for SessionWindowedSerde<S> {
    const CANONICAL: bool = S::CANONICAL;

    const WINDOW_BYTES: usize = 2 * TIME;

    fn write(&self, key: &Windowed<K>, cx: &SerdeCx<'_>, out: &mut BytesMut) -> Result<(), SerdeError> {
        self.inner.write(&key.key, cx, out)?;
        out.put_i64(key.window.end);
        out.put_i64(key.window.start);
        Ok(())
    }

    fn read(&self, bytes: &Bytes, cx: &SerdeCx<'_>) -> Result<Windowed<K>, SerdeError> {
        let (inner, window) = split_key::<{ 2 * TIME }>(bytes)?;
        let key = self.inner.read(&bytes.slice_ref(inner), cx)?;
        Ok(Windowed { key, window: Window { start: time_at(window, TIME), end: time_at(window, 0) } })
    }
}

/// The key of a row in a window store: the key, the window's start, and a number that tells duplicates apart, zero where
/// there are none (`WindowKeySchema.toStoreKeyBinary`).
#[derive(Debug, Clone)]
pub(crate) struct WindowStoreKeySerde<K> {
    pub(crate) inner: SerdeRef<K>,
    pub(crate) size: i64,
}

impl<K: Clone + 'static> Serde<Windowed<K>> for WindowStoreKeySerde<K> {
    const CANONICAL: bool = false;

    fn write(&self, key: &Windowed<K>, cx: &SerdeCx<'_>, out: &mut BytesMut) -> Result<(), SerdeError> {
        self.inner.write(&key.key, cx, out)?;
        out.put_i64(key.window.start);
        out.put_i32(0);
        Ok(())
    }

    fn read(&self, bytes: &Bytes, cx: &SerdeCx<'_>) -> Result<Windowed<K>, SerdeError> {
        let (inner, window) = split_key::<{ TIME + 4 }>(bytes)?;
        let key = self.inner.read(&bytes.slice_ref(inner), cx)?;
        Ok(Windowed { key, window: Window::of_size(time_at(window, 0), self.size) })
    }
}

/// A topic with such keys need not say how they are read: their serde comes down with the stream. This one is for topics
/// that are read or written without one, and takes windows for time windows whose size is not known.
impl<K: DefaultSerde> DefaultSerde for Windowed<K> {
    type Serde = TimeWindowedSerde<K::Serde>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serde::StringSerde;

    #[test]
    fn keys_that_are_too_short_are_errors() {
        let cx = SerdeCx::key("t");
        for len in 0..20 {
            let bytes = Bytes::from(vec![b'a'; len]);
            let time = TimeWindowedSerde::of_millis(StringSerde, 10);
            assert_eq!(Serde::<Windowed<String>>::read(&time, &bytes, &cx).is_ok(), len >= 8);
            let session = SessionWindowedSerde::new(StringSerde);
            assert_eq!(Serde::<Windowed<String>>::read(&session, &bytes, &cx).is_ok(), len >= 16);
            let row = WindowStoreKeySerde::<String> { inner: SerdeRef::of(), size: 10 };
            assert_eq!(Serde::<Windowed<String>>::read(&row, &bytes, &cx).is_ok(), len >= 12);
        }
    }

    #[test]
    fn the_end_is_never_past_the_largest_time() {
        assert_eq!(Window::of_size(i64::MAX - 1, 10).end, i64::MAX);
    }
}
