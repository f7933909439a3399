//! What the broker and its topics can be told, by Kafka's names: one table each.

use std::collections::BTreeMap;

use crate::{Error, ErrorKind, Result};

/// The settings of the broker, with Kafka's defaults but for `group.initial.rebalance.delay.ms` (3000 there), so that a
/// test does not wait for members that do not come.
const BROKER: &[(&str, &str, Kind)] = &[
    ("auto.create.topics.enable", "true", Kind::Boolean),
    ("connections.max.reauth.ms", "0", Kind::Long(0)),
    ("default.replication.factor", "1", Kind::Int(1)),
    ("fetch.max.bytes", "57671680", Kind::Int(1024)),
    ("group.initial.rebalance.delay.ms", "0", Kind::Int(0)),
    ("group.max.session.timeout.ms", "1800000", Kind::Int(1)),
    ("group.max.size", "2147483647", Kind::Int(1)),
    ("group.min.session.timeout.ms", "6000", Kind::Int(1)),
    ("log.cleaner.backoff.ms", "15000", Kind::Long(0)),
    ("log.retention.check.interval.ms", "300000", Kind::Long(1)),
    ("num.partitions", "1", Kind::Int(1)),
    ("offset.metadata.max.bytes", "4096", Kind::Int(0)),
    ("producer.id.expiration.ms", "86400000", Kind::Int(1)),
    ("socket.request.max.bytes", "104857600", Kind::Int(1)),
    ("transaction.max.timeout.ms", "900000", Kind::Int(1)),
    ("transaction.partition.verification.enable", "true", Kind::Boolean),
    // No setting in Kafka but a feature, which `kafka-storage format --feature` or `kafka-features` finalizes.
    (TRANSACTION_VERSION, "1", Kind::Level { least: 1, most: 2, other: 1 }),
];

/// The feature that says which transactions there are.
pub(crate) const TRANSACTION_VERSION: &str = "transaction.version";

/// What a setting takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Boolean,
    /// One of these, or several with commas between them.
    List(&'static [&'static str]),
    /// One of these.
    Choice(&'static [&'static str]),
    /// A number of at least this.
    Int(i64),
    Long(i64),
    /// A number from `least` to `most`, or `other`.
    Level {
        least: i64,
        most: i64,
        other: i64,
    },
    Double,
    /// Pairs of partition and node, or `*` (`ThrottledReplicaListValidator`).
    Replicas,
}

/// What is told to the log alone, and to nobody who asks.
const INTERNAL_SEGMENT_BYTES: &str = "internal.segment.bytes";

/// Name, default and kind of what a topic can be told: Kafka 4.3's `LogConfig`. The broker's own setting for a default
/// is not read. Tiers, throttles and levels of compression are taken and have no effect.
const TOPIC: &[(&str, &str, Kind)] = &[
    ("cleanup.policy", "delete", Kind::List(&["compact", "delete"])),
    ("compression.gzip.level", "-1", Kind::Level { least: 1, most: 9, other: -1 }),
    ("compression.lz4.level", "9", Kind::Level { least: 1, most: 17, other: 9 }),
    (
        "compression.type",
        "producer",
        Kind::Choice(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]),
    ),
    ("compression.zstd.level", "3", Kind::Level { least: -131_072, most: 22, other: 3 }),
    ("delete.retention.ms", "86400000", Kind::Long(0)),
    ("file.delete.delay.ms", "60000", Kind::Long(0)),
    ("flush.messages", "9223372036854775807", Kind::Long(1)),
    ("flush.ms", "9223372036854775807", Kind::Long(0)),
    ("follower.replication.throttled.replicas", "", Kind::Replicas),
    ("index.interval.bytes", "4096", Kind::Int(0)),
    (INTERNAL_SEGMENT_BYTES, "", Kind::Int(1)),
    ("leader.replication.throttled.replicas", "", Kind::Replicas),
    ("local.retention.bytes", "-2", Kind::Long(-2)),
    ("local.retention.ms", "-2", Kind::Long(-2)),
    ("max.compaction.lag.ms", "9223372036854775807", Kind::Long(1)),
    ("max.message.bytes", "1048588", Kind::Int(0)),
    ("message.timestamp.after.max.ms", "3600000", Kind::Long(0)),
    ("message.timestamp.before.max.ms", "9223372036854775807", Kind::Long(0)),
    ("message.timestamp.type", "CreateTime", Kind::Choice(&["CreateTime", "LogAppendTime"])),
    ("min.cleanable.dirty.ratio", "0.5", Kind::Double),
    ("min.compaction.lag.ms", "0", Kind::Long(0)),
    ("min.insync.replicas", "1", Kind::Int(1)),
    ("preallocate", "false", Kind::Boolean),
    ("remote.log.copy.disable", "false", Kind::Boolean),
    ("remote.log.delete.on.disable", "false", Kind::Boolean),
    ("remote.storage.enable", "false", Kind::Boolean),
    ("retention.bytes", "-1", Kind::Long(i64::MIN)),
    ("retention.ms", "604800000", Kind::Long(-1)),
    // At least a mebibyte since KIP-1030.
    ("segment.bytes", "1073741824", Kind::Int(1 << 20)),
    ("segment.index.bytes", "10485760", Kind::Int(4)),
    ("segment.jitter.ms", "0", Kind::Long(0)),
    ("segment.ms", "604800000", Kind::Long(1)),
    ("unclean.leader.election.enable", "false", Kind::Boolean),
];

