//! Configuration: command line and environment, read once.
//!
//! Owns the flags, their `TIMERD_*` variables (one definition for both, which is also `--help`), the subcommands, and
//! the rule that decides whether callers need a key. It is the only reader of the environment; what others need of it
//! they find in [`Config`]. It must not open sockets or the store, and nothing in it changes after start-up.
//!
//! Invariants: a [`Config`] that exists is within every range of `limits`; whatever is wrong is told on one line that
//! names the option, or the variable if the value came from there, the value, and what is allowed, with exit code 2;
//! a key is in no message. An empty variable counts as unset, as in systemd's environment files.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::api::rates::{Rate, Rates};
use crate::domain::absence::Outage;
use crate::keys::{self, KeySource, Keys, Role};
use crate::{client, limits, logging};

/// Milliseconds that a timer's second may last.
const SECOND_MS_MIN: u32 = 100;
/// Milliseconds of a second.
const SECOND_MS_DEFAULT: u32 = 1000;
/// The longest time to keep anything, short of forever: a century.
const KEEP_MAX: Duration = Duration::from_secs(36_500 * 86_400);
/// The exit code of everything that is wrong with the configuration.
const EXIT_CONFIG: u8 = 2;

/// How the daemon is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The addresses to listen on, at least one, at most `limits::LISTENERS_MAX`. Port 0 lets the kernel choose.
    pub listen: Vec<SocketAddr>,
    /// Whether `listen` was asked for; beside inherited sockets that is an error, see [`Config::listen_origin`].
    pub listen_given: bool,
    /// What `listen` came from, for messages: `--listen` or `TIMERD_LISTEN`.
    pub listen_origin: &'static str,
    /// Where the data lives.
    pub data: DataDir,
    /// How a time without the daemon counts for running timers.
    pub outage: Outage,
    /// Milliseconds that a timer's second lasts, 100..1000; other than 1000 only for load tests, never with a store.
    pub second_ms: u32,
    /// Whether keys were asked for, even on loopback.
    pub require_auth: bool,
    /// Whether listening beyond loopback without keys was permitted.
    pub open: bool,
    /// Where keys come from.
    pub keys: KeySource,
    /// The peers whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpAddr>,
    /// The origins whose pages may call, as browsers send them; empty means any.
    pub cors_origins: Vec<String>,
    /// Clients of one timer, 1..`limits::CLIENTS_PER_TIMER_CEILING`.
    pub clients_per_timer: u32,
    /// Timers held, finished ones included, 1..`limits::TIMERS_MAX_CEILING`.
    pub timers_max: u32,
    /// Sessions held, ended ones included, 1..`limits::SESSIONS_MAX_CEILING`.
    pub sessions_max: u32,
    /// Whether only candidates are admitted who have been put.
    pub known_candidates_only: bool,
    /// Whether candidates need no key.
    pub open_candidates: bool,
    /// Whether there are rooms.
    pub rooms: bool,
    /// How long somebody has to come back to his room, 1 s to `limits::ROOM_SPAN_MAX`.
    pub room_leave: Duration,
    /// How long a room without anybody is kept, as long.
    pub room_empty: Duration,
    /// Connections served at a time, 1..`limits::CONNECTIONS_MAX_CEILING`.
    pub connections_max: u32,
    /// How long a finished timer, or an ended session, keeps its place; none means forever.
    pub keep_finished: Option<Duration>,
    /// How long history is kept; none means forever.
    pub keep_history: Option<Duration>,
    /// How long the results of sessions are kept; none means forever.
    pub keep_results: Option<Duration>,
    /// How long events are kept; none means forever.
    pub keep_events: Option<Duration>,
    /// How many events are kept; none means all.
    pub keep_events_max: Option<u64>,
    /// How often one address may call the events' routes.
    pub rates: Rates,
    /// Sockets of publishers and subscribers that one address may have open; none means any number.
    pub sockets_per_address: Option<u32>,
    /// The least important level that is logged.
    pub log_level: log::LevelFilter,
    /// A file that goes before it.
    pub log_level_file: Option<PathBuf>,
    /// The form of log lines.
    pub log_format: logging::Format,
}

/// Where the data lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataDir {
    /// Nowhere: everything ends with the process.
    Ephemeral,
    /// In this directory.
    Directory(PathBuf),
}

/// What the command line asks for.
#[derive(Clone, Debug)]
pub enum Invocation {
    /// Run the daemon.
    Serve(Config),
    /// Check the configuration, say what it comes to, and end.
    CheckConfig(Config),
    /// Show a timer in the terminal.
    Watch(client::watch::Options),
    /// Follow events in the terminal.
    Events(client::events::Options),
    /// Publish events from a file.
    Publish(client::publish::Options),
    /// Load assessments, watch who sits them, fetch results.
    Exam(client::exam::Action),
    /// Make a key and print it with its line for the keys file.
    NewKey {
        /// The key's name, already checked.
        name: String,
        /// Its role.
        role: Role,
    },
}

/// What to print instead of running, and the exit code: help and version on stdout with 0, one line about a mistake
/// on stderr with 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The whole text, ending with a line feed.
    pub text: String,
    /// The process's exit code.
    pub code: u8,
}

impl Exit {
    /// A mistake in the configuration: `what` on one line of stderr, exit code 2.
    pub fn config(what: &str) -> Exit {
        Exit { text: format!("timerd: {}\n", one_line(what)), code: EXIT_CONFIG }
    }

    /// Prints the text to where it belongs; the code to end with.
    pub fn report(&self) -> ExitCode {
        // A closed pipe is the reader's wish.
        let _ = match self.code {
            0 => std::io::stdout().write_all(self.text.as_bytes()),
            _ => std::io::stderr().write_all(self.text.as_bytes()),
        };
        ExitCode::from(self.code)
    }
}

/// Whether callers need a key, and the keys there are.
#[derive(Clone, Debug)]
pub struct Access {
    /// Whether a call that is not open to all needs a key.
    pub keys_required: bool,
    /// The keys; a caller who presents one is known by its name even when none is required.
    pub keys: Keys,
}

/// Reads the command line, `args` beginning with the program's name, and the environment.
///
/// # Errors
/// What to print instead of running: help, the version, or one line about the first mistake.
pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Invocation, Exit> {
    parse_within(args.collect(), &Surroundings::read())
}

/// Decides whether keys are required when listening on `bound`, inherited sockets included, and loads the keys.
///
/// Beyond loopback they are, unless `--open` was given; `--require-auth` asks for them anywhere.
///
/// # Errors
/// One line when keys are required and there is none, with the ways out, or when the keys cannot be read. The exit
/// code for it is 2.
pub fn access(config: &Config, bound: &[SocketAddr]) -> Result<Access, String> {
    let keys = keys::load(&config.keys)?;
    let beyond = bound.iter().find(|address| !address.ip().to_canonical().is_loopback());
    match beyond {
        _ if config.require_auth && keys.is_empty() => {
            let found = if keys.file.is_some() { "the keys file has none" } else { "there is none" };
            Err(format!("--require-auth needs a key, and {found}: give --keys-file FILE or API_KEY"))
        }
        Some(address) if keys.is_empty() && !config.open => Err(format!(
            "{address} is beyond loopback and there is no key, so everybody who reaches it could control the clock: \
             give keys with --keys-file FILE (timerd key new NAME ROLE makes one) or permit it with --open"
        )),
        _ => Ok(Access { keys_required: config.require_auth || (beyond.is_some() && !config.open), keys }),
    }
}

