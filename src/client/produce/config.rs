//! The settings of a producer.

use std::time::Duration;

use super::partition::MAX_IN_FLIGHT;
use super::transaction::Transactional;
use crate::client::compression::Compression;

/// How a producer batches, how much it may hold, and how long it tries. The names are Kafka's.
#[derive(Debug, Clone)]
pub(crate) struct ProducerConfig {
    /// `batch.size`, in bytes before compression: 256 KiB. Java's 16 KiB fits many small producers; a worker writes much
    /// to few partitions, and [`linger`](Self::linger) bounds the wait anyway.
    pub(crate) batch_size: usize,
    /// `linger.ms`: how long a batch may wait for more records. 5 ms.
    pub(crate) linger: Duration,
    /// `buffer.memory`: the bytes a producer may hold before it has no credit. 32 MiB. A soft limit.
    pub(crate) buffer_memory: usize,
    /// `max.request.size`: the largest record, alone in its batch and uncompressed, and about the largest request. 1 MiB.
    pub(crate) max_request_size: usize,
    /// `compression.type`: none.
    pub(crate) compression: Compression,
    /// `compression.gzip.level` or `compression.zstd.level`; `None` is the codec's own default.
    pub(crate) compression_level: Option<i32>,
    /// `max.in.flight.requests.per.connection`: 5. A partition never has more than five batches under way.
    pub(crate) max_in_flight: usize,
    /// `delivery.timeout.ms`: how long a batch is tried, counted from its hand-over. 2 min. It is looked at whenever the
    /// batch would be sent, so that a request under way (at most `request.timeout.ms`) ends first.
    pub(crate) delivery_timeout: Duration,
    /// `request.timeout.ms`: how long a broker may wait for its replicas. 30 s.
    pub(crate) request_timeout: Duration,
    /// `retry.backoff.ms`: the pause before the first retry; it doubles with each. 100 ms.
    pub(crate) retry_backoff: Duration,
    /// `retry.backoff.max.ms`: the longest pause. 1 s.
    pub(crate) retry_backoff_max: Duration,
    /// `transactional.id` and `transaction.timeout.ms`, of a producer that writes in transactions.
    pub(crate) transactional: Option<Transactional>,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        Self {
            batch_size: 256 << 10,
            linger: Duration::from_millis(5),
            buffer_memory: 32 << 20,
            max_request_size: 1 << 20,
            compression: Compression::None,
            compression_level: None,
            max_in_flight: MAX_IN_FLIGHT,
            delivery_timeout: Duration::from_secs(120),
            request_timeout: Duration::from_secs(30),
            retry_backoff: Duration::from_millis(100),
            retry_backoff_max: Duration::from_secs(1),
            transactional: None,
        }
    }
}

impl ProducerConfig {
    /// The pause after so many failures in a row, counted from 1.
    pub(super) fn backoff(&self, failures: u32) -> Duration {
        let doubled = 1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        self.retry_backoff.saturating_mul(doubled).min(self.retry_backoff_max)
    }
}
