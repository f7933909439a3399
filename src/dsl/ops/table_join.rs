//! Inner, left and outer joins of two tables by key: a change of either side is joined with the other side's row
//! (`KTableKTableInnerJoin`, `...LeftJoin`, `...RightJoin`, `...OuterJoin`, `KTableKTableJoinMerger`).

use std::rc::Rc;
use std::sync::Arc;

use super::Change;
use super::table_store::TableOut;
use crate::dsl::table_node::{MakeGetter, TableGetter, TableSettings, View};
use crate::error::BoxError;
use crate::record::{Record, Timestamp};
use crate::task::blueprint::{BuildCx, ErasedPort, NodeFactory};
use crate::task::errors::DropReason;
use crate::task::{Flow, Node, NodeIx, Outputs, TaskCx};

/// The row for the rows of both sides; `None` is no row.
pub(crate) type Joiner<K, V1, V2, VO> =
    Arc<dyn Fn(&K, Option<V1>, Option<V2>) -> Result<Option<VO>, BoxError> + Send + Sync>;

/// Which rows need no partner, seen from the side whose change is in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JoinKind {
    /// Both sides need one.
    Inner,
    /// This side needs none.
    Left,
    /// The other side needs none.
    Right,
    /// Neither needs one.
    Outer,
}

impl JoinKind {
    /// The same join, seen from the other side.
    pub(crate) fn reversed(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
            both => both,
        }
    }

    fn this_may_lack(self) -> bool {
        matches!(self, Self::Right | Self::Outer)
    }

    fn other_may_lack(self) -> bool {
        matches!(self, Self::Left | Self::Outer)
    }

    /// The row for the rows of both sides, if the join has one.
    fn join<K, V1, V2, VO>(
        self,
        joiner: &Joiner<K, V1, V2, VO>,
        key: &K,
        this: Option<V1>,
        other: Option<V2>,
    ) -> Result<Option<VO>, BoxError> {
        match (&this, &other) {
            (None, None) => Ok(None),
            (None, _) if !self.this_may_lack() => Ok(None),
            (_, None) if !self.other_may_lack() => Ok(None),
            _ => joiner(key, this, other),
        }
    }
}

struct TableJoin<K, V1, V2, VO> {
    node: NodeIx,
    outputs: Outputs<K, Change<VO>>,
    other: Box<dyn TableGetter<K, V2>>,
    joiner: Joiner<K, V1, V2, VO>,
    kind: JoinKind,
    send_old: bool,
    versioned_semantics: bool,
}

impl<K: 'static, V1: 'static, V2: Clone + 'static, VO: 'static> TableJoin<K, V1, V2, VO> {
    fn joined(
        &mut self,
        key: &K,
        change: Change<V1>,
        timestamp: Timestamp,
        cx: &mut TaskCx,
    ) -> Result<Option<(Change<VO>, Timestamp)>, BoxError> {
        let Change { new, old, latest } = change;
        let (other, timestamp) = match self.other.get(key, cx)? {
            Some((other, at)) => (Some(other), timestamp.max(at)),
            None if !self.kind.other_may_lack() || (new.is_none() && old.is_none()) => return Ok(None),
            None => (None, timestamp),
        };
        let old_other = if self.send_old { other.clone() } else { None };
        let new = self.kind.join(&self.joiner, key, new, other)?;
        let old = if self.send_old { self.kind.join(&self.joiner, key, old, old_other)? } else { None };
        Ok(Some((Change { new, old, latest }, timestamp)))
    }
}

impl<K, V1, V2, VO> Node<K, Change<V1>> for TableJoin<K, V1, V2, VO>
where
    K: Clone + 'static,
    V1: 'static,
    V2: Clone + 'static,
    VO: Clone + 'static,
{
    fn process(&mut self, record: Record<K, Change<V1>>, cx: &mut TaskCx) -> Flow {
        cx.current = Some(self.node);
        let Record { key, value, timestamp, headers } = record;
        let (Some(key), Some(change)) = (key, value) else {
            cx.dropped(self.node, DropReason::NullKey);
            return Ok(());
        };
        if self.versioned_semantics && !change.latest {
            cx.dropped(self.node, DropReason::OutOfOrder);
            return Ok(());
        }
        match self.joined(&key, change, timestamp, cx) {
            Ok(None) => Ok(()),
            Ok(Some((change, timestamp))) => {
                self.outputs.forward(Record { key: Some(key), value: Some(change), timestamp, headers }, cx)
            }
            Err(error) => cx.processing_error(self.node, error),
        }
    }
}

