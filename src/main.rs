//! timerd: start-up in its order, and exit codes. 0: ended as asked; 1: something is in the way; 2: the configuration
//! is wrong.

use std::io::Write;
use std::process::ExitCode;

use timerd::config::{self, Access, Config, DataDir, Exit, Invocation};
use timerd::domain::countdown::Second;
use timerd::domain::{delivery, rooms, timers};
use timerd::hub::{self, Hub};
use timerd::keys;
use timerd::server::listen::Listeners;
use timerd::server::{Server, raise_descriptor_limit, survive_file_size_limit};
use timerd::store::Store;
use timerd::{api, client, clock, logging};

fn main() -> ExitCode {
    match config::parse(std::env::args_os()) {
        Err(exit) => exit.report(),
        Ok(Invocation::Serve(config)) => match serve(config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(exit) => exit.report(),
        },
        Ok(Invocation::CheckConfig(config)) => check(&config),
        Ok(Invocation::Watch(options)) => client::watch::run(&options),
        Ok(Invocation::Events(options)) => client::events::run(&options),
        Ok(Invocation::Publish(options)) => client::publish::run(&options),
        Ok(Invocation::Exam(action)) => client::exam::run(&action),
        Ok(Invocation::NewKey { name, role }) => new_key(&name, role),
    }
}

/// The daemon: everything that can be refused is refused before anybody is served.
fn serve(config: Config) -> Result<(), Exit> {
    let level = config.log_level_now().map_err(|what| Exit::config(&what))?;
    logging::init(config.log_format, level).map_err(|what| failure(&what))?;

    // Before the store is opened: from its first write on, a limit of file sizes must be an error and not a death.
    survive_file_size_limit().map_err(|error| failure(&format!("a signal cannot be caught: {error}")))?;

    // Addresses first: whether keys are required depends on what is really listened on.
    let listeners = Listeners::open(&config.listen, config.listen_given).map_err(|error| match error {
        timerd::server::listen::ListenError::Both => Exit::config(&error.to_string()),
        other => failure(&other.to_string()),
    })?;
    let Access { keys_required, keys } =
        config::access(&config, &listeners.addresses()).map_err(|what| Exit::config(&what))?;
    warn_of_open_file(&keys);

    let connections_max = raise_descriptor_limit(config.connections_max);
    let (store, image, place) = match &config.data {
        DataDir::Ephemeral => {
            let (store, image) = Store::ephemeral().map_err(|error| failure(&error.to_string()))?;
            (store, image, "kept in memory only".to_owned())
        }
        DataDir::Directory(directory) => {
            let boot_id =
                clock::boot_id().map_err(|error| failure(&format!("this boot cannot be named: {error}")))?;
            let (store, image) = Store::open(directory, &boot_id).map_err(|error| failure(&error.to_string()))?;
            (store, image, format!("in {}", directory.display()))
        }
    };
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| failure(&format!("the system gives no random bytes: {error}")))?;
    let mut guard =
        api::guard::Guard::new(keys, keys_required, config.cors_origins.clone(), config.trusted_proxies.clone());
    guard.open_candidates = config.open_candidates;
    let settings = hub::Settings {
        timers: timers::Settings {
            timers_max: config.timers_max,
            second: Second::from_ms(config.second_ms),
            outage: config.outage,
            keep_finished: config.keep_finished,
        },
        delivery: delivery::Settings {
            sessions_max: config.sessions_max,
            known_only: config.known_candidates_only,
            keep_finished: config.keep_finished,
            second: Second::from_ms(config.second_ms),
            outage: config.outage,
        },
        rooms: rooms::Settings {
            are_open: config.rooms,
            second: Second::from_ms(config.second_ms),
            outage: config.outage,
            leave_after: config.room_leave,
            empty_for: config.room_empty,
        },
        guard,
        limits: api::Limits {
            clients_per_timer: config.clients_per_timer,
            sockets_per_address: config.sockets_per_address,
        },
        rates: config.rates,
        connections_max,
        retention: hub::Retention {
            history: config.keep_history,
            results: config.keep_results,
            events: config.keep_events,
            events_max: config.keep_events_max,
        },
        seed,
    };
    let (hub, found) =
        Hub::new(clock::sample(), settings, image).map_err(|error| failure(&format!("the routes clash: {error}")))?;
    if !found.wall_behind.is_zero() {
        log::error!(
            "the wall clock is {:.0?} behind the last time it showed: the time away counts as none",
            found.wall_behind
        );
    }

    let addresses = listeners.addresses().iter().map(|at| format!("http://{at}")).collect::<Vec<_>>().join(" ");
    let required = if keys_required { "keys required" } else { "no keys required" };
    let server = Server::new(hub, store, listeners, Box::new(move |hub, now| reload(&config, hub, now)))
        .map_err(|error| failure(&format!("the loop cannot be set up: {error}")))?;
    let away = found.away.map_or(String::new(), |away| format!(", back after {away:.1?}"));
    log::info!("timerd {} listens on {addresses}, data {place}, {required}{away}", env!("CARGO_PKG_VERSION"));
    server.run().map_err(|error| failure(&format!("the loop has failed: {error}")))
}

/// SIGHUP: keys and log level are read again; what cannot be read changes nothing.
fn reload(config: &Config, hub: &mut Hub, now: clock::Now) {
    match config.log_level_now() {
        Ok(level) => logging::set_level(level),
        Err(what) => log::error!("the log level stays: {what}"),
    }
    match keys::load(&config.keys) {
        Ok(keys) if keys.is_empty() && hub.guard_mut().keys_required => {
            log::error!("the keys stay: there would be none left");
        }
        Ok(keys) => {
            warn_of_open_file(&keys);
            match &keys.file {
                Some(file) => {
                    let age_s = now.wall.since(file.modified).as_secs();
                    log::info!("{} keys read from {}, written {age_s} s ago", keys.len(), file.path.display());
                }
                None => log::info!("{} keys", keys.len()),
            }
            hub.guard_mut().keys = keys;
        }
        Err(what) => log::error!("the keys stay: {what}"),
    }
}

fn warn_of_open_file(keys: &keys::Keys) {
    if let Some(file) = keys.file.as_ref().filter(|file| file.readable_by_others) {
        log::warn!("{} can be read by others", file.path.display());
    }
}

fn check(config: &Config) -> ExitCode {
    let access = config::access(config, &config.listen).and(config.log_level_now().map(|_| ()));
    match access {
        Ok(()) => Exit { text: config.summary(), code: 0 }.report(),
        Err(what) => Exit::config(&what).report(),
    }
}

fn new_key(name: &str, role: keys::Role) -> ExitCode {
    let mut random = [0; 32];
    if let Err(error) = getrandom::fill(&mut random) {
        return failure(&format!("the system gives no random bytes: {error}")).report();
    }
    let (key, line) = keys::generate(name, role, random);
    match std::io::stdout().write_all(keys::announcement(&key, &line).as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn failure(what: &str) -> Exit {
    Exit { text: format!("timerd: {what}\n"), code: 1 }
}
