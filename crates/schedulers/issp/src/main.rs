//! The `bonsai` command with ISS-P among its schedulers.

use std::process::ExitCode;

fn main() -> ExitCode {
    bonsai::cli().scheduler::<bonsai_issp::IssP>().run()
}
