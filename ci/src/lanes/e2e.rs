//! Lane `e2e`: what a person and a script rely on, with the real binaries and clients that are not ours.

mod clients;
mod contract;
mod copies;
mod service;

use super::Context;
use crate::report::Report;

/// One thing that must hold: its name and how it is tried.
type Case = (&'static str, fn(&Context) -> Result<String, String>);

/// Runs the lane.
pub(crate) fn run(context: &Context, report: &mut Report) {
    let tools = context.packages(&["libiscsi-bin", "qemu-utils", "qemu-block-extra"]);
    if let Err(why) = tools.and_then(|()| context.build()) {
        return report.check("tools and binaries", Err(why));
    }
    for (name, case) in contract::CASES
        .iter()
        .chain(service::CASES)
        .chain(clients::CASES)
        .chain(copies::CASES)
    {
        report.check(name, case(context));
    }
}

/// `Ok` when `text` contains each of `words`.
fn says(text: &str, words: &[&str]) -> Result<String, String> {
    match words.iter().find(|word| !text.contains(**word)) {
        None => Ok(String::new()),
        Some(word) => Err(format!("'{word}' is not in: {text}")),
    }
}

/// `Ok` when `holds`, else the sentence.
fn must(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}
