//! Accepting connections, within bounds.

use super::handover::Handover;
use super::service::Inner;
use crate::limits::ACCEPT_PAUSE;
use crate::runtime::socket::{Listener, local_address, peer_address};
use crate::runtime::task;
use holdfast_iscsi::access::Access;
use holdfast_iscsi::connection::{Connection as Machine, Portal, RANDOM_BYTES};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use tracing::warn;

/// Accepts until the process ends.
pub(super) async fn accept(service: Rc<Inner>, fd: OwnedFd) {
    let listener = Listener::attach(fd);
    loop {
        let accepted = listener.accept().await;
        if service.is_closing() {
            return;
        }
        match accepted.and_then(|fd| admit(&service, fd)) {
            Ok(()) => {}
            Err(error) => {
                warn!("accepting a connection failed: {error}");
                task::sleep(ACCEPT_PAUSE).await;
            }
        }
        task::yield_if_needed().await;
    }
}

fn admit(service: &Rc<Inner>, fd: OwnedFd) -> io::Result<()> {
    let Ok(remote) = peer_address(&fd) else {
        // It has gone already.
        return Ok(());
    };
    let portal = Portal {
        local_address: local_address(&fd)?,
        discovery: Access::default(),
    };
    let mut random = [0; RANDOM_BYTES];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    if !service.make_room() {
        return Ok(());
    }
    let peer = service.next_peer();
    let machine = Machine::new(portal, peer, random, task::now());
    service.adopt(Handover {
        fd,
        machine,
        peer,
        remote: remote.to_string(),
        unread: Vec::new(),
        target_name: String::new(),
    });
    Ok(())
}
