//! Serdes.
