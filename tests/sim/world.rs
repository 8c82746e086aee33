//! The world of a simulation: clocks, the daemon, its sockets and its disk.
//!
//! Owns virtual time and the order of a turn, which is the server's. It knows no service: whoever plays and judges
//! one is a [`Witness`], told of everything in the order in which it happens. A second service joins as a second
//! witness.

use std::cell::Cell;
use std::time::Duration;

use timerd::clock::{Mono, Now, WallMs};
use timerd::domain::disk::{Done, Job};
use timerd::domain::effects::Batch;
use timerd::hub::{Hub, Settings};
use timerd::limits::*;

use crate::disk::{Disk, Whims};
use crate::net::Net;
use crate::rng::Rng;

thread_local! {
    /// Which step of which seed is being played, for whoever reports a violation.
    pub static STEP: Cell<u64> = const { Cell::new(0) };
    /// The virtual time of that step.
    pub static AT: Cell<Now> = const { Cell::new(Now { mono: Mono::from_ns(0), wall: WallMs::from_ms(0) }) };
}

/// Ends the run: `rule` does not hold.
pub fn violated(rule: &str, text: &str) -> ! {
    let now = AT.get();
    panic!("step {} (boot {} ns, wall {} ms)\n  rule: {rule}\n  {text}", STEP.get(), now.mono.ns(), now.wall.ms())
}

/// Somebody who watches the daemon and judges it.
pub trait Witness {
    /// A turn begins. `stepped`: the wall clock was stepped since the last one.
    fn begin(&mut self, now: Now, stepped: bool, hub: &Hub);
    /// The disk has spoken; the hub has not heard it yet.
    fn done(&mut self, now: Now, done: &Done);
    /// The hub is about to let time have its way.
    fn due(&mut self, now: Now, hub: &Hub);
    /// The hub has read what it would of what has come.
    fn read(&mut self, net: &mut Net);
    /// A batch goes to the disk.
    fn handed(&mut self, now: Now, batch: &Batch);
    /// Everything of this turn has been sent: clients look, and all is judged.
    fn judge(&mut self, world: &mut World);
    /// The daemon is back. Everything that was not durable is gone.
    fn restarted(&mut self, world: &mut World, image: &timerd::domain::disk::Image);
}

/// The world.
pub struct World {
    /// All chance.
    pub rng: Rng,
    /// The present.
    pub now: Now,
    /// Nanoseconds of the wall clock at boot.
    wall_at_boot_ns: i64,
    stepped: bool,
    /// The daemon.
    pub hub: Hub,
    /// Its sockets.
    pub net: Net,
    /// Its disk.
    pub disk: Disk,
    settings: Box<dyn Fn() -> Settings>,
    /// Something can go on at once.
    busy: bool,
    /// Turns made in all.
    pub turns: u64,
    /// Restarts in all.
    pub restarts: u64,
}

impl World {
    /// A world whose daemon has no past.
    pub fn new(mut rng: Rng, whims: Whims, settings: Box<dyn Fn() -> Settings>) -> Self {
        let boot_ns = rng.range(1_000_000_000, 1_000_000_000_000);
        let wall_at_boot_ns = 1_700_000_000_000_000_000 + i64::try_from(rng.below(1 << 50)).unwrap();
        let now = clocks(boot_ns, wall_at_boot_ns);
        let mut disk = Disk::new(whims);
        let image = disk.crash(false, &mut rng);
        AT.set(now);
        let (hub, _) = Hub::new(now, settings(), image).unwrap();
        World {
            rng,
            now,
            wall_at_boot_ns,
            stepped: false,
            hub,
            net: Net::default(),
            disk,
            settings,
            busy: false,
            turns: 0,
            restarts: 0,
        }
    }

    /// When the daemon wants its next turn, or the disk has something to say.
    pub fn next_event(&self) -> Mono {
        if self.busy || self.hub.has_backlog() {
            return self.now.mono;
        }
        let hub = self.hub.next_deadline().map_or(u64::MAX, Mono::ns);
        Mono::from_ns(hub.min(self.disk.next_event().unwrap_or(u64::MAX)))
    }

