//! The configuration of an application.

/// The configuration.
#[derive(Debug, Clone)]
pub struct Config {}
