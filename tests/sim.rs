//! The whole daemon on a virtual clock: domain, API, protocols, hub and outboxes as they are, over simulated sockets
//! and a simulated disk.
//!
//! From one seed an exam is played: instructors do what the contract allows and what it does not, students listen,
//! talk, dawdle and vanish, candidates start, answer, move about, come back elsewhere and hand in when their time is
//! up, quiz engines publish, dashboards follow, fall behind and catch up, somebody reads and deletes, teams share a
//! countdown that all of them press; the disk is slow, fails, hangs, the machine crashes and comes back, somebody sets
//! the wall clock. After each turn everything that anybody was told is held against simple references, word for word,
//! and against what the disk has. A failing seed prints itself, the step and the rule:
//!
//! `TIMERD_SIM_SEED=n cargo test --test sim` plays it again; `TIMERD_SIM_SEEDS=n` plays so many (200 by default).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "what happened in all is shown with --nocapture")]
#![allow(unreachable_pub, reason = "the modules of one test")]

#[path = "sim/delivery/mod.rs"]
mod delivery;
#[path = "sim/disk.rs"]
mod disk;
#[path = "sim/events/mod.rs"]
mod events;
#[path = "sim/net.rs"]
mod net;
#[path = "sim/peer.rs"]
mod peer;
#[path = "sim/rng.rs"]
mod rng;
#[path = "sim/rooms/mod.rs"]
mod rooms;
#[path = "sim/timers/mod.rs"]
mod timers;
#[path = "sim/world.rs"]
mod world;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use timerd::api::Limits;
use timerd::api::guard::Guard;
use timerd::api::rates::{Rate, Rates};
use timerd::clock::Now;
use timerd::domain::absence::Outage;
use timerd::domain::countdown::Second;
use timerd::domain::delivery::Settings as DeliverySettings;
use timerd::domain::disk::{Done, Image};
use timerd::domain::effects::Batch;
use timerd::domain::rooms::Settings as RoomSettings;
use timerd::domain::timers::Settings as TimerSettings;
use timerd::hub::{Hub, Retention, Settings};
use timerd::keys::Keys;

use delivery::Hall;
use disk::Whims;
use events::Fair;
use net::Net;
use rng::Rng;
use rooms::Teams;
use timers::{Exam, Plan};
use world::{Witness, World, violated};

const SECOND_NS: u64 = 1_000_000_000;

/// Numbers of what happened.
type Tally = BTreeMap<&'static str, u64>;

/// Everybody in the world: the exam, the hall in which others are sat, the pipeline that both feed, and teams who have
/// nothing to do with any of them.
struct Everybody {
    exam: Exam,
    hall: Hall,
    fair: Fair,
    teams: Teams,
}

impl Witness for Everybody {
    fn begin(&mut self, now: Now, stepped: bool, hub: &Hub) {
        self.exam.begin(now, stepped, hub);
        self.hall.begin(now, stepped, hub);
        self.fair.begin();
        self.teams.begin(now, stepped, hub);
    }

    fn done(&mut self, now: Now, done: &Done) {
        self.exam.done(now, done);
        self.hall.done(now, done);
        self.fair.done(done);
        self.teams.done(now, done);
    }

    fn due(&mut self, now: Now, hub: &Hub) {
        self.exam.due(now, hub);
        self.hall.due(now, hub);
        self.teams.due(now, hub);
    }

    fn read(&mut self, net: &mut Net) {
        self.hall.read(net);
        self.teams.read(net);
    }

    fn handed(&mut self, now: Now, batch: &Batch) {
        self.exam.handed(now, batch);
        self.hall.handed(now, batch);
        self.fair.handed(now, batch, &self.exam.model);
        self.teams.handed(now, batch);
    }

    fn judge(&mut self, world: &mut World) {
        self.exam.judge(world);
        self.hall.judge(world);
        self.fair.judge(world, &self.exam.model);
        self.teams.judge(world);
    }

