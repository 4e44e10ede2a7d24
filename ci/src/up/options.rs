//! What the person asked for, and the plan that follows from it on this machine.

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::wanted::{self, Wanted};
use crate::{size, sys};

/// Nodes of one cluster on one machine at most.
const NODES_MAX: i64 = 16;

/// Flags of `cargo up`; a fixed contract for scripts.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Directory that holds everything: registry, stores, logs
    #[arg(long, value_name = "DIR", default_value = "./holdfast-data")]
    data: PathBuf,
    /// Address on which hosts log in (repeat it for more portals)
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:3260")]
    portal: Vec<SocketAddr>,
    /// Address that hosts are told instead of the portal's own (repeatable)
    #[arg(long, value_name = "ADDR:PORT")]
    advertise: Vec<SocketAddr>,
    /// Address of the control process
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9480")]
    control: SocketAddr,
    /// Address on which the volume server takes the streams of its peers
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9481")]
    peer: SocketAddr,
    /// Nodes of the cluster, each in DIR/node-i; node i listens on the addresses given plus i - 1 [default: one node, in DIR]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=NODES_MAX))]
    nodes: Option<u8>,
    /// Masters among the nodes, the first ones: 1, 3 or 5; one master that is down changes nothing for hosts but nobody is promoted
    #[arg(long, value_name = "M", default_value_t = 1, requires = "nodes", value_parser = masters)]
    masters: u8,
    /// A volume to make when it does not exist, such as demo=1GiB or db=4GiB,rf=3,durability=sync_quorum (repeatable) [default: demo=1GiB when there is none]
    #[arg(long, value_name = "NAME=SIZE[,rf=N][,durability=MODE][,paths=KIND]")]
    volume: Vec<String>,
    /// Number of stores of each node [default: those that exist, else one per CPU]
    #[arg(long, value_name = "N")]
    stores: Option<usize>,
    /// Size of each new store [default: large enough for the volumes]
    #[arg(long, value_name = "SIZE")]
    store_size: Option<String>,
    /// File that appears, as JSON, when everything is ready
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Use the release binaries as they are
    #[arg(long)]
    no_build: bool,
}

/// One store of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StorePlan {
    /// Its file.
    pub(crate) path: PathBuf,
    /// Bytes to format it with; `None` when it exists.
    pub(crate) format_bytes: Option<u64>,
}

/// Whether a node stands alone or is one of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Membership {
    /// The only node: agent and embedded master, no peers.
    Alone,
    /// One of several.
    Member {
        /// Its name in the cluster.
        name: String,
        /// Where its volume server takes the streams of its peers.
        peer: SocketAddr,
        /// It is a master too.
        master: bool,
        /// The other masters to join; empty for the first node, which begins the cluster.
        masters: Vec<String>,
        /// CPUs of its volume server, so that the nodes do not share one while others idle.
        cpus: Vec<usize>,
    },
}

/// One node: a control process and a volume server.
#[derive(Debug, Clone)]
pub(crate) struct NodePlan {
    /// Where its stores, registry and logs lie; absolute.
    pub(crate) data: PathBuf,
    /// Where hosts log in.
    pub(crate) portals: Vec<SocketAddr>,
    /// What hosts are told, when it differs.
    pub(crate) advertised: Vec<SocketAddr>,
    /// Where control listens.
    pub(crate) control: SocketAddr,
    /// All its stores, existing ones first.
    pub(crate) stores: Vec<StorePlan>,
    /// Its place in the cluster.
    pub(crate) membership: Membership,
    /// Words before each of its commands, to start them elsewhere (a network namespace).
    pub(crate) launcher: Vec<String>,
}

/// What will be done.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Where everything lies; absolute.
    pub(crate) data: PathBuf,
    /// At least one.
    pub(crate) nodes: Vec<NodePlan>,
    /// Volumes that were asked for by name.
    pub(crate) volumes: Vec<Wanted>,
    /// The volume made when nothing was asked for and nothing exists.
    pub(crate) fallback: Option<Wanted>,
    /// Where to report readiness.
    pub(crate) ready_file: Option<PathBuf>,
    /// Build the release binaries first.
    pub(crate) build: bool,
}

