//! How the text of a property becomes a value, and the enumerations among them.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// A whole number within a range; `unit` follows it in messages.
fn number(text: &str, range: &RangeInclusive<i64>, unit: &str) -> Result<i64, String> {
    let Ok(number) = text.parse::<i64>() else {
        return Err(format!("is not a whole number{unit}"));
    };
    match (range.contains(&number), *range.end()) {
        (true, _) => Ok(number),
        (false, i64::MAX) => Err(format!("must be at least {}", range.start())),
        (false, end) => Err(format!("must be from {} to {end}", range.start())),
    }
}

/// The text of a duration: milliseconds, rounded up so that no pause becomes none.
pub(super) fn millis(duration: Duration) -> String {
    duration.as_nanos().div_ceil(1_000_000).to_string()
}

/// What a property's text can become.
pub(super) trait Value: Sized {
    /// The value, or what is wrong with the text, in words that follow it.
    fn parse(text: &str, range: &RangeInclusive<i64>) -> Result<Self, String>;
}

impl Value for usize {
    fn parse(text: &str, range: &RangeInclusive<i64>) -> Result<Self, String> {
        let number = number(text, range, "")?;
        usize::try_from(number).map_err(|_| "must be at least 0 and fit the machine".to_owned())
    }
}

impl Value for i32 {
    fn parse(text: &str, range: &RangeInclusive<i64>) -> Result<Self, String> {
        let number = number(text, range, "")?;
        i32::try_from(number).map_err(|_| "must be a 32-bit number".to_owned())
    }
}

impl Value for i64 {
    fn parse(text: &str, range: &RangeInclusive<i64>) -> Result<Self, String> {
        number(text, range, "")
    }
}

impl Value for bool {
    fn parse(text: &str, _: &RangeInclusive<i64>) -> Result<Self, String> {
        match text {
            _ if text.eq_ignore_ascii_case("true") => Ok(true),
            _ if text.eq_ignore_ascii_case("false") => Ok(false),
            _ => Err("must be true or false".to_owned()),
        }
    }
}

impl Value for Duration {
    fn parse(text: &str, range: &RangeInclusive<i64>) -> Result<Self, String> {
        let number = number(text, range, " of milliseconds")?;
        u64::try_from(number).map(Duration::from_millis).map_err(|_| "must be at least 0".to_owned())
    }
}

/// A duration, where -1 means never.
impl Value for Option<Duration> {
    fn parse(text: &str, range: &RangeInclusive<i64>) -> Result<Self, String> {
        if text == "-1" {
            return Ok(None);
        }
        let why = |why| format!("{why}, or -1");
        Duration::parse(text, range).map(Some).map_err(why)
    }
}

impl Value for String {
    fn parse(text: &str, _: &RangeInclusive<i64>) -> Result<Self, String> {
        Ok(text.to_owned())
    }
}

/// Text, where none means none.
impl Value for Option<String> {
    fn parse(text: &str, _: &RangeInclusive<i64>) -> Result<Self, String> {
        Ok((!text.is_empty()).then(|| text.to_owned()))
    }
}

/// A secret; its text is not repeated by any error.
impl Value for Option<super::Secret> {
    fn parse(text: &str, _: &RangeInclusive<i64>) -> Result<Self, String> {
        Ok((!text.is_empty()).then(|| text.into()))
    }
}

impl Value for PathBuf {
    fn parse(text: &str, _: &RangeInclusive<i64>) -> Result<Self, String> {
        Ok(text.into())
    }
}

/// A list separated by commas; spaces around its entries and empty entries do not count.
impl Value for Vec<String> {
    fn parse(text: &str, _: &RangeInclusive<i64>) -> Result<Self, String> {
        Ok(text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(str::to_owned).collect())
    }
}

/// An enumeration: each value has one or more spellings, the first is ours, class names are the JVM's.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal $(| $alias:literal)*,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $text,)+ })
            }
        }

        impl Value for $name {
            fn parse(text: &str, _: &RangeInclusive<i64>) -> Result<Self, String> {
                $(if [$text $(, $alias)*].iter().any(|spelling| text.eq_ignore_ascii_case(spelling)) {
                    return Ok(Self::$variant);
                })+
                Err(refusal(text, &[$($text),+]))
            }
        }

        impl Value for Option<$name> {
            fn parse(text: &str, range: &RangeInclusive<i64>) -> Result<Self, String> {
                if text.is_empty() { Ok(None) } else { $name::parse(text, range).map(Some) }
            }
        }
    };
}

fn refusal(text: &str, known: &[&str]) -> String {
    let known = known.join(", ");
    let word = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if text.contains('.') && !word {
        format!(
            "is a class of the JVM that has no equal here: set one of {known}, or pass your own code to the application"
        )
    } else {
        format!("must be one of {known}")
    }
}

