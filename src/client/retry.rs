//! When to try again: exponential backoff with jitter, up to a deadline.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

use crate::{Error, Result, clock};

/// Pauses that double from `first` up to `max`, each moved by up to a fifth either way, so that clients that failed
/// together do not come back together (as Kafka's `ExponentialBackoff`).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    pub(crate) first: Duration,
    pub(crate) max: Duration,
}

impl Backoff {
    /// The pause after the given number of failures in a row, counted from 1.
    pub(crate) fn pause(&self, failures: u32) -> Duration {
        let doubled =
            self.first.saturating_mul(1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
        doubled.min(self.max).mul_f64(0.8 + 0.4 * random())
    }
}

/// A number in `0.0..1.0`. Not for secrets.
pub(super) fn random() -> f64 {
    // Every `RandomState` has keys of its own: enough chance to spread clients out, without a crate for it.
    let bits = RandomState::new().build_hasher().finish();
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// One call with its retries: how often it failed so far, and until when it may go on.
#[derive(Debug)]
pub(crate) struct Retry {
    backoff: Backoff,
    deadline: Instant,
    failures: u32,
}

impl Retry {
    pub(crate) fn new(backoff: Backoff, within: Duration) -> Self {
        Self { backoff, deadline: clock::monotonic() + within, failures: 0 }
    }

    /// Waits before the next attempt, or gives the error back: at once when trying again is of no use, and when the
    /// next attempt would be past the deadline.
    pub(crate) async fn after(&mut self, error: Error) -> Result<()> {
        if !error.is_retriable() {
            return Err(error);
        }
        self.failures += 1;
        let pause = self.backoff.pause(self.failures);
        if clock::monotonic() + pause >= self.deadline {
            return Err(error);
        }
        tracing::debug!(%error, attempt = self.failures, "trying again");
        clock::sleep(pause).await;
        Ok(())
    }

    /// What is left until the deadline.
    pub(crate) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(clock::monotonic())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ErrorClass, ErrorKind};

    #[test]
    fn pauses_double_up_to_the_limit_and_spread() {
        let backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(1) };
        for (failures, nominal) in
            [(1, 100), (2, 200), (3, 400), (4, 800), (5, 1000), (40, 1000), (u32::MAX, 1000)]
        {
            let pause = backoff.pause(failures);
            assert!(pause >= Duration::from_millis(nominal * 4 / 5), "{failures}: {pause:?}");
            assert!(pause <= Duration::from_millis(nominal * 6 / 5), "{failures}: {pause:?}");
        }
        let spread: std::collections::HashSet<_> = (0..20).map(|_| backoff.pause(4)).collect();
        assert!(spread.len() > 1);
    }

    #[tokio::test]
    async fn fatal_errors_are_not_retried_and_the_deadline_holds() {
        let backoff = Backoff { first: Duration::from_millis(1), max: Duration::from_millis(1) };
        let mut retry = Retry::new(backoff, Duration::from_secs(60));
        assert!(retry.after(Error::new(ErrorKind::Broker, "no")).await.is_err());
        let again = || Error::new(ErrorKind::Broker, "soon").with_class(ErrorClass::Retriable);
        assert!(retry.after(again()).await.is_ok());
        let mut over = Retry::new(backoff, Duration::ZERO);
        assert!(over.after(again()).await.is_err());
    }
}
