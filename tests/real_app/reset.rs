//! `mainstem reset`: where an application begins again, what goes, what stays, and what is refused.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};

use bytes::Bytes;
use mainstem::client::{Isolation, NewTopic, OffsetSpec, Producer, ProducerOptions};
use mainstem::clock::{Clock, SystemClock};
use mainstem::config::ConfigBuilder;
use mainstem::prelude::*;
use mainstem::{App, CloseOptions};

use crate::common::with_java;
use crate::support::{Rig, Running, eventually, rig, rig_at, start};

/// Runs `mainstem reset` for an application: its exit code, and all that it says.
async fn reset_of(rig: &Rig, id: &str, arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mainstem"));
    command.args(["reset", "--bootstrap-server", &rig.broker, "--application-id", id]).args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(said).unwrap())
}

async fn reset(rig: &Rig, arguments: &[&str]) -> (i32, String) {
    reset_of(rig, &rig.app_id, arguments).await
}

fn state_dir(rig: &Rig) -> String {
    rig.state_dir.path().to_str().unwrap().to_owned()
}

/// Counts words through a repartition topic, and counts once more into a store without a changelog.
fn counting(input: &str, output: &str) -> Topology {
    let builder = StreamsBuilder::new();
    let words = builder.stream::<String, String>(input).group_by("by-word", |_, word| word.clone());
    words.count("counts").to_stream().to(output);
    let again = builder.stream::<String, String>(input).group_by_key("again");
    again.count(Materialized::named("alone").logging_disabled());
    builder.build().unwrap()
}

async fn run(rig: &Rig, names: (&str, &str), set: impl FnOnce(ConfigBuilder) -> ConfigBuilder) -> Running {
    let config = set(rig.config().set("processing.guarantee", "exactly_once_v2")).build().unwrap();
    start(App::new(counting(names.0, names.1), config).unwrap()).running().await
}

async fn send(rig: &Rig, topic: &str, partitions: i32, each: i64) {
    for partition in 0..partitions {
        for i in 0..each {
            rig.send(topic, partition, "k", &format!("word-{}", i % 7), 1_000 * i).await;
        }
    }
    rig.flush().await;
}

async fn topics_of(rig: &Rig) -> Vec<String> {
    let topics = rig.admin().list_topics().await.unwrap();
    let prefix = format!("{}-", rig.app_id);
    topics.into_iter().map(|topic| topic.name.to_string()).filter(|name| name.starts_with(&prefix)).collect()
}

/// The committed counts of each word, in their order.
async fn lives(rig: &Rig, output: &str) -> BTreeMap<String, Vec<i64>> {
    let mut lives: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for record in rig.read_committed(output).await {
        let word = String::from_utf8(record.key.unwrap().to_vec()).unwrap();
        let count = i64::from_be_bytes(record.value.as_deref().unwrap().try_into().unwrap());
        lives.entry(word).or_default().push(count);
    }
    lives
}

