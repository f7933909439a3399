//! Windows: which records of a key belong together, by their event time (`org.apache.kafka.streams.kstream.TimeWindows`,
//! `SlidingWindows`, `SessionWindows`, `UnlimitedWindows`, `Windows`).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::grouped::KGroupedStream;
use super::windowed::{SessionWindowedKStream, TimeWindowedKStream};
use crate::record::Timestamp;
use crate::serde::Window;

/// What [`KGroupedStream::windowed_by`] takes: [`Tumbling`], [`Hopping`], [`Sliding`], [`Session`], [`Unlimited`] or
/// [`CustomWindows`].
pub trait WindowDefinition: sealed::Sealed {
    /// What it makes of a grouped stream.
    type Stream<K: Clone + 'static, V: Clone + 'static>;

    #[doc(hidden)]
    fn windowed<K: Clone + 'static, V: Clone + 'static>(
        self,
        grouped: &KGroupedStream<K, V>,
    ) -> Self::Stream<K, V>;
}

mod sealed {
    pub trait Sealed {}
}

/// When results of a window are sent on (KIP-825).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EmitStrategy {
    /// Whenever a record changes them.
    #[default]
    OnWindowUpdate,
    /// Once, when the window is closed: when the stream time has passed its end and the grace period. The time is that of
    /// records: without new ones nothing closes.
    OnWindowClose,
}

/// Milliseconds of a duration, or what is wrong with it.
pub(crate) fn millis(what: &str, duration: Duration, least: i64) -> Result<i64, String> {
    let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    if millis < least {
        return Err(format!("{what} of {duration:?} is less than {least} ms"));
    }
    Ok(millis)
}

/// A function from a time to the windows that it belongs to.
type Chooser = Arc<dyn Fn(Timestamp) -> Vec<Window> + Send + Sync>;

/// How time is cut into windows.
#[derive(Clone)]
pub(crate) enum Cut {
    /// `[n * advance, n * advance + size)`.
    Aligned { advance: i64 },
    /// `[start, ..)`.
    Unlimited { start: i64 },
    /// As a function says.
    Custom(Chooser),
}

/// Windows whose start says which they are.
#[derive(Clone)]
pub(crate) struct TimeWindows {
    pub(crate) size: i64,
    pub(crate) grace: i64,
    pub(crate) cut: Cut,
}

impl TimeWindows {
    /// The windows of a time, by their start (`windowsFor`).
    pub(crate) fn of(&self, time: Timestamp, windows: &mut Vec<Window>) {
        windows.clear();
        match &self.cut {
            Cut::Aligned { advance } => {
                let first = (time - self.size + advance).max(0) / advance * advance;
                let starts = (0..).map(|n| first + n * advance).take_while(|start| *start <= time);
                windows.extend(starts.map(|start| Window::of_size(start, self.size)));
            }
            Cut::Unlimited { start } if time >= *start => {
                windows.push(Window { start: *start, end: i64::MAX });
            }
            Cut::Unlimited { .. } => {}
            Cut::Custom(choose) => windows.extend(choose(time)),
        }
    }
}

/// What a definition comes to.
pub(crate) type Checked<T> = Result<T, String>;

macro_rules! definition {
    ($name:ident => $stream:ident) => {
        impl sealed::Sealed for $name {}

        impl WindowDefinition for $name {
            type Stream<K: Clone + 'static, V: Clone + 'static> = $stream<K, V>;

            #[track_caller]
            fn windowed<K: Clone + 'static, V: Clone + 'static>(
                self,
                grouped: &KGroupedStream<K, V>,
            ) -> Self::Stream<K, V> {
                $stream::new(grouped.clone(), self.checked())
            }
        }
    };
}

definition!(Tumbling => TimeWindowedKStream);
definition!(Hopping => TimeWindowedKStream);
definition!(Sliding => TimeWindowedKStream);
definition!(Unlimited => TimeWindowedKStream);
definition!(CustomWindows => TimeWindowedKStream);
definition!(Session => SessionWindowedKStream);

/// Windows of a size, one after the other, aligned to 1970: `[n * size, n * size + size)`
/// (`TimeWindows.ofSizeAndGrace`).
///
/// ```
/// use std::time::Duration;
/// use mainstem::prelude::*;
/// use mainstem::testing::TopologyTestDriver;
///
/// let builder = StreamsBuilder::new();
/// builder
///     .stream::<String, String>("page-views")
///     .group_by_key("by-page")
///     .windowed_by(Tumbling::of(Duration::from_secs(60)).grace(Duration::from_secs(10)))
///     .count("views-per-minute")
///     .to_stream()
///     .to("out");
/// let mut driver = TopologyTestDriver::new(&builder.build()?)?;
/// let input = driver.input_topic::<String, String>("page-views");
/// let output = driver.output_topic_with::<Windowed<String>, i64>(
///     "out",
///     TimeWindowedSerde::of_size(StringSerde, Duration::from_secs(60)),
///     LongSerde,
/// );
/// for at in [1_000, 59_999, 60_000] {
///     input.pipe(&mut driver, Record::new("start".to_owned(), "x".to_owned(), at))?;
/// }
/// let counts = output.read_all(&mut driver)?;
/// let counts: Vec<_> = counts.into_iter().map(|r| (r.key.unwrap().window.start, r.value.unwrap())).collect();
/// assert_eq!(counts, [(0, 1), (0, 2), (60_000, 1)]);
/// # Ok::<(), mainstem::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Tumbling {
    size: Duration,
    grace: Duration,
}

