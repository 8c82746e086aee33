//! Those who follow events.
//!
//! Owns each subscriber's own account of what it must hear: from its starting point on everything it wants, in order,
//! once, and nothing that is not on the disk; or the word that something was deleted, or that it was too slow.

use std::collections::VecDeque;
use std::fmt::Write as _;

use serde_json::Value;
use timerd::limits::*;

use super::model::{ANYTHING, Archive, Kept, TICK, TYPES, Want};
use super::{Fair, frames_of, is_foggy, quoted, upgraded};
use crate::net::Pace;
use crate::peer::{self, Frame};
use crate::timers::model::Model;
use crate::world::{World, violated};

/// How a subscriber behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// Reads everything at once.
    Prompt,
    /// Reads little, naps, and reads everything after that.
    Slow,
    /// Reads nothing until it has slept.
    Deaf,
    /// Never says what it wants.
    Mute,
}

/// New filters on their way.
#[derive(Debug)]
struct Update {
    /// `None`: they are none, and must be refused.
    want: Option<Want>,
    echo: String,
    end: u64,
    /// The last event that was there when the daemon heard of it.
    released: Option<u64>,
}

/// A subscriber.
#[derive(Debug)]
pub struct Listener {
    /// Its line.
    pub line: usize,
    manner: Manner,
    sent: u64,
    upgraded: bool,
    want: Want,
    /// What it asked for at first: whether that was sound, from where on, in which state of the disk, and as written.
    is_sound: bool,
    after: Option<u64>,
    since: usize,
    echo: String,
    asked_end: Option<u64>,
    /// The last event that was there when the daemon heard of that.
    released: Option<u64>,
    /// It has subscribed.
    is_on: bool,
    /// The last event it has heard of, or the one it began behind.
    at: u64,
    /// What it must hear of and has not, in order; up to which event that was looked through; which of it may be left
    /// out, since it lies between the events of the old filter and the time of the new one.
    pending: VecDeque<u64>,
    pending_bytes: usize,
    looked_at: u64,
    optional_upto: u64,
    updates: VecDeque<Update>,
    pings: u32,
    /// It must hear of everything in the turn in which that is released.
    is_sure: bool,
    /// The last turn in which it said something that changes what it hears.
    changed_turn: u64,
    ticks: Vec<String>,
    /// Bytes of an unfinished frame that it holds.
    held: usize,
    /// When it last took bytes, the longest time in which it took none, and until when it naps.
    took_ns: u64,
    gap_ns: u64,
    nap_ns: u64,
    /// More waits for it than an outbox holds; since when.
    over_ns: Option<u64>,
    is_behind: bool,
    told_gone: Option<u64>,
    /// Where it may go on.
    ticket: Option<u64>,
    /// It has left.
    pub gone: bool,
    closed: bool,
}

impl Listener {
    /// It is one of the sockets that are counted.
    pub fn is_in(&self) -> bool {
        self.upgraded && !self.closed && !self.gone
    }

    /// It would have read the word that it is one too many.
    pub fn reads(&self) -> bool {
        matches!(self.manner, Manner::Prompt | Manner::Mute)
    }

    /// It waits for an answer, or for what it wants to hear of.
    pub fn waits(&self) -> bool {
        let asked = self.asked_end.is_some() && !self.is_on;
        let waits = asked || !self.updates.is_empty() || self.pings > 0 || self.missing().is_some();
        !self.gone && !self.closed && waits
    }

    /// What it wants, and from where on, when it comes again.
    pub fn ticket(self) -> Option<(Want, Option<u64>)> {
        self.is_on.then(|| (self.want, self.ticket.or(Some(self.at))))
    }

    /// What it has not heard of.
    pub fn missing(&self) -> Option<u64> {
        let is_there = self.is_on && !self.gone && !self.closed;
        self.pending.iter().copied().find(|seq| is_there && *seq > self.optional_upto)
    }

    /// What has been stored since it was last looked is owed.
    fn owe(&mut self, archive: &Archive) {
        for (seq, kept) in archive.after(&self.want, self.looked_at) {
            self.pending.push_back(seq);
            self.pending_bytes += kept.text.len() + 4;
        }
        self.looked_at = self.looked_at.max(archive.state().last_seq);
    }

