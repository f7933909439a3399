//! Joins of a table with another one, by a foreign key.

use std::convert::Infallible;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;

use super::graph::{GraphKind, ProcessorSpec};
use super::ops::foreign_key_join::{self as ops, Extractor, Joiner};
use super::ops::{sink, source, table_source};
use super::options::{Materialized, Partitioner, Serdes};
use super::table::{KTable, source_table};
use super::table_node::{SendsOldValues, TableSettings};
use crate::error::{BoxError, Result};
use crate::record::partition_for_key;
use crate::serde::erased::SerdeRef;
use crate::serde::subscription::{
    CombinedKey, CombinedKeySerde, Subscription, SubscriptionResponse, SubscriptionResponseSerde,
    SubscriptionSerde,
};
use crate::serde::{DefaultSerde, Serde, SerdeCx};
use crate::store::KvOptions;
use crate::task::blueprint::{NodeFactory, SourceFactory};
use crate::topology::AutoOffsetReset;

/// How two tables are joined by a foreign key. The name is that of the join's nodes, store and topics
/// (`org.apache.kafka.streams.kstream.TableJoined`). `V` and `VO` are the values of the left table and of the right one.
pub struct TableJoined<V, VO> {
    serdes: Serdes<V, VO>,
    name: Option<Arc<str>>,
}

impl<V: 'static, VO: 'static> TableJoined<V, VO> {
    /// Names the join.
    pub fn named(name: impl Into<Arc<str>>) -> Self
    where
        V: DefaultSerde,
        VO: DefaultSerde,
    {
        Self { serdes: Serdes::own(), name: Some(name.into()) }
    }

    /// A join whose names are generated; see
    /// [`StreamsBuilder::allow_generated_names`](crate::dsl::StreamsBuilder::allow_generated_names).
    pub fn unnamed() -> Self
    where
        V: DefaultSerde,
        VO: DefaultSerde,
    {
        Self { serdes: Serdes::own(), name: None }
    }

    /// A join with these serdes of left values (which are hashed) and right values (which are sent).
    pub fn with_serdes(name: impl Into<Arc<str>>, left: impl Serde<V>, right: impl Serde<VO>) -> Self {
        Self { serdes: Serdes::given(left, right), name: Some(name.into()) }
    }
}

impl<V, VO> fmt::Debug for TableJoined<V, VO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableJoined").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<V: DefaultSerde + 'static, VO: DefaultSerde + 'static> From<&str> for TableJoined<V, VO> {
    fn from(name: &str) -> Self {
        Self::named(name)
    }
}

impl<V: DefaultSerde + 'static, VO: DefaultSerde + 'static> From<()> for TableJoined<V, VO> {
    fn from((): ()) -> Self {
        Self::unnamed()
    }
}

