//! The embedded single master: one task that owns registry and reconciler and takes requests one
//! after the other.
//!
//! A change is decided, made durable, applied, reconciled and published, in this order; a caller that
//! goes away interrupts nothing. A storage error ends the task: the process must stop (see
//! `registry::database`). Waiting for an effect is the caller's business, on the published view.

use crate::access::Access;
use crate::convert;
use crate::limits::{EVENTS_MAX, MASTER_QUEUE, TICK};
use crate::name::VolumeName;
use crate::placement;
use crate::reconcile::{Answer, Effect, Event, Reconciler, Report, Server};
use crate::registry::database::{Registry, StorageError};
use crate::registry::{
    Audit, Change, Creation, NewVolume, Node, Refusal, RefusalKind, State, Store,
};
use crate::view::{self, View};
use holdfast_core::id::VolumeId;
use holdfast_core::link;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, oneshot, watch};

/// Who asks, as far as is known; callers are not authenticated.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Name and address.
    pub who: String,
    /// The caller's id of the request.
    pub request_id: String,
}

/// A message to the volume server.
#[derive(Clone, PartialEq)]
#[allow(missing_debug_implementations)] // Assignments carry secrets.
pub struct Outgoing(pub link::Message);

/// What the agent learns on a link.
#[derive(Debug)]
pub enum LinkEvent {
    /// What is.
    Report(Report),
    /// An order's result.
    Reply(u64, Answer),
    /// It ended.
    Down,
}

enum Request {
    Create(
        NewVolume,
        Caller,
        oneshot::Sender<Result<VolumeId, Refusal>>,
    ),
    SetAccess(
        VolumeName,
        Access,
        Caller,
        oneshot::Sender<Result<VolumeId, Refusal>>,
    ),
    Delete(
        VolumeName,
        Caller,
        oneshot::Sender<Result<VolumeId, Refusal>>,
    ),
    LinkUp(
        Server,
        Report,
        mpsc::Sender<Outgoing>,
        oneshot::Sender<Result<u64, String>>,
    ),
    Link(u64, LinkEvent),
}

/// The master is gone; the process is about to stop.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the control process is stopping")]
pub struct Stopped;

/// How others reach the master.
#[derive(Clone)]
#[allow(missing_debug_implementations)] // Its queue may hold secrets.
pub struct Handle {
    requests: mpsc::Sender<Request>,
    view: watch::Receiver<Arc<View>>,
}

struct Up {
    link: u64,
    orders: mpsc::Sender<Outgoing>,
}

/// See the module's head.
#[allow(missing_debug_implementations)]
pub struct Master {
    registry: Arc<Registry>,
    state: State,
    reconciler: Reconciler,
    requests: mpsc::Receiver<Request>,
    view: watch::Sender<Arc<View>>,
    events: VecDeque<Arc<Audit>>,
    up: Option<Up>,
    last_link: u64,
    started: Instant,
}

impl Handle {
    /// The newest view, and notice of each next one.
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// Registers a volume, or finds the one that is so already.
    pub async fn create(&self, request: NewVolume, caller: Caller) -> Result<VolumeId, Refusal> {
        self.ask(|answer| Request::Create(request, caller, answer))
            .await
    }

    /// Registers other access.
    pub async fn set_access(
        &self,
        name: VolumeName,
        access: Access,
        caller: Caller,
    ) -> Result<VolumeId, Refusal> {
        self.ask(|answer| Request::SetAccess(name, access, caller, answer))
            .await
    }

    /// Registers a deletion.
    pub async fn delete(&self, name: VolumeName, caller: Caller) -> Result<VolumeId, Refusal> {
        self.ask(|answer| Request::Delete(name, caller, answer))
            .await
    }

    /// A volume server said hello: a number for the link, or why it is refused.
    pub async fn link_up(
        &self,
        server: Server,
        report: Report,
        orders: mpsc::Sender<Outgoing>,
    ) -> Result<Result<u64, String>, Stopped> {
        let (answer, answered) = oneshot::channel();
        let request = Request::LinkUp(server, report, orders, answer);
        self.requests.send(request).await.map_err(|_| Stopped)?;
        answered.await.map_err(|_| Stopped)
    }

    /// Something happened on a link.
    pub async fn link(&self, link: u64, event: LinkEvent) -> Result<(), Stopped> {
        let sent = self.requests.send(Request::Link(link, event)).await;
        sent.map_err(|_| Stopped)
    }

