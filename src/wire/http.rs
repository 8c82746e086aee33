//! HTTP/1.x messages, strictly by RFC 9112.
//!
//! Owns the framing of requests (head, body by length or by chunks, `Expect`) and the bytes of answers. Header fields
//! are split by `httparse`; since that crate tolerates some of what the RFC forbids (a bare LF, an empty chunk size),
//! every byte of a head is looked at here first, and the request line and chunks are read here altogether.
//!
//! Must not know: which paths and methods exist, what a body means, how old a connection is.
//!
//! Invariants: whatever two recipients could read differently (two lengths, a length beside a coding, a bare CR or
//! LF, a folded field, a doubled Host) is a [`Fault`], after which the decoder gives nothing more and the connection
//! has to be closed. A byte of a head is looked at once however the head was cut, and once more when it is whole.
//! Nothing is reserved on the word of a client: memory follows the bytes that arrived.

use crate::limits::{CHUNK_LINE_BYTES_MAX, HEAD_BYTES_MAX, HEADERS_MAX};

/// Empty lines that may precede a request line (RFC 9112 section 2.2): old clients end a body with one.
const EMPTY_LINES_MAX: u8 = 2;

/// The interim answer to `Expect: 100-continue` (RFC 9110 section 15.2.1).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

// ---------------------------------------------------------------------------------------------------------------
// Requests.

/// The protocol version of a request. Any other is [`Fault::Version`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0: closes after the answer unless asked to keep alive.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// A request line and its header fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The method, case kept: a token, not necessarily a known one.
    pub method: String,
    /// The path without the query, still percent-encoded: begins with `/`, or is `*` for OPTIONS alone. Of an
    /// absolute-form target the path alone.
    pub path: String,
    /// What follows the first `?`, raw; empty when there is none.
    pub query: String,
    /// The version in the request line.
    pub version: Version,
    /// Names (in lower case) and values of all fields, end to end.
    text: String,
    fields: Vec<Field>,
}

/// Where a field lies in [`Head::text`]: its name from `start` to `middle`, its value from there to `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Field {
    start: usize,
    middle: usize,
    end: usize,
}

impl Head {
    /// Bytes of memory that it takes beside itself.
    fn buffered(&self) -> usize {
        let texts = [&self.method, &self.path, &self.query, &self.text];
        let fields = self.fields.capacity() * size_of::<Field>();
        texts.into_iter().map(String::capacity).sum::<usize>() + fields
    }

    /// The value of the first field of that name (in lower case), without the blanks around it. Bytes that are not
    /// UTF-8 are shown as U+FFFD. Of an absolute-form request `host` is the authority of its target (RFC 9112
    /// section 3.2.2).
    pub fn header(&self, lower_case_name: &str) -> Option<&str> {
        self.headers(lower_case_name).next()
    }

    /// The values of all fields of that name (in lower case), in their order.
    pub fn headers<'a>(&'a self, lower_case_name: &str) -> impl Iterator<Item = &'a str> {
        let named = move |field: &&Field| &self.text[field.start..field.middle] == lower_case_name;
        self.fields.iter().filter(named).map(|field| &self.text[field.middle..field.end])
    }

    /// Whether a list field (RFC 9110 section 5.6.1) has `token` as a member, in any case of letters.
    pub fn has_token(&self, lower_case_name: &str, token: &str) -> bool {
        self.headers(lower_case_name).flat_map(members).any(|member| member.eq_ignore_ascii_case(token))
    }

    /// Whether the connection outlives the answer (RFC 9112 section 9.3): HTTP/1.1 unless `close` is said, HTTP/1.0
    /// only if `keep-alive` is said.
    pub fn keep_alive(&self) -> bool {
        !self.has_token("connection", "close")
            && (self.version == Version::Http11 || self.has_token("connection", "keep-alive"))
    }

    fn push(&mut self, name: &str, value: &str) {
        let start = self.text.len();
        self.text.extend(name.chars().map(|c| c.to_ascii_lowercase()));
        let middle = self.text.len();
        self.text.push_str(value);
        self.fields.push(Field { start, middle, end: self.text.len() });
    }
}

/// The members of a list field's value; empty ones are ignored, as RFC 9110 section 5.6.1.2 asks of a recipient.
fn members(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(|member| member.trim_matches([' ', '\t'])).filter(|member| !member.is_empty())
}

/// A whole request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Request line and fields.
    pub head: Head,
    /// The body, without its transfer coding; empty when there is none.
    pub body: Vec<u8>,
}

impl Request {
    /// Bytes of memory that it takes beside itself.
    pub fn buffered(&self) -> usize {
        self.head.buffered() + self.body.capacity()
    }
}

/// What [`Decoder::next`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A head with `Expect: 100-continue` is whole and none of its body has come: answer [`CONTINUE`], or a final
    /// status and close. The head is [`Decoder::head`].
    Expect,
    /// A whole request.
    Request(Request),
    /// The input has no single reading. Answer its status and close: nothing more will come.
    Fault(Fault),
}

/// Why a connection's input cannot be read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The first bytes cannot be a method (a TLS hello, for one).
    NotHttp,
    /// More than two empty lines before a request line.
    EmptyLines,
    /// Not `method SP target SP version`.
    RequestLine,
    /// A target of no allowed form, or with a character that has to be percent-encoded.
    Target,
    /// CONNECT asks for a tunnel.
    Connect,
    /// HTTP, but neither 1.0 nor 1.1.
    Version,
    /// A CR without its LF or an LF without its CR.
    LineEnding,
    /// A header field that is folded, has no name, a blank before its colon, or a control character.
    Field,
    /// HTTP/1.1 without Host.
    HostMissing,
    /// More than one Host.
    HostDoubled,
    /// A Host that is not a host with an optional port.
    HostInvalid,
    /// A Content-Length that is given twice, is a list, or is not a decimal number.
    ContentLength,
    /// Content-Length and Transfer-Encoding together.
    LengthAndEncoding,
    /// Transfer-Encoding in HTTP/1.0, which has none.
    EncodingTooNew,
    /// `chunked` applied twice, or a Transfer-Encoding that names nothing.
    Encoding,
    /// A transfer coding other than `chunked`.
    EncodingUnknown,
    /// A chunk's size line or the end of its data is malformed, or the line is over its bound.
    Chunk,
    /// A malformed trailer section, or one over its bound.
    Trailer,
    /// The request line is over [`HEAD_BYTES_MAX`].
    RequestLineTooLong,
    /// The head is over [`HEAD_BYTES_MAX`].
    HeadTooLarge,
    /// More than [`HEADERS_MAX`] fields.
    TooManyFields,
    /// The body is over the limit of its request.
    BodyTooLarge,
    /// An expectation other than `100-continue`.
    Expectation,
}

impl Fault {
    /// The status to answer with (RFC 9110 section 15, RFC 6585 section 5).
    pub fn status(self) -> u16 {
        match self {
            Fault::BodyTooLarge => 413,
            Fault::RequestLineTooLong => 414,
            Fault::Expectation => 417,
            Fault::HeadTooLarge | Fault::TooManyFields => 431,
            Fault::Connect | Fault::EncodingUnknown => 501,
            Fault::Version => 505,
            _ => 400,
        }
    }

