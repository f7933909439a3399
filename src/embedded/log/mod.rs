//! The log of a partition, in memory.

/// A partition's log.
#[derive(Debug, Default)]
pub(crate) struct Log {}
