//! `timerd exam load`: assessments from files into the server.
//!
//! Reads every file, checks it against the contract and says every fault by file, line and field; nothing is sent
//! unless all files are sound. Then each is put on the server, one after the other. This file owns what an assessment
//! must be, in the words of whoever wrote the file; the server judges again and has the last word, which is told
//! with the same lines. It must not know what an item's content means.
//!
//! Invariants: a fault names the line of the field that is wrong, or, where a field is missing, of the object that
//! lacks it; what is sent is the file's own JSON, but for the space between its tokens; a line of success on stdout
//! stands for an assessment that the server has on its disk.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::Value as Json;

use super::json::{self, Field, Node, Value};
use crate::client::exam::{detail_of, failure_of, outcome_of, path_of};
use crate::client::http::{Http, Method};
use crate::client::{self, End, Outcome, Server, compact, short, visible};

/// How this client is called.
const COMMAND: &str = "exam load";
/// Bytes of an assessment, the contract's bound, its tokens without space between them.
const ASSESSMENT_BYTES_MAX: usize = 1 << 20;
/// Bytes of a file: an assessment of 1 MiB with every token on a line of its own is far below.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Bytes of the server's answer, which repeats the assessment.
const ANSWER_BYTES_MAX: u64 = 4 << 20;
/// How deep a file is looked at: the assessment, its sections, a section, its items, an item, and what it has.
const DEPTH: usize = 6;
/// Items of an assessment.
const ITEMS_MAX: usize = 500;
/// Characters of an id and of a name.
const ID_CHARS_MAX: usize = 200;
const NAME_CHARS_MAX: usize = 200;
/// What some editors begin every file with.
const BOM: char = '\u{feff}';
/// Seconds of a limit.
const LIMIT_S: (u64, u64) = (1, 86_400);

/// Which files, and where to.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Every file is checked first, and nothing is sent unless all are sound. What is wrong is said as FILE:LINE: FIELD: \
what, on stderr. An assessment that is there already is replaced; sessions that have begun keep it as it was.

Exit codes: 0 when all were loaded, 1 otherwise.")]
pub struct Options {
    /// Files with one assessment each, as JSON, or - for stdin
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Where to.
    #[command(flatten)]
    pub server: Server,
}

/// Loads every file (exit code 0), or says what is wrong (1).
pub fn run(options: &Options) -> ExitCode {
    match load(options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => client::refuse(COMMAND, &format!("cannot write: {error}")),
    }
}

/// Whether all were loaded; an error is one of stdout.
fn load(options: &Options) -> io::Result<bool> {
    let mut sources = Vec::new();
    let mut is_sound = true;
    for file in &options.files {
        match Source::read(file) {
            Ok(source) => sources.push(source),
            Err(why) => {
                is_sound = false;
                client::say(COMMAND, &why);
            }
        }
    }
    let mut checked = Vec::new();
    for source in &sources {
        match source.check() {
            Ok((root, summary)) => checked.push((source, root, summary)),
            Err(faults) => {
                is_sound = false;
                source.tell(&faults);
            }
        }
    }
    let mut known: HashMap<&str, &str> = HashMap::new();
    for (source, _, summary) in &checked {
        if let Some(first) = known.insert(&summary.id, &source.name) {
            is_sound = false;
            let what = format!("'{}' is also in {first}", summary.id);
            source.tell(&[Fault { line: summary.id_line, field: "assessment_id".to_owned(), what }]);
        }
    }
    if !is_sound {
        if options.files.len() > 1 {
            client::say(COMMAND, "nothing was loaded");
        }
        return Ok(false);
    }
    let mut http = Http::new(&options.server, &Arc::default());
    let mut loaded = 0;
    let mut written = Ok(());
    for (source, root, summary) in &checked {
        match put(&mut http, source, summary) {
            Put::Loaded { is_new } => {
                loaded += 1;
                let kind = if is_new { "new" } else { "replaced" };
                let line = format!("{}: {} loaded ({kind}): {summary}", source.name, summary.id);
                // Whether anybody reads it or not, the rest is loaded.
                written = written.and(writeln!(io::stdout(), "{}", visible(&line)));
            }
            Put::Faults(faults) => {
                let faults: Vec<Fault> = faults.iter().map(|fault| source.fault_of_server(fault, root)).collect();
                source.tell(&faults);
            }
            Put::Refused(why) => client::say(COMMAND, &format!("{}: {why}", source.name)),
            Put::Failed(why) => {
                client::say(COMMAND, &format!("{}: {why}", source.name));
                break;
            }
        }
    }
    if loaded < checked.len() && checked.len() > 1 {
        client::say(COMMAND, &format!("{loaded} of {} were loaded", checked.len()));
    }
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(loaded == checked.len()),
    }
}

