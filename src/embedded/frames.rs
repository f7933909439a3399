//! Connections that die in the middle of a request or an answer, where a test says.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::api::Api;

/// A request or an answer on its way, as a [cut](super::EmbeddedKafka::cut) sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Frame {
    /// What is asked, or answered.
    pub api: Api,
    /// Of which node, or by which.
    pub node: i32,
    /// Whether it is the answer. By then the request has had its effect.
    pub answer: bool,
    /// Its bytes, the four that tell its length included.
    pub length: usize,
}

type Cut = dyn Fn(&Frame) -> Option<usize> + Send + Sync;

/// Asks about each frame where it is cut, if somebody wants to know.
#[derive(Default)]
pub(crate) struct Frames(Mutex<Option<Arc<Cut>>>);

impl fmt::Debug for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frames").finish_non_exhaustive()
    }
}

impl Frames {
    /// Exchanges the cut.
    pub(crate) fn set(&self, cut: Option<Arc<Cut>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = cut;
    }

    /// After how many bytes of the frame its connection ends, at most all of them. `frame` is made only if there is a
    /// cut.
    pub(crate) fn ask(&self, frame: impl FnOnce() -> Frame) -> Option<usize> {
        let cut = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let frame = frame();
        cut(&frame).map(|at| at.min(frame.length))
    }
}
