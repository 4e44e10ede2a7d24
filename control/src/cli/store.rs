//! `holdfast store`: works on a store's file or block device directly, and only while no server has
//! it open.

mod format;
mod inspect;

use super::{Exit, Failure, StoreCommand};
use holdfast_core::store::inspect::Depth;
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::path::Path;

/// Runs one of the commands.
pub(super) fn run(command: &StoreCommand, as_json: bool) -> Result<(), Failure> {
    match command {
        StoreCommand::Format {
            path,
            size,
            log,
            overwrite,
            yes,
        } => {
            let consent = match (overwrite, yes) {
                (true, true) => format::Consent::Overwrite,
                (true, false) => format::Consent::Half,
                (false, _) => format::Consent::EmptyOnly,
            };
            let shape = format::Shape {
                size: *size,
                log: *log,
            };
            format::run(path, shape, consent, as_json)
        }
        StoreCommand::Inspect { path } => inspect::show(path, as_json),
        StoreCommand::Check { path, data } => {
            let depth = if *data { Depth::Data } else { Depth::Structure };
            inspect::check(path, depth, as_json)
        }
    }
}

/// Opens for reading, with a shared lock: no server can open the store meanwhile.
fn open_shared(path: &Path) -> Result<(File, u64), Failure> {
    let mut file = File::open(path).map_err(|error| failed(path, "open", &error))?;
    lock(&file, path, FlockOperation::NonBlockingLockShared)?;
    let bytes = length(&mut file).map_err(|error| failed(path, "measure", &error))?;
    Ok((file, bytes))
}

/// Takes the lock that `holdfast-volume` holds while it serves a store.
fn lock(file: &File, path: &Path, operation: FlockOperation) -> Result<(), Failure> {
    flock(file, operation).map_err(|errno| match errno {
        rustix::io::Errno::AGAIN => {
            let message = format!(
                "{} is open in another process; stop the holdfast-volume that serves it first",
                path.display()
            );
            Failure::with(Exit::Conflict, message)
        }
        other => failed(path, "lock", &other.into()),
    })
}

/// Length of a file or block device.
fn length(file: &mut File) -> io::Result<u64> {
    let bytes = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(0))?;
    Ok(bytes)
}

fn failed(path: &Path, what: &str, error: &io::Error) -> Failure {
    let exit = match error.kind() {
        io::ErrorKind::NotFound => Exit::NotFound,
        _ => Exit::Error,
    };
    Failure::with(exit, format!("cannot {what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
