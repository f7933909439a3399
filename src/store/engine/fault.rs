//! What goes wrong on a disk, said so that somebody can mend it.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{BoxError, Error, ErrorClass, ErrorKind};

/// Why a database could not do what was asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "fjall"), allow(dead_code, reason = "not every engine says all of them"))]
pub(in crate::store) enum Fault {
    Full,
    ReadOnly,
    Denied,
    Locked,
    /// Written by a release that this one knows nothing of.
    Version,
    /// What is there is not what was written.
    Damaged,
    /// An earlier write failed, and the engine takes no more.
    Stopped,
    Other,
}

impl Fault {
    pub(in crate::store) fn of_io(error: &io::Error) -> Self {
        use io::ErrorKind as Io;
        match error.kind() {
            Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge => Self::Full,
            Io::ReadOnlyFilesystem => Self::ReadOnly,
            Io::PermissionDenied => Self::Denied,
            Io::NotFound | Io::UnexpectedEof | Io::InvalidData => Self::Damaged,
            _ => Self::Other,
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::Full => {
                "the disk is full: free space there, or set state.dir to a larger one; nothing is lost, what is missing \
                 comes from the changelogs"
            }
            Self::ReadOnly => "the file system is read-only: mount it for writing, or set another state.dir",
            Self::Denied => "this process may not write there: change the owner, or set another state.dir",
            Self::Locked => {
                "another process, or another part of this one, has it open: end that one, or set another state.dir"
            }
            Self::Version => {
                "a newer release wrote it: run that one, or delete the folder, and the state is rebuilt from the changelogs (all \
                 but that of stores without one)"
            }
            Self::Damaged => {
                "its files are damaged or missing: delete the folder, and the state is rebuilt from the changelogs (all but \
                 that of stores without one)"
            }
            Self::Stopped => {
                "an earlier write failed, so that the engine takes no more: see the log for why; the next start reads all \
                 rows, and rebuilds stores that are damaged"
            }
            Self::Other => {
                "see the cause; the folder may be deleted, and the state is rebuilt from the changelogs (all but that of stores \
                 without one)"
            }
        }
    }
}

/// The error of a database. `doing` says what was tried, as in "open the database".
pub(in crate::store) fn failed(
    folder: &Path,
    doing: &str,
    fault: Fault,
    cause: impl Into<BoxError>,
) -> Error {
    let text = format!("state.dir: cannot {doing} in {}: {}", folder.display(), fault.remedy());
    let class = if fault == Fault::Damaged { ErrorClass::CorruptTask } else { ErrorClass::Fatal };
    Error::new(ErrorKind::Store, text).with_class(class).because(cause)
}

/// Notes whether it is damage that an error tells of.
#[cfg_attr(not(any(feature = "fjall", feature = "sled")), allow(dead_code, reason = "for engines on disk"))]
pub(in crate::store) fn noted(damaged: &AtomicBool, error: Error) -> Error {
    damaged.fetch_or(error.class() == ErrorClass::CorruptTask, Ordering::Relaxed);
    error
}

/// The same for an error of the file system itself.
pub(in crate::store) fn io_failed(folder: &Path, doing: &str, error: io::Error) -> Error {
    failed(folder, doing, Fault::of_io(&error), error)
}
