//! The command.

use std::env;
use std::process::ExitCode;

use d_common::exit::{Exit, exit_of};
use d_common::report::{Level, Report};
use d_netup::args::TOOL;

fn main() -> ExitCode {
    let argv: Vec<_> = env::args_os().collect();
    // With a command, its own codes must not be mistaken for ours (d-utils(7), EXIT STATUS).
    let runs_a_command = argv.iter().any(|arg| arg == "--");
    let failed = |exit: Exit| ExitCode::from(if runs_a_command { Exit::Enter as u8 } else { exit as u8 });
    let mut report = Report::new("d-netup", Level::Normal);
    let result = match TOOL.parse(argv) {
        Err(outcome) => outcome.end(Exit::Usage).map(|()| 0),
        Ok(args) => {
            report.level = Level::from_flags(args.quiet, args.verbose);
            d_netup::run(args, &report)
        }
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            report.error(&error);
            match exit_of(&error) {
                exit @ (Exit::CannotExecute | Exit::CommandNotFound) => ExitCode::from(exit as u8),
                exit => failed(exit),
            }
        }
    }
}
