//! `cargo up` and `cargo ci`: starts a single-node Holdfast, and shows that the whole project keeps its promises.
//!
//! It runs built binaries and reads source text; it links no product crate, so nothing it checks can be hidden by sharing
//! code with what is checked. Blocking sockets and threads are enough here.
#![expect(clippy::print_stdout, reason = "a command line talks to its user")]

mod history;
mod initiator;
mod lanes;
mod oracle;
mod packages;
mod report;
mod server;
mod size;
mod sys;
mod tidy;
mod tool;
mod up;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The two commands behind the cargo aliases.
#[derive(Debug, Parser)]
#[command(name = "cargo", bin_name = "cargo", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a control process and a volume server on this machine and keep them running
    Up(up::options::Options),
    /// Run the lanes of continuous integration (all of them by default)
    Ci(lanes::Options),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Up(options) => up::run(options),
        Command::Ci(options) => lanes::run(options),
    };
    match result {
        Ok(code) => code,
        Err(sentence) => {
            eprintln!("error: {sentence}");
            ExitCode::FAILURE
        }
    }
}
