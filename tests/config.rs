//! Configuration as users meet it: what is read, what is refused, and in which words.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::time::Duration;

use mainstem::config::{
    Compression, Config, ConfigBuilder, ErrorPolicy, IsolationLevel, OffsetReset, Optimizations,
    ProcessingGuarantee, Role, StoreKind, TimestampPolicy,
};
use mainstem::{Error, ErrorKind};

fn base() -> ConfigBuilder {
    Config::builder("app", "localhost:9092")
}

fn with(settings: &[(&str, &str)]) -> Config {
    base().properties(settings.iter().copied()).build().unwrap()
}

fn refused(settings: &[(&str, &str)]) -> String {
    let error: Error = base().properties(settings.iter().copied()).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    error.to_string()
}

#[track_caller]
fn says(settings: &[(&str, &str)], expected: &str) {
    let error = refused(settings);
    assert_eq!(error, format!("the configuration is wrong: {expected}"));
}

#[test]
fn defaults() {
    let config = base().build().unwrap();
    assert_eq!(config.application_id(), "app");
    assert_eq!(config.client_id(), "app");
    assert_eq!(config.bootstrap_servers(), ["localhost:9092"]);
    assert_eq!(config.workers(), 1);
    assert_eq!(config.processing_guarantee(), ProcessingGuarantee::AtLeastOnce);
    assert_eq!(config.commit_interval(), Duration::from_secs(1));
    assert_eq!(config.cache_bytes(), 10 << 20);
    assert_eq!(config.max_task_idle(), Some(Duration::ZERO));
    assert_eq!(config.task_timeout(), Duration::from_secs(300));
    assert_eq!(config.rebalance_timeout(), Duration::from_secs(15));
    assert_eq!(config.max_processing_time(), Duration::from_secs(300));
    assert_eq!(config.topology_optimization(), Optimizations::NONE);
    assert!(config.explicit_naming() && !config.allow_generated_names());
    assert_eq!(config.replication_factor(), -1);
    assert_eq!(config.deserialization_errors(), ErrorPolicy::Fail);
    assert_eq!(config.dead_letter_topic(), None);
    assert_eq!(config.default_store(), StoreKind::Persistent);
    assert_eq!(config.state_max_age(), None);
    assert!(config.state_dir().ends_with("mainstem"), "{}", config.state_dir().display());
    assert!(!config.state_dir().starts_with(std::env::temp_dir()));
    assert!(config.topic_settings().is_empty() && config.client_tags().is_empty());
    let main = config.consumer(Role::Main);
    assert_eq!(main.session_timeout(), Duration::from_secs(45));
    assert_eq!(main.heartbeat_interval(), Duration::from_secs(3));
    assert_eq!(main.auto_offset_reset(), OffsetReset::Earliest);
    assert_eq!(main.isolation_level(), IsolationLevel::ReadUncommitted);
    assert_eq!((main.group_instance_id(), main.client_rack()), (None, None));
    assert_eq!(main.fetch_max_bytes(), 8 << 20);
    assert_eq!(config.consumer(Role::Restore).fetch_max_bytes(), 32 << 20);
    assert_eq!(config.consumer(Role::Global).fetch_max_bytes(), 32 << 20);
    let producer = config.producer();
    assert_eq!((producer.linger(), producer.batch_bytes()), (Duration::from_millis(10), 128 << 10));
    assert_eq!(producer.max_in_flight(), 5);
    assert_eq!((producer.compression(), producer.delivery_timeout().as_secs()), (Compression::None, 120));
    assert_eq!(config.admin().request_timeout(), Duration::from_secs(30));
    assert_eq!(config.warnings(), [] as [&str; 0]);
}

