//! A scripted broker for tests.
