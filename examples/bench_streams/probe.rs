//! The measuring end of `bench/latency`: writes records at a rate into one topic, reads what becomes of them from another,
//! and says how long that took. Both sides are measured by this same process, with one clock.
//!
//! The time of a record runs from when it was *due*, not from when it was sent: a stall is paid by all that it delays.
//! Which record an output belongs to: filter-map keeps the number that stands in the value; count gives the n-th record of
//! a key the value n, and the keys are given in turn.

use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use clap::Args;
use mainstem::client::{ClientConfig, Cluster, Producer, ProducerOptions, ReadOptions, Reader};
use mainstem::prelude::*;

use crate::Work;

#[derive(Args)]
pub(crate) struct Options {
    /// filter-map or count; without it the output is the input, which measures the brokers and this process alone.
    #[arg(long)]
    work: Option<Work>,
    #[arg(long)]
    bootstrap: String,
    #[arg(long = "in")]
    input: String,
    #[arg(long = "out")]
    output: String,
    /// Records a second.
    #[arg(long, default_value_t = 10_000)]
    rate: u64,
    /// Seconds at the start that do not count.
    #[arg(long, default_value_t = 5)]
    warmup: u64,
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    #[arg(long, default_value_t = 1000)]
    keys: u64,
    #[arg(long, default_value_t = 100)]
    value_size: usize,
    /// How long to wait for what is still on its way at the end.
    #[arg(long, default_value_t = 30)]
    patience: u64,
}

impl Options {
    fn record(&self, number: u64) -> Record<Bytes, Bytes> {
        // filter-map keeps values whose first byte is even, and changes the last.
        let mut value = BytesMut::zeroed(1);
        value.put_u64(number);
        value.resize(self.value_size.max(10), 0);
        let key = Bytes::copy_from_slice(&(number % self.keys).to_be_bytes());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Record::new(key, value.freeze(), now.as_millis() as i64)
    }

    fn number(&self, key: Option<&[u8]>, value: Option<&[u8]>) -> Option<u64> {
        let number =
            |bytes: Option<&[u8]>, at: usize| Some(u64::from_be_bytes(*bytes?.get(at..)?.first_chunk()?));
        match self.work {
            Some(Work::Count) => Some(number(key, 0)? + self.keys * (number(value, 0)?.checked_sub(1)?)),
            _ => number(value, 1),
        }
    }
}

pub(crate) async fn run(options: Options) -> Result<()> {
    let total = (options.warmup + options.seconds) * options.rate;
    let cluster = Cluster::connect(ClientConfig::new(&options.bootstrap)).await?;
    let producer = Producer::new(&cluster, ProducerOptions::default().linger(Duration::ZERO))?;
    let mut reader = Reader::new(&cluster, ReadOptions::new(&options.output)).await?;
    let began = Instant::now();
    let due = |number: u64| Duration::from_nanos(number * 1_000_000_000 / options.rate);
    let write = async {
        for number in 0..total {
            while began.elapsed() < due(number) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            producer.send(&options.input, None, options.record(number)).await?;
        }
        producer.flush().await
    };
    // In microseconds; 0 is one that has not come.
    let mut taken = vec![0_u64; total as usize];
    let mut strays = 0;
    let read = async {
        let until = due(total) + Duration::from_secs(options.patience);
        let mut came = 0;
        while came < total {
            let left = until.saturating_sub(began.elapsed());
            let Ok(next) = tokio::time::timeout(left, reader.next()).await else { break };
            let Some(record) = next? else { break };
            let now = began.elapsed();
            let number = options.number(record.key.as_deref(), record.value.as_deref());
            match number.and_then(|number| Some((number, taken.get_mut(number as usize)?))) {
                Some((number, taken)) if *taken == 0 => {
                    *taken = (now.saturating_sub(due(number)).as_micros() as u64).max(1);
                    came += 1;
                }
                _ => strays += 1,
            }
        }
        Ok::<_, Error>(())
    };
    tokio::try_join!(write, read)?;
    let counted = &mut taken[(options.warmup * options.rate) as usize..];
    counted.sort_unstable();
    let missing = counted.iter().take_while(|taken| **taken == 0).count();
    let came = &counted[missing..];
    let at = |part: f64| came.get((came.len() as f64 * part) as usize).or(came.last()).map_or(0, |t| *t);
    println!(
        "{{\"records\":{},\"missing\":{missing},\"strays\":{strays},\"p50_us\":{},\"p99_us\":{},\"p999_us\":{},\"max_us\":{}}}",
        came.len(),
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0)
    );
    Ok(())
}
