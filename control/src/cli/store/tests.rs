//! Formatting, inspecting and checking real files.

use super::format::{self, Consent, Shape};
use super::inspect;
use crate::cli::Exit;
use crate::size::Size;
use holdfast_core::store::inspect::Depth;
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

const SIZE: Size = Size(64 << 20);

fn shape(size: Option<Size>, log: Option<Size>) -> Shape {
    Shape { size, log }
}

/// A file that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn make() -> Scratch {
        let name = format!("holdfast-store-{}", uuid::Uuid::new_v4());
        Scratch(std::env::temp_dir().join(name))
    }

    fn format(&self, consent: Consent) -> Result<(), Exit> {
        format::run(&self.0, shape(Some(SIZE), None), consent, true).map_err(|failure| failure.exit)
    }

    fn check(&self) -> Result<(), Exit> {
        inspect::check(&self.0, Depth::Data, true).map_err(|failure| failure.exit)
    }

    fn show(&self) -> Result<(), Exit> {
        inspect::show(&self.0, false).map_err(|failure| failure.exit)
    }

    fn overwrite(&self, offset: u64, bytes: &[u8]) {
        let file = OpenOptions::new().write(true).open(&self.0).expect("there");
        file.write_all_at(bytes, offset).expect("written");
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_formatted_store_is_whole_sound_and_has_all_its_space() {
    let scratch = Scratch::make();
    assert_eq!(scratch.format(Consent::EmptyOnly), Ok(()));
    let metadata = std::fs::metadata(&scratch.0).expect("there");
    assert_eq!(metadata.len(), SIZE.0);
    assert!(metadata.blocks() * 512 >= SIZE.0);
    assert_eq!(metadata.mode() & 0o777, 0o600);
    assert_eq!(scratch.check(), Ok(()));
    assert_eq!(scratch.show(), Ok(()));
}

#[test]
fn what_is_not_empty_is_destroyed_only_when_told_twice() {
    let scratch = Scratch::make();
    std::fs::write(&scratch.0, b"precious").expect("written");
    assert_eq!(scratch.format(Consent::EmptyOnly), Err(Exit::Conflict));
    assert_eq!(scratch.format(Consent::Half), Err(Exit::Conflict));
    assert_eq!(std::fs::read(&scratch.0).expect("there"), b"precious");
    assert_eq!(scratch.format(Consent::Overwrite), Ok(()));
    assert_eq!(scratch.format(Consent::EmptyOnly), Err(Exit::Conflict));
    assert_eq!(scratch.check(), Ok(()));
}

#[test]
fn an_open_store_is_left_alone() {
    let scratch = Scratch::make();
    scratch.format(Consent::EmptyOnly).expect("formatted");
    let server = File::open(&scratch.0).expect("there");
    flock(&server, FlockOperation::NonBlockingLockExclusive).expect("free");
    assert_eq!(scratch.format(Consent::Overwrite), Err(Exit::Conflict));
    assert_eq!(scratch.check(), Err(Exit::Conflict));
    assert_eq!(scratch.show(), Err(Exit::Conflict));
}

#[test]
fn a_format_that_fails_leaves_nothing_behind() {
    let scratch = Scratch::make();
    for size in [Size(4096), Size(SIZE.0 + 1), Size(1 << 60)] {
        assert!(
            format::run(
                &scratch.0,
                shape(Some(size), None),
                Consent::EmptyOnly,
                true
            )
            .is_err()
        );
        assert!(!scratch.0.exists(), "{size}");
    }
    let unsized_format = format::run(&scratch.0, shape(None, None), Consent::EmptyOnly, true);
    assert_eq!(
        unsized_format.map_err(|failure| failure.exit),
        Err(Exit::Usage)
    );
}

#[test]
fn a_log_of_a_size_asked_for_is_made_or_refused() {
    let scratch = Scratch::make();
    let format = |log: u64| {
        let shape = shape(Some(Size(128 << 20)), Some(Size(log)));
        format::run(&scratch.0, shape, Consent::EmptyOnly, true).map_err(|failure| failure.exit)
    };
    for log in [0, (32 << 20) - 1, 128 << 20, u64::MAX] {
        assert_eq!(format(log), Err(Exit::Usage), "{log}");
        assert!(!scratch.0.exists());
    }
    assert_eq!(format(64 << 20), Ok(()));
    assert_eq!(scratch.check(), Ok(()));
}

#[test]
fn damage_is_found() {
    let scratch = Scratch::make();
    scratch.format(Consent::EmptyOnly).expect("formatted");
    scratch.overwrite(100, &[0xff]);
    assert_eq!(scratch.check(), Err(Exit::Degraded));
    assert_eq!(scratch.show(), Ok(())); // The other copy serves.
    scratch.overwrite((1 << 20) + 100, &[0xff]);
    assert_eq!(scratch.check(), Err(Exit::Degraded));
    assert_eq!(scratch.show(), Err(Exit::Degraded));
}

#[test]
fn what_is_missing_is_not_found() {
    let scratch = Scratch::make();
    assert_eq!(scratch.check(), Err(Exit::NotFound));
    assert_eq!(scratch.show(), Err(Exit::NotFound));
}
