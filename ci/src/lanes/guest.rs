//! `cargo ci guest`: a real Linux kernel with open-iscsi, in a virtual machine under software emulation.
//!
//! Method: `ci/guest/image.sh` builds an initramfs from Debian's packages, `ci/guest/scenario.sh` runs in it and prints
//! `CHECK` lines; `HOST` lines ask this side to act: to look at the space in use around an fstrim, to kill the volume
//! server. Nothing in the guest reaches beyond this machine's loopback (QEMU's user mode network).

pub(crate) mod multipath;

use super::Context;
use crate::report::Report;
use crate::server::{Server, free_ports};
use crate::{sys, tool};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// From power on to power off; about two minutes on an idle machine.
const GUEST_BOUND: Duration = Duration::from_secs(900);

/// Fetching the kernel package and packing the image.
const IMAGE_BOUND: Duration = Duration::from_secs(300);

/// The file that the scenario makes and trims away.
const BIG_FILE_BYTES: u64 = 96 << 20;

/// Time for the big file to be seen as used; the guest waits eight seconds.
const FILL_BOUND: Duration = Duration::from_secs(6);

/// Time for the space of a trimmed file to be seen as free.
const TRIM_BOUND: Duration = Duration::from_secs(20);

/// Names and secrets of the CHAP volume; the guest gets them on its kernel command line.
const CHAP: [(&str, &str); 4] = [
    ("chapuser", "guest-host"),
    ("chapsecret", "guest-host-secret"),
    ("mutualuser", "guest-target"),
    ("mutualsecret", "guest-target-secret"),
];

/// Debian packages that the image and the emulator come from.
const PACKAGES: [&str; 9] = [
    "qemu-system-x86",
    "busybox-static",
    "cpio",
    "kmod",
    "open-iscsi",
    "e2fsprogs",
    "xfsprogs",
    "sg3-utils",
    "fio",
];

/// Builds the guest, starts the servers, runs the scenario.
pub(crate) fn run(context: &Context, report: &mut Report) {
    if let Err(why) = scenario(context, report) {
        report.check("the guest runs", Err(why));
    }
}

fn scenario(context: &Context, report: &mut Report) -> Result<(), String> {
    context.packages(&PACKAGES)?;
    let image = build_image(context)?;
    let work = context.scratch("guest")?;
    let port = free_ports(1)?[0];
    let bound = format!("127.0.0.1:{port}");
    // The guest reaches this machine's loopback under this address (QEMU's user mode network).
    let advertised = format!("10.0.2.2:{port}");
    let arguments = [
        "--portal",
        &bound,
        "--advertise",
        &advertised,
        "--volume",
        "files=512MiB",
        "--volume",
        "chap=512MiB",
    ];
    let server = Server::start(context, &work, &arguments)?;
    protect(&server, &work)?;
    let mut words = format!(
        "holdfast.portal={advertised} holdfast.iqna={} holdfast.iqnb={}",
        server.iqn("files")?,
        server.iqn("chap")?
    );
    for (name, value) in CHAP {
        words.push_str(&format!(" holdfast.{name}={value}"));
    }
    Guest::boot(&image, &words)?.follow(&server, report)?;
    report.check(
        "the servers stop cleanly",
        server.stop().map(|()| String::new()),
    );
    Ok(())
}

/// The image stays between runs: only what is newer than it is made again.
fn build_image(context: &Context) -> Result<PathBuf, String> {
    let image = context.target.join("ci/guest-image");
    let mut command = Command::new("sh");
    command
        .arg(context.root.join("ci/guest/image.sh"))
        .arg(&image)
        .arg(context.root.join("ci/guest/scenario.sh"));
    tool::run_ok(&mut command, IMAGE_BOUND)?;
    Ok(image)
}

