//! What it takes to bring a store back: from the start of the first restore to the end of the last, as a listener hears it.
//! With `--stay` it goes on after that, until it is killed: the next one with its `--state-dir` shows what a restart takes.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use mainstem::client::{Admin, ClientConfig, Cluster, NewTopic, Producer, ProducerOptions};
use mainstem::prelude::*;
use mainstem::{App, AppState, Config, RestoreListener, RestoringStore};
use tokio::io::AsyncBufReadExt;

use super::meter::{cpu_seconds, status_kb};
use super::{Place, count};

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    at: Place,
    /// Whose changelog it is: `<id>-counts-changelog`.
    #[arg(long)]
    application_id: String,
    /// Makes the topics first, with so many records in the changelog, and does nothing else.
    #[arg(long)]
    fill: Option<u64>,
    /// The keys of these records, 20 bytes each.
    #[arg(long, default_value_t = 2_000_000)]
    keys: u64,
    #[arg(long, default_value_t = 4)]
    partitions: i32,
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// What keeps the rows of the store: fjall, sled or memory.
    #[arg(long, default_value = "fjall")]
    engine: String,
    #[arg(long, default_value = "at_least_once")]
    guarantee: String,
    /// Where the state is, and stays; else it is in a temporary place, and goes.
    #[arg(long)]
    state_dir: Option<PathBuf>,
    /// The `group.instance.id`: who comes back under it need not wait until its killed self is missed.
    #[arg(long)]
    instance: Option<String>,
    /// Runs on until stdin ends, with a JSON line for each line of it.
    #[arg(long)]
    stay: bool,
}

/// A moment, and what had been spent by then.
struct Moment(Instant, f64);

impl Moment {
    fn now() -> Self {
        Self(Instant::now(), cpu_seconds())
    }
}

enum Heard {
    Start(Moment),
    End(Moment, u64),
}

struct Listener(Mutex<Sender<Heard>>);

impl Listener {
    fn say(&self, heard: Heard) {
        let _ = self.0.lock().expect("nobody panics with it").send(heard);
    }
}

impl RestoreListener for Listener {
    fn on_restore_start(&self, _: &RestoringStore, _: i64, _: i64) {
        self.say(Heard::Start(Moment::now()));
    }

    fn on_restore_end(&self, _: &RestoringStore, records: u64) {
        self.say(Heard::End(Moment::now(), records));
    }
}

async fn fill(options: &Options, records: u64) -> Result<()> {
    let cluster = Cluster::connect(ClientConfig::new(&options.at.bootstrap)).await?;
    let admin = Admin::new(&cluster);
    let changelog = format!("{}-counts-changelog", options.application_id);
    let compacted = NewTopic::new(&changelog, options.partitions)
        .config("cleanup.policy", "compact")
        .config("min.cleanable.dirty.ratio", "0.99");
    admin.create_topic(compacted).await?;
    for topic in [&options.at.input, &options.at.output] {
        admin.create_topic(NewTopic::new(topic, options.partitions)).await?;
    }
    let producer = Producer::new(&cluster, ProducerOptions::default())?;
    for n in 0..records {
        // An order in which neighbours are far apart.
        let key = n.wrapping_mul(1_000_003) % options.keys;
        let partition =
            i32::try_from(key % u64::from(options.partitions.unsigned_abs())).expect("a remainder of an i32");
        let value = Bytes::copy_from_slice(&n.to_be_bytes());
        let row = Record::new(Bytes::from(format!("key-{key:016}")), value, 1_700_000_000_000);
        producer.send(&changelog, Some(partition), row).await?;
    }
    producer.flush().await
}

pub(crate) async fn run(options: Options) -> Result<()> {
    if let Some(records) = options.fill {
        return fill(&options, records).await;
    }
    let (began, own) = (Instant::now(), options.state_dir.is_none());
    let temporary = || std::env::temp_dir().join(format!("mainstem-bench-restore-{}", std::process::id()));
    let state_dir = options.state_dir.clone().unwrap_or_else(temporary);
    let config = Config::builder(&options.application_id, &options.at.bootstrap)
        .state_dir(&state_dir)
        .workers(options.threads)
        .set("processing.guarantee", &options.guarantee);
    let config = match options.engine.as_str() {
        "memory" => config.set("default.dsl.store", "in_memory"),
        on_disk => config.set("state.engine", on_disk),
    };
    let config = options.instance.iter().fold(config, |config, id| config.set("group.instance.id", id));
    let (say, heard) = channel();
    let app = App::builder(count(&options.at)?, config.build()?)
        .restore_listener(Listener(Mutex::new(say)))
        .build()?;
    let handle = app.handle();
    let running = tokio::spawn(app.run().into_future());
    let is_up = handle.wait_for(AppState::Running);
    tokio::time::timeout(Duration::from_secs(600), is_up).await.expect("it is up in ten minutes");
    let up = began.elapsed().as_secs_f64();
    if options.stay {
        println!("{{\"up_seconds\":{up:.3}}}");
        let mut lines = tokio::io::BufReader::new(tokio::io::stdin()).lines();
        while let Ok(Some(_)) = lines.next_line().await {
            println!("{{\"processed\":{}}}", handle.records_processed());
        }
    }
    handle.stop();
    running.await.expect("the application does not panic")?;
    let (mut start, mut end, mut records) = (None::<Moment>, None::<Moment>, 0);
    for heard in heard.try_iter() {
        match heard {
            Heard::Start(at) => start = start.or(Some(at)),
            Heard::End(at, count) => (end, records) = (Some(at), records + count),
        }
    }
    let (Some(start), Some(end)) = (start, end) else { panic!("nothing was restored") };
    let seconds = end.0.duration_since(start.0).as_secs_f64();
    println!(
        "{{\"impl\":\"mainstem {}\",\"records\":{records},\"seconds\":{seconds:.3},\"records_a_second\":{:.0},\
         \"cpu_seconds\":{:.3},\"peak_rss_kb\":{},\"up_seconds\":{up:.3}}}",
        env!("CARGO_PKG_VERSION"),
        records as f64 / seconds,
        end.1 - start.1,
        status_kb("VmHWM"),
    );
    if own {
        let _ = std::fs::remove_dir_all(state_dir);
    }
    Ok(())
}
