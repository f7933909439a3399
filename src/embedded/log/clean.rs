//! Retention and compaction: Kafka's `UnifiedLog.deleteOldSegments` and `Cleaner`.

use std::collections::HashMap;

use bytes::Bytes;

use super::{Log, Stored};
use crate::client::batch::{AbortedFilter, Batch, patch};
use crate::embedded::config::TopicConfig;
use crate::record::RawRecord;

impl Log {
    /// Deletes old segments, if that is the topic's policy.
    pub(crate) fn retain(&mut self, config: &TopicConfig, now: i64) {
        self.delete_segments(config, Some(now));
    }

    /// Deletes what is too much, and what is too old `now`, if that is asked.
    pub(super) fn delete_segments(&mut self, config: &TopicConfig, now: Option<i64>) {
        if !config.deleted {
            return;
        }
        let oldest = now.map(|now| (now, config.number("retention.ms"))).filter(|(_, oldest)| *oldest >= 0);
        let most = config.number("retention.bytes");
        let (mut left, mut start) = (self.size, self.start);
        let mut batches = self.batches.iter().peekable();
        for (at, segment) in self.segments.iter().enumerate() {
            let next = self.segments.get(at + 1).map_or(self.end, |next| next.base);
            // Without any batch at all, there is nothing to delete; the active segment is for the clock alone.
            if batches.peek().is_none() || (now.is_none() && at + 1 == self.segments.len()) {
                break;
            }
            left -= segment.size.min(left);
            let large = most >= 0 && i64::try_from(left).unwrap_or(i64::MAX) >= most;
            let late = oldest.is_some_and(|(now, oldest)| {
                let within = std::iter::from_fn(|| batches.next_if(|batch| batch.base < next));
                let newest = within.map(|batch| batch.max_timestamp).max().unwrap_or(-1);
                newest >= 0 && now.saturating_sub(newest) > oldest
            });
            // ORDER: what readers have not been shown is never deleted.
            if !(late || large) || next > self.high_watermark {
                break;
            }
            start = next;
        }
        if start > self.start {
            self.start_at(start);
        }
    }

    /// Compacts what is due, if that is the topic's policy: rolled segments, once enough of them is new.
    pub(crate) fn compact_if_dirty(&mut self, config: &TopicConfig, now: i64) {
        let Some(active) = self.segments.back().map(|active| active.base).filter(|_| config.compacted) else {
            return;
        };
        let lag = config.number("min.compaction.lag.ms");
        let old = self.batches.iter().take_while(|batch| {
            batch.base < active && (lag == 0 || now.saturating_sub(batch.max_timestamp) > lag)
        });
        let (mut clean, mut dirty, mut upper, mut oldest) = (0, 0, self.start, i64::MAX);
        for batch in old {
            upper = batch.next;
            if batch.next <= self.clean_to {
                clean += batch.bytes.len();
            } else {
                dirty += batch.bytes.len();
                oldest = oldest.min(batch.max_timestamp);
            }
        }
        let ratio = config.get("min.cleanable.dirty.ratio").parse().unwrap_or(0.5);
        let overdue = dirty > 0 && now.saturating_sub(oldest) > config.number("max.compaction.lag.ms");
        // A horizon that has passed is a reason too, or tombstones would stay until something else is written.
        let passed = self.batches.iter().any(|batch| batch.horizon.is_some_and(|horizon| horizon <= now));
        let enough = dirty > 0 && dirty as f64 / (clean + dirty) as f64 >= ratio;
        if enough || overdue || passed {
            self.compact_below(upper.max(self.clean_to), config, now);
        }
    }

    /// Compacts everything that is decided, the active segment too.
    pub(crate) fn compact(&mut self, config: &TopicConfig, now: i64) {
        self.compact_below(self.end, config, now);
    }

