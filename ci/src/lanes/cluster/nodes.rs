//! The nodes of the lane's cluster: their processes, started in namespaces, killed, paused and brought back.

use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::net::{Net, Party};
use crate::size::MIB;
use crate::sys;
use crate::up::children::{Child, Role};
use crate::up::command_line::CommandLine;
use crate::up::options::{self, Membership, NodePlan, Plan, StorePlan};
use crate::up::{stores, wanted};

/// From started processes to volumes that are served.
const READY_BOUND: Duration = Duration::from_secs(60);

/// Between two looks.
const POLL: Duration = Duration::from_millis(100);

/// Masters, the first nodes: one may be lost.
const MASTERS: u8 = 3;

/// Bytes of each node's store.
const STORE_BYTES: u64 = 512 * MIB;

const ISCSI_PORT: u16 = 3260;
const CONTROL_PORT: u16 = 9480;
const PEER_PORT: u16 = 9481;

/// The processes of one node.
#[derive(Debug)]
struct Node {
    control: Child,
    volume: Child,
}

/// All nodes, and the network between them.
#[derive(Debug)]
pub(crate) struct Cluster {
    nodes: Vec<Node>,
    command_line: CommandLine,
    /// Last, so that the processes end before their network does.
    pub(crate) net: Net,
}

impl Cluster {
    /// Formats the stores, starts all processes, makes the volumes, waits until they are served and in sync.
    pub(crate) fn start(
        directory: &Path,
        count: u8,
        volumes: &[String],
    ) -> Result<Cluster, String> {
        let net = Net::make(count)?;
        let plan = Plan {
            data: directory.to_owned(),
            nodes: (1..=count)
                .map(|node| plan_of(&net, directory, node))
                .collect(),
            volumes: wanted::read(volumes)?,
            fallback: None,
            ready_file: None,
            build: false,
        };
        for node in &plan.nodes {
            std::fs::create_dir_all(&node.data)
                .map_err(|error| format!("cannot make {}: {error}", node.data.display()))?;
        }
        stores::format_missing(&plan)?;
        let nodes = plan.nodes.iter().map(|plan| {
            Ok(Node {
                control: Child::start(Role::Control, plan)?,
                volume: Child::start(Role::Volume, plan)?,
            })
        });
        let nodes = nodes.collect::<Result<Vec<_>, String>>()?;
        let mut cluster = Cluster {
            nodes,
            command_line: CommandLine::new(&plan)?,
            net,
        };
        cluster.wait("the first master to answer", |line| line.nodes().is_ok())?;
        cluster.command_line.add_masters(&plan)?;
        cluster.wait("the stores to open", |line| line.stores_known(&plan))?;
        cluster.command_line.make_volumes(&plan)?;
        cluster.wait("the volumes to be in sync", |line| {
            line.volumes()
                .is_ok_and(|volumes| volumes.iter().all(is_healthy))
        })?;
        Ok(cluster)
    }

    /// Portals of all nodes, and the target of a volume.
    pub(crate) fn target(&mut self, volume: &str) -> Result<(String, Vec<SocketAddr>), String> {
        let volumes = self.command_line.volumes()?;
        let found = volumes.iter().find(|found| found["name"] == volume);
        let iqn = found.and_then(|found| found["iqn"].as_str());
        let iqn = iqn.ok_or_else(|| format!("volume {volume} is not listed"))?;
        let portals = (1..=self.count())
            .map(|node| SocketAddr::new(self.net.address(Party::Node(node)).into(), ISCSI_PORT));
        Ok((iqn.to_owned(), portals.collect()))
    }

    /// Nodes, counted from 1.
    pub(crate) fn count(&self) -> u8 {
        u8::try_from(self.nodes.len()).expect("few nodes")
    }