/// The second life counts from one again, once each: state, offsets and topics are of nobody before it.
#[tokio::test]
async fn after_a_reset_everything_is_counted_from_the_beginning_exactly_once() {
    let rig = rig("reset").await;
    let (input, output) = (rig.topic("in", 2).await, rig.topic("out", 1).await);
    send(&rig, &input, 2, 70).await;
    let app = run(&rig, (&input, &output), |config| config).await;
    eventually("all is counted", async || {
        lives(&rig, &output).await.values().map(Vec::len).sum::<usize>() == 140
    })
    .await;
    app.stop().await;
    assert_eq!(topics_of(&rig).await.len(), 2, "a changelog and a repartition topic");
    let slot = rig.state_dir.path().join(&rig.app_id).join("0");
    assert!(slot.exists());
    let repartition = format!("{}-by-word-repartition", rig.app_id);
    let of_repartition =
        async || (rig.committed(&repartition, 0).await, rig.committed(&repartition, 1).await);
    assert_ne!(of_repartition().await, (None, None));

    let dir = state_dir(&rig);
    let wanted = ["--input-topics", &input, "--state-dir", &dir];
    let (code, said) = reset(&rig, &[&wanted[..], &["--dry-run"]].concat()).await;
    for part in [
        format!("would set the offset of {input}-0: 70 -> 0"),
        format!("would set the offset of {input}-1: 70 -> 0"),
        format!("would delete the topic {repartition}"),
        format!("would delete the topic {}-counts-changelog", rig.app_id),
        format!("would delete the slot 0, {}", slot.display()),
        format!("would fence the transactional id {}-", rig.app_id),
        format!("would delete the committed offset of {repartition}-"),
        "nothing was changed".to_owned(),
    ] {
        assert!(code == 0 && said.contains(&part), "{part:?} is not in: {said}");
    }
    assert_eq!((rig.committed(&input, 0).await.unwrap().0, topics_of(&rig).await.len()), (70, 2));
    assert!(slot.exists());

    for again in [false, true] {
        let (code, said) = reset(&rig, &wanted).await;
        assert!(code == 0 && said.contains("is reset"), "{said}");
        assert_eq!(said.contains("deleted topic"), !again, "{said}");
        let forgotten = format!("deleted the committed offset of {repartition}-");
        assert_eq!(said.matches(&forgotten).count(), if again { 0 } else { 2 }, "{said}");
        assert_eq!(said.contains("no local state is deleted"), again, "{said}");
        assert_eq!(
            (rig.committed(&input, 0).await.unwrap().0, rig.committed(&input, 1).await.unwrap().0),
            (0, 0)
        );
        assert_eq!(of_repartition().await, (None, None));
        assert_eq!(topics_of(&rig).await, Vec::<String>::new());
        assert!(!slot.exists());
    }
    let app = run(&rig, (&input, &output), |config| config).await;
    eventually("all is counted again", async || {
        lives(&rig, &output).await.values().map(Vec::len).sum::<usize>() >= 280
    })
    .await;
    let alone = app.handle.key_value_store::<String, i64>("alone").unwrap();
    eventually("the store without a changelog has counted anew", async || {
        alone.get(&"k".to_owned()).is_ok_and(|count| count == Some(70))
    })
    .await;
    app.stop().await;
    for (word, counts) in lives(&rig, &output).await {
        let twice: Vec<i64> = (1..=20).chain(1..=20).collect();
        assert_eq!(counts, twice, "{word}");
    }
}

