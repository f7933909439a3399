//! Grouped streams cut into windows: where windowed aggregations start from.

use std::convert::Infallible;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use super::graph::ProcessorSpec;
use super::grouped::{Aggregation, KGroupedStream};
use super::ops::session_aggregate::{self, Merge};
use super::ops::sliding_aggregate;
use super::ops::window_aggregate::{self, Fold, FoldStep, Spec};
use super::options::Materialized;
use super::table::KTable;
use super::table_node::{TableKind, TableNode};
use super::windows::{Checked, Cut, EmitStrategy, SessionWindows, TimeWindows, Windows, millis};
use crate::config::StoreKind;
use crate::error::{BoxError, Result};
use crate::serde::erased::SerdeRef;
use crate::serde::windowed::WindowStoreKeySerde;
use crate::serde::{SessionWindowedSerde, TimeWindowedSerde, Windowed};
use crate::store::{Expiry, KvOptions, Segments, TimeKey};

/// A grouped stream in windows of one size (`org.apache.kafka.streams.kstream.TimeWindowedKStream`): [`Tumbling`](super::Tumbling),
/// [`Hopping`](super::Hopping), [`Sliding`](super::Sliding), [`Unlimited`](super::Unlimited) or
/// [`CustomWindows`](super::CustomWindows).
///
/// Records with a null key are dropped and counted, and so are those whose windows are closed. The timestamp of a result is
/// the greatest of those that it was made from.
#[must_use = "windows do nothing until they are counted, reduced or aggregated"]
pub struct TimeWindowedKStream<K, V> {
    grouped: KGroupedStream<K, V>,
    windows: Checked<Windows>,
    emit: EmitStrategy,
}

/// A grouped stream in sessions (`org.apache.kafka.streams.kstream.SessionWindowedKStream`).
///
/// When a record makes one of several sessions, the table forgets those: a deletion of each goes on before the new result.
/// The timestamp of a result is the end of its session.
#[must_use = "sessions do nothing until they are counted, reduced or aggregated"]
pub struct SessionWindowedKStream<K, V> {
    grouped: KGroupedStream<K, V>,
    windows: Checked<SessionWindows>,
    emit: EmitStrategy,
}

impl<K, V> fmt::Debug for TimeWindowedKStream<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TimeWindowedKStream({:?})", self.grouped)
    }
}

impl<K, V> fmt::Debug for SessionWindowedKStream<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionWindowedKStream({:?})", self.grouped)
    }
}

/// How rows of a store grow old, by where they are kept.
fn expiry(kind: Option<StoreKind>, time_first: bool) -> Expiry {
    match kind {
        Some(StoreKind::InMemory) => Expiry::Exact,
        _ if time_first => Expiry::TimeFirst,
        _ => Expiry::Segments,
    }
}

/// What `count` does: also null values count, as in Java.
fn counting<K, V>() -> Fold<K, V, i64> {
    Fold {
        init: Arc::new(|| Some(0)),
        step: Arc::new(|_, _, count| Ok(Some(count.unwrap_or(0) + 1))),
        takes_nulls: true,
    }
}

/// What a `reduce` does with values that are there.
fn reducing<K, V, E: Into<BoxError>>(
    takes_nulls: bool,
    reducer: impl Fn(V, Option<V>) -> Result<Option<V>, E> + Send + Sync + 'static,
) -> Fold<K, V, V> {
    let step: FoldStep<K, V, V> = Arc::new(move |_, value, reduced| match reduced {
        Some(reduced) => reducer(reduced, value).map_err(Into::into),
        None => Ok(value),
    });
    Fold { init: Arc::new(|| None), step, takes_nulls }
}

/// What an `aggregate` does.
fn aggregating<K, V, A, E: Into<BoxError>>(
    takes_nulls: bool,
    init: impl Fn() -> A + Send + Sync + 'static,
    aggregator: impl Fn(&K, Option<V>, Option<A>) -> Result<Option<A>, E> + Send + Sync + 'static,
) -> Fold<K, V, A> {
    Fold {
        init: Arc::new(move || Some(init())),
        step: Arc::new(move |key, value, aggregate| aggregator(key, value, aggregate).map_err(Into::into)),
        takes_nulls,
    }
}

/// The retention that is asked for, if it is long enough for the windows.
fn retention<K, A>(materialized: &Materialized<K, A>, least: i64) -> Checked<i64> {
    let Some(retention) = materialized.retention else { return Ok(least) };
    millis("a retention", retention, least)
        .map_err(|error| format!("{error}, which the windows and their grace period need"))
}

