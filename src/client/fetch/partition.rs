//! The partitions of a fetcher: where each stands, and which are due. No I/O.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::{FetchOptions, LogState};
use crate::TopicPartition;
use crate::client::Leader;

/// What a partition with nothing outstanding is asked for when the budget is used up: a thousand of them must not take a
/// thousand times a whole part. A broker sends one batch of the first all the same, however large.
const A_LITTLE: i32 = 64 << 10;

/// One assigned partition.
#[derive(Debug)]
pub(super) struct Partition {
    pub(super) token: u64,
    /// Which assignment this is; what was asked for under another one is not for this one.
    pub(super) incarnation: u64,
    /// Where the next fetch begins.
    pub(super) offset: i64,
    pub(super) outstanding: Arc<AtomicUsize>,
    /// Who has the lowest waits longest and is asked for first.
    pub(super) turn: i64,
    pub(super) max_bytes: i32,
    pub(super) paused: bool,
    /// A request for it is under way.
    pub(super) busy: bool,
    /// It rests after a fatal error.
    pub(super) stopped: bool,
    pub(super) retry_at: Option<Instant>,
    pub(super) failures: u32,
    pub(super) failing_since: Option<Instant>,
    /// What the owner was told last of how far it is and how far the log reaches.
    pub(super) told: Option<(i64, LogState)>,
    /// The replica to read from instead of the leader, and until when (KIP-392).
    pub(super) preferred: Option<(i32, Instant)>,
}

impl Partition {
    pub(super) fn new(offset: i64, token: u64, incarnation: u64, turn: i64, max_bytes: i32) -> Self {
        Self {
            token,
            incarnation,
            offset,
            outstanding: Arc::default(),
            turn,
            max_bytes,
            paused: false,
            busy: false,
            stopped: false,
            retry_at: None,
            failures: 0,
            failing_since: None,
            told: None,
            preferred: None,
        }
    }

    /// Whether the budget lets it be fetched.
    fn entitled(&self, used: usize, options: &FetchOptions) -> bool {
        match self.outstanding.load(Ordering::Acquire) {
            // Always: others may hold the whole budget while they wait for this one.
            0 => true,
            held => used < options.budget && held < options.partition_budget,
        }
    }

    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
        self.failing_since = None;
        self.retry_at = None;
    }
}

/// One partition in a request.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) at: TopicPartition,
    pub(super) incarnation: u64,
    pub(super) offset: i64,
    pub(super) max_bytes: i32,
    pub(super) leader: Leader,
    turn: i64,
}

/// A request that is due.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// In the order of asking.
    pub(super) asked: Vec<Asked>,
    /// Whether partitions of this broker are left out.
    pub(super) left_out: bool,
}

/// What is to be done now.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) nodes: HashMap<i32, Due>,
    /// Partitions whose leader is to be looked for.
    pub(super) leaderless: Vec<TopicPartition>,
    /// A broker that could be asked was not, for want of budget: it may be once some is given back.
    pub(super) short: bool,
    /// When to plan again at the latest.
    pub(super) wake_at: Option<Instant>,
}

/// Decides what is asked of whom.
pub(super) fn plan(
    partitions: &mut HashMap<TopicPartition, Partition>,
    options: &FetchOptions,
    used: usize,
    now: Instant,
    leader_of: impl Fn(&TopicPartition) -> Option<Leader>,
    is_asked: impl Fn(i32) -> bool,
) -> Plan {
    let mut plan = Plan::default();
    for (at, partition) in partitions.iter_mut() {
        if partition.stopped {
            continue;
        }
        let retry_at = partition.retry_at.filter(|retry_at| *retry_at > now);
        if let Some(retry_at) = retry_at {
            plan.wake_at = Some(plan.wake_at.map_or(retry_at, |wake_at| wake_at.min(retry_at)));
        }
        let Some(leader) = leader_of(at) else {
            if retry_at.is_none() && !partition.busy {
                plan.leaderless.push(at.clone());
            }
            continue;
        };
        let node = match partition.preferred {
            Some((node, until)) if until > now => node,
            _ => {
                partition.preferred = None;
                leader.node
            }
        };
        // One request in flight a broker: this one has its turn later.
        if is_asked(node) {
            continue;
        }
        let due = plan.nodes.entry(node).or_default();
        let entitled = partition.entitled(used, options);
        plan.short |= !entitled;
        if partition.paused || partition.busy || retry_at.is_some() || !entitled {
            due.left_out = true;
            continue;
        }
        due.asked.push(Asked {
            at: at.clone(),
            incarnation: partition.incarnation,
            offset: partition.offset,
            max_bytes: if used < options.budget {
                partition.max_bytes
            } else {
                partition.max_bytes.min(A_LITTLE)
            },
            leader,
            turn: partition.turn,
        });
    }
    plan.nodes.retain(|_, due| !due.asked.is_empty());
    for due in plan.nodes.values_mut() {
        due.asked.sort_by(|a, b| a.turn.cmp(&b.turn).then_with(|| a.at.cmp(&b.at)));
    }
    plan
}
