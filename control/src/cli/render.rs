//! Results as tables and as JSON. The JSON forms are an interface: fields are only ever added.

use crate::health::Health;
use crate::proto::{self, VolumeHealth, VolumeState};
use crate::size::Size;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;
use serde_json::{Value, json};
use std::io::IsTerminal;

#[derive(Serialize)]
struct VolumeJson<'a> {
    name: &'a str,
    id: &'a str,
    size_bytes: u64,
    used_bytes: u64,
    epoch: u64,
    state: &'static str,
    iqn: &'a str,
    lun: u32,
    portals: &'a [String],
    store_id: &'a str,
    sessions: u32,
    reason: &'a str,
    initiators: &'a [String],
    chap_user: &'a str,
    mutual_user: &'a str,
    rf: u32,
    durability: &'a str,
    paths: &'a str,
    set_version: u64,
    primary_node: &'a str,
    replicas: Vec<ReplicaJson<'a>>,
    may_lose: &'a str,
    degraded: &'a str,
    condition: &'static str,
    health_score: u32,
    report_age_ms: Option<u64>,
}

#[derive(Serialize)]
struct ReplicaJson<'a> {
    node: &'a str,
    node_id: &'a str,
    store_id: &'a str,
    role: &'a str,
    in_sync: bool,
    state: &'a str,
    reason: &'a str,
    durable_lsn: u64,
    committed_lsn: u64,
    lag: u64,
    resync_done_bytes: u64,
    resync_total_bytes: u64,
    resync_bytes_per_second: u64,
    resync_eta_seconds: Option<u64>,
    health: HealthJson<'a>,
    blocks_healed: u64,
    blocks_repaired: u64,
    slow_left_ms: u64,
    report_age_ms: Option<u64>,
}

#[derive(Serialize)]
struct HealthJson<'a> {
    score: u32,
    parts: Vec<PartJson<'a>>,
}

#[derive(Serialize)]
struct PartJson<'a> {
    name: &'a str,
    lost: u32,
    text: &'a str,
}

#[derive(Serialize)]
struct StoreJson<'a> {
    id: &'a str,
    path: &'a str,
    state: &'static str,
    reason: &'a str,
    capacity_bytes: u64,
    free_bytes: u64,
    promised_bytes: u64,
    wal_used_bytes: u64,
    wal_capacity_bytes: u64,
    shard: u32,
}

/// One volume.
pub(super) fn volume(volume: &proto::Volume, as_json: bool) -> String {
    if as_json {
        return document(&volume_json(volume));
    }
    let mut lines = vec![
        ("name", volume.name.clone()),
        ("id", volume.id.clone()),
        ("state", state(volume).to_owned()),
    ];
    for (name, text) in [
        ("reason", &volume.health_reason),
        ("may lose", &volume.may_lose),
    ] {
        if !text.is_empty() {
            lines.push((name, text.clone()));
        }
    }
    lines.extend([
        ("health", format!("{} of 100", volume.health_score)),
        ("last report", age(volume.report_age_ms)),
        ("size", Size(volume.size_bytes).to_string()),
        ("used", Size(volume.used_bytes).rounded()),
        ("target", volume.iqn.clone()),
        ("lun", volume.lun.to_string()),
        ("portals", volume.portals.join(" ")),
        ("sessions", volume.sessions.to_string()),
        ("access", access(volume)),
        ("store", volume.store_id.clone()),
        ("epoch", volume.epoch.to_string()),
    ]);
    if volume.rf > 1 || volume.replicas.len() > 1 {
        lines.extend([
            ("copies", format!("{} wanted", volume.rf)),
            ("durability", volume.durability.clone()),
            ("paths", volume.paths.clone()),
            ("primary", volume.primary_node.clone()),
        ]);
    }
    fields(&lines) + &copies(volume)
}

fn age(age_ms: Option<u64>) -> String {
    age_ms.map_or_else(
        || "none is known".into(),
        |age_ms| format!("{} s ago", age_ms / 1000),
    )
}

