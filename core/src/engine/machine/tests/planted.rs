//! Planted defects that random schedules do not find: each breaks a promise of one copy that others would
//! make good, or needs a history rarer than any number of seeds.
//!
//! Goal: each rule dies visibly when it is taken away, also one behind which there is another. Method: a
//! history by hand, told with and without the defect; with it, an assertion must fail.

use super::lab::{Lab, VOLUME, store_id};
use crate::cluster::set::Durability;
use crate::engine::status::CopyState;
use crate::engine::{Assignment, Effect, Event, Fenced, Member, Opened, Role, Serve, StreamId};
use crate::id::NodeId;
use crate::limits::{HEARTBEAT, LEASE};
use crate::lsn::{Epoch, Lsn};
use crate::peer::{Adopt, Body, Message};
use crate::replication::Reign;
use crate::replication::defect::Defect;
use crate::store::append::Sharing;
use crate::store::layout::Layout;
use crate::store::{self, Config, Tag};
use crate::testing::driver::formatted;
use crate::testing::node::{Node, Out};
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;
use std::panic::{AssertUnwindSafe, catch_unwind};

const HERE: usize = 0;
const PRIMARY: usize = 1;
const STREAM: StreamId = StreamId(5);
const NOW: Duration = Duration::from_secs(10);

/// Messages and disk operations between two ticks: few, so that time passes within a resync.
const STEPS_OF_A_TICK: usize = 6;

/// `history` holds, and does not with `defect`.
fn check(defect: Defect, history: impl Fn(Option<Defect>)) {
    history(None);
    let broken = catch_unwind(AssertUnwindSafe(|| history(Some(defect))));
    assert!(broken.is_err(), "{defect:?} changes nothing");
}

/// A node with a copy of the volume, and a stream from the node that may become its primary.
fn node(defect: Option<Defect>) -> Node {
    let layout = Layout::with_log(12 << 20, 256 << 10, 8).unwrap();
    let image = formatted(store_id(HERE), layout);
    let mut node = Node::open(image, Config::default(), NOW, 1).unwrap();
    plant(&mut node, defect);
    let create = store::Event::CreateVolume {
        tag: Tag(1),
        id: VOLUME,
        size_blocks: 64,
        epoch: Epoch(0),
        sharing: Sharing::Shared,
    };
    give(&mut node, Event::Store(create));
    let opened = Opened::There;
    let (stream, store) = (STREAM, store_id(PRIMARY));
    let up = Event::StreamUp {
        stream,
        store,
        opened,
    };
    give(&mut node, up);
    node
}

fn plant(node: &mut Node, defect: Option<Defect>) {
    if let Some(defect) = defect {
        node.engine.plant(defect);
    }
}

fn give(node: &mut Node, event: Event) -> Vec<Out> {
    node.event(NOW, event);
    while node.end_one() {}
    core::mem::take(&mut node.out)
}

fn assign(node: &mut Node, epoch: u64, role: Role) -> Vec<Out> {
    let member = |at: usize| Member {
        replica: store_id(at),
        node: NodeId(store_id(at).0),
        address: format!("127.0.0.{at}:1"),
        in_sync: true,
    };
    let assignment = Assignment {
        volume: VOLUME,
        epoch: Epoch(epoch),
        set_version: 1,
        role,
        members: vec![member(HERE), member(PRIMARY)],
        durability: Durability::SyncAll,
    };
    let tag = Tag(2);
    give(node, Event::Assign { tag, assignment })
}

fn say(node: &mut Node, epoch: u64, body: Body) -> Vec<Out> {
    let (volume, epoch) = (VOLUME, Epoch(epoch));
    let message = Message::Volume {
        volume,
        epoch,
        body,
    };
    let event = Event::Peer {
        stream: STREAM,
        message,
        payload: None,
    };
    give(node, event)
}

fn sent(out: &[Out]) -> Vec<&Body> {
    let bodies = out.iter().filter_map(|out| match out {
        Out::Send(_, Message::Volume { body, .. }, _) => Some(body),
        _ => None,
    });
    bodies.collect()
}

fn becomes_primary(out: &[Out]) -> bool {
    let is_primary = |out: &Out| {
        let Out::Control(Effect::RoleChanged { role, .. }) = out else {
            return false;
        };
        *role == Role::Primary
    };
    out.iter().any(is_primary)
}

