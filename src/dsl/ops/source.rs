//! The source node: reads records of a topic and forwards them.

use std::any::TypeId;
use std::sync::Arc;

use crate::dsl::graph::SourceSpec;
use crate::serde::erased::SerdeRef;
use crate::task::blueprint::SourceFactory;
use crate::task::queue::{Extractor, InputQueue, SourceQueue};
use crate::topology::AutoOffsetReset;

pub(crate) fn factory<K: Clone + 'static, V: Clone + 'static>(
    key_serde: SerdeRef<K>,
    value_serde: SerdeRef<V>,
    extractor: Option<Extractor<K, V>>,
) -> SourceFactory {
    Arc::new(move |cx, children, source, topic| {
        let queue: Box<dyn InputQueue> = Box::new(SourceQueue {
            source,
            topic,
            node: cx.node,
            key_serde: key_serde.clone(),
            value_serde: value_serde.clone(),
            extractor: extractor.clone(),
            outputs: children.outputs()?,
            state: Default::default(),
        });
        Ok(queue)
    })
}

pub(crate) fn spec<K: Clone + 'static, V: Clone + 'static>(
    topics: Vec<Arc<str>>,
    reset: Option<AutoOffsetReset>,
    factory: SourceFactory,
) -> SourceSpec {
    let (types, type_names) = (TypeId::of::<(K, V)>(), std::any::type_name::<(K, V)>());
    SourceSpec { topics, reset, types, type_names, factory }
}
