//! `count`, `reduce` and `aggregate` of sliding windows (`KStreamSlidingWindowAggregate`).
//!
//! A window exists where records make one: the left window of a record ends at its time, the right window of a record
//! begins one millisecond after it, if there is a record in it. Records of the first `difference` milliseconds of 1970,
//! whose left windows would begin before it, share the window `[0, difference]`.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use super::Change;
use super::window_aggregate::{Parts, Spec};
use crate::error::BoxError;
use crate::record::{Headers, Record, Timestamp};
use crate::serde::{Window, Windowed};
use crate::store::Times;
use crate::task::blueprint::{ErasedPort, NodeFactory};
use crate::task::errors::DropReason;
use crate::task::{Flow, Lifecycle, Node, TaskCx};

struct SlidingAggregate<K, V, A> {
    parts: Parts<K, V, A>,
    difference: i64,
    grace: i64,
    /// Scratch space.
    found: Vec<Found<A>>,
}

/// A window that is there: its start, its aggregate, and the greatest time of its records.
type Found<A> = (Timestamp, (A, Timestamp));

/// The record in hand.
struct Arrived<'a, K, V> {
    key: &'a K,
    inner: Bytes,
    value: &'a V,
    at: Timestamp,
    headers: &'a Headers,
    /// Windows that end before it are closed.
    close: Timestamp,
}

/// What the windows around a record say.
struct Around<A> {
    /// The latest window before the record has it, as far as the record's own left window would.
    left: Option<(A, Timestamp)>,
    right: Option<(A, Timestamp)>,
    has_left: bool,
    has_right: bool,
    /// The time of the latest record before this one.
    previous: Option<Timestamp>,
}

/// How an update ended: whether the task has failed, or user code.
type Update = Result<Flow, BoxError>;

/// Goes on unless the task has failed.
macro_rules! flow {
    ($update:expr) => {
        if let Err(stop) = $update? {
            return Ok(Err(stop));
        }
    };
}

