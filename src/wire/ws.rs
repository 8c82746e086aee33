//! WebSocket, strictly by RFC 6455, without extensions and subprotocols.
//!
//! Owns the server's side of the opening handshake, the cutting of bytes into messages (frames, masks, fragments,
//! UTF-8, close codes) and the bytes of the server's frames. Of `tungstenite` it uses the frame header, the payload
//! types and the accept key. Not its `WebSocketContext`: that wants a stream to read and write, queues answers to
//! pings and closes that belong into the connection's outbox, and copies each payload through two buffers of its own;
//! what remains to be done without it (mask, fragments, UTF-8) is less than the adapter would be.
//!
//! Must not know: what a message means, when to ping, how old an unfinished message is.
//!
//! Invariants: a frame is judged as soon as its header is there, its first two bytes before the rest; text is judged
//! as it arrives; memory follows the bytes that arrived, not the length that was declared, and never passes the
//! message limit; with no frame or message unfinished a [`Decoder`] holds nothing on the heap. Each byte is copied
//! and unmasked once, however the input was cut.

use std::io::Cursor;

use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};
use tungstenite::{Bytes, Utf8Bytes};

use super::http::{Head, Version};

/// Bytes of the longest frame header: two, a length of eight, a mask of four.
const HEADER_BYTES_MAX: usize = 14;
/// Bytes of a control frame's payload (RFC 6455 section 5.5).
const CONTROL_BYTES_MAX: usize = 125;

// ---------------------------------------------------------------------------------------------------------------
// The opening handshake.

/// Why an upgrade request is refused (RFC 6455 section 4.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeFault {
    /// Only GET opens a WebSocket.
    NotGet,
    /// HTTP/1.0 cannot upgrade.
    Http10,
    /// The request has a body.
    Body,
    /// `Upgrade` does not name `websocket`.
    Upgrade,
    /// `Connection` does not name `Upgrade`.
    Connection,
    /// Not `Sec-WebSocket-Version: 13`, once.
    Version,
    /// Not one `Sec-WebSocket-Key` of 16 bytes in base64.
    Key,
}

impl HandshakeFault {
    /// The status to answer with.
    pub fn status(self) -> u16 {
        match self {
            HandshakeFault::NotGet => 405,
            HandshakeFault::Upgrade | HandshakeFault::Version => 426,
            _ => 400,
        }
    }

    /// Fields that the answer has to carry (RFC 6455 section 4.4, RFC 9110 sections 15.5.6 and 15.5.22).
    pub fn headers(self) -> &'static [(&'static str, &'static str)] {
        match self {
            HandshakeFault::NotGet => &[("Allow", "GET")],
            HandshakeFault::Upgrade => &[("Upgrade", "websocket")],
            HandshakeFault::Version => &[("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")],
            _ => &[],
        }
    }

    /// One sentence for people, without a full stop.
    pub fn detail(self) -> &'static str {
        match self {
            HandshakeFault::NotGet => "A WebSocket is opened with GET",
            HandshakeFault::Http10 => "A WebSocket needs HTTP/1.1",
            HandshakeFault::Body => "A WebSocket handshake has no body",
            HandshakeFault::Upgrade => "This path speaks WebSocket: Upgrade: websocket is missing",
            HandshakeFault::Connection => "The handshake's Connection header does not say Upgrade",
            HandshakeFault::Version => "The only supported Sec-WebSocket-Version is 13",
            HandshakeFault::Key => "The handshake needs one Sec-WebSocket-Key: 16 bytes in base64",
        }
    }
}

/// Whether the request asks for a WebSocket, well or badly. Any other upgrade may be ignored (RFC 9110 section 7.8).
pub fn wants_upgrade(head: &Head) -> bool {
    head.has_token("upgrade", "websocket")
}

/// The 101 answer to an upgrade request, with `common`, a block of ready lines (`Name: value\r\n`...), among its
/// fields. Host was checked with the head. Offered subprotocols and extensions are declined by not naming them.
///
/// # Errors
/// What RFC 6455 section 4.2.1 asks for and the request lacks.
pub fn handshake(head: &Head, common: &str) -> Result<Vec<u8>, HandshakeFault> {
    if head.method != "GET" {
        return Err(HandshakeFault::NotGet);
    }
    if head.version != Version::Http11 {
        return Err(HandshakeFault::Http10);
    }
    let length_is_zero = |length: &str| length.bytes().all(|b| b == b'0');
    if head.header("transfer-encoding").is_some() || !head.header("content-length").is_none_or(length_is_zero) {
        return Err(HandshakeFault::Body);
    }
    if !wants_upgrade(head) {
        return Err(HandshakeFault::Upgrade);
    }
    if !head.has_token("connection", "upgrade") {
        return Err(HandshakeFault::Connection);
    }
    if only(head, "sec-websocket-version") != Some("13") {
        return Err(HandshakeFault::Version);
    }
    let key = only(head, "sec-websocket-key").filter(|key| is_key(key)).ok_or(HandshakeFault::Key)?;
    let accept = derive_accept_key(key.as_bytes());
    Ok(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{common}\r\n"
    )
    .into_bytes())
}

