//! `transform_values` of a table: user code with state that makes a row of each row (`KTableTransformValues`).

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::Change;
use super::table_store::TableOut;
use crate::dsl::table_node::{TableGetter, TableSettings, View};
use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::record::{Record, Timestamp};
use crate::task::blueprint::{BuildCx, ErasedPort, NodeFactory};
use crate::task::errors::DropReason;
use crate::task::punctuation::Token;
use crate::task::{Flow, Lifecycle, Node, NodeIx, TaskCx};
use crate::topology::{Outcome, Stores, TransformContext};

/// Makes the rows of a table from those of another
/// (`org.apache.kafka.streams.kstream.ValueTransformerWithKey`).
///
/// Old rows are transformed too where somebody downstream wants them and the result is not kept in a store: let the result
/// depend on nothing but the row, or [keep](crate::dsl::KTable::materialized) it.
pub trait ValueTransformerWithKey<K, V, VO>: 'static {
    /// Called once, when the task's stores are restored: the place to schedule punctuations.
    fn init(&mut self, cx: &mut TransformContext<'_>) -> Outcome {
        let _ = cx;
        Ok(())
    }

    /// The row for a row; `None` is a row that is deleted, or no row.
    fn transform(
        &mut self,
        key: &K,
        value: Option<V>,
        cx: &mut TransformContext<'_>,
    ) -> Result<Option<VO>, BoxError>;

    /// Called when the schedule `token` is due, at the time `at` of its clock.
    fn punctuate(&mut self, token: Token, at: Timestamp, cx: &mut TransformContext<'_>) -> Outcome {
        let _ = (token, at, cx);
        Ok(())
    }

    /// Called once, before the stores close.
    fn close(&mut self, cx: &mut TransformContext<'_>) -> Outcome {
        let _ = cx;
        Ok(())
    }
}

/// Makes the transformer of a task.
pub(crate) type Supplier<T> = Arc<dyn Fn(&Stores<'_, '_>) -> Result<T> + Send + Sync>;

struct TransformValues<K, VO, T> {
    out: Rc<TableOut<K, VO>>,
    transformer: Rc<RefCell<T>>,
}

impl<K, V, VO, T> Node<K, Change<V>> for TransformValues<K, VO, T>
where
    K: Clone + 'static,
    V: 'static,
    VO: Clone + 'static,
    T: ValueTransformerWithKey<K, V, VO>,
{
    fn process(&mut self, record: Record<K, Change<V>>, cx: &mut TaskCx) -> Flow {
        let node = self.out.node;
        cx.current = Some(node);
        let Record { key, value, timestamp, headers } = record;
        let (Some(key), Some(change)) = (key, value) else {
            cx.dropped(node, DropReason::NullKey);
            return Ok(());
        };
        let before = std::mem::replace(&mut cx.timestamp, timestamp);
        let transform = |value, cx: &mut TaskCx| {
            self.transformer.borrow_mut().transform(&key, value, &mut TransformContext::new(cx, node))
        };
        // With a store the old row is the one that is kept.
        let transforms_old = self.out.send_old && self.out.store.is_none();
        let changed = transform(change.new, cx).and_then(|new| {
            let old = if transforms_old { transform(change.old, cx)? } else { None };
            Ok(Change { new, old, latest: change.latest })
        });
        cx.timestamp = before;
        match changed {
            _ if cx.has_failed() => Err(crate::task::Stop),
            Ok(change) => {
                self.out.pass(Record { key: Some(key), value: Some(change), timestamp, headers }, cx)
            }
            Err(error) => cx.processing_error(node, error),
        }
    }
}

/// A transformer's life, whose input types the compiler could not find from the transformer alone.
struct Life<T, F> {
    node: NodeIx,
    transformer: Rc<RefCell<T>>,
    calls: F,
}

