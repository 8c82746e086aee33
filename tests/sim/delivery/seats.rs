//! Candidates at their sockets.
//!
//! Owns what a candidate's browser says and how it behaves, and holds every frame it gets against the ledger: a
//! greeting, then what everybody at the session hears, word for word and in order, and between that the answers to
//! what it has asked, in the order asked.

use std::collections::VecDeque;
use std::rc::Rc;

use timerd::limits::SOCKETS_PER_SESSION;

use super::Hall;
use super::answers::{View, tagged, way};
use super::ledger::{Deed, Face, Noun, Outcome, Said, What};
use super::model::{Op, State};
use crate::net::Pace;
use crate::peer::{self, Frame};
use crate::world::{World, violated};

/// What a message is for.
#[derive(Clone, Debug)]
enum Kind {
    Ping,
    Current,
    Deed(Deed),
    /// The answer is this error.
    Wrong(&'static str),
}

/// A message on its way.
#[derive(Debug)]
pub(super) struct Message {
    kind: Kind,
    pub(super) ask: usize,
    /// What its answer ends with.
    tag: String,
    pub(super) end: u64,
    pub(super) delivered: Option<u64>,
}

/// A candidate's socket.
#[derive(Debug)]
pub struct Seat {
    /// Its line.
    pub line: usize,
    /// Which session.
    pub id: Rc<str>,
    capacity: usize,
    request: u64,
    sent: u64,
    joined: Option<u64>,
    upgraded: bool,
    /// Parts of the greeting heard.
    greeted: u8,
    /// How much of the session's log it has heard.
    pub cursor: usize,
    /// Log entries before this one may be heard or not: they were said when it came.
    pub optional: usize,
    /// The last tick it has heard in this descent.
    last_tick: Option<u64>,
    /// The last tick it has heard, or was greeted with: its value, and the instant of the grid.
    last_beat: Option<(u64, u64)>,
    pub(super) messages: VecDeque<Message>,
    /// What must be the next frame: which request it answers, and the text for each whose doing that may have been.
    next: Option<(usize, Vec<(usize, String)>)>,
    sins: u32,
    closed: bool,
    /// It will hear no more.
    pub gone: bool,
}

impl Seat {
    /// It hears everything in the turn in which it is said.
    pub fn is_prompt(&self) -> bool {
        self.greeted == 2 && self.capacity == usize::MAX && !self.gone && !self.closed && self.sins == 0
    }

    /// It has heard this tick. What was told before a pause that took no time is not told again behind it.
    pub fn has_heard(&self, said: &Said) -> bool {
        let is_last = |beat| self.last_beat == Some(beat);
        said.tick.is_some() && (said.tick == self.last_tick || said.tick.zip(said.grid_ns).is_some_and(is_last))
    }

    /// It was there before `turn`.
    pub fn came_before(&self, turn: u64) -> bool {
        self.joined.is_some_and(|joined| joined < turn)
    }

    /// It waits for an answer.
    pub fn waits(&self) -> bool {
        !self.messages.is_empty() && !self.gone && !self.closed && self.sins == 0
    }
}

impl Hall {
    /// A candidate comes.
    pub fn sit_down(&mut self, world: &mut World) {
        let Some(id) = self.some_session() else { return };
        let there = self.seats.iter().filter(|seat| seat.id == id && !seat.gone).count();
        if there <= 1 || self.rng.percent(30) {
            self.open_seat(world, id);
        }
    }

    /// A socket is opened.
    pub fn open_seat(&mut self, world: &mut World, id: Rc<str>) {
        let pace = match self.rng.below(10) {
            0..7 => Pace::WHOLE,
            _ => Pace { piece: self.rng.pick(&[3, 50, 400]), pieces: 300 },
        };
        let capacity = match self.rng.below(10) {
            0..8 => usize::MAX,
            _ => self.rng.pick(&[60, 700, 5_000]),
        };
        let line = world.net.connect(pace, capacity);
        let request = peer::upgrade(&format!("/delivery/ws/{id}"));
        world.net.send_from(line, &request);
        self.seats.push(Seat {
            line,
            id,
            capacity,
            request: request.len() as u64,
            sent: request.len() as u64,
            joined: None,
            upgraded: false,
            greeted: 0,
            cursor: 0,
            optional: 0,
            last_tick: None,
            last_beat: None,
            messages: VecDeque::new(),
            next: None,
            sins: 0,
            closed: false,
            gone: false,
        });
        self.count("hall sockets");
    }

