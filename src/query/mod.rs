//! Someone asks: reading the stores of this instance's tasks from any thread, while they change.
//!
//! A handle is got from [`AppHandle::key_value_store`](crate::AppHandle::key_value_store) (or from the test driver) and
//! stays good for the life of the application: every read finds the tasks that are here now. It reads what the workers
//! published last, which is at the end of a slice of at most a thousand records of a task; what a record cache holds back
//! from the changelog is visible all the same, as in Kafka Streams. Under exactly-once it reads what was committed last, and
//! never what may still be aborted, unless it is asked to ([`ReadOnlyKeyValueStore::isolation_level`]). A slice is published as a whole, so that a scan sees
//! all of it or nothing. Tasks are not synchronized with each other.
//!
//! A store that nobody has asked for is not published, and costs nothing.
//!
//! | [`ErrorKind`] | What to do |
//! |---|---|
//! | `NotStarted` | run the application, then ask again |
//! | `Rebalancing` | ask again in a moment, or read what is there already ([`ReadOnlyKeyValueStore::enable_stale_stores`]) |
//! | `Moved` | ask the instance that the text names |
//! | `UnknownStore` | ask for one of the stores or partitions that the text lists |
//! | `StoreType` | ask with the types that the text names |
//! | `Timeout` | ask again: a worker is busy with one record |
//! | `Closed` | the application has ended |

mod key_value;
mod local;
#[cfg(test)]
mod tests;
mod windowed;

use std::any::type_name;
use std::sync::Arc;

pub use key_value::{ReadOnlyKeyValueIterator, ReadOnlyKeyValueStore};
pub(crate) use local::{LocalStores, Phase, Registered};
pub use windowed::{ReadOnlySessionStore, ReadOnlyWindowStore, ReadOnlyWindowedIterator};

use crate::config::IsolationLevel;
use crate::config::nearest::nearest;
use crate::error::{Error, ErrorKind, Result};
use crate::record::Timestamp;
use crate::store::{KvOptions, StoreBlueprint};

/// What a handle needs to know of a topology's store.
pub(crate) struct Asked<'a> {
    pub(crate) stores: &'a Arc<LocalStores>,
    pub(crate) application_id: &'a str,
    pub(crate) name: &'a str,
    /// What is read unless the handle says otherwise.
    pub(crate) level: IsolationLevel,
}

impl Asked<'_> {
    /// A handle on a store, which may be one of those given, each with the sub-topology that it belongs to. `row` makes
    /// the user's row; where it needs a timestamp, the store must have them.
    pub(crate) fn key_value_store<'a, K: 'static, V: 'static, T>(
        &self,
        known: impl Iterator<Item = (i32, &'a Arc<dyn StoreBlueprint>)> + Clone,
        needs_timestamps: bool,
        row: fn((V, Timestamp)) -> T,
    ) -> Result<ReadOnlyKeyValueStore<K, V, T>> {
        let kind = if needs_timestamps { "a timestamped key-value store" } else { "a key-value store" };
        let fits = |options: &KvOptions<K, V>| {
            options.segments.is_none() && !options.buffers && (options.timestamped || !needs_timestamps)
        };
        let types = (type_name::<K>(), type_name::<V>());
        let (subtopology, options) = self.find(known, kind, types, fits)?;
        let topic = format!("{}-{}-changelog", self.application_id, self.name);
        Ok(ReadOnlyKeyValueStore::new(self.stores.clone(), options, topic, subtopology, self.level, row))
    }

    /// The options of the store that was asked for, if it is of that kind and has those types.
    fn find<'a, K: 'static, V: 'static>(
        &self,
        known: impl Iterator<Item = (i32, &'a Arc<dyn StoreBlueprint>)> + Clone,
        asked: &str,
        (k, v): (&str, &str),
        fits: impl Fn(&KvOptions<K, V>) -> bool,
    ) -> Result<(i32, Arc<KvOptions<K, V>>)> {
        let name = self.name;
        let Some((subtopology, store)) = known.clone().find(|(_, store)| &**store.name() == name) else {
            return Err(unknown(name, known.map(|(_, store)| store)));
        };
        if !store.is_named() {
            let text = format!(
                "the store {name} has a generated name, which moves when an operator is added: name it with Materialized \
                 to query it"
            );
            return Err(Error::new(ErrorKind::UnknownStore, text));
        }
        match store.options().downcast::<KvOptions<K, V>>() {
            Ok(options) if fits(&options) => Ok((subtopology, options)),
            _ => {
                let kind = store.kind();
                let text = format!("the store {name} is {kind}; it was asked for as {asked} of {k} and {v}");
                Err(Error::new(ErrorKind::StoreType, text))
            }
        }
    }
}

fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a Arc<dyn StoreBlueprint>>) -> Error {
    let names: Vec<String> = known.filter(|s| s.is_named()).map(|s| s.name().to_string()).collect();
    let mut text = format!("the topology has no store named {name}");
    if let Some(near) = nearest(name, names.iter().cloned()) {
        text += &format!("; did you mean {near}?");
    }
    text += &match names.is_empty() {
        true => "; it has no named stores at all: name one with Materialized to query it".to_owned(),
        false => format!("; it has: {}", names.join(", ")),
    };
    Error::new(ErrorKind::UnknownStore, text)
}
