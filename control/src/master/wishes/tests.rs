//! What people may ask of copies and nodes, against scripted volume servers.

use crate::agent::tests::{Control, caller};
use crate::master::tests::{Peer, create, two_copies};
use crate::master::{CopyWish, Force, NodeWish};
use crate::name::VolumeName;
use crate::registry::{Durability, RefusalKind};
use holdfast_core::link::Role;

fn name() -> VolumeName {
    "a".parse().expect("a name")
}

/// Asks for a change of the volume's copies, which must be refused with these words.
async fn refuses(control: &Control, wish: CopyWish, kind: RefusalKind, words: &[&str]) {
    let asked = control.handle.copies(name(), wish.clone(), caller()).await;
    let refusal = asked.expect_err("refused");
    assert_eq!(refusal.kind, kind, "{wish:?}: {}", refusal.message);
    for word in words {
        assert!(
            refusal.message.contains(word),
            "{wish:?}: {}",
            refusal.message
        );
    }
}

fn remove(peer: &Peer, force: Force) -> CopyWish {
    CopyWish::Remove {
        node: peer.node_name(),
        force,
    }
}

/// Each would break a promise, or cannot be: nothing is registered.
#[tokio::test]
async fn what_would_break_a_promise_is_refused_and_says_what_to_do() {
    let control = Control::start().await;
    let (_, primary, _secondary) = two_copies(&control).await;
    let unfounded = RefusalKind::Precondition;
    let rows: [(CopyWish, RefusalKind, &[&str]); 5] = [
        (remove(&primary, Force::No), unfounded, &["rf=2", "--force"]),
        (
            CopyWish::Add { node: None },
            RefusalKind::TooFew,
            &["0 of 1", "n11 has a copy", "n12 has a copy"],
        ),
        (
            CopyWish::SetCopies {
                rf: 3,
                degraded: false,
            },
            RefusalKind::TooFew,
            &["0 of 1 more copies"],
        ),
        (
            CopyWish::SetDurability(Durability::SyncQuorum),
            RefusalKind::Invalid,
            &["sync_quorum"],
        ),
        (
            CopyWish::Grow {
                size_bytes: 1 << 20,
            },
            RefusalKind::Invalid,
            &["does not shrink"],
        ),
    ];
    let before = control.handle.view().borrow().volumes[0].volume.clone();
    for (wish, kind, words) in rows {
        refuses(&control, wish, kind, words).await;
    }
    let after = control.handle.view().borrow().volumes[0].volume.clone();
    assert_eq!(before.policy, after.policy);
    assert_eq!(before.replicas, after.replicas);
    control.end().await;
}

/// With force the promise is lowered first, then the copy leaves; the one that is left is the last.
#[tokio::test]
async fn a_forced_removal_lowers_the_promise_and_stops_at_the_last_copy() {
    let control = Control::start().await;
    let (_, primary, secondary) = two_copies(&control).await;
    let wish = remove(&secondary, Force::Yes);
    let asked = control.handle.copies(name(), wish, caller()).await;
    asked.expect("removed");
    let view = control
        .until(|view| view.volumes[0].volume.replicas.len() == 1)
        .await;
    assert_eq!(view.volumes[0].volume.policy.rf, 1);
    let last = remove(&primary, Force::Yes);
    refuses(&control, last, RefusalKind::Precondition, &["the only one"]).await;
    control.end().await;
}

#[tokio::test]
async fn a_wish_that_is_fulfilled_changes_nothing() {
    let control = Control::start().await;
    let (id, _primary, _secondary) = two_copies(&control).await;
    let before = control.handle.view().borrow().volumes[0].volume.clone();
    for wish in [
        CopyWish::SetCopies {
            rf: 2,
            degraded: false,
        },
        CopyWish::SetDurability(Durability::SyncAll),
        CopyWish::Grow {
            size_bytes: before.size_bytes,
        },
    ] {
        let asked = control.handle.copies(name(), wish, caller()).await;
        assert_eq!(asked.expect("it is so"), id);
    }
    let after = control.handle.view().borrow().volumes[0].volume.clone();
    assert_eq!(before.revision, after.revision);
    control.end().await;
}

