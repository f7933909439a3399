//! JSON through the `serde` crate.

use std::ops::{Deref, DerefMut};

use ::serde::{Deserialize, Serialize, de::DeserializeOwned};
use bytes::{BufMut, Bytes, BytesMut};

use super::{DefaultSerde, Serde, SerdeCx, SerdeError};

/// A value whose bytes are JSON. It dereferences to the value.
///
/// ```
/// use mainstem::serde::Json;
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct View { page: String }
///
/// let view = Json(View { page: "/".into() });
/// assert_eq!(view.page, "/");
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Json<T>(pub T);

impl<T> Deref for Json<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Json<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T> From<T> for Json<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

impl<T: Serialize + DeserializeOwned> DefaultSerde for Json<T> {
    type Serde = JsonSerde;
}

/// JSON text of anything that the `serde` crate can write and read.
///
/// Not canonical: spaces, the order of fields and the spelling of numbers are free. JSON's `null` is a value like any
/// other (of an `Option`, say) and not Kafka's null.
///
/// ```
/// use bytes::BytesMut;
/// use mainstem::serde::{Json, JsonSerde, Serde, SerdeCx};
///
/// let cx = SerdeCx::value("pairs");
/// let mut out = BytesMut::new();
/// JsonSerde.write(&Json((1, "a".to_owned())), &cx, &mut out)?;
/// assert_eq!(out, r#"[1,"a"]"#);
/// let read: Json<(i32, String)> = JsonSerde.read(&out.freeze(), &cx)?;
/// assert_eq!(read.1, "a");
/// # Ok::<_, mainstem::serde::SerdeError>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JsonSerde;

impl<T: Serialize + DeserializeOwned> Serde<T> for JsonSerde {
    const CANONICAL: bool = false;

    fn write(&self, value: &T, _: &SerdeCx<'_>, out: &mut BytesMut) -> Result<(), SerdeError> {
        serde_json::to_writer(out.writer(), value)
            .map_err(|e| SerdeError::new("cannot be written as JSON").because(e))
    }

    fn read(&self, bytes: &Bytes, _: &SerdeCx<'_>) -> Result<T, SerdeError> {
        serde_json::from_slice(bytes).map_err(|e| {
            let type_name = std::any::type_name::<T>();
            SerdeError::new(format!("not the JSON of {type_name}")).because(e)
        })
    }
}
