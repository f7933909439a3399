//! Kafka's record batches (record format v2, magic 2), lazily and without copies.
//!
//! Reading: [`scan`] finds the complete batches of a fetch response on the I/O thread by their headers alone; the worker
//! walks them with [`Batches`], asks [`AbortedFilter`] whether to deliver one, checks its CRC and iterates its
//! [`Records`], whose keys, values and headers are slices of the frame (or of the decompressed batch).
//! Writing: [`BatchBuilder`] encodes records straight into the outgoing buffer; [`ClosedBatch`] is compressed and only
//! needs its producer's numbers and the CRC, which can be written more than once.
//!
//! The format: <https://kafka.apache.org/documentation/#recordbatch>.
#![allow(dead_code, reason = "the parts that use it are joined later")]

mod aborted;
mod header;
#[cfg(feature = "embedded")]
pub(crate) mod patch;
mod read;
mod write;

#[cfg(test)]
mod tests;

#[allow(unused_imports, reason = "the parts that use it are joined later")]
pub(crate) use {
    aborted::AbortedFilter,
    header::{Header, Scan, TimestampType, scan},
    read::{Batch, Batches, ControlType, MAX_DECOMPRESSED, Records, Row},
    write::{BatchBuilder, ClosedBatch, ProducerStamp, next_sequence, record_len},
};

use crate::error::{Error, ErrorKind};

fn corrupt(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, what)
}
