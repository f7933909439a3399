//! Round trips, damage, hostile lengths, and bytes that Kafka's own classes wrote.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;

use super::header::{ATTRIBUTES_AT, COUNT_AT, CRC_AT, LAST_OFFSET_DELTA_AT, LENGTH_AT, MAGIC_AT, RECORDS_AT};
use super::*;
use crate::client::compression::Compression;
use crate::error::{Error, Result};
use crate::record::{Headers, put_varint};

type Owned = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(String, Option<Vec<u8>>)>);

const STAMP: ProducerStamp =
    ProducerStamp { producer_id: 7, producer_epoch: 2, base_sequence: 40, transactional: true };

fn kinds() -> impl Iterator<Item = Compression> {
    Compression::ALL.into_iter().filter(|kind| kind.is_available())
}

fn headers(list: &[(String, Option<Vec<u8>>)]) -> Headers {
    list.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect()
}

fn close(kind: Compression, records: &[Owned]) -> ClosedBatch {
    let mut builder = BatchBuilder::new(kind);
    for (timestamp, key, value, list) in records {
        let headers = headers(list);
        let expected = builder.len_with(*timestamp, key.as_deref(), value.as_deref(), &headers);
        builder.append(*timestamp, key.as_deref(), value.as_deref(), &headers);
        assert_eq!(builder.len(), expected, "the length said beforehand is the length");
    }
    assert_eq!(builder.count(), records.len());
    builder.close().unwrap()
}

fn only(bytes: Bytes) -> Batch {
    let mut batches = Batches::new(bytes);
    let batch = batches.next().unwrap().unwrap();
    assert!(batches.next().is_none());
    batch
}

fn read(batch: &Batch) -> Vec<Owned> {
    batch
        .records()
        .unwrap()
        .map(|record| {
            let record = record.unwrap();
            let list = record
                .headers
                .iter()
                .map(|h| (h.key().into_owned(), h.value().map(<[u8]>::to_vec)))
                .collect();
            (record.timestamp, record.key.map(Vec::from), record.value.map(Vec::from), list)
        })
        .collect()
}

fn sample() -> Vec<Owned> {
    (0..40)
        .map(|i| {
            let list = vec![("h".to_owned(), Some(vec![i as u8])), ("h".to_owned(), None)];
            (1_000 - i64::from(i) * 100, Some(vec![1; i as usize % 5]), Some(b"value".repeat(9)), list)
        })
        .collect()
}

/// Everything that can be asked of bytes, so that nothing panics.
fn walk(bytes: Bytes) -> Result<usize> {
    scan(&bytes).ok();
    let mut filter = AbortedFilter::new([(7, 0), (9, i64::MAX)]);
    let mut seen = 0;
    for batch in Batches::new(bytes) {
        let batch = batch?;
        batch.control_type()?;
        filter.admits(&batch)?;
        for record in batch.records_within(1 << 20)? {
            record?;
            seen += 1;
        }
        batch.verify_crc()?;
    }
    Ok(seen)
}

fn arb_bytes() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop_oneof![
        1 => Just(None),
        1 => Just(Some(Vec::new())),
        4 => proptest::collection::vec(any::<u8>(), 0..200).prop_map(Some),
        1 => (any::<u8>(), 1usize..40_000).prop_map(|(byte, n)| Some(vec![byte; n])),
    ]
}

