//! Versioned stores: what a key had at any time within a history (KIP-889; `RocksDBVersionedStore`).
//!
//! A row is all that is known of a key: its versions, oldest first, each good until the next one begins. The changelog has one
//! record a version, with the version's time, as Kafka Streams writes it; a version that comes too late is logged and not kept.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::options::sealed;
use super::{KvOptions, KvStore, StoreBlueprint, StoreBuilder};
use crate::error::BoxError;
use crate::record::Timestamp;
use crate::serde::erased::SerdeRef;
use crate::serde::{DefaultSerde, Serde, SerdeCx, SerdeError};
use crate::task::TaskCx;
use crate::task::context::StoreRef;

/// How much longer than its history the changelog of a store keeps versions from being compacted away
/// (`VersionedChangelogTopicConfig`), in milliseconds.
const MORE_COMPACTION_LAG: i64 = 24 * 60 * 60 * 1000;

/// What comes before the value of a version in a row.
pub(super) const VERSION_HEAD: usize = 12;

/// The versions of a key by the times they begin, ascending; a deletion is a version without a value.
pub(crate) type Versions<V> = Rc<Vec<(Timestamp, Option<V>)>>;

/// A value and when it is good (`org.apache.kafka.streams.state.VersionedRecord`).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VersionedRecord<V> {
    /// The value.
    pub value: V,
    /// From when on, in milliseconds since the Unix epoch.
    pub timestamp: Timestamp,
    /// Until when, exclusive; `None` if nothing has followed.
    pub valid_to: Option<Timestamp>,
}

/// What became of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutOutcome {
    /// It is the latest of its key.
    Latest,
    /// A later version begins at this time.
    Until(Timestamp),
    /// It is older than the history, and was not kept.
    NotPut,
}

/// `(time (8) ‖ length (4), -1 for a deletion ‖ value)*`.
#[derive(Debug)]
struct VersionsSerde<V>(SerdeRef<V>);

impl<V> Clone for VersionsSerde<V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// The versions of a row as bytes.
pub(crate) fn parse(row: &Bytes) -> Result<Vec<(Timestamp, Option<Bytes>)>, SerdeError> {
    let mut rest = row.clone();
    let mut versions = Vec::new();
    while !rest.is_empty() {
        if rest.len() < VERSION_HEAD {
            return Err(SerdeError::new("a row of versions that ends within one"));
        }
        let (timestamp, length) = (rest.get_i64(), rest.get_i32());
        let value = match usize::try_from(length) {
            Err(_) if length == -1 => None,
            Ok(length) if length <= rest.len() => Some(rest.split_to(length)),
            _ => return Err(SerdeError::new("a row of versions that ends within one")),
        };
        versions.push((timestamp, value));
    }
    Ok(versions)
}

fn write_version(timestamp: Timestamp, value: Option<&[u8]>, out: &mut BytesMut) {
    out.put_i64(timestamp);
    out.put_i32(value.map_or(-1, |value| i32::try_from(value.len()).unwrap_or(i32::MAX)));
    out.put_slice(value.unwrap_or_default());
}

/// A row, with the versions of the changelog put into it, later ones over earlier ones of the same time. What the history no
/// longer reaches from the newest of them is left out. `None` if nothing is left.
pub(crate) fn merged(
    row: Option<&Bytes>,
    log: impl IntoIterator<Item = (Timestamp, Option<Bytes>)>,
    history: i64,
) -> Result<Option<Bytes>, SerdeError> {
    let mut versions = row.map(parse).transpose()?.unwrap_or_default();
    for (timestamp, value) in log {
        insert(&mut versions, timestamp, value);
    }
    let newest = versions.last().map_or(-1, |(timestamp, _)| *timestamp);
    forget(&mut versions, newest.saturating_sub(history));
    let mut out = BytesMut::new();
    for (timestamp, value) in &versions {
        write_version(*timestamp, value.as_deref(), &mut out);
    }
    Ok((!out.is_empty()).then(|| out.freeze()))
}

/// Puts a version in its place. Returns when the next one begins.
fn insert<V>(
    versions: &mut Vec<(Timestamp, Option<V>)>,
    timestamp: Timestamp,
    value: Option<V>,
) -> Option<Timestamp> {
    let at = versions.partition_point(|(begins, _)| *begins < timestamp);
    match versions.get_mut(at) {
        Some(same) if same.0 == timestamp => same.1 = value,
        _ => versions.insert(at, (timestamp, value)),
    }
    versions.get(at + 1).map(|(begins, _)| *begins)
}

