//! `mainstem state`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use mainstem::client::Cluster;
use mainstem::clock::{Clock, SystemClock};
use mainstem::state_tools::{HeldSlot, OpenDatabase, Slot, StoreCheckpoint, StoreState, slots};
use mainstem::{Error, ErrorKind, Result, TaskId};

use super::ClusterArgs;
use super::output::{Output, table};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List slots and the stores in them; of a slot that a running instance holds, their names alone
    Ls(Where),
    /// Read every row of the stores in free slots; with --bootstrap or --command-config, hold their checkpoints against the changelogs too
    Verify(Where),
    /// Delete stores, or whole slots, that no running instance holds
    ///
    /// Instances read them from the changelogs again. Nothing else has the rows of stores without a changelog, which `ls`
    /// shows as "no changelog": they are gone for good, and so is what was moved aside in a whole slot.
    Rm(Rm),
}

#[derive(Debug, Args)]
pub(crate) struct Where {
    /// The state.dir of the application
    #[arg(long, value_name = "FOLDER")]
    state_dir: PathBuf,
    /// One application; without it, all that have state there
    #[arg(long, value_name = "ID")]
    application_id: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Rm {
    /// The state.dir of the application
    #[arg(long, value_name = "FOLDER")]
    state_dir: PathBuf,
    #[arg(long, value_name = "ID")]
    application_id: String,
    /// One slot; without it, all of the application
    #[arg(long, value_name = "NAME")]
    slot: Option<String>,
    /// The stores of one task; without it and --store, whole slots
    #[arg(long, value_name = "TASK")]
    task: Option<TaskId>,
    /// The store of one name
    #[arg(long, value_name = "NAME")]
    store: Option<String>,
    /// Delete; without it, only show what would go
    #[arg(long)]
    yes: bool,
}

pub(super) async fn run(command: Command, cluster: &ClusterArgs) -> Result<()> {
    let mut out = Output::new();
    let outcome = match command {
        Command::Ls(at) => list(&at, &mut out),
        Command::Verify(at) => {
            let brokers = match cluster.bootstrap.is_some() || cluster.command_config.is_some() {
                true => Some(cluster.connect().await?),
                false => None,
            };
            verify(&at, brokers.as_ref(), &mut out).await
        }
        Command::Rm(rm) => rm.run(&mut out),
    };
    out.flush()?;
    outcome
}

fn list(at: &Where, out: &mut Output) -> Result<()> {
    let mut failed = 0;
    for slot in slots(&at.state_dir, at.application_id.as_deref())? {
        // Held while it is read, so that no instance opens what is open here.
        let held = slot.hold()?;
        let state = if held.is_some() { "free" } else { "held by a running instance" };
        out.line(format_args!(
            "{} slot {}: {state}, {}",
            slot.application_id,
            slot.name,
            slot.path.display()
        ))?;
        for aside in slot.moved_aside() {
            out.line(format_args!("moved aside, damaged: {}", aside.display()))?;
        }
        for (engine, folder) in slot.databases() {
            let listed = match &held {
                Some(held) => held.open(engine).and_then(|database| database.stores()).map(|s| described(&s)),
                None => slot.named(engine).map(|stores| {
                    let row = |(task, store, used_ms): (TaskId, String, Option<i64>)| {
                        vec![task.to_string(), store, age(used_ms)]
                    };
                    let head = ["task", "store", "used"].map(str::to_owned).to_vec();
                    std::iter::once(head).chain(stores.into_iter().map(row)).collect()
                }),
            };
            out.line(format_args!("{engine}, {}", folder.display()))?;
            match listed {
                Ok(rows) => table(out, &rows)?,
                Err(error) => {
                    out.flush()?;
                    super::report("error", &error);
                    failed += 1;
                }
            }
        }
    }
    match failed {
        0 => Ok(()),
        count => Err(Error::new(ErrorKind::Store, format!("{count} databases could not be listed"))),
    }
}

/// The rows of a table of stores.
fn described(stores: &[StoreState]) -> Vec<Vec<String>> {
    let head = ["task", "store", "bytes", "checkpoint", "epoch", "changelog", "made", "used"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for store in stores {
        let none = || "-".to_owned();
        let (offset, epoch, changelog, made) = match store.checkpoint() {
            StoreCheckpoint::Missing => ("none".to_owned(), none(), none(), none()),
            StoreCheckpoint::NoChangelog => ("no changelog".to_owned(), none(), none(), none()),
            StoreCheckpoint::Unreadable(_) => ("unreadable".to_owned(), none(), none(), none()),
            StoreCheckpoint::Newer(_) => ("of a newer release".to_owned(), none(), none(), none()),
            StoreCheckpoint::Sound { changelog, next_offset, leader_epoch, wall_ms } => {
                (next_offset.to_string(), leader_epoch.to_string(), changelog.to_string(), age(Some(wall_ms)))
            }
        };
        let bytes = store.bytes.map_or_else(none, |bytes| bytes.to_string());
        let (task, name) = (store.task.to_string(), store.store.clone());
        rows.push(vec![task, name, bytes, offset, epoch, changelog, made, age(store.used_ms)]);
    }
    rows
}

/// How long ago, in the largest unit that fits.
fn age(since_ms: Option<i64>) -> String {
    let Some(since) = since_ms else { return "?".to_owned() };
    let seconds = SystemClock.wall_ms().saturating_sub(since) / 1000;
    match seconds {
        ..0 => "in the future".to_owned(),
        0..120 => format!("{seconds} s ago"),
        120..7_200 => format!("{} min ago", seconds / 60),
        7_200..172_800 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

async fn verify(at: &Where, brokers: Option<&Cluster>, out: &mut Output) -> Result<()> {
    let (mut sound, mut damaged, mut skipped, mut unjudged) = (0, 0, 0, 0);
    for slot in slots(&at.state_dir, at.application_id.as_deref())? {
        let title = format!("{} slot {}", slot.application_id, slot.name);
        let Some(held) = slot.hold()? else {
            out.line(format_args!("{title}: skipped, a running instance holds it"))?;
            skipped += 1;
            continue;
        };
        for (engine, _) in slot.databases() {
            let opened = held.open(engine).and_then(|database| Ok((database.stores()?, database)));
            let (stores, database) = match opened {
                Ok(opened) => opened,
                Err(error) => {
                    damaged += 1;
                    out.line(format_args!("{title} {engine}: DAMAGED"))?;
                    out.flush()?;
                    super::report("error", &error);
                    continue;
                }
            };
            for store in stores {
                let title = format!("{title} {engine} {} {}", store.task, store.store);
                match database.verify(&store) {
                    Ok(rows) => {
                        sound += 1;
                        let checkpoint = match store.checkpoint() {
                            StoreCheckpoint::Sound { next_offset, .. } => format!("checkpoint {next_offset}"),
                            StoreCheckpoint::Newer(why) => why,
                            StoreCheckpoint::NoChangelog => "no changelog".to_owned(),
                            _ => "no checkpoint".to_owned(),
                        };
                        out.line(format_args!("{title}: {rows} rows, {checkpoint}"))?;
                    }
                    Err(error) => {
                        damaged += 1;
                        out.line(format_args!("{title}: DAMAGED"))?;
                        out.flush()?;
                        super::report("error", &error);
                    }
                }
                let Some(cluster) = brokers else { continue };
                match store.judge(cluster, &slot.application_id).await {
                    Ok(verdict) => out.line(format_args!("{title}: {verdict}"))?,
                    Err(error) => {
                        unjudged += 1;
                        out.flush()?;
                        super::report("error", &error);
                    }
                }
            }
        }
    }
    out.line(format_args!("{sound} stores sound, {damaged} damaged, {skipped} slots skipped"))?;
    if damaged > 0 {
        let text =
            format!("{damaged} stores or databases are damaged: they are named above, with the remedy");
        return Err(Error::new(ErrorKind::Store, text));
    }
    if unjudged > 0 {
        let text = format!("{unjudged} checkpoints could not be held against their changelogs");
        return Err(Error::new(ErrorKind::Broker, text));
    }
    Ok(())
}

impl Rm {
    fn run(self, out: &mut Output) -> Result<()> {
        let mut held: Vec<(Slot, HeldSlot)> = Vec::new();
        for slot in slots(&self.state_dir, Some(&self.application_id))? {
            if self.slot.as_ref().is_some_and(|name| *name != slot.name) {
                continue;
            }
            // All of them before anything goes.
            held.push((slot.clone(), slot.hold()?.ok_or_else(|| slot.is_held())?));
        }
        let mut count = 0;
        for (slot, held) in held {
            if self.task.is_none() && self.store.is_none() {
                count += 1;
                let what = format!("{} slot {}, {}", slot.application_id, slot.name, slot.path.display());
                if self.yes {
                    held.delete()?;
                }
                out.line(format_args!("{} {what}", self.verb()))?;
                continue;
            }
            for (engine, _) in slot.databases() {
                count += self.stores_of(&slot, &held.open(engine)?, out)?;
            }
        }
        match count {
            0 => {
                let text = format!(
                    "nothing of {} in {} is meant: `mainstem state ls` shows what there is",
                    self.application_id,
                    self.state_dir.display()
                );
                Err(Error::new(ErrorKind::Config, text))
            }
            _ if self.yes => Ok(()),
            _ => out.line("nothing was deleted: --yes does it"),
        }
    }

    fn verb(&self) -> &'static str {
        if self.yes { "deleted" } else { "would delete" }
    }

    fn stores_of(&self, slot: &Slot, database: &OpenDatabase<'_>, out: &mut Output) -> Result<usize> {
        let mut count = 0;
        for store in database.stores()? {
            let other_task = self.task.is_some_and(|task| task != store.task);
            if other_task || self.store.as_ref().is_some_and(|name| *name != store.store) {
                continue;
            }
            count += 1;
            if self.yes {
                database.delete(&store)?;
            }
            let (id, name) = (&slot.application_id, &slot.name);
            let unlogged = match store.changelog {
                Some(false) => " (no changelog: nothing else has its rows)",
                _ => "",
            };
            let (verb, task, store) = (self.verb(), store.task, &store.store);
            out.line(format_args!("{verb} {id} slot {name}: store {store} of task {task}{unlogged}"))?;
        }
        Ok(count)
    }
}
