//! How it is said: streams, tables, and the operators on them, in Kafka Streams' words.

mod branch;
mod builder;
mod cogrouped;
mod foreign_key_join;
mod global_table;
mod graph;
mod grouped;
mod grouped_table;
mod joined;
mod ops;
mod options;
mod printed;
mod stream;
mod stream_table_join;
mod suppressed;
mod table;
mod table_join;
pub(crate) mod table_node;
mod windowed;
mod windows;

pub use branch::{Branched, BranchedKStream};
pub use builder::StreamsBuilder;
pub use cogrouped::CogroupedKStream;
pub use foreign_key_join::TableJoined;
pub use global_table::GlobalKTable;
pub use grouped::KGroupedStream;
pub use grouped_table::KGroupedTable;
pub use joined::Joined;
pub use ops::ValueTransformerWithKey;
pub use options::{Consumed, Grouped, Materialized, Produced, Repartitioned};
pub use printed::Printed;
pub use stream::{KStream, Terminal};
pub use suppressed::{BufferConfig, StrictBufferConfig, Suppressed};
pub use table::KTable;
pub use windowed::{SessionWindowedKStream, TimeWindowedKStream};
pub use windows::{
    CustomWindows, EmitStrategy, Hopping, Session, Sliding, Tumbling, Unlimited, WindowDefinition,
};

pub use crate::task::queue::Extract;