/// The value of a field that is there exactly once.
fn only<'a>(head: &'a Head, name: &str) -> Option<&'a str> {
    let mut values = head.headers(name);
    values.next().filter(|_| values.next().is_none())
}

/// Whether this is base64 of 16 bytes: 22 digits and two fillers.
fn is_key(key: &str) -> bool {
    let is_digit = |b: u8| b.is_ascii_alphanumeric() || b == b'+' || b == b'/';
    key.strip_suffix("==").is_some_and(|digits| digits.len() == 22 && digits.bytes().all(is_digit))
}

// ---------------------------------------------------------------------------------------------------------------
// Messages in.

/// A whole message or control frame of the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Text.
    Text(Utf8Bytes),
    /// Bytes.
    Binary(Bytes),
    /// A message over a [`Limit`] that lets it pass: what it said was thrown away.
    TooLarge,
    /// To be answered with [`pong_frame`] of the same payload (RFC 6455 section 5.5.2).
    Ping(Bytes),
    /// Answers a ping, or was sent unasked: a sign of life.
    Pong,
    /// The client closes: to be answered with [`close_frame`] of the same code, or of 1005 when it gave none. Nothing
    /// follows it.
    Close(Option<(u16, String)>),
}

/// Why the input cannot be read any further: close with this code and reason, and drop the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseFault {
    /// 1002 protocol error, 1007 text that is not UTF-8, 1009 message too big (RFC 6455 section 7.4.1).
    pub code: u16,
    /// For people; fits into a close frame.
    pub reason: &'static str,
}

const TOO_BIG: CloseFault = CloseFault { code: 1009, reason: "Message too big" };
const NOT_UTF8: CloseFault = CloseFault { code: 1007, reason: "Text is not UTF-8" };

const fn protocol(reason: &'static str) -> CloseFault {
    CloseFault { code: 1002, reason }
}

/// How large a message may be, and what becomes of a larger one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// It is a fault, 1009.
    Close(usize),
    /// It is read to its end, forgotten as it comes, and given out as [`Message::TooLarge`].
    Skip(usize),
}

impl Limit {
    fn bytes(self) -> usize {
        match self {
            Limit::Close(bytes) | Limit::Skip(bytes) => bytes,
        }
    }
}

/// Cuts a connection's bytes into messages. Two words; the rest exists only while something is unfinished.
#[derive(Debug, Default)]
pub struct Decoder {
    unfinished: Option<Box<Unfinished>>,
    closed: bool,
}

/// The frame and the message that the input has stopped in the middle of.
#[derive(Debug, Default)]
struct Unfinished {
    /// The first `header_len` bytes of a frame's header.
    header: [u8; HEADER_BYTES_MAX],
    header_len: usize,
    /// The frame whose header is whole.
    frame: Option<Frame>,
    /// What has come of a control frame's payload, which may lie between the fragments of a message.
    control: Vec<u8>,
    /// The message whose last frame has not ended.
    message: Option<Partial>,
}

#[derive(Debug)]
struct Frame {
    opcode: OpCode,
    is_final: bool,
    /// Rotated, so that its first byte is for the payload's next one.
    mask: [u8; 4],
    /// Payload bytes to come.
    left: usize,
}

#[derive(Debug)]
struct Partial {
    is_text: bool,
    payload: Vec<u8>,
    /// How much of a text's payload is known to be UTF-8.
    checked: usize,
    /// It has passed the limit: its bytes are thrown away, unread.
    is_too_large: bool,
}

impl Decoder {
    /// A decoder at the first byte after the handshake.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads `bytes` and calls `on` for each message that is whole, in order, none over `limit`. When `on` gives
    /// false, after a Close and after a fault all further input is ignored.
    ///
    /// # Errors
    /// The first violation, after the messages before it were given out.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        limit: Limit,
        on: &mut dyn FnMut(Message) -> bool,
    ) -> Result<(), CloseFault> {
        if self.closed {
            return Ok(());
        }
        let mut boxed = self.unfinished.take();
        let mut fresh = Unfinished::default();
        let state = boxed.as_deref_mut().unwrap_or(&mut fresh);
        let outcome = state.feed(bytes, limit, on);
        self.closed = outcome != Ok(true);
        if !self.closed && state.is_something() {
            self.unfinished = Some(boxed.unwrap_or_else(|| Box::new(fresh)));
        }
        outcome.map(|_| ())
    }

    /// Whether part of a frame or of a fragmented message is held.
    pub fn is_unfinished(&self) -> bool {
        self.unfinished.is_some()
    }

    /// Bytes of memory that the unfinished input takes.
    pub fn buffered(&self) -> usize {
        self.unfinished.as_ref().map_or(0, |state| {
            let message = state.message.as_ref().map_or(0, |message| message.payload.capacity());
            size_of::<Unfinished>() + state.control.capacity() + message
        })
    }
}

