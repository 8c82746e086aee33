//! Pages, their scripts and styles, and the documentation: files that are part of the binary.
//!
//! Owns the list of files, their media types, their compressed forms and entity tags, and which form a browser gets
//! (RFC 9110, sections 8.8.3, 12.5.3 and 13.1.2). It knows no service: whether the id in `/timer/{id}` exists, the
//! page finds out itself.
//!
//! Invariants: what is sent depends on the request's head alone. The two forms of a file have two tags, and every
//! answer says that it depends on `Accept-Encoding`. A file is compressed once in the life of the process, never for a
//! request. A browser asks again each time (`no-cache`), so that nobody sees the pages of yesterday's daemon, and gets
//! 304 while nothing has changed.
//!
//! A new file is one line in `FILES`. A page also needs its path in [`crate::api::routes`].

use std::io::Write;
use std::sync::LazyLock;

use flate2::{Compression, write::GzEncoder};
use sha2::{Digest, Sha256};

use crate::api::answer::{JSON, document, error_text};
use crate::wire::http::{Body, Head, Response};

/// A line of `FILES`.
macro_rules! file {
    ($path:literal) => {
        ($path, include_bytes!(concat!("../web/", $path)))
    };
}

/// Every file, by its path in `src/web/`.
const FILES: &[(&str, &[u8])] = &[
    file!("docs.html"),
    file!("docs.css"),
    file!("docs.js"),
    file!("openapi.json"),
    file!("pages/api.js"),
    file!("pages/clock.js"),
    file!("pages/console.html"),
    file!("pages/console.js"),
    file!("pages/exam.html"),
    file!("pages/exam.js"),
    file!("pages/exams.js"),
    file!("pages/feed.js"),
    file!("pages/icon.svg"),
    file!("pages/index.html"),
    file!("pages/index.js"),
    file!("pages/line.js"),
    file!("pages/parts.js"),
    file!("pages/room.html"),
    file!("pages/room.js"),
    file!("pages/speak.js"),
    file!("pages/style.css"),
    file!("pages/timer.html"),
    file!("pages/timer.js"),
    file!("pages/wall.html"),
    file!("pages/wall.js"),
];

/// Compressed forms and tags, in the order of `FILES`.
static FORMS: LazyLock<Vec<Forms>> = LazyLock::new(|| FILES.iter().map(|(_, bytes)| Forms::of(bytes)).collect());

/// Compresses every file, so that no request has to wait for it.
pub fn prepare() {
    LazyLock::force(&FORMS);
}

/// The file at `path` in `src/web/`, or 304 for a browser that has it. 404 where there is none.
pub fn file(path: &str, head: &Head) -> Response {
    let Some(at) = FILES.iter().position(|(known, _)| *known == path) else {
        return error_text(404, "Not Found");
    };
    let (bytes, forms) = (FILES[at].1, &FORMS[at]);
    let compressed = forms.gzip.len() < bytes.len() && accepts_gzip(head);
    let mut response = document(media_type(path), if compressed { &forms.gzip } else { bytes });
    let tag = if compressed { format!("\"{}-gzip\"", forms.digest) } else { format!("\"{}\"", forms.digest) };
    if has(head, &tag) {
        response = Response { status: 304, headers: Vec::new(), content_type: None, body: Body::Empty };
    } else if compressed {
        response = response.with("Content-Encoding", "gzip".to_owned());
    }
    response.with("ETag", tag).with("Cache-Control", "no-cache".to_owned()).with("Vary", "Accept-Encoding".to_owned())
}

/// What a page loads: the file `/pages/{name}`. Pages themselves have paths of their own.
pub fn part(name: &str, head: &Head) -> Response {
    if name.ends_with(".html") { error_text(404, "Not Found") } else { file(&format!("pages/{name}"), head) }
}

/// What is made of a file at start.
struct Forms {
    /// The file, compressed.
    gzip: Vec<u8>,
    /// The beginning of the file's SHA-256, in hexadecimal: equal for equal bytes, whoever built the binary.
    digest: String,
}

