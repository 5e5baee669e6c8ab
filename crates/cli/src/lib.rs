//! The command line of bonsai: arguments in, one command, an exit code out.
//!
//! Each command is a file with its arguments and one function `run`, which returns the text to print. Nothing else in
//! the project prints, names a device or ends the process. An error is one sentence on stderr; the exit code is 2 if
//! the user can mend it by calling differently ([`error::UserError`]), 1 if something failed, 130 after a signal.

pub mod bench;
pub mod beside;
pub mod compare;
pub mod data;
pub mod dataset;
pub mod device;
pub mod error;
pub mod eval;
pub mod experiments;
pub mod export;
pub mod jobs;
pub mod ledger;
pub mod logging;
pub mod model;
pub mod network;
pub mod new_scheduler;
pub mod plan;
pub mod readme;
pub mod receipt;
pub mod report;
pub mod reproduce;
pub mod runs;
pub mod slurm;
pub mod sweep;
pub mod table;
pub mod tabulate;
pub mod train;

use std::io::Write;
use std::process::ExitCode;

use bonsai_pruning::{Method, register};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

/// Returns the command line, ready to run.
pub fn cli() -> Cli {
    Cli { refused: None }
}

/// The command line and what was added to it.
#[derive(Debug)]
pub struct Cli {
    /// Why a scheduler could not be added.
    refused: Option<String>,
}

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
  bonsai report shapes10-resnet20-granet     Draw it: accuracy, layers, weights, time on one page
  bonsai reproduce granet-cifar --short      Train what stands in for a paper's table, and set it beside the claims
  bonsai sweep experiments/sweeps/x.toml     Train every combination of some values

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
    Report(report::Args),
    Compare(compare::Args),
    Bench(bench::Args),
    NewScheduler(new_scheduler::Args),
    Reproduce(reproduce::Args),
    Table(tabulate::Args),
    Sweep(sweep::Args),
    Export(export::Args),
    Receipt(receipt::Args),
}

impl Cli {
    /// Adds a scheduler of another crate: every command knows it then by its name.
    ///
    /// The whole `main.rs` of a crate that brings the scheduler `MyIdea`:
    ///
    /// ```no_run
    /// # use bonsai_pruning::{About, Clock, Event, Horizon, Method, Scheduler};
    /// # #[derive(serde::Deserialize)]
    /// # struct MyIdea {}
    /// # impl Method for MyIdea {
    /// #     const NAME: &'static str = "my-idea";
    /// #     type Scheduler = MyIdea;
    /// #     fn init(self, _: Horizon) -> Result<Self, String> {
    /// #         Ok(self)
    /// #     }
    /// # }
    /// # impl Scheduler for MyIdea {
    /// #     fn about(&self) -> About {
    /// #         About { name: "my-idea", citation: "an example" }
    /// #     }
    /// #     fn due(&self, _: &Clock) -> Option<Event> {
    /// #         None
    /// #     }
    /// # }
    /// fn main() -> std::process::ExitCode {
    ///     bonsai::cli().scheduler::<MyIdea>().run()
    /// }
    /// ```
    pub fn scheduler<M: Method>(mut self) -> Self {
        if let Err(refused) = register::<M>() {
            self.refused.get_or_insert(refused);
        }
        self
    }

    /// Runs the command that the process was started with.
    pub fn run(self) -> ExitCode {
        if let Some(refused) = self.refused {
            eprintln!("error: {refused}");
            return ExitCode::from(2);
        }
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
            Command::Report(args) => report::run(args).map(Output::from),
            Command::Compare(args) => compare::run(args).map(Output::from),
            Command::Bench(args) => bench::run(args).map(Output::from),
            Command::NewScheduler(args) => new_scheduler::run(args).map(Output::from),
            Command::Reproduce(args) => reproduce::run(args),
            Command::Table(args) => tabulate::run(args).map(Output::from),
            Command::Sweep(args) => sweep::run(args),
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
