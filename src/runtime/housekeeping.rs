//! When to do what comes back every now and then, and nobody waits for.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::config::{Config, Role};
use crate::error::{Error, ErrorKind};
use crate::record::TopicPartition;

/// Whether the last look at the topics found them missing or wrong. A look runs beside the coordinator and takes this
/// along.
#[derive(Clone, Default)]
pub(super) struct TopicTrouble(Arc<AtomicBool>);

impl TopicTrouble {
    /// A look found the topics fit, as they were or with more partitions.
    pub(super) fn none(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// A look failed. Gives the error that the application cannot go on with. One look may have asked a broker that
    /// knew no better, so that it takes two in a row; a look that got no answer breaks the row.
    pub(super) fn found(&self, error: Error) -> Option<Error> {
        let wrong = error.kind() == ErrorKind::Topic;
        if !(self.0.swap(wrong, Ordering::Relaxed) && wrong) {
            tracing::warn!(?error, "the topics are not what they were, or cannot be looked at");
            return None;
        }
        // `MissingSourceTopicException` in Kafka Streams.
        let text = format!(
            "topics have been deleted or changed under the running application: {error}; start it again when that is done"
        );
        Some(Error::new(ErrorKind::Topic, text).because(error))
    }
}

/// For how long after a commit that was not answered it may still be carried out: longer than a broker keeps a request that
/// it has read.
pub(super) const LATE: Duration = Duration::from_secs(300);

/// The times and the marks of the housekeeping. No I/O.
pub(super) struct Housekeeping {
    /// The repartition topics by their names in the cluster.
    pub(super) repartition_topics: Arc<HashSet<String>>,
    purge_interval: Duration,
    next_purge: Instant,
    purging: bool,
    /// The committed offsets of repartition topics that have moved since the last purge.
    purgeable: HashMap<TopicPartition, i64>,
    /// Where commits that were not answered may set offsets back to, and until when.
    unheard: HashMap<TopicPartition, (i64, Instant)>,
    look_interval: Duration,
    next_look: Instant,
    looking: bool,
    pub(super) trouble: TopicTrouble,
    cleanup_delay: Duration,
    cleanup_interval: Duration,
    next_cleanup: Instant,
    /// Nothing is cleaned up before: tasks may be about to come back.
    cleanup_from: Instant,
}

impl Housekeeping {
    pub(super) fn new(config: &Config, repartition_topics: HashSet<String>, now: Instant) -> Self {
        let purge_interval = config.repartition_purge_interval();
        let look_interval =
            config.consumer(Role::Main).connection().metadata_max_age().max(Duration::from_millis(100));
        let cleanup_delay = config.state_cleanup_delay();
        // What is in use is noted at each look, so that a process that is killed knows it to the minute.
        let cleanup_interval = cleanup_delay.clamp(Duration::from_millis(100), Duration::from_secs(60));
        Self {
            repartition_topics: Arc::new(repartition_topics),
            purge_interval,
            next_purge: now + purge_interval,
            purging: false,
            purgeable: HashMap::new(),
            unheard: HashMap::new(),
            look_interval,
            next_look: now + look_interval,
            looking: false,
            trouble: TopicTrouble::default(),
            cleanup_delay,
            cleanup_interval,
            next_cleanup: now + cleanup_interval,
            cleanup_from: now + cleanup_delay,
        }
    }

    /// When to look again, if there is anything to look at.
    pub(super) fn next(&self) -> Instant {
        let far = self.next_look.max(self.next_purge) + Duration::from_secs(60);
        let purge = if self.purging || self.purgeable.is_empty() { far } else { self.next_purge };
        let look = if self.looking { far } else { self.next_look };
        purge.min(look).min(self.next_cleanup)
    }

    /// Records of a repartition topic before a committed offset are of no more use: nobody else reads them, and the
    /// topic keeps everything for ever otherwise (KIP-204, `TaskManager.maybePurgeCommittedRecords`).
    pub(super) fn committed(&mut self, offsets: Vec<(TopicPartition, i64)>) {
        for (at, offset) in offsets {
            let mark = self.purgeable.entry(at).or_insert(offset);
            *mark = offset.max(*mark);
        }
    }

    /// A commit of these offsets was not answered. The coordinator may have it in hand still, and carry it out after later
    /// ones: whoever starts at those offsets then must find their records.
    pub(super) fn unheard(&mut self, offsets: Vec<(TopicPartition, i64)>, now: Instant) {
        for (at, offset) in offsets {
            let (lowest, until) = self.unheard.entry(at).or_insert((offset, now));
            (*lowest, *until) = (offset.min(*lowest), now + LATE);
        }
    }

