//! The Processor API: user code that sees whole records, keeps state, and is called on time.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use super::context::{Context, FixedKeyContext};
use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::record::{Headers, Record, Timestamp};
use crate::store::versioned::{VersionedStore, Versions};
use crate::store::{
    GlobalKeyValueStore, KeyValue, KeyValueStore, KvStore, StoreBuilder, TimestampedKeyValue,
    TimestampedKeyValueStore, VersionedKeyValue, VersionedKeyValueStore,
};
use crate::task::blueprint::{BuildCx, NodeFactory};
use crate::task::punctuation::Token;
use crate::task::{Flow, Lifecycle, Node, NodeIx, Outputs, TaskCx};

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

    /// Called once, before the stores close: the last commit of the task is made, or what it has done since is given up.
    ///
    /// Nothing that is done here is committed any more. At least once, what is forwarded and put is written before the task
    /// is another worker's and before the application ends; not if the task fails or is lost, and not what a record cache
    /// still withholds. Exactly once, it belongs to no transaction: what is forwarded goes nowhere, and the stores
    /// are as they were. So what must be seen is better forwarded from [`process`](Self::process) or
    /// [`punctuate`](Self::punctuate).
    fn close(&mut self, cx: &mut Context<'_, KO, VO>) -> Outcome {
        let _ = cx;
        Ok(())
    }
}

/// A record whose key stays what it is (`org.apache.kafka.streams.processor.api.FixedKeyRecord`): it can be read, not set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FixedKeyRecord<K, V>(Record<K, V>);

impl<K, V> FixedKeyRecord<K, V> {
    pub(super) fn into_record(self) -> Record<K, V> {
        self.0
    }

    /// The key, or `None` for null.
    pub fn key(&self) -> Option<&K> {
        self.0.key.as_ref()
    }

    /// The value, or `None` for null.
    pub fn value(&self) -> Option<&V> {
        self.0.value.as_ref()
    }

    /// Event time, in milliseconds since the Unix epoch.
    pub fn timestamp(&self) -> Timestamp {
        self.0.timestamp
    }

    /// The headers.
    pub fn headers(&self) -> &Headers {
        &self.0.headers
    }

    /// The same record with another value.
    pub fn with_value<V2>(self, value: impl Into<Option<V2>>) -> FixedKeyRecord<K, V2> {
        FixedKeyRecord(self.0.with_value(value))
    }

    /// The same record with another timestamp.
    #[must_use]
    pub fn with_timestamp(self, timestamp: Timestamp) -> Self {
        Self(self.0.with_timestamp(timestamp))
    }

    /// The same record with other headers.
    #[must_use]
    pub fn with_headers(self, headers: Headers) -> Self {
        Self(self.0.with_headers(headers))
    }
}

/// A processor of values: it cannot change keys, so nothing behind it has to repartition
/// (`org.apache.kafka.streams.processor.api.FixedKeyProcessor`).
///
/// ```
/// use mainstem::prelude::*;
///
/// /// Numbers the records of a task.
/// struct Numbered(i64);
///
/// impl FixedKeyProcessor<String, String, i64> for Numbered {
///     fn process(
///         &mut self,
///         record: FixedKeyRecord<String, String>,
///         cx: &mut FixedKeyContext<'_, String, i64>,
///     ) -> Outcome {
///         self.0 += 1;
///         Ok(cx.forward(record.with_value(self.0))?)
///     }
/// }
///
/// let builder = StreamsBuilder::new();
/// builder.stream::<String, String>("in").process_values(|_| Ok(Numbered(0)), &[]).to("out");
/// builder.build()?;
/// # Ok::<(), mainstem::Error>(())
/// ```
pub trait FixedKeyProcessor<K, VI, VO>: 'static {
    /// Called once, when the task's stores are restored: the place to schedule punctuations.
    fn init(&mut self, cx: &mut FixedKeyContext<'_, K, VO>) -> Outcome {
        let _ = cx;
        Ok(())
    }

    /// Called for every record.
    fn process(&mut self, record: FixedKeyRecord<K, VI>, cx: &mut FixedKeyContext<'_, K, VO>) -> Outcome;

    /// Called when the schedule `token` is due, at the time `at` of its clock.
    fn punctuate(&mut self, token: Token, at: Timestamp, cx: &mut FixedKeyContext<'_, K, VO>) -> Outcome {
        let _ = (token, at, cx);
        Ok(())
    }

    /// Called once, before the stores close: the last commit of the task is made, or what it has done since is given up.
    ///
    /// Nothing that is done here is committed any more. At least once, what is forwarded and put is written before the task
    /// is another worker's and before the application ends; not if the task fails or is lost, and not what a record cache
    /// still withholds. Exactly once, it belongs to no transaction: what is forwarded goes nowhere, and the stores
    /// are as they were. So what must be seen is better forwarded from [`process`](Self::process) or
    /// [`punctuate`](Self::punctuate).
    fn close(&mut self, cx: &mut FixedKeyContext<'_, K, VO>) -> Outcome {
        let _ = cx;
        Ok(())
    }
}

