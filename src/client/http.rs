//! HTTP/1.1 as timerd's own clients speak it: one connection that is kept, requests that lie in memory, answers that
//! are read as they come.
//!
//! Owns the framing of RFC 9112 as far as a client needs it, and the bounds of time and bytes around it. It must not
//! know what is asked for, nor what an answer means.
//!
//! Invariants: a body counts as whole only when the server said so, by a length or by the last chunk, so that what
//! was cut off is an error and never a shorter answer; no read waits longer than `SILENCE_MAX`, or a moment after the
//! interruption; a connection whose answer was not read to its end is not used again; what is sent twice, after a
//! kept connection turned out to be closed, may be sent twice, which is why there is nothing but GET and PUT.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use jiff::fmt::rfc2822::DateTimeParser;

use crate::client::{LOOK_EVERY, SILENCE_MAX, Server, dial, is_timeout};

/// Bytes of an answer's head, and of a trailer behind the last chunk.
const HEAD_BYTES_MAX: u64 = 32 << 10;
/// Bytes of a line with a chunk's size.
const SIZE_BYTES_MAX: u64 = 4 << 10;
/// Bytes of one read.
const READ_BYTES: usize = 64 << 10;

/// The methods there are: those that may be sent twice.
#[derive(Clone, Copy, Debug)]
pub(super) enum Method {
    Get,
    Put,
}

/// Asks the server, over one connection as long as it stands.
pub(super) struct Http {
    server: Server,
    interrupted: Arc<AtomicBool>,
    /// The connection of the last answer.
    kept: Option<Line>,
}

impl Http {
    /// Not connected yet; `interrupted`, once raised, ends every wait.
    pub(super) fn new(server: &Server, interrupted: &Arc<AtomicBool>) -> Http {
        Http { server: server.clone(), interrupted: Arc::clone(interrupted), kept: None }
    }

    /// Asks for `path`, which begins with a slash and is escaped already. A body is JSON.
    ///
    /// # Errors
    /// When there is no connection, or no answer in time, or one that is not HTTP.
    pub(super) fn ask(
        &mut self,
        method: Method,
        path: &str,
        accept: Option<&str>,
        body: &[u8],
    ) -> io::Result<Answer<'_>> {
        let request = self.request(method, path, accept, body);
        let kept = self.kept.take().filter(Line::is_idle).and_then(|mut line| match line.exchange(&request) {
            Ok(head) => Some(Ok((line, head))),
            // The server has closed it since: nothing is wrong with the server.
            Err(error) if is_stale(&error) => None,
            Err(error) => Some(Err(error)),
        });
        let (line, head) = match kept {
            Some(asked) => asked?,
            None => {
                let stream = dial(&self.server)?;
                stream.set_read_timeout(Some(LOOK_EVERY))?;
                let patient = Patient { stream, interrupted: Arc::clone(&self.interrupted) };
                let from = BufReader::with_capacity(READ_BYTES, patient);
                let mut line = Line { from, rest: Rest::None, is_last: false };
                let head = line.exchange(&request)?;
                (line, head)
            }
        };
        let Head { status, date } = head;
        Ok(Answer { status, date, line: self.kept.insert(line) })
    }

    fn request(&self, method: Method, path: &str, accept: Option<&str>, body: &[u8]) -> Vec<u8> {
        let endpoint = &self.server.url;
        let name = match method {
            Method::Get => "GET",
            Method::Put => "PUT",
        };
        let mut head = format!("{name} {}{path} HTTP/1.1\r\nHost: {}\r\n", endpoint.prefix, endpoint.authority());
        if let Some(key) = &self.server.key {
            head.push_str(&format!("X-API-Key: {key}\r\n"));
        }
        if let Some(accept) = accept {
            head.push_str(&format!("Accept: {accept}\r\n"));
        }
        if let Method::Put = method {
            head.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let mut request = head.into_bytes();
        request.extend_from_slice(body);
        request
    }
}

/// Whether a connection ended, rather than the server being silent or wrong.
fn is_stale(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
    )
}