/// What came of sending one.
enum Put {
    Loaded {
        is_new: bool,
    },
    /// The server finds faults in it.
    Faults(Vec<Json>),
    /// It is not loaded, for this reason.
    Refused(String),
    /// Nor would another be taken.
    Failed(String),
}

fn put(http: &mut Http, source: &Source, summary: &Summary) -> Put {
    let mut answer = match http.ask(Method::Put, &path_of(&summary.id, ""), None, source.body.as_bytes()) {
        Ok(answer) => answer,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Put::Failed(failure_of(&error)),
        Err(error) => return Put::Failed(format!("{}; it may be loaded, or not", failure_of(&error))),
    };
    match answer.status {
        200 | 201 => {
            let is_new = answer.status == 201;
            // It stands whatever comes of the rest, which only makes room for the next answer.
            let _ = answer.text(ANSWER_BYTES_MAX);
            Put::Loaded { is_new }
        }
        422 => match detail_of(&mut answer) {
            Some(Json::Array(faults)) if !faults.is_empty() => Put::Faults(faults),
            Some(Json::String(why)) => Put::Refused(format!("refused: {why}")),
            _ => Put::Refused("refused with status 422".to_owned()),
        },
        413 => Put::Refused("the server says that it is too large".to_owned()),
        status => match outcome_of(&mut answer) {
            Outcome::Over(End { why, .. }) if matches!(status, 401 | 403 | 404) => Put::Failed(why),
            Outcome::Over(End { why, .. }) | Outcome::Again(why) | Outcome::AtOnce(why) => Put::Refused(why),
        },
    }
}

// ---------------------------------------------------------------------------------------------------------------
// A file.

/// A file that was read.
struct Source {
    name: String,
    bytes: Vec<u8>,
    /// What is sent of it.
    body: String,
}

