//! The task of a fetcher: asks what is due, and sorts the answers out.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{FetchRequest, FetchResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::credit::{Budget, Frame};
use super::partition::{Asked, Due, Partition, plan};
use super::{Command, FetchEvent, FetchOptions, Fetched, LogState, OnFetch};
use crate::client::batch::scan;
use crate::client::connection::SharedError;
use crate::client::error_table::{CallSite, broker_error, is_stale_metadata};
use crate::client::{Admin, Cluster, OffsetSpec};
use crate::{Error, ErrorClass, ErrorKind, Result, TopicPartition, clock};

/// What a request needs beside its partitions, in bytes: a batch must leave room for that in a frame.
const FRAME_OVERHEAD: usize = 64 << 10;

pub(super) struct Task {
    cluster: Cluster,
    options: FetchOptions,
    on_event: OnFetch,
    budget: Arc<Budget>,
    partitions: HashMap<TopicPartition, Partition>,
    /// Brokers with a request in flight.
    asked: HashSet<i32>,
    looking: bool,
    /// Whether budget that is given back lets a broker be asked.
    short: bool,
    work: JoinSet<Done>,
    incarnations: u64,
    turns: i64,
}

/// Work that is done.
enum Done {
    Answered { node: i32, asked: Vec<Asked>, answer: Result<FetchResponse> },
    Looked { wanted: Vec<TopicPartition>, result: Result<()> },
    Ranged { asked: Asked, range: Result<(i64, i64)> },
}

impl Task {
    pub(super) fn new(
        cluster: Cluster,
        options: FetchOptions,
        on_event: OnFetch,
        budget: Arc<Budget>,
    ) -> Self {
        Self {
            cluster,
            options,
            on_event,
            budget,
            partitions: HashMap::new(),
            asked: HashSet::new(),
            looking: false,
            short: false,
            work: JoinSet::new(),
            incarnations: 0,
            turns: 0,
        }
    }

