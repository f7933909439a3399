//! The Processor API: user code that sees whole records, keeps state, and is called on time.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::record::{Record, Timestamp};
use crate::store::{
    KeyValue, KeyValueStore, KvStore, StoreBuilder, TimestampedKeyValue, TimestampedKeyValueStore,
};
use crate::task::blueprint::{BuildCx, NodeFactory};
use crate::task::context::StoreRef;
pub use crate::task::punctuation::{PunctuationType, Token};
use crate::task::{Flow, Lifecycle, Node, NodeIx, Outputs, TaskCx};
use crate::task_id::TaskId;

/// What user code answers: an error goes to the processing error policy with node, topic, partition and offset.
pub type Outcome = Result<(), BoxError>;

/// A processor of records `(KI, VI)` that forwards records `(KO, VO)`
/// (`org.apache.kafka.streams.processor.api.Processor`).
///
/// One instance belongs to one task and never leaves its worker, so its fields need no lock.
///
/// ```
/// use mainstem::prelude::*;
///
/// /// Forwards a record the first time its key is seen.
/// struct Distinct {
///     seen: KeyValueStore<String, i64>,
/// }
///
/// impl Processor<String, String, String, String> for Distinct {
///     fn process(&mut self, record: Record<String, String>, cx: &mut Context<'_, String, String>) -> Outcome {
///         let Some(key) = &record.key else { return Ok(()) };
///         if cx.store(&self.seen).put_if_absent(key, record.timestamp)?.is_none() {
///             cx.forward(record)?;
///         }
///         Ok(())
///     }
/// }
///
/// let seen = KeyValue::<String, i64>::named("seen");
/// let builder = StreamsBuilder::new();
/// builder
///     .stream::<String, String>("in")
///     .process({ let seen = seen.clone(); move |stores| Ok(Distinct { seen: stores.get(&seen)? }) }, &[&seen])
///     .to("out");
/// builder.build()?;
/// # Ok::<(), mainstem::Error>(())
/// ```
pub trait Processor<KI, VI, KO, VO>: 'static {
    /// Called once, when the task's stores are restored: the place to schedule punctuations.
    fn init(&mut self, cx: &mut Context<'_, KO, VO>) -> Outcome {
        let _ = cx;
        Ok(())
    }

    /// Called for every record.
    fn process(&mut self, record: Record<KI, VI>, cx: &mut Context<'_, KO, VO>) -> Outcome;

    /// Called when the schedule `token` is due, at the time `at` of its clock.
    fn punctuate(&mut self, token: Token, at: Timestamp, cx: &mut Context<'_, KO, VO>) -> Outcome {
        let _ = (token, at, cx);
        Ok(())
    }

    /// Called once, before the stores close.
    fn close(&mut self, cx: &mut Context<'_, KO, VO>) -> Outcome {
        let _ = cx;
        Ok(())
    }
}

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
    /// The child of that name; ask for it once, in [`Processor::init`].
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

    /// A store, for one call at a time.
    pub fn store<'s, S>(&'s mut self, store: &'s S) -> StoreRef<'s, S> {
        StoreRef { store, cx: self.cx }
    }

    /// Calls [`Processor::punctuate`] every `interval` (at least a millisecond). On stream time first with the first
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

/// The stores of a processor that is being made.
pub struct Stores<'a, 'b>(&'a BuildCx<'b>);

impl fmt::Debug for Stores<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.connected).finish()
    }
}

/// A store's builder that knows the type of its handles.
pub trait StoreKey: StoreBuilder {
    /// The handle.
    type Handle;

    #[doc(hidden)]
    fn handle(&self, stores: &Stores<'_, '_>) -> Result<Self::Handle>;
}

impl<K: Clone + 'static, V: Clone + 'static> StoreKey for KeyValue<K, V> {
    type Handle = KeyValueStore<K, V>;

    fn handle(&self, stores: &Stores<'_, '_>) -> Result<Self::Handle> {
        Ok(KeyValueStore(stores.0.store::<KvStore<K, V>>(self.name())?))
    }
}