impl Unfinished {
    fn is_something(&self) -> bool {
        self.header_len > 0 || self.frame.is_some() || self.message.is_some()
    }

    /// False when the input has to end here.
    fn feed(
        &mut self,
        mut input: &[u8],
        limit: Limit,
        on: &mut dyn FnMut(Message) -> bool,
    ) -> Result<bool, CloseFault> {
        while !input.is_empty() {
            let frame = match self.frame.take() {
                Some(frame) => frame,
                None => match self.header(&mut input, limit)? {
                    Some(frame) => frame,
                    None => break,
                },
            };
            // Not skipped when the input has ended: a frame without payload is whole with its header.
            if let Some(message) = self.payload(frame, &mut input)? {
                let is_close = matches!(message, Message::Close(_));
                if !on(message) || is_close {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Takes a frame's header off `input`, judged; `None` while it is not whole.
    fn header(&mut self, input: &mut &[u8], limit: Limit) -> Result<Option<Frame>, CloseFault> {
        let len = loop {
            let len = match self.header {
                _ if self.header_len < 2 => 2,
                [_, second, ..] if second & 0x7f == 126 => 8,
                [_, second, ..] if second & 0x7f == 127 => HEADER_BYTES_MAX,
                _ => 6,
            };
            let (part, rest) = input.split_at(input.len().min(len - self.header_len));
            self.header[self.header_len..][..part.len()].copy_from_slice(part);
            self.header_len += part.len();
            *input = rest;
            if self.header_len < len {
                return Ok(None);
            }
            if len > 2 {
                break len;
            }
            self.judge(self.header[0], self.header[1])?;
        };
        self.header_len = 0;
        let parsed = FrameHeader::parse(&mut Cursor::new(&self.header[..len]));
        let Ok(Some((FrameHeader { is_final, opcode, mask: Some(mask), .. }, left))) = parsed else {
            return Err(protocol("Malformed frame header"));
        };
        let least = match len {
            8 => 126,
            HEADER_BYTES_MAX => 0x1_0000,
            _ => 0,
        };
        // RFC 6455 section 5.2: the shortest form, and no more than 63 bits.
        if left < least || left > u64::MAX >> 1 {
            return Err(protocol("Malformed frame length"));
        }
        let left = usize::try_from(left).map_err(|_| TOO_BIG)?;
        if let OpCode::Data(kind) = opcode {
            if kind != Data::Continue {
                let is_text = kind == Data::Text;
                self.message = Some(Partial { is_text, payload: Vec::new(), checked: 0, is_too_large: false });
            }
            if let Some(message) = &mut self.message
                && left > limit.bytes().saturating_sub(message.payload.len())
            {
                match limit {
                    Limit::Close(_) => return Err(TOO_BIG),
                    Limit::Skip(_) => {
                        message.is_too_large = true;
                        message.payload = Vec::new();
                    }
                }
            }
        }
        Ok(Some(Frame { opcode, is_final, mask, left }))
    }

    /// Judges the first two bytes of a header (RFC 6455 sections 5.1, 5.2, 5.4, 5.5), so that a wrong frame is
    /// refused before its length and mask arrive.
    fn judge(&self, first: u8, second: u8) -> Result<(), CloseFault> {
        if first & 0x70 != 0 {
            return Err(protocol("Reserved bits are set"));
        }
        match OpCode::from(first & 0x0f) {
            OpCode::Data(Data::Reserved(_)) | OpCode::Control(Control::Reserved(_)) => {
                return Err(protocol("Unknown opcode"));
            }
            OpCode::Control(_) if first & 0x80 == 0 => return Err(protocol("Fragmented control frame")),
            OpCode::Control(_) if usize::from(second & 0x7f) > CONTROL_BYTES_MAX => {
                return Err(protocol("Control frame too long"));
            }
            OpCode::Data(Data::Continue) if self.message.is_none() => {
                return Err(protocol("Continuation of nothing"));
            }
            OpCode::Data(Data::Text | Data::Binary) if self.message.is_some() => {
                return Err(protocol("New message before the end of the last one"));
            }
            _ => {}
        }
        if second & 0x80 == 0 {
            return Err(protocol("Frame is not masked"));
        }
        Ok(())
    }

    /// Takes what there is of the frame's payload; gives the message that it ends, or keeps the frame.
    fn payload(&mut self, mut frame: Frame, input: &mut &[u8]) -> Result<Option<Message>, CloseFault> {
        let (part, rest) = input.split_at(input.len().min(frame.left));
        *input = rest;
        frame.left -= part.len();
        match (frame.opcode, self.message.take()) {
            (OpCode::Data(_), Some(mut message)) => {
                if !message.is_too_large {
                    append_unmasked(&mut message.payload, part, frame.mask);
                }
                if frame.left == 0 && frame.is_final {
                    return message.finish().map(Some);
                }
                message.check()?;
                self.message = Some(message);
            }
            // Was refused with its header.
            (OpCode::Data(_), None) => return Err(protocol("Continuation of nothing")),
            (OpCode::Control(kind), message) => {
                self.message = message;
                append_unmasked(&mut self.control, part, frame.mask);
                if frame.left == 0 {
                    let payload = std::mem::take(&mut self.control);
                    return match kind {
                        Control::Ping => Ok(Some(Message::Ping(payload.into()))),
                        Control::Close => parse_close(&payload).map(|it| Some(Message::Close(it))),
                        _ => Ok(Some(Message::Pong)),
                    };
                }
            }
        }
        if frame.left > 0 {
            frame.mask.rotate_left(part.len() % 4);
            self.frame = Some(frame);
        }
        Ok(None)
    }
}

impl Partial {
    /// Judges text that has not ended: a code point may be cut by the end of what has come, and only there. Looks at
    /// each byte once.
    fn check(&mut self) -> Result<(), CloseFault> {
        if !self.is_text || self.is_too_large {
            return Ok(());
        }
        match str::from_utf8(&self.payload[self.checked..]) {
            Ok(text) => self.checked += text.len(),
            Err(error) if error.error_len().is_none() => self.checked += error.valid_up_to(),
            Err(_) => return Err(NOT_UTF8),
        }
        Ok(())
    }

    fn finish(self) -> Result<Message, CloseFault> {
        if self.is_too_large {
            Ok(Message::TooLarge)
        } else if self.is_text {
            Utf8Bytes::try_from(self.payload).map(Message::Text).map_err(|_| NOT_UTF8)
        } else {
            Ok(Message::Binary(self.payload.into()))
        }
    }
}

/// Reads a Close's payload (RFC 6455 sections 5.5.1, 7.4).
fn parse_close(payload: &[u8]) -> Result<Option<(u16, String)>, CloseFault> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return if payload.is_empty() { Ok(None) } else { Err(protocol("Malformed close frame")) };
    };
    let code = u16::from_be_bytes(*code);
    // Those that an endpoint may send: registered ones (1004 is reserved, 1005, 1006 and 1015 are never on the wire),
    // then those of libraries and applications.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(protocol("Invalid close code"));
    }
    let reason = str::from_utf8(reason).map_err(|_| NOT_UTF8)?;
    Ok(Some((code, reason.to_owned())))
}

/// Appends `part` without its mask, whose first byte is for the first of `part` (RFC 6455 section 5.3).
fn append_unmasked(payload: &mut Vec<u8>, part: &[u8], mask: [u8; 4]) {
    let start = payload.len();
    payload.extend_from_slice(part);
    // In blocks of four masks, which the compiler turns into vector instructions.
    let mut block = [0; 16];
    block.as_chunks_mut::<4>().0.fill(mask);
    let (blocks, rest) = payload[start..].as_chunks_mut::<16>();
    for bytes in blocks {
        bytes.iter_mut().zip(block).for_each(|(byte, mask)| *byte ^= mask);
    }
    rest.iter_mut().zip(block).for_each(|(byte, mask)| *byte ^= mask);
}

// ---------------------------------------------------------------------------------------------------------------
// Frames out. A server does not mask (RFC 6455 section 5.1).

/// A text message in one frame.
pub fn text_frame(payload: &str) -> Vec<u8> {
    frame(OpCode::Data(Data::Text), payload.as_bytes())
}

/// A text message in one frame, behind what is in `out`.
pub fn push_text_frame(payload: &str, out: &mut Vec<u8>) {
    push_frame(OpCode::Data(Data::Text), payload.as_bytes(), out);
}

/// A binary message in one frame.
pub fn binary_frame(payload: &[u8]) -> Vec<u8> {
    frame(OpCode::Data(Data::Binary), payload)
}

/// A ping; of a payload over 125 bytes the first 125.
pub fn ping_frame(payload: &[u8]) -> Vec<u8> {
    frame(OpCode::Control(Control::Ping), &payload[..payload.len().min(CONTROL_BYTES_MAX)])
}

/// A pong; of a payload over 125 bytes the first 125, which no ping has.
pub fn pong_frame(payload: &[u8]) -> Vec<u8> {
    frame(OpCode::Control(Control::Pong), &payload[..payload.len().min(CONTROL_BYTES_MAX)])
}

/// A close with a code and a reason, of which at most 123 bytes of whole characters are sent. 1005 stands for no code
/// (RFC 6455 section 7.4.1): the frame has no payload.
pub fn close_frame(code: u16, reason: &str) -> Vec<u8> {
    let mut payload = Vec::new();
    if code != 1005 {
        payload.extend_from_slice(&code.to_be_bytes());
        payload.extend_from_slice(&reason.as_bytes()[..reason.floor_char_boundary(CONTROL_BYTES_MAX - 2)]);
    }
    frame(OpCode::Control(Control::Close), &payload)
}

fn frame(opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    push_frame(opcode, payload, &mut out);
    out
}

fn push_frame(opcode: OpCode, payload: &[u8], out: &mut Vec<u8>) {
    let header = FrameHeader { opcode, ..FrameHeader::default() };
    let len = payload.len() as u64;
    out.reserve(header.len(len) + payload.len());
    // Writing to a vector cannot fail.
    let _ = header.format(len, out);
    out.extend_from_slice(payload);
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use proptest::prelude::*;

    use super::super::http;
    use super::*;

    const MAX: usize = 4096;

    /// A client's frame: `first` is FIN, reserved bits and opcode.
    fn client(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        let mut out = vec![first];
        match payload.len() {
            len @ ..126 => out.push(0x80 | len as u8),
            len @ ..0x1_0000 => {
                out.push(0x80 | 126);
                out.extend((len as u16).to_be_bytes());
            }
            len => {
                out.push(0x80 | 127);
                out.extend((len as u64).to_be_bytes());
            }
        }
        out.extend(mask);
        out.extend(payload.iter().enumerate().map(|(i, b)| b ^ mask[i % 4]));
        out
    }

    fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Message>, Result<(), CloseFault>, Decoder) {
        let (mut decoder, mut messages) = (Decoder::new(), Vec::new());
        for piece in pieces {
            let outcome = decoder.feed(piece, Limit::Close(MAX), &mut |message| {
                messages.push(message);
                true
            });
            if outcome.is_err() {
                return (messages, outcome, decoder);
            }
        }
        (messages, Ok(()), decoder)
    }

