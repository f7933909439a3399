//! The user's side of a store: one value that is its builder and its key.

use std::any::{Any, type_name};
use std::fmt;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;

use super::{AnyStore, KvStore, Segments, StoreBlueprint, TimeKey};
use crate::config::StoreKind;
use crate::serde::erased::SerdeRef;
use crate::serde::{DefaultSerde, Serde, Windowed};
use crate::task::TopicIx;

/// The plan of a key-value store.
pub(crate) struct KvOptions<K, V> {
    pub(crate) name: Arc<str>,
    pub(crate) named: bool,
    pub(crate) key_serde: SerdeRef<K>,
    pub(crate) value_serde: SerdeRef<V>,
    pub(crate) timestamped: bool,
    /// How rows have a time, in a store of windows or sessions.
    pub(crate) segments: Option<Segments>,
    pub(crate) cached: bool,
    /// Whether it is the buffer of a suppression: what has changed is logged at commits, in its own way.
    pub(crate) buffers: bool,
    /// Whether a changelog record has the headers of the record that it comes from.
    pub(crate) logs_headers: bool,
    /// How much of the past a versioned store knows, in milliseconds.
    pub(crate) history: Option<i64>,
    /// Where the rows are kept; `None` for what the configuration says.
    pub(crate) kind: Option<StoreKind>,
    pub(crate) changelog: Option<Vec<(String, String)>>,
}

impl<K, V> Clone for KvOptions<K, V> {
    fn clone(&self) -> Self {
        Self {
            name: self.name.clone(),
            named: self.named,
            key_serde: self.key_serde.clone(),
            value_serde: self.value_serde.clone(),
            timestamped: self.timestamped,
            segments: self.segments,
            cached: self.cached,
            buffers: self.buffers,
            logs_headers: self.logs_headers,
            history: self.history,
            kind: self.kind,
            changelog: self.changelog.clone(),
        }
    }
}

impl<K, V> fmt::Debug for KvOptions<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvOptions")
            .field("name", &self.name)
            .field("timestamped", &self.timestamped)
            .field("cached", &self.cached)
            .field("changelog", &self.changelog)
            .finish_non_exhaustive()
    }
}

struct KvBlueprint<K, V>(Arc<KvOptions<K, V>>);

impl<K, V> fmt::Debug for KvBlueprint<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<K: Clone + 'static, V: Clone + 'static> StoreBlueprint for KvBlueprint<K, V> {
    fn name(&self) -> &Arc<str> {
        &self.0.name
    }

    fn changelog(&self) -> Option<&[(String, String)]> {
        self.0.changelog.as_deref()
    }

    fn store_kind(&self) -> Option<StoreKind> {
        self.0.kind
    }

    fn retention(&self) -> Option<i64> {
        self.0.segments.map(|segments| segments.retention)
    }

    fn fingerprint(&self) -> u64 {
        if self.0.history.is_some() {
            return 0x0601;
        }
        // The kind of store, and the version of its layout.
        let kind = match (self.0.segments.map(|segments| segments.times), self.0.timestamped) {
            (None, false) if self.0.buffers => 0x0701,
            (None, false) => 0x0101,
            (None, true) => 0x0201,
            (Some(TimeKey::Window), false) => 0x0301,
            (Some(TimeKey::Window), true) => 0x0401,
            (Some(TimeKey::Session), _) => 0x0501,
        };
        // Where rows have a time, its steps are in their keys.
        let width = self.0.segments.map_or(0, |segments| segments.width.unsigned_abs());
        kind | (width.wrapping_mul(0x9e37_79b9_7f4a_7c15) & !0xffff)
    }

    fn identity(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    fn is_named(&self) -> bool {
        self.0.named
    }

    fn kind(&self) -> String {
        if self.0.history.is_some() {
            return format!("a versioned store of {} and {}", type_name::<K>(), type_name::<V>());
        }
        let kind = match (self.0.segments.map(|segments| segments.times), self.0.timestamped) {
            (None, false) if self.0.buffers => "the buffer of a suppression",
            (None, false) => "a key-value store",
            (None, true) => "a timestamped key-value store",
            (Some(TimeKey::Window), false) => "a window store",
            (Some(TimeKey::Window), true) => "a timestamped window store",
            (Some(TimeKey::Session), _) => "a session store",
        };
        format!("{kind} of {} and {}", type_name::<K>(), type_name::<V>())
    }

    fn options(&self) -> Arc<dyn Any + Send + Sync> {
        self.0.clone()
    }

    fn build(&self, changelog_topic: &str, changelog: Option<TopicIx>, cache: bool) -> Rc<dyn AnyStore> {
        let cached = self.0.buffers || (cache && self.0.cached);
        Rc::new(KvStore::new(&self.0, changelog_topic, changelog, cached))
    }
}

impl<K: Clone + 'static, V: Clone + 'static> KvOptions<K, V> {
    /// The same store, of windows of the keys.
    pub(crate) fn windowed(
        self,
        keys: SerdeRef<Windowed<K>>,
        segments: Segments,
        timestamped: bool,
    ) -> KvOptions<Windowed<K>, V> {
        KvOptions {
            name: self.name,
            named: self.named,
            key_serde: keys,
            value_serde: self.value_serde,
            timestamped,
            segments: Some(segments),
            cached: self.cached,
            buffers: false,
            logs_headers: false,
            history: None,
            kind: self.kind,
            changelog: self.changelog,
        }
    }

