//! Accepting streams on the first shard, up to the message that names the store they are for.

use super::hub::Hub;
use super::inbox::Inbox;
use super::stream::Accepted;
use crate::limits::{ACCEPT_PAUSE, PEER_GREETING_MAX, PEER_HALF_OPEN_MAX};
use crate::runtime::local::Gate;
use crate::runtime::socket::{self, Listener, peer_address};
use crate::runtime::task;
use holdfast_core::peer::Message;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use tracing::{debug, warn};

/// Accepts until the end of the process and gives each stream to `route`.
pub(crate) async fn accept(hub: Rc<Hub>, fd: OwnedFd, route: Rc<dyn Fn(Accepted)>) {
    let listener = Listener::attach(fd);
    let half_open: Rc<Gate> = Rc::default();
    loop {
        match listener.accept().await {
            // Peers open again; a flood of strangers costs each of them a closed connection.
            Ok(_) if half_open.count() >= PEER_HALF_OPEN_MAX => {}
            Ok(fd) => {
                let pass = half_open.enter();
                let (shared, route) = (Rc::clone(&hub), Rc::clone(&route));
                hub.tasks.run(async move {
                    let named = name(&shared, fd).await;
                    drop(pass);
                    match named {
                        Some(accepted) => route(accepted),
                        None => debug!("a connection to the peer port did not say who it is"),
                    }
                });
            }
            Err(error) => {
                warn!("accepting a peer failed: {error}");
                task::sleep(ACCEPT_PAUSE).await;
            }
        }
        task::yield_if_needed().await;
    }
}

/// Waits for the first message, a bounded time.
async fn name(hub: &Rc<Hub>, fd: OwnedFd) -> Option<Accepted> {
    let remote = peer_address(&fd).ok()?.to_string();
    socket::keep_alive(&fd).ok()?;
    let kept = fd.try_clone().ok()?;
    let (mut reader, _writer, ender) = socket::split(fd).ok()?;
    let ender = Rc::new(ender);
    let mut inbox = Inbox::new(hub.arrived.clone(), &[]);
    hub.end_after(PEER_GREETING_MAX, &ender);
    let first = inbox.next(&mut reader).await;
    hub.no_deadline(&ender);
    match first.ok()?.message {
        Message::Hello(hello) => Some(Accepted {
            fd: kept,
            remote,
            hello,
            unread: inbox.into_unread(),
        }),
        _ => None,
    }
}