    fn restarted(&mut self, world: &mut World, image: &Image) {
        self.exam.restarted(world, image);
        self.hall.restarted(world, image);
        self.fair.restarted(world, image);
        self.teams.restarted(world, image);
    }
}

impl Everybody {
    /// Nobody waits for an answer any more.
    fn is_answered(&self) -> bool {
        self.exam.is_answered() && self.hall.is_answered() && self.fair.is_answered() && self.teams.is_answered()
    }

    /// What is owed, if anything.
    fn debts(&self) -> String {
        self.fair
            .debts()
            .or_else(|| self.hall.debts())
            .or_else(|| self.teams.debts())
            .unwrap_or_else(|| self.exam.debts())
    }
}

/// What goes on at the pipeline: in some seeds thousands of messages at once.
fn fair_of(rng: &mut Rng) -> events::Plan {
    let flood = rng.percent(4);
    let large = if flood { 0 } else { rng.pick(&[0, 0, 30]) };
    events::Plan {
        publishers: if flood { 4 } else { rng.pick(&[1, 3]) },
        listeners: rng.pick(&[2, 5, 9]),
        deeds_per_s: if flood { 6 } else { rng.pick(&[2, 6, 15]) },
        burst: if flood { 10_000 } else { rng.pick(&[50, 200]) },
        letters_max: if flood {
            14_000
        } else if large > 0 {
            600
        } else {
            2_000
        },
        bad: rng.pick(&[0, 5, 20]),
        large,
        page_max: if large > 0 { 100 } else { 1_000 },
        deletes: rng.percent(40),
        keep_ms: rng.percent(15).then_some(15_000),
        keep_max: rng.percent(15).then_some(200),
        sockets_max: rng.percent(15).then_some(6),
    }
}

/// What goes on in the hall: in some seeds many sessions of a few seconds.
fn hall_of(rng: &mut Rng, freeze: bool, keep_ms: Option<u64>) -> delivery::Plan {
    let crowd = rng.percent(10);
    delivery::Plan {
        exams: rng.pick(&[1, 3, 5]),
        people: rng.pick(&[3, 12, 40]),
        sessions: if crowd { 60 } else { rng.pick(&[2, 6, 12]) },
        sessions_max: rng.pick(&[8, 1_000, 1_000]),
        desks: rng.pick(&[1, 3, 6]),
        limit_s: if crowd { 8 } else { rng.pick(&[5, 15, 40]) },
        deeds_per_s: if crowd { 15 } else { rng.pick(&[3, 6, 12]) },
        nonsense: rng.pick(&[0, 3, 10]),
        known_only: rng.percent(15),
        freeze,
        keep_ms,
    }
}

/// What goes on in rooms: in some seeds whole teams press at once, again and again.
fn teams_of(rng: &mut Rng, freeze: bool) -> rooms::Plan {
    rooms::Plan {
        rooms: rng.pick(&[1, 3, 8]),
        people: rng.pick(&[2, 5, 9]),
        sockets: rng.pick(&[6, 14, 25]),
        duration_s: rng.pick(&[3, 10, 40]),
        deeds_per_s: rng.pick(&[3, 6, 12]),
        rushes: rng.pick(&[5, 15, 50]),
        nonsense: rng.pick(&[0, 5, 20]),
        freeze,
        leave_ms: rng.pick(&[400, 3_000, 9_000]),
        empty_ms: rng.pick(&[1_000, 6_000, 20_000]),
        rate: rng.percent(15).then_some(4),
        calm: false,
    }
}

/// The same, as the daemon's settings.
fn settings_of(teams: &rooms::Plan) -> RoomSettings {
    RoomSettings {
        outage: if teams.freeze { Outage::Freeze } else { Outage::RunOn },
        leave_after: Duration::from_millis(teams.leave_ms),
        empty_for: Duration::from_millis(teams.empty_ms),
        ..RoomSettings::default()
    }
}

/// What ids are drawn from when the daemon starts for the `start`th time.
fn secret(start: u64) -> [u8; 32] {
    let mut secret = [7; 32];
    secret[..8].copy_from_slice(&start.to_le_bytes());
    secret
}

