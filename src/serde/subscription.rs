//! What the two sides of a foreign-key join send each other, byte for byte as Kafka Streams does (KIP-213, KIP-775: version 1):
//! `SubscriptionWrapperSerde`, `SubscriptionResponseWrapperSerde`, `CombinedKeySchema`, `Murmur3`.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::erased::SerdeRef;
use super::{Serde, SerdeCx, SerdeError};

const VERSION: u8 = 1;
const HASH_IS_NULL: u8 = 0x80;
/// Between the parts of a subscription: version, instruction; the partition comes last.
const HEAD: usize = 2;

/// What the right side does with a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Instruction {
    /// Forget it.
    DeleteKeyNoPropagate = 0,
    /// Forget it, and answer that there is no row.
    DeleteKeyAndPropagate = 1,
    /// Answer, also if there is no row.
    PropagateNullIfNoForeignValue = 2,
    /// Answer if there is a row.
    PropagateOnlyIfForeignValue = 3,
}

impl Instruction {
    fn of(byte: u8) -> Result<Self, SerdeError> {
        Ok(match byte {
            0 => Self::DeleteKeyNoPropagate,
            1 => Self::DeleteKeyAndPropagate,
            2 => Self::PropagateNullIfNoForeignValue,
            3 => Self::PropagateOnlyIfForeignValue,
            _ => {
                return Err(SerdeError::new(format!(
                    "a subscription with the instruction {byte} instead of 0 to 3"
                )));
            }
        })
    }
}

/// The hash of a row's bytes; `None` for no row.
pub(crate) type RowHash = Option<[u64; 2]>;

/// What the left side sends under the foreign key: its row wants the row of that key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subscription<K> {
    pub(crate) hash: RowHash,
    pub(crate) instruction: Instruction,
    pub(crate) primary_key: K,
    /// Where the answer goes; not known of version 0.
    pub(crate) primary_partition: Option<i32>,
}

/// `version | 0x80 if there is no hash ‖ instruction ‖ hash ‖ primary key ‖ partition`.
#[derive(Debug, Clone)]
pub(crate) struct SubscriptionSerde<K>(pub(crate) SerdeRef<K>);

fn put_hash(version: u8, hash: RowHash, rest: &[u8], out: &mut BytesMut) {
    out.put_u8(if hash.is_some() { version } else { version | HASH_IS_NULL });
    out.put_slice(rest);
    for half in hash.into_iter().flatten() {
        out.put_u64(half);
    }
}

fn get_hash(has_none: bool, bytes: &mut Bytes) -> Result<RowHash, SerdeError> {
    if has_none {
        return Ok(None);
    }
    if bytes.len() < 16 {
        return Err(SerdeError::new(format!("{} bytes instead of a hash of 16", bytes.len())));
    }
    Ok(Some([bytes.get_u64(), bytes.get_u64()]))
}

fn version_of(byte: u8) -> Result<u8, SerdeError> {
    match byte & !HASH_IS_NULL {
        version @ (0 | VERSION) => Ok(version),
        version => Err(SerdeError::new(format!(
            "a message of a foreign-key join with the version {version} instead of 0 or 1"
        ))),
    }
}

impl<K: Clone + 'static> Serde<Subscription<K>> for SubscriptionSerde<K> {
    const CANONICAL: bool = false;

    fn write(&self, value: &Subscription<K>, cx: &SerdeCx<'_>, out: &mut BytesMut) -> Result<(), SerdeError> {
        let version = if value.primary_partition.is_some() { VERSION } else { 0 };
        put_hash(version, value.hash, &[value.instruction as u8], out);
        self.0.write(&value.primary_key, &SerdeCx { is_key: true, ..*cx }, out)?;
        if let Some(partition) = value.primary_partition {
            out.put_i32(partition);
        }
        Ok(())
    }

    fn read(&self, bytes: &Bytes, cx: &SerdeCx<'_>) -> Result<Subscription<K>, SerdeError> {
        let mut rest = bytes.clone();
        if rest.len() < HEAD {
            return Err(SerdeError::new(format!(
                "{} bytes instead of a subscription of at least {HEAD}",
                rest.len()
            )));
        }
        let head = rest.get_u8();
        let version = version_of(head)?;
        let instruction = Instruction::of(rest.get_u8())?;
        let hash = get_hash(head & HASH_IS_NULL != 0, &mut rest)?;
        let primary_partition = match version {
            0 => None,
            _ => {
                let Some(key) = rest.len().checked_sub(4) else {
                    return Err(SerdeError::new("a subscription that ends before its partition"));
                };
                Some(rest.split_off(key).get_i32())
            }
        };
        let primary_key = self.0.read(&rest, &SerdeCx { is_key: true, ..*cx })?;
        Ok(Subscription { hash, instruction, primary_key, primary_partition })
    }
}

