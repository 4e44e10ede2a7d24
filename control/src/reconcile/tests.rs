//! The reconciler against a scripted volume server.

use super::{
    Answer, Condition, Effect, Event, Order, Reconciler, Report, Role, Server, StoreReport,
    VolumeReport,
};
use crate::access::Access;
use crate::limits::{REPLY_WAIT, RETRY_MAX, RETRY_MIN};
use crate::registry::{Change, Node, Policy, Replica, State, Store, Tombstone, Volume};
use holdfast_core::id::{ClusterId, NodeId, StoreId, VolumeId};
use holdfast_core::lsn::{Epoch, Lsn};
use std::time::Duration;

const ID: VolumeId = VolumeId([1; 16]);
const STORE: StoreId = StoreId([7; 16]);
const NODE: NodeId = NodeId([4; 16]);

/// A registry and a reconciler, run as the master does.
struct Bench {
    state: State,
    reconciler: Reconciler,
    now: Duration,
}

impl Bench {
    fn with_volume(created: bool) -> Bench {
        let mut state = State::empty(ClusterId([0; 16]), NodeId([0; 16]));
        add_node(&mut state, NODE, STORE);
        state.apply(&Change::PutVolume(volume(created)));
        Bench {
            state,
            reconciler: Reconciler::default(),
            now: Duration::ZERO,
        }
    }

    fn step(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.reconciler
            .step(self.now, &self.state, event, &mut effects);
        for effect in &effects {
            let changes = match effect {
                Effect::Created(id, store) => {
                    let changed = self.state.confirm_created(*id, *store);
                    changed.into_iter().map(Change::PutVolume).collect()
                }
                Effect::Removed(id, store) => self.state.confirm_removed(*id, *store, 1),
                _ => Vec::new(),
            };
            for change in changes {
                self.state.apply(&change);
            }
        }
        effects
    }

    fn connect(&mut self, report: Report) -> Vec<Effect> {
        self.step(Event::Connected(NODE, Server::default(), report))
    }

    fn after(&mut self, wait: Duration) -> Vec<Effect> {
        self.now += wait;
        self.step(Event::Look)
    }

    fn condition(&self) -> Condition {
        self.status().condition
    }

    fn status(&self) -> super::Status {
        self.reconciler
            .status(&self.state, &self.state.volumes[&ID])
    }

    fn delete(&mut self) -> Vec<Effect> {
        let name = self.state.volumes[&ID].name.clone();
        let doomed = self.state.delete(&name).expect("found").expect("changed");
        self.state.apply(&Change::PutVolume(doomed));
        self.step(Event::Look)
    }
}

fn replica(store: StoreId, created: bool) -> Replica {
    Replica {
        store,
        in_sync: true,
        created,
        discard: false,
    }
}

fn add_node(state: &mut State, node: NodeId, store: StoreId) {
    state.apply(&Change::PutNode(Node {
        id: node,
        name: format!("n{}", node.0[0]),
        zone: String::new(),
        peer_address: format!("127.0.0.{}:9481", node.0[0]),
        portals: vec![format!("127.0.0.{}:3260", node.0[0])],
        cordoned: false,
        draining: false,
    }));
    state.apply(&Change::PutStore(Store {
        id: store,
        node,
        path: "/s".into(),
        capacity_bytes: 1,
    }));
}

fn volume(created: bool) -> Volume {
    Volume {
        id: ID,
        name: "a".parse().expect("a name"),
        size_bytes: 1 << 30,
        epoch: Epoch(2),
        set_version: 1,
        primary: STORE,
        replicas: vec![replica(STORE, created)],
        retired: vec![],
        policy: Policy::default(),
        durability_was: None,
        access: Access::default(),
        revision: 1,
        deleting: false,
    }
}

fn report(volumes: &[(VolumeId, u64, &str)]) -> Report {
    report_of(STORE, volumes)
}

