//! Serdes.

pub(crate) mod erased;

use bytes::{Bytes, BytesMut};

use crate::record::Headers;

/// What a serde may know about the bytes it handles.
#[derive(Debug, Clone, Copy)]
pub struct SerdeCx<'a> {
    /// The topic that the bytes come from or go to.
    pub topic: &'a str,
    /// Whether they are a key.
    pub is_key: bool,
    /// The record's headers.
    pub headers: &'a Headers,
}

/// Serde error.
#[derive(Debug)]
pub struct SerdeError(String);
impl std::fmt::Display for SerdeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::error::Error for SerdeError {}

/// Writes and reads values of one type.
pub trait Serde<T>: Clone + Send + Sync + 'static {
    /// Canonical.
    const CANONICAL: bool;
    /// Writes.
    fn write(&self, value: &T, cx: &SerdeCx<'_>, out: &mut BytesMut) -> Result<(), SerdeError>;
    /// Reads.
    fn read(&self, bytes: &Bytes, cx: &SerdeCx<'_>) -> Result<T, SerdeError>;
}

/// Names a type's own serde.
pub trait DefaultSerde: Sized {
    /// The serde.
    type Serde: Serde<Self> + Default;
}

/// Strings.
#[derive(Clone, Default, Debug)]
pub struct StringSerde;
impl Serde<String> for StringSerde {
    const CANONICAL: bool = true;
    fn write(&self, value: &String, _: &SerdeCx<'_>, out: &mut BytesMut) -> Result<(), SerdeError> {
        out.extend_from_slice(value.as_bytes());
        Ok(())
    }
    fn read(&self, bytes: &Bytes, _: &SerdeCx<'_>) -> Result<String, SerdeError> {
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|e| SerdeError(e.to_string()))
    }
}
impl DefaultSerde for String {
    type Serde = StringSerde;
}

/// Long.
#[derive(Clone, Default, Debug)]
pub struct I64Serde;
impl Serde<i64> for I64Serde {
    const CANONICAL: bool = true;
    fn write(&self, value: &i64, _: &SerdeCx<'_>, out: &mut BytesMut) -> Result<(), SerdeError> {
        out.extend_from_slice(&value.to_be_bytes());
        Ok(())
    }
    fn read(&self, bytes: &Bytes, _: &SerdeCx<'_>) -> Result<i64, SerdeError> {
        let b: [u8; 8] = bytes[..].try_into().map_err(|_| SerdeError(format!("{} bytes", bytes.len())))?;
        Ok(i64::from_be_bytes(b))
    }
}
impl DefaultSerde for i64 {
    type Serde = I64Serde;
}
