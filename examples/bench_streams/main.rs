//! Our side of `bench/compare`, `bench/latency` and `bench/partitions`: JSON lines with what a piece of work took. The
//! `--help` of those has the contract. `probe` is the measuring end of `bench/latency`, for both sides.

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measuring program prints and reads clocks"
)]

mod embedded;
mod meter;
mod probe;
mod restore;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use clap::{Args, Parser, Subcommand, ValueEnum};
use mainstem::client::{ClientConfig, Cluster, Producer, ProducerOptions, ReadOptions, Reader};
use mainstem::prelude::*;
use mainstem::{App, AppHandle, AppState, Config};
use meter::{Meter, status_kb};
use tokio::io::AsyncBufReadExt;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Work {
    FilterMap,
    Count,
    Wordcount,
}

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    FilterMap(Measured),
    Count(Measured),
    /// The words of a line go through a repartition topic.
    Wordcount(Measured),
    /// The bare loop: fetch and produce, nothing between.
    Copy(Measured),
    /// Runs until stdin ends; a JSON line when it is running, and one for each line of stdin.
    Serve {
        work: Work,
        #[command(flatten)]
        at: Place,
        #[command(flatten)]
        settings: Settings,
    },
    /// Writes records at a rate, and measures when they come out at the other end.
    Probe(probe::Options),
    /// Writes to the embedded broker and reads from it, in this process.
    Embedded(embedded::Options),
    /// Brings the store of `count` back from its changelog.
    Restore(restore::Options),
}

#[derive(Args)]
struct Place {
    #[arg(long)]
    bootstrap: String,
    #[arg(long = "in")]
    input: String,
    #[arg(long = "out")]
    output: String,
}

#[derive(Args)]
struct Settings {
    #[arg(long, default_value_t = 10_485_760)]
    cache: usize,
    #[arg(long, default_value_t = 1000)]
    commit: u64,
    #[arg(long, default_value_t = 1)]
    threads: usize,
    #[arg(long, default_value = "at_least_once")]
    guarantee: String,
    /// What keeps the rows of the stores: fjall, sled or memory.
    #[arg(long, default_value = "fjall")]
    engine: String,
    /// linger.ms of the application's producers, instead of its default.
    #[arg(long)]
    linger: Option<u64>,
    /// memory.max.bytes of the application, which then bounds the record cache too.
    #[arg(long, conflicts_with = "cache")]
    memory: Option<u64>,
}

#[derive(Args)]
struct Measured {
    #[command(flatten)]
    at: Place,
    #[command(flatten)]
    settings: Settings,
    #[arg(long)]
    records: u64,
    #[arg(long, default_value_t = 0)]
    warmup: u64,
    /// The first `warmup` records are this topic's, processed by an application of their own before the clock starts.
    #[arg(long, requires = "warm_out")]
    warm_in: Option<String>,
    #[arg(long)]
    warm_out: Option<String>,
    #[arg(long, default_value_t = 1e9)]
    max_seconds: f64,
}

/// The words of a line.
const WORDS: u64 = 14;

impl Work {
    /// How many records are processed for one of the input.
    fn per_record(self) -> u64 {
        if self == Self::Wordcount { 1 + WORDS } else { 1 }
    }

    fn topology(self, at: &Place) -> Result<Topology> {
        match self {
            Self::FilterMap => filter_map(at),
            Self::Count => count(at),
            Self::Wordcount => wordcount(at),
        }
    }
}

/// Keeps values whose first byte is even, and adds one to the last byte.
fn filter_map(at: &Place) -> Result<Topology> {
    let builder = StreamsBuilder::new();
    builder
        .stream::<Bytes, Bytes>(&at.input)
        .filter(|_, value| value.first().is_some_and(|byte| byte & 1 == 0))
        .map_values(|value| {
            let mut changed = BytesMut::from(value);
            if let Some(last) = changed.last_mut() {
                *last = last.wrapping_add(1);
            }
            changed.freeze()
        })
        .to(&at.output);
    builder.build()
}

fn count(at: &Place) -> Result<Topology> {
    let builder = StreamsBuilder::new();
    builder
        .stream::<Bytes, Bytes>(&at.input)
        .group_by_key("by-key")
        .count("counts")
        .to_stream()
        .to(&at.output);
    builder.build()
}

fn wordcount(at: &Place) -> Result<Topology> {
    let builder = StreamsBuilder::new();
    builder
        .stream::<Bytes, String>(&at.input)
        .flat_map_values(|line| line.split(' ').map(str::to_owned).collect::<Vec<_>>())
        .group_by("words", |_, word| word.clone())
        .count("counts")
        .to_stream()
        .to(&at.output);
    builder.build()
}

