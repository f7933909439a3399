//! `print`: a look at a stream while it is being built.

use std::fmt::{self, Display};
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::BoxError;

type Text<K, V> = Arc<dyn Fn(Option<&K>, Option<&V>) -> String + Send + Sync>;
type Writer = Arc<Mutex<dyn Write + Send>>;

/// How [`KStream::print`](super::KStream::print) writes its records: `[label]: key, value`, a line each, to standard
/// output (`org.apache.kafka.streams.kstream.Printed`).
///
/// ```
/// use mainstem::prelude::*;
///
/// let builder = StreamsBuilder::new();
/// let lines = builder.stream::<String, String>("lines");
/// lines.print("lines");
/// lines.print(Printed::with(|key: Option<&String>, line: Option<&String>| format!("{key:?} {line:?}")).named("look"));
/// builder.build()?;
/// # Ok::<(), mainstem::Error>(())
/// ```
pub struct Printed<K, V> {
    pub(crate) name: Option<Arc<str>>,
    label: Option<Arc<str>>,
    text: Text<K, V>,
    writer: Option<Writer>,
}

impl<K, V> fmt::Debug for Printed<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Printed").field("label", &self.label).finish_non_exhaustive()
    }
}

fn shown<T: Display>(value: Option<&T>) -> String {
    value.map_or_else(|| "null".to_owned(), ToString::to_string)
}

impl<K, V> Printed<K, V> {
    /// Prints what the function makes of a record.
    pub fn with(text: impl Fn(Option<&K>, Option<&V>) -> String + Send + Sync + 'static) -> Self {
        Self { name: None, label: None, text: Arc::new(text), writer: None }
    }

    /// What stands before each record; else the name of the node that the stream comes from.
    #[must_use]
    pub fn label(mut self, label: impl Into<Arc<str>>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Names the node.
    #[must_use]
    pub fn named(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Writes to a file or anything else, instead of standard output. Tasks share it.
    #[must_use]
    pub fn writer(mut self, writer: impl Write + Send + 'static) -> Self {
        self.writer = Some(Arc::new(Mutex::new(writer)));
        self
    }

    /// The action of a `for_each`; `from` is the node that the stream comes from.
    pub(crate) fn action(
        self,
        from: &str,
    ) -> impl Fn(Option<&K>, Option<&V>) -> Result<(), BoxError> + use<K, V> {
        let Self { label, text, writer, .. } = self;
        let label = label.unwrap_or_else(|| from.into());
        move |key, value| {
            let line = format!("[{label}]: {}\n", text(key, value));
            match &writer {
                Some(writer) => {
                    writer.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes())?;
                }
                None => std::io::stdout().lock().write_all(line.as_bytes())?,
            }
            Ok(())
        }
    }
}

impl<K: Display, V: Display> From<()> for Printed<K, V> {
    fn from((): ()) -> Self {
        Self::with(|key, value| format!("{}, {}", shown(key), shown(value)))
    }
}

impl<K: Display, V: Display> From<&str> for Printed<K, V> {
    fn from(label: &str) -> Self {
        Self::from(()).label(label)
    }
}