    /// Somebody at a socket says something.
    pub fn fidget(&mut self, world: &mut World) {
        let ready: Vec<usize> = (0..self.seats.len())
            .filter(|at| {
                let seat = &self.seats[*at];
                seat.upgraded && !seat.gone && !seat.closed && self.ledger.nouns.contains_key(&seat.id)
            })
            .collect();
        if ready.is_empty() {
            return;
        }
        let at = ready[self.rng.index(ready.len())];
        if self.seats[at].capacity != usize::MAX && self.rng.percent(60) {
            return world.net.drain(self.seats[at].line);
        }
        if self.rng.percent(2) {
            return self.sin(world, at);
        }
        let count = if self.rng.percent(75) { 1 } else { self.rng.range(2, 4) };
        for _ in 0..count {
            self.say(world, at);
        }
    }

    fn sin(&mut self, world: &mut World, at: usize) {
        let seat = &mut self.seats[at];
        seat.sins += 1;
        match self.rng.below(3) {
            0 => world.net.send_from(seat.line, &peer::frame(2, b"\x00\x01", 5)),
            1 => world.net.send_from(seat.line, b"\x81\x05hello"),
            _ => world.net.send_from(seat.line, &peer::frame(1, &vec![b'x'; 100_000], 0)),
        }
        let asks: Vec<usize> = seat.messages.iter().map(|message| message.ask).collect();
        asks.into_iter().for_each(|ask| self.ledger.lost(ask));
    }