    /// Time passes until `mono`.
    pub fn pass(&mut self, mono: u64) {
        self.now = clocks(mono.max(self.now.mono.ns()), self.wall_at_boot_ns);
        AT.set(self.now);
    }

    /// Somebody sets the wall clock.
    pub fn step_wall(&mut self, by_ms: i64) {
        self.wall_at_boot_ns += by_ms * 1_000_000;
        self.stepped = true;
        self.pass(self.now.mono.ns());
    }

    /// One turn, in the server's order.
    pub fn turn(&mut self, witness: &mut impl Witness) {
        self.turns += 1;
        STEP.set(self.turns);
        let now = self.now;
        witness.begin(now, std::mem::take(&mut self.stepped), &self.hub);
        self.hub.begin(now);
        self.net.tell_writable(&mut self.hub);
        self.disk.work(now.mono, &mut self.rng);
        while self.hub.takes_answers()
            && let Some(done) = self.disk.take()
        {
            witness.done(now, &done);
            self.hub.handle_done(now, done);
        }
        let full_at = self.net.accept(now, &mut self.hub);
        witness.due(now, &self.hub);
        self.hub.advance(now);
        self.hub.unpark(now);
        self.busy = self.net.read(now, &mut self.hub, &mut self.rng);
        witness.read(&mut self.net);
        for job in self.hub.take_jobs(now) {
            if let Job::Write(batch) = &job {
                witness.handed(now, batch);
            }
            self.disk.give(now, job, &mut self.rng);
        }
        self.hub.flush(now, &mut self.net);
        self.hub.reap(&mut self.net);
        self.hub.account(Duration::ZERO);
        witness.judge(self);
        self.check_bounds(full_at);
    }

    /// The daemon ends without a word, and is back after `away_ns`; `reboot`: the whole machine, with the boot clock
    /// anew, and a wall clock that may be off by `off_ms`.
    pub fn crash(&mut self, away_ns: u64, reboot: bool, off_ms: i64, witness: &mut impl Witness) {
        self.restarts += 1;
        self.busy = false;
        self.net.cut();
        let image = self.disk.crash(reboot, &mut self.rng);
        let mono = self.now.mono.ns() + away_ns;
        if reboot {
            let boot_ns = self.rng.range(1_000_000_000, 40_000_000_000);
            self.wall_at_boot_ns += i64::try_from(mono).unwrap() - i64::try_from(boot_ns).unwrap();
            self.wall_at_boot_ns += off_ms * 1_000_000;
            self.now = clocks(boot_ns, self.wall_at_boot_ns);
        } else {
            self.wall_at_boot_ns += off_ms * 1_000_000;
            self.now = clocks(mono, self.wall_at_boot_ns);
        }
        self.stepped = false;
        AT.set(self.now);
        let kept = image.clone();
        self.hub = Hub::new(self.now, (self.settings)(), image).unwrap().0;
        witness.restarted(self, &kept);
    }

    /// Nothing has grown beyond its bound, and nobody is cut off below it.
    fn check_bounds(&mut self, full_at: Option<usize>) {
        let connections = self.hub.connections();
        if connections != self.net.open() {
            violated("the hub knows its connections", &format!("{connections} of {}", self.net.open()));
        }
        let settings = (self.settings)().connections_max;
        let most = settings + connections_over_max(settings);
        if connections > most || full_at.is_some_and(|connections| connections < most) {
            violated("connections are bounded", &format!("{connections}, full at {full_at:?}"));
        }
    }
}

fn clocks(mono_ns: u64, wall_at_boot_ns: i64) -> Now {
    let wall_ns = wall_at_boot_ns + i64::try_from(mono_ns).unwrap();
    Now { mono: Mono::from_ns(mono_ns), wall: WallMs::from_ms(wall_ns.div_euclid(1_000_000)) }
}