/// What the broker was told.
#[derive(Debug, Clone, Default)]
pub(crate) struct BrokerConfig(BTreeMap<String, String>);

impl BrokerConfig {
    /// Sets one by its name.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let refused = |why: &str| {
            Err(Error::new(
                ErrorKind::Config,
                format!("the embedded broker cannot set {name}={value}: {why}"),
            ))
        };
        let Some((_, _, kind)) = BROKER.iter().find(|(known, ..)| *known == name) else {
            return refused("it does not know the name, or what the name means");
        };
        let value = parsed(*kind, value);
        if !fits(*kind, &value) {
            return refused(&complaint(*kind, &value));
        }
        self.0.insert(name.to_owned(), value);
        Ok(())
    }

    /// Every name with its value, and whether that was set.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&'static str, &str, bool)> {
        let settings = BROKER.iter().filter(|(name, ..)| *name != TRANSACTION_VERSION);
        settings.map(|(name, default, _)| match self.0.get(*name) {
            Some(value) => (*name, value.as_str(), true),
            None => (*name, *default, false),
        })
    }

    fn get(&self, name: &str) -> &str {
        let default =
            || BROKER.iter().find(|(known, ..)| *known == name).map_or("0", |(_, default, _)| default);
        self.0.get(name).map_or_else(default, String::as_str)
    }

    /// A number.
    pub(crate) fn number(&self, name: &str) -> i64 {
        self.get(name).parse().unwrap_or(0)
    }

    /// A flag.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.get(name) == "true"
    }
}

/// What a topic was told, and the values that are asked for often.
#[derive(Debug, Clone)]
pub(crate) struct TopicConfig {
    set: BTreeMap<String, String>,
    /// Whether `cleanup.policy` has `compact`.
    pub(crate) compacted: bool,
    /// Whether it has `delete`.
    pub(crate) deleted: bool,
    /// `max.message.bytes`.
    pub(crate) max_message_bytes: usize,
    /// Whether `message.timestamp.type` is `LogAppendTime`.
    pub(crate) append_time: bool,
    /// `message.timestamp.before.max.ms`.
    pub(crate) timestamp_before_max: i64,
    /// `message.timestamp.after.max.ms`.
    pub(crate) timestamp_after_max: i64,
    /// `segment.bytes`.
    pub(crate) segment_bytes: usize,
    /// A segment is not larger than that either, so that `retention.bytes` bounds the memory, to its one and a quarter: an
    /// eighth of it, but not less than the least `segment.bytes`.
    pub(crate) roll_bytes: usize,
    /// `segment.ms`.
    pub(crate) segment_ms: i64,
}

