//! The properties that do something here.

use super::section::{
    Lookup, Property, Scope, argument, got, range, resolve, returned, section, shown, stored,
};
use super::value::{
    Compression, ErrorPolicy, IsolationLevel, OffsetReset, Optimizations, ProcessingGuarantee,
    RecordingLevel, SaslMechanism, SecurityProtocol, StateEngine, StoreKind, TimestampPolicy,
};
use super::{Config, ConfigBuilder, ConnectionConfig, ConsumerConfig, ProducerConfig};

/// Kafka's protocol counts milliseconds and sizes in 32 bits.
const I32: std::ops::RangeInclusive<i64> = 0..=i32::MAX as i64;
const POSITIVE_I32: std::ops::RangeInclusive<i64> = 1..=i32::MAX as i64;

section! {
    /// The application's own values.
    ApplicationValues, Application, getters on Config [.application], rows APPLICATION;

    /// The name of the application: the id of its consumer group and the beginning of its internal topics' names.
    application_id: [text] = "application.id", java "(required)", "";
    /// Brokers to begin with, as host:port; the others are learned from them.
    bootstrap_servers: [list] = "bootstrap.servers", java "(required)", "";
    /// The name the brokers see in logs and quotas. Not set: the application's id; the JVM appends a random UUID, which no quota can name.
    client_id: [text] = "client.id", java "<application.id>-<random UUID>", "";
    /// The number of workers, each a thread that owns whole tasks.
    workers: [count] = "num.stream.threads", java "1", "1", 1..=1024;
    /// At least once or exactly once. Exactly once needs brokers from 2.5.
    processing_guarantee: [choice ProcessingGuarantee] = "processing.guarantee", java "at_least_once", "at_least_once";
    /// The longest time between commits. Exactly once, not set: 100 ms, as on the JVM, and down to 10 ms where commits are quick. At least once it is shorter than the JVM's 30 s, because a commit is cheap here and what lies behind the last one is processed again after a crash.
    commit_interval: [millis] = "commit.interval.ms", java "30000 (exactly once: 100)", "1000";
    /// The bytes of memory that records and state of an instance may take together: statestore.cache.max.bytes, state.memory.max.bytes, input.buffer.max.bytes, and buffer.memory of each worker. Those of them that are not set get their parts of what the others leave, in proportion to their defaults. 0: they say themselves how much it is.
    memory: [count] = "memory.max.bytes", java "(no such property)", "0";
    /// The bytes that record caches of the whole application may take; 0 turns them off.
    cache_bytes: [count] = "statestore.cache.max.bytes", java "10485760", "10485760";
    /// The bytes of memory that stores on disk may take, record caches aside: rows as values, changes on their way to the disk, what engines keep of their files, what restores gather. Rows go, commits come early, and workers wait before it is more.
    state_memory: [count] = "state.memory.max.bytes", java "(RocksDB: 50 MiB of block cache and 48 MiB of write buffers a store)", "268435456", 1048576..=i64::MAX;
    /// The bytes waiting in all queues of the application after which partitions with records are not fetched any more (KIP-770). Bounds the memory, which a number of records does not.
    buffered_bytes: [count] = "input.buffer.max.bytes", java "(no such property)", "67108864", 1..=i64::MAX;
    /// How long a task waits for records of an empty input whose broker has none, so that inputs are merged in time order. 0 waits for what the broker has already; -1 never waits and gives the order up.
    max_task_idle: [maybe_millis] = "max.task.idle.ms", java "0", "0";
    /// How long a task may be stuck in retries before that is an error; 0 fails at the first.
    task_timeout: [millis] = "task.timeout.ms", java "300000", "300000";
    /// The longest time that user code may keep a worker from its loop; past it the worker is left behind, and its tasks are built anew on another, which takes its place. The instance stays in the group. On the JVM max.poll.interval.ms does this and bounds rebalances as well.
    max_processing_time: [millis] = "max.processing.time.ms", java "300000 (max.poll.interval.ms)", "300000", POSITIVE_I32;
    /// How long a rebalance waits for a member. Short, because members answer from their own thread and not between two polls.
    rebalance_timeout: [millis] = "rebalance.timeout.ms", java "300000 (max.poll.interval.ms)", "15000", POSITIVE_I32;
    /// How long a worker without records sleeps before it looks at its timers again.
    poll: [millis] = "poll.ms", java "100", "100", 1..=i64::MAX;
    /// Which rewrites of the topology the optimizer may make: all, none, or a list. An application refuses all but none, because there is no optimizer yet.
    topology_optimization: [choice Optimizations] = "topology.optimization", java "none", "none";
    /// Whether topics and stores of stateful operators must be named. A generated name moves when somebody inserts an operator, and the state behind it is lost; so it is refused unless this is false.
    explicit_naming: [flag] = "ensure.explicit.internal.resource.naming", java "false", "true";
    /// The folder of local state. Not set: $XDG_STATE_HOME/mainstem or ~/.local/state/mainstem (macOS: ~/Library/Application Support/mainstem; Windows: %LOCALAPPDATA%/mainstem). Never a temporary folder, which a restart may empty.
    state_dir: [path] = "state.dir", java "${java.io.tmpdir}/kafka-streams", "";
    /// How long the state of a task that has moved away is kept, and how long after the start nothing is deleted. Stores that the topology does not name, and those without a changelog, stay: mainstem state rm deletes them.
    state_cleanup_delay: [millis] = "state.cleanup.delay.ms", java "600000", "600000";
    /// At start, stores of the topology that nobody has used for longer are deleted, those without a changelog too; -1 keeps them. After a kill the time is up to a minute too old.
    state_max_age: [maybe_millis] = "state.cleanup.dir.max.age.ms", java "-1", "-1";
    /// Where stores that do not say otherwise keep their rows: persistent or in_memory.
    default_store: [choice StoreKind] = "default.dsl.store", java "rocksDB", "persistent";
    /// What keeps the rows of persistent stores: fjall or sled. State that another one has written stays on disk and is not read: stores are restored from their changelogs.
    state_engine: [choice StateEngine] = "state.engine", java "(RocksDB)", "fjall";
    /// The replication factor of internal topics; -1 is the broker's default.
    replication_factor: [int] = "replication.factor", java "-1", "-1", -1..=i16::MAX as i64;
    /// The standby copies of each task's state.
    standby_replicas: [count] = "num.standby.replicas", java "0", "0", 0..=1024;
    /// The copies that may warm up at the same time before their task moves to them.
    warmup_replicas: [count] = "max.warmup.replicas", java "2", "2", 1..=1024;
    /// The changelog records a copy may lack and still count as caught up.
    acceptable_recovery_lag: [long] = "acceptable.recovery.lag", java "10000", "10000";
    /// How often warm copies are looked at while an assignment is not balanced.
    probing_rebalance_interval: [millis] = "probing.rebalance.interval.ms", java "600000", "600000", 60_000..=i64::MAX;
    /// The client tags over which standby copies are spread; each needs its client.tag.
    rack_aware_tags: [list] = "rack.aware.assignment.tags", java "(empty)", "";
    /// host:port under which other instances reach this one's queries.
    application_server: [maybe_text] = "application.server", java "(empty)", "";
    /// What happens to a record whose bytes cannot be read: fail or continue.
    deserialization_errors: [choice ErrorPolicy] = "deserialization.exception.handler", java "LogAndFailExceptionHandler", "fail";
    /// What happens to a record that user code fails on: fail or continue.
    processing_errors: [choice ErrorPolicy] = "processing.exception.handler", java "LogAndFailProcessingExceptionHandler", "fail";
    /// What happens to a record that cannot be written: fail or continue. What may succeed later is tried again first.
    production_errors: [choice ErrorPolicy] = "production.exception.handler", java "DefaultProductionExceptionHandler", "fail";
    /// Whether processing.exception.handler also covers global tables.
    processing_errors_global: [flag] = "processing.exception.handler.global.enabled", java "false", "false";
    /// The topic for failed records (KIP-1034). It must exist. Not set: none.
    dead_letter_topic: [maybe_text] = "errors.dead.letter.queue.topic.name", java "(none)", "";
    /// What happens to a record without a valid timestamp: fail, skip, partition_time, or wall_clock for all records.
    timestamp_policy: [choice TimestampPolicy] = "default.timestamp.extractor", java "FailOnInvalidTimestamp", "fail";
    /// How often processed records of repartition topics are deleted.
    repartition_purge_interval: [millis] = "repartition.purge.interval.ms", java "30000", "30000";
    /// Added to the retention of a window store's changelog, for clocks that differ.
    changelog_additional_retention: [millis] = "windowstore.changelog.additional.retention.ms", java "86400000", "86400000";
    /// How often a summary is logged; -1 never.
    log_summary_interval: [maybe_millis] = "log.summary.interval.ms", java "120000", "120000";
    /// Which figures are kept: INFO, DEBUG (those of nodes, stores and caches too) or TRACE. See docs/METRICS.md.
    recording_level: [choice RecordingLevel] = "metrics.recording.level", java "INFO", "INFO";
    /// How often unmatched records of outer joins are looked for; 0 at every record. Internal, for tests.
    outer_join_emit_interval: [millis] = "__emit.interval.ms.kstreams.outer.join.spurious.results.fix__", java "1000", "1000";
    /// How often closed windows are looked for when results are emitted on close; 0 at every record. Internal, for tests.
    window_emit_interval: [millis] = "__emit.interval.ms.kstreams.windowed.aggregation__", java "1000", "1000";
}

