//! What clients write and read.
//!
//! Owns a client's reading of the bytes it was sent, written from the protocols (RFC 9112, RFC 6455) and not from the
//! daemon's code, and the frames that a client sends.

use std::fmt;

/// An answer to a request.
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// The head, as text.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = ["etag", "idempotency-replayed", "retry-after"].map(|name| self.field(name));
        write!(f, "{} {kept:?} {:?}", self.status, String::from_utf8_lossy(&self.body))
    }
}

impl Answer {
    /// The value of a header field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (field, value) = line.split_once(": ")?;
            field.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

/// Takes the next whole answer out of `inbox`. `head_only`: it answers HEAD.
///
/// # Errors
/// What is wrong with it.
pub fn next_answer(inbox: &mut Vec<u8>, head_only: bool) -> Result<Option<Answer>, String> {
    let Some(end) = inbox.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = String::from_utf8(inbox[..end].to_vec()).map_err(|error| error.to_string())?;
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(|text| text.parse().ok());
    let Some(status) = status else { return Err(format!("no status line: {head:?}")) };
    let mut answer = Answer { status, head, body: Vec::new() };
    if !head_only && answer.field("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        return Ok(next_chunked(inbox, end + 4)?.map(|(body, read)| {
            inbox.drain(..read);
            Answer { body, ..answer }
        }));
    }
    let length = match answer.field("content-length").map(str::parse::<usize>) {
        Some(Ok(length)) => length,
        Some(Err(error)) => return Err(error.to_string()),
        None if matches!(status, 100..=199 | 204 | 304) => 0,
        None => return Err(format!("no length: {:?}", answer.head)),
    };
    let length = if head_only { 0 } else { length };
    if inbox.len() < end + 4 + length {
        return Ok(None);
    }
    answer.body = inbox[end + 4..end + 4 + length].to_vec();
    inbox.drain(..end + 4 + length);
    Ok(Some(answer))
}

/// A whole chunked body that begins at `at` (RFC 9112, section 7.1), and where it ends.
fn next_chunked(inbox: &[u8], mut at: usize) -> Result<Option<(Vec<u8>, usize)>, String> {
    let mut body = Vec::new();
    loop {
        let Some(line) = inbox[at..].windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
        let size = std::str::from_utf8(&inbox[at..at + line]).map_err(|error| error.to_string())?;
        let size = usize::from_str_radix(size, 16).map_err(|error| format!("{size:?}: {error}"))?;
        at += line + 2;
        let Some(chunk) = inbox.get(at..at + size + 2) else { return Ok(None) };
        if !chunk.ends_with(b"\r\n") {
            return Err("a chunk ends with CR LF".to_owned());
        }
        body.extend_from_slice(&chunk[..size]);
        at += size + 2;
        if size == 0 {
            return Ok(Some((body, at)));
        }
    }
}

/// An event of a stream (WHATWG HTML, section 9.2).
#[derive(Debug)]
pub struct Event {
    /// How long to wait before coming back, in milliseconds.
    pub retry_ms: Option<u64>,
    /// What it is called.
    pub id: Option<u64>,
    /// What it says.
    pub data: String,
}

/// Takes the next whole event out of `inbox`; returns how long it is.
///
/// # Errors
/// What is wrong with it.
pub fn next_event(inbox: &[u8]) -> Result<Option<(Event, usize)>, String> {
    let Some(end) = inbox.windows(2).position(|two| two == b"\n\n") else { return Ok(None) };
    let text = std::str::from_utf8(&inbox[..end]).map_err(|error| error.to_string())?;
    let mut event = Event { retry_ms: None, id: None, data: String::new() };
    for line in text.lines() {
        let number = |text: &str| text.parse().map_err(|_| format!("no number: {line:?}"));
        match line.split_once(": ") {
            Some(("retry", text)) => event.retry_ms = Some(number(text)?),
            Some(("id", text)) => event.id = Some(number(text)?),
            Some(("data", text)) if event.data.is_empty() => event.data = text.to_owned(),
            _ => return Err(format!("no field of ours: {line:?}")),
        }
    }
    Ok(Some((event, end + 2)))
}

/// Takes the head of an answer that has no end, if that is one: its status is 200.
pub fn take_endless(inbox: &mut Vec<u8>) -> Option<String> {
    let end = inbox.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&inbox[..end]).into_owned();
    head.starts_with("HTTP/1.1 200 ").then(|| {
        inbox.drain(..end + 4);
        head
    })
}

