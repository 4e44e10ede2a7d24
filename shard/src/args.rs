//! The command line.

use clap::Parser;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The data plane of one node: serves the volumes of its stores over iSCSI.
///
/// Volumes come from the node agent over the control link; stores are formatted with
/// `holdfast store format`. SIGTERM logs hosts out, checkpoints, and ends.
#[derive(Debug, Parser)]
#[command(name = "holdfast-volume", version)]
pub(crate) struct Args {
    /// Unix socket of the node agent.
    #[arg(long, value_name = "SOCKET")]
    pub(crate) link: PathBuf,
    /// A formatted file or block device; once for each store.
    #[arg(long, value_name = "PATH", required = true)]
    pub(crate) store: Vec<PathBuf>,
    /// Address to listen on for iSCSI; once for each portal.
    #[arg(long, value_name = "ADDR:PORT", required = true)]
    pub(crate) portal: Vec<SocketAddr>,
    /// Address to announce to hosts instead of the portals; once for each.
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) advertise: Vec<SocketAddr>,
    /// Address to listen on for the volume servers of other nodes, which reach it there; without it this
    /// node takes no copies of replicated volumes.
    #[arg(long, value_name = "ADDR:PORT", value_parser = parse_reachable)]
    pub(crate) peer: Option<SocketAddr>,
    /// CPUs to use, as `0,1`; default: all that this process may use.
    #[arg(long, value_name = "CPUS", value_delimiter = ',')]
    pub(crate) cpus: Vec<usize>,
    /// Memory for the read cache and for transfers, all shards together.
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = parse_size)]
    pub(crate) memory: u64,
    /// Microseconds to poll for work before a shard sleeps; for machines with CPUs to spare.
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 0)]
    pub(crate) spin: u64,
}

/// Reads an address that can be told to others.
fn parse_reachable(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text
        .parse()
        .map_err(|_| format!("`{text}` is no ADDR:PORT"))?;
    if address.ip().is_unspecified() {
        return Err("name the address at which other nodes reach this one".into());
    }
    Ok(address)
}

/// Reads a size such as `4096`, `64KiB` or `1.5GiB`.
fn parse_size(text: &str) -> Result<u64, String> {
    let units = [
        ("KiB", 10),
        ("MiB", 20),
        ("GiB", 30),
        ("TiB", 40),
        ("B", 0),
        ("", 0),
    ];
    let (number, shift) = units
        .iter()
        .find_map(|(unit, shift)| text.strip_suffix(unit).map(|number| (number, *shift)))
        .expect("the last unit is empty and always matches");
    let wrong = || format!("`{text}` is no size; write for example 512MiB or 4GiB");
    let (whole, fraction) = number.trim().split_once('.').unwrap_or((number.trim(), ""));
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let mut bytes = whole.checked_mul(1 << shift).ok_or_else(wrong)?;
    if !fraction.is_empty() {
        let digits = u32::try_from(fraction.len()).map_err(|_| wrong())?;
        let value: u64 = fraction.parse().map_err(|_| wrong())?;
        let scale = 10_u64.checked_pow(digits).ok_or_else(wrong)?;
        let part = value.checked_mul(1 << shift).ok_or_else(wrong)? / scale;
        bytes = bytes.checked_add(part).ok_or_else(wrong)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::{Args, parse_size};
    use clap::CommandFactory;

    #[test]
    fn sizes_are_read_with_binary_units_only() {
        for (text, expected) in [
            ("4096", Some(4096)),
            ("64KiB", Some(64 << 10)),
            ("1.5GiB", Some(3 << 29)),
            ("2TiB", Some(2 << 40)),
            ("1GB", None),
            ("-1", None),
            ("", None),
            ("99999999999TiB", None),
        ] {
            assert_eq!(parse_size(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