fn report_of(store: StoreId, volumes: &[(VolumeId, u64, &str)]) -> Report {
    let volume = |&(id, epoch, failed): &(VolumeId, u64, &str)| {
        let report = VolumeReport {
            id,
            store,
            epoch: Epoch(epoch),
            set_version: 1,
            role: Role::Alone,
            serving: true,
            promised: Epoch(epoch),
            durable: Lsn(0),
            committed: Lsn(0),
            resyncing: false,
            primary_silent: None,
            copies: vec![],
            size_bytes: 1 << 30,
            used_bytes: 0,
            sessions: 0,
            failed: failed.into(),
            blocks_healed: 0,
            blocks_repaired: 0,
        };
        (id, report)
    };
    Report {
        stores: vec![StoreReport {
            id: Some(store),
            path: "/s".into(),
            failed: String::new(),
            capacity_bytes: 1,
            free_bytes: 1,
            wal_used_bytes: 0,
            wal_capacity_bytes: 0,
            shard: 0,
        }],
        volumes: volumes.iter().map(volume).collect(),
        stores_opening: 0,
    }
}

/// Request number and `create` flag of the only order, which is an assignment.
fn assigned(effects: &[Effect]) -> (u64, bool) {
    match sends(effects).as_slice() {
        [(request, Order::Assign(assignment))] => (*request, assignment.create),
        other => panic!("{other:?}"),
    }
}

fn removed(effects: &[Effect]) -> u64 {
    match sends(effects).as_slice() {
        [(request, Order::Remove(ID))] => *request,
        other => panic!("{other:?}"),
    }
}

fn sends(effects: &[Effect]) -> Vec<(u64, Order)> {
    let send = |effect: &Effect| match effect {
        Effect::Send(_, request, order) => Some((*request, order.clone())),
        _ => None,
    };
    effects.iter().filter_map(send).collect()
}

#[test]
fn a_volume_is_created_once_served_and_never_created_again() {
    let mut bench = Bench::with_volume(false);
    assert_eq!(bench.condition(), Condition::Creating);
    let (request, create) = assigned(&bench.connect(report(&[])));
    assert!(create);
    assert!(sends(&bench.after(Duration::from_secs(1))).is_empty());
    let effects = bench.step(Event::Answered(NODE, request, Answer::Done));
    assert!(effects.contains(&Effect::Created(ID, STORE)));
    bench.step(Event::Reported(NODE, report(&[(ID, 2, "")])));
    assert_eq!(bench.condition(), Condition::Serving);
    bench.step(Event::Disconnected(NODE));
    assert_eq!(bench.condition(), Condition::Unavailable);
    // The store came back without the volume: a loss, which must show.
    let (request, create) = assigned(&bench.connect(report(&[])));
    assert!(!create);
    bench.step(Event::Answered(
        NODE,
        request,
        Answer::Refused("not here".into()),
    ));
    assert_eq!(bench.condition(), Condition::Unavailable);
}

#[test]
fn a_lost_reply_leads_to_the_same_order_after_the_reconnect() {
    let mut bench = Bench::with_volume(false);
    let (first, _) = assigned(&bench.connect(report(&[])));
    bench.step(Event::Disconnected(NODE));
    let (second, create) = assigned(&bench.connect(report(&[])));
    assert!(create);
    assert_ne!(first, second);
    // The late answer to the first one is nobody's.
    assert!(
        bench
            .step(Event::Answered(NODE, first, Answer::Done))
            .is_empty()
    );
    let effects = bench.step(Event::Answered(NODE, second, Answer::Done));
    assert!(effects.contains(&Effect::Created(ID, STORE)));
}

#[test]
fn a_report_is_as_good_as_the_lost_reply() {
    let mut bench = Bench::with_volume(false);
    bench.connect(report(&[]));
    bench.step(Event::Disconnected(NODE));
    let effects = bench.connect(report(&[(ID, 2, "")]));
    assert!(effects.contains(&Effect::Created(ID, STORE)));
    assert!(bench.state.volumes[&ID].is_created());
}

