//! The topics of an application: which there must be, which it makes itself, and how many tasks follow from them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::partition_counts;
use crate::client::Cluster;
use crate::client::admin::{Admin, ConfigResource, NewTopic};
use crate::clock;
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::group::SubTopology;
use crate::topology::{Subtopology, Topology};

/// What is known of the topics after a look at the cluster.
#[derive(Debug, Clone)]
pub(super) struct TopicPlan {
    /// Partition counts by the names in the cluster: sources, sinks, repartition topics, changelogs.
    pub(super) counts: BTreeMap<Arc<str>, i32>,
    /// Tasks by sub-topology.
    pub(super) tasks: HashMap<i32, i32>,
}

/// A topic that the application makes.
#[derive(Debug)]
struct Internal {
    name: Arc<str>,
    partitions: i32,
    /// Why so many.
    reason: String,
    configs: Vec<(String, String)>,
}

/// The longest name of a topic (`org.apache.kafka.common.internals.Topic.MAX_NAME_LENGTH`).
const MOST_TOPIC_NAME: usize = 249;

fn refused(message: String) -> Error {
    Error::new(ErrorKind::Topic, message)
}

/// The sub-topologies as the assignor wants them.
pub(super) fn subtopologies(topology: &Topology, application_id: &str, plan: &TopicPlan) -> Vec<SubTopology> {
    let of = |s: &Subtopology| SubTopology {
        id: s.id,
        fingerprint: s.fingerprint,
        topics: s.sources.iter().map(|t| s.plan.topic_name(application_id, &t.topic).into()).collect(),
        tasks: plan.tasks.get(&s.id).copied().unwrap_or(0),
        stateful: !s.stores().is_empty(),
    };
    topology.inner.subtopologies.iter().map(of).collect()
}

/// Refuses names that make topics no broker takes. The id of the application is in them, so that the topology alone cannot
/// know.
pub(super) fn check_names(topology: &Topology, application_id: &str) -> Result<()> {
    let parts = || topology.inner.subtopologies.iter();
    let internal =
        parts().flat_map(|s| s.plan.internal_topics.iter().map(|t| s.plan.topic_name(application_id, t)));
    let stores = parts().flat_map(|s| s.stores().iter().filter(|store| store.changelog().is_some()));
    let changelogs = stores.map(|store| store.changelog_topic(application_id));
    match internal.chain(changelogs).find(|name| name.len() > MOST_TOPIC_NAME) {
        None => Ok(()),
        Some(name) => Err(Error::new(
            ErrorKind::Topology,
            format!(
                "the internal topic {name} would have a name of {} characters, and Kafka allows {MOST_TOPIC_NAME}: shorten \
                 application.id or the name of the store or operator",
                name.len()
            ),
        )),
    }
}

/// All source topics by their names in the cluster.
pub(super) fn source_topics(topology: &Topology, application_id: &str) -> Vec<String> {
    let all = topology.inner.subtopologies.iter();
    all.flat_map(|s| s.sources.iter().map(|t| s.plan.topic_name(application_id, &t.topic))).collect()
}

/// The repartition topics by their names in the cluster.
pub(super) fn repartition_topics(topology: &Topology, application_id: &str) -> HashSet<String> {
    let all = topology.inner.subtopologies.iter();
    let topics = |s: &Subtopology| {
        let own = s.sources.iter().filter(|t| t.repartition.is_some());
        own.map(|t| s.plan.topic_name(application_id, &t.topic)).collect::<Vec<String>>()
    };
    all.flat_map(topics).collect()
}

/// How long a topic is looked for before that is said.
const SOON: Duration = Duration::from_millis(500);

/// The partition count of a topic. One that is not there yet is waited for, and the log says so before it is an error.
async fn look(cluster: Cluster, topic: Arc<str>) -> Result<i32> {
    let mut looking = std::pin::pin!(cluster.partitions(&topic));
    if let Some(found) = clock::timeout(SOON, looking.as_mut()).await {
        return found;
    }
    tracing::warn!(
        topic = &*topic,
        "a topic of the topology is not found; it is looked for some seconds longer"
    );
    looking.await
}