/// Every way to say where to, in a group that nobody is in: what is committed afterwards, and what the dry run had said.
#[tokio::test]
async fn each_option_sets_the_offsets_that_it_says() {
    let rig = rig("targets").await;
    let input = rig.topic("in", 1).await;
    let now = SystemClock.wall_ms();
    // A record a minute, the last of now, and the first ten are gone.
    for i in 0..100 {
        rig.send(&input, 0, "k", "v", now - (99 - i) * 60_000).await;
    }
    rig.flush().await;
    rig.admin().delete_records(&[(TopicPartition::new(&*input, 0), 10)]).await.unwrap().remove(0).unwrap();
    let file = rig.state_dir.path().join("plan.csv");
    std::fs::write(&file, format!("\"{input}\",0,44\n\n")).unwrap();
    let file = file.to_str().unwrap();
    let at = datetime(now - 20 * 60_000);
    for (arguments, wanted, note) in [
        (vec![], 10, ""),
        (vec!["--to-latest"], 100, ""),
        (vec!["--to-earliest"], 10, ""),
        (vec!["--to-offset", "57"], 57, ""),
        (vec!["--shift-by", "-7"], 50, ""),
        (vec!["--shift-by", "3"], 53, ""),
        (vec!["--shift-by=-1000"], 10, "before the log's start"),
        (vec!["--shift-by", "1000"], 100, "past the log's end"),
        (vec!["--to-offset", "3"], 10, "before the log's start"),
        (vec!["--to-offset", "101"], 100, "past the log's end"),
        (vec!["--to-datetime", &at], 79, ""),
        (vec!["--to-datetime", "2099-01-01T00:00:00.000Z"], 100, "no record has such a timestamp"),
        (vec!["--by-duration", "PT30M30S"], 69, ""),
        (vec!["--by-duration", "P1000D"], 10, ""),
        (vec!["--from-file", file], 44, ""),
    ] {
        let before = rig.committed(&input, 0).await.map(|(offset, _)| offset);
        let all = [&["--input-topics", &input][..], &arguments].concat();
        let (code, dry) = reset(&rig, &[&all[..], &["--dry-run"]].concat()).await;
        let from = before.map_or("none".to_owned(), |offset| offset.to_string());
        assert!(code == 0 && dry.contains(&format!("{input}-0: {from} -> {wanted}")), "{arguments:?}: {dry}");
        assert!(dry.contains(note), "{arguments:?}: {dry}");
        assert_eq!(rig.committed(&input, 0).await.map(|(offset, _)| offset), before, "{arguments:?}");
        let (code, said) = reset(&rig, &all).await;
        assert!(code == 0, "{arguments:?}: {said}");
        assert_eq!(rig.committed(&input, 0).await, Some((wanted, String::new())), "{arguments:?}: {said}");
    }
    // A topic that is skipped, beside one that is read anew.
    let skipped = rig.topic("skipped", 2).await;
    send(&rig, &skipped, 2, 5).await;
    let (code, said) =
        reset(&rig, &["--input-topics", &input, "--to-offset", "20", "--intermediate-topics", &skipped])
            .await;
    assert_eq!(code, 0, "{said}");
    let committed = async |topic, partition| rig.committed(topic, partition).await.unwrap().0;
    assert_eq!(
        (committed(&input, 0).await, committed(&skipped, 0).await, committed(&skipped, 1).await),
        (20, 5, 5)
    );
    // The folder of an application of Kafka Streams is left alone (`StateDirectory.PROCESS_FILE_NAME`).
    let home = rig.state_dir.path().join(&rig.app_id);
    std::fs::create_dir_all(home.join("0_0")).unwrap();
    std::fs::write(home.join("kafka-streams-process-metadata"), "{}").unwrap();
    let (code, said) = reset(&rig, &["--state-dir", &state_dir(&rig)]).await;
    assert!(code == 0 && said.contains("of Kafka Streams") && home.join("0_0").exists(), "{said}");
    // What is not named is said.
    let (code, said) = reset(&rig, &["--input-topics", &input, "--dry-run"]).await;
    assert!(
        code == 0 && said.contains(&format!("committed offsets of {skipped} stay as they are")),
        "{said}"
    );
    let (code, said) = reset(&rig, &["--dry-run"]).await;
    assert!(code == 0 && said.contains("no offset is set") && said.contains("local state stays"), "{said}");
}

/// `YYYY-MM-DDTHH:MM:SS.sss` of a time.
fn datetime(ms: i64) -> String {
    format!("{:?}", chrono::DateTime::from_timestamp_millis(ms).unwrap().naive_utc())
}