fn app(work: Work, at: &Place, settings: &Settings, name: &str) -> Result<App> {
    let mut config =
        Config::builder(&format!("bench-{name}-{}-{}", std::process::id(), at.output), &at.bootstrap)
            .state_dir(std::env::temp_dir().join("mainstem-bench"))
            .workers(settings.threads)
            .commit_interval(Duration::from_millis(settings.commit))
            .set("processing.guarantee", &settings.guarantee);
    config = match settings.engine.as_str() {
        "memory" => config.set("default.dsl.store", "in_memory"),
        on_disk => config.set("state.engine", on_disk),
    };
    config = match settings.memory {
        Some(bytes) => config.set("memory.max.bytes", bytes.to_string()),
        None => config.cache_bytes(settings.cache),
    };
    if let Some(linger) = settings.linger {
        config = config.set("producer.linger.ms", linger.to_string());
    }
    App::new(work.topology(at)?, config.build()?)
}

async fn measure(work: Work, run: Measured) -> Result<()> {
    let per_record = work.per_record();
    let warmup = run.warmup * per_record;
    let meter = match (&run.warm_in, &run.warm_out) {
        (Some(input), Some(output)) => {
            let bootstrap = run.at.bootstrap.clone();
            let at = Place { bootstrap, input: input.clone(), output: output.clone() };
            let app = app(work, &at, &run.settings, "warm")?;
            process(app, warmup, Meter::new(0), f64::INFINITY).await?;
            Meter::new(0)
        }
        _ => Meter::new(warmup),
    };
    let app = app(work, &run.at, &run.settings, "run")?;
    let figures = process(app, run.records * per_record, meter, run.max_seconds).await?;
    figures.print(per_record);
    Ok(())
}

/// Runs an application until it has processed so many records, or for so long.
async fn process(app: App, records: u64, mut meter: Meter, max_seconds: f64) -> Result<meter::Figures> {
    let handle = app.handle();
    let running = tokio::spawn(app.run().into_future());
    let mut out_of_time = false;
    while handle.records_processed() < records && !out_of_time {
        if handle.state() == AppState::Error {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        out_of_time = meter.look(handle.records_processed()) > max_seconds;
    }
    let processed = handle.records_processed();
    let cut = meter.taken(processed, false);
    handle.stop();
    running.await.expect("the application does not panic")?;
    // The flush and the last commit are part of complete work.
    Ok(if processed >= records { meter.taken(processed, true) } else { cut })
}

async fn serve(work: Work, at: Place, settings: Settings) -> Result<()> {
    let began = std::time::Instant::now();
    let app = app(work, &at, &settings, "serve")?;
    let handle = app.handle();
    let mut running = tokio::spawn(app.run().into_future());
    tokio::select! {
        ended = &mut running => return ended.expect("the application does not panic"),
        _ = handle.wait_for(AppState::Running) => {}
    }
    let look = |handle: &AppHandle| {
        println!(
            "{{\"seconds\":{:.3},\"cpu_seconds\":{:.3},\"rss_kb\":{},\"peak_rss_kb\":{},\"processed\":{}}}",
            began.elapsed().as_secs_f64(),
            meter::cpu_seconds(),
            status_kb("VmRSS"),
            status_kb("VmHWM"),
            handle.records_processed()
        );
    };
    look(&handle);
    let mut lines = tokio::io::BufReader::new(tokio::io::stdin()).lines();
    loop {
        tokio::select! {
            ended = &mut running => return ended.expect("the application does not panic"),
            line = lines.next_line() => match line {
                Ok(Some(_)) => look(&handle),
                Ok(None) | Err(_) => break,
            },
        }
    }
    handle.stop();
    running.await.expect("the application does not panic")
}

async fn copy(run: Measured) -> Result<()> {
    let cluster = Cluster::connect(ClientConfig::new(&run.at.bootstrap)).await?;
    let producer = Producer::new(&cluster, ProducerOptions::default())?;
    let mut reader = Reader::new(&cluster, ReadOptions::new(&run.at.input)).await?;
    let mut meter = Meter::new(run.warmup);
    let mut processed = 0;
    while processed < run.records {
        let Some(record) = reader.next().await? else { break };
        let copied = Record::new(record.key, record.value, record.timestamp).with_headers(record.headers);
        producer.send(&run.at.output, Some(record.partition), copied).await?;
        processed += 1;
        if processed % 10_000 == 0 && meter.look(processed) > run.max_seconds {
            break;
        }
    }
    producer.flush().await?;
    meter.taken(processed, processed >= run.records).print(1);
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::WARN).init();
    match Cli::parse().command {
        Command::FilterMap(run) => measure(Work::FilterMap, run).await,
        Command::Count(run) => measure(Work::Count, run).await,
        Command::Wordcount(run) => measure(Work::Wordcount, run).await,
        Command::Copy(run) => copy(run).await,
        Command::Serve { work, at, settings } => serve(work, at, settings).await,
        Command::Probe(options) => probe::run(options).await,
        Command::Embedded(options) => embedded::run(options).await,
        Command::Restore(options) => restore::run(options).await,
    }
}