fn arb_record() -> impl Strategy<Value = Owned> {
    let header = ("[a-c]{0,2}", proptest::option::of(proptest::collection::vec(any::<u8>(), 0..9)));
    let timestamp = prop_oneof![0..2_000_000_000_000i64, any::<i64>()];
    (timestamp, arb_bytes(), arb_bytes(), proptest::collection::vec(header, 0..4))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn batches_round_trip(records in proptest::collection::vec(arb_record(), 1..30)) {
        for kind in kinds() {
            let mut closed = close(kind, &records);
            let bytes = closed.seal(STAMP);
            prop_assert_eq!(bytes.len(), closed.len());
            let batch = only(bytes.clone());
            batch.verify_crc().unwrap();
            prop_assert_eq!(read(&batch), records.clone());
            prop_assert_eq!(batch.record_count(), records.len());
            prop_assert_eq!((batch.base_offset(), batch.next_offset()), (0, records.len() as i64));
            prop_assert_eq!(batch.max_timestamp(), records.iter().map(|r| r.0).max().unwrap());
            prop_assert_eq!(
                (batch.producer_id(), batch.producer_epoch(), batch.base_sequence(), batch.is_transactional()),
                (7, 2, 40, true)
            );
            prop_assert!(!batch.is_control());

            // Another stamp changes the numbers and nothing else, also while the first bytes are still held.
            let other = only(closed.seal(ProducerStamp { base_sequence: 0, transactional: false, ..STAMP }));
            other.verify_crc().unwrap();
            prop_assert_eq!((other.base_sequence(), other.is_transactional()), (0, false));
            prop_assert_eq!(read(&other), records.clone());
            prop_assert_eq!(read(&only(bytes)), records.clone());

            if let Some((mut first, mut second)) = closed.split().unwrap() {
                let mut both = read(&only(first.seal(STAMP)));
                prop_assert_eq!(both.len(), records.len().div_ceil(2));
                both.extend(read(&only(second.seal(STAMP))));
                prop_assert_eq!(both, records.clone());
            } else {
                prop_assert_eq!(records.len(), 1);
            }
        }
    }

    #[test]
    fn noise_is_never_a_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), format: bool) {
        if format && bytes.len() > 70 {
            // Enough of a header to reach the records.
            let length = bytes.len() as i32 - 12;
            bytes[0] = 0;
            bytes[LENGTH_AT..LENGTH_AT + 4].copy_from_slice(&length.to_be_bytes());
            bytes[MAGIC_AT] = 2;
            bytes[LAST_OFFSET_DELTA_AT] &= 0x7f;
            bytes[COUNT_AT..COUNT_AT + 2].copy_from_slice(&[0; 2]);
        }
        walk(bytes.into()).ok();
    }
}

#[test]
fn a_cut_off_batch_ends_the_walk_and_the_scan() {
    for kind in kinds() {
        let one = close(kind, &sample()).seal(STAMP);
        let two = Bytes::from([&one[..], &one[..]].concat());
        for cut in 0..two.len() {
            let cut_off = two.slice(..cut);
            let whole = cut / one.len();
            let found = scan(&cut_off).unwrap();
            assert_eq!(found.batches, whole, "{kind:?} cut at {cut}");
            assert_eq!(found.complete_len, whole * one.len());
            assert_eq!(found.next_offset, (whole == 1).then_some(40));
            assert_eq!(found.records, whole * 40);
            assert_eq!(Batches::new(cut_off).filter(|batch| batch.is_ok()).count(), whole);
        }
    }
}

#[test]
fn every_flipped_byte_is_noticed() {
    for kind in kinds() {
        let good = close(kind, &sample()).seal(STAMP);
        assert_eq!(walk(good.clone()).unwrap(), 40);
        // Base offset and leader epoch are the broker's to write: no CRC covers them.
        for at in (LENGTH_AT..12).chain(MAGIC_AT..good.len()) {
            for flip in [0x01, 0x80, 0xff] {
                let mut bad = good.to_vec();
                bad[at] ^= flip;
                // A longer length looks like a batch that is cut off: no record comes out.
                assert_ne!(walk(bad.into()).ok(), Some(40), "{kind:?} byte {at} flipped by {flip:02x}");
            }
        }
    }
}

#[test]
fn an_error_is_told_once_and_ends_the_walk() {
    let one = close(Compression::None, &sample()).seal(STAMP);
    let mut bad = one.to_vec();
    bad[MAGIC_AT] = 1;
    let both = Bytes::from([&one[..], &bad[..], &one[..]].concat());
    let found = scan(&both).unwrap();
    assert_eq!((found.batches, found.complete_len), (1, one.len()), "good batches before a bad one count");
    let mut batches = Batches::new(both.clone());
    assert!(batches.next().unwrap().is_ok());
    let error = batches.next().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("format 1"), "{error}");
    assert!(batches.next().is_none());
    assert!(scan(&both[one.len()..]).unwrap_err().to_string().contains("format 1"));
}

