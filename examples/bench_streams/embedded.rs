//! What the embedded broker passes, and what it keeps: client and broker in one process.

use std::time::Instant;

use bytes::Bytes;
use clap::Args;
use mainstem::client::{
    Admin, ClientConfig, Cluster, NewTopic, Producer, ProducerOptions, ReadOptions, Reader,
};
use mainstem::embedded::EmbeddedKafka;
use mainstem::prelude::*;

use super::meter::{cpu_seconds, status_kb};

const PARTITIONS: i32 = 2;

#[derive(Args)]
pub(crate) struct Options {
    /// Records of 100 bytes: written, and then read.
    #[arg(long, default_value_t = 4_000_000)]
    records: u64,
    /// Times as many are written to a topic that keeps 64 MB a partition.
    #[arg(long, default_value_t = 4)]
    bounded: u64,
}

fn say(what: &str, records: u64, began: Instant, cpu: f64, kafka: &EmbeddedKafka) {
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    println!(
        "{{\"what\":\"{what}\",\"records\":{records},\"seconds\":{seconds:.2},\"records_a_second\":{:.0},\"cpu_us_a_record\":{:.3},\
         \"held_mb\":{},\"peak_rss_mb\":{}}}",
        records as f64 / seconds,
        cpu * 1e6 / records as f64,
        kafka.size() >> 20,
        status_kb("VmHWM") >> 10,
    );
}

async fn write(cluster: &Cluster, topic: &str, records: u64) -> Result<()> {
    let producer = Producer::new(cluster, ProducerOptions::default())?;
    let value = Bytes::from(vec![b'x'; 100]);
    for at in 0..records {
        let partition = i32::try_from(at % PARTITIONS as u64).expect("a remainder of an i32");
        producer.send(topic, Some(partition), Record::new(None, value.clone(), 0)).await?;
    }
    producer.flush().await
}

pub(crate) async fn run(options: Options) -> Result<()> {
    let kafka = EmbeddedKafka::start()?;
    let cluster = Cluster::connect(ClientConfig::new(kafka.bootstrap())).await?;
    let admin = Admin::new(&cluster);
    let few = NewTopic::new("few", PARTITIONS)
        .config("retention.ms", "-1")
        .config("retention.bytes", (64 << 20).to_string());
    admin.create_topic(few).await?;
    admin.create_topic(NewTopic::new("all", PARTITIONS).config("retention.ms", "-1")).await?;

    let many = options.records * options.bounded;
    let (began, cpu) = (Instant::now(), cpu_seconds());
    write(&cluster, "few", many).await?;
    say("write, 64 MB kept", many, began, cpu, &kafka);

    let (began, cpu) = (Instant::now(), cpu_seconds());
    write(&cluster, "all", options.records).await?;
    say("write", options.records, began, cpu, &kafka);

    let (began, cpu) = (Instant::now(), cpu_seconds());
    let mut reader = Reader::new(&cluster, ReadOptions::new("all").until_end()).await?;
    let mut read = 0;
    while reader.next().await?.is_some() {
        read += 1;
    }
    assert_eq!(read, options.records, "what was written is there");
    say("read", read, began, cpu, &kafka);
    Ok(())
}
