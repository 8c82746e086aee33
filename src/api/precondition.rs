//! `If-Match` (RFC 9110, section 13.1.1).
//!
//! Owns the syntax of entity tags. A timer's tag is its revision; weak tags never match.

use crate::wire::http::Head;

/// Which revisions a request was made for.
#[derive(Debug, PartialEq, Eq)]
pub enum IfMatch {
    /// Any: the header is absent, or `*`.
    Any,
    /// One of these tags.
    Tags(Vec<String>),
}

impl IfMatch {
    /// Reads every `If-Match` of a head.
    ///
    /// # Errors
    /// Why it is no list of entity tags.
    pub fn read(head: &Head) -> Result<Self, &'static str> {
        let fields: Vec<&str> = head.headers("if-match").collect();
        if fields.is_empty() || fields == ["*"] {
            return Ok(IfMatch::Any);
        }
        let mut tags = Vec::new();
        for field in fields {
            let mut rest = field.trim();
            if rest.is_empty() {
                return Err(MALFORMED);
            }
            loop {
                rest = rest.trim_start_matches([',', ' ', '\t']);
                if rest.is_empty() {
                    break;
                }
                let weak = rest.strip_prefix("W/");
                let opened = weak.unwrap_or(rest).strip_prefix('"');
                let Some((tag, after)) = opened.and_then(|opened| opened.split_once('"')) else {
                    return Err(MALFORMED);
                };
                let after = after.trim_start();
                if !(after.is_empty() || after.starts_with(',')) || tag.bytes().any(|byte| byte <= b' ') {
                    return Err(MALFORMED);
                }
                if weak.is_none() {
                    tags.push(tag.to_owned());
                }
                rest = after;
            }
        }
        Ok(IfMatch::Tags(tags))
    }

    /// Whether the request was made for this revision.
    pub fn admits(&self, revision: u64) -> bool {
        match self {
            IfMatch::Any => true,
            IfMatch::Tags(tags) => tags.contains(&revision.to_string()),
        }
    }
}

const MALFORMED: &str = "If-Match should be * or a list of entity tags such as \"3\"";