    /// The code that refuses these bytes, which must be the same when they come one by one.
    fn refusal(bytes: &[u8]) -> Option<u16> {
        let whole = read([bytes]);
        let single = read(bytes.chunks(1));
        assert_eq!((&whole.0, whole.1), (&single.0, single.1), "{bytes:02x?}");
        whole.1.err().map(|fault| fault.code)
    }

    fn text(text: &str) -> Message {
        Message::Text(text.into())
    }

    #[test]
    fn messages_arrive_whole_however_they_are_cut() {
        let mut bytes = client(0x81, "grüße".as_bytes());
        bytes.extend(client(0x01, &"€uro".as_bytes()[..2]));
        bytes.extend(client(0x89, b"are you there"));
        bytes.extend(client(0x00, b""));
        bytes.extend(client(0x8a, b""));
        bytes.extend(client(0x80, &"€uro".as_bytes()[2..]));
        bytes.extend(client(0x82, &[7; 126]));
        bytes.extend(client(0x81, b""));
        bytes.extend(client(0x02, &[1]));
        bytes.extend(client(0x80, &[2, 3]));
        bytes.extend(client(0x88, b"\x03\xe8bye"));
        let all = [
            text("grüße"),
            Message::Ping(Bytes::from_static(b"are you there")),
            Message::Pong,
            text("€uro"),
            Message::Binary(Bytes::from_static(&[7; 126])),
            text(""),
            Message::Binary(Bytes::from_static(&[1, 2, 3])),
            Message::Close(Some((1000, "bye".to_owned()))),
        ];
        for cut in 0..=bytes.len() {
            let (messages, outcome, decoder) = read([&bytes[..cut], &bytes[cut..]]);
            assert_eq!((&messages[..], outcome), (&all[..], Ok(())), "cut at {cut}");
            assert!(!decoder.is_unfinished() && decoder.buffered() == 0);
        }
        assert_eq!(read(bytes.chunks(1)).0, all);
    }