/// The least that `segment.bytes` may be, since KIP-1030.
const LEAST_SEGMENT: usize = 1 << 20;

impl Default for TopicConfig {
    fn default() -> Self {
        Self::of(BTreeMap::new())
    }
}

impl TopicConfig {
    fn of(set: BTreeMap<String, String>) -> Self {
        let get = |name: &str| lookup(&set, name);
        let number = |name: &str| get(name).parse::<i64>().unwrap_or(0);
        let size = |name: &str| usize::try_from(number(name)).unwrap_or(usize::MAX);
        let deleted = get("cleanup.policy").contains("delete");
        Self {
            compacted: get("cleanup.policy").contains("compact"),
            deleted,
            roll_bytes: match deleted {
                true => (size("retention.bytes") / 8).max(LEAST_SEGMENT),
                false => usize::MAX,
            },
            max_message_bytes: size("max.message.bytes"),
            append_time: get("message.timestamp.type") == "LogAppendTime",
            timestamp_before_max: number("message.timestamp.before.max.ms"),
            timestamp_after_max: number("message.timestamp.after.max.ms"),
            segment_bytes: size(match get(INTERNAL_SEGMENT_BYTES) {
                "" => "segment.bytes",
                _ => INTERNAL_SEGMENT_BYTES,
            }),
            segment_ms: number("segment.ms"),
            set,
        }
    }

    /// Checks and takes `changes` over; `None` goes back to the default. The error is said to the caller.
    pub(crate) fn with<'a>(
        &self,
        changes: impl IntoIterator<Item = (&'a str, Option<String>)>,
    ) -> Result<Self, String> {
        let mut set = self.set.clone();
        for (name, value) in changes {
            let Some((_, _, kind)) = TOPIC.iter().find(|(known, _, _)| *known == name) else {
                return Err(format!("Unknown topic config name: {name}"));
            };
            match value.map(|value| parsed(*kind, &value)) {
                Some(value) if fits(*kind, &value) => _ = set.insert(name.to_owned(), value),
                Some(value) => {
                    let why = complaint(*kind, &value);
                    return Err(format!("Invalid value {value} for configuration {name}: {why}"));
                }
                None => _ = set.remove(name),
            }
        }
        let config = Self::of(set);
        let (least, most) = (config.number("min.compaction.lag.ms"), config.number("max.compaction.lag.ms"));
        if least > most {
            return Err(format!(
                "conflict topic config setting min.compaction.lag.ms ({least}) > max.compaction.lag.ms ({most})"
            ));
        }
        if config.get("remote.storage.enable") == "true" {
            return Err("Tiered Storage functionality is disabled in the broker.".to_owned());
        }
        Ok(config)
    }

    /// Every name with its value, whether that was set, and its kind.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&'static str, &str, bool, Kind)> {
        let told = TOPIC.iter().filter(|(name, ..)| *name != INTERNAL_SEGMENT_BYTES);
        told.map(|(name, default, kind)| match self.set.get(*name) {
            Some(value) => (*name, value.as_str(), true, *kind),
            None => (*name, *default, false, *kind),
        })
    }

    /// The value of a name of the table.
    pub(crate) fn get(&self, name: &str) -> &str {
        let default =
            || TOPIC.iter().find(|(known, ..)| *known == name).map_or("", |(_, default, _)| default);
        self.set.get(name).map_or_else(default, String::as_str)
    }

    /// A number.
    pub(crate) fn number(&self, name: &str) -> i64 {
        self.get(name).parse().unwrap_or(0)
    }
}

fn lookup<'a>(set: &'a BTreeMap<String, String>, name: &str) -> &'a str {
    let default = || TOPIC.iter().find(|(known, ..)| *known == name).map_or("", |(_, default, _)| default);
    set.get(name).map_or_else(default, String::as_str)
}