impl Config {
    /// The least important level that is logged, as the file says now, if there is one.
    ///
    /// # Errors
    /// When the file cannot be read, or holds no level.
    pub fn log_level_now(&self) -> Result<log::LevelFilter, String> {
        let Some(file) = &self.log_level_file else { return Ok(self.log_level) };
        match std::fs::read_to_string(file) {
            Ok(text) => text.trim().parse().map_err(|_| {
                let text: String = text.trim().chars().take(40).collect();
                format!("{} '{text}': must be error, warn, info, debug or trace", file.display())
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(self.log_level),
            Err(error) => Err(format!("{}: {error}", file.display())),
        }
    }

    /// What the configuration comes to, one `option: value` a line, for `check-config`.
    pub fn summary(&self) -> String {
        let listed =
            |items: Vec<String>, none: &str| if items.is_empty() { none.to_owned() } else { items.join(", ") };
        let data = match &self.data {
            DataDir::Ephemeral => "kept in memory only (--ephemeral)".to_owned(),
            DataDir::Directory(path) => path.display().to_string(),
        };
        let outage = match self.outage {
            Outage::RunOn => "run-on",
            Outage::Freeze => "freeze",
        };
        let mut key_sources = Vec::new();
        key_sources.extend(self.keys.file.as_ref().map(|path| path.display().to_string()));
        key_sources.extend(self.keys.api_key.as_ref().map(|_| "API_KEY".to_owned()));
        let rows = [
            ("listen", listed(self.listen.iter().map(ToString::to_string).collect(), "")),
            ("data", data),
            ("outage", outage.to_owned()),
            ("second-ms", self.second_ms.to_string()),
            ("require-auth", self.require_auth.to_string()),
            ("open", self.open.to_string()),
            ("open-candidates", self.open_candidates.to_string()),
            ("known-candidates-only", self.known_candidates_only.to_string()),
            ("rooms", if self.rooms { "on" } else { "off" }.to_owned()),
            ("room-leave", span_text(self.room_leave)),
            ("room-empty", span_text(self.room_empty)),
            ("keys", listed(key_sources, "none")),
            ("trusted-proxy", listed(self.trusted_proxies.iter().map(ToString::to_string).collect(), "none")),
            ("cors-origin", listed(self.cors_origins.clone(), "*")),
            ("clients-per-timer", self.clients_per_timer.to_string()),
            ("max-timers", self.timers_max.to_string()),
            ("max-sessions", self.sessions_max.to_string()),
            ("max-connections", self.connections_max.to_string()),
            ("keep-finished", keep_text(self.keep_finished)),
            ("keep-history", keep_text(self.keep_history)),
            ("keep-results", keep_text(self.keep_results)),
            ("keep-events", keep_text(self.keep_events)),
            ("keep-events-max", self.keep_events_max.map_or("all".into(), |most| most.to_string())),
            ("rate-publish", self.rates.publish.to_string()),
            ("rate-query", self.rates.query.to_string()),
            ("rate-admin", self.rates.admin.to_string()),
            ("rate-rooms", self.rates.rooms.to_string()),
            ("ws-per-address", Most(self.sockets_per_address).to_string()),
            ("log-level", self.log_level.to_string().to_lowercase()),
            ("log-level-file", self.log_level_file.as_ref().map_or("none".into(), |file| file.display().to_string())),
            ("log-format", format!("{:?}", self.log_format).to_lowercase()),
        ];
        rows.iter().fold(String::new(), |mut text, (name, value)| {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{name:<22} {value}");
            text
        })
    }
}

// ---------------------------------------------------------------------------------------------------------------
// The definition: flags, variables and help in one.

/// timerd keeps the clock of exam rooms, countdowns that the server owns, delivers the exams, and keeps their events.
/// All are driven over REST and followed over WebSocket.
///
/// Without a command it serves: in the foreground, logging to stderr, until SIGTERM or Ctrl-C. SIGHUP reloads
/// keys and log level. Every option can be given as a variable, too; the option wins.
#[derive(Parser)]
#[command(
    name = "timerd",
    version,
    max_term_width = 100,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    after_long_help = "Environment:\n  \
        API_KEY                One key, an admin's, beside those of the keys file\n  \
        STATE_DIRECTORY        Set by systemd (StateDirectory=): the data directory unless one is given\n  \
        CREDENTIALS_DIRECTORY  Set by systemd (LoadCredential=): its file `keys` is the keys file\n\
        \nAn empty variable counts as unset; for an option without a value it is true or false. \
        A mistake in an option or a variable ends timerd with exit code 2."
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Action>,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Subcommand)]
enum Action {
    /// Show a live countdown of a timer in the terminal
    Watch(client::watch::Options),
    /// Follow events as they come, or from any of them on
    Events(client::events::Options),
    /// Publish events from a file of newline-delimited JSON, or from stdin
    Publish(client::publish::Options),
    /// Load assessments, watch who sits them, fetch results
    Exam {
        #[command(subcommand)]
        action: client::exam::Action,
    },
    /// Check options, variables and keys, say what they come to, and end without serving
    CheckConfig(Flags),
    /// Make keys
    Key {
        #[command(subcommand)]
        action: KeyAction,
    },
}

#[derive(Subcommand)]
enum KeyAction {
    /// Print a new key, once, and its line for the keys file
    New {
        /// Who holds the key: 1..64 of A-Z a-z 0-9 _ . -, shown in the history as the actor
        #[arg(value_parser = key_name)]
        name: String,
        /// viewer (reads one timer, sits exams), instructor (also controls timers, runs exams, publishes and reads
        /// events) or admin (also deletes events, reads metrics)
        #[arg(value_parser = Role::from_str)]
        role: Role,
    },
}

#[derive(Args)]
struct Flags {
    /// Address and port to serve on; repeat it, or put commas between, for several
    ///
    /// An IPv6 address stands in brackets: `[::1]:8003`. Beyond loopback keys are required, see --open. Cannot be
    /// used beside sockets inherited from systemd.
    #[arg(long, env = "TIMERD_LISTEN", value_name = "ADDR:PORT", default_value = "127.0.0.1:8003")]
    #[arg(value_delimiter = ',', value_parser = listen_address, help_heading = "Listening")]
    listen: Vec<SocketAddr>,

    /// Origin whose web pages may call the API; repeat it, or put commas between, for several
    ///
    /// As browsers send it: `https://exams.example.org`. A star means any.
    #[arg(long, env = "TIMERD_CORS_ORIGIN", value_name = "ORIGIN", default_value = "*")]
    #[arg(value_delimiter = ',', value_parser = cors_origin, help_heading = "Listening")]
    cors_origin: Vec<String>,

    /// Address of a proxy whose X-Forwarded-For names the client; repeat it, or put commas between, for several
    #[arg(long, env = "TIMERD_TRUSTED_PROXY", value_name = "ADDR")]
    #[arg(value_delimiter = ',', value_parser = proxy_address, help_heading = "Listening")]
    trusted_proxy: Vec<IpAddr>,

    /// Directory of the store; created when missing [default: ./timerd-data]
    #[arg(long, env = "TIMERD_DATA_DIR", value_name = "DIR", help_heading = "Store")]
    data_dir: Option<PathBuf>,

