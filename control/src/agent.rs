//! The node agent: the listening end of the control link (`holdfast_core::link`), and the node's end
//! of the stream to the masters.
//!
//! It checks who connects, agrees on the version, frames messages and passes them between the volume
//! server and the leading master. One volume server at a time is served; a second one is told so and
//! tries again. Each wait is bounded: a volume server that neither reports nor reads is cut off and may
//! connect again. It decides nothing about volumes, and losing the link stops no host I/O. While no
//! master is reachable it gives a restarted volume server its volumes with one copy again, from its
//! cache; a copy among several waits for the masters.
//!
//! Modules: `hub` joins the two ends, `masters` finds the leader, `cache` keeps assignments.

pub mod cache;
mod hub;
mod masters;

use crate::convert;
use crate::limits::{LINK_CONNECTIONS_MAX, LINK_QUEUE, LINK_SILENCE, LINK_STEP};
use holdfast_core::link;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

/// Bytes read from the link at once at most.
const READ_BYTES: usize = 64 << 10;

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkEnd {
    /// The peer closed it, or the network did.
    #[error("the volume server closed the link: {0}")]
    Closed(#[from] io::Error),
    /// Another user.
    #[error("refused a peer that runs as user {0}")]
    Stranger(u32),
    /// The framing is broken.
    #[error(transparent)]
    Framing(#[from] link::LinkError),
    /// A message at the wrong time or with wrong contents.
    #[error("refused the volume server: {0}")]
    Refused(String),
    /// It hangs.
    #[error("the volume server said or took nothing for {0} s")]
    Silent(u64),
    /// This process stops.
    #[error("the agent stops")]
    Stopping,
}

pub use hub::{Handle, Running, start};
pub use masters::Identity;

/// Binds the link's socket with mode 0600. A socket file that nobody listens on is replaced; any
/// other file is left alone.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                let message = "another process listens there";
                return Err(io::Error::new(io::ErrorKind::AddrInUse, message));
            }
            std::fs::remove_file(path)?;
        }
        Ok(_) => {
            let message = "exists and is no socket";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Accepts volume servers until the agent stops.
pub async fn serve(listener: UnixListener, agent: Handle) {
    let places = Arc::new(Semaphore::new(LINK_CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return; // Never closed.
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = agent.stopped() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let agent = agent.clone();
                tokio::spawn(async move {
                    let end = converse(stream, agent).await;
                    tracing::info!("control link: {end}");
                    drop(place);
                });
            }
            Err(error) => {
                // Out of descriptors, mostly: others may free some.
                tracing::warn!("control link: accept: {error}");
                tokio::time::sleep(LINK_STEP).await;
            }
        }
    }
}

/// Speaks with one volume server until the link ends.
pub async fn converse(stream: UnixStream, agent: Handle) -> LinkEnd {
    match attend(stream, &agent).await {
        Ok(never) => match never {},
        Err(end) => end,
    }
}

async fn attend(stream: UnixStream, agent: &Handle) -> Result<std::convert::Infallible, LinkEnd> {
    let peer = stream.peer_cred()?.uid();
    if peer != 0 && peer != rustix::process::geteuid().as_raw() {
        return Err(LinkEnd::Stranger(peer));
    }
    let (read_half, mut writer) = stream.into_split();
    let mut reader = Reader {
        stream: read_half,
        bytes: Vec::new(),
    };
    let first = timeout(LINK_STEP, reader.message()).await;
    let first = first.map_err(|_| LinkEnd::Silent(LINK_STEP.as_secs()))??;
    let Some(link::Body::Hello(hello)) = first.body else {
        return Err(LinkEnd::Refused("the first message is not hello".into()));
    };
    let (orders, order_queue) = mpsc::channel(LINK_QUEUE);
    let link = match introduce(hello, orders, agent).await? {
        Ok(link) => link,
        Err(reason) => {
            send(&mut writer, &refusal(reason.clone())).await?;
            return Err(LinkEnd::Refused(reason));
        }
    };
    let mut sending = tokio::spawn(send_all(writer, order_queue));
    let result = loop {
        let message = tokio::select! {
            message = timeout(LINK_SILENCE, reader.message()) => message,
            sent = &mut sending => break Err(sent.unwrap_or(LinkEnd::Stopping)),
        };
        let message = match message {
            Err(_) => break Err(LinkEnd::Silent(LINK_SILENCE.as_secs())),
            Ok(Err(end)) => break Err(end),
            Ok(Ok(message)) => message,
        };
        if let Err(reason) = check(&message) {
            break Err(LinkEnd::Refused(reason));
        }
        if agent.link_message(link, message).await.is_err() {
            break Err(LinkEnd::Stopping);
        }
    };
    sending.abort();
    // When the agent is gone there is nobody to tell.
    let _ = agent.link_down(link).await;
    result
}

/// Checks the version and asks the agent to take the link.
async fn introduce(
    hello: link::Hello,
    orders: mpsc::Sender<link::Message>,
    agent: &Handle,
) -> Result<Result<u64, String>, LinkEnd> {
    if !(hello.version_min..=hello.version_max).contains(&link::VERSION) {
        return Ok(Err(format!(
            "this control process speaks link version {}, the volume server {} to {}; run builds of \
             the same release",
            link::VERSION,
            hello.version_min,
            hello.version_max
        )));
    }
    if let Err(refusal) = convert::hello_from(hello.clone()) {
        return Ok(Err(refusal.message));
    }
    let answer = agent.link_up(hello, orders).await;
    answer.map_err(|_| LinkEnd::Stopping)
}

/// Whether a volume server may send that.
fn check(message: &link::Message) -> Result<(), String> {
    match convert::link_event_from(message.clone()) {
        Ok(_) => Ok(()),
        Err(refusal) => Err(refusal.message),
    }
}

fn refusal(reason: String) -> link::Message {
    let welcome = link::Welcome {
        refused: reason,
        ..link::Welcome::default()
    };
    link::Message {
        request_id: 0,
        body: Some(link::Body::Welcome(welcome)),
    }
}

async fn send_all(mut writer: OwnedWriteHalf, mut queue: mpsc::Receiver<link::Message>) -> LinkEnd {
    while let Some(message) = queue.recv().await {
        if let Err(end) = send(&mut writer, &message).await {
            return end;
        }
    }
    LinkEnd::Stopping
}

async fn send(writer: &mut OwnedWriteHalf, message: &link::Message) -> Result<(), LinkEnd> {
    let bytes = link::encode(message)?;
    let written = timeout(LINK_STEP, writer.write_all(&bytes)).await;
    written.map_err(|_| LinkEnd::Silent(LINK_STEP.as_secs()))??;
    Ok(())
}

struct Reader {
    stream: OwnedReadHalf,
    bytes: Vec<u8>,
}

impl Reader {
    /// The next message. Dropping the future loses nothing.
    async fn message(&mut self) -> Result<link::Message, LinkEnd> {
        loop {
            if let Some((message, length)) = link::decode(&self.bytes)? {
                self.bytes.drain(..length);
                return Ok(message);
            }
            self.bytes.reserve(READ_BYTES);
            if self.stream.read_buf(&mut self.bytes).await? == 0 {
                return Err(LinkEnd::Closed(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
