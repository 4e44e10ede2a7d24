//! What the coordinator does, rule by rule; all of it under random schedules is in `model`.

mod model;
mod proposals;
mod requests;

use super::{Activity, Coordinator};
use crate::cluster::election::Position;
use crate::cluster::limits::{CLOSED_RETRY, FENCE_ANSWERS, FENCE_RETRY, REIGN_GRACE};
use crate::cluster::message::{
    Cause, Closed, CommitId, CopyReport, CopyState, Effect, Event, FenceAnswer, FenceResult, Note,
};
use crate::cluster::set::{Durability, VolumeSet};
use crate::id::{NodeId, StoreId};
use crate::lsn::{Epoch, Lsn};
use alloc::vec::Vec;
use core::time::Duration;

const A: StoreId = StoreId([1; 16]);
const B: StoreId = StoreId([2; 16]);
const C: StoreId = StoreId([3; 16]);

fn node(store: StoreId) -> NodeId {
    NodeId(store.0)
}

/// A volume of three copies, all in sync, A its primary in epoch 5.
fn volume() -> VolumeSet {
    let stores = [A, B, C].map(|store| (store, node(store)));
    let mut set = VolumeSet::first(&stores, Durability::SyncAll, 3);
    set.epoch = Epoch(5);
    for replica in &mut set.replicas {
        replica.created = true;
    }
    set
}

/// A coordinator, its clock, and what it wanted.
struct Lab {
    now: Duration,
    coordinator: Coordinator,
    effects: Vec<Effect>,
}

impl Lab {
    fn new(set: VolumeSet) -> Lab {
        let now = Duration::from_secs(100);
        Lab {
            now,
            coordinator: Coordinator::new(now, set),
            effects: Vec::new(),
        }
    }

    /// All nodes are well.
    fn well() -> Lab {
        let mut lab = Lab::new(volume());
        lab.hears_all();
        lab
    }

    fn hears_all(&mut self) {
        self.tell(reigns(A, 5));
        self.tell(follows(B, 0));
        self.tell(follows(C, 0));
    }

    fn tell(&mut self, event: Event) {
        self.coordinator.step(self.now, event, &mut self.effects);
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.tell(Event::Tick);
    }

    /// The copies fenced since the last look, and the epoch.
    fn fenced(&mut self) -> Vec<(StoreId, u64)> {
        let effects = core::mem::take(&mut self.effects);
        let fences = effects.iter().filter_map(|effect| match effect {
            Effect::Fence { store, epoch, .. } => Some((*store, epoch.0)),
            _ => None,
        });
        fences.collect()
    }

    /// The commit wanted since the last look.
    fn commit(&mut self) -> Option<(CommitId, VolumeSet)> {
        let effects = core::mem::take(&mut self.effects);
        effects.into_iter().find_map(|effect| match effect {
            Effect::Commit { id, set, .. } => Some((id, set)),
            _ => None,
        })
    }

    fn committed(&mut self) -> VolumeSet {
        let (id, set) = self.commit().expect("a commit");
        self.tell(Event::Committed(id));
        set
    }

    fn obeys(&mut self, store: StoreId, epoch: u64, last: u64, lease_ms: u64) {
        self.tell(Event::Fenced(FenceAnswer {
            store,
            promised: Epoch(epoch),
            result: FenceResult::Obeyed {
                position: Position {
                    last_epoch: Epoch(5),
                    last: Lsn(last),
                },
                resyncing: false,
                lease_left: Duration::from_millis(lease_ms),
            },
        }));
    }

    fn refuses(&mut self, store: StoreId, promised: u64) {
        self.tell(Event::Fenced(FenceAnswer {
            store,
            promised: Epoch(promised),
            result: FenceResult::Promised,
        }));
    }
}

fn report(store: StoreId, epoch: u64, state: CopyState) -> Event {
    Event::Report(CopyReport {
        store,
        state,
        epoch: Epoch(epoch),
        promised: Epoch(epoch),
        durable: Lsn(1),
        committed: Lsn(1),
    })
}

fn reigns(store: StoreId, epoch: u64) -> Event {
    report(store, epoch, CopyState::Primary { serving: true })
}

