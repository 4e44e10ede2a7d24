//! `cargo ci`: lanes that are called one by one or all together. A lane is a function that reports checks.

mod bench;
mod cluster;
mod conform;
mod counters;
mod crash;
mod damage;
mod e2e;
mod fuzz;
mod guest;
mod hostile;
mod kill;
mod sim;
mod test;
mod tidy;
mod uring;

use std::cell::Cell;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::report::Report;
use crate::{packages, sys, workspace};

/// What `cargo ci` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Lanes to run [default: all that are marked with * in --list]
    #[arg(value_name = "LANE")]
    lanes: Vec<String>,
    /// Say which lanes there are
    #[arg(long)]
    list: bool,
    /// Crash images to recover from
    #[arg(long, value_name = "N")]
    pub(crate) images: Option<u64>,
    /// Clusters to simulate
    #[arg(long, value_name = "N")]
    pub(crate) seeds: Option<u64>,
    /// Seed of everything that is random
    #[arg(long, value_name = "S")]
    pub(crate) seed: Option<u64>,
    /// Seconds of fuzzing
    #[arg(long, value_name = "N")]
    pub(crate) seconds: Option<u64>,
    /// Kills of the kill -9 loop
    #[arg(long, value_name = "N")]
    pub(crate) kills: Option<u64>,
    /// Faults of the cluster lane
    #[arg(long, value_name = "N")]
    pub(crate) faults: Option<u64>,
}

struct Lane {
    name: &'static str,
    about: &'static str,
    default: bool,
    run: fn(&Context, &mut Report),
}

/// All lanes, cheap ones first.
const LANES: &[Lane] = &[
    Lane {
        name: "tidy",
        about: "house rules that a program can check",
        default: true,
        run: tidy::run,
    },
    Lane {
        name: "test",
        about: "format, lints, unit tests",
        default: true,
        run: test::run,
    },
    Lane {
        name: "crash",
        about: "recovery from recorded write streams, cut and torn",
        default: true,
        run: crash::run,
    },
    Lane {
        name: "sim",
        about: "simulated clusters under disasters, one for each seed",
        default: true,
        run: sim::run,
    },
    Lane {
        name: "uring",
        about: "the data plane's drivers on real files",
        default: true,
        run: uring::run,
    },
    Lane {
        name: "conform",
        about: "libiscsi's conformance suite through two portals, against one copy and against three that die and come back",
        default: true,
        run: conform::run,
    },
    Lane {
        name: "e2e",
        about: "cargo up, QEMU and libiscsi against the real binaries",
        default: true,
        run: e2e::run,
    },
    Lane {
        name: "fuzz",
        about: "hostile bytes for every decoder",
        default: true,
        run: fuzz::run,
    },
    Lane {
        name: "guest",
        about: "a Linux kernel with open-iscsi in a virtual machine",
        default: true,
        run: guest::run,
    },
    Lane {
        name: "multipath",
        about: "a Linux kernel with dm-multipath over three copies whose primary dies twenty times",
        default: false,
        run: guest::multipath::run,
    },
    Lane {
        name: "bench",
        about: "4 KiB reads and writes beside tgt, as ratios; judges nothing",
        default: false,
        run: bench::run,
    },
    Lane {
        name: "bench-copies",
        about: "4 KiB reads and writes with one, two and three copies beside a raw file; judges nothing",
        default: false,
        run: bench::copies::run,
    },
    Lane {
        name: "kill",
        about: "nothing acknowledged is lost by kill -9, and serving again takes seconds",
        default: true,
        run: kill::run,
    },
    Lane {
        name: "cluster",
        about: "three nodes lose processes, packets and power; no acknowledged write is lost, no stale read",
        default: true,
        run: cluster::run,
    },
    Lane {
        name: "damage",
        about: "broken bytes, full and dead disks never become wrong data",
        default: true,
        run: damage::run,
    },
    Lane {
        name: "hostile",
        about: "clients that break the rules cost bounded memory",
        default: true,
        run: hostile::run,
    },
];

/// What every lane knows.
#[derive(Debug)]
pub(crate) struct Context {
    /// The workspace.
    pub(crate) root: PathBuf,
    /// Where cargo builds; scratch files go to `ci/` in it.
    pub(crate) target: PathBuf,
    /// The command line.
    pub(crate) options: Options,
    built: Cell<bool>,
}

impl Context {
    /// An empty directory for one lane.
    pub(crate) fn scratch(&self, lane: &str) -> Result<PathBuf, String> {
        let path = self.target.join("ci").join(lane);
        if path.exists() {
            fs::remove_dir_all(&path)
                .map_err(|error| format!("cannot empty {}: {error}", path.display()))?;
        }
        fs::create_dir_all(&path)
            .map_err(|error| format!("cannot make {}: {error}", path.display()))?;
        Ok(path)
    }

    /// Builds the release binaries, once in a run.
    pub(crate) fn build(&self) -> Result<(), String> {
        if !self.built.get() {
            workspace::build()?;
            self.built.set(true);
        }
        Ok(())
    }

    /// Path of a release binary.
    pub(crate) fn binary(&self, name: &str) -> PathBuf {
        self.target.join("release").join(name)
    }

    /// The seed of this run: the one asked for, else from the clock.
    pub(crate) fn seed(&self) -> u64 {
        self.options.seed.unwrap_or_else(|| {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            now.as_secs().wrapping_mul(1000) + u64::from(now.subsec_millis())
        })
    }

    /// Makes sure that Debian packages are installed.
    pub(crate) fn packages(&self, names: &[&str]) -> Result<(), String> {
        packages::ensure(names)
    }
}

/// Runs the lanes; the last line counts all their checks.
pub(crate) fn run(options: Options) -> Result<ExitCode, String> {
    if options.list {
        for lane in LANES {
            println!(
                "{}{:<8} {}",
                if lane.default { '*' } else { ' ' },
                lane.name,
                lane.about
            );
        }
        return Ok(ExitCode::SUCCESS);
    }
    let chosen = choose(&options.lanes)?;
    let started = Instant::now();
    sys::raise(sys::Limit::OpenFiles).map_err(|error| format!("cannot raise a limit: {error}"))?;
    let context = Context {
        root: workspace::root(),
        target: workspace::target()?,
        options,
        built: Cell::new(false),
    };
    let (mut passed, mut failed, mut failures) = (0, 0, Vec::new());
    for lane in chosen {
        let mut report = Report::new(lane.name, lane.about);
        (lane.run)(&context, &mut report);
        if report.passed() + report.failed() == 0 {
            report.check(
                "the lane checks something",
                Err("it counted no check".to_owned()),
            );
        }
        passed += report.passed();
        failed += report.failed();
        failures.extend(report.finish());
    }
    for failure in &failures {
        println!("FAILED {failure}");
    }
    println!("{:.0} s", started.elapsed().as_secs_f64());
    println!("{passed} passed, {failed} failed");
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn choose(names: &[String]) -> Result<Vec<&'static Lane>, String> {
    if names.is_empty() {
        return Ok(LANES.iter().filter(|lane| lane.default).collect());
    }
    names
        .iter()
        .map(|name| {
            LANES.iter().find(|lane| lane.name == name).ok_or_else(|| {
                let all: Vec<&str> = LANES.iter().map(|lane| lane.name).collect();
                format!("there is no lane '{name}'; choose from {}", all.join(", "))
            })
        })
        .collect()
}
