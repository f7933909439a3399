//! The checkpoint: up to where, and of which log, a store's engine is a copy of its changelog. It is the mark that an
//! engine keeps behind its rows.
//!
//! Format, big-endian, a text or list behind its length in four bytes:
//!
//! ```text
//! version 1 | cluster id | topic id, 16 bytes | topic | partition i32 | application id | fingerprint u64
//!           | next offset i64 | leader epoch i32 | wall clock ms i64 | position: (topic, partition i32, next offset i64)*
//!           | CRC-32C of everything before, 4 bytes
//! ```
//!
//! An unknown cluster id is empty, an unknown topic id is all zeros, an unknown epoch is -1. In every version the first byte is
//! the version and the last four are the checksum, so that bytes of a later one are told from broken ones.

use bytes::{Buf, BufMut, Bytes, BytesMut, TryGetError};
use uuid::Uuid;

use super::verdict::Reason;
use crate::record::{Timestamp, TopicPartition};

/// The version that is written, and the newest that is read.
const VERSION: u8 = 1;

/// What a store is a cache of, and how its rows are to be read: all of a checkpoint that stays while the store is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The cluster's id, if its brokers tell one.
    pub(crate) cluster_id: Option<String>,
    /// The changelog topic's id, where the brokers have ids: another one means another topic under the same name.
    pub(crate) topic_id: Option<Uuid>,
    /// The changelog.
    pub(crate) at: TopicPartition,
    /// The application.
    pub(crate) application_id: String,
    /// What the rows' bytes mean ([`StoreBlueprint::fingerprint`](crate::store::StoreBlueprint::fingerprint)).
    pub(crate) fingerprint: u64,
}

/// Up to where a store's engine is a copy of its changelog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub(crate) origin: Origin,
    /// The offset of the changelog at which reading goes on: every record before it is in the engine.
    pub(crate) next_offset: i64,
    /// No record before [`next_offset`](Self::next_offset) is of a later leader epoch. While restoring that is the epoch of
    /// the last batch read, while running what the leader says ([`Admin::leader_epochs`](crate::client::Admin::leader_epochs))
    /// after it acknowledged the last record. One that is too low is safe: at worst a sound store is restored. -1 if no record
    /// was seen.
    pub(crate) leader_epoch: i32,
    /// A time by which no row of the engine had been deleted further on in the changelog, in ms since the Unix epoch: the
    /// tombstones that the engine lacks are younger. While running that is the time of the commit. While restoring it is
    /// *not* the present but the time at which restoring began, or that of the checkpoint that it began with
    /// ([`Start::wall_ms`](super::verdict::Start::wall_ms)): what was deleted before may come further on.
    pub(crate) wall_ms: Timestamp,
    /// The next offsets of the inputs that the rows follow from, where that is known.
    pub(crate) position: Vec<(TopicPartition, i64)>,
}

impl Checkpoint {
    /// The mark.
    pub(crate) fn encode(&self) -> Bytes {
        let Origin { cluster_id, topic_id, at, application_id, fingerprint } = &self.origin;
        let mut out = BytesMut::with_capacity(160);
        out.put_u8(VERSION);
        put_text(&mut out, cluster_id.as_deref().unwrap_or(""));
        out.put_u128(topic_id.unwrap_or_default().as_u128());
        put_partition(&mut out, at);
        put_text(&mut out, application_id);
        out.put_u64(*fingerprint);
        out.put_i64(self.next_offset);
        out.put_i32(self.leader_epoch);
        out.put_i64(self.wall_ms);
        put_length(&mut out, self.position.len());
        for (input, next_offset) in &self.position {
            put_partition(&mut out, input);
            out.put_i64(*next_offset);
        }
        let checksum = crc32c::crc32c(&out);
        out.put_u32(checksum);
        out.freeze()
    }

