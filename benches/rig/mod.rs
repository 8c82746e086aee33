//! What both benches stand on: children pinned to cores, their CPU time and memory as the kernel counts them, a small
//! HTTP client, medians and a table.
//!
//! Nothing here knows what is measured. Figures are the kernel's own (`/proc/PID`), so that a child needs no
//! instrument built in and a foreign server could take a child's place.

#![allow(dead_code, reason = "each bench uses its own part")]
#![allow(unreachable_pub, reason = "a module of a bench, which has no outside")]

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Whatever may go wrong in a bench ends it, with words.
pub type Outcome<T> = Result<T, Box<dyn Error>>;

/// How long a child may take to answer anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// Seconds of each measurement: `TIMERD_BENCH_SECONDS`, else 10. Under `cargo test`, which passes no `--bench`, only
/// as long as shows that the bench works.
pub fn seconds() -> Outcome<f64> {
    match std::env::var("TIMERD_BENCH_SECONDS") {
        Ok(text) => match text.parse() {
            Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(seconds),
            _ => Err(format!("TIMERD_BENCH_SECONDS {text:?}: must be 0.1..3600").into()),
        },
        Err(_) if is_trial() => Ok(0.4),
        Err(_) => Ok(10.0),
    }
}

/// Whether this is no measurement, only the proof that the bench runs.
pub fn is_trial() -> bool {
    !std::env::args().any(|arg| arg == "--bench")
}

// ---------------------------------------------------------------------------------------------------------------
// Cores.

/// The two cores of a measurement. On a machine with one they are the same, and the figures worth little.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    /// Where the server under test runs.
    pub server: usize,
    /// Where its clients run.
    pub client: usize,
}

impl Cores {
    /// The first and the last core that this process may use.
    pub fn choose() -> Outcome<Self> {
        let allowed = sched_getaffinity(None)?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        let server = cores.next().ok_or("no core to run on")?;
        Ok(Cores { server, client: cores.next_back().unwrap_or(server) })
    }
}

/// Binds the calling thread, and what it starts from here on, to one core.
pub fn pin(core: usize) -> Outcome<()> {
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}

/// Starts `command` bound to `core`: it inherits what this thread is bound to meanwhile.
fn spawn_pinned(command: &mut Command, core: usize) -> Outcome<Child> {
    let before = sched_getaffinity(None)?;
    pin(core)?;
    let child = command.spawn();
    sched_setaffinity(None, &before)?;
    Ok(child?)
}

/// Raises the limit of open descriptors as far as it goes, and returns it.
pub fn raise_descriptor_limit() -> Outcome<u64> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(maximum.unwrap_or(u64::MAX))
}

// ---------------------------------------------------------------------------------------------------------------
// Children.

/// A child that is told what to do line by line and answers each line with one. Killed when dropped.
pub struct Helper {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Helper {
    /// Starts this very program in another role.
    pub fn start(role: &[&str], core: usize) -> Outcome<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(role).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = spawn_pinned(&mut command, core)?;
        let answers = BufReader::new(child.stdout.take().ok_or("a child without output")?);
        Ok(Helper { child, answers })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells it something and waits for the answer.
    pub fn ask(&mut self, line: &str) -> Outcome<String> {
        let input = self.child.stdin.as_mut().ok_or("a child without input")?;
        writeln!(input, "{line}")?;
        input.flush()?;
        self.answer()
    }