    #[test]
    fn an_idle_decoder_is_small_and_holds_nothing() {
        assert!(size_of::<Decoder>() <= 16);
        let (_, outcome, mut decoder) = read([&client(0x01, b"half")[..]]);
        assert!(outcome.is_ok() && decoder.is_unfinished() && decoder.buffered() > 4);
        decoder.feed(&client(0x80, b""), Limit::Close(MAX), &mut |_| true).unwrap();
        assert!(!decoder.is_unfinished() && decoder.unfinished.is_none());
        decoder.feed(&client(0x81, b"x")[..1], Limit::Close(MAX), &mut |_| true).unwrap();
        assert!(decoder.is_unfinished());
    }

    #[test]
    fn nothing_follows_a_close_or_a_stop_or_a_fault() {
        let mut bytes = client(0x88, b"");
        bytes.extend(client(0x81, b"late"));
        bytes.extend([0xff; 9]);
        assert_eq!(read([&bytes[..], &bytes[..]]).0, [Message::Close(None)]);

        let (mut decoder, mut seen) = (Decoder::new(), 0);
        let two = [client(0x81, b"a"), client(0x81, b"b")].concat();
        for _ in 0..2 {
            decoder
                .feed(&two, Limit::Close(MAX), &mut |_| {
                    seen += 1;
                    false
                })
                .unwrap();
        }
        assert_eq!(seen, 1);

        let (messages, outcome, mut decoder) = read([&[client(0x81, b"a"), vec![0xf1, 0x80]].concat()[..]]);
        assert_eq!((messages.len(), outcome.map_err(|fault| fault.code)), (1, Err(1002)));
        assert_eq!(decoder.feed(&two, Limit::Close(MAX), &mut |_| panic!("after a fault")), Ok(()));
        assert_eq!(decoder.buffered(), 0);
    }

