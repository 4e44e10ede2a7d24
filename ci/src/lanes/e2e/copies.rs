//! Copies that come, go and move while a host's data stays what it is: four nodes, one pattern, every byte read again.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::contract::qemu_io;
use super::{Case, must, says};
use crate::lanes::Context;
use crate::server::{self, Server};
use crate::sys;

/// All cases.
pub(super) const CASES: &[Case] = &[(
    "copies are added, removed, drained and made anew under a host",
    life,
)];

/// Time for copies to come in sync, or to leave.
const CHANGE_MAX: Duration = Duration::from_secs(30);

/// Between two looks.
const POLL: Duration = Duration::from_millis(50);

/// The node with the master, which is not lost here.
const MASTER: &str = "node-1";

/// A copy whose node is gone for so long is made anew; longer than a failover takes.
const REPLACE_AFTER: &str = "4s";

/// Exit code of what is refused in this state.
const CONFLICT: Option<i32> = Some(4);

/// Exit code of a drain without a place for what is left.
const NOT_EMPTIED: Option<i32> = Some(5);

/// What the host wrote.
const WRITE: [&str; 2] = ["write -P 0x5a 0 8M", "write -P 0xa5 40M 1M"];

/// The same again.
const READ: [&str; 3] = [
    "read -P 0x5a 0 8M",
    "read -P 0 8M 32M",
    "read -P 0xa5 40M 1M",
];

fn life(context: &Context) -> Result<String, String> {
    let ports = server::free_ports(3)?;
    let at = |index: usize| format!("127.0.30.1:{}", ports[index]);
    let (portal, control, peer) = (at(0), at(1), at(2));
    let args = [
        ["--nodes", "4"],
        ["--portal", &portal],
        ["--control", &control],
        ["--peer", &peer],
        ["--volume", "one=64MiB"],
    ]
    .concat();
    let soon = [("HOLDFAST_REPLACE_AFTER", REPLACE_AFTER)];
    let server = Server::start_with(context, &context.scratch("e2e-copies")?, &args, &soon)?;
    qemu_io(&url(&server)?, &WRITE)?;
    grows_and_shrinks(&server)?;
    loses_a_node(&server)?;
    drains(&server)?;
    refuses(&server)?;
    server.stop()?;
    Ok("1, 3, 2 copies; sync_quorum and back; 64 to 96 MiB; a node lost; two nodes emptied; every byte the same".to_owned())
}

/// One copy becomes three, by quorum for a while, then two.
fn grows_and_shrinks(server: &Server) -> Result<(), String> {
    server.holdfast(&["volume", "set", "one", "--rf", "3"])?;
    in_sync(server, 3)?;
    same(server)?;
    server.holdfast(&["volume", "set", "one", "--durability", "sync_quorum"])?;
    same(server)?;
    let both = [
        "volume",
        "set",
        "one",
        "--rf",
        "2",
        "--durability",
        "sync_all",
    ];
    server.holdfast(&both)?;
    in_sync(server, 2)?;
    same(server)?;
    let grown = server.holdfast(&["volume", "set", "one", "--size", "96MiB"])?;
    must(grown["size_bytes"] == 96 << 20, || {
        format!("not grown: {grown}")
    })?;
    qemu_io(
        &url(server)?,
        &["write -P 0x77 95M 1M", "read -P 0x77 95M 1M"],
    )?;
    server.holdfast(&["volume", "replica", "add", "one"])?;
    let status = in_sync(server, 3)?;
    let leaves = text(&status["replicas"][0]["node"]);
    server.holdfast(&["volume", "replica", "remove", "one", &leaves, "--force"])?;
    let status = in_sync(server, 2)?;
    must(!nodes(&status).contains(&leaves), || {
        format!("{leaves} has it: {status}")
    })?;
    same(server)
}

/// A node stands still: its copy is made anew elsewhere, and a deletion does not wait for it. What it holds goes when it is
/// back.
fn loses_a_node(server: &Server) -> Result<(), String> {
    let status = in_sync(server, 2)?;
    let copies = status["replicas"].as_array().cloned().unwrap_or_default();
    let elsewhere = |copy: &&Value| copy["node"] != MASTER;
    let copy = copies
        .iter()
        .find(elsewhere)
        .ok_or("both are on one node")?;
    let (node, store) = (text(&copy["node"]), text(&copy["store_id"]));
    let create = [
        "volume",
        "create",
        "gone",
        "--size",
        "64MiB",
        "--store-id",
        &store,
    ];
    server.holdfast(&create)?;
    let pids = [
        server.pid_of(&node, "volume")?,
        server.pid_of(&node, "control")?,
    ];
    for pid in pids {
        sys::signal(pid, libc::SIGSTOP)?;
    }
    wait(|| is(server, "at-risk", "1 of 2"), "the risk to be told")?;
    wait(|| copies_without(server, &node), "a copy in its place")?;
    same(server)?;
    server.holdfast(&["volume", "delete", "gone", "--yes"])?;
    let left = server.holdfast(&["volume", "list"])?;
    must(!left.to_string().contains("gone"), || {
        format!("still there: {left}")
    })?;
    for pid in pids {
        sys::signal(pid, libc::SIGCONT)?;
    }
    wait(|| is_empty(server, &node), "the remains to be removed")?;
    same(server)
}

