//! How often one address may ask.
//!
//! Owns the budgets of the event pipeline's routes: so many requests of a group from one address in one window, which
//! begins with the first of them. What was refused for another reason is not counted. It knows no route and no clock.
//!
//! Invariants: a window that is over counts for nothing; addresses counted at a time are bounded, and while there are
//! too many, strangers are refused rather than the known forgotten.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;
use std::time::Duration;

use crate::clock::Mono;
use crate::limits::RATE_ADDRESSES_MAX;

/// So many requests in so long, `200/minute`. No rate: `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(Option<(u32, Window)>);

/// The length of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Window {
    Second,
    Minute,
    Hour,
}

const WINDOWS: [(Window, &str, Duration); 3] = [
    (Window::Second, "second", Duration::from_secs(1)),
    (Window::Minute, "minute", Duration::from_secs(60)),
    (Window::Hour, "hour", Duration::from_secs(3600)),
];

impl Window {
    fn lasts(self) -> Duration {
        WINDOWS[self as usize].2
    }
}

impl Rate {
    /// As often as anybody likes.
    pub const OFF: Rate = Rate(None);

    /// So many a minute.
    pub const fn a_minute(requests: u32) -> Rate {
        Rate(Some((requests, Window::Minute)))
    }
}

impl FromStr for Rate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Rate, Self::Err> {
        const ALLOWED: &str = "must be N/second, N/minute or N/hour with N of 1..1000000, or off";
        if text == "off" {
            return Ok(Rate::OFF);
        }
        let (requests, window) = text.split_once('/').ok_or(ALLOWED)?;
        let plain = requests.bytes().all(|byte| byte.is_ascii_digit());
        let requests = requests.parse().ok().filter(|requests| plain && (1..=1_000_000).contains(requests));
        let window = WINDOWS.iter().find(|(_, name, _)| *name == window);
        Ok(Rate(Some((requests.ok_or(ALLOWED)?, window.ok_or(ALLOWED)?.0))))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("off"),
            Some((requests, window)) => write!(f, "{requests}/{}", WINDOWS[window as usize].1),
        }
    }
}

/// Routes that share a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    /// Publishing.
    Publish,
    /// Reading.
    Query,
    /// Deleting.
    Admin,
    /// Making rooms.
    Rooms,
}

/// The rate of each group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Of publishing.
    pub publish: Rate,
    /// Of reading.
    pub query: Rate,
    /// Of deleting.
    pub admin: Rate,
    /// Of making rooms.
    pub rooms: Rate,
}

impl Default for Rates {
    /// The contract's.
    fn default() -> Self {
        let (publish, query) = (Rate::a_minute(200), Rate::a_minute(600));
        Rates { publish, query, admin: Rate::a_minute(10), rooms: Rate::a_minute(30) }
    }
}

impl Rates {
    /// No limit anywhere.
    pub const OFF: Rates = Rates { publish: Rate::OFF, query: Rate::OFF, admin: Rate::OFF, rooms: Rate::OFF };
}

/// What has been asked.
#[derive(Debug)]
pub struct Limiter {
    rates: Rates,
    used: HashMap<(Group, IpAddr), Used>,
}

#[derive(Debug)]
struct Used {
    until: Mono,
    requests: u32,
}

impl Limiter {
    /// Nothing has been asked yet.
    pub fn new(rates: Rates) -> Self {
        Limiter { rates, used: HashMap::new() }
    }

    /// Counts a request.
    ///
    /// # Errors
    /// It is one too many: how long until the next may come.
    pub fn count(&mut self, now: Mono, group: Group, address: IpAddr) -> Result<(), Duration> {
        let rate = match group {
            Group::Publish => self.rates.publish,
            Group::Query => self.rates.query,
            Group::Admin => self.rates.admin,
            Group::Rooms => self.rates.rooms,
        };
        let Some((most, window)) = rate.0 else { return Ok(()) };
        let key = (group, network(address));
        if self.used.len() >= RATE_ADDRESSES_MAX && !self.used.contains_key(&key) {
            return Err(window.lasts());
        }
        let fresh = || Used { until: now + window.lasts(), requests: 0 };
        let used = self.used.entry(key).or_insert_with(fresh);
        if used.until <= now {
            *used = fresh();
        }
        if used.requests >= most {
            return Err(used.until.since(now));
        }
        used.requests += 1;
        Ok(())
    }

    /// Forgets windows that are over.
    pub fn upkeep(&mut self, now: Mono) {
        self.used.retain(|_, used| used.until > now);
    }
}

/// Whom an address stands for, wherever addresses are counted: of IPv6 a subscriber has at least 64 bits to choose
/// from (RFC 6177).
pub fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> Mono {
        Mono::from_ns(s * 1_000_000_000)
    }

    #[test]
    fn rates_are_read_as_they_are_written() {
        for text in ["200/minute", "50/second", "1/hour", "off"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        for text in ["", "0/minute", "+5/minute", "5", "5/day", "5/Minute", "1000001/second", "-1/hour", "/minute"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_window_begins_with_the_first_request_and_groups_and_addresses_count_apart() {
        let mut limiter = Limiter::new(Rates { publish: Rate::a_minute(2), ..Rates::default() });
        let (a, b): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        assert_eq!(limiter.count(at(100), Group::Publish, a), Ok(()));
        assert_eq!(limiter.count(at(130), Group::Publish, a), Ok(()));
        assert_eq!(limiter.count(at(150), Group::Publish, a), Err(Duration::from_secs(10)));
        assert_eq!(limiter.count(at(150), Group::Publish, b), Ok(()));
        assert_eq!(limiter.count(at(150), Group::Query, a), Ok(()));
        assert_eq!(limiter.count(at(160), Group::Publish, a), Ok(()));
        limiter.upkeep(at(200));
        assert_eq!(limiter.used.len(), 3);
        limiter.upkeep(at(500));
        assert!(limiter.used.is_empty());
    }

    #[test]
    fn a_house_with_many_addresses_is_one_house() {
        let mut limiter = Limiter::new(Rates { admin: Rate::a_minute(1), ..Rates::default() });
        assert!(limiter.count(at(1), Group::Admin, "2001:db8::1".parse().unwrap()).is_ok());
        assert!(limiter.count(at(1), Group::Admin, "2001:db8::2:3".parse().unwrap()).is_err());
        assert!(limiter.count(at(1), Group::Admin, "2001:db8:0:1::1".parse().unwrap()).is_ok());
        let mut off = Limiter::new(Rates::OFF);
        assert!((0..1000).all(|_| off.count(at(1), Group::Admin, "::1".parse().unwrap()).is_ok()));
        assert!(off.used.is_empty());
    }

    #[test]
    fn strangers_wait_while_too_many_are_counted() {
        let mut limiter = Limiter::new(Rates::default());
        for n in 0..u32::try_from(RATE_ADDRESSES_MAX).unwrap() {
            limiter.count(at(1), Group::Query, IpAddr::V4(n.into())).unwrap();
        }
        assert!(limiter.count(at(1), Group::Query, IpAddr::V4(0.into())).is_ok());
        assert!(limiter.count(at(1), Group::Query, IpAddr::V4(u32::MAX.into())).is_err());
        limiter.upkeep(at(61));
        assert!(limiter.count(at(61), Group::Query, IpAddr::V4(u32::MAX.into())).is_ok());
    }
}
