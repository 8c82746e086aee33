//! Reading a request's body and query, and saying what is wrong with them.
//!
//! Owns the 422 of the contract: one entry for each fault, `loc` leading to it. A [`Form`] collects every fault of a
//! body before anybody acts on it, so that nothing is half done. It knows field names and bounds only as arguments.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::clock::WallMs;
use crate::limits::FAULTS_MAX;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    kind: &'static str,
    loc: Vec<Value>,
    msg: String,
    input: Value,
}

impl Fault {
    /// A fault of `kind` at `loc`, told in words.
    pub fn new(kind: &'static str, loc: &[&str], msg: impl Into<String>) -> Self {
        let loc = loc.iter().map(|part| json!(part)).collect();
        Fault { kind, loc, msg: msg.into(), input: Value::Null }
    }

    /// Repeats what was given, as far as that is short.
    fn of(mut self, input: &Value) -> Self {
        const INPUT_BYTES_MAX: usize = 200;
        let short = serde_json::to_string(input).is_ok_and(|text| text.len() <= INPUT_BYTES_MAX);
        self.input = if short { input.clone() } else { json!("(long)") };
        self
    }

    /// The same, of what has not been parsed.
    pub fn of_raw(self, input: &RawValue) -> Self {
        match serde_json::from_str(input.get()) {
            Ok(value) => self.of(&value),
            // Nested too deeply to be repeated, or no text.
            Err(_) => self.of(&json!("(unreadable)")),
        }
    }

    /// What was sent is not even JSON.
    pub fn is_syntax(&self) -> bool {
        self.kind == "json_invalid"
    }

    /// The same, further down.
    pub fn under(mut self, path: &[Value]) -> Self {
        self.loc.splice(0..1, path.iter().cloned());
        self
    }

    fn at(mut self, index: usize) -> Self {
        self.loc.push(json!(index));
        self
    }
}

impl fmt::Display for Fault {
    /// The place within the body, and what is wrong there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.loc.iter().skip(1).map(|part| part.as_str().map_or(part.to_string(), str::to_owned));
        let place = place.collect::<Vec<_>>().join(".");
        if place.is_empty() { write!(f, "{}", self.msg) } else { write!(f, "{place}: {}", self.msg) }
    }
}

/// The contract's form of a list of faults.
pub fn detail(faults: &[Fault]) -> Value {
    let entry = |fault: &Fault| {
        let mut entry = Map::new();
        entry.insert("type".into(), json!(fault.kind));
        entry.insert("loc".into(), Value::Array(fault.loc.clone()));
        entry.insert("msg".into(), json!(fault.msg));
        entry.insert("input".into(), fault.input.clone());
        Value::Object(entry)
    };
    json!({ "detail": faults.iter().map(entry).collect::<Vec<_>>() })
}

/// Parses a whole body.
///
/// # Errors
/// One fault, at `body`: not UTF-8, not JSON (NaN and lone surrogates are not), nested too deeply, or nothing at all.
pub fn parse(body: &[u8]) -> Result<Value, Vec<Fault>> {
    if body.is_empty() {
        return Err(vec![Fault::new("missing", &["body"], "Field required")]);
    }
    serde_json::from_slice(body).map_err(|error| vec![no_json(&error)])
}

/// The fault of a body that is no JSON.
pub fn no_json(error: &serde_json::Error) -> Fault {
    let mut fault = Fault::new("json_invalid", &["body"], format!("JSON decode error: {error}"));
    fault.loc.push(json!(error.column()));
    fault
}

/// A body's object, one within it, or a request's query, field by field.
pub struct Form<'a> {
    path: Vec<Value>,
    fields: &'a Map<String, Value>,
    faults: Vec<Fault>,
}

impl<'a> Form<'a> {
    /// The fields of a body, which must be an object.
    ///
    /// # Errors
    /// One fault, at `body`, when it is something else.
    pub fn body(body: &'a Value) -> Result<Self, Vec<Fault>> {
        Form::object(body, vec![json!("body")])
    }

    /// The fields of an object at `path`.
    ///
    /// # Errors
    /// One fault, there, when it is something else.
    pub fn object(object: &'a Value, path: Vec<Value>) -> Result<Self, Vec<Fault>> {
        match object {
            Value::Object(fields) => Ok(Form { path, fields, faults: Vec::new() }),
            Value::Null => Err(vec![Fault::new("missing", &["body"], "Field required").under(&path)]),
            other => {
                let msg = "Input should be a valid dictionary or object";
                Err(vec![Fault::new("model_attributes_type", &["body"], msg).under(&path).of(other)])
            }
        }
    }

