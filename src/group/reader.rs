//! Reads bytes that other members sent: every length is checked before it is believed, and no memory is reserved for a
//! count that the bytes cannot hold.

use crate::{Error, ErrorKind, Result};

/// A cursor over big-endian bytes that names what it failed at.
pub(super) struct Reader<'a> {
    what: &'static str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Starts at the first byte; `what` names the whole in errors.
    pub(super) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, bytes, at: 0 }
    }

    /// Whether everything has been read.
    pub(super) fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// An error at the current place.
    pub(super) fn wrong(&self, problem: &str) -> Error {
        let message = format!("broken {}: {problem} at byte {} of {}", self.what, self.at, self.bytes.len());
        Error::new(ErrorKind::Corrupt, message)
    }

    pub(super) fn take(&mut self, field: &str, n: usize) -> Result<&'a [u8]> {
        let found = self.bytes[self.at..].get(..n).ok_or_else(|| self.wrong(&format!("no {field}")))?;
        self.at += n;
        Ok(found)
    }

    fn array<const N: usize>(&mut self, field: &str) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(field, N)?);
        Ok(out)
    }

    pub(super) fn u8(&mut self, field: &str) -> Result<u8> {
        Ok(self.array::<1>(field)?[0])
    }

    pub(super) fn u16(&mut self, field: &str) -> Result<u16> {
        Ok(u16::from_be_bytes(self.array(field)?))
    }

    pub(super) fn i32(&mut self, field: &str) -> Result<i32> {
        Ok(i32::from_be_bytes(self.array(field)?))
    }

    pub(super) fn i64(&mut self, field: &str) -> Result<i64> {
        Ok(i64::from_be_bytes(self.array(field)?))
    }

    pub(super) fn u64(&mut self, field: &str) -> Result<u64> {
        Ok(u64::from_be_bytes(self.array(field)?))
    }

    pub(super) fn u128(&mut self, field: &str) -> Result<u128> {
        Ok(u128::from_be_bytes(self.array(field)?))
    }

    /// A count of things of at least `each` bytes, which must still be there.
    pub(super) fn count(&mut self, field: &str, each: usize) -> Result<usize> {
        let count =
            usize::try_from(self.i32(field)?).map_err(|_| self.wrong(&format!("negative {field}")))?;
        if count > (self.bytes.len() - self.at) / each {
            return Err(self.wrong(&format!("{count} {field} cannot be")));
        }
        Ok(count)
    }

    /// UTF-8 text behind its length in two bytes.
    pub(super) fn text(&mut self, field: &str) -> Result<&'a str> {
        let length = usize::from(self.u16(field)?);
        std::str::from_utf8(self.take(field, length)?)
            .map_err(|_| self.wrong(&format!("{field} is not UTF-8")))
    }

    /// A counted list; `each` is the least size of an item.
    pub(super) fn list<T>(
        &mut self,
        field: &str,
        each: usize,
        mut item: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        let count = self.count(field, each)?;
        (0..count).map(|_| item(self)).collect()
    }
}
