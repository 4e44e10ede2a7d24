//! QEMU and libiscsi as hosts: round trips, IPv6, CHAP in one and both directions.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::contract::{port, qemu_io, wait_for};
use super::{Case, must, says};
use crate::lanes::Context;
use crate::server::Server;
use crate::tool;

/// Time for one copy of an image.
const BOUND: Duration = Duration::from_secs(180);

/// Bytes of the image that goes there and back.
const IMAGE_BYTES: usize = 96 << 20;

/// All cases.
pub(super) const CASES: &[Case] = &[
    (
        "an image goes there and back through IPv4 and IPv6",
        image_round_trip,
    ),
    ("discard gives zeros and space back", discard),
    ("discovery lists each volume with each portal", discovery),
    (
        "CHAP: the right secret enters, the wrong one and none do not",
        chap,
    ),
    ("an access list keeps other initiators out", access_list),
];

fn image_round_trip(context: &Context) -> Result<String, String> {
    let dir = context.scratch("e2e-image")?;
    let four = format!("127.0.0.1:{}", port()?);
    let six = format!("[::1]:{}", port()?);
    let args = ["--portal", &four, "--portal", &six, "--volume", "a=128MiB"];
    let server = Server::start(context, &dir, &args)?;
    let iqn = server.iqn("a")?;
    let source = dir.join("source.raw");
    fs::write(&source, noise(IMAGE_BYTES)).map_err(|error| error.to_string())?;
    for (there, back) in [(&four, &six), (&six, &four)] {
        let url = |portal: &str| format!("iscsi://{portal}/{iqn}/0");
        qemu_io(&url(there), &["write -P 0xff 0 128M", "flush"])?;
        qemu_img(&[
            "convert",
            "-n",
            "-f",
            "raw",
            "-O",
            "raw",
            &shown(&source),
            &url(there),
        ])?;
        let target = dir.join("target.raw");
        qemu_img(&[
            "convert",
            "-f",
            "raw",
            "-O",
            "raw",
            &url(back),
            &shown(&target),
        ])?;
        let (sent, got) = (read(&source)?, read(&target)?);
        must(got.len() == 128 << 20, || {
            format!("{} bytes came back", got.len())
        })?;
        must(got[..IMAGE_BYTES] == sent[..], || {
            "the bytes differ".to_owned()
        })?;
    }
    server.stop()?;
    Ok(format!("{} MiB each way", IMAGE_BYTES >> 20))
}

fn discard(context: &Context) -> Result<String, String> {
    let dir = context.scratch("e2e-discard")?;
    let server = Server::start(context, &dir, &["--volume", "a=128MiB"])?;
    let url = server.url("a")?;
    let used = |server: &Server| {
        let status = server.holdfast(&["volume", "status", "a"]);
        status
            .ok()
            .and_then(|status| status["used_bytes"].as_u64())
            .unwrap_or(u64::MAX)
    };
    qemu_io(&url, &["write -P 0x44 0 64M", "flush"])?;
    wait_for(&server, Duration::from_secs(20), |s| {
        (60 << 20..=80 << 20).contains(&used(s))
    })?;
    qemu_io(&url, &["discard 0 64M", "read -P 0 0 64M"])?;
    wait_for(&server, Duration::from_secs(20), |s| used(s) < 4 << 20)?;
    server.stop()?;
    Ok(String::new())
}

fn discovery(context: &Context) -> Result<String, String> {
    let dir = context.scratch("e2e-discovery")?;
    let portals = [
        format!("127.0.0.1:{}", port()?),
        format!("127.0.0.2:{}", port()?),
    ];
    let args = [
        "--portal",
        &portals[0],
        "--portal",
        &portals[1],
        "--volume",
        "a=64MiB",
        "--volume",
        "b=64MiB",
    ];
    let server = Server::start(context, &dir, &args)?;
    let mut list = Command::new("iscsi-ls");
    list.args(["-s", &format!("iscsi://{}", portals[1])]);
    let text = tool::run_ok(&mut list, BOUND)?;
    let (a, b) = (server.iqn("a")?, server.iqn("b")?);
    let result = says(&text, &[&a, &b, &portals[0], &portals[1], "Lun:0"]);
    server.stop()?;
    result
}

