//! Lane `kill`: nothing acknowledged is lost when the real processes are killed.
//!
//! Two hosts write to two volumes on two stores while the volume server, the control process or
//! both get SIGKILL at random moments, also while they recover. After every kill the hosts log in
//! again and read everything back. Then a server with 1 GiB of live log behind is killed once
//! more, and the time until it serves is held against the promise.

mod recovery;
#[cfg(test)]
mod tests;
mod workload;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::initiator::login::Options;
use crate::lanes::Context;
use crate::oracle::Identity;
use crate::report::Report;
use crate::server::Server;
use crate::{sys, tool};

use workload::{Connected, Counts, Driver, Mix};

/// Kills of the volume server in one run, unless told otherwise.
const KILLS_DEFAULT: u64 = 100;
/// One for each host.
const VOLUMES: [&str; 2] = ["kill-a", "kill-b"];
/// Bytes of each of the two volumes.
const VOLUME_BYTES: usize = 64 << 20;
/// Serving again must be possible within this.
const SERVING_MAX: Duration = Duration::from_secs(20);
const SIGKILL: i32 = 9;

/// Runs the loop and the recovery time.
pub(crate) fn run(context: &Context, report: &mut Report) {
    let result = kill_loop(context, report);
    report.check("kill -9 loop", result);
    let result = recovery::run(context);
    report.check("recovery with 1 GiB of log", result);
}

/// Who dies in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Volume,
    /// The volume server, and again as soon as it is back.
    VolumeTwice,
    /// The control process alone: host I/O must go on.
    Control,
    Both,
}

impl Victim {
    fn draw(random: &mut fastrand::Rng) -> Self {
        match random.u32(0..20) {
            0..14 => Self::Volume,
            14..17 => Self::VolumeTwice,
            17..18 => Self::Control,
            _ => Self::Both,
        }
    }
}

#[derive(Debug, Default)]
struct Tally {
    volume_kills: u64,
    control_kills: u64,
    serving: Vec<Duration>,
}

fn kill_loop(context: &Context, report: &mut Report) -> Result<String, String> {
    let seed = context.seed();
    let kills = context.options.kills.unwrap_or(KILLS_DEFAULT);
    report.note(&format!(
        "seed {seed}: repeats the command streams and the order of kills"
    ));
    let scratch = context.scratch("kill")?;
    let arguments = [
        "--volume",
        "kill-a=64MiB",
        "--volume",
        "kill-b=64MiB",
        "--stores",
        "2",
    ];
    let arguments = [&arguments[..], &["--store-size", "512MiB"]].concat();
    let server = Server::start(context, &scratch, &arguments)?;
    let mut drivers = Vec::new();
    for (number, name) in (1..).zip(VOLUMES) {
        let portal: SocketAddr = parse_portal(&server.portal()?)?;
        let options = Options::new(portal, &server.iqn(name)?);
        let identity = Identity {
            volume: number,
            seed,
        };
        drivers.push(Driver::new(
            options,
            identity,
            Mix::Everything,
            VOLUME_BYTES,
        ));
    }
    let mut random = fastrand::Rng::with_seed(seed);
    let mut tally = Tally::default();
    for driver in &mut drivers {
        connect(driver)?;
    }
    while tally.volume_kills < kills {
        let round = tally.volume_kills + tally.control_kills;
        one_round(&server, &mut drivers, &mut random, &mut tally)
            .map_err(|what| format!("seed {seed}, round {round}: {what}"))?;
    }
    server.stop()?;
    checked_offline(context, &scratch)?;
    let server = Server::start(context, &scratch, &arguments)?;
    for (driver, name) in drivers.iter_mut().zip(VOLUMES) {
        driver.move_to(Options::new(
            parse_portal(&server.portal()?)?,
            &server.iqn(name)?,
        ));
        connect(driver)?;
    }
    sweep(&mut drivers).map_err(|what| format!("after an orderly stop: {what}"))?;
    server.stop()?;
    Ok(summary(&drivers, &mut tally))
}

/// Both stores must be sound after all that: references and checksums (I10).
fn checked_offline(context: &Context, home: &Path) -> Result<(), String> {
    for store in ["store-0", "store-1"] {
        let mut check = Command::new(context.binary("holdfast"));
        check
            .args(["store", "check", "--data"])
            .arg(home.join("data").join(store));
        tool::run_ok(&mut check, Duration::from_secs(60))?;
    }
    Ok(())
}