/// Plays the exam of `seed` to its end.
fn play(seed: u64) -> Tally {
    let mut rng = Rng::new(seed);
    let storm = rng.percent(6);
    let plan = Plan {
        timers: if storm { 2 } else { rng.pick(&[4, 12, 30, 60]) },
        timers_max: rng.pick(&[20, 1000, 1000]),
        desks: rng.index(5) + 1,
        students: rng.pick(&[2, 4, 8]),
        clients_per_timer: rng.pick(&[3, 100, 100]),
        duration_s: rng.pick(&[6, 20, 90]),
        deeds_per_s: if storm { 25 } else { rng.pick(&[4, 10, 25]) },
        freeze: rng.percent(50),
        keep_ms: rng.percent(30).then_some(20_000),
        nonsense: rng.pick(&[0, 5, 20]),
        storm,
    };
    let whims = Whims {
        latency_ns: rng.pick(&[100_000, 3_000_000, 40_000_000, 400_000_000]),
        slow: rng.pick(&[0, 0, 10]),
        failing: rng.pick(&[0, 0, 5, 20]),
        stuck: rng.pick(&[0, 50, 85]),
        hanging: rng.pick(&[0, 0, 0, 10]),
    };
    let fair = fair_of(&mut Rng::new(seed ^ 0xfa12));
    let hall = hall_of(&mut Rng::new(seed ^ 0x4a11), plan.freeze, plan.keep_ms);
    let teams = teams_of(&mut Rng::new(seed ^ 0x7ea3), plan.freeze);
    let settings = {
        let (plan, fair, hall, teams) = (plan.clone(), fair.clone(), hall.clone(), teams.clone());
        let starts = Cell::new(0);
        move || Settings {
            timers: TimerSettings {
                timers_max: plan.timers_max,
                second: Second::REAL,
                outage: if plan.freeze { Outage::Freeze } else { Outage::RunOn },
                keep_finished: plan.keep_ms.map(Duration::from_millis),
            },
            rooms: settings_of(&teams),
            delivery: DeliverySettings {
                sessions_max: hall.sessions_max,
                known_only: hall.known_only,
                keep_finished: plan.keep_ms.map(Duration::from_millis),
                second: Second::REAL,
                outage: if plan.freeze { Outage::Freeze } else { Outage::RunOn },
            },
            guard: Guard::new(Keys::default(), false, Vec::new(), Vec::new()),
            limits: Limits { clients_per_timer: plan.clients_per_timer, sockets_per_address: fair.sockets_max },
            rates: Rates { rooms: teams.rate.map_or(Rate::OFF, Rate::a_minute), ..Rates::OFF },
            connections_max: 400,
            retention: Retention {
                events: fair.keep_ms.map(Duration::from_millis),
                events_max: fair.keep_max,
                ..Retention::default()
            },
            // Another one each time the daemon starts, as chance will have it.
            seed: secret(starts.replace(starts.get() + 1)),
        }
    };
    let crashes = rng.pick(&[0, 0, 3, 8]);
    let wall_steps = rng.pick(&[0, 0, 2, 6]);
    // How long a turn takes at least: a loop under load looks at the clock less often.
    let turn_ns = rng.pick(&[200_000, 5_000_000, 30_000_000, 90_000_000]);
    let lateness = rng.pick(&[0, 0, 3, 20]);
    let length_s = rng.range(20, 70);
    let exam = Exam::new(plan.clone(), Rng::new(seed ^ 0x5eed));
    let (fair_per_s, hall_per_s) = (fair.deeds_per_s, hall.deeds_per_s);
    let hall = Hall::new(hall, Rng::new(seed ^ 0x5ea7));
    let teams_per_s = teams.deeds_per_s;
    let teams = Teams::new(teams, Rng::new(seed ^ 0x7ea5));
    let mut all = Everybody { exam, hall, fair: Fair::new(fair, Rng::new(seed ^ 0xfee1)), teams };
    let mut world = World::new(Rng::new(seed ^ 0xd15c), whims, Box::new(settings));
    let mut played_ns = 0;
    let (mut deeds_ns, mut fair_ns, mut hall_ns, mut teams_ns) = (0, 0, 0, 0);
    let mut soon = None;
    while played_ns < length_s * SECOND_NS {
        let before = world.now.mono.ns();
        let deed = before + rng.below(2 * SECOND_NS / plan.deeds_per_s);
        let mut next = world.next_event().ns().min(deed).max(before + rng.below(2 * turn_ns));
        if rng.percent(20) {
            // As close to an end as a clock can come without reaching it.
            let due = world.next_event().ns().saturating_sub(1);
            next = if due > before && due < next + 2 * turn_ns { due } else { next };
        }
        if rng.percent(lateness) {
            next += rng.below(3 * SECOND_NS);
        }
        world.pass(next);
        let passed = next - before;
        played_ns += passed;
        deeds_ns += passed * plan.deeds_per_s;
        while deeds_ns >= SECOND_NS {
            deeds_ns -= SECOND_NS;
            all.exam.act(&mut world);
        }
        hall_ns += passed * hall_per_s;
        while hall_ns >= SECOND_NS {
            hall_ns -= SECOND_NS;
            all.hall.act(&mut world);
        }
        teams_ns += passed * teams_per_s;
        while teams_ns >= SECOND_NS {
            teams_ns -= SECOND_NS;
            all.teams.act(&mut world);
        }
        fair_ns += passed * fair_per_s;
        while fair_ns >= SECOND_NS {
            fair_ns -= SECOND_NS;
            all.fair.act(&mut world, &all.exam.model);
        }
        // So many in a minute of virtual time.
        let chance = |rng: &mut Rng, a_minute: u64| rng.below(60 * SECOND_NS) < passed * a_minute;
        if chance(&mut rng, wall_steps) {
            let by_ms = rng.pick(&[25, 900, 61_000, 3_600_000]);
            world.step_wall(if rng.percent(50) { by_ms } else { -by_ms });
            soon = (crashes > 0 && rng.percent(50)).then_some(world.disk.written);
        }
        // Often while what a step of the clock brings about is on its way to the disk.
        if chance(&mut rng, crashes) || (soon.is_some_and(|written| written < world.disk.written) && rng.percent(30))
        {
            soon = None;
            let away_ns = rng.pick(&[1_000_000, 300_000_000, 4_000_000_000, 120_000_000_000]);
            let reboot = rng.percent(40);
            let off_ms = rng.pick(&[0, 0, 0, 500, -500, 5_000, -200_000]);
            world.crash(rng.below(away_ns) + 1, reboot, off_ms, &mut all);
        }
        world.turn(&mut all);
    }
    // Everything comes to rest: a healthy disk, readers who read.
    world.disk.whims = Whims { latency_ns: 1_000_000, slow: 0, failing: 0, stuck: 0, hanging: 0 };
    let mut rest_ns = 0;
    while rest_ns < 50 * SECOND_NS || !all.is_answered() {
        all.exam.hush(&mut world);
        all.hall.hush(&mut world);
        all.fair.hush(&mut world);
        all.teams.hush(&mut world);
        if rest_ns > 45 * SECOND_NS {
            all.fair.ask_all(&mut world);
        }
        let before = world.now.mono.ns();
        let next = world.next_event().ns().min(before + SECOND_NS / 4).max(before + turn_ns);
        world.pass(next);
        rest_ns += next - before;
        world.turn(&mut all);
        if rest_ns > 150 * SECOND_NS {
            violated("every request is answered, or its connection closed", &all.debts());
        }
    }
    all.hall.ask_all(&mut world);
    all.teams.look_at_all(&mut world);
    while !all.is_answered() {
        let next = world.next_event().ns().max(world.now.mono.ns() + turn_ns);
        world.pass(next);
        world.turn(&mut all);
    }
    all.exam.ask_all(&mut world);
    world.turn(&mut all);
    if !all.exam.is_answered() {
        violated("a read is answered at once", &all.debts());
    }
    all.exam.settle_account(&world);
    all.hall.settle_account();
    all.fair.settle_account(&world);
    all.teams.settle_account();
    let mut tally = std::mem::take(&mut all.exam.tally);
    tally.append(&mut all.hall.tally);
    tally.append(&mut all.fair.tally);
    tally.append(&mut all.teams.tally);
    tally.insert("turns", world.turns);
    tally.insert("batches", world.disk.written);
    tally.insert("bytes in", world.net.bytes_in);
    tally.insert("bytes out", world.net.bytes_out);
    tally
}

