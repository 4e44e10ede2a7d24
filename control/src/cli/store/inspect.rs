//! `holdfast store inspect` and `holdfast store check`: show and check a store without changing it.
//!
//! What is looked at is decided by `holdfast_core::store::inspect`; here are the reads and the words.

use super::open_shared;
use crate::cli::render::{document, fields};
use crate::cli::{Exit, Failure, print_text};
use crate::size::Size;
use holdfast_core::limits::{BLOCK_BYTES, CHUNK_BYTES};
use holdfast_core::store::inspect::{CopyInfo, Depth, Inside, Inspection, Report, Step};
use holdfast_core::store::layout::{Layout, SUPERBLOCKS};
use holdfast_core::store::recovery::ReadRequest;
use serde_json::{Value, json};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Shows the store; fails with [`Exit::Degraded`] when it cannot be served.
pub(super) fn show(path: &Path, as_json: bool) -> Result<(), Failure> {
    let report = look(path, Depth::Structure)?;
    let value = describe(path, &report);
    let text = if as_json {
        document(&value)
    } else {
        describe_text(&value)
    };
    print_text(&text)?;
    match report.refused {
        Some(reason) => {
            let message = format!("{} cannot be served: {reason}", path.display());
            Err(Failure::with(Exit::Degraded, message))
        }
        None => Ok(()),
    }
}

/// Checks the store; fails with [`Exit::Degraded`] when it is damaged.
pub(super) fn check(path: &Path, depth: Depth, as_json: bool) -> Result<(), Failure> {
    let report = look(path, depth)?;
    let damage: Vec<&String> = report.refused.iter().chain(&report.findings).collect();
    let count = damage.len() as u64 + report.findings_more;
    let text = if as_json {
        document(&json!({
            "path": path.display().to_string(),
            "damaged": !report.is_sound(),
            "damage_count": count,
            "damage": damage,
            "notes": report.remarks,
            "data_blocks_checked": report.blocks_verified,
        }))
    } else {
        verdict_text(path, &report, &damage)
    };
    print_text(&text)?;
    if report.is_sound() {
        return Ok(());
    }
    let message = format!("{} is damaged: {count} findings", path.display());
    Err(Failure::with(Exit::Degraded, message))
}

/// Runs core's inspection over the file.
fn look(path: &Path, depth: Depth) -> Result<Report, Failure> {
    let (file, bytes) = open_shared(path)?;
    let mut inspection = Inspection::new(bytes, depth);
    let mut buffers: Vec<Vec<u8>> = Vec::new();
    loop {
        let slices: Vec<&[u8]> = buffers.iter().map(Vec::as_slice).collect();
        match inspection.step(&slices) {
            Step::Read(requests) => {
                buffers = requests
                    .iter()
                    .map(|request| read_or_empty(&file, request))
                    .collect();
            }
            Step::Done(report) => return Ok(*report),
        }
    }
}

/// As core wants it: an unreadable place is an empty buffer.
fn read_or_empty(file: &File, request: &ReadRequest) -> Vec<u8> {
    let mut buffer = vec![0; request.bytes];
    match file.read_exact_at(&mut buffer, request.offset.0) {
        Ok(()) => buffer,
        Err(_) => Vec::new(),
    }
}

fn verdict_text(path: &Path, report: &Report, damage: &[&String]) -> String {
    let mut text = String::new();
    for line in damage {
        text.push_str(&format!("damage: {line}\n"));
    }
    if report.findings_more > 0 {
        text.push_str(&format!("damage: {} more\n", report.findings_more));
    }
    for line in &report.remarks {
        text.push_str(&format!("note: {line}\n"));
    }
    if report.is_sound() {
        let data = match report.blocks_verified {
            0 => "superblocks, map and log".to_owned(),
            count => format!("superblocks, map, log and {count} blocks of data"),
        };
        text.push_str(&format!("{}: {data} are good\n", path.display()));
    }
    text
}

fn describe(path: &Path, report: &Report) -> Value {
    let copies = report.copies.iter().zip(SUPERBLOCKS);
    let copies: Vec<_> = copies
        .map(|(copy, offset)| copy_json(copy, offset.0))
        .collect();
    let mut value = json!({
        "path": path.display().to_string(),
        "size_bytes": report.store_bytes,
        "superblocks": copies,
        "refused": report.refused,
        "notes": report.remarks,
        "damage": report.findings,
    });
    if let Some(inside) = &report.inside {
        value["id"] = json!(inside.id.to_string());
        value["areas"] = areas(&inside.layout);
        describe_inside(&mut value, inside);
    }
    value
}

fn copy_json(copy: &Result<CopyInfo, String>, offset: u64) -> Value {
    match copy {
        Ok(info) => json!({
            "offset": offset,
            "state": "valid",
            "sequence": info.sequence,
            "checkpoint_frame": info.checkpoint.seq.0,
        }),
        Err(reason) => json!({ "offset": offset, "state": reason }),
    }
}

