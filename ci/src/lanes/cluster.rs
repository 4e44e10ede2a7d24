//! Lane `cluster`: three nodes in a network of their own lose processes, time, packets and power while hosts read and write.
//!
//! One fault at a time, drawn from the seed; after each the cluster must serve again and bring every copy back in sync
//! before the next. At the end the history of every block is judged for linearizability: nothing acknowledged is lost (I1),
//! nothing stale is read (I2), nobody serves beside the primary (I3), and hosts go on when the faults stop (I9).

mod hosts;
pub(crate) mod net;
pub(crate) mod nodes;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crate::lanes::Context;
use crate::oracle::Identity;
use crate::report::Report;
use crate::up::children::Role;

use hosts::{Host, Ledger};
use net::Party;
use nodes::Cluster;

/// Faults in one run, unless told otherwise.
const FAULTS_DEFAULT: u64 = 50;

/// Nodes of the cluster.
const NODES: u8 = 3;

/// Hosts on each volume.
const HOSTS_PER_VOLUME: usize = 2;

/// The volumes: every durability mode that promises something.
const VOLUMES: [(&str, &str); 3] = [
    ("all", "all=64MiB,rf=3"),
    ("quorum", "quorum=64MiB,rf=3,durability=sync_quorum"),
    ("pair", "pair=64MiB,rf=2"),
];

/// Hosts must be served again this long after the fault is over (DESIGN 7: always < 15 s).
const SERVED_AGAIN_MAX: Duration = Duration::from_secs(15);

/// All copies must be in sync again this long after the fault is over.
const IN_SYNC_AGAIN_MAX: Duration = Duration::from_secs(60);

/// A host counts as served when it got a good answer so lately.
const SERVED_WITHIN: Duration = Duration::from_millis(300);

/// Between two looks.
const POLL: Duration = Duration::from_millis(20);

/// Runs the lane.
pub(crate) fn run(context: &Context, report: &mut Report) {
    let result = faults(context, report);
    report.check("a cluster under faults", result);
}

fn faults(context: &Context, report: &mut Report) -> Result<String, String> {
    if !crate::sys::is_root() {
        return Err("network namespaces need root; run `sudo cargo ci cluster`".to_owned());
    }
    context.packages(&["iproute2", "nftables"])?;
    context.build()?;
    let seed = context.seed();
    let count = context.options.faults.unwrap_or(FAULTS_DEFAULT);
    report.note(&format!(
        "seed {seed}: repeats the faults and the hosts' choices"
    ));
    let directory = context.scratch("cluster")?;
    let result = run_faults(&directory, seed, count, report);
    result.map_err(|what| format!("seed {seed}: {what}"))
}

fn run_faults(
    directory: &Path,
    seed: u64,
    count: u64,
    report: &mut Report,
) -> Result<String, String> {
    let wanted = VOLUMES.map(|(_, volume)| volume.to_owned());
    let mut cluster = Cluster::start(directory, NODES, &wanted)?;
    let mut ledgers = Vec::new();
    for (number, (name, _)) in (1..).zip(VOLUMES) {
        let (target, portals) = cluster.target(name)?;
        let identity = Identity {
            volume: number,
            seed,
        };
        ledgers.push(Ledger::new(identity, &target, portals, HOSTS_PER_VOLUME));
    }
    let mut tally = Tally::default();
    let outcome = thread::scope(|scope| {
        for (ledger, number) in ledgers.iter().zip(0_u32..) {
            for index in 0..HOSTS_PER_VOLUME {
                let seed = seed.rotate_left(number);
                scope.spawn(move || Host::new(ledger, index, seed).run());
            }
        }
        let outcome = all_faults(&mut cluster, &ledgers, seed, count, &mut tally);
        for ledger in &ledgers {
            ledger.stop.store(true, Ordering::Relaxed);
        }
        outcome
    });
    outcome.map_err(|what| format!("{what}; {}; {}", cluster.describe(), cluster.last_words()))?;
    for (ledger, (name, _)) in ledgers.iter().zip(VOLUMES) {
        ledger
            .judge()
            .map_err(|what| format!("volume {name}: {what}"))?;
        let totals = ledger.totals();
        report.note(&format!(
            "volume {name}: {} reads, {} writes, {} writes without an answer, {} logins, linearizable",
            totals.reads, totals.writes, totals.unanswered, totals.logins
        ));
    }
    cluster.stop()?;
    Ok(tally.summary())
}