/// Gives the volume `chap` its CHAP users, as an operator would.
fn protect(server: &Server, work: &Path) -> Result<(), String> {
    let mut arguments = vec!["volume".to_string(), "access".into(), "chap".into()];
    for (name, value) in CHAP {
        let (flag, value) = match name {
            "chapuser" => ("--chap-user", value.to_string()),
            "mutualuser" => ("--mutual-user", value.to_string()),
            _ => {
                let path = work.join(name);
                fs::write(&path, value).map_err(|e| format!("{}: {e}", path.display()))?;
                let flag = if name == "chapsecret" {
                    "--chap-secret-file"
                } else {
                    "--mutual-secret-file"
                };
                (flag, path.display().to_string())
            }
        };
        arguments.push(flag.into());
        arguments.push(value);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    server.holdfast(&arguments).map(|_| ())
}

/// The running virtual machine; ended when dropped.
struct Guest {
    qemu: Child,
}

impl Guest {
    fn boot(image: &Path, words: &str) -> Result<Guest, String> {
        Guest::boot_on("user,id=n0", Stdio::null(), image, words)
    }

    /// Boots with a network of QEMU's `-netdev` words; what is written to its input is typed on its console.
    fn boot_on(network: &str, input: Stdio, image: &Path, words: &str) -> Result<Guest, String> {
        let append = format!("console=ttyS0 quiet panic=-1 {words}");
        let qemu = Command::new("qemu-system-x86_64")
            .args([
                "-accel",
                "tcg,thread=multi",
                "-smp",
                "2",
                "-m",
                "1024",
                "-nographic",
                "-no-reboot",
            ])
            .args(["-netdev", network, "-device", "virtio-net-pci,netdev=n0"])
            .arg("-kernel")
            .arg(image.join("vmlinuz"))
            .arg("-initrd")
            .arg(image.join("initrd.gz"))
            .args(["-append", &append])
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| {
                format!("cannot start qemu-system-x86_64: {e}; install qemu-system-x86")
            })?;
        Ok(Guest { qemu })
    }

    /// Reads the console to its end, acting as asked.
    fn follow(mut self, server: &Server, report: &mut Report) -> Result<(), String> {
        let console = self.qemu.stdout.take().ok_or("the guest has no console")?;
        let watchdog = Watchdog::over(self.qemu.id());
        let mut used_before_trim = 0;
        let mut ended = false;
        for line in BufReader::new(console).split(b'\n') {
            let line = line.map_err(|error| format!("guest console: {error}"))?;
            let line = String::from_utf8_lossy(&line).replace('\r', "");
            if let Some((_, check)) = line.split_once("CHECK ") {
                record(check, report);
            } else if line.contains("HOST kill") {
                sys::signal(server.pid("volume")?, libc::SIGKILL)?;
            } else if line.contains("HOST used-before-trim") {
                used_before_trim = filled(server)?;
            } else if line.contains("HOST used-after-trim") {
                report.check("fstrim gives space back", trimmed(used_before_trim, server));
            } else if line.contains("GUEST EXIT") {
                ended = true;
            }
        }
        drop(watchdog);
        match ended {
            true => Ok(()),
            false => Err("the guest did not reach its end".to_owned()),
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have powered itself off; then there is nothing to end.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// One line of the scenario: a name, and `ok` or `FAILED why`.
fn record(check: &str, report: &mut Report) {
    match check.split_once(" FAILED ") {
        Some((name, why)) => report.check(name, Err(why.to_owned())),
        None => report.check(check.trim_end_matches(" ok"), Ok(String::new())),
    }
}

/// Waits, for less time than the guest does, until the big file is seen as used: data counts once it left the log.
fn filled(server: &Server) -> Result<u64, String> {
    let started = Instant::now();
    let mut used = used_bytes(server)?;
    while used < BIG_FILE_BYTES && started.elapsed() < FILL_BOUND {
        thread::sleep(Duration::from_millis(250));
        used = used_bytes(server)?;
    }
    Ok(used)
}

/// The big file was removed and trimmed: at least half of it must be free again.
fn trimmed(before: u64, server: &Server) -> Result<String, String> {
    let wanted = before.saturating_sub(BIG_FILE_BYTES / 2);
    let started = Instant::now();
    let mut after = used_bytes(server)?;
    while after > wanted && started.elapsed() < TRIM_BOUND {
        thread::sleep(Duration::from_millis(250));
        after = used_bytes(server)?;
    }
    let figures = format!("{before} bytes used before, {after} after");
    match after <= wanted {
        true => Ok(figures),
        false => Err(figures),
    }
}

fn used_bytes(server: &Server) -> Result<u64, String> {
    let status = server.holdfast(&["volume", "status", "files"])?;
    status["used_bytes"]
        .as_u64()
        .ok_or_else(|| format!("no used_bytes in {status}"))
}

/// Ends a guest that runs too long, so that reading its console ends too.
struct Watchdog {
    cancel: mpsc::Sender<()>,
}

impl Watchdog {
    fn over(pid: u32) -> Watchdog {
        let (cancel, cancelled) = mpsc::channel::<()>();
        thread::spawn(move || {
            if cancelled.recv_timeout(GUEST_BOUND) == Err(mpsc::RecvTimeoutError::Timeout) {
                // It may have ended in this moment; then there is nothing to do.
                let _ = sys::signal(pid, libc::SIGKILL);
            }
        });
        Watchdog { cancel }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // The thread is gone when it has already acted.
        let _ = self.cancel.send(());
    }
}