section! {
    /// What every client has.
    ConnectionValues, Connection, getters on ConnectionConfig [.values], rows CONNECTION;

    /// How long to wait for the answer to one request.
    request_timeout: [millis] = "request.timeout.ms", java "30000 (StreamsConfig says 40000 and does not pass it on)", "30000", POSITIVE_I32;
    /// How long a call may take with all its retries.
    api_timeout: [millis] = "default.api.timeout.ms", java "60000", "60000", POSITIVE_I32;
    /// The pause before the first retry; it doubles with each.
    retry_backoff: [millis] = "retry.backoff.ms", java "100", "100";
    /// The longest pause between retries.
    retry_backoff_max: [millis] = "retry.backoff.max.ms", java "1000", "1000";
    /// The pause before the first new attempt to reach a broker; it doubles with each.
    reconnect_backoff: [millis] = "reconnect.backoff.ms", java "50", "50";
    /// The longest pause between attempts to reach a broker.
    reconnect_backoff_max: [millis] = "reconnect.backoff.max.ms", java "1000", "1000";
    /// How long to wait for a connection.
    connect_timeout: [millis] = "socket.connection.setup.timeout.ms", java "10000", "10000", 1..=i64::MAX;
    /// A connection that was idle for so long is opened anew when it is needed again.
    connection_max_idle: [millis] = "connections.max.idle.ms", java "540000", "540000", 1..=i64::MAX;
    /// After this time what is known of a topic is asked again.
    metadata_max_age: [millis] = "metadata.max.age.ms", java "300000", "300000";
    /// When no broker has answered with metadata for this long, the bootstrap servers are asked again (KIP-1102).
    rebootstrap_trigger: [millis] = "metadata.recovery.rebootstrap.trigger.ms", java "300000", "300000";
}

