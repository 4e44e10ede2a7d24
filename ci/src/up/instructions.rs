//! What a person types next.

use serde_json::Value;

use super::command_line::served;
use super::options::Plan;
use crate::{size, workspace};

/// Prints, for each volume, how a Linux host and QEMU reach it, and how to stop.
pub(crate) fn print(plan: &Plan, volumes: &[Value]) {
    for volume in volumes {
        let text = |key: &str| volume[key].as_str().unwrap_or("?").to_owned();
        let bytes = size::exact(volume["size_bytes"].as_u64().unwrap_or(0));
        println!();
        if !served(volume) {
            println!(
                "volume {}, {bytes}: NOT SERVED: {}",
                text("name"),
                text("reason")
            );
            continue;
        }
        let iqn = text("iqn");
        let portals: Vec<&str> = volume["portals"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let first = portals.first().copied().unwrap_or("?");
        println!("volume {}, {bytes}", text("name"));
        println!("  target   {iqn}, LUN {}", volume["lun"]);
        println!("  portals  {}", portals.join(" "));
        println!("  Linux    iscsiadm -m discovery -t sendtargets -p {first}");
        println!("           iscsiadm -m node -T {iqn} -p {first} --login");
        println!(
            "  QEMU     qemu-img info iscsi://{first}/{iqn}/{}",
            volume["lun"]
        );
        println!(
            "           qemu-img convert -n -O raw disk.img iscsi://{first}/{iqn}/{}",
            volume["lun"]
        );
    }
    println!();
    let holdfast = workspace::binary("holdfast").map_or_else(
        |_| "holdfast".to_owned(),
        |path| {
            let here = std::env::current_dir().unwrap_or_default();
            path.strip_prefix(here)
                .unwrap_or(&path)
                .display()
                .to_string()
        },
    );
    println!(
        "manage     {holdfast} --control {} volume list",
        plan.master_urls()
    );
    for node in &plan.nodes {
        println!(
            "logs       {}",
            node.data.join("{control,volume}.log").display()
        );
    }
    println!(
        "stop       Ctrl-C, or send SIGTERM to process {}",
        std::process::id()
    );
    println!();
}
