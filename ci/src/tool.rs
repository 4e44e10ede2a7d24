//! Runs another program to its end, with a bound on time, and keeps what it said.

use std::io::Read;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::sys;

/// How often a running program is looked at.
const POLL: Duration = Duration::from_millis(5);

/// Bytes of one stream that are kept; the rest is read and dropped.
const KEPT_BYTES_MAX: usize = 64 << 20;

/// What a program left behind.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    /// Exit code; `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

impl Output {
    /// The program ended with code 0.
    pub(crate) fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// Both streams, standard output first.
    pub(crate) fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// Runs `command` to its end; kills it after `bound`.
pub(crate) fn run(command: &mut Command, bound: Duration) -> Result<Output, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    sys::tie_to_parent(command);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .map_err(|error| format!("cannot start {name}: {error}"))?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let started = Instant::now();
    let status: ExitStatus = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if started.elapsed() < bound => thread::sleep(POLL),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                let said = tail(&received(&stdout), 5);
                return Err(format!(
                    "{name} did not end within {} s; {said}",
                    bound.as_secs()
                ));
            }
            Err(error) => return Err(format!("cannot wait for {name}: {error}")),
        }
    };
    Ok(Output {
        code: status.code(),
        stdout: received(&stdout),
        stderr: received(&stderr),
    })
}

/// As [`run`], and the program must succeed; gives its standard output.
pub(crate) fn run_ok(command: &mut Command, bound: Duration) -> Result<String, String> {
    let shown = shown(command);
    let output = run(command, bound)?;
    if output.success() {
        Ok(output.stdout)
    } else {
        Err(format!(
            "`{shown}` ended with {:?}: {}",
            output.code,
            tail(&output.text(), 8)
        ))
    }
}

/// Runs `command` with the terminal of this process (a build shows its own progress); true when it succeeded.
pub(crate) fn run_shown(command: &mut Command) -> Result<bool, String> {
    let shown = shown(command);
    sys::tie_to_parent(command);
    let status = command
        .status()
        .map_err(|error| format!("cannot start `{shown}`: {error}"))?;
    Ok(status.success())
}

/// The last `lines` lines of `text`, joined for one sentence.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    all[all.len().saturating_sub(lines)..].join(" | ")
}

/// A command as a person would type it.
pub(crate) fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(
        command
            .get_args()
            .map(|word| word.to_string_lossy().into_owned()),
    );
    words.join(" ")
}

fn collect(stream: Option<impl Read + Send + 'static>) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let mut kept = Vec::new();
        if let Some(mut stream) = stream {
            let mut piece = [0_u8; 16 << 10];
            while let Ok(count) = stream.read(&mut piece) {
                if count == 0 {
                    break;
                }
                if kept.len() < KEPT_BYTES_MAX {
                    kept.extend_from_slice(&piece[..count]);
                }
            }
        }
        let _ = sender.send(String::from_utf8_lossy(&kept).into_owned());
    });
    receiver
}

/// A grandchild may hold the stream open after the child is gone; one second is given to it.
fn received(stream: &mpsc::Receiver<String>) -> String {
    stream
        .recv_timeout(Duration::from_secs(1))
        .unwrap_or_default()
}
