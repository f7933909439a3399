//! The memory of the state: how stores come back from their changelogs.

pub(crate) mod restore;
