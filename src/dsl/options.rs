//! The values that carry an operation's options, instead of overloads.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::config::StoreKind;
use crate::error::BoxError;
use crate::record::Timestamp;
use crate::serde::erased::SerdeRef;
use crate::serde::{DefaultSerde, Serde};
use crate::store::versioned::VersionedOptions;
use crate::store::{KvOptions, StoreBlueprint};
use crate::task::queue::{Extract, Extractor};
use crate::topology::AutoOffsetReset;

/// Serdes given or not, and what the types themselves offer.
pub(crate) struct Serdes<K, V> {
    key: Option<SerdeRef<K>>,
    value: Option<SerdeRef<V>>,
    default: Option<(SerdeRef<K>, SerdeRef<V>)>,
}

impl<K, V> Clone for Serdes<K, V> {
    fn clone(&self) -> Self {
        Self { key: self.key.clone(), value: self.value.clone(), default: self.default.clone() }
    }
}

impl<K: 'static, V: 'static> Serdes<K, V> {
    pub(super) fn given(keys: impl Serde<K>, values: impl Serde<V>) -> Self {
        Self { key: Some(SerdeRef::new(keys)), value: Some(SerdeRef::new(values)), default: None }
    }

    pub(super) fn own() -> Self
    where
        K: DefaultSerde,
        V: DefaultSerde,
    {
        Self { key: None, value: None, default: Some((SerdeRef::of(), SerdeRef::of())) }
    }

    /// The given serde, else that of the stream, else the type's own.
    pub(crate) fn key(&self, inherited: Option<&SerdeRef<K>>) -> SerdeRef<K> {
        let default = self.default.as_ref().map(|(key, _)| key);
        self.key
            .as_ref()
            .or(inherited)
            .or(default)
            .expect("serdes are given, or the types have their own")
            .clone()
    }

    /// The given serde, else that of the stream, else the type's own.
    pub(crate) fn value(&self, inherited: Option<&SerdeRef<V>>) -> SerdeRef<V> {
        let default = self.default.as_ref().map(|(_, value)| value);
        self.value
            .as_ref()
            .or(inherited)
            .or(default)
            .expect("serdes are given, or the types have their own")
            .clone()
    }
}

/// How a stream or a table reads its topics.
///
/// ```
/// use mainstem::prelude::*;
///
/// let views = Consumed::<String, String>::topic("page-views")
///     .reset(AutoOffsetReset::Latest)
///     .timestamps(|view| Ok(view.record_timestamp + 1));
/// StreamsBuilder::new().stream(views);
/// ```
pub struct Consumed<K, V> {
    pub(crate) topics: Vec<Arc<str>>,
    pub(crate) serdes: Serdes<K, V>,
    pub(crate) name: Option<Arc<str>>,
    pub(crate) reset: Option<AutoOffsetReset>,
    pub(crate) extractor: Option<Extractor<K, V>>,
}

impl<K: 'static, V: 'static> Consumed<K, V> {
    /// One topic, with the types' own serdes.
    pub fn topic(topic: impl Into<Arc<str>>) -> Self
    where
        K: DefaultSerde,
        V: DefaultSerde,
    {
        Self::topics([topic])
    }

    /// Several topics as one source, with the types' own serdes.
    pub fn topics<T: Into<Arc<str>>>(topics: impl IntoIterator<Item = T>) -> Self
    where
        K: DefaultSerde,
        V: DefaultSerde,
    {
        Self::new(topics.into_iter().map(Into::into).collect(), Serdes::own())
    }

    /// Topics with these serdes.
    pub fn with_serdes<T: Into<Arc<str>>>(
        topics: impl IntoIterator<Item = T>,
        keys: impl Serde<K>,
        values: impl Serde<V>,
    ) -> Self {
        Self::new(topics.into_iter().map(Into::into).collect(), Serdes::given(keys, values))
    }

    fn new(topics: Vec<Arc<str>>, serdes: Serdes<K, V>) -> Self {
        Self { topics, serdes, name: None, reset: None, extractor: None }
    }

