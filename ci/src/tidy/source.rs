//! Rules about Rust source: heads, lengths, words that must not appear in some places.

use super::files::{File, Tree};

/// Lines of a file at most.
const LINES_MAX: usize = 800;

/// Marks of unfinished work; written in pieces so that this file does not break the rule.
const MARKS: [&str; 7] = [
    concat!("to", "do!("),
    concat!("unim", "plemented!("),
    concat!("db", "g!("),
    concat!("FIX", "ME"),
    concat!("X", "XX"),
    concat!("#[ig", "nore"),
    concat!("TO", "DO"),
];

/// Where the data plane may use blocking file I/O: the wrapped runtime, and what runs before a store serves.
const BLOCKING_ALLOWED: [&str; 5] = [
    "shard/src/runtime/",
    "shard/src/main.rs",
    "shard/src/preflight.rs",
    "shard/src/disk/file.rs",
    "shard/src/disk/durability.rs",
];

/// Where unsafe code may be.
const UNSAFE_ALLOWED: [&str; 2] = ["shard/src/runtime/", "ci/src/sys.rs"];

/// Every file says at its top what it is.
pub(super) fn heads(tree: &Tree) -> Vec<String> {
    tree.sources()
        .filter(|file| !file.text.starts_with("//! "))
        .map(|file| format!("{} does not begin with //!", file.path))
        .collect()
}

/// No file is longer than the wall.
pub(super) fn lengths(tree: &Tree) -> Vec<String> {
    tree.sources()
        .filter(|file| !file.is_test())
        .map(|file| (file, file.text.lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(file, lines)| format!("{} has {lines} lines", file.path))
        .collect()
}

/// Nothing is left for later.
pub(super) fn marks(tree: &Tree) -> Vec<String> {
    let mut broken = Vec::new();
    for file in tree.sources() {
        for (index, line) in file.text.lines().enumerate() {
            for mark in MARKS.iter().filter(|mark| has_mark(line, mark)) {
                broken.push(format!("{}:{} has {mark}", file.path, index + 1));
            }
        }
    }
    broken
}

/// Only the runtime directory knows which executor it is.
pub(super) fn executor(tree: &Tree) -> Vec<String> {
    let word = "glommio";
    named(tree, word, |file| {
        !file.path.starts_with("ci/") && !file.path.starts_with("shard/src/runtime")
    })
}

/// Blocking file I/O stalls a whole shard.
pub(super) fn blocking(tree: &Tree) -> Vec<String> {
    named(tree, "std::fs", |file| {
        file.path.starts_with("shard/src/")
            && !file.is_test()
            && !BLOCKING_ALLOWED
                .iter()
                .any(|place| file.path.starts_with(place))
    })
}

/// The deciding crates declare `no_std` and name nothing of it outside tests.
pub(super) fn no_std(tree: &Tree) -> Vec<String> {
    let deciding = |path: &str| path.starts_with("core/src/") || path.starts_with("iscsi/src/");
    let mut broken: Vec<String> = tree
        .sources()
        .filter(|file| file.path == "core/src/lib.rs" || file.path == "iscsi/src/lib.rs")
        .filter(|file| !file.text.contains("#![no_std]") && !file.text.contains("no_std)]"))
        .map(|file| format!("{} is not no_std", file.path))
        .collect();
    broken.extend(named(tree, "std::", |file| {
        deciding(&file.path) && !file.is_test() && !file.path.contains("/testing")
    }));
    broken
}

/// Unsafe code is where it is expected.
pub(super) fn unsafe_code(tree: &Tree) -> Vec<String> {
    named(tree, "unsafe", |file| {
        !UNSAFE_ALLOWED
            .iter()
            .any(|place| file.path.starts_with(place))
    })
}

/// A test that sleeps is slow and still not sure.
pub(super) fn sleeps(tree: &Tree) -> Vec<String> {
    let word = concat!("thread::", "sleep");
    named(tree, word, File::is_test)
}

/// Places in the code (comments and strings left out) of the `chosen` files that name `word`.
fn named(tree: &Tree, word: &str, chosen: impl Fn(&File) -> bool) -> Vec<String> {
    let mut broken = Vec::new();
    for file in tree.sources().filter(|file| chosen(file)) {
        for (number, line) in file.code() {
            if has_word(&without_strings(line), word) {
                broken.push(format!("{}:{number} names {word}", file.path));
            }
        }
    }
    broken
}

fn without_strings(line: &str) -> String {
    line.split('"').step_by(2).collect::<Vec<_>>().join("\"\"")
}

/// `word` stands alone: `core::` is not `std::`, `no_std` is not `std`.
fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let goes_on = word.ends_with(part) && after.is_some_and(part);
        !goes_on && !before.is_some_and(part)
    })
}

/// A mark of capitals stands alone, the others may follow anything.
fn has_mark(line: &str, mark: &str) -> bool {
    if mark.bytes().all(|c| c.is_ascii_uppercase()) {
        has_word(line, mark)
    } else {
        line.contains(mark)
    }
}