impl Source {
    fn read(path: &Path) -> Result<Source, String> {
        let is_stdin = path.as_os_str() == "-";
        let name = if is_stdin { "stdin".to_owned() } else { path.display().to_string() };
        let within = |error: io::Error| format!("{name}: {error}");
        let mut bytes = Vec::new();
        let read = if is_stdin {
            io::stdin().lock().take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)
        } else {
            File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        };
        read.map_err(within)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(format!("{name}: larger than {} MiB", FILE_BYTES_MAX >> 20));
        }
        let text = String::from_utf8_lossy(&bytes);
        let body = compact(text.trim_start_matches(BOM));
        Ok(Source { name, bytes, body })
    }

    /// What the file holds, or everything that is wrong with it, in the order of lines.
    fn check(&self) -> Result<(Node<'_>, Summary), Vec<Fault>> {
        let root = json::parse(&self.bytes, DEPTH)
            .map_err(|wrong| vec![Fault { line: wrong.line, field: String::new(), what: wrong.what }])?;
        let mut faults = Vec::new();
        let summary = check(&root, &mut faults);
        if self.body.len() > ASSESSMENT_BYTES_MAX {
            let what = format!("is {} bytes of JSON; must be at most {ASSESSMENT_BYTES_MAX}", self.body.len());
            faults.push(Fault { line: root.line, field: String::new(), what });
        }
        faults.sort_by_key(|fault| fault.line);
        match summary {
            Some(summary) if faults.is_empty() => Ok((root, summary)),
            _ => Err(faults),
        }
    }

    /// A fault as the server tells it, brought back to where it is in the file.
    fn fault_of_server(&self, fault: &Json, root: &Node<'_>) -> Fault {
        let what = fault.get("msg").and_then(Json::as_str).unwrap_or("refused");
        let loc = fault.get("loc").and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
        if fault.get("type").and_then(Json::as_str) == Some("json_invalid") {
            // What was sent had one line; the column stands beside it.
            let what = what.split(" at line ").next().unwrap_or_default().to_owned();
            let column = loc.last().and_then(Json::as_u64).and_then(|column| usize::try_from(column).ok());
            return Fault {
                line: column.map_or(root.line, |column| self.line_of(column)),
                field: String::new(),
                what,
            };
        }
        let (mut line, mut field, mut node) = (root.line, String::new(), Some(root));
        // The first is where in the request it was found: in the body.
        for part in loc.iter().skip(1) {
            let (next, at) = match (part, node.map(|node| &node.value)) {
                (Json::Number(index), Some(Value::List(elements))) => {
                    field.push_str(&format!("[{index}]"));
                    let index = index.as_u64().and_then(|index| usize::try_from(index).ok());
                    let next = index.and_then(|index| elements.get(index));
                    (next, next.map(|next| next.line))
                }
                (Json::String(name), known) => {
                    field.push_str(if field.is_empty() { "" } else { "." });
                    field.push_str(name);
                    let Some(Value::Object(fields)) = known else { break };
                    let next = fields.iter().rfind(|field| field.name == *name);
                    (next.map(|field| &field.node), next.map(|field| field.line))
                }
                _ => break,
            };
            line = at.unwrap_or(line);
            node = next;
        }
        Fault { line, field, what: what.to_owned() }
    }

    /// The line with the byte that was sent as the `column`th.
    fn line_of(&self, column: usize) -> usize {
        let text = String::from_utf8_lossy(&self.bytes);
        let ends: Vec<usize> = text.match_indices('\n').map(|(end, _)| end).collect();
        let sent = |end: usize| compact(text.get(..end).unwrap_or_default().trim_start_matches(BOM)).len();
        1 + ends.partition_point(|end| sent(*end) < column)
    }

    fn tell(&self, faults: &[Fault]) {
        for Fault { line, field, what } in faults {
            let colon = if field.is_empty() { "" } else { ": " };
            let said = format!("{}:{line}: {field}{colon}{what}", self.name);
            // A closed stderr is nobody's loss.
            let _ = writeln!(io::stderr(), "{}", visible(&said));
        }
    }
}

/// Something wrong in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fault {
    line: usize,
    /// As in `sections[0].items[3].item_id`; empty for the whole.
    field: String,
    what: String,
}

// ---------------------------------------------------------------------------------------------------------------
// What an assessment must be.

/// What there is to say of a sound one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Summary {
    id: String,
    id_line: usize,
    sections: usize,
    items: usize,
    limit_s: Option<u64>,
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let counted = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        write!(f, "{}, {}, ", counted(self.sections, "section"), counted(self.items, "item"))?;
        match self.limit_s {
            None => f.write_str("no time limit"),
            Some(limit_s) if limit_s % 60 == 0 => write!(f, "{} min", limit_s / 60),
            Some(limit_s) => f.write_str(&short(limit_s * 1000)),
        }
    }
}

