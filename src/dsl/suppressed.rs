//! Holding back a table's changes (`org.apache.kafka.streams.kstream.Suppressed`).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::windows::millis;
use crate::serde::erased::SerdeRef;
use crate::serde::{DefaultSerde, Windowed};

/// What happens when the buffer is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenFull {
    Emit,
    ShutDown,
}

/// How much is held back, and how it is logged.
#[derive(Debug, Clone)]
pub(crate) struct Buffer {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
    pub(crate) when_full: WhenFull,
    pub(crate) changelog: Option<Vec<(String, String)>>,
}

/// How much a suppression may hold back before it sends the oldest changes on early (`BufferConfig.EagerBufferConfig`).
#[derive(Debug, Clone)]
pub struct BufferConfig(Buffer);

/// How much a suppression may hold back, where nothing may leave early (`BufferConfig.StrictBufferConfig`).
#[derive(Debug, Clone)]
pub struct StrictBufferConfig(Buffer);

impl BufferConfig {
    fn of(records: usize, bytes: usize) -> Self {
        Self(Buffer { records, bytes, when_full: WhenFull::Emit, changelog: Some(Vec::new()) })
    }

    /// As much as there is. The memory is the engine's, so this is safe as far as the disk goes.
    pub fn unbounded() -> StrictBufferConfig {
        Self::of(usize::MAX, usize::MAX).shut_down_when_full()
    }

    /// At most so many keys.
    pub fn max_records(records: usize) -> Self {
        Self::of(records, usize::MAX)
    }

    /// At most so many bytes: of keys, values and headers, as Kafka Streams counts them.
    pub fn max_bytes(bytes: usize) -> Self {
        Self::of(usize::MAX, bytes)
    }

    /// Also at most so many keys.
    #[must_use]
    pub fn and_max_records(mut self, records: usize) -> Self {
        self.0.records = records;
        self
    }

    /// Also at most so many bytes.
    #[must_use]
    pub fn and_max_bytes(mut self, bytes: usize) -> Self {
        self.0.bytes = bytes;
        self
    }

    /// The task fails when more would have to be held back.
    pub fn shut_down_when_full(self) -> StrictBufferConfig {
        StrictBufferConfig(Buffer { when_full: WhenFull::ShutDown, ..self.0 })
    }
}

macro_rules! logging {
    ($config:ident) => {
        impl $config {
            /// Keeps no changelog of what is held back: it is lost to the task when it moves.
            #[must_use]
            pub fn logging_disabled(mut self) -> Self {
                self.0.changelog = None;
                self
            }

            /// Sets a property of the changelog topic.
            #[must_use]
            pub fn changelog_config(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
                self.0.changelog.get_or_insert_default().push((key.into(), value.into()));
                self
            }
        }
    };
}

logging!(BufferConfig);
logging!(StrictBufferConfig);

/// Where changes may leave early, a buffer from which they do not is as good.
impl From<StrictBufferConfig> for BufferConfig {
    fn from(config: StrictBufferConfig) -> Self {
        Self(config.0)
    }
}

/// When a change leaves the buffer.
pub(crate) enum Until<K> {
    /// So many milliseconds after the first change of its key that is held back.
    Limit(i64),
    /// When the window that its key has is closed; the function gives its end.
    WindowCloses(fn(&K) -> i64),
}

/// Which changes of a table are held back, and for how long.
///
/// ```
/// use std::time::Duration;
/// use mainstem::prelude::*;
/// use mainstem::testing::TopologyTestDriver;
///
/// let builder = StreamsBuilder::new();
/// builder
///     .stream::<String, String>("page-views")
///     .group_by_key("by-page")
///     .windowed_by(Tumbling::of(Duration::from_secs(60)))
///     .count("views-per-minute")
///     .suppress(Suppressed::until_window_closes(BufferConfig::unbounded()).named("final"))
///     .to_stream_with_key(|page, _| page.key.clone())
///     .to("out");
/// let mut driver = TopologyTestDriver::new(&builder.build()?)?;
/// let input = driver.input_topic::<String, String>("page-views");
/// let output = driver.output_topic::<String, i64>("out");
/// for at in [1_000, 2_000, 60_000] {
///     input.pipe(&mut driver, Record::new("start".to_owned(), "x".to_owned(), at))?;
/// }
/// let counts: Vec<_> = output.read_all(&mut driver)?.into_iter().map(|r| r.value.unwrap()).collect();
/// assert_eq!(counts, [2], "of the first minute, once");
/// # Ok::<(), mainstem::Error>(())
/// ```
pub struct Suppressed<K, V> {
    pub(crate) until: Result<Until<K>, String>,
    pub(crate) buffer: Buffer,
    pub(crate) name: Option<Arc<str>>,
    /// For a table that does not say how its values are written.
    pub(crate) values: SerdeRef<V>,
}

impl<K, V> fmt::Debug for Suppressed<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Suppressed")
            .field("name", &self.name)
            .field("buffer", &self.buffer)
            .finish_non_exhaustive()
    }
}

impl<K, V: DefaultSerde + 'static> Suppressed<K, V> {
    /// Sends on of each key at most one change in this time: the latest, when the stream time is so much later than the first
    /// that was held back.
    pub fn until_time_limit(limit: Duration, buffer: impl Into<BufferConfig>) -> Self {
        let until = millis("a time limit", limit, 0).map(Until::Limit);
        Self { until, buffer: buffer.into().0, name: None, values: SerdeRef::of() }
    }
}

impl<K, V: DefaultSerde + 'static> Suppressed<Windowed<K>, V> {
    /// Sends on the final result of each window, once. Deletions are held back as well, and then forgotten.
    pub fn until_window_closes(buffer: StrictBufferConfig) -> Self {
        let until = Ok(Until::WindowCloses(|key: &Windowed<K>| key.window.end));
        Self { until, buffer: buffer.0, name: None, values: SerdeRef::of() }
    }
}

impl<K, V> Suppressed<K, V> {
    /// Names the node, and the store `<name>-store`.
    #[must_use]
    pub fn named(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = Some(name.into());
        self
    }
}
