//! The `bonsai` command with `one-shot` among its schedulers.

use std::process::ExitCode;

fn main() -> ExitCode {
    bonsai::cli().scheduler::<one_shot::OneShot>().run()
}