choice!(
    /// What is promised about each input record.
    ProcessingGuarantee {
        /// It is processed, and after a failure perhaps again.
        AtLeastOnce = "at_least_once",
        /// Its effects are seen once, by readers that read committed records only (KIP-447).
        ExactlyOnceV2 = "exactly_once_v2",
    }
);

choice!(
    /// What happens after a record failed.
    ///
    /// With `errors.dead.letter.queue.topic.name` set the record goes there as well, under either policy (KIP-1034).
    ErrorPolicy {
        /// The application stops with the error.
        Fail = "fail"
            | "org.apache.kafka.streams.errors.LogAndFailExceptionHandler"
            | "org.apache.kafka.streams.errors.LogAndFailProcessingExceptionHandler"
            | "org.apache.kafka.streams.errors.DefaultProductionExceptionHandler",
        /// The record is logged, counted and left out.
        Continue = "continue"
            | "org.apache.kafka.streams.errors.LogAndContinueExceptionHandler"
            | "org.apache.kafka.streams.errors.LogAndContinueProcessingExceptionHandler",
    }
);

choice!(
    /// What happens to a record without a valid timestamp.
    TimestampPolicy {
        /// The application stops.
        Fail = "fail" | "org.apache.kafka.streams.processor.FailOnInvalidTimestamp",
        /// The record is logged, counted and left out.
        Skip = "skip" | "org.apache.kafka.streams.processor.LogAndSkipOnInvalidTimestamp",
        /// It gets the highest timestamp seen in its partition.
        PartitionTime = "partition_time" | "org.apache.kafka.streams.processor.UsePartitionTimeOnInvalidTimestamp",
        /// Every record, also one with a timestamp, gets the time at which it is read.
        WallClock = "wall_clock" | "org.apache.kafka.streams.processor.WallclockTimestampExtractor",
    }
);

choice!(
    /// Where stores that do not say otherwise keep their rows.
    StoreKind {
        /// On disk.
        Persistent = "persistent"
            | "rocksDB"
            | "org.apache.kafka.streams.state.BuiltInDslStoreSuppliers$RocksDBDslStoreSuppliers",
        /// In memory.
        InMemory = "in_memory"
            | "org.apache.kafka.streams.state.BuiltInDslStoreSuppliers$InMemoryDslStoreSuppliers",
    }
);

choice!(
    /// What keeps the rows of stores on disk.
    StateEngine {
        /// fjall, a tree of sorted files that are merged in the background.
        Fjall = "fjall",
        /// sled, a tree of pages. It takes more memory for large state.
        Sled = "sled",
    }
);

choice!(
    /// How brokers are reached.
    SecurityProtocol {
        /// Unencrypted, and without saying who the client is.
        Plaintext = "PLAINTEXT",
        /// By TLS.
        Ssl = "SSL",
        /// Unencrypted, with SASL.
        SaslPlaintext = "SASL_PLAINTEXT",
        /// By TLS, with SASL.
        SaslSsl = "SASL_SSL",
    }
);

choice!(
    /// How a client says who it is.
    SaslMechanism {
        /// A user and its password (RFC 4616).
        Plain = "PLAIN",
        /// A proof that the client knows a user's password (RFC 7677).
        ScramSha256 = "SCRAM-SHA-256",
        /// The same with the longer hash.
        ScramSha512 = "SCRAM-SHA-512",
        /// A token (RFC 7628).
        OAuthBearer = "OAUTHBEARER",
    }
);

choice!(
    /// Which figures are kept (`org.apache.kafka.common.metrics.Sensor.RecordingLevel`).
    RecordingLevel {
        /// Those of the client, workers, tasks and topics.
        Info = "INFO",
        /// Those of nodes, stores and caches too.
        Debug = "DEBUG",
        /// All.
        Trace = "TRACE",
    }
);

choice!(
    /// Which records a consumer sees.
    IsolationLevel {
        /// All, also those of open and aborted transactions.
        ReadUncommitted = "read_uncommitted",
        /// Those of committed transactions, and those written without one.
        ReadCommitted = "read_committed",
    }
);

choice!(
    /// How batches are compressed.
    Compression {
        /// Not at all.
        None = "none",
        /// gzip.
        Gzip = "gzip",
        /// Snappy.
        Snappy = "snappy",
        /// LZ4.
        Lz4 = "lz4",
        /// Zstandard.
        Zstd = "zstd",
    }
);

