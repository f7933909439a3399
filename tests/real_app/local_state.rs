//! Local state as its users meet it: what is cleaned up and when, what is wrong with a folder and how to mend it, and what
//! `mainstem state` says and does. Whatever happens to the folders, the counts are the truth.

use std::collections::BTreeMap;
use std::future::IntoFuture;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mainstem::clock::{Clock, SystemClock};
use mainstem::config::{ConfigBuilder, ErrorPolicy};
use mainstem::prelude::*;
use mainstem::{App, MetricValue};

use crate::support::{Rig, Running, eventually, failure, rig, start};

fn counting(input: &str, output: &str) -> Topology {
    let builder = StreamsBuilder::new();
    builder.stream::<String, String>(input).group_by_key("by-key").count("counts").to_stream().to(output);
    builder.build().unwrap()
}

/// An application that counts, its folders, and what it should have counted.
struct Counting {
    rig: Rig,
    input: String,
    output: String,
    partitions: i32,
    sent: BTreeMap<String, i64>,
    per_partition: i64,
}

impl Counting {
    async fn new(test: &str, partitions: i32) -> Self {
        let rig = rig(test).await;
        let (input, output) = (rig.topic("in", partitions).await, rig.topic("out", 1).await);
        Self { rig, input, output, partitions, sent: BTreeMap::new(), per_partition: 0 }
    }

    fn app(&self, config: impl FnOnce(ConfigBuilder) -> ConfigBuilder) -> App {
        let config = config(self.rig.config()).build().unwrap();
        App::new(counting(&self.input, &self.output), config).unwrap()
    }

    async fn run(&self) -> Running {
        start(self.app(|config| config)).running().await
    }

    /// Sends as many records to every partition, and waits until they are counted.
    async fn send(&mut self, records: i64) {
        for partition in 0..self.partitions {
            for i in 0..records {
                let key = format!("{partition}-{}", i % 211);
                self.rig.send(&self.input, partition, &key, "v", i).await;
                *self.sent.entry(key).or_default() += 1;
            }
        }
        self.rig.flush().await;
        self.per_partition += records;
        for partition in 0..self.partitions {
            self.rig.wait_committed(&self.input, partition, self.per_partition).await;
        }
    }

    /// The last count of every key is how often it was sent.
    async fn is_right(&self) {
        assert_eq!(self.rig.counts(&self.output).await, self.sent);
    }

    fn home(&self) -> PathBuf {
        self.rig.state_dir.path().join(&self.rig.app_id)
    }

    fn folder(&self) -> PathBuf {
        self.home().join("0/state/fjall")
    }

    /// The tasks whose stores the database of a slot names.
    fn stores(&self, slot: &str) -> Vec<String> {
        let file = self.home().join(slot).join("state/fjall/engine.json");
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let stores = json["stores"].as_array().unwrap().iter();
        let mut tasks: Vec<_> = stores.map(|s| s["task"].as_str().unwrap().to_owned()).collect();
        tasks.sort();
        tasks
    }

    /// `mainstem state`: its exit code, and all that it says.
    fn state(&self, arguments: &[&str]) -> (i32, String) {
        let dir = self.rig.state_dir.path();
        let output = Command::new(env!("CARGO_BIN_EXE_mainstem"))
            .args(["state", arguments[0], "--state-dir"])
            .arg(dir)
            .args(["--application-id", &self.rig.app_id])
            .args(&arguments[1..])
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(said).unwrap())
    }
}

fn wiped(app: &Running) -> Vec<(String, u64)> {
    let metrics = app.handle.metrics().into_iter().filter(|m| m.name == "mainstem_state_wiped_total");
    let reason = |m: &mainstem::Metric| m.label("reason").unwrap().to_owned();
    metrics
        .map(|m| {
            let MetricValue::Counter(count) = m.value else { panic!("{m:?}") };
            (reason(&m), count)
        })
        .collect()
}

