//! The files that the rules look at: tracked ones and those that would be, with their text.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::tool;

/// One file.
#[derive(Debug)]
pub(crate) struct File {
    /// Path from the workspace's root, with `/`.
    pub(crate) path: String,
    /// Its text; lossy when it is not UTF-8.
    pub(crate) text: String,
    /// Its length.
    pub(crate) bytes: u64,
}

impl File {
    /// It is Rust source.
    pub(crate) fn is_source(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// It holds tests only.
    pub(crate) fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }

    /// Its lines without comments, numbered from 1. Good enough for formatted source: a `//` inside a string ends the line.
    pub(crate) fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text
            .lines()
            .enumerate()
            .map(|(index, line)| (index + 1, line.split("//").next().unwrap_or("")))
    }
}

/// All files.
#[derive(Debug)]
pub(crate) struct Tree(Vec<File>);

impl Tree {
    /// What git tracks in `root`, and what it would add.
    pub(crate) fn of_workspace(root: &Path) -> Result<Self, String> {
        let mut list = Command::new("git");
        list.current_dir(root)
            .args(["ls-files", "-z", "-co", "--exclude-standard"]);
        let names = tool::run_ok(&mut list, Duration::from_secs(30))?;
        let mut files = Vec::new();
        for path in names.split('\0').filter(|path| !path.is_empty()) {
            // Deleted in the working copy and not yet in the index: nothing to look at.
            let Ok(bytes) = fs::read(root.join(path)) else {
                continue;
            };
            files.push(File {
                path: path.to_owned(),
                bytes: bytes.len() as u64,
                text: String::from_utf8_lossy(&bytes).into_owned(),
            });
        }
        if files.is_empty() {
            return Err(format!("git lists no file in {}", root.display()));
        }
        Ok(Self(files))
    }

    /// A tree of made-up files.
    #[cfg(test)]
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        Self(
            files
                .iter()
                .map(|(path, text)| File {
                    path: (*path).to_owned(),
                    text: (*text).to_owned(),
                    bytes: text.len() as u64,
                })
                .collect(),
        )
    }

    /// All files.
    pub(crate) fn files(&self) -> &[File] {
        &self.0
    }

    /// All Rust files.
    pub(crate) fn sources(&self) -> impl Iterator<Item = &File> {
        self.0.iter().filter(|file| file.is_source())
    }

    /// One file's text.
    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|file| file.path == path)
            .map(|file| file.text.as_str())
    }
}
