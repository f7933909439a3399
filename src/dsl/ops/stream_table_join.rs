//! Joins of a stream with a table, partitioned alike or global: each record of the stream is joined with the row that its key
//! has at that moment, or, of a versioned table, had at the record's time (`KStreamKTableJoinProcessor`).

use std::sync::Arc;

use crate::dsl::table_node::{MakeGetter, TableGetter};
use crate::error::BoxError;
use crate::record::Record;
use crate::task::blueprint::NodeFactory;
use crate::task::errors::DropReason;
use crate::task::{Flow, Node, NodeIx, Outputs, TaskCx};

/// The key of the table's row for a record.
pub(crate) type KeyMapper<K, V, KT> =
    Arc<dyn Fn(Option<&K>, &V) -> Result<Option<KT>, BoxError> + Send + Sync>;

/// The value for that of a record and that of the row.
pub(crate) type Joiner<K, V, VT, VO> =
    Arc<dyn Fn(Option<&K>, V, Option<VT>) -> Result<Option<VO>, BoxError> + Send + Sync>;

/// What such a join is made from.
pub(crate) struct StreamTable<K, V, KT, VT, VO> {
    pub(crate) mapper: KeyMapper<K, V, KT>,
    pub(crate) joiner: Joiner<K, V, VT, VO>,
    /// Whether a record without a row passes.
    pub(crate) is_left: bool,
}

impl<K, V, KT, VT, VO> Clone for StreamTable<K, V, KT, VT, VO> {
    fn clone(&self) -> Self {
        Self { mapper: self.mapper.clone(), joiner: self.joiner.clone(), is_left: self.is_left }
    }
}

/// Joins records with rows; what it is for comes around it.
pub(crate) struct Joining<K, V, KT, VT, VO> {
    node: NodeIx,
    outputs: Outputs<K, VO>,
    table: Box<dyn TableGetter<KT, VT>>,
    join: StreamTable<K, V, KT, VT, VO>,
}

impl<K, V, KT, VT, VO> Joining<K, V, KT, VT, VO>
where
    K: Clone + 'static,
    V: 'static,
    VO: Clone + 'static,
{
    pub(crate) fn new(
        node: NodeIx,
        outputs: Outputs<K, VO>,
        table: Box<dyn TableGetter<KT, VT>>,
        join: StreamTable<K, V, KT, VT, VO>,
    ) -> Self {
        Self { node, outputs, table, join }
    }

    /// The key of the row that a record is joined with, or why the record is dropped.
    pub(crate) fn table_key(
        &self,
        record: &Record<K, V>,
    ) -> Result<Result<Option<KT>, DropReason>, BoxError> {
        let Some(value) = &record.value else { return Ok(Err(DropReason::NullValue)) };
        let key = (self.join.mapper)(record.key.as_ref(), value)?;
        Ok(if key.is_none() && !self.join.is_left { Err(DropReason::NullKey) } else { Ok(key) })
    }

    /// Joins a record with the row of a key, and forwards it.
    pub(crate) fn join(&mut self, record: Record<K, V>, key: Option<KT>, cx: &mut TaskCx) -> Flow {
        let Record { key: stream_key, value, timestamp, headers } = record;
        let Some(value) = value else { return Ok(()) };
        let row = match key {
            None => Ok(None),
            Some(key) if self.table.is_versioned() => self.table.get_as_of(&key, timestamp, cx),
            Some(key) => self.table.get(&key, cx),
        };
        let joined = row.and_then(|row| match row {
            None if !self.join.is_left => Ok(None),
            row => (self.join.joiner)(stream_key.as_ref(), value, row.map(|(row, _)| row)).map(Some),
        });
        match joined {
            Ok(None) => Ok(()),
            Ok(Some(value)) => {
                self.outputs.forward(Record { key: stream_key, value, timestamp, headers }, cx)
            }
            Err(error) => cx.processing_error(self.node, error),
        }
    }
}

struct StreamTableJoin<K, V, KT, VT, VO>(Joining<K, V, KT, VT, VO>);

impl<K, V, KT, VT, VO> Node<K, V> for StreamTableJoin<K, V, KT, VT, VO>
where
    K: Clone + 'static,
    V: 'static,
    VO: Clone + 'static,
{
    fn process(&mut self, record: Record<K, V>, cx: &mut TaskCx) -> Flow {
        let node = self.0.node;
        cx.current = Some(node);
        match self.0.table_key(&record) {
            Ok(Ok(key)) => self.0.join(record, key, cx),
            Ok(Err(reason)) => {
                cx.dropped(node, reason);
                Ok(())
            }
            Err(error) => cx.processing_error(node, error),
        }
    }
}

pub(crate) fn factory<K, V, KT, VT, VO>(
    join: StreamTable<K, V, KT, VT, VO>,
    table: MakeGetter<KT, VT>,
) -> NodeFactory
where
    K: Clone + 'static,
    V: 'static,
    KT: 'static,
    VT: 'static,
    VO: Clone + 'static,
{
    Arc::new(move |cx, children| {
        let joining = Joining::new(cx.node, children.outputs()?, table(cx)?, join.clone());
        Ok(cx.plain::<K, V>(StreamTableJoin(joining)))
    })
}