#[test]
fn typed_setters_set_the_properties() {
    let config = base()
        .workers(4)
        .commit_interval(Duration::from_micros(1_500))
        .cache_bytes(0)
        .state_dir(Path::new("/var/lib/app"))
        .processing_guarantee(ProcessingGuarantee::AtLeastOnce)
        .max_task_idle(None)
        .topology_optimization(Optimizations { reuse_source_topics: true, ..Optimizations::ALL })
        .allow_generated_names()
        .deserialization_errors(ErrorPolicy::Continue)
        .dead_letter_topic("dead")
        .timestamp_policy(TimestampPolicy::PartitionTime)
        .auto_offset_reset(OffsetReset::ByDuration(Duration::from_millis(90_500)))
        .compression(Compression::Zstd)
        .group_instance_id("one")
        .rack_aware_tags(&["zone"])
        .client_tag("zone", "eu-1a")
        .topic_setting("min.insync.replicas", "2")
        .client_id("me")
        .build()
        .unwrap();
    assert_eq!(config.workers(), 4);
    assert_eq!(config.commit_interval(), Duration::from_millis(2), "parts of a millisecond are rounded up");
    assert_eq!(config.cache_bytes(), 0);
    assert_eq!(config.state_dir(), Path::new("/var/lib/app"));
    assert_eq!(config.max_task_idle(), None);
    assert_eq!(config.topology_optimization(), Optimizations::ALL);
    assert!(config.allow_generated_names());
    assert_eq!(config.deserialization_errors(), ErrorPolicy::Continue);
    assert_eq!(config.dead_letter_topic(), Some("dead"));
    assert_eq!(config.timestamp_policy(), TimestampPolicy::PartitionTime);
    let main = config.consumer(Role::Main);
    assert_eq!(main.auto_offset_reset(), OffsetReset::ByDuration(Duration::from_millis(90_500)));
    assert_eq!(main.group_instance_id(), Some("one"));
    assert_eq!(config.producer().compression(), Compression::Zstd);
    assert_eq!(config.client_tags()["zone"], "eu-1a");
    assert_eq!(config.topic_settings()["min.insync.replicas"], "2");
    assert_eq!(config.client_id(), "me");
}

#[test]
fn every_error_at_once() {
    let error = Config::builder("", "localhost")
        .set("comit.interval.ms", "100")
        .workers(0)
        .set("consumer.linger.ms", "5")
        .set("enable.auto.commit", "true")
        .set("commit.interval.ms", "-1")
        .build()
        .unwrap_err()
        .to_string();
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(
        lines,
        [
            "the configuration has 7 errors:",
            "- comit.interval.ms is unknown. Did you mean commit.interval.ms?",
            "- consumer.linger.ms: linger.ms is a property of the producer, set it as producer.linger.ms",
            "- enable.auto.commit cannot be set to \"true\". Offsets are committed together with the state.",
            "- num.stream.threads=0 must be from 1 to 1024",
            "- commit.interval.ms=-1 must be at least 0",
            "- application.id is missing: name the application",
            "- bootstrap.servers has \"localhost\", which is not host:port (an IPv6 address goes in brackets, [::1]:9092)",
        ]
    );
    let error = Config::from_properties([("num.stream.threads", "1")]).unwrap_err().to_string();
    assert!(error.contains("application.id is missing") && error.contains("bootstrap.servers is missing"));
}

#[test]
fn unknown_names_get_the_nearest() {
    for (name, nearest) in [
        ("num.stream.thread", "num.stream.threads"),
        ("application.sever", "application.server"),
        ("proccesing.guarantee", "processing.guarantee"),
        ("main.consumer.fetch.max.byte", "main.consumer.fetch.max.bytes"),
        ("producer.linger", "producer.linger.ms"),
        ("consumr.session.timeout.ms", "consumer.session.timeout.ms"),
        ("metric.reporter", "metric.reporters"),
    ] {
        says(&[(name, "1")], &format!("{name} is unknown. Did you mean {nearest}?"));
    }
    says(
        &[("spring.kafka.whatever", "1")],
        "spring.kafka.whatever is unknown. docs/CONFIG.md lists what is known.",
    );
    says(&[("", "1")], " is unknown. docs/CONFIG.md lists what is known.");
}

#[test]
fn prefixes_go_from_the_particular_to_the_general() {
    let config = with(&[
        ("main.consumer.fetch.max.bytes", "3"),
        ("consumer.fetch.max.bytes", "2"),
        ("fetch.max.bytes", "1"),
        ("request.timeout.ms", "20000"),
        ("producer.request.timeout.ms", "21000"),
        ("admin.request.timeout.ms", "22000"),
        ("global.consumer.request.timeout.ms", "23000"),
        ("session.timeout.ms", "10000"),
    ]);
    let fetch = |role| config.consumer(role).fetch_max_bytes();
    assert_eq!((fetch(Role::Main), fetch(Role::Restore), fetch(Role::Global)), (3, 2, 2));
    let seconds = |role| config.consumer(role).connection().request_timeout().as_secs();
    assert_eq!((seconds(Role::Main), seconds(Role::Restore), seconds(Role::Global)), (20, 20, 23));
    assert_eq!(config.producer().connection().request_timeout().as_secs(), 21);
    assert_eq!(config.admin().request_timeout().as_secs(), 22);
    assert_eq!(config.consumer(Role::Main).session_timeout().as_secs(), 10);
    assert_eq!(
        with(&[("fetch.max.bytes", "1"), ("fetch.max.bytes", "9")]).consumer(Role::Main).fetch_max_bytes(),
        9
    );

    says(
        &[("producer.session.timeout.ms", "1")],
        "producer.session.timeout.ms: session.timeout.ms is a property of consumers, set it as consumer.session.timeout.ms",
    );
    says(
        &[("admin.num.stream.threads", "1")],
        "admin.num.stream.threads: num.stream.threads is a property of the application, set it without a prefix",
    );
    says(
        &[("restore.consumer.fetch.max.bytes", "x")],
        "restore.consumer.fetch.max.bytes=x is not a whole number",
    );
    says(&[("request.timeout.ms", "0")], "request.timeout.ms=0 must be from 1 to 2147483647");
}