    /// Returns when the master is gone.
    pub async fn stopped(&self) {
        self.requests.closed().await;
    }

    async fn ask(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<VolumeId, Refusal>>) -> Request,
    ) -> Result<VolumeId, Refusal> {
        let (answer, answered) = oneshot::channel();
        let stopping = |_| Refusal::with(RefusalKind::Unavailable, Stopped.to_string());
        self.requests
            .send(request(answer))
            .await
            .map_err(|_| stopping(()))?;
        answered.await.map_err(|_| stopping(()))?
    }
}

impl Master {
    /// A master on an open registry, and the way to reach it.
    pub fn start(
        registry: Registry,
        state: State,
        host_name: String,
    ) -> Result<(Master, Handle), StorageError> {
        let audit = registry.audit(EVENTS_MAX)?;
        let reconciler = Reconciler::default();
        let events: VecDeque<_> = audit.into_iter().map(Arc::new).collect();
        let view = View::compose(&state, &reconciler, events.iter().cloned().collect());
        let (view, view_receiver) = watch::channel(Arc::new(view));
        let (sender, requests) = mpsc::channel(MASTER_QUEUE);
        let handle = Handle {
            requests: sender,
            view: view_receiver,
        };
        let mut master = Master {
            registry: Arc::new(registry),
            state,
            reconciler,
            requests,
            view,
            events,
            up: None,
            last_link: 0,
            started: Instant::now(),
        };
        master.register_node(host_name)?;
        Ok((master, handle))
    }

