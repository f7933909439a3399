//! From the configuration to what each room wants to know.

use std::time::Duration;

use crate::client::ClientConfig;
use crate::client::admin::Isolation;
use crate::client::compression::Compression;
use crate::client::fetch::FetchOptions;
use crate::client::produce::ProducerConfig;
use crate::config::{self, Config, ConsumerConfig, IsolationLevel, Role};
use crate::group::GroupConfig;

pub(super) fn client(config: &Config) -> ClientConfig {
    let connection = config.consumer(Role::Main).connection();
    let mut client = ClientConfig::new(config.bootstrap_servers().join(","));
    client.client_id = config.client_id().to_owned();
    client.rack = config.consumer(Role::Main).client_rack().map(str::to_owned);
    client.request_timeout = connection.request_timeout();
    client.api_timeout = connection.api_timeout();
    client.connect_timeout = connection.connect_timeout();
    client.metadata_max_age = connection.metadata_max_age();
    client.retry_backoff = connection.retry_backoff();
    client.retry_backoff_max = connection.retry_backoff_max();
    client.reconnect_backoff = connection.reconnect_backoff();
    client.reconnect_backoff_max = connection.reconnect_backoff_max();
    client.rebootstrap_trigger = connection.rebootstrap_trigger();
    client
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
        delivery_timeout: producer.delivery_timeout(),
        request_timeout: connection.request_timeout(),
        retry_backoff: connection.retry_backoff(),
        retry_backoff_max: connection.retry_backoff_max(),
        transactional_id: None,
    }
}

pub(super) fn isolation(consumer: &ConsumerConfig) -> Isolation {
    match consumer.isolation_level() {
        IsolationLevel::ReadCommitted => Isolation::ReadCommitted,
        _ => Isolation::ReadUncommitted,
    }
}

pub(super) fn live_fetch(config: &Config) -> FetchOptions {
    let consumer = config.consumer(Role::Main);
    FetchOptions {
        isolation: isolation(consumer),
        max_bytes: consumer.fetch_max_bytes(),
        partition_max_bytes: consumer.max_partition_fetch_bytes(),
        max_wait: consumer.fetch_max_wait(),
        budget: config.buffered_bytes(),
        partition_budget: (config.buffered_bytes() / 4).max(1 << 20),
        ..FetchOptions::live()
    }
}

pub(super) fn bulk_fetch(config: &Config) -> FetchOptions {
    let consumer = config.consumer(Role::Restore);
    let max_bytes = consumer.fetch_max_bytes();
    // A changelog may have been written in transactions: only committed ones are state.
    FetchOptions { max_bytes, isolation: Isolation::ReadCommitted, ..FetchOptions::bulk() }
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
