//! The ready file: what a script needs to know, in JSON, whole or absent.

use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::children::Child;
use super::command_line::served;
use super::options::{Membership, NodePlan, Plan};
use super::preflight::write_atomically;

#[derive(Debug, Serialize)]
struct Ready {
    control: String,
    volumes: Vec<Volume>,
    processes: Vec<Process>,
    /// Empty for the single node of a `cargo up` without `--nodes`.
    nodes: Vec<Node>,
}

#[derive(Debug, Serialize)]
struct Node {
    name: String,
    address: String,
    portals: Vec<String>,
    control: String,
    peer: String,
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
    children: &[[&Child; 2]],
) -> Result<(), String> {
    let ready = Ready {
        control: plan.control_url(),
        volumes: volumes
            .iter()
            .filter(|volume| served(volume))
            .map(volume)
            .collect(),
        processes: children
            .iter()
            .flatten()
            .filter_map(|child| process(child))
            .collect(),
        nodes: plan
            .nodes
            .iter()
            .zip(children)
            .filter_map(|(plan, children)| node(plan, children))
            .collect(),
    };
    let mut text = serde_json::to_vec_pretty(&ready).map_err(|error| error.to_string())?;
    text.push(b'\n');
    write_atomically(file, &text)
}

fn node(plan: &NodePlan, children: &[&Child; 2]) -> Option<Node> {
    let Membership::Member { name, peer, .. } = &plan.membership else {
        return None;
    };
    Some(Node {
        name: name.clone(),
        address: plan.control.ip().to_string(),
        portals: plan.portals.iter().map(ToString::to_string).collect(),
        control: plan.control_url(),
        peer: peer.to_string(),
        processes: children.iter().filter_map(|child| process(child)).collect(),
    })
}

/// A child that lives.
fn process(child: &Child) -> Option<Process> {
    (child.pid() != 0).then(|| Process {
        role: child.role().name(),
        pid: child.pid(),
    })
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