fn one_round(
    server: &Server,
    drivers: &mut [Driver],
    random: &mut fastrand::Rng,
    tally: &mut Tally,
) -> Result<(), String> {
    let victim = Victim::draw(random);
    let pause = Duration::from_millis(random.u64(20..400));
    let again = Duration::from_millis(random.u64(0..60));
    let stop = AtomicBool::new(false);
    let (broken, killed) = thread::scope(|scope| {
        let hosts: Vec<_> = drivers
            .iter_mut()
            .map(|driver| scope.spawn(|| driver.run(&stop)))
            .collect();
        thread::sleep(pause);
        let killed = strike(server, victim, tally);
        if victim == Victim::Control {
            // Long enough for a host to notice, were it to depend on the control process.
            thread::sleep(Duration::from_millis(300));
        }
        let killed_well = killed.is_ok();
        if victim == Victim::Control || !killed_well {
            stop.store(true, Ordering::Relaxed);
        }
        let results: Vec<_> = hosts
            .into_iter()
            .map(|host| host.join().expect("a driver does not panic"))
            .collect();
        (results, killed)
    });
    let killed = killed?;
    for result in broken {
        let session_broke = result?;
        if victim == Victim::Control && session_broke {
            return Err("host I/O stopped when the control process was killed".into());
        }
    }
    if victim == Victim::Control {
        return sweep(drivers);
    }
    if victim == Victim::VolumeTwice {
        let back = server.wait_restarted("volume", killed.volume)?;
        thread::sleep(again);
        // It may have ended by itself; that costs a restart and shows in the time to serving.
        if sys::signal(back, SIGKILL).is_ok() {
            tally.volume_kills += 1;
        }
    }
    for driver in drivers.iter_mut() {
        connect(driver)?;
    }
    tally.serving.push(killed.at.elapsed());
    sweep(drivers)
}

struct Killed {
    at: Instant,
    volume: u32,
}

fn strike(server: &Server, victim: Victim, tally: &mut Tally) -> Result<Killed, String> {
    let volume = server.pid("volume")?;
    if matches!(victim, Victim::Control | Victim::Both) {
        sys::signal(server.pid("control")?, SIGKILL)?;
        tally.control_kills += 1;
    }
    if victim != Victim::Control {
        sys::signal(volume, SIGKILL)?;
        tally.volume_kills += 1;
    }
    Ok(Killed {
        at: Instant::now(),
        volume,
    })
}

/// Tries to log in and read until it works.
fn connect(driver: &mut Driver) -> Result<(), String> {
    let started = Instant::now();
    loop {
        match driver.connect()? {
            Connected::Serving => return Ok(()),
            Connected::NotYet(error) if started.elapsed() > SERVING_MAX => {
                return Err(format!(
                    "not serving after {} s: {error}",
                    SERVING_MAX.as_secs()
                ));
            }
            Connected::NotYet(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Every host reads its whole volume, at the same time.
fn sweep(drivers: &mut [Driver]) -> Result<(), String> {
    thread::scope(|scope| {
        let hosts: Vec<_> = drivers
            .iter_mut()
            .map(|driver| scope.spawn(|| driver.sweep()))
            .collect();
        hosts
            .into_iter()
            .try_for_each(|host| host.join().expect("a driver does not panic"))
    })
}

fn summary(drivers: &[Driver], tally: &mut Tally) -> String {
    let mut sum = Counts::default();
    for counts in drivers.iter().map(|driver| driver.counts) {
        sum.acknowledged += counts.acknowledged;
        sum.acknowledged_bytes += counts.acknowledged_bytes;
        sum.unanswered += counts.unanswered;
        sum.reads_checked += counts.reads_checked;
        sum.blocks_checked += counts.blocks_checked;
        sum.busy += counts.busy;
        sum.attentions += counts.attentions;
    }
    tally.serving.sort_unstable();
    let at = |index: usize| tally.serving.get(index).map_or(0, Duration::as_millis);
    let count = tally.serving.len();
    format!(
        "{} kills of the volume server, {} of the control process, {} writes acknowledged ({} MiB), \
         {} in flight at a kill, {} reads and {} blocks checked, {} busy, \
         {} unit attentions, 0 lost; \
         serving again after {} ms (p50), {} ms (max)",
        tally.volume_kills,
        tally.control_kills,
        sum.acknowledged,
        sum.acknowledged_bytes >> 20,
        sum.unanswered,
        sum.reads_checked,
        sum.blocks_checked,
        sum.busy,
        sum.attentions,
        at(count / 2),
        at(count.saturating_sub(1)),
    )
}

/// The address in the ready file.
pub(crate) fn parse_portal(portal: &str) -> Result<SocketAddr, String> {
    portal
        .parse()
        .map_err(|error| format!("portal {portal}: {error}"))
}
