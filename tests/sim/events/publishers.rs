//! Those who publish over sockets, and what becomes of what they have published.
//!
//! Owns each message ever published, what its publisher was told of it and what the disk has of it: what is
//! acknowledged is stored as it was published, what is refused never is, nothing is stored more often than it was
//! sent.

use std::collections::VecDeque;
use std::time::Duration;

use timerd::domain::events::Event;
use timerd::limits::*;

use super::model::{TYPES, type_of};
use super::{Fair, SESSIONS, SOURCES, USERS, frames_of, quoted, upgraded};
use crate::net::Pace;
use crate::peer::{self, Frame};
use crate::world::{World, violated};

/// Something published.
#[derive(Debug)]
pub struct Letter {
    kind: usize,
    source: &'static str,
    session: Option<&'static str>,
    user: Option<&'static str>,
    /// Its payload's looks: plain, with blanks to be taken out, or of so many bytes.
    size: usize,
    /// The wall clock in the turn in which it was heard, if that is known.
    at_ms: Option<i64>,
    /// Times that it was sent and not answered yet.
    open: u32,
    /// What became of it was not told.
    maybe: bool,
    told: Option<u64>,
    stored: Option<u64>,
}

/// A message that waits for its answer.
#[derive(Debug)]
struct Awaited {
    /// What was published. `Err`: it is no event, and the answer begins with this.
    letter: Result<usize, &'static str>,
    end: u64,
    /// When the daemon heard it.
    heard_ns: u64,
}

/// A publisher's socket.
#[derive(Debug)]
pub struct Publisher {
    /// Its line.
    pub line: usize,
    /// Its kernel's buffer.
    capacity: usize,
    upgraded: bool,
    sent: u64,
    awaited: VecDeque<Awaited>,
    /// How many of those the daemon has heard.
    heard: usize,
    /// Where the last of them ended, and since when it may have been hearing one that is not whole yet.
    whole: u64,
    begun_ns: u64,
    sins: u32,
    /// It has left.
    pub gone: bool,
    closed: bool,
}

impl Publisher {
    /// It is one of the sockets that are counted.
    pub fn is_in(&self) -> bool {
        self.upgraded && !self.closed && !self.gone
    }

    /// It would have read the word that it is one too many.
    pub fn reads(&self) -> bool {
        self.capacity == usize::MAX
    }

    /// It waits for an answer.
    pub fn waits(&self) -> bool {
        !self.gone && !self.closed && !self.awaited.is_empty()
    }

    /// What it will not hear of any more.
    pub fn letters(self) -> impl Iterator<Item = usize> {
        self.awaited.into_iter().filter_map(|awaited| awaited.letter.ok())
    }
}

