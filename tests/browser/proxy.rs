//! A school's proxy: what stands between a browser and the daemon where WebSockets, or streams, do not come through.
//!
//! It opens a connection to the daemon for each request (and says `Connection: close`), so that what it refuses can
//! be chosen by request, and changed while it runs. It knows nothing of what it carries.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// What it refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
#[repr(u8)]
pub enum Refuses {
    Nothing,
    WebSockets,
    Streams,
    /// Every request: the line to the daemon is cut.
    Everything,
}

/// A proxy in front of a daemon, for as long as the test runs.
pub struct Proxy {
    pub address: SocketAddr,
    refuses: Arc<AtomicU8>,
    /// What is open, to be cut.
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    pub fn before(daemon: SocketAddr, refuses: Refuses) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (refuses, open) = (Arc::new(AtomicU8::new(refuses as u8)), Arc::new(Mutex::new(Vec::new())));
        let proxy = Proxy { address, refuses: Arc::clone(&refuses), open: Arc::clone(&open) };
        // It ends with the test's process: it holds nothing that would have to be given back.
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (refuses, open) = (Arc::clone(&refuses), Arc::clone(&open));
                thread::spawn(move || serve(client, daemon, &refuses, &open));
            }
        });
        proxy
    }

    /// From now on; what came through before is cut.
    pub fn set(&self, refuses: Refuses) {
        self.refuses.store(refuses as u8, Ordering::SeqCst);
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn serve(mut client: TcpStream, daemon: SocketAddr, refuses: &AtomicU8, open: &Mutex<Vec<TcpStream>>) -> Option<()> {
    client.set_nodelay(true).ok()?;
    let mut head = Vec::new();
    let end = loop {
        let mut chunk = [0; 4096];
        let n = client.read(&mut chunk).ok().filter(|&n| n > 0)?;
        head.extend_from_slice(&chunk[..n]);
        if let Some(at) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
    };
    let text = String::from_utf8_lossy(&head[..end]).into_owned();
    let is_socket = text.lines().any(|line| line.to_ascii_lowercase().starts_with("upgrade:"));
    let is_stream = text.split([' ', '?']).nth(1).is_some_and(|path| path.ends_with("/stream"));
    let level = refuses.load(Ordering::SeqCst);
    let is_refused = level == Refuses::Everything as u8
        || is_socket && level >= Refuses::WebSockets as u8
        || is_stream && level >= Refuses::Streams as u8;
    if is_refused {
        let _ = client.write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return None;
    }
    let mut server = TcpStream::connect(daemon).ok()?;
    server.set_nodelay(true).ok()?;
    if !is_socket {
        let mut lines: Vec<&str> =
            text.split("\r\n").filter(|line| !line.to_ascii_lowercase().starts_with("connection:")).collect();
        lines.push("Connection: close");
        let body = head.split_off(end);
        head = lines.join("\r\n").into_bytes();
        head.extend(body);
    }
    server.write_all(&head).ok()?;
    open.lock().unwrap().extend([client.try_clone().ok()?, server.try_clone().ok()?]);
    let (mut from, mut to) = (client.try_clone().ok()?, server.try_clone().ok()?);
    let up = thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let _ = std::io::copy(&mut server, &mut client);
    let _ = client.shutdown(Shutdown::Both);
    let _ = up.join();
    None
}