/// Plays a day of a hundred teams of ten, most of whom come at once, and of one room that is wanted by more than it
/// takes.
fn play_teams(seed: u64) -> Tally {
    let mut rng = Rng::new(seed ^ 0x7ea7);
    let plan = rooms::Plan {
        rooms: 100,
        people: 10,
        sockets: 1_000,
        duration_s: 30,
        deeds_per_s: 400,
        rushes: 10,
        nonsense: 3,
        freeze: rng.percent(50),
        leave_ms: 2_000,
        empty_ms: 4_000,
        rate: None,
        calm: false,
    };
    let settings = {
        let plan = plan.clone();
        let starts = Cell::new(0);
        move || Settings {
            timers: TimerSettings { timers_max: 1, second: Second::REAL, outage: Outage::RunOn, keep_finished: None },
            rooms: settings_of(&plan),
            delivery: DeliverySettings::default(),
            guard: Guard::new(Keys::default(), false, Vec::new(), Vec::new()),
            limits: Limits { clients_per_timer: 1, sockets_per_address: None },
            rates: Rates::OFF,
            connections_max: 1_200,
            retention: Retention::default(),
            seed: secret(starts.replace(starts.get() + 1)),
        }
    };
    let whims = Whims { latency_ns: 20_000_000, slow: 5, failing: 3, stuck: 30, hanging: 0 };
    let mut world = World::new(Rng::new(seed ^ 0xd15c), whims, Box::new(settings));
    let mut teams = Teams::new(plan, Rng::new(seed ^ 0x7ea8));
    let turn = |world: &mut World, teams: &mut Teams, rng: &mut Rng, deeds: u64| {
        let before = world.now.mono.ns();
        let deed = before + rng.below(20_000_000);
        let next = world.next_event().ns().min(deed).max(before + rng.below(6_000_000));
        world.pass(next);
        let passed = next - before;
        (0..(passed * deeds).div_ceil(SECOND_NS)).for_each(|_| teams.act(world));
        world.turn(teams);
        passed
    };
    for day in 0..2 {
        teams.assemble(&mut world);
        let mut passed = 0;
        while passed < 6 * SECOND_NS {
            passed += turn(&mut world, &mut teams, &mut rng, 400);
        }
        if day == 0 {
            world.crash(rng.below(SECOND_NS) + 1, rng.percent(50), 0, &mut teams);
        }
    }
    world.disk.whims = Whims { latency_ns: 1_000_000, slow: 0, failing: 0, stuck: 0, hanging: 0 };
    let mut rest = 0;
    while rest < 3 * SECOND_NS || !teams.is_answered() {
        teams.hush(&mut world);
        rest += turn(&mut world, &mut teams, &mut rng, 0);
        if rest > 60 * SECOND_NS {
            violated("every request is answered, or its connection closed", &format!("{:?}", teams.debts()));
        }
    }
    teams.look_at_all(&mut world);
    while !teams.is_answered() {
        turn(&mut world, &mut teams, &mut rng, 0);
    }
    teams.settle_account();
    let mut tally = std::mem::take(&mut teams.tally);
    tally.insert("turns", world.turns);
    tally
}

