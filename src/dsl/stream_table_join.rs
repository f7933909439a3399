//! Joins of a stream with a table that is partitioned as the stream is.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;

use super::graph::{GraphKind, ProcessorSpec};
use super::joined::Joined;
use super::ops::stream_table_join::{self, Joiner, KeyMapper, StreamTable};
use super::stream::KStream;
use super::table::KTable;
use crate::error::{BoxError, Result};

impl<K: Clone + 'static, V: Clone + 'static> KStream<K, V> {
    /// Joins each record with the row that its key has in a table; without one it is dropped. Nothing happens when the table
    /// changes. Records with a null key or a null value are dropped and counted.
    ///
    /// The stream goes through a topic of its own if its keys may have changed; its topics and the table's must have equally
    /// many partitions.
    ///
    /// ```
    /// use mainstem::prelude::*;
    ///
    /// let builder = StreamsBuilder::new();
    /// let users = builder.table::<String, String>("users", "users");
    /// builder
    ///     .stream::<String, String>("clicks")
    ///     .join_table(&users, (), |page, name| format!("{name} was on {page}"))
    ///     .to("visits");
    /// builder.build()?;
    /// # Ok::<(), mainstem::Error>(())
    /// ```
    #[track_caller]
    pub fn join_table<VT: Clone + 'static, VO: Clone + 'static>(
        &self,
        table: &KTable<K, VT>,
        joined: impl Into<Joined<K, V>>,
        joiner: impl Fn(V, VT) -> VO + Send + Sync + 'static,
    ) -> KStream<K, VO> {
        self.try_join_table(table, joined, move |_, v, row| Ok::<_, Infallible>(Some(joiner(v, row))))
    }

    /// As [`join_table`](Self::join_table) with the key; it may fail, and `None` is a null value.
    #[track_caller]
    pub fn try_join_table<VT: Clone + 'static, VO: Clone + 'static, E: Into<BoxError>>(
        &self,
        table: &KTable<K, VT>,
        joined: impl Into<Joined<K, V>>,
        joiner: impl Fn(&K, V, VT) -> Result<Option<VO>, E> + Send + Sync + 'static,
    ) -> KStream<K, VO> {
        let joiner: Joiner<K, V, VT, VO> = Arc::new(move |key, value, row| match (key, row) {
            (Some(key), Some(row)) => joiner(key, value, row).map_err(Into::into),
            _ => Ok(None),
        });
        self.joined_with(table, joined.into(), joiner, false)
    }

    /// As [`join_table`](Self::join_table), and records without a row pass as well, also those with a null key (KIP-962).
    ///
    /// ```
    /// use mainstem::prelude::*;
    ///
    /// let builder = StreamsBuilder::new();
    /// let users = builder.table::<String, String>("users", "users");
    /// builder
    ///     .stream::<String, String>("clicks")
    ///     .left_join_table(&users, (), |page, name| {
    ///         format!("{} was on {page}", name.as_deref().unwrap_or("somebody"))
    ///     })
    ///     .to("visits");
    /// builder.build()?;
    /// # Ok::<(), mainstem::Error>(())
    /// ```
    #[track_caller]
    pub fn left_join_table<VT: Clone + 'static, VO: Clone + 'static>(
        &self,
        table: &KTable<K, VT>,
        joined: impl Into<Joined<K, V>>,
        joiner: impl Fn(V, Option<VT>) -> VO + Send + Sync + 'static,
    ) -> KStream<K, VO> {
        self.try_left_join_table(table, joined, move |_, v, row| Ok::<_, Infallible>(Some(joiner(v, row))))
    }

    /// As [`left_join_table`](Self::left_join_table) with the key; it may fail, and `None` is a null value.
    #[track_caller]
    pub fn try_left_join_table<VT: Clone + 'static, VO: Clone + 'static, E: Into<BoxError>>(
        &self,
        table: &KTable<K, VT>,
        joined: impl Into<Joined<K, V>>,
        joiner: impl Fn(Option<&K>, V, Option<VT>) -> Result<Option<VO>, E> + Send + Sync + 'static,
    ) -> KStream<K, VO> {
        let joiner: Joiner<K, V, VT, VO> =
            Arc::new(move |key, value, row| joiner(key, value, row).map_err(Into::into));
        self.joined_with(table, joined.into(), joiner, true)
    }

    /// `KStreamImpl.doStreamTableJoin`.
    #[track_caller]
    fn joined_with<VT: Clone + 'static, VO: Clone + 'static>(
        &self,
        table: &KTable<K, VT>,
        joined: Joined<K, V>,
        joiner: Joiner<K, V, VT, VO>,
        is_left: bool,
    ) -> KStream<K, VO> {
        let Joined { serdes, name, grace } = joined;
        let (keys, values) = (serdes.key(self.key_serde.as_ref()), serdes.value(self.value_serde.as_ref()));
        if !Rc::ptr_eq(&self.graph, &table.graph) {
            self.graph.borrow_mut().refuse(
                "a stream and a table of two builders cannot be joined; make both with one StreamsBuilder",
            );
        }
        let stream = if self.repartition_required {
            self.repartitioned_for_join(name.as_ref(), &keys, &values)
        } else {
            self.clone()
        };
        let prefix = if is_left { "KSTREAM-LEFTJOIN-" } else { "KSTREAM-JOIN-" };
        let name = self.graph.borrow_mut().name_or_draw(name.as_ref(), prefix);
        let view = table.view();
        let mapper: KeyMapper<K, V, K> = Arc::new(|key, _| Ok(key.cloned()));
        let join = StreamTable { mapper, joiner, is_left };
        if grace.is_some() {
            self.graph.borrow_mut().refuse("a grace period is not implemented yet");
        }
        let factory = stream_table_join::factory(join, view.make);
        let mut graph = self.graph.borrow_mut();
        let kind = GraphKind::Processor(ProcessorSpec { factory, stores: Vec::new() });
        let node = graph.add(&[stream.node], name, kind);
        graph.connect(node, &view.stores);
        graph.meet_by_key(&[stream.node, table.node]);
        if is_left {
            graph.welcome_null_keys(node);
        }
        drop(graph);
        KStream::new(self.graph.clone(), node, Some(keys), None, false)
    }
}
