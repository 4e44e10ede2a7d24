//! Routes of a volume with three copies, seen from each node in each state.

use super::{Here, Route, ports};
use holdfast_core::id::StoreId;
use holdfast_core::link::{Assignment, Member, Paths as How, Role};
use holdfast_iscsi::scsi::alua::AccessState;
use holdfast_iscsi::scsi::nexus::TargetPort;
use holdfast_iscsi::target::Entrance;

fn assignment(own: u8, primary: u8, how: How) -> Assignment {
    let member = |store: u8| Member {
        store_id: vec![store; 16],
        node_id: vec![store; 16],
        portals: vec![format!("127.0.0.{store}:3260")],
        primary: store == primary,
        ..Member::default()
    };
    let role = if own == primary {
        Role::Primary
    } else {
        Role::Secondary
    };
    Assignment {
        store_id: vec![own; 16],
        role: role as i32,
        paths: how as i32,
        members: [2, 1, 3].map(member).to_vec(),
        ..Assignment::default()
    }
}

#[test]
fn logins_go_where_the_volume_is_served() {
    use Here::{NotServing, Serving};
    let elsewhere = || Entrance::Elsewhere("127.0.0.1:3260".into());
    let rows = [
        ("the primary", 1, 1, How::Redirect, Serving, Entrance::Open),
        (
            "a primary that is about to serve",
            1,
            1,
            How::Redirect,
            NotServing,
            Entrance::Closed,
        ),
        ("a secondary", 2, 1, How::Redirect, NotServing, elsewhere()),
        (
            "no primary",
            2,
            9,
            How::Redirect,
            NotServing,
            Entrance::Closed,
        ),
        (
            "standby of a host with multipath",
            2,
            1,
            How::Multipath,
            NotServing,
            Entrance::Open,
        ),
    ];
    for (name, own, primary, how, here, expected) in rows {
        let route = Route::of(&assignment(own, primary, how)).expect("several copies");
        assert_eq!(route.entrance(here), expected, "{name}");
        assert_eq!(route.addresses().len(), 3, "{name}");
    }
}

#[test]
fn one_path_is_active_at_most_and_ours_only_while_it_serves() {
    let state = |own: u8, here: Here| {
        let route = Route::of(&assignment(own, 1, How::Multipath)).expect("several copies");
        route.paths(here).state()
    };
    assert_eq!(state(1, Here::Serving), AccessState::ActiveOptimized);
    assert_eq!(state(1, Here::NotServing), AccessState::Standby);
    assert_eq!(state(2, Here::NotServing), AccessState::Standby);
}

#[test]
fn a_volume_alone_has_no_route() {
    assert_eq!(Route::of(&Assignment::default()), None);
    assert_eq!(Route::of(&assignment(9, 1, How::Redirect)), None); // It names us not.
}

#[test]
fn every_node_gives_a_store_the_same_port() {
    let store = |first: u8, last: u8| {
        let mut id = [7; 16];
        (id[0], id[1], id[15]) = (first, first, last);
        StoreId(id)
    };
    let stores = [store(9, 2), store(0, 1), store(9, 1)];
    let expected = [0x090A, 1, 0x0909].map(TargetPort);
    assert_eq!(ports(&stores), expected);
    let mut reversed = stores;
    reversed.reverse();
    let mut back = ports(&reversed);
    back.reverse();
    assert_eq!(back, expected);
}