    /// Keep nothing: timers, exams and events live in memory and end with the process
    #[arg(long, env = "TIMERD_EPHEMERAL", help_heading = "Store", value_parser = boolean)]
    ephemeral: bool,

    /// How long history is kept: 90d, or forever (units s, m, h, d, w)
    #[arg(long, env = "TIMERD_KEEP_HISTORY", value_name = "DURATION", default_value = "forever")]
    #[arg(value_parser = keep, help_heading = "Store")]
    keep_history: Keep,

    /// How long the results of exam sessions are kept, counted from their end: 365d, or forever (units s, m, h, d, w)
    ///
    /// Answers are personal data: older ones are deleted for good, once their session no longer keeps its place.
    #[arg(long, env = "TIMERD_KEEP_RESULTS", value_name = "DURATION", default_value = "forever")]
    #[arg(value_parser = keep, help_heading = "Store")]
    keep_results: Keep,

    /// How long events are kept, by their timestamps: 90d, or forever (units s, m, h, d, w)
    ///
    /// Older ones are deleted for good. Whoever has not read them yet is told so (410, or close 4010).
    #[arg(long, env = "TIMERD_KEEP_EVENTS", value_name = "DURATION", default_value = "forever")]
    #[arg(value_parser = keep, help_heading = "Store")]
    keep_events: Keep,

    /// How many events are kept; the oldest are deleted first [default: all]
    #[arg(long, env = "TIMERD_KEEP_EVENTS_MAX", value_name = "N", help_heading = "Store")]
    #[arg(value_parser = |text: &str| number(text, 1, u32::MAX))]
    keep_events_max: Option<u32>,

    /// What a time without the daemon (crash, reboot) means for running timers and sessions
    ///
    /// run-on: the exam's clock went on. freeze: it counts as a pause.
    #[arg(long, env = "TIMERD_OUTAGE", value_name = "POLICY", default_value = "run-on", help_heading = "Timers")]
    #[arg(value_parser = PossibleValuesParser::new(["run-on", "freeze"]).map(outage))]
    outage: Outage,

    /// How long a finished timer, or an ended exam session, keeps its place: 7d, or forever (units s, m, h, d, w)
    #[arg(long, env = "TIMERD_KEEP_FINISHED", value_name = "DURATION", default_value_t = Keep::FINISHED)]
    #[arg(value_parser = keep, help_heading = "Timers")]
    keep_finished: Keep,

    /// Whether teams can share a countdown: anybody who reaches the port can make a room, and no key is asked for
    #[arg(long, env = "TIMERD_ROOMS", value_name = "ON", default_value = "on", help_heading = "Rooms")]
    #[arg(value_parser = PossibleValuesParser::new(["on", "off"]).map(|text| Switch(text == "on")))]
    rooms: Switch,

    /// How long somebody whose line is lost has to come back before he has left: 1s..24h (units s, m, h)
    #[arg(long, env = "TIMERD_ROOM_LEAVE", value_name = "DURATION", help_heading = "Rooms")]
    #[arg(default_value_t = Span(limits::ROOM_LEAVE_DEFAULT), value_parser = span)]
    room_leave: Span,

    /// How long a room without anybody is kept: 1s..24h (units s, m, h)
    #[arg(long, env = "TIMERD_ROOM_EMPTY", value_name = "DURATION", help_heading = "Rooms")]
    #[arg(default_value_t = Span(limits::ROOM_EMPTY_DEFAULT), value_parser = span)]
    room_empty: Span,

    /// Ask for keys on loopback, too
    #[arg(long, env = "TIMERD_REQUIRE_AUTH", help_heading = "Access", value_parser = boolean)]
    require_auth: bool,

    /// File of keys, one name:role:sha256 a line; see `timerd key new`
    #[arg(long, env = "TIMERD_KEYS_FILE", value_name = "FILE", help_heading = "Access")]
    keys_file: Option<PathBuf>,

    /// Ask nobody for a key, even beyond loopback: whoever reaches the port controls the clock and reads the events
    #[arg(long, env = "TIMERD_OPEN", help_heading = "Access", value_parser = boolean)]
    open: bool,

    /// Let candidates sit exams without a key, even where keys are asked for: a session's id is theirs alone
    #[arg(long, env = "TIMERD_OPEN_CANDIDATES", help_heading = "Access", value_parser = boolean)]
    open_candidates: bool,

    /// Admit only candidates who have been put by PUT /delivery/candidates/ID
    #[arg(long, env = "TIMERD_KNOWN_CANDIDATES_ONLY", help_heading = "Access", value_parser = boolean)]
    known_candidates_only: bool,

    /// Clients of one timer; those with an instructor's key do not count
    #[arg(long, env = "TIMERD_CLIENTS_PER_TIMER", value_name = "N", help_heading = "Limits")]
    #[arg(default_value_t = limits::CLIENTS_PER_TIMER_DEFAULT)]
    #[arg(value_parser = |text: &str| number(text, 1, limits::CLIENTS_PER_TIMER_CEILING))]
    clients_per_timer: u32,

    /// Timers held, finished ones included
    #[arg(long, env = "TIMERD_MAX_TIMERS", value_name = "N", help_heading = "Limits")]
    #[arg(default_value_t = limits::TIMERS_MAX_DEFAULT)]
    #[arg(value_parser = |text: &str| number(text, 1, limits::TIMERS_MAX_CEILING))]
    max_timers: u32,

    /// Exam sessions held, ended ones included
    #[arg(long, env = "TIMERD_MAX_SESSIONS", value_name = "N", help_heading = "Limits")]
    #[arg(default_value_t = limits::SESSIONS_MAX_DEFAULT)]
    #[arg(value_parser = |text: &str| number(text, 1, limits::SESSIONS_MAX_CEILING))]
    max_sessions: u32,

    /// Connections served at a time; the process's limit of open files must allow it
    #[arg(long, env = "TIMERD_MAX_CONNECTIONS", value_name = "N", help_heading = "Limits")]
    #[arg(default_value_t = limits::CONNECTIONS_MAX_DEFAULT)]
    #[arg(value_parser = |text: &str| number(text, 1, limits::CONNECTIONS_MAX_CEILING))]
    max_connections: u32,

    /// Events that one address may publish over REST: N/second, N/minute, N/hour, or off
    ///
    /// A window begins with the first call; one call too many gets 429 with Retry-After. An IPv6 address counts by
    /// its first 64 bits. Publishing over the WebSocket is not limited.
    #[arg(long, env = "TIMERD_RATE_PUBLISH", value_name = "RATE", help_heading = "Limits")]
    #[arg(default_value_t = Rates::default().publish, value_parser = Rate::from_str)]
    rate_publish: Rate,

    /// Calls by which one address may read events or their figures, in the same form
    #[arg(long, env = "TIMERD_RATE_QUERY", value_name = "RATE", help_heading = "Limits")]
    #[arg(default_value_t = Rates::default().query, value_parser = Rate::from_str)]
    rate_query: Rate,

    /// Calls by which one address may delete events, in the same form
    #[arg(long, env = "TIMERD_RATE_ADMIN", value_name = "RATE", help_heading = "Limits")]
    #[arg(default_value_t = Rates::default().admin, value_parser = Rate::from_str)]
    rate_admin: Rate,

