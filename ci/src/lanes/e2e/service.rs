//! The two daemons under a service manager: what they tell it, and the units that we ship.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Case, must};
use crate::lanes::Context;
use crate::{server, sys, tool, workspace};

/// Time for one small command.
const BOUND: Duration = Duration::from_secs(60);

/// How long a daemon may take to say what is expected.
const SAYS_MAX: Duration = Duration::from_secs(20);

/// Patience of the service manager that the daemons are told of.
const WATCHDOG_US: &str = "3000000";

/// All cases.
pub(super) const CASES: &[Case] = &[
    (
        "both daemons say when they are ready, alive and stopping",
        daemons_notify,
    ),
    ("the systemd units are well-formed and hardened", units),
];

/// A daemon and the socket on which it speaks to its service manager.
struct Daemon {
    process: Child,
    socket: UnixDatagram,
}

impl Daemon {
    fn start(context: &Context, dir: &Path, name: &str, args: &[&str]) -> Result<Self, String> {
        let path = dir.join(format!("{name}.notify"));
        let failed = |error: std::io::Error| format!("{name}: {error}");
        let socket = UnixDatagram::bind(&path).map_err(failed)?;
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .map_err(failed)?;
        let log = fs::File::create(dir.join(format!("{name}.log"))).map_err(failed)?;
        let mut command = Command::new(context.binary(name));
        command
            .args(args)
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", WATCHDOG_US)
            .stdin(Stdio::null())
            .stderr(log);
        sys::tie_to_parent(&mut command);
        let process = command.spawn().map_err(failed)?;
        Ok(Self { process, socket })
    }

    /// Waits for a message, over any others.
    fn says(&self, word: &str) -> Result<(), String> {
        let started = Instant::now();
        let mut heard = Vec::new();
        let mut bytes = [0; 256];
        while started.elapsed() < SAYS_MAX {
            let Ok(length) = self.socket.recv(&mut bytes) else {
                continue; // Silence; the bound ends it.
            };
            let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
            if text.lines().any(|line| line == word) {
                return Ok(());
            }
            heard.push(text);
        }
        Err(format!("it did not say {word}, only {heard:?}"))
    }

    fn stop(mut self) -> Result<(), String> {
        sys::signal(self.process.id(), libc::SIGTERM)?;
        self.says("STOPPING=1")?;
        let status = self.process.wait().map_err(|error| error.to_string())?;
        must(status.success(), || format!("it ended with {status}"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn daemons_notify(context: &Context) -> Result<String, String> {
    let dir = context.scratch("e2e-service")?;
    let path = |name: &str| dir.join(name).display().to_string();
    let (store, link, data) = (path("store"), path("link"), path("control"));
    let mut format = Command::new(context.binary("holdfast"));
    format.args(["store", "format", &store, "--size", "128MiB"]);
    tool::run_ok(&mut format, BOUND)?;
    let ports = server::free_ports(2)?;
    let listen = format!("127.0.0.1:{}", ports[0]);
    let portal = format!("127.0.0.1:{}", ports[1]);
    let control = Daemon::start(
        context,
        &dir,
        "holdfast-control",
        &["--data", &data, "--listen", &listen, "--link", &link],
    )?;
    let volume = Daemon::start(
        context,
        &dir,
        "holdfast-volume",
        &["--link", &link, "--store", &store, "--portal", &portal],
    )?;
    for (name, daemon) in [("control", &control), ("volume", &volume)] {
        for word in ["READY=1", "WATCHDOG=1", "WATCHDOG=1"] {
            daemon
                .says(word)
                .map_err(|what| format!("{name}: {what}"))?;
        }
    }
    volume.stop().map_err(|what| format!("volume: {what}"))?;
    control.stop().map_err(|what| format!("control: {what}"))?;
    Ok(String::new())
}

/// With systemd's own tool where it is installed; what the units promise is looked at in any case.
fn units(context: &Context) -> Result<String, String> {
    let dir = context.scratch("e2e-units")?;
    let mut said = Vec::new();
    for (name, file) in [
        (
            "holdfast-control",
            "control/systemd/holdfast-control.service",
        ),
        ("holdfast-volume", "shard/systemd/holdfast-volume.service"),
    ] {
        let unit = workspace::root().join(file);
        let text = fs::read_to_string(&unit).map_err(|error| format!("{file}: {error}"))?;
        for line in [
            "Type=notify",
            "WatchdogSec=",
            "Restart=always",
            "NoNewPrivileges=yes",
        ] {
            must(text.contains(line), || format!("{file} has no {line}"))?;
        }
        // The tool looks for the program; ours is not installed.
        let built = context.binary(name).display().to_string();
        let copy = dir.join(format!("{name}.service"));
        fs::write(&copy, text.replace(&format!("/usr/bin/{name}"), &built))
            .map_err(|error| error.to_string())?;
        said.push(analyze(&copy)?);
    }
    Ok(said.join(", "))
}

/// Judges one unit; gives its exposure level, smaller is better.
fn analyze(unit: &Path) -> Result<String, String> {
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]).arg(unit);
    let verified = match tool::run(&mut verify, BOUND) {
        Err(what) if what.starts_with("cannot start") => {
            return Ok("systemd-analyze is not installed".into());
        }
        other => other?,
    };
    let ours = unit
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let complaints = verified.text();
    let complaint = complaints.lines().find(|line| line.contains(&ours));
    must(complaint.is_none(), || {
        complaint.unwrap_or_default().to_owned()
    })?;
    let mut security = Command::new("systemd-analyze");
    security
        .args(["security", "--offline=yes", "--threshold=30"])
        .arg(unit);
    let judged = tool::run(&mut security, BOUND)?;
    let text = judged.text();
    let level = text.lines().find(|line| line.contains("Overall exposure"));
    let level = level.unwrap_or_default().trim().to_owned();
    must(judged.success(), || {
        format!("exposed too much: {level}; {}", tool::tail(&text, 3))
    })?;
    Ok(level)
}
