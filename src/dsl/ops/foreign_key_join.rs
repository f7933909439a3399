//! Joins of two tables by a foreign key (KIP-213). The left side sends a subscription under the foreign key; the right side
//! keeps it, and answers under the primary key at once and whenever its row changes; the left side joins the answer with
//! its row, if that is still the one that asked.

use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;

use super::Change;
use crate::dsl::table_node::{MakeGetter, TableGetter, TableSettings};
use crate::error::BoxError;
use crate::record::{Headers, Record, Timestamp};
use crate::serde::SerdeCx;
use crate::serde::erased::SerdeRef;
use crate::serde::subscription::{
    CombinedKey, CombinedKeySerde, Instruction, RowHash, Subscription, SubscriptionResponse, row_hash,
};
use crate::store::KvStore;
use crate::task::blueprint::NodeFactory;
use crate::task::errors::DropReason;
use crate::task::{Flow, Node, NodeIx, Outputs, TaskCx};

/// The foreign key of a row, if it has one.
pub(crate) type Extractor<K, V, KO> = Arc<dyn Fn(&K, &V) -> Result<Option<KO>, BoxError> + Send + Sync>;

/// The row for a left row and what it refers to; `None` is no row.
pub(crate) type Joiner<K, V, VO, VR> =
    Arc<dyn Fn(&K, V, Option<VO>) -> Result<Option<VR>, BoxError> + Send + Sync>;

/// The store of the subscriptions.
pub(crate) type Subscriptions<KO, K> = KvStore<CombinedKey<KO, K>, Subscription<K>>;

/// Hashes rows by their bytes.
struct Hasher<V> {
    values: SerdeRef<V>,
    topic: String,
}

impl<V: 'static> Hasher<V> {
    fn hash(&self, value: Option<&V>, headers: &Headers, cx: &mut TaskCx) -> Result<RowHash, BoxError> {
        let Some(value) = value else { return Ok(None) };
        let bytes = cx.write_value(value, &self.values, &self.topic, headers)?;
        let hash = row_hash(&bytes);
        cx.return_scratch(bytes);
        Ok(Some(hash))
    }
}

/// `SubscriptionSendProcessorSupplier`.
struct Ask<K, V, KO> {
    node: NodeIx,
    outputs: Outputs<KO, Subscription<K>>,
    extractor: Extractor<K, V, KO>,
    hasher: Hasher<V>,
    foreign_keys: SerdeRef<KO>,
    topic: String,
    is_left: bool,
    versioned_semantics: bool,
}

/// What is sent for a change: under which key, and what to do.
type Message<KO> = (Option<KO>, Instruction);

impl<K: Clone + 'static, V: 'static, KO: Clone + 'static> Ask<K, V, KO> {
    fn differ(&self, a: Option<&KO>, b: Option<&KO>, headers: &Headers) -> Result<bool, BoxError> {
        let write = |key: Option<&KO>| {
            key.map(|key| {
                let mut bytes = BytesMut::new();
                let cx = SerdeCx { topic: &self.topic, is_key: true, headers };
                self.foreign_keys.write(key, &cx, &mut bytes).map(|()| bytes)
            })
            .transpose()
        };
        Ok(write(a)? != write(b)?)
    }

    /// What a change asks of the right side, in order.
    fn messages(
        &self,
        key: &K,
        change: &Change<V>,
        headers: &Headers,
        cx: &mut TaskCx,
    ) -> Result<[Option<Message<KO>>; 2], BoxError> {
        use Instruction::{
            DeleteKeyAndPropagate, DeleteKeyNoPropagate, PropagateNullIfNoForeignValue,
            PropagateOnlyIfForeignValue,
        };
        let extract = |value: Option<&V>| match value {
            Some(value) => (self.extractor)(key, value),
            None => Ok(None),
        };
        let (old, new) = (extract(change.old.as_ref())?, extract(change.new.as_ref())?);
        if self.is_left {
            if change.old.is_none() && change.new.is_none() {
                return Ok([None, None]);
            }
            let leaves = old.is_some() && self.differ(new.as_ref(), old.as_ref(), headers)?;
            // Every change gets an answer; a row without a foreign key asks under a null key.
            let forget = old.filter(|_| leaves).map(|old| (Some(old), DeleteKeyNoPropagate));
            return Ok([forget, Some((new, PropagateNullIfNoForeignValue))]);
        }
        Ok(match (old, new) {
            (Some(old), Some(new)) if self.differ(Some(&new), Some(&old), headers)? => {
                [Some((Some(old), DeleteKeyNoPropagate)), Some((Some(new), PropagateNullIfNoForeignValue))]
            }
            (_, Some(new)) => [Some((Some(new), PropagateOnlyIfForeignValue)), None],
            (old, None) => {
                if change.new.is_some() {
                    cx.dropped(self.node, DropReason::NullForeignKey);
                }
                [old.map(|old| (Some(old), DeleteKeyAndPropagate)), None]
            }
        })
    }
}

