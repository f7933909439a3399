//! Compression of record batches: gzip, snappy, lz4 and zstd, each behind the cargo feature of its name.
//!
//! Input is hostile until proven otherwise: output grows by what was really decompressed, never by what a length field
//! promises, and stops at a limit.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};

use crate::error::{Error, ErrorKind, Result};

/// How the records of a batch are compressed; the numbers are those of the batch's attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum Compression {
    /// Not at all.
    #[default]
    None = 0,
    /// RFC 1952.
    Gzip = 1,
    /// Snappy blocks in the framing of snappy-java ("xerial").
    Snappy = 2,
    /// The LZ4 frame format.
    Lz4 = 3,
    /// RFC 8878.
    Zstd = 4,
}

impl Compression {
    /// Every kind, whether its feature is on or not.
    pub(crate) const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The kind that the lowest three bits of a batch's attributes name.
    pub(crate) fn from_attributes(attributes: i16) -> Option<Self> {
        Self::ALL.get(usize::from(attributes as u16 & 0x07)).copied()
    }

    /// The kind of a value of `compression.type`.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The value of `compression.type`, which is also the name of the cargo feature.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// Whether this build can compress and decompress it.
    pub(crate) fn is_available(self) -> bool {
        match self {
            Self::None => true,
            Self::Gzip => cfg!(feature = "gzip"),
            Self::Snappy => cfg!(feature = "snappy"),
            Self::Lz4 => cfg!(feature = "lz4"),
            Self::Zstd => cfg!(feature = "zstd"),
        }
    }

    /// Appends the compressed form of `plain` to `out`. `level` is for the codecs that have levels, gzip and zstd.
    #[allow(unused_variables, reason = "the level is not used when gzip and zstd are off")]
    pub(crate) fn compress(self, level: Option<i32>, plain: &[u8], out: &mut BytesMut) -> Result<()> {
        self.check_available()?;
        let done: io::Result<()> = match self {
            Self::None => {
                out.put_slice(plain);
                Ok(())
            }
            #[cfg(feature = "gzip")]
            Self::Gzip => gzip::compress(level, plain, out),
            #[cfg(feature = "snappy")]
            Self::Snappy => snappy::compress(plain, out),
            #[cfg(feature = "lz4")]
            Self::Lz4 => lz4::compress(plain, out),
            #[cfg(feature = "zstd")]
            Self::Zstd => zstandard::compress(level, plain, out),
            #[allow(unreachable_patterns, reason = "a feature may be off")]
            _ => Err(io::ErrorKind::Unsupported.into()),
        };
        done.map_err(|e| {
            Error::new(ErrorKind::Production, format!("cannot compress a batch with {}", self.name()))
                .because(e)
        })
    }

    /// The plain form of `packed`, which must not be longer than `limit` bytes.
    #[allow(unused_variables, reason = "the limit is not used when every feature is off")]
    pub(crate) fn decompress(self, packed: &Bytes, limit: usize) -> Result<Bytes> {
        self.check_available()?;
        let plain: io::Result<Vec<u8>> = match self {
            Self::None => return Ok(packed.clone()),
            #[cfg(feature = "gzip")]
            Self::Gzip => gzip::decompress(packed, limit),
            #[cfg(feature = "snappy")]
            Self::Snappy => snappy::decompress(packed, limit),
            #[cfg(feature = "lz4")]
            Self::Lz4 => lz4::decompress(packed, limit),
            #[cfg(feature = "zstd")]
            Self::Zstd => zstandard::decompress(packed, limit),
            #[allow(unreachable_patterns, reason = "a feature may be off")]
            _ => Err(io::ErrorKind::Unsupported.into()),
        };
        plain.map(Bytes::from).map_err(|e| {
            Error::new(ErrorKind::Corrupt, format!("cannot decompress a batch of {}", self.name())).because(e)
        })
    }

    fn check_available(self) -> Result<()> {
        if self.is_available() {
            return Ok(());
        }
        let name = self.name();
        Err(Error::new(
            ErrorKind::Config,
            format!(
                "batches are compressed with {name}, which this build cannot do: turn on mainstem's cargo feature `{name}`"
            ),
        ))
    }
}

#[allow(dead_code, reason = "used by every codec, but there may be none")]
fn too_long(limit: usize) -> io::Error {
    io::Error::other(format!("more than {limit} bytes come out of it"))
}

