//! `cargo ci bench`: 4 KiB reads and writes against Holdfast and against tgt, in one run on one disk.
//!
//! Not part of the default lanes and never a pass or fail: it prints the README's table. Both servers acknowledge
//! durably (tgt: `bs_rdwr`, write cache off). Runs are interleaved A B B A; each figure is the median of its runs.
//! Only ratios mean something; absolute figures of a shared machine drift from hour to hour.
//!
//! The client is `qemu-img bench` with a stride that visits every block once in a scattered order.

pub(crate) mod copies;

use super::Context;
use super::counters::{Cpu, Disk};
use crate::report::Report;
use crate::server::{Server, free_ports};
use crate::{sys, tool};
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// Bytes of the disk under test on each server.
const DISK_BYTES: u64 = 1 << 30;
/// Distance between consecutive requests: odd in blocks, so that every block of the disk is visited once.
const STRIDE_BYTES: u64 = 162_013 * 4096;
/// Rounds of A B B A.
const ROUNDS: u32 = 3;
/// One run of the client.
const RUN_BOUND: Duration = Duration::from_secs(120);
/// tgt's control channel.
const TGT_CHANNEL: &str = "91";

/// One line of the table.
#[derive(Clone, Copy)]
struct Workload {
    name: &'static str,
    write: bool,
    depth: u32,
    requests: u32,
}

const WORKLOADS: [Workload; 4] = [
    Workload {
        name: "read, depth 1",
        write: false,
        depth: 1,
        requests: 8_000,
    },
    Workload {
        name: "read, depth 32",
        write: false,
        depth: 32,
        requests: 60_000,
    },
    Workload {
        name: "durable write, depth 1",
        write: true,
        depth: 1,
        requests: 6_000,
    },
    Workload {
        name: "durable write, depth 32",
        write: true,
        depth: 32,
        requests: 50_000,
    },
];

/// What one run of one workload against one server gave.
#[derive(Clone, Copy)]
struct Sample {
    seconds: f64,
    cpu_us_per_io: f64,
    device_bytes_per_byte: f64,
    flushes_per_io: f64,
}

/// Runs the comparison and prints the table.
pub(crate) fn run(context: &Context, report: &mut Report) {
    report.check("bench", compare(context));
}

fn compare(context: &Context) -> Result<String, String> {
    context.packages(&["tgt", "qemu-utils", "qemu-block-extra"])?;
    let work = context.scratch("bench")?;
    let disk = Disk::under(&work)?;
    let tgt = Tgt::start(&work)?;
    let volume = format!("bench={}MiB", DISK_BYTES >> 20);
    let holdfast = Server::start(context, &work.join("holdfast"), &["--volume", &volume])?;
    let ours = (holdfast.url("bench")?, holdfast.pids()?);
    let theirs = (tgt.url(), vec![tgt.child.id()]);
    fill(&ours.0)?;
    fill(&theirs.0)?;
    let (ours, theirs) = (
        (ours.0.as_str(), &ours.1[..]),
        (theirs.0.as_str(), &theirs.1[..]),
    );
    let mut lines = Vec::new();
    for workload in WORKLOADS {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            a.push(measure(ours, workload, "none", &disk)?);
            b.push(measure(theirs, workload, "none", &disk)?);
            b.push(measure(theirs, workload, "none", &disk)?);
            a.push(measure(ours, workload, "none", &disk)?);
        }
        lines.push((workload, median(&a), median(&b)));
    }
    print(&lines);
    let path = work.join("bench.json");
    record(&path, &lines)?;
    holdfast.stop()?;
    Ok(format!("all figures are in {}", path.display()))
}

/// Writes the whole disk once, so that neither server answers reads from holes.
fn fill(url: &str) -> Result<(), String> {
    let mut command = Command::new("qemu-img");
    command.args([
        "bench", "-f", "raw", "-t", "none", "-w", "-s", "1048576", "-d", "4", "-c",
    ]);
    command.arg((DISK_BYTES >> 20).to_string()).arg(url);
    tool::run_ok(&mut command, RUN_BOUND).map(|_| ())
}

/// One run of the client, which opens the disk with this cache mode.
fn measure(
    (url, pids): (&str, &[u32]),
    workload: Workload,
    cache: &str,
    disk: &Disk,
) -> Result<Sample, String> {
    let cpu_before = Cpu::of(pids)?;
    let disk_before = disk.counters()?;
    let mut command = Command::new("qemu-img");
    command.args(["bench", "-f", "raw", "-t", cache, "-s", "4096"]);
    command.args([
        "-S",
        &STRIDE_BYTES.to_string(),
        "-d",
        &workload.depth.to_string(),
    ]);
    command.args(["-c", &workload.requests.to_string()]);
    if workload.write {
        command.arg("-w");
    }
    let text = tool::run_ok(command.arg(url), RUN_BOUND)?;
    let seconds = text
        .lines()
        .find_map(|line| {
            line.strip_prefix("Run completed in ")?
                .split(' ')
                .next()?
                .parse()
                .ok()
        })
        .ok_or_else(|| format!("qemu-img bench printed no time: {text}"))?;
    // The flusher's share of the work belongs to the writes that caused it.
    if workload.write {
        thread::sleep(Duration::from_secs(2));
    }
    let (cpu, counters) = (Cpu::of(pids)?.since(cpu_before), disk.counters()?);
    let requests = f64::from(workload.requests);
    Ok(Sample {
        seconds,
        cpu_us_per_io: cpu.as_secs_f64() * 1e6 / requests,
        device_bytes_per_byte: counters.bytes_written_since(disk_before) / (requests * 4096.0),
        flushes_per_io: counters.flushes_since(disk_before) / requests,
    })
}

