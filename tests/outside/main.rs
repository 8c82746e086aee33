//! The contracts, seen from outside: the built binary as a child process, real sockets, files and signals.
//!
//! One binary for all of them, as they wait more than they compute: `cargo test --test outside http::` is one of its
//! parts. Loads that take whole cores for themselves, and a browser's, are elsewhere.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "figures, and what was skipped, are shown with --nocapture")]
#![allow(unreachable_pub, reason = "the modules of one test")]

mod access;
mod client;
#[path = "../daemon/mod.rs"]
mod daemon;
mod delivery;
mod events;
mod http;
mod loads;
mod operations;
mod readme;
mod rest;
mod rooms;
mod stream;
mod websocket;
