//! What the brokers say of the changelogs of a task, in a few requests for all of them: ids, ranges, where leader epochs end,
//! what is deleted in time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::checkpoint::{Checkpoint, Origin};
use super::verdict::{CleanupPolicy, LogFacts, Verdict, verdict};
use crate::client::{Admin, Cluster, ConfigEntry, ConfigResource, Isolation, OffsetSpec};
use crate::clock::{self, Clock};
use crate::error::{Error, ErrorClass, ErrorKind, Result};
use crate::record::TopicPartition;

/// For how long the settings of a topic are taken as they were. Whoever lowers `delete.retention.ms` is to wait longer.
const POLICY_MAX_AGE: Duration = Duration::from_secs(60);
const TOPIC_AUTHORIZATION_FAILED: i16 = 29;

/// A store whose changelog is asked about.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// The changelog.
    pub(crate) at: TopicPartition,
    /// What the rows' bytes mean ([`StoreBlueprint::fingerprint`](crate::store::StoreBlueprint::fingerprint)).
    pub(crate) fingerprint: u64,
    /// The mark of what is on disk, if it has one.
    pub(crate) mark: Option<Bytes>,
}

/// What came of it.
#[derive(Debug, Clone)]
pub(crate) struct Judged {
    /// What the store is a cache of: goes into its next checkpoints.
    pub(crate) origin: Origin,
    pub(crate) facts: LogFacts,
    pub(crate) verdict: Verdict,
}

/// The settings of topics, and when they were asked for.
type Policies = HashMap<Arc<str>, (Instant, CleanupPolicy)>;

/// Asks about changelogs, for all tasks of an instance.
#[derive(Debug, Clone)]
pub(crate) struct Judge {
    cluster: Cluster,
    application_id: String,
    clock: Arc<dyn Clock>,
    policies: Arc<Mutex<Policies>>,
}

impl Judge {
    pub(crate) fn new(cluster: &Cluster, application_id: &str, clock: Arc<dyn Clock>) -> Self {
        Self {
            cluster: cluster.clone(),
            application_id: application_id.to_owned(),
            clock,
            policies: Arc::default(),
        }
    }