/// A batch whose records part is just `records`, with a right CRC.
fn crafted(count: i32, records: &[u8]) -> Bytes {
    let mut bytes = close(Compression::None, &sample()[..1]).seal(STAMP).to_vec();
    bytes.truncate(RECORDS_AT);
    bytes.extend_from_slice(records);
    let length = bytes.len() as i32 - 12;
    bytes[LENGTH_AT..LENGTH_AT + 4].copy_from_slice(&length.to_be_bytes());
    bytes[LAST_OFFSET_DELTA_AT..LAST_OFFSET_DELTA_AT + 4].copy_from_slice(&(count - 1).max(0).to_be_bytes());
    bytes[COUNT_AT..COUNT_AT + 4].copy_from_slice(&count.to_be_bytes());
    let crc = crc32c::crc32c(&bytes[ATTRIBUTES_AT..]);
    bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

fn corrupt_of(bytes: Bytes) -> Error {
    let error = walk(bytes).expect_err("it is corrupt");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    error
}

#[test]
fn hostile_lengths_are_errors() {
    let record = |fields: &[i64]| {
        let mut body = BytesMut::new();
        body.put_u8(0);
        fields.iter().for_each(|&field| put_varint(&mut body, field));
        let mut whole = BytesMut::new();
        put_varint(&mut whole, body.len() as i64);
        whole.put_slice(&body);
        whole.to_vec()
    };
    assert_eq!(walk(crafted(1, &record(&[0, 0, -1, -1, 0]))).unwrap(), 1);
    let far = i64::from(i32::MAX);
    for (what, count, records) in [
        ("more records than bytes", i32::MAX, record(&[0, 0, -1, -1, 0])),
        ("bytes after the last record", 1, record(&[0, 0, -1, -1, 0]).repeat(2)),
        ("no records but bytes", 0, vec![0; 9]),
        ("negative record length", 1, vec![0x03, 0, 0, 0]),
        ("empty record", 1, vec![0x00]),
        ("huge record length", 1, vec![0xfe, 0xff, 0xff, 0xff, 0x0f, 0]),
        ("endless varint", 1, vec![0xff; 40]),
        ("key beyond its record", 1, record(&[0, 0, far, -1, 0])),
        ("negative key length", 1, record(&[0, 0, -2, -1, 0])),
        ("value beyond its record", 1, record(&[0, 0, -1, far, 0])),
        ("negative value length", 1, record(&[0, 0, -1, i64::MIN, 0])),
        ("many headers", 1, record(&[0, 0, -1, -1, far])),
        ("more headers than fit the type", 1, record(&[0, 0, -1, -1, i64::MAX])),
        ("negative header count", 1, record(&[0, 0, -1, -1, -1])),
        ("null header name", 1, record(&[0, 0, -1, -1, 1, -1, -1])),
        ("bytes after the headers", 1, record(&[0, 0, -1, -1, 0, 0])),
        ("offset before the batch", 1, record(&[0, -1, -1, -1, 0])),
        ("offset after the batch", 1, record(&[0, 1, -1, -1, 0])),
        ("record cut off", 1, record(&[0, 0, -1])),
    ] {
        let batch = only(crafted(count, &records));
        batch.verify_crc().unwrap();
        let results: Vec<_> = batch.records().unwrap().take(4).collect();
        assert!(matches!(results.last(), Some(Err(_))), "{what}: the error is last: {results:?}");
        assert_eq!(results.iter().filter(|result| result.is_err()).count(), 1, "{what}");
        corrupt_of(crafted(count, &records));
    }

    let good = crafted(1, &record(&[0, 0, -1, -1, 0]));
    let patched = |at: usize, field: &[u8]| {
        let mut bytes = good.to_vec();
        bytes[at..at + field.len()].copy_from_slice(field);
        Bytes::from(bytes)
    };
    corrupt_of(patched(0, &(-1i64).to_be_bytes()));
    corrupt_of(patched(0, &i64::MAX.to_be_bytes()));
    corrupt_of(patched(COUNT_AT, &(-1i32).to_be_bytes()));
    corrupt_of(patched(COUNT_AT, &i32::MAX.to_be_bytes()));
    corrupt_of(patched(LAST_OFFSET_DELTA_AT, &(-1i32).to_be_bytes()));
    corrupt_of(patched(ATTRIBUTES_AT, &5i16.to_be_bytes()));
    for length in [i32::MIN, -1, 0, 13, 48] {
        corrupt_of(patched(LENGTH_AT, &length.to_be_bytes()));
    }
    assert_eq!(walk(patched(LENGTH_AT, &i32::MAX.to_be_bytes())).unwrap(), 0, "looks cut off");
}

#[test]
fn a_bomb_is_refused() {
    let zeros = vec![(0, None, Some(vec![0; 2 << 20]), vec![])];
    for kind in kinds().filter(|&kind| kind != Compression::None) {
        let batch = only(close(kind, &zeros).seal(STAMP));
        assert!(batch.size() < 200_000);
        let error = batch.records_within(1 << 20).unwrap_err();
        assert_eq!((error.kind(), error.offset()), (ErrorKind::Corrupt, Some(0)));
        assert_eq!(read(&batch), zeros);
    }
}

#[test]
fn sequences_wrap_to_zero() {
    assert_eq!(next_sequence(0, 5), 5);
    assert_eq!(next_sequence(i32::MAX, 1), 0);
    assert_eq!(next_sequence(i32::MAX - 1, 5), 3);
}

#[test]
fn the_length_of_a_lone_record_is_that_of_its_batch() {
    for (timestamp, key, value, list) in sample() {
        let headers = headers(&list);
        let mut builder = BatchBuilder::new(Compression::None);
        builder.append(timestamp, key.as_deref(), value.as_deref(), &headers);
        assert_eq!(builder.len(), record_len(key.as_deref(), value.as_deref(), &headers));
    }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/batches")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn fixture(name: &str) -> Bytes {
    let text = std::fs::read_to_string(fixtures().join(format!("{name}.hex"))).unwrap();
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect::<Vec<_>>()
        .into()
}

/// As `dump` of GoldenBatches.java.
fn dump(bytes: Bytes) -> String {
    let show = |bytes: Option<&[u8]>| match bytes {
        None => "null".to_owned(),
        Some([]) => "-".to_owned(),
        Some(short) if short.len() <= 64 => hex(short),
        Some(long) => format!("{}:{:08x}", long.len(), crc32c::crc32c(long)),
    };
    let mut out = String::new();
    for batch in Batches::new(bytes) {
        let batch = batch.unwrap();
        batch.verify_crc().unwrap();
        writeln!(
            out,
            "batch base={} next={} leader-epoch={} producer={}/{}/{} transactional={} control={} compression={} \
             count={} max-timestamp={} {:?}",
            batch.base_offset(),
            batch.next_offset(),
            batch.partition_leader_epoch(),
            batch.producer_id(),
            batch.producer_epoch(),
            batch.base_sequence(),
            batch.is_transactional(),
            batch.is_control(),
            batch.compression().unwrap().name(),
            batch.record_count(),
            batch.max_timestamp(),
            batch.timestamp_type()
        )
        .unwrap();
        let control = batch.control_type().unwrap();
        for record in batch.records().unwrap() {
            let record = record.unwrap();
            write!(out, "  {} @{} ", record.offset, record.timestamp).unwrap();
            if let Some(control) = control {
                write!(out, "{} ", format!("{control:?}").to_uppercase()).unwrap();
            }
            write!(out, "{} {}", show(record.key.as_deref()), show(record.value.as_deref())).unwrap();
            for header in record.headers.iter() {
                write!(out, " {}={}", hex(header.key_bytes()), show(header.value())).unwrap();
            }
            out.push('\n');
        }
    }
    out
}

#[test]
fn what_java_wrote_reads_the_same() {
    let mut seen = 0;
    for entry in std::fs::read_dir(fixtures()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "hex") {
            let name = path.file_stem().unwrap().to_str().unwrap();
            let feature = name.split('-').next().and_then(Compression::from_name);
            if feature.is_some_and(|kind| !kind.is_available()) {
                let error = only(fixture(name)).records().unwrap_err();
                assert!(error.to_string().contains("cargo feature"), "{error}");
                continue;
            }
            let expected = std::fs::read_to_string(path.with_extension("txt")).unwrap();
            assert_eq!(dump(fixture(name)), expected, "{name}");
            seen += 1;
        }
    }
    assert!(seen >= 5, "{seen} fixtures");
}