    #[test]
    fn a_wrong_frame_is_refused_with_its_first_two_bytes() {
        for first in 0..=255u8 {
            let refused = first & 0x70 != 0 // reserved bits
                || !matches!(first & 0x0f, 1 | 2 | 8..=10) // reserved opcode, or a continuation of nothing
                || (first & 0x08 != 0 && first & 0x80 == 0); // fragmented control frame
            assert_eq!(refusal(&[first, 0x85]), refused.then_some(1002), "{first:02x}");
            assert_eq!(refusal(&[first, 0x05]), Some(1002), "{first:02x} without a mask");
        }
        for control in [0x88, 0x89, 0x8a] {
            assert_eq!(refusal(&[control, 0x80 | 125]), None);
            assert_eq!(refusal(&[control, 0x80 | 126]), Some(1002));
            assert_eq!(refusal(&[control, 0x80 | 127]), Some(1002));
        }
        for opening in [0x01, 0x02] {
            for next in [0x01, 0x02, 0x81, 0x82] {
                assert_eq!(refusal(&[client(opening, b"a"), vec![next, 0x81]].concat()), Some(1002));
            }
            let ended = [client(opening, b"a"), client(0x80, b"b"), vec![0x80, 0x81]].concat();
            assert_eq!(refusal(&ended), Some(1002), "continuation after the end");
        }
    }

    #[test]
    fn a_length_is_judged_with_the_header() {
        let short = |len: u16| [&[0x82, 0xfe][..], &len.to_be_bytes(), &[0; 4]].concat();
        let long = |len: u64| [&[0x82, 0xff][..], &len.to_be_bytes(), &[0; 4]].concat();
        assert_eq!(refusal(&short(125)), Some(1002));
        assert_eq!(refusal(&short(126)), None);
        assert_eq!(refusal(&short(MAX as u16)), None);
        assert_eq!(refusal(&short(MAX as u16 + 1)), Some(1009));
        assert_eq!(refusal(&long(0xffff)), Some(1002));
        assert_eq!(refusal(&long(0x1_0000)), Some(1009));
        assert_eq!(refusal(&long(u64::MAX >> 1)), Some(1009));
        assert_eq!(refusal(&long(1 << 63)), Some(1002));

        let fragments = [client(0x01, &[b'a'; MAX - 1]), client(0x00, b"b")].concat();
        assert_eq!(refusal(&fragments), None);
        assert_eq!(refusal(&[&fragments[..], &[0x80, 0x81, 0, 0, 0, 0]].concat()), Some(1009));
        assert_eq!(refusal(&[&fragments[..], &client(0x89, &[0; 125]), &client(0x80, b"")].concat()), None);

        // A length is only a promise: nothing is reserved for it.
        let (_, _, decoder) = read([&short(4000)[..]]);
        assert!(decoder.buffered() < 500);
    }

