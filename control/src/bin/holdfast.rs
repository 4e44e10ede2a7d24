//! `holdfast`: the command line for people and scripts.

use std::process::ExitCode;

fn main() -> ExitCode {
    holdfast_control::cli::main()
}
