//! What a load test and a server with several addresses rely on: shorter seconds, IPv6, more than one listener.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::daemon::{Daemon, Http, eventually};
use serde_json::json;

#[test]
fn a_timers_second_lasts_as_long_as_asked_for() {
    let daemon = Daemon::ephemeral(&["--second-ms", "100"]);
    let id = daemon.create(json!({ "duration_seconds": 20, "warning_thresholds": [15] }));
    let (mut socket, greeting) = daemon.join(&id);
    assert_eq!(greeting["timer"]["remaining_ms"], 20_000);
    let begun = Instant::now();
    let started = daemon.control(&id, "start").json();
    let real_ms =
        |text: &serde_json::Value| text.as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_millisecond();
    assert_eq!(started["remaining_ms"], 20_000);
    let now_ms =
        i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis());
    let ahead_ms = real_ms(&started["ends_at"]) - now_ms.unwrap();
    assert!((1_500..=2_001).contains(&ahead_ms), "ends_at is real: 20 short seconds, not {ahead_ms} ms");
    socket.expect("timer_started");
    let ticks: Vec<u64> = std::iter::from_fn(|| Some(socket.recv()))
        .take_while(|message| message["type"] != "timer_expired")
        .filter(|message| message["type"] == "timer_tick")
        .map(|message| message["remaining_seconds"].as_u64().unwrap())
        .collect();
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(1_990), "never early: {took:?}");
    assert!(ticks.windows(2).all(|pair| pair[0] > pair[1]) && ticks.last() == Some(&0), "{ticks:?}");
    assert_eq!(daemon.timer(&id)["elapsed_seconds"], 20);
}

#[test]
fn a_pause_keeps_the_fraction_of_a_short_second() {
    let daemon = Daemon::ephemeral(&["--second-ms", "500"]);
    let id = daemon.create(json!({ "duration_seconds": 60, "auto_start": true }));
    std::thread::sleep(Duration::from_millis(700));
    let paused = daemon.control(&id, "pause").json()["remaining_ms"].as_u64().unwrap();
    assert!(paused <= 58_600, "700 real ms are 1,400 of the timer's: {paused}");
    assert_eq!(daemon.extend(&id, 10).json()["remaining_ms"].as_u64(), Some(paused + 10_000));
}

#[test]
fn short_seconds_are_for_daemons_that_keep_nothing() {
    let (directory, path) = crate::daemon::directory();
    let refused = Daemon::try_start(&["--data-dir", path.to_str().unwrap(), "--second-ms", "100"], &[]);
    let Err((status, text)) = refused else { panic!("it started") };
    assert_eq!(status.code(), Some(2));
    assert!(text.contains("--second-ms") && text.contains("--ephemeral") && text.lines().count() == 1, "{text}");
    drop(directory);
}

#[test]
fn several_addresses_of_both_families_serve_the_same_timers() {
    let started = Daemon::try_start(
        &["--ephemeral", "--listen", "127.0.0.1:0", "--listen", "[::1]:0", "--listen", "127.0.0.2:0"],
        &[],
    );
    let daemon = match started {
        Ok(daemon) => daemon,
        // A machine without IPv6 says so in one line.
        Err((_, text)) if text.contains("[::1]") => return eprintln!("SKIPPED: no IPv6 here: {text}"),
        Err((status, text)) => panic!("{status}: {text}"),
    };
    let log = daemon.log();
    let (_, listed) = log.split_once("listens on ").unwrap();
    let addresses: Vec<SocketAddr> = listed
        .split(',')
        .next()
        .unwrap()
        .split(' ')
        .map(|address| address.strip_prefix("http://").unwrap().parse().unwrap())
        .collect();
    assert_eq!(addresses.len(), 3, "{log}");
    let id = daemon.create(json!({ "duration_seconds": 60 }));
    for address in addresses {
        let answer = Http::connect(address).request("GET", &format!("/timers/{id}"), &[], None);
        assert_eq!(answer.status, 200, "{address}");
    }
}

#[test]
fn a_bulk_start_is_one_instant_for_all() {
    let daemon = Daemon::ephemeral(&[]);
    let ids: Vec<String> = (0..200).map(|_| daemon.create(json!({ "duration_seconds": 60 }))).collect();
    let lines = daemon.post("/timers/bulk/start", json!({ "timer_ids": ids })).json();
    assert!(lines.as_array().unwrap().iter().all(|line| line["success"] == true));
    let mut ends: Vec<String> = ids.iter().map(|id| daemon.timer(id)["ends_at"].to_string()).collect();
    ends.dedup();
    assert_eq!(ends.len(), 1);
    eventually(|| daemon.timer(&ids[0])["elapsed_seconds"] == 1);
}