fn median(samples: &[Sample]) -> Sample {
    let pick = |figure: fn(&Sample) -> f64| {
        let mut all: Vec<f64> = samples.iter().map(figure).collect();
        all.sort_by(f64::total_cmp);
        let middle = all.len() / 2;
        match all.len() % 2 {
            0 => f64::midpoint(all[middle - 1], all[middle]),
            _ => all[middle],
        }
    };
    Sample {
        seconds: pick(|s| s.seconds),
        cpu_us_per_io: pick(|s| s.cpu_us_per_io),
        device_bytes_per_byte: pick(|s| s.device_bytes_per_byte),
        flushes_per_io: pick(|s| s.flushes_per_io),
    }
}

fn print(lines: &[(Workload, Sample, Sample)]) {
    println!(
        "4 KiB, scattered over {} MiB; Holdfast against tgt (bs_rdwr, write cache off)",
        DISK_BYTES >> 20
    );
    println!(
        "| workload | IOPS, ratio to tgt | server CPU per I/O, ratio | CPU µs per I/O, ours / tgt | device bytes per byte, ours / tgt | flushes per I/O, ours / tgt |"
    );
    println!("|---|---|---|---|---|---|");
    for (workload, ours, theirs) in lines {
        println!(
            "| {} | {:.2} | {:.2} | {:.1} / {:.1} | {:.2} / {:.2} | {:.3} / {:.3} |",
            workload.name,
            theirs.seconds / ours.seconds,
            ours.cpu_us_per_io / theirs.cpu_us_per_io,
            ours.cpu_us_per_io,
            theirs.cpu_us_per_io,
            ours.device_bytes_per_byte,
            theirs.device_bytes_per_byte,
            ours.flushes_per_io,
            theirs.flushes_per_io,
        );
    }
}

fn record(path: &Path, lines: &[(Workload, Sample, Sample)]) -> Result<(), String> {
    let figures = |w: &Workload, s: &Sample| {
        serde_json::json!({
            "iops": f64::from(w.requests) / s.seconds,
            "cpu_us_per_io": s.cpu_us_per_io,
            "device_bytes_per_byte": s.device_bytes_per_byte,
            "flushes_per_io": s.flushes_per_io,
        })
    };
    let all: Vec<_> = lines
        .iter()
        .map(|(w, a, b)| serde_json::json!({"workload": w.name, "holdfast": figures(w, a), "tgt": figures(w, b)}))
        .collect();
    let text = serde_json::to_string_pretty(&all).map_err(|e| e.to_string())?;
    fs::write(path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))
}

/// tgtd with one disk that acknowledges durably.
struct Tgt {
    child: Child,
    port: u16,
}

impl Tgt {
    fn start(work: &Path) -> Result<Tgt, String> {
        let image = work.join("tgt.img");
        prewrite(&image)?;
        let port = free_ports(1)?[0];
        let mut command = Command::new("tgtd");
        command.args([
            "-f",
            "-C",
            TGT_CHANNEL,
            "--iscsi",
            &format!("portal=127.0.0.1:{port}"),
        ]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        sys::tie_to_parent(&mut command);
        let child = command
            .spawn()
            .map_err(|error| format!("cannot start tgtd: {error}"))?;
        let tgt = Tgt { child, port };
        tgt.admin_until_ready(&[
            "--op",
            "new",
            "--mode",
            "target",
            "--tid",
            "1",
            "-T",
            "iqn.bench:tgt",
        ])?;
        let image = image.display().to_string();
        tgt.admin(&[
            "--op",
            "new",
            "--mode",
            "logicalunit",
            "--tid",
            "1",
            "--lun",
            "1",
            "-b",
            &image,
            "--bstype",
            "rdwr",
        ])?;
        // Caching mode page with WCE=0: tgt then syncs before each acknowledgement.
        let page =
            "mode_page=8:0:18:0x10:0:0xff:0xff:0:0:0xff:0xff:0xff:0xff:0x80:0x14:0:0:0:0:0:0";
        tgt.admin(&[
            "--op",
            "update",
            "--mode",
            "logicalunit",
            "--tid",
            "1",
            "--lun",
            "1",
            "--params",
            page,
        ])?;
        tgt.admin(&[
            "--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL",
        ])?;
        Ok(tgt)
    }

    fn url(&self) -> String {
        format!("iscsi://127.0.0.1:{}/iqn.bench:tgt/1", self.port)
    }

    fn admin(&self, arguments: &[&str]) -> Result<(), String> {
        let mut command = Command::new("tgtadm");
        command
            .args(["-C", TGT_CHANNEL, "--lld", "iscsi"])
            .args(arguments);
        tool::run_ok(&mut command, Duration::from_secs(10)).map(|_| ())
    }

    /// The daemon needs a moment before its control socket answers: at most five seconds.
    fn admin_until_ready(&self, arguments: &[&str]) -> Result<(), String> {
        let mut result = Ok(());
        for _ in 0..50 {
            result = self.admin(arguments);
            if result.is_ok() {
                break;
            }
            thread::sleep(Duration::from_millis(100));
        }
        result
    }
}

impl Drop for Tgt {
    fn drop(&mut self) {
        // The child may be gone already; there is nothing left to do then.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file without holes or unwritten extents, so that tgt writes in place as we do.
fn prewrite(path: &Path) -> Result<(), String> {
    let error = |e: std::io::Error| format!("cannot write {}: {e}", path.display());
    let mut file = fs::File::create(path).map_err(error)?;
    let zeros = vec![0; 1 << 20];
    for _ in 0..DISK_BYTES >> 20 {
        file.write_all(&zeros).map_err(error)?;
    }
    file.sync_all().map_err(error)
}
