//! When: the application as it runs. It puts tasks on workers, hands records to them and offsets to the group.
//!
//! Two kinds of threads. The I/O thread runs the library's own one-thread tokio runtime, so that a blocked host runtime
//! starves no heartbeat: connections, fetchers, the senders of producers, and the [`coordinator`], which carries out what
//! the group's membership machine says. Workers are plain threads; everything in a task is synchronous. Between them are
//! mailboxes ([`message`]): a worker never waits for anything but its mailbox.

mod app;
mod close;
mod control;
mod coordinator;
mod fetches;
mod figures;
mod gaps;
mod global;
mod housekeeping;
mod idle;
mod input;
mod listener;
mod local_state;
mod memory;
mod message;
mod metadata;
mod output;
mod partition_counts;
mod prepare;
mod pulse;
mod refused;
#[cfg(feature = "cli")]
pub mod reset;
mod settings;
mod state_dir;
#[cfg(feature = "cli")]
pub mod state_tools;
mod task_timeout;
mod topics;
mod uncaught;
mod worker;
mod workers;

/// Reads a process file that anybody may have written.
#[cfg(feature = "testing")]
pub(crate) fn fuzz_process(text: &[u8]) {
    drop(state_dir::parse_process(std::path::Path::new("fuzz"), "a", text));
}

pub use app::{App, AppBuilder, AppHandle, AppState, Run};
pub use close::CloseOptions;
pub use figures::{Metric, MetricValue};
pub use listener::{RestoreListener, RestoringStore};
pub use metadata::{
    InputMetadata, InstanceMetadata, RestoreMetadata, StoreLag, TaskMetadata, WorkerMetadata, WorkerState,
};
pub use uncaught::UncaughtErrorResponse;