#[tokio::test]
async fn a_third_copy_is_made_where_it_is_wanted() {
    let control = Control::start().await;
    let (_, _primary, _secondary) = two_copies(&control).await;
    let mut third = Peer::join(&control, 13).await;
    let ready = |view: &crate::view::View| {
        view.nodes
            .iter()
            .any(|node| node.node.name == "n13" && node.server.is_some())
    };
    control.until(ready).await;
    let wish = CopyWish::Add {
        node: Some("n13".into()),
    };
    // A reign that is being looked at takes no other wish.
    while let Err(refusal) = control.handle.copies(name(), wish.clone(), caller()).await {
        assert!(refusal.message.contains("ask again"), "{}", refusal.message);
        tokio::task::yield_now().await;
    }
    let told = third.obey().await;
    assert_eq!(told.role(), Role::Secondary);
    assert!(told.create);
    let view = control
        .until(|view| view.volumes[0].volume.replicas.len() == 3)
        .await;
    assert_eq!(view.volumes[0].volume.policy.rf, 3);
    let full = CopyWish::Add { node: None };
    refuses(&control, full, RefusalKind::Precondition, &["has 3 copies"]).await;
    control.end().await;
}

/// A node that runs, or has the only copy with everything, is not forgotten, whatever is insisted on.
#[tokio::test]
async fn a_node_is_removed_only_when_nothing_is_lost_by_it() {
    let control = Control::start().await;
    let peer = Peer::join(&control, 11).await;
    control
        .until(|view| view.nodes.iter().any(|node| node.server.is_some()))
        .await;
    let remove = |force| NodeWish::Remove { force };
    let ask = |node: &'static str, wish| control.handle.node(node.into(), wish, caller());
    let refusal = ask("n11", remove(Force::Yes)).await.expect_err("it runs");
    assert!(
        refusal.message.contains("is running"),
        "{}",
        refusal.message
    );
    let refusal = ask("n", remove(Force::Yes)).await.expect_err("a master");
    assert!(
        refusal.message.contains("is a master"),
        "{}",
        refusal.message
    );
    let refusal = ask("nobody", NodeWish::Drain).await.expect_err("unknown");
    assert_eq!(refusal.kind, RefusalKind::NotFound);
    drop(peer);
    control
        .until(|view| view.nodes.iter().any(|n| !n.heard))
        .await;
    // It counts as running until it was silent for long enough.
    loop {
        match ask("n11", remove(Force::No)).await {
            Ok(_) => break,
            Err(refusal) => assert!(refusal.message.contains("running"), "{}", refusal.message),
        }
        tokio::task::yield_now().await;
    }
    control.until(|view| view.nodes.len() == 1).await;
    control.end().await;
}

#[tokio::test]
async fn marks_of_a_node_are_given_and_taken_back() {
    let control = Control::start().await;
    let _peer = Peer::join(&control, 11).await;
    control.until(|view| view.nodes.len() == 2).await;
    let rows = [
        (NodeWish::Cordon, (true, false)),
        (NodeWish::Drain, (true, true)),
        (NodeWish::Cordon, (true, true)), // Says nothing of the drain.
        (NodeWish::Uncordon, (false, false)),
    ];
    for (wish, marks) in rows {
        let asked = control.handle.node("n11".into(), wish, caller()).await;
        asked.expect("marked");
        let marked = |view: &crate::view::View| {
            let node = view.nodes.iter().find(|node| node.node.name == "n11");
            node.is_some_and(|seen| (seen.node.cordoned, seen.node.draining) == marks)
        };
        control.until(marked).await;
    }
    control.end().await;
}

#[tokio::test]
async fn a_volume_that_is_not_complete_is_not_changed() {
    let control = Control::start().await;
    let _peer = Peer::join(&control, 11).await;
    control
        .until(|view| view.nodes.iter().any(|node| node.server.is_some()))
        .await;
    create(&control.handle, 1).await; // Nobody confirms it.
    let wish = CopyWish::Add { node: None };
    refuses(&control, wish, RefusalKind::Precondition, &["not complete"]).await;
    control.end().await;
}
