//! Lists in Java's format (`org.apache.kafka.common.serialization.ListSerializer`).
//!
//! Constant size, for the entries that Java knows the length of: `00 ‖ number of nulls ‖ their indexes ‖ number of
//! entries ‖ the entries that are not null`. Variable size, for all others: `01 ‖ number of entries ‖ (length ‖ entry)*`,
//! where the length of a null is -1. Every number is an i32, big-endian.

use bytes::{BufMut, Bytes, BytesMut};

use super::{DefaultSerde, Serde, SerdeCx, SerdeError};

const CONSTANT_SIZE: u8 = 0;
const VARIABLE_SIZE: u8 = 1;
const NULL: i32 = -1;

/// Lists of values that are never null, as Java's `ListSerializer` writes them.
///
/// ```
/// use bytes::BytesMut;
/// use mainstem::serde::{DefaultSerde, ListSerde, Serde, SerdeCx, ShortSerde};
///
/// let serde = ListSerde(ShortSerde);          // also the default of Vec<i16>
/// let cx = SerdeCx::value("t");
/// let mut out = BytesMut::new();
/// serde.write(&vec![1, 2], &cx, &mut out)?;
/// assert_eq!(out[..], [0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1, 0, 2]);
/// assert_eq!(serde.read(&out.freeze(), &cx)?, [1, 2]);
/// # Ok::<_, mainstem::serde::SerdeError>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ListSerde<S>(pub S);

impl<T, S: Serde<T>> Serde<Vec<T>> for ListSerde<S> {
    /// Entries of constant size may also come in the other form.
    const CANONICAL: bool = S::CANONICAL && S::LIST_ENTRY_LEN.is_none();

    fn write(&self, list: &Vec<T>, cx: &SerdeCx<'_>, out: &mut BytesMut) -> Result<(), SerdeError> {
        write_list(&self.0, list.iter().map(Some), cx, out)
    }

    fn read(&self, bytes: &Bytes, cx: &SerdeCx<'_>) -> Result<Vec<T>, SerdeError> {
        let mut list = Vec::new();
        read_list(&self.0, bytes, cx, |entry| {
            list.push(entry.ok_or_else(|| {
                SerdeError::new(format!(
                    "entry {} of the list is null: NullableListSerde reads it",
                    list.len()
                ))
            })?);
            Ok(())
        })?;
        Ok(list)
    }
}

impl<T: DefaultSerde> DefaultSerde for Vec<T> {
    type Serde = ListSerde<T::Serde>;
}

/// Lists of values that may be null, as Java's `ListSerializer` writes them.
///
/// ```
/// use bytes::BytesMut;
/// use mainstem::serde::{NullableListSerde, Serde, SerdeCx, StringSerde};
///
/// let serde = NullableListSerde(StringSerde);
/// let cx = SerdeCx::value("t");
/// let list = vec![Some("a".to_owned()), None];
/// let mut out = BytesMut::new();
/// serde.write(&list, &cx, &mut out)?;
/// assert_eq!(serde.read(&out.freeze(), &cx)?, list);
/// # Ok::<_, mainstem::serde::SerdeError>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NullableListSerde<S>(pub S);

impl<T, S: Serde<T>> Serde<Vec<Option<T>>> for NullableListSerde<S> {
    const CANONICAL: bool = S::CANONICAL && S::LIST_ENTRY_LEN.is_none();

    fn write(&self, list: &Vec<Option<T>>, cx: &SerdeCx<'_>, out: &mut BytesMut) -> Result<(), SerdeError> {
        write_list(&self.0, list.iter().map(Option::as_ref), cx, out)
    }

    fn read(&self, bytes: &Bytes, cx: &SerdeCx<'_>) -> Result<Vec<Option<T>>, SerdeError> {
        let mut list = Vec::new();
        read_list(&self.0, bytes, cx, |entry| {
            list.push(entry);
            Ok(())
        })?;
        Ok(list)
    }
}

