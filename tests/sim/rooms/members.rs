//! People at their sockets.
//!
//! Owns what a member's browser says and how it behaves, and holds every frame it gets against the ledger: what it has
//! asked for, in order, and between that what everybody in the room hears, word for word, in order and once. From that
//! alone, `session:joined` and what follows it, each browser makes its own view of the room, and that must be the
//! server's at the end of every turn.

use std::collections::VecDeque;
use std::rc::Rc;

use serde_json::Value;
use timerd::clock::Now;
use timerd::limits::{LOBBY_AGE_MAX, ROOM_PEOPLE_MAX};

use super::Teams;
use super::ledger::{Ask, Noun, PRESENCE_NS, Place, Revision, Want, What, since};
use super::model::{Entry, Face, List, MS_NS, Press, SECOND_NS, is_list, quoted};
use crate::net::{Net, Pace};
use crate::peer::{self, Frame};
use crate::world::{World, violated};

/// Entries that may wait for somebody before the daemon may lose patience with him.
const WAITING_MAX: usize = 60;

/// How long somebody who has found no room goes on talking. Then he waits to be sent away: what he says in the turn in
/// which that happens is not heard any more.
const LOBBY_TALK_NS: u64 = LOBBY_AGE_MAX.as_secs() * SECOND_NS - 10 * SECOND_NS;

/// Something on its way to the daemon.
#[derive(Debug)]
enum Item {
    Upgrade,
    Ask(Ask),
    /// He says goodbye, or breaks the rules of conversation.
    End,
}

/// What a browser knows, from what it was told alone.
#[derive(Debug)]
pub(super) struct View {
    /// In which room, and under which number there.
    place: Place,
    /// How much of the room's log it has heard.
    cursor: usize,
    /// What may be part of what it was told first, and need not be heard again.
    optional: usize,
    /// Since which turn.
    since: u64,
    /// The countdown: of which revision, and what was left when it was told so.
    revision: u64,
    face: Face,
    left_ms: u64,
    told_ns: u64,
    /// The lowest second told in this descent.
    told_s: u64,
    users: List,
    /// Since when that is not so any more.
    wrong_since: Option<u64>,
    /// When it last heard of lines.
    presence_ns: Option<u64>,
    /// How often the room had heard of lines by then.
    presences: u64,
}

/// Somebody's socket.
#[derive(Debug)]
pub(super) struct Seat {
    pub line: usize,
    /// The ledger's name for it.
    pub sock: u64,
    capacity: usize,
    /// What it sends comes at once.
    is_whole: bool,
    sent: u64,
    items: VecDeque<(u64, Item)>,
    /// The daemon has it.
    is_open: bool,
    is_upgraded: bool,
    pub view: Option<View>,
    /// When he was in a room last, or came.
    inside_ns: u64,
    /// He has left a room, and old news may still be on its way.
    is_fading: bool,
    is_closed: bool,
    /// He will hear no more.
    pub is_gone: bool,
    has_sinned: bool,
    /// Nobody knows what has become of what he asked for.
    is_lost: bool,
}

impl Seat {
    /// It hears everything in the turn in which it is said.
    fn is_prompt(&self) -> bool {
        self.capacity == usize::MAX && self.is_listening()
    }

    fn is_listening(&self) -> bool {
        self.is_upgraded && !self.is_gone && !self.is_closed && !self.has_sinned && !self.is_lost
    }

    fn place(&self) -> Option<Place> {
        self.view.as_ref().map(|view| view.place)
    }
}

/// By what somebody can come back.
#[derive(Clone, Debug)]
pub(super) struct Ticket {
    /// Which room.
    key: u64,
    /// Its id.
    id: Rc<str>,
    /// By what he is known.
    user: String,
    /// His number.
    number: u32,
}

impl Ticket {
    /// For which room.
    pub(super) fn room(&self) -> u64 {
        self.key
    }
}

impl Teams {
    // -----------------------------------------------------------------------------------------------------------
    // What people do.

    /// Somebody opens a socket, and says what he wants as soon as he can.
    pub(super) fn come(&mut self, world: &mut World) {
        if self.seats.len() >= self.plan.sockets {
            return;
        }
        let pace = match self.rng.below(10) {
            0..8 => Pace::WHOLE,
            _ => Pace { piece: self.rng.pick(&[3, 50, 400]), pieces: 300 },
        };
        let capacity = match self.rng.below(12) {
            0..10 => usize::MAX,
            10 => self.rng.pick(&[700, 5_000]),
            _ => 2_500,
        };
        let line = world.net.connect(pace, capacity);
        let request = peer::upgrade("/ws/rooms");
        world.net.send_from(line, &request);
        self.socks += 1;
        self.seats.push(Seat {
            line,
            sock: self.socks,
            capacity,
            is_whole: pace.piece == usize::MAX,
            sent: request.len() as u64,
            items: VecDeque::from([(request.len() as u64, Item::Upgrade)]),
            is_open: false,
            is_upgraded: false,
            view: None,
            inside_ns: world.now.mono.ns(),
            is_fading: false,
            is_closed: false,
            is_gone: false,
            has_sinned: false,
            is_lost: false,
        });
        self.count("room sockets");
    }

    /// Who can say something.
    fn listening(&self, is_meant: impl Fn(&Seat) -> bool) -> Vec<usize> {
        (0..self.seats.len()).filter(|at| self.seats[*at].is_listening() && is_meant(&self.seats[*at])).collect()
    }

