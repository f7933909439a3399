//! Tests of a task as a worker drives it: several records between commits, several partitions, caches on.

mod cache;
mod commits;
mod errors;
mod keys;
mod order;
mod windows;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use super::collector::{Collector, Partition, TopicIx};
use super::errors::{ErrorHandler, ErrorPolicies, ErrorResponse, Fixed};
use super::queue::RawBatch;
use super::{Task, TaskConfig};
use crate::clock::ManualClock;
use crate::dsl::StreamsBuilder;
use crate::error::{Error, ErrorKind, Result};
use crate::record::{Headers, RawRecord, Timestamp, TopicPartition};
use crate::task_id::TaskId;

/// A record that a task has sent.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sent {
    topic: String,
    partition: Option<i32>,
    key: Option<String>,
    value: Option<Bytes>,
    timestamp: Option<Timestamp>,
    headers: Headers,
}

impl Sent {
    fn text(&self) -> String {
        self.value.as_ref().map_or_else(|| "null".to_owned(), |v| String::from_utf8_lossy(v).into_owned())
    }

    fn long(&self) -> Option<i64> {
        self.value.as_ref().map(|v| i64::from_be_bytes(v[..].try_into().expect("a long")))
    }
}

#[derive(Default)]
struct Out {
    topics: Vec<String>,
    sent: Vec<Sent>,
    /// Topics that refuse records, and how.
    broken: HashMap<String, ErrorKind>,
}

#[derive(Clone, Default)]
struct Capture(Rc<RefCell<Out>>);

impl Collector for Capture {
    fn register(&mut self, topic: &str) -> Result<TopicIx> {
        let mut out = self.0.borrow_mut();
        let known = out.topics.iter().position(|t| t == topic);
        let at = known.unwrap_or_else(|| {
            out.topics.push(topic.to_owned());
            out.topics.len() - 1
        });
        Ok(TopicIx(at as u32))
    }

    fn partitions(&self, _: TopicIx) -> i32 {
        3
    }

    fn send(
        &mut self,
        topic: TopicIx,
        partition: Partition,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp: Option<Timestamp>,
        headers: &Headers,
    ) -> Result<()> {
        let mut out = self.0.borrow_mut();
        let topic = out.topics[topic.0 as usize].clone();
        if let Some(kind) = out.broken.get(&topic) {
            return Err(Error::new(*kind, "refused"));
        }
        out.sent.push(Sent {
            topic,
            partition: match partition {
                Partition::Default => None,
                Partition::Exactly(partition) => Some(partition),
            },
            key: key.map(|k| String::from_utf8_lossy(k).into_owned()),
            value: value.map(Bytes::copy_from_slice),
            timestamp,
            headers: headers.clone(),
        });
        Ok(())
    }
}

/// A running task, its output and its clock.
struct Rig {
    task: Task,
    out: Capture,
    clock: ManualClock,
}

struct Options {
    cache_bytes: usize,
    handler: Arc<dyn ErrorHandler>,
    dead_letters: bool,
}

const FAIL: Fixed = Fixed {
    deserialization: ErrorResponse::Fail,
    processing: ErrorResponse::Fail,
    production: ErrorResponse::Fail,
};
const CONTINUE: Fixed = Fixed {
    deserialization: ErrorResponse::Continue,
    processing: ErrorResponse::Continue,
    production: ErrorResponse::Continue,
};

impl Default for Options {
    fn default() -> Self {
        Self { cache_bytes: 0, handler: Arc::new(FAIL), dead_letters: false }
    }
}

type Input<'a> = (i64, Option<&'a str>, Option<&'a str>, Timestamp);

fn raw(record: Input<'_>) -> RawRecord {
    let (offset, key, value, timestamp) = record;
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    let headers = [("at", Some(offset.to_string()))];
    RawRecord {
        offset,
        timestamp,
        key: key.map(bytes),
        value: value.map(bytes),
        headers: headers.iter().map(|(k, v)| (*k, v.as_deref().map(str::as_bytes))).collect(),
    }
}

