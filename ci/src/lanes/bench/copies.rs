//! `cargo ci bench-copies`: what copies cost. Durable 4 KiB writes over queue depths to volumes with one, two and three
//! copies on three nodes of this machine, beside a raw file, in one run; reads too.
//!
//! The raw file is written twice: as it is (`O_DIRECT`), and durably (`O_DIRECT`, a sync with each write), which is what a
//! volume promises. Runs are interleaved there and back; each figure is the median. Only ratios mean something. All nodes
//! share this machine's CPUs and disk, so three copies do three times the work of one.

use super::super::Context;
use super::super::counters::Disk;
use super::{RUN_BOUND, Sample, Workload, fill, measure, median, prewrite};
use crate::report::Report;
use crate::server::{self, Server};
use std::path::Path;

/// Copies of the volumes.
const COPIES: [u32; 3] = [1, 2, 3];

/// There and back so often.
const ROUNDS: u32 = 2;

const WORKLOADS: [Workload; 7] = [
    write("write, depth 1", 1, 2_500),
    write("write, depth 4", 4, 8_000),
    write("write, depth 16", 16, 24_000),
    write("write, depth 32", 32, 36_000),
    write("write, depth 64", 64, 48_000),
    read("read, depth 1", 1, 8_000),
    read("read, depth 32", 32, 60_000),
];

const fn write(name: &'static str, depth: u32, requests: u32) -> Workload {
    Workload {
        name,
        write: true,
        depth,
        requests,
    }
}

const fn read(name: &'static str, depth: u32, requests: u32) -> Workload {
    Workload {
        write: false,
        ..write(name, depth, requests)
    }
}

/// Where a workload runs: its URL or file, the processes that serve it, how the client opens it.
struct Place {
    url: String,
    pids: Vec<u32>,
    cache: &'static str,
}

/// Runs the comparison and prints the table.
pub(crate) fn run(context: &Context, report: &mut Report) {
    report.check("bench-copies", compare(context));
}

fn compare(context: &Context) -> Result<String, String> {
    context.packages(&["qemu-utils", "qemu-block-extra"])?;
    let work = context.scratch("bench-copies")?;
    let disk = Disk::under(&work)?;
    let server = start(context, &work)?;
    let pids = all_pids(&server)?;
    let raw = work.join("raw.img");
    prewrite(&raw)?;
    let raw = raw.display().to_string();
    let mut places = vec![place(&raw, &[], "none"), place(&raw, &[], "directsync")];
    for copies in COPIES {
        let status = server.holdfast(&["volume", "status", &name(copies)])?;
        let (portal, iqn) = (status["portals"][0].as_str(), status["iqn"].as_str());
        let (portal, iqn) = portal.zip(iqn).ok_or("the volume has no portal")?;
        places.push(place(&format!("iscsi://{portal}/{iqn}/0"), &pids, "none"));
        fill(&places.last().expect("it was just pushed").url)?;
    }
    for workload in WORKLOADS {
        let mut samples: Vec<Vec<Sample>> = places.iter().map(|_| Vec::new()).collect();
        let there: Vec<usize> = (0..places.len()).collect();
        for _ in 0..ROUNDS {
            for &at in there.iter().chain(there.iter().rev()) {
                let Place { url, pids, cache } = &places[at];
                samples[at].push(measure((url, pids), workload, cache, &disk)?);
            }
        }
        let medians: Vec<Sample> = samples.iter().map(|of_one| median(of_one)).collect();
        print(workload, &medians);
    }
    server.stop()?;
    Ok(format!("each command within {} s", RUN_BOUND.as_secs()))
}

fn place(url: &str, pids: &[u32], cache: &'static str) -> Place {
    Place {
        url: url.to_owned(),
        pids: pids.to_vec(),
        cache,
    }
}

fn name(copies: u32) -> String {
    format!("copies-{copies}")
}

fn start(context: &Context, work: &Path) -> Result<Server, String> {
    let ports = server::free_ports(3)?;
    let at = |index: usize| format!("127.0.21.1:{}", ports[index]);
    let volumes = COPIES.map(|copies| format!("{}=1GiB,rf={copies}", name(copies)));
    let mut words = vec!["--nodes".to_owned(), "3".to_owned()];
    for (flag, value) in [("--portal", at(0)), ("--control", at(1)), ("--peer", at(2))] {
        words.extend([flag.to_owned(), value]);
    }
    for volume in volumes {
        words.extend(["--volume".to_owned(), volume]);
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Server::start(context, &work.join("holdfast"), &words)
}

fn all_pids(server: &Server) -> Result<Vec<u32>, String> {
    let ready = server.ready()?;
    let processes = ready["processes"].as_array().cloned().unwrap_or_default();
    let pids = processes
        .iter()
        .filter_map(|process| process["pid"].as_u64());
    Ok(pids.filter_map(|pid| u32::try_from(pid).ok()).collect())
}

fn print(workload: Workload, medians: &[Sample]) {
    let [raw, durable, ours @ ..] = medians else {
        return;
    };
    if workload.name == WORKLOADS[0].name {
        println!(
            "4 KiB, scattered over 1 GiB; per volume: IOPS as a ratio to the raw file / to the raw file written durably; server CPU µs per I/O over all nodes; device bytes per byte"
        );
        println!("| workload | raw, durable raw: IOPS | one copy | two copies | three copies |");
        println!("|---|---|---|---|---|");
    }
    let iops = |sample: &Sample| f64::from(workload.requests) / sample.seconds;
    let cells: Vec<String> = ours
        .iter()
        .map(|sample| {
            format!(
                "{:.2} / {:.2}; {:.0} µs; {:.2}",
                iops(sample) / iops(raw),
                iops(sample) / iops(durable),
                sample.cpu_us_per_io,
                sample.device_bytes_per_byte
            )
        })
        .collect();
    println!(
        "| {} | {:.0}, {:.0} | {} |",
        workload.name,
        iops(raw),
        iops(durable),
        cells.join(" | ")
    );
}