/// Looks at the topics that must exist, and derives the counts of those that the application makes. Nothing is made yet.
pub(super) async fn plan(cluster: &Cluster, topology: &Topology, application_id: &str) -> Result<TopicPlan> {
    let subtopologies = &topology.inner.subtopologies;
    let mut counts: BTreeMap<Arc<str>, i32> = BTreeMap::new();
    let mut missing = Vec::new();
    let mut outside: Vec<(i32, Arc<str>)> = Vec::new();
    for s in subtopologies {
        let sources = s.sources.iter().filter(|t| t.repartition.is_none()).map(|t| &t.topic);
        outside.extend(sources.chain(&s.sinks).map(|topic| (s.id, topic.clone())));
    }
    let mut seen = HashSet::new();
    outside.retain(|(_, topic)| seen.insert(topic.clone()));
    // All at once: one that is missing is waited for.
    let looks: Vec<_> =
        outside.iter().map(|(_, topic)| tokio::spawn(look(cluster.clone(), topic.clone()))).collect();
    for ((subtopology, topic), look) in outside.into_iter().zip(looks) {
        let found = look.await.unwrap_or_else(|error| {
            Err(Error::new(ErrorKind::Panic, "a topic could not be looked up")
                .at_topic(&*topic)
                .because(error))
        });
        match found {
            Ok(count) => _ = counts.insert(topic, count),
            Err(error) if error.kind() == ErrorKind::Topic => {
                missing.push(format!("{topic} (sub-topology {subtopology})"))
            }
            Err(error) => return Err(error),
        }
    }
    if !missing.is_empty() {
        missing.dedup();
        return Err(refused(format!(
            "the topology reads or writes topics that do not exist: {}; create them (mainstem topics create NAME \
             --partitions N) or correct their names",
            missing.join(", ")
        )));
    }
    partition_counts::derive(topology, &mut counts)?;
    let mut tasks = HashMap::new();
    for s in subtopologies {
        let most = s.sources.iter().filter_map(|t| counts.get(&t.topic)).max().copied().unwrap_or(0);
        tasks.insert(s.id, most);
    }
    // By the names in the cluster from here on.
    let mut named = BTreeMap::new();
    for s in subtopologies {
        let topics = s.sources.iter().map(|t| &t.topic).chain(&s.sinks).chain(&s.repartition_sinks);
        for topic in topics {
            if let Some(count) = counts.get(topic) {
                named.insert(s.plan.topic_name(application_id, topic).into(), *count);
            }
        }
        for store in s.stores().iter().filter(|store| store.changelog().is_some()) {
            named
                .insert(store.changelog_topic(application_id).into(), tasks.get(&s.id).copied().unwrap_or(0));
        }
    }
    Ok(TopicPlan { counts: named, tasks })
}

fn internal_topics(topology: &Topology, config: &Config, plan: &TopicPlan) -> Result<Vec<Internal>> {
    let application_id = config.application_id();
    // Defaults, then the application's `topic.*` settings, then the store's own: the later wins.
    let configs = |defaults: &[(&str, &str)], own: &[(String, String)]| {
        let mut all: BTreeMap<String, String> =
            defaults.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        all.extend(config.topic_settings().iter().map(|(name, value)| (name.clone(), value.clone())));
        all.extend(own.iter().cloned());
        all.into_iter().collect()
    };
    let named_with = |partitions: i32, topics: Vec<Arc<str>>| {
        let named = |topic: &Arc<str>| {
            let mut plans =
                topology.inner.subtopologies.iter().map(|s| s.plan.topic_name(application_id, topic));
            plans.find(|name| plan.counts.get(&**name) == Some(&partitions))
        };
        let names: Vec<String> = topics.iter().filter_map(named).collect();
        if names.is_empty() {
            return "of the topics that are read with it".to_owned();
        }
        format!("{} has {partitions}", names.join(" and "))
    };
    let mut internal = Vec::new();
    for s in &topology.inner.subtopologies {
        for topic in s.sources.iter().filter(|t| t.repartition.is_some()) {
            let name: Arc<str> = s.plan.topic_name(application_id, &topic.topic).into();
            let defaults = [
                ("cleanup.policy", "delete"),
                ("segment.bytes", "52428800"),
                ("retention.ms", "-1"),
                ("message.timestamp.type", "CreateTime"),
            ];
            let partitions = plan.counts.get(&name).copied().unwrap_or(1);
            let reason = match topic.repartition.flatten() {
                Some(_) => "Repartitioned::partitions says so".to_owned(),
                None => named_with(partitions, partition_counts::influences(topology, &topic.topic)),
            };
            internal.push(Internal { name, partitions, reason, configs: configs(&defaults, &[]) });
        }
        for store in s.stores() {
            let Some(own) = store.changelog() else { continue };
            let name: Arc<str> = store.changelog_topic(application_id).into();
            // Rows of windows go with time, from the changelog a while after they have gone from the store.
            let policy = if store.retention().is_some() { "compact,delete" } else { "compact" };
            let defaults = [("cleanup.policy", policy), ("message.timestamp.type", "CreateTime")];
            let partitions = plan.counts.get(&name).copied().unwrap_or(1);
            let mut own = own.to_vec();
            if let Some(retention) = store.retention()
                && !own.iter().any(|(name, _)| name == "retention.ms")
            {
                // `WindowedChangelogTopicConfig`: the store's need goes before `topic.retention.ms`.
                let more = config.changelog_additional_retention().as_millis();
                let millis = retention.saturating_add(i64::try_from(more).unwrap_or(i64::MAX));
                own.push(("retention.ms".to_owned(), millis.to_string()));
            }
            let configs: Vec<(String, String)> = configs(&defaults, &own);
            let policy =
                configs.iter().find(|(name, _)| name == "cleanup.policy").map_or("", |(_, policy)| policy);
            if !policy.split(',').any(|part| part.trim() == "compact") {
                return Err(Error::new(
                    ErrorKind::Config,
                    format!(
                        "the changelog {name} would have cleanup.policy={policy}, and rows that do not change would be lost \
                         from it; leave topic.cleanup.policy and the store's own setting at compact"
                    ),
                ));
            }
            let reason = named_with(partitions, s.sources.iter().map(|t| t.topic.clone()).collect());
            internal.push(Internal { name, partitions, reason, configs });
        }
    }
    Ok(internal)
}