impl<K: Clone + 'static, V: Clone + 'static> TimeWindowedKStream<K, V> {
    pub(super) fn new(grouped: KGroupedStream<K, V>, windows: Checked<Windows>) -> Self {
        Self { grouped, windows, emit: EmitStrategy::default() }
    }

    /// When results are sent on.
    pub fn emit_strategy(mut self, emit: EmitStrategy) -> Self {
        self.emit = emit;
        self
    }

    /// How many records of each key there are in each window.
    #[track_caller]
    pub fn count(&self, materialized: impl Into<Materialized<K, i64>>) -> KTable<Windowed<K>, i64> {
        let materialized = materialized.into();
        let burns = !matches!(self.windows, Ok(Windows::Sliding { .. }));
        if burns && materialized.given && materialized.store.is_none() {
            // `TimeWindowedKStreamImpl.count(Named, Materialized)` draws a number that it does not use.
            self.grouped.graph().borrow_mut().draw("KSTREAM-AGGREGATE-STATE-STORE-");
        }
        self.build("KSTREAM-AGGREGATE-", materialized, counting())
    }

    /// Combines the values of each key in each window, from the first one on. Null values are dropped and counted.
    #[track_caller]
    pub fn reduce(
        &self,
        materialized: impl Into<Materialized<K, V>>,
        reducer: impl Fn(V, V) -> V + Send + Sync + 'static,
    ) -> KTable<Windowed<K>, V> {
        let reducer = move |a, v: Option<V>| Ok::<_, Infallible>(v.map(|v| reducer(a, v)));
        self.build("KSTREAM-REDUCE-", materialized.into(), reducing(false, reducer))
    }

    /// As [`reduce`](Self::reduce), for null values too (the first value of a window excepted, which is taken as it is); it
    /// may fail, and `None` deletes the row. Sliding windows drop null values all the same.
    #[track_caller]
    pub fn try_reduce<E: Into<BoxError>>(
        &self,
        materialized: impl Into<Materialized<K, V>>,
        reducer: impl Fn(V, Option<V>) -> Result<Option<V>, E> + Send + Sync + 'static,
    ) -> KTable<Windowed<K>, V> {
        self.build("KSTREAM-REDUCE-", materialized.into(), reducing(true, reducer))
    }

