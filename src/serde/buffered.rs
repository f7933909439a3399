//! A change that a suppression holds back, as its changelog has it (`BufferValue`, `ProcessorRecordContext`, version 3 of
//! `InMemoryTimeOrderedKeyValueChangeBuffer`): the context of the record, the value that was last sent on, the values before
//! and after the change, and the time that decides when it leaves.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::{Serde, SerdeCx, SerdeError};
use crate::{Headers, Timestamp};

/// What the changelog says in the header `v`.
pub(crate) const VERSION: u8 = 3;

/// "No value".
const NULL: i32 = -1;

/// "The same as the one sent on last".
const AS_PRIOR: i32 = -2;

/// A change that is held back.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Buffered {
    pub(crate) timestamp: Timestamp,
    pub(crate) offset: i64,
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
    pub(crate) headers: Headers,
    /// What downstream has seen last.
    pub(crate) prior: Option<Bytes>,
    pub(crate) old: Option<Bytes>,
    pub(crate) new: Option<Bytes>,
    /// When it leaves is decided by this.
    pub(crate) time: Timestamp,
}

impl Buffered {
    /// What it counts for in the buffer, its key and its time included (`computeRecordSize`).
    pub(crate) fn size(&self, key: &[u8]) -> usize {
        let length = |value: &Option<Bytes>| value.as_ref().map_or(0, Bytes::len);
        let old = if self.old == self.prior { 0 } else { length(&self.old) };
        let headers = self
            .headers
            .iter()
            .map(|header| header.key().encode_utf16().count() + header.value().map_or(0, <[u8]>::len));
        let context = 8 + 8 + 4 + self.topic.encode_utf16().count() + headers.sum::<usize>();
        8 + key.len() + length(&self.prior) + old + length(&self.new) + context
    }
}

/// [`Buffered`] as Java writes it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct BufferedSerde;

fn put_sized(out: &mut BytesMut, bytes: Option<&[u8]>) -> Result<(), SerdeError> {
    let Some(bytes) = bytes else {
        out.put_i32(NULL);
        return Ok(());
    };
    let too_long =
        |_| SerdeError::new(format!("{} bytes are more than a buffered value may have", bytes.len()));
    out.put_i32(i32::try_from(bytes.len()).map_err(too_long)?);
    out.put_slice(bytes);
    Ok(())
}

/// What is left to read.
struct Rest<'a>(&'a Bytes, usize);

impl Rest<'_> {
    fn take(&mut self, length: usize) -> Result<Bytes, SerdeError> {
        let Self(bytes, at) = self;
        match at.checked_add(length).filter(|end| *end <= bytes.len()) {
            Some(end) => {
                let taken = bytes.slice(*at..end);
                *at = end;
                Ok(taken)
            }
            None => Err(SerdeError::new(format!(
                "a buffered change of {} bytes ends too early: not one of version 3, which Kafka Streams writes since 2.6",
                bytes.len()
            ))),
        }
    }

    fn i32(&mut self) -> Result<i32, SerdeError> {
        let bytes = self.take(4)?;
        Ok(bytes.first_chunk().map_or(0, |chunk| i32::from_be_bytes(*chunk)))
    }

    fn i64(&mut self) -> Result<i64, SerdeError> {
        let bytes = self.take(8)?;
        Ok(bytes.first_chunk().map_or(0, |chunk| i64::from_be_bytes(*chunk)))
    }

    fn sized(&mut self, length: i32) -> Result<Option<Bytes>, SerdeError> {
        match usize::try_from(length) {
            Ok(length) => self.take(length).map(Some),
            Err(_) if length == NULL => Ok(None),
            Err(_) => Err(SerdeError::new(format!("a part of a buffered change has the length {length}"))),
        }
    }

    fn value(&mut self) -> Result<Option<Bytes>, SerdeError> {
        let length = self.i32()?;
        self.sized(length)
    }

    fn text(&mut self) -> Result<String, SerdeError> {
        let bytes = self.value()?.ok_or_else(|| SerdeError::new("a buffered change without a name"))?;
        String::from_utf8(bytes.to_vec())
            .map_err(|error| SerdeError::new("a name of a buffered change is not UTF-8").because(error))
    }
}

