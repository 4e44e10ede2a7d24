//! The registry's decisions.

use super::{
    Change, Creation, Durability, NewVolume, Policy, RefusalKind, Replica, State, Store, Tombstone,
    Volume,
};
use crate::access::Access;
use crate::placement::StoreSpace;
use holdfast_core::id::{ClusterId, NodeId, StoreId, VolumeId};
use holdfast_core::limits::{VOLUME_BYTES_MAX, VOLUME_BYTES_MIN};
use holdfast_core::lsn::Epoch;

const GIB: u64 = 1 << 30;
const STORE: StoreId = StoreId([7; 16]);

fn state() -> State {
    State::empty(ClusterId([1; 16]), NodeId([2; 16]))
}

fn spaces() -> Vec<StoreSpace> {
    vec![StoreSpace {
        id: STORE,
        node: NodeId([2; 16]),
        node_name: "n".into(),
        zone: String::new(),
        path: "/store".into(),
        failed: String::new(),
        has_peer_address: true,
        primaries: 0,
        capacity_bytes: 100 << 40,
        free_bytes: GIB,
        promised_bytes: 0,
    }]
}

fn wanted(name: &str, size_bytes: u64) -> NewVolume {
    NewVolume {
        name: name.parse().expect("a legal name"),
        size_bytes,
        access: None,
        store: None,
        policy: Policy::default(),
        allow_degraded: false,
    }
}

fn add(state: &mut State, name: &str, id: u8) -> Volume {
    match state.create(&wanted(name, GIB), &spaces(), VolumeId([id; 16])) {
        Ok(Creation::Fresh(volume)) => {
            state.apply(&Change::PutVolume((*volume).clone()));
            *volume
        }
        other => panic!("{other:?}"),
    }
}

fn initiator(name: &str) -> Access {
    Access::from_parts(vec![name.into()], None, None).expect("legal")
}

#[test]
fn a_fresh_volume_may_be_created_and_begins_with_epoch_one() {
    let volume = add(&mut state(), "a", 1);
    assert_eq!(volume.epoch, Epoch(1));
    assert_eq!(volume.primary, STORE);
    assert!(!volume.is_created());
    assert!(!volume.deleting);
}

#[test]
fn the_same_request_finds_the_volume_and_another_one_conflicts() {
    let mut state = state();
    let id = add(&mut state, "a", 1).id;
    let again = |request: &NewVolume| state.create(request, &spaces(), VolumeId([9; 16]));
    assert_eq!(again(&wanted("a", GIB)), Ok(Creation::Existing(id)));
    let mut on_store = wanted("a", GIB);
    on_store.store = Some(STORE);
    assert_eq!(again(&on_store), Ok(Creation::Existing(id)));
    on_store.store = Some(StoreId([8; 16]));
    let mut other_access = wanted("a", GIB);
    other_access.access = Some(initiator("iqn.x:1"));
    let mut other_policy = wanted("a", GIB);
    other_policy.policy.rf = 2;
    for request in [wanted("a", 2 * GIB), on_store, other_access, other_policy] {
        let refusal = again(&request).expect_err("a conflict");
        assert_eq!(refusal.kind, RefusalKind::Exists, "{refusal}");
    }
}

#[test]
fn the_same_request_is_answered_even_when_no_store_is_connected() {
    let mut state = state();
    let id = add(&mut state, "a", 1).id;
    let found = state.create(&wanted("a", GIB), &[], VolumeId([9; 16]));
    assert_eq!(found, Ok(Creation::Existing(id)));
}

#[test]
fn sizes_are_checked_at_their_edges() {
    let sizes = [
        (VOLUME_BYTES_MIN, true),
        (VOLUME_BYTES_MIN - 4096, false),
        (VOLUME_BYTES_MAX, true),
        (VOLUME_BYTES_MAX + 4096, false),
        (GIB + 1, false),
        (GIB + 512, false),
        (0, false),
        (u64::MAX, false),
    ];
    for (bytes, legal) in sizes {
        let result = state().create(&wanted("a", bytes), &spaces(), VolumeId([1; 16]));
        assert_eq!(result.is_ok(), legal, "{bytes}: {result:?}");
    }
}

