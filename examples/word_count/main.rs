//! The rolling word count: lines in, a table of words and their counts out, exact.
//!
//! Without a subcommand it shows everything, with nothing installed: an embedded broker, two instances as processes of
//! their own, queries, one of them killed, and the table against a truth that knows nothing of the library (`demo.rs`).
//! With `--bootstrap` it does the same on that Kafka. The subcommands are its parts.

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a program prints, and keeps a rate by the clock"
)]

mod ask;
mod data;
mod demo;
mod truth;

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Parser, Subcommand};
use mainstem::client::{
    Admin, ClientConfig, Cluster, NewTopic, Producer, ProducerOptions, ReadOptions, Reader,
};
use mainstem::prelude::*;
use mainstem::{App, Config};

#[derive(Parser)]
#[command(about = "Counts words, and proves the counts")]
struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Args, Clone)]
struct Options {
    /// Brokers to begin with, host:port separated by commas. 127.0.0.1:9092 for the subcommands; without a subcommand a
    /// broker in this process.
    #[arg(long, global = true)]
    bootstrap: Option<String>,
    /// The application id.
    #[arg(long, global = true, default_value = "wordcount")]
    app_id: String,
    /// Worker threads.
    #[arg(long, global = true, default_value_t = 2)]
    workers: usize,
    /// Bytes of the record cache; 0 passes every update on.
    #[arg(long, global = true, default_value_t = 0)]
    cache: usize,
    /// Lines a second; 0 is as fast as it goes.
    #[arg(long, global = true, default_value_t = 0)]
    rate: u64,
    /// Rounds of the 10 000 generated lines.
    #[arg(long, global = true, default_value_t = 1)]
    repeat: u64,
    /// Partitions of the topics.
    #[arg(long, global = true, default_value_t = 4, value_parser = clap::value_parser!(i32).range(1..))]
    partitions: i32,
    /// The topic of the lines.
    #[arg(long, global = true, default_value = "words.lines")]
    lines: String,
    /// The topic of the counts.
    #[arg(long, global = true, default_value = "words.counts")]
    counts: String,
    /// More properties of the application, name=value.
    #[arg(long = "set", global = true, value_name = "NAME=VALUE")]
    set: Vec<String>,
}

#[derive(Subcommand, Clone)]
enum Command {
    /// Makes the topics and writes the generated lines.
    Gen,
    /// Runs the application until it is told to end (SIGTERM or Ctrl-C).
    Run {
        /// Answer questions that come as lines on the standard input ("get WORD", "lag"), and end when it is closed.
        #[arg(long)]
        answer: bool,
    },
    /// Prints the true table.
    Truth,
    /// Reads the counts to their end and prints the table.
    Dump,
    /// Reads the counts to their end and compares them with the truth.
    Check {
        /// Accept counts above the truth, as at-least-once delivery after a kill may give: the most that the whole table
        /// may be above it.
        #[arg(long, default_value_t = 0)]
        repeats: i64,
    },
}

impl Options {
    fn bootstrap(&self) -> &str {
        self.bootstrap.as_deref().unwrap_or("127.0.0.1:9092")
    }

    fn words(&self) -> data::Words {
        data::Words { repeat: self.repeat, ..data::Words::default() }
    }
}

fn topology(options: &Options) -> Result<Topology> {
    let builder = StreamsBuilder::new();
    builder
        .stream::<String, String>(&options.lines)
        .named("lines")
        .flat_map_values(|line| truth::words(&line).map(str::to_owned).collect::<Vec<_>>())
        .named("words")
        .group_by("by-word", |_, word| word.clone())
        .count(Materialized::named("counts").processor("count"))
        .to_stream()
        .named("updates")
        .to(&options.counts);
    builder.build()
}

/// The application; making it touches no broker, so that what is wrong with the options is said before topics are made.
fn app(options: &Options) -> Result<App> {
    if options.app_id.is_empty() {
        return Err(Error::new(ErrorKind::Config, "--app-id is empty: name the application"));
    }
    if options.lines == options.counts {
        let text = format!("--lines and --counts are both {}: name two topics", options.lines);
        return Err(Error::new(ErrorKind::Config, text));
    }
    let mut config = Config::builder(&options.app_id, options.bootstrap())
        .workers(options.workers)
        .cache_bytes(options.cache)
        // Gone with the machine's temporary files: fit for an example, and for nothing that should last.
        .state_dir(std::env::temp_dir().join("mainstem-word-count"));
    for property in &options.set {
        let (name, value) = property.split_once('=').unwrap_or((property, ""));
        config = config.set(name, value);
    }
    App::new(topology(options)?, config.build()?)
}

