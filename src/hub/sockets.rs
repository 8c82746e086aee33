//! WebSocket connections: joining, hearing, saying, leaving.
//!
//! Owns the rules of conversation: pace, keepalive, pings, silence, close codes. What a message means is the API's
//! business.

use crate::api::{delivery, timers};
use crate::clock::Now;
use crate::domain::Engine;
use crate::domain::delivery::Message as SessionSaid;
use crate::domain::effects::{Announcement, Message as Said, Topic};
use crate::domain::timers::Message as TimerSaid;
use crate::hub::Hub;
use crate::hub::audience::Encoding;
use crate::hub::conn::{Conn, Listens, Phase, Protocol};
use crate::hub::outbox::{Bound, Frame, Overflow, Shared};
use crate::limits::{KEEPALIVE_AFTER, PEER_SILENCE_MAX, PING_EVERY};
use crate::wire::ws::{self, Message};

const TOO_LARGE: &str = "Message too large";

/// Queues `frame`, and keeps count of what is unsent where that is counted.
pub(super) fn push(
    conn: &mut Conn,
    frame: &Shared,
    bound: Bound,
    unsent_bytes: &mut usize,
) -> Result<bool, Overflow> {
    if conn.outbox.is_empty()
        && let Protocol::Stream(stream) = &mut conn.protocol
    {
        // Until now there was nothing that it could have taken.
        stream.progress = conn.told;
    }
    let before = conn.outbox.held_bytes();
    let pushed = conn.outbox.push(frame, bound);
    if conn.is_metered {
        *unsent_bytes = (*unsent_bytes + conn.outbox.held_bytes()).saturating_sub(before);
    }
    pushed
}

impl Hub {
    /// Enters the audience, with the state as greeting: whatever is announced from here on follows it.
    pub(super) fn join(&mut self, now: Now, index: u32) {
        // What is part of the greeting must not be heard again behind it.
        self.publish(now);
        let Some(socket) = self.conns.get_mut(index as usize).and_then(|conn| conn.socket()) else { return };
        let Listens::Topic { topic, counted } = socket.listens else { return };
        let audience = self.audiences.entry((topic, Encoding::WebSocket)).or_default();
        socket.place = audience.join(index, counted);
        let clients = self.clients(topic);
        let serial = match topic {
            Topic::Timer(serial) => serial,
            Topic::Session(serial) => return self.join_session(now, index, serial),
            // Guests are welcomed when they have said to which.
            Topic::Room(_) => return,
        };
        let Engine { timers: all, fx, .. } = &mut self.engine;
        let second = all.second();
        let greeting = all
            .shown_by_serial(now, serial, fx)
            .map(|timer| ws::text_frame(&timers::connected(timer, now, second, clients)));
        match greeting {
            Some(greeting) => self.tell(now, index, &Frame::lasting(greeting)),
            None => self.close_socket(now, index, 4004, "Timer not found"),
        }
    }

    /// Bytes for a socket have come.
    pub(super) fn hear(&mut self, now: Now, index: u32, bytes: &[u8]) {
        let Some(socket) = self.conns.get_mut(index as usize).and_then(|conn| conn.socket()) else { return };
        socket.heard = now.mono;
        let mut messages = Vec::new();
        let was_unfinished = socket.decoder.is_unfinished();
        let before = socket.decoder.buffered();
        let limit = socket.message_limit();
        let fed = socket.decoder.feed(bytes, limit, &mut |message| {
            messages.push(message);
            true
        });
        let held = socket.decoder.buffered();
        // A control frame may come in the middle of a message, and does not make that any younger.
        let is_whole = messages
            .iter()
            .any(|message| matches!(message, Message::Text(_) | Message::Binary(_) | Message::TooLarge));
        if !was_unfinished || is_whole {
            socket.unfinished_since = now.mono;
        }
        for message in messages {
            self.hear_message(now, index, message);
        }
        if let Err(fault) = fed {
            self.metrics.connections_shed.inc();
            self.close_socket(now, index, fault.code, fault.reason);
        }
        self.book(before, held);
        self.watch(index);
    }