type Call<T> = fn(&mut T, &mut TransformContext<'_>) -> Outcome;

struct Calls<T> {
    init: Call<T>,
    punctuate: fn(&mut T, Token, Timestamp, &mut TransformContext<'_>) -> Outcome,
    close: Call<T>,
}

impl<T> Life<T, Calls<T>> {
    /// A transformer that could not begin or end is of no use, whatever the policy for records says.
    fn ends(&self, call: Call<T>, cx: &mut TaskCx) -> Flow {
        cx.current = Some(self.node);
        let outcome = call(&mut self.transformer.borrow_mut(), &mut TransformContext::new(cx, self.node));
        outcome.map_err(|error| {
            let failed =
                Error::new(ErrorKind::Processing, "a transformer could not be initialised or closed");
            let node = cx.node_name(self.node).to_owned();
            cx.fail(failed.at_node(node).because(error))
        })
    }
}

impl<T> Lifecycle for Life<T, Calls<T>> {
    fn init(&mut self, cx: &mut TaskCx) -> Flow {
        self.ends(self.calls.init, cx)
    }

    fn punctuate(&mut self, token: Token, at: Timestamp, cx: &mut TaskCx) -> Flow {
        cx.current = Some(self.node);
        let mut transformer = self.transformer.borrow_mut();
        let outcome =
            (self.calls.punctuate)(&mut transformer, token, at, &mut TransformContext::new(cx, self.node));
        drop(transformer);
        outcome.or_else(|error| cx.processing_error(self.node, error))
    }

    fn close(&mut self, cx: &mut TaskCx) -> Flow {
        self.ends(self.calls.close, cx)
    }
}

/// A transformer of the node that is being built, with its life.
fn make<K, V, VO, T>(cx: &mut BuildCx<'_>, supplier: &Supplier<T>) -> Result<Rc<RefCell<T>>>
where
    T: ValueTransformerWithKey<K, V, VO>,
{
    let transformer = Rc::new(RefCell::new(supplier(&Stores::of(cx))?));
    let calls = Calls { init: T::init, punctuate: T::punctuate, close: T::close };
    let life = Life { node: cx.node, transformer: transformer.clone(), calls };
    cx.lifecycles.push((cx.node, Rc::new(RefCell::new(life))));
    Ok(transformer)
}

pub(crate) fn factory<K, V, VO, T>(settings: Arc<TableSettings>, supplier: Supplier<T>) -> NodeFactory
where
    K: Clone + 'static,
    V: 'static,
    VO: Clone + 'static,
    T: ValueTransformerWithKey<K, V, VO>,
{
    Arc::new(move |cx, children| {
        let out = TableOut::<K, VO>::build(cx, children, &settings)?;
        let transformer = make::<K, V, VO, T>(cx, &supplier)?;
        let node = TransformValues { out, transformer };
        Ok(ErasedPort::new::<K, Change<V>>(Rc::new(RefCell::new(node))))
    })
}

/// Reads rows of the table above and transforms what is asked of them, with a transformer of its own.
struct TransformGetter<K, V, T> {
    node: NodeIx,
    parent: Box<dyn TableGetter<K, V>>,
    transformer: Rc<RefCell<T>>,
}

impl<K, V, T> TransformGetter<K, V, T> {
    fn transformed<VO>(
        &self,
        key: &K,
        row: Option<(V, Timestamp)>,
        cx: &mut TaskCx,
    ) -> Result<Option<(VO, Timestamp)>, BoxError>
    where
        T: ValueTransformerWithKey<K, V, VO>,
    {
        let (value, timestamp) = match row {
            Some((value, timestamp)) => (Some(value), timestamp),
            None => (None, -1),
        };
        // The row comes from a store: no record is in hand.
        let (source, offset) = (cx.source.take(), std::mem::replace(&mut cx.raw.offset, -1));
        let before = std::mem::replace(&mut cx.timestamp, timestamp);
        let mut context = TransformContext::new(cx, self.node);
        let transformed = self.transformer.borrow_mut().transform(key, value, &mut context);
        cx.timestamp = before;
        (cx.source, cx.raw.offset) = (source, offset);
        Ok(transformed?.map(|value| (value, timestamp)))
    }
}

impl<K, V, VO, T: ValueTransformerWithKey<K, V, VO>> TableGetter<K, VO> for TransformGetter<K, V, T> {
    fn get(&mut self, key: &K, cx: &mut TaskCx) -> Result<Option<(VO, Timestamp)>, BoxError> {
        let row = self.parent.get(key, cx)?;
        self.transformed(key, row, cx)
    }

    fn get_as_of(
        &mut self,
        key: &K,
        at: Timestamp,
        cx: &mut TaskCx,
    ) -> Result<Option<(VO, Timestamp)>, BoxError> {
        let row = self.parent.get_as_of(key, at, cx)?;
        self.transformed(key, row, cx)
    }

    fn is_versioned(&self) -> bool {
        self.parent.is_versioned()
    }
}

/// The table as it is read through the one above. Readers are connected to the transformer's own stores as well; in Kafka
/// Streams they are not, and such a topology fails when it starts.
pub(crate) fn view<K, V, VO, T>(
    parent: View<K, V>,
    own_stores: &[Arc<str>],
    supplier: Supplier<T>,
) -> View<K, VO>
where
    K: 'static,
    V: 'static,
    VO: 'static,
    T: ValueTransformerWithKey<K, V, VO>,
{
    let View { mut stores, make: parent } = parent;
    stores.extend_from_slice(own_stores);
    let make = Arc::new(move |cx: &mut BuildCx<'_>| {
        let (parent, transformer) = (parent(cx)?, make::<K, V, VO, T>(cx, &supplier)?);
        let getter: Box<dyn TableGetter<K, VO>> =
            Box::new(TransformGetter { node: cx.node, parent, transformer });
        Ok(getter)
    });
    View { stores, make }
}
