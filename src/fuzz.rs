//! What the fuzz targets and the replay of their corpora call (`fuzz/`, `tests/fuzz_corpus.rs`). No part of the API.
//!
//! Each function takes any bytes. It must come back, without a panic and without memory by the word of its input.

use bytes::Bytes;

use crate::changelog::checkpoint::Checkpoint;
use crate::client::ClientConfig;
use crate::client::batch::{AbortedFilter, Batches, scan};
use crate::client::connection::decode_answer;
use crate::config::Config;

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

/// Properties, as an application and as a client reads them. What was read can be shown.
pub fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(config) = Config::from_properties_str(&text) {
        drop(format!("{config:?}"));
    }
    if let Ok(config) = ClientConfig::from_properties_str(&text) {
        drop(format!("{config:?}"));
    }
}

/// A file of a state directory, behind a byte that says which: the catalog of a database (0), the process file (1), a
/// checkpoint (2), a checkpoint whose checksum is right (3), a row of long keys (4).
pub fn state(bytes: &[u8]) {
    let Some((what, bytes)) = bytes.split_first() else { return };
    match what % 5 {
        0 => crate::store::fuzz::run(0, bytes),
        1 => crate::runtime::fuzz_process(bytes),
        2 => checkpoint(bytes),
        3 => checkpoint(&[bytes, &crc32c::crc32c(bytes).to_be_bytes()].concat()),
        _ => crate::store::fuzz::run(1, bytes),
    }
}

fn checkpoint(bytes: &[u8]) {
    if let Ok(checkpoint) = Checkpoint::decode(bytes) {
        assert!(Checkpoint::decode(&checkpoint.encode()).is_ok_and(|again| again == checkpoint));
    }
}

/// What a coordinator answers, and what fellow members say: pieces, each a byte that says what it is, its length in two
/// bytes, and its bytes (`group/fuzz.rs`).
pub fn group(bytes: &[u8]) {
    crate::group::fuzz::run(bytes);
}

/// Inputs of [`group`] and [`state`] that reach something, by target and name: their formats are the crate's own.
pub fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    use crate::changelog::checkpoint::Origin;
    let origin = Origin {
        cluster_id: Some("cluster".to_owned()),
        topic_id: Some(uuid::Uuid::from_u128(5)),
        at: crate::TopicPartition::new("a-counts-changelog", 1),
        application_id: "a".to_owned(),
        fingerprint: 9,
    };
    let position = vec![(crate::TopicPartition::new("t", 1), 12)];
    let mark =
        Checkpoint { origin, next_offset: 7, leader_epoch: 2, wall_ms: 1_700_000_000_000, position }.encode();
    let file = |what: u8, bytes: &[u8]| [&[what], bytes].concat();
    let body = mark.len().saturating_sub(4);
    let catalog = br#"{"version":2,"engine":"fjall","next_id":3,"stores":[{"id":1,"task":"0_1","store":"counts","used_ms":5,"changelog":true},{"id":2,"task":"1_0","store":"s"}]}"#;
    let process = br#"{"version":1,"applicationId":"a","processId":"00000000-0000-0000-0000-000000000007"}"#;
    let bucket = [&[0, 0, 0, 2, 0, 0, 0, 1][..], b"abv", &[0, 0, 0, 1, 0, 0, 0, 0], b"z"].concat();
    let mut seeds = vec![
        ("state", "catalog", file(0, catalog)),
        ("state", "process", file(1, process)),
        ("state", "checkpoint", file(2, &mark)),
        ("state", "checkpoint-body", file(3, &mark[..body])),
        ("state", "bucket", file(4, &bucket)),
    ];
    seeds.extend(crate::group::fuzz::seeds().into_iter().map(|(name, bytes)| ("group", name, bytes)));
    seeds
}