/// Checks a whole file; none where there is nothing to sum up.
fn check(root: &Node<'_>, faults: &mut Vec<Fault>) -> Option<Summary> {
    let mut whole = Form::new(root, String::new(), faults)?;
    whole.knows(&[
        "assessment_id",
        "title",
        "time_limit_seconds",
        "attempt_limit",
        "navigation_mode",
        "grace_seconds",
        "sections",
    ]);
    let id_line = whole.line_of("assessment_id");
    let id = whole.id("assessment_id");
    whole.name("title");
    let limit_s = whole.bound("time_limit_seconds", LIMIT_S);
    whole.bound("attempt_limit", (1, 1000));
    whole.choice("navigation_mode", &["LINEAR", "NON_LINEAR", "HYBRID"]);
    whole.number("grace_seconds", (0, 3600));
    let sections = whole.list("sections");
    let line = whole.line_of("sections");

    let mut ids = Ids::default();
    let mut items = 0;
    for (index, section) in sections.unwrap_or_default().iter().enumerate() {
        items += check_section(section, &format!("sections[{index}]"), &mut ids, faults);
    }
    let mut wrong = |what: String| faults.push(Fault { line, field: "sections".to_owned(), what });
    match items {
        0 if sections.is_some() => wrong("needs at least one item".to_owned()),
        _ if items > ITEMS_MAX => wrong(format!("has {items} items; must be at most {ITEMS_MAX}")),
        _ => {}
    }
    Some(Summary { id: id?, id_line, sections: sections?.len(), items, limit_s })
}

/// Checks a section; how many items it has.
fn check_section<'n>(node: &'n Node<'_>, path: &str, ids: &mut Ids<'n>, faults: &mut Vec<Fault>) -> usize {
    let Some(mut section) = Form::new(node, path.to_owned(), faults) else { return 0 };
    section.knows(&[
        "section_id",
        "name",
        "time_limit_seconds",
        "selection_mode",
        "items_to_select",
        "order_mode",
        "items",
    ]);
    section.unique_id("section_id", &mut ids.sections);
    section.name("name");
    section.bound("time_limit_seconds", LIMIT_S);
    section.choice("selection_mode", &["FIXED", "RANDOM"]);
    section.choice("order_mode", &["SEQUENTIAL", "RANDOM", "SHUFFLE_SECTIONS"]);
    let items = section.list("items").unwrap_or_default();
    if let Some(select) = section.number("items_to_select", (0, u64::from(u32::MAX)))
        && select > items.len() as u64
    {
        section.wrong("items_to_select", format!("is {select}, and the section has {} items", items.len()));
    }
    for (index, item) in items.iter().enumerate() {
        let path = format!("{path}.items[{index}]");
        let Some(mut item) = Form::new(item, path, faults) else { continue };
        item.knows(&["item_id", "content", "metadata"]);
        item.unique_id("item_id", &mut ids.items);
        item.object("content", true);
        item.object("metadata", false);
    }
    items.len()
}

/// The ids that have been seen, and the line of each.
#[derive(Default)]
struct Ids<'n> {
    sections: HashMap<&'n str, usize>,
    items: HashMap<&'n str, usize>,
}

/// An object, field by field; what is wrong goes to the faults.
struct Form<'n, 'f> {
    /// The way to the object; empty for the whole.
    path: String,
    line: usize,
    fields: &'n [Field<'n>],
    faults: &'f mut Vec<Fault>,
}

impl<'n, 'f> Form<'n, 'f> {
    /// None, and a fault, where `node` is no object.
    fn new(node: &'n Node<'_>, path: String, faults: &'f mut Vec<Fault>) -> Option<Form<'n, 'f>> {
        let Value::Object(fields) = &node.value else {
            faults.push(Fault { line: node.line, field: path, what: "must be an object".to_owned() });
            return None;
        };
        Some(Form { path, line: node.line, fields, faults })
    }

    fn field(&self, name: &str) -> Option<&'n Field<'n>> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// The line of a field; of the object, where it lacks it.
    fn line_of(&self, name: &str) -> usize {
        self.field(name).map_or(self.line, |field| field.line)
    }

