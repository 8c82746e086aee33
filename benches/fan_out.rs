//! What a tick to a crowd costs, beside the least it could cost.
//!
//! timerd (release, `--ephemeral --second-ms`) and the floor, a bare loop of send(2) of the same frame to as many
//! WebSockets, both run pinned to one core, and are measured in turns; a busy-polling crowd of clients for each runs
//! on another. At 1,000 and 19,000 connections in groups of 100: CPU a frame, bytes a connection, upgrades a second,
//! frames delivered, burst spread. Ratios are those of neighbouring turns, figures are medians over the turns.
//!
//! With `-- --sessions` the same crowd sits an exam: as many sessions with one socket each, each with a second of its
//! own, beside the timers in groups of 100.
//!
//! `cargo bench --bench fan_out`; `TIMERD_BENCH_SECONDS` (10) is how long each of the servers is counted at each
//! size. 19,000 clients need an open file limit of 20,000 (`ulimit -Hn`); with less there are fewer.

mod rig;

#[path = "rig/crowd.rs"]
mod crowd;
#[path = "rig/floor.rs"]
mod floor;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;

use rig::{Cores, Daemon, Helper, Outcome, anonymous_bytes, median, print_table, say};

/// Clients of one timer: the contract's default limit.
const GROUP: usize = 100;
/// A school, with a tick in 190 ms to everybody: 100,000 frames a second.
const MANY: Size = Size { clients: 19_000, first: 1_000, second_ms: 190 };
/// The shortest second that timerd has: 10,000 frames a second.
const FEW: Size = Size { clients: 1_000, first: 1_000, second_ms: 100 };
/// Turns of each server at one size, unless they became too short to hold some rounds.
const TURNS: usize = 8;
/// Seconds that a turn has at least.
const TURN_S_MIN: f64 = 0.4;
/// Storms of upgrades of each server.
const STORMS: usize = 6;
/// Descriptors of a process that are no client's, and timerd's reserve for those it turns away.
const DESCRIPTORS_APART: u64 = 500;

/// How much is asked.
#[derive(Clone, Copy)]
struct Size {
    clients: usize,
    /// So many come first, from whom memory is counted.
    first: usize,
    second_ms: u64,
}

/// A server with its crowd.
struct Side {
    pid: u32,
    crowd: Helper,
    server: Server,
}

enum Server {
    Timerd { daemon: Daemon, ids: String, begun: bool },
    Sessions(Daemon),
    Floor(Helper),
}

