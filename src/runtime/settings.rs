//! From the configuration to what each room wants to know.

use std::time::Duration;

use uuid::Uuid;

use crate::changelog::restore::PoolOptions;
use crate::client::ClientConfig;
use crate::client::admin::Isolation;
use crate::client::compression::Compression;
use crate::client::fetch::FetchOptions;
use crate::client::produce::ProducerConfig;
use crate::config::{self, Config, IsolationLevel, Role};
use crate::group::{GroupConfig, SubscriptionData};

pub(super) fn client(config: &Config) -> ClientConfig {
    ClientConfig::from(config)
}

pub(super) fn producer(config: &Config) -> ProducerConfig {
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
        delivery_timeout: producer.delivery_timeout(),
        request_timeout: connection.request_timeout(),
        retry_backoff: connection.retry_backoff(),
        retry_backoff_max: connection.retry_backoff_max(),
        transactional_id: None,
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
        budget: config.buffered_bytes(),
        partition_budget: (config.buffered_bytes() / 4).max(1 << 20),
        ..FetchOptions::live()
    }
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
}

/// How the memory of stores (`state.memory.max.bytes`) is shared out, in bytes.
pub(super) struct StateMemory {
    /// What engines keep of their files.
    pub(super) engines: usize,
    /// What restores gather before they apply it.
    pub(super) restores: usize,
    /// Rows as values, and committed changes that are not on disk, of the stores of all workers.
    pub(super) stores: usize,
}

pub(super) fn state_memory(config: &Config) -> StateMemory {
    let quarter = config.state_memory() / 4;
    StateMemory { engines: quarter, restores: quarter, stores: 2 * quarter }
}

/// The threads that restore stores, at most: fetching and the workers want processors as well.
const RESTORE_THREADS: usize = 4;

pub(super) fn restore_pool(config: &Config) -> PoolOptions {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    PoolOptions {
        name: config.application_id().to_owned(),
        threads: cores.min(RESTORE_THREADS),
        window_bytes: state_memory(config).restores,
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
        endpoint: config.application_server().unwrap_or_default().to_owned(),
        tags: config.client_tags().clone(),
        ..SubscriptionData::new(process_id, workers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!((producer(&set).max_in_flight, producer(&set).compression_level), (2, None));
        let level = |codec: &str, level: &str| {
            let name = format!("compression.{codec}.level");
            producer(&config(&[("compression.type", codec), (&name, level)])).compression_level
        };
        assert_eq!((level("gzip", "7"), level("gzip", "-1"), level("zstd", "12")), (Some(7), None, Some(12)));
        assert_eq!(level("zstd", "-5"), Some(-5), "zstd has negative levels");
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
