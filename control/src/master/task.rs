//! The master's loop, and the changes that people ask for.

use super::nodes::Session;
use super::reigns::Reigns;
use super::repairs::Repairs;
use super::{Caller, Handle, Request};
use crate::access::Access;
use crate::convert;
use crate::limits::{EVENTS_MAX, MASTER_QUEUE, REIGN_TICK, TICK};
use crate::name::VolumeName;
use crate::placement;
use crate::raft::{Command, CommitError, Expect, Group};
use crate::reconcile::{Effect, Event, Reconciler};
use crate::registry::database::StorageError;
use crate::registry::{Audit, Change, Creation, NewVolume, Refusal, State};
use crate::view::{self, Sources, View};
use holdfast_core::id::{NodeId, VolumeId};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, watch};

/// See the parent module's head.
#[allow(missing_debug_implementations)]
pub struct Master {
    pub(super) group: Group,
    /// Index of the newest command in `state`.
    version: u64,
    pub(super) state: State,
    pub(super) reconciler: Reconciler,
    pub(super) reigns: Reigns,
    pub(super) repairs: Repairs,
    pub(super) sessions: BTreeMap<NodeId, Session>,
    pub(super) last_session: u64,
    requests: mpsc::Receiver<Request>,
    view: watch::Sender<Arc<View>>,
    events: VecDeque<Arc<Audit>>,
    started: Instant,
}

impl Master {
    /// A master for one reign, on what its group has applied, and the way to reach it. `audit` is
    /// what happened before, oldest first.
    pub fn start(
        group: Group,
        (state, version): (State, u64),
        audit: Vec<Audit>,
    ) -> (Master, Handle) {
        let events: VecDeque<_> = audit.into_iter().map(Arc::new).collect();
        let reconciler = Reconciler::default();
        let sources = Sources {
            now: Duration::ZERO,
            state: &state,
            reconciler: &reconciler,
            heard: &Default::default(),
            closed: &Default::default(),
            obstacles: &Default::default(),
        };
        let view = View::compose(sources, events.iter().cloned().collect());
        let (view, view_receiver) = watch::channel(Arc::new(view));
        let (sender, requests) = mpsc::channel(MASTER_QUEUE);
        let handle = Handle {
            requests: sender,
            view: view_receiver,
        };
        let reigns = Reigns::of(&state);
        let master = Master {
            group,
            version,
            state,
            reconciler,
            reigns,
            repairs: Repairs::default(),
            sessions: BTreeMap::new(),
            last_session: 0,
            requests,
            view,
            events,
            started: Instant::now(),
        };
        (master, handle)
    }

    /// Replaces copies whose node is gone for so long.
    #[must_use]
    pub fn replacing_after(mut self, delay: Duration) -> Master {
        self.repairs.replace_after = delay;
        self
    }