    /// Judges stores by their changelogs, in their order.
    ///
    /// # Errors
    /// When the brokers do not say all of it. What they cannot say *yet* (after a failover: OFFSET_NOT_AVAILABLE,
    /// LEADER_NOT_AVAILABLE) is such an error, and never a reason to distrust.
    pub(crate) async fn judge(&self, wanted: &[Wanted]) -> Result<Vec<Judged>> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let admin = Admin::new(&self.cluster);
        // ORDER: the time first: whatever is deleted while the brokers are asked was not deleted before it.
        let wall_ms = self.clock.wall_ms();
        let mut topics: Vec<Arc<str>> = wanted.iter().map(|wanted| wanted.at.topic.clone()).collect();
        topics.sort_unstable();
        topics.dedup();
        // What is known may be from before a topic was made again.
        self.cluster.look_at(&topics).await?;
        let policies = self.policies(&admin, &topics).await?;
        let mut ids = HashMap::with_capacity(topics.len());
        for topic in &topics {
            ids.insert(topic.clone(), self.cluster.topic(topic).await?.id);
        }
        let mut epochs = HashMap::new();
        for wanted in wanted {
            let checkpoint = wanted.mark.as_ref().and_then(|mark| Checkpoint::decode(mark).ok());
            if let Some(epoch) = checkpoint.map(|c| c.leader_epoch).filter(|epoch| *epoch >= 0) {
                epochs.insert(wanted.at.clone(), epoch);
            }
        }
        let epochs: Vec<_> = epochs.into_iter().collect();
        let ends = first_error(admin.offsets_for_leader_epochs(&epochs).await?)?;
        let epoch_ends: HashMap<_, _> = epochs.into_iter().map(|(at, _)| at).zip(ends).collect();
        let starts = self.list(&admin, wanted, OffsetSpec::Earliest).await?;
        // The high watermark, not the last stable offset, which would leave out the last transaction (KAFKA-10167).
        let ends = self.list(&admin, wanted, OffsetSpec::Latest).await?;
        let judged = wanted.iter().zip(starts).zip(ends).map(|((wanted, start), end)| {
            let ((start, _), (end, leader_epoch)) = (start, end);
            let at = &wanted.at;
            let origin = Origin {
                cluster_id: self.cluster.cluster_id(),
                topic_id: ids.get(&at.topic).copied().flatten(),
                at: at.clone(),
                application_id: self.application_id.clone(),
                fingerprint: wanted.fingerprint,
            };
            let policy = policies.get(&at.topic).copied().unwrap_or_default();
            let epoch_end = epoch_ends.get(at).copied().flatten();
            let facts = LogFacts { start, end, leader_epoch, epoch_end, policy, wall_ms };
            let verdict = verdict(wanted.mark.as_deref(), &origin, &facts);
            Judged { origin, facts, verdict }
        });
        Ok(judged.collect())
    }

    /// Offsets, and the leader epochs that are told with them.
    async fn list(&self, admin: &Admin, wanted: &[Wanted], spec: OffsetSpec) -> Result<Vec<(i64, i32)>> {
        let of: Vec<_> = wanted.iter().map(|wanted| (wanted.at.clone(), spec)).collect();
        let listed = first_error(admin.list_offsets(&of, Isolation::ReadUncommitted).await?)?;
        let offsets = listed.into_iter().zip(wanted).map(|(listed, Wanted { at, .. })| {
            let offset = listed.offset.map(|offset| (offset, listed.leader_epoch.unwrap_or(-1)));
            offset.ok_or_else(|| {
                let text = "the broker does not say where the partition begins and ends";
                let error = Error::new(ErrorKind::Broker, text).with_class(ErrorClass::Retriable);
                error.at_topic(&*at.topic).at_partition(at.partition)
            })
        });
        offsets.collect()
    }

    async fn policies(&self, admin: &Admin, topics: &[Arc<str>]) -> Result<HashMap<Arc<str>, CleanupPolicy>> {
        let now = clock::monotonic();
        let unknown: Vec<_> = {
            let known = self.policies.lock().unwrap_or_else(PoisonError::into_inner);
            let fresh = |topic: &&Arc<str>| {
                known.get(*topic).is_some_and(|(asked, _)| now.duration_since(*asked) < POLICY_MAX_AGE)
            };
            topics.iter().filter(|topic| !fresh(topic)).cloned().collect()
        };
        if !unknown.is_empty() {
            let of: Vec<_> = unknown.iter().map(|topic| ConfigResource::Topic(topic.to_string())).collect();
            let described =
                admin.describe_some_configs(&of, &["cleanup.policy", "delete.retention.ms"]).await?;
            let mut found = Vec::with_capacity(unknown.len());
            for (topic, described) in unknown.into_iter().zip(described) {
                let policy = match described {
                    Ok(entries) => policy(&topic, &entries)?,
                    Err(error) if error.code() == Some(TOPIC_AUTHORIZATION_FAILED) => {
                        let policy = CleanupPolicy::default();
                        tracing::warn!(
                            %topic, ?error, delete_retention_ms = policy.delete_retention_ms,
                            "the settings of a changelog may not be read (grant DESCRIBE_CONFIGS on it): taken for Kafka's defaults"
                        );
                        policy
                    }
                    Err(error) => return Err(error),
                };
                found.push((topic, (now, policy)));
            }
            self.policies.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
        }
        let known = self.policies.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(topics.iter().filter_map(|topic| Some((topic.clone(), known.get(topic)?.1))).collect())
    }
}

fn policy(topic: &str, entries: &[ConfigEntry]) -> Result<CleanupPolicy> {
    let value = |name: &str| {
        let entry = entries.iter().find(|entry| entry.name == name);
        entry.and_then(|entry| entry.value.as_deref()).ok_or_else(|| {
            Error::new(ErrorKind::Broker, format!("the broker does not tell {name} of the topic"))
                .at_topic(topic)
        })
    };
    let (policy, retention) = (value("cleanup.policy")?, value("delete.retention.ms")?);
    let delete_retention_ms = retention.parse().map_err(|cause: std::num::ParseIntError| {
        let text = format!("the broker says delete.retention.ms={retention}, which is no number");
        Error::new(ErrorKind::Broker, text).at_topic(topic).because(cause)
    })?;
    Ok(CleanupPolicy { compacted: policy.split(',').any(|p| p.trim() == "compact"), delete_retention_ms })
}

/// All of them, or the first error; one that may pass only if there is none that stays.
fn first_error<T>(results: Vec<Result<T>>) -> Result<Vec<T>> {
    let mut found = Vec::with_capacity(results.len());
    let mut passing = None;
    for result in results {
        match result {
            Ok(one) => found.push(one),
            Err(error) if error.is_retriable() => passing = passing.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    passing.map_or(Ok(found), Err)
}
