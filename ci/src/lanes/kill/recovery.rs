//! Time from `kill -9` to serving, with 1 GiB of live log behind.
//!
//! The store's log has 5 GiB, so that flushing begins only above 1.25 GiB. Writes of 32 KiB run until 1 GiB of log is live;
//! then the server is killed, and afterwards every block is checked.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::workload::{Driver, Mix};
use super::{SIGKILL, connect, parse_portal, sweep};
use crate::initiator::login::Options;
use crate::lanes::Context;
use crate::oracle::Identity;
use crate::server::Server;
use crate::{sys, tool};

const VOLUME_BYTES: usize = 2 << 30;
/// The promise.
const SERVING_MAX: Duration = Duration::from_secs(5);
/// Live log at the kill, at least.
const LIVE_BYTES_MIN: u64 = 1 << 30;
/// Longest time spent on filling.
const FILLING_MAX: Duration = Duration::from_secs(120);
/// Time for formatting the store, most of it for writing its log.
const FORMAT_BOUND: Duration = Duration::from_secs(120);

pub(super) fn run(context: &Context) -> Result<String, String> {
    let scratch = context.scratch("recovery")?;
    format(context, &scratch.join("data"))?;
    let server = Server::start(context, &scratch, &["--volume", "log=2GiB"])?;
    let options = Options::new(parse_portal(&server.portal()?)?, &server.iqn("log")?);
    let identity = Identity { volume: 1, seed: 1 };
    let mut driver = Driver::new(options, identity, Mix::LogFilling, VOLUME_BYTES);
    connect(&mut driver)?;

    let stop = AtomicBool::new(false);
    let (filled, result) = thread::scope(|scope| {
        let host = scope.spawn(|| driver.run(&stop));
        let filled = fill(&server);
        if filled.is_err() {
            stop.store(true, Ordering::Relaxed);
        }
        (filled, host.join().expect("a driver does not panic"))
    });
    result?;
    let filled = filled?;
    connect(&mut driver)?;
    let serving = filled.killed_at.elapsed();
    sweep(std::slice::from_mut(&mut driver))?;
    server.stop()?;
    std::fs::remove_dir_all(&scratch).map_err(|error| format!("{}: {error}", scratch.display()))?;

    let live = filled.log_used >> 20;
    let seconds = serving.as_secs_f64();
    let detail = format!(
        "{live} MiB of live log behind, {} writes acknowledged, serving after {seconds:.2} s",
        driver.counts.acknowledged
    );
    if serving > SERVING_MAX {
        Err(detail)
    } else {
        Ok(detail)
    }
}

/// A store of 9 GiB, 5 GiB of it log.
fn format(context: &Context, data: &Path) -> Result<(), String> {
    context.build()?;
    std::fs::create_dir_all(data).map_err(|error| format!("{}: {error}", data.display()))?;
    let mut format = Command::new(context.binary("holdfast"));
    format.args(["store", "format", "--size", "9GiB", "--log", "5GiB"]);
    format.arg(data.join("store-0"));
    tool::run_ok(&mut format, FORMAT_BOUND).map(drop)
}

struct Filled {
    log_used: u64,
    killed_at: Instant,
}

/// Watches the log grow and kills the server when enough of it is live.
fn fill(server: &Server) -> Result<Filled, String> {
    let started = Instant::now();
    loop {
        let nodes = server.holdfast(&["node", "list"])?;
        let log_used = number(&nodes, "wal_used_bytes")?;
        if log_used >= LIVE_BYTES_MIN {
            sys::signal(server.pid("volume")?, SIGKILL)?;
            let killed_at = Instant::now();
            return Ok(Filled {
                log_used,
                killed_at,
            });
        }
        if started.elapsed() > FILLING_MAX {
            return Err(format!("only {} MiB of log became live", log_used >> 20));
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// The first number of this name anywhere in the document.
fn number(document: &Value, name: &str) -> Result<u64, String> {
    find(document, name)
        .and_then(Value::as_u64)
        .ok_or_else(|| format!("`holdfast node list --json` has no {name}"))
}

fn find<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    match value {
        Value::Object(fields) => fields
            .get(name)
            .or_else(|| fields.values().find_map(|field| find(field, name))),
        Value::Array(items) => items.iter().find_map(|item| find(item, name)),
        _ => None,
    }
}
