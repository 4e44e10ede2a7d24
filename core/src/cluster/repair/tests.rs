//! Placement and the steps of repair, drain and another number of copies.

use super::{Place, Room, Step, next_step, place};
use crate::cluster::set::{Durability, Replica, VolumeSet};
use crate::id::{NodeId, StoreId};
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

const AFTER: Duration = Duration::from_secs(600);

fn store(number: u8) -> StoreId {
    StoreId([number; 16])
}

fn node(number: u8) -> NodeId {
    NodeId([number; 16])
}

fn places(count: u8) -> Vec<Place> {
    let place = |number| Place {
        node: node(number),
        zone: String::new(),
        silent_for: None,
        cordoned: false,
        draining: false,
        stores: vec![Room {
            store: store(number),
            room_bytes: 1000,
            copies: 0,
        }],
    };
    (1..=count).map(place).collect()
}

/// Copies on the nodes 1, 2, 3.
fn volume(durability: Durability) -> VolumeSet {
    let stores = [1, 2, 3].map(|number| (store(number), node(number)));
    let mut set = VolumeSet::first(&stores, durability, 3);
    for replica in &mut set.replicas {
        replica.created = true;
    }
    set
}

fn fourth(set: &mut VolumeSet, in_sync: bool) {
    set.replicas.push(Replica {
        store: store(4),
        node: node(4),
        in_sync,
        created: true,
        discard: false,
    });
}

#[test]
fn no_two_copies_share_a_node_or_a_zone() {
    let mut nodes = places(4);
    let choose = |nodes: &[Place], copies: &[NodeId]| place(nodes, copies, 500).map(|(_, n)| n);
    assert_eq!(choose(&nodes, &[]), Some(node(1)));
    assert_eq!(choose(&nodes, &[node(1), node(2)]), Some(node(3)));
    nodes[3].stores[0].room_bytes = 2000;
    assert_eq!(choose(&nodes, &[node(1)]), Some(node(4))); // The most room.
    nodes[3].cordoned = true;
    assert_eq!(choose(&nodes, &[node(1)]), Some(node(2)));
    nodes[1].draining = true;
    nodes[2].silent_for = Some(Duration::from_secs(3));
    assert_eq!(choose(&nodes, &[node(1)]), None);
    let mut nodes = places(4);
    for (place, zone) in nodes.iter_mut().zip(["a", "a", "b", ""]) {
        place.zone = zone.into();
    }
    assert_eq!(choose(&nodes, &[node(1)]), Some(node(3)));
    assert_eq!(choose(&nodes, &[node(1), node(3)]), Some(node(4)));
    assert_eq!(choose(&nodes, &[node(1), node(3), node(4)]), None); // Zones are hard.
    let mut nodes = places(2);
    nodes[0].stores[0].room_bytes = 499;
    assert_eq!(choose(&nodes, &[]), Some(node(2)));
    nodes[1].stores[0].copies = 1;
    nodes[0].stores[0].room_bytes = 1000;
    assert_eq!(choose(&nodes, &[]), Some(node(1))); // Of equal room, the one with fewer.
}

#[test]
fn a_lost_copy_is_replaced_after_a_while_and_leaves_last() {
    let set = volume(Durability::SyncAll);
    let step = |set: &VolumeSet, nodes: &[Place]| next_step(set, nodes, 500, AFTER);
    let mut nodes = places(5);
    assert_eq!(step(&set, &nodes), Step::Rest);
    nodes[2].silent_for = Some(AFTER - Duration::from_secs(1));
    let mut lost = set.clone();
    lost.set_in_sync(&[store(1), store(2)]);
    assert_eq!(step(&lost, &nodes), Step::Rest); // It may come back.
    nodes[2].silent_for = Some(AFTER);
    assert_eq!(step(&set, &nodes), Step::Rest); // In sync: the primary hears it.
    assert_eq!(step(&lost, &nodes), Step::Add(store(4), node(4)));
    fourth(&mut lost, false);
    assert_eq!(step(&lost, &nodes), Step::Rest); // It is being filled.
    lost.replicas[3].in_sync = true;
    assert_eq!(step(&lost, &nodes), Step::Remove(store(3)));
    // It came back before: the replacement is one too many.
    nodes[2].silent_for = None;
    lost.replicas[2].in_sync = true;
    lost.replicas[3].in_sync = false;
    assert_eq!(step(&lost, &nodes), Step::Remove(store(4)));
}