    /// What to purge now. One purge at a time: [`purged`](Self::purged) ends it.
    pub(super) fn purge_due(&mut self, now: Instant) -> Option<Vec<(TopicPartition, i64)>> {
        if self.purging || self.purgeable.is_empty() || now < self.next_purge {
            return None;
        }
        self.next_purge = now + self.purge_interval;
        self.unheard.retain(|_, (_, until)| now < *until);
        let mut due = Vec::new();
        self.purgeable.retain(|at, offset| {
            let held = self.unheard.get(at).map(|(lowest, _)| *lowest).filter(|lowest| lowest < offset);
            due.push((at.clone(), held.unwrap_or(*offset)));
            held.is_some()
        });
        self.purging = true;
        Some(due)
    }

    pub(super) fn purged(&mut self) {
        self.purging = false;
    }

    /// Whether the topics are to be looked at now. One look at a time: [`looked`](Self::looked) ends it.
    pub(super) fn look_due(&mut self, now: Instant) -> bool {
        let due = !self.looking && now >= self.next_look;
        self.looking |= due;
        due
    }

    /// Whether the local state is to be looked at now, and whether what nobody has used for so long may go.
    pub(super) fn cleanup_due(&mut self, now: Instant) -> Option<Option<Duration>> {
        if now < self.next_cleanup {
            return None;
        }
        self.next_cleanup = now + self.cleanup_interval;
        Some((now >= self.cleanup_from).then_some(self.cleanup_delay))
    }

    pub(super) fn looked(&mut self, now: Instant) {
        self.looking = false;
        self.next_look = now + self.look_interval;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_purge_and_one_look_at_a_time_and_only_when_there_is_something() {
        let config = Config::builder("a", "localhost:9092")
            .set("repartition.purge.interval.ms", "1000")
            .set("metadata.max.age.ms", "5000")
            .build()
            .unwrap();
        let start = crate::clock::monotonic();
        let at = |ms| start + Duration::from_millis(ms);
        let topics = HashSet::from(["a-by-word-repartition".to_owned()]);
        let mut house = Housekeeping::new(&config, topics, start);
        assert_eq!(house.purge_due(at(1000)), None, "nothing is committed");
        assert_eq!(house.next(), at(5000));

        let tp = TopicPartition::new("a-by-word-repartition", 0);
        house.committed(vec![(tp.clone(), 10)]);
        house.committed(vec![(tp.clone(), 7)]);
        assert_eq!(house.next(), at(1000));
        assert_eq!(house.purge_due(at(999)), None, "too early");
        assert_eq!(house.purge_due(at(1000)), Some(vec![(tp.clone(), 10)]), "a mark never goes back");
        house.committed(vec![(tp.clone(), 20)]);
        assert_eq!(house.purge_due(at(9000)), None, "the last purge has not ended");
        house.purged();
        assert_eq!(house.purge_due(at(9000)), Some(vec![(tp.clone(), 20)]));
        house.purged();
        house.unheard(vec![(tp.clone(), 30)], at(10_000));
        house.unheard(vec![(tp.clone(), 35)], at(11_000));
        house.committed(vec![(tp.clone(), 40)]);
        assert_eq!(house.purge_due(at(12_000)), Some(vec![(tp.clone(), 30)]), "it may go back there");
        house.purged();
        let late = start + Duration::from_millis(11_000) + LATE;
        assert_eq!(house.purge_due(late), Some(vec![(tp, 40)]), "the rest, when it is too late for that");

        assert!(!house.look_due(at(4999)));
        assert!(house.look_due(at(5000)));
        assert!(!house.look_due(at(50_000)), "the last look has not ended");
        house.looked(at(50_000));
        assert!(!house.look_due(at(54_999)) && house.look_due(at(55_000)));
    }

    #[test]
    fn topics_must_be_missing_twice_in_a_row() {
        let trouble = TopicTrouble::default();
        let missing = || Error::new(ErrorKind::Topic, "orders does not exist; create it");
        assert!(trouble.found(missing()).is_none(), "a hiccup");
        trouble.none();
        assert!(trouble.found(missing()).is_none(), "another hiccup");
        assert!(trouble.found(Error::new(ErrorKind::Timeout, "no answer")).is_none());
        assert!(trouble.found(missing()).is_none(), "no two looks in a row have seen it");
        let error = trouble.found(missing()).unwrap();
        assert_eq!(error.kind(), ErrorKind::Topic);
        assert!(error.to_string().contains("orders does not exist; create it"), "{error}");
    }
}
