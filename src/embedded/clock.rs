//! The broker's time: that of the machine, or one that a test moves by hand.
//!
//! Coordinators, retention and compaction live by it. What belongs to the network does not: the wait of a fetch, of an
//! acknowledgement and of a fault's delay is always real, because the client on the other side waits in real time.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::clock::{self, Clock, SystemClock};
use crate::{Error, ErrorKind, Result};

/// How far a manual clock may be moved in all, a hundred years: every deadline can still be said from there on.
const FARTHEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

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

    /// Moves a manual clock.
    pub(crate) fn advance(&self, by: Duration) -> Result<()> {
        let Some(moved) = &self.moved else {
            let what = "the clock of this cluster cannot be moved: build it with manual_clock()";
            return Err(Error::new(ErrorKind::IllegalState, what));
        };
        let until = moved.borrow().checked_add(by).filter(|until| *until <= FARTHEST);
        let Some(until) = until else {
            let what = format!("the clock of an embedded Kafka goes no farther than {FARTHEST:?} in all");
            return Err(Error::new(ErrorKind::Config, what));
        };
        moved.send_replace(until);
        Ok(())
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
