//! What is refused, and that a command survives its stored form.

use super::{Command, Expect, VolumeVersion};
use crate::access::{Access, Chap, Secret};
use crate::registry::{Audit, Change, Node, Policy, Replica, State, Store, Tombstone, Volume};
use holdfast_core::id::{ClusterId, NodeId, StoreId, VolumeId};
use holdfast_core::lsn::Epoch;

fn volume() -> Volume {
    let secret = Secret::from_bytes(vec![0xab; 12]).expect("legal length");
    let chap = Chap::from_parts("h".into(), secret).expect("legal user");
    Volume {
        id: VolumeId([1; 16]),
        name: "db01".parse().expect("a name"),
        size_bytes: 1 << 30,
        epoch: Epoch(3),
        set_version: 2,
        primary: StoreId([2; 16]),
        replicas: vec![Replica {
            store: StoreId([2; 16]),
            in_sync: true,
            created: true,
            discard: false,
        }],
        retired: Vec::new(),
        policy: Policy::default(),
        durability_was: None,
        access: Access::from_parts(vec!["iqn.x:1".into()], Some(chap), None).expect("legal"),
        revision: 4,
        deleting: false,
    }
}

fn put(volume: Volume) -> Command {
    Command {
        changes: vec![Change::PutVolume(volume)],
        audit: Audit {
            at_ms: 1,
            who: "me".into(),
            request_id: "r".into(),
            what: "put".into(),
        },
        expects: Vec::new(),
    }
}

fn state() -> State {
    let mut state = State::empty(ClusterId([8; 16]), NodeId([9; 16]));
    state.apply(&Change::PutVolume(volume()));
    state
}

#[test]
fn the_stored_form_keeps_everything() {
    let mut command = put(volume());
    command.changes.extend([
        Change::BuryVolume(Tombstone {
            id: VolumeId([5; 16]),
            name: "old".into(),
            at_ms: u64::MAX,
        }),
        Change::ForgetTombstone(VolumeId([6; 16])),
        Change::PutStore(Store {
            id: StoreId([2; 16]),
            node: NodeId([9; 16]),
            path: "/s".into(),
            capacity_bytes: u64::MAX,
        }),
        Change::PutNode(Node {
            id: NodeId([9; 16]),
            name: "n".into(),
            zone: "z".into(),
            peer_address: "10.0.0.1:9481".into(),
            portals: vec!["10.0.0.1:3260".into()],
            cordoned: true,
            draining: true,
        }),
    ]);
    command.expects = vec![
        Expect::NothingSince(7),
        Expect::Volume(VolumeId([5; 16]), None),
        Expect::Volume(VolumeId([1; 16]), Some(VolumeVersion::of(&volume()))),
    ];
    let bytes = serde_json::to_vec(&command).expect("encoded");
    let decoded: Command = serde_json::from_slice(&bytes).expect("decoded");
    assert_eq!(decoded, command);
}

#[test]
fn the_changes_of_a_state_make_it_again() {
    let mut state = state();
    state.apply(&Change::BuryVolume(Tombstone {
        id: VolumeId([5; 16]),
        name: "old".into(),
        at_ms: 1,
    }));
    let mut again = State::empty(state.cluster, state.node);
    for change in state.changes() {
        again.apply(&change);
    }
    assert_eq!(again, state);
}

#[test]
fn what_breaks_a_rule_is_refused_whatever_it_expects() {
    let lower = Volume {
        epoch: Epoch(2),
        ..volume()
    };
    let older_set = Volume {
        set_version: 1,
        ..volume()
    };
    let renamed = Volume {
        name: "db02".parse().expect("a name"),
        ..volume()
    };
    let same_name = Volume {
        id: VolumeId([3; 16]),
        ..volume()
    };
    for bad in [lower, older_set, renamed, same_name] {
        assert!(put(bad.clone()).check(&state(), 0).is_err(), "{bad:?}");
    }
    let mut buried = state();
    buried.apply(&Change::BuryVolume(Tombstone {
        id: volume().id,
        name: "db01".into(),
        at_ms: 1,
    }));
    assert!(put(volume()).check(&buried, 0).is_err());
    assert!(put(volume()).check(&state(), 0).is_ok());
}

#[test]
fn expectations_hold_or_the_command_is_refused() {
    let version = VolumeVersion::of(&volume());
    let id = volume().id;
    let other = VolumeId([4; 16]);
    let newer = VolumeVersion {
        epoch: version.epoch + 1,
        ..version
    };
    let rows = [
        (Expect::NothingSince(10), true),
        (Expect::NothingSince(11), true),
        (Expect::NothingSince(9), false),
        (Expect::Volume(id, Some(version)), true),
        (Expect::Volume(id, Some(newer)), false),
        (Expect::Volume(id, None), false),
        (Expect::Volume(other, None), true),
        (Expect::Volume(other, Some(version)), false),
    ];
    for (expect, holds) in rows {
        let mut command = put(volume());
        command.expects = vec![expect];
        assert_eq!(command.check(&state(), 10).is_ok(), holds, "{expect:?}");
    }
}