/// An answer whose body has not been read yet; reading it, [`Read`], fails where it is cut off.
pub(super) struct Answer<'h> {
    pub(super) status: u16,
    /// The server's clock, as its `Date` says it.
    pub(super) date: Option<jiff::Timestamp>,
    line: &'h mut Line,
}

impl Answer<'_> {
    /// The whole body as text.
    ///
    /// # Errors
    /// When it is cut off, not UTF-8, or longer than `bytes_max`.
    pub(super) fn text(&mut self, bytes_max: u64) -> io::Result<String> {
        let mut text = String::new();
        self.by_ref().take(bytes_max + 1).read_to_string(&mut text)?;
        if text.len() as u64 > bytes_max {
            return Err(wrong("the answer is too long"));
        }
        Ok(text)
    }
}

impl Read for Answer<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.line.read_body(into)
    }
}

/// A connection's bytes, waited for in small steps.
struct Patient {
    stream: TcpStream,
    interrupted: Arc<AtomicBool>,
}

impl Read for Patient {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let begun = Instant::now();
        loop {
            match self.stream.read(into) {
                // No kind of its own: `Interrupted` would be tried again by everything in std.
                Err(error) if is_timeout(&error) && self.interrupted.load(Ordering::Relaxed) => {
                    return Err(io::Error::other("interrupted"));
                }
                Err(error) if is_timeout(&error) && begun.elapsed() > SILENCE_MAX => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Err(error) if is_timeout(&error) => {}
                read => return read,
            }
        }
    }
}

/// What is left of an answer's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    None,
    /// So many bytes.
    Bytes(u64),
    /// A chunk's size comes next.
    Size,
    /// So many bytes of a chunk; behind them its line end.
    Chunk(u64),
}

struct Head {
    status: u16,
    date: Option<jiff::Timestamp>,
}

/// A connection.
struct Line {
    from: BufReader<Patient>,
    rest: Rest,
    /// Whether the server takes no other request on it.
    is_last: bool,
}

impl Line {
    fn is_idle(&self) -> bool {
        self.rest == Rest::None && !self.is_last && self.from.buffer().is_empty()
    }

    /// Sends a request and reads the head of its answer.
    fn exchange(&mut self, request: &[u8]) -> io::Result<Head> {
        let sent = self.from.get_mut().stream.write_all(request);
        // A server that refuses a body may say so before it has taken all of it.
        match (self.read_head(), sent) {
            (Ok(head), Ok(())) => Ok(head),
            (Ok(head), Err(_)) => {
                self.is_last = true;
                Ok(head)
            }
            (Err(_), Err(error)) | (Err(error), Ok(())) => Err(error),
        }
    }

    /// The head of the answer, those that only announce one (RFC 9110, section 15.2) left out.
    fn read_head(&mut self) -> io::Result<Head> {
        let mut left = HEAD_BYTES_MAX;
        loop {
            let first = self.read_line(&mut left)?;
            let mut words = first.split(' ');
            let is_old = match words.next() {
                Some("HTTP/1.1") => false,
                Some("HTTP/1.0") => true,
                _ => return Err(wrong("the answer is not HTTP")),
            };
            let status = words.next().and_then(|status| status.parse().ok()).unwrap_or(0);
            if !(100..=599).contains(&status) {
                return Err(wrong("the answer is not HTTP"));
            }
            let (mut length, mut is_chunked, mut date) = (None, false, None);
            self.is_last = is_old;
            loop {
                let line = self.read_line(&mut left)?;
                if line.is_empty() {
                    break;
                }
                let (name, value) = line.split_once(':').ok_or_else(|| wrong("the answer is not HTTP"))?;
                let value = value.trim();
                let is_list_of = |word: &str| value.split(',').any(|item| item.trim().eq_ignore_ascii_case(word));
                match name.to_ascii_lowercase().as_str() {
                    "content-length" => length = Some(value.parse().map_err(|_| wrong("the answer is not HTTP"))?),
                    // No other coding is asked for, and so none may be used (RFC 9110, section 10.1.4).
                    "transfer-encoding" => is_chunked = is_list_of("chunked"),
                    "connection" => self.is_last |= is_list_of("close"),
                    "date" => date = DateTimeParser::new().parse_timestamp(value).ok(),
                    _ => {}
                }
            }
            if status < 200 {
                continue;
            }
            self.rest = match (status, is_chunked, length) {
                (204 | 304, ..) | (_, false, Some(0)) => Rest::None,
                (_, true, _) => Rest::Size,
                (_, false, Some(length)) => Rest::Bytes(length),
                (_, false, None) => return Err(wrong("the server does not say how long its answer is")),
            };
            return Ok(Head { status, date });
        }
    }

