//! Sockets of rooms: who sits where, and what is said there.
//!
//! Owns which socket hears which room, and the answers that its people wait for. What a message means is the API's
//! business, and who belongs to a room the domain's.
//!
//! Invariants: a socket counts in one room at most, the one that it hears or is about to hear, and gives that line back
//! when it does not hear it any more. It moves once at a time: what it says while a move of its own is not answered is
//! looked at when it is. Somebody hears what is announced in a room from when he is told `session:joined`, which is
//! durable, and what he is told there is the state of that moment; he hears nothing any more when it is durable that he
//! has left. A change is announced before those are welcomed who have come with it, so that nobody is told of it twice.

use std::collections::VecDeque;
use std::net::IpAddr;

use slab::Slab;

use crate::api::rooms::{self, House, Said, Words};
use crate::clock::{Mono, Now};
use crate::domain::effects::Topic;
use crate::domain::rooms::{Message, Seat};
use crate::domain::staged::Hold;
use crate::hub::Hub;
use crate::hub::audience::Encoding;
use crate::hub::conn::{ConnId, Listens};
use crate::hub::desks::Desks;
use crate::hub::outbox::{Bound, Frame};
use crate::limits::{LOBBY_AGE_MAX, MEMBER_UNANSWERED_MAX, OUTBOX_BYTES_MAX};
use crate::wire::ws;

/// Everybody at the sockets of rooms.
#[derive(Debug, Default)]
pub(super) struct Guests {
    guests: Slab<Guest>,
    desks: Desks<Words>,
    /// Seats whose line is lost since the turn began.
    departed: Vec<Seat>,
}

/// Somebody at a socket of rooms.
#[derive(Debug)]
struct Guest {
    address: IpAddr,
    /// Where he listens.
    hears: Option<Seat>,
    /// He is about to.
    moves: Option<Move>,
    /// What he has said since then.
    said: VecDeque<Box<str>>,
    /// Since when he has been in no room.
    waits_since: Mono,
}

/// What somebody waits for.
#[derive(Clone, Copy, Debug)]
enum Move {
    /// To take this seat. He listens nowhere.
    In(Seat),
    /// To leave the room in which he listens.
    Out,
}

impl Guests {
    /// Somebody has come. Returns what his socket listens to.
    pub(super) fn open(&mut self, now: Now, address: IpAddr) -> Listens {
        let guest = Guest { address, hears: None, moves: None, said: VecDeque::new(), waits_since: now.mono };
        let key = self.guests.insert(guest);
        Listens::Guest(u32::try_from(key).unwrap_or(u32::MAX))
    }

    /// Somebody's line is lost. Returns the room that he has listened to.
    pub(super) fn close(&mut self, key: u32) -> Option<Topic> {
        let guest = self.guests.try_remove(key as usize)?;
        match guest.moves {
            Some(Move::In(seat)) => self.departed.push(seat),
            Some(Move::Out) | None => self.departed.extend(guest.hears),
        }
        guest.hears.map(|seat| Topic::Room(seat.room))
    }

    /// Until when somebody must have found a room. Nobody needs a key here, so nobody may keep a place for nothing.
    pub(super) fn patience(&self, listens: Listens) -> Mono {
        let Listens::Guest(key) = listens else { return Mono::MAX };
        match self.guests.get(key as usize) {
            Some(Guest { hears: None, moves: None, waits_since, .. }) => *waits_since + LOBBY_AGE_MAX,
            _ => Mono::MAX,
        }
    }

    /// Whether what somebody says cannot be looked at now: he moves, or has too many unanswered messages.
    pub(super) fn is_busy(&self, index: u32, listens: Listens) -> bool {
        let Listens::Guest(key) = listens else { return false };
        let moves = self.guests.get(key as usize).is_some_and(|guest| guest.moves.is_some());
        moves || self.desks.waits_for(index) >= MEMBER_UNANSWERED_MAX
    }

    /// Whether a connection waits for answers.
    pub(super) fn awaits(&self, index: u32) -> bool {
        self.desks.awaits(index)
    }

    /// A connection is over.
    pub(super) fn reap(&mut self, index: u32) {
        self.desks.close(index);
    }

