//! The machine: one store and its replication machines. See the module head of [`crate::engine`].

use super::status::Status;
use super::{Effect, Event, Serve};
use crate::id::VolumeId;
use crate::store::machine::Store;
use crate::store::{self, RequestError};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::time::Duration;

/// An open store and what is replicated of it.
#[derive(Debug)]
pub struct Engine {
    store: Box<Store>,
    store_effects: Vec<store::Effect>,
}

impl Engine {
    /// Takes over an opened store.
    pub fn new(store: Box<Store>) -> Self {
        Engine {
            store,
            store_effects: Vec::new(),
        }
    }

    /// The store, to be asked.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Decides what follows from several events that came together. `now` is monotonic, from any start.
    pub fn step_all(
        &mut self,
        now: Duration,
        events: impl IntoIterator<Item = Event>,
        effects: &mut Vec<Effect>,
    ) {
        let mut inner = core::mem::take(&mut self.store_effects);
        let events = events
            .into_iter()
            .filter_map(|event| to_store(event, effects));
        self.store.step_all(now, events, &mut inner);
        effects.extend(inner.drain(..).map(Effect::Store));
        self.store_effects = inner;
    }

    /// Whether hosts are served from this store's copy at `now`.
    pub fn may_serve(&self, _volume: VolumeId, _now: Duration) -> Serve {
        Serve::Yes
    }

    /// What a shared volume's copy tells about itself at `now`.
    pub fn status(&self, _volume: VolumeId, _now: Duration) -> Option<Status> {
        None
    }
}

/// Only volumes with one copy are known here: what is about others is refused.
fn to_store(event: Event, effects: &mut Vec<Effect>) -> Option<store::Event> {
    match event {
        Event::Store(event) => return Some(event),
        Event::Peer { payload, .. } => {
            let release = |payload| Effect::Store(store::Effect::Release { payload });
            effects.extend(payload.map(release));
        }
        Event::Assign { tag, .. } | Event::Fence { tag, .. } => {
            let result = Err(RequestError::NotFound);
            effects.push(Effect::Store(store::Effect::Complete { tag, result }));
        }
        Event::StreamUp { .. }
        | Event::StreamDown { .. }
        | Event::ProposalAnswered { .. }
        | Event::FillRead { .. } => {}
    }
    None
}