/// Plays `seeds` on two threads. Returns what happened in all, and what failed.
fn play_all(seeds: std::ops::Range<u64>, play: fn(u64) -> Tally) -> (Tally, Vec<(u64, String)>) {
    let next = AtomicU64::new(seeds.start);
    let result = Mutex::new((Tally::new(), Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let played = catch_unwind(AssertUnwindSafe(|| play(seed)));
                    let mut all = result.lock().unwrap_or_else(PoisonError::into_inner);
                    match played {
                        Ok(tally) => tally.into_iter().for_each(|(what, n)| *all.0.entry(what).or_default() += n),
                        Err(why) => {
                            let text = why.downcast_ref::<String>().cloned();
                            let text = text.or_else(|| why.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                            all.1.push((seed, text.unwrap_or_default()));
                        }
                    }
                }
            });
        }
    });
    result.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn number_of(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

#[test]
fn every_exam_keeps_every_rule() {
    let seeds = match number_of("TIMERD_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number_of("TIMERD_SIM_SEEDS").unwrap_or(200),
    };
    let many = seeds.end - seeds.start >= 100;
    let (tally, failed) = play_all(seeds, play);
    println!("{tally:#?}");
    if !failed.is_empty() {
        let mut text = String::new();
        for (seed, why) in failed.iter().take(20) {
            text.push_str(&format!("seed {seed}, {why}\n  again: TIMERD_SIM_SEED={seed} cargo test --test sim\n\n"));
        }
        panic!("{} seeds failed:\n{text}", failed.len());
    }
    // A simulation in which little happens proves little.
    if many {
        for what in [
            "ticks",
            "expired",
            "replays",
            "restarts",
            "failed batches",
            "outcome unknown",
            "answers 4xx",
            "answers 503",
            "closed: deleted",
            "closed: other",
            "dropped: slow",
            "cut short",
            "events acknowledged",
            "events delivered",
            "events deleted",
            "publications refused",
            "publications unknown",
            "bad messages",
            "fell behind",
            "caught up",
            "closed: too slow",
            "closed: too many sockets",
            "gone 4010",
            "gone 410",
            "filters updated",
            "pages",
            "pages for subscribers",
            "newest first",
            "figures",
            "deletions",
            "ticks routed",
            "sessions",
            "answers",
            "flags",
            "moves",
            "pauses",
            "resumes",
            "extensions",
            "terminations",
            "hand-ins",
            "late hand-ins taken",
            "hand-ins too late",
            "bulk calls of several",
            "refused: expired",
            "refused: other",
            "starts refused",
            "hall ticks",
            "told expired",
            "told section_expired",
            "told paused",
            "told extended",
            "acknowledged on sockets",
            "unknown on sockets",
            "hall outcome unknown",
            "hall refused by the disk",
            "deaf",
            "whole sessions",
            "saves",
            "lists of sessions",
            "results",
            "closed: not active",
            "closed: too many sockets of one",
            "streams",
            "events of streams",
            "rooms",
            "room joins",
            "people back",
            "changes heard",
            "ticks in rooms",
            "zeros heard",
            "presences",
            "arrivals heard",
            "departures heard",
            "people who did not come back",
            "people who leave",
            "rooms removed",
            "rooms looked at",
            "rooms not found",
            "told stale",
            "told invalid",
            "told wrong_state",
            "told unavailable",
            "told limited",
            "rushes",
        ] {
            assert!(tally.get(what).is_some_and(|count| *count > 10), "too little happened: {what}");
        }
    }
}

#[test]
fn a_hundred_teams_of_ten_see_what_the_server_shows() {
    let (tally, failed) = play_all(0..number_of("TIMERD_SIM_TEAMS").unwrap_or(2), play_teams);
    println!("{tally:#?}");
    if let Some((seed, why)) = failed.first() {
        panic!("{} seeds failed: seed {seed}, {why}", failed.len());
    }
    let much: [(&str, u64); 6] = [
        ("rooms", 100),
        ("joined rooms", 1_000),
        ("changes heard", 1_000),
        ("ticks in rooms", 500),
        ("told stale", 10),
        ("told full", 10),
    ];
    for (what, least) in much {
        assert!(tally.get(what).is_some_and(|count| *count >= least), "too little happened: {what}: {tally:?}");
    }
}

#[test]
fn a_seed_gives_the_same_exam_again() {
    let runs = [play(11), play(11)];
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], play(12));
}