    /// Reads a mark.
    ///
    /// # Errors
    /// [`Reason::Unreadable`] and [`Reason::NewerFormat`]: reasons to restore the store anew.
    pub(crate) fn decode(mark: &[u8]) -> Result<Self, Reason> {
        let unreadable = |why: &str| Reason::Unreadable { why: format!("{why}, of {} bytes", mark.len()) };
        let Some((mut body, mut checksum)) = mark.split_last_chunk::<4>().map(|(body, sum)| (body, &sum[..]))
        else {
            return Err(unreadable("it is too short"));
        };
        if checksum.try_get_u32() != Ok(crc32c::crc32c(body)) {
            return Err(unreadable("its checksum is wrong"));
        }
        match body.try_get_u8() {
            Ok(VERSION) => {}
            Ok(version) if version > VERSION => return Err(Reason::NewerFormat { version }),
            _ => return Err(unreadable("it has no version")),
        }
        let checkpoint = read(&mut body).map_err(|why| unreadable(&why))?;
        match body {
            [] => Ok(checkpoint),
            more => Err(unreadable(&format!("{} bytes follow its end", more.len()))),
        }
    }
}

fn put_length(out: &mut BytesMut, length: usize) {
    out.put_u32(u32::try_from(length).expect("names and lists of partitions are shorter than 4 GiB"));
}

fn put_text(out: &mut BytesMut, text: &str) {
    put_length(out, text.len());
    out.put_slice(text.as_bytes());
}

fn put_partition(out: &mut BytesMut, at: &TopicPartition) {
    put_text(out, &at.topic);
    out.put_i32(at.partition);
}

fn read(from: &mut &[u8]) -> Result<Checkpoint, String> {
    let cut = |_: TryGetError| "it is cut off".to_owned();
    let cluster_id = Some(text(from)?).filter(|id| !id.is_empty());
    let topic_id = Some(Uuid::from_u128(from.try_get_u128().map_err(cut)?)).filter(|id| !id.is_nil());
    let at = partition(from)?;
    let application_id = text(from)?;
    let fingerprint = from.try_get_u64().map_err(cut)?;
    let next_offset = from.try_get_i64().map_err(cut)?;
    let leader_epoch = from.try_get_i32().map_err(cut)?;
    let wall_ms = from.try_get_i64().map_err(cut)?;
    if next_offset < 0 || leader_epoch < -1 {
        return Err(format!("it has offset {next_offset} and leader epoch {leader_epoch}"));
    }
    // No memory is reserved for a count that the bytes may not hold.
    let count = from.try_get_u32().map_err(cut)?;
    let position = (0..count).map(|_| Ok((partition(from)?, from.try_get_i64().map_err(cut)?)));
    let position = position.collect::<Result<_, String>>()?;
    let origin = Origin { cluster_id, topic_id, at, application_id, fingerprint };
    Ok(Checkpoint { origin, next_offset, leader_epoch, wall_ms, position })
}

fn partition(from: &mut &[u8]) -> Result<TopicPartition, String> {
    let topic = text(from)?;
    let partition = from.try_get_i32().map_err(|_| "it is cut off".to_owned())?;
    Ok(TopicPartition::new(topic, partition))
}

