//! What waits for the disk.
//!
//! Owns the answers that may leave only when their batch is durable, the questions only the disk can answer, and the
//! judgement of the disk's health. It knows connections by name only, and never touches one.
//!
//! Invariants: an answer is given out once, as what it is when its batch is durable and as 503 when it never will be;
//! at most one batch is in the disk's hands; while the store is degraded, a write is tried once a second and no
//! command is taken.

use std::collections::BTreeMap;

use crate::clock::{Mono, Now};
use crate::domain::Engine;
use crate::domain::disk::{Job, Old, Query, Search};
use crate::domain::staged::{Flight, Hold};
use crate::hub::conn::ConnId;
use crate::hub::events::FeedId;
use crate::hub::exports::ExportId;
use crate::limits::{DISK_HANG_MAX, DISK_RETRY_EVERY, QUERIES_MAX};
use crate::wire::http::{Head, Response};

/// Somebody who waits for an answer.
#[derive(Debug)]
pub struct Waiting {
    /// On which connection.
    pub conn: ConnId,
    /// To which of its requests.
    pub number: u32,
    /// What that request said about the form of the answer.
    pub head: Head,
}

/// An answer that may not leave yet.
#[derive(Debug)]
pub enum Held {
    /// These words.
    Words(Response),
    /// The event at this place among those that the batch publishes, as soon as it has its number.
    Event(u32),
}

/// Somebody who asked the disk.
#[derive(Debug)]
pub enum Asker {
    /// For the answer to a request.
    Request(Waiting),
    /// For the next page of a subscriber.
    Feed(FeedId),
    /// For the next page of a long answer.
    Export(ExportId),
}

/// What is kept until the disk has spoken.
#[derive(Debug, Default)]
pub struct Custody {
    held: Flight<Vec<(Waiting, Held)>>,
    asks: Flight<Vec<(Asker, Query)>>,
    asked: BTreeMap<u64, Asker>,
    tickets: u64,
    jobs: Vec<Job>,
    in_hand_since: Option<Mono>,
    hung: bool,
    degraded: Option<String>,
    retry_at: Mono,
    alive_due: bool,
}

impl Custody {
    /// Why commands cannot be carried out, while that is so.
    pub fn degraded(&self) -> Option<&str> {
        self.degraded.as_deref()
    }

    /// Whether the disk has been given up.
    pub fn is_hung(&self) -> bool {
        self.hung
    }

    /// Since when the disk has had the batch in its hands.
    pub fn in_hand_since(&self) -> Option<Mono> {
        self.in_hand_since
    }

    /// Keeps an answer until the batch it tells of is durable.
    pub fn hold(&mut self, hold: Hold, waiting: Waiting, held: Held) {
        match hold {
            Hold::Writing => self.held.writing.push((waiting, held)),
            Hold::Gathering | Hold::Nothing => self.held.gathering.push((waiting, held)),
        }
    }

    /// Whether one more question may wait for the disk.
    pub fn takes_questions(&self) -> bool {
        !self.hung && self.asked.len() + self.asks.gathering.len() + self.asks.writing.len() < QUERIES_MAX
    }

    /// Asks the disk, after the batch that the question is about.
    pub fn ask(&mut self, hold: Hold, waiting: Waiting, query: Query) {
        self.ask_behind(hold, Asker::Request(waiting), query);
    }

    fn ask_behind(&mut self, hold: Hold, asker: Asker, query: Query) {
        match hold {
            Hold::Nothing => self.ask_now(asker, query),
            Hold::Writing => self.asks.writing.push((asker, query)),
            Hold::Gathering => self.asks.gathering.push((asker, query)),
        }
    }

    /// Asks the disk for the next page of a long answer, after the batch that it is about.
    pub fn ask_for_export(&mut self, hold: Hold, id: ExportId, query: Query) {
        self.ask_behind(hold, Asker::Export(id), query);
    }

    /// Asks the disk for the next page of a subscriber.
    pub fn ask_for_feed(&mut self, id: FeedId, search: Search) {
        self.ask_now(Asker::Feed(id), Query::Events(search));
    }

    fn ask_now(&mut self, asker: Asker, query: Query) {
        self.tickets += 1;
        self.asked.insert(self.tickets, asker);
        self.jobs.push(Job::Ask(self.tickets, query));
    }

