//! The node that turns a stream's records into a table's updates (`KTableSource`).

use std::rc::Rc;
use std::sync::Arc;

use super::Change;
use super::table_store::TableOut;
use crate::dsl::table_node::TableSettings;
use crate::record::Record;
use crate::task::blueprint::NodeFactory;
use crate::task::errors::DropReason;
use crate::task::{Flow, Node, TaskCx};

struct TableSource<K, V> {
    out: Rc<TableOut<K, V>>,
}

impl<K: Clone + 'static, V: Clone + 'static> Node<K, V> for TableSource<K, V> {
    fn process(&mut self, record: Record<K, V>, cx: &mut TaskCx) -> Flow {
        cx.current = Some(self.out.node);
        let Record { key, value, timestamp, headers } = record;
        if key.is_none() {
            cx.dropped(self.out.node, DropReason::NullKey);
            return Ok(());
        }
        self.out.pass(Record { key, value: Some(Change::new(value, None)), timestamp, headers }, cx)
    }
}

/// The factory; without a store the table is not kept.
pub(crate) fn factory<K: Clone + 'static, V: Clone + 'static>(settings: Arc<TableSettings>) -> NodeFactory {
    Arc::new(move |cx, children| {
        let out = TableOut::<K, V>::build(cx, children, &settings)?;
        Ok(cx.plain::<K, V>(TableSource { out }))
    })
}
