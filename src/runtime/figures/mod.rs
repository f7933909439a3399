//! What the application counts, for people who watch it: the figures of docs/METRICS.md.
//!
//! Tasks, stores and producers count in plain cells of their own thread; a worker reads them out at most once a second and
//! after commits ([`worker`]), so that nothing here is on the way of a record. A figure goes to two places: the recorder
//! of the `metrics` facade that the process has installed, if any, and the application's own [`Registry`], which
//! [`AppHandle::metrics`](super::AppHandle::metrics) reads.
//!
//! Figures are made in a [`Scope`] (the client, a worker, a task) and go with it: out of the registry, and, because the
//! facade cannot forget, to 0 there if they are gauges.

mod client;
mod table;
#[cfg(test)]
mod tests;
mod worker;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::{Key, KeyName, Label, Level, Metadata, Unit};

pub(super) use client::ClientFigures;
use table::{Figure, FigureKind};
pub(super) use worker::{Activity, Reach, TaskFigures, WorkerFigures};

use crate::config::{Config, RecordingLevel};

/// A figure at one moment.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Metric {
    /// The name, as in docs/METRICS.md.
    pub name: &'static str,
    /// The labels, beside `application`: name and value.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: MetricValue,
}

impl Metric {
    /// The value of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| *label == name).map(|(_, value)| value.as_str())
    }
}

/// The value of a figure, in its unit.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum MetricValue {
    /// Has only grown.
    Counter(u64),
    /// Was this when it was looked at last.
    Gauge(f64),
    /// What all samples come to.
    Histogram {
        /// How many samples there were.
        count: u64,
        /// All of them added up.
        sum: f64,
        /// The greatest, 0 before the first.
        max: f64,
    },
}

type Labels = Vec<(&'static str, String)>;

#[derive(Debug, Default)]
struct Samples {
    count: AtomicU64,
    sum: AtomicU64,
    max: AtomicU64,
}

#[derive(Debug, Clone)]
enum Value {
    Counter(Arc<AtomicU64>),
    /// The bits of an `f64`, here and in [`Samples`].
    Gauge(Arc<AtomicU64>),
    Histogram(Arc<Samples>),
}

impl Value {
    /// Whether it is the very same.
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Counter(a), Self::Counter(b)) | (Self::Gauge(a), Self::Gauge(b)) => Arc::ptr_eq(a, b),
            (Self::Histogram(a), Self::Histogram(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

/// The figures of an application.
#[derive(Debug)]
pub(super) struct Registry {
    application: String,
    level: RecordingLevel,
    values: Mutex<BTreeMap<(&'static str, Labels), Value>>,
}

impl Registry {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            application: config.application_id().to_owned(),
            level: config.recording_level(),
            values: Mutex::default(),
        }
    }

    /// Everything there is now, in the order of names and labels.
    pub(super) fn snapshot(&self) -> Vec<Metric> {
        let float = |bits: &AtomicU64| f64::from_bits(bits.load(Ordering::Relaxed));
        let values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        let metric = |((name, labels), value): (&(&'static str, Labels), &Value)| Metric {
            name,
            labels: labels.clone(),
            value: match value {
                Value::Counter(count) => MetricValue::Counter(count.load(Ordering::Relaxed)),
                Value::Gauge(bits) => MetricValue::Gauge(float(bits)),
                Value::Histogram(samples) => MetricValue::Histogram {
                    count: samples.count.load(Ordering::Relaxed),
                    sum: float(&samples.sum),
                    max: float(&samples.max),
                },
            },
        };
        values.iter().map(metric).collect()
    }

    fn keeps(&self, figure: &Figure) -> bool {
        let rank = |level| match level {
            RecordingLevel::Info => 0,
            RecordingLevel::Debug => 1,
            RecordingLevel::Trace => 2,
        };
        rank(figure.level) <= rank(self.level)
    }
}

/// Tells the recorder what every figure means.
fn describe() {
    metrics::with_recorder(|recorder| {
        for figure in table::TABLE {
            let name = KeyName::from_const_str(figure.name);
            let unit = match figure.unit {
                "seconds" => Some(Unit::Seconds),
                "milliseconds" => Some(Unit::Milliseconds),
                "microseconds" => Some(Unit::Microseconds),
                "bytes" => Some(Unit::Bytes),
                "" => None,
                _ => Some(Unit::Count),
            };
            let meaning = figure.meaning.into();
            match figure.kind {
                FigureKind::Counter => recorder.describe_counter(name, unit, meaning),
                FigureKind::Gauge => recorder.describe_gauge(name, unit, meaning),
                FigureKind::Histogram => recorder.describe_histogram(name, unit, meaning),
            }
        }
    });
}

/// What figures have their labels from, and live as long as.
#[derive(Debug)]
struct Scope {
    registry: Arc<Registry>,
    labels: Labels,
    made: Vec<((&'static str, Labels), Value, Option<metrics::Gauge>)>,
    /// Whether its gauges mean nothing any more when it goes.
    zeroed: bool,
}

impl Scope {
    fn new(registry: &Arc<Registry>, labels: Labels) -> Self {
        Self { registry: registry.clone(), labels, made: Vec::new(), zeroed: true }
    }

    /// Puts a value into the registry, and gives the key for the facade.
    fn make(&mut self, figure: &'static Figure, more: &[(&'static str, &str)], value: Value) -> Key {
        let mut labels = self.labels.clone();
        labels.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        debug_assert!(
            labels.iter().map(|(name, _)| *name).eq(figure.labels.iter().copied()),
            "{} has the labels {labels:?}",
            figure.name
        );
        let mut facade = vec![Label::new("application", self.registry.application.clone())];
        facade.extend(labels.iter().map(|(name, value)| Label::new(*name, value.clone())));
        let key = (figure.name, labels);
        self.made.push((key.clone(), value.clone(), None));
        self.registry.values.lock().unwrap_or_else(PoisonError::into_inner).insert(key, value);
        Key::from_parts(figure.name, facade)
    }

    fn counter(&mut self, figure: &'static Figure, more: &[(&'static str, &str)]) -> Counter {
        if !self.registry.keeps(figure) {
            return Counter { total: 0, places: None };
        }
        let ours = Arc::new(AtomicU64::new(0));
        let key = self.make(figure, more, Value::Counter(ours.clone()));
        let theirs = metrics::with_recorder(|r| r.register_counter(&key, &metadata(figure)));
        Counter { total: 0, places: Some((ours, theirs)) }
    }

    fn gauge(&mut self, figure: &'static Figure, more: &[(&'static str, &str)]) -> Gauge {
        if !self.registry.keeps(figure) {
            return Gauge { last: 0.0, places: None };
        }
        let ours = Arc::new(AtomicU64::new(0));
        let key = self.make(figure, more, Value::Gauge(ours.clone()));
        let theirs = metrics::with_recorder(|r| r.register_gauge(&key, &metadata(figure)));
        theirs.set(0.0);
        if let Some((.., gauge)) = self.made.last_mut() {
            *gauge = Some(theirs.clone());
        }
        Gauge { last: 0.0, places: Some((ours, theirs)) }
    }

    fn histogram(&mut self, figure: &'static Figure, more: &[(&'static str, &str)]) -> Histogram {
        if !self.registry.keeps(figure) {
            return Histogram(None);
        }
        let ours = Arc::new(Samples::default());
        let key = self.make(figure, more, Value::Histogram(ours.clone()));
        let theirs = metrics::with_recorder(|r| r.register_histogram(&key, &metadata(figure)));
        Histogram(Some((ours, theirs)))
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        let mut values = self.registry.values.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, value, gauge) in &self.made {
            // A worker that was left behind may end long after another has taken its place, and its labels.
            if !values.get(key).is_some_and(|known| known.is(value)) {
                continue;
            }
            values.remove(key);
            if let Some(gauge) = gauge
                && self.zeroed
            {
                gauge.set(0.0);
            }
        }
    }
}

