//! `timerd events` and `timerd publish` as they are called: the built binary against a running daemon, over real
//! sockets, files and pipes, with kill -9 on either side.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod daemon;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use daemon::{Daemon, PATIENCE, directory, eventually};
use serde_json::{Value, json};

const TIMERD: &str = env!("CARGO_BIN_EXE_timerd");

/// A running client, its output not a terminal.
struct Client {
    child: Child,
    out: Arc<Mutex<Vec<String>>>,
    err: Arc<Mutex<Vec<String>>>,
}

impl Client {
    fn start(address: SocketAddr, args: &[&str]) -> Client {
        let mut command = Command::new(TIMERD);
        command.args(args).args(["--url", &format!("http://{address}")]).env_clear();
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (out, err) = (lines_of(child.stdout.take().unwrap()), lines_of(child.stderr.take().unwrap()));
        Client { child, out, err }
    }

    /// `timerd events`, once the daemon has `subscribers` of them.
    fn events(daemon: &Daemon, args: &[&str], subscribers: u32) -> Client {
        let client = Client::start(daemon.address, &[&["events"], args].concat());
        eventually(|| daemon.get("/readiness").json()["router"]["active_subscribers"] == subscribers);
        client
    }

    fn publish(address: SocketAddr, file: &Path, args: &[&str]) -> Client {
        Client::start(address, &[&["publish", file.to_str().unwrap()], args].concat())
    }

    fn input(&mut self) -> ChildStdin {
        self.child.stdin.take().unwrap()
    }

    fn out(&self) -> Vec<String> {
        self.out.lock().unwrap().clone()
    }

    fn err(&self) -> Vec<String> {
        self.err.lock().unwrap().clone()
    }

    /// The events that `events --json` has printed: nothing but objects, one a line.
    fn objects(&self) -> Vec<Value> {
        self.out().iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap().success());
    }

    /// Waits for its end; the exit code.
    #[track_caller]
    fn end(&mut self) -> Option<i32> {
        // Longer than anything it waits for by chance.
        let begun = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < 3 * PATIENCE, "no end: {:#?}", self.err());
            std::thread::sleep(Duration::from_millis(10));
        }
        // The last lines are on their way from the pipe.
        eventually(|| Arc::strong_count(&self.out) == 1 && Arc::strong_count(&self.err) == 1);
        self.child.wait().unwrap().code()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines_of(pipe: impl Read + Send + 'static) -> Arc<Mutex<Vec<String>>> {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let copy = Arc::clone(&lines);
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            copy.lock().unwrap().push(line);
        }
    });
    lines
}

/// An event of `kind` in `session`, with the payload `{"n":n}`.
fn event(kind: &str, session: &str, n: usize) -> Value {
    json!({ "event_type": kind, "source": "test", "session_id": session, "payload": { "n": n } })
}

/// A file's text with the events 1..=count.
fn lines(count: usize) -> String {
    (1..=count).map(|n| format!("{}\n", event("answer_submitted", "s", n))).collect()
}

/// All events that the daemon has.
fn stored(daemon: &Daemon) -> Vec<Value> {
    let last = daemon.get("/stats").json()["last_seq"].as_u64().unwrap();
    let mut socket = daemon.open("/ws/subscribe", &[]);
    socket.send(json!({ "after": 0 }));
    assert_eq!(socket.recv()["status"], "subscribed");
    (0..last).map(|_| socket.recv()).collect()
}

fn numbers(events: &[Value]) -> Vec<usize> {
    events.iter().map(|event| usize::try_from(event["payload"]["n"].as_u64().unwrap()).unwrap()).collect()
}

#[track_caller]
fn assert_gapless(events: &[Value]) {
    for (at, event) in events.iter().enumerate() {
        assert_eq!(event["seq"], at + 1, "{event}");
    }
}

