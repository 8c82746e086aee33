//! JSON that is kept as it came.
//!
//! Owns the one walk over a client's own object that the service stores and gives out again: the blanks between its
//! tokens go, everything else stays to the letter, so that numbers of any length, the order of keys and repeated ones
//! survive. What a reader further down might choke on is refused: half a surrogate pair, which is no text (RFC 8259
//! section 8.2), and a number that no double can hold (section 6). Also how other text is put beside it. It knows no
//! field's name.

/// Why an object cannot be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// More keys than allowed; those of objects within do not count.
    Keys,
    /// More bytes than allowed.
    Bytes,
    /// Objects and lists within each other, more than allowed.
    Depth,
    /// An escape that is half a surrogate pair.
    Surrogate,
    /// A number beyond the range of a double.
    Number,
}

/// How large an object may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Keys of the object itself.
    pub keys: usize,
    /// Bytes of its compact text.
    pub bytes: usize,
    /// Objects and lists within each other, itself included.
    pub depth: usize,
}

impl Limits {
    /// What is wrong with an object that these do not admit.
    pub fn refusal(self, unfit: Unfit) -> String {
        let Limits { keys, bytes, depth } = self;
        match unfit {
            Unfit::Keys => format!("Dictionary should have at most {keys} keys"),
            Unfit::Bytes => format!("Dictionary should have at most {bytes} bytes as JSON"),
            Unfit::Depth => format!("Dictionary should be nested at most {depth} levels deep"),
            Unfit::Surrogate => "A \\u escape is half a surrogate pair".to_owned(),
            Unfit::Number => "A number is out of range".to_owned(),
        }
    }
}

/// The object without its blanks. `text` is known to be JSON, and an object.
///
/// # Errors
/// What makes it unfit.
pub fn compact(text: &str, limits: Limits) -> Result<String, Unfit> {
    let bytes = text.as_bytes();
    let mut kept = String::with_capacity(bytes.len().min(limits.bytes));
    let (mut depth, mut keys, mut at) = (0usize, 0usize, 0usize);
    while let Some(&byte) = bytes.get(at) {
        let start = at;
        at += 1;
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' => continue,
            b'"' => at = end_of_string(bytes, at)?,
            b'-' | b'0'..=b'9' => {
                let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
                at += bytes.get(at..).unwrap_or_default().iter().take_while(|byte| is_part(byte)).count();
                let number = text.get(start..at).unwrap_or_default();
                // The largest double has 309 digits.
                let may_be_large = number.len() > 308 || number.bytes().any(|byte| matches!(byte, b'e' | b'E'));
                if may_be_large && !number.parse::<f64>().is_ok_and(f64::is_finite) {
                    return Err(Unfit::Number);
                }
            }
            b'{' | b'[' => {
                depth += 1;
                if depth > limits.depth {
                    return Err(Unfit::Depth);
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b':' => keys += usize::from(depth == 1),
            _ => {}
        }
        kept.push_str(text.get(start..at).unwrap_or_default());
        if kept.len() > limits.bytes {
            return Err(Unfit::Bytes);
        }
    }
    if keys > limits.keys { Err(Unfit::Keys) } else { Ok(kept) }
}

/// Appends `text` between quotes.
pub fn push_string(text: &str, out: &mut String) {
    if text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        out.push_str(&serde_json::Value::from(text).to_string());
    }
}

/// The place behind the string whose first byte is `at`.
fn end_of_string(bytes: &[u8], mut at: usize) -> Result<usize, Unfit> {
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'"' => return Ok(at),
            b'\\' if bytes.get(at) == Some(&b'u') => {
                match escaped(bytes, at - 1) {
                    Some(0xd800..=0xdbff) => match escaped(bytes, at + 5) {
                        Some(0xdc00..=0xdfff) => at += 6,
                        _ => return Err(Unfit::Surrogate),
                    },
                    Some(0xdc00..=0xdfff) => return Err(Unfit::Surrogate),
                    _ => {}
                }
                at += 5;
            }
            b'\\' => at += 1,
            _ => {}
        }
    }
    Ok(at)
}

/// The code unit of `\uXXXX` at this place.
fn escaped(bytes: &[u8], at: usize) -> Option<u16> {
    let hex = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
    u16::from_str_radix(str::from_utf8(hex).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(text: &str) -> Result<String, Unfit> {
        compact(text, Limits { keys: 3, bytes: 100, depth: 5 })
    }

    #[test]
    fn only_blanks_between_tokens_go() {
        for (text, want) in [
            (" { } ", "{}"),
            (
                "{ \"a b\" : [ 1 ,\n\t2.50 ] , \"a b\" : { \"\\\" }\" : null } }",
                r#"{"a b":[1,2.50],"a b":{"\" }":null}}"#,
            ),
            (
                r#"{"n":1000000000000000000000000000000,"m":-0.0}"#,
                r#"{"n":1000000000000000000000000000000,"m":-0.0}"#,
            ),
            (r#"{"e":"\ud83d\ude00\u00e9\\u"}"#, r#"{"e":"\ud83d\ude00\u00e9\\u"}"#),
            ("{\"z\":1,\"a\":\"é \u{2028}\"}", "{\"z\":1,\"a\":\"é \u{2028}\"}"),
            (r#"{"tiny":1e-400}"#, r#"{"tiny":1e-400}"#),
        ] {
            assert_eq!(kept(text).as_deref(), Ok(want));
        }
    }

    #[test]
    fn what_readers_choke_on_is_refused() {
        for text in [r#"{"a":"\ud800"}"#, r#"{"a":"\udc00"}"#, r#"{"a":"\ud800\u0041"}"#, r#"{"\uD800x":1}"#] {
            assert_eq!(kept(text), Err(Unfit::Surrogate), "{text}");
        }
        let digits = "9".repeat(400);
        let long = format!("{{\"a\":{digits}}}");
        for text in [r#"{"a":1e400}"#, r#"{"a":[-2E+999]}"#] {
            assert_eq!(kept(text), Err(Unfit::Number), "{text}");
        }
        assert_eq!(compact(&long, Limits { keys: 3, bytes: 1000, depth: 5 }), Err(Unfit::Number));
    }

    #[test]
    fn only_the_outer_keys_count() {
        assert!(kept(r#"{"a":{"1":1,"2":2,"3":3,"4":4},"b":[{"x":1}],"c":":"}"#).is_ok());
        assert_eq!(kept(r#"{"a":1,"b":2,"c":3,"d":4}"#), Err(Unfit::Keys));
    }

    #[test]
    fn depth_has_an_end() {
        assert!(kept(r#"{"a":[[[{}],[{}]]],"b":[[[[]]]]}"#).is_ok());
        assert_eq!(kept(r#"{"a":[[[{"x":{}}]]]}"#), Err(Unfit::Depth));
    }

    #[test]
    fn bytes_are_counted_without_blanks() {
        let text = format!("{{\"a\":\"{}\"}}{}", "x".repeat(92), " ".repeat(50));
        assert_eq!(kept(&text).map(|kept| kept.len()), Ok(100));
        assert_eq!(kept(&text.replace("{\"a\"", "{\"ab\"")), Err(Unfit::Bytes));
    }
}
