//! Faults by script: a hook an API key sees each request and says what shall go wrong.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::api::Api;

/// A request, as a hook sees it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Call {
    /// What is asked.
    pub api: Api,
    /// In which version.
    pub version: i16,
    /// Of which node.
    pub node: i32,
    /// By whom: the `client.id`.
    pub client_id: String,
    /// The body behind the request header, as it came.
    pub body: bytes::Bytes,
}

/// What a hook makes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing: the next hook is asked, then the broker answers.
    Pass,
    /// The request has no effect; its answer is this error code, in all places that can say one. A Produce that wants no
    /// answer (`acks=0`) loses its connection instead.
    Fail(i16),
    /// The request has no effect; this is the body of its answer, also if it wants none.
    Answer(bytes::Bytes),
    /// The request is handled so much later.
    DelayBefore(Duration),
    /// The request is handled at once and answered so much later.
    DelayAfter(Duration),
    /// The connection ends before the request has an effect.
    DropBefore,
    /// The request has its effect; its connection ends instead of an answer.
    DropAfter,
}

/// Names a hook: what [`on`](super::EmbeddedKafka::on) gives and [`remove_hook`](super::EmbeddedKafka::remove_hook) takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HookId(u64);

type Hook = dyn Fn(&Call) -> Fault + Send + Sync;

/// UNKNOWN_SERVER_ERROR: what a broker says whose code has failed.
const UNKNOWN_SERVER_ERROR: i16 = -1;

/// The hooks of a broker.
#[derive(Default)]
pub(crate) struct Faults {
    hooks: Mutex<Vec<(HookId, Api, Arc<Hook>)>>,
    given: AtomicU64,
    /// What was said by the first hook that panicked.
    panicked: Mutex<Option<String>>,
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Faults {
    /// Adds a hook behind those that are there.
    pub(crate) fn on(&self, api: Api, hook: impl Fn(&Call) -> Fault + Send + Sync + 'static) -> HookId {
        let id = HookId(self.given.fetch_add(1, Ordering::Relaxed));
        lock(&self.hooks).push((id, api, Arc::new(hook)));
        id
    }

    /// Removes a hook.
    pub(crate) fn remove(&self, id: HookId) {
        // What a hook has captured may be dropped with it, and may ask for the hooks.
        let removed: Vec<_> = lock(&self.hooks).extract_if(.., |(of, ..)| *of == id).collect();
        drop(removed);
    }

    /// Removes all hooks.
    pub(crate) fn clear(&self) {
        let removed = std::mem::take(&mut *lock(&self.hooks));
        drop(removed);
    }

    /// What the first hook says that does not pass. `call` is made only if there is a hook.
    pub(crate) fn ask(&self, api: Api, call: impl FnOnce() -> Call) -> Fault {
        let hooks: Vec<_> = {
            let all = lock(&self.hooks);
            all.iter().filter(|(_, of, _)| *of == api).map(|(.., hook)| Arc::clone(hook)).collect()
        };
        if hooks.is_empty() {
            return Fault::Pass;
        }
        let call = call();
        let ask = || hooks.iter().map(|hook| hook(&call)).find(|fault| *fault != Fault::Pass);
        match self.watch(format_args!("a hook of {api:?}"), ask) {
            Some(fault) => fault.unwrap_or(Fault::Pass),
            None => Fault::Fail(UNKNOWN_SERVER_ERROR),
        }
    }

    /// Runs what a test has given; if it panics, that is remembered, and there is nothing.
    pub(crate) fn watch<T>(&self, what: fmt::Arguments<'_>, run: impl FnOnce() -> T) -> Option<T> {
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        ran.inspect_err(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("(no text)");
            lock(&self.panicked).get_or_insert_with(|| format!("{what} panicked: {text}"));
        })
        .ok()
    }

    /// What was said by the first that panicked, once.
    pub(crate) fn take_panic(&self) -> Option<String> {
        lock(&self.panicked).take()
    }
}