#[test]
fn topic_settings_and_tags() {
    let config = with(&[("topic.retention.ms", "-1"), ("topic.retention.m", "5"), ("client.tag.zone", "a")]);
    assert_eq!(config.topic_settings().len(), 2);
    assert_eq!(config.warnings().len(), 1);
    assert!(config.warnings()[0].ends_with("Did you mean topic.retention.ms?"), "{}", config.warnings()[0]);
    says(
        &[("rack.aware.assignment.tags", "zone")],
        "rack.aware.assignment.tags has zone, but client.tag.zone is not set",
    );
    let long = "x".repeat(31);
    assert!(refused(&[("client.tag.zone", &long)]).contains("too long"));
    let six: Vec<_> = (0..6).map(|i| (format!("client.tag.t{i}"), "v")).collect();
    assert!(base().properties(six).build().unwrap_err().to_string().contains("has 6 tags"));
}

#[test]
fn what_the_library_decides_cannot_be_set() {
    for (name, value) in [
        ("enable.auto.commit", "true"),
        ("main.consumer.allow.auto.create.topics", "true"),
        ("group.protocol", "streams"),
        ("consumer.group.protocol", "consumer"),
        ("group.id", "mine"),
        ("producer.transactional.id", "mine"),
        ("consumer.partition.assignment.strategy", "org.apache.kafka.clients.consumer.RangeAssignor"),
        ("ssl.cipher.suites", "TLS_AES_128_GCM_SHA256"),
        ("config.providers", "env"),
        ("check.crcs", "false"),
        ("acks", "1"),
        ("producer.acks", "0"),
        ("enable.idempotence", "false"),
    ] {
        let error = refused(&[(name, value)]);
        assert!(error.contains(&format!("{name} cannot be set to \"{value}\". ")), "{error}");
    }
    let same = with(&[
        ("enable.auto.commit", "false"),
        ("allow.auto.create.topics", "false"),
        ("group.protocol", "CLASSIC"),
        ("acks", "-1"),
        ("producer.acks", "all"),
        ("enable.idempotence", "true"),
    ]);
    assert_eq!(same.warnings(), [] as [&str; 0], "what the library does anyway may be said");
}

#[test]
fn jvm_only_properties_are_warnings() {
    let config = with(&[
        ("default.key.serde", "org.apache.kafka.common.serialization.Serdes$StringSerde"),
        ("rocksdb.config.setter", "com.example.Tuning"),
        ("producer.send.buffer.bytes", "1"),
        ("ssl.truststore.location", "/x"),
        ("cache.max.bytes.buffering", "5"),
    ]);
    assert_eq!(config.warnings().len(), 5);
    assert_eq!(
        config.warnings()[2],
        "producer.send.buffer.bytes has no effect. The operating system sizes socket buffers."
    );
    assert_eq!(config.cache_bytes(), 5, "the old name counts");
    let both = with(&[("statestore.cache.max.bytes", "7"), ("cache.max.bytes.buffering", "5")]);
    assert_eq!(both.cache_bytes(), 7, "the new name wins");
    let poll = with(&[("main.consumer.max.poll.interval.ms", "1"), ("max.poll.interval.ms", "2")]);
    assert_eq!(poll.max_processing_time(), Duration::from_millis(2), "the last one wins");
    assert!(refused(&[("cache.max.bytes.buffering", "x")]).contains("cache.max.bytes.buffering=x is not"));
}