    /// Names the source node.
    #[must_use]
    pub fn named(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Where to start without a committed offset; else the property `auto.offset.reset` decides.
    #[must_use]
    pub fn reset(mut self, reset: AutoOffsetReset) -> Self {
        self.reset = Some(reset);
        self
    }

    /// Takes event time from the record; a negative one drops it, an error stops the task.
    #[must_use]
    pub fn timestamps(
        mut self,
        extractor: impl Fn(&Extract<'_, K, V>) -> Result<Timestamp, BoxError> + Send + Sync + 'static,
    ) -> Self {
        self.extractor = Some(Arc::new(extractor));
        self
    }
}

impl<K: DefaultSerde + 'static, V: DefaultSerde + 'static> From<&str> for Consumed<K, V> {
    fn from(topic: &str) -> Self {
        Self::topic(topic)
    }
}

impl<K: DefaultSerde + 'static, V: DefaultSerde + 'static> From<String> for Consumed<K, V> {
    fn from(topic: String) -> Self {
        Self::topic(topic)
    }
}

impl<K: DefaultSerde + 'static, V: DefaultSerde + 'static> From<&String> for Consumed<K, V> {
    fn from(topic: &String) -> Self {
        Self::topic(topic.as_str())
    }
}

/// A function of the record that chooses its partition.
pub(crate) type Partitioner<K, V> = Arc<dyn Fn(Option<&K>, Option<&V>, i32) -> i32 + Send + Sync>;

/// A function of the record that chooses its topic.
pub(crate) type TopicChooser<K, V> = Arc<dyn Fn(Option<&K>, Option<&V>) -> String + Send + Sync>;

/// Where and how a stream is written.
///
/// ```
/// use mainstem::prelude::*;
///
/// let builder = StreamsBuilder::new();
/// let orders = builder.stream::<String, String>("orders");
/// orders.to(Produced::topic("all").named("sink").partitioner(|_, order: Option<&String>, count| match order {
///     Some(order) if order.starts_with("urgent") => 0,
///     _ => count - 1,
/// }));
/// orders.to(Produced::chosen_by("by-country", |country: Option<&String>, _| {
///     format!("orders-{}", country.map_or("unknown", |c| c))
/// }));
/// builder.build()?;
/// # Ok::<(), mainstem::Error>(())
/// ```
pub struct Produced<K, V> {
    pub(crate) topic: SinkTopic<K, V>,
    pub(crate) serdes: Serdes<K, V>,
    pub(crate) name: Option<Arc<str>>,
    pub(crate) partitioner: Option<Partitioner<K, V>>,
}

pub(crate) enum SinkTopic<K, V> {
    Fixed(Arc<str>),
    /// What descriptions print, and the function.
    Chosen(Arc<str>, TopicChooser<K, V>),
}

impl<K: 'static, V: 'static> Produced<K, V> {
    /// A topic, with the stream's serdes or the types' own.
    pub fn topic(topic: impl Into<Arc<str>>) -> Self
    where
        K: DefaultSerde,
        V: DefaultSerde,
    {
        Self { topic: SinkTopic::Fixed(topic.into()), serdes: Serdes::own(), name: None, partitioner: None }
    }

    /// A topic, with these serdes.
    pub fn with_serdes(topic: impl Into<Arc<str>>, keys: impl Serde<K>, values: impl Serde<V>) -> Self {
        let serdes = Serdes::given(keys, values);
        Self { topic: SinkTopic::Fixed(topic.into()), serdes, name: None, partitioner: None }
    }

    /// A topic that a function of the record chooses (`TopicNameExtractor`); `label` stands for it in descriptions. The
    /// topics must exist.
    pub fn chosen_by(
        label: impl Into<Arc<str>>,
        choose: impl Fn(Option<&K>, Option<&V>) -> String + Send + Sync + 'static,
    ) -> Self
    where
        K: DefaultSerde,
        V: DefaultSerde,
    {
        let topic = SinkTopic::Chosen(label.into(), Arc::new(choose));
        Self { topic, serdes: Serdes::own(), name: None, partitioner: None }
    }

    /// Names the sink node.
    #[must_use]
    pub fn named(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Chooses the partition of each record, from its key, its value and the topic's partition count.
    #[must_use]
    pub fn partitioner(
        mut self,
        partitioner: impl Fn(Option<&K>, Option<&V>, i32) -> i32 + Send + Sync + 'static,
    ) -> Self {
        self.partitioner = Some(Arc::new(partitioner));
        self
    }
}

impl<K: DefaultSerde + 'static, V: DefaultSerde + 'static> From<&str> for Produced<K, V> {
    fn from(topic: &str) -> Self {
        Self::topic(topic)
    }
}

impl<K: DefaultSerde + 'static, V: DefaultSerde + 'static> From<String> for Produced<K, V> {
    fn from(topic: String) -> Self {
        Self::topic(topic)
    }
}

impl<K: DefaultSerde + 'static, V: DefaultSerde + 'static> From<&String> for Produced<K, V> {
    fn from(topic: &String) -> Self {
        Self::topic(topic.as_str())
    }
}

/// How a stream is grouped. The name is that of the repartition topic, should one be needed.
///
/// ```
/// use mainstem::prelude::*;
///
/// let builder = StreamsBuilder::new();
/// let words = builder.stream::<String, String>("words");
/// words.group_by("by-length", |_, word| word.len() as i64).count("words-of-a-length");
/// words.group_by_key(Grouped::named("by-key")).reduce("longest", |a, b| if a.len() >= b.len() { a } else { b });
/// builder.build()?;
/// # Ok::<(), mainstem::Error>(())
/// ```
pub struct Grouped<K, V> {
    pub(crate) serdes: Serdes<K, V>,
    pub(crate) name: Option<Arc<str>>,
}

impl<K, V> Clone for Grouped<K, V> {
    fn clone(&self) -> Self {
        Self { serdes: self.serdes.clone(), name: self.name.clone() }
    }
}

impl<K: 'static, V: 'static> Grouped<K, V> {
    /// Names the repartition topic `<application id>-<name>-repartition`.
    pub fn named(name: impl Into<Arc<str>>) -> Self
    where
        K: DefaultSerde,
        V: DefaultSerde,
    {
        Self { serdes: Serdes::own(), name: Some(name.into()) }
    }

    /// A grouping with these serdes.
    pub fn with_serdes(keys: impl Serde<K>, values: impl Serde<V>) -> Self {
        Self { serdes: Serdes::given(keys, values), name: None }
    }

    /// Names the repartition topic of a grouping with given serdes.
    #[must_use]
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = Some(name.into());
        self
    }
}

impl<K: DefaultSerde + 'static, V: DefaultSerde + 'static> From<&str> for Grouped<K, V> {
    fn from(name: &str) -> Self {
        Self::named(name)
    }
}

impl<K: DefaultSerde + 'static, V: DefaultSerde + 'static> From<()> for Grouped<K, V> {
    fn from((): ()) -> Self {
        Self { serdes: Serdes::own(), name: None }
    }
}

/// How the state of a table or an aggregation is kept.
///
/// The name is that of the store, and of its changelog topic `<application id>-<name>-changelog`.
///
/// ```
/// use mainstem::prelude::*;
///
/// let builder = StreamsBuilder::new();
/// builder
///     .stream::<String, String>("page-views")
///     .group_by_key("by-page")
///     .count(Materialized::named("views").caching_disabled().changelog_config("segment.ms", "600000"));
/// builder.build()?;
/// # Ok::<(), mainstem::Error>(())
/// ```
pub struct Materialized<K, V> {
    pub(crate) store: Option<Arc<str>>,
    pub(crate) processor: Option<Arc<str>>,
    pub(crate) serdes: Serdes<K, V>,
    pub(crate) cached: bool,
    pub(crate) kind: Option<StoreKind>,
    /// How much of the past a versioned store knows.
    pub(crate) history: Option<Duration>,
    pub(crate) changelog: Option<Vec<(String, String)>>,
    /// How long rows of windows are kept, if longer than they have to be.
    pub(crate) retention: Option<Duration>,
    /// Whether options were given at all; Java's `count` draws one more number if so and no name is among them.
    pub(crate) given: bool,
}

impl<K: 'static, V: 'static> Materialized<K, V> {
    /// A store of that name, with the stream's serdes or the types' own.
    pub fn named(store: impl Into<Arc<str>>) -> Self
    where
        K: DefaultSerde,
        V: DefaultSerde,
    {
        Self::new(Some(store.into()), Serdes::own())
    }

    /// A store of that name, with these serdes.
    pub fn with_serdes(store: impl Into<Arc<str>>, keys: impl Serde<K>, values: impl Serde<V>) -> Self {
        Self::new(Some(store.into()), Serdes::given(keys, values))
    }

    /// A store whose name is generated; see
    /// [`StreamsBuilder::allow_generated_names`](crate::dsl::StreamsBuilder::allow_generated_names).
    pub fn unnamed() -> Self
    where
        K: DefaultSerde,
        V: DefaultSerde,
    {
        Self { given: false, ..Self::new(None, Serdes::own()) }
    }

    fn new(store: Option<Arc<str>>, serdes: Serdes<K, V>) -> Self {
        Self {
            store,
            processor: None,
            serdes,
            cached: true,
            kind: None,
            history: None,
            changelog: Some(Vec::new()),
            retention: None,
            given: true,
        }
    }

    /// Names the operator's own node.
    #[must_use]
    pub fn processor(mut self, name: impl Into<Arc<str>>) -> Self {
        self.processor = Some(name.into());
        self
    }

    /// Passes every update on at once, whatever `statestore.cache.max.bytes` is.
    #[must_use]
    pub fn caching_disabled(mut self) -> Self {
        self.given = true;
        self.cached = false;
        self
    }

    /// How long the rows of a windowed aggregation are kept at least: event time from the newest row on. Without it as long
    /// as the windows need, which is also the least; queries see older windows with more. Other stores have no use for it.
    #[must_use]
    pub fn retention(mut self, retention: Duration) -> Self {
        self.given = true;
        self.retention = Some(retention);
        self
    }

    /// Where the rows are kept (`Materialized.as(StoreType)`), whatever `default.dsl.store` is.
    #[must_use]
    pub fn store_kind(mut self, kind: StoreKind) -> Self {
        self.given = true;
        self.kind = Some(kind);
        self
    }

    /// Keeps the versions of each row for at least this long (KIP-889): streams are joined with what a row was at their time,
    /// and what comes out of order changes the past alone (KIP-914). Such a store has no record cache.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use mainstem::prelude::*;
    ///
    /// let builder = StreamsBuilder::new();
    /// let hour = Duration::from_secs(3600);
    /// let prices = builder.table::<String, i64>("prices", Materialized::named("prices").versioned(hour));
    /// builder
    ///     .stream::<String, String>("orders")
    ///     .join_table(&prices, (), |order, price| format!("{order} at {price}, as it was then"))
    ///     .to("out");
    /// builder.build()?;
    /// # Ok::<(), mainstem::Error>(())
    /// ```
    #[must_use]
    pub fn versioned(mut self, history: Duration) -> Self {
        self.given = true;
        self.history = Some(history);
        self
    }

    /// Keeps no changelog: nothing else has the rows. They are lost to the task when it moves, and with the process if they are
    /// in memory. On disk they survive a kill: they are brought there before the offsets of their records are committed, once
    /// a commit, and processing is at least once as far as they go.
    #[must_use]
    pub fn logging_disabled(mut self) -> Self {
        self.given = true;
        self.changelog = None;
        self
    }

    /// Sets a property of the changelog topic.
    #[must_use]
    pub fn changelog_config(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.given = true;
        self.changelog.get_or_insert_default().push((key.into(), value.into()));
        self
    }
}

impl<K: Clone + 'static, V: Clone + 'static> Materialized<K, V> {
    /// The plan of the store that these options ask for, under the name given or generated.
    pub(crate) fn blueprint(
        &self,
        name: &Arc<str>,
        keys: &SerdeRef<K>,
        values: &SerdeRef<V>,
    ) -> Arc<dyn StoreBlueprint> {
        let Some(history) = self.history else { return self.store_options(name, keys, values).blueprint() };
        let options = VersionedOptions {
            name: name.clone(),
            named: self.store.is_some(),
            key_serde: keys.clone(),
            value_serde: values.clone(),
            history,
            kind: self.kind,
            changelog: self.changelog.clone(),
        };
        options.blueprint()
    }

    /// The key-value store that these options ask for, under the name given or generated.
    pub(crate) fn store_options(
        &self,
        name: &Arc<str>,
        keys: &SerdeRef<K>,
        values: &SerdeRef<V>,
    ) -> KvOptions<K, V> {
        KvOptions {
            name: name.clone(),
            named: self.store.is_some(),
            key_serde: keys.clone(),
            value_serde: values.clone(),
            timestamped: true,
            segments: None,
            cached: self.cached,
            buffers: false,
            logs_headers: false,
            history: None,
            kind: self.kind,
            changelog: self.changelog.clone(),
        }
    }
}

impl<K: DefaultSerde + 'static, V: DefaultSerde + 'static> From<&str> for Materialized<K, V> {
    fn from(store: &str) -> Self {
        Self::named(store)
    }
}

impl<K: DefaultSerde + 'static, V: DefaultSerde + 'static> From<()> for Materialized<K, V> {
    fn from((): ()) -> Self {
        Self::unnamed()
    }
}

/// How a stream is sent through a topic of its own.
///
/// ```
/// use mainstem::prelude::*;
///
/// let builder = StreamsBuilder::new();
/// builder
///     .stream::<String, String>("in")
///     .select_key(|_, value| value.clone())
///     .repartition(Repartitioned::named("by-value").partitions(12))
///     .to("out");
/// builder.build()?;
/// # Ok::<(), mainstem::Error>(())
/// ```
pub struct Repartitioned<K, V> {
    pub(crate) name: Option<Arc<str>>,
    pub(crate) serdes: Serdes<K, V>,
    pub(crate) partitions: Option<i32>,
    pub(crate) partitioner: Option<Partitioner<K, V>>,
}

impl<K: 'static, V: 'static> Repartitioned<K, V> {
    /// Names the topic `<application id>-<name>-repartition`.
    pub fn named(name: impl Into<Arc<str>>) -> Self
    where
        K: DefaultSerde,
        V: DefaultSerde,
    {
        Self { name: Some(name.into()), serdes: Serdes::own(), partitions: None, partitioner: None }
    }

    /// Names the topic, with these serdes.
    pub fn with_serdes(name: impl Into<Arc<str>>, keys: impl Serde<K>, values: impl Serde<V>) -> Self {
        let serdes = Serdes::given(keys, values);
        Self { name: Some(name.into()), serdes, partitions: None, partitioner: None }
    }

    /// Fixes the topic's partition count; else it is that of the topics upstream.
    #[must_use]
    pub fn partitions(mut self, partitions: i32) -> Self {
        self.partitions = Some(partitions);
        self
    }

    /// Chooses the partition of each record, from its key, its value and the topic's partition count.
    #[must_use]
    pub fn partitioner(
        mut self,
        partitioner: impl Fn(Option<&K>, Option<&V>, i32) -> i32 + Send + Sync + 'static,
    ) -> Self {
        self.partitioner = Some(Arc::new(partitioner));
        self
    }
}

impl<K: DefaultSerde + 'static, V: DefaultSerde + 'static> From<&str> for Repartitioned<K, V> {
    fn from(name: &str) -> Self {
        Self::named(name)
    }
}

impl<K: DefaultSerde + 'static, V: DefaultSerde + 'static> From<()> for Repartitioned<K, V> {
    fn from((): ()) -> Self {
        Self { name: None, serdes: Serdes::own(), partitions: None, partitioner: None }
    }
}

macro_rules! debug_by_name {
    ($($name:ident . $field:ident),*) => {$(
        impl<K, V> fmt::Debug for $name<K, V> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).field(stringify!($field), &self.$field).finish_non_exhaustive()
            }
        }
    )*};
}

debug_by_name!(Consumed.topics, Produced.name, Grouped.name, Materialized.store, Repartitioned.name);
