//! Our side of `bench/compare`: one JSON line with what a piece of work took. `bench/compare --help` has the contract.

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measuring program prints and reads clocks"
)]

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use clap::{Parser, ValueEnum};
use mainstem::client::{ClientConfig, Cluster, Producer, ProducerOptions, ReadOptions, Reader};
use mainstem::prelude::*;
use mainstem::{App, AppState, Config};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Work {
    FilterMap,
    Count,
    /// The bare loop: fetch and produce, nothing between.
    Copy,
}

#[derive(Parser)]
struct Cli {
    work: Work,
    #[arg(long)]
    bootstrap: String,
    #[arg(long = "in")]
    input: String,
    #[arg(long = "out")]
    output: String,
    #[arg(long)]
    records: u64,
    #[arg(long, default_value_t = 0)]
    warmup: u64,
    #[arg(long, default_value_t = 1e9)]
    max_seconds: f64,
    #[arg(long, default_value_t = 10_485_760)]
    cache: usize,
    #[arg(long, default_value_t = 1000)]
    commit: u64,
    #[arg(long, default_value_t = 1)]
    threads: usize,
    #[arg(long, default_value = "at_least_once")]
    guarantee: String,
}

/// Keeps values whose first byte is even, and adds one to the last byte.
fn filter_map(cli: &Cli) -> Result<Topology> {
    let builder = StreamsBuilder::new();
    builder
        .stream::<Bytes, Bytes>(&cli.input)
        .filter(|_, value| value.first().is_some_and(|byte| byte & 1 == 0))
        .map_values(|value| {
            let mut changed = BytesMut::from(value);
            if let Some(last) = changed.last_mut() {
                *last = last.wrapping_add(1);
            }
            changed.freeze()
        })
        .to(&cli.output);
    builder.build()
}

fn count(cli: &Cli) -> Result<Topology> {
    let builder = StreamsBuilder::new();
    builder
        .stream::<Bytes, Bytes>(&cli.input)
        .group_by_key("by-key")
        .count("counts")
        .to_stream()
        .to(&cli.output);
    builder.build()
}

/// CPU seconds of the process so far.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 =
        after_name.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
    ticks as f64 / 100.0
}

fn peak_rss_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or_default();
    line.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0)
}

struct Meter {
    began: Instant,
    cpu: f64,
    records: u64,
    warm: bool,
}

impl Meter {
    fn new(warmup: u64) -> Self {
        Self { began: Instant::now(), cpu: cpu_seconds(), records: 0, warm: warmup == 0 }
    }

    /// Begins to count when the warm-up is over. Says whether the time is up.
    fn look(&mut self, cli: &Cli, processed: u64) -> bool {
        if !self.warm && processed >= cli.warmup {
            *self = Self { records: processed, warm: true, ..Self::new(0) };
        }
        self.warm && self.began.elapsed().as_secs_f64() > cli.max_seconds
    }

    fn report(&self, processed: u64, complete: bool, ended: (f64, f64)) {
        println!(
            "{{\"impl\":\"mainstem {}\",\"records\":{},\"seconds\":{:.3},\"cpu_seconds\":{:.3},\"peak_rss_kb\":{},\
             \"processed\":{processed},\"complete\":{complete}}}",
            env!("CARGO_PKG_VERSION"),
            processed - self.records,
            ended.0,
            ended.1,
            peak_rss_kb()
        );
    }

    fn taken(&self) -> (f64, f64) {
        (self.began.elapsed().as_secs_f64(), cpu_seconds() - self.cpu)
    }
}

async fn streams(cli: Cli) -> Result<()> {
    let config = Config::builder(&format!("bench-{}", std::process::id()), &cli.bootstrap)
        .workers(cli.threads)
        .cache_bytes(cli.cache)
        .commit_interval(Duration::from_millis(cli.commit))
        .state_dir(std::env::temp_dir().join("mainstem-bench"))
        .set("processing.guarantee", &cli.guarantee)
        .build()?;
    let topology = if cli.work == Work::Count { count(&cli)? } else { filter_map(&cli)? };
    let app = App::new(topology, config)?;
    let handle = app.handle();
    let running = tokio::spawn(app.run().into_future());
    let mut meter = Meter::new(cli.warmup);
    let mut out_of_time = false;
    while handle.records_processed() < cli.records && !out_of_time {
        if handle.state() == AppState::Error {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        out_of_time = meter.look(&cli, handle.records_processed());
    }
    let processed = handle.records_processed();
    let cut = meter.taken();
    handle.stop();
    running.await.expect("the application does not panic")?;
    let complete = processed >= cli.records;
    // The flush and the last commit are part of complete work.
    meter.report(processed, complete, if complete { meter.taken() } else { cut });
    Ok(())
}

async fn copy(cli: Cli) -> Result<()> {
    let cluster = Cluster::connect(ClientConfig::new(&cli.bootstrap)).await?;
    let producer = Producer::new(&cluster, ProducerOptions::default())?;
    let mut reader = Reader::new(&cluster, ReadOptions::new(&cli.input)).await?;
    let mut meter = Meter::new(cli.warmup);
    let mut processed = 0;
    while processed < cli.records {
        let Some(record) = reader.next().await? else { break };
        let copied = Record::new(record.key, record.value, record.timestamp).with_headers(record.headers);
        producer.send(&cli.output, Some(record.partition), copied).await?;
        processed += 1;
        if processed % 10_000 == 0 && meter.look(&cli, processed) {
            break;
        }
    }
    producer.flush().await?;
    meter.report(processed, processed >= cli.records, meter.taken());
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::WARN).init();
    let cli = Cli::parse();
    if cli.work == Work::Copy { copy(cli).await } else { streams(cli).await }
}
