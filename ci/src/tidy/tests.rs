//! Each rule accepts what keeps it and dies on what breaks it.

use super::files::Tree;
use super::{dependencies, functions, names, source};

const WORKSPACE: &str = "[workspace]\nmembers = [\"core\", \"shard\"]\n";

fn manifests(shard: &str) -> Vec<(String, String)> {
    ["core", "iscsi", "control", "csi", "perf", "ci", "shard"]
        .into_iter()
        .map(|name| {
            let more = if name == "shard" { shard } else { "" };
            let text = format!(
                "[package]\nname = \"holdfast-{name}\"\n{more}\n[lints]\nworkspace = true\n"
            );
            (format!("{name}/Cargo.toml"), text)
        })
        .collect()
}

fn tree_with(shard: &str, more: &[(&str, &str)]) -> Tree {
    let manifests = manifests(shard);
    let mut files: Vec<(&str, &str)> = manifests
        .iter()
        .map(|(path, text)| (path.as_str(), text.as_str()))
        .collect();
    files.push(("Cargo.toml", WORKSPACE));
    files.extend(more);
    Tree::of(&files)
}

#[test]
fn an_edge_outside_the_table_is_found() {
    let good = "[dependencies]\nholdfast-core.workspace = true\nglommio.workspace = true";
    assert_eq!(
        dependencies::edges(&tree_with(good, &[])),
        Vec::<String>::new()
    );
    for bad in [
        "[dependencies]\nholdfast-control.workspace = true",
        "[dependencies]\ntokio = \"1\"",
        "[dev-dependencies]\nserde_json = { workspace = true }",
        "[build-dependencies]\ntonic.workspace = true",
        "[target.'cfg(unix)'.dependencies]\ntokio = \"1\"",
        "[dependencies.tokio]\nversion = \"1\"",
    ] {
        assert_eq!(dependencies::edges(&tree_with(bad, &[])).len(), 1, "{bad}");
    }
}

#[test]
fn a_crate_without_a_row_is_found() {
    let tree = Tree::of(&[("Cargo.toml", "[workspace]\nmembers = [\"extra\"]\n")]);
    assert!(dependencies::edges(&tree)[0].contains("extra/"));
}

#[test]
fn a_crate_without_lints_is_found() {
    assert!(dependencies::lints(&tree_with("", &[])).is_empty());
    let tree = Tree::of(&[
        ("Cargo.toml", WORKSPACE),
        ("core/Cargo.toml", "[package]\n"),
    ]);
    assert_eq!(dependencies::lints(&tree).len(), 2);
}

#[test]
fn a_directory_missing_from_the_architecture_is_found() {
    let tree = tree_with("", &[("ARCHITECTURE.md", "| `core/` | decides | - |\n")]);
    assert_eq!(
        dependencies::map(&tree),
        ["shard/ is not in ARCHITECTURE.md"]
    );
}

#[test]
fn a_missing_head_is_found() {
    let tree = Tree::of(&[
        ("a.rs", "//! A.\n"),
        ("b.rs", "use c;\n"),
        ("c.txt", "plain"),
    ]);
    assert_eq!(source::heads(&tree).len(), 1);
}

#[test]
fn a_long_file_is_found() {
    let long = "a\n".repeat(801);
    let tree = Tree::of(&[("a.rs", &long[2..]), ("b.rs", &long), ("b/tests.rs", &long)]);
    assert_eq!(source::lengths(&tree), ["b.rs has 801 lines"]);
}

#[test]
fn unfinished_marks_are_found() {
    for mark in [
        "to|do!()",
        "db|g!(x)",
        "// FIX|ME later",
        "#[ig|nore]",
        "// X|XX",
        "unim|plemented!()",
    ] {
        let tree = Tree::of(&[("a.rs", &mark.replace('|', ""))]);
        assert_eq!(source::marks(&tree).len(), 1, "{mark}");
    }
    let tree = Tree::of(&[("a.rs", "let xxx = MAXXXX;\n")]);
    assert!(source::marks(&tree).is_empty());
}

