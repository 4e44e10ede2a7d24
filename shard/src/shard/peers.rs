//! Peer streams on their way to the store they are for. The first shard accepts for all.

use super::Shard;
use crate::messages::ToShard;
use crate::peer::accept::accept;
use crate::peer::stream::{Accepted, answer};
use crate::runtime::task;
use holdfast_core::id::StoreId;
use holdfast_core::peer::Refusal;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use tracing::warn;

impl Shard {
    /// Accepts streams of peers until the end.
    pub(super) fn listen_for_peers(self: &Rc<Self>, listener: OwnedFd) {
        let shard = Rc::clone(self);
        let route = Rc::new(move |accepted| shard.route_peer(accepted));
        task::spawn(accept(Rc::clone(&self.hub), listener, route));
    }

    /// Tells the accepting shard which stores are here.
    pub(super) fn announce_stores(&self) {
        let stores = self.open_stores().map(|driver| driver.id()).collect();
        if self.index == 0 {
            return self.learn_stores(0, stores);
        }
        let message = ToShard::PeerStores(self.index, stores);
        if self.shards.borrow_mut()[0].send(message).is_err() {
            warn!("the accepting shard takes no messages: peers do not find the stores here");
        }
    }

    /// Learns which stores a shard has.
    pub(super) fn learn_stores(&self, shard: usize, stores: Vec<StoreId>) {
        let mut known = self.peer_stores.borrow_mut();
        known.extend(stores.into_iter().map(|store| (store, shard)));
    }

    /// Gives a stream to the shard of its store; a stream to a store that nobody has is refused here.
    fn route_peer(&self, accepted: Accepted) {
        let shard = self
            .peer_stores
            .borrow()
            .get(&accepted.hello.to_store)
            .copied();
        match shard {
            Some(shard) if shard != self.index => {
                // A shard that takes no messages loses the stream; the peer opens it again.
                let message = ToShard::PeerStream(Box::new(accepted));
                let _ = self.shards.borrow_mut()[shard].send(message);
            }
            _ => self.answer_peer(accepted),
        }
    }

    /// Answers a stream to a store of this shard.
    pub(super) fn answer_peer(&self, accepted: Accepted) {
        let owner = match self.store(accepted.hello.to_store) {
            Some(driver) if driver.failure().is_some() => Err(Refusal::StoreFailed),
            Some(driver) => Ok(driver),
            None => Err(Refusal::Store),
        };
        answer(&self.hub, owner, accepted);
    }
}
