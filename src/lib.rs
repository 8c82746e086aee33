//! timerd keeps the clock of exam rooms.
//!
//! Instructors control timers over REST, students' browsers hold a WebSocket and are told the time each second,
//! candidates sit exams under a deadline, teams share a countdown, and nobody but the server owns time. One process:
//! **one loop thread owns every socket, every timer and all state; one disk thread owns SQLite.** No async runtime, no
//! lock, no thread pool; not even the table of descriptors is shared.
//!
//! # The map
//!
//! | room | owns |
//! |---|---|
//! | [`limits`] | every bound, with its reason |
//! | [`clock`] | time as values, and the only reader of the operating system's clock |
//! | [`config`], [`keys`], [`logging`], [`metrics`] | flags and environment; who may; what is told to operators |
//! | [`domain`] | what is true and what follows: nouns, deadlines, batches. Standard library only |
//! | [`wire`] | bytes to messages and back: HTTP/1.1, WebSocket, server-sent events. Knows no service |
//! | [`api`] | requests to commands, messages to JSON; the contract's order of checks |
//! | [`hub`] | connections, audiences, what waits for the disk: the daemon without its sockets |
//! | [`store`] | the disk thread: SQLite, schema, recovery |
//! | [`server`] | the mio loop: sockets, the kernel's timers, signals, the order of a turn |
//! | [`client`] | `timerd watch`, `events`, `publish`, `exam`: clients, which share nothing with the daemon but its contract |
//!
//! Pages and documents lie in `src/web/`, are embedded, and served by [`api::pages`].
//!
//! Imports run one way, and a test keeps them so: `limits, clock <- domain <- api <- hub <- server <- main` and
//! `domain <- store <- server`; `wire` stands beside `domain` and imports `limits` alone. The same noun has the same
//! file name in each room: `ls src/*/delivery.rs` is the slice of one service. A service is added by a file in
//! `domain`, `store` and `api`, a row or more in [`api::routes`], and a variant in [`domain::effects`].
//!
//! # The laws
//!
//! 1. **The clock enters once.** Each turn samples the time once and passes it down as [`clock::Now`]. No code below
//!    the loop asks for the time, for chance or for the environment.
//! 2. **Time is computed, never counted.** A running timer is a deadline; ticks lie on its own grid.
//! 3. **Visible is durable.** A noun's shown state is on the disk, or follows from what is; a change that is on its
//!    way there is seen by nobody but the commands judged after it ([`domain::staged`]).
//! 4. **The loop never waits**: not for the disk, not for a client, not for a long query.
//! 5. **Everything has a bound**, in [`limits`].
//! 6. **The core is sans-IO**: domain, api, wire and hub take bytes and time in and give effects out. The mio loop is
//!    one driver of [`hub::Hub`], the simulation in `tests/sim.rs` another.
//!
//! # A turn
//!
//! Wait for the earliest deadline or an event; sample the clock; show what has become durable and let go what it
//! held; accept; let come due what is due; read and judge; hand the batch to the disk; flush; reap; account. The
//! order is part of the contract, and `Server::turn` says at each line why it stands where it does.
//!
//! # Four flows
//!
//! *A control request.* [`wire::http::Decoder`] makes a request of bytes, [`hub`] keeps its place in the order of
//! answers, [`api::Api`] routes it, admits the caller, reads the body and calls [`domain::timers::Timers::control`],
//! which brings the timer to now, judges the action against its latest state, stages the next one and leaves three
//! effects: the record, the history entry, the announcement. The answer is held with the batch. At the end of the
//! turn [`domain::Engine::hand_over`] gives the batch to the disk thread, which writes it in one transaction and
//! wakes the loop. Then pending becomes shown, the answer goes out, and the announcement behind it.
//!
//! *A tick.* The kernel's timer wakes the loop, the deadline is taken from the heap (a stale one is dropped), the
//! remainder is computed, the JSON is written once, the frame is built once, and a pointer to it goes into each
//! client's outbox ([`hub::outbox`]); the flush sends each with one system call. The next deadline is the next second
//! of the timer's grid. Sessions, of which each has a grid of its own, are told in slots of ten milliseconds
//! ([`domain::beats`]): one alarm for a slot, one frame for each second that is left to anybody in it.
//!
//! *A press in a room.* Whoever presses is told nothing but what all hear: the change is staged, announced when it is
//! durable, and a pointer to one frame goes to everybody there ([`hub`], `rooms.rs`). A press that was meant for an
//! older revision is refused, with the state as it is by then.
//!
//! *An answer.* A candidate's message becomes a [`domain::session::Deed`], which [`domain::delivery::Delivery::act`]
//! carries out on a copy of the session's latest state, brought to now. What comes of it is staged as one: the
//! response, the event, the session's row. The reply takes its place among those that the candidate waits for
//! and leaves when the batch is durable, so that what is called saved survives whatever comes.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod api;
pub mod client;
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
pub mod wire;
