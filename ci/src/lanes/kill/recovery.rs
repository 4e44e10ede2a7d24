//! Time from `kill -9` to serving, with the log of a 9 GiB store as full as writes can make it.
//!
//! The log of such a store has its largest size, 1 GiB. Writes of 32 KiB run until the log stops
//! growing; then the server is killed, and afterwards every block is checked.

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
use crate::sys;

const VOLUME_BYTES: usize = 2 << 30;
/// The promise.
const SERVING_MAX: Duration = Duration::from_secs(5);
/// The log must be at least this full, in percent, for the measurement to count.
const FULL_PERCENT_MIN: u64 = 20;
/// The log is as full as it gets: the kill comes at once.
const FULL_PERCENT_ENOUGH: u64 = 80;
/// Longest time spent on filling.
const FILLING_MAX: Duration = Duration::from_secs(20);

pub(super) fn run(context: &Context) -> Result<String, String> {
    let scratch = context.scratch("recovery")?;
    let arguments = [
        "--volume",
        "log=2GiB",
        "--stores",
        "1",
        "--store-size",
        "9GiB",
    ];
    let server = Server::start(context, &scratch, &arguments)?;
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

    let (used, capacity) = (filled.log_used >> 20, filled.log_capacity >> 20);
    let seconds = serving.as_secs_f64();
    let detail = format!(
        "{used} of {capacity} MiB of log behind, {} writes acknowledged, serving after {seconds:.2} s",
        driver.counts.acknowledged
    );
    if filled.log_used * 100 < filled.log_capacity * FULL_PERCENT_MIN {
        return Err(format!("the log never filled: {detail}"));
    }
    if serving > SERVING_MAX {
        Err(detail)
    } else {
        Ok(detail)
    }
}

struct Filled {
    log_used: u64,
    log_capacity: u64,
    killed_at: Instant,
}

/// Watches the log grow and kills the server when it is full, or when it was fullest.
fn fill(server: &Server) -> Result<Filled, String> {
    let started = Instant::now();
    let mut fullest = 0;
    loop {
        let nodes = server.holdfast(&["node", "list"])?;
        let used = number(&nodes, "wal_used_bytes")?;
        let capacity = number(&nodes, "wal_capacity_bytes")?;
        let late = started.elapsed() > FILLING_MAX;
        let enough = used * 100 >= capacity * FULL_PERCENT_ENOUGH;
        // Late, the next peak near the highest one seen has to do.
        if enough || (late && used * 10 >= fullest * 9) || started.elapsed() > 2 * FILLING_MAX {
            sys::signal(server.pid("volume")?, SIGKILL)?;
            let killed_at = Instant::now();
            return Ok(Filled {
                log_used: used,
                log_capacity: capacity,
                killed_at,
            });
        }
        fullest = fullest.max(used);
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
