//! What the person asked for, and the plan that follows from it on this machine.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::{size, sys};

/// Flags of `cargo up`; a fixed contract for scripts.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Directory that holds everything: registry, stores, logs
    #[arg(long, value_name = "DIR", default_value = "./holdfast-data")]
    data: PathBuf,
    /// Address on which hosts log in (repeat it for more portals)
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:3260")]
    portal: Vec<SocketAddr>,
    /// Address that hosts are told instead of the portal's own (repeatable)
    #[arg(long, value_name = "ADDR:PORT")]
    advertise: Vec<SocketAddr>,
    /// Address of the control process
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9480")]
    control: SocketAddr,
    /// A volume to make when it does not exist, such as demo=1GiB (repeatable) [default: demo=1GiB when there is none]
    #[arg(long, value_name = "NAME=SIZE")]
    volume: Vec<String>,
    /// Number of stores [default: those that exist, else one per CPU]
    #[arg(long, value_name = "N")]
    stores: Option<usize>,
    /// Size of each new store [default: large enough for the volumes]
    #[arg(long, value_name = "SIZE")]
    store_size: Option<String>,
    /// File that appears, as JSON, when everything is ready
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Use the release binaries as they are
    #[arg(long)]
    no_build: bool,
}

/// A volume that must exist when everything is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Its name.
    pub(crate) name: String,
    /// Its size in bytes.
    pub(crate) size_bytes: u64,
}

/// One store of this instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StorePlan {
    /// Its file.
    pub(crate) path: PathBuf,
    /// Bytes to format it with; `None` when it exists.
    pub(crate) format_bytes: Option<u64>,
}

/// What will be done.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Where everything lies; absolute.
    pub(crate) data: PathBuf,
    /// Where hosts log in.
    pub(crate) portals: Vec<SocketAddr>,
    /// What hosts are told, when it differs.
    pub(crate) advertised: Vec<SocketAddr>,
    /// Where control listens.
    pub(crate) control: SocketAddr,
    /// Volumes that were asked for by name.
    pub(crate) volumes: Vec<Wanted>,
    /// The volume made when nothing was asked for and nothing exists.
    pub(crate) fallback: Option<Wanted>,
    /// All stores, existing ones first.
    pub(crate) stores: Vec<StorePlan>,
    /// Where to report readiness.
    pub(crate) ready_file: Option<PathBuf>,
    /// Build the release binaries first.
    pub(crate) build: bool,
}

impl Options {
    /// Checks what was asked and looks at what exists.
    pub(crate) fn plan(self) -> Result<Plan, String> {
        let volumes = self
            .volume
            .iter()
            .map(|text| wanted(text))
            .collect::<Result<Vec<_>, _>>()?;
        let names: BTreeSet<&str> = volumes.iter().map(|volume| volume.name.as_str()).collect();
        if names.len() != volumes.len() {
            return Err("--volume names the same volume twice; give each name once".to_owned());
        }
        let fallback = volumes.is_empty().then(|| Wanted {
            name: "demo".to_owned(),
            size_bytes: size::GIB,
        });
        let data = std::path::absolute(&self.data)
            .map_err(|error| format!("{} is no path: {error}", self.data.display()))?;
        let existing = existing_stores(&data);
        let count = match self.stores {
            Some(0) => return Err("--stores is 0; at least one store is needed".to_owned()),
            Some(count) => count.max(existing),
            None if existing > 0 => existing,
            None => sys::cpus()?.len(),
        };
        let format_bytes = match &self.store_size {
            Some(text) => size::parse(text).map_err(|error| format!("--store-size: {error}"))?,
            None => {
                let all: Vec<u64> = volumes
                    .iter()
                    .chain(&fallback)
                    .map(|volume| volume.size_bytes)
                    .collect();
                store_bytes(&all, count)
            }
        };
        let stores = (0..count)
            .map(|index| StorePlan {
                path: data.join(format!("store-{index}")),
                format_bytes: (index >= existing).then_some(format_bytes),
            })
            .collect();
        Ok(Plan {
            data,
            portals: self.portal,
            advertised: self.advertise,
            control: self.control,
            volumes,
            fallback,
            stores,
            ready_file: self.ready_file,
            build: !self.no_build,
        })
    }
}

impl Plan {
    /// URL of the control process.
    pub(crate) fn control_url(&self) -> String {
        format!("http://{}", self.control)
    }

    /// The link between control and the volume server.
    pub(crate) fn link(&self) -> PathBuf {
        self.data.join("control.sock")
    }

    /// Bytes of disk that formatting will need.
    pub(crate) fn format_bytes(&self) -> u64 {
        self.stores
            .iter()
            .filter_map(|store| store.format_bytes)
            .sum()
    }
}

/// Bytes of each of `count` stores so that all volumes fit when they are full.
///
/// A store spends 2 MiB on its head, an eighth (32 MiB to 1 GiB) on the log and 1 KiB of map per 64 KiB chunk, and needs
/// spare chunks while a checkpoint is under way: a sixteenth and 64 MiB are added. Volumes are dealt to the emptiest store.
pub(crate) fn store_bytes(volumes: &[u64], count: usize) -> u64 {
    let mut filled = vec![0_u64; count.max(1)];
    for bytes in volumes {
        if let Some(emptiest) = filled.iter_mut().min() {
            *emptiest = emptiest.saturating_add(*bytes);
        }
    }
    let fullest = filled.into_iter().max().unwrap_or(0);
    let chunks = fullest
        .saturating_add(fullest / 16)
        .saturating_add(64 * size::MIB);
    let with_map = chunks
        .saturating_add(chunks / 64)
        .saturating_add(4 * size::MIB);
    let log = (with_map / 7).clamp(32 * size::MIB, size::GIB);
    with_map
        .saturating_add(log)
        .checked_next_multiple_of(4 * size::MIB)
        .unwrap_or(u64::MAX)
}

fn wanted(text: &str) -> Result<Wanted, String> {
    let (name, size) = text
        .split_once('=')
        .ok_or_else(|| format!("--volume '{text}' is not NAME=SIZE; write it like demo=1GiB"))?;
    let first = name
        .bytes()
        .next()
        .is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let rest = name
        .bytes()
        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'.');
    if !first || !rest || name.len() > 63 {
        return Err(format!(
            "'{name}' cannot name a volume; use up to 63 of a-z, 0-9, '-' and '.', beginning with a letter or digit"
        ));
    }
    let size_bytes = size::parse(size).map_err(|error| format!("--volume {name}: {error}"))?;
    if !size_bytes.is_multiple_of(4096) || size_bytes < size::MIB {
        return Err(format!(
            "--volume {name}: {size} is not a multiple of 4KiB of at least 1MiB; choose such a size"
        ));
    }
    Ok(Wanted {
        name: name.to_owned(),
        size_bytes,
    })
}

/// Stores are numbered without a gap.
fn existing_stores(data: &Path) -> usize {
    (0..)
        .take_while(|index| data.join(format!("store-{index}")).exists())
        .count()
}
