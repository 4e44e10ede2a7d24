//! `holdfast store format`: makes an empty store.
//!
//! Nothing is destroyed without being told twice. A file gets all its space at once, its log and map
//! areas are written with zeros, so that no later write has to allocate; the superblocks come last,
//! each step synced. A format that fails leaves no file behind that it made.

use super::{failed, length, lock};
use crate::cli::render::{document, fields};
use crate::cli::{Exit, Failure, print_text};
use crate::size::Size;
use holdfast_core::id::StoreId;
use holdfast_core::limits::BLOCK_BYTES;
use holdfast_core::store::format::{self, Formatting};
use holdfast_core::store::layout::{Layout, SUPERBLOCKS};
use rustix::fs::{FallocateFlags, FlockOperation, OFlags, fallocate};
use serde_json::json;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Bytes of one write of zeros.
const ZEROS_BYTES: usize = 4 << 20;

/// From so many bytes of zeros on, progress is shown on a terminal.
const PROGRESS_BYTES_MIN: u64 = 512 << 20;

/// Bytes of a log at least: as that of the smallest store.
const LOG_BYTES_MIN: u64 = 32 << 20;

/// What the store is to be like.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shape {
    /// Bytes in all; `None` only for a device, then all of it.
    pub(super) size: Option<Size>,
    /// Bytes of the log; `None`: an eighth of the store, 32 MiB to 1 GiB.
    pub(super) log: Option<Size>,
}

/// What the caller allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Consent {
    /// Only what is empty.
    EmptyOnly,
    /// `--overwrite` without `--yes`.
    Half,
    /// Destroy what is there.
    Overwrite,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Created,
    File,
    Device,
}

/// Makes the store.
pub(super) fn run(
    path: &Path,
    shape: Shape,
    consent: Consent,
    as_json: bool,
) -> Result<(), Failure> {
    let (mut file, kind) = open(path)?;
    let made = claim_and_write(&mut file, kind, path, shape, consent);
    if made.is_err() && kind == Kind::Created {
        // The reason is told anyway; an empty name that stays behind harms nobody.
        let _ = std::fs::remove_file(path);
    }
    let (id, layout, bytes) = made?;
    let usable = u64::from(layout.chunks) * holdfast_core::limits::CHUNK_BYTES as u64;
    let text = if as_json {
        document(&json!({
            "path": path.display().to_string(),
            "id": id.to_string(),
            "size_bytes": bytes,
            "log_bytes": layout.log_bytes(),
            "capacity_bytes": usable,
        }))
    } else {
        fields(&[
            ("store", path.display().to_string()),
            ("id", id.to_string()),
            ("size", Size(bytes).to_string()),
            ("log", Size(layout.log_bytes()).to_string()),
            ("capacity", Size(usable).rounded()),
        ])
    };
    print_text(&text)
}

/// Opens an existing file or device, or makes a file.
fn open(path: &Path) -> Result<(File, Kind), Failure> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path);
            let file = file.map_err(|error| failed(path, "make", &error))?;
            return Ok((file, Kind::Created));
        }
        Err(error) => return Err(failed(path, "look at", &error)),
    };
    let kind = if metadata.file_type().is_block_device() {
        Kind::Device
    } else if metadata.is_file() {
        Kind::File
    } else {
        let message = format!("{} is neither a file nor a block device", path.display());
        return Err(Failure::with(Exit::Usage, message));
    };
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    if kind == Kind::Device {
        // Refused by the kernel while the device is mounted or part of something else.
        let exclusive = OFlags::EXCL.bits();
        options.custom_flags(exclusive.cast_signed());
    }
    let file = options.open(path).map_err(|error| match error.kind() {
        io::ErrorKind::ResourceBusy => {
            let message = format!(
                "{} is in use (mounted, or part of an array)",
                path.display()
            );
            Failure::with(Exit::Conflict, message)
        }
        _ => failed(path, "open", &error),
    })?;
    Ok((file, kind))
}

fn claim_and_write(
    file: &mut File,
    kind: Kind,
    path: &Path,
    shape: Shape,
    consent: Consent,
) -> Result<(StoreId, Layout, u64), Failure> {
    lock(file, path, FlockOperation::NonBlockingLockExclusive)?;
    let present = length(file).map_err(|error| failed(path, "measure", &error))?;
    refuse_contents(file, kind, path, present, consent)?;
    let bytes = store_bytes(kind, path, shape.size, present)?;
    let layout = layout(bytes, shape.log)?;
    let id = StoreId(*uuid::Uuid::new_v4().as_bytes());
    if kind != Kind::Device {
        allocate(file, path, bytes)?;
    }
    let formatting = format::format_with(id, layout);
    let write_error = |error: io::Error| failed(path, "write", &error);
    write(file, &formatting, layout).map_err(write_error)?;
    if kind != Kind::Device {
        sync_directory(path).map_err(|error| failed(path, "sync the directory of", &error))?;
    }
    Ok((id, layout, bytes))
}

