//! The file: what survives, what is refused, and the exact bytes of each record.

use super::{FILE_NAME, FORMAT, Identities, META, Registry, StorageError};
use crate::access::{Access, Chap, Secret};
use crate::registry::record::Record;
use crate::registry::{
    Audit, Change, Durability, Node, Policy, Replica, State, Store, Tombstone, Volume,
};
use holdfast_core::id::{ClusterId, NodeId, StoreId, VolumeId};
use holdfast_core::lsn::Epoch;
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

/// A directory that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn make() -> Scratch {
        let name = format!("holdfast-registry-{}", uuid::Uuid::new_v4());
        Scratch(std::env::temp_dir().join(name))
    }

    fn open(&self) -> Result<(Registry, State), StorageError> {
        let fresh = Identities {
            cluster: Some(ClusterId(*uuid::Uuid::new_v4().as_bytes())),
            node: NodeId(*uuid::Uuid::new_v4().as_bytes()),
        };
        Registry::open(&self.0, fresh)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn chap(user: &str, byte: u8) -> Chap {
    let secret = Secret::from_bytes(vec![byte; 12]).expect("legal length");
    Chap::from_parts(user.into(), secret).expect("legal user")
}

fn volume() -> Volume {
    let initiators = vec!["iqn.2026-11.com.example:h".to_owned()];
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
        retired: vec![],
        policy: Policy::default(),
        durability_was: None,
        access: Access::from_parts(initiators, Some(chap("h", 0xab)), Some(chap("t", 1)))
            .expect("legal"),
        revision: 4,
        deleting: false,
    }
}

fn audit(what: &str) -> Audit {
    Audit {
        at_ms: 5,
        who: "me@here".into(),
        request_id: "r1".into(),
        what: what.into(),
    }
}

#[test]
fn everything_is_there_after_a_restart() {
    let scratch = Scratch::make();
    let (registry, mut state) = scratch.open().expect("made");
    let stone = Tombstone {
        id: VolumeId([9; 16]),
        name: "old".into(),
        at_ms: 6,
    };
    let store = Store {
        id: StoreId([2; 16]),
        node: state.node,
        path: "/s".into(),
        capacity_bytes: 7,
    };
    let node = Node {
        id: state.node,
        name: "n1".into(),
        zone: "z".into(),
        peer_address: "127.0.0.1:9481".into(),
        portals: vec!["127.0.0.1:3260".into()],
        cordoned: false,
        draining: false,
    };
    let changes = [
        Change::PutVolume(volume()),
        Change::BuryVolume(stone),
        Change::PutStore(store),
        Change::PutNode(node),
    ];
    registry
        .commit(&changes, &audit("all of it"))
        .expect("durable");
    for change in &changes {
        state.apply(change);
    }
    registry.close().expect("closed");
    let (registry, reopened) = scratch.open().expect("opened");
    assert_eq!(reopened, state);
    assert_eq!(registry.audit(10).expect("read"), [audit("all of it")]);
}

#[test]
fn a_forgotten_tombstone_stays_forgotten() {
    let scratch = Scratch::make();
    let (registry, _) = scratch.open().expect("made");
    let stone = Tombstone {
        id: VolumeId([9; 16]),
        name: "old".into(),
        at_ms: 6,
    };
    let forget = Change::ForgetTombstone(stone.id);
    registry
        .commit(&[Change::BuryVolume(stone)], &audit("a"))
        .expect("durable");
    registry.commit(&[forget], &audit("b")).expect("durable");
    drop(registry);
    let (_, state) = scratch.open().expect("opened");
    assert!(state.tombstones.is_empty());
}

#[test]
fn file_and_directory_are_private_and_exposed_ones_are_refused() {
    let scratch = Scratch::make();
    drop(scratch.open().expect("made"));
    let path = scratch.0.join(FILE_NAME);
    let mode = |path: &PathBuf| std::fs::metadata(path).expect("there").mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(&scratch.0), 0o700);
    for (path, exposed, private) in [(&path, 0o640, 0o600), (&scratch.0, 0o701, 0o700)] {
        let set = |mode| std::fs::set_permissions(path, Permissions::from_mode(mode));
        set(exposed).expect("owner");
        assert!(matches!(scratch.open(), Err(StorageError::Exposed { .. })));
        set(private).expect("owner");
    }
    assert!(scratch.open().is_ok());
}

#[test]
fn another_format_is_refused() {
    let scratch = Scratch::make();
    let (registry, _) = scratch.open().expect("made");
    let transaction = registry.database.begin_write().expect("begun");
    let other = &b"holdfast registry 4"[..];
    transaction
        .open_table(META)
        .expect("there")
        .insert("format", other)
        .expect("put");
    transaction.commit().expect("durable");
    drop(registry);
    match scratch.open() {
        Err(StorageError::Format { found, .. }) => assert_eq!(found, "holdfast registry 4"),
        other => panic!("{:?}", other.map(|_| ())),
    }
}

