//! The `bonsai` command with AC/DC among its schedulers.

use std::process::ExitCode;

fn main() -> ExitCode {
    bonsai::cli().scheduler::<bonsai_acdc::AcDc>().run()
}