section! {
    /// Who a client is, and whom it trusts. docs/SECURITY.md says how to reach which listener.
    SecurityValues, Connection, getters on ConnectionConfig [.secured], rows SECURITY;

    /// How brokers are reached: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL. See docs/SECURITY.md.
    security_protocol: [choice SecurityProtocol] = "security.protocol", java "PLAINTEXT", "PLAINTEXT";
    /// The format of the trust store; JKS and PKCS12 are refused.
    ssl_truststore_type: [text] = "ssl.truststore.type", java "JKS", "PEM";
    /// A PEM file with the authorities that brokers' certificates come from. Not set: those that this machine trusts.
    ssl_truststore_location: [maybe_text] = "ssl.truststore.location", java "(none)", "";
    /// The authorities themselves, in PEM.
    ssl_truststore_certificates: [maybe_text] = "ssl.truststore.certificates", java "(none)", "";
    /// The format of the key store; JKS and PKCS12 are refused.
    ssl_keystore_type: [text] = "ssl.keystore.type", java "JKS", "PEM";
    /// A PEM file with the client's certificate, its chain and its key. Not set: the client has none.
    ssl_keystore_location: [maybe_text] = "ssl.keystore.location", java "(none)", "";
    /// The client's certificate and its chain, in PEM.
    ssl_keystore_certificate_chain: [maybe_text] = "ssl.keystore.certificate.chain", java "(none)", "";
    /// The client's key, in PEM: PKCS#8, encrypted or not, and unencrypted PKCS#1 and SEC1.
    ssl_keystore_key: [secret] = "ssl.keystore.key", java "(none)", "";
    /// What the client's key is encrypted with, in a file or not.
    ssl_key_password: [secret] = "ssl.key.password", java "(none)", "";
    /// https: a broker's certificate must be for the host it is reached at; empty: it need not (KIP-294).
    ssl_endpoint_identification_algorithm: [text] = "ssl.endpoint.identification.algorithm", java "https", "https";
    /// The versions of TLS.
    ssl_enabled_protocols: [list] = "ssl.enabled.protocols", java "TLSv1.2,TLSv1.3", "TLSv1.2,TLSv1.3";
    /// How the client says who it is: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER.
    sasl_mechanism: [maybe SaslMechanism] = "sasl.mechanism", java "GSSAPI", "";
    /// The login module of the mechanism on the JVM, with user and password.
    sasl_jaas_config: [secret] = "sasl.jaas.config", java "(none)", "";
    /// file:///path/to/token, a file that OAUTHBEARER's tokens are read from. Not over HTTP.
    sasl_oauthbearer_token_endpoint_url: [maybe_text] = "sasl.oauthbearer.token.endpoint.url", java "(none)", "";
}