    pub(super) async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Command>) {
        let budget = Arc::clone(&self.budget);
        loop {
            while let Ok(command) = inbox.try_recv() {
                self.obey(command);
            }
            let wake = self.start_what_is_due();
            let wake = async {
                match wake {
                    Some(at) => clock::sleep(at.saturating_duration_since(clock::monotonic())).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                command = inbox.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                Some(done) = self.work.join_next() => match done {
                    Ok(done) => self.finish(done),
                    // Only a panic or the end of the runtime ends work without a result.
                    Err(ended) => {
                        tracing::error!(%ended, "fetching ends");
                        return self.fail_all(&Error::new(ErrorKind::Panic, "the fetcher has ended").because(ended));
                    }
                },
                () = budget.given_back.notified(), if self.short => {}
                () = wake => {}
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Assign { at, offset, token } => {
                self.incarnations += 1;
                let (turn, size) = (self.next_turn(), self.options.partition_max_bytes);
                self.partitions.insert(at, Partition::new(offset, token, self.incarnations, turn, size));
            }
            Command::Revoke(at) => {
                self.partitions.remove(&at);
            }
            Command::Pause(at, paused) => {
                if let Some(partition) = self.partitions.get_mut(&at) {
                    partition.paused = paused;
                }
            }
        }
    }

    fn next_turn(&mut self) -> i64 {
        self.turns += 1;
        self.turns
    }

    fn start_what_is_due(&mut self) -> Option<std::time::Instant> {
        let (cluster, asked) = (&self.cluster, &self.asked);
        let plan = plan(
            &mut self.partitions,
            &self.options,
            self.budget.outstanding(),
            clock::monotonic(),
            |at| cluster.known_leader(at),
            |node| asked.contains(&node),
        );
        if plan.short && !self.short {
            self.budget.paused();
        }
        self.short = plan.short;
        for (node, due) in plan.nodes {
            self.ask(node, due);
        }
        if !self.looking && !plan.leaderless.is_empty() {
            self.looking = true;
            let (cluster, wanted) = (self.cluster.clone(), plan.leaderless);
            self.work.spawn(async move {
                let topics: HashSet<_> = wanted.iter().map(|at| Arc::clone(&at.topic)).collect();
                let result = cluster.look_at(&topics.into_iter().collect::<Vec<_>>()).await;
                Done::Looked { wanted, result }
            });
        }
        plan.wake_at
    }

    fn ask(&mut self, node: i32, due: Due) {
        for asked in &due.asked {
            if let Some(partition) = self.partitions.get_mut(&asked.at) {
                partition.busy = true;
            }
        }
        self.asked.insert(node);
        let request = self.request(&due);
        let (cluster, class, asked) = (self.cluster.clone(), self.options.class, due.asked);
        self.work.spawn(async move {
            let answer = cluster.request(node, class, &request).await;
            let answer = answer.and_then(|answer| match broker_error(answer.error_code, CallSite::Fetch) {
                Some(error) => Err(error),
                None => Ok(answer),
            });
            Done::Answered { node, asked, answer }
        });
    }

    fn request(&self, due: &Due) -> FetchRequest {
        let wait = if due.left_out { self.options.short_wait } else { self.options.max_wait };
        let mut topics: Vec<FetchTopic> = Vec::new();
        for asked in &due.asked {
            let partition = FetchPartition::default()
                .with_partition(asked.at.partition)
                .with_current_leader_epoch(asked.leader.epoch)
                .with_fetch_offset(asked.offset)
                .with_partition_max_bytes(asked.max_bytes);
            match topics.last_mut() {
                Some(topic) if topic.topic.as_str() == &*asked.at.topic => topic.partitions.push(partition),
                // A topic may come again: brokers fill the answer in the order of the request.
                _ => topics.push(
                    FetchTopic::default()
                        .with_topic(TopicName(StrBytes::from_string(asked.at.topic.to_string())))
                        .with_partitions(vec![partition]),
                ),
            }
        }
        let rack = self.cluster.config().rack.clone().unwrap_or_default();
        FetchRequest::default()
            .with_max_wait_ms(i32::try_from(wait.as_millis()).unwrap_or(i32::MAX))
            .with_min_bytes(self.options.min_bytes)
            .with_max_bytes(self.options.max_bytes)
            .with_isolation_level(self.options.isolation.code())
            .with_rack_id(StrBytes::from_string(rack))
            .with_topics(topics)
    }

    fn finish(&mut self, done: Done) {
        match done {
            Done::Answered { node, asked, answer } => {
                self.asked.remove(&node);
                self.answered(node, asked, answer);
            }
            Done::Looked { wanted, result } => {
                self.looking = false;
                let shared = result.map_err(SharedError::new);
                for at in wanted {
                    let error = match &shared {
                        Err(shared) => again(shared),
                        Ok(()) => match self.cluster.look(&at) {
                            Ok(_) => continue,
                            Err(error) => error,
                        },
                    };
                    let incarnation = self.partitions.get(&at).map_or(0, |partition| partition.incarnation);
                    self.fail(&at, incarnation, error);
                }
            }
            Done::Ranged { asked, range } => match range {
                Ok((start, end)) => self.out_of_range(&asked, start, end),
                Err(error) => {
                    if let Some(partition) = self.current(&asked) {
                        partition.stopped = false;
                    }
                    self.fail(&asked.at, asked.incarnation, error);
                }
            },
        }
    }

    /// The partition that was asked for, if it is still the same assignment.
    fn current(&mut self, asked: &Asked) -> Option<&mut Partition> {
        self.partitions.get_mut(&asked.at).filter(|partition| partition.incarnation == asked.incarnation)
    }

    fn answered(&mut self, node: i32, asked: Vec<Asked>, answer: Result<FetchResponse>) {
        for asked in &asked {
            if let Some(partition) = self.current(asked) {
                partition.busy = false;
            }
        }
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                let shared = SharedError::new(error);
                for asked in &asked {
                    self.broken(node, asked, again(&shared));
                }
                return;
            }
        };
        let first = asked.first().map(|asked| asked.at.clone());
        let mut open: HashMap<(Arc<str>, i32), Asked> = asked
            .into_iter()
            .map(|asked| ((Arc::clone(&asked.at.topic), asked.at.partition), asked))
            .collect();
        let bytes = |data: &PartitionData| data.records.as_ref().map_or(0, Bytes::len);
        let size = answer.responses.iter().flat_map(|topic| &topic.partitions).map(bytes).sum();
        let frame = Frame::new(size, &self.budget);
        for topic in answer.responses {
            let name: Arc<str> = Arc::from(topic.topic.as_str());
            for data in topic.partitions {
                if let Some(asked) = open.remove(&(Arc::clone(&name), data.partition_index)) {
                    let is_first = first.as_ref() == Some(&asked.at);
                    self.take(node, &asked, data, &frame, is_first);
                }
            }
        }
        for asked in open.into_values() {
            let left_out = Error::new(ErrorKind::Corrupt, "the broker's answer leaves the partition out");
            self.broken(node, &asked, left_out.with_class(ErrorClass::Retriable));
        }
    }

    fn take(&mut self, node: i32, asked: &Asked, data: PartitionData, frame: &Arc<Frame>, is_first: bool) {
        if let Some(error) = broker_error(data.error_code, CallSite::Fetch) {
            if error.kind() != ErrorKind::OffsetOutOfRange {
                return self.broken(node, asked, error);
            }
            let from_follower = node != asked.leader.node;
            if let Some(partition) = self.current(asked) {
                if from_follower {
                    // A follower may lag behind or keep less; only the leader knows (KIP-392).
                    partition.preferred = None;
                } else {
                    partition.stopped = true;
                    self.find_range(asked.clone());
                }
            }
            return;
        }
        let turn = self.next_turn();
        let until = clock::monotonic() + self.cluster.config().metadata_max_age;
        let Some(partition) =
            self.partitions.get_mut(&asked.at).filter(|p| p.incarnation == asked.incarnation)
        else {
            return;
        };
        let log = LogState {
            high_watermark: data.high_watermark,
            last_stable_offset: if data.last_stable_offset < 0 {
                data.high_watermark
            } else {
                data.last_stable_offset
            },
            log_start_offset: data.log_start_offset,
        };
        let (at, token) = (asked.at.clone(), partition.token);
        let records = data.records.unwrap_or_default();
        if records.is_empty() {
            partition.succeeded();
            if data.preferred_read_replica.0 >= 0 && data.preferred_read_replica.0 != node {
                partition.preferred = Some((data.preferred_read_replica.0, until));
                return;
            }
            let next_offset = asked.offset;
            // An answer names every partition that was asked for: a thousand at rest have nothing new to say.
            if partition.told.replace((next_offset, log)) != Some((next_offset, log)) {
                (self.on_event)(FetchEvent::Progress { at, token, next_offset, log });
            }
            return;
        }
        match scan(&records).map(|found| (found.next_offset, found.complete_len)) {
            Ok((Some(next_offset), length)) if next_offset > asked.offset => {
                partition.succeeded();
                partition.offset = next_offset;
                partition.turn = turn;
                partition.told = None;
                let records = records.slice(..length);
                let credit = frame.credit(records.len(), &partition.outstanding);
                let aborted = data.aborted_transactions.unwrap_or_default();
                (self.on_event)(FetchEvent::Data(Fetched {
                    at,
                    token,
                    fetch_offset: asked.offset,
                    leader_epoch: last_epoch(&records),
                    records,
                    next_offset,
                    aborted: aborted
                        .iter()
                        .map(|aborted| (aborted.producer_id.0, aborted.first_offset))
                        .collect(),
                    log,
                    credit,
                }));
            }
            Ok((Some(next_offset), _)) => {
                let backwards = format!(
                    "the broker sent batches up to {next_offset}, which is before what was asked for"
                );
                self.broken(
                    node,
                    asked,
                    Error::new(ErrorKind::Corrupt, backwards).with_class(ErrorClass::Retriable),
                );
            }
            Ok((None, _)) => self.cut_off(asked, &records, is_first),
            Err(error) => self.fail(&asked.at, asked.incarnation, error),
        }
    }

    /// There was no room for the whole batch. The first partition of an answer gets its first batch whole (KIP-74), so
    /// this one is asked for first next time.
    fn cut_off(&mut self, asked: &Asked, records: &[u8], is_first: bool) {
        let limit = self.cluster.config().max_frame.saturating_sub(FRAME_OVERHEAD);
        let size = batch_size(records).unwrap_or(asked.max_bytes as usize * 2);
        let Some(partition) = self.current(asked) else { return };
        partition.turn = i64::MIN;
        if !is_first {
            return;
        }
        if size > limit || asked.max_bytes as usize >= limit {
            let error = Error::new(
                ErrorKind::Corrupt,
                format!(
                    "a batch of {size} bytes does not fit into the largest frame, {limit} bytes: raise max_frame"
                ),
            );
            return self.fail(&asked.at, asked.incarnation, error);
        }
        partition.max_bytes =
            i32::try_from(size.max(asked.max_bytes as usize * 2).min(limit)).unwrap_or(i32::MAX);
    }

    /// A fetch failed for a partition: goes back to the leader, looks for it again if it may have moved, and waits.
    fn broken(&mut self, node: i32, asked: &Asked, error: Error) {
        if is_stale_metadata(&error) {
            self.cluster.invalidate(&asked.at.topic, asked.leader.generation);
        }
        let Some(partition) = self.current(asked) else { return };
        partition.preferred = None;
        tracing::debug!(node, at = %asked.at, %error, "fetch failed");
        self.fail(&asked.at, asked.incarnation, error);
    }

    fn fail(&mut self, at: &TopicPartition, incarnation: u64, error: Error) {
        let backoff = self.cluster.backoff();
        let now = clock::monotonic();
        let report_after = self.options.report_after;
        let Some(partition) = self.partitions.get_mut(at).filter(|p| p.incarnation == incarnation) else {
            return;
        };
        partition.failures += 1;
        // The next success is news, whatever it finds.
        partition.told = None;
        partition.retry_at = Some(now + backoff.pause(partition.failures));
        let since = *partition.failing_since.get_or_insert(now);
        let report = match error.is_retriable() {
            true => now.saturating_duration_since(since) >= report_after,
            false => {
                partition.stopped = true;
                true
            }
        };
        if report {
            // Said again when it has gone on for as long again: whoever has only so much patience can count.
            partition.failing_since = Some(now);
            let token = partition.token;
            let error = error.at_topic(&*at.topic).at_partition(at.partition).at_offset(partition.offset);
            (self.on_event)(FetchEvent::Error { at: at.clone(), token, error, range: None });
        }
    }

    /// An answer of "out of range" does not say what there is: asks.
    fn find_range(&mut self, asked: Asked) {
        let (admin, isolation) = (Admin::new(&self.cluster), self.options.isolation);
        self.work.spawn(async move {
            let range = async {
                let start = admin.list_offset(&asked.at, OffsetSpec::Earliest, isolation).await?;
                let end = admin.list_offset(&asked.at, OffsetSpec::Latest, isolation).await?;
                Ok((start.offset.unwrap_or(0), end.offset.unwrap_or(0)))
            };
            let range = range.await;
            Done::Ranged { asked, range }
        });
    }

    fn out_of_range(&mut self, asked: &Asked, start: i64, end: i64) {
        let Some(partition) = self.current(asked) else { return };
        let token = partition.token;
        let error = Error::new(
            ErrorKind::OffsetOutOfRange,
            format!("the offset is not in the log, which has {start} to {end}: choose where to go on"),
        )
        .with_code(1)
        .at_topic(&*asked.at.topic)
        .at_partition(asked.at.partition)
        .at_offset(asked.offset);
        (self.on_event)(FetchEvent::Error { at: asked.at.clone(), token, error, range: Some((start, end)) });
    }

    fn fail_all(&mut self, error: &Error) {
        for (at, partition) in self.partitions.drain() {
            let error =
                Error::new(error.kind(), error.to_string()).at_topic(&*at.topic).at_partition(at.partition);
            (self.on_event)(FetchEvent::Error { at, token: partition.token, error, range: None });
        }
    }
}

fn again(shared: &SharedError) -> Error {
    Error::new(shared.kind(), "cannot fetch").with_class(shared.class()).because(shared.clone())
}

/// The size that the first batch says it has, if that much of it is there.
fn batch_size(records: &[u8]) -> Option<usize> {
    let length = i32::from_be_bytes(*records.get(8..)?.first_chunk()?);
    usize::try_from(length).ok()?.checked_add(12)
}

/// The leader epoch of the last of some complete batches.
fn last_epoch(mut records: &[u8]) -> i32 {
    let mut epoch = -1;
    while let Some(size) = batch_size(records) {
        epoch = records
            .get(12..)
            .and_then(|rest| rest.first_chunk())
            .map_or(-1, |epoch| i32::from_be_bytes(*epoch));
        records = records.get(size..).unwrap_or_default();
    }
    epoch
}