    pub(crate) fn blueprint(self) -> Arc<dyn StoreBlueprint> {
        Arc::new(KvBlueprint(Arc::new(self)))
    }
}

pub(crate) mod sealed {
    use super::{Arc, StoreBlueprint};

    pub trait Sealed {
        #[doc(hidden)]
        #[allow(private_interfaces)]
        fn blueprint(&self) -> Arc<dyn StoreBlueprint>;
    }
}
use sealed::Sealed;

/// A store that can be added to a topology: [`KeyValue`] or [`TimestampedKeyValue`].
pub trait StoreBuilder: Sealed {
    /// The store's name, which is also that of its changelog topic between `<application id>-` and `-changelog`.
    fn name(&self) -> &str;
}

macro_rules! key_value_builder {
    ($(#[$doc:meta])* $name:ident, timestamped: $timestamped:literal) => {
        $(#[$doc])*
        pub struct $name<K, V> {
            options: Arc<KvOptions<K, V>>,
            types: PhantomData<fn() -> (K, V)>,
        }

        impl<K, V> Clone for $name<K, V> {
            fn clone(&self) -> Self {
                Self { options: self.options.clone(), types: PhantomData }
            }
        }

        impl<K, V> fmt::Debug for $name<K, V> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.options.fmt(f)
            }
        }

        impl<K: Clone + 'static, V: Clone + 'static> $name<K, V> {
            /// A store with the types' own serdes: kept where `default.dsl.store` says, with a changelog, record cache off.
            pub fn named(name: impl Into<Arc<str>>) -> Self
            where
                K: DefaultSerde,
                V: DefaultSerde,
            {
                Self::with_serde_refs(name.into(), SerdeRef::of(), SerdeRef::of())
            }

            /// A store with these serdes.
            pub fn with_serdes(name: impl Into<Arc<str>>, keys: impl Serde<K>, values: impl Serde<V>) -> Self {
                Self::with_serde_refs(name.into(), SerdeRef::new(keys), SerdeRef::new(values))
            }

            fn with_serde_refs(name: Arc<str>, key_serde: SerdeRef<K>, value_serde: SerdeRef<V>) -> Self {
                let options = KvOptions {
                    name,
                    named: true,
                    key_serde,
                    value_serde,
                    timestamped: $timestamped,
                    segments: None,
                    cached: false,
                    buffers: false,
                    logs_headers: false,
                    history: None,
                    kind: None,
                    changelog: Some(Vec::new()),
                };
                Self { options: Arc::new(options), types: PhantomData }
            }

            fn map(self, change: impl FnOnce(&mut KvOptions<K, V>)) -> Self {
                let mut options = KvOptions::clone(&self.options);
                change(&mut options);
                Self { options: Arc::new(options), types: PhantomData }
            }

            /// Puts a record cache before the store: changes reach the changelog at commits only.
            #[must_use]
            pub fn caching(self) -> Self {
                self.map(|o| o.cached = true)
            }

            /// Where the rows are kept, whatever `default.dsl.store` is.
            #[must_use]
            pub fn store_kind(self, kind: StoreKind) -> Self {
                self.map(|o| o.kind = Some(kind))
            }

            /// Keeps no changelog: nothing else has the rows. They are lost to the task when it moves, and with the process if
            /// they are in memory. On disk they survive a kill: they are brought there before the offsets of their records
            /// are committed, once a commit, and processing is at least once as far as they go.
            #[must_use]
            pub fn logging_disabled(self) -> Self {
                self.map(|o| o.changelog = None)
            }

            /// Sets a property of the changelog topic, for example `min.compaction.lag.ms`.
            #[must_use]
            pub fn changelog_config(self, key: impl Into<String>, value: impl Into<String>) -> Self {
                self.map(|o| o.changelog.get_or_insert_default().push((key.into(), value.into())))
            }
        }

        impl<K: Clone + 'static, V: Clone + 'static> sealed::Sealed for $name<K, V> {
            #[allow(private_interfaces)]
            fn blueprint(&self) -> Arc<dyn StoreBlueprint> {
                Arc::new(KvBlueprint(self.options.clone()))
            }
        }

        impl<K: Clone + 'static, V: Clone + 'static> StoreBuilder for $name<K, V> {
            fn name(&self) -> &str {
                &self.options.name
            }
        }
    };
}

key_value_builder! {
    /// A key-value store of a processor: builder and key in one.
    ///
    /// ```
    /// use mainstem::store::KeyValue;
    ///
    /// let seen = KeyValue::<String, i64>::named("seen").changelog_config("min.compaction.lag.ms", "60000");
    /// ```
    KeyValue, timestamped: false
}

key_value_builder! {
    /// A key-value store whose values carry a timestamp, as those of tables and aggregations do.
    TimestampedKeyValue, timestamped: true
}
