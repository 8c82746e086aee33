//! What the service manager is told.
//!
//! Owns the protocol of sd_notify(3). The watchdog is fed by the loop itself: a loop that hangs is started anew.
//! Without a service manager all of this is nothing.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::clock::Mono;

/// The service manager.
#[derive(Debug)]
pub(super) struct Manager {
    feed_every: Option<Duration>,
    fed: Mono,
    status: String,
}

impl Manager {
    /// Finds out what the manager expects.
    pub(super) fn new() -> Self {
        // Fed at a third of the patience: one feeding may be late.
        let feed_every = sd_notify::watchdog_enabled().map(|patience| patience / 3);
        Manager { feed_every, fed: Mono::default(), status: String::new() }
    }

    /// The daemon serves.
    pub(super) fn ready(&mut self, status: &str) {
        status.clone_into(&mut self.status);
        tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// The daemon's state in words, if it has changed.
    pub(super) fn status(&mut self, status: &str) {
        if self.status != status {
            status.clone_into(&mut self.status);
            tell(&[NotifyState::Status(status)]);
        }
    }

    /// The daemon is about to end.
    pub(super) fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }

    /// A turn of the loop has come to its end.
    pub(super) fn feed(&mut self, now: Mono) {
        if self.feed_every.is_some_and(|every| now.since(self.fed) >= every) {
            self.fed = now;
            tell(&[NotifyState::Watchdog]);
        }
    }
}

impl Default for Manager {
    fn default() -> Self {
        Manager::new()
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::debug!("the service manager does not listen: {error}");
    }
}
