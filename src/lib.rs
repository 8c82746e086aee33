//! timerd
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]
pub mod api;
pub mod clock;
pub mod config;
pub mod domain;
pub mod hub;
pub mod keys;
pub mod limits;
pub mod logging;
pub mod metrics;
pub mod server;
pub mod store;
pub mod watch;
pub mod wire;