    /// One sentence for people, without a full stop.
    pub fn detail(self) -> &'static str {
        match self {
            Fault::NotHttp => "This is not HTTP (the server speaks plain HTTP/1.1 here, no TLS)",
            Fault::EmptyLines => "Too many empty lines before the request line",
            Fault::RequestLine => "Malformed request line",
            Fault::Target => {
                "Malformed request target: blanks, control characters, '#' and non-ASCII must be encoded"
            }
            Fault::Connect => "CONNECT is not supported",
            Fault::Version => "Only HTTP/1.0 and HTTP/1.1 are supported",
            Fault::LineEnding => "A line of the head does not end with CR LF",
            Fault::Field => "Malformed header field",
            Fault::HostMissing => "The Host header is missing",
            Fault::HostDoubled => "The Host header is given more than once",
            Fault::HostInvalid => "The Host header is not a host name with an optional port",
            Fault::ContentLength => "The Content-Length header is not one decimal number",
            Fault::LengthAndEncoding => "Content-Length and Transfer-Encoding exclude each other",
            Fault::EncodingTooNew => "HTTP/1.0 has no Transfer-Encoding",
            Fault::Encoding => "Malformed Transfer-Encoding header",
            Fault::EncodingUnknown => "The only supported Transfer-Encoding is chunked",
            Fault::Chunk => "Malformed chunk in the body",
            Fault::Trailer => "Malformed or oversized trailer after the body",
            Fault::RequestLineTooLong => "The request line is too long",
            Fault::HeadTooLarge => "The request headers are too large",
            Fault::TooManyFields => "The request has too many headers",
            Fault::BodyTooLarge => "The request body is too large",
            Fault::Expectation => "The only supported expectation is 100-continue",
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Decoding.

/// Where a connection's input stands, for whoever decides how long that may last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Between requests, nothing held. After a fault too.
    Idle,
    /// Bytes are held that do not make a whole head yet, or that [`Decoder::next`] has not been asked about.
    Head,
    /// A head is whole and its body is not.
    Body,
}

/// Cuts a connection's bytes into requests.
///
/// [`push`](Decoder::push) bytes as they come, then call [`next`](Decoder::next) until it gives `None`. An idle
/// decoder is two words and holds nothing on the heap.
#[derive(Debug, Default)]
pub struct Decoder {
    held: Option<Box<Held>>,
    /// Empty lines seen since the last request: a bound on them must not forget what it has dropped.
    empty_lines: u8,
    failed: bool,
}

/// Input that is not consumed yet and what was learned from it.
#[derive(Debug, Default)]
struct Held {
    input: Vec<u8>,
    /// How much of `input` is consumed. Moved instead of the bytes, so that many requests of one read cost one move.
    taken: usize,
    scan: Scan,
    reading: Option<Reading>,
}

/// A request whose head is whole.
#[derive(Debug)]
struct Reading {
    head: Head,
    body: Vec<u8>,
    body_bytes_max: usize,
    expects: Expects,
}

/// What the next bytes of a body have to be.
#[derive(Debug)]
enum Expects {
    /// That many more bytes, by Content-Length.
    Rest(usize),
    ChunkSize,
    ChunkData(usize),
    ChunkEnd,
    /// Trailer fields, which may take that many more bytes.
    Trailer(usize),
}

impl Decoder {
    /// A decoder at the beginning of a connection.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends what was read. Ignored after a fault.
    pub fn push(&mut self, bytes: &[u8]) {
        if bytes.is_empty() || self.failed {
            return;
        }
        let held = self.held.get_or_insert_default();
        held.input.drain(..held.taken);
        held.taken = 0;
        held.input.extend_from_slice(bytes);
    }

    /// The next thing in the input, if it is whole.
    ///
    /// `body_limit` gives the most bytes a request's body may have; it is asked once a request, when the head is
    /// whole, and only if there is a body. After a request that asks for an upgrade call
    /// [`take_rest`](Decoder::take_rest) first: what follows may be no HTTP.
    pub fn next(&mut self, body_limit: impl FnOnce(&Head) -> usize) -> Option<Input> {
        let held = self.held.as_deref_mut()?;
        let found = held.advance(&mut self.empty_lines, body_limit);
        if held.taken == held.input.len() {
            // Nothing unconsumed: a body that is still under way waits without the buffer it came through.
            held.input = Vec::new();
            held.taken = 0;
            if held.reading.is_none() {
                self.held = None;
            }
        }
        match found {
            Ok(found) => {
                if let Some(Input::Request(_)) = found {
                    self.empty_lines = 0;
                }
                found
            }
            Err(fault) => {
                self.held = None;
                self.failed = true;
                Some(Input::Fault(fault))
            }
        }
    }

    /// The head of the request whose body is being read.
    pub fn head(&self) -> Option<&Head> {
        Some(&self.held.as_ref()?.reading.as_ref()?.head)
    }

    /// What the input stands in the middle of.
    pub fn stage(&self) -> Stage {
        match self.held.as_deref() {
            None => Stage::Idle,
            Some(held) if held.reading.is_some() => Stage::Body,
            Some(_) => Stage::Head,
        }
    }

    /// Bytes of memory that unconsumed input, and the head and body of an unfinished request, take.
    pub fn buffered(&self) -> usize {
        self.held.as_ref().map_or(0, |held| {
            let unfinished = held.reading.as_ref();
            held.input.capacity() + unfinished.map_or(0, |it| it.head.buffered() + it.body.capacity())
        })
    }

    /// Takes what followed the last request: the first bytes of the protocol that a connection was upgraded to.
    pub fn take_rest(&mut self) -> Vec<u8> {
        self.held.take().map_or_else(Vec::new, |mut held| held.input.split_off(held.taken))
    }
}

impl Held {
    fn advance(
        &mut self,
        empty_lines: &mut u8,
        body_limit: impl FnOnce(&Head) -> usize,
    ) -> Result<Option<Input>, Fault> {
        if self.reading.is_none() {
            self.skip_empty_lines(empty_lines)?;
            let Some(len) = self.scan.advance(&self.input[self.taken..])? else { return Ok(None) };
            let head = parse_head(&self.input[self.taken..][..len])?;
            self.taken += len;
            self.scan = Scan::default();
            let continues = expects_continue(&head)?;
            let Some(expects) = framing(&head)? else {
                return Ok(Some(Input::Request(Request { head, body: Vec::new() })));
            };
            let body_bytes_max = body_limit(&head);
            if matches!(expects, Expects::Rest(len) if len > body_bytes_max) {
                return Err(Fault::BodyTooLarge);
            }
            self.reading = Some(Reading { head, body: Vec::new(), body_bytes_max, expects });
            if continues && self.taken == self.input.len() {
                return Ok(Some(Input::Expect));
            }
        }
        let Some(reading) = &mut self.reading else { return Ok(None) };
        let mut rest = &self.input[self.taken..];
        let whole = reading.advance(&mut rest)?;
        self.taken = self.input.len() - rest.len();
        if !whole {
            return Ok(None);
        }
        let request = self.reading.take().map(|reading| Request { head: reading.head, body: reading.body });
        Ok(request.map(Input::Request))
    }