#[test]
fn a_damaged_file_is_refused_and_never_opened_as_empty() {
    let scratch = Scratch::make();
    drop(scratch.open().expect("made"));
    let path = scratch.0.join(FILE_NAME);
    let mut bytes = std::fs::read(&path).expect("read");
    let end = bytes.len();
    bytes[512..end].fill(0x5a);
    std::fs::write(&path, bytes).expect("written");
    assert!(scratch.open().is_err());
    std::fs::write(&path, b"").expect("written");
    assert!(scratch.open().is_err());
}

#[test]
fn a_second_process_is_refused() {
    let scratch = Scratch::make();
    let first = scratch.open().expect("made");
    assert!(scratch.open().is_err());
    drop(first);
}

/// Bytes on disks of users: another form needs another [`FORMAT`] and a way from the old one.
#[test]
fn records_have_exactly_these_bytes() {
    assert_eq!(FORMAT, "holdfast registry 3");
    check(
        &volume(),
        concat!(
            r#"{"id":"01010101-0101-0101-0101-010101010101","name":"db01","size_bytes":1073741824,"#,
            r#""epoch":3,"set_version":2,"primary":"02020202-0202-0202-0202-020202020202","#,
            r#""replicas":[{"store":"02020202-0202-0202-0202-020202020202","in_sync":true,"#,
            r#""created":true}],"rf":1,"durability":"sync_all","paths":"redirect","#,
            r#""initiators":["iqn.2026-11.com.example:h"],"#,
            r#""chap":{"user":"h","secret":"abababababababababababab"},"#,
            r#""mutual":{"user":"t","secret":"010101010101010101010101"},"#,
            r#""revision":4,"deleting":false}"#
        ),
    );
    let mut shared = Volume {
        access: Access::default(),
        retired: vec![StoreId([5; 16])],
        durability_was: Some(Durability::SyncQuorum),
        ..volume()
    };
    shared.replicas[0].discard = true;
    check(
        &shared,
        concat!(
            r#"{"id":"01010101-0101-0101-0101-010101010101","name":"db01","size_bytes":1073741824,"#,
            r#""epoch":3,"set_version":2,"primary":"02020202-0202-0202-0202-020202020202","#,
            r#""replicas":[{"store":"02020202-0202-0202-0202-020202020202","in_sync":true,"#,
            r#""created":true,"discard":true}],"retired":["05050505-0505-0505-0505-050505050505"],"#,
            r#""rf":1,"durability":"sync_all","durability_was":"sync_quorum","paths":"redirect","#,
            r#""initiators":[],"revision":4,"deleting":false}"#
        ),
    );
    check(
        &Tombstone {
            id: VolumeId([9; 16]),
            name: "old".into(),
            at_ms: 6,
        },
        r#"{"id":"09090909-0909-0909-0909-090909090909","name":"old","at_ms":6}"#,
    );
    check(
        &Store {
            id: StoreId([2; 16]),
            node: NodeId([3; 16]),
            path: "/s".into(),
            capacity_bytes: 7,
        },
        concat!(
            r#"{"id":"02020202-0202-0202-0202-020202020202","#,
            r#""node":"03030303-0303-0303-0303-030303030303","path":"/s","capacity_bytes":7}"#
        ),
    );
    check(
        &Node {
            id: NodeId([3; 16]),
            name: "n1".into(),
            zone: "z".into(),
            peer_address: "127.0.0.1:9481".into(),
            portals: vec!["127.0.0.1:3260".into()],
            cordoned: true,
            draining: false,
        },
        concat!(
            r#"{"id":"03030303-0303-0303-0303-030303030303","name":"n1","zone":"z","#,
            r#""peer_address":"127.0.0.1:9481","portals":["127.0.0.1:3260"],"cordoned":true,"draining":false}"#
        ),
    );
    check(
        &audit("did"),
        r#"{"at_ms":5,"who":"me@here","request_id":"r1","what":"did"}"#,
    );
}

fn check<T: Record + PartialEq + std::fmt::Debug>(record: &T, golden: &str) {
    let bytes = record.encode().expect("encodable");
    assert_eq!(String::from_utf8_lossy(&bytes), golden);
    assert_eq!(&T::decode(golden.as_bytes()).expect("decodable"), record);
    let unknown = golden.replacen('{', r#"{"future":1,"#, 1);
    assert!(T::decode(unknown.as_bytes()).is_err());
}