impl<K: Clone + 'static, V: 'static, KO: Clone + 'static> Node<K, Change<V>> for Ask<K, V, KO> {
    fn process(&mut self, record: Record<K, Change<V>>, cx: &mut TaskCx) -> Flow {
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
        let asked = self
            .messages(&key, &change, &headers, cx)
            .and_then(|messages| Ok((messages, self.hasher.hash(change.new.as_ref(), &headers, cx)?)));
        let (messages, hash) = match asked {
            Ok(asked) => asked,
            Err(error) => return cx.processing_error(self.node, error),
        };
        let primary_partition = Some(cx.source().map_or(-1, |source| source.partition));
        for (foreign_key, instruction) in messages.into_iter().flatten() {
            let value = Some(Subscription { hash, instruction, primary_key: key.clone(), primary_partition });
            let headers = headers.clone();
            self.outputs.forward_rekeyed(Record { key: foreign_key, value, timestamp, headers }, cx)?;
        }
        Ok(())
    }
}

/// The node that asks: it sends the subscriptions. `topics` are the names that serdes are told, of foreign keys and of rows.
pub(crate) fn send<K: Clone + 'static, V: 'static, KO: Clone + 'static>(
    settings: Arc<TableSettings>,
    extractor: Extractor<K, V, KO>,
    (foreign_keys, values): (SerdeRef<KO>, SerdeRef<V>),
    topic: Arc<str>,
    is_left: bool,
) -> NodeFactory {
    Arc::new(move |cx, children| {
        let topic = (cx.topic_name)(&topic);
        let node = Ask {
            node: cx.node,
            outputs: children.outputs()?,
            extractor: extractor.clone(),
            hasher: Hasher { values: values.clone(), topic: format!("{topic}-vh") },
            foreign_keys: foreign_keys.clone(),
            topic: format!("{topic}-fk"),
            is_left,
            versioned_semantics: settings.has_versioned_semantics(),
        };
        Ok(cx.plain::<K, Change<V>>(node))
    })
}

/// `SubscriptionReceiveProcessorSupplier`.
struct Receive<KO, K> {
    node: NodeIx,
    outputs: Outputs<Option<KO>, Subscription<K>>,
    store: Rc<Subscriptions<KO, K>>,
}

impl<KO: Clone + 'static, K: Clone + 'static> Node<KO, Subscription<K>> for Receive<KO, K> {
    fn process(&mut self, record: Record<KO, Subscription<K>>, cx: &mut TaskCx) -> Flow {
        cx.current = Some(self.node);
        let Record { key: foreign_key, value, timestamp, headers } = record;
        let Some(subscription) = value else {
            cx.dropped(self.node, DropReason::NullValue);
            return Ok(());
        };
        match &foreign_key {
            None if subscription.instruction != Instruction::PropagateNullIfNoForeignValue => {
                cx.dropped(self.node, DropReason::NullForeignKey);
                return Ok(());
            }
            None => {}
            Some(foreign_key) => {
                let key = CombinedKey {
                    foreign_key: foreign_key.clone(),
                    primary_key: subscription.primary_key.clone(),
                };
                let ends = matches!(
                    subscription.instruction,
                    Instruction::DeleteKeyAndPropagate | Instruction::DeleteKeyNoPropagate
                );
                let row = (!ends).then(|| (subscription.clone(), timestamp));
                let kept = self
                    .store
                    .key_bytes(&key, cx)
                    .and_then(|bytes| self.store.update(&bytes, timestamp, &headers, cx, |_| Ok(row)));
                if let Err(error) = kept {
                    return cx.processing_error(self.node, error);
                }
            }
        }
        let record = Record { key: Some(foreign_key), value: Some(subscription), timestamp, headers };
        self.outputs.forward_rekeyed(record, cx)
    }
}

