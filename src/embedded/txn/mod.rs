//! The transaction coordinator: pure, over injected time.

use std::time::Instant;

use kafka_protocol::error::ResponseError;

/// All transactional ids, and the producer ids given out.
#[derive(Debug, Default)]
pub(crate) struct Transactions {
    next_producer_id: i64,
}

impl Transactions {
    /// A producer id that nobody has.
    pub(crate) fn new_producer_id(&mut self) -> i64 {
        self.next_producer_id += 1;
        self.next_producer_id - 1
    }

    /// Whether a transactional batch may be written to a partition: asked before each append of a producer that has no
    /// transaction there yet (KIP-890's verification). `version` is that of the Produce request.
    pub(crate) fn verify(
        &mut self,
        _now: Instant,
        _transactional_id: &str,
        _producer: (i64, i16),
        _partition: (&str, i32),
        _version: i16,
    ) -> Result<(), ResponseError> {
        Ok(())
    }

    /// When something is due next.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        None
    }
}
