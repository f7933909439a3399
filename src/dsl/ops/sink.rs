//! The sink node: writes records to a topic.

use std::collections::HashMap;
use std::sync::Arc;

use crate::dsl::options::{Partitioner, TopicChooser};
use crate::error::{BoxError, Error, ErrorKind};
use crate::record::{Record, partition_for_key};
use crate::serde::erased::SerdeRef;
use crate::task::blueprint::NodeFactory;
use crate::task::{Flow, Node, NodeIx, Partition, TaskCx, TopicIx};

/// What a sink is made from.
pub(crate) struct SinkOptions<K, V> {
    pub(crate) topic: SinkTo<K, V>,
    pub(crate) key_serde: SerdeRef<K>,
    pub(crate) value_serde: SerdeRef<V>,
    pub(crate) partitioner: Option<Partitioner<K, V>>,
    /// How many bytes at the end of a key do not say where it belongs.
    pub(crate) window_bytes: usize,
}

pub(crate) enum SinkTo<K, V> {
    Fixed(Arc<str>),
    Chosen(TopicChooser<K, V>),
}

enum Target<K, V> {
    Fixed(String, TopicIx),
    /// Topics are registered when a record first goes there.
    Chosen(TopicChooser<K, V>, HashMap<String, TopicIx>),
}

struct Sink<K, V> {
    node: NodeIx,
    target: Target<K, V>,
    key_serde: SerdeRef<K>,
    value_serde: SerdeRef<V>,
    partitioner: Option<Partitioner<K, V>>,
    window_bytes: usize,
}

impl<K: 'static, V: 'static> Sink<K, V> {
    fn send(&mut self, record: &Record<K, V>, cx: &mut TaskCx) -> Result<(), BoxError> {
        if record.timestamp < 0 {
            let text = format!("the record has the timestamp {}, which no topic takes", record.timestamp);
            return Err(Error::new(ErrorKind::Timestamp, text).into());
        }
        let chosen;
        let (name, topic) = match &mut self.target {
            Target::Fixed(name, topic) => (&**name, *topic),
            Target::Chosen(choose, known) => {
                chosen = choose(record.key.as_ref(), record.value.as_ref());
                let topic = match known.get(&chosen) {
                    Some(topic) => *topic,
                    None => {
                        let topic = cx.register(&chosen)?;
                        known.insert(chosen.clone(), topic);
                        topic
                    }
                };
                (&*chosen, topic)
            }
        };
        let key = match &record.key {
            Some(key) => Some(cx.key_bytes(key, &self.key_serde, name, &record.headers)?),
            None => None,
        };
        let partition = match &self.partitioner {
            None => match &key {
                Some(key) if self.window_bytes > 0 => {
                    let inner = key.len().saturating_sub(self.window_bytes);
                    let count = cx.collector.partitions(topic);
                    Partition::Exactly(partition_for_key(&key[..inner], count))
                }
                _ => Partition::Default,
            },
            Some(partitioner) => {
                let count = cx.collector.partitions(topic);
                let partition = partitioner(record.key.as_ref(), record.value.as_ref(), count);
                if !(0..count).contains(&partition) {
                    let text =
                        format!("the partitioner chose partition {partition} of a topic that has {count}");
                    return Err(Error::new(ErrorKind::Production, text).at_topic(name).into());
                }
                Partition::Exactly(partition)
            }
        };
        let value = match &record.value {
            Some(value) => Some(cx.write_value(value, &self.value_serde, name, &record.headers)?),
            None => None,
        };
        let sent = cx.send(
            topic,
            partition,
            key.as_deref(),
            value.as_deref(),
            Some(record.timestamp),
            &record.headers,
        );
        if let Some(scratch) = value {
            cx.return_scratch(scratch);
        }
        sent
    }
}

impl<K: 'static, V: 'static> Node<K, V> for Sink<K, V> {
    fn process(&mut self, record: Record<K, V>, cx: &mut TaskCx) -> Flow {
        cx.current = Some(self.node);
        match self.send(&record, cx) {
            Ok(()) => Ok(()),
            Err(error) => cx.production_error(self.node, error),
        }
    }
}

pub(crate) fn factory<K: 'static, V: 'static>(options: SinkOptions<K, V>) -> NodeFactory {
    Arc::new(move |cx, _| {
        let target = match &options.topic {
            SinkTo::Fixed(topic) => {
                let name = (cx.topic_name)(topic);
                let ix = cx.task.collector.register(&name)?;
                Target::Fixed(name, ix)
            }
            SinkTo::Chosen(choose) => Target::Chosen(choose.clone(), HashMap::new()),
        };
        let sink = Sink {
            node: cx.node,
            target,
            key_serde: options.key_serde.clone(),
            value_serde: options.value_serde.clone(),
            partitioner: options.partitioner.clone(),
            window_bytes: options.window_bytes,
        };
        Ok(cx.plain::<K, V>(sink))
    })
}
