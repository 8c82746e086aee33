//! JSON with the line of everything in it: for telling people where in their file something is wrong.
//!
//! Owns the walk over a text that serde_json has found to be JSON, down to the depth that a caller wants to look at;
//! what lies deeper is passed over. It must not know what a file is about.
//!
//! Invariants: a [`Node`] has the line, from 1, on which it begins; the walk never goes beyond the text and never
//! recurses deeper than it was told to, whatever the text is.

use serde::de::IgnoredAny;

/// A value, and the line on which it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node<'a> {
    /// Counted from 1.
    pub(super) line: usize,
    /// What it is.
    pub(super) value: Value<'a>,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool,
    /// As it is written.
    Number(&'a str),
    /// Unescaped.
    Text(String),
    /// The elements; none below the depth that was asked for.
    List(Vec<Node<'a>>),
    /// The fields in their order, doubled ones too; none below the depth that was asked for.
    Object(Vec<Field<'a>>),
}

/// A field of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field<'a> {
    /// Its name.
    pub(super) name: String,
    /// The line of the name.
    pub(super) line: usize,
    /// What it is.
    pub(super) node: Node<'a>,
}

/// Something wrong with the text as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NotJson {
    /// Counted from 1.
    pub(super) line: usize,
    /// In words.
    pub(super) what: String,
}

/// The value that `bytes` are, with what is in it down to `depth` (an object's fields are one deeper than the object).
///
/// # Errors
/// The first thing that is no JSON, no UTF-8, or text that cannot be unescaped.
pub(super) fn parse(bytes: &[u8], depth: usize) -> Result<Node<'_>, NotJson> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
        NotJson { line: 1 + lines_in(good), what: "not UTF-8".to_owned() }
    })?;
    // As some editors begin every file.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| {
        let said = error.to_string();
        let what = said.split(" at line ").next().unwrap_or_default();
        let line = error.line().max(1);
        NotJson { line, what: format!("not JSON: {what} (column {})", error.column()) }
    })?;
    let mut walk = Walk { text, at: 0, line: 1, broken: None };
    let node = walk.node(depth);
    match walk.broken {
        Some(line) => Err(NotJson { line, what: "a text with half a surrogate pair".to_owned() }),
        None => Ok(node),
    }
}

fn lines_in(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}

/// A place in a text that is JSON.
struct Walk<'a> {
    text: &'a str,
    /// Always at the boundary of a character.
    at: usize,
    line: usize,
    /// The line of the first text that cannot be unescaped.
    broken: Option<usize>,
}

impl<'a> Walk<'a> {
    /// The next byte that is no white space, which is left where it is; 0 at the end.
    fn peek(&mut self) -> u8 {
        loop {
            match self.text.as_bytes().get(self.at) {
                // JSON has line ends between its tokens only, never within a text.
                Some(b'\n') => self.line += 1,
                Some(b' ' | b'\t' | b'\r') => {}
                Some(byte) => return *byte,
                None => return 0,
            }
            self.at += 1;
        }
    }

    /// Takes the byte that `peek` found, if it is this one.
    fn take(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == byte;
        self.at += usize::from(is_next);
        is_next
    }