    /// Somebody who is in no room wants to be in one.
    pub(super) fn enter(&mut self, world: &mut World) {
        let free = self.listening(|seat| seat.view.is_none());
        let is_free = |ledger: &super::ledger::Ledger, seat: &Seat| {
            let line = ledger.socks.get(&seat.sock);
            let waits = |line: &super::ledger::Sock| line.owed.iter().any(|owed| owed.want != Want::Nothing);
            line.is_some_and(|line| line.next_place().is_none() && !waits(line)) && seat.items.is_empty()
        };
        let free: Vec<usize> = free.into_iter().filter(|at| is_free(&self.ledger, &self.seats[*at])).collect();
        if free.is_empty() {
            return self.come(world);
        }
        let at = free[self.rng.index(free.len())];
        let is_moving = self.ledger.socks[&self.seats[at].sock].is_moving();
        let known = self.some_ticket(world.now);
        let there = self.ledger.len();
        let wants_new = known.is_none() || (there < self.plan.rooms && self.rng.percent(30));
        let name = self.some_name();
        if wants_new || self.rng.percent(3) {
            let duration_s = match self.rng.below(10) {
                0..8 => Some(self.rng.range(1, self.plan.duration_s)),
                8 => Some(self.rng.pick(&[1, 1_500, 86_400])),
                _ => None,
            };
            return self.say(world, at, Ask::Create { duration_s, name, fault: None });
        }
        let ticket = known.unwrap();
        let is_vague = self.ledger.is_vague(ticket.key, ticket.number);
        let user = match self.rng.below(100) {
            // Whoever is on his way out of one room comes to another as somebody new.
            _ if is_moving => None,
            // Whether somebody would be himself when he comes back cannot be told.
            0..55 if is_vague => None,
            0..55 => Some(ticket.user.clone()),
            55..90 => None,
            90..95 => Some("0123456789abcdefghjkmnpqrs".to_owned()),
            _ => {
                let sure = |other: &&Ticket| !self.ledger.is_vague(other.key, other.number);
                self.tickets.first().filter(sure).map(|other| other.user.clone())
            }
        };
        let people = self.ledger.nouns[&ticket.key].latest().map_or(0, |room| room.people.len());
        let user =
            if people > self.plan.people && !is_moving && !is_vague { Some(ticket.user.clone()) } else { user };
        let id = match self.rng.below(50) {
            0 => "0000000000".to_owned(),
            1 => "no such room".to_owned(),
            _ => self.spelled(&ticket.id),
        };
        self.say(world, at, Ask::Join { id, name, user, fault: None });
    }

    /// Somebody who has been in a room that is there for sure.
    fn some_ticket(&mut self, now: Now) -> Option<Ticket> {
        for _ in 0..4 {
            let at = self.rng.index(self.tickets.len());
            let ticket = self.tickets.get(at)?;
            let noun = self.ledger.nouns.get(&ticket.key);
            let is_there = noun.is_some_and(|noun| noun.removed.is_none());
            if is_there && !self.ledger.is_unsure(ticket.key, now) {
                return Some(ticket.clone());
            }
            // That the room is gone he finds out now and then.
            if self.rng.percent(95) {
                self.tickets.swap_remove(at);
            }
        }
        None
    }

    /// As somebody may have heard it and typed it.
    pub(super) fn spelled(&mut self, id: &str) -> String {
        let mut text = String::new();
        for letter in id.chars() {
            let rng = &mut self.rng;
            let other = match letter {
                '0' if rng.percent(30) => rng.pick(&['o', 'O']),
                '1' if rng.percent(30) => rng.pick(&['i', 'I', 'l', 'L']),
                letter if rng.percent(30) => letter.to_ascii_uppercase(),
                letter => letter,
            };
            text.push(other);
            if rng.percent(8) {
                text.push('-');
            }
        }
        text
    }

    fn some_name(&mut self) -> Option<String> {
        self.names += 1;
        match self.rng.below(10) {
            0..3 => None,
            3..7 => Some(self.rng.pick(&["Ada", "Grace", "Edsger", "Barbara"]).to_owned()),
            7 => Some("Zoë \"Ω\" \\ 🦉 </b>".to_owned()),
            8 => Some("é".repeat(40)),
            _ => Some(format!("Person {}", self.names)),
        }
    }

    /// Somebody in a room does something to its countdown.
    pub(super) fn press(&mut self, world: &mut World) {
        let inside = self.listening(|seat| seat.view.is_some());
        if inside.is_empty() {
            return self.enter(world);
        }
        let at = inside[self.rng.index(inside.len())];
        let is_rush = self.rng.percent(self.plan.rushes);
        if !is_rush {
            let count = if self.rng.percent(85) { 1 } else { self.rng.range(2, 4) };
            for _ in 0..count {
                let revision = self.some_revision(at);
                self.press_once(world, at, revision);
            }
            return;
        }
        // All who are there see the same, and press at once.
        let place = self.seats[at].place().unwrap();
        for at in inside {
            if self.seats[at].place().is_some_and(|(key, _)| key == place.0) && self.rng.percent(60) {
                let revision = Revision::Of(self.seats[at].view.as_ref().unwrap().revision);
                self.press_once(world, at, revision);
            }
        }
        self.count("rushes");
    }

    fn some_revision(&mut self, at: usize) -> Revision {
        let known = self.seats[at].view.as_ref().unwrap().revision;
        match self.rng.below(20) {
            0..9 => Revision::Any,
            9..17 => Revision::Of(known),
            17..19 => Revision::Of(known.saturating_sub(self.rng.range(1, 3))),
            _ => Revision::Of(known + self.rng.range(1, 3)),
        }
    }

    fn press_once(&mut self, world: &mut World, at: usize, revision: Revision) {
        let face = self.seats[at].view.as_ref().unwrap().face.clone();
        let rng = &mut self.rng;
        let start = |rng: &mut crate::rng::Rng, most: u64| {
            Press::Start(if rng.percent(50) { None } else { Some(rng.range(1, most)) })
        };
        let extend = |rng: &mut crate::rng::Rng| {
            Press::Extend(if rng.percent(70) { rng.range(1, 10) } else { rng.range(1, 3_600) })
        };
        let most = self.plan.duration_s;
        let press = match rng.below(10) {
            // Mostly what makes sense.
            0..8 => match (face.runs(), face.paused_at.is_some()) {
                (true, _) => match rng.below(6) {
                    0..2 => Press::Pause,
                    2..4 => extend(rng),
                    4 => Press::Reset,
                    _ => start(rng, most),
                },
                (_, true) => match rng.below(6) {
                    0..4 => Press::Resume,
                    4 => extend(rng),
                    _ => Press::Reset,
                },
                _ => start(rng, most),
            },
            _ => match rng.below(5) {
                0 => Press::Pause,
                1 => Press::Resume,
                2 => Press::Reset,
                3 => extend(rng),
                _ => start(rng, 86_400),
            },
        };
        self.say(world, at, Ask::Press { press, revision, fault: None });
    }

