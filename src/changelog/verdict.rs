//! Whether a checkpoint is still true of its changelog. Pure: what is known on one side, what the brokers say on the other.
//!
//! Kafka Streams trusts its checkpoint file and notices only an offset that is out of range. Here each way in which a
//! changelog can have gone on without the store is looked for, because state that is silently wrong is worse than state that
//! is restored once more.

use std::fmt;
use std::time::Duration;

use uuid::Uuid;

use super::checkpoint::{Checkpoint, Origin};
use crate::record::{Timestamp, TopicPartition};

/// How far a clock may have been set back without the age of a checkpoint being doubted.
const CLOCK_TOLERANCE_MS: i64 = 60_000;

/// What the brokers say of a changelog, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogFacts {
    /// The first offset that is still there.
    pub(crate) start: i64,
    /// The high watermark: one past the last record that every reader is shown.
    pub(crate) end: i64,
    /// The leader epoch that the leader is in, -1 if it does not say. No record in the log is of a later one.
    pub(crate) leader_epoch: i32,
    /// Where the records of the checkpoint's leader epoch end, by the leader: `(the greatest epoch up to it, end)`. `None` if
    /// the log knows of none, or if nobody asked.
    pub(crate) epoch_end: Option<(i32, i64)>,
    /// What is deleted of the log in time.
    pub(crate) policy: CleanupPolicy,
    /// The wall clock before the first of this was asked.
    pub(crate) wall_ms: Timestamp,
}

/// What a topic's settings say about deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CleanupPolicy {
    /// Whether `cleanup.policy` has `compact`: only then tombstones go.
    pub(crate) compacted: bool,
    /// `delete.retention.ms`: for how long a tombstone stays after the compaction that met it first.
    pub(crate) delete_retention_ms: i64,
}

impl Default for CleanupPolicy {
    /// That of a changelog with Kafka's defaults.
    fn default() -> Self {
        Self { compacted: true, delete_retention_ms: 86_400_000 }
    }
}

impl CleanupPolicy {
    /// The age, in ms, from which on a checkpoint may miss tombstones that are gone. It is half of what the topic grants: the
    /// store is still to be restored from there, by another clock than the broker's.
    pub(crate) fn tombstone_horizon_ms(&self) -> Option<i64> {
        self.compacted.then_some(self.delete_retention_ms / 2)
    }
}

/// Where the restoration of a store begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Start {
    /// The offset in the changelog.
    pub(crate) offset: i64,
    /// The [`Checkpoint::leader_epoch`] of a checkpoint there.
    pub(crate) leader_epoch: i32,
    /// The [`Checkpoint::wall_ms`] of every checkpoint until restoring has reached the end.
    pub(crate) wall_ms: Timestamp,
}

/// What is to be done with what a store has on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is kept, and the rest of the changelog is read on top of it.
    Resume(Start),
    /// It is deleted, and the changelog read from its start.
    Distrust(Reason, Start),
}

impl Verdict {
    /// Where restoring begins.
    pub(crate) fn start(&self) -> Start {
        let (Self::Resume(start) | Self::Distrust(_, start)) = self;
        *start
    }
}

/// Why a checkpoint is not believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reason {
    /// There is none. A new store has none either, and loses nothing.
    NoCheckpoint,
    /// It cannot be read.
    Unreadable { why: String },
    /// A later version of this library wrote it.
    NewerFormat { version: u8 },
    /// It is of another cluster.
    OtherCluster { was: String, is: String },
    /// It is of another application.
    OtherApplication { was: String, is: String },
    /// It is of another changelog, or of another partition.
    OtherPartition { was: TopicPartition },
    /// The topic was deleted and made again.
    OtherTopic { was: Uuid, is: Uuid },
    /// The store's rows mean something else today.
    OtherRows { was: u64, is: u64 },
    /// It is from the future.
    ClockWentBack { ahead_ms: i64 },
    /// Tombstones may be gone that it has not seen.
    TombstonesGone { age_ms: i64, horizon_ms: i64 },
    /// Records are gone that it has not seen.
    BehindLogStart { next_offset: i64, start: i64 },
    /// The log has lost records that it has seen.
    PastLogEnd { next_offset: i64, end: i64 },
    /// The log has lost records that it has seen, and got others in their place (KIP-320).
    EpochTruncated { next_offset: i64, leader_epoch: i32, epoch_end: Option<(i32, i64)> },
}