impl Tumbling {
    /// Windows of this size, at least a millisecond, that close when the stream time has reached their end.
    pub fn of(size: Duration) -> Self {
        Self { size, grace: Duration::ZERO }
    }

    /// How long after its end a window still takes records that are late.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Lets windows overlap: one begins every `advance`.
    pub fn advance_by(self, advance: Duration) -> Hopping {
        Hopping { size: self.size, advance, grace: self.grace }
    }

    fn checked(self) -> Checked<Windows> {
        self.advance_by(self.size).checked()
    }
}

/// Windows of a size that overlap: one begins every advance, aligned to 1970, and a record belongs to all that hold its
/// time (`TimeWindows.advanceBy`).
///
/// ```
/// use std::time::Duration;
/// use mainstem::prelude::*;
///
/// let builder = StreamsBuilder::new();
/// builder
///     .stream::<String, i64>("loads")
///     .group_by_key("by-host")
///     .windowed_by(Hopping::of(Duration::from_secs(60), Duration::from_secs(10)))
///     .reduce("greatest-load", i64::max);
/// builder.build()?;
/// # Ok::<(), mainstem::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Hopping {
    size: Duration,
    advance: Duration,
    grace: Duration,
}

impl Hopping {
    /// Windows of this size, one every `advance`, which is at least a millisecond and at most the size.
    pub fn of(size: Duration, advance: Duration) -> Self {
        Self { size, advance, grace: Duration::ZERO }
    }

    /// How long after its end a window still takes records that are late.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    fn checked(self) -> Checked<Windows> {
        let size = millis("a window size", self.size, 1)?;
        let advance = millis("a window advance", self.advance, 1)?;
        if advance > size {
            return Err(format!("a window advance of {advance} ms is more than the size of {size} ms"));
        }
        let grace = millis("a grace period", self.grace, 0)?;
        Ok(Windows::Time(TimeWindows { size, grace, cut: Cut::Aligned { advance } }))
    }
}

/// Windows that records define: of a key, the records that are no further apart than a time difference, both ends included
/// (`SlidingWindows`).
///
/// ```
/// use std::time::Duration;
/// use mainstem::prelude::*;
///
/// let builder = StreamsBuilder::new();
/// builder
///     .stream::<String, String>("logins")
///     .group_by_key("by-user")
///     .windowed_by(Sliding::of(Duration::from_secs(30)).grace(Duration::from_secs(5)))
///     .count("logins-within-30-s");
/// builder.build()?;
/// # Ok::<(), mainstem::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Sliding {
    difference: Duration,
    grace: Duration,
}

impl Sliding {
    /// Windows of records that are no further apart.
    pub fn of(difference: Duration) -> Self {
        Self { difference, grace: Duration::ZERO }
    }

    /// How long after its end a window still takes records that are late.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    fn checked(self) -> Checked<Windows> {
        let difference = millis("a time difference", self.difference, 0)?;
        let grace = millis("a grace period", self.grace, 0)?;
        Ok(Windows::Sliding { difference, grace })
    }
}

/// One window from a time on, which never ends (`UnlimitedWindows`).
///
/// ```
/// use mainstem::prelude::*;
///
/// let builder = StreamsBuilder::new();
/// builder
///     .stream::<String, String>("in")
///     .group_by_key("by-key")
///     .windowed_by(Unlimited::from(1_700_000_000_000))
///     .count("since-then");
/// builder.build()?;
/// # Ok::<(), mainstem::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Unlimited {
    start: Timestamp,
}

impl Unlimited {
    /// From this time on, in milliseconds since the Unix epoch, not before it.
    #[allow(clippy::should_implement_trait, reason = "it says where the window begins; nothing is converted")]
    pub fn from(start: Timestamp) -> Self {
        Self { start }
    }

    fn checked(self) -> Checked<Windows> {
        let start = self.start;
        if start < 0 {
            return Err(format!("a window that starts at {start}, before 1970"));
        }
        Ok(Windows::Time(TimeWindows { size: i64::MAX, grace: 0, cut: Cut::Unlimited { start } }))
    }
}