#[test]
fn an_answer_counts_once() {
    let mut bench = Bench::with_volume(false);
    let (request, _) = assigned(&bench.connect(report(&[])));
    bench.step(Event::Answered(NODE, request, Answer::Done));
    let again = bench.step(Event::Answered(NODE, request, Answer::Done));
    assert!(again.is_empty(), "{again:?}");
}

#[test]
fn an_order_without_reply_is_repeated() {
    let mut bench = Bench::with_volume(true);
    bench.connect(report(&[]));
    assert!(sends(&bench.after(REPLY_WAIT - Duration::from_millis(1))).is_empty());
    assigned(&bench.after(Duration::from_millis(1)));
}

#[test]
fn refusals_are_retried_ever_more_slowly_and_for_ever() {
    let mut bench = Bench::with_volume(true);
    let (mut request, _) = assigned(&bench.connect(report(&[])));
    let mut wait = RETRY_MIN;
    for _ in 0..20 {
        bench.step(Event::Answered(NODE, request, Answer::Later("busy".into())));
        assert!(sends(&bench.after(wait - Duration::from_millis(1))).is_empty());
        (request, _) = assigned(&bench.after(Duration::from_millis(1)));
        wait = (wait * 2).min(RETRY_MAX);
    }
    assert_eq!(wait, RETRY_MAX);
}

#[test]
fn a_change_is_sent_at_once_and_in_force_when_confirmed() {
    let mut bench = Bench::with_volume(true);
    let (request, _) = assigned(&bench.connect(report(&[(ID, 2, "")])));
    bench.step(Event::Answered(NODE, request, Answer::Done));
    let access = Access::from_parts(vec!["iqn.x:1".into()], None, None).expect("legal");
    let name = bench.state.volumes[&ID].name.clone();
    let changed = bench
        .state
        .set_access(&name, access)
        .expect("found")
        .expect("changed");
    bench.state.apply(&Change::PutVolume(changed));
    let current = |bench: &Bench| bench.status().current;
    assert!(!current(&bench));
    let (request, _) = assigned(&bench.step(Event::Look));
    assert!(!current(&bench));
    bench.step(Event::Answered(NODE, request, Answer::Done));
    assert!(current(&bench));
}

#[test]
fn a_registry_older_than_the_store_is_not_believed() {
    let mut bench = Bench::with_volume(true);
    let (request, _) = assigned(&bench.connect(report(&[(ID, 3, "")])));
    bench.step(Event::Answered(
        NODE,
        request,
        Answer::Refused("stale epoch".into()),
    ));
    let status = bench.status();
    assert_eq!(status.condition, Condition::Unavailable);
    assert!(status.reason.contains("older"), "{}", status.reason);
}

#[test]
fn a_deletion_is_ordered_until_confirmed_and_then_buried() {
    let mut bench = Bench::with_volume(true);
    let (request, _) = assigned(&bench.connect(report(&[(ID, 2, "")])));
    bench.step(Event::Answered(NODE, request, Answer::Done));
    removed(&bench.delete());
    assert_eq!(bench.condition(), Condition::Deleting);
    bench.step(Event::Disconnected(NODE));
    let request = removed(&bench.connect(report(&[(ID, 2, "")])));
    let effects = bench.step(Event::Answered(NODE, request, Answer::Done));
    assert!(effects.contains(&Effect::Removed(ID, STORE)));
    assert!(bench.state.volumes.is_empty());
    // A report from before the removal changes nothing.
    assert!(sends(&bench.step(Event::Reported(NODE, report(&[(ID, 2, "")])))).is_empty());
}

#[test]
fn what_was_deleted_and_comes_back_is_removed() {
    let mut bench = Bench::with_volume(true);
    bench.state.apply(&Change::BuryVolume(Tombstone {
        id: ID,
        name: "a".into(),
        at_ms: 1,
    }));
    let request = removed(&bench.connect(report(&[(ID, 2, "")])));
    bench.step(Event::Answered(NODE, request, Answer::Done));
    assert!(sends(&bench.step(Event::Reported(NODE, report(&[])))).is_empty());
}

