//! Serdes behind a pointer: what edges of a topology carry, so that operators are generic over data alone.

use std::any::TypeId;
use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::{DefaultSerde, Serde, SerdeCx, SerdeError};

/// [`Serde`] without its type.
trait DynSerde<T>: Send + Sync {
    fn write(&self, value: &T, cx: &SerdeCx<'_>, out: &mut BytesMut) -> Result<(), SerdeError>;
    fn read(&self, bytes: &Bytes, cx: &SerdeCx<'_>) -> Result<T, SerdeError>;
}

impl<T, S: Serde<T>> DynSerde<T> for S {
    fn write(&self, value: &T, cx: &SerdeCx<'_>, out: &mut BytesMut) -> Result<(), SerdeError> {
        Serde::write(self, value, cx, out)
    }

    fn read(&self, bytes: &Bytes, cx: &SerdeCx<'_>) -> Result<T, SerdeError> {
        Serde::read(self, bytes, cx)
    }
}

/// A shared serde of `T`.
pub(crate) struct SerdeRef<T> {
    serde: Arc<dyn DynSerde<T>>,
    /// Which serde it is, if bytes that it read are the bytes that it would write.
    canonical: Option<TypeId>,
    window_bytes: usize,
}

impl<T> Clone for SerdeRef<T> {
    fn clone(&self) -> Self {
        Self { serde: self.serde.clone(), canonical: self.canonical, window_bytes: self.window_bytes }
    }
}

impl<T> fmt::Debug for SerdeRef<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SerdeRef<{}>", std::any::type_name::<T>())
    }
}

impl<T: 'static> SerdeRef<T> {
    pub(crate) fn new<S: Serde<T>>(serde: S) -> Self {
        let canonical = S::CANONICAL.then(TypeId::of::<S>);
        Self { serde: Arc::new(serde), canonical, window_bytes: S::WINDOW_BYTES }
    }

    /// The serde that `T` names itself.
    pub(crate) fn of() -> Self
    where
        T: DefaultSerde,
    {
        Self::new(T::Serde::default())
    }

    /// The identity of a canonical serde: where two are equal, bytes of one serve the other.
    pub(crate) fn canonical(&self) -> Option<TypeId> {
        self.canonical
    }

    /// How many bytes at the end of a key say in which window it is.
    pub(crate) fn window_bytes(&self) -> usize {
        self.window_bytes
    }

    pub(crate) fn write(&self, value: &T, cx: &SerdeCx<'_>, out: &mut BytesMut) -> Result<(), SerdeError> {
        self.serde.write(value, cx, out)
    }

    pub(crate) fn read(&self, bytes: &Bytes, cx: &SerdeCx<'_>) -> Result<T, SerdeError> {
        self.serde.read(bytes, cx)
    }
}

/// A shared serde where another one is made of it.
impl<T: 'static> Serde<T> for SerdeRef<T> {
    /// Whoever wraps it writes other bytes.
    const CANONICAL: bool = false;

    fn write(&self, value: &T, cx: &SerdeCx<'_>, out: &mut BytesMut) -> Result<(), SerdeError> {
        self.serde.write(value, cx, out)
    }

    fn read(&self, bytes: &Bytes, cx: &SerdeCx<'_>) -> Result<T, SerdeError> {
        self.serde.read(bytes, cx)
    }
}
