//! The client against a broker (a real Kafka where one is told, else the embedded one), and against a second reading of
//! the protocol.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails where it unwraps, and says where it skips"
)]

mod common;

use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use common::{broker, connect, topic, unique};
use mainstem::client::{
    Admin, AlterConfig, Cluster, ConfigResource, Isolation, LogRecord, NewTopic, OffsetSpec, Producer,
    ProducerOptions, ReadFrom, ReadOptions, Reader,
};
use mainstem::{ErrorKind, Headers, Record, TopicPartition};

const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn read_all(cluster: &Cluster, options: ReadOptions) -> Vec<LogRecord> {
    let mut reader = Reader::new(cluster, options.until_end()).await.unwrap();
    let mut records = Vec::new();
    while let Some(record) = reader.next().await.unwrap() {
        records.push(record);
    }
    assert!(reader.at_end());
    records
}

#[tokio::test]
async fn topics_are_made_described_grown_and_deleted() {
    let broker = broker("topics_are_made_described_grown_and_deleted");
    let cluster = connect(&broker).await;
    let admin = Admin::new(&cluster);
    assert!(admin.cluster_id().is_some());
    let (a, b) = (unique("made"), unique("made"));
    let topics = [
        NewTopic::new(&a, 3).config("cleanup.policy", "compact"),
        NewTopic::new("not a name", 1),
        NewTopic::new(&b, 1).config("cleanup.policy", "nonsense"),
        NewTopic::new(unique("made"), 1).replication(99),
    ];
    let results = admin.create_topics(&topics).await.unwrap();
    let kinds: Vec<_> = results.iter().map(|r| r.as_ref().err().map(|e| e.kind())).collect();
    assert_eq!(kinds, [None, Some(ErrorKind::Topic), Some(ErrorKind::Config), Some(ErrorKind::Topic)]);
    let again = admin.create_topic(NewTopic::new(&a, 3)).await.unwrap_err();
    assert!(Admin::already_exists(&again), "{again}");

    let described = admin.describe_topics(&[&a, &b]).await.unwrap();
    let (found, missing) = (described[0].as_ref().unwrap(), described[1].as_ref().unwrap_err());
    assert_eq!((found.partitions.len(), found.id.is_some()), (3, true));
    assert!(found.partitions.iter().all(|p| p.leader.is_some() && !p.in_sync.is_empty()));
    assert_eq!((missing.kind(), missing.topic()), (ErrorKind::Topic, Some(&*b)));
    assert!(admin.list_topics().await.unwrap().iter().any(|topic| *topic.name == *a));

    assert!(admin.add_partitions(&[(&a, 5)]).await.unwrap()[0].is_ok());
    assert_eq!(
        admin.add_partitions(&[(&a, 4)]).await.unwrap()[0].as_ref().unwrap_err().kind(),
        ErrorKind::Topic
    );
    let deleted = admin.delete_topics(&[&a, &b]).await.unwrap();
    assert!(deleted[0].is_ok());
    assert_eq!(deleted[1].as_ref().unwrap_err().kind(), ErrorKind::Topic);
}

#[tokio::test]
async fn configs_are_read_and_changed() {
    let broker = broker("configs_are_read_and_changed");
    let cluster = connect(&broker).await;
    let admin = Admin::new(&cluster);
    let resource = ConfigResource::Topic(topic(&cluster, "configs", 1).await);
    // A change is accepted before every broker has heard of it.
    let value = async |name: &str, wanted: &str, overridden: bool| {
        for _ in 0..1_000 {
            let configs = admin.describe_configs(&resource).await.unwrap();
            let config = configs.into_iter().find(|config| config.name == name).unwrap();
            if config.value.as_deref() == Some(wanted) && config.overridden == overridden {
                return;
            }
        }
        panic!("{name} does not become {wanted}");
    };
    value("retention.ms", "-1", true).await;
    value("cleanup.policy", "delete", false).await;
    let changes = [
        AlterConfig::Append("cleanup.policy".into(), "compact".into()),
        AlterConfig::Reset("retention.ms".into()),
        AlterConfig::Set("segment.ms".into(), "60000".into()),
    ];
    admin.alter_configs(&resource, &changes).await.unwrap();
    value("cleanup.policy", "delete,compact", true).await;
    value("retention.ms", "604800000", false).await;
    value("segment.ms", "60000", true).await;
    let refused =
        admin.alter_configs(&resource, &[AlterConfig::Set("segment.ms".into(), "soon".into())]).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Config);
    let nowhere = ConfigResource::Topic(unique("nowhere"));
    assert_eq!(admin.describe_configs(&nowhere).await.unwrap_err().kind(), ErrorKind::Topic);
    let node = cluster.brokers()[0].node;
    assert!(!admin.describe_configs(&ConfigResource::Broker(node)).await.unwrap().is_empty());
}