    /// The fields of a query string.
    pub fn query(fields: &'a Map<String, Value>) -> Self {
        Form { path: vec![json!("query")], fields, faults: Vec::new() }
    }

    /// Nothing was wrong.
    ///
    /// # Errors
    /// Every fault found.
    pub fn done(self) -> Result<(), Vec<Fault>> {
        if self.faults.is_empty() { Ok(()) } else { Err(self.faults) }
    }

    /// The field as it stands, if it is there.
    pub fn raw(&self, name: &str) -> Option<&'a Value> {
        self.fields.get(name)
    }

    /// Adds a fault at the field `name`.
    pub fn fault(&mut self, kind: &'static str, name: &str, msg: impl Into<String>) {
        if self.faults.len() >= FAULTS_MAX {
            return;
        }
        let fault = Fault::new(kind, &["body", name], msg).under(&self.path);
        let fault = match self.raw(name) {
            Some(input) => fault.of(input),
            None => fault,
        };
        self.faults.push(fault);
    }

    /// Whether nothing has been wrong so far.
    pub fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }

    /// Faults that were found further down.
    pub fn absorb(&mut self, faults: Vec<Fault>) {
        self.faults.extend(faults);
        self.faults.truncate(FAULTS_MAX);
    }

    /// The elements of a required list of at least `least` and at most `most`, each with its path.
    pub fn list(&mut self, name: &str, least: usize, most: usize) -> Vec<(Vec<Value>, &'a Value)> {
        match self.raw(name) {
            None => self.fault("missing", name, "Field required"),
            Some(Value::Array(list)) if list.len() < least => {
                self.fault(
                    "too_short",
                    name,
                    format!("List should have at least {least} item after validation, not 0"),
                );
            }
            Some(Value::Array(list)) if list.len() > most => {
                let msg = format!("List should have at most {most} items after validation, not {}", list.len());
                self.faults.push(Fault::new("too_long", &["body", name], msg).under(&self.path));
            }
            Some(Value::Array(list)) => {
                let path = |index| self.path.iter().cloned().chain([json!(name), json!(index)]).collect();
                return list.iter().enumerate().map(|(index, value)| (path(index), value)).collect();
            }
            Some(_) => self.fault("list_type", name, "Input should be a valid list"),
        }
        Vec::new()
    }

    /// A required name of something: so many Unicode scalar values, none of them a control character.
    pub fn name(&mut self, name: &str, chars_max: usize) -> Arc<str> {
        if self.raw(name).is_none() {
            self.fault("missing", name, "Field required");
            return Arc::from("");
        }
        let text = self.text(name, 1..=chars_max, "");
        if text.chars().any(char::is_control) {
            self.fault("value_error", name, "String should have no control characters");
        }
        text
    }

    /// One of these words; the first when it is not there.
    pub fn word<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Option<T> {
        let Some(value) = self.raw(name).filter(|value| !value.is_null()) else {
            return words.first().map(|(_, first)| *first);
        };
        let found = words.iter().find(|(word, _)| value.as_str() == Some(word)).map(|(_, found)| *found);
        if found.is_none() {
            let quoted: Vec<String> = words.iter().map(|(word, _)| format!("'{word}'")).collect();
            let msg = match (value.as_str(), quoted.split_last()) {
                (Some("ADAPTIVE"), _) => "ADAPTIVE is not supported".to_owned(),
                (_, Some((last, rest))) => format!("Input should be {} or {last}", rest.join(", ")),
                (_, None) => String::new(),
            };
            self.fault("literal_error", name, msg);
        }
        found
    }

    /// A required whole number within `range`.
    pub fn int(&mut self, name: &str, range: RangeInclusive<u32>) -> Option<u32> {
        let Some(value) = self.raw(name) else {
            self.fault("missing", name, "Field required");
            return None;
        };
        match int(value, &range) {
            Ok(number) => Some(number),
            Err((kind, msg)) => {
                self.fault(kind, name, msg);
                None
            }
        }
    }

    /// A whole number within `range`; absent and `null` are alike.
    pub fn int_or_null(&mut self, name: &str, range: RangeInclusive<u32>) -> Option<u32> {
        self.raw(name).filter(|value| !value.is_null())?;
        self.int(name, range)
    }

    /// A count in a query, up to 2^63 - 1; absent and `null` are alike.
    pub fn count_or_null(&mut self, name: &str) -> Option<u64> {
        let value = self.raw(name).filter(|value| !value.is_null())?;
        let plain = |text: &&str| text.bytes().all(|byte| byte.is_ascii_digit());
        let count = value.as_str().filter(plain).and_then(|text| text.parse().ok());
        let count = count.filter(|count: &u64| i64::try_from(*count).is_ok());
        if count.is_none() {
            self.fault("int_parsing", name, "Input should be a whole number, 0 or greater");
        }
        count
    }

    /// Text of so many Unicode scalar values.
    pub fn text(&mut self, name: &str, chars: RangeInclusive<usize>, default: &str) -> Arc<str> {
        let value = match self.raw(name) {
            None => return Arc::from(default),
            Some(Value::String(text)) => text,
            Some(_) => {
                self.fault("string_type", name, "Input should be a valid string");
                return Arc::from(default);
            }
        };
        let count = value.chars().count();
        if count < *chars.start() {
            let msg = format!("String should have at least {} character", chars.start());
            self.fault("string_too_short", name, msg);
        } else if count > *chars.end() {
            self.fault("string_too_long", name, format!("String should have at most {} characters", chars.end()));
        }
        Arc::from(value.as_str())
    }

    /// True or false; the words and numbers that the Python service took for them, too.
    pub fn bool(&mut self, name: &str) -> bool {
        let Some(value) = self.raw(name) else { return false };
        let known = match value {
            Value::Bool(flag) => Some(*flag),
            Value::Number(number) => match number.as_f64() {
                Some(0.0) => Some(false),
                Some(1.0) => Some(true),
                _ => None,
            },
            Value::String(text) => match text.to_ascii_lowercase().as_str() {
                "1" | "true" | "t" | "yes" | "y" | "on" => Some(true),
                "0" | "false" | "f" | "no" | "n" | "off" => Some(false),
                _ => None,
            },
            _ => None,
        };
        known.unwrap_or_else(|| {
            self.fault("bool_parsing", name, "Input should be a valid boolean");
            false
        })
    }

    /// A list of at most `count` whole numbers within `range`, in the order given, repeats dropped.
    pub fn ints(&mut self, name: &str, count: usize, range: RangeInclusive<u32>, default: &[u32]) -> Arc<[u32]> {
        let list = match self.raw(name) {
            None => return Arc::from(default),
            Some(Value::Array(list)) => list,
            Some(_) => {
                self.fault("list_type", name, "Input should be a valid list");
                return Arc::from(default);
            }
        };
        if list.len() > count {
            let msg = format!("List should have at most {count} items after validation, not {}", list.len());
            self.fault("too_long", name, msg);
            return Arc::from(default);
        }
        let mut numbers = Vec::with_capacity(list.len());
        for (index, value) in list.iter().enumerate() {
            match int(value, &range) {
                Ok(number) if numbers.contains(&number) => {}
                Ok(number) => numbers.push(number),
                Err((kind, msg)) => {
                    let fault = Fault::new(kind, &["body", name], msg).under(&self.path);
                    self.faults.push(fault.at(index).of(value));
                }
            }
        }
        Arc::from(numbers)
    }

    /// An instant in the form of RFC 3339, cut to its millisecond; absent and `null` are alike.
    pub fn instant_or_null(&mut self, name: &str) -> Option<WallMs> {
        let value = self.raw(name).filter(|value| !value.is_null())?;
        let instant = value.as_str().and_then(instant);
        if instant.is_none() {
            let msg = "Input should be an RFC 3339 time such as 2026-02-01T09:00:00Z";
            self.fault("datetime_parsing", name, msg);
        }
        instant
    }
}