#[test]
fn access_is_replaced_once() {
    let mut state = state();
    let before = add(&mut state, "a", 1);
    let changed = state.set_access(&before.name, initiator("iqn.x:1"));
    let changed = changed.expect("found").expect("changed");
    assert!(changed.revision > before.revision);
    state.apply(&Change::PutVolume(changed));
    assert_eq!(
        state.set_access(&before.name, initiator("iqn.x:1")),
        Ok(None)
    );
}

#[test]
fn a_volume_that_is_being_deleted_takes_no_changes_and_keeps_its_name() {
    let mut state = state();
    let name = add(&mut state, "a", 1).name;
    let doomed = state.delete(&name).expect("found").expect("changed");
    state.apply(&Change::PutVolume(doomed));
    assert_eq!(state.delete(&name), Ok(None));
    let access = state
        .set_access(&name, initiator("iqn.x:1"))
        .expect_err("refused");
    let create = state.create(&wanted("a", GIB), &spaces(), VolumeId([9; 16]));
    let create = create.expect_err("refused");
    assert_eq!(access.kind, RefusalKind::Precondition);
    assert_eq!(create.kind, RefusalKind::Precondition);
}

#[test]
fn only_a_volume_that_is_being_deleted_can_be_buried() {
    let mut state = state();
    let volume = add(&mut state, "a", 1);
    assert!(state.confirm_removed(volume.id, STORE, 5).is_empty());
    let doomed = state.delete(&volume.name).expect("found").expect("changed");
    state.apply(&Change::PutVolume(doomed));
    for change in state.confirm_removed(volume.id, STORE, 5) {
        state.apply(&change);
    }
    assert!(state.volumes.is_empty());
    assert!(state.tombstones.contains_key(&volume.id));
    assert!(state.confirm_removed(volume.id, STORE, 6).is_empty());
    let unknown = state.delete(&volume.name).expect_err("gone");
    assert_eq!(unknown.kind, RefusalKind::NotFound);
}

#[test]
fn the_first_confirmation_is_the_only_one() {
    let mut state = state();
    let volume = add(&mut state, "a", 1);
    let confirmed = state.confirm_created(volume.id, STORE).expect("first");
    assert!(confirmed.is_created());
    state.apply(&Change::PutVolume(confirmed));
    assert_eq!(state.confirm_created(volume.id, STORE), None);
    assert_eq!(state.confirm_created(volume.id, StoreId([9; 16])), None);
    assert_eq!(state.confirm_created(VolumeId([9; 16]), STORE), None);
}

#[test]
fn a_volume_with_copies_is_created_when_all_are_and_buried_when_none_is_left() {
    let mut state = state();
    let mut stores = spaces();
    for byte in [8, 9] {
        let mut other = stores[0].clone();
        other.id = StoreId([byte; 16]);
        other.node = NodeId([byte; 16]);
        stores.push(other);
    }
    let mut request = wanted("a", GIB);
    request.policy = Policy {
        rf: 3,
        durability: Durability::SyncQuorum,
        ..Policy::default()
    };
    let created = state.create(&request, &stores, VolumeId([1; 16]));
    let Ok(Creation::Fresh(volume)) = created else {
        panic!("{created:?}");
    };
    assert_eq!(volume.replicas.len(), 3);
    assert_eq!(volume.in_sync().count(), 3);
    let copies: Vec<StoreId> = volume.replicas.iter().map(|copy| copy.store).collect();
    state.apply(&Change::PutVolume((*volume).clone()));
    for store in &copies {
        assert!(!state.volumes[&volume.id].is_created());
        let confirmed = state.confirm_created(volume.id, *store).expect("first");
        state.apply(&Change::PutVolume(confirmed));
    }
    assert!(state.volumes[&volume.id].is_created());
    let doomed = state.delete(&volume.name).expect("found").expect("changed");
    state.apply(&Change::PutVolume(doomed));
    for store in &copies {
        assert!(state.tombstones.is_empty());
        for change in state.confirm_removed(volume.id, *store, 5) {
            state.apply(&change);
        }
    }
    assert!(state.tombstones.contains_key(&volume.id));
}

