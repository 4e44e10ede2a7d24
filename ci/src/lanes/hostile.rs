//! Lane `hostile`: clients that break the rules cost bounded memory, and the others keep working.
//!
//! A well-behaved host writes and reads all the time on one volume while attack after attack runs
//! against the same portal. After each attack the same process must still serve, the host must not
//! have seen an error, a wrong byte or a long wait, and the memory of the server must have stayed
//! under a bound. Everything is bounded in count and time and stays on the loopback address.

mod attacks;
mod bystander;
mod logins;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::initiator::login::Options;
use crate::lanes::Context;
use crate::report::Report;
use crate::server::Server;
use crate::sys;

use super::kill::parse_portal;
use bystander::Bystander;

/// Longest wait of the well-behaved host for one 4 KiB command while two CPUs serve everyone.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// Memory of the volume server at most, in MiB: 1,024 of cache and transfers as configured by
/// default, 32 KiB for each of 10,000 connections, the rest for maps, rings and code.
const MEMORY_MIB_MAX: u64 = 1024 + 320 + 180;
/// Memory that may stay when the attackers are gone, in MiB: the read cache of the victim (256 MiB and
/// its book-keeping) and what ten thousand connections leave behind in tables that do not shrink.
const MEMORY_KEPT_MIB_MAX: u64 = 300;
/// Time after which it must have been given back.
const GIVE_BACK_MAX: Duration = Duration::from_secs(10);
/// CHAP secret of the locked volume.
const SECRET: &str = "correct horse battery";

/// Whom the attacks aim at.
#[derive(Debug)]
struct Scene {
    portal: SocketAddr,
    /// A volume without access rules that nobody else uses.
    victim: Options,
    /// A volume that asks for CHAP with the user `host` and [`SECRET`].
    locked: Options,
}

/// An attack; the detail says what the target answered.
type Attack = fn(&Scene) -> Result<String, String>;

const ATTACKS: &[(&str, Attack)] = &[
    ("garbage bytes", attacks::garbage_bytes),
    ("first PDU is not a login", logins::wrong_first_pdu),
    ("2,048 unknown keys", logins::unknown_keys),
    ("long key names and values", logins::long_keys),
    ("login text without end", logins::endless_text),
    ("CHAP nonsense", logins::chap_nonsense),
    ("session reinstatement, 200 times", logins::reinstatement),
    ("half-open logins", logins::half_open),
    ("oversize data segments", attacks::oversize_segments),
    ("additional header nonsense", attacks::additional_headers),
    ("commands outside the window", attacks::outside_window),
    ("two tasks with one tag", attacks::duplicate_tag),
    ("aborts and resets", attacks::changed_minds),
    ("data nobody asked for", attacks::unasked_data),
    ("NOP flood", attacks::nop_flood),
    ("R2T never answered", attacks::unanswered_r2t),
    ("slow readers", attacks::slow_readers),
    (
        "2,000 connections opened and dropped",
        attacks::dropped_connections,
    ),
    ("10,000 connections", attacks::ten_thousand),
];

/// Runs all attacks.
pub(crate) fn run(context: &Context, report: &mut Report) {
    match Stage::set(context) {
        Ok(stage) => stage.play(report),
        Err(what) => report.check("hostile clients", Err(what)),
    }
}

struct Stage {
    server: Server,
    scene: Scene,
    bystander: Bystander,
    pid: u32,
}

impl Stage {
    fn set(context: &Context) -> Result<Self, String> {
        sys::raise(sys::Limit::OpenFiles).map_err(|error| format!("open files: {error}"))?;
        let scratch = context.scratch("hostile")?;
        let arguments = ["--volume", "good=64MiB", "--volume", "victim=256MiB"];
        let server = Server::start(context, &scratch.join("data"), &arguments)?;
        let secret = scratch.join("secret");
        std::fs::write(&secret, SECRET).map_err(|error| error.to_string())?;
        let secret = secret
            .to_str()
            .ok_or("the scratch directory is not UTF-8")?;
        let create = [
            "volume",
            "create",
            "locked",
            "--size",
            "64MiB",
            "--chap-user",
            "host",
        ];
        server.holdfast(&[&create[..], &["--chap-secret-file", secret]].concat())?;
        let portal = parse_portal(&server.portal()?)?;
        let scene = Scene {
            portal,
            victim: Options::new(portal, &server.iqn("victim")?),
            locked: Options::new(portal, &server.iqn("locked")?),
        };
        let pid = server.pid("volume")?;
        let bystander = Bystander::start(Options::new(portal, &server.iqn("good")?), pid)?;
        Ok(Self {
            server,
            scene,
            bystander,
            pid,
        })
    }

    fn play(self, report: &mut Report) {
        // One second alone, to know what the host and the server are like in peace.
        std::thread::sleep(Duration::from_secs(1));
        let peace = self.bystander.take();
        let calm_mib = peace.as_ref().map_or(0, |seen| seen.memory_mib_max);
        report.check("in peace", peace.map(|seen| seen.to_string()));
        for (name, attack) in ATTACKS {
            let started = Instant::now();
            let attacked = attack(&self.scene);
            let seconds = started.elapsed().as_secs_f64();
            let judged = attacked.and_then(|detail| {
                let seen = self.judge()?;
                Ok(format!("{detail}; {seen}; {seconds:.1} s"))
            });
            report.check(name, judged);
        }
        std::thread::sleep(Duration::from_secs(1));
        let after = self.bystander.take().map(|seen| seen.to_string());
        report.check("afterwards", after);
        report.check("memory is given back", self.memory_given_back(calm_mib));
        let stopped = self.bystander.stop().and_then(|()| self.server.stop());
        report.check("the server stops in order", stopped.map(|()| String::new()));
    }

    /// Waits until the server is not much larger than it was in peace.
    fn memory_given_back(&self, calm_mib: u64) -> Result<String, String> {
        let bound = calm_mib + MEMORY_KEPT_MIB_MAX;
        let started = Instant::now();
        loop {
            let now_mib = bystander::memory_mib(self.pid)?;
            if now_mib <= bound {
                return Ok(format!("{now_mib} MiB, {calm_mib} MiB before the attacks"));
            }
            if started.elapsed() > GIVE_BACK_MAX {
                return Err(format!(
                    "{now_mib} MiB are left of the attacks, {calm_mib} MiB were used before; the bound is {bound}"
                ));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// What the host and the server went through since the last time.
    fn judge(&self) -> Result<bystander::Seen, String> {
        if self.server.pid("volume")? != self.pid {
            return Err("the volume server died".into());
        }
        let seen = self.bystander.take()?;
        if seen.wait_max > WAIT_MAX {
            return Err(format!("the good host waited too long: {seen}"));
        }
        if seen.memory_mib_max > MEMORY_MIB_MAX {
            return Err(format!("more than {MEMORY_MIB_MAX} MiB of memory: {seen}"));
        }
        Ok(seen)
    }
}
