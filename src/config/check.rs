//! What one property means for another: defaults that depend on others, and contradictions.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::idle::idle;
use super::properties::known;
use super::{Compression, Config, ConnectionConfig, IsolationLevel};

/// How long a commit may take before its transaction is too old.
const COMMIT_TIME: Duration = Duration::from_secs(5);

/// What a property was set to, with any prefix or none: the names as they were written, and the values.
pub(super) type Given<'a> = dyn Fn(&str) -> Vec<(String, String)> + 'a;

/// Completes the defaults and adds every contradiction to the errors.
pub(super) fn complete(config: &mut Config, given: &Given<'_>, errors: &mut Vec<String>) {
    application(config, errors);
    tags(config, errors);
    if config.is_exactly_once() {
        exactly_once(config, given, errors);
    }
    producer(config, given, errors);
    memory(config, given, errors);
    consumers(config, errors);
    let clients = [
        &mut config.main.connection,
        &mut config.restore.connection,
        &mut config.global.connection,
        &mut config.producer.connection,
        &mut config.admin,
    ];
    for client in clients {
        backoff(client, &mut config.warnings);
    }
    for property in known() {
        for (written, _) in given(property.name) {
            if let Some(idle) = idle(&written, property.name) {
                config.warnings.push(format!("{written} has {}", idle.says()));
            }
        }
    }
}

fn application(config: &mut Config, errors: &mut Vec<String>) {
    let application = &mut config.application;
    let id = &application.application_id;
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if id.is_empty() {
        errors.push("application.id is missing: name the application".to_owned());
    } else if !id.chars().all(legal) || id == "." || id == ".." || id.len() > 200 {
        errors.push(format!(
            "application.id={id} cannot begin the names of topics: use up to 200 letters, digits, dots, underscores and hyphens"
        ));
    }
    if application.client_id.is_empty() {
        application.client_id.clone_from(id);
    }
    if application.bootstrap_servers.is_empty() {
        errors.push("bootstrap.servers is missing: name at least one broker as host:port".to_owned());
    }
    for server in &application.bootstrap_servers {
        if !is_address(server) {
            errors.push(format!(
                "bootstrap.servers has {server:?}, which is not host:port (an IPv6 address goes in brackets, [::1]:9092)"
            ));
        }
    }
    if let Some(server) = &application.application_server
        && !is_address(server)
    {
        errors.push(format!("application.server={server} is not host:port"));
    }
    state_dir(&mut application.state_dir, &mut config.warnings, errors);
}

fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '%');
    let host_is_good = match bracketed {
        Some(inside) => !inside.is_empty() && inside.chars().all(|c| legal(c) || c == ':'),
        None => !host.is_empty() && host.chars().all(legal),
    };
    host_is_good && port.parse::<u16>().is_ok_and(|port| port > 0)
}

fn state_dir(dir: &mut PathBuf, warnings: &mut Vec<String>, errors: &mut Vec<String>) {
    if dir.as_os_str().is_empty() {
        match default_state_dir(&|name| std::env::var_os(name).map(PathBuf::from)) {
            Some(default) => *dir = default,
            None => errors.push("state.dir is missing and no home directory is known: set it".to_owned()),
        }
    } else if dir.to_string_lossy().contains(char::REPLACEMENT_CHARACTER) {
        errors.push(format!("state.dir={} is not UTF-8: choose another folder", dir.display()));
    }
    if dir.starts_with(std::env::temp_dir()) || dir.starts_with("/tmp") {
        warnings.push(format!(
            "state.dir={} is a temporary folder: a restart of the machine may empty it, and all state is read back",
            dir.display()
        ));
    }
}