impl Letter {
    fn payload(&self, number: usize, blank: &str) -> String {
        match self.size {
            0 => format!(r#"{{"n":{number}}}"#),
            1 => {
                let b = blank;
                format!(
                    r#"{{{b}"n":{number},{b}"a":[1,{b}2.50,"x  y"]{b},"b":{b}{{"c":null,"d":"ü\n",{b}"e":{{}}}}}}"#
                )
            }
            bytes => format!(r#"{{"n":{number},"fill":"{}"}}"#, "x".repeat(bytes)),
        }
    }

    /// It is sent.
    pub fn sent(&mut self) {
        self.open += 1;
    }

    /// It was answered. Returns its number, if it was stored.
    pub fn answered(&mut self) -> Option<u64> {
        self.open -= 1;
        self.stored
    }

    /// The body in which it is sent.
    pub fn body(&self, number: usize) -> String {
        let payload = self.payload(number, " \n");
        let (kind, source) = (TYPES[self.kind], self.source);
        let mut body = format!(r#"{{"event_type":"{kind}","source":"{source}","payload":{payload}"#);
        for (name, value) in [("session_id", self.session), ("user_id", self.user)] {
            match value {
                Some(value) => body.push_str(&format!(r#", "{name}": {}"#, quoted(value))),
                None if number.is_multiple_of(2) => body.push_str(&format!(r#","{name}":null"#)),
                None => {}
            }
        }
        body.push('}');
        body
    }
}

/// What is no event, and how the answer to it begins.
const NONSENSE: [(&str, &str); 9] = [
    ("", "Invalid JSON"),
    ("nonsense", "Invalid JSON"),
    (r#"{"event_type":"#, "Invalid JSON"),
    ("[]", ""),
    ("{}", ""),
    (r#"{"event_type":"quiz_exploded","source":"a"}"#, ""),
    (r#"{"event_type":"quiz_started","source":""}"#, ""),
    (r#"{"event_type":"quiz_started","source":"a","payload":[]}"#, ""),
    (r#"{"event_type":"quiz_started","source":"a b","user_id":1}"#, ""),
];

impl Fair {
    /// Something to publish.
    pub fn write_letter(&mut self) -> usize {
        let rng = &mut self.rng;
        let size = match rng.below(100) {
            large if large < self.plan.large => rng.pick(&[9_000, 9_000, 20_000, 60_000]),
            0..70 => 0,
            _ => 1,
        };
        self.letters.push(Letter {
            kind: rng.index(TYPES.len()),
            source: rng.pick(&SOURCES),
            session: rng.percent(70).then(|| rng.pick(&SESSIONS)),
            user: rng.percent(50).then(|| rng.pick(&USERS)),
            size,
            at_ms: None,
            open: 0,
            maybe: false,
            told: None,
            stored: None,
        });
        self.letters.len() - 1
    }

    /// Somebody publishes.
    pub fn publish(&mut self, world: &mut World) {
        if self.publishers.len() < self.plan.publishers {
            return self.open_publisher(world);
        }
        let ready: Vec<usize> = (0..self.publishers.len()).filter(|at| self.publishers[*at].is_in()).collect();
        if ready.is_empty() {
            return;
        }
        let at = ready[self.rng.index(ready.len())];
        let most = match self.rng.below(100) {
            0..60 => 1,
            60..90 => 20,
            _ => self.plan.burst,
        };
        let count = if most > 1_000 { self.rng.range(most / 4, most) } else { self.rng.range(1, most) };
        let mut bytes = Vec::new();
        for _ in 0..count {
            if self.letters.len() >= self.plan.letters_max || self.publishers[at].awaited.len() > 12_000 {
                break;
            }
            let mask = if self.rng.percent(80) { 0 } else { 0x1a2b_3c4d };
            let letter = if self.rng.percent(self.plan.bad) {
                let (text, answer) = self.rng.pick(&NONSENSE);
                if self.rng.below(2_000) < 4 {
                    bytes.extend(peer::frame(1, &vec![b' '; EVENT_MESSAGE_BYTES_MAX + 1], 0));
                    Err("Message too large")
                } else if self.rng.below(200) == 0 {
                    let fill = "y".repeat(EVENT_PAYLOAD_BYTES_MAX);
                    let text =
                        format!(r#"{{"event_type":"quiz_started","source":"a","payload":{{"fill":"{fill}"}}}}"#);
                    bytes.extend(peer::frame(1, text.as_bytes(), 0));
                    Err("")
                } else {
                    bytes.extend(peer::frame(1, text.as_bytes(), mask));
                    Err(answer)
                }
            } else {
                let number = self.write_letter();
                self.letters[number].sent();
                bytes.extend(peer::frame(1, self.letters[number].body(number).as_bytes(), mask));
                Ok(number)
            };
            let publisher = &mut self.publishers[at];
            publisher.awaited.push_back(Awaited { letter, end: publisher.sent + bytes.len() as u64, heard_ns: 0 });
        }
        let publisher = &mut self.publishers[at];
        publisher.sent += bytes.len() as u64;
        world.net.send_from(publisher.line, &bytes);
    }

    fn open_publisher(&mut self, world: &mut World) {
        // What a kernel hands over at once.
        let piece = if self.rng.percent(70) { READ_BYTES } else { 500 };
        let capacity = if self.rng.percent(70) { usize::MAX } else { self.rng.pick(&[1_000, 30_000]) };
        let line = world.net.connect(Pace { piece, pieces: self.rng.pick(&[2, 40]) }, capacity);
        let request = peer::upgrade(self.rng.pick(&["/ws/publish", "/ws/publish/"]));
        world.net.send_from(line, &request);
        self.publishers.push(Publisher {
            line,
            capacity,
            upgraded: false,
            sent: request.len() as u64,
            awaited: VecDeque::new(),
            heard: 0,
            whole: request.len() as u64,
            begun_ns: 0,
            sins: 0,
            gone: false,
            closed: false,
        });
    }

    /// A publisher vanishes, perhaps in the middle of a message.
    pub fn vanish(&mut self, world: &mut World) {
        if self.publishers.is_empty() {
            return;
        }
        let at = self.rng.index(self.publishers.len());
        let publisher = &mut self.publishers[at];
        if publisher.gone {
            return;
        }
        let frame = peer::frame(1, br#"{"event_type":"quiz_started","source":"a"}"#, 3);
        match self.rng.below(4) {
            0 => world.net.reset_from(publisher.line),
            1 => {
                world.net.send_from(publisher.line, &frame[..9]);
                world.net.end_from(publisher.line);
            }
            2 => world.net.send_from(publisher.line, &peer::frame(8, &1000_u16.to_be_bytes(), 9)),
            _ => {
                let frame = peer::frame(2, b"\x00", 9);
                publisher.sins += 1;
                publisher.sent += frame.len() as u64;
                world.net.send_from(publisher.line, &frame);
            }
        }
        publisher.gone = publisher.sins == 0;
        if publisher.gone {
            let letters: Vec<usize> = publisher.awaited.iter().filter_map(|it| it.letter.ok()).collect();
            self.may_be_stored(&letters);
        }
    }

    /// Their answers will not be heard, or not be understood as such.
    fn may_be_stored(&mut self, letters: &[usize]) {
        letters.iter().for_each(|number| self.letters[*number].maybe = true);
    }

    /// These will not be answered.
    pub fn astray(&mut self, letters: impl IntoIterator<Item = usize>) {
        for number in letters {
            let letter = &mut self.letters[number];
            letter.open -= 1;
            letter.maybe = true;
        }
    }

    /// The disk has stored what somebody published.
    pub fn posted(&mut self, seq: u64, event: &Event) {
        if &*event.source == "timerd" {
            return;
        }
        let number = event.payload.strip_prefix(r#"{"n":"#).and_then(|rest| {
            let digits = rest.find(|byte: char| !byte.is_ascii_digit())?;
            rest[..digits].parse::<usize>().ok()
        });
        let Some(letter) = number.and_then(|number| self.letters.get_mut(number)) else {
            violated("only what was published is stored", &format!("{event:?}"))
        };
        let same = letter.kind == type_of(event.kind.name())
            && letter.source == &*event.source
            && letter.session == event.session.as_deref()
            && letter.user == event.user.as_deref()
            && *event.payload == letter.payload(number.unwrap(), "")
            && letter.at_ms.is_none_or(|at_ms| at_ms == event.at.ms());
        if !same {
            violated("an event is stored as it was published", &format!("{event:?} of {letter:?}"));
        }
        if let Some(other) = letter.stored.replace(seq) {
            violated("nothing is stored twice that was sent once", &format!("{other} and {seq}: {event:?}"));
        }
        if letter.open == 0 && !letter.maybe {
            violated("what was refused is never stored", &format!("{seq}: {letter:?}"));
        }
    }

    /// A publisher was told that its event is stored as the one with this id.
    pub fn told_stored(&mut self, number: usize, id: &str) -> u64 {
        let letter = &mut self.letters[number];
        letter.open -= 1;
        let seq = self.archive.seq_of(id);
        if seq.is_none() || letter.stored != seq {
            violated("acknowledged is durable, and the event meant", &format!("{id}, {seq:?}, but {letter:?}"));
        }
        letter.told = seq;
        self.count("events acknowledged", 1);
        seq.unwrap()
    }

    /// A publisher was told that its event is not stored, or (`unknown`) that nobody knows.
    pub fn told_refused(&mut self, number: usize, unknown: bool) {
        let letter = &mut self.letters[number];
        letter.open -= 1;
        letter.maybe |= unknown;
        let is_refused = letter.open == 0 && !letter.maybe && letter.told.is_none();
        if is_refused && letter.stored.is_some() {
            violated("what is stored is not refused", &format!("{letter:?}"));
        }
        self.count(if unknown { "publications unknown" } else { "publications refused" }, 1);
    }

    /// What a publisher hears.
    pub fn hear_publisher(&mut self, world: &mut World, at: usize) {
        let publisher = &mut self.publishers[at];
        let line = world.net.line(publisher.line);
        let (delivered, is_closed) = (line.delivered, line.closed);
        publisher.gone |= line.was_cut;
        let now = world.now.mono.ns();
        while let Some(awaited) = publisher.awaited.get_mut(publisher.heard).filter(|it| it.end <= delivered) {
            if let Ok(number) = awaited.letter {
                self.letters[number].at_ms = Some(world.now.wall.ms());
            }
            awaited.heard_ns = now;
            (publisher.whole, publisher.begun_ns) = (awaited.end, now);
            publisher.heard += 1;
        }
        if delivered <= publisher.whole {
            publisher.begun_ns = now;
        }
        if !publisher.upgraded && !line.inbox.is_empty() {
            match upgraded(&mut world.net, publisher.line) {
                Some(true) => publisher.upgraded = true,
                Some(false) => publisher.gone = true,
                None => {}
            }
        }
        if self.publishers[at].upgraded {
            for frame in frames_of(&mut world.net, self.publishers[at].line) {
                self.hear_answer(world, at, frame);
            }
        }
        let publisher = &self.publishers[at];
        if is_closed {
            let excused =
                publisher.gone || publisher.closed || publisher.capacity != usize::MAX || publisher.sins > 0;
            if !excused {
                violated("nobody who behaves is dropped", &format!("{publisher:.600?}"));
            }
            let publisher = self.publishers.swap_remove(at);
            world.net.forget(publisher.line);
            return self.astray(publisher.letters());
        }
        // What is heard and not answered: what may wait for the disk, what one reading may bring beyond that, and
        // answers that its kernel or its outbox holds.
        let answers = if publisher.capacity == usize::MAX { 0 } else { publisher.capacity };
        let most = UNANSWERED_MAX + READ_BYTES / 40 + (answers + OUTBOX_BYTES_MAX) / 30 + UNANSWERED_MAX;
        if publisher.heard > most && !publisher.gone && !publisher.closed && publisher.sins == 0 {
            violated(
                "a publisher who waits for too many answers is not read",
                &format!("{} {publisher:.900?} ", publisher.heard),
            );
        }
        // One batch in the disk's hands, and its own behind that; and turns that are late.
        let patience = u64::try_from((2 * DISK_HANG_MAX).as_nanos()).unwrap() + 8_000_000_000;
        let oldest = publisher.awaited.front().filter(|_| publisher.heard > 0 && publisher.reads());
        if oldest.is_some_and(|oldest| oldest.heard_ns + patience < now) && publisher.is_in() && publisher.sins == 0 {
            violated("nobody waits for a disk that hangs beyond its bound", &format!("{oldest:?}"));
        }
    }

    fn hear_answer(&mut self, world: &mut World, at: usize, frame: Frame) {
        let publisher = &mut self.publishers[at];
        if publisher.closed {
            violated("a close frame is the last", &format!("{frame:?}"));
        }
        let text = match frame {
            Frame::Text(text) => text,
            Frame::Ping(payload) => return world.net.send_from(publisher.line, &pong(publisher, &payload)),
            Frame::Pong => return,
            Frame::Close(code, reason) => {
                let fits = match code {
                    Some(4002) => self.plan.sockets_max.is_some(),
                    Some(1013) => reason == "Server full",
                    Some(1003) => publisher.sins > 0,
                    // A large message over a slow line.
                    Some(1008) => {
                        let age = Duration::from_nanos(world.now.mono.ns() - publisher.begun_ns);
                        reason == "Message not finished in time" && age >= PUBLISHER_MESSAGE_AGE_MAX
                    }
                    Some(1000) | None => publisher.gone,
                    _ => false,
                };
                if !fits {
                    violated("nobody is sent away without cause", &format!("{code:?} {reason}"));
                }
                publisher.closed = true;
                if code == Some(4002) {
                    self.count("closed: too many sockets", 1);
                }
                return;
            }
        };
        let Some(awaited) = publisher.awaited.pop_front().filter(|_| publisher.heard > 0) else {
            violated("each message is answered once", &text)
        };
        publisher.heard -= 1;
        let id = text.strip_prefix(r#"{"status":"ok","event_id":""#).and_then(|rest| rest.strip_suffix(r#""}"#));
        let error = text.strip_prefix(r#"{"status":"error","message":""#).and_then(|rest| rest.strip_suffix(r#""}"#));
        match (awaited.letter, id, error) {
            (Ok(number), Some(id), None) => _ = self.told_stored(number, id),
            (Ok(number), None, Some(why)) if why.starts_with("Nothing was stored") => {
                self.told_refused(number, false);
            }
            (Ok(number), None, Some(why)) if why.starts_with("Outcome unknown") => self.told_refused(number, true),
            (Err(begins), None, Some(why)) if why.starts_with(begins) => self.count("bad messages", 1),
            (letter, ..) => {
                let letter = letter.map(|number| &self.letters[number]);
                violated("answers are in the order of messages", &format!("{text} to {letter:?}"));
            }
        }
    }
}

fn pong(publisher: &mut Publisher, payload: &[u8]) -> Vec<u8> {
    let frame = peer::frame(10, payload, 5);
    publisher.sent += frame.len() as u64;
    frame
}
