//! The two timers of the kernel that wake the loop.
//!
//! Owns the next deadline (CLOCK_BOOTTIME, exact to the nanosecond; the poll's own timeout is rounded to a
//! millisecond) and the watch over steps of the wall clock. It decides nothing about either.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::clock::Mono;

/// Wakes the loop at an instant.
#[derive(Debug)]
pub(super) struct Alarm {
    timer: OwnedFd,
    set_for: Option<Mono>,
}

impl Alarm {
    /// An alarm that is not set, registered under `token`.
    ///
    /// # Errors
    /// When the kernel gives no timer.
    pub(super) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        registry.register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Alarm { timer, set_for: None })
    }

    /// Sees to it that it rings at `at` or before; an instant that has passed rings at once.
    ///
    /// One that is set for an earlier instant stays: deadlines move away with each pause, to follow them would be a
    /// system call a turn, and when it rings too early the next turn sets it right. The timer is never read: it is
    /// registered edge-triggered, and setting it anew clears it.
    ///
    /// # Errors
    /// When the kernel refuses, which it does not.
    pub(super) fn set(&mut self, at: Option<Mono>) -> io::Result<()> {
        let Some(at) = at.filter(|at| self.set_for.is_none_or(|set_for| *at < set_for)) else { return Ok(()) };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &once(at.ns().max(1)))?;
        self.set_for = Some(at);
        Ok(())
    }

    /// It has rung: setting it for the same instant again means something.
    pub(super) fn rang(&mut self) {
        self.set_for = None;
    }
}

/// Wakes the loop when somebody sets the wall clock.
#[derive(Debug)]
pub(super) struct WallWatch {
    timer: OwnedFd,
}

impl WallWatch {
    /// A watch, registered under `token`. CANCEL_ON_SET works on CLOCK_REALTIME only, and with absolute times only.
    ///
    /// # Errors
    /// When the kernel gives no timer.
    pub(super) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        registry.register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
        let watch = WallWatch { timer };
        watch.arm()?;
        Ok(watch)
    }

    /// Waits for the next step.
    ///
    /// # Errors
    /// When the kernel refuses, which it does not.
    pub(super) fn arm(&self) -> io::Result<()> {
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        // Far ahead of any exam; the timer is there to be cancelled.
        match timerfd_settime(&self.timer, flags, &once(u64::MAX / 2)) {
            // A step that came since the last look is told here as well.
            Ok(_) | Err(rustix::io::Errno::CANCELED) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn once(ns: u64) -> Itimerspec {
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    let (s, ns) = (ns / 1_000_000_000, ns % 1_000_000_000);
    let it_value = Timespec { tv_sec: i64::try_from(s).unwrap_or(i64::MAX), tv_nsec: i64::try_from(ns).unwrap_or(0) };
    Itimerspec { it_interval: zero, it_value }
}
