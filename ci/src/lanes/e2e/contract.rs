//! The contract of `cargo up` and `holdfast`, good days and bad ones.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Case, must, says};
use crate::lanes::Context;
use crate::server::{self, Server};
use crate::{sys, tool};

/// Time for one small client command.
const BOUND: Duration = Duration::from_secs(60);

/// All cases, cheap ones first.
pub(super) const CASES: &[Case] = &[
    (
        "holdfast completes for each shell and says when nobody answers",
        completions,
    ),
    ("a port in use is refused with a remedy", port_in_use),
    ("a wrong size is refused with a remedy", wrong_size),
    ("too little disk is refused with a remedy", too_large),
    (
        "a second instance on the same directory is refused",
        second_instance,
    ),
    ("the ready file keeps its contract", ready_file),
    (
        "stopped and started again, the same volumes with the same bytes",
        same_again,
    ),
    (
        "a killed volume server is restarted and serves its bytes",
        volume_killed,
    ),
    (
        "a killed control process is restarted and host I/O goes on",
        control_killed,
    ),
    (
        "volumes are made, listed and deleted; their space comes back",
        volume_life,
    ),
    (
        "nothing survives a killed cargo up, and the next one serves",
        up_killed,
    ),
];

fn port_in_use(context: &Context) -> Result<String, String> {
    let taken = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    let address = taken
        .local_addr()
        .map_err(|error| error.to_string())?
        .to_string();
    let dir = context.scratch("e2e-port")?;
    let said = Server::start_refused(context, &dir, &["--portal", &address])?;
    says(&said, &[&address, "in use", "--portal"])?;
    must(!dir.join("data/store-0").exists(), || {
        "a store was formatted all the same".to_owned()
    })?;
    let said = Server::start_refused(context, &dir, &["--control", &address])?;
    says(&said, &[&address, "in use", "--control"])
}

fn wrong_size(context: &Context) -> Result<String, String> {
    let dir = context.scratch("e2e-size")?;
    for (flag, value) in [
        ("--volume", "a=1GB"),
        ("--volume", "a"),
        ("--store-size", "much"),
    ] {
        let said = Server::start_refused(context, &dir, &[flag, value])?;
        says(&said, &["error: ", flag])?;
    }
    Ok(String::new())
}

fn too_large(context: &Context) -> Result<String, String> {
    let dir = context.scratch("e2e-large")?;
    let said = Server::start_refused(context, &dir, &["--volume", "a=50TiB"])?;
    says(&said, &["MiB free", "--store-size"])
}

fn second_instance(context: &Context) -> Result<String, String> {
    let dir = context.scratch("e2e-second")?;
    let server = Server::start(context, &dir, &["--volume", "a=64MiB"])?;
    // Another ready file and log, the same data.
    let other = context.scratch("e2e-second-other")?;
    let data = dir.join("data");
    let said = Server::start_refused(context, &other, &["--data", &data.to_string_lossy()])?;
    server.stop()?;
    says(&said, &["another cargo up", "--data"])
}

fn ready_file(context: &Context) -> Result<String, String> {
    let dir = context.scratch("e2e-ready")?;
    let args = [
        "--volume", "a=64MiB", "--volume", "b=128MiB", "--stores", "2",
    ];
    let server = Server::start(context, &dir, &args)?;
    let ready = server.ready()?;
    must(ready["control"] == server.control(), || {
        format!("control is {}", ready["control"])
    })?;
    for (index, (name, bytes)) in [("a", 64_u64 << 20), ("b", 128 << 20)]
        .into_iter()
        .enumerate()
    {
        let volume = &ready["volumes"][index];
        let iqn = format!("iqn.2026-11.io.holdfast:{name}");
        must(
            volume["name"] == name && volume["size_bytes"] == bytes,
            || volume.to_string(),
        )?;
        must(volume["iqn"] == iqn.as_str() && volume["lun"] == 0, || {
            volume.to_string()
        })?;
        must(
            volume["id"].as_str().is_some_and(|id| id.len() >= 32),
            || volume.to_string(),
        )?;
        must(
            volume["portals"]
                .as_array()
                .is_some_and(|all| all.len() == 1),
            || volume.to_string(),
        )?;
    }
    let roles: Vec<&Value> = ready["processes"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| &one["role"])
        .collect();
    must(roles == ["control", "volume"], || {
        format!("processes are {roles:?}")
    })?;
    for pid in server.pids()? {
        must(Path::new(&format!("/proc/{pid}")).exists(), || {
            format!("no process {pid}")
        })?;
    }
    says(
        &server.printed(),
        &["iscsiadm -m discovery", "qemu-img", "Ctrl-C"],
    )?;
    let file = dir.join("ready.json");
    server.stop()?;
    must(!file.exists(), || {
        "the ready file outlives the server".to_owned()
    })?;
    Ok(String::new())
}

