//! `mainstem consume`.

use std::time::Instant;

use clap::Args;
use mainstem::Result;
use mainstem::client::{Cluster, LogRecord, ReadFrom, ReadOptions, Reader};

use super::IsolationArg;
use super::checksum::Checksums;
use super::output::{Output, Patience, progress, rate};

#[derive(Debug, Args)]
pub(crate) struct Consume {
    topic: String,
    /// Only these partitions
    #[arg(long, value_delimiter = ',')]
    partition: Vec<i32>,
    /// Begin at the first record (the default begins behind the last)
    #[arg(long, conflicts_with_all = ["offset", "timestamp"])]
    from_beginning: bool,
    /// Begin at this offset in every partition
    #[arg(long, conflicts_with = "timestamp")]
    offset: Option<i64>,
    /// Begin at the first record with this timestamp, in ms since 1970, or a later one
    #[arg(long, value_name = "MS")]
    timestamp: Option<i64>,
    /// Stop after so many records
    #[arg(long)]
    max: Option<u64>,
    /// Stop where the partitions end now
    #[arg(long)]
    until_end: bool,
    #[arg(long, value_enum, default_value = "read_uncommitted")]
    isolation: IsolationArg,
    /// What to print of each record, in this order
    #[arg(long, value_enum, value_delimiter = ',', default_value = "value")]
    print: Vec<Field>,
    /// What to print between fields
    #[arg(long, default_value = "\t")]
    separator: String,
    /// What to print for null
    #[arg(long, default_value = "null")]
    null: String,
    /// Print no records, but a count and an order-sensitive checksum of each partition
    #[arg(long)]
    checksum: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Field {
    Partition,
    Offset,
    Timestamp,
    Headers,
    Key,
    Value,
}

impl Consume {
    pub(super) async fn run(self, cluster: &Cluster) -> Result<()> {
        let from = match (self.from_beginning, self.offset, self.timestamp) {
            (true, ..) => ReadFrom::Earliest,
            (_, Some(offset), _) => ReadFrom::Offset(offset),
            (_, _, Some(timestamp)) => ReadFrom::Timestamp(timestamp),
            // A checksum of nothing helps nobody.
            _ if self.checksum || self.until_end => ReadFrom::Earliest,
            _ => ReadFrom::Latest,
        };
        let mut options = ReadOptions::new(&self.topic).from(from).isolation(self.isolation.into());
        if !self.partition.is_empty() {
            options = options.partitions(self.partition.clone());
        }
        if self.until_end || self.checksum {
            options = options.until_end();
        }
        let mut reader = Reader::new(cluster, options).await?;
        let began = now();
        let bar = self.checksum.then(|| progress(u64::try_from(reader.left()).ok()));
        let (mut sums, mut out, mut count) = (Checksums::default(), Output::new(), 0u64);
        let mut patience = Patience::default();
        let mut stop = std::pin::pin!(tokio::signal::ctrl_c());
        while self.max.is_none_or(|max| count < max) {
            let record = match reader.buffered()? {
                Some(record) => Some(record),
                None => {
                    // What was printed is to be seen while there is nothing to do.
                    out.flush()?;
                    tokio::select! {
                        record = reader.next() => match record {
                            Ok(record) => record,
                            // Who waits for what comes is told, and waits on; what has an end must not wait for ever.
                            Err(error) if error.is_retriable() && !self.until_end && !self.checksum => {
                                super::report("warning", &error);
                                continue;
                            }
                            Err(error) => {
                                patience.bear(error)?;
                                continue;
                            }
                        },
                        _ = &mut stop => None,
                    }
                }
            };
            let Some(record) = record else { break };
            patience.renew(record.partition);
            count += 1;
            if let Some(bar) = &bar {
                sums.add(&record);
                if count.is_multiple_of(4096) {
                    bar.set_position(count);
                }
            } else {
                self.print(&record, &mut out)?;
            }
        }
        if let Some(bar) = bar {
            bar.finish_and_clear();
            sums.print(&mut out)?;
            out.line(rate(sums.records(), began.elapsed()))?;
        }
        out.flush()
    }

    fn print(&self, record: &LogRecord, out: &mut Output) -> Result<()> {
        for (at, field) in self.print.iter().enumerate() {
            if at > 0 {
                out.bytes(self.separator.as_bytes())?;
            }
            match field {
                Field::Partition => out.bytes(record.partition.to_string().as_bytes())?,
                Field::Offset => out.bytes(record.offset.to_string().as_bytes())?,
                Field::Timestamp => out.bytes(record.timestamp.to_string().as_bytes())?,
                Field::Key => out.bytes(record.key.as_deref().unwrap_or(self.null.as_bytes()))?,
                Field::Value => out.bytes(record.value.as_deref().unwrap_or(self.null.as_bytes()))?,
                Field::Headers => {
                    for (at, header) in record.headers.iter().enumerate() {
                        out.bytes(if at > 0 { b"," } else { b"" })?;
                        out.bytes(header.key_bytes())?;
                        out.bytes(b"=")?;
                        out.bytes(header.value().unwrap_or(self.null.as_bytes()))?;
                    }
                }
            }
        }
        out.bytes(b"\n")
    }
}

/// How long a command takes is for its user to see; nothing depends on it.
#[allow(clippy::disallowed_methods, reason = "the crate's clock has no monotonic time for other crates")]
pub(super) fn now() -> Instant {
    Instant::now()
}