/// The copies of a volume.
fn copies(volume: &proto::Volume) -> String {
    let rows = volume.replicas.iter().map(|copy| {
        vec![
            copy.node.clone(),
            copy.role.clone(),
            if copy.in_sync { "yes" } else { "no" }.to_owned(),
            copy.state.clone(),
            copy.health_score.to_string(),
            copy.lag.to_string(),
            resync(copy),
            format!("{} / {}", copy.blocks_healed, copy.blocks_repaired),
            copy.store_id.clone(),
            copy.reason.clone(),
        ]
    });
    let head = [
        "NODE",
        "ROLE",
        "IN-SYNC",
        "STATE",
        "HEALTH",
        "LAG",
        "RESYNC",
        "HEALED / REPAIRED",
        "STORE",
        "REASON",
    ];
    table(&head, rows.collect())
}

/// How far the resync of a copy is; empty when there is none.
fn resync(copy: &proto::Replica) -> String {
    if copy.resync_total_bytes == 0 {
        return String::new();
    }
    let size = |bytes| Size(bytes).rounded();
    let (done, total) = (copy.resync_done_bytes, copy.resync_total_bytes);
    let rate = size(copy.resync_bytes_per_second);
    let eta = eta_seconds(copy).map_or_else(String::new, |eta| format!(", {eta} s left"));
    format!("{} of {}, {rate}/s{eta}", size(done), size(total))
}

fn eta_seconds(copy: &proto::Replica) -> Option<u64> {
    let left = copy
        .resync_total_bytes
        .checked_sub(copy.resync_done_bytes)?;
    left.checked_div(copy.resync_bytes_per_second)
}

/// All volumes.
pub(super) fn volumes(reply: &proto::ListVolumesReply, as_json: bool) -> String {
    if as_json {
        return document(&reply.volumes.iter().map(volume_json).collect::<Vec<_>>());
    }
    let rows = reply.volumes.iter().map(|volume| {
        vec![
            volume.name.clone(),
            state(volume).to_owned(),
            Size(volume.size_bytes).to_string(),
            Size(volume.used_bytes).rounded(),
            volume.sessions.to_string(),
            volume.iqn.clone(),
            volume.health_reason.clone(),
        ]
    });
    let head = [
        "NAME", "STATE", "SIZE", "USED", "SESSIONS", "TARGET", "REASON",
    ];
    table(&head, rows.collect())
}

/// A deletion.
pub(super) fn deleted(name: &str, reply: &proto::DeleteVolumeReply, as_json: bool) -> String {
    if as_json {
        let (pending, reason) = (reply.pending, &reply.reason);
        return document(&json!({ "name": name, "pending": pending, "reason": reason }));
    }
    if reply.pending {
        return String::new(); // Said as the failure's message.
    }
    format!("deleted {name}\n")
}

/// All nodes with their stores.
pub(super) fn nodes(reply: &proto::ListNodesReply, as_json: bool) -> String {
    if as_json {
        return document(
            &reply
                .nodes
                .iter()
                .map(|node| node_json(reply, node))
                .collect::<Vec<_>>(),
        );
    }
    let mut text = String::new();
    for node in &reply.nodes {
        text.push_str(&fields(&[
            ("node", format!("{} ({})", node.name, node.id)),
            ("state", node_state(node).to_owned()),
            ("portals", node.portals.join(" ")),
            ("copies", node.copies.to_string()),
        ]));
        let more = [
            ("zone", &node.zone),
            ("peers", &node.peer_address),
            ("not emptied", &node.drain_obstacle),
        ];
        for (name, value) in more.into_iter().filter(|(_, value)| !value.is_empty()) {
            text.push_str(&fields(&[(name, value.clone())]));
        }
        if !node.unknown_volumes.is_empty() {
            let unknown = node.unknown_volumes.join(" ");
            text.push_str(&fields(&[("unknown volumes", unknown)]));
        }
        let rows = node.stores.iter().map(|store| {
            vec![
                store.path.clone(),
                store_state(store).to_owned(),
                Size(store.capacity_bytes).rounded(),
                Size(store.free_bytes).rounded(),
                Size(store.promised_bytes).rounded(),
                store.id.clone(),
                store.reason.clone(),
            ]
        });
        let head = [
            "STORE", "STATE", "CAPACITY", "FREE", "PROMISED", "ID", "REASON",
        ];
        text.push_str(&table(&head, rows.collect()));
    }
    text
}