    /// Everything behind what it has heard of is owed anew.
    fn owe_anew(&mut self, archive: &Archive) {
        self.pending.clear();
        self.pending_bytes = 0;
        self.looked_at = self.at;
        self.owe(archive);
    }

    /// Bytes of events that wait for it for certain: what lay there when a new filter was heard of may have been let
    /// through by that one or by those before it, and what came later by the new one alone.
    fn waiting_bytes(&self, archive: &Archive) -> usize {
        let from = self.at.max(self.optional_upto);
        let heard = self.updates.iter().filter_map(|update| Some((update.want.as_ref()?, update.released?)));
        let mut filters = vec![(&self.want, u64::MAX)];
        for (want, released) in heard {
            filters.last_mut().unwrap().1 = released;
            filters.push((want, u64::MAX));
        }
        if filters.len() == 1 && from == self.at {
            return self.pending_bytes;
        }
        let is_certain = |seq: u64, kept: &Kept| filters.iter().all(|(want, upto)| seq > *upto || want.fits(kept));
        let waiting = archive.after(&ANYTHING, from).filter(|(seq, kept)| is_certain(*seq, kept));
        waiting.map(|(_, kept)| kept.text.len() + 4).sum()
    }

    fn forget_first(&mut self, archive: &Archive) {
        if let Some(kept) = self.pending.pop_front().and_then(|seq| archive.get(seq)) {
            self.pending_bytes -= kept.text.len() + 4;
        }
    }
}

/// What is no filter.
const NONSENSE: [&str; 7] = [
    "",
    "nonsense",
    "[]",
    r#"{"event_types":"all"}"#,
    r#"{"event_types":[1]}"#,
    r#"{"session_id":5}"#,
    r#"{"after":-1}"#,
];

