//! The control link's client: connects for ever, checks who listens, reads messages.
//!
//! Plain threads and blocking sockets: the link carries a few messages a second and must not depend
//! on any shard. Writing is done by the coordinator.

use crate::limits::{LINK_BACKOFF_MAX, LINK_BACKOFF_MIN, LINK_WRITE_TIMEOUT};
use crate::messages::{Coordinator, ToCoordinator};
use holdfast_core::link::{LinkError, Message, decode};
use rustix::net::sockopt::socket_peercred;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use tracing::{info, warn};

/// Why the link ended.
#[derive(Debug, thiserror::Error)]
enum LinkLost {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the agent runs as user {0}, neither root nor this user")]
    Stranger(u32),
    #[error("{0}")]
    Framing(#[from] LinkError),
    #[error("the agent closed it")]
    Closed,
}

/// Starts the thread that keeps the link up.
pub(crate) fn start(socket: PathBuf, coordinator: Coordinator) -> io::Result<()> {
    thread::Builder::new()
        .name("link".into())
        .spawn(move || keep_up(&socket, &coordinator))
        .map(drop)
}

fn keep_up(socket: &Path, coordinator: &Coordinator) {
    let mut backoff = LINK_BACKOFF_MIN;
    let mut told = false;
    loop {
        match connect(socket) {
            Ok((reader, writer)) => {
                info!(socket = %socket.display(), "connected to the node agent");
                (backoff, told) = (LINK_BACKOFF_MIN, false);
                coordinator.send(ToCoordinator::LinkUp(writer));
                let lost = read_all(reader, coordinator);
                coordinator.send(ToCoordinator::LinkDown);
                warn!("lost the node agent: {lost}; volumes are served on");
            }
            Err(lost) if !told => {
                warn!(socket = %socket.display(), "cannot reach the node agent: {lost}; trying on");
                told = true;
            }
            Err(_) => {}
        }
        thread::sleep(backoff);
        backoff = (backoff * 2).min(LINK_BACKOFF_MAX);
    }
}

fn connect(socket: &Path) -> Result<(UnixStream, UnixStream), LinkLost> {
    let stream = UnixStream::connect(socket)?;
    let peer = socket_peercred(&stream).map_err(io::Error::from)?;
    let own = rustix::process::geteuid();
    if peer.uid != own && !peer.uid.is_root() {
        return Err(LinkLost::Stranger(peer.uid.as_raw()));
    }
    stream.set_write_timeout(Some(LINK_WRITE_TIMEOUT))?;
    Ok((stream.try_clone()?, stream))
}

fn read_all(mut reader: UnixStream, coordinator: &Coordinator) -> LinkLost {
    let mut bytes: Vec<u8> = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    loop {
        let count = match reader.read(&mut chunk) {
            Ok(0) => return LinkLost::Closed,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return error.into(),
        };
        bytes.extend_from_slice(&chunk[..count]);
        if let Err(error) = take_messages(&mut bytes, |message| {
            coordinator.send(ToCoordinator::LinkMessage(Box::new(message)));
        }) {
            return error.into();
        }
    }
}

/// Takes whole messages off the front. The rest stays below one message's limit.
fn take_messages(bytes: &mut Vec<u8>, mut take: impl FnMut(Message)) -> Result<(), LinkError> {
    let mut used = 0;
    while let Some((message, length)) = decode(&bytes[used..])? {
        used += length;
        take(message);
    }
    bytes.drain(..used);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::take_messages;
    use holdfast_core::link::{Body, Drain, Message, encode};

    #[test]
    fn messages_are_found_however_the_bytes_are_cut() {
        let message = |request_id| Message {
            request_id,
            body: Some(Body::Drain(Drain {})),
        };
        let stream: Vec<u8> = (1..=3)
            .flat_map(|id| encode(&message(id)).expect("small"))
            .collect();
        for step in 1..=stream.len() {
            let (mut pending, mut seen) = (Vec::new(), Vec::new());
            for part in stream.chunks(step) {
                pending.extend_from_slice(part);
                take_messages(&mut pending, |message| seen.push(message.request_id))
                    .expect("well formed");
            }
            assert_eq!(seen, [1, 2, 3]);
            assert!(pending.is_empty());
        }
    }

    #[test]
    fn an_oversize_length_ends_the_link() {
        let mut bytes = u32::MAX.to_le_bytes().to_vec();
        assert!(take_messages(&mut bytes, |_| ()).is_err());
    }
}