/// What a checkpoint of a store is held against: ids, epochs, ranges.
#[tokio::test]
async fn a_topic_made_again_has_another_id_and_a_partition_its_leaders_epoch() {
    let broker = broker("a_topic_made_again_has_another_id_and_a_partition_its_leaders_epoch");
    let cluster = connect(&broker).await;
    let admin = Admin::new(&cluster);
    let name = topic(&cluster, "epochs", 3).await;
    let partitions: Vec<_> = (0..3).map(|p| TopicPartition::new(name.as_str(), p)).collect();
    let epochs = async |of: &[TopicPartition]| {
        let epochs = admin.leader_epochs(of).await.unwrap();
        epochs.into_iter().map(|epoch| epoch.map_err(|e| e.kind())).collect::<Vec<_>>()
    };
    let nowhere = TopicPartition::new(name.as_str(), 3);
    // Also where nothing was written; and the leader says it, whatever metadata say.
    assert_eq!(epochs(&partitions).await, [Ok(0), Ok(0), Ok(0)]);
    assert_eq!(epochs(&[nowhere]).await, [Err(ErrorKind::Topic)]);
    let ends = async |epoch: i32| {
        let of: Vec<_> = partitions.iter().map(|at| (at.clone(), epoch)).collect();
        let ends = admin.offsets_for_leader_epochs(&of).await.unwrap();
        ends.into_iter().map(Result::unwrap).collect::<Vec<_>>()
    };
    assert_eq!(ends(0).await, [Some((0, 0)); 3]);
    let producer = Producer::new(&cluster, ProducerOptions::default()).unwrap();
    for at in 0..7 {
        let record = Record::<Bytes, Bytes>::new(Some(bytes("k")), Some(bytes("v")), at);
        producer.send(&name, Some(1), record).await.unwrap();
    }
    producer.flush().await.unwrap();
    assert_eq!(epochs(&partitions).await, [Ok(0), Ok(0), Ok(0)]);
    assert_eq!(ends(0).await, [Some((0, 0)), Some((0, 7)), Some((0, 0))]);
    assert_eq!(ends(5).await, [None; 3], "an epoch that has not been");

    let id = async || {
        let described = admin.describe_topics(&[&name]).await.unwrap().remove(0);
        described.ok().map(|topic| topic.id.expect("topics have ids"))
    };
    let before = id().await.unwrap();
    admin.delete_topics(&[&name]).await.unwrap().remove(0).unwrap();
    let mut after = None;
    for _ in 0..10_000 {
        let made = admin.create_topic(NewTopic::new(&name, 3)).await;
        assert!(made.is_ok() || Admin::already_exists(made.as_ref().unwrap_err()), "{made:?}");
        after = id().await.filter(|id| *id != before);
        if after.is_some() {
            break;
        }
    }
    assert!(after.is_some(), "the id stays {before}");
    assert!(admin.cluster_id().is_some_and(|id| !id.is_empty()));
}