/// What the right side answers under the primary key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SubscriptionResponse<V> {
    /// That of the subscription: if the row has another one by now, the answer is stale.
    pub(crate) hash: RowHash,
    pub(crate) value: Option<V>,
    /// Where it goes; not part of the bytes.
    pub(crate) primary_partition: Option<i32>,
}

/// `version | 0x80 if there is no hash ‖ hash ‖ value`. As in Java a value of no bytes comes back as null.
#[derive(Debug, Clone)]
pub(crate) struct SubscriptionResponseSerde<V>(pub(crate) SerdeRef<V>);

impl<V: Clone + 'static> Serde<SubscriptionResponse<V>> for SubscriptionResponseSerde<V> {
    const CANONICAL: bool = false;

    fn write(
        &self,
        response: &SubscriptionResponse<V>,
        cx: &SerdeCx<'_>,
        out: &mut BytesMut,
    ) -> Result<(), SerdeError> {
        // The layout of a response has not changed since version 0, which its writers still name.
        put_hash(0, response.hash, &[], out);
        match &response.value {
            Some(value) => self.0.write(value, cx, out),
            None => Ok(()),
        }
    }

    fn read(&self, bytes: &Bytes, cx: &SerdeCx<'_>) -> Result<SubscriptionResponse<V>, SerdeError> {
        let mut rest = bytes.clone();
        if rest.is_empty() {
            return Err(SerdeError::new("0 bytes instead of a response of at least 1"));
        }
        let head = rest.get_u8();
        version_of(head)?;
        let hash = get_hash(head & HASH_IS_NULL != 0, &mut rest)?;
        let value = if rest.is_empty() { None } else { Some(self.0.read(&rest, cx)?) };
        Ok(SubscriptionResponse { hash, value, primary_partition: None })
    }
}

/// The key of a subscription where it is kept: all those of a foreign key lie together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CombinedKey<KO, K> {
    pub(crate) foreign_key: KO,
    pub(crate) primary_key: K,
}

/// `length of the foreign key (4) ‖ foreign key ‖ primary key`.
#[derive(Debug)]
pub(crate) struct CombinedKeySerde<KO, K> {
    pub(crate) foreign_keys: SerdeRef<KO>,
    pub(crate) primary_keys: SerdeRef<K>,
}

impl<KO, K> Clone for CombinedKeySerde<KO, K> {
    fn clone(&self) -> Self {
        Self { foreign_keys: self.foreign_keys.clone(), primary_keys: self.primary_keys.clone() }
    }
}

impl<KO: 'static, K: 'static> CombinedKeySerde<KO, K> {
    /// What the keys of all subscriptions to a foreign key begin with.
    pub(crate) fn prefix(&self, key: &KO, cx: &SerdeCx<'_>, out: &mut BytesMut) -> Result<(), SerdeError> {
        let start = out.len();
        out.put_i32(0);
        self.foreign_keys.write(key, cx, out)?;
        let length = out.len() - start - 4;
        let length =
            i32::try_from(length).map_err(|_| SerdeError::new("a foreign key of more than 2 GiB"))?;
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
        Ok(())
    }
}

impl<KO: 'static, K: 'static> Serde<CombinedKey<KO, K>> for CombinedKeySerde<KO, K> {
    const CANONICAL: bool = false;

    fn write(
        &self,
        key: &CombinedKey<KO, K>,
        cx: &SerdeCx<'_>,
        out: &mut BytesMut,
    ) -> Result<(), SerdeError> {
        self.prefix(&key.foreign_key, cx, out)?;
        self.primary_keys.write(&key.primary_key, cx, out)
    }

    fn read(&self, bytes: &Bytes, cx: &SerdeCx<'_>) -> Result<CombinedKey<KO, K>, SerdeError> {
        let mut rest = bytes.clone();
        let length = (rest.len() >= 4).then(|| rest.get_i32()).and_then(|n| usize::try_from(n).ok());
        let Some(length) = length.filter(|length| *length <= rest.len()) else {
            return Err(SerdeError::new(format!(
                "a combined key of {} bytes that ends too early",
                bytes.len()
            )));
        };
        let foreign_key = rest.split_to(length);
        Ok(CombinedKey {
            foreign_key: self.foreign_keys.read(&foreign_key, cx)?,
            primary_key: self.primary_keys.read(&rest, cx)?,
        })
    }
}

