//! `mainstem copy`.

use std::path::PathBuf;

use clap::Args;
use mainstem::client::{Admin, Producer, ProducerOptions, ReadOptions, Reader};
use mainstem::{Error, ErrorKind, Record, Result};

use super::checksum::Checksums;
use super::consume::now;
use super::output::{Output, Patience, progress, rate};
use super::{ClusterArgs, IsolationArg, connect};

#[derive(Debug, Args)]
pub(crate) struct Copy {
    /// The topic to read, up to where it ends now
    #[arg(long, value_name = "TOPIC")]
    from: String,
    /// The topic to write; it must exist and have as many partitions
    #[arg(long, value_name = "TOPIC")]
    to: String,
    /// Brokers of the cluster to read from, if it is another one
    #[arg(long, value_name = "HOST:PORT,..")]
    from_bootstrap: Option<String>,
    /// A file of client properties for the cluster to read from, if it is another one
    #[arg(long, value_name = "FILE")]
    from_command_config: Option<PathBuf>,
    #[arg(long, value_enum, default_value = "read_committed")]
    isolation: IsolationArg,
    /// none, gzip, snappy, lz4 or zstd
    #[arg(long, default_value = "none")]
    compression: String,
}

impl Copy {
    pub(super) async fn run(self, cluster: &ClusterArgs) -> Result<()> {
        let target = cluster.connect().await?;
        let source = match (&self.from_command_config, &self.from_bootstrap) {
            (None, None) => target.clone(),
            (file, bootstrap) => connect(file.as_deref(), bootstrap.as_deref()).await?,
        };
        if self.from == self.to && source.cluster_id() == target.cluster_id() {
            return Err(Error::new(
                ErrorKind::Config,
                "a topic cannot be copied onto itself; name another with --to",
            ));
        }
        let (from, to) = (partitions(&source, &self.from).await?, partitions(&target, &self.to).await?);
        if to < from {
            return Err(Error::new(
                ErrorKind::Topic,
                format!(
                    "the copy has {to} partitions and the original {from}: mainstem topics add-partitions {} --to {from}",
                    self.to
                ),
            )
            .at_topic(self.to));
        }
        let producer = Producer::new(&target, ProducerOptions::default().compression(&self.compression)?)?;
        let options = ReadOptions::new(&self.from).isolation(self.isolation.into()).until_end();
        let mut reader = Reader::new(&source, options).await?;
        let (began, bar) = (now(), progress(u64::try_from(reader.left()).ok()));
        let mut sums = Checksums::default();
        let mut count = 0u64;
        let mut patience = Patience::default();
        loop {
            let record = match reader.next().await {
                Ok(Some(record)) => record,
                Ok(None) => break,
                Err(error) => {
                    patience.bear(error)?;
                    continue;
                }
            };
            patience.renew(record.partition);
            sums.add(&record);
            count += 1;
            if count.is_multiple_of(4096) {
                bar.set_position(count);
            }
            let partition = record.partition;
            let copied = Record::new(record.key, record.value, record.timestamp).with_headers(record.headers);
            producer.send(&self.to, Some(partition), copied).await?;
        }
        producer.flush().await?;
        bar.finish_and_clear();
        let mut out = Output::new();
        sums.print(&mut out)?;
        out.line(rate(sums.records(), began.elapsed()))?;
        out.flush()
    }
}

async fn partitions(cluster: &mainstem::client::Cluster, topic: &str) -> Result<usize> {
    let described = Admin::new(cluster).describe_topics(&[topic]).await?.pop();
    Ok(described.transpose()?.map_or(0, |topic| topic.partitions.len()))
}
