//! What the event pipeline does a second, what a delivery costs, and how it reads a long history.
//!
//! Four parts, each beside something measured in the same run:
//! - durable events a second over one WebSocket with 1,000 in flight and over 64 REST connections, beside the same
//!   rows inserted by rusqlite in batches of the same size, without a network;
//! - CPU of one event's delivery to 5,000 subscribers, beside a tick's to 5,000 clients of a timer;
//! - `GET /events` with each filter over 1,000,000 events, and how late ticks are meanwhile, beside how late they are
//!   otherwise;
//! - what those events take: bytes on the disk, the start, a call of `/stats`.
//!
//! `cargo bench --bench events`; `TIMERD_BENCH_SECONDS` (10) is how long each part of the first two is counted,
//! `TIMERD_BENCH_ROWS` (1,000,000) how long the history is, `TIMERD_BENCH_DIR` where it lies (default: `target/`).

mod rig;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rusqlite::{Connection, params};
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use rig::{Cores, Daemon, Outcome, cpu_ns, median, post_bytes, print_table, say};

/// Turns of each measurement.
const TURNS: usize = 5;
/// Unanswered events of the one publisher.
const WINDOW: usize = 1_000;
/// Connections of those who publish over REST.
const CALLERS: usize = 64;
/// Subscribers, and clients of the timer they are compared with.
const AUDIENCE: usize = 5_000;
/// Time between two events, and two ticks.
const BEAT: Duration = Duration::from_millis(100);
/// Reads with each filter.
const READS: usize = 1_000;
/// Timers whose ticks must not be late while events are read.
const TIMERS: usize = 1_000;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// No limits but those of the machine.
const UNLIMITED: [&str; 8] =
    ["--rate-publish", "off", "--rate-query", "off", "--rate-admin", "off", "--ws-per-address", "off"];