/// The node that keeps the subscriptions.
pub(crate) fn receive<KO: Clone + 'static, K: Clone + 'static>(store: Arc<str>) -> NodeFactory {
    Arc::new(move |cx, children| {
        let outputs = children.outputs()?;
        let store = cx.store::<Subscriptions<KO, K>>(&store)?;
        Ok(cx.plain::<KO, Subscription<K>>(Receive { node: cx.node, outputs, store }))
    })
}

/// `SubscriptionJoinProcessorSupplier`.
struct Answer<KO, K, VO> {
    node: NodeIx,
    outputs: Outputs<K, SubscriptionResponse<VO>>,
    rows: Box<dyn TableGetter<KO, VO>>,
}

impl<KO: 'static, K: Clone + 'static, VO: Clone + 'static> Node<Option<KO>, Subscription<K>>
    for Answer<KO, K, VO>
{
    fn process(&mut self, record: Record<Option<KO>, Subscription<K>>, cx: &mut TaskCx) -> Flow {
        cx.current = Some(self.node);
        let Record { key: foreign_key, value: Some(subscription), timestamp, headers } = record else {
            return Ok(());
        };
        let row = match foreign_key.flatten() {
            Some(foreign_key) => self.rows.get(&foreign_key, cx),
            None => Ok(None),
        };
        let row = match row {
            Ok(row) => row,
            Err(error) => return cx.processing_error(self.node, error),
        };
        let timestamp = row.as_ref().map_or(timestamp, |(_, at)| timestamp.max(*at));
        let value = match (subscription.instruction, row) {
            (Instruction::DeleteKeyNoPropagate, _) | (Instruction::PropagateOnlyIfForeignValue, None) => {
                return Ok(());
            }
            (Instruction::DeleteKeyAndPropagate, _) => None,
            (_, row) => row.map(|(value, _)| value),
        };
        let Subscription { hash, primary_key, primary_partition, .. } = subscription;
        let value = Some(SubscriptionResponse { hash, value, primary_partition });
        self.outputs.forward_rekeyed(Record { key: Some(primary_key), value, timestamp, headers }, cx)
    }
}

/// The node that answers subscriptions as they come.
pub(crate) fn answer<KO: Clone + 'static, K: Clone + 'static, VO: Clone + 'static>(
    rows: MakeGetter<KO, VO>,
) -> NodeFactory {
    Arc::new(move |cx, children| {
        let node = Answer { node: cx.node, outputs: children.outputs()?, rows: rows(cx)? };
        Ok(cx.plain::<Option<KO>, Subscription<K>>(node))
    })
}

/// `ForeignTableJoinProcessorSupplier`.
struct Tell<KO, K, VO> {
    node: NodeIx,
    outputs: Outputs<K, SubscriptionResponse<VO>>,
    store: Rc<Subscriptions<KO, K>>,
    keys: CombinedKeySerde<KO, K>,
    topic: String,
    versioned_semantics: bool,
}

impl<KO: Clone + 'static, K: Clone + 'static, VO: Clone + 'static> Node<KO, Change<VO>> for Tell<KO, K, VO> {
    fn process(&mut self, record: Record<KO, Change<VO>>, cx: &mut TaskCx) -> Flow {
        cx.current = Some(self.node);
        let Record { key, value, timestamp, headers } = record;
        let (Some(foreign_key), Some(change)) = (key, value) else {
            cx.dropped(self.node, DropReason::NullKey);
            return Ok(());
        };
        if self.versioned_semantics && !change.latest {
            cx.dropped(self.node, DropReason::OutOfOrder);
            return Ok(());
        }
        let mut prefix = BytesMut::new();
        let serde_cx = SerdeCx { topic: &self.topic, is_key: true, headers: &headers };
        if let Err(error) = self.keys.prefix(&foreign_key, &serde_cx, &mut prefix) {
            return cx.processing_error(self.node, error.into());
        }
        for row in self.store.prefix_rows(prefix.freeze()) {
            let (key, (subscription, _)): (CombinedKey<KO, K>, (Subscription<K>, Timestamp)) = match row {
                Ok(row) => row,
                Err(error) => return cx.processing_error(self.node, error.into()),
            };
            let Subscription { hash, primary_partition, .. } = subscription;
            let value = Some(SubscriptionResponse { hash, value: change.new.clone(), primary_partition });
            let (key, headers) = (Some(key.primary_key), headers.clone());
            self.outputs.forward_rekeyed(Record { key, value, timestamp, headers }, cx)?;
        }
        Ok(())
    }
}