#[tokio::test]
async fn what_is_written_is_read_back_whole_and_in_order() {
    let broker = broker("what_is_written_is_read_back_whole_and_in_order");
    let cluster = connect(&broker).await;
    for codec in CODECS {
        let name = topic(&cluster, codec, 2).await;
        let producer =
            Producer::new(&cluster, ProducerOptions::default().compression(codec).unwrap()).unwrap();
        let headers: Headers = [("h", Some(&b"1"[..])), ("h", None), ("g", Some(b""))].into_iter().collect();
        let mut given = Vec::new();
        for at in 0..5_000i64 {
            let record = Record::<Bytes, Bytes>::new(
                (at % 3 != 0).then(|| bytes(&format!("key {at}"))),
                (at % 5 != 0).then(|| bytes(&format!("value {at}").repeat(at as usize % 40))),
                1_000 + at,
            )
            .with_headers(if at % 7 == 0 { headers.clone() } else { Headers::new() });
            producer.send(&name, Some((at % 2) as i32), record.clone()).await.unwrap();
            given.push(record);
        }
        producer.flush().await.unwrap();
        let read = read_all(&cluster, ReadOptions::new(&name).isolation(Isolation::ReadCommitted)).await;
        assert_eq!(read.len(), given.len(), "{codec}");
        for partition in 0..2 {
            let mine = read.iter().filter(|record| record.partition == partition);
            let wanted = given.iter().skip(partition as usize).step_by(2);
            for (offset, (got, wanted)) in mine.zip(wanted).enumerate() {
                assert_eq!(got.offset, offset as i64);
                assert_eq!(
                    (&got.key, &got.value),
                    (&wanted.key, &wanted.value),
                    "{codec} {partition} {offset}"
                );
                assert_eq!((got.timestamp, &got.headers), (wanted.timestamp, &wanted.headers));
            }
        }
    }
}

#[tokio::test]
async fn offsets_are_found_by_end_and_by_timestamp_and_records_deleted() {
    let broker = broker("offsets_are_found_by_end_and_by_timestamp_and_records_deleted");
    let cluster = connect(&broker).await;
    let (admin, name) = (Admin::new(&cluster), topic(&cluster, "offsets", 1).await);
    let producer = Producer::new(&cluster, ProducerOptions::default()).unwrap();
    for timestamp in [100, 300, 200] {
        producer.send(&name, Some(0), Record::new(None, bytes("v"), timestamp)).await.unwrap();
    }
    producer.flush().await.unwrap();
    let at = TopicPartition::new(name.as_str(), 0);
    let find = async |spec| admin.list_offset(&at, spec, Isolation::ReadUncommitted).await.unwrap();
    assert_eq!(find(OffsetSpec::Earliest).await.offset, Some(0));
    assert_eq!(find(OffsetSpec::Latest).await.offset, Some(3));
    let found = find(OffsetSpec::Timestamp(150)).await;
    assert_eq!((found.offset, found.timestamp, found.leader_epoch), (Some(1), Some(300), Some(0)));
    assert_eq!(find(OffsetSpec::Timestamp(301)).await.offset, None);
    assert_eq!(find(OffsetSpec::MaxTimestamp).await.offset, Some(1));
    let epochs = admin.offsets_for_leader_epochs(&[(at.clone(), 0), (at.clone(), 0)]).await.unwrap();
    assert_eq!(*epochs[0].as_ref().unwrap(), Some((0, 3)));

    let read = read_all(&cluster, ReadOptions::new(&name).from(ReadFrom::Timestamp(150))).await;
    assert_eq!(read.iter().map(|record| record.offset).collect::<Vec<_>>(), [1, 2]);

    assert_eq!(*admin.delete_records(&[(at.clone(), 2)]).await.unwrap()[0].as_ref().unwrap(), 2);
    let beyond = admin.delete_records(&[(at.clone(), 99)]).await.unwrap().pop().unwrap().unwrap_err();
    assert_eq!(beyond.kind(), ErrorKind::OffsetOutOfRange);
    let mut reader =
        Reader::new(&cluster, ReadOptions::new(&name).from(ReadFrom::Offset(0)).until_end()).await.unwrap();
    let error = reader.next().await.unwrap_err();
    assert_eq!(
        (error.kind(), error.offset(), error.partition()),
        (ErrorKind::OffsetOutOfRange, Some(0), Some(0))
    );
    assert!(error.to_string().contains("has 2 to 3"), "{error}");

    let missing = TopicPartition::new(name.as_str(), 7);
    let error =
        admin.list_offset(&missing, OffsetSpec::Latest, Isolation::ReadUncommitted).await.unwrap_err();
    assert_eq!((error.kind(), error.partition()), (ErrorKind::Topic, Some(7)));
}

