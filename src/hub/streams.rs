//! Event streams: the same messages as on the WebSockets of a timer, for those who cannot have one.
//!
//! Owns what becomes of an HTTP connection whose answer does not end: it listens, and nothing that comes in on it is
//! looked at. What is said to it is encoded once for all who listen in this way, as for sockets.
//!
//! Invariants: a stream begins with the timer's state; it is bounded as a socket is, and cut where a socket would be
//! closed with a code, since it has no word for that; its client is gone when it closes its side or takes nothing.

use crate::api::timers;
use crate::clock::Now;
use crate::domain::Engine;
use crate::domain::effects::Topic;
use crate::domain::timers::Message;
use crate::hub::Hub;
use crate::hub::audience::Encoding;
use crate::hub::conn::{Framing, Listens, Phase, Protocol, Stream};
use crate::hub::outbox::{Bound, Frame};
use crate::limits::KEEPALIVE_AFTER;
use crate::wire::http::{Head, Response};
use crate::wire::sse;

impl Hub {
    /// The answer to `head` is a stream of the timer's messages, and the last answer on its connection.
    pub(super) fn open_stream(
        &mut self,
        now: Now,
        index: u32,
        head: &Head,
        response: &Response,
        listener: (u32, bool),
        retry_ms: u32,
    ) {
        let mut bytes = self.encode(now, Framing { keep_alive: false, ..Framing::of(head) }, response);
        // What is part of the greeting must not be heard again behind it.
        self.publish(now);
        let (serial, counted) = listener;
        let topic = Topic::Timer(serial);
        let Some(conn) = self.conns.get_mut(index as usize) else { return };
        let booked = conn.booked_bytes();
        let audience = self.audiences.entry((topic, Encoding::EventStream)).or_default();
        let place = audience.join(index, counted);
        conn.protocol =
            Protocol::Stream(Stream { listens: Listens::Topic { topic, counted }, place, progress: now.mono });
        conn.told = now.mono;
        self.metrics.event_streams.inc();
        self.book(booked, 0);
        let clients = self.clients(topic);
        let Engine { timers: all, fx, .. } = &mut self.engine;
        let second = all.second();
        if let Some(timer) = all.shown_by_serial(now, serial, fx) {
            sse::push_retry(retry_ms, &mut bytes);
            let greeting = timers::connected(timer, now, second, clients);
            sse::push_event(Some(timer.revision), &greeting, &mut bytes);
        }
        if let Some(conn) = self.conns.get_mut(index as usize) {
            // Counted until it has gone; what follows is shared, and bounded as a socket's.
            let before = conn.outbox.held_bytes();
            conn.outbox.push_unbounded(Frame::lasting(bytes));
            self.unsent_bytes += conn.outbox.held_bytes() - before;
        }
        self.mark(index);
        self.watch(index);
    }

    /// Says `message`, whose JSON stands ready, to those who listen by event stream.
    pub(super) fn stream(&mut self, now: Now, topic: Topic, message: &Message) {
        let key = (topic, Encoding::EventStream);
        if !self.audiences.contains_key(&key) {
            return;
        }
        let mut bytes = Vec::with_capacity(self.text.len() + 32);
        sse::push_event(message.reading().map(|reading| reading.revision), &self.text, &mut bytes);
        let is_tick = matches!(message, Message::Tick(_));
        let frame = if is_tick { Frame::tick(bytes) } else { Frame::lasting(bytes) };
        self.cast(now, key, &frame, Bound::CLIENT);
    }

    /// A silent stream's alarm: something must be said, or enough is enough.
    pub(super) fn nudge_stream(&mut self, now: Now, index: u32) {
        let Some(conn) = self.conns.get_mut(index as usize).filter(|conn| conn.phase == Phase::Open) else { return };
        let (told, is_sending) = (conn.told, !conn.outbox.is_empty());
        let Protocol::Stream(stream) = &conn.protocol else { return };
        if is_sending && stream.patience(told, true) <= now.mono {
            self.metrics.slow_clients.inc();
            return self.kill(index);
        }
        let listens = stream.listens;
        if told + KEEPALIVE_AFTER <= now.mono {
            self.keep_stream_alive(now, index, listens);
        }
        self.watch(index);
    }

    fn keep_stream_alive(&mut self, now: Now, index: u32, listens: Listens) {
        let Listens::Topic { topic: Topic::Timer(serial), .. } = listens else { return };
        let Engine { timers: all, fx, .. } = &mut self.engine;
        let second = all.second();
        let Some(reading) = all.shown_by_serial(now, serial, fx).map(|timer| timer.reading(now, second)) else {
            return;
        };
        self.publish(now);
        let mut bytes = Vec::new();
        sse::push_event(Some(reading.revision), &timers::keepalive(&reading), &mut bytes);
        self.tell(now, index, &Frame::lasting(bytes));
    }
}