    /// Somebody says what nobody should.
    pub(super) fn talk_nonsense(&mut self, world: &mut World) {
        let all = self.listening(|_| true);
        if all.is_empty() {
            return;
        }
        let at = all[self.rng.index(all.len())];
        let any = Press::Start(None);
        let is_alone = self.is_alone(at);
        let ask = match self.rng.below(22) {
            0..3 => Ask::Ping,
            3..5 => Ask::Leave,
            5..8 => Ask::Bad("invalid", Some("Invalid JSON".to_owned())),
            8..11 => Ask::Bad("invalid", Some("Unknown message type: ".to_owned())),
            11 if is_alone => Ask::Create { duration_s: None, name: None, fault: Some("duration") },
            12 if is_alone => Ask::Create { duration_s: Some(5), name: None, fault: Some("name") },
            13 if is_alone => Ask::Join { id: String::new(), name: None, user: None, fault: Some("sessionId") },
            14 => Ask::Press { press: any, revision: Revision::Wrong, fault: None },
            15..17 => Ask::Press { press: any, revision: Revision::Any, fault: Some("duration") },
            17..20 => Ask::Press { press: Press::Extend(0), revision: Revision::Any, fault: Some("seconds") },
            _ if is_alone && self.seats[at].view.is_some() => {
                Ask::Create { duration_s: Some(60), name: None, fault: None }
            }
            _ => Ask::Press { press: Press::Pause, revision: Revision::Any, fault: None },
        };
        self.say(world, at, ask);
    }

    /// Nobody else is the same person.
    fn is_alone(&self, at: usize) -> bool {
        let place = self.seats[at].place();
        place.is_none() || self.seats.iter().filter(|seat| seat.place() == place).count() == 1
    }

    /// Somebody leaves his room, or hangs up.
    pub(super) fn part(&mut self, world: &mut World) {
        let inside = self.listening(|seat| seat.view.is_some());
        if inside.is_empty() {
            return;
        }
        let at = inside[self.rng.index(inside.len())];
        if self.rng.percent(35) {
            self.say(world, at, Ask::Leave);
            if self.rng.percent(30) && self.is_alone(at) {
                // He does not wait to be told: nobody would tell him.
                let name = self.some_name();
                self.say(world, at, Ask::Create { duration_s: Some(9), name, fault: None });
            }
            return;
        }
        let whole_room = self.rng.percent(12);
        let key = self.seats[at].place().map(|(key, _)| key);
        self.hang_up(world, at);
        if whole_room {
            let rest = inside.into_iter().filter(|other| self.seats[*other].place().map(|(key, _)| key) == key);
            rest.collect::<Vec<_>>().into_iter().for_each(|other| self.hang_up(world, other));
        }
    }

    fn hang_up(&mut self, world: &mut World, at: usize) {
        let seat = &mut self.seats[at];
        if std::mem::replace(&mut seat.is_gone, true) {
            return;
        }
        match self.rng.below(3) {
            0 => world.net.reset_from(seat.line),
            1 => world.net.end_from(seat.line),
            _ => {
                let frame = peer::frame(8, &1000_u16.to_be_bytes(), 9);
                seat.sent += frame.len() as u64;
                seat.items.push_back((seat.sent, Item::End));
                world.net.send_from(seat.line, &frame);
            }
        }
    }

    /// Somebody breaks the rules of conversation.
    pub(super) fn sin(&mut self, world: &mut World) {
        let all = self.listening(|seat| seat.is_whole);
        if all.is_empty() {
            return;
        }
        let at = all[self.rng.index(all.len())];
        let bytes = match self.rng.below(3) {
            0 => peer::frame(2, b"\x00\x01", 5),
            1 => b"\x81\x05hello".to_vec(),
            _ => peer::frame(1, &[b'x'; 5_000], 0),
        };
        let seat = &mut self.seats[at];
        seat.has_sinned = true;
        seat.sent += bytes.len() as u64;
        seat.items.push_back((seat.sent, Item::End));
        world.net.send_from(seat.line, &bytes);
        self.count("sins in rooms");
    }

    /// Kernels' buffers empty.
    pub(super) fn drain(&mut self, world: &mut World) {
        for seat in self.seats.iter_mut().filter(|seat| seat.capacity != usize::MAX && !seat.is_gone) {
            // One of them reads nothing until everything is over, though his browser is there.
            if seat.capacity != 2_500 && self.rng.percent(60) {
                world.net.drain(seat.line);
            }
            if seat.is_upgraded && self.rng.percent(10) {
                let frame = peer::frame(10, b"", 3);
                seat.sent += frame.len() as u64;
                world.net.send_from(seat.line, &frame);
            }
        }
    }

    /// Says something.
    fn say(&mut self, world: &mut World, at: usize, ask: Ask) {
        // Where lists are so long that answers wait for them, nobody speaks while he moves: when that would be looked
        // at only the daemon knows.
        let seat = &self.seats[at];
        let is_moving = self.ledger.socks.get(&seat.sock).is_some_and(|line| line.is_moving());
        if self.plan.sockets > 500 && (is_moving || !seat.items.is_empty()) {
            return;
        }
        if seat.view.is_none() && world.now.mono.ns() > seat.inside_ns + LOBBY_TALK_NS {
            return;
        }
        let text = self.words(&ask);
        let mask = u32::try_from(self.rng.bits() >> 32).unwrap();
        let frame = peer::frame(1, text.as_bytes(), mask);
        let seat = &mut self.seats[at];
        seat.sent += frame.len() as u64;
        world.net.send_from(seat.line, &frame);
        seat.items.push_back((seat.sent, Item::Ask(ask)));
        self.count("said in rooms");
    }