    fn node(&mut self, depth: usize) -> Node<'a> {
        let first = self.peek();
        let line = self.line;
        let value = match first {
            b'{' | b'[' if depth == 0 => {
                self.pass_over();
                if first == b'{' { Value::Object(Vec::new()) } else { Value::List(Vec::new()) }
            }
            b'{' => Value::Object(self.fields(depth - 1)),
            b'[' => Value::List(self.elements(depth - 1)),
            b'"' => Value::Text(self.string()),
            b'n' => {
                self.word();
                Value::Null
            }
            b't' | b'f' => {
                self.word();
                Value::Bool
            }
            _ => Value::Number(self.word()),
        };
        Node { line, value }
    }

    fn fields(&mut self, depth: usize) -> Vec<Field<'a>> {
        let mut fields = Vec::new();
        self.take(b'{');
        while self.peek() == b'"' {
            let line = self.line;
            let name = self.string();
            self.take(b':');
            fields.push(Field { name, line, node: self.node(depth) });
            self.take(b',');
        }
        self.take(b'}');
        fields
    }

    fn elements(&mut self, depth: usize) -> Vec<Node<'a>> {
        let mut elements = Vec::new();
        self.take(b'[');
        while !matches!(self.peek(), b']' | 0) {
            elements.push(self.node(depth));
            self.take(b',');
        }
        self.take(b']');
        elements
    }

    /// Goes behind the object or list that begins here.
    fn pass_over(&mut self) {
        let mut open = 0_usize;
        loop {
            match self.peek() {
                b'{' | b'[' => open += 1,
                b'}' | b']' => open = open.saturating_sub(1),
                b'"' => {
                    self.string();
                    continue;
                }
                0 => return,
                byte if !byte.is_ascii() => return,
                _ => {}
            }
            self.at += 1;
            if open == 0 {
                return;
            }
        }
    }

    /// A number, or one of the three words.
    fn word(&mut self) -> &'a str {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        // At least one, so that the walk always comes on.
        let length = rest.find(|c: char| !is_part(c)).unwrap_or(rest.len());
        let length = length.max(rest.chars().next().map_or(0, char::len_utf8));
        self.at += length;
        rest.get(..length).unwrap_or_default()
    }

    /// The text that begins here.
    fn string(&mut self) -> String {
        let rest = self.text.get(self.at..).unwrap_or_default();
        // The first byte is the quote that opens it.
        let mut escaped = true;
        let end = rest.bytes().position(|byte| {
            let is_end = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            is_end
        });
        let quoted = rest.get(..end.map_or(rest.len(), |end| end + 1)).unwrap_or_default();
        self.at += quoted.len();
        serde_json::from_str(quoted).unwrap_or_else(|_| {
            self.broken.get_or_insert(self.line);
            String::new()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(bytes: &[u8]) -> (usize, String) {
        let NotJson { line, what } = parse(bytes, 3).unwrap_err();
        (line, what)
    }

    #[test]
    fn everything_has_its_line() {
        let text = "\u{feff}\n{ \"a\" :\n\n  [1.5, true,\r\n null, \"x\\n\\\"]}\\u00e9\",\n {\"b\\\\\":\n[ ]} ] ,\
                    \n\"d\":{\"e\":{\"f\":[\"]}\\\\\",{}]}},\n\"a\":-1e3}\n";
        let node = |line, value| Node { line, value };
        let field = |name: &str, line, node| Field { name: name.to_owned(), line, node };
        let expected = Value::Object(vec![
            field(
                "a",
                2,
                node(
                    4,
                    Value::List(vec![
                        node(4, Value::Number("1.5")),
                        node(4, Value::Bool),
                        node(5, Value::Null),
                        node(5, Value::Text("x\n\"]}é".to_owned())),
                        node(6, Value::Object(vec![field("b\\", 6, node(7, Value::List(vec![])))])),
                    ]),
                ),
            ),
            // One deeper than was asked for, and passed over.
            field(
                "d",
                8,
                node(
                    8,
                    Value::Object(vec![field(
                        "e",
                        8,
                        node(8, Value::Object(vec![field("f", 8, node(8, Value::List(vec![])))])),
                    )]),
                ),
            ),
            field("a", 9, node(9, Value::Number("-1e3"))),
        ]);
        assert_eq!(parse(text.as_bytes(), 3), Ok(node(2, expected)));
        assert_eq!(parse(b"\"\"", 0), Ok(node(1, Value::Text(String::new()))));
    }

    #[test]
    fn what_is_no_json_is_said_with_its_line() {
        assert_eq!(wrong(b"{\n\"a\": 1,\n}").0, 3);
        assert_eq!(wrong(b"").0, 1);
        assert!(wrong(b"[1,\n2").1.starts_with("not JSON: EOF while parsing a list"));
        assert_eq!(wrong(b"[\n\n\"\xff\"]"), (3, "not UTF-8".to_owned()));
        assert_eq!(wrong(b"[[[[[\n\"\\ud800x\"]]]]]"), (2, "a text with half a surrogate pair".to_owned()));
        assert_eq!(wrong(b"{} {}").0, 1);
        assert!(wrong(b"{\n\"a\": NaN}").0 == 2);
    }

    #[test]
    fn a_hundred_thousand_brackets_are_passed_over() {
        let text = "[".repeat(100_000) + &"]".repeat(100_000) + "\n";
        assert_eq!(parse(text.as_bytes(), 0), Ok(Node { line: 1, value: Value::List(vec![]) }));
    }
}
