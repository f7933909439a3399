//! Numbers, booleans and plain bytes, as Java writes them.

use bytes::{BufMut, Bytes, BytesMut};

use super::{DefaultSerde, Serde, SerdeCx, SerdeError};

/// A number of fixed width: its big-endian bytes.
macro_rules! number {
    ($(#[$doc:meta])* $serde:ident, $type:ty, $put:ident, canonical: $canonical:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct $serde;

        impl Serde<$type> for $serde {
            const CANONICAL: bool = $canonical;
            const LIST_ENTRY_LEN: Option<usize> = Some(size_of::<$type>());

            fn write(&self, value: &$type, _: &SerdeCx<'_>, out: &mut BytesMut) -> Result<(), SerdeError> {
                out.$put(*value);
                Ok(())
            }

            fn read(&self, bytes: &Bytes, _: &SerdeCx<'_>) -> Result<$type, SerdeError> {
                match bytes[..].try_into() {
                    Ok(exact) => Ok(<$type>::from_be_bytes(exact)),
                    Err(_) => Err(SerdeError::length(size_of::<$type>(), bytes.len())),
                }
            }
        }

        impl DefaultSerde for $type {
            type Serde = $serde;
        }
    };
}

number!(
    /// `i16` as Java's `ShortSerializer` writes it: 2 bytes, big-endian.
    ///
    /// ```
    /// use mainstem::serde::{Serde, SerdeCx, ShortSerde};
    ///
    /// assert_eq!(ShortSerde.read(&vec![0xff, 0xfe].into(), &SerdeCx::value("t"))?, -2);
    /// # Ok::<_, mainstem::serde::SerdeError>(())
    /// ```
    ShortSerde, i16, put_i16, canonical: true
);
number!(
    /// `i32` as Java's `IntegerSerializer` writes it: 4 bytes, big-endian.
    ///
    /// ```
    /// use mainstem::serde::{IntegerSerde, Serde, SerdeCx};
    ///
    /// assert_eq!(IntegerSerde.read(&vec![0, 0, 1, 0].into(), &SerdeCx::value("t"))?, 256);
    /// # Ok::<_, mainstem::serde::SerdeError>(())
    /// ```
    IntegerSerde, i32, put_i32, canonical: true
);
number!(
    /// `i64` as Java's `LongSerializer` writes it: 8 bytes, big-endian. Counts are of this type.
    ///
    /// ```
    /// use mainstem::serde::{LongSerde, Serde, SerdeCx};
    ///
    /// let cx = SerdeCx::value("counts");
    /// assert_eq!(LongSerde.read(&vec![0, 0, 0, 0, 0, 0, 0, 42].into(), &cx)?, 42);
    /// let error = LongSerde.read(&"42".into(), &cx).unwrap_err();
    /// assert_eq!(error.to_string(), "2 bytes instead of 8");
    /// # Ok::<_, mainstem::serde::SerdeError>(())
    /// ```
    LongSerde, i64, put_i64, canonical: true
);
number!(
    /// `f32` as Java's `FloatSerializer` writes it: the IEEE 754 bits, 4 bytes, big-endian.
    ///
    /// Not canonical: 0.0 and -0.0 are equal and have different bytes.
    ///
    /// ```
    /// use mainstem::serde::{FloatSerde, Serde, SerdeCx};
    ///
    /// assert_eq!(FloatSerde.read(&vec![0x3f, 0xc0, 0, 0].into(), &SerdeCx::value("t"))?, 1.5);
    /// # Ok::<_, mainstem::serde::SerdeError>(())
    /// ```
    FloatSerde, f32, put_f32, canonical: false
);
number!(
    /// `f64` as Java's `DoubleSerializer` writes it: the IEEE 754 bits, 8 bytes, big-endian.
    ///
    /// Not canonical: 0.0 and -0.0 are equal and have different bytes.
    ///
    /// ```
    /// use mainstem::serde::{DoubleSerde, Serde, SerdeCx};
    ///
    /// assert_eq!(DoubleSerde.read(&vec![0x3f, 0xf8, 0, 0, 0, 0, 0, 0].into(), &SerdeCx::value("t"))?, 1.5);
    /// # Ok::<_, mainstem::serde::SerdeError>(())
    /// ```
    DoubleSerde, f64, put_f64, canonical: false
);

/// `bool` as Java's `BooleanSerializer` writes it: one byte, 1 or 0. Any other byte is an error.
///
/// ```
/// use mainstem::serde::{BooleanSerde, Serde, SerdeCx};
///
/// let cx = SerdeCx::value("t");
/// assert_eq!(BooleanSerde.read(&vec![1].into(), &cx)?, true);
/// assert!(BooleanSerde.read(&vec![2].into(), &cx).is_err());
/// # Ok::<_, mainstem::serde::SerdeError>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BooleanSerde;

impl Serde<bool> for BooleanSerde {
    const CANONICAL: bool = true;

    fn write(&self, value: &bool, _: &SerdeCx<'_>, out: &mut BytesMut) -> Result<(), SerdeError> {
        out.put_u8(u8::from(*value));
        Ok(())
    }

    fn read(&self, bytes: &Bytes, _: &SerdeCx<'_>) -> Result<bool, SerdeError> {
        match bytes[..] {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(SerdeError::new(format!("the byte {other} is neither 0 (false) nor 1 (true)"))),
            _ => Err(SerdeError::length(1, bytes.len())),
        }
    }
}

impl DefaultSerde for bool {
    type Serde = BooleanSerde;
}

/// Bytes as they are (Java's `BytesSerializer`, `ByteArraySerializer` and `ByteBufferSerializer`).
///
/// Reading [`Bytes`] copies nothing: they share the buffer they came in. Reading `Vec<u8>` copies.
///
/// ```
/// use bytes::Bytes;
/// use mainstem::serde::{BytesSerde, Serde, SerdeCx};
///
/// let read: Bytes = BytesSerde.read(&Bytes::from_static(b"raw"), &SerdeCx::key("t"))?;
/// assert_eq!(read, "raw");
/// # Ok::<_, mainstem::serde::SerdeError>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BytesSerde;

impl Serde<Bytes> for BytesSerde {
    const CANONICAL: bool = true;

    fn write(&self, value: &Bytes, _: &SerdeCx<'_>, out: &mut BytesMut) -> Result<(), SerdeError> {
        out.put_slice(value);
        Ok(())
    }

    fn read(&self, bytes: &Bytes, _: &SerdeCx<'_>) -> Result<Bytes, SerdeError> {
        Ok(bytes.clone())
    }
}

impl DefaultSerde for Bytes {
    type Serde = BytesSerde;
}

impl Serde<Vec<u8>> for BytesSerde {
    const CANONICAL: bool = true;

    fn write(&self, value: &Vec<u8>, _: &SerdeCx<'_>, out: &mut BytesMut) -> Result<(), SerdeError> {
        out.put_slice(value);
        Ok(())
    }

    fn read(&self, bytes: &Bytes, _: &SerdeCx<'_>) -> Result<Vec<u8>, SerdeError> {
        Ok(bytes.to_vec())
    }
}

impl DefaultSerde for Vec<u8> {
    type Serde = BytesSerde;
}

/// `()`, for keys or values that are always null (Java's `VoidSerializer`).
///
/// Java writes its `Void` as null, and null is never a serde's business here: whatever gets this far is an error.
///
/// ```
/// use mainstem::serde::{Serde, SerdeCx, VoidSerde};
///
/// assert!(VoidSerde.read(&"something".into(), &SerdeCx::key("t")).is_err());
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VoidSerde;

impl Serde<()> for VoidSerde {
    const CANONICAL: bool = true;

    fn write(&self, (): &(), cx: &SerdeCx<'_>, _: &mut BytesMut) -> Result<(), SerdeError> {
        let part = if cx.is_key { "key" } else { "value" };
        Err(SerdeError::new(format!("() has no bytes: make the {part} None, which is written as null")))
    }

    fn read(&self, bytes: &Bytes, _: &SerdeCx<'_>) -> Result<(), SerdeError> {
        Err(SerdeError::new(format!(
            "{} bytes instead of null, the only thing that reads as ()",
            bytes.len()
        )))
    }
}

impl DefaultSerde for () {
    type Serde = VoidSerde;
}
