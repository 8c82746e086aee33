//! The keys file: who may do what.
//!
//! Owns the format of the file (`name:role:sha256` a line), the roles, the comparison of what a caller presents with
//! what is stored, and the making of a new key. It reads the one file it is told to read; it must not know the
//! environment, HTTP, or which call needs which role.
//!
//! Invariants: a key itself is never stored, only its SHA-256; names and keys are unique, so that a key names one
//! actor in the history; a comparison looks at every entry and every byte, however early it has matched, so that its
//! duration tells nothing; a file with one bad line is refused as a whole, so that a reload never drops half of the
//! keys.

use std::fmt;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};

use crate::clock::WallMs;

/// The key names that stand for no key in the history, and the name of the key in `API_KEY`.
const NAMES_RESERVED: [&str; 4] = ["anonymous", "schedule", "timerd", API_KEY_NAME];
/// The name under which the key in the `API_KEY` variable acts.
pub const API_KEY_NAME: &str = "api-key";
/// Characters of a key's name.
const NAME_CHARS_MAX: usize = 64;
/// Bytes of a keys file: some 10,000 keys. Every request with a key is compared with each of them.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// What a generated key begins with, so that a leaked one is recognised for what it is.
const KEY_PREFIX: &str = "tk_";

/// What the holder of a key may do; a greater role includes the smaller ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Reads one timer, its stream and its socket, and sits an exam.
    Viewer,
    /// Also does everything with timers and exams, and publishes, reads and follows events.
    Instructor,
    /// Also reads metrics and deletes events.
    Admin,
}

impl Role {
    /// The role's name in the keys file.
    pub const fn name(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Instructor => "instructor",
            Role::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Role, Self::Err> {
        match text {
            "viewer" => Ok(Role::Viewer),
            "instructor" => Ok(Role::Instructor),
            "admin" => Ok(Role::Admin),
            _ => Err("must be viewer, instructor or admin"),
        }
    }
}

/// Where keys come from.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct KeySource {
    /// The keys file, if there is one.
    pub file: Option<PathBuf>,
    /// The key from the `API_KEY` variable, if there is one: an admin's.
    pub api_key: Option<String>,
}

impl fmt::Debug for KeySource {
    /// Keeps the key itself out of every log and panic message.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let api_key = self.api_key.as_ref().map(|_| "(hidden)");
        f.debug_struct("KeySource").field("file", &self.file).field("api_key", &api_key).finish()
    }
}

/// A line of the keys file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFileError {
    /// The line's number, counted from 1.
    pub line: usize,
    /// What is wrong with it; never repeats a key or its hash.
    pub what: String,
}

impl fmt::Display for KeyFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

impl std::error::Error for KeyFileError {}

/// The file that keys were read from, for the log line of a reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFile {
    /// Its path, as configured.
    pub path: PathBuf,
    /// When it was last written; subtract it from the wall clock for its age.
    pub modified: WallMs,
    /// Whether users other than its owner and group may read it, which deserves a warning: hashes of generated keys
    /// tell nothing, but hashes of chosen ones can be guessed at.
    pub readable_by_others: bool,
}

/// The keys in force.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    entries: Vec<Entry>,
    /// The file they were read from; none when there is no file.
    pub file: Option<KeyFile>,
}

#[derive(Clone)]
struct Entry {
    name: Arc<str>,
    role: Role,
    sha256: [u8; 32],
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.role)
    }
}

impl Keys {
    /// Reads the text of a keys file: one `name:role:sha256` a line, the hash in hexadecimal, `#` beginning a comment
    /// line, blank lines between.
    ///
    /// # Errors
    /// The first line that is not of that form, or repeats a name or a key.
    pub fn parse(text: &str) -> Result<Keys, KeyFileError> {
        let mut entries: Vec<Entry> = Vec::new();
        // Editors of other systems put a byte order mark before the first line.
        for (index, line) in text.strip_prefix('\u{feff}').unwrap_or(text).lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let entry = parse_line(line).map_err(|what| KeyFileError { line: index + 1, what })?;
            if let Some(twin) = entries.iter().find(|e| e.name == entry.name || e.sha256 == entry.sha256) {
                let what = if twin.name == entry.name {
                    format!("the name '{}' is used twice", entry.name)
                } else {
                    format!("'{}' has the same key as '{}'", entry.name, twin.name)
                };
                return Err(KeyFileError { line: index + 1, what });
            }
            entries.push(entry);
        }
        Ok(Keys { entries, file: None })
    }

    /// These keys and one more: an admin's, named [`API_KEY_NAME`]. A key that the file has too keeps the name and
    /// the role it has there.
    #[must_use]
    pub fn with_api_key(mut self, plain: &str) -> Keys {
        if self.find(plain.as_bytes()).is_none() {
            let name = Arc::from(API_KEY_NAME);
            self.entries.push(Entry { name, role: Role::Admin, sha256: sha256(plain.as_bytes()) });
        }
        self
    }

    /// Whose key `presented` is: the name and the role, or none when it is nobody's.
    ///
    /// Takes the same time for every answer: the hash is compared with every entry, byte for byte, and the match is
    /// kept by selection, not by a branch.
    pub fn find(&self, presented: &[u8]) -> Option<(&Arc<str>, Role)> {
        let sha256 = sha256(presented);
        // One more than the index of the match, 0 while there is none.
        let mut place = 0_u64;
        for (entry, at) in self.entries.iter().zip(1_u64..) {
            place.conditional_assign(&at, entry.sha256.ct_eq(&sha256));
        }
        let index = usize::try_from(place.checked_sub(1)?).ok()?;
        self.entries.get(index).map(|entry| (&entry.name, entry.role))
    }

    /// Whether there is no key at all.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }
}