fn text(from: &mut &[u8]) -> Result<String, String> {
    let length = from.try_get_u32().ok().and_then(|length| usize::try_from(length).ok());
    let (text, rest) =
        length.and_then(|length| from.split_at_checked(length)).ok_or("a text in it is cut off")?;
    *from = rest;
    std::str::from_utf8(text).map(str::to_owned).map_err(|_| "a text in it is not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn checkpoint() -> Checkpoint {
        Checkpoint {
            origin: Origin {
                cluster_id: Some("MkU3OEVBNTcwNTJENDM2Qk".into()),
                topic_id: Some(Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff)),
                at: TopicPartition::new("app-counts-changelog", 3),
                application_id: "app".into(),
                fingerprint: 0x0102_0304_0506_0708,
            },
            next_offset: 1_234_567,
            leader_epoch: 9,
            wall_ms: 1_750_000_000_000,
            position: vec![(TopicPartition::new("words", 3), 42)],
        }
    }

    /// As version 1 wrote [`checkpoint`]. It stays as it is: what was written once is read for ever.
    const VERSION_1: &str = "\
        01 000000164d6b55334f4556424e5463774e544a454e444d32516b\
        00112233445566778899aabbccddeeff\
        000000146170702d636f756e74732d6368616e67656c6f67 00000003\
        00000003617070 0102030405060708\
        000000000012d687 00000009 000001977420dc00\
        00000001 00000005776f726473 00000003 000000000000002a\
        8b334ada";

    fn fixture() -> Vec<u8> {
        let digits: Vec<u32> = VERSION_1.chars().filter_map(|c| c.to_digit(16)).collect();
        digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
    }

    #[test]
    fn version_1_is_still_read() {
        assert_eq!(Checkpoint::decode(&fixture()), Ok(checkpoint()));
    }

    #[test]
    fn bytes_are_written_as_version_1_has_them() {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(&checkpoint().encode()), hex(&fixture()));
    }

    /// A checksum over any bytes, as if a version had written them.
    fn sealed(body: &[u8]) -> Vec<u8> {
        [body, &crc32c::crc32c(body).to_be_bytes()].concat()
    }

    #[test]
    fn a_later_version_is_told_from_broken_bytes() {
        let mut later = fixture();
        later.truncate(later.len() - 4);
        later[0] = 2;
        assert_eq!(Checkpoint::decode(&sealed(&later)), Err(Reason::NewerFormat { version: 2 }));
        later.extend([7; 100]);
        assert_eq!(Checkpoint::decode(&sealed(&later)), Err(Reason::NewerFormat { version: 2 }));
        later[0] = 1;
        let longer = Checkpoint::decode(&sealed(&later)).unwrap_err();
        assert!(longer.to_string().contains("100 bytes follow its end"), "{longer}");
        later[0] = 0;
        for broken in [sealed(&later), later, Vec::new(), vec![1], sealed(&[])] {
            let read = Checkpoint::decode(&broken);
            assert!(matches!(read, Err(Reason::Unreadable { .. })), "{read:?}");
        }
    }

    #[test]
    fn every_bit_and_every_byte_counts() {
        let good = fixture();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Checkpoint::decode(&bad).is_err(), "bit {bit}");
        }
        for length in 0..good.len() {
            assert!(Checkpoint::decode(&good[..length]).is_err(), "the first {length} bytes");
        }
    }

    #[test]
    fn impossible_numbers_are_not_believed() {
        for (next_offset, leader_epoch) in [(-1, 0), (i64::MIN, 0), (0, -2)] {
            let bytes = Checkpoint { next_offset, leader_epoch, ..checkpoint() }.encode();
            assert!(matches!(Checkpoint::decode(&bytes), Err(Reason::Unreadable { .. })));
        }
    }

    fn any_partition() -> impl Strategy<Value = TopicPartition> {
        (".{0,12}", any::<i32>()).prop_map(|(topic, partition)| TopicPartition::new(topic, partition))
    }

    prop_compose! {
        fn any_checkpoint()(
            cluster_id in proptest::option::of(".{1,30}"),
            topic_id in proptest::option::of(1..u128::MAX),
            at in any_partition(),
            application_id in ".{0,20}",
            fingerprint in any::<u64>(),
            next_offset in 0..i64::MAX,
            leader_epoch in -1..i32::MAX,
            wall_ms in any::<i64>(),
            position in proptest::collection::vec((any_partition(), any::<i64>()), 0..5),
        ) -> Checkpoint {
            let topic_id = topic_id.map(Uuid::from_u128);
            let origin = Origin { cluster_id, topic_id, at, application_id, fingerprint };
            Checkpoint { origin, next_offset, leader_epoch, wall_ms, position }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(checkpoint in any_checkpoint()) {
            prop_assert_eq!(Checkpoint::decode(&checkpoint.encode()), Ok(checkpoint));
        }

        /// The checksum does not protect from whoever makes one: lengths and counts are held against the bytes.
        #[test]
        fn bytes_of_any_kind_with_a_right_checksum_do_no_harm(
            checkpoint in any_checkpoint(),
            cut in any::<proptest::sample::Index>(),
            put in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..8),
            more in proptest::collection::vec(any::<u8>(), 0..8),
        ) {
            let mut body = checkpoint.encode().to_vec();
            body.truncate(1 + cut.index(body.len() - 4));
            body.extend(more);
            for (at, byte) in put {
                let at = at.index(body.len());
                body[at] = byte;
            }
            let _ = Checkpoint::decode(&sealed(&body));
        }
    }
}