fn main() -> ExitCode {
    match bench() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "events: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bench() -> Outcome<()> {
    rig::raise_descriptor_limit()?;
    let seconds = rig::seconds()?;
    let span = Duration::from_secs_f64(seconds / TURNS as f64);
    let rows = match std::env::var("TIMERD_BENCH_ROWS") {
        Ok(text) => text.parse()?,
        Err(_) if rig::is_trial() => 2_000,
        Err(_) => 1_000_000,
    };
    let audience = if rig::is_trial() { 50 } else { AUDIENCE };
    let cores = Cores::choose()?;
    let place =
        std::env::var_os("TIMERD_BENCH_DIR").map_or(PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let directory = tempfile::Builder::new().prefix("events-").tempdir_in(&place)?;
    say(&rig::machine(cores));
    say(&format!("{seconds} s of each, in {TURNS} turns; medians, ratios of neighbouring turns"));
    publishing(directory.path(), cores, span)?;
    delivery(cores, span, audience)?;
    history(directory.path(), cores, rows)
}

fn start(data: &Path, cores: Cores) -> Outcome<Daemon> {
    let data = data.to_str().ok_or("a path that is no text")?;
    let daemon = Daemon::start(&[&["--data-dir", data], UNLIMITED.as_slice()].concat(), cores.server)?;
    rig::pin(cores.client)?;
    Ok(daemon)
}

/// The body of the event numbered `n`, as quiz engines send them.
fn body(n: usize) -> String {
    let kinds = ["answer_submitted", "question_viewed", "answer_changed", "question_skipped", "quiz_started"];
    // One type is rare: a filter must not have to look at everything to find it.
    let kind = if n % 100_000 == 99_999 { "error_occurred" } else { kinds[n % kinds.len()] };
    let (session, user, question) = (n % 10_007, n % 20_011, n % 40);
    format!(
        r#"{{"event_type":"{kind}","source":"quiz_engine","session_id":"session-{session}","user_id":"student-{user}","payload":{{"quiz_id":"math-101","question":{question},"answer":"b"}}}}"#
    )
}

// ---------------------------------------------------------------------------------------------------------------
// Sockets.

/// A WebSocket of the bench: frames by their lengths alone.
struct Socket {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Socket {
    fn open(daemon: &Daemon, path: &str) -> Outcome<Self> {
        let mut stream = TcpStream::connect(daemon.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )?;
        let mut input = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            if let Some(end) = input.windows(4).position(|four| four == b"\r\n\r\n") {
                if !input.starts_with(b"HTTP/1.1 101 ") {
                    return Err(format!("{path}: {}", String::from_utf8_lossy(&input)).into());
                }
                input.drain(..end + 4);
                return Ok(Socket { stream, input });
            }
            let bytes = stream.read(&mut buffer)?;
            if bytes == 0 {
                return Err(format!("{path}: the daemon has hung up").into());
            }
            input.extend_from_slice(&buffer[..bytes]);
        }
    }

    /// Sends text in frames whose mask is zeros.
    fn send<'a>(&mut self, texts: impl Iterator<Item = &'a str>) -> Outcome<()> {
        let mut bytes = Vec::new();
        for text in texts {
            bytes.push(0x81);
            match u8::try_from(text.len()) {
                Ok(short @ ..=125) => bytes.push(0x80 | short),
                _ => {
                    bytes.push(0x80 | 126);
                    bytes.extend_from_slice(&u16::try_from(text.len())?.to_be_bytes());
                }
            }
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(text.as_bytes());
        }
        Ok(self.stream.write_all(&bytes)?)
    }

    /// Reads once. Gives each whole text to `hear`; returns how many there were, `None` when nothing was there.
    fn read(&mut self, buffer: &mut [u8], mut hear: impl FnMut(&[u8])) -> Outcome<Option<usize>> {
        let bytes = match self.stream.read(buffer) {
            Ok(0) => return Err("the daemon has hung up".into()),
            Ok(bytes) => bytes,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        self.input.extend_from_slice(&buffer[..bytes]);
        self.cut(&mut hear).map(Some)
    }

    /// Gives the whole texts of what was read to `hear`; returns how many there were.
    fn cut(&mut self, hear: &mut dyn FnMut(&[u8])) -> Outcome<usize> {
        let (mut at, mut texts) = (0, 0);
        while let [first, second, rest @ ..] = &self.input[at..] {
            let (length, head) = match (second & 0x7f, rest) {
                (126, [high, low, ..]) => (usize::from(u16::from_be_bytes([*high, *low])), 4),
                (126, _) => break,
                (127, _) => return Err("no message is as long as that".into()),
                (short, _) => (usize::from(short), 2),
            };
            let Some(payload) = self.input.get(at + head..at + head + length) else { break };
            match first & 0x0f {
                1 => {
                    hear(payload);
                    texts += 1;
                }
                8 => return Err(format!("closed: {}", String::from_utf8_lossy(payload)).into()),
                _ => {}
            }
            at += head + length;
        }
        self.input.drain(..at);
        Ok(texts)
    }

    /// Waits for a text.
    fn wait(&mut self) -> Outcome<()> {
        let mut buffer = [0; 4096];
        // It may have come with the answer to the upgrade.
        while self.cut(&mut |_| ())? == 0 && self.read(&mut buffer, |_| ())?.ok_or("no answer")? == 0 {}
        Ok(())
    }
}

/// Publishes events from `from` on over one socket, as fast as they are taken, until `is_done` says of their number
/// and the time that it is enough. Returns how many were acknowledged, and in which time.
fn publish(
    socket: &mut Socket,
    from: usize,
    is_done: impl Fn(usize, Duration) -> bool,
) -> Outcome<(usize, Duration)> {
    let begun = Instant::now();
    let (mut sent, mut answered) = (0, 0);
    let mut buffer = vec![0; 64 << 10];
    let mut refused = None;
    loop {
        let is_last = is_done(sent, begun.elapsed());
        if is_last && answered == sent {
            return Ok((answered, begun.elapsed()));
        }
        if !is_last && sent - answered < WINDOW {
            let bodies: Vec<String> = (sent..answered + WINDOW).map(|n| body(from + n)).collect();
            socket.send(bodies.iter().map(String::as_str))?;
            sent = answered + WINDOW;
        }
        let heard = socket.read(&mut buffer, |text| {
            if !text.starts_with(br#"{"status":"ok""#) {
                refused = Some(String::from_utf8_lossy(text).into_owned());
            }
        })?;
        answered += heard.ok_or("no answer")?;
        if let Some(refused) = refused {
            return Err(refused.into());
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Durable events a second.

/// The table of the daemon's store, and its indexes.
const SCHEMA: &str = "
    CREATE TABLE events (
        seq INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, behind_ms INTEGER NOT NULL, kind INTEGER NOT NULL,
        source TEXT NOT NULL, session TEXT, user TEXT, payload TEXT NOT NULL
    ) STRICT;
    CREATE INDEX events_kind    ON events (kind);
    CREATE INDEX events_session ON events (seq >> 11, session) WHERE session IS NOT NULL;
    CREATE INDEX events_user    ON events (seq >> 11, user)    WHERE user IS NOT NULL;
    CREATE INDEX events_behind  ON events (at_ms)   WHERE behind_ms > 0;";

fn publishing(place: &Path, cores: Cores, span: Duration) -> Outcome<()> {
    let daemon = start(&place.join("published"), cores)?;
    let mut socket = Socket::open(&daemon, "/ws/publish")?;
    let floor = Connection::open(place.join("floor.db"))?;
    floor.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -16384;")?;
    floor.execute_batch(SCHEMA)?;
    let (mut published, mut inserted) = (0, 0);
    let (mut by_socket, mut by_rest, mut floors) = (Vec::new(), Vec::new(), Vec::new());
    let (mut socket_ratios, mut rest_ratios, mut batches, mut rest_batches) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let commits = counter(&daemon, "timerd_commits_total")?;
        let (events, time) = publish(&mut socket, published, |_, time| time >= span)?;
        let batch = events as f64 / (counter(&daemon, "timerd_commits_total")? - commits).max(1.0);
        published += events;
        let rate = events as f64 / time.as_secs_f64();

        let commits = counter(&daemon, "timerd_commits_total")?;
        let (events, time) = call(&daemon, published, span)?;
        rest_batches.push(events as f64 / (counter(&daemon, "timerd_commits_total")? - commits).max(1.0));
        published += events;
        let rest_rate = events as f64 / time.as_secs_f64();

        // The floor runs where the daemon does, in batches of the size that the daemon's had.
        rig::pin(cores.server)?;
        let begun = Instant::now();
        let before = inserted;
        while begun.elapsed() < span {
            inserted = insert(&floor, inserted, batch.round().max(1.0))?;
        }
        let floor_rate = (inserted - before) as f64 / begun.elapsed().as_secs_f64();
        rig::pin(cores.client)?;

        by_socket.push(rate);
        by_rest.push(rest_rate);
        floors.push(floor_rate);
        batches.push(batch);
        socket_ratios.push(rate / floor_rate);
        rest_ratios.push(rest_rate / floor_rate);
    }
    let ratio = median(&socket_ratios);
    let row = |name: &str, rate: &[f64], ratio: f64, batch: f64, verdict: String| {
        vec![name.to_owned(), format!("{:.0}", median(rate)), format!("{ratio:.2}"), format!("{batch:.0}"), verdict]
    };
    say("");
    print_table(&[
        ["durable events", "a second", "x floor", "a commit", "to reach"].map(str::to_owned).to_vec(),
        row("rows inserted by rusqlite", &floors, 1.0, median(&batches), String::new()),
        row("one WebSocket, 1,000 in flight", &by_socket, ratio, median(&batches), verdict(">= 0.5", ratio >= 0.5)),
        row("64 REST connections", &by_rest, median(&rest_ratios), median(&rest_batches), String::new()),
    ]);
    Ok(())
}

fn verdict(wanted: &str, met: bool) -> String {
    format!("{wanted} {}", if met { "met" } else { "MISSED" })
}

/// One batch of rows as the daemon writes them.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small whole number")]
fn insert(floor: &Connection, from: usize, batch: f64) -> Outcome<usize> {
    let upto = from + batch as usize;
    floor.execute_batch("BEGIN IMMEDIATE")?;
    let mut statement = floor.prepare_cached("INSERT INTO events VALUES (?1, ?2, 0, ?3, ?4, ?5, ?6, ?7)")?;
    for n in from..upto {
        let (session, user) = (format!("session-{}", n % 10_007), format!("student-{}", n % 20_011));
        let payload = format!(r#"{{"quiz_id":"math-101","question":{},"answer":"b"}}"#, n % 40);
        let seq = i64::try_from(n)? + 1;
        statement.execute(params![
            seq,
            1_768_471_200_000 + seq,
            seq % 5 + 1,
            "quiz_engine",
            session,
            user,
            payload
        ])?;
    }
    drop(statement);
    floor.execute_batch("COMMIT")?;
    Ok(upto)
}

/// Publishes over REST for `span`, each connection one event at a time.
fn call(daemon: &Daemon, from: usize, span: Duration) -> Outcome<(usize, Duration)> {
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let mut callers = Vec::new();
    for index in 0..CALLERS {
        let stream = TcpStream::connect(daemon.address)?;
        stream.set_nodelay(true)?;
        epoll::add(&epoll, stream.as_fd(), EventData::new_u64(index as u64), EventFlags::IN)?;
        callers.push(stream);
    }
    let begun = Instant::now();
    let mut sent = 0;
    let mut ask = |caller: &mut TcpStream| -> Outcome<()> {
        caller.write_all(&post_bytes("/events", &body(from + sent), true))?;
        sent += 1;
        Ok(())
    };
    callers.iter_mut().try_for_each(&mut ask)?;
    let (mut waiting, mut answered) = (CALLERS, 0);
    let mut events = Vec::with_capacity(CALLERS);
    let mut buffer = [0; 4096];
    while waiting > 0 {
        epoll::wait(&epoll, spare_capacity(&mut events), None)?;
        for event in events.drain(..) {
            let caller = &mut callers[usize::try_from(event.data.u64())?];
            // An answer is small, and comes in one piece.
            let bytes = caller.read(&mut buffer)?;
            if !buffer[..bytes].starts_with(b"HTTP/1.1 201 ") || !buffer[..bytes].ends_with(b"}") {
                return Err(String::from_utf8_lossy(&buffer[..bytes]).into_owned().into());
            }
            answered += 1;
            if begun.elapsed() < span {
                ask(caller)?;
            } else {
                waiting -= 1;
            }
        }
    }
    Ok((answered, begun.elapsed()))
}

// ---------------------------------------------------------------------------------------------------------------
// One event to many.

fn delivery(cores: Cores, span: Duration, audience: usize) -> Outcome<()> {
    let most = audience.to_string();
    let flags = ["--ephemeral", "--second-ms", "100", "--clients-per-timer", &most];
    let daemon = Daemon::start(&[flags.as_slice(), UNLIMITED.as_slice()].concat(), cores.server)?;
    rig::pin(cores.client)?;
    let timer = daemon.create()?;
    let control = format!("/timers/{timer}/control");
    let mut clients = Audience::new()?;
    let mut subscribers = Audience::new()?;
    for _ in 0..audience {
        let mut client = Socket::open(&daemon, &format!("/ws/{timer}"))?;
        client.wait()?;
        clients.push(client)?;
        let mut subscriber = Socket::open(&daemon, "/ws/subscribe")?;
        subscriber.send(std::iter::once(r#"{"session_id":"hall"}"#))?;
        subscriber.wait()?;
        subscribers.push(subscriber)?;
    }
    let mut publisher = Socket::open(&daemon, "/ws/publish")?;
    let event = r#"{"event_type":"quiz_started","source":"quiz_engine","session_id":"hall"}"#;
    let (mut a_tick, mut an_event, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 0..TURNS {
        daemon.post(&control, if turn == 0 { r#"{"action":"start"}"# } else { r#"{"action":"resume"}"# })?;
        clients.listen(BEAT)?;
        let cpu = cpu_ns(daemon.pid())?;
        let ticks = clients.listen(span)?;
        let tick_us = (cpu_ns(daemon.pid())? - cpu) as f64 / ticks as f64 / 1000.0;
        daemon.post(&control, r#"{"action":"pause"}"#)?;
        clients.listen(BEAT)?;

        let cpu = cpu_ns(daemon.pid())?;
        let (mut delivered, mut events) = (0, 0);
        let begun = Instant::now();
        while begun.elapsed() < span {
            publisher.send(std::iter::once(event))?;
            delivered += subscribers.listen(BEAT)?;
            publisher.wait()?;
            events += 1;
        }
        let event_us = (cpu_ns(daemon.pid())? - cpu) as f64 / delivered as f64 / 1000.0;
        if delivered != events * audience {
            return Err(format!("{delivered} of {} deliveries within their beat", events * audience).into());
        }
        a_tick.push(tick_us);
        an_event.push(event_us);
        ratios.push(event_us / tick_us);
    }
    let ratio = median(&ratios);
    say("");
    let row = |name: String, us: &[f64], ratio: f64, verdict: String| {
        vec![name, format!("{:.2}", median(us)), format!("{ratio:.2}"), verdict]
    };
    print_table(&[
        ["CPU a delivery", "us", "ratio", "to reach"].map(str::to_owned).to_vec(),
        row(format!("a tick to {audience} clients"), &a_tick, 1.0, String::new()),
        row(format!("an event to {audience} subscribers"), &an_event, ratio, verdict("<= 1.1", ratio <= 1.1)),
    ]);
    Ok(())
}

/// Many sockets that listen.
struct Audience {
    sockets: Vec<Socket>,
    epoll: std::os::fd::OwnedFd,
    buffer: Vec<u8>,
}

impl Audience {
    fn new() -> Outcome<Self> {
        Ok(Audience { sockets: Vec::new(), epoll: epoll::create(CreateFlags::CLOEXEC)?, buffer: vec![0; 64 << 10] })
    }

    fn push(&mut self, socket: Socket) -> Outcome<()> {
        socket.stream.set_nonblocking(true)?;
        let index = EventData::new_u64(self.sockets.len() as u64);
        epoll::add(&self.epoll, socket.stream.as_fd(), index, EventFlags::IN)?;
        self.sockets.push(socket);
        Ok(())
    }

    /// Listens for `span` without sleeping: a client that sleeps would have to be woken at the server's expense.
    /// Returns how many messages came.
    fn listen(&mut self, span: Duration) -> Outcome<usize> {
        let begun = Instant::now();
        let mut texts = 0;
        let mut events = Vec::with_capacity(1024);
        while begun.elapsed() < span {
            epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&Timespec::default()))?;
            for event in events.drain(..) {
                let socket = &mut self.sockets[usize::try_from(event.data.u64())?];
                texts += socket.read(&mut self.buffer, |_| ())?.unwrap_or(0);
            }
        }
        Ok(texts)
    }
}

// ---------------------------------------------------------------------------------------------------------------
// A long history.

fn history(place: &Path, cores: Cores, rows: usize) -> Outcome<()> {
    let data = place.join("history");
    let daemon = start(&data, cores)?;
    let mut socket = Socket::open(&daemon, "/ws/publish")?;
    let (published, time) = publish(&mut socket, 0, |sent, _| sent >= rows)?;
    say("");
    say(&format!("{published} events published in {:.1} s", time.as_secs_f64()));
    drop(socket);
    // In order, so that everything lies in the one file.
    drop(daemon);
    let bytes = std::fs::metadata(data.join("timerd.db"))?.len();
    let begun = Instant::now();
    let daemon = start(&data, cores)?;
    let mut reader = Reader::new(&daemon)?;
    reader.get("/readiness")?;
    let ready = begun.elapsed();

    for _ in 0..TIMERS {
        let id = daemon.create()?;
        daemon.post(&format!("/timers/{id}/control"), r#"{"action":"start"}"#)?;
    }
    let lateness = Lateness::read(&mut reader)?;
    std::thread::sleep(Duration::from_secs_f64(rig::seconds()?));
    let quiet = Lateness::read(&mut reader)?.since(&lateness);

    let middle = rows / 2;
    let stamp = reader.get(&format!("/events?after={}&limit=1", published - 200))?;
    let stamp = stamp.split(r#""timestamp":""#).nth(1).and_then(|rest| rest.get(..27)).ok_or("no timestamp")?;
    let filters = [
        ("the newest", String::new()),
        ("event_type, common", "event_type=answer_submitted".to_owned()),
        ("event_type, rare", "event_type=error_occurred".to_owned()),
        ("event_type, absent", "event_type=quiz_timeout".to_owned()),
        ("session_id", "session_id=session-77".to_owned()),
        ("user_id", "user_id=student-77".to_owned()),
        ("session_id and event_type", "session_id=session-77&event_type=quiz_started".to_owned()),
        ("session_id and user_id", "session_id=session-77&user_id=student-78".to_owned()),
        ("since, of late", format!("since={stamp}")),
        ("since, long ago", "since=2020-01-01T00:00:00Z".to_owned()),
        ("after the middle", format!("after={middle}")),
        ("after, session_id", format!("after={middle}&session_id=session-77")),
        ("limit=1000", "limit=1000".to_owned()),
        ("/stats", "/stats".to_owned()),
    ];
    let reads = if rig::is_trial() { 3 } else { READS };
    let mut table = vec![["read", "p50 ms", "p99 ms", "to reach"].map(str::to_owned).to_vec()];
    let before = Lateness::read(&mut reader)?;
    for (name, query) in &filters {
        let path = if query.starts_with('/') { query.clone() } else { format!("/events?{query}") };
        let mut latency_us = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3)?;
        for _ in 0..reads {
            let begun = Instant::now();
            reader.get(&path)?;
            latency_us.saturating_record(u64::try_from(begun.elapsed().as_micros())?);
        }
        let ms = |part| latency_us.value_at_quantile(part) as f64 / 1000.0;
        table.push(vec![
            (*name).to_owned(),
            format!("{:.2}", ms(0.5)),
            format!("{:.2}", ms(0.99)),
            verdict("<= 10", ms(0.99) <= 10.0),
        ]);
    }
    let busy = Lateness::read(&mut reader)?.since(&before);
    print_table(&table);
    say("");
    say(&format!(
        "ticks late, p99: {:.2} ms among reads ({} deadlines), {:.2} ms without ({} deadlines)",
        busy.quantile_ms(0.99),
        busy.count(),
        quiet.quantile_ms(0.99),
        quiet.count()
    ));
    say(&format!(
        "{:.0} bytes on the disk an event; ready {:.0} ms after its start",
        bytes as f64 / published as f64,
        ready.as_secs_f64() * 1000.0
    ));
    Ok(())
}

/// A connection that reads.
struct Reader {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Reader {
    fn new(daemon: &Daemon) -> Outcome<Self> {
        let stream = TcpStream::connect(daemon.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Reader { stream, input: Vec::new() })
    }

    fn get(&mut self, path: &str) -> Outcome<String> {
        write!(self.stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        let mut buffer = vec![0; 256 << 10];
        self.input.clear();
        loop {
            let bytes = self.stream.read(&mut buffer)?;
            self.input.extend_from_slice(&buffer[..bytes]);
            let Some(end) = self.input.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let head = std::str::from_utf8(&self.input[..end])?.to_ascii_lowercase();
            let length: Option<usize> =
                head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            if bytes == 0 || !head.starts_with("http/1.1 200 ") {
                return Err(format!("GET {path}: {head}").into());
            }
            if self.input.len() >= end + 4 + length.ok_or("an answer without a length")? {
                return Ok(String::from_utf8_lossy(&self.input[end + 4..]).into_owned());
            }
        }
    }
}

/// A counter of the daemon's.
fn counter(daemon: &Daemon, name: &str) -> Outcome<f64> {
    let text = Reader::new(daemon)?.get("/metrics")?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(value.ok_or_else(|| format!("no {name} in /metrics"))?.parse()?)
}

/// The daemon's own histogram of how late deadlines were served: bounds in seconds, counts up to each.
struct Lateness(Vec<(f64, f64)>);

impl Lateness {
    fn read(reader: &mut Reader) -> Outcome<Self> {
        let text = reader.get("/metrics")?;
        let bucket = |line: &str| {
            let (bound, count) =
                line.strip_prefix(r#"timerd_deadline_lateness_seconds_bucket{le=""#)?.split_once(r#""} "#)?;
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
            Some((bound, count.parse().ok()?))
        };
        Ok(Lateness(text.lines().filter_map(bucket).collect()))
    }

    fn since(&self, before: &Lateness) -> Lateness {
        let pairs = self.0.iter().zip(&before.0);
        Lateness(pairs.map(|((bound, count), (_, before))| (*bound, count - before)).collect())
    }

    fn count(&self) -> f64 {
        self.0.last().map_or(0.0, |(_, count)| *count)
    }

    /// Within its bucket a value is taken to lie where its share of the bucket does.
    fn quantile_ms(&self, part: f64) -> f64 {
        let wanted = self.count() * part;
        let (mut lower, mut below) = (0.0, 0.0);
        for &(bound, count) in &self.0 {
            if count >= wanted && count > below {
                let upper = if bound.is_finite() { bound } else { lower };
                return (lower + (upper - lower) * (wanted - below) / (count - below)) * 1000.0;
            }
            (lower, below) = (bound, count);
        }
        lower * 1000.0
    }
}
