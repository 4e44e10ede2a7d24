//! House rules that a program can check. Each rule looks at the tracked files and names what breaks it.

mod dependencies;
pub(crate) mod files;
mod functions;
mod names;
mod source;

#[cfg(test)]
mod tests;

use self::files::Tree;

/// One rule.
pub(crate) struct Rule {
    /// What holds when it is kept.
    pub(crate) name: &'static str,
    /// Places that break it.
    pub(crate) check: fn(&Tree) -> Vec<String>,
}

/// All rules.
pub(crate) const RULES: &[Rule] = &[
    Rule {
        name: "crates depend only on what the table allows",
        check: dependencies::edges,
    },
    Rule {
        name: "each crate inherits the workspace's lints",
        check: dependencies::lints,
    },
    Rule {
        name: "each directory of the workspace is in ARCHITECTURE.md",
        check: dependencies::map,
    },
    Rule {
        name: "each source file begins with what it is",
        check: source::heads,
    },
    Rule {
        name: "no source file has more than 800 lines",
        check: source::lengths,
    },
    Rule {
        name: "no function outgrows a screen, those listed may only shrink",
        check: functions::lengths,
    },
    Rule {
        name: "no unfinished marks",
        check: source::marks,
    },
    Rule {
        name: "only shard/src/runtime names the executor",
        check: source::executor,
    },
    Rule {
        name: "the data plane does blocking file I/O only where it starts",
        check: source::blocking,
    },
    Rule {
        name: "core and iscsi stay free of std",
        check: source::no_std,
    },
    Rule {
        name: "unsafe code only in its few modules",
        check: source::unsafe_code,
    },
    Rule {
        name: "tests wait for conditions, not for time",
        check: source::sleeps,
    },
    Rule {
        name: "file names speak of things, not of plans",
        check: names::plans,
    },
    Rule {
        name: "no path of anybody's machine",
        check: names::machine_paths,
    },
    Rule {
        name: "no file over 256 KiB",
        check: names::blobs,
    },
];
