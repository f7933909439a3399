//! What processors see of their task: the way on, stores, schedules, time and place.

use std::fmt;
use std::time::Duration;

use super::processor::FixedKeyRecord;
use crate::error::{Error, ErrorKind, Result};
use crate::record::{Record, Timestamp};
use crate::task::context::StoreRef;
use crate::task::punctuation::{PunctuationType, Token};
use crate::task::{Flow, NodeIx, Outputs, TaskCx};
use crate::task_id::TaskId;

/// Where a record came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordMetadata<'a> {
    /// The topic; `None` in a punctuation.
    pub topic: Option<&'a str>,
    /// The partition, -1 in a punctuation.
    pub partition: i32,
    /// The offset, -1 in a punctuation.
    pub offset: i64,
}

/// What a processor can do: forward, reach its stores, schedule punctuations, ask where and when it is
/// (`org.apache.kafka.streams.processor.api.ProcessorContext`).
pub struct Context<'a, KO, VO> {
    cx: &'a mut TaskCx,
    node: NodeIx,
    outputs: &'a Outputs<KO, VO>,
}

impl<KO, VO> fmt::Debug for Context<'_, KO, VO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Context({} of task {})", self.cx.node_name(self.node), self.cx.task)
    }
}

/// A child of a processor, by [`Context::child`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Child(usize);

fn stopped() -> Error {
    Error::new(ErrorKind::Processing, "a node downstream has failed; its error is reported by the task")
}

impl<'a, KO, VO> Context<'a, KO, VO> {
    pub(super) fn new(cx: &'a mut TaskCx, node: NodeIx, outputs: &'a Outputs<KO, VO>) -> Self {
        Self { cx, node, outputs }
    }
}

impl<KO: Clone, VO: Clone> Context<'_, KO, VO> {
    /// Sends a record to every child. An error means that the task has failed: return it.
    pub fn forward(&mut self, record: Record<KO, VO>) -> Result<()> {
        let (outputs, node) = (self.outputs, self.node);
        self.downstream(record, |record, cx| outputs.forward_rekeyed(record, cx), node)
    }

    /// Sends a record to one child.
    pub fn forward_to(&mut self, child: Child, record: Record<KO, VO>) -> Result<()> {
        let (outputs, node) = (self.outputs, self.node);
        let to_child = |record, cx: &mut TaskCx| {
            let known = cx.take_key_bytes();
            let flow = outputs.forward_to(child.0, record, cx);
            cx.put_back_key_bytes(known);
            flow
        };
        self.downstream(record, to_child, node)
    }

    fn downstream(
        &mut self,
        record: Record<KO, VO>,
        send: impl FnOnce(Record<KO, VO>, &mut TaskCx) -> Flow,
        node: NodeIx,
    ) -> Result<()> {
        let timestamp = std::mem::replace(&mut self.cx.timestamp, record.timestamp);
        let flow = send(record, self.cx);
        self.cx.timestamp = timestamp;
        self.cx.current = Some(node);
        flow.map_err(|_| stopped())
    }
}

impl<KO, VO> Context<'_, KO, VO> {
    /// The child of that name; ask for it once, in [`Processor::init`](super::Processor::init).
    pub fn child(&self, name: &str) -> Result<Child> {
        self.outputs.position(name).map(Child).ok_or_else(|| {
            Error::new(ErrorKind::Topology, format!("there is no child named {name}"))
                .at_node(self.cx.node_name(self.node))
        })
    }

    /// How many children there are.
    pub fn children(&self) -> usize {
        self.outputs.len()
    }
}

/// What a processor of values can do: all that [`Context`] offers, but it forwards records with the keys that came
/// (`org.apache.kafka.streams.processor.api.FixedKeyProcessorContext`).
pub struct FixedKeyContext<'a, K, VO> {
    cx: &'a mut TaskCx,
    node: NodeIx,
    outputs: &'a Outputs<K, VO>,
}

impl<K, VO> fmt::Debug for FixedKeyContext<'_, K, VO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FixedKeyContext({} of task {})", self.cx.node_name(self.node), self.cx.task)
    }
}