fn layout(bytes: u64, log: Option<Size>) -> Result<Layout, Failure> {
    let Some(log) = log else {
        return Layout::for_size(bytes).map_err(|error| {
            let least = Size(Layout::STORE_BYTES_MIN);
            let message = format!("no store of {}: {error}; the least is {least}", Size(bytes));
            Failure::with(Exit::Usage, message)
        });
    };
    let unfit = |what: &dyn std::fmt::Display| {
        let message = format!(
            "no log of {log} in a store of {}: {what}; a log has at least {}, and leaves room for chunks",
            Size(bytes),
            Size(LOG_BYTES_MIN)
        );
        Failure::with(Exit::Usage, message)
    };
    if log.0 < LOG_BYTES_MIN {
        return Err(unfit(&"it is too short"));
    }
    Layout::with_log_bytes(bytes, log.0).map_err(|error| unfit(&error))
}

fn refuse_contents(
    file: &File,
    kind: Kind,
    path: &Path,
    present: u64,
    consent: Consent,
) -> Result<(), Failure> {
    let empty = match kind {
        Kind::Created => true,
        Kind::File => present == 0,
        Kind::Device => is_blank(file, present).map_err(|error| failed(path, "read", &error))?,
    };
    if empty || consent == Consent::Overwrite {
        return Ok(());
    }
    let mut first = vec![0; BLOCK_BYTES];
    let holds = match file
        .read_exact_at(&mut first, 0)
        .map(|()| format::probe(&first))
    {
        Ok(format::Content::Store) => "holds a Holdfast store".to_owned(),
        _ => format!("is not empty ({})", Size(present)),
    };
    let next = match consent {
        Consent::Half => "add --yes to --overwrite to destroy it",
        _ => "to destroy it give --overwrite and --yes",
    };
    Err(Failure::with(
        Exit::Conflict,
        format!("{} {holds}; {next}", path.display()),
    ))
}

/// Whether the start of a device, where every file system, partition table and store leaves a mark,
/// is all zeros.
fn is_blank(file: &File, present: u64) -> io::Result<bool> {
    let span = (SUPERBLOCKS[1].0 + BLOCK_BYTES as u64).min(present);
    let mut bytes = vec![0; usize::try_from(span).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes.iter().all(|byte| *byte == 0))
}

fn store_bytes(kind: Kind, path: &Path, size: Option<Size>, present: u64) -> Result<u64, Failure> {
    let block = BLOCK_BYTES as u64;
    let message = match (kind, size) {
        (Kind::Device, None) => return Ok(present / block * block),
        (Kind::Device, Some(Size(bytes))) if bytes > present => {
            format!("{} has only {}", path.display(), Size(present))
        }
        (_, Some(Size(bytes))) if bytes.is_multiple_of(block) => return Ok(bytes),
        (_, Some(size)) => format!("the size {size} is no multiple of 4KiB"),
        (_, None) => "give the size of the store with --size".to_owned(),
    };
    Err(Failure::with(Exit::Usage, message))
}

/// Gives the file all its space. What it held before is gone first.
fn allocate(file: &File, path: &Path, bytes: u64) -> Result<(), Failure> {
    file.set_len(0)
        .map_err(|error| failed(path, "empty", &error))?;
    fallocate(file, FallocateFlags::empty(), 0, bytes).map_err(|errno| {
        // Space that was taken before the refusal goes back.
        let _ = file.set_len(0);
        match errno {
            rustix::io::Errno::NOSPC | rustix::io::Errno::FBIG => {
                let message = format!(
                    "no room for a store of {} at {}: {errno}; free space there or choose a smaller \
                     --size",
                    Size(bytes),
                    path.display()
                );
                Failure::with(Exit::Conflict, message)
            }
            other => failed(path, "reserve the space of", &other.into()),
        }
    })
}

/// Zeros up to the chunks, then what core says, in its order.
fn write(file: &File, formatting: &Formatting, layout: Layout) -> io::Result<()> {
    let (start, planned) = formatting.zeros;
    let end = layout.chunks_start().0;
    assert!(start.0 + planned <= end); // The map area behind the log is written too.
    let zeros = vec![0; ZEROS_BYTES];
    let mut progress = Progress::of(end - start.0);
    let mut at = start.0;
    while at < end {
        let length = usize::try_from(end - at).map_or(ZEROS_BYTES, |left| left.min(ZEROS_BYTES));
        file.write_all_at(&zeros[..length], at)?;
        at += length as u64;
        progress.show(at - start.0);
    }
    file.sync_all()?;
    progress.end();
    for (offset, bytes) in &formatting.writes {
        file.write_all_at(bytes, offset.0)?;
    }
    file.sync_all()
}

fn sync_directory(path: &Path) -> io::Result<()> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// A line on the terminal for long work; nothing elsewhere.
struct Progress {
    total: u64,
    shown_percent: Option<u64>,
}

impl Progress {
    fn of(total: u64) -> Progress {
        let wanted = total >= PROGRESS_BYTES_MIN && io::stderr().is_terminal();
        Progress {
            total,
            shown_percent: wanted.then_some(0),
        }
    }

    fn show(&mut self, done: u64) {
        let percent = done.saturating_mul(100) / self.total.max(1);
        if self.shown_percent.is_some_and(|shown| shown < percent) {
            self.shown_percent = Some(percent);
            // Progress is a courtesy.
            let _ = write!(io::stderr(), "\rwriting the log area: {percent}%");
        }
    }

    fn end(&self) {
        if self.shown_percent.is_some() {
            let _ = writeln!(io::stderr());
        }
    }
}