/// A filter as it is written: with what must be echoed, and the rest.
fn written(want: &Want, after: Option<u64>, extra: bool) -> (String, String) {
    let mut echo = String::new();
    if let Some(types) = want.types {
        let names: Vec<String> =
            (0..TYPES.len()).filter(|kind| types & 1 << kind != 0).map(|kind| quoted(TYPES[kind])).collect();
        write!(echo, r#""event_types":[{}]"#, names.join(",")).unwrap();
    } else if extra {
        echo.push_str(r#""event_types":null"#);
    }
    for (name, value) in [("session_id", &want.session), ("user_id", &want.user)] {
        if let Some(value) = value {
            let comma = if echo.is_empty() { "" } else { "," };
            write!(echo, r#"{comma}"{name}":{}"#, quoted(value)).unwrap();
        }
    }
    let mut text = format!("{{{echo}");
    let comma = |text: &str| if text.len() > 1 { "," } else { "" };
    if let Some(after) = after {
        write!(text, r#"{}"after":{after}"#, comma(&text)).unwrap();
    }
    if extra {
        write!(text, r#"{}"colour":[1,2]"#, comma(&text)).unwrap();
    }
    text.push('}');
    (text, format!("{{{echo}}}"))
}

impl Fair {
    /// Somebody wants to follow events.
    pub fn listen(&mut self, world: &mut World, model: &Model) {
        if self.listeners.len() >= self.plan.listeners {
            return self.fidget(world, model);
        }
        let back = !self.returners.is_empty() && self.rng.percent(50);
        let (want, after) = if back {
            let at = self.rng.index(self.returners.len());
            let (want, after) = self.returners.swap_remove(at);
            (want, after.filter(|_| self.rng.percent(90)))
        } else {
            let last_seq = self.archive.state().last_seq;
            let after = match self.rng.below(10) {
                0..5 => None,
                5..8 => Some(last_seq - self.rng.below(last_seq.min(200) + 1)),
                8 => Some(0),
                _ => Some(last_seq + self.rng.below(5)),
            };
            (self.some_want(model), after)
        };
        let manner = match self.rng.below(100) {
            0..45 => Manner::Prompt,
            45..65 => Manner::Slow,
            65..90 => Manner::Deaf,
            90..94 => Manner::Mute,
            _ => Manner::Prompt,
        };
        let capacity = match manner {
            Manner::Prompt | Manner::Mute => usize::MAX,
            Manner::Slow => self.rng.pick(&[300, 5_000, 60_000]),
            Manner::Deaf => self.rng.pick(&[1_000, 20_000]),
        };
        let pace =
            if self.rng.percent(70) { Pace::WHOLE } else { Pace { piece: self.rng.pick(&[3, 50]), pieces: 300 } };
        let line = world.net.connect(pace, capacity);
        let request = peer::upgrade(self.rng.pick(&["/ws/subscribe", "/ws/subscribe/"]));
        world.net.send_from(line, &request);
        let (text, echo) = written(&want, after, self.rng.percent(20));
        let mut listener = Listener {
            line,
            manner,
            sent: request.len() as u64,
            upgraded: false,
            want,
            is_sound: true,
            after,
            since: 0,
            echo,
            asked_end: None,
            released: None,
            is_on: false,
            at: 0,
            pending: VecDeque::new(),
            pending_bytes: 0,
            looked_at: 0,
            optional_upto: 0,
            updates: VecDeque::new(),
            pings: 0,
            is_sure: false,
            changed_turn: 0,
            ticks: Vec::new(),
            held: 0,
            took_ns: world.now.mono.ns(),
            gap_ns: 0,
            nap_ns: 0,
            over_ns: None,
            is_behind: false,
            told_gone: None,
            ticket: None,
            gone: false,
            closed: false,
        };
        if manner != Manner::Mute {
            listener.is_sound = self.rng.percent(95);
            let text = if listener.is_sound { text } else { self.rng.pick(&NONSENSE).to_owned() };
            let frame = peer::frame(1, text.as_bytes(), 0x0102_0304);
            world.net.send_from(line, &frame);
            listener.sent += frame.len() as u64;
            listener.asked_end = Some(listener.sent);
            listener.since = self.archive.version();
        }
        self.listeners.push(listener);
        self.count("subscribers", 1);
    }

    /// Somebody who follows events does something.
    pub fn fidget(&mut self, world: &mut World, model: &Model) {
        let ready: Vec<usize> = (0..self.listeners.len())
            .filter(|at| self.listeners[*at].is_in() && self.listeners[*at].manner != Manner::Mute)
            .collect();
        if ready.is_empty() {
            return;
        }
        let at = ready[self.rng.index(ready.len())];
        let text = match self.rng.below(10) {
            0..2 => {
                self.listeners[at].pings += 1;
                r#"{"type":"ping"}"#.to_owned()
            }
            2..4 => {
                let now = world.now.mono.ns();
                let listener = &mut self.listeners[at];
                if matches!(listener.manner, Manner::Slow | Manner::Deaf) {
                    listener.nap_ns = now + 6_000_000_000 + self.rng.below(8_000_000_000);
                }
                return;
            }
            bad => {
                // What was not understood changes nothing.
                let bad = bad == 9;
                let want = self.some_want(model);
                let (text, echo) = written(&want, self.rng.percent(10).then_some(1), self.rng.percent(20));
                let wrong = self.rng.pick(&NONSENSE[2..]);
                let text = if bad { wrong } else { &text };
                let message = match bad && self.rng.percent(30) {
                    true => r#"{"type":"shout"}"#.to_owned(),
                    false => format!(r#"{{"type":"update_filters","filters":{text}}}"#),
                };
                let end = self.listeners[at].sent + peer::frame(1, message.as_bytes(), 7).len() as u64;
                let want = (!bad).then_some(want);
                self.listeners[at].updates.push_back(Update { want, echo, end, released: None });
                message
            }
        };
        let listener = &mut self.listeners[at];
        let frame = peer::frame(1, text.as_bytes(), 7);
        listener.sent += frame.len() as u64;
        world.net.send_from(listener.line, &frame);
    }

    /// A subscriber leaves.
    pub fn walk_out(&mut self, world: &mut World) {
        if self.listeners.is_empty() {
            return;
        }
        let at = self.rng.index(self.listeners.len());
        let listener = &mut self.listeners[at];
        if listener.gone {
            return;
        }
        listener.gone = true;
        match self.rng.below(3) {
            0 => world.net.reset_from(listener.line),
            1 => world.net.end_from(listener.line),
            _ => world.net.send_from(listener.line, &peer::frame(8, &1001_u16.to_be_bytes(), 9)),
        }
    }

    /// The slow ones read a little.
    pub fn read_slowly(&mut self, world: &mut World) {
        let now = world.now.mono.ns();
        for listener in self.listeners.iter_mut().filter(|listener| !listener.gone) {
            if listener.nap_ns > 0 && now >= listener.nap_ns {
                // Wide awake: it reads everything, if it is still there.
                listener.nap_ns = 0;
                world.net.relax(listener.line);
                world.net.drain(listener.line);
            } else if listener.nap_ns == 0 && listener.manner == Manner::Slow && self.rng.percent(40) {
                world.net.drain(listener.line);
            }
        }
        for publisher in &self.publishers {
            if self.rng.percent(10) && !publisher.gone {
                world.net.drain(publisher.line);
            }
        }
    }

    /// What a subscriber hears.
    pub fn hear_listener(&mut self, world: &mut World, model: &Model, at: usize) {
        let now = world.now.mono.ns();
        let listener = &mut self.listeners[at];
        let line = world.net.line(listener.line);
        let (delivered, is_closed, is_short) = (line.delivered, line.closed, line.was_short);
        listener.gone |= line.was_cut;
        let last_seq = self.archive.state().last_seq;
        let took = line.inbox.len() > listener.held;
        if listener.asked_end.is_some_and(|end| end <= delivered) && listener.released.is_none() {
            listener.released = Some(last_seq);
            listener.changed_turn = self.turn;
        }
        for update in listener.updates.iter_mut().filter(|it| it.end <= delivered && it.released.is_none()) {
            update.released = Some(last_seq);
            listener.changed_turn = self.turn;
        }
        if took {
            listener.gap_ns = listener.gap_ns.max(now - listener.took_ns);
            listener.took_ns = now;
        }
        if listener.is_on {
            listener.owe(&self.archive);
        }
        if self.storm_turn == self.turn {
            listener.is_sure = false;
        }
        if !listener.upgraded && took {
            match upgraded(&mut world.net, listener.line) {
                Some(true) => listener.upgraded = true,
                Some(false) => listener.gone = true,
                None => {}
            }
        }
        if self.listeners[at].upgraded && took {
            for frame in frames_of(&mut world.net, self.listeners[at].line) {
                self.hear_frame(world, at, frame);
            }
        }
        let listener = &mut self.listeners[at];
        listener.held = world.net.line(listener.line).inbox.len();
        if is_closed {
            let excused = listener.gone || listener.closed || is_short;
            if !excused {
                violated("nobody who behaves is dropped", &format!("{listener:?}"));
            }
            let listener = self.listeners.swap_remove(at);
            world.net.forget(listener.line);
            if listener.is_behind && !listener.closed && !listener.gone {
                self.count("dropped: too slow", 1);
            }
            self.returners.extend(listener.ticket());
            return;
        }
        self.expect(world, model, at);
    }

    /// What a subscriber must have heard by the end of a turn.
    fn expect(&mut self, world: &World, model: &Model, at: usize) {
        let now = world.now.mono.ns();
        let listener = &mut self.listeners[at];
        let heard = std::mem::take(&mut listener.ticks);
        if listener.gone || listener.closed || !listener.is_on {
            return;
        }
        if listener.is_sure {
            if let Some(missing) = listener.missing() {
                violated("what is released is heard in its turn", &format!("{missing}: {listener:?}"));
            }
            let settled = listener.changed_turn < self.turn;
            let mut expected: Vec<&str> = Vec::new();
            for tick in self.ticks.iter().filter(|_| listener.want.names(TICK)) {
                if listener.want.admits(TICK, Some(&tick.timer), None) && !is_foggy(model, &tick.timer) {
                    expected.push(&tick.text);
                }
            }
            for text in &heard {
                if let Some(found) = expected.iter().position(|tick| tick == text) {
                    expected.remove(found);
                    continue;
                }
                let value: Value = serde_json::from_str(text).unwrap();
                if settled && !is_foggy(model, value["session_id"].as_str().unwrap()) {
                    violated("a tick is heard once, as it was", &format!("{text}: {listener:?}"));
                }
            }
            if let Some(tick) = expected.first().filter(|_| settled) {
                violated("ticks reach everybody who names them", &format!("{tick}: {listener:?}"));
            }
        }
        let (frames, bytes) = (listener.pending.len(), listener.pending_bytes);
        let patience = FEED_STALL_MAX + SLOW_LINGER_MAX + DISK_HANG_MAX;
        let stalled = now - listener.took_ns > 2 * u64::try_from(patience.as_nanos()).unwrap();
        let waiting_bytes = listener.waiting_bytes(&self.archive);
        let is_over = waiting_bytes > FEED_BYTES_MAX + 2 * FEED_PAGE_BYTES_MAX + 60_000;
        let over_ns = *listener.over_ns.get_or_insert(now);
        if !is_over {
            listener.over_ns = None;
        } else if stalled && now - over_ns > 2 * u64::try_from(patience.as_nanos()).unwrap() {
            let text = format!("{waiting_bytes} bytes wait: {}", listener.line);
            violated("a subscriber who does not read is closed", &text);
        }
        let is_behind = frames > FEED_FRAMES_MAX || bytes > FEED_BYTES_MAX;
        let was_behind = listener.is_behind;
        listener.is_behind = is_behind || (was_behind && frames > 0);
        match (was_behind, listener.is_behind) {
            (false, true) => self.count("fell behind", 1),
            (true, false) => self.count("caught up", 1),
            _ => {}
        }
    }

    fn hear_frame(&mut self, world: &mut World, at: usize, frame: Frame) {
        let listener = &mut self.listeners[at];
        if listener.closed {
            violated("a close frame is the last", &format!("{frame:?}: {listener:?}"));
        }
        let text = match frame {
            Frame::Text(text) => text,
            Frame::Ping(payload) => {
                let frame = peer::frame(10, &payload, 5);
                listener.sent += frame.len() as u64;
                return world.net.send_from(listener.line, &frame);
            }
            Frame::Pong => return,
            Frame::Close(code, reason) => return self.hear_end(at, code, &reason),
        };
        if listener.told_gone.is_some() {
            violated("whoever is told that events are gone is sent away", &text);
        }
        if text.starts_with(r#"{"id":"#) && listener.is_on {
            return self.hear_event(at, text);
        }
        if !listener.is_on {
            return self.hear_welcome(at, &text);
        }
        let value: Value = serde_json::from_str(&text)
            .unwrap_or_else(|error| violated("a message is JSON", &format!("{error}: {text}")));
        match (value["type"].as_str(), value["status"].as_str()) {
            (Some("pong"), _) if listener.pings > 0 => listener.pings -= 1,
            (Some("keepalive"), _) => self.count("keepalives", 1),
            (_, Some("filters_updated")) => self.hear_update(at, &text),
            (_, Some("error")) if value["oldest_seq"].is_u64() => {
                listener.told_gone = value["oldest_seq"].as_u64();
                let gone_seq = listener.told_gone.unwrap() - 1;
                let states = self.archive.states_since(listener.since);
                let is_true = states.iter().any(|state| state.gone_seq == gone_seq) && gone_seq > listener.at;
                if !is_true || listener.is_sure {
                    violated(
                        "whoever is behind what is deleted hears where it goes on",
                        &format!("{text}: {listener:?}"),
                    );
                }
            }
            (_, Some("error")) if listener.updates.front().is_some_and(|update| update.want.is_none()) => {
                listener.updates.pop_front();
            }
            _ => violated("answers are to questions", &format!("{text}: {listener:?}")),
        }
    }

    fn hear_welcome(&mut self, at: usize, text: &str) {
        let listener = &mut self.listeners[at];
        let last_seq = text
            .strip_prefix(r#"{"status":"subscribed","subscriber_id":"sub_"#)
            .and_then(|rest| rest.get(8..)?.strip_prefix(&format!(r#"","filters":{},"last_seq":"#, listener.echo)))
            .and_then(|rest| rest.strip_suffix('}')?.parse::<u64>().ok());
        let Some(last_seq) = last_seq.filter(|_| listener.is_sound && listener.released.is_some()) else {
            if listener.is_sound || !text.starts_with(r#"{"status":"error","message":""#) {
                violated("a filter is answered", &format!("{text}: {listener:?}"));
            }
            return;
        };
        // What was there when it was heard, in the turn of which this is known; or in a later one that had time.
        let then = listener.released.unwrap();
        if last_seq < then || last_seq > self.archive.state().last_seq {
            violated("a subscriber is told the last event", &format!("{text}: {then} of {listener:?}"));
        }
        listener.is_on = true;
        listener.at = listener.after.unwrap_or(last_seq);
        listener.owe_anew(&self.archive);
        let calm = self.storm_turn == 0 || self.turn > self.storm_turn + 50;
        listener.is_sure = calm && listener.manner == Manner::Prompt && listener.at >= last_seq;
    }

    fn hear_update(&mut self, at: usize, text: &str) {
        let listener = &mut self.listeners[at];
        let update = listener.updates.pop_front();
        let Some(Update { want: Some(want), echo, released: Some(released), .. }) = update else {
            violated("answers are to questions, in their order", text)
        };
        if text != format!(r#"{{"status":"filters_updated","filters":{echo}}}"#) {
            violated("filters are told as they were given", &format!("{text}, not {echo}"));
        }
        // What the old filter let through has come as far as it had by then; from there on the new one holds.
        let first = listener.pending.iter().copied().find(|seq| *seq > listener.optional_upto);
        let upto = first.map_or(released, |first| released.min(first - 1));
        listener.want = want;
        listener.owe_anew(&self.archive);
        listener.optional_upto = listener.optional_upto.max(upto);
        self.count("filters updated", 1);
    }

    fn hear_event(&mut self, at: usize, text: String) {
        let listener = &mut self.listeners[at];
        if text.starts_with(r#"{"id":null"#) {
            let value: Value = serde_json::from_str(&text).unwrap();
            let payload = &value["payload"];
            let fits = value["event_type"] == "timer_tick"
                && value["seq"].is_null()
                && value["source"] == "timerd"
                && value["user_id"].is_null()
                && payload["remaining_seconds"].is_u64()
                && payload["actor"] == "timerd"
                && listener.want.names(TICK)
                && listener.want.admits(TICK, value["session_id"].as_str(), None);
            if !fits {
                violated("ticks reach those alone who name them", &format!("{text}: {listener:?}"));
            }
            listener.ticks.push(text);
            return self.count("ticks routed", 1);
        }
        let seq = text.rsplit_once(r#","seq":"#).and_then(|(_, rest)| rest.strip_suffix('}')?.parse::<u64>().ok());
        let Some(kept) = seq.and_then(|seq| self.archive.get(seq)).filter(|kept| *kept.text == *text) else {
            violated("nobody hears of an event that is not on the disk", &format!("{text}: {listener:?}"))
        };
        let seq = seq.unwrap();
        while listener.pending.front().is_some_and(|first| *first < seq && *first <= listener.optional_upto) {
            listener.forget_first(&self.archive);
        }
        if listener.pending.front() != Some(&seq) {
            let text = format!("{seq}, {kept:?}, not {:?}: {listener:?}", listener.pending.front());
            violated("a subscriber hears of what it wants, in order, once, and of nothing else", &text);
        }
        listener.forget_first(&self.archive);
        (listener.at, listener.optional_upto) = (seq, 0);
        self.count("events delivered", 1);
    }

    fn hear_end(&mut self, at: usize, code: Option<u16>, reason: &str) {
        let listener = &mut self.listeners[at];
        let stall = u64::try_from(FEED_STALL_MAX.as_nanos()).unwrap();
        let is_patient = listener.reads();
        let last = reason.strip_prefix("Too slow; last seq ").and_then(|seq| seq.parse::<u64>().ok());
        let (fits, what) = match code {
            Some(1013) if reason == "Server full" => (true, "closed: full"),
            Some(1013) => {
                listener.ticket = last;
                (last == Some(listener.at) && listener.gap_ns >= stall && !is_patient, "closed: too slow")
            }
            Some(4010) => {
                listener.ticket = listener.told_gone.map(|oldest| oldest - 1);
                (listener.told_gone.is_some(), "gone 4010")
            }
            Some(4002) => (self.plan.sockets_max.is_some(), "closed: too many sockets"),
            Some(1008) => {
                let mute = listener.manner == Manner::Mute && reason == "No filter in time";
                let wrong = !listener.is_sound && reason == "No filter";
                (mute || wrong || reason == "Message not finished in time", "closed: no filter")
            }
            Some(1000 | 1001) | None => (listener.gone, "left"),
            _ => (false, ""),
        };
        if !fits {
            violated("nobody is sent away without cause", &format!("{code:?} {reason}: {listener:?}"));
        }
        listener.closed = true;
        self.count(what, 1);
    }
}
