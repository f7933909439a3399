//! Results that are sent on when their window is closed (KIP-825).

use std::sync::Arc;

use super::Change;
use crate::error::BoxError;
use crate::record::{Headers, Record, Timestamp};
use crate::serde::{Window, Windowed};
use crate::store::{KvStore, Page};
use crate::task::clocks::ClockIx;
use crate::task::{Flow, NodeIx, Outputs, TaskCx};

/// How far the results of closed windows have been sent on.
pub(crate) struct Closing {
    /// Up to which close time; it is committed with the offsets, under the store's name, as in Java.
    sent: ClockIx,
    /// When closed windows are looked for next, by the wall clock.
    next: Timestamp,
}

impl Closing {
    pub(crate) fn new(cx: &mut TaskCx, store: &Arc<str>) -> Self {
        Self { sent: cx.clocks.add_committed(store), next: 0 }
    }

    /// If it is time to look for windows that have closed: up to which close time they were sent on, -1 for none.
    pub(crate) fn due(&mut self, close: Timestamp, cx: &TaskCx) -> Option<Timestamp> {
        if cx.window_emit_interval > 0 {
            let now = cx.clock.wall_ms();
            if now < self.next {
                return None;
            }
            self.next = now.saturating_add(cx.window_emit_interval);
        }
        let last = cx.clocks.get(self.sent);
        (last < 0 || last < close).then_some(last)
    }

    /// Sends rows on, with the headers of the record in hand and the timestamp that `at` makes of a row's.
    #[allow(clippy::too_many_arguments, reason = "the parts of a node, which is borrowed in parts")]
    pub(crate) fn emit<K: Clone + 'static, A: Clone + 'static>(
        &self,
        node: NodeIx,
        store: &KvStore<Windowed<K>, A>,
        outputs: &Outputs<Windowed<K>, Change<A>>,
        rows: Result<Page<A>, BoxError>,
        headers: &Headers,
        at: impl Fn(Window, Timestamp) -> Timestamp,
        cx: &mut TaskCx,
    ) -> Flow {
        let rows = match rows {
            Ok(rows) => rows,
            Err(error) => return cx.processing_error(node, error),
        };
        for (key, (aggregate, timestamp)) in rows {
            cx.current = Some(node);
            let key = match store.read_key(&key) {
                Ok(key) => key,
                Err(error) => return cx.processing_error(node, error),
            };
            let timestamp = at(key.window, timestamp);
            let value = Some(Change::new(Some(aggregate), None));
            outputs
                .forward_rekeyed(Record { key: Some(key), value, timestamp, headers: headers.clone() }, cx)?;
        }
        Ok(())
    }

    /// All windows up to a close time have been sent on.
    pub(crate) fn emitted(&self, close: Timestamp, cx: &mut TaskCx) {
        cx.clocks.set(self.sent, close);
    }
}