    /// Folds the values of each key in each window into an aggregate. Null values are dropped and counted.
    #[track_caller]
    pub fn aggregate<A: Clone + 'static>(
        &self,
        materialized: impl Into<Materialized<K, A>>,
        initializer: impl Fn() -> A + Clone + Send + Sync + 'static,
        aggregator: impl Fn(&K, V, A) -> A + Send + Sync + 'static,
    ) -> KTable<Windowed<K>, A> {
        let init = initializer.clone();
        let aggregator = move |key: &K, value: Option<V>, aggregate: Option<A>| {
            Ok::<_, Infallible>(value.map(|value| aggregator(key, value, aggregate.unwrap_or_else(&init))))
        };
        self.build("KSTREAM-AGGREGATE-", materialized.into(), aggregating(false, initializer, aggregator))
    }

    /// As [`aggregate`](Self::aggregate), for null values too; it may fail, and `None` deletes the row: the next value
    /// starts afresh. Sliding windows drop null values all the same.
    #[track_caller]
    pub fn try_aggregate<A: Clone + 'static, E: Into<BoxError>>(
        &self,
        materialized: impl Into<Materialized<K, A>>,
        initializer: impl Fn() -> A + Clone + Send + Sync + 'static,
        aggregator: impl Fn(&K, Option<V>, A) -> Result<Option<A>, E> + Send + Sync + 'static,
    ) -> KTable<Windowed<K>, A> {
        let init = initializer.clone();
        let aggregator = move |key: &K, value: Option<V>, aggregate: Option<A>| {
            aggregator(key, value, aggregate.unwrap_or_else(&init))
        };
        self.build("KSTREAM-AGGREGATE-", materialized.into(), aggregating(true, initializer, aggregator))
    }

    #[track_caller]
    fn build<A: Clone + 'static>(
        &self,
        prefix: &str,
        materialized: Materialized<K, A>,
        fold: Fold<K, V, A>,
    ) -> KTable<Windowed<K>, A> {
        let windows = self.windows.clone().and_then(|windows| {
            let retention = retention(&materialized, windows.retention())?;
            Ok((self.checked_emit(windows)?, retention))
        });
        let (windows, retention) = windows.unwrap_or_else(|error| {
            self.grouped.graph().borrow_mut().refuse(error);
            (Windows::Sliding { difference: 1, grace: 0 }, 1)
        });
        let on_close = self.emit == EmitStrategy::OnWindowClose;
        let segments = Segments::new(TimeKey::Window, retention, expiry(materialized.kind, on_close));
        // Closed windows are looked for by time: of those that begin together, or of a time difference.
        let segments = match &windows {
            Windows::Sliding { difference, .. } if on_close => segments.width(*difference),
            Windows::Time(_) if on_close => segments.width(1),
            _ => segments,
        };
        let caches = !(on_close && matches!(windows, Windows::Sliding { .. }));
        let (grace, size) = (windows.grace(), windows.size());
        let built = self.grouped.aggregation(prefix, &materialized, |store, keys, values, settings| {
            let plain = materialized.store_options(store, keys, values);
            let row_keys = SerdeRef::new(WindowStoreKeySerde { inner: keys.clone(), size });
            let options =
                KvOptions { cached: caches && plain.cached, ..plain.windowed(row_keys, segments, true) };
            let spec = Spec { keys: keys.clone(), fold, on_close, settings };
            let factory = match windows {
                Windows::Time(windows) => window_aggregate::factory(store.clone(), windows, spec),
                Windows::Sliding { difference, grace } => {
                    sliding_aggregate::factory(store.clone(), difference, grace, spec)
                }
            };
            ProcessorSpec { factory, stores: vec![options.blueprint()] }
        });
        let Aggregation { node, keys, values, store, settings } = built;
        self.grouped.graph().borrow_mut().set_grace(node, grace);
        let keys = SerdeRef::new(TimeWindowedSerde::of_millis(keys, size));
        KTable::new(self.grouped.graph().clone(), node, keys, values, TableNode::kept(&settings, store))
    }

    fn checked_emit(&self, windows: Windows) -> Checked<Windows> {
        let closes = match &windows {
            Windows::Time(TimeWindows { cut, .. }) => matches!(cut, Cut::Aligned { .. }),
            Windows::Sliding { .. } => true,
        };
        if self.emit == EmitStrategy::OnWindowClose && !closes {
            return Err("EmitStrategy::OnWindowClose is for tumbling, hopping, sliding windows and sessions: windows \
                        without an end, or of a function's choosing, do not close"
                .to_owned());
        }
        Ok(windows)
    }
}

impl<K: Clone + 'static, V: Clone + 'static> SessionWindowedKStream<K, V> {
    pub(super) fn new(grouped: KGroupedStream<K, V>, windows: Checked<SessionWindows>) -> Self {
        Self { grouped, windows, emit: EmitStrategy::default() }
    }

    /// When results are sent on.
    pub fn emit_strategy(mut self, emit: EmitStrategy) -> Self {
        self.emit = emit;
        self
    }

    /// How many records of each key there are in each session.
    #[track_caller]
    pub fn count(&self, materialized: impl Into<Materialized<K, i64>>) -> KTable<Windowed<K>, i64> {
        let materialized = materialized.into();
        if materialized.given && materialized.store.is_none() {
            // `SessionWindowedKStreamImpl.count(Named, Materialized)` draws a number that it does not use.
            self.grouped.graph().borrow_mut().draw("KSTREAM-AGGREGATE-STATE-STORE-");
        }
        let merge = |_: &K, a: Option<i64>, b: Option<i64>| Ok(Some(a.unwrap_or(0) + b.unwrap_or(0)));
        self.build("KSTREAM-AGGREGATE-", materialized, counting(), Arc::new(merge))
    }

    /// Combines the values of each key in each session, and those of sessions that become one. Null values are dropped and
    /// counted.
    #[track_caller]
    pub fn reduce(
        &self,
        materialized: impl Into<Materialized<K, V>>,
        reducer: impl Fn(V, V) -> V + Send + Sync + 'static,
    ) -> KTable<Windowed<K>, V> {
        let reducer = move |a, v: Option<V>| Ok::<_, Infallible>(v.map(|v| reducer(a, v)));
        self.build_reduce(materialized.into(), reducing(false, reducer))
    }

    /// As [`reduce`](Self::reduce), for null values too (the first value of a session excepted, which is taken as it is); it
    /// may fail, and `None` removes the session.
    #[track_caller]
    pub fn try_reduce<E: Into<BoxError>>(
        &self,
        materialized: impl Into<Materialized<K, V>>,
        reducer: impl Fn(V, Option<V>) -> Result<Option<V>, E> + Send + Sync + 'static,
    ) -> KTable<Windowed<K>, V> {
        self.build_reduce(materialized.into(), reducing(true, reducer))
    }

