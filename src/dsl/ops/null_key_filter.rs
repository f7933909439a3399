//! What stands before a repartition topic: records without a key do not enter it, for they belong to no partition
//! (KIP-962; `InternalStreamsBuilder.rewriteRepartitionNodes`).

use crate::record::Record;
use crate::task::errors::DropReason;
use crate::task::{Flow, Node, NodeIx, Outputs, TaskCx};

pub(crate) struct NullKeyFilter<K, V> {
    pub(crate) node: NodeIx,
    pub(crate) outputs: Outputs<K, V>,
    /// An outer join further down wants them.
    pub(crate) keep: bool,
}

impl<K: Clone, V: Clone> Node<K, V> for NullKeyFilter<K, V> {
    fn process(&mut self, record: Record<K, V>, cx: &mut TaskCx) -> Flow {
        if record.key.is_none() && !self.keep {
            cx.dropped(self.node, DropReason::NullKey);
            return Ok(());
        }
        self.outputs.forward(record, cx)
    }
}