impl Options {
    /// Checks what was asked and looks at what exists.
    pub(crate) fn plan(self) -> Result<Plan, String> {
        let volumes = wanted::read(&self.volume)?;
        let fallback = volumes.is_empty().then(Wanted::demo);
        let data = std::path::absolute(&self.data)
            .map_err(|error| format!("{} is no path: {error}", self.data.display()))?;
        let count = usize::from(self.nodes.unwrap_or(1));
        for volume in &volumes {
            if volume.copies > count {
                return Err(format!(
                    "--volume {}: {} copies need as many nodes, there are {count}; give --nodes {} or a smaller rf",
                    volume.name, volume.copies, volume.copies
                ));
            }
        }
        if usize::from(self.masters) > count {
            return Err(format!(
                "--masters {}: each master needs a node, there are {count}; give --nodes {} or fewer masters",
                self.masters, self.masters
            ));
        }
        let cpus = sys::cpus()?;
        let mut nodes = Vec::with_capacity(count);
        for index in 0..count {
            let data = match self.nodes {
                Some(_) => data.join(format!("node-{}", index + 1)),
                None => data.clone(),
            };
            nodes.push(NodePlan {
                portals: shifted_all(&self.portal, index)?,
                advertised: shifted_all(&self.advertise, index)?,
                control: shifted(self.control, index)?,
                stores: self.stores(&data, cpus.len() / count, volumes.iter().chain(&fallback))?,
                membership: self.membership(index, &cpus)?,
                launcher: Vec::new(),
                data,
            });
        }
        Ok(Plan {
            data,
            nodes,
            volumes,
            fallback,
            ready_file: self.ready_file,
            build: !self.no_build,
        })
    }

    fn membership(&self, index: usize, cpus: &[usize]) -> Result<Membership, String> {
        if self.nodes.is_none() {
            return Ok(Membership::Alone);
        }
        let masters = (0..usize::from(self.masters)).map(|at| shifted(self.control, at).map(url));
        Ok(Membership::Member {
            name: format!("node-{}", index + 1),
            peer: shifted(self.peer, index)?,
            master: index < usize::from(self.masters),
            masters: others(index, masters.collect::<Result<_, _>>()?),
            cpus: cpus_of_node(cpus, index, usize::from(self.nodes.unwrap_or(1))),
        })
    }

    fn stores<'a>(
        &self,
        data: &Path,
        cpus: usize,
        volumes: impl Iterator<Item = &'a Wanted>,
    ) -> Result<Vec<StorePlan>, String> {
        let existing = existing_stores(data);
        let count = match self.stores {
            Some(0) => return Err("--stores is 0; at least one store is needed".to_owned()),
            Some(count) => count.max(existing),
            None if existing > 0 => existing,
            None => cpus.max(1),
        };
        let format_bytes = match &self.store_size {
            Some(text) => size::parse(text).map_err(|error| format!("--store-size: {error}"))?,
            None => {
                let all: Vec<u64> = volumes.map(|volume| volume.size_bytes).collect();
                store_bytes(&all, count)
            }
        };
        Ok((0..count)
            .map(|index| StorePlan {
                path: data.join(format!("store-{index}")),
                format_bytes: (index >= existing).then_some(format_bytes),
            })
            .collect())
    }
}

impl NodePlan {
    /// URL of its control process.
    pub(crate) fn control_url(&self) -> String {
        url(self.control)
    }

    /// The link between its control process and its volume server.
    pub(crate) fn link(&self) -> PathBuf {
        self.data.join("control.sock")
    }

    /// Its name in messages; empty when there is only one.
    pub(crate) fn name(&self) -> &str {
        match &self.membership {
            Membership::Alone => "",
            Membership::Member { name, .. } => name,
        }
    }
}

impl Plan {
    /// URL that people and scripts use.
    pub(crate) fn control_url(&self) -> String {
        self.nodes[0].control_url()
    }

    /// The nodes that are masters, the one that begins the cluster first.
    pub(crate) fn masters(&self) -> impl Iterator<Item = &NodePlan> {
        let is_master = |node: &&NodePlan| match &node.membership {
            Membership::Alone => true,
            Membership::Member { master, .. } => *master,
        };
        self.nodes.iter().filter(is_master)
    }

    /// URLs of all masters, separated by commas.
    pub(crate) fn master_urls(&self) -> String {
        let urls: Vec<String> = self.masters().map(NodePlan::control_url).collect();
        urls.join(",")
    }