impl Forms {
    fn of(bytes: &[u8]) -> Forms {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        // Writing to memory does not fail. If it did, the file would be longer than the original, and never chosen.
        let gzip = encoder.write_all(bytes).and_then(|()| encoder.finish()).unwrap_or_else(|_| bytes.to_vec());
        let digest = Sha256::digest(bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Forms { gzip, digest }
    }
}

fn media_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map_or("", |(_, ending)| ending) {
        "html" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "svg" => "image/svg+xml",
        "json" => JSON,
        _ => "application/octet-stream",
    }
}

/// Whether gzip may be sent (RFC 9110, section 12.5.3): it is named, or `*` is and it is not, without a weight of 0.
fn accepts_gzip(head: &Head) -> bool {
    let weight = |coding: &str| {
        head.headers("accept-encoding").flat_map(|field| field.split(',')).find_map(|member| {
            let mut parts = member.split(';').map(str::trim);
            let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(coding));
            let q = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
            named.then(|| q.map_or(1.0, |q| q.parse().unwrap_or(0.0)))
        })
    };
    let weights = [weight("gzip"), weight("x-gzip"), weight("*")];
    weights.into_iter().flatten().next().is_some_and(|weight: f32| weight > 0.0)
}

/// Whether `If-None-Match` names `tag` (RFC 9110, section 13.1.2: weakly compared, since a proxy may have weakened it).
fn has(head: &Head, tag: &str) -> bool {
    head.headers("if-none-match")
        .flat_map(|field| field.split(','))
        .map(str::trim)
        .any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::wire::http::{Decoder, Input};

    fn head(fields: &str) -> Head {
        let mut decoder = Decoder::new();
        decoder.push(format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n").as_bytes());
        match decoder.next(|_| 0) {
            Some(Input::Request(request)) => request.head,
            other => panic!("{other:?}"),
        }
    }

    fn field<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
        response.headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    #[test]
    fn every_file_of_the_folder_is_part_of_the_binary() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/src/web/");
        for folder in ["", "pages/"] {
            for entry in std::fs::read_dir(format!("{root}{folder}")).unwrap() {
                let entry = entry.unwrap();
                let path = format!("{folder}{}", entry.file_name().to_str().unwrap());
                let listed = FILES.iter().any(|(known, _)| *known == path);
                assert!(listed || entry.path().is_dir(), "{path} is not in the list of files");
            }
        }
    }

    #[test]
    fn a_file_comes_compressed_to_those_who_can_read_it() {
        let plain = file("pages/style.css", &head(""));
        assert_eq!((plain.status, plain.content_type), (200, Some("text/css; charset=utf-8")));
        assert_eq!(plain.body.as_bytes(), include_bytes!("../web/pages/style.css"));
        assert_eq!(field(&plain, "Content-Encoding"), None);
        let packed = file("pages/style.css", &head("Accept-Encoding: br, gzip\r\n"));
        assert_eq!(field(&packed, "Content-Encoding"), Some("gzip"));
        let mut text = Vec::new();
        flate2::read::GzDecoder::new(packed.body.as_bytes()).read_to_end(&mut text).unwrap();
        assert_eq!(text, plain.body.as_bytes());
        assert_ne!(field(&plain, "ETag"), field(&packed, "ETag"), "two forms, two tags");
        for response in [&plain, &packed] {
            assert_eq!(field(response, "Vary"), Some("Accept-Encoding"));
            assert_eq!(field(response, "Cache-Control"), Some("no-cache"));
        }
    }

    #[test]
    fn weights_decide_on_compression() {
        for (accepted, gzip) in [
            ("gzip", true),
            ("GZIP;q=0.1, br", true),
            ("*", true),
            ("x-gzip", true),
            ("gzip ; Q=1", true),
            ("gzip;q=0, *", false),
            ("gzip;q=0.0", false),
            ("*;q=0", false),
            ("br, deflate", false),
            ("gzipped", false),
            ("", false),
        ] {
            assert_eq!(accepts_gzip(&head(&format!("Accept-Encoding: {accepted}\r\n"))), gzip, "{accepted}");
        }
        assert!(accepts_gzip(&head("Accept-Encoding: br\r\nAccept-Encoding: gzip\r\n")));
    }

    #[test]
    fn whoever_has_the_file_gets_304() {
        for accepted in ["", "Accept-Encoding: gzip\r\n"] {
            let first = file("pages/line.js", &head(accepted));
            let tag = field(&first, "ETag").unwrap();
            for known in [tag.to_owned(), format!("W/{tag}"), format!("\"x\", {tag}"), "*".to_owned()] {
                let again = file("pages/line.js", &head(&format!("{accepted}If-None-Match: {known}\r\n")));
                assert_eq!((again.status, &again.body), (304, &Body::Empty), "{known}");
                assert_eq!(field(&again, "ETag"), Some(tag));
                assert_eq!(field(&again, "Vary"), Some("Accept-Encoding"));
                assert_eq!(field(&again, "Content-Encoding"), None);
            }
            let other = file("pages/line.js", &head(&format!("{accepted}If-None-Match: \"x\", x\r\n")));
            assert_eq!(other.status, 200);
        }
        let tag = field(&file("pages/line.js", &head("")), "ETag").unwrap().to_owned();
        let other_form = head(&format!("Accept-Encoding: gzip\r\nIf-None-Match: {tag}\r\n"));
        assert_eq!(file("pages/line.js", &other_form).status, 200, "the tag of the other form");
    }

    #[test]
    fn names_lead_to_parts_of_pages_and_nowhere_else() {
        assert_eq!(part("clock.js", &head("")).content_type, Some("text/javascript; charset=utf-8"));
        assert_eq!(part("icon.svg", &head("")).content_type, Some("image/svg+xml"));
        for name in ["", "index.html", "../docs.js", "clock", "clock.js/", "CLOCK.JS", "%63lock.js"] {
            assert_eq!(part(name, &head("")).status, 404, "{name}");
        }
    }

    #[test]
    fn pages_load_what_is_here_and_have_no_inline_code() {
        let quoted = |text: &'static str, mark: &'static str, end: char| {
            text.split(mark).skip(1).map(move |rest| rest.split(end).next().unwrap())
        };
        let listed = |path: &str| FILES.iter().any(|(known, _)| *known == path);
        let mut loads = 0;
        for (path, bytes) in FILES.iter().filter(|(path, _)| path.starts_with("pages/")) {
            let text = std::str::from_utf8(bytes).unwrap();
            let mut targets: Vec<String> = quoted(text, "=\"/pages/", '"').map(str::to_owned).collect();
            if path.ends_with(".js") {
                targets.extend(quoted(text, " from '", '\'').map(|name| name.strip_prefix("./").unwrap().to_owned()));
            }
            for target in &targets {
                assert!(listed(&format!("pages/{target}")), "{path} loads {target}, which is not here");
            }
            loads += targets.len();
            let foreign = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!foreign.contains("http://") && !foreign.contains("https://"), "{path} names another host");
            if path.ends_with(".html") {
                for word in ["<style", " style=", " onclick=", " onload=", "javascript:", "data:"] {
                    assert!(!text.contains(word), "{path} has {word}");
                }
                let scripts: Vec<&str> = text.split("<script").skip(1).collect();
                assert!(scripts.iter().all(|rest| rest.contains("src=") && rest.contains("></script>")), "{path}");
            }
        }
        assert!(loads > 20, "{loads}");
    }

    #[test]
    fn all_files_of_the_pages_are_small() {
        let sent = |prefix| {
            let forms = FILES.iter().zip(&*FORMS).filter(move |((path, _), _)| path.starts_with(prefix));
            forms.map(|(_, forms)| forms.gzip.len()).sum::<usize>()
        };
        assert!(sent("pages/") < 60_000, "{} bytes", sent("pages/"));
    }
}