/// A frame from the server.
#[derive(Debug, PartialEq)]
pub enum Frame {
    /// Text.
    Text(String),
    /// A ping, to be answered.
    Ping(Vec<u8>),
    /// The answer to a ping.
    Pong,
    /// The end, with its code.
    Close(Option<u16>, String),
}

/// Takes the next whole frame out of `inbox`, beginning at `from`; returns how long it is.
///
/// # Errors
/// What is wrong with it.
pub fn next_frame(inbox: &[u8]) -> Result<Option<(Frame, usize)>, String> {
    let [first, second, ..] = *inbox else { return Ok(None) };
    if first & 0xf0 != 0x80 || second & 0x80 != 0 {
        return Err(format!("a server's frame is whole, unmasked and plain, not {first:#x} {second:#x}"));
    }
    let (length, at) = match second {
        126 if inbox.len() < 4 => return Ok(None),
        126 => (usize::from(u16::from_be_bytes([inbox[2], inbox[3]])), 4),
        127 if inbox.len() < 10 => return Ok(None),
        127 => {
            let length = u64::from_be_bytes(std::array::from_fn(|at| inbox[2 + at]));
            (usize::try_from(length).map_err(|error| error.to_string())?, 10)
        }
        short => (usize::from(short), 2),
    };
    let Some(payload) = inbox.get(at..at + length) else { return Ok(None) };
    let frame = match first & 0x0f {
        1 => Frame::Text(std::str::from_utf8(payload).map_err(|error| error.to_string())?.to_owned()),
        8 if payload.is_empty() => Frame::Close(None, String::new()),
        8 if payload.len() >= 2 => {
            let code = u16::from_be_bytes([payload[0], payload[1]]);
            Frame::Close(Some(code), String::from_utf8_lossy(&payload[2..]).into_owned())
        }
        9 => Frame::Ping(payload.to_vec()),
        10 => Frame::Pong,
        other => return Err(format!("no frame has opcode {other}")),
    };
    Ok(Some((frame, at + length)))
}

/// Takes what a client reads that asked for a socket and has none yet. `Some(true)`: it has one now; `Some(false)`: it
/// is refused for want of time or room.
///
/// # Errors
/// Any other answer to a valid upgrade, in words.
pub fn take_upgrade(inbox: &mut Vec<u8>) -> Result<Option<bool>, String> {
    match next_answer(inbox, false) {
        Ok(Some(answer)) if answer.status == 101 => Ok(Some(true)),
        Ok(Some(answer)) if matches!(answer.status, 408 | 503) => Ok(Some(false)),
        Ok(None) => Ok(None),
        other => Err(format!("{other:?}")),
    }
}

/// Takes all whole frames out of `inbox`.
///
/// # Errors
/// What is wrong with one of them.
pub fn take_frames(inbox: &mut Vec<u8>) -> Result<Vec<Frame>, String> {
    let (mut frames, mut read) = (Vec::new(), 0);
    while let Some((frame, length)) = next_frame(&inbox[read..])? {
        read += length;
        frames.push(frame);
    }
    inbox.drain(..read);
    Ok(frames)
}

/// A client's frame: masked, as RFC 6455 section 5.3 wants it. Under a mask of zeros it is as plain as it is quick.
pub fn frame(opcode: u8, payload: &[u8], mask: u32) -> Vec<u8> {
    let mut bytes = vec![0x80 | opcode];
    match payload.len() {
        short @ 0..126 => bytes.push(0x80 | u8::try_from(short).unwrap()),
        long => match u16::try_from(long) {
            Ok(long) => {
                bytes.push(0x80 | 126);
                bytes.extend_from_slice(&long.to_be_bytes());
            }
            Err(_) => {
                bytes.push(0x80 | 127);
                bytes.extend_from_slice(&(long as u64).to_be_bytes());
            }
        },
    }
    let is_plain = mask == 0;
    let mask = mask.to_be_bytes();
    bytes.extend_from_slice(&mask);
    if is_plain {
        bytes.extend_from_slice(payload);
        return bytes;
    }
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// The request that opens a WebSocket.
pub fn upgrade(path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: exam\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .into_bytes()
}