/// What Kafka's `ConfigDef` says of a value that does not fit.
fn complaint(kind: Kind, value: &str) -> String {
    match kind {
        Kind::Boolean => "Expected value to be either true or false".to_owned(),
        Kind::List(of) | Kind::Choice(of) => format!("String must be one of: {}", of.join(", ")),
        Kind::Int(_) if value.parse::<i32>().is_err() => "Not a number of type INT".to_owned(),
        Kind::Long(_) if value.parse::<i64>().is_err() => "Not a number of type LONG".to_owned(),
        Kind::Int(least) | Kind::Long(least) => format!("Value must be at least {least}"),
        Kind::Level { least, most, other } => {
            format!("Value must be between {least} and {most} or equal to {other}")
        }
        Kind::Replicas => {
            "It must be the literal '*' or a list of replicas: [partitionId]:[brokerId]".to_owned()
        }
        Kind::Double if value.parse::<f64>().is_err() => "Not a number of type DOUBLE".to_owned(),
        Kind::Double => "Value must be between 0 and 1".to_owned(),
    }
}

/// As `ConfigDef.parseType` reads a value.
fn parsed(kind: Kind, value: &str) -> String {
    match kind {
        Kind::Boolean => value.trim().to_ascii_lowercase(),
        _ => value.trim().to_owned(),
    }
}

/// `partition:node`, or nothing.
fn is_replica(pair: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    pair.is_empty() || pair.split_once(':').is_some_and(|(partition, node)| number(partition) && number(node))
}

fn fits(kind: Kind, value: &str) -> bool {
    match kind {
        Kind::Boolean => value.parse::<bool>().is_ok(),
        Kind::List(of) => value.split(',').all(|part| part.trim().is_empty() || of.contains(&part.trim())),
        Kind::Choice(of) => of.contains(&value),
        Kind::Int(least) => value.parse::<i32>().is_ok_and(|number| i64::from(number) >= least),
        Kind::Long(least) => value.parse::<i64>().is_ok_and(|number| number >= least),
        Kind::Level { least, most, other } => value
            .parse::<i32>()
            .is_ok_and(|level| i64::from(level) == other || (least..=most).contains(&i64::from(level))),
        Kind::Replicas => value == "*" || value.split(',').all(|pair| is_replica(pair.trim())),
        Kind::Double => value.parse::<f64>().is_ok_and(|number| (0.0..=1.0).contains(&number)),
    }
}

#[cfg(test)]
mod tests {
    use super::{BrokerConfig, TopicConfig};

    #[test]
    fn what_has_no_effect_or_is_out_of_bounds_is_refused() {
        let mut config = BrokerConfig::default();
        for (name, value) in [
            ("offsets.retention.minutes", "1"),
            ("offsets.retention.check.interval.ms", "1000"),
            ("transactional.id.expiration.ms", "1000"),
            ("transaction.abort.timed.out.transaction.cleanup.interval.ms", "1000"),
            ("num.partitions", "-3"),
            ("num.partitions", "0"),
            ("num.partitions", "many"),
            ("default.replication.factor", "0"),
            ("fetch.max.bytes", "5"),
            ("socket.request.max.bytes", "4294967296"),
            ("producer.id.expiration.ms", "0"),
            ("auto.create.topics.enable", "1"),
        ] {
            let refused = config.set(name, value).unwrap_err().to_string();
            assert!(refused.contains(name), "{refused}");
        }
        config.set("num.partitions", " 7 ").unwrap();
        config.set("auto.create.topics.enable", "FALSE").unwrap();
        assert_eq!(config.number("num.partitions"), 7);
        assert!(!config.flag("auto.create.topics.enable"));
    }

    #[test]
    fn segments_of_a_test_may_be_small() {
        let with = |name, value: &str| TopicConfig::default().with([(name, Some(value.to_owned()))]);
        assert!(with("segment.bytes", "1000").is_err());
        let config = with("internal.segment.bytes", "1000").unwrap();
        assert_eq!(config.segment_bytes, 1000);
        assert!(config.all().all(|(name, ..)| name != "internal.segment.bytes"));
        assert_eq!(TopicConfig::default().segment_bytes, 1 << 30);
    }
}