/// The node for the changes of one side; `other` reads the other side.
pub(crate) fn factory<K, V1, V2, VO>(
    settings: Arc<TableSettings>,
    side: Arc<TableSettings>,
    other: MakeGetter<K, V2>,
    joiner: Joiner<K, V1, V2, VO>,
    kind: JoinKind,
) -> NodeFactory
where
    K: Clone + 'static,
    V1: 'static,
    V2: Clone + 'static,
    VO: Clone + 'static,
{
    Arc::new(move |cx, children| {
        let node = TableJoin {
            node: cx.node,
            outputs: children.outputs()?,
            other: other(cx)?,
            joiner: joiner.clone(),
            kind,
            send_old: settings.sends_old(),
            versioned_semantics: side.has_versioned_semantics(),
        };
        Ok(cx.plain::<K, Change<V1>>(node))
    })
}

/// Where both sides come together: the store, if the result is kept.
struct Merger<K, VO>(Rc<TableOut<K, VO>>);

impl<K: Clone + 'static, VO: Clone + 'static> Node<K, Change<VO>> for Merger<K, VO> {
    fn process(&mut self, record: Record<K, Change<VO>>, cx: &mut TaskCx) -> Flow {
        cx.current = Some(self.0.node);
        self.0.pass_with_its_old(record, cx)
    }
}

pub(crate) fn merger<K: Clone + 'static, VO: Clone + 'static>(settings: Arc<TableSettings>) -> NodeFactory {
    Arc::new(move |cx, children| {
        let merger = Merger(TableOut::<K, VO>::build(cx, children, &settings)?);
        Ok(ErasedPort::new::<K, Change<VO>>(Rc::new(std::cell::RefCell::new(merger))))
    })
}

/// Reads rows of both tables and joins them.
struct JoinGetter<K, V1, V2, VO> {
    this: Box<dyn TableGetter<K, V1>>,
    other: Box<dyn TableGetter<K, V2>>,
    joiner: Joiner<K, V1, V2, VO>,
    kind: JoinKind,
}

/// It is not versioned, even if both tables are (KIP-914).
impl<K, V1, V2, VO> TableGetter<K, VO> for JoinGetter<K, V1, V2, VO> {
    fn get(&mut self, key: &K, cx: &mut TaskCx) -> Result<Option<(VO, Timestamp)>, BoxError> {
        let this = self.this.get(key, cx)?;
        if this.is_none() && !self.kind.this_may_lack() {
            return Ok(None);
        }
        let other = self.other.get(key, cx)?;
        let at = this.as_ref().map_or(-1, |row| row.1).max(other.as_ref().map_or(-1, |row| row.1));
        let joined =
            self.kind.join(&self.joiner, key, this.map(|(value, _)| value), other.map(|(value, _)| value))?;
        Ok(joined.map(|value| (value, at)))
    }
}

/// The join as it is read through both tables.
pub(crate) fn view<K: 'static, V1: 'static, V2: 'static, VO: 'static>(
    this: View<K, V1>,
    other: View<K, V2>,
    joiner: Joiner<K, V1, V2, VO>,
    kind: JoinKind,
) -> View<K, VO> {
    let mut stores = this.stores;
    stores.extend(other.stores);
    let (this, other) = (this.make, other.make);
    let make = Arc::new(move |cx: &mut BuildCx<'_>| {
        let getter: Box<dyn TableGetter<K, VO>> =
            Box::new(JoinGetter { this: this(cx)?, other: other(cx)?, joiner: joiner.clone(), kind });
        Ok(getter)
    });
    View { stores, make }
}