    fn skip_empty_lines(&mut self, seen: &mut u8) -> Result<(), Fault> {
        while self.input[self.taken..].starts_with(b"\r\n") {
            *seen += 1;
            if *seen > EMPTY_LINES_MAX {
                return Err(Fault::EmptyLines);
            }
            self.taken += 2;
            self.scan = Scan::default();
        }
        Ok(())
    }
}

impl Reading {
    /// Moves what there is of the body out of `input`; true when the body is whole.
    fn advance(&mut self, input: &mut &[u8]) -> Result<bool, Fault> {
        loop {
            match &mut self.expects {
                Expects::Rest(left) => {
                    move_bytes(input, &mut self.body, left);
                    return Ok(*left == 0);
                }
                Expects::ChunkSize => {
                    let Some(line) = take_line(input, CHUNK_LINE_BYTES_MAX).map_err(|()| Fault::Chunk)? else {
                        return Ok(false);
                    };
                    let size = chunk_size(line).ok_or(Fault::Chunk)?;
                    if size > (self.body_bytes_max - self.body.len()) as u64 {
                        return Err(Fault::BodyTooLarge);
                    }
                    self.expects = match usize::try_from(size) {
                        Ok(0) => Expects::Trailer(CHUNK_LINE_BYTES_MAX),
                        Ok(size) => Expects::ChunkData(size),
                        Err(_) => return Err(Fault::BodyTooLarge),
                    };
                }
                Expects::ChunkData(left) => {
                    move_bytes(input, &mut self.body, left);
                    if *left > 0 {
                        return Ok(false);
                    }
                    self.expects = Expects::ChunkEnd;
                }
                Expects::ChunkEnd => {
                    let end: &[u8] = b"\r\n";
                    if !end.starts_with(&input[..input.len().min(end.len())]) {
                        return Err(Fault::Chunk);
                    }
                    if input.len() < end.len() {
                        return Ok(false);
                    }
                    *input = &input[end.len()..];
                    self.expects = Expects::ChunkSize;
                }
                Expects::Trailer(left) => {
                    let Some(line) = take_line(input, *left).map_err(|()| Fault::Trailer)? else { return Ok(false) };
                    if line.is_empty() {
                        return Ok(true);
                    }
                    // Well-formed, and then ignored: nothing here is allowed to come so late.
                    let colon = line.iter().position(|b| *b == b':').ok_or(Fault::Trailer)?;
                    if colon == 0 || !line[..colon].iter().all(|b| is_token(*b)) {
                        return Err(Fault::Trailer);
                    }
                    *left -= line.len() + 2;
                }
            }
        }
    }
}

/// Moves up to `left` bytes and counts them off.
fn move_bytes(input: &mut &[u8], body: &mut Vec<u8>, left: &mut usize) {
    let (part, rest) = input.split_at(input.len().min(*left));
    body.extend_from_slice(part);
    *input = rest;
    *left -= part.len();
}

/// Takes a line off `input` and gives it without its CR LF, or `None` while its end has not come.
///
/// # Errors
/// A bare CR or LF, a control character other than HTAB, or no end within `bytes_max`, the CR LF included.
fn take_line<'a>(input: &mut &'a [u8], bytes_max: usize) -> Result<Option<&'a [u8]>, ()> {
    let within = &input[..input.len().min(bytes_max)];
    let Some(end) = within.iter().position(|b| *b == b'\n') else {
        return if input.len() < bytes_max { Ok(None) } else { Err(()) };
    };
    let line = input[..end].strip_suffix(b"\r").ok_or(())?;
    if line.iter().any(|b| is_control(*b)) {
        return Err(());
    }
    *input = &input[end + 1..];
    Ok(Some(line))
}

/// The size in `1*HEXDIG [ BWS ";" chunk-ext ]` (RFC 9112 section 7.1). Extensions are ignored.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let extension = line[digits..].trim_ascii_start();
    if digits == 0 || digits > 16 || !(line.len() == digits || extension.starts_with(b";")) {
        return None;
    }
    u64::from_str_radix(str::from_utf8(&line[..digits]).ok()?, 16).ok()
}

/// How far a head has been looked at, counted from its first byte.
#[derive(Debug, Default)]
struct Scan {
    at: usize,
    line_at: usize,
    /// Lines that are whole: the request line is the first.
    lines: usize,
    past_method: bool,
}

impl Scan {
    /// Looks at the bytes it has not seen yet; gives the length of the head when the empty line at its end is there.
    ///
    /// What can be refused early is refused here, so that nobody waits for the end of what can have none: what is not
    /// HTTP at its first wrong byte, a wrong request line at its end.
    fn advance(&mut self, input: &[u8]) -> Result<Option<usize>, Fault> {
        while let Some(&byte) = input.get(self.at) {
            if self.at >= HEAD_BYTES_MAX {
                return Err(if self.lines == 0 { Fault::RequestLineTooLong } else { Fault::HeadTooLarge });
            }
            let after_cr = self.at > self.line_at && input[self.at - 1] == b'\r';
            if after_cr != (byte == b'\n') {
                return Err(if self.at == 0 { Fault::NotHttp } else { Fault::LineEnding });
            }
            self.at += 1;
            if byte == b'\n' {
                let line = &input[self.line_at..self.at - 2];
                if line.is_empty() {
                    return Ok(Some(self.at));
                }
                if self.lines == 0 {
                    RequestLine::parse(line)?;
                } else if self.lines > HEADERS_MAX {
                    return Err(Fault::TooManyFields);
                }
                self.lines += 1;
                self.line_at = self.at;
            } else if byte == b'\r' {
                // Judged by the byte after it.
            } else if self.lines > 0 {
                if is_control(byte) {
                    return Err(Fault::Field);
                }
            } else if self.past_method {
                if !matches!(byte, b' '..=b'~') {
                    return Err(Fault::Target);
                }
            } else if byte == b' ' && self.at > 1 {
                self.past_method = true;
            } else if !is_token(byte) {
                return Err(Fault::NotHttp);
            }
        }
        Ok(None)
    }
}

/// A control character, which no field may contain (RFC 9110 section 5.5); HTAB is none here.
fn is_control(byte: u8) -> bool {
    byte.is_ascii_control() && byte != b'\t'
}

/// `tchar` of RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The parts of a request line.
struct RequestLine<'a> {
    method: &'a str,
    /// The authority of an absolute-form target.
    authority: Option<&'a str>,
    path: &'a str,
    query: &'a str,
    version: Version,
}

impl<'a> RequestLine<'a> {
    /// Reads `method SP request-target SP HTTP-version` (RFC 9112 section 3), whose bytes [`Scan`] has seen.
    fn parse(line: &'a [u8]) -> Result<Self, Fault> {
        let line = str::from_utf8(line).map_err(|_| Fault::RequestLine)?;
        let mut parts = line.split(' ');
        let (Some(method), Some(target), Some(version), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Fault::RequestLine);
        };
        // The version comes first: what another one means by its target is not known here (`PRI * HTTP/2.0`).
        let version = match version {
            "HTTP/1.1" => Version::Http11,
            "HTTP/1.0" => Version::Http10,
            other => {
                let number = other.strip_prefix("HTTP/").unwrap_or_default();
                let is_http = number.starts_with(|c: char| c.is_ascii_digit());
                return Err(if is_http { Fault::Version } else { Fault::RequestLine });
            }
        };
        if method == "CONNECT" {
            return Err(Fault::Connect);
        }
        if target.contains('#') {
            return Err(Fault::Target);
        }
        if target == "*" && method == "OPTIONS" {
            return Ok(RequestLine { method, authority: None, path: target, query: "", version });
        }
        let (authority, rest) = if target.starts_with('/') {
            (None, target)
        } else {
            let (scheme, rest) = target.split_once("://").ok_or(Fault::Target)?;
            let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
            let is_web = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
            if !is_web || !is_host(authority.as_bytes()) {
                return Err(Fault::Target);
            }
            (Some(authority), rest)
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = match path {
            // RFC 9112 section 3.2.4: this is how a proxy is asked about the server as a whole.
            "" if method == "OPTIONS" && !rest.starts_with('?') => "*",
            "" => "/",
            path => path,
        };
        Ok(RequestLine { method, authority, path, query, version })
    }
}