#[allow(dead_code, reason = "not used by snappy")]
fn read_all(mut from: impl io::Read, packed: usize, limit: usize) -> io::Result<Vec<u8>> {
    const FIRST: usize = 4 << 10;
    let mut plain = Vec::new();
    let mut step = packed.clamp(FIRST, 1 << 20);
    loop {
        let start = plain.len();
        plain.resize(start + step, 0);
        let mut filled = start;
        while filled < plain.len() {
            match from.read(&mut plain[filled..]) {
                Ok(0) => {
                    plain.truncate(filled);
                    return if filled > limit { Err(too_long(limit)) } else { Ok(plain) };
                }
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        if filled > limit {
            return Err(too_long(limit));
        }
        step = filled.clamp(FIRST, 4 << 20);
    }
}

#[cfg(feature = "gzip")]
mod gzip {
    use super::*;
    use flate2::{read::MultiGzDecoder, write::GzEncoder};
    use std::io::Write;

    pub(super) fn compress(level: Option<i32>, plain: &[u8], out: &mut BytesMut) -> io::Result<()> {
        let level = level
            .and_then(|level| u32::try_from(level).ok())
            .map(|level| flate2::Compression::new(level.min(9)));
        let mut encoder = GzEncoder::new(out.writer(), level.unwrap_or_default());
        encoder.write_all(plain)?;
        encoder.finish().map(drop)
    }

    pub(super) fn decompress(packed: &[u8], limit: usize) -> io::Result<Vec<u8>> {
        read_all(MultiGzDecoder::new(packed), packed.len(), limit)
    }
}

#[cfg(feature = "lz4")]
mod lz4 {
    use super::*;
    use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};
    use std::io::Write;

    pub(super) fn compress(plain: &[u8], out: &mut BytesMut) -> io::Result<()> {
        // Java's Lz4BlockInputStream reads independent blocks only.
        let info = FrameInfo::new().block_mode(BlockMode::Independent).block_size(BlockSize::Max64KB);
        let mut encoder = FrameEncoder::with_frame_info(info, out.writer());
        encoder.write_all(plain)?;
        encoder.finish().map(drop).map_err(io::Error::from)
    }

    pub(super) fn decompress(packed: &[u8], limit: usize) -> io::Result<Vec<u8>> {
        read_all(FrameDecoder::new(packed), packed.len(), limit)
    }
}

#[cfg(feature = "zstd")]
mod zstandard {
    use super::*;
    use std::io::Write;

    /// The largest window (as a power of two) that Java and librdkafka accept; it bounds what a frame header can make
    /// the decoder reserve.
    const WINDOW_LOG_MAX: u32 = 27;

    pub(super) fn compress(level: Option<i32>, plain: &[u8], out: &mut BytesMut) -> io::Result<()> {
        let level = level.unwrap_or(zstd::DEFAULT_COMPRESSION_LEVEL);
        let mut encoder = zstd::Encoder::new(out.writer(), level)?;
        // Lets the encoder choose a window no larger than the batch.
        encoder.set_pledged_src_size(Some(plain.len() as u64))?;
        encoder.write_all(plain)?;
        encoder.finish().map(drop)
    }

    pub(super) fn decompress(packed: &[u8], limit: usize) -> io::Result<Vec<u8>> {
        let mut decoder = zstd::Decoder::with_buffer(packed)?;
        decoder.window_log_max(WINDOW_LOG_MAX)?;
        read_all(decoder, packed.len(), limit)
    }
}

#[cfg(feature = "snappy")]
mod snappy {
    use super::*;
    use snap::raw::{Decoder, Encoder, decompress_len, max_compress_len};

    /// What org.xerial.snappy.SnappyOutputStream writes first; two version numbers follow.
    const MAGIC: &[u8; 8] = b"\x82SNAPPY\0";
    const BLOCK: usize = 32 << 10;
    /// A copy of 64 bytes takes 3: no block grows by more than this.
    const MAX_RATIO: usize = 22;

    pub(super) fn compress(plain: &[u8], out: &mut BytesMut) -> io::Result<()> {
        out.put_slice(MAGIC);
        out.put_i32(1);
        out.put_i32(1);
        let mut encoder = Encoder::new();
        for block in plain.chunks(BLOCK) {
            let at = out.len();
            out.resize(at + 4 + max_compress_len(block.len()), 0);
            let packed = encoder.compress(block, &mut out[at + 4..]).map_err(io::Error::other)?;
            out[at..at + 4].copy_from_slice(&(packed as u32).to_be_bytes());
            out.truncate(at + 4 + packed);
        }
        Ok(())
    }

    pub(super) fn decompress(packed: &[u8], limit: usize) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        let mut decoder = Decoder::new();
        if !packed.starts_with(MAGIC) {
            // librdkafka and others write one bare block.
            block(&mut decoder, packed, &mut plain, limit)?;
            return Ok(plain);
        }
        let cut = || io::Error::new(io::ErrorKind::UnexpectedEof, "a snappy block is cut off");
        let mut rest = packed;
        while !rest.is_empty() {
            if rest.starts_with(MAGIC) {
                // Streams may follow each other.
                rest = rest.get(MAGIC.len() + 8..).ok_or_else(cut)?;
                continue;
            }
            let (length, tail) = rest.split_first_chunk().ok_or_else(cut)?;
            let length = usize::try_from(i32::from_be_bytes(*length)).map_err(|_| cut())?;
            let (packed, tail) = tail.split_at_checked(length).ok_or_else(cut)?;
            block(&mut decoder, packed, &mut plain, limit)?;
            rest = tail;
        }
        Ok(plain)
    }

    fn block(decoder: &mut Decoder, packed: &[u8], plain: &mut Vec<u8>, limit: usize) -> io::Result<()> {
        let length = decompress_len(packed).map_err(io::Error::other)?;
        if length > packed.len().saturating_mul(MAX_RATIO) {
            return Err(io::Error::other("a snappy block promises more bytes than it can hold"));
        }
        let at = plain.len();
        if at + length > limit {
            return Err(too_long(limit));
        }
        plain.resize(at + length, 0);
        decoder.decompress(packed, &mut plain[at..]).map(drop).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn available() -> impl Iterator<Item = Compression> {
        Compression::ALL.into_iter().filter(|kind| kind.is_available())
    }

    fn pack(kind: Compression, plain: &[u8]) -> Bytes {
        let mut out = BytesMut::new();
        kind.compress(None, plain, &mut out).unwrap();
        out.freeze()
    }

    #[test]
    fn every_codec_round_trips() {
        let text: Vec<u8> = (0..200_000u32).flat_map(|i| (i / 7).to_be_bytes()).collect();
        for kind in available() {
            for plain in [&b""[..], b"x", b"hello hello hello", &text] {
                assert_eq!(kind.decompress(&pack(kind, plain), text.len()).unwrap(), plain, "{kind:?}");
            }
        }
    }

    #[cfg(all(feature = "gzip", feature = "zstd"))]
    #[test]
    fn a_higher_level_packs_closer_and_reads_the_same() {
        let text: Vec<u8> = (0..60_000u32).flat_map(|i| (i % 977 * (i % 31)).to_be_bytes()).collect();
        for (kind, low, high) in [(Compression::Gzip, 1, 9), (Compression::Zstd, 1, 19)] {
            let packed = |level| {
                let mut out = BytesMut::new();
                kind.compress(Some(level), &text, &mut out).unwrap();
                out.freeze()
            };
            assert!(packed(high).len() < packed(low).len(), "{kind:?}");
            assert_eq!(kind.decompress(&packed(high), text.len()).unwrap(), text, "{kind:?}");
        }
    }

    #[test]
    fn names_and_numbers_are_kafkas() {
        for (id, name) in ["none", "gzip", "snappy", "lz4", "zstd"].into_iter().enumerate() {
            let kind = Compression::from_name(name).unwrap();
            assert_eq!(kind as usize, id);
            assert_eq!(Compression::from_attributes(0x30 | id as i16), Some(kind));
        }
        assert_eq!(Compression::from_attributes(5), None);
        assert_eq!(Compression::from_name("brotli"), None);
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let plain = vec![0u8; 32 << 20];
        for kind in available().filter(|&kind| kind != Compression::None) {
            let packed = pack(kind, &plain);
            let error = kind.decompress(&packed, 1 << 20).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{kind:?}");
            assert!(format!("{error:?}").contains("more than 1048576 bytes"), "{error:?}");
        }
    }

    #[test]
    fn damage_is_an_error_or_other_bytes_but_never_a_panic() {
        let plain: Vec<u8> = (0..3_000u32).flat_map(|i| (i / 7).to_be_bytes()).collect();
        for kind in available().filter(|&kind| kind != Compression::None) {
            let packed = pack(kind, &plain);
            for at in 0..packed.len() {
                if let Ok(short) = kind.decompress(&packed.slice(..at), plain.len()) {
                    assert!(short.len() <= plain.len());
                }
                let mut broken = packed.to_vec();
                broken[at] ^= 0xa5;
                if let Ok(other) = kind.decompress(&broken.into(), 1 << 20) {
                    assert!(other.len() <= 1 << 20);
                }
            }
        }
    }

    #[cfg(feature = "snappy")]
    #[test]
    fn snappy_is_read_bare_and_framed_and_its_lengths_are_not_believed() {
        let plain = b"one two one two one two".repeat(100);
        let bare = snap::raw::Encoder::new().compress_vec(&plain).unwrap();
        assert_eq!(Compression::Snappy.decompress(&bare.into(), 1 << 20).unwrap(), plain);
        let mut twice = pack(Compression::Snappy, &plain).to_vec();
        twice.extend_from_within(..);
        assert_eq!(Compression::Snappy.decompress(&twice.into(), 1 << 20).unwrap(), plain.repeat(2));
        // A block of three bytes that promises 256 MB.
        let hostile = Bytes::from_static(&[0x80, 0x80, 0x80, 0x80, 0x01, 0x00, 0x61]);
        let error = Compression::Snappy.decompress(&hostile, usize::MAX).unwrap_err();
        assert!(format!("{error:?}").contains("promises more"), "{error:?}");
    }
}