/// Whether the volume's state and its reason say so.
fn is(server: &Server, state: &str, why: &str) -> Result<bool, String> {
    let status = server.holdfast_raw(&["volume", "status", "one"])?;
    let status: Value = serde_json::from_str(&status.stdout).unwrap_or_default();
    Ok(status["state"] == state && text(&status["reason"]).contains(why))
}

/// Whether the volume has two copies in sync, none of them on `node`.
fn copies_without(server: &Server, node: &str) -> Result<bool, String> {
    let status = server.holdfast_raw(&["volume", "status", "one"])?;
    let status: Value = serde_json::from_str(&status.stdout).unwrap_or_default();
    let copies = status["replicas"].as_array().cloned().unwrap_or_default();
    let well = copies
        .iter()
        .all(|copy| copy["in_sync"] == true && copy["node"] != node);
    Ok(well && copies.len() == 2)
}

/// Whether the node is back and holds no copy.
fn is_empty(server: &Server, node: &str) -> Result<bool, String> {
    let reply = server.holdfast(&["node", "list"])?;
    let nodes = reply.as_array().cloned().unwrap_or_default();
    let seen = nodes.into_iter().find(|seen| seen["name"] == node);
    let seen = seen.ok_or_else(|| format!("{node} is not listed"))?;
    let stores = seen["stores"].as_array().cloned().unwrap_or_default();
    let free = |store: &Value| store["free_bytes"] == store["capacity_bytes"];
    let whole =
        seen["state"] == "online" && seen["copies"] == 0 && seen["unknown_volumes"] == json!([]);
    Ok(whole && stores.iter().all(free))
}

fn wait(done: impl Fn() -> Result<bool, String>, what: &str) -> Result<(), String> {
    let began = Instant::now();
    while !done()? {
        if began.elapsed() > CHANGE_MAX {
            return Err(format!("waited {} s for {what}", CHANGE_MAX.as_secs()));
        }
        thread::sleep(POLL);
    }
    Ok(())
}

/// Every node that has a copy is emptied, the primary's first.
fn drains(server: &Server) -> Result<(), String> {
    for node in nodes(&in_sync(server, 2)?) {
        server.holdfast(&["node", "drain", &node])?;
        let status = in_sync(server, 2)?;
        must(!nodes(&status).contains(&node), || {
            format!("{node} has it: {status}")
        })?;
        same(server)?;
    }
    Ok(())
}

/// What would break a promise, or cannot be, is refused with what to do. Two nodes are drained.
fn refuses(server: &Server) -> Result<(), String> {
    let status = in_sync(server, 2)?;
    let (first, other) = (&nodes(&status)[0], &nodes(&status)[1]);
    let refused = |words: &[&str], code: Option<i32>, hint: &str| {
        let output = server.holdfast_raw(words)?;
        must(output.code == code, || {
            format!("{words:?}: {:?} {}", output.code, output.text())
        })?;
        says(&output.text(), &[hint]).map(|_| ())
    };
    refused(
        &["volume", "replica", "remove", "one", first],
        CONFLICT,
        "--force",
    )?;
    refused(
        &["volume", "replica", "add", "one"],
        CONFLICT,
        "is being drained",
    )?;
    refused(&["node", "remove", first], CONFLICT, "node drain")?;
    refused(&["node", "drain", "nobody"], Some(3), "holdfast node list")?;
    refused(&["node", "drain", first], NOT_EMPTIED, "has no place")?;
    server.holdfast(&["node", "uncordon", first])?;
    server.holdfast(&["volume", "replica", "remove", "one", other, "--force"])?;
    in_sync(server, 1)?;
    let last = ["volume", "replica", "remove", "one", first, "--force"];
    refused(&last, CONFLICT, "the only one")?;
    same(server)
}

/// Waits until the volume has exactly `count` copies, all in sync, and is served.
fn in_sync(server: &Server, count: usize) -> Result<Value, String> {
    let began = Instant::now();
    loop {
        let status = server.holdfast_raw(&["volume", "status", "one"])?;
        let status: Value = serde_json::from_str(&status.stdout).unwrap_or_default();
        let copies = status["replicas"].as_array().cloned().unwrap_or_default();
        let well = copies.iter().all(|copy| copy["in_sync"] == true);
        if well && copies.len() == count && status["state"] == "healthy" {
            return Ok(status);
        }
        if began.elapsed() > CHANGE_MAX {
            return Err(format!("not {count} copies in sync: {status}"));
        }
        thread::sleep(POLL);
    }
}

/// The host finds what it wrote.
fn same(server: &Server) -> Result<(), String> {
    qemu_io(&url(server)?, &READ).map(|_| ())
}

/// Where the primary's node serves it.
fn url(server: &Server) -> Result<String, String> {
    let status = server.holdfast(&["volume", "status", "one"])?;
    let (portal, iqn) = (text(&status["portals"][0]), text(&status["iqn"]));
    Ok(format!("iscsi://{portal}/{iqn}/0"))
}

/// The nodes with a copy, the primary's first.
fn nodes(status: &Value) -> Vec<String> {
    let copies = status["replicas"].as_array().cloned().unwrap_or_default();
    let mut copies: Vec<_> = copies.iter().collect();
    copies.sort_by_key(|copy| copy["role"] != "primary");
    copies.iter().map(|copy| text(&copy["node"])).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