fn all_faults(
    cluster: &mut Cluster,
    ledgers: &[Ledger],
    seed: u64,
    count: u64,
    tally: &mut Tally,
) -> Result<(), String> {
    let mut random = fastrand::Rng::with_seed(seed);
    wait(
        cluster,
        "hosts to be served at first",
        SERVED_AGAIN_MAX,
        |_| served(ledgers),
    )?;
    for number in 0..count {
        let volume = VOLUMES[random.usize(0..VOLUMES.len())].0;
        let primary = cluster.primary(volume).unwrap_or(1);
        let fault = Fault::draw(&mut random, primary);
        let length = Duration::from_millis(random.u64(100..4_000));
        let context = |what: String| format!("fault {number}, {fault:?} for {length:?}: {what}");
        for ledger in ledgers {
            ledger.take_longest_gap();
        }
        fault.begin(cluster).map_err(context)?;
        rest(cluster, &fault, length).map_err(context)?;
        fault.end(cluster).map_err(context)?;
        wait(
            cluster,
            "hosts to be served again",
            SERVED_AGAIN_MAX,
            |_| served(ledgers),
        )
        .map_err(context)?;
        let gaps = ledgers.iter().map(Ledger::take_longest_gap);
        tally.add(fault, gaps.max().unwrap_or_default());
        wait(
            cluster,
            "all copies to be in sync again",
            IN_SYNC_AGAIN_MAX,
            |cluster| cluster.is_healthy() && served(ledgers),
        )
        .map_err(context)?;
        for ledger in ledgers {
            ledger.judge().map_err(context)?;
        }
    }
    Ok(())
}

fn served(ledgers: &[Ledger]) -> bool {
    ledgers
        .iter()
        .all(|ledger| ledger.all_served_within(SERVED_WITHIN))
}

/// Lets a fault last; what was killed comes back as systemd would bring it.
fn rest(cluster: &mut Cluster, fault: &Fault, length: Duration) -> Result<(), String> {
    let started = Instant::now();
    while started.elapsed() < length {
        if !fault.keeps_down() {
            cluster.restart_dead()?;
        }
        thread::sleep(POLL);
    }
    Ok(())
}

fn wait(
    cluster: &mut Cluster,
    what: &str,
    bound: Duration,
    done: impl Fn(&mut Cluster) -> bool,
) -> Result<(), String> {
    let started = Instant::now();
    while !done(cluster) {
        if started.elapsed() > bound {
            return Err(format!("waited {} s for {what}, in vain", bound.as_secs()));
        }
        cluster.restart_dead()?;
        thread::sleep(POLL);
    }
    Ok(())
}

/// What happens to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The volume server is killed and restarted at once.
    KillVolume(u8),
    /// The control process is killed and restarted at once: hosts must not notice.
    KillControl(u8),
    /// Both, and they stay down for a while.
    NodeDown(u8),
    /// The volume server stands still, longer than its lease or shorter.
    Pause(u8),
    /// The control process stands still, be it a master or not: hosts must not notice.
    PauseControl(u8),
    /// Cut from the other nodes, not from the hosts.
    Isolate(u8),
    /// Cut from everybody.
    Unplug(u8),
    /// What the first sends does not reach the second.
    OneWay(u8, u8),
    /// These two do not reach each other.
    Pair(u8, u8),
    /// Every process of every node at once.
    PowerLoss,
}

impl Fault {
    /// A fault of `primary` twice as often as of another node.
    fn draw(random: &mut fastrand::Rng, primary: u8) -> Fault {
        let node = match random.bool() {
            true => primary,
            false => random.u8(1..=NODES),
        };
        let other = (node + random.u8(0..NODES - 1)) % NODES + 1;
        match random.u32(0..20) {
            0..5 => Fault::KillVolume(node),
            5..7 => Fault::KillControl(node),
            7..10 => Fault::NodeDown(node),
            10..12 => Fault::Pause(node),
            12..13 => Fault::PauseControl(node),
            13..15 => Fault::Isolate(node),
            15..16 => Fault::Unplug(node),
            16..17 => Fault::OneWay(node, other),
            17..19 => Fault::Pair(node, other),
            _ => Fault::PowerLoss,
        }
    }

