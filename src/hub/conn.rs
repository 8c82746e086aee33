//! One connection, as far as it is more than a socket.
//!
//! Owns what a connection is: its protocol with the unfinished input of it, its outbox, its unanswered requests in
//! order, its limits of patience. It knows no timer and no socket. While nothing is unfinished or unanswered, a
//! WebSocket is these plain bytes and nothing on the heap.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use crate::clock::Mono;
use crate::domain::effects::Topic;
use crate::hub::audience::Encoding;
use crate::hub::outbox::{Bound, Frame, Outbox};
use crate::limits::*;
use crate::wire::http::{self, Head, Request, Stage, Version};
use crate::wire::ws::{self, Limit};

/// A connection's name within the hub: the index is the driver's too, the generation tells it from an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnId {
    /// Which place.
    pub index: u32,
    /// Whose.
    pub generation: u32,
}

/// One connection.
///
/// Two cache lines: a tick finds all that it needs in the first one, up to the tag of the protocol. Of a hundred
/// thousand connections each is cold when its second has passed, and a line costs as much as everything else here.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Conn {
    /// What waits to be sent.
    pub outbox: Outbox,
    /// When it was last told something in text.
    pub told: Mono,
    /// Tells it from an earlier connection in the same place.
    pub generation: u32,
    /// How far it is from its end.
    pub phase: Phase,
    /// Marked for the next flush.
    pub dirty: bool,
    /// What its outbox is for.
    pub outlet: Outlet,
    /// What it holds unsent is counted with that of all others.
    pub is_metered: bool,
    /// When its one valid alarm rings.
    pub alarm: Mono,
    /// What it speaks.
    pub protocol: Protocol,
}

/// What an outbox is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlet {
    /// Answers, or the messages of a timer.
    Plain,
    /// A candidate's items and ticks.
    Candidate,
    /// What is said in a room.
    Guest,
    /// A subscriber's events: what it takes is looked at.
    Feed,
}

impl Outlet {
    /// How much may wait in it, besides what has a bound of its own.
    pub const fn bound(self) -> Bound {
        match self {
            Outlet::Plain => Bound::CLIENT,
            Outlet::Candidate => Bound::CANDIDATE,
            Outlet::Guest => Bound::MEMBER,
            Outlet::Feed => Bound::FEED_SAID,
        }
    }
}

/// How far a connection is from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// In use.
    Open,
    /// Nothing more is taken from it; it is half-closed when its outbox is empty.
    Leaving,
    /// Half-closed: the other side has until the alarm to close too.
    Lingering,
    /// To be reaped.
    Dead,
}

/// What a connection speaks. The tag comes first.
#[derive(Debug)]
#[repr(u8)]
pub enum Protocol {
    /// Requests and answers. Boxed: of a hundred thousand connections few are in this state.
    Http(Box<Http>),
    /// Messages.
    Socket(Socket),
    /// Messages as an answer that does not end.
    Stream(Stream),
}

/// An HTTP connection.
#[derive(Debug)]
pub struct Http {
    /// Unfinished input.
    pub decoder: http::Decoder,
    /// Unanswered requests, in order.
    pub replies: VecDeque<Reply>,
    /// A request that must not be looked at before those before it are answered.
    pub next: Option<Request>,
    /// Counts requests.
    pub requests: u32,
    /// When the stage of the input began.
    pub since: Mono,
    /// The stage that began then.
    pub stage: Stage,
    /// When the kernel last took bytes of an answer.
    pub progress: Mono,
    /// No request is taken after the one that said so.
    pub last: bool,
    /// The other side will send no more.
    pub eof: bool,
    /// One connection too many: it is only told so.
    pub over: bool,
    /// It has whole requests that this turn had no time for.
    pub parked: bool,
    /// Bytes of unfinished input that are booked for it.
    pub booked_bytes: usize,
    /// The long answer under way.
    pub export: Option<u32>,
    /// Who is there.
    pub peer: IpAddr,
}

/// A place in the order of answers.
#[derive(Debug)]
pub struct Reply {
    /// Which request.
    pub number: u32,
    /// The answer, or what there is of it, once it may leave.
    pub bytes: Option<Vec<u8>>,
    /// There is more of it to come.
    pub has_more: bool,
}

/// How an answer is framed, from the request it answers.
#[derive(Clone, Copy, Debug)]
pub struct Framing {
    /// The request's version.
    pub version: Version,
    /// Whether the connection lives on.
    pub keep_alive: bool,
    /// HEAD: no body.
    pub head_only: bool,
}

impl Framing {
    /// As `head` asks for.
    pub fn of(head: &Head) -> Self {
        Framing { version: head.version, keep_alive: head.keep_alive(), head_only: head.method == "HEAD" }
    }
}