fn follows(store: StoreId, silent_ms: u64) -> Event {
    let primary_silent = Some(Duration::from_millis(silent_ms));
    report(store, 5, CopyState::Secondary { primary_silent })
}

fn restarted(store: StoreId) -> Event {
    let state = CopyState::Secondary {
        primary_silent: None,
    };
    report(store, 5, state)
}

#[test]
fn a_reign_is_lost_only_for_a_reason() {
    let silent = |store| Event::NodeSilent(node(store));
    let rows: &[(&str, &[Event], Option<Cause>)] = &[
        ("all is well", &[], None),
        (
            "its server is down",
            &[Event::ServerDown(node(A))],
            Some(Cause::ServerDown),
        ),
        ("its agent died alone", &[silent(A)], None),
        (
            "its agent is back before a copy misses it",
            &[silent(A), Event::NodeHeard(node(A)), follows(B, 1600)],
            None,
        ),
        (
            "a copy misses it, and its agent is there",
            &[follows(B, 9000)],
            None,
        ),
        (
            "one copy misses it",
            &[silent(A), follows(B, 1500)],
            Some(Cause::Silent),
        ),
        ("not long enough", &[silent(A), follows(B, 1400)], None),
        (
            "who misses it is silent too",
            &[follows(B, 1500), silent(B), silent(A)],
            None,
        ),
        (
            "a copy that started now has never heard it",
            &[silent(A), restarted(B)],
            None,
        ),
        (
            "it started again",
            &[restarted(A)],
            Some(Cause::NotReigning),
        ),
        (
            "it failed",
            &[report(A, 5, CopyState::Failed)],
            Some(Cause::CopyFailed),
        ),
        (
            "it is missing",
            &[report(A, 5, CopyState::Missing)],
            Some(Cause::CopyFailed),
        ),
        (
            "another copy failed",
            &[report(B, 5, CopyState::Failed)],
            None,
        ),
        (
            "another server is down",
            &[Event::ServerDown(node(B))],
            None,
        ),
        (
            "a copy promised more",
            &[report(
                B,
                6,
                CopyState::Secondary {
                    primary_silent: None,
                },
            )],
            Some(Cause::PromisedAhead),
        ),
        (
            "a copy that left",
            &[report(StoreId([9; 16]), 9, CopyState::Missing)],
            None,
        ),
    ];
    for (name, events, expected) in rows {
        let mut lab = Lab::well();
        for event in *events {
            lab.tell(event.clone());
        }
        let cause = lab.effects.iter().find_map(|effect| match effect {
            Effect::Note(Note::ElectionBegan { cause, .. }) => Some(*cause),
            _ => None,
        });
        assert_eq!(cause, *expected, "{name}");
    }
}

#[test]
fn a_new_primary_gets_time_to_show_itself() {
    let mut lab = Lab::new(volume());
    lab.tell(restarted(A));
    lab.wait(REIGN_GRACE / 2);
    assert_eq!(lab.fenced(), []);
    lab.tell(reigns(A, 5));
    lab.wait(REIGN_GRACE);
    assert_eq!(lab.fenced(), []); // It came: the deferral is over.

    let mut lab = Lab::new(volume());
    lab.tell(restarted(A));
    lab.wait(REIGN_GRACE);
    assert_eq!(lab.fenced(), [(A, 6), (B, 6), (C, 6)]);
}

#[test]
fn a_copy_that_started_again_misses_its_primary_after_a_while() {
    let mut lab = Lab::well();
    lab.tell(Event::NodeSilent(node(A)));
    lab.tell(restarted(B));
    lab.wait(Duration::from_millis(1000));
    lab.tell(restarted(B));
    assert_eq!(lab.fenced(), []);
    lab.wait(Duration::from_millis(500));
    assert_eq!(lab.fenced().len(), 3);
}