    /// Rooms that one address may make, in the same form
    #[arg(long, env = "TIMERD_RATE_ROOMS", value_name = "RATE", help_heading = "Limits")]
    #[arg(default_value_t = Rates::default().rooms, value_parser = Rate::from_str)]
    rate_rooms: Rate,

    /// WebSockets that one address may have open to publish and subscribe, or off; those of timers do not count
    #[arg(long, env = "TIMERD_WS_PER_ADDRESS", value_name = "N", help_heading = "Limits")]
    #[arg(default_value_t = Most(Some(limits::EVENT_SOCKETS_PER_ADDRESS)), value_parser = most)]
    ws_per_address: Most,

    /// Least important level that is logged
    #[arg(long, env = "TIMERD_LOG_LEVEL", value_name = "LEVEL", default_value = "info", help_heading = "Logging")]
    #[arg(value_parser = PossibleValuesParser::new(["error", "warn", "info", "debug", "trace"]).map(log_level))]
    log_level: log::LevelFilter,

    /// A file with the level in it, which goes before --log-level; it may be missing, and SIGHUP reads it again
    #[arg(long, env = "TIMERD_LOG_LEVEL_FILE", value_name = "FILE", help_heading = "Logging")]
    log_level_file: Option<PathBuf>,

    /// Form of log lines
    #[arg(long, env = "TIMERD_LOG_FORMAT", value_name = "FORMAT", default_value = "auto", help_heading = "Logging")]
    #[arg(value_enum)]
    log_format: logging::Format,

    /// Milliseconds that a timer's second lasts, 100..1000, for load tests; needs --ephemeral [default: 1000]
    #[arg(long, env = "TIMERD_SECOND_MS", value_name = "N", help_heading = "Testing")]
    #[arg(value_parser = |text: &str| number(text, SECOND_MS_MIN, SECOND_MS_DEFAULT))]
    second_ms: Option<u32>,
}

/// A time to keep something; none means forever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Keep(Option<Duration>);

impl Keep {
    const FINISHED: Keep = Keep(Some(limits::KEEP_FINISHED_DEFAULT));
}

impl std::fmt::Display for Keep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&keep_text(self.0))
    }
}

/// On or off, as a word: the type keeps clap from taking it for a flag without one.
#[derive(Clone, Copy, Debug)]
struct Switch(bool);

/// How long something lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span(Duration);

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&span_text(self.0))
    }
}

fn span(text: &str) -> Result<Span, &'static str> {
    let time = time(text).filter(|time| (Duration::from_secs(1)..=limits::ROOM_SPAN_MAX).contains(time));
    time.map(Span).ok_or("must be a whole number with a unit of s, m or h (such as 30s), 1s..24h")
}

/// At most so many; none means any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Most(Option<u32>);

impl std::fmt::Display for Most {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(most) => most.fmt(f),
            None => f.write_str("off"),
        }
    }
}

fn most(text: &str) -> Result<Most, String> {
    if text == "off" {
        return Ok(Most(None));
    }
    let most = number(text, 1, limits::CONNECTIONS_MAX_CEILING);
    most.map(|most| Most(Some(most))).map_err(|why| format!("{why}, or off"))
}

const KEEP_UNITS_S: [(char, u64); 5] = [('w', 604_800), ('d', 86_400), ('h', 3600), ('m', 60), ('s', 1)];

fn keep_text(time: Option<Duration>) -> String {
    time.map_or_else(|| "forever".to_owned(), span_text)
}

fn span_text(time: Duration) -> String {
    let seconds = time.as_secs();
    // Days rather than weeks: 7d is how people and the contract say it.
    let unit = KEEP_UNITS_S.iter().skip(1).find(|(_, unit)| seconds.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{seconds}s"), |(letter, unit)| format!("{}{letter}", seconds / unit))
}

fn keep(text: &str) -> Result<Keep, String> {
    if text == "forever" {
        return Ok(Keep(None));
    }
    match time(text) {
        Some(time) if !time.is_zero() && time <= KEEP_MAX => Ok(Keep(Some(time))),
        _ => Err("must be a whole number with a unit of s, m, h, d or w (such as 7d), 1s..36500d, or forever".into()),
    }
}

fn time(text: &str) -> Option<Duration> {
    let (end, letter) = text.char_indices().next_back()?;
    let (_, unit) = KEEP_UNITS_S.iter().find(|(known, _)| *known == letter)?;
    digits(text.get(..end)?)?.checked_mul(*unit).map(Duration::from_secs)
}

fn number(text: &str, min: u32, max: u32) -> Result<u32, String> {
    let value = digits(text).and_then(|value| u32::try_from(value).ok());
    value.filter(|value| (min..=max).contains(value)).ok_or_else(|| format!("must be {min}..{max}"))
}

/// A number of digits only: `+5` and ` 5` are typing errors.
fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn boolean(text: &str) -> Result<bool, &'static str> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" => Ok(false),
        _ => Err("must be true, false, 1, 0, yes or no"),
    }
}

fn listen_address(text: &str) -> Result<SocketAddr, &'static str> {
    text.trim().parse().map_err(|_| "must be an IP address and a port, such as 127.0.0.1:8003 or [::1]:8003")
}

fn proxy_address(text: &str) -> Result<IpAddr, &'static str> {
    text.trim().parse().map_err(|_| "must be an IP address without a port")
}

/// An origin as RFC 6454 section 6.2 writes it, which is how browsers send it: lower case, no default port, no path.
fn cors_origin(text: &str) -> Result<String, &'static str> {
    const ALLOWED: &str = "must be * or an origin such as https://exams.example.org, without a path";
    let origin = text.trim().to_ascii_lowercase();
    if origin == "*" {
        return Ok(origin);
    }
    let (scheme, host) = origin.split_once("://").ok_or(ALLOWED)?;
    let default_port = match scheme {
        "https" => ":443",
        "http" => ":80",
        _ => return Err(ALLOWED),
    };
    let host = host.strip_suffix(default_port).unwrap_or(host);
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
    if host.is_empty() || host.starts_with(':') || host.ends_with(':') || !host.chars().all(known) {
        return Err(ALLOWED);
    }
    Ok(format!("{scheme}://{host}"))
}

fn key_name(text: &str) -> Result<String, String> {
    keys::check_name(text).map(|()| text.to_owned())
}

// The possible values are checked before these are asked.

fn outage(text: String) -> Outage {
    if text == "freeze" { Outage::Freeze } else { Outage::RunOn }
}

fn log_level(text: String) -> log::LevelFilter {
    text.parse().unwrap_or(log::LevelFilter::Info)
}

// ---------------------------------------------------------------------------------------------------------------
// From arguments to an invocation.

/// What is read of the environment beside the options' own variables.
#[derive(Default)]
struct Surroundings {
    api_key: Option<OsString>,
    state_directory: Option<OsString>,
    credentials_directory: Option<OsString>,
    /// For the clients: whether colours are unwelcome, <https://no-color.org>, and the cursor cannot be moved.
    terminal: client::Terminal,
}

impl Surroundings {
    fn read() -> Surroundings {
        let filled = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        Surroundings {
            api_key: filled("API_KEY"),
            state_directory: filled("STATE_DIRECTORY"),
            credentials_directory: filled("CREDENTIALS_DIRECTORY"),
            terminal: client::Terminal {
                no_color: filled("NO_COLOR").is_some(),
                is_dumb: filled("TERM").is_none_or(|term| term == "dumb"),
            },
        }
    }
}