    /// Serves until `stop` resolves, storage fails, or a commit shows that the reign is over.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), StorageError> {
        tokio::pin!(stop);
        let ticker = |period| {
            let mut tick = tokio::time::interval(period);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            tick
        };
        let (mut tick, mut reign_tick) = (ticker(TICK), ticker(REIGN_TICK));
        loop {
            tokio::select! {
                () = &mut stop => return Ok(()),
                request = self.requests.recv() => match request {
                    Some(request) => self.on_request(request).await?,
                    None => return Ok(()),
                },
                _ = tick.tick() => {
                    self.reconcile(Event::Look).await?;
                    self.repair().await?;
                }
                _ = reign_tick.tick() => self.watch_reigns().await?,
            }
        }
    }

    async fn on_request(&mut self, request: Request) -> Result<(), StorageError> {
        match request {
            Request::Create(request, caller, answer) => {
                let result = self.create(request, &caller).await?;
                let _ = answer.send(result); // The caller may have gone; the change stays.
            }
            Request::SetAccess(name, access, caller, answer) => {
                let result = self.set_access(&name, access, &caller).await?;
                let _ = answer.send(result);
            }
            Request::Delete(name, caller, answer) => {
                let result = self.delete(&name, &caller).await?;
                let _ = answer.send(result);
            }
            Request::Move(name, node, caller, answer) => {
                self.move_primary(&name, &node, caller, answer).await?;
            }
            Request::ForcePromote(name, node, caller, answer) => {
                self.force_promote(&name, &node, caller, answer).await?;
            }
            Request::Copies(name, wish, caller, answer) => {
                self.copy_wish(&name, wish, caller, answer).await?;
            }
            Request::Node(node, wish, caller, answer) => {
                self.node_wish(&node, wish, caller, answer).await?;
            }
            Request::Join(joining, out, answer) => self.join(joining, out, answer).await?,
            Request::Agent(node, session, event) => {
                self.on_agent(node, session, event.map(|event| *event))
                    .await?;
            }
            Request::Left(node, session) => self.on_left(node, session).await?,
        }
        Ok(())
    }

    async fn create(
        &mut self,
        request: NewVolume,
        caller: &Caller,
    ) -> Result<Result<VolumeId, Refusal>, StorageError> {
        let stores = view::store_spaces(&self.state, &self.reconciler);
        let id = VolumeId(*uuid::Uuid::new_v4().as_bytes());
        let opening = self.reconciler.stores_opening();
        let volume = match self.state.create(&request, &stores, id) {
            result if opening > 0 && placement::depends_on_stores(&result) => {
                return Ok(Err(placement::still_opening(opening)));
            }
            Err(refusal) => return Ok(Err(refusal)),
            Ok(Creation::Existing(id)) => return Ok(Ok(id)),
            Ok(Creation::Fresh(volume)) => *volume,
        };
        let stores = volume.replicas.iter().map(|copy| copy.store.to_string());
        let what = format!(
            "create volume {} ({id}) of {} bytes, {}, on {}",
            volume.name,
            volume.size_bytes,
            volume.policy,
            stores.collect::<Vec<_>>().join(" ")
        );
        self.change(vec![Change::PutVolume(volume)], caller, what)
            .await?;
        Ok(Ok(id))
    }

    async fn set_access(
        &mut self,
        name: &VolumeName,
        access: Access,
        caller: &Caller,
    ) -> Result<Result<VolumeId, Refusal>, StorageError> {
        let changed = match self.state.set_access(name, access) {
            Err(refusal) => return Ok(Err(refusal)),
            Ok(changed) => changed,
        };
        if let Some(volume) = changed {
            let what = format!("change access of volume {name} ({})", volume.id);
            self.change(vec![Change::PutVolume(volume)], caller, what)
                .await?;
        }
        Ok(self.state.volume(name).map(|volume| volume.id))
    }

    async fn delete(
        &mut self,
        name: &VolumeName,
        caller: &Caller,
    ) -> Result<Result<VolumeId, Refusal>, StorageError> {
        let id = match self.state.volume(name) {
            Err(refusal) => return Ok(Err(refusal)),
            Ok(volume) => volume.id,
        };
        if let Ok(Some(volume)) = self.state.delete(name) {
            let what = format!("delete volume {name} ({id})");
            self.change(vec![Change::PutVolume(volume)], caller, what)
                .await?;
        }
        Ok(Ok(id))
    }

    pub(super) async fn change(
        &mut self,
        changes: Vec<Change>,
        caller: &Caller,
        what: String,
    ) -> Result<(), StorageError> {
        self.commit(&changes, caller, what).await?;
        self.reconcile(Event::Look).await
    }

    /// Has changes agreed on by a majority of the masters, then makes them visible.
    pub(super) async fn commit(
        &mut self,
        changes: &[Change],
        caller: &Caller,
        what: String,
    ) -> Result<(), StorageError> {
        let audit = entry(caller, what);
        let command = Command {
            changes: changes.to_vec(),
            audit: audit.clone(),
            // All was decided on this state; nobody else may have changed it.
            expects: vec![Expect::NothingSince(self.version)],
        };
        self.version = match self.group.commit(command).await {
            Ok(version) => version,
            Err(CommitError::Stopped(reason)) => return Err(StorageError::Consensus(reason)),
            Err(error) => return Err(StorageError::ReignOver(error)),
        };
        for change in changes {
            self.state.apply(change);
        }
        self.remember(audit);
        Ok(())
    }

    /// Lets the reconciler learn `event`, does what it wants, and publishes the result.
    pub(super) async fn reconcile(&mut self, event: Event) -> Result<(), StorageError> {
        let mut effects = Vec::new();
        let now = self.now();
        self.reconciler.step(now, &self.state, event, &mut effects);
        let mut created = Vec::new();
        for effect in effects {
            match effect {
                Effect::Send(node, request, order) => {
                    self.send(node, &convert::order_to(request, &order));
                }
                Effect::Created(id, store) => created.push((id, store)),
                Effect::Removed(id, store) => {
                    let changes = self.state.confirm_removed(id, store, now_ms());
                    let what = format!("volume {id} is removed from store {store}");
                    self.confirm(&changes, what).await?;
                }
                Effect::Note(what) => self.note(what),
            }
        }
        // After the orders: what follows from it may give newer ones.
        for (id, store) in created {
            self.on_created(id, store).await?;
        }
        self.publish();
        Ok(())
    }

    pub(super) async fn confirm(
        &mut self,
        changes: &[Change],
        what: String,
    ) -> Result<(), StorageError> {
        if changes.is_empty() {
            return Ok(()); // Confirmed before.
        }
        let caller = self.own_caller();
        self.commit(changes, &caller, what).await
    }

    pub(super) fn publish(&mut self) {
        let heard = self.sessions.keys().copied().collect();
        let sources = Sources {
            now: self.now(),
            state: &self.state,
            reconciler: &self.reconciler,
            heard: &heard,
            closed: &self.reigns.closed(),
            obstacles: self.repairs.obstacles(),
        };
        let view = View::compose(sources, self.events.iter().cloned().collect());
        self.view.send_replace(Arc::new(view));
    }

    /// Adds to the event log, and not to the registry.
    pub(super) fn note(&mut self, what: String) {
        let audit = entry(&self.own_caller(), what);
        self.remember(audit);
    }

    fn remember(&mut self, audit: Audit) {
        tracing::info!(
            who = audit.who,
            request = audit.request_id,
            "{}",
            audit.what
        );
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(Arc::new(audit));
    }

    pub(super) fn own_caller(&self) -> Caller {
        Caller {
            who: "holdfast-control".into(),
            request_id: String::new(),
        }
    }

    /// Time since the master started; it never goes back.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

fn entry(caller: &Caller, what: String) -> Audit {
    Audit {
        at_ms: now_ms(),
        who: caller.who.clone(),
        request_id: caller.request_id.clone(),
        what,
    }
}

/// Wall clock for people; nothing is decided by it.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