    fn begin(self, cluster: &Cluster) -> Result<(), String> {
        let kill = |node, role| cluster.signal(node, role, libc::SIGKILL);
        match self {
            Fault::KillVolume(node) => kill(node, Role::Volume),
            Fault::KillControl(node) => kill(node, Role::Control),
            Fault::NodeDown(node) => {
                kill(node, Role::Volume)?;
                kill(node, Role::Control)
            }
            Fault::Pause(node) => cluster.signal(node, Role::Volume, libc::SIGSTOP),
            Fault::PauseControl(node) => cluster.signal(node, Role::Control, libc::SIGSTOP),
            Fault::Isolate(node) => others(node)
                .try_for_each(|other| cluster.net.cut_both(Party::Node(node), Party::Node(other))),
            Fault::Unplug(node) => {
                cluster.net.cut_both(Party::Node(node), Party::Lane)?;
                Fault::Isolate(node).begin(cluster)
            }
            Fault::OneWay(from, to) => cluster.net.cut(Party::Node(from), Party::Node(to)),
            Fault::Pair(one, other) => cluster.net.cut_both(Party::Node(one), Party::Node(other)),
            Fault::PowerLoss => {
                (1..=NODES).try_for_each(|node| Fault::NodeDown(node).begin(cluster))
            }
        }
    }

    fn end(self, cluster: &Cluster) -> Result<(), String> {
        match self {
            Fault::Pause(node) => cluster.signal(node, Role::Volume, libc::SIGCONT),
            Fault::PauseControl(node) => cluster.signal(node, Role::Control, libc::SIGCONT),
            Fault::Isolate(_) | Fault::Unplug(_) | Fault::OneWay(..) | Fault::Pair(..) => {
                cluster.net.heal()
            }
            Fault::KillVolume(_)
            | Fault::KillControl(_)
            | Fault::NodeDown(_)
            | Fault::PowerLoss => Ok(()),
        }
    }

    /// Whether the dead stay dead until the fault is over.
    fn keeps_down(self) -> bool {
        matches!(self, Fault::NodeDown(_) | Fault::PowerLoss)
    }

    fn name(self) -> &'static str {
        match self {
            Fault::KillVolume(_) => "volume server killed",
            Fault::KillControl(_) => "control process killed",
            Fault::NodeDown(_) => "node down",
            Fault::Pause(_) => "volume server paused",
            Fault::PauseControl(_) => "control process paused",
            Fault::Isolate(_) => "node cut from the others",
            Fault::Unplug(_) => "node unplugged",
            Fault::OneWay(..) => "one-way cut",
            Fault::Pair(..) => "two nodes cut",
            Fault::PowerLoss => "power loss of all",
        }
    }
}

fn others(node: u8) -> impl Iterator<Item = u8> {
    (1..=NODES).filter(move |other| *other != node)
}

/// What the faults cost the hosts.
#[derive(Debug, Default)]
struct Tally(Vec<(Fault, Duration)>);

impl Tally {
    fn add(&mut self, fault: Fault, gap: Duration) {
        self.0.push((fault, gap));
    }

    /// For each kind: how often, and the longest time without a good answer, median and worst.
    fn summary(&self) -> String {
        let mut kinds: Vec<&str> = self.0.iter().map(|(fault, _)| fault.name()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let line = |kind: &&str| {
            let of_kind = self.0.iter().filter(|(fault, _)| fault.name() == *kind);
            let mut gaps: Vec<u128> = of_kind.map(|(_, gap)| gap.as_millis()).collect();
            gaps.sort_unstable();
            let (count, worst) = (gaps.len(), gaps.last().copied().unwrap_or(0));
            format!(
                "{kind} {count} times (gap p50 {} ms, max {worst} ms)",
                gaps[count / 2]
            )
        };
        let lines: Vec<String> = kinds.iter().map(line).collect();
        format!("{} faults: {}", self.0.len(), lines.join(", "))
    }
}