impl<K: Clone + 'static, V: Clone + 'static> KTable<K, V> {
    /// Joins each row with the row of another table whose key it names. A row whose foreign key has no row over there is not
    /// in the result. Serdes must write equal rows as equal bytes: rows are compared by a hash of them.
    ///
    /// ```
    /// use mainstem::prelude::*;
    ///
    /// let builder = StreamsBuilder::new();
    /// // An order names its customer before the colon.
    /// let orders = builder.table::<String, String>("orders", "orders");
    /// let customers = builder.table::<String, String>("customers", "customers");
    /// orders
    ///     .join_on(
    ///         &customers,
    ///         "customer",
    ///         "orders-with-customers",
    ///         |_, order| order.split(':').next().unwrap_or_default().to_owned(),
    ///         |order, customer| format!("{order} for {customer}"),
    ///     )
    ///     .to_stream()
    ///     .to("out");
    /// builder.build()?;
    /// # Ok::<(), mainstem::Error>(())
    /// ```
    #[track_caller]
    pub fn join_on<KO: Clone + 'static, VO: Clone + 'static, VR: Clone + 'static>(
        &self,
        other: &KTable<KO, VO>,
        joined: impl Into<TableJoined<V, VO>>,
        materialized: impl Into<Materialized<K, VR>>,
        extractor: impl Fn(&K, &V) -> KO + Send + Sync + 'static,
        joiner: impl Fn(V, VO) -> VR + Send + Sync + 'static,
    ) -> KTable<K, VR> {
        self.try_join_on(
            other,
            joined,
            materialized,
            move |k, v| Ok::<_, Infallible>(Some(extractor(k, v))),
            move |_, a, b| Ok::<_, Infallible>(Some(joiner(a, b))),
        )
    }

    /// As [`join_on`](Self::join_on); both functions may fail. A row whose foreign key is `None` is not in the result, and
    /// counted; where `joiner` gives `None` there is no row.
    #[track_caller]
    pub fn try_join_on<KO, VO, VR, E, F>(
        &self,
        other: &KTable<KO, VO>,
        joined: impl Into<TableJoined<V, VO>>,
        materialized: impl Into<Materialized<K, VR>>,
        extractor: impl Fn(&K, &V) -> Result<Option<KO>, E> + Send + Sync + 'static,
        joiner: impl Fn(&K, V, VO) -> Result<Option<VR>, F> + Send + Sync + 'static,
    ) -> KTable<K, VR>
    where
        KO: Clone + 'static,
        VO: Clone + 'static,
        VR: Clone + 'static,
        E: Into<BoxError>,
        F: Into<BoxError>,
    {
        let joiner: Joiner<K, V, VO, VR> = Arc::new(move |key, this, other| match other {
            Some(other) => joiner(key, this, other).map_err(Into::into),
            None => Ok(None),
        });
        let extractor: Extractor<K, V, KO> = Arc::new(move |k, v| extractor(k, v).map_err(Into::into));
        self.joined_on(other, joined.into(), materialized.into(), extractor, joiner, false)
    }

    /// As [`join_on`](Self::join_on), and rows whose foreign key has no row are in the result as well.
    #[track_caller]
    pub fn left_join_on<KO: Clone + 'static, VO: Clone + 'static, VR: Clone + 'static>(
        &self,
        other: &KTable<KO, VO>,
        joined: impl Into<TableJoined<V, VO>>,
        materialized: impl Into<Materialized<K, VR>>,
        extractor: impl Fn(&K, &V) -> KO + Send + Sync + 'static,
        joiner: impl Fn(V, Option<VO>) -> VR + Send + Sync + 'static,
    ) -> KTable<K, VR> {
        self.try_left_join_on(
            other,
            joined,
            materialized,
            move |k, v| Ok::<_, Infallible>(Some(extractor(k, v))),
            move |_, a, b| Ok::<_, Infallible>(Some(joiner(a, b))),
        )
    }

    /// As [`left_join_on`](Self::left_join_on); both functions may fail. A row whose foreign key is `None` has no partner;
    /// where `joiner` gives `None` there is no row.
    #[track_caller]
    pub fn try_left_join_on<KO, VO, VR, E, F>(
        &self,
        other: &KTable<KO, VO>,
        joined: impl Into<TableJoined<V, VO>>,
        materialized: impl Into<Materialized<K, VR>>,
        extractor: impl Fn(&K, &V) -> Result<Option<KO>, E> + Send + Sync + 'static,
        joiner: impl Fn(&K, V, Option<VO>) -> Result<Option<VR>, F> + Send + Sync + 'static,
    ) -> KTable<K, VR>
    where
        KO: Clone + 'static,
        VO: Clone + 'static,
        VR: Clone + 'static,
        E: Into<BoxError>,
        F: Into<BoxError>,
    {
        let joiner: Joiner<K, V, VO, VR> = Arc::new(move |k, a, b| joiner(k, a, b).map_err(Into::into));
        let extractor: Extractor<K, V, KO> = Arc::new(move |k, v| extractor(k, v).map_err(Into::into));
        self.joined_on(other, joined.into(), materialized.into(), extractor, joiner, true)
    }

    /// `KTableImpl.doJoinOnForeignKey`.
    #[track_caller]
    fn joined_on<KO: Clone + 'static, VO: Clone + 'static, VR: Clone + 'static>(
        &self,
        other: &KTable<KO, VO>,
        joined: TableJoined<V, VO>,
        materialized: Materialized<K, VR>,
        extractor: Extractor<K, V, KO>,
        joiner: Joiner<K, V, VO, VR>,
        is_left: bool,
    ) -> KTable<K, VR> {
        let TableJoined { serdes, name } = joined;
        let left_values = serdes.key(self.value_serde.as_ref());
        let right_values = serdes.value(other.value_serde.as_ref());
        let (keys, foreign_keys) = (self.key_serde.clone(), other.key_serde.clone());
        if !Rc::ptr_eq(&self.graph, &other.graph) {
            self.graph
                .borrow_mut()
                .refuse("tables of two builders cannot be joined; make both with one StreamsBuilder");
        }
        other.table.send_old_values(true);
        self.table.send_old_values(true);
        let (this_view, other_view) = (self.view(), other.view());
        let (this_side, other_side) = (TableSettings::new(None), TableSettings::new(None));
        let mut guard = self.graph.borrow_mut();
        let graph = &mut *guard;
        let named = name.is_some();
        // A given name is never used without a suffix, and every name uses a number up.
        macro_rules! draw {
            ($suffix:literal, $prefix:literal) => {{
                let drawn = graph.draw(concat!("KTABLE-", $prefix));
                name.as_ref().map_or(drawn, |name| format!("{name}{}", $suffix).into())
            }};
        }
        let asked: Arc<str> =
            format!("{}-topic", draw!("-subscription-registration", "FK-JOIN-SUBSCRIPTION-REGISTRATION-"))
                .into();
        let send_name = draw!("-subscription-registration-processor", "FK-JOIN-SUBSCRIPTION-REGISTRATION-");
        let processor =
            |factory: NodeFactory| GraphKind::Processor(ProcessorSpec { factory, stores: Vec::new() });
        let send = ops::send(
            this_side.clone(),
            extractor,
            (foreign_keys.clone(), left_values.clone()),
            asked.clone(),
            is_left,
        );
        let send = graph.add(&[self.node], send_name, processor(send));

        let subscriptions = SerdeRef::new(SubscriptionSerde(keys.clone()));
        graph.add_internal_topic(asked.clone(), named);
        let sink_name = draw!("-subscription-registration-sink", "SINK-");
        let to_right = to_topic::<KO, Subscription<K>>(&asked, &foreign_keys, &subscriptions, None);
        let to_right = graph.add(&[send], sink_name, to_right);
        let source_name = draw!("-subscription-registration-source", "SOURCE-");
        let at_right = from_topic::<KO, Subscription<K>>(&asked, &foreign_keys, &subscriptions);
        let at_right = graph.add(&[to_right], source_name, at_right);
        graph.meet_by_key(&[other.node, at_right]);

        let store: Arc<str> = draw!("-subscription-store", "FK-JOIN-SUBSCRIPTION-STATE-STORE-");
        let combined = CombinedKeySerde { foreign_keys: foreign_keys.clone(), primary_keys: keys.clone() };
        let store_plan = KvOptions::<CombinedKey<KO, K>, Subscription<K>> {
            name: store.clone(),
            named,
            key_serde: SerdeRef::new(combined.clone()),
            value_serde: subscriptions,
            timestamped: true,
            cached: false,
            logs_headers: true,
            segments: None,
            buffers: false,
            history: None,
            kind: None,
            changelog: Some(Vec::new()),
        }
        .blueprint();
        let with_store = |factory: NodeFactory| {
            GraphKind::Processor(ProcessorSpec { factory, stores: vec![store_plan.clone()] })
        };
        let receive_name = draw!("-subscription-receive", "FK-JOIN-SUBSCRIPTION-PROCESSOR-");
        let receive = with_store(ops::receive::<KO, K>(store.clone()));
        let receive = graph.add(&[at_right], receive_name, receive);
        let answer_name = draw!("-subscription-join-foreign", "FK-JOIN-SUBSCRIPTION-PROCESSOR-");
        let answer = processor(ops::answer::<KO, K, VO>(other_view.make));
        let answer = graph.add(&[receive], answer_name, answer);
        graph.connect(answer, &other_view.stores);
        let tell_name = draw!("-foreign-join-subscription", "FK-JOIN-SUBSCRIPTION-PROCESSOR-");
        let tell = ops::tell::<KO, K, VO>(other_side.clone(), store, combined, asked.clone());
        let tell = graph.add(&[other.node], tell_name, with_store(tell));

        let answers: Arc<str> =
            format!("{}-topic", draw!("-subscription-response", "FK-JOIN-SUBSCRIPTION-RESPONSE-")).into();
        graph.add_internal_topic(answers.clone(), named);
        let responses = SerdeRef::new(SubscriptionResponseSerde(right_values));
        let back_name = draw!("-subscription-response-sink", "SINK-");
        let back = to_topic(&answers, &keys, &responses, Some(to_primary_partition(&answers, &keys)));
        let back = graph.add(&[answer, tell], back_name, back);
        let source_name = draw!("-subscription-response-source", "SOURCE-");
        let at_left = from_topic::<K, SubscriptionResponse<VO>>(&answers, &keys, &responses);
        let at_left = graph.add(&[back], source_name, at_left);
        graph.meet_by_key(&[self.node, at_left]);

        let resolve_name =
            draw!("-subscription-response-resolver", "FK-JOIN-SUBSCRIPTION-RESPONSE-RESOLVER-PROCESSOR-");
        let resolve = ops::resolve(this_view.make, left_values, asked, joiner, is_left);
        let resolve = graph.add(&[at_left], resolve_name, processor(resolve));
        graph.connect(resolve, &this_view.stores);

        let result_name = draw!("-result", "FK-JOIN-OUTPUT-");
        let result_store = graph.store_name(materialized.store.as_ref(), "KTABLE-FK-JOIN-OUTPUT-");
        let settings = TableSettings::new(None);
        let result = processor(table_source::factory::<K, VR>(settings.clone()));
        let node = graph.add(&[resolve], result_name, result);
        graph.follows_versions(send, self.node, &this_side);
        graph.follows_versions(tell, other.node, &other_side);
        drop(guard);
        let result_keys = materialized.serdes.key(Some(&keys));
        let result_values = materialized.serdes.value(None);
        let serdes = (&result_keys, &result_values);
        let table = source_table(&self.graph, node, settings, &materialized, result_store, serdes);
        KTable::new(self.graph.clone(), node, result_keys, result_values, table)
    }
}

