//! `count`, `reduce` and `aggregate` of windows of a fixed size (`KStreamWindowAggregate`).

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;

use super::Change;
use super::closing::Closing;
use crate::dsl::table_node::TableSettings;
use crate::dsl::windows::TimeWindows;
use crate::error::BoxError;
use crate::record::{Record, Timestamp};
use crate::serde::erased::SerdeRef;
use crate::serde::{Window, Windowed};
use crate::store::{Flushed, KvStore, Times};
use crate::task::blueprint::{BuildCx, ErasedPort, NodeFactory};
use crate::task::clocks::ClockIx;
use crate::task::errors::DropReason;
use crate::task::{Flow, Lifecycle, Node, NodeIx, Outputs, TaskCx};

/// What a windowed aggregation does with values.
pub(crate) struct Fold<K, V, A> {
    /// What an aggregate starts from.
    pub(crate) init: Arc<dyn Fn() -> Option<A> + Send + Sync>,
    /// The next aggregate from a key, a value (null or not) and the present aggregate; `None` deletes it.
    pub(crate) step: FoldStep<K, V, A>,
    /// Whether it has a use for null values; else they are dropped.
    pub(crate) takes_nulls: bool,
}

pub(crate) type FoldStep<K, V, A> =
    Arc<dyn Fn(&K, Option<V>, Option<A>) -> Result<Option<A>, BoxError> + Send + Sync>;

impl<K, V, A> Clone for Fold<K, V, A> {
    fn clone(&self) -> Self {
        Self { init: self.init.clone(), step: self.step.clone(), takes_nulls: self.takes_nulls }
    }
}

/// What the nodes of all windowed aggregations have.
pub(crate) struct Parts<K, V, A> {
    pub(crate) node: NodeIx,
    pub(crate) outputs: Outputs<Windowed<K>, Change<A>>,
    pub(crate) store: Rc<KvStore<Windowed<K>, A>>,
    /// The serde of the key alone.
    pub(crate) keys: SerdeRef<K>,
    pub(crate) fold: Fold<K, V, A>,
    /// The greatest time of a record that had a key.
    pub(crate) observed: ClockIx,
    /// Whether a change says what the row was before.
    pub(crate) send_old: bool,
    /// Results go on when their window is closed; else with every update.
    pub(crate) closing: Option<Closing>,
    /// Scratch space.
    pub(crate) row_key: BytesMut,
}

impl<K: Clone + 'static, V: 'static, A: Clone + 'static> Parts<K, V, A> {
    pub(crate) fn new(
        cx: &mut BuildCx<'_>,
        outputs: Outputs<Windowed<K>, Change<A>>,
        store: &Arc<str>,
        spec: &Spec<K, V, A>,
    ) -> crate::error::Result<Self> {
        let kept = cx.store::<KvStore<Windowed<K>, A>>(store)?;
        // ORDER: a node adds its clocks in the same order every time, so that a roll-back finds them.
        let observed = cx.task.clocks.add();
        let closing = spec.on_close.then(|| Closing::new(cx.task, store));
        Ok(Self {
            node: cx.node,
            outputs,
            store: kept,
            keys: spec.keys.clone(),
            fold: spec.fold.clone(),
            observed,
            send_old: spec.settings.sends_old(),
            closing,
            row_key: BytesMut::new(),
        })
    }

    /// Logs and forwards what the record cache holds back (`CachingWindowStore.putAndMaybeForward`,
    /// `CachingSessionStore.putAndMaybeForward`), with the timestamp that `at` makes of a row's.
    pub(crate) fn flush(&self, at: impl Fn(Window, Timestamp) -> Timestamp, cx: &mut TaskCx) -> Flow {
        let Self { store, outputs, node, .. } = self;
        for key in store.withheld() {
            let Some(flushed) = store.take_withheld(key, true, cx) else { continue };
            let Flushed { key, old, new, timestamp, headers, source, offset } = flushed;
            cx.current = Some(*node);
            cx.begin_flush(source, offset, timestamp, headers.clone());
            let logged = store.log(&key, new.as_ref(), timestamp, cx);
            match logged.and_then(|()| store.read_key(&key)) {
                Ok(key) => {
                    let timestamp = at(key.window, new.as_ref().map_or(timestamp, |(_, at)| *at));
                    let value = |row: Option<(A, Timestamp)>| row.map(|(aggregate, _)| aggregate);
                    let change = Change::new(value(new), value(old.filter(|_| self.send_old)));
                    let record = Record { key: Some(key), value: Some(change), timestamp, headers };
                    outputs.forward(record, cx)?;
                }
                Err(error) => cx.processing_error(*node, error)?,
            }
        }
        Ok(())
    }

    /// The bytes of a record's key.
    pub(crate) fn inner(&self, key: &K, cx: &mut TaskCx) -> Result<bytes::Bytes, BoxError> {
        self.store.inner_key(key, &self.keys, cx)
    }
}

/// What such a node is made from.
pub(crate) struct Spec<K, V, A> {
    pub(crate) keys: SerdeRef<K>,
    pub(crate) fold: Fold<K, V, A>,
    pub(crate) on_close: bool,
    pub(crate) settings: Arc<TableSettings>,
}

struct WindowAggregate<K, V, A> {
    parts: Parts<K, V, A>,
    windows: TimeWindows,
    /// Scratch space.
    matched: Vec<Window>,
}

