//! `flat_map` and `flat_map_values`: any number of records from one.

use std::sync::Arc;

use crate::error::BoxError;
use crate::record::Record;
use crate::task::errors::DropReason;
use crate::task::{Flow, Node, NodeIx, Outputs, TaskCx};

pub(crate) struct FlatMap<KO, VO, F> {
    pub(crate) node: NodeIx,
    pub(crate) outputs: Outputs<KO, VO>,
    pub(crate) mapper: Arc<F>,
}

impl<K, V, KO, VO, I, F> Node<K, V> for FlatMap<KO, VO, F>
where
    KO: Clone,
    VO: Clone,
    I: IntoIterator<Item = (Option<KO>, Option<VO>)>,
    F: Fn(Option<K>, Option<V>) -> Result<Result<I, DropReason>, BoxError>,
{
    fn process(&mut self, record: Record<K, V>, cx: &mut TaskCx) -> Flow {
        cx.current = Some(self.node);
        let Record { key, value, timestamp, headers } = record;
        match (self.mapper)(key, value) {
            Ok(Ok(records)) => {
                for (key, value) in records {
                    self.outputs
                        .forward_rekeyed(Record { key, value, timestamp, headers: headers.clone() }, cx)?;
                }
                Ok(())
            }
            Ok(Err(reason)) => {
                cx.dropped(self.node, reason);
                Ok(())
            }
            Err(error) => cx.processing_error(self.node, error),
        }
    }
}

pub(crate) struct FlatMapValues<K, VO, F> {
    pub(crate) node: NodeIx,
    pub(crate) outputs: Outputs<K, VO>,
    pub(crate) mapper: Arc<F>,
}

impl<K, V, VO, I, F> Node<K, V> for FlatMapValues<K, VO, F>
where
    K: Clone,
    VO: Clone,
    I: IntoIterator<Item = Option<VO>>,
    F: Fn(Option<&K>, Option<V>) -> Result<Result<I, DropReason>, BoxError>,
{
    fn process(&mut self, record: Record<K, V>, cx: &mut TaskCx) -> Flow {
        cx.current = Some(self.node);
        let Record { key, value, timestamp, headers } = record;
        match (self.mapper)(key.as_ref(), value) {
            Ok(Ok(values)) => {
                for value in values {
                    let record = Record { key: key.clone(), value, timestamp, headers: headers.clone() };
                    self.outputs.forward(record, cx)?;
                }
                Ok(())
            }
            Ok(Err(reason)) => {
                cx.dropped(self.node, reason);
                Ok(())
            }
            Err(error) => cx.processing_error(self.node, error),
        }
    }
}