/// A list of at most `count` strings at `loc`, every fault of it collected.
///
/// # Errors
/// Not a list, too long, or an element that is no string.
pub fn strings<'a>(value: &'a Value, loc: &[&str], count: usize) -> Result<Vec<&'a str>, Vec<Fault>> {
    let Value::Array(list) = value else {
        return Err(vec![Fault::new("list_type", loc, "Input should be a valid list").of(value)]);
    };
    if list.len() > count {
        let msg = format!("List should have at most {count} items after validation, not {}", list.len());
        return Err(vec![Fault::new("too_long", loc, msg)]);
    }
    let fault = |(index, value): (usize, &Value)| {
        Fault::new("string_type", loc, "Input should be a valid string").at(index).of(value)
    };
    let faults: Vec<Fault> = list.iter().enumerate().filter(|(_, value)| !value.is_string()).map(fault).collect();
    if faults.is_empty() { Ok(list.iter().filter_map(Value::as_str).collect()) } else { Err(faults) }
}

/// The fields of a query string, decoded; of a repeated one the last counts.
pub fn query(raw: &str) -> Map<String, Value> {
    let pairs = raw.split('&').filter(|pair| !pair.is_empty());
    let split = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let decode = |text: &str| percent_decode(&text.replace('+', " "));
    split.map(|(name, value)| (decode(name), Value::String(decode(value)))).collect()
}

