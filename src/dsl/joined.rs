//! The options of a join of a stream with a table.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::options::Serdes;
use crate::serde::{DefaultSerde, Serde};

/// How a stream is joined with a table. The name is that of the join's node, and of the repartition topic, should one be
/// needed (`org.apache.kafka.streams.kstream.Joined`).
///
/// ```
/// use mainstem::prelude::*;
///
/// let builder = StreamsBuilder::new();
/// let prices = builder.table::<String, i64>("prices", "prices");
/// builder
///     .stream::<String, String>("orders")
///     .select_key(|_, article| article.clone())
///     .join_table(&prices, Joined::named("priced"), |article, price| format!("{article} at {price}"))
///     .to("priced-orders");
/// builder.build()?;
/// # Ok::<(), mainstem::Error>(())
/// ```
pub struct Joined<K, V> {
    pub(super) serdes: Serdes<K, V>,
    pub(super) name: Option<Arc<str>>,
    pub(super) grace: Option<Duration>,
}

impl<K: 'static, V: 'static> Joined<K, V> {
    /// Names the join.
    pub fn named(name: impl Into<Arc<str>>) -> Self
    where
        K: DefaultSerde,
        V: DefaultSerde,
    {
        Self { serdes: Serdes::own(), name: Some(name.into()), grace: None }
    }

    /// A join without a name.
    pub fn unnamed() -> Self
    where
        K: DefaultSerde,
        V: DefaultSerde,
    {
        Self { serdes: Serdes::own(), name: None, grace: None }
    }

    /// A join whose stream goes through topics with these serdes.
    pub fn with_serdes(keys: impl Serde<K>, values: impl Serde<V>) -> Self {
        Self { serdes: Serdes::given(keys, values), name: None, grace: None }
    }

    /// Names a join with given serdes.
    #[must_use]
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Holds a record of the stream back until stream time is this much later, so that rows of the table that come late are
    /// joined all the same (KIP-923). The table must be versioned, and keep its history at least as long.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = Some(grace);
        self
    }
}

impl<K, V> fmt::Debug for Joined<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Joined").field("name", &self.name).field("grace", &self.grace).finish_non_exhaustive()
    }
}

impl<K: DefaultSerde + 'static, V: DefaultSerde + 'static> From<&str> for Joined<K, V> {
    fn from(name: &str) -> Self {
        Self::named(name)
    }
}

impl<K: DefaultSerde + 'static, V: DefaultSerde + 'static> From<()> for Joined<K, V> {
    fn from((): ()) -> Self {
        Self::unnamed()
    }
}