/// The node that tells all subscribers of a row that it has changed.
pub(crate) fn tell<KO: Clone + 'static, K: Clone + 'static, VO: Clone + 'static>(
    settings: Arc<TableSettings>,
    store: Arc<str>,
    keys: CombinedKeySerde<KO, K>,
    topic: Arc<str>,
) -> NodeFactory {
    Arc::new(move |cx, children| {
        let node = Tell {
            node: cx.node,
            outputs: children.outputs()?,
            store: cx.store::<Subscriptions<KO, K>>(&store)?,
            keys: keys.clone(),
            topic: format!("{}-fk", (cx.topic_name)(&topic)),
            versioned_semantics: settings.has_versioned_semantics(),
        };
        Ok(cx.plain::<KO, Change<VO>>(node))
    })
}

/// `ResponseJoinProcessorSupplier`.
struct Resolve<K, V, VO, VR> {
    node: NodeIx,
    outputs: Outputs<K, VR>,
    rows: Box<dyn TableGetter<K, V>>,
    hasher: Hasher<V>,
    joiner: Joiner<K, V, VO, VR>,
    is_left: bool,
}

impl<K: Clone + 'static, V: 'static, VO: 'static, VR: Clone + 'static> Resolve<K, V, VO, VR> {
    /// The row that an answer makes; `None` if the answer is stale.
    fn joined(
        &mut self,
        key: &K,
        response: SubscriptionResponse<VO>,
        headers: &Headers,
        cx: &mut TaskCx,
    ) -> Result<Option<Option<VR>>, BoxError> {
        let row = self.rows.get(key, cx)?.map(|(value, _)| value);
        if self.hasher.hash(row.as_ref(), headers, cx)? != response.hash {
            return Ok(None);
        }
        match row {
            Some(row) if self.is_left || response.value.is_some() => {
                (self.joiner)(key, row, response.value).map(Some)
            }
            _ => Ok(Some(None)),
        }
    }
}

impl<K: Clone + 'static, V: 'static, VO: 'static, VR: Clone + 'static> Node<K, SubscriptionResponse<VO>>
    for Resolve<K, V, VO, VR>
{
    fn process(&mut self, record: Record<K, SubscriptionResponse<VO>>, cx: &mut TaskCx) -> Flow {
        cx.current = Some(self.node);
        let Record { key, value, timestamp, headers } = record;
        let (Some(key), Some(response)) = (key, value) else {
            cx.dropped(self.node, DropReason::NullKey);
            return Ok(());
        };
        match self.joined(&key, response, &headers, cx) {
            Ok(Some(value)) => self.outputs.forward(Record { key: Some(key), value, timestamp, headers }, cx),
            Ok(None) => {
                cx.dropped(self.node, DropReason::Stale);
                Ok(())
            }
            Err(error) => cx.processing_error(self.node, error),
        }
    }
}

/// The node that joins answers with the rows that asked.
pub(crate) fn resolve<K: Clone + 'static, V: 'static, VO: 'static, VR: Clone + 'static>(
    rows: MakeGetter<K, V>,
    values: SerdeRef<V>,
    topic: Arc<str>,
    joiner: Joiner<K, V, VO, VR>,
    is_left: bool,
) -> NodeFactory {
    Arc::new(move |cx, children| {
        let node = Resolve {
            node: cx.node,
            outputs: children.outputs()?,
            rows: rows(cx)?,
            hasher: Hasher { values: values.clone(), topic: format!("{}-vh", (cx.topic_name)(&topic)) },
            joiner: joiner.clone(),
            is_left,
        };
        Ok(cx.plain::<K, SubscriptionResponse<VO>>(node))
    })
}