/// The error of an application that does not start, which names the folder.
async fn refused(counting: &Counting, says: &[&str]) {
    let (_, text) = failure(counting.app(|config| config)).await;
    for part in says {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

/// A second instance takes tasks; their state goes from the first one after the delay, and no other. When they come back
/// it is read from the changelogs.
#[tokio::test]
async fn the_state_of_a_task_that_has_moved_away_goes_after_a_delay() {
    let mut counting = Counting::new("moved", 4).await;
    let delay = |config: ConfigBuilder| config.set("state.cleanup.delay.ms", "300");
    let first = start(counting.app(delay)).running().await;
    counting.send(300).await;
    assert_eq!(counting.stores("0").len(), 4);
    let second = start(counting.app(delay)).running().await;
    let both = async || {
        let (here, there) = (first.handle.tasks().len(), second.handle.tasks().len());
        here == 2 && there == 2 && counting.stores("0").len() == 2
    };
    eventually("two tasks each, and no state of the others' in the first slot", both).await;
    let own = || -> Vec<String> { first.handle.tasks().iter().map(|t| t.task.to_string()).collect() };
    let mut tasks = own();
    tasks.sort();
    assert_eq!(counting.stores("0"), tasks);
    counting.send(300).await;
    second.stop().await;
    eventually("all tasks are back", async || own().len() == 4).await;
    counting.send(300).await;
    first.stop().await;
    counting.is_right().await;
    assert_eq!(counting.stores("0").len(), 4);
}

/// As before, with the delay that everybody has: nothing goes. Nor does at the start what is younger than the greatest age.
#[tokio::test]
async fn within_the_delay_state_stays_and_outdated_state_goes_at_the_start() {
    let mut counting = Counting::new("stays", 2).await;
    let first = counting.run().await;
    counting.send(100).await;
    let second = counting.run().await;
    eventually("one task each", async || first.handle.tasks().len() == 1 && second.handle.tasks().len() == 1)
        .await;
    counting.send(100).await;
    assert_eq!(counting.stores("0"), ["0_0", "0_1"]);
    second.stop().await;
    first.stop().await;
    let file = counting.folder().join("engine.json");
    // A store that no topology names, and long ago for all.
    let text = std::fs::read_to_string(&file).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["next_id"] = 100.into();
    let stores = json["stores"].as_array_mut().unwrap();
    stores.push(serde_json::json!({ "id": 99, "task": "7_0", "store": "forgotten" }));
    stores.iter_mut().for_each(|store| store["used_ms"] = 1_000.into());
    std::fs::write(&file, json.to_string()).unwrap();
    // The age of the stores of the second slot is not known to the first.
    let app = start(counting.app(|c| c.set("state.cleanup.dir.max.age.ms", "3600000"))).running().await;
    assert_eq!(counting.stores("0"), ["0_0", "0_1", "7_0"], "made anew, and what nobody knows is kept");
    assert_eq!(wiped(&app), [], "outdated is not damaged");
    counting.send(100).await;
    app.stop().await;
    counting.is_right().await;
    let (code, said) = counting.state(&["rm", "--slot", "0", "--task", "7_0", "--yes"]);
    assert!(code == 0 && said.contains("deleted") && said.contains("forgotten"), "{said}");
    assert_eq!(counting.stores("0"), ["0_0", "0_1"]);
}

#[tokio::test]
async fn a_folder_that_is_not_right_is_named_with_its_remedy() {
    let mut counting = Counting::new("wrong", 1).await;
    let folder = counting.folder();
    let path = folder.to_string_lossy().into_owned();
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("holiday.jpg"), "").unwrap();
    refused(&counting, &[&path, "holiday.jpg", "set another state.dir"]).await;
    std::fs::remove_dir_all(folder.parent().unwrap()).unwrap();
    // Where a folder should be is a file.
    std::fs::write(folder.parent().unwrap(), "").unwrap();
    refused(&counting, &[&path, "state.dir"]).await;
    std::fs::remove_file(folder.parent().unwrap()).unwrap();
    let app = counting.run().await;
    counting.send(100).await;
    app.stop().await;
    let file = folder.join("engine.json");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("\"version\": 2", "\"version\": 9")).unwrap();
    refused(&counting, &[&path, "a newer release wrote it", "delete the folder"]).await;
    std::fs::write(&file, text).unwrap();
    // Somebody else has it open.
    let other = fjall::Database::builder(folder.join("data")).open().unwrap();
    refused(&counting, &[&path, "another process", "set another state.dir"]).await;
    drop(other);
    let app = counting.run().await;
    counting.send(100).await;
    assert_eq!(wiped(&app), [], "no try has harmed it");
    app.stop().await;
    counting.is_right().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_state_dir_that_is_read_only_is_named() {
    let counting = Counting::new("read-only", 1).await;
    let (error, text) = failure(counting.app(|config| config.state_dir("/proc/mainstem"))).await;
    assert_eq!(error.kind(), ErrorKind::Config, "{text}");
    assert!(text.contains("state.dir=/proc/mainstem") && text.contains("may write"), "{text}");
}

/// When the stores of the first slot were last used, as far as the disk knows.
fn used(counting: &Counting) -> Vec<Option<i64>> {
    let text = std::fs::read(counting.folder().join("engine.json")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    json["stores"].as_array().unwrap().iter().map(|store| store["used_ms"].as_i64()).collect()
}

/// An application that never runs for long has state that is in use all the same.
#[tokio::test]
async fn what_was_in_use_until_now_is_not_outdated() {
    let mut counting = Counting::new("used", 1).await;
    let began = SystemClock.wall_ms();
    let app = counting.run().await;
    counting.send(50).await;
    let noted = used(&counting);
    assert!(noted.iter().all(|used| used.is_some_and(|used| used >= began)), "at the start: {noted:?}");
    let ends = SystemClock.wall_ms();
    app.stop().await;
    let noted = used(&counting);
    assert!(noted.iter().all(|used| used.is_some_and(|used| used >= ends)), "at the end: {noted:?}");
    counting.is_right().await;
}

/// Counts twice: once into a store without a changelog, `alone`.
async fn unlogged(counting: &Counting, config: impl FnOnce(ConfigBuilder) -> ConfigBuilder) -> Running {
    let builder = StreamsBuilder::new();
    let stream = builder.stream::<String, String>(&counting.input);
    stream.group_by_key("by-key").count("counts").to_stream().to(&counting.output);
    stream.group_by_key("again").count(Materialized::named("alone").logging_disabled());
    let config = config(counting.rig.config()).build().unwrap();
    start(App::new(builder.build().unwrap(), config).unwrap()).running().await
}

#[tokio::test]
async fn what_nothing_else_has_stays_when_its_task_moves() {
    let mut counting = Counting::new("stays-here", 2).await;
    let delay = |config: ConfigBuilder| config.set("state.cleanup.delay.ms", "300");
    let first = unlogged(&counting, delay).await;
    counting.send(50).await;
    assert_eq!(counting.stores("0").len(), 4);
    let second = unlogged(&counting, delay).await;
    eventually("the other one goes", async || counting.stores("0").len() < 4).await;
    // Whatever goes in the same look is gone when there was another look.
    let noted = used(&counting).into_iter().max();
    eventually("another look", async || used(&counting).into_iter().max() > noted).await;
    assert_eq!(counting.stores("0").len(), 3);
    second.stop().await;
    first.stop().await;
}

/// Damage to a row of it ends the application each time, until somebody says that it may go.
#[tokio::test]
async fn what_nothing_else_has_is_not_deleted_over_a_damaged_row() {
    let counting = Counting::new("alone", 1).await;
    let key = |i: usize| format!("{i:0>6}-{}", i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let app = async |counting: &Counting| {
        let builder = StreamsBuilder::new();
        let stream = builder.stream::<String, String>(&counting.input).group_by_key("by-key");
        stream.count(Materialized::<String, i64>::named("alone").logging_disabled());
        let config = counting.rig.config().build().unwrap();
        start(App::new(builder.build().unwrap(), config).unwrap()).running().await
    };
    let send = async |counting: &Counting| {
        for i in 0..4_000 {
            counting.rig.send(&counting.input, 0, &key(i), "v", 0).await;
        }
        counting.rig.flush().await;
    };
    let running = app(&counting).await;
    send(&counting).await;
    counting.rig.wait_committed(&counting.input, 0, 4_000).await;
    running.stop().await;
    let tables = files(&counting.folder()).into_iter().filter(|p| p.parent().unwrap().ends_with("tables"));
    let path = tables.max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let quarter = bytes.len() / 4;
    bytes.iter_mut().skip(quarter).take(64).for_each(|byte| *byte ^= 0x5a);
    std::fs::write(&path, bytes).unwrap();
    for life in 0..2 {
        let running = app(&counting).await;
        if life == 0 {
            send(&counting).await;
        }
        let error = format!("{:?}", running.ended().await.expect_err("a row is damaged"));
        assert!(error.contains("damaged"), "{error}");
        assert_eq!(counting.stores("0"), ["0_0"]);
        assert!(path.exists(), "its files are there");
    }
    let (code, said) = counting.state(&["verify"]);
    assert!(code == 1 && said.contains("nothing else has its rows"), "{said}");
    let (code, said) = counting.state(&["rm", "--store", "alone", "--yes"]);
    assert_eq!(code, 0, "{said}");
    let running = app(&counting).await;
    counting.rig.wait_committed(&counting.input, 0, 8_000).await;
    running.stop().await;
}

/// A store goes on without its changelog, and with it again: what it did in between is not in there, and nobody believes
/// that it is.
#[tokio::test]
async fn a_checkpoint_does_not_outlive_its_changelog() {
    let mut counting = Counting::new("switched", 1).await;
    let app = counting.run().await;
    counting.send(50).await;
    app.stop().await;
    let builder = StreamsBuilder::new();
    let stream = builder.stream::<String, String>(&counting.input).group_by_key("by-key");
    stream.count(Materialized::named("counts").logging_disabled()).to_stream().to(&counting.output);
    let without = App::new(builder.build().unwrap(), counting.rig.config().build().unwrap()).unwrap();
    let app = start(without).running().await;
    counting.send(50).await;
    app.stop().await;
    counting.is_right().await;
    let app = counting.run().await;
    assert_eq!(wiped(&app).len(), 1, "restored from the changelog, which has less");
    app.stop().await;
}

/// Of a store without a changelog there is nothing else: damage does not delete it, and whoever is about to is told.
#[tokio::test]
async fn what_nothing_else_has_is_moved_aside() {
    let mut counting = Counting::new("unlogged", 1).await;
    let start = async |counting: &Counting| unlogged(counting, |config| config).await;
    let app = start(&counting).await;
    counting.send(400).await;
    app.stop().await;
    let broker = counting.rig.broker.clone();
    let (code, said) = counting.state(&["verify", "--bootstrap", &broker]);
    assert!(code == 0 && said.contains("alone: 211 rows, no changelog") && said.contains("keep: "), "{said}");
    let (code, said) = counting.state(&["rm", "--store", "alone"]);
    assert!(code == 0 && said.contains("nothing else has its rows"), "{said}");
    let (code, said) = counting.state(&["ls"]);
    assert!(code == 0 && said.contains("no changelog") && !said.contains("moved aside"), "{said}");
    // The database cannot be told apart any more.
    damage(&counting.folder(), |path| path.ends_with("engine.json"));
    let app = start(&counting).await;
    counting.send(400).await;
    assert_eq!(wiped(&app), [("damaged".to_owned(), 1)]);
    app.stop().await;
    counting.is_right().await;
    let (code, said) = counting.state(&["ls"]);
    assert!(code == 0 && said.contains("moved aside") && said.contains("fjall.damaged-"), "{said}");
    let folders = std::fs::read_dir(counting.home().join("0/state")).unwrap();
    let kept = folders.map(|entry| entry.unwrap().path()).find(|path| *path != counting.folder()).unwrap();
    assert!(kept.join("data").exists() && kept.join("engine.json").exists());
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Changes bytes in the middle of the files that a rule chooses.
fn damage(folder: &Path, which: impl Fn(&Path) -> bool) {
    let mut count = 0;
    for path in files(folder).into_iter().filter(|path| which(path)) {
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        if middle == 0 {
            continue;
        }
        bytes.iter_mut().skip(middle.saturating_sub(64)).take(128).for_each(|byte| *byte ^= 0x5a);
        std::fs::write(&path, bytes).unwrap();
        count += 1;
    }
    assert!(count > 0, "nothing to damage in {}", folder.display());
}

/// Whichever file is damaged, the application counts on, and if it could not use what is there it says so.
async fn damaged(test: &str, which: impl Fn(&Path) -> bool) {
    let mut counting = Counting::new(test, 1).await;
    let app = counting.run().await;
    counting.send(400).await;
    app.stop().await;
    let (code, said) = counting.state(&["verify"]);
    assert!(code == 0 && said.contains("211 rows") && said.contains("1 stores sound, 0 damaged"), "{said}");
    damage(&counting.folder(), which);
    let (code, said) = counting.state(&["verify"]);
    let remedy = said.contains("DAMAGED") && said.contains(&*counting.folder().to_string_lossy());
    assert!(code == 1 && remedy, "{said}");
    let app = counting.run().await;
    counting.send(400).await;
    let wiped = wiped(&app);
    assert_eq!(wiped, [("damaged".to_owned(), 1)]);
    app.stop().await;
    counting.is_right().await;
    let (code, said) = counting.state(&["verify"]);
    assert_eq!(code, 0, "{said}");
}

#[tokio::test]
async fn a_damaged_catalog_is_a_reason_to_begin_anew() {
    damaged("catalog", |path| path.ends_with("engine.json")).await;
}

#[tokio::test]
async fn damaged_tables_are_a_reason_to_begin_anew() {
    damaged("tables", |path| path.parent().is_some_and(|parent| parent.ends_with("tables"))).await;
}

/// Damage that is met only when a row is read: the store is deleted and restored while the application runs, whatever the
/// policy for records that fail.
#[tokio::test]
async fn a_damaged_row_has_its_store_restored_while_the_application_runs() {
    let mut counting = Counting::new("row", 1).await;
    let key = |i: usize| format!("{i:0>6}-{}", i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let send = async |counting: &mut Counting| {
        for i in 0..4_000 {
            counting.rig.send(&counting.input, 0, &key(i), "v", 0).await;
            *counting.sent.entry(key(i)).or_default() += 1;
        }
        counting.rig.flush().await;
        counting.per_partition += 4_000;
    };
    let app = counting.run().await;
    send(&mut counting).await;
    counting.rig.wait_committed(&counting.input, 0, 4_000).await;
    app.stop().await;
    // The others are fjall's own.
    let size = |path: &PathBuf| std::fs::metadata(path).unwrap().len();
    let tables = files(&counting.folder()).into_iter().filter(|p| p.parent().unwrap().ends_with("tables"));
    let path = tables.max_by_key(size).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let quarter = bytes.len() / 4;
    bytes.iter_mut().skip(quarter).take(64).for_each(|byte| *byte ^= 0x5a);
    std::fs::write(&path, bytes).unwrap();
    let (code, said) = counting.state(&["verify"]);
    assert!(code == 1 && said.contains("store counts of task 0_0"), "{said}");
    let app = start(counting.app(|config| config.processing_errors(ErrorPolicy::Continue))).running().await;
    send(&mut counting).await;
    counting.rig.wait_committed(&counting.input, 0, counting.per_partition).await;
    assert_eq!(wiped(&app), [("damaged".to_owned(), 1)]);
    assert_eq!(app.handle.records_dropped(), []);
    app.stop().await;
    let (code, said) = counting.state(&["verify"]);
    assert_eq!(code, 0, "{said}");
    // At least once: what was not committed when it ended is counted again, and nothing less than once.
    let counts = counting.rig.counts(&counting.output).await;
    assert_eq!(counts.len(), counting.sent.len());
    assert!(counts.values().all(|count| (2..=3).contains(count)));
}

/// fjall's merging met damage and stopped everything, without a word of where: the next start looks.
#[tokio::test]
async fn what_stopped_the_engine_is_found_and_restored() {
    let mut counting = Counting::new("stopped", 1).await;
    let app = counting.run().await;
    counting.send(400).await;
    app.stop().await;
    let tables = files(&counting.folder()).into_iter().filter(|p| p.parent().unwrap().ends_with("tables"));
    let path = tables.max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let quarter = bytes.len() / 4;
    bytes.iter_mut().skip(quarter).take(64).for_each(|byte| *byte ^= 0x5a);
    std::fs::write(&path, bytes).unwrap();
    std::fs::write(counting.folder().join("suspect"), "").unwrap();
    let app = counting.run().await;
    counting.send(400).await;
    assert_eq!(wiped(&app), [("damaged".to_owned(), 1)]);
    app.stop().await;
    counting.is_right().await;
    assert!(!counting.folder().join("suspect").exists());
}

/// No file gets larger than 8 MiB (4 MiB under some shells) in a process that is started so: an engine takes that for a full disk.
#[cfg(unix)]
const SMALL_FILES: &str = "trap '' XFSZ; ulimit -f 8192; exec \"$0\" \"$@\"";

/// Set for the process whose files stay small.
const FULL: &str = "MAINSTEM_TEST_FULL_DISK";

/// The disk is full at the start (fjall makes its journal), or while a store is handed over at the end (sled).
#[cfg(unix)]
#[tokio::test]
async fn a_full_disk_is_named_and_nothing_is_lost() {
    if let Ok(child) = std::env::var(FULL) {
        let [broker, app_id, input, output, state_dir, engine] = child.split(' ').collect::<Vec<_>>()[..]
        else {
            panic!("{child}")
        };
        let _ = tracing_subscriber::fmt().with_env_filter("mainstem=warn").with_test_writer().try_init();
        let config = mainstem::Config::builder(app_id, broker)
            .state_dir(state_dir)
            .set("state.engine", engine)
            .set("commit.interval.ms", "100");
        let app = start(App::new(counting(input, output), config.build().unwrap()).unwrap());
        let (handle, mut line) = (app.handle.clone(), String::new());
        let told = std::thread::spawn(move || {
            let _ = std::io::stdin().read_line(&mut line);
            handle.stop();
        });
        println!("\nit ended: {:?}", app.task.await.unwrap());
        drop(told);
        return;
    }
    for engine in ["fjall", "sled"] {
        let mut counting = Counting::new("full", 1).await;
        let Counting { rig, input, output, .. } = &counting;
        let dir = rig.state_dir.path().display();
        let told = format!("{} {} {input} {output} {dir} {engine}", rig.broker, rig.app_id);
        let mut child = Command::new("sh")
            .args(["-c", SMALL_FILES])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "local_state::a_full_disk_is_named_and_nothing_is_lost", "--nocapture"])
            .env(FULL, told)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Closed, it tells the application to stop.
        let mut stdin = child.stdin.take();
        let records = if engine == "sled" { 3_000 } else { 0 };
        for i in 0..records {
            // Different from their first bytes on, or sled stores little of them.
            let key = format!("{:0<4000}", 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(i + 1));
            counting.rig.send(&counting.input, 0, &key, "v", 0).await;
            *counting.sent.entry(key).or_default() += 1;
        }
        counting.rig.flush().await;
        counting.per_partition = records as i64;
        if records > 0 {
            counting.rig.wait_committed(&counting.input, 0, records as i64).await;
            drop(stdin.take());
        }
        let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
        drop(stdin);
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        let folder = counting.home().join("0/state").join(engine);
        assert!(said.contains("it ended") && said.contains("the disk is full"), "{engine}: {said}");
        assert!(said.contains(&*folder.to_string_lossy()), "{engine}: {said}");
        let app = start(counting.app(|config| config.set("state.engine", engine))).running().await;
        counting.send(50).await;
        app.stop().await;
        counting.is_right().await;
    }
}

#[tokio::test]
async fn the_command_line_shows_and_deletes_what_nobody_holds() {
    let mut counting = Counting::new("cli", 2).await;
    let app = counting.run().await;
    counting.send(50).await;
    let (code, said) = counting.state(&["ls"]);
    assert!(
        code == 0 && said.contains("slot 0: held by a running instance") && said.contains("0_1"),
        "{said}"
    );
    let (code, said) = counting.state(&["rm", "--yes"]);
    assert!(code == 1 && said.contains("a running instance of") && said.contains("stop that"), "{said}");
    let (code, said) = counting.state(&["verify"]);
    assert!(code == 0 && said.contains("skipped"), "{said}");
    app.stop().await;
    let (code, said) = counting.state(&["ls"]);
    let changelog = format!("{}-counts-changelog-1", counting.rig.app_id);
    assert!(code == 0 && said.contains("slot 0: free") && said.contains(&changelog), "{said}");
    assert!(said.contains(" 50 "), "the checkpoint: {said}");
    let broker = counting.rig.broker.clone();
    let (code, said) = counting.state(&["verify", "--bootstrap", &broker]);
    assert_eq!((code, said.matches("resume at offset 50").count()), (0, 2), "{said}");
    // Without --yes nothing goes.
    let (code, said) = counting.state(&["rm", "--task", "0_1"]);
    assert!(code == 0 && said.contains("would delete") && said.contains("--yes"), "{said}");
    assert_eq!(counting.stores("0"), ["0_0", "0_1"]);
    let (code, said) = counting.state(&["rm", "--task", "0_1", "--yes"]);
    assert!(code == 0 && said.contains("store counts of task 0_1"), "{said}");
    assert_eq!(counting.stores("0"), ["0_0"]);
    let dir = counting.home();
    let of_the_application = std::process::Command::new(env!("CARGO_BIN_EXE_mainstem"))
        .args(["state", "ls", "--state-dir"])
        .arg(&dir)
        .output()
        .unwrap();
    let said = String::from_utf8(of_the_application.stderr).unwrap();
    assert!(!of_the_application.status.success() && said.contains("one folder an application.id"), "{said}");
    let (code, said) = counting.state(&["rm", "--store", "none", "--yes"]);
    assert!(code == 1 && said.contains("mainstem state ls"), "{said}");
    let app = counting.run().await;
    counting.send(50).await;
    app.stop().await;
    let (code, said) = counting.state(&["rm", "--yes"]);
    assert!(code == 0 && !counting.home().join("0").exists(), "{said}");
    let app = counting.run().await;
    counting.send(50).await;
    app.stop().await;
    counting.is_right().await;
}

/// Set for the process that is killed.
const CHILD: &str = "MAINSTEM_TEST_LOCAL_STATE";

/// One application after another on one slot: stopped, dropped, killed. The slot is free each time.
#[tokio::test]
async fn a_slot_is_free_however_its_instance_ended() {
    if let Ok(child) = std::env::var(CHILD) {
        let [broker, app_id, input, output, state_dir] = child.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{child}")
        };
        let config = mainstem::Config::builder(app_id, broker)
            .state_dir(state_dir)
            .cache_bytes(0)
            .set("commit.interval.ms", "100")
            .set("session.timeout.ms", "6000")
            .set("heartbeat.interval.ms", "1000");
        let app = start(App::new(counting(input, output), config.build().unwrap()).unwrap()).running().await;
        println!("\nit runs");
        return app.ended().await.unwrap();
    }
    let mut counting = Counting::new("slots", 1).await;
    let app = counting.run().await;
    counting.send(50).await;
    app.stop().await;
    // Dropped: the next one waits for it to have ended.
    let app = counting.app(|config| config);
    let handle = app.handle();
    {
        let mut run = std::pin::pin!(app.run().into_future());
        let running = handle.wait_for(mainstem::AppState::Running);
        tokio::select! {
            ended = &mut run => panic!("{ended:?}"),
            running = running => assert!(running),
        }
    }
    handle.stopped().await;
    let app = counting.run().await;
    counting.send(50).await;
    app.stop().await;
    // Killed.
    let Counting { rig, input, output, .. } = &counting;
    let told = format!("{} {} {input} {output} {}", rig.broker, rig.app_id, rig.state_dir.path().display());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "local_state::a_slot_is_free_however_its_instance_ended", "--nocapture"])
        .env(CHILD, told)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = std::io::BufReader::new(child.stdout.take().unwrap());
    let runs = tokio::task::spawn_blocking(|| {
        said.lines().map_while(|line| line.ok()).any(|line| line == "it runs")
    });
    assert!(runs.await.unwrap());
    counting.send(50).await;
    child.kill().unwrap();
    child.wait().unwrap();
    let app = counting.run().await;
    counting.send(50).await;
    assert_eq!(wiped(&app), [], "what the kill left is sound");
    app.stop().await;
    counting.is_right().await;
    assert!(!counting.home().join("1").exists(), "each had the first slot");
}
