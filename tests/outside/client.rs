//! `timerd events`, `timerd publish` and `timerd exam` as they are called: the built binary against a running daemon,
//! over real sockets, files and pipes, with kill -9 on either side.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::daemon::{Daemon, PATIENCE, directory, eventually};
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
        ("exam load", &["FILE:LINE: FIELD", "nothing is sent", "replaced", "stdin", "TIMERD_KEY"]),
        ("exam watch", &["--once", "--json", "TIMERD_KEY", "130"]),
        ("exam results", &["--csv", "--output", "cut off", "TIMERD_KEY", "130"]),
    ] {
        let output = Command::new(TIMERD).args(command.split(' ')).arg("--help").env_clear().output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success());
        for word in words {
            assert!(text.contains(word), "{command} --help without {word}");
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------
// timerd exam.

/// An assessment with two sections of two items each, its own id in the titles, as somebody would write it.
fn assessment(id: &str) -> String {
    let item = |n: u32| format!("{{ \"item_id\": \"item-{n}\",\n    \"content\": {{ \"prompt\": \"é {n}?\" }} }}");
    let section = |id: &str, items: [u32; 2]| {
        format!("{{ \"section_id\": \"{id}\",\n  \"items\": [{}] }}", items.map(item).join(",\n   "))
    };
    format!(
        "{{\n\"assessment_id\": \"{id}\",\n\"title\": \"Title of {id}\",\n\"time_limit_seconds\": 3600,\n\
         \"navigation_mode\": \"NON_LINEAR\",\n\"sections\": [{},\n {}]\n}}\n",
        section("a", [1, 2]),
        section("b", [3, 4])
    )
}

/// The file `name` in `folder`.
fn file(folder: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn exam_load(daemon: &Daemon, files: &[&Path], args: &[&str]) -> Client {
    let files: Vec<&str> = files.iter().map(|file| file.to_str().unwrap()).collect();
    Client::start(daemon.address, &[&["exam", "load"], &files[..], args].concat())
}

/// A daemon with the assessment `id`.
fn with_exam(id: &str) -> Daemon {
    let daemon = Daemon::ephemeral(&[]);
    put_exam(&daemon, id);
    daemon
}

#[track_caller]
fn put_exam(daemon: &Daemon, id: &str) {
    let headers = [("Content-Type", "application/json")];
    let response = daemon.request("PUT", &format!("/delivery/assessments/{id}"), &headers, Some(&assessment(id)));
    assert_eq!(response.status, 201, "{}", response.text());
}

/// Starts a session; its path.
#[track_caller]
fn sit(daemon: &Daemon, exam: &str, candidate: &str) -> String {
    let body = json!({ "candidate_id": candidate, "test_taker_id": "t" });
    let response = daemon.post(&format!("/delivery/start/{exam}"), body);
    assert_eq!(response.status, 200, "{}", response.text());
    format!("/delivery/session/{}", response.json()["session_id"].as_str().unwrap())
}

#[track_caller]
fn answer(daemon: &Daemon, session: &str, item: &str, response: Value) {
    let response = daemon.post(&format!("{session}/answer"), json!({ "item_id": item, "response": response }));
    assert_eq!(response.status, 200, "{}", response.text());
}

#[test]
fn assessments_are_loaded_and_replaced() {
    let daemon = Daemon::ephemeral(&[]);
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (file(&folder, "a.json", &assessment("exam a/b?")), file(&folder, "b.json", &assessment("b")));
    let mut loading = exam_load(&daemon, &[&a, &b], &[]);
    assert_eq!((loading.end(), loading.err()), (Some(0), vec![]));
    let line = |path: &Path, id: &str, kind: &str| {
        format!("{}: {id} loaded ({kind}): 2 sections, 4 items, 60 min", path.display())
    };
    assert_eq!(loading.out(), [line(&a, "exam a/b?", "new"), line(&b, "b", "new")]);
    let kept = daemon.get("/delivery/assessments/exam%20a%2Fb%3F").json();
    assert_eq!(
        (&kept["title"], &kept["sections"][1]["items"][1]["content"]["prompt"]),
        (&json!("Title of exam a/b?"), &json!("é 4?"))
    );
    let mut again = Client::start(daemon.address, &["exam", "load", "-"]);
    again.input().write_all(assessment("b").replace("3600", "90").as_bytes()).unwrap();
    drop(again.child.stdin.take());
    assert_eq!(again.end(), Some(0), "{:?}", again.err());
    assert_eq!(again.out(), ["stdin: b loaded (replaced): 2 sections, 4 items, 1:30"]);
    assert_eq!(daemon.get("/delivery/assessments/b").json()["time_limit_seconds"], 90);
}

#[test]
fn nothing_is_loaded_while_any_file_has_a_fault() {
    let daemon = Daemon::ephemeral(&[]);
    let folder = tempfile::tempdir().unwrap();
    let good = file(&folder, "good.json", &assessment("good"));
    let twice = file(&folder, "twice.json", &assessment("good"));
    let wrong = assessment("wrong").replace("3600", "0").replace("item-4", "item-1").replace("\"b\"", "7");
    let wrong = file(&folder, "wrong.json", &wrong);
    let broken = file(&folder, "broken.json", &assessment("broken").replace("3600,", "3600"));
    let mut loading = exam_load(&daemon, &[&good, &wrong, &broken, &twice, Path::new("/nowhere/x.json")], &[]);
    assert_eq!(loading.end(), Some(1));
    assert_eq!(loading.out(), Vec::<String>::new());
    let said = loading.err();
    for line in [
        format!("{}:4: time_limit_seconds: must be a whole number, 1..86400, or null for none", wrong.display()),
        format!("{}:11: sections[1].section_id: must be a text", wrong.display()),
        format!("{}:14: sections[1].items[1].item_id: 'item-1' is there already, in line 7", wrong.display()),
        format!("{}:5: not JSON: expected `,` or `}}` (column 1)", broken.display()),
        format!("{}:2: assessment_id: 'good' is also in {}", twice.display(), good.display()),
        "timerd exam load: /nowhere/x.json: No such file or directory (os error 2)".to_owned(),
        "timerd exam load: nothing was loaded".to_owned(),
    ] {
        assert!(said.contains(&line), "no {line} in {said:#?}");
    }
    assert_eq!(said.len(), 7, "{said:#?}");
    assert_eq!(daemon.get("/delivery/assessments/good").status, 404);
}

#[test]
fn what_the_server_finds_is_said_by_line_and_the_rest_is_loaded() {
    let daemon = Daemon::ephemeral(&[]);
    let folder = tempfile::tempdir().unwrap();
    // Nested beyond what the server takes, of which only it knows.
    let deep = assessment("deep").replace("\"é 3?\"", &format!("{}{}", "[".repeat(600), "]".repeat(600)));
    let (deep, good) = (file(&folder, "deep.json", &deep), file(&folder, "good.json", &assessment("good")));
    let mut loading = exam_load(&daemon, &[&deep, &good], &[]);
    assert_eq!(loading.end(), Some(1));
    assert_eq!(loading.out().len(), 1, "{:?}", loading.out());
    let said = loading.err();
    assert!(said[0].starts_with(&format!("{}:13: ", deep.display())), "{said:#?}");
    assert_eq!(said[1..], ["timerd exam load: 1 of 2 were loaded"]);
    assert_eq!(daemon.get("/delivery/assessments/good").status, 200);
}

#[test]
fn the_office_needs_the_offices_key() {
    let folder = tempfile::tempdir().unwrap();
    let a = file(&folder, "a.json", &assessment("a"));
    let daemon = Daemon::start(&["--ephemeral", "--require-auth"], &[("API_KEY", "s3cret")]);
    for args in [&["exam", "load", a.to_str().unwrap()][..], &["exam", "watch", "a"], &["exam", "results", "a"]] {
        let mut client = Client::start(daemon.address, &[args, &["--key", "wrong"]].concat());
        assert_eq!(client.end(), Some(1), "{args:?}");
        assert!(client.err()[0].contains("asks for a valid key"), "{:?}", client.err());
    }
    let mut loading = exam_load(&daemon, &[&a], &["--key", "s3cret"]);
    assert_eq!(loading.end(), Some(0), "{:?}", loading.err());
    for args in [&["exam", "watch", "nobody", "--once"][..], &["exam", "watch", "nobody"]] {
        let mut client = Client::start(daemon.address, &[args, &["--key", "s3cret"]].concat());
        assert_eq!(client.end(), Some(1), "{args:?}");
        assert!(client.err()[0].ends_with("there is no assessment 'nobody'"), "{:?}", client.err());
    }
    let mut nothing = Client::start(daemon.address, &["exam", "watch", "a", "--once", "--key", "s3cret"]);
    assert_eq!(nothing.end(), Some(0), "{:?}", nothing.err());
    assert!(nothing.out().len() == 1 && nothing.out()[0].ends_with("nobody has begun"), "{:?}", nothing.out());
}

#[test]
fn who_sits_an_exam_is_watched_through_its_deletion() {
    let daemon = with_exam("math");
    let ann = sit(&daemon, "math", "ann");
    let watch = Client::start(daemon.address, &["exam", "watch", "math"]);
    eventually(|| watch.out().len() == 1);
    let said = watch.out();
    let (time, rest) = said[0].split_once(' ').unwrap();
    assert!(time.len() == 9 && time.ends_with('Z'), "{time}");
    assert!(rest.starts_with("ann: in progress, 0/4 answered, ") && rest.contains(" left, "), "{rest}");
    answer(&daemon, &ann, "item-1", json!({ "choice": 2 }));
    eventually(|| watch.out().len() == 2);
    assert!(watch.out()[1].contains("ann: in progress, 1/4 answered, "), "{:?}", watch.out());
    let bob = sit(&daemon, "math", "bob \u{202e}");
    assert_eq!(daemon.post(&format!("{bob}/pause"), json!({})).status, 200);
    eventually(|| watch.out().last().unwrap().contains("bob ?: paused, 0/4 answered, "));
    let socket = daemon.open(&ann.replace("session", "ws"), &[]);
    eventually(|| watch.out().last().unwrap().contains("ann: in progress, 1/4 answered, "));
    assert!(watch.out().last().unwrap().ends_with(" left, 1 socket"), "{:?}", watch.out());
    drop(socket);

    let mut once = Client::start(daemon.address, &["exam", "watch", "math", "--once"]);
    assert_eq!((once.end(), once.err()), (Some(0), vec![]));
    let table = once.out();
    assert_eq!(table.len(), 4, "{table:#?}");
    assert!(table[0].starts_with("Title of math ") && table[0].ends_with(" 1 in progress, 1 paused"), "{table:#?}");
    assert!(
        table[1].starts_with("candidate ") && table[2].starts_with("ann ") && table[3].starts_with("bob ? "),
        "{table:#?}"
    );
    let mut json = Client::start(daemon.address, &["exam", "watch", "math", "--once", "--json"]);
    assert_eq!(json.end(), Some(0));
    let rows: Vec<Value> = serde_json::from_str(&json.out()[0]).unwrap();
    assert_eq!((json.out().len(), rows.len(), &rows[0]["candidate_id"]), (1, 2, &json!("ann")));

    let mut interrupted = Client::start(daemon.address, &["exam", "watch", "math", "--json"]);
    eventually(|| interrupted.out().len() >= 2);
    interrupted.signal("INT");
    assert_eq!((interrupted.end(), interrupted.err()), (Some(130), vec![]));
    assert_eq!(watch.err(), Vec::<String>::new());
}

#[test]
fn the_watch_comes_back_to_another_daemon_and_ends_with_the_assessment() {
    let daemon = with_exam("math");
    let address = daemon.address;
    let mut watch = Client::start(address, &["exam", "watch", "math"]);
    sit(&daemon, "math", "ann");
    eventually(|| watch.out().len() == 1);
    daemon.kill();
    eventually(|| !watch.err().is_empty());
    let daemon = Daemon::ephemeral(&["--listen", &address.to_string()]);
    put_exam(&daemon, "math");
    sit(&daemon, "math", "bob");
    // It waits at random up to 5 s, and comes perhaps before there is anything.
    let begun = Instant::now();
    while watch.out().len() < 2 && begun.elapsed() < 2 * PATIENCE {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(watch.out()[1].contains(" bob: in progress, "), "{:?} {:?}", watch.out(), watch.err());
    let said = watch.err();
    assert!(said[0].ends_with("; reconnecting") && said.last().unwrap().ends_with("connected again"), "{said:?}");
    let mut unread = Command::new(TIMERD);
    unread.args(["exam", "watch", "math", "--url", &format!("http://{address}")]).env_clear();
    let mut unread = unread.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    drop(unread.stdout.take());
    eventually(|| unread.try_wait().unwrap().is_some());
    assert_eq!(unread.wait().unwrap().code(), Some(0));
    daemon.kill();
    let daemon = Daemon::ephemeral(&["--listen", &address.to_string()]);
    assert_eq!(watch.end(), Some(0), "{:?}", watch.err());
    assert_eq!(watch.err().last().unwrap(), "timerd exam watch: the assessment was deleted");
    drop(daemon);
}

#[test]
fn results_go_to_stdout_and_into_files() {
    let daemon = with_exam("math");
    let ann = sit(&daemon, "math", "ann");
    answer(&daemon, &ann, "item-1", json!({ "text": "=1+1\n\u{1b}[2J \"é\"" }));
    sit(&daemon, "math", "bob");
    assert_eq!(daemon.post(&format!("{ann}/submit"), json!({})).status, 200);
    let mut lines = Client::start(daemon.address, &["exam", "results", "math"]);
    assert_eq!((lines.end(), lines.err()), (Some(0), vec![]));
    let rows = lines.objects();
    assert_eq!((rows.len(), &rows[0]["candidate_id"], &rows[0]["state"]), (2, &json!("ann"), &json!("completed")));
    assert_eq!(rows[0]["responses"]["item-1"]["text"], "=1+1\n\u{1b}[2J \"é\"");

    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, "results.csv", "what was there before");
    let name = path.to_str().unwrap();
    let mut table = Client::start(daemon.address, &["exam", "results", "math", "--csv", "--output", name]);
    assert_eq!((table.end(), table.err()), (Some(0), vec![format!("timerd exam results: {name}: 2 sessions")]));
    let text = std::fs::read_to_string(&path).unwrap();
    let columns = "session_id,candidate_id,state,started_at,completed_at,late_ms,item-1,item-2,item-3,item-4\r\n";
    assert!(text.starts_with(columns) && text.lines().count() == 3, "{text}");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "something was left beside it");

    let mut nothing = Client::start(daemon.address, &["exam", "results", "nobody", "--output", name]);
    assert_eq!(nothing.end(), Some(1), "{:?}", nothing.err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    let mut nowhere = Client::start(daemon.address, &["exam", "results", "math", "--output", "/nowhere/x"]);
    assert_eq!(nowhere.end(), Some(1));
    assert!(nowhere.err()[0].starts_with("timerd exam results: /nowhere/x: "), "{:?}", nowhere.err());
    let mut device = Client::start(daemon.address, &["exam", "results", "math", "--output", "/dev/null"]);
    assert_eq!(device.end(), Some(0));
}

#[test]
fn results_that_are_cut_off_are_not_taken_for_whole() {
    // Not a daemon: one that ends in the middle of its answer just when it should.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = std::sync::mpsc::channel::<bool>();
    std::thread::spawn(move || {
        for cut in told {
            let mut stream = listener.accept().unwrap().0;
            let mut request = [0; 4096];
            assert!(stream.read(&mut request).unwrap() > 0);
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            stream.write_all(format!("{head}9\r\n{{\"n\":1}}\n\n\r\n").as_bytes()).unwrap();
            if !cut {
                // Until it goes away.
                let _ = stream.read(&mut request);
            }
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, "results", "what was there before");
    tell.send(true).unwrap();
    let mut cut = Client::start(address, &["exam", "results", "math"]);
    assert_eq!(cut.end(), Some(1));
    assert_eq!(cut.out()[0], "{\"n\":1}");
    assert!(cut.err()[0].starts_with("timerd exam results: not complete, cut off after "), "{:?}", cut.err());
    for (is_cut, code) in [(true, 1), (false, 130)] {
        tell.send(is_cut).unwrap();
        let mut cut = Client::start(address, &["exam", "results", "math", "--output", path.to_str().unwrap()]);
        if !is_cut {
            eventually(|| std::fs::read_dir(&folder).unwrap().count() == 2);
            cut.signal("INT");
        }
        assert_eq!(cut.end(), Some(code), "{:?}", cut.err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "what was there before");
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "something was left beside it");
    }
}
