//! `filter`, `filter_not` and `map_values` of a table: a row becomes another row, or none (`KTableFilter`,
//! `KTableMapValues`).

use std::rc::Rc;
use std::sync::Arc;

use super::Change;
use super::table_store::TableOut;
use crate::dsl::table_node::{TableGetter, TableSettings, View};
use crate::error::BoxError;
use crate::record::{Record, Timestamp};
use crate::task::blueprint::{BuildCx, NodeFactory};
use crate::task::errors::DropReason;
use crate::task::{Flow, Node, TaskCx};

/// What a row becomes.
pub(crate) type Mapper<K, V, VO> = Arc<dyn Fn(&K, V) -> Result<Option<VO>, BoxError> + Send + Sync>;

struct TableValues<K, V, VO> {
    out: Rc<TableOut<K, VO>>,
    mapper: Mapper<K, V, VO>,
    /// A filter passes over rows that it neither had nor has.
    is_filter: bool,
    versioned_semantics: bool,
}

impl<K: Clone + 'static, V, VO: Clone + 'static> TableValues<K, V, VO> {
    fn change(&self, key: &K, change: Change<V>) -> Result<Option<Change<VO>>, BoxError> {
        let mapped =
            |value: Option<V>| value.map(|value| (self.mapper)(key, value)).transpose().map(Option::flatten);
        let new = mapped(change.new)?;
        let old = match &self.out.store {
            _ if !self.out.send_old => None,
            // What the store will find again when it is written; only a filter must know before.
            Some(store) if self.is_filter => store.get(key)?.map(|(value, _)| value),
            Some(_) => None,
            None => mapped(change.old)?,
        };
        let passed_over = self.is_filter
            && !self.versioned_semantics
            && self.out.send_old
            && new.is_none()
            && old.is_none();
        Ok((!passed_over).then_some(Change { new, old, latest: change.latest }))
    }
}

impl<K: Clone + 'static, V, VO: Clone + 'static> Node<K, Change<V>> for TableValues<K, V, VO> {
    fn process(&mut self, record: Record<K, Change<V>>, cx: &mut TaskCx) -> Flow {
        cx.current = Some(self.out.node);
        let Record { key, value, timestamp, headers } = record;
        let (Some(key), Some(change)) = (key, value) else {
            cx.dropped(self.out.node, DropReason::NullKey);
            return Ok(());
        };
        match self.change(&key, change) {
            Ok(None) => Ok(()),
            Ok(Some(change)) => {
                self.out.pass(Record { key: Some(key), value: Some(change), timestamp, headers }, cx)
            }
            Err(error) => cx.processing_error(self.out.node, error),
        }
    }
}

pub(crate) fn factory<K: Clone + 'static, V: 'static, VO: Clone + 'static>(
    settings: Arc<TableSettings>,
    mapper: Mapper<K, V, VO>,
    is_filter: bool,
) -> NodeFactory {
    Arc::new(move |cx, children| {
        let out = TableOut::build(cx, children, &settings)?;
        let versioned_semantics = settings.has_versioned_semantics();
        let node = TableValues { out, mapper: mapper.clone(), is_filter, versioned_semantics };
        Ok(cx.plain::<K, Change<V>>(node))
    })
}

/// Reads rows of the table above and makes what is asked of them.
struct ValuesGetter<K, V, VO> {
    parent: Box<dyn TableGetter<K, V>>,
    mapper: Mapper<K, V, VO>,
}

impl<K, V, VO> ValuesGetter<K, V, VO> {
    fn mapped(&self, key: &K, row: Option<(V, Timestamp)>) -> Result<Option<(VO, Timestamp)>, BoxError> {
        let Some((value, timestamp)) = row else { return Ok(None) };
        Ok((self.mapper)(key, value)?.map(|value| (value, timestamp)))
    }
}

impl<K, V, VO> TableGetter<K, VO> for ValuesGetter<K, V, VO> {
    fn get(&mut self, key: &K, cx: &mut TaskCx) -> Result<Option<(VO, Timestamp)>, BoxError> {
        let row = self.parent.get(key, cx)?;
        self.mapped(key, row)
    }

    fn get_as_of(
        &mut self,
        key: &K,
        at: Timestamp,
        cx: &mut TaskCx,
    ) -> Result<Option<(VO, Timestamp)>, BoxError> {
        let row = self.parent.get_as_of(key, at, cx)?;
        self.mapped(key, row)
    }

    fn is_versioned(&self) -> bool {
        self.parent.is_versioned()
    }
}

/// The table as it is read through the one above.
pub(crate) fn view<K: 'static, V: 'static, VO: 'static>(
    parent: View<K, V>,
    mapper: Mapper<K, V, VO>,
) -> View<K, VO> {
    let View { stores, make } = parent;
    let make = Arc::new(move |cx: &mut BuildCx<'_>| {
        let getter: Box<dyn TableGetter<K, VO>> =
            Box::new(ValuesGetter { parent: make(cx)?, mapper: mapper.clone() });
        Ok(getter)
    });
    View { stores, make }
}
