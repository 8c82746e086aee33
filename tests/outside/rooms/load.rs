//! How soon all see what one of them did: a hundred rooms of ten at random, on a real disk, over real sockets.

use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

use super::{Member, Rooms, at_rest, command, on, state_of, with};
use crate::daemon::{Daemon, Dice, Socket, directory};

const ROOMS: usize = 100;
const PEOPLE: usize = 10;
const LASTS: Duration = Duration::from_millis(1500);
/// Within this, all should have seen a change on loopback, with a machine at leisure.
const SEEN_MAX: Duration = Duration::from_millis(200);
/// The machine is not at leisure: a thousand clients and other tests share its cores with the daemon.
const BUSY: u32 = 10;

/// What was measured in one room.
#[derive(Default)]
struct Measured {
    /// From the press to the moment at which a member had the new state in his hands, one for each of them.
    seen: Vec<Duration>,
    /// The same for those who came back meanwhile, from when they knocked.
    seen_back: Vec<Duration>,
    changes: usize,
    refusals: usize,
}

/// Of a sorted list: below it lie so many of a hundred.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1]
}

/// Reads on to a change; what comes before it is not refused.
fn change(socket: &mut Socket) -> Value {
    loop {
        let message = socket.recv();
        match message["type"].as_str().unwrap() {
            "timer:state" => return message["state"].clone(),
            "timer:tick" | "session:user-joined" | "session:presence" => {}
            other => panic!("{other}: {message}"),
        }
    }
}

/// A room at random, until the time is over.
fn play(daemon: &Daemon, seed: u64) -> Measured {
    let mut dice = Dice(seed);
    let mut measured = Measured::default();
    let mut members = vec![daemon.found(json!({ "duration": 3600, "name": "0" }))];
    for n in 1..PEOPLE {
        members.push(daemon.visit(&members[0].room, &n.to_string()));
    }
    let mut state = members[0].joined["state"].clone();
    let begun = Instant::now();
    while begun.elapsed() < LASTS {
        std::thread::sleep(Duration::from_millis(50 + dice.roll(250)));
        let possible: &[&str] = match (&state["isRunning"], &state["isPaused"]) {
            (Value::Bool(true), _) => &["start", "pause", "reset", "extend"],
            (_, Value::Bool(true)) => &["start", "resume", "reset", "extend"],
            _ => &["start", "reset"],
        };
        let revision = state["revision"].as_u64().unwrap();
        let kind = possible[dice.below(possible.len())];
        let press = json!({ "type": format!("timer:{kind}"), "revision": revision, "seconds": 60 });
        // Somebody's line breaks, one presses, perhaps another at the same time, and whoever was away comes back.
        let away = (dice.roll(4) == 0).then(|| members.remove(dice.below(PEOPLE)));
        let ticket = away.map(|member| member.return_ticket());
        let first = dice.below(members.len());
        let second = Some(dice.below(members.len())).filter(|second| *second != first && dice.roll(4) == 0);
        let pressed = Instant::now();
        members[first].socket.send(press.clone());
        if let Some(second) = second {
            members[second].socket.send(press);
        }
        let back = ticket.map(|ticket| {
            let knocked = Instant::now();
            let mut member = Member::new(daemon.enter(), with(ticket, json!({ "revision": 5 })));
            let mut seen = member.joined["state"].clone();
            if seen["revision"] == revision {
                seen = change(&mut member.socket);
            }
            measured.seen_back.push(knocked.elapsed());
            (member, seen)
        });
        let mut seen = Vec::new();
        for (n, member) in members.iter_mut().enumerate() {
            let mut refused = false;
            loop {
                let message = member.socket.recv();
                match message["type"].as_str().unwrap() {
                    "timer:state" => {
                        seen.push(message["state"].clone());
                        break;
                    }
                    "error" => {
                        assert!(message["code"] == "stale" && (n == first || Some(n) == second), "{message}");
                        refused = true;
                        measured.refusals += 1;
                    }
                    _ => {}
                }
            }
            measured.seen.push(pressed.elapsed());
            // Both pressed, and it was the other one's that counted: then this one hears that, too.
            if second.is_some() && (n == first || Some(n) == second) && !refused {
                member.socket.send(command("ping"));
                loop {
                    let message = member.socket.recv();
                    match message["type"].as_str().unwrap() {
                        "error" => measured.refusals += 1,
                        "pong" => break,
                        _ => {}
                    }
                }
            }
        }
        measured.changes += 1;
        if let Some((member, state)) = back {
            members.push(member);
            seen.push(state);
        }
        state = seen.pop().unwrap();
        assert_eq!(state["revision"], revision + 1);
        for other in &seen {
            assert_eq!(at_rest(other), at_rest(&state), "all see the same");
        }
    }
    assert_eq!(at_rest(&state_of(&daemon.room(&members[0].room))), at_rest(&state));
    measured
}

#[test]
fn a_change_is_seen_by_all_at_once_in_a_hundred_rooms_of_ten() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let (_kept, path) = directory();
    let daemon = on(&path, &[]);
    let all: Vec<Measured> = std::thread::scope(|scope| {
        let rooms: Vec<_> = (0..ROOMS).map(|room| (room, &daemon)).collect();
        let threads: Vec<_> =
            rooms.into_iter().map(|(room, daemon)| scope.spawn(move || play(daemon, room as u64))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let sum = |count: fn(&Measured) -> usize| all.iter().map(count).sum::<usize>();
    let sorted = |of: fn(&Measured) -> &Vec<Duration>| {
        let mut list: Vec<Duration> = all.iter().flat_map(of).copied().collect();
        list.sort();
        list
    };
    let (seen, seen_back) = (sorted(|one| &one.seen), sorted(|one| &one.seen_back));
    let told = |list: &[Duration]| {
        format!("p50 {:?}, p99 {:?}, max {:?}", percentile(list, 50), percentile(list, 99), list[list.len() - 1])
    };
    println!(
        "{ROOMS} rooms of {PEOPLE}, {} changes and {} refusals in {LASTS:?}; from a press to the eyes of each of all: \
         {}; of {} who came back meanwhile, from their knock: {}",
        sum(|one| one.changes),
        sum(|one| one.refusals),
        told(&seen),
        seen_back.len(),
        told(&seen_back),
    );
    assert!(sum(|one| one.changes) > 3 * ROOMS && sum(|one| one.refusals) > 0 && seen_back.len() > ROOMS / 4);
    for list in [&seen, &seen_back] {
        assert!(percentile(list, 50) < SEEN_MAX, "{}", told(list));
        assert!(list[list.len() - 1] < BUSY * SEEN_MAX, "{}", told(list));
    }
}
