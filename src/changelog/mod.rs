//! The changelog behind a store: what says how far the store's engine holds it, whether that can still be believed, and how
//! the rest of it comes back.
//!
//! A store on disk is a cache of its changelog. [`checkpoint`] is the row that says up to where, of which log;
//! [`verdict`] holds it against what the brokers say of that log today, and either resumes or says why the cache is thrown
//! away; [`facts`] asks the brokers; [`restore`] reads what is missing.

pub(crate) mod checkpoint;
pub(crate) mod facts;
pub(crate) mod restore;
#[cfg(all(test, feature = "embedded"))]
mod tests;
pub(crate) mod verdict;
