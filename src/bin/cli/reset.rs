//! `mainstem reset`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use mainstem::client::Cluster;
use mainstem::clock::{Clock, SystemClock};
use mainstem::reset::{Plan, Reset as Request, ResetTo};
use mainstem::{Error, ErrorKind, Result, TopicPartition};

use super::output::Output;
use super::when::{datetime_ms, duration_ms};

/// Bring an application back to the beginning of its input, or to another place: committed offsets, internal topics,
/// open transactions, local state
///
/// The counterpart of kafka-streams-application-reset, with its options. It works on what an application of Kafka Streams
/// has left as well. Stop all instances first. What would be done is shown by --dry-run; nothing can be undone.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("to").multiple(false).requires("input_topics"))]
pub(crate) struct Reset {
    /// The application.id
    #[arg(long, value_name = "ID")]
    application_id: String,
    /// Topics to read anew, with commas between: from the earliest record, or where another option says
    #[arg(long, value_name = "TOPIC,..", value_delimiter = ',')]
    input_topics: Vec<String>,
    /// Topics of yours that the application both writes and reads: they are skipped to their end
    #[arg(long, value_name = "TOPIC,..", value_delimiter = ',')]
    intermediate_topics: Vec<String>,
    /// Delete only these internal topics (the default is all: changelogs and repartition topics)
    #[arg(long, value_name = "TOPIC,..", value_delimiter = ',')]
    internal_topics: Vec<String>,
    /// Read input topics from their first record (the default)
    #[arg(long, group = "to")]
    to_earliest: bool,
    /// Read input topics from behind their last record
    #[arg(long, group = "to")]
    to_latest: bool,
    /// Read input topics from this offset in every partition
    #[arg(long, group = "to", value_name = "OFFSET", allow_hyphen_values = true, value_parser = clap::value_parser!(i64).range(0..))]
    to_offset: Option<i64>,
    /// Read input topics from the first record of this time or later: 2026-05-17T08:30:00.000, in UTC or with Z or +02:00
    #[arg(long, group = "to", value_name = "TIME", value_parser = datetime_ms)]
    to_datetime: Option<i64>,
    /// Read input topics from the first record that is this old or younger: P7D, PT1H30M
    #[arg(long, group = "to", value_name = "DURATION", value_parser = duration_ms)]
    by_duration: Option<i64>,
    /// Move committed offsets by so many records, back if negative
    #[arg(long, group = "to", value_name = "RECORDS", allow_hyphen_values = true)]
    shift_by: Option<i64>,
    /// Take offsets from a file with a line TOPIC,PARTITION,OFFSET for every partition
    #[arg(long, group = "to", value_name = "FILE")]
    from_file: Option<PathBuf>,
    /// Delete the local state of the application below this state.dir, on this host
    #[arg(long, value_name = "FOLDER")]
    state_dir: Option<PathBuf>,
    /// Remove members that are still in the group, as those of killed instances are for a while
    #[arg(long)]
    force: bool,
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

impl Reset {
    pub(super) async fn run(self, cluster: &Cluster) -> Result<()> {
        let dry_run = self.dry_run;
        let request = self.request()?;
        let plan = request.plan(cluster).await?;
        let mut out = Output::new();
        let verb = if dry_run { "would" } else { "will" };
        show(&plan, verb, request.force, &mut out)?;
        out.flush()?;
        // A dry run ends as the reset would.
        drop(request.refuse_if_active(&plan)?);
        if dry_run {
            return out.line("nothing was changed: this was a dry run").and_then(|()| out.flush());
        }
        let mut failed = None;
        let outcome = request
            .carry_out(cluster, &plan, &mut |line| {
                // What was done is told as it is done: a reset may fail in the middle.
                if let Err(error) = out.line(line).and_then(|()| out.flush()) {
                    failed.get_or_insert(error);
                }
            })
            .await;
        outcome.map_err(|error| {
            let text = "the reset is not complete: mend what is said below, and give the same command again";
            match error.kind() {
                ErrorKind::IllegalState => error,
                kind => Error::new(kind, text).because(error),
            }
        })?;
        out.line(format_args!("{} is reset", request.application_id))?;
        out.flush()?;
        failed.map_or(Ok(()), Err)
    }

    fn request(self) -> Result<Request> {
        let to = if self.to_latest {
            ResetTo::Latest
        } else if let Some(offset) = self.to_offset {
            ResetTo::Offset(offset)
        } else if let Some(at) = self.to_datetime {
            ResetTo::Timestamp(at)
        } else if let Some(back) = self.by_duration {
            ResetTo::Timestamp(SystemClock.wall_ms().saturating_sub(back))
        } else if let Some(by) = self.shift_by {
            ResetTo::ShiftBy(by)
        } else if let Some(file) = &self.from_file {
            ResetTo::Plan(offsets_in(file)?)
        } else {
            ResetTo::Earliest
        };
        Ok(Request {
            application_id: self.application_id,
            input_topics: self.input_topics,
            to,
            intermediate_topics: self.intermediate_topics,
            internal_topics: self.internal_topics,
            state_dir: self.state_dir,
            force: self.force,
        })
    }
}

fn show(plan: &Plan, verb: &str, force: bool, out: &mut Output) -> Result<()> {
    for member in plan.members.iter().filter(|_| force) {
        out.line(format_args!("{verb} remove the member {member}"))?;
    }
    for (id, state) in &plan.transactions {
        out.line(format_args!("{verb} fence the transactional id {id} ({state})"))?;
    }
    for change in &plan.offsets {
        out.line(format_args!("{verb} set the offset of {change}"))?;
    }
    for at in &plan.forgotten {
        out.line(format_args!("{verb} delete the committed offset of {at}"))?;
    }
    for topic in &plan.topics {
        out.line(format_args!("{verb} delete the topic {topic}"))?;
    }
    for slot in &plan.slots {
        out.line(format_args!("{verb} delete the slot {}, {}", slot.name, slot.path.display()))?;
    }
    plan.notes.iter().try_for_each(|note| out.line(format_args!("note: {note}")))
}

/// Lines of `TOPIC,PARTITION,OFFSET`, as `kafka-consumer-groups --export` writes them.
fn offsets_in(file: &Path) -> Result<BTreeMap<TopicPartition, i64>> {
    let wrong =
        |what: String| Error::new(ErrorKind::Config, format!("--from-file {}: {what}", file.display()));
    let text = std::fs::read_to_string(file)
        .map_err(|cause| wrong("it cannot be read".to_owned()).because(cause))?;
    let mut offsets = BTreeMap::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let line = line.replace('"', "");
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let parsed = match fields[..] {
            [topic, partition, offset] if !topic.is_empty() => partition
                .parse::<i32>()
                .ok()
                .filter(|partition| *partition >= 0)
                .zip(offset.parse::<i64>().ok().filter(|offset| *offset >= 0))
                .map(|(partition, offset)| (TopicPartition::new(topic, partition), offset)),
            _ => None,
        };
        let Some((at, offset)) = parsed else {
            return Err(wrong(format!("line {} is not TOPIC,PARTITION,OFFSET: {line}", number + 1)));
        };
        if offsets.insert(at.clone(), offset).is_some() {
            return Err(wrong(format!("line {} names {at} again", number + 1)));
        }
    }
    match offsets.is_empty() {
        true => Err(wrong("it has no line TOPIC,PARTITION,OFFSET".to_owned())),
        false => Ok(offsets),
    }
}
