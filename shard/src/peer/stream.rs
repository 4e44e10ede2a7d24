//! One stream: greeting, the two tasks that run it, and for the side that opens, opening again.

use super::hub::Hub;
use super::inbox::{Inbox, Incoming, Lost};
use super::outbox::{self, Cut, Outbox, Place};
use crate::limits::{
    PEER_BACKOFF_MAX, PEER_BACKOFF_MIN, PEER_GREETING_MAX, PEER_UNACKNOWLEDGED_MAX,
};
use crate::runtime::socket::{self, Ender, Reader, Writer};
use crate::runtime::task;
use crate::volume::rope::{Piece, Rope};
use holdfast_core::engine::{Opened, StreamId};
use holdfast_core::id::StoreId;
use holdfast_core::peer::wire::encode;
use holdfast_core::peer::{Hello, Message, Refusal, VERSION};
use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};
use tracing::{debug, info, warn};

/// A stream on which both sides have said who they are.
pub(crate) struct Stream {
    /// Its number, never used again in this shard.
    pub(crate) id: StreamId,
    /// The store at the other end.
    pub(crate) remote: StoreId,
    /// Who opened it.
    pub(crate) opened: Opened,
    outbox: Rc<Outbox>,
    ender: Rc<Ender>,
}

/// Whoever the streams of a store belong to. Each stream goes up once and down once.
pub(crate) trait Owner: 'static {
    /// The store.
    fn store(&self) -> StoreId;

    /// A stream stands.
    fn on_up(self: &Rc<Self>, stream: &Rc<Stream>);

    /// A message arrived.
    fn on_message(self: &Rc<Self>, stream: &Rc<Stream>, incoming: Incoming);

    /// A stream is no more.
    fn on_down(self: &Rc<Self>, stream: &Rc<Stream>);
}

/// Keeps a stream to another store open until it is closed.
pub(crate) struct Dialer {
    to: StoreId,
    address: SocketAddr,
    closed: Cell<bool>,
    ender: RefCell<Option<Rc<Ender>>>,
}

/// A stream that the other side opened, after its first message.
#[derive(Debug)]
pub(crate) struct Accepted {
    /// The socket.
    pub(crate) fd: OwnedFd,
    /// Who it is, for messages.
    pub(crate) remote: String,
    /// The first message.
    pub(crate) hello: Hello,
    /// Received behind it.
    pub(crate) unread: Vec<u8>,
}

/// Why a stream does not stand.
#[derive(Debug, thiserror::Error)]
enum NotOpened {
    #[error("{0}")]
    Lost(#[from] Lost),
    #[error("refused by the peer: {0}")]
    Refused(Refusal),
    #[error("the peer answers with another message than a welcome")]
    Unwelcome,
    #[error("the node agent has not said who this node is")]
    Anonymous,
    #[error("too many streams")]
    TooMany,
}

impl From<io::Error> for NotOpened {
    fn from(error: io::Error) -> Self {
        NotOpened::Lost(Lost::Io(error))
    }
}

impl Stream {
    /// Sends a message. `payload` is as long as the message says. A stream that cannot take it ends.
    pub(crate) fn send(&self, message: &Message, payload: &[Piece]) {
        let mut head = Vec::new();
        let bytes = encode(message, &mut head);
        assert!(bytes == payload.iter().map(Piece::len).sum());
        if self.outbox.push(head, payload) == Err(Cut) {
            self.cut();
        }
    }

    /// Sends a message whose payload is still being read; give it with [`Self::fill`].
    pub(crate) fn send_awaiting(&self, message: &Message) -> Place {
        let mut head = Vec::new();
        let bytes = encode(message, &mut head);
        self.outbox
            .push_awaiting(head, bytes)
            .unwrap_or_else(|Cut| {
                self.cut();
                Place::default()
            })
    }

    /// Gives a payload that was waited for.
    pub(crate) fn fill(&self, place: &Place, payload: Rope) {
        self.outbox.fill(place, payload);
    }

