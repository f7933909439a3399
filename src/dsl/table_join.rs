//! Joins of a table with another one, by key.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;

use super::graph::{GraphKind, JoinSide, ProcessorSpec, TableJoinSpec};
use super::ops::table_join::{self, JoinKind, Joiner};
use super::table::KTable;
use super::table_node::{TableKind, TableNode, TableSettings};
use crate::error::{BoxError, Result};

impl<K: Clone + 'static, V: Clone + 'static> KTable<K, V> {
    /// Joins the rows that have the same key in both tables; where either has none, neither has the result.
    ///
    /// ```
    /// use mainstem::prelude::*;
    ///
    /// let builder = StreamsBuilder::new();
    /// let names = builder.table::<String, String>("names", "names");
    /// let towns = builder.table::<String, String>("towns", "towns");
    /// names.join(&towns, |name, town| format!("{name} of {town}")).materialized("people").to_stream().to("people");
    /// builder.build()?;
    /// # Ok::<(), mainstem::Error>(())
    /// ```
    #[track_caller]
    pub fn join<V2: Clone + 'static, VO: Clone + 'static>(
        &self,
        other: &KTable<K, V2>,
        joiner: impl Fn(V, V2) -> VO + Send + Sync + 'static,
    ) -> KTable<K, VO> {
        self.try_join(other, move |_, a, b| Ok::<_, Infallible>(Some(joiner(a, b))))
    }

    /// As [`join`](Self::join) with the key; it may fail, and `None` is no row.
    #[track_caller]
    pub fn try_join<V2: Clone + 'static, VO: Clone + 'static, E: Into<BoxError>>(
        &self,
        other: &KTable<K, V2>,
        joiner: impl Fn(&K, V, V2) -> Result<Option<VO>, E> + Send + Sync + 'static,
    ) -> KTable<K, VO> {
        let joiner: Joiner<K, V, V2, VO> = Arc::new(move |key, this, other| match (this, other) {
            (Some(this), Some(other)) => joiner(key, this, other).map_err(Into::into),
            _ => Ok(None),
        });
        self.joined(other, joiner, JoinKind::Inner)
    }

    /// Joins each row of this table with the row of its key in the other one, if that has any.
    ///
    /// ```
    /// use mainstem::prelude::*;
    ///
    /// let builder = StreamsBuilder::new();
    /// let names = builder.table::<String, String>("names", "names");
    /// let towns = builder.table::<String, String>("towns", "towns");
    /// names
    ///     .left_join(&towns, |name, town| format!("{name} of {}", town.as_deref().unwrap_or("nowhere")))
    ///     .to_stream()
    ///     .to("people");
    /// builder.build()?;
    /// # Ok::<(), mainstem::Error>(())
    /// ```
    #[track_caller]
    pub fn left_join<V2: Clone + 'static, VO: Clone + 'static>(
        &self,
        other: &KTable<K, V2>,
        joiner: impl Fn(V, Option<V2>) -> VO + Send + Sync + 'static,
    ) -> KTable<K, VO> {
        self.try_left_join(other, move |_, a, b| Ok::<_, Infallible>(Some(joiner(a, b))))
    }

    /// As [`left_join`](Self::left_join) with the key; it may fail, and `None` is no row.
    #[track_caller]
    pub fn try_left_join<V2: Clone + 'static, VO: Clone + 'static, E: Into<BoxError>>(
        &self,
        other: &KTable<K, V2>,
        joiner: impl Fn(&K, V, Option<V2>) -> Result<Option<VO>, E> + Send + Sync + 'static,
    ) -> KTable<K, VO> {
        let joiner: Joiner<K, V, V2, VO> = Arc::new(move |key, this, other| match this {
            Some(this) => joiner(key, this, other).map_err(Into::into),
            None => Ok(None),
        });
        self.joined(other, joiner, JoinKind::Left)
    }

