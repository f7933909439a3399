//! What the fuzz targets and the replay of their corpora call (`fuzz/`, `tests/fuzz_corpus.rs`). No part of the API.
//!
//! Each function takes any bytes. It must come back, without a panic and without memory by the word of its input.

use bytes::Bytes;

use crate::client::batch::{AbortedFilter, Batches, scan};
use crate::client::connection::decode_answer;

/// The most that a batch may take once it is decompressed, here.
const MAX_DECOMPRESSED: usize = 1 << 20;

/// Requests on one connection to the embedded broker, each behind its length, as on the wire.
#[cfg(feature = "embedded")]
pub fn connection(bytes: &[u8]) {
    crate::embedded::fuzz::connection(bytes);
}

/// An answer as the client reads it: the key of its request, the version, then the frame.
pub fn answer(bytes: &[u8]) {
    if let [key, version, frame @ ..] = bytes {
        // That it cannot be read is an answer, too.
        drop(decode_answer(i16::from(*key), i16::from(*version), Bytes::copy_from_slice(frame)));
    }
}

/// The records of a fetch as the client reads them, and of a produce as the embedded broker takes them.
pub fn batch(bytes: &[u8]) {
    let records = Bytes::copy_from_slice(bytes);
    let scanned = scan(&records);
    if let Ok(scanned) = scanned {
        assert!(scanned.complete_len <= bytes.len(), "no more is complete than there is");
    }
    let mut filter = AbortedFilter::new([(1, 0), (2, 5)]);
    for batch in Batches::new(records).map_while(Result::ok) {
        drop(batch.verify_crc());
        drop(batch.control_type());
        drop(filter.admits(&batch));
        if let Ok(records) = batch.records_within(MAX_DECOMPRESSED) {
            records.map_while(Result::ok).for_each(drop);
        }
    }
    #[cfg(feature = "embedded")]
    crate::embedded::fuzz::append(bytes);
}
