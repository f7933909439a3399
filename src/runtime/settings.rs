//! From the configuration to what each room wants to know.

use std::time::Duration;

use uuid::Uuid;

use crate::changelog::restore::{LARGEST_WINDOW, PoolOptions};
use crate::client::ClientConfig;
use crate::client::admin::Isolation;
use crate::client::compression::Compression;
use crate::client::fetch::FetchOptions;
use crate::client::produce::{ProducerConfig, Transactional};
use crate::config::{self, Config, IsolationLevel, Role};
use crate::group::{GroupConfig, SubscriptionData};
use crate::runtime::memory::StateMemory;

pub(super) fn client(config: &Config) -> ClientConfig {
    ClientConfig::from(config)
}

/// The producer of a worker; `transactional_id` under exactly-once.
pub(super) fn producer(config: &Config, transactional_id: Option<String>) -> ProducerConfig {
    let producer = config.producer();
    let connection = producer.connection();
    ProducerConfig {
        batch_size: producer.batch_bytes(),
        linger: producer.linger(),
        buffer_memory: producer.buffer_memory(),
        max_request_size: producer.max_request_bytes(),
        compression: match producer.compression() {
            config::Compression::Gzip => Compression::Gzip,
            config::Compression::Snappy => Compression::Snappy,
            config::Compression::Lz4 => Compression::Lz4,
            config::Compression::Zstd => Compression::Zstd,
            _ => Compression::None,
        },
        compression_level: match producer.compression() {
            config::Compression::Gzip => Some(producer.gzip_level()).filter(|level| *level >= 0),
            config::Compression::Zstd => Some(producer.zstd_level()),
            _ => None,
        },
        max_in_flight: producer.max_in_flight(),
        // What is not written before its transaction is too old is aborted and written again.
        delivery_timeout: match &transactional_id {
            Some(_) => producer.delivery_timeout().min(producer.transaction_timeout()),
            None => producer.delivery_timeout(),
        },
        request_timeout: connection.request_timeout(),
        retry_backoff: connection.retry_backoff(),
        retry_backoff_max: connection.retry_backoff_max(),
        transactional: transactional_id
            .map(|id| Transactional { id, timeout: producer.transaction_timeout() }),
    }
}

pub(super) fn isolation(level: IsolationLevel) -> Isolation {
    match level {
        IsolationLevel::ReadCommitted => Isolation::ReadCommitted,
        _ => Isolation::ReadUncommitted,
    }
}

pub(super) fn live_fetch(config: &Config) -> FetchOptions {
    let consumer = config.consumer(Role::Main);
    FetchOptions {
        isolation: isolation(consumer.isolation_level()),
        max_bytes: consumer.fetch_max_bytes(),
        partition_max_bytes: consumer.max_partition_fetch_bytes(),
        min_bytes: consumer.fetch_min_bytes(),
        max_wait: consumer.fetch_max_wait(),
        ..FetchOptions::live()
    }
    .within(config.buffered_bytes())
}

pub(super) fn bulk_fetch(config: &Config) -> FetchOptions {
    let consumer = config.consumer(Role::Restore);
    FetchOptions {
        // A changelog may have been written in transactions: only committed ones are state.
        isolation: Isolation::ReadCommitted,
        max_bytes: consumer.fetch_max_bytes(),
        partition_max_bytes: consumer.max_partition_fetch_bytes(),
        min_bytes: consumer.fetch_min_bytes(),
        max_wait: consumer.fetch_max_wait(),
        ..FetchOptions::bulk()
    }
    .within(StateMemory::of(config).frames)
}

/// The threads that restore stores, at most: fetching and the workers want processors as well.
const RESTORE_THREADS: usize = 4;

pub(super) fn restore_pool(config: &Config) -> PoolOptions {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = cores.min(RESTORE_THREADS);
    PoolOptions {
        name: config.application_id().to_owned(),
        threads,
        window_bytes: StateMemory::of(config).windows.min(threads * LARGEST_WINDOW),
    }
}

pub(super) fn group(config: &Config) -> GroupConfig {
    let consumer = config.consumer(Role::Main);
    let connection = consumer.connection();
    let rebalance_timeout = config.rebalance_timeout();
    let share = |part: u32| (rebalance_timeout.saturating_sub(consumer.heartbeat_interval())) * part / 12;
    GroupConfig {
        instance_id: consumer.group_instance_id().map(str::to_owned),
        session_timeout: consumer.session_timeout(),
        heartbeat_interval: consumer.heartbeat_interval(),
        rebalance_timeout,
        // What a rebalance leaves after one heartbeat interval: a third for the commit, more than half to revoke.
        commit_timeout: share(4),
        revoke_timeout: share(7),
        request_timeout: connection.request_timeout().min(Duration::from_secs(10)),
        retry_backoff: connection.retry_backoff(),
        retry_backoff_max: connection.retry_backoff_max(),
        ..GroupConfig::new(config.application_id())
    }
}

/// What this instance, with its process id, says of itself to the group before it has any tasks.
pub(super) fn subscription(config: &Config, process_id: Uuid) -> SubscriptionData {
    let workers = u16::try_from(config.workers()).unwrap_or(u16::MAX);
    SubscriptionData {
        transactional_ids: transactional_ids(config, process_id, config.workers()),
        endpoint: config.application_server().unwrap_or_default().to_owned(),
        tags: config.client_tags().clone(),
        ..SubscriptionData::new(process_id, workers)
    }
}

/// The transactional id of the worker in a place (`StreamsProducer` names its own in the same way).
pub(super) fn transactional_id(config: &Config, process_id: Uuid, worker: usize) -> String {
    format!("{}-{process_id}-{worker}", config.application_id())
}

