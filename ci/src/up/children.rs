//! The child processes of a node: their command lines, their logs, their deaths and restarts, their orderly end.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{self, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::options::{Membership, NodePlan};
use crate::{sys, tool, workspace};

/// Pause before a restart, as systemd's default; doubled while the child dies before anybody could reach it.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);

/// Longest pause before a restart.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Time for one connection to a child.
const CONNECT_BOUND: Duration = Duration::from_millis(500);

/// Time for an orderly end; then SIGKILL.
const STOP_BOUND: Duration = Duration::from_secs(60);

/// Bytes at the end of a log that are looked at for its last words.
const LAST_WORDS_BYTES: u64 = 4096;

/// What a child is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Node agent and master.
    Control,
    /// The data plane.
    Volume,
}

impl Role {
    /// Name in the ready file and in messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Role::Control => "control",
            Role::Volume => "volume",
        }
    }
}

/// One child process, started again whenever it dies.
#[derive(Debug)]
pub(crate) struct Child {
    role: Role,
    /// For messages: the role, and the node when there are several.
    name: String,
    program: PathBuf,
    /// Words before the program.
    launcher: Vec<String>,
    arguments: Vec<String>,
    log: PathBuf,
    process: Option<process::Child>,
    /// Exit already reported, waiting for `restart_at`.
    restart_at: Option<Instant>,
    backoff: Duration,
    /// Where it listens.
    addresses: Vec<SocketAddr>,
    /// Somebody could reach it since its start.
    reached: bool,
}

impl Child {
    /// Knows how to start it, and does not.
    pub(crate) fn new(role: Role, plan: &NodePlan) -> Result<Self, String> {
        let (program, arguments) = match role {
            Role::Control => (
                workspace::binary("holdfast-control")?,
                control_arguments(plan),
            ),
            Role::Volume => (
                workspace::binary("holdfast-volume")?,
                volume_arguments(plan),
            ),
        };
        if !program.exists() {
            return Err(format!(
                "{} is not built; run `cargo build --release`, or leave --no-build out",
                program.display()
            ));
        }
        let name = match plan.name() {
            "" => role.name().to_owned(),
            node => format!("{} of {node}", role.name()),
        };
        Ok(Self {
            role,
            name,
            program,
            launcher: plan.launcher.clone(),
            arguments,
            log: plan.data.join(format!("{}.log", role.name())),
            process: None,
            restart_at: None,
            backoff: BACKOFF_FIRST,
            addresses: match role {
                Role::Control => vec![plan.control],
                Role::Volume => plan.portals.clone(),
            },
            reached: false,
        })
    }

    /// Knows how to start it, and does.
    pub(crate) fn start(role: Role, plan: &NodePlan) -> Result<Self, String> {
        let mut child = Self::new(role, plan)?;
        child.spawn()?;
        Ok(child)
    }

    /// Starts it; its words go to its log.
    pub(crate) fn spawn(&mut self) -> Result<(), String> {
        assert!(self.process.is_none()); // Two of them would fight for the same stores.
        let log = open_log(&self.log)?;
        let errors = log
            .try_clone()
            .map_err(|error| format!("cannot share {}: {error}", self.log.display()))?;
        let mut words = self.launcher.iter().map(OsStr::new);
        let mut command = match words.next() {
            Some(launcher) => {
                let mut command = Command::new(launcher);
                command.args(words).arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        command
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors);
        // Its own group: Ctrl-C reaches this process only, which then stops the children in order.
        command.process_group(0);
        sys::tie_to_parent(&mut command);
        let started = command
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", self.program.display()))?;
        self.process = Some(started);
        self.reached = false;
        self.restart_at = None;
        Ok(())
    }

    /// Its process id; 0 while it is dead.
    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().map_or(0, process::Child::id)
    }

    /// What to call it in messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// SIGTERM, without waiting for the end.
    pub(crate) fn ask_to_stop(&self) {
        if let Some(process) = &self.process {
            // It may have ended by itself; `stop` finds out.
            let _ = sys::signal(process.id(), libc::SIGTERM);
        }
    }

    /// What it is for.
    pub(crate) fn role(&self) -> Role {
        self.role
    }

    /// A sentence when it was started and is dead now.
    pub(crate) fn died(&mut self) -> Option<String> {
        let status = self.exited()?;
        Some(format!(
            "the {} process {}; {}",
            self.name,
            how(status),
            self.last_words()
        ))
    }