#[tokio::test]
async fn writing_to_a_topic_that_does_not_exist_is_refused_with_its_name() {
    let broker = broker("writing_to_a_topic_that_does_not_exist_is_refused_with_its_name");
    let cluster = connect(&broker).await;
    let producer = Producer::new(&cluster, ProducerOptions::default()).unwrap();
    let name = unique("nowhere");
    let error = producer.send(&name, None, Record::new(None, bytes("v"), 0)).await.unwrap_err();
    assert_eq!((error.kind(), error.topic()), (ErrorKind::Topic, Some(&*name)));
    assert!(error.to_string().contains("mainstem topics create"), "{error}");
}

#[tokio::test]
async fn a_reader_without_an_end_waits_for_what_comes() {
    let broker = broker("a_reader_without_an_end_waits_for_what_comes");
    let cluster = connect(&broker).await;
    let name = topic(&cluster, "tail", 3).await;
    let producer = Producer::new(&cluster, ProducerOptions::default()).unwrap();
    let mut reader = Reader::new(&cluster, ReadOptions::new(&name).from(ReadFrom::Latest)).await.unwrap();
    for at in 0..20 {
        // Nobody flushes: what lingers goes out by itself.
        producer.send(&name, Some(at % 3), Record::new(None, bytes("v"), i64::from(at))).await.unwrap();
        let record = reader.next().await.unwrap().unwrap();
        assert_eq!((record.timestamp, record.partition), (i64::from(at), at % 3));
    }
}

#[tokio::test]
async fn rskafka_reads_what_we_write_and_we_read_what_it_writes() {
    use rskafka::client::ClientBuilder;
    use rskafka::client::partition::{Compression, OffsetAt, UnknownTopicHandling};
    let broker = broker("rskafka_reads_what_we_write_and_we_read_what_it_writes");
    let cluster = connect(&broker).await;
    let other = ClientBuilder::new(vec![broker]).build().await.unwrap();
    let codecs = [
        Compression::NoCompression,
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ];
    for (codec, name) in codecs.into_iter().zip(CODECS) {
        let topic = topic(&cluster, &format!("interop-{name}"), 1).await;
        let theirs = other.partition_client(&topic, 0, UnknownTopicHandling::Retry).await.unwrap();
        let records = (0..100)
            .map(|at| rskafka::record::Record {
                key: (at % 2 == 0).then(|| format!("k{at}").into_bytes()),
                value: Some(format!("theirs {at}").into_bytes()),
                headers: [("from".to_owned(), b"rskafka".to_vec())].into(),
                timestamp: chrono::DateTime::from_timestamp_millis(at).unwrap(),
            })
            .collect();
        theirs.produce(records, codec).await.unwrap();
        let ours = Producer::new(&cluster, ProducerOptions::default().compression(name).unwrap()).unwrap();
        for at in 0..100i64 {
            let headers: Headers = [("from", Some(&b"mainstem"[..]))].into_iter().collect();
            let record = Record::new(None, bytes(&format!("ours {at}")), at).with_headers(headers);
            ours.send(&topic, Some(0), record).await.unwrap();
        }
        ours.flush().await.unwrap();

        let read = read_all(&cluster, ReadOptions::new(&topic)).await;
        assert_eq!(read.len(), 200, "{name}");
        for (at, record) in read.iter().take(100).enumerate() {
            assert_eq!(record.value, Some(bytes(&format!("theirs {at}"))));
            assert_eq!(record.key.is_some(), at % 2 == 0);
            assert_eq!(record.headers.last("from").unwrap().value(), Some(&b"rskafka"[..]));
            assert_eq!(record.timestamp, at as i64);
        }
        let mut theirs_read = Vec::new();
        let end = theirs.get_offset(OffsetAt::Latest).await.unwrap();
        while theirs_read.len() < end as usize {
            let (records, _) =
                theirs.fetch_records(theirs_read.len() as i64, 1..10_000_000, 1_000).await.unwrap();
            theirs_read.extend(records);
        }
        for (at, record) in theirs_read.iter().skip(100).enumerate() {
            assert_eq!(record.record.value, Some(format!("ours {at}").into_bytes()), "{name}");
            assert_eq!(record.record.headers["from"], b"mainstem");
        }
    }
}