impl<K: Clone + 'static, V: Clone + 'static> StoreKey for TimestampedKeyValue<K, V> {
    type Handle = TimestampedKeyValueStore<K, V>;

    fn handle(&self, stores: &Stores<'_, '_>) -> Result<Self::Handle> {
        Ok(TimestampedKeyValueStore(stores.0.store::<KvStore<K, V>>(self.name())?))
    }
}

impl Stores<'_, '_> {
    /// The handle of a store that the processor is connected to.
    pub fn get<S: StoreKey>(&self, store: &S) -> Result<S::Handle> {
        store.handle(self)
    }
}

/// A processor in its task.
struct ProcessorNode<P, KO, VO> {
    node: NodeIx,
    processor: P,
    outputs: Rc<Outputs<KO, VO>>,
}

impl<P, KO: Clone + 'static, VO: Clone + 'static> ProcessorNode<P, KO, VO> {
    fn call(
        &mut self,
        cx: &mut TaskCx,
        call: impl FnOnce(&mut P, &mut Context<'_, KO, VO>) -> Outcome,
    ) -> Flow {
        cx.current = Some(self.node);
        let mut context = Context { cx, node: self.node, outputs: &self.outputs };
        match call(&mut self.processor, &mut context) {
            Ok(()) if !cx.has_failed() => Ok(()),
            Ok(()) => Err(crate::task::Stop),
            Err(error) => cx.processing_error(self.node, error),
        }
    }
}

impl<P, KI, VI, KO, VO> Node<KI, VI> for ProcessorNode<P, KO, VO>
where
    P: Processor<KI, VI, KO, VO>,
    KO: Clone + 'static,
    VO: Clone + 'static,
{
    fn process(&mut self, record: Record<KI, VI>, cx: &mut TaskCx) -> Flow {
        let before = std::mem::replace(&mut cx.timestamp, record.timestamp);
        let flow = self.call(cx, |processor, context| processor.process(record, context));
        cx.timestamp = before;
        flow
    }
}

/// Ties the input types to a processor's life, which the compiler could not find from the node alone.
struct Life<P, KI, VI, KO, VO> {
    node: Rc<RefCell<ProcessorNode<P, KO, VO>>>,
    types: std::marker::PhantomData<fn(KI, VI)>,
}

impl<P, KI, VI, KO, VO> Lifecycle for Life<P, KI, VI, KO, VO>
where
    P: Processor<KI, VI, KO, VO>,
    KO: Clone + 'static,
    VO: Clone + 'static,
{
    fn init(&mut self, cx: &mut TaskCx) -> Flow {
        self.node.borrow_mut().call(cx, Processor::init)
    }

    fn punctuate(&mut self, token: Token, at: Timestamp, cx: &mut TaskCx) -> Flow {
        self.node.borrow_mut().call(cx, |processor, context| processor.punctuate(token, at, context))
    }

    fn close(&mut self, cx: &mut TaskCx) -> Flow {
        self.node.borrow_mut().call(cx, Processor::close)
    }
}

/// The factory of a processor node.
pub(crate) fn factory<P, KI, VI, KO, VO>(
    supplier: impl Fn(&Stores<'_, '_>) -> Result<P> + Send + Sync + 'static,
) -> NodeFactory
where
    P: Processor<KI, VI, KO, VO>,
    KI: 'static,
    VI: 'static,
    KO: Clone + 'static,
    VO: Clone + 'static,
{
    Arc::new(move |cx, children| {
        let outputs = Rc::new(children.outputs::<KO, VO>()?);
        let processor = supplier(&Stores(cx))?;
        let node = Rc::new(RefCell::new(ProcessorNode { node: cx.node, processor, outputs }));
        let life = Life { node: node.clone(), types: std::marker::PhantomData };
        cx.lifecycles.push((cx.node, Rc::new(RefCell::new(life))));
        Ok(crate::task::blueprint::ErasedPort::new::<KI, VI>(node))
    })
}
