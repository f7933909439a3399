//! Records that are gone before they were read. A source topic may go on elsewhere, as `auto.offset.reset` says; internal
//! topics never do, because a result or a row would be missing without a word.

use crate::error::{Error, ErrorClass, ErrorKind};
use crate::record::TopicPartition;
use crate::task_id::TaskId;

/// Which records are gone.
pub(super) struct Gap<'a> {
    pub(super) task: TaskId,
    pub(super) at: &'a TopicPartition,
    /// The offset to read from.
    pub(super) wanted: i64,
    /// The offsets that there are, start and end.
    pub(super) range: (i64, i64),
    /// What the fetch said.
    pub(super) cause: Error,
}

impl Gap<'_> {
    fn error(self, kind: ErrorKind, what: &str, remedy: &str) -> Error {
        let Self { task, at, wanted, range: (start, end), cause } = self;
        let lies = if wanted < start { "which now begins at" } else { "which is another one now, from" };
        let text = format!(
            "task {task} is at offset {wanted} of the {what} {at}, {lies} {start} (its end is {end}): {remedy}"
        );
        let error = Error::new(kind, text).at_topic(&*at.topic).at_partition(at.partition).at_offset(wanted);
        error.because(cause)
    }

    /// In a repartition topic. Kafka Streams goes on as `auto.offset.reset` says, with a line in its log
    /// (`StreamThread.resetOffsets` knows no repartition topics); here nothing is lost without a word.
    pub(super) fn in_repartition_topic(self) -> Error {
        let start = self.range.0;
        let remedy = format!(
            "records were deleted, or the topic was made anew, before they were processed, and it is never reset by itself. \
             Keep its retention.ms at -1. To go on without these records, stop all instances and set the group's offset to \
             {start} (kafka-consumer-groups --reset-offsets --to-offset {start}); to have them, reset the application and \
             reprocess"
        );
        self.error(ErrorKind::OffsetOutOfRange, "repartition topic", &remedy)
    }

    /// In a source topic whose `auto.offset.reset` is `none`.
    pub(super) fn in_source_topic(self) -> Error {
        let start = self.range.0;
        let remedy = format!(
            "auto.offset.reset is none, so that somebody has to say where to go on: set the group's offset \
             (kafka-consumer-groups --reset-offsets --to-offset {start}), or auto.offset.reset to earliest or latest"
        );
        self.error(ErrorKind::OffsetOutOfRange, "source topic", &remedy)
    }

    /// In a changelog during a restore.
    pub(super) fn in_changelog(self) -> Error {
        let remedy = "rows would be missing from the state without a word. Keep its cleanup.policy at compact and delete no \
                      records of it. If it was compacted or made anew just now, start again; if records were deleted, reset the \
                      application (delete its internal topics and its committed offsets) and reprocess, or use another \
                      application.id";
        self.error(ErrorKind::Store, "changelog", remedy).with_class(ErrorClass::CorruptTask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(at: &TopicPartition, wanted: i64) -> Gap<'_> {
        let cause = Error::new(ErrorKind::OffsetOutOfRange, "the offset is not in the log");
        Gap { task: TaskId::new(1, 2), at, wanted, range: (50, 90), cause }
    }

    #[test]
    fn the_errors_name_topic_partition_both_offsets_and_the_remedy() {
        let at = TopicPartition::new("app-by-word-repartition", 2);
        for (error, remedy) in [
            (gap(&at, 7).in_repartition_topic(), "--to-offset 50"),
            (gap(&at, 7).in_source_topic(), "auto.offset.reset to earliest or latest"),
            (gap(&at, 7).in_changelog(), "reset the application"),
        ] {
            let text = error.to_string();
            for word in
                ["task 1_2", "app-by-word-repartition-2", "offset 7", "begins at 50", "end is 90", remedy]
            {
                assert!(text.contains(word), "{word}: {text}");
            }
            assert_eq!(
                (error.topic(), error.partition(), error.offset()),
                (Some(&*at.topic), Some(2), Some(7))
            );
            assert!(!error.is_retriable());
        }
        assert!(gap(&at, 95).in_changelog().to_string().contains("another one now, from 50"));
    }
}
