//! Publishers and subscribers: the sockets of the event pipeline.
//!
//! Owns who has published what and waits for the disk, who wants to hear of which events, and how far each has come.
//! What an event says is the API's business, its number the disk's.
//!
//! A subscriber is *live*, and is sent what is released, or it is *behind*, and is sent pages that the disk is asked
//! for, the next one when its outbox is half empty. It goes live in the turn in which a page ends with the last event
//! there is: the disk tells of its batches and its pages in order, so that nothing can lie between. It falls behind
//! when more is released than its outbox holds, and is closed when it takes nothing of what waits. Batches are
//! released in order, as far as a turn has time for; when too many wait for that, everybody falls behind instead.
//!
//! Invariants: a publisher is answered in the order of its messages, and that something is stored only when it is; a
//! subscriber is sent what it wants in the order of numbers, nothing twice and nothing left out, or is told so.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use slab::Slab;

use crate::api::events::{self, Said, Wish};
use crate::clock::{Mono, Now};
use crate::domain::disk::{Answer, Gone, Order, Page, Search};
use crate::domain::effects::{Batch, Record};
use crate::domain::events::{Event, Filter, Stored};
use crate::domain::timers::{Reading, Told, What};
use crate::hub::Hub;
use crate::hub::conn::{ConnId, Listens};
use crate::hub::outbox::{Bound, Frame, Shared};
use crate::limits::*;
use crate::wire::ws;

/// Everybody at the pipeline.
#[derive(Debug, Default)]
pub(super) struct Feeds {
    publishers: Slab<Publisher>,
    subscribers: Slab<Subscriber>,
    /// Sockets by address.
    addresses: HashMap<IpAddr, u32>,
    /// Subscribers who have said what they want, each in one list: by session, else by user, else here.
    by_session: HashMap<Arc<str>, Vec<u32>>,
    by_user: HashMap<Arc<str>, Vec<u32>>,
    broad: Vec<u32>,
    subscribed: u32,
    /// Those of them who name the daemon's own ticks, by session, which is the timer's id. Nobody else is looked at
    /// when a timer ticks, and nobody who wants events of a user: ticks have none.
    ticking: HashMap<Option<Arc<str>>, Vec<u32>>,
    /// Durable, and not routed yet.
    unrouted: VecDeque<Stored>,
    /// Subscribers that may yet be looked at in this turn.
    looks_left: usize,
    /// Those whose page has to wait until the disk has given out others.
    queue: VecDeque<u32>,
    /// Pages that the disk is asked for.
    pages_asked: usize,
    /// Bytes of pages that have not been taken, all together.
    page_bytes: usize,
}

/// Somebody who publishes.
#[derive(Debug)]
struct Publisher {
    conn: ConnId,
    address: IpAddr,
    /// What it waits for, in order.
    unanswered: VecDeque<Ack>,
}

/// An answer to a publisher.
#[derive(Debug)]
enum Ack {
    /// That its event is stored: the one at this place among those that the batch of this number publishes.
    Event { place: u32, batch: u64 },
    /// This.
    Text(String),
}

/// Somebody who subscribes.
#[derive(Debug)]
struct Subscriber {
    conn: ConnId,
    stage: Stage,
    /// Of all events up to this number it has been sent what it wants.
    cursor: u64,
    /// The last one it was sent, or the one it began behind.
    sent: u64,
    filter: Filter,
    /// When it last took bytes, or began to be behind.
    progress: Mono,
    /// Bytes that are booked for its pages.
    page_bytes: usize,
    address: IpAddr,
}

/// How far a subscriber has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It has not said what it wants, and has until then to do so.
    Silent(Mono),
    /// It hears what is released.
    Live,
    /// It gets pages, the next one when there is room.
    Behind,
    /// There is room; its page has to wait for others.
    Queued,
    /// The disk was asked for its page; `stale`: it has changed its mind since.
    Asked { stale: bool },
    /// The disk could not tell; it is asked again then.
    Retry(Mono),
}

/// A subscriber for whom the disk was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedId {
    key: u32,
    conn: ConnId,
}

