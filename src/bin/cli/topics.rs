//! `mainstem topics`.

use clap::{Args, Subcommand};
use mainstem::client::{
    Admin, AlterConfig, Cluster, ConfigResource, Isolation, NewTopic, OffsetSpec, TopicInfo,
};
use mainstem::{Error, ErrorKind, Result, TopicPartition};

use super::output::{Output, table};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a topic
    Create(Create),
    /// List topics
    List {
        /// Those of Kafka itself as well
        #[arg(long)]
        internal: bool,
    },
    /// Show partitions, leaders, offsets
    Describe {
        #[arg(required = true)]
        topics: Vec<String>,
    },
    /// Delete topics with everything in them
    Delete {
        #[arg(required = true)]
        topics: Vec<String>,
    },
    /// Grow a topic to a number of partitions
    AddPartitions {
        topic: String,
        /// How many there are to be in all
        #[arg(long)]
        to: i32,
    },
    /// Delete the records of a topic before an offset
    DeleteRecords {
        topic: String,
        /// One partition; without it, all
        #[arg(long)]
        partition: Option<i32>,
        /// The first offset to keep; without it, nothing is kept
        #[arg(long)]
        before: Option<i64>,
    },
    /// Show a topic's configs, or change some
    Configs {
        topic: String,
        /// Set a config
        #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
        set: Vec<(String, String)>,
        /// Go back to a default
        #[arg(long, value_name = "NAME")]
        reset: Vec<String>,
        /// Defaults as well
        #[arg(long)]
        all: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    topic: String,
    #[arg(long, short, default_value_t = 1)]
    partitions: i32,
    /// Replicas of each partition; the broker's default if not given
    #[arg(long, short, default_value_t = -1, allow_hyphen_values = true)]
    replication: i16,
    /// A topic config
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = pair)]
    config: Vec<(String, String)>,
    /// Content with a topic that exists already
    #[arg(long)]
    if_not_exists: bool,
}

pub(super) fn pair(text: &str) -> std::result::Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(super) async fn run(command: Command, cluster: &Cluster) -> Result<()> {
    let admin = Admin::new(cluster);
    let mut out = Output::new();
    match command {
        Command::Create(create) => create_topic(&admin, create, &mut out).await?,
        Command::List { internal } => {
            for topic in admin.list_topics().await?.iter().filter(|topic| internal || !topic.internal) {
                out.line(format_args!("{}", topic.name))?;
            }
        }
        Command::Describe { topics } => {
            let names: Vec<_> = topics.iter().map(String::as_str).collect();
            for topic in admin.describe_topics(&names).await? {
                describe(&admin, &topic?, &mut out).await?;
            }
        }
        Command::Delete { topics } => {
            let names: Vec<_> = topics.iter().map(String::as_str).collect();
            for (name, deleted) in topics.iter().zip(admin.delete_topics(&names).await?) {
                deleted?;
                out.line(format_args!("deleted {name}"))?;
            }
        }
        Command::AddPartitions { topic, to } => {
            admin.add_partitions(&[(&topic, to)]).await?.into_iter().collect::<Result<Vec<_>>>()?;
            out.line(format_args!("{topic} has {to} partitions"))?;
        }
        Command::DeleteRecords { topic, partition, before } => {
            let partitions = match partition {
                Some(partition) => vec![partition],
                None => one(&admin, &topic).await?.partitions.iter().map(|p| p.partition).collect(),
            };
            let at: Vec<_> = partitions
                .iter()
                .map(|partition| (TopicPartition::new(topic.as_str(), *partition), before.unwrap_or(-1)))
                .collect();
            for ((at, _), start) in at.iter().zip(admin.delete_records(&at).await?) {
                out.line(format_args!("{at} begins at {}", start?))?;
            }
        }
        Command::Configs { topic, set, reset, all } => {
            let resource = ConfigResource::Topic(topic);
            let changes: Vec<_> = set
                .into_iter()
                .map(|(name, value)| AlterConfig::Set(name, value))
                .chain(reset.into_iter().map(AlterConfig::Reset))
                .collect();
            let known = admin.describe_configs(&resource).await?;
            // The broker takes any name to reset.
            if let Some(AlterConfig::Reset(name)) = changes.iter().find(
                |change| matches!(change, AlterConfig::Reset(name) if known.iter().all(|c| c.name != *name)),
            ) {
                return Err(Error::new(
                    ErrorKind::Config,
                    format!(
                        "a topic has no config {name:?}: `topics configs NAME --all` lists those there are"
                    ),
                ));
            }
            if !changes.is_empty() {
                admin.alter_configs(&resource, &changes).await?;
            }
            for config in admin.describe_configs(&resource).await?.iter().filter(|c| all || c.overridden) {
                out.line(format_args!("{}={}", config.name, config.value.as_deref().unwrap_or("")))?;
            }
        }
    }
    out.flush()
}

async fn create_topic(admin: &Admin, create: Create, out: &mut Output) -> Result<()> {
    let mut topic = NewTopic::new(&create.topic, create.partitions).replication(create.replication);
    for (name, value) in create.config {
        topic = topic.config(name, value);
    }
    match admin.create_topic(topic).await {
        Ok(()) => out.line(format_args!("created {}", create.topic)),
        Err(error) if create.if_not_exists && Admin::already_exists(&error) => {
            out.line(format_args!("{} exists already", create.topic))
        }
        Err(error) => Err(error),
    }
}

async fn one(admin: &Admin, topic: &str) -> Result<TopicInfo> {
    let described = admin.describe_topics(&[topic]).await?.pop();
    described.unwrap_or_else(|| Err(Error::new(ErrorKind::Topic, "nobody knows the topic").at_topic(topic)))
}

async fn describe(admin: &Admin, topic: &TopicInfo, out: &mut Output) -> Result<()> {
    let id = topic.id.map(|id| format!(", id {id}")).unwrap_or_default();
    out.line(format_args!("{}: {} partitions{id}", topic.name, topic.partitions.len()))?;
    let mut rows = vec![
        ["partition", "leader", "epoch", "replicas", "in sync", "begins at", "ends at"]
            .map(str::to_owned)
            .to_vec(),
    ];
    let of = |spec| {
        let at = |p: &mainstem::client::PartitionInfo| (TopicPartition::new(&*topic.name, p.partition), spec);
        topic.partitions.iter().map(at).collect::<Vec<_>>()
    };
    let begins = admin.list_offsets(&of(OffsetSpec::Earliest), Isolation::ReadUncommitted).await?;
    let ends = admin.list_offsets(&of(OffsetSpec::Latest), Isolation::ReadUncommitted).await?;
    let offset = |listed: Result<mainstem::client::ListedOffset>| {
        listed.ok().and_then(|listed| listed.offset).map_or("?".to_owned(), |offset| offset.to_string())
    };
    for ((p, begin), end) in topic.partitions.iter().zip(begins).zip(ends) {
        rows.push(vec![
            p.partition.to_string(),
            p.leader.map_or("none".to_owned(), |leader| leader.to_string()),
            p.leader_epoch.to_string(),
            format!("{:?}", p.replicas),
            format!("{:?}", p.in_sync),
            offset(begin),
            offset(end),
        ]);
    }
    table(out, &rows)
}