    /// As JSON, in one of many ways.
    fn words(&mut self, ask: &Ask) -> String {
        let rng = &mut self.rng;
        let number = |rng: &mut crate::rng::Rng, n: u64| match rng.below(4) {
            0 => format!("\"{n}\""),
            1 => format!("{n}.0"),
            _ => n.to_string(),
        };
        let mut fields: Vec<(&str, String)> = Vec::new();
        let named = |name: &Option<String>, rng: &mut crate::rng::Rng| match name {
            Some(name) if rng.percent(20) => quoted(&format!("  {name} ")),
            Some(name) => quoted(name),
            None => "null".to_owned(),
        };
        let kind = match ask {
            Ask::Ping => "ping",
            Ask::Leave => "session:leave",
            Ask::Bad(_, Some(text)) if text == "Invalid JSON" => {
                return rng.pick(&["", "nonsense", "[]", r#"{"type":"ping""#, "12", "null"]).to_owned();
            }
            Ask::Bad(..) => {
                return rng
                    .pick(&[r#"{"type":"shout"}"#, r#"{"type":"TIMER:start"}"#, r#"{"type":7}"#, "{}"])
                    .to_owned();
            }
            Ask::Create { duration_s, name, fault } => {
                match fault {
                    Some("duration") => {
                        let wrong = rng.pick(&["0", "86401", "true", "-1", "\"soon\"", "[]", "1.5"]);
                        fields.push(("duration", wrong.to_owned()));
                    }
                    _ => fields.extend(duration_s.map(|seconds| ("duration", number(rng, seconds)))),
                }
                match fault {
                    Some("name") => {
                        let long = format!("\"{}\"", "x".repeat(41));
                        let wrong = rng.pick(&["\"\"", "\"   \"", "7", r#""a\u0007b""#, "[]"]);
                        fields.push(("name", if rng.percent(30) { long } else { wrong.to_owned() }));
                    }
                    _ if name.is_some() || rng.percent(20) => fields.push(("name", named(name, rng))),
                    _ => {}
                }
                "session:create"
            }
            Ask::Join { id, name, user, fault } => {
                match fault {
                    Some(_) => {
                        let wrong = rng.pick(&["7", "[]", "{}", "true"]);
                        fields.push(("sessionId", wrong.to_owned()));
                    }
                    None => fields.push(("sessionId", quoted(id))),
                }
                if name.is_some() || rng.percent(20) {
                    fields.push(("name", named(name, rng)));
                }
                match user {
                    Some(user) => fields.push(("userId", quoted(user))),
                    None if rng.percent(20) => fields.push(("userId", "null".to_owned())),
                    None => {}
                }
                "session:join"
            }
            Ask::Press { press, revision, fault } => {
                match revision {
                    Revision::Any if rng.percent(10) => fields.push(("revision", "null".to_owned())),
                    Revision::Any => {}
                    Revision::Of(known) => fields.push(("revision", known.to_string())),
                    Revision::Wrong => {
                        let wrong = rng.pick(&["-1", "\"new\"", "1.5", "true", "[]"]);
                        fields.push(("revision", wrong.to_owned()));
                    }
                }
                match (press, fault) {
                    (Press::Start(_), Some(_)) => {
                        fields.push(("duration", rng.pick(&["0", "86401", "true", "{}", "\"\""]).to_owned()));
                        "timer:start"
                    }
                    (Press::Extend(_), Some(_)) => {
                        let wrong = rng.pick(&["0", "3601", "null", "false", "-5"]);
                        fields.push(("seconds", wrong.to_owned()));
                        "timer:extend"
                    }
                    (Press::Start(seconds), None) => {
                        fields.extend(seconds.map(|seconds| ("duration", number(rng, seconds))));
                        "timer:start"
                    }
                    (Press::Extend(seconds), None) => {
                        fields.push(("seconds", number(rng, *seconds)));
                        "timer:extend"
                    }
                    (Press::Pause, _) => "timer:pause",
                    (Press::Resume, _) => "timer:resume",
                    (Press::Reset, _) => "timer:reset",
                }
            }
        };
        fields.push(("type", quoted(kind)));
        if rng.percent(10) {
            fields.push(("colour", r#"{"of":["no","interest"]}"#.to_owned()));
        }
        let first = rng.index(fields.len());
        fields.rotate_left(first);
        let fields: Vec<String> = fields.into_iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", fields.join(","))
    }

    // -----------------------------------------------------------------------------------------------------------
    // What reaches the daemon.

    /// The hub has read what it would, one line after another.
    pub(super) fn read_seats(&mut self, net: &mut Net) {
        let now = self.now;
        let mut order: Vec<(usize, usize)> = self.seats.iter().map(|seat| seat.line).zip(0..).collect();
        order.sort_unstable();
        for (line, at) in order {
            let line = net.line(line);
            let seat = &mut self.seats[at];
            if seat.view.is_some() {
                seat.inside_ns = now.mono.ns();
            }
            if line.is_reset() {
                self.ledger.close(seat.sock);
                continue;
            }
            while seat.items.front().is_some_and(|(end, _)| *end <= line.delivered) {
                let (_, item) = seat.items.pop_front().unwrap();
                match item {
                    Item::Upgrade => {
                        seat.is_open = true;
                        self.ledger.open(seat.sock);
                    }
                    Item::Ask(ask) => self.ledger.hear(now, seat.sock, ask),
                    Item::End => self.ledger.close(seat.sock),
                }
            }
            if line.has_ended() && seat.is_open {
                self.ledger.close(seat.sock);
            }
        }
    }

    // -----------------------------------------------------------------------------------------------------------
    // What people hear.

    /// Whatever has come to a socket.
    pub(super) fn hear_seat(&mut self, world: &mut World, at: usize) {
        let seat = &mut self.seats[at];
        let line = world.net.line(seat.line);
        let is_closed = line.closed;
        seat.is_gone |= line.was_cut;
        let mut inbox = std::mem::take(&mut line.inbox);
        if !seat.is_upgraded && !inbox.is_empty() {
            match peer::take_upgrade(&mut inbox) {
                Ok(Some(true)) => seat.is_upgraded = true,
                Ok(Some(false)) => seat.is_gone = true,
                Ok(None) => {}
                Err(what) => violated("a valid upgrade is completed", &what),
            }
        }
        if seat.is_upgraded {
            match peer::take_frames(&mut inbox) {
                Ok(frames) => frames.into_iter().for_each(|frame| {
                    if self.seats[at].is_closed {
                        violated("a close frame is the last", &format!("{frame:?}"));
                    }
                    self.hear_frame(world, at, frame);
                }),
                Err(what) => violated("a message is a frame", &what),
            }
        }
        let seat = &mut self.seats[at];
        if is_closed {
            let is_excused =
                seat.is_gone || seat.is_closed || seat.has_sinned || seat.is_lost || seat.capacity != usize::MAX;
            if !is_excused {
                violated("nobody who behaves is dropped", &format!("{seat:?}"));
            }
            let seat = self.seats.swap_remove(at);
            self.ledger.close(seat.sock);
            return world.net.forget(seat.line);
        }
        let line = world.net.line(seat.line);
        line.inbox = inbox;
        if line.was_short
            && let Some(view) = &seat.view
        {
            // Nobody waits for ever for somebody who does not read.
            let noun = &self.ledger.nouns[&view.place.0];
            let told = usize::try_from(noun.presences - view.presences).unwrap();
            if noun.log.len() + told > view.cursor + WAITING_MAX || seat.capacity == 2_500 {
                self.ledger.suspect(world.now, seat.sock);
            }
        }
    }

    fn hear_frame(&mut self, world: &mut World, at: usize, frame: Frame) {
        let seat = &mut self.seats[at];
        let text = match frame {
            Frame::Text(text) => text,
            Frame::Ping(payload) => {
                let frame = peer::frame(10, &payload, 5);
                if !seat.is_gone {
                    seat.sent += frame.len() as u64;
                    world.net.send_from(seat.line, &frame);
                }
                return;
            }
            Frame::Pong => return,
            Frame::Close(code, reason) => return self.hear_close(at, code, &reason),
        };
        self.count("room messages");
        let seat = &self.seats[at];
        if seat.is_gone || seat.has_sinned || seat.is_lost {
            return;
        }
        let value: Value = match serde_json::from_str(&text) {
            Ok(value) => value,
            Err(error) => violated("a message is JSON", &format!("{error}: {text}")),
        };
        match value["type"].as_str().unwrap_or_default() {
            "session:joined" | "pong" | "error" => self.hear_answer(world, at, &text, &value),
            _ => self.hear_news(world.now, at, &text, &value),
        }
    }

    fn hear_close(&mut self, at: usize, code: Option<u16>, reason: &str) {
        let seat = &mut self.seats[at];
        let fits = match code {
            Some(1013) => seat.capacity != usize::MAX || reason == "Server full",
            Some(1002 | 1003 | 1007 | 1009) => seat.has_sinned,
            Some(1008) => seat.view.is_none() && reason == "No room joined in time",
            Some(1000) | None => seat.is_gone || seat.has_sinned || seat.is_lost,
            _ => false,
        };
        if !fits && !seat.is_gone && !seat.is_lost {
            violated("nobody is sent away without cause", &format!("{code:?} {reason}: {seat:?}"));
        }
        seat.is_closed = true;
        self.ledger.close(seat.sock);
        self.count(if code == Some(1013) { "slow people sent away" } else { "goodbyes in rooms" });
    }

    /// An answer to something that was asked here.
    fn hear_answer(&mut self, world: &mut World, at: usize, text: &str, value: &Value) {
        let now = world.now;
        let sock = self.seats[at].sock;
        let Some(line) = self.ledger.socks.get_mut(&sock) else {
            violated("answers are to questions", &format!("{text}: {:?}", self.seats[at]));
        };
        let Some(owed) = line.owed.pop_front() else {
            violated("each message is answered once", text);
        };
        // What was done and is not durable holds what is said behind it.
        if !owed.may_leave() || owed.want == Want::Nothing {
            violated("visible is durable: nobody is told of what may yet be undone", &format!("{text}: {owed:?}"));
        }
        let (code, message) = (value["code"].as_str().unwrap_or_default(), value["message"].as_str().unwrap_or(""));
        let is_vain = code == "unavailable" && owed.may_fail;
        match &owed.want {
            Want::Joined(key, number) if value["type"] == "session:joined" => {
                self.take_place(at, (*key, *number), (owed.since, owed.said), text, value);
            }
            Want::Pong if text == r#"{"type":"pong"}"# => self.count("pongs in rooms"),
            Want::Stale(key) if code == "stale" => {
                let noun = &self.ledger.nouns[key];
                let id = noun.id.clone().unwrap_or_default();
                let is_true = |turn: u64| {
                    let then = self.ledger.turns[usize::try_from(turn).unwrap()];
                    let faces = since(&noun.faces, turn).iter().filter_map(|(_, face)| face.as_ref());
                    let mut fields = faces.map(|face| face.fields(&id, then));
                    fields.any(|fields| text.ends_with(&format!(r#","state":{{{fields}}}}}"#)))
                };
                let fits = (owed.since..=self.ledger.turn()).rev().any(is_true);
                if !fits {
                    let text = format!("{text}: {owed:?} of {noun:?}");
                    violated("whoever comes too late is told how it is", &text);
                }
                self.count("told stale");
            }
            Want::Error(_) | Want::Joined(..) if value["type"] == "error" && owed.admits(code, message) => {
                if value.as_object().map_or(0, |fields| fields.len()) != 3 {
                    violated("an error is a message and a code", text);
                }
                self.count(match code {
                    "unavailable" => "told unavailable",
                    "invalid" => "told invalid",
                    "wrong_state" => "told wrong_state",
                    "full" => "told full",
                    "limited" => "told limited",
                    _ => "told not_found",
                });
            }
            _ if is_vain => self.count("told unavailable"),
            _ => violated("an answer fits its message", &format!("{text} to {owed:?}")),
        }
        if owed.may_be_full {
            self.ledger.decide(now, sock, value["type"] == "session:joined");
        }
        let is_unknown = code == "unavailable" && message.contains("utcome unknown");
        let moves = matches!(owed.asked, Ask::Create { .. } | Ask::Join { .. } | Ask::Leave);
        if (is_unknown && moves) || (is_vain && matches!(owed.want, Want::Joined(..))) {
            // Nobody knows where he is: he begins anew.
            self.seats[at].is_lost = true;
            self.ledger.suspect(now, sock);
            self.hang_up(world, at);
            self.count("lost in doubt");
        }
    }

    /// Somebody is in.
    fn take_place(&mut self, at: usize, place: Place, (ready, said): (u64, usize), text: &str, value: &Value) {
        let noun = &self.ledger.nouns[&place.0];
        let list = users_of(value, text);
        let id = noun.id.clone().unwrap_or_default();
        let user = noun.users.get(&place.1).cloned().unwrap_or_default();
        let server_ms = value["serverTime"].as_i64().unwrap_or_default();
        let mut found = None;
        for turn in (ready..=self.ledger.turn()).rev() {
            let then = self.ledger.turns[usize::try_from(turn).unwrap()];
            if then.wall.ms() != server_ms {
                continue;
            }
            let is_list =
                noun.learnt >= turn || since(&noun.lists, turn).iter().any(|(_, known)| is_list(&list, known));
            let face = since(&noun.faces, turn).iter().filter_map(|(_, face)| face.as_ref()).find(|face| {
                let head = format!(r#"{{"type":"session:joined","sessionId":"{id}","userId":"{user}","name":"#);
                let tail = format!(
                    r#","users":{},"state":{{{}}},"serverTime":{server_ms}}}"#,
                    users(&list),
                    face.fields(&id, then)
                );
                text.strip_prefix(&*head).and_then(|rest| rest.strip_suffix(&*tail)).is_some_and(|name| {
                    let known = value["name"].as_str().unwrap_or_default();
                    name == quoted(known)
                })
            });
            if let Some(face) = face.filter(|_| is_list) {
                found = Some((turn, then, face.clone()));
                break;
            }
        }
        let Some((turn, then, face)) = found else {
            let turn = self.ledger.turn();
            let (lists, faces) = (since(&noun.lists, ready), since(&noun.faces, ready));
            let text =
                format!("{text}, ready in {ready} of {turn}: {place:?}\n  {lists:?}\n  {faces:?}\n  of {noun:?}");
            violated("whoever comes in is told how it is", &text);
        };
        let named = noun.staged_name(place.1);
        if named.is_some_and(|name| Some(name) != value["name"].as_str()) {
            violated("people keep their names", &format!("{text}: {place:?} of {noun:?}"));
        }
        let view = View {
            place,
            cursor: said,
            // Where the answer had to wait for room, what was said meanwhile is part of it.
            optional: if turn > ready || noun.learnt >= ready {
                noun.log.partition_point(|said| said.turn <= turn)
            } else {
                said
            },
            since: turn,
            revision: face.revision,
            left_ms: face.left_ns(then).div_ceil(MS_NS),
            told_ns: then.mono.ns(),
            told_s: face.shown_s(then),
            face,
            users: list,
            wrong_since: None,
            presence_ns: None,
            presences: noun.presences,
        };
        let ticket = Ticket { key: place.0, id, user, number: place.1 };
        if !self.tickets.iter().any(|known| known.key == ticket.key && known.number == ticket.number) {
            self.tickets.push(ticket);
        }
        let seat = &mut self.seats[at];
        (seat.view, seat.is_fading) = (Some(view), false);
        self.count("joined rooms");
    }

    /// What everybody in the room is told.
    fn hear_news(&mut self, now: Now, at: usize, text: &str, value: &Value) {
        let is_late = self.is_late;
        let turn = self.ledger.turn();
        let seat = &mut self.seats[at];
        let is_prompt = seat.is_prompt();
        let Some(view) = &mut seat.view else {
            if seat.is_fading {
                return;
            }
            violated("whoever is in no room hears of none", &format!("{text}: {seat:?}"));
        };
        let (key, number) = view.place;
        let kind = value["type"].as_str().unwrap_or_default();
        match (kind, value["remainingTime"].as_u64()) {
            ("timer:tick", Some(left_s)) if left_s > 0 => {
                let noun = &self.ledger.nouns[&key];
                let expected = format!(r#"{{"type":"timer:tick","remainingTime":{left_s}}}"#);
                let face = noun.shown().map(|room| &room.face).filter(|face| face.runs());
                let before = self.ledger.turns[usize::try_from(turn - 1).unwrap()];
                // It may have been told before what became durable in the same turn.
                let faces = |turn: u64| since(&noun.faces, turn).iter().filter_map(|(_, face)| face.as_ref());
                let was_true = |face: &Face, then: Now| face.runs() && face.shown_s(then) == left_s;
                let is_true = faces(turn).any(|face| was_true(face, now))
                    || (is_late && faces(turn - 1).any(|face| was_true(face, before)));
                if text != expected || (is_prompt && !is_true) {
                    let text = format!("{text}, {:?} s are left: {noun:?}", face.map(|face| face.shown_s(now)));
                    violated("a tick is true, and never early", &text);
                }
                if left_s >= view.told_s {
                    violated("ticks strictly fall", &format!("{text} after {}: {noun:?}", view.told_s));
                }
                view.told_s = left_s;
                self.count("ticks in rooms");
            }
            ("session:presence", _) => {
                let list = users_of(value, text);
                let told = users(&list);
                let noun = &self.ledger.nouns[&key];
                let from = if is_prompt && !is_late { turn } else { view.since };
                let fits =
                    noun.learnt >= from || since(&noun.lists, from).iter().any(|(_, known)| is_list(&list, known));
                if !fits || text != format!(r#"{{"type":"session:presence","users":{told}}}"#) {
                    violated("who is there is told as it is", &format!("{text}: {noun:?}"));
                }
                if is_prompt && view.presence_ns.replace(now.mono.ns()) == Some(now.mono.ns()) {
                    violated("lines are told of once", &format!("{text}: {noun:?}"));
                }
                (view.users, view.wrong_since) = (list, None);
                view.presences = noun.presences;
                if is_prompt && !is_late {
                    if let Some(why) = self.ledger.presence(now, key) {
                        violated(why, &format!("{text}: {:?}", self.ledger.nouns[&key]));
                    }
                    let presences = self.ledger.nouns[&key].presences;
                    self.seats[at].view.as_mut().unwrap().presences = presences;
                }
            }
            _ => {
                if !self.hear_said(at, text, value) {
                    // Of some it cannot be told whether they have a line.
                    let name = value["name"].as_str().unwrap_or_default();
                    let is_left = kind == "session:user-left" && self.ledger.may_have_left(now, key, name);
                    if !is_left || !self.hear_said(at, text, value) {
                        let (seat, noun) = (&self.seats[at], &self.ledger.nouns[&key]);
                        let rest = &noun.log[seat.view.as_ref().map_or(0, |view| view.cursor)..];
                        let text = format!("{text}\n  expected {rest:?}\n  {seat:?} as {number}\n  of {noun:?}");
                        violated("everybody hears what follows and what is durable, in order, once", &text);
                    }
                }
            }
        }
    }

    /// Whether that is what comes next in the room's log.
    fn hear_said(&mut self, at: usize, text: &str, value: &Value) -> bool {
        let seat = &mut self.seats[at];
        let is_prompt = seat.is_prompt();
        let view = seat.view.as_mut().unwrap();
        let (key, number) = view.place;
        if value["type"] == "session:user-left" {
            // What was said as he came he need not hear.
            for cursor in [view.cursor, view.cursor.max(view.optional)] {
                self.ledger.reorder(key, cursor, value["name"].as_str().unwrap_or_default());
            }
        }
        let noun = &self.ledger.nouns[&key];
        let list = || users_of(value, text);
        let lists = |turn: u64| {
            let list = list();
            since(&noun.lists, turn).iter().any(|(_, known)| is_list(&list, known))
        };
        let named = |kind: &str, name: &str, turn: u64| {
            let told = users(&list());
            text == format!(r#"{{"type":"session:{kind}","name":{},"users":{told}}}"#, quoted(name)) && lists(turn)
        };
        let told = value["users"].as_array().map(Vec::len);
        let mut cursor = view.cursor;
        let what = loop {
            let Some(said) = noun.log.get(cursor) else { return false };
            let (is_for_me, fits) = match &said.what {
                What::Zero => (true, text == r#"{"type":"timer:tick","remainingTime":0}"#),
                What::Text(known) => (true, text == known),
                What::State(_, known) => (true, text == known),
                What::Came(who, name, there) => {
                    (*who != number, told == Some(*there) && named("user-joined", name, said.turn))
                }
                What::Left(_, _, Some(sock), _) if *sock == seat.sock => return false,
                // Who of those who did not come back is first is nobody's business: the last of them tells who is
                // there.
                What::Left(_, name, None, there) => {
                    let is_left = told == Some(*there) && text.starts_with(r#"{"type":"session:user-left","name":"#);
                    (true, is_left && value["name"] == **name)
                }
                What::Left(_, name, _, there) => (true, told == Some(*there) && named("user-left", name, said.turn)),
            };
            if is_for_me && fits {
                break said.what.clone();
            }
            // It has been told that nothing is left, or a newer tick has taken the place of that.
            let may_miss = said.what == What::Zero && (view.told_s == 0 || !is_prompt);
            if is_for_me && cursor >= view.optional && !may_miss {
                return false;
            }
            cursor += 1;
        };
        view.cursor = cursor + 1;
        match what {
            What::State(revision, _) => {
                if revision <= view.revision {
                    let text = format!("{text} after {}: {noun:?}", view.revision);
                    violated("each change is heard once", &text);
                }
                let face = noun.faces.iter().rev().filter_map(|(_, face)| face.as_ref());
                let known = face.into_iter().find(|face| face.revision == revision).cloned();
                let state = &value["state"];
                let number = |field: &str| state[field].as_u64().unwrap_or_default();
                (view.revision, view.left_ms, view.told_s) =
                    (revision, number("remainingMs"), number("remainingTime"));
                view.told_ns = self.now.mono.ns();
                if let Some(face) = known {
                    view.face = face;
                }
                self.count("changes heard");
            }
            What::Came(..) => {
                (view.users, view.wrong_since) = (list(), None);
                self.count("arrivals heard");
            }
            What::Left(who, ..) => {
                (view.users, view.wrong_since) = (list(), None);
                let is_me = who == number;
                if is_me {
                    (seat.view, seat.is_fading) = (None, false);
                }
                self.count("departures heard");
            }
            What::Text(_) => self.count("completions heard"),
            What::Zero => {
                (view.told_s, view.left_ms) = (0, 0);
                self.count("zeros heard");
            }
        }
        true
    }

    // -----------------------------------------------------------------------------------------------------------
    // What must have been heard by the end of a turn.

    /// Whoever hears everything at once has heard everything by now.
    pub(super) fn expect_seat(&mut self, now: Now, at: usize) {
        let seat = &mut self.seats[at];
        if !seat.is_open || !seat.is_listening() {
            return;
        }
        let Some(line) = self.ledger.socks.get(&seat.sock) else { return };
        let is_prompt = seat.is_prompt();
        if is_prompt && let Some(owed) = line.owed.front().filter(|owed| owed.is_ready()) {
            violated("each message is answered as soon as it can be", &format!("{owed:?}: {seat:?}"));
        }
        let Some(view) = &mut seat.view else { return };
        let (key, number) = view.place;
        let noun = &self.ledger.nouns[&key];
        if line.place() != Some(view.place) {
            let is_mine = |said: &super::ledger::Said| matches!(&said.what, What::Left(who, _, sock, _) if *who == number && *sock != Some(seat.sock));
            if is_prompt && noun.log[view.cursor..].iter().any(is_mine) {
                violated("whoever has left by another line is told so", &format!("{seat:?} of {noun:?}"));
            }
            (seat.view, seat.is_fading) = (None, !is_prompt);
            return;
        }
        if !is_prompt {
            return;
        }
        let is_mine = |what: &What| !matches!(what, What::Came(who, ..) if *who == number);
        let from = view.cursor.max(view.optional);
        if let Some(missing) = noun.log[from.min(noun.log.len())..].iter().find(|said| is_mine(&said.what)) {
            let text = format!("{missing:?} is missing\n  {seat:?}\n  of {noun:?}");
            violated("everybody hears everything, in its turn", &text);
        }
        let Some(room) = noun.shown() else {
            violated("a room with somebody in it is there", &format!("{seat:?} of {noun:?}"));
        };
        let shown_s = room.face.shown_s(now);
        let may_wait = room.face.is_over(now) && noun.is_pending();
        if room.face.runs() && shown_s < view.told_s && !may_wait {
            let text = format!("{shown_s} s are left: {view:?} of {noun:?}");
            violated("ticks come in their turn", &text);
        }
        // The view, from what was told alone, against the server's.
        let left_ms = room.face.left_ns(now).div_ceil(MS_NS);
        let passed_ms = if view.face.runs() { (now.mono.ns() - view.told_ns) / MS_NS } else { 0 };
        let is_same = view.revision == room.face.revision
            && view.face == room.face
            && view.left_ms.saturating_sub(passed_ms).abs_diff(left_ms) <= 1;
        if !is_same {
            let text = format!("{view:?}\n  shown {:?}, {left_ms} ms are left", room.face);
            violated("each member's view is the server's", &text);
        }
        if is_list(&view.users, noun.list()) {
            view.wrong_since = None;
        } else if view.users.len() != noun.list().len() {
            violated("who is there is told as it is", &format!("{view:?}: {noun:?}"));
        } else {
            let since = *view.wrong_since.get_or_insert(now.mono.ns());
            if now.mono.ns() >= since + PRESENCE_NS {
                let text = format!("since {since}: {view:?}, not {:?} of {noun:?}", noun.list());
                violated("whose line is lost or comes back is told within 50 ms", &text);
            }
        }
    }

    /// When a member must hear something next.
    pub(super) fn next_news(&self, now: Now) -> Option<u64> {
        let news = |seat: &Seat| {
            let view = seat.view.as_ref().filter(|_| seat.is_prompt())?;
            let noun = &self.ledger.nouns[&view.place.0];
            let face = &noun.shown()?.face;
            let next_s = face.shown_s(now).min(view.told_s).saturating_sub(1);
            let tick = match face.left {
                super::model::Left::Until(mono) if next_s > 0 => Some(mono - next_s * SECOND_NS),
                _ => None,
            };
            tick.into_iter().chain(view.wrong_since.map(|since| since + PRESENCE_NS)).min()
        };
        self.seats.iter().filter_map(news).min()
    }

    /// Somebody waits for an answer.
    pub(super) fn is_owed(&self) -> Option<String> {
        let waits = |seat: &&Seat| {
            let line = self.ledger.socks.get(&seat.sock);
            seat.is_listening() && line.is_some_and(|line| !line.owed.is_empty())
        };
        let owed = self.seats.iter().find(waits)?;
        Some(format!("{owed:?}: {:?}", self.ledger.socks[&owed.sock]))
    }

    /// Whoever is slow reads.
    pub(super) fn hush_seats(&mut self, world: &mut World) {
        for seat in self.seats.iter().filter(|seat| !seat.is_gone) {
            world.net.widen(seat.line);
            world.net.drain(seat.line);
        }
    }

    /// Everybody comes at once. One of them makes a room, and more want to be in that than it takes.
    pub fn assemble(&mut self, world: &mut World) {
        while self.seats.len() < self.plan.sockets {
            self.come(world);
        }
        self.settle_down(world);
        for at in self.listening(|seat| seat.is_whole).into_iter().take(1) {
            self.say(world, at, Ask::Create { duration_s: Some(20), name: None, fault: None });
        }
        self.settle_down(world);
        let known = self.seats.iter().find_map(|seat| seat.place()).and_then(|(key, _)| self.ledger.nouns.get(&key));
        if let Some(id) = known.and_then(|noun| noun.id.clone()) {
            let free = self.listening(|seat| seat.view.is_none() && seat.capacity == usize::MAX);
            for at in free.into_iter().take(ROOM_PEOPLE_MAX + 20) {
                let id = self.spelled(&id);
                self.say(world, at, Ask::Join { id, name: None, user: None, fault: None });
            }
        }
        self.settle_down(world);
    }

    /// A moment passes.
    fn settle_down(&mut self, world: &mut World) {
        for _ in 0..40 {
            let next =
                world.next_event().ns().min(world.now.mono.ns() + 10_000_000).max(world.now.mono.ns() + 100_000);
            world.pass(next);
            world.turn(self);
        }
    }
}

impl Noun {
    /// The name of somebody who is there, or about to.
    fn staged_name(&self, number: u32) -> Option<&str> {
        let found = self.shown().and_then(|room| room.person(number));
        found.or_else(|| self.latest().and_then(|room| room.person(number))).map(|person| &*person.name)
    }
}

/// `users`, as somebody is told.
pub(super) fn users_of(value: &Value, text: &str) -> List {
    let read = |user: &Value| Some((user["name"].as_str()?.to_owned(), Some(user["connected"].as_bool()?)));
    let list = value["users"].as_array().and_then(|users| users.iter().map(read).collect());
    list.unwrap_or_else(|| violated("people are told of by name and line", text))
}

/// That, as JSON.
pub(super) fn users(list: &[Entry]) -> String {
    let one =
        |(name, line): &Entry| format!(r#"{{"name":{},"connected":{}}}"#, quoted(name), line.unwrap_or_default());
    format!("[{}]", list.iter().map(one).collect::<Vec<_>>().join(","))
}