    /// Bytes of disk that formatting will need.
    pub(crate) fn format_bytes(&self) -> u64 {
        let stores = self.nodes.iter().flat_map(|node| &node.stores);
        stores.filter_map(|store| store.format_bytes).sum()
    }

    /// Stores of all nodes.
    pub(crate) fn store_count(&self) -> usize {
        self.nodes.iter().map(|node| node.stores.len()).sum()
    }
}

/// The masters that node `index` joins: none for the first, which begins the cluster.
pub(crate) fn others(index: usize, masters: Vec<String>) -> Vec<String> {
    let all = masters.into_iter().enumerate();
    let others = all.filter(|(at, _)| index > 0 && *at != index);
    others.map(|(_, url)| url).collect()
}

/// The number of masters: odd, so that one more is worth its cost.
fn masters(text: &str) -> Result<u8, String> {
    match text.parse() {
        Ok(count @ (1 | 3 | 5)) => Ok(count),
        _ => {
            Err("1, 3 or 5 masters agree by majority; an even number tolerates no more".to_owned())
        }
    }
}

/// URL of a control process.
fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

/// The CPUs of node `index`: its share of them, or one shared with others when there are more nodes than CPUs.
fn cpus_of_node(cpus: &[usize], index: usize, nodes: usize) -> Vec<usize> {
    if cpus.len() <= nodes {
        return cpus
            .get(index % cpus.len().max(1))
            .copied()
            .into_iter()
            .collect();
    }
    cpus.iter().copied().skip(index).step_by(nodes).collect()
}

fn shifted_all(addresses: &[SocketAddr], index: usize) -> Result<Vec<SocketAddr>, String> {
    addresses
        .iter()
        .map(|address| shifted(*address, index))
        .collect()
}

/// The address of node `index` when the first node has `address`: the next IPv4 address, or the next port of an IPv6 one.
fn shifted(address: SocketAddr, index: usize) -> Result<SocketAddr, String> {
    let step = u16::try_from(index).expect("NODES_MAX is small");
    let next = match address.ip() {
        _ if index == 0 => Some(address),
        IpAddr::V4(ip) if !ip.is_unspecified() => u32::from(ip)
            .checked_add(u32::from(step))
            .map(|ip| SocketAddr::new(Ipv4Addr::from(ip).into(), address.port())),
        // `::1` is the only loopback address of IPv6, and every address is every node's: ports tell them apart.
        _ => address
            .port()
            .checked_add(step * PORT_STEP)
            .map(|port| SocketAddr::new(address.ip(), port)),
    };
    next.ok_or_else(|| {
        format!(
            "{address} leaves no room for node {}; choose a lower one",
            index + 1
        )
    })
}

/// Ports between two nodes that share an address.
const PORT_STEP: u16 = 10;

/// Bytes of each of `count` stores so that all volumes fit when they are full.
///
/// A store spends 2 MiB on its head, an eighth (32 MiB to 1 GiB) on the log and 1 KiB of map per 64 KiB chunk, and needs
/// spare chunks while a checkpoint is under way: a sixteenth and 64 MiB are added. Volumes are dealt to the emptiest store;
/// with several nodes each has room for all of them, since any node may be given a copy.
pub(crate) fn store_bytes(volumes: &[u64], count: usize) -> u64 {
    let mut filled = vec![0_u64; count.max(1)];
    for bytes in volumes {
        if let Some(emptiest) = filled.iter_mut().min() {
            *emptiest = emptiest.saturating_add(*bytes);
        }
    }
    let fullest = filled.into_iter().max().unwrap_or(0);
    let chunks = fullest
        .saturating_add(fullest / 16)
        .saturating_add(64 * size::MIB);
    let with_map = chunks
        .saturating_add(chunks / 64)
        .saturating_add(4 * size::MIB);
    let log = (with_map / 7).clamp(32 * size::MIB, size::GIB);
    with_map
        .saturating_add(log)
        .checked_next_multiple_of(4 * size::MIB)
        .unwrap_or(u64::MAX)
}

/// Stores are numbered without a gap.
fn existing_stores(data: &Path) -> usize {
    (0..)
        .take_while(|index| data.join(format!("store-{index}")).exists())
        .count()
}
