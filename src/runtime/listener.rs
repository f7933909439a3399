//! Tells user code what becomes of the application: its state, and its restores.
//!
//! Listeners run on a thread of their own, one call after the other and in order: one that takes its time delays no
//! heartbeat and no record, and one that panics costs a line in the log.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::app::AppState;
use crate::record::TopicPartition;
use crate::task_id::TaskId;

/// How long the end of an application waits for what listeners still have to hear.
const LAST_CALLS: Duration = Duration::from_secs(5);

/// The store that a restore is about.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RestoringStore {
    /// The task that the store belongs to.
    pub task: TaskId,
    /// The name of the store.
    pub store: String,
    /// The changelog partition that it is restored from.
    pub changelog: TopicPartition,
}

/// Hears how stores are filled from their changelogs (`org.apache.kafka.streams.processor.StateRestoreListener`). The
/// calls come from a thread of their own, in order, and a little later than what they tell of.
pub trait RestoreListener: Send + Sync + 'static {
    /// A restore begins with the record at offset `from`, and ends before `to`. Where they are equal nothing is there to
    /// be restored, and the end follows at once.
    fn on_restore_start(&self, store: &RestoringStore, from: i64, to: i64) {
        let _ = (store, from, to);
    }

    /// `records` more records are in the store; the next comes from `next_offset` or later.
    fn on_batch_restored(&self, store: &RestoringStore, next_offset: i64, records: u64) {
        let _ = (store, next_offset, records);
    }

    /// The store is complete, after `records` records.
    fn on_restore_end(&self, store: &RestoringStore, records: u64) {
        let _ = (store, records);
    }

    /// The task is taken away before its store is complete, after `records` records.
    fn on_restore_suspended(&self, store: &RestoringStore, records: u64) {
        let _ = (store, records);
    }
}

pub(super) type StateListener = Arc<dyn Fn(AppState, AppState) + Send + Sync>;

/// What there is to tell.
pub(super) enum News {
    State(AppState, AppState),
    RestoreStart { store: RestoringStore, from: i64, to: i64 },
    BatchRestored { store: RestoringStore, next_offset: i64, records: u64 },
    RestoreEnd { store: RestoringStore, records: u64 },
    RestoreSuspended { store: RestoringStore, records: u64 },
}

/// The listeners of an application, and the way to them.
#[derive(Default)]
pub(super) struct Listeners {
    pub(super) state: Option<StateListener>,
    pub(super) restore: Option<Arc<dyn RestoreListener>>,
    line: Mutex<Line>,
}

#[derive(Default)]
enum Line {
    #[default]
    NotYet,
    /// The thread takes news here, and drops the other end of the second when it has ended.
    Open(Sender<News>, Receiver<()>),
    /// The last state has been told; the thread ends when it has.
    Last(Receiver<()>),
    Closed,
}

impl fmt::Debug for Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listeners").finish_non_exhaustive()
    }
}

impl Listeners {
    /// Whether anybody listens to restores.
    pub(super) fn hear_restores(&self) -> bool {
        self.restore.is_some()
    }

    /// Tells the news, at once and without waiting for who hears them.
    pub(super) fn tell(&self, news: News) {
        let (wanted, last) = match &news {
            News::State(_, to) => {
                (self.state.is_some(), matches!(to, AppState::NotRunning | AppState::Error))
            }
            _ => (self.restore.is_some(), false),
        };
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        if wanted && matches!(*line, Line::NotYet) {
            *line = self.open();
        }
        if let Line::Open(out, _) = &*line
            && wanted
        {
            // The thread ends when this end is dropped, and not before.
            let _ = out.send(news);
        }
        if last {
            *line = match std::mem::replace(&mut *line, Line::Closed) {
                Line::Open(_, ended) | Line::Last(ended) => Line::Last(ended),
                Line::NotYet | Line::Closed => Line::Closed,
            };
        }
    }

    fn open(&self) -> Line {
        let (out, news) = channel();
        let (done, ended) = channel();
        let (state, restore) = (self.state.clone(), self.restore.clone());
        let thread = std::thread::Builder::new().name("mainstem-listeners".to_owned()).spawn(move || {
            let _done: Sender<()> = done;
            for news in news {
                let call = || hear(news, state.as_ref(), restore.as_ref());
                if catch_unwind(AssertUnwindSafe(call)).is_err() {
                    tracing::error!("a listener panicked; the application goes on");
                }
            }
        });
        match thread {
            Ok(_) => Line::Open(out, ended),
            Err(error) => {
                tracing::error!(?error, "no thread for the listeners can be started: they hear nothing");
                Line::Closed
            }
        }
    }

    /// Waits until the last state has been heard, within reason.
    pub(super) fn finish(&self) {
        let line =
            std::mem::replace(&mut *self.line.lock().unwrap_or_else(PoisonError::into_inner), Line::Closed);
        if let Line::Last(ended) = line {
            // Nothing is ever sent: the wait ends with the thread or with the time.
            let _ = ended.recv_timeout(LAST_CALLS);
        }
    }
}

fn hear(news: News, state: Option<&StateListener>, restore: Option<&Arc<dyn RestoreListener>>) {
    match (news, state, restore) {
        (News::State(from, to), Some(listener), _) => listener(from, to),
        (News::RestoreStart { store, from, to }, _, Some(l)) => l.on_restore_start(&store, from, to),
        (News::BatchRestored { store, next_offset, records }, _, Some(l)) => {
            l.on_batch_restored(&store, next_offset, records);
        }
        (News::RestoreEnd { store, records }, _, Some(l)) => l.on_restore_end(&store, records),
        (News::RestoreSuspended { store, records }, _, Some(l)) => l.on_restore_suspended(&store, records),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_that_panics_hears_the_rest_in_order() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let log = heard.clone();
        let listeners = Listeners {
            state: Some(Arc::new(move |from, to| {
                log.lock().unwrap().push((from, to));
                assert_ne!(to, AppState::Running, "on purpose");
            })),
            ..Listeners::default()
        };
        let states = [AppState::Created, AppState::Rebalancing, AppState::Running, AppState::NotRunning];
        let steps: Vec<_> = states.windows(2).map(|pair| (pair[0], pair[1])).collect();
        steps.iter().for_each(|(from, to)| listeners.tell(News::State(*from, *to)));
        listeners.finish();
        assert_eq!(*heard.lock().unwrap(), steps);
        listeners.tell(News::State(AppState::NotRunning, AppState::NotRunning));
        listeners.finish();
        assert_eq!(heard.lock().unwrap().len(), 3, "nothing comes after the end");
    }

    #[test]
    fn nobody_listens_nothing_happens() {
        let listeners = Listeners::default();
        listeners.tell(News::State(AppState::Created, AppState::NotRunning));
        listeners.finish();
        assert!(!listeners.hear_restores());
    }
}
