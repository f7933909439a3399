//! What must be known before a task's first record: committed offsets, and how far its changelogs reach.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::app::AppShared;
use super::local_state::LocalState;
use super::message::{ChangelogStart, InputStart, TaskStart, UnloggedStart};
use super::task_timeout::TaskTimeout;
use super::topics::TopicPlan;
use crate::changelog::facts::{Judge, Wanted};
use crate::changelog::verdict::{Reason, Verdict};
use crate::client::admin::{Admin, Isolation, OffsetSpec};
use crate::client::group::{CommittedOffset, GroupClient};
use crate::client::{ClientConfig, Cluster};
use crate::clock::{self, Clock};
use crate::config::{Config, OffsetReset, Role};
use crate::error::{Error, ErrorClass, ErrorKind, Result};
use crate::group::{ActiveTask, Lease, OffsetMetadata};
use crate::record::TopicPartition;
use crate::task_id::TaskId;
use crate::topology::{AutoOffsetReset, Subtopology, Topology};

const LEADER_NOT_AVAILABLE: i16 = 5;

/// Everything that preparing a task takes.
#[derive(Clone)]
pub(super) struct Preparer {
    pub(super) shared: Arc<AppShared>,
    pub(super) judge: Judge,
    pub(super) state: LocalState,
    pub(super) cluster: Cluster,
    pub(super) group: GroupClient,
    pub(super) topology: Topology,
    pub(super) config: Arc<Config>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) isolation: Isolation,
}

impl Preparer {
    /// Asks until the answers are there or `task.timeout.ms` is over. A later preparation of the task has a greater `tenure`.
    pub(super) async fn prepare(
        &self,
        lease: Lease,
        active: &ActiveTask,
        topics: &TopicPlan,
        tenure: u64,
    ) -> Result<TaskStart> {
        let mut trouble = TaskTimeout::new(self.config.task_timeout());
        let client: &ClientConfig = self.cluster.config();
        let mut pause = client.retry_backoff;
        loop {
            match self.try_prepare(lease, active, topics, tenure).await {
                // The admin has its own, shorter patience: a partition that was made just now may be without a leader longer.
                Err(error) if error.is_retriable() || error.code() == Some(LEADER_NOT_AVAILABLE) => {
                    if trouble.failed(clock::monotonic()) {
                        let who = format_args!("task {}", lease.task);
                        return Err(trouble.error(who, "what it starts from cannot be read", error));
                    }
                    tracing::warn!(task = %lease.task, ?error, "cannot start the task yet");
                    clock::sleep(pause).await;
                    pause = (pause * 2).min(client.retry_backoff_max);
                }
                outcome => return outcome,
            }
        }
    }

    async fn try_prepare(
        &self,
        lease: Lease,
        active: &ActiveTask,
        topics: &TopicPlan,
        tenure: u64,
    ) -> Result<TaskStart> {
        let subtopologies = &self.topology.inner.subtopologies;
        let of_task = subtopologies.iter().find(|s| s.id == lease.task.subtopology);
        let subtopology = of_task.ok_or_else(|| {
            Error::new(ErrorKind::Topology, format!("the topology has no part for task {}", lease.task))
        })?;
        let admin = Admin::new(&self.cluster);
        // ORDER: offsets are read when they are stable, so that what the task's owner before has pending is settled.
        let committed = match self.group.committed(Some(&active.partitions), true).await {
            Err(error)
                if error.kind() == ErrorKind::Broker
                    && error.code().is_none()
                    && !self.config.is_exactly_once() =>
            {
                self.group.committed(Some(&active.partitions), false).await?
            }
            committed => committed?,
        };
        let mut inputs = Vec::with_capacity(committed.len());
        for (at, committed) in committed {
            let reset = self.reset_policy(subtopology, &at);
            inputs.push(match committed {
                Some(CommittedOffset { offset, metadata, .. }) => {
                    let unknown = OffsetMetadata { partition_time: -1, ..OffsetMetadata::default() };
                    let OffsetMetadata { partition_time, processors } =
                        OffsetMetadata::decode(&metadata).unwrap_or(unknown);
                    InputStart { at, offset, partition_time, processors, reset }
                }
                None => {
                    let offset = self.first_offset(&admin, &at, reset).await?;
                    InputStart { at, offset, partition_time: -1, processors: BTreeMap::new(), reset }
                }
            });
        }
        let (changelogs, unlogged) = self.stores(lease.task, tenure, subtopology).await?;
        let partitions = topics.counts.iter().map(|(topic, count)| (topic.to_string(), *count)).collect();
        Ok(TaskStart { lease, inputs, changelogs, unlogged, partitions, isolation: self.isolation })
    }

