//! The node agent: the listening end of the control link (`holdfast_core::link`).
//!
//! It checks who connects, agrees on the version, frames messages and passes them to the master. One
//! volume server at a time is served; a second one is told so and tries again. Each wait is bounded:
//! a volume server that neither reports nor reads is cut off and may connect again. It decides
//! nothing about volumes, and losing the link stops no host I/O.

use crate::convert;
use crate::limits::{LINK_CONNECTIONS_MAX, LINK_QUEUE, LINK_SILENCE, LINK_STEP};
use crate::master::{Handle, LinkEvent, Outgoing};
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
    #[error("the master stops")]
    Stopping,
}

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

/// Accepts volume servers until the master stops.
pub async fn serve(listener: UnixListener, master: Handle) {
    let places = Arc::new(Semaphore::new(LINK_CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return; // Never closed.
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = master.stopped() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let master = master.clone();
                tokio::spawn(async move {
                    let end = converse(stream, master).await;
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
pub async fn converse(stream: UnixStream, master: Handle) -> LinkEnd {
    match attend(stream, &master).await {
        Ok(never) => match never {},
        Err(end) => end,
    }
}

async fn attend(stream: UnixStream, master: &Handle) -> Result<std::convert::Infallible, LinkEnd> {
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
    let link = match introduce(hello, orders, master).await? {
        Ok(link) => link,
        Err(reason) => {
            send(&mut writer, &convert::refusal_to(reason.clone())).await?;
            return Err(LinkEnd::Refused(reason));
        }
    };
    let mut sending = tokio::spawn(send_all(writer, order_queue));
    let result = loop {
        let message = tokio::select! {
            message = timeout(LINK_SILENCE, reader.message()) => message,
            sent = &mut sending => break Err(sent.unwrap_or(LinkEnd::Stopping)),
        };
        let event = match message {
            Err(_) => break Err(LinkEnd::Silent(LINK_SILENCE.as_secs())),
            Ok(Err(end)) => break Err(end),
            Ok(Ok(message)) => event_of(message),
        };
        match event {
            Ok(event) => {
                if master.link(link, event).await.is_err() {
                    break Err(LinkEnd::Stopping);
                }
            }
            Err(end) => break Err(end),
        }
    };
    sending.abort();
    // When the master is gone there is nobody to tell.
    let _ = master.link(link, LinkEvent::Down).await;
    result
}

/// Checks the version and asks the master to take the link.
async fn introduce(
    hello: link::Hello,
    orders: mpsc::Sender<Outgoing>,
    master: &Handle,
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
    let (server, report) = match convert::hello_from(hello) {
        Ok(parts) => parts,
        Err(refusal) => return Ok(Err(refusal.message)),
    };
    let answer = master.link_up(server, report, orders).await;
    answer.map_err(|_| LinkEnd::Stopping)
}

fn event_of(message: link::Message) -> Result<LinkEvent, LinkEnd> {
    match message.body {
        Some(link::Body::Report(report)) => {
            let report = convert::report_from(report);
            report
                .map(LinkEvent::Report)
                .map_err(|refusal| LinkEnd::Refused(refusal.message))
        }
        Some(link::Body::Reply(reply)) => {
            let answer = convert::answer_from(reply);
            Ok(LinkEvent::Reply(message.request_id, answer))
        }
        _ => Err(LinkEnd::Refused(
            "a message that only the agent sends, or an unknown one".into(),
        )),
    }
}

async fn send_all(mut writer: OwnedWriteHalf, mut queue: mpsc::Receiver<Outgoing>) -> LinkEnd {
    while let Some(message) = queue.recv().await {
        if let Err(end) = send(&mut writer, &message.0).await {
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