    fn say(&mut self, world: &mut World, at: usize) {
        if self.seats[at].messages.len() > 8 {
            return;
        }
        let id = self.seats[at].id.clone();
        self.words += 1;
        let tag = format!(r#","ref":{}"#, self.words);
        let (kind, text) = match self.rng.below(100) {
            0..10 => (Kind::Ping, format!(r#"{{"type":"ping"{tag}}}"#)),
            10..20 => (Kind::Current, format!(r#"{{"type":"get_current"{tag}}}"#)),
            20..25 => {
                let (why, text) = self.rng.pick(&[
                    ("Unknown message type: shout", r#"{"type":"shout""#),
                    ("Unknown message type: submit", r#"{"type":"submit""#),
                    ("", r#"{"type":"navigate""#),
                    ("", r#"{"type":"answer_save","item_id":"q0""#),
                    ("", r#"{"type":"answer_save","item_id":"q0","response":[]"#),
                    ("", r#"{"type":"flag","item_id":"q0""#),
                ]);
                (Kind::Wrong(why), format!("{text}{tag}}}"))
            }
            25..40 => {
                let face = self.ledger.nouns[&id].latest.clone();
                let (item, on) = (self.some_item(&face), self.rng.percent(60));
                let text = format!(r#"{{"type":"flag","item_id":"{item}","is_flagged":{on}{tag}}}"#);
                (Kind::Deed(Deed::plain(Op::Flag(item, on))), text)
            }
            _ => {
                let deed = self.some_deed(&id);
                let text = match &deed.op {
                    Op::Answer(item, flag) => {
                        let flag = flag.map_or(String::new(), |flag| format!(r#","is_flagged":{flag}"#));
                        let words = &deed.words[0].1;
                        format!(r#"{{"type":"answer_save","item_id":"{item}","response":{words}{flag}{tag}}}"#)
                    }
                    Op::Go(go) => format!(r#"{{"type":"navigate",{}{tag}}}"#, way(go)),
                    _ => return,
                };
                (Kind::Deed(deed), text)
            }
        };
        let what = match &kind {
            Kind::Deed(deed) => What::Deed(id, deed.clone()),
            _ => What::Read,
        };
        let seat = &mut self.seats[at];
        let ask = self.ledger.ask(what, seat.line, false);
        let frame = peer::frame(1, text.as_bytes(), 0x0102_0304);
        seat.sent += frame.len() as u64;
        world.net.send_from(seat.line, &frame);
        seat.messages.push_back(Message { kind, ask, tag, end: seat.sent, delivered: None });
    }

    /// A candidate's line breaks, or he leaves.
    pub fn leave_seat(&mut self, world: &mut World) {
        if self.seats.is_empty() {
            return;
        }
        let at = self.rng.index(self.seats.len());
        let seat = &mut self.seats[at];
        if seat.gone {
            return;
        }
        seat.gone = true;
        match self.rng.below(3) {
            0 => world.net.reset_from(seat.line),
            1 => world.net.end_from(seat.line),
            _ => world.net.send_from(seat.line, &peer::frame(8, &1000_u16.to_be_bytes(), 9)),
        }
        let (asks, id): (Vec<usize>, _) = (seat.messages.iter().map(|it| it.ask).collect(), seat.id.clone());
        asks.into_iter().for_each(|ask| self.ledger.lost(ask));
        if self.rng.percent(50) && self.ledger.nouns.contains_key(&id) {
            self.open_seat(world, id);
        }
    }

    // -----------------------------------------------------------------------------------------------------------
    // What they hear.

    /// Whatever has come to a socket.
    pub fn hear_seat(&mut self, world: &mut World, at: usize) {
        let turn = self.ledger.turn();
        let seat = &mut self.seats[at];
        let line = world.net.line(seat.line);
        let (delivered, is_closed) = (line.delivered, line.closed);
        seat.gone |= line.was_cut;
        if seat.joined.is_none() && delivered >= seat.request {
            seat.joined = Some(turn);
            if let Some(noun) = self.ledger.nouns.get(&seat.id) {
                seat.optional = noun.log.len();
                // A tick that was due when it came may still be told, but need not: the greeting tells as much.
                let open = noun.log.last().filter(|said| said.is_open);
                seat.cursor = noun.log.len() - usize::from(open.is_some());
                seat.last_beat = open.and_then(|said| said.tick.zip(said.grid_ns));
            }
        }
        let mut inbox = std::mem::take(&mut world.net.line(seat.line).inbox);
        if !seat.upgraded && !inbox.is_empty() {
            match peer::take_upgrade(&mut inbox) {
                Ok(Some(true)) => seat.upgraded = true,
                Ok(Some(false)) => seat.gone = true,
                Ok(None) => {}
                Err(what) => violated("a valid upgrade is completed", &what),
            }
        }
        if seat.upgraded {
            match peer::take_frames(&mut inbox) {
                Ok(frames) => frames.into_iter().for_each(|frame| {
                    if self.seats[at].closed {
                        violated("a close frame is the last", &format!("{frame:?}"));
                    }
                    self.hear_frame(world, at, frame);
                }),
                Err(what) => violated("a message is a frame", &what),
            }
        }
        let seat = &mut self.seats[at];
        if is_closed {
            let is_excused = seat.gone || seat.closed || seat.sins > 0 || seat.capacity != usize::MAX;
            if !is_excused {
                violated("nobody who behaves is dropped", &format!("{seat:?}"));
            }
            let seat = self.seats.swap_remove(at);
            seat.messages.iter().for_each(|message| self.ledger.lost(message.ask));
            return world.net.forget(seat.line);
        }
        world.net.line(seat.line).inbox = inbox;
        if seat.is_prompt()
            && let Some(noun) = self.ledger.nouns.get(&seat.id).filter(|noun| noun.gone.is_none())
        {
            let is_owed = |(number, said): (usize, &Said)| {
                said.is_due && !said.is_open && !seat.has_heard(said) && number >= seat.optional.max(seat.cursor)
            };
            let missing = noun.log.iter().enumerate().skip(seat.cursor).find(|it| is_owed(*it));
            if let Some((_, missing)) = missing {
                let text = format!("{missing:?} is missing\n  {seat:?}\n  of {noun:?}");
                violated("everybody hears everything, in its turn", &text);
            }
        }
    }

    fn hear_frame(&mut self, world: &mut World, at: usize, frame: Frame) {
        let seat = &mut self.seats[at];
        let text = match frame {
            Frame::Text(text) => text,
            Frame::Ping(payload) => {
                let frame = peer::frame(10, &payload, 5);
                seat.sent += frame.len() as u64;
                if !seat.gone {
                    world.net.send_from(seat.line, &frame);
                }
                return;
            }
            Frame::Pong => return,
            Frame::Close(code, reason) => return self.hear_close(world, at, code, &reason),
        };
        self.count("hall messages");
        let seat = &mut self.seats[at];
        if seat.gone || seat.sins > 0 {
            return;
        }
        if seat.greeted < 2 {
            return self.hear_greeting(at, &text);
        }
        if let Some((ask, next)) = seat.next.take() {
            let Some((other, _)) = next.iter().find(|(_, next)| *next == text) else {
                violated("what belongs together is told together", &format!("{text}, not {next:?}"));
            };
            if *other != ask {
                let id = seat.id.clone();
                self.ledger.exchange(ask, *other, &id);
            }
            return;
        }
        if text.starts_with(r#"{"type":"keepalive""#) {
            return;
        }
        let is_answer =
            text.rfind(r#","ref":"#).is_some_and(|at| text[at + 7..].trim_end_matches('}').parse::<u64>().is_ok());
        if is_answer { self.hear_answer(at, &text) } else { self.hear_broadcast(at, &text) }
    }

    /// The faces that were shown at some time since `turn`, each with the turns in which it was.
    pub fn views_since(&self, id: &str, turn: u64) -> Vec<View<'_>> {
        let Some(noun) = self.ledger.nouns.get(id) else { return Vec::new() };
        let mut views = Vec::new();
        for then in (turn..=self.ledger.turn()).rev() {
            let now = self.ledger.clocks(then);
            for (at, (since, face)) in noun.versions.iter().enumerate().rev() {
                // Whoever is told in the turn in which something happens may be told of either.
                let until = noun.versions.get(at + 1).map_or(u64::MAX, |(next, _)| *next);
                if *since <= then && then <= until {
                    views.push(View { noun, face, now });
                }
                if *since < then {
                    break;
                }
            }
        }
        views
    }

    fn hear_greeting(&mut self, at: usize, text: &str) {
        let seat = &self.seats[at];
        let since = seat.joined.unwrap_or_default();
        let is_first = seat.greeted == 0;
        let views = self.views_since(&seat.id, since);
        let fits = views.iter().any(|view| *text == if is_first { view.time() } else { view.here() });
        if !fits {
            let text = format!("{text}: {seat:?} of {:?}", self.ledger.nouns.get(&seat.id));
            violated("the greeting tells the time, and then the place", &text);
        }
        if let Some(ended) = views.iter().find(|view| !view.face.core.state.is_active()).filter(|_| views.len() == 1)
        {
            violated("nobody is let in whose session is over", &format!("{:?}", ended.face));
        }
        self.seats[at].greeted += 1;
    }

    /// What everybody at the session is told: the log, word for word, but for ticks that gave way to newer ones.
    fn hear_broadcast(&mut self, at: usize, text: &str) {
        let seat = &mut self.seats[at];
        let Some(noun) = self.ledger.nouns.get(&seat.id) else {
            violated("a socket is at a session", text);
        };
        let is_slow = seat.capacity != usize::MAX;
        let mut cursor = seat.cursor;
        while let Some(said) = noun.log.get(cursor) {
            if said.texts.iter().any(|known| known == text) {
                if let Some(value) = said.tick {
                    if seat.last_tick.is_some_and(|last| last <= value) {
                        violated("ticks fall strictly", &format!("{value} after {:?}: {noun:?}", seat.last_tick));
                    }
                    seat.last_tick = Some(value);
                    seat.last_beat = said.grid_ns.map(|grid_ns| (value, grid_ns));
                } else if text.starts_with(r#"{"type":"resumed""#) || text.starts_with(r#"{"type":"extended""#) {
                    seat.last_tick = None;
                }
                seat.cursor = cursor + 1;
                let kind = text[9..].split('"').next().unwrap_or_default();
                self.count(match kind {
                    "timer" => "hall ticks",
                    "expired" => "told expired",
                    "paused" => "told paused",
                    "resumed" => "told resumed",
                    "terminated" => "told terminated",
                    "completed" => "told completed",
                    "extended" => "told extended",
                    "section_expired" => "told section_expired",
                    _ => "told items",
                });
                return;
            }
            // Ticks may be left out where they were not due, or where others are newer and the client slow.
            let may_skip = said.tick.is_some() && (is_slow || !said.is_due || said.is_open || seat.has_heard(said));
            if !may_skip && cursor >= seat.optional {
                break;
            }
            cursor += 1;
        }
        let due = &noun.log[seat.cursor.min(noun.log.len())..];
        let text = format!("{text}, not {due:?}\n  {seat:?}\n  of {noun:?}");
        violated("sockets hear what follows and what is durable, in order, once", &text);
    }

    fn hear_answer(&mut self, at: usize, text: &str) {
        let now_turn = self.ledger.turn();
        let seat = &mut self.seats[at];
        let id = seat.id.clone();
        let Some(message) = seat.messages.pop_front() else {
            violated("each message is answered once", text);
        };
        let Some(since) = message.delivered.filter(|_| text.ends_with(&format!("{}}}", message.tag))) else {
            violated("answers are in the order of messages", &format!("{text} to {message:?}"));
        };
        let error = text
            .strip_prefix(r#"{"type":"error","message":""#)
            .map(|rest| rest.split('"').next().unwrap_or_default());
        match (&message.kind, error) {
            (Kind::Ping | Kind::Current, None) => {
                let views = self.views_since(&id, since);
                let told = |view: &View<'_>| match message.kind {
                    Kind::Ping => view.time(),
                    _ => view.here(),
                };
                // Behind a move of his own a candidate hears of the item after it, when that is durable, and of where
                // time has led him from there meanwhile.
                let noun = &self.ledger.nouns[&id];
                let now = self.ledger.clocks(now_turn);
                let is_here = |face: &Face| tagged(View { noun, face, now }.here(), &message.tag) == text;
                let is_led_here = |face: &Face| {
                    (since..=now_turn).any(|turn| {
                        let mut face = face.clone();
                        face.live(self.ledger.clocks(turn), &self.ledger.lapses);
                        is_here(&face)
                    })
                };
                let mut bases = super::ledger::since(&noun.bases, since).into_iter();
                let is_moved =
                    matches!(message.kind, Kind::Current) && bases.any(|face| is_here(face) || is_led_here(face));
                if !is_moved && !views.iter().any(|view| tagged(told(view), &message.tag) == text) {
                    let text =
                        format!("{text} in turn {now_turn}, asked in {since}: {:?}", self.ledger.nouns.get(&id));
                    violated("visible is durable, and true", &text);
                }
                self.count("hall reads");
            }
            (Kind::Ping | Kind::Current, Some("Session not found")) => {}
            (Kind::Current, Some(error))
                if error.contains("utcome unknown") || error.ends_with("nothing was changed") => {}
            (Kind::Wrong(why), Some(error)) if why.is_empty() || error == *why => {
                self.count("bad messages of candidates")
            }
            (Kind::Deed(deed), None) => {
                let noun = &self.ledger.nouns[&id];
                let told = |done: &Outcome| {
                    let view = View { noun, face: done.face.as_ref().unwrap(), now: self.ledger.clocks(done.turn) };
                    view.answered_on_socket(deed, &message.tag)
                };
                let outcomes = self.ledger.outcomes(message.ask, &id);
                let fits = |done: &Outcome| told(done).first().is_some_and(|first| first == text);
                let mut found = outcomes.iter().filter(|(_, done)| fits(done)).peekable();
                let Some((other, _)) = found.peek() else {
                    let expected: Vec<_> = outcomes.iter().map(|(_, done)| told(done)).collect();
                    let text = format!("{text} to {message:?}, not {expected:?}");
                    violated("what is acknowledged is durable, and what was done", &text);
                };
                let other = *other;
                let next =
                    found.filter_map(|(other, done)| Some((*other, told(done).pop().filter(|last| last != text)?)));
                let next: Vec<(usize, String)> = next.collect();
                if next.is_empty() && other != message.ask {
                    self.ledger.exchange(message.ask, other, &id);
                }
                self.seats[at].next = (!next.is_empty()).then_some((message.ask, next));
                self.count("acknowledged on sockets");
            }
            (Kind::Deed(deed), Some(error)) => {
                let is_unknown = error.contains("utcome unknown");
                if is_unknown {
                    self.ledger.lost(message.ask);
                    return self.count("unknown on sockets");
                }
                let deed = deed.clone();
                self.judge_refusal(&id, &deed, message.ask, since, error);
            }
            _ => violated("an answer fits its message", &format!("{text} to {message:?}")),
        }
        self.ledger.answered(message.ask);
    }

    /// Somebody was told that nothing was changed, and why.
    pub fn judge_refusal(&mut self, id: &str, deed: &Deed, ask: usize, since: u64, why: &str) {
        if !self.ledger.asks[ask].done.is_empty() && !self.ledger.give_away(ask, id) {
            let done = &self.ledger.asks[ask].done;
            let asked = self.ledger.asked_of(id);
            violated("what is refused is not done", &format!("{why}: {deed:?}, {done:?}\n  asked: {asked:#?}"));
        }
        if why.ends_with("nothing was changed") {
            return self.count("hall refused by the disk");
        }
        let Some(noun) = self.ledger.nouns.get(id) else { return };
        if why.starts_with("Session ") && why.ends_with("not found") {
            if noun.gone.is_none() && !self.may_be_gone(noun) {
                violated("a session that is there is found", &format!("{noun:?}"));
            }
            return;
        }
        let now = self.ledger.turn();
        let mut verdicts = Vec::new();
        // When something is done to what has no clock cannot be told from what comes of it.
        let is_still = noun.latest.core.next_ns().is_none();
        let from = if is_still { since.saturating_sub(200) } else { since };
        let mut found = None;
        'search: for face in super::ledger::since(&noun.bases, from) {
            for turn in since..=now {
                for lapses in [&self.ledger.lapses[..], &[]] {
                    let clocks = self.ledger.clocks(turn);
                    if clocks.mono.ns() < face.core.at_ns {
                        continue;
                    }
                    let mut then = (**face).clone();
                    then.live(clocks, lapses);
                    match then.ask(deed) {
                        Err(known) if known == why => {
                            found = Some(then.core.state == State::Expired);
                            break 'search;
                        }
                        verdict => verdicts.push(verdict),
                    }
                }
            }
        }
        if let Some(is_expired) = found {
            return self.count(if is_expired { "refused: expired" } else { "refused: other" });
        }
        verdicts.dedup();
        let text = format!("{why}, not {verdicts:?}: {deed:?} since turn {since} of {now}\n  of {noun:?}");
        violated("nothing is refused without the contract's reason", &text);
    }

    /// Whether a session may have left the memory.
    pub fn may_be_gone(&self, noun: &Noun) -> bool {
        let is_over = noun.latest.core.next_ns().is_none() && !noun.latest.core.state.is_active();
        noun.may_be_gone(self.ledger.latest_ms, self.plan.keep_ms) || (self.plan.sessions_max < 100 && is_over)
    }

    fn hear_close(&mut self, world: &mut World, at: usize, code: Option<u16>, reason: &str) {
        let seat = &self.seats[at];
        let noun = self.ledger.nouns.get(&seat.id);
        let since = seat.joined.unwrap_or_default();
        let views = self.views_since(&seat.id, since);
        let is_gone = noun.is_none_or(|noun| noun.gone.is_some() || self.may_be_gone(noun));
        let there = self.seats.iter().filter(|other| other.id == seat.id).count();
        let fits = match code {
            Some(4004) => is_gone || views.is_empty(),
            Some(4003) => {
                seat.greeted == 0
                    && views.iter().any(|view| {
                        let state = view.face.core.state;
                        !state.is_active() && reason == format!("Session not active (state: {})", state.name())
                    })
            }
            Some(4029) => {
                let is_late = seat.capacity != usize::MAX;
                seat.greeted == 0 && (is_late || there > SOCKETS_PER_SESSION as usize)
            }
            Some(1013) => seat.capacity != usize::MAX || reason == "Server full",
            Some(1002 | 1003 | 1007 | 1008 | 1009) => seat.sins > 0,
            Some(1000 | 4000) | None => seat.gone || seat.sins > 0 || is_gone,
            _ => false,
        };
        if !fits && !seat.gone && seat.sins == 0 {
            violated("nobody is sent away without cause", &format!("{code:?} {reason}: {seat:?} of {noun:?}"));
        }
        let _ = world;
        self.seats[at].closed = true;
        self.count(match code {
            Some(4003) => "closed: not active",
            Some(4004) => "closed: no session",
            Some(4029) => "closed: too many sockets of one",
            Some(1013) => "closed: slow candidate",
            _ => "closed: candidates",
        });
    }
}