impl Http {
    /// A connection that has said nothing yet.
    pub fn new(now: Mono, peer: IpAddr, over: bool) -> Self {
        Http {
            decoder: http::Decoder::new(),
            replies: VecDeque::new(),
            next: None,
            requests: 0,
            since: now,
            stage: Stage::Idle,
            progress: now,
            last: false,
            eof: false,
            over,
            parked: false,
            booked_bytes: 0,
            export: None,
            peer,
        }
    }

    /// Whether another request may be looked at.
    pub fn takes_requests(&self) -> bool {
        !self.last && self.replies.len() < PIPELINE_MAX
    }

    /// Until when this may go on as it is. `sending`: an answer waits for the client to take it.
    pub fn patience(&self, sending: bool) -> Option<Mono> {
        if sending {
            return Some(self.progress + WRITE_STALL_MAX);
        }
        if !self.replies.is_empty() || self.next.is_some() {
            // Waits for the disk, which has a bound of its own.
            return None;
        }
        Some(self.since + self.age_max())
    }

    /// How old the present stage of the input may grow.
    pub fn age_max(&self) -> Duration {
        match self.stage {
            Stage::Idle => IDLE_MAX,
            Stage::Head => HEAD_AGE_MAX,
            Stage::Body => BODY_AGE_MAX,
        }
    }
}

/// An event stream.
#[derive(Debug)]
pub struct Stream {
    /// What it listens to.
    pub listens: Listens,
    /// Its place in the audience.
    pub place: u32,
    /// When the kernel last took bytes of it.
    pub progress: Mono,
}

impl Stream {
    /// When something must be said or done next, if it was last `told` something then. `sending`: something waits for
    /// the client to take it.
    pub fn patience(&self, told: Mono, sending: bool) -> Mono {
        if sending { self.progress + WRITE_STALL_MAX } else { told + KEEPALIVE_AFTER }
    }
}

/// A WebSocket.
#[derive(Debug)]
pub struct Socket {
    /// Unfinished input.
    pub decoder: ws::Decoder,
    /// When the unfinished input began.
    pub unfinished_since: Mono,
    /// When it was last pinged.
    pub pinged: Mono,
    /// When it last said anything.
    pub heard: Mono,
    /// When it would have said so much at the allowed pace.
    pub pace: Mono,
    /// Its place in the audience.
    pub place: u32,
    /// What it listens to.
    pub listens: Listens,
}

/// What a WebSocket listens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listens {
    /// The messages of one noun; `counted`: it takes one of the noun's places.
    Topic {
        /// Which.
        topic: Topic,
        /// Whether it takes a place.
        counted: bool,
    },
    /// That what it publishes is stored; its place among the publishers.
    Publisher(u32),
    /// Events; its place among the subscribers.
    Subscriber(u32),
    /// The room in which it sits, if it does; its place among the guests.
    Guest(u32),
    /// Itself.
    Echo,
    /// Nothing: it was refused.
    Nothing,
}

impl Socket {
    /// A socket that has just been opened.
    pub fn new(now: Mono, listens: Listens) -> Self {
        Socket {
            decoder: ws::Decoder::new(),
            unfinished_since: now,
            pinged: now,
            heard: now,
            pace: now,
            place: 0,
            listens,
        }
    }

    /// Bytes that a message may have.
    pub fn message_limit(&self) -> Limit {
        match self.listens {
            Listens::Echo => Limit::Close(ECHO_BYTES_MAX),
            Listens::Publisher(_) | Listens::Subscriber(_) => Limit::Skip(EVENT_MESSAGE_BYTES_MAX),
            Listens::Topic { topic: Topic::Session(_), .. } => Limit::Close(ANSWER_BYTES_MAX),
            Listens::Topic { .. } | Listens::Guest(_) | Listens::Nothing => Limit::Close(MESSAGE_BYTES_MAX),
        }
    }

    /// Counts a message of the client. `false`: it says too much.
    pub fn keeps_pace(&mut self, now: Mono) -> bool {
        const STEP: Duration = Duration::from_nanos(1_000_000_000 / MESSAGES_PER_S as u64);
        const AHEAD_MAX: Duration =
            Duration::from_nanos(1_000_000_000 / MESSAGES_PER_S as u64 * MESSAGES_BURST as u64);
        self.pace = self.pace.max(now) + STEP;
        // Publishers are slowed down by the disk, and by nothing else.
        self.pace.since(now) <= AHEAD_MAX || matches!(self.listens, Listens::Echo | Listens::Publisher(_))
    }

    /// Until when an unfinished message must be whole. A publisher has longer: it is not read while too many of its
    /// messages wait for the disk, and cannot finish what is not read.
    pub fn unfinished_until(&self) -> Mono {
        match (self.decoder.is_unfinished(), self.listens) {
            (false, _) => Mono::MAX,
            (true, Listens::Publisher(_)) => self.unfinished_since + PUBLISHER_MESSAGE_AGE_MAX,
            (true, _) => self.unfinished_since + MESSAGE_AGE_MAX,
        }
    }