/// Reads the keys that `source` names: those of the file, if any, and the one of the variable, if any.
///
/// # Errors
/// One line that names the file, and the line in it, with what is wrong. Nothing is taken from a file with an error.
pub fn load(source: &KeySource) -> Result<Keys, String> {
    let mut keys = Keys::default();
    if let Some(path) = &source.file {
        let (text, file) = read(path).map_err(|what| format!("keys file {}: {what}", path.display()))?;
        keys = Keys::parse(&text).map_err(|error| format!("keys file {}, {error}", path.display()))?;
        keys.file = Some(file);
    }
    Ok(match &source.api_key {
        Some(plain) => keys.with_api_key(plain),
        None => keys,
    })
}

/// Checks the name of a key: 1 to 64 of `A-Z a-z 0-9 _ . -`, and none that the history uses for itself.
///
/// # Errors
/// What is allowed, to be put behind the name.
pub fn check_name(name: &str) -> Result<(), String> {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.chars().all(known) {
        return Err(format!("must be 1..{NAME_CHARS_MAX} of the characters A-Z a-z 0-9 _ . -"));
    }
    if NAMES_RESERVED.contains(&name) {
        return Err("is reserved, choose another name".to_owned());
    }
    Ok(())
}

/// Makes a key from 32 random bytes: the key itself, to be given to its holder, and its line for the keys file.
pub fn generate(name: &str, role: Role, random: [u8; 32]) -> (String, String) {
    let key = format!("{KEY_PREFIX}{}", hex(&random));
    let line = format!("{name}:{role}:{}", hex(&sha256(key.as_bytes())));
    (key, line)
}

/// What `timerd key new` prints: the key, its line, and what to do with them.
pub fn announcement(key: &str, line: &str) -> String {
    format!(
        "key:   {key}\nline:  {line}\n\nGive the key to its holder now, for it cannot be shown again; add the line \
         to the keys file and send timerd a SIGHUP (under systemd: restart it).\n"
    )
}

fn read(path: &Path) -> Result<(String, KeyFile), String> {
    // Looked at before it is opened: opening a FIFO would wait for its writer.
    let metadata = std::fs::metadata(path).map_err(|error| reason(&error))?;
    if !metadata.is_file() {
        return Err("is not a regular file".to_owned());
    }
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| reason(&error))?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| reason(&error))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("is longer than {FILE_BYTES_MAX} bytes"));
    }
    let written = metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let modified = WallMs::default() + written;
    let readable_by_others = metadata.permissions().mode() & 0o004 != 0;
    Ok((text, KeyFile { path: path.to_owned(), modified, readable_by_others }))
}

fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "does not exist".to_owned(),
        std::io::ErrorKind::PermissionDenied => "may not be read by this user".to_owned(),
        std::io::ErrorKind::InvalidData => "is not UTF-8 text".to_owned(),
        _ => error.to_string(),
    }
}