    fn compact_below(&mut self, upper: i64, config: &TopicConfig, now: i64) {
        let upper = upper.min(self.last_stable_offset());
        let aborted = self.producers.aborted_between(0, upper).map(|a| (a.producer_id, a.first_offset));
        let aborted: Vec<_> = aborted.collect();
        // The last offset of each key, over what is committed.
        let mut latest: HashMap<Bytes, i64> = HashMap::new();
        let mut filter = AbortedFilter::new(aborted.iter().copied());
        for batch in self.batches.iter().take_while(|batch| batch.next <= upper).filter_map(Stored::batch) {
            if filter.admits(&batch).unwrap_or(false)
                && let Ok(records) = batch.records()
            {
                for record in records.map_while(Result::ok) {
                    if let Some(key) = record.key {
                        latest.insert(key, record.offset);
                    }
                }
            }
        }
        let mut filter = AbortedFilter::new(aborted);
        let horizon = now.saturating_add(config.number("delete.retention.ms"));
        // Producers with records of transactions that are still there: their markers stay.
        let mut with_data: Vec<i64> = Vec::new();
        let mut kept = std::collections::VecDeque::with_capacity(self.batches.len());
        for mut stored in std::mem::take(&mut self.batches) {
            if stored.next <= upper
                && let Some(batch) = stored.batch()
            {
                let admitted = filter.admits(&batch).unwrap_or(false);
                let passed = stored.horizon.is_some_and(|horizon| horizon <= now);
                if batch.is_control() {
                    let needed = with_data.contains(&batch.producer_id());
                    with_data.retain(|id| *id != batch.producer_id());
                    if !needed && passed && !self.producers.ends_with(&batch) {
                        continue;
                    }
                    if !needed && stored.horizon.is_none() {
                        stored.horizon = Some(horizon);
                    }
                } else if !clean(&mut stored, &batch, admitted, &latest, passed, horizon) {
                    if !self.producers.ends_with(&batch) {
                        continue;
                    }
                    // Empty, for its producer's sequence number.
                    let Ok(bytes) = patch::retain(&batch, &[]) else { continue };
                    stored.bytes = bytes;
                } else if batch.is_transactional() && !with_data.contains(&batch.producer_id()) {
                    with_data.push(batch.producer_id());
                }
            }
            kept.push_back(stored);
        }
        self.batches = kept;
        self.clean_to = self.clean_to.max(upper);
        self.recount();
    }

    fn recount(&mut self) {
        self.size = self.batches.iter().map(|batch| batch.bytes.len()).sum();
        let mut batches = self.batches.iter().peekable();
        for at in 0..self.segments.len() {
            let next = self.segments.get(at + 1).map_or(i64::MAX, |next| next.base);
            let within = std::iter::from_fn(|| batches.next_if(|batch| batch.base < next));
            self.segments[at].size = within.map(|batch| batch.bytes.len()).sum();
        }
    }
}

/// Leaves what must stay of a batch; says whether that is anything.
fn clean(
    stored: &mut Stored,
    batch: &Batch,
    admitted: bool,
    latest: &HashMap<Bytes, i64>,
    passed: bool,
    horizon: i64,
) -> bool {
    let Ok(records) = batch.records().map(|records| records.map_while(Result::ok).collect::<Vec<_>>()) else {
        return true;
    };
    let before = records.len();
    let stays = |record: &RawRecord| {
        let last = record.key.as_ref().and_then(|key| latest.get(key)) == Some(&record.offset);
        admitted && last && (record.value.is_some() || !passed)
    };
    let records: Vec<RawRecord> = records.into_iter().filter(stays).collect();
    if records.is_empty() {
        return false;
    }
    if records.iter().any(|record| record.value.is_none()) {
        stored.horizon.get_or_insert(horizon);
    } else {
        stored.horizon = None;
    }
    if records.len() < before
        && let Ok(bytes) = patch::retain(batch, &records)
    {
        stored.bytes = bytes;
        // Look-ups by time and retention go by what is left.
        stored.max_timestamp = stored.batch().map_or(stored.max_timestamp, |left| left.max_timestamp());
    }
    true
}