#[tokio::test]
async fn bad_input_is_named_and_nothing_is_changed() {
    let rig = rig("bad").await;
    let input = rig.topic("in", 2).await;
    send(&rig, &input, 2, 5).await;
    let internal = format!("{}-counts-changelog", rig.app_id);
    rig.admin().create_topic(NewTopic::new(&internal, 1)).await.unwrap();
    let dir = rig.state_dir.path();
    let write = |name: &str, text: &str| {
        std::fs::write(dir.join(name), text).unwrap();
        dir.join(name).to_str().unwrap().to_owned()
    };
    let short = write("short.csv", &format!("{input},0,1\n"));
    let strange = write("strange.csv", &format!("{input},0,1\n{input},1,1\nother,0,1\n"));
    let twice = write("twice.csv", &format!("{input},0,1\n{input},0,2\n"));
    let broken = write("broken.csv", &format!("{input},0,1\n{input};1;1\n"));
    let empty = write("empty.csv", "\n");
    let missing = dir.join("none.csv").to_str().unwrap().to_owned();
    let no_dir = dir.join("nowhere").to_str().unwrap().to_owned();
    let in_input = ["--input-topics", &*input];
    for (arguments, words) in [
        (
            vec!["--input-topics", "no-such,nor-this"],
            vec!["--input-topics", "no-such, nor-this", "nothing was changed"],
        ),
        (vec!["--intermediate-topics", "no-such"], vec!["--intermediate-topics", "no-such"]),
        (vec!["--input-topics", "a,,b"], vec!["empty name"]),
        (vec!["--input-topics", &input, "--intermediate-topics", &input], vec![&*input, "named twice"]),
        (vec!["--internal-topics", &input], vec!["--internal-topics", &input, "no internal topic"]),
        ([&in_input[..], &["--shift-by", "1"]].concat(), vec!["--shift-by", "no committed offset", "-0"]),
        ([&in_input[..], &["--from-file", &short]].concat(), vec!["says nothing of", "-1"]),
        ([&in_input[..], &["--from-file", &strange]].concat(), vec!["other-0", "--input-topics"]),
        ([&in_input[..], &["--from-file", &twice]].concat(), vec!["line 2", "again"]),
        ([&in_input[..], &["--from-file", &broken]].concat(), vec!["line 2", "TOPIC,PARTITION,OFFSET"]),
        ([&in_input[..], &["--from-file", &empty]].concat(), vec!["no line"]),
        ([&in_input[..], &["--from-file", &missing]].concat(), vec!["cannot be read", "none.csv"]),
        ([&in_input[..], &["--state-dir", &no_dir]].concat(), vec!["state.dir", "nowhere"]),
    ] {
        let (code, said) = reset(&rig, &arguments).await;
        assert_eq!(code, 1, "{arguments:?}: {said}");
        for word in words {
            assert!(said.contains(word), "{arguments:?}: {word:?} is not in: {said}");
        }
    }
    for (arguments, word) in [
        (vec!["--to-latest"], "--input-topics"),
        ([&in_input[..], &["--to-latest", "--to-earliest"]].concat(), "cannot be used with"),
        ([&in_input[..], &["--to-offset", "-1"]].concat(), "--to-offset"),
        ([&in_input[..], &["--to-datetime", "yesterday"]].concat(), "YYYY-MM-DDTHH:MM:SS.sss"),
        ([&in_input[..], &["--by-duration", "7d"]].concat(), "PnDTnHnMnS"),
        ([&in_input[..], &["--shift-by", "many"]].concat(), "--shift-by"),
    ] {
        let (code, said) = reset(&rig, &arguments).await;
        assert!(code == 2 && said.contains(word), "{arguments:?}: {said}");
    }
    assert_eq!(topics_of(&rig).await, [internal]);
    assert_eq!((rig.committed(&input, 0).await, rig.committed(&input, 1).await), (None, None));
}

/// orders and orders-eu: the topics of one begin as the other's would.
#[tokio::test]
async fn topics_that_may_be_another_applications_stay_until_they_are_named() {
    let rig = rig("orders").await;
    let input = rig.topic("in", 1).await;
    send(&rig, &input, 1, 5).await;
    let other = format!("{}-eu", rig.app_id);
    let (code, said) = reset_of(&rig, &other, &["--input-topics", &input]).await;
    assert_eq!(code, 0, "its group is there now: {said}");
    let mut names = Vec::new();
    for name in ["counts-changelog", "eu-counts-changelog", "eu-changelog", "output", "changelog"] {
        names.push(format!("{}-{name}", rig.app_id));
        rig.admin().create_topic(NewTopic::new(names.last().unwrap(), 1)).await.unwrap();
    }
    let (code, said) = reset(&rig, &["--internal-topics", &names[3], "--dry-run"]).await;
    assert!(code == 1 && said.contains("no internal topic"), "{said}");
    let (code, said) = reset(&rig, &["--dry-run"]).await;
    assert!(code == 0 && said.contains(&format!("{} is left alone", names[1])), "{said}");
    let (code, said) = reset(&rig, &[]).await;
    assert_eq!(code, 0, "{said}");
    // `eu` is no application whose topic `eu-changelog` would be: a changelog has a name.
    let mut left = [&names[1], &names[3], &names[4]].map(Clone::clone);
    left.sort();
    assert_eq!(topics_of(&rig).await, left);
    let (code, said) = reset(&rig, &["--internal-topics", &names[1]]).await;
    assert_eq!(code, 0, "{said}");
    assert!(!topics_of(&rig).await.contains(&names[1]));
    // What somebody names as input is no internal topic, whatever it is called.
    let odd = format!("{}-mine-changelog", rig.app_id);
    rig.admin().create_topic(NewTopic::new(&odd, 1)).await.unwrap();
    let (code, said) = reset(&rig, &["--input-topics", &odd]).await;
    assert_eq!(code, 0, "{said}");
    assert!(topics_of(&rig).await.contains(&odd));
}