impl<K: Clone + 'static, V: Clone + 'static, A: Clone + 'static> SlidingAggregate<K, V, A> {
    /// Reads the windows of a key that begin in a range.
    fn find(&mut self, inner: &[u8], times: Times, reverse: bool) -> Result<Vec<Found<A>>, BoxError> {
        let mut found = std::mem::take(&mut self.found);
        found.clear();
        let schema = self.parts.store.schema();
        self.parts.store.fetch_key(inner, times, reverse, |key, row| {
            found.push((schema.time(&key), row));
            true
        })?;
        Ok(found)
    }

    /// Sets the row of a window, and says so.
    fn put(
        &mut self,
        record: &Arrived<'_, K, V>,
        start: Timestamp,
        (before, row): (Option<A>, Option<(A, Timestamp)>),
        timestamp: Timestamp,
        cx: &mut TaskCx,
    ) -> Update {
        let Parts { store, row_key, outputs, closing, node, send_old, .. } = &mut self.parts;
        cx.current = Some(*node);
        row_key.clear();
        store.schema().put_window(&record.inner, start, 0, row_key);
        let updated = store.update(row_key, record.at, record.headers, cx, |_| Ok(row))?;
        if closing.is_some() || updated.withheld {
            return Ok(Ok(()));
        }
        let before = before.filter(|_| *send_old);
        let change = Change::new(updated.new.map(|(aggregate, _)| aggregate), before);
        let key = Windowed { key: record.key.clone(), window: Window::of_size(start, self.difference) };
        let headers = record.headers.clone();
        Ok(outputs.forward_rekeyed(Record { key: Some(key), value: Some(change), timestamp, headers }, cx))
    }

    /// `updateWindowAndForward`: adds the record to a window, given its aggregate and the time of that.
    fn update(
        &mut self,
        record: &Arrived<'_, K, V>,
        start: Timestamp,
        (old, old_at): (Option<A>, Timestamp),
        cx: &mut TaskCx,
    ) -> Update {
        if start.saturating_add(self.difference) < record.close {
            cx.dropped(self.parts.node, DropReason::ExpiredWindow);
            return Ok(Ok(()));
        }
        let timestamp = if old.is_some() { record.at.max(old_at) } else { record.at };
        cx.current = Some(self.parts.node);
        let before = if self.parts.send_old { old.clone() } else { None };
        let next = (self.parts.fold.step)(record.key, Some(record.value.clone()), old)?;
        let row = next.map(|aggregate| (aggregate, timestamp));
        self.put(record, start, (before, row), timestamp, cx)
    }

    /// A window that begins with this record.
    fn create(&mut self, record: &Arrived<'_, K, V>, start: Timestamp, cx: &mut TaskCx) -> Update {
        let init = (self.parts.fold.init)();
        self.update(record, start, (init, record.at), cx)
    }

    /// `processReverse`, with `createWindows`.
    fn aggregate(&mut self, record: &Arrived<'_, K, V>, cx: &mut TaskCx) -> Update {
        let at = record.at;
        let from = at.saturating_sub(2 * self.difference).max(0);
        let mut found = self.find(&record.inner, Times::new(from, at + 1), true)?;
        let mut around =
            Around { left: None, right: None, has_left: false, has_right: false, previous: None };
        let mut later = Vec::new();
        for (start, row) in found.drain(..) {
            let end = start + self.difference;
            if start == at + 1 {
                around.has_right = true;
            } else if end > at {
                if around.right.is_none() {
                    around.right = Some(row.clone());
                }
                flow!(self.update(record, start, (Some(row.0), row.1), cx));
            } else if end == at {
                around.has_left = true;
                let greatest = row.1;
                flow!(self.update(record, start, (Some(row.0), row.1), cx));
                if greatest >= at {
                    // Another record of this time has made the windows.
                    self.found = Vec::new();
                    return Ok(Ok(()));
                }
                around.previous = Some(greatest);
            } else {
                around.previous = Some(row.1);
                around.left = Some(row);
                break;
            }
            later.push(start);
        }
        found.clear();
        self.found = found;
        self.create_windows(record, around, &later, cx)
    }

    fn create_windows(
        &mut self,
        record: &Arrived<'_, K, V>,
        around: Around<A>,
        starts: &[Timestamp],
        cx: &mut TaskCx,
    ) -> Update {
        let at = record.at;
        if let Some(previous) = around.previous {
            let start = previous + 1;
            // The record is in the right window of the one before it, which had none yet.
            if !starts.contains(&start) && start + self.difference >= at {
                flow!(self.create(record, start, cx));
            }
        }
        if !around.has_left {
            let start = at - self.difference;
            let inside = around.previous.is_some_and(|previous| start <= previous);
            match around.left.filter(|_| inside) {
                Some((aggregate, _)) => flow!(self.update(record, start, (Some(aggregate), at), cx)),
                None => flow!(self.create(record, start, cx)),
            }
        }
        self.create_right(record, around.right, around.has_right, cx)
    }

    /// The right window of the record, which has what later records have made of those it shares.
    fn create_right(
        &mut self,
        record: &Arrived<'_, K, V>,
        right: Option<(A, Timestamp)>,
        has_right: bool,
        cx: &mut TaskCx,
    ) -> Update {
        match right.filter(|(_, greatest)| !has_right && *greatest > record.at) {
            Some(row) => {
                let timestamp = row.1;
                self.put(record, record.at + 1, (None, Some(row)), timestamp, cx)
            }
            None => Ok(Ok(())),
        }
    }

    /// `processEarly`.
    fn aggregate_early(&mut self, record: &Arrived<'_, K, V>, cx: &mut TaskCx) -> Update {
        let at = record.at;
        let mut found = self.find(&record.inner, Times::new(0, at + 1), false)?;
        let (mut combined, mut right, mut has_right, mut previous) = (None, None, false, None);
        let mut starts = Vec::new();
        for (start, row) in found.drain(..) {
            starts.push(start);
            if start == 0 {
                if row.1 < at {
                    previous = Some(row.1);
                }
                combined = Some(row);
            } else if start <= at {
                right = Some(row.clone());
                flow!(self.update(record, start, (Some(row.0), row.1), cx));
            } else {
                has_right = true;
            }
        }
        self.found = found;
        if right.is_none() {
            right = combined.clone().filter(|(_, greatest)| *greatest > at);
        }
        flow!(self.create_right(record, right, has_right, cx));
        if let Some(previous) = previous
            && !starts.contains(&(previous + 1))
        {
            flow!(self.create(record, previous + 1, cx));
        }
        match combined {
            Some((aggregate, greatest)) => self.update(record, 0, (Some(aggregate), greatest), cx),
            None => self.create(record, 0, cx),
        }
    }

    /// Sends on the results of windows that have closed (`maybeForwardFinalResult`).
    fn close(&mut self, headers: &Headers, close: Timestamp, cx: &mut TaskCx) -> Flow {
        let Parts { closing: Some(closing), store, outputs, node, .. } = &mut self.parts else {
            return Ok(());
        };
        let Some(last) = closing.due(close, cx) else { return Ok(()) };
        let upper = close - self.difference - 1;
        let lower = if last < 0 { 0 } else { (last - self.difference).max(0) };
        if upper < 0 {
            return Ok(());
        }
        let rows = store.fetch_closed(Times::new(lower, upper), store.visible_from());
        closing.emit(*node, store, outputs, rows, headers, |_, at| at, cx)?;
        closing.emitted(close, cx);
        Ok(())
    }
}

