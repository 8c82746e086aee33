//! What operators rely on, proven on the real binary: an orderly end with thousands of clients, a disk that fails and
//! recovers in the middle of an exam, permissions and the lock of the data directory, the log, the service manager's
//! protocols without a service manager, what is kept of exams and for how long, the units themselves, and
//! `timerd watch`.
//!
//! What a machine lacks (systemd-analyze, the right to mount a small file system) is skipped, and said to be.

#![allow(clippy::cast_possible_wrap, clippy::cast_sign_loss)]

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::daemon::{Daemon, Http, PATIENCE, directory, eventually, request_bytes};
use rusqlite::Connection;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use serde_json::{Value, json};

const TIMERD: &str = env!("CARGO_BIN_EXE_timerd");

fn wall_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

fn ms_of(time: &Value) -> i64 {
    time.as_str().unwrap_or_else(|| panic!("{time}")).parse::<jiff::Timestamp>().unwrap().as_millisecond()
}

fn lines_with(daemon: &Daemon, text: &str) -> usize {
    daemon.log().lines().filter(|line| line.contains(text)).count()
}

fn last_entry(daemon: &Daemon, id: &str) -> Value {
    daemon.get(&format!("/timers/{id}/history")).json().as_array().unwrap().last().unwrap().clone()
}

