//! A process of this very test that runs a topology until it is killed, ends itself at a place, or is told to stop.

use std::fs::File;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use mainstem::config::{ConfigBuilder, ProcessingGuarantee};
use mainstem::{App, RestoreListener, RestoringStore};

use crate::support::{Rig, eventually, start};
use crate::topologies;

const LIFE: &str = "MAINSTEM_KILLS_LIFE";

/// More settings of a process: `name=value`, with spaces between them.
pub const SETTINGS: &str = "MAINSTEM_KILLS_SETTINGS";

/// A restore that has ended: store, partition, where it began, where it was to end, and the records that it took.
pub type Restored = (String, i32, i64, i64, u64);

/// Hears of restores.
#[derive(Default, Clone)]
pub struct Restores(Arc<Mutex<Began>>, Arc<Mutex<Vec<Restored>>>, bool);

type Began = Vec<(RestoringStore, i64, i64)>;

impl Restores {
    pub fn ended(&self) -> Vec<Restored> {
        self.1.lock().unwrap().clone()
    }
}

impl RestoreListener for Restores {
    fn on_restore_start(&self, store: &RestoringStore, from: i64, to: i64) {
        self.0.lock().unwrap().push((store.clone(), from, to));
    }

    fn on_restore_end(&self, store: &RestoringStore, records: u64) {
        let began = self.0.lock().unwrap();
        let (_, from, to) = began.iter().rev().find(|(s, ..)| s == store).expect("it has begun");
        let partition = store.changelog.partition;
        if self.2 {
            println!("\nrestored {} {partition} {from} {to} {records}", store.store);
        }
        self.1.lock().unwrap().push((store.store.clone(), partition, *from, *to, records));
    }
}

/// What a life is to be.
#[derive(Clone)]
pub struct Plan {
    pub topology: &'static str,
    pub input: String,
    /// `fjall`, `sled`, or `memory`.
    pub engine: &'static str,
    pub instance: Option<&'static str>,
    /// Where it writes to, exactly once; `None` for a topology without an output.
    pub output: Option<String>,
}

impl Plan {
    /// The folder of the instance.
    pub fn slot(&self, rig: &Rig) -> PathBuf {
        let home = rig.state_dir.path().join(&rig.app_id);
        home.join(self.instance.map_or("0".to_owned(), |id| format!("instance-{id}")))
    }

    pub fn config(&self, broker: &str, app_id: &str, state_dir: &Path) -> ConfigBuilder {
        let config = mainstem::Config::builder(app_id, broker)
            .workers(2)
            .state_dir(state_dir)
            .cache_bytes(1 << 20)
            .set("commit.interval.ms", "30")
            .set("poll.ms", "10")
            .set("session.timeout.ms", "6000")
            .set("heartbeat.interval.ms", "500");
        // A static member need not wait until the session of its killed self is over.
        let config = match self.instance {
            Some(id) => config.set("group.instance.id", id),
            None => config,
        };
        // An application that writes to a topic does so exactly once.
        let config = match self.output {
            Some(_) => config.processing_guarantee(ProcessingGuarantee::ExactlyOnceV2),
            None => config,
        };
        match self.engine {
            "memory" => config.set("default.dsl.store", "in_memory"),
            engine => config.set("state.engine", engine),
        }
    }

    pub fn app(&self, config: ConfigBuilder, restores: Restores) -> App {
        let topology = match self.topology {
            "four" => topologies::four(&self.input),
            "unlogged" => topologies::unlogged(&self.input),
            "many" => topologies::many(&self.input),
            "counted" => topologies::counted(&self.input, self.output.as_deref().expect("it has an output")),
            "stages" => topologies::stages(&self.input, self.output.as_deref().expect("it has an output")),
            _ => topologies::last(&self.input),
        };
        App::builder(topology, config.build().unwrap()).restore_listener(restores).build().unwrap()
    }

    /// The same in the process of the test.
    pub fn here(&self, rig: &Rig, restores: &Restores) -> App {
        self.app(self.config(&rig.broker, &rig.app_id, rig.state_dir.path()), restores.clone())
    }