fn parse_within(args: Vec<OsString>, around: &Surroundings) -> Result<Invocation, Exit> {
    let definition = without_empty_variables(Cli::command());
    let matches =
        definition.clone().try_get_matches_from(&args).map_err(|error| exit_of(&error, &definition, &args))?;
    let cli = Cli::from_arg_matches(&matches).map_err(|error| exit_of(&error, &definition, &args))?;
    match cli.command {
        None => config_of(cli.flags, &matches, around).map(Invocation::Serve),
        Some(Action::CheckConfig(flags)) => {
            let matches = matches.subcommand_matches("check-config").unwrap_or(&matches);
            config_of(flags, matches, around).map(Invocation::CheckConfig)
        }
        Some(Action::Watch(mut options)) => {
            options.terminal = around.terminal;
            Ok(Invocation::Watch(options))
        }
        Some(Action::Events(mut options)) => {
            options.terminal = around.terminal;
            Ok(Invocation::Events(options))
        }
        Some(Action::Publish(mut options)) => {
            options.terminal = around.terminal;
            Ok(Invocation::Publish(options))
        }
        Some(Action::Exam { action }) => Ok(Invocation::Exam(action.on(around.terminal))),
        Some(Action::Key { action: KeyAction::New { name, role } }) => Ok(Invocation::NewKey { name, role }),
    }
}

/// The definition without the variables that are set to nothing.
fn without_empty_variables(definition: Command) -> Command {
    let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    definition
        .mut_args(|arg| if arg.get_env().is_some_and(is_empty) { arg.env(None::<&'static str>) } else { arg })
        .mut_subcommands(without_empty_variables)
}

fn config_of(flags: Flags, matches: &ArgMatches, around: &Surroundings) -> Result<Config, Exit> {
    // `id` is the field's name, from which clap makes the option's.
    let from_variable = |id: &str| matches.value_source(id) == Some(ValueSource::EnvVariable);
    let name = |id: &str| {
        if from_variable(id) {
            format!("TIMERD_{}", id.to_uppercase())
        } else {
            format!("--{}", id.replace('_', "-"))
        }
    };
    let refused = |id: &str, value: &str, what: &str| Err(Exit::config(&format!("{} '{value}': {what}", name(id))));

    if flags.listen.len() > limits::LISTENERS_MAX {
        let what = format!("must be at most {} addresses", limits::LISTENERS_MAX);
        return refused("listen", &flags.listen.len().to_string(), &what);
    }
    for (index, address) in flags.listen.iter().enumerate() {
        if address.port() != 0 && flags.listen.iter().take(index).any(|earlier| earlier == address) {
            return refused("listen", &address.to_string(), "must be given once");
        }
    }
    let data = match (flags.ephemeral, flags.data_dir) {
        (true, Some(directory)) => {
            let what = format!("must not be given with {}, which keeps nothing", name("ephemeral"));
            return refused("data_dir", &directory.display().to_string(), &what);
        }
        (true, None) => DataDir::Ephemeral,
        (false, Some(directory)) => DataDir::Directory(directory),
        (false, None) => DataDir::Directory(match &around.state_directory {
            // systemd puts a colon between several; the first is ours.
            Some(list) => PathBuf::from(list.to_string_lossy().split(':').next().unwrap_or_default()),
            None => PathBuf::from("timerd-data"),
        }),
    };
    if let Some(second_ms) = flags.second_ms
        && data != DataDir::Ephemeral
    {
        return refused("second_ms", &second_ms.to_string(), "must be given with --ephemeral only");
    }
    let credential = around.credentials_directory.as_ref().map(|directory| PathBuf::from(directory).join("keys"));
    let api_key = match around.api_key.clone().map(OsString::into_string) {
        None => None,
        Some(Ok(key)) if key.bytes().all(|byte| byte.is_ascii_graphic()) => Some(key),
        // The value is not repeated: it is a secret, however odd.
        Some(_) => return Err(Exit::config("API_KEY: must be printable ASCII without spaces, as headers carry it")),
    };
    let any_origin = flags.cors_origin.iter().any(|origin| origin == "*");
    Ok(Config {
        listen_given: matches.value_source("listen").is_some_and(|source| source != ValueSource::DefaultValue),
        listen_origin: if from_variable("listen") { "TIMERD_LISTEN" } else { "--listen" },
        listen: flags.listen,
        data,
        outage: flags.outage,
        second_ms: flags.second_ms.unwrap_or(SECOND_MS_DEFAULT),
        require_auth: flags.require_auth,
        open: flags.open,
        keys: KeySource { file: flags.keys_file.or_else(|| credential.filter(|path| path.exists())), api_key },
        trusted_proxies: flags.trusted_proxy,
        cors_origins: if any_origin { Vec::new() } else { flags.cors_origin },
        clients_per_timer: flags.clients_per_timer,
        timers_max: flags.max_timers,
        sessions_max: flags.max_sessions,
        known_candidates_only: flags.known_candidates_only,
        open_candidates: flags.open_candidates,
        rooms: flags.rooms.0,
        room_leave: flags.room_leave.0,
        room_empty: flags.room_empty.0,
        connections_max: flags.max_connections,
        keep_finished: flags.keep_finished.0,
        keep_history: flags.keep_history.0,
        keep_results: flags.keep_results.0,
        keep_events: flags.keep_events.0,
        keep_events_max: flags.keep_events_max.map(u64::from),
        rates: Rates {
            publish: flags.rate_publish,
            query: flags.rate_query,
            admin: flags.rate_admin,
            rooms: flags.rate_rooms,
        },
        sockets_per_address: flags.ws_per_address.0,
        log_level: flags.log_level,
        log_level_file: flags.log_level_file,
        log_format: flags.log_format,
    })
}

// ---------------------------------------------------------------------------------------------------------------
// clap's errors, several lines each, as one line of ours.

fn exit_of(error: &clap::Error, definition: &Command, args: &[OsString]) -> Exit {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(" "),
        _ => String::new(),
    };
    let argument = context(ContextKind::InvalidArg);
    let name = || origin_of(&argument, definition, args);
    let value = context(ContextKind::InvalidValue);
    let what = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            return Exit { text: error.render().to_string(), code: 0 };
        }
        ErrorKind::ValueValidation => {
            let reason = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
            // A secret is not repeated, however wrong it is.
            let is_secret = defined(option_of(&argument), definition).is_some_and(clap::Arg::is_hide_env_values_set);
            if is_secret { format!("{}: {reason}", name()) } else { format!("{} '{value}': {reason}", name()) }
        }
        ErrorKind::InvalidValue if value.is_empty() => format!("{} '': needs a value", name()),
        ErrorKind::InvalidValue => {
            let allowed = match error.get(ContextKind::ValidValue) {
                Some(ContextValue::Strings(values)) => either(values),
                _ => String::new(),
            };
            format!("{} '{value}': must be {allowed}", name())
        }
        ErrorKind::UnknownArgument => match context(ContextKind::SuggestedArg) {
            near if near.is_empty() => format!("{argument}: unknown option, see timerd --help"),
            near => format!("{argument}: unknown option, perhaps {near}; see timerd --help"),
        },
        ErrorKind::InvalidSubcommand => {
            format!("{}: unknown command, see timerd --help", context(ContextKind::InvalidSubcommand))
        }
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            match args.get(1).and_then(|command| command.to_str()) {
                Some("exam") => "exam: needs a command: load, watch or results, see timerd exam --help".to_owned(),
                _ => "key: needs a command, as in timerd key new NAME ROLE".to_owned(),
            }
        }
        ErrorKind::MissingRequiredArgument => format!("{argument} is missing, see timerd --help"),
        ErrorKind::ArgumentConflict if context(ContextKind::PriorArg) == argument => {
            format!("{}: must be given once", name())
        }
        ErrorKind::ArgumentConflict => format!("{argument}: cannot be used here, see timerd --help"),
        ErrorKind::TooManyValues => format!("{} '{value}': takes no value here, see timerd --help", name()),
        ErrorKind::InvalidUtf8 => "an argument or variable is not UTF-8".to_owned(),
        _ => error.to_string().trim_start_matches("error: ").to_owned(),
    };
    Exit::config(&what)
}

