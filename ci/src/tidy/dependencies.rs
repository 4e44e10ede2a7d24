//! Who may depend on whom. The table is the design's; the manifests are compared with it.

use super::files::Tree;

/// One crate: its directory, the crates of ours that it may use, and what it must never use.
struct Row {
    directory: &'static str,
    ours: &'static [&'static str],
    never: &'static [&'static str],
}

/// Runtimes and services that the deciding crates know nothing of.
const WORLD: &[&str] = &[
    "glommio",
    "tokio",
    "tonic",
    "tonic-prost",
    "axum",
    "redb",
    "openraft",
    "serde_json",
    "libc",
    "rustix",
    "socket2",
    "nix",
    "tracing",
];

const TABLE: &[Row] = &[
    Row {
        directory: "core",
        ours: &["core"],
        never: WORLD,
    },
    Row {
        directory: "iscsi",
        ours: &["core"],
        never: WORLD,
    },
    Row {
        directory: "shard",
        ours: &["core", "iscsi"],
        never: &[
            "tokio",
            "tonic",
            "tonic-prost",
            "axum",
            "serde_json",
            "redb",
            "openraft",
        ],
    },
    Row {
        directory: "control",
        ours: &["core"],
        never: &["glommio"],
    },
    Row {
        directory: "csi",
        ours: &["control"],
        never: &["glommio"],
    },
    Row {
        directory: "perf",
        ours: &["core", "iscsi", "shard"],
        never: &["tonic", "axum"],
    },
    Row {
        directory: "ci",
        ours: &[],
        never: &["glommio", "tokio", "tonic", "axum"],
    },
];

/// The manifests keep to the table, and every directory of the workspace has its row.
pub(super) fn edges(tree: &Tree) -> Vec<String> {
    let mut broken = Vec::new();
    for directory in members(tree) {
        if !TABLE.iter().any(|row| row.directory == directory) {
            broken.push(format!("{directory}/ is not in the table of crates"));
        }
    }
    for row in TABLE {
        let path = format!("{}/Cargo.toml", row.directory);
        let Some(manifest) = tree.text(&path) else {
            broken.push(format!("{path} is missing"));
            continue;
        };
        let package = format!("name = \"holdfast-{}\"", row.directory);
        if !manifest.lines().any(|line| line == package) {
            broken.push(format!("{path} does not say {package}"));
        }
        for name in dependencies(manifest) {
            let ours = name.strip_prefix("holdfast-");
            if ours.is_some_and(|ours| !row.ours.contains(&ours)) || row.never.contains(&name) {
                broken.push(format!("{path} must not use {name}"));
            }
        }
    }
    broken
}

/// `[lints] workspace = true` in every manifest.
pub(super) fn lints(tree: &Tree) -> Vec<String> {
    members(tree)
        .into_iter()
        .map(|directory| format!("{directory}/Cargo.toml"))
        .filter(|path| {
            !tree
                .text(path)
                .unwrap_or("")
                .contains("[lints]\nworkspace = true")
        })
        .collect()
}

/// ARCHITECTURE.md names each directory in its code map.
pub(super) fn map(tree: &Tree) -> Vec<String> {
    let text = tree.text("ARCHITECTURE.md").unwrap_or("");
    members(tree)
        .into_iter()
        .filter(|directory| !text.contains(&format!("| `{directory}/` |")))
        .map(|directory| format!("{directory}/ is not in ARCHITECTURE.md"))
        .collect()
}

/// Directories of the workspace, from its manifest.
fn members(tree: &Tree) -> Vec<&str> {
    let manifest = tree.text("Cargo.toml").unwrap_or("");
    let list = manifest
        .split_once("\nmembers = [")
        .and_then(|(_, rest)| rest.split_once(']'))
        .map_or("", |(list, _)| list);
    list.split(',')
        .map(|word| word.trim().trim_matches('"'))
        .filter(|w| !w.is_empty())
        .collect()
}

/// Names in all dependency sections of a manifest.
fn dependencies(manifest: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut inside = false;
    for line in manifest.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            let section = section.trim_end_matches(']');
            inside = section.ends_with("dependencies");
            // [dependencies.NAME] is a section of its own.
            if let Some((head, name)) = section.rsplit_once("dependencies.")
                && (head.is_empty() || head.ends_with(['.', '-']))
            {
                names.push(name);
            }
        } else if inside && !line.starts_with('#') {
            let name = line.split(['.', '=', ' ']).next().unwrap_or("");
            if !name.is_empty() {
                names.push(name);
            }
        }
    }
    names
}