section! {
    /// What consumers have.
    ConsumerValues, Consumer, getters on ConsumerConfig [.values], rows CONSUMER;

    /// Where reading begins without a committed offset: earliest, latest, none, by_duration:P1D.
    auto_offset_reset: [choice OffsetReset] = "auto.offset.reset", java "earliest", "earliest";
    /// Which records are seen. Always read_committed under exactly once, and in changelogs.
    isolation_level: [choice IsolationLevel] = "isolation.level", java "read_uncommitted", "read_uncommitted";
    /// A name of this instance that survives restarts: a member that comes back in time keeps its tasks (KIP-345). Not set: none.
    group_instance_id: [maybe_text] = "group.instance.id", java "(none)", "";
    /// After this time without a heartbeat the broker gives the member up.
    session_timeout: [millis] = "session.timeout.ms", java "45000", "45000", POSITIVE_I32;
    /// The time between heartbeats.
    heartbeat_interval: [millis] = "heartbeat.interval.ms", java "3000", "3000", POSITIVE_I32;
    /// The bytes the broker waits for before it answers a fetch.
    fetch_min_bytes: [int] = "fetch.min.bytes", java "1", "1", I32;
    /// The bytes of one fetch. Restore and global consumers, not set: 33554432. Smaller for live records than on the JVM, because queues are bounded in bytes; one batch is always read, however large.
    fetch_max_bytes: [int] = "fetch.max.bytes", java "52428800", "8388608", I32;
    /// How long the broker waits for fetch.min.bytes.
    fetch_max_wait: [millis] = "fetch.max.wait.ms", java "500", "500", I32;
    /// The bytes of one partition in a fetch. Restore and global consumers, not set: 8388608.
    max_partition_fetch_bytes: [int] = "max.partition.fetch.bytes", java "1048576", "1048576", I32;
    /// Where this process stands; with it, records are read from a replica in the same rack (KIP-392). Not set: none.
    client_rack: [maybe_text] = "client.rack", java "(empty)", "";
}

section! {
    /// What the producer has.
    ProducerValues, Producer, getters on ProducerConfig [.values], rows PRODUCER;

    /// How long a record waits for others to share its batch. A commit does not wait. Shorter than in Kafka Streams: it is latency of every hop through a topic, and batches fill by themselves under load.
    linger: [millis] = "linger.ms", java "100 (plain producers: 5)", "10";
    /// The bytes of a batch, never more than max.request.size. Larger than on the JVM: memory is taken as records come, so large batches cost nothing when there are few.
    batch_bytes: [count] = "batch.size", java "16384", "131072", I32;
    /// How batches are compressed: none, gzip, snappy, lz4, zstd.
    compression: [choice Compression] = "compression.type", java "none", "none";
    /// The effort of gzip, 1 to 9; -1 is its own default.
    gzip_level: [int] = "compression.gzip.level", java "-1", "-1", -1..=9;
    /// The effort of zstd, -131072 to 22.
    zstd_level: [int] = "compression.zstd.level", java "3", "3", -131_072..=22;
    /// The bytes of one request.
    max_request_bytes: [count] = "max.request.size", java "1048576", "1048576", POSITIVE_I32;
    /// The bytes of records that are written and not yet acknowledged; past it, workers wait.
    buffer_memory: [count] = "buffer.memory", java "33554432", "33554432", 1..=i64::MAX;
    /// The time from a record's write to its acknowledgement, after which it has failed. Exactly once, not set: no limit, as on the JVM.
    delivery_timeout: [millis] = "delivery.timeout.ms", java "120000 (exactly once: 2147483647)", "120000", POSITIVE_I32;
    /// The requests under way on one connection. At most 5, which is what a broker remembers of an idempotent producer.
    max_in_flight: [count] = "max.in.flight.requests.per.connection", java "5", "5", 1..=1024;
    /// After this time the broker aborts an open transaction. Exactly once, not set: at least commit.interval.ms + rebalance.timeout.ms + 5 s, and always commit.interval.ms * 3 / 2 or more, so that a rebalance costs no transaction; those of an instance that dies are ended by whoever takes its tasks.
    transaction_timeout: [millis] = "transaction.timeout.ms", java "10000 (plain producers: 60000)", "10000", POSITIVE_I32;
}

/// The properties that do something here.
pub(super) fn known() -> impl Iterator<Item = &'static Property> {
    [APPLICATION, CONNECTION, SECURITY, CONSUMER, PRODUCER].into_iter().flatten()
}
