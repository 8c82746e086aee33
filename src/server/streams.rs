//! The connections' sockets.
//!
//! Owns the streams, by the hub's index, and which of them have input that has not been taken yet: the poll tells of
//! new input once (edge-triggered), so a stream cut short is remembered here.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;

use mio::net::TcpStream;
use rustix::net::SendFlags;

use crate::hub::Sockets;

/// All streams.
#[derive(Debug, Default)]
pub(super) struct Streams {
    lines: Vec<Option<Line>>,
    /// Streams with input, in the order in which they will be read.
    unread: VecDeque<u32>,
    /// Streams with input that the hub does not want yet.
    unwanted: Vec<u32>,
}

#[derive(Debug)]
struct Line {
    stream: TcpStream,
    /// It stands in one of the two lists.
    listed: bool,
    /// The other side has closed, or the line is broken: read until that is seen, whatever a short read says.
    closing: bool,
}

/// What one read brought.
pub(super) enum Input {
    /// So many bytes; `more`: there may be more.
    Bytes(usize, bool),
    /// The other side will send no more.
    End,
    /// Nothing, for now.
    Nothing,
    /// The line is dead.
    Broken,
}

impl Streams {
    /// Takes a stream under the hub's index.
    pub(super) fn insert(&mut self, index: u32, stream: TcpStream) {
        let index = index as usize;
        if self.lines.len() <= index {
            self.lines.resize_with(index + 1, || None);
        }
        self.lines[index] = Some(Line { stream, listed: false, closing: false });
    }

    /// There is input on a stream. `closing`: its end, or its break, is part of it.
    pub(super) fn readable(&mut self, index: u32, closing: bool) {
        if let Some(Some(line)) = self.lines.get_mut(index as usize) {
            line.closing |= closing;
            if !std::mem::replace(&mut line.listed, true) {
                self.unread.push_back(index);
            }
        }
    }

    /// The next stream to read from.
    pub(super) fn next_unread(&mut self) -> Option<u32> {
        let index = self.unread.pop_front()?;
        if let Some(Some(line)) = self.lines.get_mut(index as usize) {
            line.listed = false;
        }
        Some(index)
    }

    /// The hub does not want this stream's input now.
    pub(super) fn set_aside(&mut self, index: u32) {
        if let Some(Some(line)) = self.lines.get_mut(index as usize)
            && !std::mem::replace(&mut line.listed, true)
        {
            self.unwanted.push(index);
        }
    }

    /// Lists again what was set aside and is wanted now.
    pub(super) fn reconsider(&mut self, wanted: impl Fn(u32) -> bool) {
        let Streams { lines, unread, unwanted } = self;
        unwanted.retain(|index| {
            let gone = !matches!(lines.get(*index as usize), Some(Some(_)));
            let wanted = !gone && wanted(*index);
            if wanted {
                unread.push_back(*index);
            }
            !gone && !wanted
        });
    }

    /// Input is left that can be read at once.
    pub(super) fn has_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    /// Reads once.
    pub(super) fn read(&mut self, index: u32, buffer: &mut [u8]) -> Input {
        let Some(Some(line)) = self.lines.get_mut(index as usize) else { return Input::Nothing };
        loop {
            match line.stream.read(buffer) {
                Ok(0) => return Input::End,
                // A short read has emptied the socket (epoll(7)); only an end that was announced is still to come.
                Ok(bytes) => return Input::Bytes(bytes, bytes == buffer.len() || line.closing),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Input::Nothing,
                Err(_) => return Input::Broken,
            }
        }
    }
}

impl Sockets for Streams {
    fn send(&mut self, index: u32, bytes: &[u8]) -> io::Result<usize> {
        match self.lines.get_mut(index as usize) {
            // send(2), which is cheaper than write(2) on a socket; and not that of libc, where a process with two
            // threads pays for being cancellable on each way in and out.
            Some(Some(line)) => Ok(rustix::net::send(&line.stream, bytes, SendFlags::NOSIGNAL)?),
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn send_vectored(&mut self, index: u32, frames: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.lines.get_mut(index as usize) {
            Some(Some(line)) => line.stream.write_vectored(frames),
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn finish(&mut self, index: u32) {
        if let Some(Some(line)) = self.lines.get_mut(index as usize) {
            // A line that is broken already is finished, too.
            let _ = line.stream.shutdown(Shutdown::Write);
        }
    }

    fn close(&mut self, index: u32) {
        if let Some(line) = self.lines.get_mut(index as usize) {
            // Closing the descriptor takes it off the poll.
            *line = None;
        }
        // Where it is listed, it stays: one read too many of whoever comes after finds nothing.
    }
}
