//! Server-sent events (WHATWG HTML, section 9.2): messages as lines of text.
//!
//! Owns the grammar of the stream, which only ever goes out: a browser's `EventSource` reads it and says nothing. It
//! knows no service. Events have no name, so that a page hears all of them in one place.
//!
//! Invariants: one event ends with one empty line; a line break in the data never ends an event.

/// The media type (section 9.2.6: always UTF-8, no parameter is needed).
pub const CONTENT_TYPE: &str = "text/event-stream";

/// Asks the client to wait so many milliseconds before it comes back after a lost connection.
pub fn push_retry(ms: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("retry: {ms}\n").as_bytes());
}

/// One event. Without an `id` the client keeps the one it heard last, and repeats it in `Last-Event-ID`.
pub fn push_event(id: Option<u64>, data: &str, out: &mut Vec<u8>) {
    if let Some(id) = id {
        out.extend_from_slice(format!("id: {id}\n").as_bytes());
    }
    for line in data.split(['\n', '\r']) {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line.as_bytes());
        out.push(b'\n');
    }
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_end_with_an_empty_line_and_not_before() {
        let mut out = Vec::new();
        push_retry(2_500, &mut out);
        push_event(Some(7), r#"{"type":"pong"}"#, &mut out);
        push_event(None, "two\nlines", &mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "retry: 2500\nid: 7\ndata: {\"type\":\"pong\"}\n\ndata: two\ndata: lines\n\n");
    }
}