/// What was counted of a server at one size.
#[derive(Default)]
struct Counts {
    /// Nanoseconds of CPU a frame, turn by turn; and whether the keepalive's pings fell into the turn.
    frame_ns: Vec<(f64, bool)>,
    ticks: u64,
    /// Of whole rounds.
    heard: u64,
    expected: u64,
    wall_ns: u64,
    pings: u64,
    spreads_us: Vec<f64>,
    /// Upgrades a second, storm by storm.
    upgrades: Vec<f64>,
    /// Microseconds of CPU an upgrade, storm by storm.
    upgrade_us: Vec<f64>,
    bytes_a_connection: Option<f64>,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        [_, "floor", answer] => unhex(answer).and_then(|answer| floor::run(&answer)),
        [_, "crowd", server, pid, group, ..] => crowd::run(server, pid, group, &args[5..]),
        words if words.contains(&"--sessions") => bench_sessions(),
        _ => bench(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "fan_out: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bench() -> Outcome<()> {
    let seconds = rig::seconds()?;
    let cores = Cores::choose()?;
    let room = usize::try_from(rig::raise_descriptor_limit()?.saturating_sub(DESCRIPTORS_APART))?;
    say(&rig::machine(cores));
    let turns = (1..=TURNS).rev().find(|turns| seconds / *turns as f64 >= TURN_S_MIN).unwrap_or(1);
    say(&format!("{seconds} s of each server at each size, in {turns} turns; medians, ratios of neighbouring turns"));
    let many = if rig::is_trial() { Size { clients: 400, first: 100, second_ms: 190 } } else { MANY };
    let few = if rig::is_trial() { Size { clients: 100, first: 100, second_ms: 100 } } else { FEW };
    let many = Size { clients: many.clients.min(room / GROUP * GROUP), ..many };
    if many.clients < MANY.clients && !rig::is_trial() {
        say(&format!("ONLY {} CLIENTS: the limit of open files leaves no more (ulimit -Hn)", many.clients));
    }
    for size in [few, many] {
        let (timerd, floor) = measure(size, seconds, turns, cores)?;
        report(size, &timerd, &floor);
    }
    Ok(())
}

/// Sessions beside timers: both sides are timerd.
fn bench_sessions() -> Outcome<()> {
    let seconds = rig::seconds()?;
    let cores = Cores::choose()?;
    let room = usize::try_from(rig::raise_descriptor_limit()?.saturating_sub(DESCRIPTORS_APART))?;
    say(&rig::machine(cores));
    let turns = (1..=TURNS).rev().find(|turns| seconds / *turns as f64 >= TURN_S_MIN).unwrap_or(1);
    let size = if rig::is_trial() { Size { clients: 400, first: 400, second_ms: 190 } } else { MANY };
    let size = Size { clients: size.clients.min(room / GROUP * GROUP), ..size };
    let (mut timers, _) = Side::timerd(size, cores)?;
    let mut sessions = Side::sessions(size, cores)?;
    for side in [&mut timers, &mut sessions] {
        side.crowd.ask(&format!("join {}", size.clients))?;
    }
    let mut counts = (Counts::default(), Counts::default());
    for _ in 0..turns {
        for (side, counts) in [(&mut timers, &mut counts.0), (&mut sessions, &mut counts.1)] {
            side.turn(seconds / turns as f64, size.second_ms, counts)?;
        }
    }
    let (timers, sessions) = counts;
    say(&format!("{} sessions with one socket each, beside as many clients of timers", size.clients));
    let mut rows = vec![["", "sessions", "timers", "ratio", "to reach"].map(str::to_owned).to_vec()];
    let mut add = |row: [String; 5]| rows.push(row.to_vec());
    let rates = [format!("{:.0}", sessions.rate()), format!("{:.0}", timers.rate())];
    add(["frames/s".to_owned(), rates[0].clone(), rates[1].clone(), String::new(), String::new()]);
    let ratio =
        ratios(&sessions, &timers, false).or(ratios(&sessions, &timers, true)).ok_or("nothing was counted")?;
    let target = format!("<= 1.15 {}", if ratio <= 1.15 { "met" } else { "MISSED" });
    let costs = [format!("{:.3}", sessions.frame_us()), format!("{:.3}", timers.frame_us())];
    add(["CPU a frame, us".to_owned(), costs[0].clone(), costs[1].clone(), format!("{ratio:.3}"), target]);
    let shares = [format!("{:.4}", sessions.delivered()), format!("{:.4}", timers.delivered())];
    add(["delivered, %".to_owned(), shares[0].clone(), shares[1].clone(), String::new(), String::new()]);
    print_table(&rows);
    Ok(())
}

fn measure(size: Size, seconds: f64, turns: usize, cores: Cores) -> Outcome<(Counts, Counts)> {
    let (mut timerd, answer) = Side::timerd(size, cores)?;
    let mut floor = Side::floor(size, &answer, cores)?;
    let mut counts = (Counts::default(), Counts::default());

    // The first clients; nothing is measured of their coming, which meets cold caches and empty tables.
    let mut memory = [0, 0];
    for (side, memory) in [&mut timerd, &mut floor].into_iter().zip(&mut memory) {
        side.crowd.ask(&format!("join {}", size.first))?;
        side.crowd.ask("speak")?;
        *memory = anonymous_bytes(side.pid)?;
    }
    let more = size.clients - size.first;
    for storm in 0..STORMS {
        // Divided so that the sum is exact.
        let clients = more * (storm + 1) / STORMS - more * storm / STORMS;
        for (side, counts) in [(&mut timerd, &mut counts.0), (&mut floor, &mut counts.1)] {
            side.storm(clients, counts)?;
        }
    }
    for ((side, counts), memory) in
        [(&mut timerd, &mut counts.0), (&mut floor, &mut counts.1)].into_iter().zip(memory)
    {
        side.crowd.ask("speak")?;
        let grown = anonymous_bytes(side.pid)?.saturating_sub(memory);
        counts.bytes_a_connection = (more > 0).then(|| grown as f64 / more as f64);
    }
    for _ in 0..turns {
        for (side, counts) in [(&mut timerd, &mut counts.0), (&mut floor, &mut counts.1)] {
            side.turn(seconds / turns as f64, size.second_ms, counts)?;
        }
    }
    Ok(counts)
}

impl Side {
    fn timerd(size: Size, cores: Cores) -> Outcome<(Side, Vec<u8>)> {
        let daemon = Daemon::start(&["--ephemeral", "--second-ms", &size.second_ms.to_string()], cores.server)?;
        let ids = (0..size.clients.div_ceil(GROUP)).map(|_| daemon.create()).collect::<Outcome<Vec<_>>>()?;
        let paths: Vec<String> = ids.iter().map(|id| format!("/ws/{id}")).collect();
        let answer = answer_of(&daemon, &paths[0])?;
        let pid = daemon.pid();
        let crowd = crowd_of(&daemon.address.to_string(), pid, &paths, cores)?;
        let ids = serde_json::to_string(&ids)?;
        Ok((Side { pid, crowd, server: Server::Timerd { daemon, ids, begun: false } }, answer))
    }