    /// The gathering batch goes to the disk.
    pub(super) fn hand_over(&mut self) {
        self.desks.hand_over();
    }

    /// Some have lost their lines, and their rooms do not know yet.
    pub(super) fn have_departed(&self) -> bool {
        !self.departed.is_empty()
    }

    fn at(&mut self, listens: Listens) -> Option<&mut Guest> {
        match listens {
            Listens::Guest(key) => self.guests.get_mut(key as usize),
            _ => None,
        }
    }
}

impl Hub {
    /// Somebody at a socket of rooms has said something.
    pub(super) fn hear_guest(&mut self, now: Now, index: u32, listens: Listens, text: &str) {
        if let Some(guest) = self.guests.at(listens) {
            guest.said.push_back(text.into());
            self.converse(now, index, listens);
        }
    }

    /// Looks at what somebody has said, until he waits for a move.
    fn converse(&mut self, now: Now, index: u32, listens: Listens) {
        while let Some(guest) = self.guests.at(listens).filter(|guest| guest.moves.is_none())
            && let Some(text) = guest.said.pop_front()
        {
            let (address, hears) = (guest.address, guest.hears);
            let refusal = match self.custody.degraded() {
                _ if self.stopping => Some("The server is restarting"),
                None if self.engine.fx.is_full() => Some("Too many changes at once"),
                degraded => degraded,
            };
            let (engine, chance, limiter) = (&mut self.engine, &mut self.chance, &mut self.limiter);
            let Said { words, hold } =
                rooms::hear(&text, hears, address, &mut House { now, engine, chance, limiter, refusal });
            // What time has brought about while it was judged.
            self.publish(now);
            let Some(guest) = self.guests.at(listens) else { return };
            guest.moves = match words {
                Words::Welcome(seat) => Some(Move::In(seat)),
                Words::Farewell => Some(Move::Out),
                _ => None,
            };
            // Nobody would be told any more what has become of it.
            let (words, hold) = match hold != Hold::Nothing && self.custody.is_hung() {
                true => (words.in_vain("The disk does not answer: ask again later"), Hold::Nothing),
                false => (words, hold),
            };
            let Some(conn) = self.conns.get(index as usize) else { return };
            let id = ConnId { index, generation: conn.generation };
            self.guests.desks.owe(id, hold, self.engine.gathering(), [words]);
            self.give_answers(now, id);
        }
        self.see_off(now);
        self.watch(index);
    }

    /// The batch with this number is durable, and what it announces has been said: whoever waits for it hears so.
    pub(super) fn answer_guests(&mut self, now: Now, durable: u64) {
        for id in self.guests.desks.release(durable) {
            self.answer_guest(now, id);
        }
    }

    /// What was asked and is not durable never will be, or nobody knows: those who wait hear why.
    pub(super) fn disappoint_guests(&mut self, now: Now, why: &str) {
        for id in self.guests.desks.disappoint(|words| Some(words.in_vain(why))) {
            self.answer_guest(now, id);
        }
    }

    /// Sends the answers that may leave, and looks at what has waited for them.
    pub(super) fn answer_guest(&mut self, now: Now, id: ConnId) {
        self.give_answers(now, id);
        if let Some(listens) = self.live(id).and_then(|conn| conn.socket()).map(|socket| socket.listens) {
            self.converse(now, id.index, listens);
        }
    }

    /// Sends the answers that may leave and for which there is room; the others when what was sent has been taken.
    fn give_answers(&mut self, now: Now, id: ConnId) {
        while let Some(conn) = self.live(id)
            && conn.outbox.bytes() < OUTBOX_BYTES_MAX
            && let Some(words) = self.guests.desks.next(id.index)
        {
            let text = match words {
                Words::Text(text) => Some(text),
                Words::Welcome(seat) => Some(self.welcome(now, id.index, seat)),
                Words::Stale(seat) => {
                    let all = &self.engine.rooms;
                    let room = all.peek(seat.room);
                    Some(room.map_or_else(rooms::unseated, |room| rooms::stale(room, now, all.second())))
                }
                Words::Farewell => {
                    self.end_move(now, id.index);
                    None
                }
                Words::InVain(text) => {
                    self.end_move(now, id.index);
                    Some(text)
                }
                Words::Nothing => None,
            };
            text.iter().for_each(|text| self.tell_text(now, id.index, text));
        }
    }

