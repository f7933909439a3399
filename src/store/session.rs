//! Sessions of a key (`RocksDBSessionStore.findSessions`).

use crate::error::BoxError;
use crate::record::Timestamp;
use crate::serde::windowed::{TIME, time_at};
use crate::serde::{Window, Windowed};

use super::KvStore;
use super::window::Times;

/// The session that a row's key ends with.
pub(crate) fn session_of(key: &[u8]) -> Window {
    let at = key.len().saturating_sub(2 * TIME);
    Window { start: time_at(key, at + TIME), end: time_at(key, at) }
}

impl<K: Clone + 'static, V: Clone + 'static> KvStore<Windowed<K>, V> {
    /// The sessions of a key that end at `earliest_end` or later and begin at `latest_start` or before, by their ends.
    pub(crate) fn find_sessions(
        &self,
        inner: &[u8],
        earliest_end: Timestamp,
        latest_start: Timestamp,
        found: &mut Vec<(Window, V)>,
    ) -> Result<(), BoxError> {
        found.clear();
        let times = Times::new(earliest_end.max(0), self.newest().max(earliest_end));
        self.fetch_key(inner, times, false, |key, (value, _)| {
            let session = session_of(&key);
            if session.start <= latest_start {
                found.push((session, value));
            }
            true
        })
    }
}
