//! Commands that change copies and nodes.

use super::client::Client;
use super::{Cli, Exit, Failure, NodeCommand, ReplicaCommand, SetOptions, print_text, render};
use crate::name::VolumeName;
use crate::proto::{self, NodeChange};
use std::time::{Duration, Instant};

/// Between two looks at a drained node.
const DRAIN_PAUSE: Duration = Duration::from_millis(500);

/// A drain that cannot go on, or of which nobody tells, is waited for so long; it stays registered.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn replica(cli: &Cli, command: &ReplicaCommand) -> Result<(), Failure> {
    let mut client = Client::connect(&cli.control)?;
    let volume = match command {
        ReplicaCommand::Add { volume, node } => {
            client.add_replica(volume, node.as_deref().unwrap_or_default())?
        }
        ReplicaCommand::Remove {
            volume,
            node,
            force,
        } => client.remove_replica(volume, node, *force)?,
    };
    print_text(&render::volume(&volume, cli.json))
}

pub(super) fn set(cli: &Cli, name: &VolumeName, options: &SetOptions) -> Result<(), Failure> {
    let durability = options.durability.map(|mode| mode.to_string());
    let request = proto::SetVolumeRequest {
        name: name.to_string(),
        rf: options.rf.map_or(0, u32::from),
        durability: durability.unwrap_or_default(),
        size_bytes: options.size.map_or(0, |size| size.0),
        allow_degraded: options.allow_degraded,
    };
    if options.rf == Some(0) {
        let message = "a volume has 1 to 3 copies, not 0; `holdfast volume delete` removes it";
        return Err(Failure::with(Exit::Usage, message));
    }
    let volume = Client::connect(&cli.control)?.set_volume(request)?;
    super::warn(&volume.may_lose);
    print_text(&render::volume(&volume, cli.json))
}

pub(super) fn node(cli: &Cli, command: &NodeCommand) -> Result<(), Failure> {
    let mut client = Client::connect(&cli.control)?;
    let reply = match command {
        NodeCommand::List => client.list_nodes()?,
        NodeCommand::Cordon { node } => client.change_node(node, NodeChange::Cordon, false)?,
        NodeCommand::Uncordon { node } => client.change_node(node, NodeChange::Uncordon, false)?,
        NodeCommand::Drain { node, no_wait } => {
            let reply = client.change_node(node, NodeChange::Drain, false)?;
            match no_wait {
                true => reply,
                false => drained(&mut client, node, reply)?,
            }
        }
        NodeCommand::Remove { node, force } => {
            client.change_node(node, NodeChange::Remove, *force)?
        }
    };
    print_text(&render::nodes(&reply, cli.json))
}

/// Waits until the node is empty, or cannot become so.
fn drained(
    client: &mut Client,
    node: &str,
    mut reply: proto::ListNodesReply,
) -> Result<proto::ListNodesReply, Failure> {
    let (mut stuck, mut told, mut unheard) = (None, None, None);
    loop {
        let mut nodes = reply.nodes.iter();
        let Some(seen) = nodes.find(|seen| seen.name == node || seen.id == node) else {
            return Ok(reply); // Removed meanwhile.
        };
        if seen.copies == 0 {
            return Ok(reply);
        }
        if !seen.draining {
            let message = format!(
                "the drain of {node} was taken back; {} copies left",
                seen.copies
            );
            return Err(Failure::with(Exit::Conflict, message));
        }
        if told != Some(seen.copies) {
            told = Some(seen.copies);
            super::say(&format!("{node}: {} copies left", seen.copies));
        }
        if seen.drain_obstacle.is_empty() {
            stuck = None;
        } else if stuck.get_or_insert_with(Instant::now).elapsed() > DRAIN_PATIENCE {
            let message = format!(
                "{node} keeps {} copies: {}; the drain goes on by itself when that changes, `holdfast \
                 node uncordon {node}` takes it back",
                seen.copies, seen.drain_obstacle
            );
            return Err(Failure::with(Exit::Degraded, message));
        }
        std::thread::sleep(DRAIN_PAUSE);
        // Masters may change meanwhile; the drain is registered and goes on.
        match client.list_nodes() {
            Ok(newer) => (reply, unheard) = (newer, None),
            Err(failure) => {
                if unheard.get_or_insert_with(Instant::now).elapsed() > DRAIN_PATIENCE {
                    return Err(failure);
                }
            }
        }
    }
}
