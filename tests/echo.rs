//! The echo endpoint of protocol conformance runs, which exists only with the feature `echo-test`: whole messages
//! come back byte for byte up to their bound of 16 MiB, fragmented ones in one piece, a ping between the fragments is
//! answered before them, and what is too big ends with 1009. Everything else that RFC 6455 asks for is the business
//! of an outside test suite (Autobahn), for which this endpoint is there.
#![cfg(feature = "echo-test")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod daemon;

use std::io::Write;

use daemon::{Daemon, PATIENCE, Socket};
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::{Bytes, Message};

/// Bytes of the largest message.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

fn echo(daemon: &Daemon) -> Socket {
    let socket = daemon.open("/ws/echo", &[]);
    socket.inner.get_ref().set_write_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Bytes that are nowhere the same again after a few: a piece lost, doubled or unmasked wrongly is seen.
fn noise(len: usize) -> Bytes {
    (0..len as u32).map(|at| (at.wrapping_mul(0x9e37_79b1) >> 13) as u8).collect()
}

/// Text of exactly `len` bytes, in characters of one to four.
fn prose(len: usize) -> String {
    const PHRASE: &str = "Zeit läuft: 5 € für 3 µs 🕐 ";
    let mut text = PHRASE.repeat(len / PHRASE.len());
    text.push_str(&".".repeat(len % PHRASE.len()));
    text
}

/// Sends `payload` in fragments of at most `piece` bytes, and `between` after each but the last.
fn send_fragmented(socket: &mut Socket, kind: Data, payload: &[u8], piece: usize, between: Option<&Message>) {
    let last = payload.len().div_ceil(piece) - 1;
    for (at, part) in payload.chunks(piece).enumerate() {
        let kind = if at == 0 { kind } else { Data::Continue };
        let frame = Frame::message(part.to_vec(), OpCode::Data(kind), at == last);
        socket.inner.send(Message::Frame(frame)).unwrap();
        if let Some(between) = between.filter(|_| at < last) {
            socket.inner.send(between.clone()).unwrap();
        }
    }
}

/// The next thing to come is the daemon's close with 1009.
#[track_caller]
fn assert_too_big(socket: &mut Socket) {
    match socket.inner.read().unwrap() {
        Message::Close(Some(frame)) => assert_eq!(frame.code, CloseCode::Size, "{}", frame.reason),
        other => panic!("{} bytes came back", other.len()),
    }
}

#[test]
fn messages_of_16_mib_come_back_whole_and_in_order() {
    let daemon = Daemon::ephemeral(&[]);
    let mut socket = echo(&daemon);
    let (bytes, text) = (noise(MESSAGE_BYTES_MAX), prose(MESSAGE_BYTES_MAX));
    for message in [Message::Binary(bytes), Message::text("small"), Message::text(text)] {
        socket.inner.send(message.clone()).unwrap();
        // Not assert_eq: nobody reads 16 MiB of a failure.
        assert!(socket.inner.read().unwrap() == message, "{} bytes came back changed", message.len());
    }
    socket.inner.close(None).unwrap();
    assert_eq!(socket.expect_close().0, 1005, "a close without a code is answered by one without");
}

#[test]
fn a_fragmented_message_comes_back_in_one_piece() {
    let daemon = Daemon::ephemeral(&[]);
    let mut socket = echo(&daemon);
    // Odd pieces: characters are cut, and so is the mask.
    let text = prose(300_001);
    send_fragmented(&mut socket, Data::Text, text.as_bytes(), 7_777, None);
    assert!(socket.inner.read().unwrap() == Message::text(text), "the text came back changed");
    let bytes = noise(MESSAGE_BYTES_MAX);
    send_fragmented(&mut socket, Data::Binary, &bytes, 1_000_003, None);
    assert!(socket.inner.read().unwrap() == Message::Binary(bytes), "the bytes came back changed");
    send_fragmented(&mut socket, Data::Text, b"Zeit", 1, None);
    assert_eq!(socket.inner.read().unwrap(), Message::text("Zeit"));
}

#[test]
fn a_ping_between_fragments_is_answered_before_the_message_comes_back() {
    let daemon = Daemon::ephemeral(&[]);
    let mut socket = echo(&daemon);
    let text = prose(1_000);
    let ping = Message::Ping(Bytes::from_static(b"are you there?"));
    send_fragmented(&mut socket, Data::Text, text.as_bytes(), 301, Some(&ping));
    for _ in 0..3 {
        assert_eq!(socket.inner.read().unwrap(), Message::Pong(Bytes::from_static(b"are you there?")));
    }
    assert_eq!(socket.inner.read().unwrap(), Message::text(text));
}

#[test]
fn a_message_over_16_mib_is_closed_with_1009() {
    let daemon = Daemon::ephemeral(&[]);

    // In one frame: its declared length is enough, nothing of it needs to come.
    let mut socket = echo(&daemon);
    let mut header = vec![0x82, 0x80 | 127];
    header.extend((MESSAGE_BYTES_MAX as u64 + 1).to_be_bytes());
    header.extend([1, 2, 3, 4]);
    socket.inner.get_mut().write_all(&header).unwrap();
    assert_too_big(&mut socket);

    // In fragments, each of them small enough.
    let mut socket = echo(&daemon);
    send_fragmented(&mut socket, Data::Binary, &noise(MESSAGE_BYTES_MAX + 1), MESSAGE_BYTES_MAX, None);
    assert_too_big(&mut socket);

    // The others go on.
    let mut socket = echo(&daemon);
    socket.send_text("still here");
    assert_eq!(socket.inner.read().unwrap(), Message::text("still here"));
}

#[test]
fn a_ping_right_behind_a_large_message_is_answered_behind_it() {
    let daemon = Daemon::ephemeral(&[]);
    let mut socket = echo(&daemon);
    let message = Message::Binary(noise(1 << 20));
    // In one write, so that the daemon meets the ping while the whole echo still waits.
    socket.inner.write(message.clone()).unwrap();
    socket.inner.send(Message::Ping(Bytes::from_static(b"and now?"))).unwrap();
    assert!(socket.inner.read().unwrap() == message, "the message came back changed");
    assert_eq!(socket.inner.read().unwrap(), Message::Pong(Bytes::from_static(b"and now?")));
}