/// The last events.
pub(super) fn events(reply: &proto::ListEventsReply, as_json: bool) -> String {
    if as_json {
        let event = |event: &proto::Event| {
            json!({
                "at_ms": event.at_ms,
                "who": event.who,
                "request_id": event.request_id,
                "what": event.what,
            })
        };
        return document(&reply.events.iter().map(event).collect::<Vec<_>>());
    }
    let rows = reply
        .events
        .iter()
        .map(|event| vec![utc(event.at_ms), event.who.clone(), event.what.clone()]);
    table(&["TIME (UTC)", "WHO", "WHAT"], rows.collect())
}

/// One JSON document and a newline.
pub(super) fn document(value: &impl Serialize) -> String {
    let text = serde_json::to_string_pretty(value);
    text.expect("strings, numbers and lists are always JSON") + "\n"
}

/// Lines of a name and a value, aligned.
pub(super) fn fields(lines: &[(&str, String)]) -> String {
    let width = lines
        .iter()
        .map(|(name, _)| name.len())
        .max()
        .unwrap_or(0)
        .max(8);
    let line = |(name, value): &(&str, String)| format!("{name:width$}  {value}\n");
    lines.iter().map(line).collect()
}

/// A table without lines or boxes, so that it can be cut by columns.
pub(super) fn masters(reply: &proto::ListMastersReply, as_json: bool) -> String {
    let role = |master: &proto::MasterInfo| match (master.leader, master.voter) {
        (true, _) => "leader",
        (false, true) => "follower",
        (false, false) => "joining",
    };
    if as_json {
        let master = |master: &proto::MasterInfo| {
            json!({
                "node_id": master.node_id,
                "address": master.address,
                "role": role(master),
                "lag_entries": master.lag_entries,
                "silent_ms": master.silent_ms,
            })
        };
        return document(&reply.masters.iter().map(master).collect::<Vec<_>>());
    }
    let number = |number: Option<u64>| number.map_or_else(|| "-".into(), |n| n.to_string());
    let row = |master: &proto::MasterInfo| {
        vec![
            master.node_id.clone(),
            master.address.clone(),
            role(master).to_owned(),
            number(master.lag_entries),
            number(master.silent_ms),
        ]
    };
    let head = ["NODE", "ADDRESS", "ROLE", "LAG ENTRIES", "SILENT MS"];
    table(&head, reply.masters.iter().map(row).collect())
}

fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    let arrangement = if std::io::stdout().is_terminal() {
        ContentArrangement::Dynamic
    } else {
        ContentArrangement::Disabled
    };
    table.set_content_arrangement(arrangement);
    table.set_header(head.to_vec());
    table.add_rows(rows);
    // The style pads each cell by a blank on both sides.
    let bare = |line: String| {
        line.strip_prefix(' ')
            .unwrap_or(&line)
            .trim_end()
            .to_owned()
            + "\n"
    };
    table.lines().map(bare).collect()
}

fn volume_json(volume: &proto::Volume) -> VolumeJson<'_> {
    VolumeJson {
        name: &volume.name,
        id: &volume.id,
        size_bytes: volume.size_bytes,
        used_bytes: volume.used_bytes,
        epoch: volume.epoch,
        state: state(volume),
        iqn: &volume.iqn,
        lun: volume.lun,
        portals: &volume.portals,
        store_id: &volume.store_id,
        sessions: volume.sessions,
        reason: &volume.health_reason,
        initiators: &volume.initiators,
        chap_user: &volume.chap_user,
        mutual_user: &volume.mutual_user,
        rf: volume.rf,
        durability: &volume.durability,
        paths: &volume.paths,
        set_version: volume.set_version,
        primary_node: &volume.primary_node,
        replicas: volume.replicas.iter().map(replica_json).collect(),
        may_lose: &volume.may_lose,
        degraded: &volume.degraded,
        condition: condition(volume),
        health_score: volume.health_score,
        report_age_ms: volume.report_age_ms,
    }
}

