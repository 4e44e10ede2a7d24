//! What is learned from and asked of the control process, through the `holdfast` command as any script would.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::options::Plan;
use crate::{size, tool, workspace};

/// Time for one command.
const BOUND: Duration = Duration::from_secs(60);

/// The `holdfast` command, aimed at our control process.
#[derive(Debug)]
pub(crate) struct CommandLine {
    program: PathBuf,
    /// URLs of the masters, separated by commas.
    urls: String,
    volumes: Vec<Value>,
}

impl CommandLine {
    /// Aims at the masters of the plan.
    pub(crate) fn new(plan: &Plan) -> Result<Self, String> {
        let program = workspace::binary("holdfast")?;
        Ok(Self {
            program,
            urls: plan.master_urls(),
            volumes: Vec::new(),
        })
    }

    /// All nodes.
    pub(crate) fn nodes(&self) -> Result<Vec<Value>, String> {
        list(self.ask(&["node", "list"])?)
    }

    /// Takes the plan's masters into the cluster, one after the other; gives those that were not in it.
    pub(crate) fn add_masters(&self, plan: &Plan) -> Result<Vec<String>, String> {
        if plan.masters().count() == 1 {
            return Ok(Vec::new());
        }
        let known = list(self.ask(&["master", "list"])?)?;
        let mut added = Vec::new();
        for node in plan.masters() {
            let address = node.control.to_string();
            if !known
                .iter()
                .any(|master| master["address"] == address.as_str())
            {
                self.ask(&["master", "add", &address])?;
                added.push(node.name().to_owned());
            }
        }
        Ok(added)
    }

    /// Every store of all nodes has reported, be it serving or failed.
    pub(crate) fn stores_known(&mut self, plan: &Plan) -> bool {
        let nodes = self.nodes().unwrap_or_default();
        let online = nodes.iter().filter(|node| node["state"] == "online");
        // Stores of an earlier run are listed as not connected until the volume server has opened them.
        let reported = |store: &&Value| store["reason"] != "not connected";
        online.count() >= plan.nodes.len()
            && stores(&nodes).filter(reported).count() >= plan.store_count()
    }

    /// One sentence for each store that does not serve.
    pub(crate) fn store_warnings(&self) -> Result<Vec<String>, String> {
        let nodes = self.nodes()?;
        let text = |store: &Value, key: &str| store[key].as_str().unwrap_or("").to_owned();
        Ok(stores(&nodes)
            .filter(|store| !text(store, "reason").is_empty())
            .map(|store| {
                format!(
                    "store {} does not serve: {}",
                    text(store, "path"),
                    text(store, "reason")
                )
            })
            .collect())
    }

    /// Makes the wanted volumes that do not exist; gives their names.
    pub(crate) fn make_volumes(&mut self, plan: &Plan) -> Result<Vec<String>, String> {
        let existing = self.volumes()?;
        let fallback = plan.fallback.iter().filter(|_| existing.is_empty());
        let mut made = Vec::new();
        for wanted in plan.volumes.iter().chain(fallback) {
            match existing
                .iter()
                .find(|volume| volume["name"] == wanted.name.as_str())
            {
                Some(volume) if volume["size_bytes"] != wanted.size_bytes => {
                    let bytes = volume["size_bytes"].as_u64().unwrap_or(0);
                    return Err(format!(
                        "volume {} exists with {}, not {}; ask for the size it has, or another name",
                        wanted.name,
                        size::exact(bytes),
                        size::exact(wanted.size_bytes)
                    ));
                }
                Some(_) => {}
                None => {
                    let words = wanted.create_words();
                    self.ask(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
                    made.push(wanted.name.clone());
                }
            }
        }
        Ok(made)
    }

    /// All volumes, as `holdfast --json volume list` gives them.
    pub(crate) fn volumes(&mut self) -> Result<Vec<Value>, String> {
        self.volumes = list(self.ask(&["volume", "list"])?)?;
        Ok(self.volumes.clone())
    }

    /// The volumes as the last answer said; a control process that is being restarted need not answer.
    pub(crate) fn volumes_last_known(&self) -> &[Value] {
        &self.volumes
    }

    /// Every volume is served, or lies on a store that does not serve.
    pub(crate) fn volumes_settled(&mut self) -> bool {
        let (Ok(nodes), Ok(volumes)) = (self.nodes(), self.volumes()) else {
            return false;
        };
        let lost = |volume: &Value| {
            !stores(&nodes)
                .any(|store| store["id"] == volume["store_id"] && store["state"] == "serving")
        };
        volumes.iter().all(|volume| served(volume) || lost(volume))
    }

    fn ask(&self, words: &[&str]) -> Result<Value, String> {
        let mut command = Command::new(&self.program);
        command
            .args(["--control", &self.urls, "--json"])
            .args(words);
        let text = tool::run_ok(&mut command, BOUND)?;
        serde_json::from_str(&text)
            .map_err(|error| format!("holdfast {} gave no JSON: {error}", words.join(" ")))
    }
}

/// A host can log in to it.
pub(crate) fn served(volume: &Value) -> bool {
    volume["condition"] == "serving"
}

/// All stores of all nodes.
fn stores(nodes: &[Value]) -> impl Iterator<Item = &Value> {
    nodes
        .iter()
        .filter_map(|node| node["stores"].as_array())
        .flatten()
}

/// Items of a JSON list.
fn list(value: Value) -> Result<Vec<Value>, String> {
    match value {
        Value::Array(items) => Ok(items),
        other => Err(format!("expected a list, got {other}")),
    }
}
