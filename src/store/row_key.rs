//! The key of a row in a store's table. A short one lies in the row itself: a look-up that has found the row compares the
//! key without going to yet another place in memory, which is what a look-up takes its time for.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;

use bytes::Bytes;

/// As long as a key can be for the type to be no larger than `Bytes`.
const SHORT: usize = 23;

/// A copy of a key's bytes, which are its identity and its order.
#[derive(Clone)]
pub(crate) enum RowKey {
    Short { len: u8, bytes: [u8; SHORT] },
    Long(Bytes),
}

impl RowKey {
    pub(super) fn copy_from_slice(key: &[u8]) -> Self {
        match u8::try_from(key.len()) {
            Ok(len) if key.len() <= SHORT => {
                let mut bytes = [0; SHORT];
                bytes[..key.len()].copy_from_slice(key);
                Self::Short { len, bytes }
            }
            _ => Self::Long(Bytes::copy_from_slice(key)),
        }
    }
}

impl Deref for RowKey {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Short { len, bytes } => &bytes[..usize::from(*len)],
            Self::Long(bytes) => bytes,
        }
    }
}

impl Borrow<[u8]> for RowKey {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl PartialEq for RowKey {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}

impl Eq for RowKey {}

impl PartialOrd for RowKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for RowKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self[..].cmp(&other[..])
    }
}

impl fmt::Debug for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self[..], f)
    }
}

impl From<RowKey> for Bytes {
    fn from(key: RowKey) -> Self {
        match key {
            RowKey::Short { .. } => Self::copy_from_slice(&key),
            RowKey::Long(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_all_lengths_are_their_bytes_in_their_order() {
        let all: Vec<Vec<u8>> = (0..60).map(|len| (0..len).collect()).collect();
        for a in &all {
            let key = RowKey::copy_from_slice(a);
            assert_eq!(&key[..], &a[..]);
            assert_eq!(Bytes::from(key.clone()), a[..]);
            for b in &all {
                assert_eq!(key.cmp(&RowKey::copy_from_slice(b)), a.cmp(b));
                assert_eq!(key == RowKey::copy_from_slice(b), a == b);
            }
        }
    }

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn a_key_is_no_larger_than_a_handle_to_one() {
        assert_eq!(size_of::<RowKey>(), size_of::<Bytes>());
    }
}
