//! Copies that are made elsewhere, moved and given up, against scripted volume servers.

use crate::agent::tests::{Control, caller};
use crate::master::NodeWish;
use crate::master::tests::{Peer, two_copies};
use crate::view::View;
use holdfast_core::link::Role;

fn is_ready(view: &View, name: &str) -> bool {
    let mut nodes = view.nodes.iter();
    nodes.any(|node| node.node.name == name && node.server.is_some())
}

async fn drain(control: &Control, node: &str) {
    let asked = control.handle.node(node.into(), NodeWish::Drain, caller());
    asked.await.expect("marked");
}

/// The copy goes to the node that is free; the one that is left gives its place only then.
#[tokio::test]
async fn a_drained_nodes_copy_is_made_elsewhere_first() {
    let control = Control::start().await;
    let (_, _primary, secondary) = two_copies(&control).await;
    let mut third = Peer::join(&control, 13).await;
    control.until(|view| is_ready(view, "n13")).await;
    drain(&control, &secondary.node_name()).await;
    let told = third.obey().await;
    assert_eq!(told.role(), Role::Secondary);
    assert!(told.create);
    let view = control
        .until(|view| view.volumes[0].volume.replicas.len() == 3)
        .await;
    let in_sync = view.volumes[0].volume.in_sync();
    assert_eq!(in_sync.count(), 2, "nothing left before it is filled");
    control.end().await;
}

/// The wish stays, and says why nothing happens; it ends with the wish.
#[tokio::test]
async fn a_copy_without_a_place_is_told_and_forgotten_with_the_wish() {
    let control = Control::start().await;
    let (_, _primary, secondary) = two_copies(&control).await;
    let node = secondary.node_name();
    drain(&control, &node).await;
    let view = control
        .until(|view| !view.volumes[0].obstacle.is_empty())
        .await;
    let seen = &view.volumes[0];
    for word in ["has no place", "has a copy", "add a node"] {
        assert!(seen.obstacle.contains(word), "{}", seen.obstacle);
    }
    let drained = view.nodes.iter().find(|seen| seen.node.name == node);
    assert!(!drained.expect("listed").obstacle.is_empty());
    let told = |event: &std::sync::Arc<crate::registry::Audit>| event.what.contains("no place");
    assert_eq!(view.events.iter().filter(|event| told(event)).count(), 1);
    let asked = control
        .handle
        .node(node.clone(), NodeWish::Uncordon, caller());
    asked.await.expect("marked");
    control
        .until(|view| view.volumes[0].obstacle.is_empty())
        .await;
    control.end().await;
}

/// A dead disk costs a copy as a dead node does, also when the rest of the node is well.
#[tokio::test]
async fn a_store_that_failed_is_not_waited_for_by_a_deletion() {
    let control = Control::start().await;
    let (id, mut primary, mut secondary) = two_copies(&control).await;
    let mut report = super::super::tests::report(secondary.store, None);
    report.stores[0].failed = "its disk died".into();
    let body = holdfast_core::link::Body::Report(report);
    secondary.server.send(0, body).await;
    control
        .until(|view| {
            let nodes = view.nodes.iter();
            let mut stores = nodes.flat_map(|node| &node.stores);
            stores.any(|store| store.report.failed == "its disk died")
        })
        .await;
    let name = "a".parse().expect("a name");
    let asked = control.handle.delete(name, caller()).await;
    assert_eq!(asked.expect("registered"), id);
    // The primary's copy is removed when it says so; the other one is left to the tombstone.
    let request = loop {
        let message = primary.server.receive().await;
        if let Some(holdfast_core::link::Body::Remove(_)) = message.body {
            break message.request_id;
        }
    };
    let done = holdfast_core::link::ReplyCode::Ok;
    primary.server.reply(request, done).await;
    control.until(|view| view.volumes.is_empty()).await;
    control.end().await;
}
