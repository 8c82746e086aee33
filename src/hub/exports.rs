//! Long answers, page by page.
//!
//! Owns the answers that are sent in chunks, each page when the one before it has been taken, so that a list of any
//! length costs a page of memory and never holds up a turn. What a page says is the API's business.
//!
//! Invariants: an answer of one page is an answer like any other; of a longer one the end is sent when there is
//! nothing more, and the connection is cut when that cannot be known, so that nobody takes a part for the whole.

use slab::Slab;

use crate::api::answer::unavailable;
use crate::api::results::{Export, Next, Page};
use crate::clock::Now;
use crate::domain::disk::Answer;
use crate::domain::staged::Hold;
use crate::hub::audience::Audience;
use crate::hub::conn::{ConnId, Outlet};
use crate::hub::custody::Waiting;
use crate::hub::{Hub, count};
use crate::limits::EXPORTS_MAX;
use crate::wire::http::{self, Body, Response, Version};

/// Long answers under way.
pub(super) type Exports = Slab<Running>;

/// A long answer under way.
#[derive(Debug)]
pub(super) struct Running {
    waiting: Waiting,
    export: Export,
    /// Its head has gone.
    has_begun: bool,
    /// The disk was asked for its next page.
    is_asked: bool,
}

/// A long answer for which the disk was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportId {
    key: u32,
    conn: ConnId,
}

impl Hub {
    /// A long answer begins, when the batch it tells of is durable.
    pub(super) fn begin_export(&mut self, now: Now, waiting: Waiting, export: Export, hold: Hold) {
        let is_busy =
            self.exports.len() >= EXPORTS_MAX || (export.asks_the_disk() && !self.custody.takes_questions());
        let index = waiting.conn.index;
        let Some(http) = self.conns.get_mut(index as usize).and_then(|conn| conn.http()) else { return };
        if is_busy || http.export.is_some() {
            let busy = self.api.finish(&waiting.head, unavailable("Too many reads at once"));
            return self.reply(now, waiting.conn, waiting.number, &waiting.head, &busy);
        }
        let key = self.exports.insert(Running { waiting, export, has_begun: false, is_asked: false });
        let key = u32::try_from(key).unwrap_or(u32::MAX);
        http.export = Some(key);
        self.next_page(now, key, hold);
    }

    /// A connection that has taken all that was sent to it gets more, once a turn: the next page of a long answer, or
    /// answers for which there was no room.
    pub(super) fn go_on(&mut self, now: Now, index: u32) {
        let Some(conn) = self.conns.get_mut(index as usize) else { return };
        let id = ConnId { index, generation: conn.generation };
        let is_guest = conn.outlet == Outlet::Guest;
        match conn.http() {
            None if is_guest => self.answer_guest(now, id),
            None => self.answer_candidate(now, id),
            Some(http) => {
                let begun = http.export.filter(|key| self.exports.get(*key as usize).is_some_and(|it| it.has_begun));
                if let Some(key) = begun {
                    self.next_page(now, key, Hold::Nothing);
                }
            }
        }
    }

    fn next_page(&mut self, now: Now, key: u32, hold: Hold) {
        let Some(running) = self.exports.get_mut(key as usize).filter(|running| !running.is_asked) else { return };
        let audiences = &self.audiences;
        let clients = |topic| count(audiences, topic, Audience::members);
        match running.export.next(now, &mut self.engine, &clients) {
            Next::Page(page) => {
                self.publish(now);
                self.send_piece(now, key, page);
            }
            Next::Ask(query) => {
                running.is_asked = true;
                let id = ExportId { key, conn: running.waiting.conn };
                self.custody.ask_for_export(hold, id, query);
            }
        }
    }

    /// The disk has told a page, or why it cannot.
    pub(super) fn page_told(&mut self, now: Now, id: ExportId, answered: Result<Answer, String>) {
        let second = self.engine.delivery.second();
        let Some(running) = self.exports.get_mut(id.key as usize).filter(|it| it.waiting.conn == id.conn) else {
            return;
        };
        running.is_asked = false;
        let page = match answered {
            Ok(Answer::Results(results)) => running.export.told(results, second),
            Ok(_) => return,
            Err(why) => Err(unavailable(&format!("The store cannot be read: {why}"))),
        };
        match page {
            Ok(page) => {
                self.words_left = self.words_left.saturating_sub(page.bytes.len());
                self.send_piece(now, id.key, page);
            }
            Err(response) => self.break_off(now, id.key, response),
        }
    }

    fn send_piece(&mut self, now: Now, key: u32, page: Page) {
        let Some(running) = self.exports.get_mut(key as usize) else { return };
        let Running { waiting: Waiting { conn, number, head }, export, has_begun, .. } = running;
        let (conn, number, head) = (*conn, *number, head.clone());
        let chunked = head.version == Version::Http11;
        let first = !std::mem::replace(has_begun, true);
        let response = self.api.finish(&head, export.head());
        if page.is_last {
            self.end_export(key);
        }
        if first && (page.is_last || head.method == "HEAD") {
            let body = if page.is_last { Body::Bytes(page.bytes) } else { Body::Stream };
            self.end_export(key);
            return self.reply(now, conn, number, &head, &Response { body, ..response });
        }
        let body_kib = u32::try_from(page.bytes.len() / 1024).unwrap_or(u32::MAX);
        self.work_left = self.work_left.saturating_sub(body_kib);
        let mut bytes = Vec::new();
        if first {
            if !chunked {
                self.end_after_this(conn.index);
            }
            bytes = self.head_of(now, conn, number, &head, &response);
        }
        if chunked {
            bytes.append(&mut http::chunk(&page.bytes));
            bytes.extend_from_slice(if page.is_last { http::LAST_CHUNK } else { b"" });
        } else {
            bytes.extend_from_slice(&page.bytes);
        }
        self.release_part(now, conn, number, bytes, page.is_last);
        if page.is_last {
            self.end_if_last(now, conn.index);
            self.resume(now, conn);
        }
    }

    /// Nothing more can be told: in words if nothing has been told yet, else by cutting the connection.
    pub(super) fn break_off(&mut self, now: Now, key: u32, response: Response) {
        let Some(running) = self.exports.get(key as usize) else { return };
        let Waiting { conn, number, head } = &running.waiting;
        let (conn, number, head) = (*conn, *number, head.clone());
        let has_begun = running.has_begun;
        self.end_export(key);
        if has_begun {
            return self.kill(conn.index);
        }
        let response = self.api.finish(&head, response);
        self.reply(now, conn, number, &head, &response);
        self.resume(now, conn);
    }

    /// The disk does not answer.
    pub(super) fn give_up_export(&mut self, now: Now, id: ExportId, text: &str) {
        if self.exports.get(id.key as usize).is_some_and(|it| it.waiting.conn == id.conn) {
            self.break_off(now, id.key, unavailable(text));
        }
    }

    fn end_export(&mut self, key: u32) {
        let Some(running) = self.exports.try_remove(key as usize) else { return };
        let conn = self.conns.get_mut(running.waiting.conn.index as usize);
        if let Some(http) = conn.and_then(|conn| conn.http()) {
            http.export = None;
        }
    }
}