impl Subscriber {
    /// It has been sent what it wants up to `upto`, and gets the rest by pages.
    fn fall_behind(&mut self, now: Now, upto: u64) {
        self.cursor = self.cursor.max(upto);
        self.stage = Stage::Behind;
        self.progress = now.mono;
    }
}

impl Feeds {
    /// Sockets that `address` has open.
    pub(super) fn sockets_of(&self, address: IpAddr) -> u32 {
        self.addresses.get(&address).copied().unwrap_or(0)
    }

    /// Subscribers who have said what they want.
    pub(super) fn subscribed(&self) -> u32 {
        self.subscribed
    }

    /// Whether anybody wants the daemon's own ticks.
    pub(super) fn wants_ticks(&self) -> bool {
        !self.ticking.is_empty()
    }

    /// A publisher has come.
    pub(super) fn open_publisher(&mut self, conn: ConnId, address: IpAddr) -> Listens {
        *self.addresses.entry(address).or_default() += 1;
        let key = self.publishers.insert(Publisher { conn, address, unanswered: VecDeque::new() });
        Listens::Publisher(u32::try_from(key).unwrap_or(u32::MAX))
    }

    /// A subscriber has come.
    pub(super) fn open_subscriber(&mut self, now: Now, conn: ConnId, address: IpAddr) -> Listens {
        *self.addresses.entry(address).or_default() += 1;
        let stage = Stage::Silent(now.mono + SUBSCRIBE_AGE_MAX);
        let filter = Filter::default();
        let subscriber =
            Subscriber { conn, stage, cursor: 0, sent: 0, filter, progress: now.mono, page_bytes: 0, address };
        let key = self.subscribers.insert(subscriber);
        Listens::Subscriber(u32::try_from(key).unwrap_or(u32::MAX))
    }

