//! `cargo ci multipath`: a Linux kernel with dm-multipath over three copies, while their primary is killed twenty times.
//!
//! The nodes live in network namespaces of one bridge, the guest on the same bridge; `ci/guest/scenario-multipath.sh` runs
//! in it and prints how long no synced write ended. Every other time the dead volume server stays down for a while, so
//! that another copy must take over. No I/O error may reach the file system.

use super::super::Context;
use super::super::cluster::nodes::Cluster;
use super::{Guest, IMAGE_BOUND, PACKAGES, Watchdog, record};
use crate::report::Report;
use crate::tool;
use crate::up::children::Role;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// Deaths of the primary in one run, unless told otherwise.
const KILLS: u64 = 20;

/// How long a volume server that does not come back at once stays down: longer than its lease.
const DOWN: Duration = Duration::from_secs(5);

/// The guest works for so long between two deaths, when all copies are in sync.
const BETWEEN: Duration = Duration::from_secs(3);

/// All copies must be in sync again within this time.
const IN_SYNC_MAX: Duration = Duration::from_secs(60);

/// Between two looks.
const POLL: Duration = Duration::from_millis(20);

/// Goals of DESIGN 7 for the time until hosts are served again.
const STALL_P99_MAX: Duration = Duration::from_secs(10);
const STALL_MAX: Duration = Duration::from_secs(15);

/// Debian packages beyond those of the other guest.
const MORE_PACKAGES: [&str; 4] = ["iproute2", "nftables", "multipath-tools", "dmsetup"];

/// Builds the guest, starts the nodes, kills their primaries.
pub(crate) fn run(context: &Context, report: &mut Report) {
    if let Err(why) = scenario(context, report) {
        report.check("the guest runs", Err(why));
    }
}

fn scenario(context: &Context, report: &mut Report) -> Result<(), String> {
    if !crate::sys::is_root() {
        return Err("network namespaces need root; run `sudo cargo ci multipath`".to_owned());
    }
    let packages: Vec<&str> = PACKAGES.into_iter().chain(MORE_PACKAGES).collect();
    context.packages(&packages)?;
    context.build()?;
    let image = context.target.join("ci/guest-multipath");
    let mut command = Command::new("sh");
    command
        .arg(context.root.join("ci/guest/image.sh"))
        .arg(&image)
        .arg(context.root.join("ci/guest/scenario-multipath.sh"))
        .arg("multipath");
    tool::run_ok(&mut command, IMAGE_BOUND)?;
    let volumes = ["files=256MiB,rf=3,paths=multipath".to_owned()];
    let mut cluster = Cluster::start(&context.scratch("multipath")?, 3, &volumes)?;
    let (target, portals) = cluster.target("files")?;
    let (tap, address) = cluster.net.guest()?;
    let portal = portals.first().ok_or("the volume has no portal")?;
    let words =
        format!("holdfast.portal={portal} holdfast.iqn={target} holdfast.address={address}");
    let network = format!("tap,id=n0,ifname={tap},script=no,downscript=no");
    let guest = Guest::boot_on(&network, Stdio::piped(), &image, &words)?;
    let kills = context.options.kills.unwrap_or(KILLS);
    let stalls = follow(guest, &mut cluster, kills, report)?;
    report.check("hosts are served again in time", judge(stalls));
    report.check(
        "the nodes stop cleanly",
        cluster.stop().map(|()| String::new()),
    );
    Ok(())
}

/// Kills while the guest works, then lets it end. Gives the longest stall after each death.
fn follow(
    mut guest: Guest,
    cluster: &mut Cluster,
    kills: u64,
    report: &mut Report,
) -> Result<Vec<Duration>, String> {
    let console = guest.qemu.stdout.take().ok_or("the guest has no console")?;
    let mut input = guest.qemu.stdin.take().ok_or("the guest has no input")?;
    let _watchdog = Watchdog::over(guest.qemu.id());
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).replace('\r', "");
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let mut console = Console {
        lines,
        ended: false,
    };
    while !console.next(cluster, report)?.contains("READY") {}
    let mut stalls = Vec::new();
    for number in 0..kills {
        let primary = cluster.primary("files").ok_or("there is no primary")?;
        cluster.signal(primary, Role::Volume, libc::SIGKILL)?;
        let stays_down = number % 2 == 1;
        let mut stall = Duration::ZERO;
        let killed = Instant::now();
        let mut in_sync_since = None;
        loop {
            let held = stays_down && killed.elapsed() < DOWN;
            let gap = console.gap(cluster, report, !held)?;
            stall = stall.max(gap);
            if held || !cluster.is_healthy() {
                in_sync_since = None;
            } else if in_sync_since.get_or_insert_with(Instant::now).elapsed() > BETWEEN {
                break;
            }
            if killed.elapsed() > IN_SYNC_MAX {
                return Err(format!(
                    "not in sync again after death {number}; {}",
                    cluster.describe()
                ));
            }
        }
        stalls.push(stall);
    }
    writeln!(input, "stop")
        .map_err(|error| format!("cannot type on the guest's console: {error}"))?;
    while !console.ended {
        console.next(cluster, report)?;
    }
    Ok(stalls)
}

/// What the guest says.
struct Console {
    lines: Receiver<String>,
    ended: bool,
}

impl Console {
    /// The next line; dead servers are brought back meanwhile.
    fn next(&mut self, cluster: &mut Cluster, report: &mut Report) -> Result<String, String> {
        loop {
            if let Some(line) = self.poll(report)? {
                return Ok(line);
            }
            cluster.restart_dead()?;
        }
    }

    /// The longest gap that was told in this moment.
    fn gap(
        &mut self,
        cluster: &mut Cluster,
        report: &mut Report,
        restart: bool,
    ) -> Result<Duration, String> {
        if restart {
            cluster.restart_dead()?;
        }
        let Some(line) = self.poll(report)? else {
            return Ok(Duration::ZERO);
        };
        let gap = line
            .split_once("GAP ")
            .and_then(|(_, ms)| ms.trim().parse().ok());
        Ok(Duration::from_millis(gap.unwrap_or(0)))
    }

    fn poll(&mut self, report: &mut Report) -> Result<Option<String>, String> {
        match self.lines.recv_timeout(POLL) {
            Ok(line) => {
                if let Some((_, check)) = line.split_once("CHECK ") {
                    record(check, report);
                }
                self.ended |= line.contains("GUEST EXIT");
                Ok(Some(line))
            }
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                Err("the guest did not reach its end".to_owned())
            }
        }
    }
}

/// A gap that is not told was shorter than 400 ms.
fn judge(mut stalls: Vec<Duration>) -> Result<String, String> {
    stalls.sort_unstable();
    let at = |percent: usize| stalls[(stalls.len() * percent).div_ceil(100).max(1) - 1];
    let (p50, p99, max) = (at(50), at(99), at(100));
    let told = format!(
        "{} deaths of the primary; no synced write ended for p50 {p50:?}, p99 {p99:?}, max {max:?}",
        stalls.len()
    );
    match p99 < STALL_P99_MAX && max < STALL_MAX {
        true => Ok(told),
        false => Err(told),
    }
}
