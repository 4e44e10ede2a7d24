//! Functions fit a screen. Those that do not are listed with their length in `ci/ratchet/long-functions.txt`; the list may
//! only shrink: a longer function, a new one, and an entry that is no longer needed all break the rule.

use std::collections::BTreeMap;

use super::files::{File, Tree};

/// Lines of a function at most.
const LINES_MAX: usize = 70;

/// The list: `path::function lines`, one a line.
const LIST: &str = "ci/ratchet/long-functions.txt";

/// Compares the functions with the list.
pub(super) fn lengths(tree: &Tree) -> Vec<String> {
    let mut listed: BTreeMap<&str, usize> = tree
        .text(LIST)
        .unwrap_or("")
        .lines()
        .filter_map(|line| line.rsplit_once(' '))
        .filter_map(|(name, lines)| Some((name, lines.parse().ok()?)))
        .collect();
    let mut broken = Vec::new();
    for file in tree.sources().filter(|file| !file.is_test()) {
        for (name, lines) in functions(file)
            .into_iter()
            .filter(|(_, lines)| *lines > LINES_MAX)
        {
            let name = format!("{}::{name}", file.path);
            match listed.remove(name.as_str()) {
                Some(allowed) if lines <= allowed => {}
                _ => broken.push(format!("{name} has {lines} lines")),
            }
        }
    }
    broken.extend(
        listed
            .keys()
            .map(|name| format!("{name} need not be in {LIST} any more")),
    );
    broken
}

/// Functions of formatted source with their lengths: the closing brace has the indentation of the `fn` line.
fn functions(file: &File) -> Vec<(String, usize)> {
    let lines: Vec<&str> = file.text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else {
            continue;
        };
        let indent = &line[..line.len() - line.trim_start().len()];
        let close = format!("{indent}}}");
        let end = lines[start..]
            .iter()
            .position(|line| *line == close || one_line(line, indent));
        if let Some(end) = end {
            found.push((name.to_owned(), end + 1));
        }
    }
    found
}

/// A whole function on one line, or a declaration without a body.
fn one_line(line: &str, indent: &str) -> bool {
    let own = line
        .strip_prefix(indent)
        .is_some_and(|rest| !rest.starts_with(' '));
    own && (line.ends_with(';') || (line.contains('{') && line.ends_with('}')))
}

fn function_name(line: &str) -> Option<&str> {
    let mut rest = line.trim_start();
    while let Some((word, after)) = rest.split_once(' ') {
        match word {
            "fn" => return after.split(['(', '<']).next(),
            "pub" | "pub(crate)" | "pub(super)" | "const" | "async" | "unsafe" => rest = after,
            _ => return None,
        }
    }
    None
}