/// The name under which `argument` (`--max-timers <N>`, as clap shows it) was given: its option, or its variable when
/// no option on the command line says otherwise.
fn origin_of(argument: &str, definition: &Command, args: &[OsString]) -> String {
    let option = option_of(argument);
    let on_line = args.iter().filter_map(|arg| arg.to_str()).any(|arg| arg.split('=').next() == Some(option));
    let variable = defined(option, definition)
        .and_then(clap::Arg::get_env)
        .filter(|variable| !on_line && std::env::var_os(variable).is_some())
        .and_then(OsStr::to_str);
    variable.unwrap_or(option).to_owned()
}

fn option_of(argument: &str) -> &str {
    argument.split_whitespace().next().unwrap_or_default().trim_matches(['<', '>'])
}

fn defined<'a>(option: &str, definition: &'a Command) -> Option<&'a clap::Arg> {
    let known = |arg: &&clap::Arg| arg.get_long().is_some_and(|long| option.strip_prefix("--") == Some(long));
    let commands = std::iter::once(definition).chain(definition.get_subcommands());
    commands.flat_map(Command::get_arguments).find(known)
}

/// `a, b or c`.
fn either(values: &[String]) -> String {
    match values {
        [] => String::new(),
        [one] => one.clone(),
        [some @ .., last] => format!("{} or {last}", some.join(", ")),
    }
}

