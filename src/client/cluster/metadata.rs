//! What is known of topics: partitions, leaders, and how fresh that is.

use std::collections::HashMap;
use std::sync::Arc;

use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use uuid::Uuid;

/// Who leads a partition, by a certain generation of metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leader {
    /// The broker.
    pub(crate) node: i32,
    /// Its leader epoch, or -1 if the broker did not say.
    pub(crate) epoch: i32,
    /// Which look at the topic said so; goes into [`Cluster::invalidate`](super::Cluster::invalidate).
    pub(crate) generation: u64,
}

/// A partition as the brokers describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionInfo {
    /// The partition, from 0.
    pub partition: i32,
    /// The broker that leads it, or `None` during an election.
    pub leader: Option<i32>,
    /// The leader epoch, or -1 where the broker does not say.
    pub leader_epoch: i32,
    /// The brokers that keep it.
    pub replicas: Vec<i32>,
    /// Those of them that are in sync.
    pub in_sync: Vec<i32>,
}

/// A topic as the brokers describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicInfo {
    /// The name.
    pub name: Arc<str>,
    /// The id that the cluster gave it, where the broker has ids (2.8 and later).
    pub id: Option<Uuid>,
    /// Whether it belongs to Kafka itself.
    pub internal: bool,
    /// The partitions in order.
    pub partitions: Vec<PartitionInfo>,
}

/// One look at a topic.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) generation: u64,
    pub(super) stale: bool,
    /// Whether anybody asked since the last look.
    pub(super) used: bool,
    /// The topic, or the error code that the broker gave for it.
    pub(super) topic: std::result::Result<Arc<TopicInfo>, i16>,
}

/// Every topic asked about so far.
#[derive(Debug, Default)]
pub(super) struct Cache {
    generation: u64,
    topics: HashMap<Arc<str>, Entry>,
}

impl Cache {
    pub(super) fn get(&mut self, topic: &str) -> Option<&Entry> {
        let entry = self.topics.get_mut(topic)?;
        entry.used = true;
        Some(entry)
    }

    /// The generation of the last look at a topic; 0 if there was none.
    pub(super) fn generation(&self, topic: &str) -> u64 {
        self.topics.get(topic).map_or(0, |entry| entry.generation)
    }

    /// Marks a topic stale, unless there was a look after the one that the caller speaks of.
    pub(super) fn invalidate(&mut self, topic: &str, seen: u64) {
        if let Some(entry) = self.topics.get_mut(topic).filter(|entry| entry.generation <= seen) {
            entry.stale = true;
        }
    }

    /// The topics that somebody asked about since the last call; the others are forgotten.
    pub(super) fn keep_used(&mut self) -> Vec<Arc<str>> {
        self.topics.retain(|_, entry| std::mem::take(&mut entry.used));
        self.topics.keys().cloned().collect()
    }

    /// Takes in what a broker said.
    pub(super) fn apply(&mut self, topics: &[MetadataResponseTopic]) {
        self.generation += 1;
        for topic in topics {
            let Some(name) = topic.name.as_ref() else { continue };
            let before = self.topics.get(name.as_str());
            let used = before.is_none_or(|entry| entry.used);
            let (stale, looked) = match topic.error_code {
                0 => {
                    let old = before.and_then(|entry| entry.topic.as_ref().ok());
                    let info = describe(topic, old.map(|old| &**old));
                    (info.partitions.iter().any(|p| p.leader.is_none()), Ok(Arc::new(info)))
                }
                code => (true, Err(code)),
            };
            let name = before
                .and_then(|e| e.topic.as_ref().ok())
                .map_or_else(|| name.as_str().into(), |t| t.name.clone());
            self.topics.insert(name, Entry { generation: self.generation, stale, used, topic: looked });
        }
    }
}

/// Reads a topic. A broker that lags behind may still name an older leader: the higher epoch stays (KIP-320, as Java's
/// `Metadata.updateLatestMetadata`), unless the topic is another one under the same name.
pub(super) fn describe(topic: &MetadataResponseTopic, before: Option<&TopicInfo>) -> TopicInfo {
    let id = Some(topic.topic_id).filter(|id| !id.is_nil());
    let before = before.filter(|before| before.id == id);
    let name = topic.name.as_ref().map_or("", |name| name.as_str());
    let mut partitions: Vec<_> = topic
        .partitions
        .iter()
        .map(|p| {
            let known =
                before.and_then(|before| before.partitions.get(usize::try_from(p.partition_index).ok()?));
            match known.filter(|known| p.leader_epoch >= 0 && known.leader_epoch > p.leader_epoch) {
                Some(known) => known.clone(),
                None => PartitionInfo {
                    partition: p.partition_index,
                    leader: Some(p.leader_id.0).filter(|node| *node >= 0),
                    leader_epoch: p.leader_epoch,
                    replicas: p.replica_nodes.iter().map(|node| node.0).collect(),
                    in_sync: p.isr_nodes.iter().map(|node| node.0).collect(),
                },
            }
        })
        .collect();
    partitions.sort_by_key(|p| p.partition);
    TopicInfo { name: name.into(), id, internal: topic.is_internal, partitions }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::metadata_response::MetadataResponsePartition;
    use kafka_protocol::messages::{BrokerId, TopicName};
    use kafka_protocol::protocol::StrBytes;

    fn said(leader: i32, epoch: i32) -> MetadataResponseTopic {
        MetadataResponseTopic::default()
            .with_name(Some(TopicName(StrBytes::from_static_str("t"))))
            .with_partitions(vec![
                MetadataResponsePartition::default()
                    .with_leader_id(BrokerId(leader))
                    .with_leader_epoch(epoch),
            ])
    }

    fn leader(cache: &mut Cache) -> Option<i32> {
        cache.get("t").unwrap().topic.as_ref().unwrap().partitions[0].leader
    }

    #[test]
    fn a_stale_caller_does_not_invalidate_a_fresh_entry() {
        let mut cache = Cache::default();
        cache.apply(&[said(1, 1)]);
        let seen = cache.generation("t");
        cache.apply(&[said(2, 2)]);
        cache.invalidate("t", seen);
        assert!(!cache.get("t").unwrap().stale);
        cache.invalidate("t", cache.generation("t"));
        assert!(cache.get("t").unwrap().stale);
    }

    #[test]
    fn an_older_epoch_does_not_bring_an_old_leader_back() {
        let mut cache = Cache::default();
        cache.apply(&[said(1, 5)]);
        cache.apply(&[said(2, 4)]);
        assert_eq!(leader(&mut cache), Some(1));
        cache.apply(&[said(2, 6)]);
        assert_eq!(leader(&mut cache), Some(2));
        let another = said(3, 0).with_topic_id(Uuid::from_u128(9));
        cache.apply(&[another]);
        assert_eq!(leader(&mut cache), Some(3), "another topic under the same name starts anew");
    }

    #[test]
    fn without_a_leader_a_topic_is_looked_at_again() {
        let mut cache = Cache::default();
        cache.apply(&[said(-1, 3)]);
        assert!(cache.get("t").unwrap().stale);
        assert_eq!(leader(&mut cache), None);
    }

    #[test]
    fn unused_topics_are_forgotten() {
        let mut cache = Cache::default();
        cache.apply(&[said(1, 1)]);
        assert_eq!(cache.keep_used().len(), 1, "new ones count as used");
        cache.apply(&[said(1, 1)]);
        assert!(cache.keep_used().is_empty());
    }
}