/// The names of the files in a data directory.
fn files(data: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(data).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The store is one whole file, as after an orderly end.
fn assert_checkpointed(data: &Path) {
    assert_eq!(files(data), ["timerd.db", "timerd.lock"]);
    let database = Connection::open(data.join("timerd.db")).unwrap();
    let verdict: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(verdict, "ok");
}

// ---------------------------------------------------------------------------------------------------------------
// SIGTERM.

/// Waits for the answer's head on a raw connection; what came behind it is kept.
fn read_head(stream: &mut TcpStream, text: &mut Vec<u8>) {
    let mut chunk = [0; 4096];
    while !text.windows(4).any(|four| four == b"\r\n\r\n") {
        let count = stream.read(&mut chunk).unwrap();
        assert!(count > 0, "closed instead of upgraded");
        text.extend_from_slice(&chunk[..count]);
    }
    assert!(text.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(text));
}

#[test]
fn sigterm_sends_two_thousand_clients_away_with_1012_and_leaves_one_file() {
    const TIMERS: usize = 20;
    const CLIENTS: usize = 2_000;
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    assert!(maximum.is_none_or(|maximum| maximum > CLIENTS as u64 + 500), "too few descriptors: {maximum:?}");

    let (_place, data) = directory();
    let daemon = Daemon::on(&data, &[]);
    let ids: Vec<String> =
        (0..TIMERS).map(|_| daemon.create(json!({ "duration_seconds": 600, "auto_start": true }))).collect();
    let mut clients: Vec<(TcpStream, Vec<u8>)> = (0..CLIENTS)
        .map(|n| {
            let mut stream = TcpStream::connect(daemon.address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let headers = [
                ("Connection", "Upgrade"),
                ("Upgrade", "websocket"),
                ("Sec-WebSocket-Version", "13"),
                ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ];
            stream.write_all(&request_bytes("GET", &format!("/ws/{}", ids[n % TIMERS]), &headers, None)).unwrap();
            (stream, Vec::new())
        })
        .collect();
    clients.iter_mut().for_each(|(stream, text)| read_head(stream, text));
    assert_eq!(daemon.timer(&ids[0])["connected_clients"], CLIENTS / TIMERS);

    let reader = std::thread::spawn(move || {
        let mut told = 0;
        for (mut stream, mut text) in clients {
            stream.read_to_end(&mut text).unwrap();
            // An unmasked close frame: FIN and opcode 8, the length, then the code (RFC 6455 section 5.5.1).
            let is_1012 = |bytes: &[u8]| bytes[0] == 0x88 && bytes[2..] == 1012_u16.to_be_bytes();
            told += usize::from(text.windows(4).any(is_1012));
        }
        told
    });
    let (status, taken) = daemon.terminate();
    assert!(status.success(), "{status}");
    assert_eq!(reader.join().unwrap(), CLIENTS, "clients told 1012");
    println!("SIGTERM with {CLIENTS} clients: exit code 0 after {} ms", taken.as_millis());
    // A second is what is promised; the rest is for a test machine that does other things besides.
    assert!(taken < Duration::from_secs(3), "{taken:?}");
    assert_checkpointed(&data);
}

#[test]
fn sigterm_is_not_held_up_by_clients_that_answer_nothing() {
    let (_place, data) = directory();
    let daemon = Daemon::on(&data, &[]);
    let id = daemon.timer_in("running");
    let sockets: Vec<_> = (0..20).map(|_| daemon.join(&id).0).collect();
    let idle: Vec<Http> = (0..20).map(|_| daemon.connect()).collect();
    let mut half = daemon.connect();
    half.send("POST /timers HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{");
    let (status, taken) = daemon.terminate();
    assert!(status.success(), "{status}");
    println!("SIGTERM with silent clients: exit code 0 after {} ms", taken.as_millis());
    assert!(taken < Duration::from_secs(3), "{taken:?}");
    for mut socket in sockets {
        assert_eq!(socket.expect_close().0, 1012);
    }
    drop(idle);
    assert_checkpointed(&data);
}

#[test]
fn from_sigterm_on_newcomers_are_refused_while_others_are_still_sent_away() {
    let (_place, data) = directory();
    let daemon = Daemon::on(&data, &[]);
    let id = daemon.timer_in("running");
    // It never answers the close, so the end takes as long as it may.
    let silent = daemon.join(&id).0;
    let address = daemon.address;
    let newcomer = std::thread::spawn(move || {
        eventually(|| TcpStream::connect(address).is_err_and(|why| why.kind() == ErrorKind::ConnectionRefused));
        Instant::now()
    });
    let (status, taken) = daemon.terminate();
    let before_end = Instant::now().duration_since(newcomer.join().unwrap());
    assert!(status.success(), "{status}");
    assert!(before_end > Duration::from_millis(200), "refused {before_end:?} before the end, which took {taken:?}");
    drop(silent);
}

#[test]
fn a_command_in_flight_at_sigterm_is_answered_and_the_answer_is_true() {
    let mut done = 0;
    for round in 0..8 {
        let (_place, data) = directory();
        let daemon = Daemon::on(&data, &[]);
        let mut clients: Vec<Http> = (0..16).map(|_| daemon.connect()).collect();
        // All are accepted before it begins.
        clients.iter_mut().for_each(|http| assert_eq!(http.request("GET", "/health", &[], None).status, 200));
        let body = json!({ "duration_seconds": 60 }).to_string();
        clients.iter_mut().for_each(|http| http.send(request_bytes("POST", "/timers", &[], Some(&body))));
        std::thread::sleep(Duration::from_micros(300 * round));
        let end = std::thread::spawn(move || daemon.terminate());
        let mut created = 0;
        for http in &mut clients {
            let response = http.try_response_to("POST").expect("no answer");
            match response.status {
                201 => created += 1,
                503 => assert!(response.header("retry-after").is_some()),
                other => panic!("{other}: {}", response.text()),
            }
        }
        // Nobody is left to wait for.
        drop(clients);
        assert!(end.join().unwrap().0.success());
        assert_checkpointed(&data);
        let kept = Daemon::on(&data, &[]).get("/timers").json().as_array().unwrap().len();
        assert_eq!(kept, created);
        done += created;
    }
    assert!(done > 0, "nothing was ever in flight");
}

// ---------------------------------------------------------------------------------------------------------------
// A disk that fails.

/// A limit of file sizes that leaves room for the index of a log, and for no database of [`grown`] size.
const FILE_BYTES_MAX: u64 = 36 << 10;

/// Lets the daemon's files grow to `bytes` and not beyond (`None`: as they like).
fn limit_files(daemon: &Daemon, bytes: Option<u64>) {
    let pid = Pid::from_raw(daemon.pid().try_into().unwrap());
    prlimit(pid, Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
}

/// A data directory whose database is larger than [`FILE_BYTES_MAX`].
fn grown() -> (tempfile::TempDir, PathBuf) {
    let (place, data) = directory();
    let daemon = Daemon::on(&data, &[]);
    let name = "x".repeat(200);
    for _ in 0..150 {
        daemon.create(json!({ "name": name, "duration_seconds": 60 }));
    }
    assert!(daemon.terminate().0.success());
    assert!(fs::metadata(data.join("timerd.db")).unwrap().len() > 2 * FILE_BYTES_MAX);
    (place, data)
}

/// Limits the files of a daemon on a [`grown`] directory, and uses up the room that is left below the limit.
fn break_disk(daemon: &Daemon) {
    limit_files(daemon, Some(FILE_BYTES_MAX));
    let list = daemon.get("/timers").json();
    let ids: Vec<&Value> = list.as_array().unwrap().iter().take(100).map(|timer| &timer["id"]).collect();
    let body = json!({ "timer_ids": ids, "seconds": 1 });
    eventually(|| daemon.post("/timers/bulk/extend", body.clone()).status == 503);
}

/// Everything that must be true while the disk of `daemon` fails, begun by `fail` and ended by `heal`.
fn play_failing_disk(mut daemon: Daemon, why: &str, fail: impl FnOnce(&Daemon), heal: impl FnOnce(&Daemon)) {
    let others = daemon.get("/timers").json().as_array().unwrap().len();
    let running = daemon.create(json!({ "duration_seconds": 4, "auto_start": true, "warning_thresholds": [2] }));
    let waiting = daemon.create(json!({ "duration_seconds": 60 }));
    let (mut socket, greeting) = daemon.join(&running);
    let ends_ms = ms_of(&greeting["timer"]["ends_at"]);
    let before = daemon.timer(&waiting);
    assert_eq!(daemon.get("/readiness").status, 200);
    fail(&daemon);

    // Commands are refused and change nothing, whatever they are, and whether tried first or while it is known.
    let bulk = json!({ "timer_ids": [waiting] });
    for _ in 0..2 {
        for response in [
            daemon.post("/timers", json!({ "duration_seconds": 60 })),
            daemon.control(&waiting, "start"),
            daemon.extend(&waiting, 60),
            daemon.post("/timers/bulk/start", bulk.clone()),
            daemon.delete(&format!("/timers/{waiting}")),
        ] {
            assert_eq!(response.status, 503, "{}", response.text());
            assert!(response.header("retry-after").unwrap().parse::<u32>().unwrap() > 0);
            assert!(response.detail().contains("nothing was changed"), "{}", response.detail());
        }
    }
    assert!(!daemon.has_ended());
    assert_eq!(daemon.timer(&waiting)["revision"], before["revision"]);
    assert_eq!(daemon.timer(&waiting)["state"], "created");
    assert_eq!(daemon.get("/timers").json().as_array().unwrap().len(), others + 2);
    let readiness = daemon.get("/readiness");
    assert_eq!(readiness.status, 503);
    assert!(readiness.text().contains("cannot be written"), "{}", readiness.text());
    assert!(readiness.text().contains(why), "{}", readiness.text());
    assert_eq!(daemon.get("/health").status, 200);
    // Said once by whoever notices, not with every attempt.
    let errors = lines_with(&daemon, "ERROR");
    assert!((1..=2).contains(&errors), "{}", daemon.log());

    // Time goes on for everybody who listens.
    let mut told = Vec::new();
    while told.last() != Some(&("timer_expired".to_owned(), 0)) {
        let message = socket.recv();
        let left = message["remaining_seconds"].as_u64().unwrap_or(0);
        told.push((message["type"].as_str().unwrap().to_owned(), left));
    }
    assert!(wall_ms() >= ends_ms);
    let late: Vec<(&str, u64)> = told.iter().map(|(kind, left)| (&**kind, *left)).collect();
    let end = [("timer_warning", 2), ("timer_tick", 2), ("timer_tick", 1), ("timer_tick", 0), ("timer_expired", 0)];
    assert!(late.ends_with(&end), "{late:?}");
    assert_eq!(daemon.timer(&running)["state"], "expired");
    assert_eq!(daemon.get("/readiness").status, 503);
    assert_eq!(lines_with(&daemon, "ERROR"), errors, "{}", daemon.log());

    // It finds out by itself that the disk is well.
    heal(&daemon);
    eventually(|| daemon.get("/readiness").status == 200);
    assert_eq!(daemon.control(&waiting, "start").status, 200);
    assert!((1..=2).contains(&lines_with(&daemon, "again")), "{}", daemon.log());
    let expired = last_entry(&daemon, &running);
    assert_eq!((&expired["action"], expired["at_ms"].as_i64()), (&json!("expired"), Some(ends_ms)));
    let actions = |id: &str| {
        let entries = daemon.get(&format!("/timers/{id}/history")).json();
        entries
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["action"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(actions(&running), ["created", "started", "expired"]);
    assert_eq!(actions(&waiting), ["created", "started"]);
    assert!(daemon.terminate().0.success());
}

#[test]
fn a_limit_of_file_sizes_stops_commands_and_no_clock() {
    let (_place, data) = grown();
    let daemon = Daemon::on(&data, &[]);
    play_failing_disk(daemon, "I/O", break_disk, |daemon| limit_files(daemon, None));
    // What was kept in memory meanwhile has been written.
    assert_checkpointed(&data);
    let daemon = Daemon::on(&data, &[]);
    let timers = daemon.get("/timers").json();
    let [.., expired, running] = &timers.as_array().unwrap()[..] else { panic!("{timers}") };
    assert_eq!((&expired["state"], &running["state"]), (&json!("expired"), &json!("running")));
}

#[test]
fn a_full_disk_stops_commands_and_no_clock() {
    let place = tempfile::tempdir().unwrap();
    let mount = place.path().to_str().unwrap();
    // A file system of its own that nobody else sees, and that goes away with the daemon.
    let mounted = format!("mount -t tmpfs -o size=4m,mode=0700 none {mount}");
    let can_mount = Command::new("unshare").args(["-m", "sh", "-c", &mounted]).stderr(Stdio::null()).status();
    if !can_mount.is_ok_and(|status| status.success()) {
        println!("SKIPPED: a small file system cannot be mounted here (unshare -m and mount take root)");
        return;
    }
    let mut command = Command::new("unshare");
    let script = format!("{mounted} && exec {TIMERD} --listen 127.0.0.1:0 --data-dir {mount}/data");
    command.args(["-m", "sh", "-c", &script]);
    let daemon = Daemon::spawn(command).unwrap();
    // Their pages wait in the log for a database that will have no room for them: the log cannot be emptied to make
    // some.
    let name = "x".repeat(200);
    for _ in 0..60 {
        daemon.create(json!({ "name": name, "duration_seconds": 60 }));
    }
    let filler = PathBuf::from(format!("/proc/{}/root{mount}/filler", daemon.pid()));
    play_failing_disk(daemon, "full", |_| fill_disk(&filler), |_| fs::remove_file(&filler).unwrap());
}

fn fill_disk(filler: &Path) {
    let mut file = fs::File::create(filler).unwrap();
    let error = loop {
        if let Err(error) = file.write_all(&[1; 4096]) {
            break error;
        }
    };
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
}

// ---------------------------------------------------------------------------------------------------------------
// The data directory.

#[test]
fn the_data_directory_is_private_and_where_it_was_asked_for() {
    let (place, _) = directory();
    let data = place.path().join("deep/er");
    let daemon = Daemon::on(&data, &[]);
    daemon.create(json!({ "duration_seconds": 60 }));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&data), 0o700);
    for file in files(&data) {
        assert_eq!(mode(&data.join(&file)), 0o600, "{file}");
    }
    assert!(files(&data).contains(&"timerd.db-wal".to_owned()), "{:?}", files(&data));
    assert!(daemon.log().contains(data.to_str().unwrap()), "{}", daemon.log());
}

#[test]
fn a_second_daemon_is_refused_and_told_who_is_there() {
    let (_place, data) = directory();
    let daemon = Daemon::on(&data, &[]);
    let id = daemon.timer_in("running");
    let Err((status, said)) = Daemon::try_start(&["--data-dir", data.to_str().unwrap()], &[]) else {
        panic!("two daemons on one directory");
    };
    assert_eq!(status.code(), Some(1), "{said}");
    let line = said.lines().find(|line| line.starts_with("timerd: ")).unwrap_or_else(|| panic!("{said}"));
    assert!(line.contains(&daemon.pid().to_string()) && line.contains(data.to_str().unwrap()), "{line}");
    assert_eq!(daemon.timer(&id)["state"], "running");
    // The lock dies with its holder, whatever killed it.
    daemon.kill();
    assert_eq!(Daemon::on(&data, &[]).timer(&id)["state"], "running");
}

// ---------------------------------------------------------------------------------------------------------------
// The log.

#[test]
fn a_change_is_one_line_and_a_tick_is_none() {
    let daemon = Daemon::ephemeral(&[]);
    let id = daemon.create(json!({ "name": "Quiz\nROOT", "duration_seconds": 3 }));
    let (mut socket, _) = daemon.join(&id);
    assert_eq!(daemon.control(&id, "start").status, 200);
    assert_eq!(daemon.control(&id, "start").status, 400);
    assert_eq!(daemon.extend(&id, 1).status, 200);
    let ticks = std::iter::from_fn(|| Some(socket.recv())).take_while(|message| message["type"] != "timer_expired");
    assert!(ticks.filter(|message| message["type"] == "timer_tick").count() >= 4);
    assert_eq!(daemon.delete(&format!("/timers/{id}")).status, 204);
    let changes = ["created", "started", "extended", "expired", "deleted"];
    let log = || daemon.log().lines().filter(|line| line.contains(&id)).map(str::to_owned).collect::<Vec<_>>();
    eventually(|| log().len() >= changes.len());
    let lines = log();
    assert_eq!(lines.len(), changes.len(), "{lines:#?}");
    for (n, (line, change)) in lines.iter().zip(changes).enumerate() {
        // 2026-02-01T10:00:00.123Z INFO  timer started timer=timer_... actor=anonymous revision=2 left_s=3
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(time.len() == 24 && time.ends_with('Z') && time.parse::<jiff::Timestamp>().is_ok(), "{line}");
        let actor = if change == "expired" { "timerd" } else { "anonymous" };
        let expected = format!("INFO  timer {change} timer={id} actor={actor} revision={} left_s=", n + 1);
        assert!(rest.starts_with(&expected), "{line}");
    }
    // Starting is a line; nothing else happened that is worth one.
    let others = daemon.log().lines().filter(|line| !line.contains(&id) && !line.contains(" WARN ")).count();
    assert_eq!(others, 1, "{}", daemon.log());
}

#[test]
fn sighup_reads_the_log_level_again() {
    let (place, _) = directory();
    let file = place.path().join("level");
    let daemon = Daemon::ephemeral(&["--log-level-file", file.to_str().unwrap()]);
    let create = || daemon.create(json!({ "duration_seconds": 60 }));
    let loud = create();
    daemon.wait_for_log(&loud);

    fs::write(&file, "error\n").unwrap();
    daemon.signal("HUP");
    // The signal is taken in the turn in which it is seen, and an answer proves a later turn.
    std::thread::sleep(Duration::from_millis(200));
    let quiet = create();
    fs::write(&file, "nonsense").unwrap();
    daemon.signal("HUP");
    daemon.wait_for_log("the log level stays");
    let still_quiet = create();
    fs::write(&file, "info").unwrap();
    daemon.signal("HUP");
    daemon.wait_for_log("0 keys");
    let loud = create();
    daemon.wait_for_log(&loud);
    for id in [quiet, still_quiet] {
        assert_eq!(lines_with(&daemon, &id), 0, "{}", daemon.log());
    }
}

// ---------------------------------------------------------------------------------------------------------------
// The service manager's protocols, without a service manager.

/// A daemon that inherits `listener` as descriptor 3, and is told so as systemd tells it.
fn activate(listener: &TcpListener, flags: &str) -> Result<Daemon, (ExitStatus, String)> {
    let mut command = Command::new("sh");
    let start = format!("LISTEN_PID=$$ LISTEN_FDS=1 exec {TIMERD} --ephemeral {flags}");
    command.args(["-c", &format!("exec 3<&0 </dev/null; {start}")]);
    command.stdin(OwnedFd::from(listener.try_clone().unwrap())).env_clear();
    Daemon::spawn_with_input(command)
}

#[test]
fn an_inherited_socket_is_served_and_a_restart_refuses_nobody() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let daemon = activate(&listener, "").unwrap();
    assert_eq!(daemon.address, listener.local_addr().unwrap());
    assert_eq!(daemon.get("/health").status, 200);
    assert!(daemon.terminate().0.success());
    // Nobody serves; whoever comes waits in the queue of the socket, which did not go away.
    let mut early = Http::connect(listener.local_addr().unwrap());
    early.send(request_bytes("GET", "/health", &[], None));
    let daemon = activate(&listener, "").unwrap();
    assert_eq!(early.response().status, 200);
    drop(daemon);
}

#[test]
fn listen_beside_an_inherited_socket_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let Err((status, said)) = activate(&listener, "--listen 127.0.0.1:0") else { panic!("both") };
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.lines().count() == 1 && said.contains("--listen"), "{said}");
}