#[tokio::test]
async fn several_tasks_share_a_producer() {
    let broker = broker("several_tasks_share_a_producer");
    let cluster = connect(&broker).await;
    let name = topic(&cluster, "shared", 4).await;
    let producer = Arc::new(Producer::new(&cluster, ProducerOptions::default()).unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..4 {
        let (producer, name) = (Arc::clone(&producer), name.clone());
        tasks.spawn(async move {
            for at in 0..20_000i64 {
                let value = Bytes::from(vec![b'x'; 1_000]);
                producer.send(&name, Some(task), Record::new(None, value, at)).await.unwrap();
            }
            producer.flush().await.unwrap();
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let mut next = [0; 4];
    for record in read_all(&cluster, ReadOptions::new(&name)).await {
        let next = &mut next[record.partition as usize];
        assert_eq!(record.timestamp, *next, "in order");
        *next += 1;
    }
    assert_eq!(next, [20_000; 4]);
}

fn run(broker: &str, arguments: &[&str], input: &str) -> (bool, String, String) {
    use std::io::Write;
    let mut child = Command::new(env!("CARGO_BIN_EXE_mainstem"))
        .args(["--bootstrap", broker])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_command_line_makes_writes_copies_and_compares() {
    let broker = broker("the_command_line_makes_writes_copies_and_compares");
    let (a, b) = (unique("cli"), unique("cli"));
    let ok = |arguments: &[&str], input: &str| {
        let (success, out, err) = run(&broker, arguments, input);
        assert!(success, "{arguments:?}: {err}");
        out
    };
    for name in [&a, &b] {
        ok(&["topics", "create", name, "--partitions", "2", "--config", "retention.ms=-1"], "");
    }
    let lines = "k1=v1\nk2=NULL\nk1=v3\n";
    let written = ok(
        &["produce", &a, "--key-separator", "=", "--null", "NULL", "--header", "h=1", "--timestamp", "5"],
        lines,
    );
    assert!(written.starts_with("3 records"), "{written}");
    let fields = ["consume", &a, "--until-end", "--print", "key,value,timestamp,headers", "--separator", "|"];
    let mut printed: Vec<_> = ok(&fields, "").lines().map(str::to_owned).collect();
    printed.sort_unstable();
    assert_eq!(printed, ["k1|v1|5|h=1", "k1|v3|5|h=1", "k2|null|5|h=1"]);
    assert_eq!(ok(&["consume", &a, "--from-beginning", "--max", "2"], "").lines().count(), 2);

    let copied = ok(&["copy", "--from", &a, "--to", &b], "");
    let sums = |text: &str| {
        text.lines().filter(|line| line.starts_with("partition")).map(str::to_owned).collect::<Vec<_>>()
    };
    let of = |name: &str| sums(&ok(&["consume", name, "--checksum"], ""));
    assert_eq!((sums(&copied), of(&a)), (of(&b), of(&b)));
    assert!(copied.contains("records/s"), "{copied}");

    let (success, _, err) = run(&broker, &["topics", "create", &a], "");
    assert!(!success && err.contains("exists already") && err.contains("because:"), "{err}");
    let (success, _, err) = run("127.0.0.1:1", &["topics", "list"], "");
    assert!(!success && err.contains("127.0.0.1:1: no connection"), "{err}");
}