    /// Starts a process. `environment` says where it ends itself.
    pub fn start(&self, rig: &Rig, environment: &[(&str, &str)]) -> Life {
        let Self { topology, input, engine, instance, output } = self;
        let (broker, app_id, state_dir) = (&rig.broker, &rig.app_id, rig.state_dir.path().display());
        let (instance, output) = (instance.unwrap_or("-"), output.as_deref().unwrap_or("-"));
        let plan = format!("{broker} {app_id} {state_dir} {topology} {input} {engine} {instance} {output}");
        let said = tempfile::NamedTempFile::new().unwrap();
        let out = |file: &tempfile::NamedTempFile| Stdio::from(file.reopen().unwrap());
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "life::a_life", "--nocapture"])
            .env(LIFE, plan)
            .env("RUST_BACKTRACE", "0")
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(out(&said))
            .stderr(out(&said))
            .spawn()
            .unwrap();
        Life { child, said }
    }
}

/// What the process does. As a test of its own it does nothing.
#[tokio::test]
async fn a_life() {
    let Ok(plan) = std::env::var(LIFE) else { return };
    let [broker, app_id, state_dir, topology, input, engine, instance, output] =
        plan.split(' ').collect::<Vec<_>>()[..]
    else {
        panic!("{plan}")
    };
    let known = |text: &str| -> &'static str { text.to_owned().leak() };
    let plan = Plan {
        topology: known(topology),
        input: input.to_owned(),
        engine: known(engine),
        instance: Some(known(instance)).filter(|id| *id != "-"),
        output: Some(output.to_owned()).filter(|output| output != "-"),
    };
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_ansi(false)
        .try_init();
    let restores = Restores(Arc::default(), Arc::default(), true);
    let settings = std::env::var(SETTINGS).unwrap_or_default();
    let config = plan.config(broker, app_id, Path::new(state_dir));
    let config = config.properties(settings.split_whitespace().filter_map(|setting| setting.split_once('=')));
    let app = plan.app(config, restores);
    let handle = app.handle();
    let ending = handle.clone();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read(&mut [0]);
        ending.stop();
    });
    let app = start(app);
    app.ended().await.unwrap();
}

/// A process. SIGKILL if the test ends before it.
pub struct Life {
    child: Child,
    said: tempfile::NamedTempFile,
}

impl Life {
    pub fn said(&self) -> String {
        let mut text = String::new();
        File::open(self.said.path()).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    pub fn restored(&self) -> Vec<Restored> {
        let said = self.said();
        let lines = said.lines().filter_map(|line| line.strip_prefix("restored "));
        let words = lines.map(|line| line.split(' ').collect::<Vec<_>>());
        let whole = words.filter(|words| words.len() == 5);
        whole
            .map(|w| {
                let number = |at: usize| w[at].parse::<i64>().unwrap();
                (w[0].to_owned(), number(1) as i32, number(2), number(3), number(4) as u64)
            })
            .collect()
    }

    fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Sends a signal, such as `-STOP`.
    pub fn signal(&self, name: &str) {
        let told = Command::new("kill").args([name, &self.id().to_string()]).status().unwrap();
        assert!(told.success());
    }

    pub fn kill(&mut self) {
        assert!(self.is_alive(), "it has ended by itself: {}", self.said());
        self.child.kill().unwrap();
        assert_eq!(self.child.wait().unwrap().signal(), Some(9));
    }

    /// Waits until it ends itself at its place.
    pub async fn aborts(&mut self) {
        eventually("the process comes to its place", async || !self.is_alive()).await;
        let status = self.child.wait().unwrap();
        assert_eq!(status.signal(), Some(6), "{status:?}: {}", self.said());
    }

    /// Waits until it ends by itself with an error, which is what it said.
    pub async fn fails(mut self) -> String {
        eventually("the process ends", async || !self.is_alive()).await;
        assert!(!self.child.wait().unwrap().success(), "{}", self.said());
        self.said()
    }

    /// Lets it stop in good order.
    pub async fn stop(mut self) {
        drop(self.child.stdin.take());
        eventually("the process ends", async || !self.is_alive()).await;
        assert!(self.child.wait().unwrap().success(), "{}", self.said());
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        if let Ok(dir) = std::env::var("MAINSTEM_KILLS_SAID") {
            let _ = std::fs::copy(self.said.path(), Path::new(&dir).join(format!("life-{}", self.id())));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