    #[test]
    fn text_is_refused_at_its_first_wrong_byte() {
        let wrong: [&[u8]; 8] = [
            b"\xff",
            b"\xc0\xaf",
            b"\xed\xa0\x80",
            b"\xf4\x90\x80\x80",
            b"ok\x80",
            b"\xe2\x28\xa1",
            b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
            b"\xf8\x88\x80\x80\x80",
        ];
        for bytes in wrong {
            assert_eq!(refusal(&client(0x81, bytes)), Some(1007), "{bytes:02x?}");
            assert_eq!(refusal(&client(0x01, bytes)), Some(1007), "{bytes:02x?}");
            assert_eq!(refusal(&[client(0x01, b""), client(0x00, bytes)].concat()), Some(1007), "{bytes:02x?}");
            assert_eq!(refusal(&client(0x82, bytes)), None);
        }
        // In the middle of a frame.
        assert_eq!(refusal(&client(0x81, b"\xf4\x90\x80\x80")[..8]), Some(1007));
        // A code point may be cut by a fragment's end, not by the message's.
        assert_eq!(refusal(&client(0x01, b"\xe2\x82")), None);
        assert_eq!(refusal(&[client(0x01, b"\xe2\x82"), client(0x80, b"")].concat()), Some(1007));
        assert_eq!(refusal(&client(0x81, b"\xe2\x82")), Some(1007));
    }

