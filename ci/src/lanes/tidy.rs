//! Lane `tidy`: runs every house rule over the tracked files.

use super::Context;
use crate::report::Report;
use crate::tidy::{RULES, files::Tree};

/// Runs the lane.
pub(crate) fn run(context: &Context, report: &mut Report) {
    let tree = match Tree::of_workspace(&context.root) {
        Ok(tree) => tree,
        Err(why) => return report.check("tracked files", Err(why)),
    };
    for rule in RULES {
        let broken = (rule.check)(&tree);
        let result = if broken.is_empty() {
            Ok(format!("{} files", tree.files().len()))
        } else {
            Err(broken.join("; "))
        };
        report.check(rule.name, result);
    }
}