    /// Opens the stores of a task, and finds out how far their changelogs reach and what of them is on disk already. Those
    /// without a changelog come second.
    async fn stores(
        &self,
        task: TaskId,
        tenure: u64,
        subtopology: &Subtopology,
    ) -> Result<(Vec<ChangelogStart>, Vec<UnloggedStart>)> {
        // ORDER: the marks are read before the brokers are asked, so that no log is judged by what it was before the mark.
        let opened = self.state.stores(task, tenure, subtopology.stores()).await?;
        let (logged, unlogged): (Vec<_>, Vec<_>) =
            opened.into_iter().partition(|opened| opened.store.changelog().is_some());
        let wanted = logged.iter().map(|opened| {
            let topic = opened.store.changelog_topic(self.config.application_id());
            let at = TopicPartition::new(topic, task.partition);
            Wanted { at, fingerprint: opened.store.fingerprint(), mark: opened.mark.clone() }
        });
        let wanted: Vec<_> = wanted.collect();
        let judged = self.judge.judge(&wanted).await?;
        let mut changelogs = Vec::with_capacity(logged.len());
        for (mut opened, judged) in logged.into_iter().zip(judged) {
            let (at, facts) = (judged.origin.at.clone(), &judged.facts);
            let name = opened.store.name().clone();
            match &judged.verdict {
                Verdict::Resume(start) => {
                    tracing::info!(%task, store = %name, changelog = %at, from = start.offset, "the local state is sound");
                }
                // A new store: there is nothing to lose.
                Verdict::Distrust(Reason::NoCheckpoint, _) if opened.engine.is_empty()? => {}
                Verdict::Distrust(reason, _) => {
                    tracing::warn!(%task, reason = reason.label(), "{}", reason.sentence(&name, &at, facts));
                    self.shared.figures().state_wiped(reason.label());
                    // ORDER: the old handle goes before its store.
                    drop(opened.engine);
                    opened = self.state.wiped(task, tenure, opened.store).await?;
                }
            }
            let (from, to) = (judged.verdict.start().offset, facts.end);
            changelogs.push(ChangelogStart { store: name, at, from, to, judged, engine: opened.engine });
        }
        let unlogged = unlogged
            .into_iter()
            .map(|opened| UnloggedStart { store: opened.store.name().clone(), engine: opened.engine });
        Ok((changelogs, unlogged.collect()))
    }

    /// The source's own policy, or the configuration's. Internal topics never start anywhere but where they were.
    fn reset_policy(&self, subtopology: &Subtopology, at: &TopicPartition) -> Option<AutoOffsetReset> {
        let application_id = self.config.application_id();
        let source = subtopology
            .sources
            .iter()
            .find(|t| subtopology.plan.topic_name(application_id, &t.topic) == *at.topic)?;
        if source.repartition.is_some() {
            return None;
        }
        Some(source.reset.unwrap_or(match self.config.consumer(Role::Main).auto_offset_reset() {
            OffsetReset::Latest => AutoOffsetReset::Latest,
            OffsetReset::None => AutoOffsetReset::None,
            OffsetReset::ByDuration(duration) => AutoOffsetReset::ByDuration(duration),
            _ => AutoOffsetReset::Earliest,
        }))
    }

    async fn first_offset(
        &self,
        admin: &Admin,
        at: &TopicPartition,
        reset: Option<AutoOffsetReset>,
    ) -> Result<i64> {
        let spec = match reset {
            Some(AutoOffsetReset::Latest) => OffsetSpec::Latest,
            Some(AutoOffsetReset::ByDuration(ago)) => {
                let ago = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
                OffsetSpec::Timestamp(self.clock.wall_ms().saturating_sub(ago).max(0))
            }
            Some(AutoOffsetReset::None) => {
                return Err(Error::new(
                    ErrorKind::OffsetOutOfRange,
                    "the group has no committed offset and auto.offset.reset is none; commit one, or set it to earliest or \
                     latest",
                )
                .at_topic(&*at.topic)
                .at_partition(at.partition));
            }
            // A repartition topic is read from its beginning: nobody else has written it before us.
            Some(AutoOffsetReset::Earliest) | None => OffsetSpec::Earliest,
        };
        list(admin, at, spec).await
    }
}

/// An offset of a partition; where no record is that young, the one behind the last.
async fn list(admin: &Admin, at: &TopicPartition, spec: OffsetSpec) -> Result<i64> {
    let listed = admin.list_offset(at, spec, Isolation::ReadUncommitted).await?.offset;
    match (listed, spec) {
        (Some(offset), _) => Ok(offset),
        (None, OffsetSpec::Latest | OffsetSpec::Earliest) => {
            let error = Error::new(ErrorKind::Broker, "the broker does not say where the partition ends");
            Err(error.with_class(ErrorClass::Retriable).at_topic(&*at.topic).at_partition(at.partition))
        }
        (None, _) => Box::pin(list(admin, at, OffsetSpec::Latest)).await,
    }
}
