//! Debian packages that lanes need: present, installed when we are root, or named in a sentence.

use std::process::Command;
use std::time::Duration;

use crate::{sys, tool};

/// Time for one `apt-get` run.
const INSTALL_BOUND: Duration = Duration::from_secs(600);

/// Makes sure that all of `names` are installed.
pub(crate) fn ensure(names: &[&str]) -> Result<(), String> {
    let missing: Vec<&str> = names
        .iter()
        .copied()
        .filter(|name| !installed(name))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !sys::is_root() {
        return Err(format!(
            "Debian packages are missing; run `apt-get install {list}` as root"
        ));
    }
    println!("   installing {list}");
    tool::run_ok(apt().args(["update", "-qq"]), INSTALL_BOUND)?;
    // All names, so that apt finds versions that go together; what the machine has is never removed.
    tool::run_ok(
        apt()
            .args(["install", "-y", "-qq", "--no-install-recommends"])
            .arg("--no-remove")
            .args(names),
        INSTALL_BOUND,
    )?;
    Ok(())
}

fn apt() -> Command {
    let mut apt = Command::new("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive");
    apt
}

fn installed(name: &str) -> bool {
    let mut query = Command::new("dpkg-query");
    query.args(["-W", "-f", "${Status}", name]);
    tool::run(&mut query, Duration::from_secs(30))
        .is_ok_and(|output| output.stdout.contains("install ok installed"))
}