fn parse_line(line: &str) -> Result<Entry, String> {
    let mut fields = line.split(':');
    let (Some(name), Some(role), Some(hash), None) = (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err("must be name:role:sha256".to_owned());
    };
    check_name(name).map_err(|what| format!("name {name:?} {what}"))?;
    let role = role.parse().map_err(|what| format!("role {role:?} {what}"))?;
    // The hash is not repeated: a plain key put there by mistake must not end up in a log.
    let sha256 = from_hex(hash).ok_or("the hash must be 64 hexadecimal digits (timerd key new makes the line)")?;
    Ok(Entry { name: Arc::from(name), role, sha256 })
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).filter_map(|d| char::from_digit(d.into(), 16)).collect()
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let bytes: Vec<u8> = digits?.chunks(2).map(|pair| pair.iter().fold(0, |sum, digit| sum << 4 | digit)).collect();
    if text.len() == 64 { bytes.try_into().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of "abc", FIPS 180-2 appendix B.1.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    /// SHA-256 of the empty string.
    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn fault(text: &str) -> String {
        Keys::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn a_file_with_comments_and_blank_lines() {
        let text =
            format!("\u{feff}# room 1\n\n  ann:instructor:{ABC}\r\n\tbob.b-b_2:viewer:{}\n", EMPTY.to_uppercase());
        let keys = Keys::parse(&text).unwrap();
        assert_eq!(keys.len(), 2);
        let (name, role) = keys.find(b"abc").unwrap();
        assert_eq!((&**name, role), ("ann", Role::Instructor));
        assert_eq!(keys.find(b"").unwrap().1, Role::Viewer);
        assert!(keys.find(b"abd").is_none());
        assert!(keys.find(ABC.as_bytes()).is_none(), "the hash is not the key");
        assert!(Keys::parse("# nothing\n").unwrap().is_empty());
    }

    #[test]
    fn a_bad_line_is_named_and_never_repeats_the_hash() {
        assert_eq!(fault("\nann:admin"), "line 2: must be name:role:sha256");
        assert_eq!(fault(&format!("a:admin:{ABC}:x")), "line 1: must be name:role:sha256");
        assert_eq!(fault(&format!("a:root:{ABC}")), "line 1: role \"root\" must be viewer, instructor or admin");
        assert!(fault("a:admin:secret").starts_with("line 1: the hash must be 64"));
        assert!(!fault("a:admin:secret").contains("secret"));
        assert!(fault(&format!("a:admin:{}é", &ABC[..62])).contains("64"));
        assert!(fault(&format!("a:admin:{ABC}00")).contains("64"));
        assert!(fault(&format!(":admin:{ABC}")).contains("1..64"));
        assert!(fault(&format!("{}:admin:{ABC}", "x".repeat(65))).contains("1..64"));
        assert!(fault(&format!("a b:admin:{ABC}")).contains("1..64"));
        for name in NAMES_RESERVED {
            assert_eq!(
                fault(&format!("{name}:admin:{ABC}")),
                format!("line 1: name \"{name}\" is reserved, choose another name")
            );
        }
        assert_eq!(fault(&format!("a:admin:{ABC}\na:viewer:{EMPTY}")), "line 2: the name 'a' is used twice");
        assert_eq!(fault(&format!("a:admin:{ABC}\nb:viewer:{ABC}")), "line 2: 'b' has the same key as 'a'");
    }

    #[test]
    fn the_variable_adds_an_admin() {
        let keys = Keys::parse(&format!("ann:viewer:{ABC}")).unwrap().with_api_key("s3cret").with_api_key("abc");
        assert_eq!(keys.len(), 2);
        assert_eq!(keys.find(b"s3cret").map(|(name, role)| (&**name, role)), Some((API_KEY_NAME, Role::Admin)));
        assert_eq!(keys.find(b"abc").map(|(name, role)| (&**name, role)), Some(("ann", Role::Viewer)));
    }

    #[test]
    fn a_generated_key_is_found_by_its_line() {
        let (key, line) = generate("ann", Role::Instructor, [0xa5; 32]);
        assert_eq!(key, format!("tk_{}", "a5".repeat(32)));
        assert!(!line.contains(&key));
        let keys = Keys::parse(&line).unwrap();
        assert_eq!(keys.find(key.as_bytes()).map(|(name, role)| (&**name, role)), Some(("ann", Role::Instructor)));
        assert!(announcement(&key, &line).contains(&key));
    }

    #[test]
    fn loading_names_the_file_and_the_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let source = KeySource { file: Some(path.clone()), api_key: Some("x".to_owned()) };
        assert_eq!(load(&source).unwrap_err(), format!("keys file {}: does not exist", path.display()));
        std::fs::write(&path, format!("ann:viewer:{ABC}\n")).unwrap();
        for (mode, open) in [(0o600, false), (0o640, false), (0o644, true)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let keys = load(&source).unwrap();
            assert_eq!(keys.len(), 2);
            let file = keys.file.unwrap();
            assert_eq!(file.readable_by_others, open);
            assert!(file.modified.ms() > 1_600_000_000_000);
        }
        std::fs::write(&path, "ann\n").unwrap();
        let what = format!("keys file {}, line 1: must be name:role:sha256", path.display());
        assert_eq!(load(&source).unwrap_err(), what);
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(load(&source).unwrap_err().ends_with("is not UTF-8 text"));
        let folder_as_file = KeySource { file: Some(folder.path().to_owned()), api_key: None };
        assert!(load(&folder_as_file).unwrap_err().ends_with("is not a regular file"));
        assert!(load(&KeySource::default()).unwrap().is_empty());
        assert!(!format!("{source:?}").contains('x'.to_string().repeat(2).as_str()));
    }

    #[test]
    fn roles_include_each_other() {
        assert!(Role::Viewer < Role::Instructor && Role::Instructor < Role::Admin);
        for role in [Role::Viewer, Role::Instructor, Role::Admin] {
            assert_eq!(role.name().parse(), Ok(role));
        }
        assert!("Admin".parse::<Role>().is_err());
    }
}