/// Lets go of versions that ended before a time, and of a deletion that nothing follows.
fn forget<V>(versions: &mut Vec<(Timestamp, Option<V>)>, from: Timestamp) {
    let ended = versions.windows(2).take_while(|pair| pair[1].0 <= from).count();
    versions.drain(..ended);
    if let [(begins, None)] = versions[..]
        && begins < from
    {
        versions.clear();
    }
}

impl<V: 'static> Serde<Versions<V>> for VersionsSerde<V> {
    const CANONICAL: bool = false;

    fn write(&self, versions: &Versions<V>, cx: &SerdeCx<'_>, out: &mut BytesMut) -> Result<(), SerdeError> {
        for (timestamp, value) in &**versions {
            out.put_i64(*timestamp);
            let length = out.len();
            out.put_i32(-1);
            if let Some(value) = value {
                self.0.write(value, cx, out)?;
                let written = i32::try_from(out.len() - length - 4)
                    .map_err(|_| SerdeError::new("a version of more than 2 GiB"))?;
                out[length..length + 4].copy_from_slice(&written.to_be_bytes());
            }
        }
        Ok(())
    }

    fn read(&self, row: &Bytes, cx: &SerdeCx<'_>) -> Result<Versions<V>, SerdeError> {
        let read = |(timestamp, value): (Timestamp, Option<Bytes>)| {
            Ok((timestamp, value.map(|value| self.0.read(&value, cx)).transpose()?))
        };
        parse(row)?.into_iter().map(read).collect::<Result<Vec<_>, _>>().map(Rc::new)
    }
}

/// The plan of a versioned store.
pub(crate) struct VersionedOptions<K, V> {
    pub(crate) name: Arc<str>,
    pub(crate) named: bool,
    pub(crate) key_serde: SerdeRef<K>,
    pub(crate) value_serde: SerdeRef<V>,
    pub(crate) history: Duration,
    pub(crate) kind: Option<crate::config::StoreKind>,
    pub(crate) changelog: Option<Vec<(String, String)>>,
}

impl<K: Clone + 'static, V: Clone + 'static> VersionedOptions<K, V> {
    pub(crate) fn blueprint(self) -> Arc<dyn StoreBlueprint> {
        let history = i64::try_from(self.history.as_millis()).unwrap_or(i64::MAX);
        let changelog = self.changelog.map(|own| {
            let lag = history.saturating_add(MORE_COMPACTION_LAG).to_string();
            let mut all = vec![("min.compaction.lag.ms".to_owned(), lag)];
            all.extend(own);
            all
        });
        let options: KvOptions<K, Versions<V>> = KvOptions {
            name: self.name,
            named: self.named,
            key_serde: self.key_serde,
            value_serde: SerdeRef::new(VersionsSerde(self.value_serde)),
            timestamped: false,
            segments: None,
            buffers: false,
            // Kafka Streams' are never cached either.
            cached: false,
            logs_headers: false,
            history: Some(history),
            kind: self.kind,
            changelog,
        };
        options.blueprint()
    }
}

/// A versioned store of one task.
pub(crate) struct VersionedStore<K, V>(pub(crate) Rc<KvStore<K, Versions<V>>>);

impl<K, V> Clone for VersionedStore<K, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Clone + 'static, V: Clone + 'static> VersionedStore<K, V> {
    fn record(versions: &[(Timestamp, Option<V>)], at: usize) -> Option<VersionedRecord<V>> {
        let (timestamp, value) = versions.get(at)?;
        let valid_to = versions.get(at + 1).map(|(begins, _)| *begins);
        Some(VersionedRecord { value: value.clone()?, timestamp: *timestamp, valid_to })
    }

    /// The latest version of a key.
    pub(crate) fn get(&self, key: &K) -> Result<Option<VersionedRecord<V>>, BoxError> {
        let Some((versions, _)) = self.0.get(key)? else { return Ok(None) };
        Ok(versions.len().checked_sub(1).and_then(|last| Self::record(&versions, last)))
    }