    #[test]
    fn close_frames_are_judged() {
        let close = |code: u16| refusal(&client(0x88, &code.to_be_bytes()));
        for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999] {
            assert_eq!(close(code), None, "{code}");
        }
        for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
            assert_eq!(close(code), Some(1002), "{code}");
        }
        assert_eq!(refusal(&client(0x88, b"\x03")), Some(1002));
        assert_eq!(refusal(&client(0x88, b"\x03\xe8\xff")), Some(1007));
        assert_eq!(refusal(&client(0x88, &[&[3, 0xe8][..], &[b'a'; 123]].concat())), None);
    }

    #[test]
    fn a_large_message_in_pieces_costs_what_its_bytes_cost() {
        let large = "0123456789abcdef".repeat(1 << 18);
        let bytes = client(0x81, large.as_bytes());
        let (mut decoder, mut got) = (Decoder::new(), None);
        for piece in bytes.chunks(1 << 12) {
            decoder
                .feed(piece, Limit::Close(16 << 20), &mut |message| {
                    got = Some(message);
                    true
                })
                .unwrap();
        }
        assert!(got == Some(text(&large)), "4 MiB in 4 KiB pieces");
        let many = client(0x81, b"x").repeat(100_000);
        assert_eq!(read([&many[..]]).0.len(), 100_000);
    }

    #[test]
    fn frames_out_have_the_form_of_the_rfc() {
        assert_eq!(text_frame("Hello"), b"\x81\x05Hello");
        assert_eq!(binary_frame(&[0; 126])[..4], [0x82, 126, 0, 126]);
        assert_eq!(binary_frame(&vec![0; 0x1_0000])[..10], [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(ping_frame(b"a"), b"\x89\x01a");
        assert_eq!(pong_frame(&[1; 200]).len(), 2 + 125);
        assert_eq!(close_frame(1000, ""), b"\x88\x02\x03\xe8");
        assert_eq!(close_frame(1005, "ignored"), b"\x88\x00");
        let long = close_frame(4000, &"é".repeat(100));
        assert_eq!(long.len(), 2 + 2 + 122, "cut between characters");
        assert!(str::from_utf8(&long[4..]).is_ok());
    }

    fn head(lines: &str) -> Head {
        let mut decoder = http::Decoder::new();
        decoder.push(format!("{lines}\r\n\r\n").replace('\n', "\r\n").replace("\r\r", "\r").as_bytes());
        match decoder.next(|_| 0) {
            Some(http::Input::Request(request)) => request.head,
            other => panic!("{other:?}"),
        }
    }

    const ASKING: &str = "GET /ws/x HTTP/1.1\nHost: h\nUpgrade: websocket\nConnection: keep-alive, Upgrade\n\
                          Sec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";

    #[test]
    fn a_handshake_is_answered() {
        let answer = handshake(&head(ASKING), "Server: t\r\n").unwrap();
        assert_eq!(
            String::from_utf8(answer).unwrap(),
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nServer: t\r\n\r\n"
        );
        for (from, to) in [("websocket", "WebSocket"), ("websocket", "h2c, websocket"), ("keep-alive, U", "u")] {
            let head = head(&ASKING.replacen(from, to, 1));
            assert!(wants_upgrade(&head) && handshake(&head, "").is_ok(), "{to}");
        }
        let offers = format!("{ASKING}\nSec-WebSocket-Extensions: permessage-deflate\nSec-WebSocket-Protocol: a, b");
        let answer = String::from_utf8(handshake(&head(&offers), "").unwrap()).unwrap();
        assert!(!answer.contains("Extensions") && !answer.contains("Protocol:"));
    }

    #[test]
    fn a_bad_handshake_is_refused() {
        let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
        let cases = [
            ("GET", "POST", HandshakeFault::NotGet),
            ("HTTP/1.1", "HTTP/1.0", HandshakeFault::Http10),
            ("Upgrade: websocket", "Upgrade: h2c", HandshakeFault::Upgrade),
            ("Upgrade: websocket\n", "", HandshakeFault::Upgrade),
            ("keep-alive, Upgrade", "keep-alive", HandshakeFault::Connection),
            ("keep-alive, Upgrade", "Upgraded", HandshakeFault::Connection),
            ("Version: 13", "Version: 8", HandshakeFault::Version),
            ("Version: 13", "Version: 13, 8", HandshakeFault::Version),
            ("Sec-WebSocket-Version: 13\n", "", HandshakeFault::Version),
            ("Version: 13", "Version: 13\nSec-WebSocket-Version: 13", HandshakeFault::Version),
            (key, "X: y", HandshakeFault::Key),
            (key, "Sec-WebSocket-Key:", HandshakeFault::Key),
            (key, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j", HandshakeFault::Key),
            (key, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=", HandshakeFault::Key),
            (key, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQA=", HandshakeFault::Key),
            (key, "Sec-WebSocket-Key: dGhlIHNhb-BsZSBub25jZQ==", HandshakeFault::Key),
            (key, &format!("{key}\n{key}"), HandshakeFault::Key),
        ];
        for (from, to, fault) in cases {
            assert_eq!(handshake(&head(&ASKING.replacen(from, to, 1)), ""), Err(fault), "{to}");
            assert!(fault.status() >= 400 && !fault.detail().is_empty());
        }
        let mut decoder = http::Decoder::new();
        decoder.push(format!("{ASKING}\nContent-Length: 1\n\nx").replace('\n', "\r\n").as_bytes());
        let Some(http::Input::Request(request)) = decoder.next(|_| 9) else { panic!() };
        assert_eq!(handshake(&request.head, ""), Err(HandshakeFault::Body));
        assert!(handshake(&head(&format!("{ASKING}\nContent-Length: 0")), "").is_ok());
        assert!(HandshakeFault::Version.headers().contains(&("Sec-WebSocket-Version", "13")));
        assert!(!wants_upgrade(&head("GET / HTTP/1.1\nHost: h\nUpgrade: h2c\nConnection: Upgrade")));
    }

    /// A message with its payload cut into fragments at will.
    fn fragmented(text: bool, payload: &[u8], cuts: &[usize]) -> Vec<u8> {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (payload.len() + 1)).collect();
        cuts.sort_unstable();
        let mut opcode = if text { 1 } else { 2 };
        let (mut out, mut from) = (Vec::new(), 0);
        for cut in cuts {
            out.extend(client(opcode, &payload[from..cut]));
            (from, opcode) = (cut, 0);
        }
        out.extend(client(0x80 | opcode, &payload[from..]));
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_cut_gives_the_same_messages(
            sent in prop::collection::vec((any::<String>(), any::<bool>(),
                prop::collection::vec(0usize..300, 0..4)), 0..8),
            sizes in prop::collection::vec(1usize..40, 1..20),
        ) {
            let bytes: Vec<u8> = sent.iter().flat_map(|(s, t, cuts)| fragmented(*t, s.as_bytes(), cuts)).collect();
            let expected: Vec<Message> = sent.iter().map(|(s, is_text, _)| {
                if *is_text { text(s) } else { Message::Binary(Bytes::copy_from_slice(s.as_bytes())) }
            }).collect();
            let (mut pieces, mut rest, mut sizes) = (Vec::new(), &bytes[..], sizes.iter().cycle());
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
                pieces.push(piece);
                rest = after;
            }
            let (messages, outcome, decoder) = read(pieces);
            prop_assert_eq!((messages, outcome), (expected, Ok(())));
            prop_assert!(!decoder.is_unfinished());
        }

        #[test]
        fn random_bytes_are_read_or_refused_the_same_way(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            refusal(&bytes);
        }

        #[test]
        fn damaged_frames_are_read_or_refused_the_same_way(
            payload in any::<String>(), at in any::<usize>(), flip in 1u8..,
        ) {
            let mut bytes = fragmented(true, payload.as_bytes(), &[3, 9]);
            let at = at % bytes.len();
            bytes[at] ^= flip;
            refusal(&bytes);
        }
    }
}
