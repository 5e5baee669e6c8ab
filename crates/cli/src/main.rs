//! The `bonsai` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    bonsai::cli().run()
}