#[test]
fn exactly_once_changes_defaults_and_forbids_the_rest() {
    const EOS: (&str, &str) = ("processing.guarantee", "exactly_once_v2");
    let config = with(&[EOS]);
    assert!(config.is_exactly_once());
    assert_eq!(config.commit_interval(), Duration::from_millis(100));
    assert_eq!(config.consumer(Role::Restore).isolation_level(), IsolationLevel::ReadCommitted);
    assert_eq!(config.producer().delivery_timeout(), Duration::from_millis(i32::MAX as u64));
    let timeout = config.producer().transaction_timeout();
    assert_eq!(timeout, Duration::from_millis(20_100), "an interval, a rebalance, and time for the commit");
    let slow = with(&[EOS, ("commit.interval.ms", "30000")]);
    assert_eq!(slow.producer().transaction_timeout(), Duration::from_secs(50));
    let config =
        with(&[EOS, ("main.consumer.isolation.level", "read_committed"), ("commit.interval.ms", "50")]);
    assert_eq!(config.commit_interval(), Duration::from_millis(50));

    for (name, value, why) in [
        ("isolation.level", "read_uncommitted", "isolation.level=read_uncommitted must be read_committed"),
        ("restore.consumer.isolation.level", "read_uncommitted", "restore.consumer.isolation.level="),
        ("max.in.flight.requests.per.connection", "6", "at most 5"),
    ] {
        let error = refused(&[EOS, (name, value)]);
        assert!(error.contains(why) && !error.contains("errors"), "{error}");
    }
    for (interval, timeout) in
        [("30000", "10000"), ("10000", "10000"), ("10000", "11000"), ("10000", "14999")]
    {
        let error = refused(&[EOS, ("commit.interval.ms", interval), ("transaction.timeout.ms", timeout)]);
        let text = format!(
            "commit.interval.ms={interval} is more than two thirds of transaction.timeout.ms={timeout}: transactions"
        );
        let least = interval.parse::<u64>().unwrap() * 3 / 2;
        assert!(error.contains(&text) && error.contains(&format!("to {least} or more")), "{error}");
    }
    with(&[EOS, ("commit.interval.ms", "10000"), ("transaction.timeout.ms", "15000")]);
    let slowest = with(&[EOS, ("commit.interval.ms", "600000")]);
    assert_eq!(
        slowest.producer().transaction_timeout(),
        Duration::from_secs(900),
        "as long as a broker allows"
    );
    assert!(refused(&[("processing.guarantee", "exactly_once")]).contains("at_least_once, exactly_once_v2"));
}

#[test]
fn contradictions() {
    says(
        &[("heartbeat.interval.ms", "5000"), ("session.timeout.ms", "10000")],
        "heartbeat.interval.ms=5000 must be at least 1 and at most a third of session.timeout.ms=10000: one lost heartbeat \
         would cost the tasks",
    );
    says(
        &[("delivery.timeout.ms", "30009")],
        "delivery.timeout.ms=30009 must be at least linger.ms + request.timeout.ms = 30010",
    );
    says(
        &[("consumer.fetch.max.wait.ms", "30000")],
        "fetch.max.wait.ms=30000 must be shorter than request.timeout.ms=30000: every fetch would time out",
    );
    says(
        &[("max.in.flight.requests.per.connection", "9")],
        "max.in.flight.requests.per.connection=9 must be at most 5: records are always written idempotently, and a broker \
         remembers five batches",
    );
    let config = with(&[("producer.request.timeout.ms", "200000")]);
    assert_eq!(config.producer().delivery_timeout(), Duration::from_millis(200_010), "raised, as on the JVM");
    let config = with(&[("retry.backoff.ms", "5000")]);
    assert_eq!(config.admin().retry_backoff_max(), Duration::from_secs(5));
    assert_eq!(config.warnings().len(), 1, "once, not for each client");
    says(&[("compression.gzip.level", "0")], "compression.gzip.level=0 must be from 1 to 9, or -1");
}