    /// An exam that everybody sits, paused at once.
    fn sessions(size: Size, cores: Cores) -> Outcome<Side> {
        let daemon = Daemon::start(&["--ephemeral", "--second-ms", &size.second_ms.to_string()], cores.server)?;
        let exam = r#"{"time_limit_seconds":86400,"sections":[{"section_id":"a","items":[
            {"item_id":"i","content":{"prompt":"?"}}]}]}"#;
        daemon.put("/delivery/assessments/exam", exam)?;
        let mut paths = Vec::with_capacity(size.clients);
        for number in 0..size.clients {
            let body = format!(r#"{{"candidate_id":"c{number}","test_taker_id":"c{number}"}}"#);
            let session: serde_json::Value = serde_json::from_str(&daemon.post("/delivery/start/exam", &body)?)?;
            let id = session["session_id"].as_str().ok_or("a session without id")?;
            paths.push(format!("/delivery/ws/{id}"));
        }
        daemon.post("/delivery/assessments/exam/pause", "")?;
        let pid = daemon.pid();
        let (text, group) = (pid.to_string(), "1".to_owned());
        let address = daemon.address.to_string();
        let mut role = vec!["crowd", &address, &text, &group];
        role.extend(paths.iter().map(String::as_str));
        let crowd = Helper::start(&role, cores.client)?;
        Ok(Side { pid, crowd, server: Server::Sessions(daemon) })
    }

    fn floor(size: Size, answer: &[u8], cores: Cores) -> Outcome<Side> {
        let hex: String = answer.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut floor = Helper::start(&["floor", &hex], cores.server)?;
        let address = floor.answer()?;
        let pid = floor.pid();
        // As long as timerd's.
        let paths = vec!["/ws/timer_00000000".to_owned(); size.clients.div_ceil(GROUP)];
        Ok(Side { pid, crowd: crowd_of(&address, pid, &paths, cores)?, server: Server::Floor(floor) })
    }

    fn storm(&mut self, clients: usize, counts: &mut Counts) -> Outcome<()> {
        if clients == 0 {
            return Ok(());
        }
        let answer = self.crowd.ask(&format!("join {clients}"))?;
        let (took, cpu) = answer.split_once(' ').ok_or("a crowd that says nothing")?;
        counts.upgrades.push(clients as f64 / took.parse::<f64>()?);
        counts.upgrade_us.push(cpu.parse::<f64>()? / 1000.0 / clients as f64);
        Ok(())
    }

    /// Lets the server tick for a while and counts.
    fn turn(&mut self, seconds: f64, second_ms: u64, counts: &mut Counts) -> Outcome<()> {
        match &mut self.server {
            Server::Timerd { daemon, ids, begun } => {
                // All at one instant: the whole crowd is one burst.
                let action = if std::mem::replace(begun, true) { "resume" } else { "start" };
                daemon.post(&format!("/timers/bulk/{action}"), ids)?;
            }
            Server::Sessions(daemon) => drop(daemon.post("/delivery/assessments/exam/resume", "")?),
            Server::Floor(floor) => drop(floor.ask(&format!("tick {second_ms}"))?),
        }
        let order = match self.server {
            Server::Sessions(_) => format!("tally {seconds}"),
            _ => format!("count {seconds} {second_ms}"),
        };
        let answer = self.crowd.ask(&order)?;
        match &mut self.server {
            Server::Timerd { daemon, ids, .. } => drop(daemon.post("/timers/bulk/pause", ids)?),
            Server::Sessions(daemon) => drop(daemon.post("/delivery/assessments/exam/pause", "")?),
            Server::Floor(floor) => drop(floor.ask("rest")?),
        }
        let words: Vec<&str> = answer.split(' ').collect();
        let [ticks, cpu_ns, wall_ns, pings, heard, expected, spreads] = words.as_slice() else {
            return Err(format!("a crowd that says {answer:?}").into());
        };
        let ticks: u64 = ticks.parse()?;
        if ticks == 0 {
            return Err("no tick in a whole turn: the machine is too busy, or TIMERD_BENCH_SECONDS too small".into());
        }
        let pings: u64 = pings.parse()?;
        counts.frame_ns.push((cpu_ns.parse::<f64>()? / ticks as f64, pings > 0));
        counts.ticks += ticks;
        counts.heard += heard.parse::<u64>()?;
        counts.expected += expected.parse::<u64>()?;
        counts.wall_ns += wall_ns.parse::<u64>()?;
        counts.pings += pings;
        for spread in spreads.split(',').filter(|spread| !spread.is_empty()) {
            counts.spreads_us.push(spread.parse()?);
        }
        Ok(())
    }
}