/// Those of all workers, under exactly-once.
pub(super) fn transactional_ids(config: &Config, process_id: Uuid, workers: usize) -> Vec<String> {
    let workers = if config.is_exactly_once() { workers } else { 0 };
    (0..workers).map(|worker| transactional_id(config, process_id, worker)).collect()
}

/// Of which process and worker a transactional id is, if it is one of this application: the names of others may begin as
/// this one's does.
pub(super) fn of_transactional_id(application_id: &str, id: &str) -> Option<(Uuid, usize)> {
    let (process, worker) = id.strip_prefix(application_id)?.strip_prefix('-')?.rsplit_once('-')?;
    Some((Uuid::parse_str(process).ok().filter(|id| id.to_string() == process)?, worker.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transactional_id_says_whose_it_is_and_those_of_other_applications_say_nothing() {
        let config = Config::builder("orders", "localhost:9092").build().unwrap();
        let process = Uuid::from_u128(7);
        let id = transactional_id(&config, process, 11);
        assert_eq!(id, "orders-00000000-0000-0000-0000-000000000007-11");
        assert_eq!(of_transactional_id(config.application_id(), &id), Some((process, 11)));
        for other in [
            "orders-eu-00000000-0000-0000-0000-000000000007-11",
            "orders-00000000-0000-0000-0000-000000000007",
            "orders-00000000000000000000000000000007-1",
            "orders-00000000-0000-0000-0000-000000000007-x",
            "orders",
            "order-00000000-0000-0000-0000-000000000007-11",
        ] {
            assert_eq!(of_transactional_id(config.application_id(), other), None, "{other}");
        }
    }

    #[test]
    fn the_group_hears_of_workers_endpoint_and_tags() {
        let builder = Config::builder("a", "localhost:9092").workers(3).application_server("me:80");
        let config = builder.client_tag("zone", "a").client_tag("row", "7").build().unwrap();
        let data = subscription(&config, Uuid::nil());
        assert_eq!((data.workers, &*data.endpoint), (3, "me:80"));
        let tags: Vec<_> = data.tags.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(tags, [("row", "7"), ("zone", "a")]);
    }

    #[test]
    fn properties_reach_the_rooms_they_govern() {
        let config = |settings: &[(&str, &str)]| {
            let builder = Config::builder("a", "localhost:9092").properties(settings.iter().copied());
            builder.build().unwrap()
        };
        let set = config(&[
            ("fetch.min.bytes", "5000"),
            ("restore.consumer.fetch.min.bytes", "7000"),
            ("max.in.flight.requests.per.connection", "2"),
            ("compression.gzip.level", "7"),
            ("compression.zstd.level", "12"),
        ]);
        assert_eq!((live_fetch(&set).min_bytes, bulk_fetch(&set).min_bytes), (5000, 7000));
        let sizes = |f: &FetchOptions| (f.max_bytes, f.partition_max_bytes, f.max_wait.as_millis());
        assert_eq!(sizes(&live_fetch(&set)), (8 << 20, 1 << 20, 500));
        assert_eq!(sizes(&bulk_fetch(&set)), (32 << 20, 8 << 20, 500));
        let restore = config(&[
            ("restore.consumer.fetch.max.bytes", "7"),
            ("restore.consumer.max.partition.fetch.bytes", "5"),
            ("restore.consumer.fetch.max.wait.ms", "3"),
        ]);
        assert_eq!(sizes(&live_fetch(&restore)), (8 << 20, 1 << 20, 500));
        assert_eq!(sizes(&bulk_fetch(&restore)), (7, 5, 3));
        assert_eq!((producer(&set, None).max_in_flight, producer(&set, None).compression_level), (2, None));
        let level = |codec: &str, level: &str| {
            let name = format!("compression.{codec}.level");
            producer(&config(&[("compression.type", codec), (&name, level)]), None).compression_level
        };
        assert_eq!((level("gzip", "7"), level("gzip", "-1"), level("zstd", "12")), (Some(7), None, Some(12)));
        assert_eq!(level("zstd", "-5"), Some(-5), "zstd has negative levels");
    }

    #[test]
    fn no_answer_is_larger_than_what_may_wait() {
        let small = Config::builder("a", "localhost:9092").buffered_bytes(4 << 20).state_memory(16 << 20);
        let small = small.build().unwrap();
        let sizes = |f: &FetchOptions| (f.budget, f.partition_budget, f.max_bytes, f.partition_max_bytes);
        assert_eq!(sizes(&live_fetch(&small)), (2 << 20, 1 << 20, 2 << 20, 1 << 20));
        assert_eq!(sizes(&bulk_fetch(&small)), (2 << 20, 2 << 20, 2 << 20, 2 << 20));
        let huge = Config::builder("a", "localhost:9092").state_memory(1 << 50).build().unwrap();
        let pool = restore_pool(&huge);
        assert_eq!(pool.window_bytes, pool.threads << 30, "a window counts in 32 bits");
    }

    #[test]
    fn whatever_the_configuration_takes_the_group_takes() {
        for (heartbeat, session, rebalance) in
            [("3000", "45000", "15000"), ("1", "3", "2"), ("1000", "3000", "2000"), ("100", "6000", "200")]
        {
            let settings = [
                ("heartbeat.interval.ms", heartbeat),
                ("session.timeout.ms", session),
                ("rebalance.timeout.ms", rebalance),
            ];
            let config = Config::builder("a", "localhost:9092").properties(settings).build().unwrap();
            group(&config).check().unwrap();
        }
    }
}