    /// When something must be said or done next, if the client stays silent and was last `told` something then.
    pub fn patience(&self, told: Mono) -> Mono {
        let unfinished = self.unfinished_until();
        (told + KEEPALIVE_AFTER).min(self.pinged + PING_EVERY).min(self.heard + PEER_SILENCE_MAX).min(unfinished)
    }
}

impl Conn {
    /// A connection that has just been accepted.
    pub fn new(now: Mono, generation: u32, peer: IpAddr, over: bool) -> Self {
        Conn {
            outbox: Outbox::default(),
            told: now,
            alarm: Mono::MAX,
            generation,
            phase: Phase::Open,
            dirty: false,
            outlet: Outlet::Plain,
            is_metered: true,
            protocol: Protocol::Http(Box::new(Http::new(now, peer, over))),
        }
    }

    /// Its HTTP state, while it speaks that.
    pub fn http(&mut self) -> Option<&mut Http> {
        match &mut self.protocol {
            Protocol::Http(http) => Some(http),
            Protocol::Socket(_) | Protocol::Stream(_) => None,
        }
    }

    /// Its WebSocket state, while it speaks that.
    pub fn socket(&mut self) -> Option<&mut Socket> {
        match &mut self.protocol {
            Protocol::Socket(socket) => Some(socket),
            Protocol::Http(_) | Protocol::Stream(_) => None,
        }
    }

    /// What it listens to, its place there, and in which form.
    pub fn listening(&mut self) -> Option<(&mut Listens, &mut u32, Encoding)> {
        match &mut self.protocol {
            Protocol::Http(_) => None,
            Protocol::Socket(socket) => Some((&mut socket.listens, &mut socket.place, Encoding::WebSocket)),
            Protocol::Stream(stream) => Some((&mut stream.listens, &mut stream.place, Encoding::EventStream)),
        }
    }

    /// Whether its input is to be read at all. What is not read now must be asked for again.
    pub fn wants_input(&self) -> bool {
        match (&self.phase, &self.protocol) {
            // What is still coming is thrown away, so that closing does not reset the line under our last words.
            (Phase::Leaving | Phase::Lingering, _) | (Phase::Open, Protocol::Stream(_)) => true,
            (Phase::Dead, _) => false,
            (Phase::Open, Protocol::Http(http)) => {
                let idle = http.takes_requests() && http.next.is_none() && !http.parked;
                idle && self.outbox.bytes() < OUTBOX_BYTES_MAX
            }
            // Answers that were asked for have no bound in the outbox: the next message waits until they have gone.
            (Phase::Open, Protocol::Socket(socket)) => {
                let answers = matches!(
                    socket.listens,
                    Listens::Echo
                        | Listens::Publisher(_)
                        | Listens::Guest(_)
                        | Listens::Topic { topic: Topic::Session(_), .. }
                );
                !answers || self.outbox.bytes() < OUTBOX_BYTES_MAX
            }
        }
    }

    /// Bytes that it has not taken, as far as they are counted with those of all others.
    pub fn unsent_bytes(&self) -> usize {
        if self.is_metered { self.outbox.held_bytes() } else { 0 }
    }

    /// Bytes of unfinished input that are booked for it.
    pub fn booked_bytes(&self) -> usize {
        match &self.protocol {
            Protocol::Http(http) => http.booked_bytes,
            // A socket's input is only touched when bytes come, and booked then.
            Protocol::Socket(socket) => socket.decoder.buffered(),
            Protocol::Stream(_) => 0,
        }
    }

    /// Moves answers that are next in order and may leave into the outbox. Returns whether any did.
    pub fn release_replies(&mut self) -> bool {
        let Protocol::Http(http) = &mut self.protocol else { return false };
        let mut released = false;
        while let Some(reply) = http.replies.front_mut() {
            let Some(bytes) = reply.bytes.take() else { break };
            if !reply.has_more {
                http.replies.pop_front();
            }
            self.outbox.push_unbounded(Frame::lasting(bytes));
            released = true;
        }
        released
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_connection_is_small() {
        assert_eq!(size_of::<Conn>(), 128, "two cache lines");
        assert!(std::mem::offset_of!(Conn, protocol) < 64, "the tag of the protocol lies in the first");
    }

    #[test]
    fn a_burst_is_allowed_and_a_flood_is_not() {
        let mut socket = Socket::new(Mono::from_ns(0), Listens::Nothing);
        let now = Mono::from_ns(1_000_000_000);
        assert_eq!((0..200).take_while(|_| socket.keeps_pace(now)).count(), MESSAGES_BURST as usize);
        let later = now + Duration::from_secs(6);
        assert!((0..50).all(|_| socket.keeps_pace(later)));
    }
}
