//! A change of a table's row, and its bytes in a table's repartition topic.

use bytes::{BufMut, Bytes, BytesMut};

use super::{Serde, SerdeCx, SerdeError};
use crate::record::{get_varint, put_varint, varint_len};

/// What a row of a table became and what it was before; `None` is "no row".
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change<V> {
    /// The row from now on.
    pub(crate) new: Option<V>,
    /// The row until now.
    pub(crate) old: Option<V>,
    /// Whether the row is the latest of its key by timestamp: always, but for versioned tables (KIP-914).
    pub(crate) latest: bool,
}

impl<V> Change<V> {
    /// A change from `old` to `new`, the latest one of its key.
    pub(crate) fn new(new: Option<V>, old: Option<V>) -> Self {
        Self { new, old, latest: true }
    }
}

impl<V> Default for Change<V> {
    fn default() -> Self {
        Self::new(None, None)
    }
}

/// The last byte says what precedes it. Java's readers also know the flags 3 to 5, with an "is latest" byte before the
/// flag; its writers do not write them, neither do we.
mod flag {
    pub(super) const OLD: u8 = 0;
    pub(super) const NEW: u8 = 1;
    pub(super) const BOTH: u8 = 2;
    pub(super) const WITH_LATEST: u8 = 3;
}

/// [`Change`] as `org.apache.kafka.streams.kstream.internals.ChangedSerializer` writes it: `new ‖ 01`, `old ‖ 00`, or
/// `varint(length of new) ‖ new ‖ old ‖ 02`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ChangeSerde<S>(pub(crate) S);

impl<V, S: Serde<V>> Serde<Change<V>> for ChangeSerde<S> {
    /// A key is never a change, so nobody asks; and readers know more forms than writers write.
    const CANONICAL: bool = false;

    fn write(&self, change: &Change<V>, cx: &SerdeCx<'_>, out: &mut BytesMut) -> Result<(), SerdeError> {
        match (&change.new, &change.old) {
            (Some(new), None) => {
                self.0.write(new, cx, out)?;
                out.put_u8(flag::NEW);
            }
            (None, Some(old)) => {
                self.0.write(old, cx, out)?;
                out.put_u8(flag::OLD);
            }
            (Some(new), Some(old)) => {
                let start = out.len();
                self.0.write(new, cx, out)?;
                prefix_length(out, start);
                self.0.write(old, cx, out)?;
                out.put_u8(flag::BOTH);
            }
            (None, None) => return Err(SerdeError::new("a change without a new and an old value")),
        }
        Ok(())
    }

    fn read(&self, bytes: &Bytes, cx: &SerdeCx<'_>) -> Result<Change<V>, SerdeError> {
        let Some((&flag, body)) = bytes.split_last() else {
            return Err(SerdeError::new("0 bytes instead of a change of at least 1"));
        };
        let (form, body, latest) = match (flag, body) {
            (flag::OLD..=flag::BOTH, body) => (flag, body, true),
            (3..=5, [body @ .., latest @ (0 | 1)]) => (flag - flag::WITH_LATEST, body, *latest == 1),
            (3..=5, _) => {
                return Err(SerdeError::new("a change whose \"is latest\" byte is neither 0 nor 1"));
            }
            _ => {
                return Err(SerdeError::new(format!("a change whose last byte is {flag} instead of 0 to 5")));
            }
        };
        let read = |part: &[u8]| self.0.read(&bytes.slice_ref(part), cx);
        let mut change = match form {
            flag::OLD => Change::new(None, Some(read(body)?)),
            flag::NEW => Change::new(Some(read(body)?), None),
            _ => {
                let mut rest = body;
                let length = get_varint(&mut rest).and_then(|n| usize::try_from(n).ok());
                let Some((new, old)) = length.and_then(|n| rest.split_at_checked(n)) else {
                    return Err(SerdeError::new(format!(
                        "a change whose new value's length is not within its {} bytes",
                        bytes.len()
                    )));
                };
                Change::new(Some(read(new)?), Some(read(old)?))
            }
        };
        change.latest = latest;
        Ok(change)
    }
}

/// Puts the length of what `out` holds from `start` on before it, as a varint.
fn prefix_length(out: &mut BytesMut, start: usize) {
    let end = out.len();
    let length = (end - start) as i64;
    out.put_bytes(0, varint_len(length));
    let moved = start + varint_len(length);
    out.copy_within(start..end, moved);
    put_varint(&mut &mut out[start..moved], length);
}
