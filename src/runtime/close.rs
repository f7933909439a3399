//! How an application ends.

use std::time::Duration;

/// How long a shutdown may take before what is left is given up.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

/// As good as for ever; a longer time would be past what a clock can tell.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How an application ends (`KafkaStreams.CloseOptions`): see [`AppHandle::stop_with`](crate::AppHandle::stop_with).
///
/// ```
/// use mainstem::CloseOptions;
/// use std::time::Duration;
///
/// // A short restart: the tasks wait for this instance, instead of moving away and back.
/// let restart = CloseOptions::default().within(Duration::from_secs(10)).leave_group(false);
/// # let _ = restart;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CloseOptions {
    within: Duration,
    leave_group: Option<bool>,
}

impl Default for CloseOptions {
    /// 30 s; a static member, one with a `group.instance.id`, stays in the group (KIP-345); any other leaves.
    fn default() -> Self {
        Self { within: CLOSE_TIMEOUT, leave_group: None }
    }
}

impl CloseOptions {
    /// How long committing and closing may take. What has not ended by then is given up. More than a year is a year.
    #[must_use]
    pub fn within(mut self, within: Duration) -> Self {
        self.within = within.min(LONGEST);
        self
    }

    /// Whether the member leaves the group. If it does, the others have its tasks at once. If it does not, they are
    /// nobody's until `session.timeout.ms` is over, or until the instance is back: with a `group.instance.id` it then goes
    /// on with them and no rebalance takes place; without one it comes as a new member.
    ///
    /// Not said, a static member stays and any other leaves. On the JVM no member leaves unless it is told to.
    #[must_use]
    pub fn leave_group(mut self, leave: bool) -> Self {
        self.leave_group = Some(leave);
        self
    }

    pub(super) fn time(&self) -> Duration {
        self.within
    }

    /// Of two that ask for the end, the first that says whether to leave is heard.
    pub(super) fn leaves(&mut self, asked: &Self) {
        self.leave_group = self.leave_group.or(asked.leave_group);
    }

    pub(super) fn is_leaving(&self, is_static: bool) -> bool {
        self.leave_group.unwrap_or(!is_static)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_says_nothing_of_the_group_leaves_unless_static() {
        let said = |leave| CloseOptions::default().leave_group(leave);
        for (options, dynamic, fixed) in
            [(CloseOptions::default(), true, false), (said(true), true, true), (said(false), false, false)]
        {
            assert_eq!(
                (options.is_leaving(false), options.is_leaving(true)),
                (dynamic, fixed),
                "{options:?}"
            );
        }
    }

    #[test]
    fn the_first_word_about_the_group_counts() {
        let mut options = CloseOptions::default();
        for (asked, leaves) in [(None, true), (Some(false), false), (None, false), (Some(true), false)] {
            options.leaves(&CloseOptions { leave_group: asked, ..CloseOptions::default() });
            assert_eq!(options.is_leaving(false), leaves);
        }
    }
}