#[test]
fn a_retired_copy_is_forgotten_when_it_is_gone() {
    let mut state = state();
    let volume = add(&mut state, "a", 1);
    let old = StoreId([8; 16]);
    state.apply(&Change::PutVolume(Volume {
        retired: vec![old],
        replicas: vec![Replica {
            store: STORE,
            in_sync: true,
            created: true,
            discard: false,
        }],
        ..volume.clone()
    }));
    assert!(state.confirm_removed(volume.id, STORE, 5).is_empty()); // It is wanted.
    for change in state.confirm_removed(volume.id, old, 5) {
        state.apply(&change);
    }
    assert!(state.volumes[&volume.id].retired.is_empty());
}

#[test]
fn the_oldest_tombstone_goes_when_there_are_too_many() {
    let mut state = state();
    for index in 0..crate::limits::TOMBSTONES_MAX as u64 {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&index.to_le_bytes());
        state.apply(&Change::BuryVolume(Tombstone {
            id: VolumeId(id),
            name: String::new(),
            at_ms: index + 1,
        }));
    }
    let volume = add(&mut state, "a", 0xff);
    let doomed = state.delete(&volume.name).expect("found").expect("changed");
    state.apply(&Change::PutVolume(doomed));
    let changes = state.confirm_removed(volume.id, STORE, u64::MAX);
    assert_eq!(changes[0], Change::ForgetTombstone(VolumeId([0; 16])));
    assert!(matches!(changes[1], Change::BuryVolume(_)));
}

#[test]
fn a_volume_grows_and_never_shrinks() {
    let mut state = state();
    let volume = add(&mut state, "db", 1);
    let grow = |bytes| state.grow(&volume.name, bytes);
    assert_eq!(grow(GIB), Ok(None));
    let grown = grow(2 * GIB).expect("legal").expect("greater");
    assert_eq!(
        (grown.size_bytes, grown.revision),
        (2 * GIB, volume.revision + 1)
    );
    for bytes in [GIB - 4096, 2 * GIB + 1, VOLUME_BYTES_MAX + 4096, 0] {
        let refused = grow(bytes).expect_err("illegal");
        assert_eq!(refused.kind, RefusalKind::Invalid, "{bytes}");
    }
}

#[test]
fn a_deletion_can_end_without_the_copies_that_are_away() {
    let mut state = state();
    let volume = add(&mut state, "db", 1);
    let deleted = state
        .delete(&volume.name)
        .expect("legal")
        .expect("a change");
    state.apply(&Change::PutVolume(deleted));
    for change in state.bury(volume.id, 5) {
        state.apply(&change);
    }
    assert!(state.volumes.is_empty());
    assert!(state.tombstones.contains_key(&volume.id)); // What is left is removed when it is seen.
    assert!(state.bury(volume.id, 6).is_empty());
}

#[test]
fn what_a_node_holds_is_told_with_what_its_loss_costs() {
    let mut state = state();
    let mut volume = add(&mut state, "db", 1);
    let node = state.node;
    let put = |id: StoreId, node: NodeId| {
        Change::PutStore(Store {
            id,
            node,
            path: "/s".into(),
            capacity_bytes: GIB,
        })
    };
    let other = StoreId([8; 16]);
    state.apply(&put(STORE, node));
    state.apply(&put(other, NodeId([3; 16])));
    let held = state.copies_of(node);
    assert_eq!((held.len(), held[0].only), (1, true));
    volume.replicas.push(Replica {
        store: other,
        in_sync: true,
        created: true,
        discard: false,
    });
    state.apply(&Change::PutVolume(volume.clone()));
    assert!(!state.copies_of(node)[0].only);
    volume.replicas[0].in_sync = false;
    volume.retired.push(StoreId([9; 16]));
    volume.set_version += 1;
    state.apply(&Change::PutVolume(volume));
    let held = state.copies_of(node);
    assert_eq!((held[0].in_sync, held[0].only), (false, false));
    assert_eq!(state.copies_on(StoreId([9; 16])).count(), 1); // Still to be removed there.
    state.apply(&Change::ForgetNode(NodeId([3; 16])));
    assert_eq!(state.node_of(other), None);
    assert_eq!(state.node_of(STORE), Some(node));
}