    /// A line without its end, taken from the bytes that are `left`.
    fn read_line(&mut self, left: &mut u64) -> io::Result<String> {
        let mut line = Vec::new();
        let read = (&mut self.from).take(*left).read_until(b'\n', &mut line)?;
        *left = left.saturating_sub(read as u64);
        match line.pop() {
            Some(b'\n') => {}
            _ if *left == 0 => return Err(wrong("the head of the answer is too long")),
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(String::from_utf8_lossy(&line).into_owned())
    }

    /// Bytes of the body; 0 at its end, and an error where it is cut off.
    fn read_body(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.rest {
                _ if into.is_empty() => return Ok(0),
                Rest::None => return Ok(0),
                Rest::Bytes(left) | Rest::Chunk(left) if left > 0 => {
                    let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(into.len());
                    let read = self.from.read(into.get_mut(..wanted).unwrap_or_default())?;
                    if read == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    let left = left.saturating_sub(read as u64);
                    self.rest = match self.rest {
                        Rest::Chunk(_) => Rest::Chunk(left),
                        _ if left == 0 => Rest::None,
                        _ => Rest::Bytes(left),
                    };
                    return Ok(read);
                }
                Rest::Bytes(_) => self.rest = Rest::None,
                Rest::Chunk(_) => {
                    if !self.read_line(&mut { SIZE_BYTES_MAX })?.is_empty() {
                        return Err(wrong("a chunk of the answer has no end"));
                    }
                    self.rest = Rest::Size;
                }
                Rest::Size => {
                    let line = self.read_line(&mut { SIZE_BYTES_MAX })?;
                    let digits = line.split(';').next().unwrap_or_default().trim();
                    let plain = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
                    let size = plain.then(|| u64::from_str_radix(digits, 16).ok()).flatten();
                    self.rest = Rest::Chunk(size.ok_or_else(|| wrong("a chunk of the answer has no size"))?);
                    if size == Some(0) {
                        let mut left = HEAD_BYTES_MAX;
                        while !self.read_line(&mut left)?.is_empty() {}
                        self.rest = Rest::None;
                    }
                }
            }
        }
    }
}

