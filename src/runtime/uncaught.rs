//! What becomes of an application after an error that nobody handled (`StreamsUncaughtExceptionHandler`, KIP-671).

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::error::Error;

/// What to do about an error that ends a worker
/// (`StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum UncaughtErrorResponse {
    /// The worker ends and another takes its place (`REPLACE_THREAD`): its tasks are built anew, and go on from what was
    /// committed last. It begins a little later if the one before it did not last: 100 ms, doubled up to 10 s.
    ReplaceWorker,
    /// The instance commits what it can, leaves the group and ends with the error (`SHUTDOWN_CLIENT`).
    #[default]
    ShutdownClient,
    /// All instances of the application do so, each with an error that names this instance (`SHUTDOWN_APPLICATION`).
    ShutdownApplication,
}

/// The application's answer to errors that nobody handled.
#[derive(Clone)]
pub(super) struct Uncaught(Arc<dyn Fn(&Error) -> UncaughtErrorResponse + Send + Sync>);

impl Default for Uncaught {
    fn default() -> Self {
        Self::new(|_| UncaughtErrorResponse::default())
    }
}

impl fmt::Debug for Uncaught {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Uncaught")
    }
}

impl Uncaught {
    pub(super) fn new(answer: impl Fn(&Error) -> UncaughtErrorResponse + Send + Sync + 'static) -> Self {
        Self(Arc::new(answer))
    }

    /// Asks user code, so not to be called on the I/O thread.
    pub(super) fn answer(&self, error: &Error) -> UncaughtErrorResponse {
        let answer = catch_unwind(AssertUnwindSafe(|| (self.0)(error)));
        answer.unwrap_or_else(|_| {
            tracing::error!("the handler of uncaught errors panicked: the instance shuts down");
            UncaughtErrorResponse::ShutdownClient
        })
    }
}