fn crowd_of(address: &str, pid: u32, paths: &[String], cores: Cores) -> Outcome<Helper> {
    let (pid, group) = (pid.to_string(), GROUP.to_string());
    let mut role = vec!["crowd", address, &pid, &group];
    role.extend(paths.iter().map(String::as_str));
    Helper::start(&role, cores.client)
}

/// What timerd answers to an upgrade: 101 and greeting.
fn answer_of(daemon: &Daemon, path: &str) -> Outcome<Vec<u8>> {
    let mut stream = TcpStream::connect(daemon.address)?;
    stream.write_all(&crowd::upgrade_request(path))?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    // The greeting ends with its brace, which no header does.
    while !answer.ends_with(b"}") {
        match stream.read(&mut buffer)? {
            0 => return Err("timerd does not upgrade".into()),
            bytes => answer.extend_from_slice(&buffer[..bytes]),
        }
    }
    Ok(answer)
}

fn unhex(text: &str) -> Outcome<Vec<u8>> {
    let digits = text.as_bytes().chunks(2).map(|two| Ok(u8::from_str_radix(std::str::from_utf8(two)?, 16)?));
    digits.collect()
}

// ---------------------------------------------------------------------------------------------------------------

impl Counts {
    fn frame_us(&self) -> f64 {
        median(&self.frame_ns.iter().map(|(ns, _)| ns / 1000.0).collect::<Vec<_>>())
    }

    fn delivered(&self) -> f64 {
        self.heard as f64 * 100.0 / self.expected.max(1) as f64
    }

    fn rate(&self) -> f64 {
        self.ticks as f64 * 1e9 / self.wall_ns.max(1) as f64
    }