    fn wrong(&mut self, name: &str, what: impl Into<String>) {
        self.wrong_at(self.line_of(name), name, what);
    }

    fn wrong_at(&mut self, line: usize, name: &str, what: impl Into<String>) {
        let dot = if self.path.is_empty() { "" } else { "." };
        self.faults.push(Fault { line, field: format!("{}{dot}{name}", self.path), what: what.into() });
    }

    /// Every field has one of these names, and no other field has the same. A misspelt limit would be no limit.
    fn knows(&mut self, names: &[&str]) {
        for (index, field) in self.fields.iter().enumerate() {
            let earlier = self.fields.iter().take(index).find(|earlier| earlier.name == field.name);
            if let Some(earlier) = earlier {
                self.wrong_at(field.line, &field.name, format!("is there already, in line {}", earlier.line));
            } else if !names.contains(&field.name.as_str()) {
                self.wrong_at(field.line, &field.name, format!("is no field here; there are {}", names.join(", ")));
            }
        }
    }

    /// The value of a field, unless it has none.
    fn value(&self, name: &str) -> Option<&'n Value<'n>> {
        self.field(name).map(|field| &field.node.value)
    }

    /// A required text of 1..200 characters, none of them a control character.
    fn id(&mut self, name: &str) -> Option<String> {
        self.id_text(name).map(str::to_owned)
    }

    fn id_text(&mut self, name: &str) -> Option<&'n str> {
        match self.value(name) {
            None => self.wrong(name, "is missing"),
            Some(Value::Text(text)) if !(1..=ID_CHARS_MAX).contains(&text.chars().count()) => {
                self.wrong(name, format!("must have 1..{ID_CHARS_MAX} characters"));
            }
            Some(Value::Text(text)) if text.chars().any(char::is_control) => {
                self.wrong(name, "must have no control characters");
            }
            Some(Value::Text(text)) => return Some(text),
            Some(_) => self.wrong(name, "must be a text"),
        }
        None
    }

    /// The same, which nothing that was `seen` before has.
    fn unique_id(&mut self, name: &str, seen: &mut HashMap<&'n str, usize>) {
        let line = self.line_of(name);
        if let Some(id) = self.id_text(name)
            && let Some(first) = seen.insert(id, line)
        {
            self.wrong(name, format!("'{id}' is there already, in line {first}"));
        }
    }

    /// A text of 0..200 characters, if there is one.
    fn name(&mut self, name: &str) {
        match self.value(name) {
            Some(Value::Text(text)) if text.chars().count() > NAME_CHARS_MAX => {
                self.wrong(name, format!("must have at most {NAME_CHARS_MAX} characters"));
            }
            Some(Value::Text(_)) | None => {}
            Some(_) => self.wrong(name, "must be a text"),
        }
    }

    /// A whole number, if there is one; `null` is like none.
    fn number(&mut self, name: &str, (min, max): (u64, u64)) -> Option<u64> {
        let value = self.value(name).filter(|value| **value != Value::Null)?;
        let number = match value {
            Value::Number(text) => whole(text),
            _ => None,
        };
        let number = number.filter(|number| (min..=max).contains(number));
        if number.is_none() {
            self.wrong(name, format!("must be a whole number, {min}..{max}"));
        }
        number
    }

    /// The same, where none means without bound.
    fn bound(&mut self, name: &str, (min, max): (u64, u64)) -> Option<u64> {
        let faults = self.faults.len();
        let number = self.number(name, (min, max));
        for fault in self.faults.iter_mut().skip(faults) {
            fault.what.push_str(", or null for none");
        }
        number
    }

    /// One of some words, if there is one; `null` is like none.
    fn choice(&mut self, name: &str, words: &[&str]) {
        match self.value(name) {
            None | Some(Value::Null) => {}
            Some(Value::Text(word)) if words.contains(&word.as_str()) => {}
            Some(Value::Text(word)) if word == "ADAPTIVE" => {
                self.wrong(name, format!("ADAPTIVE is not supported; must be {}", either(words)));
            }
            Some(_) => self.wrong(name, format!("must be {}", either(words))),
        }
    }

    /// A required list.
    fn list(&mut self, name: &str) -> Option<&'n [Node<'n>]> {
        match self.value(name) {
            Some(Value::List(elements)) => return Some(elements),
            Some(_) => self.wrong(name, "must be a list"),
            None => self.wrong(name, "is missing"),
        }
        None
    }

    fn object(&mut self, name: &str, is_required: bool) {
        match self.value(name) {
            Some(Value::Object(_)) => {}
            Some(Value::Null) if !is_required => {}
            Some(_) => self.wrong(name, "must be an object"),
            None if is_required => self.wrong(name, "is missing"),
            None => {}
        }
    }
}