#[test]
fn ranges_and_kinds() {
    says(&[("commit.interval.ms", "-1")], "commit.interval.ms=-1 must be at least 0");
    says(&[("commit.interval.ms", "1s")], "commit.interval.ms=1s is not a whole number of milliseconds");
    says(&[("commit.interval.ms", "")], "commit.interval.ms= is not a whole number of milliseconds");
    says(&[("max.task.idle.ms", "-2")], "max.task.idle.ms=-2 must be at least 0, or -1");
    says(
        &[("probing.rebalance.interval.ms", "59999")],
        "probing.rebalance.interval.ms=59999 must be at least 60000",
    );
    says(
        &[("session.timeout.ms", "4294967296")],
        "session.timeout.ms=4294967296 must be from 1 to 2147483647",
    );
    says(&[("replication.factor", "-2")], "replication.factor=-2 must be from -1 to 32767");
    says(
        &[("ensure.explicit.internal.resource.naming", "yes")],
        "ensure.explicit.internal.resource.naming=yes must be true or false",
    );
    says(
        &[("compression.type", "lzma")],
        "compression.type=lzma must be one of none, gzip, snappy, lz4, zstd",
    );
    says(&[("poll.ms", "0")], "poll.ms=0 must be at least 1");
    says(
        &[("topology.optimization", "all,none")],
        "topology.optimization=all,none must be all, none, or a list of reuse.ktable.source.topics, merge.repartition.topics, single.store.self.join",
    );
    says(&[("application.server", "http://x:1")], "application.server=http://x:1 is not host:port");
    let config = with(&[
        ("commit.interval.ms", " 100 "),
        ("max.task.idle.ms", "-1"),
        ("ensure.explicit.internal.resource.naming", "FALSE"),
    ]);
    assert_eq!((config.commit_interval(), config.max_task_idle()), (Duration::from_millis(100), None));
    for server in
        ["kafka:0", "kafka:65536", ":9092", "::1:9092", "[::1:9092", "PLAINTEXT://kafka:9092", "a b:1"]
    {
        let error = Config::builder("a", server).build().unwrap_err().to_string();
        assert!(error.contains("not host:port"), "{server}: {error}");
    }
    let servers = Config::builder("a", " k1:1 ,[::1]:2,, 10.0.0.1:3").build().unwrap();
    assert_eq!(servers.bootstrap_servers(), ["k1:1", "[::1]:2", "10.0.0.1:3"]);
    assert!(Config::builder("a/b", "k:1").build().unwrap_err().to_string().contains("application.id=a/b"));
}

#[test]
fn policies_by_word_and_by_class() {
    const ERRORS: &str = "org.apache.kafka.streams.errors.";
    for (class, policy) in [
        ("LogAndContinueExceptionHandler", ErrorPolicy::Continue),
        ("LogAndFailExceptionHandler", ErrorPolicy::Fail),
        ("LogAndContinueProcessingExceptionHandler", ErrorPolicy::Continue),
        ("LogAndFailProcessingExceptionHandler", ErrorPolicy::Fail),
        ("DefaultProductionExceptionHandler", ErrorPolicy::Fail),
    ] {
        let config = with(&[("processing.exception.handler", &format!("{ERRORS}{class}"))]);
        assert_eq!(config.processing_errors(), policy, "{class}");
    }
    let config = with(&[
        ("default.deserialization.exception.handler", "continue"),
        ("production.exception.handler", "continue"),
        ("default.timestamp.extractor", "org.apache.kafka.streams.processor.WallclockTimestampExtractor"),
        (
            "dsl.store.suppliers.class",
            "org.apache.kafka.streams.state.BuiltInDslStoreSuppliers$InMemoryDslStoreSuppliers",
        ),
        ("topology.optimization", "single.store.self.join, merge.repartition.topics"),
    ]);
    assert_eq!(config.deserialization_errors(), ErrorPolicy::Continue);
    assert_eq!(config.production_errors(), ErrorPolicy::Continue);
    assert_eq!(config.timestamp_policy(), TimestampPolicy::WallClock);
    assert_eq!(config.default_store(), StoreKind::InMemory);
    let expected = Optimizations { reuse_source_topics: false, ..Optimizations::ALL };
    assert_eq!(config.topology_optimization(), expected);
    let error = refused(&[("deserialization.exception.handler", "com.example.MyHandler")]);
    assert!(error.contains("com.example.MyHandler is a class of the JVM that has no equal here"), "{error}");
}

#[test]
fn offset_reset_by_duration() {
    let reset = |text: &str| with(&[("auto.offset.reset", text)]).consumer(Role::Main).auto_offset_reset();
    assert_eq!(reset("latest"), OffsetReset::Latest);
    assert_eq!(reset("none"), OffsetReset::None);
    for (text, seconds) in [("P1D", 86_400.0), ("P1DT2H3M4.5S", 93_784.5), ("PT0S", 0.0), ("pt1m", 60.0)] {
        let expected = OffsetReset::ByDuration(Duration::from_secs_f64(seconds));
        assert_eq!(reset(&format!("by_duration:{text}")), expected, "{text}");
        assert_eq!(reset(&expected.to_string()), expected, "what is shown can be read");
    }
    for bad in
        ["", "P", "PT", "1D", "P1", "PT1D", "P1H", "PT1S2M", "P1DT", "PT1.5H", "P-1D", "PT1.1234567891S"]
    {
        let error = refused(&[("auto.offset.reset", &format!("by_duration:{bad}"))]);
        assert!(error.contains("ISO 8601"), "{bad}: {error}");
    }
}

