//! How many commands a second become durable, beside what the disk can do.
//!
//! Each of 1, 8 and 64 keep-alive connections pauses and resumes a timer of its own and waits for each answer, which
//! timerd gives when the change is on the disk. Beside it, in turns with it and in the same directory, the disk's own
//! rate: a small append and fdatasync(2), one after the other. Group commit is what makes the first exceed the
//! second.
//!
//! `cargo bench --bench commit`; `TIMERD_BENCH_SECONDS` (10) is how long each of the four is counted;
//! `TIMERD_BENCH_DIR` is where (default: under `target/`). A file system in memory has nothing to be compared with.

mod rig;

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fs::{fdatasync, statfs};

use rig::{Cores, Daemon, Outcome, median, post_bytes, print_table, say};

/// How many callers there are at a time.
const CALLERS: [usize; 3] = [1, 8, 64];
/// Turns of each measurement.
const TURNS: usize = 5;
/// Bytes of one append: what a command comes to as text, its history entry included.
const APPEND_BYTES: usize = 512;
/// How often the disk's own rate timerd is to reach with the most callers.
const RATIO_TO_REACH: f64 = 10.0;
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection that waits for the answer to its last call.
struct Caller {
    stream: TcpStream,
    path: String,
    pause_next: bool,
    answer: Vec<u8>,
    asked: Instant,
}

/// What was counted with one number of callers.
struct Counts {
    callers: usize,
    /// Calls a second, turn by turn.
    rates: Vec<f64>,
    /// The same over the disk's rate just before.
    ratios: Vec<f64>,
    latency_us: Histogram<u64>,
    /// Bytes that timerd has written, with all that belongs to them.
    written: u64,
    calls: u64,
}

fn main() -> ExitCode {
    match bench() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "commit: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bench() -> Outcome<()> {
    let span = Duration::from_secs_f64(rig::seconds()? / TURNS as f64);
    let cores = Cores::choose()?;
    let place = match std::env::var_os("TIMERD_BENCH_DIR") {
        Some(place) => PathBuf::from(place),
        None => PathBuf::from(env!("CARGO_TARGET_TMPDIR")),
    };
    let directory = tempfile::Builder::new().prefix("commit-").tempdir_in(&place)?;
    say(&rig::machine(cores));
    say(&format!("{} on {}", place.display(), file_system(directory.path())?));
    say(&format!("{} s each, in {TURNS} turns; medians, ratios of neighbouring turns", rig::seconds()?));

    let data = directory.path().join("data");
    let daemon = Daemon::start(&["--data-dir", data.to_str().ok_or("a path that is no text")?], cores.server)?;
    rig::pin(cores.client)?;
    let most = CALLERS.iter().copied().max().unwrap_or(1);
    let mut callers = (0..most).map(|_| Caller::new(&daemon)).collect::<Outcome<Vec<_>>>()?;
    let mut disk = Vec::new();
    let mut counts = Vec::new();
    for callers in CALLERS {
        let latency_us = Histogram::new_with_bounds(1, 60_000_000, 3)?;
        counts.push(Counts { callers, rates: vec![], ratios: vec![], latency_us, written: 0, calls: 0 });
    }
    for _ in 0..TURNS {
        for counts in &mut counts {
            let appends = append(&directory.path().join("appended"), span)?;
            disk.push(appends);
            let written = written_bytes(daemon.pid())?;
            let rate = call(&mut callers[..counts.callers], span, counts)?;
            counts.written += written_bytes(daemon.pid())? - written;
            counts.rates.push(rate);
            counts.ratios.push(rate / appends);
        }
    }
    report(&disk, &counts);
    Ok(())
}

/// Appends and syncs, one after the other, for `span`. Returns how often a second.
fn append(path: &Path, span: Duration) -> Outcome<f64> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    let bytes = [b'.'; APPEND_BYTES];
    let mut appends = 0_u32;
    let begun = Instant::now();
    while begun.elapsed() < span {
        file.write_all(&bytes)?;
        fdatasync(&file)?;
        appends += 1;
    }
    Ok(f64::from(appends) / begun.elapsed().as_secs_f64())
}