    fn hear_message(&mut self, now: Now, index: u32, message: Message) {
        let Some(conn) = self.conns.get_mut(index as usize).filter(|conn| conn.phase == Phase::Open) else { return };
        let Some(socket) = conn.socket() else { return };
        self.metrics.messages.inc();
        self.work_left = self.work_left.saturating_sub(1);
        if !socket.keeps_pace(now.mono) {
            self.metrics.connections_shed.inc();
            return self.close_socket(now, index, 1008, "Too many messages");
        }
        let listens = socket.listens;
        match (message, listens) {
            (Message::Pong, _) => {}
            (Message::Ping(payload), _) => self.tell_control(now, index, ws::pong_frame(&payload)),
            // 1005 writes a close without a code: the answer to one without.
            (Message::Close(None), _) => self.close_socket(now, index, 1005, ""),
            (Message::Close(Some((code, _))), _) => self.close_socket(now, index, code, ""),
            (Message::Text(text), Listens::Echo) => {
                self.answer(now, index, Frame::lasting(ws::text_frame(text.as_str())));
            }
            (Message::Binary(bytes), Listens::Echo) => {
                self.answer(now, index, Frame::lasting(ws::binary_frame(&bytes)));
            }
            (Message::Text(text), Listens::Publisher(key)) => self.hear_publisher(now, key, Ok(text.as_str())),
            (Message::Text(text), Listens::Subscriber(key)) => {
                self.hear_subscriber(now, index, key, Ok(text.as_str()));
            }
            (Message::TooLarge, Listens::Publisher(key)) => self.hear_publisher(now, key, Err(TOO_LARGE)),
            (Message::TooLarge, Listens::Subscriber(key)) => {
                self.hear_subscriber(now, index, key, Err(TOO_LARGE));
            }
            (Message::TooLarge, _) => self.close_socket(now, index, 1009, TOO_LARGE),
            (Message::Binary(_), _) => self.close_socket(now, index, 1003, "Text messages only"),
            (Message::Text(text), Listens::Topic { topic: Topic::Timer(serial), .. }) => {
                let Engine { timers: all, fx, .. } = &mut self.engine;
                let second = all.second();
                if let Some(timer) = all.shown_by_serial(now, serial, fx) {
                    let reply = timers::reply(text.as_str(), timer, now, second);
                    self.publish(now);
                    self.tell(now, index, &Frame::lasting(ws::text_frame(&reply)));
                }
            }
            (Message::Text(text), Listens::Topic { topic: Topic::Session(serial), .. }) => {
                self.hear_candidate(now, index, serial, text.as_str());
            }
            (Message::Text(text), Listens::Guest(_)) => self.hear_guest(now, index, listens, text.as_str()),
            (Message::Text(_), Listens::Nothing | Listens::Topic { topic: Topic::Room(_), .. }) => {}
        }
    }

    /// Says `announcement` to everybody who listens: encoded once, one buffer, a pointer into each outbox.
    pub(super) fn broadcast(&mut self, now: Now, announcement: &Announcement) {
        let Announcement { topic, message } = announcement;
        if let (Said::Timer(TimerSaid::Tick(reading)), Topic::Timer(serial), true) =
            (message, topic, self.feeds.wants_ticks())
        {
            self.release_tick(now, *serial, *reading);
        }
        if let (Said::Session(message), Topic::Session(serial)) = (message, topic) {
            self.log_session(*serial, message);
        }
        if let (Said::Room(message), Topic::Room(serial)) = (message, topic) {
            return self.announce_in_room(now, *serial, message);
        }
        if self.listeners(*topic) == 0 {
            return;
        }
        let key = (*topic, Encoding::WebSocket);
        self.text.clear();
        match message {
            Said::Timer(message) => {
                timers::announce(message, &mut self.text);
                self.stream(now, *topic, message);
                if *message == TimerSaid::Deleted {
                    return self.dissolve(now, *topic, 4000, "Timer deleted");
                }
                let bytes = ws::text_frame(&self.text);
                let is_tick = matches!(message, TimerSaid::Tick(_));
                let frame = if is_tick { Frame::tick(bytes) } else { Frame::lasting(bytes) };
                self.cast(now, key, &frame, Bound::CLIENT);
            }
            Said::Room(_) => {}
            Said::Session(SessionSaid::Gone) => self.dissolve(now, *topic, 4004, "Session not found"),
            Said::Session(message) => {
                let follows = delivery::announce(message, now, &mut self.text);
                let mut bytes = ws::text_frame(&self.text);
                follows.iter().for_each(|text| ws::push_text_frame(text, &mut bytes));
                let is_tick = matches!(message, SessionSaid::Tick(_));
                let frame = if is_tick { Frame::tick(bytes) } else { Frame::lasting(bytes) };
                self.cast(now, key, &frame, Bound::CANDIDATE);
            }
        }
    }