    /// The version that a key had at a time. What has ended before the history begins is not known any more.
    pub(crate) fn get_as_of(&self, key: &K, at: Timestamp) -> Result<Option<VersionedRecord<V>>, BoxError> {
        let Some((versions, _)) = self.0.get(key)? else { return Ok(None) };
        let Some(found) = versions.partition_point(|(begins, _)| *begins <= at).checked_sub(1) else {
            return Ok(None);
        };
        let record = Self::record(&versions, found);
        let is_over = found + 1 < versions.len() && at < self.0.history_begins();
        Ok(record.filter(|_| !is_over))
    }

    /// Sets what a key has from a time on, until its next version begins; `None` deletes. It is logged in any case.
    pub(crate) fn put(
        &self,
        key: &K,
        value: Option<V>,
        timestamp: Timestamp,
        cx: &mut TaskCx,
    ) -> Result<PutOutcome, BoxError> {
        let bytes = self.0.key_bytes_anew(key)?;
        self.put_bytes(&bytes, value, timestamp, cx)
    }

    /// As `put`, of a key whose bytes are known.
    pub(crate) fn put_bytes(
        &self,
        key: &[u8],
        value: Option<V>,
        timestamp: Timestamp,
        cx: &mut TaskCx,
    ) -> Result<PutOutcome, BoxError> {
        // ORDER: the record is in the producer's hands before the row changes, so that an error leaves both as they were.
        let one = value.as_ref().map(|value| Rc::new(vec![(timestamp, Some(value.clone()))]));
        self.0.log_version(key, one.as_ref(), timestamp, cx)?;
        if timestamp < self.0.history_begins() {
            return Ok(PutOutcome::NotPut);
        }
        self.0.observe(timestamp);
        let begins = self.0.history_begins();
        let mut next = None;
        let headers = crate::record::Headers::new();
        self.0.update(key, timestamp, &headers, cx, |row| {
            let mut versions = row.map_or_else(Vec::new, |(versions, _)| (**versions).clone());
            next = insert(&mut versions, timestamp, value);
            forget(&mut versions, begins);
            Ok((!versions.is_empty()).then(|| (Rc::new(versions), timestamp)))
        })?;
        Ok(next.map_or(PutOutcome::Latest, PutOutcome::Until))
    }

    /// Deletes what a key has from a time on. Returns what it had; nothing where it is too late, though that is logged.
    pub(crate) fn delete(
        &self,
        key: &K,
        timestamp: Timestamp,
        cx: &mut TaskCx,
    ) -> Result<Option<VersionedRecord<V>>, BoxError> {
        let had = self.get_as_of(key, timestamp)?;
        Ok(match self.put(key, None, timestamp, cx)? {
            PutOutcome::NotPut => None,
            _ => had,
        })
    }
}

/// A typed handle on a versioned store, got once when a processor is made; use it through
/// [`Context::store`](crate::topology::Context::store).
pub struct VersionedKeyValueStore<K, V>(pub(crate) VersionedStore<K, V>);

impl<K, V> fmt::Debug for VersionedKeyValueStore<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VersionedKeyValueStore")
    }
}

impl<K: Clone + 'static, V: Clone + 'static> StoreRef<'_, VersionedKeyValueStore<K, V>> {
    /// The latest version of a key. As in Kafka Streams it never says that it ends.
    pub fn get(&self, key: &K) -> Result<Option<VersionedRecord<V>>, BoxError> {
        self.store.0.get(key)
    }

    /// The version that a key had at a time, in milliseconds since the Unix epoch; nothing from before the history.
    pub fn get_as_of(&self, key: &K, at: Timestamp) -> Result<Option<VersionedRecord<V>>, BoxError> {
        self.store.0.get_as_of(key, at)
    }

    /// Sets what a key has from a time on, until its next version begins; `None` deletes. It is logged in any case.
    pub fn put(
        &mut self,
        key: &K,
        value: impl Into<Option<V>>,
        timestamp: Timestamp,
    ) -> Result<PutOutcome, BoxError> {
        self.store.0.put(key, value.into(), timestamp, self.cx)
    }

    /// Deletes what a key has from a time on, and returns what it had at that time.
    pub fn delete(&mut self, key: &K, timestamp: Timestamp) -> Result<Option<VersionedRecord<V>>, BoxError> {
        self.store.0.delete(key, timestamp, self.cx)
    }
}

