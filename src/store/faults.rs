//! Places where tests end the process, or hold it: the steps of a transaction and of a hand-over, and the opening of stores.
//!
//! Only with the feature `testing`, and only where the environment asks for it:
//!
//! | Variable | What it says |
//! |---|---|
//! | `MAINSTEM_ABORT_AT=PLACE:N` | the process ends (SIGABRT) when it comes to a place for the Nth time |
//! | `MAINSTEM_HOLD_AT=PLACE:FILE` | whoever comes to a place waits there for as long as the file exists, and makes FILE.held |
//! | `MAINSTEM_HAND_OVER_RECORDS=N` | stores are handed over after N records of the changelog |
//!
//! The places, in the order of a hand-over: `begin`, `before-apply`, `row` (each), `mark`, `finish` (these three belong to the
//! engine: they come in restores, too), `after-apply`, `before-drop-runs`, `after-drop-runs`; and `open-store`. Under
//! exactly-once a commit comes to `flushed` (caches are), `asked` (the producer was told to commit), `committed` (Kafka
//! has), `published` (readers see it).

/// The process is at a place.
#[cfg(not(feature = "testing"))]
pub(crate) fn at(_: &'static str) {}

/// How many records make a hand-over, if a test says so.
#[cfg(not(feature = "testing"))]
pub(super) fn hand_over_records() -> Option<i64> {
    None
}

#[cfg(feature = "testing")]
pub(crate) use asked::at;
#[cfg(feature = "testing")]
pub(super) use asked::hand_over_records;

#[cfg(feature = "testing")]
mod asked {
    use std::path::PathBuf;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use crate::clock;

    /// What happens at a place.
    enum Fault {
        Abort { time: u32, come: AtomicU32 },
        Hold { file: PathBuf },
    }

    fn asked_for() -> Option<&'static (String, Fault)> {
        static FAULT: OnceLock<Option<(String, Fault)>> = OnceLock::new();
        let read = |variable: &str| {
            let text = std::env::var(variable).ok()?;
            text.split_once(':').map(|(place, more)| (place.to_owned(), more.to_owned()))
        };
        let abort = || {
            let (place, time) = read("MAINSTEM_ABORT_AT")?;
            Some((place, Fault::Abort { time: time.parse().ok()?, come: AtomicU32::new(0) }))
        };
        let hold = || {
            let (place, file) = read("MAINSTEM_HOLD_AT")?;
            Some((place, Fault::Hold { file: file.into() }))
        };
        FAULT.get_or_init(|| abort().or_else(hold)).as_ref()
    }

    pub(crate) fn at(place: &'static str) {
        match asked_for() {
            Some((at, Fault::Abort { time, come }))
                if at == place && come.fetch_add(1, Ordering::Relaxed) + 1 == *time =>
            {
                std::process::abort()
            }
            Some((at, Fault::Hold { file })) if at == place => {
                while file.exists() {
                    let held = file.with_extension("held");
                    if !held.exists() {
                        // Only the test that asked for it waits for that.
                        let _ = std::fs::write(held, place);
                    }
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
