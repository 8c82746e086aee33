//! Candidates' sockets: what is said on them, and what is held until it is true.
//!
//! Owns the answers that candidates wait for, and the ticks of a slot, each second encoded once. What a message means
//! is the API's business.
//!
//! Invariants: answers leave in the order of messages, those that tell of a change when it is durable; what is
//! announced does not wait for them; a socket with too many unanswered messages is not read.

use std::collections::HashMap;

use crate::api::delivery::{self, Words};
use crate::clock::Now;
use crate::domain::Engine;
use crate::domain::beats::Tick;
use crate::domain::delivery::{Message, State};
use crate::domain::effects::Topic;
use crate::domain::staged::Hold;
use crate::hub::Hub;
use crate::hub::audience::Encoding;
use crate::hub::conn::ConnId;
use crate::hub::desks::Desks;
use crate::hub::outbox::{Bound, Frame, Shared};
use crate::hub::sockets::push;
use crate::limits::{CANDIDATE_UNANSWERED_MAX, OUTBOX_BYTES_MAX};
use crate::wire::ws;

/// Everybody at a candidate's socket.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    desks: Desks<Reply>,
    /// The ticks of a slot: room that is used again, and a frame for each second.
    ticks: Vec<Tick>,
    frames: HashMap<u32, Shared>,
}

/// An answer to a candidate.
#[derive(Debug)]
struct Reply {
    words: Words,
    /// What the message is called by whoever sent it. `None` as well for what only follows an answer.
    echo: Option<Box<str>>,
    /// It follows an answer.
    is_rest: bool,
}

impl Candidates {
    /// Whether a connection waits for answers.
    pub(super) fn awaits(&self, index: u32) -> bool {
        self.desks.awaits(index)
    }

    /// Whether a connection has as many unanswered messages as it may.
    pub(super) fn is_full(&self, index: u32) -> bool {
        self.desks.waits_for(index) >= CANDIDATE_UNANSWERED_MAX
    }

    /// A connection is over.
    pub(super) fn reap(&mut self, index: u32) {
        self.desks.close(index);
    }

    /// The gathering batch goes to the disk.
    pub(super) fn hand_over(&mut self) {
        self.desks.hand_over();
    }
}

impl Hub {
    /// A candidate has said something.
    pub(super) fn hear_candidate(&mut self, now: Now, index: u32, serial: u32, text: &str) {
        let refusal = match self.custody.degraded() {
            _ if self.stopping => Some("The server is restarting"),
            None if self.engine.fx.is_full() => Some("Too many changes at once"),
            degraded => degraded,
        };
        let mut said = delivery::hear(text, serial, now, &mut self.engine, refusal);
        if said.hold != Hold::Nothing && self.custody.is_hung() {
            // Nobody would be told any more what has become of it.
            said.words =
                Words::Text(delivery::failed("The disk does not answer: ask again later", said.echo.as_deref()));
            (said.rest, said.hold) = (None, Hold::Nothing);
        }
        // What time has brought about while it was judged.
        self.publish(now);
        let Some(conn) = self.conns.get(index as usize) else { return };
        let id = ConnId { index, generation: conn.generation };
        let reply = Reply { words: said.words, echo: said.echo, is_rest: false };
        let rest = said.rest.map(|words| Reply { words, echo: None, is_rest: true });
        self.candidates.desks.owe(id, said.hold, self.engine.gathering(), std::iter::once(reply).chain(rest));
        self.answer_candidate(now, id);
    }

    /// The batch with this number is durable: whoever waits for it hears so.
    pub(super) fn answer_candidates(&mut self, now: Now, durable: u64) {
        for id in self.candidates.desks.release(durable) {
            self.answer_candidate(now, id);
        }
    }

    /// What was asked and is not durable never will be, or nobody knows: those who wait hear why.
    pub(super) fn disappoint_candidates(&mut self, now: Now, why: &str) {
        let instead = |Reply { echo, is_rest, .. }: Reply| {
            let words = Words::Text(delivery::failed(why, echo.as_deref()));
            (!is_rest).then_some(Reply { words, echo, is_rest })
        };
        for id in self.candidates.desks.disappoint(instead) {
            self.answer_candidate(now, id);
        }
    }

