//! Whose: the consumer group.
#![allow(dead_code, reason = "the parts are joined later")]

mod assignor;
mod config;
mod driver;
mod event;
mod leader;
mod membership;
mod offset_metadata;
mod protocol;
mod reader;
mod recovery;
#[cfg(test)]
mod simulation;
mod user_data;
