//! `suppress`: holds changes back until a time, or a window's end, is past (`KTableSuppressProcessorSupplier`,
//! `InMemoryTimeOrderedKeyValueChangeBuffer`).
//!
//! What is held back is in a store, by key, and goes to its changelog at commits. The order in which changes leave is kept
//! by the node alone: it reads it from the store when it starts.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::Change;
use crate::dsl::suppressed::{Buffer, Until, WhenFull};
use crate::dsl::table_node::{TableGetter, View};
use crate::error::{BoxError, Error, ErrorKind};
use crate::record::{Headers, Record, Timestamp};
use crate::serde::SerdeCx;
use crate::serde::buffered::Buffered;
use crate::serde::erased::SerdeRef;
use crate::store::KvStore;
use crate::store::engine::KeyRange;
use crate::task::blueprint::NodeFactory;
use crate::task::clocks::ClockIx;
use crate::task::{Flow, Node, NodeIx, Outputs, TaskCx};

/// The store of a buffer: keys as bytes.
pub(crate) type BufferStore = KvStore<Bytes, Buffered>;

/// How a suppression writes keys and values.
pub(crate) struct Serdes<K, V> {
    pub(crate) keys: SerdeRef<K>,
    pub(crate) values: SerdeRef<V>,
}

impl<K, V> Clone for Serdes<K, V> {
    fn clone(&self) -> Self {
        Self { keys: self.keys.clone(), values: self.values.clone() }
    }
}

/// What a suppression is made from.
pub(crate) struct SuppressSpec<K, V> {
    pub(crate) store: Arc<str>,
    pub(crate) serdes: Serdes<K, V>,
    pub(crate) buffer: Buffer,
    pub(crate) until: Until<K>,
    /// How much stream time passes after a change's time before it leaves.
    pub(crate) wait: i64,
}

struct Suppress<K, V> {
    node: NodeIx,
    outputs: Outputs<K, Change<V>>,
    store: Rc<BufferStore>,
    spec: Arc<SuppressSpec<K, V>>,
    observed: ClockIx,
    /// What is held back, in the order in which it leaves. `None` until it has been read from the store.
    order: Option<Order>,
}

#[derive(Default)]
struct Order {
    entries: BTreeSet<(Timestamp, Bytes)>,
    bytes: usize,
}

fn no_headers() -> Headers {
    Headers::new()
}

impl<K: Clone + 'static, V: Clone + 'static> Suppress<K, V> {
    /// The order of what the store has held back since before.
    fn read_order(&self) -> Result<Order, BoxError> {
        let mut order = Order::default();
        let mut range = KeyRange::ALL;
        loop {
            let page = self.store.page(&range)?;
            let Some((last, _)) = page.last() else { return Ok(order) };
            range.from = Bound::Excluded(last.clone());
            for (key, (change, _)) in page {
                order.bytes += change.size(&key);
                order.entries.insert((change.time, key));
            }
        }
    }

    fn write<T: 'static>(&self, serde: &SerdeRef<T>, value: &T, is_key: bool) -> Result<Bytes, BoxError> {
        let mut out = BytesMut::new();
        let headers = no_headers();
        serde.write(value, &SerdeCx { topic: self.store.topic(), is_key, headers: &headers }, &mut out)?;
        Ok(out.freeze())
    }

    fn read<T: 'static>(&self, serde: &SerdeRef<T>, bytes: &Bytes, is_key: bool) -> Result<T, BoxError> {
        let headers = no_headers();
        Ok(serde.read(bytes, &SerdeCx { topic: self.store.topic(), is_key, headers: &headers })?)
    }

    /// Puts a change into the buffer, in the place of an earlier one of its key.
    fn hold(
        &mut self,
        record: Record<K, Change<V>>,
        order: &mut Order,
        cx: &mut TaskCx,
    ) -> Result<(), BoxError> {
        let Record { key: Some(key), value: Some(change), timestamp, headers } = record else {
            return Ok(());
        };
        let time = match self.spec.until {
            Until::Limit(_) => timestamp,
            Until::WindowCloses(end) => end(&key),
        };
        let key = self.write(&self.spec.serdes.keys, &key, true)?;
        let values = &self.spec.serdes.values;
        let value = |value: Option<V>| value.map(|value| self.write(values, &value, false)).transpose();
        let (new, old) = (value(change.new)?, value(change.old)?);
        let source = cx.source();
        let topic = source.map_or_else(|| "".into(), |source| source.topic.clone());
        let partition = source.map_or(-1, |source| source.partition);
        let mut kept = headers.clone();
        kept.detach();
        let offset = cx.raw.offset;
        let updated = self.store.update(&key, timestamp, &headers, cx, |held| {
            // The first change of a key decides when it leaves, and what was sent on before.
            let (time, prior) = match held {
                Some((held, _)) => (held.time, held.prior.clone()),
                None => (time, old.clone()),
            };
            let held = Buffered { timestamp, offset, topic, partition, headers: kept, prior, old, new, time };
            Ok(Some((held, timestamp)))
        })?;
        if let Some((before, _)) = updated.old {
            order.bytes = order.bytes.saturating_sub(before.size(&key));
        }
        if let Some((now, _)) = updated.new {
            order.bytes += now.size(&key);
            order.entries.insert((now.time, key));
        }
        Ok(())
    }

    /// Sends the oldest change on, and then takes it out of the buffer.
    fn emit(&self, order: &mut Order, cx: &mut TaskCx) -> Result<Flow, BoxError> {
        let Some((time, key)) = order.entries.first().cloned() else { return Ok(Ok(())) };
        let held = self.store.get(&key)?;
        if let Some((held, _)) = held {
            order.bytes = order.bytes.saturating_sub(held.size(&key));
            let final_results = matches!(self.spec.until, Until::WindowCloses(_));
            // A window that came to nothing has no result.
            if held.new.is_some() || !final_results {
                let flow = self.forward(&key, held, cx)?;
                if flow.is_err() {
                    return Ok(flow);
                }
            }
        }
        order.entries.remove(&(time, key.clone()));
        let (now, headers) = (cx.timestamp, no_headers());
        self.store.update(&key, now, &headers, cx, |_| Ok(None))?;
        Ok(Ok(()))
    }

    /// In the context of the record that made the change last.
    fn forward(&self, key: &Bytes, held: Buffered, cx: &mut TaskCx) -> Result<Flow, BoxError> {
        let Serdes { keys, values } = &self.spec.serdes;
        let value = |bytes: Option<Bytes>| bytes.map(|bytes| self.read(values, &bytes, false)).transpose();
        let (key, change) = (self.read(keys, key, true)?, Change::new(value(held.new)?, value(held.old)?));
        let Buffered { timestamp, offset, topic, partition, headers, .. } = held;
        let is_it =
            |source: &crate::task::context::Source| source.topic == topic && source.partition == partition;
        let source = cx.sources.iter().position(is_it);
        let aside = cx.put_aside();
        cx.begin_flush(source, offset, timestamp, headers.clone());
        let record = Record { key: Some(key), value: Some(change), timestamp, headers };
        let flow = self.outputs.forward(record, cx);
        cx.take_up(aside);
        cx.current = Some(self.node);
        Ok(flow)
    }

    fn run(
        &mut self,
        record: Record<K, Change<V>>,
        order: &mut Order,
        cx: &mut TaskCx,
    ) -> Result<Flow, BoxError> {
        let now = cx.clocks.advance(self.observed, record.timestamp);
        self.hold(record, order, cx)?;
        let expiry = now.saturating_sub(self.spec.wait);
        while order.entries.first().is_some_and(|(time, _)| *time <= expiry) {
            let flow = self.emit(order, cx)?;
            if flow.is_err() {
                return Ok(flow);
            }
        }
        let Buffer { records, bytes, when_full, .. } = self.spec.buffer;
        while order.entries.len() > records || order.bytes > bytes {
            if when_full == WhenFull::ShutDown {
                let text = format!(
                    "the suppression's buffer {} is full: {} of {records} records and {} of {bytes} bytes; give it more, or \
                     let changes leave early (BufferConfig without shut_down_when_full)",
                    self.spec.store,
                    order.entries.len(),
                    order.bytes
                );
                return Err(Error::new(ErrorKind::Processing, text).into());
            }
            let flow = self.emit(order, cx)?;
            if flow.is_err() {
                return Ok(flow);
            }
        }
        Ok(Ok(()))
    }
}

