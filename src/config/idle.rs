//! Settings that are read and checked, and that nothing follows: the warnings, and what docs/CONFIG.md says of them. A test
//! in this folder holds the list against the code. Whoever builds what one governs takes it out here.

/// Settings without effect.
pub(super) struct Idle {
    /// The client's prefix that they are without effect under; the empty one: however they are written.
    pub(super) prefix: &'static str,
    /// Their names; none: every setting with the prefix.
    pub(super) names: &'static [&'static str],
    /// Whether they will have one.
    pub(super) yet: bool,
    /// Why, or what governs instead.
    pub(super) why: &'static str,
}

impl Idle {
    /// Whether it is about a setting: its name as it was written, and its property.
    pub(super) fn matches(&self, written: &str, name: &str) -> bool {
        let prefix = self.prefix.is_empty() || written.strip_prefix(self.prefix) == Some(name);
        prefix && (self.names.is_empty() || self.names.contains(&name))
    }

    pub(super) fn says(&self) -> String {
        format!("no effect{}: {}", if self.yet { " yet" } else { "" }, self.why)
    }
}

/// What is said of a setting that nothing follows.
pub(super) fn idle(written: &str, name: &str) -> Option<&'static Idle> {
    IDLE.iter().find(|idle| idle.matches(written, name))
}

const SHARED: &str = "an instance has one set of connections, which the setting without a prefix governs, or the main consumer's";

const SECURITY: &[&str] = &[
    "security.protocol",
    "ssl.truststore.type",
    "ssl.truststore.location",
    "ssl.truststore.certificates",
    "ssl.keystore.type",
    "ssl.keystore.location",
    "ssl.keystore.certificate.chain",
    "ssl.keystore.key",
    "ssl.key.password",
    "ssl.endpoint.identification.algorithm",
    "ssl.enabled.protocols",
    "sasl.mechanism",
    "sasl.jaas.config",
    "sasl.oauthbearer.token.endpoint.url",
];

pub(super) static IDLE: &[Idle] = &[
    Idle {
        prefix: "",
        names: &[
            "acceptable.recovery.lag",
            "max.warmup.replicas",
            "num.standby.replicas",
            "probing.rebalance.interval.ms",
            "processing.exception.handler.global.enabled",
            "rack.aware.assignment.tags",
            "__emit.interval.ms.kstreams.outer.join.spurious.results.fix__",
        ],
        yet: true,
        why: "what it governs is not implemented",
    },
    Idle { prefix: "global.consumer.", names: &[], yet: true, why: "there are no global tables" },
    Idle { prefix: "admin.", names: &[], yet: false, why: SHARED },
    Idle { prefix: "producer.", names: SECURITY, yet: false, why: SHARED },
    Idle { prefix: "restore.consumer.", names: SECURITY, yet: false, why: SHARED },
    Idle {
        prefix: "producer.",
        names: &[
            "default.api.timeout.ms",
            "reconnect.backoff.ms",
            "reconnect.backoff.max.ms",
            "socket.connection.setup.timeout.ms",
            "connections.max.idle.ms",
            "metadata.max.age.ms",
            "metadata.recovery.rebootstrap.trigger.ms",
        ],
        yet: false,
        why: SHARED,
    },
    Idle {
        prefix: "restore.consumer.",
        names: &[
            "request.timeout.ms",
            "default.api.timeout.ms",
            "retry.backoff.ms",
            "retry.backoff.max.ms",
            "reconnect.backoff.ms",
            "reconnect.backoff.max.ms",
            "socket.connection.setup.timeout.ms",
            "connections.max.idle.ms",
            "metadata.max.age.ms",
            "metadata.recovery.rebootstrap.trigger.ms",
            "client.rack",
        ],
        yet: false,
        why: SHARED,
    },
    Idle {
        prefix: "restore.consumer.",
        names: &["auto.offset.reset", "isolation.level"],
        yet: false,
        why: "a changelog is read from where its state ends, and committed records only",
    },
    Idle {
        prefix: "restore.consumer.",
        names: &["group.instance.id", "session.timeout.ms", "heartbeat.interval.ms"],
        yet: false,
        why: "only the main consumer is a member of the group",
    },
];
