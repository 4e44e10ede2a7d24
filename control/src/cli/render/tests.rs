//! The stable forms of output.

use super::{nodes, utc, volume, volumes};
use crate::proto;

fn example() -> proto::Volume {
    proto::Volume {
        name: "a".into(),
        id: "i".into(),
        size_bytes: 1 << 30,
        used_bytes: 1 << 20,
        epoch: 1,
        state: proto::VolumeState::Serving.into(),
        reason: String::new(),
        iqn: "iqn.2026-11.io.holdfast:a".into(),
        lun: 0,
        portals: vec!["127.0.0.1:3260".into()],
        store_id: "s".into(),
        sessions: 2,
        initiators: vec![],
        chap_user: String::new(),
        mutual_user: String::new(),
        rf: 1,
        durability: "sync_all".into(),
        paths: "redirect".into(),
        set_version: 1,
        primary_node: "n".into(),
        health: proto::VolumeHealth::Healthy.into(),
        health_score: 100,
        report_age_ms: Some(300),
        ..Default::default()
    }
}

#[test]
fn a_volume_as_json() {
    let value: serde_json::Value = serde_json::from_str(&volume(&example(), true)).expect("JSON");
    let expected = serde_json::json!({
        "name": "a", "id": "i", "size_bytes": 1_073_741_824, "used_bytes": 1_048_576, "epoch": 1,
        "state": "healthy", "condition": "serving", "iqn": "iqn.2026-11.io.holdfast:a", "lun": 0,
        "portals": ["127.0.0.1:3260"], "store_id": "s", "sessions": 2, "reason": "",
        "initiators": [], "chap_user": "", "mutual_user": "", "rf": 1, "durability": "sync_all",
        "paths": "redirect", "set_version": 1, "primary_node": "n", "replicas": [],
        "may_lose": "", "degraded": "", "health_score": 100, "report_age_ms": 300,
    });
    assert_eq!(value, expected);
}

#[test]
fn a_copy_that_is_filled_shows_how_far_it_is() {
    let copy = proto::Replica {
        node: "n2".into(),
        role: "secondary".into(),
        state: "resyncing".into(),
        resync_done_bytes: 1 << 30,
        resync_total_bytes: 3 << 30,
        resync_bytes_per_second: 1 << 28,
        ..Default::default()
    };
    let shared = proto::Volume {
        rf: 2,
        replicas: vec![copy],
        may_lose: "everything".into(),
        ..example()
    };
    let text = volume(&shared, false);
    assert!(text.contains("1GiB of 3GiB, 256MiB/s, 8 s left"), "{text}");
    assert!(text.contains("everything"), "{text}");
    let value: serde_json::Value = serde_json::from_str(&volume(&shared, true)).expect("JSON");
    assert_eq!(value["replicas"][0]["resync_eta_seconds"], 8);
}

#[test]
fn a_copy_shows_what_its_health_is_made_of() {
    let part = proto::HealthPart {
        name: "healed".into(),
        lost: 10,
        text: "3 damaged blocks".into(),
    };
    let copy = proto::Replica {
        node: "n2".into(),
        reason: "3 damaged blocks".into(),
        health_score: 90,
        health_parts: vec![part],
        blocks_healed: 3,
        blocks_repaired: 2,
        ..Default::default()
    };
    let shared = proto::Volume {
        rf: 2,
        replicas: vec![copy],
        health: proto::VolumeHealth::AtRisk.into(),
        health_reason: "1 of 2 copies".into(),
        ..example()
    };
    let text = volume(&shared, false);
    for word in ["at-risk", "1 of 2 copies", "90", "3 / 2", "3 damaged"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let value: serde_json::Value = serde_json::from_str(&volume(&shared, true)).expect("JSON");
    let health = &value["replicas"][0]["health"];
    assert_eq!(health["score"], 90);
    assert_eq!(health["parts"][0]["name"], "healed");
    assert_eq!(health["parts"][0]["lost"], 10);
    assert_eq!(value["replicas"][0]["blocks_healed"], 3);
}

#[test]
fn a_list_without_volumes_is_an_empty_list() {
    let reply = proto::ListVolumesReply { volumes: vec![] };
    assert_eq!(volumes(&reply, true), "[]\n");
}

#[test]
fn a_table_has_one_line_per_volume_and_no_box() {
    let reply = proto::ListVolumesReply {
        volumes: vec![example(), example()],
    };
    let text = volumes(&reply, false);
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(
        text.lines().skip(1).all(|line| line.contains("1GiB")),
        "{text}"
    );
    assert!(text.is_ascii() && !text.contains(['|', '+']), "{text}");
}

#[test]
fn a_node_without_volume_server_is_offline() {
    let reply = proto::ListNodesReply {
        cluster_id: "c".into(),
        nodes: vec![proto::Node {
            id: "n".into(),
            ..Default::default()
        }],
    };
    let value: serde_json::Value = serde_json::from_str(&nodes(&reply, true)).expect("JSON");
    assert_eq!(value[0]["state"], "offline");
    assert_eq!(value[0]["stores"], serde_json::json!([]));
}

#[test]
fn times_are_of_the_calendar() {
    for (at_ms, text) in [
        (0, "1970-01-01 00:00:00"),
        (951_782_400_000, "2000-02-29 00:00:00"),
        (1_709_251_199_999, "2024-02-29 23:59:59"),
        (1_798_761_600_000, "2027-01-01 00:00:00"),
        (4_107_542_400_000, "2100-03-01 00:00:00"),
    ] {
        assert_eq!(utc(at_ms), text);
    }
}