fn areas(layout: &Layout) -> Value {
    let area = |offset: u64, bytes: u64| json!({ "offset": offset, "bytes": bytes });
    let page_bytes = u64::from(layout.page_slots) * BLOCK_BYTES as u64;
    let chunk_bytes = u64::from(layout.chunks) * CHUNK_BYTES as u64;
    json!({
        "log": area(layout.log_start().0, layout.log_bytes()),
        "pages": area(layout.pages_start().0, page_bytes),
        "chunks": area(layout.chunks_start().0, chunk_bytes),
    })
}

fn describe_inside(value: &mut Value, inside: &Inside) {
    let chunk_bytes = CHUNK_BYTES as u64;
    value["log"] = json!({
        "tail_frame": inside.checkpoint.seq.0,
        "tail_position": inside.checkpoint.position.0,
        "head_frame": inside.log_end.seq.0,
        "head_position": inside.log_end.position.0,
        "frames": inside.log_frames,
        "used_bytes": inside.log_bytes_used,
        "capacity_bytes": inside.log_bytes,
    });
    value["clean"] = json!(inside.clean);
    value["chunks"] = json!({
        "total": inside.usage.chunks_total,
        "free": inside.usage.chunks_free,
        "pending": inside.usage.chunks_pending,
        "shared": inside.usage.chunks_shared,
        "bytes_each": chunk_bytes,
    });
    value["free_bytes"] = json!(u64::from(inside.usage.chunks_free) * chunk_bytes);
    value["pages"] = json!({
        "total": inside.usage.pages_total,
        "used": inside.usage.pages_used,
    });
    value["volumes_being_removed"] = json!(inside.volumes_doomed);
    let volumes = inside.volumes.iter().map(|volume| {
        json!({
            "id": volume.id.to_string(),
            "size_bytes": volume.size_blocks * BLOCK_BYTES as u64,
            "epoch": volume.epoch.0,
            "durable_lsn": volume.committed.0,
            "used_bytes": volume.chunks * chunk_bytes,
        })
    });
    value["volumes"] = volumes.collect::<Vec<_>>().into();
}

/// The same for people.
fn describe_text(value: &Value) -> String {
    let mut lines = vec![
        ("store", plain(&value["path"])),
        ("id", plain(&value["id"])),
        ("size", size(&value["size_bytes"])),
    ];
    for copy in list(&value["superblocks"]) {
        let mut text = format!(
            "at {:#x}: {}",
            number(&copy["offset"]),
            plain(&copy["state"])
        );
        if copy["sequence"].is_u64() {
            let (sequence, frame) = (&copy["sequence"], &copy["checkpoint_frame"]);
            text.push_str(&format!(
                ", sequence {sequence}, checkpoint at frame {frame}"
            ));
        }
        lines.push(("superblock", text));
    }
    if value["areas"].is_object() {
        inside_lines(value, &mut lines);
    }
    for volume in list(&value["volumes"]) {
        let text = format!(
            "{}  size {}  used {}  epoch {}  LSN {}",
            plain(&volume["id"]),
            size(&volume["size_bytes"]),
            Size(number(&volume["used_bytes"])).rounded(),
            volume["epoch"],
            volume["durable_lsn"]
        );
        lines.push(("volume", text));
    }
    lines.extend(list(&value["notes"]).map(|note| ("note", plain(note))));
    lines.extend(list(&value["damage"]).map(|damage| ("damage", plain(damage))));
    fields(&lines)
}

fn inside_lines(value: &Value, lines: &mut Vec<(&str, String)>) {
    for name in ["log", "pages", "chunks"] {
        let area = &value["areas"][name];
        let (bytes, offset) = (size(&area["bytes"]), number(&area["offset"]));
        lines.push(("area", format!("{name}: {bytes} at {offset:#x}")));
    }
    let (log, chunks, pages) = (&value["log"], &value["chunks"], &value["pages"]);
    let end =
        |frame: &Value, position: &Value| format!("behind frame {frame}, position {position}");
    let used = format!(
        "{} of {}",
        size(&log["used_bytes"]),
        size(&log["capacity_bytes"])
    );
    let chunk_text = format!(
        "{} of 64KiB, {} free, {} free after the next checkpoint",
        chunks["total"], chunks["free"], chunks["pending"]
    );
    lines.extend([
        ("log tail", end(&log["tail_frame"], &log["tail_position"])),
        ("log head", end(&log["head_frame"], &log["head_position"])),
        ("log used", used),
        ("clean", value["clean"].to_string()),
        ("chunks", chunk_text),
        ("free", Size(number(&value["free_bytes"])).rounded()),
        (
            "pages",
            format!("{} of {} used", pages["used"], pages["total"]),
        ),
    ]);
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn size(value: &Value) -> String {
    Size(number(value)).to_string()
}

fn plain(value: &Value) -> String {
    value.as_str().unwrap_or("unknown").to_owned()
}