    /// The node that is primary of a volume, as far as is known.
    pub(crate) fn primary(&mut self, volume: &str) -> Option<u8> {
        let volumes = self.command_line.volumes().ok()?;
        let found = volumes.iter().find(|found| found["name"] == volume)?;
        let copies = found["replicas"].as_array()?;
        let primary = copies.iter().find(|copy| copy["role"] == "primary")?;
        primary["node"]
            .as_str()?
            .strip_prefix("node-")?
            .parse()
            .ok()
    }

    /// Every volume has all its copies in sync.
    pub(crate) fn is_healthy(&mut self) -> bool {
        let volumes = self.command_line.volumes();
        volumes.is_ok_and(|volumes| volumes.iter().all(is_healthy))
    }

    /// What the masters say of the volumes, for a message.
    pub(crate) fn describe(&mut self) -> String {
        match self.command_line.volumes() {
            Ok(volumes) => volumes.iter().map(Value::to_string).collect(),
            Err(why) => why,
        }
    }

    /// The last words of every process.
    pub(crate) fn last_words(&self) -> String {
        let each = |node: &Node| {
            format!(
                "{}; {}",
                node.control.last_words(),
                node.volume.last_words()
            )
        };
        self.nodes.iter().map(each).collect::<Vec<_>>().join("; ")
    }

    /// Sends a signal to one process of a node; one that is down already gets none.
    pub(crate) fn signal(&self, node: u8, role: Role, signal: i32) -> Result<(), String> {
        let node = &self.nodes[usize::from(node - 1)];
        let child = match role {
            Role::Control => &node.control,
            Role::Volume => &node.volume,
        };
        match child.pid() {
            0 => Ok(()),
            pid => sys::signal(pid, signal),
        }
    }

    /// Starts again what died; to be called now and then.
    pub(crate) fn restart_dead(&mut self) -> Result<(), String> {
        for node in &mut self.nodes {
            node.control.watch()?;
            node.volume.watch()?;
        }
        Ok(())
    }

    /// An orderly end of everything.
    pub(crate) fn stop(&mut self) -> Result<(), String> {
        for node in &self.nodes {
            node.volume.ask_to_stop();
        }
        let mut result = Ok(());
        for node in &mut self.nodes {
            result = result.and(node.volume.stop()).and(node.control.stop());
        }
        result
    }

    fn wait(&mut self, what: &str, done: impl Fn(&mut CommandLine) -> bool) -> Result<(), String> {
        let started = Instant::now();
        while !done(&mut self.command_line) {
            if started.elapsed() > READY_BOUND {
                return Err(format!(
                    "waited {} s for {what}, in vain: {}; {}",
                    READY_BOUND.as_secs(),
                    self.describe(),
                    self.last_words()
                ));
            }
            self.restart_dead()?;
            thread::sleep(POLL);
        }
        Ok(())
    }
}

/// All copies of a volume are in sync, and hosts are served.
fn is_healthy(volume: &Value) -> bool {
    let copies = volume["replicas"].as_array().map_or(&[][..], Vec::as_slice);
    volume["condition"] == "serving"
        && volume["rf"] == copies.len()
        && copies.iter().all(|copy| copy["in_sync"] == true)
}

fn plan_of(net: &Net, directory: &Path, node: u8) -> NodePlan {
    let address = |node: u8, port| SocketAddr::new(net.address(Party::Node(node)).into(), port);
    let data = directory.join(format!("node-{node}"));
    let masters = (1..=MASTERS).map(|node| format!("http://{}", address(node, CONTROL_PORT)));
    let store = StorePlan {
        path: data.join("store-0"),
        format_bytes: Some(STORE_BYTES),
    };
    NodePlan {
        portals: vec![address(node, ISCSI_PORT)],
        advertised: Vec::new(),
        control: address(node, CONTROL_PORT),
        stores: vec![store],
        membership: Membership::Member {
            name: format!("node-{node}"),
            peer: address(node, PEER_PORT),
            master: node <= MASTERS,
            masters: options::others(usize::from(node - 1), masters.collect()),
            cpus: vec![usize::from(node % 2)],
        },
        launcher: net.launcher(node),
        data,
    }
}
