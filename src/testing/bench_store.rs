//! The bottom of a store alone, for measuring engines: recent rows, frozen runs, an engine, and a thread that hands runs
//! over. What the stores of a topology do above it (types, changelog, commits) is left out.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::store::database::{Database, EngineKind};
use crate::store::engine::Engine;
use crate::store::run::{RunBuilder, SortedRun};
use crate::task_id::TaskId;

/// What a [`BenchStore`] has done.
#[derive(Debug, Default, Clone, Copy)]
pub struct BenchFigures {
    /// Reads that reached the engine.
    pub engine_reads: u64,
    /// Runs handed over.
    pub hand_overs: u64,
    /// How often a run had to wait because the one before it was not in the engine yet.
    pub waits: u64,
}

/// Rows of 16 bytes (a timestamp and a count) under keys of any bytes.
pub struct BenchStore {
    /// The rows, and whether they are open. What is not is only kept so that it need not be read again.
    recent: HashMap<Bytes, ([u8; 16], bool)>,
    open: Vec<Bytes>,
    run_rows: usize,
    recent_rows: usize,
    run: Option<Arc<SortedRun>>,
    engine: Box<dyn Engine>,
    to_keeper: SyncSender<Arc<SortedRun>>,
    from_keeper: Receiver<Result<()>>,
    keeper: JoinHandle<()>,
    figures: BenchFigures,
    _database: Database,
}

impl std::fmt::Debug for BenchStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BenchStore").field("figures", &self.figures).finish_non_exhaustive()
    }
}

impl BenchStore {
    /// A store on the engine of a name (`fjall`, `sled`, `memory`), whose cache takes `cache` bytes. A run is handed over
    /// when `run_rows` rows have changed; up to `recent_rows` rows are kept beside what is open.
    pub fn open(
        engine: &str,
        folder: &Path,
        cache: u64,
        run_rows: usize,
        recent_rows: usize,
    ) -> Result<Self> {
        let kinds = [EngineKind::Fjall, EngineKind::Sled, EngineKind::Memory];
        let Some(kind) = kinds.into_iter().find(|kind| kind.name() == engine) else {
            return Err(Error::new(ErrorKind::Config, format!("{engine:?} is not fjall, sled or memory")));
        };
        let database = Database::open(kind, folder, cache)?;
        let engine = database.open_store(TaskId::new(0, 0), "bench", 1)?;
        let (to_keeper, runs) = sync_channel::<Arc<SortedRun>>(1);
        let (done, from_keeper) = sync_channel(1);
        let mut writer = engine.writer();
        let keeper = std::thread::spawn(move || {
            for run in runs {
                let applied = writer.as_mut().map_or(Ok(()), |writer| writer.apply(&run, Some(b"mark")));
                drop(run);
                if done.send(applied).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            recent: HashMap::new(),
            open: Vec::new(),
            run_rows,
            recent_rows,
            run: None,
            engine,
            to_keeper,
            from_keeper,
            keeper,
            figures: BenchFigures::default(),
            _database: database,
        })
    }

    /// Counts a key.
    pub fn count(&mut self, key: &[u8], timestamp: i64) -> Result<i64> {
        let count = match self.recent.get_mut(key) {
            Some((row, open)) => {
                if !std::mem::replace(open, true) {
                    self.open.push(Bytes::copy_from_slice(key));
                }
                counted(row, timestamp)
            }
            None => {
                let found = self.below(key)?;
                let mut row = found.and_then(|row| row[..].try_into().ok()).unwrap_or([0; 16]);
                let count = counted(&mut row, timestamp);
                let key = Bytes::copy_from_slice(key);
                self.open.push(key.clone());
                self.recent.insert(key, (row, true));
                count
            }
        };
        if self.open.len() >= self.run_rows {
            self.hand_over()?;
        } else if self.recent.len() > self.open.len() + self.recent_rows {
            self.recent.retain(|_, (_, open)| *open);
        }
        Ok(count)
    }

    fn below(&mut self, key: &[u8]) -> Result<Option<Bytes>> {
        if let Some(run) = &self.run
            && let Some(row) = run.get(key)
        {
            return Ok(row.map(Bytes::copy_from_slice));
        }
        self.figures.engine_reads += 1;
        self.engine.get(key)
    }

    /// Freezes what is open into a run, and has it handed over.
    fn hand_over(&mut self) -> Result<()> {
        let recent = &mut self.recent;
        let mut run = RunBuilder::with_capacity(self.open.len(), self.open.len() * 48);
        for key in self.open.drain(..) {
            if let Some((row, open)) = recent.get_mut(&key) {
                *open = false;
                run.push(&key, Some(row))?;
            }
        }
        let run = run.sorted();
        if recent.len() > self.recent_rows {
            recent.clear();
        }
        self.figures.hand_overs += 1;
        if self.engine.writer().is_none() {
            return self.engine.apply(&run, Some(b"mark"));
        }
        self.settle()?;
        let run = Arc::new(run);
        self.run = Some(run.clone());
        self.to_keeper.send(run).map_err(|_| Error::new(ErrorKind::Closed, "the keeper has ended"))
    }

    /// Waits until the run in hand is in the engine.
    fn settle(&mut self) -> Result<()> {
        if self.run.is_none() {
            return Ok(());
        }
        let applied = match self.from_keeper.try_recv() {
            Ok(applied) => applied,
            Err(_) => {
                self.figures.waits += 1;
                let ended = |_| Error::new(ErrorKind::Closed, "the keeper has ended");
                self.from_keeper.recv().map_err(ended)?
            }
        };
        self.run = None;
        applied
    }

    /// Hands everything over, closes the store, and says what it has done.
    pub fn close(mut self) -> Result<BenchFigures> {
        self.hand_over()?;
        self.settle()?;
        let Self { engine, to_keeper, from_keeper, keeper, figures, _database, .. } = self;
        drop((to_keeper, from_keeper));
        if keeper.join().is_err() {
            return Err(Error::new(ErrorKind::Panic, "the keeper panicked"));
        }
        drop((engine, _database));
        Ok(figures)
    }
}

/// One more in a row.
fn counted(row: &mut [u8; 16], timestamp: i64) -> i64 {
    let mut count = [0; 8];
    count.copy_from_slice(&row[8..]);
    let count = i64::from_be_bytes(count) + 1;
    row[..8].copy_from_slice(&timestamp.to_be_bytes());
    row[8..].copy_from_slice(&count.to_be_bytes());
    count
}