#[test]
fn events_are_followed_live_and_filtered() {
    let daemon = Daemon::ephemeral(&[]);
    assert_eq!(daemon.post("/events", event("quiz_started", "before", 0)).status, 201);
    let plain = Client::events(&daemon, &[], 1);
    let args = ["--json", "--type", "quiz_started,quiz_completed", "--type", "quiz_timeout", "--session", "s1"];
    let filtered = Client::events(&daemon, &args, 2);
    let mut ended = Client::events(&daemon, &["--user", "nobody"], 3);
    let sent = [("quiz_started", "s1"), ("quiz_started", "s2"), ("answer_submitted", "s1"), ("quiz_timeout", "s1")];
    for (n, (kind, session)) in sent.iter().enumerate() {
        assert_eq!(daemon.post("/events", event(kind, session, n)).status, 201);
    }
    let odd =
        json!({ "event_type": "error_occurred", "source": "a.b", "session_id": "x\u{1b}[2J\n", "user_id": "u v" });
    assert_eq!(daemon.post("/events", odd).status, 201);
    eventually(|| plain.out().len() == 5 && filtered.out().len() == 2);
    let said = plain.out();
    let (time, rest) = said[0].split_once(' ').unwrap();
    assert_eq!(rest, r#"2 quiz_started test s1 - {"n":0}"#);
    assert!(time.len() == 24 && time.ends_with('Z'), "{time}");
    assert!(said[4].ends_with(r#" 6 error_occurred a.b x?[2J? "u v" {}"#), "{said:?}");
    assert!(said.iter().all(|line| !line.contains('\u{1b}')), "{said:?}");
    assert_eq!(numbers(&filtered.objects()), [0, 3]);
    // As the server has it, byte for byte.
    let id = filtered.objects()[1]["id"].as_str().unwrap().to_owned();
    assert_eq!(filtered.out()[1], daemon.get(&format!("/events/{id}")).text());
    ended.signal("INT");
    assert_eq!(ended.end(), Some(130));
    assert_eq!((ended.out().len(), plain.err(), filtered.err()), (0, vec![], vec![]));
}

#[test]
fn a_timer_is_followed_with_its_ticks_which_have_no_number() {
    let daemon = Daemon::ephemeral(&[]);
    let client = Client::events(&daemon, &["--json", "--type", "timer_tick,timer_expired"], 1);
    let id = daemon.create(json!({ "duration_seconds": 2, "auto_start": true }));
    eventually(|| client.out().iter().any(|line| line.contains("timer_expired")));
    let said = client.objects();
    assert!(said.iter().all(|event| event["session_id"] == *id), "{said:?}");
    assert!(said.len() >= 2 && said[0]["event_type"] == "timer_tick" && said[0]["seq"].is_null(), "{said:?}");
}

#[test]
fn everything_from_stdin_comes_back_after_0_in_order() {
    let daemon = Daemon::ephemeral(&[]);
    let mut publisher = Client::start(daemon.address, &["publish", "-"]);
    let mut input = publisher.input();
    // The first line is published while the pipe stays open.
    input.write_all(lines(1).as_bytes()).unwrap();
    eventually(|| daemon.get("/stats").json()["total_events"] == 1);
    input.write_all(&lines(2_500).as_bytes()[lines(1).len()..]).unwrap();
    drop(input);
    assert_eq!(publisher.end(), Some(0));
    assert!(publisher.err().last().unwrap().starts_with("timerd publish: published 2500, refused 0, "));
    assert_eq!(publisher.out(), Vec::<String>::new());
    let reader = Client::events(&daemon, &["--after", "0", "--json"], 1);
    eventually(|| reader.out().len() == 2_500);
    let events = reader.objects();
    assert_gapless(&events);
    assert_eq!(numbers(&events), (1..=2_500).collect::<Vec<_>>());
    let rest = Client::events(&daemon, &["--after", "2498", "--json"], 2);
    eventually(|| rest.out().len() == 2);
    assert_eq!(numbers(&rest.objects()), [2_499, 2_500]);
}

#[test]
fn events_end_quietly_with_their_reader() {
    let daemon = Daemon::ephemeral(&[]);
    let mut command = Command::new(TIMERD);
    command.args(["events", "--url", &format!("http://{}", daemon.address)]).env_clear();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually(|| daemon.get("/readiness").json()["router"]["active_subscribers"] == 1);
    drop(child.stdout.take());
    // Without an event that would show it.
    eventually(|| child.try_wait().unwrap().is_some());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((child.wait().unwrap().code(), &*said), (Some(0), ""));
}

#[test]
fn the_daemons_death_leaves_no_gap_and_no_double() {
    let (_place, data) = directory();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.jsonl");
    std::fs::write(&file, lines(20_000)).unwrap();
    let daemon = Daemon::on(&data, &[]);
    let address = daemon.address;
    let reader = Client::events(&daemon, &["--json"], 1);
    let mut publisher = Client::publish(address, &file, &["--window", "100"]);
    eventually(|| reader.out().len() > 1_000);
    daemon.kill();
    let daemon = Daemon::on(&data, &["--listen", &address.to_string()]);
    assert_eq!(publisher.end(), Some(0), "{:#?}", publisher.err());
    let all = stored(&daemon);
    eventually(|| reader.out().len() >= all.len());
    let events = reader.objects();
    assert_gapless(&events);
    assert_eq!(events, all);
    let mut known = numbers(&all);
    known.sort_unstable();
    known.dedup();
    assert_eq!(known, (1..=20_000).collect::<Vec<_>>(), "a line is missing");
    assert!(all.len() <= 20_100, "{} are there twice, more than the window", all.len() - 20_000);
    for client in [&reader, &publisher] {
        assert!(client.err().iter().any(|line| line.contains("reconnecting")), "{:?}", client.err());
    }
    assert!(reader.err().iter().any(|line| line == "timerd events: connected again"), "{:?}", reader.err());
}

#[test]
fn what_is_refused_is_said_by_line_and_not_published_again() {
    let daemon = Daemon::ephemeral(&[]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.jsonl");
    let good = |n| event("quiz_started", "s", n).to_string();
    let long = format!("\"{}\"", "x".repeat(1 << 20));
    let mut bytes =
        [&*good(1), "", "{\"event_type\":", &good(2), "{\"event_type\":\"none\",\"source\":\"x\"}"].join("\n");
    bytes.push_str(&format!("\n{long}\n\r\n{}\r\n", good(3)));
    let mut bytes = bytes.into_bytes();
    bytes.extend_from_slice(b"\xff\n");
    bytes.extend_from_slice(good(4).as_bytes());
    std::fs::write(&file, bytes).unwrap();
    let name = file.to_str().unwrap();
    let mut publisher = Client::publish(daemon.address, &file, &[]);
    assert_eq!(publisher.end(), Some(1));
    assert_eq!(numbers(&stored(&daemon)), [1, 2, 3, 4]);
    let mut said = publisher.err();
    assert!(said.pop().unwrap().starts_with("timerd publish: published 4, refused 4, "), "{said:#?}");
    // Those that were not even sent may be said before the others are answered.
    said.sort();
    assert_eq!(said.len(), 4, "{said:#?}");
    assert_eq!(said[0], format!("{name}:3: Invalid JSON"));
    assert!(said[1].starts_with(&format!("{name}:5: ")) && said[1].contains("event_type"), "{said:#?}");
    assert_eq!(said[2], format!("{name}:6: the line is longer than 1 MiB"));
    assert_eq!(said[3], format!("{name}:9: the line is not UTF-8"));
    let remembered = folder.path().join("events.jsonl.published");
    assert!(remembered.exists());
    // Everything is answered: there is nothing to do but to say so.
    let mut again = Client::publish(daemon.address, &file, &[]);
    assert_eq!(again.end(), Some(1));
    assert!(again.err()[0].ends_with("going on behind line 10, 4 before it were refused"), "{:?}", again.err());
    assert_eq!(stored(&daemon).len(), 4);
    let mut anew = Client::publish(daemon.address, &file, &["--again", "--quiet"]);
    assert_eq!(anew.end(), Some(1));
    assert_eq!((stored(&daemon).len(), anew.err().len()), (8, 4));
    // Another file under its name is not taken for the rest of it.
    std::fs::write(&file, lines(3)).unwrap();
    let mut other = Client::publish(daemon.address, &file, &[]);
    assert_eq!(other.end(), Some(1));
    assert!(other.err()[0].contains("has changed") && other.err()[0].contains("--again"), "{:?}", other.err());
    assert_eq!(stored(&daemon).len(), 8);
}

#[test]
fn a_publisher_that_was_killed_goes_on_where_it_stopped() {
    let (_place, data) = directory();
    let daemon = Daemon::on(&data, &[]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.jsonl");
    let remembered = folder.path().join("events.jsonl.published");
    let count = 10_000;
    std::fs::write(&file, lines(count)).unwrap();
    // One at a time, so that it is in the middle of it for long.
    let killed = Client::publish(daemon.address, &file, &["--window", "1"]);
    eventually(|| remembered.exists());
    killed.signal("KILL");
    drop(killed);
    let before = stored(&daemon).len();
    assert!((1..count).contains(&before), "{before} before the kill");
    let mut interrupted = Client::publish(daemon.address, &file, &["--window", "1"]);
    eventually(|| daemon.get("/stats").json()["total_events"].as_u64().unwrap() > before as u64);
    interrupted.signal("INT");
    assert_eq!(interrupted.end(), Some(130));
    let between = stored(&daemon).len();
    let mut last = Client::publish(daemon.address, &file, &[]);
    assert_eq!(last.end(), Some(0));
    assert!(!remembered.exists());
    for client in [&interrupted, &last] {
        assert!(client.err()[0].starts_with("timerd publish: going on behind line "), "{:?}", client.err());
    }
    let all = numbers(&stored(&daemon));
    let mut known = all.clone();
    known.sort_unstable();
    known.dedup();
    assert_eq!(known, (1..=count).collect::<Vec<_>>(), "a line is missing");
    // Ctrl-C waits for its answers: what follows it doubles nothing.
    assert!(all[between..].iter().is_sorted(), "out of order");
    assert_eq!(all[between], all[between - 1] + 1, "not where it stopped");
}

#[test]
fn keys_are_presented_and_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.jsonl");
    std::fs::write(&file, lines(1)).unwrap();
    let daemon = Daemon::start(&["--ephemeral", "--require-auth"], &[("API_KEY", "s3cret")]);
    for mut client in
        [Client::start(daemon.address, &["events"]), Client::publish(daemon.address, &file, &["--key", "wrong"])]
    {
        assert_eq!(client.end(), Some(1));
        assert!(client.err().iter().any(|line| line.contains("asks for a valid key")), "{:?}", client.err());
    }
    let mut publisher = Client::publish(daemon.address, &file, &["--key", "s3cret"]);
    assert_eq!(publisher.end(), Some(0), "{:?}", publisher.err());
    let reader = Client::start(daemon.address, &["events", "--key", "s3cret", "--after", "0"]);
    eventually(|| reader.out().len() == 1);
}

#[test]
fn too_many_connections_are_tried_again() {
    let daemon = Daemon::ephemeral(&["--ws-per-address", "1"]);
    let mut first = Client::events(&daemon, &[], 1);
    let second = Client::start(daemon.address, &["events", "--after", "0"]);
    eventually(|| second.err().iter().any(|line| line.contains("too many connections")));
    first.signal("TERM");
    assert_eq!(first.end(), Some(130));
    eventually(|| daemon.get("/readiness").json()["router"]["active_subscribers"] == 1);
    assert_eq!(daemon.post("/events", event("quiz_started", "s", 1)).status, 201);
    eventually(|| second.out().len() == 1);
}

#[test]
fn what_was_deleted_is_said_and_the_rest_is_shown() {
    let daemon = Daemon::ephemeral(&[]);
    for n in 1..=3 {
        assert_eq!(daemon.post("/events", event("quiz_started", "s", n)).status, 201);
    }
    assert_eq!(daemon.delete("/events").json()["deleted"], 3);
    assert_eq!(daemon.post("/events", event("quiz_started", "s", 4)).status, 201);
    let reader = Client::start(daemon.address, &["events", "--after", "0", "--json"]);
    eventually(|| reader.out().len() == 1);
    assert_eq!(reader.objects()[0]["seq"], 4);
    assert_eq!(reader.err(), ["timerd events: events up to 3 were deleted, going on with 4"]);
}

#[test]
fn a_wrong_filter_ends_with_what_the_server_says() {
    let daemon = Daemon::ephemeral(&[]);
    let mut client = Client::start(daemon.address, &["events", "--session", &"s".repeat(201)]);
    assert_eq!(client.end(), Some(1));
    let said = client.err();
    assert!(said.len() == 1 && said[0].starts_with("timerd events: the server refuses: session_id: "), "{said:?}");
}

#[test]
fn help_says_what_cannot_be_guessed() {
    for (command, words) in [
        ("events", &["--type", "--session", "--user", "--after", "--json", "TIMERD_KEY", "130"][..]),
        ("publish", &["--window", "--again", "--quiet", "FILE.published", "twice", "at most", "stdin"]),
    ] {
        let output = Command::new(TIMERD).args([command, "--help"]).env_clear().output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success());
        for word in words {
            assert!(text.contains(word), "{command} --help without {word}");
        }
    }
}
