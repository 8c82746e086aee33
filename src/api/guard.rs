//! Who is asking, and may they.
//!
//! Owns the rules of keys, roles and origins. It sees heads of requests and nothing else of them, and it never learns
//! a key: only digests are kept and compared.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::api::form;
use crate::api::routes::Access;
use crate::domain::history::{ANONYMOUS, Actor};
use crate::keys::{Keys, Role};
use crate::wire::http::Head;

/// The rules in force.
pub struct Guard {
    /// The keys that open doors. Exchanged on SIGHUP.
    pub keys: Keys,
    /// Whether a key is asked for at all.
    pub keys_required: bool,
    /// Origins that browsers may come from; empty: any.
    pub origins: Vec<String>,
    /// Proxies whose word about a client's address is taken.
    pub trusted_proxies: Vec<IpAddr>,
    /// Whether candidates need no key: the id of a session lets them in.
    pub open_candidates: bool,
    anonymous: Actor,
}

/// Somebody who asks.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The key's name, or `anonymous`.
    pub actor: Actor,
    /// What the key allows. `None`: no key, or none that is known.
    pub role: Option<Role>,
}

/// Why somebody may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barred {
    /// No key, or none that is known: 401.
    Unknown,
    /// A key for less than this: 403.
    TooSmall,
}

impl Caller {
    /// Whether what he listens at takes one of the noun's places: an instructor does not take a student's.
    pub fn is_counted(&self) -> bool {
        self.role.is_none_or(|role| role < Role::Instructor)
    }
}

impl Guard {
    /// Rules over `keys`.
    pub fn new(keys: Keys, keys_required: bool, origins: Vec<String>, trusted_proxies: Vec<IpAddr>) -> Self {
        let anonymous = Arc::from(ANONYMOUS);
        Guard { keys, keys_required, origins, trusted_proxies, open_candidates: false, anonymous }
    }

    /// Who sent this head. `in_query`: also by `?api_key=`, where browsers cannot send headers.
    pub fn caller(&self, head: &Head, in_query: bool) -> Caller {
        let bearer = head.header("authorization").and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        let query = if in_query { form::query(&head.query) } else { Map::new() };
        let queried = query.get("api_key").and_then(Value::as_str).filter(|key| !key.is_empty());
        let presented = queried.or_else(|| head.header("x-api-key")).or(bearer);
        match presented.and_then(|key| self.keys.find(key.as_bytes())) {
            Some((name, role)) => Caller { actor: name.clone(), role: Some(role) },
            None => Caller { actor: self.anonymous.clone(), role: None },
        }
    }

    /// Whether `caller` may use what `access` protects.
    ///
    /// # Errors
    /// Why not.
    pub fn admit(&self, caller: &Caller, access: Access) -> Result<(), Barred> {
        let least = match access {
            Access::Open => return Ok(()),
            Access::Candidate if self.open_candidates => return Ok(()),
            Access::Candidate => Role::Viewer,
            Access::Key(least) => least,
        };
        match caller.role {
            _ if !self.keys_required => Ok(()),
            None => Err(Barred::Unknown),
            Some(role) if role < least => Err(Barred::TooSmall),
            Some(_) => Ok(()),
        }
    }

    /// What `Access-Control-Allow-Origin` answers to this head: `*`, the origin itself, or nothing.
    pub fn allow_origin<'h>(&self, head: &'h Head) -> Option<&'h str> {
        if self.origins.is_empty() {
            return Some("*");
        }
        head.header("origin").filter(|origin| self.origins.iter().any(|known| known.eq_ignore_ascii_case(origin)))
    }

    /// Whether a browser may open a WebSocket from where it is: from a page of this daemon's own, too.
    pub fn admits_socket_from(&self, head: &Head) -> bool {
        let Some(origin) = head.header("origin") else { return true };
        let host = origin.split_once("://").map(|(_, host)| host);
        let own = host.is_some_and(|host| head.header("host").is_some_and(|own| own.eq_ignore_ascii_case(host)));
        own || self.allow_origin(head).is_some()
    }

    /// The client's address: the peer's, or what a trusted proxy says of it.
    pub fn address(&self, head: &Head, peer: IpAddr) -> IpAddr {
        if !self.trusted_proxies.contains(&peer) {
            return peer;
        }
        // The last entry that is no trusted proxy itself: what stands before it was written by the client.
        let hops = head.headers("x-forwarded-for").flat_map(|value| value.split(',')).collect::<Vec<_>>();
        let known = hops.iter().rev().map_while(|hop| address_of(hop.trim()));
        known.into_iter().find(|hop| !self.trusted_proxies.contains(hop)).unwrap_or(peer)
    }
}

/// An address as proxies write it: some add the port, some write IPv4 as IPv6.
fn address_of(hop: &str) -> Option<IpAddr> {
    let plain = hop.parse::<IpAddr>().ok();
    let address = plain.or_else(|| hop.parse::<SocketAddr>().ok().map(|with_port| with_port.ip()))?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_every_form_that_proxies_write() {
        let v4 = "192.0.2.1".parse().ok();
        for hop in ["192.0.2.1", "192.0.2.1:5555", "::ffff:192.0.2.1", "[::ffff:192.0.2.1]:80"] {
            assert_eq!(address_of(hop), v4, "{hop}");
        }
        assert_eq!(address_of("[2001:db8::1]:443"), "2001:db8::1".parse().ok());
        assert_eq!((address_of("unknown"), address_of("")), (None, None));
    }
}