/// Windows that a function chooses (a subclass of `org.apache.kafka.streams.kstream.Windows`). They are told apart by their
/// start, and the store takes all to be of one size.
///
/// ```
/// use std::time::Duration;
/// use mainstem::prelude::*;
///
/// // Hours that begin a quarter past.
/// let quarter_past = CustomWindows::of(Duration::from_secs(3600), |at| {
///     let start = (at - 900_000).div_euclid(3_600_000) * 3_600_000 + 900_000;
///     vec![Window { start, end: start + 3_600_000 }]
/// });
/// let builder = StreamsBuilder::new();
/// builder.stream::<String, String>("in").group_by_key("by-key").windowed_by(quarter_past).count("hourly");
/// builder.build()?;
/// # Ok::<(), mainstem::Error>(())
/// ```
#[derive(Clone)]
pub struct CustomWindows {
    size: Duration,
    grace: Duration,
    choose: Chooser,
}

impl fmt::Debug for CustomWindows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CustomWindows")
            .field("size", &self.size)
            .field("grace", &self.grace)
            .finish_non_exhaustive()
    }
}

impl CustomWindows {
    /// Windows of this size at most; `choose` says which a time (in milliseconds since the Unix epoch) belongs to.
    pub fn of(size: Duration, choose: impl Fn(Timestamp) -> Vec<Window> + Send + Sync + 'static) -> Self {
        Self { size, grace: Duration::ZERO, choose: Arc::new(choose) }
    }

    /// How long after its end a window still takes records that are late.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    fn checked(self) -> Checked<Windows> {
        let size = millis("a window size", self.size, 1)?;
        let grace = millis("a grace period", self.grace, 0)?;
        Ok(Windows::Time(TimeWindows { size, grace, cut: Cut::Custom(self.choose) }))
    }
}

/// Windows of activity: records of a key belong together while none is further than a gap from the next
/// (`SessionWindows`). A record between two sessions makes one of them.
///
/// ```
/// use std::time::Duration;
/// use mainstem::prelude::*;
///
/// let builder = StreamsBuilder::new();
/// builder
///     .stream::<String, String>("clicks")
///     .group_by_key("by-user")
///     .windowed_by(Session::with_gap(Duration::from_secs(1800)))
///     .count("clicks-of-a-visit");
/// builder.build()?;
/// # Ok::<(), mainstem::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Session {
    gap: Duration,
    grace: Duration,
}

impl Session {
    /// Sessions that a pause longer than the gap ends.
    pub fn with_gap(gap: Duration) -> Self {
        Self { gap, grace: Duration::ZERO }
    }

    /// How long after its end and the gap a session still takes records that are late.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    fn checked(self) -> Checked<SessionWindows> {
        let gap = millis("an inactivity gap", self.gap, 1)?;
        Ok(SessionWindows { gap, grace: millis("a grace period", self.grace, 0)? })
    }
}

/// Sessions, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SessionWindows {
    pub(crate) gap: i64,
    pub(crate) grace: i64,
}

/// Windows with one size for all.
#[derive(Clone)]
pub(crate) enum Windows {
    Time(TimeWindows),
    Sliding { difference: i64, grace: i64 },
}

impl Windows {
    /// What is between start and end.
    pub(crate) fn size(&self) -> i64 {
        match self {
            Self::Time(windows) => windows.size,
            Self::Sliding { difference, .. } => *difference,
        }
    }

    pub(crate) fn grace(&self) -> i64 {
        match self {
            Self::Time(windows) => windows.grace,
            Self::Sliding { grace, .. } => *grace,
        }
    }

    /// How long rows are needed.
    pub(crate) fn retention(&self) -> i64 {
        match self {
            Self::Time(windows) => windows.size.saturating_add(windows.grace),
            Self::Sliding { difference, grace } => difference.saturating_mul(2).saturating_add(*grace),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts(definition: Checked<Windows>, at: i64) -> Vec<i64> {
        let Ok(Windows::Time(windows)) = definition else { panic!("no time windows") };
        let mut found = Vec::new();
        windows.of(at, &mut found);
        found.into_iter().map(|window| window.start).collect()
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_time_belongs_to_all_windows_that_hold_it() {
        assert_eq!(starts(Tumbling::of(ms(100)).checked(), 99), [0]);
        assert_eq!(starts(Tumbling::of(ms(100)).checked(), 100), [100]);
        assert_eq!(starts(Hopping::of(ms(100), ms(30)).checked(), 99), [0, 30, 60, 90]);
        assert_eq!(starts(Hopping::of(ms(100), ms(30)).checked(), 100), [30, 60, 90]);
        assert_eq!(starts(Hopping::of(ms(100), ms(30)).checked(), 5), [0]);
        assert_eq!(starts(Unlimited::from(7).checked(), 6), [0i64; 0]);
        assert_eq!(starts(Unlimited::from(7).checked(), 7), [7]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert!(Tumbling::of(ms(0)).checked().is_err());
        assert!(Hopping::of(ms(10), ms(11)).checked().is_err());
        assert!(Hopping::of(ms(10), ms(0)).checked().is_err());
        assert!(Session::with_gap(ms(0)).checked().is_err());
        assert!(Unlimited::from(-1).checked().is_err());
        assert!(Sliding::of(ms(0)).checked().is_ok(), "as in Java: records of one time");
    }
}