impl Reason {
    /// The reason as a label of a figure.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::NoCheckpoint => "no_checkpoint",
            Self::Unreadable { .. } => "unreadable",
            Self::NewerFormat { .. } => "newer_format",
            Self::OtherCluster { .. } => "other_cluster",
            Self::OtherApplication { .. } => "other_application",
            Self::OtherPartition { .. } => "other_partition",
            Self::OtherTopic { .. } => "topic_recreated",
            Self::OtherRows { .. } => "other_rows",
            Self::ClockWentBack { .. } => "clock_went_back",
            Self::TombstonesGone { .. } => "tombstones_gone",
            Self::BehindLogStart { .. } => "behind_log_start",
            Self::PastLogEnd { .. } => "past_log_end",
            Self::EpochTruncated { .. } => "epoch_truncated",
        }
    }

    /// What the log says of a store whose state is given up for this reason.
    pub(crate) fn sentence(&self, store: &str, changelog: &TopicPartition, facts: &LogFacts) -> String {
        let LogFacts { start, end, .. } = facts;
        format!(
            "the local state of store {store} is deleted and restored from its changelog {changelog}, offsets {start} to {end}: {self}"
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |ms: i64| Duration::from_millis(ms.unsigned_abs());
        match self {
            Self::NoCheckpoint => f.write_str("it has no checkpoint"),
            Self::Unreadable { why } => write!(f, "its checkpoint cannot be read ({why})"),
            Self::NewerFormat { version } => {
                write!(f, "its checkpoint is of format {version}, which a later version of mainstem wrote")
            }
            Self::OtherCluster { was, is } => write!(f, "it is of the cluster {was}, and this is {is}"),
            Self::OtherApplication { was, is } => {
                write!(f, "it is of the application {was}, and this is {is}")
            }
            Self::OtherPartition { was } => write!(f, "it is a copy of {was}"),
            Self::OtherTopic { was, is } => {
                write!(f, "the topic was deleted and made again (its id was {was}, and is {is})")
            }
            Self::OtherRows { was, is } => {
                write!(
                    f,
                    "its rows are those of another kind of store (fingerprint {was:x}, and {is:x} is wanted)"
                )
            }
            Self::ClockWentBack { ahead_ms } => write!(
                f,
                "its checkpoint is {:?} ahead of this machine's clock, so that its age is not known",
                time(*ahead_ms)
            ),
            Self::TombstonesGone { age_ms, horizon_ms } => write!(
                f,
                "its checkpoint is {:?} old, and deletions may be compacted away after {:?} (half of delete.retention.ms of \
                 the topic; raise it for longer pauses)",
                time(*age_ms),
                time(*horizon_ms)
            ),
            Self::BehindLogStart { next_offset, start } => write!(
                f,
                "its checkpoint goes on at offset {next_offset}, and the records before offset {start} are deleted"
            ),
            Self::PastLogEnd { next_offset, end } => write!(
                f,
                "its checkpoint goes on at offset {next_offset}, and the log ends at {end}: acknowledged records were lost"
            ),
            Self::EpochTruncated { next_offset, leader_epoch, epoch_end: Some((epoch, end)) } => write!(
                f,
                "its checkpoint goes on at offset {next_offset} in leader epoch {leader_epoch}, and what the log has up to \
                 that epoch ends at {end} (epoch {epoch}): acknowledged records were lost, and others took their place"
            ),
            Self::EpochTruncated { next_offset, leader_epoch, epoch_end: None } => write!(
                f,
                "its checkpoint goes on at offset {next_offset} in leader epoch {leader_epoch}, which the log does not know: \
                 acknowledged records were lost, and others took their place"
            ),
        }
    }
}

/// Judges what a store has on disk: its mark, if it has any, what the store is a cache of today, and what the brokers say of
/// that.
pub(crate) fn verdict(mark: Option<&[u8]>, today: &Origin, facts: &LogFacts) -> Verdict {
    let decoded = mark.ok_or(Reason::NoCheckpoint).and_then(Checkpoint::decode);
    match decoded.and_then(|checkpoint| check(&checkpoint, today, facts).map(|()| checkpoint)) {
        Ok(Checkpoint { next_offset: offset, leader_epoch, wall_ms, .. }) => {
            Verdict::Resume(Start { offset, leader_epoch, wall_ms })
        }
        Err(reason) => {
            let start = Start { offset: facts.start, leader_epoch: -1, wall_ms: facts.wall_ms };
            Verdict::Distrust(reason, start)
        }
    }
}