    /// Joins the rows of both tables by key; either side may have none.
    ///
    /// ```
    /// use mainstem::prelude::*;
    ///
    /// let builder = StreamsBuilder::new();
    /// let bought = builder.table::<String, i64>("bought", "bought");
    /// let sold = builder.table::<String, i64>("sold", "sold");
    /// bought.outer_join(&sold, |a, b| a.unwrap_or(0) - b.unwrap_or(0)).to_stream().to("stock");
    /// builder.build()?;
    /// # Ok::<(), mainstem::Error>(())
    /// ```
    #[track_caller]
    pub fn outer_join<V2: Clone + 'static, VO: Clone + 'static>(
        &self,
        other: &KTable<K, V2>,
        joiner: impl Fn(Option<V>, Option<V2>) -> VO + Send + Sync + 'static,
    ) -> KTable<K, VO> {
        self.try_outer_join(other, move |_, a, b| Ok::<_, Infallible>(Some(joiner(a, b))))
    }

    /// As [`outer_join`](Self::outer_join) with the key; it may fail, and `None` is no row. One side at least is there.
    #[track_caller]
    pub fn try_outer_join<V2: Clone + 'static, VO: Clone + 'static, E: Into<BoxError>>(
        &self,
        other: &KTable<K, V2>,
        joiner: impl Fn(&K, Option<V>, Option<V2>) -> Result<Option<VO>, E> + Send + Sync + 'static,
    ) -> KTable<K, VO> {
        let joiner: Joiner<K, V, V2, VO> =
            Arc::new(move |key, this, other| joiner(key, this, other).map_err(Into::into));
        self.joined(other, joiner, JoinKind::Outer)
    }

    /// `KTableImpl.doJoin`.
    #[track_caller]
    fn joined<V2: Clone + 'static, VO: Clone + 'static>(
        &self,
        other: &KTable<K, V2>,
        joiner: Joiner<K, V, V2, VO>,
        kind: JoinKind,
    ) -> KTable<K, VO> {
        use super::table_node::SendsOldValues;
        let mut graph = self.graph.borrow_mut();
        if !Rc::ptr_eq(&self.graph, &other.graph) {
            graph.refuse("tables of two builders cannot be joined; make both with one StreamsBuilder");
        }
        let name = graph.draw("KTABLE-MERGE-");
        let this_name = graph.draw("KTABLE-JOINTHIS-");
        let other_name = graph.draw("KTABLE-JOINOTHER-");
        drop(graph);
        if matches!(kind, JoinKind::Left | JoinKind::Outer) {
            self.table.send_old_values(true);
        }
        if kind == JoinKind::Outer {
            other.table.send_old_values(true);
        }
        let (this_view, other_view) = (self.view(), other.view());
        let settings = TableSettings::new(None);
        let (this_side, other_side) = (TableSettings::new(None), TableSettings::new(None));
        let reversed: Joiner<K, V2, V, VO> = {
            let joiner = joiner.clone();
            Arc::new(move |key, this, other| joiner(key, other, this))
        };
        let spec = TableJoinSpec {
            this: JoinSide {
                name: this_name,
                parent: self.node,
                factory: table_join::factory(
                    settings.clone(),
                    this_side.clone(),
                    other_view.make,
                    joiner.clone(),
                    kind,
                ),
                stores: other_view.stores,
            },
            other: JoinSide {
                name: other_name,
                parent: other.node,
                factory: table_join::factory(
                    settings.clone(),
                    other_side.clone(),
                    this_view.make,
                    reversed,
                    kind.reversed(),
                ),
                stores: this_view.stores,
            },
            merge: ProcessorSpec {
                factory: table_join::merger::<K, VO>(settings.clone()),
                stores: Vec::new(),
            },
        };
        let mut graph = self.graph.borrow_mut();
        let node = graph.add(&[self.node], name, GraphKind::TableJoin(Box::new(spec)));
        graph.link(other.node, node);
        graph.meets_by_key(node);
        graph.set_versioned(node, false);
        graph.follows_versions(node, self.node, &this_side);
        graph.follows_versions(node, other.node, &other_side);
        drop(graph);
        let view = {
            let (this, other) = (self.table.clone(), other.table.clone());
            Box::new(move || table_join::view(this.view(), other.view(), joiner.clone(), kind))
        };
        let parents: [Rc<dyn SendsOldValues>; 2] = [self.table.clone(), other.table.clone()];
        let table = TableNode { settings, kind: TableKind::Joined(parents, view) };
        KTable::new(self.graph.clone(), node, self.key_serde.clone(), None, Rc::new(table))
    }
}