#[test]
fn what_nobody_knows_is_told_once_and_left_alone() {
    let mut bench = Bench::with_volume(true);
    let stranger = VolumeId([9; 16]);
    let found = report(&[(ID, 2, ""), (stranger, 1, "")]);
    let effects = bench.connect(found.clone());
    assigned(&effects);
    let notes = |effects: &[Effect]| {
        let about = |effect: &&Effect| matches!(effect, Effect::Note(text) if text.contains(&stranger.to_string()));
        effects.iter().filter(about).count()
    };
    assert_eq!(notes(&effects), 1);
    assert_eq!(
        bench.reconciler.unknown(NODE).collect::<Vec<_>>(),
        [stranger]
    );
    assert_eq!(notes(&bench.step(Event::Reported(NODE, found))), 0);
}

#[test]
fn a_failed_store_is_the_reason_of_its_volumes() {
    let mut bench = Bench::with_volume(true);
    bench.connect(report(&[(ID, 2, "write failed")]));
    let status = bench.status();
    assert_eq!(status.condition, Condition::Unavailable);
    assert_eq!(status.reason, "write failed");
    bench.step(Event::Reported(NODE, Report::default()));
    let reason = bench.status().reason;
    assert!(reason.contains("not connected"), "{reason}");
}

#[test]
fn a_store_that_opens_later_gets_its_orders_at_once() {
    let mut bench = Bench::with_volume(true);
    assert!(sends(&bench.connect(Report::default())).is_empty());
    let mut failed = report(&[]);
    failed.stores[0].failed = "still recovering".into();
    assert!(sends(&bench.step(Event::Reported(NODE, failed.clone()))).is_empty());
    let (request, _) = assigned(&bench.step(Event::Reported(NODE, report(&[]))));
    bench.step(Event::Answered(NODE, request, Answer::Later("busy".into())));
    bench.step(Event::Reported(NODE, failed));
    assigned(&bench.step(Event::Reported(NODE, report(&[]))));
}

#[test]
fn hosts_are_told_every_portal_that_has_an_address() {
    let cases: [(&[&str], usize); 5] = [
        (&[], 0),
        (&["127.0.0.1:3260"], 1),
        (&["127.0.0.1:3260", "[::1]:3260"], 2),
        (&["127.0.0.1:3260", "0.0.0.0:3261"], 0),
        (&["[::]:3260"], 0),
    ];
    for (portals, announced) in cases {
        let mut bench = Bench::with_volume(true);
        let server = Server {
            pid: 1,
            portals: portals.iter().map(|&portal| portal.to_owned()).collect(),
            peer_address: String::new(),
        };
        let effects = bench.step(Event::Connected(NODE, server, report(&[])));
        match sends(&effects).as_slice() {
            [(_, Order::Assign(given))] => assert_eq!(given.portals.len(), announced),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn orders_in_flight_are_bounded_and_all_are_given_in_the_end() {
    let mut bench = Bench::with_volume(true);
    for byte in 2..=200 {
        bench.state.apply(&Change::PutVolume(Volume {
            id: VolumeId([byte; 16]),
            name: format!("v{byte}").parse().expect("a name"),
            ..volume(true)
        }));
    }
    let mut open = sends(&bench.connect(report(&[])));
    let mut given = open.len();
    assert_eq!(given, crate::limits::ORDERS_IN_FLIGHT_MAX);
    while let Some((request, _)) = open.pop() {
        let more = sends(&bench.step(Event::Answered(NODE, request, Answer::Done)));
        given += more.len();
        open.extend(more);
        assert!(open.len() <= crate::limits::ORDERS_IN_FLIGHT_MAX);
    }
    assert_eq!(given, 200);
}

mod copies;