impl<K: Clone + 'static, V: Clone + 'static> Node<K, Change<V>> for Suppress<K, V> {
    fn process(&mut self, record: Record<K, Change<V>>, cx: &mut TaskCx) -> Flow {
        cx.current = Some(self.node);
        let order = match self.order.take() {
            Some(order) => Ok(order),
            None => self.read_order(),
        };
        let outcome = order.and_then(|mut order| {
            let outcome = self.run(record, &mut order, cx);
            // After an error the store says what is held back.
            self.order = outcome.is_ok().then_some(order);
            outcome
        });
        match outcome {
            Ok(flow) => flow,
            Err(error) => cx.processing_error(self.node, error),
        }
    }
}

pub(crate) fn factory<K: Clone + 'static, V: Clone + 'static>(spec: SuppressSpec<K, V>) -> NodeFactory {
    let spec = Arc::new(spec);
    Arc::new(move |cx, children| {
        let outputs = children.outputs()?;
        let store = cx.store::<BufferStore>(&spec.store)?;
        let observed = cx.task.clocks.add();
        let node = Suppress { node: cx.node, outputs, store, spec: spec.clone(), observed, order: None };
        Ok(cx.plain::<K, Change<V>>(node))
    })
}

/// How the table behind a suppression is read: what is held back is not seen yet, the rest is as the table before it.
pub(crate) fn view<K: Clone + 'static, V: Clone + 'static>(
    store: &Arc<str>,
    serdes: &Serdes<K, V>,
    parent: View<K, V>,
) -> View<K, V> {
    let (name, serdes) = (store.clone(), serdes.clone());
    let stores = std::iter::once(store.clone()).chain(parent.stores).collect();
    View {
        stores,
        make: Arc::new(move |cx| {
            let parent = (parent.make)(cx)?;
            let buffer = cx.store::<BufferStore>(&name)?;
            Ok(Box::new(SuppressedTable { buffer, serdes: serdes.clone(), parent }))
        }),
    }
}

struct SuppressedTable<K, V> {
    buffer: Rc<BufferStore>,
    serdes: Serdes<K, V>,
    parent: Box<dyn TableGetter<K, V>>,
}

impl<K: Clone + 'static, V: Clone + 'static> TableGetter<K, V> for SuppressedTable<K, V> {
    fn get(&mut self, key: &K, cx: &mut TaskCx) -> Result<Option<(V, Timestamp)>, BoxError> {
        let mut bytes = BytesMut::new();
        let topic = self.buffer.topic();
        self.serdes.keys.write(key, &SerdeCx::key(topic), &mut bytes)?;
        let Some((held, _)) = self.buffer.get(&bytes.freeze())? else { return self.parent.get(key, cx) };
        // When it was sent on is not known (`InMemoryTimeOrderedKeyValueChangeBuffer.priorValueForBuffered`).
        let read = |bytes: Bytes| self.serdes.values.read(&bytes, &SerdeCx::value(topic));
        Ok(held.prior.map(read).transpose()?.map(|prior| (prior, -1)))
    }
}
