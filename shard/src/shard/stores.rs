//! Opening the stores of a shard. A store that cannot be opened is reported, the others serve.

use super::{StoreEntry, StoreState};
use crate::disk::file::{Claim, ClaimError, FileDisk};
use crate::limits::{TAKEOVER_MAX, TAKEOVER_PAUSE};
use crate::peer::hub::Hub;
use crate::runtime::{executor, task};
use crate::store::driver::StoreDriver;
use crate::store::open::open;
use crate::volume::cache::Cache;
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;
use tracing::{error, info};

/// Opens all of them, one after the other.
pub(super) async fn open_all(
    paths: &[PathBuf],
    cache: &Rc<RefCell<Cache>>,
    hub: &Rc<Hub>,
) -> Vec<StoreEntry> {
    let mut entries = Vec::with_capacity(paths.len());
    for path in paths {
        let state = match open_one(path, cache, hub).await {
            Ok(driver) => StoreState::Open(driver),
            Err(reason) => {
                error!(store = %path.display(), reason, "the store is not served");
                StoreState::Refused(reason)
            }
        };
        entries.push(StoreEntry {
            path: path.clone(),
            state,
        });
    }
    entries
}

async fn open_one(
    path: &Path,
    cache: &Rc<RefCell<Cache>>,
    hub: &Rc<Hub>,
) -> Result<Rc<StoreDriver<FileDisk>>, String> {
    let start = Instant::now();
    crate::preflight::check_direct_io(path).map_err(|missing| missing.to_string())?;
    let claim = claim(path).await.map_err(|error| error.to_string())?;
    let disk = FileDisk::open(claim)
        .await
        .map_err(|error| format!("opening failed: {error}"))?;
    let disk = Rc::new(disk);
    // glommio decides once per device whether to poll it, by a probe that has been wrong; polled reads
    // fail on devices without poll queues.
    if executor::polled_reads() > 0 {
        return Err("the runtime polls this device, which is not supported".into());
    }
    let machine = open(&disk).await.map_err(|error| error.to_string())?;
    let name = path.display().to_string();
    info!(
        store = name, id = %machine.id(), volumes = machine.volumes().count(),
        took_ms = start.elapsed().as_millis(), "store open"
    );
    let driver = StoreDriver::new(name, disk, machine, Rc::clone(cache), Rc::clone(hub));
    driver.tick();
    Ok(driver)
}

/// Claims a store, patiently: the kernel holds the locks of a killed process until its rings are gone.
async fn claim(path: &Path) -> Result<Claim, ClaimError> {
    let start = Instant::now();
    loop {
        match Claim::new(path) {
            Err(ClaimError::Locked) if start.elapsed() < TAKEOVER_MAX => {
                task::sleep(TAKEOVER_PAUSE).await;
            }
            result => return result,
        }
    }
}