/// Where reading begins when there is no committed offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OffsetReset {
    /// At the oldest record.
    Earliest,
    /// After the newest record.
    Latest,
    /// Nowhere: it is an error.
    None,
    /// At the first record that is not older than this (KIP-1106).
    ByDuration(Duration),
}

impl fmt::Display for OffsetReset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Earliest => f.write_str("earliest"),
            Self::Latest => f.write_str("latest"),
            Self::None => f.write_str("none"),
            Self::ByDuration(age) => {
                write!(f, "by_duration:PT{}.{:09}S", age.as_secs(), age.subsec_nanos())
            }
        }
    }
}

impl Value for OffsetReset {
    fn parse(text: &str, _: &RangeInclusive<i64>) -> Result<Self, String> {
        const KNOWN: &str =
            "must be earliest, latest, none, or by_duration: with an ISO 8601 duration such as P1DT2H";
        match text {
            "earliest" => Ok(Self::Earliest),
            "latest" => Ok(Self::Latest),
            "none" => Ok(Self::None),
            _ => text
                .strip_prefix("by_duration:")
                .and_then(iso_duration)
                .map(Self::ByDuration)
                .ok_or_else(|| KNOWN.to_owned()),
        }
    }
}

/// `PnDTnHnMn.nS`, as `java.time.Duration.parse` without signs.
fn iso_duration(text: &str) -> Option<Duration> {
    let text = text.to_ascii_uppercase();
    let text = text.strip_prefix('P')?;
    let (days, time) = match text.split_once('T') {
        Some((_, "")) => return None,
        Some(parts) => parts,
        None => (text, ""),
    };
    let mut total = Duration::ZERO;
    let mut add = |part: &str, units: &[(char, u64)]| {
        let (mut rest, mut units) = (part, units.iter());
        while !rest.is_empty() {
            let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
            let unit = rest[end..].chars().next()?;
            let (_, seconds) = units.find(|(name, _)| *name == unit)?;
            let (whole, part) = rest[..end].split_once('.').unwrap_or((&rest[..end], ""));
            if !part.is_empty() && unit != 'S' || part.len() > 9 {
                return None;
            }
            let nanos = if part.is_empty() { 0 } else { format!("{part:0<9}").parse().ok()? };
            let seconds = whole.parse::<u64>().ok()?.checked_mul(*seconds)?;
            total = total.checked_add(Duration::new(seconds, nanos))?;
            rest = &rest[end + 1..];
        }
        Some(())
    };
    add(days, &[('D', 86_400)])?;
    add(time, &[('H', 3_600), ('M', 60), ('S', 1)])?;
    (!text.is_empty()).then_some(total)
}

/// Which rewrites the optimizer may make (`topology.optimization`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Optimizations {
    /// A table's source topic is its changelog.
    pub reuse_source_topics: bool,
    /// Several repartitions after one change of key become one.
    pub merge_repartition_topics: bool,
    /// A join of a stream with itself needs one store.
    pub single_store_self_join: bool,
}

impl Optimizations {
    /// None of them.
    pub const NONE: Self =
        Self { reuse_source_topics: false, merge_repartition_topics: false, single_store_self_join: false };
    /// All of them.
    pub const ALL: Self =
        Self { reuse_source_topics: true, merge_repartition_topics: true, single_store_self_join: true };
    const NAMES: [&str; 3] =
        ["reuse.ktable.source.topics", "merge.repartition.topics", "single.store.self.join"];
}

impl fmt::Display for Optimizations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = [self.reuse_source_topics, self.merge_repartition_topics, self.single_store_self_join];
        match *self {
            Self::NONE => f.write_str("none"),
            Self::ALL => f.write_str("all"),
            _ => {
                let names = Self::NAMES.iter().zip(on).filter_map(|(name, on)| on.then_some(*name));
                f.write_str(&names.collect::<Vec<_>>().join(","))
            }
        }
    }
}

impl Value for Optimizations {
    fn parse(text: &str, range: &RangeInclusive<i64>) -> Result<Self, String> {
        let mut chosen = Self::NONE;
        match &Vec::<String>::parse(text, range)?[..] {
            [one] if one == "none" => {}
            [one] if one == "all" => chosen = Self::ALL,
            several => {
                for name in several {
                    match name.as_str() {
                        "reuse.ktable.source.topics" => chosen.reuse_source_topics = true,
                        "merge.repartition.topics" => chosen.merge_repartition_topics = true,
                        "single.store.self.join" => chosen.single_store_self_join = true,
                        _ => {
                            return Err(format!(
                                "must be all, none, or a list of {}",
                                Self::NAMES.join(", ")
                            ));
                        }
                    }
                }
                if several.is_empty() {
                    return Err("must not be empty: set all or none".to_owned());
                }
            }
        }
        Ok(chosen)
    }
}