impl Rig {
    /// Builds the whole topology as one task over these partitions.
    fn build(builder: &StreamsBuilder, partitions: &[(&str, i32)], options: Options) -> Result<Self> {
        let topology = builder.allow_generated_names().build()?;
        let out = Capture::default();
        let clock = ManualClock::at(1_000);
        let config = TaskConfig {
            task: TaskId { subtopology: 0, partition: 2 },
            application_id: "app".into(),
            partitions: partitions.iter().map(|(t, p)| TopicPartition::new(*t, *p)).collect(),
            policies: ErrorPolicies {
                handler: options.handler,
                dead_letter_topic: options.dead_letters.then(|| "dead".into()),
                timestamps: crate::config::TimestampPolicy::Fail,
            },
            cache_bytes: options.cache_bytes,
            window_emit_interval: 0,
            globals: Default::default(),
        };
        let mut task =
            Task::build(&topology.inner.whole, config, Box::new(out.clone()), Arc::new(clock.clone()))?;
        task.init()?;
        Ok(Self { task, out, clock })
    }

    fn new(builder: &StreamsBuilder, options: Options) -> Self {
        Self::build(builder, &[("in", 2)], options).expect("the task can be built")
    }

    fn source(&self, topic: &str, partition: i32) -> usize {
        let at = self.task.sources().iter().position(|s| &*s.topic == topic && s.partition == partition);
        at.expect("the task reads the partition")
    }

    fn push(&mut self, topic: &str, partition: i32, records: &[Input<'_>], next_offset: i64) {
        let source = self.source(topic, partition);
        let records: Vec<_> = records.iter().map(|r| Ok(raw(*r))).collect();
        let count = records.len();
        self.task.push(source, RawBatch { records: Box::new(records.into_iter()), next_offset, count });
    }

    /// Pushes records with the offsets 0, 1, ... into the only partition, and processes them all.
    fn run(&mut self, records: &[(Option<&str>, Option<&str>, Timestamp)]) -> Result<usize> {
        let records: Vec<Input<'_>> =
            records.iter().enumerate().map(|(i, (k, v, t))| (i as i64, *k, *v, *t)).collect();
        self.push("in", 2, &records, records.len() as i64);
        self.process()
    }

    fn process(&mut self) -> Result<usize> {
        let mut done = 0;
        loop {
            let some = self.task.process(usize::MAX, |_| true, || true)?;
            let punctuated = self.task.punctuate_stream_time()?;
            done += some;
            if some == 0 && !punctuated {
                return Ok(done);
            }
        }
    }

    fn commit(&mut self) -> Result<()> {
        self.task.flush_caches()?;
        self.task.post_commit(|_| None)
    }

    fn taken(&self) -> Vec<Sent> {
        std::mem::take(&mut self.out.0.borrow_mut().sent)
    }

    /// `topic: key=value@timestamp` of what was sent since the last call, values as texts.
    fn texts(&self) -> Vec<String> {
        let line = |s: &Sent| {
            let key = s.key.as_deref().unwrap_or("null");
            format!("{}: {key}={}@{}", s.topic, s.text(), s.timestamp.unwrap_or(-1))
        };
        self.taken().iter().map(line).collect()
    }

    /// The same with values as numbers.
    fn counts(&self) -> Vec<String> {
        let line = |s: &Sent| {
            let value = s.long().map_or_else(|| "null".to_owned(), |n| n.to_string());
            format!(
                "{}: {}={value}@{}",
                s.topic,
                s.key.as_deref().unwrap_or("null"),
                s.timestamp.unwrap_or(-1)
            )
        };
        self.taken().iter().map(line).collect()
    }

    fn positions(&self) -> Vec<(i64, Timestamp)> {
        self.task.committable().into_iter().map(|c| (c.offset, c.partition_time)).collect()
    }
}
