//! What an engine costs under a store: counts keys behind recent rows and runs that a second thread hands over. Each
//! engine, shape and number of keys is a process of its own, so that its peak of memory is its own.

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measuring program prints and reads clocks"
)]

#[path = "bench_streams/meter.rs"]
#[allow(dead_code, reason = "the other program uses the rest")]
mod meter;

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use mainstem::BoxError;
use mainstem::testing::BenchStore;
use meter::{cpu_seconds, status_kb};

#[derive(Clone, Copy, ValueEnum, Debug, PartialEq)]
#[value(rename_all = "lowercase")]
enum Shape {
    /// Every key is as frequent as any other.
    Uniform,
    /// The n-th key is as frequent as 1/n.
    Zipf,
    /// A window, and a key in it: all keys, then the next window.
    Window,
}

#[derive(Parser)]
struct Cli {
    /// fjall, sled or memory; without it, all of them, with all shapes.
    #[arg(long)]
    engine: Option<String>,
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
    #[arg(long, value_enum, default_value_t = Shape::Uniform)]
    shape: Shape,
    #[arg(long, default_value_t = 10_000_000)]
    operations: u64,
    /// Changed rows that make a run.
    #[arg(long, default_value_t = 400_000)]
    run: usize,
    /// Rows that are kept beside what is open.
    #[arg(long, default_value_t = 400_000)]
    recent: usize,
    /// The engine's cache, in MB.
    #[arg(long, default_value_t = 32)]
    cache: u64,
    /// Where the state is; a temporary folder otherwise.
    #[arg(long)]
    folder: Option<PathBuf>,
}

/// Numbers without an order (splitmix64).
fn scrambled(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// The key of the n-th operation: 16 bytes.
fn key(shape: Shape, n: u64, keys: u64) -> [u8; 16] {
    let random = scrambled(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let (group, of_group) = match shape {
        Shape::Uniform => (0, random % keys),
        Shape::Zipf => {
            let part = (random >> 11) as f64 / (1u64 << 53) as f64;
            (0, ((keys as f64).powf(part) as u64).min(keys) - 1)
        }
        // Ten operations a key and window; a twentieth of the keys at a time, so that as many rows come as with the others.
        Shape::Window => (n / (keys / 2).max(1), random % (keys / 20).max(1)),
    };
    let mut key = [0; 16];
    key[..8].copy_from_slice(&scrambled(of_group).to_be_bytes());
    key[8..].copy_from_slice(&(1_700_000_000_000 + group * 10_000).to_be_bytes());
    key
}

fn measure(cli: &Cli, engine: &str) -> Result<(), BoxError> {
    let temporary = tempfile::tempdir()?;
    let folder = cli.folder.clone().unwrap_or_else(|| temporary.path().to_owned());
    let mut store = BenchStore::open(engine, &folder, cli.cache << 20, cli.run, cli.recent)?;
    let (since, cpu) = (Instant::now(), cpu_seconds());
    let mut total = 0;
    for n in 0..cli.operations {
        total += i64::from(store.count(&key(cli.shape, n, cli.keys), n as i64)? == 1);
    }
    let running = since.elapsed().as_secs_f64();
    let figures = store.close()?;
    let (cpu, operations) = (cpu_seconds() - cpu, cli.operations as f64);
    println!(
        "{engine:6} {:7} {:>9} keys: {:>9.0} op/s, {:5.2} us CPU an op, peak {:4} MB, {} rows, {} hand-overs, {} waits, {:.1} % of \
         ops read the engine",
        format!("{:?}", cli.shape).to_lowercase(),
        cli.keys,
        operations / running,
        cpu * 1e6 / operations,
        status_kb("VmHWM") >> 10,
        total,
        figures.hand_overs,
        figures.waits,
        figures.engine_reads as f64 * 100.0 / operations,
    );
    Ok(())
}

fn main() -> Result<(), BoxError> {
    let cli = Cli::parse();
    if let Some(engine) = &cli.engine {
        return measure(&cli, engine);
    }
    let mut runs = 0;
    for engine in ["fjall", "sled", "memory"] {
        for shape in ["uniform", "zipf", "window"] {
            let mut measured = Command::new(std::env::current_exe()?);
            measured.args(["--engine", engine, "--shape", shape]);
            for (name, value) in [
                ("--keys", cli.keys),
                ("--operations", cli.operations),
                ("--run", cli.run as u64),
                ("--recent", cli.recent as u64),
                ("--cache", cli.cache),
            ] {
                measured.args([name, &value.to_string()]);
            }
            if !measured.status()?.success() {
                return Err(format!("{engine}, {shape}: failed").into());
            }
            runs += 1;
        }
    }
    println!("{runs} measured");
    Ok(())
}
