//! The broker's time: that of the machine, or one that a test moves by hand.
//!
//! Coordinators, retention and compaction live by it. What belongs to the network does not: the wait of a fetch, of an
//! acknowledgement and of a fault's delay is always real, because the client on the other side waits in real time.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::clock::{self, Clock, SystemClock};

/// A source of time for everything that the broker does by deadline or stamps with a time.
#[derive(Debug)]
pub(crate) struct BrokerClock {
    started: Instant,
    started_ms: i64,
    /// How far a test has moved the clock; `None` where the machine's clock runs.
    moved: Option<watch::Sender<Duration>>,
}

impl BrokerClock {
    /// The machine's clock, or one that stands still at the present.
    pub(crate) fn new(manual: bool) -> Self {
        let moved = manual.then(|| watch::Sender::new(Duration::ZERO));
        Self { started: clock::monotonic(), started_ms: SystemClock.wall_ms(), moved }
    }

    /// For deadlines.
    pub(crate) fn now(&self) -> Instant {
        match &self.moved {
            Some(moved) => self.started + *moved.borrow(),
            None => clock::monotonic(),
        }
    }

    /// For timestamps: milliseconds since the Unix epoch.
    pub(crate) fn wall_ms(&self) -> i64 {
        match &self.moved {
            Some(moved) => {
                let moved = i64::try_from(moved.borrow().as_millis()).unwrap_or(i64::MAX);
                self.started_ms.saturating_add(moved)
            }
            None => SystemClock.wall_ms(),
        }
    }

    /// Moves a manual clock; says whether it is one.
    pub(crate) fn advance(&self, by: Duration) -> bool {
        match &self.moved {
            Some(moved) => {
                moved.send_modify(|moved| *moved += by);
                true
            }
            None => false,
        }
    }

    /// Waits until [`now`](Self::now) has reached `deadline`.
    pub(crate) async fn sleep_until(&self, deadline: Instant) {
        match &self.moved {
            Some(moved) => {
                let mut moves = moved.subscribe();
                // The sender is borrowed, so that waiting cannot fail.
                let _ = moves.wait_for(|moved| self.started + *moved >= deadline).await;
            }
            None => clock::sleep(deadline.saturating_duration_since(clock::monotonic())).await,
        }
    }
}