    /// Serves until `stop` resolves or storage fails, then closes the registry.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), StorageError> {
        tokio::pin!(stop);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = &mut stop => break,
                request = self.requests.recv() => match request {
                    Some(request) => self.on_request(request).await?,
                    None => break,
                },
                _ = tick.tick() => self.reconcile(Event::Look).await?,
            }
        }
        let Master { registry, .. } = self;
        match Arc::try_unwrap(registry) {
            Ok(registry) => registry.close(),
            Err(_) => Ok(()), // A commit was cut off by the stop; the file is closed by the drop.
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
            Request::LinkUp(server, report, orders, answer) => {
                self.link_up(server, report, orders, answer).await?;
            }
            Request::Link(link, event) => self.on_link(link, event).await?,
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
        let opening = self.reconciler.report().map_or(0, |it| it.stores_opening);
        let volume = match self.state.create(&request, &stores, id) {
            Ok(Creation::Existing(id)) => return Ok(Ok(id)),
            result if opening > 0 && placement::depends_on_stores(&result) => {
                return Ok(Err(placement::still_opening(opening)));
            }
            Err(refusal) => return Ok(Err(refusal)),
            Ok(Creation::Fresh(volume)) => volume,
        };
        let what = format!(
            "create volume {} ({id}) of {} bytes on store {}",
            volume.name, volume.size_bytes, volume.store
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

    async fn link_up(
        &mut self,
        server: Server,
        report: Report,
        orders: mpsc::Sender<Outgoing>,
        answer: oneshot::Sender<Result<u64, String>>,
    ) -> Result<(), StorageError> {
        if self.up.as_ref().is_some_and(|up| !up.orders.is_closed()) {
            let pid = self.reconciler.server().map_or(0, |server| server.pid);
            let reason = format!("another volume server (process {pid}) is connected");
            let _ = answer.send(Err(reason)); // Then it is gone by itself.
            return Ok(());
        }
        if self.up.take().is_some() {
            self.reconcile(Event::Disconnected).await?;
        }
        self.last_link += 1;
        let link = self.last_link;
        // The queue is fresh and has room for it; welcome goes before every order.
        let welcome = orders.try_send(Outgoing(convert::welcome_to(&self.state)));
        if welcome.is_err() || answer.send(Ok(link)).is_err() {
            return Ok(());
        }
        self.up = Some(Up { link, orders });
        self.register_stores(&report).await?;
        self.reconcile(Event::Connected(server, report)).await
    }

    async fn on_link(&mut self, link: u64, event: LinkEvent) -> Result<(), StorageError> {
        if self.up.as_ref().is_none_or(|up| up.link != link) {
            return Ok(()); // A late message of a link that was given up.
        }
        let event = match event {
            LinkEvent::Report(report) => {
                self.register_stores(&report).await?;
                Event::Reported(report)
            }
            LinkEvent::Reply(request, answer) => Event::Answered(request, answer),
            LinkEvent::Down => {
                self.up = None;
                Event::Disconnected
            }
        };
        self.reconcile(event).await
    }

    /// Remembers stores that were never seen, or not at this path.
    async fn register_stores(&mut self, report: &Report) -> Result<(), StorageError> {
        let seen = report.stores.iter().filter_map(|store| {
            let id = store.id?;
            let known = self.state.stores.get(&id);
            known
                .is_none_or(|known| known.path != store.path)
                .then(|| Store {
                    id,
                    node: self.state.node,
                    path: store.path.clone(),
                    capacity_bytes: store.capacity_bytes,
                })
        });
        let changes: Vec<_> = seen.map(Change::PutStore).collect();
        if changes.is_empty() {
            return Ok(());
        }
        let caller = self.own_caller();
        let what = format!("register {} stores", changes.len());
        self.commit(&changes, &caller, what).await
    }

    fn register_node(&mut self, name: String) -> Result<(), StorageError> {
        let node = Node {
            id: self.state.node,
            name,
        };
        if self.state.nodes.get(&node.id) == Some(&node) {
            return Ok(());
        }
        let what = format!("register node {} as {}", node.id, node.name);
        let audit = entry(&self.own_caller(), what);
        let change = Change::PutNode(node);
        self.registry
            .commit(std::slice::from_ref(&change), &audit)?;
        self.state.apply(&change);
        self.remember(audit);
        Ok(())
    }

    async fn change(
        &mut self,
        changes: Vec<Change>,
        caller: &Caller,
        what: String,
    ) -> Result<(), StorageError> {
        self.commit(&changes, caller, what).await?;
        self.reconcile(Event::Look).await
    }

    /// Makes changes durable, then visible.
    async fn commit(
        &mut self,
        changes: &[Change],
        caller: &Caller,
        what: String,
    ) -> Result<(), StorageError> {
        let audit = entry(caller, what);
        let registry = Arc::clone(&self.registry);
        let (owned, entry) = (changes.to_vec(), audit.clone());
        let task = tokio::task::spawn_blocking(move || registry.commit(&owned, &entry));
        task.await
            .expect("a commit returns its errors and does not panic")?;
        for change in changes {
            self.state.apply(change);
        }
        self.remember(audit);
        Ok(())
    }

    /// Lets the reconciler learn `event`, does what it wants, and publishes the result.
    async fn reconcile(&mut self, event: Event) -> Result<(), StorageError> {
        let mut effects = Vec::new();
        let now = self.started.elapsed();
        self.reconciler.step(now, &self.state, event, &mut effects);
        for effect in effects {
            match effect {
                Effect::Send(request, order) => self.send(convert::order_to(request, &order)),
                Effect::Created(id) => {
                    let changed = self.state.confirm_created(id);
                    let changes: Vec<_> = changed.into_iter().map(Change::PutVolume).collect();
                    self.confirm(&changes, format!("volume {id} exists"))
                        .await?;
                }
                Effect::Removed(id) => {
                    let changes = self.state.confirm_removed(id, now_ms());
                    self.confirm(&changes, format!("volume {id} is removed"))
                        .await?;
                }
                Effect::Note(what) => {
                    let audit = entry(&self.own_caller(), what);
                    self.remember(audit);
                }
            }
        }
        let events = self.events.iter().cloned().collect();
        let view = View::compose(&self.state, &self.reconciler, events);
        self.view.send_replace(Arc::new(view));
        Ok(())
    }

    async fn confirm(&mut self, changes: &[Change], what: String) -> Result<(), StorageError> {
        if changes.is_empty() {
            return Ok(()); // Confirmed before.
        }
        let caller = self.own_caller();
        self.commit(changes, &caller, what).await
    }

    /// Queues a message; a volume server that takes none is cut off by its agent task.
    fn send(&mut self, message: link::Message) {
        if let Some(up) = &self.up
            && up.orders.try_send(Outgoing(message)).is_err()
        {
            // The order is repeated after the reconnect, or when its reply is overdue.
            tracing::warn!("control link: an order was not queued");
        }
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

    fn own_caller(&self) -> Caller {
        Caller {
            who: "holdfast-control".into(),
            request_id: String::new(),
        }
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
fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
