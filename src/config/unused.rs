//! The properties of Kafka Streams and its clients that do nothing here: some are accepted with a warning, some may only
//! have the value that the library needs.

/// A property that does nothing here.
#[cfg_attr(not(test), allow(dead_code, reason = "the default is read by the test of docs/CONFIG.md"))]
pub(super) struct Unused {
    /// The name; a trailing `*` stands for any end.
    pub(super) name: &'static str,
    /// What Kafka Streams does when it is not set.
    pub(super) java: &'static str,
    pub(super) rule: Rule,
    /// Why, as a sentence.
    pub(super) why: &'static str,
}

/// What happens to somebody who sets one.
#[derive(Clone, Copy)]
pub(super) enum Rule {
    /// A warning.
    Ignored,
    /// An error, except for these values, which change nothing.
    Fixed(&'static [&'static str]),
    /// A warning, and the other property is set unless it is set itself.
    Renamed(&'static str),
}

impl Unused {
    pub(super) fn matches(&self, name: &str) -> bool {
        match self.name.strip_suffix('*') {
            Some(family) => name.starts_with(family),
            None => name == self.name,
        }
    }
}

const fn ignored(name: &'static str, java: &'static str, why: &'static str) -> Unused {
    Unused { name, java, rule: Rule::Ignored, why }
}

const fn fixed(
    name: &'static str,
    java: &'static str,
    values: &'static [&'static str],
    why: &'static str,
) -> Unused {
    Unused { name, java, rule: Rule::Fixed(values), why }
}

const fn renamed(name: &'static str, java: &'static str, to: &'static str, why: &'static str) -> Unused {
    Unused { name, java, rule: Rule::Renamed(to), why }
}

const BY_TYPE: &str =
    "Serdes are chosen by type: DefaultSerde, or Consumed, Grouped, Materialized and Produced.";
const METRICS: &str = "Figures go to the recorder of the metrics facade, not to JMX: see docs/METRICS.md.";
const RACKS: &str = "Assignments do not look at racks; rack.aware.assignment.tags spreads standby copies.";
const SOCKET: &str = "The operating system sizes socket buffers.";
const IDEMPOTENT: &str = "Records are always written idempotently, with acks=all.";
const TLS: &str = "A setting of the JVM's TLS; rustls is used here.";
const STORE_PASSWORD: &str =
    "A store in PEM has no password of its own; ssl.key.password is that of the key.";
const LOGIN: &str =
    "A class of the JVM: pass an OAuthTokenProvider, or set sasl.oauthbearer.token.endpoint.url to a file.";
const KERBEROS: &str = "Kerberos (GSSAPI) is not spoken here.";
const REFRESH: &str = "A token is asked for when a connection needs one, and again before its session ends.";
const OVER_HTTP: &str = "Tokens are not fetched over HTTP: pass an OAuthTokenProvider that does.";
const BROKERS: &str = "Brokers check tokens.";
const PARTITIONER: &str = "Records go where Kafka's default partitioner sends them, or where Produced says.";