fn chap(context: &Context) -> Result<String, String> {
    let dir = context.scratch("e2e-chap")?;
    let server = Server::start(context, &dir, &["--volume", "a=64MiB"])?;
    let (one, other) = (dir.join("secret"), dir.join("mutual-secret"));
    fs::write(&one, "correct-horse-1").map_err(|error| error.to_string())?;
    fs::write(&other, "battery-staple-2").map_err(|error| error.to_string())?;
    let (one, other) = (shown(&one), shown(&other));
    let mut words = vec![
        "volume",
        "create",
        "c",
        "--size",
        "64MiB",
        "--chap-user",
        "host",
    ];
    words.extend(["--chap-secret-file", &one, "--mutual-user", "target"]);
    words.extend(["--mutual-secret-file", &other]);
    server.holdfast(&words)?;
    wait_for(&server, Duration::from_secs(20), |server| {
        server
            .holdfast(&["volume", "status", "c"])
            .is_ok_and(|v| v["condition"] == "serving")
    })?;
    let (portal, iqn) = (server.portal()?, server.iqn("c")?);
    let url = |login: &str| format!("iscsi://{login}{portal}/{iqn}/0");
    let mutual = "?target_user=target&target_password=battery-staple-2";
    let wrong_mutual = "?target_user=target&target_password=battery-staple-3";
    inquiry(&url("host%correct-horse-1@"))?;
    inquiry(&format!("{}{mutual}", url("host%correct-horse-1@")))?;
    for (what, wrong) in [
        ("no CHAP", url("")),
        ("a wrong secret", url("host%correct-horse-2@")),
        ("a wrong user", url("hosts%correct-horse-1@")),
        (
            "a wrong secret of the target",
            format!("{}{wrong_mutual}", url("host%correct-horse-1@")),
        ),
    ] {
        must(inquiry(&wrong).is_err(), || format!("{what} logged in"))?;
    }
    inquiry(&server.url("a")?)?;
    let listed = server.holdfast(&["volume", "list"])?.to_string();
    must(!listed.contains("correct-horse"), || {
        "the secret is shown".to_owned()
    })?;
    server.stop()?;
    let logs = read(&dir.join("data/control.log"))?;
    let logs = [logs, read(&dir.join("data/volume.log"))?].concat();
    let leaked = String::from_utf8_lossy(&logs).contains("correct-horse");
    must(!leaked, || "the secret is in a log".to_owned())?;
    Ok(String::new())
}

fn access_list(context: &Context) -> Result<String, String> {
    let dir = context.scratch("e2e-access")?;
    let server = Server::start(context, &dir, &["--volume", "a=64MiB"])?;
    let url = server.url("a")?;
    inquiry(&url)?;
    server.holdfast(&[
        "volume",
        "access",
        "a",
        "--initiator",
        "iqn.2026-11.test:other",
    ])?;
    wait_for(&server, Duration::from_secs(20), |_| inquiry(&url).is_err())?;
    inquiry_as(&url, "iqn.2026-11.test:other")?;
    server.holdfast(&["volume", "access", "a"])?;
    wait_for(&server, Duration::from_secs(20), |_| inquiry(&url).is_ok())?;
    server.stop()?;
    Ok(String::new())
}

fn inquiry(url: &str) -> Result<String, String> {
    let mut inquiry = Command::new("iscsi-inq");
    inquiry.arg(url);
    tool::run_ok(&mut inquiry, Duration::from_secs(20))
}

fn inquiry_as(url: &str, initiator: &str) -> Result<String, String> {
    let mut inquiry = Command::new("iscsi-inq");
    inquiry.args(["-i", initiator, url]);
    tool::run_ok(&mut inquiry, Duration::from_secs(20))
}

fn qemu_img(words: &[&str]) -> Result<String, String> {
    let mut qemu = Command::new("qemu-img");
    qemu.args(words);
    tool::run_ok(&mut qemu, BOUND)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Bytes without a pattern, with runs of zeros in between as disk images have them.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut out = Vec::with_capacity(bytes);
    while out.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let zeros = (out.len() >> 16) % 5 == 0;
        out.extend_from_slice(&if zeros { [0; 8] } else { state.to_le_bytes() });
    }
    out.truncate(bytes);
    out
}
