//! Stores that do not exist yet are made; those that exist are never touched.

use std::fs;
use std::process::Command;
use std::time::Duration;

use super::options::Plan;
use crate::{size, tool, workspace};

/// Seconds that formatting may take per GiB of store (its log is written with zeros).
const SECONDS_PER_GIB: u64 = 60;

/// Formats each missing store under a name of its own first, so that an interrupted format leaves no store behind.
pub(crate) fn format_missing(plan: &Plan) -> Result<(), String> {
    for store in plan.nodes.iter().flat_map(|node| &node.stores) {
        let Some(bytes) = store.format_bytes else {
            continue;
        };
        let part = store.path.with_extension("part");
        if part.exists() {
            fs::remove_file(&part)
                .map_err(|error| format!("cannot remove {}: {error}", part.display()))?;
        }
        println!(
            "formatting {}, {}",
            store.path.display(),
            size::exact(bytes)
        );
        let bound = Duration::from_secs(60 + SECONDS_PER_GIB * bytes.div_ceil(size::GIB));
        let mut format = Command::new(workspace::binary("holdfast")?);
        format
            .args(["store", "format"])
            .arg(&part)
            .args(["--size", &size::exact(bytes)]);
        tool::run_ok(&mut format, bound)?;
        fs::rename(&part, &store.path)
            .map_err(|error| format!("cannot rename {}: {error}", part.display()))?;
    }
    Ok(())
}