/// A processor of values as a processor of records.
pub(crate) struct FixedKey<P>(pub(crate) P);

impl<P, K, VI, VO> Processor<K, VI, K, VO> for FixedKey<P>
where
    P: FixedKeyProcessor<K, VI, VO>,
{
    fn init(&mut self, cx: &mut Context<'_, K, VO>) -> Outcome {
        self.0.init(&mut FixedKeyContext::new(cx))
    }

    fn process(&mut self, record: Record<K, VI>, cx: &mut Context<'_, K, VO>) -> Outcome {
        self.0.process(FixedKeyRecord(record), &mut FixedKeyContext::new(cx))
    }

    fn punctuate(&mut self, token: Token, at: Timestamp, cx: &mut Context<'_, K, VO>) -> Outcome {
        self.0.punctuate(token, at, &mut FixedKeyContext::new(cx))
    }

    fn close(&mut self, cx: &mut Context<'_, K, VO>) -> Outcome {
        self.0.close(&mut FixedKeyContext::new(cx))
    }
}

/// The stores of a processor that is being made.
pub struct Stores<'a, 'b>(&'a BuildCx<'b>);

impl fmt::Debug for Stores<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.connected).finish()
    }
}

/// A store's builder that knows the type of its handles; [`Stores::get`] asks it for one.
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

impl<K: Clone + 'static, V: Clone + 'static> StoreKey for VersionedKeyValue<K, V> {
    type Handle = VersionedKeyValueStore<K, V>;

    fn handle(&self, stores: &Stores<'_, '_>) -> Result<Self::Handle> {
        let store = stores.0.store::<KvStore<K, Versions<V>>>(self.name())?;
        Ok(VersionedKeyValueStore(VersionedStore(store)))
    }
}

impl<'a, 'b> Stores<'a, 'b> {
    /// Those that the node being built is connected to.
    pub(crate) fn of(cx: &'a BuildCx<'b>) -> Self {
        Self(cx)
    }
}

impl Stores<'_, '_> {
    /// The handle of a global store, for reading; a processor need not be connected to it.
    pub fn global<K: Clone + 'static, V: Clone + 'static>(
        &self,
        store: &KeyValue<K, V>,
    ) -> Result<GlobalKeyValueStore<K, V>> {
        self.0.global(store.name())
    }

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
    /// `policy` decides about an error.
    fn call(
        &mut self,
        cx: &mut TaskCx,
        policy: fn(&mut TaskCx, NodeIx, BoxError) -> Flow,
        call: impl FnOnce(&mut P, &mut Context<'_, KO, VO>) -> Outcome,
    ) -> Flow {
        cx.current = Some(self.node);
        let mut context = Context::new(cx, self.node, &self.outputs);
        match call(&mut self.processor, &mut context) {
            Ok(()) if !cx.has_failed() => Ok(()),
            Ok(()) => Err(crate::task::Stop),
            Err(error) => policy(cx, self.node, error),
        }
    }
}

/// A processor that could not begin or end is of no use, whatever the policy for records says.
fn fatal(cx: &mut TaskCx, node: NodeIx, error: BoxError) -> Flow {
    let node = cx.node_name(node).to_owned();
    let failed = Error::new(ErrorKind::Processing, "a processor could not be initialised or closed");
    Err(cx.fail(failed.at_node(node).because(error)))
}

impl<P, KI, VI, KO, VO> Node<KI, VI> for ProcessorNode<P, KO, VO>
where
    P: Processor<KI, VI, KO, VO>,
    KO: Clone + 'static,
    VO: Clone + 'static,
{
    fn process(&mut self, record: Record<KI, VI>, cx: &mut TaskCx) -> Flow {
        let before = std::mem::replace(&mut cx.timestamp, record.timestamp);
        let flow =
            self.call(cx, TaskCx::processing_error, |processor, context| processor.process(record, context));
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
        self.node.borrow_mut().call(cx, fatal, Processor::init)
    }

    fn punctuate(&mut self, token: Token, at: Timestamp, cx: &mut TaskCx) -> Flow {
        let punctuate =
            |processor: &mut P, context: &mut Context<'_, KO, VO>| processor.punctuate(token, at, context);
        self.node.borrow_mut().call(cx, TaskCx::processing_error, punctuate)
    }

    fn close(&mut self, cx: &mut TaskCx) -> Flow {
        self.node.borrow_mut().call(cx, fatal, Processor::close)
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