/// Murmur3 for x64, 128 bits, with Kafka Streams' seed.
pub(crate) fn row_hash(data: &[u8]) -> [u64; 2] {
    const SEED: u64 = 104_729;
    const C1: u64 = 0x87c3_7b91_1142_53d5;
    const C2: u64 = 0x4cf5_ad43_2745_937f;
    let mix1 = |k: u64| k.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2);
    let mix2 = |k: u64| k.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1);
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |word, byte| word << 8 | u64::from(*byte));
    let (mut h1, mut h2) = (SEED, SEED);
    let mut blocks = data.chunks_exact(16);
    for block in &mut blocks {
        h1 = (h1 ^ mix1(word(&block[..8]))).rotate_left(27).wrapping_add(h2);
        h1 = h1.wrapping_mul(5).wrapping_add(0x52dc_e729);
        h2 = (h2 ^ mix2(word(&block[8..]))).rotate_left(31).wrapping_add(h1);
        h2 = h2.wrapping_mul(5).wrapping_add(0x3849_5ab5);
    }
    let tail = blocks.remainder();
    if tail.len() > 8 {
        h2 ^= mix2(word(&tail[8..]));
    }
    if !tail.is_empty() {
        h1 ^= mix1(word(&tail[..tail.len().min(8)]));
    }
    let finish = |mut h: u64| {
        h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        h = (h ^ (h >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        h ^ (h >> 33)
    };
    let length = data.len() as u64;
    h1 ^= length;
    h2 ^= length;
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    let (mut h1, mut h2) = (finish(h1), finish(h2));
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    [h1, h2]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serde::StringSerde;

    const CX: SerdeCx<'static> = SerdeCx::value("t");

    fn bytes<T: 'static>(serde: &impl Serde<T>, value: &T) -> Bytes {
        let mut out = BytesMut::new();
        serde.write(value, &CX, &mut out).unwrap();
        out.freeze()
    }

    #[test]
    fn subscriptions_come_back_and_cut_off_ones_are_errors() {
        let serde = SubscriptionSerde(SerdeRef::new(StringSerde));
        for (hash, primary_partition) in
            [(Some([1, u64::MAX]), Some(3)), (None, Some(0)), (Some([0, 7]), None)]
        {
            let instruction = Instruction::PropagateOnlyIfForeignValue;
            let message = Subscription { hash, instruction, primary_key: "k".to_owned(), primary_partition };
            let written = bytes(&serde, &message);
            assert_eq!(serde.read(&written, &CX).unwrap(), message);
            for end in 0..written.len().min(HEAD + 2 * hash.map_or(0, |_| 8)) {
                serde.read(&written.slice(..end), &CX).unwrap_err();
            }
        }
        let unknown =
            |bytes: &'static [u8]| serde.read(&Bytes::from_static(bytes), &CX).unwrap_err().to_string();
        assert!(unknown(&[2, 0, 0, 0]).contains("version 2"));
        assert!(unknown(&[0x81, 9, 0, 0, 0, 0]).contains("instruction 9"));
        assert!(unknown(&[0x81, 1, 0]).contains("before its partition"));
    }

    #[test]
    fn responses_and_combined_keys_come_back() {
        let serde = SubscriptionResponseSerde(SerdeRef::new(StringSerde));
        let response = |hash, value: Option<&str>| SubscriptionResponse {
            hash,
            value: value.map(str::to_owned),
            primary_partition: None,
        };
        for message in [response(None, None), response(Some([5, 6]), Some("v")), response(None, Some("v"))] {
            assert_eq!(serde.read(&bytes(&serde, &message), &CX).unwrap(), message);
        }
        // As in Java.
        let empty = bytes(&serde, &response(None, Some("")));
        assert_eq!(serde.read(&empty, &CX).unwrap(), response(None, None));
        serde.read(&Bytes::new(), &CX).unwrap_err();
        serde.read(&Bytes::from_static(&[0, 1, 2]), &CX).unwrap_err();

        let serde = CombinedKeySerde {
            foreign_keys: SerdeRef::new(StringSerde),
            primary_keys: SerdeRef::new(StringSerde),
        };
        let key = CombinedKey { foreign_key: "fk".to_owned(), primary_key: "pk".to_owned() };
        let written = bytes(&serde, &key);
        assert_eq!(written, &b"\0\0\0\x02fkpk"[..]);
        assert_eq!(serde.read(&written, &CX).unwrap(), key);
        for bad in [&b""[..], b"\0\0\0", b"\0\0\0\x09fk", b"\xff\xff\xff\xff"] {
            serde.read(&Bytes::copy_from_slice(bad), &CX).unwrap_err();
        }
    }
}
