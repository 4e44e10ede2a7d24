//! The ready file: what a script needs to know, in JSON, whole or absent.

use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::children::Child;
use super::command_line::served;
use super::options::Plan;
use super::preflight::write_atomically;

#[derive(Debug, Serialize)]
struct Ready {
    control: String,
    volumes: Vec<Volume>,
    processes: Vec<Process>,
}

#[derive(Debug, Serialize)]
struct Volume {
    name: Value,
    id: Value,
    size_bytes: Value,
    iqn: Value,
    lun: Value,
    portals: Value,
}

#[derive(Debug, Serialize)]
struct Process {
    role: &'static str,
    pid: u32,
}

/// A file of an earlier run would lie.
pub(crate) fn remove(file: &Path) -> Result<(), String> {
    match fs::remove_file(file) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(format!("cannot remove {}: {error}", file.display())),
    }
}

/// Writes the file: volumes that are served, processes that live.
pub(crate) fn write(
    file: &Path,
    plan: &Plan,
    volumes: &[Value],
    children: [&Child; 2],
) -> Result<(), String> {
    let ready = Ready {
        control: plan.control_url(),
        volumes: volumes
            .iter()
            .filter(|volume| served(volume))
            .map(volume)
            .collect(),
        processes: children
            .into_iter()
            .filter(|child| child.pid() != 0)
            .map(|child| Process {
                role: child.role().name(),
                pid: child.pid(),
            })
            .collect(),
    };
    let mut text = serde_json::to_vec_pretty(&ready).map_err(|error| error.to_string())?;
    text.push(b'\n');
    write_atomically(file, &text)
}

fn volume(volume: &Value) -> Volume {
    Volume {
        name: volume["name"].clone(),
        id: volume["id"].clone(),
        size_bytes: volume["size_bytes"].clone(),
        iqn: volume["iqn"].clone(),
        lun: volume["lun"].clone(),
        portals: volume["portals"].clone(),
    }
}