pub(super) static UNUSED: &[Unused] = &[
    renamed("cache.max.bytes.buffering", "10485760", "statestore.cache.max.bytes", "The old name."),
    renamed(
        "default.deserialization.exception.handler",
        "LogAndFailExceptionHandler",
        "deserialization.exception.handler",
        "The old name.",
    ),
    renamed(
        "default.production.exception.handler",
        "DefaultProductionExceptionHandler",
        "production.exception.handler",
        "The old name.",
    ),
    renamed(
        "dsl.store.suppliers.class",
        "RocksDBDslStoreSuppliers",
        "default.dsl.store",
        "The built-in suppliers only; Materialized names others.",
    ),
    renamed(
        "max.poll.interval.ms",
        "300000",
        "max.processing.time.ms",
        "Its other half is rebalance.timeout.ms.",
    ),
    fixed("group.protocol", "classic", &["classic"], "Only the classic group protocol is spoken."),
    fixed("ssl.truststore.password", "(none)", &[], STORE_PASSWORD),
    fixed("ssl.keystore.password", "(none)", &[], STORE_PASSWORD),
    fixed(
        "ssl.cipher.suites",
        "(none)",
        &[""],
        "The suites are those of rustls, all of which have forward secrecy.",
    ),
    fixed("ssl.engine.factory.class", "(none)", &[""], TLS),
    fixed(
        "sasl.login.callback.handler.class",
        "(none)",
        &[
            "",
            "org.apache.kafka.common.security.oauthbearer.oauthbearerlogincallbackhandler",
            "org.apache.kafka.common.security.oauthbearer.secured.oauthbearerlogincallbackhandler",
            "org.apache.kafka.common.security.oauthbearer.internals.unsecured.oauthbearerunsecuredlogincallbackhandler",
        ],
        LOGIN,
    ),
    fixed("sasl.client.callback.handler.class", "(none)", &[""], LOGIN),
    fixed("sasl.login.class", "(none)", &[""], LOGIN),
    fixed(
        "sasl.oauthbearer.jwt.retriever.class",
        "DefaultJwtRetriever",
        &[
            "org.apache.kafka.common.security.oauthbearer.defaultjwtretriever",
            "org.apache.kafka.common.security.oauthbearer.filejwtretriever",
        ],
        LOGIN,
    ),
    fixed("sasl.oauthbearer.client.credentials.client.id", "(none)", &[""], OVER_HTTP),
    fixed("sasl.oauthbearer.client.credentials.client.secret", "(none)", &[""], OVER_HTTP),
    fixed("sasl.oauthbearer.scope", "(none)", &[""], OVER_HTTP),
    fixed("sasl.oauthbearer.assertion.*", "(none)", &[""], OVER_HTTP),
    fixed("enable.auto.commit", "false", &["false"], "Offsets are committed together with the state."),
    fixed(
        "allow.auto.create.topics",
        "false",
        &["false"],
        "A missing source topic is an error and not made by accident.",
    ),
    fixed("group.id", "<application.id>", &[], "The group's id is application.id."),
    fixed(
        "transactional.id",
        "(generated)",
        &[],
        "Made from application.id and the instance, to fence the old one.",
    ),
    fixed(
        "partition.assignment.strategy",
        "StreamsPartitionAssignor",
        &[],
        "Tasks are assigned by the library.",
    ),
    fixed("group.remote.assignor", "(none)", &[], "Tasks are assigned by the library."),
    fixed("acks", "all", &["all", "-1"], IDEMPOTENT),
    fixed("enable.idempotence", "true", &["true"], IDEMPOTENT),
    fixed("check.crcs", "true", &["true"], "Batches are always checked."),
    fixed("config.providers", "(empty)", &[""], "Placeholders are not replaced; resolve them before."),
    fixed("config.providers.*", "(none)", &[], "Placeholders are not replaced; resolve them before."),
    fixed(
        "transaction.two.phase.commit.enable",
        "false",
        &["false"],
        "Transactions are committed by the library.",
    ),
    fixed("dsl.store.format", "DEFAULT", &["default"], "Stores do not keep headers yet (KIP-1271)."),
    ignored("default.key.serde", "(none)", BY_TYPE),
    ignored("default.value.serde", "(none)", BY_TYPE),
    ignored("default.list.key.serde.inner", "(none)", BY_TYPE),
    ignored("default.list.key.serde.type", "(none)", BY_TYPE),
    ignored("default.list.value.serde.inner", "(none)", BY_TYPE),
    ignored("default.list.value.serde.type", "(none)", BY_TYPE),
    ignored("key.deserializer", "ByteArrayDeserializer", BY_TYPE),
    ignored("value.deserializer", "ByteArrayDeserializer", BY_TYPE),
    ignored("key.serializer", "ByteArraySerializer", BY_TYPE),
    ignored("value.serializer", "ByteArraySerializer", BY_TYPE),
    ignored("window.size.ms", "(none)", BY_TYPE),
    ignored("windowed.inner.class.serde", "(none)", BY_TYPE),
    ignored("metric.reporters", "JmxReporter", METRICS),
    ignored("metrics.num.samples", "2", METRICS),
    ignored("metrics.sample.window.ms", "30000", METRICS),
    ignored("metrics.context.*", "(none)", METRICS),
    ignored("built.in.metrics.version", "latest", METRICS),
    ignored("enable.metrics.push", "true", "Metrics are not sent to brokers (KIP-714)."),
    ignored("auto.include.jmx.reporter", "true", METRICS),
    ignored("rocksdb.config.setter", "(none)", "There is no RocksDB here."),
    ignored("processor.wrapper.class", "NoOpProcessorWrapper", "A class of the JVM."),
    ignored("default.client.supplier", "DefaultKafkaClientSupplier", "A class of the JVM."),
    ignored("task.assignor.class", "(none)", "A class of the JVM."),
    ignored("internal.task.assignor.class", "(none)", "A class of the JVM."),
    ignored("interceptor.classes", "(empty)", "A class of the JVM."),
    ignored("security.providers", "(none)", "A class of the JVM."),
    ignored("upgrade.from", "(none)", "Members of the JVM's versions cannot share a group with ours."),
    ignored("allow.os.group.write.access", "false", "The umask decides."),
    ignored("rack.aware.assignment.strategy", "none", RACKS),
    ignored("rack.aware.assignment.traffic_cost", "(none)", RACKS),
    ignored("rack.aware.assignment.non_overlap_cost", "(none)", RACKS),
    ignored("send.buffer.bytes", "131072", SOCKET),
    ignored("receive.buffer.bytes", "32768", SOCKET),
    ignored("socket.connection.setup.timeout.max.ms", "30000", "The timeout does not grow."),
    ignored("client.dns.lookup", "use_all_dns_ips", "All addresses of a host are tried."),
    ignored("metadata.recovery.strategy", "rebootstrap", "The bootstrap servers are always asked again."),
    ignored("metadata.max.idle.ms", "300000", "Topics are known for as long as they are used."),
    ignored(
        "buffered.records.per.partition",
        "1000",
        "The queues are bounded in bytes: input.buffer.max.bytes. A number of records does not bound memory.",
    ),
    ignored(
        "max.block.ms",
        "60000",
        "A worker waits for room in buffer.memory until what fills it is acknowledged or has failed: delivery.timeout.ms. \
         Topics are looked up within default.api.timeout.ms.",
    ),
    ignored("max.poll.records", "1000", "Batches are handed over whole; the queues are bounded."),
    ignored("auto.commit.interval.ms", "5000", "Offsets are committed every commit.interval.ms."),
    ignored("exclude.internal.topics", "true", "Sources are named."),
    ignored("retries", "2147483647", "delivery.timeout.ms and default.api.timeout.ms bound retries."),
    ignored("compression.lz4.level", "9", "LZ4 has one level here."),
    ignored("partitioner.class", "(none)", PARTITIONER),
    ignored("partitioner.ignore.keys", "false", PARTITIONER),
    ignored("partitioner.adaptive.partitioning.enable", "true", PARTITIONER),
    ignored("partitioner.availability.timeout.ms", "0", PARTITIONER),
    ignored("bootstrap.controllers", "(empty)", "Admin calls go to brokers."),
    ignored("share.acknowledgement.mode", "implicit", "There are no share groups here."),
    ignored("share.acquire.mode", "batch_optimized", "There are no share groups here."),
    ignored("internal.throw.on.fetch.stable.offset.unsupported", "true", "An internal of the JVM's clients."),
    ignored("__iq.consistency.offset.vector.enabled__", "false", "An internal of the JVM."),
    ignored("__processing.threads.enabled__", "false", "An internal of the JVM."),
    ignored("__enable.process.processValue.fix__", "false", "An internal of the JVM."),
    ignored("__state.updater.enabled__", "true", "An internal of the JVM."),
    fixed(
        "__internal.override.topic.prefix__",
        "<application.id>",
        &[],
        "Internal topics begin with application.id.",
    ),
    ignored("ssl.protocol", "TLSv1.3", "ssl.enabled.protocols says which versions are spoken."),
    ignored("ssl.provider", "(none)", TLS),
    ignored("ssl.keymanager.algorithm", "SunX509", TLS),
    ignored("ssl.trustmanager.algorithm", "PKIX", TLS),
    ignored("ssl.secure.random.implementation", "(none)", TLS),
    ignored("sasl.kerberos.*", "(none)", KERBEROS),
    ignored("sasl.login.refresh.*", "(some)", REFRESH),
    ignored(
        "sasl.login.retry.*",
        "(some)",
        "reconnect.backoff.ms and reconnect.backoff.max.ms govern new attempts.",
    ),
    ignored("sasl.login.connect.timeout.ms", "(none)", OVER_HTTP),
    ignored("sasl.login.read.timeout.ms", "(none)", OVER_HTTP),
    ignored("sasl.oauthbearer.header.urlencode", "false", OVER_HTTP),
    ignored("sasl.oauthbearer.jwt.validator.class", "DefaultJwtValidator", BROKERS),
    ignored("sasl.oauthbearer.scope.claim.name", "scope", BROKERS),
    ignored("sasl.oauthbearer.sub.claim.name", "sub", BROKERS),
    ignored("sasl.oauthbearer.jwks.*", "(some)", BROKERS),
    ignored("sasl.oauthbearer.expected.*", "(none)", BROKERS),
    ignored("sasl.oauthbearer.clock.skew.seconds", "30", BROKERS),
];

/// The settings of topics that Kafka 4.3 knows, for `topic.`. A broker may know others, so an unknown one is a warning.
pub(super) static TOPIC: &[&str] = &[
    "cleanup.policy",
    "compression.gzip.level",
    "compression.lz4.level",
    "compression.type",
    "compression.zstd.level",
    "delete.retention.ms",
    "file.delete.delay.ms",
    "flush.messages",
    "flush.ms",
    "index.interval.bytes",
    "local.retention.bytes",
    "local.retention.ms",
    "max.compaction.lag.ms",
    "max.message.bytes",
    "message.downconversion.enable",
    "message.timestamp.after.max.ms",
    "message.timestamp.before.max.ms",
    "message.timestamp.type",
    "min.cleanable.dirty.ratio",
    "min.compaction.lag.ms",
    "min.insync.replicas",
    "preallocate",
    "remote.log.copy.disable",
    "remote.log.delete.on.disable",
    "remote.storage.enable",
    "retention.bytes",
    "retention.ms",
    "segment.bytes",
    "segment.index.bytes",
    "segment.jitter.ms",
    "segment.ms",
    "unclean.leader.election.enable",
];