/// What is no name of an application is not looked for among folders.
#[tokio::test]
async fn an_id_that_is_no_name_is_refused() {
    let rig = rig("no-name").await;
    for id in ["../x", "a/b", "..", ".", "a b", ""] {
        let (code, said) = reset_of(&rig, id, &["--state-dir", &state_dir(&rig)]).await;
        assert!(code == 1 && said.contains("application.id"), "{id:?}: {said}");
    }
}

/// While it runs nothing is touched, whatever is asked; a member that it left behind goes by force.
#[tokio::test]
async fn active_members_are_a_reason_to_refuse_and_left_ones_go_by_force() {
    let rig = rig("active").await;
    let (input, output) = (rig.topic("in", 1).await, rig.topic("out", 1).await);
    send(&rig, &input, 1, 14).await;
    let app = run(&rig, (&input, &output), |c| c.set("group.instance.id", "one")).await;
    rig.wait_committed(&input, 0, 14).await;
    let dir = state_dir(&rig);
    let before = topics_of(&rig).await;
    let untouched =
        async || rig.committed(&input, 0).await.unwrap().0 == 14 && topics_of(&rig).await == before;
    for more in [&[][..], &["--dry-run"], &["--state-dir", &dir]] {
        let (code, said) = reset(&rig, &[&["--input-topics", &input][..], more].concat()).await;
        assert!(
            code == 1 && said.contains("active members") && said.contains("group.instance.id one"),
            "{said}"
        );
        assert!(untouched().await, "{said}");
    }
    // The slot is its own, even when the member may be removed: nothing is.
    let (code, said) = reset(&rig, &["--input-topics", &input, "--state-dir", &dir, "--force"]).await;
    assert!(code == 1 && said.contains("holds the slot") && untouched().await, "{said}");
    assert_eq!(app.handle.state(), mainstem::AppState::Running);
    // It comes back with its next heartbeat, and then nothing is touched either.
    let (code, said) = reset(&rig, &["--input-topics", &input, "--force"]).await;
    assert!(code == 1 && said.contains("removed") && said.contains("come back to the group"), "{said}");
    assert!(!said.contains("is reset") && !said.contains("fenced ") && untouched().await, "{said}");

    app.handle.stop_with(CloseOptions::default().leave_group(false));
    app.ended().await.unwrap();
    let (code, said) = reset(&rig, &["--input-topics", &input]).await;
    assert!(code == 1 && said.contains("active members") && untouched().await, "{said}");
    let (code, said) = reset(&rig, &["--input-topics", &input, "--state-dir", &dir, "--force"]).await;
    assert!(code == 0 && said.contains("removed"), "{said}");
    assert_eq!((rig.committed(&input, 0).await.unwrap().0, topics_of(&rig).await.len()), (0, 0));
}