    /// Somebody has gone.
    pub(super) fn close(&mut self, listens: Listens) {
        let address = match listens {
            Listens::Publisher(key) => self.publishers.try_remove(key as usize).map(|gone| gone.address),
            Listens::Subscriber(key) => {
                self.delist(key);
                self.subscribers.try_remove(key as usize).map(|gone| {
                    self.page_bytes -= gone.page_bytes;
                    gone.address
                })
            }
            _ => None,
        };
        let Some(address) = address else { return };
        if let Some(count) = self.addresses.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.addresses.remove(&address);
            }
        }
    }

    /// Whether a publisher has as much unanswered as it may.
    pub(super) fn is_full(&self, listens: Listens) -> bool {
        match listens {
            Listens::Publisher(key) => {
                self.publishers.get(key as usize).is_some_and(|it| it.unanswered.len() > UNANSWERED_MAX)
            }
            _ => false,
        }
    }

    /// Until when a subscriber may go on as it is.
    pub(super) fn patience(&self, listens: Listens) -> Mono {
        let Listens::Subscriber(key) = listens else { return Mono::MAX };
        let Some(subscriber) = self.subscribers.get(key as usize) else { return Mono::MAX };
        match subscriber.stage {
            Stage::Silent(until) | Stage::Retry(until) => until,
            Stage::Behind => subscriber.progress + FEED_STALL_MAX,
            Stage::Live | Stage::Queued | Stage::Asked { .. } => Mono::MAX,
        }
    }

    /// Puts a subscriber where the events it wants will find it.
    fn enlist(&mut self, key: u32) {
        let Some(Subscriber { filter, .. }) = self.subscribers.get(key as usize) else { return };
        self.subscribed += 1;
        if filter.names_ticks() && filter.user.is_none() {
            self.ticking.entry(filter.session.clone()).or_default().push(key);
        }
        match (&filter.session, &filter.user) {
            (Some(session), _) => self.by_session.entry(session.clone()).or_default().push(key),
            (None, Some(user)) => self.by_user.entry(user.clone()).or_default().push(key),
            (None, None) => self.broad.push(key),
        }
    }

    fn delist(&mut self, key: u32) {
        let Some(Subscriber { filter, stage, .. }) = self.subscribers.get(key as usize) else { return };
        if matches!(stage, Stage::Silent(_)) {
            return;
        }
        self.subscribed -= 1;
        let leave = |list: &mut Vec<u32>| {
            if let Some(place) = list.iter().position(|other| *other == key) {
                list.swap_remove(place);
            }
        };
        if let Some(list) = self.ticking.get_mut(&filter.session) {
            leave(list);
            if list.is_empty() {
                self.ticking.remove(&filter.session);
            }
        }
        let (lists, name) = match (&filter.session, &filter.user) {
            (Some(session), _) => (&mut self.by_session, session),
            (None, Some(user)) => (&mut self.by_user, user),
            (None, None) => return leave(&mut self.broad),
        };
        if let Some(list) = lists.get_mut(name) {
            leave(list);
            if list.is_empty() {
                lists.remove(name);
            }
        }
    }

    fn subscriber(&mut self, id: FeedId) -> Option<&mut Subscriber> {
        self.subscribers.get_mut(id.key as usize).filter(|subscriber| subscriber.conn == id.conn)
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Publishers.

impl Hub {
    /// A publisher has said something.
    pub(super) fn hear_publisher(&mut self, now: Now, key: u32, text: Result<&str, &'static str>) {
        let degraded = if self.stopping { Some("the server is restarting") } else { self.custody.degraded() };
        let published = text.map_err(str::to_owned).and_then(|text| {
            let event = events::published(text, now.wall)?;
            events::publish(event, &mut self.engine, degraded)
        });
        let batch = self.engine.gathering();
        let Some(publisher) = self.feeds.publishers.get_mut(key as usize) else { return };
        publisher.unanswered.push_back(match published {
            Ok(place) => Ack::Event { place, batch },
            Err(why) => Ack::Text(events::error(&why)),
        });
        if publisher.unanswered.len() == 1 {
            self.answer_publisher(now, key, 0, 0);
        }
    }

    /// The batch of this number is durable: whoever published in it hears so.
    pub(super) fn acknowledge(&mut self, now: Now, batch: &Batch, last_seq: u64) {
        let published = batch.published().count() as u64;
        let keys: Vec<usize> = self.feeds.publishers.iter().map(|(key, _)| key).collect();
        for key in keys.into_iter().filter_map(|key| u32::try_from(key).ok()) {
            self.answer_publisher(now, key, batch.number, last_seq - published + 1);
        }
    }

    /// What was published and is not durable never will be, or nobody knows: its publishers hear why.
    pub(super) fn disown(&mut self, now: Now, why: &str) {
        let text = events::error(why);
        let mut keys = Vec::new();
        for (key, publisher) in &mut self.feeds.publishers {
            for ack in &mut publisher.unanswered {
                if matches!(ack, Ack::Event { .. }) {
                    *ack = Ack::Text(text.clone());
                }
            }
            keys.extend(u32::try_from(key));
        }
        keys.into_iter().for_each(|key| self.answer_publisher(now, key, 0, 0));
    }

    /// Sends a publisher the answers that may leave: those to events in the batch `durable`, whose published events
    /// are numbered from `first_seq` on, and those behind that have waited for their turn alone.
    fn answer_publisher(&mut self, now: Now, key: u32, durable: u64, first_seq: u64) {
        let Some(Publisher { conn, unanswered, .. }) = self.feeds.publishers.get_mut(key as usize) else { return };
        let index = conn.index;
        let mut bytes = Vec::new();
        while let Some(ack) = unanswered.front() {
            match ack {
                Ack::Event { place, batch } if *batch == durable => {
                    self.text.clear();
                    self.speller.acknowledge(first_seq + u64::from(*place), &mut self.text);
                    ws::push_text_frame(&self.text, &mut bytes);
                }
                Ack::Event { .. } => break,
                Ack::Text(text) => ws::push_text_frame(text, &mut bytes),
            }
            unanswered.pop_front();
        }
        if !bytes.is_empty() {
            self.answer(now, index, Frame::lasting(bytes));
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Subscribers.

impl Hub {
    /// A subscriber has said something.
    pub(super) fn hear_subscriber(&mut self, now: Now, index: u32, key: u32, text: Result<&str, &'static str>) {
        let Some(subscriber) = self.feeds.subscribers.get_mut(key as usize) else { return };
        if matches!(subscriber.stage, Stage::Silent(_)) {
            return match text.map_err(str::to_owned).and_then(Wish::read) {
                Ok(wish) => self.subscribe(now, index, key, &wish),
                Err(why) => {
                    self.tell_text(now, index, &events::error(&why));
                    self.close_socket(now, index, 1008, "No filter");
                }
            };
        }
        match text.map_err(str::to_owned).and_then(events::said) {
            Ok(Said::Ping) => self.tell_text(now, index, r#"{"type":"pong"}"#),
            Ok(Said::Update(wish)) => {
                self.tell_text(now, index, &events::updated(&wish));
                self.feeds.delist(key);
                if let Some(subscriber) = self.feeds.subscribers.get_mut(key as usize) {
                    subscriber.filter = wish.filter;
                    if let Stage::Asked { stale } = &mut subscriber.stage {
                        *stale = true;
                    }
                }
                self.feeds.enlist(key);
            }
            Err(why) => self.tell_text(now, index, &events::error(&why)),
        }
    }

    fn subscribe(&mut self, now: Now, index: u32, key: u32, wish: &Wish) {
        if self.feeds.subscribed as usize >= SUBSCRIBERS_MAX {
            self.tell_text(now, index, &events::error("Server at subscriber capacity"));
            return self.close_socket(now, index, 1013, "Server full");
        }
        let last_seq = self.engine.events.last_seq();
        let Some(subscriber) = self.feeds.subscribers.get_mut(key as usize) else { return };
        subscriber.filter = wish.filter.clone();
        subscriber.cursor = wish.after.unwrap_or(last_seq);
        subscriber.sent = subscriber.cursor;
        // Whoever is ahead of us hears nothing before we have caught up.
        subscriber.stage = if subscriber.cursor < last_seq { Stage::Behind } else { Stage::Live };
        self.feeds.enlist(key);
        self.metrics.subscribers.set(i64::from(self.feeds.subscribed()));
        let text = events::subscribed(self.chance.next_u32(), wish, last_seq);
        self.tell_text(now, index, &text);
        self.turn_page(now, key);
    }

    /// Everything in the batch is durable: those who want to hear of it will.
    pub(super) fn release_events(&mut self, now: Now, batch: Batch, last_seq: u64) {
        let records = batch.follows.into_iter().chain(batch.commands);
        let events: Vec<Event> = records.filter_map(Record::into_event).collect();
        self.metrics.events.inc_by(events.len() as u64);
        if self.feeds.subscribed() == 0 {
            return;
        }
        let first_seq = last_seq - events.len() as u64 + 1;
        self.feeds.unrouted.extend((first_seq..).zip(events).map(|(seq, event)| Stored { seq, event }));
        if self.feeds.unrouted.len() > EVENTS_UNROUTED_MAX {
            self.outrun_all(now);
        }
        self.route_events(now);
    }

    /// A turn begins: it has time for so much routing.
    pub(super) fn begin_routing(&mut self, now: Now) {
        self.feeds.looks_left = ROUTINGS_PER_TURN;
        self.route_events(now);
    }

    /// Whether events wait for a turn that has time for them.
    pub(super) fn is_routing(&self) -> bool {
        !self.feeds.unrouted.is_empty()
    }

    fn route_events(&mut self, now: Now) {
        while self.feeds.looks_left > 0
            && let Some(Stored { seq, event }) = self.feeds.unrouted.pop_front()
        {
            let looks = self.route(now, seq, &event);
            self.feeds.looks_left = self.feeds.looks_left.saturating_sub(looks + 1);
        }
    }

    /// More is stored than can be routed: everybody gets it by pages, at his own pace.
    fn outrun_all(&mut self, now: Now) {
        let Some(Stored { seq, .. }) = self.feeds.unrouted.front() else { return };
        let routed = seq - 1;
        self.feeds.unrouted.clear();
        let mut keys = Vec::new();
        for (key, subscriber) in &mut self.feeds.subscribers {
            if subscriber.stage == Stage::Live {
                subscriber.fall_behind(now, routed);
                keys.extend(u32::try_from(key));
            }
        }
        keys.into_iter().for_each(|key| self.turn_page(now, key));
    }

    /// A timer has ticked: those who name ticks hear of it. What is not kept is not missed.
    pub(super) fn release_tick(&mut self, now: Now, serial: u32, reading: Reading) {
        let Some(timer) = self.engine.timers.peek(serial) else { return };
        let told = Told { timer, what: What::Ticked, reading, actor: crate::domain::history::TIMERD };
        let event = events::tick(&told, now);
        let mut frame = None;
        let of_timer = self.feeds.ticking.get(&event.session);
        for &key in of_timer.into_iter().chain(self.feeds.ticking.get(&None)).flatten() {
            let Some(subscriber) = self.feeds.subscribers.get(key as usize) else { continue };
            if subscriber.stage != Stage::Live || !subscriber.filter.admits(&event) {
                continue;
            }
            let Some(conn) = self.conns.get_mut(subscriber.conn.index as usize) else { continue };
            let frame = frame.get_or_insert_with(|| {
                self.text.clear();
                self.speller.write(None, &event, &mut self.text);
                Frame::lasting(ws::text_frame(&self.text))
            });
            if conn.outbox.push(frame, Bound::FEED).is_ok() {
                conn.told = now.mono;
                if !std::mem::replace(&mut conn.dirty, true) {
                    self.dirty.push_back(subscriber.conn.index);
                }
            }
        }
    }

    /// Sends the event numbered `seq` to everybody who is live and wants it: encoded once, one buffer, a pointer into
    /// each outbox. Returns how many subscribers were looked at.
    fn route(&mut self, now: Now, seq: u64, event: &Event) -> usize {
        let Feeds { subscribers, by_session, by_user, broad, .. } = &mut self.feeds;
        let of_session = event.session.as_ref().and_then(|session| by_session.get(session));
        let of_user = event.user.as_ref().and_then(|user| by_user.get(user));
        // Beginning with another one each time, so that nobody is always served last.
        let turn = usize::try_from(seq).unwrap_or(0).checked_rem(broad.len()).unwrap_or(0);
        let (late, early) = broad.split_at(turn);
        let lists = [of_session.map(Vec::as_slice), of_user.map(Vec::as_slice), Some(early), Some(late)];
        let lists = lists.into_iter().flatten();
        let looks = lists.clone().map(<[u32]>::len).sum();
        let mut frame = None;
        let mut outrun = Vec::new();
        let mut frames = 0;
        for &key in lists.flatten() {
            let Some(subscriber) = subscribers.get_mut(key as usize) else { continue };
            let is_due =
                subscriber.stage == Stage::Live && seq > subscriber.cursor && subscriber.filter.admits(event);
            let Some(conn) = self.conns.get_mut(subscriber.conn.index as usize).filter(|_| is_due) else { continue };
            let frame: &Shared = frame.get_or_insert_with(|| {
                self.text.clear();
                self.speller.write(Some(seq), event, &mut self.text);
                Frame::lasting(ws::text_frame(&self.text))
            });
            if conn.outbox.push(frame, Bound::FEED).is_err() {
                subscriber.fall_behind(now, seq - 1);
                outrun.push(key);
                continue;
            }
            conn.told = now.mono;
            frames += 1;
            (subscriber.cursor, subscriber.sent) = (seq, seq);
            if !std::mem::replace(&mut conn.dirty, true) {
                self.dirty.push_back(subscriber.conn.index);
            }
        }
        self.metrics.frames.inc_by(frames);
        outrun.into_iter().for_each(|key| self.turn_page(now, key));
        looks
    }

    /// Asks for the next page of a subscriber who is behind, when there is room for it.
    fn turn_page(&mut self, now: Now, key: u32) {
        let Some(subscriber) = self.feeds.subscribers.get_mut(key as usize) else { return };
        let (conn, stalled) = (subscriber.conn, subscriber.progress + FEED_STALL_MAX <= now.mono);
        let waiting = self.conns.get(conn.index as usize).map_or(0, |conn| conn.outbox.bytes());
        match subscriber.stage {
            Stage::Behind if waiting <= FEED_BYTES_MAX / 2 => {
                subscriber.stage = Stage::Queued;
                self.feeds.queue.push_back(key);
                self.ask_pages(now);
            }
            Stage::Behind if stalled => {
                self.close_slow_subscriber(now, conn.index, key);
            }
            _ => self.watch(conn.index),
        }
    }

    /// Sends away a subscriber who takes nothing: it comes back behind the last event that it was sent.
    pub(super) fn close_slow_subscriber(&mut self, now: Now, index: u32, key: u32) {
        let Some(subscriber) = self.feeds.subscribers.get(key as usize) else { return };
        let reason = format!("Too slow; last seq {}", subscriber.sent);
        self.metrics.slow_clients.inc();
        self.close_socket(now, index, 1013, &reason);
    }

    /// Asks the disk for as many pages as may be asked for at a time.
    fn ask_pages(&mut self, now: Now) {
        while self.feeds.pages_asked < FEED_PAGES_ASKED_MAX && self.feeds.page_bytes < FEED_PAGES_BYTES_MAX {
            let Some(key) = self.feeds.queue.pop_front() else { return };
            let Some(subscriber) = self.feeds.subscribers.get_mut(key as usize) else { continue };
            if subscriber.stage != Stage::Queued {
                continue;
            }
            if !self.custody.takes_questions() {
                subscriber.stage = Stage::Retry(now.mono + DISK_RETRY_EVERY);
                let index = subscriber.conn.index;
                self.watch(index);
                continue;
            }
            subscriber.stage = Stage::Asked { stale: false };
            let id = FeedId { key, conn: subscriber.conn };
            let search = Search {
                filter: subscriber.filter.clone(),
                since: None,
                order: Order::After(subscriber.cursor),
                limit: FEED_PAGE_EVENTS_MAX,
                bytes_max: FEED_PAGE_BYTES_MAX,
                rows_max: FEED_PAGE_ROWS_MAX,
            };
            self.feeds.pages_asked += 1;
            self.custody.ask_for_feed(id, search);
        }
    }

    /// The disk has told what comes next for a subscriber, or cannot.
    pub(super) fn page_turned(&mut self, now: Now, id: FeedId, answer: Result<Answer, String>) {
        self.feeds.pages_asked -= 1;
        if let Some(subscriber) = self.feeds.subscriber(id)
            && let Stage::Asked { stale } = subscriber.stage
        {
            match answer {
                Ok(Answer::Events(_)) if stale => {
                    subscriber.stage = Stage::Behind;
                    self.turn_page(now, id.key);
                }
                Ok(Answer::Events(Ok(page))) => self.send_page(now, id, &page),
                Ok(Answer::Events(Err(gone))) => self.tell_gone(now, id, gone),
                Ok(_) | Err(_) => {
                    subscriber.stage = Stage::Retry(now.mono + DISK_RETRY_EVERY);
                    self.watch(id.conn.index);
                }
            }
        }
        self.ask_pages(now);
    }

    fn send_page(&mut self, now: Now, id: FeedId, page: &Page) {
        let mut bytes = Vec::new();
        let mut said = page.events.iter();
        // Escapes can make an event several times as long as it is in the store: what is too much then is left for
        // the next page.
        let sent = said.by_ref().find_map(|stored| {
            self.text.clear();
            self.speller.write(Some(stored.seq), &stored.event, &mut self.text);
            ws::push_text_frame(&self.text, &mut bytes);
            self.metrics.frames.inc();
            (bytes.len() >= FEED_BYTES_MAX).then_some(stored.seq)
        });
        let cut_at = sent.filter(|_| said.len() > 0);
        self.words_left = self.words_left.saturating_sub(bytes.len());
        let Some(subscriber) = self.feeds.subscriber(id) else { return };
        subscriber.progress = now.mono;
        subscriber.sent = cut_at.or(page.events.last().map(|last| last.seq)).unwrap_or(subscriber.sent);
        subscriber.cursor = cut_at.unwrap_or(page.upto);
        subscriber.stage = if page.is_last && cut_at.is_none() { Stage::Live } else { Stage::Behind };
        if !bytes.is_empty() {
            self.answer(now, id.conn.index, Frame::lasting(bytes));
        }
        self.book_page(id.key);
        self.turn_page(now, id.key);
    }

    /// Books what a subscriber's outbox holds of pages, which are nobody else's.
    fn book_page(&mut self, key: u32) {
        let Some(subscriber) = self.feeds.subscribers.get_mut(key as usize) else { return };
        let held = self.conns.get(subscriber.conn.index as usize).map_or(0, |conn| conn.outbox.held_bytes());
        let before = std::mem::replace(&mut subscriber.page_bytes, held);
        self.feeds.page_bytes = self.feeds.page_bytes + held - before;
    }

    fn tell_gone(&mut self, now: Now, id: FeedId, gone: Gone) {
        self.tell_text(now, id.conn.index, &events::gone_message(gone));
        self.close_socket(now, id.conn.index, 4010, "Events were deleted");
    }

    /// A subscriber's socket has been written to; `took`: it has taken bytes.
    pub(super) fn fed(&mut self, now: Now, index: u32, took: bool) {
        let Some(conn) = self.conns.get_mut(index as usize) else { return };
        let Some(Listens::Subscriber(key)) = conn.socket().map(|socket| socket.listens) else { return };
        let is_taken = conn.outbox.is_empty();
        let Some(subscriber) = self.feeds.subscribers.get_mut(key as usize) else { return };
        subscriber.progress = if took { now.mono } else { subscriber.progress };
        let is_behind = subscriber.stage == Stage::Behind;
        if is_taken && subscriber.page_bytes > 0 {
            self.book_page(key);
            self.ask_pages(now);
        }
        if is_behind {
            self.turn_page(now, key);
        }
    }

    /// A subscriber's alarm has rung.
    pub(super) fn nudge_subscriber(&mut self, now: Now, index: u32, key: u32) {
        let Some(subscriber) = self.feeds.subscribers.get_mut(key as usize) else { return };
        match subscriber.stage {
            Stage::Silent(until) if until <= now.mono => {
                self.metrics.connections_shed.inc();
                self.close_socket(now, index, 1008, "No filter in time");
            }
            Stage::Retry(at) if at <= now.mono => {
                subscriber.stage = Stage::Behind;
                self.turn_page(now, key);
            }
            Stage::Behind => self.turn_page(now, key),
            _ => {}
        }
    }

    /// Whether a subscriber has said what it wants, and so hears keepalives.
    pub(super) fn has_subscribed(&self, key: u32) -> bool {
        self.feeds.subscribers.get(key as usize).is_some_and(|it| !matches!(it.stage, Stage::Silent(_)))
    }
}

#[cfg(test)]
mod tests {
    use crate::hub::tests::{Lines, hub};
    use std::net::Ipv4Addr;

    use super::*;
    use crate::clock::WallMs;
    use crate::domain::disk::{Done, Job, Query};
    use crate::domain::events::Kind;

    impl Lines {
        /// The numbers of the events that have come since it was last asked.
        fn seqs(&mut self) -> Vec<u64> {
            let text = String::from_utf8_lossy(&std::mem::take(&mut self.0)).into_owned();
            let numbers = text.split(r#""seq":"#).skip(1);
            numbers.map(|rest| rest.split('}').next().unwrap().parse().unwrap()).collect()
        }
    }

    fn turn(hub: &mut Hub, now: Now, done: Vec<Done>, lines: &mut Lines) -> Vec<Job> {
        hub.begin(now);
        done.into_iter().for_each(|done| hub.handle_done(now, done));
        let jobs = hub.take_jobs(now);
        hub.flush(now, lines);
        jobs
    }

    fn subscribe(hub: &mut Hub, now: Now) {
        let index = hub.accept(now, IpAddr::V4(Ipv4Addr::LOCALHOST)).unwrap();
        let upgrade = "GET /ws/subscribe HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        hub.receive(now, index, upgrade.as_bytes());
        // `{}` in a frame whose mask is zeros.
        hub.receive(now, index, b"\x81\x82\0\0\0\0{}");
    }

    fn batch(number: u64, events: usize, now: Now) -> Batch {
        let event = Event {
            kind: Kind::QuizStarted,
            source: "t".into(),
            session: None,
            user: None,
            payload: "{}".into(),
            at: now.wall,
        };
        Batch { number, alive: now, follows: Vec::new(), commands: vec![Record::Event(event); events] }
    }

    fn asked(jobs: &[Job]) -> Vec<(u64, Order)> {
        let asked = |job: &Job| match job {
            Job::Ask(ticket, Query::Events(search)) => Some((*ticket, search.order)),
            _ => None,
        };
        jobs.iter().filter_map(asked).collect()
    }

    #[test]
    fn more_than_can_be_routed_comes_by_pages_from_where_routing_had_come() {
        let now = Now { mono: Mono::from_ns(1), wall: WallMs::from_ms(0) };
        let (mut hub, mut lines) = (hub(now, 10), Lines::default());
        subscribe(&mut hub, now);
        let jobs = turn(&mut hub, now, vec![Done::Written(batch(1, 3, now), 3)], &mut lines);
        assert_eq!((lines.seqs(), asked(&jobs)), (vec![1, 2, 3], vec![]));
        let last_seq = EVENTS_UNROUTED_MAX as u64 + 4;
        let flood = Done::Written(batch(2, EVENTS_UNROUTED_MAX + 1, now), last_seq);
        let jobs = turn(&mut hub, now, vec![flood], &mut lines);
        assert_eq!((lines.seqs(), asked(&jobs)), (vec![], vec![(1, Order::After(3))]));
        // While it is behind, what is released is not for it; it goes live when a page ends with the last event.
        let stored = |seq| {
            let mut batch = batch(0, 1, now).commands.into_iter();
            Stored { seq, event: batch.next().and_then(Record::into_event).unwrap() }
        };
        let page = Page { events: vec![stored(last_seq + 1)], upto: last_seq + 1, is_last: true };
        let done = vec![
            Done::Written(batch(3, 1, now), last_seq + 1),
            Done::Answered(1, Ok(Answer::Events(Ok(page)))),
            Done::Written(batch(4, 1, now), last_seq + 2),
        ];
        let jobs = turn(&mut hub, now, done, &mut lines);
        assert_eq!((lines.seqs(), asked(&jobs)), (vec![last_seq + 1, last_seq + 2], vec![]));
    }

    #[test]
    fn a_batch_of_thousands_is_routed_over_as_many_turns_as_it_takes_and_in_order() {
        let now = Now { mono: Mono::from_ns(1), wall: WallMs::from_ms(0) };
        let (mut hub, mut lines) = (hub(now, 10), Lines::default());
        subscribe(&mut hub, now);
        turn(&mut hub, now, Vec::new(), &mut lines);
        lines.seqs();
        hub.feeds.looks_left = 0;
        hub.handle_done(now, Done::Written(batch(1, 500, now), 500));
        assert!(hub.is_routing() && hub.has_backlog());
        hub.flush(now, &mut lines);
        assert!(lines.seqs().is_empty());
        hub.feeds.looks_left = 20;
        hub.route_events(now);
        hub.flush(now, &mut lines);
        // One look for the event and one for the one subscriber.
        assert_eq!(lines.seqs(), (1..=10).collect::<Vec<_>>());
        turn(&mut hub, now, Vec::new(), &mut lines);
        assert_eq!((lines.seqs(), hub.is_routing()), ((11..=500).collect::<Vec<_>>(), false));
    }
}