/// `text` on one line, control characters escaped, so that a value cannot forge output.
fn one_line(text: &str) -> String {
    text.trim().chars().fold(String::new(), |mut line, c| {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
        line
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Stdio;

    /// SHA-256 of "abc".
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn invocation(line: &str) -> Result<Invocation, Exit> {
        let args = std::iter::once("timerd").chain(line.split_whitespace()).map(OsString::from).collect();
        parse_within(args, &Surroundings::default())
    }

    fn config(line: &str) -> Config {
        match invocation(line) {
            Ok(Invocation::Serve(config) | Invocation::CheckConfig(config)) => config,
            other => panic!("{other:?}"),
        }
    }

    fn mistake(line: &str) -> String {
        let exit = invocation(line).unwrap_err();
        assert_eq!(exit.code, 2);
        assert_eq!(exit.text.matches('\n').count(), 1, "{:?}", exit.text);
        exit.text.strip_prefix("timerd: ").unwrap().trim_end().to_owned()
    }

    #[test]
    fn the_defaults() {
        let defaults = config("");
        assert_eq!(
            defaults,
            Config {
                listen: vec!["127.0.0.1:8003".parse().unwrap()],
                listen_given: false,
                listen_origin: "--listen",
                data: DataDir::Directory("timerd-data".into()),
                outage: Outage::RunOn,
                second_ms: 1000,
                require_auth: false,
                open: false,
                keys: KeySource::default(),
                trusted_proxies: vec![],
                cors_origins: vec![],
                clients_per_timer: 100,
                timers_max: 1000,
                sessions_max: 120_000,
                known_candidates_only: false,
                open_candidates: false,
                rooms: true,
                room_leave: Duration::from_secs(30),
                room_empty: Duration::from_secs(300),
                connections_max: 110_000,
                keep_finished: Some(Duration::from_secs(7 * 86_400)),
                keep_history: None,
                keep_results: None,
                keep_events: None,
                keep_events_max: None,
                rates: Rates::default(),
                sockets_per_address: Some(20),
                log_level: log::LevelFilter::Info,
                log_level_file: None,
                log_format: logging::Format::Auto,
            }
        );
        assert!(matches!(invocation("check-config"), Ok(Invocation::CheckConfig(config)) if config == defaults));
    }

    #[test]
    fn every_flag() {
        let line = "--listen 127.0.0.1:1,[::1]:2 --listen 10.0.0.1:3 --ephemeral --outage freeze --second-ms 190 \
                    --require-auth --keys-file k --open --trusted-proxy ::1 --trusted-proxy 10.0.0.2 \
                    --cors-origin https://A.example:443 --cors-origin http://b:8080 --clients-per-timer 7 \
                    --max-timers 8 --max-connections 9 --keep-finished 90m --keep-history 2w --log-level trace \
                    --keep-events 90d --keep-events-max 1000000 --rate-publish 50/second --rate-query off \
                    --rate-admin 7/hour --ws-per-address off --max-sessions 11 --known-candidates-only \
                    --open-candidates --keep-results 3d \
                    --rooms off --room-leave 45s --room-empty 2h --rate-rooms 3/minute \
                    --log-level-file l --log-format journal";
        let expected = Config {
            listen: ["127.0.0.1:1", "[::1]:2", "10.0.0.1:3"].map(|a| a.parse().unwrap()).to_vec(),
            listen_given: true,
            listen_origin: "--listen",
            data: DataDir::Ephemeral,
            outage: Outage::Freeze,
            second_ms: 190,
            require_auth: true,
            open: true,
            keys: KeySource { file: Some("k".into()), api_key: None },
            trusted_proxies: ["::1", "10.0.0.2"].map(|a| a.parse().unwrap()).to_vec(),
            cors_origins: vec!["https://a.example".into(), "http://b:8080".into()],
            clients_per_timer: 7,
            timers_max: 8,
            sessions_max: 11,
            known_candidates_only: true,
            open_candidates: true,
            rooms: false,
            room_leave: Duration::from_secs(45),
            room_empty: Duration::from_secs(7200),
            connections_max: 9,
            keep_finished: Some(Duration::from_secs(5400)),
            keep_history: Some(Duration::from_secs(14 * 86_400)),
            keep_results: Some(Duration::from_secs(3 * 86_400)),
            keep_events: Some(Duration::from_secs(90 * 86_400)),
            keep_events_max: Some(1_000_000),
            rates: Rates {
                publish: "50/second".parse().unwrap(),
                query: Rate::OFF,
                admin: "7/hour".parse().unwrap(),
                rooms: "3/minute".parse().unwrap(),
            },
            sockets_per_address: None,
            log_level: log::LevelFilter::Trace,
            log_level_file: Some("l".into()),
            log_format: logging::Format::Journal,
        };
        assert_eq!(config(line), expected);
        assert_eq!(config(&format!("check-config {line}")), expected);
        assert_eq!(config("--data-dir /x").data, DataDir::Directory("/x".into()));
        assert!(expected.summary().contains("cors-origin            https://a.example, http://b:8080\n"));
        assert!(expected.summary().contains("keep-finished          90m\n"));
    }

    #[test]
    fn a_mistake_is_one_line_with_name_value_and_what_is_allowed() {
        let keep = "must be a whole number with a unit of s, m, h, d or w (such as 7d), 1s..36500d, or forever";
        let origin = "must be * or an origin such as https://exams.example.org, without a path";
        let address = "must be an IP address and a port, such as 127.0.0.1:8003 or [::1]:8003";
        for (line, expected) in [
            ("--max-timers 0", "--max-timers '0': must be 1..10000"),
            ("--max-timers=10001", "--max-timers '10001': must be 1..10000"),
            ("--max-timers +5", "--max-timers '+5': must be 1..10000"),
            ("check-config --max-timers x", "--max-timers 'x': must be 1..10000"),
            ("--clients-per-timer 100001", "--clients-per-timer '100001': must be 1..100000"),
            ("--max-connections 0", "--max-connections '0': must be 1..1000000"),
            ("--second-ms 99 --ephemeral", "--second-ms '99': must be 100..1000"),
            ("--second-ms 1001 --ephemeral", "--second-ms '1001': must be 100..1000"),
            ("--second-ms 500", "--second-ms '500': must be given with --ephemeral only"),
            ("--rooms maybe", "--rooms 'maybe': must be on or off"),
            (
                "--room-leave 0s",
                "--room-leave '0s': must be a whole number with a unit of s, m or h (such as 30s), 1s..24h",
            ),
            (
                "--room-empty 25h",
                "--room-empty '25h': must be a whole number with a unit of s, m or h (such as 30s), 1s..24h",
            ),
            ("--outage stop", "--outage 'stop': must be run-on or freeze"),
            ("--log-level loud", "--log-level 'loud': must be error, warn, info, debug or trace"),
            ("--log-format xml", "--log-format 'xml': must be auto, human or journal"),
            ("--listen localhost:8003", &format!("--listen 'localhost:8003': {address}")),
            ("--listen 127.0.0.1:1,8003", &format!("--listen '8003': {address}")),
            ("--listen ::1:1,127.0.0.1:1", &format!("--listen '::1:1': {address}")),
            ("--listen 127.0.0.1:1 --listen 127.0.0.1:1", "--listen '127.0.0.1:1': must be given once"),
            ("--trusted-proxy 10.0.0.1:80", "--trusted-proxy '10.0.0.1:80': must be an IP address without a port"),
            ("--cors-origin https://a/b", &format!("--cors-origin 'https://a/b': {origin}")),
            ("--keep-finished 7", &format!("--keep-finished '7': {keep}")),
            ("--keep-history 0d", &format!("--keep-history '0d': {keep}")),
            ("--ephemeral --data-dir x", "--data-dir 'x': must not be given with --ephemeral, which keeps nothing"),
            ("--outage", "--outage '': needs a value"),
            ("--outage freeze --outage freeze", "--outage: must be given once"),
            ("--max-timer 5", "--max-timer: unknown option, perhaps --max-timers; see timerd --help"),
            ("--zzz", "--zzz: unknown option, see timerd --help"),
            ("serve", "serve: unknown command, see timerd --help"),
            ("key", "key: needs a command, as in timerd key new NAME ROLE"),
            ("key new a root", "ROLE 'root': must be viewer, instructor or admin"),
            ("key new a/b admin", "NAME 'a/b': must be 1..64 of the characters A-Z a-z 0-9 _ . -"),
            ("key new timerd admin", "NAME 'timerd': is reserved, choose another name"),
            ("key new a", "<ROLE> is missing, see timerd --help"),
            ("watch", "<ID> is missing, see timerd --help"),
            ("watch x --key s3cr\u{e9}t", "--key: must be printable ASCII without spaces"),
            ("events --session=", "--session '': needs a value"),
            ("events --after x", "--after 'x': must be an event's number, or 0"),
            ("publish", "<FILE> is missing, see timerd --help"),
            ("publish - --window 2049", "--window '2049': must be 1..2048"),
            ("watch x --url a", "--url 'a': must be http://HOST:PORT"),
        ] {
            assert_eq!(mistake(line), expected, "{line}");
        }
        let many: Vec<String> = (1..=17).map(|port| format!("127.0.0.1:{port}")).collect();
        let line = format!("--listen {}", many.join(","));
        assert_eq!(mistake(&line), "--listen '17': must be at most 16 addresses");
        assert!(mistake("--ephemeral=x").starts_with("--ephemeral 'x': "));
        assert!(mistake("--outage a\u{1b}[2J").contains("\\u{1b}"));
    }

    #[test]
    fn times_to_keep() {
        for (text, seconds) in [("1s", 1), ("90m", 5400), ("36h", 129_600), ("7d", 604_800), ("2w", 1_209_600)] {
            assert_eq!(keep(text), Ok(Keep(Some(Duration::from_secs(seconds)))), "{text}");
        }
        assert_eq!(keep("forever"), Ok(Keep(None)));
        for text in ["", "d", "7", "7 d", "-7d", "7D", "1.5h", "7dd", "7é", "0s", "36501d", "99999999999999999999w"]
        {
            assert!(keep(text).is_err(), "{text}");
        }
        for text in ["forever", "7d", "90m", "36h", "61s"] {
            assert_eq!(keep(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn origins_are_what_browsers_send() {
        assert_eq!(cors_origin("HTTP://Exams.Example.org:80").as_deref(), Ok("http://exams.example.org"));
        assert_eq!(cors_origin("https://[::1]:8443").as_deref(), Ok("https://[::1]:8443"));
        for text in
            ["", "null", "exams.example.org", "ftp://a", "https://", "https://a/", "https://a b", "https://:1"]
        {
            assert!(cors_origin(text).is_err(), "{text}");
        }
        assert!(config("--cors-origin https://a --cors-origin *").cors_origins.is_empty());
    }

    #[test]
    fn help_and_version_go_to_stdout() {
        for line in [
            "--help",
            "-h",
            "--version",
            "watch --help",
            "events --help",
            "publish --help",
            "key --help",
            "key new --help",
            "check-config --help",
        ] {
            let exit = invocation(line).unwrap_err();
            assert_eq!(exit.code, 0, "{line}");
        }
        let help = invocation("--help").unwrap_err().text;
        for heading in
            ["Listening:", "Store:", "Timers:", "Access:", "Limits:", "Logging:", "Testing:", "Environment:"]
        {
            assert!(help.contains(heading), "{heading}");
        }
        let flags = Cli::command();
        for arg in flags.get_arguments().filter(|arg| !matches!(arg.get_id().as_str(), "help" | "version")) {
            // `config_of` makes the one name from the other.
            let id = arg.get_id().as_str();
            assert_eq!(arg.get_env().unwrap().to_str(), Some(&*format!("TIMERD_{}", id.to_uppercase())));
            assert_eq!(arg.get_long(), Some(&*id.replace('_', "-")));
            assert!(arg.get_help_heading().is_some(), "{id}");
        }
        Cli::command().debug_assert();
    }

    #[test]
    fn subcommands() {
        match invocation("key new ann.b admin") {
            Ok(Invocation::NewKey { name, role }) => assert_eq!((&*name, role), ("ann.b", Role::Admin)),
            other => panic!("{other:?}"),
        }
        assert!(matches!(invocation("watch timer_1 --json"), Ok(Invocation::Watch(_))));
        assert!(matches!(invocation("events --type a,b --after 0 --json"), Ok(Invocation::Events(_))));
        assert!(matches!(invocation("publish - --quiet"), Ok(Invocation::Publish(_))));
        assert!(mistake("watch timer_1 --url https://a").contains("http://"));
        for line in ["exam load a.json b.json", "exam watch a --once", "exam results a --csv --output b"] {
            assert!(matches!(invocation(line), Ok(Invocation::Exam(_))), "{line}");
        }
        assert!(mistake("exam").contains("load, watch or results"));
        assert_eq!(mistake("exam load"), "<FILE>... is missing, see timerd --help");
        assert!(!mistake("exam watch a --key a\u{1}b").contains("a\\u"));
    }

    #[test]
    fn what_systemd_sets_is_taken_unless_something_is_given() {
        let folder = tempfile::tempdir().unwrap();
        let around = Surroundings {
            api_key: Some("s3cret".into()),
            state_directory: Some("/var/lib/timerd:/var/lib/other".into()),
            credentials_directory: Some(folder.path().into()),
            ..Surroundings::default()
        };
        let parsed = |line: &str| {
            let args = std::iter::once("timerd").chain(line.split_whitespace()).map(OsString::from).collect();
            match parse_within(args, &around) {
                Ok(Invocation::Serve(config)) => config,
                other => panic!("{other:?}"),
            }
        };
        let config = parsed("");
        assert_eq!(config.data, DataDir::Directory("/var/lib/timerd".into()));
        assert_eq!(config.keys, KeySource { file: None, api_key: Some("s3cret".to_owned()) });
        assert!(!format!("{config:?} {}", config.summary()).contains("s3cret"));
        let path = folder.path().join("keys");
        std::fs::write(&path, "").unwrap();
        assert_eq!(parsed("").keys.file, Some(path));
        assert_eq!(parsed("--keys-file other").keys.file, Some("other".into()));
        assert_eq!(parsed("--data-dir d").data, DataDir::Directory("d".into()));
        assert_eq!(parsed("--ephemeral").data, DataDir::Ephemeral);
        let odd = Surroundings { api_key: Some("a b".into()), ..Surroundings::default() };
        let exit = parse_within(vec!["timerd".into()], &odd).unwrap_err();
        assert!(exit.text.starts_with("timerd: API_KEY: must be printable") && !exit.text.contains("a b"));
    }

    #[test]
    fn who_needs_a_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        std::fs::write(&path, format!("ann:admin:{ABC}\n")).unwrap();
        let loopback = ["127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"].map(|a| a.parse().unwrap()).to_vec();
        let beyond = ["127.0.0.1:1", "0.0.0.0:1"].map(|a| a.parse().unwrap()).to_vec();
        // Ok: whether keys are required; Err: a word of the refusal.
        for (flags, has_key, bound, expected) in [
            ("", false, &loopback, Ok(false)),
            ("", true, &loopback, Ok(false)),
            ("--open", false, &loopback, Ok(false)),
            ("--require-auth", true, &loopback, Ok(true)),
            ("--require-auth", false, &loopback, Err("--require-auth needs a key")),
            ("--require-auth --open", false, &beyond, Err("--require-auth needs a key")),
            ("--require-auth --open", true, &beyond, Ok(true)),
            ("", false, &beyond, Err("0.0.0.0:1 is beyond loopback")),
            ("", true, &beyond, Ok(true)),
            ("--open", false, &beyond, Ok(false)),
            ("--open", true, &beyond, Ok(false)),
        ] {
            let mut config = config(flags);
            config.keys.file = has_key.then(|| path.clone());
            let found = access(&config, bound);
            match expected {
                Ok(required) => {
                    let access = found.unwrap();
                    assert_eq!(access.keys_required, required, "{flags} {has_key} {bound:?}");
                    assert_eq!(access.keys.is_empty(), !has_key);
                }
                Err(word) => assert!(found.unwrap_err().contains(word), "{flags} {has_key} {bound:?}"),
            }
        }
        let mut config = config("");
        config.keys.file = Some(folder.path().join("missing"));
        assert!(access(&config, &loopback).unwrap_err().contains("does not exist"));
    }

    /// The other half of the test below: parses in a process of its own, whose environment can be chosen.
    #[test]
    fn in_a_process_of_its_own() {
        if let Ok(line) = std::env::var("CONFIG_TEST_LINE") {
            let args = std::iter::once("timerd").chain(line.split_whitespace()).map(OsString::from);
            match parse(args) {
                Ok(Invocation::Serve(config)) => eprintln!("{}", config.summary()),
                Ok(_) => eprintln!("another"),
                Err(exit) => eprint!("{}", exit.text),
            }
        }
    }

    fn with_variables(variables: &[(&str, &str)], line: &str) -> String {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "config::tests::in_a_process_of_its_own"])
            .env_clear()
            .envs(variables.iter().copied())
            .env("CONFIG_TEST_LINE", line)
            .stdout(Stdio::null())
            .output()
            .unwrap();
        String::from_utf8(output.stderr).unwrap()
    }

    #[test]
    fn variables_stand_for_flags() {
        let summary = with_variables(
            &[
                ("TIMERD_LISTEN", "127.0.0.1:1,[::1]:2"),
                ("TIMERD_EPHEMERAL", "yes"),
                ("TIMERD_OPEN", "0"),
                ("TIMERD_MAX_TIMERS", "5"),
                ("TIMERD_KEEP_HISTORY", "30d"),
                ("TIMERD_SECOND_MS", "200"),
                ("TIMERD_KEYS_FILE", ""),
                ("TIMERD_LOG_LEVEL", "debug"),
                ("API_KEY", "k"),
            ],
            "--log-level warn",
        );
        for row in [
            "listen                 127.0.0.1:1, [::1]:2\n",
            "data                   kept in memory only (--ephemeral)\n",
            "second-ms              200\n",
            "open                   false\n",
            "keys                   API_KEY\n",
            "max-timers             5\n",
            "keep-history           30d\n",
            "log-level              warn\n",
        ] {
            assert!(summary.contains(row), "{row} in {summary}");
        }
    }

    #[test]
    fn a_mistake_in_a_variable_names_the_variable() {
        for (variable, value, expected) in [
            ("TIMERD_OUTAGE", "stop", "timerd: TIMERD_OUTAGE 'stop': must be run-on or freeze\n"),
            ("TIMERD_MAX_TIMERS", "0", "timerd: TIMERD_MAX_TIMERS '0': must be 1..10000\n"),
            ("TIMERD_OPEN", "maybe", "timerd: TIMERD_OPEN 'maybe': must be true, false, 1, 0, yes or no\n"),
            ("TIMERD_SECOND_MS", "500", "timerd: TIMERD_SECOND_MS '500': must be given with --ephemeral only\n"),
        ] {
            assert_eq!(with_variables(&[(variable, value)], ""), expected);
        }
        let flag_wins = with_variables(&[("TIMERD_OUTAGE", "stop")], "--outage halt");
        assert_eq!(flag_wins, "timerd: --outage 'halt': must be run-on or freeze\n");
    }
}