    /// Ends the stream at once.
    pub(crate) fn cut(&self) {
        self.outbox.end();
        self.ender.end();
    }

    /// Bytes that wait to be sent.
    #[cfg(test)]
    pub(crate) fn queued(&self) -> usize {
        self.outbox.queued()
    }
}

impl Dialer {
    /// Opens a stream to the store `to` at `address`, again and again.
    pub(crate) fn start<O: Owner>(
        hub: &Rc<Hub>,
        owner: &Rc<O>,
        to: StoreId,
        address: SocketAddr,
    ) -> Rc<Self> {
        let dialer = Rc::new(Dialer {
            to,
            address,
            closed: Cell::new(false),
            ender: RefCell::default(),
        });
        let (hub, owner) = (Rc::clone(hub), Rc::downgrade(owner));
        let keep = Rc::clone(&dialer);
        Rc::clone(&hub)
            .tasks
            .run(async move { keep.keep_up(&hub, &owner).await });
        dialer
    }

    /// Where it connects to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends the stream and opens none any more.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        if let Some(ender) = &*self.ender.borrow() {
            ender.end();
        }
    }

    async fn keep_up<O: Owner>(&self, hub: &Rc<Hub>, owner: &Weak<O>) {
        let mut backoff = PEER_BACKOFF_MIN;
        let mut told = false;
        while !self.closed.get() && owner.strong_count() > 0 {
            let start = task::now();
            match self.open_once(hub, owner).await {
                Ok(lost) => {
                    info!(peer = %self.address, store = %self.to, "lost a peer: {lost}");
                    told = false;
                }
                Err(error) if !told => {
                    warn!(peer = %self.address, store = %self.to, "cannot reach a peer: {error}; trying on");
                    told = true;
                }
                Err(_) => {}
            }
            if task::now() - start > PEER_BACKOFF_MAX {
                backoff = PEER_BACKOFF_MIN;
            }
            task::sleep(backoff).await;
            backoff = (backoff * 2).min(PEER_BACKOFF_MAX);
        }
    }

    /// Connects and runs the stream to its end; the end's reason when it stood.
    async fn open_once<O: Owner>(&self, hub: &Rc<Hub>, owner: &Weak<O>) -> Result<Lost, NotOpened> {
        let identity = hub.identity().ok_or(NotOpened::Anonymous)?;
        let _pass = hub.enter().ok_or(NotOpened::TooMany)?;
        let Some(from_store) = owner.upgrade().map(|owner| owner.store()) else {
            return Ok(Lost::Closed);
        };
        let fd = socket::connect(hub.from, self.address, PEER_UNACKNOWLEDGED_MAX)?;
        let (mut reader, mut writer, ender) = socket::split(fd)?;
        let ender = Rc::new(ender);
        *self.ender.borrow_mut() = Some(Rc::clone(&ender));
        if self.closed.get() {
            return Ok(Lost::Closed);
        }
        let hello = Hello {
            version_min: VERSION,
            version_max: VERSION,
            cluster: identity.cluster,
            from_node: identity.node,
            from_store,
            to_store: self.to,
        };
        let mut inbox = Inbox::new(hub.arrived.clone(), &[]);
        hub.end_after(PEER_GREETING_MAX, &ender);
        let greeted = self
            .greet(hello, &mut inbox, &mut reader, &mut writer)
            .await;
        hub.no_deadline(&ender);
        greeted?;
        let stream = Stream::new(hub, self.to, Opened::Here, ender);
        Ok(run(hub, owner, stream, inbox, reader, writer).await)
    }

    async fn greet(
        &self,
        hello: Hello,
        inbox: &mut Inbox,
        reader: &mut Reader,
        writer: &mut Writer,
    ) -> Result<(), NotOpened> {
        send_alone(writer, &Message::Hello(hello)).await?;
        match inbox.next(reader).await?.message {
            Message::Welcome {
                version: VERSION,
                store,
            } if store == self.to => Ok(()),
            Message::Refused(refusal) => Err(NotOpened::Refused(refusal)),
            _ => Err(NotOpened::Unwelcome),
        }
    }
}

