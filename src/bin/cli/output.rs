//! What commands print: results to stdout, progress to stderr when a person looks at it.

use std::collections::HashMap;
use std::io::{self, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use mainstem::{Error, ErrorKind, Result};

/// Buffered stdout whose failures are errors of the crate.
pub(super) struct Output(io::BufWriter<io::Stdout>);

impl Output {
    pub(super) fn new() -> Self {
        Self(io::BufWriter::with_capacity(64 << 10, io::stdout()))
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.write_all(bytes).map_err(failed)
    }

    pub(super) fn line(&mut self, line: impl std::fmt::Display) -> Result<()> {
        writeln!(self.0, "{line}").map_err(failed)
    }

    pub(super) fn flush(&mut self) -> Result<()> {
        self.0.flush().map_err(failed)
    }
}

fn failed(cause: io::Error) -> Error {
    Error::new(ErrorKind::Io, "cannot write the output").because(cause)
}

/// Bears with partitions that cannot be read for a while, as when a broker restarts, but not for ever.
#[derive(Debug, Default)]
pub(super) struct Patience(HashMap<Option<i32>, u32>);

impl Patience {
    /// Errors of one partition in a row, half a minute each.
    const ENOUGH: u32 = 4;

    /// Warns, or gives the error back when it is of no use to wait on.
    pub(super) fn bear(&mut self, error: Error) -> Result<()> {
        let failures = self.0.entry(error.partition()).or_default();
        *failures += 1;
        if !error.is_retriable() || *failures == Self::ENOUGH {
            return Err(error);
        }
        super::report("warning", &error);
        Ok(())
    }

    /// A partition can be read again.
    pub(super) fn renew(&mut self, partition: i32) {
        if !self.0.is_empty() {
            self.0.remove(&Some(partition));
        }
    }
}

/// A table with aligned columns.
pub(super) fn table(out: &mut Output, rows: &[Vec<String>]) -> Result<()> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    for row in rows {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        out.line(cells.join("  ").trim_end())?;
    }
    Ok(())
}

/// A progress bar on a terminal, nothing elsewhere.
pub(super) fn progress(total: Option<u64>) -> ProgressBar {
    let bar = match total {
        Some(total) => ProgressBar::new(total),
        None => ProgressBar::new_spinner(),
    };
    let template = match total {
        Some(_) => "{bar:30} {human_pos}/{human_len} {per_sec} {eta}",
        None => "{spinner} {human_pos} {per_sec}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// `1234567` records in 2 s as text.
pub(super) fn rate(records: u64, took: Duration) -> String {
    let seconds = took.as_secs_f64();
    let rate = if seconds > 0.0 { records as f64 / seconds } else { 0.0 };
    format!("{records} records in {seconds:.2} s, {rate:.0} records/s")
}