#[test]
fn properties_text_is_read_as_java_does() {
    let config = Config::from_properties_str(
        "# a comment\n! another\n\n  application.id : my-app\r\nbootstrap.servers=k1:1,\\\n    k2:2\n\
         client.id  spaced\\ out \\u00e9\\ud83d\\ude00\\:\nclient.tag.a\\=b=c=d\\\\\nrack.aware.assignment.tags\n\
         num.stream.threads = 2\nnum.stream.threads = 3\n",
    )
    .unwrap();
    assert_eq!(config.application_id(), "my-app");
    assert_eq!(config.bootstrap_servers(), ["k1:1", "k2:2"]);
    assert_eq!(config.client_id(), "spaced out é😀:");
    assert_eq!(config.client_tags()["a=b"], "c=d\\");
    assert_eq!(config.workers(), 3);
    let error =
        Config::from_properties_str("application.id=a\nbootstrap.servers=k:1\nclient.id=\\u12").unwrap_err();
    assert!(error.to_string().contains("the properties' line 3: \\u without four"), "{error}");
    let error = base().properties_str("client.id=\\ud83d").build().unwrap_err();
    assert!(error.to_string().contains("half of a surrogate pair"), "{error}");
}

#[test]
fn state_in_a_temporary_folder_is_a_warning() {
    let dir = std::env::temp_dir().join("state");
    let config = base().state_dir(&dir).build().unwrap();
    assert_eq!(config.state_dir(), dir);
    assert!(config.warnings()[0].contains("is a temporary folder"), "{:?}", config.warnings());
}

#[test]
fn a_property_that_nothing_follows_yet_says_so() {
    let set = |name: &str, value: &str| {
        let config = Config::builder("app", "localhost:9092").set(name, value).build().expect("legal");
        config.warnings().join("\n")
    };
    assert!(set("num.standby.replicas", "1").contains("num.standby.replicas has no effect yet"));
    let outer_joins = "__emit.interval.ms.kstreams.outer.join.spurious.results.fix__";
    assert!(set(outer_joins, "1").contains("no effect yet"));
    assert_eq!(set("commit.interval.ms", "100"), "");
}

/// A prefix may take the effect away: what governs instead is said.
#[test]
fn a_setting_without_effect_for_its_client_says_what_governs() {
    let warning = |name: &str, value: &str| {
        let config = with(&[(name, value)]);
        assert!(config.warnings().len() <= 1, "{:?}", config.warnings());
        config.warnings().join("")
    };
    const SHARED: &str = "which the setting without a prefix governs, or the main consumer's";
    for (name, value, expected) in [
        ("admin.request.timeout.ms", "5000", SHARED),
        ("producer.metadata.max.age.ms", "5000", SHARED),
        ("restore.consumer.retry.backoff.ms", "5", SHARED),
        ("restore.consumer.client.rack", "a", SHARED),
        ("restore.consumer.auto.offset.reset", "latest", "a changelog is read from where its state ends"),
        ("restore.consumer.session.timeout.ms", "10000", "only the main consumer is a member of the group"),
        ("global.consumer.fetch.min.bytes", "5", "there are no global tables"),
    ] {
        let found = warning(name, value);
        assert!(found.starts_with(&format!("{name} has no effect")) && found.contains(expected), "{found:?}");
    }
    for (name, value) in [
        ("request.timeout.ms", "5000"),
        ("main.consumer.request.timeout.ms", "5000"),
        ("consumer.client.rack", "a"),
        ("producer.request.timeout.ms", "5000"),
        ("producer.retry.backoff.ms", "5"),
        ("restore.consumer.fetch.max.wait.ms", "5"),
        ("restore.consumer.max.partition.fetch.bytes", "5"),
    ] {
        assert_eq!(warning(name, value), "", "{name}");
    }
    let governs = [
        ("buffered.records.per.partition", "input.buffer.max.bytes"),
        ("max.block.ms", "delivery.timeout.ms"),
        ("producer.max.block.ms", "delivery.timeout.ms"),
    ];
    for (name, instead) in governs {
        let found = warning(name, "10");
        assert!(found.starts_with(&format!("{name} has no effect. ")) && found.contains(instead), "{found}");
    }
}
