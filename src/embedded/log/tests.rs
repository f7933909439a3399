//! The log, rule by rule.