/// Reads a whole head that [`Scan`] has let pass.
fn parse_head(bytes: &[u8]) -> Result<Head, Fault> {
    let line_end = bytes.iter().position(|b| *b == b'\r').ok_or(Fault::RequestLine)?;
    let line = RequestLine::parse(&bytes[..line_end])?;
    let block = &bytes[line_end + 2..];
    let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let fields = match httparse::parse_headers(block, &mut fields) {
        Ok(httparse::Status::Complete((len, fields))) if len == block.len() => fields,
        Err(httparse::Error::TooManyHeaders) => return Err(Fault::TooManyFields),
        _ => return Err(Fault::Field),
    };
    let mut head = Head {
        method: line.method.to_owned(),
        path: line.path.to_owned(),
        query: line.query.to_owned(),
        version: line.version,
        text: String::with_capacity(block.len()),
        fields: Vec::with_capacity(fields.len()),
    };
    let mut hosts = 0;
    for field in fields {
        let value = String::from_utf8_lossy(field.value);
        if field.name.eq_ignore_ascii_case("host") {
            hosts += 1;
            if !is_host(field.value) {
                return Err(Fault::HostInvalid);
            }
            head.push(field.name, line.authority.unwrap_or(&value));
        } else {
            head.push(field.name, &value);
        }
    }
    match hosts {
        0 if line.version == Version::Http11 => return Err(Fault::HostMissing),
        0 => line.authority.into_iter().for_each(|authority| head.push("host", authority)),
        1 => {}
        _ => return Err(Fault::HostDoubled),
    }
    Ok(head)
}

/// Whether this is `uri-host [ ":" port ]` (RFC 9110 section 7.2) with a host that is not empty (section 4.2.1).
/// A comma, though RFC 3986 allows it in a name, is refused: it is how proxies join doubled fields.
fn is_host(value: &[u8]) -> bool {
    let is_address = |b: &u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+;=:".contains(b);
    let (host_is_fine, port) = if let Some(rest) = value.strip_prefix(b"[") {
        let Some(end) = rest.iter().position(|b| *b == b']') else { return false };
        (end > 0 && rest[..end].iter().all(is_address), &rest[end + 1..])
    } else {
        let end = value.iter().position(|b| *b == b':').unwrap_or(value.len());
        (end > 0 && value[..end].iter().all(|b| is_address(b) || *b == b'%'), &value[end..])
    };
    let port_is_fine = match port {
        [] => true,
        [b':', digits @ ..] => digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    host_is_fine && port_is_fine
}

/// Whether the client waits for [`CONTINUE`]. HTTP/1.0 knows no expectations (RFC 9110 section 10.1.1).
fn expects_continue(head: &Head) -> Result<bool, Fault> {
    let mut expected = head.headers("expect").flat_map(members).peekable();
    if head.version == Version::Http10 || expected.peek().is_none() {
        return Ok(false);
    }
    if expected.all(|expectation| expectation.eq_ignore_ascii_case("100-continue")) {
        Ok(true)
    } else {
        Err(Fault::Expectation)
    }
}

/// How the body is delimited (RFC 9112 section 6.3), `None` when there is none: a request without Content-Length and
/// Transfer-Encoding has no body.
fn framing(head: &Head) -> Result<Option<Expects>, Fault> {
    let mut lengths = head.headers("content-length");
    let mut encodings = head.headers("transfer-encoding").peekable();
    let length = lengths.next();
    if encodings.peek().is_some() {
        if head.version == Version::Http10 {
            return Err(Fault::EncodingTooNew);
        }
        if length.is_some() {
            return Err(Fault::LengthAndEncoding);
        }
        let mut chunked = 0;
        for coding in encodings.flat_map(|value| value.split(',')) {
            match coding.trim_matches([' ', '\t']) {
                "" => return Err(Fault::Encoding),
                coding if coding.eq_ignore_ascii_case("chunked") => chunked += 1,
                _ => return Err(Fault::EncodingUnknown),
            }
        }
        return if chunked == 1 { Ok(Some(Expects::ChunkSize)) } else { Err(Fault::Encoding) };
    }
    let Some(length) = length else { return Ok(None) };
    if lengths.next().is_some() || length.is_empty() || !length.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Fault::ContentLength);
    }
    match length.parse::<usize>() {
        Ok(0) => Ok(None),
        Ok(length) => Ok(Some(Expects::Rest(length))),
        // A number, but one that no body limit reaches.
        Err(_) => Err(Fault::BodyTooLarge),
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Answers.

/// An answer, before it is bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// 200..=599.
    pub status: u16,
    /// Fields of this answer alone. Date, Content-Type, Content-Length and Connection are written by [`encode`].
    pub headers: Vec<(&'static str, String)>,
    /// The media type of the body.
    pub content_type: Option<&'static str>,
    /// The body.
    pub body: Body,
}

/// The body of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// No bytes.
    Empty,
    /// Bytes made for this answer.
    Bytes(Vec<u8>),
    /// Bytes that are part of the program.
    Static(&'static [u8]),
    /// Bytes that follow in chunks, nobody knows how many.
    Stream,
    /// Bytes that follow until the connection ends.
    Endless,
}

impl Body {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Body::Empty | Body::Stream | Body::Endless => &[],
            Body::Bytes(bytes) => bytes,
            Body::Static(bytes) => bytes,
        }
    }
}