#[test]
fn the_executor_outside_its_room_is_found() {
    let line = "use glommio::Task;\n";
    let tree = Tree::of(&[
        ("shard/src/runtime/net.rs", line),
        ("shard/src/volume.rs", line),
        (
            "shard/src/text.rs",
            "// glommio's rule\nlet a = \"glommio\";\n",
        ),
    ]);
    assert_eq!(
        source::executor(&tree),
        ["shard/src/volume.rs:1 names glommio"]
    );
}

#[test]
fn blocking_files_and_unsafe_code_are_found() {
    let tree = Tree::of(&[
        (
            "shard/src/volume.rs",
            "use std::fs::File;\nlet a = unsafe { b() };\n",
        ),
        (
            "shard/src/runtime/open.rs",
            "use std::fs::File;\nlet a = unsafe { b() };\n",
        ),
        ("shard/src/disk/tests.rs", "use std::fs::File;\n"),
        ("core/src/lib.rs", "#![no_std]\n#![forbid(unsafe_code)]\n"),
    ]);
    assert_eq!(
        source::blocking(&tree),
        ["shard/src/volume.rs:1 names std::fs"]
    );
    assert_eq!(
        source::unsafe_code(&tree),
        ["shard/src/volume.rs:2 names unsafe"]
    );
}

#[test]
fn std_in_a_deciding_crate_is_found() {
    let tree = Tree::of(&[
        ("core/src/lib.rs", "//! Core.\n#![no_std]\n"),
        ("iscsi/src/lib.rs", "//! Target.\n"),
        (
            "core/src/wal.rs",
            "use std::time::Instant;\nuse core::time::Duration;\n",
        ),
        ("core/src/wal/tests.rs", "use std::vec;\n"),
    ]);
    assert_eq!(source::no_std(&tree).len(), 2);
}

#[test]
fn a_sleeping_test_is_found() {
    let line = "std::thread::sleep(pause);\n";
    let tree = Tree::of(&[("ci/src/up.rs", line), ("ci/src/up/tests.rs", line)]);
    assert_eq!(source::sleeps(&tree).len(), 1);
}

#[test]
fn a_long_function_is_found_and_a_listed_one_may_only_shrink() {
    let function = |lines: usize| {
        format!(
            "impl A {{\n    pub(crate) async fn walk(&self) {{\n{}    }}\n}}\n",
            "        a();\n".repeat(lines - 2)
        )
    };
    let broken = |lines: usize, list: &str| {
        let text = function(lines);
        functions::lengths(&Tree::of(&[
            ("a.rs", &text),
            ("ci/ratchet/long-functions.txt", list),
        ]))
    };
    assert!(broken(70, "").is_empty());
    assert_eq!(broken(71, ""), ["a.rs::walk has 71 lines"]);
    assert!(broken(80, "a.rs::walk 80\n").is_empty());
    assert_eq!(broken(81, "a.rs::walk 80\n").len(), 1);
    assert_eq!(broken(70, "a.rs::walk 80\n").len(), 1);
}

#[test]
fn names_of_plans_are_found() {
    let tree = Tree::of(&[
        ("core/src/new_map.rs", ""),
        ("core/phase2/a.rs", ""),
        ("docs/step-one.md", ""),
        ("core/src/renewal.rs", ""),
        ("core/src/threshold.rs", ""),
    ]);
    assert_eq!(names::plans(&tree).len(), 2);
}

#[test]
fn machine_paths_are_found() {
    let mine = ["/wo", "rk/a"].concat();
    let tree = Tree::of(&[("a.md", &mine), ("b.md", "in target/home/x and a/root/b")]);
    assert_eq!(names::machine_paths(&tree), ["a.md:1"]);
}

#[test]
fn a_large_file_is_found() {
    let large = "a".repeat((256 << 10) + 1);
    let tree = Tree::of(&[("a.bin", &large), ("b.bin", &large[1..])]);
    assert_eq!(names::blobs(&tree).len(), 1);
}