/// `%41` becomes `A` (RFC 3986, section 2.1); what is not UTF-8 afterwards becomes U+FFFD.
pub fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        let byte = hex.filter(|hex| hex.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match byte.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// A whole number within `range`, in the forms the Python service took: `300`, `300.0`, `"300"`.
fn int(value: &Value, range: &RangeInclusive<u32>) -> Result<u32, (&'static str, String)> {
    let number = match value {
        Value::Number(number) => number.as_f64().filter(|number| number.is_finite()),
        Value::String(text) => {
            let text = text.trim();
            let whole = text.split_once('.').filter(|(_, rest)| rest.bytes().all(|byte| byte == b'0'));
            let digits = whole.map_or(text, |(whole, _)| whole);
            let plain = digits.strip_prefix(['-', '+']).unwrap_or(digits);
            let number = plain.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten();
            let msg = "Input should be a valid integer, unable to parse string as an integer";
            return bounded(number.ok_or(("int_parsing", msg.to_owned()))?, range);
        }
        _ => None,
    };
    let number = number.ok_or(("int_type", "Input should be a valid integer".to_owned()))?;
    if number.fract() != 0.0 {
        let msg = "Input should be a valid integer, got a number with a fractional part";
        return Err(("int_from_float", msg.to_owned()));
    }
    bounded(number, range)
}

fn bounded(number: f64, range: &RangeInclusive<u32>) -> Result<u32, (&'static str, String)> {
    if number < f64::from(*range.start()) {
        return Err(("greater_than_equal", format!("Input should be greater than or equal to {}", range.start())));
    }
    if number > f64::from(*range.end()) {
        return Err(("less_than_equal", format!("Input should be less than or equal to {}", range.end())));
    }
    // A whole number between two u32: the cast is exact.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked just above")]
    Ok(number as u32)
}

/// RFC 3339, section 5.6: a full date, `T`, a full time and an offset; nothing of what else may name an instant.
fn instant(text: &str) -> Option<WallMs> {
    let bytes = text.as_bytes();
    let shape = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    let shaped = bytes.len() >= 20 && shape.iter().all(|(at, byte)| bytes.get(*at) == Some(byte));
    let offset = text.ends_with(['Z', 'z']) || bytes.get(bytes.len().wrapping_sub(3)) == Some(&b':');
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || b"-:+.TtZz ".contains(&byte));
    if !(shaped && offset && plain) {
        return None;
    }
    text.parse::<jiff::Timestamp>().ok().map(|instant| WallMs::from_ms(instant.as_millisecond()))
}

