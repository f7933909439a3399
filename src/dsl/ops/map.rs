//! `map` and `select_key`: operators that may change the key.

use std::sync::Arc;

use crate::error::BoxError;
use crate::record::Record;
use crate::task::errors::DropReason;
use crate::task::{Flow, Node, NodeIx, Outputs, TaskCx};

/// What a mapper gives: a record's new key and value, or a reason to drop it.
pub(crate) type Mapped<K, V> = Result<Result<(Option<K>, Option<V>), DropReason>, BoxError>;

pub(crate) struct Map<KO, VO, F> {
    pub(crate) node: NodeIx,
    pub(crate) outputs: Outputs<KO, VO>,
    pub(crate) mapper: Arc<F>,
}

impl<K, V, KO, VO, F> Node<K, V> for Map<KO, VO, F>
where
    KO: Clone,
    VO: Clone,
    F: Fn(Option<K>, Option<V>) -> Mapped<KO, VO>,
{
    fn process(&mut self, record: Record<K, V>, cx: &mut TaskCx) -> Flow {
        cx.current = Some(self.node);
        let Record { key, value, timestamp, headers } = record;
        match (self.mapper)(key, value) {
            Ok(Ok((key, value))) => {
                self.outputs.forward_rekeyed(Record { key, value, timestamp, headers }, cx)
            }
            Ok(Err(reason)) => {
                cx.dropped(self.node, reason);
                Ok(())
            }
            Err(error) => cx.processing_error(self.node, error),
        }
    }
}