/// A number without a sign or a fraction that is not zero; `60.0` is whole, too, as the server has it.
fn whole(text: &str) -> Option<u64> {
    let plain = text.split_once('.').filter(|(_, rest)| rest.bytes().all(|byte| byte == b'0'));
    plain.map_or(text, |(plain, _)| plain).parse().ok()
}

/// `A, B or C`.
fn either(words: &[&str]) -> String {
    match words {
        [some @ .., last] if !some.is_empty() => format!("{} or {last}", some.join(", ")),
        words => words.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn source(text: &str) -> Source {
        Source { name: "a.json".to_owned(), bytes: text.as_bytes().to_vec(), body: compact(text) }
    }

    /// Every fault, as it is said.
    fn faults(text: &str) -> Vec<String> {
        let faults = source(text).check().map(|(_, summary)| summary).unwrap_err();
        faults.iter().map(|fault| format!("{}: {}: {}", fault.line, fault.field, fault.what)).collect()
    }

    /// An assessment of one item, with `fields` in line 2, `section` in line 4 and `item` in line 6.
    fn with(fields: &str, section: &str, item: &str) -> String {
        let id = if fields.contains("assessment_id") { "" } else { "\"assessment_id\":\"m\"," };
        format!(
            "{{{id}\n{fields}\n\"sections\":[{{\"section_id\":\"s\",\n{section}\n\"items\":[{{\"item_id\":\"i\",\
             \"content\":{{}}\n{item}\n}}]}}]}}"
        )
    }

    #[test]
    fn what_may_be_left_out_and_what_is_summed_up() {
        let summary = |text: &str| {
            let source = source(text);
            let (_, summary) = source.check().map_err(|faults| panic!("{faults:?}")).unwrap();
            format!("{} {summary}", summary.id)
        };
        assert_eq!(summary(&with("", "", "")), "m 1 section, 1 item, no time limit");
        let all = "\"title\":\"\",\"time_limit_seconds\":3600.0,\"attempt_limit\":null,\"grace_seconds\":null,\
                   \"navigation_mode\":\"HYBRID\",";
        let section = "\"name\":\"é\",\"time_limit_seconds\":null,\"selection_mode\":\"RANDOM\",\
                       \"items_to_select\":1,\"order_mode\":\"SHUFFLE_SECTIONS\",";
        assert_eq!(summary(&with(all, section, ",\"metadata\":null")), "m 1 section, 1 item, 60 min");
        assert_eq!(summary(&with("\"time_limit_seconds\":86399,", "", "")), "m 1 section, 1 item, 23:59:59");
    }

    #[test]
    fn every_fault_names_its_line_and_field() {
        for (fields, fault) in [
            ("\"assessment_id\":\"\",", "assessment_id: must have 1..200 characters"),
            ("\"assessment_id\":\"a\\tb\",", "assessment_id: must have no control characters"),
            ("\"assessment_id\":7,", "assessment_id: must be a text"),
            ("\"title\":null,", "title: must be a text"),
            ("\"time_limit_seconds\":0,", "time_limit_seconds: must be a whole number, 1..86400, or null for none"),
            (
                "\"time_limit_seconds\":86401,",
                "time_limit_seconds: must be a whole number, 1..86400, or null for none",
            ),
            (
                "\"time_limit_seconds\":\"60\",",
                "time_limit_seconds: must be a whole number, 1..86400, or null for none",
            ),
            ("\"attempt_limit\":1.5,", "attempt_limit: must be a whole number, 1..1000, or null for none"),
            ("\"grace_seconds\":3601,", "grace_seconds: must be a whole number, 0..3600"),
            ("\"grace_seconds\":-1,", "grace_seconds: must be a whole number, 0..3600"),
            ("\"navigation_mode\":\"linear\",", "navigation_mode: must be LINEAR, NON_LINEAR or HYBRID"),
            (
                "\"navigation_mode\":\"ADAPTIVE\",",
                "navigation_mode: ADAPTIVE is not supported; must be LINEAR, NON_LINEAR or HYBRID",
            ),
            ("\"title\":\"a\",\"title\":\"b\",", "title: is there already, in line 2"),
        ] {
            assert_eq!(faults(&with(fields, "", "")), [format!("2: {fault}")], "{fields}");
        }
        let said = faults(&with("\"time_limit\":60,", "", ""));
        assert!(said.len() == 1 && said[0].starts_with("2: time_limit: is no field here; there are "), "{said:?}");
        for (section, fault) in [
            ("\"name\":{},", "name: must be a text"),
            ("\"time_limit_seconds\":-5,", "time_limit_seconds: must be a whole number, 1..86400, or null for none"),
            (
                "\"selection_mode\":\"ADAPTIVE\",",
                "selection_mode: ADAPTIVE is not supported; must be FIXED or RANDOM",
            ),
            ("\"order_mode\":1,", "order_mode: must be SEQUENTIAL, RANDOM or SHUFFLE_SECTIONS"),
            ("\"items_to_select\":2,", "items_to_select: is 2, and the section has 1 items"),
        ] {
            assert_eq!(faults(&with("", section, "")), [format!("4: sections[0].{fault}")], "{section}");
        }
        for (item, fault) in
            [(",\"metadata\":7", "metadata: must be an object"), (",\"metadata\":[]", "metadata: must be an object")]
        {
            assert_eq!(faults(&with("", "", item)), [format!("6: sections[0].items[0].{fault}")], "{item}");
        }
        let long = format!("\"title\":\"{}\",", "é".repeat(201));
        assert_eq!(faults(&with(&long, "", "")), ["2: title: must have at most 200 characters"]);
        let long = format!("\"assessment_id\":\"{}\",", "é".repeat(201));
        assert_eq!(faults(&with(&long, "", "")), ["2: assessment_id: must have 1..200 characters"]);
    }

    #[test]
    fn what_is_missing_is_said_where_it_is_missed() {
        assert_eq!(faults("\n{}"), ["2: assessment_id: is missing", "2: sections: is missing"]);
        assert_eq!(faults("\n[]"), ["2: : must be an object"]);
        assert_eq!(
            faults("{\"assessment_id\":\"m\",\n\"sections\":[\n{},\n7,\n{\"section_id\":\"s\",\"items\":[\n{},3]}]}"),
            [
                "3: sections[0].section_id: is missing",
                "3: sections[0].items: is missing",
                "4: sections[1]: must be an object",
                "6: sections[2].items[0].item_id: is missing",
                "6: sections[2].items[0].content: is missing",
                "6: sections[2].items[1]: must be an object",
            ]
        );
        let empty = "{\"assessment_id\":\"m\",\n\"sections\":[{\"section_id\":\"s\",\"items\":[]}]}";
        assert_eq!(faults(empty), ["2: sections: needs at least one item"]);
    }

    #[test]
    fn ids_are_there_once_in_the_whole_assessment() {
        let item = |id: &str| format!("\n{{\"item_id\":\"{id}\",\"content\":{{}}}}");
        let section = |id: &str, items: &[&str]| {
            let items: Vec<String> = items.iter().map(|id| item(id)).collect();
            format!("\n{{\"section_id\":\"{id}\",\"items\":[{}]}}", items.join(","))
        };
        let sections = [section("a", &["x", "y"]), section("b", &["a", "x"]), section("a", &["z"])].join(",");
        assert_eq!(
            faults(&format!("{{\"assessment_id\":\"a\",\"sections\":[{sections}]}}")),
            [
                "7: sections[1].items[1].item_id: 'x' is there already, in line 3",
                "8: sections[2].section_id: 'a' is there already, in line 2"
            ]
        );
    }

    #[test]
    fn sizes_are_checked_as_they_are_sent() {
        let assessment = |items: usize, content: &str| {
            let items: Vec<String> =
                (0..items).map(|n| format!("{{\"item_id\":\"i{n}\",\"content\":{{{content}}}}}")).collect();
            format!(
                "{{\"assessment_id\":\"m\",\n\"sections\":[{{\"section_id\":\"s\",\"items\":[{}]}}]}}",
                items.join(",")
            )
        };
        assert!(source(&assessment(500, "")).check().is_ok());
        assert_eq!(faults(&assessment(501, "")), ["2: sections: has 501 items; must be at most 500"]);
        // Space between tokens is not sent.
        assert!(source(&assessment(500, &" \n".repeat(3_000))).check().is_ok());
        let large = faults(&assessment(500, &format!("\"a\":\"{}\"", "x".repeat(2_200))));
        assert!(large.len() == 1 && large[0].starts_with("1: : is 11"), "{large:?}");
        assert!(large[0].ends_with(" bytes of JSON; must be at most 1048576"), "{large:?}");
    }

    #[test]
    fn the_servers_faults_are_brought_back_to_their_lines() {
        let text = with("\"title\":\"t\",", "\"name\":\"n\",", ",\"metadata\":{\"points\":1}");
        let source = source(&text);
        let (root, _) = source.check().map_err(|faults| panic!("{faults:?}")).unwrap();
        for (loc, line, field) in [
            (json!(["body"]), 1, ""),
            (json!(["body", "title"]), 2, "title"),
            (json!(["body", "sections"]), 3, "sections"),
            (json!(["body", "sections", 0, "name"]), 4, "sections[0].name"),
            (json!(["body", "sections", 0, "order_mode"]), 3, "sections[0].order_mode"),
            (json!(["body", "sections", 0, "items", 0, "metadata", "x"]), 6, "sections[0].items[0].metadata.x"),
            (json!(["body", "sections", 9, "name"]), 3, "sections[9].name"),
            (json!(["body", 7]), 1, ""),
            (json!("x"), 1, ""),
        ] {
            let fault = source.fault_of_server(&json!({ "loc": loc, "msg": "no" }), &root);
            assert_eq!((fault.line, &*fault.field, &*fault.what), (line, field, "no"), "{loc}");
        }
        // Of what it takes for no JSON it knows the column alone, in what was sent.
        for (found, line) in [("{", 1), (",\"title\"", 1), ("\"title\"", 2), ("\"s\",", 3), ("points", 6)] {
            let column = source.body.find(found).unwrap() + 1;
            let msg = format!("JSON decode error: recursion limit exceeded at line 1 column {column}");
            let fault = json!({ "type": "json_invalid", "loc": ["body", column], "msg": msg });
            let expected = "JSON decode error: recursion limit exceeded".to_owned();
            assert_eq!(
                source.fault_of_server(&fault, &root),
                Fault { line, field: String::new(), what: expected },
                "{found}"
            );
        }
    }
}