    #[track_caller]
    fn build_reduce(&self, materialized: Materialized<K, V>, fold: Fold<K, V, V>) -> KTable<Windowed<K>, V> {
        let step = fold.step.clone();
        let merge: Merge<K, V> = Arc::new(move |key, a, b| step(key, b, a));
        self.build("KSTREAM-REDUCE-", materialized, fold, merge)
    }

    /// Folds the values of each key in each session into an aggregate; `merger` makes one of the aggregates of sessions
    /// that become one. Null values are dropped and counted.
    #[track_caller]
    pub fn aggregate<A: Clone + 'static>(
        &self,
        materialized: impl Into<Materialized<K, A>>,
        initializer: impl Fn() -> A + Clone + Send + Sync + 'static,
        aggregator: impl Fn(&K, V, A) -> A + Send + Sync + 'static,
        merger: impl Fn(&K, A, A) -> A + Send + Sync + 'static,
    ) -> KTable<Windowed<K>, A> {
        let init = initializer.clone();
        let aggregator = move |key: &K, value: Option<V>, aggregate: Option<A>| {
            Ok::<_, Infallible>(value.map(|value| aggregator(key, value, aggregate.unwrap_or_else(&init))))
        };
        let merge = move |key: &K, a: Option<A>, b: Option<A>| {
            Ok(match (a, b) {
                (Some(a), Some(b)) => Some(merger(key, a, b)),
                (a, b) => a.or(b),
            })
        };
        let fold = aggregating(false, initializer, aggregator);
        self.build("KSTREAM-AGGREGATE-", materialized.into(), fold, Arc::new(merge))
    }

    /// As [`aggregate`](Self::aggregate), for null values too; it may fail, and `None` removes the session.
    #[track_caller]
    pub fn try_aggregate<A: Clone + 'static, E: Into<BoxError>, F: Into<BoxError>>(
        &self,
        materialized: impl Into<Materialized<K, A>>,
        initializer: impl Fn() -> A + Clone + Send + Sync + 'static,
        aggregator: impl Fn(&K, Option<V>, Option<A>) -> Result<Option<A>, E> + Send + Sync + 'static,
        merger: impl Fn(&K, Option<A>, Option<A>) -> Result<Option<A>, F> + Send + Sync + 'static,
    ) -> KTable<Windowed<K>, A> {
        let merge: Merge<K, A> = Arc::new(move |key, a, b| merger(key, a, b).map_err(Into::into));
        let fold = aggregating(true, initializer, aggregator);
        self.build("KSTREAM-AGGREGATE-", materialized.into(), fold, merge)
    }

    #[track_caller]
    fn build<A: Clone + 'static>(
        &self,
        prefix: &str,
        materialized: Materialized<K, A>,
        fold: Fold<K, V, A>,
        merge: Merge<K, A>,
    ) -> KTable<Windowed<K>, A> {
        let windows = self.windows.clone().and_then(|windows| {
            Ok((windows, retention(&materialized, windows.gap.saturating_add(windows.grace))?))
        });
        let (windows, retention) = windows.unwrap_or_else(|error| {
            self.grouped.graph().borrow_mut().refuse(error);
            (SessionWindows { gap: 1, grace: 0 }, 1)
        });
        let on_close = self.emit == EmitStrategy::OnWindowClose;
        let segments = Segments::new(TimeKey::Session, retention, expiry(materialized.kind, false));
        let segments = if on_close { segments.width(windows.gap) } else { segments };
        let built = self.grouped.aggregation(prefix, &materialized, |store, keys, values, settings| {
            let plain = materialized.store_options(store, keys, values);
            let row_keys = SerdeRef::new(SessionWindowedSerde::new(keys.clone()));
            let options =
                KvOptions { cached: plain.cached && !on_close, ..plain.windowed(row_keys, segments, false) };
            let spec = Spec { keys: keys.clone(), fold, on_close, settings };
            let factory = session_aggregate::factory(store.clone(), windows, spec, merge);
            ProcessorSpec { factory, stores: vec![options.blueprint()] }
        });
        let Aggregation { node, keys, values, store, settings } = built;
        self.grouped.graph().borrow_mut().set_grace(node, windows.grace + windows.gap);
        let keys = SerdeRef::new(SessionWindowedSerde::new(keys));
        let view = move || session_aggregate::view(&store);
        let table = Rc::new(TableNode { settings, kind: TableKind::Kept(Box::new(view)) });
        KTable::new(self.grouped.graph().clone(), node, keys, values, table)
    }
}
