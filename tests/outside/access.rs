//! Who may do what, and what an operator is told: keys and roles on every route, the ways to present a key,
//! reloading, the refusals at start with their exit codes, and the commands beside serving.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::daemon::{Daemon, Response, directory, eventually};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const TIMERD: &str = env!("CARGO_BIN_EXE_timerd");
const ROLES: [&str; 3] = ["viewer", "instructor", "admin"];

/// How a command that does not serve ended: exit code, stdout, stderr.
fn run(args: &[&str], variables: &[(&str, &str)]) -> (i32, String, String) {
    let output = Command::new(TIMERD).args(args).env_clear().envs(variables.iter().copied()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// Why a daemon with these flags does not start: exit code and what it said.
#[track_caller]
fn refusal(flags: &[&str], variables: &[(&str, &str)]) -> (i32, String) {
    match Daemon::try_start(flags, variables) {
        Ok(_) => panic!("{flags:?} {variables:?} are accepted"),
        Err((status, said)) => (status.code().unwrap(), said),
    }
}

/// A key as `timerd key new` makes it, and its line.
fn new_key(name: &str, role: &str) -> (String, String) {
    let (code, said, _) = run(&["key", "new", name, role], &[]);
    assert_eq!(code, 0, "{said}");
    let field = |label: &str| said.lines().find_map(|line| line.strip_prefix(label)).unwrap().trim().to_owned();
    (field("key:"), field("line:"))
}

/// A keys file with one key a role, named like it.
struct KeysFile {
    _kept: tempfile::TempDir,
    path: PathBuf,
    keys: Vec<(String, String)>,
}

impl KeysFile {
    fn new() -> KeysFile {
        let (kept, path) = directory();
        std::fs::create_dir_all(&path).unwrap();
        let keys: Vec<(String, String)> = ROLES.iter().map(|role| new_key(&format!("the.{role}"), role)).collect();
        let file = KeysFile { _kept: kept, path: path.join("keys"), keys };
        file.write(&file.lines());
        file
    }

    fn lines(&self) -> String {
        self.keys.iter().fold("# who may\n\n".to_owned(), |text, (_, line)| text + line + "\n")
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.path, text).unwrap();
        std::fs::set_permissions(&self.path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }

    fn key(&self, role: &str) -> &str {
        &self.keys[ROLES.iter().position(|known| *known == role).unwrap()].0
    }
}

fn ask(daemon: &Daemon, key: Option<&str>, method: &str, path: &str, body: Option<&str>) -> Response {
    let headers: Vec<(&str, &str)> = key.map(|key| ("X-API-Key", key)).into_iter().collect();
    daemon.request(method, path, &headers, body)
}

fn create(daemon: &Daemon, key: Option<&str>) -> String {
    let response = ask(daemon, key, "POST", "/timers", Some(r#"{"duration_seconds":60}"#));
    assert_eq!(response.status, 201, "{}", response.text());
    response.json()["id"].as_str().unwrap().to_owned()
}

fn actors(daemon: &Daemon, key: Option<&str>, id: &str) -> Vec<String> {
    let lines = ask(daemon, key, "GET", &format!("/timers/{id}/history"), None).json();
    lines.as_array().unwrap().iter().map(|line| line["actor"].as_str().unwrap().to_owned()).collect()
}

// ---------------------------------------------------------------------------------------------------------------
// Roles.

#[test]
fn every_route_asks_for_its_role() {
    let file = KeysFile::new();
    let daemon = Daemon::ephemeral(&["--require-auth", "--keys-file", file.path()]);
    let id = create(&daemon, Some(file.key("instructor")));
    let one = format!("/timers/{id}");
    let extend = r#"{"action":"extend","extend_seconds":1}"#;
    let none = r#"{"timer_ids":[],"seconds":1}"#;
    // Method, path, body, the least role (empty: open to all), the status for whoever may.
    let mut routes: Vec<(&str, String, Option<&str>, &str, u16)> = vec![
        ("GET", "/health".into(), None, "", 200),
        ("GET", "/readiness".into(), None, "", 200),
        ("GET", "/openapi.json".into(), None, "", 200),
        ("GET", "/docs".into(), None, "", 200),
        ("GET", "/docs/docs.js".into(), None, "", 200),
        ("GET", "/docs/docs.css".into(), None, "", 200),
        ("GET", "/".into(), None, "", 200),
        ("GET", "/timer/timer_none".into(), None, "", 200),
        ("GET", "/wall/timer_none".into(), None, "", 200),
        ("GET", "/console".into(), None, "", 200),
        ("GET", "/room".into(), None, "", 200),
        ("GET", "/room/0123456789".into(), None, "", 200),
        ("GET", "/exam/none".into(), None, "", 200),
        ("GET", "/pages/style.css".into(), None, "", 200),
        ("GET", "/rooms/0123456789".into(), None, "", 404),
        ("HEAD", "/rooms/0123456789".into(), None, "", 404),
        ("GET", "/nowhere".into(), None, "", 404),
        ("PUT", "/timers".into(), None, "", 405),
        ("OPTIONS", "/timers".into(), None, "", 204),
        ("GET", one.clone(), None, "viewer", 200),
        ("HEAD", one.clone(), None, "viewer", 200),
        ("GET", "/timers/timer_none".into(), None, "viewer", 404),
        ("GET", format!("{one}/stream"), None, "viewer", 200),
        ("HEAD", format!("{one}/stream"), None, "viewer", 200),
        ("GET", "/timers/timer_none/stream".into(), None, "viewer", 404),
        ("GET", "/timers".into(), None, "instructor", 200),
        ("HEAD", "/timers".into(), None, "instructor", 200),
        ("GET", format!("{one}/history"), None, "instructor", 200),
        ("POST", "/timers".into(), Some(r#"{"duration_seconds":60}"#), "instructor", 201),
        ("POST", "/timers".into(), Some("{"), "instructor", 422),
        ("POST", format!("{one}/control"), Some(extend), "instructor", 200),
        ("DELETE", "/timers/timer_none".into(), None, "instructor", 404),
        ("GET", "/metrics".into(), None, "admin", 200),
    ];
    for op in ["start", "pause", "resume", "stop", "extend", "delete"] {
        routes.push(("POST", format!("/timers/bulk/{op}"), Some(none), "instructor", 200));
    }
    let callers = [("", None), ("", Some("")), ("", Some("tk_wrong"))];
    let callers = callers.into_iter().chain(ROLES.map(|role| (role, Some(file.key(role)))));
    for (role, key) in callers {
        for (method, path, body, least, status) in &routes {
            let rank = |role: &str| ROLES.iter().position(|known| *known == role).map_or(0, |rank| rank + 1);
            let mut http = daemon.connect();
            let headers: Vec<(&str, &str)> = key.map(|key| ("X-API-Key", key)).into_iter().collect();
            let response = http.request(method, path, &headers, *body);
            let what = format!("{method} {path} as {role:?} {key:?}");
            if rank(role) >= rank(least) {
                assert_eq!(response.status, *status, "{what}: {}", response.text());
            } else if role.is_empty() {
                assert_eq!(response.status, 401, "{what}");
                assert!(response.header("www-authenticate").is_some(), "RFC 9110, section 11.6.1: {what}");
                if *method != "HEAD" {
                    assert_eq!(response.text(), r#"{"detail":"Invalid or missing API key"}"#, "{what}");
                }
            } else {
                assert_eq!(response.status, 403, "{what}");
                assert!(*method == "HEAD" || response.json()["detail"].is_string(), "{what}");
            }
        }
        // The socket of a timer: a viewer's, and refused by a close code.
        let headers: Vec<(&'static str, &str)> = key.map(|key| ("X-API-Key", key)).into_iter().collect();
        let mut socket = daemon.open(&format!("/ws/{id}"), &headers);
        if role.is_empty() {
            assert_eq!(socket.expect_close(), (4001, "Unauthorized".to_owned(), vec![]));
            let mut unknown = daemon.open("/ws/timer_none", &headers);
            assert_eq!(unknown.expect_close().0, 4001, "who may not come in is not told what is there");
        } else {
            socket.expect("connected");
        }
        // A room is open to whoever knows its id: no key is asked for, and a wrong one is not looked at.
        let mut maker = daemon.open("/ws/rooms", &headers);
        maker.send(json!({ "type": "session:create" }));
        let room = maker.expect("session:joined")["sessionId"].as_str().unwrap().to_owned();
        let mut guest = daemon.open("/ws/rooms", &[]);
        guest.send(json!({ "type": "session:join", "sessionId": room }));
        guest.expect("session:joined");
        assert_eq!(ask(&daemon, key, "GET", &format!("/rooms/{room}"), None).status, 200, "{role:?} {key:?}");
    }
    assert_eq!(ask(&daemon, Some(file.key("viewer")), "DELETE", &one, None).status, 403);
    assert_eq!(ask(&daemon, Some(file.key("instructor")), "DELETE", &one, None).status, 204);
}

const ASSESSMENT: &str = r#"{"sections":[{"section_id":"a","items":[{"item_id":"i","content":{}}]}]}"#;

/// Puts the assessment `exam` and starts a session of it as an instructor; the session's id.
fn sit(daemon: &Daemon, key: Option<&str>) -> String {
    let put = ask(daemon, key, "PUT", "/delivery/assessments/exam", Some(ASSESSMENT));
    assert!(matches!(put.status, 200 | 201), "{}", put.text());
    let body = r#"{"candidate_id":"ada","test_taker_id":"seat-7"}"#;
    let started = ask(daemon, key, "POST", "/delivery/start/exam", Some(body));
    assert_eq!(started.status, 200, "{}", started.text());
    started.json()["session_id"].as_str().unwrap().to_owned()
}

/// Every call of the delivery service: method, path, body, whether it is a candidate's, the status for whoever may.
/// None of them ends the session, which lasts for any number of rounds.
fn delivery_calls(session: &str) -> Vec<(&'static str, String, Option<&'static str>, bool, u16)> {
    let all = |rest: &str| format!("/delivery/assessments/exam{rest}");
    let one = |rest: &str| format!("/delivery/session/{session}{rest}");
    let person = || "/delivery/candidates/ada".to_owned();
    let somebody = r#"{"candidate_id":"grace","test_taker_id":"seat-8"}"#;
    // An untimed session cannot be extended: whoever may is told so.
    vec![
        ("PUT", all(""), Some(ASSESSMENT), false, 200),
        ("PUT", all(""), Some("{"), false, 422),
        ("GET", all(""), None, false, 200),
        ("HEAD", all(""), None, false, 200),
        ("DELETE", all(""), None, false, 409),
        ("GET", "/delivery/assessments".into(), None, false, 200),
        ("PUT", person(), Some("{}"), false, 200),
        ("GET", person(), None, false, 200),
        ("GET", "/delivery/candidates/nobody".into(), None, false, 404),
        ("GET", all("/sessions"), None, false, 200),
        ("GET", all("/results"), None, false, 200),
        ("POST", all("/pause"), None, false, 200),
        ("POST", all("/resume"), None, false, 200),
        ("POST", all("/extend"), Some(r#"{"seconds":1}"#), false, 200),
        ("POST", one("/pause"), None, false, 200),
        ("POST", one("/resume"), None, false, 200),
        ("POST", one("/extend"), Some(r#"{"seconds":1}"#), false, 400),
        ("POST", "/delivery/session/none/terminate".into(), None, false, 404),
        ("POST", "/delivery/start/exam".into(), Some(somebody), true, 200),
        ("POST", "/delivery/start/exam".into(), Some("{"), true, 422),
        ("GET", one(""), None, true, 200),
        ("GET", one("/current"), None, true, 200),
        ("HEAD", one("/current"), None, true, 200),
        ("POST", one("/answer"), Some(r#"{"item_id":"i","response":{}}"#), true, 200),
        ("POST", one("/navigate"), Some(r#"{"direction":"next"}"#), true, 400),
        ("POST", one("/save"), None, true, 200),
        ("POST", "/delivery/session/none/submit".into(), None, true, 404),
        ("GET", "/delivery/session/none".into(), None, true, 404),
        ("PATCH", all(""), None, true, 405),
    ]
}

#[test]
fn every_call_of_delivery_asks_for_its_role() {
    let file = KeysFile::new();
    let base = ["--require-auth", "--keys-file", file.path()];
    for open in [false, true] {
        let flags: Vec<&str> = base.into_iter().chain(open.then_some("--open-candidates")).collect();
        let daemon = Daemon::ephemeral(&flags);
        let instructor = Some(file.key("instructor"));
        let session = sit(&daemon, instructor);
        assert_eq!(ask(&daemon, instructor, "PUT", "/delivery/candidates/ada", Some("{}")).status, 201);
        let calls = delivery_calls(&session);
        let covered: std::collections::BTreeSet<String> = calls
            .iter()
            .map(|(_, path, ..)| path.rsplit('/').next().unwrap().to_owned())
            .filter(|last| last.bytes().all(|byte| byte.is_ascii_lowercase()))
            .collect();
        for last in ["pause", "resume", "extend", "terminate", "answer", "navigate", "save", "submit", "results"] {
            assert!(covered.contains(last), "{last} is not asked");
        }
        let callers = [("", None), ("", Some("tk_wrong"))];
        let callers = callers.into_iter().chain(ROLES.map(|role| (role, Some(file.key(role)))));
        for (role, key) in callers {
            let mut http = daemon.connect();
            let headers: Vec<(&'static str, &str)> = key.map(|key| ("X-API-Key", key)).into_iter().collect();
            for (method, path, body, is_candidates, status) in &calls {
                let response = http.request(method, path, &headers, *body);
                let what = format!("{method} {path} as {role:?} {key:?}, open: {open}");
                let expected = match role {
                    _ if *status == 405 || (*is_candidates && open) => *status,
                    "" => 401,
                    "viewer" if !is_candidates => 403,
                    _ => *status,
                };
                assert_eq!(response.status, expected, "{what}: {}", response.text());
                if expected == 401 {
                    assert!(response.header("www-authenticate").is_some(), "RFC 9110, section 11.6.1: {what}");
                }
            }
            // The socket, refused by a close code; who may not come in is not told what is there.
            let socket = |id: &str| daemon.open(&format!("/delivery/ws/{id}"), &headers);
            if role.is_empty() && !open {
                assert_eq!(socket(&session).expect_close(), (4001, "Unauthorized".to_owned(), vec![]));
                assert_eq!(socket("none").expect_close().0, 4001);
            } else {
                socket(&session).expect("timer");
                assert_eq!(socket("none").expect_close(), (4004, "Session not found".to_owned(), vec![]));
            }
        }
        // A key in the query is for sockets alone.
        let query = format!("?api_key={}", file.key("viewer"));
        daemon.open(&format!("/delivery/ws/{session}{query}"), &[]).expect("timer");
        let read = ask(&daemon, None, "GET", &format!("/delivery/session/{session}/current{query}"), None);
        assert_eq!(read.status, if open { 200 } else { 401 });
    }
}

#[test]
fn only_an_instructors_key_is_told_which_session_a_candidate_has_and_takes_none_of_its_places() {
    let file = KeysFile::new();
    let once = ASSESSMENT.replacen('{', r#"{"attempt_limit":1,"#, 1);
    for (flags, told) in [
        (&["--require-auth"][..], &["instructor", "admin"][..]),
        (&["--require-auth", "--open-candidates"], &["instructor", "admin"]),
        (&[], &["instructor", "admin"]),
    ] {
        let daemon = Daemon::ephemeral(&[flags, &["--keys-file", file.path()]].concat());
        let session = sit(&daemon, Some(file.key("instructor")));
        let put = ask(&daemon, Some(file.key("instructor")), "PUT", "/delivery/assessments/exam", Some(&once));
        assert_eq!(put.status, 200);
        let keyless = (flags.len() != 1).then_some(("", None));
        for (role, key) in keyless.into_iter().chain(ROLES.map(|role| (role, Some(file.key(role))))) {
            let body = r#"{"candidate_id":"ada","test_taker_id":"seat-9"}"#;
            let response = ask(&daemon, key, "POST", "/delivery/start/exam", Some(body));
            assert_eq!(response.status, 409, "{role:?}");
            let mut expected = json!({ "detail": "Candidate ada has an active session" });
            if told.contains(&role) {
                expected["session_id"] = json!(session);
            }
            assert_eq!(response.json(), expected, "{flags:?} {role:?}");
        }
        let path = format!("/delivery/ws/{session}");
        let open = |role: &str| daemon.open(&format!("{path}?api_key={}", file.key(role)), &[]);
        let mut kept: Vec<crate::daemon::Socket> = (0..3).map(|_| open("instructor")).collect();
        kept.extend((0..5).map(|_| open("viewer")));
        kept.iter_mut().for_each(|socket| assert_eq!(socket.expect("timer")["time_remaining"], Value::Null));
        assert_eq!(open("viewer").expect_close().0, 4029);
        open("admin").expect("timer");
    }
}

#[test]
fn a_key_comes_in_a_header_or_for_a_socket_or_a_stream_in_the_query() {
    let file = KeysFile::new();
    let daemon = Daemon::ephemeral(&["--require-auth", "--keys-file", file.path()]);
    let key = file.key("instructor");
    let id = create(&daemon, Some(key));
    let get = |path: &str, headers: &[(&str, &str)]| daemon.request("GET", path, headers, None).status;
    let bearer = format!("Bearer {key}");
    for (headers, status) in [
        (vec![("X-API-Key", key)], 200),
        (vec![("x-api-key", key)], 200),
        (vec![("Authorization", &*bearer)], 200),
        (vec![("authorization", &*bearer.replace("Bearer", "bearer"))], 200),
        (vec![("Authorization", &*bearer.replace("Bearer", "Basic"))], 401),
        (vec![("Authorization", key)], 401),
        (vec![("Authorization", "Bearer ")], 401),
        (vec![("X-API-Key", &*key.to_uppercase())], 401),
        (vec![("X-API-Key", &key[..key.len() - 1])], 401),
        (vec![("X-API-Key", &*format!("{key}x"))], 401),
        (vec![("X-Forwarded-User", key), ("Cookie", &*format!("api_key={key}"))], 401),
    ] {
        assert_eq!(get("/timers", &headers), status, "{headers:?}");
    }
    assert_eq!(get(&format!("/timers?api_key={key}"), &[]), 401, "addresses are logged and kept by browsers");
    let path = format!("/ws/{id}");
    daemon.open(&format!("{path}?api_key={key}"), &[]).expect("connected");
    daemon.open(&format!("{path}?x=1&api_key={}", key.replace('_', "%5F")), &[]).expect("connected");
    daemon.open(&path, &[("Authorization", &*bearer)]).expect("connected");
    for query in ["", "?api_key=", "?api_key=wrong", "?API_KEY=x", &format!("?key={key}")] {
        assert_eq!(daemon.open(&format!("{path}{query}"), &[]).expect_close().0, 4001, "{query}");
    }
    // Browsers cannot send headers for an EventSource either.
    let path = format!("/timers/{id}/stream");
    let viewer = file.key("viewer");
    for (query, headers, status) in [
        (format!("?api_key={viewer}"), vec![], 200),
        (format!("?x=1&api_key={}", viewer.replace('_', "%5F")), vec![], 200),
        (String::new(), vec![("X-API-Key", viewer)], 200),
        (String::new(), vec![("Authorization", &*bearer)], 200),
        (String::new(), vec![], 401),
        ("?api_key=".to_owned(), vec![], 401),
        ("?api_key=wrong".to_owned(), vec![], 401),
        (format!("?key={viewer}"), vec![], 401),
        (format!("/?api_key={viewer}"), vec![], 200),
    ] {
        assert_eq!(get(&format!("{path}{query}"), &headers), status, "{query} {headers:?}");
    }
    assert_eq!(get(&format!("/timers/{id}?api_key={viewer}"), &[]), 401, "nothing but the stream takes it there");
}

#[test]
fn without_rooms_nobody_has_one_and_those_there_were_are_there_again_afterwards() {
    let (_kept, path) = directory();
    let file = KeysFile::new();
    let base = ["--keys-file", file.path()];
    let daemon = Daemon::on(&path, &base);
    let mut socket = daemon.open("/ws/rooms", &[]);
    socket.send(json!({ "type": "session:create" }));
    let joined = socket.expect("session:joined");
    let room = format!("/rooms/{}", joined["sessionId"].as_str().unwrap());
    drop(daemon);

    let daemon = Daemon::on(&path, &[&base[..], &["--rooms", "off"]].concat());
    for key in [None, Some(file.key("admin"))] {
        let headers: Vec<(&'static str, &str)> = key.map(|key| ("X-API-Key", key)).into_iter().collect();
        let mut socket = daemon.open("/ws/rooms", &headers);
        assert_eq!(socket.expect_close(), (4004, "Rooms are off".to_owned(), vec![]));
        let response = ask(&daemon, key, "GET", &room, None);
        assert_eq!((response.status, response.text()), (404, r#"{"detail":"Room not found"}"#));
    }
    drop(daemon);

    let daemon = Daemon::on(&path, &base);
    assert_eq!(ask(&daemon, None, "GET", &room, None).json()["sessionId"], joined["sessionId"]);
}

#[test]
fn without_required_keys_everybody_may_and_whoever_shows_one_is_known_by_it() {
    let file = KeysFile::new();
    let daemon = Daemon::start(&["--ephemeral", "--keys-file", file.path()], &[("API_KEY", "s3cret-of-all")]);
    let id = create(&daemon, None);
    let control = format!("/timers/{id}/control");
    for (key, action) in [
        (file.key("instructor"), "start"),
        (file.key("admin"), "pause"),
        ("s3cret-of-all", "resume"),
        ("unknown", "stop"),
    ] {
        let body = json!({ "action": action }).to_string();
        assert_eq!(ask(&daemon, Some(key), "POST", &control, Some(&body)).status, 200);
    }
    let bulk = json!([id]).to_string();
    assert_eq!(ask(&daemon, Some(file.key("instructor")), "POST", "/timers/bulk/delete", Some(&bulk)).status, 200);
    let names = ["anonymous", "the.instructor", "the.admin", "api-key", "anonymous", "the.instructor"];
    assert_eq!(actors(&daemon, None, &id), names);
    assert_eq!(daemon.get("/metrics").status, 200);
}

#[test]
fn the_key_in_the_environment_is_an_admins() {
    let daemon = Daemon::start(&["--ephemeral", "--require-auth"], &[("API_KEY", "only-one")]);
    assert_eq!(ask(&daemon, None, "GET", "/metrics", None).status, 401);
    assert_eq!(ask(&daemon, Some("only-one"), "GET", "/metrics", None).status, 200);
    let id = create(&daemon, Some("only-one"));
    assert_ne!(actors(&daemon, Some("only-one"), &id), ["anonymous"]);
    // An empty variable is no key.
    let (code, said) = refusal(&["--ephemeral", "--require-auth"], &[("API_KEY", "")]);
    assert_eq!(code, 2);
    assert!(said.contains("--require-auth") && said.contains("API_KEY"), "{said}");
}

/// What one caller has stored under an idempotency key is no other caller's.
#[test]
fn idempotency_keys_belong_to_their_callers() {
    let file = KeysFile::new();
    let daemon = Daemon::ephemeral(&["--require-auth", "--keys-file", file.path()]);
    let post = |key: &str| {
        let headers = [("X-API-Key", key), ("Idempotency-Key", "same")];
        let response = daemon.request("POST", "/timers", &headers, Some(r#"{"duration_seconds":60}"#));
        let replayed = response.header("idempotency-replayed").is_some();
        (response.json()["id"].as_str().unwrap().to_owned(), replayed)
    };
    let [instructor, admin] = ["instructor", "admin"].map(|role| file.key(role));
    let (first, again) = (post(instructor), post(instructor));
    assert_eq!((&again.0, first.1, again.1), (&first.0, false, true));
    let other = post(admin);
    assert!(other.0 != first.0 && !other.1);
    assert_eq!(post(admin), (other.0, true));
}

#[test]
fn sighup_reads_the_keys_again_and_a_broken_file_changes_nothing() {
    let file = KeysFile::new();
    let daemon = Daemon::ephemeral(&["--require-auth", "--keys-file", file.path()]);
    let [viewer, instructor] = ["viewer", "instructor"].map(|role| file.key(role));
    let status = |key: &str| ask(&daemon, Some(key), "GET", "/timers", None).status;
    let reload = |text: &str, told: &str| {
        let before = daemon.log().len();
        file.write(text);
        daemon.signal("HUP");
        eventually(|| daemon.log()[before..].contains(told));
    };
    let (added, line) = new_key("added", "admin");
    assert_eq!([status(instructor), status(viewer), status(&added)], [200, 403, 401]);
    file.write(&format!("{}\n{line}\n", file.lines()));
    assert_eq!(status(&added), 401, "not before it is told");
    reload(&format!("{}\n{line}\n", file.lines()), "4 keys read from");
    assert_eq!([status(instructor), status(viewer), status(&added)], [200, 403, 200]);
    let id = create(&daemon, Some(&added));
    let (mut socket, _) = (daemon.open(&format!("/ws/{id}?api_key={viewer}"), &[]), ());
    socket.expect("connected");

    let broken = [
        ("added:admin".to_owned(), "line 1"),
        (format!("{line}\nadded:viewer:zz\n"), "line 2"),
        (format!("{line}\n\n{line}\n"), "line 3"),
        (line.replace("admin", "king"), "line 1"),
        (line.replace("added", "anonymous"), "line 1"),
        (String::new(), "the keys stay"),
    ];
    for (text, told) in broken {
        reload(&text, told);
        assert!(daemon.log().contains("the keys stay"), "{text}");
        assert_eq!([status(instructor), status(viewer), status(&added)], [200, 403, 200], "{text}");
    }
    std::fs::remove_file(&file.path).unwrap();
    daemon.signal("HUP");
    daemon.wait_for_log("does not exist");
    assert_eq!(status(instructor), 200);

    reload(&format!("{line}\n"), "1 keys read from");
    assert_eq!([status(instructor), status(viewer), status(&added)], [401, 401, 200], "taken away");
    // A role may change with the key kept.
    reload(&format!("{}\n", line.replace(":admin:", ":viewer:")), "1 keys read from");
    assert_eq!(status(&added), 403);
    let log = daemon.log();
    let hash = line.rsplit(':').next().unwrap();
    assert!(!log.contains(&added) && !log.contains(hash), "neither a key nor its hash is logged");
}

#[test]
fn what_is_logged_holds_no_key_and_the_address_a_trusted_proxy_gives() {
    let file = KeysFile::new();
    let log_of = |flags: &[&str]| {
        let base = ["--require-auth", "--keys-file", file.path(), "--log-level", "trace"];
        let daemon = Daemon::ephemeral(&[&base, flags].concat());
        let id = create(&daemon, Some(file.key("instructor")));
        daemon.open(&format!("/ws/{id}?api_key={}", file.key("viewer")), &[]).expect("connected");
        daemon.open(&format!("/ws/{id}?api_key=wrong-in-query"), &[]).expect_close();
        let stream = format!("/timers/{id}/stream?api_key=");
        assert_eq!(daemon.get(&format!("{stream}{}", file.key("viewer"))).status, 200);
        assert_eq!(daemon.get(&format!("{stream}wrong-in-stream")).status, 401);
        let mut room = daemon.open("/ws/rooms", &[]);
        room.send(json!({ "type": "session:create" }));
        let person = room.expect("session:joined")["userId"].as_str().unwrap().to_owned();
        room.send(json!({ "type": "timer:start" }));
        room.expect("timer:state");
        let headers = [("X-API-Key", "wrong-in-header"), ("X-Forwarded-For", "203.0.113.7, 198.51.100.9")];
        assert_eq!(daemon.request("GET", "/timers?api_key=wrong-in-path", &headers, None).status, 401);
        daemon.wait_for_log("refused");
        // Lines come in order: whatever was logged before the end is there at the end.
        daemon.signal("TERM");
        daemon.wait_for_log("stopped");
        let log = daemon.log();
        assert!(!log.contains(&person), "who has it is that person: {log}");
        log
    };
    let log = log_of(&[]);
    for secret in [
        file.key("viewer"),
        file.key("instructor"),
        "wrong-in-query",
        "wrong-in-stream",
        "wrong-in-header",
        "wrong-in-path",
    ] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
    assert!(log.contains("127.0.0.1") && !log.contains("198.51.100.9"), "nobody's word is taken: {log}");
    let log = log_of(&["--trusted-proxy", "127.0.0.1"]);
    assert!(log.contains("198.51.100.9"), "the last hop that is no proxy of ours: {log}");
    assert!(!log.contains("203.0.113.7"), "what stands before it was written by the client: {log}");
    let log = log_of(&["--trusted-proxy", "127.0.0.1,198.51.100.9"]);
    assert!(log.contains("203.0.113.7"), "{log}");
    let log = log_of(&["--trusted-proxy", "192.0.2.1"]);
    assert!(!log.contains("203.0.113.7") && !log.contains("198.51.100.9"), "{log}");
}

// ---------------------------------------------------------------------------------------------------------------
// Refusals at start.

#[track_caller]
fn assert_one_line(said: &str, words: &[&str]) {
    assert!(said.starts_with("timerd: ") && said.ends_with('\n') && said.lines().count() == 1, "{said:?}");
    for word in words {
        assert!(said.contains(word), "no {word} in {said:?}");
    }
}

#[test]
fn beyond_loopback_nobody_is_served_without_keys_unless_that_is_asked_for() {
    for (flags, variables) in [
        (vec!["--ephemeral", "--listen", "0.0.0.0:0"], vec![]),
        (vec!["--ephemeral", "--listen", "127.0.0.1:0", "--listen", "0.0.0.0:0"], vec![]),
        (vec!["--ephemeral", "--listen", "0.0.0.0:0"], vec![("API_KEY", ""), ("TIMERD_OPEN", "false")]),
    ] {
        let (code, said) = refusal(&flags, &variables);
        assert_eq!(code, 2, "{said}");
        assert_one_line(&said, &["0.0.0.0", "beyond loopback", "--keys-file", "--open"]);
    }
    let file = KeysFile::new();
    let check = |flags: &[&str], variables: &[(&str, &str)]| {
        let (code, _, said) = run(&[&["check-config", "--listen", "0.0.0.0:8003"], flags].concat(), variables);
        (code, said)
    };
    let (code, said) = check(&[], &[]);
    assert_eq!(code, 2);
    assert_one_line(&said, &["0.0.0.0:8003"]);
    assert_eq!(check(&["--open"], &[]).0, 0);
    assert_eq!(check(&["--keys-file", file.path()], &[]).0, 0);
    assert_eq!(check(&[], &[("API_KEY", "k")]).0, 0);
    assert_eq!(check(&[], &[("TIMERD_OPEN", "yes")]).0, 0);
    let (code, said) = refusal(&["--ephemeral", "--require-auth"], &[]);
    assert_eq!(code, 2);
    assert_one_line(&said, &["--require-auth", "--keys-file"]);
    // Open is open on loopback too, and says so.
    let daemon = Daemon::ephemeral(&["--open"]);
    assert!(daemon.log().contains("no keys required"));
    assert_eq!(daemon.get("/metrics").status, 200);
    let daemon = Daemon::ephemeral(&["--require-auth", "--keys-file", file.path()]);
    let log = daemon.log();
    assert!(log.contains("keys required") && !log.contains("no keys required"), "{log}");
}

#[test]
fn a_wrong_value_is_one_line_with_the_option_the_value_and_what_is_allowed() {
    for (option, value, allowed) in [
        ("--listen", "localhost", "127.0.0.1:8003"),
        ("--listen", "127.0.0.1", "port"),
        ("--max-timers", "0", "1..10000"),
        ("--max-timers", "many", "1..10000"),
        ("--max-sessions", "0", "1..200000"),
        ("--max-sessions", "200001", "1..200000"),
        ("--keep-results", "365", "unit"),
        ("--max-connections", "0", "1.."),
        ("--clients-per-timer", "100001", "1..100000"),
        ("--keep-finished", "7", "unit"),
        ("--keep-history", "soon", "forever"),
        ("--rooms", "maybe", "on or off"),
        ("--rooms", "true", "on or off"),
        ("--room-leave", "0s", "1s..24h"),
        ("--room-leave", "30", "unit"),
        ("--room-empty", "25h", "1s..24h"),
        ("--room-empty", "forever", "unit"),
        ("--rate-rooms", "30", "N/minute"),
        ("--outage", "halt", "run-on"),
        ("--log-level", "loud", "debug"),
        ("--log-format", "xml", "journal"),
        ("--cors-origin", "exams.example", "https://"),
        ("--trusted-proxy", "proxy.example", "IP address"),
        ("--second-ms", "99", "100..1000"),
        ("--second-ms", "500", "--ephemeral"),
    ] {
        let (code, said) = refusal(&[option, value], &[]);
        assert_eq!(code, 2, "{said}");
        assert_one_line(&said, &[option, &format!("'{value}'"), allowed]);
        let (code, out, said) = run(&["check-config", option, value], &[]);
        assert_eq!((code, &*out), (2, ""));
        assert_one_line(&said, &[option, value, allowed]);
        let variable = format!("TIMERD_{}", option.trim_start_matches('-').replace('-', "_").to_uppercase());
        let (code, _, said) = run(&["check-config"], &[(&variable, value)]);
        assert_eq!(code, 2, "{said}");
        assert_one_line(&said, &[&variable, value]);
    }
    for args in [
        &["--no-such-option"][..],
        &["serve"],
        &["--max-timers"],
        &["key", "new"],
        &["key", "new", "x"],
        &["key", "new", "a b", "viewer"],
        &["key", "new", "x", "king"],
        &["key", "new", "anonymous", "admin"],
        &["key", "new", "timerd", "admin"],
        &["check-config", "--keys-file", "/nowhere/keys"],
        &["check-config", "--ephemeral", "--data-dir", "x"],
    ] {
        let (code, out, said) = run(args, &[]);
        assert_eq!((code, &*out), (2, ""), "{args:?}: {said}");
        assert_one_line(&said, &[]);
    }
}

#[test]
fn check_config_says_what_the_configuration_comes_to_and_touches_nothing() {
    let (_kept, path) = directory();
    let file = KeysFile::new();
    let path_text = path.to_str().unwrap();
    let flags = ["check-config", "--data-dir", path_text, "--keys-file", file.path(), "--listen", "127.0.0.1:1"];
    let (code, out, said) = run(&flags, &[("API_KEY", "s3cret"), ("TIMERD_MAX_TIMERS", "7")]);
    assert_eq!((code, &*said), (0, ""));
    let value = |name: &str| {
        let line = out.lines().find(|line| line.split_whitespace().next() == Some(name));
        line.unwrap_or_else(|| panic!("no {name} in {out}")).split_once(' ').unwrap().1.trim().to_owned()
    };
    assert_eq!(value("listen"), "127.0.0.1:1");
    assert_eq!(value("data"), path_text);
    assert_eq!(value("max-timers"), "7");
    assert!(value("keys").contains(file.path()) && value("keys").contains("API_KEY"));
    assert!(!out.contains("s3cret"), "{out}");
    assert!(!path.exists(), "nothing is created");
    file.write("broken\n");
    let (code, _, said) = run(&flags, &[]);
    assert_eq!(code, 2);
    assert_one_line(&said, &[file.path(), "line 1"]);
    for args in [&["--help"][..], &["-h"], &["--version"], &["key", "new", "--help"], &["check-config", "--help"]] {
        let (code, out, said) = run(args, &[]);
        assert_eq!((code, &*said), (0, ""), "{args:?}");
        assert!(!out.is_empty());
    }
    assert!(run(&["--version"], &[]).1.contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_new_key_is_printed_once_with_the_line_that_stores_its_digest() {
    let (first, line) = new_key("ann.b-C_1", "instructor");
    let digest: String = Sha256::digest(first.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(line, format!("ann.b-C_1:instructor:{digest}"));
    assert!(first.len() >= 32 && first.bytes().all(|byte| byte.is_ascii_graphic()));
    let (second, _) = new_key("ann.b-C_1", "instructor");
    assert_ne!(first, second);
    let (_, out, _) = run(&["key", "new", "x", "viewer"], &[]);
    let key = out.lines().find_map(|line| line.strip_prefix("key:")).unwrap().trim();
    assert_eq!(out.matches(key).count(), 1);
}

#[test]
fn a_data_directory_has_one_daemon_and_nobody_else_may_look() {
    let (_kept, path) = directory();
    let daemon = Daemon::on(&path, &[]);
    let id = daemon.create(json!({ "duration_seconds": 60 }));
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    let mut files = 0;
    for entry in std::fs::read_dir(&path).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(mode(&entry.path()), 0o600, "{entry:?}");
        files += 1;
    }
    assert!(files > 0);
    let text = path.to_str().unwrap();
    let (code, said) = refusal(&["--data-dir", text], &[]);
    assert_eq!(code, 1, "{said}");
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("timerd: ") && last.contains(text), "{said}");
    assert!(last.contains(&daemon.pid().to_string()), "it names who is there: {said}");
    // The first is not disturbed, and when it has gone there is room.
    assert_eq!(daemon.control(&id, "start").status, 200);
    daemon.kill();
    let daemon = Daemon::on(&path, &[]);
    assert_eq!(daemon.timer(&id)["state"], "running");
}

#[test]
fn something_in_the_way_is_exit_code_1_and_one_line() {
    let daemon = Daemon::ephemeral(&[]);
    let address = daemon.address.to_string();
    let (code, said) = refusal(&["--ephemeral", "--listen", &address], &[]);
    assert_eq!(code, 1, "{said}");
    assert_one_line(&said, &[&address]);
    let (_kept, path) = directory();
    std::fs::write(&path, "a file").unwrap();
    let (code, said) = refusal(&["--data-dir", path.to_str().unwrap()], &[]);
    assert_eq!(code, 1, "{said}");
    assert_one_line(
        said.lines().last().map(|line| format!("{line}\n")).as_deref().unwrap(),
        &[path.to_str().unwrap()],
    );
    // Several addresses are served alike.
    let daemon = Daemon::ephemeral(&["--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0"]);
    let log = daemon.log();
    let addresses: Vec<&str> =
        log.split("http://").skip(1).map(|rest| rest.split([',', ' ']).next().unwrap()).collect();
    assert_eq!(addresses.len(), 2, "{log}");
    for address in addresses {
        let mut http = crate::daemon::Http::connect(address.parse().unwrap());
        let health: Value = http.request("GET", "/health", &[], None).json();
        assert_eq!(health["status"], "healthy");
    }
}