/// Resolves when the process is told to end.
async fn told_to_end() {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .expect("a process may listen to SIGTERM");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

async fn make_topics(cluster: &Cluster, options: &Options) -> Result<()> {
    let admin = Admin::new(cluster);
    // The generated lines carry old timestamps, which the default retention would delete.
    let lines = NewTopic::new(&options.lines, options.partitions).config("retention.ms", "-1");
    let counts = NewTopic::new(&options.counts, options.partitions).config("cleanup.policy", "compact");
    for made in admin.create_topics(&[lines, counts]).await? {
        if let Err(error) = made
            && !Admin::already_exists(&error)
        {
            return Err(error);
        }
    }
    Ok(())
}

/// Writes the lines of a part of the whole, numbered from 0. Returns how many.
async fn generate(cluster: &Cluster, options: &Options, part: Range<u64>) -> Result<u64> {
    let producer = Producer::new(cluster, ProducerOptions::default())?;
    let started = tokio::time::Instant::now();
    let skipped = usize::try_from(part.start).expect("fewer lines than memory has bytes");
    let mut at = part.start;
    for (timestamp, line) in options.words().iter().skip(skipped) {
        if at >= part.end {
            break;
        }
        // A rate of 0 is as fast as it goes.
        if let Some(due) = ((at - part.start) * 1_000_000).checked_div(options.rate) {
            tokio::time::sleep_until(started + Duration::from_micros(due)).await;
        }
        let partition = i32::try_from(at % options.partitions as u64).expect("a remainder of an i32");
        let record = Record::new(None, line.map(Bytes::from), timestamp);
        producer.send(&options.lines, Some(partition), record).await?;
        at += 1;
    }
    producer.flush().await?;
    Ok(at - part.start)
}

fn true_counts(options: &Options) -> BTreeMap<String, i64> {
    truth::counts(options.words().iter().map(|(_, line)| line))
}

/// The table that the records of the counts' topic add up to, and how many records there are.
async fn table(cluster: &Cluster, options: &Options) -> Result<(BTreeMap<String, i64>, u64)> {
    let mut reader = Reader::new(cluster, ReadOptions::new(&options.counts).until_end()).await?;
    let (mut table, mut updates) = (BTreeMap::new(), 0);
    while let Some(record) = reader.next().await? {
        let key = record.key.as_deref().unwrap_or_default();
        let word = String::from_utf8_lossy(key).into_owned();
        let count = record.value.as_deref().and_then(|v| v.try_into().ok()).map(i64::from_be_bytes);
        match count {
            Some(count) => table.insert(word, count),
            None => table.remove(&word),
        };
        updates += 1;
    }
    Ok((table, updates))
}

/// What is wrong with a table, if anything.
fn compare(table: &BTreeMap<String, i64>, truth: &BTreeMap<String, i64>, repeats: i64) -> Option<String> {
    for (word, count) in truth {
        match table.get(word) {
            Some(found) if found == count || (repeats > 0 && found > count) => {}
            found => return Some(format!("{word:?} should be {count} and is {found:?}")),
        }
    }
    if let Some(word) = table.keys().find(|word| !truth.contains_key(*word)) {
        return Some(format!("{word:?} should not be there"));
    }
    let above = table.values().sum::<i64>() - truth.values().sum::<i64>();
    (above > repeats).then(|| format!("the table is {above} above the truth, more than {repeats}"))
}

async fn check(cluster: &Cluster, options: &Options, repeats: i64) -> Result<()> {
    let truth = true_counts(options);
    let (table, updates) = table(cluster, options).await?;
    if let Some(wrong) = compare(&table, &truth, repeats) {
        return Err(Error::new(ErrorKind::Processing, format!("the counts are wrong: {wrong}")));
    }
    let above = table.values().sum::<i64>() - truth.values().sum::<i64>();
    println!(
        "{} words, {} tokens, {above} counted twice, {updates} updates",
        table.len(),
        truth.values().sum::<i64>()
    );
    Ok(())
}

async fn carry_out(cli: Cli) -> Result<()> {
    let options = cli.options;
    if let Some(Command::Truth) = cli.command {
        print!("{}", truth::dump(&true_counts(&options)));
        return Ok(());
    }
    if let Some(Command::Run { answer }) = cli.command {
        let app = app(&options)?;
        let no_more_questions = answer.then(|| ask::answer(&app.handle())).transpose()?;
        let end = async {
            match no_more_questions {
                Some(over) => tokio::select! { () = told_to_end() => {}, _ = over => {} },
                None => told_to_end().await,
            }
        };
        return app.run().with_graceful_shutdown(end).await;
    }
    if let Some(Command::Gen) | None = cli.command {
        // ORDER: before the broker is asked for anything, and before free names hide an empty id behind a suffix.
        app(&options)?;
    }
    if cli.command.is_none() {
        return demo::demonstrate(options).await;
    }
    let cluster = Cluster::connect(ClientConfig::new(options.bootstrap())).await?;
    match cli.command {
        Some(Command::Gen) => {
            make_topics(&cluster, &options).await?;
            let all = 0..options.words().lines * options.repeat;
            println!("{} lines written", generate(&cluster, &options, all).await?);
            Ok(())
        }
        Some(Command::Dump) => {
            print!("{}", truth::dump(&table(&cluster, &options).await?.0));
            Ok(())
        }
        Some(Command::Check { repeats }) => check(&cluster, &options, repeats).await,
        Some(Command::Truth | Command::Run { .. }) | None => Ok(()),
    }
}

#[tokio::main]
async fn main() -> std::process::ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into()),
        )
        .with_writer(std::io::stderr)
        .init();
    match carry_out(Cli::parse()).await {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:?}");
            std::process::ExitCode::FAILURE
        }
    }
}