/// The batches as Java would have built them are the same bytes, but for what the broker writes.
#[test]
fn what_we_write_is_what_java_wrote() {
    let java = fixture("none-oddities");
    let mut ours = close(Compression::None, &read(&only(java.clone()))).seal(ProducerStamp::NONE).to_vec();
    ours[..8].copy_from_slice(&java[..8]);
    ours[12..16].copy_from_slice(&java[12..16]);
    assert_eq!(hex(&ours), hex(&java));
}

/// Checks what is written for Java to read, and writes it to the folder that MAINSTEM_BATCHES_OUT names:
/// `GoldenBatches read` must then print the same as the `*.txt` files beside.
#[test]
fn what_we_write_for_java() {
    let out = std::env::var_os("MAINSTEM_BATCHES_OUT").map(PathBuf::from);
    for kind in kinds() {
        let many: Vec<Owned> = (0..500)
            .map(|i| (1_700_000_000_000 + i, Some(vec![b'k'; i as usize % 9]), Some(vec![b'v'; 321]), vec![]))
            .collect();
        for (name, records) in
            [("sample", sample()), ("oddities", read(&only(fixture("none-oddities")))), ("many", many)]
        {
            let bytes = close(kind, &records).seal(STAMP);
            let text = dump(bytes.clone());
            assert_eq!(text.lines().count(), records.len() + 1);
            if let Some(out) = &out {
                let path = out.join(format!("ours-{}-{name}", kind.name()));
                std::fs::write(path.with_extension("hex"), hex(&bytes)).unwrap();
                std::fs::write(path.with_extension("txt"), text).unwrap();
            }
        }
    }
}