fn metadata(figure: &Figure) -> Metadata<'static> {
    let level = match figure.level {
        RecordingLevel::Info => Level::INFO,
        RecordingLevel::Debug => Level::DEBUG,
        RecordingLevel::Trace => Level::TRACE,
    };
    Metadata::new("mainstem", level, Some("mainstem"))
}

/// Grows. One thread adds to it.
#[derive(Debug)]
struct Counter {
    total: u64,
    places: Option<(Arc<AtomicU64>, metrics::Counter)>,
}

impl Counter {
    fn add(&mut self, count: u64) {
        self.total += count;
        if let Some((ours, theirs)) = &self.places
            && count > 0
        {
            ours.fetch_add(count, Ordering::Relaxed);
            theirs.increment(count);
        }
    }

    /// Takes on a total that was counted elsewhere.
    fn follow(&mut self, total: u64) {
        self.add(total.saturating_sub(self.total));
    }
}

#[derive(Debug)]
struct Gauge {
    last: f64,
    places: Option<(Arc<AtomicU64>, metrics::Gauge)>,
}

impl Gauge {
    fn set(&mut self, value: f64) {
        if let Some((ours, theirs)) = &self.places
            && value.to_bits() != self.last.to_bits()
        {
            self.last = value;
            ours.store(value.to_bits(), Ordering::Relaxed);
            theirs.set(value);
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
    fn count(&mut self, value: u64) {
        self.set(value as f64);
    }
}

#[derive(Debug)]
struct Histogram(Option<(Arc<Samples>, metrics::Histogram)>);

impl Histogram {
    /// One thread records.
    fn record(&self, sample: f64) {
        let Some((ours, theirs)) = &self.0 else { return };
        let float = |bits: &AtomicU64| f64::from_bits(bits.load(Ordering::Relaxed));
        ours.count.fetch_add(1, Ordering::Relaxed);
        ours.sum.store((float(&ours.sum) + sample).to_bits(), Ordering::Relaxed);
        ours.max.store(float(&ours.max).max(sample).to_bits(), Ordering::Relaxed);
        theirs.record(sample);
    }

    fn took(&self, time: Duration) {
        self.record(time.as_secs_f64());
    }
}
