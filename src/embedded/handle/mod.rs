//! From requests to the state and back: one file a family.

pub(crate) mod cluster;
pub(crate) mod configs;
pub(crate) mod fetch;
pub(crate) mod group;
pub(crate) mod offsets;
pub(crate) mod produce;
pub(crate) mod sasl;
pub(crate) mod topics;
pub(crate) mod txn;