fn fence(node: &mut Node, epoch: u64) -> Fenced {
    let (tag, volume, epoch) = (Tag(3), VOLUME, Epoch(epoch));
    let out = give(node, Event::Fence { tag, volume, epoch });
    let answer = out.into_iter().find_map(|out| match out {
        Out::Control(Effect::Fenced { answer, .. }) => Some(answer),
        _ => None,
    });
    answer.expect("fences are answered")
}

/// Behind it stands the store, which takes no record of a reign that it did not adopt.
#[test]
fn a_primary_of_a_reign_below_is_refused() {
    check(Defect::IgnoreEpoch, |defect| {
        let mut node = node(defect);
        assign(&mut node, 2, Role::Secondary);
        let out = say(&mut node, 1, Body::Attach);
        assert!(matches!(sent(&out)[..], [Body::Detach(_)]), "{out:?}");
        let out = say(&mut node, 2, Body::Attach);
        assert!(matches!(sent(&out)[..], [Body::Attached(_)]), "{out:?}");
    });
}

#[test]
fn a_fenced_copy_leaves_its_primary_before_it_answers() {
    check(Defect::FollowAfterFence, |defect| {
        let mut node = node(defect);
        assign(&mut node, 1, Role::Secondary);
        say(&mut node, 1, Body::Attach);
        let (tag, volume, epoch) = (Tag(3), VOLUME, Epoch(2));
        let out = give(&mut node, Event::Fence { tag, volume, epoch });
        assert!(matches!(sent(&out)[..], [Body::Detach(_)]), "{out:?}");
    });
}

#[test]
fn a_fenced_copy_tells_what_it_granted() {
    check(Defect::HideLease, |defect| {
        let mut node = node(defect);
        assign(&mut node, 1, Role::Secondary);
        say(&mut node, 1, Body::Attach);
        let heartbeat = Event::Peer {
            stream: STREAM,
            message: Message::Heartbeat { seq: 1 },
            payload: None,
        };
        give(&mut node, heartbeat);
        assert!(fence(&mut node, 2).lease_left >= LEASE);
    });
}

/// Behind it stands the coordinator, which elects no copy that says that it lacks changes.
#[test]
fn a_copy_that_lacks_changes_is_no_primary() {
    check(Defect::PromoteResyncing, |defect| {
        let mut node = node(defect);
        assign(&mut node, 1, Role::Secondary);
        say(&mut node, 1, Body::Attach);
        let reign = Reign {
            epoch: Epoch(1),
            start: Lsn(1),
        };
        let adopt = Adopt {
            keep: Lsn(0),
            cut: Lsn(5),
            resync_base: Some(Lsn(0)),
            reigns: vec![reign],
        };
        let out = say(&mut node, 1, Body::Adopt(adopt));
        assert!(
            matches!(sent(&out)[..], [Body::Adopted { .. }, ..]),
            "{out:?}"
        );
        assert!(fence(&mut node, 2).resyncing);
        assert!(!becomes_primary(&assign(&mut node, 2, Role::Primary)));
    });
}

/// Behind it stands the store, which begins no reign that its log knows.
#[test]
fn a_reign_is_not_begun_again_after_a_restart() {
    check(Defect::BeginTwice, |defect| {
        let mut first = node(defect);
        assert!(becomes_primary(&assign(&mut first, 1, Role::Primary)));
        let mut second = Node::open(first.crash(), Config::default(), NOW, 2).unwrap();
        plant(&mut second, defect);
        give(&mut second, Event::Store(store::Event::Tick));
        assert!(!becomes_primary(&assign(&mut second, 1, Role::Primary)));
        assert!(becomes_primary(&assign(&mut second, 2, Role::Primary)));
    });
}

/// What was granted long ago arrives late, and nothing after it: the primary may not think it fresh.
#[test]
fn a_grant_that_was_long_on_its_way_is_no_fresh_lease() {
    check(Defect::LeaseFromArrival, |defect| {
        let mut lab = Lab::new(20, Durability::SyncAll);
        defect.into_iter().for_each(|defect| lab.plant(defect));
        lab.settle();
        let back = [(1, 0), (2, 0)];
        lab.isolated.insert(0); // From the masters: no smaller set is registered.
        lab.muted.extend(back);
        lab.pass(240); // One heartbeat is granted at least; its answer waits.
        lab.muted.extend([(0, 1), (0, 2)]);
        let granted = lab.now;
        lab.pass(400);
        lab.muted.retain(|way| !back.contains(way));
        lab.settle();
        lab.muted.extend(back);
        let over = granted + LEASE + HEARTBEAT;
        while lab.now < over {
            lab.tick();
            lab.settle();
        }
        assert!(!lab.serves(0), "what the others granted has run out");
    });
}

