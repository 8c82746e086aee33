//! HTTP/1.1 on the wire, by RFC 9112, through raw sockets: the order of answers, the life of connections, bodies in
//! every framing, one reading of every byte or a refusal that closes, patience with those who dribble, and survival
//! when descriptors run out.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::daemon::{Daemon, Http, Response, directory, eventually, request_bytes};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::json;

const CREATE: &str = r#"{"duration_seconds":60}"#;

/// A request that would create a timer, were it read as one.
fn smuggled() -> Vec<u8> {
    request_bytes("POST", "/timers", &[], Some(CREATE))
}

fn timers(daemon: &Daemon) -> u64 {
    daemon.get("/health").json()["timers_active"].as_u64().unwrap()
}

fn says_close(response: &Response) -> bool {
    response.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
}

// ---------------------------------------------------------------------------------------------------------------
// Order, and the life of a connection.

#[test]
fn answers_come_in_the_order_of_requests_and_reads_see_the_changes_before_them() {
    let (_kept, path) = directory();
    let daemon = Daemon::on(&path, &[]);
    let mut http = daemon.connect();
    let id = http.request("POST", "/timers", &[], Some(CREATE)).json()["id"].as_str().unwrap().to_owned();
    let one = format!("/timers/{id}");
    let control = format!("{one}/control");
    let extend = json!({ "action": "extend", "extend_seconds": 1 }).to_string();
    let rounds = 40;
    let mut bytes = Vec::new();
    for _ in 0..rounds {
        bytes.extend(request_bytes("GET", "/nowhere", &[], None));
        bytes.extend(request_bytes("POST", &control, &[], Some(&extend)));
        bytes.extend(request_bytes("HEAD", &one, &[], None));
        bytes.extend(request_bytes("GET", &one, &[], None));
        bytes.extend(request_bytes("GET", &format!("{one}/history?after=1"), &[], None));
        bytes.extend(request_bytes("PUT", &one, &[], None));
    }
    http.send(bytes);
    for round in 1..=rounds {
        assert_eq!(http.response().status, 404);
        let extended = http.response();
        assert_eq!((extended.status, &extended.json()["duration_seconds"]), (200, &json!(60 + round)));
        assert_eq!(http.response_to("HEAD").header("etag"), extended.header("etag"));
        let seen = http.response();
        assert_eq!(seen.json(), extended.json(), "a read behind a change sees it");
        let lines = http.response().json();
        assert_eq!(lines.as_array().unwrap().len(), round, "and so does the history");
        assert_eq!(http.response().status, 405);
    }
    assert_eq!(http.request("GET", "/health", &[], None).status, 200);
}

