//! The whole of it in one command: a broker, two instances, questions to them, one of them killed, and the proof.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use mainstem::client::{Admin, ClientConfig, Cluster};
use mainstem::embedded::EmbeddedKafka;
use mainstem::prelude::*;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::time::{Instant, sleep, timeout};

use super::{Options, compare, generate, make_topics, table, true_counts, truth};

/// How long anything may take that makes no progress.
const PATIENCE: Duration = Duration::from_secs(90);
const PAUSE: Duration = Duration::from_millis(200);

/// An instance of the application, a process of its own. It dies with this one.
struct Instance {
    name: &'static str,
    process: Child,
    questions: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

fn failed(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Processing, text.into())
}

impl Instance {
    fn start(name: &'static str, options: &Options) -> Result<Self> {
        let broken = |what: &str| Error::new(ErrorKind::Io, format!("{what} of instance {name}"));
        let program = std::env::current_exe().map_err(|e| broken("no program").because(e))?;
        let mut command = tokio::process::Command::new(program);
        command.args(["run", "--answer", "--bootstrap", options.bootstrap(), "--app-id", &options.app_id]);
        command.args(["--lines", &options.lines, "--counts", &options.counts]);
        command.args(["--workers", &options.workers.to_string(), "--cache", &options.cache.to_string()]);
        // So that one that dies is missed soon.
        command.args(["--set", "session.timeout.ms=6000", "--set", "heartbeat.interval.ms=1000"]);
        options.set.iter().for_each(|property| _ = command.args(["--set", property]));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().map_err(|e| broken("no process").because(e))?;
        let questions = process.stdin.take().ok_or_else(|| broken("no standard input"))?;
        let answers = process.stdout.take().ok_or_else(|| broken("no standard output"))?;
        Ok(Self { name, process, questions, answers: BufReader::new(answers).lines() })
    }

    async fn ask(&mut self, question: &str) -> Result<String> {
        let asking = async {
            self.questions.write_all(format!("{question}\n").as_bytes()).await?;
            self.answers.next_line().await
        };
        match timeout(PATIENCE, asking).await {
            Ok(Ok(Some(answer))) => Ok(answer),
            Ok(Ok(None)) => Err(failed(format!("instance {} has ended; it has said why above", self.name))),
            Ok(Err(error)) => {
                Err(failed(format!("instance {} does not listen; it has said why above", self.name))
                    .because(error))
            }
            Err(_) => Err(failed(format!("instance {} does not answer", self.name))),
        }
    }

    /// How many tasks it runs, and how many records of their inputs are not committed.
    async fn lag(&mut self) -> Result<(i64, i64)> {
        let answer = self.ask("lag").await?;
        let parsed =
            answer.split_once(' ').and_then(|(tasks, lag)| Some((tasks.parse().ok()?, lag.parse().ok()?)));
        parsed.ok_or_else(|| failed(format!("instance {} answers {answer:?}", self.name)))
    }

    /// Ends it in good order: it commits, closes its tasks and leaves the group.
    async fn stop(mut self) -> Result<()> {
        drop(self.questions);
        match timeout(PATIENCE, self.process.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            ended => Err(failed(format!("instance {} did not end well: {ended:?}", self.name))),
        }
    }
}

/// Waits until the instances run all tasks between them, each at least one, and have committed all that they have read.
async fn settled(instances: &mut [Instance], tasks: i64) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        let mut all = Vec::new();
        for instance in &mut *instances {
            all.push(instance.lag().await?);
        }
        let running: i64 = all.iter().map(|(tasks, _)| tasks).sum();
        if running == tasks && all.iter().all(|(tasks, lag)| *tasks > 0 && *lag == 0) {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(failed(format!(
                "{running} of {tasks} tasks run; tasks and lag of each instance: {all:?}"
            )));
        }
        sleep(PAUSE).await;
    }
}

/// Words and their counts, the most frequent first.
fn frequent(counts: &BTreeMap<String, i64>) -> Vec<(&String, &i64)> {
    let mut words: Vec<(&String, &i64)> = counts.iter().collect();
    words.sort_by_key(|(word, count)| (std::cmp::Reverse(**count), (*word).clone()));
    words
}

/// Asks the instances for the most frequent word while they count: nobody may have more of it than there are.
async fn query_meanwhile(instances: &mut [Instance], truth: &BTreeMap<String, i64>) -> Result<()> {
    let Some((word, count)) = frequent(truth).first().copied() else { return Ok(()) };
    for instance in instances {
        let said = instance.ask(&format!("get {word}")).await?;
        // It may be with the other one, or on its way.
        let Some(found) = said.strip_prefix("count ") else { continue };
        if found.parse::<i64>().is_ok_and(|found| found > *count) {
            return Err(failed(format!("instance {} says {word}: {found} of {count}", instance.name)));
        }
        println!("  get {word:?}: {found} so far, says instance {}", instance.name);
    }
    Ok(())
}