/// An instant in one of the forms of ISO 8601 that the Python service took, in microseconds since the epoch: a date,
/// a date and a time with a `T` or a blank between, with or without a fraction and an offset; without one it is UTC.
pub fn iso_instant_us(text: &str) -> Option<i64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || b"-:+.,TtZz ".contains(&byte));
    let date_first = text.bytes().take(8).filter(u8::is_ascii_digit).count() >= 6;
    if !(plain && date_first) {
        return None;
    }
    if let Ok(instant) = text.parse::<jiff::Timestamp>() {
        return Some(instant.as_microsecond());
    }
    // Without an offset, or so near to the end of the calendar that no timestamp has room for it, as 9999-12-31 is.
    let text = text.strip_suffix(['Z', 'z']).or_else(|| text.strip_suffix("+00:00")).unwrap_or(text);
    let day = || text.parse::<jiff::civil::Date>().ok().map(|date| date.at(0, 0, 0, 0));
    let civil = text.parse::<jiff::civil::DateTime>().ok().or_else(day)?;
    let epoch = jiff::civil::date(1970, 1, 1).at(0, 0, 0, 0);
    i64::try_from(civil.duration_since(epoch).as_micros()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_in_every_form_the_python_service_took() {
        for (text, want) in [
            ("1970-01-01T00:00:01Z", Some(1_000_000)),
            ("1970-01-01T00:00:01.123456Z", Some(1_123_456)),
            ("1970-01-01T01:00:01+01:00", Some(1_000_000)),
            ("1970-01-01T00:00:01", Some(1_000_000)),
            ("1970-01-01 00:00:01.5", Some(1_500_000)),
            ("1970-01-02", Some(86_400_000_000)),
            ("19700102", Some(86_400_000_000)),
            ("1970-01-01 00:00:01Z", Some(1_000_000)),
            ("9999-12-31", Some(253_402_214_400_000_000)),
            ("9999-12-31T23:59:59.999999+00:00", Some(253_402_300_799_999_999)),
            ("9999-12-31T23:59:59Z", Some(253_402_300_799_000_000)),
            ("0001-01-01", Some(-62_135_596_800_000_000)),
            ("1970-01-01T00:00:01+99:00", None),
            ("", None),
            ("-", None),
            ("yesterday", None),
            ("12:00", None),
            ("1700000000x", None),
            ("1970-02-30", None),
            ("1970-13-01T00:00:00Z", None),
            ("1970-01-01T00:00:01Z[UTC]", None),
            ("1970-01-01T00:00:01 02:00", None),
        ] {
            assert_eq!(iso_instant_us(text), want, "{text}");
        }
    }

    #[test]
    fn integers_in_every_form_the_python_service_took() {
        for (text, want) in [
            ("300", Some(300)),
            ("300.0", Some(300)),
            ("3e2", Some(300)),
            ("\"300\"", Some(300)),
            ("\" 7 \"", Some(7)),
            ("\"5.0\"", Some(5)),
            ("1", Some(1)),
            ("true", None),
            ("null", None),
            ("1.5", None),
            ("\"1.5\"", None),
            ("\"\"", None),
            ("\"0x10\"", None),
            ("\"+\"", None),
            ("0", None),
            ("-1", None),
            ("86401", None),
            ("1000000000000000000000000000000", None),
            ("\"99999999999999999999999999\"", None),
            ("[]", None),
        ] {
            let value: Value = serde_json::from_str(text).unwrap();
            assert_eq!(int(&value, &(1..=86_400)).ok(), want, "{text}");
        }
    }

    #[test]
    fn instants_are_rfc_3339_and_nothing_else() {
        let ms = |text| instant(text).map(WallMs::ms);
        assert_eq!(ms("1970-01-01T00:00:01.2345Z"), Some(1_234));
        assert_eq!(ms("1970-01-01T01:00:01+01:00"), Some(1_000));
        assert_eq!(ms("1970-01-01t00:00:01z"), Some(1_000));
        for text in [
            "",
            "tomorrow",
            "1970-01-01",
            "1970-01-01T00:00:01",
            "19700101T000001Z",
            "1970-01-01T00:00:01Z[UTC]",
            "1970-13-01T00:00:00Z",
            "1970-01-01T25:00:00Z",
            "1970-01-01T00:00Z",
        ] {
            assert_eq!(ms(text), None, "{text}");
        }
    }

    #[test]
    fn queries_are_decoded_and_the_last_of_a_name_counts() {
        let fields = query("state=running&x=%41+b&&flag&state=paused&bad=%zz%4");
        assert_eq!(fields.get("state"), Some(&json!("paused")));
        assert_eq!(fields.get("x"), Some(&json!("A b")));
        assert_eq!(fields.get("flag"), Some(&json!("")));
        assert_eq!(fields.get("bad"), Some(&json!("%zz%4")));
    }

    #[test]
    fn a_body_that_is_not_json_is_one_fault() {
        for body in [&b"{"[..], b"\xff\xfe", b"{\"a\":NaN}", br#"{"a":"\ud800"}"#, b"{} tail", b"", b"{\"a\":05}"] {
            assert!(parse(body).is_err(), "{body:?}");
        }
        let deep = [vec![b'['; 1000], vec![b']'; 1000]].concat();
        assert!(parse(&deep).is_err());
    }
}