#[test]
fn a_copy_in_the_set_lacks_nothing() {
    check(Defect::ProposeResyncing, |defect| {
        let mut lab = Lab::new(21, Durability::SyncAll);
        defect.into_iter().for_each(|defect| lab.plant(defect));
        lab.settle();
        lab.kill(2);
        lab.pass(1000);
        for block in 0..40 {
            lab.write(block);
            lab.settle();
        }
        lab.pass(500);
        lab.start(2);
        for _ in 0..1000 {
            lab.tick();
            for _ in 0..STEPS_OF_A_TICK {
                let _ = lab.deliver_one() | lab.disk_one();
                let info = info(&lab, 2);
                let lacks = info.resync.is_some();
                assert!(!lacks || !lab.master.in_sync.contains(&2), "{info:?}");
            }
        }
        assert!(lab.master.in_sync.contains(&2));
    });
}

/// Under a quorum a record of a reign before is committed with the present reign's own, not by being on two
/// copies: a third with a later reign in its log would be elected over both, and drop it.
#[test]
fn what_was_inherited_is_not_committed_by_counting() {
    check(Defect::CommitInheritedByCount, |defect| {
        let mut lab = Lab::new(22, Durability::SyncQuorum);
        defect.into_iter().for_each(|defect| lab.plant(defect));
        lab.settle();
        let record = info(&lab, 0).appended.next();
        lab.muted.insert((1, 0));
        lab.cut(0, 2);
        lab.write(0);
        lab.settle();
        assert_eq!(info(&lab, 1).durable, record);
        assert!(info(&lab, 0).committed < record);
        lab.master.epoch = Epoch(2);
        lab.join();
        lab.assign_all();
        lab.muted.clear();
        for _ in 0..60 {
            lab.tick();
            for step in 0..2 * STEPS_OF_A_TICK {
                let _ = if step % 2 == 0 {
                    lab.deliver_one()
                } else {
                    lab.disk_one()
                };
                // Both follow and grant, and neither gets the new reign's record durable.
                for (at, adopted) in [(1, record), (2, Lsn(record.0 - 1))] {
                    let copy = info(&lab, at);
                    if copy.epoch == Epoch(2) && copy.appended > adopted {
                        lab.hold_disk(at);
                    }
                }
                assert!(info(&lab, 0).committed < record);
            }
        }
        assert_eq!(lab.copy_states(0), [CopyState::InSync; 2]);
    });
}

fn info(lab: &Lab, at: usize) -> store::VolumeInfo {
    let node = lab.nodes[at].node.as_ref().expect("it is up");
    node.engine.store().volume(VOLUME).expect("it is there")
}

/// A copy that is alone may be told late what was true when it was not. Such a machine would never serve: nobody
/// tells an assignment again that is in force.
#[test]
fn a_copy_that_is_alone_stays_so_when_an_older_reign_is_told() {
    let mut node = node(None);
    let alone = |node: &mut Node| {
        let assignment = Assignment {
            volume: VOLUME,
            epoch: Epoch(2),
            set_version: 2,
            role: Role::Alone,
            members: vec![],
            durability: Durability::SyncAll,
        };
        let tag = Tag(2);
        give(node, Event::Assign { tag, assignment })
    };
    alone(&mut node);
    let reigns = node.engine.store().reigns(VOLUME).to_vec();
    assert_eq!(reigns.last().expect("one began").epoch, Epoch(2));
    let out = assign(&mut node, 1, Role::Primary);
    assert!(matches!(out[..], [Out::Ended(_, Err(_))]), "{out:?}");
    assert_eq!(node.engine.may_serve(VOLUME, NOW), Serve::Yes);
    // Told once more, the reign still has what it wrote before.
    alone(&mut node);
    assert_eq!(node.engine.store().reigns(VOLUME), reigns);
}
