//! The log: Kafka's wire protocol.
