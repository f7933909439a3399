//! Exactly-once, and records that a broker refuses although the policy is to go on without them: their transaction has to be
//! aborted, and its input is processed again. What was refused comes again then, and is left out.
//!
//! Kafka Streams ends there: `RecordCollectorImpl` drops the record by its handler's word, and then the commit of the
//! producer, which is in an abortable state, ends the thread (`StreamsProducer.commitTransaction`).

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::record::{Headers, RawRecord, Timestamp};

/// More than this in one transaction is no exception any more, and takes more passes than anybody waits for.
const MOST: usize = 10_000;

/// A record, whole: nothing else may ever be taken for it.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Content {
    topic: Arc<str>,
    timestamp: Timestamp,
    key: Option<Bytes>,
    value: Option<Bytes>,
    headers: Bytes,
}

/// What becomes of a record instead: the topic of dead letters, and the headers there.
pub(super) type Letter = Option<(Arc<str>, Headers)>;

/// What was refused since the last commit.
#[derive(Debug, Default)]
pub(super) struct Refused {
    records: HashMap<Content, Letter>,
    /// How many records were left out of the open transaction.
    left_out: u64,
}

impl Refused {
    /// A record was refused.
    ///
    /// # Errors
    /// [`ErrorKind::Production`] if that goes on and on.
    pub(super) fn add(&mut self, topic: &Arc<str>, record: RawRecord, letter: Letter) -> Result<()> {
        if self.records.len() >= MOST {
            let text = format!(
                "{MOST} records of one transaction were refused, and more come: raise max.message.bytes of the topic or mend what \
                 makes such records; where they differ each time, process with at_least_once"
            );
            return Err(Error::new(ErrorKind::Production, text));
        }
        let RawRecord { timestamp, key, value, headers, .. } = record;
        let headers = headers.wire().clone();
        self.records.insert(Content { topic: topic.clone(), timestamp, key, value, headers }, letter);
        Ok(())
    }

    /// Whether nothing was refused, which is nearly always so: nothing is compared then.
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Whether a record is one that was refused, and what becomes of it instead.
    pub(super) fn leave_out(
        &mut self,
        topic: &str,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &Headers,
    ) -> Option<Letter> {
        let content = Content {
            topic: topic.into(),
            timestamp,
            key: key.map(Bytes::copy_from_slice),
            value: value.map(Bytes::copy_from_slice),
            headers: headers.wire().clone(),
        };
        let letter = self.records.get(&content)?;
        self.left_out += 1;
        Some(letter.clone())
    }

    /// The transaction is aborted: what was left out of it comes again.
    pub(super) fn aborted(&mut self) {
        self.left_out = 0;
    }

    /// The transaction is committed: how many records it went without.
    pub(super) fn committed(&mut self) -> u64 {
        self.records.clear();
        std::mem::take(&mut self.left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(value: &'static [u8]) -> RawRecord {
        RawRecord {
            offset: 0,
            timestamp: 7,
            key: None,
            value: Some(Bytes::from_static(value)),
            headers: Headers::default(),
        }
    }

    #[test]
    fn what_was_refused_is_left_out_until_the_commit_and_nothing_else_is() {
        let mut refused = Refused::default();
        let topic: Arc<str> = "out".into();
        refused.add(&topic, record(b"long"), None).unwrap();
        let none = Headers::default();
        let leave_out = |refused: &mut Refused, topic: &str, timestamp, value: &[u8]| {
            refused.leave_out(topic, timestamp, None, Some(value), &none).is_some()
        };
        assert!(leave_out(&mut refused, "out", 7, b"long"));
        assert!(!leave_out(&mut refused, "out", 7, b"other"));
        assert!(!leave_out(&mut refused, "elsewhere", 7, b"long"));
        assert!(!leave_out(&mut refused, "out", 8, b"long"));
        assert!(
            refused.leave_out("out", 7, Some(b""), Some(b"long"), &none).is_none(),
            "an empty key is one"
        );
        refused.aborted();
        assert!(leave_out(&mut refused, "out", 7, b"long"));
        assert_eq!(refused.committed(), 1);
        assert!(refused.is_empty() && !leave_out(&mut refused, "out", 7, b"long"));
    }
}