    /// Waits for its next line.
    pub fn answer(&mut self) -> Outcome<String> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err("a child of the bench has ended early; its reason stands above".into());
        }
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running timerd. Ended by SIGTERM when dropped.
pub struct Daemon {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Daemon {
    /// Starts the built binary (`TIMERD_BENCH_BINARY`: another one, to compare builds) on a free port of 127.0.0.1,
    /// with further flags; it says warnings only.
    pub fn start(flags: &[&str], core: usize) -> Outcome<Self> {
        // A quiet daemon does not say its port, so it is given one that was free a moment ago.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let built = env!("CARGO_BIN_EXE_timerd").into();
        let mut command = Command::new(std::env::var_os("TIMERD_BENCH_BINARY").unwrap_or(built));
        command.env_clear().args(["--log-level", "warn", "--listen", &address.to_string()]).args(flags);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = spawn_pinned(&mut command, core)?;
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            if let Some(status) = child.try_wait()? {
                return Err(format!("timerd has ended at once: {status}").into());
            }
            if begun.elapsed() > PATIENCE {
                return Err("timerd does not listen".into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Daemon { child, address })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Posts `body`; returns the body of a success.
    pub fn post(&self, path: &str, body: &str) -> Outcome<String> {
        self.send(&request_bytes("POST", path, body, false), path)
    }

    /// Puts `body`; returns the body of a success.
    pub fn put(&self, path: &str, body: &str) -> Outcome<String> {
        self.send(&request_bytes("PUT", path, body, false), path)
    }

    fn send(&self, request: &[u8], path: &str) -> Outcome<String> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(request)?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        match text.split_once("\r\n\r\n") {
            Some((head, body)) if head.starts_with("HTTP/1.1 2") => Ok(body.to_owned()),
            _ => Err(format!("{path}: {text}").into()),
        }
    }

    /// Creates a timer of a day that warns of nothing; returns its id.
    pub fn create(&self) -> Outcome<String> {
        let body = self.post("/timers", r#"{"duration_seconds":86400,"warning_thresholds":[]}"#)?;
        let timer: serde_json::Value = serde_json::from_str(&body)?;
        Ok(timer["id"].as_str().ok_or("a timer without id")?.to_owned())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw);
        // It may have ended already.
        let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
        let _ = self.child.wait();
    }
}

/// A POST with a JSON body.
pub fn post_bytes(path: &str, body: &str, keep_alive: bool) -> Vec<u8> {
    request_bytes("POST", path, body, keep_alive)
}

fn request_bytes(method: &str, path: &str, body: &str, keep_alive: bool) -> Vec<u8> {
    let connection = if keep_alive { "" } else { "Connection: close\r\n" };
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{connection}\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

// ---------------------------------------------------------------------------------------------------------------
// The kernel's figures.

/// CPU time that a process has used so far, user and system, all threads, in nanoseconds. Exact while it sleeps.
///
/// `schedstat` counts in nanoseconds, where `stat` counts in ticks of 10 ms.
pub fn cpu_ns(pid: u32) -> Outcome<u64> {
    let mut sum = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        sum += text.split(' ').next().unwrap_or_default().parse::<u64>()?;
    }
    Ok(sum)
}

/// Bytes of memory that are a process's own: anonymous and in RAM.
pub fn anonymous_bytes(pid: u32) -> Outcome<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line =
        text.lines().find_map(|line| line.strip_prefix("Anonymous:")).ok_or("no Anonymous: in smaps_rollup")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// One line about the machine.
pub fn machine(cores: Cores) -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let shared = if cores.server == cores.client { " (ONE CORE FOR BOTH: figures are worth little)" } else { "" };
    format!(
        "{}, Linux {}, server on core {}, client on core {}{shared}",
        model.trim_start_matches([' ', '\t', ':']),
        kernel.trim(),
        cores.server,
        cores.client
    )
}

// ---------------------------------------------------------------------------------------------------------------
// Results.

/// The middle one; of an even number the mean of the two in the middle; 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match sorted.as_slice() {
        [] => 0.0,
        _ if sorted.len() % 2 == 1 => sorted[half],
        _ => sorted[half - 1].midpoint(sorted[half]),
    }
}

/// Prints rows under each other, the first column to the left, the others to the right.
pub fn print_table(rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate();
        let line: Vec<String> = cells
            .map(|(n, (cell, width))| if n == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") })
            .collect();
        say(line.join("  ").trim_end());
    }
}

/// Prints a line of the report.
#[allow(clippy::print_stdout, reason = "the report of a bench is what it prints")]
pub fn say(line: &str) {
    println!("{line}");
}
