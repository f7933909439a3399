//! The times of a membership.

use std::time::Duration;

use crate::{Error, ErrorKind, Result};

/// What a membership needs to know before it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupConfig {
    /// The group, `application.id`.
    pub(crate) group_id: String,
    /// `group.instance.id`: makes the member a static one (KIP-345).
    pub(crate) instance_id: Option<String>,
    /// `session.timeout.ms`: without a heartbeat for this long the member is dead, on both sides.
    pub(crate) session_timeout: Duration,
    /// `heartbeat.interval.ms`.
    pub(crate) heartbeat_interval: Duration,
    /// How long the coordinator waits for everybody to join again. Short, because joining does not wait for user code,
    /// and nobody can commit in the meantime.
    pub(crate) rebalance_timeout: Duration,
    /// How long a flush and commit before a JoinGroup may take.
    pub(crate) commit_timeout: Duration,
    /// How long the workers have to commit and close revoked tasks before they are fenced.
    pub(crate) revoke_timeout: Duration,
    /// How long a LeaveGroup may take at close.
    pub(crate) leave_timeout: Duration,
    /// How long to wait for the answers that the coordinator does not hold back.
    pub(crate) request_timeout: Duration,
    /// `retry.backoff.ms`, doubled with every failure in a row.
    pub(crate) retry_backoff: Duration,
    /// `retry.backoff.max.ms`.
    pub(crate) retry_backoff_max: Duration,
}

impl GroupConfig {
    /// A dynamic member with the default times.
    pub(crate) fn new(group_id: impl Into<String>) -> Self {
        Self {
            group_id: group_id.into(),
            instance_id: None,
            session_timeout: Duration::from_secs(45),
            heartbeat_interval: Duration::from_secs(3),
            rebalance_timeout: Duration::from_secs(15),
            commit_timeout: Duration::from_secs(4),
            revoke_timeout: Duration::from_secs(7),
            leave_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(10),
            retry_backoff: Duration::from_millis(100),
            retry_backoff_max: Duration::from_secs(1),
        }
    }

    /// Refuses times that contradict each other.
    ///
    /// # Errors
    /// [`ErrorKind::Config`], with the property to change.
    pub(crate) fn check(&self) -> Result<()> {
        let refuse = |message: &str| Err(Error::new(ErrorKind::Config, message));
        if self.group_id.is_empty() {
            return refuse("application.id is empty");
        }
        if self.heartbeat_interval.is_zero() || self.heartbeat_interval * 3 > self.session_timeout {
            return refuse(
                "heartbeat.interval.ms must be positive and at most a third of session.timeout.ms",
            );
        }
        // Else a member that does everything in time is thrown out of the rebalance that it is preparing for.
        if self.heartbeat_interval + self.commit_timeout + self.revoke_timeout > self.rebalance_timeout {
            return refuse(
                "the rebalance timeout must have room for heartbeat.interval.ms, the commit and the revocation before a rebalance",
            );
        }
        if self.retry_backoff.is_zero() || self.retry_backoff > self.retry_backoff_max {
            return refuse("retry.backoff.ms must be positive and at most retry.backoff.max.ms");
        }
        Ok(())
    }

    /// The pause after so many failures in a row.
    pub(super) fn backoff(&self, failures: u32) -> Duration {
        let doubled = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        self.retry_backoff.saturating_mul(doubled).min(self.retry_backoff_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_agree_with_each_other() {
        GroupConfig::new("app").check().unwrap();
    }

    #[test]
    fn contradictions_are_refused() {
        let second = Duration::from_secs(1);
        for change in [
            (|c| c.group_id.clear()) as fn(&mut GroupConfig),
            |c| c.heartbeat_interval = Duration::from_secs(20),
            |c| c.heartbeat_interval = Duration::ZERO,
            |c| c.revoke_timeout = Duration::from_secs(14),
            |c| c.retry_backoff = Duration::ZERO,
        ] {
            let mut config = GroupConfig { retry_backoff_max: second, ..GroupConfig::new("app") };
            change(&mut config);
            assert_eq!(config.check().unwrap_err().kind(), ErrorKind::Config);
        }
    }

    #[test]
    fn pauses_double_up_to_a_limit() {
        let config = GroupConfig::new("app");
        let pauses: Vec<u128> = [1, 2, 3, 4, 5, 40, 4_000].map(|n| config.backoff(n).as_millis()).into();
        assert_eq!(pauses, [100, 200, 400, 800, 1000, 1000, 1000]);
    }
}
