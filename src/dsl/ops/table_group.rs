//! `group_by` of a table: what a row was and what it is go to the groups that they belong to (`KTableRepartitionMap`).

use std::sync::Arc;

use super::Change;
use crate::dsl::table_node::TableSettings;
use crate::error::BoxError;
use crate::record::Record;
use crate::task::blueprint::NodeFactory;
use crate::task::errors::DropReason;
use crate::task::{Flow, Node, NodeIx, Outputs, TaskCx};

/// The group of a row and the value it has there; where either is `None` the row is in no group.
pub(crate) type Selector<K, V, K2, V2> =
    Arc<dyn Fn(&K, V) -> Result<(Option<K2>, Option<V2>), BoxError> + Send + Sync>;

struct TableGroup<K, V, K2, V2> {
    node: NodeIx,
    outputs: Outputs<K2, Change<V2>>,
    selector: Selector<K, V, K2, V2>,
    versioned_semantics: bool,
}

impl<K: 'static, V: 'static, K2: Clone + PartialEq + 'static, V2: Clone + 'static> Node<K, Change<V>>
    for TableGroup<K, V, K2, V2>
{
    fn process(&mut self, record: Record<K, Change<V>>, cx: &mut TaskCx) -> Flow {
        cx.current = Some(self.node);
        let Record { key, value, timestamp, headers } = record;
        let (Some(key), Some(Change { new, old, latest })) = (key, value) else {
            cx.dropped(self.node, DropReason::NullKey);
            return Ok(());
        };
        if self.versioned_semantics && !latest {
            // An aggregate is made of latest rows.
            return Ok(());
        }
        let select = |value: Option<V>| match value.map(|value| (self.selector)(&key, value)).transpose() {
            Ok(Some((Some(key), Some(value)))) => Ok(Some((key, value))),
            Ok(_) => Ok(None),
            Err(error) => Err(error),
        };
        let (new, old) = match select(new).and_then(|new| Ok((new, select(old)?))) {
            Ok(both) => both,
            Err(error) => return cx.processing_error(self.node, error),
        };
        let mut forward = |key: K2, new: Option<V2>, old: Option<V2>| {
            let change = Change { latest, ..Change::new(new, old) };
            let headers = headers.clone();
            self.outputs
                .forward_rekeyed(Record { key: Some(key), value: Some(change), timestamp, headers }, cx)
        };
        match (old, new) {
            // Within one group it is one change (KIP-904).
            (Some((group, old)), Some((same, new))) if group == same => forward(group, Some(new), Some(old)),
            (old, new) => {
                // ORDER: out of the old group before into the new one, as aggregations subtract first.
                if let Some((group, old)) = old {
                    forward(group, None, Some(old))?;
                }
                match new {
                    Some((group, new)) => forward(group, Some(new), None),
                    None => Ok(()),
                }
            }
        }
    }
}

pub(crate) fn factory<K, V, K2, V2>(
    settings: Arc<TableSettings>,
    selector: Selector<K, V, K2, V2>,
) -> NodeFactory
where
    K: 'static,
    V: 'static,
    K2: Clone + PartialEq + 'static,
    V2: Clone + 'static,
{
    Arc::new(move |cx, children| {
        let outputs = children.outputs()?;
        let versioned_semantics = settings.has_versioned_semantics();
        let node = TableGroup { node: cx.node, outputs, selector: selector.clone(), versioned_semantics };
        Ok(cx.plain::<K, Change<V>>(node))
    })
}
