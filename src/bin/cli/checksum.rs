//! A checksum of what a partition holds, in its order.

use std::collections::BTreeMap;

use mainstem::Result;
use mainstem::client::LogRecord;

use super::output::Output;

/// Counts and checksums by partition. Key, value, timestamp and headers count, in the order of the records; offsets do
/// not, so a copy has the checksum of its original.
#[derive(Debug, Default)]
pub(super) struct Checksums(BTreeMap<i32, (u64, u32)>);

impl Checksums {
    pub(super) fn add(&mut self, record: &LogRecord) {
        let (count, sum) = self.0.entry(record.partition).or_default();
        *count += 1;
        let mut crc = crc32c::crc32c_append(*sum, &record.timestamp.to_be_bytes());
        crc = nullable(crc, record.key.as_deref());
        crc = nullable(crc, record.value.as_deref());
        for header in record.headers.iter() {
            crc = nullable(nullable(crc, Some(header.key_bytes())), header.value());
        }
        *sum = crc32c::crc32c_append(crc, &(record.headers.len() as u32).to_be_bytes());
    }

    pub(super) fn records(&self) -> u64 {
        self.0.values().map(|(count, _)| count).sum()
    }

    /// One line a partition: number, count, checksum.
    pub(super) fn print(&self, out: &mut Output) -> Result<()> {
        for (partition, (count, sum)) in &self.0 {
            out.line(format_args!("partition {partition} records {count} checksum {sum:08x}"))?;
        }
        Ok(())
    }
}

/// A length first, so that neighbours cannot be mistaken for each other; -1 for null.
fn nullable(crc: u32, bytes: Option<&[u8]>) -> u32 {
    let length = bytes.map_or(-1, |bytes| bytes.len() as i64);
    crc32c::crc32c_append(crc32c::crc32c_append(crc, &length.to_be_bytes()), bytes.unwrap_or_default())
}
