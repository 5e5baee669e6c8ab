//! The command line of bonsai: arguments in, one of nine commands, an exit code out.
//!
//! Each command is a file with its arguments and one function `run`, which returns the text to print. Nothing else in
//! the project prints, names a device or ends the process. An error is one sentence on stderr; the exit code is 2 if
//! the user can mend it by calling differently ([`error::UserError`]), 1 if something failed, 130 after a signal.

pub mod bench;
pub mod data;
pub mod dataset;
pub mod device;
pub mod error;
pub mod eval;
pub mod experiments;
pub mod export;
pub mod logging;
pub mod model;
pub mod network;
pub mod plan;
pub mod receipt;
pub mod runs;
pub mod table;
pub mod train;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

/// Returns the command line, ready to run.
pub fn cli() -> Cli {
    Cli {}
}

/// The command line and what was added to it.
#[derive(Debug)]
pub struct Cli {}

/// What a command leaves: a text for stdout and an exit code.
#[derive(Debug, Default)]
pub struct Output {
    /// Printed on stdout.
    pub text: String,
    /// The exit code of the process.
    pub code: u8,
}

impl From<String> for Output {
    fn from(text: String) -> Self {
        Self { text, code: 0 }
    }
}

const EXAMPLES: &str = "\
Examples:
  bonsai train shapes10-resnet20-granet      Train and prune a ResNet-20 on built-in data; needs nothing else
  bonsai plan cifar10-resnet20-granet        Show every mask event before a run is started
  bonsai train cifar10-resnet20-granet       Train on CIFAR-10, fetched if it is not here
  bonsai runs list                           Compare what was trained

An EXPERIMENT is a short TOML file: its name under experiments/, or a path.
Exit codes: 0 done, 1 something failed, 2 the call needs mending, 130 stopped by Ctrl-C, SIGTERM or SIGHUP.";

/// Train networks that get sparse while they are trained.
#[derive(Debug, Parser)]
#[command(name = "bonsai", version, after_help = EXAMPLES, subcommand_required = true, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Train(train::Args),
    Plan(plan::Args),
    Eval(eval::Args),
    Data(data::Args),
    Model(model::Args),
    Runs(runs::Args),
    Bench(bench::Args),
    Export(export::Args),
    Receipt(receipt::Args),
}

impl Cli {
    /// Runs the command that the process was started with.
    pub fn run(self) -> ExitCode {
        // clap prints its own errors and help; its exit code for a wrong call is 2, like ours.
        let arguments = Arguments::from_arg_matches(&Arguments::command().get_matches());
        let Arguments { command } = arguments.unwrap_or_else(|error| error.exit());
        let ended = match command {
            Command::Train(args) => train::run(args),
            Command::Plan(args) => plan::run(args).map(Output::from),
            Command::Eval(args) => eval::run(args).map(Output::from),
            Command::Data(args) => data::run(args).map(Output::from),
            Command::Model(args) => model::run(args).map(Output::from),
            Command::Runs(args) => runs::run(args).map(Output::from),
            Command::Bench(args) => bench::run(args).map(Output::from),
            Command::Export(args) => export::run(args).map(Output::from),
            Command::Receipt(args) => receipt::run(args).map(Output::from),
        };
        match ended {
            Ok(Output { text, code }) => {
                // A reader that has gone, as in `bonsai plan … | head`, is no error.
                let _ = std::io::stdout().lock().write_all(text.as_bytes());
                ExitCode::from(code)
            }
            Err(error) => {
                eprintln!("error: {}", error::sentence(&error));
                ExitCode::from(error::code(&error))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }
}
