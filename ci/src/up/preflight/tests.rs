//! The data directory: private when it is new, left alone when it is not.

use super::own_directory;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn mode(path: &Path) -> u32 {
    let metadata = fs::metadata(path).expect("it is there");
    metadata.permissions().mode() & 0o777
}

#[test]
fn a_new_directory_is_private_and_an_old_one_keeps_its_mode() {
    let mut base = std::env::current_exe().expect("tests have a path");
    base.set_file_name(format!("holdfast-preflight-test-{}", std::process::id()));
    let new = base.join("new");
    own_directory(&new).expect("made");
    assert_eq!(mode(&new), 0o700);
    let old = base.join("old");
    fs::create_dir(&old).expect("made");
    for given in [0o755, 0o700] {
        fs::set_permissions(&old, fs::Permissions::from_mode(given)).expect("it is ours");
        own_directory(&old).expect("it is there");
        assert_eq!(mode(&old), given);
    }
    fs::remove_dir_all(base).expect("it was made above");
}