#[test]
fn an_inherited_socket_beyond_loopback_needs_keys_or_open() {
    // Every address of the machine, on a port that nobody knows: bound only to be refused.
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let Err((status, said)) = activate(&listener, "") else { panic!("open to everybody") };
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.contains("beyond loopback") && said.contains("--open"), "{said}");
}

/// What a service manager hears.
struct Manager {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    fn at(path: &Path) -> Manager {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Manager { socket, heard: Vec::new() }
    }

    /// Listens until a line begins with `text`; returns it.
    fn wait_for(&mut self, text: &str) -> String {
        let mut buffer = [0; 4096];
        loop {
            if let Some(at) = self.heard.iter().position(|line| line.starts_with(text)) {
                return self.heard.remove(at);
            }
            let count = self.socket.recv(&mut buffer).unwrap_or_else(|error| panic!("no {text}: {error}"));
            let words = std::str::from_utf8(&buffer[..count]).unwrap();
            self.heard.extend(words.lines().map(str::to_owned));
        }
    }
}

#[test]
fn the_service_manager_hears_of_readiness_life_trouble_and_the_end() {
    let (place, data) = grown();
    let socket = place.path().join("notify");
    let mut manager = Manager::at(&socket);
    let mut command = Command::new("sh");
    let start = format!("WATCHDOG_PID=$$ exec {TIMERD} --listen 127.0.0.1:0 --data-dir {}", data.display());
    command.args(["-c", &start]).env_clear();
    command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "4500000");
    let daemon = Daemon::spawn(command).unwrap();
    manager.wait_for("READY=1");
    let calm = manager.wait_for("STATUS=");
    for _ in 0..2 {
        let begun = Instant::now();
        manager.wait_for("WATCHDOG=1");
        // An idle loop feeds it too, well within its patience.
        assert!(begun.elapsed() < Duration::from_millis(4_500));
    }
    break_disk(&daemon);
    let trouble = manager.wait_for("STATUS=");
    assert!(trouble.contains("cannot be written"), "{trouble}");
    limit_files(&daemon, None);
    assert_eq!(manager.wait_for("STATUS="), calm);
    assert!(daemon.terminate().0.success());
    manager.wait_for("STOPPING=1");
    assert!(!manager.heard.iter().any(|line| line.starts_with("READY")), "{:?}", manager.heard);
}