#[test]
fn the_leases_of_an_absent_primary_are_waited_out() {
    let mut lab = Lab::well();
    lab.tell(Event::ServerDown(node(A)));
    assert_eq!(lab.fenced(), [(A, 6), (B, 6), (C, 6)]);
    lab.obeys(B, 6, 10, 1800);
    lab.obeys(C, 6, 11, 1900);
    assert_eq!(lab.commit(), None);
    lab.wait(Duration::from_millis(1899));
    assert_eq!(lab.commit(), None);
    lab.wait(Duration::from_millis(1));
    let set = lab.committed();
    assert_eq!((set.primary, set.epoch), (C, Epoch(6)));
    assert_eq!(set.in_sync_stores(), [B, C]);
    assert_eq!(lab.coordinator.activity(), Activity::Watching);
    assert_eq!(lab.coordinator.set(), &set);
}

#[test]
fn a_primary_that_stepped_down_itself_holds_no_lease() {
    let mut lab = Lab::well();
    lab.tell(restarted(A));
    lab.obeys(B, 6, 10, 1800);
    lab.obeys(C, 6, 10, 1900);
    lab.obeys(A, 6, 10, 0);
    let set = lab.committed();
    assert_eq!((set.primary, set.epoch), (A, Epoch(6))); // The tie is its own.
}

#[test]
fn who_does_not_answer_in_time_is_left_out() {
    let mut lab = Lab::well();
    lab.tell(Event::ServerDown(node(A)));
    lab.obeys(C, 6, 10, 0);
    lab.fenced();
    lab.wait(FENCE_RETRY);
    assert_eq!(lab.fenced(), [(A, 6), (B, 6)]); // Asked again, but not who answered.
    lab.wait(FENCE_ANSWERS - FENCE_RETRY);
    assert_eq!(lab.committed().in_sync_stores(), [C]);
}

#[test]
fn an_answer_counts_only_for_its_own_reign() {
    let mut lab = Lab::well();
    lab.tell(Event::ServerDown(node(A)));
    lab.obeys(B, 5, 99, 0); // Late, of an earlier fence.
    lab.wait(FENCE_ANSWERS);
    assert_eq!(lab.commit(), None);
    assert_eq!(
        lab.coordinator.activity(),
        Activity::Closed(Closed::NobodyAnswered)
    );
    lab.obeys(B, 6, 10, 0);
    lab.obeys(B, 6, 99, 0); // Twice: the first word stands.
    lab.wait(FENCE_ANSWERS);
    assert_eq!(lab.committed().primary, B);
    lab.obeys(C, 6, 99, 0); // Late, of an election that is over.
    assert_eq!(lab.commit(), None);
}

#[test]
fn the_next_reign_exceeds_every_promise_answered() {
    // A leader before this one has fenced B with 9.
    let mut lab = Lab::well();
    lab.tell(Event::ServerDown(node(A)));
    lab.fenced();
    lab.obeys(C, 6, 10, 0);
    lab.refuses(B, 9);
    assert_eq!(lab.fenced(), []); // Not at once, or two leaders chase each other.
    lab.wait(FENCE_RETRY);
    assert_eq!(lab.fenced(), [(A, 10), (B, 10), (C, 10)]);
    lab.obeys(C, 6, 10, 0);
    lab.obeys(B, 10, 10, 0);
    assert_eq!(lab.commit(), None); // C's answer was of the lower reign.
    lab.obeys(C, 10, 10, 0);
    assert_eq!(lab.committed().epoch, Epoch(10));
}

#[test]
fn a_promise_ahead_is_overtaken_with_the_same_primary() {
    let mut lab = Lab::well();
    let state = CopyState::Secondary {
        primary_silent: None,
    };
    lab.tell(report(C, 8, state));
    assert_eq!(lab.fenced(), [(A, 9), (B, 9), (C, 9)]);
    lab.obeys(C, 9, 12, 0);
    lab.obeys(B, 9, 12, 0);
    lab.obeys(A, 9, 12, 0);
    let set = lab.committed();
    assert_eq!((set.primary, set.in_sync_stores()), (A, [A, B, C].to_vec()));
}