/// Makes the internal topics that are missing and checks those that are there.
pub(super) async fn make_internal(
    cluster: &Cluster,
    topology: &Topology,
    config: &Config,
    plan: &TopicPlan,
) -> Result<()> {
    let internal = internal_topics(topology, config, plan)?;
    if internal.is_empty() {
        return Ok(());
    }
    let admin = Admin::new(cluster);
    let names: Vec<&str> = internal.iter().map(|topic| &*topic.name).collect();
    let mut absent = Vec::new();
    for (topic, described) in internal.iter().zip(admin.describe_topics(&names).await?) {
        match described {
            Ok(info) => check_existing(&admin, topic, info.partitions.len()).await?,
            Err(error) if error.kind() == ErrorKind::Topic => absent.push(topic),
            Err(error) => return Err(error),
        }
    }
    let replication = i16::try_from(config.replication_factor()).unwrap_or(-1);
    let new: Vec<NewTopic> = absent
        .iter()
        .map(|topic| {
            let base = NewTopic::new(&*topic.name, topic.partitions).replication(replication);
            topic.configs.iter().fold(base, |new, (name, value)| new.config(name, value))
        })
        .collect();
    if new.is_empty() {
        return Ok(());
    }
    for (topic, made) in absent.iter().zip(admin.create_topics(&new).await?) {
        match made {
            Ok(()) => {
                tracing::info!(topic = &*topic.name, partitions = topic.partitions, "made an internal topic")
            }
            // Somebody was faster: what there is must do.
            Err(error) if Admin::already_exists(&error) => {
                let partitions = cluster.partitions(&topic.name).await?;
                check_existing(&admin, topic, partitions as usize).await?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn check_existing(admin: &Admin, topic: &Internal, partitions: usize) -> Result<()> {
    if partitions != topic.partitions as usize {
        return Err(refused(format!(
            "the internal topic {} has {partitions} partitions where {} are needed, because {}; keys would no longer be where \
             their state is. If the input has been given more partitions: stop all instances, reset the application (delete \
             its internal topics, mainstem topics delete {}, and its committed offsets) and reprocess, or use another \
             application.id",
            topic.name, topic.partitions, topic.reason, topic.name
        ))
        .at_topic(&*topic.name));
    }
    let wanted =
        topic.configs.iter().find(|(name, _)| name == "cleanup.policy").map_or("", |(_, value)| value);
    let configs = admin.describe_configs(&ConfigResource::Topic(topic.name.to_string())).await?;
    let found =
        configs.iter().find(|entry| entry.name == "cleanup.policy").and_then(|entry| entry.value.as_deref());
    let sorted = |policy: &str| {
        let mut parts: Vec<String> = policy.split(',').map(|p| p.trim().to_owned()).collect();
        parts.sort_unstable();
        parts
    };
    if found.is_some_and(|found| sorted(found) != sorted(wanted)) {
        let found = found.unwrap_or_default();
        return Err(refused(format!(
            "the internal topic {} has cleanup.policy={found} where {wanted} is needed: records would be lost; set it \
             (mainstem topics configs {} cleanup.policy={wanted}) or use another application.id",
            topic.name, topic.name
        ))
        .at_topic(&*topic.name));
    }
    Ok(())
}
