//! How it is said: streams, tables, and the operators on them, in Kafka Streams' words.

mod branch;
mod builder;
mod graph;
mod grouped;
mod ops;
mod options;
mod printed;
mod stream;
mod table;
mod windowed;
mod windows;

pub use branch::{Branched, BranchedKStream};
pub use builder::StreamsBuilder;
pub use grouped::KGroupedStream;
pub use options::{Consumed, Grouped, Materialized, Produced, Repartitioned};
pub use printed::Printed;
pub use stream::{KStream, Terminal};
pub use table::KTable;
pub use windowed::{SessionWindowedKStream, TimeWindowedKStream};
pub use windows::{
    CustomWindows, EmitStrategy, Hopping, Session, Sliding, Tumbling, Unlimited, WindowDefinition,
};

pub use crate::task::queue::Extract;
