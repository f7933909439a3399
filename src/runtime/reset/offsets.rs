//! Where the committed offsets of an application are to be.

use std::collections::BTreeMap;
use std::fmt;

use super::{Reset, refused};
use crate::client::{Admin, CommittedOffset, Isolation, OffsetSpec};
use crate::error::{Error, ErrorKind, Result};
use crate::record::{Timestamp, TopicPartition};

/// Where the input is to be read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResetTo {
    /// The first record that is still there.
    Earliest,
    /// Behind the last record.
    Latest,
    /// This offset in every partition, or the nearest that the log has.
    Offset(i64),
    /// The first record with this timestamp (in ms since the Unix epoch) or a later one; the end if there is none.
    Timestamp(Timestamp),
    /// So many records on (or back, if negative) from the committed offset, or the nearest that the log has.
    ShiftBy(i64),
    /// Each partition where this says.
    Plan(BTreeMap<TopicPartition, i64>),
}

/// A committed offset, before and after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetChange {
    /// Of which partition.
    pub at: TopicPartition,
    /// What is committed; `None` if nothing is.
    pub from: Option<i64>,
    /// What will be.
    pub to: i64,
    /// Why it is not what was asked for, if it is not.
    pub note: Option<String>,
}

impl OffsetChange {
    pub(super) fn commit(&self) -> (TopicPartition, CommittedOffset) {
        (self.at.clone(), CommittedOffset::new(self.to))
    }
}

impl fmt::Display for OffsetChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.from {
            Some(from) => write!(f, "{}: {from} -> {}", self.at, self.to)?,
            None => write!(f, "{}: none -> {}", self.at, self.to)?,
        }
        match &self.note {
            Some(note) => write!(f, " ({note})"),
            None => Ok(()),
        }
    }
}

/// Where a log begins and ends.
#[derive(Debug, Clone, Copy)]
struct Range {
    start: i64,
    end: i64,
}

impl Range {
    /// The offset, or the nearest that the log has (`StreamsResetter.checkOffsetRange`).
    fn nearest(self, offset: i64) -> (i64, Option<String>) {
        match offset {
            _ if offset < self.start => (self.start, Some(format!("{offset} is before the log's start"))),
            _ if offset > self.end => (self.end, Some(format!("{offset} is past the log's end"))),
            _ => (offset, None),
        }
    }
}

impl Reset {
    /// Where the offsets are to be, as the logs are now.
    pub(super) async fn offsets(&self, admin: &Admin, notes: &mut Vec<String>) -> Result<Vec<OffsetChange>> {
        let input = self.partitions(admin, &self.input_topics, "--input-topics").await?;
        let intermediate = self.partitions(admin, &self.intermediate_topics, "--intermediate-topics").await?;
        if input.is_empty() && intermediate.is_empty() {
            notes.push("no offset is set: --input-topics names the topics to read anew".to_owned());
            return Ok(Vec::new());
        }
        let all: Vec<_> = input.iter().chain(&intermediate).cloned().collect();
        let committed = admin.group_offsets(&self.application_id, Some(&all)).await?;
        let starts = list(admin, &all, OffsetSpec::Earliest).await?;
        let ends = list(admin, &all, OffsetSpec::Latest).await?;
        let found = match self.to {
            ResetTo::Timestamp(at) => list(admin, &input, OffsetSpec::Timestamp(at)).await?,
            _ => Vec::new(),
        };
        if let ResetTo::Plan(plan) = &self.to
            && let Some(strange) = plan.keys().find(|at| !input.contains(at))
        {
            return Err(refused(format!(
                "--from-file: {strange} is no partition of a topic that --input-topics names"
            )));
        }
        let mut changes = Vec::with_capacity(all.len());
        for (index, at) in all.into_iter().enumerate() {
            let range = Range { start: starts[index].unwrap_or(0), end: ends[index].unwrap_or(0) };
            let from = committed.get(&at).map(|offset| offset.offset);
            let (to, note) = match found.get(index) {
                _ if index >= input.len() => (range.end, None),
                Some(found) => match found {
                    Some(offset) => (*offset, None),
                    None => (range.end, Some("no record has such a timestamp or a later one".to_owned())),
                },
                None => self.target(&at, from, range)?,
            };
            changes.push(OffsetChange { at, from, to, note });
        }
        Ok(changes)
    }

    fn target(&self, at: &TopicPartition, from: Option<i64>, range: Range) -> Result<(i64, Option<String>)> {
        Ok(match &self.to {
            ResetTo::Earliest => (range.start, None),
            ResetTo::Latest | ResetTo::Timestamp(_) => (range.end, None),
            ResetTo::Offset(offset) => range.nearest(*offset),
            ResetTo::ShiftBy(by) => {
                let from = from.ok_or_else(|| {
                    refused(format!(
                        "--shift-by: {at} has no committed offset to begin from; --to-offset sets one"
                    ))
                })?;
                range.nearest(from.saturating_add(*by))
            }
            ResetTo::Plan(plan) => {
                let offset = plan.get(at).ok_or_else(|| {
                    refused(format!("--from-file says nothing of {at}: it needs a line for every partition"))
                })?;
                range.nearest(*offset)
            }
        })
    }

    async fn partitions(
        &self,
        admin: &Admin,
        topics: &[String],
        option: &str,
    ) -> Result<Vec<TopicPartition>> {
        if topics.is_empty() {
            return Ok(Vec::new());
        }
        let names: Vec<&str> = topics.iter().map(|name| &**name).collect();
        let (mut partitions, mut missing) = (Vec::new(), Vec::new());
        for (name, topic) in names.iter().zip(admin.describe_topics(&names).await?) {
            match topic {
                Ok(topic) => {
                    let count = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
                    partitions.extend((0..count).map(|partition| TopicPartition::new(*name, partition)));
                }
                Err(error) if error.kind() == ErrorKind::Topic => missing.push(*name),
                Err(error) => return Err(error),
            }
        }
        match missing.is_empty() {
            true => Ok(partitions),
            false => Err(Error::new(
                ErrorKind::Topic,
                format!(
                    "{option} names topics that do not exist: {}; nothing was changed",
                    missing.join(", ")
                ),
            )),
        }
    }
}

async fn list(admin: &Admin, of: &[TopicPartition], spec: OffsetSpec) -> Result<Vec<Option<i64>>> {
    let asked: Vec<_> = of.iter().map(|at| (at.clone(), spec)).collect();
    let listed = admin.list_offsets(&asked, Isolation::ReadUncommitted).await?;
    listed.into_iter().map(|listed| Ok(listed?.offset)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_that_the_log_does_not_have_is_the_nearest_that_it_has() {
        let range = Range { start: 10, end: 20 };
        assert_eq!(range.nearest(10), (10, None));
        assert_eq!(range.nearest(20), (20, None));
        assert_eq!((range.nearest(9).0, range.nearest(-3).0), (10, 10));
        assert_eq!(range.nearest(21).0, 20);
        assert!(range.nearest(21).1.is_some() && range.nearest(9).1.is_some());
    }
}
