//! What a piece of work took: time, CPU and memory of the whole process (Linux: /proc).

use std::time::Instant;

/// CPU seconds of the process so far.
pub(crate) fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 =
        after_name.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
    ticks as f64 / 100.0
}

/// A figure in kB of the process.
pub(crate) fn status_kb(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0)
}

pub(crate) struct Meter {
    began: Instant,
    cpu: f64,
    records: u64,
    /// Records that do not count; 0 once they are over.
    warmup: u64,
}

/// What was processed after the warm-up, and what that took.
pub(crate) struct Figures {
    records: u64,
    seconds: f64,
    cpu: f64,
    processed: u64,
    complete: bool,
}

impl Meter {
    pub(crate) fn new(warmup: u64) -> Self {
        Self { began: Instant::now(), cpu: cpu_seconds(), records: 0, warmup }
    }

    /// Begins to count when the warm-up is over. Says how many seconds ago that was.
    pub(crate) fn look(&mut self, processed: u64) -> f64 {
        if self.warmup > 0 && processed >= self.warmup {
            *self = Self { records: processed, ..Self::new(0) };
        }
        if self.warmup > 0 { 0.0 } else { self.began.elapsed().as_secs_f64() }
    }

    pub(crate) fn taken(&self, processed: u64, complete: bool) -> Figures {
        let (seconds, cpu) = (self.began.elapsed().as_secs_f64(), cpu_seconds() - self.cpu);
        Figures { records: processed - self.records, seconds, cpu, processed, complete }
    }
}

impl Figures {
    /// One JSON line, of records of the input: each was processed as so many.
    pub(crate) fn print(&self, per_record: u64) {
        println!(
            "{{\"impl\":\"mainstem {}\",\"records\":{},\"seconds\":{:.3},\"cpu_seconds\":{:.3},\"peak_rss_kb\":{},\
             \"processed\":{},\"complete\":{}}}",
            env!("CARGO_PKG_VERSION"),
            self.records / per_record,
            self.seconds,
            self.cpu,
            status_kb("VmHWM"),
            self.processed,
            self.complete
        );
    }
}