#[test]
fn nothing_is_copied_while_more_than_a_third_is_gone() {
    let mut lost = volume(Durability::SyncAll);
    lost.set_in_sync(&[store(1), store(2)]);
    let mut nodes = places(6);
    nodes[2].silent_for = Some(AFTER);
    nodes[5].silent_for = Some(Duration::from_secs(3));
    let step = |nodes: &[Place]| next_step(&lost, nodes, 500, AFTER);
    assert_eq!(step(&nodes), Step::Add(store(4), node(4)));
    nodes[4].silent_for = Some(Duration::from_secs(3));
    assert_eq!(step(&nodes), Step::Suspended);
    let mut full = places(3);
    full[2].silent_for = Some(AFTER);
    assert_eq!(step(&full), Step::NoPlace);
}

#[test]
fn a_drained_node_gives_its_copies_away() {
    let mut set = volume(Durability::SyncAll);
    let mut nodes = places(4);
    nodes[0].draining = true;
    let step = |set: &VolumeSet, nodes: &[Place]| next_step(set, nodes, 500, AFTER);
    assert_eq!(step(&set, &nodes), Step::MoveTo(store(2))); // It was the primary.
    set.primary = store(2);
    assert_eq!(step(&set, &nodes), Step::Add(store(4), node(4)));
    fourth(&mut set, false);
    assert_eq!(step(&set, &nodes), Step::Rest);
    set.replicas[3].in_sync = true;
    assert_eq!(step(&set, &nodes), Step::Remove(store(1)));
    // By quorum a fourth copy joins only when there is room.
    let mut counted = volume(Durability::SyncQuorum);
    fourth(&mut counted, false);
    counted.primary = store(2);
    assert_eq!(step(&counted, &nodes), Step::Remove(store(1)));
}

#[test]
fn the_only_copy_moves_off_a_drained_node() {
    let mut set = VolumeSet::first(&[(store(1), node(1))], Durability::SyncAll, 1);
    set.replicas[0].created = true;
    let mut nodes = places(2);
    let step = |set: &VolumeSet, nodes: &[Place]| next_step(set, nodes, 500, AFTER);
    assert_eq!(step(&set, &nodes), Step::Rest);
    nodes[0].draining = true;
    assert_eq!(step(&set, &nodes), Step::Add(store(2), node(2)));
    nodes[0].silent_for = Some(AFTER);
    assert_eq!(
        step(&set, &nodes),
        Step::Rest,
        "there is nothing to copy from"
    );
    nodes[0].silent_for = None;
    set.replicas.push(Replica {
        store: store(2),
        node: node(2),
        in_sync: false,
        created: true,
        discard: false,
    });
    assert_eq!(step(&set, &nodes), Step::Rest);
    set.replicas[1].in_sync = true;
    assert_eq!(step(&set, &nodes), Step::MoveTo(store(2)));
    set.primary = store(2);
    assert_eq!(step(&set, &nodes), Step::Remove(store(1)));
}

#[test]
fn fewer_copies_are_wanted() {
    let mut set = volume(Durability::SyncAll);
    set.copies_wanted = 2;
    let nodes = places(3);
    let step = |set: &VolumeSet| next_step(set, &nodes, 500, AFTER);
    assert_eq!(step(&set), Step::Remove(store(3)));
    set.set_in_sync(&[store(1), store(3)]);
    assert_eq!(step(&set), Step::Remove(store(2))); // Who is behind goes first.
    let mut alone = VolumeSet::first(&[(store(1), node(1))], Durability::SyncAll, 1);
    assert_eq!(step(&alone), Step::Rest);
    alone.copies_wanted = 2;
    assert_eq!(step(&alone), Step::Add(store(2), node(2)));
}