    /// Puts a pointer to `frame` into the outbox of everybody who listens.
    pub(super) fn cast(&mut self, now: Now, key: (Topic, Encoding), frame: &Shared, bound: Bound) {
        let Some(audience) = self.audiences.get_mut(&key) else { return };
        let mut slow = Vec::new();
        let mut gave_way = 0;
        let mut frames = 0;
        for index in audience.round() {
            let Some(conn) = self.conns.get_mut(index as usize) else { continue };
            conn.told = now.mono;
            frames += 1;
            match push(conn, frame, bound, &mut self.unsent_bytes) {
                Ok(replaced) => gave_way += u64::from(replaced),
                Err(_) => slow.push(index),
            }
            if !conn.dirty {
                conn.dirty = true;
                self.dirty.push_back(index);
            }
        }
        self.metrics.frames.inc_by(frames);
        self.metrics.ticks_replaced.inc_by(gave_way);
        slow.into_iter().for_each(|index| self.close_slow(now, index));
    }

    /// The noun is gone: everybody hears so, and is sent away.
    fn dissolve(&mut self, now: Now, topic: Topic, code: u16, reason: &str) {
        for index in self.take_audience((topic, Encoding::EventStream)) {
            self.leave(now, index);
        }
        let frame = (!self.text.is_empty()).then(|| Frame::lasting(ws::text_frame(&self.text)));
        for index in self.take_audience((topic, Encoding::WebSocket)) {
            frame.iter().for_each(|frame| self.tell(now, index, frame));
            self.close_socket(now, index, code, reason);
        }
    }

    /// Takes everybody who listens in this way out of the audience, which is gone.
    fn take_audience(&mut self, key: (Topic, Encoding)) -> Vec<u32> {
        let everybody: Vec<u32> = self
            .audiences
            .remove(&key)
            .iter_mut()
            .flat_map(|audience| audience.round().collect::<Vec<_>>())
            .collect();
        for index in &everybody {
            if let Some((listens, ..)) = self.conns.get_mut(*index as usize).and_then(Conn::listening) {
                *listens = Listens::Nothing;
            }
        }
        everybody
    }

    /// Tells one client something in text.
    pub(super) fn tell(&mut self, now: Now, index: u32, frame: &Shared) {
        let Some(conn) = self.conns.get_mut(index as usize).filter(|conn| conn.phase == Phase::Open) else { return };
        conn.told = now.mono;
        match push(conn, frame, conn.outlet.bound(), &mut self.unsent_bytes) {
            Ok(_) => self.mark(index),
            Err(_) => self.close_slow(now, index),
        }
    }

    /// Sends a control frame, which is no news to the client.
    fn tell_control(&mut self, now: Now, index: u32, bytes: Vec<u8>) {
        // Nothing follows a close frame (RFC 6455 section 5.5.1).
        let Some(conn) = self.conns.get_mut(index as usize).filter(|conn| conn.phase == Phase::Open) else { return };
        // Behind answers of any size, which are no sign of a client that does not read.
        if conn.socket().is_some_and(|socket| matches!(socket.listens, Listens::Echo | Listens::Publisher(_))) {
            conn.outbox.push_unbounded(Frame::lasting(bytes));
            return self.mark(index);
        }
        match push(conn, &Frame::lasting(bytes), conn.outlet.bound(), &mut self.unsent_bytes) {
            Ok(_) => self.mark(index),
            Err(_) => self.close_slow(now, index),
        }
    }

    /// Tells one client something in text.
    pub(super) fn tell_text(&mut self, now: Now, index: u32, text: &str) {
        self.tell(now, index, &Frame::lasting(ws::text_frame(text)));
    }

    /// Tells one client what it has asked for: until it has taken that, nothing more is heard from it.
    pub(super) fn answer(&mut self, now: Now, index: u32, frame: Shared) {
        let Some(conn) = self.conns.get_mut(index as usize).filter(|conn| conn.phase == Phase::Open) else { return };
        conn.told = now.mono;
        conn.outbox.push_unbounded(frame);
        self.mark(index);
    }

    pub(super) fn close_slow(&mut self, now: Now, index: u32) {
        if let Some(Protocol::Stream(_)) = self.conns.get(index as usize).map(|conn| &conn.protocol) {
            self.metrics.slow_clients.inc();
            return self.kill(index);
        }
        let listens = self.conns.get_mut(index as usize).and_then(|conn| conn.socket()).map(|socket| socket.listens);
        if let Some(Listens::Subscriber(key)) = listens {
            return self.close_slow_subscriber(now, index, key);
        }
        self.metrics.slow_clients.inc();
        self.close_socket(now, index, 1013, "Too slow");
    }