fn write_list<'a, T: 'a, S: Serde<T>>(
    inner: &S,
    entries: impl ExactSizeIterator<Item = Option<&'a T>> + Clone,
    cx: &SerdeCx<'_>,
    out: &mut BytesMut,
) -> Result<(), SerdeError> {
    let number = |n: usize| i32::try_from(n).map_err(|_| SerdeError::new("a list past 2 GiB"));
    if let Some(length) = S::LIST_ENTRY_LEN {
        out.put_u8(CONSTANT_SIZE);
        let nulls = entries.clone().enumerate().filter(|(_, entry)| entry.is_none());
        out.put_i32(number(nulls.clone().count())?);
        for (index, _) in nulls {
            out.put_i32(number(index)?);
        }
        out.put_i32(number(entries.len())?);
        for entry in entries.flatten() {
            let start = out.len();
            inner.write(entry, cx, out)?;
            if out.len() - start != length {
                return Err(SerdeError::length(length, out.len() - start));
            }
        }
    } else {
        out.put_u8(VARIABLE_SIZE);
        out.put_i32(number(entries.len())?);
        for entry in entries {
            let start = out.len();
            out.put_i32(NULL);
            if let Some(entry) = entry {
                inner.write(entry, cx, out)?;
                let length = number(out.len() - start - 4)?;
                out[start..start + 4].copy_from_slice(&length.to_be_bytes());
            }
        }
    }
    Ok(())
}

/// Reads a list of either form and hands over one entry at a time. Never reserves memory from a number it has read.
fn read_list<T, S: Serde<T>>(
    inner: &S,
    bytes: &Bytes,
    cx: &SerdeCx<'_>,
    mut push: impl FnMut(Option<T>) -> Result<(), SerdeError>,
) -> Result<(), SerdeError> {
    let mut rest = &bytes[..];
    let (form, mut nulls) = match (take(&mut rest, 1, "its form")?[0], S::LIST_ENTRY_LEN) {
        (CONSTANT_SIZE, Some(length)) => (Some(length), read_indexes(&mut rest)?),
        (VARIABLE_SIZE, _) => (None, Vec::new()),
        (CONSTANT_SIZE, None) => {
            return Err(SerdeError::new(
                "a list of entries of constant size, but the inner serde's size is not",
            ));
        }
        (other, _) => {
            return Err(SerdeError::new(format!("a list whose first byte is {other} instead of 0 or 1")));
        }
    };
    nulls.sort_unstable();
    let count = read_count(&mut rest, "entries")?;
    if nulls.last().is_some_and(|last| *last >= count) {
        return Err(SerdeError::new(format!("a list of {count} entries with a null outside it")));
    }
    for index in 0..count {
        let length = match form {
            Some(_) if nulls.binary_search(&index).is_ok() => None,
            Some(length) => Some(length),
            None => match read_i32(&mut rest, "the length of an entry")? {
                NULL => None,
                length => Some(usize::try_from(length).map_err(|_| {
                    SerdeError::new(format!("entry {index} of the list has the length {length}"))
                })?),
            },
        };
        push(match length {
            None => None,
            Some(length) => {
                let entry = take(&mut rest, length, "an entry")?;
                let read = inner.read(&bytes.slice_ref(entry), cx);
                Some(read.map_err(|e| {
                    SerdeError::new(format!("cannot read entry {index} of the list")).because(e)
                })?)
            }
        })?;
    }
    if rest.is_empty() {
        Ok(())
    } else {
        Err(SerdeError::new(format!(
            "{} bytes are left over after the {count} entries of the list",
            rest.len()
        )))
    }
}

fn read_indexes(rest: &mut &[u8]) -> Result<Vec<usize>, SerdeError> {
    let count = read_count(rest, "nulls")?;
    (0..count).map(|_| Ok(read_i32(rest, "the index of a null")? as usize)).collect()
}

fn read_count(rest: &mut &[u8], what: &str) -> Result<usize, SerdeError> {
    let count = read_i32(rest, "a number of entries")?;
    usize::try_from(count).map_err(|_| SerdeError::new(format!("a list of {count} {what}")))
}

fn read_i32(rest: &mut &[u8], what: &str) -> Result<i32, SerdeError> {
    let bytes = take(rest, 4, what)?;
    Ok(i32::from_be_bytes(bytes.try_into().expect("take returned the 4 bytes asked for")))
}

fn take<'a>(rest: &mut &'a [u8], length: usize, what: &str) -> Result<&'a [u8], SerdeError> {
    let Some((head, tail)) = rest.split_at_checked(length) else {
        let left = rest.len();
        return Err(SerdeError::new(format!(
            "a list that ends within {what}: {left} bytes instead of {length}"
        )));
    };
    *rest = tail;
    Ok(head)
}
