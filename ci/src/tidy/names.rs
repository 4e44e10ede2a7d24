//! Rules about names and sizes of files.

use super::files::Tree;

/// Words of a plan; a file is named after a thing.
const PLAN_WORDS: [&str; 9] = [
    "phase",
    "milestone",
    "step",
    "round",
    "wip",
    "tmp",
    "new",
    "old",
    "v2",
];

/// Beginnings of paths that exist on one machine only; written in pieces so that this file does not break the rule.
const MACHINE_PATHS: [&str; 3] = [
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
];

/// Bytes of a file at most.
const BLOB_BYTES_MAX: u64 = 256 << 10;

/// No part of a path is a word of a plan.
pub(super) fn plans(tree: &Tree) -> Vec<String> {
    tree.files()
        .iter()
        .filter(|file| {
            let path = file.path.to_ascii_lowercase();
            path.split(['/', '_', '-', '.'])
                .any(|word| PLAN_WORDS.contains(&word))
        })
        .map(|file| file.path.clone())
        .collect()
}

/// Nothing points into somebody's home.
pub(super) fn machine_paths(tree: &Tree) -> Vec<String> {
    let mut broken = Vec::new();
    for file in tree.files() {
        for (index, line) in file.text.lines().enumerate() {
            if MACHINE_PATHS.iter().any(|path| names_path(line, path)) {
                broken.push(format!("{}:{}", file.path, index + 1));
            }
        }
    }
    broken
}

/// Everything in the tree is something a person can read.
pub(super) fn blobs(tree: &Tree) -> Vec<String> {
    tree.files()
        .iter()
        .filter(|file| file.bytes > BLOB_BYTES_MAX)
        .map(|file| format!("{} has {} bytes", file.path, file.bytes))
        .collect()
}

/// The path begins here, it is not the tail of a longer one.
fn names_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "_-.}".contains(c))
    })
}