    /// Somebody begins to hear his room. Returns what he is told.
    fn welcome(&mut self, now: Now, index: u32, seat: Seat) -> String {
        let all = &self.engine.rooms;
        let Some(text) = all.peek(seat.room).and_then(|room| rooms::joined(room, seat, all, now)) else {
            // Another of his sockets has left for him meanwhile.
            self.end_move(now, index);
            return rooms::unseated();
        };
        if let Some(socket) = self.conns.get_mut(index as usize).and_then(|conn| conn.socket())
            && let Some(guest) = self.guests.at(socket.listens)
        {
            (guest.hears, guest.moves) = (Some(seat), None);
            let key = (Topic::Room(seat.room), Encoding::WebSocket);
            socket.place = self.audiences.entry(key).or_default().join(index, true);
        }
        text
    }

    /// A move that was not one into a room is over; a line that was taken for it is given back.
    fn end_move(&mut self, now: Now, index: u32) {
        let Some(listens) = self.conns.get_mut(index as usize).and_then(|conn| conn.socket()).map(|it| it.listens)
        else {
            return;
        };
        let Some(guest) = self.guests.at(listens) else { return };
        guest.waits_since = now.mono;
        if let Some(Move::In(seat)) = guest.moves.take() {
            self.guests.departed.push(seat);
        }
    }

    /// Says `message` to everybody in the room.
    pub(super) fn announce_in_room(&mut self, now: Now, serial: u32, message: &Message) {
        self.log_room(serial, message);
        let key = (Topic::Room(serial), Encoding::WebSocket);
        if !self.audiences.contains_key(&key) {
            return;
        }
        if let Message::Left { person, .. } = message {
            // He said so himself on these, and needs not be told.
            self.unseat(now, Seat { room: serial, person: *person }, false);
        }
        self.text.clear();
        rooms::announce(message, serial, &self.engine.rooms, now, &mut self.text);
        let bytes = ws::text_frame(&self.text);
        let frame = if let Message::Tick(_) = message { Frame::tick(bytes) } else { Frame::lasting(bytes) };
        self.cast(now, key, &frame, Bound::MEMBER);
        if let Message::Left { person, .. } = message {
            self.unseat(now, Seat { room: serial, person: *person }, true);
        }
    }

    /// The sockets of somebody who has left do not hear the room any more; `all`: those, too, that have not said so.
    fn unseat(&mut self, now: Now, seat: Seat, all: bool) {
        let key = (Topic::Room(seat.room), Encoding::WebSocket);
        let Some(audience) = self.audiences.get_mut(&key) else { return };
        for index in audience.round().collect::<Vec<_>>() {
            let Some(socket) = self.conns.get_mut(index as usize).and_then(|conn| conn.socket()) else { continue };
            let (listens, place) = (socket.listens, socket.place);
            let Some(guest) = self.guests.at(listens).filter(|guest| guest.hears == Some(seat)) else { continue };
            if guest.moves.is_none() && !all {
                continue;
            }
            guest.hears = None;
            guest.waits_since = now.mono;
            self.leave_audience(key, place, true);
            self.guests.departed.push(seat);
            self.watch(index);
        }
    }

    /// The rooms of those who have lost their lines hear so.
    pub(super) fn see_off(&mut self, now: Now) {
        if self.guests.have_departed() {
            for seat in std::mem::take(&mut self.guests.departed) {
                self.engine.rooms.disconnect(now, seat, &mut self.engine.fx);
            }
            self.publish(now);
        }
    }

    /// One line for each change of a room, when it is true.
    fn log_room(&self, serial: u32, message: &Message) {
        match message {
            Message::Changed { room, by } => {
                let (id, by, state) = (&*room.id, by.as_deref().unwrap_or_default(), room.state.name());
                // Anybody may press, as often as he likes: that is no news to the operator.
                log::debug!(room = id, by, revision = room.revision; "room {state}");
            }
            Message::Gone(id) => log::info!(room = &**id; "room removed"),
            Message::Came { .. } | Message::Left { .. } | Message::Presence => {
                log::trace!(room = serial; "people of a room");
            }
            Message::Tick(_) | Message::Completed => {}
        }
    }
}
