//! Places where tests end the process, or hold it: the steps of a hand-over, and the opening of stores.
//!
//! Only with the feature `testing`, and only where the environment asks for it:
//!
//! | Variable | What it says |
//! |---|---|
//! | `MAINSTEM_ABORT_AT=PLACE:N` | the process ends (SIGABRT) when it comes to a place for the Nth time |
//! | `MAINSTEM_HOLD_AT=PLACE:N:FILE` | from the Nth time on whoever comes to a place waits there until the file exists |
//! | `MAINSTEM_HAND_OVER_RECORDS=N` | stores are handed over after N records of the changelog |
//!
//! The places, in the order of a hand-over: `begin`, `before-apply`, `row` (each), `mark`, `finish` (these three belong to the
//! engine: they come in restores, too), `after-apply`, `before-drop-runs`, `after-drop-runs`; and `open-store`.

/// The process is at a place.
#[cfg(not(feature = "testing"))]
pub(super) fn at(_: &'static str) {}

/// How many records make a hand-over, if a test says so.
#[cfg(not(feature = "testing"))]
pub(super) fn hand_over_records() -> Option<i64> {
    None
}

#[cfg(feature = "testing")]
pub(super) use asked::{at, hand_over_records};

#[cfg(feature = "testing")]
mod asked {
    use std::path::PathBuf;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use crate::clock;

    #[derive(Debug)]
    struct Fault {
        place: String,
        time: u32,
        come: AtomicU32,
        /// Waits for this file instead of ending the process.
        hold: Option<PathBuf>,
    }

    fn fault(text: &str, hold: bool) -> Option<Fault> {
        let mut parts = text.splitn(3, ':');
        let (place, time) = (parts.next()?.to_owned(), parts.next()?.parse().ok()?);
        let file = parts.next().map(PathBuf::from);
        (file.is_some() == hold).then(|| Fault { place, time, come: AtomicU32::new(0), hold: file })
    }

    fn asked_for() -> Option<&'static Fault> {
        static FAULT: OnceLock<Option<Fault>> = OnceLock::new();
        let read = || {
            let abort = std::env::var("MAINSTEM_ABORT_AT").ok().and_then(|text| fault(&text, false));
            abort.or_else(|| std::env::var("MAINSTEM_HOLD_AT").ok().and_then(|text| fault(&text, true)))
        };
        FAULT.get_or_init(read).as_ref()
    }

    pub(in crate::store) fn at(place: &'static str) {
        let Some(fault) = asked_for().filter(|fault| fault.place == place) else { return };
        let come = fault.come.fetch_add(1, Ordering::Relaxed) + 1;
        match &fault.hold {
            None if come == fault.time => std::process::abort(),
            Some(file) if come >= fault.time => {
                tracing::warn!(place, "held by a test");
                while !file.exists() {
                    clock::block(Duration::from_millis(5));
                }
            }
            _ => {}
        }
    }

    pub(in crate::store) fn hand_over_records() -> Option<i64> {
        static RECORDS: OnceLock<Option<i64>> = OnceLock::new();
        *RECORDS.get_or_init(|| std::env::var("MAINSTEM_HAND_OVER_RECORDS").ok()?.parse().ok())
    }
}