fn check(checkpoint: &Checkpoint, today: &Origin, facts: &LogFacts) -> Result<(), Reason> {
    // What it is a copy of: only then its numbers mean anything here.
    let was = &checkpoint.origin;
    if let (Some(was), Some(is)) = (&was.cluster_id, &today.cluster_id)
        && was != is
    {
        return Err(Reason::OtherCluster { was: was.clone(), is: is.clone() });
    }
    if was.application_id != today.application_id {
        let (was, is) = (was.application_id.clone(), today.application_id.clone());
        return Err(Reason::OtherApplication { was, is });
    }
    if was.at != today.at {
        return Err(Reason::OtherPartition { was: was.at.clone() });
    }
    // A cluster that was upgraded gives its topics ids: that there was none before says nothing.
    if let (Some(was), Some(is)) = (was.topic_id, today.topic_id)
        && was != is
    {
        return Err(Reason::OtherTopic { was, is });
    }
    if was.fingerprint != today.fingerprint {
        return Err(Reason::OtherRows { was: was.fingerprint, is: today.fingerprint });
    }

    let Checkpoint { next_offset, leader_epoch, .. } = *checkpoint;
    if next_offset < facts.start {
        return Err(Reason::BehindLogStart { next_offset, start: facts.start });
    }
    if next_offset > facts.end {
        return Err(Reason::PastLogEnd { next_offset, end: facts.end });
    }
    // No record before next_offset was of a later epoch. If the log's records up to that epoch end before it, then those that
    // lie there now are of later epochs: other ones.
    let known_to = facts.epoch_end.map_or(0, |(_, end)| end);
    if known_to < next_offset {
        let epoch_end = facts.epoch_end;
        return Err(Reason::EpochTruncated { next_offset, leader_epoch, epoch_end });
    }

    // Where nothing was written since, nothing was deleted either, however long ago that is.
    if let Some(horizon_ms) = facts.policy.tombstone_horizon_ms().filter(|_| next_offset < facts.end) {
        let age_ms = facts.wall_ms.saturating_sub(checkpoint.wall_ms);
        if age_ms < -CLOCK_TOLERANCE_MS {
            return Err(Reason::ClockWentBack { ahead_ms: age_ms.saturating_neg() });
        }
        if age_ms > horizon_ms {
            return Err(Reason::TombstonesGone { age_ms, horizon_ms });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000;

    fn origin() -> Origin {
        Origin {
            cluster_id: Some("here".into()),
            topic_id: Some(Uuid::from_u128(1)),
            at: TopicPartition::new("app-counts-changelog", 2),
            application_id: "app".into(),
            fingerprint: 1,
        }
    }

    fn checkpoint() -> Checkpoint {
        Checkpoint {
            origin: origin(),
            next_offset: 100,
            leader_epoch: 4,
            wall_ms: 10 * DAY,
            position: Vec::new(),
        }
    }

    fn facts() -> LogFacts {
        LogFacts {
            start: 0,
            end: 150,
            leader_epoch: 5,
            epoch_end: Some((4, 120)),
            policy: CleanupPolicy::default(),
            wall_ms: 10 * DAY + 1_000,
        }
    }

    fn reason(checkpoint: &Checkpoint, facts: &LogFacts) -> Option<Reason> {
        match verdict(Some(&checkpoint.encode()), &origin(), facts) {
            Verdict::Resume(start) => {
                let Checkpoint { next_offset, leader_epoch, wall_ms, .. } = *checkpoint;
                assert_eq!(start, Start { offset: next_offset, leader_epoch, wall_ms });
                None
            }
            Verdict::Distrust(reason, start) => {
                let anew = Start { offset: facts.start, leader_epoch: -1, wall_ms: facts.wall_ms };
                assert_eq!(start, anew);
                Some(reason)
            }
        }
    }

    fn of_origin(change: impl FnOnce(&mut Origin)) -> Option<&'static str> {
        let mut checkpoint = checkpoint();
        change(&mut checkpoint.origin);
        reason(&checkpoint, &facts()).map(|reason| reason.label())
    }

    fn of_facts(change: impl FnOnce(&mut LogFacts)) -> Option<&'static str> {
        let mut facts = facts();
        change(&mut facts);
        reason(&checkpoint(), &facts).map(|reason| reason.label())
    }

    #[test]
    fn a_sound_checkpoint_resumes_where_it_is() {
        assert_eq!(reason(&checkpoint(), &facts()), None);
    }

    #[test]
    fn no_mark_and_a_broken_one_begin_anew() {
        let of = |mark: Option<&[u8]>| verdict(mark, &origin(), &facts());
        let start = Start { offset: 0, leader_epoch: -1, wall_ms: facts().wall_ms };
        assert_eq!(of(None), Verdict::Distrust(Reason::NoCheckpoint, start));
        assert!(matches!(of(Some(b"")), Verdict::Distrust(Reason::Unreadable { .. }, _)));
    }

    #[test]
    fn another_log_is_another_log() {
        assert_eq!(of_origin(|o| o.cluster_id = Some("there".into())), Some("other_cluster"));
        assert_eq!(of_origin(|o| o.application_id = "ape".into()), Some("other_application"));
        assert_eq!(of_origin(|o| o.at.partition = 3), Some("other_partition"));
        assert_eq!(of_origin(|o| o.at.topic = "app-sums-changelog".into()), Some("other_partition"));
        assert_eq!(of_origin(|o| o.topic_id = Some(Uuid::from_u128(2))), Some("topic_recreated"));
        assert_eq!(of_origin(|o| o.fingerprint = 2), Some("other_rows"));
    }

    /// A cluster from before 2.8 has no topic ids: the day it is upgraded is no reason to restore everything.
    #[test]
    fn ids_that_are_not_known_are_not_compared() {
        assert_eq!(of_origin(|o| o.topic_id = None), None);
        assert_eq!(of_origin(|o| o.cluster_id = None), None);
    }

    #[test]
    fn the_range_of_the_log_decides_at_its_very_borders() {
        assert_eq!(of_facts(|f| f.start = 100), None);
        assert_eq!(of_facts(|f| f.start = 101), Some("behind_log_start"));
        assert_eq!(of_facts(|f| f.end = 100), None);
        assert_eq!(of_facts(|f| f.end = 99), Some("past_log_end"));
    }

    #[test]
    fn an_epoch_that_ends_before_the_checkpoint_was_cut_off() {
        assert_eq!(of_facts(|f| f.epoch_end = Some((4, 100))), None);
        assert_eq!(of_facts(|f| f.epoch_end = Some((4, 99))), Some("epoch_truncated"));
        assert_eq!(of_facts(|f| f.epoch_end = None), Some("epoch_truncated"));
        // Nothing was written in epoch 4: what was written before reaches as far.
        assert_eq!(of_facts(|f| f.epoch_end = Some((2, 100))), None);
    }

    #[test]
    fn a_checkpoint_at_offset_0_claims_no_epoch() {
        let empty = Checkpoint { next_offset: 0, leader_epoch: -1, ..checkpoint() };
        assert_eq!(reason(&empty, &LogFacts { epoch_end: None, ..facts() }), None);
    }

    #[test]
    fn tombstones_are_waited_for_half_of_their_time() {
        let written = checkpoint().wall_ms;
        assert_eq!(of_facts(|f| f.wall_ms = written + DAY / 2), None);
        assert_eq!(of_facts(|f| f.wall_ms = written + DAY / 2 + 1), Some("tombstones_gone"));
        let policy = |compacted, delete_retention_ms| CleanupPolicy { compacted, delete_retention_ms };
        let late = |policy| {
            of_facts(|f| {
                f.policy = policy;
                f.wall_ms = written + 3 * DAY;
            })
        };
        assert_eq!(late(policy(true, 7 * DAY)), None);
        assert_eq!(
            late(policy(false, DAY)),
            None,
            "without compaction a tombstone is a record like any other"
        );
    }

    /// A store that nobody changes for days is not restored for that.
    #[test]
    fn age_does_not_matter_where_nothing_was_written_since() {
        let late = |end, wall_ms| {
            of_facts(|f| {
                (f.end, f.epoch_end, f.wall_ms) = (end, Some((4, end)), wall_ms);
            })
        };
        for (wall_ms, label) in [(90 * DAY, "tombstones_gone"), (0, "clock_went_back")] {
            assert_eq!(late(100, wall_ms), None);
            assert_eq!(late(101, wall_ms), Some(label));
        }
    }

    #[test]
    fn a_clock_that_went_back_says_nothing_of_age() {
        let written = checkpoint().wall_ms;
        assert_eq!(of_facts(|f| f.wall_ms = written - CLOCK_TOLERANCE_MS), None);
        assert_eq!(of_facts(|f| f.wall_ms = written - CLOCK_TOLERANCE_MS - 1), Some("clock_went_back"));
        assert_eq!(of_facts(|f| f.wall_ms = i64::MIN), Some("clock_went_back"));
        let mut never = facts();
        never.wall_ms = written - DAY;
        never.policy.compacted = false;
        assert_eq!(reason(&checkpoint(), &never), None, "age does not matter where nothing is compacted");
    }

    /// Another topic of the same name may have any offsets: it is not called truncated.
    #[test]
    fn what_it_is_a_copy_of_comes_before_its_numbers() {
        let mut checkpoint = checkpoint();
        checkpoint.origin.topic_id = Some(Uuid::from_u128(2));
        let facts = LogFacts { end: 3, epoch_end: None, wall_ms: 20 * DAY, ..facts() };
        assert_eq!(reason(&checkpoint, &facts).map(|reason| reason.label()), Some("topic_recreated"));
    }

    #[test]
    fn the_sentence_names_store_changelog_and_offsets() {
        let reason = Reason::PastLogEnd { next_offset: 100, end: 99 };
        let text = reason.sentence("counts", &origin().at, &LogFacts { end: 99, ..facts() });
        for part in ["store counts", "app-counts-changelog-2", "offsets 0 to 99", "offset 100"] {
            assert!(text.contains(part), "{text} lacks {part}");
        }
    }
}