fn same_again(context: &Context) -> Result<String, String> {
    let dir = context.scratch("e2e-again")?;
    let server = Server::start(context, &dir, &["--volume", "a=64MiB"])?;
    let id = server.ready()?["volumes"][0]["id"].clone();
    qemu_io(&server.url("a")?, &["write -P 0x5a 0 1M", "flush"])?;
    server.stop()?;
    for args in [&["--volume", "a=64MiB"][..], &[]] {
        let server = Server::start(context, &dir, args)?;
        let volumes = server.ready()?["volumes"].clone();
        must(volumes[0]["id"] == id && volumes[1].is_null(), || {
            format!("now {volumes}")
        })?;
        qemu_io(&server.url("a")?, &["read -P 0x5a 0 1M", "read -P 0 1M 1M"])?;
        server.stop()?;
    }
    let said = Server::start_refused(context, &dir, &["--volume", "a=128MiB"])?;
    says(&said, &["exists with 64MiB", "not 128MiB"])
}

fn volume_killed(context: &Context) -> Result<String, String> {
    let dir = context.scratch("e2e-killed")?;
    let server = Server::start(context, &dir, &["--volume", "a=64MiB"])?;
    let url = server.url("a")?;
    qemu_io(&url, &["write -P 0x77 0 4M"])?;
    let old = server.pid("volume")?;
    let killed = Instant::now();
    sys::signal(old, libc::SIGKILL)?;
    server.wait_restarted("volume", old)?;
    qemu_io_soon(&url, &["read -P 0x77 0 4M"])?;
    let seconds = killed.elapsed().as_secs_f64();
    says(
        &server.printed(),
        &["the volume process was killed by signal 9", "is back"],
    )?;
    server.stop()?;
    Ok(format!("bytes read again {seconds:.2} s after the kill"))
}

fn control_killed(context: &Context) -> Result<String, String> {
    let dir = context.scratch("e2e-control")?;
    let server = Server::start(context, &dir, &["--volume", "a=64MiB"])?;
    let url = server.url("a")?;
    qemu_io(&url, &["write -P 0x11 0 64k"])?;
    let old = server.pid("control")?;
    sys::signal(old, libc::SIGKILL)?;
    qemu_io(&url, &["write -P 0x12 64k 64k", "read -P 0x11 0 64k"])?;
    server.wait_restarted("control", old)?;
    wait_for(&server, Duration::from_secs(20), |server| {
        server
            .holdfast(&["volume", "create", "b", "--size", "64MiB"])
            .is_ok()
    })?;
    wait_for(&server, Duration::from_secs(20), |server| {
        server
            .holdfast(&["volume", "status", "b"])
            .is_ok_and(|v| v["condition"] == "serving")
    })?;
    qemu_io(
        &server.url("b")?,
        &["write -P 0x13 0 64k", "read -P 0x13 0 64k"],
    )?;
    qemu_io(&url, &["read -P 0x12 64k 64k"])?;
    server.stop()?;
    Ok(String::new())
}

fn volume_life(context: &Context) -> Result<String, String> {
    let dir = context.scratch("e2e-life")?;
    let server = Server::start(
        context,
        &dir,
        &["--volume", "a=64MiB", "--store-size", "512MiB"],
    )?;
    let code = |words: &[&str]| server.holdfast_raw(words).map(|output| output.code);
    server.holdfast(&["volume", "create", "b", "--size", "128MiB"])?;
    let same = code(&["volume", "create", "b", "--size", "128MiB"])?;
    must(same == Some(0), || {
        format!("a repeated create ended with {same:?}")
    })?;
    let twice = code(&["volume", "create", "b", "--size", "64MiB"])?;
    must(twice == Some(4), || {
        format!("a second create ended with {twice:?}")
    })?;
    let unknown = code(&["volume", "status", "nobody"])?;
    must(unknown == Some(3), || {
        format!("status of an unknown volume ended with {unknown:?}")
    })?;
    let usage = code(&["volume", "frobnicate"])?;
    must(usage == Some(2), || {
        format!("wrong usage ended with {usage:?}")
    })?;
    wait_for(&server, Duration::from_secs(20), |server| {
        server
            .holdfast(&["volume", "status", "b"])
            .is_ok_and(|v| v["condition"] == "serving")
    })?;
    let free = |server: &Server| -> Result<u64, String> {
        let nodes = server.holdfast(&["node", "list"])?;
        nodes[0]["stores"][0]["free_bytes"]
            .as_u64()
            .ok_or_else(|| format!("no free_bytes: {nodes}"))
    };
    let before = free(&server)?;
    let url = server.url("b")?;
    qemu_io(&url, &["write -P 0x22 0 100M", "flush"])?;
    wait_for(&server, Duration::from_secs(20), |s| {
        free(s).is_ok_and(|now| now + (90 << 20) < before)
    })?;
    server.holdfast(&["volume", "delete", "b", "--yes"])?;
    wait_for(&server, Duration::from_secs(30), |s| {
        free(s).is_ok_and(|now| now + (8 << 20) > before)
    })?;
    let listed = server.holdfast(&["volume", "list"])?;
    must(listed.as_array().is_some_and(|all| all.len() == 1), || {
        format!("still there: {listed}")
    })?;
    must(qemu_io(&url, &["read 0 64k"]).is_err(), || {
        "the deleted volume still serves".to_owned()
    })?;
    server.stop()?;
    Ok(String::new())
}

