//! Strings and UUIDs, as Java writes them.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

use super::{DefaultSerde, Serde, SerdeCx, SerdeError};

/// Strings as UTF-8 (Java's `StringSerializer`). Bytes that are not UTF-8 are an error.
///
/// Java replaces them instead, so that reading and writing a record again silently changes it; [`LossyStringSerde`]
/// does the same for those who want it. `Arc<str>` is the type for strings that are cloned a lot.
///
/// ```
/// use mainstem::serde::{Serde, SerdeCx, StringSerde};
///
/// let cx = SerdeCx::value("words");
/// let word: String = StringSerde.read(&"grün".into(), &cx)?;
/// assert_eq!(word, "grün");
/// let bad: Result<String, _> = StringSerde.read(&vec![b'a', 0xff].into(), &cx);
/// assert_eq!(bad.unwrap_err().to_string(), "not UTF-8 from byte 1 of 2 on");
/// # Ok::<_, mainstem::serde::SerdeError>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StringSerde;

fn utf8(bytes: &Bytes) -> Result<&str, SerdeError> {
    std::str::from_utf8(bytes).map_err(|e| {
        SerdeError::new(format!("not UTF-8 from byte {} of {} on", e.valid_up_to(), bytes.len()))
    })
}

impl Serde<String> for StringSerde {
    const CANONICAL: bool = true;

    fn write(&self, value: &String, _: &SerdeCx<'_>, out: &mut BytesMut) -> Result<(), SerdeError> {
        out.put_slice(value.as_bytes());
        Ok(())
    }

    fn read(&self, bytes: &Bytes, _: &SerdeCx<'_>) -> Result<String, SerdeError> {
        utf8(bytes).map(str::to_owned)
    }
}

impl DefaultSerde for String {
    type Serde = StringSerde;
}

impl Serde<Arc<str>> for StringSerde {
    const CANONICAL: bool = true;

    fn write(&self, value: &Arc<str>, _: &SerdeCx<'_>, out: &mut BytesMut) -> Result<(), SerdeError> {
        out.put_slice(value.as_bytes());
        Ok(())
    }

    fn read(&self, bytes: &Bytes, _: &SerdeCx<'_>) -> Result<Arc<str>, SerdeError> {
        utf8(bytes).map(Arc::from)
    }
}

impl DefaultSerde for Arc<str> {
    type Serde = StringSerde;
}

/// Strings as UTF-8, where whatever is not UTF-8 reads as U+FFFD: Java's habit.
///
/// Not canonical: many byte sequences read as the same string. One difference is left: the three bytes of an encoded
/// surrogate become one U+FFFD on the JVM and three here.
///
/// ```
/// use mainstem::serde::{LossyStringSerde, Serde, SerdeCx};
///
/// let read: String = LossyStringSerde.read(&vec![b'a', 0xff].into(), &SerdeCx::value("words"))?;
/// assert_eq!(read, "a\u{fffd}");
/// # Ok::<_, mainstem::serde::SerdeError>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LossyStringSerde;

impl Serde<String> for LossyStringSerde {
    const CANONICAL: bool = false;

    fn write(&self, value: &String, _: &SerdeCx<'_>, out: &mut BytesMut) -> Result<(), SerdeError> {
        out.put_slice(value.as_bytes());
        Ok(())
    }

    fn read(&self, bytes: &Bytes, _: &SerdeCx<'_>) -> Result<String, SerdeError> {
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }
}

const UUID_LEN: usize = uuid::fmt::Hyphenated::LENGTH;

fn write_uuid(value: &Uuid, out: &mut BytesMut) {
    let mut text = [0; UUID_LEN];
    out.put_slice(value.hyphenated().encode_lower(&mut text).as_bytes());
}

/// UUIDs as Java's `UUIDSerializer` writes them: the 36 characters of their text, in lower case.
///
/// Reads exactly that spelling, so that one UUID is one key; [`LenientUuidSerde`] reads the others as well.
///
/// ```
/// use mainstem::serde::{Serde, SerdeCx, UuidSerde};
/// use uuid::Uuid;
///
/// let read = UuidSerde.read(&"67e55044-10b1-426f-9247-bb680e5fe0c8".into(), &SerdeCx::key("t"))?;
/// assert_eq!(read, Uuid::from_u128(0x67e55044_10b1_426f_9247_bb680e5fe0c8));
/// # Ok::<_, mainstem::serde::SerdeError>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UuidSerde;

impl Serde<Uuid> for UuidSerde {
    const CANONICAL: bool = true;
    const LIST_ENTRY_LEN: Option<usize> = Some(UUID_LEN);

    fn write(&self, value: &Uuid, _: &SerdeCx<'_>, out: &mut BytesMut) -> Result<(), SerdeError> {
        write_uuid(value, out);
        Ok(())
    }

    fn read(&self, bytes: &Bytes, cx: &SerdeCx<'_>) -> Result<Uuid, SerdeError> {
        if bytes.len() != UUID_LEN {
            return Err(SerdeError::length(UUID_LEN, bytes.len()));
        }
        if bytes.iter().any(u8::is_ascii_uppercase) {
            return Err(SerdeError::new(
                "a UUID in upper case: Kafka's own serializer writes lower case, LenientUuidSerde reads both",
            ));
        }
        LenientUuidSerde.read(bytes, cx)
    }
}

impl DefaultSerde for Uuid {
    type Serde = UuidSerde;
}

/// UUIDs in upper or lower case, with or without hyphens; written as [`UuidSerde`] does.
///
/// Not canonical: several spellings read as the same UUID.
///
/// ```
/// use mainstem::serde::{LenientUuidSerde, Serde, SerdeCx};
/// use uuid::Uuid;
///
/// let read = LenientUuidSerde.read(&"67E5504410B1426F9247BB680E5FE0C8".into(), &SerdeCx::key("t"))?;
/// assert_eq!(read, Uuid::from_u128(0x67e55044_10b1_426f_9247_bb680e5fe0c8));
/// # Ok::<_, mainstem::serde::SerdeError>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LenientUuidSerde;

impl Serde<Uuid> for LenientUuidSerde {
    const CANONICAL: bool = false;

    fn write(&self, value: &Uuid, _: &SerdeCx<'_>, out: &mut BytesMut) -> Result<(), SerdeError> {
        write_uuid(value, out);
        Ok(())
    }

    fn read(&self, bytes: &Bytes, _: &SerdeCx<'_>) -> Result<Uuid, SerdeError> {
        Uuid::try_parse_ascii(bytes)
            .map_err(|e| SerdeError::new("not the text of a UUID (36 characters)").because(e))
    }
}