/// A sink of the join's own.
fn to_topic<K: Clone + 'static, V: Clone + 'static>(
    topic: &Arc<str>,
    keys: &SerdeRef<K>,
    values: &SerdeRef<V>,
    partitioner: Option<Partitioner<K, V>>,
) -> GraphKind {
    let factory = sink::factory(sink::SinkOptions {
        topic: sink::SinkTo::Fixed(topic.clone()),
        key_serde: keys.clone(),
        value_serde: values.clone(),
        partitioner,
        window_bytes: 0,
    });
    GraphKind::Sink { topic: Some(topic.clone()), label: topic.clone(), factory }
}

/// A source of the join's own.
fn from_topic<K: Clone + 'static, V: Clone + 'static>(
    topic: &Arc<str>,
    keys: &SerdeRef<K>,
    values: &SerdeRef<V>,
) -> GraphKind {
    let factory: SourceFactory = source::factory(keys.clone(), values.clone(), None);
    GraphKind::Source(source::spec::<K, V>(vec![topic.clone()], Some(AutoOffsetReset::Earliest), factory))
}

/// An answer goes where the question came from; one to a question of version 0 goes by its key (KIP-775).
fn to_primary_partition<K: 'static, VO: 'static>(
    topic: &Arc<str>,
    keys: &SerdeRef<K>,
) -> Partitioner<K, SubscriptionResponse<VO>> {
    let (topic, keys) = (topic.clone(), keys.clone());
    Arc::new(move |key, response: Option<&SubscriptionResponse<VO>>, partitions| {
        let by_key = || {
            let mut bytes = BytesMut::new();
            let written = key.map(|key| keys.write(key, &SerdeCx::key(&topic), &mut bytes));
            // A key that cannot be written is refused by the sink right after this.
            written.and_then(Result::ok).map_or(0, |()| partition_for_key(&bytes, partitions))
        };
        response.and_then(|response| response.primary_partition).unwrap_or_else(by_key)
    })
}