impl<K: Clone + 'static, V: Clone + 'static, A: Clone + 'static> Node<K, V> for SlidingAggregate<K, V, A> {
    fn process(&mut self, record: Record<K, V>, cx: &mut TaskCx) -> Flow {
        let node = self.parts.node;
        cx.current = Some(node);
        let Record { key, value, timestamp: at, headers } = record;
        let Some(key) = key else {
            cx.dropped(node, DropReason::NullKey);
            return Ok(());
        };
        let Some(value) = value else {
            cx.dropped(node, DropReason::NullValue);
            return Ok(());
        };
        let close = cx.clocks.advance(self.parts.observed, at) - self.grace;
        if at.saturating_add(self.difference) < close {
            cx.dropped(node, DropReason::ExpiredWindow);
            return Ok(());
        }
        let early = at < self.difference;
        let updated = self.parts.inner(&key, cx).and_then(|inner| {
            let record = Arrived { key: &key, inner, value: &value, at, headers: &headers, close };
            if early { self.aggregate_early(&record, cx) } else { self.aggregate(&record, cx) }
        });
        match updated {
            Ok(flow) => flow?,
            Err(error) => return cx.processing_error(node, error),
        }
        // As in Java, an early record closes nothing.
        if early { Ok(()) } else { self.close(&headers, close, cx) }
    }
}

impl<K: Clone + 'static, V: Clone + 'static, A: Clone + 'static> Lifecycle for SlidingAggregate<K, V, A> {
    fn flush_cache(&mut self, cx: &mut TaskCx) -> Flow {
        self.parts.flush(|_, at| at, cx)
    }
}

pub(crate) fn factory<K: Clone + 'static, V: Clone + 'static, A: Clone + 'static>(
    store: Arc<str>,
    difference: i64,
    grace: i64,
    spec: Spec<K, V, A>,
) -> NodeFactory {
    Arc::new(move |cx, children| {
        let parts = Parts::new(cx, children.outputs()?, &store, &spec)?;
        let node = SlidingAggregate { parts, difference, grace, found: Vec::new() };
        let node = Rc::new(RefCell::new(node));
        if !spec.on_close {
            cx.flushers.insert(store.clone(), node.clone());
        }
        Ok(ErasedPort::new::<K, V>(node))
    })
}
