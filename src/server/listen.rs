//! Listening sockets: inherited from systemd, or opened here.
//!
//! Owns how a listener is made. What is accepted from it belongs to others.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, listen, socket_with, sockopt};

use crate::limits::{LISTEN_BACKLOG, LISTENERS_MAX, PEER_SILENCE_MAX};

/// Every socket to listen on, with the address it is bound to.
#[derive(Debug)]
pub struct Listeners {
    /// Ready to accept, non-blocking.
    pub sockets: Vec<(std::net::TcpListener, SocketAddr)>,
    /// Whether the service manager opened them.
    pub inherited: bool,
}

/// Why there is nothing to listen on.
#[derive(Debug)]
pub enum ListenError {
    /// An address could not be had.
    Bind(SocketAddr, io::Error),
    /// What was inherited is no listening TCP socket.
    Inherited(io::Error),
    /// `--listen` beside inherited sockets: within the service's private network it would look healthy and hear
    /// nobody.
    Both,
}

impl std::fmt::Display for ListenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ListenError::Bind(address, error) => write!(f, "cannot listen on {address}: {error}"),
            ListenError::Inherited(error) => {
                write!(f, "the socket given by the service manager is unusable: {error}")
            }
            ListenError::Both => {
                write!(
                    f,
                    "--listen and a socket from the service manager exclude each other: set ListenStream= instead"
                )
            }
        }
    }
}

impl Listeners {
    /// Takes the inherited sockets, or opens `addresses`.
    ///
    /// # Errors
    /// See [`ListenError`].
    pub fn open(addresses: &[SocketAddr], given: bool) -> Result<Self, ListenError> {
        let inherited: Vec<RawFd> = sd_notify::listen_fds().map_err(ListenError::Inherited)?.collect();
        if !inherited.is_empty() && given {
            return Err(ListenError::Both);
        }
        if inherited.len() > LISTENERS_MAX {
            return Err(ListenError::Inherited(io::Error::other(format!("more than {LISTENERS_MAX} of them"))));
        }
        let open = |address: &SocketAddr| {
            let opened = open(*address).and_then(|socket| Ok((socket.local_addr()?, socket)));
            opened.map(|(bound, socket)| (socket, bound)).map_err(|error| ListenError::Bind(*address, error))
        };
        let sockets = if inherited.is_empty() {
            addresses.iter().map(open).collect::<Result<_, _>>()?
        } else {
            inherited.iter().map(|fd| adopt(*fd)).collect::<io::Result<_>>().map_err(ListenError::Inherited)?
        };
        Ok(Listeners { sockets, inherited: !inherited.is_empty() })
    }

    /// The addresses bound.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().map(|(_, address)| *address).collect()
    }
}

fn open(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    // A restart must not wait for the old connections' TIME_WAIT.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        // Whoever wants both families says both: one meaning on every machine.
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    prepare(&socket)?;
    bind(&socket, &address)?;
    listen(&socket, LISTEN_BACKLOG)?;
    Ok(socket.into())
}

/// What Linux hands on to the sockets that a listener accepts, which saves calls for each.
fn prepare(listener: &impl std::os::fd::AsFd) -> io::Result<()> {
    sockopt::set_tcp_nodelay(listener, true)?;
    // An event stream is not pinged: whoever has vanished without a word would keep his place for a quarter of an hour,
    // for as long as the kernel sends again what is not acknowledged.
    let silence_ms = u32::try_from(PEER_SILENCE_MAX.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(listener, silence_ms)?;
    Ok(())
}

fn adopt(fd: RawFd) -> io::Result<(std::net::TcpListener, SocketAddr)> {
    #[expect(unsafe_code, reason = "the protocol of sd_listen_fds(3) hands descriptors over by number, once")]
    // SAFETY: the service manager opened this descriptor for us, and sd-notify gives each number out once.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    if sockopt::socket_type(&socket)? != SocketType::STREAM || !sockopt::socket_acceptconn(&socket)? {
        return Err(io::Error::other("it is no listening stream socket"));
    }
    let listener = std::net::TcpListener::from(socket);
    listener.set_nonblocking(true)?;
    prepare(&listener)?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}
