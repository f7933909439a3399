//! The order of a Java hash set of keys, in which a suppression's changelog is written
//! (`InMemoryTimeOrderedKeyValueChangeBuffer.dirtyKeys`).

/// `java.util.Arrays.hashCode`, as `org.apache.kafka.common.utils.Bytes` has it.
fn hash(key: &[u8]) -> i32 {
    key.iter().fold(1i32, |hash, byte| hash.wrapping_mul(31).wrapping_add(i32::from(byte.cast_signed())))
}

/// The bucket of a key in a set of so many, as far as the set has never been larger.
pub(super) fn bucket(key: &[u8], keys: usize) -> u32 {
    let capacity = (keys * 4).div_ceil(3).next_power_of_two().max(16);
    let hash = hash(key).cast_unsigned();
    (hash ^ (hash >> 16)) & u32::try_from(capacity - 1).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_javas() {
        // Arrays.hashCode(new byte[] {}), {97}, {-1, 2}.
        assert_eq!(hash(b""), 1);
        assert_eq!(hash(b"a"), 128);
        assert_eq!(hash(&[0xff, 2]), 932);
        assert_eq!(bucket(b"a", 12), 0);
        assert_eq!(bucket(b"a", 13), 128 & 31);
    }
}
