//! `count`, `reduce` and `aggregate` of sessions (`KStreamSessionWindowAggregate`).

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::Change;
use super::window_aggregate::{Parts, Spec};
use crate::dsl::table_node::{TableGetter, View};
use crate::dsl::windows::SessionWindows;
use crate::error::BoxError;
use crate::record::{Headers, Record, Timestamp};
use crate::serde::{Window, Windowed};
use crate::store::{KvStore, Times};
use crate::task::blueprint::{ErasedPort, NodeFactory};
use crate::task::errors::DropReason;
use crate::task::{Flow, Lifecycle, Node, TaskCx};

/// One aggregate of two.
pub(crate) type Merge<K, A> =
    Arc<dyn Fn(&K, Option<A>, Option<A>) -> Result<Option<A>, BoxError> + Send + Sync>;

struct SessionAggregate<K, V, A> {
    parts: Parts<K, V, A>,
    windows: SessionWindows,
    merge: Merge<K, A>,
    /// Scratch space.
    found: Vec<(Window, A)>,
}

impl<K: Clone + 'static, V: 'static, A: Clone + 'static> SessionAggregate<K, V, A> {
    /// Sets or removes the row of a session, and says so.
    fn put(
        &mut self,
        key: K,
        inner: &[u8],
        session: Window,
        (before, aggregate): (Option<A>, Option<A>),
        record: (i64, &Headers),
        cx: &mut TaskCx,
    ) -> Result<Flow, BoxError> {
        let Parts { store, row_key, outputs, closing, send_old, .. } = &mut self.parts;
        row_key.clear();
        store.schema().put_session(inner, session.start, session.end, row_key);
        let (arrived, headers) = record;
        let row = aggregate.map(|aggregate| (aggregate, arrived));
        let updated = store.update(row_key, arrived, headers, cx, |_| Ok(row))?;
        if closing.is_some() || updated.withheld {
            return Ok(Ok(()));
        }
        let before = before.filter(|_| *send_old);
        let change = Change::new(updated.new.map(|(aggregate, _)| aggregate), before);
        let key = Some(Windowed { key, window: session });
        // Java makes a new record here, without headers.
        let record = Record { key, value: Some(change), timestamp: session.end, headers: Headers::new() };
        Ok(outputs.forward_rekeyed(record, cx))
    }

    /// What `process` does before results of closed sessions are sent on.
    fn aggregate(
        &mut self,
        key: &K,
        value: Option<V>,
        record: (i64, &Headers),
        close: i64,
        cx: &mut TaskCx,
    ) -> Result<Flow, BoxError> {
        let at = record.0;
        let inner = self.parts.inner(key, cx)?;
        let mut found = std::mem::take(&mut self.found);
        let gap = self.windows.gap;
        self.parts.store.find_sessions(&inner, at - gap, at.saturating_add(gap), &mut found)?;
        let mut merged = Window { start: at, end: at };
        let mut aggregate = (self.parts.fold.init)();
        for (session, other) in &found {
            aggregate = (self.merge)(key, aggregate, Some(other.clone()))?;
            merged = Window { start: merged.start.min(session.start), end: merged.end.max(session.end) };
        }
        if merged.end < close {
            cx.dropped(self.parts.node, DropReason::ExpiredWindow);
        } else {
            // ORDER: user code comes first, so that a record that fails leaves the sessions as they were.
            let next = (self.parts.fold.step)(key, value, aggregate)?;
            if merged != (Window { start: at, end: at }) {
                for (session, other) in found.drain(..) {
                    if let Err(stop) =
                        self.put(key.clone(), &inner, session, (Some(other), None), record, cx)?
                    {
                        return Ok(Err(stop));
                    }
                    cx.current = Some(self.parts.node);
                }
            }
            if let Err(stop) = self.put(key.clone(), &inner, merged, (None, next), record, cx)? {
                return Ok(Err(stop));
            }
        }
        self.found = found;
        Ok(Ok(()))
    }

    /// Sends on the results of sessions that have closed (`maybeForwardFinalResult`).
    fn close(&mut self, headers: &Headers, close: i64, cx: &mut TaskCx) -> Flow {
        let Parts { closing: Some(closing), store, outputs, node, .. } = &mut self.parts else {
            return Ok(());
        };
        let Some(last) = closing.due(close, cx) else { return Ok(()) };
        let (lower, upper) = (last.max(0), close - 1);
        if upper < lower {
            return Ok(());
        }
        // All that is there: of this store Java reads also what is older than the retention (`fetchSessions`).
        let rows = store.fetch_closed(Times::new(lower, upper), store.live_from());
        closing.emit(*node, store, outputs, rows, headers, |session, _| session.end, cx)?;
        closing.emitted(close, cx);
        Ok(())
    }
}

impl<K: Clone + 'static, V: 'static, A: Clone + 'static> Node<K, V> for SessionAggregate<K, V, A> {
    fn process(&mut self, record: Record<K, V>, cx: &mut TaskCx) -> Flow {
        let node = self.parts.node;
        cx.current = Some(node);
        let Record { key, value, timestamp, headers } = record;
        let Some(key) = key else {
            cx.dropped(node, DropReason::NullKey);
            return Ok(());
        };
        let SessionWindows { gap, grace } = self.windows;
        let close = cx.clocks.advance(self.parts.observed, timestamp) - grace - gap;
        if value.is_none() && !self.parts.fold.takes_nulls {
            cx.dropped(node, DropReason::NullValue);
        } else {
            match self.aggregate(&key, value, (timestamp, &headers), close, cx) {
                Ok(flow) => flow?,
                Err(error) => return cx.processing_error(node, error),
            }
        }
        self.close(&headers, close, cx)
    }
}

impl<K: Clone + 'static, V: 'static, A: Clone + 'static> Lifecycle for SessionAggregate<K, V, A> {
    /// `SessionCacheFlushListener`: what leaves the cache has the time of its session.
    fn flush_cache(&mut self, cx: &mut TaskCx) -> Flow {
        self.parts.flush(|session, _| session.end, cx)
    }
}

/// How the table is read: a session's row has the time of its end (`KTableSessionWindowValueGetter`).
pub(crate) fn view<K: Clone + 'static, A: Clone + 'static>(store: &Arc<str>) -> View<Windowed<K>, A> {
    let name = store.clone();
    View {
        stores: vec![store.clone()],
        make: Arc::new(move |cx| Ok(Box::new(Sessions(cx.store::<KvStore<Windowed<K>, A>>(&name)?)))),
    }
}

struct Sessions<K, A>(Rc<KvStore<Windowed<K>, A>>);

impl<K: Clone + 'static, A: Clone + 'static> TableGetter<Windowed<K>, A> for Sessions<K, A> {
    fn get(&mut self, key: &Windowed<K>, _: &mut TaskCx) -> Result<Option<(A, Timestamp)>, BoxError> {
        Ok(self.0.get(key)?.map(|(aggregate, _)| (aggregate, key.window.end)))
    }
}

pub(crate) fn factory<K: Clone + 'static, V: 'static, A: Clone + 'static>(
    store: Arc<str>,
    windows: SessionWindows,
    spec: Spec<K, V, A>,
    merge: Merge<K, A>,
) -> NodeFactory {
    Arc::new(move |cx, children| {
        let parts = Parts::new(cx, children.outputs()?, &store, &spec)?;
        let node = SessionAggregate { parts, windows, merge: merge.clone(), found: Vec::new() };
        let node = Rc::new(RefCell::new(node));
        if !spec.on_close {
            cx.flushers.insert(store.clone(), node.clone());
        }
        Ok(ErasedPort::new::<K, V>(node))
    })
}