    fn spread_ms(&self, part: f64) -> f64 {
        let mut sorted = self.spreads_us.clone();
        sorted.sort_by(f64::total_cmp);
        // The first that so large a part of all lies below.
        let at = (0..sorted.len()).find(|at| (*at + 1) as f64 >= sorted.len() as f64 * part);
        at.and_then(|at| sorted.get(at)).copied().unwrap_or(0.0) / 1000.0
    }
}

/// Medians of the ratios of turns that had pings, and of those that had none.
fn ratios(timerd: &Counts, floor: &Counts, pinged: bool) -> Option<f64> {
    let turns = timerd.frame_ns.iter().zip(&floor.frame_ns);
    let ratios: Vec<f64> = turns.filter(|(t, _)| t.1 == pinged).map(|(t, f)| t.0 / f.0).collect();
    (!ratios.is_empty()).then(|| median(&ratios))
}

fn report(size: Size, timerd: &Counts, floor: &Counts) {
    let row = |cells: [String; 5]| cells.to_vec();
    let met = |is: bool| if is { "met" } else { "MISSED" };
    say("");
    let groups = size.clients.div_ceil(GROUP);
    say(&format!("{} connections in {groups} groups, a tick each {} ms to everybody", size.clients, size.second_ms));
    let mut rows = vec![row(["", "timerd", "floor", "ratio", "to reach"].map(str::to_owned))];
    let mut add = |name: &str, t: String, f: String, ratio: String, target: String| {
        rows.push(row([name.to_owned(), t, f, ratio, target]));
    };
    let nothing = String::new;
    add("frames/s", format!("{:.0}", timerd.rate()), format!("{:.0}", floor.rate()), nothing(), nothing());
    let quiet = ratios(timerd, floor, false);
    let ratio = quiet.map_or(nothing(), |ratio| format!("{ratio:.3}"));
    let target = quiet.map_or(nothing(), |ratio| format!("<= 1.03 {}", met(ratio <= 1.03)));
    add("CPU a frame, us", format!("{:.3}", timerd.frame_us()), format!("{:.3}", floor.frame_us()), ratio, target);
    if let Some(ratio) = ratios(timerd, floor, true) {
        let pings = format!("{} pings", timerd.pings);
        add("  in turns with the 30 s ping", pings, nothing(), format!("{ratio:.3}"), nothing());
    }
    let delivered = format!("100 {}", met(timerd.heard == timerd.expected));
    add(
        "delivered, %",
        format!("{:.4}", timerd.delivered()),
        format!("{:.4}", floor.delivered()),
        nothing(),
        delivered,
    );
    for (name, part) in [("burst spread, ms: p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
        let (t, f) = (timerd.spread_ms(part), floor.spread_ms(part));
        add(&format!("{name:>21}"), format!("{t:.1}"), format!("{f:.1}"), format!("{:.2}", t / f), nothing());
    }
    if let Some(bytes) = timerd.bytes_a_connection {
        let floor_bytes = floor.bytes_a_connection.unwrap_or(0.0);
        let target = format!("<= 350 {}", met(bytes <= 350.0));
        add("bytes a connection", format!("{bytes:.0}"), format!("{floor_bytes:.0}"), nothing(), target);
    }
    if !timerd.upgrades.is_empty() {
        let pairs = |t: &[f64], f: &[f64]| median(&t.iter().zip(f).map(|(t, f)| t / f).collect::<Vec<_>>());
        let ratio = pairs(&timerd.upgrades, &floor.upgrades);
        let (t, f) = (median(&timerd.upgrades), median(&floor.upgrades));
        let target = format!(">= 0.9 {}", met(ratio >= 0.9));
        add("upgrades/s", format!("{t:.0}"), format!("{f:.0}"), format!("{ratio:.3}"), target);
        let ratio = pairs(&timerd.upgrade_us, &floor.upgrade_us);
        let (t, f) = (median(&timerd.upgrade_us), median(&floor.upgrade_us));
        add("CPU an upgrade, us", format!("{t:.1}"), format!("{f:.1}"), format!("{ratio:.3}"), nothing());
    }
    print_table(&rows);
}