/// Asks the instances for words until one answers each, and compares with the truth.
async fn query(instances: &mut [Instance], truth: &BTreeMap<String, i64>) -> Result<()> {
    for (word, count) in frequent(truth).into_iter().take(3) {
        let until = Instant::now() + PATIENCE;
        'asking: loop {
            let mut said = String::new();
            for instance in &mut *instances {
                said = instance.ask(&format!("get {word}")).await?;
                if let Some(found) = said.strip_prefix("count ") {
                    if *found != count.to_string() {
                        return Err(failed(format!(
                            "instance {} says {word}: {found}, not {count}",
                            instance.name
                        )));
                    }
                    println!("  get {word:?}: {found}, says instance {}", instance.name);
                    break 'asking;
                }
            }
            if Instant::now() > until {
                return Err(failed(format!("no instance has {word:?}; the last said {said:?}")));
            }
            sleep(PAUSE).await;
        }
    }
    Ok(())
}

/// Waits until everything is counted, and asks the instances meanwhile.
async fn counted(
    cluster: &Cluster,
    options: &Options,
    instances: &mut [Instance],
    truth: &BTreeMap<String, i64>,
) -> Result<()> {
    let tokens: i64 = truth.values().sum();
    let (mut before, mut until) = (-1, Instant::now() + PATIENCE);
    loop {
        let (table, updates) = table(cluster, options).await?;
        let counted: i64 = table.values().sum();
        if counted != before {
            println!("  {counted} of {tokens} tokens counted, {updates} updates");
            (before, until) = (counted, Instant::now() + PATIENCE);
        }
        if counted >= tokens {
            return Ok(());
        }
        query_meanwhile(instances, truth).await?;
        if Instant::now() > until {
            return Err(failed(format!("the counts have stood still at {counted} for {PATIENCE:?}")));
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// Topics of an earlier run are left alone: the first free suffix makes new ones.
async fn free_names(cluster: &Cluster, options: &mut Options) -> Result<()> {
    let taken: Vec<String> =
        Admin::new(cluster).list_topics().await?.into_iter().map(|topic| topic.name.to_string()).collect();
    let (lines, counts, app_id) = (options.lines.clone(), options.counts.clone(), options.app_id.clone());
    let mut run = 1;
    while taken.contains(&options.lines) || taken.contains(&options.counts) {
        run += 1;
        (options.lines, options.counts) = (format!("{lines}-{run}"), format!("{counts}-{run}"));
        options.app_id = format!("{app_id}-{run}");
    }
    Ok(())
}

pub(crate) async fn demonstrate(mut options: Options) -> Result<()> {
    let embedded = match options.bootstrap {
        Some(_) => None,
        None => Some(EmbeddedKafka::start()?),
    };
    if let Some(kafka) = &embedded {
        println!("a broker in this process, in memory: {}", kafka.bootstrap());
        options.bootstrap = Some(kafka.bootstrap().to_owned());
    }
    let cluster = Cluster::connect(ClientConfig::new(options.bootstrap())).await?;
    free_names(&cluster, &mut options).await?;
    make_topics(&cluster, &options).await?;
    println!("application {}: {} -> {}, two instances", options.app_id, options.lines, options.counts);
    let mut instances = vec![Instance::start("one", &options)?, Instance::start("two", &options)?];
    // Each partition is a task of the part that splits lines, and one of the part that counts.
    let tasks = 2 * i64::from(options.partitions);
    settled(&mut instances, tasks).await?;
    for instance in &mut instances {
        let (its, _) = instance.lag().await?;
        println!("  instance {} runs {its} of {tasks} tasks", instance.name);
    }

    let all = options.words().lines * options.repeat;
    let half = truth::counts(options.words().iter().take((all / 2) as usize).map(|(_, line)| line));
    println!("{} lines written", generate(&cluster, &options, 0..all / 2).await?);
    counted(&cluster, &options, &mut instances, &half).await?;
    query(&mut instances, &half).await?;

    // At least once: what a killed instance had done and not committed is done again, and counts twice. So it is killed
    // when all is committed.
    settled(&mut instances, tasks).await?;
    let mut killed = instances.remove(0);
    killed.process.kill().await.map_err(|e| failed("cannot kill instance one").because(e))?;
    println!("instance one is killed (SIGKILL); two takes over when the group misses it, in 6 s");
    println!("{} lines written meanwhile", generate(&cluster, &options, all / 2..all).await?);
    let truth = true_counts(&options);
    counted(&cluster, &options, &mut instances, &truth).await?;
    query(&mut instances, &truth).await?;
    for instance in instances {
        instance.stop().await?;
    }

    let (table, updates) = table(&cluster, &options).await?;
    if let Some(wrong) = compare(&table, &truth, 0) {
        return Err(failed(format!("the counts are wrong: {wrong}")));
    }
    for (word, count) in frequent(&table).into_iter().take(10) {
        println!("{count:>8}  {word}");
    }
    let tokens: i64 = truth.values().sum();
    println!("the table equals the truth: {} words, {tokens} tokens, {updates} updates", table.len());
    Ok(())
}