    /// Begins the end of a socket: our close frame is the last thing it gets.
    pub(super) fn close_socket(&mut self, now: Now, index: u32, code: u16, reason: &str) {
        let Some(conn) = self.conns.get_mut(index as usize).filter(|conn| conn.phase == Phase::Open) else { return };
        let before = conn.outbox.held_bytes();
        conn.outbox.push_unbounded(Frame::lasting(ws::close_frame(code, reason)));
        if conn.is_metered {
            self.unsent_bytes += conn.outbox.held_bytes() - before;
        }
        self.part(index);
        self.leave(now, index);
    }

    /// Leaves the audience.
    pub(super) fn part(&mut self, index: u32) {
        let Some(conn) = self.conns.get_mut(index as usize) else { return };
        let Some((listens, place, encoding)) = conn.listening() else { return };
        let (listens, place) = (std::mem::replace(listens, Listens::Nothing), *place);
        let (topic, counted) = match listens {
            Listens::Topic { topic, counted } => (topic, counted),
            Listens::Guest(key) => match self.guests.close(key) {
                Some(topic) => (topic, true),
                None => return,
            },
            _ => {
                self.feeds.close(listens);
                self.metrics.subscribers.set(i64::from(self.feeds.subscribed()));
                return;
            }
        };
        self.leave_audience((topic, encoding), place, counted);
    }

    /// Gives up `place` in an audience.
    pub(super) fn leave_audience(&mut self, key: (Topic, Encoding), place: u32, counted: bool) {
        let Some(audience) = self.audiences.get_mut(&key) else { return };
        let moved = audience.leave(place, counted);
        if audience.is_empty() {
            self.audiences.remove(&key);
            if let Topic::Session(serial) = key.0 {
                self.engine.delivery.unlisten(serial);
            }
        }
        let moved = moved.and_then(|moved| self.conns.get_mut(moved as usize)).and_then(Conn::listening);
        if let Some((_, its_place, _)) = moved {
            *its_place = place;
        }
    }

    /// A silent socket's alarm: something must be said, or enough is enough.
    pub(super) fn nudge(&mut self, now: Now, index: u32) {
        let is_heard = self.wants_input(index);
        let Some(conn) = self.conns.get_mut(index as usize) else { return };
        let told = conn.told;
        let Some(socket) = conn.socket() else { return };
        let due = |since: crate::clock::Mono, span| since + span <= now.mono;
        if !is_heard {
            // It cannot finish what is not read.
            socket.unfinished_since = now.mono;
        }
        if due(socket.heard, PEER_SILENCE_MAX) {
            self.metrics.connections_shed.inc();
            return self.kill(index);
        }
        if socket.unfinished_until() <= now.mono {
            self.metrics.connections_shed.inc();
            return self.close_socket(now, index, 1008, "Message not finished in time");
        }
        let listens = socket.listens;
        if self.guests.patience(listens) <= now.mono {
            self.metrics.connections_shed.inc();
            return self.close_socket(now, index, 1008, "No room joined in time");
        }
        if let Listens::Subscriber(key) = listens {
            self.nudge_subscriber(now, index, key);
        }
        let Some(socket) = self.conns.get_mut(index as usize).and_then(|conn| conn.socket()) else { return };
        if due(socket.pinged, PING_EVERY) {
            socket.pinged = now.mono;
            self.tell_control(now, index, ws::ping_frame(b""));
        }
        if due(told, KEEPALIVE_AFTER) {
            self.keep_alive(now, index, listens);
        }
        self.watch(index);
    }

    fn keep_alive(&mut self, now: Now, index: u32, listens: Listens) {
        let Engine { timers: all, delivery: sessions, fx, .. } = &mut self.engine;
        let second = all.second();
        let keepalive = match listens {
            Listens::Topic { topic: Topic::Session(serial), .. } => {
                let session = sessions.shown_by_serial(now, serial, fx);
                session.map(|session| delivery::keepalive(session.left_s(now, second)))
            }
            Listens::Topic { topic: Topic::Timer(serial), .. } => {
                let timer = all.shown_by_serial(now, serial, fx);
                timer.map(|timer| timers::keepalive(&timer.reading(now, second)))
            }
            Listens::Subscriber(key) if self.has_subscribed(key) => Some(r#"{"type":"keepalive"}"#.to_owned()),
            // Nothing is said into the silence of a room: the pings tell that the line is there.
            Listens::Topic { topic: Topic::Room(_), .. } | Listens::Guest(_) => None,
            Listens::Publisher(_) | Listens::Subscriber(_) | Listens::Echo | Listens::Nothing => None,
        };
        self.publish(now);
        match keepalive {
            Some(text) => self.tell(now, index, &Frame::lasting(ws::text_frame(&text))),
            None => {
                if let Some(conn) = self.conns.get_mut(index as usize) {
                    conn.told = now.mono;
                }
            }
        }
    }
}