/// Appends an answer to `out`.
///
/// `date` is an IMF-fixdate (RFC 9110 section 5.6.7). `common` is a block of ready lines (`Name: value\r\n`...) that
/// every answer carries. `head_only` answers HEAD: the same fields, Content-Length included, and no body. `version`
/// is that of the request; the answer itself is always HTTP/1.1 (RFC 9110 section 6.2). An answer that by its status
/// has no body (1xx, 204, 304) gets neither body nor Content-Type nor Content-Length (RFC 9112 section 6.3).
pub fn encode(
    response: &Response,
    date: &str,
    common: &str,
    keep_alive: bool,
    head_only: bool,
    version: Version,
    out: &mut Vec<u8>,
) {
    let has_body = !matches!(response.status, 100..=199 | 204 | 304);
    let body = if has_body { response.body.as_bytes() } else { &[] };
    out.reserve(256 + common.len() + if head_only { 0 } else { body.len() });
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(response.status.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(reason(response.status).as_bytes());
    out.extend_from_slice(b"\r\n");
    push_field(out, "Date", date);
    out.extend_from_slice(common.as_bytes());
    if has_body {
        if let Some(content_type) = response.content_type {
            push_field(out, "Content-Type", content_type);
        }
        match (&response.body, version) {
            (Body::Stream, Version::Http11) => push_field(out, "Transfer-Encoding", "chunked"),
            // It ends where the connection does (RFC 9112 section 6.3).
            (Body::Stream, Version::Http10) | (Body::Endless, _) => {}
            _ => push_field(out, "Content-Length", &body.len().to_string()),
        }
    }
    match (keep_alive, version) {
        (false, _) => push_field(out, "Connection", "close"),
        (true, Version::Http10) => push_field(out, "Connection", "keep-alive"),
        (true, Version::Http11) => {}
    }
    for (name, value) in &response.headers {
        push_field(out, name, value);
    }
    out.extend_from_slice(b"\r\n");
    if !head_only {
        out.extend_from_slice(body);
    }
}

/// The chunk of a streamed answer (RFC 9112 section 7.1); without bytes there is none, since that would be the end.
pub fn chunk(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 16);
    if !bytes.is_empty() {
        out.extend_from_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
        out.extend_from_slice(bytes);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// The last chunk of a streamed answer.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Writes one field. A value may repeat a client's text, and a line break in it must not begin another field: control
/// characters become blanks.
fn push_field(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend(value.bytes().map(|b| if is_control(b) { b' ' } else { b }));
    out.extend_from_slice(b"\r\n");
}

/// The reason phrase of a status (RFC 9110 section 15); empty for one that has none here, which is allowed.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 1000;

    /// Everything that comes out when the pieces are pushed one after the other. The expectation is left out, since
    /// whether it is seen depends on how the input is cut.
    fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Input>, Decoder) {
        let (mut decoder, mut inputs) = (Decoder::new(), Vec::new());
        for piece in pieces {
            decoder.push(piece);
            while let Some(input) = decoder.next(|_| LIMIT) {
                if input != Input::Expect {
                    inputs.push(input);
                }
            }
        }
        (inputs, decoder)
    }

    fn requests(bytes: &[u8]) -> Vec<Request> {
        let (inputs, decoder) = read([bytes]);
        assert_eq!((decoder.stage(), decoder.buffered()), (Stage::Idle, 0));
        let single = read(bytes.chunks(1)).0;
        assert_eq!(inputs, single);
        let only_requests = inputs.into_iter().map(|input| match input {
            Input::Request(request) => request,
            other => panic!("{other:?} for {}", bytes.escape_ascii()),
        });
        only_requests.collect()
    }

    fn request(bytes: impl AsRef<[u8]>) -> Request {
        let mut all = requests(bytes.as_ref());
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    /// The fault that these bytes end with, and nothing else; the same when they come one by one.
    fn fault(bytes: impl AsRef<[u8]>) -> Fault {
        let bytes = bytes.as_ref();
        let (inputs, mut decoder) = read([bytes]);
        assert_eq!(inputs, read(bytes.chunks(1)).0, "{}", bytes.escape_ascii());
        let [Input::Fault(fault)] = inputs[..] else { panic!("{inputs:?} for {}", bytes.escape_ascii()) };
        decoder.push(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(decoder.next(|_| LIMIT), None, "nothing follows a fault");
        assert_eq!((decoder.stage(), decoder.buffered()), (Stage::Idle, 0));
        fault
    }

    #[test]
    fn all_that_an_unfinished_request_takes_is_counted() {
        let long = "x".repeat(8_000);
        for head in [
            format!("POST /{long} HTTP/1.1\r\nHost: h\r\n"),
            format!("POST /?{long} HTTP/1.1\r\nHost: h\r\n"),
            format!("POST / HTTP/1.1\r\nHost: h\r\nX: {long}\r\n"),
        ] {
            let mut decoder = read([format!("{head}Content-Length: 1\r\n\r\n").as_bytes()]).1;
            assert!((8_000..20_000).contains(&decoder.buffered()), "{}", decoder.buffered());
            decoder.push(b"1");
            let Some(Input::Request(request)) = decoder.next(|_| LIMIT) else { panic!("not finished") };
            assert!((8_000..20_000).contains(&request.buffered()), "{}", request.buffered());
            assert_eq!(decoder.buffered(), 0);
        }
    }

    /// A request with these lines after its request line and Host.
    fn with(fields: &str, rest: &str) -> String {
        format!("POST /a HTTP/1.1\r\nHost: h\r\n{fields}\r\n{rest}")
    }

    #[test]
    fn a_head_is_split_into_its_parts() {
        let head = request(
            "GET /timers/a%20b?state=running&x=?y HTTP/1.1\r\nHost: example.org:8003\r\nX-A:\t one two \t\r\n\
             x-a: 2\r\nEmpty:\r\nConnection: foo , Upgrade,,Keep-Alive\r\n\r\n",
        )
        .head;
        assert_eq!((head.method.as_str(), head.path.as_str()), ("GET", "/timers/a%20b"));
        assert_eq!((head.query.as_str(), head.version), ("state=running&x=?y", Version::Http11));
        assert_eq!(head.header("host"), Some("example.org:8003"));
        assert_eq!(head.headers("x-a").collect::<Vec<_>>(), ["one two", "2"]);
        assert_eq!((head.header("empty"), head.header("none")), (Some(""), None));
        assert!(head.has_token("connection", "upgrade") && head.has_token("connection", "keep-alive"));
        assert!(!head.has_token("connection", "keep") && !head.has_token("connection", ""));
        assert_eq!(request(b"GET / HTTP/1.1\r\nHost: h\r\nX: caf\xe9\r\n\r\n").head.header("x"), Some("caf\u{fffd}"));
    }

    #[test]
    fn keep_alive_depends_on_version_and_connection() {
        let cases = [
            ("1.1", "", true),
            ("1.1", "Connection: close\r\n", false),
            ("1.1", "Connection: x, CLOSE\r\n", false),
            ("1.1", "Connection: x\r\nConnection: close\r\n", false),
            ("1.0", "", false),
            ("1.0", "Connection: Keep-Alive\r\n", true),
            ("1.0", "Connection: keep-alive, close\r\n", false),
        ];
        for (version, field, expected) in cases {
            let head = request(format!("GET / HTTP/{version}\r\nHost: h\r\n{field}\r\n")).head;
            assert_eq!(head.keep_alive(), expected, "{version} {field}");
        }
    }

    #[test]
    fn targets_have_the_forms_of_the_rfc() {
        let target = |method: &str, target: &str| {
            let head = request(format!("{method} {target} HTTP/1.1\r\nHost: h\r\n\r\n")).head;
            (head.path.clone(), head.query.clone(), head.header("host").map(str::to_owned))
        };
        let is = |path: &str, query: &str, host: &str| (path.to_owned(), query.to_owned(), Some(host.to_owned()));
        assert_eq!(target("GET", "/"), is("/", "", "h"));
        assert_eq!(target("GET", "/a?"), is("/a", "", "h"));
        assert_eq!(target("GET", "//x/y"), is("//x/y", "", "h"));
        assert_eq!(target("GET", "http://a.b:80/c?d"), is("/c", "d", "a.b:80"));
        assert_eq!(target("GET", "HTTP://[::1]:8003?q=/"), is("/", "q=/", "[::1]:8003"));
        assert_eq!(target("GET", "http://a"), is("/", "", "a"));
        assert_eq!(target("OPTIONS", "http://a"), is("*", "", "a"));
        assert_eq!(target("OPTIONS", "*"), is("*", "", "h"));
        let old = request("GET http://a/ HTTP/1.0\r\n\r\n").head;
        assert_eq!(old.header("host"), Some("a"));

        for target in
            ["*", "a", "a:80", "http://", "http:///a", "http://u@h/", "http://a b/", "ftp://a/", "/a#b", "?a"]
        {
            let refused = fault(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n")).status();
            assert_eq!(refused, 400, "{target}");
        }
        assert_eq!(fault("CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n").status(), 501);
        for byte in (0..=0x20).chain(0x7f..=0xff) {
            let bytes = [b"GET /a", &[byte][..], b"b HTTP/1.1\r\nHost: h\r\n\r\n"].concat();
            assert_eq!(fault(bytes).status(), 400, "{byte:02x}");
        }
    }

    #[test]
    fn what_is_not_http_is_refused_at_once() {
        for bytes in [&b"\x16\x03\x01"[..], b"\0", b" GET", b"\xff", b"G\x01", b"GE(T", b"\n", b"GET\t", b"{\"a"] {
            assert_eq!(fault(bytes), Fault::NotHttp, "{}", bytes.escape_ascii());
        }
        let lines =
            ["GET /", "GET", "GET  / HTTP/1.1", "GET / HTTP/1.1 ", "GET / http/1.1", "GET / HTTP/", "GET / FOO/1.1"];
        for line in lines.into_iter().chain(["SSH-2.0-OpenSSH_9.2p1 Debian", "GET /  HTTP/1.1", "GET / HTTP/x.1"]) {
            assert_eq!(fault(format!("{line}\r\n")), Fault::RequestLine, "{line}");
        }
        for version in ["HTTP/1.2", "HTTP/2.0", "HTTP/2", "HTTP/0.9", "HTTP/3.0", "HTTP/1.10", "HTTP/11"] {
            assert_eq!(fault(format!("GET / {version}\r\n")), Fault::Version, "{version}");
        }
        assert_eq!(fault("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").status(), 505);
    }

    #[test]
    fn line_ends_are_cr_lf_and_nothing_else() {
        let whole = "GET /a HTTP/1.1\r\nHost: h\r\nX: y\r\n\r\n";
        for (at, _) in whole.match_indices("\r\n") {
            for end in ["\n", "\r", "\r\r\n", "\n\r", "\r\0\n"] {
                let bytes = format!("{}{end}{}x", &whole[..at], &whole[at + 2..]);
                let refused = fault(&bytes);
                assert_eq!(refused.status(), 400, "{}", bytes.escape_debug());
            }
        }
        for inside in ["a\nb", "a\rb", "a\r", "\r", "a\n"] {
            assert_eq!(fault(with(&format!("X: {inside}\r\n"), "")), Fault::LineEnding, "{inside:?}");
        }
    }

    #[test]
    fn one_or_two_empty_lines_may_precede_a_request() {
        let get = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
        assert_eq!(requests(format!("\r\n{get}\r\n\r\n{get}{get}\r\n").as_bytes()).len(), 3);
        assert_eq!(fault("\r\n\r\n\r\n"), Fault::EmptyLines);
        assert_eq!(fault("\r\n\n"), Fault::NotHttp);
        assert_eq!(fault("\rGET"), Fault::LineEnding);
    }

    #[test]
    fn fields_are_strict() {
        let fields = [
            " X: a",
            "\tX: a",
            "X: a\r\n folded",
            "X: a\r\n\tfolded",
            "X : a",
            "X\t: a",
            ": a",
            "X",
            "X a: b",
            "X(: a",
            "é: a",
        ];
        for field in fields {
            assert_eq!(fault(with(&format!("{field}\r\n"), "")), Fault::Field, "{field:?}");
        }
        for byte in (0..0x20).chain([0x7f]).filter(|byte| !b"\t\r\n".contains(byte)) {
            for field in [&[b'X', b':', b'a', byte, b'b'][..], &[b'X', b':', byte], &[b'X', byte, b':', b'a']] {
                let bytes = [b"GET / HTTP/1.1\r\nHost: h\r\n", field, b"\r\n\r\n"].concat();
                assert_eq!(fault(bytes), Fault::Field, "{byte:02x}");
            }
        }
        assert_eq!(request(with("X: a\tb\r\nY:\t\r\n", "")).head.header("x"), Some("a\tb"));
    }

    #[test]
    fn there_is_one_host() {
        let get = |fields: &str, version| format!("GET / HTTP/{version}\r\n{fields}\r\n");
        assert_eq!(fault(get("", "1.1")), Fault::HostMissing);
        assert_eq!(fault(get("X-Host: h\r\n", "1.1")), Fault::HostMissing);
        assert_eq!(request(get("", "1.0")).head.header("host"), None);
        for version in ["1.0", "1.1"] {
            assert_eq!(fault(get("Host: a\r\nHost: b\r\n", version)), Fault::HostDoubled);
            assert_eq!(fault(get("Host: a\r\nhOST: a\r\n", version)), Fault::HostDoubled);
            let wrong = [
                "", "a b", "a/b", "a@b", "a,b", "a, a", "http://a", "a:b", "a:8o", "a:1:2", ":80", "[::1", "::1",
                "[]", "[::1]x", "[a/b]", "a?b", "a#b", "a\\b", "a\"b", "<a>", "a|b", "é", "a\tb",
            ];
            for host in wrong {
                assert_eq!(fault(get(&format!("Host: {host}\r\n"), version)), Fault::HostInvalid, "{host}");
            }
            for host in ["a", "localhost:8003", "127.0.0.1:", "[::1]", "[fe80::1]:80", "a_b.example-c.org.", "%C3%A9"]
            {
                assert_eq!(request(get(&format!("Host: {host}\r\n"), version)).head.header("host"), Some(host));
            }
        }
    }

    #[test]
    fn a_length_is_one_decimal_number() {
        assert_eq!(request(with("Content-Length: 5\r\n", "12345")).body, b"12345");
        assert_eq!(request(with("Content-Length: 0005\r\n", "12345")).body, b"12345");
        assert_eq!(request(with("Content-Length: 0\r\n", "")).body, b"");
        assert_eq!(request(with("", "")).body, b"", "no length, no body");
        let wrong = ["", "+5", "-5", "5 5", "5, 5", "5,5", "0x5", "5a", "5;", "5.0", "\"5\"", "٥", "five", "1e2"];
        for length in wrong {
            assert_eq!(fault(with(&format!("Content-Length: {length}\r\n"), "")), Fault::ContentLength, "{length}");
        }
        for second in ["5", "6", "0", ""] {
            let fields = format!("Content-Length: 5\r\ncontent-length: {second}\r\n");
            assert_eq!(fault(with(&fields, "")), Fault::ContentLength);
        }
        assert_eq!(fault(with("Content-Length: 0\r\nContent-Length: 0\r\n", "")), Fault::ContentLength);
        for length in [LIMIT as u64 + 1, u64::MAX] {
            assert_eq!(fault(with(&format!("Content-Length: {length}\r\n"), "")), Fault::BodyTooLarge);
        }
        assert_eq!(fault(with(&format!("Content-Length: {}\r\n", "9".repeat(50)), "")), Fault::BodyTooLarge);
        assert_eq!(request(with("Content-Length: 1000\r\n", &"x".repeat(LIMIT))).body.len(), LIMIT);
    }

    #[test]
    fn the_only_coding_is_chunked() {
        let coded = |value: &str| with(&format!("Transfer-Encoding: {value}\r\n"), "");
        assert_eq!(request(with("Transfer-Encoding: \tCHUNKED \r\n", "0\r\n\r\n")).body, b"");
        for value in
            ["gzip", "identity", "gzip, chunked", "chunked;q=1", "xchunked", "chunked x", "\"chunked\"", "chun ked"]
        {
            assert_eq!(fault(coded(value)), Fault::EncodingUnknown, "{value}");
        }
        for value in ["chunked, chunked", "chunked\r\nTransfer-Encoding: chunked", "", ",chunked", "chunked,"] {
            assert_eq!(fault(coded(value)), Fault::Encoding, "{value}");
        }
        assert_eq!(fault(with("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "")), Fault::LengthAndEncoding);
        assert_eq!(fault(with("Content-Length: 0\r\nTransfer-Encoding: x\r\n", "")), Fault::LengthAndEncoding);
        assert_eq!(fault("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), Fault::EncodingTooNew);
        for field in ["Transfer-Encoding : chunked", " Transfer-Encoding: chunked", "Transfer-Encoding:\r\n chunked"]
        {
            assert_eq!(fault(with(&format!("{field}\r\n"), "")), Fault::Field);
        }
        assert_eq!(fault(with("Transfer-Encoding: \x0bchunked\r\n", "")), Fault::Field);
    }

    fn chunked(body: impl AsRef<[u8]>) -> Vec<u8> {
        [with("Transfer-Encoding: chunked\r\n", "").as_bytes(), body.as_ref()].concat()
    }

    #[test]
    fn chunks_are_joined() {
        let body =
            "5\r\nhello\r\n00A ; a=b;c=\"d\"\r\n0123456789\r\n1;x\r\n!\r\n000\r\nX-Trailer: ignored\r\nY:\r\n\r\n";
        let request = request(chunked(body));
        assert_eq!(request.body, b"hello0123456789!");
        assert_eq!(request.head.header("x-trailer"), None);
        let two = [chunked("1\r\na\r\n0\r\n\r\n"), chunked("0;last\r\n\r\n")].concat();
        assert_eq!(requests(&two).len(), 2);
    }

    #[test]
    fn chunks_are_strict() {
        let lines = [
            "",
            " 1",
            "+1",
            "-1",
            "0x1",
            "1 ",
            "1 x",
            "g",
            "1g",
            ";a",
            "1\t",
            "00000000000000001",
            "1,1",
            "1\0",
            "1;\x01",
            "1;\x7f",
        ];
        for line in lines {
            assert_eq!(fault(chunked(format!("{line}\r\na\r\n0\r\n\r\n"))), Fault::Chunk, "{line:?}");
        }
        for bytes in
            ["1\na\r\n", "1\ra\r\n", "1;a\nb\r\n", "1;a\rb\r\n", "1\r\r\n", "1\r\na\n0", "1\r\nab", "1\r\na\rb"]
        {
            assert_eq!(fault(chunked(bytes)), Fault::Chunk, "{bytes:?}");
        }
        let line = |len: usize| format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(len - 4));
        assert_eq!(request(chunked(line(CHUNK_LINE_BYTES_MAX))).body, b"a");
        assert_eq!(fault(chunked(line(CHUNK_LINE_BYTES_MAX + 1))), Fault::Chunk);
        assert_eq!(fault(chunked("1".repeat(CHUNK_LINE_BYTES_MAX))), Fault::Chunk, "without an end");

        for trailer in ["x", " a: b", "a : b", ": b", "a: b\n", "a: b\rc", "a: \x01", "a: b\r\n folded"] {
            assert_eq!(fault(chunked(format!("0\r\n{trailer}\r\n\r\n"))), Fault::Trailer, "{trailer:?}");
        }
        let trailers = |count: usize| chunked(format!("0\r\n{}\r\n", "a: bcd\r\n".repeat(count)));
        assert_eq!(request(trailers(CHUNK_LINE_BYTES_MAX / 8 - 1)).body, b"");
        assert_eq!(fault(trailers(CHUNK_LINE_BYTES_MAX / 8 + 1)), Fault::Trailer);
    }

    #[test]
    fn a_chunked_body_is_refused_when_it_passes_the_limit() {
        let hundred = format!("64\r\n{}\r\n", "x".repeat(100));
        let full = hundred.repeat(LIMIT / 100);
        assert_eq!(request(chunked(format!("{full}0\r\n\r\n"))).body.len(), LIMIT);
        assert_eq!(fault(chunked(format!("{full}1\r\n"))), Fault::BodyTooLarge, "before its data");
        assert_eq!(fault(chunked("3e9\r\n")), Fault::BodyTooLarge);
        assert_eq!(fault(chunked("ffffffffffffffff\r\n")), Fault::BodyTooLarge);
    }

    #[test]
    fn a_head_has_bounds() {
        let start = "GET / HTTP/1.1\r\nHost: h\r\nX: ";
        let sized = |len: usize| format!("{start}{}\r\n\r\n", "x".repeat(len - start.len() - 4));
        assert!(!requests(sized(HEAD_BYTES_MAX).as_bytes()).is_empty());
        assert_eq!(fault(sized(HEAD_BYTES_MAX + 1)), Fault::HeadTooLarge);
        assert_eq!(fault(sized(4 * HEAD_BYTES_MAX)).status(), 431);
        assert_eq!(fault(format!("GET /{}", "a".repeat(HEAD_BYTES_MAX))).status(), 414);
        assert_eq!(fault("A".repeat(HEAD_BYTES_MAX + 1)).status(), 414);
        assert_eq!(request(with(&"A: b\r\n".repeat(HEADERS_MAX - 1), "")).head.headers("a").count(), HEADERS_MAX - 1);
        assert_eq!(fault(with(&"A: b\r\n".repeat(HEADERS_MAX), "")), Fault::TooManyFields);
        assert_eq!(Fault::TooManyFields.status(), 431);
    }

    #[test]
    fn an_expectation_is_told_once() {
        let head = with("Expect: 100-Continue\r\nContent-Length: 2\r\n", "");
        let mut decoder = Decoder::new();
        decoder.push(head.as_bytes());
        assert_eq!(decoder.next(|_| 2), Some(Input::Expect));
        assert_eq!((decoder.stage(), decoder.head().unwrap().path.as_str()), (Stage::Body, "/a"));
        assert_eq!(decoder.next(|_| panic!("asked twice")), None);
        decoder.push(b"o");
        assert_eq!(decoder.next(|_| panic!("asked twice")), None);
        decoder.push(b"k");
        assert!(matches!(decoder.next(|_| 0), Some(Input::Request(request)) if request.body == b"ok"));
        assert_eq!((decoder.stage(), decoder.head()), (Stage::Idle, None));

        let at_once = |bytes: &str| {
            let mut decoder = Decoder::new();
            decoder.push(bytes.as_bytes());
            decoder.next(|_| 2)
        };
        assert_eq!(at_once(&with("Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n", "")), Some(Input::Expect));
        assert!(matches!(at_once(&format!("{head}ok")), Some(Input::Request(_))), "the body is there");
        assert_eq!(at_once(&format!("{head}o")), None, "the body has begun");
        assert!(matches!(at_once(&with("Expect: 100-continue\r\n", "")), Some(Input::Request(_))), "no body");
        let large = with("Expect: 100-continue\r\nContent-Length: 3\r\n", "");
        assert_eq!(at_once(&large), Some(Input::Fault(Fault::BodyTooLarge)));
        for other in ["200-ok", "100-continue, x", "100-continue\r\nExpect: x", "100-continue=1"] {
            assert_eq!(fault(with(&format!("Expect: {other}\r\n"), "")).status(), 417, "{other}");
        }
        assert!(request("GET / HTTP/1.0\r\nExpect: x\r\n\r\n").body.is_empty(), "HTTP/1.0 knows no expectations");
    }

    #[test]
    fn the_limit_is_asked_only_for_a_body() {
        let mut decoder = Decoder::new();
        decoder.push(with("Content-Length: 0\r\n", &with("", "")).as_bytes());
        for _ in 0..2 {
            assert!(matches!(decoder.next(|_| panic!("no body")), Some(Input::Request(_))));
        }
        let mut asked = String::new();
        decoder.push(with("Content-Length: 1\r\n", "x").as_bytes());
        decoder.next(|head| {
            asked.clone_from(&head.path);
            1
        });
        assert_eq!(asked, "/a");
    }

    #[test]
    fn an_idle_decoder_is_small_and_holds_nothing() {
        assert!(size_of::<Decoder>() <= 16);
        let mut decoder = Decoder::new();
        assert_eq!((decoder.stage(), decoder.buffered()), (Stage::Idle, 0));
        decoder.push(b"");
        assert_eq!(decoder.stage(), Stage::Idle);
        decoder.push(b"POST / HT");
        assert_eq!((decoder.next(|_| 0), decoder.stage()), (None, Stage::Head));
        assert!(decoder.buffered() >= 9);
        decoder.push(b"TP/1.1\r\nHost: h\r\nContent-Length: 900\r\n\r\nab");
        assert_eq!((decoder.next(|_| LIMIT), decoder.stage()), (None, Stage::Body));
        assert!((2..100).contains(&decoder.buffered()), "a length is only a promise: nothing is reserved for it");
        decoder.push(&[b'c'; 898]);
        assert!(decoder.next(|_| 0).is_some());
        assert!(decoder.held.is_none() && decoder.stage() == Stage::Idle);
    }

    #[test]
    fn what_follows_an_upgrade_is_handed_over() {
        let mut decoder = Decoder::new();
        decoder.push(with("", "\u{81}frame").as_bytes());
        assert!(matches!(decoder.next(|_| 0), Some(Input::Request(_))));
        assert_eq!(decoder.take_rest(), "\u{81}frame".as_bytes());
        assert_eq!((decoder.take_rest(), decoder.stage()), (Vec::new(), Stage::Idle));
    }

    #[test]
    fn requests_before_a_fault_come_first() {
        let (inputs, _) = read([format!("{}{}\x16", with("", ""), with("Content-Length: 1\r\n", "x")).as_bytes()]);
        assert!(
            matches!(inputs[..], [Input::Request(_), Input::Request(_), Input::Fault(Fault::NotHttp)]),
            "{inputs:?}"
        );
    }

    fn encoded(response: &Response, keep_alive: bool, head_only: bool, version: Version) -> String {
        let mut out = b"before ".to_vec();
        encode(
            response,
            "Thu, 01 Jan 1970 00:00:00 GMT",
            "X-Common: 1\r\n",
            keep_alive,
            head_only,
            version,
            &mut out,
        );
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn answers_have_the_form_of_the_rfc() {
        let mut answer = Response {
            status: 201,
            headers: vec![("Location", "/a\r\nEvil: b\0".to_owned())],
            content_type: Some("application/json"),
            body: Body::Bytes(b"{}".to_vec()),
        };
        let start = "before HTTP/1.1 201 Created\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nX-Common: 1\r\n\
                     Content-Type: application/json\r\nContent-Length: 2\r\n";
        let end = "Location: /a  Evil: b \r\n\r\n";
        assert_eq!(encoded(&answer, true, false, Version::Http11), format!("{start}{end}{{}}"));
        assert_eq!(encoded(&answer, true, true, Version::Http11), format!("{start}{end}"));
        let close = format!("{start}Connection: close\r\n{end}{{}}");
        assert_eq!(encoded(&answer, false, false, Version::Http11), close);
        assert_eq!(encoded(&answer, false, false, Version::Http10), close);
        let keep = format!("{start}Connection: keep-alive\r\n{end}{{}}");
        assert_eq!(encoded(&answer, true, false, Version::Http10), keep);

        for status in [204, 304] {
            answer.status = status;
            let bytes = encoded(&answer, true, false, Version::Http11);
            assert!(!bytes.contains("Content-") && bytes.ends_with("\r\n\r\n"), "{bytes}");
        }
        let empty = Response { status: 200, headers: Vec::new(), content_type: None, body: Body::Empty };
        assert!(encoded(&empty, true, false, Version::Http11).ends_with("Content-Length: 0\r\n\r\n"));
        let fixed = Response { body: Body::Static(b"abc"), ..empty };
        assert!(encoded(&fixed, true, false, Version::Http11).ends_with("Content-Length: 3\r\n\r\nabc"));
    }

    #[test]
    fn every_fault_has_an_answer() {
        let most = [Fault::NotHttp, Fault::Version, Fault::BodyTooLarge, Fault::Expectation, Fault::Connect];
        for fault in most.into_iter().chain([Fault::HeadTooLarge, Fault::RequestLineTooLong, Fault::Trailer]) {
            assert!(!reason(fault.status()).is_empty() && !fault.detail().is_empty());
        }
    }

    /// Splits `bytes` into pieces of these sizes, again and again.
    fn cut<'a>(bytes: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
        let (mut pieces, mut rest, mut sizes) = (Vec::new(), bytes, sizes.iter().cycle());
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
            pieces.push(piece);
            rest = after;
        }
        pieces
    }

    const SEVERAL: &str = "\r\n\
                           GET /a?b HTTP/1.1\r\nHost: h\r\n\r\n\
                           POST /c HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\n\r\n\r\n\r\n\
                           PUT http://x/y HTTP/1.0\r\n\r\n\
                           POST /d HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n\
                           3;e=f\r\n\r\n0\r\n2\r\n\r\n\r\n0\r\nT: u\r\n\r\n\
                           DELETE /e HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";

    #[test]
    fn any_two_pieces_give_the_same_requests() {
        let whole = requests(SEVERAL.as_bytes());
        assert_eq!(whole.len(), 5);
        let (length, chunks): (&[u8], &[u8]) = (b"\r\n\r\n", b"\r\n0\r\n");
        assert_eq!((&whole[1].body[..], &whole[3].body[..]), (length, chunks));
        let whole: Vec<Input> = whole.into_iter().map(Input::Request).collect();
        for at in 0..=SEVERAL.len() {
            assert_eq!(read([&SEVERAL.as_bytes()[..at], &SEVERAL.as_bytes()[at..]]).0, whole, "cut at {at}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_cut_gives_the_same_requests(
            bodies in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..200), 0usize..50), 0..6),
            sizes in prop::collection::vec(1usize..60, 1..20),
        ) {
            let mut bytes = Vec::new();
            for (body, chunk) in &bodies {
                if *chunk == 0 {
                    bytes.extend(with(&format!("Content-Length: {}\r\n", body.len()), "").bytes());
                    bytes.extend(body);
                } else {
                    bytes.extend(chunked(""));
                    for part in body.chunks(*chunk) {
                        bytes.extend(format!("{:X}\r\n", part.len()).bytes());
                        bytes.extend(part);
                        bytes.extend(b"\r\n");
                    }
                    bytes.extend(b"0\r\n\r\n");
                }
            }
            let (inputs, decoder) = read(cut(&bytes, &sizes));
            let got: Vec<&Vec<u8>> = inputs.iter().map(|input| match input {
                Input::Request(request) => &request.body,
                other => panic!("{other:?}"),
            }).collect();
            prop_assert_eq!(got, bodies.iter().map(|(body, _)| body).collect::<Vec<_>>());
            prop_assert_eq!((decoder.stage(), decoder.buffered()), (Stage::Idle, 0));
        }

        #[test]
        fn damaged_requests_are_read_or_refused_the_same_way(
            at in any::<usize>(), byte in any::<u8>(), insert in any::<bool>(),
            sizes in prop::collection::vec(1usize..60, 1..20),
        ) {
            let mut bytes = SEVERAL.as_bytes().to_vec();
            let at = at % bytes.len();
            if insert { bytes.insert(at, byte) } else { bytes[at] = byte }
            prop_assert_eq!(read([&bytes[..]]).0, read(cut(&bytes, &sizes)).0);
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), chunks in any::<bool>()) {
            let bytes = if chunks { chunked(&bytes) } else { bytes };
            prop_assert_eq!(read([&bytes[..]]).0, read(bytes.chunks(1)).0);
        }
    }
}
