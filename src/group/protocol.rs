//! The envelope of what members tell each other: Kafka's own consumer protocol (`ConsumerProtocolSubscription`,
//! `ConsumerProtocolAssignment`), so that the broker knows which topics the group reads (it expires the offsets of
//! others) and `kafka-consumer-groups` can show who has what. Our user data travels inside.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::consumer_protocol_assignment::TopicPartition as AssignedPartitions;
use kafka_protocol::messages::consumer_protocol_subscription::TopicPartition as OwnedPartitions;
use kafka_protocol::messages::{ConsumerProtocolAssignment, ConsumerProtocolSubscription, TopicName};
use kafka_protocol::protocol::{Encodable, StrBytes};

use super::reader::Reader;
use super::user_data::{AssignmentData, SubscriptionData};
use crate::{Error, ErrorKind, Result, TopicPartition};

/// The protocol type of every group that reads topics.
pub(crate) const PROTOCOL_TYPE: &str = "consumer";
/// Our assignor. Not Kafka Streams' `stream`: a Java leader would try to read our user data.
pub(crate) const PROTOCOL_NAME: &str = "mainstem";

/// The version we write: 1 added the owned partitions (KIP-429), 2 the generation they are from (KIP-792).
const VERSION: i16 = 2;

/// A member's subscription, as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subscription {
    /// The generation in which the member got what it owns; -1 if it has not been in one.
    pub(crate) generation: i32,
    /// What the instance says about itself.
    pub(crate) data: SubscriptionData,
}

/// The metadata of a JoinGroup request.
///
/// # Errors
/// [`ErrorKind::Config`] if a name is too long.
pub(crate) fn write_subscription<'p>(
    topics: &[String],
    owned: impl Iterator<Item = &'p TopicPartition>,
    generation: i32,
    data: &SubscriptionData,
) -> Result<Bytes> {
    let owned = by_topic(owned)
        .map(|(topic, partitions)| OwnedPartitions::default().with_topic(topic).with_partitions(partitions));
    let subscription = ConsumerProtocolSubscription::default()
        .with_topics(topics.iter().cloned().map(StrBytes::from_string).collect())
        .with_user_data(Some(data.encode()?))
        .with_owned_partitions(owned.collect())
        .with_generation_id(generation);
    versioned(&subscription)
}

/// Reads the metadata of a member in a JoinGroup response.
///
/// # Errors
/// [`ErrorKind::Corrupt`] for bytes that are not a subscription of this assignor.
pub(crate) fn read_subscription(bytes: &[u8]) -> Result<Subscription> {
    // By hand, because the generated decoder reserves memory for any count it is told.
    let mut from = Reader::new("consumer protocol subscription", bytes);
    let version = from.u16("version")?;
    from.list("topics", 2, |from| from.text("topic").map(drop))?;
    let data = SubscriptionData::decode(user_data(&mut from)?)?;
    let mut generation = -1;
    if version >= 1 {
        read_partitions(&mut from)?;
    }
    if version >= 2 {
        generation = from.i32("generation")?;
    }
    Ok(Subscription { generation, data })
}

/// An assignment of a SyncGroup request.
///
/// # Errors
/// [`ErrorKind::Config`] if a name is too long.
pub(crate) fn write_assignment(data: &AssignmentData) -> Result<Bytes> {
    let assigned =
        by_topic(data.active.iter().flat_map(|active| &active.partitions)).map(|(topic, partitions)| {
            AssignedPartitions::default().with_topic(topic).with_partitions(partitions)
        });
    let assignment = ConsumerProtocolAssignment::default()
        .with_assigned_partitions(assigned.collect())
        .with_user_data(Some(data.encode()?));
    versioned(&assignment)
}

/// Reads the assignment of a SyncGroup response; no bytes mean that the leader gave this member nothing.
///
/// # Errors
/// [`ErrorKind::Corrupt`] for bytes that are not an assignment of this assignor.
pub(crate) fn read_assignment(bytes: &[u8]) -> Result<AssignmentData> {
    if bytes.is_empty() {
        return Ok(AssignmentData { next_rebalance_ms: -1, ..AssignmentData::default() });
    }
    let mut from = Reader::new("consumer protocol assignment", bytes);
    from.u16("version")?;
    read_partitions(&mut from)?;
    AssignmentData::decode(user_data(&mut from)?)
}