impl Stream {
    fn new(hub: &Hub, remote: StoreId, opened: Opened, ender: Rc<Ender>) -> Rc<Self> {
        Rc::new(Stream {
            id: hub.next_id(),
            remote,
            opened,
            outbox: Outbox::new(hub.queued_max),
            ender,
        })
    }
}

/// Answers a stream that the other side opened, and runs it when it is welcome: `owner` is the store it
/// asks for, if that is here and serves.
pub(crate) fn answer<O: Owner>(hub: &Rc<Hub>, owner: Result<&Rc<O>, Refusal>, accepted: Accepted) {
    let owner = owner.map(Rc::downgrade);
    let shared = Rc::clone(hub);
    hub.tasks.run(async move {
        let remote = accepted.remote.clone();
        if let Err(error) = answer_one(&shared, owner, accepted).await {
            debug!(peer = remote, "a peer's stream: {error}");
        }
    });
}

async fn answer_one<O: Owner>(
    hub: &Rc<Hub>,
    owner: Result<Weak<O>, Refusal>,
    accepted: Accepted,
) -> Result<(), NotOpened> {
    let hello = accepted.hello;
    let (reader, mut writer, ender) = socket::split(accepted.fd)?;
    let ender = Rc::new(ender);
    let pass = hub.enter();
    let checked = match owner {
        _ if !(hello.version_min..=hello.version_max).contains(&VERSION) => Err(Refusal::Version),
        _ if hub
            .identity()
            .is_none_or(|own| own.cluster != hello.cluster) =>
        {
            Err(Refusal::Cluster)
        }
        _ if pass.is_none() => Err(Refusal::Busy),
        owner => owner,
    };
    let owner = match checked {
        Ok(owner) => owner,
        Err(refusal) => {
            warn!(peer = accepted.remote, node = %hello.from_node, "a peer is refused: {refusal}");
            send_alone(&mut writer, &Message::Refused(refusal)).await?;
            return Ok(());
        }
    };
    let welcome = Message::Welcome {
        version: VERSION,
        store: hello.to_store,
    };
    send_alone(&mut writer, &welcome).await?;
    info!(peer = accepted.remote, node = %hello.from_node, store = %hello.from_store, "a peer's stream");
    let inbox = Inbox::new(hub.arrived.clone(), &accepted.unread);
    let stream = Stream::new(hub, hello.from_store, Opened::There, ender);
    let lost = run(hub, &owner, stream, inbox, reader, writer).await;
    info!(peer = accepted.remote, store = %hello.from_store, "a peer's stream ended: {lost}");
    Ok(())
}

/// Runs a stream to its end.
async fn run<O: Owner>(
    hub: &Rc<Hub>,
    owner: &Weak<O>,
    stream: Rc<Stream>,
    mut inbox: Inbox,
    mut reader: Reader,
    mut writer: Writer,
) -> Lost {
    let sender = Rc::clone(&stream);
    hub.tasks.run(async move {
        outbox::write(&sender.outbox, &mut writer).await;
        sender.cut();
    });
    if let Some(owner) = owner.upgrade() {
        owner.on_up(&stream);
    }
    let lost = loop {
        match inbox.next(&mut reader).await {
            Ok(incoming) => {
                let Some(owner) = owner.upgrade() else {
                    break Lost::Closed;
                };
                owner.on_message(&stream, incoming);
            }
            Err(lost) => break lost,
        }
        task::yield_if_needed().await;
    };
    stream.cut();
    if let Some(owner) = owner.upgrade() {
        owner.on_down(&stream);
    }
    lost
}

/// Sends one message without payload, waiting for the socket.
async fn send_alone(writer: &mut Writer, message: &Message) -> Result<(), NotOpened> {
    let mut bytes = Vec::new();
    encode(message, &mut bytes);
    let mut sent = 0;
    while sent < bytes.len() {
        sent += writer.send_with(|send| send(&bytes[sent..])).await?;
    }
    Ok(())
}
