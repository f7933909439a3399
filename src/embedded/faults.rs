//! Faults by script: a hook an API key sees each request and says what shall go wrong.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
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
    /// The request has no effect; its answer is this error code, in all places that can say one.
    Fail(i16),
    /// The request has no effect; this is the body of its answer.
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

type Hook = dyn Fn(&Call) -> Fault + Send + Sync;

/// The hooks of a broker.
#[derive(Default)]
pub(crate) struct Faults(Mutex<Vec<(Api, Arc<Hook>)>>);

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults").finish_non_exhaustive()
    }
}

impl Faults {
    /// Adds a hook behind those that are there.
    pub(crate) fn on(&self, api: Api, hook: impl Fn(&Call) -> Fault + Send + Sync + 'static) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((api, Arc::new(hook)));
    }

    /// Removes all hooks.
    pub(crate) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// What the first hook says that does not pass. `call` is made only if there is a hook.
    pub(crate) fn ask(&self, api: Api, call: impl FnOnce() -> Call) -> Fault {
        let hooks: Vec<_> = {
            let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.iter().filter(|(of, _)| *of == api).map(|(_, hook)| Arc::clone(hook)).collect()
        };
        if hooks.is_empty() {
            return Fault::Pass;
        }
        let call = call();
        hooks.iter().map(|hook| hook(&call)).find(|fault| *fault != Fault::Pass).unwrap_or(Fault::Pass)
    }
}