#[test]
fn a_connection_lives_on_unless_one_side_says_otherwise() {
    let daemon = Daemon::ephemeral(&[]);
    let get = |version: &str, connection: &str| format!("GET /health HTTP/{version}\r\nHost: x\r\n{connection}\r\n");
    for (version, connection, lives) in [
        ("1.1", "", true),
        ("1.1", "Connection: keep-alive\r\n", true),
        ("1.1", "Connection: whatever\r\n", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: Keep-Alive, CLOSE\r\n", false),
        ("1.1", "Connection: x\r\nConnection: close\r\n", false),
        ("1.0", "", false),
        ("1.0", "Connection: keep-alive\r\n", true),
        ("1.0", "Connection: keep-alive, close\r\n", false),
    ] {
        let mut http = daemon.connect();
        http.send(get(version, connection));
        let response = http.response();
        assert_eq!(response.status, 200);
        assert_eq!(says_close(&response), !lives, "{version} {connection}: {response:?}");
        if lives {
            if version == "1.0" {
                let said = response.header("connection").unwrap_or_default();
                assert!(said.eq_ignore_ascii_case("keep-alive"), "an old client must be told");
            }
            assert_eq!(http.request("GET", "/health", &[], None).status, 200, "{version} {connection}");
        } else {
            assert!(http.is_closed(), "{version} {connection}");
        }
    }
    // What stands behind a last request is not carried out.
    let mut http = daemon.connect();
    http.send([get("1.1", "Connection: close\r\n").into_bytes(), smuggled()].concat());
    assert_eq!(http.response().status, 200);
    assert!(http.is_closed());
    assert_eq!(timers(&daemon), 0);
    // Errors in a request that was read as one do not end the connection.
    let mut http = daemon.connect();
    for (method, path, body, status) in
        [("GET", "/nowhere", "", 404), ("PUT", "/timers", "{}", 405), ("POST", "/timers", "{", 422)]
    {
        assert_eq!(http.request(method, path, &[], Some(body)).status, status);
    }
    assert_eq!(http.request("POST", "/timers", &[], Some(CREATE)).status, 201);
    // Whoever has said all may close that side, and still hears the answers.
    let mut http = daemon.connect();
    http.send([smuggled(), request_bytes("GET", "/timers", &[], None)].concat());
    http.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(http.response().status, 201);
    assert_eq!(http.response().json().as_array().unwrap().len(), 2);
    assert!(http.is_closed());
    // Half a request and then nothing is no request.
    let mut http = daemon.connect();
    let whole = smuggled();
    http.send(&whole[..whole.len() - 1]);
    http.stream.shutdown(Shutdown::Write).unwrap();
    assert!(http.try_response_to("POST").is_none_or(|response| response.status == 400));
    assert_eq!(timers(&daemon), 2);
}

#[test]
fn other_forms_of_a_request_that_the_rfc_allows_are_understood() {
    let daemon = Daemon::ephemeral(&[]);
    let mut http = daemon.connect();
    for (request, status) in [
        ("GET http://exams.example:80/health HTTP/1.1\r\nHost: other\r\n\r\n", 200),
        ("GET http://exams.example HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        ("GET /health?a=b&c HTTP/1.1\r\nHost: [::1]:8003\r\n\r\n", 200),
        ("GET /health HTTP/1.1\r\nHOST:x\r\n\r\n", 200),
        ("GET /health HTTP/1.1\r\nhost:\t x:1 \t\r\n\r\n", 200),
        ("GET /health HTTP/1.1\r\nHost: x\r\nEmpty:\r\nX: \"a, b\" \u{e9}\r\n\r\n", 200),
        ("\r\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        ("\r\n\r\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        ("GET /health HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n", 200),
        ("GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 200),
        ("GET /%68ealth HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    ] {
        http.send(request);
        let response = http.response();
        assert!(response.status == status || request.contains("%68"), "{request}: {response:?}");
        assert!(!says_close(&response), "{request}");
    }
    http.send("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(http.response().status < 500);
    assert_eq!(http.request("GET", "/health", &[], None).status, 200);
}

// ---------------------------------------------------------------------------------------------------------------
// Bodies.

const POST: &str = "POST /timers HTTP/1.1\r\nHost: x\r\n";
const CHUNKED: &str = "POST /timers HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";

#[test]
fn a_chunked_body_is_the_same_body() {
    let daemon = Daemon::ephemeral(&[]);
    let mut http = daemon.connect();
    let bodies = [
        "17\r\n{\"duration_seconds\":60}\r\n0\r\n\r\n",
        "0017\r\n{\"duration_seconds\":60}\r\n000\r\n\r\n",
        "1\r\n{\r\n16;name=value;x=\"y\"\r\n\"duration_seconds\":60}\r\n0;last\r\n\r\n",
        "a\r\n{\"duration\r\nD\r\n_seconds\":60}\r\n0\r\nTrailer: value\r\nX:\r\n\r\n",
        "17 ;with=blank\r\n{\"duration_seconds\":60}\r\n0\r\n\r\n",
    ];
    for body in bodies {
        http.send(format!("{CHUNKED}{body}"));
        let response = http.response();
        assert_eq!(response.status, 201, "{body:?}: {}", response.text());
        assert_eq!(response.json()["duration_seconds"], 60);
    }
    http.send(CHUNKED.replace("chunked", "Chunked") + bodies[0]);
    assert_eq!(http.response().status, 201, "the name of a coding has no case");
    http.send(format!("{CHUNKED}0\r\n\r\n"));
    http.response().assert_fault(&["body"]);
    let bytes: String = CREATE.chars().map(|c| format!("1\r\n{c}\r\n")).collect();
    http.send(format!("{CHUNKED}{bytes}0\r\n\r\n"));
    assert_eq!(http.response().status, 201);
    assert_eq!(timers(&daemon), 7);
}

#[test]
fn input_may_be_cut_at_every_byte() {
    let daemon = Daemon::ephemeral(&[]);
    let chunked = "1\r\n{\r\n16;x\r\n\"duration_seconds\":60}\r\n0\r\nTrailer: value\r\n\r\n";
    let bytes = [
        format!("\r\n{CHUNKED}{chunked}").into_bytes(),
        request_bytes("POST", "/timers", &[], Some(CREATE)),
        request_bytes("GET", "/timers?state=running", &[("X-Field", " value ")], None),
    ]
    .concat();
    let check = |http: &mut Http, cut: &str| {
        assert_eq!([http.response().status, http.response().status], [201, 201], "{cut}");
        assert_eq!(http.response().json(), json!([]), "{cut}");
    };
    // Many connections at a time, so that each half has time to arrive by itself.
    let cuts: Vec<usize> = (1..bytes.len()).collect();
    for some in cuts.chunks(50) {
        let mut halves: Vec<(usize, Http)> = some.iter().map(|cut| (*cut, daemon.connect())).collect();
        halves.iter_mut().for_each(|(cut, http)| http.send(&bytes[..*cut]));
        std::thread::sleep(Duration::from_millis(30));
        halves.iter_mut().for_each(|(cut, http)| http.send(&bytes[*cut..]));
        halves.iter_mut().for_each(|(cut, http)| check(http, &format!("cut at {cut}")));
        let list = daemon.get("/timers").json();
        let ids: Vec<&str> = list.as_array().unwrap().iter().map(|timer| timer["id"].as_str().unwrap()).collect();
        assert_eq!(ids.len(), 2 * some.len());
        assert_eq!(daemon.post("/timers/bulk/delete", json!(ids)).status, 200);
    }
    let mut http = daemon.connect();
    bytes.iter().for_each(|byte| http.send([*byte]));
    check(&mut http, "each byte by itself");
}

#[test]
fn a_body_over_the_limit_is_refused_before_it_has_come() {
    let daemon = Daemon::ephemeral(&[]);
    let closes = |http: &mut Http, what: &str| {
        let response = http.response();
        assert_eq!(response.status, 413, "{what}");
        assert!(says_close(&response) && response.json()["detail"].is_string(), "{what}");
        assert!(http.is_closed(), "{what}");
    };
    for length in ["65537", "10000000000", "99999999999999999999999999"] {
        let mut http = daemon.connect();
        http.send(format!("{POST}Content-Length: {length}\r\n\r\n"));
        closes(&mut http, length);
    }
    for size in ["10001", "fffffffffffffff", "10000\r\n"] {
        let mut http = daemon.connect();
        let body = if size.ends_with('\n') { format!("{}\r\n1\r\n", " ".repeat(0x10000)) } else { "\r\n".to_owned() };
        http.send(format!("{CHUNKED}{size}{body}"));
        closes(&mut http, size);
    }
    // A client that goes on sending all the same still hears why it must stop.
    let mut http = daemon.connect();
    let mut sender = http.stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        let head = format!("{POST}Content-Length: 2000000\r\n\r\n");
        // The rest may meet a closed connection.
        _ = sender.write_all(head.as_bytes()).and_then(|()| sender.write_all(&[b' '; 2_000_000]));
    });
    assert_eq!(http.response().status, 413);
    sending.join().unwrap();
    assert_eq!(timers(&daemon), 0);
}

#[test]
fn whoever_expects_100_continue_gets_it_or_the_final_answer() {
    let daemon = Daemon::ephemeral(&["--max-timers", "3"]);
    let expecting =
        |line: &str, rest: &str| format!("{line} HTTP/1.1\r\nHost: x\r\nExpect: 100-Continue\r\n{rest}\r\n\r\n");
    let mut http = daemon.connect();
    for (framing, body) in [
        ("Content-Length: 23", CREATE.to_owned()),
        ("Transfer-Encoding: chunked", format!("17\r\n{CREATE}\r\n0\r\n\r\n")),
    ] {
        http.send(expecting("POST /timers", framing));
        let interim = http.response();
        assert_eq!((interim.status, interim.body.len()), (100, 0), "{framing}");
        http.send(&body);
        assert_eq!(http.response().status, 201, "{framing}");
    }
    // A body that comes unasked needs no interim answer; the final one comes all the same.
    http.send(expecting("POST /timers", "Content-Length: 23") + CREATE);
    let first = http.response();
    let last = if first.status == 100 { http.response() } else { first };
    assert_eq!(last.status, 201);
    // No body, nothing to continue with.
    http.send(expecting("GET /health", "X: y"));
    assert_eq!(http.response().status, 200);
    // HTTP/1.0 knows no interim answers.
    let mut old = daemon.connect();
    old.send("POST /timers HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 23\r\n\r\n");
    std::thread::sleep(Duration::from_millis(30));
    old.send(CREATE);
    assert_eq!(old.response().status, 429);

    for (line, rest, status) in [
        ("POST /nowhere", "Content-Length: 23", 404),
        ("PUT /timers", "Content-Length: 23", 405),
        ("POST /timers", "Content-Length: 65537", 413),
        ("POST /timers", "Expect: miracles\r\nContent-Length: 23", 417),
    ] {
        let mut http = daemon.connect();
        http.send(expecting(line, rest));
        let response = http.response();
        assert_eq!(response.status, status, "{line} {rest}");
        // Whether the body comes all the same cannot be known.
        assert!(says_close(&response) && http.is_closed(), "{line} {rest}");
    }
}

#[test]
fn a_client_may_ask_for_much_before_it_reads() {
    let daemon = Daemon::ephemeral(&[]);
    let mut http = daemon.connect();
    http.send(smuggled().repeat(100));
    (0..100).for_each(|_| assert_eq!(http.response().status, 201));
    let rounds = 100;
    let mut sender = http.stream.try_clone().unwrap();
    let sending =
        std::thread::spawn(move || sender.write_all(&request_bytes("GET", "/timers", &[], None).repeat(rounds)));
    // Far more than the kernel keeps: the rest waits where it was asked for, and nobody else waits with it.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(daemon.get("/health").status, 200);
    for _ in 0..rounds {
        assert_eq!(http.response().json().as_array().unwrap().len(), 100);
    }
    sending.join().unwrap().unwrap();
}

// ---------------------------------------------------------------------------------------------------------------
// One reading or none.

/// Sends `bytes` with a request behind them; there is one refusal, then the end, and nothing was carried out.
fn assert_refused(daemon: &Daemon, bytes: &[u8], status: u16) {
    let shown = String::from_utf8_lossy(bytes).into_owned();
    let mut http = daemon.connect();
    http.send([bytes, &smuggled()].concat());
    let response = http.response();
    assert_eq!(response.status, status, "{shown:?}: {}", response.text());
    assert!(response.json()["detail"].is_string(), "{shown:?}");
    assert!(says_close(&response), "{shown:?}: {response:?}");
    assert!(http.is_closed(), "{shown:?}: something follows the refusal");
}

#[test]
fn a_body_with_two_lengths_or_an_odd_one_is_refused() {
    let daemon = Daemon::ephemeral(&[]);
    for (framing, status) in [
        ("Content-Length: 23\r\nContent-Length: 23", 400),
        ("Content-Length: 23\r\nContent-Length: 0", 400),
        ("Content-Length: 23\r\ncontent-length: 24", 400),
        ("Content-Length: 23, 23", 400),
        ("Content-Length: 23,", 400),
        ("Content-Length: +23", 400),
        ("Content-Length: -1", 400),
        ("Content-Length: 0x17", 400),
        ("Content-Length: 2 3", 400),
        ("Content-Length: 23.0", 400),
        ("Content-Length: 2e1", 400),
        ("Content-Length: ", 400),
        ("Content-Length: \u{ff12}\u{ff13}", 400),
        ("Content-Length: 18446744073709551639", 413),
        ("Content-Length: 23\r\nTransfer-Encoding: chunked", 400),
        ("Transfer-Encoding: chunked\r\nContent-Length: 23", 400),
        ("Transfer-Encoding: chunked\r\nContent-Length: 0", 400),
        ("Transfer-Encoding: identity\r\nContent-Length: 23", 400),
        ("Transfer-Encoding: ", 400),
        ("Transfer-Encoding: chunked, chunked", 400),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 400),
        ("Transfer-Encoding: chunked,", 400),
        ("Transfer-Encoding: gzip, chunked", 501),
        ("Transfer-Encoding: chunked, identity", 501),
        ("Transfer-Encoding: identity", 501),
        ("Transfer-Encoding: xchunked", 501),
        ("Transfer-Encoding: chunked;q=1", 501),
        ("Transfer-Encoding: \"chunked\"", 501),
        ("Transfer-Encoding:\u{b}chunked", 400),
        ("Transfer-Encoding : chunked", 400),
        ("Content-Length : 23", 400),
        ("Content-Length\t: 23", 400),
    ] {
        assert_refused(&daemon, format!("{POST}{framing}\r\n\r\n{CREATE}").as_bytes(), status);
    }
    let old =
        "POST /timers HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n17\r\n{\"duration_seconds\":60}\r\n0\r\n\r\n";
    assert_refused(&daemon, old.as_bytes(), 400);
    assert_eq!(timers(&daemon), 0);
}

#[test]
fn a_chunk_that_can_be_read_in_two_ways_is_refused() {
    let daemon = Daemon::ephemeral(&[]);
    let long = format!("17;{}\r\n{CREATE}\r\n0\r\n\r\n", "e".repeat(1100));
    let trailer = format!("17\r\n{CREATE}\r\n0\r\nX: {}\r\n\r\n", "t".repeat(1100));
    for body in [
        "\r\n",
        "g\r\n",
        "-1\r\n",
        "+17\r\n",
        "0x17\r\n",
        " 17\r\n",
        "17 \r\n",
        "17 17\r\n",
        "00000000000000017\r\n",
        "ffffffffffffffffff\r\n",
        "17\n{\"duration_seconds\":60}\r\n0\r\n\r\n",
        "17\r{\"duration_seconds\":60}\r\n0\r\n\r\n",
        "17\r\n{\"duration_seconds\":60}\n0\r\n\r\n",
        "17\r\n{\"duration_seconds\":60}0\r\n\r\n",
        "16\r\n{\"duration_seconds\":60}\r\n0\r\n\r\n",
        "17;\u{1}\r\n{\"duration_seconds\":60}\r\n0\r\n\r\n",
        "17;a\rb\r\n{\"duration_seconds\":60}\r\n0\r\n\r\n",
        "17\r\n{\"duration_seconds\":60}\r\n0\r\nno colon\r\n\r\n",
        "17\r\n{\"duration_seconds\":60}\r\n0\r\n: no name\r\n\r\n",
        "17\r\n{\"duration_seconds\":60}\r\n0\r\nX : blank\r\n\r\n",
        "17\r\n{\"duration_seconds\":60}\r\n0\r\n folded\r\n\r\n",
        "17\r\n{\"duration_seconds\":60}\r\n0\r\nX: y\n\r\n",
        &long,
        &trailer,
    ] {
        assert_refused(&daemon, format!("{CHUNKED}{body}").as_bytes(), 400);
    }
    assert_eq!(timers(&daemon), 0);
}

#[test]
fn a_head_that_can_be_read_in_two_ways_is_refused() {
    let daemon = Daemon::ephemeral(&[]);
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    for (head, status) in [
        (&b"GET /health HTTP/1.1\nHost: x\n\n"[..], 400),
        (b"GET /health HTTP/1.1\r\nHost: x\n\r\n", 400),
        (b"GET /health HTTP/1.1\nHost: x\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nX: a\rb\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nX: a\r\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nX: a\x7fb\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nX: a\r\n folded\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\n Host: x\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n\tX: y\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n: no name\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nX(Y): z\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nX Y: z\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nX\xc3\xa9: z\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost : x\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\n\r\n", 400),
        (b"GET http://a/health HTTP/1.1\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nhost: y\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x, y\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x y\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x/y\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: a@x\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x:port\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: [::1\r\n\r\n", 400),
        (b"GET /health\r\n\r\n", 400),
        (b"GET  /health HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /health  HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /health HTTP/1.1 \r\nHost: x\r\n\r\n", 400),
        (b" GET /health HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET\t/health HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /he alth HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /caf\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /health#part HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET health HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET ftp://x/health HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET * HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"G@T /health HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /health http/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /health HTTP/1.1.1\r\nHost: x\r\n\r\n", 505),
        (b"GET /health HTTP/1.2\r\nHost: x\r\n\r\n", 505),
        (b"GET /health HTTP/3.0\r\nHost: x\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", 501),
        (b"\r\n\r\n\r\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"\0\0\0\0", 400),
        (hello, 400),
    ] {
        assert_refused(&daemon, head, status);
    }
    assert_eq!(timers(&daemon), 0);
}

// ---------------------------------------------------------------------------------------------------------------
// Patience.

/// Everything slow in one test, side by side: a head, bodies in both framings and half a WebSocket message that come
/// drop by drop, each shed at its fixed age however often a drop comes.
#[test]
fn whoever_dribbles_is_shed_at_a_fixed_age_and_disturbs_nobody() {
    let daemon = Daemon::ephemeral(&[]);
    let id = daemon.create(json!({ "duration_seconds": 60 }));
    let drip = |prefix: &str, drop: &'static str| {
        let mut http = daemon.connect();
        http.send(prefix);
        let mut sender = http.stream.try_clone().unwrap();
        let begun = Instant::now();
        // Ends with the connection.
        std::thread::spawn(move || {
            while begun.elapsed() < Duration::from_secs(20) && sender.write_all(drop.as_bytes()).is_ok() {
                std::thread::sleep(Duration::from_millis(250));
            }
        });
        (http, begun)
    };
    let shed = |(mut http, begun): (Http, Instant), age_s: u64| {
        http.stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let response = http.response();
        let age = begun.elapsed();
        assert_eq!(response.status, 408, "{}", response.text());
        assert!(says_close(&response) && response.json()["detail"].is_string());
        assert!(age >= Duration::from_millis(1000 * age_s - 100), "shed after {age:?} already");
        assert!(age < Duration::from_secs(age_s + 4), "shed after {age:?} only");
        assert!(http.is_closed());
    };
    let upgrade = format!(
        "GET /ws/{id} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    std::thread::scope(|scope| {
        let first_line = drip("G", "E");
        let fields = drip("GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: ", "z");
        let many_fields = drip("GET /health HTTP/1.1\r\nHost: x\r\n", "X: y\r\n");
        let second = {
            let mut http = daemon.connect();
            assert_eq!(http.request("GET", "/health", &[], None).status, 200);
            std::thread::sleep(Duration::from_millis(300));
            http.send("GET");
            (http, Instant::now())
        };
        let by_length = drip(&format!("{POST}Content-Length: 1000\r\n\r\n"), " ");
        let by_chunks = drip(CHUNKED, "1\r\n \r\n");
        let expecting = {
            let mut http = daemon.connect();
            http.send(format!("{POST}Content-Length: 10\r\nExpect: 100-continue\r\n\r\n"));
            assert_eq!(http.response().status, 100);
            (http, Instant::now())
        };
        for (connection, age_s) in [
            (first_line, 5),
            (fields, 5),
            (many_fields, 5),
            (second, 5),
            (by_length, 10),
            (by_chunks, 10),
            (expecting, 10),
        ] {
            scope.spawn(move || shed(connection, age_s));
        }
        // Half a WebSocket message, its bytes masked with zeros.
        scope.spawn(|| {
            let (mut socket, begun) = drip(&upgrade, "");
            socket.stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let mut sender = socket.stream.try_clone().unwrap();
            assert_eq!(socket.response_to("HEAD").status, 101);
            let dripping = scope.spawn(move || {
                let mut open = sender.write_all(&[0x81, 0xfe, 0x03, 0xe8, 0, 0, 0, 0]).is_ok();
                while open && begun.elapsed() < Duration::from_secs(11) {
                    std::thread::sleep(Duration::from_millis(250));
                    open = sender.write_all(b" ").is_ok();
                }
            });
            let mut bytes = Vec::new();
            socket.stream.read_to_end(&mut bytes).ok();
            let age = begun.elapsed();
            assert!((9_900..14_000).contains(&age.as_millis()), "{age:?}");
            let reason = b"\x03\xf0";
            assert!(bytes.windows(2).any(|two| two == reason), "no close 1008 in {bytes:?}");
            dripping.join().unwrap();
        });
        // A quiet connection is not one that dribbles.
        let mut quiet = daemon.connect();
        let begun = Instant::now();
        let mut served = 0;
        while begun.elapsed() < Duration::from_secs(6) {
            let asked = Instant::now();
            assert_eq!(daemon.get("/health").status, 200);
            assert!(asked.elapsed() < Duration::from_secs(2));
            served += 1;
            std::thread::sleep(Duration::from_millis(100));
        }
        assert!(served > 5);
        assert_eq!(quiet.request("GET", "/health", &[], None).status, 200);
    });
    let text = daemon.get("/metrics").text().to_owned();
    let line = text.lines().find(|line| line.contains("connections_shed_total ")).unwrap();
    assert!(line.rsplit(' ').next().unwrap().parse::<u64>().unwrap() >= 8, "{line}");
}

// ---------------------------------------------------------------------------------------------------------------
// Descriptors.

/// CPU time that a process has used, all its threads together.
fn cpu_ms(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // proc(5) counts in USER_HZ, which is 100 on every Linux.
    ticks * 10
}

fn descriptors(pid: u32) -> u64 {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64
}

#[test]
fn running_out_of_descriptors_costs_those_who_come_and_nobody_else() {
    let daemon = Daemon::ephemeral(&[]);
    let id = daemon.create(json!({ "duration_seconds": 60, "auto_start": true }));
    let (mut socket, _) = daemon.join(&id);
    let mut kept = daemon.connect();
    assert_eq!(kept.request("GET", "/health", &[], None).status, 200);
    // Room for three more, although the daemon believes that there is plenty.
    let pid = Pid::from_raw(i32::try_from(daemon.pid()).unwrap());
    let room = Some(descriptors(daemon.pid()) + 3);
    // The hard limit, inherited from here, stays.
    let maximum = getrlimit(Resource::Nofile).maximum;
    let before = prlimit(pid, Resource::Nofile, Rlimit { current: room, maximum }).unwrap();
    let mut crowd: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(daemon.address).unwrap()).collect();
    let exhausted = |kept: &mut Http| {
        let text = kept.request("GET", "/metrics", &[("Accept", "*/*")], None).text().to_owned();
        let line = text.lines().find(|line| line.contains("descriptors_exhausted_total ")).unwrap().to_owned();
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    eventually(|| exhausted(&mut kept) > 0);
    // Everybody who was here goes on, and nobody spins.
    socket.skip_to("timer_tick");
    let used_ms = cpu_ms(daemon.pid());
    std::thread::sleep(Duration::from_millis(600));
    let used_ms = cpu_ms(daemon.pid()) - used_ms;
    assert!(used_ms <= 150, "{used_ms} ms of CPU in 600 ms of waiting");
    assert_eq!(kept.request("POST", "/timers", &[], Some(CREATE)).status, 201);
    socket.skip_to("timer_tick");
    // Whoever was cut off knows it, and once there is room again anybody is served.
    let mut cut = 0;
    for stream in &mut crowd {
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        cut += usize::from(stream.read(&mut [0; 16]).is_ok_and(|bytes| bytes == 0));
    }
    assert!(cut >= 50, "connections that are not served are not left hanging");
    drop(crowd);
    eventually(|| {
        let mut http = daemon.connect();
        http.send(request_bytes("GET", "/health", &[], None));
        http.try_response_to("GET").is_some_and(|response| response.status == 200)
    });
    prlimit(pid, Resource::Nofile, before).unwrap();
}

#[test]
fn whoever_comes_while_there_is_no_descriptor_at_all_is_served_once_there_is() {
    let daemon = Daemon::ephemeral(&[]);
    let mut kept = daemon.connect();
    assert_eq!(kept.request("GET", "/health", &[], None).status, 200);
    let pid = Pid::from_raw(i32::try_from(daemon.pid()).unwrap());
    // Below the one that is kept back to turn people away with.
    let none = Rlimit { current: Some(3), maximum: getrlimit(Resource::Nofile).maximum };
    let before = prlimit(pid, Resource::Nofile, none).unwrap();
    let mut waiting = daemon.connect();
    waiting.send(request_bytes("GET", "/health", &[], None));
    daemon.wait_for_log("cannot be accepted");
    let used_ms = cpu_ms(daemon.pid());
    std::thread::sleep(Duration::from_millis(600));
    let used_ms = cpu_ms(daemon.pid()) - used_ms;
    assert!(used_ms <= 150, "{used_ms} ms of CPU in 600 ms of waiting");
    assert_eq!(daemon.log().matches("cannot be accepted").count(), 1, "once a second is enough");
    // Nobody else comes: it is not for a newcomer to remind the daemon of who waits.
    prlimit(pid, Resource::Nofile, before).unwrap();
    assert_eq!(waiting.response().status, 200);
    assert_eq!(kept.request("GET", "/health", &[], None).status, 200);
}

#[test]
fn a_low_limit_of_descriptors_is_told_and_kept_to() {
    let mut command = Command::new("sh");
    let run = format!("ulimit -n 100; exec '{}' --ephemeral --listen 127.0.0.1:0", env!("CARGO_BIN_EXE_timerd"));
    command.args(["-c", &run]).env_clear();
    let daemon = Daemon::spawn(command).unwrap_or_else(|(status, text)| panic!("{status}: {text}"));
    daemon.wait_for_log("connections are possible");
    let mut crowd: Vec<Http> = (0..150).map(|_| daemon.connect()).collect();
    let mut statuses = Vec::new();
    for http in &mut crowd {
        // One that was cut may refuse what is written to it.
        if http.stream.write_all(&request_bytes("GET", "/health", &[], None)).is_ok() {
            statuses.extend(http.try_response_to("GET").map(|response| response.status));
        }
    }
    let served = statuses.iter().filter(|status| **status == 200).count();
    assert!(served >= 20, "{statuses:?}");
    assert!(statuses.iter().all(|status| matches!(status, 200 | 503)), "{statuses:?}");
    assert!(statuses.len() < 100, "more than there are descriptors");
    assert!(descriptors(daemon.pid()) <= 100);
    let used_ms = cpu_ms(daemon.pid());
    std::thread::sleep(Duration::from_millis(300));
    assert!(cpu_ms(daemon.pid()) - used_ms <= 100, "it spins");
    drop(crowd);
    eventually(|| {
        let mut http = daemon.connect();
        http.send(request_bytes("GET", "/health", &[], None));
        http.try_response_to("GET").is_some_and(|response| response.status == 200)
    });
}
