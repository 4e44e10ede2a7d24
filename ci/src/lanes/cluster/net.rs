//! Nodes as hosts of a network of their own: a namespace each, joined by a bridge; the lane stands beside them.
//!
//! Names and the third byte of the addresses come from this process's id, so that two runs do not meet. Everything is
//! taken away when it is dropped. Packets are dropped by nftables inside the namespaces; nothing else is touched.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use crate::tool;

/// Time for one `ip` or `nft` command.
const BOUND: Duration = Duration::from_secs(20);

/// Last byte of the lane's own address.
const LANE: u8 = 254;

/// Last byte of the address of a virtual machine on the bridge.
const GUEST: u8 = 200;

/// Who sends or receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Party {
    /// The lane itself: the hosts, and the command line.
    Lane,
    /// A node, counted from 1.
    Node(u8),
}

/// The bridge and the namespaces.
#[derive(Debug)]
pub(crate) struct Net {
    tag: String,
    third: u8,
    nodes: u8,
}

impl Net {
    /// Makes the network of `nodes` nodes. Needs root, iproute2 and nftables.
    pub(crate) fn make(nodes: u8) -> Result<Net, String> {
        let id = std::process::id();
        let net = Net {
            tag: format!("hf{:x}", id & 0xf_ffff),
            third: u8::try_from(id % 250).expect("below 250"),
            nodes,
        };
        let bridge = net.bridge();
        let lane = format!("{}/24", net.address(Party::Lane));
        ip(&["link", "add", &bridge, "type", "bridge"])?;
        ip(&["addr", "add", &lane, "dev", &bridge])?;
        ip(&["link", "set", &bridge, "up"])?;
        for node in 1..=nodes {
            net.add(node)?;
        }
        Ok(net)
    }

    fn add(&self, node: u8) -> Result<(), String> {
        let (space, port) = (self.space(node), format!("{}p{node}", self.tag));
        let address = format!("{}/24", self.address(Party::Node(node)));
        ip(&["netns", "add", &space])?;
        ip(&[
            "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &space,
        ])?;
        ip(&["link", "set", &port, "master", &self.bridge(), "up"])?;
        ip(&["-n", &space, "addr", "add", &address, "dev", "eth0"])?;
        ip(&["-n", &space, "link", "set", "eth0", "up"])?;
        ip(&["-n", &space, "link", "set", "lo", "up"])?;
        self.nft(node, "add table inet cut")?;
        for (chain, hook) in [("in", "input"), ("out", "output")] {
            let rule =
                format!("add chain inet cut {chain} {{ type filter hook {hook} priority 0; }}");
            self.nft(node, &rule)?;
        }
        Ok(())
    }

    /// An address of the network.
    pub(crate) fn address(&self, party: Party) -> Ipv4Addr {
        let last = match party {
            Party::Lane => LANE,
            Party::Node(node) => node,
        };
        Ipv4Addr::new(10, 213, self.third, last)
    }

    /// Words before a command that is to run on a node.
    pub(crate) fn launcher(&self, node: u8) -> Vec<String> {
        ["ip", "netns", "exec", &self.space(node)]
            .map(str::to_owned)
            .to_vec()
    }

    /// Plugs a virtual machine into the bridge. Gives its interface, and the address with its length that it is to take.
    pub(crate) fn guest(&self) -> Result<(String, String), String> {
        let tap = format!("{}t", self.tag);
        ip(&["tuntap", "add", "dev", &tap, "mode", "tap"])?;
        ip(&["link", "set", &tap, "master", &self.bridge(), "up"])?;
        let address = Ipv4Addr::new(10, 213, self.third, GUEST);
        Ok((tap, format!("{address}/24")))
    }

    /// From now on nothing that `from` sends reaches `to`. At least one of them is a node.
    pub(crate) fn cut(&self, from: Party, to: Party) -> Result<(), String> {
        match (from, to) {
            (_, Party::Node(node)) => {
                let rule = format!("add rule inet cut in ip saddr {} drop", self.address(from));
                self.nft(node, &rule)
            }
            (Party::Node(node), Party::Lane) => {
                let rule = format!("add rule inet cut out ip daddr {} drop", self.address(to));
                self.nft(node, &rule)
            }
            (Party::Lane, Party::Lane) => Err("the lane is not cut from itself".to_owned()),
        }
    }

    /// Both ways.
    pub(crate) fn cut_both(&self, one: Party, other: Party) -> Result<(), String> {
        self.cut(one, other)?;
        self.cut(other, one)
    }

    /// Every packet arrives again.
    pub(crate) fn heal(&self) -> Result<(), String> {
        for node in 1..=self.nodes {
            self.nft(node, "flush table inet cut")?;
        }
        Ok(())
    }

    fn nft(&self, node: u8, rule: &str) -> Result<(), String> {
        let mut nft = Command::new("ip");
        nft.args(["netns", "exec", &self.space(node), "nft", rule]);
        tool::run_ok(&mut nft, BOUND).map(drop)
    }

    fn bridge(&self) -> String {
        format!("{}br", self.tag)
    }

    fn space(&self, node: u8) -> String {
        format!("{}n{node}", self.tag)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for node in 1..=self.nodes {
            // What was not made cannot be deleted; the rest goes.
            let _ = ip(&["netns", "del", &self.space(node)]);
        }
        let _ = ip(&["link", "del", &format!("{}t", self.tag)]);
        let _ = ip(&["link", "del", &self.bridge()]);
    }
}

fn ip(words: &[&str]) -> Result<(), String> {
    tool::run_ok(Command::new("ip").args(words), BOUND).map(drop)
}