    /// Sends the answers that may leave and for which there is room; the others when what was sent has been taken.
    pub(super) fn answer_candidate(&mut self, now: Now, id: ConnId) {
        let Some(room) = self.live(id).map(|conn| OUTBOX_BYTES_MAX.saturating_sub(conn.outbox.bytes())) else {
            return;
        };
        if self.work_left == 0 {
            return self.hungry.push(id.index);
        }
        let mut bytes = Vec::new();
        while bytes.len() < room
            && let Some(reply) = self.candidates.desks.next(id.index)
        {
            ws::push_text_frame(&reply.words.write(), &mut bytes);
        }
        if !bytes.is_empty() {
            self.work_left = self.work_left.saturating_sub(u32::try_from(bytes.len() / 1024).unwrap_or(u32::MAX));
            self.hand(now, id.index, &Frame::lasting(bytes));
        }
    }

    /// Gives a candidate what he has asked for. Items may be large: what is more than a socket usually holds is
    /// counted with all that has not been taken.
    fn hand(&mut self, now: Now, index: u32, frame: &Shared) {
        let Some(conn) = self.conns.get_mut(index as usize) else { return };
        conn.told = now.mono;
        if push(conn, frame, Bound::CANDIDATE, &mut self.unsent_bytes).is_err() {
            return self.close_slow(now, index);
        }
        if !conn.is_metered && conn.outbox.bytes() > OUTBOX_BYTES_MAX {
            conn.is_metered = true;
            self.unsent_bytes += conn.outbox.held_bytes();
        }
        self.mark(index);
        self.shed_unsent();
    }

    /// Enters a session's audience, with the time and the item as greeting.
    pub(super) fn join_session(&mut self, now: Now, index: u32, serial: u32) {
        let Engine { delivery: all, fx, .. } = &mut self.engine;
        let second = all.second();
        let Some(session) = all.shown_by_serial(now, serial, fx).cloned() else {
            return self.close_socket(now, index, 4004, "Session not found");
        };
        all.seen(now, serial);
        all.listen(now, serial, fx);
        let mut bytes = Vec::new();
        for text in delivery::greeting(&session, now, second) {
            ws::push_text_frame(&text, &mut bytes);
        }
        self.hand(now, index, &Frame::lasting(bytes));
    }

    /// One line for each change of a session's state or time, when it is true.
    pub(super) fn log_session(&self, serial: u32, message: &Message) {
        let what = match message {
            Message::Expired => "expired",
            Message::Turned(State::InProgress, _) => "resumed",
            Message::Turned(state, _) => state.name(),
            Message::Extended { .. } => "extended",
            Message::Tick(_) | Message::SectionOver { .. } | Message::Gone => return,
        };
        if let Some(session) = self.engine.delivery.peek(serial) {
            let (assessment, candidate) = (&*session.assessment.id, &*session.candidate);
            log::info!(session = &*session.id, assessment, candidate; "session {what}");
        }
    }

    /// The ticks of a slot: a frame for each second that is left to anybody, a pointer for each who listens.
    pub(super) fn beat(&mut self, now: Now, slot: u32) {
        let mut ticks = std::mem::take(&mut self.candidates.ticks);
        let Engine { delivery: all, fx, .. } = &mut self.engine;
        all.beat(now, slot, &mut ticks, fx);
        for Tick { serial, left_s } in ticks.drain(..) {
            let frame = self.candidates.frames.entry(left_s);
            let frame =
                frame.or_insert_with(|| Frame::tick(ws::text_frame(&delivery::timer(Some(left_s), now, None))));
            let frame = frame.clone();
            self.cast(now, (Topic::Session(serial), Encoding::WebSocket), &frame, Bound::CANDIDATE);
        }
        // The text says when: the next slot has its own.
        self.candidates.frames.clear();
        self.candidates.ticks = ticks;
    }
}