#[test]
fn a_closed_volume_asks_again_and_lets_all_come_back() {
    let mut lab = Lab::well();
    for store in [A, B, C] {
        lab.tell(Event::ServerDown(node(store)));
    }
    assert_eq!(
        lab.coordinator.activity(),
        Activity::Closed(Closed::NobodyAnswered)
    );
    lab.wait(FENCE_ANSWERS);
    lab.fenced();
    lab.wait(CLOSED_RETRY);
    assert_eq!(lab.fenced().len(), 3);
    for store in [A, B, C] {
        lab.tell(Event::NodeHeard(node(store)));
    }
    lab.obeys(B, 6, 10, 0);
    assert_eq!(lab.commit(), None); // The others have a moment, too.
    lab.obeys(C, 6, 10, 0);
    lab.obeys(A, 6, 10, 0);
    lab.wait(Duration::ZERO);
    assert_eq!(lab.committed().in_sync_stores(), [A, B, C]);
}

#[test]
fn who_is_gone_again_does_not_win() {
    let mut lab = Lab::well();
    lab.tell(Event::ServerDown(node(A)));
    lab.obeys(B, 6, 20, 1000);
    lab.obeys(C, 6, 10, 1000);
    lab.tell(Event::ServerDown(node(B)));
    lab.wait(Duration::from_secs(1));
    assert_eq!(lab.committed().in_sync_stores(), [C]);
}

#[test]
fn a_registry_that_holds_something_else_begins_the_thought_again() {
    let mut lab = Lab::well();
    lab.tell(Event::ServerDown(node(A)));
    lab.obeys(B, 6, 10, 0);
    lab.obeys(C, 6, 10, 0);
    let (id, wanted) = lab.commit().expect("a commit");
    // The former leader's commit was first.
    let mut other = volume();
    other.set_version += 1;
    other.set_in_sync(&[A, B]);
    lab.tell(Event::Registered(other.clone()));
    assert_eq!(lab.coordinator.set(), &other);
    assert_eq!(lab.fenced(), [(A, 6), (B, 6)]); // C is no candidate any more.
    lab.tell(Event::Committed(id)); // Cannot be; of a commit that is over.
    assert_eq!(lab.coordinator.set(), &other);
    lab.tell(Event::Registered(volume())); // An older read.
    assert_eq!(lab.coordinator.set(), &other);
    // Its fate was unknown, and it was registered.
    let mut lab = Lab::well();
    lab.tell(Event::ServerDown(node(A)));
    lab.obeys(B, 6, 10, 0);
    lab.obeys(C, 6, 10, 0);
    lab.effects.clear();
    lab.tell(Event::Committed(CommitId(0))); // Not this one.
    assert_eq!(lab.coordinator.activity(), Activity::Registering);
    lab.tell(Event::Registered(wanted.clone()));
    assert_eq!(lab.coordinator.set(), &wanted);
    assert!(!lab.effects.contains(&Effect::Note(Note::Raced)));
    assert_eq!(lab.coordinator.activity(), Activity::Watching);
}

#[test]
fn a_new_reign_commits_by_the_new_mode_from_its_first_record() {
    let mut set = volume();
    set.durability_was = Some(Durability::SyncQuorum);
    let mut lab = Lab::new(set);
    lab.hears_all();
    lab.tell(Event::ServerDown(node(A)));
    lab.obeys(C, 6, 11, 0);
    lab.wait(FENCE_ANSWERS);
    // Both modes are obeyed until then.
    let few = Closed::TooFewAnswers {
        answered: 1,
        needed: 2,
    };
    assert_eq!(lab.coordinator.activity(), Activity::Closed(few));
    lab.obeys(B, 6, 10, 0);
    lab.wait(FENCE_ANSWERS);
    let set = lab.committed();
    assert_eq!(
        (set.in_sync_stores(), set.durability_was),
        ([C].to_vec(), None)
    );
}

#[test]
fn a_volume_of_one_copy_is_left_alone() {
    let mut set = VolumeSet::first(&[(A, node(A))], Durability::SyncAll, 1);
    set.replicas[0].created = true;
    let mut lab = Lab::new(set);
    lab.tell(Event::ServerDown(node(A)));
    lab.wait(REIGN_GRACE);
    assert_eq!(lab.effects, []);
}