#[test]
fn the_watchdog_of_another_process_is_not_fed() {
    let (place, _) = directory();
    let socket = place.path().join("notify");
    let mut manager = Manager::at(&socket);
    let variables = [("NOTIFY_SOCKET", socket.to_str().unwrap()), ("WATCHDOG_USEC", "100000"), ("WATCHDOG_PID", "1")];
    let daemon = Daemon::start(&["--ephemeral"], &variables);
    manager.wait_for("READY=1");
    std::thread::sleep(Duration::from_millis(1_300));
    assert!(daemon.terminate().0.success());
    manager.wait_for("STOPPING=1");
    assert!(!manager.heard.iter().any(|line| line.starts_with("WATCHDOG")), "{:?}", manager.heard);
}

// ---------------------------------------------------------------------------------------------------------------
// What an operator decides about exams.

fn timerd(arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let output = Command::new(TIMERD).args(arguments).env_clear().envs(variables.iter().copied()).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Keeps an assessment of one item under this id, with these fields beside its sections.
fn put_assessment(daemon: &Daemon, id: &str, mut fields: Value) {
    fields["sections"] = json!([{ "section_id": "a", "items": [{ "item_id": "i", "content": {} }] }]);
    let response = daemon.put(&format!("/delivery/assessments/{id}"), fields);
    assert!(matches!(response.status, 200 | 201), "{}", response.text());
}

fn start(daemon: &Daemon, assessment: &str, candidate: &str) -> crate::daemon::Response {
    let body = json!({ "candidate_id": candidate, "test_taker_id": "seat-7" });
    daemon.post(&format!("/delivery/start/{assessment}"), body)
}

/// The path of a session that has just been started.
fn sit(daemon: &Daemon, assessment: &str, candidate: &str) -> String {
    let response = start(daemon, assessment, candidate);
    assert_eq!(response.status, 200, "{}", response.text());
    format!("/delivery/session/{}", response.json()["session_id"].as_str().unwrap())
}

/// The results of an assessment, a value a session.
fn results(daemon: &Daemon, assessment: &str) -> Vec<Value> {
    let response = daemon.get(&format!("/delivery/assessments/{assessment}/results"));
    assert_eq!(response.status, 200, "{}", response.text());
    response.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_flags_of_exams_are_explained_and_what_they_come_to_is_said() {
    let help = timerd(&["--help"], &[]);
    for word in ["max-sessions", "known-candidates-only", "open-candidates", "keep-results"] {
        assert!(help.contains(&format!("--{word}")), "{word}");
        assert!(help.contains(&format!("TIMERD_{}", word.replace('-', "_").to_uppercase())), "{word}");
    }
    let value = |said: &str, name: &str| {
        let line = said.lines().find(|line| line.split_whitespace().next() == Some(name));
        line.unwrap_or_else(|| panic!("no {name} in {said}")).split_once(' ').unwrap().1.trim().to_owned()
    };
    let checked = |said: &str| {
        let names = ["max-sessions", "known-candidates-only", "open-candidates", "keep-finished", "keep-results"];
        names.map(|name| value(said, name)).join(" ")
    };
    assert_eq!(checked(&timerd(&["check-config"], &[])), "120000 false false 7d forever");
    let flags = [
        "check-config",
        "--max-sessions",
        "200000",
        "--known-candidates-only",
        "--open-candidates",
        "--keep-results",
        "52w",
    ];
    assert_eq!(checked(&timerd(&flags, &[])), "200000 true true 7d 364d");
    let variables = [
        ("TIMERD_MAX_SESSIONS", "1"),
        ("TIMERD_KNOWN_CANDIDATES_ONLY", "yes"),
        ("TIMERD_OPEN_CANDIDATES", "no"),
        ("TIMERD_KEEP_FINISHED", "forever"),
        ("TIMERD_KEEP_RESULTS", "90m"),
    ];
    assert_eq!(checked(&timerd(&["check-config"], &variables)), "1 true false forever 90m");
}

#[test]
fn the_flags_of_rooms_are_explained_and_what_they_come_to_is_said() {
    let help = timerd(&["--help"], &[]);
    let names = ["rooms", "room-leave", "room-empty", "rate-rooms"];
    for name in names {
        assert!(help.contains(&format!("--{name} ")), "{name}");
        assert!(help.contains(&format!("TIMERD_{}", name.replace('-', "_").to_uppercase())), "{name}");
    }
    let checked = |flags: &[&str], variables: &[(&str, &str)]| {
        let said = timerd(&[&["check-config"], flags].concat(), variables);
        let value = |name: &str| {
            let line = said.lines().find(|line| line.split_whitespace().next() == Some(name));
            line.unwrap_or_else(|| panic!("no {name} in {said}")).split_once(' ').unwrap().1.trim().to_owned()
        };
        names.map(value).join(" ")
    };
    assert_eq!(checked(&[], &[]), "on 30s 5m 30/minute");
    let flags = ["--rooms", "off", "--room-leave", "24h", "--room-empty", "1s", "--rate-rooms", "off"];
    assert_eq!(checked(&flags, &[]), "off 1d 1s off");
    let variables = [
        ("TIMERD_ROOMS", "off"),
        ("TIMERD_ROOM_LEAVE", "90s"),
        ("TIMERD_ROOM_EMPTY", "120m"),
        ("TIMERD_RATE_ROOMS", "5/hour"),
    ];
    assert_eq!(checked(&[], &variables), "off 90s 2h 5/hour");
    assert_eq!(checked(&["--rooms", "on", "--room-leave", "45s"], &variables), "on 45s 2h 5/hour");
}

#[test]
fn with_known_candidates_only_a_stranger_does_not_start() {
    for (flags, stranger) in [(&[][..], 200), (&["--known-candidates-only"], 400)] {
        let daemon = Daemon::ephemeral(flags);
        put_assessment(&daemon, "exam", json!({}));
        let response = start(&daemon, "exam", "eve");
        assert_eq!(response.status, stranger);
        if stranger == 400 {
            assert_eq!(response.detail(), "Candidate eve is not known");
        }
        for (is_active, status) in [(true, 200), (false, 400)] {
            let put = daemon.put("/delivery/candidates/ada", json!({ "is_active": is_active }));
            assert!(matches!(put.status, 200 | 201), "{}", put.text());
            assert_eq!(start(&daemon, "exam", "ada").status, status, "{flags:?} {is_active}");
        }
    }
}

#[test]
fn the_limit_of_sessions_is_exact_and_ended_ones_give_way() {
    let (_place, data) = directory();
    let daemon = Daemon::on(&data, &["--max-sessions", "2"]);
    put_assessment(&daemon, "exam", json!({}));
    let full = |daemon: &Daemon| {
        let response = start(daemon, "exam", "eve");
        assert_eq!((response.status, response.text()), (429, r#"{"detail":"Maximum session limit reached"}"#));
    };
    let first = sit(&daemon, "exam", "ada");
    let second = sit(&daemon, "exam", "grace");
    full(&daemon);
    // An ended one keeps its place until it is wanted; what came of it stays.
    assert_eq!(daemon.post(&format!("{first}/terminate"), json!({})).status, 200);
    assert_eq!(daemon.get(&first).json()["state"], "terminated");
    sit(&daemon, "exam", "hugh");
    assert_eq!(daemon.get(&first).status, 404);
    full(&daemon);
    daemon.kill();
    let daemon = Daemon::on(&data, &["--max-sessions", "2"]);
    full(&daemon);
    assert_eq!(results(&daemon, "exam").len(), 3);
    drop(daemon);
    // Who is there stays where the limit has been lowered below it; a raised one lets in the next.
    let daemon = Daemon::on(&data, &["--max-sessions", "1"]);
    assert_eq!(daemon.get(&second).json()["state"], "in_progress");
    full(&daemon);
    drop(daemon);
    let daemon = Daemon::on(&data, &["--max-sessions", "3"]);
    sit(&daemon, "exam", "eve");
    full(&daemon);
}

#[test]
fn an_ended_session_gives_its_place_back_and_its_results_stay_until_they_are_forgotten() {
    let (_place, data) = directory();
    let flags = ["--keep-finished", "1s", "--max-sessions", "2"];
    let keeps = Daemon::on(&data, &flags);
    let (_other_place, forgotten) = directory();
    let forgets = Daemon::on(&forgotten, &[&flags[..], &["--keep-results", "2s"]].concat());
    let mut ended = Vec::new();
    for daemon in [&keeps, &forgets] {
        put_assessment(daemon, "exam", json!({ "attempt_limit": 1 }));
        let paths = ["ada", "grace"].map(|candidate| sit(daemon, "exam", candidate));
        let answers = json!({ "answers": [{ "item_id": "i", "response": { "choice": 3 } }] });
        assert_eq!(daemon.post(&format!("{}/submit", paths[0]), answers).status, 200);
        assert_eq!(daemon.get(&paths[0]).json()["responses"]["i"]["choice"], 3);
        let [first, second] = results(daemon, "exam").try_into().unwrap();
        assert_eq!((&first["state"], &second["state"]), (&json!("completed"), &json!("in_progress")));
        ended.push((paths, first));
    }
    let until = |check: &dyn Fn() -> bool| {
        let begun = Instant::now();
        while !check() {
            assert!(begun.elapsed() < 3 * PATIENCE, "it never came true");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    for (daemon, (paths, _)) in [&keeps, &forgets].into_iter().zip(&ended) {
        until(&|| daemon.get(&paths[0]).status == 404);
        assert_eq!(daemon.get(&paths[1]).json()["state"], "in_progress", "nothing happens to one that goes on");
        let save = daemon.post(&format!("{}/save", paths[0]), json!({}));
        let id = paths[0].rsplit('/').next().unwrap();
        assert_eq!((save.status, save.detail()), (404, format!("Session {id} not found")));
        assert_eq!(daemon.get("/delivery/assessments/exam/sessions").json().as_array().unwrap().len(), 1);
        // Its attempt is used for good, and its place is free.
        let again = start(daemon, "exam", "ada");
        assert_eq!((again.status, again.detail()), (400, "Attempt limit reached".to_owned()));
        sit(daemon, "exam", "eve");
    }
    until(&|| results(&forgets, "exam").len() == 2);
    assert!(results(&forgets, "exam").iter().all(|line| line["state"] == "in_progress"), "what goes on is kept");
    // What is forgotten has been an attempt all the same, and stays one over a restart.
    let again = |daemon: &Daemon| assert_eq!(start(daemon, "exam", "ada").detail(), "Attempt limit reached");
    again(&forgets);
    forgets.kill();
    again(&Daemon::on(&forgotten, &flags));
    let kept = |daemon: &Daemon| {
        let lines = results(daemon, "exam");
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0], ended[0].1, "the same line, answer and all");
        assert_eq!(start(daemon, "exam", "ada").detail(), "Attempt limit reached");
        assert_eq!(daemon.get(&ended[0].0[0]).status, 404);
    };
    kept(&keeps);
    keeps.kill();
    kept(&Daemon::on(&data, &flags));
}

// ---------------------------------------------------------------------------------------------------------------
// The units.

/// The units in a place of their own, with this build's binary; nothing where systemd-analyze is missing.
fn units(place: &Path) -> Option<[PathBuf; 2]> {
    if Command::new("systemd-analyze").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("SKIPPED: systemd-analyze is not installed");
        return None;
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    Some(["timerd.service", "timerd.socket"].map(|name| {
        let text = fs::read_to_string(source.join(name)).unwrap();
        let unit = place.join(name);
        fs::write(&unit, text.replace("/usr/local/bin/timerd", TIMERD)).unwrap();
        unit
    }))
}

fn analyze(arguments: &[&str], units: &[&PathBuf]) -> String {
    let output = Command::new("systemd-analyze").args(arguments).args(units).env("LC_ALL", "C").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    said
}

#[test]
fn the_service_is_exposed_to_little() {
    let place = tempfile::tempdir().unwrap();
    let Some([service, _]) = units(place.path()) else { return };
    let said = analyze(&["security", "--offline=true", "--no-pager"], &[&service]);
    let (_, rest) =
        said.split_once("Overall exposure level for timerd.service: ").unwrap_or_else(|| panic!("{said}"));
    let exposure: f64 = rest.split_whitespace().next().unwrap().parse().unwrap();
    println!("systemd-analyze security: overall exposure {exposure}");
    assert!(exposure <= 0.5, "{said}");
}

#[test]
fn the_units_are_what_systemd_understands() {
    let place = tempfile::tempdir().unwrap();
    let Some([service, socket]) = units(place.path()) else { return };
    let said = analyze(&["verify"], &[&service, &socket]);
    assert!(!said.contains("timerd"), "{said}");
}

// ---------------------------------------------------------------------------------------------------------------
// timerd watch.

/// A running `timerd watch`, its output not a terminal.
struct Watch {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Watch {
    fn start(address: SocketAddr, id: &str, flags: &[&str]) -> Watch {
        let mut command = Command::new(TIMERD);
        command.args(["watch", id, "--url", &format!("http://{address}")]).args(flags).env_clear();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (copy, stdout) = (Arc::clone(&lines), child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                copy.lock().unwrap().push(line);
            }
        });
        Watch { child, lines }
    }

    fn said(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    #[track_caller]
    fn wait_for(&self, text: &str) -> usize {
        let begun = Instant::now();
        loop {
            if let Some(at) = self.said().iter().position(|line| line.contains(text)) {
                return at;
            }
            assert!(begun.elapsed() < PATIENCE, "no {text:?} in {:#?}", self.said());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for its end; the exit code and what it said on stderr.
    fn end(&mut self) -> (Option<i32>, String) {
        eventually(|| self.child.try_wait().unwrap().is_some());
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn watch_prints_a_line_a_second_and_what_happens_and_ends_with_the_timer() {
    let daemon = Daemon::ephemeral(&[]);
    let body = json!({ "name": "Quiz", "duration_seconds": 5, "auto_start": true, "warning_thresholds": [3] });
    let id = daemon.create(body);
    let mut watch = Watch::start(daemon.address, &id, &[]);
    watch.wait_for("warning: ");
    daemon.control(&id, "pause");
    watch.wait_for("Quiz: paused");
    daemon.control(&id, "resume");
    watch.wait_for("Quiz: resumed");
    watch.wait_for("Quiz: time is up");
    daemon.delete(&format!("/timers/{id}"));
    let (code, complaint) = watch.end();
    assert_eq!((code, &*complaint), (Some(0), ""));
    let said = watch.said();
    assert!(said.iter().all(|line| !line.contains('\u{1b}')), "{said:#?}");
    let seconds = said.iter().filter(|line| line.contains("Quiz running") && line.contains("left")).count();
    assert!((3..=8).contains(&seconds), "{said:#?}");
    assert!(said.iter().all(|line| line.as_bytes()[8] == b'Z'), "a line begins with the time of day: {said:#?}");
}

#[test]
fn watch_json_prints_the_messages_as_they_come() {
    let daemon = Daemon::ephemeral(&[]);
    let id = daemon.create(json!({ "duration_seconds": 1 }));
    let mut watch = Watch::start(daemon.address, &id, &["--json"]);
    watch.wait_for(r#""type":"connected""#);
    daemon.control(&id, "start");
    watch.wait_for(r#""type":"timer_expired""#);
    daemon.delete(&format!("/timers/{id}"));
    watch.wait_for(r#""type":"timer_deleted""#);
    assert_eq!(watch.end().0, Some(0));
    let kinds: Vec<String> = watch
        .said()
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["type"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(kinds, ["connected", "timer_started", "timer_tick", "timer_expired", "timer_deleted"]);
}

#[test]
fn watch_comes_back_after_kill_9_and_a_restart() {
    let (_place, data) = directory();
    let daemon = Daemon::on(&data, &[]);
    let id = daemon.create(json!({ "name": "Quiz", "duration_seconds": 600, "auto_start": true }));
    let ends_at = daemon.timer(&id)["ends_at"].clone();
    let address = daemon.address;
    let raw = Watch::start(address, &id, &["--json"]);
    let plain = Watch::start(address, &id, &[]);
    raw.wait_for("timer_tick");
    plain.wait_for("Quiz running");
    daemon.kill();
    plain.wait_for("reconnecting");
    let daemon = Daemon::on(&data, &["--listen", &address.to_string()]);
    let connected = || {
        let lines = raw.said().into_iter().map(|line| serde_json::from_str::<Value>(&line).unwrap());
        lines.filter(|message| message["type"] == "connected").collect::<Vec<_>>()
    };
    eventually(|| connected().len() == 2);
    assert!(connected().iter().all(|message| message["timer"]["ends_at"] == ends_at), "{:?}", connected());
    eventually(|| daemon.timer(&id)["connected_clients"] == 2);
    let before = plain.said().len();
    eventually(|| plain.said()[before..].iter().any(|line| line.contains("Quiz running") && line.ends_with("left")));
}

#[test]
fn watch_ends_with_1_for_an_unknown_timer() {
    let daemon = Daemon::ephemeral(&[]);
    for flags in [&[][..], &["--json"]] {
        let mut watch = Watch::start(daemon.address, "timer_nobody", flags);
        let (code, complaint) = watch.end();
        assert_eq!(code, Some(1));
        assert_eq!(complaint, "timerd watch: there is no timer 'timer_nobody'\n");
    }
}
