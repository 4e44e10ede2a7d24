//! TCP: listeners, and streams whose reader and writer halves live in different tasks.

use crate::limits::BACKLOG;
use glommio::net::{TcpListener, TcpStream};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

/// A bound and listening socket, not yet attached to an executor; made early so that a bad address
/// is an error of the start.
pub(crate) fn listen(address: SocketAddr) -> io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, sockopt};
    let family = if address.is_ipv6() {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    let fd = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&fd, true)?;
    }
    bind(&fd, &address)?;
    rustix::net::listen(&fd, BACKLOG)?;
    Ok(fd)
}

/// Begins to connect, from the address `from` when it is given. The connection stands when bytes can
/// be sent; until then sending waits. An end of the peer that cannot be told is found after
/// `unacknowledged_max`, also while connecting.
pub(crate) fn connect(
    from: Option<IpAddr>,
    to: SocketAddr,
    unacknowledged_max: Duration,
) -> io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, sockopt};
    let family = if to.is_ipv6() {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_tcp_nodelay(&fd, true)?;
    let wait = u32::try_from(unacknowledged_max.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(&fd, wait)?;
    if let Some(from) = from.filter(|from| from.is_ipv6() == to.is_ipv6()) {
        bind(&fd, &SocketAddr::new(from, 0))?;
    }
    match rustix::net::connect(&fd, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(fd),
        Err(error) => Err(error.into()),
    }
}

/// Makes the kernel find out, in about 20 seconds, that the other end of an idle connection is gone.
pub(crate) fn keep_alive(fd: &OwnedFd) -> io::Result<()> {
    use rustix::net::sockopt;
    const IDLE: Duration = Duration::from_secs(10);
    const INTERVAL: Duration = Duration::from_secs(3);
    const PROBES: u32 = 3;
    sockopt::set_socket_keepalive(fd, true)?;
    sockopt::set_tcp_keepidle(fd, IDLE)?;
    sockopt::set_tcp_keepintvl(fd, INTERVAL)?;
    sockopt::set_tcp_keepcnt(fd, PROBES)?;
    Ok(())
}

/// The address a listening or connected socket is bound to.
pub(crate) fn local_address(fd: &OwnedFd) -> io::Result<SocketAddr> {
    internet(rustix::net::getsockname(fd)?)
}

/// The address of the other end.
pub(crate) fn peer_address(fd: &OwnedFd) -> io::Result<SocketAddr> {
    internet(rustix::net::getpeername(fd)?.ok_or(io::ErrorKind::NotConnected)?)
}

fn internet(address: rustix::net::SocketAddrAny) -> io::Result<SocketAddr> {
    let other = || io::Error::other("not an Internet socket");
    match address.address_family() {
        rustix::net::AddressFamily::INET => SocketAddrV4::try_from(address)
            .map(SocketAddr::V4)
            .map_err(|_| other()),
        rustix::net::AddressFamily::INET6 => SocketAddrV6::try_from(address)
            .map(SocketAddr::V6)
            .map_err(|_| other()),
        _ => Err(other()),
    }
}

/// A listener attached to this executor.
#[derive(Debug)]
pub(crate) struct Listener(TcpListener);

impl Listener {
    /// Attaches a listening socket to this executor.
    pub(crate) fn attach(fd: OwnedFd) -> Self {
        // SAFETY: the descriptor is owned, open, and given away here; it is a listening TCP socket.
        Listener(unsafe { TcpListener::from_raw_fd(fd.into_raw_fd()) })
    }

    /// The next connection. The future must not be dropped before it is ready.
    pub(crate) async fn accept(&self) -> io::Result<OwnedFd> {
        let accepted = self.0.shared_accept().await.map_err(io::Error::from)?;
        // Binding makes an owner of the descriptor; it is then taken out as a duplicate, because the
        // shard that will serve it may be another one.
        let stream = accepted.bind_to_executor();
        // SAFETY: `stream` owns the open descriptor and lives until after the duplication.
        let borrowed = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
        let fd = borrowed.try_clone_to_owned()?;
        rustix::net::sockopt::set_tcp_nodelay(&fd, true)?;
        Ok(fd)
    }
}

/// The reading half of a connection.
#[derive(Debug)]
pub(crate) struct Reader(TcpStream);

/// The writing half of a connection.
#[derive(Debug)]
pub(crate) struct Writer(TcpStream);

/// Ends a connection from outside its tasks.
#[derive(Debug)]
pub(crate) struct Ender(OwnedFd);

impl Ender {
    /// Ends both directions: the reader sees the end of the stream, the writer an error.
    pub(crate) fn end(&self) {
        // An error means that the peer was faster: the connection is gone, as wanted.
        let _ = rustix::net::shutdown(&self.0, rustix::net::Shutdown::Both);
    }
}

/// Attaches a connection to this executor: two halves and an end, over three descriptors.
pub(crate) fn split(fd: OwnedFd) -> io::Result<(Reader, Writer, Ender)> {
    let second = fd.try_clone()?;
    let ender = Ender(fd.try_clone()?);
    // SAFETY: both descriptors are owned, open, distinct, and given away here.
    let (reader, writer) = unsafe {
        (
            TcpStream::from_raw_fd(fd.into_raw_fd()),
            TcpStream::from_raw_fd(second.into_raw_fd()),
        )
    };
    Ok((Reader(reader), Writer(writer), ender))
}

impl Reader {
    /// Waits for bytes and lets `place` say where they go, at each try: no memory is held while
    /// waiting. Returns how many came; 0 at the end of the stream.
    pub(crate) async fn read_with<R>(
        &mut self,
        mut place: impl FnMut(&mut dyn FnMut(&mut [u8]) -> Poll<io::Result<usize>>) -> Poll<R>,
    ) -> R {
        poll_fn(|context| {
            let stream = &mut self.0;
            place(&mut |buffer| {
                futures_lite::AsyncRead::poll_read(Pin::new(&mut *stream), context, buffer)
            })
        })
        .await
    }
}

impl Reader {
    /// Another descriptor of the same connection, to take it to another executor.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        // SAFETY: `self.0` owns the open descriptor for the whole call.
        let fd = unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) };
        fd.try_clone_to_owned()
    }
}

impl Writer {
    /// Sends from the slices without waiting. `Ok(None)`: the socket takes nothing now.
    pub(crate) fn try_send(&self, slices: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        // SAFETY: `self.0` owns the open descriptor for the whole call.
        let fd = unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) };
        match rustix::net::sendmsg(fd, slices, &mut SendAncillaryBuffer::default(), flags) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until the socket takes bytes; `offer` says at each try which.
    pub(crate) async fn send_with(
        &mut self,
        mut offer: impl FnMut(
            &mut dyn FnMut(&[u8]) -> Poll<io::Result<usize>>,
        ) -> Poll<io::Result<usize>>,
    ) -> io::Result<usize> {
        poll_fn(|context| {
            let stream = &mut self.0;
            offer(&mut |bytes| {
                futures_lite::AsyncWrite::poll_write(Pin::new(&mut *stream), context, bytes)
            })
        })
        .await
    }
}