fn wrong(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Duration;

    /// A server that gives each connection these answers, one a request, and then closes it; what it was asked.
    fn server(connections: &'static [&'static [&'static str]]) -> (Http, Arc<AtomicBool>, Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/exams", listener.local_addr().unwrap()).parse().unwrap();
        let (tell, asked) = channel();
        std::thread::spawn(move || {
            for answers in connections {
                let mut stream = listener.accept().unwrap().0;
                for answer in *answers {
                    let mut request = Vec::new();
                    let mut byte = [0];
                    while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                        request.push(byte[0]);
                    }
                    let _ = tell.send(String::from_utf8(request).unwrap());
                    // A few bytes at a time, so that nothing is whole by chance.
                    for piece in answer.as_bytes().chunks(7) {
                        stream.write_all(piece).unwrap();
                        stream.flush().unwrap();
                    }
                    if *answer == SILENCE {
                        let _ = stream.read(&mut byte);
                    }
                }
            }
        });
        let interrupted = Arc::default();
        let server = Server { url, key: Some("s3cret".to_owned()) };
        (Http::new(&server, &interrupted), interrupted, asked)
    }

    const SILENCE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n12";
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\ntransfer-encoding: Chunked\r\n\r\n\
        5\r\nhello\r\nA;name=\"v\"\r\n, world..x\r\n1\r\n\n\r\n0\r\nTrailer: t\r\n\r\n";

    fn get(http: &mut Http) -> io::Result<(u16, String)> {
        let mut answer = http.ask(Method::Get, "/a", Some("text/csv"), &[])?;
        Ok((answer.status, answer.text(100)?))
    }

    #[test]
    fn answers_are_read_to_their_end_on_one_connection() {
        let (mut http, _, asked) = server(&[&[
            CHUNKED,
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno",
            "HTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        ]]);
        let mut answer = http.ask(Method::Get, "/a", Some("text/csv"), &[]).unwrap();
        assert_eq!(answer.date.unwrap().to_string(), "1994-11-06T08:49:37Z");
        assert_eq!((answer.status, answer.text(100).unwrap()), (200, "hello, world..x\n".to_owned()));
        assert_eq!(get(&mut http).unwrap(), (404, "no".to_owned()));
        assert_eq!(get(&mut http).unwrap(), (204, String::new()));
        assert_eq!(get(&mut http).unwrap(), (200, String::new()));
        let first = asked.recv().unwrap();
        for line in ["GET /exams/a HTTP/1.1\r\n", "X-API-Key: s3cret\r\n", "Accept: text/csv\r\n", "Host: 127.0.0.1:"]
        {
            assert!(first.contains(line), "{first}");
        }
        assert_eq!(asked.iter().count(), 3);
    }

    #[test]
    fn what_is_cut_off_is_an_error() {
        for answer in [
            &["HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n1234"],
            &["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n1234"],
            &["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n"],
            &["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n"],
            &["HTTP/1.1 200 OK\r\nContent-Le"],
        ] {
            let (mut http, ..) = server(Box::leak(Box::new([&answer[..]])));
            assert_eq!(get(&mut http).unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "{answer:?}");
        }
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        let long: &str = Box::leak(format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(40_000)).into_boxed_str());
        let body: &str =
            Box::leak(format!("HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n{}", "x".repeat(101)).into_boxed_str());
        for (answer, why) in [
            ("SSH-2.0-x\r\n\r\n", "not HTTP"),
            ("HTTP/1.1 OK\r\n\r\n", "not HTTP"),
            ("HTTP/1.1 200 OK\r\nx\r\n\r\n", "not HTTP"),
            ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "not HTTP"),
            ("HTTP/1.1 200 OK\r\n\r\nto the end", "how long"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n", "no size"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n", "has no end"),
            (long, "head of the answer is too long"),
            (body, "answer is too long"),
        ] {
            let answers: &'static [&'static str] = Box::leak(Box::new([answer]));
            let (mut http, ..) = server(Box::leak(Box::new([answers])));
            let error = get(&mut http).unwrap_err().to_string();
            assert!(error.contains(why), "{answer:.60}: {error}");
        }
    }

    #[test]
    fn a_connection_that_was_closed_meanwhile_is_made_again() {
        const LAST: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n3";
        let (mut http, _, asked) = server(&[
            &["HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1"],
            &["HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nleft over"],
            &[LAST],
            &["HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n4"],
        ]);
        assert_eq!(get(&mut http).unwrap().1, "1");
        // Not read to its end, it would be taken for the next answer.
        assert_eq!(http.ask(Method::Get, "/a", None, &[]).unwrap().status, 200);
        assert_eq!(get(&mut http).unwrap().1, "3");
        assert_eq!(get(&mut http).unwrap().1, "4");
        assert_eq!(asked.iter().count(), 4);
    }

    #[test]
    fn an_interruption_ends_the_wait() {
        let (mut http, interrupted, _asked) = server(&[&[SILENCE]]);
        let mut answer = http.ask(Method::Get, "/a", None, &[]).unwrap();
        let begun = Instant::now();
        let flag = Arc::clone(&interrupted);
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            flag.store(true, Ordering::Relaxed);
        });
        assert_eq!(answer.text(100).unwrap_err().to_string(), "interrupted");
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}
