//! Whose: the consumer group.