fn delivered(mut filter: AbortedFilter) -> (Vec<String>, i64) {
    let mut values = Vec::new();
    let mut next = 0;
    for batch in Batches::new(fixture("transactions")) {
        let batch = batch.unwrap();
        if filter.admits(&batch).unwrap() {
            for record in batch.records().unwrap() {
                values.push(String::from_utf8(record.unwrap().value.unwrap().into()).unwrap());
            }
        }
        next = batch.next_offset();
    }
    (values, next)
}

#[test]
fn aborted_transactions_are_held_back_until_their_marker() {
    let (values, next) = delivered(AbortedFilter::new([(11, 0)]));
    assert_eq!(values, ["b0", "p", "b1", "a3"]);
    assert_eq!(next, 10, "the next offset is behind the last marker");
    let (values, next) = delivered(AbortedFilter::default());
    assert_eq!(values, ["a0", "a1", "b0", "p", "a2", "b1", "a3"], "read_uncommitted: all but the markers");
    assert_eq!(next, 10);
    // The list may name transactions that begin later, and in any order.
    let (values, _) = delivered(AbortedFilter::new([(11, 8), (22, 2), (33, 500), (11, 0)]));
    assert_eq!(values, ["p"]);
}

#[test]
fn a_commit_marker_does_not_end_an_aborted_transaction_ahead() {
    // A fetch that begins inside a transaction: its first offset is before the response.
    let all: Vec<_> = Batches::new(fixture("transactions")).map(Result::unwrap).collect();
    let mut filter = AbortedFilter::new([(11, 0)]);
    let verdicts: Vec<_> = all[3..].iter().map(|batch| filter.admits(batch).unwrap()).collect();
    assert_eq!(verdicts, [false, false, true, false, true, false]);
}
