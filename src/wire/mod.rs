//! Bytes from and to the network, as messages.
//!
//! Owns the grammar of the protocols: [`http`] (RFC 9112) and [`ws`] (RFC 6455), which take bytes that are cut
//! anywhere and give whole requests or messages, or the one fault that ends the connection; and [`sse`] (WHATWG HTML),
//! which only goes out.
//!
//! Must not know: a service, a route, JSON, a socket, the time. A codec never waits and never starts anything; how
//! old an unfinished head, body or message may become is judged by whoever owns the clock.
//!
//! Invariants: every byte has one reading or is refused; a refusal is final for its connection; no bytes from the
//! network can panic or make a buffer grow beyond the bounds of [`crate::limits`]; a codec with nothing unfinished
//! holds nothing on the heap.

pub mod http;
pub mod sse;
pub mod ws;