impl<'a, K, VO> FixedKeyContext<'a, K, VO> {
    pub(super) fn new(context: &'a mut Context<'_, K, VO>) -> Self {
        Self { cx: context.cx, node: context.node, outputs: context.outputs }
    }
}

impl<K: Clone, VO: Clone> FixedKeyContext<'_, K, VO> {
    /// Sends a record to every child. An error means that the task has failed: return it.
    pub fn forward(&mut self, record: FixedKeyRecord<K, VO>) -> Result<()> {
        // The record may be one that the processor has kept from an earlier call: its key is not always the one in hand.
        Context { cx: self.cx, node: self.node, outputs: self.outputs }.forward(record.into_record())
    }
}

/// What a transformer of a table's values can do: all that [`Context`] offers, but it forwards nothing, for a row becomes one
/// row (`org.apache.kafka.streams.kstream.internals.ForwardingDisabledProcessorContext`).
pub struct TransformContext<'a> {
    cx: &'a mut TaskCx,
    node: NodeIx,
}

impl fmt::Debug for TransformContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TransformContext({} of task {})", self.cx.node_name(self.node), self.cx.task)
    }
}

impl<'a> TransformContext<'a> {
    pub(crate) fn new(cx: &'a mut TaskCx, node: NodeIx) -> Self {
        Self { cx, node }
    }
}

/// What all kinds of contexts offer.
macro_rules! reach {
    ($context:ident $(, $type:ident)*) => {
        impl<$($type),*> $context<'_, $($type),*> {
            /// A store, for one call at a time.
            pub fn store<'s, S>(&'s mut self, store: &'s S) -> StoreRef<'s, S> {
                StoreRef { store, cx: self.cx }
            }

            /// Calls [`Processor::punctuate`](super::Processor::punctuate) every `interval` (at least a millisecond). On stream time first with the first
            /// record, then at multiples of the interval; on the wall clock first after one interval. Missed calls collapse into
            /// one.
            pub fn schedule(&mut self, interval: Duration, kind: PunctuationType) -> Result<Token> {
                let interval = self.interval(interval)?;
                Ok(self.cx.schedule(self.node, kind, None, interval))
            }

            /// As [`schedule`](Self::schedule), at `start + n * interval` only; `start` in milliseconds since the Unix epoch
            /// (KIP-1146).
            pub fn schedule_from(
                &mut self,
                start: Timestamp,
                interval: Duration,
                kind: PunctuationType,
            ) -> Result<Token> {
                let interval = self.interval(interval)?;
                Ok(self.cx.schedule(self.node, kind, Some(start), interval))
            }

            fn interval(&self, interval: Duration) -> Result<i64> {
                i64::try_from(interval.as_millis()).ok().filter(|ms| *ms >= 1).ok_or_else(|| {
                    Error::new(
                        ErrorKind::Topology,
                        format!("a punctuation interval of {interval:?} is not at least 1 ms"),
                    )
                    .at_node(self.cx.node_name(self.node))
                })
            }

            /// Ends a schedule.
            pub fn cancel(&mut self, token: Token) {
                self.cx.cancel(token);
            }

            /// Asks for a commit after the record in hand.
            pub fn commit(&mut self) {
                self.cx.commit_requested = true;
            }

            /// Where the record in hand came from.
            pub fn record_metadata(&self) -> RecordMetadata<'_> {
                match self.cx.source() {
                    Some(source) => RecordMetadata {
                        topic: Some(&source.topic),
                        partition: source.partition,
                        offset: self.cx.raw.offset,
                    },
                    None => RecordMetadata { topic: None, partition: -1, offset: -1 },
                }
            }

            /// The greatest timestamp that the task has seen, the record in hand included; -1 before the first.
            pub fn current_stream_time_ms(&self) -> Timestamp {
                self.cx.stream_time
            }

            /// The wall clock.
            pub fn current_system_time_ms(&self) -> Timestamp {
                self.cx.clock.wall_ms()
            }

            /// The task.
            pub fn task_id(&self) -> TaskId {
                self.cx.task
            }

            /// The application.
            pub fn application_id(&self) -> &str {
                &self.cx.application_id
            }
        }
    };
}

reach!(Context, K, VO);
reach!(FixedKeyContext, K, VO);
reach!(TransformContext);