/// Lets the callers call for `span`. Returns how many calls a second were answered.
fn call(callers: &mut [Caller], span: Duration, counts: &mut Counts) -> Outcome<f64> {
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    for (index, caller) in callers.iter_mut().enumerate() {
        epoll::add(&epoll, caller.stream.as_fd(), EventData::new_u64(index as u64), EventFlags::IN)?;
    }
    let begun = Instant::now();
    callers.iter_mut().try_for_each(Caller::ask)?;
    let mut waiting = callers.len();
    let mut calls = 0_u32;
    let mut events = Vec::with_capacity(callers.len());
    while waiting > 0 {
        epoll::wait(&epoll, spare_capacity(&mut events), None)?;
        for event in events.drain(..) {
            let caller = &mut callers[usize::try_from(event.data.u64())?];
            if !caller.hear()? {
                continue;
            }
            counts.latency_us.saturating_record(u64::try_from(caller.asked.elapsed().as_micros())?);
            calls += 1;
            if begun.elapsed() < span {
                caller.ask()?;
            } else {
                waiting -= 1;
            }
        }
    }
    counts.calls += u64::from(calls);
    Ok(f64::from(calls) / begun.elapsed().as_secs_f64())
}

impl Caller {
    fn new(daemon: &Daemon) -> Outcome<Self> {
        let id = daemon.create()?;
        let path = format!("/timers/{id}/control");
        daemon.post(&path, r#"{"action":"start"}"#)?;
        let stream = TcpStream::connect(daemon.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Caller { stream, path, pause_next: true, answer: Vec::new(), asked: Instant::now() })
    }

    fn ask(&mut self) -> Outcome<()> {
        let action = if self.pause_next { r#"{"action":"pause"}"# } else { r#"{"action":"resume"}"# };
        self.pause_next = !self.pause_next;
        self.asked = Instant::now();
        Ok(self.stream.write_all(&post_bytes(&self.path, action, true))?)
    }

    /// Reads. Returns whether the answer is whole.
    fn hear(&mut self) -> Outcome<bool> {
        let mut buffer = [0; 4096];
        let bytes = self.stream.read(&mut buffer)?;
        self.answer.extend_from_slice(&buffer[..bytes]);
        let text = std::str::from_utf8(&self.answer)?;
        if bytes == 0 {
            return Err(format!("timerd has hung up: {text}").into());
        }
        let Some((head, body)) = text.split_once("\r\n\r\n") else { return Ok(false) };
        let length =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if Some(body.len()) != length {
            return Ok(false);
        }
        if !head.starts_with("HTTP/1.1 200 ") {
            return Err(format!("{}: {text}", self.path).into());
        }
        self.answer.clear();
        Ok(true)
    }
}

/// Bytes that a process has handed to the file system's disk so far.
fn written_bytes(pid: u32) -> Outcome<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/io"))?;
    let bytes = text.lines().find_map(|line| line.strip_prefix("write_bytes: ")).ok_or("no write_bytes in io")?;
    Ok(bytes.trim().parse()?)
}

/// The name of the file system at `path`, by statfs(2).
fn file_system(path: &Path) -> Outcome<String> {
    let kind = statfs(path)?.f_type;
    Ok(match kind {
        0xef53 => "ext4".to_owned(),
        0x5846_5342 => "xfs".to_owned(),
        0x9123_683e => "btrfs".to_owned(),
        0xf2f5_2010 => "f2fs".to_owned(),
        0x2fc1_2fc1 => "zfs".to_owned(),
        0x794c_7630 => "overlayfs".to_owned(),
        0x0102_1994 => "tmpfs: MEMORY, NOT A DISK; set TIMERD_BENCH_DIR".to_owned(),
        other => format!("a file system of type {other:#x}"),
    })
}

fn report(disk: &[f64], counts: &[Counts]) {
    say("");
    let head = ["", "a second", "x the disk", "p50 ms", "p99 ms", "bytes a call", "to reach"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let mut row = vec![String::new(); head.len()];
    row[0] = format!("append of {APPEND_BYTES} bytes + fdatasync");
    row[1] = format!("{:.0}", median(disk));
    row[2] = "1".to_owned();
    rows.push(row);
    for counts in counts {
        let ratio = median(&counts.ratios);
        let ms = |part| format!("{:.2}", counts.latency_us.value_at_quantile(part) as f64 / 1000.0);
        let most = CALLERS.iter().all(|callers| *callers <= counts.callers);
        let verdict = if ratio >= RATIO_TO_REACH { "met" } else { "MISSED" };
        rows.push(vec![
            format!("durable calls, {} connections", counts.callers),
            format!("{:.0}", median(&counts.rates)),
            format!("{ratio:.2}"),
            ms(0.5),
            ms(0.99),
            format!("{}", counts.written / counts.calls.max(1)),
            if most { format!(">= {RATIO_TO_REACH} {verdict}") } else { String::new() },
        ]);
    }
    print_table(&rows);
}