    /// Who asked the question with this ticket.
    pub fn asker(&mut self, ticket: u64) -> Option<Asker> {
        self.asked.remove(&ticket)
    }

    /// Asks the disk to forget what is old, unless it does not answer: the next order is never far.
    pub fn forget(&mut self, old: Old) {
        if !self.hung {
            self.jobs.push(Job::Forget(old));
        }
    }

    /// The sign of life is to be written.
    pub fn alive(&mut self) {
        self.alive_due = true;
    }

    /// Whether [`Custody::take_jobs`] would give something at once.
    pub fn has_jobs(&self, engine: &Engine) -> bool {
        let wanted = engine.fx.gathered() > 0 || self.alive_due;
        !self.jobs.is_empty() || (wanted && !engine.is_writing() && self.degraded.is_none())
    }

    /// What the disk has to do next: whatever has gathered, if it has nothing in hand, then the questions.
    pub fn take_jobs(&mut self, now: Now, engine: &mut Engine) -> Vec<Job> {
        let wanted = engine.fx.gathered() > 0 || self.alive_due || self.degraded.is_some();
        let allowed = !engine.is_writing() && (self.degraded.is_none() || now.mono >= self.retry_at);
        if wanted && allowed {
            self.alive_due = false;
            self.in_hand_since = Some(now.mono);
            self.held.hand_over();
            self.asks.hand_over();
            self.jobs.insert(0, Job::Write(engine.hand_over(now)));
        }
        std::mem::take(&mut self.jobs)
    }

    /// The batch in hand is durable: these answers may leave. Questions about it are asked now.
    pub fn written(&mut self) -> Vec<(Waiting, Held)> {
        if self.degraded.take().is_some() {
            log::warn!("commands are taken again");
        }
        self.in_hand_since = None;
        self.hung = false;
        for (asker, query) in std::mem::take(&mut self.asks.writing) {
            // These have been counted when they were put here.
            self.ask_now(asker, query);
        }
        std::mem::take(&mut self.held.writing)
    }

    /// The batch in hand will never be durable: all these are told that nothing was changed.
    pub fn failed(&mut self, now: Now, why: &str) -> Vec<Asker> {
        if self.degraded.is_none() {
            log::error!("commands are refused until the store can be written ({why}); clocks run on");
        }
        self.degraded = Some(format!("The store cannot be written ({why})"));
        self.retry_at = now.mono + DISK_RETRY_EVERY;
        self.in_hand_since = None;
        self.hung = false;
        self.everybody()
    }

    /// Whether the disk has had the batch in its hands for too long.
    pub fn has_hung(&self, now: Now) -> bool {
        !self.hung && self.in_hand_since.is_some_and(|since| now.mono.since(since) >= DISK_HANG_MAX)
    }

    /// The disk is given up until it tells what came of the batch in hand: all these are told that this is unknown.
    pub fn give_up(&mut self, now: Now, why: String) -> Vec<Asker> {
        if !std::mem::replace(&mut self.hung, true) {
            log::error!("{why}; clocks run on, commands are refused");
        }
        self.degraded = Some(why);
        self.retry_at = now.mono;
        let askers = std::mem::take(&mut self.asked).into_values();
        self.everybody().into_iter().chain(askers).collect()
    }

    /// When the disk must be looked after without its having spoken.
    pub fn next_deadline(&self) -> Option<Mono> {
        match self.in_hand_since {
            Some(since) if !self.hung => Some(since + DISK_HANG_MAX),
            Some(_) => None,
            None => self.degraded.is_some().then_some(self.retry_at),
        }
    }

    /// Nobody waits for anything.
    pub fn is_idle(&self) -> bool {
        self.in_hand_since.is_none() && self.held.gathering.is_empty() && self.asked.is_empty()
    }

    fn everybody(&mut self) -> Vec<Asker> {
        let Flight { gathering, writing } = std::mem::take(&mut self.held);
        let asks = std::mem::take(&mut self.asks);
        let askers = asks.writing.into_iter().chain(asks.gathering).map(|(asker, _)| asker);
        writing.into_iter().chain(gathering).map(|(waiting, _)| Asker::Request(waiting)).chain(askers).collect()
    }
}