impl Serde<Buffered> for BufferedSerde {
    const CANONICAL: bool = false;

    fn write(&self, value: &Buffered, _: &SerdeCx<'_>, out: &mut BytesMut) -> Result<(), SerdeError> {
        out.put_i64(value.timestamp);
        out.put_i64(value.offset);
        put_sized(out, Some(value.topic.as_bytes()))?;
        out.put_i32(value.partition);
        let count = value.headers.iter().count();
        out.put_i32(i32::try_from(count).map_err(|_| SerdeError::new("too many headers"))?);
        for header in value.headers.iter() {
            put_sized(out, Some(header.key().as_bytes()))?;
            put_sized(out, header.value())?;
        }
        put_sized(out, value.prior.as_deref())?;
        match &value.old {
            Some(_) if value.old == value.prior => out.put_i32(AS_PRIOR),
            old => put_sized(out, old.as_deref())?,
        }
        put_sized(out, value.new.as_deref())?;
        out.put_i64(value.time);
        Ok(())
    }

    fn read(&self, bytes: &Bytes, _: &SerdeCx<'_>) -> Result<Buffered, SerdeError> {
        let mut rest = Rest(bytes, 0);
        let (timestamp, offset) = (rest.i64()?, rest.i64()?);
        let topic = rest.text()?.into();
        let partition = rest.i32()?;
        let mut headers = Headers::new();
        // -1 is "none", of old.
        for _ in 0..rest.i32()?.max(0) {
            let name = rest.text()?;
            headers.add(&name, rest.value()?.as_deref());
        }
        let prior = rest.value()?;
        let old = match rest.i32()? {
            AS_PRIOR => prior.clone(),
            length => rest.sized(length)?,
        };
        let (new, time) = (rest.value()?, rest.i64()?);
        if rest.1 != bytes.len() {
            let text = format!(
                "a buffered change of {} bytes ends at {}: not one of version 3, which Kafka Streams writes since 2.6",
                bytes.len(),
                rest.1
            );
            return Err(SerdeError::new(text));
        }
        Ok(Buffered { timestamp, offset, topic, partition, headers, prior, old, new, time })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(prior: Option<&'static str>, old: Option<&'static str>) -> Buffered {
        let mut headers = Headers::new();
        headers.add("h", Some(b"x"));
        headers.add("n", None);
        Buffered {
            timestamp: 7,
            offset: 3,
            topic: "in".into(),
            partition: 1,
            headers,
            prior: prior.map(Bytes::from),
            old: old.map(Bytes::from),
            new: Some(Bytes::from("new")),
            time: 9,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let cx = SerdeCx::value("t");
        for value in [
            change(None, None),
            change(Some("p"), Some("p")),
            change(Some("p"), None),
            change(None, Some("o")),
        ] {
            let mut out = BytesMut::new();
            BufferedSerde.write(&value, &cx, &mut out).unwrap();
            let bytes = out.freeze();
            assert_eq!(BufferedSerde.read(&bytes, &cx).unwrap(), value);
            for cut in 0..bytes.len() {
                assert!(BufferedSerde.read(&bytes.slice(..cut), &cx).is_err(), "cut at {cut}");
            }
            let longer = Bytes::from([&bytes[..], b"x"].concat());
            assert!(BufferedSerde.read(&longer, &cx).is_err());
        }
    }

    #[test]
    fn an_old_value_that_is_the_prior_one_counts_once() {
        let context = 8 + 8 + 4 + 2 + 2 + 1;
        assert_eq!(change(Some("pp"), Some("pp")).size(b"k"), 8 + 1 + 2 + 3 + context);
        assert_eq!(change(Some("pp"), Some("o")).size(b"k"), 8 + 1 + 2 + 1 + 3 + context);
    }
}
