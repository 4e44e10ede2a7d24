//! Volumes with several copies: who is told what.

use super::{ID, add_node, replica, report_of, sends, volume};
use crate::reconcile::{Answer, Assignment, Effect, Event, Order, Reconciler, Role, Server};
use crate::registry::{Change, Policy, State, Volume};
use holdfast_core::id::{ClusterId, NodeId, StoreId};
use holdfast_core::lsn::Epoch;
use std::time::Duration;

const STORES: [StoreId; 3] = [StoreId([11; 16]), StoreId([12; 16]), StoreId([13; 16])];

struct Bench {
    state: State,
    reconciler: Reconciler,
}

fn node(index: u8) -> NodeId {
    NodeId([index + 1; 16])
}

fn shared(created: bool) -> Volume {
    Volume {
        primary: STORES[0],
        replicas: STORES.map(|store| replica(store, created)).to_vec(),
        policy: Policy {
            rf: 3,
            ..Policy::default()
        },
        ..volume(created)
    }
}

impl Bench {
    fn with(volume: Volume) -> Bench {
        let mut state = State::empty(ClusterId([0; 16]), node(0));
        for (index, store) in (0..).zip(STORES) {
            add_node(&mut state, node(index), store);
        }
        state.apply(&Change::PutVolume(volume));
        Bench {
            state,
            reconciler: Reconciler::default(),
        }
    }

    fn step(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        let now = Duration::ZERO;
        self.reconciler.step(now, &self.state, event, &mut effects);
        effects
    }

    fn connect(&mut self, index: u8) -> Vec<Effect> {
        let report = report_of(STORES[usize::from(index)], &[]);
        self.step(Event::Connected(node(index), Server::default(), report))
    }

    fn change(&mut self, change: impl FnOnce(&mut Volume)) -> Vec<Effect> {
        let mut changed = self.state.volumes[&ID].clone();
        change(&mut changed);
        changed.revision += 1;
        self.state.apply(&Change::PutVolume(changed));
        self.step(Event::Look)
    }
}

fn assignment(effects: &[Effect]) -> (u64, Assignment) {
    match sends(effects).as_slice() {
        [(request, Order::Assign(assignment))] => (*request, (**assignment).clone()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_copy_learns_its_role_and_all_members() {
    let mut bench = Bench::with(shared(false));
    for index in 0..3 {
        let (_, told) = assignment(&bench.connect(index));
        let role = if index == 0 {
            Role::Primary
        } else {
            Role::Secondary
        };
        assert_eq!(told.role, role);
        assert_eq!(told.store, STORES[usize::from(index)]);
        assert!(told.create);
        assert_eq!(told.members.len(), 3);
        assert!(told.members.iter().all(|member| member.in_sync));
        let primaries = told.members.iter().filter(|member| member.primary);
        assert_eq!(
            primaries.map(|member| member.store).collect::<Vec<_>>(),
            [STORES[0]]
        );
        assert_eq!(told.members[1].peer_address, "127.0.0.2:9481");
    }
}

#[test]
fn each_copy_is_confirmed_for_itself() {
    let mut bench = Bench::with(shared(false));
    bench.connect(0);
    let (request, _) = assignment(&bench.connect(1));
    let effects = bench.step(Event::Answered(node(1), request, Answer::Done));
    assert!(effects.contains(&Effect::Created(ID, STORES[1])));
}

#[test]
fn another_reign_is_told_to_every_copy_at_once() {
    let mut bench = Bench::with(shared(true));
    for index in 0..3 {
        bench.connect(index);
    }
    let effects = bench.change(|volume| {
        volume.epoch = Epoch(volume.epoch.0 + 1);
        volume.primary = STORES[2];
        volume.replicas[0].in_sync = false;
    });
    let told: Vec<_> = sends(&effects)
        .into_iter()
        .map(|(_, order)| match order {
            Order::Assign(assignment) => (assignment.store, assignment.role),
            Order::Remove(_) => panic!("nothing is removed"),
        })
        .collect();
    assert_eq!(
        told,
        [
            (STORES[0], Role::Secondary),
            (STORES[1], Role::Secondary),
            (STORES[2], Role::Primary),
        ]
    );
    assert!(sends(&bench.step(Event::Look)).is_empty()); // Once, until it is answered or overdue.
}

#[test]
fn a_member_that_moved_is_told_to_the_others() {
    let mut bench = Bench::with(shared(true));
    bench.connect(0);
    let mut moved = bench.state.nodes[&node(1)].clone();
    moved.peer_address = "127.0.0.9:9481".into();
    bench.state.apply(&Change::PutNode(moved));
    let (_, told) = assignment(&bench.step(Event::Look));
    assert_eq!(told.members[1].peer_address, "127.0.0.9:9481");
}

#[test]
fn a_retired_copy_is_removed_and_one_to_be_discarded_is_made_again() {
    let mut bench = Bench::with(shared(true));
    bench.connect(0);
    bench.connect(1);
    let effects = bench.change(|volume| {
        volume.replicas[1].in_sync = false;
        volume.replicas[1].created = false;
        volume.replicas[1].discard = true;
        volume.set_version += 1;
    });
    let removal = sends(&effects)
        .into_iter()
        .find(|(_, order)| *order == Order::Remove(ID));
    let (request, _) = removal.expect("the diverged copy goes first");
    let effects = bench.step(Event::Answered(node(1), request, Answer::Done));
    assert!(effects.contains(&Effect::Removed(ID, STORES[1])));
    let (request, told) = assignment(&effects);
    assert!(told.create);
    assert_eq!(told.role, Role::Secondary);
    assert_eq!(told.members.len(), 2); // Nobody's member until it exists.
    let effects = bench.step(Event::Answered(node(1), request, Answer::Done));
    assert!(effects.contains(&Effect::Created(ID, STORES[1])));
    let effects = bench.change(|volume| {
        volume.replicas.remove(1);
        volume.retired.push(STORES[1]);
    });
    assert!(
        sends(&effects)
            .iter()
            .any(|(_, order)| *order == Order::Remove(ID))
    );
}

/// Its agent is away, and it may serve on: what it said last is kept with its age. One that is known to
/// be gone says nothing any more.
#[test]
fn what_a_node_said_last_is_kept_while_only_its_agent_is_away() {
    let mut bench = Bench::with(shared(true));
    bench.connect(0);
    assert!(bench.reconciler.last_report(node(0)).is_some());
    bench.step(Event::Unheard(node(0)));
    assert!(bench.reconciler.report(node(0)).is_none());
    let (report, at) = bench.reconciler.last_report(node(0)).expect("kept");
    assert_eq!((report.stores.len(), at), (1, Duration::ZERO));
    bench.connect(0);
    bench.step(Event::Disconnected(node(0)));
    bench.step(Event::Unheard(node(0)));
    assert!(bench.reconciler.last_report(node(0)).is_none());
}

/// A report from before the confirmation does not say that a copy is missing.
#[test]
fn a_confirmation_is_newer_than_the_report_before_it() {
    let mut bench = Bench::with(shared(false));
    let (request, _) = assignment(&bench.connect(0));
    assert!(!bench.reconciler.is_confirmed_since_report(node(0), ID));
    bench.step(Event::Answered(node(0), request, Answer::Done));
    assert!(bench.reconciler.is_confirmed_since_report(node(0), ID));
}
