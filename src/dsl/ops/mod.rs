//! The nodes of the operators, one file an operator.

pub(crate) mod aggregate;
pub(crate) mod branch;
pub(crate) mod closing;
pub(crate) mod filter;
pub(crate) mod flat_map;
pub(crate) mod foreign_key_join;
pub(crate) mod map;
pub(crate) mod map_values;
pub(crate) mod null_key_filter;
pub(crate) mod pass_through;
pub(crate) mod peek;
pub(crate) mod session_aggregate;
pub(crate) mod sink;
pub(crate) mod sliding_aggregate;
pub(crate) mod source;
pub(crate) mod stream_table_join;
pub(crate) mod suppress;
pub(crate) mod table_aggregate;
pub(crate) mod table_group;
pub(crate) mod table_join;
pub(crate) mod table_source;
pub(crate) mod table_store;
pub(crate) mod table_transform_values;
pub(crate) mod table_values;
pub(crate) mod to_stream;
pub(crate) mod window_aggregate;

use std::sync::Arc;

use crate::task::blueprint::NodeFactory;
use crate::task::{Node, NodeIx, Outputs};

pub(crate) use crate::serde::change::Change;
pub use table_transform_values::ValueTransformerWithKey;

/// The factory of a node that has nothing but its outputs.
pub(crate) fn node<K, V, KO, VO, N>(
    make: impl Fn(NodeIx, Outputs<KO, VO>) -> N + Send + Sync + 'static,
) -> NodeFactory
where
    K: 'static,
    V: 'static,
    KO: 'static,
    VO: 'static,
    N: Node<K, V> + 'static,
{
    Arc::new(move |cx, children| {
        let outputs = children.outputs()?;
        let node = make(cx.node, outputs);
        Ok(cx.plain::<K, V>(node))
    })
}