fn read_partitions(from: &mut Reader<'_>) -> Result<()> {
    from.list("topics", 6, |from| {
        from.text("topic")?;
        from.list("partitions", 4, |from| from.i32("partition").map(drop)).map(drop)
    })
    .map(drop)
}

fn user_data<'a>(from: &mut Reader<'a>) -> Result<&'a [u8]> {
    let length = from.count("bytes of user data", 1)?;
    from.take("user data", length)
}

fn by_topic<'p>(
    partitions: impl Iterator<Item = &'p TopicPartition>,
) -> impl Iterator<Item = (TopicName, Vec<i32>)> {
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for partition in partitions {
        topics.entry(&partition.topic).or_default().push(partition.partition);
    }
    topics.into_iter().map(|(topic, mut partitions)| {
        partitions.sort_unstable();
        (TopicName(StrBytes::from_string(topic.to_owned())), partitions)
    })
}

fn versioned(message: &impl Encodable) -> Result<Bytes> {
    let mut bytes = BytesMut::new();
    bytes.put_i16(VERSION);
    message.encode(&mut bytes, VERSION).map_err(|cause| {
        Error::new(ErrorKind::Config, "the group's topics cannot be written for the coordinator")
            .because(cause)
    })?;
    Ok(bytes.freeze())
}

#[cfg(test)]
mod tests {
    use bytes::Buf;
    use kafka_protocol::protocol::Decodable;
    use uuid::Uuid;

    use super::super::user_data::ActiveTask;
    use super::*;
    use crate::TaskId;

    #[test]
    fn a_subscription_is_kafkas() {
        let owned = [TopicPartition::new("b", 1), TopicPartition::new("a", 2), TopicPartition::new("b", 0)];
        let mut data = SubscriptionData::new(Uuid::from_u128(7), 3);
        data.owned = vec![TaskId::new(0, 1)];
        let topics = ["a".to_owned(), "b".to_owned()];
        let bytes = write_subscription(&topics, owned.iter(), 5, &data).unwrap();

        assert_eq!(read_subscription(&bytes).unwrap(), Subscription { generation: 5, data: data.clone() });
        let mut rest = bytes.clone();
        let version = rest.get_i16();
        let kafkas = ConsumerProtocolSubscription::decode(&mut rest, version).unwrap();
        assert!(rest.is_empty());
        assert_eq!(kafkas.topics, ["a", "b"].map(StrBytes::from_static_str));
        let owned: Vec<_> =
            kafkas.owned_partitions.iter().map(|o| (o.topic.to_string(), o.partitions.clone())).collect();
        assert_eq!(owned, [("a".into(), vec![2]), ("b".into(), vec![0, 1])]);
        for cut in 0..bytes.len() {
            read_subscription(&bytes[..cut]).unwrap_err();
        }
    }

    #[test]
    fn an_assignment_is_kafkas() {
        let data = AssignmentData {
            active: vec![ActiveTask {
                task: TaskId::new(0, 1),
                partitions: vec![TopicPartition::new("b", 1), TopicPartition::new("a", 1)],
            }],
            next_rebalance_ms: 5,
            ..AssignmentData::default()
        };
        let bytes = write_assignment(&data).unwrap();

        assert_eq!(read_assignment(&bytes).unwrap(), data);
        let mut rest = bytes.clone();
        let version = rest.get_i16();
        let kafkas = ConsumerProtocolAssignment::decode(&mut rest, version).unwrap();
        assert!(rest.is_empty());
        assert_eq!(kafkas.assigned_partitions.len(), 2);
        for cut in 1..bytes.len() {
            read_assignment(&bytes[..cut]).unwrap_err();
        }
        assert!(read_assignment(b"").unwrap().active.is_empty());
    }

    #[test]
    fn a_foreign_subscription_is_refused() {
        // A plain Java consumer: version 0, topic t, null user data.
        let error = read_subscription(&[0, 0, 0, 0, 0, 1, 0, 1, b't', 0xff, 0xff, 0xff, 0xff]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}
