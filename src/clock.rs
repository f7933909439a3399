//! Time: the only place of the crate that reads a clock or makes a timer.
//!
//! Everything else takes a [`Clock`] or calls the functions here; clippy refuses `Instant::now`, `SystemTime::now` and
//! tokio's timers anywhere else. Tests move a [`ManualClock`] by hand.
#![allow(clippy::disallowed_methods)]

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A source of wall-clock time, in milliseconds since the Unix epoch.
pub trait Clock: Debug + Send + Sync + 'static {
    /// The wall-clock time, in milliseconds since 1970-01-01T00:00:00Z.
    fn wall_ms(&self) -> i64;
}

/// The clock of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn wall_ms(&self) -> i64 {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
        }
    }
}

/// A clock that stands still until it is moved. Clones share the same time.
///
/// ```
/// use mainstem::clock::{Clock, ManualClock};
///
/// let clock = ManualClock::at(1_000);
/// clock.advance(std::time::Duration::from_millis(5));
/// assert_eq!(clock.wall_ms(), 1_005);
/// ```
#[derive(Debug, Clone, Default)]
pub struct ManualClock(Arc<AtomicI64>);

impl ManualClock {
    /// A clock that shows `wall_ms` milliseconds since the Unix epoch.
    pub fn at(wall_ms: i64) -> Self {
        Self(Arc::new(AtomicI64::new(wall_ms)))
    }

    /// Moves the clock forward; parts of a millisecond are cut off.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn wall_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// A point on the machine's monotonic clock, for deadlines and elapsed times.
pub(crate) fn monotonic() -> Instant {
    Instant::now()
}

/// Waits on a thread that has nothing else to do.
#[cfg(any(feature = "fjall", feature = "sled", feature = "testing"))]
pub(crate) fn block(duration: Duration) {
    std::thread::sleep(duration);
}

/// Waits on the current tokio runtime.
pub(crate) async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// The given future's output, or `None` if it took longer than `limit`.
pub(crate) async fn timeout<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    tokio::time::timeout(limit, future).await.ok()
}