impl<K: Clone + 'static, V: Clone + 'static, A: Clone + 'static> WindowAggregate<K, V, A> {
    /// Changes the aggregate of a window, and says so.
    fn update(
        &mut self,
        record: Record<K, V>,
        inner: &[u8],
        window: Window,
        cx: &mut TaskCx,
    ) -> Result<Flow, BoxError> {
        let Parts { store, fold, row_key, outputs, closing, send_old, .. } = &mut self.parts;
        let Record { key, value, timestamp: arrived, headers } = record;
        let Some(key) = key else { return Ok(Ok(())) };
        row_key.clear();
        store.schema().put_window(inner, window.start, 0, row_key);
        let mut timestamp = arrived;
        // What Java calls the old value, also of a window's first record: what its aggregate starts from.
        let mut before = None;
        let updated = store.update(row_key, arrived, &headers, cx, |old| {
            let old = old.map(|(aggregate, at)| {
                timestamp = timestamp.max(*at);
                aggregate.clone()
            });
            let old = old.or_else(|| (fold.init)());
            if *send_old {
                before.clone_from(&old);
            }
            let next = (fold.step)(&key, value, old)?;
            Ok(next.map(|aggregate| (aggregate, timestamp)))
        })?;
        if closing.is_some() || updated.withheld {
            return Ok(Ok(()));
        }
        let change = Change::new(updated.new.map(|(aggregate, _)| aggregate), before);
        let key = Some(Windowed { key, window });
        Ok(outputs.forward_rekeyed(Record { key, value: Some(change), timestamp, headers }, cx))
    }

    /// Sends on the results of windows that have closed (`maybeForwardFinalResult`).
    fn close(&mut self, record: &Record<K, V>, close: i64, cx: &mut TaskCx) -> Flow {
        let Parts { closing: Some(closing), store, outputs, node, .. } = &mut self.parts else {
            return Ok(());
        };
        let Some(last) = closing.due(close, cx) else { return Ok(()) };
        let size = self.windows.size;
        let upper = close - size;
        let lower = if last < 0 { 0 } else { (last - size).max(0) + 1 };
        if upper < 0 {
            return Ok(());
        }
        if last >= 0 {
            // No other window has closed since.
            self.windows.of(upper, &mut self.matched);
            let newest = self.matched.len();
            let newest_start = self.matched.first().copied();
            self.windows.of(lower - 1, &mut self.matched);
            if newest == self.matched.len() && newest_start == self.matched.first().copied() {
                return Ok(());
            }
        }
        let oldest = store.visible_from();
        let rows = store.fetch_closed(Times::new(lower, upper), oldest);
        closing.emit(*node, store, outputs, rows, &record.headers, |_, at| at, cx)?;
        closing.emitted(close, cx);
        Ok(())
    }
}

impl<K: Clone + 'static, V: Clone + 'static, A: Clone + 'static> Node<K, V> for WindowAggregate<K, V, A> {
    fn process(&mut self, record: Record<K, V>, cx: &mut TaskCx) -> Flow {
        let node = self.parts.node;
        cx.current = Some(node);
        let Some(key) = &record.key else {
            cx.dropped(node, DropReason::NullKey);
            return Ok(());
        };
        let close = cx.clocks.advance(self.parts.observed, record.timestamp) - self.windows.grace;
        if record.value.is_none() && !self.parts.fold.takes_nulls {
            cx.dropped(node, DropReason::NullValue);
            return self.close(&record, close, cx);
        }
        let inner = match self.parts.inner(key, cx) {
            Ok(inner) => inner,
            Err(error) => return cx.processing_error(node, error),
        };
        let mut matched = std::mem::take(&mut self.matched);
        self.windows.of(record.timestamp, &mut matched);
        let emits = self.parts.closing.is_some();
        let last = matched.len().wrapping_sub(1);
        let mut rest = Some(record);
        for (at, window) in matched.iter().enumerate() {
            if window.end <= close {
                cx.dropped(node, DropReason::ExpiredWindow);
                continue;
            }
            // The last window has the record itself, the others a copy.
            let own = if at == last && !emits { rest.take() } else { rest.clone() };
            let Some(own) = own else { break };
            cx.current = Some(node);
            match self.update(own, &inner, *window, cx) {
                Ok(flow) => flow?,
                Err(error) => {
                    self.matched = matched;
                    return cx.processing_error(node, error);
                }
            }
        }
        self.matched = matched;
        match rest {
            Some(record) if emits => self.close(&record, close, cx),
            _ => Ok(()),
        }
    }
}

impl<K: Clone + 'static, V: Clone + 'static, A: Clone + 'static> Lifecycle for WindowAggregate<K, V, A> {
    fn flush_cache(&mut self, cx: &mut TaskCx) -> Flow {
        self.parts.flush(|_, at| at, cx)
    }
}

pub(crate) fn factory<K: Clone + 'static, V: Clone + 'static, A: Clone + 'static>(
    store: Arc<str>,
    windows: TimeWindows,
    spec: Spec<K, V, A>,
) -> NodeFactory {
    Arc::new(move |cx, children| {
        let parts = Parts::new(cx, children.outputs()?, &store, &spec)?;
        let on_close = spec.on_close;
        let node = WindowAggregate { parts, windows: windows.clone(), matched: Vec::new() };
        let node = Rc::new(RefCell::new(node));
        if !on_close {
            cx.flushers.insert(store.clone(), node.clone());
        }
        Ok(ErasedPort::new::<K, V>(node))
    })
}