/// Where the platform keeps what programs need to keep.
pub(super) fn default_state_dir(env: &dyn Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let absolute = |name| env(name).filter(|dir: &PathBuf| dir.is_absolute());
    let home = |rest: &str| absolute("HOME").map(|home| home.join(rest));
    let base = if cfg!(windows) {
        absolute("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        home("Library/Application Support")
    } else {
        absolute("XDG_STATE_HOME").or_else(|| home(".local/state"))
    };
    base.map(|base| base.join(Path::new("mainstem")))
}

fn tags(config: &Config, errors: &mut Vec<String>) {
    let tags = &config.client_tags;
    if tags.len() > 5 {
        errors.push(format!("client.tag. has {} tags: there may be at most 5", tags.len()));
    }
    for (name, value) in tags {
        if name.is_empty() || name.len() > 20 || value.len() > 30 {
            errors.push(format!(
                "client.tag.{name}={value} is too long: a tag's name has 1 to 20 bytes, its value at most 30"
            ));
        }
    }
    let wanted = &config.application.rack_aware_tags;
    if wanted.len() > 5 {
        errors.push(format!("rack.aware.assignment.tags has {} tags: there may be at most 5", wanted.len()));
    }
    for tag in wanted.iter().filter(|tag| !tags.contains_key(*tag)) {
        errors.push(format!("rack.aware.assignment.tags has {tag}, but client.tag.{tag} is not set"));
    }
}

fn exactly_once(config: &mut Config, given: &Given<'_>, errors: &mut Vec<String>) {
    if given("commit.interval.ms").is_empty() {
        config.application.commit_interval = Duration::from_millis(100);
        config.least_commit_interval = Some(Duration::from_millis(10));
    }
    let commit_interval = config.application.commit_interval;
    if given("transaction.timeout.ms").is_empty() {
        // A rebalance is waited for with a transaction open, and then there must be time to commit it.
        let least = commit_interval + config.application.rebalance_timeout + COMMIT_TIME;
        let timeout = &mut config.producer.values.transaction_timeout;
        *timeout = (*timeout).max(least).max(commit_interval * 3 / 2);
    }
    if given("delivery.timeout.ms").is_empty() {
        config.producer.values.delivery_timeout = Duration::from_millis(i32::MAX as u64);
    }
    for (name, level) in given("isolation.level") {
        if !level.eq_ignore_ascii_case("read_committed") {
            errors.push(format!(
                "{name}={level} must be read_committed under exactly_once_v2: aborted records would be processed"
            ));
        }
    }
    for consumer in [&mut config.main, &mut config.restore, &mut config.global] {
        consumer.values.isolation_level = IsolationLevel::ReadCommitted;
    }
    let producer = &config.producer.values;
    // A worker aborts a transaction at three quarters of its timeout, before a broker does; the commit takes its time as well.
    if commit_interval > producer.transaction_timeout * 2 / 3 {
        errors.push(format!(
            "commit.interval.ms={} is more than two thirds of transaction.timeout.ms={}: transactions would be aborted before \
             they are committed; set transaction.timeout.ms to {} or more",
            commit_interval.as_millis(),
            producer.transaction_timeout.as_millis(),
            (commit_interval * 3 / 2).as_millis()
        ));
    }
}

/// Shares `memory.max.bytes` out.
fn memory(config: &mut Config, given: &Given<'_>, errors: &mut Vec<String>) {
    /// Below it state is all reading, and batches are crumbs.
    const LEAST: usize = 1 << 20;
    let application = &mut config.application;
    let (all, workers) = (application.memory, application.workers.max(1));
    if all == 0 {
        return;
    }
    let is_set = |name: &str| !given(name).is_empty();
    let mut parts = [
        ("state.memory.max.bytes", is_set("state.memory.max.bytes"), &mut application.state_memory, 1, LEAST),
        (
            "input.buffer.max.bytes",
            is_set("input.buffer.max.bytes"),
            &mut application.buffered_bytes,
            1,
            LEAST,
        ),
        (
            "statestore.cache.max.bytes",
            is_set("statestore.cache.max.bytes"),
            &mut application.cache_bytes,
            1,
            0,
        ),
        ("buffer.memory", is_set("buffer.memory"), &mut config.producer.values.buffer_memory, workers, LEAST),
    ];
    // Values before this are defaults where nothing was set: the proportions.
    let sum = |set: bool, parts: &[(&str, bool, &mut usize, usize, usize)]| {
        let parts = parts.iter().filter(|(_, is_set, ..)| *is_set == set);
        parts.fold(0u128, |sum, (_, _, bytes, times, _)| sum + **bytes as u128 * *times as u128)
    };
    let (taken, of) = (sum(true, &parts), sum(false, &parts));
    let left = (all as u128).saturating_sub(taken);
    if taken > all as u128 {
        let names: Vec<&str> = parts.iter().filter(|(_, set, ..)| *set).map(|(name, ..)| *name).collect();
        let names = names.join(", ");
        errors.push(format!(
            "memory.max.bytes={all} is less than {names} together with {workers} workers: {taken}; leave some of these out"
        ));
        return;
    }
    for (name, _, bytes, _, least) in parts.iter_mut().filter(|(_, set, ..)| !*set) {
        let part = usize::try_from(**bytes as u128 * left / of.max(1)).unwrap_or(usize::MAX);
        if part < *least {
            errors.push(format!(
                "memory.max.bytes={all} leaves {part} bytes for {name} with {workers} workers, which needs {least}: give it more"
            ));
        }
        **bytes = part;
    }
}

fn producer(config: &mut Config, given: &Given<'_>, errors: &mut Vec<String>) {
    let request_timeout = config.producer.connection.values.request_timeout;
    let producer = &mut config.producer.values;
    if producer.max_in_flight > 5 {
        errors.push(format!(
            "max.in.flight.requests.per.connection={} must be at most 5: records are always written idempotently, and a \
             broker remembers five batches",
            producer.max_in_flight
        ));
    }
    producer.batch_bytes = producer.batch_bytes.min(producer.max_request_bytes);
    let least = producer.linger.saturating_add(request_timeout);
    if producer.delivery_timeout < least {
        if !given("delivery.timeout.ms").is_empty() {
            errors.push(format!(
                "delivery.timeout.ms={} must be at least linger.ms + request.timeout.ms = {}",
                producer.delivery_timeout.as_millis(),
                least.as_millis()
            ));
        } else {
            producer.delivery_timeout = least;
        }
    }
    if producer.gzip_level == 0 {
        errors.push("compression.gzip.level=0 must be from 1 to 9, or -1".to_owned());
    }
    let built = match producer.compression {
        Compression::None => true,
        Compression::Gzip => cfg!(feature = "gzip"),
        Compression::Snappy => cfg!(feature = "snappy"),
        Compression::Lz4 => cfg!(feature = "lz4"),
        Compression::Zstd => cfg!(feature = "zstd"),
    };
    if !built {
        let codec = producer.compression;
        errors.push(format!("compression.type={codec} is not built in: turn the crate's feature {codec} on"));
    }
}

fn consumers(config: &Config, errors: &mut Vec<String>) {
    let main = &config.main.values;
    if main.heartbeat_interval.is_zero() || main.heartbeat_interval.saturating_mul(3) > main.session_timeout {
        errors.push(format!(
            "heartbeat.interval.ms={} must be at least 1 and at most a third of session.timeout.ms={}: one lost heartbeat \
             would cost the tasks",
            main.heartbeat_interval.as_millis(),
            main.session_timeout.as_millis()
        ));
    }
    let rebalance = config.application.rebalance_timeout;
    if main.heartbeat_interval.saturating_mul(2) > rebalance {
        errors.push(format!(
            "heartbeat.interval.ms={} must be at most half of rebalance.timeout.ms={}: nothing would be left for the commit and \
             the revocation in a rebalance",
            main.heartbeat_interval.as_millis(),
            rebalance.as_millis()
        ));
    }
    for consumer in [&config.main, &config.restore, &config.global] {
        let (wait, limit) = (consumer.values.fetch_max_wait, consumer.connection.values.request_timeout);
        if wait >= limit {
            errors.push(format!(
                "fetch.max.wait.ms={} must be shorter than request.timeout.ms={}: every fetch would time out",
                wait.as_millis(),
                limit.as_millis()
            ));
        }
    }
}

/// As the JVM: a first pause above the longest one is every pause.
fn backoff(client: &mut ConnectionConfig, warnings: &mut Vec<String>) {
    let values = &mut client.values;
    let pairs = [
        ("retry", values.retry_backoff, &mut values.retry_backoff_max),
        ("reconnect", values.reconnect_backoff, &mut values.reconnect_backoff_max),
    ];
    for (name, first, longest) in pairs {
        if first > *longest {
            let warning = format!(
                "{name}.backoff.ms={} is longer than {name}.backoff.max.ms={}: every pause is the former",
                first.as_millis(),
                longest.as_millis()
            );
            *longest = first;
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
    }
}
