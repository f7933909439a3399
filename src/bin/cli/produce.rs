//! `mainstem produce`.

use std::io::{BufRead, Read};
use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;
use mainstem::client::{Admin, Cluster, Producer, ProducerOptions};
use mainstem::clock::{Clock, SystemClock};
use mainstem::{Error, ErrorKind, Headers, Record, Result};
use tokio::sync::mpsc;

use super::output::{Output, progress};
use super::topics::pair;

/// Lines are read in chunks of about this many bytes.
const CHUNK: usize = 64 << 10;

#[derive(Debug, Args)]
pub(crate) struct Produce {
    topic: String,
    /// Read lines from a file instead of stdin
    #[arg(long)]
    file: Option<PathBuf>,
    /// What stands between key and value in a line; without it there are no keys
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    key_separator: Option<String>,
    /// A value (or key) of exactly this text is null
    #[arg(long, value_name = "TEXT")]
    null: Option<String>,
    /// Write to this partition, whatever the key
    #[arg(long)]
    partition: Option<i32>,
    /// A header for every record
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    header: Vec<(String, String)>,
    /// A timestamp for every record, in ms since 1970; without it, now
    #[arg(long, value_name = "MS")]
    timestamp: Option<i64>,
    /// none, gzip, snappy, lz4 or zstd
    #[arg(long, default_value = "none")]
    compression: String,
}

impl Produce {
    pub(super) async fn run(self, cluster: &Cluster) -> Result<()> {
        // Before the first line comes: a wrong name must not wait for one, nor pass when there is none.
        for described in Admin::new(cluster).describe_topics(&[&self.topic]).await? {
            described?;
        }
        let producer = Producer::new(cluster, ProducerOptions::default().compression(&self.compression)?)?;
        let input: Box<dyn Read + Send> = match &self.file {
            Some(path) => Box::new(std::fs::File::open(path).map_err(|cause| {
                Error::new(ErrorKind::Io, format!("cannot open {}", path.display())).because(cause)
            })?),
            None => Box::new(std::io::stdin()),
        };
        let headers: Headers =
            self.header.iter().map(|(name, value)| (name.as_str(), Some(value.as_bytes()))).collect();
        let bar = progress(None);
        let mut lines = read(input);
        let mut count = 0u64;
        while let Some(chunk) = lines.recv().await {
            for line in chunk? {
                let record = self.record(line, &headers)?;
                producer.send(&self.topic, self.partition, record).await?;
                count += 1;
            }
            bar.set_position(count);
        }
        producer.flush().await?;
        bar.finish_and_clear();
        let mut out = Output::new();
        out.line(format_args!("{count} records written to {}", self.topic))?;
        out.flush()
    }

    fn record(&self, line: Bytes, headers: &Headers) -> Result<Record<Bytes, Bytes>> {
        let (key, value) = match &self.key_separator {
            None => (None, line),
            Some(separator) => {
                let at = find(&line, separator.as_bytes()).ok_or_else(|| {
                    let text = String::from_utf8_lossy(&line).into_owned();
                    Error::new(
                        ErrorKind::Config,
                        format!("a line has no key separator {separator:?}: {text}"),
                    )
                })?;
                (Some(line.slice(..at)), line.slice(at + separator.len()..))
            }
        };
        let present = |bytes: &Bytes| self.null.as_ref().is_none_or(|null| null.as_bytes() != &bytes[..]);
        let timestamp = self.timestamp.unwrap_or_else(|| SystemClock.wall_ms());
        let record = Record::new(key.filter(present), Some(value).filter(present), timestamp);
        Ok(record.with_headers(headers.clone()))
    }
}

fn find(line: &[u8], separator: &[u8]) -> Option<usize> {
    line.windows(separator.len().max(1)).position(|window| window == separator)
}

/// Reads lines on a thread of its own: a terminal or pipe may wait for ever, and the brokers must be answered meanwhile.
fn read(input: Box<dyn Read + Send>) -> mpsc::Receiver<Result<Vec<Bytes>>> {
    let (send, lines) = mpsc::channel(8);
    std::thread::spawn(move || {
        let mut input = std::io::BufReader::with_capacity(CHUNK, input);
        loop {
            let (mut chunk, mut size) = (Vec::new(), 0);
            let read = loop {
                let mut line = Vec::new();
                match input.read_until(b'\n', &mut line) {
                    Ok(0) => break Ok(false),
                    Ok(length) => {
                        size += length;
                        if line.last() == Some(&b'\n') {
                            line.pop();
                        }
                        chunk.push(Bytes::from(line));
                        // What a person types goes out at once.
                        if size >= CHUNK || input.buffer().is_empty() {
                            break Ok(true);
                        }
                    }
                    Err(cause) => {
                        break Err(Error::new(ErrorKind::Io, "cannot read the input").because(cause));
                    }
                }
            };
            let more = matches!(read, Ok(true));
            let sent = send.blocking_send(read.map(|_| chunk));
            if sent.is_err() || !more {
                return;
            }
        }
    });
    lines
}
