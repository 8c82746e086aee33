//! One room, as the contract has it, in plain arithmetic.
//!
//! Owns what a countdown that a team shares does when somebody presses something and when time passes, who belongs to
//! the room, and how both are spelled. It shares no arithmetic with the daemon and knows no socket, no batch and no
//! disk: what of it is shown and what is on its way is the [`ledger`](super::ledger)'s business.

use timerd::clock::Now;

/// Nanoseconds of a second, and of a millisecond.
pub const SECOND_NS: u64 = 1_000_000_000;
/// See above.
pub const MS_NS: u64 = 1_000_000;
/// Seconds that a countdown lasts at most, extensions included: 366 days.
const TOTAL_S_MAX: u64 = 366 * 86_400;

/// What is left: standing still, or until an instant of the boot clock.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Left {
    /// Nanoseconds.
    Still(u64),
    /// The boot clock's nanoseconds.
    Until(u64),
}

/// A room's countdown at one revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Face {
    /// What is left.
    pub left: Left,
    /// Seconds it lasts, extensions included.
    pub duration_s: u64,
    /// Seconds that the last start gave it.
    pub full_s: u64,
    /// When that was.
    pub started_at: Option<i64>,
    /// Since when it is paused.
    pub paused_at: Option<i64>,
    /// It ran out, and nobody has touched it since.
    pub is_completed: bool,
    /// Which change this is.
    pub revision: u64,
}

/// What anybody may do to it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Press {
    /// From the beginning, for so many seconds.
    Start(Option<u64>),
    /// It stands still.
    Pause,
    /// It goes on.
    Resume,
    /// It stands at its full duration.
    Reset,
    /// So many seconds more.
    Extend(u64),
}

/// Why not: a code, and what it says.
pub type Refusal = (&'static str, Option<&'static str>);

impl Face {
    /// Nobody has pressed anything yet.
    pub fn new(duration_s: u64) -> Face {
        Face {
            left: Left::Still(duration_s * SECOND_NS),
            duration_s,
            full_s: duration_s,
            started_at: None,
            paused_at: None,
            is_completed: false,
            revision: 1,
        }
    }

    /// Nanoseconds left at `now`.
    pub fn left_ns(&self, now: Now) -> u64 {
        match self.left {
            Left::Still(ns) => ns,
            Left::Until(mono) => mono.saturating_sub(now.mono.ns()),
        }
    }

    /// Seconds as they are shown at `now`.
    pub fn shown_s(&self, now: Now) -> u64 {
        self.left_ns(now).div_ceil(SECOND_NS)
    }

    /// It runs.
    pub fn runs(&self) -> bool {
        matches!(self.left, Left::Until(_))
    }

    /// It runs, and nothing is left.
    pub fn is_over(&self, now: Now) -> bool {
        matches!(self.left, Left::Until(mono) if mono <= now.mono.ns())
    }

    /// The zero.
    pub fn complete(&mut self) {
        self.left = Left::Still(0);
        self.is_completed = true;
        self.revision += 1;
    }

    /// Does what somebody presses.
    pub fn press(&mut self, press: Press, now: Now) -> Result<(), Refusal> {
        let why = |text| Err(("wrong_state", Some(text)));
        let until = |left_ns| Left::Until(now.mono.ns() + left_ns);
        match press {
            Press::Start(duration_s) => {
                self.full_s = duration_s.unwrap_or(self.full_s);
                self.duration_s = self.full_s;
                self.left = until(self.full_s * SECOND_NS);
                (self.started_at, self.paused_at, self.is_completed) = (Some(now.wall.ms()), None, false);
            }
            Press::Pause if !self.runs() => return why("Cannot pause: the timer is not running"),
            Press::Pause => {
                self.left = Left::Still(self.left_ns(now));
                self.paused_at = Some(now.wall.ms());
            }
            Press::Resume if self.paused_at.is_none() => return why("Cannot resume: the timer is not paused"),
            Press::Resume => {
                self.left = until(self.left_ns(now));
                self.paused_at = None;
            }
            Press::Reset => {
                self.duration_s = self.full_s;
                self.left = Left::Still(self.full_s * SECOND_NS);
                (self.started_at, self.paused_at, self.is_completed) = (None, None, false);
            }
            Press::Extend(_) if !self.runs() && self.paused_at.is_none() => {
                return why("Cannot extend: the timer is neither running nor paused");
            }
            Press::Extend(added_s) if self.duration_s + added_s > TOTAL_S_MAX => return Err(("invalid", None)),
            Press::Extend(added_s) => {
                self.duration_s += added_s;
                self.left = match self.left {
                    Left::Still(ns) => Left::Still(ns + added_s * SECOND_NS),
                    Left::Until(mono) => Left::Until(mono + added_s * SECOND_NS),
                };
            }
        }
        self.revision += 1;
        Ok(())
    }

    /// The fields of `state`, without the braces.
    pub fn fields(&self, id: &str, now: Now) -> String {
        let instant = |at: Option<i64>| at.map_or("null".to_owned(), |ms| ms.to_string());
        format!(
            concat!(
                r#""sessionId":"{}","duration":{},"remainingTime":{},"isRunning":{},"isPaused":{},"#,
                r#""startedAt":{},"pausedAt":{},"revision":{},"remainingMs":{},"completed":{}"#
            ),
            id,
            self.duration_s,
            self.shown_s(now),
            self.runs(),
            self.paused_at.is_some(),
            instant(self.started_at),
            instant(self.paused_at),
            self.revision,
            self.left_ns(now).div_ceil(MS_NS),
            self.is_completed
        )
    }
}

/// Somebody who belongs to a room.
#[derive(Clone, Debug, PartialEq)]
pub struct Person {
    /// Counts those whom the room ever had, from 1.
    pub number: u32,
    /// His name to the others.
    pub name: String,
}

/// A room: its countdown, and whom it has.
#[derive(Clone, Debug, PartialEq)]
pub struct Room {
    /// Its countdown.
    pub face: Face,
    /// Whom it has, in order of their coming.
    pub people: Vec<Person>,
    /// How many it ever had.
    pub ever: u32,
}

impl Room {
    /// Nobody is there yet.
    pub fn new(duration_s: u64) -> Room {
        Room { face: Face::new(duration_s), people: Vec::new(), ever: 0 }
    }

    /// Somebody comes. Returns his number.
    pub fn admit(&mut self, name: Option<&str>) -> u32 {
        self.ever += 1;
        let number = self.ever;
        let name = name.map_or_else(|| format!("User {number}"), str::to_owned);
        self.people.push(Person { number, name });
        number
    }

    /// Somebody goes. Returns his name, if he was there.
    pub fn dismiss(&mut self, number: u32) -> Option<String> {
        let at = self.people.iter().position(|person| person.number == number)?;
        Some(self.people.remove(at).name)
    }

    /// Who has this number.
    pub fn person(&self, number: u32) -> Option<&Person> {
        self.people.iter().find(|person| person.number == number)
    }
}

/// Somebody's name, and whether he has a line. `None`: that cannot be told.
pub type Entry = (String, Option<bool>);

/// Who is there.
pub type List = Vec<Entry>;

/// Whether somebody who was told `told` was told of `list`.
pub fn is_list(told: &[Entry], list: &[Entry]) -> bool {
    let is_same = |(a, b): (&Entry, &Entry)| a.0 == b.0 && (a.1 == b.1 || a.1.is_none() || b.1.is_none());
    told.len() == list.len() && told.iter().zip(list).all(is_same)
}

/// A text as JSON.
pub fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}