/// A versioned key-value store of a processor: builder and key in one.
///
/// ```
/// use std::time::Duration;
///
/// use mainstem::store::VersionedKeyValue;
///
/// let prices = VersionedKeyValue::<String, i64>::named("prices", Duration::from_secs(3600));
/// ```
pub struct VersionedKeyValue<K, V> {
    name: Arc<str>,
    blueprint: Arc<dyn StoreBlueprint>,
    types: std::marker::PhantomData<fn() -> (K, V)>,
}

impl<K, V> Clone for VersionedKeyValue<K, V> {
    fn clone(&self) -> Self {
        Self { name: self.name.clone(), blueprint: self.blueprint.clone(), types: self.types }
    }
}

impl<K, V> fmt::Debug for VersionedKeyValue<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VersionedKeyValue({})", self.name)
    }
}

impl<K: Clone + 'static, V: Clone + 'static> VersionedKeyValue<K, V> {
    /// A store with the types' own serdes, which knows this much of the past.
    pub fn named(name: impl Into<Arc<str>>, history: Duration) -> Self
    where
        K: DefaultSerde,
        V: DefaultSerde,
    {
        Self::with(name.into(), history, SerdeRef::of(), SerdeRef::of())
    }

    /// A store with these serdes.
    pub fn with_serdes(
        name: impl Into<Arc<str>>,
        history: Duration,
        keys: impl Serde<K>,
        values: impl Serde<V>,
    ) -> Self {
        Self::with(name.into(), history, SerdeRef::new(keys), SerdeRef::new(values))
    }

    fn with(name: Arc<str>, history: Duration, key_serde: SerdeRef<K>, value_serde: SerdeRef<V>) -> Self {
        let options = VersionedOptions {
            name: name.clone(),
            named: true,
            key_serde,
            value_serde,
            history,
            kind: None,
            changelog: Some(Vec::new()),
        };
        Self { name, blueprint: options.blueprint(), types: std::marker::PhantomData }
    }
}

impl<K, V> sealed::Sealed for VersionedKeyValue<K, V> {
    #[allow(private_interfaces)]
    fn blueprint(&self) -> Arc<dyn StoreBlueprint> {
        self.blueprint.clone()
    }
}

impl<K, V> StoreBuilder for VersionedKeyValue<K, V> {
    fn name(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn value(n: u8) -> Bytes {
        Bytes::copy_from_slice(&[n])
    }

    /// What a row has at a time.
    fn as_of(row: Option<&Bytes>, at: Timestamp) -> Option<Bytes> {
        let versions = row.map(|row| parse(row).unwrap()).unwrap_or_default();
        versions.into_iter().rev().find(|(begins, _)| *begins <= at).and_then(|(_, value)| value)
    }

    proptest! {
        /// However the log of a key is cut into windows, its row has all of the history, and little more.
        #[test]
        fn a_row_of_versions_reads_like_the_log(
            log in proptest::collection::vec((0i64..40, proptest::option::of(0u8..9)), 1..30),
            cuts in proptest::collection::vec(0usize..30, 0..4),
            history in 0i64..30,
        ) {
            let mut row = None;
            let mut from = 0;
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(log.len())).collect();
            cuts.push(log.len());
            cuts.sort_unstable();
            for to in cuts {
                let window = log[from..to].iter().map(|(at, v)| (*at, v.map(value)));
                row = merged(row.as_ref(), window, history).unwrap();
                from = to;
            }
            let model: BTreeMap<i64, Option<u8>> = log.iter().copied().collect();
            let newest = *model.keys().next_back().unwrap();
            for at in newest - history..45 {
                let want = model.range(..=at).next_back().and_then(|(_, v)| v.map(value));
                prop_assert_eq!(as_of(row.as_ref(), at), want, "as of {}", at);
            }
            let kept = row.map(|row| parse(&row).unwrap()).unwrap_or_default();
            let over = kept.iter().filter(|(at, _)| *at < newest - history).count();
            prop_assert!(over <= 1, "one version may be good where the history begins: {:?}", kept);
        }
    }

    #[test]
    fn rows_that_are_cut_off_are_errors() {
        let row = merged(None, [(7, Some(value(1))), (9, None)], 100).unwrap().unwrap();
        assert_eq!(parse(&row).unwrap(), [(7, Some(value(1))), (9, None)]);
        for end in 1..row.len() {
            let cut = parse(&row.slice(..end));
            assert!(end == VERSION_HEAD + 1 || cut.is_err(), "{end} bytes pass for a row");
        }
        assert!(merged(Some(&row.slice(..5)), [], 1).is_err());
    }
}