    /// Restarts it when it died and its pause is over; true when its process id changed.
    pub(crate) fn watch(&mut self) -> Result<bool, String> {
        if let Some(status) = self.exited() {
            let pause = if self.reached {
                BACKOFF_FIRST
            } else {
                self.backoff
            };
            self.backoff = (pause * 2).min(BACKOFF_MAX);
            self.restart_at = Some(Instant::now() + pause);
            println!(
                "the {} process {}; restarting it in {} ms; {}",
                self.name,
                how(status),
                pause.as_millis(),
                self.last_words()
            );
        }
        match self.restart_at {
            Some(when) if when <= Instant::now() => {
                self.spawn()?;
                println!("the {} process is back, pid {}", self.name, self.pid());
                Ok(true)
            }
            _ => {
                self.reached = self.reached || (self.process.is_some() && self.accepts());
                Ok(false)
            }
        }
    }

    /// Everything it listens on takes a TCP connection.
    pub(crate) fn accepts(&self) -> bool {
        self.addresses.iter().all(|address| {
            let address = SocketAddr::new(reachable(*address), address.port());
            TcpStream::connect_timeout(&address, CONNECT_BOUND).is_ok()
        })
    }

    /// SIGTERM, a bounded wait, SIGKILL. An error when it did not end by itself with code 0.
    pub(crate) fn stop(&mut self) -> Result<(), String> {
        let name = self.name.clone();
        self.restart_at = None;
        let Some(process) = self.process.as_mut() else {
            return Ok(());
        };
        let _ = sys::signal(process.id(), libc::SIGTERM);
        let asked = Instant::now();
        while asked.elapsed() < STOP_BOUND {
            if let Some(status) = self.exited() {
                if status.success() {
                    println!("the {name} process ended");
                    return Ok(());
                }
                let last = self.last_words();
                return Err(format!(
                    "the {name} process {} while it stopped; {last}",
                    how(status)
                ));
            }
            thread::sleep(Duration::from_millis(5));
        }
        self.kill();
        Err(format!(
            "the {name} process did not end within {} s and was killed; {}",
            STOP_BOUND.as_secs(),
            self.last_words()
        ))
    }

    /// The end of its log, for a sentence.
    pub(crate) fn last_words(&self) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = File::open(&self.log)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(LAST_WORDS_BYTES)))?;
            let mut bytes = Vec::new();
            file.take(LAST_WORDS_BYTES).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let words = tool::tail(&read().unwrap_or_default(), 3);
        if words.is_empty() {
            format!("{} is empty", self.log.display())
        } else {
            format!("{} ends with: {words}", self.log.display())
        }
    }

    fn exited(&mut self) -> Option<ExitStatus> {
        let status = self.process.as_mut()?.try_wait().ok()??;
        self.process = None;
        Some(status)
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Where a port that is bound to every address can be met from here.
fn reachable(bound: SocketAddr) -> IpAddr {
    match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

fn control_arguments(plan: &NodePlan) -> Vec<String> {
    let mut words = vec![
        "--data".to_owned(),
        plan.data.join("control").display().to_string(),
    ];
    words.extend(["--listen".to_owned(), plan.control.to_string()]);
    words.extend(["--link".to_owned(), plan.link().display().to_string()]);
    if let Membership::Member {
        name,
        master,
        masters,
        ..
    } = &plan.membership
    {
        words.extend(["--node-name".to_owned(), name.clone()]);
        if *master {
            words.push("--master".to_owned());
        }
        if !masters.is_empty() {
            words.extend(["--masters".to_owned(), masters.join(",")]);
        }
    }
    words
}

fn volume_arguments(plan: &NodePlan) -> Vec<String> {
    let mut words = vec!["--link".to_owned(), plan.link().display().to_string()];
    for store in &plan.stores {
        words.extend(["--store".to_owned(), store.path.display().to_string()]);
    }
    for portal in &plan.portals {
        words.extend(["--portal".to_owned(), portal.to_string()]);
    }
    for address in &plan.advertised {
        words.extend(["--advertise".to_owned(), address.to_string()]);
    }
    if let Membership::Member { peer, cpus, .. } = &plan.membership {
        let cpus: Vec<String> = cpus.iter().map(ToString::to_string).collect();
        words.extend(["--peer".to_owned(), peer.to_string()]);
        words.extend(["--cpus".to_owned(), cpus.join(",")]);
    }
    words
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

fn open_log(path: &PathBuf) -> Result<File, String> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map_err(|error| format!("cannot open {}: {error}", path.display()))
}