/// A process that is gone has left a transaction open: whoever reads what is committed waits no longer, and if it was only
/// asleep, it writes nothing any more.
#[tokio::test]
async fn open_transactions_are_ended_and_their_producers_fenced() {
    let rig = rig("open").await;
    let (input, output) = (rig.topic("in", 1).await, rig.topic("out", 1).await);
    let asleep = async |id: String| {
        let options = ProducerOptions::default().transactional_id(id);
        let producer = Producer::new(&rig.cluster, options).unwrap();
        producer.init_transactions().await.unwrap();
        producer.begin_transaction().unwrap();
        let record = || Record::new(None, Some(Bytes::from_static(b"v")), 0);
        producer.send(&output, Some(0), record()).await.unwrap();
        producer.flush().await.unwrap();
        producer
    };
    let process = uuid::Uuid::new_v4();
    let own = asleep(format!("{}-{process}-3", rig.app_id)).await;
    let other = asleep(format!("{}-eu-{process}-3", rig.app_id)).await;
    let stable = async || {
        let at = TopicPartition::new(&*output, 0);
        rig.admin()
            .list_offset(&at, OffsetSpec::Latest, Isolation::ReadCommitted)
            .await
            .unwrap()
            .offset
            .unwrap()
    };
    assert_eq!(stable().await, 0);
    let (code, said) = reset(&rig, &["--input-topics", &input]).await;
    let fenced = format!("fence the transactional id {}-{process}-3 (Ongoing)", rig.app_id);
    assert!(code == 0 && said.contains(&fenced) && !said.contains("-eu-"), "{said}");
    assert_eq!(stable().await, 1, "up to the other's, which is not touched");
    other.commit_transaction().await.unwrap();
    let error = own.commit_transaction().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error:?}");
    eventually("nothing is open", async || stable().await == 4).await;
    assert_eq!(rig.read_committed(&output).await.len(), 1);
}

/// Kafka Streams, killed in the midst of it: a member, topics, offsets and an open transaction are left. It counts from one
/// again afterwards.
#[tokio::test]
async fn what_kafka_streams_has_left_is_reset_too() {
    let Some(broker) = with_java("what_kafka_streams_has_left_is_reset_too") else { return };
    let rig = rig_at(&broker, "javas").await;
    let (input, output) = (rig.topic("in", 2).await, rig.topic("out", 1).await);
    send(&rig, &input, 2, 70).await;
    let mut first = Java::start(&rig, &input, &output);
    eventually("it counts", async || !lives(&rig, &output).await.is_empty()).await;
    // In the middle of a transaction, as far as that can be arranged.
    send(&rig, &input, 2, 700).await;
    first.kill();
    assert_eq!(topics_of(&rig).await.len(), 2);
    let (code, said) = reset(&rig, &["--input-topics", &input]).await;
    assert!(code == 1 && said.contains("active members"), "{said}");
    let dir = state_dir(&rig);
    let (code, said) = reset(&rig, &["--input-topics", &input, "--force", "--state-dir", &dir]).await;
    assert!(code == 0 && said.contains("removed") && said.contains("fenced"), "{said}");
    assert_eq!((rig.committed(&input, 0).await.unwrap().0, topics_of(&rig).await.len()), (0, 0));
    let before = lives(&rig, &output).await;
    let mut second = Java::start(&rig, &input, &output);
    let all = 2 * 770;
    let old: usize = before.values().map(Vec::len).sum();
    eventually("all is counted again, and nobody waits for an open transaction", async || {
        lives(&rig, &output).await.values().map(Vec::len).sum::<usize>() >= old + all
    })
    .await;
    second.kill();
    for (word, counts) in lives(&rig, &output).await {
        let (old, new) = counts.split_at(before.get(&word).map_or(0, Vec::len));
        assert!(old.iter().copied().eq(1..=old.len() as i64), "{word}: {old:?}");
        assert!(new.iter().copied().eq(1..=220), "{word}: {new:?}");
    }
}

/// A process of Kafka Streams.
struct Java {
    process: Child,
    _input: Option<ChildStdin>,
}

impl Java {
    fn start(rig: &Rig, input: &str, output: &str) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/java-client");
        let mut command = Command::new(script);
        command.args(["streams", "--bootstrap", &rig.broker, "--app", &rig.app_id]);
        command.args(["--input", input, "--output", output, "--state", &state_dir(rig)]);
        for set in [
            "processing.guarantee=exactly_once_v2",
            "commit.interval.ms=100",
            "main.consumer.session.timeout.ms=30000",
            "main.consumer.auto.offset.reset=earliest",
            "producer.transaction.timeout.ms=60000",
        ] {
            command.args(["--set", set]);
        }
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Self { _input: process.stdin.take(), process }
    }

    fn kill(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

impl Drop for Java {
    fn drop(&mut self) {
        self.kill();
    }
}