fn replica_json(copy: &proto::Replica) -> ReplicaJson<'_> {
    ReplicaJson {
        node: &copy.node,
        node_id: &copy.node_id,
        store_id: &copy.store_id,
        role: &copy.role,
        in_sync: copy.in_sync,
        state: &copy.state,
        reason: &copy.reason,
        durable_lsn: copy.durable_lsn,
        committed_lsn: copy.committed_lsn,
        lag: copy.lag,
        resync_done_bytes: copy.resync_done_bytes,
        resync_total_bytes: copy.resync_total_bytes,
        resync_bytes_per_second: copy.resync_bytes_per_second,
        resync_eta_seconds: eta_seconds(copy),
        health: HealthJson {
            score: copy.health_score,
            parts: copy.health_parts.iter().map(part_json).collect(),
        },
        blocks_healed: copy.blocks_healed,
        blocks_repaired: copy.blocks_repaired,
        slow_left_ms: copy.slow_left_ms,
        report_age_ms: copy.report_age_ms,
    }
}

fn part_json(part: &proto::HealthPart) -> PartJson<'_> {
    PartJson {
        name: &part.name,
        lost: part.lost,
        text: &part.text,
    }
}

fn node_json(reply: &proto::ListNodesReply, node: &proto::Node) -> Value {
    let stores = node.stores.iter().map(|store| StoreJson {
        id: &store.id,
        path: &store.path,
        state: store_state(store),
        reason: &store.reason,
        capacity_bytes: store.capacity_bytes,
        free_bytes: store.free_bytes,
        promised_bytes: store.promised_bytes,
        wal_used_bytes: store.wal_used_bytes,
        wal_capacity_bytes: store.wal_capacity_bytes,
        shard: store.shard,
    });
    json!({
        "id": node.id,
        "name": node.name,
        "state": node_state(node),
        "cluster_id": reply.cluster_id,
        "volume_server_pid": node.volume_server_pid,
        "portals": node.portals,
        "agent": if node.agent_connected { "heard" } else { "silent" },
        "zone": node.zone,
        "peer_address": node.peer_address,
        "cordoned": node.cordoned,
        "draining": node.draining,
        "copies": node.copies,
        "drain_obstacle": node.drain_obstacle,
        "stores": stores.collect::<Vec<_>>(),
        "unknown_volumes": node.unknown_volumes,
    })
}

/// One of the five words of `health`.
fn state(volume: &proto::Volume) -> &'static str {
    let health = match volume.health() {
        VolumeHealth::Healthy => Health::Healthy,
        VolumeHealth::Degraded => Health::Degraded,
        VolumeHealth::Rebuilding => Health::Rebuilding,
        VolumeHealth::AtRisk => Health::AtRisk,
        VolumeHealth::Unavailable => Health::Unavailable,
        VolumeHealth::Unspecified => return "unknown", // The control process is older.
    };
    health.word()
}

/// What a program waits for.
fn condition(volume: &proto::Volume) -> &'static str {
    match volume.state() {
        VolumeState::Unspecified => "unknown",
        VolumeState::Creating => "creating",
        VolumeState::Serving => "serving",
        VolumeState::Unavailable => "unavailable",
        VolumeState::Deleting => "deleting",
    }
}

fn node_state(node: &proto::Node) -> &'static str {
    match (node.connected, node.draining, node.cordoned) {
        (false, ..) => "offline",
        (true, true, _) if node.copies == 0 => "drained",
        (true, true, _) => "draining",
        (true, false, true) => "cordoned",
        (true, false, false) => "online",
    }
}

fn store_state(store: &proto::Store) -> &'static str {
    if store.serving {
        "serving"
    } else {
        "unavailable"
    }
}

fn access(volume: &proto::Volume) -> String {
    let who = if volume.initiators.is_empty() {
        "every initiator".to_owned()
    } else {
        volume.initiators.join(" ")
    };
    match (volume.chap_user.as_str(), volume.mutual_user.as_str()) {
        ("", _) => who,
        (user, "") => format!("{who}, CHAP as {user}"),
        (user, mutual) => format!("{who}, CHAP as {user}, target as {mutual}"),
    }
}

/// A time of day and date, proleptic Gregorian calendar.
fn utc(at_ms: u64) -> String {
    let (days, second) = (at_ms / 86_400_000, at_ms / 1000 % 86_400);
    // Years begin in March here, so that the leap day is the last of its year; 719468 days lie
    // between 0000-03-01 and 1970-01-01.
    let day = days + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    let year = era * 400 + year + carry;
    format!(
        "{year:04}-{month:02}-{day_of_month:02} {:02}:{:02}:{:02}",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests;