fn completions(context: &Context) -> Result<String, String> {
    for (shell, word) in [
        ("bash", "complete"),
        ("zsh", "#compdef"),
        ("fish", "complete"),
    ] {
        let mut holdfast = Command::new(context.binary("holdfast"));
        holdfast.args(["completions", shell]);
        says(&tool::run_ok(&mut holdfast, BOUND)?, &[word, "volume"])?;
    }
    let mut unreachable = Command::new(context.binary("holdfast"));
    unreachable.args([
        "--control",
        &format!("http://127.0.0.1:{}", port()?),
        "volume",
        "list",
    ]);
    let code = tool::run(&mut unreachable, BOUND)?.code;
    must(code == Some(6), || {
        format!("without a control process it ended with {code:?}")
    })?;
    Ok(String::new())
}

fn up_killed(context: &Context) -> Result<String, String> {
    let dir = context.scratch("e2e-up-killed")?;
    let server = Server::start(context, &dir, &["--volume", "a=64MiB"])?;
    qemu_io(&server.url("a")?, &["write -P 0x31 0 1M"])?;
    let pids = server.pids()?;
    drop(server);
    let started = Instant::now();
    while pids
        .iter()
        .any(|pid| Path::new(&format!("/proc/{pid}")).exists())
    {
        must(started.elapsed() < Duration::from_secs(10), || {
            format!("{pids:?} still run")
        })?;
        std::thread::sleep(Duration::from_millis(5));
    }
    let server = Server::start(context, &dir, &[])?;
    qemu_io(&server.url("a")?, &["read -P 0x31 0 1M"])?;
    server.stop()?;
    let lock = fs::metadata(dir.join("data/lock")).is_ok();
    must(lock, || "the lock file is gone".to_owned())?;
    Ok(String::new())
}

/// Waits until `holds`, with a bound.
pub(super) fn wait_for(
    server: &Server,
    bound: Duration,
    holds: impl Fn(&Server) -> bool,
) -> Result<(), String> {
    let started = Instant::now();
    while !holds(server) {
        must(started.elapsed() < bound, || {
            format!(
                "did not come true within {} s; {}",
                bound.as_secs(),
                server.said()
            )
        })?;
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// `qemu-io` with each of `commands`; every one must succeed.
pub(super) fn qemu_io(url: &str, commands: &[&str]) -> Result<String, String> {
    let mut qemu = Command::new("qemu-io");
    qemu.args(["-f", "raw", "-t", "none"]);
    for command in commands {
        qemu.args(["-c", command]);
    }
    qemu.arg(url);
    let output = tool::run(&mut qemu, BOUND)?;
    let text = output.text();
    let wrong = text.contains("failed") || text.contains("rror");
    if output.success() && !wrong {
        Ok(text)
    } else {
        Err(format!(
            "qemu-io {commands:?}: code {:?}: {}",
            output.code,
            tool::tail(&text, 4)
        ))
    }
}

/// As [`qemu_io`], tried again for a while: the server is on its way back.
fn qemu_io_soon(url: &str, commands: &[&str]) -> Result<String, String> {
    let started = Instant::now();
    loop {
        match qemu_io(url, commands) {
            Err(_) if started.elapsed() < Duration::from_secs(20) => {
                std::thread::sleep(Duration::from_millis(20));
            }
            result => return result,
        }
    }
}

/// Free ports on the IPv6 loopback as well.
pub(super) fn port() -> Result<u16, String> {
    Ok(server::free_ports(1)?[0])
}
